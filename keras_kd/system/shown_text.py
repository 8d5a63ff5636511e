"""Text from models, files and other libraries as a message may show it."""

from __future__ import annotations

import re
from collections import Counter

# Control characters but line feed and tab, and those that turn the direction of the text.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def shown(text: str) -> str:
    """Return text with its control characters written out."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def first_line(error: BaseException) -> str:
    """Return the first line of an error of any library, or its class where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def described(error: BaseException) -> str:
    """Return an error of any library in one line, with its class."""
    line, kind = first_line(error), type(error).__name__
    return kind if line == kind else f"{kind}: {line.rstrip('.')}"


def counted(counts: Counter[str]) -> str:
    """Return names and how often each occurs, the most frequent first: `"Dense ×3, ReLU"`."""
    return ", ".join(f"{name} ×{n}" if n > 1 else name for name, n in counts.most_common())


def shown_in_line(text: str) -> str:
    """Return `shown` text in one line."""
    return shown(" ".join(text.split("\n")))
