"""PearsonFeatures: features compared after each channel is standardised."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_kd.losses.fitnet import squared_difference
from keras_kd.losses.shared.feature_maps import MapLoss, masked_center
from keras_kd.losses.shared.norms import norm
from keras_kd.losses.shared.weighting import weighted_mean, weights_by_sample


def standardize_channels(feature: Any, mask: Any = None) -> Any:
    """Return `(x - mean) / (std + 1e-6)` by channel, over batch and positions.

    `std` is the sample deviation, with the number of positions less one. A constant channel gives
    zeros, with a gradient of zero.

    Args:
        feature: Feature `[batch, ..., channels]`.
        mask: Where false, a position does not count; shape of the leading axes of `feature`.
            Defaults to `None`.
    """
    centered, count = masked_center(feature, mask)
    length = norm(centered, tuple(range(len(feature.shape) - 1)), keepdims=True)
    centered = ops.where(ops.equal(length, 0), ops.zeros_like(centered), centered)
    return centered / (length / ops.sqrt(ops.maximum(count - 1, 1)) + 1e-6)


@keras.saving.register_keras_serializable(package="keras_kd")
class PearsonFeatures(MapLoss):
    """Distillation by Pearson correlation, for detectors of different kinds.

    Each channel is standardised over batch and positions, then half the mean squared difference is
    taken: one minus the Pearson correlation of the channels, but for the constants `1e-6` on the
    deviation and `n - 1` in it, which are those of the authors' code. The scale and offset of a
    channel do not matter.

    Sample weights weigh the differences, not the statistics. Masked positions of a sequence count
    in neither. Maps of different size are average-pooled to the smaller one by the hint; the
    authors' code resizes bilinearly.

    Args:
        name: Name of the loss. Defaults to `"pearson_features"`.

    Example:

    ```python
    hint = keras_kd.Hint("fpn_p4", "fpn_p4", loss=keras_kd.losses.PearsonFeatures())
    ```

    Reference:
        Cao et al., PKD: General Distillation Framework for Object Detectors via Pearson
        Correlation Coefficient, 2022, arXiv:2207.02039; constants are MMRazor's.
    """

    mixes_positions = False

    def compute_loss(
        self, teacher: Any, student: Any, labels: Any, sample_weight: Any, mask: Any
    ) -> Any:
        """Return the weighted mean over positions."""
        values = _values(teacher, student, mask)
        if sample_weight is not None:
            sample_weight = weights_by_sample(sample_weight, values)
        return weighted_mean(values, sample_weight, mask)

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return half the squared difference at each position, `[batch, side_1, ...]`."""
        return _values(teacher, student)


def _values(teacher: Any, student: Any, mask: Any = None) -> Any:
    return 0.5 * squared_difference(*(standardize_channels(x, mask) for x in (teacher, student)))
