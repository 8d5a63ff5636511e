"""Cross-layer equalization: channels of one size, in a model that computes the same."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import keras
import numpy as np

from keras_kd.models.calls import Call, Primitive, Trace, source_of
from keras_kd.models.graph import DEPTHWISE, kernel_axes, kernel_of
from keras_kd.quantizing.kernels import KERNEL_LAYERS, SEPARABLE
from keras_kd.quantizing.sites import activation_name, kernel_activation

_layers = keras.layers

# Positively homogeneous, f(a x) = a f(x) for a > 0: a scaled channel stays a scaled channel.
_HOMOGENEOUS = (
    _layers.MaxPooling1D, _layers.MaxPooling2D, _layers.AveragePooling1D,
    _layers.AveragePooling2D, _layers.GlobalMaxPooling1D, _layers.GlobalMaxPooling2D,
    _layers.GlobalAveragePooling1D, _layers.GlobalAveragePooling2D, _layers.ZeroPadding1D,
    _layers.ZeroPadding2D, _layers.Cropping1D, _layers.Cropping2D, _layers.UpSampling1D,
    _layers.UpSampling2D, _layers.Dropout, _layers.SpatialDropout1D, _layers.SpatialDropout2D,
    _layers.GaussianDropout, _layers.Identity, _layers.Flatten, _layers.LeakyReLU,
)  # fmt: skip
_SWEEPS = 20
_CONVERGED = 1e-3


def equalized(
    model: keras.Model, trace: Trace, given: Collection[Any] = ()
) -> list[tuple[keras.Variable, np.ndarray]]:
    """Return weights with which a model computes the same, and whose channels are of one size.

    Where a layer's channels go to one other layer through nothing but rectifiers, pooling and the
    like, channel `i` is divided by `s_i = sqrt(r1_i / r2_i)` in the first and multiplied by it in
    the second, so that its largest weights `r1_i` and `r2_i` become equal. A `BatchNormalization`
    is such a layer, too. Repeated until nothing changes.

    Args:
        model: The model, which is not changed.
        trace: A traced pass of it.
        given: Layers whose outputs are given beside the model's, and stay as they are. Defaults to
            none.

    Returns:
        The variables that change, with their values.

    Reference:
        Nagel et al., 2019, "Data-Free Quantization Through Weight Equalization and Bias
        Correction" (arXiv:1906.04721), section 4.1; biases are not absorbed, and an activation
        with an upper limit stays as it is.
    """
    values = _Values()
    pairs = _Chains(trace, given).pairs()
    for _ in range(_SWEEPS):
        largest = 0.0
        for first, second in pairs:
            gives, takes = first.sizes_of_outputs(values), second.sizes_of_inputs(values)
            takes = takes.reshape(-1, len(gives)).max(axis=0)
            known = (gives > 0.0) & (takes > 0.0)
            factors = np.sqrt(np.where(known, gives, 1.0) / np.where(known, takes, 1.0))
            first.divide_outputs(values, factors)
            second.multiply_inputs(values, factors)
            largest = max(largest, float(np.abs(np.log(factors)).max()))
        if largest < _CONVERGED:
            break
    return values.changed()


class _Values:
    """The values of variables, in float64, and which of them changed."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[Any, np.ndarray]] = {}

    def __call__(self, variable: Any) -> np.ndarray:
        if id(variable) in self._held:
            return self._held[id(variable)][1]
        return np.asarray(keras.ops.convert_to_numpy(variable.value), "float64")

    def scale(self, variable: Any, factors: np.ndarray, axes: Sequence[int] = (0,)) -> None:
        """Multiply a variable by a factor for every position of some axes."""
        values = self(variable)
        shape = [size if i in axes else 1 for i, size in enumerate(values.shape)]
        self._held[id(variable)] = (variable, values * factors.reshape(shape))

    def changed(self) -> list[tuple[keras.Variable, np.ndarray]]:
        return [(variable, values.astype("float32")) for variable, values in self._held.values()]


