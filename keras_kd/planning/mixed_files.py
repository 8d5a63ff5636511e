"""Files of one model in several precisions, and any mixture of them, converted once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from keras_kd.export.conversion import Conversion
from keras_kd.export.exclusion import FORMS, operator_layers
from keras_kd.export.keras_source import KerasSource
from keras_kd.export.options import ExportOptions
from keras_kd.export.ways import convert, way_of
from keras_kd.litert.macs import operator_macs
from keras_kd.litert.mixing import computing_operators, partners, replace_operators
from keras_kd.litert.model_file import ModelFile, Tensor

# Arguments of `export_tflite` that go with a mixture; those that have no influence on its numbers.
OPTIONS = ("batch_size", "calibration_batches", "sparse")
SAID = ("class_names", "preprocessing", "keep_names", "integer_io")
# The form of a kernel in an int4 file, by the type of its numbers.
_BY_KIND = {"INT4": "int4", "INT8": "dynamic", "FLOAT32": "float32"}


class MixedFiles:
    """The files of a model from which every mixture is made.

    Args:
        source: The model.
        quantization: The form of all layers that have no other.
        representative: Data to calibrate with, or `None`.
        calibration: How ranges are found, as in `export_tflite`.
        options: Further arguments of it.

    Attributes:
        calibration: The way that was chosen.
        quantization: As given.
        forms: The forms that there are beside it.
        units: The paths of the layers that the file computes together, by a number, in the order in
            which they run. Operators that belong to no layer are in none.
    """

    def __init__(
        self,
        source: KerasSource,
        quantization: str,
        representative: Any,
        calibration: str,
        options: Mapping[str, Any],
    ) -> None:
        given = {name: value for name, value in options.items() if name not in SAID}
        job = Conversion(source, ExportOptions(quantization, **given))
        way = way_of(calibration, quantization)
        job.use_data(representative, None)
        converted, found = convert(job, source, way, quantization, beside=FORMS[quantization])
        chosen = "minmax" if found is None or source.quantization_aware else found["ranges"]
        self.calibration = chosen
        self.quantization = quantization
        self._contents = {quantization: converted.file.packed(), **converted.beside}
        self.forms = tuple(converted.beside)
        self._files = {form: ModelFile(content) for form, content in self._contents.items()}
        self._operators = {form: computing_operators(file) for form, file in self._files.items()}
        exact = self._files["float32"]
        # The number of an operator in another file, by that in the exact file.
        self._numbers = {
            form: {j: i for i, j in partners(file, exact).items()}
            for form, file in self._files.items()
        }
        self._macs = [operator_macs(exact, operator) for operator in self._operators["float32"]]
        known = self._numbers[quantization]
        layers = operator_layers(exact, source.model, converted.signatures)
        self._steps = _groups([paths if j in known else () for j, paths in enumerate(layers)])
        self.units = {
            i: tuple(dict.fromkeys(path for j in steps for path in layers[j]))
            for i, steps in enumerate(self._steps)
        }

    def digest(self) -> str:
        """Return a hash of all files."""
        found = hashlib.sha256()
        for content in self._contents.values():
            found.update(content)
        return found.hexdigest()

    def name(self, unit: int) -> str:
        """Return the name of a unit."""
        return " + ".join(self.units[unit])

    def mixed(self, forms: Mapping[int, str]) -> bytes:
        """Return the file in which units have other forms.

        Args:
            forms: The form by unit.
        """
        return self._replaced(self.quantization, forms)

    def alone(self, unit: int, form: str) -> bytes:
        """Return the exact file with one unit in a form."""
        return self._replaced("float32", {unit: form})

    def _replaced(self, base: str, forms: Mapping[int, str]) -> bytes:
        file = ModelFile(self._contents[base])
        mine = self._numbers[base]
        for form in sorted(set(forms.values())):
            theirs = self._numbers[form]
            chosen = {
                mine[j]: theirs[j]
                for unit, other in forms.items()
                for j in self._steps[unit]
                if other == form and j in mine and j in theirs
            }
            replace_operators(file, ModelFile(self._contents[form]), chosen)
        return file.packed()

    def exclude(self, forms: Mapping[int, str]) -> dict[str, list[str]]:
        """Return the argument `exclude` of `export_tflite` that writes a mixture."""
        found: dict[str, list[str]] = {}
        for unit, form in forms.items():
            found.setdefault(form, []).extend(self.units[unit])
        return {form: sorted(paths) for form, paths in found.items()}

    def operations(self, unit: int) -> int:
        """Return the multiply-accumulate operations of a unit."""
        return sum(self._macs[j] for j in self._steps[unit])

    def integer_operations(self, forms: Mapping[int, str]) -> float:
        """Return the share of the multiply-accumulate operations that are in integers."""
        total = sum(self._macs)
        held = {i: self.precision(i, forms.get(i, self.quantization)) for i in self.units}
        floats = sum(self.operations(i) for i, form in held.items() if form == "float32")
        return 1.0 - floats / total if total else 1.0

    def sizes(self, forms: Mapping[int, str]) -> dict[int, int]:
        """Return the bytes of the constants of each unit."""
        return {unit: self._size(unit, forms.get(unit, self.quantization)) for unit in self.units}

    def precision(self, unit: int, form: str) -> str:
        """Return the form that a unit really has: of int4, the kernels decide.

        Args:
            unit: Its number.
            form: The form that was asked for.
        """
        if form != "int4":
            return form
        kinds = {x.kind for x in self._constants(unit, form) if len(x.shape) >= 2}
        held = {name for kind, name in _BY_KIND.items() if kind in kinds}
        # Beside kernels of fewer bits, a constant in float is not a kernel.
        return " + ".join(sorted(held - {"float32"} or held)) or form

    def _size(self, unit: int, form: str) -> int:
        stored = (constant.data for constant in self._constants(unit, form))
        return sum(data.nbytes for data in stored if data is not None)

    def _constants(self, unit: int, form: str) -> list[Tensor]:
        """Return the constants of a unit in a form."""
        file, operators, numbers = self._files[form], self._operators[form], self._numbers[form]
        taken = {
            (operators[numbers[j]].graph, index)
            for j in self._steps[unit]
            if j in numbers
            for index in operators[numbers[j]].input_indices
            if index >= 0
        }
        found = (file.tensor(graph, index) for graph, index in taken)
        return [tensor for tensor in found if tensor.data is not None]


def _groups(layers: Sequence[Sequence[str]]) -> list[list[int]]:
    """Return the operators that share layers, as groups in the order of their first one."""
    groups: list[tuple[set[str], list[int]]] = []
    for j, paths in enumerate(layers):
        if not paths:
            continue
        same = [group for group in groups if group[0] & set(paths)]
        merged = (
            set(paths).union(*(group[0] for group in same)),
            sorted([*(i for group in same for i in group[1]), j]),
        )
        groups = [group for group in groups if group not in same] + [merged]
    return sorted((steps for _, steps in groups), key=lambda steps: steps[0])
