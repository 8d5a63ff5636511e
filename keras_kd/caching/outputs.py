"""cache: the teacher runs once; its outputs are read from files in every later epoch."""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
import tensorflow as tf

from keras_kd.caching.build import CacheBuilder, inputs_of
from keras_kd.caching.checks import (
    check_batched,
    check_deterministic,
    check_first_batch,
    difference,
    fingerprint,
    warn_of_equal_views,
)
from keras_kd.caching.manifest import (
    NAME,
    Manifest,
    check_shards,
    read_manifest,
    refusal,
)
from keras_kd.caching.read import read_cache, read_view, read_views
from keras_kd.caching.teacher_pass import TeacherPass
from keras_kd.data.numpy_batches import is_endless
from keras_kd.data.taught_inputs import TaughtInputs
from keras_kd.distilling.loss_values import layer_paths_of
from keras_kd.models.weights import check_finite_weights
from keras_kd.system.arguments import number
from keras_kd.system.files import check_writable
from keras_kd.system.folder_lock import held_folder
from keras_kd.system.names import one_of
from keras_kd.teachers.adapted_teacher import AdaptedTeacher
from keras_kd.teachers.callable_teacher import as_teacher


def cache(
    teacher: Any,
    dataset: Any,
    path: str | os.PathLike[str],
    *,
    layers: Sequence[Any] = (),
    dtype: Literal["float32", "float16"] = "float32",
    top_k: int | None = None,
    temperature: float | None = None,
    views: int | None = None,
    batch_size: int | None = 256,
    shard_megabytes: float = 64,
    check_inputs: bool = True,
    check_files: bool = True,
    verbose: bool = True,
) -> tf.data.Dataset:
    """Run the teacher once over a dataset, and return the dataset with its outputs.

    The first call runs the teacher, in large batches and with progress, and writes its outputs
    into `path`. Rerun a killed call to resume it. Later calls open the files, and run the teacher
    on a few samples only, to check that it is the same one, including its code. Outputs are read
    batch by batch, however large the data.

    The inputs are not stored: they come from `dataset`, which must give the same batches in every
    pass. Shuffle after the cache: `taught.unbatch().shuffle(10_000).batch(64)`. Random augmentation
    would pair one image with the teacher's outputs for another, and is refused. Two forms work.
    With `views=N`, the augmented inputs and labels of `N` epochs are stored with the outputs, and
    the epochs of `fit` read them in turn. Or the augmentation is seeded by the example
    (`tf.image.stateless_*` with its index), and so is the same in every pass.

    Args:
        teacher: A `keras.Model`, another callable on tensors such as an `Ensemble`, or a
            `Distiller`, whose teacher and hinted layers are taken.
        dataset: A `tf.data.Dataset` of batches `x`, `(x, y)` or `(x, y, sample_weight)`, or a
            tuple of arrays `(x, y)`, which is cut into batches of 32. Its elements may be nested.
        path: Folder of the cache; on a file system that several workers share, one of them
            builds it while the others wait.
        layers: What to store for hints: paths of teacher layers (`"backbone/block2_out"`), or
            hints and losses, whose teacher layers are taken. Defaults to none.
        dtype: How floating outputs and features are stored, `"float32"` or `"float16"`; they are
            read as float32. Outputs that the teacher's graph shows to be probabilities stay
            float32: float16 would round many of them to 0 or 1. Defaults to `"float32"`.
        top_k: Store the `top_k` largest logits of each output and the mass of the others, as
            `keras_kd.losses.TopKLogits`. Of a softmax the logarithms are kept. Defaults to `None`,
            all logits.
        temperature: With `top_k`, the temperature of the loss that will read them.
        views: Store the inputs and labels of this number of epochs too; the dataset may then be
            shuffled and augmented at random. Such data differs in every pass, so an existing cache
            is compared with `dataset` by shapes and number of batches only. Use another `path` for
            other data. A pass counts with its last batch, so that `take(n)` stays
            at one view. Views of equal inputs cause a warning. Defaults to `None`.
        batch_size: Batches of the dataset are put together for the teacher up to this number of
            samples. `None` gives them as they come. Defaults to `256`.
        shard_megabytes: Size of the files. Defaults to `64`.
        check_inputs: Whether every batch that is read is compared with the inputs the teacher
            saw, by a hash per sample. Defaults to `True`.
        check_files: Whether the checksums of all files are compared at opening, about 1 to 5 GB a
            second. Sizes always are. Defaults to `True`.
        verbose: Whether to show progress. Defaults to `True`.

    Returns:
        A `tf.data.Dataset` of `(TaughtInputs, y)`, with `sample_weight` where there is one, in the
        batches of `dataset`. `Distiller.fit`, `evaluate` and `compress` take it.

    Raises:
        ValueError: If the dataset is random or empty, an argument makes no sense, a logit or
            probability does not fit into float16, `top_k` would keep probabilities, or what is in
            `path` was made by another teacher, of other data, with other arguments, or was
            altered. Nothing is overwritten.
        OSError: If `path` cannot be written to.
        tf.errors.InvalidArgumentError: While reading, if a later batch is not the one that the
            teacher saw.

    Example:

    ```python
    taught = keras_kd.teachers.cache(
        teacher, train, "caches/resnet50", layers=["block4_out"], dtype="float16"
    )
    distiller.fit(taught.shuffle(100), validation_data=validation, epochs=50)
    ```
    """
    teacher, layers = _teacher_and_layers(teacher, layers)
    adapted = _is_adapted(teacher)
    check_finite_weights(teacher, "teacher")
    _check_arguments(dtype, top_k, temperature, views, batch_size, shard_megabytes)
    dataset = _as_dataset(dataset)
    check_batched(teacher, inputs_of(dataset.element_spec))
    folder = pathlib.Path(path)
    print_of = fingerprint(
        teacher,
        dataset,
        layers=layers,
        dtype=dtype,
        top_k=top_k,
        temperature=temperature,
        views=views,
    )
    teacher_pass = TeacherPass(
        teacher,
        inputs_of(dataset.element_spec),
        layers=layers,
        dtype=dtype,
        top_k=top_k,
        temperature=temperature,
    )
    manifest = _read(folder, print_of)
    if manifest is None or not manifest.complete:
        check_writable(folder / NAME)
        if views is None:
            check_deterministic(dataset)
        waiting = f"Another process builds the cache in '{folder}': waiting for it."
        with held_folder(folder, wait_for=waiting):
            # Another process may have built it meanwhile.
            manifest = _read(folder, print_of) or Manifest(print_of)
            if not manifest.complete:
                if manifest.shards:
                    check_shards(folder, manifest)
                    check_first_batch(folder, manifest, dataset, teacher_pass)
                manifest.write(folder)
                CacheBuilder(
                    teacher_pass,
                    dataset,
                    folder,
                    manifest,
                    views=views,
                    batch_size=batch_size,
                    shard_bytes=int(shard_megabytes * 1e6),
                    verbose=verbose,
                ).build()
    else:
        check_shards(folder, manifest, check_files)
        check_first_batch(folder, manifest, dataset, teacher_pass)
    if views is not None:
        warn_of_equal_views(folder, manifest)
        return read_views(dataset.element_spec, folder, manifest, views, adapted)
    return read_cache(dataset, folder, manifest, check_inputs, adapted)


