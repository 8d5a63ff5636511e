"""What a result is: the dict from which the page, the JSON file and the text table are made.

Times are milliseconds, sizes are bytes, accuracies are fractions in 0..1. Keys marked as
derived are computed by `complete_result`, whatever they held before, and may be left out. The
JSON file holds the completed result; a number that is not finite is `null` there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

SCHEMA_VERSION = 1


class FileResult(TypedDict):
    """The measurements of one `.tflite` file."""

    path: str  # relative to the folder of the report
    bytes: int
    zipped_bytes: int
    latency_ms_median: float  # one example at a time
    latency_ms_p90: float
    agreement: float | None  # share of examples classified as by the Keras model it came from
    operators: dict[str, int]  # how often each TFLite operator occurs


class _SeedResult(TypedDict):
    accuracy: float  # of the file where there is one, of the Keras model otherwise


class SeedResult(_SeedResult, total=False):
    """One model trained with one seed."""

    keras_accuracy: float  # of the Keras model, where `accuracy` is the file's


class Accuracy(TypedDict):
    """Accuracy over the seeds."""

    mean: float
    std: float | None  # sample standard deviation (n - 1); None for one seed
    values: list[float]  # in the order of `seeds`


class Ratio(TypedDict):
    """This model divided by the teacher, below 1 for a smaller one; None where not measured."""

    parameters: float | None
    bytes: float | None
    zipped_bytes: float | None
    latency: float | None


class _ModelResult(TypedDict):
    key: str  # unique; "teacher", "student_alone" and "distilled" are compared in the headline
    title: str
    description: str
    parameters: int
    nonzero_parameters: int
    seeds: dict[str, SeedResult]
    accuracy_of: Literal["file", "keras model"]
    file: FileResult | None  # of the first seed


class ModelResult(_ModelResult, total=False):
    """One model: a row of the table."""

    accuracy: Accuracy  # derived
    ratio_to_teacher: Ratio  # derived; None values without a teacher
    accuracy_drop_points: float | None  # derived; teacher minus this, in percentage points


class Curve(TypedDict):
    """The training history of one run. Curves of equal title are drawn in one plot."""

    title: str
    stage: str
    seed: int | None
    epochs: list[int]
    series: dict[str, list[float]]  # as in `keras.callbacks.History.history`


# By this form, because "class" is a Python keyword. What was done to one layer of the compressed
# model; `sparsity` in 0..1 and `bits` of a weight may be None where a layer has no weights.
LayerResult = TypedDict(
    "LayerResult",
    {
        "name": str,
        "class": str,
        "parameters": int,
        "sparsity": float | None,
        "bits": int | None,
        "what": str,
    },
)


class _Result(TypedDict):
    title: str
    dataset: str
    classes: list[str]
    command: str  # what to type to get this result again
    created: str  # ISO 8601
    versions: dict[str, str]
    seeds: list[int]
    environment: dict[str, Any]  # "cores", "processor", and what else describes the machine
    models: list[ModelResult]  # in the order of the table's rows


class Result(_Result, total=False):
    """The result of a run."""

    schema_version: int  # derived: `SCHEMA_VERSION`
    headline: list[str]  # derived: sentences
    curves: list[Curve]
    layers: list[LayerResult]
    layers_of: str  # the key of the model that `layers` describes
    notes: list[str]


def check_result(result: Mapping[str, Any]) -> None:
    """Check that `result` has the keys that a report needs.

    Args:
        result: A dict in the form of `Result`.

    Raises:
        TypeError: If `result` is not a dict.
        ValueError: If keys are missing (all are named), if there are no models, or if two models
            have the same key.
    """
    if not isinstance(result, Mapping):
        raise TypeError(f"A report is made from a dict; received {type(result).__name__}.")
    problems = _missing(result, Result, "result")
    for i, model in enumerate(result.get("models", ())):
        place = f"result['models'][{i}]"
        problems += _missing(model, ModelResult, place)
        if model.get("file") is not None:
            problems += _missing(model["file"], FileResult, f"{place}['file']")
        if "accuracy_of" in model and "file" in model:
            expected = "keras model" if model["file"] is None else "file"
            if model["accuracy_of"] not in (expected, "keras model"):
                problems.append(
                    f"{place}['accuracy_of'] is {model['accuracy_of']!r}, expected {expected!r}"
                )
        for seed, values in model.get("seeds", {}).items():
            problems += _missing(values, SeedResult, f"{place}['seeds'][{seed!r}]")
        if "seeds" in model and not model["seeds"]:
            problems.append(f"{place}['seeds'] is empty")
    for key, kind in (("curves", Curve), ("layers", LayerResult)):
        for i, entry in enumerate(result.get(key, ())):
            problems += _missing(entry, kind, f"result['{key}'][{i}]")
    if problems:
        raise ValueError("The result cannot be reported: " + "; ".join(problems) + ".")
    keys = [model["key"] for model in result["models"]]
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    if not keys or repeated:
        found = f"repeated: {', '.join(repeated)}" if repeated else "there is none"
        raise ValueError(f"result['models'] needs models with unique keys; {found}.")


def _missing(entry: Mapping[str, Any], kind: Any, place: str) -> list[str]:
    absent = sorted(kind.__required_keys__ - set(entry))
    return [f"{place} has no {', '.join(repr(key) for key in absent)}"] if absent else []
