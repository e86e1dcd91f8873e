"""Energy matching: one potential whose gradient is the transport, and a density at the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from closed_forms import net
from torch import Tensor, nn

from zoo.families.energy_matching import EnergyMatching
from zoo.nets.mlp import MLP


def energy_matching_flops(args: Mapping[str, Any]) -> float:
    """The gradient in x, and back through it and through the pass before it; then chains, and two energies trained."""
    F = net(args["network"])
    transport = 4 * sum(F) + 2 * sum(F) - 2 * F[0] + F[0]
    if not args["contrast"]:
        return 2.0 * transport
    return 2.0 * (transport + args["chain_steps"] * 2 * sum(F) + 2 * (3 * sum(F) - F[0]))


STEP_FLOPS: dict[str, Callable[[Mapping[str, Any]], float]] = {"EnergyMatching": energy_matching_flops}


class Plane(nn.Module):
    """-m.x, whose descent is a translation by m."""

    def __init__(self, m: Tensor) -> None:
        super().__init__()
        self.m = nn.Parameter(m[None].clone())

    def forward(self, x: Tensor) -> Tensor:
        return -(x @ self.m.T)


class Spring(nn.Module):
    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor([[k]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.k * x.square().sum(1, keepdim=True) / 2


def tiny(network: nn.Module | None = None, shape: tuple[int, ...] = (2,), **options: Any) -> EnergyMatching:
    torch.manual_seed(0)
    network = network or MLP([2, 16, 16, 1], "silu")
    return EnergyMatching(network, list(shape), levels=None, **{"chain_steps": 4, **options}).double()


def streamed(model: EnergyMatching, seed: int = 0) -> EnergyMatching:
    model.set_noise([torch.Generator().manual_seed(seed)])
    return model


def test_translation_costs_nothing_and_takes_one_step() -> None:
    m = torch.tensor([1.5, -0.5], dtype=torch.float64)
    model = tiny(Plane(m))
    noise = streamed(model, 7).randn(16, 2)
    batch = (noise[torch.randperm(16)] + m, torch.zeros(16, dtype=torch.long))
    assert float(streamed(model, 7).loss(batch)["mse"].detach()) < 1e-24
    model.paired = lambda x_0, x_1: x_0  # type: ignore[method-assign]  # pairs as they come are no transport
    assert float(streamed(model, 7).loss(batch)["mse"].detach()) > 0.1
    model.eps_max = 0.0
    x = model.sample(5, seed=3, steps=1)
    start = torch.randn(5, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close(x, start + m)


def test_field_of_an_energy_has_no_curl() -> None:
    model, x = tiny(), torch.randn(2, dtype=torch.float64)
    J = torch.autograd.functional.hessian(lambda v: -model.inner(v[None])[0], x)
    own = torch.stack([(model.velocity((x + h)[None]) - model.velocity((x - h)[None]))[0] / 2e-5
                       for h in 1e-5 * torch.eye(2, dtype=torch.float64)], 1)  # fmt: skip
    torch.testing.assert_close(own, J, rtol=1e-6, atol=1e-8)
    assert float((own - own.T).abs().max()) < 1e-9
    free = MLP([2, 16, 2], "silu").double()  # a network that gives the velocity itself has
    J = torch.autograd.functional.jacobian(lambda v: free(v[None])[0], x)
    assert float((J - J.T).abs().max()) > 1e-3


def test_long_after_one_the_variance_is_that_of_the_discrete_law() -> None:
    k, eps, dt = 2.0, 0.3, 0.25
    model = tiny(Spring(k), (1,), eps_max=eps, step_size=dt, end=12.0)
    x, exact = model.sample(40_000, seed=0), eps / (k * (1 - k * dt / 2))
    assert float(x.var()) == pytest.approx(exact, abs=4 * exact * math.sqrt(2 / 40_000))
    assert abs(exact - eps / k) > 0.04


def test_noise_and_weight_at_their_corners() -> None:
    t = torch.tensor([0.0, 0.8, 0.9, 1.0, 3.0], dtype=torch.float64)
    model = tiny(tau=0.8, eps_max=0.2)
    torch.testing.assert_close(model.eps(t), torch.tensor([0, 0, 0.1, 0.2, 0.2], dtype=torch.float64))
    torch.testing.assert_close(model.weight(t), torch.tensor([1, 1, 0.5, 0, 0], dtype=torch.float64))
    jump = tiny(tau=1.0, eps_max=0.2)
    torch.testing.assert_close(jump.eps(t), torch.tensor([0, 0, 0, 0.2, 0.2], dtype=torch.float64))
    torch.testing.assert_close(jump.weight(t), torch.ones(5, dtype=torch.float64))


def test_contrast_of_nothing_is_the_warm_up() -> None:
    batch = (torch.randn(12, 2, dtype=torch.float64), torch.zeros(12, dtype=torch.long))
    first = streamed(tiny(), 1).loss(batch)["loss"]
    second = streamed(tiny(contrast=1e-300, eps_max=0.0, tau=1.0), 1).loss(batch)["loss"]
    torch.testing.assert_close(first, second, rtol=1e-12, atol=0)


def test_chains_from_data_stay_in_their_law_and_carry_no_gradient() -> None:
    k, eps, dt = 1.0, 0.5, 0.1
    model = streamed(tiny(Spring(k), (1,), eps_max=eps, tau=0.0, step_size=dt, chain_steps=60))
    law = eps / (k * (1 - k * dt / 2))
    x = math.sqrt(law) * torch.randn(40_000, 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    model.eps = lambda t: eps * torch.ones_like(t)  # type: ignore[method-assign]
    found = model.negatives(x)
    assert not found.requires_grad and model.network.k.grad is None
    assert float(found[::2].var()) == pytest.approx(law, abs=4 * law * math.sqrt(2 / 20_000))


def test_gap_is_bounded_below_and_the_worst_negatives_are_left_out() -> None:
    model = streamed(tiny(contrast=1.0, floor=0.02, trim=0.25))
    x, zero = torch.zeros(8, 2, dtype=torch.float64), torch.zeros(8, dtype=torch.long)
    far = torch.arange(8, dtype=torch.float64)[:, None].expand(8, 2)
    model.negatives = lambda x_1: far  # type: ignore[method-assign]
    model.inner = lambda x: 10 * x[:, 0]  # type: ignore[method-assign]
    model.velocity = lambda x, create_graph=False: x  # type: ignore[method-assign]
    terms = model.loss((x, zero))
    assert float(terms["gap"]) == pytest.approx(-10 * 2.5)  # 0 .. 5 are left of 0 .. 7
    assert float(terms["loss"] - terms["mse"]) == pytest.approx(-0.02)


def test_contrast_starts_from_the_weights_of_the_warm_up() -> None:
    first = tiny(Plane(torch.tensor([3.0, 1.0])))
    second = tiny(Plane(torch.zeros(2)), contrast=0.1, start=first)
    second.adopt()
    assert torch.equal(second.network.m, first.network.m)
    assert second.released().start is None and not [n for n in second.released().state_dict() if "start" in n]
