"""Several devices: how many processes a run has, the strategy that its family needs, and what the processes share."""

from __future__ import annotations

import datetime
import os
import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.errors import ConfigError, RunError
from zoo.model import GenerativeModel

__all__ = [
    "choose_strategy",
    "environments",
    "first_process",
    "hide_absent_gpus",
    "lost_process",
    "new_folder",
    "on_gpu",
    "processes",
]

_FOLDER = "ZOO_RUN_FOLDER"
_LOST = re.compile(
    r"connection (was )?(closed|reset|refused|aborted)|broken pipe|timed out|\b(nccl|gloo|c10d|TCPStore)\b", re.I
)

_FORKING = ("ddp_fork", "ddp_notebook")
_DDP = {"auto", *(f"{how}{find}" for how in ("ddp", *_FORKING) for find in ("", "_find_unused_parameters_true",
                                                                         "_find_unused_parameters_false"))}  # fmt: skip
"""Names of Lightning's strategies whose processes are started, and told what the family needs, here."""


def processes(arguments: dict[str, Any]) -> tuple[int, int]:
    """Return the number of processes of the run and of those on this machine.

    Under torchrun, devices and nodes that the user left open are what torchrun started.
    """
    nodes, local = arguments.get("num_nodes") or 1, None
    if "TORCHELASTIC_RUN_ID" in os.environ and arguments.get("devices", "auto") == "auto":
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // local
        arguments.update(devices=local, num_nodes=nodes)
    local = local or _devices(arguments)
    return local * nodes, local


def _devices(arguments: Mapping[str, Any]) -> int:
    devices = arguments.get("devices", "auto")
    if isinstance(devices, str) and devices.isdigit():
        devices = int(devices)
    if isinstance(devices, int) and devices > 0:
        return devices
    if isinstance(devices, (list, tuple)):
        return max(1, len(devices))
    if isinstance(devices, str) and "," in devices:
        return len([d for d in devices.split(",") if d.strip()])
    if on_gpu(arguments):
        return torch.cuda.device_count()
    return 1


def on_gpu(arguments: Mapping[str, Any]) -> bool:
    """Tell whether the Trainer's arguments choose a GPU, and there is one."""
    return arguments.get("accelerator") in (None, "auto", "gpu", "cuda") and torch.cuda.is_available()


def choose_strategy(arguments: dict[str, Any], model: GenerativeModel, world: int, minutes: float) -> None:
    """Choose the strategy that the family needs, and refuse what this machine cannot do.

    Args:
        arguments: of Lightning's Trainer, changed in place.
        model: two-player families leave parameters without a gradient, and the strategy must expect it.
        world: number of processes.
        minutes: after which a process that says nothing is taken for dead.

    Raises:
        ConfigError: fsdp without a GPU or for players that take turns, processes that would get the training by pickle,
            or forks outside of a notebook.
    """
    strategy, precision = arguments.get("strategy") or "auto", str(arguments.get("precision") or "")
    if isinstance(strategy, str) and "fsdp" in strategy and not on_gpu(arguments):
        raise ConfigError("strategy fsdp needs a GPU, and this run has none; use --trainer.strategy ddp")
    if not model.automatic_optimization and (isinstance(strategy, FSDPStrategy) or "fsdp" in str(strategy)):
        raise ConfigError(
            f"strategy fsdp divides parameters for one backward pass a step, and {type(model).__name__} has several; "
            f"use --trainer.strategy ddp"
        )
    if str(getattr(strategy, "_start_method", strategy)).endswith("spawn"):
        raise ConfigError("processes that are spawned cannot be sent this training; use --trainer.strategy ddp")
    interactive = hasattr(sys, "ps1") and "LOCAL_RANK" not in os.environ  # a notebook: there is no script to run again
    if isinstance(strategy, str) and strategy.startswith(_FORKING) and not interactive:
        raise ConfigError(
            f"strategy {strategy} forks a notebook's process, and this is none; use --trainer.strategy ddp"
        )
    if world > 1 and strategy in _DDP:
        find = strategy.endswith("_true") or not (strategy.endswith("_false") or model.automatic_optimization)
        start: Any = "fork" if interactive else "popen"
        arguments["strategy"] = DDPStrategy(
            find_unused_parameters=find, timeout=datetime.timedelta(minutes=minutes), start_method=start
        )
    if world > 1 and any(isinstance(m, _BatchNorm) for m in model.modules()):
        if on_gpu(arguments):
            arguments["sync_batchnorm"] = True
        else:
            warnings.warn(
                f"{type(model).__name__} has batch normalisation, whose statistics CPU processes do not share: the "
                f"result differs from that of one process",
                stacklevel=2,
            )
    if precision.startswith(("bf16", "16")) and not on_gpu(arguments):
        warnings.warn(
            f"precision {precision} is many times slower than 32 on CPUs without native support", stacklevel=2
        )


def hide_absent_gpus() -> None:
    """Where there is no GPU, say so in the environment.

    Adam asks at every step whether there is one, and Lightning makes torch look for a driver each time; with no device
    to be visible the answer takes no look, which saves more than the step of a small model costs.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


def environments() -> list[Any]:
    """Return the plugins of the cluster: under SLURM one that leaves checkpoints and requeueing to this engine."""
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def first_process() -> bool:
    """Tell whether this process is the first of its run, before any of them has spoken to another."""
    rank = next((os.environ[k] for k in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if k in os.environ), "0")
    return rank == "0"


def new_folder(name: str) -> Path:
    """Return a run folder that does not exist yet, the same one in every process of the run. Raises `ConfigError`."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:  # a further run of a script
        agreed = [str(_dated(name))]
        dist.broadcast_object_list(agreed, src=0)
        return Path(agreed[0])
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return Path(_agreed("folder", str(_dated(name))))
    if os.environ.get(_FOLDER) and not first_process():  # a worker that the first process started
        return Path(os.environ[_FOLDER])
    if int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1"))) > 1 and not first_process():
        raise ConfigError("processes started one by one need a folder that all of them know; give --run DIR")
    folder = _dated(name)
    os.environ[_FOLDER] = str(folder)
    return folder


def _agreed(key: str, value: str) -> str:
    """Return the first process's value, through the store of the agent that started all of them."""
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    key = f"zoo/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{key}"
    if first_process():
        store.set(key, value)
    return store.get(key).decode()


def _dated(name: str) -> Path:
    stamp = datetime.datetime.now().strftime("%Y-%m-%d-%H%M%S")
    folder = Path("runs") / name / stamp
    suffix = 1
    while folder.exists():
        suffix += 1
        folder = Path("runs") / name / f"{stamp}-{suffix}"
    return folder


def lost_process(error: BaseException, world: int, folder: Path) -> RunError | None:
    """Return what to tell the user when ``error`` means that another process of the run is gone, else None."""
    if world < 2 or not isinstance(error, (RuntimeError, dist.DistError)) or not _LOST.search(str(error)):
        return None
    return RunError(
        f"another process of the run ended or no longer answers, so this one stops too; the reason is in its own "
        f"output. Go on from the last checkpoint with zoo fit --resume {folder} and the same devices "
        f"({str(error).splitlines()[0][:120]})"
    )
