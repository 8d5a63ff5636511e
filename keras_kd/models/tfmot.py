"""TF-MOT, imported when a stage needs it, and the only place for its private names."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

_VARIABLE = "TF_USE_LEGACY_KERAS"


def import_tfmot() -> Any:
    """Import `tensorflow_model_optimization`.

    Its import sets `TF_USE_LEGACY_KERAS=1` for the whole process. The variable is put back, and
    `tf.keras` stays the Keras that it was.

    Returns:
        The module.

    Raises:
        ImportError: If TF-MOT or `tf_keras` is not installed.
    """
    import tensorflow as tf

    # `tf.keras` is resolved at its first use: that must happen before the variable is set.
    _ = tf.keras.__name__
    before = os.environ.get(_VARIABLE)
    try:
        import tensorflow_model_optimization as tfmot
    except ImportError as error:
        raise ImportError(
            f"Compression needs TF-MOT and tf_keras, but '{error.name}' cannot be imported. "
            "Run: pip install tensorflow-model-optimization tf_keras"
        ) from error
    finally:
        if before is None:
            os.environ.pop(_VARIABLE, None)
        else:
            os.environ[_VARIABLE] = before
    return tfmot


def attributes_of_kernels() -> dict[str, list[str]]:
    """Return the attributes that hold the kernels which TF-MOT prunes, by the layer's class."""
    import_tfmot()
    from tensorflow_model_optimization.python.core.sparsity.keras import prune_registry

    registry = prune_registry.PruneRegistry
    maps = (registry._LAYERS_WEIGHTS_MAP, registry._RNN_CELLS_WEIGHTS_MAP)
    return {kind.__name__: list(names) for known in maps for kind, names in known.items()}


def mask_function(
    mask: Callable[[Any], Any], sparsity: Any, sparsity_m_by_n: Sequence[int] | None
) -> Callable[[Any], Any]:
    """Return TF-MOT's function from the values of a kernel to its mask.

    Args:
        mask: What stands for TF-MOT's own choice of single weights, which sorts every kernel.
        sparsity: Fraction of zeros.
        sparsity_m_by_n: Zeros `m` in `n` consecutive weights, or `None` for single weights.
    """
    import_tfmot()
    from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl

    engine = pruning_impl.Pruning(
        lambda: 0, [], lambda step: (True, sparsity), (1, 1), "AVG", sparsity_m_by_n
    )
    engine._update_mask = lambda values: (None, mask(values))
    return lambda values: engine._maybe_update_block_mask(values)[1]
