from __future__ import annotations

import numpy as np
import pytest

from keras_kd.measuring.answers import answers, by_output, likely_task, task_of, unit_labels

OUTPUT = np.array([[0.2, 0.9, 0.4], [0.8, 0.1, 0.7]])


def test_answers() -> None:
    assert answers(OUTPUT, "classification", 0.5).tolist() == [1, 0]
    assert answers(OUTPUT, "multilabel", 0.5).tolist() == [[0, 1, 0], [1, 0, 1]]
    assert answers(OUTPUT[:, :1], "classification", 0.5).tolist() == [0, 1]
    assert answers(OUTPUT[:, 0], "classification", 0.5).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("labels", "errors", "sigmoid", "expected"),
    [
        (None, False, True, "classification"),
        (None, True, False, "regression"),
        (np.array([0, 1]), False, True, "classification"),
        (np.array([[0, 1, 0], [1, 0, 0]]), False, True, "classification"),
        (np.array([[0, 1, 0], [1, 0, 1]]), False, True, "multilabel"),
        (np.array([[0, 1, 0], [1, 0, 1]]), False, False, "classification"),
        (np.array([[0.5, 0.5, 0], [1, 0, 1]]), False, True, "classification"),
    ],
)
def test_tasks(labels, errors: bool, sigmoid: bool, expected: str) -> None:
    assert task_of(labels, OUTPUT, errors, sigmoid) == expected


def test_labels_by_output() -> None:
    a, b = np.arange(2), np.arange(2.0)
    for given in ({"x": a, "y:0": b}, (a, b), [a, b]):
        found = by_output(given, ["x", "y_0"], "labels")
        assert found[0] is a and found[1] is b
    assert by_output({"y_0": b}, ["x", "y_0"], "labels")[0] is None
    assert by_output(a, ["x", "y_0"], "labels") == [pytest.approx(a), None]
    assert by_output({"index": b, "label": a}, ["x"], "labels")[0] is a  # as for kd.losses.CRD
    with pytest.raises(ValueError, match=r"gives labels for \['z'\]; the file's outputs"):
        by_output({"x": a, "z": b}, ["x", "y"], "labels")
    with pytest.raises(ValueError, match="3 arrays of labels and the file has 2"):
        by_output((a, a, a), ["x", "y"], "labels")


def test_unit_labels() -> None:
    assert unit_labels(OUTPUT > 0.5, OUTPUT).dtype.kind == "i"
    for wrong in (np.array([0, 1]), np.full((2, 3), 2)):
        with pytest.raises(ValueError, match="labels are 0 or 1 for every unit"):
            unit_labels(wrong, OUTPUT)


LOGITS = np.array([[0.2, -0.9, 0.4], [3.0, 0.1, -0.7]])
UNIT = LOGITS / np.linalg.norm(LOGITS, axis=-1, keepdims=True)
ONE = np.array([[0.5], [-2.0]])


@pytest.mark.parametrize(
    ("output", "labels", "end", "first", "expected"),
    [
        (LOGITS, None, "linear", True, "classification"),
        (LOGITS, None, "linear", False, "regression"),  # boxes, states
        (OUTPUT, None, "sigmoid", False, "classification"),
        (UNIT, None, "linear", True, "regression"),  # embeddings
        (LOGITS, np.array([2, 0]), "linear", False, "classification"),
        (LOGITS, np.array([[0, 0, 1], [1, 0, 0]]), "linear", True, "classification"),
        (LOGITS, np.array([[0.2, 0.2, 0.6], [1, 0, 0]]), "linear", True, "classification"),
        (LOGITS, np.array([[1, 0, 1], [1, 0, 0]]), "linear", True, "multilabel"),
        (LOGITS, np.array([[5.0, 0, 1], [1, -2, 0]]), "linear", True, "regression"),
        (ONE, None, "linear", True, "classification"),
        (ONE + 9, None, "linear", True, "regression"),  # all on one side of 0
        (ONE, np.array([1, 0]), "linear", True, "classification"),
        (ONE, np.array([0.5, 0.1]), "linear", True, "regression"),
        (ONE, np.array([[31], [8]]), "linear", True, "regression"),
        (np.abs(ONE) / 4, np.array([0.5, 0.1]), "sigmoid", True, "classification"),
        (np.abs(ONE) / 4, None, None, True, "classification"),
    ],
)
def test_likely_tasks(output, labels, end, first, expected) -> None:
    image = np.zeros((2, 8))
    assert likely_task(output, labels, end, [image], False, first) == expected
    if labels is None:
        assert likely_task(output, None, end, [image], True, first) == "regression"


def test_an_output_of_the_inputs_shape_is_a_reconstruction() -> None:
    assert likely_task(LOGITS, None, "linear", [OUTPUT], False, True) == "regression"
    assert likely_task(OUTPUT, None, "softmax", [OUTPUT], False, True) == "classification"


@pytest.mark.parametrize("shape", [(6,), (6, 1), (2, 3), (2, 3, 4)])
def test_integers_that_a_model_chose_are_classes(shape) -> None:
    chosen = np.arange(np.prod(shape)).reshape(shape)
    for labels in (None, chosen, chosen.astype("float32")):
        assert likely_task(chosen, labels, None, [], False, True) == "classification"
    assert likely_task(chosen, chosen + 0.5, None, [], False, True) == "regression"
