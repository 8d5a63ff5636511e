"""Distiller: a model whose training step lets a teacher teach a student."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_kd.first_batch import first_batch
from keras_kd.hints import Hint
from keras_kd.losses.base import DistillationLoss
from keras_kd.objective import Objective
from keras_kd.outputs import (
    check_labels,
    last_activation,
    look_like_probabilities,
    output_structure,
    student_loss_for,
)
from keras_kd.teachers.taught_inputs import student_inputs


@keras.saving.register_keras_serializable(package="keras_kd")
class Distiller(keras.Model):
    """Trains a student on its labels and on a frozen teacher.

    One step runs the teacher once, in inference mode and outside the gradient tape, and the
    student once; hinted layers are read from these same passes. The loss is

    `loss = w * student_loss + (1 - w) * sum(w_i * L_i)`

    plus the student's own regularisers. `sample_weight` and `class_weight` weigh both terms. The
    teacher is left as it was found, and is not saved with the student.

    The arguments and their meaning are those of `keras.distillation.Distiller`, whose losses are
    accepted as well.

    Args:
        teacher: A trained `keras.Model` that ends in logits.
        student: The `keras.Model` to train; it ends in logits of the same shape.
        distillation_losses: One of, or a list of: losses of `keras_kd.losses` on the outputs,
            `keras_kd.Hint`s, losses of `keras.distillation`. For models with several outputs an
            element may be a structure of losses like the outputs', with `None` where an output
            is not distilled.
        distillation_loss_weights: A weight for each loss. Defaults to `None`, all `1.0`.
        student_loss_weight: The weight `w` of the loss on labels, between 0 and 1. Defaults to
            `0.5`.
        name: Name of the model. Defaults to `"distiller"`.
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

    Reference:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531.
    """

    def __init__(
        self,
        teacher: keras.Model | None,
        student: keras.Model,
        distillation_losses: Any,
        distillation_loss_weights: Sequence[float] | None = None,
        student_loss_weight: float = 0.5,
        name: str = "distiller",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        _check_model(student, "student")
        if teacher is not None:
            _check_model(teacher, "teacher")
        losses = _check_losses(distillation_losses)
        weights = _check_weights(distillation_loss_weights, losses)
        if not isinstance(student_loss_weight, (int, float)) or isinstance(
            student_loss_weight, bool
        ):
            raise ValueError(
                "`student_loss_weight` must be a number between 0 and 1, but received "
                f"{student_loss_weight!r}."
            )
        if not 0.0 <= student_loss_weight <= 1.0:
            raise ValueError(
                f"`student_loss_weight` must lie between 0 and 1, but received "
                f"{student_loss_weight}."
            )
        self.student = student
        self.objective = Objective(teacher, losses, weights, float(student_loss_weight))
        if teacher is not None:
            self._check_teacher(teacher)
        self.teaching_layers = self.objective.layers

        self.student_loss_tracker = keras.metrics.Mean(name="student_loss")
        self.distillation_loss_tracker = keras.metrics.Mean(name="distillation_loss")
        self.total_loss_tracker = keras.metrics.Mean(name="total_loss")
        self.distillation_loss_trackers = [
            keras.metrics.Mean(name=name) for name in self.objective.names
        ]
        self.built = student.built

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
        return self.objective.teacher

    @teacher.setter
    def teacher(self, teacher: keras.Model) -> None:
        _check_model(teacher, "teacher")
        self._check_teacher(teacher)
        self.objective.teacher = teacher
        self.train_function = None

    @property
    def distillation_losses(self) -> list[Any]:
        """The distillation losses, in order."""
        return self.objective.distillation_losses

    @property
    def distillation_loss_weights(self) -> list[float]:
        """The weight of each distillation loss."""
        return self.objective.distillation_loss_weights

    @property
    def student_loss_weight(self) -> float:
        """The weight of the loss on labels."""
        return self.objective.student_loss_weight

    def _check_teacher(self, teacher: keras.Model) -> None:
        _check_activations(teacher, self.student, self.distillation_losses)
        _check_shapes(teacher, self.student, self.distillation_losses)
        objective = Objective(
            teacher,
            self.distillation_losses,
            self.distillation_loss_weights,
            self.student_loss_weight,
        )
        objective.build(self.student)

    def compile(  # noqa: D417 (the rest are Keras's)
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
            loss: The student's loss on labels. A cross-entropy given by name is read with or
                without logits as the student ends; `None` is allowed where
                `student_loss_weight` is 0. Defaults to `None`.
            loss_weights: Weights of the outputs' losses. Defaults to `None`.
            metrics: Metrics of the student's outputs. Defaults to `None`.
            weighted_metrics: Metrics that use sample weights. Defaults to `None`.
            evaluate_distillation: Whether `evaluate` also runs the teacher and reports the
                distillation losses. Defaults to `False`.
            **kwargs: Further arguments of `keras.Model.compile`.

        Raises:
            ValueError: If there is no loss although `student_loss_weight` is above 0, or its
                `from_logits` contradicts the student's last activation.
        """
        if loss is None and self.student_loss_weight > 0:
            raise ValueError(
                f"`student_loss_weight` is {self.student_loss_weight}, but `compile` received no "
                "`loss` for the labels. Pass loss=keras.losses."
                "SparseCategoricalCrossentropy(from_logits=True), or build the Distiller with "
                "student_loss_weight=0.0 to learn from the teacher alone."
            )
        self.evaluate_distillation = evaluate_distillation
        super().compile(
            optimizer=optimizer,
            loss=_resolve_losses(loss, self.student),
            loss_weights=loss_weights,
            metrics=metrics,
            weighted_metrics=weighted_metrics,
            **kwargs,
        )
        self.objective.student_loss = self._compile_loss

    def get_compile_config(self) -> dict[str, Any] | None:
        """Return the arguments of `compile`, serialised."""
        config = super().get_compile_config()
        if config is not None:
            config["evaluate_distillation"] = self.evaluate_distillation
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile with the arguments of `get_compile_config()`."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Return the student's outputs."""
        inputs = student_inputs(inputs)
        if mask is not None:
            return self.student(inputs, training=training, mask=mask)
        return self.student(inputs, training=training)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the student's loss on labels plus its regularisers, without the teacher."""
        if self._compile_loss is None and not self.losses:
            return keras.ops.zeros(())
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Teach the student one batch."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        signals = self.objective.teacher_signals(x)
        with tf.GradientTape() as tape:
            y_pred, features = self.objective.student_pass(self.student, x, training=True)
            losses = self.objective.losses(signals, y, y_pred, features, sample_weight)
            loss = losses["loss"] + self._regularisation()
            scaled_loss = self.optimizer.scale_loss(loss)
        variables = self.trainable_weights
        self.optimizer.apply_gradients(
            zip(tape.gradient(scaled_loss, variables), variables, strict=True)
        )
        self._track(losses, loss, x)
        return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def test_step(self, data: Any) -> dict[str, Any]:
        """Evaluate the student on one batch; the teacher runs only where it was asked for."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        signals = self.objective.teacher_signals(x) if self.evaluate_distillation else None
        y_pred, features = self.objective.student_pass(self.student, x, training=False)
        losses = self.objective.losses(signals, y, y_pred, features, sample_weight)
        if signals is None and self.objective.distils:
            losses["loss"] = losses["student_loss"]
        self._track(losses, losses["loss"] + self._regularisation(), x)
        results = self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        if signals is None:
            for name in ("distillation_loss", *self.objective.names):
                results.pop(name, None)
        return results

    def _regularisation(self) -> Any:
        losses = [self._aggregate_additional_loss(loss) for loss in self.losses]
        return keras.ops.sum(keras.ops.stack(losses)) if losses else 0.0

    def _track(self, losses: dict[str, Any], total: Any, x: Any) -> None:
        batch_size = tf.shape(keras.tree.flatten(x)[0])[0]
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        trackers = {
            "student_loss": self.student_loss_tracker,
            "distillation_loss": self.distillation_loss_tracker,
            **dict(zip(self.objective.names, self.distillation_loss_trackers, strict=True)),
        }
        for name, tracker in trackers.items():
            if name in losses:
                tracker.update_state(losses[name] * replicas, sample_weight=batch_size)
        for tracker in (self._loss_tracker, self.total_loss_tracker):
            tracker.update_state(total * replicas, sample_weight=batch_size)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train the student, as `keras.Model.fit` does, after one look at the data.

        Raises:
            ValueError: If the data set is empty, labels lie out of range, or the outputs on the
                first batch do not fit the losses.
        """
        if self.compiled:
            self._check_data(x, y)
        return super().fit(x, y, *args, **kwargs)

    def _check_data(self, x: Any, y: Any) -> None:
        if self.objective.distils and self.teacher is None:
            self.objective.teacher_signals(None)
        batch = first_batch(x, y)
        if batch is None:
            return
        inputs, labels = batch.inputs, batch.labels
        teacher_activation = last_activation(self.teacher) if self.teacher is not None else None
        known = last_activation(self.student) is not None and teacher_activation is not None
        if self.objective.distils:
            self.objective.build(self.student, inputs)
            self.teaching_layers = self.objective.layers
        if not known:
            self._check_outputs(inputs)
        if labels is not None and self._compile_loss is not None:
            _check_labels(self._compile_loss._user_loss, labels, output_structure(self.student))

    def _check_outputs(self, inputs: Any) -> None:
        student = self.student(inputs, training=False)
        models = [("student", student)]
        if self.objective.distils:
            teacher = self.teacher(inputs, training=False)
            models.append(("teacher", teacher))
            if _compares_outputs(self.distillation_losses):
                _require_equal_shapes(teacher, student)
        if not _reads_logits(self.distillation_losses):
            return
        for role, outputs in models:
            if any(
                look_like_probabilities(keras.ops.convert_to_numpy(output))
                for output in keras.tree.flatten(outputs)
            ):
                raise ValueError(_softmax_message(role, "softmax"))

    def get_config(self) -> dict[str, Any]:
        """Return the configuration, without the teacher."""
        return {
            "name": self.name,
            "teacher": None,
            "student": keras.saving.serialize_keras_object(self.student),
            "distillation_losses": [
                keras.tree.map_structure(keras.saving.serialize_keras_object, loss)
                for loss in self.distillation_losses
            ],
            "distillation_loss_weights": self.distillation_loss_weights,
            "student_loss_weight": self.student_loss_weight,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Distiller:
        """Make a distiller from `get_config()`; its teacher must be set before `fit`."""
        config = dict(config)
        for key in ("teacher", "student", "distillation_losses"):
            config[key] = keras.saving.deserialize_keras_object(
                config[key], custom_objects=custom_objects
            )
        return cls(**config)


def _check_model(model: Any, role: str) -> None:
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"`{role}` must be a keras.Model, but received {type(model).__name__}: {model!r}."
        )


