"""The reader raises one kind of error, whatever bytes it is given."""

import pathlib
import resource
import struct
import time

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.litert.constants import count_constants, stored_tensors
from keras_kd.litert.macs import count_macs
from keras_kd.litert.model_file import ModelFile

REFERENCE = pathlib.Path(__file__).parents[2] / "exports" / "reference" / "seed0" / "int8.tflite"


def mutated(content, rng):
    """Flip bits, cut, swap offsets, or write a length out of all proportion."""
    changed = bytearray(content)
    kind = rng.integers(4)
    first = 0 if rng.random() < 0.3 else max(len(content) - 12000, 0)
    if kind == 0:
        return bytes(changed[: int(rng.integers(len(content)))])
    for _ in range(int(rng.choice([1, 4, 30]))):
        at = int(rng.integers(first, len(content) - 8)) // 4 * 4
        other = int(rng.integers(first, len(content) - 8)) // 4 * 4
        if kind == 1:
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            a, b = bytes(changed[at : at + 4]), bytes(changed[other : other + 4])
            changed[at : at + 4], changed[other : other + 4] = b, a
        else:
            number = int(rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, len(content)]))
            changed[at : at + 4] = struct.pack("<I", number)
    return bytes(changed)


def read(content):
    file = ModelFile(content)
    file.operators()
    file.operator_counts()
    file.tensor_types()
    count_constants(file)
    file.float_inputs_and_outputs()
    file.signature()
    file.signature_graphs()
    file.graphs()
    stored_tensors(file)
    assert file.has_names in (False, True)
    count_macs(file)


def survive(count, seed, content):
    rng = np.random.default_rng(seed)
    refused = 0
    for number in range(count):
        start = time.perf_counter()
        try:
            read(mutated(content, rng))
        except ValueError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"{number}: {type(error).__name__}: {error}") from error
        assert time.perf_counter() - start < 20
    return refused


def test_a_whole_file_is_read():
    read(REFERENCE.read_bytes())


def test_mutated_files():
    assert 20 < survive(200, seed=0, content=REFERENCE.read_bytes()) < 200


def written(folder, quantization):
    i = keras.Input((8, 8, 3))
    x = layers.DepthwiseConv2D(3)(layers.Conv2D(8, 3, activation="relu")(i))
    x = layers.LSTM(8, unroll=True)(layers.Reshape((16, 8))(x))
    model = keras.Model(i, layers.Dense(200, activation="softmax")(x))
    data = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype("float32")
    path = folder / f"{quantization}.tflite"
    kd.export_tflite(
        model, path, quantization, data, class_names=[str(n) for n in range(200)], verbose=False
    )
    return path.read_bytes()


@pytest.mark.promise
@pytest.mark.parametrize("form", ["reference", "float32", "dynamic", "int16x8"])
def test_thousands_of_mutated_files(form, tmp_path):
    content = REFERENCE.read_bytes() if form == "reference" else written(tmp_path, form)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert 100 < survive(1000, seed=1, content=content) < 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1e6, "more than 1 GB"
