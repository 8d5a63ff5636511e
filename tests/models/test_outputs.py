import keras
import numpy as np
import pytest
from keras import layers

from keras_kd.models.outputs import (
    check_labels,
    last_activation,
    look_like_probabilities,
    student_loss_for,
)

SparseCE = keras.losses.SparseCategoricalCrossentropy


def model_ending_with(*last):
    inputs = keras.Input((4,))
    x = inputs
    for layer in last:
        x = layer(x)
    return keras.Model(inputs, x)


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ([layers.Dense(3)], "linear"),
        ([layers.Dense(3, activation="softmax")], "softmax"),
        ([layers.Dense(3), layers.Softmax()], "softmax"),
        ([layers.Dense(3), layers.Activation("softmax")], "softmax"),
        ([layers.Dense(3), layers.Activation("softmax"), layers.Reshape((3, 1))], "softmax"),
        ([layers.Dense(3, activation="sigmoid")], "sigmoid"),
        ([layers.Dense(3), keras.ops.softmax], "softmax"),
    ],
)
def test_last_activation(last, expected):
    assert last_activation(model_ending_with(*last)) == expected


def test_last_activation_of_nested_and_sequential_models():
    inner = model_ending_with(layers.Dense(3, activation="softmax"))
    assert last_activation(model_ending_with(inner)) == "softmax"
    sequential = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="softmax")])
    assert last_activation(sequential) == "softmax"


def test_last_activation_of_several_outputs():
    inputs = keras.Input((4,))
    model = keras.Model(
        inputs,
        {"a": layers.Dense(2)(inputs), "b": layers.Dense(2, activation="softmax")(inputs)},
    )
    assert last_activation(model) == {"a": "linear", "b": "softmax"}


def test_last_activation_of_subclassed_models_is_unknown():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    assert last_activation(Subclassed()) is None


def test_look_like_probabilities():
    assert look_like_probabilities(np.array([[0.2, 0.8], [0.5, 0.5]]))
    assert not look_like_probabilities(np.array([[0.2, 0.8], [0.5, 0.6]]))
    assert not look_like_probabilities(np.array([[-0.2, 1.2]]))
    assert not look_like_probabilities(np.array([1.0]))


def test_named_cross_entropy_follows_the_student():
    assert student_loss_for("sparse_categorical_crossentropy", "linear").from_logits is True
    assert student_loss_for("sparse_categorical_crossentropy", "softmax").from_logits is False
    assert student_loss_for("categorical_crossentropy", None).from_logits is True


def test_other_losses_pass():
    assert student_loss_for("mse", "linear") is keras.losses.get("mse")
    custom = lambda y, p: 0.0  # noqa: E731
    assert student_loss_for(custom, "softmax") is custom


def test_contradicting_from_logits_is_refused():
    with pytest.raises(ValueError, match=r"ends in softmax.*from_logits=True"):
        student_loss_for(SparseCE(from_logits=True), "softmax")
    with pytest.raises(ValueError, match=r"ends in logits.*from_logits=False"):
        student_loss_for(SparseCE(from_logits=False), "linear")


def test_labels_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"0 \.\.\. 9.*holds 12.*13 outputs"):
        check_labels(SparseCE(), np.array([1, 12]), 10)
    with pytest.raises(ValueError, match="holds -1"):
        check_labels(SparseCE(), np.array([1, -1]), 10)
    check_labels(SparseCE(), np.array([0, 9]), 10)
    check_labels(SparseCE(ignore_class=255), np.array([0, 255]), 10)


def test_one_hot_labels_of_a_sparse_loss_are_refused():
    with pytest.raises(ValueError, match=r"one-hot.*CategoricalCrossentropy\(from_logits=True\)"):
        check_labels(SparseCE(), np.eye(10)[:4], 10)
    # Token labels of shape [batch, time], where there are as many steps as classes.
    check_labels(SparseCE(), np.arange(100).reshape(10, 10) % 10, 10)


def test_one_hot_labels_of_another_width_are_refused():
    with pytest.raises(ValueError, match="one-hot"):
        check_labels(keras.losses.CategoricalCrossentropy(), np.zeros((4, 9)), 10)
    check_labels(keras.losses.CategoricalCrossentropy(), np.zeros((4, 10)), 10)
