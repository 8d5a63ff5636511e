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
    """Give the signatures of a file and their graphs this order.

    The converter sorts them by name, and runtimes which know no signatures run the first graph.
    """
    graphs, model = file.signature_graphs(), file.model
    if len(keys) < 2:
        return
    # The graphs of signatures are not called by others, so they can change places.
    before = list(model.subgraphs)
    found = dict(zip(graphs, model.signatureDefs, strict=True))
    for place, key in zip(sorted(graphs.values()), keys, strict=True):
        model.subgraphs[place] = before[graphs[key]]
        found[key].subgraphIndex = place
    model.signatureDefs = [found[key] for key in keys]


def joined(files: Sequence[ModelFile]) -> ModelFile:
    """Return one file with the graphs and signatures of files that have one graph each.

    What is equal in them is stored once when it is packed.

    Args:
        files: The files, of which the first one is changed to hold the others.
    """
    first, *others = files
    model = first.model
    for file in others:
        buffers, codes = len(model.buffers), len(model.operatorCodes)
        (graph,), (definition,) = file.model.subgraphs, file.model.signatureDefs
        for tensor in graph.tensors:
            tensor.buffer += buffers
        for operator in graph.operators or ():
            operator.opcodeIndex += codes
        definition.subgraphIndex = len(model.subgraphs)
        model.subgraphs.append(graph)
        model.signatureDefs.append(definition)
        model.buffers += file.model.buffers
        model.operatorCodes += file.model.operatorCodes
    return first


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
