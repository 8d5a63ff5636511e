"""Quantization: a student that computes as its file of few bits will, without being changed."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd.losses.shared.masks import get_keras_mask, set_keras_mask
from keras_kd.models.calls import (
    MASK,
    OpenCalls,
    changed_attribute,
    changed_calls,
    op_type,
    operations_of,
    source_of,
)
from keras_kd.models.graph import (
    changed_outputs,
    input_tensors,
    is_graph,
    standardized_inputs,
)
from keras_kd.models.recurrent import recurrent_layers, steps_are_open, unrolled
from keras_kd.models.views import read_as
from keras_kd.quantizing.kernels import KernelRounding
from keras_kd.quantizing.primitives import (
    FIXED_PRIMITIVES,
    RECOMPUTED,
    is_rounded,
    without_mask,
)
from keras_kd.quantizing.ranges import Measure, Ranges, off_the_middle
from keras_kd.quantizing.sites import Site, Sites, kernel_activation
from keras_kd.system.quiet import without_retracing_warnings

# Layers that put a mask to numbers.
_MASKING = (keras.layers.Add, keras.layers.Multiply, keras.layers.Subtract)
_SAMPLE = 2**16  # values of a tensor that its range is taken from, in each batch


class Quantization:
    """Makes a student compute as its file will; the student's layers stay what they are.

    A view of the student (`keras_kd.models.views`).

    Args:
        model: The student.
        sites: Where its activations are quantized.
        ranges: Their ranges.
        rounding: What rounds its kernels. Defaults to `None`: they are rounded already.
        weights: Variables with the values that are read in their place. Defaults to none.
    """

    def __init__(
        self,
        model: keras.Model,
        sites: Sites,
        ranges: Ranges,
        rounding: KernelRounding | None = None,
        weights: Sequence[tuple[keras.Variable, Any]] = (),
    ) -> None:
        self.model = model
        self.sites = sites
        self.ranges = ranges
        self.rounding = rounding
        self.weights = list(weights)
        self._left = False
        self._operations = {**operations_of(model), _MODEL: model}
        self._variables = [
            (model.variables[s.output], s) for s in sites.sites if s.kind == "variable"
        ]
        self._by_call = {(s.path, s.call, s.output, s.kind): s for s in sites.sites}
        self._activated = {site.path for site in sites.sites if site.kind == "activation"}
        self._calls = OpenCalls()
        self._compiled: Callable[..., Any] | None = None
        self._mode = threading.local()
        self._lock = threading.RLock()
        self._open = 0
        self._hooks = contextlib.ExitStack()

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """The layer that holds the ranges."""
        return [self.ranges]

    @contextlib.contextmanager
    def applied(
        self, training: bool = False, collect: Callable[[Site, Any], None] | None = None
    ) -> Iterator[None]:
        """Let one call of the model inside the block compute in few bits.

        Args:
            training: Whether ranges follow what they see. Defaults to `False`.
            collect: Called as `collect(site, tensor)` in place of rounding. Defaults to `None`.
        """
        with self._changed(), contextlib.ExitStack() as stack:
            self._mode.now = (training, collect)
            stack.callback(setattr, self._mode, "now", None)
            yield

    @contextlib.contextmanager
    def _changed(self) -> Iterator[None]:
        """Change the calls while one pass or more is under way: replicas run in threads."""
        with self._lock:
            self._open += 1
            if self._open == 1:
                self._hooks.enter_context(changed_calls(self._operations, self._around))
                for path in self._activated:
                    layer = self._operations[path]
                    self._hooks.enter_context(
                        changed_attribute(layer, "activation", self._activation_of(layer))
                    )
        try:
            yield
        finally:
            with self._lock:
                self._open -= 1
                if self._open == 0:
                    self._hooks.close()

    def calibrate(self, batches: Iterable[Any], measure: Measure) -> None:
        """Set the ranges of all activations to those seen in some batches, in float.

        Args:
            batches: Batches of inputs.
            measure: Returns the range of a site from some of its values, the smallest and the
                largest among them.
        """
        seen: dict[str, list[np.ndarray]] = {}
        known = not any(steps_are_open(layer) for layer in recurrent_layers(self.model))

        @tf.function(autograph=False, reduce_retracing=True)
        def values_of(batch: Any) -> dict[str, tf.Tensor]:
            found: dict[str, list[tf.Tensor]] = {}

            def collect(site: Site, x: Any) -> None:
                if site.fixed is None:
                    found.setdefault(site.range_name, []).append(_some_values(x))

            with self.applied(collect=collect), unrolled(self.model, known):
                self.model(batch, training=False)
            return {name: tf.concat(values, 0) for name, values in found.items()}

        for batch in batches:
            with without_retracing_warnings():
                of_batch = values_of(batch)
            for name, values in of_batch.items():
                seen.setdefault(name, []).append(np.asarray(values))
        unseen = [s for s in self.sites.sites if s.kind == "input" and s.range_name not in seen]
        if seen and unseen:
            raise ValueError(
                f"The ranges of {len(unseen)} inputs of model '{self.model.name}' are not known: "
                "the data has no numbers for them. Received: batches of another structure than "
                "the model's inputs. Pass data in the structure in which the model takes it."
            )
        useless = set()
        changing = {site.range_name for site in self.sites.sites if not site.is_constant}
        for site in self.sites.sites:
            if site.range_name in seen:
                values = np.concatenate(seen[site.range_name])
                if self._may_leave(site) and _hides_all_others(values):
                    useless.add(site)
                exact = site.range_name not in changing
                low, high = (values.min(), values.max()) if exact else measure(values)
                if low >= 0.0 >= high:  # others than zero are rarer than what is left out
                    low, high = values.min(), values.max()
                low, high = min(float(low), 0.0), max(float(high), 0.0)
                if self.ranges.bits > 8:
                    low, high = min(low, -high), max(high, -low)
                else:
                    low, high = off_the_middle(low, high, self.ranges.bits)
                self.ranges.set_range(site, low, high)
        self._leave(useless)

    def _may_leave(self, site: Site) -> bool:
        """Whether a tensor may hold a mask: what an operation computes, or a layer like one."""
        operation = self._operations.get(site.path)
        layer = isinstance(operation, keras.layers.Layer) and not isinstance(operation, _MASKING)
        return site.is_primitive or (site.kind == "output" and not layer)

    def _leave(self, useless: Collection[Site]) -> None:
        """Leave tensors in float: those behind a mask of large numbers."""
        self._left = bool(useless)
        kept = tuple(site for site in self.sites.sites if site not in useless)
        self.sites = dataclasses.replace(self.sites, sites=kept)
        for site in useless:
            del self._by_call[site.path, site.call, site.output, site.kind]

    @property
    def left_in_float(self) -> bool:
        """Whether calibration left a tensor in float, because large numbers hide all others."""
        return self._left

    def to_json(self) -> dict[str, Any]:
        """Return everything but the student, as JSON can hold it."""
        return {
            "sites": [
                {**dataclasses.asdict(site), "fixed": site.fixed and list(site.fixed)}
                for site in self.sites.sites
            ],
            "folded": sorted(self.sites.folded),
            "scaled": sorted(self.sites.scaled),
            "activation_bits": self.ranges.bits,
            "ranges": self.ranges.to_json(),
        }

    def _around(
        self, path: str, operation: Any, call: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        if getattr(self._mode, "now", None) is None:
            return call(*args, **kwargs)
        if path == _MODEL and tf.executing_eagerly():
            return self._in_a_graph(call, args, kwargs)
        with self._calls.begun(path, operation) as index:
            if path == _MODEL:
                inputs, *others = args
                with self._rounded_variables(), changed_outputs(self._primitive):
                    return call(self._rounded_inputs(inputs, index), *others, **kwargs)
            args, kwargs = self._rounded((args, kwargs), path, index, "given")
            if path in self._activated:
                self._mode.activated = (path, index, 0, "activation")
            if (path, index, 0, "between") in self._by_call:
                x = args[0] if args else kwargs["inputs"]
                between = (path, index, 0, "between")
                outputs = _separated(operation, x, lambda x: self._at(between, x))
            elif (path, index, 0, "partial") in self._by_call:
                outputs = self._in_pairs(path, index, call, *args, **kwargs)
            elif path in self.sites.scaled and not self._mode.now[0]:
                outputs = _scaled(operation, args[0] if args else kwargs["inputs"])
            else:
                outputs = call(*args, **kwargs)
            self._mode.activated = None
            return self._rounded(outputs, path, index, "output")

    def _in_a_graph(self, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run the model in a graph of its own: only there are all operations seen."""

        def run(args: Any, kwargs: Any) -> Any:
            outputs = self._around(_MODEL, self.model, call, args, kwargs)
            return outputs, [get_keras_mask(x) for x in keras.tree.flatten(outputs)]

        if self._compiled is None:
            self._compiled = tf.function(run, autograph=False, reduce_retracing=True)
        with without_retracing_warnings():
            outputs, masks = self._compiled(args, kwargs)
        for x, mask in zip(keras.tree.flatten(outputs), masks, strict=True):
            if mask is not None:
                set_keras_mask(x, mask)
        return outputs

    def _rounded_variables(self) -> contextlib.AbstractContextManager[None]:
        values = [(variable, self._quantized(s, variable.value)) for variable, s in self._variables]
        values += self.weights
        if self.rounding is not None and self._mode.now[1] is None:
            values += self.rounding.rounded()
        return read_as(self.model, values) if values else contextlib.nullcontext()

    def _primitive(self, kind: str, inputs: Any, outputs: Any, graph: Any) -> Any:
        """Return what stands in place of the outputs of an operation of TensorFlow."""
        place = self._calls.place_of(kind, outputs, graph)
        site = None if place is None else self._by_call.get((*place, kind))
        if place is not None and site is not None:
            x = outputs[0]
            if kind == "Neg":  # which has no kernel for integers
                x = inputs[0] * -1.0
            elif kind in RECOMPUTED:
                keys = (*place, f"{kind}:0"), (*place, f"{kind}:1")
                if any(key in self._by_call for key in keys):
                    x = RECOMPUTED[kind](self._at(keys[0], inputs[0]), self._at(keys[1], inputs[1]))
            return [self._quantized(site, x)]
        if (masked := without_mask(kind, inputs, outputs)) is not None:
            return [masked]
        if kind in FIXED_PRIMITIVES and is_rounded(inputs[0]):  # the converter rounds it itself
            return [self.ranges.fixed(FIXED_PRIMITIVES[kind], outputs[0])]
        return None

    def _activation_of(self, layer: Any) -> Callable[[Any], Any]:
        """Return a layer's activation function, which is given rounded values in a pass."""
        activation = kernel_activation(layer) or keras.activations.linear

        def rounded(x: Any) -> Any:
            key = getattr(self._mode, "activated", None)
            return activation(x if key is None else self._at(key, x))

        return rounded

    def _in_pairs(self, path: str, index: int, call: Callable[..., Any], inputs: Any) -> Any:
        """Return a sum or the like of several inputs, rounded after each, as the file does it."""
        outputs = inputs[0]
        for i, x in enumerate(inputs[1:]):
            outputs = self._at((path, index, i - 1, "partial"), outputs)
            outputs = call([outputs, x])
        return outputs

    def _rounded(self, structure: Any, path: str, index: int, kind: str) -> Any:
        """Return a structure with its floating-point tensors rounded where there is a site."""
        flat = keras.tree.flatten(structure)
        position = 0
        for i, x in enumerate(flat):
            if tf.is_tensor(x) and x.dtype.is_floating:
                flat[i] = self._at((path, index, position, kind), x)
                position += 1
        return keras.tree.pack_sequence_as(structure, flat)

    def _rounded_inputs(self, inputs: Any, index: int) -> Any:
        """Return a batch as the model reads it, with its numbers rounded where there is a site."""
        if is_graph(self.model):
            inputs = standardized_inputs(self.model, inputs)
        flat = keras.tree.flatten(inputs)
        declared = keras.tree.flatten(input_tensors(self.model))
        for i, x in enumerate(flat):
            x = keras.ops.convert_to_tensor(x) if isinstance(x, np.ndarray) else x
            if tf.is_tensor(x) and x.dtype.is_integer and len(declared) == len(flat):
                dtype = tf.as_dtype(declared[i].dtype)
                x = tf.cast(x, dtype) if dtype.is_floating else x
            if tf.is_tensor(x) and x.dtype.is_floating:
                x = self._at((_MODEL, index, i, "input"), x)
            flat[i] = x
        return keras.tree.pack_sequence_as(inputs, flat)

    def _at(self, key: tuple[str, int, int, str], x: Any) -> Any:
        site = self._by_call.get(key)
        return x if site is None else self._quantized(site, x)

    def _quantized(self, site: Site, x: Any) -> Any:
        training, collect = self._mode.now
        if collect is not None:
            collect(site, x)
            return x
        if op_type(source_of(x)) == "OneHot":
            x = tf.nn.relu(x)  # the converter would give ONE_HOT integers, which it does not take
        return self.ranges.quantized(site, x, training)


