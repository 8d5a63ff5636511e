"""The bits that a student was trained for, held against the written file."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from keras_kd.export.int4 import WITH_WEIGHTS
from keras_kd.litert.constants import BITS, FLOATS
from keras_kd.litert.model_file import ModelFile
from keras_kd.models.calls import operations_of


def check_promises(
    model: Any,
    bits: Mapping[str, int],
    file: ModelFile,
    target: Any,
    quantization: str,
    excluded: Collection[str] = (),
) -> None:
    """Refuse a file that holds a kernel in more bits than the student was trained for.

    A kernel is known again by its values, each channel divided by its largest: so it is found in
    every layout, with a `BatchNormalization` folded into it and in integers.

    Args:
        model: The student.
        bits: The bits that kernels were trained for, by the path of their layer.
        file: The file.
        target: Its final name, for messages.
        quantization: Its format.
        excluded: Paths of the layers that are to have other bits. Defaults to none.

    Raises:
        ValueError: If there is such a kernel; the layers are named.
    """
    least = 8 if quantization == "int8" else 4
    larger = list(stored_kernels(file, max(least, min(bits.values(), default=8))))
    if not larger:
        return
    operations = operations_of(model)
    broken: dict[str, str] = {}
    for path, promised in bits.items():
        if any(f"{path}/".startswith(f"{other}/") for other in excluded):
            continue
        weights = [w for w in getattr(operations.get(path), "weights", ()) if len(w.shape) > 1]
        above = [(kind, values) for kind, values in larger if BITS[kind] > max(promised, least)]
        for kind in itertools.chain(*(kinds_of(weight, above) for weight in weights)):
            broken[path] = kind
    if broken:
        named = ", ".join(f"'{path}' ({kind.lower()})" for path, kind in list(broken.items())[:5])
        path = next(iter(broken))
        raise ValueError(
            f"'{target}' was not written: it would hold kernels in more bits than they were "
            f"trained for. Received: quantization={quantization!r}, layers {named}. The converter "
            "keeps a kernel in float if its input is float: pass `representative_data` to "
            "calibrate the rest, or train with "
            f"keras_kd.QuantizeAware(exclude=[{path!r}])."
        )


def kinds_of(weight: Any, kernels: Iterable[tuple[str, np.ndarray]]) -> list[str]:
    """Return in which types a weight is stored.

    Args:
        weight: A variable of Keras.
        kernels: What `stored_kernels` returned.
    """
    return [
        kind
        for kind, values in kernels
        if np.prod(weight.shape) == values.size
        and _are_equal(
            np.asarray(weight.value), values, 1e-4 + (0.0 if kind in FLOATS else 0.5 / 127)
        )
    ]


def stored_kernels(file: ModelFile, bits: int) -> Iterator[tuple[str, np.ndarray]]:
    """Return type and values of every kernel in a file that has more bits."""
    made_by = {(o.graph, index): o for o in file.operators() for index in o.output_indices}
    seen = set()
    for operator in file.operators():
        for index in operator.input_indices if operator.name in WITH_WEIGHTS else ():
            while (made := made_by.get((operator.graph, index))) and made.name in _MOVED:
                index = made.input_indices[0]
            if index < 0 or (operator.graph, index) in seen:
                continue
            seen.add((operator.graph, index))
            tensor = file.tensor(operator.graph, index)
            if tensor.data is None or len(tensor.shape) < 2 or tensor.kind not in _KINDS:
                continue
            if BITS[tensor.kind] > bits:
                values = tensor.data.view(tensor.kind.lower()).astype("float32")
                yield tensor.kind, values.reshape(tensor.shape)


_KINDS = ("INT8", "FLOAT16", "FLOAT32")
_MOVED = ("DEQUANTIZE", "RESHAPE", "TRANSPOSE")


def _are_equal(kernel: np.ndarray, stored: np.ndarray, tolerance: float) -> bool:
    """Whether a kernel is stored there, up to its layout and a factor for each channel."""
    ours = [_signature(kernel, axes) for axes in ((-1,), (-2,), (-2, -1), (0,))]
    theirs = [_signature(stored, axes) for axes in ((0,), (-1,))]
    return any(np.allclose(a, b, rtol=0.0, atol=tolerance) for a in ours for b in theirs)


def _signature(values: np.ndarray, channels: Sequence[int]) -> np.ndarray:
    """Return the sizes of all values, those of each channel divided by its largest, in order."""
    kept = {axis % values.ndim for axis in channels}
    others = tuple(axis for axis in range(values.ndim) if axis not in kept)
    sizes = np.abs(values.astype("float32"))
    largest = np.maximum(sizes.max(axis=others, keepdims=True), 1e-12)
    return np.sort((sizes / largest).ravel())
