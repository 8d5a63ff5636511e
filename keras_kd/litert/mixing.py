"""One file out of several of a model: operators taken from a file of another precision."""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from keras_kd.litert.model_file import FLOATS, ModelFile, Operator
from keras_kd.litert.packing import numbers

_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")


def computing_operators(file: ModelFile) -> list[Operator]:
    """Return the operators of a file that compute: all but the conversions between types."""
    return [operator for operator in file.operators() if operator.name not in _CONVERSIONS]


def final_names(file: ModelFile) -> list[str]:
    """Return the name of what each computing operator gives, behind conversions at the end."""
    operators = file.operators()
    ends = {
        (graph, i) for graph in range(len(file.model.subgraphs)) for i in file.graph_outputs(graph)
    }
    named = {
        (operator.graph, operator.input_indices[0]): operator.outputs[0]
        for operator in operators
        if operator.name in _CONVERSIONS and (operator.graph, operator.output_indices[0]) in ends
    }
    return [
        named.get((o.graph, o.output_indices[0]), o.outputs[0]) if o.outputs else ""
        for o in operators
        if o.name not in _CONVERSIONS
    ]


def partners(file: ModelFile, other: ModelFile) -> dict[int, int]:
    """Return which computing operators of two files of one model are the same.

    Args:
        file: A file.
        other: Another one, in another precision.

    Returns:
        The number of an operator among the `computing_operators` of `other` by its number among
        those of `file`; operators which the converter made of other parts have none.
    """
    mine, theirs = computing_operators(file), computing_operators(other)
    my_names, their_names = final_names(file), final_names(other)
    found: dict[int, int] = {}
    # The converter makes names unique by digits, which another precision may shift.
    for form in (str, lambda name: re.sub(r"\d+$", "", name.removesuffix("_int16"))):
        places = defaultdict(list)
        for j, operator in enumerate(theirs):
            if j not in found.values():
                key = (operator.graph, operator.name, form(their_names[j]))
                places[key].append(j)
        for i, operator in enumerate(mine):
            open_ = places[operator.graph, operator.name, form(my_names[i])]
            if i not in found and open_ and _fit(file, operator, other, theirs[open_[0]]):
                found[i] = open_.pop(0)
    # What gives an output may have the output's name in one file and its own in the other.
    for kind in {(operator.graph, operator.name) for operator in mine}:
        left = [i for i, o in enumerate(mine) if i not in found and (o.graph, o.name) == kind]
        open_ = [
            j for j, o in enumerate(theirs) if j not in found.values() and (o.graph, o.name) == kind
        ]
        if len(left) == len(open_) == 1 and _fit(file, mine[left[0]], other, theirs[open_[0]]):
            found[left[0]] = open_[0]
    return found


def _fit(file: ModelFile, mine: Operator, other: ModelFile, theirs: Operator) -> bool:
    """Whether two operators take and give tensors of the same places and shapes."""
    if len(mine.input_indices) != len(theirs.input_indices):
        return False
    pairs = zip(
        (*mine.input_indices, *mine.output_indices),
        (*theirs.input_indices, *theirs.output_indices),
        strict=True,
    )
    for i, j in pairs:
        if (i < 0) != (j < 0):
            return False
        if i >= 0:
            a, b = file.tensor(mine.graph, i), other.tensor(theirs.graph, j)
            if a.shape != b.shape or a.variable or b.variable or (a.constant and not b.constant):
                return False
    return True


def replace_operators(file: ModelFile, other: ModelFile, chosen: Mapping[int, int]) -> None:
    """Replace operators of a file by those of another file of the same model.

    Values are converted where they pass from one precision to the other, and nowhere between two
    operators that are both replaced. What is no longer used is removed.

    Args:
        file: The file, which is changed.
        other: The file with the other operators.
        chosen: The numbers of the operators, as `partners` returns them.
    """
    mine = computing_operators(file)
    raw, others = _raw(file), _raw(other)
    for graph in range(len(file.model.subgraphs)):
        donors = {id(raw[i]): others[j] for i, j in chosen.items() if mine[i].graph == graph}
        if donors:
            _Graph(file, other, graph).replace(donors)
    remove_unused(file)


