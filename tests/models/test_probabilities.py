import inspect
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_kd.models.probabilities import (
    check_student_loss,
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
        ([layers.Dense(3), layers.Activation("softmax"), layers.Reshape((1, 3))], "softmax"),
        ([layers.Dense(3, activation="softmax"), layers.Dropout(0.5)], "softmax"),
        ([layers.Dense(3), ops.softmax], "softmax"),
        ([layers.Dense(3, activation=tf.nn.softmax)], "softmax"),
        ([layers.Dense(3, activation="exponential"), lambda x: x / ops.sum(x, -1, keepdims=True)],
         "softmax"),
        ([layers.Dense(3, activation=lambda x: ops.softmax(x / 2.0))], "softmax"),
        ([layers.RepeatVector(2), layers.TimeDistributed(layers.Dense(3, "softmax"))], "softmax"),
        ([layers.Dense(3, activation="sigmoid")], "sigmoid"),
        ([layers.Dense(3, activation="hard_sigmoid")], "sigmoid"),
        ([layers.Dense(1, activation="sigmoid"), lambda x: 1.0 - x], "sigmoid"),
        ([layers.Dense(1, activation="sigmoid"), lambda x: ops.squeeze(x, -1)], "sigmoid"),
        ([layers.Dense(3), lambda x: ops.clip(x, 0.0, 1.0)], "sigmoid"),
        ([layers.Dense(3), layers.Lambda(lambda x: ops.sigmoid(x))], "sigmoid"),
        ([layers.Dense(3, activation="softmax"), lambda x: x[:, 1:]], "sigmoid"),
        ([layers.Dense(3, activation="softmax"), ops.log], "linear"),
        ([layers.Dense(3), layers.BatchNormalization()], "linear"),
        ([layers.Reshape((2, 2, 1)), layers.Conv2D(3, 1), layers.GlobalAveragePooling2D()],
         "linear"),
        ([layers.Dense(3, activation="tanh")], "linear"),
        ([layers.Dense(3, activation="relu")], "positive"),
        ([layers.Reshape((4, 1)), layers.LSTM(3)], None),
    ],
)  # fmt: skip
def test_last_activation(last, expected):
    assert last_activation(model_ending_with(*last)) == expected


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_an_average_of_probabilities_gives_probabilities(activation):
    inputs = keras.Input((4,))
    outputs = [layers.Dense(3, activation=activation)(inputs) for _ in range(2)]
    assert last_activation(keras.Model(inputs, layers.Average()(outputs))) == activation
    assert last_activation(keras.Model(inputs, 0.25 * outputs[0] + 0.75 * outputs[1])) == activation
    assert last_activation(keras.Model(inputs, outputs[0] - outputs[1])) == "linear"


def test_last_activation_of_nested_and_sequential_models():
    inner = model_ending_with(layers.Dense(3, activation="softmax"))
    assert last_activation(model_ending_with(inner)) == "softmax"
    sequential = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="softmax")])
    assert last_activation(sequential) == "softmax"
    # The nested model has no activation of its own: what it averages comes from outside.
    a, b = keras.Input((3,)), keras.Input((3,))
    mean = keras.Model([a, b], layers.Average()([a, b]))
    inputs = keras.Input((4,))
    ends = [layers.Dense(3, activation="softmax")(inputs) for _ in range(2)]
    assert last_activation(keras.Model(inputs, mean(ends))) == "softmax"
    raw = [layers.Dense(3)(inputs) for _ in range(2)]
    assert last_activation(keras.Model(inputs, mean(raw))) == "linear"


def test_last_activation_of_several_outputs():
    inputs = keras.Input((4,))
    model = keras.Model(
        inputs,
        {"a": layers.Dense(2)(inputs), "b": layers.Dense(2, activation="softmax")(inputs)},
    )
    assert last_activation(model) == {"a": "linear", "b": "softmax"}


def test_what_only_runs_in_python_is_unknown():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    class Ending(layers.Dense):
        def call(self, x):
            return ops.softmax(super().call(x))

    assert last_activation(Subclassed()) is None
    assert last_activation(model_ending_with(Ending(3))) is None


