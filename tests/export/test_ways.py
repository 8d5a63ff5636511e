from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from keras_kd.export.fidelity import Fidelity, OutputFidelity
from keras_kd.export.tflite import export_tflite
from keras_kd.export.ways import _BETTER, _BETTER_OF_WEIGHTS, Way, _is_better, way_of
from keras_kd.litert.metadata import read_metadata
from keras_kd.litert.model_file import ModelFile


def images(count: int = 400) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 8, 8, 3)).astype("float32")


def dead_normalization() -> keras.Model:
    """A channel that hardly ever fires is a thousand times as large as the others when it does."""
    keras.utils.set_random_seed(0)
    i = keras.Input((8, 8, 3))
    z = layers.Conv2D(8, 3, activation="relu", name="conv")(i)
    z = layers.BatchNormalization(epsilon=1e-6, name="norm")(z)
    z = layers.Conv2D(8, 3, activation="relu", name="next")(z)
    model = keras.Model(i, layers.Dense(5)(layers.Flatten()(z)))
    kernel, bias = model.get_layer("conv").get_weights()
    bias[0] = -2.8
    model.get_layer("conv").set_weights([kernel / np.sqrt((kernel**2).sum((0, 1, 2))), bias])
    gamma, beta, mean, variance = model.get_layer("norm").get_weights()
    variance[0] = 1e-6
    model.get_layer("norm").set_weights([gamma, beta, mean, variance])
    kernel, bias = model.get_layer("next").get_weights()
    kernel[:, :, 0] *= 1e-3
    model.get_layer("next").set_weights([kernel, bias])
    return model


def channels_apart(width: int = 8) -> keras.Model:
    """Channels of one kernel are a thousand times apart, and the next layer evens them out."""
    keras.utils.set_random_seed(0)
    i = keras.Input((8, 8, 3))
    z = layers.Conv2D(width, 3, activation="relu", name="conv")(i)
    z = layers.Conv2D(width, 3, activation="relu", name="next")(z)
    model = keras.Model(i, layers.Dense(5)(layers.Flatten()(z)))
    sizes = np.geomspace(1.0, 1000.0, width).astype("float32")
    kernel, bias = model.get_layer("conv").get_weights()
    model.get_layer("conv").set_weights([kernel * sizes, bias])
    kernel, bias = model.get_layer("next").get_weights()
    model.get_layer("next").set_weights([kernel / sizes[:, None], bias])
    return model


def masked() -> keras.Model:
    """Scores of an attention are masked by -1e9."""
    keras.utils.set_random_seed(0)
    i = keras.Input((8, 8, 3))
    z = layers.Dense(16)(layers.Reshape((16, 12))(i))
    scores = keras.ops.matmul(z, keras.ops.transpose(z, (0, 2, 1)))
    mask = np.triu(np.full((16, 16), -1e9, "float32"), 1)
    z = keras.ops.matmul(keras.ops.softmax(scores * 0.25 + mask), z)
    return keras.Model(i, layers.Dense(5)(layers.Flatten()(z)))


@pytest.mark.promise
@pytest.mark.parametrize("make", [dead_normalization, channels_apart, masked])
def test_outliers_are_survived(tmp_path, make):
    model, x = make(), images(600)
    before = model.get_weights()
    path = export_tflite(model, tmp_path / "a.tflite", "int8", x, verbose=False)
    plain = export_tflite(
        model, tmp_path / "b.tflite", "int8", x, calibration="minmax",
        on_disagreement="ignore", verbose=False,
    )  # fmt: skip
    assert plain.fidelity.calibration == "minmax"
    assert path.fidelity.agreement > max(0.9, plain.fidelity.agreement + 0.05)
    assert path.fidelity.signal_to_noise_db > plain.fidelity.signal_to_noise_db + 6.0
    calibration = read_metadata(path)["calibration"]
    assert calibration["ranges"] == path.fidelity.calibration != "minmax"
    names = [tried["name"] for tried in calibration["tried"]]
    assert names[:2] == ["minmax", "percentile"] and path.fidelity.calibration in names
    for weight, was in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, was)


def test_a_true_file_is_converted_once(tmp_path):
    keras.utils.set_random_seed(0)
    i = keras.Input((8, 8, 3))
    z = layers.Conv2D(8, 3, activation="relu")(i)
    model = keras.Model(i, layers.Dense(5)(layers.Flatten()(z)))
    kernel, bias = model.layers[-1].get_weights()
    bias[1] = 1.5 * np.abs(model.predict(images(), verbose=0)).max()  # the answer is always clear
    model.layers[-1].set_weights([kernel, bias])
    path = export_tflite(model, tmp_path / "a.tflite", "int8", images(), verbose=False)
    assert path.fidelity.calibration == "minmax"
    assert [t["name"] for t in read_metadata(path)["calibration"]["tried"]] == ["minmax"]


