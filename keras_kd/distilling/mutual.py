"""MutualDistiller: peers that are trained together and teach each other."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_kd.data.first_batch import FirstBatch
from keras_kd.data.labels import class_labels
from keras_kd.distilling.checks.arguments import check_model
from keras_kd.distilling.checks.compatibility import check_first_outputs, check_teacher
from keras_kd.distilling.checks.student_loss import check_batch
from keras_kd.distilling.distiller import Distiller
from keras_kd.distilling.loss_values import layer_paths_of
from keras_kd.distilling.objective import Objective, TeacherSignals, without_gradient
from keras_kd.distilling.schedules import Scheduled, Schedules, serialize
from keras_kd.distilling.trainer import CompileArguments, Trainer, once_data_is_there
from keras_kd.models.features import FeatureReader
from keras_kd.models.weights import check_apart, check_finite_weights


@keras.saving.register_keras_serializable(package="keras_kd")
class MutualDistiller(Trainer):
    """Trains peers on their labels and on each other; there is no trained teacher.

    One step runs every peer once. The loss of a peer is that of a `keras_kd.Distiller`, the
    distillation losses being their mean over the other peers as teachers:

    `loss = w * student_loss + (1 - w) * mean over the others(sum(w_i * L_i))`

    No gradient flows into a peer that teaches, and all peers learn from the same predictions of
    one step. Their losses are added, so each peer is trained as if it were alone.

    `predict` gives the outputs of the first peer. For the mean of all, use
    `keras_kd.teachers.Ensemble(distiller.peers)`.

    Args:
        peers: Two `keras.Model`s or more that end in logits of equal shapes.
        distillation_losses: As for `keras_kd.Distiller`. A hint's `teacher_layer` is read from
            the peer that teaches and its `student_layer` from the one that learns: every peer
            needs both. Each pair of peers has projections of its own.
        distillation_loss_weights: As for `keras_kd.Distiller`. Defaults to `None`, all `1.0`.
        student_loss_weight: As for `keras_kd.Distiller`. Defaults to `0.5`.
        name: Name of the model. Defaults to `"mutual_distiller"`.
        **kwargs: Further arguments of `keras.Model`.

    Raises:
        ValueError: If there are fewer than two peers, one occurs twice, or they do not fit each
            other or the losses.

    Example:

    ```python
    distiller = keras_kd.MutualDistiller(
        [small_network(), large_network()], keras_kd.losses.KLDivergence(temperature=1.0)
    )
    distiller.compile(
        "adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = distiller.fit(train, validation_data=validation, epochs=10)
    print(history.history["val_peer_0_accuracy"])
    small = distiller.peers[0]
    ```

    Reference:
        Zhang et al., Deep Mutual Learning, 2018, arXiv:1706.00384. There the losses are weighted
        1 : 1, as with the default weight, and peers are updated one after the other.
    """

    def __init__(
        self,
        peers: Sequence[keras.Model],
        distillation_losses: Any,
        distillation_loss_weights: Sequence[Scheduled] | Scheduled | None = None,
        student_loss_weight: Scheduled = 0.5,
        name: str = "mutual_distiller",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        _check_peers(peers)
        if isinstance(distillation_loss_weights, str):
            raise ValueError(
                "A MutualDistiller takes numbers or schedules as weights. Received: "
                f"distillation_loss_weights={distillation_loss_weights!r}."
            )
        # Each holds one peer with its losses, metrics and labels; what teaches it comes from here.
        self.distillers = [
            Distiller(
                None,
                peer,
                distillation_losses,
                distillation_loss_weights,
                student_loss_weight,
                name=f"peer_{i}",
            )
            for i, peer in enumerate(peers)
        ]
        self._objectives = [
            [self._pair(learner, peer) for peer in peers if peer is not learner.student]
            for learner in self.distillers
        ]
        losses = self.distillers[0].distillation_losses
        paths = [*layer_paths_of(losses, "teacher"), *layer_paths_of(losses, "student")]
        self._readers = [FeatureReader(peer, list(dict.fromkeys(paths))) for peer in peers]
        self._track_teaching_layers()
        self.built = all(peer.built for peer in peers)

    def _pair(self, learner: Distiller, peer: keras.Model) -> Objective:
        given = learner.objective
        # Projections and parameters of a loss belong to one pair.
        losses = copy.deepcopy(given.distillation_losses)
        check_teacher(peer, learner.student, losses)
        objective = Objective(
            peer,
            losses,
            given.distillation_loss_weights,
            given.student_loss_weight,
            output_names=given.output_names,
        )
        objective.schedules.step = self._step
        objective.build(learner.student)
        return objective

    def _track_teaching_layers(self) -> None:
        self.teaching_layers = [
            layer for pairs in self._objectives for pair in pairs for layer in pair.layers
        ]

    @property
    def peers(self) -> list[keras.Model]:
        """The peers, in order."""
        return [distiller.student for distiller in self.distillers]

    def learners(self) -> list[Distiller]:
        """Return the distillers of the peers."""
        return self.distillers

    def schedules(self) -> list[list[Schedules]]:
        """Return the schedules of each peer, one for each of the others as its teacher."""
        return [[pair.schedules for pair in pairs] for pairs in self._objectives]

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """Configure training, as `keras.Model.compile` does.

        Args:
            optimizer: One optimizer for all peers; its state, such as Adam's moments, is kept per
                weight. `global_clipnorm` uses the gradients of all peers. Defaults to `"rmsprop"`.
            loss: The loss on labels of every peer, as for `keras_kd.Distiller.compile`; so are
                the other arguments. Defaults to `None`.
            loss_weights: Weights of the outputs' losses. Defaults to `None`.
            metrics: Metrics of every peer, reported as `peer_0_accuracy`. Defaults to `None`.
            weighted_metrics: Metrics that use sample weights. Defaults to `None`.
            **kwargs: Further arguments of `keras.Model.compile`.

        Raises:
            ValueError: As `keras_kd.Distiller.compile`.
        """
        for distiller, pairs in zip(self.distillers, self._objectives, strict=True):
            fresh = CompileArguments(loss, loss_weights, metrics, weighted_metrics).fresh()
            distiller.compile(None, loss, loss_weights, fresh.metrics, fresh.weighted_metrics)
            for pair in pairs:
                pair.student_loss = distiller.student_loss()
                pair.names = distiller.objective.names
        super().compile(
            optimizer=optimizer,
            loss=loss,
            loss_weights=loss_weights,
            metrics=metrics,
            weighted_metrics=weighted_metrics,
            **kwargs,
        )
        # Losses and metrics are those of the peers.
        self.forget_measures()

    @property
    def metrics(self) -> list[Any]:
        """The metrics of every peer, behind the sum of their losses."""
        own = super().metrics[:1] if self.compiled else []
        return own + [metric for distiller in self.distillers for metric in distiller.metrics]

    def get_metrics_result(self) -> dict[str, Any]:
        """Return the present values of all metrics, those of peers behind `peer_0_` and so on."""
        return self._named([distiller.get_metrics_result() for distiller in self.distillers])

    def _named(self, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
        named = {"loss": self.metrics[0].result()}
        for distiller, result in zip(self.distillers, results, strict=True):
            named.update({f"{distiller.name}_{name}": value for name, value in result.items()})
        return named

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Return the outputs of the first peer."""
        return self.distillers[0](inputs, training=training, mask=mask)

    @once_data_is_there
    def train_step(self, data: Any) -> dict[str, Any]:
        """Let the peers teach each other one batch."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            passes = self._passes(x, training=True)
            losses = self._taught_losses(passes, y, sample_weight, training=True)
            totals = self._totals(losses)
            scaled_loss = self.optimizer.scale_loss(sum(totals))
        self._descend(tape, scaled_loss, self.trainable_weights)
        return self._results(passes, losses, totals, True, x, y, sample_weight, training=True)

    @once_data_is_there
    def test_step(self, data: Any) -> dict[str, Any]:
        """Evaluate every peer on its labels, or on the other peers without a loss on labels."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        passes = self._passes(x, training=False)
        if self.compile_arguments.loss is None:
            losses = self._taught_losses(passes, y, sample_weight)
            return self._results(
                passes, losses, self._totals(losses), True, x, y, sample_weight, training=False
            )
        losses = []
        for pairs, (y_pred, features) in zip(self._objectives, passes, strict=True):
            values = pairs[0].losses(None, y, y_pred, features, sample_weight)
            if pairs[0].distils:
                values["loss"] = values["student_loss"]
            losses.append(values)
        return self._results(passes, losses, self._totals(losses), None, x, y, sample_weight)

    def _passes(self, x: Any, training: bool) -> list[tuple[Any, dict[str, Any]]]:
        return [
            reader.run(peer, x, training)
            for reader, peer in zip(self._readers, self.peers, strict=True)
        ]

    def _taught_losses(
        self, passes: Sequence[Any], y: Any, sample_weight: Any, training: bool = False
    ) -> list[dict[str, Any]]:
        signals = [TeacherSignals(*without_gradient(given)) for given in passes]
        losses = []
        for i, (y_pred, features) in enumerate(passes):
            others = signals[:i] + signals[i + 1 :]
            pairs = [
                pair.losses(
                    signal if pair.distils else None, y, y_pred, features, sample_weight, training
                )
                for pair, signal in zip(self._objectives[i], others, strict=True)
            ]
            losses.append({key: sum(p[key] for p in pairs) / len(pairs) for key in pairs[0]})
        return losses

    def _totals(self, losses: Sequence[dict[str, Any]]) -> list[Any]:
        return [
            values["loss"] + distiller._regularization(*(pair.layers for pair in pairs))
            for distiller, pairs, values in zip(
                self.distillers, self._objectives, losses, strict=True
            )
        ]

    def _results(
        self,
        passes: Sequence[Any],
        losses: Sequence[dict[str, Any]],
        totals: Sequence[Any],
        distilled: Any,
        x: Any,
        y: Any,
        sample_weight: Any,
        training: bool = False,
    ) -> dict[str, Any]:
        results = []
        for distiller, (y_pred, _), values, total in zip(
            self.distillers, passes, losses, totals, strict=True
        ):
            distiller._track(values, total, x)
            results.append(distiller._results(distilled, x, y, y_pred, sample_weight, training))
        self._track_loss(sum(totals), x)
        return self._named(results)

    def begin_epoch(self, epoch: int) -> None:
        """Set what depends on the epoch; `fit` calls this before each, your own loop should too."""
        for of_peer in self.schedules():
            for schedules in of_peer:
                schedules.begin_epoch(epoch)

    def check_models(self) -> None:
        """Refuse weights that are NaN or infinite, and peers that share some."""
        _check_peers(self.peers)
        for i, peer in enumerate(self.peers):
            check_finite_weights(peer, f"peers[{i}]")

    def check_data(self, batch: FirstBatch | None) -> None:
        """Refuse training data that does not fit, and build what needs a batch for its shape."""
        if batch is None:
            return
        for distiller, pairs in zip(self.distillers, self._objectives, strict=True):
            student, loss = distiller.student, distiller.compile_arguments.loss
            check_batch(batch, student, loss, distiller.student_loss_weight)
            y_pred = student(batch.inputs, training=False)
            if batch.labels is not None:
                distiller.build_measures(class_labels(batch.labels), y_pred)
            distiller.built = True
            for pair in pairs:
                if pair.distils:
                    pair.build(student, batch.inputs)
                    losses = pair.distillation_losses
                    check_first_outputs(pair.teacher, student, losses, batch.inputs)
        self._track_teaching_layers()
        self.built = True
        if not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration, with the peers."""
        peers = [serialize(peer) for peer in self.peers]
        losses = self.distillers[0].objective.get_config()
        return {**super().get_config(), "peers": peers, **losses}


def _check_peers(peers: Any) -> None:
    if not isinstance(peers, (list, tuple)) or len(peers) < 2:
        raise ValueError(
            "Mutual learning needs two peers or more, MutualDistiller([peer, peer], losses). "
            f"Received: {peers!r}."
        )
    for i, peer in enumerate(peers):
        check_model(peer, f"peers[{i}]")
        if any(peer is other for other in peers[:i]):
            raise ValueError(
                f"peers[{i}], '{peer.name}', is among the peers twice: a model cannot teach "
                "itself. Make a separate model for each peer."
            )
        for j, other in enumerate(peers[:i]):
            check_apart(peer, other, (f"peers[{i}]", f"peers[{j}]"))
