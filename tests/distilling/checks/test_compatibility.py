import keras
import numpy as np
import pytest

from keras_kd.distilling.checks.arguments import (
    check_losses,
    check_student_loss_weight,
    check_weights,
)
from keras_kd.distilling.checks.compatibility import (
    check_all_labels,
    check_layers,
    check_shapes,
    check_teacher,
    compared_outputs,
    resolve_losses,
)
from keras_kd.distilling.hints import Hint
from keras_kd.losses import KLDivergence

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
        with pytest.raises(ValueError, match="Give each output a loss of its own"):
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
    assert check_losses([{"y": loss}], model()) == [[None, loss]]
    assert check_losses({"x": loss}, model(outputs=("x",))) == [[loss]]


@pytest.mark.parametrize("weights", [["1.0"], [None], [True]])
def test_weights_that_are_no_numbers_are_refused(weights):
    with pytest.raises(ValueError, match="takes numbers"):
        check_weights(weights, [KLDivergence()])


def test_numbers_of_numpy_are_numbers():
    assert check_weights(np.float32(0.5), [KLDivergence()]) == [0.5]
    assert check_student_loss_weight(np.float32(0.25)) == 0.25
