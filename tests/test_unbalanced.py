"""Unbalanced transport and the flow of a divergence: exact values, stationary points, and what is discounted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from closed_forms import net
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.mmd_flow import MMDFlow
from zoo.families.mmd_generator import MMDGenerator
from zoo.families.s_jko import SJKO
from zoo.families.uotm import UOTM
from zoo.maths.divergences import CONJUGATES, bandwidths, conjugate, squared_mmd
from zoo.maths.objectives import OBJECTIVES
from zoo.nets.mlp import MLP


def transport_flops(args: Mapping[str, Any]) -> float:
    """The map's pass for the potential; both scores, the penalty on data; the map through the potential; and T_k."""
    G, D = net(args["generator"]), net(args["critic"])
    scores = 2 * (3 * sum(D) - D[0]) + (args["r1"] > 0) * (2 * sum(D) + sum(D[:-1]) + D[0])
    frozen = 2 * sum(G) if "phase" in args else 0
    return 2.0 * (sum(G) + scores + 3 * sum(G) - G[0] + 2 * sum(D) + frozen)


STEP_FLOPS: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "UOTM": transport_flops,
    "SJKO": transport_flops,
    # kernels of a batch with itself cost little beside
    "MMDFlow": lambda args: 2.0 * (4 * sum(net(args["generator"])) - net(args["generator"])[0]),
    "MMDGenerator": lambda args: 2.0 * (3 * sum(net(args["generator"])) - net(args["generator"])[0]),
}


class Affine(nn.Module):
    """scale x + shift, on the first numbers of what it is given."""

    def __init__(self, scale: float, shift: list[float]) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.tensor(scale)), nn.Parameter(torch.tensor(shift))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x[:, : len(self.shift)] + self.shift


class Quadratic(nn.Module):
    """a + b.y + c |y|^2."""

    def __init__(self, a: float, b: list[float], c: float) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(a)), nn.Parameter(torch.tensor(b))
        self.c = nn.Parameter(torch.tensor(c))

    def forward(self, y: Tensor) -> Tensor:
        return (self.a + y @ self.b + self.c * y.square().sum(1))[:, None]


def streamed(model: Any, seed: int = 0) -> Any:
    model.set_noise([torch.Generator().manual_seed(seed)])
    return model.double()


def zeros(n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.long)


@pytest.mark.parametrize("name", CONJUGATES)
def test_conjugates_are_convex_and_rise_with_slope_one_at_zero(name: str) -> None:
    v = torch.linspace(-6, 40, 4_601, dtype=torch.float64)
    y = conjugate(name)(v)
    assert bool(y.isfinite().all()) and bool((y.diff() >= -1e-12).all())
    assert bool((y.diff().diff() >= -1e-8 * y.diff()[1:].clamp(min=1)).all())
    at = torch.zeros((), dtype=torch.float64, requires_grad=True)
    value = conjugate(name)(at)
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(value, at)[0].item() == pytest.approx(1)


@pytest.mark.parametrize(("name", "psi"), [
    ("kl", lambda r: r * r.log() - r + 1), ("chi", lambda r: (r - 1).square()),
])  # fmt: skip
def test_conjugates_are_those_of_their_divergences(name: str, psi: Callable[[Tensor], Tensor]) -> None:
    r = torch.linspace(1e-6, 12, 600_001, dtype=torch.float64)
    for v in (-3.0, -1.0, 0.0, 0.7, 2.0):
        exact = float((v * r - psi(r)).max())
        assert conjugate(name)(torch.tensor(v, dtype=torch.float64)).item() == pytest.approx(exact, abs=1e-4)


def test_translation_has_its_exact_value() -> None:
    tau, m = 0.7, torch.tensor([1.0, -2.0], dtype=torch.float64)
    model = UOTM(Affine(1.0, m.tolist()), Quadratic(0.3, (tau * m).tolist(), 0.0), [2], None,
                 noise_divergence="linear", data_divergence="linear", tau=tau, r1=0.0)  # fmt: skip
    x, _ = streamed(model, 5).noise(64)
    value = streamed(model, 5).critic_loss((x + m, zeros(64)))["semidual"]
    assert value.item() == pytest.approx(-tau / 2 * float(m.square().sum()), abs=1e-6)
    streamed(model, 6).generator_loss((x, zeros(64)))["loss"].backward()  # T is the argmin at each x
    assert float(model.generator.shift.grad.abs().max()) < 1e-7 and abs(float(model.generator.scale.grad)) < 1e-7


