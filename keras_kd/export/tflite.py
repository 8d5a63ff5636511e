"""Conversion of a trained model to a TFLite file."""

from __future__ import annotations

import os
import pathlib
import re
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from keras_kd.export.batches import representative_samples
from keras_kd.export.origin import remember_origin
from keras_kd.export.refusals import missing_data, open_number_of_steps, trained_for_int8
from keras_kd.export.saved_model import (
    SIGNATURE,
    KerasSource,
    SavedModelSource,
    Signature,
    loops,
    source_of,
)
from keras_kd.files import atomic_path, check_writable
from keras_kd.litert.flatbuffer import ModelFile, Operator, order_inputs_and_outputs
from keras_kd.litert.runtime import check_file
from keras_kd.quiet import capture_output

QUANTIZATIONS = ("float32", "float16", "dynamic", "int8", "int16x8")
_INTEGER = ("int8", "int16x8")


def export_tflite(
    model: Any,
    path: str | os.PathLike[str],
    quantization: str = "float32",
    representative_data: Any = None,
    *,
    representative_samples_count: int = 256,
    integer_io: bool = False,
    sparse: bool = False,
    batch_size: int | Literal["auto"] | None = "auto",
    verbose: bool = True,
) -> pathlib.Path:
    """Convert a model to a TFLite file with builtin operators only.

    What is exported is inference: dropout and augmentation layers vanish, and a mixed precision
    model is exported in float32. Inputs and outputs keep the model's names and order. The finished
    file is loaded in LiteRT and run once before it takes its final name; until then, a file which
    stood at `path` stays. The converter's own text is shown only if the export fails.

    Args:
        model: A built Keras 3 model (functional, sequential, or subclassed and called once), the
            result of `keras_kd.compress`, or a `tf_keras` model.
        path: Where to write the file; ends in `.tflite`. Missing folders are created.
        quantization: How numbers are stored and computed:

            - `"float32"`: as trained.
            - `"float16"`: weights stored in 16 bits, computation in float32.
            - `"dynamic"`: weights stored in 8 bits, activations quantized while running.
            - `"int8"`: weights and activations in 8 bits, with ranges from `representative_data`
              or from quantization-aware training. Inputs and outputs stay float32 unless
              `integer_io`.
            - `"int16x8"`: weights in 8 bits, activations in 16 bits.

            Defaults to `"float32"`.
        representative_data: Training data from which activation ranges are calibrated for `"int8"`
            and `"int16x8"`: a `tf.data.Dataset` or another iterable of `x`, `(x, y)` or
            `(x, y, sample_weight)`, or such arrays. Not needed by a quantization-aware model; if
            given, the layers which were not trained with quantization are quantized by it too.
        representative_samples_count: How many samples are used: the first ones of a data set,
            evenly spaced ones of arrays. Defaults to `256`.
        integer_io: Whether the file's float inputs and outputs become int8 (int16 for
            `"int16x8"`), to be scaled by whoever runs it. Defaults to `False`.
        sparse: Whether weights with many zeros are stored in TFLite's sparse encoding, which makes
            the file of a pruned model smaller. Defaults to `False`.
        batch_size: Size of the file's batch dimension. `None` leaves it open: the file runs at
            batch 1 until its inputs are resized. `"auto"` leaves it open where the graph then needs
            no operators which compute shapes while running, and fixes it to 1 elsewhere (recurrent
            layers, `Flatten`, `Reshape`, attention): this converts most operators and keeps the
            graph in one piece for LiteRT's delegates. Defaults to `"auto"`.
        verbose: Whether to print one line about the file. Defaults to `True`.

    Returns:
        The file's path.

    Raises:
        ValueError: If an argument is not one of those above, if representative data is missing or
            does not fit, if the model cannot be converted to builtin operators (the operators and
            layers are named), or if LiteRT cannot run the result.
        TypeError: If `model` is not a model.
        OSError: If `path` cannot be written to; found before the conversion.

    Example:

    ```python
    export_tflite(student, "exports/student.tflite")
    export_tflite(student, "exports/student_int8.tflite", "int8", representative_data=train)
    ```

    Source: Jacob et al., 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference" (arXiv:1712.05877), for `"int8"`.
    """
    target = _check_arguments(
        path, quantization, representative_samples_count, integer_io, batch_size
    )
    source = source_of(model)
    needs_data = quantization in _INTEGER and not (
        quantization == "int8" and source.quantization_aware
    )
    if needs_data and representative_data is None:
        raise ValueError(missing_data(quantization))
    if source.quantization_aware and quantization in ("float16", "dynamic", "int16x8"):
        warnings.warn(trained_for_int8(quantization), stacklevel=2)
    check_writable(target)
    start = time.perf_counter()
    job = _Conversion(source, quantization, integer_io, sparse)
    if quantization in _INTEGER and representative_data is not None:
        job.use_representative(representative_data, representative_samples_count)
    content, batch = job.run(batch_size)
    file = ModelFile(content)
    _refuse_custom_operators(file.operators(), target)
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)
        _check_runs(temporary, target, quantization, sparse)
    remember_origin(target, model)
    if quantization in _INTEGER:
        _warn_of_float_operators(file, target, integer_io)
    if verbose:
        size = len(content) / 1000
        text = f"{target}: {quantization}, {size:,.1f} kB, batch {batch or 'of any size'}"
        print(f"{text}, converted in {time.perf_counter() - start:.1f} s")
    return target


