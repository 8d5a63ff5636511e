import importlib.util
import json
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def write_tables():
    path = ROOT / "examples/write_tables.py"
    spec = importlib.util.spec_from_file_location("write_tables", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_quote_what_was_kept(write_tables):
    for page in write_tables.PAGES.glob("*.md"):
        assert write_tables.with_tables(page) == page.read_text(), "run examples/write_tables.py"


@pytest.mark.parametrize(("metric", "nearest"), [("accuracy", "a, int8"), ("rmse", "b, int8")])
def test_the_overview_takes_the_nearest_int8_file_of_a_tenth(
    write_tables, tmp_path, metric, nearest
):
    files = {
        "teacher": (0.9, 1000),
        "a": (0.95, 90),
        "large, int8": (0.99, 101),
        "a, int8": (0.8, 100),
        "b, int8": (0.7, 10),
    }
    record = {
        "metric": metric,
        "files": {
            title: {"values": [value], "bytes": size, "zipped_bytes": size, "latency_ms": 1.0}
            for title, (value, size) in files.items()
        },
    }
    (tmp_path / f"one_example_{metric}.json").write_text(json.dumps(record))
    row = write_tables.overview(tmp_path).splitlines()[2]
    assert row.startswith(f"| [one example](one_example.md) | {metric} |")
    assert f"| {nearest} |" in row
    assert row.endswith(f"| {'1/10' if nearest == 'a, int8' else '1/100'} |")
