"""Invertible layers: each maps x to z with log |det dz / dx|, and z back to x.

References:
    L. Dinh, D. Krueger, Y. Bengio, NICE: Non-linear Independent Components Estimation, 2014, arXiv:1410.8516: scaling.
    D. P. Kingma, P. Dhariwal, Glow: Generative Flow with Invertible 1x1 Convolutions, 2018, arXiv:1807.03039: actnorm,
    invertible convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.maths.transforms import from_lu, squeeze, unsqueeze

__all__ = ["ActNorm", "Bijection", "Chain", "Flatten", "InvertibleConv", "Permutation", "Scaling", "Squeeze"]


class Bijection(nn.Module):
    """An invertible map of tensors whose first dimension is the batch."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and log |det dz / dx|, which is (B,), or () where it is the same for all examples."""
        raise NotImplementedError

    def inverse(self, z: Tensor) -> Tensor:
        """Return x."""
        raise NotImplementedError


class Chain(Bijection):
    """Bijections one after the other.

    Args:
        parts: the first one sees x.
    """

    def __init__(self, parts: Iterable[Bijection]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(())
        for part in self.parts:
            x, more = part(x)
            log_det = log_det + more
        return x, log_det

    def inverse(self, z: Tensor) -> Tensor:
        for part in reversed(self.parts):
            z = part.inverse(z)
        return z


class Squeeze(Bijection):
    """`zoo.maths.transforms.squeeze`: (B, C, H, W) -> (B, C f^2, H / f, W / f).

    Args:
        factor: f.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return squeeze(x, self.factor), x.new_zeros(())

    def inverse(self, z: Tensor) -> Tensor:
        return unsqueeze(z, self.factor)


class Flatten(Bijection):
    """(B, *shape) -> (B, D).

    Args:
        shape: of an example.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.flatten(1), x.new_zeros(())

    def inverse(self, z: Tensor) -> Tensor:
        return z.unflatten(1, self.shape)


class Permutation(Bijection):
    """A fixed order of the channels: z[:, i] = x[:, order[i]].

    Args:
        order: a permutation of 0..C-1.
    """

    order: Tensor
    back: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort(), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.index_select(1, self.order), x.new_zeros(())

    def inverse(self, z: Tensor) -> Tensor:
        return z.index_select(1, self.back)


class Scaling(Bijection):
    """z = x exp(s), a learned s for each element of an example.

    Args:
        shape: of an example.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(*shape))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * self.log_scale.exp(), self.log_scale.sum()

    def inverse(self, z: Tensor) -> Tensor:
        return z * torch.exp(-self.log_scale)


class ActNorm(Bijection):
    """z = (x + b) exp(s) channel by channel, where the first training batch sets mean 0 and variance 1.

    The moments are those of the whole batch over all processes, so that every process starts from the same numbers.
    Whether that has happened is a buffer: a resumed or loaded model does not start anew. Before it, in evaluation, the
    layer is the identity.

    Args:
        channels: C of inputs (B, C, ...).
    """

    ready: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))
        self._seen_ready = False  # spares a look at the device in every step

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.training and not self._seen_ready:
            self._initialise(x.detach())
        bias, log_scale = (p.view(-1, *(1,) * (x.ndim - 2)) for p in (self.bias, self.log_scale))  # (C, 1, 1)
        scale = log_scale.exp()
        return torch.addcmul(bias * scale, x, scale), self.log_scale.sum() * math.prod(x.shape[2:])

    def inverse(self, z: Tensor) -> Tensor:
        bias, log_scale = (p.view(-1, *(1,) * (z.ndim - 2)) for p in (self.bias, self.log_scale))
        return z * torch.exp(-log_scale) - bias

    @torch.no_grad()
    def _initialise(self, x: Tensor) -> None:
        if not self.ready:
            others = [d for d in range(x.ndim) if d != 1]
            count = x.new_tensor([x.numel() / x.shape[1]])
            mean = _summed(torch.cat([x.sum(others), count]))
            mean = mean[:-1] / mean[-1]
            centred = (x - mean.view(-1, *(1,) * (x.ndim - 2))).square().sum(others)
            variance = _summed(torch.cat([centred, count]))
            self.bias.copy_(-mean)
            self.log_scale.copy_(-0.5 * (variance[:-1] / variance[-1] + 1e-6).log())
            self.ready.fill_(True)
        self._seen_ready = True

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._seen_ready = False


def _summed(x: Tensor) -> Tensor:
    """Return the sum over all processes."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(x)
    return x


class InvertibleConv(Bijection):
    """1x1 convolution with W = P L U, which starts as a random rotation: a learned permutation of the channels.

    Args:
        channels: C of inputs (B, C, H, W).
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(channels, channels)).Q
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation)
        self.register_buffer("sign", diagonal.sign())
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))
        self.log_diagonal = nn.Parameter(diagonal.abs().log())
        self._settled: Tensor | None = None

    def weight(self) -> Tensor:
        """Return W, (C, C)."""
        return from_lu(self.permutation, self.lower, self.upper, self.sign, self.log_diagonal)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        W = self.weight()[..., None, None]  # (C, C, 1, 1)
        return F.conv2d(x, W), self.log_diagonal.sum() * math.prod(x.shape[2:])

    def inverse_weight(self) -> Tensor:
        """Return the inverse of W, (C, C)."""
        return torch.linalg.inv(self.weight().double()).to(self.log_diagonal.dtype)

    def inverse(self, z: Tensor) -> Tensor:
        W = self.inverse_weight() if self._settled is None else self._settled
        return F.conv2d(z, W[..., None, None])

    @torch.no_grad()
    def settle(self) -> None:
        """Keep the inverse of W as it is now; for a copy that learns no more, and is exported."""
        self._settled = self.inverse_weight().contiguous()
