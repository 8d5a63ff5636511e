"""check: what stages and exports will do with each layer of a model."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras

from keras_kd.compression.clustering.cluster import Cluster
from keras_kd.compression.compress import remade
from keras_kd.compression.factorizing.low_rank import LowRank
from keras_kd.compression.pruning.prune import Prune
from keras_kd.compression.quantizing.quantize_aware import QuantizeAware
from keras_kd.compression.shrinking.shrink import Shrink
from keras_kd.compression.stages.order import check_order
from keras_kd.compression.stages.stage import Stage, stage_plans, stage_preview
from keras_kd.compression.stages.stage_list import check_stages
from keras_kd.distilling.distiller import Distiller
from keras_kd.export.tflite import QUANTIZATIONS
from keras_kd.models.graph import graph_of, is_graph
from keras_kd.models.layer_plan import LayerPlan, RefusedLayers
from keras_kd.planning.export_plans import plan_export, with_operators
from keras_kd.planning.model_check import LayerCheck, ModelCheck, Problem
from keras_kd.planning.trial import try_export

_FORMATS = tuple(name for name in QUANTIZATIONS if name != "int4")


def check(
    model: keras.Model,
    stages: Stage | Sequence[Stage] | None = None,
    exports: str | Sequence[str] = _FORMATS,
    *,
    convert: bool = False,
    verbose: bool = True,
) -> ModelCheck:
    """Say what stages and exports will do with each layer of a model, before anything is trained.

    Nothing is trained and the model stays as it is. What a stage will refuse is said in the words
    of the error that it would raise, and nothing is raised for it. Each stage is asked about the
    student that the earlier ones leave, and the exports about the one that all of them leave.

    Args:
        model: A built Keras 3 model: functional, sequential, nested or subclassed.
        stages: The stages as they are to be given to `compress`. Defaults to `None`: each of the
            five stages for itself, with the arguments that it has by default and a `ratio` of 0.5
            for `Shrink`, and the exports of the model as it is.
        exports: Formats of `export_tflite`. Defaults to all but `"int4"`, which needs an extra
            package.
        convert: Whether to convert on trial, in every format, and to name the operators. It takes
            some seconds for a small model. The student is converted as `QuantizeAware` receives
            it, calibrated with random numbers. Defaults to `False`: only what is known
            beforehand is said.
        verbose: Whether a bar on the terminal shows which stage or export is looked at. Defaults
            to `True`.

    Returns:
        A `ModelCheck`. Printing it gives a summary; `table()` a line for each layer; `problems`
        holds what will be refused and `ok` tells whether that is nothing.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If the model is not built, two stages have one name, or a format does not
            exist.

    Example:

    ```python
    found = keras_kd.check(student, [keras_kd.Prune(0.75), keras_kd.QuantizeAware()])
    print(found)
    assert found.ok
    ```
    """
    stages, exports = _check_arguments(model, stages, exports)
    alone = stages is None
    chosen = [Shrink(0.5), LowRank(), Prune(), Cluster(), QuantizeAware()] if alone else stages
    rows = {path: _row(path, layer) for path, layer in _parts(model)}
    problems = [] if alone else _order_problems(chosen or [])
    earlier: list[Stage] = []
    current = model
    copyable = functools.cache(lambda: remade(model))
    for stage in _watched(chosen or [], "Checking stages", verbose):
        before = [] if alone else earlier
        try:
            plans = stage_plans(stage, current, before)
            if not before:
                copyable()  # `compress` works on a copy
            after = current if alone else stage_preview(stage, current)
        except ValueError as error:
            problems.append(_problem(stage.name, error))
            refused = getattr(error, "layers", {})
            for path, row in rows.items():
                row.cells[stage.name] = LayerPlan("refused", refused.get(path, ""))
        else:
            _fill(rows, _parts(current), stage.name, plans)
            if not alone:
                current = after
                rows = _with_new_rows(rows, _parts(current))
        earlier.append(stage)
    trained = not alone and any(
        isinstance(stage, QuantizeAware) and stage.activation_bits == 8 for stage in earlier
    )
    notes: dict[str, tuple[str, ...]] = {}
    operators: dict[str, dict[str, int]] = {}
    parts = _parts(current)
    for quantization in _watched(exports, "Checking exports", verbose):
        found = plan_export(current, parts, quantization, trained)
        refusal, plans = found.refusal, found.layers
        if convert and not refusal:
            trial = try_export(current, [path for path, _ in parts], quantization)
            refusal = trial.refusal
            if not refusal:
                operators[quantization] = trial.operators
                plans = with_operators(plans, trial)
        if refusal:
            problems.append(Problem(quantization, refusal))
        _fill(rows, parts, quantization, plans)
        notes[quantization] = found.notes
    return ModelCheck(
        model.name,
        model.count_params(),
        tuple(stage.name for stage in chosen or []),
        tuple(exports),
        tuple(rows.values()),
        tuple(problems),
        notes,
        operators,
    )


def _watched(steps: Iterable[Any], title: str, verbose: bool) -> Iterator[Any]:
    """Hand out stages or formats; on a terminal, a bar names the one that is looked at."""
    from tqdm import tqdm

    with tqdm(list(steps), desc=title, leave=False, disable=None if verbose else True) as bar:
        for step in bar:
            bar.set_postfix_str(getattr(step, "name", step))
            yield step


def _check_arguments(
    model: Any, stages: Any, exports: Any
) -> tuple[list[Stage] | None, Sequence[str]]:
    if isinstance(model, Distiller):
        raise TypeError("`check` takes the student: check(distiller.student, ...).")
    if not isinstance(model, keras.Model):
        raise TypeError(f"`check` takes a keras.Model, but received {type(model).__name__}.")
    if not model.built:
        raise ValueError(
            f"Model '{model.name}' is not built, so that its layers have no weights yet. Call it "
            "on a batch first, or begin it with keras.Input(shape)."
        )
    if isinstance(stages, Stage) or stages:
        stages = check_stages(stages)
    exports = [exports] if isinstance(exports, str) else list(exports)
    for quantization in exports:
        if quantization not in QUANTIZATIONS:
            raise ValueError(
                f"`exports` takes formats of {list(QUANTIZATIONS)}. Received: {quantization!r}."
            )
    return stages, exports


def _order_problems(stages: Sequence[Stage]) -> list[Problem]:
    try:
        check_order(stages)
    except ValueError as error:
        return [Problem("stages", str(error))]
    return []


def _problem(where: str, error: ValueError) -> Problem:
    layers = tuple(error.layers) if isinstance(error, RefusedLayers) else ()
    return Problem(where, str(error), layers)


def _parts(model: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Return path and layer (or operation) of all that a model is made of, without inputs."""
    parts: list[tuple[str, Any]] = []
    graph = graph_of(model) if is_graph(model) else model
    for layer in graph.operations if is_graph(model) else model.layers:
        path = prefix + layer.name
        if isinstance(layer, keras.Model):
            parts += _parts(layer, f"{path}/")
        elif not isinstance(layer, keras.layers.InputLayer):
            parts.append((path, layer))
    return parts


