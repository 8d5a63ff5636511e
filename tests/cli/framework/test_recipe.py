import pytest

from keras_kd.cli.commands import COMMANDS
from keras_kd.cli.framework.recipe import read_recipe, recipe_text, settings_of, tables_of

DISTILL = COMMANDS["distill"]
GIVEN = {"teacher": "big.keras", "student": "small.keras", "data": "pictures"}


def read(tmp_path, text):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return read_recipe(str(path), COMMANDS.values())


def test_settings_go_to_a_recipe_and_back(tmp_path):
    given = {**GIVEN, "loss": ["dkd", "rkd:0.02"], "scale": 255.0, "cache_teacher": True}
    settings = settings_of(DISTILL, {}, given)
    tables = read(tmp_path, recipe_text(tables_of(DISTILL, settings)))
    assert settings_of(DISTILL, tables, {}) == settings
    assert tables["data"]["data"] == "pictures"
    assert tables["teaching"]["loss"] == ["dkd", "rkd:0.02"]
    assert tables["distill"]["epochs"] == 10


def test_what_is_given_goes_before_the_recipe(tmp_path):
    tables = read(tmp_path, "[data]\ndata = 'a'\n[distill]\nepochs = 3\nlearning_rate = 1\n")
    settings = settings_of(DISTILL, tables, {**GIVEN, "epochs": 4})
    assert settings["epochs"] == 4
    assert settings["data"] == "pictures"
    assert settings["learning_rate"] == 1.0
    assert settings["batch_size"] == 32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[distil]\n", r"there is no table \[distil\]. Did you mean 'distill'\?"),
        (
            "[distill]\nepoch = 3\n",
            r"\[distill\]: there is no key `epoch`. Did you mean 'epochs'\?",
        ),
        ("[distill]\nscale = 3.0\n", r"`scale` belongs to the table \[data\]"),
        ("[distill]\nout = 'a'\n", "`out` belongs to the top of the file"),
        ("epochs = 3\n", r"`epochs` belongs to the table \[distill\]"),
        ("[distill]\nepochs = 3.5\n", "`epochs` must be a whole number. Received: 3.5"),
        ("[distill]\nepochs = true\n", "`epochs` must be a whole number"),
        ("[distill]\nepochs = 0\n", "`epochs` must be a number of at least 1"),
        ("[teaching]\nloss = 'dkd'\n", "`loss` must be a list of texts. Received: 'dkd'"),
        ("[teaching]\ncache_teacher = 1\n", "`cache_teacher` must be true or false"),
        ("[compress]\nsize_of = 'int3'\n", "`size_of` must be one of float32, .*int8"),
        ("[run]\n", r"no table \[run\]"),
    ],
)
def test_what_a_recipe_must_not_hold(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)


def test_what_must_be_given_is_named():
    with pytest.raises(ValueError, match=r"`keras-kd distill` needs --student: .*\[distill\]"):
        settings_of(DISTILL, {}, {"teacher": "a", "data": "b"})
    with pytest.raises(ValueError, match=r"needs FILE: .*`files` in \[measure\]"):
        settings_of(COMMANDS["measure"], {}, {"data": "b"})
    with pytest.raises(ValueError, match="--epochs: `epochs` must be a number of at least 1"):
        settings_of(DISTILL, {}, {**GIVEN, "epochs": 0})
