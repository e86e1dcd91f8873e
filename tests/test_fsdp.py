"""Parameters that are divided among processes: on CPUs, by torch's own FSDP, what Lightning's strategy does on GPUs.

What torch gathers of an optimizer's state on a CPU has the same numbers under every name, so that going on to the same
bits is for cards: see `test_gpu`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import warm
from conftest import collect
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import FSDPStrategy
from torch import nn

import zoo.training.fit as fit
from zoo.callbacks.ema import EMA
from zoo.callbacks.sharded import whole_state
from zoo.errors import ConfigError
from zoo.runs import last_checkpoint, read_checkpoint
from zoo.training.devices import choose_strategy

ALL = [
    "--data.limit", "32", "--training.noise", "cpu", "--training.ema", "0.9", "--trainer.gradient_clip_val", "1",
    "--trainer.limit_val_batches", "2", "--trainer.val_check_interval", "2", "--training.checkpoint_every", "2",
]  # fmt: skip


class OnCPU(FSDPStrategy):
    """Lightning's strategy, which gives torch no device of a CPU."""

    def _setup_model(self, model: nn.Module) -> nn.Module:
        from torch.distributed.fsdp import FullyShardedDataParallel

        return FullyShardedDataParallel(model, device_id=torch.device("cpu"), **self.kwargs)


class Averages(Callback):
    """Write the whole average that the first step finds."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_start(self, trainer: Trainer, module: Any, *args: Any) -> None:
        if self.path.exists():
            return
        (ema,) = (c for hooks in trainer.callbacks for c in getattr(hooks, "parts", ()) if isinstance(c, EMA))
        with ema.applied():
            state = whole_state(trainer, ema._names)
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            torch.save({name: value.clone() for name, value in state.items()}, self.path)
        trainer.strategy.barrier()


def _rank(name: str, folder: str, steps: int, rank: int, port: int, resume: bool = False) -> str:
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2",
        LOCAL_WORLD_SIZE="2", GROUP_RANK="0", TORCHELASTIC_RUN_ID="test", GLOO_SOCKET_IFNAME="lo",
    )  # fmt: skip
    torch.set_num_threads(1)
    here = ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.enable_progress_bar", "false"]
    here += ["--training.sample_every", "2", "--data.batch_size", "4"]
    arguments = [
        *ALL,
        "--data.batch_size",
        "4",
        "--trainer.max_steps",
        str(steps),
        "--training.sample_every",
        "2",
        *here,
    ]
    run = fit.Run(warm.entry(name), arguments, folder=folder, resume=resume)
    run.arguments["strategy"] = OnCPU()
    run.arguments["callbacks"] = [Averages(Path(f"{folder}-{'resumed' if resume else 'begun'}.pt"))]
    return str(run.start())


def _two(run_forked: Callable[..., Any], *args: Any) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    name, folder, steps, *more = args
    for process, queue in [run_forked(_rank, name, folder, steps, r, port, *more, start=True) for r in (0, 1)]:
        collect(process, queue, timeout=180)


def test_divided_parameters_reach_the_weights_of_one_process(tmp_path: Path, run_forked: Callable[..., Any]) -> None:
    """With clipping, an average, validation by it and pictures; the average goes on where it was saved."""
    two, one = str(tmp_path / "two"), str(tmp_path / "one")
    _two(run_forked, "vae-mnist", two, 4)
    run_forked(warm.train_both, "vae-mnist", one, 4, 8, *ALL)
    assert warm.difference(one, two) < 1e-6  # of weights and averages
    assert [p.name for p in sorted((tmp_path / "two/samples").iterdir())] == [
        "step-00000002.png", "step-00000004.png",
    ]  # fmt: skip
    saved = read_checkpoint(last_checkpoint(two))["ema"]["parameters"]
    _two(run_forked, "vae-mnist", two, 6, True)
    found = torch.load(f"{two}-resumed.pt", weights_only=True)
    assert found.keys() == saved.keys() and all(torch.equal(found[n], saved[n]) for n in saved)
    begun = torch.load(f"{two}-begun.pt", weights_only=True)
    assert not any(torch.equal(begun[n], saved[n]) for n in saved)
    assert last_checkpoint(two).name == "step-00000006.ckpt"


@pytest.mark.parametrize("strategy", ["fsdp", "object"])
def test_players_that_take_turns_are_refused(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    given: Any = OnCPU() if strategy == "object" else strategy
    with pytest.raises(ConfigError, match=r"one backward pass a step, and \w+ has several; use --trainer.strategy ddp"):
        choose_strategy({"accelerator": "gpu", "strategy": given}, tiny.gan().model, 2, 5.0)
    arguments = {"accelerator": "gpu", "strategy": given}
    choose_strategy(arguments, tiny.vae().model, 2, 5.0)
    assert arguments["strategy"] is given
