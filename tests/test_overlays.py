"""Registry files beside the one that ships: those of installed packages, and those that a run was made with."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml

import zoo
from zoo import overlays
from zoo._cli.main import main
from zoo.errors import ConfigError, ZooError
from zoo.registry import in_force, load_registry
from zoo.runs import run_metadata

Capture = pytest.CaptureFixture[str]
CODE = "from zoo.families.vae import VAE\nclass Mine(VAE):\n    pass\n"


def entry(class_path: str = "zoo.families.vae.VAE") -> dict[str, Any]:
    model = {**tiny.VAE["model"], "class_path": class_path}
    return {"family": "vae", "model": model, "data": tiny.VAE["data"], "trainer": {"max_steps": 1}}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Install a small distribution into a folder on the path, as pip leaves it; return the folder of its package."""
    site = tmp_path / "site"

    def put(package: str, registry: dict[str, Any] | str, value: str | None = None, *, editable: bool = False) -> Path:
        home = (tmp_path / "source" if editable else site) / package
        home.mkdir(parents=True)
        (home / "__init__.py").write_text("")
        (home / "models.py").write_text(CODE)
        (home / "registry.yaml").write_text(registry if isinstance(registry, str) else yaml.safe_dump(registry))
        info = site / f"{package}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{overlays.GROUP}]\nmain = {value or f'{package}:registry.yaml'}\n")
        files = [] if editable else [f"{package}/__init__.py", f"{package}/models.py", f"{package}/registry.yaml"]
        (info / "RECORD").write_text("".join(f"{name},,\n" for name in [*files, f"{info.name}/METADATA"]))
        if editable:
            origin = {"url": home.parent.as_uri(), "dir_info": {"editable": True}}
            (info / "direct_url.json").write_text(json.dumps(origin))
            monkeypatch.syspath_prepend(str(home.parent))
        monkeypatch.syspath_prepend(str(site))
        return home

    yield put
    for name in [n for n in sys.modules if n.partition(".")[0] in ("pack_a", "pack_b")]:
        del sys.modules[name]


@pytest.mark.parametrize("editable", [False, True])
def test_an_installed_package_brings_names_and_its_own_classes(
    editable: bool, install: Callable[..., Path], capsys: Capture
) -> None:
    install("pack_a", {"models": {"ours-points": entry("pack_a.models.Mine")}}, editable=editable)
    assert main(["list", "ours*"]) == 0 and "ours-points" in capsys.readouterr().out
    assert "pack_a" not in sys.modules  # what is only listed is not imported
    assert type(zoo.create("ours")).__module__ == "pack_a.models"
    assert load_registry().allow == ("pack_a",)
    with pytest.raises(ConfigError, match="not on the allow-list"):
        zoo.create("vae", encoder={"class_path": "pack_b.models.Mine", "init_args": {}})