@pytest.mark.promise
def test_a_way_is_chosen_and_shown(tmp_path, capsys):
    model, x = channels_apart(), images()
    path = export_tflite(model, tmp_path / "a.tflite", "int8", x, calibration="mse+equalization")
    assert path.fidelity.calibration == "mse+equalization"
    assert "int8 (mse+equalization)" in capsys.readouterr().out
    assert read_metadata(path)["calibration"]["tried"] == [{"name": "mse+equalization"}]
    path = export_tflite(
        model, tmp_path / "b.tflite", "int16x8", x, calibration="minmax+equalization",
        verbose=False,
    )  # fmt: skip
    assert path.fidelity.agreement > 0.98


@pytest.mark.parametrize("calibration", ["percentile", "mse+equalization"])
@pytest.mark.fast_cases("mse")
def test_layers_in_float_stand_beside_any_ranges(tmp_path, calibration):
    """The layers in float are those of the equalized model, whose channels the others expect."""
    model, x = channels_apart(), images()
    path = export_tflite(
        model, tmp_path / "a.tflite", "int8", x, exclude="next", calibration=calibration,
        on_disagreement="ignore", verbose=False,
    )  # fmt: skip
    assert path.fidelity.calibration == calibration
    kinds = {o.outputs[0]: o.output_types[0] for o in ModelFile(path.read_bytes()).operators()}
    assert "FLOAT32" in kinds.values() and "INT8" in kinds.values()
    assert calibration == "percentile" or path.fidelity.signal_to_noise_db > 30.0


@pytest.mark.promise
@pytest.mark.parametrize("quantization", ["dynamic", "weight_only", "int4"])
def test_files_without_ranges_are_equalized_where_it_helps(tmp_path, quantization):
    model, x = channels_apart(16), images()
    arguments = {"on_disagreement": "ignore", "verbose": False}
    path = export_tflite(model, tmp_path / "a.tflite", quantization, x, **arguments)
    plain = export_tflite(
        model, tmp_path / "b.tflite", quantization, x, calibration="minmax", **arguments
    )
    blind = export_tflite(model, tmp_path / "c.tflite", quantization, **arguments)
    assert blind.fidelity is None and read_metadata(blind)["calibration"] is None
    assert path.fidelity.calibration == "equalization" and plain.fidelity.calibration is None
    assert [t["name"] for t in read_metadata(path)["calibration"]["tried"]] == [
        "none",
        "equalization",
    ]
    assert path.fidelity.signal_to_noise_db > plain.fidelity.signal_to_noise_db + 6.0
    assert path.fidelity.agreement >= plain.fidelity.agreement
    assert path.stat().st_size <= plain.stat().st_size
    asked = export_tflite(
        model, tmp_path / "d.tflite", quantization, calibration="equalization", **arguments
    )
    assert asked.read_bytes() == path.read_bytes() or quantization == "int4"


def fidelity(agreement: float, error: float, samples: int = 100) -> Fidelity:
    return Fidelity(samples, True, (OutputFidelity("y", "builtin", agreement, 20.0, error),))


def test_a_way_is_better_by_more_than_chance():
    assert _is_better(fidelity(0.98, 0.2), fidelity(0.6, 0.1), *_BETTER)
    assert not _is_better(
        fidelity(0.96, 0.11), fidelity(0.95, 0.1), *_BETTER
    )  # one answer in a hundred
    assert _is_better(fidelity(0.94, 0.05), fidelity(0.95, 0.1), *_BETTER)
    assert not _is_better(fidelity(0.95, 0.095), fidelity(0.95, 0.1), *_BETTER)
    assert not _is_better(fidelity(0.8, 0.05), fidelity(0.95, 0.1), *_BETTER)


def test_where_weights_alone_are_rounded_a_way_is_better_by_more():
    """As measured: EfficientNetB0's and MobileNetV2's dynamic files, and a planted channel."""
    better = [
        _is_better(fidelity(agreement, error, 32), fidelity(plain, 1.0, 32), *_BETTER_OF_WEIGHTS)
        for plain, agreement, error in ((0.78, 0.72, 0.89), (0.91, 0.97, 0.95), (0.1, 1.0, 0.01))
    ]
    assert better == [False, False, True]


def test_names_of_ways():
    for way in (Way(), Way("mse", True), Way("percentile", correct=True), Way("mse", True, True)):
        assert way_of(way.name, "int8") == way
    assert way_of("auto", "float32") is None and way_of("minmax", "float16") == Way()
    assert way_of("equalization", "int16x8") == Way(equalize=True) == way_of("equalization", "int4")
    for wrong in ("best", "mse+percentile", "mse+mse", "", None, 3):
        with pytest.raises(ValueError, match="calibration="):
            way_of(wrong, "int8")
    with pytest.raises(ValueError, match=r"is for quantization='int8'\. Received"):
        way_of("mse", "int16x8")
    with pytest.raises(ValueError, match="Leave `calibration` out"):
        way_of("equalization", "float32")
