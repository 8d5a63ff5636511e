from __future__ import annotations

import pathlib
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_kd as kd
from keras_kd.litert.loading import check_file, probe_file
from keras_kd.litert.runtime import LiteRuntime


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A file with sparse weights of dynamic range, which XNNPACK cannot prepare."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((12, 12, 3), name="x"), layers.Conv2D(32, 3), layers.Conv2D(32, 3)]
    )
    for layer in model.layers:
        kernel, bias = layer.get_weights()
        kernel[np.abs(kernel) < np.quantile(np.abs(kernel), 0.8)] = 0
        layer.set_weights([kernel, bias])
    folder = tmp_path_factory.mktemp("sparse")
    model.export(folder / "saved", verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"))
    converter.optimizations = [
        tf.lite.Optimize.DEFAULT,
        tf.lite.Optimize.EXPERIMENTAL_SPARSITY,
    ]
    path = folder / "a.tflite"
    path.write_bytes(converter.convert())
    return path


def test_a_file_which_xnnpack_refuses_is_measured_without(sparse: pathlib.Path) -> None:
    x = np.random.default_rng(0).normal(size=(4, 12, 12, 3)).astype(np.float32)
    result = kd.evaluate_tflite(sparse, x, runs=2, warmup=0)
    assert not result.loads_with_xnnpack and "XNNPack" in (result.xnnpack_error or "")
    assert result.delegate == "none (LiteRT's own kernels)"
    assert result.latency_ms > 0 and result.latency_without_xnnpack_ms is None
    assert "XNNPACK         fails with this file" in str(result)
    timed = kd.benchmark_tflite(sparse, runs=1, warmup=0)
    assert not timed["loads_with_xnnpack"]
    with pytest.raises(ValueError, match=r"default delegate, XNNPACK: .* It can without"):
        kd.benchmark_tflite(sparse, runs=1, xnnpack=True)
    with pytest.raises(ValueError, match="with its default delegate"):
        check_file(sparse)


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read from /proc")
@pytest.mark.promise
def test_peak_memory_grows_with_the_weights(tmp_path: pathlib.Path) -> None:
    peaks = []
    for width in (8, 2048):
        model = keras.Sequential(
            [keras.Input((1024,)), layers.Dense(width), layers.Dense(width), layers.Dense(8)]
        )
        path = kd.export_tflite(model, tmp_path / f"{width}.tflite", verbose=False)
        probed = probe_file(path)
        assert probed.loads_with_xnnpack and probed.xnnpack_error is None
        peaks.append(probed.peak_memory_bytes)
        assert kd.benchmark_tflite(path, runs=1)["peak_memory_bytes"] == peaks[-1]
    # 25 MB of weights, mapped from the file and packed once more by XNNPACK.
    weights = 4 * (1024 * 2048 + 2048 * 2048 + 2048 * 8)
    assert weights < peaks[1] - peaks[0] < 3 * weights
    assert peaks[0] < 10_000_000


def test_a_file_is_tried_once(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    path = kd.export_tflite(model, tmp_path / "a.tflite", verbose=False)
    first = probe_file(path)
    monkeypatch.setattr("subprocess.run", lambda *a, **k: pytest.fail("tried again"))
    assert probe_file(path) == first


def converted(function, *shape) -> bytes:
    traced = tf.function(function).get_concrete_function(tf.TensorSpec(shape, tf.float32, "x"))
    return tf.lite.TFLiteConverter.from_concrete_functions([traced], tf.Module()).convert()


def test_a_file_with_an_empty_output_is_refused(tmp_path):
    path = tmp_path / "a.tflite"
    path.write_bytes(converted(lambda x: {"full": x + 1, "nothing": x[:, :0]}, 1, 4))
    with pytest.raises(ValueError, match=r"is empty.*shape \(1, 0\)"):
        probe_file(path)


def test_an_output_that_is_empty_for_some_inputs_is_not(tmp_path):
    path = tmp_path / "a.tflite"
    path.write_bytes(converted(lambda x: tf.cast(tf.where(x > 5), "float32"), 4))
    runtime = LiteRuntime(path)
    for x, count in ((0.0, 0), (9.0, 4)):
        (found,) = runtime.predict({"x": np.full(4, x, "float32")}).values()
        assert found.shape == (count, 1)
