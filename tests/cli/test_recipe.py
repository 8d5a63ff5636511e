import pytest

from keras_kd.cli.commands import COMMANDS
from keras_kd.cli.recipe import read_recipe, recipe_text, tables_of

DISTILL = COMMANDS["distill"]
GIVEN = {"teacher": "big.keras", "student": "small.keras", "data": "pictures"}


def read(tmp_path, text):
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return read_recipe(str(path), COMMANDS.values())


def test_settings_go_to_a_recipe_and_back(tmp_path):
    given = {**GIVEN, "loss": ["dkd", "rkd:0.02"], "scale": 127.5, "cache_teacher": True}
    given |= {"student": 'a "b" \\ c\n\td ü\x7f', "learning_rate": 1e-07}
    settings = DISTILL.settings_of({}, given)
    text = recipe_text(tables_of(DISTILL, settings))
    assert text.startswith("# Written by keras-kd")
    tables = read(tmp_path, text)
    assert DISTILL.settings_of(tables) == settings
    assert tables["data"]["data"] == "pictures"
    assert tables["teaching"]["loss"] == ["dkd", "rkd:0.02"]
    assert tables["distill"]["epochs"] == 10


def test_what_is_given_goes_before_the_recipe(tmp_path):
    tables = read(tmp_path, "[data]\ndata = 'a'\n[distill]\nepochs = 3\nlearning_rate = 1\n")
    settings = DISTILL.settings_of(tables, {**GIVEN, "epochs": 4})
    assert settings["epochs"] == 4
    assert settings["data"] == "pictures"
    assert settings["learning_rate"] == 1.0
    assert settings["batch_size"] == 32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = \n", "recipe.toml' is not a TOML file: .*line 1"),
        ("[distil]\n", r"there is no table \[distil\]. Did you mean 'distill'\?"),
        (
            "[distill]\nepoch = 3\n",
            r"\[distill\]: there is no key `epoch`. Did you mean 'epochs'\?",
        ),
        ("[distill]\nscale = 3.0\n", r"`scale` belongs to the table \[data\]"),
        ("[distill]\nout = 'a'\n", "`out` belongs to the top of the file"),
        ("epochs = 3\n", r"`epochs` belongs to .*the table \[distill\]"),
        ("[distill]\nepochs = 3.5\n", "`epochs` must be a whole number. Received: 3.5"),
        ("[distill]\nepochs = true\n", "`epochs` must be a whole number"),
        ("[distill]\nepochs = 0\n", "`epochs` must be a number of at least 1"),
        ("[teaching]\nloss = 'dkd'\n", "`loss` must be a list of texts. Received: 'dkd'"),
        ("[teaching]\nloss = ['dkd', 1]\n", "`loss` must be a list of texts"),
        ("[teaching]\nteacher = ['dkd']\n", "`teacher` must be a text in quotes"),
        ("[teaching]\ncache_teacher = 1\n", "`cache_teacher` must be true or false"),
        ("[teaching]\ntemperature = nan\n", "`temperature` must be a finite number"),
        ("[compress]\nsize_of = 'int3'\n", "`size_of`: 'int3' is not one of 'float32', .*'int8'"),
        ("[export]\nquantization = ['int9']\n", r"\[export\]: `quantization`: .*'int8'"),
        ("[run]\n", r"no table \[run\]"),
    ],
)
def test_what_a_recipe_must_not_hold(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)


def test_what_must_be_given_is_named():
    with pytest.raises(ValueError, match=r"`keras-kd distill` needs --student: .*\[distill\]"):
        DISTILL.settings_of({}, {"teacher": "a", "data": "b"})
    with pytest.raises(ValueError, match=r"needs FILE: .*`files` in \[measure\]"):
        COMMANDS["measure"].settings_of({}, {"data": "b"})
    with pytest.raises(ValueError, match="'--epochs': `epochs` must be a number of at least 1"):
        DISTILL.settings_of({}, {**GIVEN, "epochs": 0})


def test_an_absent_recipe_is_named():
    with pytest.raises(FileNotFoundError, match=r"no recipe 'absent.toml'"):
        read_recipe("absent.toml", COMMANDS.values())
