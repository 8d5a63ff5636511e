"""Numbers that make no sense are refused where they are given."""

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd.system.arguments import (
    constructor_arguments,
    exceeds,
    number,
    scheduled,
    with_added,
)

NAN, INF = float("nan"), float("inf")
SENSELESS = [NAN, INF, -INF, -1.0]


@pytest.mark.parametrize("value", [*SENSELESS, 0, True, "1", None, 1j])
def test_what_is_not_a_number_above_zero_is_refused(value):
    with pytest.raises(ValueError, match=r"Prune: `rate`.*Received: rate="):
        number("rate", value, above=0, owner="Prune")


@pytest.mark.parametrize("value", [np.float32(2), np.int64(2), 2])
def test_numbers_of_numpy_become_pythons(value):
    assert type(number("rate", value, least=2, most=2)) in (int, float)


def test_whole_and_optional_numbers():
    assert number("k", None, whole=True, optional=True) is None
    assert number("k", 10**400, whole=True) == 10**400
    with pytest.raises(ValueError, match="whole number of at least 1 and of at most 3"):
        number("k", 2.0, whole=True, least=1, most=3)


def test_added_arguments_count_where_they_have_their_defaults():
    now = {"a": 1, "b": 2, "c": [3], "d": 4, "inner": {"e": 5, "f": 6}}
    defaults = {"a": 0, "b": 2, "c": (3,), "inner": {"e": 5, "f": 0}}
    kept = {"a": 0, "old": 7, "inner": {}}
    expected = {"a": 0, "old": 7, "b": 2, "c": [3], "inner": {"e": 5}}
    assert with_added(kept, now, defaults) == expected
    assert kept == {"a": 0, "old": 7, "inner": {}}


def test_a_schedule_is_checked_by_its_first_value():
    constant = keras.optimizers.schedules.ExponentialDecay
    assert callable(scheduled("temperature", constant(1.0, 1, 0.5), above=0))
    for schedule in (constant(NAN, 1, 0.5), lambda epoch: -1.0, lambda epoch: None):
        with pytest.raises(ValueError, match=r"temperature\(0\)"):
            scheduled("temperature", schedule, above=0)


LOSSES = {
    (kd.losses.KLDivergence, "temperature"),
    (kd.losses.SoftCrossEntropy, "temperature"),
    (kd.losses.DKD, "alpha"),
    (kd.losses.DKD, "beta"),
    (kd.losses.DIST, "beta"),
    (kd.losses.DIST, "gamma"),
    (kd.losses.NKD, "gamma"),
    (kd.losses.RKD, "distance_weight"),
    (kd.losses.RKD, "angle_weight"),
    (kd.losses.BoundedRegression, "margin"),
    (kd.losses.CorrelationCongruence, "gamma"),
    (kd.losses.VID, "epsilon"),
    (kd.losses.VID, "initial_variance"),
    (kd.Prune, "sparsity"),
    (kd.Prune, "begin"),
    (kd.Prune, "end"),
    (kd.Prune, "learning_rate"),
    (kd.LowRank, "energy"),
    (kd.LowRank, "ratio"),
    (kd.Shrink, "ratio"),
    (kd.Cluster, "learning_rate"),
    (kd.QuantizeAware, "learning_rate"),
}


@pytest.mark.parametrize("value", SENSELESS)
@pytest.mark.parametrize(
    ("made", "argument"), sorted(LOSSES, key=str), ids=lambda x: getattr(x, "__name__", x)
)
def test_losses_and_stages_refuse_numbers_that_make_no_sense(made, argument, value):
    with pytest.raises(ValueError, match=f"`{argument}`"):
        made(**{argument: value})


@pytest.mark.parametrize("value", SENSELESS)
def test_budgets_and_teachers_refuse_them(value):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    for name in ("max_drop", "min_agreement", "min_accuracy", "max_latency_ms"):
        with pytest.raises(ValueError, match=f"`{name}`"):
            kd.Budget(**{name: value})
    with pytest.raises(ValueError, match="`temperature`"):
        kd.teachers.Ensemble([model], temperature=value)
    with pytest.raises(ValueError, match="`tolerance`"):
        kd.teachers.accelerate(model, np.zeros((1, 4)), tolerance=value)
    with pytest.raises(ValueError, match=r"class_weight\[1\]"):
        kd.losses.KLDivergence(class_weight={1: value})


def models():
    return [keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]) for _ in range(2)]


@pytest.mark.parametrize("value", SENSELESS)
def test_distillers_refuse_weights_and_learning_rates(value):
    loss = kd.losses.KLDivergence()
    for make in (lambda *rest: kd.Distiller(*models(), loss, *rest),
                 lambda *rest: kd.MutualDistiller(models(), loss, *rest)):  # fmt: skip
        with pytest.raises(ValueError, match="`distillation_loss_weights`"):
            make(value)
        with pytest.raises(ValueError, match="`student_loss_weight`"):
            make(None, value)
        for optimizer in (
            keras.optimizers.SGD(value),
            keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(value, 9, 0.5)),
        ):
            with pytest.raises(ValueError, match="`learning_rate`"):
                make().compile(optimizer, loss="sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="`learning_rate`"):
        kd.QuantizeAware(optimizer=keras.optimizers.SGD(value))


def test_a_function_of_the_epoch_is_checked_at_every_epoch():
    distiller = kd.Distiller(
        *models(), kd.losses.KLDivergence(lambda epoch: 2.0 - epoch), student_loss_weight=0.0
    )
    distiller.compile("sgd")
    with pytest.raises(ValueError, match=r"temperature\(2\)"):
        distiller.fit(np.zeros((4, 4), "float32"), epochs=4, verbose=0)


class Outer:
    def __init__(self, name, size=1):
        pass


class Middle(Outer):
    """Has the constructor of its base."""


class Passing(Middle):
    def __init__(self, rate, *args, **kwargs):
        pass


class Closed(Passing):
    def __init__(self, only):
        pass


def test_arguments_of_a_constructor_are_those_it_names_and_passes_on():
    assert constructor_arguments(Middle) == ["name", "size"]
    assert constructor_arguments(Passing) == ["rate", "name", "size"]
    assert constructor_arguments(Closed) == ["only"]
    assert constructor_arguments(object) == []


@pytest.mark.parametrize("samples", [40, 597, 10_000])
def test_what_lies_at_the_limit_is_within_it(samples):
    before = np.arange(samples // 2, samples + 1) / samples
    for lost in (1, 2, 5):
        for kind in (np.float32, np.float64):
            points = 100.0 * (kind(before) - kind(before - lost / samples)).astype("float64")
            limit = 100.0 * lost / samples
            assert not any(exceeds(float(value), limit) for value in points)
            assert all(exceeds(float(value), limit - 1e-2 / 2) for value in points)
