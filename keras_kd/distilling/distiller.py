"""Distiller: a model whose training step lets a teacher teach a student."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_kd.data.first_batch import (
    FirstBatch,
    first_batch,
    validation_batch,
    without_losing_the_first,
)
from keras_kd.data.labels import class_labels
from keras_kd.data.taught_inputs import TaughtInputs, student_inputs
from keras_kd.distilling.balancing import BALANCED
from keras_kd.distilling.checks.arguments import (
    check_losses,
    check_model,
    check_student_loss_weight,
    check_weights,
)
from keras_kd.distilling.checks.compatibility import (
    check_first_outputs,
    check_taught_outputs,
    check_teacher,
)
from keras_kd.distilling.checks.student_loss import check_batch, require_labels, resolve_losses
from keras_kd.distilling.loss_values import (
    LOGGED,
    LossMeans,
    names_of_keras,
    refuse_names,
    unique_names,
)
from keras_kd.distilling.objective import NO_TEACHER, Objective
from keras_kd.distilling.schedules import Scheduled, serialize
from keras_kd.distilling.trainer import Trainer, once_data_is_there
from keras_kd.models.graph import flat_layers
from keras_kd.models.outputs import output_names
from keras_kd.models.views import View
from keras_kd.models.weights import check_apart, check_finite_weights
from keras_kd.system.arguments import number
from keras_kd.teachers.adapted_teacher import Adapters, unadapted
from keras_kd.teachers.callable_teacher import CallableTeacher, as_teacher, supports_jit


@keras.saving.register_keras_serializable(package="keras_kd")
class Distiller(Trainer):
    """Trains a student on its labels and on a frozen teacher.

    One step runs the teacher once, in inference mode and outside the gradient tape, and the
    student once; hinted layers are read from these same passes. The loss is

    `loss = w * student_loss + (1 - w) * sum(w_i * L_i)`

    plus the student's own regularizers. `sample_weight` and `class_weight` weigh both terms. The
    teacher is not changed, and is not saved with the student.

    The arguments and their meaning are those of `keras.distillation.Distiller`, whose losses are
    accepted as well.

    Args:
        teacher: A trained model that ends in logits: a `keras.Model` or another callable on
            tensors, such as a function, a layer, what `keras_kd.teachers.load` returns, or a
            `keras_kd.teachers.Ensemble`. A dictionary with a single entry counts as that entry,
            unless the student returns a dictionary too. `None` if the data contains the
            teacher's outputs, as `keras_kd.teachers.TaughtInputs`.
        student: The `keras.Model` to train; it ends in logits of the same shape. Its loss is that
            of `compile`: a `train_step` or `compute_loss` of its own class is not used.
        distillation_losses: One of, or a list of: losses of `keras_kd.losses` on the outputs,
            `keras_kd.Hint`s, losses of `keras.distillation`. For models with several outputs an
            element may be a structure of losses like the outputs', with `None` where an output
            is not distilled.
        distillation_loss_weights: A weight `w_i` for each loss: a number; one of
            `keras.optimizers.schedules`, evaluated at the optimizer's step; or a function of the
            epoch, which counts from 0. The `temperature` of a loss may be of the same kinds.
            `"balanced"`: `fit` measures the gradients on a few batches and weighs them alike,
            the first loss with `1.0`; it prints the weights, which stay. Defaults to `None`, all
            `1.0`.
        student_loss_weight: The weight `w` of the loss on labels, between 0 and 1, of the same
            kinds. Defaults to `0.5`.
        name: Name of the model. Defaults to `"distiller"`.
        teacher_inputs: Called with the student's inputs, returns the teacher's, for a teacher with
            another input size or preprocessing. A layer, a model or a function. Defaults to
            `None`, the same inputs.
        teacher_outputs: Called with the teacher's outputs, returns what the student's are compared
            with, for a teacher with other classes or another structure of outputs. It is applied to
            the outputs in `TaughtInputs`, too. Defaults to `None`, the unchanged outputs.
        stop_distillation_at: The epoch, counted from 0, from which the student learns from its
            labels alone, `loss = student_loss`, and the teacher is not run, nor in validation: let
            no callback compare `val_loss` before and after it. Needs a `loss` and labels. Defaults
            to `None`, distillation in every epoch.
        **kwargs: Further arguments of `keras.Model`.

    Raises:
        ValueError: If an argument is of the wrong kind, or teacher and student do not fit each
            other or the losses: outputs of different shape, a softmax before a loss on logits, a
            hint that names no layer.

    Example:

    ```python
    distiller = keras_kd.Distiller(
        teacher,
        student,
        distillation_losses=[
            keras_kd.losses.KLDivergence(temperature=4.0),
            keras_kd.Hint("block4_out", "block2_out", loss=keras_kd.losses.FitNet()),
        ],
        distillation_loss_weights=[1.0, 0.5],
        student_loss_weight=0.1,
    )
    distiller.compile(
        "adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    distiller.fit(train, validation_data=validation, epochs=10)
    student = distiller.student
    ```

    A teacher with larger images and more classes, and a falling temperature:

    ```python
    distiller = keras_kd.Distiller(
        teacher,
        student,
        keras_kd.losses.KLDivergence(
            temperature=keras.optimizers.schedules.PolynomialDecay(8.0, 10_000, 1.0)
        ),
        teacher_inputs=keras.layers.Resizing(224, 224),
        teacher_outputs=lambda logits: keras.ops.take(logits, [3, 5, 8], axis=-1),
    )
    ```

    Where only a part of the data has labels, give the others the label -1 and train with
    `loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)`: they
    count in the distillation losses alone. Metrics such as the accuracy count them as wrong: read
    those of validation data with labels. Where nothing has labels, `student_loss_weight=0.0` and
    `fit(x)` without `y`.

    References:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531.
        Cho and Hariharan, On the Efficacy of Knowledge Distillation, 2019, arXiv:1910.01348
        (`stop_distillation_at`).
    """

    sums: Sequence[str] = LOGGED

    def __init__(
        self,
        teacher: Any,
        student: keras.Model,
        distillation_losses: Any,
        distillation_loss_weights: Sequence[Scheduled] | Scheduled | str | None = None,
        student_loss_weight: Scheduled = 0.5,
        name: str = "distiller",
        *,
        teacher_inputs: Callable[[Any], Any] | None = None,
        teacher_outputs: Callable[[Any], Any] | None = None,
        stop_distillation_at: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        check_model(student, "student")
        losses = check_losses(distillation_losses, student, student_loss_weight)
        self.student = student
        self.balances = distillation_loss_weights == BALANCED
        self.stop_distillation_at = number(
            "stop_distillation_at", stop_distillation_at, least=0, whole=True, optional=True
        )
        # Layers among them belong to the teacher: they are neither trained nor saved.
        self._adapters = Adapters(teacher_inputs, teacher_outputs)
        self.objective = Objective(
            None,
            losses,
            check_weights(distillation_loss_weights, losses),
            check_student_loss_weight(student_loss_weight),
            output_names=output_names(student),
            outputs_function=teacher_outputs,
        )
        self.objective.schedules.step = self._step
        if teacher is not None:
            self.teacher = teacher
        self.teaching_layers = self.objective.layers
        self.loss_means = LossMeans(["student_loss", "distillation_loss", *self.objective.names])
        self.built = student.built

    def look_through(self, view: View) -> None:
        """See the student through a view while it trains and is evaluated.

        Args:
            view: What changes the student's passes, such as quantization. Its layers are trained
                and saved with the distiller.
        """
        self.objective.view = view
        self.teaching_layers = self.objective.layers

    def __setattr__(self, name: str, value: Any) -> None:
        # Keras would count a model that is set as an attribute among the layers to train.
        if name == "teacher":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        # Keras saves every model it finds among the attributes: the teacher is not for saving.
        return [attribute for attribute in super().__dir__() if attribute != "teacher"]

    @property
    def teacher(self) -> Any:
        """The teacher; `None` after loading, until it is set again."""
        teacher = unadapted(self.objective.teacher)
        return teacher.teacher if isinstance(teacher, CallableTeacher) else teacher

    @teacher.setter
    def teacher(self, teacher: Any) -> None:
        teacher = self._adapters.adapt(as_teacher(teacher, self.student))
        check_apart(self.student, teacher)
        check_teacher(teacher, self.student, self.distillation_losses)
        Objective(teacher, self.distillation_losses, [], 0.0).build(self.student)
        self.objective.teacher = teacher
        self.train_function = None
        self.test_function = None

    @property
    def distillation_losses(self) -> list[Any]:
        """The distillation losses, in order."""
        return self.objective.distillation_losses

    @property
    def distillation_loss_weights(self) -> list[Scheduled]:
        """The weight of each distillation loss."""
        return self.objective.distillation_loss_weights

    @property
    def student_loss_weight(self) -> Scheduled:
        """The weight of the loss on labels."""
        return self.objective.student_loss_weight

    @property
    def output_names(self) -> list[str] | None:
        """The names of the student's outputs, by which losses and metrics may be given."""
        return output_names(self.student)

    @property
    def own_names(self) -> list[str]:
        """The names of the distiller's own losses in the logs."""
        return [*self.sums, *self.objective.names]

    def learners(self) -> list[Distiller]:
        """Return this distiller, as a list."""
        return [self]

    @property
    def by_epoch(self) -> bool:
        """Whether a weight, a temperature or the end of distillation depends on the epoch."""
        return self.objective.schedules.by_epoch or self.stop_distillation_at is not None

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        evaluate_distillation: bool = False,
        **kwargs: Any,
    ) -> None:
        """Configure training, as `keras.Model.compile` does.

        Args:
            optimizer: Optimizer of the student. Defaults to `"rmsprop"`.
            loss: The student's loss on labels. A cross-entropy given by name means what it means
                in Keras, a loss on probabilities, unless the student is known to end in logits;
                `None` is allowed where `student_loss_weight` is 0. Defaults to `None`.
            loss_weights: Weights of the outputs' losses. Defaults to `None`.
            metrics: Metrics of the student's outputs. Defaults to `None`.
            weighted_metrics: Metrics that use sample weights. Defaults to `None`.
            evaluate_distillation: Whether `evaluate` also runs the teacher and reports the
                distillation losses. Without a `loss` it always does. Defaults to `False`.
            **kwargs: Further arguments of `keras.Model.compile`.

        Raises:
            ValueError: If `student_loss_weight` is above 0 or `stop_distillation_at` is set, and
                there is no `loss`. If `from_logits` of the loss contradicts the student's last
                activation. If `jit_compile` is `True` and a loss has a `chunk_size`. If the
                learning rate is negative or not finite. If a metric, or the loss of an output, has
                the name of a sum of losses in the logs.
        """
        if loss is None and self.student_loss_weight != 0:
            raise ValueError(
                f"`student_loss_weight` is {self.student_loss_weight}, but `compile` received no "
                "`loss` for the labels. Pass loss=keras.losses."
                "SparseCategoricalCrossentropy(from_logits=True), or build the Distiller with "
                "student_loss_weight=0.0 to learn from the teacher alone."
            )
        if loss is None and self.stop_distillation_at is not None:
            raise ValueError(
                "From `stop_distillation_at` on the student learns from its labels alone, but "
                f"`compile` received no `loss` for them. Received: stop_distillation_at="
                f"{self.stop_distillation_at}. Pass a loss, or leave this argument out."
            )
        loss = resolve_losses(loss, self.student)
        others = names_of_keras(self.output_names, loss, metrics, weighted_metrics)
        inner = [x for x in flat_layers(self.student) if not isinstance(x, keras.Model)]
        others += [metric.name for layer in inner for metric in layer.metrics]
        refuse_names(others, self.sums)
        self.evaluate_distillation = evaluate_distillation
        super().compile(
            optimizer=optimizer,
            loss=loss,
            loss_weights=loss_weights,
            metrics=metrics,
            weighted_metrics=weighted_metrics,
            **kwargs,
        )
        self.objective.student_loss = self.student_loss()
        self.objective.names = unique_names(self.distillation_losses, [*others, *self.sums])
        self.loss_means.names[2:] = self.objective.names

    def _supports_xla(self) -> bool:
        return supports_jit(self.objective.teacher) and super()._supports_xla()

    def get_compile_config(self) -> dict[str, Any]:
        """Return the arguments of `compile`, serialized."""
        config = super().get_compile_config()
        if config:
            config["evaluate_distillation"] = self.evaluate_distillation
        return config

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Return the student's outputs."""
        masked = {} if mask is None else {"mask": mask}
        return self.student(student_inputs(inputs), training=training, **masked)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the student's loss on labels plus its regularizers, without the teacher."""
        if self.compile_arguments.loss is None and not self.losses:
            return keras.ops.zeros(())
        return super().compute_loss(x, class_labels(y), y_pred, sample_weight, training)

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        """Update the student's metrics, and return them; without labels, those that need none."""
        y = class_labels(y)
        if y is None:
            return self.metrics_result(labels=False)
        return super().compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    @once_data_is_there
    def train_step(self, data: Any) -> dict[str, Any]:
        """Teach the student one batch."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if class_labels(y) is None:
            require_labels(self.compile_arguments.loss, self.student_loss_weight)
        signals, y_pred, losses, loss = self._teach(x, y, sample_weight)
        self._track(losses, loss, x)
        return self._results(signals, x, y, y_pred, sample_weight, training=True)

    def _teach(self, x: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, dict[str, Any], Any]:
        """Take a step; return the teacher's signals, the student's outputs, losses and total."""
        signals = self.objective.teacher_signals(x)
        apart = self.takes_two_gradients
        with tf.GradientTape(persistent=apart) as tape:
            y_pred, features = self.objective.student_pass(self.student, x, training=True)
            losses = self.objective.losses(
                signals, y, y_pred, features, sample_weight, training=True
            )
            regularization = self._regularization()
            loss = losses["loss"] + regularization
            # A loss that remembers examples does so in its gradient: it may be taken once.
            of_labels = losses["weighted_student_loss"] + regularization
            parts = (of_labels, losses["weighted_distillation_loss"]) if apart else (loss,)
            scaled = [self.optimizer.scale_loss(part) for part in parts]
        self._descend(tape, scaled[0], self._trained_weights(), *scaled[1:])
        return signals, y_pred, losses, loss

    def _trained_weights(self) -> list[keras.Variable]:
        """Return the weights of the student and, while the teacher counts, of projections."""
        if not self.objective.stopped:
            return self.trainable_weights
        view = self.objective.view
        layers = [self.student, *(view.layers if view is not None else ())]
        return [weight for layer in layers for weight in layer.trainable_weights]

    @property
    def _may_run_teacher(self) -> bool:
        """Whether the teacher counts in `evaluate` where there is one."""
        return self.evaluate_distillation or self.compile_arguments.loss is None

    def _runs_teacher(self, x: Any) -> bool:
        """Whether the teacher counts in `evaluate`."""
        given = isinstance(x, TaughtInputs) or self.teacher is not None
        return self.evaluate_distillation or (given and self.compile_arguments.loss is None)

    @once_data_is_there
    def test_step(self, data: Any) -> dict[str, Any]:
        """Evaluate the student on one batch.

        The teacher runs with `evaluate_distillation=True`, or if there is no loss on labels. With
        neither a teacher nor a loss on labels, `"loss"` is left out.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        signals = self.objective.teacher_signals(x) if self._runs_teacher(x) else None
        y_pred, features = self.objective.student_pass(self.student, x, training=False)
        losses = self.objective.losses(signals, y, y_pred, features, sample_weight)
        if signals is None and self.objective.distils:
            losses["loss"] = losses["student_loss"]
        self._track(losses, losses["loss"] + self._regularization(), x)
        results = self._results(signals, x, y, y_pred, sample_weight)
        if signals is None and self.objective.distils and self.compile_arguments.loss is None:
            del results["loss"]  # nothing was compared
        return results

    def _results(
        self, signals: Any, x: Any, y: Any, y_pred: Any, weight: Any, training: bool = False
    ) -> dict[str, Any]:
        results = self.compute_metrics(x, y, y_pred, sample_weight=weight)
        return self.objective.reported(results, signals is not None, training)

    def _track(self, losses: dict[str, Any], total: Any, x: Any) -> None:
        batch_size, replicas = self._track_loss(total, x)
        scaled = {name: value * replicas for name, value in losses.items()}
        self.loss_means.update_state(scaled, sample_weight=batch_size)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train the student, as `keras.Model.fit` does, after one look at the data.

        Raises:
            ValueError: If the dataset or the validation data is empty or not batched; its first
                batch, the teacher's outputs on it or a weight is NaN or infinite; labels lie out
                of range, also in a later batch; or the outputs do not fit the losses.
        """
        if self.objective.stopped:
            self.objective.stopped = False
            self.train_function = self.test_function = None
        return super().fit(x, y, *args, **kwargs)

    def begin_epoch(self, epoch: int) -> None:
        """Set what depends on the epoch; `fit` calls this before each, your own loop should too."""
        self.objective.schedules.begin_epoch(epoch)
        stop = self.stop_distillation_at
        stopped = stop is not None and epoch >= stop
        if stopped == self.objective.stopped:
            return
        if self.student.built and not self.optimizer.built:
            # Built in the step, it would not know the projections, which are not trained now.
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
        self.objective.stopped = stopped
        self.test_function = None
        self.make_train_function(force=True)

    def check_models(self) -> None:
        """Refuse weights that are NaN or infinite, and a student that shares the teacher's."""
        teacher = self.objective.teacher
        check_apart(self.student, teacher)
        check_finite_weights(self.student, "student")
        check_finite_weights(teacher, "teacher")

    def check_data(self, batch: FirstBatch | None) -> None:
        """Refuse training data that does not fit, and build what needs a batch for its shape."""
        if batch is None:
            return
        losses = self.compile_arguments.loss
        check_batch(batch, self.student, losses, self.student_loss_weight)
        if self.stop_distillation_at is not None and class_labels(batch.labels) is None:
            raise ValueError(
                "From `stop_distillation_at` on the student learns from its labels alone, but the "
                f"data holds none. Received: stop_distillation_at={self.stop_distillation_at}. "
                "Pass labels `y`, or leave this argument out."
            )
        taught = batch.taught
        if self.objective.distils:
            if self.teacher is None and taught is None:
                raise ValueError(NO_TEACHER)
            self.objective.build(self.student, batch.inputs, taught)
            self.teaching_layers = self.objective.layers
            if taught is None:
                check_first_outputs(
                    self.objective.teacher, self.student, self.distillation_losses, batch.inputs
                )
            else:
                self._check_taught(taught)
        if not self.student.built:
            self.student(batch.inputs, training=False)
        check_apart(self.student, self.objective.teacher)
        self.built = True

    def _check_taught(self, taught: TaughtInputs) -> None:
        outputs = self.objective.taught_signals(taught).outputs
        taught = taught._replace(outputs=outputs)
        check_taught_outputs(taught, self.student, self.distillation_losses)

    def check_validation(self, data: Any) -> None:
        """Refuse validation data on which an epoch would end in an error, or that does not fit."""
        super().check_validation(data)
        if self._may_run_teacher:
            self._check_evaluated(validation_batch(data))

    def _check_evaluated(self, batch: FirstBatch | None) -> None:
        taught = None if batch is None else batch.taught
        if taught is not None and self.objective.distils and self._runs_teacher(taught):
            self._check_taught(taught)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Evaluate the student, as `keras.Model.evaluate` does.

        Raises:
            ValueError: If the teacher's outputs in the data do not fit the losses.
        """
        each_epoch = kwargs.get("_use_cached_eval_dataset")  # as `fit` calls it
        if self.compiled and self._may_run_teacher and not each_epoch:
            x, batch = without_losing_the_first(x)
            self._check_evaluated(batch or first_batch(x, y))
        return super().evaluate(x, y, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration, without the teacher."""
        return {
            **super().get_config(),
            "teacher": None,
            "student": keras.saving.serialize_keras_object(self.student),
            **self.objective.get_config(),
            "teacher_inputs": serialize(self._adapters.inputs),
            "teacher_outputs": serialize(self._adapters.outputs),
            "stop_distillation_at": self.stop_distillation_at,
        }
