"""Energies: chains have the laws that they promise, and the gap of energies is the gradient of a likelihood."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest
import torch
from closed_forms import net
from torch import Tensor, nn

from zoo.diagnostics import chains, landscape, plot_chains, plot_landscape
from zoo.errors import ConfigError
from zoo.families.ebm import EBM
from zoo.families.energy_matching import EnergyMatching
from zoo.families.noise_contrastive import NoiseContrastive
from zoo.maths.chains import annealed_importance, hmc, langevin, leapfrog, mala, potential, temperature
from zoo.maths.particles import between
from zoo.nets.mlp import MLP
from zoo.registry import load_registry


def ebm_flops(args: Mapping[str, Any]) -> float:
    """A chain costs K forward passes and passes back to x; then both energies are trained."""
    F = net(args["network"])
    trained = 2 * (3 * sum(F) - F[0])
    return 2.0 * (args["chain_steps"] * 2 * sum(F) + trained + bool(args["num_classes"]) * sum(F))


def contrast_flops(args: Mapping[str, Any]) -> float:
    """Examples and nu draws of noise pass through the network and back."""
    F = net(args["network"])
    return 2.0 * (1 + args["noise_ratio"]) * (3 * sum(F) - F[0])


STEP_FLOPS: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "EBM": ebm_flops,
    "NoiseContrastive": contrast_flops,
}


def noise(seed: int = 0) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    g = torch.Generator().manual_seed(seed)
    like = {"generator": g, "dtype": torch.float64}
    return (lambda *s: torch.randn(s, **like)), (lambda *s: torch.rand(s, **like))


class Spring(nn.Module):
    """k |x|^2 / 2 with k to learn."""

    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k))

    def forward(self, x: Tensor) -> Tensor:
        return self.k * x.square().flatten(1).sum(1, keepdim=True) / 2


def well(x: Tensor) -> Tensor:
    return (x.square() - 1).square().sum(1) + 0.3 * x.sum(1)


def well_histogram(T: float, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return edges of bins, their probabilities by quadrature, and n exact draws (n, 1)."""
    edges = torch.linspace(-1.8, 1.8, 13, dtype=torch.float64)
    grid = torch.linspace(-3, 3, 60_001, dtype=torch.float64)
    p = torch.exp(-well(grid[:, None]) / T)
    p = p / p.sum()
    x = grid[torch.multinomial(p.float(), n, True, generator=torch.Generator().manual_seed(0))]
    return edges, torch.stack([p[(grid >= a) & (grid < b)].sum() for a, b in pairwise(edges)]), x[:, None]


# -- chains ------------------------------------------------------------------------------------------------------------


def test_langevin_has_the_variance_of_its_discrete_law() -> None:
    k, alpha, s = 1.0, 0.5, math.sqrt(3 / 16)  # (1 - alpha k)^2 = 1/4: variance 1/4
    T = temperature(alpha, s)
    U = potential(lambda x: k * x.square().sum(1) / 2, T)
    randn, _ = noise()
    x = langevin(U, torch.zeros(200_000, 1, dtype=torch.float64), 40, s**2 / 2, randn)
    exact = s**2 / (1 - (1 - alpha * k) ** 2)
    assert exact == pytest.approx(0.25) and float(x.var()) == pytest.approx(exact, abs=3 * exact * math.sqrt(2 / 2e5))
    assert abs(float(x.var()) - T / k) > 0.05  # the law of small steps is another one


@pytest.mark.parametrize("T", [1.0, 0.5])
@pytest.mark.parametrize("sampler", ["mala", "hmc", "langevin"])
def test_tested_chains_leave_a_double_well_as_it_is(sampler: str, T: float) -> None:
    edges, exact, x = well_histogram(T, 20_000)
    U = potential(well, T)
    randn, rand = noise(1)
    if sampler == "langevin":  # without the test, at this step, it has another law
        x = langevin(U, x, 60, 0.08, randn)
    else:
        x, share = mala(U, x, 60, 0.08, randn, rand) if sampler == "mala" else hmc(U, x, 10, 0.2, randn, rand)
        assert 0.3 < float(share.mean()) < 1
    found = torch.stack([((x >= a) & (x < b)).double().mean() for a, b in pairwise(edges)])
    worst = float(((found - exact) / (exact * (1 - exact) / 20_000).sqrt()).abs().max())
    assert worst > 8 if sampler == "langevin" else worst < 4.5


