"""Names."""

from __future__ import annotations

import re


def snake_case(name: str) -> str:
    """Return the name of a class as that of an object: `KLDivergence` -> `kl_divergence`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
