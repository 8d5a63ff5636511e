"""check: what stages and exports will do with each layer of a model."""

from __future__ import annotations

import dataclasses
import functools
import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras

from keras_kd.compression.clustering.cluster import Cluster
from keras_kd.compression.compress import remade
from keras_kd.compression.factorizing.low_rank import LowRank
from keras_kd.compression.pruning.prune import Prune
from keras_kd.compression.quantizing.quantize_aware import QuantizeAware
from keras_kd.compression.shrinking.shrink import Shrink
from keras_kd.compression.stages.order import check_order, check_stages
from keras_kd.compression.stages.stage import Stage
from keras_kd.distilling.distiller import Distiller
from keras_kd.export.tflite import QUANTIZATIONS
from keras_kd.models.layer_plan import LayerPlan, RefusedLayers
from keras_kd.models.layers import leaf_operations, paths_above
from keras_kd.planning.export_plans import plan_export, try_export, with_operators
from keras_kd.system.names import one_of, suggests_arguments
from keras_kd.system.shown_text import counted
from keras_kd.system.text_table import text_table

_WIDTH = 96


@dataclasses.dataclass(frozen=True)
class LayerCheck:
    """One layer, or one operator such as `x + 3.0`.

    Attributes:
        path: Its name; `"backbone/block1"` inside a nested model.
        class_name: Its class.
        output_shape: The shape of its output, or `None` where it has several or is not known.
        parameters: Number of its weights.
        cells: A `LayerPlan` by the name of the stage or export; a stage that has nothing to do
            with the layer is left out.
    """

    path: str
    class_name: str
    output_shape: tuple[int | None, ...] | None
    parameters: int
    cells: dict[str, LayerPlan]


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something that a stage or an export will refuse.

    Attributes:
        where: The name of the stage or export, or `"stages"` for their order.
        message: The message that it will be refused with.
        layers: The paths of the layers that it is about; empty for the whole model.
    """

    where: str
    message: str
    layers: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ModelCheck:
    """What the stages and exports will do with a model. Printing it gives a summary.

    Attributes:
        model_name: Name of the model.
        parameters: Number of its weights.
        stages: Names of the stages, in order.
        exports: The formats.
        rows: A `LayerCheck` for each layer, those that stages will make included.
        problems: What will be refused.
        notes: What exports need or warn of, by format.
        operators: How often each operator occurs in the file, by format, where the conversion was
            tried.
    """

    model_name: str
    parameters: int
    stages: tuple[str, ...]
    exports: tuple[str, ...]
    rows: tuple[LayerCheck, ...]
    problems: tuple[Problem, ...]
    notes: dict[str, tuple[str, ...]]
    operators: dict[str, dict[str, int]]

    @property
    def ok(self) -> bool:
        """Whether no stage and no export will refuse the model."""
        return not self.problems

    def __getitem__(self, path: str) -> LayerCheck:
        """Return the row of a layer by its path."""
        for row in self.rows:
            if row.path == path:
                return row
        raise KeyError(path)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as a dict which `json.dumps` accepts."""
        return {**dataclasses.asdict(self), "ok": self.ok}

    def __str__(self) -> str:
        """Return what each stage and export will do, equal layers in one line."""
        lines = [f"{self.model_name}: {len(self.rows)} layers, {self.parameters:,} parameters"]
        for problem in self.problems:
            where = "the order of " if problem.where == "stages" else ""
            text = f"{where}{problem.where} will be refused: {problem.message}"
            lines += ["", *_wrapped(text, "")]
        for column in self.stages:
            lines += ["", column, *self._groups(column)]
        for column in self.exports:
            lines += ["", f"export {column}", *self._groups(column)]
            notes = list(self.notes[column])
            if column in self.operators:
                names = counted(Counter(self.operators[column]))
                notes.append(f"operators: {names}")
            lines += [line for note in notes for line in _wrapped(f"  {note}", "  ")]
        return "\n".join(lines)

    def table(self) -> str:
        """Return the full table: a line for each layer, a column for each stage and export."""
        columns = [*self.stages, *self.exports]
        lines = [["layer", "class", "output", "parameters", *columns]]
        reasons: dict[tuple[str, str], int] = {}
        for row in self.rows:
            cells = []
            for column in columns:
                cell = row.cells.get(column, LayerPlan("–"))
                key = (cell.reason, cell.advice)
                mark = f" [{reasons.setdefault(key, len(reasons) + 1)}]" if cell.reason else ""
                cells.append(f"{cell.action}{mark}")
            shape = "" if row.output_shape is None else _shape(row.output_shape)
            lines.append([row.path, row.class_name, shape, f"{row.parameters:,}", *cells])
        notes = [f"[{n}] {_sentence(*key)}" for key, n in reasons.items()]
        return "\n".join([text_table(lines, left=len(lines[0]), rule=False), *notes])

    def _groups(self, column: str) -> list[str]:
        groups: dict[LayerPlan, list[LayerCheck]] = {}
        for row in self.rows:
            if column in row.cells:
                plan = dataclasses.replace(row.cells[column], operators="")
                groups.setdefault(plan, []).append(row)
        if set(groups) <= {LayerPlan("refused")}:
            return ["  refused"] if groups else ["  no layer that it knows of"]
        width = min(max(len(plan.action) for plan in groups), 30)
        lines = []
        for plan, rows in groups.items():
            indent = " " * (width + 4)
            lines += _wrapped(
                f"  {plan.action:<{width}}  {_named(rows, bool(plan.reason))}", indent
            )
            if plan.reason:
                lines += _wrapped(f"{indent}{_sentence(plan.reason, plan.advice)}", indent)
        return lines


