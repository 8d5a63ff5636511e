"""TF-MOT's 8-bit schemes, chosen by what earlier stages left in the weights.

Imports TF-MOT and `tf_keras`: import this module only inside functions.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import tensorflow as tf

from keras_kd.compression.tfmot import import_tf_keras, import_tfmot

_combine = import_tfmot().experimental.combine

from tensorflow_model_optimization.python.core.quantization.keras import quant_ops  # noqa: E402
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (  # noqa: E402
    default_8bit_quantize_scheme,
    default_8bit_quantizers,
)

_ConvQuantizer: Any = default_8bit_quantizers.Default8BitConvWeightsQuantizer
_DefaultScheme: Any = default_8bit_quantize_scheme.Default8BitQuantizeScheme


class CommonRangeQuantizer(_ConvQuantizer):
    """Quantizes the kernel of a convolution with one range for all output channels.

    With a range a channel, one value of a clustered kernel becomes as many integers as there are
    ranges, and the file is as large as if nothing had been clustered.
    """

    def __call__(self, inputs: Any, training: Any, weights: Any, **kwargs: Any) -> Any:
        """Return the quantized kernel; the range is that of the kernel of the last step."""
        if training:
            limit = tf.fill(tf.shape(weights["max_var"]), tf.reduce_max(tf.abs(inputs)))
            weights["min_var"].assign(-limit)
            weights["max_var"].assign(limit)
        return quant_ops.LastValueQuantize(
            inputs,
            weights["min_var"],
            weights["max_var"],
            is_training=False,
            num_bits=self.num_bits,
            per_channel=self.per_axis,
            symmetric=self.symmetric,
            narrow_range=self.narrow_range,
        )


def quantize_scheme(model: Any, pruned: bool, clustered: Collection[str] = ()) -> Any:
    """Return the scheme for a bridged model: default, or preserving zeros, clusters or both.

    Zeros are preserved by TF-MOT's own scheme. Clusters are not, because that scheme looks for them
    channel by channel, so that a kernel of 8 values comes out with 8 a channel, trains a second
    copy of the weights beside one that regularisers still move, and gives up zeros everywhere when
    one layer has none. Here values stay shared by `KeptValues`, and a kernel that was clustered as
    a whole gets one range.

    Args:
        model: A `tf_keras` model, before quantization.
        pruned: Whether zeros must stay.
        clustered: Names of the layers whose kernels were clustered as a whole. Defaults to none.
    """
    base = _combine.Default8BitPrunePreserveQuantizeScheme if pruned else _DefaultScheme
    convolution = import_tf_keras().layers.Conv2D
    convolutions = {
        layer.name
        for layer in model.layers
        if layer.name in clustered and type(layer) is convolution
    }
    if not convolutions:
        return base()

    class ClusterPreserveScheme(base):  # type: ignore[misc, valid-type]
        def get_quantize_registry(self) -> Any:
            return _Registry(super().get_quantize_registry(), convolutions)

    return ClusterPreserveScheme()


class _Registry:
    def __init__(self, registry: Any, common_range: Collection[str]) -> None:
        self._registry = registry
        self._common_range = common_range

    def __getattr__(self, name: str) -> Any:
        return getattr(self._registry, name)

    def get_quantize_config(self, layer: Any) -> Any:
        config = self._registry.get_quantize_config(layer)
        if layer.name in self._common_range:
            config.weight_quantizer = CommonRangeQuantizer()
        return config
