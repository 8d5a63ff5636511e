"""The README's program runs, and its tables are those of the kept runs."""

import json
import pathlib
import re
import statistics

import pytest

README = pathlib.Path(__file__).parents[1] / "README.md"


@pytest.mark.promise
def test_the_program_runs(tmp_path, monkeypatch):
    (program,) = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.S | re.M)
    assert len(program.splitlines()) <= 35
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "readme"}
    exec(compile(program, "README.md", "exec"), names)
    assert (tmp_path / "exports/student.tflite").exists()
    assert names["result"].accuracy > 0.8
    assert names["result"].agreement > 0.9
    assert [layer.bits for layer in names["compressed"].layers if layer.sparsity] == [8, 8, 8]


def cells(table):
    """Return the cells of a table, aligned by spaces or in Markdown."""
    lines = [line.strip("| ") for line in table.strip().splitlines()]
    rows = [re.split(r" *\| *|  +", line) for line in lines]
    return [row for row in rows if not set("".join(row)) <= set("-:")]


def test_measured_tables_are_the_reference_runs():
    from keras_kd.report import format_table

    text = README.read_text()
    blocks = re.findall(
        r"^<!-- measured: ([^\n]+) -->\n+(?:```text\n)?(.*?)(?:```)?\n+<!-- /measured",
        text,
        re.S | re.M,
    )
    sources = [[pathlib.Path(name).name for name in names.split(", ")] for names, _ in blocks]
    assert sources == [
        ["demo.json"],
        ["quantize_resnet8.json", "cifar10_students.json", "mlperf_tiny.json"],
    ]
    name, table = blocks[0]
    result = json.loads((README.parent / name).read_text())
    assert cells(table) == cells(format_table(result))
    assert len(cells(table)) == 1 + len(result["models"])
    assert result["command"] in " ".join(text.split())


def test_the_table_of_cifar10_is_that_of_the_kept_runs(load_script):
    kept, text = README.parent / "exports/reference", README.read_text()
    resnet8 = json.loads((kept / "quantize_resnet8.json").read_text())
    files = [entry for entry in resnet8 if entry["file"] in ("int8, percentile", "int4, taught")]
    students = json.loads((kept / "cifar10_students.json").read_text())
    files_of = load_script("benchmarks/cifar10_students.py").files_of
    of_seeds = [files_of(students, kind) for kind in ("alone", "taught")]
    (table,) = re.findall(r"quantize_resnet8.json[^\n]* -->\n+(.*?)\n+<!-- /measured", text, re.S)
    published, *rows = (row[2:] for row in cells(table)[1:])
    assert published == ["98,496", "86.97", "–"]
    assert rows == [
        [f"{file['bytes']:,}", f"{file['test']:.2f}", f"{file['test'] - 86.97:+.2f}"]
        for file in files
    ] + [
        [
            f"{max(file['bytes'] for file in files):,}",
            load_script("benchmarks/kept_results.py").spread([file["test"] for file in files]),
            f"{statistics.mean(file['test'] for file in files) - 86.97:+.2f}",
        ]
        for files in of_seeds
    ]
    ways = [entry for entry in resnet8 if entry["file"].startswith("int8")]
    assert max(ways, key=lambda entry: entry["held_out"])["file"] == "int8, percentile"
    forms = json.loads((kept / "mlperf_tiny.json").read_text())["MLPerf Tiny: ResNet8"]
    accuracy = {entry["form"]: f"{100 * entry['accuracy']:.2f} %" for entry in forms}
    assert f"float ResNet8 has {accuracy['float32']}" in text
    assert f"a plain `kd.export_tflite` gives {accuracy['int8']}" in " ".join(text.split())


def test_commands_exist(parse_command):
    text = README.read_text()
    commands = re.findall(r"^keras-kd (.*?)(?:\s+#.*)?$", text, re.M)
    assert len(commands) >= 2
    for command in commands:
        parse_command(*command.split())
    makefile = (README.parent / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", text, re.M):
        assert f"\n{target}:" in makefile


def test_links_lead_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)", README.read_text())
    assert len(links) > 20
    assert [link for link in links if not (README.parent / link).exists()] == []


def test_the_gain_over_nine_seeds():
    runs = json.loads((README.parent / "exports/reference/demo_seeds.json").read_text())
    gains = [
        100 * (taught - alone)
        for run in runs
        for taught, alone in zip(
            *(run["accuracy"][key] for key in ("distilled", "student_alone")), strict=True
        )
    ]
    assert len(gains) == 9
    said = f"{min(gains):.0f} to {max(gains):.0f} points"
    for page in ("README.md", "docs/measured/demo.md"):
        text = " ".join((README.parent / page).read_text().split())
        assert said in text and f"{sum(gains) / 9:.1f} on average" in text
