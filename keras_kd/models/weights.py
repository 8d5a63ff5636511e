"""The weights of models: finite, and no two models' where they must stay apart."""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd.models.graph import flat_layers


def models_in(value: Any, own: Any = None) -> list[Any]:
    """Return the models and layers that a callable runs, as far as can be seen without a call.

    Args:
        value: A model, a layer, or a function, a method, a `functools.partial` or an object that
            holds some: in its arguments, in variables or globals that it reads, in attributes.
        own: A model that is left out where a function runs it. Defaults to `None`.
    """
    return list({id(model): model for model in _models_in(value, own, _DEPTH, set())}.values())


_DEPTH = 3  # of functions that call functions


def _models_in(value: Any, own: Any, depth: int, seen: set[int]) -> Iterator[Any]:
    if isinstance(value, (keras.layers.Layer, tf.Module)):
        yield value
    if depth and not isinstance(value, keras.layers.Layer) and id(value) not in seen:
        seen.add(id(value))
        deeper = depth - isinstance(value, types.FunctionType)
        for part in _parts(value):
            if part is not own or deeper == _DEPTH:
                yield from _models_in(part, own, deeper, seen)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, tf.Module):
        return list(vars(value).values())
    if not callable(value) or isinstance(value, type):
        return []
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.MethodType):
        read = _names(getattr(value.__func__, "__code__", None), "LOAD_ATTR", "LOAD_METHOD")
        return _attributes(value.__self__, lambda name: name in read)
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_full(cell)]
        found = [value.__globals__.get(name) for name in _names(value.__code__, "LOAD_GLOBAL")]
        # Of the models in a list a function may run some only.
        found += [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        return [part for part in found if not isinstance(part, (list, tuple))]
    if type(value).__module__.split(".")[0] == __name__.split(".")[0]:
        return _attributes(value, lambda name: True)
    return [getattr(value, "__call__", None)]  # noqa: B004


def _attributes(value: Any, wanted: Callable[[str], bool]) -> list[Any]:
    if isinstance(value, (keras.layers.Layer, tf.Module)):
        return [value]
    found: Mapping[str, Any] = getattr(value, "__dict__", {})
    return [part for name, part in found.items() if wanted(name)]


def _names(code: Any, *operations: str) -> set[str]:
    """Return the names that code reads by these operations, also in the functions inside it."""
    if not isinstance(code, types.CodeType):
        return set()
    read = {i.argval for i in dis.get_instructions(code) if i.opname in operations}
    return read.union(*(_names(constant, *operations) for constant in code.co_consts))


def _is_full(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _key(variable: Any) -> int:
    """Return what is the same for a Keras variable and the TensorFlow variable in it."""
    return id(variable.value if isinstance(variable, keras.Variable) else variable)


def _variables_of(models: list[Any]) -> list[Any]:
    return [v for m in models for v in (m.weights if hasattr(m, "weights") else m.variables)]


def check_apart(
    student: Any, teacher: Any, roles: tuple[str, str] = ("student", "teacher")
) -> None:
    """Refuse a student that shares variables with its teacher: training would change both.

    The statistics of a `Normalization` may be shared; training does not change them. A function
    may run the student itself, which then learns from its own outputs.

    Args:
        student: The model that is trained.
        teacher: A model, or a callable that runs some.
        roles: What the two are called. Defaults to `("student", "teacher")`.

    Raises:
        ValueError: Naming the layers.
    """
    ours, theirs = roles
    name = getattr(student, "name", type(student).__name__)
    cure = (
        f"Give the {ours} layers of its own: copied = keras.models.clone_model(model); "
        "copied.set_weights(model.get_weights())."
    )
    models = models_in(teacher, own=student)
    if any(student is model for model in models):
        raise ValueError(
            f"The {ours} '{name}' is the {theirs} itself: training would change both. {cure}"
        )
    taken = {_key(variable) for variable in _variables_of(models)}
    fixed = {
        _key(variable)
        for layer in flat_layers(student)
        if isinstance(layer, keras.layers.Normalization)
        for variable in layer.weights
    }
    shared = [v.path for v in student.weights if _key(v) in taken - fixed]
    if shared:
        layers = dict.fromkeys(path.rpartition("/")[0] or path for path in shared)
        more = f" and {len(layers) - 5} more" if len(layers) > 5 else ""
        raise ValueError(
            f"The {ours} '{name}' shares variables with the {theirs}: training would change both. "
            f"Received: layers {', '.join(map(repr, list(layers)[:5]))}{more} in both. {cure}"
        )


def has_finite_weights(model: keras.Model) -> bool:
    """Whether no weight of a model is NaN or infinite."""
    try:
        check_finite_weights(model, "model")
    except ValueError:
        return False
    return True


def check_finite_weights(value: Any, role: str) -> None:
    """Refuse weights that are NaN or infinite.

    Args:
        value: A model, or a callable that runs some.
        role: What it is called.

    Raises:
        ValueError: Naming the first such weight.
    """
    for variable in _variables_of(models_in(value)):
        if "float" not in str(variable.dtype):
            continue
        array = tf.convert_to_tensor(variable).numpy()
        wrong = array.size - int(np.count_nonzero(np.isfinite(array)))
        if wrong:
            name = getattr(variable, "path", variable.name)
            raise ValueError(
                f"The {role} has weights that are NaN or infinite. Received: '{name}' with {wrong} "
                f"of {array.size} values not finite. Load the weights of an earlier epoch, or "
                "train the model again with a lower learning rate."
            )