def test_masses_of_both_marginals_agree_where_a_constant_changes_nothing() -> None:
    model = streamed(UOTM(MLP([2, 8, 2]), MLP([2, 8, 1]), [2], None, tau=0.1, r1=0.0), 1)
    batch = (torch.randn(32, 2, dtype=torch.float64), zeros(32))
    model.critic_loss(batch)["loss"].backward()
    slope = float(model.critic.layers[-1].bias.grad)
    noise, data = streamed(model, 1).weights(batch)
    assert slope == pytest.approx(float(noise.mean() - data.mean()), rel=1e-9) and abs(slope) > 1e-6


def test_no_cost_and_softplus_is_the_critic_of_a_gan() -> None:
    both = {"noise_divergence": "softplus", "data_divergence": "softplus"}
    model = streamed(UOTM(MLP([2, 8, 2]), MLP([2, 8, 1]), [2], None, tau=0.0, r1=0.0, **both), 2)
    y = torch.randn(16, 2, dtype=torch.float64)
    own = model.critic_loss((y, zeros(16)))["loss"]
    fake = model.mapped(*streamed(model, 2).noise(16))
    game = OBJECTIVES["non_saturating"].critic(model.value(y), model.value(fake)).mean()
    torch.testing.assert_close(own, 2 * game - 4 * math.log(2))
    mine = streamed(model, 2).generator_loss((y, zeros(16)))["loss"]
    torch.testing.assert_close(mine, -model.value(fake).mean())  # and the map's is not that of a GAN


