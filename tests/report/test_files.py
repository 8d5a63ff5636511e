from __future__ import annotations

import copy
import html.parser
import json
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from keras_kd.report import (
    complete_result,
    format_table,
    merge,
    model_card,
    read_report,
    write_report,
)

ROOT = pathlib.Path(__file__).parents[2]
_VOID = {"meta", "br", "hr", "img", "input", "link"}


class _Page(html.parser.HTMLParser):
    """What a page asks for, says and how its tags are nested."""

    def __init__(self, text):
        super().__init__()
        self.resources, self.cells, self.tags, self.open, self.wrong = [], [], [], [], []
        self.attributes = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        self.resources += [value for name, value in attrs if name in ("src", "srcset", "data")]
        if tag != "a":  # a link is followed by a reader, not fetched by the page
            self.resources += [value for name, value in attrs if name == "href"]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open[-1] != tag:
            self.wrong.append((tag, self.open[-3:], self.getpos()))
        else:
            self.open.pop()

    def handle_data(self, data):
        self.cells.append(data.strip().replace("\xa0", " "))


def test_both_files(result, tmp_path):
    page, numbers = write_report(result, tmp_path / "new" / "folder")
    assert page == tmp_path / "new" / "folder" / "report.html"
    assert numbers == tmp_path / "new" / "folder" / "report.json"
    assert json.loads(numbers.read_text(encoding="utf-8")) == complete_result(result)
    assert sorted(path.name for path in page.parent.iterdir()) == ["report.html", "report.json"]


def test_the_page_asks_for_nothing_else(result, tmp_path):
    text = write_report(result, tmp_path)[0].read_text(encoding="utf-8")
    page = _Page(text)
    assert all(resource.startswith("#") for resource in page.resources)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert "@import" not in text and "url(http" not in text
    assert page.tags.count("svg") == 8  # three fronts, three trainings, two reliabilities
    assert 'name="viewport"' in text
    assert not re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?\s*(?:https?:)?//", text)


