import json
import sys
import warnings

import pytest

import keras_kd.demo.run
from keras_kd import __version__
from keras_kd.cli import main
from keras_kd.cli.console import Outcome


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["demo", "--dataset", "imagenet"],
        ["unknown"],
        ["distill", "--epochs", "a"],
        ["distill", "--epoch", "3"],
        ["distill", "--epochs", "0"],
        ["distill", "--loss"],
        ["distill", "--teacher", "absent.keras"],
        ["compress", "--prune", "2"],
        ["export", "absent.keras", "--quantization", "int9"],
        ["measure", "absent.tflite", "--max-drop", "1"],
    ],
)
def test_wrong_words_end_with_2(arguments, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Usage: keras-kd")


def test_wrong_values_are_told_in_json_too(capsys):
    assert main(["distill", "--student", "shrink:1.5", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert "--student" in error and "shrink:" in error and "1.5" in error


def test_an_error_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["demo", "--out", str(tmp_path / "file" / "run")]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("keras-kd: Cannot write")
    assert len(captured.err.strip().splitlines()) == 1
    assert captured.out == ""


@pytest.fixture
def fails(monkeypatch):
    """Make `demo` raise what is put into the list."""
    errors = []

    def run_demo(*args, say, **kwargs):
        say("a line of progress")
        print("printed by a library")
        if errors:
            raise errors[0]
        return {"accuracy": float("nan")}

    monkeypatch.setattr(keras_kd.demo.run, "run_demo", run_demo)
    return errors


def test_whatever_goes_wrong_is_one_line(fails, capsys):
    fails.append(RuntimeError("two\nlines"))
    assert main(["demo", "--quiet"]) == 1
    error = capsys.readouterr().err
    assert error == "keras-kd: RuntimeError: two lines (--debug shows where)\n"
    assert main(["demo", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_interrupt_says_how_to_go_on(fails, capsys):
    fails.append(KeyboardInterrupt())
    assert main(["demo"]) == 130
    assert "rerun the command" in capsys.readouterr().err


def test_json_is_alone_on_stdout(fails, capfd, tmp_path):
    assert main(["demo", "--json", "--out", str(tmp_path)]) == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out) == {"accuracy": None}
    assert "a line of progress" in captured.err
    assert "printed by a library" in captured.err
    fails.append(ValueError("wrong"))
    assert main(["demo", "--json", "--out", str(tmp_path)]) == 1
    captured = capfd.readouterr()
    assert json.loads(captured.out) == {"error": "wrong"}
    assert captured.err.endswith("keras-kd: wrong\n")


def test_quiet_leaves_progress_out(fails, capsys, tmp_path):
    assert main(["demo", "--quiet", "--out", str(tmp_path)]) == 0
    assert "progress" not in capsys.readouterr().out


def test_warnings_are_one_line(monkeypatch, capsys, tmp_path):
    def run_demo(*args, **kwargs):
        warnings.warn("take\ncare", stacklevel=1)

    monkeypatch.setattr(keras_kd.demo.run, "run_demo", run_demo)
    before = warnings.showwarning
    assert main(["demo", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().err == "keras-kd: warning: take care\n"
    assert warnings.showwarning is before


def test_demo_options_reach_the_run(monkeypatch, capsys, tmp_path):
    received = {}

    def run_demo(dataset, out, **options):
        received.update(options, dataset=dataset, out=out)
        options["say"]("a line")

    monkeypatch.setattr(keras_kd.demo.run, "run_demo", run_demo)
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--seeds", "3", "--first-seed", "6", "--verbose"]) == 0
    assert received["dataset"] == "digits"
    assert received["out"] == "exports/digits"
    assert received["seeds"] == 3
    assert received["first_seed"] == 6
    assert received["verbose"] == 2
    assert "a line" in capsys.readouterr().out
    text = (tmp_path / "exports/digits/recipe.toml").read_text()
    assert 'dataset = "digits"' in text
    assert main(["run", "exports/digits/recipe.toml", "--out", "again"]) == 0
    assert received["seeds"] == 3
    assert received["out"] == "again"


def test_exit_code_is_that_of_the_outcome(monkeypatch):
    import keras_kd.cli.commands.demo

    demo = keras_kd.cli.commands.demo.COMMAND
    monkeypatch.setattr(demo, "callback", lambda *args: Outcome({}, "", 3))
    assert main(["demo"]) == 3
    assert "keras_kd.cli.commands.demo" in sys.modules
