"""Callbacks in the stages of `compress`."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_kd as kd
from keras_kd.compression.running.epoch_backup import EpochBackup
from keras_kd.compression.running.run_folder import RunFolder
from keras_kd.compression.running.stage_callbacks import CallbackStates, stage_callbacks
from keras_kd.compression.stages.stage import Plan, Stage

EarlyStopping = keras.callbacks.EarlyStopping


def network(width, name):
    inputs = keras.Input((8,), name="x")
    x = layers.Dense(width, activation="relu", name="hidden")(inputs)
    x = layers.BatchNormalization(name="bn")(layers.Dropout(0.3, name="drop")(x))
    return keras.Model(inputs, layers.Dense(3, name="logits")(x), name=name)


def arguments(*stages, **others):
    keras.utils.set_random_seed(0)
    distiller = kd.Distiller(network(16, "teacher"), network(12, "student"), kd.losses.FitNet())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("adam", loss=loss, metrics=["accuracy"])
    x = np.random.default_rng(0).normal(size=(48, 8)).astype("float32")
    data = (x, x[:, :3].argmax(1))
    return {"distiller": distiller, "train": data, "stages": [*stages], "verbose": 0, **others}


class Worse(keras.callbacks.Callback):
    """Logs a loss that is worse in each epoch."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self._trained = []  # private: not restored

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append((type(self.model).__name__, epoch))
        self._trained.append(epoch)
        logs["worse"] = float(epoch)


def stopping(patience=1):
    return [
        Worse(),
        EarlyStopping("worse", mode="min", patience=patience, restore_best_weights=True),
    ]


@pytest.mark.promise
def test_a_list_runs_in_every_stage():
    worse = Worse()
    stages = [
        kd.Shrink(0.3, epochs=1),
        kd.Prune(0.5, epochs=2),
        kd.Cluster(4, epochs=1),
        kd.QuantizeAware(epochs=1),
    ]
    made = kd.compress(**arguments(*stages, callbacks=[worse]))
    assert worse.seen == [("Distiller", epoch) for epoch in (0, 0, 1, 0, 0)]
    assert made.history["prune"]["worse"] == [0.0, 1.0] and "sparsity" in made.history["prune"]


@pytest.mark.promise
def test_a_function_gives_a_list_per_stage():
    watching = {"a": Worse(), "b": Worse()}
    stages = [kd.Prune(0.3, name="a"), kd.Prune(0.5, epochs=2, name="b"), kd.Cluster(4)]
    kd.compress(
        **arguments(
            *stages,
            callbacks=lambda stage: [watching[stage.name]] if stage.name != "cluster" else [],
        )
    )
    assert [len(callback.seen) for callback in watching.values()] == [1, 2]


@pytest.mark.parametrize(
    ("callback", "kind", "token"),
    [
        (lambda path: kd.BackupAndRestore(path), ValueError, "path="),
        (lambda path: keras.callbacks.BackupAndRestore(path), ValueError, "path="),
        (lambda path: kd.Prune(0.5).as_callback(), ValueError, "stages"),
        (lambda path: "EarlyStopping", TypeError, "EarlyStopping"),
        (lambda path: EarlyStopping, TypeError, "callbacks"),
    ],
)
def test_what_cannot_run_in_a_stage_is_refused(tmp_path, callback, kind, token):
    given = callback(tmp_path)
    for callbacks in ([given], lambda stage: [given]):
        with pytest.raises(kind, match=token):
            kd.compress(**arguments(kd.Prune(0.5), callbacks=callbacks))
    with pytest.raises(TypeError, match="callbacks"):
        kd.compress(**arguments(kd.Prune(0.5), callbacks="EarlyStopping"))
    with pytest.raises(kind, match=token):
        kd.compress_to_size(
            **arguments(kd.Prune(0.5), callbacks=[given]), max_bytes=10, quantization="float32"
        )


def zeros(model, name):
    return np.asarray(model.get_layer(name).kernel) == 0


