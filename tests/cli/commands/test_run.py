import json

import pytest

RECIPE = """
out = "runs/whole"
[data]
data = "train.npz"
scale = 255
batch_size = 16
[teaching]
teacher = "big.keras"
[distill]
student = "small.keras"
epochs = 2
learning_rate = 0.02
[export]
quantization = ["float32"]
[measure]
max_bytes = {limit}
[report]
title = "Animals"
"""


def write(work, text):
    (work / "recipe.toml").write_text(text)


@pytest.mark.slow
def test_a_whole_run(keras_kd_json, keras_kd, work):
    write(work, RECIPE.format(limit=100_000))
    code, result = keras_kd_json("run", "recipe.toml")
    assert code == 0
    assert list(result) == ["distill", "export", "measure", "report"]
    assert result["export"]["model"] == "runs/whole/distill/student.keras"
    (file,) = result["export"]["files"]
    assert file["file"] == "runs/whole/export/student_float32.tflite"
    measured = {entry["file"]: entry for entry in result["measure"]["files"]}
    assert list(measured) == [file["file"], result["export"]["model"], "big.keras"]
    assert measured[file["file"]]["samples"] == 10  # what was held out
    assert measured[file["file"]]["agreement"] == 1.0
    page = (work / "runs/whole/report/report.html").read_text()
    assert "Animals" in page
    assert "student_float32.tflite" in page
    # Each folder's recipe repeats its part; what is done is not done again.
    code, out, _ = keras_kd("run", "recipe.toml")
    assert code == 0
    assert out.count("is done already") == 4
    code, again = keras_kd_json(
        "run", "runs/whole/measure/recipe.toml", "--out", "runs/measured_again"
    )
    assert code == 0
    assert [entry["accuracy"] for entry in again["files"]] == [
        entry["accuracy"] for entry in result["measure"]["files"]
    ]


def test_a_budget_that_is_not_kept_is_the_exit_code(keras_kd_json, work, distilled):
    write(
        work,
        f"out = 'runs/a'\n[data]\ndata = 'test.npz'\n"
        f"[export]\nmodel = '{distilled}/student.keras'\nquantization = ['float32']\n"
        "[measure]\nmax_bytes = 10\npart = 'all'\n",
    )
    code, result = keras_kd_json("run", "recipe.toml")
    assert code == 3
    (sentences,) = result["measure"]["not_kept"].values()
    assert "over max_bytes=10" in sentences[0]
    assert result["measure"]["files"][0]["samples"] == 30


def test_options_go_before_a_recipe(keras_kd, work):
    write(work, RECIPE.format(limit=1))
    code, _, err = keras_kd("distill", "--recipe", "recipe.toml", "--student", "absent.keras")
    assert code == 1
    assert "There is no file 'absent.keras'" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("out = 'a'\n", "names no command: add a table such as [distill]"),
        ("[distill]\nepoch = 1\n", "Did you mean 'epochs'?"),
        ("[distill]\n", "`keras-kd distill` needs --student"),
        ("[compress]\nstages = ['prune']\n", "`keras-kd compress` needs --student"),
        (RECIPE.format(limit=1).replace("big.keras", "absent"), "There is no file 'absent'"),
    ],
)
def test_what_is_refused_before_anything_runs(keras_kd, work, text, message):
    write(work, text)
    code, _, err = keras_kd("run", "recipe.toml")
    assert code == 1
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not list(work.glob("runs/**/result.json"))


def test_later_commands_are_checked_first(keras_kd, work):
    # Nothing gives what `measure` is to measure, which is said before `distill` trains.
    text = RECIPE.format(limit=1).replace('[export]\nquantization = ["float32"]\n', "")
    write(work, text)
    code, _, err = keras_kd("run", "recipe.toml")
    assert code == 1
    assert "`keras-kd measure` needs FILE" in err
    assert not (work / "runs/whole/distill/result.json").exists()


def test_results_are_json(keras_kd_json, work):
    code, result = keras_kd_json("run", "absent.toml")
    assert code == 1
    assert json.dumps(result) == '{"error": "There is no recipe \'absent.toml\'."}'
