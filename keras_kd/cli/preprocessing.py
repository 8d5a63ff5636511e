"""Preprocessing: how a model's input is made of an image; the same in training and measuring."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import click

# Tells a stored preprocessing of this form from those that were written by hand.
_FORMULA = "pixel / scale + offset"


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """`input = pixel / scale + offset`, after the image has the size and colors of the input.

    Attributes:
        scale: What pixels are divided by.
        offset: What is then added.
        shape: The shape of the input without the batch: `(height, width, channels)` for images.
        resize: How images of another size are resized, `"bilinear"` (without antialiasing).
    """

    scale: float
    offset: float
    shape: tuple[int, ...]
    resize: str = "bilinear"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it, with a sentence for people."""
        values = {**dataclasses.asdict(self), "shape": list(self.shape)}
        return {"formula": _FORMULA, **values, "description": str(self)}

    def __str__(self) -> str:
        """Return it in a few words."""
        size = "×".join(str(size) for size in self.shape)
        offset = f" {'+' if self.offset > 0 else '−'} {abs(self.offset):g}" if self.offset else ""
        value = "pixel" if self.scale == 1.0 else f"pixel / {self.scale:g}"
        return f"{size}, {value}{offset}"

    def __call__(self, image: Any, label: Any) -> tuple[Any, Any]:
        """Return the model's input for one image, and its label."""
        import tensorflow as tf

        image = tf.cast(image, tf.float32)
        if len(self.shape) == 3:
            if image.shape.rank == 2:
                image = image[..., tf.newaxis]
            if image.shape[-1] == 1 and self.shape[-1] == 3:
                image = tf.image.grayscale_to_rgb(image)
            elif image.shape[-1] == 3 and self.shape[-1] == 1:
                image = tf.image.rgb_to_grayscale(image)
            if tuple(image.shape[:2]) != self.shape[:2]:
                image = tf.image.resize(image, self.shape[:2], method=self.resize)
        image = tf.ensure_shape(image, self.shape)
        return image / self.scale + self.offset, label


def resolve_preprocessing(
    shape: tuple[int, ...],
    scale: float | None,
    offset: float | None,
    stored: Any,
    model: Any,
    integers: bool,
) -> Preprocessing:
    """Return the preprocessing that was asked for, that is stored with the model, or is evident.

    Args:
        shape: Shape of the model's input without the batch.
        scale: As given, or `None`.
        offset: As given, or `None`.
        stored: What is stored with the model, as `Preprocessing.to_dict` gives it; anything else
            counts as nothing.
        model: The model, or `None`.
        integers: Whether the data are integers, such as the pixels of images.

    Raises:
        ValueError: If what was asked for contradicts what is stored, or nothing says which it is.
    """
    if isinstance(stored, Mapping) and stored.get("formula") == _FORMULA:
        kept = float(stored["scale"]), float(stored["offset"])
        asked = kept[0] if scale is None else scale, kept[1] if offset is None else offset
        if asked != kept:
            raise ValueError(
                f"--scale {asked[0]:g} --offset {asked[1]:g} was asked for, but the model was "
                f"trained with --scale {kept[0]:g} --offset {kept[1]:g}: leave both out."
            )
        return Preprocessing(*kept, shape, str(stored.get("resize", "bilinear")))
    if scale is None:
        if integers and not begins_with_scaling(model):
            raise ValueError(
                "How are pixels (0..255) turned into the model's input? Add --scale 255 if it was "
                "trained on 0..1, --scale 127.5 --offset -1 for -1..1, --scale 1 for 0..255."
            )
        scale = 1.0
    return Preprocessing(scale, offset or 0.0, shape)


def teachers_scale(settings: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return `--teacher-scale` and `--teacher-offset`, or `None` if neither is given.

    Raises:
        click.UsageError: If the offset is given without the scale.
    """
    scale, offset = settings["teacher_scale"], settings["teacher_offset"]
    if scale is None and offset is not None:
        raise click.UsageError(
            "--teacher-offset is added to pixel / --teacher-scale, which is not given. Received: "
            f"--teacher-offset {offset:g}. Add --teacher-scale, which is 1 for a teacher whose "
            "pixels are not divided."
        )
    return None if scale is None else (scale, offset or 0.0)


def begins_with_scaling(model: Any) -> bool:
    """Whether a model scales its input itself, in one of its first layers."""
    import keras

    layers = list(getattr(model, "layers", []))[:4]
    nested = [part for layer in layers for part in getattr(layer, "layers", [])[:4]]
    kinds = (keras.layers.Rescaling, keras.layers.Normalization)
    return any(isinstance(layer, kinds) for layer in [*layers, *nested])
