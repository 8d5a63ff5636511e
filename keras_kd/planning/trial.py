"""Converting a model on trial, to name the operators that it becomes."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence

import keras
import numpy as np

from keras_kd.export.keras_source import KerasSource
from keras_kd.export.tflite import export_tflite
from keras_kd.litert.model_file import ModelFile

_SAMPLES = 4
_OPEN_SIZE = 16


@dataclasses.dataclass(frozen=True)
class Trial:
    """What a conversion on trial gave.

    Attributes:
        refusal: The message with which the export was refused, or `""`.
        operators: How often each operator occurs in the file.
        layers: The same by the path of the layer; operators that were fused count for the layer
            that their output is named after.
        float_layers: How many of them compute in float in an integer file, by path.
    """

    refusal: str
    operators: dict[str, int]
    layers: dict[str, dict[str, int]]
    float_layers: dict[str, int]


def try_export(model: keras.Model, paths: Sequence[str], quantization: str) -> Trial:
    """Export a model to a file that is thrown away.

    Args:
        model: A built Keras 3 model.
        paths: The paths of its layers.
        quantization: The format. Ranges come from random numbers.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = pathlib.Path(folder) / "model.tflite"
        integers = quantization in ("int8", "int16x8")
        data = _random_samples(model) if integers else None
        try:
            export_tflite(model, file, quantization, representative_data=data, verbose=False)
        except ValueError as error:
            return Trial(str(error).replace(str(file), file.name), {}, {}, {})
        content = ModelFile(file.read_bytes())
    layers: dict[str, Counter[str]] = {}
    for operator in content.operators():
        path = _layer_of(operator.outputs, paths)
        if path is not None:
            layers.setdefault(path, Counter())[operator.name] += 1
    floats = [_layer_of(o.outputs, paths) for o in content.float_operators()] if integers else []
    return Trial(
        "",
        content.operator_counts(),
        {path: dict(counts) for path, counts in layers.items()},
        dict(Counter(path for path in floats if path is not None)),
    )


def _layer_of(outputs: Sequence[str], paths: Sequence[str]) -> str | None:
    """Return the path of the layer which an operator's output is named after.

    Tensors are named after the call stack, `"model_1/block_1/conv_1/Relu"`; of operators that were
    fused, the names are joined by semicolons, the last layer's first.
    """
    for name in ";".join(outputs).split(";"):
        parts = name.split("/")
        # A scope that is opened a second time gets a number.
        for scopes in ([re.sub(r"_\d+$", "", part) for part in parts], parts):
            joined = f"/{'/'.join(scopes)}/"
            found = [path for path in paths if f"/{path}/" in joined]
            if found:
                return max(found, key=len)
    return None


def _random_samples(model: keras.Model) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    samples = {}
    for given in KerasSource(model).inputs:
        shape = (_SAMPLES, *(_OPEN_SIZE if size is None else size for size in given.shape[1:]))
        if np.dtype(given.dtype).kind == "f":
            samples[given.name] = generator.uniform(-1.0, 1.0, shape).astype(given.dtype)
        else:
            samples[given.name] = generator.integers(0, 2, shape).astype(given.dtype)
    return samples
