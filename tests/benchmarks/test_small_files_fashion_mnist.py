import json
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark(load_script):
    return load_script("benchmarks/small_files_fashion_mnist.py")


def run(accuracy, zipped):
    return {"accuracy": accuracy, "bytes": 60_000, "zipped_bytes": zipped, "sparsity": 0.5}


def test_the_table_says_which_targets_are_reached(benchmark):
    teacher = {"accuracy": 0.95, "bytes": 6_000_000, "zipped_bytes": 5_500_000}
    results = {
        "demo": {0: run(0.94, 40_000), 1: run(0.9396, 39_000)},
        "0.82": {0: run(0.941, 39_000)},
        "0.86": {0: run(0.931, 15_000)},
    }
    rows = [line.split("|") for line in benchmark.table(teacher, results).splitlines()[3:]]
    cells = [[cell.strip() for cell in row[1:-1]] for row in rows]
    assert cells[0][0].startswith("Prune → QuantizeAware")
    assert cells[0][1:4] == ["50", "2", "93.98 ± 0.03"]
    assert cells[0][4:8] == ["1.02 ± 0.03", "60.0", "39.5", "152"]
    assert cells[0][8] == "1/150 missed by 0.02 points"
    assert cells[1][-1] == "1/150 reached"
    assert cells[2][0] == "Prune → Cluster → QuantizeAware"
    assert cells[2][-1] == "1/400 reached"


def test_what_is_done_is_not_done_again(benchmark, tmp_path):
    path = tmp_path / "new" / "result.json"
    assert benchmark.once(path, lambda: {"bytes": 1}) == {"bytes": 1}
    assert benchmark.once(path, lambda: pytest.fail("made again")) == {"bytes": 1}


def test_the_guide_quotes_the_kept_results(benchmark):
    kept = json.loads((ROOT / "exports/reference/small_files_fashion_mnist.json").read_text())
    guide = (ROOT / "docs/measured/chains.md").read_text()
    assert benchmark.table(kept["teacher"], kept["results"]) in guide
    assert set(kept["results"]) == set(benchmark.CHAINS)
