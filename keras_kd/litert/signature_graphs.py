"""The graphs of a file's signatures: their order, and files of one signature each joined."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator, Sequence

from keras_kd.litert.metadata import open_file
from keras_kd.litert.model_file import ModelFile


def order_signatures(file: ModelFile, keys: Sequence[str]) -> None:
    """Give the signatures of a file this order, and the first of them the file's first graph.

    The converter sorts them by name, and runtimes which know no signatures run the first graph.
    """
    graphs, model = file.signature_graphs(), file.model
    if len(keys) < 2:
        return
    # The graphs of signatures are not called by others, so two of them can change places.
    index = graphs[keys[0]]
    model.subgraphs[0], model.subgraphs[index] = model.subgraphs[index], model.subgraphs[0]
    moved = {0: index, index: 0}
    found = dict(zip(graphs, model.signatureDefs, strict=True))
    for definition in found.values():
        definition.subgraphIndex = moved.get(definition.subgraphIndex, definition.subgraphIndex)
    model.signatureDefs = [found[key] for key in keys]


@contextlib.contextmanager
def each_first(
    path: str | os.PathLike[str], keys: Sequence[str]
) -> Iterator[dict[str, str | os.PathLike[str]]]:
    """Give for every signature a file that runs it where no signature is named.

    Args:
        path: A file.
        keys: The names of its signatures, in its order.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = {keys[0]: path}
        for i, key in enumerate(keys[1:]):
            file = open_file(path)
            order_signatures(file, [key, *(other for other in keys if other != key)])
            paths[key] = pathlib.Path(folder) / f"{i}.tflite"
            pathlib.Path(paths[key]).write_bytes(file.packed())
        yield paths
