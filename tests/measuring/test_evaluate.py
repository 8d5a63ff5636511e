from __future__ import annotations

import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_kd.export.tflite import export_tflite
from keras_kd.measuring.evaluate import evaluate_tflite
from keras_kd.measuring.result import TFLiteResult

WEIGHTS = np.array([[1.0, 0.0, -1.0], [0.0, 2.0, 1.0]], np.float32)
# Chosen so that the largest of x @ WEIGHTS is known: classes 0, 1, 2, 1.
X = np.array([[3.0, 0.0], [0.0, 1.0], [-2.0, 0.5], [1.0, 2.0]], np.float32)
CLASSES = np.array([0, 1, 2, 1])


@pytest.fixture(scope="module")
def linear() -> keras.Model:
    model = keras.Sequential([keras.Input((2,), name="x"), layers.Dense(3, use_bias=False)])
    model.layers[0].set_weights([WEIGHTS])
    return model


@pytest.fixture(scope="module")
def path(linear: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    target = tmp_path_factory.mktemp("linear") / "linear.tflite"
    return export_tflite(linear, target, verbose=False)


def evaluate(path: pathlib.Path, *args, **kwargs) -> TFLiteResult:
    return evaluate_tflite(path, *args, runs=3, warmup=1, **kwargs)


def test_accuracy_agreement_and_size(path: pathlib.Path, linear: keras.Model) -> None:
    result = evaluate(path, (X, np.array([0, 1, 2, 0])), linear)
    assert (result.samples, result.accuracy, result.agreement) == (4, 0.75, 1.0)
    assert result.max_difference is not None and result.max_difference < 1e-6
    assert result.bytes == path.stat().st_size
    assert 0 < result.zipped_bytes < result.bytes
    assert result.operators == {"FULLY_CONNECTED": 1}
    assert result.float_operators == {"FULLY_CONNECTED": 1}
    assert (result.constants, result.zero_constants) == (6, 2)
    assert result.sparsity == pytest.approx(1 / 3)
    assert 0 < result.latency_ms <= result.latency_p90_ms
    assert (result.latency_runs, result.latency_batch, result.threads) == (3, 1, 1)
    assert result.delegate.startswith("XNNPACK")
    assert result.inputs == [
        {"name": "x", "shape": [None, 2], "dtype": "float32", "scale": None, "zero_point": None}
    ]


def test_disagreement_is_counted(path: pathlib.Path, linear: keras.Model) -> None:
    other = keras.models.clone_model(linear)
    other.layers[0].set_weights([WEIGHTS[:, [1, 0, 2]]])
    result = evaluate(path, X, other)
    # Rows whose largest is in class 2 agree, those of classes 0 and 1 do not.
    assert result.agreement == 0.25
    difference = np.abs(X @ WEIGHTS - X @ WEIGHTS[:, [1, 0, 2]])
    assert result.max_difference == pytest.approx(difference.max())
    assert result.mean_difference == pytest.approx(difference.mean())


def test_result_as_dict_and_text(path: pathlib.Path, linear: keras.Model) -> None:
    result = evaluate(path, (X, CLASSES), linear)
    assert json.loads(json.dumps(result.to_dict()))["accuracy"] == 1.0
    assert "100.00% of 4 samples" in str(result)
    assert "FULLY_CONNECTED x1" in str(result)
    assert "accuracy" not in str(evaluate(path, X))


@pytest.mark.parametrize(
    "labels",
    [CLASSES, CLASSES[:, None], CLASSES.astype("float32"), np.eye(3)[CLASSES], CLASSES % 3 == 1],
    ids=["indices", "column", "floats", "one-hot", "bool"],
)
def test_forms_of_labels(path: pathlib.Path, labels: np.ndarray) -> None:
    expected = np.mean(labels == CLASSES) if labels.dtype == bool else 1.0
    assert evaluate(path, (X, labels)).accuracy == expected


def test_forms_of_data(path: pathlib.Path) -> None:
    labels = np.array([0, 1, 2, 0])
    single = tf.data.Dataset.from_tensor_slices((X, labels))
    forms = [
        (X, labels),
        (X.astype("float64"), labels, np.ones(4)),
        single,
        single.batch(3),
        [(X[:1], labels[:1]), (X[1:], labels[1:])],
        ((x, y) for x, y in zip(X, labels, strict=True)),
        ({"x": X}, labels),
    ]
    assert [evaluate(path, data).accuracy for data in forms] == [0.75] * len(forms)


def test_without_labels_or_model(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    # As from another process: where this one exported the file, it knows the model.
    result = evaluate(shutil.copy(path, tmp_path / "copy.tflite"), X)
    assert (result.accuracy, result.agreement, result.max_difference) == (None, None, None)


def test_max_samples(path: pathlib.Path) -> None:
    data = tf.data.Dataset.from_tensor_slices((X, np.array([0, 1, 2, 0]))).batch(2)
    assert evaluate(path, data, max_samples=3).accuracy == 1.0
    result = evaluate(path, data.repeat(), max_samples=8)
    assert (result.samples, result.accuracy) == (8, 0.75)
    with pytest.raises(ValueError, match="never ends"):
        evaluate(path, data.repeat())


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_one_unit(tmp_path: pathlib.Path, activation: str | None) -> None:
    model = keras.Sequential(
        [keras.Input((1,), name="x"), layers.Dense(1, activation=activation, use_bias=False)]
    )
    model.layers[0].set_weights([np.ones((1, 1))])
    path = export_tflite(model, tmp_path / "a.tflite", verbose=False)
    # 0.3 is a positive logit; its sigmoid, 0.57, is above one half.
    x = np.array([[0.3], [-0.3], [4.0], [-4.0]], np.float32)
    assert evaluate(path, (x, np.array([1, 0, 1, 1]))).accuracy == 0.75
    with pytest.raises(ValueError, match="label 2, which is out of range"):
        evaluate(path, (x, np.array([1, 0, 1, 2])))


@pytest.mark.fast_cases("average-True", "one minus-False", "clip-True")
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("end", ["average", "one minus", "hard sigmoid", "clip"])
def test_one_unit_of_probabilities_without_a_sigmoid(
    tmp_path: pathlib.Path, end: str, known: bool
) -> None:
    i = keras.Input((1,), name="x")
    dense = [layers.Dense(1, activation="sigmoid", use_bias=False) for _ in range(2)]
    output = {
        "average": lambda: layers.Average()([dense[0](i), dense[1](i)]),
        "one minus": lambda: 1.0 - dense[0](-i),
        "hard sigmoid": lambda: layers.Dense(1, "hard_sigmoid", use_bias=False)(i),
        "clip": lambda: keras.ops.clip(layers.Dense(1, use_bias=False)(i) + 0.5, 0.0, 1.0),
    }[end]()
    model = keras.Model(i, output)
    model.set_weights([np.ones((1, 1))] * len(model.weights))
    path = export_tflite(model, tmp_path / "a.tflite", verbose=False)
    if not known:
        path = shutil.copy(path, tmp_path / "copy.tflite")
    x = np.array([[0.3], [-0.3], [4.0], [-4.0]], np.float32)
    assert evaluate(path, (x, np.array([1, 0, 1, 0]))).accuracy == 1.0
    wrong = {"average": 0.5, "one minus": 0.5, "hard sigmoid": 0.75, "clip": 0.75}[end]
    result = evaluate(path, (x, np.array([1, 0, 1, 0])), from_logits=True)
    assert result.accuracy == wrong


def test_probabilities_of_averaged_softmaxes_are_not_softmaxed_again(
    tmp_path: pathlib.Path,
) -> None:
    i = keras.Input((2,))
    outputs = [layers.Dense(3, "softmax", use_bias=False)(i) for _ in range(2)]
    model = keras.Model(i, layers.Average()(outputs))
    model.set_weights([WEIGHTS, WEIGHTS])
    path = export_tflite(model, tmp_path / "a.tflite", verbose=False)
    sure = (np.exp(X @ WEIGHTS) / np.exp(X @ WEIGHTS).sum(-1, keepdims=True)).max(-1)
    for file in (path, shutil.copy(path, tmp_path / "copy.tflite")):
        calibration = evaluate(file, (X, CLASSES)).calibration
        error = calibration["expected_calibration_error"]
        assert error == pytest.approx(np.mean(1 - sure), abs=1e-6)


def test_dense_prediction(tmp_path: pathlib.Path) -> None:
    model = keras.Sequential([keras.Input((2, 2, 2)), layers.Conv2D(3, 1, use_bias=False)])
    model.layers[0].set_weights([WEIGHTS[None, None]])
    path = export_tflite(model, tmp_path / "a.tflite", verbose=False)
    y = CLASSES.reshape(1, 2, 2).copy()
    assert evaluate(path, (X.reshape(1, 2, 2, 2), y), model).accuracy == 1.0
    y[0, 0, 0] = 2
    assert evaluate(path, (X.reshape(1, 2, 2, 2), y)).accuracy == 0.75


def test_outputs_are_chosen_by_name_or_position(tmp_path: pathlib.Path) -> None:
    i = keras.Input((2,), name="x")
    outputs = [layers.Dense(3, use_bias=False, name=name)(i) for name in ("zebra", "ape")]
    model = keras.Model(i, outputs)
    model.get_layer("zebra").set_weights([WEIGHTS])
    model.get_layer("ape").set_weights([-WEIGHTS])
    path = export_tflite(model, tmp_path / "a.tflite", verbose=False)
    labels = {"zebra": CLASSES, "ape": (CLASSES + 1) % 3}
    first = evaluate(path, (X, labels), model)
    assert (first.output, first.accuracy, first.agreement) == ("zebra", 1.0, 1.0)
    for output in ("ape", 1):
        result = evaluate(path, (X, labels), model, output=output)
        expected = np.mean(np.argmax(-X @ WEIGHTS, axis=1) == labels["ape"])
        assert (result.output, result.accuracy) == ("ape", expected)
        assert result.agreement == 1.0
    # One array of labels is of the output that is asked for.
    for output in ("ape", np.int64(1)):
        alone = evaluate(path, (X, labels["ape"]), model, output=output)
        assert alone.accuracy == expected
    as_tuple = tf.data.Dataset.from_tensor_slices((X, (CLASSES, CLASSES))).batch(4)
    assert evaluate(path, as_tuple, model).accuracy == 1.0
    with pytest.raises(ValueError, match=r"`output` must be one of \['zebra', 'ape'\]"):
        evaluate(path, (X, labels), output="cat")
    with pytest.raises(ValueError, match="Received: output=True"):
        evaluate(path, (X, labels), output=True)


def test_weights_that_are_one_array_are_of_every_output(tmp_path: pathlib.Path) -> None:
    i = keras.Input((2,), name="x")
    model = keras.Model(i, [layers.Dense(1, name=name)(i) for name in ("zebra", "ape")])
    path = export_tflite(model, tmp_path / "a.tflite", verbose=False)
    labels, weights = (X[:, 0], X[:, 1]), np.arange(len(X), dtype="float32")
    metrics = {"zebra": ["mae"], "ape": ["mae"]}
    model.compile(loss="mse", weighted_metrics=metrics)
    expected = model.evaluate(X, labels, sample_weight=weights, verbose=0, return_dict=True)
    found = evaluate(path, (X, labels, weights), weighted_metrics=metrics, task="regression")
    for name in ("zebra", "ape"):
        (key,) = (key for key in found.metrics if name in key)
        own = next(value for other, value in expected.items() if name in other and "mae" in other)
        assert found.metrics[key] == pytest.approx(own, rel=1e-4)


def test_several_inputs_by_position_and_name(tmp_path: pathlib.Path) -> None:
    b, a = keras.Input((2,), name="b"), keras.Input((2,), name="a")
    model = keras.Model([b, a], layers.Dense(3, use_bias=False)(layers.Subtract()([b, a])))
    model.layers[-1].set_weights([WEIGHTS])
    path = export_tflite(model, tmp_path / "a.tflite", verbose=False)
    zeros = np.zeros_like(X)
    forms = [
        ((X, zeros), CLASSES),
        ({"a": zeros, "b": X}, CLASSES),
        tf.data.Dataset.from_tensor_slices(((X, zeros), CLASSES)).batch(3),
        tf.data.Dataset.from_tensor_slices(({"a": zeros, "b": X}, CLASSES)).batch(3),
    ]
    for data in forms:
        result = evaluate(path, data, model)
        assert (result.accuracy, result.agreement) == (1.0, 1.0)
    with pytest.raises(ValueError, match=r"no value for the input\(s\) \['b'\]"):
        evaluate(path, ({"a": zeros}, CLASSES))
    with pytest.raises(ValueError, match=r"gives 1 input\(s\) and the model has 2"):
        evaluate(path, np.zeros((4, 2), np.float32))


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (np.zeros((0, 2)), ValueError, "`data` is empty"),
        (tf.data.Dataset.from_tensor_slices((X, CLASSES)).take(0), ValueError, "`data` is empty"),
        (np.zeros((4, 5)), ValueError, r"batch of shape \(4, 5\) where the model has the input"),
        (np.array([["a", "b"]]), TypeError, "Give numbers"),
        ((X, np.array([0, 1, 2, 3])), ValueError, "label 3, which is out of range.*labels 0 to 2"),
        ((X, np.array([0, 1, 2, -1])), ValueError, "label -1, which is out of range"),
        ((X, np.array([0, 1, 2, 0.5])), ValueError, "not whole numbers"),
        ((X, np.zeros((4, 7))), ValueError, r"labels of shape \(4, 7\)"),
        ((X, np.ones((4, 3))), ValueError, "not one-hot"),
        ((X, CLASSES[:3]), ValueError, "different lengths"),
        (5, TypeError, "must be a tf.data.Dataset"),
    ],
)
def test_wrong_data(path: pathlib.Path, data: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        evaluate(path, data)


def test_a_model_which_the_file_was_not_made_from(path: pathlib.Path) -> None:
    other = keras.Sequential([keras.Input((2,)), layers.Dense(5)])
    with pytest.raises(ValueError, match="was not made from this model"):
        evaluate(path, X, other)


@pytest.mark.parametrize("argument", ["batch_size", "max_samples", "threads"])
def test_numbers_below_one(path: pathlib.Path, argument: str) -> None:
    with pytest.raises(ValueError, match=f"`{argument}`"):
        evaluate(path, X, **{argument: 0})
    if argument == "batch_size":
        with pytest.raises(ValueError, match=f"`{argument}`"):
            evaluate(path, X, **{argument: None})


def test_nan_outputs_are_told(path: pathlib.Path) -> None:
    with pytest.warns(UserWarning, match="NaN or infinite outputs for 1 samples"):
        evaluate(path, np.array([[np.nan, 0], [1, 1]], np.float32))


def test_numbers_for_nan_inputs_are_told(tmp_path: pathlib.Path) -> None:
    model = keras.Sequential([keras.Input((2,)), layers.Dense(3, activation="relu")])
    file = export_tflite(model, tmp_path / "a.tflite", "int8", X, verbose=False)
    with pytest.warns(UserWarning, match="inputs in 1 samples, for which the file gives numbers"):
        evaluate(file, np.array([[np.nan, 0], [1, 1]], np.float32))


def test_what_is_no_path_or_no_model_is_told(path: pathlib.Path, linear: keras.Model) -> None:
    with pytest.raises(TypeError, match=r"`path` must be a path\. Received: Sequential"):
        evaluate(linear, X)
    with pytest.raises(TypeError, match=r"`model` .*evaluate_tflite\(path, \(x, y\)\)"):
        evaluate(path, X, np.zeros(len(X)))


def test_by_class_and_calibration(path: pathlib.Path, linear: keras.Model) -> None:
    result = evaluate(path, (X, np.array([0, 1, 2, 0])), linear)
    assert (result.task, result.model_accuracy) == ("classification", 0.75)
    assert result.confusion == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert [(row["samples"], row["accuracy"]) for row in result.per_class] == [
        (2, 0.5), (1, 1.0), (1, 1.0)
    ]  # fmt: skip
    assert [row["precision"] for row in result.per_class] == [1.0, 0.5, 1.0]
    logits = (X @ WEIGHTS).astype(np.float64)
    confidence = np.max(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), axis=1)
    # No two of the four confidences share one of the 1000 bins.
    error = np.abs(confidence - [1, 1, 1, 0]).mean()
    fine = evaluate(path, (X, np.array([0, 1, 2, 0])), calibration_bins=1000)
    assert fine.calibration["expected_calibration_error"] == pytest.approx(error, rel=1e-5)
    assert len(result.calibration["bins"]) == 15


