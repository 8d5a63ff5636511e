import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.data.batches import as_batches, held_out, shuffled_batches


def passes(data, count):
    return [np.concatenate([batch[1] for batch in data]) for _ in range(count)]


def test_every_pass_has_all_examples_in_an_order_of_its_own():
    x = np.arange(100, dtype="float32")[:, None]
    data = shuffled_batches(({"a": x, "b": -x}, np.arange(100)), seed=3)
    assert int(data.cardinality()) == 4
    for inputs, labels in data:
        np.testing.assert_array_equal(inputs["a"][:, 0], tf.cast(labels, tf.float32))
        np.testing.assert_array_equal(inputs["a"], -inputs["b"])
    orders = passes(data, 3)
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(100))
        assert (order != np.arange(100)).any()
    assert (orders[0] != orders[1]).any() and (orders[1] != orders[2]).any()


def test_a_later_pass_has_its_order_whatever_happened_before():
    arrays = np.zeros((40, 2)), np.arange(40)
    first = passes(shuffled_batches(arrays, seed=3), 4)
    keras.utils.set_random_seed(99)
    later = passes(shuffled_batches(arrays, seed=3, first_pass=2), 2)
    np.testing.assert_array_equal(later, first[2:])
    assert (passes(shuffled_batches(arrays, seed=4), 1)[0] != first[0]).any()


def test_arrays_are_shuffled_only_where_asked_for():
    arrays = np.zeros((40, 2)), np.arange(40)
    np.testing.assert_array_equal(passes(as_batches(arrays, "data"), 1)[0], np.arange(40))
    (shuffled,) = passes(as_batches(arrays, "train", shuffle=True), 1)
    assert (shuffled != np.arange(40)).any()
    assert as_batches(arrays, "train", shuffle=True).element_spec[0].shape.as_list() == [None, 2]
    empty = as_batches((np.zeros((0, 2)), np.zeros(0)), "train", shuffle=True)
    assert int(empty.cardinality()) == 0
    with pytest.raises(ValueError, match=r"`train` gives arrays of different lengths: \[3, 4\]"):
        as_batches((np.zeros((3, 2)), np.zeros(4)), "train", shuffle=True)
    with pytest.raises(TypeError, match="`train` must be"):
        as_batches(np.zeros(3), "train", shuffle=True)


@pytest.mark.parametrize("shuffle", [False, True])
def test_labels_may_be_lists_and_the_last_part_none(shuffle):
    x, y = np.zeros((40, 2)), list(range(40))
    for data in ((x, y), (x, y, None), [x, np.array(y)]):
        (found,) = passes(as_batches(data, "train", shuffle=shuffle), 1)
        np.testing.assert_array_equal(np.sort(found), y)
        train, validation = held_out(data, None, 0.25)
        assert len(train) == len(validation) == 2 and len(validation[1]) == 10
    (batch, _) = as_batches((x, None), "train", shuffle=shuffle)
    assert len(batch) == 1
