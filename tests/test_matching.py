"""Laws of paths, of the pairing, and of what learns velocities: flow matching, rectified flow, interpolants."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from closed_forms import regression, told
from torch import Tensor, nn

from zoo.data.toys import EightGaussians
from zoo.diagnostics import DIAGNOSTICS, inversion, plot_inversion, plot_trajectories
from zoo.errors import ConfigError, DataError
from zoo.families.flow_matching import FlowMatching
from zoo.families.interpolant import Interpolant
from zoo.families.rectified_flow import RectifiedFlow
from zoo.maths.assignment import optimal_pairing
from zoo.maths.paths import PATHS, straightness
from zoo.maths.paths import path as path_of
from zoo.maths.solvers import SOLVERS, integrate, integrate_adaptive, time_grid
from zoo.maths.transport import entropic_pairing
from zoo.metrics.sliced import sliced_wasserstein
from zoo.model import HasLikelihood
from zoo.nets.timed_mlp import TimedMLP
from zoo.training.compute import flops_per_step

D = torch.float64
ONE_SIDED = [name for name, p in PATHS.items() if p.g is None]

STEP_FLOPS = {"FlowMatching": regression, "Interpolant": regression, "RectifiedFlow": regression}


def _seed(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def _stirred(model: Any, scale: float = 0.3) -> Any:
    """Return the model in float64 with weights that bend its curves."""
    generator = _seed()
    with torch.no_grad():
        for p in model.parameters():
            p += scale * torch.randn(p.shape, generator=generator)
    return model.double().eval()


def _points(**options: Any) -> FlowMatching:
    torch.manual_seed(0)  # what the layers start from
    return FlowMatching(TimedMLP(2, 16, 2), [2], levels=None, **options)


class _Exactly(nn.Module):
    """A network that is a given function of x and t, told ``time_scale`` 1."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function, self.calls = function, 0

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        self.calls += 1
        return self.function(x, time.reshape(-1, *[1] * (x.ndim - 1)), labels)


# -- paths -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PATHS)
def test_paths_begin_at_the_noise_and_end_at_the_data(name: str) -> None:
    x_0, x_1, z = (torch.randn(4, 3, dtype=D, generator=_seed(i)) for i in range(3))
    for t, end in ((0.0, x_0), (1.0, x_1)):
        assert (path_of(name).state(x_0, x_1, torch.tensor(t, dtype=D), z) - end).abs().max() < 1e-6


@pytest.mark.parametrize("name", PATHS)
def test_velocities_are_the_derivatives_of_the_paths(name: str) -> None:
    x_0, x_1, z = (torch.randn(99, 3, dtype=D, generator=_seed(i)) for i in range(3))
    t, path = torch.linspace(0.01, 0.99, 99, dtype=D).requires_grad_(), path_of(name)
    x, velocity = path.state(x_0, x_1, t, z), path.velocity(x_0, x_1, t, z)
    for i in range(3):
        (slope,) = torch.autograd.grad(x[:, i].sum(), t, retain_graph=True)
        assert torch.allclose(velocity[:, i], slope, atol=1e-9)
    h = 1e-6
    later, earlier = (path.state(x_0, x_1, t.detach() + s, z) for s in (h, -h))
    away = (t - 0.5).abs() > 2 * h  # where the two halves of encoding-decoding meet
    assert torch.allclose(velocity[away], ((later - earlier) / (2 * h))[away], atol=1e-5)