def test_the_page_is_whole_html(result, tmp_path):
    text = write_report(result, tmp_path)[0].read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>\n<html lang=")
    page = _Page(text)
    assert page.wrong == [] and page.open == []
    ids = [attributes["id"] for _, attributes in page.attributes if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_page_can_be_heard(result, tmp_path):
    page = _Page(write_report(result, tmp_path)[0].read_text(encoding="utf-8"))
    for tag, attributes in page.attributes:
        if tag == "svg":
            assert attributes["role"] == "img" and attributes["aria-label"]
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
        if attributes.get("role") == "region":
            assert attributes["aria-label"] and attributes["tabindex"] == "0"
    assert page.tags.count("table") == page.tags.count("caption") >= 8


def test_on_a_narrow_page_every_figure_has_its_name(result, tmp_path):
    text = write_report(result, tmp_path)[0].read_text(encoding="utf-8")
    stacked = re.findall(r'<table class="wide stack">(.*?)</table>', text, re.DOTALL)
    assert len(stacked) >= 4
    for table in stacked:
        cells = re.findall(r"<td[^>]*>", table.split("<tbody>")[1])
        assert cells and all("data-label=" in cell for cell in cells)


def test_the_stages_are_a_diagram_from_teacher_to_file(result, tmp_path):
    text = write_report(result, tmp_path)[0].read_text(encoding="utf-8")
    (flow,) = re.findall(r'<ol class="flow">(.*?)</ol>', text, re.DOTALL)
    names = re.findall(r"<strong>(.*?)</strong>", flow)
    assert names[:2] == ["Teacher", "Student"] and names[-1] == "File"
    (model,) = [model for model in result["models"] if model.get("stages")]
    assert len(names) == len(model["stages"]) + 2


def _contrast(first, second):
    def luminance(color):
        color = color if len(color) == 6 else "".join(2 * digit for digit in color)
        parts = [int(color[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_in_light_and_dark(result, tmp_path):
    text = write_report(result, tmp_path)[0].read_text(encoding="utf-8")
    schemes = [
        dict(re.findall(r"--(\w+):#(\w+)", part)) for part in re.findall(r":root{(.*?)}", text)
    ]
    assert len(schemes) == 2
    for scheme in schemes:
        for name in ("ink", "muted"):
            assert _contrast(scheme[name], scheme["paper"]) >= 4.5
        for name in ("series0", "series1", "series2", "series3"):
            assert _contrast(scheme[name], scheme["paper"]) >= 3


def test_the_page_shows_the_numbers(result, tmp_path):
    page = _Page(write_report(result, tmp_path)[0].read_text(encoding="utf-8"))
    for shown in ("93.30 ± 0.10 %", "50.0 kB", "1/100", "−0.70", "0.310 (0.372)", "99.3 %"):
        assert shown in page.cells
    assert complete_result(result)["headline"][0] in page.cells
    assert result["command"] in page.cells
    assert "Made up for a test." in page.cells and "DEPTHWISE_CONV_2D" in page.cells


def test_a_small_result(result, tmp_path):
    del result["notes"]
    result["models"] = [result["models"][3]]
    result["seeds"] = [0]
    page, _ = write_report(result, tmp_path)
    assert "<svg" not in page.read_text(encoding="utf-8")


def test_paths_are_told_from_the_folder(result, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports" / "a.tflite").write_bytes(b"file")
    result["models"][0]["file"]["path"] = "exports/a.tflite"
    result["models"][1]["file"]["path"] = str(tmp_path / "exports" / "a.tflite")
    _, numbers = write_report(result, "exports/page")
    models = json.loads(numbers.read_text())["models"]
    assert [model["file"]["path"] for model in models[:3]] == [
        "../a.tflite",
        "../a.tflite",
        "distilled.tflite",
    ]


def test_a_page_with_all_parts_is_small(result, tmp_path):
    assert write_report(result, tmp_path)[0].stat().st_size < 250_000


def test_layers_classes_and_stages_are_shown(result, tmp_path):
    cells = _Page(write_report(result, tmp_path)[0].read_text(encoding="utf-8")).cells
    for shown in ("block5_Conv2D", "6,600", "50.0 %", "pruned; quantization-aware", "26,900"):
        assert shown in cells
    silent = ", ".join(f"block{i}_ReLU" for i in range(6))
    assert f"Without weights: {silent}." in cells
    assert "prune" in cells and "accuracy 0.9250" in cells and "12.5" in cells
    assert "ECE 7.00 %" in cells and "shirt" in cells


def test_text_of_the_result_is_escaped(result, tmp_path):
    result["title"] = "<script>alert(1)</script>"
    result["models"][1]["title"] = "a<b>"
    text = write_report(result, tmp_path)[0].read_text(encoding="utf-8")
    assert "<script>" not in text and "a<b>" not in text and "a&lt;b&gt;" in text


def test_the_same_result_gives_the_same_bytes(result, tmp_path):
    first = [path.read_bytes() for path in write_report(result, tmp_path / "a")]
    second = [path.read_bytes() for path in write_report(result, tmp_path / "b")]
    assert first == second


def test_a_path_that_cannot_be_written(result, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        write_report(result, tmp_path / "file" / "folder")


@pytest.mark.promise
def test_killed_while_writing_leaves_no_half_file(result, tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(result))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.html").write_text("the page of before")
    code = """
import json, os, pathlib, signal, sys
from keras_kd.report import write_report

def write_half(self, text, encoding=None):
    with open(self, "w", encoding=encoding) as stream:
        stream.write(text[: len(text) // 2])
        stream.flush()
        os.kill(os.getpid(), signal.SIGKILL)

pathlib.Path.write_text = write_half
folder = pathlib.Path(sys.argv[1])
write_report(json.loads((folder / "result.json").read_text()), folder / "out")
"""
    process = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "out" / "report.html").read_text() == "the page of before"
    assert not (tmp_path / "out" / "report.json").exists()
    write_report(result, tmp_path / "out")  # what was left behind is not in the way


def test_what_was_written_is_read(result, tmp_path):
    write_report(result, tmp_path)
    assert read_report(tmp_path) == complete_result(result)
    assert read_report(tmp_path / "report.json") == complete_result(result)


def test_paths_relative_to_another_folder(result, tmp_path):
    write_report(result, tmp_path / "a")
    read = read_report(tmp_path / "a", relative_to=tmp_path / "both")
    assert read["models"][0]["file"]["path"] == "../a/teacher.tflite"
    assert read["models"][3]["file"] is None


def changed(result, folder, **entries):
    _, path = write_report(result, folder)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **entries}))
    return path


OLD_NAMES = {
    "latency_ms": "latency_ms_median",
    "latency_p90_ms": "latency_ms_p90",
    "latency_p99_ms": "latency_ms_p99",
    "latency_without_xnnpack_ms": "latency_ms_without_xnnpack",
    "model_accuracy": "keras_accuracy",
    "nonzero_parameters": "nonzero",
}


def with_names(entry, names):
    return {names.get(key, key): value for key, value in entry.items()}


def test_a_report_of_version_2_is_read(result, tmp_path):
    result["models"][4]["file"] |= {"latency_p99_ms": 0.5, "latency_without_xnnpack_ms": 0.7}
    result["models"][4]["seeds"]["0"]["model_accuracy"] = 0.94
    _, path = write_report(result, tmp_path)
    content = json.loads(path.read_text())
    for model in content["models"]:
        if model["file"]:
            model["file"] = with_names(model["file"], OLD_NAMES)
        model["seeds"] = {k: with_names(v, OLD_NAMES) for k, v in model["seeds"].items()}
        model["stages"] = [with_names(stage, OLD_NAMES) for stage in model["stages"]]
        model["ratio_to_teacher"]["latency"] = model["ratio_to_teacher"].pop("latency_ms")
    content["pareto_fronts"]["latency"] = content["pareto_fronts"].pop("latency_ms")
    old = {**content, "schema_version": 2}
    path.write_text(json.dumps(old))
    assert "latency_ms_without_xnnpack" in path.read_text() and '"latency_ms"' not in str(old)
    assert read_report(path) == complete_result(result)
    assert format_table(old) == format_table(result)
    card = model_card(old, tmp_path / "old.md").read_text()
    assert card == model_card(result, tmp_path / "new.md").read_text()


def test_a_version_2_file_with_a_wrong_value_is_still_named(result):
    result["models"][0]["file"]["latency_ms_median"] = "quick"
    del result["models"][0]["file"]["latency_ms"]
    with pytest.raises(ValueError, match=r"\['latency_ms'\] is str, expected a number"):
        complete_result(result)


def test_an_older_form_names_the_command(result, tmp_path):
    path = changed(result, tmp_path, schema_version=1)
    with pytest.raises(ValueError) as error:
        read_report(path)
    assert "is of schema version 1, and this version of keras_kd reads 2 and 3" in str(error.value)
    assert result["command"] in str(error.value)


def test_a_newer_form_asks_for_a_newer_version(result, tmp_path):
    path = changed(result, tmp_path, schema_version=4)
    with pytest.raises(ValueError, match="Use a newer version of keras_kd"):
        read_report(path)


def test_a_damaged_report_is_named(result, tmp_path):
    path = changed(result, tmp_path, seeds="none")
    with pytest.raises(ValueError, match=r"report.json' is damaged. .*'seeds'\] is str"):
        read_report(path)


def test_half_a_file_and_other_json(tmp_path):
    (tmp_path / "report.json").write_text('{"title": "half')
    with pytest.raises(ValueError, match="it is not whole JSON"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text("[1]")
    with pytest.raises(ValueError, match="not a report of keras_kd"):
        read_report(tmp_path)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no report '.*report\.json'"):
        read_report(tmp_path)


@pytest.fixture
def other(result):
    other = copy.deepcopy(result)
    other["title"], other["command"], other["seeds"] = "Another recipe", "python other.py", [0, 7]
    other["versions"]["keras"] = "3.16.0"
    other["models"] = [other["models"][0], other["models"][4]]
    other["models"][1]["file"]["bytes"] = 40_000
    return other


def test_models_of_both_beside_one_teacher(result, other):
    merged = merge([result, other])
    assert [model["key"] for model in merged["models"]] == [
        "teacher", "student_alone", "distilled", "pruned", "int8", "int8_2",
    ]  # fmt: skip
    added = merged["models"][-1]
    assert added["title"] == "Pruned and int8 (Another recipe)" and added["run"] == 1
    assert added["ratio_to_teacher"]["bytes"] == pytest.approx(40_000 / 5_000_000)
    assert merged["pareto_fronts"]["bytes"] == ["int8_2", "teacher"]
    assert [run["command"] for run in merged["runs"]] == [result["command"], "python other.py"]
    assert merged["seeds"] == [0, 1, 2, 7]
    assert merged["versions"]["keras"] == "3.15.1 / 3.16.0"


def test_models_without_a_file_that_are_equally_accurate_are_two(result, other):
    small = {**copy.deepcopy(result["models"][3]), "file": None, "accuracy_of": "keras model"}
    result["models"], other["models"] = [small], [copy.deepcopy(small)]
    assert len(merge([result, other])["models"]) == 1
    for change in ({"title": "Another"}, {"parameters": 7}):
        other["models"] = [{**small, **change}]
        assert len(merge([result, other])["models"]) == 2


def test_the_page_tells_both_runs(result, other, tmp_path):
    text = write_report(merge([result, other], title="Both"), tmp_path)[0].read_text()
    assert "python other.py" in text and result["command"] in text and "<h1>Both</h1>" in text


def test_other_machines_are_told(result, other):
    other["environment"] = {"cores": 64}
    assert "latencies cannot be compared" in merge([result, other])["notes"][-1]
    assert not any("latencies" in note for note in merge([result])["notes"])


def test_merged_results_can_be_merged_again(result, other):
    third = copy.deepcopy(other)
    third["title"] = "Third"
    third["models"][1]["file"]["bytes"] = 30_000
    merged = merge([merge([result, other]), third])
    assert len(merged["runs"]) == 3
    assert [model["run"] for model in merged["models"]][-2:] == [1, 2]
    assert merged["models"][-1]["key"] == "int8_3"


def test_one_result_stays_as_it_was(result):
    merged = merge([result])
    full = complete_result(result)
    assert merged["command"] == full["command"] and merged["headline"] == full["headline"]


def test_other_data_is_refused(result, other):
    other["dataset"] = "cifar10"
    with pytest.raises(ValueError, match=r"different datasets .* of 'cifar10'"):
        merge([result, other])
    other["dataset"], other["classes"] = result["dataset"], ["a", "b", "c"]
    with pytest.raises(ValueError, match="different classes"):
        merge([result, other])


def test_other_numbers_of_samples_are_told_or_refused(result, other):
    for whole, samples in ((result, 10_000), (other, 50)):
        for model in whole["models"]:
            model["samples"] = samples
    assert any("50 and 10,000 samples" in note for note in merge([result, other])["notes"])
    result["dataset"] = other["dataset"] = ""
    result["models"][-1]["samples"] = 9_000
    assert merge([result])["notes"] == result["notes"]  # a run of its own
    result["models"][-1]["samples"] = 10_000
    with pytest.raises(ValueError, match=r"different numbers of samples.*\[50, 10000\]"):
        merge([result, other])


def test_nothing_to_merge():
    with pytest.raises(ValueError, match="no results to merge"):
        merge([])


def test_every_setting_has_its_value(result, tmp_path):
    result["recipe"] = {
        "distill": {"student": "shrink:0.5", "epochs": 20, "stages": ["prune", "int8"]},
        "widths": [[32, 64], [1, 1]],
        "rate": 0.003,
    }
    cells = _Page(write_report(result, tmp_path)[0].read_text(encoding="utf-8")).cells
    card = model_card(result, tmp_path / "card.md").read_text()
    inner = "student = shrink:0.5; epochs = 20; stages = prune, int8"
    for name, shown in (("distill", inner), ("widths", "[32, 64], [1, 1]"), ("rate", "0.003")):
        assert name in cells and shown in cells
    assert f"  - distill: {inner}\n" in card and "  - rate = 0.003\n" in card
    assert "  - widths = \\[32, 64\\], \\[1, 1\\]\n" in card


@pytest.mark.parametrize(
    ("titles", "paths", "shown"),
    [
        (["a.tflite"] * 2, ["m/a.tflite", "n/a.tflite"], ["m/a.tflite", "n/a.tflite"]),
        (["A"] * 2, ["m/a.tflite", "m/b.tflite"], ["A (a.tflite)", "A (b.tflite)"]),
        (["A"] * 2, ["x/m/a", "y/m/a"], ["A (x/m/a)", "A (y/m/a)"]),
        (["A"] * 2, ["m/a", None], ["A (a)", "A (2)"]),
        (["A"] * 2, [None, None], ["A (1)", "A (2)"]),
        (["A"] * 2, ["m/a", "m/a"], ["A (1)", "A (2)"]),
        (["A", "B"], ["m/a", "m/a"], ["A", "B"]),
    ],
)
def test_models_with_the_same_title_are_distinguished(result, titles, paths, shown):
    for i, (title, path) in enumerate(zip(titles, paths, strict=True)):
        model = result["models"][i] = {**result["models"][i], "key": f"k{i}", "title": title}
        if path is None:
            model |= {"file": None, "accuracy_of": "keras model"}
        else:
            model["file"] = {**model["file"], "path": path}
    result["models"] = result["models"][:2]
    merged = merge([result])
    assert [model["title"] for model in merged["models"]] == shown
    assert merge([merged])["models"] == merged["models"]
    assert [line.split("  ")[0] for line in format_table(merged).splitlines()[2:]] == shown


def test_parts_of_the_data_are_merged_or_noted(result, other):
    result["part"] = other["part"] = "test"
    assert merge([result, other])["part"] == "test"
    del other["part"]
    assert "part" not in merge([result, other])
    other["part"] = "validation"
    merged = merge([result, other])
    assert "part" not in merged and "(test, validation)" in merged["notes"][-1]


def test_layers_are_those_of_a_named_model(result, tmp_path):
    layers = result["models"][4]["layers"]
    for owners in (["Pruned"], ["Pruned", "Pruned and int8"]):
        for model in result["models"]:
            model["layers"] = layers if model["title"] in owners else []
        text = write_report(result, tmp_path)[0].read_text(encoding="utf-8")
        section = text.split("<h2>Layers")[1].split("<h2>")[0]
        assert (" of Pruned</h2>" in section) == (len(owners) == 1)
        summaries = re.findall("<summary>(.*?)</summary>", section)
        letters = {"Pruned": "D", "Pruned and int8": "E"}
        for owner, summary in zip(owners, summaries, strict=True):
            assert owner in summary and f">{letters[owner]}</b>" in summary
