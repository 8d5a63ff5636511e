"""What exports refuse and warn of, in words: for themselves and for what is said before them."""

from __future__ import annotations

from collections.abc import Sequence

LOOKUPS = ("HashedCrossing", "Hashing", "IntegerLookup", "StringLookup", "TextVectorization")


def lookups(layers: Sequence[str]) -> str:
    """Return that layers look up words or numbers in tables.

    Args:
        layers: Names of the layers.
    """
    return (
        f"The layers {', '.join(repr(name) for name in layers[:5])} hash or look up their "
        "inputs, for which TFLite has no builtin operator. Apply them to the data, and start the "
        "model after them: keras.Input with the shape and type of their output."
    )


def missing_data(quantization: str) -> str:
    """Return that an export with integers needs data."""
    return (
        f'`quantization="{quantization}"` needs `representative_data` to find the range of '
        "every activation. Pass some training data: "
        f'export_tflite(model, path, "{quantization}", representative_data=train).'
    )


def trained_for_int8(quantization: str) -> str:
    """Return that a model with quantizers in its graph is exported in another format."""
    return (
        f'The model was trained for int8 quantization; with `quantization="{quantization}"` '
        'its quantized layers are written in int8 anyway. Use "int8".'
    )


def trained_not_for_int4() -> str:
    """Return that a model with quantizers in its graph cannot be exported in 4 bits."""
    return (
        "The model was trained for int8 quantization: its weights have steps of 8 bits, "
        'and `quantization="int4"` would store them as float. Use "int8", or export the model '
        "before it is quantized."
    )


def trained_for_8_bits() -> str:
    """Return that weights trained for 8 bits are stored in 4."""
    return (
        'The weights were trained for 8 bits, and `quantization="int4"` rounds them to 4. Train '
        'with keras_kd.QuantizeAware(weight_bits=4), or export with `quantization="int8"`.'
    )


def open_number_of_steps(quantization: str, layers: Sequence[str]) -> str:
    """Return that recurrent layers cannot be unrolled.

    Args:
        quantization: The format.
        layers: Names of the layers.
    """
    return (
        f'`quantization="{quantization}"` writes one copy of a recurrent cell per step, '
        "because the converter does not quantize inside loops, but the number of steps of "
        f"{', '.join(repr(name) for name in layers[:5])} is not known. Give the input a fixed "
        'number of steps: keras.Input((steps, features)), or export with `quantization="float32"`.'
    )


def several_in_16_bits(signatures: Sequence[str]) -> str:
    """Return that signatures in 16 bits cannot share state.

    Args:
        signatures: Their names.
    """
    return (
        "Several signatures in 16 bits cannot keep state or branch on a condition: each is "
        "converted alone. Received: quantization='int16x8', or a part of it in `exclude`, and "
        f'signatures {list(signatures)}. Use "int8", or export each signature to a file of its own.'
    )
