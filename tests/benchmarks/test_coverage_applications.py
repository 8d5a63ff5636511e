"""The table of keras.applications: its rows, its limits and where it is quoted."""

import json
import pathlib

import keras
import numpy as np
import pytest
from keras import layers

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark(load_script):
    return load_script("benchmarks/coverage_applications.py")


def small_model(name):
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, use_bias=False, name="conv")(image)
    x = layers.ReLU()(layers.BatchNormalization(name="folded")(x))
    x = layers.BatchNormalization(name="alone")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10, name="logits")(x))


def test_measures_a_model_and_writes_its_row(benchmark, tmp_path, monkeypatch):
    images = benchmark.images_of(8) / 255.0
    monkeypatch.setattr(benchmark, "build", lambda name: (small_model(name), images))
    benchmark.measure("VGG16", tmp_path / "VGG16.json")
    result = json.loads((tmp_path / "VGG16.json").read_text())
    assert result.get("error") is None
    assert result["layers"] == {"with_weights": 4, "quantized": 3, "folded": 1}
    assert result["float"] == {}
    assert result["kernel_weights"] == {"all": 296, "quantized": 296}
    assert result["export"]["agreement"] > 0.8
    row = benchmark.row("VGG16", result)
    assert row[1:5] == ["4 of 4", "100.0", "none", "yes"]


def test_batch_norms_divide_by_the_root_of_the_mean_square(benchmark):
    model, images = small_model(""), benchmark.images_of(8) / 255.0
    benchmark.set_batch_statistics(model, images)
    norm = model.get_layer("folded")
    before = np.asarray(model.get_layer("conv")(images))
    np.testing.assert_allclose(norm.moving_variance, (before**2).mean((0, 1, 2)), rtol=1e-3)
    assert not np.asarray(norm.moving_mean).any() and norm.momentum == 0.99


def test_keeps_errors_and_goes_on_where_it_stopped(benchmark, tmp_path, monkeypatch, capsys):
    script = tmp_path / "script.py"
    script.write_text("import time\ntime.sleep(60)")
    monkeypatch.setattr(benchmark, "__file__", str(script))
    command = ["--out", str(tmp_path), "--models", "VGG16", "NASNetMobile", "--limit", "1"]
    (tmp_path / "NASNetMobile.json").write_text('{"size": 32}')
    benchmark.main(command)
    assert "| VGG16 |  |  |  |  | **time**: not finished after 1 seconds |" in (
        capsys.readouterr().out
    )
    script.write_text("import sys\nsys.exit('killed')")
    benchmark.main(command)
    assert "VGG16 ..." not in capsys.readouterr().out
    benchmark.main([*command, "--again"])
    assert "**process**: killed" in capsys.readouterr().out
    assert json.loads((tmp_path / "NASNetMobile.json").read_text()) == {"size": 32}
    assert set(json.loads((tmp_path / "results.json").read_text())) == {"VGG16", "NASNetMobile"}


def test_the_guide_quotes_the_kept_results(benchmark):
    kept = json.loads((ROOT / "exports/reference/coverage_applications.json").read_text())
    guide = (ROOT / "docs/guides/coverage.md").read_text()
    missing = [name for name in benchmark.MODELS if name not in kept]
    assert kept and benchmark.table(kept) in guide
    assert ("Not measured yet: " in guide) == bool(missing)
    assert not missing or f"Not measured yet: {', '.join(missing)}." in guide


def test_every_family_is_there(benchmark):
    modules = {module for module, _ in benchmark.MODELS.values()}
    ours = {"imagenet_utils", "mobilenet_v3", "convnext"} | modules
    families = {
        name
        for name in dir(keras.applications)
        if hasattr(getattr(keras.applications, name), "preprocess_input")
    }
    # Of VGG and ResNet, one module stands for both.
    assert families - {"vgg19", "inception_resnet_v2", "resnet"} <= ours
