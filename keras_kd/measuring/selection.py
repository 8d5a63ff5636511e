"""Which output of a file is asked for, and what it gives."""

from __future__ import annotations

import numbers
from collections.abc import Sequence

from keras_kd.data.numpy_batches import safe_name
from keras_kd.litert.model_file import ModelFile
from keras_kd.system.arguments import is_number
from keras_kd.system.names import did_you_mean


def output_position(names: Sequence[str], output: int | str) -> int:
    """Return the position of an output given by name or position.

    Raises:
        ValueError: If there is no such output.
    """
    if isinstance(output, str):
        if safe_name(output) in names:
            return names.index(safe_name(output))
        if output in names:
            return names.index(output)
    elif is_number(output) and isinstance(output, numbers.Integral) and 0 <= output < len(names):
        return int(output)
    raise ValueError(
        f"`output` must be one of {names} or its position. Received: output={output!r}."
        f"{did_you_mean(str(output), names)}"
    )


# What an output passes through on its way out, and still lies in the same range.
_PASSED = (
    "CAST", "DEQUANTIZE", "EXPAND_DIMS", "QUANTIZE", "RESHAPE", "SLICE", "SQUEEZE",
    "STRIDED_SLICE", "TRANSPOSE",
)  # fmt: skip
_ENDS = {
    "LOGISTIC": "sigmoid",
    "RELU_0_TO_1": "sigmoid",
    "SOFTMAX": "softmax",
    "LOG_SOFTMAX": "linear",
    "TANH": "linear",
}
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def file_end(file: ModelFile, position: int) -> str | None:
    """Return what the operators of a file say of an output.

    Returns:
        As `keras_kd.models.probabilities.last_activation`: `"softmax"`, `"sigmoid"` or
        `"linear"`; `None` where the last operators do not tell.
    """
    operator = file.output_operator(position, through=_PASSED)
    if operator is None:
        return None
    if operator.name in _WEIGHTED and operator.options is not None:
        fused = operator.options.fusedActivationFunction
        return "linear" if fused == file.schema.ActivationFunctionType.NONE else None
    return _ENDS.get(operator.name)