@pytest.mark.filterwarnings("default:.*is left out")
@pytest.mark.parametrize(
    ("registry", "value", "reason"),
    [
        (
            {"allow": ["subprocess"], "models": {}},
            None,
            "allows 'subprocess'; the registry of an installed pack",
        ),
        (
            {"models": {"x-points": entry("pack_b.models.Mine")}},
            None,
            "'pack_b.models.Mine', which is not on the",
        ),
        ({"models": {"vae-mnist": {"summary": "other weights"}}}, None, "'vae-mnist' is a name already"),
        ({"aliases": {"gan": "vae-mnist"}, "models": {}}, None, "'gan' is a name already"),
        ({"data": {"mnist": tiny.VAE["data"]}, "models": {}}, None, "'mnist' is a name already"),
        ("models: [", None, "not valid YAML"),
        ({}, "json:registry.yaml", "the package 'json' is not its own"),
        ({}, "zoo:registry.yaml", "the package 'zoo' is not its own"),
        ({}, "yaml:registry.yaml", "the package 'yaml' is not its own"),
        ({}, "pack_a:missing.yaml", "there is no file missing.yaml in pack_a"),
        ({}, "pack_a.models:load", "is not of the form package:file.yaml"),
    ],
)
def test_a_package_that_breaks_the_rules_is_told_and_left_out(
    registry: Any, value: str | None, reason: str, install: Callable[..., Path], capsys: Capture
) -> None:
    before = list(load_registry())
    install("pack_a", registry, value)
    assert main(["list", "--family", "vae"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "installed package pack_a brings is left out" in said[0] and reason in said[0]
    with pytest.warns(UserWarning, match="left out"):
        overlays._of_packages.cache_clear()
        zoo.registry._load.cache_clear()
        assert list(load_registry()) == before and not load_registry().allow


def test_packages_do_not_disturb_each_other_nor_names_of_the_user(install: Callable[..., Path], tmp_path: Path) -> None:
    install("pack_a", {"models": {"ours-points": entry(), "nice-points": entry()}})
    install("pack_b", {"models": {"ours-points": entry(), "more-points": entry()}})
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"models": {"ours-points": {"summary": "changed by me"}}}))
    with pytest.warns(UserWarning, match="'ours-points' is a name already"):
        registry = load_registry(tmp_path / "mine.yaml")
    assert "more-points" not in registry and registry["ours-points"].summary == "changed by me"
    assert registry.resolve("nice").name == "nice-mnist"  # the word keeps its meaning


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run of an entry of the user's own, with a class of theirs, whose registry file is not in force any more."""
    (tmp_path / "mine_models.py").write_text(CODE)
    overlay = {"allow": ["mine_models"], "models": {"mine-points": entry("mine_models.Mine")}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(overlay))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "mine", "--registry", "mine.yaml", "--run", "run", *tiny.QUIET]) == 0
    yield tmp_path / "run"
    sys.modules.pop("mine_models", None)


@pytest.mark.filterwarnings("default:.*was made with")
def test_a_run_knows_the_registry_that_it_was_made_with(made: Path, capsys: Capture) -> None:
    (kept,) = run_metadata(made)["registry"]
    assert kept["path"] == str(made.parent / "mine.yaml") and len(kept["sha256"]) == 64
    capsys.readouterr()
    commands = (["sample", "./run", "-n", "2", "--out", "x.npz", "--force"], ["validate", "./run"],
                ["diagnose", "./run", "--examples", "20"], ["fit", "--resume", "./run", "--trainer.max_steps", "2"],
                ["push", "./run", "--repo", "me/mine", "--dry_run"], ["export", "./run", "--format", "safetensors"],
                ["evaluate", "./run", "--quick", "--limit", "10", "--samples", "64"],
                ["reproduce", "mine", "--run", "./run"])  # fmt: skip
    for command in commands:  # the folder widens nothing, it says what to do
        assert main(command) == 2, command
        said = capsys.readouterr().err
        if command[0] != "reproduce":
            assert "which is not in force now; if you trust it, add --registry" in said and "allow-list" in said, (
                command
            )
    for command in commands[:6]:
        assert main([*command, "--registry", "mine.yaml"]) == 0, (command, capsys.readouterr().err)
        assert "was made with" not in capsys.readouterr().err
    shutil.move("mine.yaml", "moved.yaml")  # the same file elsewhere is the same
    assert main([*commands[0], "--registry", "moved.yaml"]) == 0
    assert "was made with" not in capsys.readouterr().err


