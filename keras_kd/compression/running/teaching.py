"""The distiller's objective, data and metrics, handed to the stages."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_kd.compression.pruning.callback import keep_zeros
from keras_kd.compression.running.epoch_backup import EpochBackup, resumable_fit
from keras_kd.compression.stages.stage import Stage, StudentState
from keras_kd.data.batches import PassOrder, ShuffledByPass, generated, refuse_endless
from keras_kd.distilling.distiller import Distiller
from keras_kd.distilling.hints import Hint
from keras_kd.distilling.objective import Objective
from keras_kd.distilling.trainer import CompileArguments
from keras_kd.models.features import feature_shape
from keras_kd.system.quiet import without_retracing_warnings


@dataclasses.dataclass(eq=False)
class Teaching:
    """What a stage needs to go on teaching.

    Attributes:
        distiller: A compiled `Distiller`; it is not changed.
        train: Training data, as a `tf.data.Dataset` of batches or a `keras.utils.PyDataset`.
        validation_data: Validation data, or `None`.
        verbose: Verbosity of `fit`.
        order: What `train` is made of, where its order is a function of the pass. Defaults to
            `None`.
        backup: Where the present training is kept epoch by epoch, or `None`.
        callbacks: The user's callbacks in the present stage.
    """

    distiller: Any
    train: Any
    validation_data: Any
    verbose: Any
    order: PassOrder | None = None
    backup: EpochBackup | None = dataclasses.field(default=None, init=False)
    callbacks: Sequence[keras.callbacks.Callback] = dataclasses.field(default=(), init=False)
    refitted: dict[str, Hint] = dataclasses.field(default_factory=dict, init=False)

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch; an unknown number is counted once."""
        return count_batches(self.train)

    def objective_for(self, state: StudentState) -> Objective:
        """Return the objective for a changed student, without hints at layers it lacks.

        Raises:
            ValueError: If nothing would be left to learn from.
        """
        objective = self.distiller.objective.without_missing_hints(state.model)
        if not objective.distillation_losses and objective.student_loss_weight == 0:
            raise ValueError(
                "Every distillation loss is a hint at a layer that this stage removes, and "
                "`student_loss_weight` is 0: nothing is left to learn from. Add a loss on the "
                "outputs, such as keras_kd.losses.KLDivergence(temperature=4.0)."
            )
        if not objective.distillation_losses:
            objective.student_loss_weight = 1.0
        for i, (name, loss) in enumerate(
            zip(objective.names, objective.distillation_losses, strict=True)
        ):
            if isinstance(loss, Hint):
                objective.distillation_losses[i] = self._refit(name, loss, state)
        return objective

    def _refit(self, name: str, hint: Hint, state: StudentState) -> Hint:
        """Return a hint whose projections fit the layers of a student that lost channels."""
        hint = self.refitted.get(name, hint)
        shapes = [feature_shape(state.model, path) for path in hint.student_paths]
        if any(shape is None for shape in shapes):
            return hint
        refitted = hint.refitted([shape for shape in shapes if shape is not None])
        if refitted is not hint:
            self.refitted[name] = refitted
        return refitted

    @contextlib.contextmanager
    def keras_trainer(
        self, state: StudentState, make_optimizer: Callable[[], Any]
    ) -> Iterator[Distiller]:
        """Give a compiled `Distiller` for a Keras 3 student, in the scope of its strategy.

        The zeros of a pruned student stay zero in its training.
        """
        with self.distiller.distribute_strategy.scope():
            # Here weights are numbers: scheduled ones keep their present values.
            objective: Any = self.objective_for(state)
            trainer = Distiller(
                objective.teacher,
                state.model,
                objective.distillation_losses,
                objective.distillation_loss_weights,
                objective.student_loss_weight,
            )
            trainer.objective.outputs_function = objective.outputs_function
            given = self.measures
            trainer.compile(
                make_optimizer(),
                loss=given.loss,
                loss_weights=given.loss_weights,
                metrics=given.metrics,
                weighted_metrics=given.weighted_metrics,
                evaluate_distillation=self.distiller.evaluate_distillation,
                run_eagerly=self.distiller.run_eagerly,
                jit_compile=self.distiller.jit_compile,
                steps_per_execution=self.distiller.steps_per_execution,
            )
            if state.pruned:
                keep_zeros(trainer, state.model)
            yield trainer

    @property
    def measures(self) -> CompileArguments:
        """The losses and fresh copies of the metrics that the distiller was compiled with."""
        return self.distiller.compile_arguments.fresh()

    def train_student(
        self, state: StudentState, stage: Stage, callbacks: Sequence[Any] = ()
    ) -> None:
        """Train a student as its stage asks, and keep the history.

        Args:
            state: The student.
            stage: The stage, whose epochs and optimizer are used.
            callbacks: Keras callbacks of the stage. Defaults to none.
        """
        with self.keras_trainer(state, stage.make_optimizer) as trainer:
            state.history[stage.name] = self.fit(trainer, stage.epochs, callbacks)

    def fit(
        self,
        trainer: Distiller,
        epochs: int,
        callbacks: Sequence[Any] = (),
        variables: Sequence[Any] = (),
    ) -> dict[str, list[float]]:
        """Fit a Keras 3 student, or go on at the epoch in which an earlier process was killed.

        Args:
            trainer: A `Distiller` of `keras_trainer`.
            epochs: Number of epochs; with 0 nothing is done.
            callbacks: Keras 3 callbacks. Defaults to none.
            variables: What the callbacks change while training, such as masks. Defaults to none.

        Returns:
            The history: one list per metric.
        """
        if epochs == 0:
            return {}
        if self.backup is not None:
            trainer.optimizer.build(trainer.trainable_variables)
        with without_retracing_warnings():  # each stage has a trainer of its own
            data = self._training_data()
            return resumable_fit(
                trainer,
                data,
                self.backup,
                [*trainer.weights, *trainer.optimizer.variables, *variables],
                trainer.random_states(),
                epochs=epochs,
                callbacks=callbacks,
                watching=self.callbacks,
                validation_data=self.validation_data,
                verbose=self.verbose,
                shuffle=isinstance(data, keras.utils.PyDataset)
                and not isinstance(data, ShuffledByPass),
            )

    @property
    def examples(self) -> Any:
        """The training data to be looked at, in the same order in every process."""
        return self.train if self.order is None else self.order.make(0, 0)

    def _training_data(self) -> Any:
        """Return the training data, in the order of the epoch that comes next."""
        shuffled = isinstance(self.train, keras.utils.PyDataset)
        if self.backup is None or not (shuffled or self.order):
            return self.train
        passes = self.backup.seed, self.backup.epochs_done()
        return self.order.make(*passes) if self.order else ShuffledByPass(self.train, *passes)