def _check_losses(losses: Any) -> list[Any]:
    if losses is None:
        raise ValueError(
            "`distillation_losses` cannot be None. Pass a loss, such as "
            "keras_kd.losses.KLDivergence(temperature=4.0), or a list of losses."
        )
    losses = list(losses) if isinstance(losses, (list, tuple)) else [losses]
    accepted = (DistillationLoss, Hint, keras.distillation.DistillationLoss)
    for loss in losses:
        parts = [part for part in keras.tree.flatten(loss) if part is not None]
        if not parts:
            raise ValueError(
                "An element of `distillation_losses` holds no loss: at least one output must be "
                f"distilled. Received {loss!r}."
            )
        for part in parts:
            if not isinstance(part, accepted):
                raise ValueError(
                    "`distillation_losses` takes losses of keras_kd.losses, keras_kd.Hint and "
                    f"losses of keras.distillation, but received {part!r}."
                )
    return losses


def _check_weights(weights: Sequence[float] | None, losses: list[Any]) -> list[float]:
    if weights is None:
        return [1.0] * len(losses)
    weights = [weights] if isinstance(weights, (int, float)) else list(weights)
    if len(weights) != len(losses):
        raise ValueError(
            f"`distillation_loss_weights` has {len(weights)} weights, but there are {len(losses)} "
            "distillation losses: give one weight a loss."
        )
    return weights


