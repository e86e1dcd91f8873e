"""Hostile run folders, configurations and checkpoints, through every command that loads one: nothing is run.

Each payload would import a module that leaves a mark, or start a process that does. A user's own overlay allows
classes, by each of the three ways of naming one; nothing that is loaded does.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hub_cases import NAME, mlp, registry, tiny, tiny_folder, write_run

import zoo
from zoo._cli.main import main
from zoo.errors import ZooError
from zoo.evaluation import worker
from zoo.evaluation.devices import JOB
from zoo.hub.layout import sha256, sums_text
from zoo.runs import load_run
from zoo.serving.service import load_models
from zoo.serving.settings import Settings
from zoo.spec import build
from zoo.training.cli import EntryCLI

Capture = pytest.CaptureFixture[str]
VAE = "zoo.families.vae.VAE"
POINTS = {"class_path": "zoo.data.toys.EightGaussians", "init_args": {"batch_size": 8, "points": 200}}


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that must not be there afterwards: the module ``trap`` makes it when it is imported, payloads when run."""
    path = tmp_path / "mark"
    modules = tmp_path / "modules"
    modules.mkdir()
    code = f"open({str(path)!r}, 'w').close()\nfrom zoo.families.vae import VAE\nclass Trap(VAE):\n    pass\n"
    (modules / "trap.py").write_text(code)
    monkeypatch.syspath_prepend(str(modules))
    monkeypatch.setenv("ZOO_REGISTRY", str(registry(tmp_path / "registry.yaml")))
    monkeypatch.chdir(tmp_path)
    yield path
    assert not path.exists() and "trap" not in sys.modules


def spec(class_path: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": init_args}


def payloads(mark: Path) -> dict[str, dict[str, Any]]:
    """Return specs that a folder may name in the place of a model, by what they would do."""
    touch = ["touch", str(mark)]
    inner = {"name": "x", "model": spec(VAE), "data": POINTS}
    return {
        "process": spec("subprocess.Popen", args=touch),
        "shell": spec("os.system", command=" ".join(touch)),
        "module": spec("trap.Trap"),
        "code": spec("builtins.exec", source="import trap"),
        "in a network": spec(VAE, encoder=spec("subprocess.Popen", args=touch), decoder=mlp([2, 8, 784])),
        "in a list": spec(VAE, encoder=[{"deep": [spec("trap.Trap")]}]),
        "parser": spec("zoo.training.cli.EntryCLI", entry=inner, args=["--model", "trap.Trap"], allow=["trap"]),
        "training": spec("zoo.training.fit.Run", entry=inner, args=["--model", "trap.Trap"], allow=["trap"]),
        "callback": spec("zoo.callbacks.pictures.Pictures", folder=str(mark), every=1),
        "function": spec("zoo.runs.load_run", run="x"),
        "command": spec("zoo._cli.main.main", argv=["sample", "x"]),
        "imported name": spec("zoo.training.fit.os.system", command=" ".join(touch)),
        "imported class": spec("zoo.data.folder.Path"),
        "no class": spec("zoo.nets.mlp.torch"),
        "no text": spec(["trap.Trap"]),  # type: ignore[arg-type]
        "data": spec("zoo.data.folder.ImageFolder", folder=str(mark.parent)),
        "no model": mlp([2, 2]),
    }


def hostile_run(folder: Path, model: Any, **facts: Any) -> Path:
    """Write a run whose checkpoint and records agree, and whose checkpoint allows itself everything."""
    write_run(folder, tiny(), "zoo fit")
    checkpoint = next(folder.glob("checkpoints/*.ckpt"))
    content = torch.load(checkpoint, weights_only=True)
    allow = ["subprocess", "os", "builtins", "trap", "zoo", "torch"]
    content["zoo"] = {"spec": model, "name": NAME, "allow": allow, "step": 1}
    torch.save(content, checkpoint)
    checkpoint.with_name(checkpoint.name + ".sha256").write_text(sha256(checkpoint.read_bytes()))
    run = {"name": NAME, "allow": allow, "data": POINTS, "spec": model, "command": "zoo fit", **facts}
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "config.yaml").write_text(yaml.safe_dump({"name": "unknown", "model": model, "data": POINTS, **facts}))
    return folder


