"""The training histories."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_kd.report.histories import at_epochs
from keras_kd.report.plots.figure import LINES, MARKERS, SERIES, figure, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NOT_DRAWN = ("learning_rate", "lr", "seconds")


def training_curves(models: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Draw the training histories: one plot per model and title, one line per seed and series.

    Args:
        models: The models of a completed result.

    Returns:
        Dicts of `title`, `svg` and `equal`: a sentence on the series that are not drawn because
        another one has the same values. In the order in which the titles first occur. A title
        that two models have is followed by the model's.
    """
    groups: dict[tuple[int, str], list[Any]] = {}
    for i, model in enumerate(models):
        for curve in model["curves"]:
            groups.setdefault((i, curve["title"]), []).append(curve)
    titles = [title for _, title in groups]
    plots = []
    for number, ((i, title), curves) in enumerate(groups.items()):
        if titles.count(title) > 1:
            of = models[i]["title"]
            title = of if of.startswith(title) else f"{title} ({of})"
        drawn = _plot(curves, f"curve{number}", title)
        if drawn is not None:
            plots.append({"title": title, **drawn})
    return plots


def distinct_series(curves: Sequence[Mapping[str, Any]]) -> tuple[list[str], dict[str, str]]:
    """Return the series to draw, and those that have the same values as an earlier one.

    Args:
        curves: Curves of one title.

    Returns:
        Names, and a dict from the name of a series to the drawn one that it is equal to.
    """
    names = list(dict.fromkeys(name for curve in curves for name in curve["series"]))
    names = [name for name in names if name not in _NOT_DRAWN]
    if not any(value for curve in curves for value in curve["series"].get("student_loss", ())):
        names = [name for name in names if name != "student_loss"]  # trained without labels
    drawn: list[str] = []
    equal: dict[str, str] = {}
    for name in sorted(names, key=_shortness):
        other = next((other for other in drawn if _equal(curves, name, other)), None)
        if other is None:
            drawn.append(name)
        else:
            equal[name] = other
    return [name for name in names if name in drawn], equal


def _shortness(name: str) -> tuple[bool, int]:
    """Of equal series the loss itself is kept, then the one with the more telling name."""
    return name.removeprefix("val_") != "loss", -len(name)


def _equal(curves: Sequence[Mapping[str, Any]], name: str, other: str) -> bool:
    for curve in curves:
        a, b = curve["series"].get(name), curve["series"].get(other)
        if a is None or b is None or len(a) != len(b):
            return False
        for x, y in zip(a, b, strict=True):
            if (x is None) != (y is None):
                return False
            if x is not None and not math.isclose(x, y, rel_tol=1e-5, abs_tol=1e-9):
                return False
    return True


def _plot(curves: list[Any], key: str, title: str) -> dict[str, str] | None:
    names, equal = distinct_series(curves)
    accuracies = [name for name in names if "acc" in name]
    zeros = [name for name in names if name == "sparsity"]
    losses = [name for name in names if name not in (*accuracies, *zeros)]
    given = {name for curve in curves for name in curve["series"]}
    on_labels: list[str] = []
    if "distillation_loss" in given and "val_distillation_loss" not in given:
        # Evaluated without the teacher, `val_loss` is the loss on labels, and `loss` a sum.
        on_labels = [name for name in losses if name in ("student_loss", "val_loss")]
        losses = [name for name in losses if name not in on_labels]
    parts = (
        (accuracies, "accuracy, %"),
        (on_labels, "loss on labels"),
        (losses, "loss" if all("loss" in name for name in losses) else "losses and metrics"),
        (zeros, "zeros, %"),
    )
    panels = [(part, label) for part, label in parts if part]
    if not panels:
        return None
    rows = [-(-len(part) // 2) for part, _ in panels]
    with figure(sum(2.0 + 0.2 * count for count in rows) + 0.2) as drawn:
        column = drawn.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (part, label) in zip(column, panels, strict=True):
            _draw_series(axes, curves, part, factor=100.0 if label.endswith("%") else 1.0)
            axes.set_ylabel(label)
            axes.legend(
                loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, borderaxespad=0, frameon=False,
                handlelength=2.6, columnspacing=1.0,
            )  # fmt: skip
        column[-1].set_xlabel("epoch")
        column[-1].xaxis.get_major_locator().set_params(integer=True)
        picture = svg(drawn, key, f"Training curves: {title}. Series: {', '.join(names)}.")
    return {"svg": picture, "equal": ", ".join(f"{a} is equal to {b}" for a, b in equal.items())}


def _style(name: str, names: Sequence[str]) -> dict[str, Any]:
    """Give a quantity a hue and a marker: hollow and solid in training, else filled and dashed."""
    quantities = list(dict.fromkeys(entry.removeprefix("val_") for entry in names))
    place = quantities.index(name.removeprefix("val_"))
    validation = name.startswith("val_")
    return {
        "color": SERIES[place % len(SERIES)],
        "marker": MARKERS[place % len(MARKERS)],
        "markerfacecolor": SERIES[place % len(SERIES)] if validation else "none",
        "linestyle": LINES[1 if validation else 0],
    }


def _draw_series(axes: Axes, curves: list[Any], names: list[str], factor: float) -> None:
    values_drawn: list[float] = []
    for name in names:
        for j, curve in enumerate(curve for curve in curves if name in curve["series"]):
            placed = at_epochs(curve["series"][name], curve["epochs"]) or []
            values = [float("nan") if value is None else factor * value for value in placed]
            points = list(zip(curve["epochs"], values, strict=False))
            known = [(epoch, value) for epoch, value in points if value == value]
            if not any(a == a and b == b for a, b in itertools.pairwise(values)):
                points = known  # of validation every few epochs; other gaps stay
            values_drawn += [value for _, value in known]
            axes.plot(
                [epoch for epoch, _ in points],
                [value for _, value in points],
                markersize=4.5,
                markevery=max(1, len(points) // 6),
                linewidth=1.4 if j == 0 else 0.9,
                alpha=1.0 if j == 0 else 0.6,
                label=name if j == 0 else None,
                **_style(name, names),
            )
    wide = values_drawn and min(values_drawn) > 0 and max(values_drawn) / min(values_drawn) > 20
    if factor == 1.0 and wide:
        from matplotlib.ticker import FuncFormatter, NullFormatter

        axes.set_yscale("log")
        # The default writes powers in mathtext, which stays raw where SVG text stays text.
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
