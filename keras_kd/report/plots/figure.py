"""Figures as inline SVG that take the colours of the page they stand in, light or dark."""

from __future__ import annotations

import contextlib
import html
import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Each stands for a colour of the page's style sheet, light or dark. Matplotlib draws with these.
INK, MUTED, GRID, PAPER = "#1b1c1e", "#5c6166", "#dcdee1", "#fdfefe"
# Four hues for all kinds of colour vision (after Okabe and Ito), dark enough for lines on white;
# markers and dashes say the same again.
SERIES = ("#0067a5", "#c24e00", "#007f5c", "#a3417f")
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    PAPER: "paper",
    **{colour: f"series{i}" for i, colour in enumerate(SERIES)},
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
        key: What the ids in it begin with: unique on the page.
        description: What it shows, for those who cannot see it.
    """
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = key
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    drawn.savefig(buffer, format="svg", metadata=nothing, bbox_inches="tight", pad_inches=0.02)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = _own_ids(text, key)
    text = _in_page_colours(text)
    text = _shorter(text)
    # The page sets the width; the view box keeps the proportions.
    start, rest = text.split(">", 1)
    start = re.sub(r'\s(width|height|version|xmlns:xlink)="[^"]*"', "", start)
    return f'{start} role="img" aria-label="{html.escape(description)}">{rest}'.strip()


def _own_ids(text: str, key: str) -> str:
    """Let ids begin with `key`, and leave out those that nothing refers to."""
    used = set(re.findall(r'xlink:href="#([^"]+)"', text)) | set(
        re.findall(r"url\(#([^)]+)\)", text)
    )

    def id_of(match: re.Match[str]) -> str:
        return f' id="{key}-{match[1]}"' if match[1] in used else ""

    text = re.sub(r'\sid="([^"]+)"', id_of, text)
    text = re.sub(r'xlink:href="#', f'href="#{key}-', text)
    return re.sub(r"url\(#", f"url(#{key}-", text)


def _in_page_colours(text: str) -> str:
    for colour, name in _VARIABLES.items():
        text = text.replace(colour, f"var(--{name})")
    # The page's style sheet gives text its font and colour.
    text = re.sub(r"; font-family: [^;\"]*", "", text)
    return re.sub(r'(<text style="[^"]*?); fill: var\(--ink\)', r"\1", text)


def _shorter(text: str) -> str:
    """Leave out digits that no eye sees, and space between elements."""
    parts = re.split(r"(<text\b.*?</text>)", text, flags=re.DOTALL)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"-?\d+\.\d{2,}", lambda match: f"{float(match[0]):.1f}", parts[i])
        parts[i] = re.sub(r">\s+<", "><", parts[i])
        parts[i] = re.sub(r"\s*\n\s*", " ", parts[i])
    for i in range(1, len(parts), 2):
        head, rest = parts[i].split(">", 1)
        head = re.sub(r"-?\d+\.\d{2,}", lambda match: f"{float(match[0]):.1f}", head)
        parts[i] = f"{head}>{rest}"
    text = "".join(part.strip() for part in parts)
    text = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", text)
    while "<g></g>" in text:
        text = text.replace("<g></g>", "")
    return re.sub(r"<defs><style[^>]*>.*?</style></defs>", "", text)
