from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.data.input import Input
from keras_kd.data.numpy_batches import iterate, joined
from keras_kd.data.taught_inputs import TaughtInputs

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


@pytest.mark.parametrize(
    ("values", "kind"),
    [(0.5, "int32"), (np.nan, "int32"), (2**40, "int32"), (300, "uint8"), (-1, "uint8")],
)
def test_numbers_that_an_integer_input_cannot_hold_are_refused(values, kind):
    target = Input("tokens", (None, 3), np.dtype(kind))
    with pytest.raises(TypeError, match=r"the integer input 'tokens'.*Received: numbers from"):
        list(iterate(np.full((2, 3), values), [target], 32, "data"))
    list(iterate(np.full((2, 3), 255), [target], 32, "data"))


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


BOX = Input("box", (None, 3, 4), np.dtype("float32"))


@pytest.mark.parametrize("names", [("image", "box"), ("box", "image")])
def test_dictionaries_may_have_their_keys_in_any_order(names):
    arrays = {"image": X, "box": np.ones((10, 3, 4), np.float32)}
    x, y = {name: arrays[name] for name in names}, np.arange(10)
    dataset = tf.data.Dataset.from_tensor_slices((x, y))
    batches = [({name: x[name][i : i + 5] for name in x}, y[i : i + 5]) for i in (0, 5)]
    samples = [({name: x[name][i] for name in x}, y[i]) for i in range(10)]
    for data in ((x, y), dataset, dataset.batch(5), batches, samples):
        found = list(iterate(data, [BOX, IMAGE], 5, "data"))
        np.testing.assert_array_equal(np.concatenate([np.ravel(b.y) for b in found]), y)
        np.testing.assert_array_equal(np.concatenate([b.inputs["image"] for b in found]), X)


@pytest.mark.parametrize(
    "labels",
    [list(range(10)), {"a": list(range(10))}, [list(range(10)), np.arange(10)], np.arange(10)],
)
def test_labels_may_be_lists(labels):
    for data in ((X, labels), (X, labels, None), (X, labels, [1.0] * 10)):
        for limit in (None, 4):
            found = list(iterate(data, [IMAGE], 3, "data", limit))
            assert sum(batch.size for batch in found) == (limit or 10)
            for batch in found:
                expected = batch.inputs["image"][:, 0] / 4
                for part in keras.tree.flatten(batch.y):
                    np.testing.assert_array_equal(part, expected)
    with pytest.raises(ValueError, match="arrays of different lengths"):
        list(iterate((X, list(range(9))), [IMAGE], 3, "data"))


def test_some_samples_of_arrays_cover_all_of_them():
    (batch,) = iterate((X, np.arange(10)), [IMAGE], 32, "data", 4)
    np.testing.assert_array_equal(batch.y, [0, 3, 6, 9])
    batches = [(X[i : i + 3], np.arange(i, i + 3)) for i in (0, 3, 6)]
    found = list(iterate(batches, [IMAGE], 32, "data", 4))
    np.testing.assert_array_equal(np.concatenate([b.y for b in found]), [0, 1, 2, 3])


@pytest.mark.parametrize("values", [0.5, np.nan, 2, -1])
def test_a_boolean_input_takes_zeros_and_ones(values):
    target = Input("known", (None, 3), np.dtype("bool"))
    with pytest.raises(TypeError, match="the boolean input 'known'"):
        list(iterate(np.full((2, 3), values), [target], 32, "data"))
    (batch,) = iterate(np.array([[0.0, 1.0, 1.0]]), [target], 32, "data")
    np.testing.assert_array_equal(batch.inputs["known"], [[False, True, True]])


@pytest.mark.parametrize("labeled", [True, False])
@pytest.mark.parametrize("form", ["arrays", "batches", "examples", "iterable", "function"])
def test_the_outputs_of_a_teacher_are_no_labels(labeled, form):
    taught = TaughtInputs(X, np.ones((10, 2), np.float32), {"hidden": X})
    data = (taught, np.arange(10)) if labeled else taught
    element = data if labeled else (data,)
    examples = tf.data.Dataset.from_tensor_slices(element)
    data = {
        "arrays": data,
        "batches": examples.batch(10),
        "examples": examples,
        "iterable": [element],
        "function": lambda: iter([element]),
    }[form]
    (batch,) = iterate(data, [IMAGE], 32, "data")
    np.testing.assert_array_equal(batch.inputs["image"], X)
    np.testing.assert_array_equal(batch.x, X)
    assert batch.y is None if not labeled else (batch.y == np.arange(10)).all()
