"""One pass of the teacher over a batch, as a cache stores it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_kd.caching.records import INPUTS, MASK, Leaf, input_fingerprints, leaf_of
from keras_kd.losses.shared.logits import log_probabilities
from keras_kd.losses.shared.masks import get_keras_mask, set_keras_mask
from keras_kd.losses.top_k_logits import TopKLogits, top_k_logits
from keras_kd.models.probabilities import PROBABILITIES, last_activation
from keras_kd.system.quiet import without_retracing_warnings
from keras_kd.teachers.adapted_teacher import unadapted
from keras_kd.teachers.callable_teacher import CallableTeacher
from keras_kd.teachers.inference_reader import InferenceReader

Flat = dict[str, tf.Tensor]


class TeacherPass:
    """Runs a teacher and gives what is stored: tensors by key, the batch first.

    Args:
        teacher: A model, or what `as_teacher` made of a callable.
        inputs: The specification of a batch of inputs.
        layers: Paths of the layers whose features are stored.
        dtype: `"float32"` or `"float16"`, in which floating tensors are stored.
        top_k: Number of logits to keep of each output, or `None` for all.
        temperature: The temperature of the loss that reads the kept logits.

    Attributes:
        outputs: Structure of the outputs with keys in place of tensors, after the first pass.
        features: The same of the features.
        leaves: The `Leaf` of every key, after the first pass.
        fixed_batch: The number of samples that the teacher insists on, or `None`.
    """

    def __init__(
        self,
        teacher: Any,
        inputs: Any,
        *,
        layers: Sequence[str] = (),
        dtype: str = "float32",
        top_k: int | None = None,
        temperature: float | None = None,
    ) -> None:
        self._teacher = teacher
        self._reader = InferenceReader(teacher, layers)
        self._dtype = dtype
        self._top_k = top_k
        self._temperature = temperature
        self._check = getattr(teacher, "check", None)
        known = isinstance(teacher, keras.Model) or not getattr(teacher, "outputs_function", True)
        # What the graph shows of each output, such as "softmax".
        self._ends = last_activation(unadapted(teacher)) if known else None
        self._read_as: dict[str, str] = {}
        self._exact: list[Any] = []  # what is stored as float32 in any case
        self.outputs: Any = None
        self.features: Any = None
        self.leaves: list[Leaf] = []
        self.fixed_batch = _fixed_batch(teacher)
        specs = tf.nest.map_structure(self._any_batch, inputs)
        self._run: Any = tf.function(self._evaluate, input_signature=[specs], autograph=False)
        if isinstance(teacher, CallableTeacher):
            try:
                self._run.get_concrete_function()
            except (ValueError, TypeError, AttributeError, NotImplementedError):
                # It needs numbers, or fails with them too: then its own error is the clear one.
                self._run = self._evaluate

    def _any_batch(self, spec: Any) -> Any:
        if not isinstance(spec, tf.TensorSpec) or self.fixed_batch or not spec.shape.rank:
            return spec
        return tf.TensorSpec([None, *spec.shape[1:]], spec.dtype)

    def __call__(self, inputs: Any) -> Flat:
        """Return the tensors to store for a batch of inputs.

        Raises:
            ValueError: If a value does not fit into float16, or the teacher's own `check` refuses
                the first batch.
        """
        if callable(self._check):
            self._check(inputs)
            self._check = None
        with without_retracing_warnings():  # each teacher is traced once
            tensors, too_large, rounded, probabilities = self._run(inputs)
        if rounded:
            raise ValueError(
                "The teacher's outputs are probabilities that float16 rounds to 0 or 1. Received: "
                'dtype="float16". Store them with dtype="float32".'
            )
        if probabilities:
            raise ValueError(
                "`top_k` keeps logits, and the teacher's outputs are probabilities: they sum to "
                f"one. Received: top_k={self._top_k}. Give their logarithm, such as Distiller(..., "
                "teacher_outputs=lambda p: keras.ops.log(keras.ops.maximum(p, 1e-7)))."
            )
        if self._dtype == "float16":
            for key, largest in too_large.items():
                if largest > 65504.0:
                    raise ValueError(
                        f"The teacher's '{key}' holds {float(largest):.6g}, and float16 ends at "
                        '65504. Store it with dtype="float32".'
                    )
        leaves = [leaf_of(k, t, self._read_as.get(k, t.dtype.name)) for k, t in tensors.items()]
        if self.leaves:
            leaves = [old.merged(new) for old, new in zip(self.leaves, leaves, strict=True)]
        self.leaves = leaves
        return tensors

    def _evaluate(self, inputs: Any) -> tuple[Flat, Flat, tf.Tensor, tf.Tensor]:
        outputs, features = self._reader.run(self._teacher, inputs)
        parts = keras.tree.flatten(outputs)
        ends = [None] * len(parts) if self._ends is None else keras.tree.flatten(self._ends)
        unknown = [part for part, end in zip(parts, ends, strict=True) if end is None]
        rounded = probabilities = tf.constant(False)
        if self._top_k is not None:
            probabilities = _any(map(_sum_to_one, unknown))
            kept = [self._keep_top_k(*pair, len(parts)) for pair in zip(parts, ends, strict=True)]
            outputs = keras.tree.pack_sequence_as(outputs, kept)
        elif self._dtype == "float16":
            rounded = _any(map(_rounded_in_half, unknown))
            # The logarithm of a rounded probability is another one.
            self._exact = [x for x, end in zip(parts, ends, strict=True) if end in PROBABILITIES]
        tensors: Flat = {}
        too_large: Flat = {}
        self.outputs = self._flatten(outputs, "outputs", tensors, too_large)
        self.features = self._flatten(features, "features", tensors, too_large)
        tensors[INPUTS] = input_fingerprints(inputs)
        return tensors, too_large, rounded, probabilities

    def _keep_top_k(self, logits: Any, end: str | None, outputs: int) -> TopKLogits:
        mask, k = get_keras_mask(logits), self._top_k
        if end == "sigmoid":
            raise ValueError(
                "`top_k` keeps the largest logits of a distribution, and each of the teacher's "
                f"outputs is a probability of its own. Received: top_k={k}. Leave it out."
            )
        if end == "softmax":
            logits = log_probabilities(tf.cast(logits, tf.float32))
        if outputs > 1 and logits.shape[-1] is not None:
            k = min(int(k or 0), int(logits.shape[-1]))
        kept = top_k_logits(logits, k, self._temperature)  # type: ignore[arg-type]
        set_keras_mask(kept.values, mask)
        return kept

    def _flatten(self, structure: Any, key: str, tensors: Flat, too_large: Flat) -> Any:
        if isinstance(structure, TopKLogits):
            # The mass and the temperature stay exact.
            values = self._flatten(structure.values, f"{key}/values", tensors, too_large)
            others = structure._asdict()
            del others["values"]
            for name, tensor in others.items():
                tensors[f"{key}/{name}"] = tf.convert_to_tensor(tensor)
            return TopKLogits(values, *(f"{key}/{name}" for name in others))
        if isinstance(structure, dict):
            return {
                name: self._flatten(part, f"{key}/{name}", tensors, too_large)
                for name, part in structure.items()
            }
        if isinstance(structure, (list, tuple)):
            return tuple(
                self._flatten(part, f"{key}/{i}", tensors, too_large)
                for i, part in enumerate(structure)
            )
        mask = get_keras_mask(structure)
        if mask is not None:
            tensors[f"{MASK}{key}"] = tf.convert_to_tensor(mask)
        tensor = tf.convert_to_tensor(structure)
        if tensor.dtype.is_floating:
            self._read_as[key] = "float32"
            tensor = tf.cast(tensor, tf.float32)
            if self._dtype == "float16" and all(structure is not x for x in self._exact):
                finite = tf.where(tf.math.is_finite(tensor), tf.abs(tensor), 0.0)
                too_large[key] = tf.reduce_max(finite)
                tensor = tf.cast(tensor, tf.float16)
        tensors[key] = tensor
        return key


def _any(values: Iterable[tf.Tensor]) -> tf.Tensor:
    return tf.reduce_any(tf.stack([tf.constant(False), *values]))


def _sum_to_one(outputs: Any) -> tf.Tensor:
    """Return whether outputs are probabilities of classes."""
    outputs = tf.cast(outputs, tf.float32)
    near = tf.abs(tf.reduce_sum(outputs, -1) - 1.0) < 1e-2
    return tf.reduce_all(near) & tf.reduce_all(outputs >= 0.0)


def _rounded_in_half(outputs: Any) -> tf.Tensor:
    """Return whether outputs can be probabilities of which float16 makes 0 or 1."""
    outputs = tf.cast(outputs, tf.float32)
    half = tf.cast(outputs, tf.float16)
    inside = (outputs > 0.0) & (outputs < 1.0) & ((half == 0.0) | (half == 1.0))
    within = tf.reduce_all((outputs >= 0.0) & (outputs <= 1.0))
    return within & tf.reduce_any(inside)


def _fixed_batch(teacher: Any) -> int | None:
    teacher = unadapted(teacher)
    if not isinstance(teacher, keras.Model) or not getattr(teacher, "inputs", None):
        return None
    sizes = {tensor.shape[0] for tensor in teacher.inputs} - {None}
    return min(sizes) if sizes else None
