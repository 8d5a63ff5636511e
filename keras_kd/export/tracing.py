"""What is changed about a Keras model while its inference is traced, and what a trace holds."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_kd.models.calls import mask_branch
from keras_kd.models.graph import changed_outputs, flat_layers


@contextlib.contextmanager
def as_float32(model: keras.Model) -> Iterator[None]:
    """Let a mixed precision model compute in float32 for the duration of a trace."""
    changed = []
    try:
        for layer in flat_layers(model):
            policy = layer.dtype_policy
            if policy.compute_dtype in ("float16", "bfloat16"):
                changed.append((layer, policy))
                layer.dtype_policy = keras.DTypePolicy("float32")
        yield
    finally:
        for layer, policy in reversed(changed):
            layer.dtype_policy = policy


# The exponential of it is less than half a step of a softmax in 8 bits.
_HIDDEN = 8.0


@contextlib.contextmanager
def masks_in_range() -> Iterator[None]:
    """Let masked scores be a little less than all others, where Keras takes -1e9.

    A calibrated range that holds -1e9 has one step for all other scores.
    """

    def change(kind: str, inputs: Any, outputs: Any, graph: Any) -> Any:
        i = mask_branch(kind, inputs, outputs)
        if i is None or tf.get_static_value(inputs[i]).max() > 0 or inputs[3 - i].shape.rank == 0:
            return None
        branches = list(inputs[1:])
        # Of the whole sample: a maximum may be taken along any axis.
        axes = list(range(1, branches[2 - i].shape.rank)) or [-1]
        branches[i - 1] = tf.reduce_min(branches[2 - i], axes, keepdims=True) - _HIDDEN
        return [tf.where(inputs[0], *branches)]

    with changed_outputs(change):
        yield


def reshapes_by_batch(graph: Any) -> bool:
    """Whether a traced graph makes maps for a convolution by a shape that holds the batch size.

    As squeeze-and-excite does: with an open batch, the converter then always writes SHAPE.

    Args:
        graph: The `tf.Graph` of a traced function.
    """
    needed: set[Any] = set()
    waiting = [tensor.op for tensor in graph.outputs]
    while waiting:
        operation = waiting.pop()
        if operation not in needed:
            needed.add(operation)
            waiting += [tensor.op for tensor in operation.inputs]
    return any(
        operation.type == "Reshape"
        and operation.inputs[0].shape.rank == 2
        and operation.outputs[0].shape.rank == 4
        and _holds_batch_size(operation.inputs[1].op)
        and _feeds_a_convolution(operation)
        for operation in needed
    )


def _holds_batch_size(operation: Any) -> bool:
    parts = [tensor.op for tensor in operation.inputs] if operation.type == "Pack" else []
    slices = [part for part in parts if part.type == "StridedSlice"]
    shapes = [part.inputs[0].op for part in slices if part.inputs[0].op.type == "Shape"]
    return any(
        shape.inputs[0].shape.rank == 2 and shape.inputs[0].shape[0] is None for shape in shapes
    )


def _feeds_a_convolution(operation: Any) -> bool:
    following = operation.outputs[0].consumers()
    return any(
        other.type == "Conv2D"
        or (other.type.startswith("FakeQuant") and _feeds_a_convolution(other))
        for other in following
    )


def loops(folder: pathlib.Path) -> list[str]:
    """Return the names of the loops (`tf.while_loop`) in a SavedModel."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    return sorted({node.name for node in nodes if node.op in ("While", "StatelessWhile")})
