"""Numbers that float16 cannot hold: the operators that read them stay in float32."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from keras_kd.litert.mixing import computing_operators, partners, replace_operators
from keras_kd.litert.model_file import ModelFile, Tensor

_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST = float(np.finfo(np.float16).smallest_normal)  # smaller numbers have fewer digits


def keep_what_float16_loses(file: ModelFile, in_float32: Callable[[], ModelFile]) -> str | None:
    """Give operators of a float16 file their constants in float32 where float16 would change them.

    The converter clips numbers above 65,504. Where all numbers of a tensor are below 6e-5 they lose
    digits or become 0, such as the epsilon of a normalization: an input of zeros then gives NaN.

    Args:
        file: The file, which is changed.
        in_float32: Returns the float32 file of the same model. It is called only if there may be
            such numbers.

    Returns:
        A sentence on operators that have such numbers all the same, or `None`.
    """
    graphs = file.graphs()
    if not any(_may_be_lost(tensor) for graph in graphs for tensor in graph.tensors):
        return None
    other = in_float32()
    places = {
        j: operator.outputs[0]
        for j, operator in enumerate(computing_operators(other))
        if any(i >= 0 and _is_lost(other.tensor(operator.graph, i)) for i in operator.input_indices)
    }
    found = {i: j for i, j in partners(file, other).items() if j in places}
    replace_operators(file, other, found)
    missing = [place for j, place in places.items() if j not in found.values()]
    return None if not missing else (
        f"float16 cannot hold numbers of the model (in {', '.join(missing[:5])}): its largest is "
        '65,504, its smallest 6e-8. They were clipped. Use quantization="dynamic" or "float32".'
    )  # fmt: skip


def _may_be_lost(tensor: Tensor) -> bool:
    if tensor.kind != "FLOAT16" or tensor.data is None:
        return False
    largest = np.abs(tensor.data.view("<f2")).max()
    return bool(largest >= _LARGEST or largest < _SMALLEST)


def _is_lost(tensor: Tensor) -> bool:
    if tensor.kind != "FLOAT32" or tensor.data is None:
        return False
    largest = np.abs(tensor.data.view("<f4")).max()
    return bool(largest > _LARGEST if largest > 1 else 0 < largest < _SMALLEST)
