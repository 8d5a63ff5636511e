"""Why quantization-aware training leaves a layer in float."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_kd.models.layer_plan import Reason
from keras_kd.models.training_layers import acts_in_training_only

FOLDED_INTO = ("Conv2D", "DepthwiseConv2D", "Dense")
_CALIBRATE = "give the int8 export `representative_data`, by which it is calibrated"


def float_reason(layer: Any, class_name: str, consumers: int) -> Reason:
    """Return why a layer of a bridged model stays float.

    Args:
        layer: The `tf_keras` layer.
        class_name: The class of the original layer or operation.
        consumers: Number of calls that take the output of the layer before it.
    """
    text = f"TF-MOT does not treat {class_name} at this place"
    nodes = layer._inbound_nodes
    if len(nodes) > 1:
        return Reason(f"{text}: it is called {len(nodes)} times", "make a layer for each call")
    if acts_in_training_only(class_name):
        return Reason(f"{text}, and it vanishes from the file")
    if class_name != "BatchNormalization":
        return Reason(text, _CALIBRATE)
    before = tf.nest.flatten(nodes[0].inbound_layers)[0]
    if type(before).__name__ not in FOLDED_INTO:
        text += ": it folds one only behind a Conv2D, DepthwiseConv2D or Dense"
        return Reason(text, f"put it directly behind one, or {_CALIBRATE}")
    if consumers > 1:
        text += f": other layers take the output of '{before.name}', too"
        return Reason(text, "let them take the output of the BatchNormalization")
    if before.activation.__name__ != "linear":
        text += f": '{before.name}' has an activation"
        return Reason(text, "put the activation behind the BatchNormalization")
    return Reason(f"{text}: '{before.name}' is an output of the model, too")
