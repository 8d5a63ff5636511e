"""What TensorFlow Lite for Microcontrollers can run: its operators, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from keras_kd.litert.model_file import Graph, Operator, Tensor

# TFLite's name -> the method of tflite::MicroMutableOpResolver that registers its kernel.
METHODS = {
    "ABS": "AddAbs", "ADD": "AddAdd", "ADD_N": "AddAddN", "ARG_MAX": "AddArgMax",
    "ARG_MIN": "AddArgMin", "ASSIGN_VARIABLE": "AddAssignVariable",
    "AVERAGE_POOL_2D": "AddAveragePool2D", "BATCH_MATMUL": "AddBatchMatMul",
    "BATCH_TO_SPACE_ND": "AddBatchToSpaceNd", "BROADCAST_ARGS": "AddBroadcastArgs",
    "BROADCAST_TO": "AddBroadcastTo", "CALL_ONCE": "AddCallOnce", "CAST": "AddCast",
    "CEIL": "AddCeil", "CONCATENATION": "AddConcatenation", "CONV_2D": "AddConv2D",
    "COS": "AddCos", "CUMSUM": "AddCumSum", "DEPTH_TO_SPACE": "AddDepthToSpace",
    "DEPTHWISE_CONV_2D": "AddDepthwiseConv2D", "DEQUANTIZE": "AddDequantize", "DIV": "AddDiv",
    "DYNAMIC_UPDATE_SLICE": "AddDynamicUpdateSlice", "ELU": "AddElu",
    "EMBEDDING_LOOKUP": "AddEmbeddingLookup", "EQUAL": "AddEqual", "EXP": "AddExp",
    "EXPAND_DIMS": "AddExpandDims", "FILL": "AddFill", "FLOOR": "AddFloor",
    "FLOOR_DIV": "AddFloorDiv", "FLOOR_MOD": "AddFloorMod",
    "FULLY_CONNECTED": "AddFullyConnected", "GATHER": "AddGather", "GATHER_ND": "AddGatherNd",
    "GREATER": "AddGreater", "GREATER_EQUAL": "AddGreaterEqual", "HARD_SWISH": "AddHardSwish",
    "IF": "AddIf", "L2_NORMALIZATION": "AddL2Normalization", "L2_POOL_2D": "AddL2Pool2D",
    "LEAKY_RELU": "AddLeakyRelu", "LESS": "AddLess", "LESS_EQUAL": "AddLessEqual",
    "LOG": "AddLog", "LOG_SOFTMAX": "AddLogSoftmax", "LOGICAL_AND": "AddLogicalAnd",
    "LOGICAL_NOT": "AddLogicalNot", "LOGICAL_OR": "AddLogicalOr", "LOGISTIC": "AddLogistic",
    "MAX_POOL_2D": "AddMaxPool2D", "MAXIMUM": "AddMaximum", "MEAN": "AddMean",
    "MINIMUM": "AddMinimum", "MIRROR_PAD": "AddMirrorPad", "MUL": "AddMul", "NEG": "AddNeg",
    "NOT_EQUAL": "AddNotEqual", "PACK": "AddPack", "PAD": "AddPad", "PADV2": "AddPadV2",
    "PRELU": "AddPrelu", "QUANTIZE": "AddQuantize", "READ_VARIABLE": "AddReadVariable",
    "REDUCE_ALL": "AddReduceAll", "REDUCE_MAX": "AddReduceMax", "REDUCE_MIN": "AddReduceMin",
    "RELU": "AddRelu", "RELU6": "AddRelu6", "RESHAPE": "AddReshape",
    "RESIZE_BILINEAR": "AddResizeBilinear",
    "RESIZE_NEAREST_NEIGHBOR": "AddResizeNearestNeighbor", "REVERSE_V2": "AddReverseV2",
    "ROUND": "AddRound", "RSQRT": "AddRsqrt", "SELECT_V2": "AddSelectV2", "SHAPE": "AddShape",
    "SIN": "AddSin", "SLICE": "AddSlice", "SOFTMAX": "AddSoftmax",
    "SPACE_TO_BATCH_ND": "AddSpaceToBatchNd", "SPACE_TO_DEPTH": "AddSpaceToDepth",
    "SPLIT": "AddSplit", "SPLIT_V": "AddSplitV", "SQRT": "AddSqrt", "SQUARE": "AddSquare",
    "SQUARED_DIFFERENCE": "AddSquaredDifference", "SQUEEZE": "AddSqueeze",
    "STRIDED_SLICE": "AddStridedSlice", "SUB": "AddSub", "SUM": "AddSum", "SVDF": "AddSvdf",
    "TANH": "AddTanh", "TRANSPOSE": "AddTranspose", "TRANSPOSE_CONV": "AddTransposeConv",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "AddUnidirectionalSequenceLSTM", "UNPACK": "AddUnpack",
    "VAR_HANDLE": "AddVarHandle", "WHILE": "AddWhile", "ZEROS_LIKE": "AddZerosLike",
}  # fmt: skip

# Custom operators that TensorFlow Lite for Microcontrollers brings kernels for.
CUSTOM_METHODS = {
    "CIRCULAR_BUFFER": "AddCircularBuffer",
    "TFLite_Detection_PostProcess": "AddDetectionPostprocess",
    "ethos-u": "AddEthosU",
}

# What it has a kernel for that gives other numbers than LiteRT's, and what to do about it.
_BATCHES = (
    "export dilated convolutions again with `batch_size=1`, which makes each of them one operator"
)
DIFFERENT = {
    "BATCH_TO_SPACE_ND": _BATCHES,
    "SPACE_TO_BATCH_ND": _BATCHES,
}

_HALF = ("FLOAT16", "BFLOAT16")
_WITH_WEIGHTS = (
    "BATCH_MATMUL", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "SVDF", "TRANSPOSE_CONV",
    "UNIDIRECTIONAL_SEQUENCE_LSTM",
)  # fmt: skip
_WITH_INT4 = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def resolver_calls(graphs: Sequence[Graph]) -> list[str]:
    """Return the calls that register every operator of a file, each once, in alphabetical order.

    Args:
        graphs: The file's graphs, which `refusal` found nothing against.
    """
    return sorted(
        {
            CUSTOM_METHODS[node.name] if node.custom else METHODS[node.name]
            for graph in graphs
            for node in graph.operators
        }
    )


def different_operators(graphs: Sequence[Graph]) -> dict[str, str]:
    """Return the operators that a microcontroller computes differently, and what to do.

    Args:
        graphs: The file's graphs.
    """
    names = {node.name for graph in graphs for node in graph.operators}
    return {name: cure for name, cure in DIFFERENT.items() if name in names}


def refusal(graphs: Sequence[Graph]) -> str | None:
    """Return the first reason for which a microcontroller cannot run a file, and what to change.

    Args:
        graphs: The file's graphs.

    Returns:
        A sentence to follow the file's name, or `None` if nothing is known against it.
    """
    for reason in (_kernels, _sparse, _half_precision, _open_shapes, _hybrid, _int4):
        found = reason(graphs)
        if found is not None:
            return found
    return None


def _nodes(graphs: Sequence[Graph]) -> Iterator[tuple[Operator, list[Tensor], list[Tensor]]]:
    for graph in graphs:
        for node in graph.operators:
            yield (
                node,
                [graph.tensors[i] for i in node.input_indices if i >= 0],
                [graph.tensors[i] for i in node.output_indices],
            )


def _tensors(graphs: Sequence[Graph]) -> Iterator[Tensor]:
    return (tensor for graph in graphs for tensor in graph.tensors)


def _listed(names: set[str] | list[str]) -> str:
    return ", ".join(sorted(set(names)))


def _kernels(graphs: Sequence[Graph]) -> str | None:
    nodes = [node for node, _, _ in _nodes(graphs)]
    if any(node.name == "DENSIFY" and not node.custom for node in nodes):
        return _SPARSE
    missing = [
        node.name for node in nodes if node.name not in (CUSTOM_METHODS if node.custom else METHODS)
    ]
    if not missing:
        return None
    return (
        f"uses {_listed(missing)}, for which TensorFlow Lite for Microcontrollers has no kernel. "
        "Replace the layers that they come from and export again."
    )


_SPARSE = (
    "stores weights in a sparse encoding, which TensorFlow Lite for Microcontrollers cannot read. "
    "Export with `sparse=False`."
)


def _sparse(graphs: Sequence[Graph]) -> str | None:
    return _SPARSE if any(tensor.sparse for tensor in _tensors(graphs)) else None


def _half_precision(graphs: Sequence[Graph]) -> str | None:
    if not any(tensor.kind in _HALF for tensor in _tensors(graphs)):
        return None
    return (
        "holds float16 numbers, which TensorFlow Lite for Microcontrollers cannot compute with. "
        'Export with `quantization="int8"` or `"float32"`.'
    )


def _open_shapes(graphs: Sequence[Graph]) -> str | None:
    model = graphs[0]
    for index in model.inputs:
        tensor = model.tensors[index]
        if any(position > 0 for position in tensor.open_dimensions):
            sizes = ", ".join("any" if size < 0 else str(size) for size in tensor.signature)
            return (
                f"takes an input '{tensor.name}' of shape ({sizes}), but a microcontroller needs "
                "fixed sizes. Give the model a fixed input shape and export again."
            )
    return None


def _hybrid(graphs: Sequence[Graph]) -> str | None:
    names = {
        node.name
        for node, inputs, _ in _nodes(graphs)
        if node.name in _WITH_WEIGHTS
        and inputs[0].kind == "FLOAT32"
        and any(t.constant and t.kind in ("INT8", "INT4", "INT2") for t in inputs[1:])
    }
    if not names:
        return None
    return (
        f"computes {_listed(names)} in float with integer weights (dynamic range quantization), "
        "which TensorFlow Lite for Microcontrollers has no kernels for. Export with "
        '`quantization="int8"` or `"float32"`.'
    )


def _int4(graphs: Sequence[Graph]) -> str | None:
    names = {
        node.name
        for node, inputs, _ in _nodes(graphs)
        for tensor in inputs
        if tensor.kind in ("INT2", "UINT4")
        or (tensor.kind == "INT4" and (node.name not in _WITH_INT4 or inputs[0].kind != "INT8"))
    }
    if not names:
        return None
    return (
        f"has weights of fewer than 8 bits in {_listed(names)}; TensorFlow Lite for "
        f"Microcontrollers takes 4-bit weights in {', '.join(_WITH_INT4)} with int8 activations "
        'only. Export with `quantization="int8"`.'
    )
