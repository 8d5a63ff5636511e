import pytest

import keras_kd as kd
from keras_kd.report.compare_files import files_table
from keras_kd.report.markdown import cell, code, escaped

EVIL = "<script>alert(1)</script>&<img src=x onerror=alert(1)> ![a](http://a) `b` | \x1b[31m\n# c"


@pytest.mark.parametrize("write", [escaped, cell])
def test_nothing_is_markup(write):
    text = write(EVIL)
    assert not {"<", "\n", "\x1b"} & set(text)
    assert "&lt;script" in text and r"!\[a\](" in text and r"\`b\`" in text and "&amp;&lt;" in text
    assert r"\|" in cell(EVIL)


def test_code_cannot_end_its_block():
    assert "```" not in code("a\n```\n<script>") and "\n" not in code("a\nb")


def test_no_name_is_markup_in_a_card(tmp_path, result):
    result = {**result, "title": EVIL, "dataset": EVIL, "notes": [EVIL]}
    for model in result["models"]:
        model.update(title=EVIL, description=EVIL)
    path = kd.report.model_card(result, tmp_path / "card.md")
    text = path.read_text(encoding="utf-8")
    assert not [tag for tag in ("<script", "<img", "\x1b", "![a]") if tag in text]
    assert "\x1b" not in kd.report.format_table(result)


def test_no_title_is_markup_in_a_table():
    file = {"values": [0.5], "bytes": 1, "zipped_bytes": 1, "latency_ms": 1.0}
    table = files_table({"metric": "accuracy", "files": {EVIL: file, "b": file}})
    assert "<script" not in table and len(table.splitlines()) == 4
