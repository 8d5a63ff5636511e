"""The reader raises one kind of error, whatever bytes it is given."""

import pathlib
import struct
import time
import tracemalloc

import numpy as np
import pytest

from keras_kd.litert.graph import read_graphs
from keras_kd.litert.model_file import ModelFile
from keras_kd.litert.stored_tensors import stored_tensors

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
    file.constants()
    file.float_inputs_and_outputs()
    file.signature()
    file.signature_graphs()
    read_graphs(file)
    stored_tensors(content)


def survive(count, seed):
    content = REFERENCE.read_bytes()
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
    assert 20 < survive(200, seed=0) < 200


@pytest.mark.slow
def test_thousands_of_mutated_files():
    tracemalloc.start()
    survive(4000, seed=1)
    assert tracemalloc.get_traced_memory()[1] < 2**30
    tracemalloc.stop()
