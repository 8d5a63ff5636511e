"""Where a student has quantizers: the tensors that the file will hold in integers."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import keras

from keras_kd.models.calls import (
    OF_FIXED_RANGE,
    Call,
    Primitive,
    Trace,
    has_own_code,
    is_read_as_integers,
    op_type,
    source_of,
)
from keras_kd.models.graph import TRANSPOSED
from keras_kd.models.recurrent import CELLS
from keras_kd.quantizing.kernels import KERNEL_LAYERS, SEPARABLE
from keras_kd.quantizing.primitives import (
    FIXED_RANGES,
    MULTIPLIED,
    RECOMPUTED,
    ROUNDED_PRIMITIVES,
    SAME_RANGE_PRIMITIVES,
    SUMS,
    TOGETHER,
    inside_activations,
    is_constant,
    is_in_keras,
    moves_of,
    name_of,
)

_layers = keras.layers

# Layers that only move values: the file keeps one scale for both sides.
SAME_RANGE = (
    _layers.Flatten, _layers.Reshape, _layers.Permute, _layers.RepeatVector, _layers.Identity,
    _layers.Dropout, _layers.SpatialDropout1D, _layers.SpatialDropout2D, _layers.SpatialDropout3D,
    _layers.GaussianDropout, _layers.GaussianNoise, _layers.ActivityRegularization,
    _layers.MaxPooling1D, _layers.MaxPooling2D, _layers.AveragePooling1D, _layers.AveragePooling2D,
    _layers.GlobalMaxPooling1D, _layers.GlobalMaxPooling2D,
    _layers.ZeroPadding1D, _layers.ZeroPadding2D, _layers.Cropping1D, _layers.Cropping2D,
)  # fmt: skip
_SAME_RANGE_OPERATIONS = {
    "ExpandDims", "Flip", "GetItem", "Identity", "Max", "MaxPool", "Moveaxis", "Pad", "Reshape",
    "Squeeze", "StopGradient", "Swapaxes", "Transpose",
}  # fmt: skip

# What the file computes two inputs at a time.
_PAIRWISE = (_layers.Add, _layers.Multiply, _layers.Maximum, _layers.Minimum)

# Activations that the converter joins with the operator before them.
_JOINED = ("relu", "relu6")
_RECURRENT = (_layers.RNN, _layers.Bidirectional)
# What these compute in a derived class stands between the same quantizers as what they compute.
_WITH_OWN_RULES = (
    *KERNEL_LAYERS, _layers.BatchNormalization, _layers.LayerNormalization,
    _layers.MultiHeadAttention, _layers.GroupQueryAttention,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Site:
    """A tensor that is quantized.

    Attributes:
        path: The path of the layer or operation whose call returns it; `""` for the model.
        call: Which call of that layer in a pass.
        output: Which of its outputs, of the model's inputs, or of what it is given.
        kind: `"output"`, `"input"` of the model, `"given"`: an input of a layer with a kernel that
            nothing else rounds, `"between"`: what a separable convolution hands from its first
            kernel to its second, `"activation"`: what its activation function is given,
            `"partial"`: what the first inputs of a sum, product or maximum come to, `"variable"`
            of the model, or the type of an operation of TensorFlow in the layer's own code; with
            `":0"` or `":1"`, a constant that this operation is given.
        fixed: A range that the operator asks for, or `None`.
        shared: The name of another site whose range it has; `""`: it has its own.
    """

    path: str
    call: int = 0
    output: int = 0
    kind: str = "output"
    fixed: tuple[float, float] | None = None
    shared: str = ""

    @property
    def is_primitive(self) -> bool:
        """Whether it stands behind an operation of TensorFlow in the code of a custom layer."""
        return self.kind in ROUNDED_PRIMITIVES

    @property
    def name(self) -> str:
        """A name that stays the same from one process to another."""
        return f"{self.path}:{self.kind}:{self.call}:{self.output}"

    @property
    def range_name(self) -> str:
        """The name of the site that holds its range."""
        return self.shared or self.name

    @property
    def is_constant(self) -> bool:
        """Whether its values are the same in every pass."""
        return self.kind == "variable" or ":" in self.kind


@dataclasses.dataclass(frozen=True)
class Sites:
    """The quantizers of a student.

    Attributes:
        sites: All of them, in the order of the pass.
        folded: Paths of the BatchNormalization layers that become part of the kernel before them,
            each with the path of the layer that holds it.
        scaled: Paths of those that become a depthwise convolution of one weight per channel.
        floating: The outputs that stay float, by the path of their layer, with the reason.
        inputs: What rounds the input of a kernel, by the path of its layer; of layers that are
            called once.
    """

    sites: tuple[Site, ...]
    folded: Mapping[str, str]
    scaled: frozenset[str]
    floating: Mapping[str, str]
    inputs: Mapping[str, Site] = dataclasses.field(default_factory=dict)


def function_name(function: Any) -> str | None:
    """Return the name of a function of Keras or TensorFlow, `None` of any other."""
    module = str(getattr(function, "__module__", ""))
    known = module.partition(".")[0] in ("keras", "tensorflow")
    return getattr(function, "__name__", None) if known else None


def activation_name(operation: Any) -> str | None:
    """Return the name of the function of an activation layer or operation, else `None`.

    A layer with code of its own may compute anything.
    """
    if has_own_code(operation):
        return None
    if isinstance(operation, _layers.ReLU):
        plain = not operation.negative_slope and not operation.threshold
        if plain and operation.max_value in (None, 6, 6.0):
            return "relu" if operation.max_value is None else "relu6"
        return None
    if isinstance(operation, _layers.Softmax):
        return "softmax"
    if isinstance(operation, _layers.Activation):
        return function_name(operation.activation)
    name = name_of(operation).lower()
    return name if name in (*_JOINED, *FIXED_RANGES) else None


def kernel_activation(operation: Any) -> Callable[..., Any] | None:
    """Return the activation function that a layer with a kernel applies, `None` if it has none."""
    activation = getattr(operation, "activation", None)
    return None if activation is keras.activations.linear else activation


def find_sites(trace: Trace, spared: Collection[str] = ()) -> Sites:
    """Decide which tensors of a pass are quantized.

    Args:
        trace: A traced pass.
        spared: Paths of the layers that stay float. Defaults to none.
    """
    return _Finder(trace, frozenset(spared)).find()


class _Finder:
    def __init__(self, trace: Trace, spared: frozenset[str]) -> None:
        self._trace = trace
        self._spared = spared
        self._quantized: dict[int, Site | None] = {}
        self._owners: dict[str, str] = {}
        self._inputs: dict[str, Site | None] = {}
        self._given: set[int] = set()
        self._joined: set[int] = set()
        self._left: set[int] = set()
        self._folded: dict[str, str] = {}
        self._transposed: set[str] = set()
        self._scaled: set[str] = set()
        self._floating: dict[str, str] = {}
        self._sites: list[Site] = []
        self._calls = [call for call in trace.calls if not is_in_keras(call)]
        self._inner = {id(call.parent) for call in self._calls if call.parent is not None}
        self._times = collections.Counter(
            call.path for call in self._calls if not isinstance(call.operation, Primitive)
        )
        self._consumers: dict[int, list[Call]] = collections.defaultdict(list)
        for call in self._calls:
            for tensor in {id(source_of(x)): x for x in call.inputs}:
                self._consumers[tensor].append(call)
        self._outputs = {id(source_of(x)) for x in trace.outputs}
        self._inside = inside_activations(trace)

    def find(self) -> Sites:
        for i, tensor in enumerate(self._trace.inputs):
            if tensor.dtype.is_floating and not is_read_as_integers(tensor):
                self._sites.append(Site("", 0, i, "input"))
                self._quantized[id(source_of(tensor))] = self._sites[-1]
        for call in self._calls:
            loop = self._loop_around(call)
            if loop is None:
                self._visit(call)
            elif isinstance(call.operation, Primitive) and call.operation.type == "MatMul":
                self._in_cell(call, loop)
        for call in self._trace.calls:
            if isinstance(call.operation, Primitive) and call.operation.type in OF_FIXED_RANGE:
                self._beside_rounded(call)
        sites = {
            site.name: dataclasses.replace(site, shared=self._owners.get(site.name, ""))
            for site in self._sites
        }
        once = {path: site for path, site in self._inputs.items() if self._times[path] == 1}
        return Sites(
            tuple(sites.values()),
            self._folded,
            frozenset(self._scaled),
            self._floating,
            {path: sites[site.name] for path, site in once.items() if site is not None},
        )

    def _beside_rounded(self, call: Call) -> None:
        """Round what the converter rounds of itself: a factor in front of a rounded product.

        It gives every operator of a fixed range that range where a neighbor is in integers.
        """
        x, index = call.outputs[0], 0 if call.parent is None else call.parent.index
        if any(call.path == p or call.path.startswith(f"{p}/") for p in self._spared):
            return
        ends = list(moves_of(x))
        products = (
            made.outputs[0]
            for end in ends
            for made in end.consumers()
            if made.type in ROUNDED_PRIMITIVES
        )
        ends += [moved for product in products for moved in moves_of(product)]
        site = Site(call.path, index, call.index, call.operation.type, self._fixed(call))
        rounded = any(id(source_of(end)) in self._quantized.keys() | self._given for end in ends)
        if rounded and id(source_of(x)) not in self._quantized and site not in self._sites:
            self._sites.append(site)

    def _loop_around(self, call: Call) -> Call | None:
        """Return the call of the recurrent layer that a call is inside of."""
        parent = call.parent
        while parent is not None and not isinstance(parent.operation, _RECURRENT):
            parent = parent.parent
        return parent

    def _in_cell(self, product: Call, loop: Call) -> None:
        """Round what a cell multiplies with its kernels, and the products: the rest stays float.

        A file has as many cells as there are steps, which have to be known.
        """
        cell = product.parent
        if (
            cell is None
            or not isinstance(cell.operation, CELLS)
            or cell.path in self._spared
            or loop.inputs[0].shape[1] is None
        ):
            return
        self._given.add(id(source_of(cell.outputs[0])))
        direct = getattr(loop.operation, "cell", None) is cell.operation
        rounded = direct and id(source_of(loop.inputs[0])) in self._quantized
        given = [Site(cell.path, 0, i, "given") for i in ((1,) if rounded else (0, 1))]
        for site in (*given, Site(cell.path, 0, product.index, "MatMul")):
            self._sites += [] if site in self._sites else [site]

    def _visit(self, call: Call) -> None:
        operation = call.operation
        if call.path in self._spared:
            self._floating[call.path] = "it is excluded"
            self._left |= {id(source_of(x)) for x in call.outputs}
            return
        if isinstance(operation, _layers.BatchNormalization) and not has_own_code(operation):
            self._normalization(call)
        elif isinstance(operation, KERNEL_LAYERS):
            key = id(source_of(call.inputs[0]))
            given = self._quantized.get(key)
            if key not in self._quantized.keys() | self._joined | self._left:
                given = Site(call.path, call.index, 0, "given")
                self._sites.append(given)
                self._given.add(key)
            self._inputs[call.path] = given
            if isinstance(operation, SEPARABLE) and not has_own_code(operation):
                self._sites.append(Site(call.path, call.index, 0, "between"))
                self._inputs[call.path] = self._sites[-1]
            activation = kernel_activation(operation)
            joined = function_name(activation) in _JOINED
            if activation is not None and not (joined and self._takes_activation(call)):
                self._sites.append(Site(call.path, call.index, 0, "activation"))
        elif isinstance(operation, Primitive):
            self._primitive(call)
            return
        elif isinstance(operation, _PAIRWISE) and not has_own_code(operation):
            partial = range(len(call.inputs) - 2)
            self._sites += [Site(call.path, call.index, i, "partial") for i in partial]
        for i, tensor in enumerate(call.outputs):
            key = id(source_of(tensor))
            if key in self._quantized.keys() | self._joined | self._left or 0 in tensor.shape:
                continue
            if self._keeps_range(call):
                self._quantized[key] = self._quantized[id(source_of(call.inputs[0]))]
                continue
            if self._joins_with_next(call, key):
                self._joined.add(key)
                continue
            name = activation_name(operation)
            if name is None and not has_own_code(operation):
                name = function_name(kernel_activation(operation))
            self._add(call, Site(call.path, call.index, i, fixed=FIXED_RANGES.get(name or "")), i)

    def _add(self, call: Call, site: Site, output: int = 0) -> None:
        """Round an output; what is put together shares its range, as it has one scale in files."""
        self._sites.append(site)
        self._quantized[id(source_of(call.outputs[output]))] = site
        parts: list[Site | None] = []
        if name_of(call.operation) in TOGETHER:
            sources = [self._before_moves(source_of(x)) for x in call.inputs]
            parts = [self._quantized.get(id(x)) for x in sources]
        elif isinstance(call.operation, _RECURRENT) and output == 0:  # all states of a cell
            given = [x for x in self._sites if x.kind == "given" and x.output == 1]
            parts = [x for x in given if x.path.startswith(f"{call.path}/")]
        for part in parts:
            if part is not None and part.fixed is None:
                old = self._owners.get(part.name, part.name)
                tied = [name for name, owner in self._owners.items() if owner == old]
                self._owners |= dict.fromkeys([old, *tied, site.name], site.name)

    def _primitive(self, call: Call) -> None:
        """Round what a custom layer computes itself from what is rounded."""
        parent, kind = call.parent, call.operation.type
        closed = parent is not None and isinstance(parent.operation, _WITH_OWN_RULES)
        sources = [self._before_moves(source_of(x)) for x in call.inputs]
        rounded = any(id(x) in self._quantized.keys() | self._joined for x in sources)
        key = id(source_of(call.outputs[0]))
        if closed or not rounded or key in self._quantized:
            return
        if kind in SAME_RANGE_PRIMITIVES and len(sources) == 1:
            same = self._quantized.get(id(sources[0]))
            self._quantized |= {id(source_of(x)): same for x in call.outputs}
        elif key in self._inside:
            self._joined.add(key)
        elif kind in ROUNDED_PRIMITIVES:
            if self._joins_with_next(call, key):
                self._joined.add(key)
                return
            for x in sources if kind not in MULTIPLIED | TOGETHER | {"BiasAdd"} else ():
                self._variable(x)
            index = 0 if parent is None else parent.index
            for i, x in enumerate(sources if kind in RECOMPUTED else ()):
                if x.shape.num_elements() != 1 and is_constant(x):
                    self._sites.append(Site(call.path, index, call.index, f"{kind}:{i}"))
            self._add(call, Site(call.path, index, call.index, kind, self._fixed(call)))

    def _before_moves(self, x: Any) -> Any:
        """Return the variable that a tensor was moved from; another tensor as it is."""
        moved = x
        while op_type(moved) in SAME_RANGE_PRIMITIVES:
            moved = source_of(moved.op.inputs[0])
        return x if self._trace.variable_of(moved) is None else moved

    def _variable(self, x: Any) -> None:
        """Round a variable that is computed with, as the file does."""
        position = self._trace.variable_of(x)
        if position is not None and id(x) not in self._quantized:
            site = self._quantized[id(x)] = Site("", 0, position, "variable")
            self._sites += [] if site in self._sites else [site]

    def _fixed(self, call: Call) -> tuple[float, float] | None:
        return FIXED_RANGES.get(activation_name(call.operation) or "")

    def _keeps_range(self, call: Call) -> bool:
        operation = call.operation
        same = isinstance(operation, SAME_RANGE) or (
            not isinstance(operation, _layers.Layer)
            and name_of(operation) in _SAME_RANGE_OPERATIONS
        )
        given = {id(source_of(x)) for x in call.inputs}
        return same and len(given) == 1 and given <= self._quantized.keys()

    def _next(self, key: int) -> Call | None:
        """Return the only call that takes a tensor; of a layer around others, the inner one."""
        if key in self._outputs:
            return None
        found = [call for call in self._consumers[key] if id(call) not in self._inner]
        return found[0] if len(found) == 1 else None

    def _joins_with_next(self, call: Call, key: int) -> bool:
        following = self._next(key)
        if following is None or following.path in self._spared:
            return False
        kind = name_of(call.operation)
        kernel = isinstance(call.operation, KERNEL_LAYERS) or kind in MULTIPLIED
        adds = isinstance(following.operation, Primitive) and following.operation.type in SUMS
        if kind in MULTIPLIED and adds and len(self._data(following)) == 1:
            return True  # its bias
        if kernel and kernel_activation(call.operation) is not None:
            return False
        if kernel and isinstance(following.operation, _layers.BatchNormalization):
            # A kernel that is called several times takes no normalization in.
            own = isinstance(call.operation, Primitive) or self._times[call.path] == 1
            return own and self._folds(following)
        folded = call.path in self._folded or call.path in self._scaled
        joined = activation_name(following.operation) in _JOINED
        sums = isinstance(call.operation, _layers.Add) or kind in SUMS
        return joined and self._takes_activation(call) and (kernel or folded or sums)

    def _data(self, call: Call) -> list[Any]:
        """Return the inputs of a call, without weights and constants."""
        found = [source_of(x) for x in call.inputs]
        return [x for x in found if op_type(x) not in ("Const", "ReadVariableOp", None)]

    def _takes_activation(self, call: Call) -> bool:
        """Whether the operator of a kernel can apply a rectifier itself."""
        return not isinstance(call.operation, TRANSPOSED) and call.path not in self._transposed

    def _folds(self, normalization: Call) -> bool:
        layer = normalization.operation
        return (
            self._times[normalization.path] == 1
            and layer.axis in (-1, len(normalization.inputs[0].shape) - 1)
            and isinstance(layer, _layers.BatchNormalization)
        )

    def _normalization(self, call: Call) -> None:
        given = source_of(call.inputs[0])
        before = next(
            (
                other
                for other in self._trace.calls
                if isinstance(other.operation, KERNEL_LAYERS)
                and any(source_of(x) is given for x in other.outputs)
            ),
            None,
        )
        if (
            before is not None
            and self._next(id(given)) is call
            and kernel_activation(before.operation) is None
            and self._folds(call)
            and self._times[before.path] == 1
            and before.path not in self._spared
        ):
            self._folded[call.path] = before.path
            if isinstance(before.operation, TRANSPOSED):
                self._transposed.add(call.path)
            return
        if len(call.inputs[0].shape) == 4 and call.operation.axis in (-1, 3):
            self._scaled.add(call.path)
            self._inputs[call.path] = self._quantized.get(id(given))
