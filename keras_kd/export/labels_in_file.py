"""Class names and preprocessing inside a TFLite file, as TFLite Metadata.

The metadata is a flatbuffer of its own in one of the file's buffers; the labels are a text file in
a zip archive which is appended to the file. Runtimes which know neither load the file all the same.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np

from keras_kd.litert.model_file import ModelFile

LABELS_FILE = "labels.txt"
_BUFFER_NAME = "TFLITE_METADATA"
_IDENTIFIER = b"M001"
_PARSER_VERSION = "1.0.0"
# Numbers of the metadata schema: the type of a labels file (of units, or of what an output holds),
# of an image, of a normalization.
_AXIS_LABELS, _VALUE_LABELS = 2, 3
_IMAGE, _NORMALIZATION = 2, 1
_COLORS = {"RGB": 1, "GRAYSCALE": 2}


def embed(
    file: ModelFile,
    inputs: Sequence[str],
    outputs: Sequence[str],
    class_names: Sequence[str] | None,
    preprocessing: Mapping[str, Any] | str | None,
    gives_classes: bool = False,
) -> None:
    """Put class names and preprocessing into a file.

    Args:
        file: The file, which is changed. `with_labels` adds what stands behind its tables.
        inputs: Names of the inputs of its first graph.
        outputs: Names of its outputs; the class names belong to the first one.
        class_names: Names of the classes, or `None`.
        preprocessing: What was done to the input before the model saw it, or `None`.
        gives_classes: Whether the first output holds classes, not a number for each. Defaults to
            `False`.
    """
    if class_names is None and preprocessing is None:
        return
    labels = _VALUE_LABELS if gives_classes else _AXIS_LABELS
    described = _describe(inputs, outputs, None if class_names is None else labels, preprocessing)
    buffer = file.add_buffer(np.frombuffer(described, np.uint8))
    entry = file.schema.MetadataT(_BUFFER_NAME, buffer)
    file.model.metadata = [*(file.model.metadata or ()), entry]


def with_labels(content: bytes, class_names: Sequence[str] | None) -> bytes:
    """Return a file's bytes followed by the names of its classes, if there are any."""
    if class_names is None:
        return content
    result = io.BytesIO(content)
    with zipfile.ZipFile(result, "a") as archive:
        # A fixed date: the same model gives the same file.
        info = zipfile.ZipInfo(LABELS_FILE, (1980, 1, 1, 0, 0, 0))
        archive.writestr(info, "\n".join(class_names).encode("utf-8"))
    return result.getvalue()


def _describe(
    inputs: Sequence[str],
    outputs: Sequence[str],
    labels: int | None,
    preprocessing: Mapping[str, Any] | str | None,
) -> bytes:
    builder = flatbuffers.Builder(512)
    ins = [
        _tensor(builder, name, preprocessing if i == 0 else None) for i, name in enumerate(inputs)
    ]
    outs = [_tensor(builder, name, None, None if i else labels) for i, name in enumerate(outputs)]
    graph = _table(
        builder, 7, {2: _reference(_vector(builder, ins)), 3: _reference(_vector(builder, outs))}
    )
    graphs = _vector(builder, [graph])
    version = builder.CreateString(_PARSER_VERSION)
    root = _table(builder, 8, {3: _reference(graphs), 7: _reference(version)})
    builder.Finish(root, file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _tensor(
    builder: flatbuffers.Builder,
    name: str,
    preprocessing: Mapping[str, Any] | str | None,
    labels: int | None = None,
) -> int:
    slots = {0: _reference(builder.CreateString(name))}
    if isinstance(preprocessing, str):
        slots[1] = _reference(builder.CreateString(preprocessing))
    elif preprocessing is not None:
        slots[1] = _reference(builder.CreateString(json.dumps(preprocessing, sort_keys=True)))
        color = _COLORS.get(str(preprocessing.get("color", "")).upper())
        if color:
            image = _table(builder, 2, {0: _byte(color)})
            content = _table(builder, 3, {0: _byte(_IMAGE), 1: _reference(image)})
            slots[3] = _reference(content)
        if normalization := normalization_of(preprocessing):
            mean, std = (_floats(builder, numbers) for numbers in normalization)
            options = _table(builder, 2, {0: _reference(mean), 1: _reference(std)})
            unit = _table(builder, 2, {0: _byte(_NORMALIZATION), 1: _reference(options)})
            slots[4] = _reference(_vector(builder, [unit]))
    if labels is not None:
        file = builder.CreateString(LABELS_FILE)
        described = _table(builder, 4, {0: _reference(file), 2: _byte(labels)})
        slots[6] = _reference(_vector(builder, [described]))
    return _table(builder, 7, slots)


def normalization_of(preprocessing: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return mean and standard deviation of `(x - mean) / std` for `(x * scale - mean) / std`.

    Args:
        preprocessing: A dictionary with the keys `"scale"`, `"mean"` and `"std"`, or some of them.

    Returns:
        Two vectors with one number, or one per channel; `None` if it has none of the keys.

    Raises:
        ValueError: If a vector is not finite, a deviation is 0, or their lengths do not match.
        TypeError: If what it holds cannot be a number.
    """
    if not {"scale", "mean", "std"} & set(preprocessing):
        return None
    scale, mean, std = (
        np.atleast_1d(np.asarray(preprocessing.get(key, default), np.float64))
        for key, default in (("scale", 1.0), ("mean", 0.0), ("std", 1.0))
    )
    with np.errstate(all="ignore"):
        mean, std = np.broadcast_arrays(mean / scale, std / scale)
    if (
        mean.ndim > 1
        or not mean.size
        or not (np.isfinite(mean) & np.isfinite(std) & (std != 0)).all()
    ):
        raise ValueError("they give no mean and standard deviation")
    return mean, std


Slot = Callable[[flatbuffers.Builder, int], None]


def _reference(offset: int) -> Slot:
    return lambda builder, slot: builder.PrependUOffsetTRelativeSlot(slot, offset, 0)


def _byte(value: int) -> Slot:
    return lambda builder, slot: builder.PrependUint8Slot(slot, value, 0)


def _table(builder: flatbuffers.Builder, fields: int, slots: Mapping[int, Slot]) -> int:
    builder.StartObject(fields)
    for slot, put in slots.items():
        put(builder, slot)
    return int(builder.EndObject())


def _vector(builder: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _floats(builder: flatbuffers.Builder, numbers: np.ndarray) -> int:
    return int(builder.CreateNumpyVector(np.ascontiguousarray(numbers, "<f4")))
