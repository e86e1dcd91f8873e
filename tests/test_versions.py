"""What a version promises, later ones keep: names, arguments, commands, options, models, classes and file formats.

``fixtures/interface/VERSION.json`` is what each version had. `python tests/test_versions.py` records this one's.
"""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import zoo
from zoo import results, searches
from zoo._cli.main import COMMANDS, _parser
from zoo.hub import layout
from zoo.registry import load_registry
from zoo.spec import MOVED, class_of

ROOT = Path(__file__).resolve().parents[1]
RECORDED = sorted((Path(__file__).parent / "fixtures" / "interface").glob("*.json"))


def arguments(of: Any) -> list[str]:
    """Return the arguments by which a function or class is called."""
    skipped = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [name for name, p in inspect.signature(of).parameters.items() if p.kind not in skipped]


def interface() -> dict[str, Any]:
    """Return what this version promises: a mapping of section -> name -> what belongs to the name."""
    registry = load_registry()
    classes = {name: class_of(path) for name, path in registry.classes().items()}
    models = {name: cls for name, cls in classes.items() if issubclass(cls, zoo.GenerativeModel)}
    public = {name: getattr(zoo, name) for name in zoo.__all__ if name != "__version__"}
    return {
        "functions": {name: arguments(f) if inspect.isfunction(f) else [] for name, f in public.items()},
        "methods": {
            name: arguments(f) for name, f in vars(zoo.GenerativeModel).items()
            if inspect.isfunction(f) and not name.startswith("_") and f.__module__ == "zoo.model"
        },
        "commands": {
            name: sorted(o for a in _parser(name)._actions for o in a.option_strings if o not in ("-h", "--help"))
            for name in COMMANDS
        },
        "models": {name: [] for name in [*registry, *registry.aliases, *registry.deprecated]},
        "weights": {e.name: [e.weights["sha256"]] for e in registry.values() if e.pretrained},
        "data": {name: [] for name in registry.data},
        "classes": {name: arguments(cls) for name, cls in classes.items()},
        "sampling": {name: sampling(cls) for name, cls in models.items()},
        "formats": {"zoo_format": readable(layout.FORMAT, layout.MIGRATIONS), "search": [searches.SCHEMA],
                    "eval": readable(results.SCHEMA, results.MIGRATIONS), "registry": [1]},
    }  # fmt: skip


def sampling(model: Any) -> list[str]:
    """Return the options of a class's sampler."""
    return [n for n in list(inspect.signature(model.draw).parameters)[4:] if n not in ("options", "kwargs")]


def readable(newest: int, migrations: dict[int, Any]) -> list[int]:
    """Return the numbers of a format that are read: the newest, and those from which steps lead to it."""
    return [n for n in range(1, newest + 1) if all(step in migrations for step in range(n, newest))]