def _gaussian(name: str, x: Tensor, t: Tensor, mean: float, s: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return velocity, expected noise, mean and variance at time t where the data are N(mean, s^2)."""
    path = path_of(name)
    (a, da), (b, db) = path.a(t), path.b(t)
    g, dg = path.g(t) if path.g is not None else (torch.zeros_like(t), torch.zeros_like(t))
    var = a * a + (b * s) ** 2 + g * g
    v = db * mean + (da * a + db * b * s * s + dg * g) / var * (x - b * mean)
    return v, (a if path.g is None else g) / var * (x - b * mean), b * mean, var


@pytest.mark.parametrize("name", ONE_SIDED)
def test_score_follows_from_the_velocity(name: str) -> None:
    x = torch.linspace(-3, 3, 7, dtype=D)[:, None]
    for t in torch.tensor([0.1, 0.5, 0.9], dtype=D):
        v, noise, mean, var = _gaussian(name, x, t, 1.0, 0.6)
        assert torch.allclose(path_of(name).expected_noise(x, v, t), noise)
        assert torch.allclose(-noise / path_of(name).a(t)[0], -(x - mean) / var)


@pytest.mark.parametrize("name", ONE_SIDED)
def test_scaled_network_sees_and_gives_unit_variance(name: str) -> None:
    """For data N(0, s^2), by the moments of x and dx/dt; and what is left is uncorrelated with x."""
    path, s = path_of(name), 0.6
    for t in torch.tensor([0.05, 0.5, 0.9], dtype=D):
        (a, da), (b, db) = path.a(t), path.b(t)
        c_in, c_skip, c_out = path.scales(t, s)
        x_x, x_v, v_v = a * a + b * b * s * s, a * da + b * db * s * s, da * da + db * db * s * s
        assert float(c_in**2 * x_x) == pytest.approx(1) and float(x_v - c_skip * x_x) == pytest.approx(0, abs=1e-12)
        assert float((v_v - 2 * c_skip * x_v + c_skip**2 * x_x) / c_out**2) == pytest.approx(1)
        model = FlowMatching(_Exactly(lambda x, t, labels: 0 * x + t), [1], None, name, data_scale=s).double()
        x = torch.tensor([[0.7]], dtype=D)
        assert torch.allclose(model.velocity(x, t), c_skip * x + c_out * 10 * t)


# -- pairing -----------------------------------------------------------------------------------------------------------


def _cost(x: Tensor, y: Tensor) -> float:
    return float((x - y).square().sum())


def test_pairing_is_the_cheapest_of_all_and_never_dearer_than_the_identity() -> None:
    for i in range(5):
        x, y = torch.randn(5, 1, 2, generator=_seed(i)), torch.randn(5, 1, 2, generator=_seed(100 + i))
        found = optimal_pairing(x, y)
        best = min(_cost(x, y[list(order)]) for order in itertools.permutations(range(5)))
        assert sorted(found.tolist()) == list(range(5))
        assert _cost(x, y[found]) == pytest.approx(best) and best <= _cost(x, y) + 1e-9


def test_pairing_stays_within_classes_and_ranks() -> None:
    model = FlowMatching(TimedMLP(2, 8, 1, num_classes=3), [2], levels=None, num_classes=3, pairing="optimal")
    x_0, x_1 = torch.randn(12, 2, generator=_seed(1)), torch.randn(12, 2, generator=_seed(2))
    labels = torch.arange(12) % 3
    mark = (torch.arange(12) // 6) * 3 + labels  # rank and class of the place that the noise was drawn for
    model.set_noise([_seed(), _seed()])
    order = model.paired(torch.cat([x_0, mark[:, None].float()], 1)[:, :2], x_1, labels)
    index = torch.cdist(order, x_0).argmin(1)
    assert torch.equal(mark[index], mark) and not torch.equal(index, torch.arange(12))
    assert _cost(order, x_1) < _cost(x_0, x_1)
    assert torch.equal(_points().paired(x_0, x_1, labels), x_0)


# -- flow matching -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ONE_SIDED)
def test_velocity_of_one_point_has_no_loss_and_leads_there(name: str) -> None:
    """All data at c: x_0 = (x - b c) / a is known from x, so the exact velocity is a' x_0 + b' c."""
    c, path = torch.tensor([1.5, -0.5], dtype=D), path_of(name)

    def exact(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        (a, da), (b, db) = path.a(t), path.b(t)
        return da * (x - b * c) / a + db * c

    model = FlowMatching(_Exactly(exact), [2], levels=None, path=name, time_scale=1.0).double()
    batch = c.expand(64, 2), torch.zeros(64, dtype=torch.long)
    assert model.loss(batch)["mse"] < 1e-12
    assert (model.sample(3, seed=0, steps=50) - c).abs().max() < (0.2 if path.margin else 0.05)
    model.network.function = lambda x, t, labels: -exact(x, t, labels)
    assert model.loss(batch)["mse"] > 1


def test_training_times_are_spread_evenly_over_each_rank() -> None:
    model = _points()
    model.set_noise([_seed(1), _seed(2)])
    for part in model.training_times(16).view(2, 8):
        assert torch.equal((part * 8).floor(), torch.arange(8.0))
    middle = _points(times="logit_normal")
    middle.set_noise([_seed()])
    t = middle.training_times(10_000)
    assert t.min() > 0 and t.max() < 1
    assert t.logit().mean().abs() < 0.01 and t.logit().std() == pytest.approx(1, abs=0.01)


def test_grey_levels_have_the_width_of_an_interval() -> None:
    model = FlowMatching(TimedMLP(4, 8, 1), [4], levels=4)
    x = torch.tensor([[0, 1 / 3, 2 / 3, 1.0]])
    assert torch.allclose(model.continuous(x, 0.0), torch.tensor([[-1, -0.5, 0, 0.5]]))
    for u in (0.01, 0.5, 0.99):
        assert torch.equal((model.data_range(model.continuous(x, u)) * 3).round() / 3, x)
    assert model.data_range(torch.tensor([[-7.0, 7.0]])).tolist() == [[0, 1]]


def test_label_dropout_and_guidance() -> None:
    def said(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        return torch.ones_like(x) * (10 if labels is None else labels[:, None])

    model = FlowMatching(
        _Exactly(said), [2], levels=None, num_classes=10, label_dropout=0.25, guidance_scale=3.0, steps=4
    )
    model.set_noise([_seed()])
    labels = model.dropped(torch.full((10_000,), 3))
    assert labels.eq(10).double().mean() == pytest.approx(0.25, abs=0.02) and labels.eq(3).sum() > 7_000
    y = torch.tensor([0, 7])
    start = model.sample(2, seed=0, labels=y, guidance_scale=0.0) - 10
    for scale, calls in ((0.0, 8), (1.0, 8), (2.5, 16)):
        model.network.calls = 0
        x = model.sample(2, seed=0, labels=y, guidance_scale=scale)
        assert torch.allclose(x - start, ((1 - scale) * 10 + scale * y)[:, None].expand(2, 2), atol=1e-4)
        assert model.network.calls == calls == model.calls({"guidance_scale": scale})
    assert model.calls_per_sample == 16 and model.sampler({"steps": 2})["guidance_scale"] == 3.0
    with pytest.raises(DataError, match="between 0 and 9"):
        model.loss((torch.zeros(2, 2), torch.tensor([0, 10])))


def test_no_guidance_without_classes() -> None:
    with pytest.raises(ConfigError, match="neither"):
        _points().sample(1, guidance_scale=2.0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"path": "encoding_decoding"}, "third part"),
        ({"path": "linaer"}, "Did you mean 'linear"),
        ({"pairing": "best"}, "unknown pairing"),
        ({"times": "cosine"}, "distribution of times"),
        ({"solver": "eular"}, "Did you mean 'euler'"),
        ({"label_dropout": 1.0}, "label_dropout"),
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        _points(**wrong)


# -- both ways, and the density ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", SOLVERS)
def test_round_trip_error_falls_at_the_order_of_the_solver(method: str) -> None:
    model, z = _stirred(_points()), torch.randn(20, 2, dtype=D, generator=_seed(1))
    errors = []
    for steps in (64, 128):
        model.steps, model.solver = steps, method
        errors.append((model.encode(model.decode(z)) - z).abs().max())
    assert math.log2(errors[0] / errors[1]) > SOLVERS[method].order - 0.3


def test_adaptive_round_trip_comes_back() -> None:
    model, z = _stirred(_points()), torch.randn(20, 2, dtype=D, generator=_seed(1))
    x = integrate_adaptive(model.field(), z, [0.0, 1.0], "dopri5", 1e-7)
    assert (x - z).abs().max() > 0.1
    assert (integrate_adaptive(model.field(), x, [1.0, 0.0], "dopri5", 1e-7) - z).abs().max() < 1e-4
    model.solver = "dopri5"
    assert (model.encode(model.decode(z)) - z).abs().max() < 1e-2


def test_density_in_the_plane_integrates_to_one() -> None:
    model = _stirred(_points(), 0.1)
    x = model.sample(2_000, seed=0)
    side, reach = 64, 1.3 * float(x.abs().max())
    line = torch.linspace(-reach, reach, side, dtype=D)
    log_p = model.log_prob(torch.cartesian_prod(line, line), steps=12, exact=True)
    assert float(log_p.exp().sum() * (line[1] - line[0]) ** 2) == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("name", ["linear", "trigonometric"])
def test_likelihood_of_gaussian_data_is_the_closed_form(name: str) -> None:
    """And of grey levels the mean over places in the interval, the widths of the intervals counted."""

    def exact(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        return _gaussian(name, x, t, 0.3, 0.5)[0]

    normal = torch.distributions.Normal(0.3, 0.5)
    model = FlowMatching(_Exactly(exact), [3], levels=None, path=name, time_scale=1.0, likelihood_steps=60).double()
    x = normal.sample((6, 3)).double()
    assert torch.allclose(model.log_prob(x, seed=0), normal.log_prob(x).sum(1), atol=1e-5)
    assert torch.allclose(model.encode(x), (x - 0.3) / 0.5, atol=0.01) and model.likelihood() == "ode"
    grey = FlowMatching(_Exactly(exact), [3], levels=256, path=name, time_scale=1.0, likelihood_steps=60).double()
    k = torch.randint(256, (4, 3), generator=_seed())
    u = torch.rand(4, 3, generator=_seed(5), dtype=D)
    y = 2 * (k + u) / 256 - 1
    found = grey.log_prob(k / 255, seed=5)
    assert torch.allclose(found, normal.log_prob(y).sum(1) + 3 * math.log(2 / 256), atol=1e-5)
    assert grey.likelihood() == "ode+dequant" and grey.likelihood_examples == 1_000
    assert "60 steps" in grey.likelihood_solver


# -- interpolants ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in PATHS if n != "variance_preserving"])
def test_both_samplers_have_the_moments_of_a_gaussian(name: str) -> None:
    """Exact velocity and noise for data N(m, s^2): means and variances of the ODE and of the SDE are m and s^2."""
    m, s, n = 0.8, 0.5, 8_000

    def exact(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        return torch.cat(_gaussian(name, x, t, m, s)[:2], 1)

    model = Interpolant(_Exactly(exact), [1], levels=None, path=name, time_scale=1.0, steps=50).double()
    for options in ({}, {"diffusion": 1.0, "steps": 100}):
        x = model.sample(n, seed=0, **options)
        assert float(x.mean()) == pytest.approx(m, abs=5 * s / math.sqrt(n) + 0.01)
        assert float(x.var()) == pytest.approx(s * s, rel=0.08)
    z = model.sample(2, seed=0, diffusion=0.0)
    assert torch.equal(z, model.sample(2, seed=0)) and not torch.equal(z, model.sample(2, seed=0, diffusion=0.1))
    assert model.calls({}) == 100 and model.calls({"diffusion": 1.0}) == 50


@pytest.mark.parametrize("name", PATHS)
def test_interpolant_learns_velocity_and_noise(name: str) -> None:
    """At the exact conditional means of Gaussian data, the loss is what their variances say, and no other has less."""
    m, s, shift = 0.8, 0.5, [0.0, 0.0]

    def near(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        v, e, _, _ = _gaussian(name, x, t, m, s)
        return torch.cat([v + shift[0], e + shift[1]], 1)

    model = Interpolant(_Exactly(near), [1], levels=None, path=name, time_scale=1.0).double()
    x = m + s * torch.randn(20_000, 1, dtype=D, generator=_seed(9))
    batch = x, torch.zeros(len(x), dtype=torch.long)

    def terms(*by: float) -> dict[str, Tensor]:
        shift[:] = by
        model.set_noise([_seed(3)])
        return model.loss(batch)

    best = terms(0.0, 0.0)
    assert torch.equal(best["loss"], best["mse"] + best["mse_noise"])
    for by in (-0.2, 0.2):
        assert terms(by, 0.0)["mse"] - best["mse"] == pytest.approx(by * by, abs=0.02)
        assert terms(0.0, by)["mse_noise"] - best["mse_noise"] == pytest.approx(by * by, abs=0.02)
    shift[:] = [0.0, 0.0]
    t, x = torch.tensor(0.4, dtype=D), torch.linspace(-2, 2, 5, dtype=D)[:, None]
    _, _, mean, var = _gaussian(name, x, t, m, s)
    assert torch.allclose(model.score(x, t), -(x - mean) / var)


def test_pairs_of_a_bridge_between_gaussians_have_the_covariance_of_the_schroedinger_bridge() -> None:
    """Between N(0, 1) and N(0, s^2) it is c with c^2 + sigma^2 c = s^2, here for sigma 1."""
    s, n = 2.0, 500
    model = Interpolant(TimedMLP(1, 8, 1, 2), [1], levels=None, path="bridge", pairing="schroedinger").double()
    x_0, x_1 = torch.randn(n, 1, dtype=D, generator=_seed(1)), s * torch.randn(n, 1, dtype=D, generator=_seed(2))
    u = torch.rand(n, dtype=D, generator=_seed(3))
    groups = model.pairing_groups(torch.zeros(n, dtype=torch.long))
    partner = x_0[entropic_pairing(x_1, x_0, u, 2.0, groups, unit=1.0)]
    c = (math.sqrt(1 + 4 * s * s) - 1) / 2
    found = float((partner * x_1).mean() - partner.mean() * x_1.mean())
    assert found == pytest.approx(c, abs=4 * math.sqrt((s * s + c * c) / n))
    other = x_0[entropic_pairing(x_1, x_0, u, groups=groups)]  # the look-alike: nearly the plan of least cost
    assert float((other * x_1).mean()) > c + 0.2
    for t in (0.25, 0.5, 0.75):  # the marginal of the bridge, of which the two ends know each other
        path = path_of("bridge")
        x_t = path.state(partner, x_1, torch.tensor(t, dtype=D), torch.randn(n, 1, dtype=D, generator=_seed(4)))
        var = (1 - t) ** 2 + (t * s) ** 2 + 2 * t * (1 - t) * c + t * (1 - t)
        assert float(x_t.var()) == pytest.approx(var, rel=5 * math.sqrt(2 / n))


def test_pairs_of_a_bridge_need_its_path() -> None:
    with pytest.raises(ConfigError, match="schroedinger is of the path bridge"):
        Interpolant(TimedMLP(1, 8, 1, 2), [1], levels=None, pairing="schroedinger")


def test_diffusion_below_zero_is_refused() -> None:
    for make in (
        lambda: Interpolant(TimedMLP(2, 8, 1, 4), [2], levels=None, diffusion=-1.0),
        lambda: Interpolant(TimedMLP(2, 8, 1, 4), [2], levels=None).sample(1, diffusion=-1.0),
    ):
        with pytest.raises(ConfigError, match="diffusion must be at least 0"):
            make()


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_ways_and_inversions_are_shown() -> None:
    """Each pixel follows dx/dt = s x: known curves, a known inverse, and a solver's known error."""
    s, steps = 0.4, 3
    model = FlowMatching(_Exactly(lambda x, t, labels: s * x), [1, 4, 4], steps=steps, time_scale=1.0)
    states, times = model.trajectory(2, seed=0, frames=5)
    z = model.noise(2, _seed())
    assert torch.allclose(states, model.data_range(z * (s * times).exp()[:, None, None, None, None]), atol=1e-4)
    x = torch.randint(256, (5, 1, 4, 4), generator=_seed()) / 255
    found = inversion(model, x)
    factor = (1 + s / steps + (s / steps) ** 2 / 2) * (1 - s / steps + (s / steps) ** 2 / 2)  # of midpoint, both ways
    y = model.continuous(x)
    assert torch.allclose(found.again, model.data_range(y * factor**steps), atol=1e-5)
    summary = found.summary()
    assert (
        summary["largest_difference"] == pytest.approx(float((found.again - x).abs().max()))
        and summary["examples"] == 5
    )
    assert plot_inversion(found).shape[1] > 300 and plot_trajectories(states, times).ndim == 3
    points = _points()
    assert plot_trajectories(*points.trajectory(20, seed=0, frames=3)).shape[2] == 3
    fitting = {name for name, d in DIAGNOSTICS.items() if d.applies(model)}
    assert {"trajectories", "inversion"} <= fitting and DIAGNOSTICS["trajectories"].applies(points)
    assert not DIAGNOSTICS["inversion"].applies(points)


# -- rectified flow, and samples that move -----------------------------------------------------------------------------


def _train(model: Any, data: EightGaussians, steps: int, lr: float) -> None:
    optimizer = torch.optim.Adam(next(iter(model.players().values())).parameters, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    x, labels = data.split("train")
    for step in range(steps):
        model.steps_done = step
        model.set_noise([_seed(step)])
        rows = torch.randint(len(x), (256,), generator=_seed(10_000 + step))
        optimizer.zero_grad()
        model.loss((x[rows], labels[rows]))["loss"].backward()
        optimizer.step()
        schedule.step()
    model.eval()


@pytest.fixture(scope="module")
def flow() -> FlowMatching:
    torch.manual_seed(0)
    model = FlowMatching(TimedMLP(2, 64, 2), [2], levels=None)
    _train(model, EightGaussians(points=4_000), 500, 5e-3)
    return model


def test_samples_move_from_noise_to_data(flow: FlowMatching) -> None:
    """Squared sliced 2-Wasserstein distance to fresh data, of 10,000 points over 200 fixed directions."""
    fresh, other = (EightGaussians().draw(10_000, _seed(i))[0] for i in (5, 6))
    start = sliced_wasserstein(torch.randn(10_000, 2, generator=_seed()), fresh)
    floor, now = sliced_wasserstein(other, fresh), sliced_wasserstein(flow.sample(10_000, seed=0), fresh)
    print(f"noise {start:.4f}, samples {now:.4f}, data against data {floor:.4f}")
    assert floor < now < 0.1 * start
    states, times = flow.trajectory(1_000, seed=0, frames=5)
    assert states.shape == (5, 1_000, 2) and times.tolist() == [0, 0.25, 0.5, 0.75, 1]
    away = [sliced_wasserstein(x, fresh[:1_000]) for x in states]
    assert away[-1] < 0.2 * away[0] and torch.equal(states[0], flow.noise(1_000, _seed()))


def test_reflow_straightens_and_one_step_then_suffices(flow: FlowMatching) -> None:
    again = RectifiedFlow(
        TimedMLP(2, 64, 2), [2], teacher=flow, levels=None, pair_batches=40, teacher_steps=20, one_step=0.0
    )
    again.adopt()
    assert again.straightness(seed=0) == pytest.approx(flow.straightness(seed=0))
    before, error = flow.straightness(seed=0), again.one_step_error(seed=0)
    _train(again, EightGaussians(points=4_000), 300, 2e-3)
    after = again.straightness(seed=0)
    print(f"straightness {before:.4f} -> {after:.4f}, one-step error {error:.4f} -> {again.one_step_error(seed=0):.4f}")
    assert after < 0.5 * before and again.one_step_error(seed=0) < 0.5 * error
    assert len(again._pairs) == 40 and not isinstance(again, HasLikelihood)


def test_straightness_is_the_papers_integral() -> None:
    """Curves x = (t, t^2): the first straight, the second with velocity 2 t against the mean 1, of mean square 1/3."""
    t = torch.linspace(0, 1, 1_001, dtype=D)
    states = torch.stack([t, t * t], 1)[:, None]  # (T, 1, 2)
    velocities = torch.stack([torch.ones_like(t), 2 * t], 1)[:, None]
    assert float(straightness(velocities, states)) == pytest.approx(1 / 3, abs=1e-5)
    assert float(straightness(velocities[..., :1], states[..., :1])) == pytest.approx(0, abs=1e-20)


def test_pairs_lie_on_the_teachers_curves_and_come_again(flow: FlowMatching) -> None:
    def student(**options: Any) -> RectifiedFlow:
        return RectifiedFlow(TimedMLP(2, 64, 2), [2], teacher=flow, levels=None, pair_batches=3, **options)

    one, two, labels = student(), student(), torch.zeros(8, dtype=torch.long)
    for step in (0, 1, 2, 3):
        one.steps_done = two.steps_done = step
        z_0, z_1, _ = one.batch_of_pairs(labels)
        assert torch.equal(z_1, integrate(flow.field(), z_0, time_grid(6), "midpoint"))
        assert step == 3 or step == len(one._pairs) - 1
    two.steps_done = 3  # as after a stop: the first batch of the second round
    assert all(torch.equal(a, b) for a, b in zip(two.batch_of_pairs(labels)[:2], (z_0, z_1), strict=True))
    ranks = student()
    ranks.set_noise([_seed(), _seed()])
    halves = ranks.batch_of_pairs(labels)[0]
    assert torch.equal(halves[:4], student()._seeded_noise(0, 4)) and not torch.equal(halves[:4], halves[4:])
    assert not torch.equal(student(pair_seed=1)._seeded_noise(0, 4), halves[:4])


def test_share_at_the_start_is_the_distillation_loss(flow: FlowMatching) -> None:
    model = RectifiedFlow(TimedMLP(2, 64, 2), [2], teacher=flow, levels=None, one_step=1.0)
    model.adopt()
    batch = torch.zeros(16, 2), torch.zeros(16, dtype=torch.long)
    terms = model.train().loss(batch)
    z_0, z_1, _ = model.batch_of_pairs(batch[1])
    one = z_0 + model.velocity(z_0, torch.zeros(16))
    assert torch.allclose(terms["mse_one_step"], (one - z_1).square().mean(), rtol=1e-5)
    assert torch.allclose(terms["loss"], terms["mse_one_step"])
    assert torch.allclose(model.sample(16, seed=_seed(4)), one_step(model, _seed(4)))


def one_step(model: RectifiedFlow, generator: torch.Generator) -> Tensor:
    z = model.noise(16, generator)
    return z + model.velocity(z, torch.zeros(16))


def test_pairs_cost_what_the_teacher_computes(flow: FlowMatching) -> None:
    model = RectifiedFlow(TimedMLP(2, 64, 2), [2], teacher=flow, levels=None, teacher_steps=5)
    batch = torch.zeros(4, 2), torch.zeros(4, dtype=torch.long)
    network = 2 * 4 * (64 * 64 * 8 + 4 * 64)
    assert flops_per_step(model, batch)[1] == 10 * network and not model._pairs
    assert flops_per_step(model, batch)[0] == pytest.approx(4 * regression(model.spec["init_args"]))
    assert flops_per_step(FlowMatching(TimedMLP(2, 64, 2), [2], levels=None), batch)[1] == 0


def test_teacher_is_left_out_of_what_is_published(flow: FlowMatching) -> None:
    model = RectifiedFlow(TimedMLP(2, 64, 2), [2], teacher=flow, levels=None)
    bare = model.released()
    assert bare.teacher is None and bare.spec["init_args"]["teacher"] is None and bare.released() is bare
    assert not any("teacher" in name for name in bare.state_dict())
    assert torch.equal(bare.sample(3, seed=0), model.sample(3, seed=0)) and flow.released() is flow
    with pytest.raises(ConfigError, match="name one with --teacher"):
        bare.train().loss((torch.zeros(2, 2), torch.zeros(2, dtype=torch.long)))
    assert not any(p.requires_grad for p in model.teacher.parameters()) and not model.train().teacher.training


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"teacher": TimedMLP(2)}, "a TimedMLP, which has no velocity"),
        ({"teacher": FlowMatching(TimedMLP(3), [3], levels=None)}, "make them agree"),
        ({"one_step": 1.5}, "between 0 and 1"),
        ({"pair_batches": 0}, "at least 1"),
    ],
)
def test_teachers_that_do_not_fit_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RectifiedFlow(TimedMLP(2, 64, 2), [2], levels=None, **options)


