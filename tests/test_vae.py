"""Laws of the variational autoencoder and of the distributions that it is made of."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from zoo.errors import ConfigError, DataError
from zoo.families.vae import VAE
from zoo.maths.distributions import Bernoulli, DiscretizedLogistic, Gaussian, gaussian_kl
from zoo.nets.conv import DownsamplingNet, UpsamplingNet
from zoo.nets.mlp import MLP
from zoo.spec import build

pytestmark = pytest.mark.usefixtures("double_precision")


def linear_gaussian(size: int = 3, latent: int = 2) -> VAE:
    """A VAE whose p(x) is the normal N(b, W W' + s^2 I)."""
    return VAE(
        MLP([size, 2 * latent]), MLP([latent, size]), [size], latent, likelihood="gaussian", scale="shared", beta=1.0
    )


def exact(model: VAE, x: torch.Tensor) -> torch.Tensor:
    layer = model.decoder.layers[0]
    s = model.observation(torch.zeros(1, model.latent_dim)).log_scale.exp().reshape(())
    covariance = layer.weight @ layer.weight.T + s**2 * torch.eye(len(layer.bias))
    return MultivariateNormal(layer.bias, covariance).log_prob(x).detach()


def small(likelihood: str, **options: object) -> VAE:
    factor = 1 if likelihood == "bernoulli" or options.get("scale", "predicted") != "predicted" else 2
    return VAE(
        MLP([16, 12, 6], "silu"), MLP([3, 12, 16 * factor], "silu"), [1, 4, 4], 3, likelihood=likelihood, **options
    )


# -- distributions -----------------------------------------------------------------------------------------------------


def test_gaussian_kl_equals_monte_carlo_and_torch():
    mean, log_var = torch.randn(4), torch.randn(4)
    q, p = Normal(mean, (0.5 * log_var).exp()), Normal(torch.zeros(4), torch.ones(4))
    z = q.sample((200_000,))
    draws = q.log_prob(z) - p.log_prob(z)
    error = draws.std(0) / math.sqrt(len(z))
    assert ((gaussian_kl(mean, log_var) - draws.mean(0)).abs() < 4 * error).all()
    assert torch.allclose(gaussian_kl(mean, log_var), kl_divergence(q, p), atol=1e-12)


@pytest.mark.parametrize("levels", [2, 5, 256])
def test_discretized_logistic_sums_to_one_over_all_levels(levels: int):
    location = torch.tensor([-3.0, -0.01, 0.0, 0.4, 1.0, 7.0])
    log_scale = torch.tensor([-7.0, -5.0, -1.0, 2.0])[:, None]
    x = torch.linspace(0, 1, levels)[:, None, None]
    log_p = DiscretizedLogistic(location, log_scale, levels).log_prob(x)
    assert torch.isfinite(log_p).all()
    assert torch.allclose(log_p.exp().sum(0), torch.ones(4, 6), atol=1e-12)


def test_discretized_logistic_keeps_its_gradient_in_float32():
    location = torch.tensor([-40.0, 0.3, 60.0], dtype=torch.float32, requires_grad=True)
    log_p = DiscretizedLogistic(location, torch.full((), -6.0, dtype=torch.float32)).log_prob(torch.full((3,), 0.5))
    log_p.sum().backward()
    assert torch.isfinite(log_p).all()
    assert location.grad[0] > 0 > location.grad[2]


def test_means_are_those_of_samples():
    generator = torch.Generator().manual_seed(1)
    location, log_scale = torch.tensor([-0.1, 0.3, 0.95]).expand(50_000, 3), torch.tensor([-3.0, -1.0, -2.0])
    for p, slack in [
        (Bernoulli(4 * location), 0.0),
        (Gaussian(location, log_scale), 0.0),
        (DiscretizedLogistic(location, log_scale, 256), 0.5 / 255),
    ]:
        x = p.sample(generator)
        error = x.std(0) / math.sqrt(len(x))
        assert ((x.mean(0) - p.mean.expand_as(x)[0]).abs() < 4 * error + slack).all()


# -- bounds ------------------------------------------------------------------------------------------------------------


def test_elbo_iwae_and_exact_likelihood_are_ordered_on_a_linear_gaussian_model():
    model = linear_gaussian()
    x = torch.randn(1, 3).expand(4000, 3)
    elbo, iwae, truth = model.log_prob(x, k=1, seed=0), model.log_prob(x, k=8, seed=1), exact(model, x[0])
    errors = [v.std() / math.sqrt(len(v)) for v in (elbo, iwae)]
    assert elbo.mean() <= iwae.mean() + 4 * (errors[0] ** 2 + errors[1] ** 2).sqrt()
    assert iwae.mean() <= truth + 4 * errors[1]
    assert iwae.mean() - elbo.mean() > 4 * errors[0]  # the posterior is not the true one, so the gap is real
    assert abs(model.log_prob(x[:50], k=2000, seed=2).mean() - truth) < abs(iwae.mean() - truth)


def test_bounds_are_tight_at_the_true_posterior():
    model = linear_gaussian()
    with torch.no_grad():
        decoder, encoder = model.decoder.layers[0], model.encoder.layers[0]
        decoder.weight.copy_(torch.linalg.qr(torch.randn(3, 2)).Q * torch.tensor([0.7, 2.0]))  # orthogonal columns
        s2 = (2 * model.observation(torch.zeros(1, 2)).log_scale).exp().reshape(())
        precision = 1 + decoder.weight.square().sum(0) / s2
        gain = decoder.weight.T / s2 / precision[:, None]
        encoder.weight.copy_(torch.cat([gain, torch.zeros(2, 3)]))
        encoder.bias.copy_(torch.cat([-gain @ decoder.bias, -precision.log()]))
    x = torch.randn(5, 3)
    for k in (2, 50):  # every weight p(x, z) / q(z | x) is p(x)
        assert torch.allclose(model.log_prob(x, k=k, seed=0), exact(model, x), atol=1e-9)
    elbo = torch.stack([model.log_prob(x, seed=s) for s in range(400)])
    assert ((elbo.mean(0) - exact(model, x)).abs() < 4 * elbo.std(0) / math.sqrt(400)).all()


def test_dequantised_density_bounds_the_probability_of_each_level():
    model = VAE(MLP([1, 2]), MLP([1, 1]), [1], 1, likelihood="gaussian", levels=4, scale="shared")
    layer = model.decoder.layers[0]
    s = model.observation(torch.zeros(1, 1)).log_scale.exp()
    p = Normal(layer.bias, (layer.weight**2 + s**2).sqrt().reshape(1))
    borders = torch.linspace(0, 1, 5)
    truth = (p.cdf(borders[1:]) - p.cdf(borders[:-1])).log().detach()
    x = torch.linspace(0, 1, 4)[:, None]
    assert torch.allclose(model.log_prob(x, k=50_000, seed=0), truth, atol=0.02)
    assert model.likelihood(8) == "iwae-8+dequant"
    assert model.likelihood() == "elbo+dequant"


def test_bernoulli_probabilities_of_all_images_sum_to_one():
    model = VAE(MLP([2, 4]), MLP([2, 8, 2]), [2], 2)
    for p in model.encoder.parameters():
        nn.init.zeros_(p)  # the posterior is the prior, so the weights are bounded
    images = torch.cartesian_prod(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))
    assert abs(model.log_prob(images, k=20_000, seed=0).exp().sum() - 1) < 0.01
    assert model.likelihood(500) == "iwae-500"


