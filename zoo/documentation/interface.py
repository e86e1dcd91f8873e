"""The reference of the Python interface: which modules are on which page; docstrings say the rest."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import zoo

__all__ = ["interface_pages", "modules_of"]

ROOMS = {
    "families": "The models, one file each beside their paper.",
    "maths": "Schedules, samplers, solvers, transforms and divergences: no learnt weight.",
    "nets": "Networks: tensors in, tensors out; they know no loss.",
    "data": "Data modules, embedded sets, folders, tables and streams.",
    "metrics": "Tensors to numbers; extractors of features.",
    "diagnostics": "A look into a trained model.",
    "evaluation": "A model and data to a result with its protocol.",
    "export": "A model as a file for other runtimes.",
}
"""Rooms that have a page with all of their modules, and what they hold."""

CONTRACT = ("zoo.model", "zoo.abilities", "zoo.sampling", "zoo.restoration", "zoo.trained_parts", "zoo.trainings",
            "zoo.registry", "zoo.results", "zoo.searches", "zoo.media", "zoo.images", "zoo.errors")  # fmt: skip
"""What models promise, and what the public functions take and return."""

_CLASSES = ("GenerativeModel", "Training", "ZooError")


def modules_of(room: str) -> list[str]:
    """Return the public modules of a room, whose ``__all__`` is not empty, those left out that nothing here can import.

    A module that imports the package of an extra at its top has a place where that package is installed.
    """
    folder = Path(zoo.__file__).parent / room
    return [f"zoo.{room}.{p.stem}" for p in sorted(folder.glob("*.py")) if p.stem[0] != "_" and _documented(p)]


def _documented(path: Path) -> bool:
    public = False
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            public = bool(ast.literal_eval(node.value))
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        if any(find_spec(name.partition(".")[0]) is None for name in names):
            return False
    return public


def interface_pages() -> dict[str, str]:
    """Return path on the site -> text of the page, in reStructuredText, as Sphinx reads docstrings."""
    pages = {"reference/python.rst": _public_page()}
    pages["reference/contract.rst"] = _page("The contract", "What models promise, and what functions return.", CONTRACT)
    for room, about in ROOMS.items():
        pages[f"reference/{room}.rst"] = _page(f"zoo.{room}", about, modules_of(room))
    return pages


def _title(text: str, line: str = "=") -> str:
    return f"{text}\n{line * len(text)}\n"


def _public_page() -> str:
    functions = [name for name in zoo.__all__ if name[0].islower()]
    parts = [_title("Python"), "Everything that ``import zoo`` gives. Importing it imports no torch.\n"]
    for name in functions:
        elsewhere = _home(name).rpartition(".")[0] in CONTRACT
        parts.append(f".. autofunction:: {_home(name)}\n" + "   :no-index:\n" * elsewhere)
    parts += ["Classes: " + ", ".join(f":py:class:`{_home(name)}`" for name in _CLASSES) + ".\n"]
    return "\n".join(parts)


def _home(name: str) -> str:
    """Return where a public name is defined."""
    return f"{zoo._PUBLIC[name]}.{name}"


def _page(title: str, about: str, modules: Iterable[str]) -> str:
    """Return a page with a section for each module."""
    parts = [_title(title), f"{about}\n"]
    for module in modules:
        parts += [_title(module, "-"), f".. automodule:: {module}\n   :members:\n   :show-inheritance:\n"]
    return "\n".join(parts)
