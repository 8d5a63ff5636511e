"""A step of quantization-aware training that teaches, beside one written by hand in tf_keras."""

import functools
import statistics
import time

import keras
import tensorflow as tf
from by_hand import rebuild, tf_keras, tfmot
from networks import BATCH, compiled, convolutional, images
from side_by_side import compare, step_seconds

import keras_kd as kd
from keras_kd.models.calls import operations_of, trace_calls
from keras_kd.quantizing.kernels import KernelRounding, quantizable_kernels
from keras_kd.quantizing.quantization import Quantization
from keras_kd.quantizing.ranges import Ranges, measure_of
from keras_kd.quantizing.sites import find_sites

STEPS, ROUNDS, TEMPERATURE = 40, 9, 4.0


class StepTimes(tf_keras.callbacks.Callback):
    """The seconds between the ends of two steps."""

    def __init__(self):
        super().__init__()
        self.ends = []

    def on_train_batch_end(self, batch, logs=None):  # noqa: D102
        self.ends.append(time.perf_counter())


class ByHand(tf_keras.Model):
    """What a user of TF-MOT would write: cross-entropy and KL from a teacher of tf_keras."""

    def __init__(self, teacher, student):
        super().__init__()
        self.teacher, self.student = teacher, student
        self.teacher.trainable = False
        self.divergence = tf_keras.losses.KLDivergence()

    def train_step(self, data):
        """Teach the student one batch."""
        x, y = data
        teacher = self.teacher(x, training=False)
        with tf.GradientTape() as tape:
            logits = self.student(x, training=True)
            hard = self.compiled_loss(y, logits)
            soft = TEMPERATURE**2 * self.divergence(
                tf.nn.softmax(teacher / TEMPERATURE), tf.nn.softmax(logits / TEMPERATURE)
            )
            loss = 0.5 * hard + 0.5 * soft
        variables = self.student.trainable_variables
        gradients = tape.gradient(loss, variables)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        self.compiled_metrics.update_state(y, logits)
        results = {metric.name: metric.result() for metric in self.metrics}
        return {**results, "kl_divergence": soft}


def step_seconds_by_hand(model, x, y):
    times = StepTimes()
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[times])
    return statistics.median(b - a for a, b in zip(times.ends, times.ends[1:], strict=False))


def ours(teacher, student, x, ranges):
    """What `kd.QuantizeAware` trains; what `Distiller.fit` trains where `ranges` is `None`."""
    distiller = compiled(kd.Distiller(teacher, student, kd.losses.KLDivergence(TEMPERATURE)))
    if ranges is None:
        return distiller
    kernels = quantizable_kernels(operations_of(student), lambda path, layer: 8)
    sites = find_sites(trace_calls(student, tf.TensorSpec([None, *x.shape[1:]], x.dtype)))
    held = Ranges(sites.sites, 8, ranges)
    quantization = Quantization(student, sites, held, KernelRounding(kernels))
    quantization.calibrate([x[:BATCH]], measure_of(ranges, 8))
    distiller.look_through(quantization)
    return distiller


def by_hand(teacher, student, quantized):
    twin = rebuild(student)
    if quantized:
        twin = tfmot.quantization.keras.quantize_model(twin)
    model = ByHand(rebuild(teacher), twin)
    model.compile(
        tf_keras.optimizers.SGD(0.01),
        loss=tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def main():
    keras.utils.set_random_seed(0)
    x, y = images(STEPS)
    teacher, student = convolutional(32, "teacher"), convolutional(16, "student")
    for ranges in ("percentile", "minmax", None):
        theirs = by_hand(teacher, student, ranges is not None)
        distiller = ours(teacher, keras.models.clone_model(student), x, ranges)
        runs = [
            functools.partial(step_seconds, distiller, x, y, batch_size=BATCH),
            functools.partial(step_seconds_by_hand, theirs, x, y),
        ]
        for run in runs:
            run()  # traces
        if ranges is None:
            names = "the same step, not quantized", "by hand in tf_keras, not quantized"
        else:
            names = f'quantization-aware step, `ranges="{ranges}"`', "TF-MOT by hand in tf_keras"
        bound = None if ranges is None else 1.0
        compare(*names, *runs, bound, ROUNDS, processor=True)


if __name__ == "__main__":
    main()
