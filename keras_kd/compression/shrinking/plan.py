"""ShrinkPlan: which channels and blocks go, before anything is built."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_kd.compression.shrinking.analysis import Analysis
from keras_kd.compression.shrinking.blocks import Block, bypasses, choose_blocks, find_blocks
from keras_kd.compression.shrinking.channel_groups import Groups
from keras_kd.compression.shrinking.importance import Importance
from keras_kd.compression.shrinking.rebuild import rebuild
from keras_kd.compression.shrinking.selection import (
    Selection,
    Selector,
    least_ratio,
    planned_macs,
    planned_parameters,
)
from keras_kd.compression.shrinking.walk import analyze
from keras_kd.models.costs import model_cost
from keras_kd.models.graph import check_graph
from keras_kd.models.layers import leaf_layers

if TYPE_CHECKING:
    from keras_kd.compression.shrinking.shrink import Shrink


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


@dataclasses.dataclass(frozen=True)
class ShrinkPlan:
    """Which channels and blocks of a model go. Printing it gives a table.

    Attributes:
        layers: A `ShrunkLayer` for each layer with weights: its channels before and after, and
            why it keeps them all.
        dropped: The names of the blocks that are dropped.
        parameters: Number of parameters before and after.
        macs: Multiply-accumulate operations of one pass before and after; `None` where they
            depend on a size that is not known.
    """

    model: Any
    layers: tuple[ShrunkLayer, ...]
    dropped: tuple[str, ...]
    parameters: tuple[int, int]
    macs: tuple[int, int] | None
    _analysis: Analysis
    _selection: Selection
    _bypassed: dict[int, Any]

    def apply(self) -> keras.Model:
        """Return the smaller model, with the weights that `model` has now."""
        return rebuild(self.model, self._analysis, self._selection, self._bypassed)

    def __str__(self) -> str:
        """Return a table of the layers, with the totals."""
        lines = [str(layer) for layer in self.layers]
        lines.append(f"parameters: {self.parameters[0]:,} -> {self.parameters[1]:,}")
        if self.macs is not None:
            lines.append(f"FLOPs: {2 * self.macs[0]:,} -> {2 * self.macs[1]:,}")
        if self.dropped:
            lines.append(f"dropped blocks: {', '.join(self.dropped)}")
        return "\n".join(lines)


def check_shrinkable(model: Any, options: Shrink) -> None:
    """Refuse what cannot be shrunk, whatever its weights are.

    Raises:
        TypeError: If `model` is not a Keras 3 model.
        ValueError: If it has no graph, or a name in `options` is of no layer.
    """
    check_graph(model, "Shrink")
    options.choice.check(model, {})
    choose_blocks(model, options.dropped_names)


def decide(model: keras.Model, options: Shrink, importance: Importance) -> ShrinkPlan:
    """Decide what goes.

    Args:
        model: A functional or sequential model.
        options: What was asked for.
        importance: Scores channels and blocks.

    Raises:
        ValueError: If the model has no graph, a name is of no layer, nothing can be removed, or
            the budget cannot be reached; the message says what the smallest model is.
    """
    check_shrinkable(model, options)
    blocks = _blocks(model, options, importance)
    bypassed = bypasses(blocks)
    spared = options.choice.reason_to_spare
    analysis = analyze(model, bypassed, spared, layer_norm=options.layer_norm)
    groups = analysis.groups.solve()
    scores = importance.groups(analysis, groups, options.reduction)
    uniform = options.scope == "uniform"
    selector = Selector(analysis, groups, scores, uniform, options.min_channels, options.divisor)
    parameters = _parameters(analysis)
    macs = _macs(model, options)
    if options.budgeted:
        ratio = _ratio_for(model, options, analysis, selector, parameters, macs)
    else:
        ratio = options.ratio or 0.0
        if ratio and not len(groups.removable):
            reasons = sorted({reason for reason in groups.reasons.values() if reason})
            raise ValueError(
                f"Shrink finds no channel to remove in model '{model.name}': "
                f"{'; '.join(reasons[:5]) or 'it has no layer that makes channels'}."
            )
    selection = selector.select(ratio)
    return ShrinkPlan(
        model,
        tuple(shrunk_layers(model, analysis, groups, selection)),
        tuple(block.name for block in blocks),
        (model.count_params(), planned_parameters(analysis, selection, parameters)),
        None if macs is None else (macs, planned_macs(analysis, selection)),
        analysis,
        selection,
        bypassed,
    )


def _blocks(model: Any, options: Shrink, importance: Importance) -> list[Block]:
    blocks = choose_blocks(model, options.dropped_names)
    if not options.depth:
        return blocks
    paths = {id(layer): path for path, layer in leaf_layers(model)}
    choice = options.choice
    candidates = [
        block
        for block in find_blocks(model)
        if not any(
            choice.reason_to_spare(paths[id(layer)], layer)
            for layer in block.layers
            if id(layer) in paths
        )
    ]
    count = math.floor(options.depth * len(candidates) + 0.5)
    if count == 0:
        raise ValueError(
            f"`depth`={options.depth} of the {len(candidates)} blocks of model '{model.name}' is "
            "no block: a block is what is added to its own input, or a layer of layers whose "
            "output has the shape of its input. Give a larger fraction, or names in `drop`."
        )
    names = {block.name for block in blocks}
    least = sorted(candidates, key=lambda block: (importance.block(block), block.name))
    return blocks + [block for block in least[:count] if block.name not in names]


def _parameters(analysis: Analysis) -> int:
    weights = {
        id(weight): math.prod(weight.shape)
        for call in analysis.calls
        for weight in getattr(call.operation, "weights", [])
    }
    return sum(weights.values())


def _macs(model: Any, options: Shrink) -> int | None:
    try:
        return model_cost(model).macs
    except ValueError:
        if options.max_flops is not None or options.flops_ratio is not None:
            raise
        return None


def _ratio_for(
    model: Any,
    options: Shrink,
    analysis: Analysis,
    selector: Selector,
    parameters: int,
    macs: int | None,
) -> float:
    max_macs = math.inf if options.max_flops is None else options.max_flops / 2
    if options.flops_ratio is not None and macs is not None:
        max_macs = (1.0 - options.flops_ratio) * macs
    max_parameters = options.max_parameters or math.inf

    def cost(ratio: float) -> tuple[float, float]:
        selection = selector.select(ratio)
        return (
            planned_macs(analysis, selection) if max_macs < math.inf else 0,
            planned_parameters(analysis, selection, parameters),
        )

    def fits(ratio: float) -> bool:
        used, held = cost(ratio)
        return used <= max_macs and held <= max_parameters

    ratio = least_ratio(fits)
    if ratio is None:
        used, held = cost(1.0)
        if used > max_macs:
            asked, smallest = f"{int(2 * max_macs):,} FLOPs", f"{int(2 * used):,} FLOPs"
        else:
            asked, smallest = f"{int(max_parameters):,} parameters", f"{int(held):,} parameters"
        raise ValueError(
            f"Model '{model.name}' cannot be shrunk to {asked}: with `min_channels`="
            f"{options.min_channels} and the layers that must keep their channels, the smallest "
            f"that is possible has {smallest}. Raise the budget, exclude fewer layers, or drop "
            "blocks with `drop=` or `depth=`."
        )
    return ratio