def test_probabilities_are_not_softmaxed_again(tmp_path: pathlib.Path) -> None:
    model = keras.Sequential([keras.Input((2,)), layers.Dense(3, "softmax", use_bias=False)])
    model.layers[0].set_weights([WEIGHTS])
    for quantization in ("float32", "int8"):
        path = export_tflite(
            model, tmp_path / "a.tflite", quantization, representative_data=X, verbose=False
        )
        result = evaluate(path, (X, CLASSES), calibration_bins=1)
        confidence = np.asarray(model(X)).max(1).mean()
        assert result.calibration["bins"][0]["confidence"] == pytest.approx(confidence, abs=0.02)


def test_metrics_and_regression(tmp_path: pathlib.Path) -> None:
    model = keras.Sequential([keras.Input((2,), name="x"), layers.Dense(1, use_bias=False)])
    model.layers[0].set_weights([np.array([[1.0], [2.0]])])
    path = export_tflite(model, tmp_path / "a.tflite", verbose=False)
    y, weights = np.array([3.5, 2.0, -1.0, 7.0]), np.array([1.0, 0.0, 0.0, 3.0])
    result = evaluate(path, (X, y, weights), model, metrics=["mae"], weighted_metrics=["mse"])
    difference = X @ [1.0, 2.0] - y
    assert result.metrics == pytest.approx(
        {"mae": np.abs(difference).mean(), "mse": np.average(difference**2, weights=weights)}
    )
    assert result.task == "regression"
    assert (result.accuracy, result.agreement, result.per_class, result.calibration) == (None,) * 4
    assert result.max_difference < 1e-5
    assert "mae" in str(result) and "from the Keras model" in str(result)
    plain = evaluate(path, (X, y), model, task="regression")
    assert (plain.metrics, plain.accuracy, plain.agreement) == ({}, None, None)
    with pytest.raises(ValueError, match=r'for regression pass `task="regression"`'):
        evaluate(path, (X, y), model)
    with pytest.raises(ValueError, match="`task` must be one of"):
        evaluate(path, (X, y), model, task="ranking")


