"""Weights with many zeros in TFLite's sparse encoding, as far as LiteRT runs it rightly."""

from __future__ import annotations

import copy
import dataclasses
import pathlib
import tempfile
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from keras_kd.export.file_checks import signature_outputs
from keras_kd.litert.model_file import ModelFile, Tensor
from keras_kd.litert.packing import numbers
from keras_kd.litert.runtime import LiteRuntime, check_file

_SAMPLES = 8
# The type of weights and the operator which takes them, such as `("INT8", "CONV_2D")`.
Group = tuple[str, str]


def make_sparse(
    file: ModelFile, samples: Sequence[Mapping[str, np.ndarray]] | None, target: pathlib.Path
) -> tuple[ModelFile, str]:
    """Encode a file's weights sparsely as far as LiteRT then gives the same outputs.

    LiteRT's default delegate, XNNPACK, refuses some operators, and computes others wrongly, whose
    weights are filled in when the file is loaded. If not all can be encoded, the weights of one
    operator after the other are tried.

    Args:
        file: The file.
        samples: Arrays by input name, each of batch size 1, to compare outputs on. `None`: random
            numbers.
        target: The file's final name, for the message.

    Returns:
        The file, no larger than it was, and a sentence about what stayed dense, or `""`.
    """
    groups = encodable(file)
    content = file.packed()

    def encoded(chosen: Collection[Group]) -> bytes:
        changed = ModelFile(content)
        encode_sparse(changed, chosen)
        return changed.packed()

    with tempfile.TemporaryDirectory() as name:
        trial = _Trial(pathlib.Path(name), content, samples)
        best = encoded(groups)
        if len(best) >= len(content):
            return file, (
                f"'{target}' is written without sparse encoding, which would not make it "
                "smaller: no weight has enough zeros. Leave `sparse=True` out."
            )
        reason = trial.difference(best)
        if not reason:
            return ModelFile(best), ""
        chosen: list[Group] = []
        best = content
        for group in groups if len(groups) > 1 else ():
            tried = encoded([*chosen, group])
            if len(tried) < len(best) and not trial.difference(tried):
                chosen, best = [*chosen, group], tried
    left = ", ".join(f"{op} ({kind})" for kind, op in groups if (kind, op) not in chosen)
    return ModelFile(best), (
        f"'{target}' stores the weights of {left} densely despite `sparse=True`: {reason}. "
        'A pruned model of convolutions is smallest with quantization="int8", one of dense layers '
        'with "float16" or "float32".'
    )


