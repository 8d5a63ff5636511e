from __future__ import annotations

import shutil
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_kd.export.tflite import export_tflite
from keras_kd.measuring.compare import compare
from keras_kd.measuring.evaluate import evaluate_tflite
from keras_kd.measuring.positions import counted_positions

IDS = np.array([[1, 2, 3, 0, 0], [2, 1, 0, 0, 0], [3, 3, 1, 2, 2]])
LABELS = np.where(IDS == 0, 1, IDS % 3)  # wrong at every position of padding
WEIGHTS = (IDS != 0).astype("float32")


@pytest.fixture(scope="module")
def tagger():
    """A tagger that gives `id % 3` everywhere, and masks its padding."""
    i = keras.Input((5,), dtype="int32")
    embedding = layers.Embedding(4, 3, mask_zero=True)
    model = keras.Model(i, layers.Dense(3, use_bias=False)(embedding(i)))
    model.set_weights([np.eye(3, dtype="float32")[np.arange(4) % 3], np.eye(3, dtype="float32")])
    return model


@pytest.fixture(scope="module")
def path(tagger, tmp_path_factory):
    return export_tflite(tagger, tmp_path_factory.mktemp("tagger") / "a.tflite", verbose=False)


@pytest.fixture
def foreign(path, tmp_path):
    """The same file, of which this process does not know the model."""
    return shutil.copy(path, tmp_path / "copy.tflite")


def evaluate(*args, **kwargs):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        result = evaluate_tflite(*args, runs=1, warmup=0, verbose=False, **kwargs)
    return result, [str(w.message) for w in said if "padding" in str(w.message)]


def test_padding_that_the_model_masks_is_not_counted(path, tagger):
    result, said = evaluate(path, (IDS, LABELS), tagger, metrics=["accuracy"])
    assert (result.accuracy, result.model_accuracy, result.agreement) == (1.0, 1.0, 1.0)
    assert sum(row["samples"] for row in result.per_class) == np.sum(IDS != 0)
    assert result.metrics["accuracy"] == 1.0
    assert not said


def test_padding_without_weight_is_not_counted(foreign):
    result, said = evaluate(foreign, (IDS, LABELS, WEIGHTS), metrics=["accuracy"])
    assert result.accuracy == result.metrics["accuracy"] == 1.0
    assert not said


def test_masks_and_weights_of_fewer_or_more_axes():
    output, mask = np.zeros((2, 3, 4, 5)), np.eye(2, 3, dtype=bool)
    weight = np.ones((2, 3, 4))
    weight[..., 1] = 0
    counted = counted_positions(output, mask, weight)
    np.testing.assert_array_equal(counted, mask[..., None] & (weight != 0))
    np.testing.assert_array_equal(counted_positions(output, weight != 0, mask), counted)
    assert counted_positions(output, None, np.zeros(2)) is None


@pytest.mark.parametrize("dtype", ["int32", "bool"])
def test_positions_of_integers_have_no_units(dtype):
    output, mask = np.zeros((2, 3), dtype), np.eye(2, 3, dtype=bool)
    np.testing.assert_array_equal(counted_positions(output, mask, None), mask)
    np.testing.assert_array_equal(counted_positions(output[..., None], mask, None), mask)
    weight = np.array([[1.0, 0.0, 2.0], [1.0, 1.0, 0.0]])
    counted = counted_positions(output, mask, weight)
    np.testing.assert_array_equal(counted, mask & (weight != 0))
    assert counted_positions(output.astype("float32"), mask, weight) is None


