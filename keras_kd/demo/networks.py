"""The networks of the demonstration: a residual teacher and a small student."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers


def residual_network(
    input_shape: tuple[int, ...],
    classes: int,
    widths: Sequence[int],
    blocks: Sequence[int],
    name: str,
    momentum: float = 0.99,
) -> keras.Model:
    """Build a residual network (He et al. 2016, arXiv:1512.03385) that ends in logits.

    Args:
        input_shape: `(height, width, channels)`.
        classes: Number of classes.
        widths: Channels of each group of blocks; every group after the first halves the sides.
        blocks: Number of residual blocks in each group.
        name: Name of the model.
        momentum: Of batch normalization; less where there are few steps. Defaults to `0.99`.

    Returns:
        A functional model; the last layer of block `j` of group `i` is named `block{i}_{j}_out`.
    """

    def convolution(x: Any, filters: int, size: int, strides: int, name: str) -> Any:
        x = layers.Conv2D(filters, size, strides, "same", use_bias=False, name=f"{name}_conv")(x)
        return layers.BatchNormalization(momentum=momentum, name=f"{name}_bn")(x)

    inputs = keras.Input(input_shape, name="image")
    x = layers.ReLU(name="stem_relu")(convolution(inputs, widths[0], 3, 1, "stem"))
    for i, (width, count) in enumerate(zip(widths, blocks, strict=True), start=1):
        for j in range(1, count + 1):
            block, strides = f"block{i}_{j}", 2 if i > 1 and j == 1 else 1
            y = convolution(x, width, 3, strides, f"{block}_1")
            y = layers.ReLU(name=f"{block}_1_relu")(y)
            y = convolution(y, width, 3, 1, f"{block}_2")
            if strides != 1 or x.shape[-1] != width:
                x = convolution(x, width, 1, strides, f"{block}_shortcut")
            x = layers.ReLU(name=f"{block}_out")(layers.Add(name=f"{block}_add")([x, y]))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(classes, dtype="float32", name="logits")(x), name=name)
