"""The order of a file's inputs, outputs and signatures, which the converter sorts by name."""

from __future__ import annotations

from collections.abc import Sequence

from keras_kd.litert.model_file import ModelFile


def order_inputs_and_outputs(
    content: bytes, inputs: Sequence[str], outputs: Sequence[str], key: str | None = None
) -> bytes:
    """Give a file's inputs and outputs the order of the model which it was made from.

    The converter sorts them by name, and runtimes address them by position. Only the order of the
    indices in the graph's lists is changed; the file keeps its length and everything else.

    Args:
        content: A TFLite file's bytes.
        inputs: The signature's input names in the wanted order.
        outputs: The signature's output names in the wanted order.
        key: The signature's name. Defaults to `None`: that of the file's first graph.

    Returns:
        The changed bytes, or `content` itself if the file has no signature with these names.
    """
    changed = bytearray(content)
    file = ModelFile(changed)
    named_inputs, named_outputs = file.signature(key)
    graph = file._model.Subgraphs(0 if key is None else file.signature_graphs().get(key, 0))
    for names, named, vector in (
        (inputs, named_inputs, graph.InputsAsNumpy()),
        (outputs, named_outputs, graph.OutputsAsNumpy()),
    ):
        if set(names) != set(named):
            return content
        order = [named[name] for name in names]
        if sorted(order) != sorted(vector.tolist()):  # one tensor under two names, or none
            return content
        vector[:] = order
    return bytes(changed)


def first_graph_first(content: bytes, keys: Sequence[str]) -> bytes:
    """Give the first of several signatures the file's first graph.

    The converter sorts signatures, and runtimes which know no signatures run the first graph.

    Args:
        content: A TFLite file's bytes.
        keys: The signatures' names in the wanted order.

    Returns:
        The changed bytes, or `content` itself if the order is right.
    """
    graphs = ModelFile(content).signature_graphs()
    if len(keys) < 2 or (graphs[keys[0]] == 0 and list(graphs) == list(keys)):
        return content
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(content)
    # The graphs of signatures are not called by others, so two of them can change places.
    index = graphs[keys[0]]
    model.subgraphs[0], model.subgraphs[index] = model.subgraphs[index], model.subgraphs[0]
    moved = {0: index, index: 0}
    for definition in model.signatureDefs:
        old = definition.subgraphIndex
        definition.subgraphIndex = moved.get(old, old)
    model.signatureDefs.sort(key=lambda d: list(keys).index(bytes(d.signatureKey).decode()))
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))