def test_a_student_of_another_make_cannot_start_as_its_teacher(flow: FlowMatching) -> None:
    with pytest.raises(ConfigError, match=r"--model\.warm_start false"):
        RectifiedFlow(TimedMLP(2, 32, 2), [2], teacher=flow, levels=None).adopt()
    RectifiedFlow(TimedMLP(2, 32, 2), [2], teacher=flow, levels=None, warm_start=False).adopt()


# -- from the command line ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_three_stages_and_their_compute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from zoo._cli.main import main
    from zoo.hub import load_pretrained, save_pretrained
    from zoo.runs import load_run, run_metadata

    monkeypatch.chdir(tmp_path)
    tiny = "[4, 8]"
    few = [
        *(
            "--model.network.init_args.widths",
            tiny,
            "--data.batch_size",
            "4",
            "--data.limit",
            "16",
            "--trainer.enable_progress_bar",
            "false",
        ),
        *("--training.sample_every", "0", "--trainer.limit_val_batches", "0", "--training.threads", "1"),
    ]
    pairs = ["--model.pair_batches", "2", "--model.teacher_steps", "1"]
    assert main(["fit", "--model", "reflow-mnist", "--run", "b", *few]) == 2
    assert "name it with --teacher" in capsys.readouterr().err
    assert main(["fit", "--model", "flow_matching_small-mnist", "--run", "a", "--trainer.max_steps", "2", *few]) == 0
    fit = ["fit", "--model", "reflow-mnist", "--teacher", "./a", "--run", "b", "--trainer.max_steps", "3"]
    assert main([*fit, *few, *pairs]) == 0
    first, second = load_run("a"), load_run("b")
    state = second.teacher.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in first.state_dict().items())
    fit = ["fit", "--model", "rectified_flow-mnist", "--teacher", "./b", "--run", "c", "--trainer.max_steps", "2"]
    assert main([*fit, *few, *pairs]) == 0
    cost = run_metadata("c")["cost"]
    assert list(cost["stages"]) == ["flow_matching_small-mnist", "reflow-mnist", "rectified_flow-mnist"]
    assert cost["training_tflop"] == pytest.approx(sum(cost["stages"].values()), abs=1e-5)
    forward = 2 * 4 * told(first.spec["init_args"]["network"])[0]
    steps = {"a": 2 * 4 * regression(first.spec["init_args"]), "b": 3 * 4 * regression(second.spec["init_args"])}
    made = {"a": 0, "b": 2 * 2 * forward}  # two batches of pairs, two calls each
    for run, own in zip("ab", cost["stages"].values(), strict=False):
        assert own == pytest.approx((steps[run] + made[run]) / 1e12, rel=0.02, abs=6e-7)  # six decimals are kept
    last = load_run("c")
    save_pretrained(last, "folder")
    again = load_pretrained("folder")
    assert torch.equal(again.sample(2, seed=0), last.sample(2, seed=0)) and again.teacher is None
    assert json.loads(Path("folder/config.json").read_text())["args"]["teacher"] is None
    capsys.readouterr()
    for arguments, said in (
        (["--model", "vae", "--teacher", "./a"], "takes no --teacher"),
        (["--model", "reflow-mnist", "--teacher", "vae-mnist"], "a VAE, which has no velocity"),
        (
            ["--model", "reflow-mnist", "--teacher", "./a", "--autoencoder", "./a"],
            "takes no --autoencoder: it takes only --teacher",
        ),
        (["--resume", "c", "--teacher", "./a"], "leave --teacher out"),
    ):
        assert main(["fit", *arguments]) == 2 and said in capsys.readouterr().err


def test_sinkhorn_pairs_partners_of_one_class_and_of_little_cost() -> None:
    model = FlowMatching(TimedMLP(2, 8, 1, num_classes=3), [2], levels=None, num_classes=3, pairing="sinkhorn")
    model.set_noise([torch.Generator().manual_seed(0)])
    x_1, x_0, labels = torch.randn(24, 2), torch.randn(24, 2), torch.arange(24) % 3
    found = model.paired(x_0, x_1, labels)
    for row, label in zip(found, labels, strict=True):
        assert (x_0[labels == label] == row).all(1).any()
    assert float((found - x_1).square().sum()) < 0.7 * float((x_0 - x_1).square().sum())
