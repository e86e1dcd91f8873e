"""Parameters that are divided among the processes of a run (``fsdp``): whole for a while, and whole in checkpoints.

Within a training step the strategy puts them together by itself. Whatever else reads them, such as an average that is
saved or a picture that is drawn, sees pieces, and asks here.

References:
    Y. Zhao and others, PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel, 2023, arXiv:2304.11277.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn

__all__ = ["changed", "is_sharded", "pieces_of", "whole", "whole_state"]


def is_sharded(trainer: Trainer | None) -> bool:
    """Tell whether each process holds pieces of the parameters."""
    return trainer is not None and isinstance(trainer.strategy, FSDPStrategy)


@contextmanager
def whole(trainer: Trainer, *, write: bool = False) -> Iterator[None]:
    """Let the model have whole parameters in every process, where all of them have to enter; elsewhere do nothing.

    Args:
        trainer: of the run.
        write: whether what is changed inside stays.
    """
    if not is_sharded(trainer):
        yield
        return
    from torch.distributed.fsdp import FullyShardedDataParallel

    with FullyShardedDataParallel.summon_full_params(trainer.strategy.model, writeback=write):
        yield


def changed(trainer: Trainer) -> None:
    """Let the next forward pass put parameters together anew, for the pieces have other values now.

    What a pass without gradients has put together is kept for the next one, which would compute with it.
    """
    if not is_sharded(trainer):
        return
    from torch.distributed.fsdp import FullyShardedDataParallel

    for part in FullyShardedDataParallel.fsdp_modules(trainer.strategy.model):
        handle = part._handle
        begun = handle is not None and "_local_shard" in vars(handle.flat_param)  # by a first pass
        if begun and handle.uses_sharded_strategy:
            handle.reshard(True)


def whole_state(trainer: Trainer, names: Sequence[str]) -> dict[str, Tensor]:
    """Return copies of the named parameters, whole, in the first process; nothing in the others, which ask too."""
    state = trainer.strategy.lightning_module_state_dict()
    return {name: state[name] for name in names if name in state}


@torch.no_grad()
def pieces_of(trainer: Trainer, model: nn.Module, state: Mapping[str, Tensor], live: Sequence[Tensor]) -> list[Tensor]:
    """Return this process's pieces of whole values, in the order of its pieces of the parameters, ``live``."""
    kept = [piece.clone() for piece in live]
    with whole(trainer, write=True):
        for name, parameter in model.named_parameters():
            if name in state:
                parameter.copy_(state[name])
    pieces = [piece.clone() for piece in live]
    torch._foreach_copy_(list(live), kept)
    changed(trainer)
    return pieces