@pytest.mark.parametrize(("name", "kept"), [("kl", False), ("chi", False), ("linear", True)])
def test_far_outliers_are_discounted_unless_the_marginal_is_held(name: str, kept: bool) -> None:
    """The semi-dual on points: 99 of data near 0 and 1 far away, by ascent on v."""
    y = torch.cat([torch.linspace(-1, 1, 99, dtype=torch.float64), torch.tensor([12.0], dtype=torch.float64)])
    x, psi = torch.linspace(-1, 1, 100, dtype=torch.float64), conjugate(name)
    v = torch.zeros(100, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([v], lr=0.05)
    C = (x[:, None] - y).square() / 2
    for i in range(1_200):
        optimizer.param_groups[0]["lr"] = (1.0 if name == "linear" else 0.05) / (1 + i / 200)
        optimizer.zero_grad()
        (psi(-(C - v).min(1).values).mean() + psi(-v).mean()).backward()
        optimizer.step()
    sent = v.detach().clone()
    at = (C - sent).min(1)
    slope = torch.func.vmap(torch.func.grad(psi))(-at.values) if name != "linear" else torch.ones_like(x)
    share = float((slope * (at.indices == 99)).sum() / slope.sum())
    assert (share >= 0.005) == kept, share


# -- steps of the flow -------------------------------------------------------------------------------------------------


def step(mean: float, sd: float, m: float, s: float, h: float) -> tuple[float, float]:
    a, b = 1 / h + 1 / s**2, sd / h
    return (s**2 * mean + h * m) / (s**2 + h), (b + math.sqrt(b**2 + 4 * a)) / (2 * a)


def optimum(h: float) -> SJKO:
    """The step from N(0, 1) towards N(2, .5^2): T_k is the identity, -v = log(rho / nu)."""
    m, s = 2.0, 0.5
    mean, sd = step(0.0, 1.0, m, s, h)
    # -v = -log sd - (y - mean)^2 / (2 sd^2) + log s + (y - m)^2 / (2 s^2)
    c = 1 / (2 * sd**2) - 1 / (2 * s**2)
    b = -mean / sd**2 + m / s**2
    a = math.log(sd / s) + mean**2 / (2 * sd**2) - m**2 / (2 * s**2)
    model = SJKO(Affine(sd, [mean]), Quadratic(a, [b], c), [1], 1, None, h=h, r1=0.0).double()
    for p, value in ((model.generator.scale, sd), (model.critic.a, a), (model.critic.c, c)):
        p.data.fill_(value)
    model.generator.shift.data.fill_(mean)
    model.critic.b.data.fill_(b)
    model.previous.scale.data.fill_(1.0)
    model.previous.shift.data.fill_(0.0)
    return model


def test_step_between_gaussians_is_the_closed_form() -> None:
    assert step(0.0, 1.0, 2.0, 0.5, 0.3) == pytest.approx((1.0909, 0.66088), abs=5e-5)
    model, n = streamed(optimum(0.3)), 400_000
    y = 2 + 0.5 * torch.randn(n, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model.generator_loss((y[:1000], zeros(1000)))["loss"].backward()
    assert max(float(p.grad.abs().max()) for p in model.generator.parameters()) < 1e-10  # at each z
    model.critic.zero_grad()
    model.critic_loss((y, zeros(n)))["loss"].backward()
    assert max(float(p.grad.abs().max()) for p in model.critic.parameters()) < 0.08
    model.previous.scale.data.fill_(0.5)  # a cost from elsewhere moves the optimum
    model.generator.zero_grad()
    model.generator_loss((y[:1000], zeros(1000)))["loss"].backward()
    assert max(float(p.grad.abs().max()) for p in model.generator.parameters()) > 0.5


def test_steps_tend_to_the_flow_and_the_divergence_falls() -> None:
    m, s, t = 2.0, 0.5, 0.3

    def kl(mean: float, sd: float) -> float:
        return math.log(s / sd) + (sd**2 + (mean - m) ** 2) / (2 * s**2) - 0.5

    errors = []
    for n in (10, 1_000):
        law, h = (0.0, 1.0), t / n
        for _ in range(n):
            after = step(*law, m, s, h)
            moved = (after[0] - law[0]) ** 2 + (after[1] - law[1]) ** 2
            assert moved <= 2 * h * (kl(*law) - kl(*after)) + 1e-12
            law = after
        exact = m * (1 - math.exp(-t / s**2)), math.sqrt(s**2 + (1 - s**2) * math.exp(-2 * t / s**2))
        errors.append(max(abs(a - b) for a, b in zip(law, exact, strict=True)))
    assert errors[1] < 1e-3 < errors[0]
    assert step(0.0, 1.0, m, s, 1e9) == pytest.approx((m, s)) and step(0.0, 1.0, m, s, 1e-9) == pytest.approx(
        (0, 1), abs=1e-6
    )


def test_map_of_the_phase_before_is_frozen_and_follows_at_its_end() -> None:
    model = SJKO(MLP([2, 4, 2]), MLP([2, 4, 1]), [2], 2, None, first_phase=5, phase=3)
    assert [i for i in range(1, 13) if model.ends_phase(i)] == [5, 8, 11]
    assert not any(p.requires_grad for p in model.previous.parameters())
    bare = model.released()
    assert bare.previous is None and not [n for n in bare.state_dict() if "previous" in n]
    with pytest.raises(ConfigError):
        SJKO(MLP([2, 4, 2]), MLP([2, 4, 1]), [2], 2, None, divergence="linear")


class Table(nn.Module):
    """Free particles: the i-th latent of a batch goes to the i-th row."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows.clone())

    def forward(self, z: Tensor) -> Tensor:
        return self.rows[: len(z)] + 0 * z


def particles(h: float) -> tuple[MMDFlow, tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(0)
    rows, y = torch.randn(24, 2, generator=g), 1.5 + 0.5 * torch.randn(32, 2, generator=g)
    return streamed(MMDFlow(Table(rows), [2], 2, None, h=h)), (y[:24].double(), zeros(24))


def settled(model: MMDFlow, batch: tuple[Tensor, Tensor]) -> None:
    optimizer = torch.optim.LBFGS(model.generator.parameters(), max_iter=400, tolerance_grad=1e-10,
                                  tolerance_change=1e-14, line_search_fn="strong_wolfe")  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model.loss(batch)["loss"]
        loss.backward()
        return loss

    optimizer.step(closure)


def test_step_of_the_discrepancys_flow_is_eulers_backward_step_and_descends() -> None:
    model, batch = particles(0.5)
    assert model.previous is not None
    widths = bandwidths(batch[0])
    before = float(squared_mmd(model.generator.rows.detach(), batch[0], widths))
    for _ in range(3):
        settled(model, batch)
        T = model.generator.rows.detach().clone().requires_grad_()
        mmd = squared_mmd(T, batch[0], widths)
        (slope,) = torch.autograd.grad(mmd, T)
        moved = T.detach() - model.previous.rows
        torch.testing.assert_close(moved, -0.5 * len(T) * slope, rtol=0, atol=1e-5)
        assert (
            float(moved.square().sum(1).mean()) <= 2 * 0.5 * (before - mmd.item()) + 1e-9 and moved.abs().max() > 0.05
        )
        before = mmd.item()
        model.previous.load_state_dict(model.generator.state_dict())


def test_without_the_cost_of_transport_it_is_no_step_of_a_flow() -> None:
    """At T_k the loss is that of the bare discrepancy; away from there it is not, unless h has no bound."""
    model, batch = particles(0.5)
    bare = streamed(MMDGenerator(model.generator, [2], 2, None))
    terms = model.loss(batch)
    torch.testing.assert_close(terms["loss"], streamed(bare).loss(batch)["loss"])
    model.generator.rows.data += 0.3
    far = model.loss(batch)
    assert (far["loss"] - far["mmd"]).item() == pytest.approx(2 * 0.3**2 / (2 * 0.5), rel=1e-5)
    model.h = 1e9
    torch.testing.assert_close(model.loss(batch)["loss"], streamed(bare).loss(batch)["loss"], rtol=0, atol=1e-8)


def test_map_before_a_phase_of_the_discrepancys_flow_follows_and_is_not_published() -> None:
    model = MMDFlow(MLP([2, 4, 2]), [2], 2, None, first_phase=4, phase=2)
    assert [i for i in range(10) if model.ends_phase(i)] == [4, 6, 8]
    streamed(model)
    batch = (torch.randn(8, 2, dtype=torch.float64), zeros(8))
    with torch.no_grad():
        next(model.generator.parameters()).add_(1.0)
    for done, equal in ((3, False), (4, True)):
        model._steps_done = done
        model.training_step(batch, 0)
        same = [
            torch.equal(a, b) for a, b in zip(model.generator.parameters(), model.previous.parameters(), strict=True)
        ]
        assert all(same) == equal
    assert model.released().previous is None
    with pytest.raises(ConfigError, match="h and phases"):
        MMDFlow(MLP([2, 4, 2]), [2], 2, None, h=0.0)


def test_squared_discrepancy_has_no_bias() -> None:
    g = torch.Generator().manual_seed(0)
    draws = torch.randn(400, 2, 20, 2, generator=g, dtype=torch.float64)
    found = torch.stack([squared_mmd(a, b, [0.5, 1.0, 2.0]) for a, b in draws])
    assert abs(float(found.mean())) < 3 * float(found.std()) / 20 and float(found.min()) < 0
    assert float(squared_mmd(draws[0, 0], draws[0, 1] + 2, bandwidths(draws[0, 0]))) > 0.5


def test_modes_that_lie_closer_than_the_smallest_bandwidth_are_not_told_from_a_ring() -> None:
    """Eight modes on a circle against a ring: waves of number 8 / radius, of which a kernel of width sigma keeps
    exp(-k^2 sigma^2 / 2). By a quarter of the median distance next to nothing is left, by a sixteenth most."""
    g = torch.Generator().manual_seed(0)
    angle = 2 * math.pi * torch.rand(1_500, generator=g, dtype=torch.float64)
    ring = 2 * torch.stack([angle.cos(), angle.sin()], 1)
    at = torch.arange(1_500, dtype=torch.float64) * math.pi / 4  # as many in each mode
    modes = 2 * torch.stack([at.cos(), at.sin()], 1)
    ring, modes = (x + 0.1 * torch.randn(1_500, 2, generator=g, dtype=torch.float64) for x in (ring, modes))
    usual, fine = (float(squared_mmd(ring, modes, bandwidths(modes, [m]))) for m in (1 / 4, 1 / 16))
    assert fine > 0.02 and usual < fine / 8
    model = MMDGenerator(MLP([2, 4, 2]), [2], 2, None, multiples=[1 / 16, 1])
    streamed(model)
    assert model.multiples == (0.0625, 1.0) and math.isfinite(model.loss((modes[:8], zeros(8)))["mmd"].item())
    for wrong in ([], [0.0], [math.inf]):
        with pytest.raises(ConfigError, match="multiples must be positive"):
            MMDGenerator(MLP([2, 4, 2]), [2], 2, None, multiples=wrong)
