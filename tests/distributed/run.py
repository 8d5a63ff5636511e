"""One training, on one device, on two, or as one of two workers; run by the tests in a process."""

import json
import os
import pathlib
import signal
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_kd as kd

mode, task, folder = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
kill_at = int(sys.argv[4]) if len(sys.argv) > 4 else None
worker = json.loads(os.environ.get("TF_CONFIG", '{"task": {"index": 0}}'))["task"]["index"]

if mode == "workers":
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
elif mode == "devices":
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
else:
    strategy = tf.distribute.get_strategy()
assert strategy.num_replicas_in_sync == (1 if mode == "one" else 2)

# The last batch is smaller; every batch divides by the number of replicas.
BATCH, SAMPLES = 16, 56


def data():
    random = np.random.default_rng(1)
    x = random.normal(size=(SAMPLES, 5)).astype("float32")
    y = random.integers(0, 3, SAMPLES)
    weight = random.uniform(size=SAMPLES).astype("float32")
    return tf.data.Dataset.from_tensor_slices((x, y, weight)).batch(BATCH)


class Subclassed(keras.Model):
    """Its shapes are known only when data is seen."""

    def __init__(self):
        super().__init__(name="student")
        self.hidden = keras.layers.Dense(4, activation="relu", name="hidden")
        self.norm = keras.layers.BatchNormalization(synchronized=True, name="norm")
        self.head = keras.layers.Dense(3, name="head")

    def call(self, x, training=False):
        return self.head(self.norm(self.hidden(x), training=training))


def network(width, name):
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(width, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(hidden), name=name)


def distiller(student=None):
    teacher = network(7, "teacher")
    distiller = kd.Distiller(
        teacher,
        student or network(4, "student"),
        [kd.losses.KLDivergence(2.0), kd.Hint("hidden", "hidden")],
        [lambda epoch: 1.0 + epoch, 0.5],
        student_loss_weight=0.3,
    )
    distiller.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return distiller


class Kill(keras.callbacks.Callback):
    """Ends this process as a machine that fails does."""

    steps = 0

    def on_train_batch_begin(self, batch, logs=None):
        self.steps += 1
        if self.steps == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


keras.utils.set_random_seed(0)
with strategy.scope():
    trained = distiller(Subclassed() if task == "subclassed" else None)

logs, ranges = {}, []
if task in ("hints", "subclassed"):
    logs = trained.fit(data(), validation_data=data(), epochs=3, verbose=0).history
    model = trained.student
elif task == "cache":
    taught = kd.teachers.cache(trained, data(), folder / "cache", verbose=False)
    logs = trained.fit(taught, validation_data=data(), epochs=3, verbose=0).history
    model = trained.student
elif task == "top_k":
    with strategy.scope():
        trained = kd.Distiller(
            trained.teacher, trained.student, kd.losses.KLDivergence(2.0, chunk_size=3)
        )
        trained.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    taught = kd.teachers.cache(
        trained, data(), folder / "top_k", top_k=2, temperature=2.0, verbose=False
    )
    logs = trained.fit(taught, validation_data=data(), epochs=3, verbose=0).history
    model = trained.student
elif task == "prune":
    compressed = kd.compress(trained, data(), data(), stages=[kd.Prune(0.5, epochs=3)], verbose=0)
    logs, model = compressed.history["prune"], compressed.model
elif task in ("cluster", "quantize", "minmax"):
    stages = {
        "cluster": kd.Cluster(3, epochs=3),
        "quantize": kd.QuantizeAware(epochs=3, learning_rate=0.01),
        "minmax": kd.QuantizeAware(epochs=3, ranges="minmax", learning_rate=0.01),
    }
    compressed = kd.compress(trained, data(), data(), stages=[stages[task]], verbose=0)
    (logs,), model = compressed.history.values(), compressed.model
    ranges = (compressed.quantization or {"ranges": {}})["ranges"].values()
elif task == "backup":
    backup = kd.BackupAndRestore(folder / f"backup{worker}")
    trained.fit(data(), epochs=3, verbose=0, callbacks=[backup, Kill()])
    model = trained.student
else:
    raise ValueError(task)

weights = [np.asarray(weight).tolist() for weight in model.get_weights()] + list(ranges)
result = {"weights": weights, "logs": {key: list(map(float, logs[key])) for key in logs}}
(folder / f"{mode}_{task}_{worker}.json").write_text(json.dumps(result))
