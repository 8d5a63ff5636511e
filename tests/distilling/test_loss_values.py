import keras
import numpy as np
import pytest

from keras_kd.distilling.hints import Hint
from keras_kd.distilling.loss_values import evaluate_loss, layer_paths_of, unique_names
from keras_kd.losses import DistillationLoss, KLDivergence

Feature = keras.distillation.FeatureDistillation


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


def test_weights_by_output_do_not_weigh_shared_features():
    hint = Hint("a", "b")
    value = evaluate_loss(
        hint, None, {"a": column(3)}, None, None, {"b": column(1)}, {"x": np.zeros(4)}
    )
    assert float(value) == 4.0
    value = evaluate_loss(
        hint, None, {"a": column(3)}, None, None, {"b": column(1)}, np.full(4, 0.5)
    )
    assert float(value) == 2.0


def test_a_layer_on_one_side_is_compared_with_the_outputs_of_the_other():
    value = evaluate_loss(
        Feature("mse", "a", None), column(9), {"a": column(3)}, None, column(1), {}
    )
    assert float(value) == 4.0


def test_no_loss_takes_the_name_of_a_sum():
    named = [Hint("a", "b", name=name) for name in ("loss", "loss", "student_loss")]
    assert unique_names(named) == ["loss_2", "loss_3", "student_loss_2"]
