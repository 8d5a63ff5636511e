"""fold_batch_norms: a teacher whose batch normalizations are in the kernels before them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from keras_kd.models.copying import clone_uncompiled, copy_layer, copy_state
from keras_kd.models.features import find_layer
from keras_kd.models.graph import calls_of, output_structure

# Exact classes: a subclass may do more than multiply with its kernel.
_KERNELS: dict[type, str] = {
    keras.layers.Dense: "kernel",
    keras.layers.Conv1D: "kernel",
    keras.layers.Conv2D: "kernel",
    keras.layers.Conv3D: "kernel",
    keras.layers.DepthwiseConv1D: "kernel",
    keras.layers.DepthwiseConv2D: "kernel",
    keras.layers.SeparableConv1D: "pointwise_kernel",
    keras.layers.SeparableConv2D: "pointwise_kernel",
    keras.layers.Conv1DTranspose: "kernel",
    keras.layers.Conv2DTranspose: "kernel",
    keras.layers.Conv3DTranspose: "kernel",
}


def fold_batch_norms(model: keras.Model, keep: str | Iterable[str] = ()) -> keras.Model:
    """Return a copy of a model for inference, with batch normalization folded into kernels.

    In inference mode, batch normalization multiplies and adds per channel. If it directly follows a
    convolution or a dense layer whose output nothing else reads, both are folded into that layer's
    kernel and bias, and an identity layer of the same name replaces it. The outputs are equal up to
    rounding, and the model is faster. Do not train the copy. A normalization that is called with
    `training=True`, or inside a nested model that is, uses the statistics of the batch and is not
    folded.

    Args:
        model: A functional or sequential model, nested models included.
        keep: Names of layers whose outputs must stay what they are, because a hint reads them: a
            layer that a normalization is folded into gives the normalized output. Inside nested
            models as `"backbone/conv3"`. Defaults to none.

    Returns:
        A functional model with the same layer names and weights of its own. It is the model itself
        where there is nothing to fold.

    Raises:
        ValueError: If it is not a Keras model, or a subclassed one, whose graph is unknown, or if
            `keep` names a layer that does not exist.

    Example:

    ```python
    teacher = keras_kd.teachers.fold_batch_norms(teacher)
    ```
    """
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"A Keras model is expected. Received: {type(model).__name__}: {model!r}. Load a "
            "file with keras.saving.load_model; a function or an ensemble is used unchanged."
        )
    if output_structure(model) is None:
        raise ValueError(
            f"Model '{model.name}' ({type(model).__name__}) is not a functional or sequential "
            "model, so the order of its layers is unknown. Pass it to the Distiller unchanged."
        )
    keep = {keep} if isinstance(keep, str) else set(keep)
    for path in keep:
        find_layer(model, path)  # which refuses one that does not exist
    normalized = _foldable(model, keep)
    folded = {norm.name for norm in normalized.values()}
    nested = {
        layer.name: fold_batch_norms(layer, _inside(layer.name, keep))
        for layer in model.layers
        if isinstance(layer, keras.Model)
        and output_structure(layer) is not None
        and not _in_training_mode(layer)
    }
    nested = {name: part for name, part in nested.items() if part is not model.get_layer(name)}
    if not folded and not nested:
        return model

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer.name in nested:
            return nested[layer.name]
        if layer.name in folded:
            return keras.layers.Activation("linear", name=layer.name, dtype=layer.dtype_policy)
        return copy_layer(layer, use_bias=True) if layer.name in normalized else copy_layer(layer)

    copy = clone_graph(model, clone)
    for layer in model.layers:
        is_input = isinstance(layer, keras.layers.InputLayer)
        if layer.name in folded or layer.name in nested or is_input:
            continue
        target = copy.get_layer(layer.name)
        if layer.name in normalized:
            _fold(layer, normalized[layer.name], target)
        else:
            copy_state(layer, target)
    return copy


def clone_graph(
    model: keras.Model, clone: Callable[[keras.layers.Layer], keras.layers.Layer]
) -> keras.Model:
    """Return the graph of a functional or sequential model with the layers that `clone` returns."""
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        # A normalization takes a mask as an argument, the identity in its place does not.
        return layer(*args) if type(layer) is keras.layers.Activation else layer(*args, **kwargs)

    copy = clone_uncompiled(model, clone, call)
    copy.name = model.name
    return copy


def _in_training_mode(layer: Any) -> bool:
    """Whether a call of a layer or model in a graph may be in training mode by itself."""
    given = [node.arguments.kwargs.get("training") for node in calls_of(layer)]
    return any(training is not None and training is not False for training in given)


def _inside(name: str, keep: set[str]) -> set[str]:
    return {path.removeprefix(f"{name}/") for path in keep if path.startswith(f"{name}/")}


def _foldable(model: keras.Model, keep: set[str]) -> dict[str, keras.layers.BatchNormalization]:
    """Return the normalization that can be folded into each layer, by the layer's name."""
    outputs = {id(tensor) for tensor in keras.tree.flatten(output_structure(model))}
    readers: dict[int, list[Any]] = {}
    for operation in model.operations if hasattr(model, "operations") else model.layers:
        for node in calls_of(operation):
            for tensor in node.input_tensors:
                readers.setdefault(id(tensor), []).append(operation)
    found = {}
    for layer in model.layers:
        if type(layer) not in _KERNELS or layer.name in keep or len(calls_of(layer)) != 1:
            continue
        output = calls_of(layer)[0].output_tensors[0]
        reading = readers.get(id(output), [])
        if len(reading) != 1 or id(output) in outputs:
            continue
        (norm,) = reading
        if (
            type(norm) is keras.layers.BatchNormalization
            and len(calls_of(norm)) == 1
            and not _in_training_mode(norm)
            and norm.axis in (-1, len(output.shape) - 1)
            and layer.activation is keras.activations.linear
            and getattr(layer, "data_format", "channels_last") == "channels_last"
            and not getattr(layer, "lora_enabled", False)
            and getattr(layer, "quantization_mode", None) is None
        ):
            found[layer.name] = norm
    return found


def _fold(layer: Any, norm: keras.layers.BatchNormalization, target: Any) -> None:
    mean, variance = (_float64(x) for x in (norm.moving_mean, norm.moving_variance))
    scale = 1.0 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        scale = scale * _float64(norm.gamma)
    shift = _float64(norm.beta) if norm.center else 0.0
    bias = _float64(layer.bias) if layer.use_bias else 0.0
    name = _KERNELS[type(layer)]
    kernel = _float64(getattr(layer, name))
    by_channel = scale
    if isinstance(layer, (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)):
        by_channel = scale.reshape(kernel.shape[-2:])
    elif "Transpose" in type(layer).__name__:
        by_channel = scale[:, None]
    # The convolutions of separable layers and all others have their channels last.
    for weight, copied in zip(layer.weights, target.weights, strict=False):
        copied.assign(weight)
    getattr(target, name).assign(kernel * by_channel)
    target.bias.assign((bias - mean) * scale + shift)


def _float64(variable: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable).astype("float64")