class _Trial:
    """Runs encoded files beside the dense one.

    Args:
        folder: Where they are written.
        content: The dense file's bytes.
        samples: Inputs to compare outputs on, or `None`.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        content: bytes,
        samples: Sequence[Mapping[str, np.ndarray]] | None,
    ) -> None:
        self._folder = folder
        self._count = 0
        file = self._write(content)
        runtime = LiteRuntime(file)
        self._samples = list(samples or ())[:_SAMPLES] or [
            runtime.example_inputs(seed) for seed in range(_SAMPLES)
        ]
        self._expected = self._outputs(file)

    def difference(self, content: bytes) -> str:
        """Return why an encoded file may not be handed over, or `""`."""
        file = self._write(content)
        try:
            check_file(file)
            outputs = self._outputs(file)
        except (ValueError, RuntimeError) as error:
            text = str(error).replace(f"'{file}'", "it").splitlines()
            return " ".join(text)[:200].rstrip(". ")
        for given, wanted in zip(outputs, self._expected, strict=True):
            for name, values in wanted.items():
                gap = float(np.abs(given[name].astype(float) - values).max(initial=0.0))
                if not gap <= 1e-4 * float(np.abs(values).max(initial=0.0)) + 1e-6:
                    return f"LiteRT then computes '{name}' with an error of {gap:.2g}"
        return ""

    def _write(self, content: bytes) -> pathlib.Path:
        self._count += 1
        file = self._folder / f"{self._count}.tflite"
        file.write_bytes(content)
        return file

    def _outputs(self, file: pathlib.Path) -> list[dict[str, np.ndarray]]:
        runtime = LiteRuntime(file)
        return [*(runtime.predict(sample) for sample in self._samples), signature_outputs(file)]


# XNNPACK takes over the conversion of float16 weights to float32, and leaves it undone for other
# operators: an embedding then reads memory that nobody has written.
_FLOAT16_TAKERS = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"}
# What the operator which decodes a tensor, and the tensor that it fills, take in the file.
_OVERHEAD = 400


def encodable(file: ModelFile) -> list[Group]:
    """Return the groups of weights which a sparse encoding would make smaller, the largest first.

    Args:
        file: The file.
    """
    saved: Counter[Group] = Counter()
    for weight in _weights(file):
        if weight.saved > 0:
            for group in weight.groups:
                saved[group] += weight.saved
    return [group for group, _ in saved.most_common()]


def encode_sparse(file: ModelFile, groups: Collection[Group]) -> None:
    """Encode weights of a file sparsely where that makes it smaller.

    Every encoded tensor keeps its nonzero values and their positions in its innermost dimension
    (compressed sparse rows); a DENSIFY operator fills the dense tensor when the file is loaded.
    The numbers are the same.

    Args:
        file: The file, which is changed.
        groups: Which weights: those all of whose uses belong to these groups.
    """
    for weight in list(_weights(file)):
        if weight.saved <= 0 or not weight.groups <= set(groups):
            continue
        # Without a nonzero value, one byte says that there are numbers.
        stored = weight.stored if len(weight.stored) else np.zeros(1, np.uint8)
        file.model.buffers[weight.buffer].data = stored.view(np.uint8)
        for graph, index in weight.places:
            tensor = file.model.subgraphs[graph].tensors[index]
            tensor.sparsity = _parameters(file.schema, numbers(tensor.shape), weight)
            _densify(file, graph, index)


@dataclasses.dataclass(frozen=True)
class _Weight:
    """A buffer with weights, and its numbers as compressed sparse rows."""

    buffer: int
    places: list[tuple[int, int]]
    groups: set[Group]
    stored: np.ndarray
    segments: np.ndarray
    indices: np.ndarray
    saved: int


def _weights(file: ModelFile) -> Iterator[_Weight]:
    uses: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for number, graph in enumerate(file.model.subgraphs):
        for index, tensor in enumerate(graph.tensors):
            uses[tensor.buffer].append((number, index))
    for buffer, places in uses.items():
        tensors = [file.tensor(*place) for place in places]
        first = tensors[0]
        if first.data is None or not _is_weight(tensors):
            continue
        takers = {name for graph, index in places for name in _takers(file, graph, index)}
        if not takers or (first.kind == "FLOAT16" and not takers <= _FLOAT16_TAKERS):
            continue
        values = first.data.view({"FLOAT32": "<f4", "FLOAT16": "<f2", "INT8": "i1"}[first.kind])
        rows = values.reshape(-1, first.shape[-1])
        kept = rows != 0
        indices = np.nonzero(kept)[1]
        segments = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
        stored = rows[kept]
        size = stored.nbytes + _width(indices) * len(indices) + _width(segments) * len(segments)
        saved = values.nbytes - size - _OVERHEAD * len(places)
        groups = {(first.kind, name) for name in takers}
        yield _Weight(buffer, places, groups, stored, segments, indices, saved)


def _is_weight(tensors: Sequence[Tensor]) -> bool:
    """Whether a buffer's tensors are one matrix of numbers whose zeros are stored as zeros."""
    first = tensors[0]
    same = all((t.shape, t.kind) == (first.shape, first.kind) for t in tensors)
    if not first.constant or len(first.shape) < 2 or not same or any(t.sparse for t in tensors):
        return False
    if first.kind == "INT8":
        return all(t.zero_points and not any(t.zero_points) for t in tensors)
    return first.kind in ("FLOAT32", "FLOAT16") and first.elements > 0


def _takers(file: ModelFile, graph: int, index: int) -> set[str]:
    """Names of the operators which take a tensor; those behind a DEQUANTIZE where there is one."""
    found = set()
    for operator in file.operators():
        if operator.graph == graph and index in operator.input_indices:
            if operator.name == "DEQUANTIZE":
                found |= _takers(file, graph, operator.output_indices[0])
            else:
                found.add(operator.name)
    return found


def _width(values: np.ndarray) -> int:
    largest = int(values.max(initial=0))
    return 1 if largest < 1 << 8 else 2 if largest < 1 << 16 else 4


def _parameters(schema: Any, shape: Sequence[int], weight: _Weight) -> Any:
    kind, dense = schema.DimensionType, schema.DimensionMetadataT
    last = dense(format=kind.SPARSE_CSR)
    last.arraySegmentsType, last.arraySegments = _vector(weight.segments, schema)
    last.arrayIndicesType, last.arrayIndices = _vector(weight.indices, schema)
    return schema.SparsityParametersT(
        traversalOrder=list(range(len(shape))),
        blockMap=[],
        dimMetadata=[*(dense(format=kind.DENSE, denseSize=size) for size in shape[:-1]), last],
    )


def _vector(values: np.ndarray, schema: Any) -> tuple[int, Any]:
    width = _width(values)
    name = {1: "Uint8Vector", 2: "Uint16Vector", 4: "Int32Vector"}[width]
    vector = getattr(schema, f"{name}T")(values.astype({1: "<u1", 2: "<u2", 4: "<i4"}[width]))
    return getattr(schema.SparseIndexVector, name), vector


def _densify(file: ModelFile, graph: int, index: int) -> None:
    """Put a DENSIFY operator between a tensor and those which take it."""
    schema, found = file.schema, file.model.subgraphs[graph]
    source, target = found.tensors[index], len(found.tensors)
    tensor = copy.copy(source)
    tensor.name, tensor.buffer, tensor.sparsity = (source.name or b"") + b"/dense", 0, None
    found.tensors.append(tensor)
    for operator in found.operators:
        operator.inputs = [target if i == index else i for i in numbers(operator.inputs)]
    densify = schema.OperatorT(
        opcodeIndex=file.operator_code("DENSIFY"),
        inputs=[index],
        outputs=[target],
        builtinOptionsType=schema.BuiltinOptions.DensifyOptions,
        builtinOptions=schema.DensifyOptionsT(),
    )
    found.operators.insert(0, densify)
