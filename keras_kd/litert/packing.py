"""Packing the objects of a TFLite file into bytes, whatever is equal stored once."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import flatbuffers
import numpy as np

# A flatbuffer's offsets end here; larger files keep their buffers behind it.
_LIMIT = 2**31 - 2**20
# The schema asks for it: kernels of microcontrollers read weights in blocks of so many bytes.
_ALIGNMENT = 16


def numbers(vector: Any) -> tuple[Any, ...]:
    """Return a vector of the schema, which may be missing, as a tuple of plain numbers."""
    return () if vector is None else tuple(np.asarray(vector).tolist())


def pack(
    model: Any,
    identifier: bytes,
    keep_names: bool = True,
    share_buffers: bool = True,
    limit: int = _LIMIT,
) -> bytes:
    """Return the bytes of a file.

    Equal vectors, texts and tables are stored once. What is computed does not change.

    Args:
        model: The file's content as an object of the schema (`ModelT`).
        identifier: The four bytes by which the format is known.
        keep_names: Whether the names of tensors are stored which are no inputs or outputs of the
            file or of a signature. Defaults to `True`.
        share_buffers: Whether equal buffers become one. Defaults to `True`.
        limit: Size in bytes from which on buffers are kept behind the flatbuffer. Defaults to the
            format's own.
    """
    if share_buffers:
        _share_buffers(model)
    held = [buffer for buffer in model.buffers if buffer.data is not None and len(buffer.data)]
    with contextlib.nullcontext() if keep_names else _without_names(model):
        if sum(len(buffer.data) for buffer in held) < limit:
            return _packed(model, identifier)
        arrays = [buffer.data for buffer in held]
        try:
            # Where they stand depends on the flatbuffer's size, which does not depend on it.
            for number, buffer in enumerate(held):
                buffer.data, buffer.offset, buffer.size = None, number + 2, len(arrays[number])
            parts = [bytearray(_padded(_packed(model, identifier)))]
            end = len(parts[0])
            for buffer, array in zip(held, arrays, strict=True):
                buffer.offset = end
                parts.append(bytearray(_padded(array.tobytes())))
                end += len(parts[-1])
            parts[0] = bytearray(_padded(_packed(model, identifier)))
            return b"".join(parts)
        finally:
            for buffer, array in zip(held, arrays, strict=True):
                buffer.data, buffer.offset, buffer.size = array, 0, 0


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % _ALIGNMENT)


def _packed(model: Any, identifier: bytes) -> bytes:
    builder = _SharingBuilder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=identifier)
    return bytes(builder.Output())


def _share_buffers(model: Any) -> None:
    """Let tensors and metadata with equal bytes use one buffer, and drop what nobody uses.

    The first buffer is the empty one, which stands for no bytes.
    """
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors or ()]
    users = [*tensors, *(model.metadata or ())]
    kept, known, places = model.buffers[:1], {}, {}
    for user in users:
        if user.buffer not in places:
            data = model.buffers[user.buffer].data if user.buffer < len(model.buffers) else None
            key = None if data is None or not len(data) else _digest(data)
            if key is not None and key not in known:
                known[key] = len(kept)
                kept.append(model.buffers[user.buffer])
            places[user.buffer] = 0 if key is None else known[key]
        user.buffer = places[user.buffer]
    model.buffers, model.metadataBuffer = kept, None


def _digest(data: Any) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(data).view(np.uint8).data).digest()


@contextlib.contextmanager
def _without_names(model: Any) -> Iterator[None]:
    """Take the names of inner tensors away for the duration of the block."""
    entered = {0, *(found.subgraphIndex for found in model.signatureDefs or ())}
    taken = []
    for number, graph in enumerate(model.subgraphs):
        ends = {*numbers(graph.inputs), *numbers(graph.outputs)} if number in entered else ()
        for index, tensor in enumerate(graph.tensors or ()):
            if index not in ends:
                taken.append((tensor, tensor.name))
                tensor.name = None
    try:
        yield
    finally:
        for tensor, name in taken:
            tensor.name = name


class _SharingBuilder(flatbuffers.Builder):
    """Writes a vector, a text or a table that is already there only once.

    What was written of it is taken back by moving the head.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._known: dict[Any, int] = {}
        self._fields: list[Any] | None = None  # of the table or vector that is being written
        self._before = self._start = 0

    def _take_back(self) -> None:
        self.head = len(self.Bytes) - self._before

    def CreateString(self, s: Any, encoding: str = "utf-8", errors: str = "strict") -> int:
        """Write a text."""
        text = s.encode(encoding, errors) if isinstance(s, str) else bytes(s)
        if text not in self._known:
            self._known[text] = super().CreateString(text)
        return self._known[text]

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> int:
        """Begin a vector."""
        alignment = _ALIGNMENT if elemSize == 1 else alignment
        self._before, self._fields = self.Offset(), []
        self._vector = elemSize, alignment, numElems
        self._start = super().StartVector(elemSize, numElems, alignment)
        return self._start

    def EndVector(self, numElems: int | None = None) -> int:
        """End a vector."""
        fields, self._fields = self._fields, None
        offset: int = super().EndVector(numElems)
        if fields is None:  # a text, which does not begin with StartVector
            return offset
        # References are relative: they are compared by where they lead to.
        fields = fields or [_digest(self.Bytes[self.head : len(self.Bytes) - self._start])]
        found = self._known.setdefault(("vector", *self._vector, *fields), offset)
        if found != offset:
            self._take_back()
        return found

    def PrependUOffsetTRelative(self, off: int) -> None:
        """Write a reference."""
        if self._fields is not None:
            self._fields.append(off)
        super().PrependUOffsetTRelative(off)

    def StartObject(self, numfields: int) -> None:
        """Begin a table."""
        self._before, self._fields = self.Offset(), ["table", numfields]
        super().StartObject(numfields)

    def PrependSlot(self, flags: Any, o: int, x: Any, d: Any) -> None:
        """Write a field."""
        if x != d and self._fields is not None:
            self._fields.append((o, flags.bytewidth, repr(x)))
        super().PrependSlot(flags, o, x, d)

    def PrependUOffsetTRelativeSlot(self, o: int, x: int, d: int) -> None:
        """Write a field that is a reference."""
        if self._fields is not None:
            self._fields.append((o, "reference"))
        super().PrependUOffsetTRelativeSlot(o, x, d)

    def EndObject(self) -> int:
        """End a table."""
        fields, self._fields = self._fields, None
        found = self._known.get(key := tuple(fields or ()))
        if found is None:
            found = self._known[key] = super().EndObject()
        else:
            # Before its table of fields is written, which others may then refer to.
            self.nested, self.current_vtable = False, None
            self._take_back()
        return found
