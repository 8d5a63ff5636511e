"""What became of each layer of a model: in Keras, and in the file."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_kd.system.user_warning import warn_user


@dataclasses.dataclass
class _Layer:
    """A layer as it is known from Keras, and what of the file was found to be its own."""

    result: dict[str, Any]
    kernel_sizes: set[int]
    found: list[Any] = dataclasses.field(default_factory=list)


def layer_results(
    model: Any, file: str | os.PathLike[str] | None = None
) -> tuple[list[dict[str, Any]], int | None]:
    """Return what became of each layer of a model.

    Args:
        model: A Keras model, a `tf_keras` model or what `kd.compress` returned.
        file: The `.tflite` file that was exported from it. Defaults to `None`: sizes are not
            looked at.

    Returns:
        A list in the form of a report's layers, and what of the file in bytes
        belongs to no layer (the graph, names, scales and metadata), or `None` without a file.

    Raises:
        OSError: If the file cannot be read.
    """
    if hasattr(model, "stages") and hasattr(model, "quantization_aware"):
        layers = [_of_record(record) for record in model.layers]
    else:
        layers = [_of_layer(path, layer) for path, layer in _leaves(model)]
    if file is None:
        return [layer.result for layer in layers], None
    from keras_kd.litert.constants import stored_tensors
    from keras_kd.litert.metadata import open_file, without_names

    content = pathlib.Path(file).read_bytes()
    opened = open_file(file, content)
    if not opened.has_names:
        warn_user(without_names(file))
    for tensor in stored_tensors(opened):
        owner = _owner(tensor, layers)
        if owner is not None:
            owner.found.append(tensor)
    for layer in layers:
        _take_file(layer)
    taken = sum(layer.result["bytes"] for layer in layers)
    return [layer.result for layer in layers], len(content) - taken


def _leaves(model: Any, prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for layer in getattr(model, "layers", ()):
        if isinstance(layer, keras.Model) or (
            getattr(layer, "layers", None) and hasattr(layer, "get_layer")
        ):
            found += _leaves(layer, f"{prefix}{layer.name}/")
        else:
            found.append((prefix + layer.name, layer))
    return found


def _result(name: str, class_name: str, parameters: int, **entries: Any) -> dict[str, Any]:
    return {
        "name": name,
        "class": class_name,
        "parameters": parameters,
        "sparsity": None,
        "bits": None,
        "bytes": None,
        "done": [],
        "not_done": [],
        **entries,
    }


def _of_record(record: Any) -> _Layer:
    sizes = {int(np.prod(shape)) for shape in record.shapes if len(shape) >= 2}
    return _Layer(
        _result(
            record.name,
            record.class_name,
            record.parameters,
            sparsity=record.sparsity,
            bits=record.bits,
            done=[str(text) for text in record.done],
            not_done=[str(text) for text in record.not_done],
        ),
        sizes,
    )


def _of_layer(path: str, layer: Any) -> _Layer:
    weights = list(layer.weights)
    kernels = [
        np.asarray(value)
        for value, weight in zip(layer.get_weights(), weights, strict=True)
        if len(weight.shape) >= 2 and "int" not in str(weight.dtype)
    ]
    size = sum(kernel.size for kernel in kernels)
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels)
    bits = {np.dtype(kernel.dtype).itemsize * 8 for kernel in kernels}
    return _Layer(
        _result(
            path,
            type(layer).__name__,
            int(sum(np.prod(weight.shape) for weight in weights)),
            sparsity=zeros / size if size else None,
            bits=max(bits, default=None),
        ),
        {kernel.size for kernel in kernels},
    )


def _owner(tensor: Any, layers: Sequence[_Layer]) -> _Layer | None:
    """Return the layer whose constant this is: by its own name, else by what takes it."""
    for names in ([tensor.name], tensor.users):
        named = _named(names, layers)
        if named:
            return max(
                named,
                key=lambda layer: (
                    tensor.axes >= 2 and tensor.elements in layer.kernel_sizes,
                    bool(layer.kernel_sizes),
                    layer.result["parameters"],
                ),
            )
    return None


def _named(names: Iterable[str], layers: Sequence[_Layer]) -> list[_Layer]:
    """Return the layers that tensors are named after, the likelier ones first.

    Tensors are named after the call stack, `"model_1/block_1/conv_1/Relu"`; where operators were
    fused, the names are joined by semicolons. A scope that is opened a second time gets a number,
    and quantization-aware training puts `quant_` before a layer's name.
    """
    found: list[_Layer] = []
    for name in names:
        for scope in name.split(";"):
            parts = [part.removeprefix("quant_") for part in scope.split("/")]
            without = [re.sub(r"_\d+$", "", part) for part in parts]
            again = bool(re.search(r"_\d+$", parts[0]))
            for scopes in (without, parts) if again else (parts, without):
                joined = f"/{'/'.join(scopes)}/"
                here = [layer for layer in layers if _stands_in(layer.result["name"], joined)]
                # The longest path: "block/conv" and not another layer that is called "conv".
                longest = max((len(layer.result["name"]) for layer in here), default=0)
                found += [
                    layer
                    for layer in here
                    if len(layer.result["name"]) == longest and layer not in found
                ]
    return found


def _stands_in(path: str, joined: str) -> bool:
    return f"/{path}/" in joined or ("/" in path and f"/{path.replace('/', '_')}/" in joined)


def _take_file(layer: _Layer) -> None:
    layer.result["bytes"] = sum(tensor.bytes for tensor in layer.found)
    kernels = [
        tensor
        for tensor in layer.found
        if tensor.axes >= 2 and tensor.elements in layer.kernel_sizes and tensor.zeros is not None
    ]
    if kernels:
        size = sum(kernel.elements for kernel in kernels)
        layer.result["sparsity"] = sum(kernel.zeros for kernel in kernels) / size
        layer.result["bits"] = max(kernel.bits for kernel in kernels)
