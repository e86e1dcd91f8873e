"""Entropic transport: marginals, limits, and the divergence without its bias."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from zoo.errors import ConfigError
from zoo.maths.assignment import optimal_pairing
from zoo.maths.transport import cost_matrix, entropic_pairing, sinkhorn, sinkhorn_divergence


def points(n: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def test_plan_has_its_marginals() -> None:
    plan = sinkhorn(cost_matrix(points(7, 0), points(11, 1)), 0.5)
    torch.testing.assert_close(plan.pi.sum(1), torch.full((7,), 1 / 7, dtype=torch.float64), rtol=0, atol=1e-8)
    torch.testing.assert_close(plan.pi.sum(0), torch.full((11,), 1 / 11, dtype=torch.float64), rtol=0, atol=1e-12)
    short = sinkhorn(cost_matrix(points(7, 0), points(11, 1)), 0.01, iterations=1)
    assert short.error > 1e-6  # and it says so where it has not got there


def test_value_is_the_entropic_cost() -> None:
    C, eps = cost_matrix(points(6, 0), points(5, 1)), 0.7
    plan = sinkhorn(C, eps)
    kl = (plan.pi * (plan.log_pi + math.log(30))).sum()
    torch.testing.assert_close(plan.value, (plan.pi * C).sum() + eps * kl, rtol=0, atol=1e-8)


def test_small_eps_tends_to_exact_assignment() -> None:
    x, y = points(12, 0), points(12, 1, 0.5)
    exact = float((x - y[optimal_pairing(x, y)]).square().sum(1).mean())
    gaps = [float((sinkhorn(cost_matrix(x, y), e).pi * cost_matrix(x, y)).sum()) - exact for e in (1.0, 0.3, 0.1, 0.02)]
    assert gaps == sorted(gaps, reverse=True) and 0 <= gaps[-1] < 5e-3 < gaps[0]


def test_divergence_of_equal_sets_is_nothing_where_the_cost_is_not() -> None:
    x = points(9, 0)
    same = sinkhorn_divergence(x, x.flip(0), 0.5, iterations=500)
    assert abs(float(same)) < 1e-5 and float(sinkhorn(cost_matrix(x, x), 0.5).value) > 0.1
    assert float(sinkhorn_divergence(x, points(9, 1), 0.5, iterations=500)) > 0.01


@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("theta", [-2.0, 0.3])
def test_two_point_masses_are_as_far_as_their_cost(theta: float, power: float) -> None:
    at = torch.tensor([[theta]], dtype=torch.float64, requires_grad=True)
    value = sinkhorn_divergence(torch.zeros(1, 1, dtype=torch.float64), at, 0.3, power)
    assert value.item() == pytest.approx(abs(theta) ** power)
    (slope,) = torch.autograd.grad(value, at)
    assert slope.item() == pytest.approx(power * abs(theta) ** (power - 1) * math.copysign(1, theta))


def test_gradient_of_the_divergence_is_that_of_its_value() -> None:
    x, y = points(5, 0).requires_grad_(), points(6, 1)
    (own,) = torch.autograd.grad(sinkhorn_divergence(x, y, 0.8), x)
    h = torch.zeros_like(x)
    h[2, 1] = 1e-5
    with torch.no_grad():
        slope = (sinkhorn_divergence(x + h, y, 0.8) - sinkhorn_divergence(x - h, y, 0.8)) / 2e-5
    assert own[2, 1].item() == pytest.approx(slope.item(), rel=1e-4)


def test_partners_are_drawn_from_the_plan() -> None:
    x, y, n = points(4, 0), points(4, 1), 400
    C = cost_matrix(x, y)
    pi = sinkhorn(C / C.mean(), 0.5).pi * 4
    g = torch.Generator().manual_seed(0)
    drawn = torch.stack([entropic_pairing(x, y, torch.rand(4, generator=g), 0.5) for _ in range(n)])
    found = torch.stack([(drawn == j).double().mean(0) for j in range(4)], 1)
    assert float((found - pi).abs().max()) < 5 * 0.5 / math.sqrt(n)
    cold = entropic_pairing(x, y, torch.full((4,), 0.5), 1e-3)
    assert torch.equal(cold, optimal_pairing(x, y))
    groups = torch.tensor([0, 1, 0, 1])
    assert torch.equal(groups[entropic_pairing(x, y, torch.rand(4, generator=g), 0.5, groups)], groups)


@pytest.mark.parametrize(("C", "eps"), [(torch.ones(2, 2), 0.0), (torch.full((2, 2), math.inf), 1.0)])
def test_wrong_questions_are_refused(C: Tensor, eps: float) -> None:
    with pytest.raises(ConfigError):
        sinkhorn(C, eps)
