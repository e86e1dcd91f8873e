"""Diffusion models: bounds, densities, samplers, pairs, completion, and the compute of their training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from closed_forms import regression, told
from test_discrete import _decoder, _encoder
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError
from zoo.families.consistency import Consistency
from zoo.families.ddpm import DDPM, _edges, discretized_gaussian
from zoo.families.denoising import Denoise
from zoo.families.diffusion import SAMPLERS
from zoo.families.latent_diffusion import AutoencoderKL, LatentDiffusion
from zoo.families.score_sde import ScoreSDE
from zoo.maths.conversions import prediction_of
from zoo.maths.schedules import EDM, VE, VP, Linear, Schedule, SubVP, posterior, transition
from zoo.nets.resnet import ResidualDecoder, ResidualEncoder
from zoo.nets.timed_mlp import TimedMLP
from zoo.nets.unet import UNet

SHAPE = (1, 4, 4)


def autoencoder_kl(args: Mapping[str, Any]) -> float:
    pixels, places = math.prod(args["shape"][1:]), math.prod(args["grid"][1:])
    E, D = _encoder(args["encoder"], pixels), _decoder(args["decoder"], places)
    return 2.0 * (3 * sum(E + D) - E[0])


def latent_diffusion(args: Mapping[str, Any]) -> float:
    """The encoder forward, and the prior's training step."""
    inner = args["autoencoder"]["init_args"]
    pixels = math.prod(inner["shape"][1:])
    return 2.0 * sum(_encoder(inner["encoder"], pixels)) + regression(args["prior"]["init_args"])


def consistency(args: Mapping[str, Any]) -> float:
    """The network's training step, the copy that follows it, and two evaluations of the teacher, four if guided."""
    total, _ = told(args["network"], args["shape"][-1])
    teacher = args["teacher"]["init_args"] if args["teacher"] else None
    return regression(args) + 2.0 * total * (1 + (0 if teacher is None else 2 if teacher["guidance_scale"] == 1 else 4))


STEP_FLOPS = {
    "DDPM": regression, "ScoreSDE": regression, "AutoencoderKL": autoencoder_kl, "LatentDiffusion": latent_diffusion,
    "Consistency": consistency,
}  # fmt: skip


def net(**more: Any) -> UNet:
    return UNet(1, [8, 8], embedding=8, **more)


