"""How a batch is written into a TFRecord file, and read from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_kd.losses.top_k_logits import TopKLogits

INPUTS = "inputs"  # the key of the fingerprints of the inputs, one a sample
ELEMENT = "element/"  # begins the keys of the inputs and labels themselves, where they are stored
MASK = "mask/"  # begins the keys of the Keras masks of outputs and features
PLAIN_TYPES = frozenset(
    tf.dtypes.as_dtype(name).name
    for name in (
        "bool", "string", "float16", "bfloat16", "float32", "float64", "complex64", "complex128",
        "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    )
)  # fmt: skip
_MOST_BYTES = 2**31 - 1  # of one tensor in protocol buffers


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One tensor of a record.

    Attributes:
        key: Its key in the `tf.train.Example`.
        dtype: Its type in the file.
        read_as: Its type after reading.
        shape: Its shape, `None` where it differs from batch to batch.
    """

    key: str
    dtype: str
    read_as: str
    shape: tuple[int | None, ...]

    def merged(self, other: Leaf) -> Leaf:
        """Return the leaf with `None` where the shapes of the two differ.

        Raises:
            ValueError: If type or number of axes differ.
        """
        if (self.dtype, len(self.shape)) != (other.dtype, len(other.shape)):
            raise ValueError(
                f"The teacher gave '{self.key}' as {self.dtype} of shape {self.shape} for one "
                f"batch and as {other.dtype} of shape {other.shape} for another: a cache needs one "
                "type and one number of axes."
            )
        sides = zip(self.shape, other.shape, strict=True)
        return dataclasses.replace(self, shape=tuple(a if a == b else None for a, b in sides))


def leaf_of(key: str, tensor: Any, read_as: str) -> Leaf:
    """Return the `Leaf` of a tensor, its batch left open."""
    shape = tuple(tensor.shape)
    return Leaf(key, tensor.dtype.name, read_as, (None, *shape[1:]) if shape else ())


def encode(tensors: Mapping[str, tf.Tensor]) -> bytes:
    """Return a serialized `tf.train.Example` whose features are serialized tensors.

    Raises:
        ValueError: If a tensor is larger than protocol buffers can hold.
    """
    features = {}
    for key, tensor in tensors.items():
        size = tensor.dtype.size * int(tf.size(tensor))
        if size > _MOST_BYTES - 1024:
            raise ValueError(
                f"'{key}' of one batch takes {size / 1e9:.1f} GB, and a record holds at most 2 GB. "
                "Use smaller batches, or keep a part of the logits: top_k=..., temperature=..."
            )
        content = tf.io.serialize_tensor(tensor).numpy()
        features[key] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def decode(record: tf.Tensor, leaves: Sequence[Leaf]) -> dict[str, tf.Tensor]:
    """Return the tensors of a record by key, as they are to be read; in a graph or eagerly."""
    features = {leaf.key: tf.io.FixedLenFeature([], tf.string) for leaf in leaves}
    parsed = tf.io.parse_single_example(record, features)
    tensors = {}
    for leaf in leaves:
        tensor = tf.io.parse_tensor(parsed[leaf.key], leaf.dtype)
        tensor = tf.ensure_shape(tensor, leaf.shape)
        tensors[leaf.key] = tf.cast(tensor, leaf.read_as)
    return tensors


def structure_to_json(structure: Any) -> Any:
    """Return a structure of keys as JSON can hold it.

    Raises:
        TypeError: If it holds something else than dictionaries, lists and tuples.
    """
    if isinstance(structure, TopKLogits):
        return {"top_k_logits": [structure_to_json(part) for part in structure]}
    if isinstance(structure, Mapping):
        return {"dict": {key: structure_to_json(part) for key, part in structure.items()}}
    if isinstance(structure, (list, tuple)):
        return {"tuple": [structure_to_json(part) for part in structure]}
    if isinstance(structure, str):
        return structure
    raise TypeError(
        "A cache takes outputs and features that are tensors, or dictionaries, lists and tuples "
        f"of tensors, but the teacher gave {type(structure).__name__}."
    )


def structure_from_json(structure: Any, tensors: Mapping[str, Any]) -> Any:
    """Return a structure from JSON with tensors in place of their keys; lists become tuples."""
    if isinstance(structure, str):
        return tensors[structure]
    ((kind, parts),) = structure.items()
    if kind == "dict":
        return {key: structure_from_json(part, tensors) for key, part in parts.items()}
    values = tuple(structure_from_json(part, tensors) for part in parts)
    return TopKLogits(*values) if kind == "top_k_logits" else values


def input_fingerprints(inputs: Any) -> tf.Tensor:
    """Return a hash of every sample's inputs.

    Args:
        inputs: A tensor or a structure of tensors, the batch first.

    Returns:
        int64, `[batch]`.
    """
    parts = []
    for tensor in keras.tree.flatten(inputs):
        if isinstance(tensor, tf.RaggedTensor):
            tensor = tensor.to_tensor()
        elif isinstance(tensor, tf.SparseTensor):
            tensor = tf.sparse.to_dense(tensor)
        parts.append(_farmhash(tensor))
    if len(parts) > 1:
        parts = [_farmhash(tf.stack(parts, axis=1))]
    return parts[0]


def _farmhash(tensor: tf.Tensor) -> tf.Tensor:
    hashed = tf.raw_ops.Fingerprint(data=tensor, method=tf.constant("farmhash64"))
    return tf.bitcast(hashed, tf.int64)
