"""One meaning of a name: a registered word, a repository or a folder, the same for every command and function."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hub_cases import NAME, PNG, equal, registry, tiny, write_run

import zoo
from zoo import names
from zoo._cli import diagnose, evaluate, export, push, sample, serve, validate, verify
from zoo._cli.main import main
from zoo.errors import InvalidNameError, UnknownModelError, ZooError
from zoo.export import export as export_model
from zoo.hub import save_pretrained
from zoo.model import GenerativeModel
from zoo.names import own_folder, parse_name
from zoo.registry import in_force, load_registry
from zoo.serving.service import load_models
from zoo.serving.settings import Settings, served_name

REGISTERED, RUN, FOLDER = 1, 2, 3
"""Seeds of the weights of the registered model, of the run and of the model folder that bear its name."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a registered model, and a run and a model folder that are called as it is."""
    monkeypatch.setenv("ZOO_REGISTRY", str(registry(tmp_path / "registry.yaml")))
    monkeypatch.setattr(names, "_said", set())
    bundled = save_pretrained(tiny(REGISTERED), tmp_path / "bundled", samples=PNG)
    content = yaml.safe_load((tmp_path / "registry.yaml").read_text())
    content["models"][NAME]["weights"] = {"bundled": True}
    content["aliases"], content["deprecated"] = {"tiny_vae": NAME}, {"old-mnist": NAME}
    (tmp_path / "registry.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr("zoo.hub.loading.pretrained_folder", lambda name: bundled)
    monkeypatch.chdir(tmp_path)
    for name in (NAME, "runs/mine", "old-mnist"):
        write_run(tmp_path / name, tiny(RUN), "zoo fit")
    save_pretrained(tiny(FOLDER), tmp_path / "models" / NAME, samples=PNG)
    yield tmp_path


MEANINGS = [
    (NAME, REGISTERED), ("tiny_vae", REGISTERED), ("old-mnist", REGISTERED), (f"./{NAME}", RUN), ("runs/mine", RUN),
    ("./runs/mine/", RUN), ("./old-mnist", RUN), (f"models/{NAME}", FOLDER), (f"./models/../models/{NAME}", FOLDER),
]  # fmt: skip


def _draws(model: GenerativeModel) -> torch.Tensor:
    return model.sample(2, seed=7)


@pytest.mark.filterwarnings("ignore:.*is taken as the registered model", "ignore:.*is now called:DeprecationWarning")
def test_a_name_means_the_same_to_all_that_load(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[GenerativeModel] = []

    def keep(model: GenerativeModel, *args: Any, **kwargs: Any) -> None:
        seen.append(model)
        raise ZooError("seen")

    monkeypatch.setattr("zoo.evaluation.measure", keep)
    monkeypatch.setattr("zoo.diagnostics.examine", keep)
    monkeypatch.setattr("zoo.export.writing._weights", keep)
    ways: list[Callable[[str], Any]] = [
        lambda which: seen.append(zoo.load(which)),
        lambda which: zoo.evaluate(which, "mnist"),
        lambda which: zoo.diagnose(which, "mnist"),
        lambda which: export_model(which, "safetensors"),
        lambda which: seen.append(load_models(Settings(models=(which,)))[served_name(which)]),
    ]
    for which, seed in MEANINGS:
        expected = _draws(tiny(seed))
        for way in ways:
            seen.clear()
            try:
                way(which)
            except ZooError as error:
                assert str(error) == "seen", which
            assert len(seen) == 1 and torch.equal(_draws(seen[0]), expected), which
        for path in (Path(which),) if "/" in which else ():
            assert equal(zoo.load(path), tiny(seed))


@pytest.mark.filterwarnings("ignore:.*is taken as the registered model", "ignore:.*is now called:DeprecationWarning")
def test_a_name_means_the_same_to_all_commands(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    for number, (which, seed) in enumerate(MEANINGS):
        out = f"{number}.npz"
        assert main(["sample", which, "-n", "2", "--seed", "7", "--out", out]) == 0
        assert np.array_equal(np.load(out)["samples"], _draws(tiny(seed)).numpy()), which
        assert main(["push", which, "--repo", "me/x", "--dry_run"]) == 0, which
        assert main(["verify", which]) == 0, which
        said = capsys.readouterr().out
        assert ("checkpoints/step-00000001.ckpt" in said) == (seed == RUN), which
        assert "nothing was sent" in said and "every file is as recorded" in said


@pytest.mark.filterwarnings("ignore:.*is taken as the registered model", "ignore:.*is now called:DeprecationWarning")
def test_a_name_means_the_same_to_the_training(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.api import _load
    from zoo.training import fit

    started: list[Any] = []

    class Started(Exception):
        pass

    def start(self: Any, entry: Any, args: Any, **options: Any) -> None:
        started.append(options)
        raise Started

    monkeypatch.setattr(fit.Run, "__init__", start)
    for which, seed in MEANINGS:
        with pytest.raises(Started):
            main(["fit", "--model", NAME, "--init_from", which])
        assert equal(started[-1]["init_from"], tiny(seed)), which
        model, _, known = _load(which, None)  # what trained parts are loaded by
        assert equal(model, tiny(seed)) and (known.get("cost") == {}) == (seed == RUN), which


def test_a_folder_with_a_models_name_is_told_once(here: Path) -> None:
    with pytest.warns(UserWarning, match=f"'{NAME}' is taken as the registered model; .* write './{NAME}'"):
        zoo.load(NAME)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zoo.load(NAME)
        zoo.load(f"./{NAME}")
    with pytest.raises(UnknownModelError, match=r"unknown model 'runs'.* For the folder of this name, write '\./runs'"):
        zoo.load("runs")


@pytest.mark.filterwarnings("ignore:.*is taken as the registered model")
def test_deprecated_names_are_told(here: Path) -> None:
    for load in (zoo.load, zoo.hub.resolve, parse_name, served_name):
        with pytest.warns(DeprecationWarning, match=f"'old-mnist' is now called '{NAME}'"):
            load("old-mnist")


@pytest.mark.filterwarnings("ignore:.*is taken as the registered model")
def test_what_names_mean(here: Path) -> None:
    assert parse_name(Path(NAME)).path == Path(NAME) and parse_name(Path(NAME)).is_run
    assert parse_name("runs/mine").path is not None and parse_name("runs/none").repo == "runs/none"
    assert parse_name("hf://runs/mine").repo == "runs/mine" and parse_name("runs/mine@v1").revision == "v1"
    assert parse_name("~/x").path == Path("~/x").expanduser() and not parse_name("/nowhere").is_run
    assert parse_name(f"{NAME}@v1").entry.name == NAME and parse_name(f"{NAME}@v1").revision == "v1"
    (here / "runs" / "empty").mkdir()
    assert parse_name("runs/empty").path == Path("runs/empty")  # no repository takes a folder's place
    for wrong in ("", "a b", "a\x00b", "x" * 300, "a/b/c", "UPPER", None, 7):
        with pytest.raises((InvalidNameError, UnknownModelError)):
            parse_name(wrong)  # type: ignore[arg-type]
    for name, revision in (("./x", "v1"), ("me/x@v1", "v2")):
        with pytest.raises(InvalidNameError):
            parse_name(name, revision)


@pytest.mark.filterwarnings("ignore:.*is taken as the registered model")
def test_where_files_about_a_model_go(here: Path) -> None:
    for which, folder in (
        (NAME, f"results/{NAME}"), ("tiny_vae", f"results/{NAME}"), ("me/x@v1", "results/me/x"),
        ("runs/mine", "runs/mine"),
        (f"models/{NAME}", f"results/{NAME}"), (f"./{NAME}", NAME),
    ):  # fmt: skip
        assert own_folder(parse_name(which), "results") == Path(folder), which


def test_every_command_takes_registry_files(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path("registry.yaml").read_text().replace(NAME, "other_tiny-mnist")
    Path("other.yaml").write_text(text)
    with pytest.raises(UnknownModelError):
        zoo.load("other_tiny-mnist")
    with in_force("other.yaml"):
        assert equal(zoo.load("other_tiny-mnist"), tiny(REGISTERED))
        assert "other_tiny-mnist" in load_registry() and NAME in load_registry()
    assert "other_tiny-mnist" not in load_registry()
    command = ["sample", "other_tiny-mnist", "-n", "1", "--out", "a.npz"]
    assert main([*command, "--registry", "other.yaml"]) == 0
    assert main([*command, "--force"]) == 2
    odd = here / "with:colon.yaml"
    odd.write_text(text)
    monkeypatch.setenv("ZOO_REGISTRY", str(odd))  # a file whose name has the mark that parts several
    assert "other_tiny-mnist" in load_registry()


@pytest.mark.parametrize("command", [sample, evaluate, diagnose, export, push, serve, validate, verify])
def test_help_says_that_runs_and_names_are_taken(command: Any) -> None:
    parser = argparse.ArgumentParser(conflict_handler="resolve")
    command.add_arguments(parser)
    text = " ".join(parser.format_help().split()).lower()
    assert "run" in text and "name" in text and "folder" in text, command.__name__
