"""Structures of outputs: tensors in lists, tuples and dictionaries, nested as models give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

Path = tuple[Any, ...]


def leaves(structure: Any, path: Path = ()) -> list[tuple[Any, Path]]:
    """Return every leaf of a structure, `None` included, with the keys that lead to it."""
    if isinstance(structure, Mapping):
        items = list(structure.items())
    elif isinstance(structure, (list, tuple)):
        items = list(enumerate(structure))
    else:
        return [(structure, path)]
    return [leaf for key, part in items for leaf in leaves(part, (*path, key))]


def at(structure: Any, path: Path, names: Sequence[str] | None = None) -> Any:
    """Return the part of a structure at a path.

    Args:
        structure: A structure.
        path: Keys of dictionaries and indices of lists.
        names: Names of outputs, by which a dictionary may be keyed where `path` has an index.
            Defaults to `None`.

    Raises:
        LookupError: If nothing is there.
    """
    for key in path:
        if not isinstance(structure, (Mapping, list, tuple)):
            raise LookupError(key)
        if isinstance(structure, Mapping) and key not in structure and isinstance(key, int):
            key = names[key] if names is not None and key < len(names) else key
        if isinstance(structure, (list, tuple)) and not isinstance(key, int):
            raise LookupError(key)
        structure = structure[key]
    return structure


def arrange(values: Any, outputs: Any, names: Sequence[str] | None, argument: str) -> Any:
    """Return a dictionary keyed by the names of outputs in the order of a list of outputs.

    Args:
        values: A dictionary by name, or anything else, which is returned as it is.
        outputs: The outputs: one tensor, or a list or a tuple of them.
        names: The name of every output; `None` where a model does not tell them.
        argument: What `values` is called in the error.

    Returns:
        A list, with `None` where no value was given; one value where there is one output.

    Raises:
        ValueError: If `values` names an output that does not exist.
    """
    single = not keras.tree.is_nested(outputs)
    flat = single or (
        isinstance(outputs, (list, tuple)) and not any(map(keras.tree.is_nested, outputs))
    )
    if not isinstance(values, Mapping) or not flat or names is None:
        return values
    unknown = [key for key in values if key not in names]
    if unknown:
        raise ValueError(
            f"`{argument}` names the output {unknown[0]!r}, but the student's outputs are: "
            f"{', '.join(map(repr, names))}."
        )
    arranged = [values.get(name) for name in names]
    return arranged[0] if single else arranged
