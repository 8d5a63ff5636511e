from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_kd.data.input import Input
from keras_kd.data.numpy_batches import iterate, joined

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


def test_a_generator_function_of_a_tflite_converter() -> None:
    def images():
        for row in X:
            yield [row[None]]

    def both():
        for row in X:
            yield [row[None], np.ones((1, 3))]

    def named():
        yield {"tokens": np.ones((2, 3)), "image": X[:2]}

    for _ in range(2):  # the function is called again, where a generator would be used up
        found = list(iterate(images, [IMAGE], 32, "data"))
        np.testing.assert_array_equal(np.concatenate([b.inputs["image"] for b in found]), X)
    assert next(iterate(both, [IMAGE, TOKENS], 32, "data")).inputs["tokens"].dtype == np.int32
    assert next(iterate(named, [IMAGE, TOKENS], 32, "data")).size == 2


def test_functions_that_are_no_data_are_refused() -> None:
    with pytest.raises(TypeError, match=r"cannot be called without arguments.*data=<lambda>"):
        list(iterate(lambda x: x, [IMAGE], 32, "data"))
    with pytest.raises(TypeError, match=r"returns no batches.*returns NoneType"):
        list(iterate(lambda: None, [IMAGE], 32, "data"))


def test_rows_of_several_batches_become_one() -> None:
    first, second = iterate((X[:6], np.arange(6)), [IMAGE], 3, "data")
    batch = joined([(first, 2), (second, 0)])
    np.testing.assert_array_equal(batch.inputs["image"], X[2:4])
    assert (batch.y.tolist(), batch.size, batch.sample_weight) == ([2, 3], 2, None)
