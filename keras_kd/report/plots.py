"""The plots of the page, as inline SVG. Each can be read without colours."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from keras_kd.report.derive import pareto_front
from keras_kd.report.numbers import bytes_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, for all kinds of colour vision; markers and lines say the same again.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
_LINES = ("-", "--", ":", "-.")
_WIDTH = 5.4  # inches: narrow, so that the text stays readable on a phone
_NOT_DRAWN = ("learning_rate", "lr")


def accuracy_against_size(models: list[dict[str, Any]]) -> str | None:
    """Draw accuracy against the file's size, with the Pareto front.

    Args:
        models: The models of a completed result.

    Returns:
        An `<svg>` element, or `None` if no model has a file.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    models = [model for model in models if model["file"] is not None]
    if not models:
        return None
    points = [(model["file"]["bytes"], 100 * model["accuracy"]["mean"]) for model in models]
    with _figure(3.6) as figure:
        axes = figure.subplots()
        axes.set_xscale("log")
        front = [points[i] for i in pareto_front(points)]
        axes.step(
            *zip(*front, strict=True),
            where="post",
            color="#666666",
            linestyle="--",
            linewidth=1,
            label="Pareto front",
            zorder=1,
        )
        for i, (model, (size, accuracy)) in enumerate(zip(models, points, strict=True)):
            axes.errorbar(
                size,
                accuracy,
                yerr=100 * (model["accuracy"]["std"] or 0.0) or None,
                capsize=3,
                linestyle="none",
                marker=_MARKERS[i % len(_MARKERS)],
                markersize=7,
                markeredgecolor="black",
                markeredgewidth=0.6,
                color=_COLOURS[i % len(_COLOURS)],
                label=model["title"],
            )
        sizes = [size for size, _ in points]
        axes.set_xlim(min(sizes) / 1.6, max(sizes) * 1.6)
        spread = max(sizes) / min(sizes)
        steps = (1.0, 2.0, 5.0) if spread < 20 else (1.0, 3.0) if spread < 300 else (1.0,)
        axes.xaxis.set_major_locator(LogLocator(10, subs=steps))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: _tick_text(size)))
        axes.margins(y=0.12)
        axes.set_xlabel("size of the file (logarithmic)")
        axes.set_ylabel("accuracy, %")
        _legend_below(axes, columns=2)
        return _svg(figure, "size", "Accuracy against the size of the file, one marker a model")


def _tick_text(size: float) -> str:
    number, unit = bytes_text(size).split()
    return f"{float(number):g} {unit}"


