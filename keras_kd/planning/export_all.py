"""export_all: every form of file of a model, in one table."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from keras_kd.data.numpy_batches import check_repeats
from keras_kd.export.tflite import QUANTIZATIONS, export_tflite
from keras_kd.measuring.benchmark import benchmark_tflite_files
from keras_kd.measuring.evaluate import evaluate_tflite
from keras_kd.measuring.result import TFLiteResult
from keras_kd.system.names import one_of, suggests_arguments
from keras_kd.system.text_table import text_table


@dataclasses.dataclass(frozen=True)
class ExportForm:
    """One row of `ExportForms`.

    Attributes:
        quantization: The format, such as `"int8"`.
        result: What `evaluate_tflite` measured; `None` if the format was refused.
        latency_ratio: Median latency divided by that of the first file that was written, measured
            side by side; `None` if the format was refused.
        refused: Why the format was refused, or `""`.
    """

    quantization: str
    result: TFLiteResult | None
    latency_ratio: float | None = None
    refused: str = ""


@dataclasses.dataclass(frozen=True)
class ExportForms:
    """The files of a model in several formats. Printing it gives a table.

    Attributes:
        files: One `ExportForm` per format, in the order of `quantizations`.
    """

    files: tuple[ExportForm, ...]

    def __getitem__(self, quantization: str) -> ExportForm:
        """Return the row of a form."""
        for file in self.files:
            if file.quantization == quantization:
                return file
        raise KeyError(quantization)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as a dict which `json.dumps` accepts."""
        return {
            file.quantization: {
                "latency_ratio": file.latency_ratio,
                "refused": file.refused,
                "result": None if file.result is None else file.result.to_dict(),
            }
            for file in self.files
        }

    def __str__(self) -> str:
        """Return the table; forms that were refused follow with the reason."""
        rows = [["form", "bytes", "zipped", "accuracy", "agreement", "latency"]]
        for file in self.files:
            if file.result is not None:
                rows.append(
                    [
                        file.quantization,
                        f"{file.result.bytes:,}",
                        f"{file.result.zipped_bytes:,}",
                        _percent(file.result.accuracy),
                        _percent(file.result.agreement),
                        f"{file.latency_ratio:.2f}×",
                    ]
                )
        refused = [f"{file.quantization}: {file.refused}" for file in self.files if file.refused]
        return "\n".join([text_table(rows), *refused])


@suggests_arguments
def export_all(
    model: Any,
    folder: str | os.PathLike[str],
    data: Any,
    *,
    quantizations: Sequence[str] = QUANTIZATIONS,
    representative_data: Any = None,
    name: str | None = None,
    rounds: int = 50,
    verbose: bool = True,
    **options: Any,
) -> ExportForms:
    """Export a model in every format and measure the files on the same data.

    Args:
        model: As for `keras_kd.export_tflite`.
        folder: Where to write the files, as `<name>_<format>.tflite`.
        data: Data to measure on, as for `keras_kd.evaluate_tflite`: test data, with labels for
            the accuracy.
        quantizations: The formats. Defaults to all. A format that the model or this installation
            does not support is reported with the reason.
        representative_data: Training data to calibrate `"int8"` and `"int16x8"`. Defaults to
            `None`: they are refused unless the model was trained for 8 bits.
        name: Prefix of the files' names. Defaults to `None`: the model's name.
        rounds: Number of timed runs per file, in turn with the others. Defaults to `50`.
        verbose: Whether to show progress. Defaults to `True`.
        **options: Further arguments of `keras_kd.export_tflite`, for every format.

    Returns:
        An `ExportForms`.

    Raises:
        OSError: If a file cannot be written.
        TypeError: If an argument is of the wrong kind.
        ValueError: If a format does not exist, none can be exported, or data for several formats
            can be read only once.

    Example:

    ```python
    print(keras_kd.export_all(student, "exports", test, representative_data=train))
    ```
    """
    quantizations = [quantizations] if isinstance(quantizations, str) else list(quantizations)
    for quantization in quantizations:
        one_of("quantizations", quantization, QUANTIZATIONS)
    if len(quantizations) > 1:
        check_repeats(data, "data")
        check_repeats(representative_data, "representative_data")
    name = name or getattr(model, "name", "model")
    # The table shows the agreement of every form: none is a reason to warn and to try the others.
    options = {"on_disagreement": "ignore", **options}
    results: dict[str, TFLiteResult] = {}
    refused: dict[str, str] = {}
    for quantization in quantizations:
        path = pathlib.Path(folder) / f"{name}_{quantization}.tflite"
        samples = representative_data if quantization in ("int8", "int16x8") else None
        try:
            export_tflite(model, path, quantization, samples, verbose=verbose, **options)
        except (ValueError, ImportError) as error:
            refused[quantization] = str(error)
        else:
            results[quantization] = evaluate_tflite(path, data, model=model, verbose=verbose)
    if not results:
        raise ValueError(f"No form can be exported. {'; '.join(refused.values())}")
    times = benchmark_tflite_files([result.path for result in results.values()], rounds)
    first = next(iter(times.values())).latency_ms
    return ExportForms(
        tuple(
            ExportForm(form, None, refused=refused[form])
            if form in refused
            else ExportForm(form, results[form], times[results[form].path].latency_ms / first)
            for form in quantizations
        )
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.2%}"
