import json
import pathlib
import shutil
import time
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_kd as kd

CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Killed(Exception):
    pass


class Kill(keras.callbacks.Callback):
    """Ends a training before a batch of an epoch."""

    def __init__(self, epoch, batch=0):
        super().__init__()
        self.at = (epoch, batch)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            raise Killed


def network(name="student", seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6,))
    x = layers.Dense(12, activation="relu", name="hidden")(inputs)
    x = layers.BatchNormalization(name="bn")(layers.Dropout(0.4, name="drop")(x))
    return keras.Model(inputs, layers.Dense(3, name="logits")(x), name=name)


def plain(seed=0, **arguments):
    model = network(seed=seed)
    model.compile(keras.optimizers.Adam(0.01), CE, metrics=["accuracy"], **arguments)
    return model


def distiller(seed=0, **arguments):
    teacher, student = network("teacher", seed=7), network(seed=seed)
    model = kd.Distiller(teacher, student, [kd.losses.KLDivergence(), kd.Hint("hidden", "bn")])
    model.compile(keras.optimizers.Adam(0.01), CE, metrics=["accuracy"], **arguments)
    return model


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 6)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((x, x[:, :3].argmax(1))).batch(8)


def fit(model, *callbacks, epochs=4):
    return model.fit(
        data(), epochs=epochs, validation_data=data().take(2), callbacks=[*callbacks], verbose=0
    )


