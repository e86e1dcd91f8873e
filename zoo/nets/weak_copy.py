"""A network's own early self, which guidance moves away from.

    weak = mean of the weights over the batches N / 2 to N of training, frozen from then on

It makes the errors of the trained network, but larger ones: moving from what it says to what the trained network says
leads away from both, without classes and without a second training.

References:
    T. Karras and others, Guiding a Diffusion Model with a Bad Version of Itself, 2024, arXiv:2406.02507.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError

__all__ = ["WeakCopy"]


class WeakCopy(nn.Module):
    """The mean of a network's weights over an early stretch of its training; called like the network.

    Args:
        network: that is to be trained; copied, never changed here.
        batches: N, at least 2: after how many batches the copy stays as it is.

    Raises:
        ConfigError: fewer than 2 batches.
    """

    def __init__(self, network: nn.Module, batches: int) -> None:
        super().__init__()
        if batches < 2:
            raise ConfigError(f"an early self needs at least 2 batches of training, got {batches}")
        self.network, self.batches = copy.deepcopy(network).requires_grad_(False), batches
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self._count: int | None = None  # what `seen` holds, so that a device is asked for it only once
        self.register_load_state_dict_post_hook(_recount)

    def forward(self, *args: Any) -> Tensor:
        return self.network(*args)

    @torch.no_grad()
    def observe(self, network: nn.Module) -> None:
        """Take the weights of one more batch into the mean, until N of them were seen."""
        if self._count is None:
            self._count = int(self.seen)
        if self._count >= self.batches:
            return
        self._count += 1
        self.seen += 1
        taken = self._count - self.batches // 2
        if taken > 0:
            mean, live = ([p.data for p in n.parameters()] for n in (self.network, network))
            torch._foreach_lerp_(mean, live, 1 / taken)


def _recount(module: WeakCopy, keys: Any) -> None:
    module._count = None
