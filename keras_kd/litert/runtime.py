"""Running a TFLite file in LiteRT: loading, batches, quantized inputs and outputs."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_kd.data.input import Input
from keras_kd.litert import probe
from keras_kd.litert.loading import check_delegate, probe_file
from keras_kd.litert.loading import check_file as check_file
from keras_kd.litert.metadata import open_file
from keras_kd.litert.model_file import ModelFile
from keras_kd.system.arguments import number
from keras_kd.system.quiet import capture_output


class LiteRuntime:
    """A TFLite file loaded in LiteRT, with inputs and outputs as plain numbers.

    Quantized inputs are quantized and quantized outputs dequantized with the file's own scales, so
    that every file of one model takes and gives the same numbers.

    Args:
        path: The file.
        threads: Number of threads. Defaults to `1`.
        xnnpack: Whether LiteRT may use its default delegate, XNNPACK. Defaults to `True`; such a
            file must load with it. `None` uses it for files which do.
        preserve_all_tensors: Whether the values of inner tensors can be read after a run; not of
            those inside a delegate. Defaults to `False`.
        reference: Whether to use LiteRT's reference kernels, which microcontrollers' are made from,
            where XNNPACK is not used. Defaults to `False`: the optimized ones.

    Attributes:
        path: The file.
        file: Its `ModelFile`.
        inputs: Its inputs, as `Input`s, in the file's order.
        output_names: Its outputs' names, in the file's order.
        batch: The number of samples of a run; `None` for any.
        threads: Number of threads.
        probed: What was seen when the file was loaded for the first time.
        xnnpack: Whether LiteRT was given its default delegate.
        delegate: What runs the operators: XNNPACK, in one or several parts of the graph, or
            LiteRT's own kernels.

    Raises:
        OSError: If there is no readable file at `path`.
        ValueError: If the file is not one which LiteRT can run, or `threads` is below 1.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        threads: int = 1,
        xnnpack: bool | None = True,
        preserve_all_tensors: bool = False,
        reference: bool = False,
    ) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        threads = number("threads", threads, least=1, whole=True)
        self.probed = probe_file(path)
        self.path = self.probed.path
        if xnnpack:
            check_delegate(self.probed)
        self.threads = threads
        self.xnnpack = self.probed.loads_with_xnnpack if xnnpack is None else xnnpack
        resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        if self.xnnpack or reference:
            resolver = OpResolverType.AUTO if self.xnnpack else OpResolverType.BUILTIN_REF
        content = self.path.read_bytes()
        self._load = functools.partial(
            Interpreter,
            model_content=content,
            num_threads=threads,
            experimental_op_resolver_type=resolver,
            experimental_preserve_all_tensors=preserve_all_tensors,
        )
        try:
            with capture_output():
                self._interpreter = self._load()
                with contextlib.suppress(probe.InputsRefusedError):  # they were made up
                    probe.run_once(self._interpreter)
                self.delegate = self._delegate()
        except UnicodeDecodeError as error:  # LiteRT checks a file's numbers, not its names
            raise ValueError(
                f"'{path}' is damaged: a name in it is not UTF-8 ({error}). Export the model again."
            ) from None
        self.file = open_file(self.path, content)
        self._keeps_state = self.file.remembers
        self._keeps_resources = any(o.name == "ASSIGN_VARIABLE" for o in self.file.operators())
        named_inputs, named_outputs = self.file.signature()
        self._input_details = self._interpreter.get_input_details()
        self._output_details = self._interpreter.get_output_details()
        if not self._input_details or not self._output_details:
            raise ValueError(
                f"'{path}' has no {'outputs' if self._input_details else 'inputs'}: there is "
                "nothing to measure. Export the model again."
            )
        names = _names(self._input_details, named_inputs)
        self.inputs = [
            _as_plain_numbers(*end) for end in zip(self._input_details, names, strict=True)
        ]
        self.output_names = _names(self._output_details, named_outputs)
        self.batch = self.inputs[0].shape[0] if self.inputs[0].shape else None
        if self._keeps_resources and self.inputs[0].shape:  # they hold as many samples as stated
            self.batch = int(self._input_details[0]["shape"][0])

    def _delegate(self) -> str:
        # The interpreter has no public list of its delegated nodes.
        nodes = self._interpreter._get_ops_details()
        parts = sum(node["op_name"] == "DELEGATE" for node in nodes)
        if not parts:
            return "none (LiteRT's own kernels)"
        return f"XNNPACK ({parts} part{'s' if parts > 1 else ''})"

    def describe_tensors(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return name, shape, dtype and quantization of every input and of every output."""
        inputs = zip(self._input_details, (i.name for i in self.inputs), strict=True)
        outputs = zip(self._output_details, self.output_names, strict=True)
        return [_described(*end) for end in inputs], [_described(*end) for end in outputs]

    def output_specs(self) -> list[Input]:
        """Return name, shape and type of every output, as `predict` gives them."""
        ends = zip(self._output_details, self.output_names, strict=True)
        return [_as_plain_numbers(detail, name) for detail, name in ends]

    def tensor_shape(self, graph: int, index: int) -> tuple[int, ...]:
        """Return the shape which a tensor has at present: after a run, the one of that run."""
        detail = self._interpreter._get_tensor_details(index, graph)
        return tuple(int(size) for size in detail["shape"])

    def tensor_value(self, index: int) -> np.ndarray:
        """Return what a tensor holds after a run, dequantized; see `preserve_all_tensors`."""
        detail = self._interpreter._get_tensor_details(index, 0)
        return _dequantize(self._interpreter.get_tensor(index), detail)

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one batch of any size.

        A file with a fixed batch is run as often as needed, its last run filled up by repeating
        a sample. State, of operators such as fused LSTMs and in variables of the file, starts
        again before each run, so that no output depends on what was run before.

        Args:
            inputs: Arrays by input name, as `keras_kd.data.numpy_batches.iterate` gives them.

        Returns:
            Arrays by output name; float32 where the file's output is quantized.
        """
        if self.batch is None:
            return self._run(inputs)
        size = len(inputs[self.inputs[0].name])
        parts = []
        for start in range(0, size, self.batch):
            chosen = np.minimum(np.arange(start, start + self.batch), size - 1)
            outputs = self._run({name: array[chosen] for name, array in inputs.items()})
            kept = min(self.batch, size - start)
            parts.append({name: array[:kept] for name, array in outputs.items()})
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._keeps_resources:  # `reset_all_variables` leaves them as they are
            self._interpreter = self._load()
            self._interpreter.allocate_tensors()
            self._input_details = self._interpreter.get_input_details()
        self.set_inputs(inputs)
        if self._keeps_state:
            self._interpreter.reset_all_variables()
        self.invoke()
        # Output shapes can depend on the inputs: they are read after the run.
        details = self._output_details
        return {
            name: _dequantize(self._interpreter.get_tensor(d["index"]), d)
            for name, d in zip(self.output_names, details, strict=True)
        }

    def set_inputs(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Write one batch into the input tensors, resizing them where the file allows it."""
        arrays = [inputs[i.name] for i in self.inputs]
        resize = [
            tuple(d["shape"]) != array.shape
            for d, array in zip(self._input_details, arrays, strict=True)
        ]
        if self._keeps_resources and len(arrays[0]) != self.batch:  # LiteRT would not tell
            raise ValueError(
                f"'{self.path}' keeps state for {self.batch} sample(s). Received: inputs of shape "
                f"{arrays[0].shape}. Pass as many samples."
            )
        if any(resize):
            # Not under capture_output, which holds the whole process's output: as a teacher, this
            # runs while others print, and in several threads.
            try:
                for detail, array in zip(self._input_details, arrays, strict=True):
                    self._interpreter.resize_tensor_input(detail["index"], array.shape)
                self._interpreter.allocate_tensors()
            except RuntimeError as error:
                shapes = ", ".join(str(array.shape) for array in arrays)
                raise ValueError(
                    f"LiteRT cannot run '{self.path}' on inputs of shape {shapes}: {error}"
                ) from None
            self._input_details = self._interpreter.get_input_details()
        for detail, array in zip(self._input_details, arrays, strict=True):
            self._interpreter.set_tensor(detail["index"], probe.quantize(array, detail))

    def in_file_types(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return one batch as the file takes it: in its order, quantized where it is."""
        return [
            probe.quantize(inputs[i.name], d)
            for i, d in zip(self.inputs, self._input_details, strict=True)
        ]

    def in_numbers(self, outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return outputs in the file's order and types as `predict` gives them."""
        return [_dequantize(a, d) for a, d in zip(outputs, self._output_details, strict=True)]

    def invoke(self) -> None:
        """Run the file on what its input tensors hold."""
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise ValueError(f"LiteRT cannot run '{self.path}': {error}") from None

    def example_inputs(self, seed: int = 0) -> dict[str, np.ndarray]:
        """Return a batch of one: normal numbers for float inputs, ids that exist for integer ones.

        Where nothing tells which integers an input takes, they are 0 and 1.
        """
        generator = np.random.default_rng(seed)
        arrays = {}
        for detail, target in zip(self._input_details, self.inputs, strict=True):
            # probe.run_once has left a shape which works where the file allows any.
            shape = (1, *detail["shape"][1:]) if target.shape[:1] == (None,) else detail["shape"]
            if target.dtype.kind == "f":
                arrays[target.name] = generator.standard_normal(shape).astype(target.dtype)
            elif target.dtype.kind in "iub":
                rows = _rows_of_tables(self.file, detail["index"])
                ids = generator.integers(0, rows or 2, shape)
                arrays[target.name] = ids.astype(target.dtype)
            else:
                arrays[target.name] = np.zeros(shape, target.dtype)
        return arrays


def _names(details: Sequence[Mapping[str, Any]], named: Mapping[str, int]) -> list[str]:
    """Return the names of inputs or outputs; a tensor that stands several times has several."""
    left, names = dict(named), []
    for detail in details:
        same = (name for name, index in left.items() if index == detail["index"])
        names.append(next(same, detail["name"]))
        left.pop(names[-1], None)
    return names


def _sizes(detail: Mapping[str, Any]) -> list[int | None]:
    return [None if size == -1 else int(size) for size in detail["shape_signature"]]


def _as_plain_numbers(detail: Mapping[str, Any], name: str) -> Input:
    dtype = np.float32 if _is_quantized(detail) else detail["dtype"]
    return Input(name=name, shape=tuple(_sizes(detail)), dtype=np.dtype(dtype))


def _described(detail: Mapping[str, Any], name: str) -> dict[str, Any]:
    scale, zero_point = detail["quantization"] if _is_quantized(detail) else (None, None)
    return {
        "name": name,
        "shape": _sizes(detail),
        "dtype": np.dtype(detail["dtype"]).name,
        "scale": None if scale is None else float(scale),
        "zero_point": None if zero_point is None else int(zero_point),
    }


def _is_quantized(detail: Mapping[str, Any]) -> bool:
    return np.dtype(detail["dtype"]).kind in "iu" and detail["quantization"][0] != 0


def _dequantize(array: np.ndarray, detail: Mapping[str, Any]) -> np.ndarray:
    if not _is_quantized(detail):
        return array
    scale, zero_point = detail["quantization"]
    return ((array.astype(np.float64) - zero_point) * scale).astype(np.float32)


# Operators behind which an id is still itself; SELECT and ADD come from negative ids, which count
# from the end.
_CARRY = frozenset(
    {
        "ADD", "CAST", "EXPAND_DIMS", "RESHAPE", "SELECT", "SELECT_V2", "SLICE", "SQUEEZE",
        "STRIDED_SLICE", "TRANSPOSE",
    }
)  # fmt: skip
_TABLE_AND_IDS = {"GATHER": (0, 1), "EMBEDDING_LOOKUP": (1, 0)}


def _rows_of_tables(file: ModelFile, index: int) -> int | None:
    """Return the rows of the smallest table that an input looks up, `None` if it looks up none."""
    carried = {index}
    rows = []
    for operator in file.operators():
        if operator.graph or not carried & set(operator.input_indices):
            continue
        if operator.name in _TABLE_AND_IDS:
            table, ids = (operator.input_indices[k] for k in _TABLE_AND_IDS[operator.name])
            if ids in carried:
                rows.append(file.tensor(0, table).shape[0])
        elif operator.name in _CARRY:
            carried.update(operator.output_indices)
    return min(rows, default=None)
