"""Copies of layers and models, with all that they have learned."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from keras_kd.models.graph import flat_layers
from keras_kd.system.remaking import made_again


@contextlib.contextmanager
def uncompiled(model: Any) -> Iterator[None]:
    """Let a model, and the models inside it, seem uncompiled while the block runs.

    Keras compiles whatever it makes again, and fails for a loss, metric or function of the user's
    that is not registered. A copy is made for its layers and weights: it needs none of that.

    Args:
        model: A model, layer or operation. It is compiled again at the end of the block.
    """
    layers = flat_layers(model) if isinstance(model, keras.layers.Layer) else []
    compiled = [layer for layer in layers if isinstance(layer, keras.Model) and layer.compiled]
    for layer in compiled:
        layer.compiled = False
    try:
        yield
    finally:
        for layer in compiled:
            layer.compiled = True


def clone_uncompiled(
    model: keras.Model,
    clone: Callable[[Any], Any] | None = None,
    call: Callable[..., Any] | None = None,
) -> keras.Model:
    """Return `keras.models.clone_model` of a model, without what the model was compiled with.

    Args:
        model: A model.
        clone: Returns the copy of a layer, for a functional or sequential model. Defaults to
            `None`: the layer made again from its configuration.
        call: Calls a copied layer, for a functional model. Defaults to `None`: as the layer was.
    """
    with uncompiled(model):
        return keras.models.clone_model(model, clone_function=clone, call_function=call)


def copy_layer(layer: Any, **changes: Any) -> Any:
    """Make a layer or operation again from its configuration, without its weights.

    Args:
        layer: A Keras 3 layer or operation.
        **changes: Entries of the configuration that are to be other ones.

    Raises:
        ValueError: If its class cannot do that; the message names the layer.
    """
    with uncompiled(layer):
        return made_again(layer, **changes)


def copy_state(source: Any, target: Any) -> None:
    """Copy the weights of a layer or model, its `trainable` flags and what `adapt` has learned.

    `set_weights` alone leaves out what `adapt` has found: the table of a `TextVectorization` or
    `StringLookup`, and the mean that a `Normalization` computes with. Those go the way that they
    take into and out of a `.keras` file.

    Args:
        source: A layer or model.
        target: A copy of it, made from its configuration.
    """
    target.set_weights(source.get_weights())
    set_trainable(target, trainable_of(source))
    copy_adapted(source, target)


def trainable_of(model: Any) -> list[bool]:
    """Return the `trainable` flags of a layer or model, of all layers inside it and of its weights.

    A configuration holds those of the outermost layers only.
    """
    return [bool(part.trainable) for part in (*flat_layers(model), *model.weights)]


def set_trainable(model: Any, trainable: Sequence[bool]) -> None:
    """Set the flags that `trainable_of` returned of a model with the same layers."""
    layers = flat_layers(model)
    if len(trainable) not in (len(layers), len(layers) + len(model.weights)):
        return
    # From the outside to the inside: a layer passes its flag on to all that is inside it. Files of
    # earlier versions hold no flags of weights.
    for part, wanted in zip((*layers, *model.weights), trainable, strict=False):
        if bool(part.trainable) != wanted:
            part.trainable = wanted


def copy_adapted(source: Any, target: Any) -> None:
    """Copy what the preprocessing layers in a layer or model have learned by `adapt`.

    Args:
        source: A layer or model.
        target: A copy of it, made from its configuration.
    """
    for layer, copied in zip(flat_layers(source), flat_layers(target), strict=False):
        if not hasattr(layer, "adapt") or type(layer) is not type(copied):
            continue
        store: dict[str, Any] = {}
        layer.save_own_variables(store)
        copied.load_own_variables(store)
        if hasattr(layer, "save_assets"):
            with tempfile.TemporaryDirectory() as folder:
                layer.save_assets(folder)
                copied.load_assets(folder)
