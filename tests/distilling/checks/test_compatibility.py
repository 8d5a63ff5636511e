import keras
import numpy as np
import pytest

from keras_kd.data.taught_inputs import TaughtInputs
from keras_kd.distilling.checks.arguments import (
    check_losses,
    check_student_loss_weight,
    check_weights,
)
from keras_kd.distilling.checks.compatibility import (
    check_first_outputs,
    check_layers,
    check_shapes,
    check_taught_outputs,
    check_teacher,
    compared_outputs,
)
from keras_kd.distilling.checks.student_loss import (
    check_all_labels,
    check_student_losses,
    resolve_losses,
)
from keras_kd.distilling.hints import Hint
from keras_kd.losses import BinaryKLDivergence, KLDivergence

Feature = keras.distillation.FeatureDistillation
Logits = keras.distillation.LogitsDistillation
SparseCE = keras.losses.SparseCategoricalCrossentropy


def model(width=4, outputs=("x", "y"), ends=(None, None), size=5):
    inputs = keras.Input((size,))
    hidden = keras.layers.Dense(width, name="hidden")(inputs)
    return keras.Model(
        inputs,
        [
            keras.layers.Dense(3, activation=end, name=name)(hidden)
            for name, end in zip(outputs, ends, strict=False)
        ],
    )


def test_what_the_losses_compare():
    one, two = KLDivergence(), KLDivergence()
    keras_loss, feature = Logits(loss=["mse", None]), Feature("mse", "hidden", "hidden")
    losses = [Hint("hidden", "hidden"), one, {"a": two, "b": None}, keras_loss, feature]
    assert compared_outputs(losses) == [(one, ()), (two, ("a",)), (keras_loss, (0,))]


def test_a_loss_over_all_outputs_of_several_is_refused():
    outputs = model().outputs
    check_shapes(outputs, outputs, [[KLDivergence(), None], Logits(loss=["mse", "mse"])])
    for loss in (KLDivergence(), Logits()):
        with pytest.raises(ValueError, match="Give each output a separate loss"):
            check_shapes(outputs, outputs, [loss])


def test_losses_of_keras_on_probabilities_are_refused():
    teacher, student = model(outputs=("x",), ends=("softmax",)), model(outputs=("x",))
    message = r"teacher ends in softmax.*KLDivergence\(temperature=3.0, from_logits=False\)"
    with pytest.raises(ValueError, match=message):
        check_teacher(teacher, student, [[Logits(3.0), None][0]])


def test_features_of_unequal_width_are_referred_to_a_hint():
    teacher, student = model(6), model(4)
    check_layers(Feature("mse", "hidden", "hidden"), model(4), student)
    with pytest.raises(ValueError, match=r"\(None, 6\).*\(None, 4\).*keras_kd\.Hint\('hidden', "):
        check_layers(Feature("mse", "hidden", "hidden"), teacher, student)
    with pytest.raises(ValueError, match=r"student_layer_name: .*no layer 'hid'.*hidden"):
        check_layers(Feature("mse", "hidden", "hid"), teacher, student)


def test_inputs_are_compared_where_both_models_have_one():
    check_teacher(model(), model(), [[KLDivergence(), None]])
    with pytest.raises(ValueError, match=r"\(9,\).*\(5,\).*teacher_inputs="):
        check_teacher(model(size=9), model(), [[KLDivergence(), None]])


def test_named_losses_are_resolved_by_output():
    student = model(ends=(None, "softmax"))
    name = "sparse_categorical_crossentropy"
    for losses in ([name, name], {"x": name, "y": name}):
        resolved = resolve_losses(losses, student)
        x, y = (resolved["x"], resolved["y"]) if isinstance(losses, dict) else resolved
        assert x.get_config()["from_logits"] is True
        assert y.get_config()["from_logits"] is False
    assert list(resolve_losses({"y": name}, student)) == ["x", "y"]
    assert resolve_losses({"y": name}, student)["x"] is None
    with pytest.raises(ValueError, match="ends in softmax"):
        resolve_losses({"y": SparseCE(from_logits=True)}, student)


@pytest.mark.parametrize("loss", ["binary_focal_crossentropy", keras.losses.binary_crossentropy])
def test_one_loss_for_outputs_that_end_differently(loss):
    x, y = resolve_losses(loss, model(ends=(None, "sigmoid")))
    assert (x.from_logits, y.from_logits) == (True, False)
    custom = lambda y, p: 0.0  # noqa: E731
    assert resolve_losses(custom, model(ends=(None, "sigmoid"))) is custom


