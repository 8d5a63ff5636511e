"""Writing a model as a SavedModel whose one signature is what the converter shall see."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import keras
import numpy as np
import tensorflow as tf

from keras_kd.export.batches import safe_name
from keras_kd.export.refusals import LOOKUPS, lookups
from keras_kd.litert.input import Input

SIGNATURE = "serving_default"


@runtime_checkable
class WritesSavedModel(Protocol):
    """A model which writes itself: what compression returns.

    Attributes:
        quantization_aware: Whether it holds trained quantization ranges.
    """

    quantization_aware: bool

    def write_saved_model(self, folder: str | os.PathLike[str]) -> Any:
        """Write a SavedModel with a `serving_default` signature into `folder`."""


@dataclasses.dataclass(frozen=True)
class Signature:
    """Inputs and output names of a model, in the model's own order."""

    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]


class KerasSource:
    """A Keras 3 model on its way to a SavedModel: inference only, in float32.

    Args:
        model: A built Keras 3 model.

    Attributes:
        quantization_aware: `False`.

    Raises:
        ValueError: If the model is not built, is a distiller, was quantized by Keras or looks up
            words in tables.
    """

    quantization_aware = False

    def __init__(self, model: keras.Model) -> None:
        if hasattr(model, "student") and hasattr(model, "teacher"):
            raise ValueError(
                "A Distiller was given, which holds a teacher and a student. "
                "Export its student: export_tflite(distiller.student, ...)."
            )
        quantized = [
            layer.name
            for layer in model._flatten_layers()
            if getattr(layer, "quantization_mode", None) is not None
        ]
        if quantized:
            raise ValueError(
                f"The model was quantized by keras.Model.quantize (layers {quantized[:5]}), which "
                "the TFLite converter does not accept. Export the model as it was before, with "
                '`quantization="int8"`.'
            )
        tables = [x.name for x in model._flatten_layers() if type(x).__name__ in LOOKUPS]
        if tables:
            raise ValueError(lookups(tables))
        self.model = model
        self._struct = _input_struct(model)
        tensors = keras.tree.flatten(self._struct)
        self._inputs = tuple(
            Input(safe_name(t.name), tuple(t.shape), np.dtype(t.dtype)) for t in tensors
        )

    def write(self, folder: pathlib.Path, batch_size: int | None, unroll: bool) -> Signature:
        """Write the SavedModel.

        Args:
            folder: An empty folder.
            batch_size: Size of the batch dimension, `None` for any.
            unroll: Whether recurrent layers are unrolled over time.

        Returns:
            The `Signature`.
        """
        names: list[str] = []

        def serve(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            x = keras.tree.pack_sequence_as(self._struct, [inputs[i.name] for i in self._inputs])
            outputs = name_outputs(self.model, self.model(x, training=False))
            names[:] = [safe_name(name) for name in outputs]
            return dict(zip(names, outputs.values(), strict=True))

        specs = {
            i.name: tf.TensorSpec((batch_size, *i.shape[1:]), i.dtype, name=i.name)
            for i in self._inputs
        }
        with _as_float32(self.model), _unrolled(self.model, unroll):
            function = tf.function(serve, autograph=False).get_concrete_function(**specs)
        module = tf.Module()
        module.tracked_variables = [v.value for v in self.model.variables]
        tf.saved_model.save(module, os.fspath(folder), signatures={SIGNATURE: function})
        return Signature(self._inputs, tuple(names))

    @property
    def recurrent_layers(self) -> list[str]:
        """Names of the recurrent layers which a trace turns into loops."""
        return [layer.name for layer in _recurrent(self.model) if not layer.unroll]

    @property
    def open_steps(self) -> list[str]:
        """Names of those whose number of steps is not known."""
        return [layer.name for layer in _recurrent(self.model) if _steps_are_open(layer)]


class SavedModelSource:
    """A model which writes its own SavedModel, on its way to one with the wanted batch size.

    Args:
        model: The model.
    """

    def __init__(self, model: WritesSavedModel) -> None:
        self.model = model
        self.quantization_aware = bool(model.quantization_aware)

    recurrent_layers: Sequence[str] = ()
    open_steps: Sequence[str] = ()

    def write(self, folder: pathlib.Path, batch_size: int | None, unroll: bool) -> Signature:
        """Write the SavedModel; see `KerasSource.write`. Recurrent layers stay as they are."""
        own = folder / "own"
        self.model.write_saved_model(own)
        loaded = tf.saved_model.load(os.fspath(own))
        if SIGNATURE not in loaded.signatures:
            raise ValueError(
                f"{type(self.model).__name__}.write_saved_model wrote no signature '{SIGNATURE}'; "
                f"it wrote {sorted(loaded.signatures)}."
            )
        signature = loaded.signatures[SIGNATURE]
        specs = signature.structured_input_signature[1]
        order = [safe_name(n) for n in self._names("input_names") or specs]
        if set(order) != set(specs):
            order = list(specs)
        written = sorted(signature.structured_outputs, key=_natural)
        names = [safe_name(n) for n in self._names("output_names")]
        if set(names) == set(written):
            written = names
        elif len(set(names)) != len(written) or written != [
            f"output_{i}" for i in range(len(written))
        ]:
            names = written

        def serve(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            outputs = signature(**inputs)
            return {name: outputs[own] for name, own in zip(names, written, strict=True)}

        fixed = {
            name: tf.TensorSpec((batch_size, *specs[name].shape[1:]), specs[name].dtype, name=name)
            for name in order
        }
        function = tf.function(serve, autograph=False).get_concrete_function(**fixed)
        module = tf.Module()
        module.loaded = loaded
        tf.saved_model.save(module, os.fspath(folder), signatures={SIGNATURE: function})
        inputs = tuple(
            Input(n, tuple(specs[n].shape), np.dtype(specs[n].dtype.as_numpy_dtype)) for n in order
        )
        return Signature(inputs, tuple(names))

    def _names(self, attribute: str) -> list[str]:
        """Names which the model, or the model inside it, gives its inputs or outputs."""
        inner = getattr(self.model, "model", self.model)
        return list(getattr(inner, attribute, None) or ())


class _LegacyKeras:
    """A `tf_keras` model as a `WritesSavedModel`."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.quantization_aware = any(
            type(layer).__name__.startswith("Quantize") for layer in model._flatten_layers()
        )

    def write_saved_model(self, folder: str | os.PathLike[str]) -> None:
        self.model.export(os.fspath(folder))


def source_of(model: Any) -> KerasSource | SavedModelSource:
    """Return how `model` becomes a SavedModel.

    Args:
        model: A Keras 3 model, a compressed model or a `tf_keras` model.

    Returns:
        A `KerasSource` or a `SavedModelSource`.

    Raises:
        TypeError: If `model` is none of these.
        ValueError: If the model cannot be exported.
    """
    if isinstance(model, keras.Model):
        return KerasSource(model)
    if isinstance(model, WritesSavedModel):
        inner = getattr(model, "model", None)
        if isinstance(inner, keras.Model) and not model.quantization_aware:
            return KerasSource(inner)
        return SavedModelSource(model)
    if any(base.__module__.startswith("tf_keras.") for base in type(model).__mro__):
        return SavedModelSource(_LegacyKeras(model))
    raise TypeError(
        "`model` must be a Keras model or the result of keras_kd.compress. "
        f"Received: {type(model).__name__}."
    )


def name_outputs(model: Any, outputs: Any) -> dict[str, Any]:
    """Give a Keras model's outputs names: dict keys, layer names, or `output_0`, `output_1`, ..."""
    if isinstance(outputs, Mapping):
        flat = keras.tree.flatten(dict(outputs))
        if len(flat) == len(outputs):
            return {str(key): outputs[key] for key in outputs}
    else:
        flat = keras.tree.flatten(outputs)
        names = list(getattr(model, "output_names", None) or ())
        if len(names) == len(flat) and len({safe_name(n) for n in names}) == len(flat):
            return dict(zip(names, flat, strict=True))
    return {f"output_{i}": tensor for i, tensor in enumerate(flat)}


def _natural(name: str) -> tuple[str, int]:
    stem = name.rstrip("0123456789")
    return stem, int(name[len(stem) :] or -1)


def _input_struct(model: keras.Model) -> Any:
    """The structure in which `model` takes its inputs, holding symbolic tensors."""
    if not model.built:
        raise ValueError(
            f"The model '{model.name}' is not built: its input shape is not known. "
            "Call it on one batch, or give it a keras.Input, before the export."
        )
    struct: Any
    if isinstance(model, keras.Sequential) and model.inputs:
        struct = model.inputs[0]
    elif getattr(model, "inputs", None):
        struct = model.input
    else:
        struct = _struct_of_subclass(model)
    names = [safe_name(t.name) for t in keras.tree.flatten(struct)]
    if len(set(names)) != len(names):
        raise ValueError(f"Two inputs of '{model.name}' have the same name: {names}.")
    return struct


def _struct_of_subclass(model: keras.Model) -> Any:
    config = model.get_build_config() or {}
    shapes = config.get("input_shape")
    if shapes is None:
        raise ValueError(
            f"The inputs of '{model.name}' cannot be told from how it was built "
            f"({sorted(config)}). Wrap it in a functional model: "
            "keras.Model(inputs, model(inputs))."
        )

    def tensor(shape: Sequence[int | None], name: str) -> keras.KerasTensor:
        return keras.KerasTensor((None, *shape[1:]), dtype="float32", name=name)

    if isinstance(shapes, Mapping):
        return {key: tensor(shape, str(key)) for key, shape in shapes.items()}
    if shapes and isinstance(shapes[0], (tuple, list)):
        return [tensor(shape, f"input_{i}") for i, shape in enumerate(shapes)]
    return tensor(shapes, "input")


@contextlib.contextmanager
def _as_float32(model: keras.Model) -> Iterator[None]:
    """Let a mixed precision model compute in float32 for the duration of a trace."""
    changed = []
    try:
        for layer in [model, *model._flatten_layers(include_self=False)]:
            policy = layer.dtype_policy
            if policy.compute_dtype in ("float16", "bfloat16"):
                changed.append((layer, policy))
                layer.dtype_policy = keras.DTypePolicy("float32")
        yield
    finally:
        for layer, policy in reversed(changed):
            layer.dtype_policy = policy


def _steps_are_open(layer: Any) -> bool:
    config = layer.get_build_config() or {}
    shape = config.get("input_shape") or config.get("shapes_dict", {}).get("sequences_shape")
    return shape is not None and shape[1] is None


def _recurrent(model: keras.Model) -> list[Any]:
    return [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.RNN)]


@contextlib.contextmanager
def _unrolled(model: keras.Model, active: bool) -> Iterator[None]:
    """Let recurrent layers write one copy of their cell per step for the duration of a trace."""
    changed = [layer for layer in _recurrent(model) if not layer.unroll] if active else []
    try:
        for layer in changed:
            layer.unroll = True
        yield
    finally:
        for layer in changed:
            layer.unroll = False


def loops(folder: pathlib.Path) -> list[str]:
    """Return the names of the loops (`tf.while_loop`) in a SavedModel."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    return sorted({node.name for node in nodes if node.op in ("While", "StatelessWhile")})
