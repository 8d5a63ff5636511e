"""What a student is trained on: its labels and its teacher.

Written once for every trainer: the `Distiller` and the stages of compression, whose students may
be models of `tf_keras`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_kd.features import FeatureReader, feature_shape, find_layer
from keras_kd.hints import Hint
from keras_kd.losses.base import DistillationLoss, snake_case
from keras_kd.teachers.taught_inputs import TaughtInputs, student_inputs


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
        distillation_loss_weights: `w_i`, one a loss.
        student_loss_weight: `w`, between 0 and 1.
        student_loss: Called as `student_loss(y, y_pred, sample_weight)`. Defaults to `None`.
    """

    def __init__(
        self,
        teacher: Any,
        distillation_losses: Sequence[Any],
        distillation_loss_weights: Sequence[float],
        student_loss_weight: float,
        student_loss: Callable[..., Any] | None = None,
    ) -> None:
        self.distillation_losses = list(distillation_losses)
        self.distillation_loss_weights = list(distillation_loss_weights)
        self.student_loss_weight = student_loss_weight
        self.student_loss = student_loss
        self.names = _unique_names(self.distillation_losses)
        self.teacher = teacher
        self._student_reader: tuple[Any, FeatureReader] | None = None
        self._layer_names: Mapping[str, str] = {}

    @property
    def teacher(self) -> Any:
        """The teacher, or `None`."""
        return self._teacher

    @teacher.setter
    def teacher(self, teacher: Any) -> None:
        self._teacher = teacher
        self._teacher_reader: FeatureReader | None = None

    @property
    def hints(self) -> list[Hint]:
        """The hints among the losses."""
        return [loss for loss in self.distillation_losses if isinstance(loss, Hint)]

    @property
    def distils(self) -> bool:
        """Whether the teacher counts at all."""
        return self.student_loss_weight < 1.0 and bool(self.distillation_losses)

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """The layers trained beside the student: projections and parameters of losses."""
        layers: list[keras.layers.Layer] = []
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

    def build(self, student: Any, example: Any = None) -> None:
        """Make the projections of the hints.

        Args:
            student: The student.
            example: A batch of inputs, needed where only a pass tells a feature's shape.
                Defaults to `None`: hints that need it stay unbuilt.

        Raises:
            ValueError: If a hint names a layer that does not exist, or no projection leads from
                the student's feature to the teacher's.
        """
        for hint in self.hints:
            for side, model, paths in (
                ("teacher", self.teacher, hint.teacher_paths),
                ("student", student, hint.student_paths),
            ):
                for path in paths:
                    try:
                        find_layer(model, path)
                    except ValueError as error:
                        raise ValueError(f"Hint '{hint.name}', {side}_layer: {error}") from None
        unbuilt = [hint for hint in self.hints if not hint.built]
        if not unbuilt:
            return
        shapes = []
        for model, side in ((self.teacher, "teacher"), (student, "student")):
            paths = _paths(unbuilt, side)
            known = {path: feature_shape(model, path) for path in paths}
            if any(shape is None for shape in known.values()):
                if example is None:
                    return
                known = _traced_shapes(model, paths, example)
            shapes.append(known)
        for hint in unbuilt:
            hint.build(
                [shapes[0][path] for path in hint.teacher_paths],
                [shapes[1][path] for path in hint.student_paths],
            )

    def without_missing_hints(
        self, model: Any, layer_names: Mapping[str, str] | None = None
    ) -> Objective:
        """Return this objective for another model, without the hints at layers it does not have.

        Args:
            model: A changed student, of Keras 3 or `tf_keras`.
            layer_names: The present name of every layer that was renamed. Defaults to `None`.
        """
        names = dict(layer_names or {})
        result = copy.copy(self)
        result._student_reader = None
        result._layer_names = names
        kept = [
            i
            for i, loss in enumerate(self.distillation_losses)
            if all(_has_layer(model, names.get(path, path)) for path in _paths([loss], "student"))
        ]
        result.distillation_losses = [self.distillation_losses[i] for i in kept]
        result.distillation_loss_weights = [self.distillation_loss_weights[i] for i in kept]
        result.names = [self.names[i] for i in kept]
        result.teacher = self.teacher
        return result

    def teacher_signals(self, x: Any) -> TeacherSignals | None:
        """Run the teacher once, in inference mode; call this outside the gradient tape.

        For `TaughtInputs` nothing is run: they bring the teacher's outputs along.

        Returns:
            Its outputs and features, or `None` where the teacher does not count.
        """
        if not self.distils:
            return None
        if isinstance(x, TaughtInputs):
            return TeacherSignals(x.outputs, x.features)
        if self.teacher is None:
            raise ValueError(
                "There is no teacher: a loaded Distiller is saved without it. "
                "Set `distiller.teacher = teacher` before `fit`."
            )
        if self._teacher_reader is None:
            paths = _paths(self.distillation_losses, "teacher")
            self._teacher_reader = FeatureReader(self.teacher, paths)
        outputs, features = self._teacher_reader.run(self.teacher, x, training=False)
        return TeacherSignals(
            keras.tree.map_structure(ops.stop_gradient, outputs),
            keras.tree.map_structure(ops.stop_gradient, features),
        )

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
            paths = _paths(self.distillation_losses, "student") if self.distils else []
            self._student_reader = (model, FeatureReader(model, paths, self._layer_names))
        return self._student_reader[1].run(model, student_inputs(x), training)

    def losses(
        self,
        signals: TeacherSignals | None,
        y: Any,
        y_pred: Any,
        features: Mapping[str, Any],
        sample_weight: Any = None,
    ) -> dict[str, Any]:
        """Compute every loss of one batch.

        Args:
            signals: What the teacher gave for this batch, from `teacher_signals`.
            y: Labels, or `None`.
            y_pred: The student's outputs.
            features: The student's features, from `student_pass`.
            sample_weight: Weights of the samples. Defaults to `None`.

        Returns:
            Scalars by name: `"loss"`, the total without the student's own regularisers;
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
                value = _evaluate(loss, signals, y, y_pred, features, sample_weight)
                if replicas > 1:
                    value = value / replicas
                results[name] = value
                distillation_loss += weight * ops.cast(value, "float32")
        w = self.student_loss_weight
        total = w * student_loss + (1.0 - w) * distillation_loss
        return {
            "loss": total,
            "student_loss": student_loss,
            "distillation_loss": distillation_loss,
            **results,
        }

    def _student_loss(self, y: Any, y_pred: Any, sample_weight: Any) -> Any:
        if self.student_loss is None or y is None:
            return ops.zeros((), "float32")
        value = self.student_loss(y, y_pred, sample_weight)
        return ops.zeros((), "float32") if value is None else ops.cast(value, "float32")


def _evaluate(
    loss: Any,
    signals: TeacherSignals,
    y: Any,
    y_pred: Any,
    features: Mapping[str, Any],
    sample_weight: Any,
) -> Any:
    if isinstance(loss, Hint):
        return loss(
            [signals.features[path] for path in loss.teacher_paths],
            [features[path] for path in loss.student_paths],
            labels=y,
            sample_weight=sample_weight,
        )
    if isinstance(loss, keras.distillation.DistillationLoss):
        teacher_layer = getattr(loss, "teacher_layer_name", None)
        student_layer = getattr(loss, "student_layer_name", None)
        teacher = signals.features[teacher_layer] if teacher_layer else signals.outputs
        student = features[student_layer] if student_layer else y_pred
        loss.validate_outputs(teacher, student)
        return loss.compute_loss(teacher, student)
    if isinstance(loss, DistillationLoss):
        return loss(signals.outputs, y_pred, labels=y, sample_weight=sample_weight)
    total = ops.zeros((), "float32")
    for part, path in _output_losses(loss):
        if part is not None:
            total += part(
                _at(signals.outputs, path),
                _at(y_pred, path),
                labels=_at(y, path) if keras.tree.is_nested(y) else y,
                sample_weight=(
                    _at(sample_weight, path)
                    if keras.tree.is_nested(sample_weight)
                    else sample_weight
                ),
            )
    return total


def _output_losses(structure: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, tuple[Any, ...]]]:
    if isinstance(structure, Mapping):
        items = list(structure.items())
    elif isinstance(structure, (list, tuple)):
        items = list(enumerate(structure))
    else:
        return [(structure, path)]
    return [leaf for key, part in items for leaf in _output_losses(part, (*path, key))]


def _at(structure: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        structure = structure[key]
    return structure


def _paths(losses: Sequence[Any], side: str) -> list[str]:
    paths: list[str] = []
    for loss in losses:
        if isinstance(loss, Hint):
            paths += loss.teacher_paths if side == "teacher" else loss.student_paths
        elif getattr(loss, f"{side}_layer_name", None):
            paths.append(getattr(loss, f"{side}_layer_name"))
    return list(dict.fromkeys(paths))


def _has_layer(model: Any, path: str) -> bool:
    try:
        find_layer(model, path)
    except ValueError:
        return False
    return True


def _unique_names(losses: Sequence[Any]) -> list[str]:
    names: list[str] = []
    for loss in losses:
        parts = [part for part, _ in _output_losses(loss) if part is not None]
        first = parts[0] if parts else loss
        name = getattr(first, "name", None) or snake_case(type(first).__name__)
        unique, count = name, 1
        while unique in names:
            count += 1
            unique = f"{name}_{count}"
        names.append(unique)
    return names


def _traced_shapes(model: Any, paths: Sequence[str], example: Any) -> dict[str, Any]:
    reader = FeatureReader(model, paths)
    shapes: dict[str, Any] = {}

    @tf.function(autograph=False)
    def trace(x: Any) -> None:
        _, features = reader.run(model, x, training=False)
        shapes.update({path: (None, *feature.shape[1:]) for path, feature in features.items()})

    trace.get_concrete_function(
        keras.tree.map_structure(lambda v: tf.TensorSpec(v.shape, v.dtype), example)
    )
    return shapes
