from __future__ import annotations

import copy
import json
import math
import pathlib
import pickle
import warnings

import keras
import numpy as np
import pytest
from keras import layers

from keras_kd.export import conversion
from keras_kd.export.calibration import to_measure
from keras_kd.export.fidelity import (
    Expected,
    ExportedFile,
    Fidelity,
    OutputFidelity,
    measure_fidelity,
    shortfall,
)
from keras_kd.export.saved_model import source_of
from keras_kd.export.tflite import export_tflite
from keras_kd.litert.metadata import read_metadata
from keras_kd.litert.runtime import LiteRuntime
from keras_kd.measuring.compare import compare
from keras_kd.measuring.evaluate import evaluate_tflite


def images(count: int = 64) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 8, 8, 3)).astype("float32")


def outlier_channel() -> keras.Model:
    """One channel is a thousand times as large as the others, and hardly matters afterwards."""
    keras.utils.set_random_seed(0)
    i = keras.Input((8, 8, 3))
    z = layers.Conv2D(8, 3, name="conv")(i)
    z = layers.DepthwiseConv2D(1, name="scale")(z)
    z = layers.ReLU(name="relu")(layers.Conv2D(8, 3, name="next")(z))
    model = keras.Model(i, layers.Dense(5)(layers.Flatten()(z)))
    kernel, bias = model.get_layer("scale").get_weights()
    kernel[..., 0, :] = 5e3
    kernel[..., 1:, :] = 1.0
    model.get_layer("scale").set_weights([kernel, bias])
    kernel, bias = model.get_layer("next").get_weights()
    kernel[:, :, 0] *= 1e-5
    model.get_layer("next").set_weights([kernel, bias])
    return model


def said(model, path, quantization, data) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        export_tflite(model, path, quantization, data, calibration="minmax", verbose=False)
    return [str(w.message) for w in found if "differs from its model" in str(w.message)]


@pytest.mark.promise
def test_an_outlier_channel_is_named(tmp_path):
    (text,) = said(outlier_channel(), tmp_path / "a.tflite", "int8", images())
    assert "quantization='int8'" in text and "grows most in 'next + relu'" in text


@pytest.mark.promise
def test_several_outputs(tmp_path):
    model = outlier_channel()
    model = keras.Model(model.input, {"good": model.get_layer("conv").output, "bad": model.output})
    (text,) = said(model, tmp_path / "a.tflite", "int8", images())
    assert "output 'bad'" in text


@pytest.mark.fast_cases("float16")
@pytest.mark.parametrize("quantization", ["float16", "dynamic", "int8", "int16x8"])
def test_nothing_is_said_of_a_true_file(tmp_path, quantization):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(8, 3), layers.ReLU(), layers.Flatten()]
    )
    model.add(layers.Dense(5))
    assert not said(model, tmp_path / "a.tflite", quantization, images())


@pytest.mark.promise
def test_what_half_precision_cannot_hold_stays_right(tmp_path):
    i = keras.Input((4,))
    model = keras.Model(i, layers.Dense(3, use_bias=False)(i))
    model.layers[-1].set_weights([np.full((4, 3), 1e6, "float32")])
    x = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    assert not said(model, tmp_path / "a.tflite", "float16", x)


@pytest.mark.promise
def test_a_compressed_student_is_measured(tmp_path):
    class Written:
        quantization_aware = False

        def __init__(self, model):
            self.held = model

        def write_saved_model(self, folder):
            self.held.export(str(folder), verbose=False)

    (text,) = said(Written(outlier_channel()), tmp_path / "a.tflite", "int8", images())
    assert "differs from its model" in text


def classifier(units: int = 4, activation: str | None = None) -> keras.Model:
    keras.utils.set_random_seed(1)
    i = keras.Input((8, 8, 3), name="image")
    z = layers.Conv2D(8, 3, activation="relu", name="conv")(i)
    z = layers.Dense(units, name="logits")(layers.Flatten()(z))
    return keras.Model(i, layers.Activation(activation)(z) if activation else z)


