import pytest

import keras_kd as kd
from keras_kd.cli.named import (
    loss_classes,
    make_call,
    make_loss,
    make_losses,
    make_stages,
    nearest,
    parse_call,
)


def test_every_loss_has_a_name():
    classes = set(loss_classes().values())
    public = {getattr(kd.losses, name) for name in dir(kd.losses) if name[0].isupper()}
    left_out = {kd.losses.DistillationLoss, kd.losses.CRD, kd.losses.TopKLogits}
    assert classes == public - left_out
    assert len(loss_classes()) == len(classes)


@pytest.mark.parametrize("name", ["fit_net", "fitnet", "FitNet"])
def test_a_loss_is_found_by_its_letters(name):
    assert isinstance(make_loss(name)[0], kd.losses.FitNet)


def test_losses_and_hints():
    losses, weights = make_losses(
        ["kl_divergence", "dist(beta=2.0, temperature=1.0):0.5", "pkt"],
        ["a:b", "a,c:d,e:review_kd:3", "a:b:fit_net:0.25"],
        temperature=3.0,
        from_logits=False,
    )
    assert weights == [1.0, 0.5, 1.0, 1.0, 3.0, 0.25]
    assert losses[0].temperature == 3.0
    assert losses[0].from_logits is False
    assert (losses[1].beta, losses[1].temperature) == (2.0, 1.0)
    assert isinstance(losses[3].loss, kd.losses.FitNet)
    assert losses[4].teacher_layer == ["a", "c"]
    assert losses[4].student_layer == ["d", "e"]
    assert isinstance(losses[4].loss, kd.losses.ReviewKD)


@pytest.mark.parametrize(
    ("losses", "hints", "message"),
    [
        (["kl_divergense"], [], "There is no loss 'kl_divergense'. Did you mean 'kl_divergence'"),
        (["kl_divergence:much"], [], "the weight after the colon must be a number"),
        (["kl_divergence(temp=1)"], [], "Did you mean 'temperature'"),
        ([], ["a"], "A hint is written TEACHER_LAYER:STUDENT_LAYER"),
        ([], ["a:b:c:1:2"], "A hint is written TEACHER_LAYER:STUDENT_LAYER"),
    ],
)
def test_what_names_no_loss(losses, hints, message):
    with pytest.raises(ValueError, match=message):
        make_losses(losses, hints, 4.0, True)


def test_stages():
    texts = ["shrink(0.25)", "prune(0.75, epochs=4)", "quantize_aware"]
    stages = make_stages(texts, epochs=2, learning_rate=0.01)
    assert [type(stage) for stage in stages] == [kd.Shrink, kd.Prune, kd.QuantizeAware]
    assert [stage.epochs for stage in stages] == [2, 4, 2]
    assert stages[1].sparsity == 0.75
    assert stages[0].learning_rate == 0.01
    with pytest.raises(ValueError, match=r"There is no stage 'prone'. Did you mean 'prune'"):
        make_stages(["prone(0.5)"])


class Thing:
    def __init__(self, amount=0.5, epochs=1, name=None):
        self.given = (amount, epochs, name)
        if amount < 0:
            raise ValueError("below 0")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prune", ("prune", [], {})),
        ("prune()", ("prune", [], {})),
        (" prune( 0.75, epochs = 4 ) ", ("prune", [0.75], {"epochs": 4})),
        ("a(b='c', d=[1, 2], e=None)", ("a", [], {"b": "c", "d": [1, 2], "e": None})),
        ("a(-1)", ("a", [-1], {})),
    ],
)  # fmt: skip
def test_parse(text, expected):
    assert parse_call(text, "a stage") == expected


@pytest.mark.parametrize("text", ["", "1", "a(", "a(b)", "a(__import__('os'))", "a(1)(2)", "a b"])
def test_what_is_no_call_is_refused(text):
    with pytest.raises(ValueError, match=r"a stage is written as a name.*Received"):
        parse_call(text, "a stage")


def test_make_call_takes_defaults_that_are_not_given():
    things = {"thing": Thing}
    assert make_call("thing", things, "a thing").given == (0.5, 1, None)
    defaults = {"epochs": 7, "absent": 1}
    assert make_call("thing(0.1)", things, "a thing", defaults).given == (0.1, 7, None)
    assert make_call("thing(0.1, 2)", things, "a thing", defaults).given == (0.1, 2, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("thin", r"There is no thing 'thin'. Did you mean 'thing'\?"),
        ("thing(epoch=1)", r"'thing' has no argument `epoch`. Did you mean 'epochs'\?"),
        ("thing(1, 2, 3, 4)", "too many positional"),
        ("thing(-1)", "below 0"),
        ("thing('a')", "'thing"),
    ],
)
def test_make_call_refuses(text, message):
    with pytest.raises(ValueError, match=message):
        make_call(text, {"thing": Thing}, "a thing")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("xyz", "There are: cluster, kl_divergence, skew_kl."),
        ("clustr", "Did you mean 'cluster'?"),
        ("divergense", "Did you mean 'kl_divergence'?"),
        ("klll", "Did you mean one of: kl_divergence, skew_kl?"),
    ],
)
def test_nearest(name, said):
    assert nearest(name, ["skew_kl", "kl_divergence", "cluster"]) == said
