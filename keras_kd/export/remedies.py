"""Which other form of a file is true to its model where one is not."""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

from keras_kd.export.conversion import Conversion, Converted
from keras_kd.export.fidelity import Expected, Fidelity, measure_fidelity
from keras_kd.export.options import INTEGER, ExportOptions
from keras_kd.export.saved_model import source_of
from keras_kd.export.signatures import check_signatures
from keras_kd.litert.model_file import ModelFile

# What is tried, the smallest first.
_OTHERS = {
    "int4": ("dynamic", "float16"),
    "int8": ("int16x8", "dynamic", "float16"),
    "int16x8": ("dynamic", "float16"),
    "dynamic": ("weight_only", "float16", "float32"),
    "weight_only": ("float16", "float32"),
    "float16": ("float32",),
    "float32": (),
}


def find_remedy(
    quantization: str,
    convert: Callable[[str], ModelFile | None],
    expected: Expected,
    min_agreement: float | None,
) -> str:
    """Convert a model in other forms until one is true, and say what was found.

    Args:
        quantization: The form that is far from the model.
        convert: Returns the file in another form, or `None` where it cannot be made.
        expected: The model, and the samples that files are measured on.
        min_agreement: The least agreement that was asked for.

    Returns:
        A sentence with the first form that works, or with those that do not.
    """
    tried = []
    for form in _OTHERS[quantization]:
        try:
            file = convert(form)
            found = None if file is None else measure_file(file, expected)
        except ValueError:  # it cannot be converted, or LiteRT does not run it
            continue
        if file is None or found is None:
            continue
        if not found.is_poor(min_agreement):
            size = f"{len(file.packed(keep_names=False)):,} bytes"
            return f'Use quantization="{form}", which was tried: {size}, {found}.'
        tried.append(form)
    if not tried:
        return "Pass more representative data, or train with keras_kd.QuantizeAware."
    return (
        f"Tried without success: {', '.join(tried)}. Compare the layers with keras_kd.compare("
        "model, path, data, per_layer=True)."
    )


def in_another_form(
    model: Any, options: ExportOptions, job: Conversion, converted: Converted, form: str
) -> ModelFile | None:
    """Return what an export in another form would write; `None` where that needs more data.

    Args:
        model: What is exported.
        options: How.
        job: The conversion, with its data.
        converted: What it gave.
        form: The other form.
    """
    if form in INTEGER and job.calibration is None:
        return None
    changed = dataclasses.replace(
        options,
        quantization=form,
        integer_io=False,
        sparse=False,
        allow_flex=False,
        exclude=None,
        batch_size=converted.batch_sizes,
    )
    other = Conversion(source_of(model, check_signatures(options.signatures), form), changed)
    # With ranges, the converter would calibrate the loops of a float32 file, which it cannot.
    other.calibration = None if form == "float32" else job.calibration
    return other.run().file


def measure_file(file: ModelFile, expected: Expected) -> Fidelity:
    """Measure a file that is not kept.

    Args:
        file: The file.
        expected: The model and the samples.

    Raises:
        ValueError: If LiteRT does not run it.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = pathlib.Path(folder) / "tried.tflite"
        path.write_bytes(file.packed())
        return measure_fidelity(expected, path, layers=False)
