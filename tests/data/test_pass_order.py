import numpy as np
import pytest
import tensorflow as tf

from keras_kd.data.batches import PassOrder, as_batches, shuffled_by_pass


def orders(dataset, passes):
    return [list(dataset.as_numpy_iterator()) for _ in range(passes)]


@pytest.mark.parametrize("buffer", [5, 40])
def test_the_order_is_a_function_of_the_pass(buffer):
    def make(first=0, seed=3):
        numbers = tf.data.Dataset.range(40).map(lambda i: 2 * i).cache()
        return shuffled_by_pass(numbers, 40, buffer, seed, first)

    four = orders(make(), 4)
    assert orders(make(2), 2) == four[2:]
    assert all(sorted(order) == list(range(0, 80, 2)) for order in four)
    assert len({tuple(order) for order in four}) == 4
    assert orders(make(seed=4), 1) != four[:1]
    assert int(make().cardinality()) == 40


def test_a_pass_may_have_examples_of_its_own():
    def of_pass(number):
        return tf.data.Dataset.range(10 * number, 10 * number + 10)

    passes = orders(shuffled_by_pass(of_pass, 10, 10, 0), 3)
    assert [sorted(each) for each in passes] == [[*range(i, i + 10)] for i in (0, 10, 20)]
    assert passes[0] != [each - 10 for each in passes[1]]
    assert orders(shuffled_by_pass(of_pass, 10, 10, 0, 2), 1) == passes[2:]


def test_what_looks_at_the_first_batch_counts_as_a_pass():
    dataset = shuffled_by_pass(tf.data.Dataset.range(10), 10, 10, 0)
    list(dataset.take(1))
    assert orders(dataset, 1) == orders(
        shuffled_by_pass(tf.data.Dataset.range(10), 10, 10, 0, 1), 1
    )


def test_an_order_stands_for_batches():
    order = PassOrder(lambda seed, first: tf.data.Dataset.range(seed + first + 3).batch(2))
    (one, two) = as_batches(order, "train")
    np.testing.assert_array_equal(np.concatenate([one, two]), [0, 1, 2])