def cached_views(
    teacher: Any,
    dataset: tf.data.Dataset,
    path: str | os.PathLike[str],
    views: int,
    *,
    layers: Sequence[Any] = (),
    verbose: bool = True,
) -> Callable[[Any], tf.data.Dataset]:
    """Run the teacher once over several passes, as `cache` with `views`, which one may choose.

    Args:
        teacher: As for `cache`, and so the others.
        dataset: The dataset.
        path: Folder of the cache.
        views: Number of passes to store.
        layers: What to store for hints.
        verbose: Whether to show progress.

    Returns:
        A function that returns the batches of a pass by its number, which may be a tensor.
    """
    cache(teacher, dataset, path, layers=layers, views=views, verbose=verbose)
    folder = pathlib.Path(path)
    adapted = _is_adapted(_teacher_and_layers(teacher, layers)[0])
    manifest: Any = read_manifest(folder)  # which is there now
    return functools.partial(read_view, dataset.element_spec, folder, manifest, views, adapted)


def _is_adapted(teacher: Any) -> bool:
    return isinstance(teacher, AdaptedTeacher) and teacher.outputs_function is not None


def _read(folder: pathlib.Path, asked: dict[str, Any]) -> Manifest | None:
    manifest = read_manifest(folder)
    if manifest is not None:
        try:
            reason = difference(manifest.fingerprint, asked)
        except (KeyError, TypeError, AttributeError) as error:
            raise refusal(folder, f"its {NAME} lacks its fingerprint ({error})") from None
        if reason is not None:
            raise refusal(folder, reason)
    return manifest


