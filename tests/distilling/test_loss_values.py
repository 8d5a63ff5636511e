import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.distilling.hints import Hint
from keras_kd.distilling.loss_values import (
    LossMeans,
    compute_keras_loss,
    evaluate_loss,
    is_known,
    layer_paths_of,
    names_of_keras,
    unique_names,
)
from keras_kd.losses import DistillationLoss, KLDivergence

Feature = keras.distillation.FeatureDistillation
Logits = keras.distillation.LogitsDistillation


class Labels(DistillationLoss):
    """Returns the sum of what it was given, to see what that was."""

    def call(self, teacher, student, labels=None):
        return teacher[:, 0] + 10 * student[:, 0] + 100 * keras.ops.cast(labels, "float32")


def column(value):
    return np.full((4, 2), value, "float32")


def test_names_are_numbered_from_the_second_on():
    losses = [KLDivergence(), {"a": None, "b": KLDivergence()}, Hint("x", "y"), Feature("mse")]
    assert unique_names(losses) == [
        "kl_divergence",
        "kl_divergence_2",
        "fit_net_y",
        "feature_distillation",
    ]


def test_a_sum_over_outputs_has_the_names_of_all_its_losses():
    both = {"a": KLDivergence(), "b": Labels(name="labels"), "c": KLDivergence(), "d": None}
    assert unique_names([both]) == ["kl_divergence_and_labels"]


def test_layers_that_are_read():
    losses = [Hint(["a", "b"], ["c", "d"]), KLDivergence(), Feature("mse", "a", "e")]
    assert layer_paths_of(losses, "teacher") == ["a", "b"]
    assert layer_paths_of(losses, "student") == ["c", "d", "e"]


@pytest.mark.parametrize("keyed", ["by index", "by name"])
def test_labels_and_weights_of_the_output_that_is_compared(keyed):
    labels, weights = [np.full(4, 7), np.full(4, 3)], [np.zeros(4), np.full(4, 2.0)]
    if keyed == "by name":
        labels, weights = (dict(zip("xy", part, strict=True)) for part in (labels, weights))
    value = evaluate_loss(
        [None, Labels()],
        [column(9), column(1)],
        {},
        labels,
        [column(9), column(2)],
        {},
        weights,
        ["x", "y"],
    )
    assert float(value) == 2 * (1 + 20 + 300)


@pytest.mark.parametrize(
    "weights, expected",
    [
        (np.full(4, 0.5), 2.0),
        ({"x": np.zeros(4)}, 0.0),
        ({"x": np.full(4, 0.5), "y": np.full((4, 1), 0.5)}, 2.0),  # one array, copied by Keras
        ({"x": np.zeros(4), "y": np.ones(4)}, 2.0),
        ({"x": np.full(4, 0.5), "y": np.zeros((4, 8, 8))}, 2.0),
        ({"x": np.zeros((4, 8)), "y": None}, 4.0),  # positions of outputs, not of the feature
    ],
)
def test_a_shared_feature_has_the_mean_weight_of_the_samples(weights, expected):
    features = {"a": column(3)}, None, None, {"b": column(1)}
    for loss in (Hint("a", "b"), Feature("mse", "a", "b")):
        assert float(evaluate_loss(loss, None, *features, weights)) == expected


def test_a_layer_on_one_side_is_compared_with_the_outputs_of_the_other():
    value = evaluate_loss(
        Feature("mse", "a", None), column(9), {"a": column(3)}, None, column(1), {}
    )
    assert float(value) == 4.0


def test_no_loss_takes_the_name_of_a_sum():
    named = [Hint("a", "b", name=name) for name in ("loss", "loss", "student_loss")]
    assert unique_names(named) == ["loss_2", "loss_3", "student_loss_2"]


def test_a_name_of_validation_is_taken():
    named = [Hint("a", "b", name=name) for name in ("val_loss", "fit", "val_fit")]
    assert unique_names(named) == ["val_loss_2", "fit", "val_fit_2"]


