"""compress: the stages, one after the other."""

from __future__ import annotations

import contextlib
import functools
import os
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_kd.compression.running.compressed_model import CompressedModel
from keras_kd.compression.running.drop_limit import check_limit
from keras_kd.compression.running.run_folder import RunFolder
from keras_kd.compression.running.run_plan import run_plan
from keras_kd.compression.running.stage_callbacks import stage_callbacks
from keras_kd.compression.running.stage_runs import StageRuns
from keras_kd.compression.running.teaching import Teaching
from keras_kd.compression.stages.layer_record import already_pruned
from keras_kd.compression.stages.order import check_order, check_stages
from keras_kd.compression.stages.stage import Stage, StudentState
from keras_kd.data.batches import (
    PassOrder,
    as_batches,
    held_out,
    refuse_endless,
    shuffled_batches,
)
from keras_kd.data.first_batch import first_batch
from keras_kd.data.taught_inputs import student_inputs
from keras_kd.distilling.distiller import Distiller
from keras_kd.distilling.objective import NO_TEACHER
from keras_kd.distilling.trainer import CompileArguments, Trainer, compile_arguments
from keras_kd.models.calls import name_operations, operation_names
from keras_kd.models.copying import check_layers_in_files, clone_layers, copy_state, uncompiled
from keras_kd.models.graph import flat_layers, is_graph
from keras_kd.system.arguments import number
from keras_kd.system.folder_lock import held_folder
from keras_kd.system.names import suggests_arguments
from keras_kd.system.shown_text import described


@suggests_arguments
def compress(
    distiller: Distiller | keras.Model,
    train: Any,
    validation_data: Any = None,
    *,
    stages: Stage | Sequence[Stage],
    validation_split: float = 0.0,
    epochs: int | None = None,
    path: str | os.PathLike[str] | None = None,
    max_drop: float | None = None,
    reference: str = "student",
    retries: int = 2,
    callbacks: Sequence[keras.callbacks.Callback]
    | Callable[[Stage], Sequence[keras.callbacks.Callback]]
    | None = None,
    verbose: Any = "auto",
) -> CompressedModel:
    """Compress a distilled student, with distillation in every stage, or any other trained model.

    Works on a copy: what is given stays as it is. Every stage is checked before the first one
    trains. The order is `Shrink`, `LowRank`, `Prune`, `Cluster`, `QuantizeAware`; any of them may
    be left out.

    With `path`, the result of each stage is kept as soon as it is done, and the same call resumes a
    killed run at the stage and epoch it had reached. It ends with the weights of an uninterrupted
    run if every pass over `train` gives the same batches, or `train` is arrays: a
    `tf.data.Dataset` that reshuffles in each pass starts with its first order again.

    Args:
        distiller: A compiled `keras_kd.Distiller` whose student has been trained, or a trained and
            compiled `keras.Model`, which has no teacher and learns from labels alone in every
            stage, with the loss and metrics it was compiled with.
        train: Training data: a `tf.data.Dataset` of batches, a `keras.utils.PyDataset`, or a
            tuple of arrays `(x, y)`.
        validation_data: Validation data of the same kinds. Defaults to `None`.
        stages: One stage, or several in order, such as
            `[Prune(0.75, epochs=4), QuantizeAware(epochs=2)]`. With `epochs=0` a stage only changes
            the student, without training.
        validation_split: Fraction of the arrays in `train`, their last examples, to hold out as
            `validation_data`, as in `keras.Model.fit`. Defaults to `0.0`.
        epochs: Number of epochs of every stage, in place of each stage's own. Defaults to `None`.
        path: The folder of the run, such as `"runs/student"`: `run.json` with the figures of every
            stage, and a model file for each. A folder is refused if it belongs to other models,
            data or stages, if a model in it was replaced, or while another process writes into it.
            Defaults to `None`: nothing is kept.
        max_drop: Points that the student may lose on the validation data, in hundredths of the
            first metric. A stage that loses more is tried again more gently, then left out.
            Defaults to `None`: no limit.
        reference: What a loss is measured against: `"student"`, as it was before compression, or
            `"teacher"`. Defaults to `"student"`.
        retries: How often a stage is tried again. Defaults to `2`.
        callbacks: A Keras callback or a list of them for the training of every stage, or a function
            `stage -> list`. Their `model` is a `Distiller` of that stage's student. With `path`,
            their state, such as the best epoch of `EarlyStopping`, is backed up with the training
            and kept from stage to stage. Defaults to `None`.
        verbose: Verbosity of the training, as in `keras.Model.fit`. Defaults to `"auto"`.

    Returns:
        A `CompressedModel`.

    Raises:
        ValueError: If `stages` is empty or in an invalid order, a stage cannot
            treat the student, the model is not compiled with a loss or overrides `train_step`,
            `test_step`, `compute_loss` or `compute_metrics`, a dataset is empty or endless, or
            `path` holds another run.
        OSError: If `path` cannot be written to, or another process is at work in it.
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
    compressed.summary()
    ```

    Without a teacher:

    ```python
    model.fit(x, y, epochs=10)
    compressed = keras_kd.compress(
        model, (x, y), stages=keras_kd.Prune(0.5, epochs=4), validation_split=0.1
    )
    ```
    """
    distiller = as_distiller(distiller)
    train, validation_data = held_out(train, validation_data, validation_split)
    # The first draw, so that lazy imports and caches of a process do not decide on it.
    seed = random.randrange(2**31)
    arrays = train if isinstance(train, (tuple, list)) else None
    order = train if isinstance(train, PassOrder) else None
    if arrays is not None:
        order = PassOrder(functools.partial(shuffled_batches, arrays))
    train = as_batches(train, "train", shuffle=True)
    if validation_data is not None:
        validation_data = as_batches(validation_data, "validation_data")
    refuse_endless(train, "train")
    refuse_endless(validation_data, "validation_data")
    example = first_batch(*keras.utils.unpack_x_y_sample_weight(arrays) if arrays else (train,))
    taught = None if example is None else example.taught
    stages = _check_arguments(distiller, stages, taught is not None)
    if epochs is not None:
        for stage in stages:
            number("epochs", epochs, least=stage.minimum_epochs, whole=True, owner=stage.name)
        stages = [stage.changed(epochs=epochs) for stage in stages]
    distiller.check_models()
    distiller.check_validation(validation_data)
    inputs = None if example is None else example.inputs
    with distiller.distribute_strategy.scope():
        distiller.check_data(example)
    student = distiller.student
    if reference == "teacher" and distiller.teacher is None:
        raise ValueError(
            '`reference="teacher"` needs a teacher. Received: a model without one. Pass a '
            "keras_kd.Distiller, or leave `reference` out."
        )
    limit = check_limit(
        max_drop, reference, retries, validation_data, distiller.compile_arguments.has_metrics
    )
    check_order(stages)
    watching = stage_callbacks(callbacks, stages)
    preview = student
    for i, stage in enumerate(stages):
        plan = stage.plan(preview, stages[:i])
        plan.check()
        if i + 1 < len(stages):
            preview = plan.preview()
    if distiller.objective.distils:
        with distiller.distribute_strategy.scope():
            distiller.objective.build(student, inputs, taught)

    def copied(model: keras.Model) -> keras.Model:
        with distiller.distribute_strategy.scope():
            return copy_model(model, inputs)

    with contextlib.ExitStack() as held:
        folder = None
        if path is not None:
            check_layers_in_files(student)
            held.enter_context(held_folder(path))
            arguments = {"max_drop": max_drop, "reference": reference, "retries": retries}
            folder_of = run_plan(distiller, stages, train, validation_data, arrays, **arguments)
            folder = RunFolder(path, folder_of, student, seed)
            seed = folder.seed
        teaching = Teaching(distiller, train, validation_data, verbose, order)
        runs = StageRuns(student, teaching, copied, folder, limit, reference, seed, watching)
        state = StudentState(copied(student), pruned=already_pruned(student))
        held.enter_context(_left_as_they_are(distiller.objective.layers))
        return runs.result(runs.run(stages, state))