def test_leapfrog_goes_back_and_keeps_the_volume() -> None:
    U = potential(well)
    x, v = torch.tensor([[0.3]], dtype=torch.float64), torch.tensor([[0.7]], dtype=torch.float64)
    y, w = leapfrog(U, x, v, 0.2, 7)
    again, back = leapfrog(U, y, -w, 0.2, 7)
    torch.testing.assert_close(again, x, rtol=0, atol=1e-13)
    torch.testing.assert_close(back, -v, rtol=0, atol=1e-13)
    e, columns = 1e-6, []
    for dx, dv in ((e, 0.0), (0.0, e)):
        (a, b), (c, d) = leapfrog(U, x + dx, v + dv, 0.2, 7), leapfrog(U, x - dx, v - dv, 0.2, 7)
        columns.append(torch.cat([a - c, b - d]).flatten() / (2 * e))
    assert float(torch.linalg.det(torch.stack(columns, 1))) == pytest.approx(1, abs=1e-7)


def test_nothing_is_accepted_outside_of_the_range() -> None:
    U = potential(lambda x: 0 * x.sum(1), bounded=True)
    randn, rand = noise(2)
    x, share = mala(U, rand(5_000, 1), 100, 0.1, randn, rand)
    assert float(x.min()) >= 0 and float(x.max()) <= 1 and float(share.mean()) < 0.9
    assert float(x.mean()) == pytest.approx(0.5, abs=0.015) and float(x.var()) == pytest.approx(1 / 12, abs=0.004)
    clamped = langevin(U, rand(5_000, 1), 100, 0.1, randn, bounded=True)
    assert float(((clamped == 0) | (clamped == 1)).double().mean()) > 0.3  # clamping heaps at the ends


def test_annealed_importance_finds_the_constant_of_a_gaussian() -> None:
    k, D, spread = 9.0, 2, 1.0
    randn, rand = noise(3)
    start, end = (potential(lambda x, c=c: c * x.square().sum(1) / 2) for c in (1 / spread**2, k))
    log_w, _ = annealed_importance(
        start, end, spread * randn(4_000, D), [i / 20 for i in range(21)], 0.3, randn, rand, leaps=3
    )
    exact = D / 2 * math.log(1 / spread**2 / k)
    w = (log_w - exact).exp()  # unbiased: mean 1
    assert float(w.mean()) == pytest.approx(1, abs=3 * float(w.std()) / math.sqrt(4_000))
    assert float(log_w.mean()) < exact  # and its logarithm is too low


# -- the model ---------------------------------------------------------------------------------------------------------


def tiny(network: nn.Module | None = None, shape: tuple[int, ...] = (2,), **options: Any) -> EBM:
    torch.manual_seed(0)
    made = {"levels": None, "chain_steps": 3, "step_size": 0.05, "buffer": 12, "steps": 20, **options}
    model = EBM(network or MLP([math.prod(shape), 8, max(1, made.get("num_classes", 0))], "silu"), list(shape), **made)
    return model.double()


