"""From a SavedModel to a TFLite file."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import os
import pathlib
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_kd.data.input import Input
from keras_kd.export.calibration import (
    Calibration,
    Samples,
    calibrate,
    to_measure,
    to_measure_and_choose,
)
from keras_kd.export.converter_errors import explain, named_layers
from keras_kd.export.exclusion import exclude_layers
from keras_kd.export.float16 import keep_what_float16_loses
from keras_kd.export.int4 import gathers_to_lookups, to_int4
from keras_kd.export.int4_kernels import KernelIn4Bits, to_4_or_8_bits
from keras_kd.export.keras_source import KerasSource
from keras_kd.export.one_scale import share_values
from keras_kd.export.options import INTEGER, BatchSize, ExportOptions
from keras_kd.export.refusals import open_number_of_steps, several_in_16_bits
from keras_kd.export.saved_model import SavedModelSource
from keras_kd.export.signatures import Signature
from keras_kd.export.tracing import loops
from keras_kd.export.weight_only import to_weight_only
from keras_kd.litert.model_file import ModelFile
from keras_kd.litert.packing import numbers
from keras_kd.litert.probe import check_not_empty
from keras_kd.litert.signature_graphs import joined, order_signatures
from keras_kd.system.quiet import capture_output

# What is made from a file of float32, not by the converter.
_FROM_FLOAT = ("int4", "weight_only")
# What an open batch can cost: shapes computed while running, which split the graph for delegates,
# and what the converter only joins to one operator where every size is known.
_COSTLY = {"BATCH_TO_SPACE_ND", "BROADCAST_TO", "SHAPE", "SPACE_TO_BATCH_ND", "TILE"}


@dataclasses.dataclass(frozen=True)
class Converted:
    """What a conversion gave.

    Attributes:
        file: The file.
        signatures: Every signature by its name.
        batch_sizes: Size of every signature's batch dimension, `None` for any.
        not_excluded: What to say of layers that should have another precision and do not, by path.
        kernels: What 4 bits cost the kernels of an int4 file.
        beside: The bytes of files in other forms, where they were asked for and can be converted.
        weights: Variables whose values in the file are others than the model's, with these.
        clipped: A sentence on numbers that the format cannot hold, or `None`.
    """

    file: ModelFile
    signatures: dict[str, Signature]
    batch_sizes: dict[str, int | None]
    not_excluded: dict[str, str] = dataclasses.field(default_factory=dict)
    kernels: tuple[KernelIn4Bits, ...] = ()
    beside: dict[str, bytes] = dataclasses.field(default_factory=dict)
    weights: tuple[tuple[Any, Any], ...] = ()
    clipped: str | None = None


class Conversion:
    """One export: what is converted and how.

    Args:
        source: The model.
        options: How it is converted.
        check: Called with every signature before anything is converted; it may refuse them.
        forms: The precision of layers that do not have the file's own, by path. Defaults to none.

    Attributes:
        beside: Other forms to convert to, with the same batch sizes; none at first.
        calibration: The samples with which ranges are calibrated, or `None`.
        samples: What the file is measured on, or `None`.
        choosing: What ways to convert are compared on; none of the others.
        flex_layers: The layers which have no builtin operators.
    """

    def __init__(
        self,
        source: KerasSource | SavedModelSource,
        options: ExportOptions,
        check: Callable[[Mapping[str, Signature]], None] = lambda signatures: None,
        forms: Mapping[str, str] | None = None,
    ) -> None:
        self._source = source
        self._options = options
        self._check = check
        self._forms = forms or {}
        self.beside: Sequence[str] = ()
        self._data: tuple[Any, Any] = (None, None)
        self.calibration: Calibration | None = None
        self.samples: Samples | None = None
        self.choosing = Samples()
        self._seen: Sequence[Mapping[str, np.ndarray]] = ()
        self.flex_layers: list[str] = []

    def use_data(self, representative: Any, validation: Any) -> None:
        """Calibrate with data, and keep samples to measure the file on.

        Args:
            representative: Data that calibrates, or `None`; where nothing is calibrated, it is
                measured on.
            validation: Data that is measured on, or `None`: a part of the other.
        """
        self._data = (representative, validation)
        if isinstance(self._source, KerasSource):  # a mistake in the data shows before the work
            self._read(self._source.inputs)
            self._source.calibrated = self.calibration is not None

    def _read(self, inputs: Sequence[Input]) -> None:
        (representative, validation), self._data = self._data, (None, None)
        if representative is not None and self._is_integer:
            batches = self._options.calibration_batches
            kept = self.calibration = calibrate(representative, inputs, batches)
            self.samples, self.choosing = kept.measured, kept.choosing
        elif representative is not None and self._options.quantization == "int4":
            kept = calibrate(representative, inputs, None)
            self._seen, self.samples, self.choosing = kept.samples, kept.measured, kept.choosing
        elif representative is not None:
            self.samples, self.choosing = to_measure_and_choose(representative, inputs)
        if validation is not None:
            self.samples = to_measure(validation, inputs, "validation_data", self.calibration)

    def again(
        self, source: KerasSource | SavedModelSource, batch_sizes: dict[str, int | None] | None
    ) -> Conversion:
        """Return a conversion of another source with the same data and options.

        Args:
            source: The other source.
            batch_sizes: Known sizes of every signature's batch dimension, or `None`.
        """
        other = copy.copy(self)
        other._source = source
        if batch_sizes is not None:
            other._options = dataclasses.replace(self._options, batch_size=batch_sizes)
        return other

    @property
    def _is_integer(self) -> bool:
        return self._options.quantization in INTEGER

    def run(self) -> Converted:
        """Convert with builtin operators; with TensorFlow's own where allowed and needed."""
        try:
            return self._with_batch(flex=False)
        except NotConvertedError as error:
            if not self._options.allow_flex:
                raise
            self.flex_layers = error.layers
            return self._with_batch(flex=True)

    def _with_batch(self, flex: bool) -> Converted:
        wanted = self._options.batch_sizes(list(self._source.signature_names))
        if (size := self._batch_of_state(wanted)) is not None:
            if None in wanted.values():
                raise ValueError(
                    f"The model keeps state from one call to the next, for {size} sample(s): its "
                    "file cannot take a batch of any size. Received: batch_size=None. Leave "
                    "`batch_size` out."
                )
            wanted = {name: size if given == "auto" else given for name, given in wanted.items()}
        open_sizes, fixed_sizes = _sizes(wanted, None), _sizes(wanted, 1)
        if open_sizes == fixed_sizes:
            try:
                return self._convert(open_sizes, flex)
            except NotConvertedError as error:
                self._blame_the_batch(error, open_sizes, flex)
                raise
        fixed = None
        if self._needs_batch_size(open_sizes):  # one conversion then tells what two would
            fixed = self._convert(fixed_sizes, flex)
            if not _costly(fixed):
                return fixed
        try:
            converted = self._convert(open_sizes, flex)
        except NotConvertedError:
            return fixed or self._convert(fixed_sizes, flex)
        if not _costly(converted):
            return converted
        fixed = fixed or self._convert(fixed_sizes, flex)
        return fixed if _costly(fixed) < _costly(converted) else converted

    def _needs_batch_size(self, batch_sizes: dict[str, int | None]) -> bool:
        return isinstance(self._source, KerasSource) and self._is_so(
            self._source.needs_batch_size, batch_sizes
        )

    def _batch_of_state(self, wanted: Mapping[str, BatchSize]) -> int | None:
        """Return of how many samples the model keeps state, or `None`."""
        if not isinstance(self._source, KerasSource):
            return None
        own = next((i.shape[0] for i in self._source.inputs if i.shape), None)
        return (own or 1) if self._is_so(self._source.keeps_state, _sizes(wanted, own)) else None

    def _is_so(
        self,
        question: Callable[[Mapping[str, int | None], bool], bool],
        batch_sizes: dict[str, int | None],
    ) -> bool:
        with warnings.catch_warnings(), capture_output(False):
            warnings.simplefilter("ignore")
            try:
                return question(batch_sizes, self._unroll)
            except Exception:  # the conversion says what is wrong
                return False

    def _blame_the_batch(
        self, error: NotConvertedError, batch_sizes: dict[str, int | None], flex: bool
    ) -> None:
        """Raise another error where the open batch is what the converter stumbled over."""
        if flex or None not in batch_sizes.values():
            return
        try:
            self._convert({name: size or 1 for name, size in batch_sizes.items()}, flex)
        except NotConvertedError:
            return
        where = f" (in {', '.join(error.layers[:5])})" if error.layers else ""
        raise NotConvertedError(
            f"The model cannot be converted to TFLite with a batch of any size{where}, but it can "
            "with a fixed one. Received: batch_size=None. Leave `batch_size` out, or pass a "
            "number.",
            error.layers,
        ) from None

    @property
    def _unroll(self) -> bool:
        # The converter quantizes nothing inside loops, and its calibration crashes on them.
        return self._options.quantization != "float32" and bool(self._source.recurrent_layers)

    def _convert(self, batch_sizes: dict[str, int | None], flex: bool) -> Converted:
        quantization = self._options.quantization
        unroll = self._unroll
        if unroll and self._source.open_steps:
            raise ValueError(open_number_of_steps(quantization, self._source.open_steps))
        with (
            tempfile.TemporaryDirectory() as name,
            capture_output(False) as captured,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            folder = pathlib.Path(name)
            try:
                signatures = self._source.write(folder, batch_sizes, unroll)
            except (OSError, tf.errors.OpError) as error:
                reason = " ".join(str(error).split())[-300:]
                raise OSError(
                    f"The model could not be saved for the conversion in '{folder.parent}': "
                    f"{reason}. Free some space there, or set TMPDIR to another folder."
                ) from None
            for signature in signatures.values():
                for output, shape in zip(signature.outputs, signature.output_shapes, strict=False):
                    check_not_empty(output, shape)
            self._check(signatures)
            self._prepare(next(iter(signatures.values())), folder)

            @functools.cache
            def content_of(form: str, folder: pathlib.Path, *keys: str) -> bytes:
                sizes = {key: batch_sizes[key] for key in keys}
                converter = self._converter(folder, sizes, flex, form)
                try:
                    return bytes(converter.convert())
                except Exception as error:
                    layers = named_layers(f"{error}\n{captured.text}")
                    text = explain(error, captured.text, flex)
                    raise NotConvertedError(text, layers) from None

            def make(form: str, folder: pathlib.Path = folder) -> ModelFile:
                from_float = form in _FROM_FLOAT or quantization in _FROM_FLOAT
                form = "float32" if from_float else form
                # Weights that signatures share, the converter rounds for 16 bits more than once.
                groups = [[key] for key in signatures] if form == "int16x8" else [list(signatures)]
                files = [ModelFile(content_of(form, folder, *keys)) for keys in groups]
                if len(files) > 1 and any(len(file.model.subgraphs) > 1 for file in files):
                    raise ValueError(several_in_16_bits(list(signatures)))
                made = joined(files)
                order_signatures(made, list(signatures))
                for key, signature in signatures.items():
                    order_ends(made, key, [i.name for i in signature.inputs], signature.outputs)
                return made

            file = make(quantization)
            kernels: tuple[KernelIn4Bits, ...] = ()
            clipped: str | None = None
            if quantization == "weight_only":
                to_weight_only(file)
            elif quantization == "float16":
                clipped = keep_what_float16_loses(file, functools.partial(make, "float32"))
            elif quantization == "int4":
                trained = 4 in self._source.weight_bits.values()
                file, kernels = to_4_or_8_bits(file, trained, self._seen)
            problems: dict[str, str] = {}
            beside: dict[str, bytes] = {}
            if isinstance(self._source, KerasSource) and (self._forms or self.beside):
                plain = self._source.in_float()
                if plain is not self._source:  # whose outputs come from layers, not from quantizers
                    folder = folder / "plain"
                    signatures = plain.write(folder, batch_sizes, unroll)

                def other(form: str) -> ModelFile:
                    if form in INTEGER and self.calibration is None:
                        raise NotConvertedError(
                            f"Layers in {form!r} need ranges from data. Received: no "
                            "`representative_data`, or a mask of large numbers that hides all "
                            "others. Give data, or use 'float32'.",
                            [],
                        )
                    return self._to_stand_beside(make(form, folder), form)

                problems = exclude_layers(file, self._forms, other, plain.model, signatures)
                for form in self.beside:
                    with contextlib.suppress(NotConvertedError):
                        beside[form] = other(form).packed()
        share_values(file, self._source.clustered_kernels())
        return Converted(file, signatures, batch_sizes, problems, kernels, beside, clipped=clipped)

    def _to_stand_beside(self, file: ModelFile, form: str) -> ModelFile:
        """Return a file whose operators stand beside those of the file's own precision."""
        if form == "dynamic":  # of int4, whose kernels are those of ai-edge-quantizer
            return to_int4(file, bits=8)
        if self._options.quantization == "int4":
            gathers_to_lookups(file)
        return file

    def _prepare(self, signature: Signature, folder: pathlib.Path) -> None:
        self._read(signature.inputs)
        if self.calibration is not None and (found := loops(folder)):
            raise ValueError(
                f'`quantization="{self._options.quantization}"` cannot calibrate the loops in this '
                f"model ({', '.join(found[:5])}): the converter crashes on them. Write recurrent "
                "layers with `unroll=True` and a fixed number of steps, or export with "
                '`quantization="float32"`.'
            )

    def _converter(
        self, folder: pathlib.Path, sizes: Mapping[str, int | None], flex: bool, quantization: str
    ) -> tf.lite.TFLiteConverter:
        keys = list(sizes)
        converter = tf.lite.TFLiteConverter.from_saved_model(os.fspath(folder), signature_keys=keys)
        ops = tf.lite.OpsSet
        allowed = [ops.TFLITE_BUILTINS]
        if quantization != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantization == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if quantization in INTEGER and self.calibration is not None:
            converter.representative_dataset = lambda: self._feed(sizes)
            # Builtins stay allowed, so that an operator without an integer kernel is kept in float
            # and can be named, where the converter alone would only refuse.
            integers = {
                "int8": ops.TFLITE_BUILTINS_INT8,
                "int16x8": ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
            }[quantization]
            allowed = [integers, *allowed]
        converter.target_spec.supported_ops = [*allowed, ops.SELECT_TF_OPS] if flex else allowed
        if self._options.integer_io and quantization == self._options.quantization:
            kind = tf.int8 if quantization == "int8" else tf.int16
            converter.inference_input_type = kind
            converter.inference_output_type = kind
        return converter

    def _feed(self, sizes: Mapping[str, int | None]) -> Iterator[Any]:
        """Yield the samples for every signature, each repeated to the size of its batch."""
        for key, size in sizes.items():
            for sample in self.calibration.samples if self.calibration else []:
                batch = {n: a.repeat(size or 1, 0) if len(a) == 1 else a for n, a in sample.items()}
                yield batch if len(sizes) == 1 else (key, batch)


def _costly(converted: Converted) -> int:
    return sum(operator.name in _COSTLY for operator in converted.file.operators())


def order_ends(file: ModelFile, key: str, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give a graph's inputs and outputs the order of the model which it was made from.

    The converter sorts them by name, and runtimes address them by position. A file whose signature
    has other names stays as it is.

    Args:
        file: The file.
        key: The signature's name.
        inputs: The signature's input names in the wanted order.
        outputs: The signature's output names in the wanted order.
    """
    graph = file.model.subgraphs[file.signature_graphs().get(key, 0)]
    orders = []
    for names, named, present in zip(
        (inputs, outputs), file.signature(key), (graph.inputs, graph.outputs), strict=True
    ):
        order = [named[name] for name in names] if set(names) == set(named) else []
        if sorted(order) != sorted(numbers(present)):  # one tensor under two names, or none
            return
        orders.append(order)
    graph.inputs, graph.outputs = orders
    # Of the names of one tensor, the first one stands for its first place.
    definition = dict(zip(file.signature_graphs(), file.model.signatureDefs, strict=True))[key]
    for field, names, named in zip(
        ("inputs", "outputs"), (inputs, outputs), file.signature(key), strict=True
    ):
        entries = dict(zip(named, getattr(definition, field), strict=True))
        setattr(definition, field, [entries[name] for name in names])


class NotConvertedError(ValueError):
    """The converter refused a model.

    Args:
        message: Why.
        layers: The layers that it complained of.
    """

    def __init__(self, message: str, layers: list[str]) -> None:
        super().__init__(message)
        self.layers = layers


def _sizes(wanted: Mapping[str, BatchSize], auto: int | None) -> dict[str, int | None]:
    return {
        name: auto if size == "auto" else size  # type: ignore[misc]
        for name, size in wanted.items()
    }
