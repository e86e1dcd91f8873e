"""Tab completion by argcomplete: commands, options, names of models and data sets, and the options of a named model.

The shell asks the program itself, so that what is offered is what the registry holds, overlays included, and nothing
heavy is imported: options of a model are read from the source of its class.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import importlib.util
import os
import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from zoo.registry import Registry, in_force, load_registry
from zoo.spec import allowed, is_spec

__all__ = ["complete", "model_options"]

_MODELS = ("which", "name", "models", "model", "init_from")
"""Arguments that take the name of a model, beside folders."""

_SETTINGS = "zoo.training.settings.TrainingSettings"
_TRAINER = "lightning.pytorch.trainer.trainer.Trainer"


def complete(commands: Mapping[str, str], parser_of: Callable[[str], argparse.ArgumentParser]) -> None:
    """Answer the shell's question and leave; do nothing where argcomplete is not installed.

    Args:
        commands: command -> what it does.
        parser_of: the parser of a command.
    """
    try:
        import argcomplete
    except ImportError:
        return
    words = shlex.split(os.environ.get("COMP_LINE", "")[: int(os.environ.get("COMP_POINT", "0") or 0)] + "x")[1:]
    whole = argparse.ArgumentParser(prog="zoo", allow_abbrev=False)
    whole.add_argument("-v", "--verbose", action="store_true")
    whole.add_argument("-V", "--version", action="store_true")
    parsers = whole.add_subparsers()
    command = next((word for word in words[:-1] if word in commands), None)
    for name, what in commands.items():
        parser = parsers.add_parser(name, help=what, add_help=False)
        if name == command:
            _fill(parser, parser_of(name), words[words.index(name) + 1 : -1])
    argcomplete.autocomplete(whole, always_complete_options=True)


def _fill(parser: argparse.ArgumentParser, own: argparse.ArgumentParser, words: list[str]) -> None:
    """Give the parser of the command's place the command's arguments, and what completes their values."""
    overlays = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "--registry"]
    try:
        with in_force(*overlays):
            registry = load_registry()
    except Exception:  # a registry that cannot be read is told when the command runs
        return
    names = [*registry, *registry.aliases]
    for action in own._actions:
        if action.dest in _MODELS:
            action.completer = _names_and_folders(names)  # type: ignore[attr-defined]
        elif action.dest == "data":
            action.completer = lambda **_: list(registry.data)  # type: ignore[attr-defined]
        parser._add_action(action)
    if own.prog.endswith((" fit", " validate", " test")):
        if own.prog.endswith(" fit"):
            name = parser.add_argument("model_name", nargs="?")
            name.completer = _names_and_folders(names)  # type: ignore[attr-defined]
        for option in _further(registry, words):
            if option not in parser._option_string_actions:
                parser.add_argument(option)


def _names_and_folders(names: Iterable[str]) -> Callable[..., list[str]]:
    def offer(prefix: str, **_: Any) -> list[str]:
        folder, _, start = prefix.rpartition("/")
        found = [] if folder else [n for n in names if n.startswith(prefix)]
        if folder or prefix.startswith("."):
            here = Path(folder or ".").expanduser()
            below = sorted(p.name for p in here.iterdir() if p.is_dir()) if here.is_dir() else []
            found += [f"{folder}/{n}" if folder else f"{n}" for n in below if n.startswith(start)]
        return found

    return offer


def _further(registry: Registry, words: list[str]) -> list[str]:
    """Return the options of the model that the words name, of its data, the engine and the Trainer."""
    named = next((words[i + 1] for i, word in enumerate(words[:-1]) if word == "--model"), None)
    named = named or next((w for w in words if w in registry or w in registry.aliases), None)
    options = [f"--training.{n}" for n in _arguments(_SETTINGS)] + [f"--trainer.{n}" for n in _arguments(_TRAINER)]
    if named is None or not (named in registry or named in registry.aliases):
        return options
    entry = registry[registry.aliases.get(named, named)]
    return [*model_options("--model", entry.model, entry.allow), *model_options("--data", entry.data), *options]


def model_options(prefix: str, spec: Mapping[str, Any], allow: Iterable[str] = ()) -> list[str]:
    """Return the options of a spec's class and of the objects in it, read from their source."""
    given = spec.get("init_args") or {}
    allow = tuple(allow)
    names = _arguments(spec["class_path"]) if allowed(spec["class_path"], allow) else ()
    found = []
    for name in dict.fromkeys([*names, *given]):
        found.append(f"{prefix}.{name}")
        if is_spec(given.get(name)):
            found += model_options(f"{prefix}.{name}", given[name], allow)
    return found


@functools.lru_cache(maxsize=256)
def _arguments(class_path: str) -> tuple[str, ...]:
    """Return the arguments of a class's constructor, those that it passes on included, without importing it."""
    module, _, name = class_path.rpartition(".")
    try:
        tree = ast.parse(_source(module))
    except (OSError, SyntaxError, ValueError, ImportError):
        return ()
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _of_class(node, module, tree)
    return ()


def _source(module: str) -> str:
    """Return the source of a module, found without importing the packages that it is in."""
    top, *rest = module.split(".")
    found = importlib.util.find_spec(top)
    places = [Path(p).joinpath(*rest) for p in (found.submodule_search_locations if found else None) or ()]
    for place in places if rest else [Path(found.origin or "")] if found else []:
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path.is_file():
                return path.read_text(encoding="utf-8")
    raise OSError(f"no source of {module}")


def _of_class(node: ast.ClassDef, module: str, tree: ast.Module) -> tuple[str, ...]:
    init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if init is None:
        fields = [n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
        is_data = any("dataclass" in ast.unparse(d) for d in node.decorator_list)
        return tuple(fields) if is_data else _of_bases(node, module, tree)
    own = [a.arg for a in (*init.args.args, *init.args.kwonlyargs)][1:]
    if init.args.kwarg is None:
        return tuple(own)
    calls = [n for n in ast.walk(init) if isinstance(n, ast.Call) and ast.unparse(n.func) == "super().__init__"]
    passed = _of_bases(node, module, tree)
    fixed = {k.arg for call in calls for k in call.keywords}
    for call in calls:
        fixed.update(passed[: sum(not isinstance(a, ast.Starred) for a in call.args)])
    return tuple(dict.fromkeys([*own, *(n for n in passed if n not in fixed)]))


def _of_bases(node: ast.ClassDef, module: str, tree: ast.Module) -> tuple[str, ...]:
    """Return the arguments of the first base that has any."""
    imported = {
        alias.asname or alias.name: f"{n.module}.{alias.name}"
        for n in tree.body
        if isinstance(n, ast.ImportFrom) and n.module
        for alias in n.names
    }
    for base in node.bases:
        name = ast.unparse(base)
        found = _arguments(imported.get(name, f"{module}.{name}"))
        if found:
            return found
    return ()