def _raw(file: ModelFile) -> list[Any]:
    """Return the computing operators as objects of the schema."""
    return [
        operator
        for graph in file.model.subgraphs
        for operator in graph.operators or ()
        if file.operator_name(operator)[0] not in _CONVERSIONS
    ]


class _Graph:
    """One graph, whose operators are replaced in the order in which they run."""

    def __init__(self, file: ModelFile, other: ModelFile, number: int) -> None:
        self._file = file
        self._other = other
        self._number = number
        self._graph = file.model.subgraphs[number]
        self._source = other.model.subgraphs[number]
        self._result: list[Any] = []
        # What holds the values of a tensor in the other precision; what stands in its place.
        self._moved: dict[int, int] = {}
        self._same: dict[int, int] = {}
        self._rounded: set[int] = set()
        self._copied: dict[int, int] = {}
        self._converted: dict[tuple[int, str], int] = {}
        self._made_by = {int(o.outputs[0]): o for o in self._graph.operators if len(o.outputs)}

    def replace(self, donors: Mapping[int, Any]) -> None:
        for operator in self._graph.operators:
            name, _ = self._file.operator_name(operator)
            if id(operator) in donors:
                self._take(operator, donors[id(operator)])
            elif name in _CONVERSIONS:
                self._convert_again(operator)
            else:
                operator.inputs = [self._as_it_was(int(i)) for i in operator.inputs]
                self._result.append(operator)
        for index in numbers(self._graph.outputs):
            self._as_it_was(index)
        self._graph.operators = self._result
        self._keep_ends()

    def _take(self, operator: Any, donor: Any) -> None:
        inputs = [
            self._given(int(mine), int(theirs))
            for mine, theirs in zip(operator.inputs, donor.inputs, strict=True)
        ]
        outputs = []
        for mine, theirs in zip(numbers(operator.outputs), numbers(donor.outputs), strict=True):
            if self._is_like(mine, theirs):
                outputs.append(mine)
            else:
                self._moved[mine] = self._add(theirs, mine)
                outputs.append(self._moved[mine])
        taken = copy.copy(donor)
        taken.inputs, taken.outputs = inputs, outputs
        name, _ = self._other.operator_name(donor)
        version = self._other.model.operatorCodes[donor.opcodeIndex].version
        taken.opcodeIndex = self._file.operator_code(name, version)
        self._result.append(taken)

    def _given(self, mine: int, theirs: int) -> int:
        """Return what a replaced operator takes."""
        if theirs < 0:
            return -1
        if self._other.tensor(self._number, theirs).constant:
            if theirs not in self._copied:
                self._copied[theirs] = self._add(theirs)
            return self._copied[theirs]
        mine = self._same.get(mine, mine)
        finest = self._moved.get(mine, mine)
        if self._is_like(finest, theirs):
            return finest
        made = self._made_by.get(mine)
        if made is not None and self._file.operator_name(made)[0] == "QUANTIZE":
            before = int(made.inputs[0])  # the values before they were rounded
            finest = before if self._kind(before) in (*FLOATS, "INT16") else finest
            if self._is_like(finest, theirs):
                return finest
        kind = self._other.tensor(self._number, theirs).kind
        if (mine, kind) not in self._converted:
            if kind not in FLOATS and self._kind(finest) not in FLOATS:
                floats = self._add_float(finest)
                self._convert(finest, floats)
                finest = floats
            self._converted[mine, kind] = self._add(theirs, mine)
            self._convert(finest, self._converted[mine, kind])
        return self._converted[mine, kind]

    def _convert_again(self, operator: Any) -> None:
        """Let a conversion read the finer values, or leave it out where it then has no work."""
        source, target = (int(x[0]) for x in (operator.inputs, operator.outputs))
        source = self._same.get(source, source)
        if source in self._moved:
            if (
                self._kind(self._moved[source]) == self._kind(target)
                and self._kind(target) in FLOATS
            ):
                self._same[target] = self._moved[source]
                return
            self._convert(self._moved[source], target)
            return
        operator.inputs = [source]
        self._result.append(operator)

    def _as_it_was(self, index: int) -> int:
        """Return a tensor for an operator that stays, rounded where its maker was replaced."""
        index = self._same.get(index, index)
        if index in self._moved and index not in self._rounded:
            self._rounded.add(index)
            self._convert(self._moved[index], index)
        return index

    def _keep_ends(self) -> None:
        """Let the outputs of the graph stay the tensors that they were."""
        for end in numbers(self._graph.outputs):
            if end in self._same:
                inner = self._same[end]
                for operator in self._graph.operators:
                    operator.inputs = [end if i == inner else i for i in numbers(operator.inputs)]
                    operator.outputs = [end if i == inner else i for i in numbers(operator.outputs)]

    def _kind(self, index: int) -> str:
        return self._file.tensor(self._number, index).kind

    def _is_like(self, mine: int, theirs: int) -> bool:
        a, b = self._file.tensor(self._number, mine), self._other.tensor(self._number, theirs)
        return (a.kind, a.scales, a.zero_points) == (b.kind, b.scales, b.zero_points)

    def _convert(self, source: int, target: int) -> None:
        name = "DEQUANTIZE" if self._kind(target) in FLOATS else "QUANTIZE"
        self._result.append(
            self._file.schema.OperatorT(
                opcodeIndex=self._file.operator_code(name, version=2),
                inputs=[source],
                outputs=[target],
            )
        )

    def _add(self, theirs: int, shaped: int | None = None) -> int:
        """Add a tensor of the other file, with the shape of one of this file."""
        tensor = copy.copy(self._source.tensors[theirs])
        data = self._other.stored(tensor.buffer)
        tensor.buffer = 0 if data is None else self._file.add_buffer(data)
        if shaped is not None:
            like = self._graph.tensors[shaped]
            tensor.shape, tensor.shapeSignature = like.shape, like.shapeSignature
        return self._append(tensor)

    def _add_float(self, like: int) -> int:
        tensor = copy.copy(self._graph.tensors[like])
        tensor.type, tensor.quantization = self._file.schema.TensorType.FLOAT32, None
        return self._append(tensor)

    def _append(self, tensor: Any) -> int:
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1


