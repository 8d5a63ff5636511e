from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest
from keras import layers

from keras_kd.export.tflite import export_tflite
from keras_kd.litert.constants import _zeros as zeros_of
from keras_kd.litert.constants import count_constants, count_zeros
from keras_kd.litert.model_file import ModelFile, Tensor


def pruned(path: pathlib.Path, quantization: str) -> ModelFile:
    """A file of one 40 x 30 kernel, 900 of whose 1,200 weights are zero."""
    model = keras.Sequential([keras.Input((40,), name="x"), layers.Dense(30, use_bias=False)])
    kernel = np.random.default_rng(0).uniform(0.5, 1.0, 1200).astype("float32")
    kernel[:900] = 0
    model.layers[0].set_weights([np.random.default_rng(1).permutation(kernel).reshape(40, 30)])
    x = np.random.default_rng(0).random((8, 40), np.float32)
    export_tflite(model, path, quantization, representative_data=x, verbose=False)
    return ModelFile(path.read_bytes())


@pytest.mark.parametrize(
    ("quantization", "types"),
    [
        ("float32", {"FLOAT32": 1200}),
        ("float16", {"FLOAT16": 1200}),
        ("dynamic", {"INT8": 1200}),
        ("int8", {"INT8": 1200}),
    ],
)
def test_constants_and_zeros_are_counted(
    tmp_path: pathlib.Path, quantization: str, types: dict[str, int]
) -> None:
    constants = count_constants(pruned(tmp_path / "a.tflite", quantization))
    assert (constants.elements, constants.zeros, constants.sparsity) == (1200, 900, 0.75)
    assert constants.types == types
    assert constants.sparse_tensors == 0


@pytest.mark.parametrize(
    ("data", "kind", "zero_point", "expected"),
    [
        (np.array([0.0, -0.0, 1e-45], np.float32), "FLOAT32", 0, (3, 2)),
        (np.array([0.0, -0.0, 1.0], np.float16), "FLOAT16", 0, (3, 2)),
        (np.array([-3, 0, -3], np.int8), "INT8", -3, (3, 2)),
        (np.array([0, 7, 0, 0], np.int32), "INT32", 0, (4, 3)),
        (np.array([0x10, 0x00], np.uint8), "INT4", 0, (4, 3)),
        (np.array([0x1F, 0xFF], np.uint8), "INT4", -1, (4, 3)),
    ],
)
def test_zeros_of_every_type(
    data: np.ndarray, kind: str, zero_point: int, expected: tuple[int, int]
) -> None:
    assert count_zeros(data.view(np.uint8), kind, zero_point) == expected


@pytest.mark.parametrize(
    ("data", "kind", "shape", "zeros"),
    [
        ([0x21, 0x03], "INT4", (1, 3), 0),  # 1, 2, 3 and half a byte to fill up
        ([0x20, 0x03], "INT4", (3, 1), 1),
        ([0x20, 0x03], "INT4", (2, 2), 2),
        ([0b01], "INT2", (1, 1), 0),
        ([0b0100_0100, 0b01], "INT2", (5, 1), 2),
    ],
)
def test_what_fills_up_a_byte_is_no_zero(data, kind, shape, zeros):
    stored = np.array(data, np.uint8)
    tensor = Tensor("w", kind, shape, shape, (1.0,), (0,), data=stored)
    assert zeros_of(tensor) == zeros


def test_operators_of_quantized_files(tmp_path: pathlib.Path) -> None:
    file = pruned(tmp_path / "a.tflite", "int8")
    assert file.operator_counts() == {"QUANTIZE": 1, "FULLY_CONNECTED": 1, "DEQUANTIZE": 1}
    assert file.float_operators() == []
    assert file.output_operator().name == "FULLY_CONNECTED"
    assert len(file.float_inputs_and_outputs()) == 2
    assert not any(operator.is_flex or operator.custom for operator in file.operators())
