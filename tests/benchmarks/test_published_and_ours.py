"""The page of published and own gains: its tables are those of the kept results."""

import pathlib
import re

import pytest

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "measured" / "published_and_ours.md"


@pytest.fixture
def script(load_script):
    return load_script("benchmarks/published_and_ours.py")


def test_the_page_holds_the_tables_of_the_kept_results(script):
    found = re.findall(
        r"<!-- measured: exports/reference/(\S+) -->\n\n(.*?)\n\n<!-- /measured -->",
        PAGE.read_text(),
        re.S,
    )
    assert dict(found) == script.tables()


def test_the_interval_is_that_of_students_t(script):
    mean, half = script.interval([1.0, 2.0, 3.0])
    assert mean == 2.0 and half == pytest.approx(2.4841, abs=1e-3)
    assert script.interval([1.0]) == (1.0, None)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ((0.5, 0.4), "yes"),
        ((-0.5, 0.4), "a loss"),
        ((0.4, 0.5), "none found"),
        ((9.0, None), "none found"),
    ],
)
def test_a_gain_is_one_where_the_interval_leaves_out_zero(script, found, expected):
    assert script.verdict(found) == expected


def test_gains_are_paired_by_seed(script):
    runs = {"0": {"accuracy": 0.9}, "1": {"accuracy": 0.8}, "2": {"accuracy": 0.1}}
    others = {"0": {"accuracy": 0.8}, "1": {"accuracy": 0.7}}
    mean, half = script.gain(runs, others)
    assert mean == pytest.approx(10.0) and half == pytest.approx(0.0, abs=1e-9)
