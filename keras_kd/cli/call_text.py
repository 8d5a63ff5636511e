"""Losses and stages as text: `prune(0.75, epochs=4)`."""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Mapping
from typing import Any


def parse_call(text: str, what: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Return name, arguments and keyword arguments of `name` or `name(0.75, epochs=4)`.

    Args:
        text: The text. Arguments are numbers, texts in quotes, `True`, `False`, `None` and lists.
        what: What it is, for errors: `"a loss"`.

    Raises:
        ValueError: If the text is not of this form.
    """
    form = f"{what} is written as a name, with arguments in brackets: name(0.5, key=2)"
    try:
        node: Any = ast.parse(text.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, [], {}
        name = node.func.id
        positional = [ast.literal_eval(argument) for argument in node.args]
        keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
    except (AttributeError, SyntaxError, ValueError):
        raise ValueError(f"{form}; arguments are numbers or quoted. Received: {text!r}.") from None
    return name, positional, keywords


def nearest(name: str, names: Any) -> str:
    """Return a sentence that offers the nearest of `names`, or all of them."""
    known = sorted(names)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean '{close[0]}'?" if close else f"There are: {', '.join(known)}."


def make_call(
    text: str, classes: Mapping[str, type], what: str, defaults: Mapping[str, Any] | None = None
) -> Any:
    """Return the object which a text describes.

    Args:
        text: As in `parse_call`.
        classes: The classes by name.
        what: What it is, for errors.
        defaults: Arguments which are given unless the text gives them, to classes that take them.
            Defaults to `None`.

    Raises:
        ValueError: If there is no such class, or it has no such argument or refuses its value.
    """
    name, positional, keywords = parse_call(text, what)
    if name not in classes:
        raise ValueError(f"There is no {what.split(' ', 1)[-1]} '{name}'. {nearest(name, classes)}")
    signature = inspect.signature(classes[name])
    for key in keywords:
        if key not in signature.parameters:
            raise ValueError(
                f"'{name}' has no argument `{key}`. {nearest(key, signature.parameters)}"
            )
    try:
        given = signature.bind_partial(*positional, **keywords).arguments
    except TypeError as error:
        raise ValueError(f"'{text}': {error}.") from None
    added = {
        key: value
        for key, value in (defaults or {}).items()
        if key in signature.parameters and key not in given
    }
    try:
        return classes[name](*positional, **keywords, **added)
    except TypeError as error:
        raise ValueError(f"'{text}': {error}.") from None
