from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.losses import CRD
from keras_kd.losses.shared.phase import in_phase

EXAMPLES, INDEX, LABEL = 10, np.array([2, 7, 5]), np.array([1, 0, 1])
LABELS = {"index": INDEX, "label": LABEL}
DRAWN = np.array([[0, 1, 9, 4], [3, 3, 6, 8], [9, 0, 1, 6]], "int32")


def built(negatives=4, momentum=0.5, **arguments):
    loss = CRD(EXAMPLES, negatives, dimension=6, momentum=momentum, seed=1, **arguments)
    loss.build((None, 2, 2, 3), (None, 5))
    return loss


@pytest.fixture
def fixed():
    """A loss whose negatives are known."""
    loss = built()
    loss.parameters.draw_negatives = lambda index, label=None: tf.constant(DRAWN[: len(index)])
    return loss


@pytest.fixture
def features(check):
    return check.normal(3, 2, 2, 3), check.normal(3, 5)


def unit(x):
    return x / np.sqrt((x**2).sum(-1, keepdims=True))


def embed(head, x):
    return unit(x.reshape(len(x), -1) @ head.kernel.numpy().astype("d") + head.bias.numpy())


class Reference:
    """Example by example, in float64, from a copy of the variables."""

    def __init__(self, loss):
        bank = loss.parameters
        self.heads = bank.teacher_head, bank.student_head
        self.banks = [b.numpy().astype("d") for b in (bank.teacher_bank, bank.student_bank)]
        self.normalizers = [float(z) for z in bank.normalizers.numpy()[::-1]]

    def loss(self, teacher, student):
        anchors = [embed(*pair) for pair in zip(self.heads, (teacher, student), strict=True)]
        total, noise = 0.0, DRAWN.shape[1] / EXAMPLES
        self.used = []
        for anchor, other, z in (
            (anchors[0], self.banks[1], self.normalizers[0]),
            (anchors[1], self.banks[0], self.normalizers[1]),
        ):
            rows = [[i, *row] for i, row in zip(INDEX, DRAWN, strict=True)][: len(anchor)]
            p = np.array([np.exp(other[r] @ a / 0.07) for r, a in zip(rows, anchor, strict=True)])
            z = z if z > 0 else self.fixed_normalizer(p)
            self.used.append(z)
            p = p / z
            total -= np.log(p[:, 0] / (p[:, 0] + noise + 1e-7)).sum()
            total -= np.log(noise / (p[:, 1:] + noise + 1e-7)).sum()
        return total / len(teacher)

    def fixed_normalizer(self, p):
        return p.mean() * EXAMPLES


def test_value_and_gradient(check, fixed, features):
    teacher, student = features
    # The second batch: the normalizers are constants from then on.
    check.value_and_gradients(fixed, teacher.astype("f"), student.astype("f"), LABELS)
    reference = Reference(fixed)
    value, (to_teacher, gradient) = check.value_and_gradients(
        fixed, teacher.astype("f"), student.astype("f"), LABELS
    )
    np.testing.assert_allclose(value, reference.loss(teacher, student), rtol=1e-5)
    assert to_teacher is None
    expected = check.numeric_gradient(lambda s: reference.loss(teacher, s), student)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_the_first_batch_fixes_the_normalizers(check, fixed, features):
    teacher, student = features
    reference = Reference(fixed)
    expected = reference.loss(teacher, student)
    np.testing.assert_allclose(fixed(teacher, student, LABELS), expected, rtol=1e-5)
    np.testing.assert_array_equal(fixed.parameters.normalizers, [-1.0, -1.0])
    check.value_and_gradients(fixed, teacher, student, LABELS)
    np.testing.assert_allclose(fixed.parameters.normalizers, reference.used[::-1], rtol=1e-5)
    check.value_and_gradients(fixed, 2 * teacher, student + 1, LABELS)
    np.testing.assert_allclose(fixed.parameters.normalizers, reference.used[::-1], rtol=1e-5)


