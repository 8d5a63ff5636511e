from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_kd.data.input import Input
from keras_kd.export.calibration import (
    Calibration,
    Samples,
    calibrate,
    to_measure,
    warnings_of,
)

X = np.arange(200, dtype=np.float32)[:, None]
INPUT = Input("x", (None, 1), np.dtype(np.float32))


def values(calibration: Calibration) -> list[float]:
    assert all(sample["x"].shape == (1, 1) for sample in calibration.samples)
    return [float(sample["x"][0, 0]) for sample in calibration.samples]


def test_arrays_are_sampled_at_even_distances():
    calibration = calibrate((X, X[:, 0].astype(int)), [INPUT], 2)
    assert len(calibration.samples) == 64 and calibration.batches == 2
    assert values(calibration)[0] == 0 and values(calibration)[-1] == 199
    assert values(calibration) == calibration.labels.tolist()
    assert np.ptp(np.diff(values(calibration))) <= 1


def test_the_first_batches_of_a_dataset_are_taken_whole():
    data = tf.data.Dataset.from_tensor_slices((X, X[:, 0])).batch(7)
    calibration = calibrate(data, [INPUT], 3)
    assert values(calibration) == list(range(21))
    assert calibration.batches == 3


def test_256_samples_are_taken_where_no_number_is_given():
    data = tf.data.Dataset.from_tensor_slices(X).repeat(2).batch(100)
    calibration = calibrate(data, [INPUT], None)
    assert values(calibration) == [*range(200), *range(56)]
    assert calibration.labels is None
    assert not calibration.measured.held_out  # the next ones calibrate already
    assert len(calibrate(X[:63], [INPUT], None).samples) == 63


def kept(samples: Samples) -> list[float]:
    return [float(x) for batch in samples.batches for x in batch.inputs["x"][:, 0]]


def test_samples_that_calibrate_are_kept_from_the_measurement():
    many = np.arange(1000, dtype=np.float32)[:, None]
    data = tf.data.Dataset.from_tensor_slices((many, many[:, 0])).batch(50)
    for given, calibrating in ((many, None), (data, None), (many, 4), (data, 4)):
        found = calibrate(given, [INPUT], calibrating)
        assert len(found.samples) == {None: 256, 4: 200 if given is data else 128}[calibrating]
        parts = [values(found), kept(found.choosing), kept(found.measured)]
        assert [len(part) for part in parts[1:]] == [128, 128]
        assert len({x for part in parts for x in part}) == sum(map(len, parts))
        assert found.measured.held_out and found.choosing.held_out


def test_a_quarter_of_little_data_is_kept():
    found = calibrate((X, X[:, 0]), [INPUT], None)
    assert (len(found.samples), len(found.measured), len(found.choosing)) == (150, 25, 25)
    assert set(values(found)).isdisjoint([*kept(found.measured), *kept(found.choosing)])
    (first, *_) = found.measured.batches
    assert first.size == 16 and first.y.tolist() == kept(found.measured)[:16]


@pytest.mark.parametrize(("count", "batches"), [(63, None), (40, None), (128, 4), (130, 4)])
def test_what_is_too_short_is_measured_where_it_calibrates(count, batches):
    found = calibrate(X[:count], [INPUT], batches)
    assert len(found.samples) == min(count, 128)
    assert not found.measured.held_out
    assert set(kept(found.measured)) <= set(values(found))


def test_validation_data_that_calibrates_is_not_held_out():
    calibration = calibrate(X[:100], [INPUT], None)
    assert to_measure(X[100:], [INPUT], "validation_data", calibration).held_out
    assert not to_measure(X, [INPUT], "validation_data", calibration).held_out
    assert len(to_measure(X, [INPUT], "validation_data")) == 128
    with pytest.raises(ValueError, match="`validation_data` is empty"):
        to_measure(X[:0], [INPUT], "validation_data")
    with pytest.raises(ValueError, match="`validation_data` holds NaN"):
        to_measure(X * np.nan, [INPUT], "validation_data")


def test_samples_of_different_sizes_are_not_joined():
    words = Input("words", (None, None), np.dtype(np.int32))
    data = [np.full((2, length), i) for i, length in enumerate([3, 3, 5])]
    samples = to_measure(data, [words], "validation_data")
    assert [batch.inputs["words"].shape for batch in samples.batches] == [(4, 3), (2, 5)]
    one_by_one = Input("words", (1, None), np.dtype(np.int32))
    assert [b.size for b in to_measure(data, [one_by_one], "data").batches] == [1] * 6


def test_more_batches_than_there_are():
    data = tf.data.Dataset.from_tensor_slices(X).batch(100)
    with pytest.raises(ValueError, match=r"has 2 batches.*or calibration_batches=2"):
        calibrate(data, [INPUT], 3)


@pytest.mark.parametrize(
    ("labels", "units", "missing"),
    [
        ([0, 2, 2], 3, [1]),
        ([[0], [2], [2]], 3, [1]),
        ([[1, 0, 0], [0, 0, 1]], 3, [1]),
        ([0.0, 2.0], 3, [1]),
        ([0, 1, 2], 3, []),
        ([1, 1], 1, [0]),
        ([[1, 1, 0]], 3, []),  # several classes at once
        ([[0.2, 0.3, 0.5]], 3, []),  # probabilities
        ([0, 7], 3, []),  # no classes: a regression, or another output's labels
        ([0.5, 1.5], 1, []),
        ([0, 2], None, []),
        (None, 3, []),
    ],
)
def test_missing_classes(labels, units, missing):
    labels = None if labels is None else np.array(labels)
    assert Calibration([], 1, labels).missing_classes(units) == missing


def test_warnings_name_what_is_missing():
    samples = [{"x": row[None]} for row in X[:32]]
    few = Calibration(samples[:31], 1, np.array([0, 1]))
    many = Calibration(samples, 1, np.array([0, 1]))
    small, classes = warnings_of(few, 4, ["ant", "bee", "cat", "dog"])
    assert "31 samples" in small and "calibration_batches=8" in small
    assert "lack the classes 'cat', 'dog'," in classes and "shuffle" in classes
    assert len(warnings_of(many, 4, None)) == 1
    assert warnings_of(many, 2, None) == []
    (thousand,) = warnings_of(many, 1000, None)
    assert "2, 3, 4, 5, 6, 7, 8, 9 and 990 more" in thousand


@pytest.mark.parametrize(("value", "said"), [(0.0, "Input 'x' is 0 throughout"), (2.5, "is 2.5")])
def test_constant_samples_are_warned_of(value, said):
    (sentence,) = warnings_of(calibrate(np.full((40, 1), value, "float32"), [INPUT], None), 1, None)
    assert said in sentence
    assert warnings_of(calibrate(X, [INPUT], None), 1, None) == []
