from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.models.features import FeatureReader
from keras_kd.teachers.inference_reader import InferenceReader


def network(rank=4, **arguments):
    shape = {2: (6,), 3: (8, 3), 4: (8, 8, 3), 5: (4, 4, 4, 2)}[rank]
    inputs = keras.Input(shape)
    x = keras.layers.Dense(4)(inputs)
    x = keras.layers.BatchNormalization(name="norm", **arguments)(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(x))
    random = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(random.uniform(0.5, 2.0, weight.shape))
    return model


def operations(model, x, reader):
    function = tf.function(lambda x: reader.run(model, x, training=False), autograph=False)
    return [op.type for op in function.get_concrete_function(x).graph.get_operations()]


def batch(model):
    random = np.random.default_rng(1)
    return tf.constant(random.normal(size=(5, *model.input_shape[1:])), "float32")


@pytest.mark.parametrize("arguments", [{}, {"scale": False}, {"center": False, "epsilon": 0.1}])
def test_maps_are_normalized_by_one_operation_with_the_same_result(arguments):
    model = network(**arguments)
    x = batch(model)
    assert operations(model, x, InferenceReader(model)).count("FusedBatchNormV3") == 1
    assert "FusedBatchNormV3" not in operations(model, x, FeatureReader(model, []))
    outputs, _ = InferenceReader(model).run(model, x)
    np.testing.assert_allclose(outputs, model(x), rtol=1e-5, atol=1e-4)
    assert "call" not in model.get_layer("norm").__dict__


@pytest.mark.parametrize("rank", [2, 3, 5])
def test_other_ranks_and_axes_stay_as_they_are(rank):
    model = network(rank)
    x = batch(model)
    assert "FusedBatchNormV3" not in operations(model, x, InferenceReader(model))
    np.testing.assert_array_equal(InferenceReader(model).run(model, x)[0], model(x))
    model = network(axis=1)
    x = batch(model)
    np.testing.assert_array_equal(
        InferenceReader(model).run(model, batch(model))[0], model(batch(model))
    )


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_other_precisions(policy, dtype_policy):
    with dtype_policy(policy):
        model = network()
    x = batch(model)
    outputs, _ = InferenceReader(model).run(model, x)
    expected = model(x)
    assert outputs.dtype == expected.dtype
    tolerance = {"mixed_float16": 1e-2, "mixed_bfloat16": 5e-2, "float64": 1e-12}[policy]
    np.testing.assert_allclose(
        tf.cast(outputs, "float64"), tf.cast(expected, "float64"), rtol=tolerance
    )


def test_a_hint_reads_the_normalized_map_of_a_nested_teacher():
    inner = network()
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras.layers.Dense(2)(inner(inputs)))
    path = f"{inner.name}/norm"
    x = batch(model)
    _, expected = FeatureReader(model, [path]).run(model, x, training=False)
    outputs, features = InferenceReader(model, [path]).run(model, x)
    np.testing.assert_allclose(features[path], expected[path], rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(outputs, model(x), rtol=1e-5, atol=1e-4)


class MonteCarlo(keras.Model):
    """Normalizes by the batch, whatever the mode."""

    def __init__(self):
        super().__init__()
        self.norm = keras.layers.BatchNormalization()

    def call(self, x, training=False):
        return self.norm(x, training=True)


def test_a_normalization_that_is_called_in_training_mode_stays_so():
    model = MonteCarlo()
    x = tf.random.stateless_normal((16, 4, 4, 2), (0, 0), mean=3.0)
    model(x)
    outputs, _ = InferenceReader(model).run(model, x)
    assert abs(float(tf.reduce_mean(outputs))) < 1e-3


def test_a_subclass_of_the_layer_stays_as_it_is():
    class Doubled(keras.layers.BatchNormalization):
        def call(self, inputs, training=None, mask=None):
            return 2.0 * super().call(inputs, training, mask)

    model = keras.Sequential([keras.Input((4, 4, 2)), Doubled()])
    x = batch(model)
    np.testing.assert_array_equal(InferenceReader(model).run(model, x)[0], model(x))


def test_the_teacher_follows_its_variables():
    teacher = network()
    student = keras.models.clone_model(teacher)
    distiller = kd.Distiller(teacher, student, kd.losses.LogitsMSE(), student_loss_weight=0.0)
    distiller.compile(keras.optimizers.SGD(0.0), evaluate_distillation=True)
    x = np.asarray(batch(teacher))
    before = distiller.evaluate(x, verbose=0, return_dict=True)["distillation_loss"]
    teacher.get_layer("norm").beta.assign_add(np.full(4, 3.0))
    after = distiller.evaluate(x, verbose=0, return_dict=True)["distillation_loss"]
    expected = np.mean(np.square(np.asarray(teacher(x)) - np.asarray(student(x))))
    assert after == pytest.approx(expected, rel=1e-4)
    assert abs(after - before) > 0.1 * before