def _teacher_and_layers(teacher: Any, layers: Sequence[Any]) -> tuple[Any, list[str]]:
    if isinstance(layers, str):
        layers = [layers]
    wanted = [*layers]
    # A Distiller; its module imports this package, so it cannot be named here.
    objective = getattr(teacher, "objective", None)
    if objective is not None and hasattr(objective, "distillation_losses"):
        if objective.teacher is None:
            raise ValueError(
                "The Distiller has no teacher to cache: set `distiller.teacher` first."
            )
        wanted += objective.distillation_losses
        teacher = objective.teacher
    paths: list[str] = []
    for layer in wanted:
        paths += [layer] if isinstance(layer, str) else layer_paths_of([layer], "teacher")
    return as_teacher(teacher), list(dict.fromkeys(paths))


def _check_arguments(
    dtype: Any, top_k: Any, temperature: Any, views: Any, batch_size: Any, size: Any
) -> None:
    one_of("dtype", dtype, ("float32", "float16"))
    for name, value in (("top_k", top_k), ("views", views), ("batch_size", batch_size)):
        number(name, value, least=1, whole=True, optional=True)
    number("shard_megabytes", size, above=0)
    if top_k is not None:
        if temperature is None:
            raise ValueError(
                f"`top_k={top_k}` needs the temperature of the loss that will read the logits: "
                "the mass of the others depends on it. Pass temperature=4.0 for "
                "keras_kd.losses.KLDivergence(temperature=4.0)."
            )
        number("temperature", temperature, above=0)
    elif temperature is not None:
        raise ValueError(
            "`temperature` is of use with `top_k` alone: whole logits serve every temperature. "
            "Leave it out, or pass top_k=..."
        )


def _as_dataset(dataset: Any) -> tf.data.Dataset:
    if isinstance(dataset, (tuple, list)) and len(dataset) in (2, 3):
        dataset = tf.data.Dataset.from_tensor_slices(tuple(dataset)).batch(32)
    if not isinstance(dataset, tf.data.Dataset):
        raise TypeError(
            "`dataset` must be a tf.data.Dataset of batches or a tuple of arrays (x, y). "
            f"Received: {type(dataset).__name__}."
        )
    if is_endless(dataset):
        raise ValueError(
            "The dataset is infinite, so a pass over it never ends. Put `repeat()` after the "
            "cache: cache(teacher, dataset, path).repeat()."
        )
    spec = keras.utils.unpack_x_y_sample_weight(dataset.element_spec)[0]
    if isinstance(spec, TaughtInputs):
        raise ValueError(
            "The dataset brings a teacher's outputs along already. Give the dataset that they "
            "were made of."
        )
    return dataset
