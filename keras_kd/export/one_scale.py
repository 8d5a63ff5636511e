"""Kernels of integers that are rounded as a whole, where the converter rounds each channel."""

from __future__ import annotations

import collections
import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from keras_kd.export.fidelity import Fidelity, OutputFidelity
from keras_kd.litert.model_file import ModelFile
from keras_kd.litert.packing import numbers

# Operators with a kernel: the positions of the kernel, of what it multiplies and of the bias.
_INPUTS = {
    "FULLY_CONNECTED": (1, 0, 2),
    "CONV_2D": (1, 0, 2),
    "DEPTHWISE_CONV_2D": (1, 0, 2),
    "TRANSPOSE_CONV": (1, 2, 3),
    "DEQUANTIZE": (0, 0, 1),  # of a kernel that is multiplied in float
}
_STEPS = 127
# A kernel's scale of a channel and its bias's.
_BYTES_OF_A_SCALE = 8
# What scales must take for files to be measured: bytes, and a part of the file.
_WORTHWHILE = (500, 0.01)
# Other samples change a signal-to-noise ratio by more.
_NOISE_DB = 0.1


def share_values(file: ModelFile, kernels: Sequence[np.ndarray]) -> None:
    """Give weights that have one value in the model one integer in the file.

    The converter rounds each channel by a scale of its own, so that a value that many channels
    share becomes many integers. Here a kernel is rounded as a whole. What a `BatchNormalization`
    multiplies a channel by becomes a part of the channel's scale; where it is negative, the channel
    holds the same integers with the other sign.

    Args:
        file: The file, which is changed.
        kernels: The kernels of the model whose values are shared.
    """
    for stored, rows in _known_kernels(file, kernels):
        stored.round_as_a_whole(rows)


def merge_scales(
    file: ModelFile, kernels: Sequence[np.ndarray], measure: Callable[[ModelFile], Fidelity]
) -> ModelFile:
    """Return a file whose dense kernels have one scale where that is smaller and loses nothing.

    A dense layer of few inputs has scales that take much of its bytes. All such kernels are rounded
    again with one scale, and the file is measured. If an output of any signature is farther from
    the model's than before, half of the kernels are tried, and so on. A kernel of several
    signatures is rounded in all of them or in none.

    Args:
        file: A file of integers.
        kernels: The kernels of the model.
        measure: Measures how close a file is to the model.
    """
    content = file.packed()
    dense = [group[0][0] for group in _dense_groups(ModelFile(content), kernels)]
    saved = _BYTES_OF_A_SCALE * sum(stored.count for stored in dense)
    if saved < _WORTHWHILE[0] or saved < _WORTHWHILE[1] * len(content):
        return file
    try:
        before = measure(file)
    except ValueError:  # LiteRT does not run it: the export says why
        return file

    def merged(chosen: Sequence[int]) -> ModelFile:
        made = ModelFile(content)
        found = _dense_groups(made, kernels)
        for stored, rows in itertools.chain.from_iterable(found[i] for i in chosen):
            stored.round_as_a_whole(stored.folded(rows))
        return made

    def grown(chosen: list[int], more: list[int]) -> list[int]:
        if _is_as_true(measure(merged(chosen + more)), before):
            return chosen + more
        half = len(more) // 2
        return grown(grown(chosen, more[:half]), more[half:]) if half else chosen

    order = sorted(range(len(dense)), key=lambda i: -dense[i].count)
    return merged(grown([], order))


def _is_as_true(fidelity: Fidelity, before: Fidelity) -> bool:
    return all(
        (now.agreement or 0.0) >= (then.agreement or 0.0)
        and _decibels(now) >= _decibels(then) - _NOISE_DB
        for now, then in zip(fidelity.outputs, before.outputs, strict=True)
    )


def _decibels(output: OutputFidelity) -> float:
    return math.inf if output.signal_to_noise_db is None else output.signal_to_noise_db