def test_metrics_of_several_outputs(tmp_path: pathlib.Path) -> None:
    i = keras.Input((2,), name="x")
    outputs = {"kind": layers.Dense(3, use_bias=False, name="k")(i), "size": layers.Dense(1)(i)}
    model = keras.Model(i, outputs)
    model.get_layer("k").set_weights([WEIGHTS])
    path = export_tflite(model, tmp_path / "a.tflite", verbose=False)
    y = {"kind": np.array([0, 1, 2, 0]), "size": np.arange(4.0)}
    asked = {"kind": ["accuracy"], "size": ["mae"]}
    result = evaluate(path, (X, y), model, metrics=asked, output="kind")
    mae = np.abs(np.asarray(model(X)["size"])[:, 0] - y["size"]).mean()
    assert result.metrics == pytest.approx({"kind_accuracy": 0.75, "size_mae": mae})
    assert (result.output, result.accuracy, result.task) == ("kind", 0.75, "classification")
    assert evaluate(path, (X, y), model, metrics=asked, output="size").task == "regression"


def test_multilabel(tmp_path: pathlib.Path) -> None:
    model = keras.Sequential([keras.Input((2,)), layers.Dense(3, "sigmoid", use_bias=False)])
    model.layers[0].set_weights([WEIGHTS])
    path = export_tflite(model, tmp_path / "a.tflite", verbose=False)
    labels = np.array([[1, 0, 0], [0, 1, 1], [1, 1, 1], [1, 1, 1]])
    result = evaluate(path, (X, labels), model)
    right = (X @ WEIGHTS > 0) == labels
    assert (result.task, result.accuracy) == ("multilabel", pytest.approx(right.mean()))
    assert (result.agreement, result.confusion, result.calibration) == (1.0, None, None)
    assert [row["samples"] for row in result.per_class] == [3, 3, 3]


