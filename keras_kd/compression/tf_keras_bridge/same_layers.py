"""Layers of Keras 3 that have an equal in `tf_keras`."""

from __future__ import annotations

import inspect
from typing import Any

# Layers that mean the same in both Kerases, given the same configuration and weights.
_SAME_LAYERS = frozenset(
    {
        "Activation", "ActivityRegularization", "Add", "AlphaDropout", "Average",
        "AveragePooling1D", "AveragePooling2D", "AveragePooling3D", "BatchNormalization",
        "Concatenate", "Conv1D", "Conv1DTranspose", "Conv2D", "Conv2DTranspose", "Conv3D",
        "Conv3DTranspose", "Cropping1D", "Cropping2D", "Cropping3D", "Dense", "DepthwiseConv1D",
        "DepthwiseConv2D", "Dot", "Dropout", "ELU", "Embedding", "Flatten", "GaussianDropout",
        "GaussianNoise", "GlobalAveragePooling1D", "GlobalAveragePooling2D",
        "GlobalAveragePooling3D", "GlobalMaxPooling1D", "GlobalMaxPooling2D",
        "GlobalMaxPooling3D", "LayerNormalization", "LeakyReLU", "MaxPooling1D", "MaxPooling2D",
        "MaxPooling3D", "Maximum", "Minimum", "Multiply", "PReLU", "Permute", "ReLU",
        "RepeatVector", "Rescaling", "Reshape", "Softmax",
        "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "Subtract", "UpSampling1D",
        "UpSampling2D", "UpSampling3D", "ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D",
    }
)  # fmt: skip

# Activations that mean the same in both. `hard_sigmoid` does not: Keras 3 changed it.
_SAME_ACTIVATIONS = {
    "linear": "linear",
    "relu": "relu",
    "softmax": "softmax",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "gelu": "gelu",
    "silu": "swish",
}

# Keys without a meaning for an inference or a fine-tuning of weights that exist already.
_DROPPED_KEYS = frozenset(
    {"dtype", "lora_rank", "lora_alpha", "quantization_config", "synchronized", "seed"}
)


def same_layers(tf_keras: Any, layer: Any) -> tuple[list[Any], Any]:
    """Make the `tf_keras` layers that do what `layer` does.

    A separable convolution becomes the two convolutions that it is made of, as TF-MOT does it.

    Args:
        tf_keras: The module.
        layer: A Keras 3 layer.

    Returns:
        The layers, one after the other, and the activation to put behind them where `tf_keras`
        (or TF-MOT) has no such activation, else `None`. `([], None)` if there is no equal layer;
        `([], activation)` for an `Activation` layer that is only the activation.
    """
    class_name = type(layer).__name__
    if class_name not in _SAME_LAYERS | {"SeparableConv2D"} or not type(
        layer
    ).__module__.startswith("keras.src.layers."):
        return [], None
    layer_class = getattr(tf_keras.layers, class_name)
    config = {
        key: value
        for key, value in layer.get_config().items()
        if key not in _DROPPED_KEYS and not key.endswith("_initializer")
    }
    activation = None
    given = config.get("activation")
    if given is not None:
        same = _SAME_ACTIVATIONS.get(given) if isinstance(given, str) else None
        if same is None and class_name == "Activation":
            return [], given
        activation = given if same is None else None
        config["activation"] = same or "linear"
    if class_name == "LeakyReLU":
        config["alpha"] = config.pop("negative_slope")
    if class_name == "BatchNormalization" and not config.get("renorm"):
        for key in ("renorm", "renorm_clipping", "renorm_momentum"):
            config.pop(key, None)
    accepted = _arguments(layer_class)
    for key in list(config):
        value = config[key]
        if value is None or (value is False and key not in accepted):
            # An argument left at nothing, or one that only Keras 3 has and that is off.
            del config[key]
        elif key.endswith("_regularizer"):
            config[key] = _regularizer(tf_keras, value)
            if config[key] is None:
                return [], None
        elif key.endswith("_constraint") or key not in accepted:
            return [], None
    if issubclass(layer_class, tf_keras.__internal__.layers.BaseRandomLayer):
        # The state is then a variable, which a run that goes on can set.
        config["rng_type"] = "stateful"
    if class_name == "SeparableConv2D":
        return _separable(tf_keras, config), activation
    return [layer_class(**config)], activation


def _separable(tf_keras: Any, config: dict[str, Any]) -> list[Any]:
    depthwise = {
        key: config[key]
        for key in ("kernel_size", "strides", "padding", "depth_multiplier", "data_format")
    }
    pointwise = {
        key: config[key]
        for key in ("filters", "data_format", "activation", "use_bias", "bias_regularizer")
        if key in config
    }
    return [
        tf_keras.layers.DepthwiseConv2D(
            **depthwise,
            dilation_rate=config["dilation_rate"],
            use_bias=False,
            depthwise_regularizer=config.get("depthwise_regularizer"),
            trainable=config["trainable"],
        ),
        tf_keras.layers.Conv2D(
            **pointwise,
            kernel_size=1,
            kernel_regularizer=config.get("pointwise_regularizer"),
            activity_regularizer=config.get("activity_regularizer"),
            trainable=config["trainable"],
        ),
    ]


def _regularizer(tf_keras: Any, config: Any) -> Any:
    if isinstance(config, dict) and config.get("class_name") in ("L1", "L2", "L1L2"):
        return getattr(tf_keras.regularizers, config["class_name"])(**config["config"])
    return None


def _arguments(layer_class: Any) -> set[str]:
    accepted = {"name", "trainable", "activity_regularizer"}
    for base in layer_class.__mro__[:3]:
        accepted |= set(inspect.signature(base.__init__).parameters)
    return accepted - {"self", "args", "kwargs"}