def test_labels_are_matched_to_losses_by_name():
    student = model()
    losses = {"y": SparseCE(from_logits=True), "x": None}
    good, bad = np.zeros(4, "int32"), np.full(4, 9)
    check_all_labels(losses, [bad, good], student, None)
    check_all_labels(losses, {"x": bad, "y": good}, student, None)
    for labels in ([good, bad], {"x": good, "y": bad}):
        with pytest.raises(ValueError, match="holds 9"):
            check_all_labels(losses, labels, student, None)


def test_losses_by_name_are_arranged():
    loss = KLDivergence()
    assert check_losses([{"y": loss}], model(), 0.5) == [[None, loss]]
    assert check_losses({"x": loss}, model(outputs=("x",)), 0.5) == [[loss]]


@pytest.mark.parametrize("weights", [["1.0"], [None], [True]])
def test_weights_that_are_no_numbers_are_refused(weights):
    with pytest.raises(ValueError, match="`distillation_loss_weights`"):
        check_weights(weights, [KLDivergence()])


def test_numbers_of_numpy_are_numbers():
    assert check_weights(np.float32(0.5), [KLDivergence()]) == [0.5]
    assert check_student_loss_weight(np.float32(0.25)) == 0.25


class Opaque(keras.Model):
    """A model of which only a pass tells how it ends."""

    def __init__(self, units, end):
        super().__init__()
        self.dense = keras.layers.Dense(units, kernel_initializer="ones")
        self.end = keras.activations.get(end)

    def call(self, x):
        return self.end(self.dense(x))


def rows(count):
    return np.linspace(-1.0, 1.0, count, dtype="float32")[:, None] * np.ones((1, 5), "float32")


@pytest.mark.parametrize("end", ["softmax", "sigmoid"])
def test_a_named_loss_reads_what_only_a_pass_tells_as_probabilities(end):
    units = 3 if end == "softmax" else 1
    student = Opaque(units, end)
    loss = resolve_losses("binary_crossentropy", student)
    check_student_losses(loss, student, rows(4))
    assert getattr(loss, "from_logits", False) is False


@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        "categorical_focal_crossentropy",
        keras.losses.binary_focal_crossentropy,
        keras.losses.CategoricalFocalCrossentropy(),
    ],
)
def test_a_named_loss_on_logits_that_only_a_pass_shows_is_refused(loss):
    student = Opaque(3, "linear")
    loss = resolve_losses(loss, student)
    with pytest.raises(ValueError, match="from_logits=True"):
        check_student_losses(loss, student, rows(4))
    check_student_losses(SparseCE(from_logits=True), student, rows(4))


def test_a_named_loss_follows_the_whole_end_of_a_student():
    inputs = keras.Input((5,))
    ends = [keras.layers.Dense(3, activation="softmax")(inputs) for _ in range(2)]
    student = keras.Model(inputs, keras.layers.Average()(ends))
    assert resolve_losses("sparse_categorical_crossentropy", student).from_logits is False
    with pytest.raises(ValueError, match="from_logits"):
        resolve_losses(SparseCE(from_logits=True), student)
    with pytest.raises(ValueError, match="from_logits=False"):
        check_teacher(student, model(outputs=("x",)), [KLDivergence()])


def test_a_loss_on_probabilities_refuses_logits():
    loss = KLDivergence(from_logits=False)
    with pytest.raises(ValueError, match="from_logits=False"):
        check_teacher(model(outputs=("x",)), model(outputs=("x",)), [loss])
    with pytest.raises(ValueError, match=r"teacher.*from_logits=False"):
        check_first_outputs(Opaque(3, "linear"), Opaque(3, "softmax"), [loss], rows(4))
    check_first_outputs(Opaque(3, "softmax"), Opaque(3, "softmax"), [loss], rows(4))


def test_one_unit_of_probabilities_is_told_by_many_values():
    loss = BinaryKLDivergence()
    with pytest.raises(ValueError, match=r"teacher.*from_logits=False"):
        check_first_outputs(Opaque(1, "sigmoid"), Opaque(1, "linear"), [loss], rows(32))
    # Logits of a few samples may lie between 0 and 1 by chance; so may those of a new student.
    check_first_outputs(Opaque(1, "sigmoid"), Opaque(1, "linear"), [loss], rows(4))
    check_first_outputs(Opaque(1, "linear"), Opaque(1, "sigmoid"), [loss], rows(32))


def test_the_student_is_looked_at_where_the_data_brings_the_teacher_along():
    student = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, "softmax")])
    taught = TaughtInputs(rows(2), np.ones((2, 3), "float32"))
    with pytest.raises(ValueError, match=r"student.*softmax"):
        check_taught_outputs(taught, student, [KLDivergence()])
