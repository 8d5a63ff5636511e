import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.data.first_batch import (
    FirstBatch,
    check_batched,
    check_finite_data,
    check_inputs,
    first_batch,
    without_losing_the_first,
)
from keras_kd.losses.top_k_logits import top_k_logits
from keras_kd.teachers import TaughtInputs


class Batches(keras.utils.PyDataset):
    def __init__(self, count):
        super().__init__()
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return np.full((2, 3), index, "float32"), np.array([0, 1])


def test_arrays_give_few_inputs_and_every_label():
    batch = first_batch(np.zeros((100, 3), "float32"), np.arange(100))
    assert batch.inputs.shape == (32, 3)
    np.testing.assert_array_equal(batch.labels, np.arange(100))


def test_datasets_give_their_first_batch():
    dataset = tf.data.Dataset.from_tensor_slices((np.ones((6, 3)), np.arange(6))).batch(4)
    batch = first_batch(dataset)
    assert batch.inputs.shape == (4, 3)
    np.testing.assert_array_equal(batch.labels, [0, 1, 2, 3])


def test_datasets_without_labels():
    assert first_batch(tf.data.Dataset.from_tensor_slices(np.ones((6, 3))).batch(4)).labels is None


def test_py_datasets():
    assert first_batch(Batches(2)).inputs.shape == (2, 3)


@pytest.mark.parametrize(
    "data",
    [
        np.zeros((0, 3)),
        tf.data.Dataset.from_tensor_slices((np.ones((3, 3)), np.ones(3))).batch(
            4, drop_remainder=True
        ),
        Batches(0),
    ],
    ids=["array", "dataset", "py_dataset"],
)
def test_empty_data_is_refused(data):
    with pytest.raises(ValueError, match="holds no examples"):
        first_batch(data)


def test_generators_are_not_used_up():
    generator = ((np.ones((2, 3)), np.ones(2)) for _ in range(3))
    assert first_batch(generator) is None
    assert len(list(generator)) == 3


def test_first_batch_of_a_generator_is_seen_and_still_yielded():
    generator = ((np.full((2, 3), i), np.full(2, i)) for i in range(3))
    same, batch = without_losing_the_first(generator)
    assert batch.inputs.shape == (2, 3)
    assert batch.labels.tolist() == [0, 0]
    assert [labels.tolist() for _, labels in same] == [[0, 0], [1, 1], [2, 2]]


def test_other_data_is_left_alone_and_empty_generators_are_refused():
    x = np.ones((2, 3))
    assert without_losing_the_first(x) == (x, None)
    with pytest.raises(ValueError, match="holds no examples"):
        without_losing_the_first(batch for batch in ())


class TaughtBatches(Batches):
    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return TaughtInputs(x, x[:, :2]), y


def _taught(kind):
    arrays = TaughtInputs(np.ones((6, 3), "float32"), np.zeros((6, 2), "float32"))
    if kind == "arrays":
        return first_batch(arrays, np.arange(6))
    if kind == "py_dataset":
        return first_batch(TaughtBatches(3))
    if kind == "generator":
        return without_losing_the_first((arrays, np.arange(6)) for _ in range(2))[1]
    return first_batch(tf.data.Dataset.from_tensor_slices((arrays, np.arange(6))).batch(6))


@pytest.mark.parametrize("kind", ["arrays", "py_dataset", "generator", "dataset"])
def test_outputs_that_the_data_brings_are_kept_beside_the_inputs(kind):
    batch = _taught(kind)
    assert batch.inputs.shape[1] == 3
    assert batch.taught.outputs.shape[1] == 2
    assert batch.taught.inputs is batch.inputs


def model(*shape):
    inputs = keras.Input(shape)
    return keras.Model(inputs, keras.layers.Dense(2)(inputs))


@pytest.mark.parametrize("kind", ["distiller", "mutual"])
def test_single_examples_are_refused(kind):
    x, y = np.ones((6, 3), "float32"), np.zeros(6, "int64")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if kind == "distiller":
        trained = kd.Distiller(model(3), model(3), kd.losses.KLDivergence(4.0))
    else:
        trained = kd.MutualDistiller([model(3), model(3)], kd.losses.KLDivergence(1.0))
    trained.compile("sgd", loss=loss)
    with pytest.raises(ValueError, match=r"of shape \(3,\), .* takes \(None, 3\).*batch\(32\)"):
        trained.fit(tf.data.Dataset.from_tensor_slices((x, y)))


@pytest.mark.parametrize(
    ("received", "expected", "refused"),
    [
        ((8, 8, 3), (8, 8, 3), True),
        ((7,), (None,), True),
        ((4, 8, 8), (8, 8, 1), False),  # Keras adds the channel
        ((8, 8, 1), (8, 8, 1), True),
        ((2, 8, 8, 3), (8, 8, 3), False),
        ((5, 3), (8, 3), False),  # another mistake, with a message of its own
        ((1,), (1,), False),  # a batch of one number
    ],
)
def test_what_counts_as_a_single_example(received, expected, refused):
    inputs = keras.Input(expected)
    student = keras.Model(inputs, keras.layers.ReLU()(inputs))
    batch = first_batch(tf.data.Dataset.from_tensors((np.zeros(received, "float32"), 0)))
    if refused:
        with pytest.raises(ValueError, match="single examples"):
            check_batched(batch, student)
    else:
        check_batched(batch, student)


def test_models_without_inputs_are_not_checked():
    batch = first_batch(tf.data.Dataset.from_tensors(np.zeros(3, "float32")))
    check_batched(batch, keras.Sequential([keras.layers.Dense(2)]))
    check_batched(None, model(3))


def test_top_k_logits_of_all_classes_have_an_empty_rest_and_no_other_infinity():
    x, logits = np.ones((4, 3), "float32"), np.zeros((4, 2), "float32")
    kept = top_k_logits(logits, 2, 1.0)
    assert np.isneginf(kept.rest).all()
    student = model(3)
    for outputs in (kept, [kept, logits], {"a": logits, "b": kept}):
        check_finite_data(FirstBatch(x, None, TaughtInputs(x, outputs)), student)
    for wrong in (
        kept._replace(rest=np.full(4, np.nan)),
        kept._replace(values=np.full((4, 2), -np.inf)),
    ):
        with pytest.raises(ValueError, match="teacher's outputs"):
            check_finite_data(FirstBatch(x, None, TaughtInputs(x, [wrong, logits])), student)


@pytest.mark.parametrize("form", ["list", "dict"])
def test_dictionaries_are_read_by_name(form):
    """The order of the names is not that of the inputs."""
    inputs = [keras.Input((6,), name="words"), keras.Input((3,), name="numbers")]
    outputs = keras.layers.Dense(2)(keras.layers.Concatenate()(inputs))
    given = inputs if form == "list" else {part.name: part for part in inputs}
    student = keras.Model(given, outputs)
    x = {"words": np.zeros((4, 6), "float32"), "numbers": np.zeros((4, 3), "float32")}
    batch = first_batch(x, np.zeros(4))
    check_inputs(batch, student)
    check_batched(batch, student)
    single = tf.data.Dataset.from_tensor_slices((x, np.zeros(4)))
    with pytest.raises(ValueError, match="single examples"):
        check_batched(first_batch(single), student)
    x["numbers"][0, 0] = np.nan
    with pytest.raises(ValueError, match="input 'numbers'"):
        check_finite_data(first_batch(x, np.zeros(4)), student)
    with pytest.raises(ValueError, match="inputs are of shape"):
        check_inputs(first_batch({**x, "words": x["numbers"]}, np.zeros(4)), student)
