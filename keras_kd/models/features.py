"""Reading the outputs of inner layers from the one pass that a model makes anyway."""

from __future__ import annotations

import contextlib
import difflib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_kd.losses.shared.masks import get_keras_mask, set_keras_mask
from keras_kd.models.calls import changed_calls, inner_layers


def find_layer(model: Any, path: str) -> Any:
    """Return the layer of `model` at `path`.

    Args:
        model: A Keras 3 or `tf_keras` model.
        path: A layer's name, or names joined with `/` that lead into nested models and into layers
            made of layers, such as `"backbone/block3_out"` or `"attention/softmax"`. Within such a
            layer the attribute that holds a layer names it too, without leading underscores.

    Raises:
        ValueError: If there is no such layer; the message lists those that exist.
    """
    layer = model
    rest = path
    while rest:
        names = _inner_layers(layer)
        if rest in names:
            return names[rest]
        head, _, rest = rest.partition("/")
        if head not in names or not rest:
            raise ValueError(_no_layer(model, path))
        layer = names[head]
    raise ValueError("A hint needs the name of a layer. Received: an empty string.")


def _inner_layers(layer: Any) -> dict[str, Any]:
    if hasattr(layer, "layers"):
        return {child.name: child for child in layer.layers}
    if not isinstance(layer, keras.layers.Layer):
        return {}
    # Keras numbers the names of layers that were given none: "softmax_3" tells nobody anything.
    inner = inner_layers(layer)
    return {**dict(inner), **{child.name: child for _, child in inner}}


def _no_layer(model: Any, path: str) -> str:
    paths = layer_paths(model)
    nested = [known for known in paths if known.endswith(f"/{path}")]
    similar = nested or difflib.get_close_matches(path, paths, n=1)
    advice = f" Did you mean '{similar[0]}'?" if similar else ""
    return (
        f"Model '{model.name}' has no layer '{path}'.{advice} Its layers are: "
        f"{', '.join(paths) or 'none'}."
    )


def layer_paths(model: Any) -> list[str]:
    """Return the path of every layer of `model`, those of nested models behind their own."""
    paths = []
    for layer in getattr(model, "layers", []):
        paths.append(layer.name)
        paths += [f"{layer.name}/{path}" for path in layer_paths(layer)]
    return paths