def test_names_of_metrics_are_taken():
    metrics = ["accuracy", "accuracy", keras.metrics.KLDivergence()]
    names = names_of_keras(None, "mse", metrics, [max, "accuracy"])
    assert {"accuracy", "accuracy_1", "weighted_accuracy", "kl_divergence", "max"} <= set(names)
    losses = [KLDivergence(), KLDivergence(name="weighted_accuracy")]
    assert unique_names(losses, names) == ["kl_divergence_2", "weighted_accuracy_2"]


@pytest.mark.parametrize(("losses", "metrics", "expected"), [
    ("mse", {"b": "divergence"}, ["a_loss", "b_loss", "b_divergence"]),
    ({"a": "mse"}, [["x"], ["y", max]], ["a_x", "b_y", "b_max"]),
    (["mse", "mse"], None, ["a_loss", "b_loss"]),
    (["mse", None], None, []),
])  # fmt: skip
def test_names_of_several_outputs(losses, metrics, expected):
    assert names_of_keras(["a", "b"], losses, metrics, None) == expected


def test_keras_losses_leave_out_masked_positions_and_smooth_labels():
    embed = keras.layers.Embedding(9, 3, mask_zero=True)
    student, teacher = (embed(np.array(ids)) for ids in ([[1, 2, 0]], [[3, 4, 5]]))
    values = np.square(np.asarray(teacher) - np.asarray(student))[:, :2].mean()
    loss = compute_keras_loss(Feature(keras.losses.MeanSquaredError()), teacher, student)
    assert float(loss) == pytest.approx(values)

    t, s = rng_arrays(4, 3), rng_arrays(4, 3)[::-1]
    for smoothing in (0.0, 0.5):
        part = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
        targets = np.exp(t / 2) / np.exp(t / 2).sum(-1, keepdims=True)
        targets = targets * (1 - smoothing) + smoothing / 3
        log_student = s / 2 - np.log(np.exp(s / 2).sum(-1, keepdims=True))
        expected = -4 * (targets * log_student).sum(-1).mean()
        found = compute_keras_loss(Logits(2.0, part), *map(keras.ops.convert_to_tensor, (t, s)))
        assert float(found) == pytest.approx(expected, rel=1e-5)


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


@pytest.mark.parametrize("loss", [Logits, Feature], ids=["logits", "feature"])
@pytest.mark.parametrize("reduction", ["sum", "mean_with_sample_weight", "mean", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_reductions_are_those_of_keras(loss, reduction, weighted, masked):
    part = keras.losses.MeanSquaredError(reduction=reduction)
    teacher, student = map(keras.ops.convert_to_tensor, rng_arrays(6, 5, 4))
    weight = np.linspace(0.5, 2, 30).reshape(6, 5).astype("float32") if weighted else None
    mask = np.arange(30).reshape(6, 5) % 3 != 1
    temperature = {"temperature": 1.0} if loss is Logits else {}
    if masked:
        keras.src.backend.set_keras_mask(student, keras.ops.convert_to_tensor(mask))
    # Without a reduction Keras's distillation takes the mean.
    like = keras.losses.MeanSquaredError(reduction="mean" if reduction == "none" else reduction)
    expected = like(teacher, student, sample_weight=weight)
    found = compute_keras_loss(loss(loss=part, **temperature), teacher, student, weight)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


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


def test_means_are_weighted_by_the_batches():
    means = LossMeans(["a", "b"])
    means.update_state({"a": 1.0, "b": 10.0}, sample_weight=3)
    means.update_state({"a": tf.constant(5.0, tf.float64), "b": 20.0, "other": 7.0}, 1)
    result = means.result()
    assert list(result) == ["a", "b"]
    np.testing.assert_allclose([result["a"], result["b"]], [2.0, 12.5])


def test_what_is_left_out_does_not_count():
    means = LossMeans(["a", "b"])
    means.update_state({"a": 4.0}, 2)
    means.update_state({"a": 6.0, "b": 3.0}, 2)
    result = means.result()
    np.testing.assert_allclose([result["a"], result["b"]], [5.0, 3.0])


def test_it_starts_anew():
    means = LossMeans(["a"])
    means.update_state({"a": 4.0}, 2)
    means.reset_state()
    assert float(means.result()["a"]) == 0.0
    means.update_state({"a": 1.0}, 2)
    assert float(means.result()["a"]) == 1.0