@pytest.mark.parametrize("wrapper", ["eager", "graph", "xla"])
def test_training_moves_the_bank_and_evaluation_does_not(check, features, wrapper):
    teacher, student = (x.astype("f") for x in features)
    loss = built(momentum=0.25)
    bank, before = loss.parameters, Reference(loss)
    train, evaluate = (
        lambda t, s: check.value_and_gradients(loss, t, s, LABELS),
        lambda t, s: loss(t, s, LABELS),
    )
    if wrapper != "eager":
        jit = wrapper == "xla"
        train, evaluate = (tf.function(f, jit_compile=jit) for f in (train, evaluate))
    evaluate(teacher, student)
    np.testing.assert_array_equal(bank.student_bank, before.banks[1])
    np.testing.assert_array_equal(bank.labels, [-1] * EXAMPLES)
    train(teacher, student)
    for i, (variable, head, x) in enumerate(
        [
            (bank.teacher_bank, bank.teacher_head, features[0]),
            (bank.student_bank, bank.student_head, features[1]),
        ]
    ):
        expected = before.banks[i].copy()
        expected[INDEX] = unit(0.25 * expected[INDEX] + 0.75 * embed(head, x))
        np.testing.assert_allclose(variable, expected, rtol=1e-4, atol=1e-6)
    labels = np.full(EXAMPLES, -1)
    labels[INDEX] = LABEL
    np.testing.assert_array_equal(bank.labels, labels)


def test_heads_are_trained_and_the_bank_is_not(check, features):
    loss = built()
    names = {v.path.split("/")[-2] for v in loss.parameters.trainable_variables}
    assert names == {"teacher_head", "student_head"}
    with tf.GradientTape() as tape:
        value = loss(*features, LABELS)
    for gradient in tape.gradient(value, loss.parameters.trainable_variables):
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0


def test_negatives_are_other_examples():
    bank = built(negatives=2000).parameters
    drawn = bank.draw_negatives(tf.constant(INDEX, tf.int32)).numpy()
    for i, row in zip(INDEX, drawn, strict=True):
        counts = np.bincount(row, minlength=EXAMPLES)
        assert counts[i] == 0
        others = np.delete(counts, i)
        assert others.min() > 150  # 222 are expected
        assert others.max() < 300


def test_negatives_are_of_other_classes():
    bank = built(negatives=2000).parameters
    seen = np.array([0, 1, 1, 0, 2, -1, 1, -1, 2, 2], "int32")
    bank.labels.assign(seen)
    drawn = bank.draw_negatives(tf.constant(INDEX, tf.int32), tf.constant(LABEL, tf.int32)).numpy()
    seen[INDEX] = LABEL
    for label, row in zip(LABEL, drawn, strict=True):
        counts = np.bincount(row, minlength=EXAMPLES)
        assert (counts[seen == label] == 0).all()
        others = counts[seen != label]
        expected = 2000 / len(others)
        assert others.min() > 0.7 * expected
        assert others.max() < 1.3 * expected


def test_negatives_where_there_is_one_class_only():
    bank = built(negatives=50).parameters
    bank.labels.assign(np.ones(EXAMPLES))
    drawn = bank.draw_negatives(tf.constant([0], tf.int32), tf.constant([1], tf.int32)).numpy()
    assert drawn.min() >= 0
    assert drawn.max() < EXAMPLES


def test_training_brings_the_student_to_the_teacher(check):
    teacher = check.normal(EXAMPLES, 4).astype("f")
    student = tf.Variable(check.normal(EXAMPLES, 4).astype("f"))
    loss = CRD(EXAMPLES, negatives=8, dimension=4, seed=0)
    loss.build((None, 4), (None, 4))
    labels = {"index": np.arange(EXAMPLES)}
    optimizer = keras.optimizers.Adam(0.05)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            value = loss(teacher, student, labels)
        variables = [student, *loss.parameters.trainable_variables]
        gradients = tape.gradient(value, variables)
        # Plain steps, so that student and heads can share one optimizer of Keras variables.
        student.assign_sub(0.05 * gradients[0])
        optimizer.apply(gradients[1:], variables[1:])
        return value

    optimizer.build(loss.parameters.trainable_variables)
    values = [float(step()) for _ in range(60)]
    assert np.mean(values[-5:]) < 0.7 * np.mean(values[:5])
    bank = loss.parameters
    similarity = unit(np.array(bank.student_bank)) @ unit(np.array(bank.teacher_bank)).T
    assert (similarity.argmax(1) == np.arange(EXAMPLES)).mean() >= 0.8


def test_hard_features(check, features):
    teacher, student = features
    for scale in (0.0, 1000.0):
        check.finite(built(), scale * teacher, scale * student, LABELS)
    one = {"index": INDEX[:1], "label": LABEL[:1]}
    check.finite(built(), teacher[:1], student[:1], one)