def lost(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return what a version had that this one has not; new hashes of weights are no loss, a name without any is."""
    old_classes = {old.rpartition(".")[2] for old in MOVED}
    gone = []
    for section, names in before.items():
        for name, parts in names.items():
            if name not in now[section]:
                gone += [] if section in ("classes", "sampling") and name in old_classes else [f"{section}: {name}"]
            elif section != "weights":
                gone += [f"{section}: {name} {part}" for part in parts if part not in now[section][name]]
    return gone


@pytest.fixture(scope="module")
def now() -> dict[str, Any]:
    return interface()


@pytest.mark.parametrize("path", RECORDED, ids=lambda p: p.stem)
def test_nothing_that_a_version_promised_is_lost(path: Path, now: dict[str, Any]) -> None:
    before = json.loads(path.read_text(encoding="utf-8"))
    assert sum(map(len, before.values())) > 200
    assert lost(before, now) == [], "see docs/versions.md on how a name goes"


def test_this_version_is_recorded_and_a_loss_would_be_seen(now: dict[str, Any]) -> None:
    assert zoo.__version__ in [path.stem for path in RECORDED]
    poorer = json.loads(json.dumps(now))
    del poorer["models"]["vae-mnist"], poorer["weights"]["vae-mnist"]
    poorer["commands"]["sample"].remove("--seed")
    poorer["functions"]["load"].remove("revision")
    poorer["formats"]["eval"].remove(1)
    assert lost(now, poorer) == [
        "functions: load revision", "commands: sample --seed", "models: vae-mnist", "weights: vae-mnist",
        "formats: eval 1",
    ]  # fmt: skip


def test_names_of_before_stay_in_the_tables() -> None:
    """A deprecated name leads to one that is there, and a moved class to one that can be imported."""
    registry = load_registry()
    assert all(target in registry for target in registry.deprecated.values())
    for new in set(MOVED.values()):
        class_of(new)


def test_every_place_that_says_the_version_says_the_same() -> None:
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("the tests were copied out of their checkout")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    recipe = yaml.safe_load((ROOT / "deploy/conda/recipe.yaml").read_text("utf-8"))
    weights = re.search(r'^version = "(.*)"', (ROOT / "weights/pyproject.toml").read_text("utf-8"), re.MULTILINE)[1]
    said = [citation["version"], recipe["context"]["version"], weights]
    assert said == [zoo.__version__] * 3
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    released = [h for h in headings if h != "Unreleased"]
    assert re.fullmatch(rf"{re.escape(zoo.__version__)} \(\d{{4}}-\d\d-\d\d\)", released[0])
    assert headings.index(released[0]) <= 1 and str(citation["date-released"]) in released[0]


def test_the_conda_recipe_has_the_dependencies_of_the_package() -> None:
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("the tests were copied out of their checkout")
    block = re.search(r"^dependencies = \[$(.*?)^\]$", (ROOT / "pyproject.toml").read_text("utf-8"), re.M | re.S)[1]
    wanted = dict(re.findall(r'"([a-z0-9-]+)(?:\[[a-z]+\])?([^"]*)"', block))
    recipe = yaml.safe_load((ROOT / "deploy/conda/recipe.yaml").read_text("utf-8"))
    has = dict(line.split(" ", 1) for line in recipe["requirements"]["run"])
    theirs = {"torch": "pytorch", "huggingface-hub": "huggingface_hub", "matplotlib": "matplotlib-base"}
    assert {theirs.get(name, name): version for name, version in wanted.items()}.items() <= has.items()
    settings = (ROOT / "pyproject.toml").read_text("utf-8")
    python = "python " + re.search(r"requires-python = \"(.*)\"", settings)[1]
    backend = re.search(r'^requires = \["hatchling(.*)"\]', settings, re.MULTILINE)[1]
    assert python in recipe["requirements"]["run"] and python in recipe["requirements"]["host"]
    assert f"hatchling {backend}" in recipe["requirements"]["host"] and "pip" in recipe["requirements"]["host"]
    script = re.search(r'^zoo = "(.*)"', settings, re.MULTILINE)[1]
    assert recipe["build"]["python"]["entry_points"] == [f"zoo = {script}"]
    assert recipe["about"]["license_file"] == "LICENSE" and recipe["about"]["license"] == "Apache-2.0"
    assert recipe["about"]["summary"] == re.search(r'^description = "(.*)"', settings, re.MULTILINE)[1]


def test_the_public_workflow_runs_what_there_is() -> None:
    """Its Pythons begin at the package's floor, its commands name files and extras that are there, and YAML is YAML."""
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("the tests were copied out of their checkout")
    settings = (ROOT / "pyproject.toml").read_text("utf-8")
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    test = workflow["jobs"]["test"]["strategy"]["matrix"]
    floor = re.search(r'requires-python = ">=(.*)"', settings)[1]
    assert test["python"] == ["3.10", "3.11", "3.12", "3.13"] and test["python"][0] == floor
    assert {"python": floor, "dependencies": "oldest"} in test["include"]
    commands = " ".join(s.get("run", "") for job in workflow["jobs"].values() for s in job["steps"])
    extras = {e for group in re.findall(r"\.\[([a-z,]+)\]", commands) for e in group.split(",")}
    assert extras and all(re.search(rf"^{extra} = \[", settings, re.MULTILINE) for extra in extras)
    assert all(
        (ROOT / path).exists() for path in ("deploy/oldest.py", "deploy/Containerfile", "weights/pyproject.toml")
    )
    for path in [*(ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"), ROOT / ".pre-commit-config.yaml"]:
        assert yaml.safe_load(path.read_text("utf-8")), path
    pinned = subprocess.run(
        [sys.executable, str(ROOT / "deploy/oldest.py"), "--pin"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    block = re.search(r"^dependencies = \[$(.*?)^\]$", settings, re.M | re.S)[1]
    assert len(pinned) == block.count('",') and all(re.fullmatch(r"[a-z0-9-]+==[\d.]+\*", line) for line in pinned)


def test_the_container_copies_all_that_the_package_is_built_of() -> None:
    """Each source that the build of the wheel asks for is there, where the build runs: no more is in the container."""
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("the tests were copied out of their checkout")
    lines = (ROOT / "deploy/Containerfile").read_text("utf-8").splitlines()
    copied = {}
    for line in lines:
        if line.startswith("COPY "):
            *sources, target = line.split()[1:]
            copied |= {source: target for source in sources}
    for source, target in copied.items():
        assert (ROOT / source).exists() and target == ("./" if (ROOT / source).is_file() else f"./{source}"), source
    settings = (ROOT / "pyproject.toml").read_text("utf-8")
    forced = re.search(r"^\[tool\.hatch\.build\.targets\.wheel\.force-include\]$(.*?)^\[", settings, re.M | re.S)[1]
    wanted = [*re.findall(r'^"([^"]+)" = ', forced, re.M), "pyproject.toml", "README.md", "LICENSE", "zoo"]
    assert len(wanted) > 10 and [w for w in wanted if not {w, w.partition("/")[0]} & {*copied}] == []
    installed = next(line for line in lines if line.startswith("RUN pip install"))
    (extras,) = re.findall(r"\.\[([a-z,]+)\]", installed)
    assert all(re.search(rf"^{extra} = \[", settings, re.MULTILINE) for extra in extras.split(","))
    ignored = ROOT / ".containerignore"
    assert not ignored.exists() and not (ROOT / ".dockerignore").exists()  # else what they leave out counts here


def test_recipes_that_nobody_has_run_say_so() -> None:
    for path in ("deploy/Containerfile", "deploy/conda/recipe.yaml", ".github/workflows/ci.yml"):
        if (ROOT / path).is_file():
            comments = [t for t in (ROOT / path).read_text("utf-8").splitlines() if t.startswith("#")]
            assert any("Written by the book and not yet" in line for line in comments), path


def record() -> None:
    """Write what this version promises."""
    path = Path(__file__).parent / "fixtures" / "interface" / f"{zoo.__version__}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(interface(), indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(record())
