"""The losses on labels: which they are, and whether student, labels and data fit them."""

from __future__ import annotations

from typing import Any

import keras

from keras_kd.data.first_batch import (
    FirstBatch,
    check_batched,
    check_finite_data,
    check_inputs,
    validation_batch,
)
from keras_kd.data.labels import class_labels
from keras_kd.distilling.checks.labels import LabelRange
from keras_kd.models.graph import output_structure
from keras_kd.models.outputs import check_labels, output_names
from keras_kd.models.probabilities import (
    check_student_loss,
    crossentropy_of,
    last_activation,
    student_loss_for,
)
from keras_kd.models.structures import Path, arrange, at, leaves


def resolve_losses(loss: Any, student: keras.Model) -> Any:
    """Return the losses on labels, cross-entropies by name or function read as the student ends.

    Raises:
        ValueError: If a loss contradicts the student's last activation, or there are several for
            one output, of which Keras would compute the first alone.
    """
    outputs = output_structure(student)
    several = isinstance(loss, (list, tuple)) and len(loss) > 1
    if several and outputs is not None and not keras.tree.is_nested(outputs):
        raise ValueError(
            f"`loss` holds {len(loss)} losses, but the student has one output, which has one loss. "
            f"Received: loss={loss!r}. Write a function (y_true, y_pred) that returns their sum."
        )
    activations = last_activation(student)
    if loss is None or activations is None:
        one = loss is not None and not keras.tree.is_nested(loss)
        return student_loss_for(loss, None) if one else loss
    names = output_names(student)
    if not keras.tree.is_nested(loss):
        flat = keras.tree.flatten(activations)
        if len(set(map(str, flat))) == 1:
            return student_loss_for(loss, flat[0])
        given = isinstance(loss, keras.losses.Loss) or crossentropy_of(loss) is None
        if given and not isinstance(loss, str):
            return loss
        # One name or function for outputs that end differently is one loss for each of them.
        return keras.tree.map_structure(lambda end: student_loss_for(loss, end), activations)
    arranged = arrange(loss, output_structure(student), names, "loss")
    if arranged is loss:
        return _resolve(loss, activations)
    # It stays a dictionary: `loss_weights`, labels and metrics are keyed by the same names.
    losses = _resolve(arranged, activations)
    return dict(zip(names or [], losses if isinstance(losses, list) else [losses], strict=True))


def _resolve(loss: Any, activations: Any) -> Any:
    if loss is None:
        return None
    if isinstance(loss, dict) and isinstance(activations, dict):
        return {key: _resolve(part, activations.get(key)) for key, part in loss.items()}
    if isinstance(loss, (list, tuple)) and isinstance(activations, (list, tuple)):
        if len(loss) == len(activations):
            return type(loss)(map(_resolve, loss, activations))
        return loss
    if keras.tree.is_nested(loss) or keras.tree.is_nested(activations):
        return loss
    return student_loss_for(loss, activations)


def check_batch(batch: FirstBatch, student: keras.Model, losses: Any, weight: Any) -> None:
    """Refuse a batch of training data that a student cannot learn from.

    Args:
        batch: A first batch.
        student: The student.
        losses: The losses on labels, as `resolve_losses` returns them, or `None`.
        weight: The weight of these losses.

    Raises:
        ValueError: If these are single examples, a number is NaN or infinite, labels are missing
            or out of range, or the student's outputs on the batch contradict the losses.
    """
    check_batched(batch, student)
    check_finite_data(batch, student)
    labels = class_labels(batch.labels)
    if labels is None:
        require_labels(losses, weight, batch.inputs)
        return
    check_all_labels(losses, labels, student, batch.inputs)
    check_student_losses(losses, student, batch.inputs)


