"""A distiller and its data, from the settings that `distill` and `compress` share."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_kd.cli.console import Console
from keras_kd.cli.model_files import LoadedModel
from keras_kd.cli.named import make_losses
from keras_kd.cli.preprocessing import (
    Preprocessing,
    begins_with_scaling,
    resolve_preprocessing,
    teachers_scale,
)
from keras_kd.cli.sources import ImageFolder, Source, open_source
from keras_kd.cli.task_data import (
    batches,
    check_classes,
    check_same_classes,
    open_validation,
    split_indices,
    training_of,
    trainings_of,
    warn_of_training_data,
)
from keras_kd.data.batches import PassOrder, shuffled_by_pass
from keras_kd.distilling.distiller import Distiller
from keras_kd.models.probabilities import PROBABILITIES, answers_each_unit, last_activation
from keras_kd.system.user_warning import warn_user

# What a training without these stages undoes.
_UNDONE = {"Prune": "zeros", "Cluster": "shared values", "QuantizeAware": "few bits"}


@dataclasses.dataclass
class TaskData:
    """Training and validation data for one model.

    Attributes:
        source: Where the training data come from.
        indices: Which examples of it are trained on.
        validation: Batches of the validation data, or `None`.
        preprocessing: How the model's input is made.
        class_names: The names of the classes, or `None`.
        trainings: The data of every training of the student, this one included.
    """

    source: Source
    indices: np.ndarray
    validation: Any
    preprocessing: Preprocessing
    class_names: list[str] | None
    trainings: list[dict[str, Any]]


def task_data(
    settings: Mapping[str, Any], teacher: LoadedModel, student: LoadedModel, console: Console
) -> TaskData:
    """Return the data that the settings name, for a student and its teacher.

    Raises:
        ValueError: If they do not fit the models, or each other.
    """
    source = open_source(settings["data"])
    for model in (teacher, student):
        check_classes(source, model.classes, model.path, model.notes.get("class_names"))
    preprocessing = resolve_preprocessing(
        student.input_shape,
        settings["scale"],
        settings["offset"],
        student.notes.get("preprocessing"),
        student.keras_model,
        source.integers,
    )
    size = settings["batch_size"]
    held_out, kept = source, None
    if settings["validation_data"] is not None:
        held_out = open_validation(settings["validation_data"])
        check_same_classes(source, held_out)
        indices, _ = split_indices(source.count, 0.0, settings["seed"])
        number = held_out.count
    else:
        indices, kept = split_indices(source.count, settings["validation_split"], settings["seed"])
        number = len(kept)
    validation = batches(held_out, kept, preprocessing, size) if number else None
    part = f":{source.split}" if source.split and ":" not in source.text else ""
    console.say(
        f"Data: {source.text}{part}: {len(indices):,} examples to train on, {number:,} for "
        f"validation, {student.classes} classes; input {preprocessing}"
    )
    now, before = training_of(settings), trainings_of(student.notes)
    trainings = [*(training for training in before if training != now), now]
    for notes in (student.notes, {"trained_on": [now]}):
        warn_of_training_data(student.path, notes, held_out, kept, settings)
    return TaskData(source, indices, validation, preprocessing, source.class_names, trainings)


def make_distiller(
    settings: Mapping[str, Any],
    teacher: LoadedModel,
    student: LoadedModel,
    preprocessing: Preprocessing,
) -> Distiller:
    """Return the distiller that the settings describe, not compiled.

    Raises:
        ValueError: If teacher and student do not fit each other, or a loss is not known.
    """
    if teacher.units != student.units:
        raise ValueError(
            f"The teacher '{teacher.path}' has {teacher.units} outputs and the student "
            f"'{student.path}' {student.units}: they must have the same classes."
        )
    names: list[Any] = [model.notes.get("class_names") for model in (teacher, student)]
    if None not in names and names[0] != names[1]:  # the data may have no names
        raise ValueError(
            f"The teacher '{teacher.path}' was trained on the classes {', '.join(names[0])}, but "
            f"the student '{student.path}' on {', '.join(names[1])}: they must be the same, in the "
            "same order."
        )
    end = _activation(student)
    binary = answers_each_unit(student.units, end)
    default = "binary_kl_divergence" if binary else "kl_divergence"
    losses, weights = make_losses(
        settings["loss"] or [default],
        settings["hint"] or [],
        settings["temperature"],
        from_logits=end not in PROBABILITIES,
    )
    return Distiller(
        teacher.keras_model,
        student.keras_model,
        losses,
        weights,
        student_loss_weight=settings["student_loss_weight"],
        teacher_inputs=_teacher_inputs(settings, teacher, student, preprocessing),
        teacher_outputs=_teacher_outputs(_activation(teacher), _activation(student)),
    )


def warn_of_lost_stages(student: LoadedModel, kept: Iterable[str] = ()) -> None:
    """Warn where a training undoes what stages of `compress` made of a student.

    Args:
        student: The student.
        kept: Names of the classes of stages whose work stays or is done again. Defaults to none.
    """
    records = getattr(student.model, "stages", ())
    made = [record.stage for record in records if record.outcome != "left out"]
    lost = [_UNDONE[name] for name in made if name in _UNDONE and name not in kept]
    if lost:
        warn_user(
            f"'{student.path}' was compressed, and this training does not keep its "
            f"{' and '.join(lost)}. Distill first, and give all stages to one `compress`."
        )


def _activation(model: LoadedModel) -> str | None:
    activations = keras.tree.flatten(last_activation(model.keras_model))
    return activations[0] if activations else None


def _teacher_outputs(teacher: str | None, student: str | None) -> Callable[[Any], Any] | None:
    """Return what makes the teacher's outputs of the student's kind: logits or probabilities."""
    import tensorflow as tf

    if teacher == "softmax" and student not in PROBABILITIES:
        # The logarithm of probabilities is logits: they differ by a number for each example.
        return lambda outputs: tf.math.log(tf.maximum(tf.cast(outputs, tf.float32), 1e-37))
    if teacher == "sigmoid" and student not in PROBABILITIES:

        def to_logit(outputs: Any) -> Any:
            outputs = tf.clip_by_value(tf.cast(outputs, tf.float32), 1e-7, 1 - 1e-7)
            return tf.math.log(outputs) - tf.math.log1p(-outputs)

        return to_logit
    if student in PROBABILITIES and teacher is not None and teacher not in PROBABILITIES:
        return tf.nn.softmax if student == "softmax" else tf.sigmoid
    return None


def _teacher_inputs(
    settings: Mapping[str, Any],
    teacher: LoadedModel,
    student: LoadedModel,
    ours: Preprocessing,
) -> Callable[[Any], Any] | None:
    """Return what makes the teacher's input of the student's, `None` where they are the same."""
    given = teachers_scale(settings)
    scale, offset = given or (None, None)
    stored = teacher.notes.get("preprocessing")
    if given is None and not stored:
        within = [begins_with_scaling(model.keras_model) for model in (teacher, student)]
        if within[0] != within[1]:
            one, other = (teacher, student) if within[0] else (student, teacher)
            raise ValueError(
                f"'{one.path}' scales its input itself and '{other.path}' does not: say what each "
                "takes, such as --scale 255 (the student takes 0..1) --teacher-scale 1 (the "
                "teacher takes 0..255)."
            )
        scale, offset = ours.scale, ours.offset
    theirs = resolve_preprocessing(
        teacher.input_shape, scale, offset, stored, teacher.keras_model, integers=False
    )
    if theirs == ours:
        return None
    rank = len(theirs.shape)
    if rank != len(ours.shape) or (rank != 3 and theirs.shape != ours.shape):
        raise ValueError(
            f"The teacher '{teacher.path}' takes inputs of shape {theirs.shape} and the student "
            f"'{student.path}' of shape {ours.shape}: they must be made of the same data."
        )
    if rank == 3 and theirs.shape[-1] > ours.shape[-1]:
        raise ValueError(
            f"The teacher '{teacher.path}' takes images in color and the student '{student.path}' "
            "takes gray ones, so that the teacher would not see the colors. Give the student "
            f"{theirs.shape[-1]} channels."
        )

    if rank == 3 and (theirs.shape[0] > ours.shape[0] or theirs.shape[1] > ours.shape[1]):
        warn_user(
            f"The teacher '{teacher.path}' takes images of {theirs.shape[:2]} and the student "
            f"'{student.path}' of {ours.shape[:2]}: the teacher sees the student's images, "
            "enlarged again, and is less accurate than on its own. Give a student of the teacher's "
            "size, or feed kd.Distiller with images of that size."
        )

    def adapted(inputs: Any) -> Any:
        import tensorflow as tf

        pixels = (inputs - ours.offset) * ours.scale
        if rank == 3:
            if theirs.shape[-1] < ours.shape[-1]:
                pixels = tf.image.rgb_to_grayscale(pixels)
            if theirs.shape[:2] != ours.shape[:2]:
                pixels = tf.image.resize(pixels, theirs.shape[:2], method="bilinear")
        return pixels / theirs.scale + theirs.offset

    return adapted


def compile_distiller(distiller: Distiller, student: LoadedModel, optimizer: Any) -> None:
    """Compile with the loss and the accuracy that fit the student's output."""
    if student.units == 1:
        threshold = 0.0 if _activation(student) == "linear" else 0.5  # as the loss's name is read
        metric: Any = keras.metrics.BinaryAccuracy(name="accuracy", threshold=threshold)
        loss = "binary_crossentropy"
    else:
        metric = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        loss = "sparse_categorical_crossentropy"
    distiller.compile(optimizer, loss=loss, metrics=[metric])


