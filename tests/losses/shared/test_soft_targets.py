"""What the divergences of soft targets share: top-k logits as the teacher, and chunks."""

from __future__ import annotations

import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.losses import (
    AlphaBeta,
    JensenShannon,
    KLDivergence,
    ReverseKL,
    SkewKL,
    SoftCrossEntropy,
    TopKLogits,
    top_k_logits,
)


def kl(p, q):
    return (p * (log(p) - log(q))).sum(-1)


def root(p, q):
    return 2 * ((np.sqrt(p) - np.sqrt(q)) ** 2).sum(-1)


# Each with its divergence of the distributions p and q.
DIVERGENCES = {
    KLDivergence: kl,
    SoftCrossEntropy: lambda p, q: -(p * log(q)).sum(-1),
    ReverseKL: lambda p, q: kl(q, p),
    functools.partial(JensenShannon, 0.3): lambda p, q: (
        0.3 * kl(p, 0.3 * p + 0.7 * q) + 0.7 * kl(q, 0.3 * p + 0.7 * q)
    ),
    functools.partial(SkewKL, 0.2, False): lambda p, q: kl(p, 0.2 * p + 0.8 * q),
    functools.partial(SkewKL, 0.2, True): lambda p, q: kl(q, 0.2 * q + 0.8 * p),
    functools.partial(AlphaBeta, 0.5, 0.5): root,
}
LOSSES = list(DIVERGENCES)
# Merging classes never increases these.
BOUNDED = [loss for loss in LOSSES if loss is not SoftCrossEntropy]


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def log(x):
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(x), -1e300)


def formula(loss, teacher, student, k, temperature):
    """The k largest classes one by one and the others as one, in float64; mean over positions."""
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    order = np.argsort(-teacher, axis=-1, kind="stable")

    def coarse(x):
        x = np.take_along_axis(x, order, -1)
        return np.concatenate([x[..., :k], x[..., k:].sum(-1, keepdims=True)], -1)

    return temperature**2 * DIVERGENCES[loss](coarse(p), coarse(q)).mean()


def teach(loss, k, temperature):
    """A loss that keeps the k largest of the logits it is given."""
    return lambda t, s, **kwargs: loss(top_k_logits(t, k, temperature), s, **kwargs)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("k", "temperature"), [(1, 1.0), (3, 4.0), (7, 2.0)])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_top_k_value_and_gradient(check, loss, k, temperature, chunk_size):
    teacher, student = check.normal(5, 7), check.normal(5, 7)
    taught = teach(loss(temperature=temperature, chunk_size=chunk_size), k, temperature)
    value, (_, gradient) = check.value_and_gradients(
        taught, teacher.astype("float32"), student.astype("float32")
    )
    np.testing.assert_allclose(value, formula(loss, teacher, student, k, temperature), rtol=1e-5)
    expected = check.numeric_gradient(lambda s: formula(loss, teacher, s, k, temperature), student)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_all_classes_kept_are_the_loss_itself(check, loss):
    teacher, student = check.normal(3, 4, 7), check.normal(3, 4, 7)
    np.testing.assert_allclose(
        teach(loss(temperature=2.0), 7, 2.0)(teacher, student),
        loss(temperature=2.0)(teacher, student),
        rtol=1e-6,
    )


@pytest.mark.parametrize("loss", BOUNDED)
def test_never_exceeds_the_divergence_of_all_classes(check, loss):
    loss = loss(temperature=2.0)
    for scale in (1.0, 10.0):
        teacher, student = check.normal(6, 9, scale=scale), check.normal(6, 9, scale=scale)
        values = [float(teach(loss, k, 2.0)(teacher, student)) for k in range(1, 10)]
        assert all(a <= b * (1 + 1e-5) for a, b in itertools.pairwise(values))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("chunk_size", [None, 3])
def test_top_k_of_logits_of_ten_thousand(check, loss, chunk_size):
    logits = 1e4 * np.where(check.normal(4, 6) > 0, 1.0, -1.0)
    taught = teach(loss(temperature=1.0, chunk_size=chunk_size), 2, 1.0)
    for pair in ((logits, -logits), (logits, 0 * logits), (0 * logits, logits), (logits, logits)):
        check.finite(taught, *pair)


