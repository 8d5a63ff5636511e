"""The calls of a model's layers and operations in one pass: watched, changed, recorded.

A layer is watched by its instance's `call`, so that any model will do: functional, sequential,
nested or subclassed, and layers inside composite and custom layers.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd.models.graph import (
    changed_outputs,
    flat_layers,
    functions_of,
    graph_of,
    is_graph,
    sublayers,
)
from keras_kd.models.recurrent import CELLS

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
            path = first_free(prefix + name, found)
            found[path] = child
            visit(child, f"{path}/")

    visit(model, "")
    return found


def first_free(name: str, taken: Collection[str]) -> str:
    """Return a name, numbered from 2 where it is taken."""
    numbers, free = itertools.count(2), name
    while free in taken:
        free = f"{name}_{next(numbers)}"
    return free


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

    Keras numbers layers without a name again in every copy and in every process, also those
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


COPIES = ("Identity", "Cast", "StopGradient", "EnsureShape")
# Primitives whose outputs have one range in every file: watched in the code of Keras, too.
OF_FIXED_RANGE = ("Sigmoid", "Softmax", "Tanh")


@dataclasses.dataclass(frozen=True)
class Primitive:
    """An operation of TensorFlow in the code of a custom layer: `x + y`, `ops.concatenate`.

    Attributes:
        type: Its type, such as `"ConcatV2"`.
    """

    type: str


@dataclasses.dataclass
class _Open:
    path: str
    index: int
    own_code: bool
    graph: Any
    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


class OpenCalls(threading.local):
    """The calls of a pass that are under way, numbered; a replica in a thread has its own."""

    def __init__(self) -> None:
        self._counts: collections.Counter[str] = collections.Counter()
        self._open: list[_Open] = []

    @contextlib.contextmanager
    def begun(self, path: str, operation: Any) -> Iterator[int]:
        """Make a call inside the block; gives how often the operation was called before."""
        if not self._open:  # another pass
            self._counts.clear()
        # All steps of a recurrent layer are one.
        index = 0 if isinstance(operation, CELLS) else self._counts[path]
        self._counts[path] += 1
        graph = tf.compat.v1.get_default_graph()
        self._open.append(_Open(path, index, has_own_code(operation), graph))
        try:
            yield index
        finally:
            self._open.pop()

    def place_of(
        self, kind: str, outputs: Sequence[Any], graph: Any
    ) -> tuple[str, int, int] | None:
        """Return the innermost call that an operation of TensorFlow is made in.

        Args:
            kind: Its type.
            outputs: Its outputs.
            graph: The graph that it is made in.

        Returns:
            The path and the number of the call, and how many of this type it made before; `None`
            in loops and in branches.
        """
        innermost = self._open[-1] if self._open else None
        floats = outputs and outputs[0].dtype.is_floating
        if innermost is None or innermost.graph is not graph or not floats:
            return None
        number = innermost.counts[kind]
        innermost.counts[kind] += 1
        return innermost.path, innermost.index, number

    @property
    def in_own_code(self) -> bool:
        """Whether the innermost call is one of a layer written outside of Keras, or of a cell."""
        return bool(self._open) and self._open[-1].own_code


def has_own_code(operation: Any) -> bool:
    """Whether what a layer computes is written outside of Keras, or in a recurrent cell."""
    if not isinstance(operation, keras.layers.Layer):
        return False
    functions = functions_of(type(operation))
    own = any(f.__module__.partition(".")[0] != "keras" for f in functions)
    return own or isinstance(operation, (keras.layers.Lambda, *CELLS))


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of an operation.

    Attributes:
        path: The path of the operation; of a `Primitive` that of the layer whose code makes it.
        operation: The layer or operation, or a `Primitive`.
        index: How often it was called before in the same pass; how many primitives of its type
            the same call of the layer made before.
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
        calls: Its calls, in the order in which they ended. Primitives that a layer makes more or
            fewer of in training are left out.
        inputs: The tensors that the model was given.
        outputs: The tensors that it returned.
        graph: What holds the tensors.
        variables: The positions of the model's variables among all of them, by the number of the
            tensor that holds the variable (`id`).
    """

    calls: tuple[Call, ...]
    inputs: tuple[tf.Tensor, ...]
    outputs: tuple[tf.Tensor, ...]
    graph: Any
    variables: Mapping[int, int]

    def variable_of(self, tensor: tf.Tensor) -> int | None:
        """Return the position of the variable that a tensor is read from, `None` of others."""
        if op_type(tensor) != "ReadVariableOp":
            return None
        return self.variables.get(id(tensor.op.inputs[0]))


