"""Laws of the ladder of energies: with exact energies of a Gaussian each rung recovers the one below it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from closed_forms import timed_conv, timed_conv_time
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.recovery_likelihood import RecoveryLikelihood, ladder
from zoo.nets.timed_conv import TimedConv
from zoo.nets.timed_mlp import TimedMLP
from zoo.registry import load_registry


def _points(args: Mapping[str, Any], shape: Sequence[int]) -> tuple[int, int, int]:
    w, depth = args["width"], args["depth"]
    stem = args["features"] * w
    return (2 + 3 * depth) * w * w + stem + w, stem + w * w, (2 + depth) * w * w


def _image(args: Mapping[str, Any], shape: Sequence[int]) -> tuple[int, int, int]:
    return (*timed_conv(args, shape[-1]), timed_conv_time(args))


def recovery_flops(args: Mapping[str, Any]) -> float:
    """K passes, and back to y past the maps of the time; then two energies are trained."""
    net = args["network"]
    total, first, time = (_points if "TimedMLP" in net["class_path"] else _image)(net["init_args"], args["shape"])
    return 2.0 * (args["chain_steps"] * (2 * total - time) + 2 * (3 * total - first))


STEP_FLOPS: dict[str, Callable[[Mapping[str, Any]], float]] = {"RecoveryLikelihood": recovery_flops}

MEAN, STD = 0.8, 0.5


class Exact(nn.Module):
    """b_t^2 log p(y_t) of data N(MEAN, STD^2), so that the energies are the true ones."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))
        self.model: Any = None

    def forward(self, y: Tensor, t: Tensor) -> Tensor:
        m = self.model[0]
        t = t.long()
        a, b, whole, noise = (v.to(y.dtype)[t, None] for v in (m._a, m._b, m._whole, m._sigma))
        variance = a**2 * ((whole * STD) ** 2 + noise**2)
        own = (y - a * whole * MEAN) ** 2 / variance - y**2 / m.spread**2  # that of points is beside a Gaussian
        return -(b**2 * own / 2).sum(1, keepdim=True)


def exact(**more: Any) -> RecoveryLikelihood:
    network = Exact()
    model = RecoveryLikelihood(network, [1], levels=None, **{"step_size": 0.1, "chain_steps": 600, **more}).eval()
    network.model = [model]
    return model.double()


def test_the_ladder_is_ddpms_thousand_steps() -> None:
    a, s = ladder(6)
    assert len(a) == 7 and torch.allclose(a**2 + s**2, torch.ones(7, dtype=torch.float64))
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    assert float(a.prod()) == pytest.approx(float(torch.sqrt(1 - betas).prod()))
    assert float(s[0]) == pytest.approx(0.01) and float(a.prod()) < 0.01  # noise at the end


@pytest.mark.parametrize("level", [0, 4])
def test_a_chain_reaches_the_conditional_of_a_gaussian(level: int) -> None:
    model, n, generator = exact(), 4_000, torch.Generator().manual_seed(0)
    x = torch.full((n, 1), 0.4, dtype=torch.float64)
    t = torch.full((n,), level)
    y = model.chain(x, t, lambda *s: torch.randn(s, generator=generator, dtype=torch.float64))
    a, s, whole, noise = (float(v[level]) for v in (model._a, model._s, model._whole, model._sigma))
    own = a**2 * ((whole * STD) ** 2 + noise**2)
    variance = 1 / (1 / own + 1 / s**2)
    mean = variance * (a * whole * MEAN / own + 0.4 / s**2)
    variance /= 1 - float(model._b[level]) ** 2 / (4 * variance)  # that of Langevin's discrete steps
    assert float(y.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / n) + 0.02 * s)
    assert float(y.std()) == pytest.approx(math.sqrt(variance), rel=0.04)


def _predicted(model: RecoveryLikelihood) -> tuple[float, float]:
    """Mean and variance at the foot of the ladder from N(0, 1): of a Gaussian, steps are y <- A y + c + b n."""
    mean, variance, K = 0.0, 1.0, model.chain_steps
    for level in reversed(range(model.rungs)):
        a, s, whole, noise, b, recovers = (
            float(v[level]) for v in (model._a, model._s, model._whole, model._sigma, model._b, model._recovers)
        )
        own = a**2 * ((whole * STD) ** 2 + noise**2)
        A = 1 - b**2 / 2 * (1 / own + recovers / s**2)
        kept = A**K + (1 - A**K) / (1 - A) * b**2 / 2 * recovers / s**2  # of x_{t+1}, which the chain starts from too
        mean = kept * mean + (1 - A**K) / (1 - A) * b**2 / 2 * a * whole * MEAN / own
        variance = kept**2 * variance + b**2 * (1 - A ** (2 * K)) / (1 - A**2)
        mean, variance = mean / a, variance / a**2
    return mean, variance