def check_student_losses(losses: Any, student: keras.Model, inputs: Any) -> None:
    """Check the losses on labels, on a first batch if the graph does not show the student's output.

    Args:
        losses: The losses on labels, or `None`.
        student: The student.
        inputs: A batch of inputs.

    Raises:
        ValueError: As `check_student_loss`.
    """
    ends = last_activation(student)
    if losses is None or (ends is not None and None not in keras.tree.flatten(ends)):
        return
    for loss, output, _ in _losses_on_labels(losses, student, student(inputs, training=False)):
        check_student_loss(loss, output)


def require_labels(losses: Any, weight: Any, inputs: Any = None) -> None:
    """Refuse data without labels where there are losses on labels that count.

    Args:
        losses: The losses on labels, or `None`.
        weight: Their weight.
        inputs: A batch of inputs, among which labels may be. Defaults to `None`.

    Raises:
        ValueError: If so.
    """
    if losses is not None and weight != 0:
        keys = list(inputs) if isinstance(inputs, dict) else []
        if "label" in keys:
            raise ValueError(
                f"The data gives dictionaries and no labels beside them. Received: keys {keys}. "
                "Pass pairs: dataset.map(lambda element: (element['image'], element['label'])), "
                "by your own keys, or load it with as_supervised=True."
            )
        raise ValueError(
            f"`student_loss_weight` is {weight}, but the data holds no labels. Pass labels `y`, "
            "or build the Distiller with student_loss_weight=0.0 to learn from the teacher alone."
        )


def check_validation(data: Any, student: keras.Model, losses: Any) -> None:
    """Refuse validation data on which an epoch would end in an error.

    Args:
        data: What `fit` takes as `validation_data`.
        student: The student.
        losses: The losses on labels, or `None`.

    Raises:
        ValueError: As `check_batch`; or if inputs are of a shape that the student does not take.
    """
    try:
        batch = validation_batch(data)
        if batch is None:
            return
        check_batched(batch, student)
        check_inputs(batch, student)
        check_finite_data(batch, student)
        if (labels := class_labels(batch.labels)) is not None:
            check_all_labels(losses, labels, student, batch.inputs)
    except ValueError as error:
        raise ValueError(f"In `validation_data`: {error}") from None


def check_all_labels(losses: Any, labels: Any, student: keras.Model, inputs: Any) -> None:
    """Refuse labels that the losses on labels cannot read.

    Args:
        losses: The losses on labels, or `None`.
        labels: Labels.
        student: The student.
        inputs: A batch of inputs, for students that are not functional.

    Raises:
        ValueError: As `check_labels`.
    """
    if losses is None:
        return
    for loss, output, path in _losses_on_labels(losses, student, _outputs_of(student, inputs)):
        try:
            label = at(labels, path, output_names(student)) if _nested(labels) else labels
        except (LookupError, TypeError):
            continue
        if label is not None and not _nested(label):
            check_labels(loss, label, _classes(output))


def label_ranges(losses: Any, student: keras.Model, inputs: Any) -> list[LabelRange]:
    """Return the class numbers that the losses read; the arguments are `check_all_labels`'s."""
    if losses is None:
        return []
    names, outputs = output_names(student), _outputs_of(student, inputs)
    return [
        LabelRange(path, names, _classes(output), loss.get_config().get("ignore_class"))
        for loss, output, path in _losses_on_labels(losses, student, outputs)
        if isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
        and _classes(output) is not None
    ]


def _losses_on_labels(
    losses: Any, student: keras.Model, outputs: Any
) -> list[tuple[Any, Any, Path]]:
    """Return the loss of each output that has one, with the output and its path."""
    losses = arrange(losses, outputs, output_names(student), "loss")
    found = []
    for output, path in leaves(outputs):
        try:
            loss = at(losses, path) if _nested(losses) else losses
        except (LookupError, TypeError):
            continue
        if loss is not None:
            found.append((loss, output, path))
    return found


def _outputs_of(student: keras.Model, inputs: Any) -> Any:
    outputs = output_structure(student)
    return student(inputs, training=False) if outputs is None else outputs


def _nested(structure: Any) -> bool:
    return keras.tree.is_nested(structure)


def _classes(output: Any) -> Any:
    return output.shape[-1] if len(output.shape) else None
