"""QuantizeAware: train a student for few bits."""

from __future__ import annotations

import collections
import fnmatch
import functools
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_kd.compression.running.teaching import as_dataset
from keras_kd.compression.stages.stage import Plan, Stage, StudentState
from keras_kd.data.taught_inputs import student_inputs
from keras_kd.models.calls import has_own_code, operations_of, trace_calls
from keras_kd.models.graph import input_tensors
from keras_kd.models.layer_choice import EXCLUDED
from keras_kd.models.layer_plan import LayerPlan, Reason
from keras_kd.models.layers import leaf_layers, paths_above
from keras_kd.quantizing.biases import bake_biases
from keras_kd.quantizing.kernels import (
    KERNEL_LAYERS,
    KernelRounding,
    QuantizedKernel,
    quantizable_kernels,
    takes_4_bits,
)
from keras_kd.quantizing.quantization import Quantization
from keras_kd.quantizing.ranges import RANGES, Ranges, measure_of
from keras_kd.quantizing.sites import Sites, find_sites
from keras_kd.system.arguments import number
from keras_kd.system.names import did_you_mean, one_of

_INSIDE = Reason(
    "quantizers stand around it, not inside of it",
    "pass `representative_data` to `export_tflite`, which then calibrates the rest",
)
_GATES = Reason(
    "its kernels have few bits, its gates and states are float",
    "pass `representative_data` to `export_tflite`, which then calibrates the rest",
)
_SCALED = "8-bit depthwise convolution"
# Only what is excluded stays float where the rest is calibrated.
_UNTRAINED = "an int8 file may round it all the same"
# What is made of several operators in the file, between which there is no quantizer.
_COMPOSED = (
    "LayerNormalization", "RMSNormalization", "GroupNormalization", "UnitNormalization",
    "MultiHeadAttention", "GroupedQueryAttention", "Attention", "AdditiveAttention",
    "Bidirectional", "RNN", "ConvLSTM2D",
)  # fmt: skip


