"""Names."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, Self, TypeVar

import lazy_loader

_P = ParamSpec("_P")
_R = TypeVar("_R")


def snake_case(name: str) -> str:
    """Return the name of a class as that of an object: `KLDivergence` -> `kl_divergence`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'int8'?"` with the known name nearest to another, or `""`."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""


def one_of(argument: str, value: Any, known: Iterable[Any], owner: str | None = None) -> None:
    """Refuse a value that is not among the known ones.

    Args:
        argument: Name of the argument.
        value: What was received.
        known: What is allowed.
        owner: The class or function that takes it. Defaults to `None`.

    Raises:
        ValueError: If it is not; the message suggests the nearest name.
    """
    known = list(known)
    if value not in known:
        raise ValueError(
            f"{f'{owner}: ' if owner else ''}`{argument}` must be one of "
            f"{', '.join(map(_shown, known))}. Received: {argument}={value!r}."
            f"{did_you_mean(value, [k for k in known if isinstance(k, str)])}"
        )


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def refuse_unknown(owner: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse the names of arguments that do not exist.

    Args:
        owner: The class or function.
        given: The names of the arguments that were received.
        known: Those that exist.

    Raises:
        TypeError: If one does not; the message suggests the nearest name.
    """
    known = list(known)
    for name in given:
        if name not in known:
            raise TypeError(
                f"{owner} has no argument `{name}`.{did_you_mean(name, known)} It takes: "
                f"{', '.join(known)}."
            )


def argument_names(function: Callable[..., Any]) -> list[str]:
    """Return the names of a function's arguments, without `self`, `*args` and `**kwargs`.

    Args:
        function: The function.
    """
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = inspect.signature(function).parameters.values()
    return [p.name for p in found if p.kind not in several and p.name != "self"]


def suggests_arguments(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a function so that a misspelt argument gets a suggestion."""
    known = argument_names(function)

    @functools.wraps(function)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        refuse_unknown(function.__name__, kwargs, known)
        return function(*args, **kwargs)

    return checked


class _ConstructorSignature:
    """What `inspect.signature` reads of a class: the arguments of its `__init__`."""

    def __get__(self, instance: Any, owner: type) -> inspect.Signature:
        if instance is not None:  # whose signature is that of `__call__`
            raise AttributeError("__signature__")
        signature = inspect.signature(owner.__init__)  # type: ignore[misc]
        return signature.replace(parameters=list(signature.parameters.values())[1:])


class SuggestsArguments:
    """Base of classes whose constructor answers a misspelt argument with a suggestion."""

    # Early versions of Python 3.11 would show the arguments of `__new__`.
    __signature__ = _ConstructorSignature()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Refuse arguments that do not exist. A constructor with `**kwargs` decides by itself."""
        parameters = inspect.signature(cls).parameters
        if all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
            refuse_unknown(cls.__name__, kwargs, parameters)
        return super().__new__(cls)


def public_names(module: str, file: str) -> tuple[Any, Any, list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` of a module whose names stand in its stub.

    Args:
        module: Name of the module.
        file: Its file.
    """
    find, names, known = lazy_loader.attach_stub(module, file)

    def find_or_suggest(name: str) -> Any:
        try:
            return find(name)
        except AttributeError:
            if name in known:
                raise  # by what is imported
            text = f"module '{module}' has no attribute '{name}'.{did_you_mean(name, known)}"
            raise AttributeError(text) from None

    return find_or_suggest, names, known
