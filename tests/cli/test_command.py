import click
import pytest

from keras_kd.cli.command import Checked, Number
from keras_kd.cli.commands import COMMANDS
from keras_kd.cli.recipe import flag_of

# Names of files, folders and datasets; texts for people.
FREE = {
    "calibration_data", "class_names", "data", "files", "model", "out", "recipe",
    "results", "student", "teacher", "test_data", "title", "validation_data",
}  # fmt: skip


def test_several_values_stand_behind_one_option(parse_command):
    words = ["distill", "--teacher", "t", "--loss", "kl_divergence", "rkd:0.02", "--epochs", "3"]
    assert parse_command(*words)["loss"] == ["kl_divergence", "rkd:0.02"]
    assert parse_command(*words, "--loss", "dkd")["loss"] == ["kl_divergence", "rkd:0.02", "dkd"]
    assert parse_command("distill", "--loss=dkd", "--loss=dist(beta=2.0)")["loss"] == [
        "dkd",
        "dist(beta=2.0)",
    ]
    assert parse_command(*words)["epochs"] == 3
    assert parse_command(*words)["hint"] == []


def test_files_stand_before_or_behind_options(parse_command):
    files = ["a.tflite", "b.tflite"]
    assert parse_command("measure", *files, "--data", "d")["files"] == files
    assert parse_command("measure", "--data", "d", *files)["files"] == files
    assert parse_command("measure", "--data", "d", "--", "-a.tflite")["files"] == ["-a.tflite"]


def test_a_negative_number_is_a_value(parse_command):
    assert parse_command("distill", "--offset", "-1")["offset"] == -1.0
    assert parse_command("distill", "--offset", "-.5")["offset"] == -0.5


def test_switches_have_two_forms(parse_command):
    assert parse_command("distill")["cache_teacher"] is False
    assert parse_command("distill", "--cache-teacher")["cache_teacher"] is True
    assert parse_command("distill", "--no-cache-teacher")["cache_teacher"] is False


@pytest.mark.parametrize(
    "words",
    [
        ["--epoch", "3"],
        ["--epochs"],
        ["--epochs", "--quiet"],
        ["--epochs", "3.5"],
        ["--out", "--quiet"],
        ["--loss", "--hint", "a:b"],
        ["--seed", "1", "2"],
    ],
)
def test_wrong_usage(parse_command, words):
    with pytest.raises(click.UsageError) as caught:
        parse_command("distill", *words)
    assert caught.value.exit_code == 2


def test_a_recipe_gives_what_is_not_given(parse_command, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("[data]\nscale = 255\n[teaching]\nloss = ['dkd']\n[distill]\nepochs = 7\n")
    words = ["--teacher", "t", "--student", "s", "--data", "d", "--epochs", "2"]
    settings = parse_command("distill", *words, "--recipe", str(path))
    assert settings["epochs"] == 2
    assert settings["scale"] == 255.0
    assert settings["loss"] == ["dkd"]
    assert settings["batch_size"] == 32


@pytest.mark.parametrize("name", COMMANDS)
def test_a_value_that_an_option_does_not_take_is_wrong_usage(parse_command, name):
    for param in COMMANDS[name].settings:
        if isinstance(param.type, (click.Choice, Checked)):
            wrong = ["shrink:1.5" if param.name == "student" else "?"]
        elif isinstance(param.type, Number):
            wrong = ["nan" if param.type.kind is float else "1.5", "x"]
            bounds = param.type.bounds
            wrong += ["-1"] if {"least", "above"} & set(bounds) else []
            wrong += [str(bounds[key] + 1) for key in ("most", "below") if key in bounds]
            wrong += ["0"] if param.type.nonzero else []
        else:
            assert getattr(param, "is_flag", False) or param.name in FREE, param.name
            continue
        for value in wrong:
            with pytest.raises(click.BadParameter) as caught:
                parse_command(name, flag_of(param), value)
            assert caught.value.exit_code == 2
            assert f"'{flag_of(param)}'" in caught.value.format_message()


@pytest.mark.parametrize("name", ["check", "compress"])
def test_a_stage_that_is_refused_is_named_as_it_was_given(parse_command, name):
    for words in (["--prune", "1.5"], ["--cluster", "many"], ["--quantize-aware", "-1"]):
        with pytest.raises(click.BadParameter) as caught:
            parse_command(name, *words)
        assert f"'{words[0]}'" in caught.value.format_message()
