import os
import pathlib
import signal
import subprocess
import sys

import pytest

from keras_kd.system.folder_lock import held_folder

HOLD = """
import sys, time
from keras_kd.system.folder_lock import held_folder
with held_folder(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def held_elsewhere(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.promise
def test_a_folder_is_held_by_one_process_until_it_is_killed(tmp_path):
    other = held_elsewhere(tmp_path)
    try:
        with pytest.raises(OSError, match=f"{other.pid} on .*'{tmp_path}'"), held_folder(tmp_path):
            pass
    finally:
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
    assert (tmp_path / ".lock").exists()  # what the dead process left
    with held_folder(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_another_call_of_the_same_process_is_kept_out(tmp_path):
    with held_folder(tmp_path):
        with pytest.raises(OSError, match="at work in"), held_folder(tmp_path):
            pass
        assert (tmp_path / ".lock").exists()
    with pytest.raises(ValueError, match="inside"), held_folder(tmp_path):
        raise ValueError("inside")
    with held_folder(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()


def test_a_link_in_place_of_the_lock_leads_nowhere(tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / ".lock").symlink_to(mine)
    with pytest.raises(ValueError, match="lock"), held_folder(folder):
        pass
    assert mine.read_text() == "mine"


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    pathlib.Path(tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"'.*file' is a file"), held_folder(tmp_path / "file"):
        pass