def everything(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [np.asarray(keras.ops.convert_to_numpy(v)) for v in variables]


def same(one, other):
    for a, b in zip(everything(one), everything(other), strict=True):
        np.testing.assert_array_equal(a, b)


KINDS = {
    "plain": (plain, {}),
    "distiller": (distiller, {}),
    "several steps": (plain, {"steps_per_execution": 3}),
}


@pytest.mark.fast_cases("False-epoch-plain")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("save_freq", ["epoch", 3])
@pytest.mark.parametrize("pruned", [False, True])
def test_a_killed_fit_ends_as_one_that_was_not(tmp_path, kind, save_freq, pruned):
    make, arguments = KINDS[kind]

    def callbacks():
        backup = kd.BackupAndRestore(tmp_path / "backup", save_freq)
        return [kd.Prune(0.5).as_callback(), backup] if pruned else [backup]

    whole = make(**arguments)
    history = fit(whole, *callbacks()).history
    killed = make(**arguments)
    with pytest.raises(Killed):
        fit(killed, *callbacks(), Kill(2, 6))
    # Everything must come from the backup.
    resumed = make(seed=5, **arguments)
    used = callbacks()
    fitted = fit(resumed, *used)
    assert fitted.epoch[0] == 2 and len(fitted.epoch) == 2
    same(whole, resumed)
    for key, values in used[-1].history.items():
        np.testing.assert_allclose(values, history[key], rtol=1e-5, err_msg=key)
    assert not (tmp_path / "backup").exists()


@pytest.fixture(scope="module")
def whole():
    """A model of a training that was not interrupted, which no test trains."""
    model = plain()
    fit(model)
    return model


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The folder of an interrupted training, which tests copy."""
    folder = tmp_path_factory.mktemp("kept")
    with pytest.raises(Killed):
        fit(plain(), kd.BackupAndRestore(folder), Kill(2, 3))
    return folder


@pytest.fixture
def interrupted(kept, tmp_path):
    return pathlib.Path(shutil.copytree(kept, tmp_path / "backup"))


def damage_by_cutting(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def damage_by_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)


def damage_by_emptying(file):
    file.write_bytes(b"")


@pytest.mark.fast_cases("False-damage_by_a_bit", "True-damage_by_cutting")
@pytest.mark.parametrize("damage", [damage_by_cutting, damage_by_a_bit, damage_by_emptying])
@pytest.mark.parametrize("both", [False, True])
def test_a_damaged_backup_means_the_one_before_and_a_warning(interrupted, whole, damage, both):
    names = sorted(path.name for path in interrupted.iterdir())
    assert names == ["backup.before.zip", "backup.zip"]
    for name in names if both else names[1:]:
        damage(interrupted / name)
    resumed = plain()
    with pytest.warns(UserWarning, match=r"backup\.zip' is damaged"):
        history = fit(resumed, kd.BackupAndRestore(interrupted))
    assert history.epoch[0] == (0 if both else 1)
    same(whole, resumed)


def test_a_backup_that_cannot_be_written_leaves_the_one_before(interrupted, monkeypatch):
    before = (interrupted / "backup.zip").read_bytes()

    def full(self, path, *args, **kwargs):
        pathlib.Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    model = plain()
    monkeypatch.setattr(keras.Model, "save_weights", full)
    with pytest.raises(OSError, match=r"backup\.zip.*no space"):
        fit(model, kd.BackupAndRestore(interrupted))
    assert (interrupted / "backup.zip").read_bytes() == before
    assert sorted(path.name for path in interrupted.iterdir()) == [
        "backup.before.zip",
        "backup.zip",
    ]


def test_backups_of_another_model_are_refused(interrupted):
    other = keras.Sequential([keras.Input((6,)), layers.Dense(3)])
    other.compile("adam", CE)
    with pytest.raises(ValueError, match="backup_dir"):
        fit(other, kd.BackupAndRestore(interrupted))
    inputs = keras.Input((6,))
    x = layers.Dense(9, activation="relu", name="hidden")(inputs)
    x = layers.BatchNormalization(name="bn")(layers.Dropout(0.4, name="drop")(x))
    wider = keras.Model(inputs, layers.Dense(3, name="logits")(x))
    wider.compile("adam", CE)
    with pytest.raises(ValueError, match="backup_dir"):
        fit(wider, kd.BackupAndRestore(interrupted))


def test_a_backup_of_keras_is_refused_with_a_sentence(tmp_path):
    with pytest.raises(Killed):
        fit(plain(), keras.callbacks.BackupAndRestore(tmp_path), Kill(2))
    with pytest.raises(ValueError, match=r"keras\.callbacks\.BackupAndRestore"):
        fit(plain(), kd.BackupAndRestore(tmp_path))


@pytest.mark.promise
def test_the_arguments_are_those_of_keras(tmp_path):
    kept = kd.BackupAndRestore(str(tmp_path), "epoch", True, False)
    model = plain()
    fit(model, kept, epochs=2)
    assert (tmp_path / "backup.zip").exists()
    with zipfile.ZipFile(tmp_path / "backup.zip") as archive:
        assert json.loads(archive.read("progress.json"))["epoch"] == 2
    # Whole already; with more epochs it goes on.
    again = plain()
    assert fit(again, kept, epochs=2).epoch == []
    same(model, again)
    assert fit(again, kept, epochs=3).epoch == [2]
    # A later training of the same model begins at its beginning.
    assert fit(again, epochs=2).epoch == [0, 1]
    for arguments in ({"save_freq": "batch"}, {"save_freq": 2.5}, {"save_freq": -1}):
        with pytest.raises(ValueError, match="save_freq"):
            kd.BackupAndRestore(tmp_path, **arguments)
    for folder in ("", "gs://bucket/backup"):
        with pytest.raises(ValueError, match="backup_dir"):
            kd.BackupAndRestore(folder)
    unbuilt = kd.BackupAndRestore(tmp_path)
    unbuilt.set_model(keras.Sequential([layers.Dense(3)]))
    with pytest.raises(ValueError, match="built"):
        unbuilt.on_train_begin()


def test_no_backup_is_written_where_none_is_asked_for(tmp_path):
    fit(plain(), kd.BackupAndRestore(tmp_path / "a", save_freq=False, delete_checkpoint=False))
    assert not list(tmp_path.rglob("*.zip"))


@pytest.mark.promise
def test_what_an_evaluation_draws_does_not_change_a_resumed_training(tmp_path):
    def images(channels, seed):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input((4, 4, 1))
        x = layers.Conv2D(channels, 3, padding="same", name="conv")(inputs)
        return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))

    def trained(*callbacks):
        loss = kd.losses.MaskedGenerative(scale=1e-2, seed=3)
        model = kd.Distiller(images(4, 0), images(4, 1), kd.Hint("conv", "conv", loss=loss))
        model.compile(keras.optimizers.SGD(0.05), CE, evaluate_distillation=True)
        backup = kd.BackupAndRestore(tmp_path / "backup", save_freq=2)
        model.fit(batches, verbose=0, callbacks=[backup, *callbacks])
        return model.student.get_weights()

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(48, 4, 4, 1)).astype("float32"), rng.integers(0, 3, 48)
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    whole = trained()
    with pytest.raises(Killed):
        trained(Kill(0, 5))
    for one, other in zip(trained(), whole, strict=True):
        np.testing.assert_array_equal(one, other)


def test_metrics_with_one_value_per_class_are_backed_up(tmp_path):
    x, y = np.eye(6, dtype="float32"), np.eye(3)[[0, 1, 2, 0, 1, 2]]

    def fit(*callbacks):
        model = network()
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, metrics=[keras.metrics.F1Score(name="f1")])
        backup = kd.BackupAndRestore(tmp_path / "backup")
        model.fit(x, y, epochs=2, verbose=0, callbacks=[backup, *callbacks])
        return backup.history["f1"]

    with pytest.raises(Killed):
        fit(Kill(1))
    assert np.shape(fit()) == (2, 3)


@pytest.mark.fast_cases("backup-False")
@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize("first", ["swap", "backup"])
def test_weights_that_are_swapped_for_their_averages(tmp_path, first, validated):
    def run(*killing):
        keras.utils.set_random_seed(3)
        inputs = keras.Input((6,))
        model = keras.Model(inputs, layers.Dense(3)(layers.Dense(8, "relu")(inputs)))
        model.compile(keras.optimizers.Adam(0.01, use_ema=True), CE)
        callbacks = [
            keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
            kd.BackupAndRestore(tmp_path / "backup"),
        ]
        callbacks = callbacks if first == "swap" else callbacks[::-1]
        validation = data().take(2) if validated else None
        model.fit(
            data(), epochs=4, validation_data=validation, callbacks=[*callbacks, *killing],
            verbose=0,
        )  # fmt: skip
        return model

    whole = run()
    with pytest.raises(Killed):
        run(Kill(2, 6))
    for ours, theirs in zip(everything(run()), everything(whole), strict=True):
        # Swapping, which Keras does by sums, rounds.
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def taught_whole():
    """A distiller of a training that was not interrupted."""
    model = distiller()
    fit(model)
    return model


def interrupted_in_epoch_1(folder, make=distiller, **arguments):
    """Interrupt a training after batch 6 of epoch 1; return a callback that resumes it."""
    with pytest.raises(Killed):
        fit(make(**arguments), kd.BackupAndRestore(folder, save_freq=3), Kill(1, 7))
    return kd.BackupAndRestore(folder, save_freq=3)


@pytest.mark.parametrize("make", [plain, distiller])
def test_an_end_while_batches_are_skipped_leaves_a_model_that_trains(
    tmp_path, whole, taught_whole, make
):
    backup = interrupted_in_epoch_1(tmp_path / "backup", make)
    model = make(seed=5)
    with pytest.raises(Killed):
        fit(model, backup, Kill(1, 2))
    fit(model, kd.BackupAndRestore(tmp_path / "backup", save_freq=3))
    assert int(model.optimizer.iterations) == 40
    same(model, taught_whole if make is distiller else whole)


def test_data_that_fail_while_batches_are_skipped(tmp_path, taught_whole):
    backup = interrupted_in_epoch_1(tmp_path / "backup")
    reads = []

    def read(x):
        reads.append(0)
        if len(reads) == 4:  # one look at the data, then two batches are skipped
            raise OSError("the disk")
        return x

    def flaky(x, y):
        return tf.ensure_shape(tf.numpy_function(read, [x], tf.float32), (None, 6)), y

    model = distiller(seed=5)
    with pytest.raises(tf.errors.OpError):
        model.fit(data().map(flaky), epochs=4, callbacks=[backup], verbose=0)
    fit(model, kd.BackupAndRestore(tmp_path / "backup", save_freq=3))
    same(model, taught_whole)


def test_seconds_are_those_of_all_processes(tmp_path):
    class Slow(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 0:
                time.sleep(0.5)

    backup = kd.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
    with pytest.raises(Killed):
        fit(plain(), backup, Slow(), Kill(2))
    again = kd.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
    start = time.perf_counter()
    fit(plain(), again)
    took = time.perf_counter() - start
    assert 0.5 < backup.seconds < again.seconds <= backup.seconds + took
    # Whose training was done already trains no more.
    once_more = kd.BackupAndRestore(tmp_path / "backup")
    fit(plain(), once_more)
    assert backup.seconds < once_more.seconds


def test_a_fit_without_backups_begins_anew(tmp_path):
    backup = interrupted_in_epoch_1(tmp_path / "backup")
    model = distiller(seed=5)
    with pytest.raises(Killed):
        fit(model, backup, Kill(1, 2))
    before = int(model.optimizer.iterations)
    assert fit(model, epochs=2).epoch == [0, 1]
    assert int(model.optimizer.iterations) == before + 20


def test_the_last_execution_of_an_epoch_may_be_a_part_of_one(tmp_path):
    class EndOfEpoch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise Killed

    def make(seed=0):
        return distiller(seed=seed, steps_per_execution=4)

    uninterrupted = make()
    fit(uninterrupted)
    with pytest.raises(Killed):
        fit(make(), EndOfEpoch(), kd.BackupAndRestore(tmp_path / "backup", save_freq=2))
    model = make(seed=5)
    fit(model, kd.BackupAndRestore(tmp_path / "backup", save_freq=2))
    same(model, uninterrupted)
