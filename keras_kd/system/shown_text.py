"""Text from models and files as a terminal may show it."""

from __future__ import annotations

import re

# Control characters but line feed and tab, and those that turn the direction of the text.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def shown(text: str) -> str:
    """Return text with its control characters written out."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def shown_in_line(text: str) -> str:
    """Return `shown` text in one line."""
    return shown(" ".join(text.split("\n")))
