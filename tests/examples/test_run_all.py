import pytest


@pytest.fixture
def run_all(tmp_path, monkeypatch, load_script):
    module = load_script("examples/run_all.py")
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    for name, body in {
        "good": "import sys\nprint('noise')\nprint('| file | accuracy |', sys.argv[1:])",
        "absent": "raise ConnectionError('no network')",
        "hub": "raise ModuleNotFoundError(\"No module named 'keras_hub'\")",
        "bad": "raise ValueError('broken')",
    }.items():
        (tmp_path / f"{name}.py").write_text(f"# %%\n{body}\n")
    (tmp_path / "tool.py").write_text("raise SystemExit('not an example')\n")
    return module


def test_tables_are_printed_and_failures_counted(run_all, capsys):
    assert run_all.main(["--quick"]) == 1
    printed, errors = capsys.readouterr()
    assert "| file | accuracy | ['--quick']" in printed and "noise" not in printed
    assert "not run, what it needs is absent: ConnectionError: no network" in printed
    assert "ValueError: broken" in printed
    assert errors.strip().endswith("\nFailed: bad")


def test_what_is_absent_is_no_failure(run_all, capsys):
    assert run_all.main(["good", "absent", "hub"]) == 0
    assert "absent: ModuleNotFoundError: No module named 'keras_hub'" in capsys.readouterr().out


def test_unknown_names_are_refused(run_all, capsys):
    with pytest.raises(SystemExit):
        run_all.main(["missing"])
    assert "there is no example 'missing'" in capsys.readouterr().err
