import keras
import numpy as np
import tensorflow as tf

import keras_kd as kd
from keras_kd.teachers import TaughtInputs

SparseCE = keras.losses.SparseCategoricalCrossentropy


def network(units, name, classes=3):
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(units, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(classes)(hidden), name=name)


def arrays(n=44):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 5)).astype("float32"), rng.integers(0, 3, n)


def batches(n=44, size=8):
    return tf.data.Dataset.from_tensor_slices(arrays(n)).batch(size)


def teacher():
    keras.utils.set_random_seed(5)
    return network(7, "teacher")


def cache(*args, **kwargs):
    return kd.teachers.cache(*args, verbose=False, **kwargs)


def forbid_calls(model):
    def call(*args, **kwargs):
        raise AssertionError("the teacher was run")

    object.__setattr__(model, "call", call)


def trained(model, data, losses=None, epochs=2):
    keras.utils.set_random_seed(1)
    losses = losses or [kd.losses.KLDivergence(2.0), kd.Hint("hidden", "hidden")]
    distiller = kd.Distiller(model, network(4, "student"), losses)
    distiller.compile(
        keras.optimizers.SGD(0.1), SparseCE(from_logits=True), evaluate_distillation=True
    )
    logs = distiller.fit(data, validation_data=data, epochs=epochs, verbose=0).history
    return distiller.student.get_weights(), logs


def test_it_teaches_as_the_teacher_does_without_running_it(tmp_path):
    model = teacher()
    expected, logs = trained(model, batches())
    taught = cache(model, batches(), tmp_path / "c", layers=["hidden"])
    assert int(taught.cardinality()) == 6
    forbid_calls(model)
    result, cached_logs = trained(model, taught)
    for a, b in zip(expected, result, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for name, values in logs.items():
        np.testing.assert_allclose(cached_logs[name], values, rtol=1e-5)
    # Opened again, the teacher is not run either.
    again = cache(model, batches(), tmp_path / "c", layers=["hidden"])
    for (x, y), (taught_x, taught_y) in zip(batches(), again, strict=True):
        np.testing.assert_array_equal(taught_x.inputs, x)
        np.testing.assert_array_equal(taught_y, y)


def test_what_is_stored_is_what_the_teacher_says_batch_by_batch(tmp_path):
    model = teacher()
    x, y = arrays(44)
    weights = np.arange(44, dtype="float32")
    hidden = keras.Model(model.input, model.get_layer("hidden").output)
    data = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(8)
    taught = cache(model, data, tmp_path, layers=[kd.Hint("hidden", "hidden")], batch_size=20)
    seen = 0
    for given, labels, weight in taught:
        assert isinstance(given, TaughtInputs)
        n = len(labels)
        np.testing.assert_allclose(given.outputs, model(x[seen : seen + n]), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            given.features["hidden"], hidden(x[seen : seen + n]), rtol=1e-5, atol=1e-6
        )
        np.testing.assert_array_equal(weight, weights[seen : seen + n])
        seen += n
    assert seen == 44 and n == 4
