"""Accuracy or another metric against what a file costs, with the Pareto front."""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_kd.report.numbers import bytes_text, milliseconds_text
from keras_kd.report.pareto import cost_of, drawable, front_keys, merit_of
from keras_kd.report.plots.figure import INK, MARKERS, MUTED, PAPER, SERIES, figure, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TITLES = {
    "bytes": "size of the file",
    "zipped_bytes": "size of the zipped file",
    "latency_ms": "median latency",
}
_MARKER = 6.0  # half of a marker's box, in points
# Where a label may stand beside its marker: direction and distance.
_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
_DISTANCES = (8, 20, 34, 50)


def letters(models: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return a letter for the key of each model: A, B, ..., Z, AA, AB, ..."""
    alphabet = string.ascii_uppercase
    found = {}
    for i, model in enumerate(models):
        found[model["key"]] = alphabet[i] if i < 26 else alphabet[i // 26 - 1] + alphabet[i % 26]
    return found


def draw_front(
    cost: str, models: Sequence[Mapping[str, Any]], by: Mapping[str, str] | None = None
) -> str | None:
    """Draw accuracy or another metric against a cost, with the Pareto front.

    Models on the front are filled, all others hollow; each has a shape and a letter, and its
    title where there is room for it.

    Args:
        cost: `"bytes"`, `"zipped_bytes"` or `"latency_ms"`.
        models: The models of a completed result.
        by: What they are judged by, as for `merit_of`. Defaults to `None`: the accuracy.

    Returns:
        An `<svg>` element, or `None` if no model has both measurements.
    """
    named = letters(models)
    shapes = {model["key"]: MARKERS[i % len(MARKERS)] for i, model in enumerate(models)}
    shown = drawable(models, cost, by)
    if not shown:
        return None
    front = front_keys(models, cost, by)
    scale = 100.0 if by is None else 1.0
    places = {
        model["key"]: (cost_of(model, cost) or 0.0, scale * (merit_of(model, by) or 0.0))
        for model in shown
    }
    # Metrics are of one seed.
    spreads = {m["key"]: 0.0 if by else 100 * (m["accuracy"]["std"] or 0.0) for m in shown}
    with figure(3.5) as drawn:
        axes = drawn.subplots()
        axes.set_xscale("log")
        for model in shown:
            on_front = model["key"] in front
            color = SERIES[1] if model["key"] == "teacher" else SERIES[0]
            axes.errorbar(
                *places[model["key"]],
                yerr=spreads[model["key"]] or None,
                elinewidth=0.9,
                capsize=2.5,
                linestyle="none",
                marker=shapes[model["key"]],
                markersize=8,
                markeredgewidth=1.4,
                markeredgecolor=color,
                markerfacecolor=color if on_front else PAPER,
                ecolor=MUTED,
                zorder=3 if on_front else 2,
            )
        _set_axes(axes, [x for x, _ in places.values()], cost)
        less = by is not None and by["mode"] == "min"
        label = f"{by['metric']}{', less is better' if less else ''}" if by else "accuracy, %"
        axes.set_ylabel(label)
        steps = _draw_steps(axes, [places[key] for key in front], less)
        # Those on the front choose their places first.
        order = [*front, *(model["key"] for model in shown if model["key"] not in front)]
        titles = {model["key"]: model["title"] for model in shown}
        bars = [(x, y - spreads[key], x, y + spreads[key]) for key, (x, y) in places.items()]
        labels = [(places[key], named[key], titles[key]) for key in order]
        _label(drawn, axes, labels, [*bars, *steps])
        names = ", ".join(titles[key] for key in front)
        return svg(
            drawn,
            f"front-{cost}",
            f"{by['metric'] if by else 'Accuracy'} against the {_TITLES[cost]}, one marker per "
            f"model. On the Pareto front: {names}.",
        )


def _set_axes(axes: Axes, costs: list[float], cost: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    spread = max(costs) / min(costs)
    axes.set_xlim(min(costs) / spread**0.12 / 1.25, max(costs) * spread**0.12 * 1.25)
    steps = (1.0, 2.0, 5.0) if spread < 12 else (1.0, 3.0) if spread < 300 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(10, subs=steps))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick_text(value, cost)))
    axes.margins(y=0.16)
    axes.set_xlabel(f"{_TITLES[cost]}{', ms' if cost == 'latency_ms' else ''} (logarithmic)")


def _draw_steps(
    axes: Axes, front: Sequence[tuple[float, float]], less_is_better: bool
) -> list[tuple[float, float, float, float]]:
    """Draw the steps, from the worst end of the axes to their right end; return them as lines."""
    limits = axes.get_xlim(), axes.get_ylim()
    worst = limits[1][1 if less_is_better else 0]
    steps = [(front[0][0], worst), *front, (limits[0][1], front[-1][1])]
    axes.step(
        *zip(*steps, strict=True),
        where="post",
        color=MUTED,
        linestyle=(0, (5, 3)),
        linewidth=1.2,
        zorder=1,
    )
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])
    lines = []
    for (x0, y0), (x1, y1) in itertools.pairwise(steps):
        lines += [(x0, y0, x1, y0), (x1, y0, x1, y1)]
    return lines


def _tick_text(value: float, cost: str) -> str:
    if cost == "latency_ms":
        return f"{float(milliseconds_text(value)):g}"
    number, unit = bytes_text(value).split()
    return f"{float(number):g} {unit}"


def _label(
    drawn: Figure,
    axes: Axes,
    points: Sequence[tuple[tuple[float, float], str, str]],
    lines: Sequence[tuple[float, float, float, float]],
) -> None:
    """Write a letter beside each marker, and the title where it hides nothing.

    Args:
        drawn: The figure.
        axes: Its axes, with their final limits.
        points: Place, letter and title of each model.
        lines: Left, foot, right and top of upright and level lines that labels stay off.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(drawn)
    drawn.draw_without_rendering()
    renderer = canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    centers = [tuple(axes.transData.transform(point)) for point, _, _ in points]
    taken = [(x - _MARKER, y - _MARKER, x + _MARKER, y + _MARKER) for x, y in centers]
    avoided = [*taken, *_lines(axes, lines)]
    for center, (_, letter, title) in zip(centers, points, strict=True):
        whole = f"{letter} {title}"
        # The title where nothing is hidden, else the letter, if need be across a line.
        for text, distances, obstacles in (
            (whole, _DISTANCES[:2], avoided),
            (letter, _DISTANCES, avoided),
            (letter, _DISTANCES, taken),
        ):
            label = axes.annotate(
                text, center, xycoords="figure pixels", fontsize=8.5, color=INK,
                ha="center", va="center", annotation_clip=False,
            )  # fmt: skip
            box = label.get_window_extent(renderer)
            others = () if obstacles is taken else [c for c in centers if c != center]
            place = _free_place(center, box.width, box.height, distances, obstacles, frame, others)
            label.remove()
            if place is not None:
                x, y, distance = place
                for boxes in (taken, avoided):
                    boxes.append(_box(x, y, box.width, box.height))
                    boxes += _leader(center, (x, y)) if distance > _DISTANCES[0] else []
                axes.annotate(
                    text,
                    center,
                    xytext=(x - center[0], y - center[1]),
                    xycoords="figure pixels",
                    textcoords="offset points",
                    fontsize=8.5,
                    color=INK,
                    ha="center",
                    va="center",
                    annotation_clip=False,
                    arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.6}
                    if distance > _DISTANCES[0]
                    else None,
                    zorder=4,
                ).set_in_layout(False)
                break


