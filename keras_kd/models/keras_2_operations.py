"""TensorFlow's functions in the graphs of Keras 2 (`TFOpLambda`), as operations of Keras 3."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

import keras
from keras import ops

from keras_kd.models.copying import clone_uncompiled, copy_layer, copy_state
from keras_kd.models.graph import flat_layers

_CONSTANT = "_CONSTANT_VALUE"
# Their states are inputs like the others in Keras 2.
_RECURRENT = ("Bidirectional", "ConvLSTM1D", "ConvLSTM2D", "GRU", "LSTM", "RNN", "SimpleRNN")


def translate_nodes(config: dict[str, Any]) -> None:
    """Write the nodes of a graph of Keras 2 in the form of Keras 3.

    Args:
        config: The configuration of a `Functional` model, which is changed.
    """
    layers = {layer["name"]: layer for layer in config["layers"]}
    nodes = [node for layer in layers.values() for node in layer["inbound_nodes"]]
    ends = [config[key] for key in ("input_layers", "output_layers")]
    references = list(_references([nodes, ends], layers))
    for name, layer in layers.items():
        # A nested model counts its own graph as its first node.
        own = [reference for reference in references if reference[0] == name]
        if own and max(r[1] for r in own) == len(layer["inbound_nodes"]) > 0:
            for reference in own:
                reference[1] -= 1
    for layer in layers.values():
        layer["inbound_nodes"] = [
            _node_of(node, layer["class_name"], layers) for node in layer["inbound_nodes"]
        ]
    for key in ("input_layers", "output_layers"):
        if isinstance(config[key], list) and len(config[key]) == 1:
            (config[key],) = config[key]


def _references(part: Any, names: Container[str]) -> Iterator[list[Any]]:
    if _is_reference(part, names):
        yield part
    if isinstance(part, (list, dict)):
        for inner in part.values() if isinstance(part, dict) else part:
            yield from _references(inner, names)


def _is_reference(part: Any, names: Container[str]) -> bool:
    """Whether a list is `[layer, node, tensor]`, perhaps with the other arguments behind it."""
    return (
        isinstance(part, list)
        and len(part) in (3, 4)
        and isinstance(part[0], str)
        and part[0] in names
        and all(isinstance(number, int) for number in part[1:3])
    )


def _node_of(node: Any, kind: str, names: Container[str]) -> dict[str, Any]:
    """Return a node: the tensors of the first argument, each with the other arguments behind it."""

    def tensors(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: tensors(inner) for key, inner in part.items()}
        if isinstance(part, list) and part and isinstance(part[0], str):
            others.update(part[3] if len(part) > 3 else {})
            return part[2] if part[0] == _CONSTANT else _tensor(part)
        return [tensors(inner) for inner in part]

    def revived(value: Any) -> Any:
        if _is_reference(value, names):
            return _tensor(value)
        if isinstance(value, list):
            return [revived(part) for part in value]
        return value

    others: dict[str, Any] = {}
    first = tensors(node)
    if kind in OPERATION_LAYERS:
        # By name, and apart: Keras takes no mixture of tensors and constants.
        given = {key: revived(value) for key, value in others.items()}
        constants = {key: value for key, value in given.items() if value == others[key]}
        given = {key: value for key, value in given.items() if key not in constants}
        return {"args": [], "kwargs": {"first": first, "given": given, "constants": constants}}
    others = {key: revived(value) for key, value in others.items() if value is not None}
    if isinstance(first, list) and (len(first) == 1 or kind in _RECURRENT):
        first, *state = first
        if state:
            others["initial_state"] = state
    return {"args": [first], "kwargs": others}


def _tensor(reference: Any) -> dict[str, Any]:
    # Only the history counts: the tensor of that node is put in its place.
    config = {"shape": [1], "dtype": "float32", "keras_history": list(reference[:3])}
    return {"class_name": "__keras_tensor__", "config": config}


class _Operation(keras.layers.Layer):
    """Stands for a function of TensorFlow while a file is loaded."""

    def __init__(self, function: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.function = function

    def call(self, first: Any, given: Any = None, constants: Any = None) -> Any:
        kwargs = {**(given or {}), **(constants or {})}
        kwargs.pop("name", None)
        try:
            return FUNCTIONS[self.function](first, **kwargs)
        except TypeError as error:
            raise ValueError(
                f"the layer '{self.name}' calls TensorFlow's function `{self.function}` with an "
                f"argument that has no equal in Keras 3: {error}"
            ) from None

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "function": self.function}


OPERATION_LAYERS: dict[str, Any] = {"TFOpLambda": _Operation, "SlicingOpLambda": _Operation}


def inline_operations(model: Any) -> Any:
    """Return a model with Keras's own operations in place of the layers that stood for them."""
    if not _has_operations(model):
        return model
    if isinstance(model, keras.Sequential):
        layers = [_inlined(layer) if _has_operations(layer) else layer for layer in model.layers]
        inputs = keras.Input(batch_shape=model.input_shape, dtype=model.inputs[0].dtype)
        return keras.Sequential([inputs, *layers], name=model.name)

    def copy(layer: Any) -> Any:
        if _has_operations(layer) and not isinstance(layer, _Operation):
            return _inlined(layer)
        return copy_layer(layer)

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer, _Operation):
            return layer.call(*args, **kwargs)
        return layer(*args, **kwargs)

    clone = clone_uncompiled(model, copy, call)
    for layer in model.layers:
        if layer.weights and not _has_operations(layer):  # which are copied inside
            copy_state(layer, clone.get_layer(layer.name))
    return clone


