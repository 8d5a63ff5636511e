"""compress: the stages, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_kd.compression.batches import as_batches
from keras_kd.compression.compressed_model import CompressedModel
from keras_kd.compression.layer_record import already_pruned, layer_records
from keras_kd.compression.stage import Stage, StudentState
from keras_kd.compression.teaching import Teaching
from keras_kd.distiller import Distiller
from keras_kd.first_batch import first_batch
from keras_kd.objective import NO_TEACHER


def compress(
    distiller: Distiller,
    train: Any,
    validation_data: Any = None,
    *,
    stages: Sequence[Stage],
    verbose: Any = "auto",
) -> CompressedModel:
    """Compress a distilled student, the teacher still teaching in every stage.

    Works on a copy: the distiller and its student stay as they are. Every stage is checked
    before the first one trains.

    Args:
        distiller: A compiled `keras_kd.Distiller` whose student has been trained.
        train: Training data: a `tf.data.Dataset` of batches, a `keras.utils.PyDataset`, or a
            tuple of arrays `(x, y)`.
        validation_data: Validation data of the same kinds. Defaults to `None`.
        stages: The stages in order, such as `[Prune(0.75, epochs=4), QuantizeAware(epochs=2)]`.
        verbose: Verbosity of the training, as in `keras.Model.fit`. Defaults to `"auto"`.

    Returns:
        A `CompressedModel`.

    Raises:
        ValueError: If there is no stage, the order of stages makes no sense, a stage cannot
            treat the student, or the data set is empty.
        TypeError: If an argument is of the wrong kind.

    Example:

    ```python
    compressed = keras_kd.compress(
        distiller,
        train,
        validation_data=validation,
        stages=[keras_kd.Prune(0.75, epochs=4), keras_kd.QuantizeAware(epochs=2)],
    )
    print(compressed.evaluate(validation))
    ```
    """
    train = as_batches(train, "train", shuffle=True)
    if validation_data is not None:
        validation_data = as_batches(validation_data, "validation_data")
    example = first_batch(train)
    taught = None if example is None else example.taught
    stages = _check_arguments(distiller, stages, taught is not None)
    inputs = None if example is None else example.inputs
    if not distiller.student.built and inputs is not None:
        with distiller.distribute_strategy.scope():
            distiller.student(inputs, training=False)
    student = distiller.student
    preview = student
    for i, stage in enumerate(stages):
        stage.check_order(stages[:i])
        stage.check(preview, stages[:i])
        if i + 1 < len(stages):
            preview = stage.preview(preview)
    if distiller.objective.distils:
        with distiller.distribute_strategy.scope():
            distiller.objective.build(student, inputs, taught)

    with distiller.distribute_strategy.scope():
        copied = copy_model(student, inputs)
    state = StudentState(copied, pruned=already_pruned(student))
    teaching = Teaching(distiller, train, validation_data, verbose)
    for i, stage in enumerate(stages, start=1):
        if verbose:
            epochs = f"{stage.epochs} epoch{'' if stage.epochs == 1 else 's'}"
            print(f"Stage {i} of {len(stages)}: {type(stage).__name__}, {epochs}")
        stage.run(state, teaching)
    return CompressedModel(
        state.model,
        layer_records(student, state),
        state.history,
        state.quantization_aware,
        distiller.objective.student_loss if distiller._compile_loss is not None else None,
        teaching.metrics(),
    )


def _check_arguments(distiller: Any, stages: Any, taught: bool) -> list[Stage]:
    if not isinstance(distiller, Distiller):
        raise TypeError(
            "`compress` takes a keras_kd.Distiller, which knows the teacher, the student and the "
            f"losses, but received {type(distiller).__name__}."
        )
    if not distiller.compiled:
        raise ValueError(
            "`compress` needs a compiled Distiller: call distiller.compile(optimizer, loss=..., "
            "metrics=[...]) first."
        )
    if distiller.teacher is None and distiller.objective.distils and not taught:
        raise ValueError(NO_TEACHER)
    stages = [stages] if isinstance(stages, Stage) else list(stages or [])
    if not stages:
        raise ValueError(
            "`stages` is empty: there is nothing to do. Give at least one stage, such as "
            "stages=[keras_kd.Prune(0.75, epochs=4), keras_kd.QuantizeAware(epochs=2)]."
        )
    for stage in stages:
        if not isinstance(stage, Stage):
            raise TypeError(
                "`stages` takes stages such as keras_kd.Prune(0.75, epochs=4), but received "
                f"{stage!r}."
            )
    names = [stage.name for stage in stages]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"Two stages are named '{name}': the history could not tell them apart. Give one "
                f'another name: {type(stages[names.index(name)]).__name__}(..., name="{name}_2").'
            )
    return stages


def copy_model(model: keras.Model, inputs: Any = None) -> keras.Model:
    """Return a copy of a Keras 3 model with weights of its own.

    Args:
        model: A built model.
        inputs: A batch of inputs, which builds the copy of a subclassed model. Defaults to `None`.

    Raises:
        ValueError: If the model cannot be made again from its configuration.
    """
    try:
        if isinstance(model, keras.Sequential) or hasattr(model, "_nodes_by_depth"):
            copied = keras.models.clone_model(model)
        else:
            copied = type(model).from_config(model.get_config())
        if not copied.built or len(copied.weights) != len(model.weights):
            copied(inputs, training=False)
        copied.set_weights(model.get_weights())
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            f"The student '{model.name}' ({type(model).__name__}) cannot be copied, and `compress` "
            "leaves the one it was given as it is: give the class a `get_config` with the "
            f"arguments of its constructor. ({str(error).strip().splitlines()[0]})"
        ) from error
    return copied
