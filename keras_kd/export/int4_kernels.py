"""What 4 bits cost each kernel of a file, and the kernels that get 8 bits for it."""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_kd.export.int4 import to_int4
from keras_kd.litert.mixing import computing_operators
from keras_kd.litert.model_file import ModelFile
from keras_kd.litert.runtime import LiteRuntime
from keras_kd.litert.signature_graphs import each_first
from keras_kd.measuring.differences import Differences

# 4 bits with a scale for each channel cost normally distributed weights 0.1.
LARGEST_ERROR = 0.2
_SAMPLES = 64
_MATRICES = ("CONV_2D", "FULLY_CONNECTED")


@dataclasses.dataclass(frozen=True)
class KernelIn4Bits:
    """What 4 bits cost a kernel.

    Attributes:
        output: Name of the output of its operator.
        error: Relative error of what the operator computes, if its inputs were uncorrelated: root
            of `sum(E[x²] (w - w4)²) / sum(E[x²] w²)`, where `x` is what a weight `w` is multiplied
            with; without data, `x` counts as 1.
        bits: The bits that it has in the file.
        clipped: Whether large weights were clipped.
    """

    output: str
    error: float
    bits: int
    clipped: bool


def to_4_or_8_bits(
    file: ModelFile, trained: bool, samples: Sequence[Mapping[str, np.ndarray]] = ()
) -> tuple[ModelFile, tuple[KernelIn4Bits, ...]]:
    """Return a float32 file with its weights in 4 bits, in 8 where 4 would change too much.

    Clipping large weights makes the error of the weights smallest, not always that of the outputs:
    where inputs rise and fall together, all that was clipped adds up. With samples the outputs
    decide whether weights are clipped, but for kernels that need 8 bits one way and not the other.

    Args:
        file: A float32 file.
        trained: Whether the weights were trained for 4 bits.
        samples: Inputs by name, each of batch size 1. Defaults to none.

    Returns:
        The file, and what 4 bits cost every kernel that could have them.
    """
    samples = samples[:_SAMPLES]
    powers = _powers(file, samples) if samples else {}
    ways = (False,) if trained else (True, False) if samples else (True,)
    files = {clip: to_int4(file, clip) for clip in ways}
    errors = {clip: _errors(file, files[clip], powers) for clip in ways}
    best = ways[0]
    if len(ways) > 1:
        exact = _outputs(file, samples)
        best = min(ways, key=lambda clip: _distance(exact, _outputs(files[clip], samples)))
    kernels = tuple(_decision(output, errors, best) for output in errors[best])
    eight = {kernel.output for kernel in kernels if kernel.bits == 8}
    clipped = {kernel.output for kernel in kernels if kernel.clipped}
    if not eight and len(clipped) == best * len(kernels):
        return files[best], kernels
    return to_int4(file, clipped, eight=eight), kernels


def _decision(output: str, errors: Mapping[bool, Mapping[str, float]], best: bool) -> KernelIn4Bits:
    error = errors[best][output]
    if error <= LARGEST_ERROR:
        return KernelIn4Bits(output, error, 4, best)
    if (other := errors.get(not best, {}).get(output, error)) <= LARGEST_ERROR:
        return KernelIn4Bits(output, other, 4, not best)
    return KernelIn4Bits(output, error, 8, False)


def _outputs(
    file: ModelFile, samples: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, list[np.ndarray]]:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "tried.tflite"
        path.write_bytes(file.packed())
        found: dict[str, list[np.ndarray]] = {}
        with each_first(path, list(file.signature_graphs())) as paths:
            for key, first in paths.items():
                runtime = LiteRuntime(first)
                for sample in samples:
                    for name, values in runtime.predict(sample).items():
                        found.setdefault(f"{key}/{name}", []).append(values)
    return found


def _distance(
    exact: Mapping[str, list[np.ndarray]], given: Mapping[str, list[np.ndarray]]
) -> float:
    """Return the mean square of the error of all outputs, each divided by its variance."""
    found = 0.0
    for name, values in exact.items():
        sums = Differences()
        for reference, output in zip(values, given[name], strict=True):
            sums.add(reference, output)
        found += (sums.relative_error or 0.0) ** 2
    return found


def _errors(
    file: ModelFile, quantized: ModelFile, powers: Mapping[str, np.ndarray]
) -> dict[str, float]:
    errors: dict[str, float] = {}
    pairs = zip(computing_operators(file), computing_operators(quantized), strict=True)
    for before, after in pairs:
        for i, j in zip(before.input_indices, after.input_indices, strict=True):
            stored = quantized.tensor(after.graph, j) if j >= 0 else None
            if stored is None or stored.kind != "INT4" or stored.data is None:
                continue
            data = file.tensor(before.graph, i).data
            if data is None:
                continue
            values = data.view("<f4").reshape(stored.shape).astype(np.float64)
            difference = _dequantized(quantized, after.graph, j) - values
            power = powers.get(before.outputs[0], np.ones(1))
            signal = float((power * values**2).sum())
            noise = float((power * difference**2).sum())
            errors[before.outputs[0]] = float(np.sqrt(noise / signal)) if signal else 0.0
    return errors


def _dequantized(file: ModelFile, graph: int, index: int) -> np.ndarray:
    """Return the numbers that a constant of 4 bits stands for."""
    tensor = file.tensor(graph, index)
    if tensor.data is None:
        raise ValueError(f"'{tensor.name}' is not a constant.")
    low, high = (tensor.data << 4).view(np.int8) >> 4, tensor.data.view(np.int8) >> 4
    values = np.stack([low, high], -1).ravel()[: tensor.elements].reshape(tensor.shape)
    axis = file.model.subgraphs[graph].tensors[index].quantization.quantizedDimension
    shape = [1] * values.ndim
    shape[axis] = -1
    scales = np.array(tensor.scales).reshape(shape if len(tensor.scales) > 1 else [1])
    return np.asarray(values * scales)


def _powers(file: ModelFile, samples: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the mean square of what each kernel is multiplied with, by channel of the input."""
    sums: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "float.tflite"
        path.write_bytes(file.packed())
        graphs = file.signature_graphs()
        with each_first(path, list(graphs)) as paths:
            for key, graph in graphs.items():
                runtime = LiteRuntime(paths[key], xnnpack=False, preserve_all_tensors=True)
                operators = [o for o in computing_operators(file) if o.graph == graph]
                for sample in samples:
                    runtime.predict(sample)
                    for operator in operators:
                        if operator.name not in _MATRICES:
                            continue
                        values = runtime.tensor_value(operator.input_indices[0]).astype(np.float64)
                        power = np.square(values).reshape(-1, values.shape[-1]).mean(0)
                        output = operator.outputs[0]
                        sums[output] = sums.get(output, 0.0) + power
    return sums


def sentence_on(kernels: Sequence[Mapping[str, Any]], path: Any) -> str:
    """Return which kernels have 8 bits because 4 would cost too much, or `""`.

    Args:
        kernels: `KernelIn4Bits` as dictionaries, with the `layers` of each.
        path: The file.
    """
    found = [kernel for kernel in kernels if kernel["bits"] == 8]
    if not found:
        return ""
    named = ", ".join(
        f"'{' + '.join(k['layers']) or k['output']}' ({k['error']:.0%})" for k in found[:5]
    )
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return (
        f"'{path}' stores {len(found)} of {len(kernels)} kernels in 8 bits, because 4 would change "
        f"what they compute by more than {LARGEST_ERROR:.0%}: {named}{more}."
    )
