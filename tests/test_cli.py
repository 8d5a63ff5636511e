import subprocess
import sys

import pytest

from keras_kd import __version__
from keras_kd.cli import main


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"]])
def test_help(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    assert "demo" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["demo", "--dataset", "imagenet"], ["unknown"]])
def test_wrong_words_end_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


def test_an_error_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["demo", "--out", str(tmp_path / "file" / "run")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("keras-kd: Cannot write")
    assert len(error.strip().splitlines()) == 1


def test_demo_options_reach_the_run(monkeypatch, capsys):
    import keras_kd.demo.run

    received = {}

    def run_demo(dataset, out, **options):
        received.update(options, dataset=dataset, out=out)
        options["say"]("a line")

    monkeypatch.setattr(keras_kd.demo.run, "run_demo", run_demo)
    assert main(["demo", "--seeds", "3", "--verbose"]) == 0
    assert received["dataset"] == "digits"
    assert received["out"] == "exports/digits"
    assert received["seeds"] == 3
    assert received["verbose"] == 2
    assert "a line" in capsys.readouterr().out


def test_interrupt_says_how_to_go_on(monkeypatch, capsys):
    import keras_kd.demo.run

    def run_demo(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(keras_kd.demo.run, "run_demo", run_demo)
    assert main(["demo"]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_module_runs_quietly():
    done = subprocess.run(
        [sys.executable, "-m", "keras_kd", "--version"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stdout.strip() == f"keras-kd {__version__}"
    assert done.stderr == ""
