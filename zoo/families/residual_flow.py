"""Residual flow: residual blocks that are invertible because they are contractions, and the trace of a power series.

    z = x + g(x),  Lip(g) < 1,   x = lim x_k,  x_{k+1} = z - g(x_k)
    log |det dz / dx| = tr log(I + J) = sum_{k >= 1} (-1)^{k+1} tr(J^k) / k,   J = dg / dx

On few dimensions the determinant is computed; elsewhere the series is estimated without bias: a random number N of
terms is taken, each over the chance that it is (Russian roulette), and e^T J^k e, e standard normal, stands for the
trace.
Every linear layer has a spectral norm of at most c, activations are LipSwish, x sigmoid(b x) / 1.1.

References:
    J. Behrmann and others, Invertible Residual Networks, 2018, arXiv:1811.00995.
    R. T. Q. Chen, J. Behrmann, D. Duvenaud, J.-H. Jacobsen, Residual Flows for Invertible Generative Modeling, 2019,
    arXiv:1906.02735, equations 6 and 8, section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.normalising_flow import Draw, NormalisingFlow

__all__ = ["ResidualFlow", "reach_of_terms", "series_weights"]

_EXACT = 16
"""Dimensions up to which determinants are computed rather than estimated."""

_SHARE = 0.5
"""Chance that one more term is taken."""

_EVALUATED = 20
"""Terms that are always taken where a model is evaluated, in the place of those of training."""

_PRECISION = 1e-7

Weights = list[tuple[Tensor, Tensor]]


def series_weights(count: Tensor, always: int, most: int) -> Tensor:
    """Return [N >= k] / P(N >= k) for k = 1, ..., most: int64 (B,) -> (B, most).

    Args:
        count: N of each example, drawn by `reach_of_terms`.
        always: terms that every example takes.
        most: of all examples.
    """
    k = torch.arange(1, most + 1, device=count.device)
    chance = _SHARE ** (k - always).clamp(min=0).double()
    return (count[:, None] >= k).double() / chance


def reach_of_terms(u: Tensor, always: int) -> Tensor:
    """Return N, ``always`` and a geometric number more: uniform (B,) -> int64 (B,)."""
    return always + (torch.log(u.double().clamp(min=1e-12)) / math.log(_SHARE)).floor().long()


def _exactly(W: Tensor) -> Tensor:
    """Return a matrix in single precision at least, as decompositions need it."""
    return W.to(torch.promote_types(W.dtype, torch.float32))


class _Contraction(nn.Module):
    """g: linear layers of spectral norm at most c, with LipSwish before each, (B, d) -> (B, d)."""

    def __init__(self, features: int, width: int, layers: int, limit: float) -> None:
        super().__init__()
        sizes = [features, *[width] * (layers - 1), features]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.slopes = nn.Parameter(torch.full((layers,), 0.5))
        self.limit = limit
        self._settled: tuple[Weights, int] | None = None

    def settle(self) -> None:
        """Compute once what hangs on the weights alone, for a copy whose weights stay."""
        with torch.no_grad():
            weights = [(W.clone(), b.clone()) for W, b in self.weights()]
            self._settled = weights, self.iterations(weights)

    def iterations(self, weights: Weights) -> int:
        """Return after how many a fixed point is reached to a ten-millionth, by the norms of the matrices."""
        if self._settled is not None:
            return self._settled[1]
        with torch.no_grad():
            slope = math.prod(float(torch.linalg.matrix_norm(_exactly(W.detach()), 2)) for W, _ in weights)
        return max(1, math.ceil(math.log(_PRECISION) / math.log(max(slope, _PRECISION))))

    def weights(self) -> Weights:
        """Return the matrices, no longer than the limit, and biases."""
        if self._settled is not None:
            return self._settled[0]
        found = []
        for layer in self.layers:
            W = layer.weight
            with torch.no_grad():
                U, _, V = torch.linalg.svd(_exactly(W), full_matrices=False)
            u, v = U[:, 0].to(W.dtype), V[0].to(W.dtype)
            norm = torch.dot(u, torch.mv(W, v))  # with the gradient of the largest singular value
            found.append((W * torch.clamp(self.limit / norm, max=1.0), layer.bias))
        return found

    def forward(self, x: Tensor, weights: Weights) -> Tensor:
        for (W, b), slope in zip(weights, F.softplus(self.slopes), strict=True):
            x = F.linear(x * torch.sigmoid(slope * x) / 1.1, W, b)
        return x


def _undone(block: _Contraction, z: Tensor) -> Tensor:
    """Return the x whose x + g(x) is z, by x <- z - g(x), so often that it stays."""
    weights = block.weights()
    count, x = block.iterations(weights), z
    if not torch.compiler.is_exporting():
        for _ in range(count):
            x = z - block(x, weights)
        return x
    # a loop in the graph: thousands of iterations side by side would take minutes to write, and as long to read
    start = torch.zeros((), dtype=torch.int64, device=z.device), z.clone()
    return torch.while_loop(lambda i, x: i < count, lambda i, x: (i + 1, z - block(x, weights)), start)[1]


class ResidualFlow(NormalisingFlow):
    """Contractive residual blocks on the values of an example.

    Args:
        shape: of an example, whose values are one vector.
        depth: number of blocks.
        width: of the hidden layers of a block.
        layers: linear layers of a block, at least 2.
        limit: c, below 1: largest spectral norm of a layer.
        log_det: how training takes log |det|: ``exact``, with one pass back for each dimension, or ``roulette``.
        terms: of the series that training always takes.
        levels: grey levels of the data, None for continuous data.
        alpha: of the logit that grey levels go through, as that of `NormalisingFlow`.
        lr: peak learning rate.
        betas: Adam's decay rates.

    Raises:
        ConfigError: numbers out of range.
    """

    sized: ClassVar[Mapping[str, str]] = {"width": "width", "depth": "depth"}

    def __init__(
        self,
        shape: Sequence[int],
        depth: int = 8,
        width: int = 64,
        layers: int = 3,
        limit: float = 0.97,
        log_det: str = "roulette",
        terms: int = 2,
        levels: int | None = 256,
        alpha: float | None = None,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__(shape, levels, alpha, lr=lr, betas=betas)
        if min(depth, width, terms) < 1 or layers < 2 or not 0 < limit < 1 or log_det not in ("exact", "roulette"):
            raise ConfigError(
                f"depth, width and terms must be at least 1, layers at least 2, limit lie between 0 and 1 and log_det "
                f"be exact or roulette, got {depth}, {width}, {terms}, {layers}, {limit} and {log_det!r}"
            )
        D = math.prod(self.shape)
        self.blocks = nn.ModuleList(_Contraction(D, width, layers, limit) for _ in range(depth))
        self.log_det, self.terms = log_det, terms
        # so that a fixed point is reached to a ten-millionth, whatever the weights
        self.most_iterations = math.ceil(math.log(_PRECISION) / (layers * math.log(limit)))

    def compilable(self) -> list[nn.Module]:
        return []  # blocks are differentiated twice

    # -- there and back -----------------------------------------------------------------------------------------------

    def flow(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the noise of continuous examples and log |det dz / dx|, computed: (B, *shape) -> (B, D), (B,)."""
        return self._through(x, None, None)

    def _through(self, x: Tensor, probe: Tensor | None, count: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return z and log |det|: computed, or, with a probe (B, D) and a count of terms (B,), estimated."""
        differentiable = torch.is_grad_enabled()
        x, total = x.flatten(1), x.new_zeros(len(x))
        with torch.inference_mode(False), torch.enable_grad():
            for block in self.blocks:
                x = (x if differentiable else x.detach().clone()).requires_grad_()
                x = x.view_as(x)  # torch's FLOP counter cannot follow a leaf through a second derivative
                g = block(x, block.weights())
                if probe is None or count is None:
                    more = _exact(g, x, differentiable)
                else:
                    more = self._estimated(g, x, probe, count, differentiable)
                x, total = x + g, total + more
        return (x, total) if differentiable else (x.detach(), total.detach())

    def _estimated(self, g: Tensor, x: Tensor, probe: Tensor, count: Tensor, differentiable: bool) -> Tensor:
        most = int(count.max())
        weights = series_weights(count, self._always(), most).to(x.dtype)
        v, total = probe, torch.zeros_like(x[:, 0])
        for k in range(1, most + 1):
            (v,) = torch.autograd.grad(g, x, v, retain_graph=True, create_graph=differentiable)
            total = total + (-1) ** (k + 1) / k * weights[:, k - 1] * (v * probe).sum(1)
        return total

    def to_noise(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for block in self.blocks:
            x = x + block(x, block.weights())
        return x

    def flow_inverse(self, z: Tensor) -> Tensor:
        """Return the continuous examples of noise, each block undone by iterations to its fixed point."""
        for block in reversed(self.blocks):
            z = _undone(block, z)
        return z.unflatten(1, self.shape)

    # -- the likelihood -----------------------------------------------------------------------------------------------

    def density(self, x: Tensor, randn: Draw | None = None) -> Tensor:
        """Return log p(x) of continuous examples, (B,); estimated where there is noise for it and no exact value."""
        exact = self.log_det == "exact" if self.training else not self.estimated
        if randn is None or exact:
            z, log_det = self._through(x, None, None)
        else:
            probe = randn(len(x), math.prod(self.shape))
            u = torch.special.ndtr(randn(len(x)))
            z, log_det = self._through(x, probe, reach_of_terms(u, self._always()))
        return self._log_prior(z) + log_det

    def _always(self) -> int:
        return self.terms if self.training else _EVALUATED

    @property
    def estimated(self) -> bool:
        """Whether log |det| is estimated where the model is evaluated: above 16 dimensions."""
        return math.prod(self.shape) > _EXACT

    @property
    def calls_per_sample(self) -> int:
        """Evaluations of each block, at most."""
        return self.most_iterations


def _exact(g: Tensor, x: Tensor, differentiable: bool) -> Tensor:
    """Return log |det(I + dg/dx)| of each example, (B, D) and (B, D) -> (B,)."""
    rows = [
        torch.autograd.grad(g[:, i].sum(), x, retain_graph=True, create_graph=differentiable)[0]
        for i in range(g.shape[1])
    ]
    jacobian = torch.stack(rows, 1) + torch.eye(g.shape[1], device=g.device, dtype=g.dtype)  # (B, D, D)
    return torch.linalg.slogdet(jacobian)[1]
