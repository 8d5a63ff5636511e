"""Tables as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from keras_kd.system.shown_text import shown_in_line

MEASURED = re.compile(r"(<!-- measured: (\S+) -->\n).*?(<!-- /measured -->)", re.S)


def text_table(rows: Sequence[Sequence[str]], *, left: int = 1, rule: bool = True) -> str:
    """Return rows of cells as aligned lines, for a terminal.

    Args:
        rows: The header, and the rows under it.
        left: How many columns are aligned to the left; the others, numbers, to the right. Defaults
            to `1`.
        rule: Whether a line is drawn under the header. Defaults to `True`.

    Returns:
        Lines without a final newline, and without spaces at their ends.
    """
    rows = [[shown_in_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            f"{cell:<{width}}" if i < left else f"{cell:>{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    if rule:
        lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as a Markdown table without a final newline, the header first."""
    head, *others = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *others])


def with_measured(text: str, table_of: Callable[[str], str]) -> str:
    """Return Markdown with today's tables between its marks.

    Args:
        text: The Markdown, in which a table is between `<!-- measured: NAME -->` and
            `<!-- /measured -->`.
        table_of: Returns the table of a name.
    """
    return MEASURED.sub(lambda found: f"{found[1]}\n{table_of(found[2])}\n\n{found[3]}", text)
