"""Whether teacher, student, losses and labels fit each other, told before training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from keras_kd.data.finite import check_finite
from keras_kd.data.taught_inputs import TaughtInputs
from keras_kd.distilling.checks.arguments import check_name
from keras_kd.distilling.hints import Hint
from keras_kd.distilling.loss_values import layer_paths_of
from keras_kd.losses.binary_kl_divergence import BinaryKLDivergence
from keras_kd.losses.shared.base import DistillationLoss, top_k_message
from keras_kd.losses.shared.soft_targets import SoftTargetsLoss, check_temperature
from keras_kd.losses.top_k_logits import TopKLogits
from keras_kd.models.features import feature_shape
from keras_kd.models.graph import output_structure
from keras_kd.models.probabilities import (
    PROBABILITIES,
    last_activation,
    look_like_probabilities,
)
from keras_kd.models.structures import Path, at, leaves
from keras_kd.teachers.adapted_teacher import AdaptedTeacher
from keras_kd.teachers.callable_teacher import CallableTeacher
from keras_kd.teachers.ensemble import Ensemble

_KerasLogits = keras.distillation.LogitsDistillation


def check_teacher(teacher: Any, student: keras.Model, losses: list[Any]) -> None:
    """Refuse a teacher that does not fit the student, as far as can be told without a pass.

    Raises:
        ValueError: If inputs or outputs differ in shape, a softmax stands before a loss on
            logits, or Keras cannot run a model of this name.
    """
    adapted = isinstance(teacher, AdaptedTeacher)
    for layer in _layers_that_run(teacher):
        check_name(layer, "teacher")
    for model in _models_of_student_inputs(teacher):
        _check_inputs(model, student)
    for role, model in (("teacher", teacher), ("student", student)):
        _check_ends(role, last_activation(model), losses)
    for loss, _ in compared_outputs(losses):
        if getattr(loss, "multi_label", False) and _takes_softmax(teacher):
            raise ValueError(
                f"{type(loss).__name__} reads each output as a label of its own, but the Ensemble "
                'returns the mean of softmaxes. Use Ensemble(..., combine="logits").'
            )
    teacher_outputs = teacher.output_structure() if adapted else output_structure(teacher)
    student_outputs = output_structure(student)
    if teacher_outputs is not None and student_outputs is not None:
        check_shapes(teacher_outputs, student_outputs, losses)


def _takes_softmax(teacher: Any) -> bool:
    """Whether an ensemble in a teacher takes the softmax over its members' outputs."""
    if isinstance(teacher, (AdaptedTeacher, CallableTeacher)):
        return _takes_softmax(teacher.teacher)
    if not isinstance(teacher, Ensemble):
        return False
    return teacher.combine == "probabilities" or any(map(_takes_softmax, teacher.members))


def _check_ends(role: str, ends: Any, losses: list[Any]) -> None:
    for part, path in compared_outputs(losses):
        for end in _leaves_at(ends, path):
            if _reads_logits(part) and end in PROBABILITIES:
                raise ValueError(_softmax_message(role, end, part))
            if _reads_logits(part) is False and end == "linear":
                raise ValueError(_logits_message(role, part))


def _layers_that_run(teacher: Any) -> list[Any]:
    parts: list[Any] = []
    if isinstance(teacher, Ensemble):
        parts = [*teacher.members]
    elif isinstance(teacher, CallableTeacher):
        parts = [teacher.teacher]
    elif isinstance(teacher, AdaptedTeacher):
        parts = [teacher.inputs_function, teacher.teacher, teacher.outputs_function]
    elif isinstance(teacher, keras.layers.Layer):
        return [teacher]
    return [layer for part in parts for layer in _layers_that_run(part)]


def _models_of_student_inputs(teacher: Any) -> list[Any]:
    if isinstance(teacher, Ensemble):
        return [model for member in teacher.members for model in _models_of_student_inputs(member)]
    if isinstance(teacher, CallableTeacher):
        return _models_of_student_inputs(teacher.teacher)
    if isinstance(teacher, AdaptedTeacher):
        adapted = teacher.inputs_function is not None
        return [] if adapted else _models_of_student_inputs(teacher.teacher)
    return [teacher] if isinstance(teacher, keras.Model) else []