def test_looking_at_the_end_changes_nothing():
    model = model_ending_with(
        layers.Dense(3), layers.GaussianNoise(0.1), layers.ActivityRegularization(0.1)
    )
    model(np.ones((1, 4)), training=True)
    before = [v.numpy() for v in model.variables], len(model.losses)
    last_activation(model)
    after = [v.numpy() for v in model.variables], len(model.losses)
    assert before[1] == after[1]
    assert all(np.array_equal(a, b) for a, b in zip(before[0], after[0], strict=True))


def test_look_like_probabilities():
    assert look_like_probabilities(np.array([[0.2, 0.8], [0.5, 0.5]]))
    assert not look_like_probabilities(np.array([[0.2, 0.8], [0.5, 0.6]]))
    assert look_like_probabilities(np.array([[0.2, 0.8], [0.5, 0.6]]), each_unit=True)
    assert not look_like_probabilities(np.array([[-0.2, 1.2]]))
    assert look_like_probabilities(np.array([[0.2], [1.0]]))
    assert look_like_probabilities(np.array([0.2, 1.0, np.nan]))
    assert not look_like_probabilities(np.array([0.2, 1.1]))
    assert not look_like_probabilities(np.zeros((0, 3)))


def test_rounding_of_an_integer_file_is_allowed_for():
    rounded = np.full((2, 200), 0.0)
    rounded[:, 0] = 0.7  # the others lost 0.0015 each
    assert not look_like_probabilities(rounded)
    assert look_like_probabilities(rounded, step=1 / 256)


CROSSENTROPIES = [
    kind
    for kind in vars(keras.losses).values()
    if isinstance(kind, type) and "from_logits" in inspect.signature(kind).parameters
]


@pytest.mark.parametrize("kind", CROSSENTROPIES)
def test_every_cross_entropy_reads_what_the_student_gives(kind):
    name = re.sub("(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()
    logits, probabilities = np.array([[-2.0, 3.0]], "float32"), np.array([[0.1, 0.9]], "float32")
    for loss in (name, kind.__name__, getattr(keras.losses, name)):
        for end, from_logits in [("linear", True), ("softmax", False), (None, False)]:
            found = student_loss_for(loss, end)
            assert type(found) is kind
            assert found.get_config()["from_logits"] is from_logits
        with pytest.raises(ValueError, match=rf"{kind.__name__}\(from_logits=True\)"):
            check_student_loss(loss, logits)
        check_student_loss(loss, probabilities)
    with pytest.raises(ValueError, match="negative outputs"):
        check_student_loss(kind(from_logits=False), logits)
    check_student_loss(kind(from_logits=True), logits)
    with pytest.raises(ValueError, match=rf"logits.*{kind.__name__}\(from_logits=False\)"):
        student_loss_for(kind(from_logits=False), "linear")


def test_the_cross_entropies_are_found():
    assert len(CROSSENTROPIES) >= 5


def test_a_named_cross_entropy_reads_logits_only_where_they_are_known():
    assert student_loss_for("sparse_categorical_crossentropy", "linear").from_logits is True
    assert student_loss_for("sparse_categorical_crossentropy", "softmax").from_logits is False
    assert student_loss_for("categorical_crossentropy", None).from_logits is False
    assert student_loss_for("BinaryCrossentropy", "positive").from_logits is False
    assert student_loss_for("bce", "linear").from_logits is True


def test_other_losses_pass():
    assert student_loss_for("mse", "linear") is keras.losses.get("mse")
    custom = lambda y, p: 0.0  # noqa: E731
    assert student_loss_for(custom, "softmax") is custom
    check_student_loss("mse", np.array([-1.0]))
    check_student_loss(custom, np.array([-1.0]))


def test_contradicting_from_logits_is_refused():
    with pytest.raises(ValueError, match=r"softmax.*from_logits=True"):
        student_loss_for(SparseCE(from_logits=True), "softmax")
    with pytest.raises(ValueError, match=r"logits.*from_logits=False"):
        student_loss_for(SparseCE(from_logits=False), "linear")
