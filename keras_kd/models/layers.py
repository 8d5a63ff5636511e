"""Questions asked of the layers and weights of a model."""

from __future__ import annotations

import hashlib
from typing import Any

import keras
import numpy as np


def hash_of_weights(model: Any) -> str | None:
    """Return a hash of the values of a model's weights, `None` where it has none."""
    weights = list(getattr(model, "weights", None) or [])
    if not weights:
        return None
    digest = hashlib.blake2b(digest_size=16)
    for weight in weights:
        values = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        digest.update(f"{values.dtype} {values.shape};".encode())
        digest.update(values.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def paths_above(path: str) -> list[str]:
    """Return the path of a layer and those of the layers that it is inside of, outwards."""
    return [path.rsplit("/", n)[0] for n in range(path.count("/") + 1)]
