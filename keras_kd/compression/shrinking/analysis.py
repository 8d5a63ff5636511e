"""What is known of the channels of a model, and how a rule adds to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from keras_kd.compression.shrinking.channel_groups import Axes, Axis, ChannelGroups
from keras_kd.models.graph import call_arguments

# Gives the number of channels that remain along an axis.
Size = Callable[[np.ndarray], int]


@dataclasses.dataclass
class Weight:
    """A weight and the channels along each of its axes.

    Attributes:
        variable: The variable.
        layer: The path of its layer.
        axes: The channels along each axis.
        scale: The factor that its values are multiplied by once channels have gone, or `None`.
    """

    variable: Any
    layer: str
    axes: Axes
    scale: Callable[[Size], float] | None = None


@dataclasses.dataclass
class CallRecord:
    """One call of a layer or operation: the channels along each axis of what it takes and gives."""

    path: str
    node: Any
    input_shapes: list[tuple[int | None, ...]]
    output_shapes: list[tuple[int | None, ...]]
    inputs: list[Axes]
    outputs: list[Axes]
    reason: str = ""

    @property
    def operation(self) -> Any:
        """The layer or operation."""
        return self.node.operation


@dataclasses.dataclass
class Analysis:
    """What the walk over a graph found.

    Attributes:
        groups: The channels and their dependencies.
        weights: The weights with axes that may shrink, and all others of their layers, by `id`.
        configs: Entries of the configuration to change, by the `id` of the operation.
        arguments: How to change the arguments of a call, by the `id` of its node.
        inputs: The channels of the inputs of nested models, by the `id` of the tensor.
        calls: Every call in order.
        zeros: Whether the channels that may go hold zeros, their weights at zero, by the `id` of
            the tensor.
        limits: Axes of which at least one channel must remain, and whether they are heads.
        options: What the rules were asked for.
    """

    options: Mapping[str, Any]
    groups: ChannelGroups = dataclasses.field(default_factory=ChannelGroups)
    weights: dict[int, Weight] = dataclasses.field(default_factory=dict)
    configs: dict[int, dict[str, Callable[[Size], Any]]] = dataclasses.field(default_factory=dict)
    arguments: dict[int, Callable[..., Any]] = dataclasses.field(default_factory=dict)
    inputs: dict[int, Axes] = dataclasses.field(default_factory=dict)
    calls: list[CallRecord] = dataclasses.field(default_factory=list)
    limits: list[tuple[np.ndarray, bool]] = dataclasses.field(default_factory=list)
    zeros: dict[int, bool] = dataclasses.field(default_factory=dict)
    made: dict[tuple[int, str], np.ndarray] = dataclasses.field(default_factory=dict)
    called: dict[int, list[Axes]] = dataclasses.field(default_factory=dict)


class Call:
    """One call, as a rule sees it.

    Attributes:
        path: Path of the layer.
        operation: The layer or operation.
        node: The node of the graph.
        tensors: Its input tensors, as in the graph.
        inputs: The channels along each axis of each input.
        zeros: Whether the channels of each input that may go hold zeros, their weights at zero.
        analysis: Where the rule writes to.
    """

    def __init__(self, analysis: Analysis, path: str, node: Any, inputs: list[Axes]) -> None:
        self.analysis = analysis
        self.path = path
        self.node = node
        self.operation = node.operation
        self.tensors = node.arguments.keras_tensors
        self.inputs = inputs
        self.zeros = [analysis.zeros.get(id(tensor), True) for tensor in self.tensors]
        self.reason = ""

    @property
    def name(self) -> str:
        """How messages name the layer."""
        return f"'{self.path}' ({type(self.operation).__name__})"

    @property
    def shapes(self) -> list[tuple[int | None, ...]]:
        """The shapes of the inputs."""
        return [tuple(tensor.shape) for tensor in self.tensors]

    @property
    def output_shapes(self) -> list[tuple[int | None, ...]]:
        """The shapes of the outputs."""
        return [tuple(tensor.shape) for tensor in self.node.outputs]

    @property
    def arguments(self) -> dict[int | str, Any]:
        """The arguments by position and by name."""
        return call_arguments(self.node)

    def axes_of(self, tensor: Any) -> Axes:
        """Return the channels along each axis of one of the input tensors."""
        return self.inputs[[id(t) for t in self.tensors].index(id(tensor))]

    def new(self, count: int, what: str = "channels") -> np.ndarray:
        """Return the channels that this layer makes, the same ones in each of its calls."""
        key = (id(self.operation), what)
        if key not in self.analysis.made:
            channels = self.analysis.groups.new(count, self.path)
            self.analysis.made[key] = channels
            self.analysis.limits.append((channels, what == "heads"))
        return self.analysis.made[key]

    def weight(self, variable: Any, *axes: Axis, scale: Any = None) -> None:
        """Say which channels lie along the axes of a weight of the layer."""
        if variable is None:
            return
        sizes = zip(variable.shape, axes, strict=True)
        if any(axis is not None and size != len(axis) for size, axis in sizes):
            raise ValueError(
                f"Shrink cannot follow the channels of layer '{self.name}': its weight has the "
                f"shape {tuple(variable.shape)}, which does not fit its input. Exclude the layer."
            )
        known = self.analysis.weights.get(id(variable))
        if known is not None:
            reason = f"{self.name} is shared"
            axes = tuple(
                self.analysis.groups.join(a, b, reason)
                for a, b in zip(known.axes, axes, strict=True)
            )
        self.analysis.weights[id(variable)] = Weight(variable, self.path, axes, scale)

    def config(self, **entries: Callable[[Size], Any]) -> None:
        """Say how entries of the layer's configuration follow from the number of channels."""
        self.analysis.configs.setdefault(id(self.operation), {}).update(entries)

    def keep(self, axis: Axis, reason: str) -> None:
        """Make the channels of an axis stay."""
        self.analysis.groups.keep(axis, reason)

    def keep_all(self, axes: Axes, reason: str, but: int | None = None) -> None:
        """Make the channels of all axes stay, but those along the axis `but`."""
        for i, axis in enumerate(axes):
            if but is None or i != but % len(axes):
                self.keep(axis, reason)

    def summed(self, axes: Axes, zeros: bool, what: str) -> None:
        """Say that the layer sums over axes: channels that may hold something else stay.

        Args:
            axes: The axes.
            zeros: Whether what is summed is zero for the channels that may go.
            what: What the layer does, as in `f"{name} {what}"`.
        """
        if not zeros:
            self.keep_all(axes, f"{self.name} {what}, and without weights they are not zero there")

    def join(self, first: Axis, second: Axis, reason: str = "") -> Axis:
        """Couple two axes."""
        return self.analysis.groups.join(
            first, second, reason or f"meets a fixed size in {self.name}"
        )

    def limit(self, axis: Axis) -> None:
        """Say that some of the channels along an axis must remain."""
        if axis is not None:
            self.analysis.limits.append((axis, False))

    def fixed(self, reason: str) -> list[Axes]:
        """Make every channel that comes in stay, and give outputs of fixed size."""
        self.reason = self.reason or reason
        for axes in self.inputs:
            self.keep_all(axes, reason)
        return [(None,) * len(shape) for shape in self.output_shapes]
