"""How channels pass through the layers that `keras.applications` has of its own."""

from __future__ import annotations

from keras_kd.compression.shrinking.analysis import Call
from keras_kd.compression.shrinking.channel_groups import Axes
from keras_kd.compression.shrinking.elementwise import merged
from keras_kd.compression.shrinking.kernel_rules import single
from keras_kd.models.graph import CustomScaleLayer, LayerScale


def _layer_scale(call: Call) -> list[Axes]:
    """Rule of ConvNeXt's scale of each channel."""
    x = call.inputs[0]
    channels = x[-1]
    call.weight(call.operation.gamma, channels)
    if channels is not None:
        call.config(projection_dim=lambda size: size(channels))
    return [x]


APPLICATION_RULES = {
    LayerScale: single(_layer_scale),
    # Inception-ResNet's sum of the input and a multiple of the residual.
    CustomScaleLayer: merged,
}