def _named(rows: Sequence[LayerCheck], one_by_one: bool) -> str:
    """Return the layers of a group: by name where a reason is given and they are few."""
    if one_by_one and len(rows) <= 3:
        return ", ".join(f"'{row.path}' ({row.class_name})" for row in rows)
    return counted(Counter(row.class_name for row in rows))


def _sentence(reason: str, advice: str) -> str:
    return f"{reason}; {advice}" if advice else reason


def _shape(shape: Sequence[int | None]) -> str:
    return "×".join("?" if size is None else str(size) for size in shape[1:])


def _wrapped(text: str, indent: str) -> list[str]:
    if len(text) - len(text.lstrip()) < len(indent) and not text.startswith(" "):
        text = indent + text
    return textwrap.wrap(
        text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


_FORMATS = tuple(name for name in QUANTIZATIONS if name != "int4")


@suggests_arguments
def check(
    model: keras.Model,
    stages: Stage | Sequence[Stage] | None = None,
    exports: str | Sequence[str] = _FORMATS,
    *,
    convert: bool = False,
    verbose: bool = True,
) -> ModelCheck:
    """Report what stages and exports will do with each layer of a model, before any training.

    The model is not changed. A problem has the message of the error that the stage would raise, but
    is not raised. Each stage is checked on the student that the earlier stages produce, and the
    exports on the final one.

    Args:
        model: A built Keras 3 model: functional, sequential, nested or subclassed.
        stages: The stages, as for `compress`. Defaults to `None`: each of the five stages
            separately, with its default arguments and a `ratio` of 0.5 for `Shrink`, and the
            exports of the unchanged model.
        exports: Formats of `export_tflite`. Defaults to all but `"int4"`, which needs an extra
            package.
        convert: Whether to run a trial conversion in every format and name the operators. It takes
            a few seconds for a small model. The student is converted as `QuantizeAware` receives
            it, calibrated with random numbers. Defaults to `False`.
        verbose: Whether to show progress on the terminal. Defaults to `True`.

    Returns:
        A `ModelCheck`. Printing it gives a summary; `table()` one line per layer; `problems`
        lists what will be refused, and `ok` is true if that is nothing.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If the model is not built, two stages have one name, or a format does not
            exist.

    Example:

    ```python
    found = keras_kd.check(student, [keras_kd.Prune(0.75), keras_kd.QuantizeAware()])
    print(found)
    print(found.ok)  # True
    ```
    """
    stages, exports = _check_arguments(model, stages, exports)
    alone = stages is None
    chosen = [Shrink(0.5), LowRank(), Prune(), Cluster(), QuantizeAware()] if alone else stages
    rows = {path: _row(path, layer) for path, layer in leaf_operations(model)}
    problems = [] if alone else _order_problems(chosen or [])
    earlier: list[Stage] = []
    current = model
    copyable = functools.cache(lambda: remade(model))
    for stage in _watched(chosen or [], "Checking stages", verbose):
        plan = stage.plan(current, [] if alone else earlier)
        try:
            plan.check()
            if alone or not earlier:
                copyable()  # `compress` works on a copy
            after = current if alone else plan.preview()
        except ValueError as error:
            refused = plan.layers if isinstance(error, RefusedLayers) else {}
            problems.append(Problem(stage.name, str(error), tuple(refused)))
            for path, row in rows.items():
                row.cells[stage.name] = LayerPlan(
                    "refused", refused[path].reason if path in refused else ""
                )
        else:
            _fill(rows, leaf_operations(current), stage.name, plan.layers)
            if not alone:
                current = after
                rows = _with_new_rows(rows, leaf_operations(current))
        earlier.append(stage)
    trained = not alone and any(
        isinstance(stage, QuantizeAware) and stage.activation_bits == 8 for stage in earlier
    )
    notes: dict[str, tuple[str, ...]] = {}
    operators: dict[str, dict[str, int]] = {}
    parts = leaf_operations(current)
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
        raise TypeError(f"`check` takes a keras.Model. Received: {type(model).__name__}.")
    if not model.built:
        raise ValueError(
            f"Model '{model.name}' is not built, so that its layers have no weights yet. Call it "
            "on a batch first, or begin it with keras.Input(shape)."
        )
    if isinstance(stages, Stage) or stages:
        stages = check_stages(stages)
    exports = [exports] if isinstance(exports, str) else list(exports)
    for quantization in exports:
        one_of("exports", quantization, QUANTIZATIONS)
    return stages, exports


def _order_problems(stages: Sequence[Stage]) -> list[Problem]:
    try:
        check_order(stages)
    except ValueError as error:
        return [Problem("stages", str(error))]
    return []


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
    plans: Mapping[str, LayerPlan],
) -> None:
    """Write plans into a column. What is said of a model is said of the layers inside it."""
    for path, _ in parts:
        plan = next((plans[p] for p in paths_above(path) if p in plans), None)
        if plan is not None:
            rows[path].cells[column] = plan
