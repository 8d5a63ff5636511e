"""Building a cache: the teacher's one pass over the data."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import pathlib
import queue
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import keras
import tensorflow as tf
from tqdm.auto import tqdm

from keras_kd.caching.manifest import Manifest, Shard, file_crc32, refusal, shard_name
from keras_kd.caching.records import (
    ELEMENT,
    INPUTS,
    Leaf,
    encode,
    input_fingerprints,
    leaf_of,
    structure_to_json,
)
from keras_kd.caching.teacher_pass import TeacherPass
from keras_kd.system.files import atomic_path

_MOST_RECORDS = 4096  # of a shard, where the number of batches is not known
_SHARDS = 16  # at least, where it is known: what a killed build loses at most


class CacheBuilder:
    """Builds a cache, or resumes a killed build.

    Args:
        teacher_pass: The teacher.
        dataset: The dataset of batches.
        folder: The folder of the cache; it exists.
        manifest: The manifest; with the shards that are there already.
        views: How many times the dataset is drawn; its elements are stored where it is given.
            `None` draws it once and stores no elements.
        batch_size: Batches are put together for the teacher up to this number of samples.
        shard_bytes: Size of a shard.
        verbose: Whether to show progress.
    """

    def __init__(
        self,
        teacher_pass: TeacherPass,
        dataset: tf.data.Dataset,
        folder: pathlib.Path,
        manifest: Manifest,
        *,
        views: int | None,
        batch_size: int | None,
        shard_bytes: int,
        verbose: bool,
    ) -> None:
        self._pass = teacher_pass
        self._dataset = dataset.prefetch(2)
        self._folder = folder
        self._manifest = manifest
        self._views = views
        self._batch_size = 0 if teacher_pass.fixed_batch else batch_size or 0
        self._element_leaves: list[Leaf] = []
        batches = manifest.fingerprint["batches"]
        self._total = None if batches is None else batches * (views or 1)
        self._shard_bytes = shard_bytes
        self._shard_records = math.ceil(batches / _SHARDS) if batches else _MOST_RECORDS
        self._verbose = verbose

    def build(self) -> None:
        """Run the teacher over what is missing and write it.

        Raises:
            ValueError: If the dataset is empty, or is not the one that the present shards were
                made of.
        """
        manifest = self._manifest
        for leftover in self._folder.glob(".*.tfrecord"):
            if leftover.is_file() or leftover.is_symlink():  # of a link, the link itself
                leftover.unlink()
        stored = {leaf.key: leaf for leaf in manifest.leaves}
        self._pass.leaves = [leaf for key, leaf in stored.items() if not key.startswith(ELEMENT)]
        self._element_leaves = [leaf for key, leaf in stored.items() if key.startswith(ELEMENT)]
        progress = tqdm(
            total=self._total, desc="Caching the teacher", unit="batch", disable=not self._verbose
        )
        with (
            progress,
            RecordWriter(self._folder, manifest, self._shard_bytes, self._shard_records) as writer,
        ):
            for view in range(self._views or 1):
                batches = iter(self._dataset)
                if not self._skip(view, batches, progress):
                    batches = iter(self._dataset)  # other views than those of the killed build
                for group in self._groups(batches):
                    self._teach(view, group, writer)
                    progress.update(len(group))
                writer.end_view()
        for view in range(self._views or 1):
            if not manifest.batches(view):
                again = f" when it is read for view {view}" if view else ""
                raise ValueError(
                    f"The dataset holds no examples{again}, so there is nothing to cache. Check "
                    "the path, the split and the filters it was made with"
                    f"{', and that it can be read several times' if view else ''}."
                )
        manifest.complete = True
        manifest.write(self._folder)

    def _skip(self, view: int, batches: Iterator[Any], progress: Any) -> bool:
        """Draw the batches that are there already; return whether they are the same."""
        shards = [shard for shard in self._manifest.shards if shard.view == view]
        for shard in shards:
            if _inputs_of_next(batches, shard.records) == shard.inputs:
                progress.update(shard.records)
                continue
            if self._views is None:
                raise refusal(
                    self._folder,
                    f"its building was interrupted, and the dataset does not give the inputs of "
                    f"'{shard.file}' again",
                )
            if any(other.view > view for other in self._manifest.shards):
                # A view that is drawn again differs; the complete one stays.
                progress.update(sum(other.records for other in shards))
                for _ in batches:
                    pass
                return True
            for other in shards:
                self._manifest.shards.remove(other)
                (self._folder / other.file).unlink()
            self._manifest.write(self._folder)
            return False
        return True

    def _groups(self, batches: Iterator[Any]) -> Iterator[list[Any]]:
        """Put batches together that the teacher can see at once."""
        group: list[Any] = []
        samples, shapes = 0, None
        for element in batches:
            inputs = inputs_of(element)
            size, shape = samples_in(inputs), _shapes_in(inputs)
            if group and (shape is None or shape != shapes or samples + size > self._batch_size):
                yield group
                group, samples = [], 0
            group.append(element)
            samples, shapes = samples + size, shape
        if group:
            yield group

    def _teach(self, view: int, group: list[Any], writer: RecordWriter) -> None:
        inputs = [inputs_of(element) for element in group]
        merged = inputs[0]
        if len(inputs) > 1:
            merged = tf.nest.map_structure(lambda *parts: tf.concat(parts, axis=0), *inputs)
        tensors = self._pass(merged)
        self._manifest.outputs = structure_to_json(self._pass.outputs)
        self._manifest.features = structure_to_json(self._pass.features)
        elements = [self._element(element) for element in group]
        sizes = [samples_in(part) for part in inputs]
        writer.write(view, tensors, sizes, self._pass.leaves + self._element_leaves, elements)

    def _element(self, element: Any) -> dict[str, tf.Tensor]:
        if self._views is None:
            return {}
        flat = tf.nest.flatten(element, expand_composites=True)
        tensors = {f"{ELEMENT}{i}": tensor for i, tensor in enumerate(flat)}
        leaves = [leaf_of(key, tensor, tensor.dtype.name) for key, tensor in tensors.items()]
        if self._element_leaves:
            pairs = zip(self._element_leaves, leaves, strict=True)
            leaves = [old.merged(new) for old, new in pairs]
        self._element_leaves = leaves
        return tensors


def inputs_of(element: Any) -> Any:
    """Return the inputs of a batch `x`, `(x, y)` or `(x, y, sample_weight)`."""
    return keras.utils.unpack_x_y_sample_weight(element)[0]


def samples_in(inputs: Any) -> int:
    """Return the number of samples in a batch of inputs."""
    return int(keras.tree.flatten(inputs)[0].shape[0])


def _shapes_in(inputs: Any) -> list[Any] | None:
    flat = keras.tree.flatten(inputs)
    if not all(isinstance(tensor, tf.Tensor) for tensor in flat):
        return None  # ragged and sparse batches stay as they are
    return [tuple(tensor.shape[1:]) for tensor in flat]


def _inputs_of_next(batches: Iterator[Any], count: int) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for element in itertools.islice(batches, count):
        digest.update(input_fingerprints(inputs_of(element)).numpy().tobytes())
    return digest.hexdigest()


class RecordWriter:
    """Writes records into shards of limited size, and each whole shard into the manifest.

    A shard is written under a temporary name and moved into place; what a killed process leaves
    behind is never a part of a file under its final name.

    Args:
        folder: The folder of the cache.
        manifest: Its manifest, which may hold shards of an earlier, killed build.
        shard_bytes: A shard ends with the record that reaches this size.
        shard_records: A shard ends with this number of records at the latest.
    """

    def __init__(
        self, folder: pathlib.Path, manifest: Manifest, shard_bytes: int, shard_records: int
    ) -> None:
        self._folder = folder
        self._manifest = manifest
        self._shard_bytes = shard_bytes
        self._shard_records = shard_records
        self._files: contextlib.ExitStack | None = None
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=2)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="cache_writer", daemon=True)

    def __enter__(self) -> RecordWriter:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._error = self._error or error
        self._queue.put(None)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def write(
        self,
        view: int,
        tensors: dict[str, tf.Tensor],
        sizes: Sequence[int],
        leaves: Sequence[Leaf],
        elements: Sequence[dict[str, tf.Tensor]],
    ) -> None:
        """Write one record for each of several batches that the teacher saw at once.

        Args:
            view: The view that they belong to.
            tensors: What to store, by key, for all of them.
            sizes: The number of samples of each batch.
            leaves: The `Leaf` of each key.
            elements: Further tensors of each batch, by key.
        """
        if self._error is not None:
            raise self._error
        self._queue.put((view, tensors, sizes, leaves, elements))

    def end_view(self) -> None:
        """End the shard: a shard holds records of one view."""
        self._queue.put("end")

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is not None:
                continue
            try:
                if item == "end":
                    self._end_shard()
                else:
                    self._write(*item)
            except BaseException as error:
                self._error = error
        if self._files is not None:  # not finished: nothing is moved into place
            self._writer.close()
            self._files.__exit__(RuntimeError, RuntimeError("not finished"), None)

    def _write(self, view: int, tensors: Any, sizes: Any, leaves: Any, elements: Any) -> None:
        parts = {
            key: tf.split(tensor, sizes) if len(sizes) > 1 else [tensor]
            for key, tensor in tensors.items()
        }
        for i, element in enumerate(elements):
            record = {**{key: values[i] for key, values in parts.items()}, **element}
            content = encode(record)
            if self._files is None:
                self._begin_shard(view)
            self._writer.write(content)
            self._inputs.update(record[INPUTS].numpy().tobytes())
            self._bytes += len(content)
            self._records += 1
            self._manifest.leaves = list(leaves)
            if self._bytes >= self._shard_bytes or self._records >= self._shard_records:
                self._end_shard()

    def _begin_shard(self, view: int) -> None:
        self._view = view
        self._name = shard_name(len(self._manifest.shards))
        self._files = contextlib.ExitStack()
        self._path = self._files.enter_context(atomic_path(self._folder / self._name))
        self._writer = tf.io.TFRecordWriter(str(self._path))
        self._inputs = hashlib.blake2b(digest_size=16)
        self._bytes = self._records = 0

    def _end_shard(self) -> None:
        if self._files is None:
            return
        self._writer.close()
        size, crc32 = self._path.stat().st_size, file_crc32(self._path)
        self._files.close()
        self._files = None
        self._manifest.shards.append(
            Shard(self._name, self._view, self._records, size, crc32, self._inputs.hexdigest())
        )
        self._manifest.write(self._folder)
