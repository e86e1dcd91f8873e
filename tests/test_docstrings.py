"""Public functions say what they take and give: arguments, shapes, units, errors, and where it is from.

Read from the source alone: nothing is imported.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import zoo
from zoo.docstrings import arguments_of

ROOT = Path(zoo.__file__).parent
SHAPE = re.compile(
    r"\([A-Z*]\w*(?: [+*/-] \w+)?(?:,[^()]*)?(?:\([^()]*\)[^()]*)*\)|\(n\b|\(\)|shape|\(\.\.\.|\([a-z]+,"
)
UNIT = re.compile(r"\bnats?\b|bits|dimension|density", re.IGNORECASE)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def exported(module: ast.Module) -> list[str]:
    """Return what ``__all__`` names."""
    for node in module.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return list(ast.literal_eval(node.value))
    return []


def functions(*rooms: str) -> Iterator[tuple[str, Function]]:
    """Yield where each exported function and each public method of exported classes stands, and the function."""
    for room in rooms:
        paths = [ROOT / f"{room}.py"] if (ROOT / f"{room}.py").is_file() else sorted((ROOT / room).rglob("*.py"))
        for path in paths:
            module = tree(path)
            names = exported(module)
            for node in module.body:
                if isinstance(node, Function) and node.name in names and not overload(node):
                    yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node
                if isinstance(node, ast.ClassDef) and node.name in names and room in ("model", "publishing"):
                    for inner in node.body:
                        if isinstance(inner, Function) and not inner.name.startswith("_"):
                            yield f"{path.relative_to(ROOT)}:{inner.lineno} {node.name}.{inner.name}", inner


def overload(node: Function) -> bool:
    return any(isinstance(d, ast.Name) and d.id == "overload" for d in node.decorator_list)


def tensors(node: Function) -> bool:
    """Tell whether a function gives a tensor and takes one."""
    given = [ast.unparse(a.annotation) for a in [*node.args.args, *node.args.kwonlyargs] if a.annotation]
    returned = ast.unparse(node.returns) if node.returns is not None else ""
    return returned in ("Tensor", "tuple[Tensor, Tensor]") and any("Tensor" in a for a in given)


def raises(node: Function) -> bool:
    """Tell whether a function itself raises one of the zoo's errors, not counting abstract and unreachable places."""
    names = [ast.unparse(inner.exc) for inner in ast.walk(node) if isinstance(inner, ast.Raise) and inner.exc]
    return any(name.partition("(")[0].endswith("Error") and "NotImplemented" not in name for name in names)


API = {
    "api", "bundled", "catalogue", "hub/loading", "hub/upload", "hub/saving", "hub/folder", "registry", "results",
    "searches", "trainings", "tuning", "_cli/from_python", "restoration", "sampling",
}  # fmt: skip


def of_the_package() -> list[tuple[str, Function]]:
    """Return the functions that ``zoo`` itself exports."""
    source = {name: module for name, module in zoo._PUBLIC.items() if name[0].islower()}
    found = []
    for name, module in source.items():
        relative = module.removeprefix("zoo.").replace(".", "/")
        places = [ROOT / f"{relative}.py", *sorted((ROOT / relative).glob("*.py"))]
        for path in (p for p in places if p.is_file()):
            found += [
                (f"zoo.{name}", n) for n in tree(path).body
                if isinstance(n, Function) and n.name == name and not overload(n) and name in exported(tree(path))
                and (path.stem != "__init__" and "listing" not in path.stem)
            ]  # fmt: skip
    return found


def test_functions_of_the_package_say_all_that_they_take_and_raise() -> None:
    found = of_the_package()
    assert {where for where, _ in found} == {f"zoo.{n}" for n in zoo._PUBLIC if n[0].islower()}
    for where, node in found:
        text = ast.get_docstring(node) or ""
        taken = [a.arg for a in [*node.args.args, *node.args.kwonlyargs, *filter(None, [node.args.kwarg])]]
        said = arguments_of(text)
        assert "Raises" in text, f"{where} does not say what it raises"
        if where not in ("zoo.pull", "zoo.tune"):  # whose arguments are said where they send the reader
            assert [a for a in taken if a not in said] == [], where


ROOMS = ["maths", "metrics", "abilities", "model", "publishing", "evaluation", "feature_extractor", *sorted(API)]


@pytest.mark.parametrize("room", ROOMS)
def test_public_functions_say_shapes_and_errors(room: str) -> None:
    faults = []
    for where, node in functions(room):
        text = ast.get_docstring(node)
        inherited = room == "model" and text is None and node.name in LIGHTNING
        if any(ast.unparse(d).endswith(".setter") for d in node.decorator_list):
            continue
        if text is None and not inherited:
            faults.append(f"{where} has no docstring")
        elif text is not None and tensors(node) and not SHAPE.search(text):
            faults.append(f"{where} gives a tensor and says no shape")
        elif text is not None and raises(node) and not re.search(r"[Rr]aise|[Rr]efuse", text):
            faults.append(f"{where} raises and does not say so")
    assert faults == []


LIGHTNING = {
    "on_train_batch_end", "on_validation_batch_end", "on_test_batch_end", "training_step", "validation_step",
    "test_step", "configure_optimizers",
}  # fmt: skip
"""Hooks whose meaning is Lightning's."""


def test_likelihoods_say_their_unit() -> None:
    faults = []
    for path in sorted((ROOT / "families").glob("*.py")):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef) and node.name in ("log_prob", "energy"):
                text = ast.get_docstring(node)
                if text is not None and not UNIT.search(text):
                    faults.append(f"{path.name}:{node.lineno} {node.name} does not say its unit")
    assert faults == []


def test_families_and_maths_say_where_they_are_from() -> None:
    faults = []
    for path in [*sorted((ROOT / "families").glob("*.py"))]:
        module = tree(path)
        public = [n for n in module.body if isinstance(n, ast.ClassDef) and n.name in exported(module)]
        text = " ".join(filter(None, [ast.get_docstring(module), *(ast.get_docstring(n) for n in public)]))
        named = re.search(r"arXiv|References:|\b(19|20)\d\d\b", text)
        if public and not named and path.stem not in SHARED:
            faults.append(path.name)
    assert faults == []


SHARED = {"autoregressive", "discrete", "distilled", "second_stage", "token_model", "token_prior", "velocity"}
"""Files of families that hold what papers share, and none of their own."""
