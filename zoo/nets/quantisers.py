"""Quantisers as layers: continuous maps (B, D, h, w) -> codes (B, G, h, w) and the vectors that stand for them.

A quantiser has ``dim`` (D), ``groups`` (G) and ``size`` (codes a group). Called on an encoder's output it returns
`Quantised`; `learn` is called once for every training batch, with the results; `codes` and `embed` lead to integers and
back. One that draws is `Stochastic`; what is called with which is the business of `quantised`. Where the groups are
``ordered``, coarse ones first, `embed` takes the first g of them too, int64 (B, g, h, w).

References:
    A. van den Oord, O. Vinyals, K. Kavukcuoglu, Neural Discrete Representation Learning, 2017, arXiv:1711.00937.
    F. Mentzer and others, Finite Scalar Quantization: VQ-VAE Made Simple, 2023, arXiv:2309.15505.
    H. Jegou, M. Douze, C. Schmid, Product Quantization for Nearest Neighbor Search, 2011.
    P. Dhariwal and others, Jukebox, 2020, arXiv:2005.00341 (codes that died are drawn anew).
    M. Jia and others, MGVQ: Could VQ-VAE Beat VAE? A Generalizable Tokenizer with Multi-group Quantization, 2025,
    arXiv:2507.07997 (nested groups).
    J. Yu and others, Vector-quantized Image Modeling with Improved VQGAN, 2021, arXiv:2110.04627 (vectors of length 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError, check_choice
from zoo.maths.quantisers import FiniteScalars, straight_through
from zoo.spec import Recorded

__all__ = ["FSQ", "Ordered", "Quantised", "Stochastic", "VectorQuantiser", "quantised"]

UPDATES = ("ema", "loss")

Noise = Callable[..., Tensor]
"""Uniform training noise in [0, 1) of a shape whose first dimension is the batch."""


@dataclass(frozen=True)
class Quantised:
    """What a quantiser made of one batch.

    Attributes:
        z: what the decoder sees, (B, D, h, w): the codes' vectors, with gradients to the encoder.
        codes: int64 (B, G, h, w).
        losses: auxiliary terms in the units of squared z, summed over an example and averaged over the batch.
        learned: what `VectorQuantiser.learn` needs: vectors (G, N, d) and assignments, nearest codes (G, N) or
            weights (G, N, K).
    """

    z: Tensor
    codes: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)
    learned: tuple[Tensor, Tensor] | None = None


class Stochastic:
    """Mixin of a quantiser that draws: called as ``quantiser(z, rand)``, rand being the model's training noise.

    So equal seeds train alike, on one device or on several, and a run resumes exactly.
    """


@runtime_checkable
class Ordered(Protocol):
    """A quantiser whose groups may be in an order, coarse ones first: ``ordered`` tells whether they are."""

    ordered: bool


def quantised(quantiser: nn.Module, z: Tensor, rand: Noise) -> Quantised:
    """Return what a quantiser makes of z, (B, D, h, w); it is given the noise if it takes any."""
    return quantiser(z, rand) if isinstance(quantiser, Stochastic) else quantiser(z)


class VectorQuantiser(Stochastic, Recorded, nn.Module):
    """The nearest of K learned vectors, for each of G groups of the D channels.

        L = ||sg[z_e] - e||^2 (codebook)  +  ||z_e - sg[e]||^2 (commitment),  decoder input z_e + sg[e - z_e]

    With ``nested`` groups (MGVQ), each training example has one u ~ U(0, 1), and group g is zero where u < p_g; since p
    does not fall, the groups that are left out are the last ones, and the first learn what is coarse. The losses are
    those of all groups. In the paper a batch has one u; one for each example has the same mean.

    Args:
        size: K, codes of each group.
        dim: D, channels of the input, a multiple of ``groups``.
        groups: parts of the channels, each with its own codebook (product quantisation: K^G combinations).
        update: ``loss``: codebooks are parameters that the codebook loss moves; ``ema``: each code is the exponential
            moving average of the vectors assigned to it, and there is no codebook loss.
        decay: of the averages, between 0 and 1.
        revive: a code whose averaged share of the vectors falls below this part of an even share, 1/K, is drawn anew
            among the vectors of the batch, as are all codes in the first batch; 0 for never.
        temperature: if given, in training the decoder sees the average of all codes under a softmax of
            -||z_e - e||^2 / temperature in place of the nearest one; in evaluation always the nearest.
        nested: p, the chance with which each group is left out in training, 0 for the first, none less than the one
            before; none or all 0 for groups without an order (product quantisation).
        normalised: whether z_e and e are brought to length 1, group by group, so that the nearest is the one of the
            most similar direction.

    Raises:
        ConfigError: numbers that do not fit together, or an unknown ``update``.
    """

    def __init__(
        self,
        size: int,
        dim: int,
        groups: int = 1,
        update: str = "ema",
        decay: float = 0.99,
        revive: float = 0.01,
        temperature: float | None = None,
        nested: list[float] | None = None,
        normalised: bool = False,
    ) -> None:
        super().__init__()
        if size < 1 or groups < 1 or dim < 1 or dim % groups:
            raise ConfigError(f"{dim} channels do not divide into {groups} groups with {size} codes each")
        check_choice("update", update, UPDATES)
        if not 0 < decay < 1 or not 0 <= revive < 1:
            raise ConfigError(f"decay must lie in (0, 1) and revive in [0, 1), got {decay} and {revive}")
        if temperature is not None and temperature <= 0:
            raise ConfigError(f"temperature must be positive, got {temperature}; leave it out for the nearest code")
        _check_nested(nested, groups)
        self.size, self.dim, self.groups, self.update = size, dim, groups, update
        self.decay, self.revive, self.temperature = decay, revive, temperature
        self.nested, self.normalised = tuple(nested or ()), normalised
        self.ordered = bool(self.nested)
        e = torch.randn(groups, size, dim // groups)
        self.register_buffer("share", torch.zeros(groups, size))  # averaged share of the vectors, of each code
        if update == "ema":
            self.register_buffer("codebook", e)
            self.register_buffer("mass", torch.zeros_like(e))  # averaged sum of a code's vectors, as share is
        else:
            self.codebook = nn.Parameter(e)

    # -- vectors, codes, and back -------------------------------------------------------------------------------------

    @classmethod
    def channels(cls, arguments: Mapping[str, Any]) -> int:
        """Return D of a quantiser with these arguments; see `zoo.families.discrete`."""
        return arguments["dim"]

    @classmethod
    def grown(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a quantiser for larger pictures or more colours: at least 512 codes of 64 numbers."""
        return {**arguments, "size": max(arguments["size"], 512), "dim": max(arguments["dim"], 64)}

    def vectors(self, z: Tensor) -> Tensor:
        """Return the vectors of each group: (B, D, h, w) -> (G, B h w, d)."""
        v = z.unflatten(1, (self.groups, -1)).permute(1, 0, 3, 4, 2).flatten(1, 3)
        return F.normalize(v, dim=2) if self.normalised else v

    def book(self) -> Tensor:
        """Return the vectors of the codes, (G, K, d), of length 1 where they are ``normalised``."""
        return F.normalize(self.codebook, dim=2) if self.normalised else self.codebook

    def image(self, vectors: Tensor, like: Tensor) -> Tensor:
        """Undo `vectors`: (G, B h w, d) -> (B, D, h, w) of the size of ``like``."""
        B, _, h, w = like.shape
        return vectors.unflatten(1, (B, h, w)).permute(1, 0, 4, 2, 3).flatten(1, 2)

    def distances(self, v: Tensor, e: Tensor) -> Tensor:
        """Return ||v - e||^2 - ||v||^2, which orders codes as distances do: (G, N, d), (G, K, d) -> (G, N, K)."""
        return torch.baddbmm(e.square().sum(2)[:, None], v, e.mT, alpha=-2)

    def codes(self, z: Tensor) -> Tensor:
        """Return the nearest codes: (B, D, h, w) -> int64 (B, G, h, w)."""
        nearest = self.distances(self.vectors(z), self.book()).argmin(2)  # (G, N)
        return nearest.unflatten(1, (len(z), *z.shape[2:])).transpose(0, 1)

    def embed(self, codes: Tensor) -> Tensor:
        """Return the vectors of codes, zero for groups not given: int64 (B, g, h, w), g <= G -> (B, D, h, w)."""
        e = self.book()
        parts = [F.embedding(c, e[g]) for g, c in enumerate(codes.unbind(1))]  # (B, h, w, d) each
        parts += [torch.zeros_like(parts[0])] * (self.groups - len(parts))
        return torch.cat(parts, 3).permute(0, 3, 1, 2)

    def kept(self, n: int, rand: Noise) -> Tensor:
        """Draw which channels of each of n examples stay: (n, D, 1, 1), 0 or 1."""
        u = rand(n, 1)
        kept = (u >= u.new_tensor(self.nested)).to(u.dtype)  # (n, G)
        return kept.repeat_interleave(self.dim // self.groups, 1)[:, :, None, None]

    def forward(self, z: Tensor, rand: Noise | None = None) -> Quantised:
        """Quantise a batch; ``rand`` is needed by nested groups in training."""
        made = self._nearest(z)
        if not (self.training and any(self.nested)):
            return made
        if rand is None:
            raise ConfigError("nested groups draw which of them stay: pass the training noise")
        return replace(made, z=made.z * self.kept(len(z), rand))

    def _nearest(self, z: Tensor) -> Quantised:
        v = self.vectors(z)
        z = self.image(v, z) if self.normalised else z
        # The copy is what the backward pass reads, so that `learn` may change the codes before it.
        e = self.book().clone() if self.temperature is not None else self.book()
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.soft):
            distances = self.distances(v, e)
        nearest = distances.argmin(2)
        chosen = torch.stack([F.embedding(nearest[g], e[g]) for g in range(self.groups)])  # (G, N, d)
        losses = {"commitment": (v - chosen.detach()).square().sum() / len(z)}
        if self.update == "loss":
            losses["codebook"] = (v.detach() - chosen).square().sum() / len(z)
        codes = nearest.unflatten(1, (len(z), *z.shape[2:])).transpose(0, 1)
        if self.soft:
            p = torch.softmax(-distances / self.temperature, 2)
            return Quantised(self.image(p @ e, z), codes, losses, (v.detach(), p.detach()))
        return Quantised(straight_through(z, self.image(chosen, z)), codes, losses, (v.detach(), nearest))

    @property
    def soft(self) -> bool:
        """Whether all codes are averaged, as in training with a temperature."""
        return self.training and self.temperature is not None

    # -- learning without gradients -----------------------------------------------------------------------------------

    @torch.no_grad()
    def learn(self, quantised: Quantised, rand: Callable[..., Tensor]) -> None:
        """Update the averages of one training batch, and draw dead codes anew.

        The averages are those over the batches of all processes, and dead codes become the same vectors in all of them.

        Args:
            quantised: what `forward` returned.
            rand: uniform training noise of a shape whose first dimension is the batch.
        """
        v, assigned = quantised.learned
        v = v.to(self.codebook.dtype)  # which under mixed precision is more than what the encoder gave
        assigned = assigned.to(v.dtype) if assigned.is_floating_point() else assigned
        first = ~self.share.any()  # (), on the device: it is not waited for
        if assigned.ndim == 3:
            n, m = assigned.sum(1), (assigned.mT @ v).to(v.dtype)  # (G, K), (G, K, d); autocast halves products
        else:
            n = torch.zeros_like(self.share).scatter_add_(1, assigned, torch.ones_like(v[..., 0]))
            m = torch.zeros_like(self.codebook).scatter_add_(1, assigned[..., None].expand_as(v), v)
        total = v.new_tensor(v.shape[1])
        for part in (n, m, total) if _many() else ():
            dist.all_reduce(part)
        self.share.lerp_(n / total, 1 - self.decay)
        if self.update == "ema":
            self.mass.lerp_(m / total, 1 - self.decay)
            used = self.share[..., None] > torch.finfo(v.dtype).tiny
            self.codebook.copy_(torch.where(used, self.mass / self.share[..., None], self.codebook))
        dead = self.share < self.revive / self.size  # (G, K), alike in all processes
        if self.revive:
            dead = dead | first
        self._revive(dead, v, quantised.codes, rand)

    def _revive(self, dead: Tensor, v: Tensor, codes: Tensor, rand: Callable[..., Tensor]) -> None:
        if dead.device.type == "cpu" and not bool(dead.any()):  # elsewhere looking costs more than drawing
            return
        B, G, h, w = codes.shape
        order = _joined(rand(B, G, h * w).transpose(0, 1).flatten(1))  # (G, N): who is drawn first
        v = _joined(v)
        N = order.shape[1]
        turn = dead.cumsum(1) - 1  # (G, K): the how manieth dead code it is
        drawn = order.argsort(dim=1, descending=True, stable=True).gather(1, turn.clamp(0, N - 1))  # (G, K)
        new = v.gather(1, drawn[..., None].expand(-1, -1, v.shape[-1]))  # (G, K, d)
        lost = dead & (turn < N)
        self.codebook.data.copy_(torch.where(lost[..., None], new, self.codebook))
        self.share.masked_fill_(lost, 1 / self.size)
        if self.update == "ema":
            self.mass.copy_(torch.where(lost[..., None], new / self.size, self.mass))


