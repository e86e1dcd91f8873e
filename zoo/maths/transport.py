"""Entropic optimal transport between two sets of points: Sinkhorn's iterations on logarithms, exact assignment beside.

    OT_eps = min over pi >= 0 with marginals a, b of  <pi, C> + eps KL(pi | a b),   C_ij = |x_i - y_j|^p
    f_i = -eps log sum_j b_j exp((g_j - C_ij) / eps),   g_j = -eps log sum_i a_i exp((f_i - C_ij) / eps)
    S_eps(x, y) = OT_eps(x, y) - (OT_eps(x, x) + OT_eps(y, y)) / 2

OT_eps tends to the cost of `zoo.maths.assignment.optimal_pairing` as eps -> 0. S_eps takes the bias away: it is 0 for
equal sets, and for two single points it is their cost.

References:
    M. Cuturi, Sinkhorn Distances: Lightspeed Computation of Optimal Transport, 2013, arXiv:1306.0895.
    A. Genevay, G. Peyre, M. Cuturi, Learning Generative Models with Sinkhorn Divergences, 2017, arXiv:1706.00292.
    J. Feydy and others, Interpolating between Optimal Transport and MMD using Sinkhorn Divergences, 2018,
    arXiv:1810.08278.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.errors import ConfigError

__all__ = ["Plan", "cost_matrix", "entropic_pairing", "sinkhorn", "sinkhorn_divergence"]


@dataclass(frozen=True)
class Plan:
    """A coupling of n points with m points of even weights.

    Attributes:
        log_pi: logarithm of the plan, (n, m).
        value: OT_eps.
        error: sum of the absolute deviations of the first marginal; the second holds up to rounding.
        iterations: how many it took.
    """

    log_pi: Tensor
    value: Tensor
    error: float
    iterations: int

    @property
    def pi(self) -> Tensor:
        """The plan, (n, m), of sum 1."""
        return self.log_pi.exp()


def cost_matrix(x: Tensor, y: Tensor, power: float = 2.0) -> Tensor:
    """Return |x_i - y_j|^p, (n, ...) and (m, ...) -> (n, m), by differences, so that it is 0 at equality."""
    d = torch.cdist(x.flatten(1), y.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    return d**power


def sinkhorn(C: Tensor, eps: float, iterations: int = 10_000, tolerance: float = 1e-9) -> Plan:
    """Return the entropic plan of a cost matrix (n, m) between even weights.

    It starts at an eps as large as the costs and halves it down to the one asked for, which saves iterations.

    Args:
        C: costs, finite, (n, m).
        eps: strength of the entropy, in the unit of the costs.
        iterations: at most, at the last eps.
        tolerance: of the first marginal.

    Raises:
        ConfigError: eps that is not positive, or costs that are not finite.
    """
    if not (eps > 0 and math.isfinite(eps)):
        raise ConfigError(f"Sinkhorn's eps must be a positive number, got {eps}")
    if C.ndim != 2 or not bool(C.isfinite().all()):
        raise ConfigError(f"Sinkhorn needs a matrix of finite costs, got shape {tuple(C.shape)} or values beyond")
    (n, m), log_a, log_b = C.shape, -math.log(C.shape[0]), -math.log(C.shape[1])
    f, g = C.new_zeros(n), C.new_zeros(m)
    level = max(eps, float(C.max()))
    while level > eps:  # (n, m) each; ten iterations a level are enough to follow it
        for _ in range(10):
            f = -level * torch.logsumexp((g - C) / level + log_b, 1)
            g = -level * torch.logsumexp((f[:, None] - C) / level + log_a, 0)
        level = max(eps, level / 2)
    error, done = math.inf, 0
    while done < iterations and error > tolerance:
        f = -eps * torch.logsumexp((g - C) / eps + log_b, 1)
        g = -eps * torch.logsumexp((f[:, None] - C) / eps + log_a, 0)
        done += 1
        if done % 10 == 0 or done == iterations:
            log_pi = (f[:, None] + g - C) / eps + log_a + log_b
            error = float((log_pi.logsumexp(1).exp() - 1 / n).abs().sum())
    log_pi = (f[:, None] + g - C) / eps + log_a + log_b
    return Plan(log_pi, f.mean() + g.mean(), error, done)


def sinkhorn_divergence(
    x: Tensor, y: Tensor, eps: float, power: float = 2.0, iterations: int = 2_000, tolerance: float = 1e-9
) -> Tensor:
    """Return S_eps between the even weights on two sets of points, (n, ...) and (m, ...); never below 0 for p 1 or 2.

    Its gradient in the points is exact at convergence, where the potentials are stationary.
    """
    value = []
    for a, b in ((x, y), (x, x), (y, y)):
        C = cost_matrix(a, b, power)
        with torch.no_grad():
            pi = sinkhorn(C, eps, iterations, tolerance)
        value.append(pi.value + (pi.pi * (C - C.detach())).sum())  # envelope theorem
    return value[0] - (value[1] + value[2]) / 2


def entropic_pairing(
    x: Tensor,
    y: Tensor,
    u: Tensor,
    eps: float = 0.05,
    groups: Tensor | None = None,
    iterations: int = 200,
    unit: float | None = None,
) -> Tensor:
    """Return for each x_i a partner j drawn from the entropic plan's row i, int64 (B,); partners may repeat.

    Args:
        x: (B, ...).
        y: (B, ...), as many.
        u: uniform numbers, (B,), by which they are drawn.
        eps: in the unit of the mean cost, or in another ``unit``.
        groups: int64 (B,); partners are of the same group, such as the examples of one class.
        iterations: at most.
        unit: of eps, 1 for that of the costs |x_i - y_j|^2 themselves; the mean cost if left out.
    """
    if groups is None:
        groups = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    partner = torch.arange(len(x), device=x.device)
    with torch.no_grad():
        for group in groups.unique():
            places = (groups == group).nonzero().flatten()
            C = cost_matrix(x[places].double(), y[places].double())
            scale = unit or float(C.mean()) or 1.0
            rows = sinkhorn(C / scale, eps, iterations, 1e-4).log_pi.softmax(1).cumsum(1)  # (b, b)
            drawn = torch.searchsorted(rows, u[places].double()[:, None]).clamp(max=len(places) - 1)
            partner[places] = places[drawn[:, 0]]
    return partner
