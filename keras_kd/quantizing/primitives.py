"""Operations of TensorFlow in the code of layers: what the file makes of them."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_kd.models.calls import (
    COPIES,
    OF_FIXED_RANGE,
    Call,
    Primitive,
    Trace,
    has_own_code,
    mask_branch,
    op_type,
    source_of,
)
from keras_kd.models.keras_2_masks import plain_type

# As `sites.SAME_RANGE`, for TensorFlow's operations.
SAME_RANGE_PRIMITIVES = {
    "BatchToSpaceND", "BroadcastTo", "DepthToSpace", "ExpandDims", "GatherNd", "GatherV2", "Max",
    "MaxPool", "Min", "MirrorPad", "Pad", "Reshape", "ResizeNearestNeighbor", "ReverseV2", "Roll",
    "Slice", "SpaceToBatchND", "SpaceToDepth", "Split", "SplitV", "Squeeze", "StridedSlice", "Tile",
    "TopKV2", "Transpose", "Unpack",
}  # fmt: skip
MULTIPLIED = {
    "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Conv2D", "DepthwiseConv2dNative", "Einsum",
    "MatMul",
}  # fmt: skip
SUMS = {"Add", "AddV2", "BiasAdd"}
# What a file puts together with one scale for all parts.
TOGETHER = {"ConcatV2", "Concatenate", "Pack", "Stack"}
# Operations of two tensors, of which one may be a constant that the file holds in integers.
RECOMPUTED = {
    "Add": tf.add, "AddV2": tf.add, "Mul": tf.multiply, "RealDiv": tf.divide, "Sub": tf.subtract,
}  # fmt: skip
# What makes new values that the file holds in integers.
ROUNDED_PRIMITIVES = MULTIPLIED | SUMS | {
    "AvgPool", "ConcatV2", "LeakyRelu", "Maximum", "Mean", "Minimum", "Mul", "Neg", "Pack", "PadV2",
    "RealDiv", "Relu", "Relu6", "ResizeBilinear", "SelectV2", "Sigmoid", "Softmax", "Sub", "Sum",
    "Tanh",
}  # fmt: skip
# Functions of one tensor with one of these become one operator, or none that could be rounded.
_ELEMENTWISE = SUMS | {"Maximum", "Minimum", "Mul", "Neg", "RealDiv", "Sub"}
_ACTIVATIONS = {"Erf", "Erfc", "Exp", "Pow", "Relu6", "Sigmoid", "Softplus", "Tanh"}
# What an activation returns, so that the file's operator has the scale that it asks for.
FIXED_RANGES = {
    "softmax": (0.0, 255.0 / 256.0),
    "sigmoid": (0.0, 255.0 / 256.0),
    "tanh": (-1.0, 127.0 / 128.0),
}
FIXED_PRIMITIVES = {kind: FIXED_RANGES[kind.lower()] for kind in OF_FIXED_RANGE}


def name_of(operation: Any) -> str:
    """Return the type of an operation: TensorFlow's of a primitive, Keras's of others."""
    return operation.type if isinstance(operation, Primitive) else plain_type(operation).__name__


def is_rounded(tensor: Any) -> bool:
    """Whether a traced tensor holds rounded values, moved or not."""
    tensor = source_of(tensor)
    while op_type(tensor) in SAME_RANGE_PRIMITIVES or _is_once(tensor):
        tensor = source_of(tensor.op.inputs[1 if _is_once(tensor) else 0])
    return (op_type(tensor) or "").startswith("FakeQuant")


def is_constant(tensor: Any) -> bool:
    """Whether a traced tensor depends on no input, variable or random number."""
    waiting, seen = [tensor.op], set()
    while waiting:
        operation = waiting.pop()
        if operation.type in ("Placeholder", "ReadVariableOp") or operation.op_def.is_stateful:
            return False
        if operation.type != "Shape":  # known once the batch size is
            waiting += [x.op for x in operation.inputs if id(x.op) not in seen]
        seen.add(id(operation))
    return True


def without_mask(kind: str, inputs: Any, outputs: Any) -> Any:
    """Return a selection between a tensor and a large number as a sum, `None` of all else.

    A file has one scale for what is selected, and would clip the number to the tensor's range.
    """
    i = mask_branch(kind, inputs, outputs)
    if i is None:
        return None
    zero, kept = tf.zeros_like(inputs[i]), list(inputs[1:])
    masked = [zero, zero]
    kept[i - 1], masked[i - 1] = zero, inputs[i]
    return tf.where(inputs[0], *kept) + tf.where(inputs[0], *masked)


def _is_once(tensor: Any) -> bool:
    """Whether a tensor is another times 1, as in TensorFlow's `silu`."""
    factor = tf.get_static_value(tensor.op.inputs[0]) if op_type(tensor) == "Mul" else None
    return factor is not None and bool(np.all(factor == 1.0))


def is_in_keras(call: Call) -> bool:
    """Whether a call is a primitive in the code of Keras."""
    primitive = isinstance(call.operation, Primitive)
    return primitive and call.parent is not None and not has_own_code(call.parent.operation)


def moves_of(x: Any) -> Iterator[Any]:
    """Return a tensor and what holds its values in another order or shape."""
    yield x
    for made in x.consumers():
        if made.type in SAME_RANGE_PRIMITIVES or made.type in COPIES:
            for output in made.outputs:
                yield from moves_of(output)


def inside_activations(trace: Trace) -> set[int]:
    """Return the tensors inside functions of one tensor that the file has one operator for.

    GELU and the like are several operations in TensorFlow.
    """
    roots: dict[int, int] = {}
    chains: dict[int, list[Call]] = collections.defaultdict(list)
    for call in trace.calls:
        kind = name_of(call.operation)
        if isinstance(call.operation, Primitive) and kind in _ELEMENTWISE | _ACTIVATIONS:
            given = [source_of(x) for x in call.inputs]
            of = {roots.get(id(x), id(x)) for x in given if op_type(x) != "Const"}
            if len(of) == 1:
                roots[id(source_of(call.outputs[0]))] = root = of.pop()
                chains[root].append(call)
    inside: set[int] = set()
    for chain in chains.values():
        if any(name_of(call.operation) in _ACTIVATIONS for call in chain):
            members = {id(call) for call in chain}
            taken = {id(source_of(x)) for call in chain for x in call.inputs}
            outside = {
                id(source_of(x))
                for call in trace.calls
                if isinstance(call.operation, Primitive) and id(call) not in members
                for x in call.inputs
            }
            made = {id(source_of(call.outputs[0])) for call in chain}
            inside |= (made & taken) - outside
    return inside