def _check_inputs(teacher: Any, student: Any) -> None:
    shapes: list[Any] = []
    for model in (teacher, student):
        inputs = getattr(model, "inputs", None) or []
        shapes.append(tuple(inputs[0].shape[1:]) if len(inputs) == 1 else None)
    if None in shapes or _fit(*shapes):
        return
    raise ValueError(
        f"The teacher takes inputs of shape {shapes[0]} (without the batch), the student of shape "
        f"{shapes[1]}, but both receive the same data. Pass `teacher_inputs=` a function of the "
        "student's inputs that returns the teacher's, such as "
        "keras.layers.Resizing(height, width)."
    )


def compared_outputs(losses: list[Any]) -> list[tuple[Any, Path]]:
    """Return every loss that compares outputs, with the path of the output; `()` for all."""
    compared = []
    for loss in losses:
        if isinstance(loss, keras.distillation.DistillationLoss):
            named = getattr(loss, "teacher_layer_name", None) or getattr(
                loss, "student_layer_name", None
            )
            parts = leaves(getattr(loss, "loss", None))
            if not named:
                compared += [(loss, path) for part, path in parts if part is not None]
        elif not isinstance(loss, Hint):
            compared += [(part, path) for part, path in leaves(loss) if part is not None]
    return compared


def _reads_logits(loss: Any) -> bool | None:
    """Return whether a loss reads logits, or else probabilities; `None` if it reads neither."""
    if isinstance(loss, DistillationLoss):
        return getattr(loss, "from_logits", True) if loss.uses_logits else None
    return True if isinstance(loss, _KerasLogits) else None


def _leaves_at(structure: Any, path: Path) -> list[Any]:
    try:
        return keras.tree.flatten(at(structure, path))
    except LookupError:
        return []


def _softmax_message(role: str, activation: str, loss: Any) -> str:
    temperature = getattr(loss, "temperature", 4.0)
    name = "KLDivergence" if isinstance(loss, _KerasLogits) else type(loss).__name__
    return (
        f"The {role} ends in {activation}, but the distillation loss reads logits: it would take "
        f"the {activation} twice. Remove the {role}'s last activation, or say that the outputs "
        f"are probabilities: keras_kd.losses.{name}(temperature={temperature!r}, "
        "from_logits=False)."
    )


def _logits_message(role: str, loss: Any) -> str:
    name = type(loss).__name__
    return (
        f"The {role} ends in logits, but {name}(from_logits=False) reads probabilities. Use "
        f"keras_kd.losses.{name}(from_logits=True), or give both models a last activation."
    )


def check_shapes(teacher: Any, student: Any, losses: list[Any]) -> None:
    """Refuse outputs that the losses cannot compare.

    Args:
        teacher: Outputs of the teacher: tensors or their specifications.
        student: Outputs of the student.
        losses: The distillation losses.

    Raises:
        ValueError: If a loss meets no output, or several, or outputs of unequal shape.
    """
    for loss, path in compared_outputs(losses):
        pair = []
        for role, outputs in (("teacher", teacher), ("student", student)):
            try:
                pair.append(at(outputs, path))
            except LookupError:
                raise ValueError(
                    f"`distillation_losses` holds {type(loss).__name__} for the output "
                    f"{'/'.join(map(str, path))}, but the {role}'s outputs are "
                    f"{_shapes(outputs)}. Arrange the losses like the student's outputs, and with "
                    "`teacher_outputs=` the teacher's outputs like the student's."
                ) from None
        if any(keras.tree.is_nested(output) for output in pair):
            if getattr(loss, "several_layers", False):
                continue
            if isinstance(loss, keras.distillation.DistillationLoss) and not isinstance(
                loss, (_KerasLogits, keras.distillation.FeatureDistillation)
            ):
                continue
            raise ValueError(
                f"{type(loss).__name__} compares one output of the teacher with one of the "
                f"student, but the teacher's outputs are {_shapes(pair[0])} and the student's "
                f"{_shapes(pair[1])}. Give each output a separate loss, arranged like the "
                "student's outputs, with None for those that are not distilled: "
                f"distillation_losses=[{_first_distilled(pair[1])}]."
            )
        shapes = [tuple(output.shape[1:]) for output in pair]
        if getattr(loss, "equal_shapes", True) and not _fit(*shapes):
            raise ValueError(
                f"The teacher's output has shape {shapes[0]} (without the batch), the student's "
                f"{shapes[1]}: a loss on the outputs needs equal shapes. Give the student as many "
                "outputs as the teacher has, bring the teacher's to the student's with "
                "`teacher_outputs=`, or distil with hints only."
            )


