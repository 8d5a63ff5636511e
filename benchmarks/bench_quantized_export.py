"""int8 export of a quantized EfficientNetB0 beside TensorFlow's converter by hand.

By hand is what TensorFlow's guide writes: the model that computes with its ranges as a SavedModel,
and the converter with `Optimize.DEFAULT`. That neither runs the file nor orders its outputs.
"""

import pathlib
import tempfile

import keras
import numpy as np
import tensorflow as tf
from side_by_side import compare, seconds

import keras_kd as kd
from keras_kd.system.quiet import capture_output

ROUNDS = 3


def quantized():
    """EfficientNetB0 with the ranges of two random images."""
    keras.utils.set_random_seed(0)
    model = keras.applications.EfficientNetB0(weights=None)
    x = np.random.default_rng(0).uniform(0, 255, (2, 224, 224, 3)).astype("float32")
    distiller = kd.Distiller(None, model, [], student_loss_weight=1.0)
    distiller.compile("adam", loss=keras.losses.SparseCategoricalCrossentropy())
    stages = [kd.QuantizeAware(epochs=0)]
    return kd.compress(distiller, (x, np.zeros(2, "int32")), stages=stages, verbose=0)


def convert(folder):
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    with capture_output(False):
        converter.convert()


def main():
    compressed = quantized()
    with tempfile.TemporaryDirectory() as name:
        saved, file = pathlib.Path(name) / "saved", pathlib.Path(name) / "student.tflite"

        def by_hand():
            compressed.write_saved_model(saved)
            convert(saved)

        def ours():
            kd.export_tflite(compressed, file, "int8", verbose=False)

        compare(
            "int8 export of a quantized EfficientNetB0",
            "SavedModel and converter by hand",
            lambda: seconds(ours),
            lambda: seconds(by_hand),
            1.2,
            ROUNDS,
            processor=True,
        )


if __name__ == "__main__":
    main()
