"""What a student is trained on: its labels and its teacher.

Written once for every trainer: the `Distiller` and the stages of compression.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_kd.data.labels import class_labels
from keras_kd.data.taught_inputs import TaughtInputs, masked_outputs, student_inputs
from keras_kd.distilling.balancing import BALANCED
from keras_kd.distilling.checks.compatibility import check_layers
from keras_kd.distilling.hints import Hint
from keras_kd.distilling.loss_values import evaluate_loss, layer_paths_of, unique_names
from keras_kd.distilling.schedules import Scheduled, Schedules, is_schedule, serialize
from keras_kd.losses.shared.base import DistillationLoss
from keras_kd.losses.shared.masks import get_keras_mask, set_keras_mask, with_masks_of
from keras_kd.losses.shared.phase import in_phase
from keras_kd.models.features import FeatureReader, feature_shape, find_layer, traced_shapes
from keras_kd.models.views import View
from keras_kd.system.quiet import without_retracing_warnings
from keras_kd.teachers.adapted_teacher import adapted_outputs
from keras_kd.teachers.inference_reader import InferenceReader

NO_TEACHER = (
    "The Distiller has no teacher. (A saved one is loaded without it.) Set `distiller.teacher = "
    "teacher` before `fit`, or train on data that holds the teacher's outputs: elements "
    "(keras_kd.teachers.TaughtInputs(inputs, outputs), labels)."
)


@dataclasses.dataclass(frozen=True)
class TeacherSignals:
    """What one pass of the teacher gave: its outputs, and the features at the hinted layers."""

    outputs: Any
    features: Mapping[str, Any]


class Objective:
    """The weighted sum of a student's loss on labels and its distillation losses.

    `loss = w * student_loss + (1 - w) * sum(w_i * L_i)`.

    Args:
        teacher: A model, or a callable `teacher(x, training=False)`; `None` while there is none.
        distillation_losses: Losses on the outputs, hints, losses of `keras.distillation`, or
            structures of losses like the outputs', with `None` where an output is not distilled.
        distillation_loss_weights: `w_i`, one per loss: numbers, schedules of steps, or functions of
            the epoch.
        student_loss_weight: `w`, between 0 and 1, of the same kinds.
        student_loss: Called as `student_loss(y, y_pred, sample_weight)`. Defaults to `None`.
        output_names: Names of the student's outputs, by which labels and weights may be keyed.
            Defaults to `None`.
        outputs_function: `teacher_outputs` of the distiller, for outputs that the data brings
            along; a teacher that runs applies it itself. Defaults to `None`.
    """

    def __init__(
        self,
        teacher: Any,
        distillation_losses: Sequence[Any],
        distillation_loss_weights: Sequence[Scheduled],
        student_loss_weight: Scheduled,
        student_loss: Callable[..., Any] | None = None,
        output_names: Sequence[str] | None = None,
        outputs_function: Callable[[Any], Any] | None = None,
    ) -> None:
        self.outputs_function = outputs_function
        self.distillation_losses = list(distillation_losses)
        self.distillation_loss_weights = list(distillation_loss_weights)
        self.student_loss_weight = student_loss_weight
        self.student_loss = student_loss
        self.output_names = output_names
        self.schedules = Schedules(
            self.distillation_loss_weights, self.distillation_losses, student_loss_weight
        )
        self._stopped = False
        self.names = unique_names(self.distillation_losses)
        self.teacher = teacher
        self._student_reader: tuple[Any, FeatureReader] | None = None
        self.view: View | None = None

    @property
    def teacher(self) -> Any:
        """The teacher, or `None`."""
        return self._teacher

    @teacher.setter
    def teacher(self, teacher: Any) -> None:
        self._teacher = teacher
        self._teacher_reader: InferenceReader | None = None

    @property
    def stopped(self) -> bool:
        """Whether distillation has ended: the student learns from its labels alone."""
        return self._stopped

    @stopped.setter
    def stopped(self, stopped: bool) -> None:
        self._stopped = stopped
        self._student_reader = None

    @property
    def hints(self) -> list[Hint]:
        """The hints among the losses."""
        return [loss for loss in self.distillation_losses if isinstance(loss, Hint)]

    @property
    def distils(self) -> bool:
        """Whether the teacher counts at all."""
        w = self.student_loss_weight
        counts = is_schedule(w) or w != 1.0
        return counts and bool(self.distillation_losses) and not self.stopped

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """The layers beside the student: projections, parameters of losses, those of a view."""
        layers: list[keras.layers.Layer] = list(self.view.layers) if self.view is not None else []
        for loss in self.distillation_losses:
            if isinstance(loss, Hint):
                layers += loss.layers
            else:
                layers += [
                    part.parameters
                    for part in keras.tree.flatten(loss)
                    if isinstance(part, DistillationLoss) and part.parameters is not None
                ]
        return layers

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """The variables of `layers` that are trained."""
        return [variable for layer in self.layers for variable in layer.trainable_variables]

    @property
    def unbalanced(self) -> bool:
        """Whether the weights are still to be measured: `"balanced"` before the first `fit`."""
        return any(isinstance(weight, str) for weight in self.distillation_loss_weights)

    def get_config(self) -> dict[str, Any]:
        """Return the losses and their weights as arguments of a distiller, serialized."""
        weights: Any = [serialize(weight) for weight in self.distillation_loss_weights]
        weights = BALANCED if self.unbalanced else weights
        return {
            "distillation_losses": [
                keras.tree.map_structure(serialize, loss) for loss in self.distillation_losses
            ],
            "distillation_loss_weights": weights,
            "student_loss_weight": serialize(self.student_loss_weight),
        }

    def build(self, student: Any, example: Any = None, taught: TaughtInputs | None = None) -> None:
        """Make the projections of the hints.

        Args:
            student: The student.
            example: A batch of inputs, needed where only a pass tells a feature's shape.
                Defaults to `None`: hints that need it stay unbuilt.
            taught: A batch with the teacher's features, if the data contains them.
                Defaults to `None`: the teacher gives their shapes.

        Raises:
            ValueError: If a hint names a layer that does not exist, or no projection leads from
                the student's feature to the teacher's.
        """
        brought = None if taught is None else taught.features
        for loss in self.distillation_losses:
            check_layers(loss, self.teacher, student, brought)
        unbuilt = [hint for hint in self.hints if not hint.built]
        if not unbuilt:
            return
        shapes = []
        for model, side in ((self.teacher, "teacher"), (student, "student")):
            paths = layer_paths_of(unbuilt, side)
            known: dict[str, Any]
            if side == "teacher" and brought is not None:
                known = {path: (None, *brought[path].shape[1:]) for path in paths}
            else:
                known = {path: feature_shape(model, path) for path in paths}
            if any(shape is None for shape in known.values()):
                if example is None:
                    return
                known = traced_shapes(model, paths, example)
            shapes.append(known)
        for hint in unbuilt:
            hint.build(
                [shapes[0][path] for path in hint.teacher_paths],
                [shapes[1][path] for path in hint.student_paths],
            )

    def without_missing_hints(self, model: Any) -> Objective:
        """Return this objective for another model, without the hints at layers it does not have.

        Scheduled weights and temperatures keep their present values.

        Args:
            model: A changed student.
        """
        result = copy.copy(self)
        result._student_reader = None
        kept = [
            i
            for i, loss in enumerate(self.distillation_losses)
            if all(_has_layer(model, path) for path in layer_paths_of([loss], "student"))
        ]
        schedules = self.schedules
        result.distillation_losses = [
            schedules.loss(self.distillation_losses[i], numbers=True) for i in kept
        ]
        result.distillation_loss_weights = [
            schedules.number(self.distillation_loss_weights[i]) for i in kept
        ]
        result.student_loss_weight = schedules.number(self.student_loss_weight)
        result.schedules = Schedules([], [])
        result._stopped = False
        result.names = [self.names[i] for i in kept]
        result.teacher = self.teacher
        return result

    def teacher_signals(self, x: Any) -> TeacherSignals | None:
        """Run the teacher once, in inference mode; call this outside the gradient tape.

        For `TaughtInputs` nothing is run: they contain the teacher's outputs.

        Returns:
            Its outputs and features, or `None` where the teacher does not count.
        """
        if not self.distils:
            return None
        if isinstance(x, TaughtInputs):
            return self.taught_signals(x)
        if self.teacher is None:
            raise ValueError(NO_TEACHER)
        if self._teacher_reader is None:
            paths = layer_paths_of(self.distillation_losses, "teacher")
            self._teacher_reader = InferenceReader(self.teacher, paths)
        outputs, features = self._teacher_reader.run(self.teacher, x)
        return TeacherSignals(*without_gradient((outputs, features)))

    def taught_signals(self, taught: TaughtInputs) -> TeacherSignals:
        """Return what the data brings along, as the teacher would give it."""
        outputs, features = masked_outputs(taught)
        if not keras.tree.flatten(taught.adapted):
            outputs = adapted_outputs(self.outputs_function, outputs)
        return TeacherSignals(outputs, features)

    def student_pass(self, model: Any, x: Any, training: bool) -> tuple[Any, dict[str, Any]]:
        """Run the student once.

        Args:
            model: The student.
            x: A batch of inputs.
            training: Whether it runs in training mode.

        Returns:
            Its outputs, and path -> output of every hinted layer.
        """
        if self._student_reader is None or self._student_reader[0] is not model:
            paths = layer_paths_of(self.distillation_losses, "student") if self.distils else []
            self._student_reader = (model, FeatureReader(model, paths))
        reader, view = self._student_reader[1], self.view
        if view is None:
            return reader.run(model, student_inputs(x), training)

        def run(x: Any) -> tuple[Any, list[Any]]:
            with view.applied(training):
                results = reader.run(model, student_inputs(x), training)
            return results, [get_keras_mask(tensor) for tensor in keras.tree.flatten(results)]

        # A view sees all operations in graphs alone.
        if not tf.executing_eagerly():
            return run(x)[0]
        with without_retracing_warnings():
            results, masks = tf.function(run, autograph=False)(x)
        # A compiled function returns tensors without their masks.
        for tensor, mask in zip(keras.tree.flatten(results), masks, strict=True):
            if mask is not None:
                set_keras_mask(tensor, mask)
        return results

    def losses(
        self,
        signals: TeacherSignals | None,
        y: Any,
        y_pred: Any,
        features: Mapping[str, Any],
        sample_weight: Any = None,
        training: bool = False,
    ) -> dict[str, Any]:
        """Compute every loss of one batch.

        Args:
            signals: What the teacher gave for this batch, from `teacher_signals`.
            y: Labels, or `None`.
            y_pred: The student's outputs.
            features: The student's features, from `student_pass`.
            sample_weight: Weights of the samples. Defaults to `None`.
            training: Whether projections and losses run in training mode. Defaults to `False`.

        Returns:
            Scalars by name: `"loss"`, the total without the student's own regularizers;
            `"weighted_student_loss"` and `"weighted_distillation_loss"`, the parts of it;
            `"student_loss"`; `"distillation_loss"`; and each distillation loss by its name,
            unweighted. Under a distribution strategy each is divided by the number of replicas,
            as Keras does with its own losses.
        """
        results: dict[str, Any] = {}
        student_loss = self._student_loss(y, y_pred, sample_weight)
        distillation_loss = ops.zeros((), "float32")
        if signals is not None:
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            for name, loss, weight in zip(
                self.names, self.distillation_losses, self.distillation_loss_weights, strict=True
            ):
                with in_phase(training):
                    value = evaluate_loss(
                        self.schedules.loss(loss),
                        signals.outputs,
                        signals.features,
                        y,
                        y_pred,
                        features,
                        sample_weight,
                        self.output_names,
                        training,
                    )
                if replicas > 1:
                    value = value / replicas
                results[name] = value
                distillation_loss += self.schedules.value(weight) * ops.cast(value, "float32")
        w = 1.0 if self.stopped else self.schedules.value(self.student_loss_weight)
        parts = w * student_loss, (1.0 - w) * distillation_loss
        return {
            "loss": sum(parts),
            "weighted_student_loss": parts[0],
            "weighted_distillation_loss": parts[1],
            "student_loss": student_loss,
            "distillation_loss": distillation_loss,
            **results,
        }

    def reported(
        self, results: Mapping[str, Any], distilled: bool, training: bool
    ) -> dict[str, Any]:
        """Return the measures of a step, each quantity once.

        A single distillation loss is `"distillation_loss"`. Where the teacher did not count,
        `"loss"` is the loss on labels.

        Args:
            results: All measures by name.
            distilled: Whether the teacher counted in the step.
            training: Whether the step trained.
        """
        hidden = [] if distilled and len(self.names) > 1 else list(self.names)
        if not distilled:
            hidden.append("distillation_loss")
            # After `stop_distillation_at`, a history has a value per epoch all the same.
            if not (training and self.stopped):
                hidden.append("student_loss")
        return {name: value for name, value in results.items() if name not in hidden}

    def _student_loss(self, y: Any, y_pred: Any, sample_weight: Any) -> Any:
        y = class_labels(y)
        if self.student_loss is None or y is None:
            return ops.zeros((), "float32")
        value = self.student_loss(y, y_pred, sample_weight)
        return ops.zeros((), "float32") if value is None else ops.cast(value, "float32")


def without_gradient(structure: Any) -> Any:
    """Return tensors through which no gradient flows, with their masks."""
    return with_masks_of(keras.tree.map_structure(ops.stop_gradient, structure), structure)


def _has_layer(model: Any, path: str) -> bool:
    try:
        find_layer(model, path)
    except ValueError:
        return False
    return True