def training_batches(
    settings: Mapping[str, Any],
    data: TaskData,
    distiller: Distiller,
    folder: pathlib.Path,
    console: Console,
) -> PassOrder:
    """Return the batches to train on, with the teacher's outputs where they are to be cached."""
    import tensorflow as tf

    from keras_kd.teachers import cache

    size, count = settings["batch_size"], len(data.indices)
    if not settings["cache_teacher"]:
        parts = (data.source, data.indices, data.preprocessing, size)
        return PassOrder(lambda seed, first: batches(*parts, shuffle_seed=seed, first_pass=first))
    still = batches(data.source, data.indices, data.preprocessing, size)
    taught = cache(distiller, still, folder / "teacher_cache", verbose=not console.quiet).unbatch()

    def shuffled(seed: int, first_pass: int) -> tf.data.Dataset:
        examples = shuffled_by_pass(taught, count, min(count, 10_000), seed, first_pass)
        return examples.batch(size).prefetch(tf.data.AUTOTUNE)

    return PassOrder(shuffled)


@contextlib.contextmanager
def damaged_images_named(data: TaskData) -> Iterator[None]:
    """Name the image which cannot be decoded, where TensorFlow only reports that there is one."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        path = data.source.damaged() if isinstance(data.source, ImageFolder) else None
        if path is None:
            raise
        raise ValueError(
            f"The image '{path}' is damaged and cannot be decoded: remove or replace it."
        ) from error


def notes_of(settings: Mapping[str, Any], data: TaskData) -> dict[str, Any]:
    """Return what is to stand beside a trained model."""
    return {
        "format": "keras_kd.model 1",
        "class_names": data.class_names,
        "preprocessing": data.preprocessing.to_dict(),
        "data": settings["data"],
        "trained_on": data.trainings,
        "teacher": settings["teacher"],
    }