def stirred(model: nn.Module, seed: int = 0) -> Any:
    """Give every tensor some noise, so that no output is zero because of its initialisation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return model


def images(n: int, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randint(256, (n, *shape), generator=torch.Generator().manual_seed(seed)) / 255


class Known(nn.Module):
    """The prediction that is right for data N(mean, std^2), whatever is asked for."""

    def __init__(self, schedule: Schedule, kind: str, mean: float = 0.2, std: float = 0.4) -> None:
        super().__init__()
        self.schedule, self.kind, self.mean, self.std = schedule, kind, mean, std
        self.scale = 1.0  # of the input, undone

    def forward(self, x: Tensor, log_snr: Tensor, labels: Tensor | None = None) -> Tensor:
        from zoo.maths.conversions import input_scale

        level = log_snr.view(-1, *[1] * (x.ndim - 1))
        alpha, sigma = self.schedule.coefficients(level)
        x = x / input_scale(self.kind, alpha, sigma)
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        return prediction_of(self.kind, x, self.mean + gain * (x - alpha * self.mean), alpha, sigma)


MODELS = {
    "ddpm": lambda **more: DDPM(net(**more), SHAPE, table=20, num_classes=more.get("num_classes", 0)),
    "score_sde": lambda **more: ScoreSDE(net(**more), SHAPE, num_classes=more.get("num_classes", 0)),
    "consistency": lambda **more: Consistency(net(**more), SHAPE, num_classes=more.get("num_classes", 0)),
    "latent_diffusion": lambda **more: LatentDiffusion(
        _autoencoder(), DDPM(net(**more), SHAPE, levels=None, table=20, num_classes=more.get("num_classes", 0))
    ),
}
TAKES = {
    "ddpm": {"ancestral", "ddim", "heun", "dpm_solver", "ode"},
    "score_sde": {"euler_maruyama", "predictor_corrector", "ddim", "heun", "dpm_solver", "ode"},
    "consistency": {"consistency"},
    "latent_diffusion": {"ancestral", "ddim", "heun", "dpm_solver", "ode"},
}


def _autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        ResidualEncoder(1, [4], out=2, blocks=1), ResidualDecoder(1, [4], channels=1, blocks=1), [1, 8, 8], [*SHAPE]
    )


# -- samplers and models -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", MODELS)
def test_each_sampler_works_with_the_models_of_the_table(name: str, sampler: str) -> None:
    model = stirred(MODELS[name]())
    if sampler not in TAKES[name]:
        inner = "DDPM" if name == "latent_diffusion" else type(model).__name__
        with pytest.raises(ConfigError, match=f"the sampler {sampler} does not work with {inner}; it takes"):
            model.sample(2, sampler=sampler)
        return
    network = (model.prior if name == "latent_diffusion" else model).network
    calls = 0

    def count(*args: Any) -> None:
        nonlocal calls
        calls += 1

    network.register_forward_hook(count)
    for options in ({"sampler": sampler, "steps": 4}, {"sampler": sampler}, {}):
        calls = 0
        x = model.sample(2, seed=0, **options)
        assert x.shape == (2, *model.shape) and x.isfinite().all() and x.min() >= 0 and x.max() <= 1
        assert calls + (name == "latent_diffusion") == model.calls(options)
        assert model.sampler(options)["sampler"] == options.get("sampler", model.sampler({})["sampler"])
    assert model.calls({}) == model.calls_per_sample


def test_unknown_samplers_and_options_are_refused_in_one_sentence() -> None:
    model = MODELS["ddpm"]()
    with pytest.raises(ConfigError, match=r"unknown sampler 'ddin'\. Did you mean 'ddim'"):
        model.sample(1, sampler="ddin")
    with pytest.raises(ConfigError, match="eta is an option of the sampler ddim"):
        model.sample(1, eta=1.0)
    for options, sentence in (
        ({"sampler": "ancestral", "solver": "euler"}, "solver is an option of the sampler ode, not of ancestral"),
        ({"sampler": "ddim", "snr": 0.1}, "snr is an option of the sampler predictor_corrector, not of ddim"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            model.sample(1, **options)
    with pytest.raises(ConfigError, match="spacing is an option of other samplers, not of euler_maruyama"):
        MODELS["score_sde"]().sample(1, sampler="euler_maruyama", spacing="rho")
    with pytest.raises(ConfigError, match="conditional"):
        model.sample(1, guidance_scale=2.0)
    with pytest.raises(ConfigError, match="steps must be a positive integer"):
        model.sample(1, steps=0)
    with pytest.raises(ConfigError, match="score_sde"):
        DDPM(net(), SHAPE, schedule=VE())
    with pytest.raises(ConfigError, match="EDM or VE"):
        Consistency(net(), SHAPE, schedule=VP())
    with pytest.raises(ConfigError, match="unknown prediction 'velocity'"):
        DDPM(net(), SHAPE, predict="velocity")


@pytest.mark.parametrize("name", MODELS)
def test_guided_steps_are_two_calls_and_labels_matter(name: str) -> None:
    model = stirred(MODELS[name](num_classes=3))
    calls = model.calls({"guidance_scale": 1.0}) - (name == "latent_diffusion")
    assert model.calls({"guidance_scale": 3.0}) - (name == "latent_diffusion") == 2 * calls
    plain = model.sample(2, seed=0, labels=1)
    assert torch.equal(plain, model.sample(2, seed=0, labels=1, guidance_scale=1.0))
    assert not torch.equal(plain, model.sample(2, seed=0, labels=2))
    (model.prior if name == "latent_diffusion" else model).guidance_scale = 3.0
    assert torch.equal(model.sample(2, seed=0, labels=1), model.sample(2, seed=0, labels=1, guidance_scale=3.0))
    assert model.calls_per_sample == model.calls({"guidance_scale": 3.0}) and model.sampler({})["guidance_scale"] == 3.0
    null = [model.sample(2, seed=0, labels=y, guidance_scale=0.0) for y in (0, 2)]
    assert torch.equal(*null)


def test_training_replaces_some_labels_by_the_null_label() -> None:
    model = MODELS["ddpm"](num_classes=3)
    model.set_noise([torch.Generator().manual_seed(0)])
    y = model.dropped(torch.zeros(1000, dtype=torch.long))
    assert set(y.tolist()) == {0, 3} and 60 < int((y == 3).sum()) < 140
    with pytest.raises(DataError, match="num_classes"):
        model.loss((images(2), torch.tensor([0, 3])))


def test_training_levels_are_spread_evenly() -> None:
    model = DDPM(net(), SHAPE, table=1000)
    model.set_noise([torch.Generator().manual_seed(0)])
    steps = torch.searchsorted(-model.log_snrs, -model.training_levels(model.even(50)).double() - 1e-4)
    assert ((steps // 20) == torch.arange(50)).all()  # one in each fiftieth of the chain
    assert int(DDPM(net(), SHAPE, table=7).training_levels(torch.tensor([0.9999999])).argmax()) == 0


# -- the chain and its bound -------------------------------------------------------------------------------------------


def test_discretized_gaussian_sums_to_one() -> None:
    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for mean, std in ((0.1, 0.002), (-0.99, 0.05), (1.3, 0.1), (0.0, 3.0)):
        log = discretized_gaussian(levels, torch.tensor(mean), torch.tensor(math.log(std)).double(), 256)
        assert float(log.exp().sum()) == pytest.approx(1, abs=1e-9) and log.isfinite().all()


def points(variance: str = "large", table: int = 12, **more: Any) -> DDPM:
    """A model of single values of four levels."""
    out = 2 if variance == "learned" else 1
    network = stirred(TimedMLP(1, 8, 1, out_features=out))
    return DDPM(network, [1], table=table, variance=variance, levels=4, **more).double()


@pytest.mark.parametrize("variance", ["small", "large", "learned"])
def test_bound_is_one_of_probabilities(variance: str) -> None:
    """Exponentials of the bounds of all possible values sum to less than 1: each is at most its probability."""
    model, x = points(variance), torch.arange(4, dtype=torch.float64)[:, None] / 3
    bounds = -model.vlb(x.repeat(300, 1), strata=None, seed=0).view(300, 4).mean(0)
    assert 0.2 < float(bounds.exp().sum()) < 1


def test_strata_estimate_the_full_sum_without_bias() -> None:
    model, x = points(table=200), torch.full((3000, 1), 1 / 3, dtype=torch.float64)
    full, few = model.vlb(x, strata=None, seed=0), model.vlb(x, strata=16, seed=1)
    error = math.sqrt(float(full.var() + few.var()) / len(x))
    assert abs(float(full.mean() - few.mean())) < 3 * error
    assert float(few.var()) > float(full.var())
    assert torch.equal(model.log_prob(x[:4], seed=5), model.log_prob(x[:4], seed=5))
    with pytest.raises(ConfigError, match="strata"):
        model.vlb(x, strata=0)


@pytest.mark.parametrize(("table", "strata"), [(1000, 16), (200, 16), (20, 16), (10, 16), (1000, None)])
def test_strata_cover_all_steps_and_are_short_where_terms_are_large(table: int, strata: int | None) -> None:
    edges = _edges(table, strata)
    assert edges[0] == 2 and edges[-1] == table + 1 and len(edges) <= (strata or table) + 1
    assert all(low < high <= max(low + 1, 1.6 * low) for low, high in pairwise(edges))


def test_terms_of_the_bound_are_divergences_of_gaussians() -> None:
    model, x_0, value = points("small"), torch.tensor([[0.3]]).double(), torch.tensor([[0.1]]).double()
    for variance in ("small", "large"):
        model.variance = variance
        later, earlier = model.log_snrs[6], model.log_snrs[5]
        mean_q, var_q = posterior(model.schedule, torch.zeros(1), x_0, later, earlier)
        mean_p = posterior(model.schedule, torch.zeros(1), value, later, earlier)[0]
        var_p = var_q if variance == "small" else transition(model.schedule, later, earlier)[1]
        q, p = (torch.distributions.Normal(m, v.sqrt()) for m, v in ((mean_q, var_q), (mean_p, var_p)))
        found = model.bound_terms(x_0, value, x_0[:, :0], torch.tensor([7]))
        torch.testing.assert_close(found, torch.distributions.kl_divergence(q, p)[0], rtol=1e-9, atol=0)
    alpha, sigma = model.schedule.coefficients(model.log_snrs[-1])
    q = torch.distributions.Normal(alpha * x_0, sigma)
    exact = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0))[0]
    torch.testing.assert_close(model.prior_term(x_0), exact, rtol=1e-6, atol=1e-12)


def test_ancestral_steps_have_mean_and_variance_of_the_posterior() -> None:
    schedule = Linear()
    x, later, earlier = (
        torch.full((1, 2), 0.7).double(),
        schedule.log_snr(torch.tensor(0.5).double()),
        torch.tensor(0.0),
    )
    earlier = schedule.log_snr(torch.tensor(0.4).double())
    for variance in ("small", "large"):
        model = DDPM(Known(schedule, "eps"), [2], schedule, predict="eps", variance=variance, levels=None).double()
        denoise = Denoise(model, None, 1.0, False, None)
        mean, std = model.reverse(denoise)(x, later, earlier)
        exact, small = posterior(schedule, x, denoise(x, later), later, earlier)
        torch.testing.assert_close(mean, exact)
        expected = small if variance == "small" else transition(schedule, later, earlier)[1]
        torch.testing.assert_close(std**2, expected)


def test_learned_variance_lies_between_and_leaves_the_mean_alone() -> None:
    model = points("learned", num_classes=0)
    later, earlier = model.log_snrs[8], model.log_snrs[7]
    ends = [model.log_variance(torch.tensor([[v]]).double(), later, earlier) for v in (-1.0, 1.0)]
    small = posterior(model.schedule, torch.zeros(1), torch.zeros(1), later, earlier)[1]
    torch.testing.assert_close(ends[0][0, 0], small.log())
    torch.testing.assert_close(ends[1][0, 0], transition(model.schedule, later, earlier)[1].log())
    model.set_noise([torch.Generator().manual_seed(0)])
    terms = model.loss((torch.full((64, 1), 1 / 3).double(), torch.zeros(64, dtype=torch.long)))
    (terms["loss"] - terms["mse"]).backward()
    gradient = model.network.out.weight.grad
    assert not gradient[0].any() and gradient[1].any()


def test_continuous_data_have_no_bound() -> None:
    model = DDPM(TimedMLP(2, 8, 1), [2], levels=None)
    assert not model.has_likelihood
    with pytest.raises(ConfigError, match="levels"):
        model.log_prob(torch.zeros(1, 2))


# -- the density of the probability flow -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vp", "sub_vp", "ve", "edm"])
def test_density_of_the_flow_is_that_of_a_gaussian(name: str) -> None:
    schedule = {"vp": VP(), "sub_vp": SubVP(), "ve": VE(), "edm": EDM(0.01, 400.0)}[name]
    kind = "edm" if name == "edm" else "v"
    model = ScoreSDE(Known(schedule, kind), [2], schedule, predict=kind, levels=None).double()
    x = torch.tensor([[0.1, -0.3], [0.9, 0.4]]).double()
    alpha, sigma = schedule.coefficients(schedule.grid(2)[-1])
    exact = torch.distributions.Normal(alpha * 0.2, torch.sqrt(alpha**2 * 0.16 + sigma**2)).log_prob(x).sum(1)
    fine = model.log_density(x, steps=60)
    torch.testing.assert_close(fine, exact, rtol=0, atol=0.02)
    errors = [(model.log_density(x, steps=n) - fine).abs().max() for n in (10, 20)]
    assert errors[1] < errors[0] / 8  # order 4


def test_density_of_levels_is_that_of_their_intervals() -> None:
    model = ScoreSDE(Known(VP(), "v"), SHAPE, likelihood_steps=20)
    x = images(300)
    found = model.log_prob(x, seed=0)
    y = 2 * (x * 255 + 0.5) / 256 - 1
    alpha, sigma = model.schedule.coefficients(model.schedule.grid(2)[-1])
    normal = torch.distributions.Normal(float(alpha * 0.2), float(torch.sqrt(alpha**2 * 0.16 + sigma**2)))
    exact = (normal.log_prob(y) + math.log(2 / 256)).flatten(1).sum(1)
    assert float((found - exact).mean()) == pytest.approx(0, abs=0.1) and model.likelihood() == "ode+dequant"


# -- consistency -------------------------------------------------------------------------------------------------------


def _levels(schedule: Schedule, n: int, i: int) -> tuple[Tensor, Tensor]:
    grid = schedule.grid(n, "rho")
    return grid[i].view(1, 1), grid[i + 1].view(1, 1)


def test_consistency_function_is_the_identity_at_the_earliest_time() -> None:
    model = stirred(MODELS["consistency"]())
    x, last = torch.randn(3, *SHAPE), model.log_snrs[-1].float()
    assert torch.equal(Denoise(model, None, 1.0, False, None)(x, last), x)
    assert not torch.equal(Denoise(model, None, 1.0, False, None)(x, model.log_snrs[-2].float()), x)


def _shares_one_noise(model: Consistency) -> None:
    """Both points of a pair are the data plus the same z, as all points of the trajectories of a data point are."""
    torch.manual_seed(0)
    x_0, z = torch.randn(2, 5, 2, dtype=torch.float64)
    later, earlier = _levels(model.schedule, 10, 3)
    x_a, x_b = model.pair(x_0, z, later, earlier)
    q_a, q_b = torch.exp(-0.5 * later), torch.exp(-0.5 * earlier)
    torch.testing.assert_close((x_a - x_0) / q_a, z)
    torch.testing.assert_close((x_b - x_0) / q_b, z)


def test_pairs_share_one_noise_and_two_noises_are_noticed() -> None:
    class TwoNoises(Consistency):
        def pair(self, x_0: Tensor, noise: Tensor, later: Tensor, earlier: Tensor, labels: Any = None) -> Any:
            x_b = super().pair(x_0, torch.randn_like(noise), later, earlier, labels)[1]
            return super().pair(x_0, noise, later, earlier, labels)[0], x_b

    _shares_one_noise(Consistency(TimedMLP(2, 8, 1), [2], levels=None).double())
    with pytest.raises(AssertionError):
        _shares_one_noise(TwoNoises(TimedMLP(2, 8, 1), [2], levels=None).double())


def test_pair_of_a_teacher_lies_on_the_trajectory() -> None:
    """For one data point the trajectory is straight, and Heun's step is exact; for a Gaussian its error is of order 3
    a step."""
    schedule = EDM()
    teacher = ScoreSDE(Known(schedule, "edm", 0.2, 1e-9), [2], schedule, predict="edm", levels=None).double()
    model = Consistency(TimedMLP(2, 8, 1), [2], teacher=teacher, levels=None).double()
    x_0, z = torch.full((1, 2), 0.2).double(), torch.tensor([[0.5, -1.0]]).double()
    later, earlier = _levels(schedule, 10, 3)
    _, x_b = model.pair(x_0, z, later, earlier)
    torch.testing.assert_close(x_b, x_0 + torch.exp(-0.5 * earlier) * z, rtol=1e-9, atol=1e-9)
    model.teacher = ScoreSDE(Known(schedule, "edm"), [2], schedule, predict="edm", levels=None).double()
    errors = []
    for h in (0.4, 0.2, 0.1, 0.05):
        q_a, q_b = 1.0, 1.0 - h
        later, earlier = (torch.tensor([[-2 * math.log(q)]]).double() for q in (q_a, q_b))
        x_a, x_b = model.pair(x_0, z, later, earlier)
        exact = 0.2 + math.sqrt((0.16 + q_b**2) / (0.16 + q_a**2)) * (x_a - 0.2)
        errors.append(float((x_b - exact).abs().max()))
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert orders[-1] == pytest.approx(3, abs=0.2)


def test_copy_follows_the_network_and_student_starts_as_teacher() -> None:
    teacher = stirred(ScoreSDE(net(), SHAPE, EDM(), predict="edm"))
    model = Consistency(net(), SHAPE, teacher=teacher, decay=0.75)
    model.adopt()
    for one, other in zip(model.network.parameters(), teacher.network.parameters(), strict=True):
        assert torch.equal(one, other)
    before = [p.clone() for p in model.target.parameters()]
    stirred(model.network, 1)
    model.follow()
    for p, old, new in zip(model.target.parameters(), before, model.network.parameters(), strict=True):
        torch.testing.assert_close(p, 0.75 * old + 0.25 * new)
    model.loss((images(4), torch.zeros(4, dtype=torch.long)))["loss"].backward()
    assert all(p.grad is None for p in [*model.target.parameters(), *teacher.parameters()])
    bare = model.released()
    assert bare.teacher is None and torch.equal(bare.sample(2, seed=0), model.sample(2, seed=0))


# -- what people do with it --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ddpm", "score_sde", "consistency"])
def test_known_pixels_stay(name: str) -> None:
    model, x = stirred(MODELS[name]()), images(1)[0]
    for sampler in sorted(TAKES[name]):
        drawn = model.sample(3, seed=0, sampler=sampler, steps=3, given=x, known=2)
        assert (drawn[:, :, :2] - x[:, :2]).abs().max() < 1e-5
        assert not torch.equal(drawn[0, :, 2:], drawn[1, :, 2:])
    holes = x.clone()
    holes[0, 1, 1] = math.nan
    drawn = model.sample(2, seed=0, steps=3, given=holes)
    assert ((drawn - x).abs() > 1e-5).sum() <= 2
    for wrong, said in (({"given": x}, "takes both given and known"), ({"known": 2}, "takes both given and known"),
                        ({"given": x, "known": 9}, "between 0 and 4 rows")):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            model.sample(1, **wrong)


@pytest.mark.parametrize("name", ["ddpm", "score_sde"])
def test_images_become_noise_and_come_back(name: str) -> None:
    schedule = VP()
    make = DDPM if name == "ddpm" else ScoreSDE
    model = make(Known(schedule, "v"), SHAPE, schedule)
    x = images(4).clamp(0.3, 0.9)
    errors = [(model.decode(model.encode(x, steps=n), steps=n) - x).abs().max() for n in (10, 40, 160)]
    assert errors[2] < errors[1] < errors[0]
    a, b = torch.randn(2, 3, 500, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.between(a, b, torch.tensor(0.0)), a, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.between(a, b, torch.tensor(1.0)), b, rtol=1e-4, atol=1e-5)
    middle = model.between(a, b, torch.tensor(0.5))
    assert float(middle.norm(dim=1).mean()) == pytest.approx(math.sqrt(500), rel=0.05)


@pytest.mark.parametrize("name", MODELS)
def test_strip_shows_states_and_what_is_seen_in_them(name: str) -> None:
    model = stirred(MODELS[name]())
    states, seen = model.denoising(2, frames=4)
    assert states.shape == seen.shape == (4, 2, *model.shape)
    assert all(t.min() >= 0 and t.max() <= 1 for t in (states, seen))
    assert torch.equal(model.denoising(2, frames=4)[1], seen) and not torch.equal(seen[0], seen[-1])


def test_score_is_the_gradient_of_the_density() -> None:
    for schedule in (VP(), VE()):
        model = ScoreSDE(Known(schedule, "v"), [2], schedule, levels=None).double()
        x, level = torch.tensor([[0.3, -0.4]]).double(), torch.tensor(0.5).double()
        alpha, sigma = schedule.coefficients(level)
        torch.testing.assert_close(model.score(x, level), -(x - alpha * 0.2) / (alpha**2 * 0.16 + sigma**2))


# -- latents -----------------------------------------------------------------------------------------------------------


def test_latents_are_maps_of_unit_variance_and_only_the_prior_learns() -> None:
    model = MODELS["latent_diffusion"]()

    class Data:
        def split(self, name: str) -> tuple[Tensor, None]:
            return images(50, shape=(1, 8, 8)), None

        def to_float(self, x: Tensor, dtype: torch.dtype) -> Tensor:
            return x.to(dtype)

    class FakeTrainer:
        datamodule = Data()

    model._trainer = FakeTrainer()
    model.setup("fit")
    model._trainer = None
    x = images(50, shape=(1, 8, 8))
    z = model.encode(x)
    assert z.shape == (50, *SHAPE) and float(z.std()) == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(model.decode(z), model.autoencoder.decode(model.autoencoder.encode(x)[0]))
    model.set_noise([torch.Generator().manual_seed(0)])
    terms = model.loss((x[:8], torch.zeros(8, dtype=torch.long)))
    terms["loss"].backward()
    assert all(p.grad is None for p in model.autoencoder.parameters()) and set(terms) == {"loss", "mse"}
    assert {id(p) for p in model.players()["model"].parameters} == {id(p) for p in model.prior.parameters()}
    assert "scale" in model.state_dict()
    with pytest.raises(ConfigError, match="latents"):
        LatentDiffusion(_autoencoder(), DDPM(net(), (1, 8, 8), levels=None))


def test_training_on_two_points_finds_them() -> None:
    """A small network, a few hundred steps: samples fall on the two values that the data have."""
    torch.manual_seed(0)
    model = DDPM(TimedMLP(1, 32, 2), [1], levels=None, lr=3e-3, steps=30)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(250):
        x = torch.where(torch.rand(128, 1) < 0.25, -0.8, 0.6)
        loss = model.loss((x, torch.zeros(128, dtype=torch.long)))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = model.sample(400, seed=0)
    near = torch.minimum((x + 0.8).abs(), (x - 0.6).abs())
    assert (near < 0.15).float().mean() > 0.85 and 0.12 < (x < 0).float().mean() < 0.42


def test_table_of_the_documentation_is_the_one_that_holds() -> None:
    text = (Path(__file__).parents[1] / "docs" / "samplers.md").read_text(encoding="utf-8")
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    names = rows[0][3:]
    written = {name: {row[0] for row in rows[2:] if row[3 + i] == "yes"} for i, name in enumerate(names)}
    assert written == TAKES and {row[0] for row in rows[2:]} == set(SAMPLERS)
