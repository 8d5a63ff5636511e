"""Layers of Keras 3 that give their outputs the masks of Keras 2.

Keras 3 drops the mask of a sum if one of its inputs has none, and takes the steps that any input
has; Keras 2 takes those that all masked inputs have. Other layers lose masks in Keras 2 only.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import keras
from keras import layers, ops

from keras_kd.losses.shared.masks import get_keras_mask, set_keras_mask
from keras_kd.models.graph import attention_axes, calls_of, flat_layers


class _Merged:
    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return _all_of(mask or ())


class _MergedByValue(_Merged):
    """Keras 3 puts other numbers where the mask of an input is not set."""

    def _merge_function(self, inputs: Any) -> Any:
        return functools.reduce(_FUNCTIONS[type(self).__name__], inputs)


class _Concatenated:
    axis: int

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        given = list(zip(inputs, mask or (), strict=bool(mask)))
        if self.axis in (-1, len(inputs[0].shape) - 1):
            whole = [m if m is None or _is_lower(m, x) else ops.all(m, axis=-1) for x, m in given]
            return _all_of(whole)
        if all(m is None for _, m in given):
            return None
        wide = [_with_last_axis(m, x) for x, m in given]
        return ops.all(ops.concatenate(wide, axis=self.axis), axis=-1)


class _Unmasked:
    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> None:
        return None


class _Passed(_Unmasked):
    def call(self, inputs: Any) -> Any:
        # The very tensor would bring its mask along.
        return keras.tree.map_structure(ops.copy, inputs)


class _Attending:
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # Keras 3 takes the masks off the tensors, which other layers read too.
        given = [(x, get_keras_mask(x)) for x in keras.tree.flatten((args, kwargs))]
        outputs = super().__call__(*args, **kwargs)  # type: ignore[misc]
        for x, mask in given:
            if mask is not None:
                set_keras_mask(x, mask)
        return outputs

    def _compute_attention(self, *args: Any, **kwargs: Any) -> Any:
        # The other way of Keras 3 does without `_masked_softmax`.
        return super()._compute_attention(  # type: ignore[misc]
            *args[:5], **{**kwargs, "return_attention_scores": True}
        )

    def _masked_softmax(self, attention_scores: Any, attention_mask: Any = None) -> Any:
        # A query that may look nowhere looks everywhere in Keras 2, and gives zeros in Keras 3.
        if attention_mask is not None:
            while len(attention_mask.shape) < len(attention_scores.shape):
                attention_mask = ops.expand_dims(attention_mask, -2 * len(attention_axes(self)) - 1)
            kind = keras.backend.standardize_dtype(attention_scores.dtype)
            least = -32752.0 if kind == "float16" else -1e9
            attention_scores += (1.0 - ops.cast(attention_mask, kind)) * least
        return super()._masked_softmax(attention_scores)  # type: ignore[misc]


class _Distributed:
    layer: Any
    name: str

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        mask, (_, steps, *rest) = previous_mask, inputs.shape
        inner, is_model = self.layer, isinstance(self.layer, keras.Model)
        makes = makes_masks(inner)
        if is_model and makes:
            ends = [get_keras_mask(tensor) for tensor in inner.outputs]
            makes = any(end is not None for end in ends) or not all(map(_is_known, inner.layers))
        if not makes and (mask is None or len(mask.shape) == 2):
            return mask
        if is_model or steps is None:
            raise ValueError(
                f"the layer '{self.name}' is TimeDistributed and gives every step a mask, which "
                "Keras 3 does not do for a model inside it, nor for a number of steps that is not "
                "known"
            )
        each = None if mask is None else ops.reshape(mask, (-1, *mask.shape[2:]))
        found = inner.compute_mask(ops.reshape(inputs, (-1, *rest)), each)
        if found is not None:
            return ops.reshape(found, (-1, steps, *found.shape[1:]))
        return None if mask is None else ops.any(mask, axis=tuple(range(2, len(mask.shape))))


def _all_of(masks: Iterable[Any]) -> Any:
    """Return the steps that all masks have, `None` where there are none."""
    found = {id(mask): mask for mask in masks if mask is not None}
    return functools.reduce(ops.logical_and, found.values()) if found else None


def _is_lower(mask: Any, like: Any) -> bool:
    return len(mask.shape) < len(like.shape)


def _with_last_axis(mask: Any, like: Any) -> Any:
    if mask is None:
        return ops.ones_like(like, dtype="bool")
    return ops.expand_dims(mask, -1) if _is_lower(mask, like) else mask


def _kind(masks: type, base: type) -> type:
    doc = f"Keras's `{base.__name__}` with the masks of Keras 2."
    name = f"{base.__name__}OfKeras2"
    kind = type(name, (masks, base), {"__module__": __name__, "__doc__": doc})
    return keras.saving.register_keras_serializable("keras_kd")(kind)


_BY_VALUE = {"Maximum": ops.maximum, "Minimum": ops.minimum, "Multiply": ops.multiply}
_FUNCTIONS = {f"{name}OfKeras2": function for name, function in _BY_VALUE.items()}
MASKED_AS_IN_KERAS_2: dict[str, type] = {
    **{name: _kind(_Merged, getattr(layers, name)) for name in ("Add", "Average", "Subtract")},
    **{name: _kind(_MergedByValue, getattr(layers, name)) for name in _BY_VALUE},
    "Concatenate": _kind(_Concatenated, layers.Concatenate),
    "Identity": _kind(_Passed, layers.Identity),
    "MultiHeadAttention": _kind(_Attending, layers.MultiHeadAttention),
    "Normalization": _kind(_Unmasked, layers.Normalization),
    "Rescaling": _kind(_Unmasked, layers.Rescaling),
    "TimeDistributed": _kind(_Distributed, layers.TimeDistributed),
}
_PLAIN = {kind: getattr(layers, name) for name, kind in MASKED_AS_IN_KERAS_2.items()}


def plain_type(operation: Any) -> type:
    """Return the class of a layer or operation; of a layer of this module, Keras's class.

    Both compute the same values from the same inputs, except where Keras 3 reads a mask.
    """
    return _PLAIN.get(type(operation), type(operation))


def makes_masks(layer: Any) -> bool:
    """Whether a layer, or one inside it, gives masks to outputs of inputs that have none."""
    return any(
        isinstance(part, layers.Masking) or getattr(part, "mask_zero", False)
        for part in flat_layers(layer)
    )


def has_own_masks(kind: Any) -> bool:
    """Whether a class of layers says itself what its masks are."""
    is_layer = isinstance(kind, type) and issubclass(kind, layers.Layer)
    return is_layer and kind.compute_mask is not layers.Layer.compute_mask


def restore_layers(model: Any) -> None:
    """Make Keras's own layers again of those whose masks are the same in Keras 3.

    The whole package knows only these. What masks enter a nested model, and leave it, is not known
    before it runs: in such a model all stay as they are.

    Args:
        model: A model with layers of this module, which is changed.
    """
    if not all(map(_is_known, flat_layers(model, include_self=False))):
        return
    for layer in model.layers:
        if type(layer) in _PLAIN and not any(map(_differs, calls_of(layer))):
            # Both compute the same; only their masks are other ones.
            object.__setattr__(layer, "__class__", plain_type(layer))


def _is_known(layer: Any) -> bool:
    """Whether a graph shows what a layer does to masks."""
    if isinstance(layer, keras.Model):
        return False
    known = plain_type(layer).__module__.startswith("keras.")
    return known or not has_own_masks(type(layer))


def _differs(node: Any) -> bool:
    """Whether Keras 2 and Keras 3 give the output of a call other masks."""
    layer: Any = node.operation
    tensors = keras.tree.flatten(node.arguments.args or node.arguments.kwargs)
    masks = [get_keras_mask(tensor) for tensor in tensors]
    given = [(x, mask) for x, mask in zip(tensors, masks, strict=True) if mask is not None]
    if isinstance(layer, _Distributed):
        return makes_masks(layer.layer) or any(len(mask.shape) > 2 for _, mask in given)
    if isinstance(layer, layers.MultiHeadAttention):
        others = node.arguments.kwargs
        masks += [get_keras_mask(others.get(name)) for name in ("value", "key")]
        scored = others.get("return_attention_scores") or layer.get_config()["dropout"]
        masked = scored and others.get("attention_mask") is not None
        return bool(masked) or any(mask is not None for mask in masks)
    if isinstance(layer, (_MergedByValue, _Unmasked)):
        return bool(given)
    if isinstance(layer, _Concatenated) and any(len(x.shape) != 3 for x, _ in given):
        return True
    return len(set(map(id, masks))) > 1
