"""Export of a trained model to a TFLite file."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from keras_kd.export.calibration import warnings_of as warnings_of_calibration
from keras_kd.export.conversion import Conversion, Converted
from keras_kd.export.exclusion import (
    FORMS,
    Exclude,
    check_exclude,
    check_excluded,
    excluded_layers,
    operator_layers,
)
from keras_kd.export.fidelity import (
    Expected,
    ExportedFile,
    Fidelity,
    measure_fidelity,
    shortfall,
)
from keras_kd.export.file_checks import (
    check_runs,
    refuse_custom_operators,
    try_flex,
    warnings_of,
)
from keras_kd.export.int4_kernels import sentence_on
from keras_kd.export.keras_source import KerasSource
from keras_kd.export.labels_in_file import embed, with_labels
from keras_kd.export.metadata import check_fits, check_labels, check_places, describe, written
from keras_kd.export.options import QUANTIZATIONS as QUANTIZATIONS
from keras_kd.export.options import (
    BatchSize,
    ExportOptions,
    check_data,
    check_target,
)
from keras_kd.export.promises import check_promises
from keras_kd.export.refusals import trained_for_8_bits, trained_for_int8, trained_not_for_int4
from keras_kd.export.remedies import find_remedy, in_another_form
from keras_kd.export.saved_model import SavedModelSource, source_of
from keras_kd.export.signatures import Signature, Target, check_signatures
from keras_kd.export.sparse import make_sparse
from keras_kd.export.ways import convert, way_of, with_fewer_scales
from keras_kd.litert.mixing import computing_operators
from keras_kd.litert.model_file import ModelFile
from keras_kd.litert.origin import remember_origin
from keras_kd.models.views import read_as
from keras_kd.models.weights import check_finite_weights
from keras_kd.system.names import suggests_arguments
from keras_kd.system.user_warning import warn_user

# So many real samples the finished file is first run on, one by one.
_TRIED = 32


@suggests_arguments
def export_tflite(
    model: Any,
    path: str | os.PathLike[str],
    quantization: str = "float32",
    representative_data: Any = None,
    *,
    validation_data: Any = None,
    min_agreement: float | None = 0.95,
    on_disagreement: str = "warn",
    calibration: str = "auto",
    calibration_batches: int | None = None,
    integer_io: bool = False,
    sparse: bool = False,
    batch_size: BatchSize | Mapping[str, BatchSize] = "auto",
    signatures: Mapping[str, Target] | None = None,
    allow_flex: bool = False,
    keep_names: bool = False,
    exclude: Exclude = None,
    class_names: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | str | None = None,
    verbose: bool = True,
) -> ExportedFile:
    """Convert a model to a TFLite file with builtin operators, and compare the file with it.

    The file computes inference: dropout and augmentation layers are removed, and a mixed precision
    model is exported in float32. Inputs and outputs keep the model's names and order. The file is
    run in LiteRT before it replaces an earlier file at `path`, on samples of `representative_data`
    if there are any. `<name>.tflite.json` beside it describes the file: see
    `keras_kd.read_metadata`. The converter's output is shown only if the export fails.

    Given data, model and file run on up to 128 samples that did not calibrate it, with XNNPACK and
    with LiteRT's built-in kernels, in every signature. The differences are in the `fidelity` of the
    result, in the JSON and in the printed line.

    Args:
        model: A built Keras 3 model (functional, sequential, or subclassed and called once), the
            result of `keras_kd.compress`, or a `tf_keras` model.
        path: Where to write the file; ends in `.tflite`. Missing folders are created.
        quantization: How values are stored and computed:

            - `"float32"`: as trained.
            - `"float16"`: weights stored in 16 bits, computation in float32.
            - `"weight_only"`: weights stored in 8 bits, computation in float32.
            - `"dynamic"`: weights stored in 8 bits, activations quantized at run time.
            - `"int8"`: weights and activations in 8 bits, with ranges from `representative_data`
              or from quantization-aware training. Inputs and outputs stay float32 unless
              `integer_io`.
            - `"int16x8"`: weights in 8 bits, activations in 16 bits.
            - `"int4"`: weights of dense layers, convolutions and embeddings in 4 bits, the rest as
              in `"dynamic"`; needs `pip install "keras-kd[int4]"`. Weights that LiteRT cannot run
              in 4 bits get 8, with a warning that names them.

            Defaults to `"float32"`.
        representative_data: Training data: a `tf.data.Dataset` or another iterable of `x`,
            `(x, y)` or `(x, y, sample_weight)`, such arrays, or a function without arguments that
            yields them, as TFLite's own `representative_dataset`. Activation ranges are calibrated
            from it for `"int8"` and `"int16x8"`. A quantization-aware model does not need it; if
            given, layers without trained quantization are quantized too. In every format, the file
            is compared with the model on samples of it that did not calibrate.
        validation_data: Data in the same forms for this comparison. Defaults to `None`: a part of
            `representative_data`; without either, nothing is compared.
        min_agreement: The smallest fraction of samples for which file and model must give the same
            answer. An error above 30 % of an output's spread, or of a constant output's size,
            counts as less. `None` sets no limit. Defaults to `0.95`.
        on_disagreement: What happens below it. `"warn"` names the layer in which the error grows,
            and another format that was tried and reaches it. `"error"` writes no file and leaves an
            earlier one unchanged. `"ignore"` does nothing. Defaults to `"warn"`.
        calibration: How ranges are found for `"int8"` and `"int16x8"`:

            - `"minmax"`: by the converter, from the smallest to the largest value.
            - `"percentile"` and `"mse"`: by the engine of `keras_kd.QuantizeAware`, from 99.99 % of
              the values, or with the smallest squared error. Outliers then do not widen the range,
              and a `BatchNormalization` after an activation becomes a depthwise convolution. For
              `"int8"`.
            - `"+equalization"` also equalizes the ranges of channels across layers, but not across
              what a signature gives, which may be anything if it is a function;
              `"+bias_correction"` corrects biases for rounded kernels: `"mse+equalization"`.
            - `"equalization"` also for `"dynamic"`, `"weight_only"` and `"int4"`.
            - `"auto"`: `"minmax"`. If fewer than 99 % of the answers agree, or the error exceeds
              10 % of an output's spread, on held-out samples, the other methods are tried, and the
              best one is kept and named in the result. Without data there is no such comparison,
              and no channels are equalized.

            Ranges of a quantization-aware model stay as they were trained. Defaults to `"auto"`.
        calibration_batches: Number of batches to use: the first ones of a dataset, or evenly spaced
            samples of arrays, 32 per batch. Defaults to `None`: 256 samples; of little data, a
            quarter is held out for the comparison. A warning states if there are too few samples,
            or if their labels lack a class.
        integer_io: Whether the file's float inputs and outputs become int8 (int16 for
            `"int16x8"`). The caller must then quantize inputs and dequantize outputs. Defaults to
            `False`.
        sparse: Whether weights with many zeros are stored in TFLite's sparse encoding, which makes
            the file of a pruned model smaller. The outputs are compared with the dense file's.
            Weights stay dense, with a warning, if LiteRT cannot run them: 8-bit weights of dense
            layers, all of `"dynamic"`. Not for `"int4"`. Defaults to `False`.
        batch_size: Size of the file's batch dimension. `None` leaves it open: the file runs at
            batch 1 until its inputs are resized. `"auto"` leaves it open unless the graph then
            needs operators that compute shapes at run time (recurrent layers, `Flatten`, `Reshape`,
            attention), and fixes it to 1 otherwise: this converts most operators and keeps the
            graph in one piece for LiteRT's delegates. A model that keeps state from call to call (a
            stateful recurrent layer) keeps its own. Pass a dict for one size per signature.
            Defaults to `"auto"`.
        signatures: Functions of the file by name, for LiteRT's `get_signature_runner`: `None` for
            the model's own outputs, the name of a layer or a list of names for their outputs, or a
            function that takes the model's inputs (in the model's structure) and returns tensors.
            The weights are stored once. With `"int16x8"` they cannot share state. Defaults to
            `None`: `{"serving_default": None}`.
        allow_flex: Whether the file may use TensorFlow's own operators ("flex", SELECT_TF_OPS) if
            TFLite has no builtin one. Such a file needs the Flex delegate, which this package's
            runtime does not have: it is written without a trial run, with a warning. Defaults to
            `False`: such an export raises an error that names the operators and layers.
        keep_names: Whether the file holds the names of inner tensors, for tools that draw its
            graph. Defaults to `False`: they are in the JSON beside the file, where
            `keras_kd.compare(..., per_layer=True)` and the report read them.
        exclude: Layers that stay in float while the rest is quantized: a name, a path
            (`"backbone/block1"`), a pattern (`"block*"`), a list of them, or a function
            `layer -> bool`. Layers that the converter fuses into one operator stay in float
            together. A dict selects another precision: `{"int16x8": ["logits"], "float32":
            ["pool*"]}` for `"int8"`, `{"dynamic": ..., "float32": ...}` for `"int4"`. The written
            file is read again; an excluded layer in integers is an error. Layers excluded by
            `keras_kd.QuantizeAware` are excluded here too. Defaults to `None`: none.
        class_names: Names of the classes, one per unit of the first output (two for a single
            unit; of integers, which are classes, as many as there are). They are stored in the file
            as TFLite Metadata (`labels.txt`) and in the JSON. Defaults to `None`.
        preprocessing: The preprocessing of the inputs, a string or a dict, stored like the class
            names. Readers of TFLite Metadata know the keys `"scale"`, `"mean"` and `"std"`, numbers
            or lists by channel, for `(x * scale - mean) / std`, and `"color"` (`"RGB"` or
            `"GRAYSCALE"`). Your own keys are stored too. Defaults to `None`.
        verbose: Whether to print one line about the file. Defaults to `True`.

    Returns:
        The file's path, a `pathlib.Path` with the attribute `fidelity`: a `keras_kd.Fidelity`, or
        `None` if nothing was compared.

    Raises:
        ValueError: If an argument is not one of those above, representative data is missing or
            does not fit, class names do not fit the output, the model cannot be converted to
            builtin operators, LiteRT cannot run the file, or its agreement is below
            `min_agreement` with `on_disagreement="error"`.
        TypeError: If `model` is not a model.
        OSError: If `path` cannot be written to, found before the conversion, or the disk is full.

    Example:

    ```python
    keras_kd.export_tflite(student, "exports/student.tflite")
    keras_kd.export_tflite(
        student, "exports/student_int8.tflite", "int8", representative_data=train
    )
    file = keras_kd.export_tflite(
        student, "exports/small.tflite", "int8", train, on_disagreement="error"
    )
    print(file.stat().st_size, file.fidelity.agreement)
    keras_kd.export_tflite(
        student,
        "exports/student_int4.tflite",
        "int4",
        signatures={"serving_default": None, "embed": "pool"},
        class_names=["cat", "dog"],
        preprocessing={"scale": 1 / 255, "color": "RGB"},
    )
    ```

    Reference:
        Jacob et al., 2018, "Quantization and Training of Neural Networks for Efficient Integer-
        Arithmetic-Only Inference" (arXiv:1712.05877), for `"int8"`.
    """
    options = ExportOptions(
        quantization,
        calibration_batches,
        integer_io,
        sparse,
        batch_size,
        signatures,
        allow_flex,
        min_agreement,
        on_disagreement,
        exclude,
    )
    way = way_of(calibration, quantization)
    target = check_target(path)
    names, preprocessing = check_labels(class_names, preprocessing)
    targets = check_signatures(signatures)
    source = source_of(model, targets, quantization)
    check_finite_weights(getattr(model, "model", model), "model")
    check_data(options, source.quantization_aware, representative_data)
    said: list[str | None] = []
    # A SavedModel has its quantizers in its graph: they cannot be left out.
    if source.quantization_aware and isinstance(source, SavedModelSource):
        if quantization == "int4":
            raise ValueError(trained_not_for_int4())
        if quantization not in ("float32", "int8"):
            said.append(trained_for_int8(quantization))
    check_places(target)
    start = time.perf_counter()
    trained = representative_data is not None or quantization != "int8"
    forms = _forms(source, exclude, quantization, trained)
    job = Conversion(source, options, lambda found: check_fits(names, preprocessing, found), forms)
    job.use_data(representative_data, validation_data)
    converted, ways = convert(job, source, way, quantization)
    file = converted.file
    operators = file.operators()
    if isinstance(source, KerasSource) and quantization in ("int8", "int4"):
        check_promises(source.model, source.weight_bits, file, target, quantization, forms)
    given = set(forms) - set(getattr(source, "excluded", ()))
    for excluded, sentence in converted.not_excluded.items():
        if excluded in given:
            raise ValueError(f"{sentence} Received: exclude={exclude!r}.")
        said.append(sentence)
        del forms[excluded]
    said.append(converted.clipped)
    asked = {kernel.output for kernel in converted.kernels if kernel.bits == 8}
    if forms:
        with read_as(source.model, converted.weights):  # kernels are known again by their values
            asked |= check_excluded(source.model, forms, file, converted.signatures, target)
    kernels = _kernels(source, converted, forms)
    said.append(sentence_on(kernels, target))
    if quantization == "int4" and set(source.weight_bits.values()) == {8}:
        said.append(trained_for_8_bits())
    flex = any(operator.is_flex for operator in operators)
    refuse_custom_operators(operators, target, allow_flex)
    expected = None if job.samples is None or flex else Expected(source, job.samples)
    calibrated = job.calibration is not None and not source.quantization_aware
    if expected is not None and calibrated and isinstance(source, KerasSource):
        file = with_fewer_scales(file, job, source, converted)
    if sparse:
        file, sentence = _sparse(file, job, target, flex)
        said.append(sentence)
    first = next(iter(converted.signatures.values()))
    inputs = [i.name for i in first.inputs]
    embed(file, inputs, first.outputs, names, preprocessing, first.gives_classes)
    content = with_labels(file.packed(keep_names), names)
    units = _units(first)
    ran = True
    samples = [] if job.samples is None else job.samples.singles(_TRIED)
    if flex:
        ran, sentence = try_flex(content, file, target, job.flex_layers, samples)
        said.append(sentence)
    facts = describe(
        content,
        file,
        target.name,
        quantization,
        converted.signatures,
        job.calibration,
        units,
        names,
        preprocessing,
        ran,
        forms,
        kernels,
    )
    if ways is not None:
        facts["calibration"] = {**(facts["calibration"] or {}), **ways}
    fidelity = None
    with written(target, content, facts) as temporary:
        if not flex:
            check_runs(temporary, file, target, converted.signatures, samples)
        if expected is not None:
            fidelity = measure_fidelity(expected, temporary)
            fidelity = dataclasses.replace(fidelity, calibration=(ways or {}).get("ranges"))
            facts["fidelity"] = fidelity.to_dict()
            if on_disagreement != "ignore" and fidelity.is_poor(min_agreement):
                made = functools.partial(in_another_form, model, options, job, converted)
                sentence = (
                    f"{shortfall(fidelity, target, quantization, min_agreement)} "
                    f"{find_remedy(quantization, made, expected, min_agreement)}"
                )
                if on_disagreement == "error":
                    raise ValueError(f"{sentence} The file was not written.")
                said.append(sentence)
    if next(iter(targets.values())) is None:  # what the file is measured on are the model's outputs
        remember_origin(target, model)
    if quantization != "float32" and source.recurrent_layers:
        said.append(_larger_than_float(model, len(content), options, job, converted))
    said += warnings_of(file, target, quantization, integer_io, asked)
    if job.calibration is not None:
        said += warnings_of_calibration(job.calibration, units, names)
    for sentence in filter(None, said):
        warn_user(sentence)
    if verbose:
        seconds = time.perf_counter() - start
        print(_line(target, quantization, content, converted, fidelity, seconds))
    result = ExportedFile(target)
    result.fidelity = fidelity
    return result


def _forms(
    source: KerasSource | SavedModelSource, exclude: Exclude, quantization: str, trained: bool
) -> dict[str, str]:
    """Return the precision of the layers that do not have the file's own, by path.

    What quantization-aware training left in float is in float of itself where nothing is
    calibrated, and counts only if `trained`.
    """
    if not isinstance(source, KerasSource):
        if exclude is not None:
            raise ValueError(
                "`exclude` needs a Keras 3 model: the layers of others are not known. "
                f"Received: model={type(source.model).__name__}. Leave `exclude` out."
            )
        return {}
    left = source.excluded if trained and FORMS[quantization] else ()
    chosen = excluded_layers(source.model, check_exclude(exclude, quantization))
    return {**dict.fromkeys(left, "float32"), **chosen}


def _kernels(
    source: KerasSource | SavedModelSource, converted: Converted, forms: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return what 4 bits cost the kernels that could have them, with the names of their layers."""
    layers: dict[str, tuple[str, ...]] = {}
    if converted.kernels and isinstance(source, KerasSource):
        found = operator_layers(converted.file, source.model, converted.signatures)
        operators = computing_operators(converted.file)
        layers = {o.outputs[0]: paths for o, paths in zip(operators, found, strict=True)}
    return [
        {"layers": list(layers.get(kernel.output, ())), **dataclasses.asdict(kernel)}
        for kernel in converted.kernels
        if not set(layers.get(kernel.output, ())) & set(forms)
    ]


