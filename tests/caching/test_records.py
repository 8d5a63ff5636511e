import numpy as np
import pytest
import tensorflow as tf

from keras_kd.caching.records import (
    Leaf,
    decode,
    encode,
    input_fingerprints,
    leaf_of,
    structure_from_json,
    structure_to_json,
)
from keras_kd.losses.top_k_logits import TopKLogits


def test_a_record_gives_back_its_tensors_in_the_type_they_are_read_as():
    tensors = {
        "a": tf.constant([[1.5, -2.25]], tf.float16),
        "b": tf.constant([7], tf.int32),
        "c": tf.constant([["é"]]),
    }
    leaves = [leaf_of("a", tensors["a"], "float32")]
    leaves += [leaf_of(key, tensors[key], tensors[key].dtype.name) for key in "bc"]
    result = decode(tf.constant(encode(tensors)), leaves)
    assert result["a"].dtype == tf.float32
    np.testing.assert_array_equal(result["a"], [[1.5, -2.25]])
    assert result["b"].numpy() == [7] and result["c"].numpy()[0, 0].decode() == "é"
    example = tf.train.Example.FromString(encode(tensors))  # what other tools read
    assert sorted(example.features.feature) == ["a", "b", "c"]


def test_shapes_that_differ_between_batches_stay_open():
    first = Leaf("a", "float32", "float32", (None, 3, 5))
    assert first.merged(Leaf("a", "float32", "float32", (None, 4, 5))).shape == (None, None, 5)
    for other in (Leaf("a", "int32", "int32", (None, 3, 5)), Leaf("a", "float32", "float32", ())):
        with pytest.raises(ValueError, match="one type and one number of axes"):
            first.merged(other)


def test_structures_survive_json():
    structure = {"a": ("x", TopKLogits("v", "i", "r", "t")), "b": {"c": "y"}}
    numbers = {key: i for i, key in enumerate("xvirty")}
    assert structure_from_json(structure_to_json(structure), numbers) == {
        "a": (0, TopKLogits(1, 2, 3, 4)),
        "b": {"c": 5},
    }


def test_every_sample_and_every_input_counts_in_the_fingerprints():
    x = np.arange(12.0, dtype="float32").reshape(3, 4)
    names = tf.constant(["a", "b", "c"])
    before = input_fingerprints({"x": tf.constant(x), "names": names}).numpy()
    assert before.dtype == np.int64 and before.shape == (3,)
    x[1, 3] += 1e-6 * x[1, 3]
    after = input_fingerprints({"x": tf.constant(x), "names": names}).numpy()
    np.testing.assert_array_equal(before == after, [True, False, True])
    swapped = input_fingerprints({"x": tf.constant(x), "names": names[::-1]}).numpy()
    np.testing.assert_array_equal(swapped == after, [False, True, False])
    ragged = tf.ragged.constant([[1, 2], [3]])
    assert input_fingerprints(ragged).shape == (2,)
