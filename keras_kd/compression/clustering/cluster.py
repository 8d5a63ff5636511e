"""Cluster: let the weights of a student share a few values while it learns."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd.compression.pruning.prune import Prune
from keras_kd.compression.stages.kernels import prunable_weights
from keras_kd.compression.stages.layer_record import already_pruned, distinct_values
from keras_kd.compression.stages.stage import Plan, Stage, StudentState
from keras_kd.models.kept import Kept, groups_of, zeros_of, zeros_to_keep
from keras_kd.models.layer_choice import first_reasons
from keras_kd.models.layer_plan import LayerPlan, Reason, advice_of
from keras_kd.models.layers import leaf_layers
from keras_kd.models.tfmot import import_tfmot
from keras_kd.models.views import read_as
from keras_kd.system.arguments import number
from keras_kd.system.names import one_of

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
        self.algorithm.cluster_centroids = _read(tf.convert_to_tensor(self.centroids.value))
        return self.algorithm.get_clustered_weight(
            self.algorithm.get_pulling_indices(kernel), kernel
        )


@tf.custom_gradient
def _read(centroids: tf.Tensor) -> tuple[tf.Tensor, Callable[..., tf.Tensor]]:
    """Return centroids whose gradient is one number each, not one for each weight.

    Adam would square these one by one, and differently on several workers.
    """
    return tf.identity(centroids), tf.convert_to_tensor


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
        for variable, mask in zeros_to_keep(model) if pruned else ():
            if id(variable) not in treated:
                self._kept.append((variable, Kept(mask)))

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
        initializer = _initializer(initialization)
        from tensorflow_model_optimization.python.core.clustering.keras import clustering_algorithm

        kernel = tf.constant(keras.ops.convert_to_numpy(variable.value))
        first = initializer(
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


def _initializer(initialization: str) -> Any:
    """Return TF-MOT's class that finds the first centroids in a way of `INITIALIZATIONS`."""
    clustering = import_tfmot().clustering.keras
    from tensorflow_model_optimization.python.core.clustering.keras import clustering_centroids

    kind = clustering.CentroidInitialization[INITIALIZATIONS[initialization]]
    found = clustering_centroids.CentroidsInitializerFactory.get_centroid_initializer(kind)
    if initialization != "random":
        return found

    class Drawn(found):  # type: ignore[misc,valid-type]
        """Draws from NumPy's generator, which a resumed run seeds again; TensorFlow's it cannot."""

        def _calculate_centroids_for_interval(self, weights: tf.Tensor, count: Any) -> tf.Tensor:
            # No weight is negative, say: the interval is empty then.
            values = np.asarray(weights) if int(count) else np.zeros(1)
            drawn = np.random.uniform(values.min(), values.max(), int(count))
            return tf.constant(drawn, weights.dtype)

    return Drawn


def is_clustered_by_channel(layer: Any) -> bool:
    """Whether TF-MOT clusters layers of this kind channel by channel, if asked to."""
    return type(layer).__name__ in ("Conv2D", "SeparableConv2D")


def _every_channel_has(kernel: np.ndarray, number_of_clusters: int) -> bool:
    # TF-MOT needs the same number of centroids in each channel, which a channel of zeros lacks.
    channels = np.moveaxis(kernel, -1, 0)
    return all(distinct_values(channel) > number_of_clusters for channel in channels)


