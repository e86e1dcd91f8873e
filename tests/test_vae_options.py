"""Laws of what may be added to a VAE: schedules and free bits of the KL, a fixed posterior scale, other likelihoods."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from zoo.errors import ConfigError, DataError
from zoo.families.vae import VAE
from zoo.maths.annealing import SCHEDULES, annealed, check_schedule, cyclical, linear, sigmoid
from zoo.maths.distributions import Categorical, gaussian_kl
from zoo.nets.conv import DownsamplingNet, UpsamplingNet
from zoo.nets.mlp import MLP
from zoo.spec import build

pytestmark = pytest.mark.usefixtures("double_precision")


def dense(out: int = 2, latents: int = 2, **options: object) -> VAE:
    return VAE(MLP([16, 12, latents * 3], "silu"), MLP([3, 12, 16 * out], "silu"), [1, 4, 4], 3, **options)


def convolutional(out: int = 2, latents: int = 2, **options: object) -> VAE:
    encoder = DownsamplingNet([3, 4], [1, 4, 4], out=3 * latents, activation="silu")
    return VAE(encoder, UpsamplingNet(3, [6, 4], [out, 4, 4], activation="silu"), [1, 4, 4], 3, **options)


BACKBONES = pytest.mark.parametrize("make", [dense, convolutional])


def terms(model: VAE, x: torch.Tensor, seed: int = 5) -> dict[str, torch.Tensor]:
    model.set_noise([torch.Generator().manual_seed(seed)])
    return model.loss((x, None))


def grey(n: int = 6) -> torch.Tensor:
    return torch.rand(n, 1, 4, 4).mul(255).round() / 255


# -- schedules ---------------------------------------------------------------------------------------------------------


def test_schedules_take_the_values_of_their_formulas():
    assert [linear(t, 8) for t in (0, 2, 8, 9)] == [0, 0.25, 1, 1]
    assert sigmoid(50, 100) == 0.5
    for t in (0, 13, 100, 250):
        assert sigmoid(t, 100) == pytest.approx(1 / (1 + math.exp(-0.1 * (t - 50))))  # sigma(k (t - t_0))
    # four cycles of 10 steps: 5 steps up, 5 steps at 1, and 1 for good after the last
    assert [cyclical(t, 40) for t in range(12)] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 0, 0.2])
    assert [cyclical(t, 40) for t in (39, 40, 41, 10**9)] == [1, 1, 1, 1]
    assert [cyclical(t, 12, cycles=1, ramp=1.0) for t in range(13)] == [linear(t, 12) for t in range(13)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_are_weights_that_end_at_one(schedule: str):
    w = [annealed(t, schedule, 60, cycles=3) for t in range(200)]
    assert all(0 <= v <= 1 for v in w) and w[-1] == pytest.approx(1, abs=1e-6)
    falls = sum(b < a for a, b in pairwise(w))
    assert falls == (2 if schedule == "cyclical" else 0)
    assert w == [annealed(t, schedule, 60, cycles=3) for t in range(200)]


def test_schedules_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="Did you mean 'sigmoid'"):
        check_schedule("sigmoidal", 10)
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        dense(likelihood="discretized_logistic", kl_schedule="linear")
    with pytest.raises(ConfigError, match="cycle"):
        check_schedule("cyclical", 10, 0)
    check_schedule("constant", 0)


@BACKBONES
def test_weight_of_the_kl_follows_the_completed_steps_and_the_bound_does_not(make):
    model = make(likelihood="discretized_logistic", beta=2.0, kl_schedule="linear", kl_steps=10)
    x = grey()
    for done in (0, 3, 10, 50):
        model.steps_done = done
        found = terms(model, x)
        weight = min(1, done / 10)
        assert found["kl_weight"] == pytest.approx(weight)
        assert torch.allclose(found["loss"], found["reconstruction"] + 2 * weight * found["kl"])
        assert torch.allclose(found["elbo"], -found["reconstruction"] - found["kl"])


@BACKBONES
def test_finished_schedule_with_beta_one_is_the_vae_to_the_bit(make):
    plain = make(likelihood="discretized_logistic")
    x = grey()
    assert "kl_weight" not in terms(plain, x)
    for options in (
        {"beta": 1.0},
        {"kl_schedule": "linear", "kl_steps": 4},
        {"kl_schedule": "cyclical", "kl_steps": 4},
    ):
        other = make(likelihood="discretized_logistic", **options)
        other.load_state_dict(plain.state_dict())
        other.steps_done = 4
        ours, theirs = terms(plain, x), terms(other, x)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        gradients = [torch.autograd.grad(t["loss"], m.parameters()) for m, t in ((plain, ours), (other, theirs))]
        assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


# -- free bits ---------------------------------------------------------------------------------------------------------


def test_free_bits_clamp_the_batch_mean_of_each_dimension_and_not_each_example():
    """Examples of KL 0 and 2 lambda in one dimension have the mean lambda: nothing to clamp there."""
    model = VAE(MLP([2, 4]), MLP([2, 2]), [2], 2, likelihood="gaussian", scale="shared", free_bits=0.5)
    with torch.no_grad():  # mean of dimension 0 is x_0, that of dimension 1 is 0.1; all variances are 1
        layer = model.encoder.layers[0]
        layer.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))
        layer.bias.copy_(torch.tensor([0.0, 0.1, 0.0, 0.0]))
    x = torch.tensor([[0.0, 1.0], [math.sqrt(2), 1.0]])  # KL of dimension 0: 0 and 1, mean 0.5; of dimension 1: 0.005
    found = terms(model, x)
    assert torch.allclose(found["kl"], torch.tensor(0.505))
    assert torch.allclose(found["loss"] - found["reconstruction"], torch.tensor(1.0))  # an example alone: 0.5 and 1.0
    assert torch.allclose(found["elbo"], -found["reconstruction"] - 0.505)
    model.free_bits = 0.4
    assert torch.allclose((f := terms(model, x))["loss"] - f["reconstruction"], torch.tensor(0.9))


@BACKBONES
def test_dimensions_below_their_free_bits_feel_no_pull_of_the_kl(make):
    model = make(likelihood="discretized_logistic", free_bits=50.0)  # far above any KL here
    x = grey()
    found = terms(model, x)
    assert torch.allclose(found["loss"], found["reconstruction"] + 3 * 50)
    pulled = torch.autograd.grad(found["loss"], model.encoder.parameters(), retain_graph=True)
    alone = torch.autograd.grad(found["reconstruction"], model.encoder.parameters())
    assert all(torch.allclose(a, b) for a, b in zip(pulled, alone, strict=True))
    model.free_bits = 1e-9  # below any: the ordinary objective
    found = terms(model, x)
    assert torch.allclose(found["loss"], -found["elbo"])


# -- a posterior of fixed scale ----------------------------------------------------------------------------------------


@BACKBONES
def test_posterior_scale_is_a_constant_and_only_the_mean_is_learned(make):
    model = build(make(likelihood="discretized_logistic", latents=1, posterior_scale=0.3).spec).double()
    x = grey()
    mean, log_var = model.encode(x)
    assert mean.shape == log_var.shape == (6, 3)
    assert torch.allclose(log_var.exp().sqrt(), torch.full((6, 3), 0.3))
    kl = kl_divergence(Normal(mean, 0.3), Normal(0.0, 1.0)).sum(1).mean()
    assert torch.allclose(terms(model, x)["kl"], kl)
    assert torch.allclose(gaussian_kl(mean, log_var).sum(1).mean(), kl)
    elbo, iwae = (model.log_prob(x.repeat(300, 1, 1, 1), k=k, seed=k).mean() for k in (1, 6))
    assert elbo < iwae
    assert model.sample(2, seed=0).shape == (2, 1, 4, 4)


def test_encoders_of_the_wrong_width_and_numbers_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="must give 3 numbers an example, it gives 6"):
        dense(likelihood="discretized_logistic", posterior_scale=0.3).encode(grey())
    with pytest.raises(ConfigError, match="must give 6 numbers an example, it gives 3"):
        dense(likelihood="discretized_logistic", latents=1).encode(grey())
    for wrong in ({"posterior_scale": 0.0}, {"free_bits": -1.0}, {"beta": -1.0}, {"beta": math.nan}):
        with pytest.raises(ConfigError, match="must be"):
            dense(likelihood="discretized_logistic", **wrong)


# -- other likelihoods -------------------------------------------------------------------------------------------------


def test_categorical_sums_to_one_and_its_mean_is_that_of_samples():
    p = Categorical(torch.randn(3, 5))
    levels = torch.linspace(0, 1, 5)
    log_p = torch.stack([p.log_prob(torch.full((3,), float(v))) for v in levels], -1)
    assert torch.allclose(log_p.exp().sum(-1), torch.ones(3))
    assert torch.allclose(log_p, p.logits.log_softmax(-1))
    assert torch.allclose(p.mean, log_p.exp() @ levels)
    many = Categorical(p.logits.expand(20_000, 3, 5)).sample(torch.Generator().manual_seed(1))
    assert set(many.unique().tolist()) <= set(levels.tolist())
    shares = torch.stack([(many == v).double().mean(0) for v in levels], -1)
    assert ((shares - log_p.exp()).abs() < 4 * 0.5 / math.sqrt(20_000)).all()


@BACKBONES
def test_categorical_decoder_gives_probabilities_of_grey_levels(make):
    model = make(out=4, likelihood="categorical", levels=4)
    x = torch.rand(4, 1, 4, 4).mul(3).round() / 3
    assert model.likelihood(3) == "iwae-3" and model.log_prob(x, k=3, seed=0).shape == (4,)
    model.accepts((1, 4, 4), 4)
    drawn = model.sample(5, seed=0, observe="sample")
    assert torch.allclose(drawn * 3, (drawn * 3).round()) and drawn.shape == (5, 1, 4, 4)
    with pytest.raises(DataError, match="4 levels"):
        model.accepts((1, 4, 4), 256)


def test_probabilities_of_all_images_of_a_categorical_model_sum_to_one():
    model = VAE(MLP([2, 2]), MLP([1, 6, 6]), [2], 1, likelihood="categorical", levels=3)
    for p in model.encoder.parameters():
        torch.nn.init.zeros_(p)  # the posterior is the prior, so the weights are bounded
    values = torch.tensor([0.0, 0.5, 1.0])
    total = model.log_prob(torch.cartesian_prod(values, values), k=20_000, seed=0).exp().sum()
    assert abs(total - 1) < 0.01


@BACKBONES
def test_cross_entropy_is_a_loss_of_grey_levels_and_no_likelihood(make):
    model, bernoulli = make(out=1, likelihood="cross_entropy"), make(out=1, likelihood="bernoulli")
    with pytest.raises(DataError, match="cross_entropy, which is the same formula as a mere reconstruction loss"):
        bernoulli.accepts((1, 4, 4), 256)
    for levels in (2, 256):
        model.accepts((1, 4, 4), levels)
    with pytest.raises(DataError, match="grey levels"):
        model.accepts((1, 4, 4), None)
    bernoulli.load_state_dict(model.state_dict())
    x = grey()
    ours, theirs = terms(model, x), terms(bernoulli, x)
    assert torch.equal(ours["loss"], theirs["loss"]) and "elbo" in theirs and "elbo" not in ours
    assert not model.has_likelihood and bernoulli.has_likelihood
    for ask in (lambda: model.log_prob(x), model.likelihood):
        with pytest.raises(ConfigError, match="no likelihood"):
            ask()
    drawn = model.sample(3, seed=0)
    assert drawn.min() >= 0 and drawn.max() <= 1


def test_absolute_error_is_least_at_the_median_and_the_density_sums_to_one() -> None:
    from zoo.maths.distributions import Laplace

    x = torch.tensor([0.0, 0.1, 0.2, 3.0, 9.0], dtype=torch.float64)
    grid = torch.linspace(-1, 10, 1101, dtype=torch.float64)
    fit = torch.stack([Laplace(m, torch.tensor(0.3)).log_prob(x).sum() for m in grid])
    assert float(grid[fit.argmax()]) == pytest.approx(0.2) and float(x.mean()) > 2
    wide = torch.linspace(-60, 60, 240_001, dtype=torch.float64)
    p = Laplace(torch.tensor(0.5), torch.tensor(0.3)).log_prob(wide).exp()
    assert float(torch.trapezoid(p, wide)) == pytest.approx(1, abs=1e-6)
    drawn = Laplace(torch.zeros(100_000), torch.tensor(0.3)).sample(torch.Generator().manual_seed(0))
    assert float(drawn.abs().mean()) == pytest.approx(math.exp(0.3), rel=0.02)


def test_laplace_likelihood_trains_points_and_refuses_grey_levels() -> None:
    model = VAE(MLP([2, 4]), MLP([2, 2]), [2], 2, likelihood="laplace", scale="shared")
    terms = model.loss((torch.randn(5, 2), None))
    assert bool(terms["loss"].isfinite()) and model.sample(3, seed=0).shape == (3, 2)
    with pytest.raises(DataError, match="Laplace"):
        model.accepts((2,), 256)
