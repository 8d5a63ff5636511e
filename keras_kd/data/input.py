"""What one input of a model takes."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Input:
    """One input of a model.

    Attributes:
        name: Its name in the signature.
        shape: Its shape, batch dimension first; `None` where any size is accepted.
        dtype: Its NumPy type, before any quantization.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype

    def __str__(self) -> str:
        """Return the input as it is named in error messages."""
        sizes = ", ".join("any" if size is None else str(size) for size in self.shape[1:])
        return f"'{self.name}' of shape (batch{', ' if sizes else ''}{sizes}), {self.dtype.name}"
