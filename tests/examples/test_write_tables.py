import json
import pathlib

import pytest

from keras_kd.system.text_table import MEASURED

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def write_tables(load_script):
    return load_script("examples/write_tables.py")


def test_the_pages_quote_what_was_kept(write_tables):
    for page in write_tables.PAGES.glob("*.md"):
        assert write_tables.with_tables(page) == page.read_text(), "run examples/write_tables.py"


def test_every_example_has_a_page_and_every_kept_run_a_table(write_tables):
    examples = {
        path.stem
        for path in (ROOT / "examples").glob("*.py")
        if path.read_text().startswith("# %%")
    }
    pages = {page.stem: page.read_text() for page in write_tables.PAGES.glob("*.md")}
    assert examples <= set(pages)
    for name in examples:
        assert f"examples/{name}.py" in pages[name]
        assert "<!-- measured: exports/reference/examples/" in pages[name]
    kept = {path.name for path in (ROOT / "exports/reference/examples").glob("*.json")}
    quoted = {
        pathlib.Path(match[2]).name for page in pages.values() for match in MEASURED.finditer(page)
    }
    assert kept == quoted - {"examples"}


def test_the_overview_has_the_int8_files_of_taught_students(write_tables, tmp_path):
    sizes = {
        "teacher": 1000,
        "teacher, int8": 250,
        "student alone, int8": 10,
        "distilled": 50,
        "distilled, int8": 20,
        "distilled, pruned, int8": 10,
    }
    record = {
        "metric": "rmse",
        "files": {
            title: {"values": [size], "bytes": size, "zipped_bytes": size, "latency_ms": 1.0}
            for title, size in sizes.items()
        },
    }
    (tmp_path / "one_example_rmse.json").write_text(json.dumps(record))
    start = "| [one example](one_example.md) | rmse | 1000."
    assert write_tables.overview(tmp_path).splitlines()[2:] == [
        f"{start} | distilled, int8 | 20.00 | −980 | 1/50 |",
        f"{start} | distilled, pruned, int8 | 10.00 | −990 | 1/100 |",
    ]
