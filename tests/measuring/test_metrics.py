from __future__ import annotations

import keras
import numpy as np
import pytest
from sklearn.metrics import f1_score, mean_absolute_error, r2_score, roc_auc_score

from keras_kd.measuring.metrics import FileMetrics

GENERATOR = np.random.default_rng(0)
SCORES = GENERATOR.random((40, 3)).astype(np.float32)
LABELS = GENERATOR.integers(0, 3, 40)
NUMBERS = GENERATOR.normal(size=(40, 1)).astype(np.float32)
TARGETS = GENERATOR.normal(size=40)
WEIGHTS = GENERATOR.random(40)


def measured(metrics, weighted, labels, outputs, weights=None, names=("a",)) -> dict[str, float]:
    shapes = [(None, *output.shape[1:]) for output in outputs]
    found = FileMetrics(metrics, weighted, names, shapes)
    weights = weights or [None] * len(outputs)
    for part in (slice(0, 11), slice(11, 40)):
        cut = [[None if x is None else x[part] for x in xs] for xs in (labels, outputs, weights)]
        found.add(*cut)
    return found.result()


def test_against_scikit_learn() -> None:
    f1 = keras.metrics.F1Score(name="f1")
    result = measured(["accuracy", f1], None, [np.eye(3)[LABELS]], [SCORES])
    expected = f1_score(LABELS, SCORES.argmax(1), average=None)
    assert result == pytest.approx(
        {
            "accuracy": np.mean(SCORES.argmax(1) == LABELS),
            **{f"f1_{i}": value for i, value in enumerate(expected)},
        }
    )
    result = measured(["mae", "r2_score"], None, [TARGETS], [NUMBERS])
    assert result["mae"] == pytest.approx(mean_absolute_error(TARGETS, NUMBERS[:, 0]), rel=1e-5)
    assert result["r2_score"] == pytest.approx(r2_score(TARGETS, NUMBERS[:, 0]), rel=1e-4)
    binary = (TARGETS > 0).astype(int)
    auc = keras.metrics.AUC(num_thresholds=2000)
    result = measured([auc], None, [binary], [SCORES[:, :1]])
    assert next(iter(result.values())) == pytest.approx(
        roc_auc_score(binary, SCORES[:, 0]), abs=5e-3
    )


def test_only_weighted_metrics_use_the_weights() -> None:
    result = measured(["mae"], ["mse"], [TARGETS], [NUMBERS], [WEIGHTS])
    difference = NUMBERS[:, 0] - TARGETS
    assert result["mae"] == pytest.approx(np.abs(difference).mean(), rel=1e-5)
    assert result["mse"] == pytest.approx(np.average(difference**2, weights=WEIGHTS), rel=1e-5)


def test_positions_without_weight_or_mask_count_in_no_metric() -> None:
    outputs = SCORES.reshape(40, 3, 1)
    labels, weights = (outputs[..., 0] > 0.5).astype(int), np.ones((40, 3))
    labels[:, 2], weights[:, 2] = 1 - labels[:, 2], 0
    mask = np.ones((40, 3), bool)
    mask[:, 1] = False
    of_metrics = (["accuracy", "auc"], [keras.metrics.BinaryAccuracy(name="weighted")])
    for given, kept in (((weights, None), [0, 1]), ((weights, mask), [0]), ((None, mask), [0, 2])):
        found = FileMetrics(*of_metrics, ["a"], [(None, 3, 1)])
        whole = FileMetrics(*of_metrics, ["a"], [(None, 1)])
        found.add([labels], [outputs], [given[0]], [given[1]])
        whole.add([labels[:, kept].ravel()], [outputs[:, kept].reshape(-1, 1)], [None])
        assert found.result() == pytest.approx(whole.result())
    found = FileMetrics(*of_metrics, ["a"], [(None, 3, 1)])
    found.add([labels], [outputs], [np.arange(40)], [mask])  # weights of samples leave none out
    found.add([labels], [outputs], [0 * weights], [mask])
    right = (labels == (outputs[..., 0] > 0.5))[:, [0, 2]]
    assert found.result()["accuracy"] == pytest.approx(right.mean())
    expected = np.average(right.mean(axis=1), weights=np.arange(40))
    assert found.result()["weighted"] == pytest.approx(expected)


