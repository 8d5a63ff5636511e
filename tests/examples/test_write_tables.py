import json
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def write_tables(load_script):
    return load_script("examples/write_tables.py")


def test_the_pages_quote_what_was_kept(write_tables):
    for page in write_tables.PAGES.glob("*.md"):
        assert write_tables.with_tables(page) == page.read_text(), "run examples/write_tables.py"


def test_the_overview_takes_the_smallest_int8_file(write_tables, tmp_path):
    sizes = {"teacher": 1000, "student": 5, "large, int8": 101, "small, int8": 10}
    record = {
        "metric": "rmse",
        "files": {
            title: {"values": [0.25], "bytes": 2 * size, "zipped_bytes": size, "latency_ms": 1.0}
            for title, size in sizes.items()
        },
    }
    (tmp_path / "one_example_rmse.json").write_text(json.dumps(record))
    assert write_tables.overview(tmp_path).splitlines()[2:] == [
        "| [one example](one_example.md) | rmse | 0.2500 | small, int8 | 0.2500 | +0 | 1/100 |"
    ]
