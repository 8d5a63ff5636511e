from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest
from keras import layers

from keras_kd.export.tflite import export_tflite
from keras_kd.measuring.evaluate import JointMetrics, evaluate_tflite
from keras_kd.report import compare_files

X = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")
KINDS = np.random.default_rng(1).integers(0, 2, 20)
SIZES = np.random.default_rng(2).normal(size=20).astype("float32")


class RightAndClose(keras.metrics.Metric):
    """Share of samples of the right kind whose size is off by less than `most`."""

    def __init__(self, name: str = "right_and_close", most: str = "limit") -> None:
        super().__init__(name=name)
        self.most = most
        self.hits: list[float] = [1.0]  # to be reset

    def reset_state(self) -> None:
        self.hits = []

    def update_state(self, y, outputs) -> None:
        right = outputs["kind"].argmax(-1) == y["kind"]
        self.hits += list(right & (np.abs(outputs["size"][:, 0] - y["size"]) < y[self.most]))

    def result(self):
        return np.mean(self.hits)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    x = keras.Input((3,), name="x")
    return keras.Model(x, {"kind": layers.Dense(2)(x), "size": layers.Dense(1)(x)})


@pytest.fixture(scope="module")
def path(model, tmp_path_factory) -> pathlib.Path:
    target = tmp_path_factory.mktemp("joint") / "two.tflite"
    return export_tflite(model, target, verbose=False)


def expected(model) -> float:
    outputs = model(X)
    right = np.argmax(outputs["kind"], -1) == KINDS
    return float(np.mean(right & (np.abs(outputs["size"][:, 0] - SIZES) < 1.0)))


def test_a_metric_of_two_outputs_beside_those_of_one(path, model) -> None:
    limit = np.ones(20, "float32")  # a label that belongs to no output
    result = evaluate_tflite(
        path,
        (X, {"kind": KINDS, "size": SIZES, "limit": limit}),
        metrics={"size": ["mae"]},
        joint_metrics=[RightAndClose()],
        output="kind",
        batch_size=7,
        runs=1,
    )
    assert 0 < expected(model) < 1
    assert result.metrics["right_and_close"] == pytest.approx(expected(model))
    assert "size_mae" in result.metrics and len(result.metrics) == 2
    assert result.accuracy == pytest.approx(np.mean(np.argmax(model(X)["kind"], -1) == KINDS))
    table = compare_files({"model": result}, "right_and_close")
    assert f"| {expected(model):#.4g} |" in table


def test_labels_may_belong_to_no_output(path) -> None:
    class Count(RightAndClose):
        def update_state(self, y, outputs) -> None:
            assert set(outputs) == {"kind", "size"}
            self.hits += list(y["objects"])

    data = (X, {"objects": SIZES})
    result = evaluate_tflite(path, data, joint_metrics=[Count("mean")], runs=1)
    assert result.metrics == {"mean": pytest.approx(SIZES.mean())}
    assert result.accuracy is None
    with pytest.raises(ValueError, match=r"gives labels for \['objects'\]"):
        evaluate_tflite(path, data, metrics={"size": ["mae"]}, runs=1)


def test_several_values_of_one_metric() -> None:
    class Several(RightAndClose):
        def __init__(self, name, value) -> None:
            super().__init__(name)
            self.value = value

        def update_state(self, y, outputs) -> None:
            pass

        def result(self):
            return self.value

    found = JointMetrics([Several("a", [0.25, 0.5]), Several("b", {"map": 1, "map_50": 2.0})])
    found.add(KINDS, {})
    assert found.result() == {"a_0": 0.25, "a_1": 0.5, "map": 1.0, "map_50": 2.0}


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (RightAndClose(), r"must be a list of `keras.metrics.Metric`s.*belong in `metrics`"),
        (["mae"], r"must be a list.*Received: \['mae'\]"),
        ([RightAndClose(), RightAndClose()], "unique names"),
    ],
)
def test_what_is_no_joint_metric(metrics, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JointMetrics(metrics)


def test_a_joint_metric_with_the_name_of_another_is_refused(path) -> None:
    data = (X, {"kind": KINDS, "size": SIZES})
    with pytest.raises(ValueError, match=r"unique names.*beside \['size_mae'\]"):
        evaluate_tflite(
            path, data, metrics={"size": ["mae"]}, joint_metrics=[RightAndClose("size_mae")]
        )


def test_labels_that_do_not_fit_are_told(path) -> None:
    with pytest.raises(
        ValueError, match=r"'right_and_close' could not be .*'kind': \(20, 2\).*Key"
    ):
        evaluate_tflite(path, (X, {"sizes": SIZES}), joint_metrics=[RightAndClose()], batch_size=20)
    with pytest.raises(ValueError, match="need labels"):
        evaluate_tflite(path, X, joint_metrics=[RightAndClose()])
