from __future__ import annotations

import html.parser
import json
import pathlib
import signal
import subprocess
import sys

import pytest

from keras_kd.report import complete_result, write_report

ROOT = pathlib.Path(__file__).parents[2]


class _Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.resources, self.cells, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.resources += [value for name, value in attrs if name in ("src", "srcset", "data")]
        if tag != "a":  # a link is followed by a reader, not fetched by the page
            self.resources += [value for name, value in attrs if name == "href"]

    def handle_data(self, data):
        self.cells.append(data.strip())


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
    assert page.tags.count("svg") == 5
    assert 'name="viewport"' in text


def test_the_page_shows_the_numbers(result, tmp_path):
    page = _Page(write_report(result, tmp_path)[0].read_text(encoding="utf-8"))
    for shown in ("93.30 ± 0.10 %", "50.0 kB", "1/100", "−0.70", "0.310 (0.372)", "99.3 %"):
        assert shown in page.cells
    assert complete_result(result)["headline"][0] in page.cells
    assert result["command"] in page.cells
    assert "Made up for a test." in page.cells and "DEPTHWISE_CONV_2D" in page.cells


def test_a_small_result(result, tmp_path):
    for key in ("curves", "layers", "notes", "layers_of"):
        del result[key]
    result["models"] = [result["models"][3]]
    result["seeds"] = [0]
    page, _ = write_report(result, tmp_path)
    assert "<svg" not in page.read_text(encoding="utf-8")


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
