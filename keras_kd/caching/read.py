"""Reading a cache: a dataset of `(TaughtInputs, labels)`."""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import tensorflow as tf

from keras_kd.caching.manifest import NAME, Manifest, refusal
from keras_kd.caching.records import (
    ELEMENT,
    INPUTS,
    MASK,
    decode,
    input_fingerprints,
    structure_from_json,
)
from keras_kd.data.passes import pass_counter
from keras_kd.data.taught_inputs import TaughtInputs

_PARALLEL = 4  # fixed: what is read ahead must not grow with the data

ANOTHER_ORDER = (
    "the dataset does not give the inputs that the teacher saw: they were changed, reordered, "
    "batched differently or augmented at random. Give the dataset that the cache was built from, "
    "in the same order"
)


def read_cache(
    dataset: tf.data.Dataset,
    folder: pathlib.Path,
    manifest: Manifest,
    check_inputs: bool = True,
    adapted: bool = False,
) -> tf.data.Dataset:
    """Return the batches of a dataset with the teacher's outputs for them.

    Args:
        dataset: The dataset that the cache was built from.
        folder: The folder of the cache.
        manifest: Its complete manifest.
        check_inputs: Whether to compare the inputs of every batch with those the teacher saw.
            Defaults to `True`.
        adapted: Whether the outputs went through `teacher_outputs`. Defaults to `False`.
    """
    count = manifest.batches()
    exactly = tf.data.experimental.assert_cardinality(count)
    files = [str(folder / shard.file) for shard in manifest.shards]
    source, records = dataset.apply(exactly), tf.data.TFRecordDataset(files).apply(exactly)
    leaves = manifest.leaves
    if not check_inputs:
        leaves = [leaf for leaf in leaves if leaf.key != INPUTS]

    def attach(element: Any, record: tf.Tensor, number: tf.Tensor) -> Any:
        tensors = decode(record, leaves)
        if check_inputs:
            check = _check_same_inputs(folder, number, element, tensors[INPUTS])
            with tf.control_dependencies([check]):
                tensors = {key: tf.identity(tensor) for key, tensor in tensors.items()}
        return taught_element(element, tensors, manifest, adapted)

    # The dataset is asked first: it may go on where the records end.
    result = tf.data.Dataset.zip((source, records, tf.data.Dataset.range(count)))
    return _finished(result.map(attach, num_parallel_calls=_PARALLEL, deterministic=True))


def read_views(
    spec: Any, folder: pathlib.Path, manifest: Manifest, views: int, adapted: bool = False
) -> tf.data.Dataset:
    """Return a dataset that gives one view in each pass, in turn.

    A pass counts with its last batch: TensorFlow may read the batches behind a look at the first.

    Args:
        spec: Specification of the elements that were stored.
        folder: The folder of the cache.
        manifest: Its complete manifest.
        views: Number of views.
        adapted: Whether the outputs went through `teacher_outputs`. Defaults to `False`.
    """
    counts = tf.constant([manifest.batches(view) for view in range(views)], tf.int64)
    passes = pass_counter()

    def one_pass(_: tf.Tensor) -> tf.data.Dataset:
        return read_view(spec, folder, manifest, views, adapted, passes)

    def count_passes(number: tf.Tensor, element: Any) -> Any:
        last = tf.equal(number + 1, counts[tf.math.floormod(passes, views)])
        passes.assign_add(tf.cast(last, tf.int64))
        return element

    result = _finished(tf.data.Dataset.range(1).flat_map(one_pass))
    # Behind the prefetching, which would count what nobody has read yet.
    result = result.enumerate().map(count_passes)
    if len(set(counts.numpy())) == 1:
        result = result.apply(tf.data.experimental.assert_cardinality(int(counts[0])))
    return result


def read_view(
    spec: Any, folder: pathlib.Path, manifest: Manifest, views: int, adapted: bool, number: Any
) -> tf.data.Dataset:
    """Return the view of a pass.

    Args:
        spec: As for `read_views`, and so the next four.
        folder: The folder of the cache.
        manifest: Its complete manifest.
        views: Number of views.
        adapted: Whether the outputs went through `teacher_outputs`.
        number: Number of the pass, from 0; a tensor inside of a dataset. It may exceed `views`.
    """
    files = tf.constant(
        [
            "\n".join(str(folder / shard.file) for shard in manifest.shards if shard.view == view)
            for view in range(views)
        ]
    )

    def attach(record: tf.Tensor) -> Any:
        tensors = decode(record, manifest.leaves)
        return taught_element(stored_element(tensors, spec), tensors, manifest, adapted)

    names = tf.strings.split(files[tf.math.floormod(number, views)], "\n")
    records = tf.data.TFRecordDataset(names)
    return records.map(attach, num_parallel_calls=_PARALLEL, deterministic=True)


def taught_element(
    element: Any, tensors: dict[str, tf.Tensor], manifest: Manifest, adapted: bool
) -> Any:
    """Return a batch with the teacher's outputs beside its inputs."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(element)
    outputs = structure_from_json(manifest.outputs, tensors)
    features = structure_from_json(manifest.features, tensors)
    masks = {k.removeprefix(MASK): t for k, t in tensors.items() if k.startswith(MASK)}
    marks = tf.ones(tf.shape(keras.tree.flatten(outputs)[0])[:1], tf.bool) if adapted else ()
    taught = TaughtInputs(x, outputs, features, masks, marks)
    if y is None:
        return (taught,)
    return (taught, y) if sample_weight is None else (taught, y, sample_weight)


def stored_element(tensors: dict[str, tf.Tensor], spec: Any) -> Any:
    """Return the inputs and labels of a record that holds them."""
    flat = [tensor for key, tensor in tensors.items() if key.startswith(ELEMENT)]
    return tf.nest.pack_sequence_as(spec, flat, expand_composites=True)


def same_inputs(element: Any, stored: tf.Tensor) -> tf.Tensor:
    """Whether the inputs of a batch have these fingerprints, a boolean scalar."""
    x, _, _ = keras.utils.unpack_x_y_sample_weight(element)
    here = input_fingerprints(x)
    equal = tf.raw_ops.Equal(x=here, y=stored, incompatible_shape_error=False)
    return tf.logical_and(tf.equal(tf.size(here), tf.size(stored)), tf.reduce_all(equal))


def first_record(folder: pathlib.Path, manifest: Manifest) -> dict[str, tf.Tensor]:
    """Return the tensors of the first record.

    Raises:
        ValueError: If there is none, or it does not hold what the manifest says.
    """
    try:
        records = tf.data.TFRecordDataset(str(folder / manifest.shards[0].file))
        tensors = decode(next(iter(records)), manifest.leaves)
        for structure in (manifest.outputs, manifest.features):
            structure_from_json(structure, tensors)
        return tensors
    except (LookupError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise refusal(folder, f"its first record does not fit its {NAME} ({error})") from None
    except tf.errors.OpError as error:
        raise refusal(folder, f"its first record cannot be read ({error.message})") from None


def _check_same_inputs(
    folder: pathlib.Path, number: tf.Tensor, element: Any, stored: tf.Tensor
) -> Any:
    message = f"The cache in '{folder}' does not belong to this data: {ANOTHER_ORDER}. Batch:"
    return tf.debugging.Assert(same_inputs(element, stored), [message, number])


def _finished(dataset: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # By file, workers would read inputs and records that do not belong together.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return dataset.prefetch(2).with_options(options)