def _check_arguments(
    path: str | os.PathLike[str],
    quantization: str,
    count: int,
    integer_io: bool,
    batch_size: int | str | None,
) -> pathlib.Path:
    if quantization not in QUANTIZATIONS:
        raise ValueError(
            f"`quantization` must be one of {list(QUANTIZATIONS)}. Received: {quantization!r}."
        )
    if integer_io and quantization not in _INTEGER:
        raise ValueError(
            '`integer_io=True` needs integers inside: use `quantization="int8"`. '
            f"Received: quantization={quantization!r}."
        )
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(
            f"`representative_samples_count` must be an integer of at least 1. Received: {count!r}."
        )
    whole = isinstance(batch_size, int) and not isinstance(batch_size, bool) and batch_size > 0
    if not (whole or batch_size is None or batch_size == "auto"):
        raise ValueError(
            "`batch_size` must be a positive integer, None (any size) or 'auto'. "
            f"Received: {batch_size!r}."
        )
    target = pathlib.Path(path)
    if target.suffix != ".tflite":
        raise ValueError(
            f"`path` must end in '.tflite'. Received: '{target}'. "
            f"Write to '{target.with_suffix('.tflite')}', for example."
            if target.name
            else f"`path` must be a file ending in '.tflite'. Received: '{target}'."
        )
    return target


