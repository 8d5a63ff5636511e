"""Validation of arguments, above all of numbers."""

from __future__ import annotations

import inspect
import math
import numbers
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether a value is a real number, of Python or NumPy; a bool is not."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def exceeds(lost: float, limit: float) -> bool:
    """Return whether more points are lost than a limit allows, or NaN, which is within none.

    At the limit is within it. Shares of a count are not exact in binary, those of Keras's metrics
    in 32 bits: 98 % less 97.5 % may be above 0.5 points. One sample of a million is 1e-4 points.

    Args:
        lost: Points of a metric, hundredths.
        limit: Points that may be lost.
    """
    return not lost <= limit + 2e-5


def constructor_defaults(kind: type) -> dict[str, Any]:
    """Return the arguments of a class, those that it passes on to its bases included.

    Args:
        kind: The class.

    Returns:
        Defaults by name; `inspect.Parameter.empty` for arguments that have none.
    """
    found: dict[str, Any] = {}
    for base in kind.__mro__:
        if "__init__" in vars(base) and base is not object:
            parameters = [*inspect.signature(vars(base)["__init__"]).parameters.values()][1:]
            for p in parameters:
                if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
                    found.setdefault(p.name, p.default)
            if all(p.kind is not p.VAR_KEYWORD for p in parameters):
                break
    return found


def constructor_arguments(kind: type) -> list[str]:
    """Return the names of the arguments of a class, those that it passes on to its bases included.

    Args:
        kind: The class.
    """
    return list(constructor_defaults(kind))


def with_added(kept: Any, now: Any, defaults: Mapping[str, Any]) -> Any:
    """Return the arguments of an earlier run with those that were added since, at their defaults.

    Args:
        kept: The arguments by name, as the run kept them.
        now: The arguments of this run.
        defaults: Defaults by name; those of an argument that is a dictionary itself as another
            dictionary. An added argument with another value, or without a default, stays missing.
    """
    if not isinstance(kept, Mapping) or not isinstance(now, Mapping):
        return kept
    found = dict(kept)
    for name, value in now.items():
        default = defaults.get(name, inspect.Parameter.empty)
        if name in found:
            if isinstance(default, Mapping):
                found[name] = with_added(found[name], value, default)
        elif value == default or (isinstance(default, tuple) and value == [*default]):
            found[name] = value
    return found


def as_path(path: Any, advice: str) -> pathlib.Path:
    """Return a path.

    Args:
        path: What was given as `path`.
        advice: What to write instead.

    Raises:
        TypeError: If it is not a path, as where arguments are swapped.
    """
    if isinstance(path, (str, os.PathLike)):
        return pathlib.Path(path)
    raise TypeError(f"`path` must be a path. Received: {type(path).__name__}. {advice}")


def number(
    name: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    whole: bool = False,
    optional: bool = False,
    owner: str | None = None,
    advice: str = "",
) -> Any:
    """Return a number that was given as an argument.

    Args:
        name: Name of the argument.
        value: What was received.
        least: The smallest number allowed. Defaults to `None`.
        above: What it must be above. Defaults to `None`.
        most: The largest number allowed. Defaults to `None`.
        below: What it must be below. Defaults to `None`.
        whole: Whether it must be a whole number. Defaults to `False`.
        optional: Whether `None` is allowed. Defaults to `False`.
        owner: The class or function that takes the argument. Defaults to `None`.
        advice: What to do, a sentence. Defaults to none.

    Returns:
        A Python number, or `None`.

    Raises:
        ValueError: If it is not a finite number within the bounds.
    """
    if value is None and optional:
        return None
    finite = isinstance(value, numbers.Integral) or not is_number(value) or math.isfinite(value)
    if (
        is_number(value)
        and isinstance(value, numbers.Integral if whole else numbers.Real)
        and finite
        and (least is None or value >= least)
        and (above is None or value > above)
        and (most is None or value <= most)
        and (below is None or value < below)
    ):
        if isinstance(value, (int, float)):
            return value
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    bounds = [
        f"{words} {bound:g}"
        for words, bound in (
            ("of at least", least),
            ("above", above),
            ("of at most", most),
            ("below", below),
        )
        if bound is not None
    ]
    kind = "whole " if whole else "finite " if not finite else ""
    what = f"a {kind}number {' and '.join(bounds)}".strip()
    raise ValueError(
        f"{f'{owner}: ' if owner else ''}`{name}` must be {what}{' or None' if optional else ''}. "
        f"Received: {name}={value!r}.{f' {advice}' if advice else ''}"
    )


def scheduled(name: str, value: Any, **bounds: Any) -> Any:
    """Return a number, or a schedule of steps or function of the epoch that begins with one.

    Args:
        name: Name of the argument.
        value: What was received.
        **bounds: As for `number`.

    Raises:
        ValueError: If the number, or the first of the schedule, is not within the bounds.
    """
    if callable(value):
        scheduled_value(name, value, 0, **bounds)
    elif not is_number(value) and hasattr(value, "dtype"):
        number(name, _float(value), **bounds)  # a variable, which stays one
    else:
        return number(name, value, **bounds)
    return value


def scheduled_value(name: str, schedule: Callable[[Any], Any], at: int, **bounds: Any) -> Any:
    """Return the number that a schedule gives at a step, or a function at an epoch.

    Raises:
        ValueError: If it is not within the bounds, which are those of `number`.
    """
    value = _float(schedule(at))
    advice = "It is called with the epoch, or is one of keras.optimizers.schedules."
    return number(f"{name}({at})", value, **{"advice": advice, **bounds})


def _float(value: Any) -> Any:
    """Return the number in a tensor; anything else as it is."""
    if is_number(value) or not hasattr(value, "dtype"):
        return value
    from keras import ops

    return float(ops.convert_to_numpy(ops.convert_to_tensor(value)))


def learning_rate(value: Any, owner: str | None = None) -> Any:
    """Return a learning rate: a number of at least 0, or a schedule that begins with one.

    Raises:
        ValueError: If it is neither.
    """
    return scheduled("learning_rate", value, least=0, owner=owner)


def optimizer_rate(optimizer: Any, owner: str | None = None) -> None:
    """Refuse an optimizer whose present learning rate is not a finite number of at least 0.

    Args:
        optimizer: A Keras optimizer; anything else is not looked at.
        owner: The class or function that takes it. Defaults to `None`.

    Raises:
        ValueError: If so.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    rate = getattr(optimizer, "learning_rate", None)
    if rate is not None:
        number("learning_rate", _float(rate), least=0, owner=owner)