def _check_nested(nested: Sequence[float] | None, groups: int) -> None:
    if nested is None:
        return
    p = list(nested)
    rising = all(a <= b for a, b in pairwise(p))
    if len(p) != groups or p[0] != 0 or not rising or p[-1] >= 1:
        raise ConfigError(
            f"nested needs a chance below 1 for each of the {groups} groups, 0 for the first and none less than the "
            f"one before, got {p}"
        )


class FSQ(Recorded, nn.Module):
    """Finite scalar quantisation: a fixed grid and nothing to learn; see `zoo.maths.quantisers.FiniteScalars`.

    Two levels are 0 and -1, and near z = 0 the half step offset has bent the bound flat: every number starts as 0, and
    the decoder's first weights get no gradient until some z has fallen below -3.4.

    Attributes:
        steps_to_move: training steps until every tensor of a model of the zoo has moved.

    Args:
        levels: of each of the D channels, all at least 2; prod(levels) codes.
    """

    groups = 1

    def __init__(self, levels: list[int]) -> None:
        super().__init__()
        self.grid = FiniteScalars(levels)
        self.steps_to_move = 120 if max(levels) == 2 else 2
        self.size, self.dim = self.grid.size, len(levels)

    @classmethod
    def channels(cls, arguments: Mapping[str, Any]) -> int:
        """Return D of a quantiser with these arguments; see `zoo.families.discrete`."""
        return len(arguments["levels"])

    @classmethod
    def grown(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a quantiser for larger pictures or more colours: at least 8 x 5 x 5 x 5 codes."""
        return {**arguments, "levels": [8, 5, 5, 5]} if math.prod(arguments["levels"]) < 1000 else dict(arguments)

    def codes(self, z: Tensor) -> Tensor:
        """Return the codes of the nearest points: (B, D, h, w) -> int64 (B, 1, h, w)."""
        return self.grid.index(self.grid.quantise(z.movedim(1, -1)))[:, None]

    def embed(self, codes: Tensor) -> Tensor:
        """Return the points of codes: int64 (B, 1, h, w) -> (B, D, h, w) in [-1, 1]."""
        return self.grid.point(codes[:, 0]).movedim(-1, 1)

    def forward(self, z: Tensor) -> Quantised:
        points = self.grid.quantise(z.movedim(1, -1))  # (B, h, w, D)
        return Quantised(points.movedim(-1, 1), self.grid.index(points.detach())[:, None])

    def learn(self, quantised: Quantised, rand: Callable[..., Tensor]) -> None:
        """Do nothing: the grid is fixed."""


def _many() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _joined(x: Tensor) -> Tensor:
    """Return the vectors of all processes, in the order of their ranks: (G, N, ...) -> (G, world N, ...)."""
    if not _many():
        return x
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts, 1)
