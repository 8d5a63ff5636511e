import keras
import numpy as np
import pytest
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


def taught_data(features=None):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 5)).astype("float32"), rng.integers(0, 3, 16)
    outputs = rng.normal(size=(16, 3)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((TaughtInputs(x, outputs, features or {}), y)).batch(
        8
    )


def without_teacher(losses, student=None):
    distiller = kd.Distiller(None, student or network(4, "student"), losses)
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return distiller


def test_no_teacher_is_needed_where_the_data_brings_its_outputs():
    losses = [kd.losses.KLDivergence(2.0), kd.Hint("hidden", "hidden")]
    distiller = without_teacher(losses)
    before = distiller.student.get_weights()
    data = taught_data({"hidden": np.ones((16, 8), "float32")})
    history = distiller.fit(data, epochs=1, verbose=0).history
    assert history["distillation_loss"][0] > 0
    assert distiller.distillation_losses[1].layers[0].kernel.shape == (4, 8)
    assert not np.array_equal(before[0], distiller.student.get_weights()[0])
    compressed = kd.compress(distiller, data, stages=[kd.Prune(0.5, epochs=1)], verbose=0)
    assert compressed.layers[1].sparsity == pytest.approx(0.5)


def test_data_that_brings_no_outputs_is_refused_before_training():
    distiller = without_teacher(kd.losses.KLDivergence(2.0))
    with pytest.raises(ValueError, match=r"no teacher.*distiller\.teacher = .*TaughtInputs\("):
        distiller.fit(np.ones((4, 5), "float32"), np.zeros(4), verbose=0)
    with pytest.raises(ValueError, match="There is no teacher"):
        kd.compress(
            distiller,
            (np.ones((4, 5), "float32"), np.zeros(4)),
            stages=[kd.Prune(0.5, epochs=1)],
            verbose=0,
        )


def test_brought_outputs_that_do_not_fit_are_refused():
    inputs = keras.Input((5,))
    wide = keras.Model(inputs, keras.layers.Dense(4)(inputs))
    with pytest.raises(ValueError, match=r"output has shape \(3,\).*student's \(4,\)"):
        without_teacher(kd.losses.KLDivergence(), wide).fit(taught_data(), verbose=0)
    hint = kd.Hint("hidden", "hidden", name="h")
    with pytest.raises(
        ValueError, match=r"Hint 'h', teacher_layer.*not the feature 'hidden'.*none"
    ):
        without_teacher(hint).fit(taught_data(), verbose=0)
    x, p = np.ones((4, 5), "float32"), np.full((4, 3), 1 / 3, "float32")
    with pytest.raises(ValueError, match="teacher ends in softmax"):
        without_teacher(kd.losses.KLDivergence()).fit(TaughtInputs(x, p), np.zeros(4), verbose=0)