class _StoredKernel:
    """A kernel of 8 bits with a scale for each channel.

    Args:
        file: Its file.
        graph: Its graph, an object of the schema.
        index: Its tensor.
        users: The operators of the graph by the tensors that they take.
    """

    def __init__(
        self, file: ModelFile, graph: Any, index: int, users: dict[int, list[Any]]
    ) -> None:
        self._file, self._tensors, self._users = file, graph.tensors, users
        self._tensor, self._operators = graph.tensors[index], users[index]
        data = np.asarray(file.stored(self._tensor.buffer)).view(np.int8)
        self._moved = np.moveaxis(data.reshape(numbers(self._tensor.shape)), self._axis, 0)

    @property
    def _axis(self) -> int:
        return int(self._tensor.quantization.quantizedDimension)

    def rows_of(self, kernel: np.ndarray) -> np.ndarray | None:
        """Return a model's kernel with a row for each channel; `None` if it is another kernel.

        It is known again by its values, each channel divided by its largest.
        """
        count, size = self.count, self._moved[0].size
        integers = self._moved.reshape(count, size).astype("float64")
        for axes in ((-1,), (-2,), (-2, -1), (0,)):
            if kernel.size != count * size or kernel.ndim < 2 or size < 2:
                return None
            channels = sorted(axis % kernel.ndim for axis in axes)
            if np.prod([kernel.shape[axis] for axis in channels]) != count:
                continue
            rows = np.moveaxis(kernel, channels, range(len(channels))).reshape(count, size)
            rows = rows.astype("float64")
            parts = rows / np.maximum(np.abs(rows).max(1, keepdims=True), 1e-30)
            signs = np.where((parts * integers).sum(1, keepdims=True) < 0, -1.0, 1.0)
            if np.abs(_STEPS * signs * parts - integers).max() <= 0.51:
                return np.asarray(signs * rows)
        return None

    def round_as_a_whole(self, rows: np.ndarray) -> None:
        """Round it to the values that `rows_of` returned, in one step for all of them."""
        step, largest = np.abs(rows).max() / _STEPS, np.abs(rows).max(1)
        integers = np.round(rows / step).astype(np.int8).reshape(self._moved.shape)
        data = np.ascontiguousarray(np.moveaxis(integers, 0, self._axis))
        self._tensor.buffer = self._file.add_buffer(data)
        # A channel of zeros keeps its scale: nothing tells what it was multiplied by.
        filled = largest > 0
        factors = np.where(filled, step * _STEPS / np.where(filled, largest, 1.0), 1.0)
        scales = np.asarray(self._tensor.quantization.scale, "float64") * factors
        if self.takes_one_scale and np.allclose(scales[filled], scales[filled][0], rtol=1e-5):
            scales = scales[filled][:1]
        _set_scales(self._tensor, scales)
        self._rescale_biases(scales)

    @property
    def buffer(self) -> int:
        """The buffer that holds its integers."""
        return int(self._tensor.buffer)

    @property
    def count(self) -> int:
        """The number of its scales."""
        return len(self._moved)

    def folded(self, rows: np.ndarray) -> np.ndarray:
        """Return what `rows_of` returned with what each channel was multiplied by in the file."""
        largest = np.abs(rows).max(1, keepdims=True)
        scales = np.asarray(self._tensor.quantization.scale, "float64")[:, None]
        return np.asarray(
            rows * np.where(largest > 0, _STEPS * scales / np.maximum(largest, 1e-30), 0.0)
        )

    @property
    def takes_one_scale(self) -> bool:
        """Whether it is in integer products of dense layers only: convolutions ask for many."""
        names = {self._file.operator_name(operator)[0] for operator in self._operators}
        inputs = [numbers(operator.inputs)[0] for operator in self._operators]
        given = {self._file.type_name(self._tensors[i]) for i in inputs}
        return names == {"FULLY_CONNECTED"} and given <= {"INT8", "INT16"}

    def _rescale_biases(self, scales: np.ndarray) -> None:
        """Give the biases steps of the scale of what the kernel multiplies times the kernel's."""
        made: dict[tuple[int, float], int] = {}
        keys = [self._bias(operator) for operator in self._operators]
        for operator, key in zip(self._operators, keys, strict=True):
            if key is None:
                continue
            if key not in made:
                made[key] = key[0]
                if len(self._users[key[0]]) > keys.count(key):  # others take it, too
                    made[key] = len(self._tensors)
                    self._tensors.append(copy.deepcopy(self._tensors[key[0]]))
                bias = self._tensors[made[key]]
                before = np.asarray(bias.quantization.scale, "float64")
                kind = "<i4" if self._file.type_name(bias) == "INT32" else "<i8"
                values = np.asarray(self._file.stored(bias.buffer)).view(kind)
                values = np.round(values * before / (key[1] * scales)).astype(kind)
                bias.buffer = self._file.add_buffer(values)
                _set_scales(bias, key[1] * scales)
            place = _INPUTS[self._file.operator_name(operator)[0]][2]
            inputs = list(numbers(operator.inputs))
            operator.inputs = [*inputs[:place], made[key], *inputs[place + 1 :]]

    def _bias(self, operator: Any) -> tuple[int, float] | None:
        """Return the tensor of an integer bias, and the scale of what the kernel multiplies."""
        _, given, place = _INPUTS[self._file.operator_name(operator)[0]]
        inputs = numbers(operator.inputs)
        index = inputs[place] if place < len(inputs) else -1
        if index < 0 or not _scales(self._tensors[index]):
            return None
        return index, _scales(self._tensors[inputs[given]])[0]


