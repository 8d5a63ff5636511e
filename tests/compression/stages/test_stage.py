import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd.models.layer_plan import RefusedLayers
from keras_kd.models.tfmot import import_tfmot


class Own(kd.Stage):
    def __init__(self, size=2, epochs=0, **arguments):
        super().__init__(epochs, **arguments)
        self.size = size

    def make_plan(self, student, earlier):
        return kd.Plan({"logits": kd.LayerPlan(f"size {self.size}")}, self.change)

    def change(self, state, teaching):
        state.note("logits").done.append(f"size {self.size}")


@pytest.fixture
def student():
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(3, name="logits")(inputs), name="student")


@keras.saving.register_keras_serializable(package="test_stage")
def is_dense(layer):
    return isinstance(layer, keras.layers.Dense)


def test_the_configuration_is_read_from_attributes():
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    stage = Own(3, epochs=2, learning_rate=rate, layers=is_dense, exclude="a")
    config = stage.get_config()
    assert set(config) == {
        "size", "epochs", "optimizer", "learning_rate", "name", "layers", "exclude"
    }  # fmt: skip
    assert (config["size"], config["name"], config["exclude"]) == (3, "own", ["a"])
    copied = Own.from_config(config)
    assert copied.layers is is_dense and copied.get_config() == config
    stage = Own(optimizer=keras.optimizers.SGD(0.5))
    assert float(Own.from_config(stage.get_config()).make_optimizer().learning_rate) == 0.5


