"""What shrinking does to each layer."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_kd.compression.shrinking.analysis import Analysis
from keras_kd.compression.shrinking.channel_groups import Groups
from keras_kd.compression.shrinking.selection import Selection
from keras_kd.compression.stages.layer_record import leaf_layers


@dataclasses.dataclass(frozen=True)
class ShrunkLayer:
    """One layer before and after.

    Attributes:
        name: Its name; `"backbone/block1"` for a layer inside a nested model.
        class_name: Its class.
        before: Number of channels of its output: filters, units or features. `None` where they
            are not known.
        after: The same of the smaller model; 0 if the layer was dropped.
        heads: Heads before and after, for attention.
        reason: Why it keeps all its channels, or that it was dropped; empty if it lost some.
    """

    name: str
    class_name: str
    before: int | None
    after: int | None
    heads: tuple[int, int] | None
    reason: str

    @property
    def change(self) -> str:
        """The change in words, such as `"64 to 32 channels, 8 to 4 heads"`."""
        changes = []
        if self.before != self.after:
            changes.append(f"{self.before} to {self.after} channels")
        if self.heads is not None and self.heads[0] != self.heads[1]:
            changes.append(f"{self.heads[0]} to {self.heads[1]} heads")
        return ", ".join(changes)

    def __str__(self) -> str:
        """Return one line of a table."""
        what = self.reason or self.change
        if self.before is not None and self.after == self.before and not self.heads:
            what = f"{self.before} channels: {what}"
        return f"{self.name:<32} {self.class_name:<24} {what}".rstrip()


def shrunk_layers(
    model: keras.Model,
    analysis: Analysis,
    groups: Groups,
    selection: Selection,
) -> list[ShrunkLayer]:
    """Describe every layer with weights.

    Args:
        model: The model before.
        analysis: Its analysis, without the blocks that are dropped.
        groups: The groups of channels.
        selection: What remains.
    """
    calls = {id(call.operation): call for call in analysis.calls}
    inside = {f"{call.path}/": call for call in analysis.calls}
    records = []
    for path, layer in leaf_layers(model):
        if not layer.weights:
            continue
        call = calls.get(id(layer))
        class_name = type(layer).__name__
        opaque = next((c for prefix, c in inside.items() if path.startswith(prefix)), None)
        if call is None and opaque is not None:
            # A layer of a subclassed model, which is treated as one.
            records.append(ShrunkLayer(path, class_name, None, None, None, opaque.reason))
            continue
        if call is None:
            before = _channels(tuple(layer.output.shape), layer) if _single_output(layer) else None
            records.append(ShrunkLayer(path, class_name, before, 0, None, "its block is dropped"))
            continue
        shape, axes = call.output_shapes[0], call.outputs[0]
        position = _position(layer, shape)
        axis, before = axes[position], shape[position]
        after = before if axis is None else selection.size(axis)
        heads = analysis.made.get((id(layer), "heads"))
        kept_heads = None if heads is None else (len(heads), selection.size(heads))
        reason = ""
        if after == before and (kept_heads is None or kept_heads[0] == kept_heads[1]):
            reason = call.reason or _reason(groups, axis)
            if heads is not None and not call.reason:
                reason += f"; heads: {_reason(groups, heads)}"
        records.append(ShrunkLayer(path, class_name, before, after, kept_heads, reason))
    return records


def _reason(groups: Groups, axis: np.ndarray | None) -> str:
    if axis is None:
        return "its channels are those of its input, which stay"
    for group in np.unique(groups.of(axis)).tolist():
        if groups.reasons.get(group):
            return groups.reasons[group]
    return "the target is reached without its channels"


def _single_output(layer: Any) -> bool:
    try:
        return hasattr(layer.output, "shape")
    except (AttributeError, ValueError):
        return False


def _position(layer: Any, shape: tuple[int | None, ...]) -> int:
    if getattr(layer, "data_format", None) == "channels_first":
        return 1
    axis = getattr(layer, "axis", None)
    is_batch_norm = isinstance(layer, keras.layers.BatchNormalization)
    return int(axis) % len(shape) if is_batch_norm and axis is not None else len(shape) - 1


def _channels(shape: tuple[int | None, ...], layer: Any) -> int | None:
    return shape[_position(layer, shape)]
