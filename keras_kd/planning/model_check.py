"""ModelCheck: what `check` found, to be read and to be printed."""

from __future__ import annotations

import dataclasses
import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Any

from keras_kd.models.layer_plan import LayerPlan
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
                counted = _counted(Counter(self.operators[column]))
                notes.append(f"operators: {counted}")
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
    return _counted(Counter(row.class_name for row in rows))


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{name} ×{n}" if n > 1 else name for name, n in counts.most_common())


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
