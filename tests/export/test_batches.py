from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.export.batches import iterate, representative_samples
from keras_kd.litert.input import Input

IMAGE = Input("image", (None, 4), np.dtype("float32"))
TOKENS = Input("tokens", (None, 3), np.dtype("int32"))
X = np.arange(40, dtype=np.float32).reshape(10, 4)


def test_arrays_are_sampled_at_even_distances() -> None:
    samples = representative_samples((X, np.zeros(10)), [IMAGE], 4)
    np.testing.assert_array_equal([s["image"][0, 0] for s in samples], [0, 12, 24, 36])
    assert samples[0]["image"].shape == (1, 4)


def test_the_first_samples_of_a_dataset_are_taken() -> None:
    data = tf.data.Dataset.from_tensor_slices((X, np.zeros(10))).batch(3).repeat()
    samples = representative_samples(data, [IMAGE], 5)
    np.testing.assert_array_equal([s["image"][0, 0] for s in samples], [0, 4, 8, 12, 16])


def test_fewer_samples_than_asked_for() -> None:
    assert len(representative_samples(X[:2], [IMAGE], 256)) == 2


class Sequence(keras.utils.PyDataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int):
        return X[index * 5 : index * 5 + 5], np.full(5, index)


def test_a_py_dataset() -> None:
    batches = list(iterate(Sequence(), [IMAGE], 32, "data"))
    assert [b.size for b in batches] == [5, 5]
    np.testing.assert_array_equal(batches[1].y, [1] * 5)


def test_types_are_those_of_the_inputs() -> None:
    (batch,) = iterate(X.astype(np.uint8), [IMAGE], 32, "data")
    assert batch.inputs["image"].dtype == np.float32
    (batch,) = iterate(np.ones((2, 3), np.float64), [TOKENS], 32, "data")
    assert batch.inputs["tokens"].dtype == np.int32
    with pytest.raises(TypeError, match="fractions where the model has the integer input 'tokens'"):
        list(iterate(np.full((2, 3), 0.5), [TOKENS], 32, "data"))


def test_several_inputs_without_labels() -> None:
    tokens = np.ones((10, 3), np.int32)
    for data in ((X, tokens), ((X, tokens),), {"image": X, "tokens": tokens}):
        (batch,) = iterate(data, [IMAGE, TOKENS], 32, "data")
        np.testing.assert_array_equal(batch.inputs["tokens"], tokens)
        assert batch.y is None