def test_gap_of_energies_is_the_gradient_of_the_likelihood() -> None:
    k, spread, n = 3.0, 1.7, 400_000
    x = torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.8
    model = tiny(Spring(k), (1,), regulariser=0.0, spread=spread)
    whole = k + 1 / spread**2  # with the Gaussian that points of an energy lie beside
    exact = torch.randn(n, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / math.sqrt(whole)
    model.negatives = lambda labels: (exact, labels)  # type: ignore[method-assign]
    model.loss((x, torch.zeros(n, dtype=torch.long)))["loss"].backward()
    own = model.network.k.grad
    likelihood = float(x.square().mean()) / 2 - 1 / (2 * whole)
    assert float(own) == pytest.approx(likelihood, abs=3e-3) and abs(likelihood) > 0.1


def test_chains_give_the_parameters_no_gradient() -> None:
    model = tiny()
    model.set_noise([torch.Generator().manual_seed(0)])
    x, _ = model.negatives(torch.zeros(6, dtype=torch.long))
    assert not x.requires_grad and all(p.grad is None for p in model.parameters())
    model.sample(3, seed=0)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("levels", [None, 256])
def test_buffer_is_the_same_whether_one_process_or_two_compute_a_batch(levels: int | None) -> None:
    """The rows of two streams are drawn and kept in their order; what two ranks gather is what one computes."""
    one = tiny(levels=levels, num_classes=3).train()
    two = [copy.deepcopy(one) for _ in range(2)]
    before = one.replay.clone()
    one.set_noise([torch.Generator().manual_seed(s) for s in (5, 6)])
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    x, y = one.negatives(labels)
    parts = []
    for rank, model in enumerate(two):
        model.set_noise([torch.Generator().manual_seed(5 + rank)])
        model.keep = lambda *_: None  # type: ignore[method-assign]
        parts.append(model.negatives(labels[3 * rank : 3 * rank + 3]))
    torch.testing.assert_close(torch.cat([p[0] for p in parts]), x, rtol=0, atol=1e-12)
    assert torch.equal(torch.cat([p[1] for p in parts]), y)
    assert int(one.oldest) == 6 and torch.equal(one.replay[6:], before[6:])
    assert torch.equal(one.replay[:6], one._kept(x)) and torch.equal(one.replay_labels[:6], y)


def test_buffer_holds_the_last_chains_and_is_not_published() -> None:
    model = tiny().train()
    model.set_noise([torch.Generator().manual_seed(0)])
    chains = [model.negatives(torch.zeros(5, dtype=torch.long))[0] for _ in range(4)]
    order = (torch.arange(12) + int(model.oldest)) % 12
    assert torch.equal(model.replay[order], torch.cat(chains)[-12:])
    bare = model.released()
    assert not [n for n in bare.state_dict() if "replay" in n or "oldest" in n] and bare.replay is None
    with pytest.raises(ConfigError, match="no buffer"):
        bare.sample(2, init="buffer")
    assert model.sample(4, seed=0, init="buffer").shape == (4, 2)


def test_joint_energy_is_a_classifier_and_draws_labels_by_it() -> None:
    model = tiny(num_classes=3)
    x = torch.randn(4, 2, dtype=torch.float64)
    E = torch.stack([model.energy(x, labels=c) for c in range(3)], 1)
    torch.testing.assert_close(model.classify(x), torch.softmax(-E / model.temperature, 1))
    T = model.temperature
    torch.testing.assert_close(model.energy(x), -T * torch.logsumexp(-E / T, 1))
    assert model.sample(3, labels=[0, 1, 2], seed=0).shape == (3, 2)
    with pytest.raises(ConfigError, match="classes"):
        tiny().classify(x)


def test_step_and_noise_fix_the_temperature() -> None:
    assert tiny().temperature == pytest.approx(1)
    cold = tiny(noise=0.01)
    assert cold.temperature == pytest.approx(0.01**2 / 0.1)
    x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(cold.energy(x).sum(), x)
    torch.testing.assert_close(cold.score(x), -slope / cold.temperature)


@pytest.mark.parametrize("sampler", ["mala", "hmc"])
def test_samples_are_of_the_law_of_the_energy(sampler: str) -> None:
    model = tiny(Spring(4.0), (1,), spread=1.0)
    x = model.sample(5_000, seed=0, sampler=sampler, steps=60, step_size=0.1)
    assert float(x.var()) == pytest.approx(1 / 5, rel=0.08)  # k + 1 / spread^2


def test_constant_of_an_energy_of_points_is_found() -> None:
    model = tiny(Spring(4.0), (1,), spread=1.0)
    found, error = model.log_normaliser(60, 500, seed=0)
    assert found == pytest.approx(math.log(math.sqrt(2 * math.pi / 5)), abs=4 * error) and 0 < error < 0.1


def test_annealed_log_density_is_an_estimate_of_the_true_one_at_temperature_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("zoo.families.ebm.ANNEALED", 30)
    model = tiny(Spring(4.0), (1,), spread=1.0)
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    exact = torch.distributions.Normal(0.0, 1 / math.sqrt(5)).log_prob(x[:, 0])
    found = model.log_prob(x, k=400, seed=0).detach()
    gap = found - exact
    assert float(gap.std()) < 1e-6 and abs(float(gap.mean())) < 0.15  # the constant alone is estimated
    assert torch.equal(found, model.log_prob(x, k=400, seed=0)) and not torch.equal(
        found, model.log_prob(x, k=400, seed=1)
    )
    monkeypatch.setattr("zoo.families.ebm.ANNEALED", 3)
    one = torch.stack([model.log_prob(x[:1], k=1, seed=s).detach()[0] for s in range(100)])
    assert float(one.mean()) > float(exact[0])  # too good on average, of no use as a bound
    assert model.likelihood(400) == "ais-400" and tiny(levels=256).likelihood(3) == "ais-3+dequant"
    for other in (tiny(None, (1,), noise=0.01), tiny(None, (1,), num_classes=3)):
        assert not other.has_likelihood
        with pytest.raises(ConfigError, match="temperature 1"):
            other.log_prob(x)


@pytest.mark.parametrize("sampler", ["langevin", "mala", "hmc"])
def test_cost_of_a_chain_is_how_often_it_asks_the_energy(sampler: str) -> None:
    model, seen = tiny(Spring(1.0), (1,)), []
    model.network.register_forward_hook(lambda *_: seen.append(1))
    model.sample(4, seed=0, sampler=sampler, steps=3)
    assert len(seen) - 1 <= model.calls({"sampler": sampler, "steps": 3}) <= len(seen)  # one more looks at the start
    assert model.calls({"steps": None, "sampler": None}) == model.calls({}) == model.calls_per_sample


@pytest.mark.parametrize("wrong", [{"buffer": 0}, {"restart": 1.5}, {"step_size": 0.0}, {"sampler": "gibbs"}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        tiny(**wrong)


# -- noise-contrastive estimation --------------------------------------------------------------------------------------


def contrasted(nu: int, noise_counts: bool = True) -> tuple[float, float]:
    """Return k and c that a spring learns from a Gaussian of variance 1 / 5 by Newton's method on many draws."""
    model = NoiseContrastive(Spring(1.0), [1], None, noise_ratio=nu, spread=1.0).double()
    if not noise_counts:
        model.log_noise = lambda x: x.new_zeros(len(x))  # type: ignore[method-assign]
    n = 60_000
    x = torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / math.sqrt(5)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        model.set_noise([torch.Generator().manual_seed(1)])
        loss = model.loss((x, torch.zeros(n, dtype=torch.long)))["loss"]
        loss.backward()
        return loss

    optimizer.step(closure)
    return model.network.k.item(), model.log_normaliser.item()


@pytest.mark.parametrize("nu", [1, 4])
def test_the_normaliser_of_a_gaussian_is_learnt_with_its_energy(nu: int) -> None:
    k, c = contrasted(nu)
    assert k == pytest.approx(4, abs=0.12)  # beside the noise's 1: a precision of 5
    assert c == pytest.approx(math.log(math.sqrt(2 * math.pi / 5)), abs=0.015)


def test_without_the_density_of_the_noise_another_law_is_learnt() -> None:
    """The look-alike: a classifier whose logit is -E - c alone learns p / q."""
    k, c = contrasted(1, noise_counts=False)
    assert abs(k - 4) > 0.5 and abs(c - math.log(math.sqrt(2 * math.pi / 5))) > 0.5


def test_truth_is_stationary_and_tells_as_well_as_can_be() -> None:
    model = NoiseContrastive(Spring(4.0), [1], None, noise_ratio=1, spread=1.0).double()
    model.log_normaliser.data.fill_(math.log(math.sqrt(2 * math.pi / 5)))
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    exact = torch.distributions.Normal(0.0, 1 / math.sqrt(5)).log_prob(x[:, 0])
    torch.testing.assert_close(model.log_prob(x), exact, rtol=0, atol=1e-6)
    torch.testing.assert_close(model.logit(x), exact - torch.distributions.Normal(0.0, 1.0).log_prob(x[:, 0]))
    n, g = 200_000, torch.Generator().manual_seed(2)
    model.set_noise([torch.Generator().manual_seed(3)])
    data = torch.randn(n, 1, generator=g, dtype=torch.float64) / math.sqrt(5)
    model.loss((data, torch.zeros(n, dtype=torch.long)))["loss"].backward()
    assert abs(float(model.network.k.grad)) < 2e-3 and abs(float(model.log_normaliser.grad)) < 5e-3
    assert model.likelihood() == "nce" and NoiseContrastive(Spring(1.0), [1]).likelihood() == "nce+dequant"
    drawn = model.sample(4_000, seed=0, sampler="hmc", steps=20, step_size=0.05)
    assert float(drawn.var()) == pytest.approx(1 / 5, rel=0.1)
    with pytest.raises(ConfigError, match="noise_ratio"):
        NoiseContrastive(Spring(1.0), [1], noise_ratio=0)


# -- what a diagnosis shows of energies --------------------------------------------------------------------------------


def test_landscape_in_the_plane_has_the_constant_and_the_moments_of_its_law() -> None:
    model = NoiseContrastive(Spring(4.0), [2], None, spread=1.0, steps=3).double()
    x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = landscape(model, x, 121)
    assert found.log_normaliser == pytest.approx(math.log(2 * math.pi / 5), abs=1e-4)
    assert found.summary()["variance"] == pytest.approx([0.2, 0.2], abs=1e-4)
    skewed = NoiseContrastive(MLP([2, 4, 1], "tanh"), [2], None).double()
    tilted = landscape(skewed, x, 31)
    i, j = 3, 20  # row y, column x
    at = torch.stack([tilted.axis[j], tilted.axis[i]])[None]
    torch.testing.assert_close(tilted.height[i, j], skewed.energy(at)[0].detach())
    picture = plot_landscape(found)
    assert picture.dtype.name == "uint8" and picture.shape[2] == 3 and picture.std() > 5


@pytest.mark.parametrize("sampler", ["mala", "hmc", "langevin"])
def test_chains_that_are_shown_are_those_that_sample(sampler: str) -> None:
    matching = EnergyMatching(MLP([2, 6, 1], "tanh"), [2], None, step_size=0.1)
    contrast = NoiseContrastive(MLP([2, 6, 1], "tanh"), [2], None, sampler=sampler, step_size=0.05, steps=20)
    for model in (tiny(sampler=sampler).float(), contrast, matching):
        states, steps = model.chains(5, 6, seed=3)
        assert states.shape == (len(steps), 5, 2) and steps[0] == 0 and bool((steps.diff() > 0).all())
        assert torch.equal(states[-1], model.sample(5, seed=3)) and not torch.equal(states[0], states[1])
        found = chains(model, torch.randn(40, 2))
        assert found.energy.shape == (len(found.steps), 40) and plot_chains(found).std() > 5
    told = tiny(num_classes=3).float()
    assert torch.equal(told.chains(3, 4, seed=0, labels=[2, 1, 0])[0][-1], told.sample(3, seed=0, labels=[2, 1, 0]))


# -- particles between a GAN's and Langevin's --------------------------------------------------------------------------


@pytest.mark.parametrize("mix", [0.0, 0.5, 1.0])
def test_marginals_do_not_depend_on_the_noise(mix: float) -> None:
    m, s, t, steps, n = 2.0, 0.5, 0.3, 300, 100_000
    mean = lambda t: m * (1 - math.exp(-t / s**2))  # noqa: E731
    var = lambda t: s**2 + (1 - s**2) * math.exp(-2 * t / s**2)  # noqa: E731
    randn, _ = noise(4)
    x = between(
        randn(n, 1), steps, t / steps, randn, mix, lambda x, t: -(x - m) / s**2,
        lambda x, t: -(x - m) / s**2 + (x - mean(t)) / var(t),
    )  # fmt: skip
    assert mean(t) == pytest.approx(1.398, abs=1e-3) and var(t) == pytest.approx(0.318, abs=1e-3)
    assert float(x.mean()) == pytest.approx(mean(t), abs=0.01) and float(x.var()) == pytest.approx(var(t), abs=0.008)


@pytest.mark.parametrize("look_alike", ["noise without its score", "slope of log D"])
def test_other_drifts_have_other_marginals(look_alike: str) -> None:
    """D without D grad log p beside it, and -grad log(1 - D) or grad log D in place of the slope of the logit."""
    m, s, t, steps, n = 2.0, 0.5, 0.3, 300, 20_000

    def parts(x: Tensor, time: Any) -> tuple[Tensor, Tensor]:
        mean = m * (1 - math.exp(-float(time) / s**2))
        var = s**2 + (1 - s**2) * math.exp(-2 * float(time) / s**2)
        logit = 0.5 * ((x - mean) ** 2 / var - (x - m) ** 2 / s**2) + 0.5 * math.log(var / s**2)
        return logit, -(x - m) / s**2 + (x - mean) / var

    def slope(x: Tensor, time: Any) -> Tensor:
        logit, own = parts(x, time)
        return own if look_alike.startswith("noise") else torch.sigmoid(-logit) * own

    randn, _ = noise(4)
    mix = 0.5 if look_alike.startswith("noise") else 0.0
    x = between(randn(n, 1), steps, t / steps, randn, mix, slope, slope)
    assert max(abs(float(x.mean()) - 1.398), abs(float(x.var()) - 0.318)) > 0.1


def test_full_mix_is_langevin_step_for_step_and_equal_laws_stand_still() -> None:
    randn, _ = noise(5)
    x, U = randn(50, 1), potential(well)
    ours = between(x, 7, 0.01, noise(6)[0], 1.0, lambda x, t: -U(x)[1])
    torch.testing.assert_close(ours, langevin(U, x, 7, 0.01, noise(6)[0]), rtol=0, atol=1e-12)
    assert torch.equal(between(x, 7, 0.01, randn, 0.0, None, lambda x, t: 0 * x), x)
    with pytest.raises(ConfigError, match="mix"):
        between(x, 1, 0.1, randn, 0.5, lambda x, t: -x)


@pytest.mark.parametrize("name", ["ebm-eight_gaussians", "nce-eight_gaussians"])
def test_a_protocol_names_the_sampler_of_the_chains(name: str) -> None:
    entry = load_registry()[name]
    own = entry.model["init_args"].get("sampler", "mala")
    assert entry.build_model().sampler({})["sampler"] == own and own in ("langevin", "mala", "hmc")
    assert entry.build_model().sampler({"sampler": "hmc"})["sampler"] == "hmc"


def test_a_buffer_is_no_larger_than_a_model_is_loaded_with() -> None:
    entry = load_registry()["ebm-mnist"]
    with pytest.raises(ConfigError, match=r"set --model.buffer to 42799 at most"):
        entry.build_model(buffer=42_800)
    assert len(entry.build_model(buffer=100).replay) == 100


@pytest.mark.parametrize("name", ["mmd_generator-eight_gaussians", "s_jko_mmd-eight_gaussians"])
def test_an_unbiased_discrepancy_takes_two_examples(name: str) -> None:
    model = load_registry()[name].build_model()
    with pytest.raises(ConfigError, match="two examples at least"):
        model.loss((torch.randn(1, 2), torch.zeros(1, dtype=torch.long)))
    assert torch.isfinite(model.loss((torch.randn(2, 2), torch.zeros(2, dtype=torch.long)))["loss"])
