"""The continuous normalising flow: its trace, its density, its way there and back, its regularisers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.ffjord import FFJORD, _derivatives
from zoo.maths.solvers import SOLVERS
from zoo.nets.timed_mlp import TimedMLP


def _ffjord(args: Mapping[str, Any]) -> float:
    """Each recorded evaluation, layer by layer.

    The way of x: forward, the backward pass that the estimate of the trace is, the backward pass of that one (to the
    weights, and up to all but the constant probe), and that of the forward pass (to weights and inputs). The way of the
    time: forward, to the weights, and to the inputs but for the waves.
    """
    net = args["network"]["init_args"]
    w, depth, D = net["width"], net["depth"], math.prod(args["shape"])
    stream, told = 2 * D * w + 2 * depth * w * w, (2 + depth) * w * w
    calls = args["steps"] * SOLVERS[args["solver"]].calls
    return 2.0 * calls * (6 * stream - D * w + 3 * told - w * w)


STEP_FLOPS = {"FFJORD": _ffjord}


def flow(dimensions: int = 2, seed: int = 0, **options: Any) -> FFJORD:
    """Return a flow that bends the plane, in float64."""
    torch.manual_seed(seed)
    network = TimedMLP(dimensions, width=8, depth=1)
    model = FFJORD(network, [dimensions], time_scale=1.0, levels=None, **options).double()
    for p in model.parameters():
        p.data *= 1.5
    return model


def randn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Linear(nn.Module):
    """v(x, t) = A x + c."""

    def __init__(self, matrix: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.A, self.c = nn.Parameter(matrix), nn.Parameter(offset)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return x @ self.A.T + self.c


# -- the trace ---------------------------------------------------------------------------------------------------------


def test_estimate_of_the_trace_is_unbiased() -> None:
    """Over all probes of signs its mean is the exact trace; over normal ones, within four standard errors."""
    model, x, t = flow(3), randn(1, 3), torch.tensor(0.3, dtype=torch.float64)
    J = torch.autograd.functional.jacobian(lambda v: model.velocity(v[None], t)[0], x[0])
    exact, square = J.trace().item(), J.square().sum().item()
    assert _derivatives(model.velocity, x, t, None, False)[1].item() == pytest.approx(exact, abs=1e-12)
    signs = torch.tensor(list(itertools.product((1.0, -1.0), repeat=3)), dtype=torch.float64)
    _, trace, norm = _derivatives(model.velocity, x.expand(8, 3), t, signs, False)
    assert trace.mean().item() == pytest.approx(exact, abs=1e-12) and trace.std() > 1e-3
    assert norm.mean().item() == pytest.approx(square, abs=1e-12)
    n = 20_000
    _, trace, norm = _derivatives(model.velocity, x.expand(n, 3), t, randn(n, 3), False)
    for estimate, truth in ((trace, exact), (norm, square)):
        assert abs(estimate.mean().item() - truth) < 4 * estimate.std().item() / math.sqrt(n)


def test_objective_by_estimate_is_that_by_the_exact_trace_in_the_mean() -> None:
    noisy, exact = flow(seed=2, steps=2), flow(seed=2, steps=2, trace="exact")
    x = randn(1, 2).expand(4000, 2).contiguous()
    noisy.set_noise([torch.Generator().manual_seed(0)])
    with torch.no_grad():
        one = exact.loss((x[:2], torch.zeros(2)))["nll"].item()
        many = noisy.loss((x, torch.zeros(4000)))["nll"].item()
        spread = noisy.transported(x, randn(4000, 2), differentiable=False)[1].std().item()
    assert spread > 1e-3 and abs(many - one) < 4 * spread / math.sqrt(4000)


# -- the density -------------------------------------------------------------------------------------------------------


def test_log_determinant_is_that_of_autograd() -> None:
    for model, tolerance in ((flow(solver="dopri5", tolerance=1e-9), 1e-7), (flow(steps=40), 1e-6)):
        x = randn(3, 2)
        z, log_det = model.flow(x)
        rows = [torch.autograd.functional.jacobian(lambda v, m=model: m.flow(v[None])[0][0], one) for one in x]
        truth = torch.stack([torch.linalg.slogdet(J)[1] for J in rows])
        torch.testing.assert_close(log_det, truth, atol=tolerance, rtol=0)
        assert truth.abs().min() > 1e-2 and z.shape == (3, 2)


def test_density_in_the_plane_integrates_to_one() -> None:
    model = flow(steps=6)
    line = torch.linspace(-10, 10, 121, dtype=torch.float64)
    mass = model.log_prob(torch.cartesian_prod(line, line)).exp().sum() * (line[1] - line[0]) ** 2
    assert abs(mass.item() - 1) < 1e-2 and model.likelihood() == "ode"


def test_linear_velocity_gives_a_gaussian_in_closed_form() -> None:
    """x = e^A z + int e^(A s) c ds has mean b and covariance e^A e^(A^T)."""
    A, c = torch.tensor([[0.3, -0.8], [0.5, -0.4]], dtype=torch.float64), torch.tensor([1.0, -0.5], dtype=torch.float64)
    model = FFJORD(Linear(A, c), [2], steps=20, levels=None).double()
    E = torch.linalg.matrix_exp(A)
    b = torch.linalg.solve(A, (E - torch.eye(2).double()) @ c)
    normal = torch.distributions.MultivariateNormal(b, E @ E.T)
    x = randn(5, 2)
    torch.testing.assert_close(model.log_prob(x), normal.log_prob(x), atol=1e-6, rtol=0)
    torch.testing.assert_close(model.decode(x), x @ E.T + b, atol=1e-6, rtol=0)


# -- there and back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_error_of_the_way_back_falls_at_least_at_the_order(solver: str) -> None:
    model, x, errors = flow(solver=solver), randn(20, 2), []
    for model.steps in (8, 16, 32):
        errors.append((model.decode(model.encode(x)) - x).abs().max().item())
    rates = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    print(f"\n{solver}: errors {errors}, observed orders {rates}")
    assert min(rates) > SOLVERS[solver].order - 0.3 and errors[-1] > 1e-15


def test_adaptive_way_back_keeps_to_the_tolerance() -> None:
    model, x = flow(solver="dopri5", tolerance=1e-7), randn(50, 2)
    assert (model.decode(model.encode(x)) - x).abs().max() < 1e-4
    assert model.evaluations > 6 and model.calls_per_sample == model.evaluations


def test_noise_ends_at_the_data() -> None:
    """Time runs from noise, 0, to data, 1: a constant velocity moves samples along it."""
    model = FFJORD(Linear(torch.zeros(2, 2), torch.tensor([3.0, 0.0])), [2], levels=None)
    assert model.sample(1000, seed=0).mean(0).tolist() == pytest.approx([3, 0], abs=0.15)
    assert model.log_prob(torch.tensor([[3.0, 0.0]])).item() == pytest.approx(-math.log(2 * math.pi), abs=1e-5)
    torch.testing.assert_close(model.sample(2, seed=0, temperature=0.0), torch.tensor([[3.0, 0.0]] * 2))


def test_sampling_takes_a_solver_and_its_steps() -> None:
    model = flow(steps=20)
    exact = model.sample(5, seed=0, solver="dopri5")
    errors = [(model.sample(5, seed=0, solver=s, steps=n) - exact).abs().max() for s, n in (("euler", 8), ("rk4", 8))]
    assert errors[1] < 1e-3 < errors[0] and (model.steps, model.solver) == (20, "rk4")
    assert (model.sample(5, seed=0) - exact).abs().max() < 1e-3
    with pytest.raises(ConfigError, match="Did you mean 'euler'"):
        model.sample(1, solver="eular")


def test_trajectory_starts_at_noise_and_ends_at_samples() -> None:
    model = flow(steps=8)
    states, times = model.trajectory(5, seed=0, frames=9)
    assert states.shape == (9, 5, 2) and times[0] == 0 and times[-1] == 1
    torch.testing.assert_close(states[-1], model.decode(states[0]))
    torch.testing.assert_close(states[0], model.encode(states[-1]), atol=1e-4, rtol=0)


# -- the objective -----------------------------------------------------------------------------------------------------


def test_regularisers_of_a_linear_velocity() -> None:
    """int |v|^2 dt = |c|^2 for v = c; E |e^T A|^2 is the squared Frobenius norm of A."""
    c = torch.tensor([3.0, 4.0], dtype=torch.float64)
    never_updated = FFJORD(Linear(torch.zeros(2, 2).double(), c), [2], levels=None, kinetic=0.5).double()
    terms = never_updated.loss((randn(4, 2), torch.zeros(4)))
    assert terms["kinetic"].item() == pytest.approx(25) and "jacobian" not in terms
    assert terms["loss"].item() == pytest.approx(terms["nll"].item() + 12.5)
    A = torch.tensor([[1.0, 2.0], [0.0, -1.0]], dtype=torch.float64)
    bent = FFJORD(Linear(A, 0 * c), [2], levels=None, jacobian=0.1).double()
    n = 20_000
    terms = bent.loss((randn(n, 2), torch.zeros(n)))
    assert terms["jacobian"].item() == pytest.approx(6, abs=0.3)
    assert terms["loss"].item() == pytest.approx(terms["nll"].item() + 0.1 * terms["jacobian"].item())
    assert terms["evaluations"].item() == 32


@pytest.mark.parametrize("options", [{}, {"trace": "exact"}, {"kinetic": 0.1, "jacobian": 0.1}, {"solver": "dopri5"}])
def test_gradient_is_that_of_finite_differences(options: dict[str, Any]) -> None:
    model, x = flow(**{"steps": 3, "tolerance": 1e-8, **options}), randn(4, 2)

    def loss() -> Tensor:
        model.set_noise([torch.Generator().manual_seed(0)])
        return model.loss((x, torch.zeros(4)))["loss"]

    loss().backward()
    for p in (model.network.stem.weight, model.network.out.bias, model.network.embedding.time[0].weight):
        index, h = (0,) * p.ndim, 1e-5
        with torch.no_grad():
            values = []
            for sign in (1, -1):
                p[index] += sign * h
                values.append(loss().item())
                p[index] -= sign * h
        assert p.grad[index].item() == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-4, abs=1e-6)


def test_images_of_more_than_a_few_pixels_take_the_estimate() -> None:
    class Image(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x: Tensor, time: Tensor) -> Tensor:
            return torch.tanh(self.net(x))

    torch.manual_seed(0)
    model = FFJORD(Image(), [1, 5, 5], steps=3, levels=256, alpha=1e-3).double()
    x = (torch.rand(2, 1, 5, 5).double() * 255).round() / 255
    y, offset = model._continuous(x, lambda *s: torch.full(s, 0.5).double(), torch.randn)
    z, log_det = model.flow(y)
    exact = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1) + log_det
    n = 3000
    estimates = torch.stack([model.density(y[:1].expand(n, 1, 5, 5), randn_) for randn_ in (randn,)]).squeeze(0)
    assert estimates.std() > 1e-6
    assert abs(estimates.mean() - exact[0]) < 4 * estimates.std() / math.sqrt(n)
    torch.testing.assert_close(model.decode(model.encode(x)), x, atol=1e-3, rtol=0)
    assert model.likelihood() == "ode+dequant" and model.log_prob(x, seed=0).shape == offset.shape == (2,)


def test_several_draws_of_an_estimated_density_stay_a_bound() -> None:
    """The log of a mean of noisy estimates exceeds the truth and grows with k; the mean of the logs does not."""
    torch.manual_seed(0)

    class Rough(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(25, 25)
            nn.init.normal_(self.net.weight, std=0.5)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.tanh(self.net(x.flatten(1))).view_as(x)

    model = FFJORD(Rough(), [1, 5, 5], steps=3, levels=256, alpha=1e-3).double()
    x = (torch.rand(1, 1, 5, 5).double() * 255).round().expand(200, 1, 5, 5) / 255
    one, many = model.log_prob(x, seed=0), model.log_prob(x, k=8, seed=1)
    error = float(one.std()) / math.sqrt(200)
    assert one.std() > 0.5 and abs(float(one.mean() - many.mean())) < 4 * error and many.std() < 0.6 * one.std()
    assert model.likelihood(8) == "ode+dequant"
    assert FFJORD(Rough(), [1, 4, 4], levels=256, alpha=1e-3).likelihood(8) == "ode+iwae-8+dequant"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "rk5"}, "Did you mean 'rk4'"),
        ({"trace": "none"}, "unknown trace"),
        ({"trace": "exact", "jacobian": 1.0}, "set trace to hutchinson"),
        ({"steps": 0}, "must be positive"),
        ({"kinetic": -1.0}, "not negative"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        flow(**options)
