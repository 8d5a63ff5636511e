"""The table of many models: its rows, its limits and where it is quoted."""

import json
import pathlib

import keras
import numpy as np
import pytest
from keras import layers

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark(load_script):
    return load_script("benchmarks/coverage_models.py")


def small_model():
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, use_bias=False, name="conv")(image)
    x = layers.ReLU()(layers.BatchNormalization(name="folded")(x))
    x = layers.BatchNormalization(name="alone")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10, name="logits")(x))


@pytest.mark.promise
def test_measures_a_model_and_writes_its_row(benchmark, tmp_path, monkeypatch):
    images = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype("float32")
    monkeypatch.setattr(benchmark, "build", lambda model, seed=0: (small_model(), images))
    benchmark.measure("architectures: U-Net", tmp_path / "x.json")
    result = json.loads((tmp_path / "x.json").read_text())
    assert "errors" not in result and result["check"] == "ok" and result["save"] == 0.0
    for key in ("export", "calibrated"):
        assert result[key]["kernels"] == 1.0 and not result[key]["float"]
        assert result[key]["integer_output"] and result[key]["steps"] < 3
    row = benchmark.row("architectures: U-Net", result)
    assert row[1:4] == ["yes", "100", "none"]


def test_batch_norms_divide_by_the_root_of_the_mean_square(load_script):
    models = load_script("benchmarks/application_models.py")
    model, images = small_model(), models.images_of(8) / 255.0
    models.set_batch_statistics(model, images)
    norm = model.get_layer("folded")
    before = np.asarray(model.get_layer("conv")(images))
    np.testing.assert_allclose(norm.moving_variance, (before**2).mean((0, 1, 2)), rtol=1e-3)
    assert not np.asarray(norm.moving_mean).any() and norm.momentum == 0.99


@pytest.mark.promise
def test_keeps_errors_and_goes_on_where_it_stopped(benchmark, tmp_path, monkeypatch, capsys):
    script = tmp_path / "script.py"
    script.write_text("import time\ntime.sleep(60)")
    monkeypatch.setattr(benchmark, "__file__", str(script))
    first, second = "architectures: U-Net", "hub: BERT"
    command = ["--out", str(tmp_path), "--models", first, second, "--limit", "1"]
    benchmark.file_of(tmp_path, second).write_text('{"save": 0.0}')
    benchmark.main(command)
    assert "time: not finished after 1 seconds" in capsys.readouterr().out
    script.write_text("import sys\nsys.exit('killed')")
    benchmark.main(command)
    assert f"{first} ..." not in capsys.readouterr().out
    benchmark.main([*command, "--again"])
    assert "process: killed" in capsys.readouterr().out
    assert set(json.loads((tmp_path / "results.json").read_text())) == {first, second}


def test_the_guide_quotes_the_kept_results(benchmark):
    kept = json.loads((ROOT / "exports/reference/coverage_models.json").read_text())
    guide = (ROOT / "docs/measured/coverage.md").read_text()
    missing = [model for model in benchmark.MODELS if model not in kept]
    assert kept and benchmark.table(kept) in guide and benchmark.summary(kept) in guide
    assert ("Not measured yet: " in guide) == bool(missing)
    assert not missing or f"Not measured yet: {', '.join(missing)}." in guide
    exported = [result["export"] for result in kept.values()]
    others = [found for found in exported if not benchmark.is_faithful(found)]
    far = sum(x["within_a_step"] < x["moved_within_a_step"] - 0.002 for x in others)
    assert f"{len(exported) - len(others)} of {len(exported)} files reach it" in guide
    assert f"Of the other {len(others)}, " in guide and f"; {far} are farther" in guide


def test_every_model_is_there(benchmark, load_script):
    groups = benchmark.GROUPS
    architectures = load_script("benchmarks/architectures.py").ARCHITECTURES
    assert groups["architectures"] == list(architectures) and len(architectures) > 20
    assert groups["hub"] == list(load_script("benchmarks/hub_models.py").HUB_MODELS)
    modules = {module for module, _ in benchmark.APPLICATIONS.values()}
    ours = {"imagenet_utils", "mobilenet_v3", "convnext"} | modules
    families = {
        name
        for name in dir(keras.applications)
        if hasattr(getattr(keras.applications, name), "preprocess_input")
    }
    # Of VGG and ResNet, one module stands for both.
    assert families - {"vgg19", "inception_resnet_v2", "resnet"} <= ours
