"""Layers that a file holds in another precision than the rest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import keras

from keras_kd.export.int4 import WITH_WEIGHTS
from keras_kd.export.promises import kinds_of, stored_kernels
from keras_kd.export.signatures import Signature
from keras_kd.litert.mixing import (
    computing_operators,
    final_names,
    partners,
    replace_operators,
)
from keras_kd.litert.model_file import FLOATS, ModelFile
from keras_kd.measuring.layer_names import LayerNames
from keras_kd.models.features import layer_paths
from keras_kd.models.graph import calls_of, origin_of
from keras_kd.models.keras_2_masks import plain_type
from keras_kd.models.layer_choice import Choice, LayerChoice
from keras_kd.models.layers import acts_in_training_only, leaf_layers, leaf_operations, paths_above

Exclude = Choice | Mapping[str, Choice]
# What the layers of a file may have instead of its own precision; the last one is the finest.
FORMS: dict[str, tuple[str, ...]] = {
    "float32": (),
    "float16": (),
    "weight_only": ("float32",),
    "dynamic": ("float32",),
    "int8": ("int16x8", "float32"),
    "int16x8": ("float32",),
    "int4": ("dynamic", "float32"),
}
_FINENESS = ("dynamic", "int16x8", "float32")


def check_exclude(exclude: Exclude, quantization: str) -> dict[str, LayerChoice]:
    """Return the choice of layers by the precision that they have in place of the file's own.

    Args:
        exclude: What `export_tflite` was given.
        quantization: The file's format.

    Raises:
        ValueError: If the format has nothing to exclude layers from, or no such layers.
        TypeError: If it is of another kind.
    """
    if exclude is None:
        return {}
    forms = FORMS[quantization]
    if not forms:
        raise ValueError(
            f"`exclude` leaves layers in float, but the whole file is in float. "
            f"Received: exclude={exclude!r}, quantization={quantization!r}. Leave `exclude` out, "
            'or use quantization="int8".'
        )
    given = exclude if isinstance(exclude, Mapping) else {"float32": exclude}
    if wrong := [form for form in given if form not in forms]:
        raise ValueError(
            f"A file of quantization={quantization!r} has no layers in {wrong[0]!r}. Received: "
            f"exclude={exclude!r}. Use keys of {list(forms)}."
        )
    return {
        form: LayerChoice("export_tflite", exclude=choice)
        for form, choice in given.items()
        if choice is not None
    }


def excluded_layers(model: keras.Model, choices: Mapping[str, LayerChoice]) -> dict[str, str]:
    """Return the precision of the layers that do not have the file's own, by path.

    Args:
        model: The model.
        choices: What `check_exclude` returned.

    Raises:
        ValueError: If a name matches no layer.
    """
    found = {}
    leaves = leaf_operations(model)
    for form, choice in sorted(choices.items(), key=lambda item: _FINENESS.index(item[0])):
        choice.check(model, {}, leaves)
        for path, layer in leaves:
            asked = isinstance(layer, keras.layers.Layer) or not callable(choice.exclude)
            if asked and choice.reason_to_spare(path, layer) is not None:
                found[path] = form
    return found


def operator_layers(
    file: ModelFile, model: keras.Model, signatures: Mapping[str, Signature]
) -> list[tuple[str, ...]]:
    """Return the paths of the layers that each computing operator of a file belongs to.

    Args:
        file: A file with the names of its tensors.
        model: The model.
        signatures: The file's signatures.
    """
    origins = {}
    for key, signature in signatures.items():
        graph = file.signature_graphs().get(key, 0)
        tensors = file.signature(key)[1]
        for name, origin in zip(signature.outputs, signature.origins, strict=False):
            if name in tensors:
                origins[graph, file.tensor(graph, tensors[name]).name] = origin
    spoken = []
    for operator, name in zip(computing_operators(file), final_names(file), strict=True):
        made_by = origins.get((operator.graph, name))
        if made_by is None:
            parts = ";".join(operator.outputs).split(";")
            # What moves values bears the name of the quantizer before it, too.
            own = [part for part in parts if "FakeQuant" not in part]
            spoken.append(";".join(own or parts))
        else:  # an output has its own name, which says nothing of the layers
            taken = [file.tensor(operator.graph, i) for i in operator.input_indices if i >= 0]
            kernels = [x.name for x in taken if x.constant and len(x.shape) > 1]
            spoken.append(";".join([*kernels, made_by]))
    leaves = dict(leaf_operations(model))
    names = LayerNames(model.name, dict.fromkeys([*layer_paths(model), *leaves]), spoken)

    def leaf(path: str) -> str:
        """Return the layer that can be named: that around layers which no model holds."""
        return next((above for above in paths_above(path) if above in leaves), path)

    return [tuple(dict.fromkeys(map(leaf, names.layers(name)))) for name in spoken]


def exclude_layers(
    file: ModelFile,
    forms: Mapping[str, str],
    make: Callable[[str], ModelFile],
    model: keras.Model,
    signatures: Mapping[str, Signature],
) -> dict[str, str]:
    """Give layers of a file the operators of another file of the same model.

    Args:
        file: The file, which is changed.
        forms: The precision of layers by their path.
        make: Returns the file of a precision.
        model: The model.
        signatures: The file's signatures.

    Returns:
        What to say of layers whose operators are not found in both files, by path.
    """
    found: set[str] = set()
    problems: dict[str, str] = {}
    for form in sorted(set(forms.values()), key=_FINENESS.index, reverse=True):
        other = make(form)
        wanted: dict[int, set[str]] = {}
        for j, paths in enumerate(operator_layers(other, model, signatures)):
            of = {above for path in paths for above in paths_above(path) if above in forms}
            found |= of
            finest = max((_FINENESS.index(forms[path]) for path in of), default=-1)
            if finest == _FINENESS.index(form):
                wanted[j] = of
        pairs = partners(file, other)
        for path in {path for j in set(wanted) - set(pairs.values()) for path in wanted[j]}:
            problems[path] = (
                f"Layer '{path}' cannot be left in {form}: the converter uses other "
                "operators for it when it quantizes. Exclude other layers, or use "
                'quantization="dynamic".'
            )
        replace_operators(file, other, {i: j for i, j in pairs.items() if j in wanted})
    return {**problems, **_without_operators(model, forms, found)}


def _without_operators(
    model: keras.Model, forms: Mapping[str, str], found: Collection[str]
) -> dict[str, str]:
    """Return what to say of layers that compute and are folded into others, by path."""
    problems = {}
    for path, layer in leaf_operations(model):
        name = plain_type(layer).__name__
        if path not in forms or path in found or acts_in_training_only(name) or name in _MOVES:
            continue
        before = _before(model, layer)
        if before not in forms:
            into = f"'{before}'" if before else "the layer before it"
            problems[path] = (
                f"Layer '{path}' cannot be left in {forms[path]} alone: the converter folds it "
                f"into {into}. Exclude {into} too."
            )
    return problems


_MOVES = ("Flatten", "Identity", "Reshape")


def _before(model: keras.Model, layer: Any) -> str | None:
    """Return the path of the layer or operation whose output a layer takes, if it is known."""
    calls = calls_of(layer)
    tensors = calls[0].arguments.keras_tensors if len(calls) == 1 else ()
    origin = origin_of(tensors[0]) if tensors else None
    if origin is None:
        return None
    return next((path for path, x in leaf_operations(model) if x is origin.operation), None)


def check_excluded(
    model: keras.Model,
    forms: Mapping[str, str],
    file: ModelFile,
    signatures: Mapping[str, Signature],
    target: Any,
) -> set[str]:
    """Make sure that the layers which a file was to hold in float are in float.

    Args:
        model: The model.
        forms: The precision of layers by their path.
        file: The file.
        signatures: Its signatures.
        target: Its final name, for messages.

    Returns:
        Names of the outputs of the operators that have another precision.

    Raises:
        ValueError: If one is not.
    """
    floats = {path for path, form in forms.items() if form == "float32"}
    wrong: set[str] = set()
    outputs: set[str] = set()
    layers = operator_layers(file, model, signatures)
    for operator, paths in zip(computing_operators(file), layers, strict=True):
        of = {above for path in paths for above in paths_above(path) if above in forms}
        outputs |= set(operator.outputs) if of else set()
        taken = [file.tensor(operator.graph, i).kind for i in operator.input_indices if i >= 0]
        kinds = {*operator.output_types, *(taken if operator.name in WITH_WEIGHTS else ())}
        if kinds & {"INT4", "INT8", "INT16"}:
            wrong |= of & floats
    kernels = list(stored_kernels(file, bits=0))
    for path, layer in leaf_layers(model):
        for weight in layer.weights if path in floats else ():
            kinds = set(kinds_of(weight, kernels)) if len(weight.shape) > 1 else set()
            if kinds and not kinds & set(FLOATS):
                wrong.add(path)
    if wrong:
        raise ValueError(
            f"'{target}' was not written: it would hold {_named(wrong)} in integers despite "
            "`exclude`. Also exclude the layers that share weights with them, or remove them "
            "from `exclude`."
        )
    return outputs


def _named(paths: Iterable[str]) -> str:
    shown: Sequence[str] = sorted(paths)
    return f"layer{'s' if len(shown) > 1 else ''} {', '.join(map(repr, shown[:5]))}"
