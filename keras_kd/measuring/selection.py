"""Which output of a file is asked for, and what it gives."""

from __future__ import annotations

from collections.abc import Sequence

from keras_kd.data.numpy_batches import safe_name
from keras_kd.litert.model_file import ModelFile


def output_position(names: Sequence[str], output: int | str) -> int:
    """Return the position of an output given by name or position.

    Raises:
        ValueError: If there is no such output.
    """
    if isinstance(output, str):
        if safe_name(output) in names:
            return names.index(safe_name(output))
        if output in names:
            return names.index(output)
    elif isinstance(output, int) and 0 <= output < len(names):
        return output
    raise ValueError(f"`output` must be one of {names} or its position. Received: {output!r}.")


def is_sigmoid(file: ModelFile, position: int) -> bool:
    """Return whether an output is one of a sigmoid."""
    return file.output_operator(position) == "LOGISTIC"


def is_from_logits(file: ModelFile, position: int) -> bool:
    """Return whether an output gives logits: neither a softmax nor a sigmoid ends in it."""
    return file.output_operator(position) not in ("LOGISTIC", "SOFTMAX")
