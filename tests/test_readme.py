"""The README's own code runs."""

import json
import pathlib
import re

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_python_blocks_run_in_order(tmp_path, monkeypatch):
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.S | re.M)
    assert len(blocks) >= 5
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": "readme"}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"README.md, block {number}", "exec"), namespace)
    assert (tmp_path / "exports/student.tflite").exists()
    assert namespace["result"].accuracy > 0.8
    assert namespace["result"].agreement > 0.9


def test_measured_table_is_the_reference_runs():
    from keras_kd.report import format_table

    block = re.search(
        r"^<!-- measured: (\S+) -->\n.*?^```text\n(.*?)^```", README.read_text(), re.S | re.M
    )
    assert block is not None
    result = json.loads((README.parent / block[1]).read_text())
    assert block[2].strip() == format_table(result).strip()
    assert result["command"] in README.read_text()


def test_commands_exist():
    from keras_kd.cli.parser import make_parser

    text = README.read_text()
    commands = re.findall(r"^keras-kd (.*?)(?:\s+#.*)?$", text, re.M)
    assert len(commands) >= 2
    for command in commands:
        make_parser().parse_args(command.split())
    makefile = (README.parent / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", text, re.M):
        assert f"\n{target}:" in makefile
