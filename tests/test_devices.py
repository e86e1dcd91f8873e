"""Several processes: the strategy that a family needs, a rank that dies, and the launchers."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from conftest import collect
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from zoo.errors import ConfigError
from zoo.runs import last_checkpoint, run_metadata
from zoo.training.devices import choose_strategy, first_process, lost_process, new_folder, processes

CPU = {"accelerator": "cpu"}


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {"vae": tiny.vae().model, "gan": tiny.gan().model}


@pytest.mark.parametrize("strategy", [None, "auto", "ddp"])
@pytest.mark.parametrize(("name", "find"), [("vae", False), ("gan", True)])
def test_each_family_gets_the_strategy_that_it_needs(
    strategy: str | None, name: str, find: bool, models: dict[str, Any]
) -> None:
    arguments: dict[str, Any] = {**CPU, "strategy": strategy}
    choose_strategy(arguments, models[name], 2, 5.0)
    assert isinstance(arguments["strategy"], DDPStrategy)
    assert arguments["strategy"]._ddp_kwargs.get("find_unused_parameters", False) is find
    assert arguments["strategy"]._timeout.total_seconds() == 300
    alone: dict[str, Any] = {**CPU, "strategy": strategy}
    choose_strategy(alone, models[name], 1, 5.0)
    assert alone["strategy"] == strategy


@pytest.mark.parametrize("strategy", ["ddp_fork", "ddp_notebook", "ddp_notebook_find_unused_parameters_false"])
def test_forks_are_of_notebooks(strategy: str, models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("sys.ps1", raising=False)
    with pytest.raises(ConfigError, match=f"{strategy} forks a notebook's process, and this is none"):
        choose_strategy({**CPU, "strategy": strategy}, models["gan"], 2, 5.0)
    monkeypatch.setattr("sys.ps1", ">>> ", raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    arguments: dict[str, Any] = {**CPU, "strategy": strategy}
    choose_strategy(arguments, models["gan"], 2, 5.0)
    assert arguments["strategy"]._start_method == "fork"
    assert arguments["strategy"]._ddp_kwargs["find_unused_parameters"] is not strategy.endswith("false")


def test_fsdp_is_refused_without_a_gpu(models: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="fsdp needs a GPU"):
        choose_strategy({**CPU, "strategy": "fsdp"}, models["vae"], 2, 5.0)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "16-mixed"])
def test_half_precision_on_a_cpu_is_warned_of(precision: str, models: dict[str, Any]) -> None:
    with pytest.warns(UserWarning, match="many times slower"):
        choose_strategy({**CPU, "precision": precision}, models["vae"], 1, 5.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choose_strategy({**CPU, "precision": "32-true"}, models["vae"], 1, 5.0)


def test_batch_statistics_are_shared_on_gpus_and_warned_of_on_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.vae().model
    model.encoder = nn.Sequential(model.encoder, nn.BatchNorm1d(4))
    with pytest.warns(UserWarning, match="batch normalisation"):
        choose_strategy(dict(CPU), model, 2, 5.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    arguments: dict[str, Any] = {"accelerator": "gpu"}
    choose_strategy(arguments, model, 2, 5.0)
    assert arguments["sync_batchnorm"] is True


@pytest.mark.parametrize(
    ("devices", "nodes", "expected"),
    [("auto", None, (1, 1)), ("2", None, (2, 2)), (2, 3, (6, 2)), ([0, 1], 1, (2, 2)), ("0,1", 1, (2, 2))],
)
def test_processes_are_counted(devices: Any, nodes: Any, expected: tuple[int, int]) -> None:
    assert processes({**CPU, "devices": devices, "num_nodes": nodes}) == expected


def test_torchrun_says_what_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "3", "RANK": "4"}.items():
        monkeypatch.setenv(key, value)
    arguments: dict[str, Any] = {**CPU, "devices": "auto"}
    assert processes(arguments) == (6, 3) and (arguments["devices"], arguments["num_nodes"]) == (3, 2)
    assert processes({**CPU, "devices": 2}) == (2, 2)
    assert not first_process()
    with pytest.raises(ConfigError, match="give --run"):
        new_folder("tiny")


def test_only_lost_connections_are_explained() -> None:
    gone = RuntimeError("[pair.cc:534] Connection closed by peer [127.0.0.1]:1234")
    assert "another process" in str(lost_process(gone, 2, Path("runs/x")))
    assert "--resume runs/x" in str(lost_process(gone, 2, Path("runs/x")))
    assert lost_process(gone, 1, Path("runs/x")) is None
    assert lost_process(RuntimeError("size mismatch"), 2, Path("runs/x")) is None
    assert lost_process(ValueError("Connection closed by peer"), 2, Path("runs/x")) is None


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_dead_rank_ends_the_run_with_a_message(tmp_path: Path, run_forked: Callable[..., Any]) -> None:
    port, folder = _port(), str(tmp_path / "run")
    (first, said), (second, _) = (
        run_forked(tiny.gan_rank, folder, rank, port, 5 if rank == 1 else None, start=True) for rank in (0, 1)
    )
    message = collect(first, said, timeout=60)
    second.join(10)
    assert second.exitcode == -9
    assert message.startswith("RunError: another process of the run ended") and f"--resume {folder}" in message
    assert last_checkpoint(folder).name == "step-00000004.ckpt" and run_metadata(folder)["status"] == "stopped"


def _launch(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400)


SMALL = [
    "--model", "vae", "--trainer.max_steps", "6", "--data.limit", "64", "--data.batch_size", "8",
    "--training.log_every", "2", "--training.sample_every", "0", "--training.checkpoint_every", "3",
    "--trainer.accelerator", "cpu", "--trainer.limit_val_batches", "1",
]  # fmt: skip


def _one_run(folder: Path) -> Path:
    (run,) = (folder / "runs" / "vae-mnist").iterdir()
    assert last_checkpoint(run).name == "step-00000006.ckpt"
    assert run_metadata(run)["status"] == "finished" and run_metadata(run)["cost"]["examples"] == 6 * 8 * 2
    with (run / "metrics.csv").open(newline="") as stream:
        steps = [row["step"] for row in csv.DictReader(stream) if row["train/loss"]]
    assert steps == ["2", "4", "6"]  # one process writes
    assert not list(run.rglob("*.tmp"))
    return run


@pytest.mark.slow
def test_torchrun_makes_one_run_and_goes_on_with_it(tmp_path: Path) -> None:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = _launch([*start, "-m", "zoo", "fit", *SMALL], tmp_path)
    assert done.returncode == 0, done.stderr
    run = _one_run(tmp_path)
    more = _launch([*start, "-m", "zoo", "fit", "--resume", str(run), "--trainer.max_steps", "8"], tmp_path)
    assert more.returncode == 0, more.stderr
    assert last_checkpoint(run).name == "step-00000008.ckpt"


@pytest.mark.slow
@pytest.mark.parametrize("place", [[], ["--run", "runs/vae-mnist/mine"]])
def test_devices_alone_start_the_other_processes(place: list[str], tmp_path: Path) -> None:
    done = _launch([sys.executable, "-m", "zoo", "fit", *SMALL, *place, "--trainer.devices", "2"], tmp_path)
    assert done.returncode == 0, done.stderr
    run = _one_run(tmp_path)
    assert not place or run.name == "mine"
