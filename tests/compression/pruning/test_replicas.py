"""Under MirroredStrategy the masks are equal on every device, and those of one device."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

import keras
import keras_kd as kd


def run(**arguments):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(12, "relu"), keras.layers.Dense(3)]
    )
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(48, 5)).astype("float32"), rng.integers(0, 3, 48)
    seen = []

    class Copies(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            for weight in model.trainable_weights:
                copies = getattr(weight.value, "values", [weight.value])
                seen.append(max(float(tf.reduce_max(tf.abs(c - copies[0]))) for c in copies))

    model.fit(
        x, y, epochs=3, batch_size=16, shuffle=False, verbose=0,
        callbacks=[kd.Prune(**arguments).as_callback(), Copies()],
    )
    return model.get_weights(), max(seen)


results = []
for arguments in ({"sparsity": 0.6, "frequency": 2}, {"sparsity": 0.6, "scope": "global"}):
    single, _ = run(**arguments)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        mirrored, difference = run(**arguments)
    results.append({
        "replicas": strategy.num_replicas_in_sync,
        "difference": difference,
        "weights": max(float(np.abs(a - b).max()) for a, b in zip(single, mirrored)),
        "zeros": all(((a == 0) == (b == 0)).all() for a, b in zip(single, mirrored)),
        "sparsity": float(np.concatenate([w.ravel() == 0 for w in mirrored[::2]]).mean()),
    })
json.dump(results, open(sys.argv[1], "w"))
"""


@pytest.mark.promise
def test_two_devices_prune_as_one(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    path = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    process = subprocess.run(
        [sys.executable, "script.py", "results.json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results) == 2
    for result in results:
        assert result["replicas"] == 2
        assert result["difference"] == 0.0
        assert result["weights"] < 1e-5
        assert result["zeros"]
        assert abs(result["sparsity"] - 0.6) < 0.02