@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize("k", [1, 2, 6])
def test_top_k_of_hard_logits(check, k, chunk_size):
    teacher = np.where(check.normal(4, 6) > 0, 1000.0, -1000.0)
    student = np.where(check.normal(4, 6) > 0, 1000.0, -1000.0)
    loss = KLDivergence(1.0, chunk_size=chunk_size)
    taught = teach(loss, k, 1.0)
    value, _ = check.finite(taught, teacher, student)
    # In float64 these masses underflow: the divergence of sums of logits, in log space.
    expected = []
    for t, s in zip(teacher, student, strict=True):
        order = np.argsort(-t, kind="stable")

        def masses(x, order=order):
            parts = [x[i] for i in order[:k]]
            if k < 6:
                parts.append(np.logaddexp.reduce(x[order[k:]]))
            return np.array(parts) - np.logaddexp.reduce(x)

        lt, ls = masses(t), masses(s)
        expected.append((np.exp(lt) * (lt - ls)).sum())
    # A mass is known to the float32 precision of a logit of 1000.
    np.testing.assert_allclose(value, np.mean(expected), rtol=1e-4)
    for pair in ((teacher, np.zeros((4, 6))), (np.zeros((4, 6)), student), (teacher, teacher)):
        check.finite(taught, *pair)


def test_classes_without_mass_teach_that_they_have_none(check):
    teacher = np.array([[1.0, 0.5, -np.inf, -np.inf]], "float32")
    student = np.array([[1.0, 0.5, 2.0, 0.0]], "float32")
    value, gradient = check.finite(teach(KLDivergence(1.0), 2, 1.0), teacher, student)
    p, q = softmax(teacher.astype("float64")), softmax(student.astype("float64"))
    np.testing.assert_allclose(value, (p[0, :2] * np.log(p[0, :2] / q[0, :2])).sum(), rtol=1e-5)
    np.testing.assert_allclose(gradient, q - p, atol=1e-6)


@pytest.mark.fast_cases(
    "True-True-KLDivergence-4", "False-True-KLDivergence-4", "False-False-KLDivergence-100"
)
@pytest.mark.parametrize(
    ("loss", "chunk_size"),
    [*((loss, 4) for loss in LOSSES), (KLDivergence, 1), (KLDivergence, 100)],
)
@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("graph", [True, False])
def test_chunks_change_nothing(check, loss, from_logits, chunk_size, graph):
    teacher, student = check.normal(2, 3, 5), check.normal(2, 3, 5)
    if not from_logits:
        teacher, student = softmax(teacher), softmax(student)
    whole = loss(temperature=2.0, from_logits=from_logits)
    chunked = loss(temperature=2.0, from_logits=from_logits, chunk_size=chunk_size)
    weight = np.array([0.5, 2.0])
    for dtype, tolerance in (("float64", 1e-12), ("float32", 1e-6), ("bfloat16", 1e-2)):
        t, s = tf.cast(teacher, dtype), tf.cast(student, dtype)

        def both(loss, t=t, s=s):
            return check.value_and_gradients(loss, t, s, sample_weight=weight)

        run = tf.function(both, autograph=False) if graph else both
        (value, (_, gradient)), (expected, (_, expected_gradient)) = run(chunked), both(whole)
        assert value.dtype == expected.dtype
        assert gradient.dtype == expected_gradient.dtype == s.dtype
        np.testing.assert_allclose(value, expected, rtol=min(tolerance, 1e-6))
        np.testing.assert_allclose(
            tf.cast(gradient, "float64"),
            tf.cast(expected_gradient, "float64"),
            rtol=tolerance,
            atol=tolerance * float(tf.reduce_max(tf.abs(expected_gradient))),
        )


def test_chunks_of_hard_logits_masks_and_a_batch_of_any_size(check):
    def formula(teacher, student):
        return float(KLDivergence(1.0)(teacher, student))

    check.hard_logits(KLDivergence(1.0, chunk_size=3), formula)
    check.positions(KLDivergence(chunk_size=2), (3, 5, 4))
    check.sample_weights(KLDivergence(chunk_size=2), (5, 4))
    loss = KLDivergence(2.0, chunk_size=4)

    @tf.function(input_signature=[tf.TensorSpec((None, None, 5))] * 2)
    def step(teacher, student):
        with tf.GradientTape() as tape:
            tape.watch(student)
            value = loss(teacher, student)
        return value, tape.gradient(value, student)

    for batch in (0, 1, 3):
        teacher, student = (check.normal(batch, 3, 5).astype("float32") for _ in range(2))
        value, gradient = step(teacher, student)
        np.testing.assert_allclose(value, KLDivergence(2.0)(teacher, student), rtol=1e-6)
        assert gradient.shape == student.shape


