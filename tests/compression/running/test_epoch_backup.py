import json
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.compression.running.epoch_backup import (
    EpochBackup,
    drawn_from,
    resumable_fit,
    stage_seed,
)


def test_variables_and_history_come_back(tmp_path):
    weight, other = keras.Variable(np.arange(3.0)), tf.Variable(7, dtype=tf.int64)
    half = tf.Variable([1.5], dtype=tf.bfloat16)
    generator = keras.random.SeedGenerator(3)
    backup = EpochBackup(tmp_path / "a.npz", seed=5)
    assert backup.resume([weight, other, half], [generator.state]) == (0, {})
    first = generator.state.numpy()
    backup.save(2, [weight, other, half], [generator.state], {"loss": [3.0, 2.0]})
    weight.assign([0.0, 0.0, 0.0])
    other.assign(0)
    half.assign([0.0])
    generator.next()
    again = EpochBackup(tmp_path / "a.npz", seed=6)
    assert again.resume([weight, other, half], [generator.state]) == (2, {"loss": [3.0, 2.0]})
    np.testing.assert_array_equal(weight, [0.0, 1.0, 2.0])
    assert int(other) == 7 and float(half[0]) == 1.5
    np.testing.assert_array_equal(generator.state, first)
    assert again.seconds_before > 0.0
    with pytest.raises(ValueError, match="holds a training of other variables"):
        again.resume([weight], [])


def test_random_states_begin_with_the_seed(tmp_path):
    def begun(seed):
        generator = keras.random.SeedGenerator()
        EpochBackup(tmp_path / "none.npz", seed).resume([], [generator.state])
        return generator.state.numpy().tolist()

    assert begun(1) == begun(1) != begun(2)


def test_fit_goes_on_after_the_last_whole_epoch(tmp_path):
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    y = x @ np.array([[1.0], [2.0], [3.0], [4.0]], "float32")

    def fitted(epochs, folder):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.Adam(0.1), "mse")
        model.optimizer.build(model.trainable_variables)
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
        variables = [*model.weights, *model.optimizer.variables]
        backup = EpochBackup(folder / "fit.npz", 0)
        history = resumable_fit(model, data, backup, variables, [], epochs=epochs, verbose=0)
        return model.get_weights()[0], history

    whole, history = fitted(4, tmp_path / "whole")
    fitted(2, tmp_path / "parts")
    resumed, parts = fitted(4, tmp_path / "parts")
    np.testing.assert_allclose(resumed, whole, rtol=1e-6)
    assert parts["loss"] == pytest.approx(history["loss"]) and len(parts["loss"]) == 4
    with np.load(tmp_path / "parts" / "fit.npz") as file:
        assert json.loads(str(file["progress"]))["epochs"] == 4
    # Whole already: nothing is trained.
    np.testing.assert_array_equal(fitted(4, tmp_path / "parts")[0], resumed)


def test_a_damaged_file_means_the_epoch_before(tmp_path):
    weight = keras.Variable([0.0])
    for epoch in (1, 2):
        weight.assign([float(epoch)])
        EpochBackup(tmp_path / "a.npz", 0).save(epoch, [weight], [], {})
    file = tmp_path / "a.npz"
    file.write_bytes(file.read_bytes()[:100])
    weight.assign([0.0])
    with pytest.warns(UserWarning, match=r"a\.npz' is damaged"):
        assert EpochBackup(file, 0).resume([weight], [])[0] == 1
    assert float(weight[0]) == 1.0
    assert EpochBackup(file, 0).epochs_done() == 1


def draw():
    layer = keras.layers.Dense(3)
    layer.build((None, 2))
    return [random.random(), np.random.rand(), *np.asarray(layer.kernel).ravel()]


def test_draws_depend_on_the_seed_alone():
    with drawn_from(7):
        first = draw()
    keras.utils.set_random_seed(1)
    with drawn_from(7):
        assert draw() == first
    with drawn_from(8):
        assert draw() != first


def test_the_callers_generators_go_on_as_they_were():
    keras.utils.set_random_seed(1)
    expected = [random.random(), np.random.rand()]
    keras.utils.set_random_seed(1)
    with pytest.raises(KeyError), drawn_from(7):
        draw()
        raise KeyError
    assert [random.random(), np.random.rand()] == expected


def test_attempts_and_stages_have_seeds_of_their_own():
    seeds = {stage_seed(2**31 - 1, stage, attempt) for stage in range(5) for attempt in range(5)}
    assert len(seeds) == 25
    np.random.seed(max(seeds))


class Fixed(keras.utils.PyDataset):
    """The same batches in every pass."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        return rng.normal(size=(8, 4)).astype("float32"), rng.normal(size=(8, 1))


@pytest.mark.promise
def test_a_resumed_training_sees_the_orders_of_a_pydataset_again(tmp_path):
    class Kill(keras.callbacks.Callback):
        killed = False

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2 and self.killed:
                raise KeyboardInterrupt

    def run(name, killed=False):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, name="a")], name="s")
        model.compile("adam", "mse")
        callback = Kill()
        callback.killed = killed
        stage = kd.Prune(0.5, epochs=4, learning_rate=0.05)
        path = tmp_path / name
        run = kd.compress(model, Fixed(), stages=stage, path=path, callbacks=callback, verbose=0)
        return run.model.get_weights()

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("killed", killed=True)
    for one, other in zip(run("killed"), whole, strict=True):
        np.testing.assert_array_equal(one, other)