class FeatureReader:
    """Hands out what the named layers of a model return while the model runs.

    Every layer is watched only while a `reading` is open, so the model is left as it was found.
    Layers of KerasHub take padding as an argument, `padding_mask`, and pass no Keras mask on: it
    becomes the Keras mask of the features of the same batch and time. A layer that takes none, such
    as an embedding, has the padding of the layer that it enters, as far as that is read too; else
    of the next layer that takes some, or of the one before.

    Works on functional, sequential, nested and subclassed models of Keras 3 and of `tf_keras`,
    and under strategies that run a replica in each thread.

    Args:
        model: The model.
        paths: Paths of its layers, as in `find_layer`.
    """

    def __init__(self, model: Any, paths: Sequence[str]) -> None:
        self._layers = {path: find_layer(model, path) for path in paths}
        self._watched = {**_enclosing(model, paths), **self._layers}
        self._model_name = model.name
        self._lock = threading.Lock()
        self._open = 0
        self._watching = contextlib.ExitStack()
        self._local = threading.local()

    @contextlib.contextmanager
    def reading(self, features: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """Fill a dictionary of path -> output while the model is called once inside the block.

        Args:
            features: The dictionary. Defaults to a new one.
        """
        features = {} if features is None else features
        self._local.features, self._local.paddings = features, {}
        self._local.entered = []
        self._local.graphs, self._local.repeated = {}, []
        with self._lock:
            self._open += 1
            if self._open == 1:
                self._watching.enter_context(changed_calls(self._watched, self._keep))
        try:
            yield features
        finally:
            self._local.features = None
            with self._lock:
                self._open -= 1
                if self._open == 0:
                    self._watching.close()

    def _keep(self, path: str, layer: Any, call: Any, args: Any, kwargs: Any) -> Any:
        padding = kwargs.get("padding_mask", kwargs.get("decoder_padding_mask"))
        fits = padding is not None and len(padding.shape) == 2
        self._local.paddings[path] = padding if fits else None
        if fits and (args or kwargs):
            self._local.entered.append(((*args, *kwargs.values())[0], padding))
        outputs = call(*args, **kwargs)
        features = getattr(self._local, "features", None)
        if features is not None and path in self._layers:
            # A model that is built in this pass calls its layers once more, in a graph aside.
            graph = tf.compat.v1.get_default_graph()
            if self._local.graphs.get(path) is graph:
                self._local.repeated.append(path)
            self._local.graphs[path] = graph
            features[path] = outputs
        return outputs

    def _mask_padding(self, features: Mapping[str, Any]) -> None:
        for path, feature in features.items():
            shape = tuple(getattr(feature, "shape", ()))
            if len(shape) < 3 or get_keras_mask(feature) is not None:
                continue
            for padding in self._paddings_of(path, feature):
                mask = keras.ops.cast(padding, "bool")
                if None in (shape[1], mask.shape[1]):
                    mask = _where_lengths_agree(mask, feature)
                if mask.shape[1] == shape[1]:
                    set_keras_mask(feature, mask)
                    break

    def _paddings_of(self, path: str, feature: Any) -> list[Any]:
        """Return the padding of a layer, or those that it may have, the likeliest first.

        An encoder and a decoder in one pass have a padding each.
        """
        paddings, parts = self._local.paddings, path.split("/")
        around = ["/".join(parts[:i]) for i in range(len(parts), 0, -1)]
        own = [paddings[name] for name in around if paddings.get(name) is not None]
        own += [padding for entering, padding in self._local.entered if entering is feature]
        if own:
            return own[:1]
        order = list(paddings)
        place = order.index(path)
        found = [paddings[name] for name in (*order[place:], *order[:place][::-1])]
        return [padding for padding in found if padding is not None]

    def run(self, model: Any, inputs: Any, training: bool) -> tuple[Any, dict[str, Any]]:
        """Call `model` once.

        Returns:
            Its outputs, and path -> output of each layer.

        Raises:
            ValueError: If the model's pass did not call one of the layers, or called it twice.
        """
        if not self._layers:
            return model(inputs, training=training), {}
        with self.reading() as features:
            outputs = model(inputs, training=training)
            self._mask_padding(features)
        missing = [path for path in self._layers if path not in features]
        if missing:
            raise ValueError(
                f"Layer '{missing[0]}' of model '{self._model_name}' has no output that a hint "
                "could read: the model's pass does not call it as a layer. Name another layer. "
                "(MultiHeadAttention calls its softmax where it has `dropout` or is called with "
                "`return_attention_scores=True`.)"
            )
        if self._local.repeated:
            raise ValueError(
                f"Layer '{self._local.repeated[0]}' of model '{self._model_name}' is called "
                "several times in one pass, so its output is ambiguous. Name a layer that is "
                "called once. keras.layers.Identity(name=...) behind a call names its output."
            )
        return outputs, features


def _where_lengths_agree(mask: Any, feature: Any) -> Any:
    """Return `mask` for a feature of as many steps, and a mask that keeps all for any other."""
    steps, length = tf.shape(mask)[1], tf.shape(feature)[1]
    fitted = tf.pad(mask[:, :length], [[0, 0], [0, tf.maximum(length - steps, 0)]])
    fitted = tf.ensure_shape(fitted, [mask.shape[0], feature.shape[1]])
    return tf.logical_or(fitted, tf.not_equal(steps, length))


def _enclosing(model: Any, paths: Sequence[str]) -> dict[str, Any]:
    """Return the layers around the named ones, models left out, by path."""
    found: dict[str, Any] = {}
    for path in paths:
        names = path.split("/")[:-1]
        for i in range(1, len(names) + 1):
            with contextlib.suppress(ValueError):
                layer = find_layer(model, "/".join(names[:i]))
                if not hasattr(layer, "layers"):
                    found["/".join(names[:i])] = layer
    return found


def feature_shape(model: Any, path: str) -> tuple[int | None, ...] | None:
    """Return the shape of a layer's output, batch first, or `None` where only a pass can tell."""
    try:
        output = find_layer(model, path).output
    except (AttributeError, ValueError):
        find_layer(model, path)
        return None
    return tuple(output.shape) if hasattr(output, "shape") else None


def traced_shapes(model: Any, paths: Sequence[str], example: Any) -> dict[str, Any]:
    """Return the shapes of layers' outputs, batch first, from tracing a pass over `example`."""
    reader = FeatureReader(model, paths)
    shapes: dict[str, Any] = {}

    @tf.function(autograph=False)
    def trace(x: Any) -> None:
        _, features = reader.run(model, x, training=False)
        shapes.update({path: (None, *feature.shape[1:]) for path, feature in features.items()})

    trace.get_concrete_function(
        keras.tree.map_structure(lambda v: tf.TensorSpec(v.shape, v.dtype), example)
    )
    return shapes