def _lines(
    axes: Axes, lines: Sequence[tuple[float, float, float, float]]
) -> list[tuple[float, float, float, float]]:
    """Return the boxes of lines, in points, as wide as the caps of error bars."""
    boxes = []
    for left, foot, right, top in lines:
        x0, y0 = axes.transData.transform((left, foot))
        x1, y1 = axes.transData.transform((right, top))
        boxes.append((x0 - 3, y0 - 3, x1 + 3, y1 + 3))
    return boxes


def _leader(
    start: tuple[float, float], end: tuple[float, float]
) -> list[tuple[float, float, float, float]]:
    """Return small boxes along the line from a marker to its label."""
    points = [[start[i] + k / 12 * (end[i] - start[i]) for i in (0, 1)] for k in range(1, 12)]
    return [(x - 1, y - 1, x + 1, y + 1) for x, y in points]


def _box(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    return x - width / 2 - 1, y - height / 2, x + width / 2 + 1, y + height / 2


def _holds(box: tuple[float, float, float, float], point: tuple[float, float]) -> bool:
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def _gap(box: tuple[float, float, float, float], point: tuple[float, ...]) -> float:
    across = max(box[0] - point[0], 0.0, point[0] - box[2])
    return math.hypot(across, max(box[1] - point[1], 0.0, point[1] - box[3]))


def _meet(
    boxes: Sequence[tuple[float, float, float, float]],
    others: Sequence[tuple[float, float, float, float]],
) -> bool:
    return any(
        a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for a in boxes for b in others
    )


def _free_place(
    center: tuple[float, float],
    width: float,
    height: float,
    distances: Sequence[float],
    taken: Sequence[tuple[float, float, float, float]],
    frame: Any,
    others: Sequence[tuple[float, ...]] = (),
) -> tuple[float, float, float] | None:
    """Return the nearest center of a label that overlaps nothing and stays inside the axes.

    Without a line to its marker, a label is clearly nearer to it than to `others`.
    """
    for distance in distances:
        for across, up in _DIRECTIONS:
            x = center[0] + across * (distance + width / 2)
            y = center[1] + up * (distance + height / 2 if not across else distance)
            left, bottom, right, top = _box(x, y, width, height)
            inside = (
                left >= frame.x0 and right <= frame.x1 and bottom >= frame.y0 and top <= frame.y1
            )
            box = left, bottom, right, top
            near = distance == _DISTANCES[0] and any(
                _gap(box, other) < 1.5 * _gap(box, center) for other in others
            )
            if inside and not near and not _meet([box], taken):
                # The line begins in its marker, which is not an obstacle.
                line = _leader(center, (x, y)) if distance > _DISTANCES[0] else []
                if not _meet(line, [box for box in taken if not _holds(box, center)]):
                    return x, y, distance
    return None
