from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_kd.data.input import Input
from keras_kd.data.numpy_batches import iterate

IMAGE = Input("image", (None, 4), np.dtype("float32"))
TOKENS = Input("tokens", (None, 3), np.dtype("int32"))
X = np.arange(40, dtype=np.float32).reshape(10, 4)


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