_MODEL = ""


def _some_values(x: Any) -> tf.Tensor:
    """Return some values of a tensor, the smallest and the largest among them."""
    values = tf.reshape(tf.cast(x, tf.float32), [-1])
    stride = tf.maximum((tf.size(values) - 1) // _SAMPLE + 1, 1)
    extremes = tf.stack([tf.reduce_min(values), tf.reduce_max(values)])
    return tf.concat([values[::stride], extremes], 0)


def _hides_all_others(values: np.ndarray) -> bool:
    """Whether large numbers, such as the -1e9 of a mask, leave no steps for all others."""
    sizes = np.abs(values) / max(float(np.abs(values).max()), MASK)
    return bool((sizes > 0.5).any() and (sizes < 1e-3).any()) and not bool(
        ((sizes >= 1e-3) & (sizes <= 0.5)).any()
    )


def quantization_from_json(content: Mapping[str, Any], model: keras.Model) -> Quantization:
    """Make a quantization again from `to_json`, for a student whose kernels are rounded."""
    sites = Sites(
        tuple(
            Site(**{**site, "fixed": tuple(site["fixed"]) if site["fixed"] else None})
            for site in content["sites"]
        ),
        dict.fromkeys(content["folded"], ""),
        frozenset(content["scaled"]),
        {},
    )
    ranges = Ranges(sites.sites, content["activation_bits"])
    for site in sites.sites:
        if site.range_name in content["ranges"]:
            ranges.set_range(site, *content["ranges"][site.range_name])
    return Quantization(model, sites, ranges)


def _separated(layer: Any, x: Any, between: Callable[[Any], Any]) -> Any:
    """Return a separable convolution whose second kernel is given what `between` returns."""
    form, kernel = layer.data_format, layer.pointwise_kernel
    strides, dilation = layer.strides, layer.dilation_rate
    x = keras.ops.depthwise_conv(x, layer.depthwise_kernel, strides, layer.padding, form, dilation)
    x = between(x)
    flat = layer.rank == 1 and form == "channels_last"
    if flat:  # so that the bias becomes a part of the file's convolution
        x, kernel = keras.ops.expand_dims(x, 1), keras.ops.expand_dims(kernel, 0)
    x = keras.ops.conv(x, kernel, 1, "valid", form)
    if layer.use_bias:
        ones = (1,) * (2 if flat else layer.rank)
        shape = (1, *ones, -1) if form == "channels_last" else (1, -1, *ones)
        x = x + keras.ops.reshape(layer.bias, shape)
    if layer.activation is not None:
        x = layer.activation(x)
    return keras.ops.squeeze(x, 1) if flat else x


def _scaled(normalization: Any, x: tf.Tensor) -> tf.Tensor:
    """Return a normalization in inference mode as one depthwise convolution.

    Behind an activation the converter does not fold it; as a convolution it keeps an accumulator
    of 32 bits.
    """
    variance = tf.convert_to_tensor(normalization.moving_variance)
    scale = tf.math.rsqrt(variance + normalization.epsilon)
    if normalization.scale:
        scale *= tf.convert_to_tensor(normalization.gamma)
    offset = -tf.convert_to_tensor(normalization.moving_mean) * scale
    if normalization.center:
        offset += tf.convert_to_tensor(normalization.beta)
    kernel = tf.reshape(scale, [1, 1, -1, 1])
    outputs = tf.nn.depthwise_conv2d(tf.cast(x, tf.float32), kernel, [1, 1, 1, 1], "SAME")
    return tf.cast(tf.nn.bias_add(outputs, offset), x.dtype)
