"""ChannelWise: where in the map each channel is active, as a distribution."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_kd.losses.shared.feature_maps import MapLoss, flatten_sides
from keras_kd.losses.shared.soft_targets import kl_of_logs
from keras_kd.system.arguments import scheduled


def channel_wise(teacher: Any, student: Any, temperature: float = 4.0) -> Any:
    """Return `T^2 * KL(softmax(t_c / T), softmax(s_c / T))` over positions, averaged over channels.

    Args:
        teacher: Map of the teacher, `[batch, side_1, ..., channels]`.
        student: Map of the student, of the same shape.
        temperature: `T`. Defaults to `4.0`.

    Returns:
        Tensor `[batch]`, in nats times `T^2`.
    """
    logs = [
        ops.log_softmax(ops.swapaxes(flatten_sides(x), 1, 2) / temperature)
        for x in (teacher, student)
    ]
    return temperature**2 * ops.mean(kl_of_logs(*logs), axis=-1)


@keras.saving.register_keras_serializable(package="keras_kd")
class ChannelWise(MapLoss):
    """Channel-wise distillation, for segmentation and detection.

    Each channel is made a distribution over positions by a softmax, so that the student matches
    where a channel is active and not how much: a constant added to a channel changes nothing. The
    loss is `T^2` times the Kullback-Leibler divergence from the teacher's distribution, averaged
    over batch and channels. It is used on feature maps and on the logits of a segmentation.

    Masked positions of a sequence are left out of the distributions.

    Args:
        temperature: `T`, above 0; higher is softer. The paper uses 4, the default of MMRazor's
            code is 1. Defaults to `4.0`.
        name: Name of the loss. Defaults to `"channel_wise"`.

    Raises:
        ValueError: If `temperature` is not above 0; when called, if a feature is not a map.

    Example:

    ```python
    hint = keras_kd.Hint("block4_out", "block2_out", loss=keras_kd.losses.ChannelWise())
    ```

    Reference:
        Shu et al., Channel-wise Knowledge Distillation for Dense Prediction, 2021,
        arXiv:2011.13256.
    """

    mixes_positions = False

    def __init__(self, temperature: float = 4.0, name: str | None = None) -> None:
        super().__init__(name)
        self.temperature = scheduled("temperature", temperature, above=0, owner="ChannelWise")

    def compute_loss(
        self, teacher: Any, student: Any, labels: Any, sample_weight: Any, mask: Any
    ) -> Any:
        """Return the weighted mean over samples, masked positions left out."""
        if mask is not None:
            kept = ops.expand_dims(ops.cast(mask, "bool"), -1)
            # A finite number: the difference of two infinite ones is undefined.
            teacher, student = (
                ops.where(kept, x, ops.full_like(x, -1e30)) for x in (teacher, student)
            )
        return super().compute_loss(teacher, student, labels, sample_weight, None)

    def call(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        """Return the divergence of each sample, `[batch]`."""
        return channel_wise(teacher, student, self.temperature)