def _larger_than_float(
    model: Any, size: int, options: ExportOptions, job: Conversion, converted: Converted
) -> str | None:
    """Return that a file is larger than as float32, where recurrent cells were unrolled."""
    plain = None
    if size > 4 * getattr(model, "model", model).count_params():  # what a float32 file holds
        with contextlib.suppress(ValueError):  # no reason to refuse the file asked for
            plain = in_another_form(model, options, job, converted, "float32")
    if plain is None or (smaller := len(plain.packed())) >= size:
        return None
    return (
        f"The file has {size:,} bytes, as float32 {smaller:,}: it has a copy of each recurrent "
        f'cell per step. Received: quantization={options.quantization!r}. Use "float32".'
    )


def _sparse(
    file: ModelFile, job: Conversion, target: pathlib.Path, flex: bool
) -> tuple[ModelFile, str]:
    if flex:
        return file, (
            f"'{target}' is written without sparse encoding: a file with flex operators cannot be "
            "compared with its dense form in LiteRT. Leave `sparse=True` out."
        )
    samples = None if job.samples is None else job.samples.singles(_TRIED)
    return make_sparse(file, samples, target)


def _units(signature: Signature) -> int | None:
    """How many numbers the first output has for a sample, or `None` where it is no vector."""
    if not signature.output_shapes or len(signature.output_shapes[0]) != 2:
        return None
    return signature.units


def _line(
    target: pathlib.Path,
    quantization: str,
    content: bytes,
    converted: Converted,
    fidelity: Fidelity | None,
    seconds: float,
) -> str:
    sizes = converted.batch_sizes
    if len(set(sizes.values())) == 1:
        batch = f"batch {next(iter(sizes.values())) or 'of any size'}"
    else:
        batch = "batch " + ", ".join(f"{n or 'of any size'} ({key})" for key, n in sizes.items())
    size = f"{len(content) / 1000:,.1f} kB"
    if fidelity is not None and fidelity.calibration not in (None, "minmax"):
        quantization = f"{quantization} ({fidelity.calibration})"
    measured = "not measured" if fidelity is None else str(fidelity)
    return f"{target}: {quantization}, {size}, {batch}, {measured}, written in {seconds:.1f} s"
