"""Text from models and data in Markdown."""

from __future__ import annotations

import re
from typing import Any

from keras_kd.system.shown_text import shown_in_line

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


class Raw(str):
    """Text that is escaped already, or stands in a block of code."""


def escaped(text: Any) -> str:
    """Return text as one line of Markdown in which nothing is a tag, a link or code."""
    line = shown_in_line(str(text))
    line = re.sub("[&<>]", lambda found: _ENTITIES[found[0]], line)
    return Raw(re.sub(r"[\[\]`]", lambda found: f"\\{found[0]}", line))


def cell(text: Any) -> str:
    """Return text that cannot end a cell of a Markdown table."""
    return Raw(" ".join(escaped(text).replace("|", "\\|").split()))


def code(text: Any) -> str:
    """Return text that cannot end the block of code it stands in."""
    return Raw(shown_in_line(str(text)).replace("```", "` ` `"))


def finalized(value: Any) -> Any:
    """Return what a template writes for a value: text is escaped unless it is `Raw`."""
    return escaped(value) if isinstance(value, str) and not isinstance(value, Raw) else value
