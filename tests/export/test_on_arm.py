"""Files of every form on 64-bit Arm under qemu, beside x86: `make test-arm`."""

import os
import pathlib
import subprocess

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd

FOLDER = os.environ.get("KERAS_KD_ARM")
pytestmark = [
    pytest.mark.arm,
    pytest.mark.skipif(not FOLDER, reason="run `make test-arm`, which unpacks an Arm system"),
]

# Runs every file of a folder by XNNPACK and by LiteRT's own kernels; Arm's Python has NumPy and
# LiteRT only.
RUN = """
import pathlib, sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
folder = pathlib.Path(sys.argv[1])
inputs = np.load(folder / "inputs.npy")
found = {}
for path in sorted(folder.glob("*.tflite")):
    for kernels in ("AUTO", "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "BUILTIN_REF"):
        interpreter = Interpreter(
            str(path), experimental_op_resolver_type=OpResolverType[kernels]
        )
        interpreter.allocate_tensors()
        given, output = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        outputs = []
        for row in inputs:
            if given["dtype"] != np.float32:
                scale, zero = given["quantization"]
                limits = np.iinfo(given["dtype"])
                row = np.clip(np.round(row / scale + zero), limits.min, limits.max)
            interpreter.set_tensor(given["index"], row[None].astype(given["dtype"]))
            interpreter.invoke()
            outputs.append(interpreter.get_tensor(output["index"])[0])
        found[f"{path.stem} {kernels}"] = np.array(outputs)
np.savez(sys.argv[2], **found)
"""


def make_student(integer_throughout=False):
    keras.utils.set_random_seed(0)
    images = keras.Input((12, 12, 3), name="images")
    x = layers.Conv2D(16, 3, use_bias=False)(images)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, padding="same", activation="relu6")(x)
    x = layers.Add()([x, layers.Conv2D(16, 1, activation="hard_sigmoid")(x)])
    x = layers.Conv2DTranspose(8, 2, strides=2, activation="relu")(x)
    if integer_throughout:
        return keras.Model(images, layers.Dense(10)(layers.Flatten()(x)))
    x = layers.Reshape((50, 64))(x)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 8)(x, x))
    x = layers.Dense(64, activation="gelu")(x)
    x = layers.LSTM(16)(layers.AveragePooling1D(10)(x))
    return keras.Model(images, layers.Dense(10)(x))


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arm")
    student, whole = make_student(), make_student(integer_throughout=True)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(64, 12, 12, 3)).astype("float32")
    distiller = kd.Distiller(None, whole, [], student_loss_weight=1.0)
    distiller.compile("adam", loss=keras.losses.SparseCategoricalCrossentropy(True))
    y = generator.integers(0, 10, 64)
    stages = [kd.Prune(0.6, epochs=1), kd.Cluster(16, epochs=1), kd.QuantizeAware(epochs=1)]
    pruned, clustered, trained = (
        kd.compress(distiller, (x, y), stages=stages[:n], verbose=0) for n in (1, 2, 3)
    )
    forms = {
        "float32": (student, {}),
        "float32_sparse": (pruned, {"sparse": True}),
        "float16": (student, {}),
        "dynamic": (student, {}),
        "int8": (whole, {}),
        "int8_in_and_out": (whole, {"integer_io": True}),
        "int8_clustered": (clustered, {}),
        "int8_trained": (trained, {}),
        "int8_partly_float": (student, {}),
        "int16x8": (whole, {}),
        "int16x8_partly_float": (student, {}),
        "int4": (student, {}),
    }
    for name, (model, arguments) in forms.items():
        path, form = folder / f"{name}.tflite", name.split("_")[0]
        kd.export_tflite(model, path, form, x, on_disagreement="ignore", verbose=False, **arguments)
    np.save(folder / "inputs.npy", x[:8])
    results = []
    for python in (pathlib.Path(FOLDER) / "python", os.sys.executable):
        saved = folder / f"{len(results)}.npz"
        command = [str(python), "-c", RUN, str(folder), str(saved)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr[-2000:]
        with np.load(saved) as file:
            results.append({name: file[name] for name in file.files})
    assert len(results[0]) == 3 * len(forms)
    return results


def test_integers_are_the_same_bit_by_bit(measured):
    arm, x86 = measured
    for name in arm:
        if not name.startswith(("int8", "int16x8")):
            continue
        expected = x86[name].astype("float64")
        if "partly_float" in name or name.endswith("WITHOUT_DEFAULT_DELEGATES"):
            # Floats are rounded otherwise on Arm, and so is what LiteRT's optimized kernels sum.
            assert np.abs(arm[name] - expected).max() < 0.1 * expected.std(), name
        else:
            np.testing.assert_array_equal(arm[name], x86[name], err_msg=name)
        assert len(np.unique(arm[name])) > 30, name


def test_floats_differ_by_their_last_digits(measured):
    arm, x86 = measured
    floats = [name for name in arm if not name.startswith(("int8", "int16x8"))]
    assert len(floats) == 15
    for name in floats:
        np.testing.assert_allclose(arm[name], x86[name], rtol=1e-4, atol=1e-6, err_msg=name)