def _scales(tensor: Any) -> tuple[Any, ...]:
    return () if tensor.quantization is None else numbers(tensor.quantization.scale)


def _set_scales(tensor: Any, scales: np.ndarray) -> None:
    quantization = tensor.quantization
    quantization.scale = scales.astype("float32")
    quantization.zeroPoint = np.zeros(len(scales), "int64")
    if len(scales) == 1:
        quantization.quantizedDimension = 0


def _known_kernels(
    file: ModelFile, kernels: Sequence[np.ndarray], dense: bool = False
) -> Iterator[tuple[_StoredKernel, np.ndarray]]:
    """Return the kernels of a file that are some of a model's, with the model's values."""
    for stored in _stored_kernels(file) if kernels else ():
        if dense and not stored.takes_one_scale:
            continue
        rows = next((r for r in map(stored.rows_of, kernels) if r is not None), None)
        if rows is not None and rows.any():
            yield stored, rows


def _dense_groups(
    file: ModelFile, kernels: Sequence[np.ndarray]
) -> list[list[tuple[_StoredKernel, np.ndarray]]]:
    """Return dense kernels as `_known_kernels`, those of one buffer together.

    None of a buffer that others take, too, which would have to stay.
    """
    users = collections.Counter(t.buffer for g in file.model.subgraphs for t in g.tensors or ())
    groups: dict[int, list[tuple[_StoredKernel, np.ndarray]]] = {}
    for stored, rows in _known_kernels(file, kernels, dense=True):
        groups.setdefault(stored.buffer, []).append((stored, rows))
    return [group for buffer, group in groups.items() if len(group) == users[buffer]]


def _stored_kernels(file: ModelFile) -> Iterator[_StoredKernel]:
    for graph in file.model.subgraphs:
        users: dict[int, list[Any]] = collections.defaultdict(list)
        for operator in graph.operators or ():
            for index in numbers(operator.inputs):
                users[index].append(operator)
        for index, tensor in enumerate(list(graph.tensors or ())):
            names = {file.operator_name(operator)[0] for operator in users[index]}
            if (
                file.type_name(tensor) == "INT8"
                and file.stored(tensor.buffer) is not None
                and len(_scales(tensor)) > 1
                and names <= _INPUTS.keys()
                and all(
                    numbers(operator.inputs)[_INPUTS[file.operator_name(operator)[0]][0]] == index
                    for operator in users[index]
                )
            ):
                yield _StoredKernel(file, graph, index, users)