def _row(path: str, layer: Any) -> LayerCheck:
    try:
        shape = tuple(layer.output.shape)
    except (AttributeError, ValueError):
        shape = None
    parameters = sum(math.prod(weight.shape) for weight in getattr(layer, "weights", ()))
    return LayerCheck(path, type(layer).__name__, shape, parameters, {})


def _with_new_rows(
    rows: dict[str, LayerCheck], parts: Iterable[tuple[str, Any]]
) -> dict[str, LayerCheck]:
    """Return the rows with those of new layers, each in front of the layer that follows it."""
    result: dict[str, LayerCheck] = {}
    new: dict[str, list[LayerCheck]] = {}
    waiting: list[LayerCheck] = []
    for path, layer in parts:
        if path not in rows:
            waiting.append(_row(path, layer))
            continue
        new[path], waiting = waiting, []
    for path, row in rows.items():
        result.update({made.path: made for made in new.get(path, [])})
        result[path] = row
    return {**result, **{made.path: made for made in waiting}}


def _fill(
    rows: dict[str, LayerCheck],
    parts: Iterable[tuple[str, Any]],
    column: str,
    plans: dict[str, LayerPlan],
) -> None:
    """Write plans into a column. What is said of a model is said of the layers inside it."""
    for path, _ in parts:
        above = [path.rsplit("/", n)[0] for n in range(path.count("/") + 1)]
        plan = next((plans[p] for p in above if p in plans), None)
        if plan is not None:
            rows[path].cells[column] = plan