@keras.saving.register_keras_serializable(package="keras_kd")
class Cluster(Stage):
    """Clusters the weights of a student with TF-MOT: each kernel keeps a few distinct values.

    The student stays the Keras 3 model that it is. While it trains, its kernels are read as
    TF-MOT's algorithm gives them: centroids are trained, and weights move from one cluster to
    another. A file of few distinct values is small when it is zipped. Kernels of dense and
    convolutional layers, embeddings, recurrent cells and attention are clustered; biases,
    normalization and depthwise kernels are not, as in TF-MOT.

    After `Prune`, or on a student that was pruned, zeros stay exactly zero; zero is then one of
    the clusters, and weights next to it become zero too.

    Args:
        number_of_clusters: Number of distinct values that a kernel may have, 2 to 256; at least 3
            for a pruned student. Defaults to `16`.
        epochs: Number of epochs of training. Defaults to `1`.
        initialization: How the first centroids are found: `"kmeans++"`, `"density"`, `"linear"`
            or `"random"`. Defaults to `"kmeans++"`.
        per_channel: Whether each output channel of a two-dimensional convolution has
            `number_of_clusters` values of its own, which costs less accuracy and makes a larger
            zipped file. Where a channel holds no more values than that (one that was pruned empty,
            say), its kernel is clustered as a whole. Defaults to `False`.
        layers: The layers to cluster, as in `Stage`. Defaults to `None`: all that can be.
        exclude: The layers to spare, as in `Stage`. Defaults to `None`: none.
        optimizer: As in `Stage`. Defaults to `None`: Adam.
        learning_rate: As in `Stage`. Defaults to `None`: `1e-4`.
        name: As in `Stage`. Defaults to `"cluster"`.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    compressed = keras_kd.compress(
        distiller,
        train,
        validation_data=validation,
        stages=[keras_kd.Prune(0.5, epochs=4), keras_kd.Cluster(16, epochs=2)],
    )
    print([(layer.name, layer.clusters) for layer in compressed.layers])
    ```

    Reference:
        Han et al., Deep Compression, 2016, arXiv:1510.00149.
    """

    default_learning_rate = 1e-4

    def __init__(
        self,
        number_of_clusters: int = 16,
        epochs: int = 1,
        initialization: str = "kmeans++",
        per_channel: bool = False,
        layers: Any = None,
        exclude: Any = None,
        optimizer: Any = None,
        learning_rate: Any = None,
        name: str | None = None,
    ) -> None:
        super().__init__(epochs, optimizer, learning_rate, name, layers, exclude)
        self.number_of_clusters = number(
            "number_of_clusters",
            number_of_clusters,
            least=2,
            most=256,
            whole=True,
            owner="Cluster",
            advice="8 bits hold 256 values.",
        )
        one_of("initialization", initialization, INITIALIZATIONS, owner="Cluster")
        self.initialization = initialization
        self.per_channel = bool(per_channel)

    def make_plan(self, student: keras.Model, earlier: Sequence[Stage]) -> Plan:
        """Decide which layers are clustered, and why others are not."""
        pruned = already_pruned(student) or any(isinstance(stage, Prune) for stage in earlier)
        if pruned and self.number_of_clusters < 3:
            raise ValueError(
                "Cluster: zeros of a pruned student are a cluster of their own, so that "
                f"`number_of_clusters` must be at least 3, but is {self.number_of_clusters}. "
                "Write Cluster(3), or leave Prune out."
            )
        kernels, skipped = self._layers_to_cluster(student)
        self.choice.check(student, skipped)
        if not kernels:
            raise ValueError(
                f"Cluster finds no kernel to cluster in model '{student.name}'"
                f"{first_reasons(skipped)}. It clusters the kernels of trainable "
                "Dense, convolutional, Embedding, recurrent and attention layers that have more "
                "weights than clusters: leave this stage out, or ask for fewer clusters."
            )
        layers = {path: LayerPlan(f"cluster to {self.number_of_clusters}") for path in kernels}
        layers |= {path: LayerPlan.spared(reason) for path, reason in skipped.items()}
        return Plan(layers, functools.partial(self._apply, kernels, layers))

    def _apply(
        self,
        kernels: Mapping[str, Sequence[keras.Variable]],
        layers: Mapping[str, LayerPlan],
        state: StudentState,
        teaching: Any,
    ) -> None:
        leaves = dict(leaf_layers(state.model))
        with teaching.keras_trainer(state, self.make_optimizer) as trainer:
            view = ClusteredKernels(
                state.model,
                kernels,
                self.number_of_clusters,
                self.initialization,
                lambda path: self.per_channel and is_clustered_by_channel(leaves[path]),
                state.pruned,
            )
            trainer.look_through(view)
            state.history[self.name] = teaching.fit(trainer, self.epochs)
        view.bake()
        state.take_notes(layers, "not clustered", lambda path: None)
        for path, weights in kernels.items():
            by_channel = self.per_channel and is_clustered_by_channel(leaves[path])
            self._take_note(state, path, weights, by_channel)

    def gentler(self) -> Stage | None:
        """Return a stage of twice as many clusters, up to 256."""
        if self.number_of_clusters > 128:
            return None
        return self.changed(number_of_clusters=2 * self.number_of_clusters)

    def at_strength(self, strength: float) -> Stage:
        """Return a stage with more clusters: 256 at strength 0, evenly spaced in bits."""
        bits = 8.0 + strength * (math.log2(self.number_of_clusters) - 8.0)
        return self.changed(number_of_clusters=round(2.0**bits))

    def _layers_to_cluster(
        self, model: keras.Model
    ) -> tuple[dict[str, list[keras.Variable]], dict[str, str]]:
        """Return the kernels to cluster, and the reasons not to cluster others, by path."""
        found, skipped = prunable_weights(model, self.choice)
        kernels = {path: [weight.variable for weight in weights] for path, weights in found.items()}
        skipped = {
            path: Reason(reason.replace("prune", "cluster"), advice_of(reason))
            for path, reason in skipped.items()
        }
        leaves = dict(leaf_layers(model))
        for path, weights in list(kernels.items()):
            by_channel = self.per_channel and is_clustered_by_channel(leaves[path])
            sizes = [math.prod(w.shape[:-1] if by_channel else w.shape) for w in weights]
            if max(sizes) <= self.number_of_clusters:
                skipped[path] = Reason(
                    f"a {'channel' if by_channel else 'kernel'} of it has {max(sizes)} weights, no "
                    f"more than {self.number_of_clusters} clusters",
                    "ask for fewer clusters",
                )
                del kernels[path]
        return kernels, skipped

    def _take_note(
        self,
        state: StudentState,
        path: str,
        weights: Sequence[keras.Variable],
        by_channel: bool,
    ) -> None:
        values = [np.asarray(weight.value) for weight in weights]
        by_channel = by_channel and max(map(distinct_values, values)) > self.number_of_clusters
        count = max(distinct_values(kernel, by_channel) for kernel in values)
        note = state.note(path)
        if count > self.number_of_clusters:
            note.not_done.append(f"not clustered: TF-MOT left it {count} values")
            return
        note.clustered = "channel" if by_channel else "kernel"
        note.done.append(f"clustered to {count} values{' a channel' if by_channel else ''}")