def _output_parts(losses: list[Any]) -> list[DistillationLoss]:
    return [
        part
        for loss in losses
        if not isinstance(loss, Hint)
        for part in keras.tree.flatten(loss)
        if isinstance(part, DistillationLoss)
    ]


def _reads_logits(losses: list[Any]) -> bool:
    return any(
        part.uses_logits and getattr(part, "from_logits", True) for part in _output_parts(losses)
    )


def _compares_outputs(losses: list[Any]) -> bool:
    return any(part.equal_shapes for part in _output_parts(losses))


def _check_activations(teacher: keras.Model, student: keras.Model, losses: list[Any]) -> None:
    if not _reads_logits(losses):
        return
    for role, model in (("teacher", teacher), ("student", student)):
        for activation in keras.tree.flatten(last_activation(model)):
            if activation in ("softmax", "sigmoid"):
                raise ValueError(_softmax_message(role, activation))


def _softmax_message(role: str, activation: str) -> str:
    return (
        f"The {role} ends in {activation}, but the distillation loss reads logits: it would take "
        f"the {activation} twice. Remove the {role}'s last activation, or say that the outputs "
        "are probabilities: KLDivergence(temperature=4.0, from_logits=False)."
    )


def _check_shapes(teacher: keras.Model, student: keras.Model, losses: list[Any]) -> None:
    if not _compares_outputs(losses):
        return
    outputs = [output_structure(model) for model in (teacher, student)]
    if all(output is not None for output in outputs):
        _require_equal_shapes(*outputs)


