"""Counting compute: the floating-point operations of training, as the equal-compute track counts them.

All training work of all players counts: forward, backward and penalties. Validation, sampling, the optimizer and the
moving average do not. A multiply-add is two operations, as in torch's FlopCounterMode.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from zoo.model import Batch, GenerativeModel

__all__ = ["flops_per_sample", "flops_per_step", "parameter_count"]


def parameter_count(model: torch.nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def flops_per_step(model: GenerativeModel, batch: Batch) -> tuple[float, float]:
    """Return the operations of one training step on ``batch``, and by how many more one of the first steps has.

    A step's are averaged over the model's period; the model's ``first_steps`` make what later ones use, see
    `zoo.model.GenerativeModel`, as does ``counted_from``, the step that is counted. Where they are of several
    ``first_phases``, steps of each are counted, and the second number is the mean over all of them; it is negative
    where they cost less. The steps run on a copy of the model, without an optimizer, so nothing moves. Attention runs
    on the mathematical kernel while it is counted, since fused kernels count nothing.
    """
    probe = copy.deepcopy(model).train()
    probe.turn = lambda player: _turn(probe, player)  # type: ignore[method-assign]
    first = 1 if probe.first_steps else 0
    if phases := probe.first_phases:
        return _phased(probe, batch, phases)
    counts = _counted(probe, batch, [*range(first), *range(probe.period)])
    return sum(counts[first:]) / probe.period, counts[0] - counts[1] if first else 0.0


def _phased(probe: GenerativeModel, batch: Batch, phases: Sequence[int]) -> tuple[float, float]:
    """Count a period of each phase, after its first step, which may still be as the last one of the phase before."""
    start, more, period = 0, 0.0, probe.period
    rest = _counted(probe, batch, range(sum(phases), sum(phases) + period))
    last = sum(rest) / len(rest)
    for length in phases:
        first = start + (length > 1)
        counts = _counted(probe, batch, range(first, min(first + period, start + length)))
        more += length * (sum(counts) / len(counts) - last) if counts else 0.0
        start += length
    return last, more / sum(phases)


def _counted(probe: GenerativeModel, batch: Batch, steps: Iterable[int]) -> list[float]:
    """Return the operations of each of some steps."""
    counts = []
    for i in steps:
        probe.steps_done = probe.counted_from + i
        with _Counter(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            loss = probe.training_step(batch, i)
            if probe.automatic_optimization:
                loss.backward()
        counts.append(float(counter.get_total_flops()))
    return counts


@torch.no_grad()
def flops_per_sample(model: GenerativeModel, options: Mapping[str, Any], n: int = 4) -> float:
    """Return the operations of drawing one sample with these options, counted over a batch of n.

    Products that a compiled sampler computes outside of torch are not counted.
    """
    labels = torch.arange(n, device=model.device) % model.num_classes if model.num_classes else None
    with _Counter(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.sample(n, seed=0, labels=labels, **options)
    return float(counter.get_total_flops()) / n


class _Counter(FlopCounterMode):
    """Count the whole alone: telling modules apart puts hooks on their inputs, which a leaf that is to be
    differentiated, as at every step of a Langevin chain, does not bear."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.mod_tracker = _Whole()


class _Whole:
    """Stand in for torch's tracker of modules: all operations belong to the whole."""

    parents = ("Global",)

    def __enter__(self) -> _Whole:
        return self

    def __exit__(self, *error: Any) -> None:
        return None


@contextmanager
def _turn(model: GenerativeModel, player: str) -> Iterator[Callable[[Tensor], bool]]:
    """Stand in for `GenerativeModel.turn`: the same gradients, and no step."""
    own = {id(p) for p in model.players()[player].parameters}
    before = [(p, p.requires_grad) for p in model.parameters()]
    for p, required in before:
        p.requires_grad_(required and id(p) in own)

    def update(loss: Tensor) -> bool:
        loss.backward()
        model.steps_done += player == next(iter(model.players()))
        return True

    try:
        yield update
    finally:
        for p, required in before:
            p.requires_grad_(required)
