from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd import losses
from keras_kd.losses import DistillationLoss, KLDivergence


class Difference(DistillationLoss):
    def call(self, teacher, student, labels=None):
        return keras.ops.mean(teacher - student, axis=-1)


class NeedsLabels(Difference):
    uses_labels = True

    def call(self, teacher, student, labels=None):
        return keras.ops.cast(labels, "float32")


class SeveralLayers(Difference):
    several_layers = True
    equal_shapes = False

    def call(self, teacher, student, labels=None):
        return super().call(teacher[1], student[1])


class Mixes(Difference):
    mixes_positions = True

    def call(self, teacher, student, labels=None):
        return keras.ops.sum(student, axis=(1, 2))


def test_a_name_of_ones_own():
    assert Difference().name == "difference"
    assert Difference(name="mine").name == "mine"
    assert repr(Difference(name="mine")) == "Difference(name='mine')"


class Passes(KLDivergence):
    def __init__(self, scale=1.0, **arguments):
        super().__init__(**arguments)
        self.scale = scale


class Fixed(KLDivergence):
    def __init__(self, size):
        super().__init__(temperature=2.0)
        self.size_of_its_own = size


def test_arguments_of_the_constructor_are_the_configuration():
    loss = Passes(3.0, temperature=5.0, name="mine")
    assert loss.get_config() == {**KLDivergence(5.0, name="mine").get_config(), "scale": 3.0}
    copy = Passes.from_config(loss.get_config())
    assert (copy.scale, copy.temperature, copy.name) == (3.0, 5.0, "mine")
    assert KLDivergence(4.0).get_config() == {
        "name": "kl_divergence", "temperature": 4.0, "from_logits": True, "class_weight": None,
        "chunk_size": None, "standardize": False,
    }  # fmt: skip
    # What is no attribute, and what a class sets itself, is no argument.
    assert Fixed(3).get_config() == {"name": "fixed"}


def test_numbers_of_python_and_integers_are_read():
    value = Difference()([[1, 2]], [[0, 0]])
    assert value.dtype == "float32"
    assert float(value) == 1.5


def test_float64_on_either_side_stays_float64():
    wide, narrow = np.ones((2, 3)), np.ones((2, 3), "float16")
    assert Difference()(wide, narrow).dtype == "float64"
    assert Difference()(narrow, wide).dtype == "float64"
    assert Difference()(narrow, narrow).dtype == "float32"


def test_weights_of_samples_and_of_positions_are_keras_s(check):
    teacher, student = check.normal(3, 4, 5), check.normal(3, 4, 5)
    by_position = check.random.random((3, 4))
    values = (teacher - student).mean(-1)
    np.testing.assert_allclose(
        Difference()(teacher, student, sample_weight=by_position), (by_position * values).mean()
    )
    by_sample = check.random.random(3)
    for weights in (by_sample, by_sample[:, None]):
        np.testing.assert_allclose(
            Difference()(teacher, student, sample_weight=weights),
            (by_sample[:, None] * values).mean(),
        )


def test_a_mask_and_weights_agree_with_keras(check):
    y, y_pred = check.normal(3, 4, 5), check.normal(3, 4, 5)
    weights = check.random.random((3, 4))
    y_pred = tf.constant(y_pred)
    keras.src.backend.set_keras_mask(y_pred, tf.constant(check.random.random((3, 4)) > 0.3))

    class Squared(DistillationLoss):
        def call(self, teacher, student, labels=None):
            return keras.ops.mean(keras.ops.square(teacher - student), axis=-1)

    expected = keras.losses.MeanSquaredError(dtype="float64")(y, y_pred, sample_weight=weights)
    np.testing.assert_allclose(Squared()(y, y_pred, sample_weight=weights), expected)


def test_a_mask_of_nothing_gives_zero():
    student = tf.ones((2, 3, 4))
    keras.src.backend.set_keras_mask(student, tf.zeros((2, 3), "bool"))
    assert float(Difference()(tf.zeros((2, 3, 4)), student)) == 0.0


def test_masked_values_that_are_not_finite_do_not_count():
    student = tf.constant([[[np.nan, 1.0], [1.0, 3.0]]])
    keras.src.backend.set_keras_mask(student, tf.constant([[False, True]]))
    assert float(Difference()(tf.zeros((1, 2, 2)), student)) == -2.0


def test_masked_positions_are_zero_where_positions_are_mixed(check):
    student = tf.constant(check.normal(2, 3, 4))
    mask = np.array([[True, True, False], [True, False, False]])
    keras.src.backend.set_keras_mask(student, tf.constant(mask))
    expected = (student.numpy() * mask[..., None]).sum((1, 2)).mean()
    np.testing.assert_allclose(Mixes()(tf.zeros((2, 3, 4)), student), expected)


def test_weights_that_do_not_fit():
    with pytest.raises(ValueError, match=r"`sample_weight` has shape \(2,\).*\(3,\)"):
        Difference()(np.zeros((3, 4)), np.zeros((3, 4)), sample_weight=np.ones(2))


def test_missing_labels():
    with pytest.raises(ValueError, match="NeedsLabels needs labels"):
        NeedsLabels()(np.zeros((2, 3)), np.zeros((2, 3)))


def test_labels_may_be_a_dictionary():
    labels = {"index": np.array([7, 8]), "label": np.array([1, 2])}
    assert float(NeedsLabels()(np.zeros((2, 3)), np.zeros((2, 3)), labels)) == 1.5


