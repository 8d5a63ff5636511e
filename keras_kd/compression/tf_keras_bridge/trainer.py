"""Training a `tf_keras` student on the distiller's objective.

Imports `tf_keras`: import this module only inside functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
import tf_keras

from keras_kd.compression.tf_keras_bridge.kept_values import KeptValues
from keras_kd.data.labels import class_labels
from keras_kd.data.taught_inputs import student_inputs
from keras_kd.distilling.loss_means import LossMeans
from keras_kd.distilling.objective import Objective


class TfKerasTrainer(tf_keras.Model):
    """Trains a `tf_keras` student as `Distiller` trains a Keras 3 one.

    Projections of hints go on being trained, by the same optimizer.

    Args:
        student: A `tf_keras` model.
        objective: The objective for this student.
        metrics: An object with `update_state`, `result` and `reset_state`, or `None`.
        kept: The weights that stay zero or equal to one another.
    """

    def __init__(
        self, student: Any, objective: Objective, metrics: Any, kept: Sequence[KeptValues]
    ) -> None:
        super().__init__(name=f"{student.name}_trainer")
        self.student = student
        means = LossMeans(["distillation_loss", *objective.names, "loss", "student_loss"])
        # tf_keras would take what is assigned the usual way for layers and weights of its own.
        object.__setattr__(self, "_teaching", (objective, metrics, means, kept))

    @property
    def metrics(self) -> list[Any]:
        """No metrics of `tf_keras`: those of Keras 3 are used."""
        return []

    def reset_metrics(self) -> None:
        """Start the metrics anew."""
        _, metrics, means, _ = self._teaching
        means.reset_state()
        if metrics is not None:
            metrics.reset_state()

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Return the student's outputs."""
        return self.student(student_inputs(inputs), training=training)

    @property
    def trained_variables(self) -> list[Any]:
        """What the optimizer changes: the student's weights and those of the projections."""
        objective, _, _, _ = self._teaching
        return [
            *self.student.trainable_variables,
            *(variable.value for variable in objective.trainable_variables),
        ]

    @property
    def random_states(self) -> list[Any]:
        """The states of the student's random layers, such as dropout."""
        states = []
        for layer in self.student._flatten_layers():
            generator = getattr(getattr(layer, "_random_generator", None), "_generator", None)
            if generator is not None:
                states.append(generator.state)
            hosted = getattr(layer, "operation", None)
            if isinstance(hosted, keras.layers.Layer):
                inner = [g for part in hosted._flatten_layers() for g in part._seed_generators]
                states += [generator.state for generator in inner]
        return states

    @tf.autograph.experimental.do_not_convert
    def train_step(self, data: Any) -> dict[str, Any]:
        """Teach the student one batch."""
        objective, _, _, kept = self._teaching
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        signals = objective.teacher_signals(x)
        with tf.GradientTape() as tape:
            y_pred, features = objective.student_pass(self.student, x, training=True)
            losses = objective.losses(signals, y, y_pred, features, sample_weight)
            losses["loss"] += self._regularisation()
        variables = self.trained_variables
        gradients = tape.gradient(losses["loss"], variables)
        projections = {id(weights.variable): weights.project for weights in kept}
        self.optimizer.apply_gradients(
            [
                (projections[id(v)](g) if id(v) in projections else g, v)
                for g, v in zip(gradients, variables, strict=True)
                if g is not None
            ]
        )
        for weights in kept:
            weights.variable.assign(weights.project(weights.variable))
        return self._track(losses, x, y, y_pred, sample_weight)

    @tf.autograph.experimental.do_not_convert
    def test_step(self, data: Any) -> dict[str, Any]:
        """Evaluate the student on one batch, without the teacher."""
        objective, _, _, _ = self._teaching
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y_pred, features = objective.student_pass(self.student, x, training=False)
        student_loss = objective.losses(None, y, y_pred, features, sample_weight)["student_loss"]
        losses = {"loss": student_loss + self._regularisation(), "student_loss": student_loss}
        return self._track(losses, x, y, y_pred, sample_weight)

    def _regularisation(self) -> Any:
        losses = [tf.cast(loss, tf.float32) for loss in self.student.losses]
        return tf.add_n(losses) if losses else tf.constant(0.0)

    def _track(
        self, losses: dict[str, Any], x: Any, y: Any, y_pred: Any, sample_weight: Any
    ) -> dict[str, Any]:
        _, metrics, means, _ = self._teaching
        means.update_state(losses, tf.shape(tf.nest.flatten(x)[0])[0])
        results = {name: mean for name, mean in means.result().items() if name in losses}
        if metrics is not None:
            metrics.update_state(class_labels(y), y_pred, sample_weight)
            results.update(metrics.result())
        return dict(sorted(results.items()))


def to_tf_keras_optimizer(optimizer: keras.optimizers.Optimizer) -> Any:
    """Return the `tf_keras` optimizer of the same class and configuration.

    Raises:
        ValueError: If `tf_keras` has no such optimizer, or no such schedule.
    """
    class_name = type(optimizer).__name__
    known = ("Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Ftrl", "Lion",
             "Nadam", "RMSprop", "SGD")  # fmt: skip
    if class_name not in known:
        raise ValueError(
            f"This stage trains with tf_keras, which has no optimizer {class_name}. Pass one of "
            f"{', '.join(known)} as `optimizer`."
        )
    config = dict(optimizer.get_config())
    for key in ("loss_scale_factor", "gradient_accumulation_steps"):
        if config.pop(key, None) is not None:
            raise ValueError(
                f"This stage trains with tf_keras, whose {class_name} has no `{key}`. Leave it out."
            )
    rate = config["learning_rate"]
    if isinstance(rate, dict):
        schedule = getattr(tf_keras.optimizers.schedules, rate["class_name"], None)
        if schedule is None or rate.get("registered_name"):
            raise ValueError(
                "This stage trains with tf_keras, which has no learning rate schedule "
                f"{rate['class_name']}. Pass one of keras.optimizers.schedules, or a number."
            )
        config["learning_rate"] = schedule.from_config(rate["config"])
    result = getattr(tf_keras.optimizers, class_name).from_config(config)
    excluded = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    if excluded:
        result.exclude_from_weight_decay(var_names=list(excluded))
    return result