def _inlined(layer: Any) -> Any:
    """Return a model, or a layer around a model, with Keras's own operations in it."""
    if isinstance(layer, keras.Model):
        return inline_operations(layer)
    config = {key: value for key, value in layer.get_config().items() if key != "layer"}
    return type(layer)(inline_operations(layer.layer), **config)


def _has_operations(layer: Any) -> bool:
    is_layer = isinstance(layer, keras.layers.Layer)  # of Keras 3's graphs also operations
    return is_layer and any(isinstance(part, _Operation) for part in flat_layers(layer))


def _binary(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(x: Any, y: Any) -> Any:
        # Constants of several numbers are lists in the file.
        if isinstance(x, list):
            x = ops.convert_to_tensor(x, y.dtype)
        return function(x, ops.convert_to_tensor(y, x.dtype) if isinstance(y, list) else y)

    return call


def _reduction(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, axis=None, keepdims=False: function(x, axis=axis, keepdims=keepdims)


def _matmul(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False) -> Any:
    a = ops.swapaxes(a, -1, -2) if transpose_a else a
    return ops.matmul(a, ops.swapaxes(b, -1, -2) if transpose_b else b)


def _transpose(x: Any, perm: Any = None, conjugate: bool = False) -> Any:
    if conjugate:
        raise TypeError("conjugate=True")
    return ops.transpose(x, perm)


def _pad(x: Any, paddings: Any, mode: str = "CONSTANT", constant_values: Any = 0) -> Any:
    mode = mode.lower()
    return ops.pad(x, paddings, mode, constant_values if mode == "constant" else None)


def _slice(x: Any, slice_spec: Any) -> Any:
    def part(spec: Any) -> Any:
        if isinstance(spec, Mapping):
            if spec.get("class_name") == "__ellipsis__":
                return Ellipsis
            return slice(*(spec.get(key) for key in ("start", "stop", "step")))
        return spec

    spec = slice_spec if isinstance(slice_spec, (list, tuple)) else [slice_spec]
    return x[tuple(part(each) for each in spec)]


def _add_n(inputs: Any) -> Any:
    total = inputs[0]
    for each in inputs[1:]:
        total = ops.add(total, each)
    return total


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "__operators__.getitem": _slice,
    "cast": lambda x, dtype: ops.cast(x, dtype),
    "clip_by_value": lambda x, clip_value_min, clip_value_max: ops.clip(
        x, clip_value_min, clip_value_max
    ),
    "concat": lambda values, axis: ops.concatenate(values, axis),
    "expand_dims": lambda x, axis: ops.expand_dims(x, axis),
    "identity": lambda x: x,
    "linalg.matmul": _matmul,
    "math.add_n": _add_n,
    "math.l2_normalize": lambda x, axis=None, epsilon=1e-12: ops.divide(
        x, ops.sqrt(ops.maximum(ops.sum(ops.square(x), axis=axis, keepdims=True), epsilon))
    ),
    "math.squared_difference": lambda x, y: ops.square(ops.subtract(x, y)),
    "nn.gelu": lambda x, approximate=False: ops.gelu(x, approximate),
    "nn.leaky_relu": lambda x, alpha=0.2: ops.leaky_relu(x, alpha),
    "nn.log_softmax": lambda x, axis=-1: ops.log_softmax(x, -1 if axis is None else axis),
    "nn.silu": lambda x, beta=1.0: ops.multiply(x, ops.sigmoid(ops.multiply(x, beta))),
    "nn.softmax": lambda x, axis=-1: ops.softmax(x, -1 if axis is None else axis),
    "pad": _pad,
    "reshape": lambda x, shape: ops.reshape(x, shape),
    "stack": lambda values, axis=0: ops.stack(values, axis),
    "squeeze": lambda x, axis=None: ops.squeeze(x, tuple(axis) if isinstance(axis, list) else axis),
    "tile": lambda x, multiples: ops.tile(x, multiples),
    "transpose": _transpose,
    **{
        f"math.{name}": _binary(function)
        for name, function in {
            "add": ops.add, "subtract": ops.subtract, "multiply": ops.multiply,
            "divide": ops.divide, "truediv": ops.true_divide, "floordiv": ops.floor_divide,
            "floormod": ops.mod, "pow": ops.power, "maximum": ops.maximum,
            "minimum": ops.minimum, "equal": ops.equal, "not_equal": ops.not_equal,
            "greater": ops.greater, "greater_equal": ops.greater_equal, "less": ops.less,
            "less_equal": ops.less_equal, "logical_and": ops.logical_and,
            "logical_or": ops.logical_or,
        }.items()
    },
    **{
        f"math.reduce_{name}": _reduction(function)
        for name, function in {
            "mean": ops.mean, "sum": ops.sum, "max": ops.max, "min": ops.min, "prod": ops.prod,
        }.items()
    },
    **{
        name: lambda x, function=function: function(x)
        for names, function in {
            ("abs", "math.abs"): ops.abs, ("math.ceil",): ops.ceil, ("math.cos",): ops.cos,
            ("math.erf",): ops.erf, ("exp", "math.exp"): ops.exp, ("math.expm1",): ops.expm1,
            ("math.floor",): ops.floor, ("math.log",): ops.log, ("math.log1p",): ops.log1p,
            ("math.negative",): ops.negative, ("math.reciprocal",): ops.reciprocal,
            ("math.round",): ops.round, ("math.rsqrt",): ops.rsqrt,
            ("math.sigmoid", "nn.sigmoid", "sigmoid"): ops.sigmoid, ("math.sign",): ops.sign,
            ("math.sin",): ops.sin, ("math.softplus", "nn.softplus"): ops.softplus,
            ("math.sqrt",): ops.sqrt, ("math.square",): ops.square,
            ("math.tanh", "nn.tanh", "tanh"): ops.tanh, ("nn.elu",): ops.elu,
            ("nn.relu",): ops.relu, ("nn.relu6",): ops.relu6, ("nn.selu",): ops.selu,
            ("nn.softsign",): ops.softsign, ("ones_like",): ops.ones_like,
            ("stop_gradient",): ops.stop_gradient, ("zeros_like",): ops.zeros_like,
        }.items()
        for name in names
    },
}  # fmt: skip
FUNCTIONS |= {
    "__operators__.add": FUNCTIONS["math.add"],
    "compat.v1.pad": _pad,
    "compat.v1.squeeze": FUNCTIONS["squeeze"],
    "compat.v1.transpose": _transpose,
    "nn.swish": FUNCTIONS["nn.silu"],
    "nn.l2_normalize": FUNCTIONS["math.l2_normalize"],
}
