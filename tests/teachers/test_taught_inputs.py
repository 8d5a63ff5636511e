import keras
import numpy as np
import tensorflow as tf

import keras_kd as kd
from keras_kd.teachers import TaughtInputs


def network(units, name):
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(units, name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(hidden), name=name)


def trained(teacher, data, hint):
    keras.utils.set_random_seed(1)
    losses = [kd.losses.KLDivergence(2.0)] + ([kd.Hint("hidden", "hidden")] if hint else [])
    distiller = kd.Distiller(teacher, network(4, "student"), losses)
    distiller.compile(
        keras.optimizers.SGD(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    distiller.fit(data, validation_data=data, epochs=2, verbose=0)
    return distiller.student.get_weights()


def forbid_calls(model):
    def call(*args, **kwargs):
        raise AssertionError("the teacher was run")

    object.__setattr__(model, "call", call)


def test_outputs_brought_along_teach_as_the_teacher_does_without_running_it():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 5)).astype("float32")
    y = rng.integers(0, 3, 32)
    keras.utils.set_random_seed(0)
    teacher = network(8, "teacher")
    hidden = keras.Model(teacher.input, teacher.get_layer("hidden").output)
    outputs, features = teacher(x).numpy(), {"hidden": hidden(x).numpy()}
    taught = TaughtInputs(x, outputs, features)
    plain = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    expected = trained(teacher, plain, hint=True)
    forbid_calls(teacher)
    result = trained(teacher, tf.data.Dataset.from_tensor_slices((taught, y)).batch(8), hint=True)
    for a, b in zip(expected, result, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_features_may_be_left_out():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 5)).astype("float32"), rng.integers(0, 3, 16)
    teacher = network(8, "teacher")
    taught = TaughtInputs(x, teacher(x).numpy())
    forbid_calls(teacher)
    trained(teacher, tf.data.Dataset.from_tensor_slices((taught, y)).batch(8), hint=False)
