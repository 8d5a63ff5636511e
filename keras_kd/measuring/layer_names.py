"""Which layers the name of a tensor in a TFLite file refers to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

# Names are trees: the children of a name, by name.
Tree = Mapping[str, "Tree"]


class LayerNames:
    """Finds layers in tensor names.

    The converter names a tensor after the operations which it comes from, joined by semicolons, and
    each of them begins with the names of model and layer: `net_1/conv_1/Relu;net_1/bn_1/mul`.
    TensorFlow makes the names unique by a number at the end, so that `conv_1` is the layer `conv`,
    or one which is itself called `conv_1`: every name in the file is given to another layer, and
    where two are possible, to the one that leaves most layers with a name.

    Args:
        model_name: The model's name.
        paths: Paths of its layers, `"backbone/conv"` for one inside a nested model.
        tensor_names: All names of tensors in the file.
    """

    def __init__(self, model_name: str, paths: Iterable[str], tensor_names: Iterable[str]) -> None:
        self._layers: dict[str, list[str]] = {}
        for path in paths:
            parent, _, name = path.rpartition("/")
            self._layers.setdefault(parent, []).append(name)
        parts = [part.split("/") for name in tensor_names for part in name.split(";") if part]
        roots = dict.fromkeys(part[0] for part in parts if len(part) > 1)
        self._roots = {root for root in roots if _is_form_of(root, _safe(model_name))}
        self._found: dict[tuple[str, str], str] = {}
        self._match("", [part[1:] for part in parts if part[0] in self._roots])

    def _match(self, parent: str, parts: Sequence[Sequence[str]]) -> None:
        components = list(dict.fromkeys(part[0] for part in parts if len(part) > 1))
        assigned = _assign(components, self._layers.get(parent, []))
        for component, name in assigned.items():
            path = f"{parent}/{name}" if parent else name
            self._found[parent, component] = path
            if path in self._layers:
                self._match(path, [part[1:] for part in parts if part[0] == component])

    def layers(self, tensor_name: str) -> list[str]:
        """Return the paths of the layers that a tensor's name refers to."""
        found = []
        for part in tensor_name.split(";"):
            root, *rest = part.split("/")
            path = ""
            while root in self._roots and rest and (path, rest[0]) in self._found:
                path = self._found[path, rest[0]]
                rest = rest[1:]
            if path and path not in self._layers:
                found.append(path)
        return list(dict.fromkeys(found))


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.\\/>-]", "_", name)


def _is_form_of(component: str, name: str) -> bool:
    return component == name or re.fullmatch(re.escape(name) + r"_\d+", component) is not None


def _assign(components: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Give as many names as possible a component each, numbered forms first."""
    taken: dict[str, str] = {}  # component -> name

    def place(name: str, tried: set[str]) -> bool:
        forms = [c for c in components if _is_form_of(c, _safe(name))]
        for component in sorted(forms, key=lambda c: c == name):
            if component in tried:
                continue
            tried.add(component)
            if component not in taken or place(taken[component], tried):
                taken[component] = name
                return True
        return False

    for name in names:
        place(name, set())
    return taken
