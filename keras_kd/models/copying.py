"""Copies of layers and models, with all that they have learned."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from keras_kd.models.graph import flat_layers, is_graph
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


def clone_layers(model: keras.Model) -> keras.Model:
    """Return a functional or sequential model of copies of all layers, with weights of their own.

    A layer that stands in several nested models stands in the copies of all of them: made again
    from its configuration, each nested model would have one of its own.

    Args:
        model: A model.
    """
    nested = _models_of_shared_layers(model)
    made: dict[int, Any] = {}

    def clone(layer: Any) -> Any:
        if id(layer) not in made:
            made[id(layer)] = (
                clone_uncompiled(layer, clone) if id(layer) in nested else copy_layer(layer)
            )
        return made[id(layer)]

    return clone_uncompiled(model, clone)


def _models_of_shared_layers(model: keras.Model) -> set[int]:
    """Return the `id`s of the nested models with layers of others, and of those around them."""
    return {id(part) for _, above in _shared_layers(model) for part in above}


def check_layers_in_files(model: keras.Model) -> None:
    """Refuse a model that Keras writes into a file from which it cannot be loaded.

    Args:
        model: A model.

    Raises:
        ValueError: Naming the layer that several nested models share.
    """
    for layer, above in _shared_layers(model):
        if not layer.weights:
            continue
        models = " and ".join(repr(part.name) for part in above[:2])
        raise ValueError(
            f"A file of '{model.name}' could not be loaded: its layer '{layer.name}' stands in "
            f"several models ({models}), and Keras makes it again for each of them, with weights "
            "for one. Call the layer in one of them only. Without `path` and `save`, `compress` "
            "and `export_tflite` take the model as it is."
        )


def _shared_layers(model: keras.Model) -> list[tuple[Any, list[Any]]]:
    """Return the layers that stand in several models, and the nested models around each."""
    found: dict[int, tuple[Any, set[int], dict[int, Any]]] = {}

    def visit(parent: Any, above: tuple[Any, ...]) -> None:
        for layer in parent.layers:
            if isinstance(layer, keras.layers.InputLayer):
                continue
            _, parents, around = found.setdefault(id(layer), (layer, set(), {}))
            parents.add(id(parent))
            around.update({id(part): part for part in above})
            # Keras would make a model of the user's class into one of its own.
            if is_graph(layer) and type(layer).__module__.split(".")[0] == "keras":
                visit(layer, (*above, layer))

    if is_graph(model):
        visit(model, ())
    return [(layer, [*around.values()]) for layer, parents, around in found.values()
            if len(parents) > 1]  # fmt: skip


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
