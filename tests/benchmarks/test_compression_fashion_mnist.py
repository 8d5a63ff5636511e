"""The table of compression, tiny, on digits."""

import json
import pathlib
import types

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark(load_script):
    return load_script("benchmarks/compression_fashion_mnist.py")


COMMAND = ["--dataset", "digits", "--examples", "128", "--epochs", "1", "--student-epochs", "1"]
COMMAND += ["--teacher-examples", "128", "--teacher-epochs", "1", "--seeds", "1"]


def run(accuracy, zipped=10_000):
    return {"accuracy": accuracy, "bytes": 20_000, "zipped_bytes": zipped, "latency_ms": 0.25}


def test_table_is_of_means_deviations_and_paired_differences(benchmark):
    results = {
        "": {"float32": {0: run(0.80), 1: run(0.84)}, "int8": {0: run(0.80), 1: run(0.82)}},
        "PQ": {
            "taught": {0: run(0.85), 1: run(0.87)},
            "labels": {0: run(0.84), 1: run(0.85)},
            "by_hand": {0: run(0.83), 1: run(0.84, 12_000)},
        },
        "S": {"taught": {0: run(0.7)}, "labels": {0: run(0.72)}},
    }
    teacher = {**run(0.9, 900_000), "bytes": 1_000_000}
    _, _, first, *rows = benchmark.table(results, teacher).splitlines()
    assert first == "| teacher | float32 | 90.00 | | | | 1000.0 | 900.0 | | | 0.250 |"
    assert rows == [
        "| student | float32 | 82.00 ± 2.83 |  |  |  | 20.0 | 10.0 |  | 100 | 0.250 |",
        "| student, int8 after training | int8 | 81.00 ± 1.41 |  |  |  | 20.0 | 10.0 |  | 100 "
        "| 0.250 |",
        "| Prune → QuantizeAware | int8 | 86.00 ± 1.41 | 84.50 ± 0.71 | +1.50 ± 0.71 "
        "| 83.50 ± 0.71 | 20.0 | 10.0 | 11.0 | 100 | 0.250 |",
        "| Shrink | float32 | 70.00 | 72.00 | -2.00 |  | 20.0 | 10.0 |  | 100 | 0.250 |",
    ]


@pytest.mark.slow
def test_goes_on_where_it_stopped_and_refuses_other_settings(benchmark, tmp_path, monkeypatch):
    measured = []

    def measure(self, model, name, quantization):
        measured.append((name, quantization))
        return run(0.5)

    monkeypatch.setattr(benchmark.Benchmark, "measure", measure)
    monkeypatch.setattr(
        benchmark.kd,
        "benchmark_tflite_files",
        lambda paths, rounds: {str(path): types.SimpleNamespace(latency_ms=0.25) for path in paths},
    )
    monkeypatch.setattr(benchmark.Benchmark, "by_hand", lambda self, seed, chain: None)
    command = [*COMMAND, "--out", str(tmp_path), "--chains"]
    benchmark.main([*command, "P"])
    chains = ["P.taught.seed0", "P.labels.seed0", "P.by_hand.seed0"]
    expected = [(name, "float32") for name in ("student.float32.seed0", *chains, "teacher")]
    assert [entry for entry in measured if entry[1] == "float32"] == expected
    assert ("student.int8.seed0", "int8") in measured
    content = json.loads((tmp_path / "results.json").read_text())
    assert set(content["results"]["P"]) == {"taught", "labels", "by_hand"}
    assert (
        "| Prune | float32 | 50.00 | 50.00 | +0.00 | 50.00 |" in (tmp_path / "table.md").read_text()
    )
    runs = {
        teaching: json.loads((tmp_path / "runs" / f"P.{teaching}.seed0" / "run.json").read_text())
        for teaching in ("taught", "labels")
    }
    histories = [content["stages"][0]["history"] for content in runs.values()]
    assert "kl_divergence" in histories[0] and "kl_divergence" not in histories[1]

    measured.clear()
    benchmark.main([*command, "P"])
    assert measured == [("teacher", "float32")]
    with pytest.raises(SystemExit, match="other settings"):
        benchmark.main([*command, "P", "--epochs", "2"])


@pytest.mark.slow
def test_every_chain_runs(benchmark, tmp_path):
    benchmark.main([*COMMAND, "--out", str(tmp_path)])
    content = json.loads((tmp_path / "results.json").read_text())
    assert set(content["results"]) == {"", *benchmark.CHAINS}
    for chain, columns in content["results"].items():
        assert set(columns) == set(benchmark.columns_of(chain))
        for runs in columns.values():
            assert 0.0 < runs["0"]["accuracy"] <= 1.0
    sizes = {chain: columns for chain, columns in content["results"].items() if chain}
    assert sizes["PQ"]["taught"]["0"]["zipped_bytes"] < sizes["Q"]["taught"]["0"]["zipped_bytes"]
    assert sizes["PQ"]["by_hand"]["0"]["zipped_bytes"] < sizes["Q"]["by_hand"]["0"]["zipped_bytes"]


def test_the_guide_quotes_the_kept_results(benchmark):
    kept = json.loads((ROOT / "exports/reference/compression_fashion_mnist.json").read_text())
    assert benchmark.report(kept) in (ROOT / "docs/measured/chains.md").read_text()
    assert set(kept["results"]) == {"", *benchmark.CHAINS}
    runs = [run for columns in kept["results"].values() for run in columns.values()]
    assert {len(seeds) for seeds in runs} == {3}