def count_batches(data: Any) -> int:
    """Return the number of batches in one pass over `data`.

    Raises:
        ValueError: If there are none, or no end.
    """
    if isinstance(data, keras.utils.PyDataset):
        count = len(data)
    else:
        refuse_endless(data, "train")
        count = int(data.cardinality())
        if count == tf.data.UNKNOWN_CARDINALITY:
            count = sum(1 for _ in data)
    if count == 0:
        raise ValueError(
            "The dataset holds no examples, so there is nothing to train on. Check the path, the "
            "split and the filters it was made with; `batch(..., drop_remainder=True)` drops a "
            "dataset that is smaller than one batch."
        )
    return count


def as_dataset(data: Any) -> Any:
    """Return `data` as a `tf.data.Dataset` of batches.

    Args:
        data: A `tf.data.Dataset` of batches, a `keras.utils.PyDataset`, or `None`.
    """
    if not isinstance(data, keras.utils.PyDataset):
        return data
    first = data[0]

    def signature(value: Any) -> tf.TensorSpec:
        value = tf.convert_to_tensor(value)
        return tf.TensorSpec((None, *value.shape[1:]), value.dtype)

    def batches() -> Iterator[Any]:
        for i in range(len(data)):
            yield data[i]
        data.on_epoch_end()

    dataset = generated(batches, tf.nest.map_structure(signature, first))
    return dataset.apply(tf.data.experimental.assert_cardinality(len(data)))


def evaluate_batches(step: Callable[[Any, Any, Any], None], data: tf.data.Dataset) -> None:
    """Call `step(x, y, sample_weight)`, which updates metrics, with every batch of `data`."""
    compiled: Any = None
    with without_retracing_warnings():
        for batch in data:
            parts = keras.utils.unpack_x_y_sample_weight(batch)
            if compiled is None:
                # The first step is eager: metrics make their variables in it.
                step(*parts)
                compiled = tf.function(step, autograph=False, reduce_retracing=True)
            else:
                compiled(*parts)
