"""The networks of the demonstration: a residual teacher and a small student."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers


def _convolution(
    x: Any, filters: int, size: int, strides: int = 1, relu: bool = True, name: str = ""
) -> Any:
    x = layers.Conv2D(filters, size, strides, "same", use_bias=False, name=f"{name}_conv")(x)
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x


def _residual_block(x: Any, filters: int, strides: int, name: str) -> Any:
    y = _convolution(x, filters, 3, strides, name=f"{name}_1")
    y = _convolution(y, filters, 3, relu=False, name=f"{name}_2")
    if strides != 1 or x.shape[-1] != filters:
        x = _convolution(x, filters, 1, strides, relu=False, name=f"{name}_shortcut")
    return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([x, y]))


def residual_network(
    input_shape: tuple[int, ...],
    classes: int,
    widths: Sequence[int],
    blocks: Sequence[int],
    name: str,
) -> keras.Model:
    """Build a residual network (He et al. 2016, arXiv:1512.03385) that ends in logits.

    Args:
        input_shape: `(height, width, channels)`.
        classes: Number of classes.
        widths: Channels of each group of blocks; every group after the first halves the sides.
        blocks: Number of residual blocks in each group.
        name: Name of the model.

    Returns:
        A functional model; the last layer of block `j` of group `i` is named `block{i}_{j}_out`.
    """
    inputs = keras.Input(input_shape, name="image")
    x = _convolution(inputs, widths[0], 3, name="stem")
    for i, (width, count) in enumerate(zip(widths, blocks, strict=True), start=1):
        for j in range(1, count + 1):
            x = _residual_block(x, width, 2 if i > 1 and j == 1 else 1, name=f"block{i}_{j}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(classes, dtype="float32", name="logits")(x)
    return keras.Model(inputs, outputs, name=name)
