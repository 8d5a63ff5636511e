"""The list of stages that is given to `compress`."""

from __future__ import annotations

from typing import Any

from keras_kd.compression.stages.stage import Stage, check_name


def check_stages(stages: Any) -> list[Stage]:
    """Return the stages as a list.

    Args:
        stages: A stage, or some.

    Raises:
        TypeError: If one is no stage.
        ValueError: If there is none, or two have one name or one that is a path.
    """
    stages = [stages] if isinstance(stages, Stage) else list(stages or [])
    if not stages:
        raise ValueError(
            "`stages` is empty: there is nothing to do. Give at least one stage, such as "
            "stages=[keras_kd.Prune(0.75, epochs=4), keras_kd.QuantizeAware(epochs=2)]."
        )
    for stage in stages:
        if not isinstance(stage, Stage):
            raise TypeError(
                "`stages` takes stages such as keras_kd.Prune(0.75, epochs=4), but received "
                f"{stage!r}."
            )
    names = [check_name(stage.name) for stage in stages]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"Two stages are named '{name}': the history could not tell them apart. Give one "
                f'another name: {type(stages[names.index(name)]).__name__}(..., name="{name}_2").'
            )
    return stages
