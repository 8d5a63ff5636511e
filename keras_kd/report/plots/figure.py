"""Figures as inline SVG that take the colors of the page they stand in, light or dark."""

from __future__ import annotations

import contextlib
import io
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Each stands for a color of the page's style sheet, light or dark. Matplotlib draws with these.
INK, MUTED, GRID, PAPER = "#1b1c1e", "#5c6166", "#dcdee1", "#fdfefe"
# Four hues for all kinds of color vision (after Okabe and Ito), dark enough for lines on white;
# markers and dashes say the same again.
SERIES = ("#0067a5", "#c24e00", "#007f5c", "#a3417f")
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    PAPER: "paper",
    **{color: f"series{i}" for i, color in enumerate(SERIES)},
}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
LINES = ("-", "--", ":", "-.")
# In inches: narrow, so that text is as large on a phone as beside it.
WIDTH = 4.4


@contextlib.contextmanager
def figure(height: float, width: float = WIDTH, font_size: float = 9.5) -> Iterator[Figure]:
    """Give a figure under settings of its own: nothing global changes, no window is opened."""
    import matplotlib
    from matplotlib.figure import Figure

    settings: Any = {
        "figure.dpi": 72,  # a pixel is a point, as in the SVG
        "font.size": font_size,
        "legend.fontsize": font_size - 0.5,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": MUTED,
        "axes.titlecolor": INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "axes.facecolor": "none",
        "legend.facecolor": PAPER,
        "legend.edgecolor": GRID,
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "axes.grid": True,
        "grid.color": GRID,
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
        yield Figure(figsize=(width, height), layout="constrained")


def svg(drawn: Figure, key: str, description: str) -> str:
    """Return a figure as an `<svg>` element, the same every time.

    Args:
        drawn: The figure.
        key: Unique on the page: Matplotlib makes the ids in the element from it.
        description: What it shows, for those who cannot see it.
    """
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = key
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    drawn.savefig(buffer, format="svg", metadata=nothing, bbox_inches="tight", pad_inches=0.02)
    tree = ET.fromstring(buffer.getvalue())
    _for_a_page(tree)
    # The page sets the width; the view box keeps the proportions.
    tree.attrib = {
        "viewBox": tree.attrib["viewBox"], "role": "img", "aria-label": description,
    }  # fmt: skip
    return ET.tostring(tree, encoding="unicode")


def _for_a_page(element: ET.Element) -> None:
    """Give an element, and what is in it, the page's colors and font, and fewer digits."""
    # In a page, names need no namespace.
    element.tag, element.tail = _local(element.tag), None
    is_text = element.tag == "text"
    if not is_text:
        element.text = None
    attributes = {_local(name): value for name, value in element.attrib.items()}
    if element.tag == "g":
        attributes.pop("id", None)  # of Matplotlib's artists: not unique on a page
    for name in attributes.keys() & {"d", "x", "y", "width", "height", "transform", "viewBox"}:
        attributes[name] = " ".join(_short(word) for word in attributes[name].split())
    if "style" in attributes:
        entries = attributes["style"].split("; ")
        if is_text:  # the page's style sheet gives it font and color
            entries = [e for e in entries if not e.startswith(("font-family", f"fill: {INK}"))]
        attributes["style"] = "; ".join(map(_colored, entries))
    element.attrib = attributes
    for child in list(element):
        _for_a_page(child)
        # A style sheet in a drawing is one of the whole page; an empty group draws nothing.
        if child.tag in ("style", "metadata") or (child.tag in ("g", "defs") and not len(child)):
            element.remove(child)


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _colored(entry: str) -> str:
    name, _, value = entry.partition(": ")
    return f"{name}: var(--{_VARIABLES[value]})" if value in _VARIABLES else entry


def _short(word: str) -> str:
    """Return a number of a drawing without the digits that no eye sees."""
    before, bracket, number = word.rpartition("(")
    number, closing, after = number.partition(")")
    try:
        return f"{before}{bracket}{float(number):.1f}{closing}{after}"
    except ValueError:  # a command such as "M"
        return word