class _Conversion:
    """One export: what is converted and how.

    Args:
        source: The model.
        quantization: One of `QUANTIZATIONS`.
        integer_io: Whether inputs and outputs are integers.
        sparse: Whether weights are stored sparsely.
    """

    def __init__(
        self,
        source: KerasSource | SavedModelSource,
        quantization: str,
        integer_io: bool,
        sparse: bool,
    ) -> None:
        self._source = source
        self._quantization = quantization
        self._integer_io = integer_io
        self._sparse = sparse
        self._data: tuple[Any, int] | None = None
        self._samples: list[dict[str, np.ndarray]] | None = None

    def use_representative(self, data: Any, count: int) -> None:
        """Calibrate with `count` samples of `data`."""
        self._data = data, count
        if isinstance(self._source, KerasSource):  # a mistake in the data shows before the work
            self._samples = representative_samples(data, self._source._inputs, count)

    def run(self, batch_size: int | str | None) -> tuple[bytes, int | None]:
        """Convert; return the file's content and its batch size."""
        if batch_size != "auto":
            size = batch_size if isinstance(batch_size, int) else None
            return self._convert(size), size
        try:
            content = self._convert(None)
        except _LoopError:
            raise
        except ValueError:
            return self._convert(1), 1
        # Shapes computed while running split the graph for delegates, and microcontrollers have no
        # kernels for them.
        if any(operator.name == "SHAPE" for operator in ModelFile(content).operators()):
            return self._convert(1), 1
        return content, None

    def _convert(self, batch_size: int | None) -> bytes:
        # The converter quantizes nothing inside loops, and its calibration crashes on them.
        unroll = self._quantization != "float32" and bool(self._source.recurrent_layers)
        if unroll and self._source.open_steps:
            raise _LoopError(open_number_of_steps(self._quantization, self._source.open_steps))
        with (
            tempfile.TemporaryDirectory() as name,
            capture_output(False) as captured,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            folder = pathlib.Path(name)
            signature = self._source.write(folder, batch_size, unroll)
            self._prepare(signature, folder)
            converter = self._converter(folder)
            try:
                content = converter.convert()
            except Exception as error:
                raise ValueError(_explain(error, captured.text)) from None
        return order_inputs_and_outputs(
            content, [i.name for i in signature.inputs], signature.outputs
        )

    def _prepare(self, signature: Signature, folder: pathlib.Path) -> None:
        if self._data is None:
            return
        if self._samples is None:
            self._samples = representative_samples(self._data[0], signature.inputs, self._data[1])
        if found := loops(folder):
            raise _LoopError(
                f'`quantization="{self._quantization}"` cannot calibrate the loops in this model '
                f"({', '.join(found[:5])}): the converter crashes on them. Write recurrent layers "
                "with `unroll=True` and a fixed number of steps, or export with "
                '`quantization="float32"`.'
            )

    def _converter(self, folder: pathlib.Path) -> tf.lite.TFLiteConverter:
        converter = tf.lite.TFLiteConverter.from_saved_model(
            os.fspath(folder), signature_keys=[SIGNATURE]
        )
        ops = tf.lite.OpsSet
        converter.target_spec.supported_ops = [ops.TFLITE_BUILTINS]
        optimizations = []
        if self._quantization != "float32":
            optimizations.append(tf.lite.Optimize.DEFAULT)
        if self._sparse:
            optimizations.append(tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
        converter.optimizations = optimizations
        if self._quantization == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if self._samples is not None:
            converter.representative_dataset = self._feed
            # Builtins stay allowed, so that an operator without an integer kernel is kept in float
            # and can be named, where the converter alone would only refuse.
            integers = {
                "int8": ops.TFLITE_BUILTINS_INT8,
                "int16x8": ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
            }[self._quantization]
            converter.target_spec.supported_ops = [integers, ops.TFLITE_BUILTINS]
        if self._integer_io:
            kind = tf.int8 if self._quantization == "int8" else tf.int16
            converter.inference_input_type = kind
            converter.inference_output_type = kind
        return converter

    def _feed(self) -> Iterator[dict[str, np.ndarray]]:
        yield from self._samples or ()


class _LoopError(ValueError):
    """A loop stands in the way of calibration, whatever the batch size."""


def _explain(error: Exception, output: str) -> str:
    text = f"{error}\n{output}"
    operators = sorted(set(re.findall(r"'tf\.(\w+)' op", text)) | set(_flex_names(text)))
    layers = sorted({match for match in re.findall(r'"([^"@]+)@__inference_\w+"', text)})
    layers = [layer for layer in layers if "PartitionedCall" not in layer]
    reason = "The model cannot be converted to TFLite with builtin operators"
    if operators:
        reason += f": TFLite has no builtin operator for {', '.join(operators)}"
    if layers:
        reason += f" (in {', '.join(layers[:5])})"
    return (
        f"{reason}. Replace what computes it by operators which TFLite has: "
        "https://ai.google.dev/edge/litert/models/ops_compatibility\n"
        f"The converter said:\n{_shorten(str(error) or output)}"
    )


def _flex_names(text: str) -> list[str]:
    names = re.search(r"(?:TF Select|Flex) ops: ([\w, ]+)", text)
    return [name.strip() for name in names.group(1).split(",")] if names else []


def _shorten(text: str, limit: int = 4000) -> str:
    # The notes repeat, for every error, the functions around it and the whole graph.
    lines = text.strip().split("<unknown>:0: note: see current operation")[0].splitlines()
    kept = dict.fromkeys(line for line in lines if not line.startswith("<unknown>:0: note:"))
    short = "\n".join(kept)
    return short if len(short) <= limit else f"{short[:limit]} [...]"


def _refuse_custom_operators(operators: list[Operator], target: pathlib.Path) -> None:
    custom = [operator for operator in operators if operator.custom]
    if custom:
        named = ", ".join(f"{o.name} (in {_place(o)})" for o in custom[:5])
        raise ValueError(
            f"'{target}' was not written: it would need operators which are not builtin: {named}. "
            "Replace the layers which compute them."
        )


def _place(operator: Operator) -> str:
    """The layer path in an operator's output name; fused operators join several by semicolons."""
    return operator.outputs[0].split(";")[0] if operator.outputs else "?"


def _check_runs(
    temporary: pathlib.Path, target: pathlib.Path, quantization: str, sparse: bool
) -> None:
    try:
        check_file(temporary)
    except ValueError as error:
        advice = (
            f' `sparse=True` does not work with quantization="{quantization}" for this model: '
            'leave it out, or use "float32" or "int8".'
            if sparse
            else ""
        )
        reason = str(error).replace(str(temporary), target.name)
        raise ValueError(f"'{target}' was not written. {reason}{advice}") from None


def _warn_of_float_operators(file: ModelFile, target: pathlib.Path, integer_io: bool) -> None:
    kept = file.float_operators()
    if kept:
        counts = Counter(operator.name for operator in kept)
        named = ", ".join(f"{name} x{n}" if n > 1 else name for name, n in counts.most_common())
        places = ", ".join(dict.fromkeys(_place(operator) for operator in kept[:5]))
        warnings.warn(
            f"'{target}' is not integer throughout: {named} stay in float (in {places}).",
            stacklevel=3,
        )
    if integer_io and (floating := file.float_inputs_and_outputs()):
        warnings.warn(
            f"'{target}' keeps float inputs or outputs in spite of `integer_io=True`: "
            f"{', '.join(floating)}. They belong to operators which stay in float.",
            stacklevel=3,
        )
