"""What is written about an exported file into the JSON beside it, and writing the two, or none."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from keras_kd._version import __version__
from keras_kd.export.calibration import Calibration
from keras_kd.export.labels_in_file import normalization_of
from keras_kd.export.signatures import Signature
from keras_kd.litert.constants import count_constants
from keras_kd.litert.metadata import metadata_path
from keras_kd.litert.model_file import ModelFile
from keras_kd.system.files import atomic_path, check_writable

FORMAT = "keras_kd.tflite"
SCHEMA_VERSION = 1
_PACKAGES = ("keras", "tensorflow", "ai-edge-litert")


def describe(
    content: bytes,
    file: ModelFile,
    name: str,
    quantization: str,
    signatures: Mapping[str, Signature],
    calibration: Calibration | None,
    units: int | None,
    class_names: Sequence[str] | None,
    preprocessing: Mapping[str, Any] | str | None,
    was_run: bool = True,
    excluded: Mapping[str, str] | None = None,
    kernels: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return what is known about a file; see `keras_kd.read_metadata`.

    Args:
        content: The file's bytes.
        file: What they hold, with the names of all tensors.
        name: Its name.
        quantization: How its numbers are stored.
        signatures: Its signatures.
        calibration: The samples with which ranges were calibrated, or `None`.
        units: How many numbers the first output has for a sample, or `None`.
        class_names: Names of the classes, or `None`.
        preprocessing: What was done to the input, or `None`.
        was_run: Whether the file was run. Defaults to `True`.
        excluded: The precision of layers that do not have the file's own, by path. Defaults to
            `None`: none.
        kernels: What 4 bits cost kernels, `KernelIn4Bits` as dictionaries. Defaults to none.
    """
    ends = {key: _ends(file, key, signature) for key, signature in signatures.items()}
    first = next(iter(ends.values()))
    flex = sorted({operator.name for operator in file.operators() if operator.is_flex})
    packages = [*_PACKAGES, *(["ai-edge-quantizer"] if quantization == "int4" else [])]
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "file": name,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "quantization": quantization,
        "excluded": dict(excluded or {}),
        "kernels_in_4_bits": list(kernels),
        "class_names": None if class_names is None else list(class_names),
        "preprocessing": preprocessing,
        **first,
        "signatures": ends,
        "operators": file.operator_counts(),
        "flex_operators": flex,
        "was_run": was_run,
        "calibration": None
        if calibration is None
        else {
            "samples": len(calibration.samples),
            "batches": calibration.batches,
            "missing_classes": calibration.missing_classes(units),
        },
        "fidelity": None,
        "sparse_tensors": count_constants(file).sparse_tensors,
        "tensor_names": file.names(),
        "versions": {
            "keras_kd": __version__,
            **{package: importlib.metadata.version(package) for package in packages},
        },
    }


def check_labels(
    class_names: Any, preprocessing: Any
) -> tuple[list[str] | None, dict[str, Any] | str | None]:
    """Return class names and preprocessing as they are written.

    Raises:
        ValueError: If they are not a list of names, or not what JSON can hold.
    """
    if class_names is not None:
        # The order of a set, or of a dictionary's keys, need not be that of the classes.
        unordered = isinstance(class_names, (str, Mapping, set, frozenset))
        names = [] if unordered else list(class_names)
        if not names or not all(isinstance(n, str) and n.splitlines() == [n] for n in names):
            raise ValueError(
                "`class_names` must be a list of names of one line, one per class in the order of "
                f"the outputs, such as ['cat', 'dog']. Received: {class_names!r}."
            )
        class_names = names
    if preprocessing is not None and not isinstance(preprocessing, str):
        if not isinstance(preprocessing, Mapping):
            raise ValueError(
                "`preprocessing` must be a dict such as {'scale': 1 / 255}, or a string. "
                f"Received: {preprocessing!r}."
            )
        preprocessing = {str(key): _plain(value) for key, value in preprocessing.items()}
        try:
            json.dumps(preprocessing, allow_nan=False)
            normalization_of(preprocessing)
        except (TypeError, ValueError) as error:
            raise ValueError(
                "`preprocessing` must hold numbers, strings, lists and dicts, and in 'scale', "
                "'mean' and 'std' a number, or one per channel, of which those of 'scale' and "
                f"'std' are not 0: {error}. Received: {preprocessing!r}."
            ) from None
    return class_names, preprocessing


