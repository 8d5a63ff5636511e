"""The arguments of an export, checked."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from keras_kd.export.exclusion import Exclude, check_exclude
from keras_kd.export.int4 import check_installed
from keras_kd.export.refusals import missing_data
from keras_kd.export.signatures import Target, check_signatures
from keras_kd.system.arguments import as_path, number
from keras_kd.system.names import one_of

QUANTIZATIONS = ("float32", "float16", "weight_only", "dynamic", "int8", "int16x8", "int4")
INTEGER = ("int8", "int16x8")
DISAGREEMENTS = ("warn", "error", "ignore")
BatchSize = int | str | None


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """The arguments of `export_tflite`, by the same names.

    Raises:
        ValueError: If one of them is not what it should be.
    """

    quantization: str = "float32"
    calibration_batches: int | None = None
    integer_io: bool = False
    sparse: bool = False
    batch_size: BatchSize | Mapping[str, BatchSize] = "auto"
    signatures: Mapping[str, Target] | None = None
    allow_flex: bool = False
    min_agreement: float | None = 0.95
    on_disagreement: str = "warn"
    exclude: Exclude = None

    def __post_init__(self) -> None:
        one_of("quantization", self.quantization, QUANTIZATIONS)
        if self.quantization == "int4":
            check_installed()
            if self.sparse:
                raise ValueError(
                    '`sparse=True` does not go with `quantization="int4"`: LiteRT has no kernels '
                    'for sparse weights of 4 bits. Leave it out, or use "int8".'
                )
        if self.integer_io and self.quantization not in INTEGER:
            raise ValueError(
                '`integer_io=True` needs integers inside: use `quantization="int8"`. '
                f"Received: quantization={self.quantization!r}."
            )
        number("min_agreement", self.min_agreement, least=0.0, most=1.0, optional=True)
        one_of("on_disagreement", self.on_disagreement, DISAGREEMENTS)
        check_exclude(self.exclude, self.quantization)
        number("calibration_batches", self.calibration_batches, least=1, whole=True, optional=True)
        check_signatures(self.signatures)
        self.batch_sizes(list(check_signatures(self.signatures)))

    def batch_sizes(self, names: list[str]) -> dict[str, BatchSize]:
        """Return the batch size of every signature.

        Args:
            names: The signatures' names.

        Raises:
            ValueError: If a size is none, or given for a signature that does not exist.
        """
        given = self.batch_size
        if isinstance(given, Mapping):
            if set(given) - set(names):
                raise ValueError(
                    f"`batch_size` names signatures which do not exist: "
                    f"{sorted(set(given) - set(names))}. There are: {names}."
                )
            sizes = {name: given.get(name, "auto") for name in names}
        else:
            sizes = dict.fromkeys(names, given)
        for size in sizes.values():
            whole = isinstance(size, int) and not isinstance(size, bool) and size > 0
            if not (whole or size is None or size == "auto"):
                raise ValueError(
                    "`batch_size` must be a positive integer, None (any size), 'auto', or a dict "
                    f"of these by signature. Received: {given!r}."
                )
        return sizes


def check_target(path: str | os.PathLike[str]) -> pathlib.Path:
    """Return the path of the file to write.

    Args:
        path: What `export_tflite` was given.

    Raises:
        TypeError: If it is not a path.
        ValueError: If it does not end in `.tflite`.
    """
    target = as_path(path, "Write export_tflite(model, path).")
    if target.suffix != ".tflite":
        raise ValueError(
            f"`path` must end in '.tflite'. Received: '{target}'. "
            f"Write to '{target.with_suffix('.tflite')}', for example."
            if target.name
            else f"`path` must be a file ending in '.tflite'. Received: '{target}'."
        )
    return target


def check_data(options: ExportOptions, quantization_aware: bool, data: Any) -> None:
    """Make sure that there is data where ranges are calibrated.

    Args:
        options: The arguments.
        quantization_aware: Whether the model holds trained ranges.
        data: The representative data, or `None`.

    Raises:
        ValueError: If data is needed and not given.
    """
    trained = options.quantization == "int8" and quantization_aware
    if options.quantization in INTEGER and not trained and data is None:
        raise ValueError(missing_data(options.quantization))
