import subprocess
import sys

import pytest

from keras_kd.system.own_process import run_script


def test_a_script_gets_arguments_and_what_can_be_imported_here(tmp_path, monkeypatch):
    library = tmp_path / "library"
    library.mkdir()
    (library / "found_here.py").write_text("VALUE = 7\n")
    (tmp_path / "json.py").write_text("raise ImportError('shadowed')\n")
    script = tmp_path / "script.py"
    script.write_text("import json, sys, found_here\nprint(sys.argv[1:], found_here.VALUE)\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(library)])
    done = run_script(str(script), "a b", "c", seconds=60)
    assert (done.returncode, done.stdout.strip()) == (0, "['a b', 'c'] 7"), done.stderr


def test_a_process_that_dies_is_told_by_its_code(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    assert run_script(str(script), seconds=60).returncode == -9


def test_a_process_without_end_is_ended(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("while True: pass\n")
    with pytest.raises(subprocess.TimeoutExpired):
        run_script(str(script), seconds=1)
