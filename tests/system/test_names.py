from __future__ import annotations

import copy

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd.system.names import snake_case, suggests_arguments


@suggests_arguments
def own(a, b=None, *, c):
    return a, b, c


@pytest.mark.parametrize(
    ("name", "expected"),
    [("KLDivergence", "kl_divergence"), ("RKDAngle", "rkd_angle"), ("DKD", "dkd")],
)
def test_names_in_snake_case(name, expected):
    assert snake_case(name) == expected


def model():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="hidden")])


@pytest.mark.parametrize(
    ("call", "token"),
    [
        (lambda: kd.Prune(sparcity=0.5), "Did you mean 'sparsity'"),
        (lambda: kd.losses.KLDivergence(temprature=2.0), "Did you mean 'temperature'"),
        (lambda: kd.losses.DIST(bta=2.0), "Did you mean 'beta'"),
        (lambda: kd.Hint("a", "a", los=None), "Did you mean 'loss'"),
        (lambda: kd.compress(None, None, stage=[]), "Did you mean 'stages'"),
        (lambda: kd.shrink(None, 0.5, exclud="a"), "Did you mean 'exclude'"),
        (lambda: kd.export_tflite(None, "a", quantizaton="int8"), "Did you mean 'quantization'"),
        (lambda: kd.evaluate_tflite("a", None, batchsize=1), "Did you mean 'batch_size'"),
        (
            lambda: kd.Distiller(None, model(), [], student_loss_wieght=1.0),
            "Did you mean 'student_loss_weight'",
        ),
    ],
)
def test_a_misspelt_argument_gets_a_suggestion(call, token):
    with pytest.raises(TypeError, match=token):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: kd.OnPolicyDistiller(None, model(), [], promptlength=1),
        lambda: kd.Distiller(None, model(), [], no_such=1),
        lambda: kd.quantize_within(None, None, "a.tflite", max_drop=1.0, exclude="a"),
        lambda: kd.compress(None, None, no_such=1),
    ],
)
def test_only_arguments_that_can_be_given_are_listed(call):
    with pytest.raises(TypeError, match="It takes: ") as caught:
        call()
    listed = str(caught.value).split("It takes: ")[1].removesuffix(".").split(", ")
    assert not {"self", "args", "kwargs", "options"} & set(listed)
    assert len(listed) > 5


@pytest.mark.parametrize(
    ("call", "token"),
    [
        (lambda: kd.export_tflite(model(), "a.tflite", "itn8"), "'int8'"),
        (lambda: kd.Shrink(0.5, scope="globl"), "'global'"),
        (lambda: kd.QuantizeAware(ranges="percentle"), "'percentile'"),
        (lambda: kd.Cluster(initialization="linaer"), "'linear'"),
        (lambda: kd.check(model(), kd.Prune(layers="hiden"), verbose=False).problems[0], "hidden"),
        (lambda: kd.Distiller(model(), model(), kd.Hint("hiden", "hidden")), "'hidden'"),
    ],
)
def test_a_misspelt_name_gets_a_suggestion(call, token):
    try:
        message = str(call())
    except ValueError as error:
        message = str(error)
    assert f"Did you mean {token}" in message or f"Did you mean '{token}'" in message


def test_a_misspelt_public_name_gets_a_suggestion():
    with pytest.raises(AttributeError, match="Did you mean 'Distiller'"):
        kd.Distiler  # noqa: B018
    with pytest.raises(AttributeError, match="Did you mean 'Ensemble'"):
        kd.teachers.Ensembel  # noqa: B018


def test_a_constructor_with_more_arguments_decides_by_itself():
    class Own(kd.Stage):
        def __init__(self, **options):
            super().__init__(1)
            self.options = options

    assert Own(anything=1).options == {"anything": 1}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: kd.compress(model()), "compress needs `train` and `stages`. It takes: distiller,"),
        (
            lambda: kd.compress(model(), None),
            "compress needs `stages`. It takes: distiller, train,",
        ),
        (lambda: own(1, 2), "own needs `c`. It takes: a, b, c. Received: a, b, in this order."),
        (lambda: kd.compress(stages=None), "compress needs `distiller` and `train`. It takes: "),
        (
            lambda: kd.compress(model(), None, None, [kd.Prune(0.5)]),
            "compress takes no more than 3 of its arguments without their names (distiller, train, "
            "validation_data). Received: 4. Write the others as `stages=...`.",
        ),
        (lambda: kd.compress(model(), 1, train=2), "compress was given `train` twice. It takes: "),
        (
            lambda: kd.compress_to_size(model(), None, stages=[]),
            "compress_to_size needs `max_bytes`. It takes: distiller, ",
        ),
        (lambda: kd.export_tflite(model()), "export_tflite needs `path`. It takes: model, path,"),
        (lambda: kd.evaluate_tflite(), "evaluate_tflite needs `path` and `data`. It takes: path,"),
        (lambda: kd.search(model(), None), "search needs `validation_data`. It takes: teacher,"),
    ],
)
def test_a_call_that_python_would_refuse_is_told_in_a_sentence(call, said):
    with pytest.raises(TypeError) as caught:
        call()
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        (None, ValueError, "`stages` is empty"),
        ([], ValueError, "`stages` is empty"),
        (3, TypeError, "Received: 3"),
        (kd.Prune, TypeError, "Received: <class"),
        ("prune", TypeError, "Received: 'p'"),
        ([None], TypeError, "Received: None"),
    ],
)
@pytest.mark.parametrize("function", ["compress", "compress_to_size"])
def test_what_is_no_stage(function, given, kind, said):
    student = model()
    student.compile("sgd", "mse")
    arguments = {"max_bytes": 100} if function == "compress_to_size" else {}
    data = np.zeros((4, 4), "float32"), np.zeros((4, 3), "float32")
    with pytest.raises(kind, match=said):
        getattr(kd, function)(student, data, stages=given, verbose=0, **arguments)


def test_objects_with_required_arguments_are_copied():
    class Own(kd.Stage):
        def __init__(self, strength, *more, name=None, **options):
            super().__init__(1, name=name)
            self.strength, self.more, self.options = strength, more, options

    own = Own(0.5, 1, 2, name="own", other=3)
    for copied in (copy.copy(own), copy.deepcopy(own)):
        assert (copied.strength, copied.more, copied.options) == (0.5, (1, 2), {"other": 3})
    with pytest.raises(TypeError, match=r"Own needs `strength`\. It takes: strength, name"):
        Own(name="own")
