"""What TensorFlow's converter says when it fails, in words."""

from __future__ import annotations

import re

_GUIDE = "https://ai.google.dev/edge/litert/models/ops_compatibility"


def explain(error: Exception, output: str, flex: bool) -> str:
    """Say which operators and layers stand in the way of a conversion.

    Args:
        error: What the converter raised.
        output: What it printed.
        flex: Whether TensorFlow's own operators were allowed.
    """
    text = f"{error}\n{output}"
    if unknown := re.search(r"Empty min/max for tensor (\S+)", text):
        return (
            "The converter has no ranges of activations for the integer input "
            f"'{unknown.group(1)}', which it requires for 16-bit activations. Use "
            '`quantization="int8"`, or start the model after its Embedding.'
        )
    operators = sorted(set(re.findall(r"'tf\.(\w+)' op", text)) | set(_flex_names(text)))
    layers = named_layers(text)
    reason = "The model cannot be converted to TFLite"
    if not flex:
        reason += " with builtin operators"
    if operators:
        reason += f": TFLite has no builtin operator for {', '.join(operators)}"
    if layers:
        reason += f" (in {', '.join(layers[:5])})"
    advice = f". Replace it with operators that TFLite supports: {_GUIDE}"
    if operators and not flex:
        advice += " ; or pass `allow_flex=True` for a file that needs the Flex delegate to run"
    return f"{reason}{advice}\nThe converter said:\n{_shorten(str(error) or output)}"


def named_layers(text: str) -> list[str]:
    """Return the paths of the layers that the converter complains of."""
    layers = sorted(set(re.findall(r'"([^"@]+)@__inference_\w+"', text)))
    return [layer for layer in layers if "PartitionedCall" not in layer]


def _flex_names(text: str) -> list[str]:
    names = re.search(r"(?:TF Select|Flex) ops: ([\w, ]+)", text)
    return [name.strip() for name in names.group(1).split(",")] if names else []


def _shorten(text: str, limit: int = 4000) -> str:
    # The notes repeat, for every error, the functions around it and the whole graph.
    lines = text.strip().split("<unknown>:0: note: see current operation")[0].splitlines()
    kept = dict.fromkeys(line for line in lines if not line.startswith("<unknown>:0: note:"))
    short = "\n".join(kept)
    return short if len(short) <= limit else f"{short[:limit]} [...]"
