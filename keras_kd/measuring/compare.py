"""Comparing a TFLite file with the Keras model it was made from."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Callable
from typing import Any, ParamSpec

from keras_kd.data.numpy_batches import check_ends, iterate, with_progress
from keras_kd.litert.metadata import open_file
from keras_kd.litert.origin import origin
from keras_kd.litert.runtime import LiteRuntime
from keras_kd.measuring.answers import by_output, check_task
from keras_kd.measuring.per_layer import LayerComparison, LayerDifference
from keras_kd.measuring.positions import Positions
from keras_kd.measuring.reference import Reference
from keras_kd.measuring.scores import Scores
from keras_kd.measuring.selection import file_end, output_position
from keras_kd.system.arguments import number
from keras_kd.system.files import check_writable, write_json
from keras_kd.system.json_values import plain
from keras_kd.system.names import one_of, suggests_arguments

_P = ParamSpec("_P")

_GOOD, _FAIR, _BAD = "#a5d6a7", "#fff59d", "#ef9a9a"
_COLORS = {
    "relative_error": {0: _GOOD, 0.5: _FAIR, 1: _BAD},
    "signal_to_noise_db": {0: _BAD, 0.5: _FAIR, 1: _GOOD},
}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How much a file differs from its model.

    Attributes:
        path: The file.
        samples: How many samples were compared.
        output: The output that the figures refer to.
        agreement: Share of equal answers of samples (or positions, or units); `None` for
            regression.
        max_difference: Largest absolute difference of the outputs; `None`, as the next two, for
            an output that holds classes.
        mean_difference: Mean absolute difference.
        signal_to_noise_db: `10 log10(sum(output²) / sum(difference²))` in decibels, infinite if
            nothing differs.
        layers: A `LayerDifference` for every layer that has a tensor in the file, in the order of
            the file; `None` unless they were asked for.
        not_found: Layers without one: the converter removed them, or did not keep their names; and
            layers that are called more than once.
        float_layers: Whether the outputs are compared with a quantization-aware student, and the
            layers with the same student without its rounding.
    """

    path: str
    samples: int
    output: str
    agreement: float | None
    max_difference: float | None
    mean_difference: float | None
    signal_to_noise_db: float | None
    layers: tuple[LayerDifference, ...] | None = None
    not_found: tuple[str, ...] = ()
    float_layers: bool = False

    def _known(self) -> list[LayerDifference]:
        return [row for row in self.layers or () if row.relative_error is not None]

    @property
    def worst(self) -> LayerDifference | None:
        """The layer with the largest relative error; NaN counts as infinite."""
        return max(self._known(), key=lambda row: _size(row.relative_error), default=None)

    @property
    def grows_most(self) -> LayerDifference | None:
        """The layer in which the relative error grows most: the first place to look at."""
        return max(self._known(), key=lambda row: _size(row.growth), default=None)

    def first_above(self, relative_error: float = 0.1) -> LayerDifference | None:
        """Return the first layer with a larger relative error, or `None`.

        Args:
            relative_error: The relative error. Defaults to `0.1`.
        """
        above = [row for row in self._known() if _size(row.relative_error) > relative_error]
        return above[0] if above else None

    def write_node_data(
        self, path: str | os.PathLike[str], measure: str = "relative_error"
    ) -> pathlib.Path:
        """Write the error of every layer as node data for Google's Model Explorer.

        Open the `.tflite` file in Model Explorer and load the JSON with "Add per-node data": each
        operator is colored by the error of its output, green for the smallest and red for the
        largest. Operators are named by their number, so that the file needs no names inside.

        Args:
            path: Where to write the JSON.
            measure: `"relative_error"` or `"signal_to_noise_db"`, as in `LayerDifference`.
                Defaults to `"relative_error"`.

        Returns:
            The path.

        Raises:
            ValueError: If layers were not compared, or `measure` is another.
            OSError: If the JSON cannot be written.

        Source: https://github.com/google-ai-edge/model-explorer/wiki/2.-User-Guide
        """
        one_of("measure", measure, _COLORS)
        if self.layers is None:
            raise ValueError(
                "The layers were not compared. Received: per_layer=False. Use "
                "keras_kd.compare(path, data, model, per_layer=True)."
            )
        values = {str(row.operator): getattr(row, measure) for row in self.layers}
        graph = open_file(self.path).model.subgraphs[0].name
        content = {
            (graph or b"main").decode(): {
                "results": {
                    node: {"value": value}
                    for node, value in values.items()
                    if value is not None and math.isfinite(value)
                },
                "gradient": [
                    {"stop": stop, "bgColor": color} for stop, color in _COLORS[measure].items()
                ],
            }
        }
        target = check_writable(path)
        write_json(target, content)
        return target

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes as a dict for JSON, with `None` for an infinite ratio."""
        content: dict[str, Any] = plain(dataclasses.asdict(self))
        return content

    def __str__(self) -> str:
        """Return a few readable lines, and a table of the layers."""
        lines = [self.path]
        if self.agreement is not None:
            lines.append(f"agreement   {self.agreement:.2%} of {self.samples:,} samples")
        if self.mean_difference is not None:
            lines.append(
                f"difference  {self.mean_difference:.2g} on average, at most "
                f"{self.max_difference:.2g}; signal to noise {self.signal_to_noise_db:.1f} dB"
            )
        return "\n".join([*lines, *self._table()])

    def _table(self) -> list[str]:
        if self.layers is None:
            return []
        if not self.layers:
            return [
                "No layer was found in the file: the names of its tensors are of another model."
            ]
        names = [" + ".join(row.layers) for row in self.layers]
        width = max(len("layer"), *(len(name) for name in names))
        lines = ["", f"{'layer':<{width}}  {'type':<8}{'error':>8}{'dB':>8}{'growth':>9}"]
        for name, row in zip(names, self.layers, strict=True):
            error = "-" if row.relative_error is None else f"{row.relative_error:.2%}"
            growth = "-" if row.growth is None else f"x{row.growth:.1f}"
            noise = f"{row.signal_to_noise_db:.1f}"
            lines.append(f"{name:<{width}}  {row.kind:<8}{error:>8}{noise:>8}{growth:>9}")
        grows, worst = self.grows_most, self.worst
        if grows is not None and worst is not None:
            where = "grows nowhere to twice what comes in"
            if _size(grows.growth) >= 2:
                where = f"grows most in '{grows.layer}' (x{grows.growth:.1f})"
            lines.append(
                f"The error {where}; the largest relative error is that of '{worst.layer}' "
                f"({worst.relative_error:.2%})."
            )
        if self.float_layers:
            lines.append(
                "Layers are compared with the student in float, the output with what it computes "
                "in 8 bits."
            )
        if self.not_found:
            lines.append(f"Without a tensor of their own: {', '.join(self.not_found)}.")
        return lines


def _size(value: float | None) -> float:
    """Return a number that orders errors: 0 where there is none, infinity for NaN."""
    return math.inf if value is not None and math.isnan(value) else value or 0.0


def _model_may_come_first(function: Callable[_P, Comparison]) -> Callable[_P, Comparison]:
    """Let the order of earlier versions, `compare(model, path, data)`, mean what it meant."""

    @functools.wraps(function)
    def ordered(*args: _P.args, **kwargs: _P.kwargs) -> Comparison:
        if args and not isinstance(args[0], (str, os.PathLike)):
            named = dict(zip(("model", "path", "data"), args, strict=False))
            return function(**named, **kwargs)  # type: ignore[arg-type, call-arg]
        return function(*args, **kwargs)

    return ordered


@_model_may_come_first
@suggests_arguments
def compare(
    path: str | os.PathLike[str],
    data: Any,
    model: Any = None,
    *,
    per_layer: bool = False,
    output: int | str = 0,
    task: str | None = None,
    from_logits: bool | None = None,
    batch_size: int = 32,
    max_samples: int | None = 512,
    threads: int = 1,
    verbose: bool = True,
) -> Comparison:
    """Compare the outputs of a TFLite file with those of its Keras model.

    With `per_layer=True`, the inner tensors of the file are compared with the layers' outputs, to
    find the layer where a file loses accuracy. Tensors are found by their names, which the
    converter derives from the layers'. Not found are layers that it removes or folds into the next
    operator (dropout; a convolution before its normalization, which is named beside it), layers
    inside a loop, and operations that are not layers, such as an addition of two tensors. Layers
    that are called more than once are left out.

    Args:
        path: The file.
        data: Inputs, with or without labels, as for `keras_kd.evaluate_tflite`. Positions which
            the model's Keras mask leaves out, or whose sample weight is 0, are not compared; inner
            layers are compared at all positions.
        model: The model that the file was made from, a Keras or a compressed one. Defaults to
            `None`: the model that this process exported to `path`, if neither has changed since.
        per_layer: Whether to compare inner layers too. Defaults to `False`.
        output: The output that the figures refer to, by name or position. Defaults to `0`.
        task: As for `keras_kd.evaluate_tflite`. Defaults to `None`: classification.
        from_logits: As for `keras_kd.evaluate_tflite`. Defaults to the same rule.
        batch_size: Batch size for arrays and datasets which are not batched. Defaults to `32`.
        max_samples: The most samples to read: of arrays those at even distances, of anything else
            the first. `None` reads all. Defaults to `512`.
        threads: Number of threads. Defaults to `1`.
        verbose: Whether to show a progress bar for long runs. Defaults to `True`.

    Returns:
        A `Comparison`. Printing it gives a table that names the layer where the error grows most.

    Raises:
        OSError: If there is no file at `path`.
        ValueError: If it is damaged, was made from another model, or the data does not fit.
        TypeError: If `model` is not a model, or the data is of a type which the inputs do not take.

    Example:

    ```python
    print(keras_kd.compare("exports/student.tflite", test, student, per_layer=True))
    ```
    """
    model = origin(path) if model is None else model
    if model is None:
        raise TypeError(
            f"`model` is the model whose outputs '{path}' gives, and this process did not export "
            "it as its first signature. Received: model=None. Pass a Keras model or a compressed "
            "one with these outputs."
        )
    number("batch_size", batch_size, least=1, whole=True)
    number("max_samples", max_samples, least=1, whole=True, optional=True)
    check_task(task)
    check_ends(data, max_samples)
    runtime = LiteRuntime(path, threads, xnnpack=None)
    names = runtime.output_names
    position = output_position(names, output)
    answer = Reference(model, names, position, path, runtime.file)
    end = file_end(runtime.file, position) or answer.end
    scores = Scores(names[position], end, from_logits, task)
    positions = Positions(position)
    layers = LayerComparison(model, path) if per_layer else None

    inputs = answer.in_model_order(runtime.inputs)
    batches = iterate(data, inputs, batch_size, "data", max_samples)
    for batch in with_progress(batches, "Comparing", verbose):
        given = runtime.predict(batch.inputs)[names[position]]
        reference, masks = answer(batch.x)
        weights = by_output(
            batch.sample_weight,
            names,
            "sample weights",
            others=True,
            alone=None,
            places=answer.places,
        )
        scores.add(given, None, reference, positions.counted(batch, given, masks, weights))
        if layers is not None:
            layers.add([batch])
    scores.warn_of_not_finite(path)
    positions.warn_of_padding(scores.agreement is not None)
    differences = scores.differences
    if differences.largest is None and scores.agreement is None:
        what = "leaves every position out" if scores.samples else "is empty"
        raise ValueError(f"`data` {what}. Pass at least one batch to compare.")
    return Comparison(
        path=os.fspath(path),
        samples=scores.samples,
        output=names[position],
        agreement=scores.agreement,
        max_difference=differences.largest,
        mean_difference=differences.mean,
        signal_to_noise_db=differences.signal_to_noise_db,
        layers=None if layers is None else layers.result(),
        not_found=() if layers is None else tuple(layers.not_found),
        float_layers=layers is not None and bool(getattr(model, "quantization", None)),
    )
