"""The calls of a model's layers and operations in one pass: watched, changed, recorded.

A layer is watched by its instance's `call`, so that any model will do: functional, sequential,
nested or subclassed, and layers inside composite and custom layers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_kd.models.graph import flat_layers, graph_of, is_graph, sublayers

Around = Callable[[str, Any, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


def operations_of(model: Any) -> dict[str, Any]:
    """Return every layer and operation that a model calls by its path, outer ones first.

    Args:
        model: A Keras 3 model.

    Returns:
        `"conv1"`, `"backbone/conv1"` inside a nested model, `"attention/query_dense"` inside a
        layer. A layer that is called at several places stands under the first.
    """
    found: dict[str, Any] = {}
    seen: set[int] = {id(model)}

    def visit(parent: Any, prefix: str) -> None:
        for name, child in _children(parent):
            if id(child) in seen or isinstance(child, keras.layers.InputLayer):
                continue
            seen.add(id(child))
            # Names need not be unique inside of a custom layer.
            numbers = itertools.count(2)
            path = prefix + name
            while path in found:
                path = f"{prefix}{name}_{next(numbers)}"
            found[path] = child
            visit(child, f"{path}/")

    visit(model, "")
    return found


def _children(parent: Any) -> list[tuple[str, Any]]:
    if isinstance(parent, keras.Model) and is_graph(parent):
        return [(operation.name, operation) for operation in graph_of(parent).operations]
    if not isinstance(parent, keras.layers.Layer):
        return []
    if isinstance(parent, keras.Model):
        return [(layer.name, layer) for layer in sublayers(parent)]
    return inner_layers(parent)


def inner_layers(layer: Any) -> list[tuple[str, Any]]:
    """Return the layers inside of a layer, each with the attribute that holds it or its name."""
    held = [(name.lstrip("_"), value) for name, value in vars(layer).items()]
    named = [(name, child) for name, child in held if isinstance(child, keras.layers.Layer)]
    known = {id(child) for _, child in named}
    others = [x for x in flat_layers(layer, False, False) if id(x) not in known]
    return named + [(child.name, child) for child in others]


def operation_names(model: Any) -> list[str]:
    """Return the names of all layers and operations of a model, in an order of its structure."""
    return [operation.name for operation in _every_operation(model)]


def name_operations(model: Any, names: Sequence[str]) -> None:
    """Give the layers and operations of a model the names of those of a model like it.

    Keras numbers layers without a name anew in every copy and in every process, also those
    inside of custom layers and subclassed models. Nothing is done to a model of another structure.

    Args:
        model: A copy of another model, made from its configuration or loaded.
        names: The `operation_names` of the other one.
    """
    operations = _every_operation(model)
    if len(operations) == len(names):
        for operation, name in zip(operations, names, strict=True):
            operation.name = name


def _every_operation(model: Any) -> list[Any]:
    inputs = [x for x in flat_layers(model) if isinstance(x, keras.layers.InputLayer)]
    return [model, *operations_of(model).values(), *inputs]


@contextlib.contextmanager
def changed_calls(operations: Mapping[str, Any], around: Around) -> Iterator[None]:
    """Run `around(path, operation, call, args, kwargs)` in place of every operation's call.

    Args:
        operations: Operations by path. They are left as they were found.
        around: Calls `call(*args, **kwargs)` and returns what it returns, or something else.
    """
    with contextlib.ExitStack() as stack:
        for path, operation in operations.items():
            stack.enter_context(
                changed_attribute(operation, "call", _changed(path, operation, around))
            )
        yield


@contextlib.contextmanager
def changed_attribute(operation: Any, name: str, value: Any) -> Iterator[None]:
    """Give a layer or operation another attribute inside the block; Keras does not notice."""
    held = vars(operation)
    missing = name not in held
    before = held.get(name)
    object.__setattr__(operation, name, value)
    try:
        yield
    finally:
        if missing:
            object.__delattr__(operation, name)
        else:
            object.__setattr__(operation, name, before)


def _changed(path: str, operation: Any, around: Around) -> Callable[..., Any]:
    original = operation.call

    @tf.autograph.experimental.do_not_convert
    def call(*args: Any, **kwargs: Any) -> Any:
        return around(path, operation, original, args, kwargs)

    return call


class CallCounter(threading.local):
    """Numbers the calls of an operation in a pass; a replica in a thread counts by itself."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def reset(self) -> None:
        """Begin a pass."""
        self._counts = {}

    def next(self, path: str) -> int:
        """Return how often an operation was called before in this pass."""
        count = self._counts.get(path, 0)
        self._counts[path] = count + 1
        return count


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of an operation.

    Attributes:
        path: The path of the operation.
        operation: The layer or operation.
        index: How often it was called before in the same pass.
        parent: The call that it was made in, or `None`.
        inputs: The floating-point tensors that it was given.
        outputs: The floating-point tensors that it returned.
    """

    path: str
    operation: Any
    index: int
    parent: Call | None
    inputs: tuple[tf.Tensor, ...]
    outputs: tuple[tf.Tensor, ...]


@dataclasses.dataclass(frozen=True)
class Trace:
    """A pass of a model in inference mode.

    Attributes:
        calls: Its calls, in the order in which they ended.
        inputs: The tensors that the model was given.
        outputs: The tensors that it returned.
        graph: What holds the tensors.
    """

    calls: tuple[Call, ...]
    inputs: tuple[tf.Tensor, ...]
    outputs: tuple[tf.Tensor, ...]
    graph: Any


def trace_calls(model: Any, specs: Any) -> Trace:
    """Trace a pass of a model and return the calls of its layers and operations.

    Args:
        model: A built Keras 3 model.
        specs: Its inputs as `tf.TensorSpec`s, in the structure in which it takes them.
    """
    calls: list[Call] = []
    open_calls: list[Call] = []
    counter = CallCounter()
    inputs: list[tf.Tensor] = []

    def around(path: str, operation: Any, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        begun = Call(
            path,
            operation,
            counter.next(path),
            open_calls[-1] if open_calls else None,
            floats_of((args, kwargs)),
            (),
        )
        open_calls.append(begun)
        outputs = call(*args, **kwargs)
        open_calls.pop()
        object.__setattr__(begun, "outputs", floats_of(outputs))
        calls.append(begun)
        return outputs

    def run(x: Any) -> Any:
        inputs.extend(keras.tree.flatten(x))
        return model(x, training=False)

    with changed_calls(operations_of(model), around):
        function = tf.function(run, autograph=False).get_concrete_function(specs)
    outputs = tuple(
        function.graph.outputs if function.graph.outputs else keras.tree.flatten(function.outputs)
    )
    return Trace(tuple(calls), tuple(inputs), outputs, function)


def floats_of(structure: Any) -> tuple[tf.Tensor, ...]:
    """Return the floating-point tensors of a structure."""
    return tuple(
        x for x in keras.tree.flatten(structure) if tf.is_tensor(x) and x.dtype.is_floating
    )


def source_of(tensor: tf.Tensor) -> tf.Tensor:
    """Return what a traced tensor is a copy of, casts and identities left out."""
    while op_type(tensor) in ("Identity", "Cast", "StopGradient", "EnsureShape"):
        tensor = tensor.op.inputs[0]
    return tensor


def op_type(tensor: tf.Tensor) -> str | None:
    """Return the type of the operation behind a tensor; `None` of one that holds its values.

    A model may hold such a constant and give it to a layer while it is traced.
    """
    operation = getattr(tensor, "op", None)
    return None if operation is None else operation.type
