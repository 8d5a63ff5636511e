"""Writing records into shards, in a thread beside the teacher."""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
import queue
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import tensorflow as tf

from keras_kd.caching.manifest import Manifest, Shard, file_crc32, shard_name
from keras_kd.caching.records import INPUTS, Leaf, encode
from keras_kd.system.files import atomic_path


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
