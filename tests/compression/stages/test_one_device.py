"""Stages that train on one device say so."""

import json
import os
import subprocess
import sys
import types

import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.compression.stages.one_device import check_devices

SCRIPT = """
import json, sys, warnings
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

import keras
import keras_kd as kd


def network(name):
    inputs = keras.Input((5,))
    x = keras.layers.Dense(12, "relu", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, name="logits")(x), name=name)


strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    keras.utils.set_random_seed(0)
    distiller = kd.Distiller(network("teacher"), network("student"), kd.losses.KLDivergence())
    distiller.compile(
        "adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"], jit_compile=False,
    )
rng = np.random.default_rng(1)
x, y = rng.normal(size=(48, 5)).astype("float32"), rng.integers(0, 3, 48)
data = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
stages = [kd.Prune(0.5), kd.Cluster(4), kd.QuantizeAware()]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    result = kd.compress(distiller, data, data, stages=stages, verbose=0)
json.dump(
    {
        "warnings": [str(w.message) for w in caught if "one device" in str(w.message)],
        "sparsity": result.sparsity,
        "clusters": [layer.clusters for layer in result.layers],
        "outcomes": [record.outcome for record in result.stages],
        "accuracy": [result.evaluate(data)["accuracy"], result.stages[-1].metrics["accuracy"]],
    },
    open(sys.argv[1], "w"),
)
"""


def test_the_replicas_are_said_not_to_be_used(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    path = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    process = subprocess.run(
        [sys.executable, "script.py", "results.json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    result = json.loads((tmp_path / "results.json").read_text())
    assert result["warnings"] == [
        "Cluster and QuantizeAware train with tf_keras on one device: the 2 replicas of the "
        "distiller's MirroredStrategy are not used there, and each batch of `train` goes through "
        "one of them."
    ]
    assert result["outcomes"] == ["before", "done", "done", "done"]
    assert result["sparsity"] == pytest.approx(0.5, abs=0.05)
    assert max(count or 0 for count in result["clusters"]) == 4
    assert result["accuracy"][0] == pytest.approx(result["accuracy"][1])


@pytest.mark.parametrize("stage", [kd.Cluster(4), kd.QuantizeAware()])
def test_refused_inside_a_scope(distiller, data, stage):
    message = f"{type(stage).__name__} trains with tf_keras on one device, and was called in the"
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        with pytest.raises(ValueError, match=message) as caught:
            kd.compress(distiller, data, stages=[stage], verbose=0)
        (problem,) = kd.check(distiller.student, [stage], exports=[]).problems
    assert problem.message == str(caught.value)


def test_refused_with_several_workers(monkeypatch):
    strategy = types.SimpleNamespace(num_replicas_in_sync=2)
    monkeypatch.setattr(
        "keras_kd.compression.stages.one_device.has_several_workers", lambda strategy: True
    )
    check_devices([kd.Prune(0.5)], strategy)
    with pytest.raises(ValueError, match="Cluster trains with tf_keras on one device, and the "):
        check_devices([kd.Prune(0.5), kd.Cluster()], strategy)