def test_an_endless_py_dataset(path: pathlib.Path) -> None:
    class Endless(keras.utils.PyDataset):
        num_batches = None

        def __getitem__(self, index):
            return X, CLASSES

    assert evaluate(path, Endless(), max_samples=10).samples == 10
    with pytest.raises(ValueError, match="never ends"):
        evaluate(path, Endless())


def test_speed_memory_and_cost(path: pathlib.Path) -> None:
    result = evaluate(path, X)
    assert (result.macs, result.parameters, result.macs_not_counted) == (6, 6, {})
    assert result.operator_types == {"FULLY_CONNECTED": {"FLOAT32": 1}}
    assert result.loads_with_xnnpack and result.xnnpack_error is None
    assert result.latency_without_xnnpack_ms > 0
    assert result.latency_p90_ms <= result.latency_p99_ms
    for text in ("6 a sample", "without XNNPACK", "peak memory"):
        assert text in str(result)


def test_metrics_by_name_on_logits_are_told_of(tmp_path):
    i = keras.Input((4,))
    model = keras.Model(i, keras.layers.Dense(1)(i))
    path = export_tflite(model, tmp_path / "a.tflite", verbose=False)
    x = np.random.default_rng(0).normal(size=(10, 4)).astype("float32")
    y = (model.predict(x, verbose=0)[:, 0] > 0).astype("int64")
    with pytest.warns(UserWarning, match=r"gives logits, and \['auc'\] of `metrics`"):
        result = evaluate_tflite(path, (x, y), metrics=["auc"], runs=1, warmup=0, verbose=False)
    assert result.accuracy == 1.0


def test_positions_that_were_counted_are_printed(tmp_path):
    i = keras.Input((5, 4))
    model = keras.Model(i, keras.layers.Dense(3)(i))
    path = export_tflite(model, tmp_path / "a.tflite", verbose=False)
    x = np.random.default_rng(0).normal(size=(6, 5, 4)).astype("float32")
    y = model.predict(x, verbose=0).argmax(-1)
    weights = np.repeat([[1.0] * 5, [0.0] * 5], 3, axis=0)
    data = (x, y, weights)
    text = str(evaluate_tflite(path, data, model, runs=1, warmup=0, verbose=False))
    assert "100.00% of 15 positions in 6 samples" in text