def _sizes(values: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    others = tuple(i for i in range(values.ndim) if i not in axes)
    return np.abs(values).max(axis=others).reshape(-1)


@dataclasses.dataclass(frozen=True)
class _Kernel:
    """A layer with a kernel, and the normalization that is folded into it."""

    layer: Any
    normalization: Any = None

    @property
    def _axes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The axes of inputs and of outputs."""
        rank = len(kernel_of(self.layer).shape)
        if isinstance(self.layer, DEPTHWISE):
            return (rank - 2,), (rank - 2, rank - 1)
        inputs, outputs = kernel_axes(self.layer, rank)
        return inputs or (), outputs

    def sizes_of_outputs(self, values: _Values) -> np.ndarray:
        sizes = _sizes(values(kernel_of(self.layer)), self._axes[1])
        if self.normalization is None:
            return sizes
        return sizes * _Normalization(self.normalization).sizes_of_outputs(values)

    def sizes_of_inputs(self, values: _Values) -> np.ndarray:
        return _sizes(values(kernel_of(self.layer)), self._axes[0])

    def divide_outputs(self, values: _Values, factors: np.ndarray) -> None:
        if self.normalization is not None:
            _Normalization(self.normalization).divide_outputs(values, factors)
            return
        values.scale(kernel_of(self.layer), 1.0 / factors, self._axes[1])
        if self.layer.bias is not None:
            values.scale(self.layer.bias, 1.0 / factors)

    def multiply_inputs(self, values: _Values, factors: np.ndarray) -> None:
        kernel, axes = kernel_of(self.layer), self._axes[0]
        # Behind `Flatten`, the channels repeat at every position.
        repeats = kernel.shape[axes[0]] // len(factors)
        values.scale(kernel, np.tile(factors, repeats), axes)


@dataclasses.dataclass(frozen=True)
class _Normalization:
    """A `BatchNormalization` with a scale, as a layer of one weight per channel."""

    layer: Any

    def sizes_of_outputs(self, values: _Values) -> np.ndarray:
        variance = values(self.layer.moving_variance)
        return np.abs(values(self.layer.gamma)) / np.sqrt(variance + self.layer.epsilon)

    sizes_of_inputs = sizes_of_outputs

    def divide_outputs(self, values: _Values, factors: np.ndarray) -> None:
        values.scale(self.layer.gamma, 1.0 / factors)
        if self.layer.beta is not None:
            values.scale(self.layer.beta, 1.0 / factors)

    def multiply_inputs(self, values: _Values, factors: np.ndarray) -> None:
        # Behind `Flatten`, the channels repeat at every position.
        factors = np.tile(factors, self.layer.gamma.shape[0] // len(factors))
        values.scale(self.layer.gamma, factors)
        values.scale(self.layer.moving_mean, 1.0 / factors)


_Part = _Kernel | _Normalization


class _Chains:
    """Finds the layers whose channels go to one other layer.

    Args:
        trace: A traced pass.
        given: Layers whose outputs are given, too.
    """

    def __init__(self, trace: Trace, given: Collection[Any]) -> None:
        calls = [call for call in trace.calls if not isinstance(call.operation, Primitive)]
        around = {id(call.parent) for call in trace.calls if call.parent is not None}
        calls = [call for call in calls if id(call) not in around and not _passes_on(call)]
        self._calls = calls
        self._times = collections.Counter(call.path for call in calls)
        self._users = collections.Counter(
            id(variable)
            for operation in {id(call.operation): call.operation for call in calls}.values()
            for variable in getattr(operation, "variables", ())
        )
        layers = {id(layer) for layer in given}
        read = [call for call in trace.calls if id(call.operation) in layers]
        outputs = [*trace.outputs, *(x for call in read for x in call.outputs)]
        self._outputs = {id(source_of(x)) for x in outputs}
        # What a layer gives whose calls are not seen could be anything.
        self._all_known = layers <= {id(call.operation) for call in read}
        self._consumers: dict[int, list[Call]] = collections.defaultdict(list)
        # Operations in the code of custom layers count as consumers, which are none of ours.
        for call in trace.calls:
            if id(call) not in around and not _passes_on(call):
                for tensor in {id(source_of(x)) for x in call.inputs}:
                    self._consumers[tensor].append(call)

    def pairs(self) -> list[tuple[_Part, _Part]]:
        """Return producers of channels with what takes them, in the order of the pass."""
        found: list[tuple[_Part, _Part]] = []
        folded: set[str] = set()
        for call in self._calls if self._all_known else ():
            if call.path in folded or not self._is_ours(call):
                continue
            following, first = self._next(call), self._part(call)
            if isinstance(first, _Kernel) and following is not None:
                activation = kernel_activation(call.operation)
                linear = activation is None
                normalization = self._part(following)
                if linear and isinstance(normalization, _Normalization):
                    first = _Kernel(call.operation, following.operation)
                    folded.add(following.path)
                    call, following = following, self._next(following)
                elif not linear and activation is not keras.activations.relu:
                    continue
            while following is not None and self._is_homogeneous(following):
                following = self._next(following)
            second = None if following is None else self._part(following)
            if first is not None and second is not None:
                found.append((first, second))
        return found

    def _is_ours(self, call: Call) -> bool:
        """Whether a layer is called once and shares no weights with another."""
        variables = getattr(call.operation, "variables", ())
        return self._times[call.path] == 1 and all(self._users[id(v)] == 1 for v in variables)

    def _part(self, call: Call) -> _Part | None:
        layer = call.operation
        if not self._is_ours(call) or getattr(layer, "data_format", None) == "channels_first":
            return None
        if isinstance(layer, _layers.BatchNormalization):
            last = layer.axis in (-1, len(call.inputs[0].shape) - 1)
            return _Normalization(layer) if last and layer.scale else None
        if not isinstance(layer, KERNEL_LAYERS) or isinstance(layer, SEPARABLE):
            return None
        if isinstance(layer, _layers.EinsumDense) or getattr(layer, "groups", 1) != 1:
            return None
        return _Kernel(layer)

    def _next(self, call: Call) -> Call | None:
        """Return the only call that takes the only output of a call."""
        if len(call.outputs) != 1:
            return None
        key = id(source_of(call.outputs[0]))
        consumers = self._consumers[key]
        return None if key in self._outputs or len(consumers) != 1 else consumers[0]

    def _is_homogeneous(self, call: Call) -> bool:
        if len(call.inputs) != 1:
            return False
        if getattr(call.operation, "data_format", None) == "channels_first":
            return False
        return isinstance(call.operation, _HOMOGENEOUS) or activation_name(call.operation) == "relu"


def _passes_on(call: Call) -> bool:
    """Whether a call returns what it was given, as `Dropout` does outside of training."""
    given = {id(source_of(x)) for x in call.inputs}
    return all(id(source_of(x)) in given for x in call.outputs)
