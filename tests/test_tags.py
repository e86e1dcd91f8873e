"""Tags of names: several weights of one model and data, the best of which the name without a tag means."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hub_cases import NAME, PNG, mlp, registry
from test_leaderboard import make

import zoo
from zoo._cli import fit
from zoo._cli.main import main
from zoo.catalogue import result_of
from zoo.errors import RegistryError, UnknownModelError
from zoo.hub import save_pretrained
from zoo.leaderboard.columns import COLUMNS
from zoo.names import parse_name
from zoo.registry import Overlay, _check_adds, load_registry
from zoo.reproduce import reproduce
from zoo.results import Result

HOME, GPU = f"{NAME}.home", f"{NAME}.gpu"


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two bundles of one model: of the home track, and a wider one of a longer training, which is the better."""
    path = registry(tmp_path / "registry.yaml")
    monkeypatch.setenv("ZOO_REGISTRY", str(path))
    content = yaml.safe_load(path.read_text())
    small = {**content["models"].pop(NAME), "trainer": {"max_steps": 5}, "weights": {"bundled": True}}
    init = {"encoder": mlp([784, 16, 4]), "decoder": mlp([2, 16, 784])}
    large = {"extends": HOME, "model": {"init_args": init}, "trainer": {"max_steps": 500}, "weights": {"bundled": True}}
    content |= {"models": {HOME: small, GPU: large}, "aliases": {NAME: GPU}}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    monkeypatch.setattr("zoo.hub.loading.pretrained_folder", lambda name: tmp_path / "bundled" / name)
    for name in (HOME, GPU):
        save_pretrained(zoo.create(name).eval(), tmp_path / "bundled" / name, samples=PNG)
    return path


def _width(model: Any) -> int:
    return model.spec["init_args"]["encoder"]["init_args"]["features"][1]


def test_a_bare_name_loads_the_best_weights_and_a_tag_the_others(pair: Path) -> None:
    widths = {name: _width(zoo.load(name)) for name in (NAME, HOME, GPU, "tiny_vae", "tiny_vae.home", "tiny_vae.gpu")}
    assert widths == {NAME: 16, HOME: 8, GPU: 16, "tiny_vae": 16, "tiny_vae.home": 8, "tiny_vae.gpu": 16}
    assert [zoo.load(n).source.name for n in (NAME, "tiny_vae.home")] == [GPU, HOME]  # what results are recorded under
    x = zoo.load(NAME).sample(2, seed=0)
    assert torch.equal(x, zoo.load(GPU).sample(2, seed=0)) and not torch.equal(x, zoo.load(HOME).sample(2, seed=0))
    assert parse_name(NAME).entry == load_registry()[GPU] and zoo.info(NAME).name == GPU


def test_a_bare_name_trains_the_recipe_of_the_home_track(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = load_registry()
    trained = {name: registry.recipe(name).name for name in (NAME, "tiny_vae", HOME, GPU, "tiny_vae.gpu")}
    assert trained == {NAME: HOME, "tiny_vae": HOME, HOME: HOME, GPU: GPU, "tiny_vae.gpu": GPU}
    assert (_width(zoo.create("tiny_vae")), _width(zoo.create("tiny_vae.gpu"))) == (8, 16)
    parser = argparse.ArgumentParser(add_help=False)
    fit.add_arguments(parser)
    args, args.rest = parser.parse_known_args(["--model", NAME])[0], []
    assert fit.entry_of(args)[0].trainer["max_steps"] == 5
    with pytest.raises(RegistryError, match=f"the registry expects no result of {HOME}"):
        reproduce(NAME)


def test_both_are_listed_and_the_default_is_said(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert zoo.list(NAME) == zoo.list("tiny_vae-*") == zoo.list("*.home") + zoo.list("tiny_vae-mnist.gpu")
    assert zoo.list("tiny_vae*", dataset="mnist", pretrained=True) == [HOME, GPU]
    assert main(["list", "tiny_vae*"]) == 0
    _, home, gpu = capsys.readouterr().out.splitlines()
    assert home.startswith(HOME) and "means" not in home
    assert gpu.startswith(GPU) and gpu.endswith(f"(what {NAME} means)")
    assert main(["list", NAME, "--json"]) == 0
    assert [(r["name"], r["dataset"], r["alias"]) for r in json.loads(capsys.readouterr().out)] == [
        (HOME, "mnist", None), (GPU, "mnist", NAME),
    ]  # fmt: skip


def test_home_is_the_plain_entry_where_there_is_no_other() -> None:
    shipped = load_registry()
    for name in ("wgan_gp-mnist", "wgan_gp"):
        assert shipped.resolve(f"{name}.home") is shipped.resolve(name) is shipped.recipe(name)
    for wrong in ("wgan_gp-mnist.best", "nothing-mnist.home", "wgan_gp-mnist.home.home"):
        with pytest.raises(UnknownModelError, match="unknown model"):
            shipped.resolve(wrong)


def test_without_an_alias_the_tags_are_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("models: {mine-mnist.home: {extends: vae-mnist}, mine-mnist.gpu: {extends: vae-mnist}}\n")
    mine = load_registry(file)
    for name in ("mine", "mine-mnist"):
        with pytest.raises(UnknownModelError, match=r"may be any of mine-mnist\.home, mine-mnist\.gpu"):
            mine.resolve(name)
    entry = mine["mine-mnist.gpu"]
    assert (entry.model_name, entry.dataset, entry.untagged, entry.tag) == ("mine", "mnist", "mine-mnist", "gpu")
    assert (shipped := load_registry()["vae-mnist"]).tag == "" and shipped.untagged == shipped.name
    file.write_text("models: {mine-v1.5: {extends: vae-mnist}}\n")  # a number is no tag
    assert load_registry(file)["mine-v1.5"].dataset == "v1.5"
    file.write_text("models: {}\naliases: {a: b, b: a}\n")
    with pytest.raises(RegistryError, match="does not exist"):
        load_registry(file)


def test_an_installed_package_takes_no_tag_of_a_name_that_is_there() -> None:
    known = {"models": {"vae-mnist": {}}, "aliases": {"vae": "vae-mnist"}, "deprecated": {}, "data": {}}
    for section, name in (("models", "vae-mnist.home"), ("models", "vae-mnist.better"), ("aliases", "vae.home")):
        with pytest.raises(RegistryError, match="is a name already"):
            _check_adds(Overlay("theirs.yaml"), {section: {name: {}}}, known)
    _check_adds(Overlay("theirs.yaml"), {"models": {"theirs-mnist.gpu": {}}}, known)


def _best(results: dict[str, Result]) -> str:
    """Return the name of the best by the leaderboard's own columns: likelihood where all have one, else distance."""
    for column in (COLUMNS["likelihood"], COLUMNS["fid"]):
        values = {name: column.value(result) for name, result in results.items()}
        if None not in values.values():
            return min(values, key=values.__getitem__)
    raise AssertionError(f"{', '.join(results)} were measured by different numbers")


def test_bare_names_of_the_zoo_mean_the_best_of_their_bundled_weights() -> None:
    assert _best({"a": make("a", fid=2.0), "b": make("b", fid=1.0)}) == "b"
    assert _best({"a": make("a", fid=2.0, nats=80.0), "b": make("b", fid=1.0, nats=81.0)}) == "a"
    registry = load_registry()
    for stem in {e.untagged for e in registry.values() if e.tag and e.pretrained} | {"vae-mnist"}:
        several = [e for e in registry.values() if e.untagged == stem and e.pretrained]
        assert registry.resolve(stem).name == _best({e.name: result_of(e) for e in several})