def trace_calls(model: Any, specs: Any) -> Trace:
    """Trace a pass of a model and return the calls of its layers and operations.

    Args:
        model: A built Keras 3 model.
        specs: Its inputs as `tf.TensorSpec`s, in the structure in which it takes them.
    """
    trace = _trace(model, specs, training=False)
    counts = _primitives(trace)
    if not counts:
        return trace
    in_training = _primitives(_trace(model, specs, training=True))
    return dataclasses.replace(
        trace,
        calls=tuple(
            call
            for call in trace.calls
            if not isinstance(call.operation, Primitive)
            or counts[_place(call)] == in_training[_place(call)]
        ),
    )


def _primitives(trace: Trace) -> collections.Counter[tuple[str, int, str]]:
    primitives = (call for call in trace.calls if isinstance(call.operation, Primitive))
    return collections.Counter(_place(call) for call in primitives)


def _place(primitive: Call) -> tuple[str, int, str]:
    index = 0 if primitive.parent is None else primitive.parent.index
    return primitive.path, index, primitive.operation.type


def _trace(model: Any, specs: Any, training: bool) -> Trace:
    calls: list[Call] = []
    open_calls: list[Call] = []
    numbers = OpenCalls()
    inputs: list[tf.Tensor] = []

    def around(path: str, operation: Any, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        with numbers.begun(path, operation) as index:
            parent = open_calls[-1] if open_calls else None
            begun = Call(path, operation, index, parent, floats_of((args, kwargs)), ())
            open_calls.append(begun)
            outputs = call(*args, **kwargs)
            open_calls.pop()
            object.__setattr__(begun, "outputs", floats_of(outputs))
            calls.append(begun)
        return outputs

    def note(kind: str, given: Any, outputs: Any, graph: Any) -> None:
        place = numbers.place_of(kind, outputs, graph)
        if place is not None and (numbers.in_own_code or kind in OF_FIXED_RANGE):
            path, _, number = place
            parent = open_calls[-1] if open_calls else None
            made = floats_of(tuple(outputs))
            calls.append(Call(path, Primitive(kind), number, parent, floats_of(tuple(given)), made))

    def run(x: Any) -> Any:
        inputs.extend(keras.tree.flatten(x))
        with numbers.begun("", model), changed_outputs(note):
            return model(x, training=training)

    with changed_calls(operations_of(model), around):
        function = tf.function(run, autograph=False).get_concrete_function(specs)
    outputs = tuple(
        function.graph.outputs if function.graph.outputs else keras.tree.flatten(function.outputs)
    )
    positions = {
        id(part.handle): i
        for i, variable in enumerate(model.variables)
        for part in _parts(variable.value)
        if hasattr(part, "handle")
    }
    variables = {
        id(inner): positions[id(outer)]
        for outer, inner in function.graph.captures
        if id(outer) in positions
    }
    return Trace(tuple(calls), tuple(inputs), outputs, function, variables)


def _parts(variable: Any) -> Sequence[Any]:
    """Return what stands on each device for a variable under a distribution strategy."""
    spread = isinstance(variable, tf.distribute.DistributedValues)
    return variable.values if spread else (variable,)


def floats_of(structure: Any) -> tuple[tf.Tensor, ...]:
    """Return the floating-point tensors of a structure."""
    return tuple(
        x for x in keras.tree.flatten(structure) if tf.is_tensor(x) and x.dtype.is_floating
    )


def source_of(tensor: tf.Tensor) -> tf.Tensor:
    """Return what a traced tensor is a copy of, casts and identities left out."""
    while op_type(tensor) in COPIES:
        tensor = tensor.op.inputs[0]
    return tensor


def is_read_as_integers(tensor: tf.Tensor) -> bool:
    """Return whether a traced tensor of floats is cast to integers, such as an `Embedding`'s."""
    for operation in tensor.consumers():
        if operation.type in COPIES:
            copied = operation.outputs[0]
            if copied.dtype.is_integer or (
                copied.dtype.is_floating and is_read_as_integers(copied)
            ):
                return True
    return False


# Numbers of this size stand for "never" before a softmax.
MASK = 5e3


def mask_branch(kind: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> int | None:
    """Return which input of a selection is a large number, `None` of other operations.

    Args:
        kind: The type of an operation that `changed_outputs` gives.
        inputs: Its inputs.
        outputs: Its outputs, or what takes their place already: `None` is returned for this.
    """
    if kind != "SelectV2" or any(
        x is not y for x, y in zip(inputs, outputs[0].op.inputs, strict=False)
    ):
        return None
    for i in (1, 2):
        number = tf.get_static_value(inputs[i])
        if number is not None and number.size and float(np.abs(number).min()) >= MASK:
            return i
    return None


def op_type(tensor: tf.Tensor) -> str | None:
    """Return the type of the operation behind a tensor; `None` of one that holds its values.

    A model may hold such a constant and give it to a layer while it is traced.
    """
    operation = getattr(tensor, "op", None)
    return None if operation is None else operation.type
