"""Particles by a learnt score and discriminator: one law for every mix, of which the discriminator knows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from closed_forms import told
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.diffflow import DiffFlow
from zoo.nets.timed_mlp import TimedMLP


def diffflow_flops(args: Mapping[str, Any]) -> float:
    """The score moves the particles and is trained; the discriminator is trained on noised data and on particles."""
    (score, first), (logit, start) = (told(args[part], args["shape"][-1]) for part in ("score", "discriminator"))
    return 2.0 * (args["steps"] * score + 3 * score - first + 2 * (3 * logit - start))


STEP_FLOPS: dict[str, Callable[[Mapping[str, Any]], float]] = {"DiffFlow": diffflow_flops}

M, S, SIGMA, END = 2.0, 0.5, 0.3, 0.3
"""Noised data are N(M, S^2), particles start from N(0, 1), at a speed of SIGMA^2, so that END is reached after 10/3."""


def mean(t: Any) -> Any:
    return M * (1 - torch.exp(-torch.as_tensor(t) / S**2))


def var(t: Any) -> Any:
    return S**2 + (1 - S**2) * torch.exp(-2 * torch.as_tensor(t) / S**2)


class Score(nn.Module):
    """The true noise, times a factor to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.factor * SIGMA * (x - M) / S**2


class Logit(nn.Module):
    """log(q / p_t) of the true laws, and a quadratic to learn beside it."""

    def __init__(self, moving: bool = True) -> None:
        super().__init__()
        self.extra, self.moving = nn.Parameter(torch.zeros(3)), moving

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        t = (END * time / 10 if self.moving else 0 * time)[:, None].to(x.dtype)
        true = torch.distributions.Normal(M, S).log_prob(x) - torch.distributions.Normal(
            mean(t), var(t).sqrt()
        ).log_prob(x)
        return true + self.extra[0] + self.extra[1] * x + self.extra[2] * x.square()


def exact(steps: int = 150, moving: bool = True, **options: Any) -> DiffFlow:
    model = DiffFlow(Score(), Logit(moving), [1], None, steps, END / SIGMA**2 / steps, (SIGMA, SIGMA), 1.0, **options)
    model.set_noise([torch.Generator().manual_seed(0)])
    return model.double()


@pytest.mark.parametrize("mix", [0.0, 0.5, 1.0])
def test_marginals_of_the_sampler_are_the_same_for_every_mix(mix: float) -> None:
    x = exact().sample(40_000, seed=0, mix=mix)
    assert float(mean(END)) == pytest.approx(1.398, abs=1e-3) and float(var(END)) == pytest.approx(0.318, abs=1e-3)
    assert float(x.mean()) == pytest.approx(1.398, abs=0.02) and float(x.var()) == pytest.approx(0.318, abs=0.015)


def test_a_discriminator_of_other_particles_moves_the_marginals() -> None:
    """The look-alike: one that was trained against the particles' start only."""
    x = exact(moving=False).sample(20_000, seed=0, mix=0.0)
    assert abs(float(x.mean()) - 1.398) > 0.1


def test_true_score_and_logit_are_where_the_slope_of_the_loss_vanishes() -> None:
    model, n = exact(steps=100), 60_000
    data = M + math.sqrt(S**2 - SIGMA**2) * torch.randn(n, 1, generator=torch.Generator().manual_seed(1)).double()
    model.loss((data, torch.zeros(n, dtype=torch.long)))["loss"].backward()
    assert abs(float(model.score.factor.grad)) < 0.02 and float(model.discriminator.extra.grad.abs().max()) < 0.03
    wrong = exact(steps=100, moving=False)
    wrong.loss((data, torch.zeros(n, dtype=torch.long)))["loss"].backward()
    assert float(wrong.discriminator.extra.grad.abs().max()) > 0.2
    index = torch.full((20_000,), 50)
    assert float(model.particles(index).mean()) == pytest.approx(float(mean(END / 2)), abs=0.05)


def test_full_mix_asks_no_discriminator_and_none_no_score() -> None:
    def refuse(*_: Any) -> Tensor:
        raise AssertionError("asked")

    model = exact(steps=5)
    model.discriminator.forward = refuse  # type: ignore[method-assign]
    assert model.sample(3, seed=0, mix=1.0).shape == (3, 1) and model.calls({"mix": 1.0}) == 5
    model = exact(steps=5)
    model.score.forward = refuse  # type: ignore[method-assign]
    start = model.sample(3, seed=0, mix=0.0)
    assert torch.equal(start, model.sample(3, seed=0, mix=0.0)) and model.calls({}) == 10


def test_noise_falls_and_wrong_numbers_are_refused() -> None:
    nets = TimedMLP(2, 16, 1), TimedMLP(2, 16, 1, 1)
    model = DiffFlow(*nets, [2], None, noise=(1.0, 0.01))
    torch.testing.assert_close(model.sigma(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([1.0, 0.1, 0.01]))
    for wrong in ({"noise": (0.1, 1.0)}, {"mix": 1.5}, {"steps": 0}):
        with pytest.raises(ConfigError):
            DiffFlow(*nets, [2], None, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at most 60"):
        model.sample(2, steps=61)
    with pytest.raises(ConfigError, match="mix must lie"):
        model.sample(2, mix=2.0)
