"""Laws of the solvers of ordinary differential equations, and of the densities that they carry."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from zoo.errors import ConfigError
from zoo.maths.ode_likelihood import divergence, normal_log_density, ode_log_density, rademacher, transport
from zoo.maths.solvers import ADAPTIVE, SOLVERS, integrate, integrate_adaptive, time_grid, trajectory

D = torch.float64


def _swing(x: Tensor, t: Tensor) -> Tensor:
    """dx/dt = x cos t, with x(t) = x(0) exp(sin t)."""
    return x * t.cos()


@pytest.mark.parametrize("method", SOLVERS)
@pytest.mark.parametrize("ends", [(0.0, 2.0), (2.0, 0.0)])
def test_error_falls_at_the_order_of_the_solver(method: str, ends: tuple[float, float]) -> None:
    x = torch.tensor([[1.0, -2.0]], dtype=D)
    exact = x * math.exp(math.sin(ends[1]) - math.sin(ends[0]))
    errors = [(integrate(_swing, x, time_grid(n, *ends), method) - exact).abs().max() for n in (32, 64)]
    order = math.log2(errors[0] / errors[1])
    assert order == pytest.approx(SOLVERS[method].order, abs=0.15)


@pytest.mark.parametrize("method", SOLVERS)
def test_calls_are_those_of_the_table(method: str) -> None:
    calls = []

    def counted(x: Tensor, t: Tensor) -> Tensor:
        calls.append(float(t))
        return -x

    states = trajectory(counted, torch.ones(3, 2, dtype=D), [1.0, 0.7, 0.1], method)
    assert states.shape == (3, 3, 2) and len(calls) == 2 * SOLVERS[method].calls
    assert min(calls) > 0.1 - 1e-9 and max(calls) <= 1.0
    assert torch.equal(states[-1], integrate(lambda x, t: -x, torch.ones(3, 2, dtype=D), [1.0, 0.7, 0.1], method))


@pytest.mark.parametrize("method", ADAPTIVE)
def test_adaptive_solvers_keep_to_the_tolerance(method: str) -> None:
    x = torch.tensor([[1.0, -2.0]], dtype=D)
    for tolerance in (1e-4, 1e-8):
        there = integrate_adaptive(_swing, x, [0.0, 2.0], method, tolerance)
        assert (there - x * math.exp(math.sin(2))).abs().max() < 50 * tolerance
        assert (integrate_adaptive(_swing, there, [2.0, 0.0], method, tolerance) - x).abs().max() < 50 * tolerance


def test_wrong_solvers_and_times_are_refused() -> None:
    x = torch.ones(1, 1)
    with pytest.raises(ConfigError, match="Did you mean 'euler'"):
        integrate(_swing, x, [0.0, 1.0], "eular")
    with pytest.raises(ConfigError, match="at least two times"):
        integrate(_swing, x, [0.0])
    with pytest.raises(ConfigError, match="unknown adaptive solver"):
        integrate_adaptive(_swing, x, [0.0, 1.0], "euler")
    for steps in (0, -1, 2.5, True):
        with pytest.raises(ConfigError, match="positive integer"):
            time_grid(steps)  # type: ignore[arg-type]


# -- densities ---------------------------------------------------------------------------------------------------------


def _bend(x: Tensor, t: Tensor) -> Tensor:
    """A velocity whose Jacobian is neither symmetric nor constant."""
    A = torch.tensor([[0.3, -1.0, 0.2], [0.8, 0.1, 0.5], [0.0, 0.4, -0.6]], dtype=x.dtype)
    return torch.tanh(x @ A.T + t) + 0.2 * x


def test_exact_divergence_is_the_trace_of_the_jacobian() -> None:
    x, t = torch.randn(4, 3, dtype=D, generator=torch.Generator().manual_seed(0)), torch.tensor(0.3, dtype=D)
    v, trace = divergence(_bend, x, t)
    J = torch.stack([torch.autograd.functional.jacobian(lambda row: _bend(row[None], t)[0], row) for row in x])
    assert torch.allclose(v, _bend(x, t)) and torch.allclose(trace, J.diagonal(dim1=1, dim2=2).sum(1))


def test_hutchinson_is_unbiased() -> None:
    """Over all 2^3 signs its mean is the trace; and noise leaves the velocity as it is."""
    x, t = torch.randn(1, 3, dtype=D, generator=torch.Generator().manual_seed(0)), torch.tensor(0.3, dtype=D)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=D)] * 3)  # (8, 3)
    v, estimates = divergence(_bend, x.expand(8, 3), t, signs)
    _, exact = divergence(_bend, x, t)
    assert torch.allclose(estimates.mean(), exact) and estimates.std() > 0.1
    assert torch.allclose(v, _bend(x, t).expand(8, 3))
    drawn = rademacher((10_000,), torch.Generator().manual_seed(0), x)
    assert drawn.abs().eq(1).all() and drawn.mean().abs() < 0.04


def test_divergence_has_a_gradient_where_it_is_asked_for() -> None:
    scale = torch.tensor(2.0, dtype=D, requires_grad=True)
    x = torch.randn(2, 3, dtype=D, generator=torch.Generator().manual_seed(0))
    _, trace = divergence(lambda x, t: scale * x**2, x, torch.tensor(0.0), differentiable=True)
    (g,) = torch.autograd.grad(trace.sum(), scale)
    assert torch.allclose(g, 2 * x.sum())


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_likelihood_of_a_gaussian_is_the_closed_form(method: str) -> None:
    """v = log(s) x carries N(0, I) at 0 to N(0, s^2 I) at 1."""
    s, x = 1.7, torch.randn(5, 3, dtype=D, generator=torch.Generator().manual_seed(0))
    log_p, z = ode_log_density(lambda x, t: math.log(s) * x, x, time_grid(20, 1.0, 0.0), method, tolerance=1e-9)
    exact = torch.distributions.Normal(0, s).log_prob(x).sum(1)
    assert torch.allclose(log_p, exact, atol=1e-6) and torch.allclose(z, x / s, atol=1e-6)
    assert torch.allclose(normal_log_density(z), torch.distributions.Normal(0, 1).log_prob(z).sum(1))


def test_integral_of_the_trace_is_the_log_determinant_of_the_way() -> None:
    x, times = torch.randn(2, 3, dtype=D, generator=torch.Generator().manual_seed(0)), time_grid(60)
    there, trace = transport(_bend, x, times)
    for i in range(2):
        J = torch.autograd.functional.jacobian(lambda row: integrate(_bend, row[None], times, "rk4")[0], x[i])
        assert trace[i] == pytest.approx(float(J.det().abs().log()), abs=1e-6)
    back, again = transport(_bend, there, times[::-1])
    assert torch.allclose(back, x, atol=1e-6) and torch.allclose(again, -trace, atol=1e-6)
