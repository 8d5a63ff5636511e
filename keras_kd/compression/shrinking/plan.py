"""ShrinkPlan: which channels and blocks go, before anything is built."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras

from keras_kd.compression.shrinking.analysis import Analysis
from keras_kd.compression.shrinking.blocks import Block, bypasses, choose_blocks, find_blocks
from keras_kd.compression.shrinking.importance import Importance
from keras_kd.compression.shrinking.options import ShrinkOptions
from keras_kd.compression.shrinking.rebuild import rebuild
from keras_kd.compression.shrinking.record import ShrunkLayer, shrunk_layers
from keras_kd.compression.shrinking.selection import (
    Selection,
    Selector,
    least_ratio,
    planned_macs,
    planned_parameters,
)
from keras_kd.compression.shrinking.walk import analyse
from keras_kd.compression.stages.layer_record import leaf_layers
from keras_kd.models.costs import model_cost
from keras_kd.models.graph import check_graph


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


def check_shrinkable(model: Any, options: ShrinkOptions) -> None:
    """Refuse what cannot be shrunk, whatever its weights are.

    Raises:
        TypeError: If `model` is no Keras 3 model.
        ValueError: If it has no graph, or a name in `options` is of no layer.
    """
    check_graph(model, "Shrink")
    options.choice.check(model, {})
    choose_blocks(model, options.dropped_names)


def make_plan(model: keras.Model, options: ShrinkOptions, importance: Importance) -> ShrinkPlan:
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
    analysis = analyse(model, bypassed, spared, layer_norm=options.layer_norm)
    groups = analysis.groups.solve()
    scores = importance.groups(analysis, groups, options.reduction)
    selector = Selector(analysis, groups, scores, options.scope == "uniform", options.min_channels)
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


def _blocks(model: Any, options: ShrinkOptions, importance: Importance) -> list[Block]:
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


def _macs(model: Any, options: ShrinkOptions) -> int | None:
    try:
        return model_cost(model).macs
    except ValueError:
        if options.max_flops is not None or options.flops_ratio is not None:
            raise
        return None


def _ratio_for(
    model: Any,
    options: ShrinkOptions,
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