@pytest.mark.filterwarnings("default:.*was made with")
def test_a_registry_file_that_has_changed_is_asked_about(
    made: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = ["sample", "./run", "-n", "2", "--out", "x.npz", "--force"]
    monkeypatch.setenv("ZOO_REGISTRY", "mine.yaml")
    file, content = Path("mine.yaml"), yaml.safe_load(Path("mine.yaml").read_text())
    capsys.readouterr()
    content["models"]["other-points"] = entry()  # which the run has nothing of
    file.write_text(yaml.safe_dump({**content, "allow": ["mine_models", "others"]}))
    assert main(sample) == 0 and "was made with" not in capsys.readouterr().err
    content["models"]["mine-points"]["model"]["init_args"]["lr"] = 0.123
    file.write_text(yaml.safe_dump(content))
    told = f"run was made with the registry file '{file.absolute()}', which has changed since"
    for command in (
        sample,
        ["evaluate", "./run", "--limit", "10"],
        ["fit", "--resume", "./run"],
        ["push", "./run", "--repo", "me/mine", "--dry_run"],
        ["diagnose", "./run"],
        ["validate", "./run"],
    ):
        assert main(command) == 2  # nobody to ask
        said = capsys.readouterr().err.splitlines()
        assert said == [f"zoo: error: {told}; to go on with what it says now, add --registry {file.absolute()}"]
    assert main([*sample, "--registry", "mine.yaml"]) == 0  # named as it is now
    assert f"{told}; what it says now holds" in capsys.readouterr().err
    for answer, code in (("y\n", 0), ("\n", 2), ("no\n", 2), ("", 2)):
        monkeypatch.setattr(sys, "stdin", _Terminal(answer))
        with monkeypatch.context() as patch:
            patch.setattr("zoo._cli.question._terminal", lambda stream: True)
            assert main(sample) == code
        assert f"zoo: {told}; go on with what it says now? [y/N] " in capsys.readouterr().err
    with pytest.warns(UserWarning, match="changed since; what it says now holds"):
        zoo.load("./run")
    assert main(["fit", "--resume", "./run", "--trainer.max_steps", "2", "--registry", "mine.yaml"]) == 0
    assert main(sample) == 0  # the run has what the file says now
    assert "was made with" not in capsys.readouterr().err.rpartition("holds")[2]


class _Terminal(io.StringIO):
    """An input in which a user types."""


def test_the_handle_of_a_training_keeps_the_registry_that_it_was_given(made: Path) -> None:
    quiet: dict[str, Any] = {"max_steps": 1, "enable_progress_bar": False, "limit_val_batches": 0}
    done = zoo.fit("mine", registry="mine.yaml", run="other", data={"points": 80}, **quiet)
    assert type(done.model).__module__ == "mine_models"  # whose file is in force for what the handle does, nowhere else
    assert done.evaluate(limit=8, samples=16, extractor="none", progress=False).metrics
    assert zoo.fit(resume=done, registry="mine.yaml", max_steps=2).facts["step"] == 2
    with pytest.warns(UserWarning, match="not in force"), pytest.raises(ConfigError, match="not on the allow-list"):
        zoo.load("./other")


@pytest.mark.filterwarnings("default:.*was made with")
def test_what_a_run_says_of_registries_is_never_opened(made: Path, capsys: Capture) -> None:
    os.mkfifo(made.parent / "pipe")  # reading it would wait for ever
    facts = json.loads((made / "run.json").read_text())
    trap = {"allow": ["mine_models"], "models": {}}
    (made.parent / "trap.yaml").write_text(yaml.safe_dump(trap))
    for path in (str(made.parent / "pipe"), str(made.parent / "trap.yaml"), "/dev/zero", "\x1b[2J" * 500, "https://x"):
        facts["registry"] = [{"path": path, "sha256": "0" * 64}]
        (made / "run.json").write_text(json.dumps(facts))
        assert main(["sample", "./run", "--out", "x.npz"]) == 2
        said = capsys.readouterr().err
        assert "is not in force now" in said and "not on the allow-list" in said and "\x1b" not in said
        assert max(map(len, said.splitlines())) < 2000
    for wrong in ("text", {"path": "x"}, [1, None, {"path": 3}, {"sha256": "x"}], [{"path": "x"}] * 10_000):
        facts["registry"] = wrong
        (made / "run.json").write_text(json.dumps(facts))
        assert main(["sample", "./run", "--out", "x.npz"]) == 2
        assert capsys.readouterr().err.count("zoo: warning") <= 1
    with in_force(made.parent / "mine.yaml"), pytest.raises(ZooError, match="no sampling option"):
        zoo.load("./run").sample(1, seed=0, nothing=1)
