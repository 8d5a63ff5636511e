import json
import pathlib

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd.litert.model_file import ModelFile

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark(load_script):
    return load_script("benchmarks/mlperf_tiny.py")


def test_rows_stand_below_the_published_file(benchmark):
    row = {"form": "int8", "bytes": 49_248, "accuracy": 0.8697, "agreement": 0.99}
    row |= {"scale_bytes": 1_000, "signal_to_noise_db": 30.04}
    failed = {"form": "int4", "error": "ValueError"}
    lines = benchmark.table({"MLPerf Tiny: ResNet8": [row, failed]}).splitlines()
    published = "published, `pretrainedResnet_quant`"
    assert lines[2] == f"| ResNet8 | {published} | 98,496 | | 100 % | 86.97 | | |"
    assert lines[3] == "| ResNet8 | int8 | 49,248 | 1,000 | 50 % | 86.97 | 99.00 | 30.0 |"
    assert lines[4] == "| ResNet8 | int4 | fails: ValueError | | | | | |"
    assert {line.count("|") for line in lines} == {9}


def test_scales_are_counted_in_the_file(benchmark, tmp_path):
    kernel = keras.layers.Conv2D(4, 3)
    model = keras.Sequential([keras.Input((8, 8, 1)), kernel, keras.layers.Flatten()])
    x = np.random.default_rng(0).normal(size=(40, 8, 8, 1)).astype("float32")
    path = kd.export_tflite(model, tmp_path / "a.tflite", "int8", x, verbose=False)
    # One for each channel of the kernel and of its bias, and one for each activation.
    tensors = ModelFile(path.read_bytes()).graphs()[0].tensors
    activations = sum(not x.constant and x.kind == "INT8" for x in tensors)
    assert benchmark.scale_bytes(path) == 4 * (4 + 4 + activations)


def test_the_page_quotes_the_kept_results(benchmark):
    kept = json.loads((ROOT / "exports/reference/mlperf_tiny.json").read_text())
    assert benchmark.table(kept) in (ROOT / "docs/measured/mlperf_tiny.md").read_text()
    assert set(kept) == set(benchmark.PUBLISHED)


def test_no_int8_file_is_larger_than_the_published_one_but_for_its_scales(benchmark):
    kept = json.loads((ROOT / "exports/reference/mlperf_tiny.json").read_text())
    for title, rows in kept.items():
        assert not [row for row in rows if "error" in row]
        (row,) = (row for row in rows if row["form"] == "int8")
        allowed = row["scale_bytes"] if "autoencoder" in title else 0
        assert row["bytes"] - allowed <= benchmark.PUBLISHED[title][1]
    (resnet,) = (r for r in kept["MLPerf Tiny: ResNet8"] if r["form"] == "int8")
    assert (
        abs(100 * resnet["accuracy"] - float(benchmark.PUBLISHED["MLPerf Tiny: ResNet8"][2])) < 0.3
    )
