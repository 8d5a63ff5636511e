"""Small students for IMDB: what they read, their table and its page."""

import json
import pathlib

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark(load_script):
    return load_script("benchmarks/imdb_students.py")


def files(bytes_, test):
    row = {"bytes": bytes_, "held_out": test + 1.0, "test": test}
    return {"dynamic": row, "int8": row, "seconds": 1}


def test_table_has_a_row_for_each_form_with_the_spread_of_the_seeds(benchmark):
    students = {
        "convolutions_taught_0": files(1000, 88.0),
        "convolutions_alone_0": files(1000, 86.0),
        "convolutions_taught_1": files(1002, 89.0),
    }
    measured = {"teacher": {"held_out": 91.0, "test": 90.0}, "students": students}
    rows = benchmark.table_of(measured).splitlines()
    assert len(rows) == 7
    assert rows[2] == "| teacher |  |  | 91.00 | 90.00 |  | 1 |"
    assert rows[4] == (
        "| convolutions, taught | int8 | 1,002 | 89.50 ± 0.71 | 88.50 ± 0.71 | -1.50 | 2 |"
    )
    assert rows[6] == "| convolutions, alone | int8 | 1,000 | 87.00 | 86.00 | -4.00 | 1 |"


def test_a_student_reads_the_first_and_the_last_word_pieces(benchmark):
    tokens = np.array([[7, 1, 2, 3, 4, 8], [7, 5, 8, 0, 0, 0]])
    found = benchmark.last_pieces(tokens, 4)
    assert found.tolist() == [[7, 3, 4, 8], [7, 5, 8, 0]]


def test_the_page_quotes_the_kept_results(benchmark):
    kept = json.loads((ROOT / "exports/reference/imdb_students.json").read_text())
    page = (ROOT / "docs/measured/imdb.md").read_text()

    def mean(kind):
        seeds = [found for name, found in kept["students"].items() if name.startswith(kind)]
        assert len(seeds) == 3
        return np.mean([found["int8"]["test"] for found in seeds])

    teacher, sentence = kept["teacher"]["test"], " ".join(page.split())
    lost = {kind: teacher - mean(f"{kind}_taught") for kind in ("transformer", "convolutions")}
    gain = {kind: teacher - lost[kind] - mean(f"{kind}_alone") for kind in lost}
    assert f"taught transformer is {lost['transformer']:.1f} points below its teacher" in sentence
    assert f"taught convolutions are {lost['convolutions']:.1f} points below it" in sentence
    assert (
        f"worth {gain['transformer']:.1f} points to the transformer and "
        f"{gain['convolutions']:.1f} points to the convolutions"
    ) in sentence