def _first_distilled(outputs: Any) -> str:
    """Return losses for outputs as text, of which the first one is distilled."""
    loss, others = "keras_kd.losses.KLDivergence()", ["None"] * (len(outputs) - 1)
    parts = [loss, *others]
    if isinstance(outputs, Mapping):
        pairs = zip(outputs, parts, strict=True)
        return "{" + ", ".join(f"{name!r}: {part}" for name, part in pairs) + "}"
    return f"[{', '.join(parts)}]"


def _fit(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    return len(first) == len(second) and all(
        a is None or b is None or a == b for a, b in zip(first, second, strict=True)
    )


def _shapes(outputs: Any) -> Any:
    return keras.tree.map_structure(lambda output: tuple(output.shape[1:]), outputs)


def _shape_of(model: Any, path: str) -> Any:
    if isinstance(model, CallableTeacher) and not model.layers:
        raise ValueError(
            f"The teacher '{model.name}' has no layer '{path}': a function or a file has "
            "outputs but no inner layers. Use losses on the outputs, or pass the Keras "
            "model itself as the teacher."
        )
    return feature_shape(model, path)


def _brought_shape(features: Mapping[str, Any], path: str) -> tuple[Any, ...]:
    if path not in features:
        raise ValueError(
            f"The data contains the teacher's outputs, but not the feature '{path}'; its features "
            f"are: {', '.join(features) or 'none'}. Pass it: keras_kd.teachers.TaughtInputs("
            f"inputs, outputs, {{'{path}': feature}})."
        )
    return (None, *features[path].shape[1:])


def check_taught_outputs(taught: TaughtInputs, student: keras.Model, losses: list[Any]) -> None:
    """Refuse outputs that the data brings along and the losses cannot compare.

    Args:
        taught: A batch with the teacher's outputs.
        student: The student.
        losses: The distillation losses.

    Raises:
        ValueError: As `check_teacher`, or if top-k logits were made for another temperature.
        TypeError: If a loss cannot read top-k logits.
    """
    outputs, structure = taught.outputs, output_structure(student)
    if structure is None:
        structure = student(taught.inputs, training=False)
    whole = []
    for loss in losses:
        kept = [
            (part, output, at(structure, path))
            for part, path in compared_outputs([loss])
            for output in _parts_at(outputs, path)
            if isinstance(output, TopKLogits)
        ]
        for part, output, predicted in kept:
            _check_top_k(part, output, predicted)
        if not kept:
            whole.append(loss)
    check_shapes(outputs, structure, whole)
    _check_ends("student", last_activation(student), losses)
    _check_probabilities(None, outputs, (), whole)


def _check_top_k(loss: Any, teacher: TopKLogits, student: Any) -> None:
    if not isinstance(loss, SoftTargetsLoss):
        raise TypeError(top_k_message(loss))
    check_temperature(loss, teacher)
    loss.check_shapes(teacher, student)


def _parts_at(outputs: Any, path: Path) -> list[Any]:
    try:
        return [at(outputs, path)]
    except LookupError:
        return []


def check_first_outputs(teacher: Any, student: keras.Model, losses: list[Any], inputs: Any) -> None:
    """Run the teacher on a first batch, and the student where only that tells whether they fit.

    Raises:
        ValueError: As `check_teacher`, or if an output of the teacher is NaN or infinite.
    """
    if not compared_outputs(losses):
        return
    check = getattr(teacher, "check", None)
    if callable(check):
        check(inputs)
    teacher_outputs = teacher(inputs, training=False)
    for _, path in compared_outputs(losses):
        check_finite(
            _leaves_at(teacher_outputs, path),
            "the teacher's outputs on the first batch",
            "Check how the teacher's inputs are preprocessed, and its weights.",
        )
    activations = [last_activation(model) for model in (teacher, student)]
    if all(end is not None and None not in keras.tree.flatten(end) for end in activations):
        return
    student_outputs = student(inputs, training=False)
    check_shapes(teacher_outputs, student_outputs, losses)
    _check_probabilities(teacher, teacher_outputs, student_outputs, losses)


def _check_probabilities(model: Any, teacher: Any, student: Any, losses: list[Any]) -> None:
    # Some classes picked from a softmax do not sum to one.
    picked = isinstance(model, AdaptedTeacher) and any(
        activation in PROBABILITIES
        for activation in keras.tree.flatten(last_activation(model.teacher))
    )
    for part, path in compared_outputs(losses):
        reads_logits = _reads_logits(part)
        if reads_logits is None:
            continue
        for role, outputs in (("teacher", teacher), ("student", student)):
            for output in _leaves_at(outputs, path):
                values = keras.ops.convert_to_numpy(output)
                bounded = look_like_probabilities(values, each_unit=True)
                if not reads_logits and not bounded:
                    raise ValueError(_logits_message(role, part))
                # A student that is not trained yet may give a zero for everything.
                alone = role == "teacher" and isinstance(part, BinaryKLDivergence)
                sure = picked or (alone and values.size >= _ENOUGH_VALUES)
                probable = bounded if role == "teacher" and sure else _are_distributions(values)
                if reads_logits and probable:
                    raise ValueError(_softmax_message(role, "softmax", part))


# Logits of a trained model lie between 0 and 1 by chance, but not so many of them.
_ENOUGH_VALUES = 16


def _are_distributions(values: Any) -> bool:
    several = values.ndim > 1 and values.shape[-1] > 1
    return several and look_like_probabilities(values)


def check_layers(
    loss: Any, teacher: Any, student: Any, features: Mapping[str, Any] | None = None
) -> None:
    """Refuse a loss that names a layer that does not exist, or features it cannot compare.

    Args:
        loss: An element of `distillation_losses`.
        teacher: The teacher.
        student: The student.
        features: The teacher's features by the path of their layer, where the data brings them
            along and the teacher is not run. Defaults to `None`.

    Raises:
        ValueError: Naming the layers that exist, or the shapes.
    """
    hint = isinstance(loss, Hint)
    what = f"Hint '{loss.name}'" if hint else type(loss).__name__
    shapes: list[Any] = []
    for side, model in (("teacher", teacher), ("student", student)):
        for path in layer_paths_of([loss], side):
            try:
                if side == "teacher" and features is not None:
                    shapes.append(_brought_shape(features, path))
                else:
                    shapes.append(_shape_of(model, path))
            except ValueError as error:
                argument = f"{side}_layer" if hint else f"{side}_layer_name"
                raise ValueError(f"{what}, {argument}: {error}") from None
    if hint or len(shapes) != 2 or None in shapes:
        return
    if len(shapes[0]) != len(shapes[1]) or any(
        None not in (t, s) and t != s for t, s in zip(*(x[1:] for x in shapes), strict=True)
    ):
        raise ValueError(
            f"{what} compares features of equal shape, but the teacher's layer "
            f"'{loss.teacher_layer_name}' gives {shapes[0]} and the student's "
            f"'{loss.student_layer_name}' {shapes[1]}. Use keras_kd.Hint("
            f"'{loss.teacher_layer_name}', '{loss.student_layer_name}'), which projects the "
            "student's feature to the teacher's shape."
        )