def in_kernels(path, x, xnnpack):
    runtime = LiteRuntime(path, xnnpack=xnnpack)
    return runtime.predict({runtime.inputs[0].name: x})[runtime.output_names[0]].astype("float64")


def decibels(expected, given):
    return 10 * math.log10(np.square(expected).sum() / np.square(given - expected).sum())


@pytest.mark.promise
def test_what_is_measured_is_what_numpy_computes(tmp_path):
    model, x = classifier(), images(400)
    path = export_tflite(
        model, tmp_path / "a.tflite", "int8", x[:300], validation_data=x[300:], verbose=False
    )
    expected = model.predict(x[300:], verbose=0).astype("float64")
    assert [row.kernels for row in path.fidelity.outputs] == ["xnnpack", "builtin"]
    for row, xnnpack in zip(path.fidelity.outputs, (True, False), strict=True):
        given = in_kernels(path, x[300:], xnnpack)
        error = np.sqrt(np.square(given - expected).mean()) / expected.std()
        assert row.agreement == np.mean(given.argmax(-1) == expected.argmax(-1))
        assert row.signal_to_noise_db == pytest.approx(decibels(expected, given), abs=1e-3)
        assert row.relative_error == pytest.approx(error, rel=1e-4)
    assert (path.fidelity.samples, path.fidelity.held_out) == (100, True)
    assert path.fidelity.agreement == min(row.agreement for row in path.fidelity.outputs)
    assert read_metadata(path)["fidelity"] == path.fidelity.to_dict()


def test_a_file_is_measured_on_what_did_not_calibrate_it(tmp_path):
    model, x = classifier(), images(600)
    path = export_tflite(
        model, tmp_path / "a.tflite", "int8", x, calibration="minmax", verbose=False
    )
    assert (path.fidelity.samples, path.fidelity.held_out) == (128, True)
    path = export_tflite(
        model, tmp_path / "a.tflite", "int8", x[:40], calibration="minmax", verbose=False
    )
    assert (path.fidelity.samples, path.fidelity.held_out) == (40, False)
    assert read_metadata(path)["fidelity"]["held_out"] is False


@pytest.mark.promise
def test_without_data_nothing_is_measured(tmp_path, capsys):
    path = export_tflite(classifier(), tmp_path / "a.tflite", "dynamic")
    assert path.fidelity is None
    assert json.loads((tmp_path / "a.tflite.json").read_text())["fidelity"] is None
    assert "not measured" in capsys.readouterr().out
    path = export_tflite(classifier(), tmp_path / "a.tflite", "dynamic", validation_data=images())
    assert f"{path.fidelity.agreement:.1%} of the model's answers" in capsys.readouterr().out
    assert path.fidelity.held_out


@pytest.mark.promise
def test_a_file_that_disagrees_is_not_written_if_asked_for(tmp_path):
    path = tmp_path / "a.tflite"
    export_tflite(classifier(), path, verbose=False)
    before = [file.read_bytes() for file in sorted(tmp_path.iterdir())]
    with pytest.raises(ValueError, match=r"differs from its model.*'next \+ relu'.*not written"):
        export_tflite(
            outlier_channel(),
            path,
            "int8",
            images(),
            calibration="minmax",
            on_disagreement="error",
            verbose=False,
        )
    assert [file.read_bytes() for file in sorted(tmp_path.iterdir())] == before


@pytest.mark.promise
def test_the_remedy_was_tried(tmp_path):
    (text,) = said(outlier_channel(), tmp_path / "a.tflite", "int8", images(300))
    assert 'Use quantization="dynamic", which was tried' in text
    path = export_tflite(
        outlier_channel(), tmp_path / "b.tflite", "dynamic", images(300), verbose=False
    )
    assert f"{path.stat().st_size:,} bytes" in text and path.fidelity.agreement > 0.95


