"""pair_levels: hints between the levels of two feature pyramids."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras

from keras_kd.distilling.hints import Hint
from keras_kd.losses.fitnet import FitNet
from keras_kd.losses.shared.base import DistillationLoss
from keras_kd.models.features import feature_shape, find_layer
from keras_kd.models.graph import graph_layers, is_graph


def pair_levels(
    teacher: keras.Model,
    student: keras.Model,
    loss: DistillationLoss | None = None,
    *,
    levels: Sequence[int] | None = None,
    teacher_within: str | None = None,
    student_within: str | None = None,
) -> list[Hint]:
    """Return a hint for each level that the feature pyramids of two models share.

    Level `l` is the resolution of the input divided by `2^l`. Of each model the last layer at a
    level is taken, in the order of its graph. A level has a loss of its own, made from the
    configuration of `loss`.

    Args:
        teacher: The teacher, a functional or sequential model.
        student: The student, likewise.
        loss: A loss on feature maps. Defaults to `None`, `FitNet()`.
        levels: The levels to pair. Defaults to `None`, all from level 2 (stride 4) on that both
            models have.
        teacher_within: Path of a nested model of the teacher, such as `"backbone"`, whose layers
            alone count. Defaults to `None`, all layers.
        student_within: The same for the student. Defaults to `None`.

    Returns:
        Hints, from the finest level to the coarsest.

    Raises:
        ValueError: If a model has no graph or no input of known size, or a level is missing.

    Example:

    ```python
    hints = keras_kd.pair_levels(teacher, student, keras_kd.losses.PearsonFeatures())
    distiller = keras_kd.Distiller(teacher, student, [keras_kd.losses.KLDivergence(), *hints])
    ```
    """
    sides = [
        _layers_by_level(role, model, within)
        for role, model, within in (
            ("teacher", teacher, teacher_within),
            ("student", student, student_within),
        )
    ]
    if levels is None:
        levels = sorted(level for level in sides[0].keys() & sides[1].keys() if level >= 2)
    missing = [level for level in levels if level not in sides[0] or level not in sides[1]]
    if missing or not levels:
        raise ValueError(
            "The models share no such levels of a feature pyramid. Received: "
            f"levels={list(levels)}; the teacher has {sorted(sides[0])}, the student "
            f"{sorted(sides[1])}. Choose levels that both have, or write the hints: "
            'keras_kd.Hint("teacher_layer", "student_layer").'
        )
    loss = loss or FitNet()
    return [Hint(sides[0][level], sides[1][level], loss=loss.fresh()) for level in levels]


def _layers_by_level(role: str, model: keras.Model, within: str | None) -> dict[int, str]:
    inner = model if within is None else find_layer(model, within)
    if not is_graph(model) or not is_graph(inner):
        raise ValueError(
            f"The levels of the {role} cannot be read: it has no graph. Received: model "
            f"'{inner.name}', a {type(inner).__name__}. Write the hints: "
            'keras_kd.Hint("teacher_layer", "student_layer").'
        )
    inputs = [tuple(x.shape[1:3]) for x in model.inputs if len(x.shape) == 4]
    if not inputs or None in inputs[0]:
        raise ValueError(
            f"The levels of the {role} cannot be read: its input has no known size. Received: "
            f"inputs of shape {[tuple(x.shape) for x in model.inputs]}. Write the hints: "
            'keras_kd.Hint("teacher_layer", "student_layer").'
        )
    found: dict[int, str] = {}
    for path, _ in graph_layers(inner, "" if within is None else f"{within}/"):
        shape = feature_shape(model, path)
        if shape is None or len(shape) != 4 or None in shape[1:]:
            continue
        strides = {
            round(math.log2(side / part)) for side, part in zip(inputs[0], shape[1:3], strict=True)
        }
        if len(strides) == 1 and 1 not in shape[1:3]:
            found[strides.pop()] = path
    return found