def test_lists_for_losses_over_several_layers():
    zeros, ones = np.zeros((2, 3)), np.ones((2, 3))
    assert float(SeveralLayers()([zeros, ones], [zeros, zeros])) == 1.0
    with pytest.raises(TypeError, match=r"takes a list of tensors.*Received: one tensor"):
        SeveralLayers()(zeros, ones)


def test_call_must_be_written():
    with pytest.raises(NotImplementedError, match=r"DistillationLoss must implement call\(\)"):
        DistillationLoss()(np.zeros((2, 3)), np.zeros((2, 3)))


def test_scheduled_temperature_survives_serialization():
    schedule = keras.optimizers.schedules.PolynomialDecay(8.0, 100, 1.0)
    loss = KLDivergence(temperature=schedule)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert isinstance(copy.temperature, keras.optimizers.schedules.PolynomialDecay)
    assert copy.temperature.get_config() == schedule.get_config()


@pytest.mark.parametrize("name", ["KLDivergence", "ReverseKL", "DKD", "NKD", "SkewKL", "RKD"])
def test_schedules_are_computed_in_the_type_of_the_models(check, name):
    """A schedule gives a float32 tensor; a model may compute in float64."""
    loss, plain = getattr(losses, name)(), getattr(losses, name)()
    for argument in loss.scheduled_arguments:
        if isinstance(value := getattr(loss, argument), (int, float)):
            setattr(loss, argument, tf.constant(value, "float32"))
    teacher, student = check.normal(4, 5), check.normal(4, 5)
    labels = np.array([0, 1, 2, 3])
    assert teacher.dtype == np.float64
    value = loss(teacher, student, labels)
    assert value.dtype == tf.float64
    np.testing.assert_allclose(value, plain(teacher, student, labels), rtol=1e-6)


def padded(steps, channels, padding, content):
    x = np.random.default_rng(1).normal(size=(2, steps, channels)).astype("float32")
    x[:, steps - padding :] = content
    x = tf.constant(x)
    keras.src.backend.set_keras_mask(x, tf.sequence_mask([steps - padding] * 2, steps))
    return x


def read_by(teacher_channels):
    classifier = keras.layers.Dense(5)
    classifier.build((None, teacher_channels))
    return losses.SRRL(classifier)


@pytest.mark.parametrize(
    "loss",
    [losses.VID(), losses.MaskedGenerative(mask_ratio=0.0, scale=1.0), read_by(3)],
    ids=["vid", "masked_generative", "srrl"],
)
@pytest.mark.parametrize(("teacher", "student"), [((8, 3), (4, 1)), ((4, 1), (8, 3))])
def test_padding_does_not_count_where_lengths_differ(loss, teacher, student):
    keras.utils.set_random_seed(0)
    loss = loss.fresh()
    loss.build((None, teacher[0], 3), (None, student[0], 2))
    values = []
    for content in (0.0, 5.0, 50.0):
        sides = [
            padded(steps, channels, padding, content)
            for (steps, padding), channels in ((teacher, 3), (student, 2))
        ]
        values.append(float(loss(*sides)))
    assert values[0] == pytest.approx(values[1], rel=1e-5) == pytest.approx(values[2], rel=1e-5)


def test_a_vector_as_long_as_a_sequence_is_not_masked():
    rng = np.random.default_rng(0)
    teacher = rng.normal(size=(4, 6)).astype("float32")  # 6 channels, as many as steps
    student = padded(6, 3, 2, 0.0)[:1]
    student = tf.constant(np.repeat(student.numpy(), 4, 0) * np.arange(1, 5).reshape(4, 1, 1))
    plain = float(losses.RKDDistance()(teacher, student))
    keras.src.backend.set_keras_mask(student, tf.sequence_mask([4] * 4, 6))
    assert float(losses.RKDDistance()(teacher, student)) == pytest.approx(plain)


def test_a_side_of_unknown_length_is_masked_by_its_own_mask():
    teacher, student = padded(8, 3, 3, 9.0), padded(4, 3, 1, 9.0)
    spec = tf.TensorSpec((None, None, 3)), tf.TensorSpec((None, None), tf.bool)

    def step(t, t_mask, s, s_mask):
        for x, mask in ((t, t_mask), (s, s_mask)):
            keras.src.backend.set_keras_mask(x, mask)
        return losses.PKT()(t, s)

    step = tf.function(step, input_signature=spec * 2)
    masks = [x._keras_mask for x in (teacher, student)]
    value = step(teacher, masks[0], student, masks[1])
    np.testing.assert_allclose(value, losses.PKT()(teacher, student), rtol=1e-5)


@pytest.mark.parametrize(
    "loss",
    [
        losses.KLDivergence(), losses.MultiLevel(), losses.PKT(), losses.RKD(),
        losses.CosineRelation(), losses.SimilarityPreserving(), losses.CorrelationCongruence(),
        losses.ClassConsistency(), losses.DIST(),
    ],
    ids=lambda loss: loss.name,
)  # fmt: skip
def test_an_empty_part_of_a_batch_is_no_nan(loss):
    """Several replicas may share a last batch of one example."""
    empty, labels = tf.zeros((0, 3)), tf.zeros((0,), tf.int32)
    outputs = tf.TensorSpec((None, 3))
    run = tf.function(loss, input_signature=[outputs, outputs, tf.TensorSpec((None,), tf.int32)])
    assert np.isfinite(run(empty, empty, labels))
