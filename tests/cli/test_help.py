import subprocess
import sys

import pytest

from keras_kd.cli import main
from keras_kd.cli.commands import COMMANDS
from keras_kd.cli.recipe import flag_of


def test_help_needs_no_tensorflow():
    code = (
        "import sys; sys.argv = ['/usr/bin/keras-kd', '--help']\n"
        "from keras_kd.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'tensorflow', 'keras', 'numpy', 'jinja2'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)


def test_module_is_the_command_too():
    code = "import runpy, sys; runpy.run_module('keras_kd', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-m", "keras_kd", "--version"], capture_output=True, text=True
    )
    assert done.returncode == 0, code
    assert done.stdout.startswith("keras-kd ")
    assert done.stderr == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert f"keras-kd {name}" in text.split("example:")[1]
    assert "exit codes" in text
    for option in COMMANDS[name].settings:
        assert flag_of(option) in text
    assert max(map(len, text.splitlines())) <= 102


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_can_be_parsed(name, parse_command):
    text = COMMANDS[name].example.replace("\\\n", " ").replace(" ... ", " ")
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    lines = [line for line in lines if line.startswith("keras-kd")]
    assert lines
    for line in lines:
        assert parse_command(*(word.strip("'") for word in line.split()[1:]))
