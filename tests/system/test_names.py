from __future__ import annotations

import keras
import pytest

import keras_kd as kd
from keras_kd.system.names import snake_case


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
        (lambda: kd.compress(None, None, stage=[]), "Did you mean 'stages'"),
        (lambda: kd.shrink(None, 0.5, exclud="a"), "Did you mean 'exclude'"),
        (lambda: kd.export_tflite(None, "a", quantization="int8"), "Did you mean 'quantization'"),
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
