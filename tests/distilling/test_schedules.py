import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd.distilling.schedules import Schedules, deserialize_loss, is_schedule

Polynomial = keras.optimizers.schedules.PolynomialDecay
SparseCE = keras.losses.SparseCategoricalCrossentropy


def network(width, name):
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(width, name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(hidden), name=name)


def examples(count=32):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 5)).astype("float32"), rng.integers(0, 3, count)


def kl(teacher, student, temperature):
    def log_softmax(x):
        x = np.asarray(x, "float64") / temperature
        x = x - x.max(-1, keepdims=True)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    t, s = log_softmax(teacher), log_softmax(student)
    return temperature**2 * (np.exp(t) * (t - s)).sum(-1).mean()


class EveryStep(keras.callbacks.Callback):
    """Keeps the logs of single steps: the metrics start anew after each."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(dict(logs))
        self.model.reset_metrics()


def steps_of(distiller, epochs=2, optimizer=None, callbacks=(), **compile_options):
    optimizer = optimizer or keras.optimizers.SGD(0.0)
    distiller.compile(optimizer, SparseCE(from_logits=True), **compile_options)
    every = EveryStep()
    x, y = examples()
    distiller.fit(
        x, y, epochs=epochs, batch_size=16, shuffle=False, verbose=0, callbacks=[every, *callbacks]
    )
    return every.steps


def weight_of_labels(logs):
    """Solve `loss = w * student_loss + (1 - w) * distillation_loss` for `w`."""
    return (logs["loss"] - logs["distillation_loss"]) / (
        logs["student_loss"] - logs["distillation_loss"]
    )


def double_epoch(epoch):
    return 2.0 * epoch


@keras.saving.register_keras_serializable(package="test_schedules")
def warmer(epoch):
    return 1.0 + epoch


@pytest.mark.parametrize("options", [{}, {"run_eagerly": True}, {"jit_compile": True}])
def test_weights_follow_the_step_or_the_epoch(options):
    distiller = kd.Distiller(
        network(6, "t"),
        network(4, "s"),
        [kd.losses.KLDivergence(2.0), kd.Hint("hidden", "hidden")],
        [double_epoch, Polynomial(1.0, 4, 0.0)],
        Polynomial(0.2, 4, 0.6),
    )
    hint = distiller.distillation_losses[1].name
    for step, logs in enumerate(steps_of(distiller, **options)):
        weighted = 2.0 * (step // 2) * logs["kl_divergence"] + (1 - step / 4) * logs[hint]
        assert logs["distillation_loss"] == pytest.approx(weighted, rel=1e-4)
        assert weight_of_labels(logs) == pytest.approx(0.2 + 0.1 * step, abs=1e-3)


def test_weight_of_labels_may_be_a_function_of_the_epoch():
    distiller = kd.Distiller(
        network(6, "t"), network(4, "s"), kd.losses.KLDivergence(), None, lambda e: 0.75 - 0.5 * e
    )
    steps = steps_of(distiller)
    assert [weight_of_labels(logs) for logs in steps] == pytest.approx(
        [0.75, 0.75, 0.25, 0.25], abs=1e-3
    )


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [(Polynomial(4.0, 4, 2.0), [4.0, 3.5, 3.0, 2.5]), (warmer, [1.0, 1.0, 2.0, 2.0])],
    ids=["step", "epoch"],
)
def test_temperature_follows_the_step_or_the_epoch(temperature, expected):
    teacher, student = network(6, "t"), network(4, "s")
    distiller = kd.Distiller(teacher, student, kd.losses.KLDivergence(temperature))
    x, _ = examples()
    batches = [(teacher(part), student(part)) for part in (x[:16], x[16:])]
    steps = steps_of(distiller)
    for step, (logs, value) in enumerate(zip(steps, expected, strict=True)):
        assert logs["distillation_loss"] == pytest.approx(kl(*batches[step % 2], value), rel=1e-4)
    assert distiller.distillation_losses[0].temperature is temperature


def test_schedules_do_not_trace_the_step_again():
    traces = []

    class Counted(kd.losses.KLDivergence):
        def call(self, teacher, student, labels=None):
            traces.append(1)
            return super().call(teacher, student, labels)

    distiller = kd.Distiller(network(6, "t"), network(4, "s"), Counted(warmer), [double_epoch])
    steps_of(distiller, epochs=1)
    first = len(traces)
    distiller.fit(*examples(), epochs=5, batch_size=16, verbose=0)
    assert len(traces) == first


def test_steps_are_those_of_a_learning_rate_schedule_where_gradients_are_accumulated():
    distiller = kd.Distiller(
        network(6, "t"),
        network(4, "s"),
        [kd.losses.KLDivergence(), kd.losses.LogitsMSE()],
        [Polynomial(1.0, 4, 0.0), 0.0],
        0.0,
    )
    optimizer = keras.optimizers.SGD(0.0, gradient_accumulation_steps=2)
    ratios = [
        logs["distillation_loss"] / logs["kl_divergence"]
        for logs in steps_of(distiller, optimizer=optimizer)
    ]
    assert ratios == pytest.approx([1.0, 0.75, 0.5, 0.25], rel=1e-4)


# Distillation that stops


def test_distillation_stops_at_an_epoch_and_the_teacher_is_not_run_any_more():
    teacher, student = network(6, "t"), network(4, "s")
    calls = []
    layer = teacher.get_layer("hidden")
    call = layer.call
    object.__setattr__(layer, "call", lambda *a, **k: calls.append(1) or call(*a, **k))
    hint = kd.Hint("hidden", "hidden")
    distiller = kd.Distiller(
        teacher, student, [kd.losses.KLDivergence(), hint], stop_distillation_at=1
    )
    projections = []
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: projections.append(hint.layers[0].kernel.numpy())
    )
    steps = steps_of(
        distiller, 3, keras.optimizers.Adam(0.1), [keep], run_eagerly=True, metrics=["accuracy"]
    )
    assert len(calls) == 3  # one before training
    for logs in steps[2:]:
        assert logs["loss"] == pytest.approx(logs["student_loss"], rel=1e-6)
        assert not {"kl_divergence", "distillation_loss"} & set(logs)
    assert steps[0]["loss"] != pytest.approx(steps[0]["student_loss"])
    np.testing.assert_array_equal(projections[0], projections[2])

    distiller.fit(*examples(), epochs=1, batch_size=16, verbose=0)
    assert len(calls) == 6


def test_student_goes_on_as_if_trained_on_labels_alone():
    x, y = examples()
    results = []
    for distils in (True, False):
        keras.utils.set_random_seed(0)
        teacher, student = network(6, "t"), network(4, "s")
        stop = {"stop_distillation_at": 0} if distils else {}
        distiller = kd.Distiller(
            teacher, student, kd.losses.KLDivergence(), None, 0.1 if distils else 1.0, **stop
        )
        distiller.compile("adam", SparseCE(from_logits=True))
        distiller.fit(x, y, epochs=2, batch_size=16, shuffle=False, verbose=0)
        results.append(student.get_weights())
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_distillation_that_stops_needs_labels():
    distiller = kd.Distiller(
        network(6, "t"), network(4, "s"), kd.losses.KLDivergence(), None, 0.0,
        stop_distillation_at=3,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"received no `loss`.*stop_distillation_at=3"):
        distiller.compile("sgd")
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match=r"data holds none.*stop_distillation_at=3"):
        distiller.fit(examples()[0], verbose=0)


@pytest.mark.parametrize("epoch", [-1, 1.5, "1", True])
def test_wrong_epoch_is_refused(epoch):
    with pytest.raises(ValueError, match="stop_distillation_at"):
        kd.Distiller(
            network(6, "t"), network(4, "s"), kd.losses.KLDivergence(), stop_distillation_at=epoch
        )


# Saving, stages


@pytest.mark.promise
def test_schedules_survive_saving(tmp_path):
    teacher, student = network(6, "t"), network(4, "s")
    distiller = kd.Distiller(
        teacher,
        student,
        [
            kd.losses.KLDivergence(Polynomial(4.0, 8, 2.0)),
            kd.losses.KLDivergence(warmer, name="by_epoch"),
            kd.Hint("hidden", "hidden"),
        ],
        [1.0, warmer, Polynomial(1.0, 8, 0.0)],
        Polynomial(0.2, 8, 0.6),
        stop_distillation_at=3,
    )
    steps_of(distiller)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    loaded.teacher = teacher
    assert loaded.stop_distillation_at == 3
    assert loaded.distillation_losses[1].temperature is warmer
    histories = [
        model.fit(
            *examples(), initial_epoch=2, epochs=4, batch_size=16, shuffle=False, verbose=0
        ).history
        for model in (distiller, loaded)
    ]
    for name, values in histories[0].items():
        assert histories[1][name] == pytest.approx(values, rel=1e-5), name


@pytest.mark.promise
def test_stages_keep_what_schedules_have_come_to():
    distiller = kd.Distiller(
        network(6, "t"),
        network(4, "s"),
        [kd.losses.KLDivergence(Polynomial(4.0, 8, 2.0))],
        [double_epoch],
        Polynomial(0.2, 8, 0.6),
        stop_distillation_at=1,
    )
    steps_of(distiller)
    objective = distiller.objective.without_missing_hints(distiller.student)
    assert objective.distillation_losses[0].temperature == pytest.approx(3.0)
    assert objective.distillation_loss_weights == [2.0]
    assert objective.student_loss_weight == pytest.approx(0.4)
    assert objective.distils


def test_losses_without_schedules_stay_the_same_objects():
    losses = [kd.losses.KLDivergence(), kd.Hint("hidden", "hidden")]
    schedules = Schedules([1.0], losses)
    assert [schedules.loss(loss) for loss in losses] == losses
    assert not schedules.by_epoch
    structure = {"a": losses[0], "b": None}
    assert schedules.loss(structure) == structure


def test_a_loss_of_a_hint_and_of_an_output_may_be_scheduled():
    loss = kd.losses.KLDivergence(warmer)
    schedules = Schedules([], [kd.Hint("a", "b", loss=loss), {"x": loss, "y": None}])
    schedules.begin_epoch(4)
    hint = schedules.loss(kd.Hint("a", "b", loss=loss), numbers=True)
    assert hint.loss.temperature == 5.0
    assert schedules.loss({"x": loss, "y": None}, numbers=True)["x"].temperature == 5.0


def test_loss_with_a_schedule_is_read_from_its_configuration():
    hint = kd.Hint("a", "b", loss=kd.losses.KLDivergence(Polynomial(4.0, 8, 2.0)))
    config = keras.saving.serialize_keras_object(hint)
    temperature = deserialize_loss(config).loss.temperature
    assert isinstance(temperature, Polynomial)
    assert float(temperature(4)) == pytest.approx(3.0)


@pytest.mark.parametrize("value", [None, "warm", float("nan")])
def test_function_that_returns_no_number_is_refused(value):
    with pytest.raises(ValueError, match=r"distillation_loss_weights\(0\)"):
        Schedules([lambda epoch: value], [])


def test_what_a_schedule_is():
    assert is_schedule(warmer)
    assert is_schedule(Polynomial(1.0, 2))
    assert not is_schedule(0.5)


@keras.saving.register_keras_serializable(package="test_schedules")
def falling(epoch):
    return 0.5 / (1.0 + epoch)


LOSSES = [
    (kd.losses.DKD, "alpha"),
    (kd.losses.DKD, "beta"),
    (kd.losses.DIST, "beta"),
    (kd.losses.DIST, "gamma"),
    (kd.losses.DIST, "temperature"),
    (kd.losses.NKD, "gamma"),
    (kd.losses.RKD, "distance_weight"),
    (kd.losses.CorrelationCongruence, "gamma"),
]


@pytest.mark.fast_cases("falling-CorrelationCongruence-gamma")
@pytest.mark.parametrize(("kind", "name"), LOSSES)
@pytest.mark.parametrize("schedule", [falling, Polynomial(0.5, 1, 0.25)])
def test_every_argument_that_may_be_scheduled_is_what_it_is_then(kind, name, schedule):
    x, y = examples()

    def value(argument, loaded=False):
        keras.utils.set_random_seed(0)
        loss = kind(**{name: argument})
        if loaded:
            config = keras.saving.serialize_keras_object(loss)
            loss = deserialize_loss(config)
        if isinstance(loss, (kd.losses.RKD, kd.losses.CorrelationCongruence)):
            loss = kd.Hint("hidden", "hidden", loss=loss)
        distiller = kd.Distiller(network(4, "teacher"), network(4, "student"), loss)
        distiller.compile(keras.optimizers.SGD(0.0), SparseCE(from_logits=True))
        return distiller.fit(x, y, epochs=2, verbose=0).history["distillation_loss"]

    expected = [value(0.5)[0], value(0.25)[0]]
    np.testing.assert_allclose(value(schedule), expected, rtol=1e-5)
    np.testing.assert_allclose(value(schedule, loaded=True), expected, rtol=1e-5)
