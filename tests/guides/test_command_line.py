"""The commands of the guide to the command line run, in their order."""

import json
import pathlib
import re
import shlex

import pytest

from keras_kd.cli import main

GUIDE = pathlib.Path(__file__).parents[2] / "docs" / "guides" / "command_line.md"


@pytest.mark.slow
def test_commands(run_guide, tmp_path, capsys):
    run_guide("command_line.md")
    text = GUIDE.read_text()
    (recipe,) = re.findall(r"^```toml\n(.*?)^```", text, re.S | re.M)
    (tmp_path / "recipe.toml").write_text(recipe)
    commands = [
        line
        for block in re.findall(r"^```bash\n(.*?)^```", text, re.S | re.M)
        for line in block.splitlines()
    ]
    assert len(commands) == 8
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "keras-kd"
        assert main([*words, "--quiet"]) == 0, (command, capsys.readouterr().err)
    kept = json.loads((tmp_path / "runs/measure/result.json").read_text())["result"]
    assert kept["files"][0]["accuracy"] > 0.5
    assert kept["files"][0]["agreement"] > 0.9
    first = (tmp_path / "runs/export/student_int8.tflite").read_bytes()
    assert (tmp_path / "runs/exported_again/student_int8.tflite").read_bytes() == first
    assert (tmp_path / "runs/whole/report/report.html").is_file()