def test_several_outputs_of_which_one_has_labels() -> None:
    found = FileMetrics({"n": ["mae"]}, None, ["c", "n"], [(None, 3), (None, 1)])
    assert [found.measures_errors(i) for i in range(2)] == [False, True]
    result = measured({"n": ["mae"]}, None, [None, TARGETS], [SCORES, NUMBERS], names=("c", "n"))
    assert result == {"n_mae": pytest.approx(np.abs(NUMBERS[:, 0] - TARGETS).mean(), rel=1e-5)}
    result = measured(
        [["accuracy"], ["mae"]], None, [LABELS, TARGETS], [SCORES, NUMBERS], names=("c", "n")
    )
    assert set(result) == {"c_accuracy", "n_mae"}
    with pytest.raises(ValueError, match="no labels for the output 'n'"):
        measured({"n": ["mae"]}, None, [LABELS, None], [SCORES, NUMBERS], names=("c", "n"))


def test_names_and_states_do_not_pile_up() -> None:
    binary = (TARGETS > 0).astype(int)
    results = [measured(["auc"], None, [binary], [SCORES[:, :1]]) for _ in range(2)]
    assert list(results[0]) == list(results[1]) == ["auc"]
    metric = keras.metrics.MeanAbsoluteError(name="mae")
    results = [measured([metric], None, [TARGETS], [NUMBERS]) for _ in range(2)]
    assert results[0] == results[1]
    assert measured([metric], None, [NUMBERS[:, 0]], [NUMBERS]) == {"mae": 0.0}


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (["mae", keras.metrics.RootMeanSquaredError()], True),
        ([keras.losses.mean_squared_error, "r2_score", keras.metrics.LogCoshError()], True),
        (["mae", "accuracy"], False),
        (["auc"], False),
        ([], False),
    ],
)
def test_metrics_of_errors(metrics, expected: bool) -> None:
    assert FileMetrics(metrics, None, ["a"], [(None, 1)]).measures_errors(0) is expected


@pytest.mark.parametrize("metrics", [["mae", "accuracy"], [["mae"], ["accuracy"]]])
def test_each_output_has_its_own_entry_of_a_list(metrics) -> None:
    asked = FileMetrics(metrics, None, ["a", "b"], [(None, 1), (None, 1)])
    assert [asked.measures_errors(0), asked.measures_errors(1)] == [True, False]
    assert asked.result_names() == {"a_mae", "b_accuracy"}


@pytest.mark.parametrize(
    ("metrics", "names", "message"),
    [
        ("mae", ["a"], r"Write \['mae'\] for one metric"),
        ({"b": ["mae"]}, ["a"], r"names the output\(s\) \['b'\]; the file's outputs are \['a'\]"),
        (["mae"], ["a", "b"], r'as a dict by output, such as \{"a": \["accuracy"\]\}'),
        (["nonsense"], ["a"], r"Keras could not compute the metrics.*nonsense"),
    ],
)
def test_wrong_metrics(metrics, names, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        count = len(names)
        measured(metrics, None, [TARGETS] * count, [NUMBERS] * count, names=names)


@pytest.mark.parametrize(
    ("metrics", "units", "named"),
    [
        (["auc", "precision"], 1, "['auc', 'precision']"),
        (["accuracy"], 1, "['accuracy']"),
        (["accuracy"], 3, None),
        (["auc", "mae"], 3, "['auc']"),
        (["f1_score"], 3, None),
        ([keras.metrics.AUC(from_logits=True)], 1, None),
    ],
)
def test_metrics_with_thresholds_are_told_of_logits(metrics, units, named, recwarn) -> None:
    FileMetrics(metrics, None, ["scores"], [(None, units)]).warn_of_logits(0)
    said = [str(w.message) for w in recwarn if "gives logits" in str(w.message)]
    assert bool(said) == (named is not None)
    assert named is None or named in said[0]
