"""What a result is: the dict from which the page, the JSON file, the card and the table are made.

Times are milliseconds, sizes are bytes, accuracies and other shares are fractions in 0..1. Keys
marked as derived are computed by `complete_result`, whatever they held before, and may be left
out. The JSON file holds the completed result; a number that is not finite is `null` there.
`keras_kd.report.json_schema` writes these classes as a JSON Schema.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

SCHEMA_VERSION = 3
READABLE_VERSIONS = (2, SCHEMA_VERSION)
# What version 2 called otherwise.
_OLD_NAMES = {
    "latency_ms_median": "latency_ms",
    "latency_ms_p90": "latency_p90_ms",
    "latency_ms_p99": "latency_p99_ms",
    "latency_ms_without_xnnpack": "latency_without_xnnpack_ms",
    "keras_accuracy": "model_accuracy",
    "nonzero": "nonzero_parameters",
}


def with_current_names(entry: Any) -> Any:
    """Return what was measured of one file, seed or stage, with the keys of version 2 renamed."""
    if not isinstance(entry, dict):
        return entry
    return {_OLD_NAMES.get(key, key): value for key, value in entry.items()}


class _FileResult(TypedDict):
    path: str
    bytes: int
    zipped_bytes: int
    latency_ms: float | None
    latency_p90_ms: float | None
    agreement: float | None
    operators: dict[str, int]


class FileResult(_FileResult, total=False):
    """The measurements of one `.tflite` file.

    Attributes:
        path: Relative to the folder of the report.
        bytes: Size of the file.
        zipped_bytes: Size of a zip archive with the file in it.
        latency_ms: Median latency, one example at a time.
        latency_p90_ms: 90th percentile of the same.
        agreement: Share of examples classified as by the Keras model that it came from.
        operators: How often each TFLite operator occurs.
        latency_p99_ms: 99th percentile of the latency.
        latency_without_xnnpack_ms: Median latency with LiteRT's own kernels only.
        latency_runs: How many runs were timed.
        threads: Number of threads.
        delegate: What ran the operators.
        max_difference: Largest absolute difference to the Keras model's outputs.
        mean_difference: Mean absolute difference to the Keras model's outputs.
        peak_memory_bytes: Memory that running the file takes at its peak.
        loads_with_xnnpack: Whether LiteRT loads it with its default delegate.
        xnnpack_error: Why it does not.
        macs: Multiply-accumulate operations for one example.
        constants: How many numbers (weights, biases, tables) the file stores.
        zero_constants: How many of them are zero.
        constant_types: How many of them are of each type, as `{"INT8": 1200, "INT32": 30}`.
        float_operators: How often each operator occurs which computes in floating point.
    """

    latency_p99_ms: float | None
    latency_without_xnnpack_ms: float | None
    latency_runs: int
    threads: int
    delegate: str
    max_difference: float | None
    mean_difference: float | None
    peak_memory_bytes: int | None
    loads_with_xnnpack: bool | None
    xnnpack_error: str | None
    macs: int | None
    constants: int
    zero_constants: int
    constant_types: dict[str, int]
    float_operators: dict[str, int]


class _SeedResult(TypedDict):
    accuracy: float | None


class SeedResult(_SeedResult, total=False):
    """One model trained with one seed.

    Attributes:
        accuracy: Of the file where there is one, of the Keras model otherwise. `null` where the
            model was not measured with labels.
        model_accuracy: Of the Keras model, where `accuracy` is the file's.
        agreement: As in `FileResult`.
        bytes: Size of the file.
        zipped_bytes: Size of a zip archive with the file in it.
    """

    model_accuracy: float | None
    agreement: float | None
    bytes: int
    zipped_bytes: int


class Accuracy(TypedDict):
    """Accuracy over the seeds.

    Attributes:
        mean: Their mean; `null` where accuracy was not measured.
        std: Sample standard deviation (n - 1); `null` for one seed.
        values: In the order of `seeds`.
        interval: Wilson's 95 % interval of the mean by the number of test samples; `null` where
            that is not known.
    """

    mean: float | None
    std: float | None
    values: list[float | None]
    interval: list[float] | None


class Ratio(TypedDict):
    """This model divided by the teacher, below 1 for a smaller one; `null` where not measured.

    Attributes:
        parameters: Of the numbers of parameters.
        bytes: Of the sizes of the files.
        zipped_bytes: Of the sizes of the zipped files.
        latency_ms: Of the median latencies.
    """

    parameters: float | None
    bytes: float | None
    zipped_bytes: float | None
    latency_ms: float | None


class _ClassResult(TypedDict):
    label: int | str
    samples: int
    accuracy: float | None
    precision: float | None


class ClassResult(_ClassResult, total=False):
    """How one class is answered, with the first seed.

    Attributes:
        label: Index of the class, or its name.
        samples: How many test samples are of it.
        accuracy: Share of them that are answered rightly (the recall).
        precision: Share of right answers among those that name this class.
        change_points: Derived: accuracy minus the teacher's, in percentage points; `null` where
            there is no teacher to compare with.
    """

    change_points: float | None


class Bin(TypedDict):
    """The answers whose confidence lies between two bounds.

    Attributes:
        low: Lower bound of the confidence.
        high: Upper bound of the confidence.
        samples: How many answers there are.
        confidence: Their mean confidence (the largest probability); `null` without answers.
        accuracy: Share of right answers among them; `null` without answers.
    """

    low: float
    high: float
    samples: int
    confidence: float | None
    accuracy: float | None


class Calibration(TypedDict):
    """How well confidence tells accuracy, with the first seed (Guo et al. 2017, 1706.04599).

    Attributes:
        expected_calibration_error: Mean distance between confidence and accuracy over the bins,
            by samples.
        bins: By ascending confidence.
    """

    expected_calibration_error: float | None
    bins: list[Bin]


class _Curve(TypedDict):
    title: str
    epochs: list[int]
    series: dict[str, list[float | None]]


class Curve(_Curve, total=False):
    """The history of one training. Curves of equal title are drawn in one plot.

    Attributes:
        title: What was trained, as `"Pruning, with the teacher"`.
        epochs: From 1.
        series: One list a metric, as in `keras.callbacks.History.history`.
        stage: The stage's name.
        seed: The seed; `null` where it does not matter.
    """

    stage: str
    seed: int | None


_LayerResult = TypedDict(
    "_LayerResult",
    {
        "name": str,
        "class": str,  # a Python keyword, hence this form
        "parameters": int,
        "sparsity": float | None,
        "bits": int | None,
        "bytes": int | None,
        "done": list[str],
        "not_done": list[str],
    },
)


class LayerResult(_LayerResult, total=False):
    """One layer of a model, and what became of it.

    Attributes:
        name: The layer's name; `"backbone/block1"` for a layer inside a nested model.
        class: Its class.
        parameters: Number of its weights in the Keras model.
        sparsity: Share of zeros among its kernels (weights of two and more axes): in the file
            where the kernel was found there, in the Keras model otherwise; `null` without kernel.
        bits: Bits of a weight of its kernels, in the file where they were found there.
        bytes: What its numbers take in the file; `null` where that was not looked at. Numbers
            of a layer that was folded into another count there.
        done: What the stages did to it.
        not_done: What they did not do to it, and why.
    """


class StageResult(TypedDict):
    """One stage of a compression, or the student before the first one.

    Attributes:
        name: The stage's name; `"student"` before the first.
        stage: Its class; `""` before the first.
        outcome: `"before"`, `"done"`, `"done more gently"` or `"left out"`.
        epochs: Number of epochs that were trained.
        metrics: Loss and metrics on the validation data.
        metric: The metric that `drop` is of.
        drop: Points (hundredths of the metric) lost against the reference of `kd.compress`.
        parameters: Number of parameters, zeros included.
        nonzero_parameters: Number of parameters that are not zero.
        sparsity: Share of zeros among the weights of two and more axes.
        seconds: How long the stage took.
        config: Its configuration.
    """

    name: str
    stage: str
    outcome: str
    epochs: int
    metrics: dict[str, float | None]
    metric: str | None
    drop: float | None
    parameters: int
    nonzero_parameters: int
    sparsity: float
    seconds: float
    config: dict[str, Any]


class _ModelResult(TypedDict):
    key: str
    title: str
    description: str
    parameters: int | None
    nonzero_parameters: int | None
    seeds: dict[str, SeedResult]
    accuracy_of: Literal["file", "keras model"]
    file: FileResult | None


class ModelResult(_ModelResult, total=False):
    """One model: a row of the table.

    Attributes:
        key: Unique. All others are compared with `"teacher"`; `"student_alone"` and
            `"distilled"` are compared in the headline.
        title: What it is called.
        description: What it is, in a sentence.
        parameters: Number of parameters, zeros included; `null` where it is not known.
        nonzero_parameters: Number of parameters that are not zero.
        seeds: What was measured with each seed.
        accuracy_of: What `accuracy` was measured on.
        file: The first seed's file; `null` where none was exported.
        samples: How many test samples `accuracy` is of.
        metrics: Other metrics, of the first seed.
        per_class: How each class is answered.
        confusion: Counts of answers: a row a label, a column an answer.
        calibration: How well confidence tells accuracy.
        layers: What became of each layer.
        other_bytes: What of the file belongs to no layer: the graph and its metadata.
        stages: The stages of `kd.compress`.
        curves: The histories of its training.
        run: Position in the result's `runs` of the run that it comes from.
        accuracy: Derived.
        ratio_to_teacher: Derived; `null` values without a teacher.
        accuracy_drop_points: Derived: teacher minus this, in percentage points.
    """

    samples: int | None
    metrics: dict[str, float | None]
    per_class: list[ClassResult] | None
    confusion: list[list[int]] | None
    calibration: Calibration | None
    layers: list[LayerResult]
    other_bytes: int | None
    stages: list[StageResult]
    curves: list[Curve]
    run: int
    accuracy: Accuracy
    ratio_to_teacher: Ratio
    accuracy_drop_points: float | None


class _Run(TypedDict):
    command: str
    created: str
    versions: dict[str, str]
    seeds: list[int]
    environment: dict[str, Any]


class Run(_Run, total=False):
    """What was run, where and when.

    Attributes:
        title: The result's title.
        command: What to type to get this result again; `""` where it is not known.
        created: ISO 8601.
        versions: Of Python and of the packages.
        seeds: The seeds.
        environment: `"cores"`, `"processor"`, and what else describes the machine.
        recipe: Every choice of the run.
        seconds: How long each part took.
    """

    title: str
    recipe: dict[str, Any]
    seconds: dict[str, float]


class ParetoFronts(TypedDict):
    """Keys of the models to which no other one is superior, by ascending cost.

    Attributes:
        bytes: In accuracy and size of the file.
        zipped_bytes: In accuracy and size of the zipped file.
        latency_ms: In accuracy and median latency.
    """

    bytes: list[str]
    zipped_bytes: list[str]
    latency_ms: list[str]


class _Result(_Run):
    title: str
    dataset: str
    classes: list[str]
    models: list[ModelResult]


class Result(_Result, total=False):
    """The result of one run, or of several that were merged.

    Attributes:
        title: The headline of the page.
        dataset: The data set's name.
        classes: Names of the classes, in the order of the labels; empty where they have none.
        models: In the order of the table's rows.
        command: What to type to get this result again; `""` where it is not known.
        created: ISO 8601.
        versions: Of Python and of the packages.
        seeds: The seeds.
        environment: `"cores"`, `"processor"`, and what else describes the machine.
        recipe: Every choice of the run.
        seconds: How long each part took.
        notes: Sentences that a reader needs.
        runs: The runs that were merged into this result.
        schema_version: Derived: 3.
        headline: Derived: sentences.
        pareto_fronts: Derived.
    """

    recipe: dict[str, Any]
    seconds: dict[str, float]
    notes: list[str]
    runs: list[Run]
    schema_version: int
    headline: list[str]
    pareto_fronts: ParetoFronts