COMMANDS = [
    ["sample", "RUN", "--out", "x.png"], ["evaluate", "RUN", "--quick"], ["evaluate", "RUN", "--data", "mnist"],
    ["diagnose", "RUN"], ["export", "RUN"], ["export", "RUN", "--format", "safetensors"],
    ["push", "RUN", "--repo", "me/x", "--dry_run"], ["validate", "RUN"], ["test", "RUN"], ["fit", "--resume", "RUN"],
    ["fit", "--config", "RUN/config.yaml"], ["fit", "--config", "RUN/config.yaml", "--dry_run"],
    ["validate", "vae-mnist", "--config", "RUN/config.yaml"],
    ["fit", "--model", NAME, "--init_from", "RUN"], ["fit", "--model", "vq_vae_prior", "--autoencoder", "RUN"],
    ["fit", "--model", "reflow-mnist", "--teacher", "RUN"],
]  # fmt: skip


def fails(capture: Capture, *argv: str) -> str:
    """Run a command that must end with exit code 2 and one sentence; return that."""
    assert main(argv) == 2, argv
    lines = [x for x in capture.readouterr().err.splitlines() if not x.startswith("zoo: warning")]
    if "is no generative model of the zoo" in lines[0]:  # ten lines show what to write instead
        lines = lines[:1]
    assert len(lines) == 1 and lines[0].startswith("zoo: error: ") and len(lines[0]) < 1000, (argv, lines)
    return lines[0]


def test_hostile_checkpoints_run_nothing_through_any_command(mark: Path, capsys: Capture) -> None:
    made = payloads(mark)
    for number, (what, model) in enumerate(made.items()):
        run = str(hostile_run(Path(f"./run{number}"), model))
        for action in (lambda run=run: zoo.load(f"./{run}"), lambda run=run: load_run(run)):
            with pytest.raises(ZooError):
                action()
        with pytest.raises(ZooError):
            load_models(Settings(models=(f"./{run}",)))
        # each payload through a few of the commands, each command with a few of the payloads
        chosen = COMMANDS if what == "process" else COMMANDS[number % 3 :: 3]
        for command in chosen:
            said = fails(capsys, *(word.replace("RUN", f"./{run}") for word in command))
            if what == "process":
                assert "allow-list" in said and "a registry file of your own (allow: [subprocess])" in said, command
        assert not mark.exists(), what


def test_hostile_specs_are_refused_where_they_are_built(mark: Path) -> None:
    for what, model in payloads(mark).items():
        if what in ("data", "no model"):  # plain classes of the zoo, which are no model
            continue
        with pytest.raises(ZooError):
            build(model)
        assert not mark.exists(), what


def test_data_that_a_run_names(mark: Path, capsys: Capture) -> None:
    for number, (what, data) in enumerate(payloads(mark).items()):
        if what == "data":
            continue
        run = hostile_run(Path(f"run{number}"), tiny().spec, data=data)
        for command in (["evaluate", f"./{run}", "--quick"], ["diagnose", f"./{run}"]):
            fails(capsys, *command)
            assert not mark.exists(), what


def _configurations(mark: Path) -> list[dict[str, Any]]:
    """Return parts of a configuration that name what must not be imported, as the parser's own forms of it."""
    touch = f"touch {mark}"
    hook = spec("lightning.pytorch.callbacks.LambdaCallback", on_fit_start="os.system")
    model = tiny().spec
    return [
        *({"model": {**model, "init_args": {**model["init_args"], k: "trap.Trap"}}} for k in ("encoder", "decoder")),
        *({"model": value} for value in ("trap.Trap", "subprocess.Popen", "zoo.runs.load_run", spec("trap.Trap"))),
        *({"data": value} for value in ("trap.Trap", spec("subprocess.Popen", args=touch.split()), "os.system")),
        *({"trainer": {key: value}} for key in ("logger", "profiler", "strategy", "plugins", "accelerator")
          for value in (spec("trap.Trap"), spec("subprocess.Popen", args=touch.split()))),
        *({"trainer": {"callbacks": [value]}} for value in (
            "trap.Trap", spec("trap.Trap"), spec("os.system", command=touch), hook,
            spec("zoo.training.cli.EntryCLI", args=[]), spec("lightning.pytorch.trainer.trainer.os.system"),
        )),
        {"trainer": {"logger": spec("lightning.pytorch.loggers.MLFlowLogger", tracking_uri="http://127.0.0.1:1")}},
        {"trainer": {"logger": spec("lightning.pytorch.loggers.wandb.WandbLogger")}},
        {"training": {"ema": spec("trap.Trap")}}, {"allow": ["trap"], "model": spec("trap.Trap")},
    ]  # fmt: skip


