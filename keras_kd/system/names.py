"""Names."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, Self, TypeVar

import lazy_loader

_P = ParamSpec("_P")
_R = TypeVar("_R")


def snake_case(name: str) -> str:
    """Return the name of a class as that of an object: `KLDivergence` -> `kl_divergence`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def scope_name(name: str) -> str:
    """Return a name like another one under which a layer may run: TensorFlow refuses `"_a b"`."""
    return re.sub(r"[^A-Za-z0-9_.\\>-]", "_", name).lstrip("_\\>-") or "unnamed"


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


def refuse_wrong_call(
    owner: str,
    parameters: Sequence[inspect.Parameter],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> None:
    """Refuse what Python would refuse of a call, and say what the function takes.

    Args:
        owner: The class or function. With `**kwargs` it decides by itself what exists, with
            `*args` how many there may be.
        parameters: Its parameters, without `self`.
        args: The arguments that were given by position.
        kwargs: The arguments that were given by name.

    Raises:
        TypeError: If an argument does not exist, is missing or given twice, or must be given by
            name.
    """
    kinds = {p.kind for p in parameters}
    parameters = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    known = [p.name for p in parameters]
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        refuse_unknown(owner, kwargs, known)
    takes = f"It takes: {', '.join(known)}."
    positional = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
    if len(args) > len(positional) and inspect.Parameter.VAR_POSITIONAL not in kinds:
        by_name = [name for name in known if name not in positional and name not in kwargs]
        shown = f" ({', '.join(positional)})" if positional else ""
        advice = f" Write the others as `{by_name[0]}=...`." if by_name else ""
        raise TypeError(
            f"{owner} takes no more than {len(positional)} of its arguments without their names"
            f"{shown}. Received: {len(args)}.{advice}"
        )
    given = positional[: len(args)]
    twice = [name for name in given if name in kwargs]
    if twice:
        raise TypeError(f"{owner} was given {_quoted(twice)} twice. {takes}")
    missing = [
        p.name
        for p in parameters
        if p.default is p.empty and p.name not in kwargs and p.name not in given
    ]
    if missing:
        read = f" Received: {', '.join(given)}, in this order." if given else ""
        raise TypeError(f"{owner} needs {_quoted(missing)}. {takes}{read}")


def _quoted(names: Sequence[str]) -> str:
    return " and ".join(f"`{name}`" for name in names)


def suggests_arguments(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a function so that its error names a misspelled or missing argument."""
    parameters = list(inspect.signature(function).parameters.values())

    @functools.wraps(function)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        refuse_wrong_call(function.__name__, parameters, args, kwargs)
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
    """Base of classes whose constructor names a misspelled or missing argument."""

    # Early versions of Python 3.11 would show the arguments of `__new__`.
    __signature__ = _ConstructorSignature()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Refuse arguments that do not exist, and a call without those it needs."""
        if args or kwargs:  # without any, it may be `copy` or `pickle`
            parameters = list(inspect.signature(cls).parameters.values())
            refuse_wrong_call(cls.__name__, parameters, args, kwargs)
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
