from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.losses import MaskedGenerative
from keras_kd.losses.shared.phase import in_phase


def built(teacher, student, **arguments):
    loss = MaskedGenerative(**{"seed": 1, "scale": 0.1, **arguments})
    loss.build((None, *teacher[1:]), (None, *student[1:]))
    rng = np.random.default_rng(3)
    for variable in loss.parameters.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    return loss


def same_masks(loss):
    """A loss that draws the same masks at every call."""
    state = loss.parameters.seed_generator.state
    start = state.numpy()

    def again(teacher, student, **arguments):
        state.assign(start)
        return loss(teacher, student, **arguments)

    return again


def next_mask(loss, shape):
    state = loss.parameters.seed_generator.state
    start = state.numpy()
    mask = loss.parameters.draw_kept(shape).numpy()
    state.assign(start)
    return mask


def convolved(x, layer):
    """A 3x3 convolution with zeros around, in float64."""
    kernel, bias = (v.numpy().astype("float64") for v in (layer.kernel, layer.bias))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    return bias + sum(
        padded[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3)
    )


def formula_of(loss, mask):
    generator = loss.parameters

    def formula(teacher, student):
        if generator.align is not None:
            kernel, bias = (v.numpy().astype("float64") for v in generator.align.weights)
            student = student @ kernel[0, 0] + bias
        x = np.maximum(convolved(student * mask, generator.first), 0)
        return loss.scale * ((convolved(x, generator.second) - teacher) ** 2).sum() / len(teacher)

    return formula


@pytest.mark.parametrize("width", [2, 3])
def test_value_and_gradient(check, width):
    teacher, student = check.normal(2, 4, 3, 3), check.normal(2, 4, 3, width)
    loss = built(teacher.shape, student.shape)
    assert (loss.parameters.align is None) == (width == 3)
    formula = formula_of(loss, next_mask(loss, (2, 4, 3, 1)))
    value, (to_teacher, gradient) = check.value_and_gradients(
        same_masks(loss), teacher.astype("float32"), student.astype("float32")
    )
    np.testing.assert_allclose(value, formula(teacher, student), rtol=1e-5)
    assert to_teacher is None
    expected = check.numeric_gradient(lambda s: formula(teacher, s), student)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_masks_follow_the_seed_and_the_ratio():
    losses = [built((2, 50, 50, 1), (2, 50, 50, 1), seed=seed) for seed in (1, 1, 2)]
    first, again, other = (loss.parameters.draw_kept((2, 50, 50, 1)).numpy() for loss in losses)
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.2
    assert np.any(losses[0].parameters.draw_kept((2, 50, 50, 1)) != first)
    np.testing.assert_allclose(first.mean(), 0.35, atol=0.02)
    assert (
        built((2, 3, 3, 1), (2, 3, 3, 1), mask_ratio=0.0).parameters.draw_kept((9,)).numpy().all()
    )


def test_hard_features(check):
    teacher, student = check.normal(4, 3, 3, 2), check.normal(4, 3, 3, 5)
    loss = built(teacher.shape, student.shape)
    for scale in (0.0, 1000.0, 1e4):
        check.finite(loss, scale * teacher, scale * student)
    check.finite(loss, teacher[:1], student[:1])


def test_maps_of_other_sizes_are_pooled(check):
    teacher, student = check.normal(2, 4, 4, 3), check.normal(2, 8, 8, 3)
    loss = same_masks(built(teacher.shape, student.shape))
    pooled = sum(student[:, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4
    np.testing.assert_allclose(loss(teacher, student), loss(teacher, pooled), rtol=1e-5)


def test_sample_weights_and_masks(check):
    teacher, student = check.normal(3, 5, 2), check.normal(3, 5, 2)
    loss = same_masks(built(teacher.shape, student.shape, mask_ratio=0.0))
    weights = np.array([0.0, 1.0, 2.0])
    each = [float(loss(teacher[i : i + 1], student[i : i + 1])) for i in range(3)]
    np.testing.assert_allclose(
        loss(teacher, student, sample_weight=weights), np.mean(weights * each), rtol=1e-5
    )
    values = []
    for filling in (7.0, -100.0):
        masked = tf.constant(np.where(np.arange(5)[:, None] < 3, student, filling))
        keras.src.backend.set_keras_mask(masked, tf.constant([[True] * 3 + [False] * 2] * 3))
        target = np.where(np.arange(5)[:, None] < 3, teacher, filling)
        values.append(loss(target, masked))
    assert values[0] == values[1]


def test_half_precision_compilation_and_serialization(check):
    teacher, student = check.normal(2, 4, 4, 3), check.normal(2, 4, 4, 2)
    # XLA draws other numbers from the same seed: without a mask the values must agree.
    loss = built(teacher.shape, student.shape, mask_ratio=0.0)
    formula = formula_of(loss, next_mask(loss, (2, 4, 4, 1)))
    half = [tf.cast(x, "float16") for x in (teacher, student)]
    expected = formula(*(x.numpy().astype("d") for x in half))
    value = tf.function(loss, jit_compile=True)(*half)
    assert value.dtype == tf.float32
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(MaskedGenerative(0.5, 1e-3, 7, name="mine"))
    )
    assert copy.get_config() == {"name": "mine", "mask_ratio": 0.5, "scale": 1e-3, "seed": 7}


def distiller():
    def model(width):
        inputs = keras.Input((6, 6, 1))
        x = keras.layers.Conv2D(width, 3, padding="same", name="map")(inputs)
        return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x)[:, :2])

    keras.utils.set_random_seed(0)
    hint = kd.Hint("map", "map", loss=MaskedGenerative(scale=0.05, seed=0))
    result = kd.Distiller(model(4), model(3), hint, student_loss_weight=0.0)
    result.compile(keras.optimizers.SGD(0.1))
    return result


def test_the_generator_is_trained_and_the_masks_are_saved(check):
    x = check.normal(8, 6, 6, 1)
    first, again = distiller(), distiller()
    history = [d.fit(x, batch_size=4, epochs=8, verbose=0).history["loss"] for d in (first, again)]
    assert history[0] == history[1]
    assert history[0][-1] < history[0][0]
    states = [state.numpy().tolist() for state in first.random_states()]
    assert len(states) == 1
    assert first.distillation_losses[0].loss.parameters in first.teaching_layers


def test_refuses_wrong_arguments_and_features():
    for name in ("mask_ratio", "scale"):
        with pytest.raises(ValueError, match=f"MaskedGenerative: `{name}`"):
            MaskedGenerative(**{name: -1.0})
    with pytest.raises(ValueError, match=r"MaskedGenerative has variables.*keras_kd.Hint"):
        MaskedGenerative()(np.zeros((2, 3, 3, 3)), np.zeros((2, 3, 3, 3)))
    with pytest.raises(ValueError, match="one to three sides"):
        MaskedGenerative().build((None, 3), (None, 3))


def test_evaluation_draws_the_same_masks_and_moves_none(check):
    teacher, student = check.normal(2, 6, 3), check.normal(2, 6, 3)
    loss = built(teacher.shape, student.shape)
    state = loss.parameters.seed_generator.state.numpy()
    with in_phase(False):
        values = [float(loss(teacher, student)) for _ in range(2)]
    assert values[0] == values[1]
    np.testing.assert_array_equal(loss.parameters.seed_generator.state, state)
