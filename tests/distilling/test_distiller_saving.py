"""Saving, loading, resuming, and the callbacks that do so."""

import json
import os
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd

SparseCE = keras.losses.SparseCategoricalCrossentropy


def network(width, name):
    inputs = keras.Input((5,))
    x = layers.Dense(width, activation="relu", name="hidden")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.Dropout(0.3, seed=7)(x)
    return keras.Model(inputs, layers.Dense(3)(x), name=name)


def examples(count=48):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 5)).astype("float32"), rng.integers(0, 3, count)


def make(seed=0, **arguments):
    """Build teacher, student and distiller anew, as a program does when it is started again."""
    keras.utils.set_random_seed(seed)
    teacher, student = network(6, "teacher"), network(4, "student")
    losses = [
        kd.losses.KLDivergence(keras.optimizers.schedules.PolynomialDecay(4.0, 20, 1.0)),
        kd.Hint("hidden", "hidden"),
    ]
    distiller = kd.Distiller(teacher, student, losses, [1.0, lambda e: 1.0 / (1 + e)], **arguments)
    distiller.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.02, 20)),
        SparseCE(from_logits=True),
        metrics=["accuracy"],
    )
    return distiller


FIT = {"batch_size": 16, "shuffle": False, "verbose": 0}


def everything(distiller):
    return [
        *(variable.numpy() for variable in distiller.variables),
        *(variable.numpy() for variable in distiller.optimizer.variables),
    ]


class Killed(Exception):
    pass