def test_sample_weights(fixed, features):
    weights = np.array([0.0, 1.0, 2.0])
    teacher, student = (tf.constant(x, tf.float32) for x in features)
    values = fixed.call(teacher, student, LABELS)
    assert values.shape == (3,)
    np.testing.assert_allclose(
        fixed(teacher, student, LABELS, weights), np.mean(weights * values), rtol=1e-5
    )


def test_half_precision_and_serialization(fixed, features):
    half = [tf.cast(x, "float16") for x in features]
    value = fixed(*half, LABELS)
    assert value.dtype == tf.float32
    np.testing.assert_allclose(value, fixed(*(tf.cast(x, "float32") for x in half), LABELS), 1e-6)
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(CRD(5, 6, 7, 0.1, 0.9, 11, name="mine"))
    )
    assert copy.get_config() == {
        "name": "mine",
        "examples": 5,
        "negatives": 6,
        "dimension": 7,
        "temperature": 0.1,
        "momentum": 0.9,
        "seed": 11,
    }


def test_needs_an_index(features):
    for labels in (None, LABEL, {"label": LABEL}):
        with pytest.raises(ValueError, match=r'Pass labels \{"index": index, "label": label\}'):
            built()(*features, labels)


def test_an_index_outside_of_the_bank(features):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"an index is not from 0 to 9"):
        built()(*features, {"index": np.array([0, 1, 10])})


def test_must_be_built_for_known_sizes(features):
    with pytest.raises(ValueError, match="CRD has variables"):
        CRD(10)(*features, LABELS)
    with pytest.raises(ValueError, match="size of the student's feature"):
        CRD(10).build((None, 4), (None, None, 4))


def test_refuses_several_replicas(features):
    class Strategy:
        num_replicas_in_sync = 2

    loss = built()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.distribute, "get_strategy", Strategy)
        with pytest.raises(ValueError, match="several replicas"):
            loss.call(*(tf.constant(x, tf.float32) for x in features), LABELS)


@pytest.mark.parametrize(
    "arguments",
    [{"examples": 0}, {"examples": 5, "temperature": 0}, {"examples": 5, "momentum": 1}],
)
def test_refuses_arguments_out_of_range(arguments):
    with pytest.raises(ValueError, match=r"CRD: `(examples|temperature|momentum)` must be"):
        CRD(**arguments)


def test_in_evaluation_the_pair_is_that_of_the_batch(check, features):
    teacher, student = (x.astype("f") for x in features)
    loss = built(negatives=4)
    bank = loss.parameters
    check.value_and_gradients(loss, teacher, student, LABELS)  # which fixes the normalizers
    state = bank.seed_generator.state.numpy()
    with in_phase(False):
        values = [
            float(loss(teacher, student, labels))
            for labels in ({"label": LABEL}, LABEL, {"index": INDEX + 100, "label": LABEL})
        ]
        drawn = np.asarray(bank.draw_negatives(None, tf.constant(LABEL, tf.int32), 3))
    assert values[0] == values[1] == values[2]
    np.testing.assert_array_equal(bank.seed_generator.state, state)
    known = np.asarray(bank.labels)
    assert all(known[row] not in (label, None) for rows, label in zip(drawn, LABEL, strict=True)
               for row in rows)  # fmt: skip
    embedded = [embed(h, x) for h, x in zip((bank.teacher_head, bank.student_head), features,
                                             strict=True)]  # fmt: skip
    total, noise = 0.0, 4 / EXAMPLES
    for i, (anchor, other) in enumerate(
        [(embedded[1], bank.teacher_bank), (embedded[0], bank.student_bank)]
    ):
        pair = (embedded[0] * embedded[1]).sum(-1, keepdims=True)
        others = np.einsum("bd,bmd->bm", anchor, np.asarray(other)[drawn])
        p = np.exp(np.concatenate([pair, others], 1) / 0.07) / float(bank.normalizers[i])
        total -= np.log(p[:, 0] / (p[:, 0] + noise + 1e-7)).sum()
        total -= np.log(noise / (p[:, 1:] + noise + 1e-7)).sum()
    np.testing.assert_allclose(values[0], total / 3, rtol=1e-4)


def test_under_xla_an_index_outside_of_the_bank_makes_the_loss_nan(features):
    teacher, student = (x.astype("f") for x in features)
    run = tf.function(built(), jit_compile=True)
    assert np.isfinite(run(teacher, student, {"index": tf.constant([0, 1, 9])}))
    assert np.isnan(run(teacher, student, {"index": tf.constant([0, 1, 10])}))
