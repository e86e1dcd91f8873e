"""Signatures of constructors that pass their ``**kwargs`` on, with every argument written out.

    class Base:
        def __init__(self, width, depth=2, kind="a"): ...

    class Variant(Base):
        def __init__(self, *args, depth=3, **kwargs):
            super().__init__(*args, depth=depth, kind="b", **kwargs)

`Variant` takes ``width`` and ``depth=3``; ``kind`` it sets itself. What is passed on is read from the source of the
constructor, the way in which parsers of command lines do it.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import typing
from collections.abc import Callable
from typing import Any

__all__ = ["default_of", "whole_signature"]


def default_of(cls: type, name: str) -> Any:
    """Return the default of a constructor's argument, None where it has none or takes no such argument."""
    parameter = inspect.signature(cls).parameters.get(name)
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def whole_signature(init: Callable[..., None], inherited: Callable[..., None]) -> inspect.Signature:
    """Return the signature of a constructor, with the arguments that it passes on written out.

    Arguments that it names stand before or, after ``*args``, behind those that it passes on; what it sets itself, and
    so cannot be given, is left out. A signature of which this cannot be told keeps its ``**kwargs``.
    """
    own = inspect.signature(init)
    args = kwargs = None
    for parameter in own.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            args = parameter.name
        elif parameter.kind is parameter.VAR_KEYWORD:
            kwargs = parameter.name
    call = _passing_on(init, args, kwargs) if kwargs is not None else None
    if call is None:
        return own
    first = [a for a in call.args if not isinstance(a, ast.Starred)]
    theirs = list(inspect.signature(inherited).parameters.values())[1:]
    filled = {p.name for p in theirs[: len(first)]} | {k.arg for k in call.keywords}
    types = _types(inherited)
    before: list[inspect.Parameter] = []
    after = [p for p in own.parameters.values() if p.kind is p.KEYWORD_ONLY]
    named = [p for p in own.parameters.values() if p.kind < p.VAR_POSITIONAL]
    by_position = args is not None and all(p.default is p.empty for p in named)
    for parameter in theirs[len(first) :]:
        if parameter.name in filled or parameter.name in own.parameters:
            by_position = False  # Python would fill it twice, or out of its order
            continue
        if parameter.kind is parameter.VAR_POSITIONAL and not by_position:
            continue
        parameter = parameter.replace(annotation=types.get(parameter.name, parameter.annotation))
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and not by_position:
            parameter = parameter.replace(kind=parameter.KEYWORD_ONLY)
        (before if parameter.kind <= parameter.VAR_POSITIONAL else after).append(parameter)
    return own.replace(parameters=[*named, *before, *after])


def _types(function: Callable[..., None]) -> dict[str, Any]:
    """Return what the annotations of a function mean in its own module, where all of them can be told."""
    try:
        return typing.get_type_hints(inspect.unwrap(function))
    except (NameError, TypeError, AttributeError):
        return {}


def _passing_on(init: Callable[..., None], args: str | None, kwargs: str | None) -> ast.Call | None:
    """Return the call of ``super().__init__`` that all of ``*args`` and ``**kwargs`` go to and nothing else uses."""
    try:
        code = inspect.unwrap(init).__code__
        lines = linecache.getlines(code.co_filename)[code.co_firstlineno - 1 :]
        tree = ast.parse("if True:\n" + "".join(inspect.getblock(lines)))
    except (AttributeError, SyntaxError, ValueError):
        return None
    uses = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id in (args, kwargs)]
    if {n.id for n in uses} != {args, kwargs} - {None}:
        return None
    for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
        function = call.func
        if not (isinstance(function, ast.Attribute) and function.attr == "__init__"):
            continue
        if not (isinstance(function.value, ast.Call) and ast.unparse(function.value.func) == "super"):
            continue
        stars = [a.value for a in call.args if isinstance(a, ast.Starred)]
        stars += [k.value for k in call.keywords if k.arg is None]
        if {id(s) for s in stars} == {id(u) for u in uses}:
            return call
    return None
