"""Cluster: let the weights of a student share a few values while it learns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_kd.compression.clustering.clustered_kernels import (
    INITIALIZATIONS,
    ClusteredKernels,
    is_clustered_by_channel,
)
from keras_kd.compression.pruning.prune import Prune
from keras_kd.compression.stages.kernels import prunable_weights
from keras_kd.compression.stages.layer_choice import LayerChoice, choice_from_config
from keras_kd.compression.stages.layer_record import already_pruned, distinct_values, leaf_layers
from keras_kd.compression.stages.stage import Stage, StudentState
from keras_kd.models.layer_plan import LayerPlan, Reason, advice_of
from keras_kd.system.arguments import number


@keras.saving.register_keras_serializable(package="keras_kd")
class Cluster(Stage):
    """Clusters the weights of a student with TF-MOT: each kernel keeps a few distinct values.

    The student stays the Keras 3 model that it is. While it trains, its kernels are read as
    TF-MOT's algorithm gives them: centroids are trained, and weights move from one cluster to
    another. A file of few distinct values is small when it is zipped. Kernels of dense and
    convolutional layers, embeddings, recurrent cells and attention are clustered; biases,
    normalisation and depthwise kernels are not, as in TF-MOT.

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
        layers: The layers to cluster: a name, a list of names, or a function that takes a layer
            and tells. A name is a layer's own (`"conv1"`), its path inside a nested model
            (`"backbone/conv1"`) or a shell pattern of either (`"block3_*"`). Defaults to `None`:
            all that can be.
        exclude: The layers to spare, given in the same way. Defaults to `None`: none.
        optimizer: A Keras optimizer or its name. Defaults to `None`: Adam.
        learning_rate: Learning rate of the default optimizer. Defaults to `None`: `1e-4`.
        name: Name of the stage in the history. Defaults to `"cluster"`.

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
        super().__init__(epochs, optimizer, learning_rate, name)
        self.number_of_clusters = number(
            "number_of_clusters",
            number_of_clusters,
            least=2,
            most=256,
            whole=True,
            owner="Cluster",
            advice="8 bits hold 256 values.",
        )
        if initialization not in INITIALIZATIONS:
            raise ValueError(
                f"Cluster: `initialization` must be one of {', '.join(INITIALIZATIONS)}, but "
                f"received {initialization!r}."
            )
        self.initialization = initialization
        self.per_channel = bool(per_channel)
        self.choice = LayerChoice("Cluster", layers, exclude)

    def check(self, student: keras.Model, earlier: Sequence[Stage]) -> None:
        """Refuse a student without kernels, and names of layers that cannot be clustered."""
        self.layer_plans(student, earlier)

    def layer_plans(self, student: keras.Model, earlier: Sequence[Stage]) -> dict[str, LayerPlan]:
        """Say which layers are clustered, and why others are not."""
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
            reasons = "; ".join(f"'{path}': {reason}" for path, reason in list(skipped.items())[:5])
            raise ValueError(
                f"Cluster finds no kernel to cluster in model '{student.name}'"
                f"{f' ({reasons})' if reasons else ''}. It clusters the kernels of trainable "
                "Dense, convolutional, Embedding, recurrent and attention layers that have more "
                "weights than clusters: leave this stage out, or ask for fewer clusters."
            )
        plan = {path: LayerPlan(f"cluster to {self.number_of_clusters}") for path in kernels}
        return plan | {path: LayerPlan.spared(reason) for path, reason in skipped.items()}

    def run(self, state: StudentState, teaching: Any) -> None:
        """Train with clustered weights; the state's model stays a Keras 3 model."""
        kernels, skipped = self._layers_to_cluster(state.model)
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
        self._take_notes(state, kernels, skipped)

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

    def _take_notes(
        self, state: StudentState, kernels: dict[str, Any], skipped: dict[str, str]
    ) -> None:
        leaves = dict(leaf_layers(state.model))
        for path, weights in kernels.items():
            values = [np.asarray(weight.value) for weight in weights]
            by_channel = (
                self.per_channel
                and is_clustered_by_channel(leaves[path])
                and max(map(distinct_values, values)) > self.number_of_clusters
            )
            count = max(distinct_values(kernel, by_channel) for kernel in values)
            note = state.note(path)
            if count > self.number_of_clusters:
                note.not_done.append(f"not clustered: TF-MOT left it {count} values")
                continue
            note.clustered = "channel" if by_channel else "kernel"
            note.done.append(f"clustered to {count} values{' a channel' if by_channel else ''}")
        for path, reason in skipped.items():
            state.note(path).not_done.append(f"not clustered: {reason}")

    def get_config(self) -> dict[str, Any]:
        """Return the configuration."""
        return {
            **super().get_config(),
            "number_of_clusters": self.number_of_clusters,
            "initialization": self.initialization,
            "per_channel": self.per_channel,
            **self.choice.get_config(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Stage:
        """Make a stage from `get_config()`."""
        return super().from_config(choice_from_config(config))