def remove_unused(file: ModelFile) -> None:
    """Remove conversions whose result nobody takes, and tensors and operator codes without use."""
    for number, graph in enumerate(file.model.subgraphs):
        kept = list(graph.operators or ())
        while True:
            used = {i for operator in kept for i in numbers(operator.inputs)}
            used |= set(numbers(graph.outputs)) | _signature_tensors(file, number)
            live = [
                operator
                for operator in kept
                if file.operator_name(operator)[0] not in _CONVERSIONS
                or used & set(numbers(operator.outputs))
            ]
            if len(live) == len(kept):
                break
            kept = live
        graph.operators = kept
        _remove_tensors(file, number)
    codes = file.model.operatorCodes
    operators = [operator for graph in file.model.subgraphs for operator in graph.operators]
    used_codes = sorted({operator.opcodeIndex for operator in operators})
    for operator in operators:
        operator.opcodeIndex = used_codes.index(operator.opcodeIndex)
    file.model.operatorCodes = [codes[i] for i in used_codes]


def _signature_tensors(file: ModelFile, graph: int) -> set[int]:
    return {entry.tensorIndex for entry in _entries(file, graph)}


def _entries(file: ModelFile, graph: int) -> Iterator[Any]:
    for found in file.model.signatureDefs or ():
        if found.subgraphIndex == graph:
            yield from (*(found.inputs or ()), *(found.outputs or ()))


def _remove_tensors(file: ModelFile, number: int) -> None:
    graph = file.model.subgraphs[number]
    fields = ("inputs", "outputs", "intermediates")
    holders: Collection[tuple[Any, str]] = [
        *((operator, field) for operator in graph.operators for field in fields),
        (graph, "inputs"),
        (graph, "outputs"),
    ]
    used = {i for holder, field in holders for i in numbers(getattr(holder, field)) if i >= 0}
    used |= _signature_tensors(file, number)
    places = {old: new for new, old in enumerate(sorted(used))}
    places[-1] = -1
    for holder, field in holders:
        if (found := getattr(holder, field)) is not None:
            setattr(holder, field, np.array([places[i] for i in numbers(found)], np.int32))
    for entry in _entries(file, number):
        entry.tensorIndex = places[entry.tensorIndex]
    graph.tensors = [graph.tensors[i] for i in sorted(used)]
