"""Weights in 8 bits, computation in float: each kernel is dequantized before it is used."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_kd.export.int4 import WITH_WEIGHTS
from keras_kd.litert.constants import LEAST_WEIGHTS
from keras_kd.litert.mixing import remove_unused
from keras_kd.litert.model_file import ModelFile
from keras_kd.litert.packing import numbers

# The axis whose every position has a scale of its own, where that is not the first one.
_CHANNELS = {"DEPTHWISE_CONV_2D": 3, "CONV_3D": 4, "CONV_3D_TRANSPOSE": 3}
# Of these the axis depends on how they multiply: one scale for all.
_WITHOUT = ("BATCH_MATMUL", "UNIDIRECTIONAL_SEQUENCE_LSTM")


def to_weight_only(file: ModelFile) -> None:
    """Store the weights of a float32 file in 8 bits, with a DEQUANTIZE operator behind each.

    Symmetric, one scale for each output channel, the largest number of a channel is 127. Weights of
    fewer than 1,024 numbers stay float.

    Args:
        file: The file, which is changed.
    """
    for number, graph in enumerate(file.model.subgraphs):
        made: dict[tuple[int, int | None], int] = {}
        operators: list[Any] = []
        for operator in graph.operators or ():
            name, _ = file.operator_name(operator)
            inputs = list(numbers(operator.inputs))
            for place, index in enumerate(inputs if name in WITH_WEIGHTS else ()):
                tensor = file.tensor(number, index) if index >= 0 else None
                if (
                    tensor is None
                    or tensor.data is None
                    or tensor.kind != "FLOAT32"
                    or len(tensor.shape) < 2
                    or tensor.elements < LEAST_WEIGHTS
                ):
                    continue
                axis = None if name in _WITHOUT else _CHANNELS.get(name, 0)
                if (index, axis) not in made:
                    operators.append(_dequantized(file, graph, index, tensor, axis))
                    made[index, axis] = len(graph.tensors) - 1
                inputs[place] = made[index, axis]
            operator.inputs = inputs
            operators.append(operator)
        graph.operators = operators
    remove_unused(file)


def _dequantized(file: ModelFile, graph: Any, index: int, tensor: Any, axis: int | None) -> Any:
    """Add a weight in 8 bits and what it is dequantized to, and return the operator between."""
    schema = file.schema
    values = tensor.data.view("<f4").reshape(tensor.shape)
    others = tuple(i for i in range(values.ndim) if i != axis)
    sizes = np.abs(values).max(axis=others, keepdims=True)
    scales = np.where(sizes > 0, sizes / 127, 1.0).astype("<f4")
    rounded = np.round(values / scales).astype(np.int8)
    stored = schema.TensorT(
        name=graph.tensors[index].name,
        shape=list(tensor.shape),
        type=schema.TensorType.INT8,
        buffer=file.add_buffer(rounded),
        quantization=schema.QuantizationParametersT(
            scale=scales.ravel(),
            zeroPoint=np.zeros(scales.size, np.int64),
            quantizedDimension=axis or 0,
        ),
    )
    floats = schema.TensorT(
        name=graph.tensors[index].name,
        shape=list(tensor.shape),
        type=schema.TensorType.FLOAT32,
        buffer=0,
    )
    graph.tensors += [stored, floats]
    return schema.OperatorT(
        opcodeIndex=file.operator_code("DEQUANTIZE", version=5),
        inputs=[len(graph.tensors) - 2],
        outputs=[len(graph.tensors) - 1],
    )
