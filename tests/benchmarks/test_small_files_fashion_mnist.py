import json
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark(load_script):
    return load_script("benchmarks/small_files_fashion_mnist.py")


def run(test, size, zipped):
    return {"validation": 0.95, "test": test, "bytes": size, "zipped_bytes": zipped}


def test_the_table_says_which_goals_are_met(benchmark):
    teacher = {"validation": 0.96, "test": 0.95, "bytes": 6_000_000, "zipped_bytes": 5_500_000}
    students = {
        "16/2": {"0": run(0.946, 39_900, 35_000), "1": run(0.944, 40_000, 35_000)},
        "14/2": {"0": run(0.9392, 30_000, 26_000)},
        "12/1": {"0": run(0.936, 17_000, 15_000)},
        "20/2": {"0": run(0.949, 40_001, 35_000)},
    }
    lines = benchmark.table_of({"teacher": teacher, "students": students}).splitlines()[3:]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert rows[0][:6] == ["16/2", "2", "40,000", "35,000", "150", "171"]
    assert rows[0][6:] == ["95.00 ± 0.00", "94.50 ± 0.14", "0.50 ± 0.14", "1/150"]
    assert [row[-1] for row in rows[1:]] == ["none", "1/400 zipped", "none"]


def test_students_are_built_by_their_names(benchmark):
    assert benchmark.student_of("16-24-32/1-2-1").count_params() == 42_426
    assert all(benchmark.student_of(name).built for name in benchmark.STUDENTS)


def test_what_is_done_is_not_done_again(benchmark, tmp_path):
    path = tmp_path / "new" / "result.json"
    assert benchmark.once(path, lambda: {"bytes": 1}) == {"bytes": 1}
    assert benchmark.once(path, lambda: pytest.fail("made again")) == {"bytes": 1}


def test_the_page_quotes_the_kept_results(benchmark):
    kept = json.loads((ROOT / "exports/reference/small_files_fashion_mnist.json").read_text())
    page = (ROOT / "docs/measured/chains.md").read_text()
    assert benchmark.table_of(kept) in page