class Chosen(layers.Layer):
    """The largest of the scores at each position, whose mask it keeps."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, scores):
        return tf.argmax(scores, axis=-1, output_type=tf.int32)


def test_padding_in_a_map_of_classes_is_not_counted(tagger, tmp_path):
    model = keras.Model(tagger.input, Chosen()(tagger.output))
    path = export_tflite(model, tmp_path / "chosen.tflite", verbose=False)
    result, said = evaluate(path, (IDS, LABELS), model)
    assert (result.accuracy, result.model_accuracy, result.agreement) == (1.0, 1.0, 1.0)
    assert not said
    copy = shutil.copy(path, tmp_path / "copy.tflite")
    result, said = evaluate(copy, (IDS, LABELS, WEIGHTS))
    assert result.accuracy == 1.0
    assert not said
    result, said = evaluate(copy, (IDS, LABELS))
    assert result.accuracy == pytest.approx(np.mean(IDS != 0))
    assert len(said) == 1
    other = keras.models.clone_model(model)
    other.set_weights([np.eye(3, dtype="float32")[[0, 1, 2, 2]], np.eye(3, dtype="float32")])
    # They differ for the id 3 alone, of which there are three at ten positions that count.
    assert evaluate(path, IDS, other)[0].agreement == pytest.approx(0.7)
    assert compare(path, IDS, other).agreement == pytest.approx(0.7)


def test_a_warning_says_that_padding_was_counted(foreign):
    result, said = evaluate(foreign, (IDS, LABELS))
    assert result.accuracy == pytest.approx(np.mean(IDS != 0))
    assert len(said) == 1
    assert "2 samples" in said[0]


def test_padded_vectors(tmp_path):
    i = keras.Input((4, 2))
    x = layers.Masking()(i)
    model = keras.Model(i, layers.Dense(2, use_bias=False)(x))
    model.set_weights([np.eye(2)])
    path = export_tflite(model, tmp_path / "a.tflite", verbose=False)
    inputs = np.eye(2, dtype="float32")[[[0, 1, 0, 0], [1, 1, 1, 0]]]
    inputs[0, 2:] = 0
    labels = np.array([[0, 1, 1, 1], [1, 1, 1, 0]])
    result, said = evaluate(path, (inputs, labels), model)
    assert (result.accuracy, said) == (1.0, [])
    result, said = evaluate(shutil.copy(path, tmp_path / "b.tflite"), (inputs, labels))
    assert (result.accuracy, len(said)) == (0.75, 1)


def test_images_are_not_called_padded(tmp_path):
    model = keras.Sequential([keras.Input((4, 4, 1)), layers.Conv2D(2, 1)])
    path = export_tflite(model, tmp_path / "a.tflite", verbose=False)
    data = np.zeros((1, 4, 4, 1)), np.zeros((1, 4, 4), int)
    assert evaluate(shutil.copy(path, tmp_path / "b.tflite"), data)[1] == []


def test_compare_leaves_padding_out(path, tagger):
    other = keras.models.clone_model(tagger)
    weights = tagger.get_weights()
    weights[0][0] = 7.0, 0.0, 9.0  # the vector of padding
    other.set_weights(weights)
    result = compare(other, path, IDS, verbose=False)
    assert (result.agreement, result.max_difference) == (1.0, 0.0)


@pytest.mark.parametrize("axes", [0, 1, 2])
def test_weights_with_axes_of_one_leave_positions_out(axes):
    output, weight = np.zeros((2, 3, 4)), np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]])
    given = weight.reshape(weight.shape + (1,) * axes)
    np.testing.assert_array_equal(counted_positions(output, None, given), weight != 0)
    # One weight per sample leaves no position out.
    assert counted_positions(output, None, np.zeros((2, 1))) is None


def test_pixels_of_weight_zero_do_not_count_whatever_the_shape_of_their_weights(tmp_path):
    model = keras.Sequential([keras.Input((4, 4, 1)), layers.Conv2D(2, 1, use_bias=False)])
    model.set_weights([np.array([[[[-1.0, 1.0]]]])])
    file = export_tflite(model, tmp_path / "a.tflite", verbose=False)
    x, y = np.ones((8, 4, 4, 1), "float32"), np.ones((8, 4, 4, 1), int)
    w = np.ones((8, 4, 4, 1), "float32")
    y[:, :2], w[:, :2] = 255, 0
    for weights in (w, w[..., 0]):
        assert evaluate(file, (x, y, weights), model=model)[0].accuracy == 1.0