@keras.saving.register_keras_serializable(package="test_stage")
class Falling(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 1.0 - step / 12

    def get_config(self):
        return {}


@pytest.mark.parametrize("given", ["learning_rate", "optimizer"])
@pytest.mark.parametrize("epochs", [2, 4, 8])
def test_schedules_extend_over_other_epochs(given, epochs):
    made = Falling() if given == "learning_rate" else keras.optimizers.SGD(Falling())
    stage = Own(epochs=4, **{given: made}).with_epochs(epochs)
    again = Own.from_config(stage.get_config())
    assert (stage.epochs, again.epochs) == (epochs, epochs)
    for each in (stage, again):
        optimizer = each.make_optimizer()
        rates = []
        for _ in range(3 * epochs):
            rates.append(float(optimizer.learning_rate))
            optimizer.iterations.assign_add(1)
        np.testing.assert_allclose(rates, np.linspace(1, 0, 3 * epochs, endpoint=False), rtol=1e-6)


def test_other_epochs_keep_what_is_no_schedule():
    optimizer = keras.optimizers.SGD(0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    assert Own(epochs=4, optimizer=optimizer).with_epochs(2).optimizer is optimizer
    assert Own(epochs=4, learning_rate=0.5).with_epochs(2).learning_rate == 0.5
    twice = kd.QuantizeAware(2, learning_rate=Falling()).gentler()
    assert (twice.epochs, float(twice.learning_rate(24))) == (4, 0.0)


def test_an_argument_that_is_no_attribute_is_named():
    class Forgetful(Own):
        def __init__(self, depth=1):
            super().__init__()

    with pytest.raises(NotImplementedError, match="`depth`"):
        Forgetful().get_config()


def test_configurations_hold_what_they_held_before():
    assert set(kd.QuantizeAware().get_config()) == {
        "epochs", "optimizer", "learning_rate", "name", "calibration_batches", "weight_bits",
        "activation_bits", "ranges", "layers", "exclude",
    }  # fmt: skip
    assert kd.Shrink(0.5).get_config() == {
        "ratio": 0.5, "epochs": 1, "max_flops": None, "flops_ratio": None, "max_parameters": None,
        "importance": "l1", "batches": 10, "scope": "uniform", "reduction": "mean",
        "min_channels": 1, "layers": None, "exclude": None, "drop": None, "depth": None,
        "layer_norm": False, "divisor": 1, "optimizer": None, "learning_rate": None,
        "name": "shrink",
    }  # fmt: skip


def test_a_plan_that_changes_the_student_is_refused_and_undone(student):
    class Hasty(Own):
        def make_plan(self, student, earlier):
            student.get_layer("logits").kernel.assign(keras.ops.zeros((4, 3)))
            return super().make_plan(student, earlier)

    before = student.get_weights()
    found = kd.check(student, Hasty(), "float32", verbose=False)
    assert "Hasty.make_plan changes" in found.problems[0].message
    assert "logits/kernel" in found.problems[0].message
    for now, then in zip(student.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)

    class Freezing(Own):
        def make_plan(self, student, earlier):
            student.get_layer("logits").trainable = False
            return super().make_plan(student, earlier)

    assert "Freezing.make_plan changes" in Freezing().plan(student).refused
    assert student.get_layer("logits").trainable


def test_layers_that_do_not_exist_are_refused_in_a_stage_of_your_own(student):
    class Elsewhere(Own):
        def make_plan(self, student, earlier):
            return kd.Plan({"logit": kd.LayerPlan("x")}, self.change)

    assert "'logit'" in (refused := Elsewhere().plan(student).refused)
    assert "Did you mean 'logits'" in refused
    for argument in ("exclude", "layers"):
        refused = Own(**{argument: "nope"}).plan(student).refused
        assert f"`{argument}`" in refused and "'nope'" in refused
    assert not Own(exclude="log*").plan(student).refused


@pytest.mark.parametrize(
    "error",
    [ValueError("mine"), ImportError("mine"), KeyError("mine"), RefusedLayers({"a": "mine"})],
)
def test_a_plan_is_refused_and_raises_nothing(student, error):
    class Failing(Own):
        def make_plan(self, student, earlier):
            raise error

    plan = Failing().plan(student)
    assert "mine" in plan.refused
    assert [layer.action for layer in plan.layers.values()] == ["refused"] * ("a" in plan.layers)
    kind = ValueError if isinstance(error, KeyError) else type(error)
    for attempt in (plan.check, plan.preview, lambda: plan.apply(None, None)):
        with pytest.raises(kind, match="mine"):
            attempt()


def test_a_preview_that_fails_names_the_stage(student):
    class Failing(Own):
        def make_plan(self, student, earlier):
            return kd.Plan({}, self.change, lambda: student.get_layer(index=99))

    plan = Failing().plan(student)
    assert not plan.refused
    with pytest.raises(ValueError):
        plan.preview()
    assert Own().plan(student).preview() is student


STAGES = {
    "shrink": lambda: kd.Shrink(0.5, epochs=0),
    "low_rank": lambda: kd.LowRank(ratio=0.5, epochs=0),
    "prune": lambda: kd.Prune(0.5, epochs=0),
    "cluster": lambda: kd.Cluster(4, epochs=0),
    "quantize_aware": lambda: kd.QuantizeAware(epochs=0),
}


@pytest.mark.parametrize("name", STAGES)
def test_notes_are_what_was_planned(name):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = keras.layers.Dense(12, "relu", name="hidden")(inputs)
    x = keras.layers.Dense(12, "relu", name="spared")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(x))
    stage = STAGES[name]()
    stage = type(stage).from_config({**stage.get_config(), "exclude": "spared"})
    plan = stage.plan(model)
    assert not plan.refused and model.get_layer("hidden").units == 12
    distiller = kd.Distiller(None, model, [], student_loss_weight=1.0)
    distiller.compile("adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = (np.ones((8, 6), "float32"), np.zeros(8, "int32"))
    done = kd.compress(distiller, data, stages=[stage], verbose=0)
    for record in done.layers[1:]:
        assert bool(record.done) == (not plan.layers[record.name].reason), record
        assert bool(record.not_done) == bool(plan.layers[record.name].reason), record
    cells = {row.path: row.cells for row in kd.check(model, stage, exports=[]).rows}
    assert {path: cell[name] for path, cell in cells.items() if name in cell} == plan.layers


@pytest.mark.parametrize(
    ("made", "message"),
    [(None, "make_plan must return"), ({"logits": "8 bits"}, "make_plan must return")],
)
def test_what_is_no_plan_is_refused(student, made, message):
    class Wrong(Own):
        def make_plan(self, student, earlier):
            return made if made is None else kd.Plan(made, self.change)

    plan = Wrong().plan(student)
    assert message in plan.refused and "Wrong" in plan.refused


def test_a_stage_without_a_plan_is_told_what_to_write(student):
    class Empty(kd.Stage):
        def __init__(self):
            super().__init__(0)

    assert "Empty has no `make_plan`" in Empty().plan(student).refused


def test_a_run_of_a_stage_with_hidden_arguments_is_refused(student, tmp_path):
    class Hidden(Own):
        def __init__(self, size):
            super().__init__()
            self._size = size
            del self.size

        def make_plan(self, student, earlier):
            return kd.Plan({}, lambda state, teaching: None)

    distiller = kd.Distiller(student, keras.models.clone_model(student), kd.losses.LogitsMSE())
    distiller.compile("sgd", "mse")
    data = np.zeros((4, 4), "float32"), np.zeros((4, 3), "float32")
    with pytest.raises(NotImplementedError, match="`size`"):
        kd.compress(distiller, data, stages=[Hidden(2)], path=tmp_path / "run", verbose=0)


class Unregistered(Falling):
    pass


def test_schedules_inside_other_objects_extend_too():
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(Unregistered()))
    optimizer = Own(epochs=4, optimizer=scaled).with_epochs(2).make_optimizer()
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    assert float(optimizer.inner_optimizer._learning_rate(3)) == 0.5
    decay = import_tfmot().sparsity.keras.PolynomialDecay(0.0, 0.8, 0, 600, frequency=100)
    shorter = kd.Prune(epochs=3, schedule=decay).with_epochs(1).schedule
    assert (shorter.begin_step, shorter.end_step, shorter.frequency) == (0, 200, 33)
    assert kd.Prune(0.5, epochs=3).with_epochs(1).schedule is None
