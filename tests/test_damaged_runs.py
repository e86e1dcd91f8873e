"""Run folders that a failing disk or an editor has changed: one sentence each, and nothing is lost."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml

import zoo
from zoo._cli.main import main
from zoo.api import _data
from zoo.errors import CardError, CheckpointError, RunError, ZooError
from zoo.hub import cards
from zoo.hub.layout import sha256
from zoo.runs import last_checkpoint, load_run, run_metadata

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps with two checkpoints."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    return tiny.vae("--training.checkpoint_every", "2", "--trainer.max_steps", "4", folder=folder).start()


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that run, in the working directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(trained, tmp_path / "run"))


def fails(capture: Capture, *argv: str) -> str:
    """Run a command that must end with exit code 2 and one sentence, and change nothing; return that sentence."""
    before = {p: p.read_bytes() for p in Path.cwd().rglob("*") if p.is_file()}
    assert main(argv) == 2, argv
    lines = [x for x in capture.readouterr().err.splitlines() if not x.startswith("zoo: warning")]
    assert len(lines) == 1 and lines[0].startswith("zoo: error: ") and len(lines[0]) < 700, (argv, lines)
    assert {p: p.read_bytes() for p in Path.cwd().rglob("*") if p.is_file()} == before, argv
    return lines[0]


def rewrite(run: Path, change: Callable[[Any], Any]) -> None:
    """Change what is in the newest checkpoint, its sha256 with it; the older one is gone."""
    for path in sorted((run / "checkpoints").glob("*.ckpt"))[:-1]:
        path.unlink()
    path = last_checkpoint(run)
    content = torch.load(path, weights_only=True)
    torch.save(change(content), path)
    path.with_name(path.name + ".sha256").write_text(sha256(path.read_bytes()))


def edited(**values: Any) -> Callable[[Any], Any]:
    """Return what sets these keys of a checkpoint, or drops them where the value is ``...``."""
    return lambda content: {k: v for k, v in {**content, **values}.items() if v is not ...}


def state(change: Callable[[dict[str, Any]], Any]) -> Callable[[Any], Any]:
    def changed(content: Any) -> Any:
        tensors = dict(content["state_dict"])
        change(tensors)
        return {**content, "state_dict": tensors, "ema": None}

    return changed


def facts(**values: Any) -> Callable[[Any], Any]:
    return lambda content: {**content, "zoo": edited(**values)(content["zoo"])}


def arguments(**values: Any) -> Callable[[Any], Any]:
    def changed(content: Any) -> Any:
        content = copy.deepcopy(content)
        content["zoo"]["spec"]["init_args"].update(values)
        return content

    return changed


CHECKPOINTS: dict[str, Callable[[Any], Any]] = {
    "without zoo": edited(zoo=...), "zoo is text": edited(zoo="x"), "zoo is a list": edited(zoo=[1]),
    "a list": lambda content: [content], "a tensor": lambda content: torch.zeros(3), "a number": lambda content: 7,
    "nothing": lambda content: None, "without state": edited(state_dict=...), "state is a list": edited(state_dict=[]),
    "state is text": edited(state_dict={"x": "y"}), "average is text": edited(ema="x"),
    "average is empty": edited(ema={"updates": 1}), "average is numbers": edited(ema={"parameters": {"x": 1}}),
    "tensor missing": state(lambda t: t.pop(next(iter(t)))),
    "tensor too many": state(lambda t: t.update(x=torch.ones(1))),
    "other shape": state(lambda t: t.update({next(iter(t)): torch.zeros(99)})),
    "spec missing": facts(spec=...), "spec is text": facts(spec="zoo.families.vae.VAE"),
    "spec is empty": facts(spec={}),
    "class path is a number": facts(spec={"class_path": 7, "init_args": {}}), "name is a list": facts(name=[1]),
    "step is text": facts(step="4"), "arguments are a list": facts(spec={"class_path": "zoo.families.vae.VAE",
    "init_args": [1]}), "no arguments": facts(spec={"class_path": "zoo.families.vae.VAE"}),
    "argument unknown": arguments(nonsense=1), "argument of another type": arguments(latent_dim="two"),
    "argument without sense": arguments(likelihood="x"), "network is text": arguments(encoder="x"),
    "network is a number": arguments(encoder=7), "no network": arguments(decoder=None),
}  # fmt: skip


@pytest.mark.parametrize("damage", CHECKPOINTS)
def test_edited_checkpoints_are_one_sentence(damage: str, run: Path, capsys: Capture) -> None:
    rewrite(run, CHECKPOINTS[damage])
    assert "step-00000004.ckpt" in fails(capsys, "sample", "./run", "-n", "1", "--out", "x.npz") or "argument" in damage
    with pytest.raises(ZooError):
        zoo.load("./run")


RESUMED = {
    "step missing": facts(step=...), "optimiser missing": edited(optimizer_states=...),
    "optimiser is a list of text": edited(optimizer_states=["x"]), "loops missing": edited(loops=...),
    "loops are text": edited(loops="x"), "batches missing": edited(zoo_batches=...),
    "cost is text": edited(zoo_cost="x"),
    "version is a list": edited(**{"pytorch-lightning_version": [1]}), "other state": edited(callbacks=7),
    "without zoo": edited(zoo=...),
    "other shape": CHECKPOINTS["other shape"],
}  # fmt: skip


@pytest.mark.parametrize("share", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_edited_checkpoints_are_not_gone_on_with(share: int, run: Path, trained: Path, capsys: Capture) -> None:
    for what, damage in list(RESUMED.items())[share::2]:
        shutil.rmtree(run)
        shutil.copytree(trained, run)
        rewrite(run, damage)
        before = (run / "metrics.csv").read_bytes()
        with pytest.raises(ZooError, match="checkpoint") as error:
            tiny.vae("--trainer.max_steps", "6", folder=run, resume=True).start()
        assert str(error.value).isprintable() and len(str(error.value)) < 600, what
        assert (run / "metrics.csv").read_bytes() == before and last_checkpoint(run).name == "step-00000004.ckpt"


NOT_TEXT, DEEP = b"\xff\xfe\x00x", b"[" * 100_000


def test_a_damaged_newest_sidecar_falls_back_and_says_so(run: Path, capsys: Capture) -> None:
    older = run / "checkpoints" / "step-00000002.ckpt"
    record = run / "checkpoints" / "step-00000004.ckpt.sha256"
    for content in (NOT_TEXT, b"", b"0" * 64, b"x" * 10_000_000, None):
        record.unlink(missing_ok=True)
        if content is not None:
            record.write_bytes(content)
        with pytest.warns(UserWarning, match=r"step-00000004\.ckpt of .*step-00000002\.ckpt is taken instead"):
            assert last_checkpoint(run) == older
    record.mkdir()  # a folder in the record's place
    with pytest.warns(UserWarning, match="is taken instead"):
        load_run(run)
    (run / "checkpoints" / "step-00000009.ckpt").mkdir()  # and in a checkpoint's
    older.write_bytes(b"")
    (run / "checkpoints" / "step-00000006.ckpt.damaged").write_bytes(b"")
    with pytest.raises(RunError, match=r"no intact checkpoint \(2 damaged, 1 put aside earlier as \.damaged\)"):
        load_run(run)


def test_damaged_run_json_is_one_sentence(run: Path, capsys: Capture) -> None:
    good = run_metadata(run)
    contents = [NOT_TEXT, DEEP, b"", b"[]", b"7", b"null", b'"x"', b"{", b'{"a":' * 50_000, b" " * 11_000_000]
    wrong = {"name": [1], "cost": "x", "ema": "x", "data": [1], "status": {}, "command": 7}
    contents += [json.dumps({**good, key: value}).encode() for key, value in wrong.items()]
    contents += [json.dumps({**good, "data": data}).encode() for data in ({}, {"class_path": 7}, {"x": 1})]
    for content in contents:
        (run / "run.json").write_bytes(content)
        with pytest.raises(ZooError):
            run_metadata(run) and _data(None, run_metadata(run)["data"], None, "./run")
    deep: Any = {"class_path": 7, "init_args": [1]}
    for _ in range(300):
        deep = [{"class_path": "x", "init_args": {"of": deep}}]
    for key in ("spec", "data", "cost", "class_names", "step", "name", "status", "args"):
        for value in ("x", 7, [1], {}, {"class_path": 7, "init_args": [1]}, {"init_args": {"x": deep}}):
            (run / "run.json").write_text(json.dumps({**good, key: value}))
            assert main(["show", "./run"]) == 0 and len(capsys.readouterr().out) < 20_000
    for arguments in ({"points": "x"}, {"nonsense": 1}, [1], {"points": None}):
        data = {**good["data"], "init_args": arguments}
        (run / "run.json").write_text(json.dumps({**good, "data": data}))
        fails(capsys, "diagnose", "./run")
    (run / "run.json").unlink()
    assert "run.json cannot be read" in fails(capsys, "evaluate", "./run", "--quick")


def test_damaged_configurations_are_one_sentence(run: Path, capsys: Capture) -> None:
    good = yaml.safe_load((run / "config.yaml").read_text())
    deep: dict[str, Any] = {}
    for _ in range(90):
        deep = {"class_path": "zoo.nets.mlp.MLP", "init_args": {"features": deep}}
    contents = [NOT_TEXT, DEEP, b"", b"[]", b"7", b"a: [", b"{a: " * 3000, b"\t\x00", b"x: &x [*x]", b" " * 3_000_000]
    changes = [{"name": [1]}, {"model": 7}, {"model": []}, {"model": {}}, {"data": "x"}, {"trainer": []},
               {"model": {"class_path": 7}}, {"training": 7}, {"trainer": {"max_steps": "x"}}, {"nonsense": 1},
               {"model": deep}, {"data": None}, {"trainer": {"max_steps": {}}}]  # fmt: skip
    contents += [yaml.safe_dump({**good, **change}).encode() for change in changes]
    for content in contents:
        (run / "config.yaml").write_bytes(content)
        fails(capsys, "fit", "--resume", "./run")
    (run / "config.yaml").unlink()
    (run / "config.yaml").mkdir()
    fails(capsys, "fit", "--resume", "./run")


def test_damaged_logs_do_not_lose_rows(run: Path) -> None:
    for content in (NOT_TEXT, b"step,loss\nx,1\n", b"loss\n1\n", b'step\n"\x00\n'):
        (run / "metrics.csv").write_bytes(content)
        with pytest.raises(RunError, match=r"metrics\.csv cannot be read, so the run would lose its log"):
            tiny.vae("--trainer.max_steps", "6", folder=run, resume=True).start()
        assert (run / "metrics.csv").read_bytes() == content


def test_an_intact_run_is_as_it_was(run: Path) -> None:
    assert load_run(run).source.kind == "run"
    rewrite(run, lambda content: content)  # the harness changes nothing by itself
    load_run(run)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_run(run, checkpoint=run / "checkpoints" / "step-00000007.ckpt")


WRONG_PARTS = ("x", 7, [1], {"fid": [1]}, {"fid": "x"}, {"shape": 7}, {"sampler": [1]}, {"sampler": {"a": [1]}})


def test_damaged_results_make_a_card_or_one_sentence() -> None:
    deep: Any = 1
    for _ in range(500):
        deep = {"x": [deep]}
    fine = {"metrics": {"fid": {"value": 3.0, "standard_error": 0.1}}, "protocol": {"sampler": {"steps": 9}}}
    for key in ("metrics", "floor", "data", "protocol", "cost", "identity"):
        for value in WRONG_PARTS:
            with contextlib.suppress(CardError):
                assert "fid" in cards.card_of(None, {}, {**fine, key: value}, {}, load="./x") or key == "metrics"
    for results in ([1], "x", 7, [{}], {"metrics": [1]}, {"metrics": {"fid": deep}}, {**fine, "floor": deep}):
        with pytest.raises(CardError):
            cards.card_of(None, {}, results, {}, load="./x")
