"""All five stages, killed in each of them and between them, each time in another process."""

import os
import random
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.compression.running.epoch_backup import EpochBackup
from keras_kd.compression.running.run_folder import RunFolder
from keras_kd.models.tfmot import import_tfmot


def network(width, name):
    image = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(width, 3, padding="same", use_bias=False, name="conv1")(image)
    x = layers.ReLU(name="relu1")(layers.BatchNormalization(name="bn1", trainable=width > 8)(x))
    short = layers.Conv2D(2 * width, 3, strides=2, padding="same", name="conv2")(x)
    x = layers.ReLU(name="relu2")(layers.BatchNormalization(name="bn2")(short))
    x = layers.Conv2D(2 * width, 3, padding="same", name="conv3")(x)
    x = layers.ReLU(name="relu3")(layers.Add(name="add")([x, short]))
    x = layers.Dropout(0.3, name="drop")(layers.Flatten(name="flat")(x))
    x = layers.Dense(32, activation="relu", name="hidden")(x)
    return keras.Model(image, layers.Dense(3, name="logits")(x), name=name)


def data():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 128).astype("int32")
    images = generator.normal(0, 0.3, (128, 8, 8, 1)).astype("float32")
    images[np.arange(128), :, labels * 2] += 1.0
    return images, labels


def run(path):
    keras.utils.set_random_seed(0)
    teacher, student = network(16, "teacher"), network(8, "student")
    if os.path.exists(f"{path}/run.json"):
        # A process that did other things before, such as that of a notebook.
        keras.utils.set_random_seed(os.getpid())
        import_tfmot()
        pytest.importorskip("tf_keras").utils.set_random_seed(os.getpid())
        random.seed(os.getpid())
    hint = kd.Hint("relu2", "relu2")
    distiller = kd.Distiller(teacher, student, [kd.losses.KLDivergence(), hint], None, 0.5)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("adam", loss=loss, metrics=["accuracy"])
    stages = [
        kd.Shrink(0.3, epochs=2),
        kd.LowRank(0.8, epochs=2),
        kd.Prune(0.5, epochs=2),
        kd.Cluster(8, epochs=2),
        kd.QuantizeAware(epochs=2),
    ]
    return kd.compress(distiller, data(), data(), stages=stages, path=path, verbose=0)


def run_and_die(path, moment, stage):
    """Run until a moment: `"begin"` or `"epoch"` of a stage, or `"kept"`, once it is done."""

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    resume_training, save = EpochBackup.resume, EpochBackup.save
    keep = RunFolder.keep

    def resume(self, *arguments):
        result = resume_training(self, *arguments)
        if moment == "begin" and f"stage_{stage + 1}_" in str(self.path):
            die()
        return result

    def save_first(self, epochs, *arguments):
        save(self, epochs, *arguments)
        if moment == "epoch" and f"stage_{stage + 1}_" in str(self.path):
            die()

    def keep_then(self, index, *arguments):
        keep(self, index, *arguments)
        if moment == "kept" and index == stage:
            die()

    EpochBackup.resume, EpochBackup.save = resume, save_first
    RunFolder.keep = keep_then
    run(path)


def _process(code):
    script = f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})\n{code}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)


@pytest.mark.promise
def test_a_chain_that_is_killed_everywhere_ends_with_the_same_weights(tmp_path):
    whole, killed = str(tmp_path / "whole"), str(tmp_path / "killed")
    done = _process(f"import test_killed_chain as t; t.run({whole!r})")
    assert done.returncode == 0, done.stderr[-2000:]
    for stage in range(5):
        for moment in ("begin", "epoch", "kept"):
            died = _process(
                f"import test_killed_chain as t; t.run_and_die({killed!r}, {moment!r}, {stage})"
            )
            assert died.returncode == -signal.SIGKILL, (moment, stage, died.stderr[-2000:])
    done = _process(f"import test_killed_chain as t; t.run({killed!r})")
    assert done.returncode == 0, done.stderr[-2000:]
    models = [
        kd.load_compressed(f"{path}/stage_5_quantize_aware.keras") for path in (whole, killed)
    ]
    for one, other in zip(*(model.model.weights for model in models), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6, err_msg=one.name)
    outputs = [model.predict(data()[0]) for model in models]
    np.testing.assert_allclose(*outputs, atol=1e-5)
    assert models[1].evaluate(data()) == pytest.approx(models[0].evaluate(data()))
