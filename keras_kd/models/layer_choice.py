"""Choosing the layers that a stage treats, by name or by a function."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras

from keras_kd.models.layers import leaf_layers
from keras_kd.system.names import did_you_mean
from keras_kd.system.shown_text import described

EXCLUDED = "it is excluded by `exclude`"
Choice = str | Sequence[str] | Callable[[Any], bool] | None


class LayerChoice:
    """The layers that a stage is to treat, and those that it is to spare.

    Args:
        stage: Name of the stage, for errors.
        layers: Those to treat, as in `Stage`. Defaults to `None`: all.
        exclude: Those to spare, as in `Stage`. Defaults to `None`: none.

    Raises:
        TypeError: If an argument is of another kind.
    """

    def __init__(self, stage: str, layers: Choice = None, exclude: Choice = None) -> None:
        self._stage = stage
        self.layers = _checked(stage, "layers", layers)
        self.exclude = _checked(stage, "exclude", exclude)

    def reason_to_spare(self, path: str, layer: Any) -> str | None:
        """Return why the layer at `path` is not to be treated, or `None` if it is."""
        if self.exclude is not None and _matches(self.exclude, path, layer):
            return EXCLUDED
        if self.layers is not None and not _matches(self.layers, path, layer):
            return "it is not among `layers`"
        return None

    def check(
        self,
        model: keras.Model,
        reasons: Mapping[str, str],
        leaves: Sequence[tuple[str, Any]] | None = None,
    ) -> None:
        """Refuse names of layers that do not exist or cannot be treated.

        Args:
            model: The student.
            reasons: Why a layer cannot be treated, by path.
            leaves: Path and layer of what may be named. Defaults to `None`: the layers.

        Raises:
            ValueError: If a name matches no layer, or one in `layers` names a layer in `reasons`.
        """
        leaves = leaf_layers(model) if leaves is None else leaves
        for argument, choice in (("layers", self.layers), ("exclude", self.exclude)):
            if choice is None or callable(choice):
                continue
            for name in choice:
                found = [path for path, layer in leaves if _matches([name], path, layer)]
                if not found:
                    existing = [p for p, layer in leaves if getattr(layer, "weights", None)]
                    raise ValueError(
                        f"{self._stage}: `{argument}` names '{name}', but model '{model.name}' has "
                        f"no such layer.{did_you_mean(name, existing)} Its layers with weights "
                        f"are: {', '.join(existing)}."
                    )
                if argument == "layers" and len(found) == 1 and found[0] in reasons:
                    raise ValueError(
                        f"{self._stage}: `layers` names '{name}', which cannot be treated: "
                        f"{reasons[found[0]]}. Remove it from `layers`."
                    )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments `layers` and `exclude`; functions serialized as Keras does it."""
        return {
            key: keras.saving.serialize_keras_object(value) if callable(value) else value
            for key, value in (("layers", self.layers), ("exclude", self.exclude))
        }


def first_reasons(skipped: Mapping[str, str]) -> str:
    """Return the reasons of some layers in brackets, for an error; `""` without any."""
    reasons = "; ".join(f"'{path}': {reason}" for path, reason in list(skipped.items())[:5])
    return f" ({reasons})" if reasons else ""


def _checked(stage: str, argument: str, choice: Any) -> Any:
    if choice is None or callable(choice):
        return choice
    names = [choice] if isinstance(choice, str) else choice
    if not isinstance(names, Iterable) or not all(isinstance(n, str) and n for n in names):
        raise TypeError(
            f"{stage}: `{argument}` must be the name of a layer, a list of names or a function "
            f"that takes a layer and returns True or False. Received: {choice!r}."
        )
    return list(names)


def _matches(choice: Any, path: str, layer: Any) -> bool:
    if callable(choice):
        try:
            return bool(choice(layer))
        except Exception as error:  # it is the user's
            raise ValueError(
                f"The function given as `layers` or `exclude` fails for layer '{path}' "
                f"({type(layer).__name__}): {described(error)}. It is called with every layer that "
                "has weights, and returns True or False."
            ) from error
    return any(
        fnmatch.fnmatchcase(path, name) or fnmatch.fnmatchcase(layer.name, name) for name in choice
    )