@pytest.mark.parametrize("chunk_size", [0, -1, 2.5, True, "4"])
def test_refuses_a_wrong_chunk_size(chunk_size):
    with pytest.raises(ValueError, match="`chunk_size`"):
        KLDivergence(chunk_size=chunk_size)


def test_refuses_another_temperature():
    kept = top_k_logits(np.zeros((2, 5)), 2, 4.0)
    with pytest.raises(ValueError, match=r"temperature 2\.0, but .* made for 4\.0"):
        KLDivergence(2.0)(kept, np.zeros((2, 5)))


def test_refuses_top_k_logits_of_other_positions_or_classes():
    kept = top_k_logits(np.zeros((2, 3, 5)), 4, 4.0)
    for shape in ((2, 4, 5), (2, 5), (2, 3, 3)):
        with pytest.raises(ValueError, match=r"top-k logits have shape \(2, 3, 4\)"):
            KLDivergence(4.0)(kept, np.zeros(shape))


@pytest.mark.parametrize(
    "loss",
    [kd.losses.DKD(), kd.losses.LogitsMSE(), kd.losses.FitNet(), kd.losses.StandardizedKL()],
)
def test_other_losses_refuse_top_k_logits(loss):
    kept = top_k_logits(np.zeros((2, 5)), 2, 4.0)
    with pytest.raises(TypeError, match="needs the logits of all classes"):
        loss(kept, np.zeros((2, 5)), labels=np.zeros(2, int))


def distil(loss, taught, **compiled):
    student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6)])
    distiller = kd.Distiller(None, student, loss, student_loss_weight=0.0)
    distiller.compile(keras.optimizers.SGD(0.5), **compiled)
    distiller.fit(taught.batch(4), epochs=2, verbose=0)
    return student.get_weights()


def data(outputs, count=10):
    x = np.random.default_rng(0).normal(size=(count, 4)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((kd.teachers.TaughtInputs(x, outputs),))


def test_fit_learns_from_top_k_logits_and_in_chunks():
    logits = np.random.default_rng(1).normal(size=(10, 6)).astype("float32")
    trained = []
    for outputs, loss in (
        (logits, KLDivergence(2.0)),
        (logits, KLDivergence(2.0, chunk_size=3)),
        (top_k_logits(logits, 6, 2.0), KLDivergence(2.0)),
        (top_k_logits(logits, 2, 2.0), KLDivergence(2.0)),
    ):
        keras.utils.set_random_seed(0)
        trained.append(distil(loss, data(outputs)))
    for other in trained[1:3]:
        np.testing.assert_allclose(other[0], trained[0][0], atol=1e-6)
    assert np.abs(trained[3][0] - trained[0][0]).max() > 1e-3


def test_fit_refuses_before_training_what_top_k_logits_do_not_fit():
    kept = top_k_logits(np.zeros((10, 6), "float32"), 2, 4.0)
    with pytest.raises(ValueError, match=r"temperature 2\.0, but .* made for 4\.0"):
        distil(KLDivergence(2.0), data(kept))
    with pytest.raises(ValueError, match="a schedule"):
        distil(KLDivergence(lambda epoch: 4.0), data(kept))
    with pytest.raises(TypeError, match="DKD needs the logits of all classes"):
        distil(kd.losses.DKD(), data(kept))
    wrong = TopKLogits(*top_k_logits(np.zeros((10, 9), "float32"), 8, 4.0))
    with pytest.raises(ValueError, match=r"top-k logits have shape"):
        distil(KLDivergence(4.0), data(wrong))


def test_chunks_are_not_compiled_with_xla():
    outputs = np.zeros((10, 6), "float32")
    with pytest.raises(ValueError, match="KLDivergence has a `chunk_size`, and XLA cannot"):
        distil(KLDivergence(chunk_size=2), data(outputs), jit_compile=True)
    distil(KLDivergence(), data(outputs), jit_compile=True)