@pytest.mark.promise
@pytest.mark.filterwarnings("ignore:Training ended before the schedule")
@pytest.mark.filterwarnings("ignore:At the end of the training a callback")
def test_zeros_survive_the_weights_of_the_best_epoch():
    stages = [
        kd.Prune(0.5, epochs=4, learning_rate=0.01),
        kd.Cluster(4, epochs=4, learning_rate=0.01),
        kd.QuantizeAware(epochs=4, learning_rate=0.01),
    ]
    for count in (1, 2, 3):
        made = kd.compress(**arguments(*stages[:count], callbacks=stopping()))
        assert [record.epochs for record in made.stages] == [0] + [2] * count
        for name in ("hidden", "logits"):
            assert zeros(made.model, name).mean() >= 0.5
        if count > 1:
            assert len(np.unique(made.model.get_layer("hidden").kernel)) <= 4


@pytest.mark.promise
@pytest.mark.parametrize("when", ["in the epoch that ends it", "before", "after it"])
def test_a_killed_run_with_early_stopping_ends_as_an_undisturbed_one(tmp_path, monkeypatch, when):
    stages = [
        kd.Prune(0.5, epochs=6, end=0.2, learning_rate=0.01),
        kd.Cluster(6, epochs=5, learning_rate=0.01),
    ]

    def run(folder):
        callbacks = [*stopping(2), keras.callbacks.ReduceLROnPlateau("worse", 0.5, 1, mode="min")]
        return callbacks, kd.compress(
            **arguments(*stages, callbacks=callbacks, path=tmp_path / folder)
        )

    undisturbed, whole = run("whole")
    assert [record.epochs for record in whole.stages] == [0, 3, 3]
    save, left = (
        EpochBackup.save,
        {"before": 1, "in the epoch that ends it": 3, "after it": 4}[when],
    )
    saved = []

    def interrupt(self, epochs, *arguments):
        save(self, epochs, *arguments)
        saved.append(epochs)
        if len(saved) == left:
            raise KeyboardInterrupt

    monkeypatch.setattr(EpochBackup, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run("killed")
    monkeypatch.undo()
    callbacks, resumed = run("killed")
    assert callbacks[0]._trained == [0, 1, 2, 0, 1, 2][left:]
    assert [epoch for _, epoch in callbacks[0].seen] == undisturbed[0]._trained
    assert resumed.history.keys() == whole.history.keys()
    for stage, history in whole.history.items():
        for key, values in history.items():
            np.testing.assert_allclose(resumed.history[stage][key], values, rtol=1e-5, err_msg=key)
    for one, other in zip(whole.model.weights, resumed.model.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7, err_msg=one.path)


@pytest.mark.promise
def test_other_callbacks_do_not_resume_a_stage(tmp_path, monkeypatch):
    save = EpochBackup.save

    def interrupt(self, *arguments):
        save(self, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(EpochBackup, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        kd.compress(**arguments(kd.Prune(0.5, epochs=2), callbacks=stopping(), path=tmp_path))
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"callbacks.*EarlyStopping"):
        kd.compress(**arguments(kd.Prune(0.5, epochs=2), callbacks=[Worse()], path=tmp_path))


class Learning(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.rate, self.word, self.nothing = 0.5, "a", 1
        self.best = np.zeros(2)
        self.many = []
        self.function = print
        self._private = 1

    def learn(self):
        self.rate, self.word, self.nothing = np.float32(0.25), "b", None
        self.best[:] = np.inf
        self.many += [np.arange(3), np.asarray(tf.constant([1.5], tf.bfloat16)), float("inf"), True]
        self.function = repr
        self._private = 2


def test_what_callbacks_have_learned():
    first = Learning()
    states = CallbackStates([first])
    assert states.learned() == ([{"class": "Learning", "attributes": {}}], [])
    first.learn()
    learned, arrays = states.learned()
    assert set(learned[0]["attributes"]) == {"rate", "word", "nothing", "best", "many"}
    second = Learning()
    CallbackStates([second]).restore(json.loads(json.dumps(learned)), arrays)
    assert (second.rate, second.word, second.nothing) == (0.25, "b", None)
    np.testing.assert_array_equal(second.best, [np.inf, np.inf])
    np.testing.assert_array_equal(second.many[0], [0, 1, 2])
    assert second.many[1:] == [np.array([1.5], "float32"), float("inf"), True]
    assert second._private == 1 and second.function is print


def test_stages_without_callbacks():
    assert stage_callbacks(None, [kd.Prune(0.5), kd.Cluster(4)]) == [[], []]


def test_the_least_change_keeps_its_sign():
    """Keras turns it in the first epoch, and again in the first epoch after a resume."""

    def stopped(values, callback):
        callback.set_model(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]))
        for epoch, value in enumerate(values):
            callback.on_epoch_end(epoch, {"val_x": value})
        return callback

    def fresh():
        callback = keras.callbacks.EarlyStopping("val_x", min_delta=0.1, patience=9, mode="min")
        callback.on_train_begin()
        return callback

    first = fresh()
    states = CallbackStates([first])
    stopped([1.0, 1.05], first)
    learned, arrays = states.learned()
    resumed = fresh()
    CallbackStates([resumed]).restore(json.loads(json.dumps(learned)), arrays)
    stopped([1.1, 1.15], resumed)
    whole = stopped([1.0, 1.05, 1.1, 1.15], fresh())
    assert (resumed.best, resumed.wait) == (whole.best, whole.wait) == (1.0, 3)


class Teaches(Stage):
    """Lets the callbacks learn without a training, and notes what they knew before."""

    def __init__(self, lesson, epochs=0, name=None):
        super().__init__(epochs, name=name)
        self.lesson = lesson

    def make_plan(self, student, earlier):
        return Plan({}, self.teach)

    def teach(self, state, teaching):
        SEEN.append([_noted(callback) for callback in teaching.callbacks])
        if self.lesson == STOP:
            raise KeyboardInterrupt
        for callback in teaching.callbacks:
            callback.learn(self.lesson)
        state.history[self.name] = {}

    def get_config(self):
        return {"epochs": self.epochs, "name": self.name}


SEEN, STOP = [], "stop"


def _noted(callback):
    return keras.tree.map_structure(str, {k: v for k, v in vars(callback).items() if k[0] != "_"})


class Scalar(keras.callbacks.Callback):
    """As `ModelCheckpoint`: a best value, which the next training does not reset."""

    def __init__(self):
        super().__init__()
        self.best, self.low, self.name = None, float("-inf"), "a"

    def learn(self, lesson):
        self.best = lesson if self.best is None else min(self.best, lesson)
        self.low = float("inf") if self.low < 0 else float("nan")
        self.name += "b"


class Arrays(keras.callbacks.Callback):
    """As `EarlyStopping`: the weights of the best epoch."""

    def __init__(self):
        super().__init__()
        self.best_weights, self.count = None, 0

    def learn(self, lesson):
        self.best_weights = [np.full((2, 2), lesson, "float32"), np.arange(self.count)]
        self.count += 1


class BackAndForth(keras.callbacks.Callback):
    """Learns something in the first stage, and forgets it in the second one."""

    def __init__(self):
        super().__init__()
        self.value = 0

    def learn(self, lesson):
        self.value = 1 - self.value


def _per_stage():
    """A list of its own for every stage, in which one callback is the same."""
    shared = Scalar()
    return lambda stage: [shared, Arrays()] if stage.name == "b" else [Arrays(), shared]


LEARNERS = {
    "best value": lambda: [Scalar()],
    "one callback": Scalar,
    "arrays": lambda: [Arrays()],
    "back and forth": lambda: [BackAndForth()],
    "several": lambda: [Arrays(), Scalar(), BackAndForth(), Scalar()],
    "a function": _per_stage,
}


@pytest.mark.fast_cases("2-arrays", "3-a function")
@pytest.mark.parametrize("learners", LEARNERS)
@pytest.mark.parametrize("killed_in", [1, 2, 3])
def test_callbacks_know_in_a_resumed_run_what_they_learned_before(tmp_path, learners, killed_in):
    def run(folder, lessons):
        SEEN.clear()
        stages = [Teaches(lesson, name=name) for name, lesson in zip("abcd", lessons, strict=True)]
        given = arguments(*stages, callbacks=LEARNERS[learners](), path=tmp_path / folder)
        kd.compress(**given)
        return list(SEEN)

    lessons = [0.5, 0.25, 0.75, 0.5]
    whole = run("whole", lessons)
    with pytest.raises(KeyboardInterrupt):
        run("killed", [*lessons[:killed_in], STOP, *lessons[killed_in + 1 :]])
    assert run("killed", lessons) == whole[killed_in:]
    assert len({str(seen) for seen in whole}) > 1, "something was learned"
    assert run("killed", lessons) == []  # all is done


def test_what_callbacks_of_another_kind_had_learned_is_forgotten(tmp_path):
    def run(lesson, callbacks):
        SEEN.clear()
        stages = [Teaches(0.5, name="a"), Teaches(lesson, name="b")]
        kd.compress(**arguments(*stages, callbacks=callbacks, path=tmp_path))

    with pytest.raises(KeyboardInterrupt):
        run(STOP, [Scalar()])
    with pytest.warns(UserWarning, match=r"\(Scalar\)\. Received: Arrays, Scalar"):
        run(1.0, [Arrays(), Scalar()])
    (seen,) = SEEN
    assert seen == [_noted(Arrays()), _noted(Scalar())]


def test_a_folder_of_before_callbacks_were_kept_is_resumed(tmp_path):
    def run(lesson):
        SEEN.clear()
        stages = [Teaches(0.5, name="a"), Teaches(lesson, name="b")]
        kd.compress(**arguments(*stages, callbacks=[Scalar()], path=tmp_path))

    with pytest.raises(KeyboardInterrupt):
        run(STOP)
    file = tmp_path / "run.json"
    content = json.loads(file.read_text())
    name = content["stages"][0].pop("callbacks")
    del content["files"][name]
    file.write_text(json.dumps(content))
    (tmp_path / name).unlink()
    run(1.0)
    (seen,) = SEEN
    assert seen == [_noted(Scalar())]


@pytest.mark.promise
def test_the_best_model_of_the_user_survives_a_resume(tmp_path, monkeypatch):
    """`ModelCheckpoint` compares with the best of all stages, also in another process."""
    stages = [kd.Prune(0.2, epochs=1), kd.Cluster(4, epochs=1)]

    def run():
        best = keras.callbacks.ModelCheckpoint(
            tmp_path / "best.keras", monitor="worse", mode="min", save_best_only=True
        )
        kd.compress(**arguments(*stages, callbacks=[Worse(), best], path=tmp_path / "run"))
        return best.best

    keep = RunFolder.keep

    def interrupt(self, *arguments):
        keep(self, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "keep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.undo()
    kept = (tmp_path / "best.keras").read_bytes()
    assert run() == 0.0
    assert (tmp_path / "best.keras").read_bytes() == kept


class _Killed(Exception):
    pass


class _Count(keras.callbacks.Callback):
    """Ends the process, as it were, at the beginning of an epoch, counted over all stages."""

    def __init__(self, end=None):
        super().__init__()
        self._end, self._begun, self.means = end, 0, []

    def on_epoch_begin(self, epoch, logs=None):
        kernel = np.asarray(self.model.student.get_layer("hidden").kernel)
        self.means.append(float(np.abs(kernel).mean()))
        if self._begun == self._end:
            raise _Killed
        self._begun += 1


@pytest.mark.promise
@pytest.mark.parametrize("end", [1, 3])
def test_swapped_averages_of_a_killed_run_and_of_the_stage_before(tmp_path, end):
    def run(folder, counting):
        rates = {"optimizer": keras.optimizers.Adam(1e-3, use_ema=True), "epochs": 2}
        stages = [kd.Prune(0.3, **rates), kd.Prune(0.5, name="again", **rates)]
        swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
        callbacks = [swap, counting]
        given = arguments(*stages, callbacks=callbacks, path=tmp_path / folder)
        return kd.compress(**given)

    counting = _Count()
    whole = run("whole", counting)
    # The averages of a new optimizer are zero: no stage begins with them.
    assert min(counting.means) > 0.5 * max(counting.means)
    with pytest.raises(_Killed):
        run("killed", _Count(end))
    resumed = run("killed", _Count())
    for ours, theirs in zip(resumed.model.weights, whole.model.weights, strict=True):
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-5, atol=1e-6)