@pytest.mark.parametrize("likelihood", ["bernoulli", "discretized_logistic", "gaussian"])
def test_chunks_keep_examples_apart_and_loss_estimates_the_bound(likelihood: str, monkeypatch: pytest.MonkeyPatch):
    model = small(likelihood, levels=2)
    x = (torch.rand(3, 1, 4, 4) > 0.5).double().repeat(400, 1, 1, 1)
    whole = model.log_prob(x, k=8, seed=3).reshape(400, 3)
    monkeypatch.setattr("zoo.families.vae.CHUNK", 16 * 13)  # 13 examples at a time, and of the last 4, 3 draws each
    parts = model.log_prob(x, k=8, seed=4).reshape(400, 3)
    error = ((whole.var(0) + parts.var(0)) / 400).sqrt()
    assert ((whole.mean(0) - parts.mean(0)).abs() < 4 * error).all()
    elbo = model.log_prob(x, seed=5)
    estimates = torch.stack([model.loss((x[:3], None))["elbo"] for _ in range(200)]).detach()
    error = (estimates.var() / 200 + elbo.var() / 1200).sqrt()
    assert abs(estimates.mean() - elbo.mean()) < 4 * error


# -- beta, data, sampling ----------------------------------------------------------------------------------------------


def test_beta_one_is_the_vae_to_the_bit_and_reported_bound_ignores_beta():
    x = torch.rand(8, 1, 4, 4)
    plain = small("discretized_logistic")
    results = {}
    for beta in (1.0, 4.0):
        other = small("discretized_logistic", beta=beta)
        other.load_state_dict(plain.state_dict())
        for model in (plain, other):
            model.set_noise([torch.Generator().manual_seed(5)])
        results[beta] = plain.loss((x, None)), other.loss((x, None))
    ours, theirs = results[1.0]
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(ours["loss"], -ours["elbo"])
    ours, theirs = results[4.0]
    assert torch.equal(ours["elbo"], theirs["elbo"])
    assert torch.allclose(theirs["loss"] - ours["loss"], 3 * ours["kl"])


