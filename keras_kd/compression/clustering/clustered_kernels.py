"""Kernels of a few distinct values: TF-MOT's clustering, on the variables of a Keras 3 model."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd.compression.stages.kept import Kept, groups_of, zeros_of
from keras_kd.compression.stages.layer_record import distinct_values
from keras_kd.compression.tfmot import import_tfmot
from keras_kd.models.views import read_as

INITIALIZATIONS = {
    "kmeans++": "KMEANS_PLUS_PLUS",
    "density": "DENSITY_BASED",
    "linear": "LINEAR",
    "random": "RANDOM",
}


@dataclasses.dataclass(frozen=True)
class _Clustered:
    """A kernel that is clustered, and what TF-MOT does it with."""

    variable: keras.Variable
    algorithm: Any
    centroids: keras.Variable
    mask: np.ndarray | None
    zero: np.ndarray | None

    def values(self) -> tf.Tensor:
        """Return the kernel with every weight at its centroid; gradients reach both."""
        kernel = tf.convert_to_tensor(self.variable.value)
        if self.mask is not None:
            kernel = kernel * tf.constant(self.mask, kernel.dtype)
            # The centroid of the zeros stays zero, as in TF-MOT.
            self.centroids.assign(tf.where(tf.constant(self.zero), 0.0, self.centroids.value))
        return self.algorithm.get_clustered_weight(
            self.algorithm.get_pulling_indices(kernel), kernel
        )


class ClusteredKernels:
    """A student seen with clustered kernels; a view (`keras_kd.models.views`).

    Args:
        model: The student.
        kernels: The kernels to cluster, by the path of their layer.
        number_of_clusters: Number of values of a kernel, or of a channel.
        initialization: A key of `INITIALIZATIONS`.
        by_channel: Tells of a path whether its channels are clustered one by one.
        pruned: Whether zeros stay zero, in the other kernels as well.
    """

    def __init__(
        self,
        model: keras.Model,
        kernels: Mapping[str, Sequence[keras.Variable]],
        number_of_clusters: int,
        initialization: str,
        by_channel: Callable[[str], bool],
        pruned: bool,
    ) -> None:
        self._model = model
        self._layer = keras.layers.Layer(name="centroids", dtype="float32")
        self._layer.built = True
        self._clustered: list[_Clustered] = []
        self._kept: list[tuple[keras.Variable, Kept]] = []
        treated = set()
        for path, variables in kernels.items():
            for variable in variables:
                treated.add(id(variable))
                values = keras.ops.convert_to_numpy(variable.value)
                channels = by_channel(path) and _every_channel_has(values, number_of_clusters)
                mask = zeros_of(variable) if pruned else None
                if not channels and distinct_values(values) <= number_of_clusters:
                    self._kept.append((variable, Kept(mask, groups_of(variable, False))))
                else:
                    self._clustered.append(
                        self._make(variable, number_of_clusters, initialization, channels, mask)
                    )
        others = [v for v in model.trainable_variables if id(v) not in treated] if pruned else []
        for variable in others:
            kept = Kept(zeros_of(variable) if len(variable.shape) > 1 else None)
            if kept:
                self._kept.append((variable, kept))

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """The layer that holds the centroids."""
        return [self._layer]

    @contextlib.contextmanager
    def applied(self, training: bool = False) -> Iterator[None]:
        """Let one call of the model inside the block read clustered kernels."""
        with read_as(self._model, self._values()):
            yield

    def bake(self) -> None:
        """Write the clustered values into the kernels."""
        for variable, values in self._values():
            variable.assign(values)

    def _values(self) -> list[tuple[keras.Variable, tf.Tensor]]:
        clustered = [(part.variable, part.values()) for part in self._clustered]
        return clustered + [(variable, kept(variable)) for variable, kept in self._kept]

    def _make(
        self,
        variable: keras.Variable,
        number_of_clusters: int,
        initialization: str,
        by_channel: bool,
        mask: np.ndarray | None,
    ) -> _Clustered:
        clustering = import_tfmot().clustering.keras
        from tensorflow_model_optimization.python.core.clustering.keras import (
            clustering_algorithm,
            clustering_centroids,
        )

        kind = clustering.CentroidInitialization[INITIALIZATIONS[initialization]]
        initializers = clustering_centroids.CentroidsInitializerFactory
        kernel = tf.constant(keras.ops.convert_to_numpy(variable.value))
        first = initializers.get_centroid_initializer(kind)(
            kernel, number_of_clusters, by_channel, "channels_last", mask is not None
        ).get_cluster_centroids()
        first = np.asarray(first)
        centroids = self._layer.add_weight(
            name=f"centroids_{len(self._clustered)}",
            shape=first.shape,
            initializer=lambda shape, dtype=None: keras.ops.cast(first, dtype),
        )
        algorithm = (
            clustering_algorithm.ClusteringAlgorithmPerChannel
            if by_channel
            else clustering_algorithm.ClusteringAlgorithm
        )
        zero = None
        if mask is not None:
            nearest = np.abs(first).argmin(-1)
            zero = np.arange(first.shape[-1]) == np.expand_dims(nearest, -1)
        return _Clustered(
            variable,
            algorithm(centroids.value, data_format="channels_last"),
            centroids,
            mask,
            zero,
        )


def is_clustered_by_channel(layer: Any) -> bool:
    """Whether TF-MOT clusters layers of this kind channel by channel, if asked to."""
    return type(layer).__name__ in ("Conv2D", "SeparableConv2D")


def _every_channel_has(kernel: np.ndarray, number_of_clusters: int) -> bool:
    # TF-MOT needs the same number of centroids in each channel, which a channel of zeros lacks.
    channels = np.moveaxis(kernel, -1, 0)
    return all(distinct_values(channel) > number_of_clusters for channel in channels)