@keras.saving.register_keras_serializable(package="keras_kd")
class QuantizeAware(Stage):
    """Trains a student while few bits of weights and activations are emulated, with TF-MOT.

    The student stays the same Keras 3 model: no layer is added, wrapped or renamed. During
    training, TF-MOT's quantizers round its kernels, and the outputs of its layers are rounded to
    their ranges. Any model works: functional, sequential, nested or subclassed, with custom layers.
    Layers inside attention and custom layers are quantized too. The initial ranges of activations
    come from a few training batches.

    Afterwards the kernels hold the rounded values, and the `CompressedModel` and its file hold the
    ranges. `export_tflite(..., "int8")` writes them as they were trained, without representative
    data; the other formats hold the trained weights.

    Zeros of a pruned student stay zero. Weights that a `Cluster` stage of the same `compress` made
    share a value still share it, and the file has one integer per shared value.

    Args:
        epochs: Number of epochs of training; with 0 the ranges are calibrated and the weights
            rounded. Defaults to `1`.
        calibration_batches: Number of training batches for the initial ranges. Defaults to `10`.
        optimizer: As in `Stage`. Defaults to `None`: Adam.
        learning_rate: As in `Stage`. Defaults to `None`: `1e-4`.
        name: As in `Stage`. Defaults to `"quantize_aware"`.
        weight_bits: Bits of a weight, `8` or `4`, or a dictionary of them by name, path or pattern
            of layers; all others have 8. Kernels that an `"int4"` file holds in 8 bits are trained
            for 8: depthwise, transposed and recurrent ones, and those of fewer than 1,024 values.
            Defaults to `8`.
        activation_bits: Bits of an activation, `8` or `16`. Defaults to `8`.
        ranges: How ranges are found. `"minmax"` follows a moving average. `"percentile"` (99.99 %
            of the values) and `"mse"` (the smallest squared error) stay as calibrated. `"learned"`
            starts from `"mse"` and is trained by gradient descent. Defaults to `"percentile"`.
        layers: The layers to quantize, as in `Stage`. Defaults to `None`: all.
        exclude: The layers that stay float, as in `Stage`. Defaults to `None`: none.
        weight_quantizer: A function `bits -> quantizer` that returns a
            `tfmot.quantization.keras.quantizers.Quantizer` for kernels as matrices with a column
            per channel. Defaults to `None`: `LastValueQuantizer`.
        activation_quantizer: The same for activations. Defaults to `None`:
            `MovingAverageQuantizer`.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    compressed = keras_kd.compress(
        distiller,
        train,
        validation_data=validation,
        stages=[keras_kd.Prune(0.75, epochs=4), keras_kd.QuantizeAware(epochs=2)],
    )
    keras_kd.export_tflite(compressed, "exports/student.tflite", quantization="int8")
    ```

    References:
        Jacob et al., Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference, 2018, arXiv:1712.05877.
        Choi et al., PACT: Parameterized Clipping Activation for Quantized Neural Networks, 2018,
        arXiv:1805.06085 (`ranges="learned"`; here both ends are learned).
    """

    default_learning_rate = 1e-4
    unsaved = ("weight_quantizer", "activation_quantizer")

    def __init__(
        self,
        epochs: int = 1,
        calibration_batches: int = 10,
        optimizer: Any = None,
        learning_rate: Any = None,
        name: str | None = None,
        *,
        weight_bits: int | Mapping[str, int] = 8,
        activation_bits: int = 8,
        ranges: str = "percentile",
        layers: Any = None,
        exclude: Any = None,
        weight_quantizer: Callable[[int], Any] | None = None,
        activation_quantizer: Callable[[int], Any] | None = None,
    ) -> None:
        super().__init__(epochs, optimizer, learning_rate, name, layers, exclude)
        self.calibration_batches = number(
            "calibration_batches", calibration_batches, least=1, whole=True, owner="QuantizeAware"
        )
        given = weight_bits.values() if isinstance(weight_bits, Mapping) else [weight_bits]
        for bits in given:
            one_of("weight_bits", bits, (8, 4), owner="QuantizeAware")
        one_of("activation_bits", activation_bits, (8, 16), owner="QuantizeAware")
        one_of("ranges", ranges, RANGES, owner="QuantizeAware")
        self.weight_bits = weight_bits
        self.activation_bits = activation_bits
        self.ranges = ranges
        self.weight_quantizer = weight_quantizer
        self.activation_quantizer = activation_quantizer

    def make_plan(self, student: keras.Model, earlier: Sequence[Stage]) -> Plan:
        """Decide what has few bits, what is folded and what stays float."""
        operations = operations_of(student)
        known = _known(student)
        reasons = {path: self._spared(path, known) for path in operations}
        spared = {path: reason for path, reason in reasons.items() if reason is not None}
        self.choice.check(student, {})
        self._check_weight_bits(operations)
        kernels = self._kernels(student, spared)
        if not kernels:
            raise ValueError(
                f"QuantizeAware finds no kernel to quantize in model '{student.name}'. It "
                f"quantizes {', '.join(kind.__name__ for kind in KERNEL_LAYERS)}, Embedding and "
                "recurrent layers, and those inside of other layers. Leave this stage out and "
                'export with quantization="int8", which needs no training.'
            )
        specs = keras.tree.map_structure(
            lambda x: tf.TensorSpec(x.shape, x.dtype), input_tensors(student)
        )
        sites = find_sites(trace_calls(student, specs), spared)
        layers = self._layer_plans(student, known, kernels, sites)
        # A layer of several nested models is quantized once, under one of its paths.
        owners = {id(operation): path for path, operation in operations.items()}
        leaves = leaf_layers(student)
        times = collections.Counter(id(layer) for _, layer in leaves)
        for path, layer in leaves:
            if times[id(layer)] > 1 and owners.get(id(layer)) in layers:
                layers[path] = layers[owners[id(layer)]]
        return Plan(layers, functools.partial(self._apply, spared, sites, layers))

    def _layer_plans(
        self,
        student: keras.Model,
        known: Mapping[str, Any],
        kernels: Sequence[QuantizedKernel],
        sites: Sites,
    ) -> dict[str, LayerPlan]:
        bits = {kernel.path: kernel.bits for kernel in kernels}
        plan: dict[str, LayerPlan] = {}
        computed = {site.path for site in sites.sites if site.is_primitive}
        for path, layer in leaf_layers(student):
            found = {bits[p] for p in bits if p == path or p.startswith(f"{path}/")}
            own = has_own_code(layer) and any(
                p == path or p.startswith(f"{path}/") for p in computed
            )
            if path in sites.folded:
                plan[path] = LayerPlan("fold")
            elif path in sites.scaled:
                plan[path] = LayerPlan(_SCALED)
            elif (reason := self._spared(path, known)) is not None:
                rounded = "" if reason == EXCLUDED else f"; {_UNTRAINED}"
                plan[path] = LayerPlan.spared(f"{reason}{rounded}", "float")
            elif found and isinstance(layer, (keras.layers.RNN, keras.layers.Bidirectional)):
                plan[path] = LayerPlan.spared(_GATES, _action(found))
            elif type(layer).__name__ in _COMPOSED or (found and path not in bits and not own):
                plan[path] = LayerPlan.spared(_INSIDE, _action(found) if found else "float")
            elif found or own:
                plan[path] = LayerPlan(_action(found or {8}))
            elif layer.weights and not isinstance(layer, keras.layers.InputLayer):
                plan[path] = LayerPlan.spared(_INSIDE, "float")
        return plan

    def _apply(
        self,
        spared: Mapping[str, str],
        sites: Sites,
        layers: Mapping[str, LayerPlan],
        state: StudentState,
        teaching: Any,
    ) -> None:
        kernels = self._kernels(state.model, spared, state.pruned, state.clustered)
        with teaching.keras_trainer(state, self.make_optimizer) as trainer:
            quantization = Quantization(
                state.model,
                sites,
                Ranges(sites.sites, self.activation_bits, self.ranges, self.activation_quantizer),
                KernelRounding(kernels, self.weight_quantizer),
            )
            batches = itertools.islice(
                iter(as_dataset(teaching.examples)), self.calibration_batches
            )
            quantization.calibrate(
                (
                    student_inputs(keras.utils.unpack_x_y_sample_weight(batch)[0])
                    for batch in batches
                ),
                measure_of(self.ranges, self.activation_bits),
            )
            trainer.look_through(quantization)
            state.history[self.name] = teaching.fit(trainer, self.epochs)
        if quantization.rounding is not None:
            quantization.rounding.bake()
            if self.activation_bits == 8:
                bake_biases(
                    operations_of(state.model), quantization.sites, quantization.ranges, kernels
                )
        state.quantization_aware = True
        state.quantization = quantization.to_json()
        state.quantization["weight_bits"] = {kernel.path: kernel.bits for kernel in kernels}
        known = _known(state.model)
        state.quantization["excluded"] = [
            path
            for path, _ in leaf_layers(state.model)
            if self.choice.exclude is not None and self._spared(path, known) == EXCLUDED
        ]
        self._take_notes(state, kernels, layers)

    def gentler(self) -> Stage | None:
        """Return a stage of twice as many epochs; one that is not trained has none."""
        return self.with_epochs(2 * self.epochs) if self.epochs else None

    def _kernels(
        self,
        student: keras.Model,
        spared: Mapping[str, str],
        pruned: bool = False,
        clustered: Mapping[str, str] | None = None,
    ) -> list[QuantizedKernel]:
        return quantizable_kernels(
            operations_of(student),
            lambda path, layer: None if path in spared else self._bits(path, layer),
            pruned,
            clustered,
        )

    def _spared(self, path: str, known: Mapping[str, Any]) -> str | None:
        """Return why a layer stays float, for itself or for a layer that it is inside of."""
        reasons = [
            self.choice.reason_to_spare(p, known.get(p, _Named(p))) for p in paths_above(path)
        ]
        if self.choice.layers is not None and any(reason is None for reason in reasons):
            return None
        return next((reason for reason in reasons if reason is not None), None)

    def _bits(self, path: str, layer: Any) -> int:
        given = self.weight_bits
        if not isinstance(given, Mapping):
            bits = given
        else:
            matching = (bits for pattern, bits in given.items() if _matches(pattern, path))
            bits = next(matching, 8)
        return bits if takes_4_bits(layer) else 8

    def _check_weight_bits(self, paths: Collection[str]) -> None:
        """Refuse a name in `weight_bits` that no layer has."""
        for pattern in self.weight_bits if isinstance(self.weight_bits, Mapping) else ():
            if not any(_matches(pattern, path) for path in paths):
                raise ValueError(
                    f"`weight_bits` has a name that matches no layer. Received: {pattern!r}."
                    f"{did_you_mean(pattern, [p.rsplit('/', 1)[-1] for p in paths])}"
                )

    def _take_notes(
        self,
        state: StudentState,
        kernels: Sequence[QuantizedKernel],
        plan: Mapping[str, LayerPlan],
    ) -> None:
        for path, layer in plan.items():
            note = state.note(path)
            bits = [k.bits for k in kernels if k.path == path or k.path.startswith(f"{path}/")]
            if bits:
                note.done.append(
                    f"trained for {_action(set(bits)).replace(' bits', '-bit')} weights"
                )
                note.bits = max(bits)
            elif layer.action.endswith("bits"):
                note.done.append(f"what it computes was trained for {layer.action}")
            if layer.action == "fold":
                note.done.append("folded into the layer before it")
            elif layer.action == _SCALED:
                note.done.append("written as a depthwise convolution of 8-bit weights")
            elif layer.reason:
                note.not_done.append(f"{'partly' if bits else 'stays'} float: {layer.reason}")


def _known(student: keras.Model) -> dict[str, Any]:
    """Return layers and operations by path, also those that hold others."""
    return {**dict(leaf_layers(student)), **operations_of(student)}


class _Named:
    """A layer that only its path is known of."""

    def __init__(self, path: str) -> None:
        self.name = path.rpartition("/")[2]


def _action(bits: set[int]) -> str:
    return f"{' and '.join(map(str, sorted(bits, reverse=True)))} bits"


def _matches(pattern: str, path: str) -> bool:
    """Whether a pattern is for a layer: by its path or name, or those of a layer around it."""
    names = [name for above in paths_above(path) for name in (above, above.rsplit("/", 1)[-1])]
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)