def test_data_that_do_not_fit_the_likelihood_are_refused():
    with pytest.raises(DataError, match="binary_mnist"):
        small("bernoulli").accepts((1, 4, 4), 256)
    with pytest.raises(DataError, match="levels to 256"):
        small("gaussian").accepts((1, 4, 4), 256)
    with pytest.raises(DataError, match="shape"):
        small("bernoulli").accepts((1, 28, 28), 2)
    small("bernoulli").accepts((1, 4, 4), 2)
    small("gaussian", levels=256).accepts((1, 4, 4), 256)
    small("discretized_logistic").accepts((1, 4, 4), 256)
    with pytest.raises(ConfigError, match="Did you mean 'bernoulli'"):
        small("bernouli")
    with pytest.raises(ConfigError, match="256 levels"):
        small("bernoulli", levels=256)
    with pytest.raises(ConfigError, match="scale"):
        small("gaussian", scale="pixels")


@pytest.mark.parametrize(
    "options",
    [
        {"likelihood": "bernoulli"},
        {"likelihood": "discretized_logistic"},
        {"likelihood": "discretized_logistic", "scale": "pixel"},
        {"likelihood": "gaussian", "levels": 256, "scale": "shared"},
    ],
    ids=str,
)
def test_samples_are_data_and_every_parameter_moves(options: dict[str, object]):
    model = build(small(**options).spec).double()
    levels = model.levels - 1
    for observe in ("mean", "sample"):
        x = model.sample(9, seed=0, observe=observe)
        assert x.shape == (9, 1, 4, 4)
        assert x.min() >= 0
        assert x.max() <= 1
        assert torch.equal(x, model.sample(9, seed=0, observe=observe))
    assert torch.allclose(x * levels, (x * levels).round(), atol=1e-9)
    mean, log_var = model.encode(x)
    assert mean.shape == log_var.shape == (9, 3)
    assert model.decode(mean).shape == x.shape
    with pytest.raises(ConfigError, match="observe"):
        model.sample(1, observe="median")
    before = {n: p.clone() for n, p in model.named_parameters()}
    (optimizer,) = model.configure_optimizers()
    for _ in range(model.steps_to_move):
        optimizer.zero_grad()
        model.loss((x, None))["loss"].backward()
        optimizer.step()
    assert all((p != before[n]).any() for n, p in model.named_parameters())


def test_convolutional_networks_serve_as_encoder_and_decoder():
    model = VAE(
        DownsamplingNet([3, 4], [1, 8, 8], out=4, hidden=5),
        UpsamplingNet(2, [6, 4], [2, 8, 8], groups=2, refine=True),
        [1, 8, 8], 2, likelihood="discretized_logistic",
    )  # fmt: skip
    x = torch.rand(3, 1, 8, 8)
    assert model.log_prob(x, k=3, seed=0).shape == (3,)
    with pytest.raises(ConfigError, match="multiples of 4"):
        UpsamplingNet(2, [4, 3], [1, 10, 8])
    with pytest.raises(ConfigError, match="2 groups"):
        UpsamplingNet(2, [4, 3], [1, 8, 8], groups=2)