def training_curves(curves: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Draw the training histories: one plot a title, one line a seed and series.

    Args:
        curves: The curves of a completed result.

    Returns:
        Pairs of a title and an `<svg>` element, in the order in which the titles first occur.
    """
    titles = list(dict.fromkeys(curve["title"] for curve in curves))
    plots = []
    for i, title in enumerate(titles):
        svg = _curves([curve for curve in curves if curve["title"] == title], f"curve{i}", title)
        if svg is not None:
            plots.append((title, svg))
    return plots


def _curves(curves: list[dict[str, Any]], key: str, title: str) -> str | None:
    names = list(dict.fromkeys(name for curve in curves for name in curve["series"]))
    names = [name for name in names if name not in _NOT_DRAWN]
    accuracies = [name for name in names if "acc" in name]
    losses = [name for name in names if name not in accuracies]
    panels = [(part, label) for part, label in ((accuracies, "%"), (losses, "loss")) if part]
    if not panels:
        return None
    with _figure(2.6 * len(panels)) as figure:
        column = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (part, label) in zip(column, panels, strict=True):
            _draw_series(axes, curves, part, factor=100.0 if label == "%" else 1.0)
            axes.set_ylabel("accuracy, %" if label == "%" else "loss")
            _legend_right(axes)
        column[-1].set_xlabel("epoch")
        column[-1].xaxis.get_major_locator().set_params(integer=True)
        return _svg(figure, key, f"Training curves: {title}")


def _draw_series(axes: Axes, curves: list[dict[str, Any]], names: list[str], factor: float) -> None:
    drawn: list[float] = []
    for i, name in enumerate(names):
        for j, curve in enumerate(curve for curve in curves if name in curve["series"]):
            values = [
                float("nan") if value is None else factor * value for value in curve["series"][name]
            ]
            epochs = curve["epochs"][: len(values)]
            drawn += [value for value in values if value == value]
            axes.plot(
                epochs,
                values[: len(epochs)],
                color=_COLOURS[i % len(_COLOURS)],
                linestyle=_LINES[i % len(_LINES)],
                marker=_MARKERS[i % len(_MARKERS)],
                markersize=4,
                markevery=max(1, len(values) // 8),
                linewidth=1.3,
                alpha=1.0 if j == 0 else 0.55,
                label=name if j == 0 else None,
            )
    if factor == 1.0 and drawn and min(drawn) > 0 and max(drawn) / min(drawn) > 20:
        from matplotlib.ticker import FuncFormatter, NullFormatter

        axes.set_yscale("log")
        # The default writes powers in mathtext, which stays raw where SVG text stays text.
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def layer_sparsity(layers: list[dict[str, Any]]) -> str | None:
    """Draw one bar a layer: the share of zeros among its weights.

    Args:
        layers: The layers of a completed result.

    Returns:
        An `<svg>` element, or `None` if no layer has a sparsity.
    """
    layers = [layer for layer in layers if layer["sparsity"] is not None]
    if not layers:
        return None
    with _figure(0.9 + 0.26 * len(layers)) as figure:
        axes = figure.subplots()
        places = range(len(layers))
        shares = [100 * layer["sparsity"] for layer in layers]
        axes.barh(places, shares, color=_COLOURS[0], height=0.7)
        axes.set_yticks(places, [_shortened(layer["name"]) for layer in layers])
        axes.invert_yaxis()
        axes.set_ylim(len(layers) - 0.5, -0.5)
        axes.set_xlim(0, 118)
        axes.set_xticks([0, 25, 50, 75, 100])
        axes.grid(axis="y", visible=False)
        for place, share in zip(places, shares, strict=True):
            axes.text(share + 1.5, place, f"{share:.0f} %", va="center", fontsize=8.5)
        axes.set_xlabel("zeros among the layer's weights, %")
        return _svg(figure, "layers", "Share of zeros, one bar a layer")


def _shortened(name: str, limit: int = 26) -> str:
    return name if len(name) <= limit else f"{name[: limit // 2 - 1]}…{name[-limit // 2 :]}"


def _legend_below(axes: Axes, columns: int) -> None:
    axes.legend(
        loc="upper left", bbox_to_anchor=(0, -0.2), ncols=columns, borderaxespad=0, frameon=False
    )


def _legend_right(axes: Axes) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


@contextlib.contextmanager
def _figure(height: float) -> Iterator[Figure]:
    """Give a figure under settings of its own: nothing global changes, no window is opened."""
    import matplotlib
    from matplotlib.figure import Figure

    settings: Any = {
        "font.size": 10,
        "legend.fontsize": 9,
        "axes.grid": True,
        "grid.color": "#dddddd",
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.fonttype": "none",  # text stays text: small, and it can be searched
        "text.parse_math": False,  # a name may contain a dollar sign
    }
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        yield Figure(figsize=(_WIDTH, height), layout="constrained")


def _svg(figure: Figure, key: str, description: str) -> str:
    """Return the figure as an `<svg>` element whose ids begin with `key`, the same every time."""
    import html

    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = key
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing, bbox_inches="tight")
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{key}-', text)
    text = re.sub(r'xlink:href="#', f'href="#{key}-', text)
    text = re.sub(r"url\(#", f"url(#{key}-", text)
    text = text.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "", 1)
    # The page sets the width; the view box keeps the proportions.
    start, rest = text.split(">", 1)
    start = re.sub(r'\s(width|height)="[^"]*"', "", start)
    return f'{start} role="img" aria-label="{html.escape(description)}">{rest}'.strip()
