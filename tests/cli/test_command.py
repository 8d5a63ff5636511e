import click
import pytest


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


def test_options_of_numbers_name_themselves(parse_command):
    for words in (["--epochs", "0"], ["--temperature", "nan"], ["--validation-split", "-1"]):
        with pytest.raises(ValueError, match=f"^{words[0]}: "):
            parse_command("distill", *words)