def test_the_rungs_compose_from_noise_to_the_data() -> None:
    mean, variance = _predicted(exact(step_size=0.004, chain_steps=2_000_000))
    assert mean == pytest.approx(math.sqrt(0.9999) * MEAN, rel=2e-3)
    assert variance == pytest.approx(0.9999 * STD**2 + 1e-4, rel=1e-2)
    model = exact(rungs=3, chain_steps=60)
    mean, variance = _predicted(model)
    x = model.sample(4_000, seed=0)
    assert float(x.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / 4_000))
    assert float(x.var()) == pytest.approx(variance, rel=0.1)


def test_without_the_term_of_recovery_the_data_are_missed() -> None:
    """The chain then forgets x_{t+1} and, as short as it is, does not get from there to y_t either."""
    model = exact()
    model._recovers.zero_()
    t, x = torch.full((4_000,), 1), torch.full((4_000, 1), 0.4, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    y = model.chain(x, t, lambda *s: torch.randn(s, generator=generator, dtype=torch.float64))
    a, s, whole, noise = (float(v[1]) for v in (model._a, model._s, model._whole, model._sigma))
    own = a**2 * ((whole * STD) ** 2 + noise**2)
    assert float(y.std()) > 1.3 * math.sqrt(1 / (1 / own + 1 / s**2))


def test_energy_is_that_of_the_first_rung_and_its_slope_the_score() -> None:
    model = exact()
    x = torch.tensor([[0.8], [1.3], [0.0]], dtype=torch.float64)
    variance = 0.9999 * STD**2 + 1e-4
    E = (x - math.sqrt(0.9999) * MEAN).square().sum(1) / (2 * variance)
    found = model.energy(x)
    torch.testing.assert_close(found - found[0], E - E[0], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(model.score(x), -(x - math.sqrt(0.9999) * MEAN) / variance, rtol=1e-3, atol=1e-6)


def test_true_energies_are_where_the_gradient_of_the_loss_vanishes() -> None:
    """f + theta y: the gap of both means is 0 on average at theta = 0, and of the sign that leads back elsewhere."""

    class Tilted(Exact):
        def __init__(self) -> None:
            super().__init__()
            self.theta = nn.Parameter(torch.zeros(()))

        def forward(self, y: Tensor, t: Tensor) -> Tensor:
            b = self.model[0]._b.to(y.dtype)[t.long(), None]
            return super().forward(y, t) + b**2 * self.theta * y

    network = Tilted()
    model = RecoveryLikelihood(network, [1], levels=None, step_size=0.1, chain_steps=120)
    network.model = [model]
    model.double()
    x = MEAN + STD * torch.randn(2_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slopes = []
    for theta in (-1.0, 0.0, 1.0):
        network.theta.data.fill_(theta)
        model.set_noise([torch.Generator().manual_seed(1)])
        model.loss((x, torch.zeros(len(x), dtype=torch.int64)))["loss"].backward()
        slopes.append(float(network.theta.grad))
        network.theta.grad = None
    assert slopes[0] < 0 < slopes[2] and abs(slopes[1]) < 0.25 * min(-slopes[0], slopes[2])


@pytest.mark.slow
def test_training_learns_the_toy() -> None:
    torch.manual_seed(0)
    model = RecoveryLikelihood(
        TimedMLP(2, 32, 2, out_features=1, periods=[1.0, 20.0]), [2], levels=None, step_size=0.05, chain_steps=20
    )
    data = load_registry()["ebm_drl-eight_gaussians"].build_data()
    x = data.split("train")[0]
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(200):
        batch = x[torch.randint(len(x), (128,), generator=generator)]
        model.set_noise([torch.Generator().manual_seed(step)])
        optimizer.zero_grad()
        model.loss((batch, torch.zeros(128, dtype=torch.int64)))["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    drawn = model.eval().sample(500, seed=0)
    radius = x.norm(dim=1).mean()
    assert float(drawn.norm(dim=1).mean()) == pytest.approx(float(radius), rel=0.1)
    assert (drawn.norm(dim=1) < radius / 2).float().mean() < 0.1  # the middle is empty


def test_images_and_refusals() -> None:
    network = TimedConv(1, [4, 8], embedding=8)
    model = RecoveryLikelihood(network, [1, 7, 9], chain_steps=2)
    x = model.eval().sample(2, seed=0)
    assert x.shape == (2, 1, 7, 9) and float(x.min()) >= 0 and float(x.max()) <= 1
    assert model.energy(x).shape == (2,) and model.score(x).shape == x.shape
    assert model.calls({"steps": 5}) == 30 and model.calls_per_sample == 12
    for wrong in ({"rungs": 1}, {"chain_steps": 0}, {"step_size": 0.0}, {"step_size": math.inf}):
        with pytest.raises(ConfigError, match="a ladder has at least 2 rungs"):
            RecoveryLikelihood(network, [1, 7, 9], **wrong)
    with pytest.raises(ConfigError, match="at least one width"):
        TimedConv(1, [])
