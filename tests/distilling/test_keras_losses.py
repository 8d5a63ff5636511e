import keras
import numpy as np
import pytest

from keras_kd.distilling.keras_losses import compute_keras_loss, is_known

Logits = keras.distillation.LogitsDistillation
Feature = keras.distillation.FeatureDistillation


def rng_arrays(*shape):
    return np.random.default_rng(0).normal(size=(2, *shape)).astype("float32") * 3


def log_softmax(x):
    x = np.asarray(x, "float64")
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def kl(teacher, student, temperature):
    t, s = log_softmax(teacher / temperature), log_softmax(student / temperature)
    return temperature**2 * (np.exp(t) * (t - s)).sum(-1)


def soft_cross_entropy(teacher, student, temperature):
    t, s = log_softmax(teacher / temperature), log_softmax(student / temperature)
    return -(temperature**2) * (np.exp(t) * s).sum(-1)


def squared_error(teacher, student, temperature):
    return ((teacher - student) ** 2).mean(-1) / temperature**2


@pytest.mark.parametrize(
    ("loss", "values"),
    [
        ("kl_divergence", kl),
        (keras.losses.KLDivergence(), kl),
        ("categorical_crossentropy", soft_cross_entropy),
        (keras.losses.CategoricalCrossentropy(from_logits=True), soft_cross_entropy),
        ("mse", squared_error),
        (keras.losses.MeanSquaredError(), squared_error),
    ],
    ids=["kl_name", "kl", "cross_entropy_name", "cross_entropy", "mse_name", "mse"],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_logits_distillation(loss, values, weighted):
    teacher, student = rng_arrays(6, 4)
    weight = np.linspace(0, 2, 6).astype("float32") if weighted else np.ones(6, "float32")
    expected = (weight * values(teacher, student, 2.5)).mean()
    value = compute_keras_loss(Logits(2.5, loss), teacher, student, weight if weighted else None)
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_a_sum_stays_a_sum():
    teacher, student = rng_arrays(6, 4)
    loss = Logits(2.5, keras.losses.KLDivergence(reduction="sum"))
    expected = kl(teacher, student, 2.5).sum()
    assert float(compute_keras_loss(loss, teacher, student)) == pytest.approx(expected, rel=1e-5)


def test_structures_with_none_to_skip():
    teacher, student = rng_arrays(6, 4)
    loss = Logits(2.0, {"a": None, "b": "kl_divergence"})
    pair = ({"a": teacher, "b": teacher}, {"a": student, "b": student})
    expected = kl(teacher, student, 2.0).mean()
    assert float(compute_keras_loss(loss, *pair)) == pytest.approx(expected, rel=1e-5)


def test_feature_distillation_weighs_samples():
    teacher, student = rng_arrays(6, 2, 2, 4)
    weight = np.linspace(0, 2, 6).astype("float32")
    expected = (weight[:, None, None] * ((teacher - student) ** 2).mean(-1)).mean()
    value = compute_keras_loss(Feature("mse"), teacher, student, weight)
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_peaked_logits_are_exact():
    teacher = np.array([[1000.0, 0.0, -1000.0]], "float32")
    value = compute_keras_loss(Logits(1.0), teacher, teacher[:, ::-1])
    assert float(value) == pytest.approx(2000.0, rel=1e-6)


def test_a_subclass_computes_by_itself():
    class Own(Logits):
        def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
            return keras.ops.sum(student_outputs - teacher_outputs)

    teacher, student = rng_arrays(6, 4)
    assert not is_known(Own())
    assert is_known(Logits())
    value = float(compute_keras_loss(Own(), teacher, student))
    assert value == pytest.approx((student - teacher).sum(), rel=1e-4)
