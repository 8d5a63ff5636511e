"""Limits for a file, for continuous integration."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from keras_kd.measuring.result import TFLiteResult
from keras_kd.system.arguments import exceeds, is_number, number


class BudgetExceeded(ValueError):
    """A file exceeds its budget.

    Attributes:
        broken: One sentence per limit that is exceeded.
        result: What was measured.
    """

    def __init__(self, broken: list[str], result: TFLiteResult) -> None:
        super().__init__(f"'{result.path}' exceeds its budget. {' '.join(broken)}")
        self.broken = broken
        self.result = result

    def __reduce__(self) -> tuple[type, tuple[list[str], TFLiteResult]]:
        """Return what `pickle` makes the error from again."""
        return type(self), (self.broken, self.result)


@dataclasses.dataclass(frozen=True)
class Budget:
    """Limits for what `keras_kd.evaluate_tflite` measures.

    Args:
        max_bytes: Largest size of the file, in bytes. Defaults to no limit, as all do.
        max_zipped_bytes: Largest size of a zip archive with the file in it.
        max_drop: By how many percentage points the file's accuracy may lie below the reference: 1.0
            allows 89.0 % where the reference has 90.0 %.
        min_accuracy: Least share of right answers, between 0 and 1.
        min_agreement: Least share of answers which are those of the Keras model, between 0 and 1.
        max_latency_ms: Longest median latency, in milliseconds, on the machine that measures.
        min_npu_share: Least share of the operators that run on the accelerator, between 0 and 1.
            This and the next need `keras_kd.evaluate_tflite(..., device=)`.
        max_sram: Most on-chip memory of the device, in bytes.

    Raises:
        TypeError: If a limit is not a number.
        ValueError: If a limit can never be met, or always is.

    Example:

    ```python
    budget = keras_kd.Budget(max_bytes=100_000, max_drop=1.0, min_agreement=0.98)
    budget.enforce(keras_kd.evaluate_tflite("exports/student.tflite", test, model))
    ```
    """

    max_bytes: int | None = None
    max_zipped_bytes: int | None = None
    max_drop: float | None = None
    min_accuracy: float | None = None
    min_agreement: float | None = None
    max_latency_ms: float | None = None
    min_npu_share: float | None = None
    max_sram: int | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            self._check_limit(field.name, getattr(self, field.name))

    @staticmethod
    def _check_limit(name: str, value: Any) -> None:
        if value is None:
            return
        if not is_number(value):
            raise TypeError(f"`{name}` must be a number. Received: {name}={value!r}.")
        if name.startswith("min"):
            number(name, value, least=0, most=1, advice="It is a share: write 0.9 for 90 %.")
        elif name == "max_drop":
            number(name, value, least=0, most=100, advice="Write 1.0 for one percentage point.")
        else:
            number(name, value, above=0)

    def check(self, result: TFLiteResult, reference_accuracy: float | None = None) -> list[str]:
        """Compare a result with the limits.

        A limit on something that was not measured counts as exceeded: continuous integration must
        not pass because labels or the model were forgotten.

        Args:
            result: What `keras_kd.evaluate_tflite` measured.
            reference_accuracy: What `max_drop` counts from, between 0 and 1, such as the teacher's
                accuracy. Defaults to the accuracy of the Keras model on the same samples, if the
                result has it.

        Returns:
            One sentence per limit that is exceeded; empty if none is.

        Raises:
            ValueError: If `reference_accuracy` is not a share.
        """
        if reference_accuracy is not None and not 0 <= reference_accuracy <= 1:
            raise ValueError(
                "`reference_accuracy` is a share between 0 and 1; write 0.9 for 90 %. "
                f"Received: {reference_accuracy!r}."
            )
        if reference_accuracy is None:
            reference_accuracy = result.model_accuracy
        return list(self._broken(result, reference_accuracy))

    def _broken(self, result: TFLiteResult, reference: float | None) -> Iterator[str]:
        for name, limit, value, what in (
            ("max_bytes", self.max_bytes, result.bytes, "file has"),
            ("max_zipped_bytes", self.max_zipped_bytes, result.zipped_bytes, "zipped file has"),
        ):
            if limit is not None and value > limit:
                yield f"The {what} {value:,} bytes, over {name}={limit:,}."
        labels = "labels in the data and a classification output"
        if self.max_drop is not None:
            if result.accuracy is None:
                yield f"max_drop={self.max_drop} could not be checked: it needs {labels}."
            elif reference is None:
                yield (
                    f"max_drop={self.max_drop} could not be checked: pass `reference_accuracy`, or "
                    "the Keras model to `evaluate_tflite`."
                )
            else:
                drop = 100 * (reference - result.accuracy)
                if exceeds(drop, self.max_drop):
                    yield (
                        f"Accuracy is {result.accuracy:.2%}, {drop:.2f} points below the reference "
                        f"of {reference:.2%}, over max_drop={self.max_drop}."
                    )
        cost = result.device_cost
        on_npu = None if cost is None else cost.npu_share
        for what, name, least, share, needs in (
            ("Accuracy", "min_accuracy", self.min_accuracy, result.accuracy, labels),
            ("Agreement", "min_agreement", self.min_agreement, result.agreement, "the Keras model"),
            ("The share on the NPU", "min_npu_share", self.min_npu_share, on_npu, "a `device`"),
        ):
            if least is None:
                continue
            if share is None:
                yield f"{name}={least} could not be checked: it needs {needs}."
            elif share < least:
                yield f"{what} is {share:.2%}, under {name}={least}."
        if self.max_latency_ms is not None and result.latency_ms > self.max_latency_ms:
            yield (
                f"The median latency is {result.latency_ms:.3g} ms, over "
                f"max_latency_ms={self.max_latency_ms}."
            )
        if self.max_sram is not None:
            if cost is None:
                yield f"max_sram={self.max_sram} could not be checked: it needs a `device`."
            elif not cost.npu_operators:
                yield (
                    f"max_sram={self.max_sram} could not be checked: nothing of the file runs on "
                    f"{cost.device}."
                )
            elif cost.sram_bytes > self.max_sram:
                yield (
                    f"{cost.device} needs {cost.sram_bytes:,} bytes of SRAM, over "
                    f"max_sram={self.max_sram:,}."
                )

    def enforce(self, result: TFLiteResult, reference_accuracy: float | None = None) -> None:
        """Raise `BudgetExceeded` unless all limits are kept.

        Args:
            result: What `keras_kd.evaluate_tflite` measured.
            reference_accuracy: As for `check`. Defaults to `None`.

        Raises:
            BudgetExceeded: With one sentence for every limit which is not kept. It is a
                `ValueError`.
        """
        broken = self.check(result, reference_accuracy)
        if broken:
            raise BudgetExceeded(broken, result)