def _require_equal_shapes(teacher: Any, student: Any) -> None:
    teacher_shapes, student_shapes = (
        keras.tree.map_structure(lambda output: tuple(output.shape[1:]), outputs)
        for outputs in (teacher, student)
    )
    try:
        keras.tree.assert_same_structure(teacher, student)
        pairs = zip(keras.tree.flatten(teacher), keras.tree.flatten(student), strict=True)
        fits = all(
            len(t.shape) == len(s.shape)
            and all(
                a is None or b is None or a == b
                for a, b in zip(t.shape[1:], s.shape[1:], strict=True)
            )
            for t, s in pairs
        )
    except (ValueError, TypeError):
        fits = False
    if not fits:
        raise ValueError(
            f"The teacher's output has shape {teacher_shapes} (without the batch), the student's "
            f"{student_shapes}: a loss on the outputs needs equal shapes. Give the student as many "
            "outputs as the teacher has, or distil with hints only."
        )


def _check_labels(losses: Any, labels: Any, outputs: Any) -> None:
    if outputs is None:
        return
    if not keras.tree.is_nested(losses):
        losses = keras.tree.map_structure(lambda _: losses, outputs)
    flat = [keras.tree.flatten(part) for part in (losses, labels, outputs)]
    if len({len(leaves) for leaves in flat}) == 1:
        for loss, label, output in zip(*flat, strict=True):
            check_labels(loss, label, output.shape[-1])


def _resolve_losses(loss: Any, student: keras.Model) -> Any:
    if loss is None:
        return None
    activations = last_activation(student)
    if not keras.tree.is_nested(loss):
        flat = keras.tree.flatten(activations) if activations is not None else [None]
        return student_loss_for(loss, flat[0] if len(set(map(str, flat))) == 1 else None)
    try:
        keras.tree.assert_same_structure(loss, activations)
    except (ValueError, TypeError):
        return loss
    return keras.tree.map_structure(student_loss_for, loss, activations)