@contextlib.contextmanager
def _left_as_they_are(layers: Sequence[Any]) -> Iterator[None]:
    """Put the weights of the distiller's projections back, which the stages train on."""
    before = [(layer, layer.get_weights()) for layer in layers]
    try:
        yield
    finally:
        for layer, weights in before:
            layer.set_weights(weights)


def as_distiller(model: Any) -> Distiller:
    """Return a distiller as it is, and a plain model as the student of one without a teacher.

    Raises:
        TypeError: If it is neither.
        ValueError: If it is not compiled, or a plain model has no loss, or has a training step,
            a loss or metrics of its own.
    """
    plain = isinstance(model, keras.Model) and not isinstance(model, Trainer)
    if not plain and not isinstance(model, Distiller):
        raise TypeError(
            "`compress` takes a keras_kd.Distiller or a compiled keras.Model. Received: "
            f"{type(model).__name__}."
        )
    given = compile_arguments(model) if model.compiled else CompileArguments()
    if not model.compiled or (plain and given.loss is None):
        raise ValueError(
            f"`compress` needs a {'model' if plain else 'Distiller'} that is compiled"
            f"{' with a loss' if plain else ''}. Received: {type(model).__name__} '{model.name}'. "
            "Call compile(optimizer, loss=..., metrics=[...]) first."
        )
    if not plain:
        return model
    _check_steps(model)
    given = given.fresh()
    with (
        contextlib.nullcontext()
        if model.distribute_strategy is None
        else (model.distribute_strategy.scope())
    ):
        distiller = Distiller(None, model, [], student_loss_weight=1.0)
        distiller.compile(
            "adam",  # never used: each stage has its own
            loss=given.loss,
            loss_weights=given.loss_weights,
            metrics=given.metrics,
            weighted_metrics=given.weighted_metrics,
            run_eagerly=model.run_eagerly,
            jit_compile=model.jit_compile,
        )
    return distiller