@pytest.mark.parametrize("share", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3))])
def test_hostile_configurations_of_runs(share: int, mark: Path, capsys: Capture) -> None:
    run = hostile_run(Path("run"), tiny().spec)
    for number, part in enumerate(_configurations(mark)[share::4]):
        config = {"name": NAME, "model": tiny().spec, "data": POINTS, "trainer": {"max_steps": 1}, **part}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        fails(capsys, "fit", "--resume", "./run")
        if number % 4 == 0:
            fails(capsys, "fit", "--config", "run/config.yaml", "--run", "new")
        assert not mark.exists() and not Path("new").exists(), part
    for text in ("!!python/object/apply:os.system ['touch mark']", "!!python/module:trap", "!!python/name:trap.Trap"):
        (run / "config.yaml").write_text(f"name: {NAME}\nmodel: {text}\n")
        assert "not valid YAML" in fails(capsys, "fit", "--resume", "./run")


def test_hostile_model_folders_through_the_commands(mark: Path, capsys: Capture) -> None:
    folder = tiny_folder(Path("folder"))
    before = json.loads((folder / "config.json").read_text())
    for model in payloads(mark).values():
        public = {"name": model["class_path"], "args": model["init_args"]}
        for config in ({**before, "args": {**before["args"], "encoder": model}}, {**before, "model": public["name"]},
                       {**before, "args": {**before["args"], "encoder": public}}):  # fmt: skip
            (folder / "config.json").write_text(json.dumps(config))
            files = {p.name: p.read_bytes() for p in folder.iterdir()}
            (folder / "SHA256SUMS").write_text(sums_text(files))
            with pytest.raises(ZooError):
                zoo.load(folder)
    for command in COMMANDS[:8]:
        fails(capsys, *(word.replace("RUN", "./folder") for word in command))


def test_a_job_of_several_processes_allows_nothing(mark: Path) -> None:
    model = spec("trap.Trap")
    job = {"spec": model, "allow": ["trap"], "threads": 1, "options": {}, "levels": 2, "dtype": "float32", "chunks": []}
    Path("work").mkdir()
    Path("work", JOB).write_text(json.dumps(job))
    with pytest.raises(ZooError, match="not on the allow-list"):
        worker.share("work", 1, 2, "cpu")


def test_overlays_that_allow_nothing(mark: Path, capsys: Capture) -> None:
    for model in ("trap.Trap", "os.system", "zoo.training.cli.EntryCLI"):
        entry = {"family": "vae", "model": spec(model), "data": POINTS}
        Path("mine.yaml").write_text(yaml.safe_dump({"models": {"mine-points": entry}}))
        assert "not on the allow-list" in fails(capsys, "fit", "--model", "mine-points", "--registry", "mine.yaml")
        assert "not on the allow-list" in fails(capsys, "list", "--registry", "mine.yaml")


# -- what a user allows, and only while it is allowed ------------------------------------------------------------------

OWN = "from zoo.families.vae import VAE\nclass Mine(VAE):\n    pass\n"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run of a class of the user's own, and in ``mine.yaml`` the overlay that allows it."""
    (tmp_path / "my_models.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ZOO_REGISTRY", str(registry(tmp_path / "registry.yaml")))
    model = {**tiny().spec, "class_path": "my_models.Mine"}
    yield hostile_run(tmp_path / "run", model)
    sys.modules.pop("my_models", None)


@pytest.mark.parametrize("way", ["configuration folder", "variable", "option"])
def test_a_users_own_overlay_loads_the_runs_of_their_own_class(
    way: str, own: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert "allow: [my_models]" in fails(capsys, "sample", "./run", "-n", "1", "--out", "a.npz")
    assert "my_models" not in sys.modules
    option = []
    if way == "configuration folder":
        Path("home/zoo").mkdir(parents=True)
        Path("home/zoo/registry.yaml").write_text("allow: [my_models]\n")
    elif way == "variable":
        Path("mine.yaml").write_text("allow: [my_models.Mine]\n")
        monkeypatch.setenv("ZOO_REGISTRY", os.pathsep.join([os.environ["ZOO_REGISTRY"], "mine.yaml"]))
    else:
        Path("mine.yaml").write_text("allow: [my_models]\n")
        option = ["--registry", "mine.yaml"]
    command = ["sample", "./run", "-n", "2", "--seed", "1", *option]
    assert main([*command, "--out", "a.npz"]) == 0 and "my_models" in sys.modules
    if way != "option":
        assert type(zoo.load("./run")).__name__ == "Mine"
        return
    with pytest.raises(ZooError, match="not on the allow-list"):  # the option is over
        zoo.load("./run")


def test_what_one_registry_allowed_the_next_one_does_not(own: Path) -> None:
    entry = {"name": "mine", "model": {**tiny().spec, "class_path": "my_models.Mine"}, "data": POINTS}
    assert EntryCLI(entry, ["--data", "zoo.data.toys.EightGaussians"], ["my_models"]).model.latent_dim == 2
    with pytest.raises(ZooError, match=r"'my_models\.Mine' is not on the allow-list"):
        EntryCLI(entry, [])
