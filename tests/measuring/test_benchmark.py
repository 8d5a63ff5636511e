from __future__ import annotations

import json
import pathlib

import keras
import numpy as np
import pytest
from keras import layers

from keras_kd.export.tflite import export_tflite
from keras_kd.measuring.benchmark import benchmark_tflite, benchmark_tflite_files


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[pathlib.Path]:
    folder = tmp_path_factory.mktemp("files")
    found = []
    for width in (1, 512):
        model = keras.Sequential(
            [keras.Input((256,), name="x"), layers.Dense(width), layers.Dense(width)]
        )
        found.append(export_tflite(model, folder / f"{width}.tflite", verbose=False))
    return found


def test_one_file(paths: list[pathlib.Path]) -> None:
    result = benchmark_tflite(paths[0], runs=7, warmup=0, threads=np.int64(2))
    assert 0 < result.latency_min_ms <= result.latency_ms <= result.latency_p90_ms
    runs = (result.latency_runs, result.warmup, result.threads, result.latency_batch)
    assert runs == (7, 0, 2, 1)
    assert result.delegate.startswith("XNNPACK")
    assert json.loads(json.dumps(result.to_dict()))["latency_ms"] == result.latency_ms


def test_the_names_of_the_dict_that_it_was_can_be_read(paths: list[pathlib.Path]) -> None:
    result = benchmark_tflite(paths[0], runs=3, warmup=1)
    assert result["median_ms"] == result["latency_ms"] == result.latency_ms
    assert result["min_ms"] <= result["mean_ms"] and result["p90_ms"] <= result["p99_ms"]
    assert (result["runs"], result["warmup"], result["threads"], result["batch"]) == (3, 1, 1, 1)
    with pytest.raises(KeyError, match="median"):
        result["median"]


def test_files_side_by_side(paths: list[pathlib.Path]) -> None:
    small, large = (str(path) for path in paths)
    results = benchmark_tflite_files(paths, rounds=30)
    assert list(results) == [small, large]
    # 390,000 multiplications against 257.
    assert results[large].latency_min_ms > 3 * results[small].latency_min_ms


def test_files_take_turns(paths: list[pathlib.Path], monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    monkeypatch.setattr(
        "keras_kd.litert.runtime.LiteRuntime.invoke", lambda self: order.append(self.path.stem)
    )
    benchmark_tflite_files(paths, rounds=2, warmup=1)
    assert order == ["1", "512"] * 3


def test_wrong_arguments(paths: list[pathlib.Path]) -> None:
    with pytest.raises(ValueError, match="`runs` must be"):
        benchmark_tflite(paths[0], runs=0)
    with pytest.raises(ValueError, match="`warmup` must be"):
        benchmark_tflite(paths[0], warmup=-1)
    with pytest.raises(ValueError, match="`rounds` must be"):
        benchmark_tflite_files(paths, rounds=0)
    with pytest.raises(ValueError, match="`paths` is empty"):
        benchmark_tflite_files([])
    with pytest.raises(ValueError, match="must be a list"):
        benchmark_tflite_files(str(paths[0]))
    with pytest.raises(FileNotFoundError):
        benchmark_tflite_files([*paths, "none.tflite"])


def test_without_xnnpack_and_percentiles(paths: list[pathlib.Path]) -> None:
    result = benchmark_tflite(paths[0], runs=7, warmup=0, xnnpack=False)
    assert result.delegate == "none (LiteRT's own kernels)"
    assert result.latency_ms <= result.latency_p90_ms <= result.latency_p99_ms
    assert result.loads_with_xnnpack is True
