"""Models which write their own SavedModel, and the choice of how a model becomes one."""

from __future__ import annotations

import os
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import keras
import numpy as np
import tensorflow as tf

from keras_kd.data.input import Input
from keras_kd.data.numpy_batches import safe_name
from keras_kd.export.keras_source import KerasSource
from keras_kd.export.signatures import DEFAULT_SIGNATURE, Signature, Target
from keras_kd.models.graph import flat_layers
from keras_kd.models.recurrent import initial_state


@runtime_checkable
class WritesSavedModel(Protocol):
    """A model that writes its own SavedModel, or what compression returns.

    Attributes:
        quantization_aware: Whether it holds trained quantization ranges.
    """

    quantization_aware: bool

    def write_saved_model(self, folder: str | os.PathLike[str]) -> Any:
        """Write a SavedModel with a `serving_default` signature into `folder`."""


class SavedModelSource:
    """A model which writes its own SavedModel, on its way to one with the wanted batch size.

    Args:
        model: The model.
    """

    def __init__(self, model: WritesSavedModel) -> None:
        self.model = model
        self.quantization_aware = bool(model.quantization_aware)

    weight_bits: Mapping[str, int] = types.MappingProxyType({})
    recurrent_layers: Sequence[str] = ()
    open_steps: Sequence[str] = ()
    signature_names: Sequence[str] = (DEFAULT_SIGNATURE,)
    answering = DEFAULT_SIGNATURE

    def write(
        self, folder: pathlib.Path, batch_sizes: Mapping[str, int | None], unroll: bool
    ) -> dict[str, Signature]:
        """Write the SavedModel; see `KerasSource.write`. Recurrent layers stay as they are."""
        batch_size = batch_sizes[DEFAULT_SIGNATURE]
        own = folder / "own"
        self.model.write_saved_model(own)
        loaded = tf.saved_model.load(os.fspath(own))
        if DEFAULT_SIGNATURE not in loaded.signatures:
            raise ValueError(
                f"{type(self.model).__name__}.write_saved_model wrote no signature "
                f"'{DEFAULT_SIGNATURE}'; it wrote {sorted(loaded.signatures)}."
            )
        signature = loaded.signatures[DEFAULT_SIGNATURE]
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

        self._serve = serve
        # The state of layers, which each batch starts with.
        stateful = getattr(getattr(self.model, "model", self.model), "stateful", False)
        self._kept = [(v, v.numpy()) for v in signature.variables] if stateful else []

        fixed = {
            name: tf.TensorSpec((batch_size, *specs[name].shape[1:]), specs[name].dtype, name=name)
            for name in order
        }
        function = tf.function(serve, autograph=False).get_concrete_function(**fixed)
        module = tf.Module()
        module.loaded = loaded
        tf.saved_model.save(module, os.fspath(folder), signatures={DEFAULT_SIGNATURE: function})
        inputs = tuple(
            Input(n, tuple(specs[n].shape), np.dtype(specs[n].dtype.as_numpy_dtype)) for n in order
        )
        outputs = [function.structured_outputs[name] for name in names]
        shapes = tuple(tuple(tensor.shape) for tensor in outputs)
        types = tuple(tensor.dtype.name for tensor in outputs)
        return {DEFAULT_SIGNATURE: Signature(inputs, tuple(names), shapes, (), types)}

    def predict(
        self, inputs: Mapping[str, np.ndarray], signature: str | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return the outputs by name, after `write`, without masks; see `KerasSource.predict`."""
        tensors = {name: tf.convert_to_tensor(array) for name, array in inputs.items()}
        outputs = self._serve(**tensors)
        for variable, value in self._kept:
            variable.assign(value)
        return {name: np.asarray(tensor) for name, tensor in outputs.items()}, {}

    def ends(self, signature: str | None = None) -> dict[str, str | None]:
        """Return nothing: what the outputs end in is not known; see `KerasSource.ends`."""
        return {}

    def minimizes_errors(self, output: str) -> bool:
        """Return `False`: its loss is not known; see `KerasSource.minimizes_errors`."""
        return False

    def clustered_kernels(self) -> list[np.ndarray]:
        """Return none: nothing is known of its layers."""
        return []

    def _names(self, attribute: str) -> list[str]:
        """Names which the model, or the model inside it, gives its inputs or outputs."""
        inner = getattr(self.model, "model", self.model)
        return list(getattr(inner, attribute, None) or ())


class _LegacyKeras:
    """A `tf_keras` model as a `WritesSavedModel`."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.quantization_aware = any(
            type(layer).__name__.startswith("Quantize") for layer in flat_layers(model)
        )

    def write_saved_model(self, folder: str | os.PathLike[str]) -> None:
        with initial_state(self.model):
            self.model.export(os.fspath(folder))


def source_of(
    model: Any, signatures: Mapping[str, Target] | None = None, quantization: str = "float32"
) -> KerasSource | SavedModelSource:
    """Return how `model` becomes a SavedModel.

    Args:
        model: A Keras 3 model, a compressed model or a `tf_keras` model.
        signatures: What each signature gives, by its name. Defaults to `None`: the model's own
            outputs under `"serving_default"`.
        quantization: The format. For `"int8"` the 8-bit ranges that a compressed model was trained
            for are a part of it; the other formats hold its weights alone. Defaults to
            `"float32"`.

    Returns:
        A `KerasSource` or a `SavedModelSource`.

    Raises:
        TypeError: If `model` is none of these.
        ValueError: If the model cannot be exported.
    """
    if isinstance(model, keras.Model):
        return KerasSource(model, signatures)
    if isinstance(model, WritesSavedModel):
        inner = getattr(model, "model", None)
        if isinstance(inner, keras.Model):
            ranges = getattr(model, "quantization", None) or {}
            trained = quantization == "int8" and ranges.get("activation_bits") == 8
            applied = getattr(model, "applied", None) if trained else None
            shared = getattr(model, "clustered", {})
            return KerasSource(
                inner,
                signatures,
                applied,
                ranges.get("weight_bits"),
                [path for path, by in shared.items() if by == "kernel"],
                ranges.get("excluded", ()),
            )
        return _only_default(SavedModelSource(model), signatures)
    if any(base.__module__.startswith("tf_keras.") for base in type(model).__mro__):
        return _only_default(SavedModelSource(_LegacyKeras(model)), signatures)
    is_path = isinstance(model, (str, os.PathLike))
    raise TypeError(
        "`model` must be a Keras model or the result of keras_kd.compress. "
        f"Received: {type(model).__name__}."
        f"{' Load it first: keras.models.load_model(path).' if is_path else ''}"
    )


def _only_default(
    source: SavedModelSource, signatures: Mapping[str, Target] | None
) -> SavedModelSource:
    if signatures is not None and dict(signatures) != {DEFAULT_SIGNATURE: None}:
        raise ValueError(
            "`signatures` needs a Keras 3 model. A model of tf_keras, or one that writes its own "
            "SavedModel, has the one signature 'serving_default'. Leave `signatures` out."
        )
    return source


def _natural(name: str) -> tuple[str, int]:
    stem = name.rstrip("0123456789")
    return stem, int(name[len(stem) :] or -1)
