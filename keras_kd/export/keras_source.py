"""A Keras 3 model on its way to a SavedModel."""

from __future__ import annotations

import contextlib
import copy
import os
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd.data.input import Input
from keras_kd.data.numpy_batches import safe_name
from keras_kd.export.layer_calls import calls_for_tflite
from keras_kd.export.refusals import LOOKUPS, lookups
from keras_kd.export.signatures import (
    DEFAULT_SIGNATURE,
    Signature,
    Target,
    call_target,
    check_layers,
    given_layers,
    gives_outputs,
)
from keras_kd.export.tracing import as_float32, masks_in_range, reshapes_by_batch
from keras_kd.losses.shared.masks import get_keras_mask
from keras_kd.measuring.metrics import is_of_errors
from keras_kd.models.calls import changed_calls, operations_of, source_of
from keras_kd.models.graph import flat_layers, input_tensors, named_for_files, scope_for_files
from keras_kd.models.layers import leaf_operations
from keras_kd.models.outputs import name_outputs
from keras_kd.models.probabilities import last_activation
from keras_kd.models.recurrent import (
    initial_state,
    recurrent_layers,
    steps_are_open,
    unrolled,
    without_state,
)


class KerasSource:
    """A Keras 3 model on its way to a SavedModel: inference only, in float32.

    Args:
        model: A built Keras 3 model.
        signatures: What each signature gives, by its name. Defaults to `None`: the model's own
            outputs under `"serving_default"`.
        applied: Returns a context in which the model computes with trained ranges. Defaults to
            `None`: it holds none.
        weight_bits: The bits that kernels were trained for, by the path of their layer. Defaults
            to `None`: none.
        clustered: The paths of layers whose kernels share values as a whole. Defaults to none.
        excluded: Paths of the layers that quantization-aware training left in float. Defaults to
            none.

    Attributes:
        quantization_aware: Whether it computes with trained ranges.
        calibrated: Whether other ranges are taken from data. Defaults to `False`.
        excluded: As given.

    Raises:
        ValueError: If the model is not built, is a distiller, was quantized by Keras, looks up
            words in tables or lacks a layer which a signature names.
    """

    def __init__(
        self,
        model: keras.Model,
        signatures: Mapping[str, Target] | None = None,
        applied: Callable[[], AbstractContextManager[None]] | None = None,
        weight_bits: Mapping[str, int] | None = None,
        clustered: Collection[str] = (),
        excluded: Sequence[str] = (),
    ) -> None:
        if hasattr(model, "student") and hasattr(model, "teacher"):
            raise ValueError(
                "`model` is a Distiller, which holds a teacher and a student. "
                "Export its student: export_tflite(distiller.student, ...)."
            )
        quantized = [
            layer.name
            for layer in flat_layers(model)
            if getattr(layer, "quantization_mode", None) is not None
        ]
        if quantized:
            raise ValueError(
                f"The model was quantized by keras.Model.quantize (layers {quantized[:5]}), which "
                "the TFLite converter does not accept. Export the model before that call, with "
                '`quantization="int8"`.'
            )
        tables = [x.name for x in flat_layers(model) if type(x).__name__ in LOOKUPS]
        if tables:
            raise ValueError(lookups(tables))
        self.model = model
        self.quantization_aware = applied is not None
        self.calibrated = False
        self.weight_bits = weight_bits or {}
        self._clustered = clustered
        self._applied = applied or contextlib.nullcontext
        self._unrounded: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
        self._targets = dict(signatures or {DEFAULT_SIGNATURE: None})
        self.excluded = tuple(excluded)
        self._last: Any = None
        check_layers(model, self._targets)
        self._struct = input_tensors(model)
        tensors = keras.tree.flatten(self._struct)
        names = _names_in_file(_input_names(self._struct), "inputs", model)
        self.inputs = tuple(
            Input(name, tuple(t.shape), np.dtype(t.dtype))
            for name, t in zip(names, tensors, strict=True)
        )

    def kernels(self) -> list[np.ndarray]:
        """Return all kernels of the model."""
        weights = [weight for weight in self.model.weights if len(weight.shape) > 1]
        return [np.asarray(weight.value) for weight in weights]

    def clustered_kernels(self) -> list[np.ndarray]:
        """Return the kernels that share values as a whole; depthwise ones are never clustered."""
        operations = operations_of(self.model) if self._clustered else {}
        depthwise = {
            id(layer.kernel)
            for layer in operations.values()
            if isinstance(layer, (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D))
        }
        return [
            np.asarray(weight.value)
            for path in self._clustered
            for weight in getattr(operations.get(path), "weights", ())
            if len(weight.shape) > 1
            and weight.name != "depthwise_kernel"
            and id(weight) not in depthwise
        ]

    def in_float(self) -> KerasSource:
        """Return the same model without its trained ranges."""
        if not self.quantization_aware:
            return self
        plain = self.seen_through(self._unrounded, self._unrounded)
        plain.quantization_aware = False
        return plain

    def seen_through(
        self,
        applied: Callable[[], AbstractContextManager[None]],
        unrounded: Callable[[], AbstractContextManager[None]],
    ) -> KerasSource:
        """Return the same model as it computes with ranges that were found for it.

        Args:
            applied: Returns a context in which it does.
            unrounded: Returns one in which it computes the same in float.
        """
        other = copy.copy(self)
        other._applied, other._unrounded, other._last = applied, unrounded, None
        other.quantization_aware = True
        return other

    @property
    def signature_names(self) -> list[str]:
        """Names of the signatures, the first one's first."""
        return list(self._targets)

    @property
    def given_layers(self) -> list[Any] | None:
        """The layers whose outputs signatures give; `None` if a function gives something else."""
        return given_layers(self.model, self._targets)

    def write(
        self, folder: pathlib.Path, batch_sizes: Mapping[str, int | None], unroll: bool
    ) -> dict[str, Signature]:
        """Write the SavedModel.

        Args:
            folder: An empty folder.
            batch_sizes: Size of every signature's batch dimension, `None` for any.
            unroll: Whether recurrent layers are unrolled over time.

        Returns:
            Every signature by its name.
        """
        functions, signatures = self._traced(batch_sizes, unroll)
        module = tf.Module()
        variables = [v.value for v in self.model.variables]
        known = {id(variable) for variable in variables}
        for function in functions.values():  # a function may use more than the model
            variables += [v for v in function.graph.variables if id(v) not in known]
        module.tracked_variables = variables
        # Gradients are of no use to the converter, and are traced for every activation.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        with named_for_files(self.model), initial_state(self.model):
            tf.saved_model.save(module, os.fspath(folder), signatures=functions, options=options)
        return signatures

    def keeps_state(self, batch_sizes: Mapping[str, int | None], unroll: bool) -> bool:
        """Whether a file of these batch sizes assigns to variables; see `write`."""
        functions, _ = self._traced(batch_sizes, unroll)
        graphs = [function.graph for function in functions.values()]
        return any(o.type.startswith("Assign") for graph in graphs for o in graph.get_operations())

    def needs_batch_size(self, batch_sizes: Mapping[str, int | None], unroll: bool) -> bool:
        """Whether a file of these batch sizes surely computes one while running; see `write`."""
        functions, _ = self._traced(batch_sizes, unroll)
        return any(reshapes_by_batch(function.graph) for function in functions.values())

    @property
    def answering(self) -> str:
        """Name of the signature that gives the model's own outputs; else of the first one."""
        own = getattr(self.model, "output_names", None) or ()
        found = (key for key, target in self._targets.items() if gives_outputs(target, own))
        return next(found, self.signature_names[0])

    def predict(
        self, inputs: Mapping[str, np.ndarray], signature: str | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return the outputs of a signature, in float32, and their Keras masks, by name.

        Args:
            inputs: Arrays by input name.
            signature: The signature. Defaults to `None`: the first one.
        """
        target = self._targets[signature or self.signature_names[0]]
        with as_float32(self.model), self._applied(), without_state(self.model):
            outputs = call_target(self.model, target, self.structure(inputs))
        named = {safe_name(name): tensor for name, tensor in outputs.items()}
        masks = {name: get_keras_mask(tensor) for name, tensor in named.items()}
        return (
            {name: np.asarray(tensor) for name, tensor in named.items()},
            {name: np.asarray(mask) for name, mask in masks.items() if mask is not None},
        )

    def ends(self, signature: str | None = None) -> dict[str, str | None]:
        """Return what the graph says of the model's own outputs by name: see `last_activation`.

        Args:
            signature: The signature that gives them. Defaults to `None`: the first one.
        """
        own = self._targets[signature or self.signature_names[0]] is None
        ends = last_activation(self.model) if own else None
        named = {} if ends is None else name_outputs(self.model, ends)
        return {safe_name(name): end for name, end in named.items()}

    def minimizes_errors(self, output: str) -> bool:
        """Whether the model was compiled with a loss of errors, as the squared one, for an output.

        Args:
            output: The output's name.
        """
        loss = getattr(self.model, "loss", None)
        names = [safe_name(name) for name in getattr(self.model, "output_names", None) or ()]
        if isinstance(loss, Mapping):
            loss = {safe_name(str(key)): part for key, part in loss.items()}.get(output)
        elif isinstance(loss, (list, tuple)):
            loss = dict(zip(names, loss, strict=False)).get(output)
        return loss is not None and is_of_errors(loss)

    def structure(self, inputs: Mapping[str, Any]) -> Any:
        """Return inputs by name in the structure in which the model takes them, as tensors."""
        tensors = [tf.convert_to_tensor(inputs[i.name]) for i in self.inputs]
        return keras.tree.pack_sequence_as(self._struct, tensors)

    def _traced(
        self, batch_sizes: Mapping[str, int | None], unroll: bool
    ) -> tuple[dict[str, Any], dict[str, Signature]]:
        """Return function and signature by name; those of the last call are kept."""
        key = (tuple(batch_sizes.items()), unroll)
        if self._last is None or self._last[0] != key:
            functions, signatures = {}, {}
            with (
                as_float32(self.model),
                unrolled(self.model, unroll),
                calls_for_tflite(self.model),
                _named_operations(self.model),
            ):
                for name, target in self._targets.items():
                    functions[name], signatures[name] = self._trace(target, batch_sizes[name])
            self._last = (key, (functions, signatures))
        return self._last[1]

    def _trace(self, target: Target, batch_size: int | None) -> tuple[Any, Signature]:
        names: list[str] = []
        origins: list[str] = []

        def serve(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            masks = masks_in_range() if self.calibrated else contextlib.nullcontext()
            with masks, self._applied(), scope_for_files(self.model):
                outputs = call_target(self.model, target, self.structure(inputs))
            names[:] = _names_in_file(list(outputs), "outputs", self.model)
            origins[:] = [source_of(tensor).op.name for tensor in outputs.values()]
            return dict(zip(names, outputs.values(), strict=True))

        specs = {
            i.name: tf.TensorSpec((batch_size, *i.shape[1:]), i.dtype, name=i.name)
            for i in self.inputs
        }
        function = tf.function(serve, autograph=False).get_concrete_function(**specs)
        outputs = [function.structured_outputs[name] for name in names]
        shapes = tuple(_shape(tensor) for tensor in outputs)
        types = tuple(tensor.dtype.name for tensor in outputs)
        return function, Signature(self.inputs, tuple(names), shapes, tuple(origins), types)

    @property
    def recurrent_layers(self) -> list[str]:
        """Names of the recurrent layers which a trace turns into loops."""
        return [layer.name for layer in recurrent_layers(self.model) if not layer.unroll]

    @property
    def open_steps(self) -> list[str]:
        """Names of those whose number of steps is not known."""
        return [layer.name for layer in recurrent_layers(self.model) if steps_are_open(layer)]


def _input_names(struct: Any) -> list[str]:
    """Return the names of inputs: their keys in a dictionary, by which Keras matches data."""
    if isinstance(struct, Mapping) and not any(map(keras.tree.is_nested, struct.values())):
        return [str(path[0]) for path, _ in keras.tree.flatten_with_path(struct)]
    return [tensor.name for tensor in keras.tree.flatten(struct)]


def _names_in_file(names: Sequence[str], what: str, model: keras.Model) -> list[str]:
    """Return inputs' or outputs' names as they stand in the file, where each needs its own."""
    found = [safe_name(name) for name in names]
    if len(set(found)) != len(found):
        raise ValueError(
            f"Two {what} of '{model.name}' would have the same name in the file, where names are "
            f"made of ASCII letters, digits and '_'. Received: names {list(names)} of {what}. "
            "Rename one of them."
        )
    return found


@contextlib.contextmanager
def _named_operations(model: keras.Model) -> Iterator[None]:
    """Name what operations such as `x + y` compute after them, as layers do of themselves."""
    operations = {
        path: operation
        for path, operation in leaf_operations(model)
        if not isinstance(operation, keras.layers.Layer)
    }

    def around(path: str, operation: Any, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        with tf.name_scope(operation.name):
            return call(*args, **kwargs)

    with changed_calls(operations, around):
        yield


def _shape(tensor: Any) -> tuple[int | None, ...]:
    return tuple(tensor.shape) if tensor.shape.rank is not None else ()