class Kill(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.current == self.epoch and batch == 1:
            raise Killed

    def on_epoch_begin(self, epoch, logs=None):
        self.current = epoch


@pytest.mark.parametrize(
    "arguments", [{}, {"stop_distillation_at": 3}, {"stop_distillation_at": 1}]
)
@pytest.mark.promise
def test_a_killed_run_resumes_to_the_weights_of_one_that_was_not(tmp_path, arguments):
    x, y = examples()
    whole = make(**arguments)
    whole.fit(x, y, epochs=5, **FIT)

    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(Killed):
        make(**arguments).fit(x, y, epochs=5, callbacks=[backup, Kill(2)], **FIT)
    # Other initial weights: what counts must come from the backup, but the teacher's.
    resumed = make(seed=1, **arguments)
    resumed.teacher = whole.teacher
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    history = resumed.fit(x, y, epochs=5, callbacks=[backup], **FIT)

    assert history.epoch == [2, 3, 4]
    variables = list(zip(everything(whole), everything(resumed), strict=True))
    assert len(variables) > 20
    for a, b in variables:
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.promise
def test_a_process_killed_by_a_signal_resumes(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import os, signal, sys
            sys.path.insert(0, {os.path.dirname(__file__)!r})
            import keras, numpy as np
            from test_distiller_saving import FIT, everything, examples, make

            callbacks = [keras.callbacks.BackupAndRestore("backup")]
            if sys.argv[1] == "killed":
                kill = lambda epoch, logs: epoch == 2 and os.kill(os.getpid(), signal.SIGKILL)
                callbacks.append(keras.callbacks.LambdaCallback(on_epoch_begin=kill))
            distiller = make()
            distiller.fit(*examples(), epochs=4, callbacks=callbacks, **FIT)
            np.savez(sys.argv[1] + ".npz", *everything(distiller))
            """
        )
    )

    def run(mode):
        return subprocess.run(
            [sys.executable, str(script), mode], cwd=tmp_path, check=False, capture_output=True
        ).returncode

    assert [run(mode) for mode in ("killed", "resumed")] == [-9, 0]
    whole = make()
    whole.fit(*examples(), epochs=4, **FIT)
    resumed = np.load(tmp_path / "resumed.npz")
    assert len(resumed.files) > 20
    for i, value in enumerate(everything(whole)):
        np.testing.assert_allclose(value, resumed[f"arr_{i}"], rtol=1e-6, atol=1e-7)


@pytest.mark.promise
def test_a_subclassed_student_resumes_too(tmp_path):
    class Student(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden = layers.Dense(4, name="hidden")
            self.last = layers.Dense(3)

        def call(self, x, training=None):
            return self.last(self.hidden(x))

    def build():
        keras.utils.set_random_seed(0)
        distiller = kd.Distiller(
            network(6, "t"), Student(), [kd.losses.KLDivergence(), kd.Hint("hidden", "hidden")]
        )
        distiller.compile("adam", SparseCE(from_logits=True))
        return distiller

    x, y = examples()
    whole = build()
    whole.fit(x, y, epochs=3, **FIT)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(Killed):
        build().fit(x, y, epochs=3, callbacks=[backup, Kill(1)], **FIT)
    resumed = build()
    resumed.fit(x, y, epochs=3, callbacks=[backup], **FIT)
    for a, b in zip(everything(whole), everything(resumed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.fast_cases("val_accuracy")
@pytest.mark.parametrize("monitor", ["val_accuracy", "val_loss"])
def test_model_checkpoint_keeps_the_best_epoch(tmp_path, monitor):
    x, y = examples()
    distiller = make()
    path = tmp_path / "best.weights.h5"
    checkpoint = keras.callbacks.ModelCheckpoint(
        path, monitor=monitor, save_best_only=True, save_weights_only=True
    )
    states = []
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: states.append(distiller.student.get_weights())
    )
    logs = distiller.fit(
        x, y, validation_data=(x, y), epochs=4, callbacks=[checkpoint, keep], **FIT
    ).history
    best = int(np.argmax(logs[monitor]) if "accuracy" in monitor else np.argmin(logs[monitor]))
    loaded = make(seed=1)
    loaded.load_weights(path)
    for a, b in zip(loaded.student.get_weights(), states[best], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.promise
def test_early_stopping_restores_the_best_student():
    x, y = examples()
    distiller = make()
    states = []
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: states.append(distiller.student.get_weights())
    )
    # The first epoch is the best there is, as the monitored loss is to grow.
    stop = keras.callbacks.EarlyStopping(
        "val_loss", mode="max", patience=1, restore_best_weights=True
    )
    logs = distiller.fit(
        x, y, validation_data=(x, y), epochs=10, callbacks=[keep, stop], **FIT
    ).history["val_loss"]
    assert len(logs) < 10
    for a, b in zip(distiller.student.get_weights(), states[int(np.argmax(logs))], strict=True):
        np.testing.assert_array_equal(a, b)


def test_tensorboard_writes(tmp_path):
    pytest.importorskip("tensorboard")
    board = keras.callbacks.TensorBoard(tmp_path, histogram_freq=1)
    make(stop_distillation_at=1).fit(*examples(), epochs=2, callbacks=[board], **FIT)
    assert list(tmp_path.rglob("events*"))


@pytest.mark.promise
def test_csv_logger_marks_the_losses_that_are_not_computed_any_more(tmp_path):
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    make(stop_distillation_at=1).fit(*examples(), epochs=2, callbacks=[log], **FIT)
    header, first, second = (
        line.split(",") for line in (tmp_path / "log.csv").read_text().splitlines()
    )
    column = header.index("kl_divergence")
    assert float(first[column]) > 0
    assert second[column] == "NA"


def test_a_checkpoint_holds_no_variable_of_the_teacher(tmp_path):
    distiller = make()
    distiller.fit(*examples(), **FIT)
    distiller.save_weights(tmp_path / "d.weights.h5")
    distiller.teacher.get_layer("hidden").kernel.assign(np.full((5, 6), 7.0))
    distiller.load_weights(tmp_path / "d.weights.h5")
    assert (distiller.teacher.get_layer("hidden").kernel.numpy() == 7.0).all()
    teacher = {id(variable) for variable in distiller.teacher.variables}
    assert not teacher & {id(variable) for variable in distiller.variables}


def test_the_student_is_saved_by_itself(tmp_path):
    distiller = make()
    x, y = examples()
    distiller.fit(x, y, **FIT)
    distiller.student.save(tmp_path / "student.keras")
    student = keras.models.load_model(tmp_path / "student.keras")
    assert student.count_params() == distiller.student.count_params()
    np.testing.assert_allclose(
        student.predict(x, verbose=0), distiller.predict(x, verbose=0), rtol=1e-6
    )


@pytest.mark.promise
def test_rebuilt_from_its_configurations_it_trains_the_same():
    keras.utils.set_random_seed(0)
    teacher = network(6, "teacher")
    distiller = kd.Distiller(
        teacher,
        network(4, "student"),
        [kd.losses.KLDivergence(2.0), kd.Hint("hidden", "hidden")],
        [1.0, 0.5],
        0.3,
        name="mine",
    )
    distiller.compile("adam", "sparse_categorical_crossentropy", evaluate_distillation=True)
    config = json.loads(json.dumps(distiller.get_config()))
    compile_config = json.loads(json.dumps(distiller.get_compile_config()))
    copy = kd.Distiller.from_config(config)
    copy.compile_from_config(compile_config)
    copy.teacher = teacher
    assert copy.name == "mine"
    copy.set_weights(distiller.get_weights())
    x, y = examples()
    logs = [
        model.fit(x, y, validation_data=(x, y), epochs=2, **FIT).history
        for model in (distiller, copy)
    ]
    assert set(logs[0]) == set(logs[1])
    assert "val_kl_divergence" in logs[0]
    for name in logs[0]:
        assert logs[1][name] == pytest.approx(logs[0][name], rel=1e-5), name


def test_optimizer_and_projections_are_loaded_with_the_model(tmp_path):
    keras.utils.set_random_seed(0)
    distiller = kd.Distiller(
        network(6, "teacher"), network(4, "student"), [kd.Hint("hidden", "hidden")]
    )
    distiller.compile("adam", SparseCE(from_logits=True))
    distiller.fit(*examples(), **FIT)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    for a, b in zip(everything(distiller), everything(loaded), strict=True):
        np.testing.assert_array_equal(a, b)


@keras.saving.register_keras_serializable("test_distiller_saving")
def falling(epoch):
    return 1.0 - 0.3 * epoch


def test_a_loaded_distiller_has_the_weights_of_the_last_epoch(tmp_path):
    x, y = examples()
    teacher = network(6, "teacher")
    kl = kd.losses.KLDivergence(temperature=falling)
    distiller = kd.Distiller(teacher, network(4, "student"), kl, 1.0, falling)
    distiller.compile("sgd", SparseCE(from_logits=True), evaluate_distillation=True)
    distiller.fit(x, y, epochs=3, **FIT)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    loaded.teacher = teacher
    values = [model.evaluate(x, y, verbose=0, return_dict=True) for model in (distiller, loaded)]
    assert values[1] == pytest.approx(values[0], rel=1e-5)


def _given(change):
    arguments, compiled = {}, {}
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    if change == "policy":
        arguments = {"dtype": "mixed_float16", "autocast": True}
    if change == "no loss scale":
        compiled = {"auto_scale_loss": False}
    if change == "names without decay":
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    return arguments, compiled, optimizer


@pytest.mark.fast_cases("no loss scale")
@pytest.mark.parametrize(
    "change", ["policy", "no loss scale", "names without decay", "weights without decay"]
)
def test_what_keras_leaves_out_of_configurations_is_loaded(tmp_path, change, dtype_policy):
    arguments, compiled, optimizer = _given(change)
    teacher = network(6, "teacher")
    with dtype_policy("mixed_float16" if change == "no loss scale" else "float32"):
        student = network(4, "student")
    distiller = kd.Distiller(teacher, student, kd.losses.KLDivergence(), **arguments)
    if change == "weights without decay":
        optimizer.exclude_from_weight_decay([student.get_layer("hidden").kernel])
    distiller.compile(optimizer, SparseCE(from_logits=True), **compiled)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    loaded.teacher = teacher
    assert type(loaded.optimizer) is type(distiller.optimizer)
    assert loaded.dtype_policy.name == distiller.dtype_policy.name
    assert loaded.autocast == distiller.autocast
    for each in (distiller, loaded):
        keras.utils.set_random_seed(0)
        each.fit(*examples(), epochs=1, **FIT)
    for a, b in zip(distiller.student.weights, loaded.student.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
