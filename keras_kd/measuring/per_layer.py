"""Where in a TFLite file its numbers begin to differ from the Keras model's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_kd.data.numpy_batches import Batch, safe_name
from keras_kd.litert.metadata import without_names
from keras_kd.litert.runtime import LiteRuntime
from keras_kd.measuring.differences import Differences
from keras_kd.measuring.layer_names import LayerNames
from keras_kd.models.features import FeatureReader, layer_paths
from keras_kd.models.outputs import name_outputs
from keras_kd.models.recurrent import without_state

# What 8 bits cost any layer; below it, growth says nothing.
_FLOOR = 0.01


@dataclasses.dataclass(frozen=True)
class LayerDifference:
    """How far one tensor of a file is from the layer which it belongs to.

    Attributes:
        layer: The layer whose output the tensor holds; `"backbone/conv"` inside a nested model.
        fused: Layers before it which the file computes in the same operator, as a convolution and
            its normalization: they have no tensor of their own.
        tensor: The tensor's name.
        kind: Its type, as `"INT8"`.
        relative_error: Root mean square of the difference, divided by the standard deviation of
            the layer's output: 0 is equal, 1 is as wrong as its mean. Where the output is constant,
            divided by its root mean square; infinite where that is 0 and something differs.
            `None` for integers or yes and no, which are not amounts.
        signal_to_noise_db: `10 log10(sum(output²) / sum(difference²))`, infinite if equal.
        max_difference: Largest absolute difference.
        growth: The relative error divided by the largest of those which come in, both counted as
            at least 0.01.
        operator: The number, in the file's first graph, of the operator that computes the tensor;
            `None` in the graph of another signature.
    """

    layer: str
    fused: tuple[str, ...]
    tensor: str
    kind: str
    relative_error: float | None
    signal_to_noise_db: float
    max_difference: float
    growth: float | None
    operator: int | None = None

    @property
    def layers(self) -> tuple[str, ...]:
        """The fused layers and the layer itself."""
        return (*self.fused, self.layer)


class _Calls(dict[str, Any]):
    """Outputs by layer, and the layers which were called more than once."""

    def __init__(self) -> None:
        super().__init__()
        self.repeated: list[str] = []

    def __setitem__(self, path: str, output: Any) -> None:
        if path in self and path not in self.repeated:
            self.repeated.append(path)
        super().__setitem__(path, output)


class LayerComparison:
    """Compares the layers of a model with the tensors of a file.

    The file runs with LiteRT's own kernels, in which every tensor can be read.

    Args:
        model: A Keras model, or a compressed one.
        path: The file.

    Attributes:
        not_found: Layers that were called and have no tensor in the file, or several.
    """

    def __init__(self, model: Any, path: Any) -> None:
        self._model = getattr(model, "model", model)
        self._runtime = LiteRuntime(path, xnnpack=False, preserve_all_tensors=True)
        if not self._runtime.file.has_names:
            raise ValueError(without_names(path))
        self._paths = layer_paths(self._model)
        self._reader = FeatureReader(self._model, self._paths)
        self._tensors: dict[str, int] = {}  # layer -> tensor
        self._fused: dict[str, tuple[str, ...]] = {}
        self._sums: dict[str, Differences] = {}
        self._amounts: set[str] = set()  # layers that do not give integers or yes and no
        self._repeated: list[str] = []
        self.not_found: list[str] = []

    def add(self, batches: Iterable[Batch]) -> None:
        """Run model and file on batches."""
        for batch in batches:
            features, outputs = self._features(batch.x)
            step = self._runtime.batch or batch.size
            for start in range(0, batch.size, step):
                rows = np.minimum(np.arange(start, start + step), batch.size - 1)
                kept = min(step, batch.size - start)
                self._runtime.predict({name: x[rows] for name, x in batch.inputs.items()})
                if not self._sums:
                    self._match(features, outputs, rows)
                for layer, tensor in self._tensors.items():
                    value = self._runtime.tensor_value(tensor)
                    value = value[:kept] if kept < step else value
                    expected = features[layer][start : start + kept]
                    if value.size == expected.size:
                        self._sums[layer].add(expected.reshape(value.shape), value)

    def _features(self, x: Any) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Return the output of every layer in the order of the calls, and that of every output."""
        x = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
        calls = _Calls()
        with without_state(self._model), self._reader.reading(calls) as features:
            named = name_outputs(self._model, self._model(x, training=False))
        nested = {path.rpartition("/")[0] for path in self._paths}
        leaves = {
            path: feature
            for path, feature in features.items()
            if path not in nested and hasattr(feature, "shape")
        }
        # One tensor a call is in the file, and their names do not say which is which.
        self._repeated = [path for path in calls.repeated if leaves.pop(path, None) is not None]
        made_by = {
            safe_name(name): path
            for name, tensor in named.items()
            for path, feature in leaves.items()
            if feature is tensor
        }
        floats = keras.backend.is_float_dtype
        self._amounts = {path for path, f in leaves.items() if floats(f.dtype)}
        return {path: np.asarray(f, np.float32) for path, f in leaves.items()}, made_by

    def _match(
        self, features: Mapping[str, np.ndarray], made_by: Mapping[str, str], rows: np.ndarray
    ) -> None:
        """Find the tensor of every layer: the last one with its name and its shape."""
        file = self._runtime.file
        operators = [operator for operator in file.operators() if operator.graph == 0]
        names = LayerNames(
            self._model.name, self._paths, [n for operator in operators for n in operator.outputs]
        )
        order = {path: number for number, path in enumerate(features)}
        results = self._output_tensors(made_by)
        spoken: dict[str, list[str]] = {}
        for operator in operators:
            for index, name in zip(operator.output_indices, operator.outputs, strict=True):
                found = sorted((p for p in names.layers(name) if p in order), key=order.__getitem__)
                if index in results and results[index] in order:
                    found = [p for p in found if p != results[index]] + [results[index]]
                shape = _without_ones(self._runtime.tensor_shape(0, index))
                if not found or shape != _without_ones((len(rows), *features[found[-1]].shape[1:])):
                    continue
                self._tensors.pop(found[-1], None)  # the order is that of the last tensors
                self._tensors[found[-1]] = index
                spoken[found[-1]] = found[:-1]
        for layer, others in spoken.items():
            self._fused[layer] = tuple(other for other in others if other not in self._tensors)
        self._follow(features, rows)
        self._sums = {layer: Differences() for layer in self._tensors}
        known = set(self._tensors) | {p for fused in self._fused.values() for p in fused}
        self.not_found = [path for path in features if path not in known]
        self.not_found += self._repeated

    def _follow(self, features: Mapping[str, np.ndarray], rows: np.ndarray) -> None:
        """Give a tensor to the layer behind its own which was folded into it without a name.

        So are normalizations behind convolutions. The tensor then is nearer to that layer's output.
        """
        paths = list(features)
        named = set(self._tensors) | {p for fused in self._fused.values() for p in fused}
        tensors, fused = self._tensors, self._fused
        self._tensors, self._fused = {}, {}
        for layer, index in tensors.items():
            value = self._runtime.tensor_value(index)
            chain, last, least = [layer], 0, np.inf
            for path in paths[paths.index(layer) + 1 :]:
                if path in named or features[path].shape != features[layer].shape:
                    break
                chain.append(path)
            for position, path in enumerate(chain):
                expected = features[path][rows]
                if expected.size != value.size:
                    break
                difference = float(np.square(expected.reshape(value.shape) - value).sum())
                if difference <= least:
                    last, least = position, difference
            self._tensors[chain[last]] = index
            self._fused[chain[last]] = (*fused[layer], *chain[:last])

    def _output_tensors(self, made_by: Mapping[str, str]) -> dict[int, str]:
        """Return the layer of every output tensor, which may have another name."""
        indices = self._runtime.file.graph_outputs(0)
        names = self._runtime.output_names
        paths = list(made_by.values())
        return {
            index: made_by.get(name, paths[i] if len(paths) == len(names) else "")
            for i, (index, name) in enumerate(zip(indices, names, strict=True))
        }

    def result(self) -> tuple[LayerDifference, ...]:
        """Return a row for every layer that was found, in the order of the file."""
        errors: dict[int, float | None] = {}
        rows = []
        before = self._incoming()
        made_by: dict[int, int] = {}
        for number, operator in enumerate(self._runtime.file.graphs()[0].operators):
            given = operator.input_indices[0] if operator.input_indices else -1
            converts = operator.name in ("QUANTIZE", "DEQUANTIZE")
            maker = made_by.get(given, number) if converts else number
            made_by |= dict.fromkeys(operator.output_indices, maker)
        for layer, index in self._tensors.items():
            sums = self._sums[layer]
            if sums.root_mean_square is None or sums.largest is None:
                continue
            errors[index] = error = sums.relative_error if layer in self._amounts else None
            incoming = max((errors.get(i) or 0.0 for i in before[index]), default=0.0)
            tensor = self._runtime.file.tensor(0, index)
            rows.append(
                LayerDifference(
                    layer=layer,
                    fused=self._fused[layer],
                    tensor=tensor.name,
                    kind=tensor.kind,
                    relative_error=error,
                    signal_to_noise_db=sums.signal_to_noise_db or 0.0,
                    max_difference=sums.largest,
                    growth=None if error is None else max(error, _FLOOR) / max(incoming, _FLOOR),
                    operator=made_by.get(index),
                )
            )
        return tuple(rows)

    def _incoming(self) -> dict[int, set[int]]:
        """Return, for every matched tensor, the matched tensors that it is computed from."""
        made = {
            index: operator
            for operator in self._runtime.file.operators()
            if operator.graph == 0
            for index in operator.output_indices
        }
        matched = set(self._tensors.values())
        found: dict[int, set[int]] = {}
        for start in matched:
            found[start] = set()
            open_, seen = [start], {start}
            while open_:
                operator = made.get(open_.pop())
                for index in () if operator is None else operator.input_indices:
                    if index in matched:
                        found[start].add(index)
                    elif index not in seen:
                        open_.append(index)
                    seen.add(index)
        return found


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    # Operators on sequences run as ones on images of height 1.
    return tuple(size for size in shape if size != 1)
