"""Putting TF-MOT's weight clustering into a bridged student, and taking it out again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_kd.compression.stages.kernels import prunable_weights
from keras_kd.compression.stages.layer_choice import LayerChoice
from keras_kd.compression.stages.layer_record import leaf_layers
from keras_kd.compression.tf_keras_bridge.bridge import BridgedModel, graph_layers
from keras_kd.compression.tfmot import import_tf_keras, import_tfmot
from keras_kd.models.layer_plan import Reason, advice_of

INITIALIZATIONS = {
    "kmeans++": "KMEANS_PLUS_PLUS",
    "density": "DENSITY_BASED",
    "linear": "LINEAR",
    "random": "RANDOM",
}


def layers_to_cluster(
    model: keras.Model, number_of_clusters: int, per_channel: bool, choice: LayerChoice
) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """Find the layers of a Keras 3 student that TF-MOT can cluster.

    Args:
        model: The student.
        number_of_clusters: Number of values that a kernel, or a channel of it, may have.
        per_channel: Whether convolutions are clustered channel by channel.
        choice: The layers to treat.

    Returns:
        The kernels by the path of their layer, and the reason by path for the other layers with
        weights.
    """
    found, skipped = prunable_weights(model, choice)
    kernels = {path: [weight.variable for weight in weights] for path, weights in found.items()}
    skipped = {
        path: Reason(reason.replace("prune", "cluster"), advice_of(reason))
        for path, reason in skipped.items()
    }
    leaves = dict(leaf_layers(model))
    bridged = {path for path, _ in graph_layers(model)}
    for path, weights in list(kernels.items()):
        if path not in bridged:
            skipped[path] = "it is inside a subclassed model, which is rebuilt as one layer"
            del kernels[path]
            continue
        by_channel = per_channel and is_clustered_by_channel(leaves[path])
        group = "channel" if by_channel else "kernel"
        sizes = [
            int(np.prod(weight.shape[:-1] if by_channel else weight.shape)) for weight in weights
        ]
        if max(sizes) <= number_of_clusters:
            skipped[path] = Reason(
                f"a {group} of it has {max(sizes)} weights, no more than {number_of_clusters} "
                "clusters",
                "ask for fewer clusters",
            )
            del kernels[path]
    return kernels, skipped


def is_clustered_by_channel(layer: Any) -> bool:
    """Whether TF-MOT clusters layers of this kind channel by channel, if asked to."""
    return type(layer).__name__ in ("Conv2D", "SeparableConv2D")


def cluster(
    bridged: BridgedModel,
    paths: Mapping[str, Any],
    number_of_clusters: int,
    initialization: str,
    per_channel: bool,
    pruned: bool,
) -> tuple[Any, set[str]]:
    """Wrap the layers at `paths` into TF-MOT's clustering.

    Args:
        bridged: The student in `tf_keras`.
        paths: Paths of the layers to cluster.
        number_of_clusters: Number of values that a kernel, or a channel of it, may have.
        initialization: How the first centroids are found, a key of `INITIALIZATIONS`.
        per_channel: Whether convolutions are clustered channel by channel.
        pruned: Whether zeros stay zero.

    Returns:
        The `tf_keras` model, and the names of the layers in `bridged.model` that were wrapped.
    """
    tf_keras, clustering = import_tf_keras(), import_tfmot().clustering.keras
    wanted = {name for path in paths for name in bridged.weight_layers[path]}
    centroids = clustering.CentroidInitialization[INITIALIZATIONS[initialization]]
    wrapped: set[str] = set()

    def wrap(layer: Any) -> Any:
        kernels = _kernels(layer) if layer.name in wanted else []
        if not kernels:
            return layer
        zeros = pruned and any((kernel == 0).any() for kernel in kernels)
        channels = (
            per_channel
            and type(layer) is tf_keras.layers.Conv2D
            and _every_channel_has(kernels[0], number_of_clusters)
        )
        if not channels and any(_distinct(kernel) <= number_of_clusters for kernel in kernels):
            return layer
        wrapped.add(layer.name)
        if channels:
            # `cluster_weights` takes the last weight for the bias, and leaves a convolution
            # without bias as it is.
            return _wrapper(layer, number_of_clusters, centroids, zeros, True)
        return clustering.cluster_weights(
            layer, number_of_clusters, centroids, preserve_sparsity=zeros
        )

    return tf_keras.models.clone_model(bridged.model, clone_function=wrap), wrapped


def _wrapper(*arguments: Any) -> Any:
    import_tfmot()
    from tensorflow_model_optimization.python.core.clustering.keras import cluster_wrapper

    return cluster_wrapper.ClusterWeights(*arguments)


def strip(model: Any) -> Any:
    """Return a clustered `tf_keras` model without TF-MOT's wrappers."""
    return import_tfmot().clustering.keras.strip_clustering(model)


def clustered_variables(
    model: Any, weight_layers: Mapping[str, tuple[str, ...]], paths: Iterable[str]
) -> list[Any]:
    """Return the variables that clustering treats in the layers at `paths`.

    Args:
        model: A bridged or quantization-aware `tf_keras` model.
        weight_layers: The names of its layers that hold the weights, by path.
        paths: Paths of layers that a `Cluster` stage treats, or has treated.
    """
    layers = {layer.name: layer for layer in model.layers}
    found: list[Any] = []
    for name in (name for path in paths for name in weight_layers.get(path, ())):
        layer = layers[name]
        treated = getattr(layer, "layer", layer)  # inside a wrapper that quantizes
        if hasattr(treated, "get_clusterable_weights"):
            found += [weight for _, weight in treated.get_clusterable_weights()]
        elif _clusterable_names(treated):
            found += [weight for weight in layer.trainable_variables if weight.shape.rank >= 2]
    return found


def _kernels(layer: Any) -> list[np.ndarray]:
    """Return the weights that TF-MOT clusters in a layer of `tf_keras`; none where it cannot."""
    if hasattr(layer, "get_clusterable_weights"):
        return [np.asarray(weight) for _, weight in layer.get_clusterable_weights()]
    return [np.asarray(getattr(layer, name)) for name in _clusterable_names(layer)]


def _clusterable_names(layer: Any) -> list[str]:
    import_tfmot()
    from tensorflow_model_optimization.python.core.clustering.keras import clustering_registry

    return list(clustering_registry.ClusteringRegistry._LAYERS_WEIGHTS_MAP.get(type(layer), []))


def _distinct(kernel: np.ndarray) -> int:
    return len(np.unique(kernel))


def _every_channel_has(kernel: np.ndarray, number_of_clusters: int) -> bool:
    # TF-MOT needs the same number of centroids in each channel, which a channel of zeros lacks.
    channels = np.moveaxis(kernel, -1, 0)
    return all(_distinct(channel) > number_of_clusters for channel in channels)
