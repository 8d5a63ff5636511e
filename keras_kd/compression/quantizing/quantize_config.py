"""How layers that TF-MOT does not know are treated in quantization-aware training.

Imports TF-MOT and `tf_keras`: import this module only inside functions.
"""

from __future__ import annotations

from typing import Any

import tf_keras

from keras_kd.compression.tfmot import import_tfmot

_keras = import_tfmot().quantization.keras
_QuantizeConfig: Any = _keras.QuantizeConfig


@tf_keras.utils.register_keras_serializable(package="keras_kd")
class OutputQuantizeConfig(_QuantizeConfig):
    """Leaves a layer in float and quantizes its output, for the sake of the layers after it."""

    def get_weights_and_quantizers(self, layer: Any) -> list[Any]:
        """Return no weight."""
        return []

    def get_activations_and_quantizers(self, layer: Any) -> list[Any]:
        """Return no activation."""
        return []

    def set_quantize_weights(self, layer: Any, quantize_weights: Any) -> None:
        """Do nothing: there are none."""

    def set_quantize_activations(self, layer: Any, quantize_activations: Any) -> None:
        """Do nothing: there are none."""

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        """Return a quantizer that follows the range of the output."""
        return [
            _keras.quantizers.MovingAverageQuantizer(
                num_bits=8, per_axis=False, symmetric=False, narrow_range=False
            )
        ]

    def get_config(self) -> dict[str, Any]:
        """Return the configuration."""
        return {}


@tf_keras.utils.register_keras_serializable(package="keras_kd")
class KernelQuantizeConfig(OutputQuantizeConfig):
    """Trains the kernel of a layer that TF-MOT does not know for 8 bits, and quantizes its output.

    The kernel has one range, which the converter takes for every way in which it writes the layer.

    Args:
        weight: The attribute of the layer that holds the kernel.
    """

    def __init__(self, weight: str) -> None:
        self.weight = weight

    def get_weights_and_quantizers(self, layer: Any) -> list[Any]:
        """Return the kernel, with a quantizer that takes the range of its present values."""
        quantizer = _keras.quantizers.LastValueQuantizer(
            num_bits=8, per_axis=False, symmetric=True, narrow_range=True
        )
        return [(getattr(layer, self.weight), quantizer)]

    def set_quantize_weights(self, layer: Any, quantize_weights: Any) -> None:
        """Let the layer compute with the quantized kernel."""
        setattr(layer, self.weight, quantize_weights[0])

    def get_config(self) -> dict[str, Any]:
        """Return the configuration."""
        return {"weight": self.weight}


@tf_keras.utils.register_keras_serializable(package="keras_kd")
class SameRangeQuantizeConfig(OutputQuantizeConfig):
    """Leaves the output of a layer in the range of its input.

    TFLite's average pooling needs input and output of one scale; the converter carries the scale
    of the input on where the output has none of its own.
    """

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        """Return no quantizer."""
        return []