@pytest.mark.promise
def test_limits_are_the_users(tmp_path):
    model, path = outlier_channel(), tmp_path / "a.tflite"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = export_tflite(
            model,
            path,
            "int8",
            images(300),
            calibration="minmax",
            on_disagreement="ignore",
            verbose=False,
        )
    assert made.fidelity.agreement < 0.9
    assert made.fidelity.layers[0].layers == ("next", "relu")
    for wrong in ({"min_agreement": 1.5}, {"on_disagreement": "raise"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            export_tflite(model, path, "int8", images(), **wrong)


@pytest.mark.promise
def test_numbers_are_not_answers(tmp_path):
    model = classifier(1)
    x, y = images(80), np.random.default_rng(0).normal(size=80)
    path = export_tflite(model, tmp_path / "a.tflite", validation_data=(x, y), verbose=False)
    assert path.fidelity.agreement is None and path.fidelity.signal_to_noise_db > 60
    model.compile(loss="mse")
    path = export_tflite(model, tmp_path / "a.tflite", validation_data=x, verbose=False)
    assert path.fidelity.agreement is None


@pytest.mark.parametrize(("activation", "threshold"), [(None, 0.0), ("sigmoid", 0.5)])
def test_one_unit_says_yes_or_no(tmp_path, activation, threshold):
    model, x = classifier(1, activation), images(128)
    path = export_tflite(model, tmp_path / "a.tflite", "int8", x, calibration_batches=1,
                         calibration="minmax", validation_data=x, verbose=False)  # fmt: skip
    expected = model.predict(x, verbose=0) > threshold
    given = in_kernels(path, x, True) > threshold
    assert 0.2 < expected.mean() < 0.8
    assert path.fidelity.outputs[0].agreement == np.mean(expected == given)


def test_padding_does_not_count(tmp_path):
    keras.utils.set_random_seed(0)
    i = keras.Input((6,), dtype="int32", name="words")
    z = layers.Embedding(20, 8, mask_zero=True)(i)
    model = keras.Model(i, layers.Dense(3, name="tags")(z))
    x = np.random.default_rng(0).integers(1, 20, (64, 6)).astype("int32")
    x[:, 2:] = 0
    path = export_tflite(model, tmp_path / "a.tflite", "int4", validation_data=x, verbose=False)
    expected = model.predict(x, verbose=0).astype("float64")
    given = in_kernels(path, x, True)
    whole = decibels(expected, given)
    words = decibels(expected[:, :2], given[:, :2])
    assert abs(whole - words) > 0.1
    assert path.fidelity.outputs[0].signal_to_noise_db == pytest.approx(words, abs=1e-3)


def test_an_exported_file_is_a_path(tmp_path):
    path = export_tflite(
        classifier(), tmp_path / "a.tflite", validation_data=images(), verbose=False
    )
    plain = tmp_path / "a.tflite"
    assert isinstance(path, pathlib.Path) and path == plain and hash(path) == hash(plain)
    assert path.read_bytes() == plain.read_bytes() and path.stat().st_size > 0
    assert str(path) == str(plain)
    with open(path, "rb") as file:
        assert file.read(8)[4:] == b"TFL3"
    assert path.parent == tmp_path and path.parent / "a.tflite" == path
    assert path.with_suffix(".json").name == "a.json" and path.resolve() == plain.resolve()
    assert path.parent.fidelity is None and path.with_suffix(".x").fidelity is None
    for copied in (copy.copy(path), copy.deepcopy(path), pickle.loads(pickle.dumps(path))):
        assert copied == path and copied.fidelity == path.fidelity
    assert ExportedFile("x").fidelity is None


def test_infinite_numbers_are_null_in_json():
    rows = (
        OutputFidelity("a", "builtin", 1.0, math.inf, 0.0),
        OutputFidelity("b", "builtin", None, -math.inf, math.inf),
    )
    fidelity = Fidelity(3, True, rows)
    content = json.loads(json.dumps(fidelity.to_dict(), allow_nan=False))
    assert content["outputs"][0]["signal_to_noise_db"] is None
    assert content["outputs"][1]["relative_error"] is None and content["agreement"] == 1.0
    assert fidelity.is_poor(None) and fidelity.worst is rows[1]


def constant(value: float, activation: str | None = None, units: int = 1) -> keras.Model:
    i = keras.Input((3,))
    model = keras.Model(i, layers.Dense(units, activation, kernel_initializer="zeros")(i))
    model.layers[-1].bias.assign(np.full(units, value))
    return model


def test_a_wrong_constant_is_not_true(tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "keep_what_float16_loses", lambda *_: None)
    x = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
    path, arguments = tmp_path / "a.tflite", {"on_disagreement": "error", "verbose": False}
    with pytest.raises(ValueError, match=r"the relative error of output .* is 67%"):
        export_tflite(constant(2e5), path, "float16", validation_data=x, **arguments)
    assert not path.exists()
    for value, rows in ((3.0, x), (0.0, x[:1])):
        made = export_tflite(constant(value), path, "float16", validation_data=rows, **arguments)
        assert made.fidelity.worst.relative_error == 0.0


@pytest.mark.promise
@pytest.mark.parametrize("quantization", ["int8", "int16x8"])
@pytest.mark.parametrize(
    ("value", "activation"),
    [(-3.0, "relu"), (0.0, None), (5.0, None), (-0.3, "tanh"), (20.0, "sigmoid"), (9.0, "softmax")],
)
def test_a_constant_that_is_right_is_true(tmp_path, quantization, value, activation):
    x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
    model = constant(value, activation, 4)
    path = export_tflite(
        model, tmp_path / "a.tflite", quantization, x, on_disagreement="error", verbose=False
    )
    assert path.fidelity.worst.relative_error < 0.02


class Classes(layers.Layer):
    """Gives class 9 above a threshold, and class 0 below."""

    def __init__(self, threshold, dtype="int32"):
        super().__init__(name="classes")
        self.threshold, self.kind = threshold, dtype

    def call(self, x):
        return keras.ops.cast(x > self.threshold, self.kind) * keras.ops.cast(9, self.kind)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, self.kind)


def threshold(value):
    x = keras.Input((1,), name="x")
    return keras.Model(x, Classes(value)(layers.Dense(1, kernel_initializer="ones")(x)))


def test_class_numbers_have_no_error(tmp_path):
    x = np.linspace(0, 1, 200, dtype="float32")[:, None]  # of them 10 and 6 are above
    model, path = threshold(0.951), tmp_path / "a.tflite"
    export_tflite(threshold(0.971), path, verbose=False)
    source = source_of(model)
    measured = to_measure(x, source.inputs, "validation_data", None)
    fidelity = measure_fidelity(Expected(source, measured), path)
    rows = fidelity.outputs
    assert 0.95 < fidelity.agreement < 1.0 and not fidelity.is_poor(0.95)
    assert {(row.relative_error, row.signal_to_noise_db) for row in rows} == {(None, None)}
    assert fidelity.is_poor(0.999) and fidelity.layers == () and "dB" not in str(fidelity)
    assert json.dumps(fidelity.to_dict(), allow_nan=False)
    assert "answers agree" in shortfall(fidelity, path, "float32", 0.999)
    assert "spread" not in shortfall(fidelity, path, "float32", 0.999)
    for per_layer in (False, True):
        compared = compare(path, x, model, per_layer=per_layer, verbose=False)
        assert compared.agreement == 0.98 and "difference" not in str(compared)
        assert compared.max_difference is compared.signal_to_noise_db is None
    assert [row.relative_error for row in compared.layers if row.layer == "classes"] == [None]
    result = evaluate_tflite(path, x, model, runs=1, warmup=0, verbose=False)
    assert result.agreement == 0.98 and result.max_difference is None
    fractions = (x, x + 0.5)  # with fractional labels, the output is not classes
    measured = to_measure(fractions, source.inputs, "validation_data", None)
    (row, _) = measure_fidelity(Expected(source, measured), path).outputs
    assert row.agreement is None and row.relative_error > 0.3