def check_fits(
    class_names: Sequence[str] | None,
    preprocessing: Mapping[str, Any] | str | None,
    signatures: Mapping[str, Signature],
) -> None:
    """Refuse class names that do not fit the output they describe, or a preprocessing the input.

    Args:
        class_names: Names of the classes, or `None`.
        preprocessing: What was done to the input, or `None`.
        signatures: The file's signatures; both describe the ends of the first one.

    Raises:
        ValueError: If there is not one name per unit, or not one number per channel.
    """
    first = next(iter(signatures.values()))
    units = None if class_names is None else first.units
    if class_names and units and len(class_names) != (2 if units == 1 else units):
        raise ValueError(
            f"`class_names` has {len(class_names)} names, but the output "
            f"'{first.outputs[0]}' has {units} unit{'s' if units > 1 else ''}. "
            f"Pass {2 if units == 1 else units} names."
        )
    if isinstance(preprocessing, Mapping) and first.inputs:
        _check_channels(preprocessing, first.inputs[0].name, first.inputs[0].shape)


def _check_channels(
    preprocessing: Mapping[str, Any], name: str, shape: Sequence[int | None]
) -> None:
    sizes = tuple(shape[1:]) or (1,)  # of a sample, which may be one number
    if (last := sizes[-1]) is None:
        return
    channels = {last}
    if len(sizes) == 3 and sizes[0] is not None and sizes[0] < last:
        channels.add(sizes[0])  # channels first
    for key in ("scale", "mean", "std"):
        count = np.size(preprocessing.get(key, 0.0))
        if count != 1 and count not in channels:
            raise ValueError(
                f"`preprocessing['{key}']` has {count} numbers, but the input '{name}' has shape "
                f"{tuple(shape)}. Received: {preprocessing[key]!r}. Pass one number, or one per "
                "channel."
            )
    color = str(preprocessing.get("color", "")).upper()
    wanted = {"RGB": 3, "GRAYSCALE": 1}.get(color)
    if len(shape) == 4 and wanted is not None and wanted not in channels:
        raise ValueError(
            f"`preprocessing['color']` is {preprocessing['color']!r}, {wanted} per pixel, but the "
            f"input '{name}' has shape {tuple(shape)}. Pass the color that the input has, or none."
        )


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _ends(file: ModelFile, key: str, signature: Signature) -> dict[str, list[dict[str, Any]]]:
    named = file.signature(key)
    graph = file.signature_graphs()[key]
    wanted = ([i.name for i in signature.inputs], list(signature.outputs))
    inputs, outputs = (
        [{"name": n, **file.describe_tensor(graph, indices[n])} for n in names if n in indices]
        for names, indices in zip(wanted, named, strict=True)
    )
    return {"inputs": inputs, "outputs": outputs}


def check_places(target: pathlib.Path) -> None:
    """Make sure that the file and its JSON can be written.

    Raises:
        OSError: If one of them cannot.
    """
    check_writable(target)
    check_writable(metadata_path(target))


@contextlib.contextmanager
def written(
    target: pathlib.Path, content: bytes, metadata: dict[str, Any]
) -> Iterator[pathlib.Path]:
    """Write both files under temporary names, and move them into place behind the `with` block.

    The block may run the file, beside which its JSON stands, change `metadata`, and keep both from
    being moved by raising an error. Between the two moves, the old JSON does not describe the new
    file: its checksum tells.

    Args:
        target: The file's final path.
        content: Its bytes.
        metadata: The JSON's content.

    Yields:
        The temporary file's path.

    Raises:
        OSError: If the disk is full, or a file may not become as large.
    """

    def text() -> str:
        return json.dumps(metadata, indent=2, allow_nan=False) + "\n"

    with atomic_path(metadata_path(target)) as temporary_json, atomic_path(target) as temporary:
        temporary.write_bytes(content)
        temporary_json.write_text(text(), encoding="utf-8")
        beside = metadata_path(temporary)
        try:
            beside.write_text(text(), encoding="utf-8")
            yield temporary
            temporary_json.write_text(text(), encoding="utf-8")
        finally:
            beside.unlink(missing_ok=True)
