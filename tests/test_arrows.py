"""The rooms of the package and which of them may import which."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import zoo

ROOT = Path(zoo.__file__).parent
MODULES = {
    ".".join(["zoo", *p.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__"): p
    for p in ROOT.rglob("*.py")
}
EVERYWHERE = {"errors", "spec", "classes", "files"}
MAY = {
    "errors": set(),
    "signature": set(),
    "docstrings": set(),
    "spec": {"signature"},
    "classes": set(),
    "files": set(),
    "bundled": set(),
    "maths": set(),
    "nets": {"maths", "fitting"},
    "checking": set(),
    "batches": {"checking"},
    "copying": set(),
    "devices": set(),
    "sampling": {"checking", "devices", "maths"},
    "optimizer": set(),
    "trained_parts": set(),
    "fitting": {"signature", "trained_parts"},
    "sizes": {"signature", "trained_parts"},
    "context": set(),
    "publishing": {"hub"},  # whose functions are its methods
    "feature_extractor": {"model", "abilities"},
    "model": {
        "publishing",
        "batches",
        "checking",
        "copying",
        "sampling",
        "optimizer",
        "context",
        "trained_parts",
        "maths",
    },
    "abilities": {"model"},
    "progress": {"model"},
    "restoration": {"model", "abilities", "checking", "devices", "maths"},
    "images": set(),
    "media": {"model", "abilities", "images", "maths"},
    "families": {"model", "abilities", "fitting", "signature", "checking", "sampling", "maths", "nets", "families"}
    | {"context"},
    "data": {"batches", "context", "maths", "data"},
    "metrics": {"maths", "nets", "metrics"},
    "results": set(),
    "representations": {"results"},
    "searches": {"results"},
    "callbacks": {"model", "abilities", "context", "images", "media", "progress", "callbacks"},
    "overlays": set(),
    "runs": {"model", "overlays", "registry"},
    "training": {"model", "abilities", "callbacks", "data", "metrics", "registry", "runs", "training"}
    | {"fitting", "sizes", "trained_parts"},
    "trainings": {"hub", "overlays", "runs"},
    "recipes": set(),
    "registry": {"bundled", "overlays", "feature_extractor", "fitting", "recipes", "sizes"},
    "catalogue": {"bundled", "hub", "leaderboard", "registry", "results"},
    "names": {"registry"},
    "evaluation": {
        "model",
        "abilities",
        "checking",
        "context",
        "metrics",
        "results",
        "representations",
        "plain_sampling",
    },
    "diagnostics": {"model", "abilities", "checking", "context", "images", "media", "maths", "metrics", "diagnostics"},
    "tuning": {"names", "registry", "searches", "reproduce", "hub", "training"},
    "leaderboard": {"results", "registry", "leaderboard", "plain_sampling", "representations"},
    "reproduce": {"names", "overlays", "registry", "results", "runs", "trained_parts", "training"},
    "serving": {"devices", "sampling", "model", "abilities", "names", "registry", "hub", "media", "images"}
    | {"docstrings"},
    "export": {"checking", "model", "abilities", "context", "names", "registry", "hub", "nets"},
    "plain_sampling": set(),
    "documentation": {"catalogue", "images", "leaderboard", "registry", "results", "trained_parts"},
    "hub": {
        "bundled",
        "feature_extractor",
        "names",
        "registry",
        "model",
        "abilities",
        "runs",
        "hub",
        "results",
        "images",
        "media",
    }
    | {"searches", "plain_sampling"},
}
FOR_TYPES = {
    "trainings": {"hub", "model", "results"},
    "publishing": {"hub"},
    "registry": {"model", "data"},
    "diagnostics": {"data"},
    "evaluation": {"data"},
}
"""What a room may name in annotations only."""
LIGHT = {
    "errors",
    "docstrings",
    "signature",
    "spec",
    "trained_parts",
    "fitting",
    "sizes",
    "classes",
    "files",
    "bundled",
    "overlays",
    "recipes",
    "registry",
    "catalogue",
    "names",
    "results",
    "representations",
    "searches",
    "plain_sampling",
    "leaderboard",
    "documentation",
}
FORBIDDEN = {"maths": {"lightning"}, "nets": {"lightning"}, "hub": {"pickle"}}


def _imports(path: Path) -> list[tuple[str, bool, bool]]:
    """Return (module, at module level, for types only) for every import of a file, lazy and guarded ones included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    top = {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        here = id(node) in top, id(node) in guarded
        if isinstance(node, ast.Import):
            found += [(a.name, *here) for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            submodules = [f"{node.module}.{a.name}" for a in node.names]
            found += [(m, *here) for m in submodules if m in MODULES] or [(node.module, *here)]
    return found


def _room(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


@pytest.mark.parametrize("room", sorted(MAY))
def test_room_imports_only_what_it_may(room: str) -> None:
    files = [p for p in ROOT.rglob("*.py") if _room(p) == room]
    assert files, f"the room {room} is gone: update the table"
    for path in files:
        for module, _, typing in _imports(path):
            if module.startswith("zoo."):
                other = module.split(".")[1]
                if other in MAY:
                    may = MAY[room] | EVERYWHERE | {room} | (FOR_TYPES.get(room, set()) if typing else set())
                    assert other in may, f"{path.relative_to(ROOT)} imports {module}"
            assert module.split(".")[0] not in FORBIDDEN.get(room, set()), f"{path.relative_to(ROOT)} imports {module}"


@pytest.mark.parametrize("room", sorted(LIGHT))
def test_light_rooms_import_no_torch_at_the_top(room: str) -> None:
    for path in (p for p in ROOT.rglob("*.py") if _room(p) == room):
        for module, top, _ in _imports(path):
            assert not (top and module.split(".")[0] in ("torch", "lightning", "torchmetrics")), path


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Lazy imports and those for types count; the tables of names in packages, which import nothing, do not."""
    graph = {
        name: sorted({m for m, *_ in _imports(path) if m in MODULES and m != name})
        for name, path in MODULES.items()
        if path.name != "__init__.py"
    }
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, "imports in a circle: " + " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in graph.get(name, ()):
                visit(other, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_no_two_rooms_have_a_class_of_one_name() -> None:
    found: dict[str, list[str]] = {}
    for path in ROOT.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert not {name: places for name, places in found.items() if len(places) > 1}


def test_names_can_be_guessed() -> None:
    """Of variables, functions and arguments; a module's ``self.told`` is a name in weights, and stays."""
    vague = {"answers", "heard", "parcel", "questions", "still", "told", "ways"}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node, "id", None) or getattr(node, "arg", None) or getattr(node, "name", None)
            assert not isinstance(name, str) or name.strip("_") not in vague, f"{path}:{node.lineno}: {name}"


def test_every_room_is_in_the_table() -> None:
    rooms = {_room(p) for p in ROOT.rglob("*.py")} - {"__init__", "__main__", "_cli", "api"}
    assert rooms <= set(MAY), f"rooms without a rule: {rooms - set(MAY)}"


def test_no_pickle_and_no_unsafe_load() -> None:
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords), path
        assert not any(module.split(".")[0] in ("pickle", "cloudpickle", "dill") for module, *_ in _imports(path)), path


def test_families_nets_and_maths_touch_neither_files_nor_the_terminal() -> None:
    for path in (p for p in ROOT.rglob("*.py") if _room(p) in ("families", "nets", "maths")):
        names = {n.id for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Name)}
        assert not names & {"print", "open", "plt", "Path"}, path