_STEPS = ("train_step", "test_step", "compute_loss", "compute_metrics")


def _check_steps(model: keras.Model) -> None:
    """Refuse a plain model that trains or measures in a way of its own: the stages would not."""
    own = [
        name
        for name in _STEPS
        if getattr(getattr(model, name), "__module__", "").split(".")[0]
        not in ("keras", "keras_kd")
    ]
    if own:
        raise ValueError(
            "The stages of `compress` train and measure with the loss and metrics of `compile` "
            f"alone, and would ignore {', '.join(f'`{name}`' for name in own)} of the model "
            f"'{model.name}'. Received: {type(model).__name__}. Put what it computes into "
            "compile(loss=..., metrics=[...]) or a layer's `add_loss`. If the compiled loss alone "
            "is what the stages should train with, pass "
            "keras_kd.Distiller(None, model, [], student_loss_weight=1.0), compiled with it."
        )


def _check_arguments(distiller: Distiller, stages: Any, taught: bool) -> list[Stage]:
    if distiller.teacher is None and distiller.objective.distils and not taught:
        raise ValueError(NO_TEACHER)
    return check_stages(stages)


def copy_model(model: keras.Model, inputs: Any = None) -> keras.Model:
    """Return a copy of a Keras 3 model with weights of its own.

    Args:
        model: A built model.
        inputs: A batch of inputs, which builds the copy of a subclassed model. Defaults to `None`.

    Raises:
        ValueError: If the model cannot be made again from its configuration.
    """
    copied = remade(model)
    try:
        if not copied.built or len(copied.weights) != len(model.weights):
            copied(inputs, training=False)
        if more := len(copied.weights) - len(model.weights):
            raise ValueError(
                f"made again from its configuration it has {abs(more)} weights "
                f"{'more' if more > 0 else 'less'}; a layer that two of its parts share is made "
                "for each of them, unless the constructor shares it"
            )
        copy_state(model, copied)
        name_operations(copied, operation_names(model))
    except Exception as error:  # a class of the user's may raise anything
        raise _cannot_be_copied(model, error) from error
    if inputs is not None:
        _check_outputs(model, copied, inputs)
    return copied


def _check_outputs(model: keras.Model, copied: keras.Model, inputs: Any) -> None:
    """Refuse a copy that computes something else, unless the model does so from call to call."""

    def outputs(part: keras.Model) -> list[np.ndarray]:
        flat = keras.tree.flatten(part(student_inputs(inputs), training=False))
        return [keras.ops.convert_to_numpy(x) for x in flat]

    states = [(v, v.numpy()) for part in (model, copied) for v in part.non_trainable_variables]
    first, ours = outputs(model), outputs(copied)
    if not _agree(first, ours) and _agree(first, outputs(model)):
        kinds = {type(layer) for layer in flat_layers(model)}
        own = sorted(k.__name__ for k in kinds if k.__module__.split(".")[0] != "keras")
        raise ValueError(
            f"A copy of the student '{model.name}' computes other outputs than the student, and "
            "`compress` leaves the one it was given as it is. A copy is made from configuration "
            "and weights: give your own classes a `get_config` with all arguments of the "
            "constructor, and keep what they compute with in `add_weight`. Received: "
            f"{', '.join(own) or type(model).__name__}."
        )
    for variable, value in states:
        variable.assign(value)


def _agree(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> bool:
    """Whether outputs are equal but for rounding."""
    return all(
        one.dtype.kind not in "fV"
        or np.allclose(
            one, other, rtol=1e-3, atol=1e-3 * np.abs(one).max(initial=0), equal_nan=True
        )
        for one, other in zip(ours, theirs, strict=True)
    )


def remade(model: keras.Model) -> keras.Model:
    """Return a model made again from the configuration of `model`, without its weights.

    Raises:
        ValueError: If it cannot be.
    """
    try:
        return _from_configuration(model)
    except Exception as error:  # a class of the user's may raise anything
        raise _cannot_be_copied(model, error) from error


def _cannot_be_copied(model: keras.Model, error: Exception) -> ValueError:
    return ValueError(
        f"The student '{model.name}' ({type(model).__name__}) cannot be copied, and `compress` "
        "leaves the one it was given as it is: give the class a `get_config` with the "
        f"arguments of its constructor. ({described(error)})"
    )


def _from_configuration(model: keras.Model) -> keras.Model:
    with uncompiled(model):
        if not is_graph(model):
            return type(model).from_config(model.get_config())
        if type(model).__module__.split(".")[0] != "keras":
            # A class of its own may share layers outside of the graph, which a clone would not.
            with contextlib.suppress(NotImplementedError, TypeError, ValueError):
                return type(model).from_config(model.get_config())
    return clone_layers(model)
