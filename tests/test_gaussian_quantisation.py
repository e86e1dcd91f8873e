"""Laws of Gaussian quantisation: what a codebook of random draws keeps of a VAE's latents; no weight is trained."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from closed_forms import net
from torch import Tensor

from zoo.abilities import Tokenises, latents, reconstruct
from zoo.errors import ConfigError
from zoo.families.code_prior import CodePrior
from zoo.families.cvae import CVAE
from zoo.families.gq_vae import GQVAE
from zoo.families.latent_diffusion import AutoencoderKL
from zoo.families.pixelcnn import PixelCNN
from zoo.families.vae import VAE
from zoo.maths.distributions import gaussian_kl
from zoo.nets.mlp import MLP
from zoo.registry import load_registry
from zoo.trained_parts import fitted

SHAPE = [1, 4, 4]


def gq_vae_flops(args: Mapping[str, Any]) -> float:
    """Encoder and decoder forward; the one number that moves has no product of matrices."""
    inner = args["autoencoder"]["init_args"]
    return 2.0 * sum(net(inner["encoder"]) + net(inner["decoder"]))


STEP_FLOPS = {"GQVAE": gq_vae_flops}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def vae(likelihood: str = "discretized_logistic", **options: Any) -> VAE:
    return VAE(MLP([16, 8, 8]), MLP([4, 8, 16]), SHAPE, 4, likelihood, scale="shared", **options)


def kl_map() -> AutoencoderKL:
    return AutoencoderKL(MLP([16, 32]), MLP([16, 16]), SHAPE, [4, 2, 2], "bernoulli")


def images(n: int = 5) -> Tensor:
    return torch.randint(0, 256, (n, *SHAPE)) / 255


def missed(codebooks: Tensor, mu: float, sigma: float) -> float:
    """Return how often no code of a codebook, each a row, lies within sigma of mu."""
    return float(((codebooks - mu).abs() >= sigma).all(1).double().mean())


def bound(K: int, mu: float, sigma: float) -> float:
    kl = float(gaussian_kl(torch.tensor(mu).double(), 2 * torch.tensor(sigma).double().log()))
    return math.exp(-math.sqrt(2 / (math.pi * math.e)) * K * math.exp(-kl))


CASES = list(itertools.product((8, 64, 512), (0.0, 1.0, 2.0), (0.05, 0.3, 1.0, 3.0)))


def test_codes_far_from_the_mean_are_as_rare_as_the_divergence_says() -> None:
    draws = torch.randn(4_000, 512, dtype=torch.float64)
    for K, mu, sigma in CASES:
        b = bound(K, mu, sigma)
        assert missed(draws[:, :K], mu, sigma) <= b + 3 * math.sqrt(b * (1 - b) / 4_000) + 1e-12
    assert bound(512, 1.0, 0.3) < 1e-20 < 0.5 < bound(8, 1.0, 0.05)  # log K far above and below the divergence


def test_codes_of_another_law_miss_the_bound() -> None:
    grid = torch.linspace(-1, 1, 512, dtype=torch.float64)[None]  # even steps in place of draws of the prior
    wide = 8 * torch.randn(4_000, 512, dtype=torch.float64)
    for codebooks in (grid, wide):
        assert any(missed(codebooks[:, :K], mu, s) > bound(K, mu, s) + 0.05 for K, mu, s in CASES)


def test_code_is_the_nearest_draw_and_a_group_weighs_by_its_spread() -> None:
    model = GQVAE(vae(), size=64).double()
    mean, log_var = torch.randn(7, 4, 1, dtype=torch.float64), torch.randn(7, 4, 1, dtype=torch.float64)
    nearest = (mean - model.codebook[:, 0]).abs().argmin(-1)
    assert torch.equal(model.nearest(mean, log_var), nearest)  # of one number the spread says nothing
    pair = GQVAE(vae(), size=64, group=2).double()
    mean, log_var = mean.reshape(7, 2, 2), log_var.reshape(7, 2, 2)
    codes = pair.nearest(mean, log_var)
    e = pair.codebook
    for i, j in itertools.product(range(7), range(2)):
        away = ((mean[i, j] - e) / (log_var[i, j] / 2).exp()).square().sum(1)
        assert codes[i, j] == away.argmin()
    assert not torch.equal(codes, pair.nearest(mean, 0 * log_var))


def test_seed_makes_the_codebook_and_more_codes_come_closer() -> None:
    inner = vae()
    assert torch.equal(GQVAE(inner, seed=3).codebook, GQVAE(inner, seed=3).codebook)
    assert not torch.equal(GQVAE(inner, seed=3).codebook, GQVAE(inner, seed=4).codebook)
    state = torch.get_rng_state()
    GQVAE(inner, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    x = images(64)
    mean = inner.posterior(x)[0]
    errors = [float((GQVAE(inner, K).embed(GQVAE(inner, K).codes(x)) - mean).abs().max()) for K in (4, 64, 4096)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.01


@pytest.mark.parametrize(
    ("inner", "group", "grid"),
    [(vae, 1, (1, 1, 4)), (vae, 2, (1, 1, 2)), (kl_map, 1, (4, 2, 2)), (kl_map, 2, (2, 2, 2))],
)
def test_codes_lie_as_the_latents_do_and_decode_near_them(inner: Any, group: int, grid: tuple[int, ...]) -> None:
    model = GQVAE(inner(), size=20_000, group=group).eval()
    x = images().round()
    codes = model.codes(x)
    assert codes.shape == (5, *grid) == (5, *model.grid) and codes.dtype == torch.int64 and isinstance(model, Tokenises)
    z, mean = model.embed(codes), model.autoencoder.posterior(x)[0]
    assert z.shape == mean.shape and (z - mean).abs().max() < 0.2
    with torch.no_grad():
        assert torch.allclose(model.reconstruct(x), model.autoencoder.decode(mean), atol=0.1)
        assert torch.equal(model.decode(codes), model.observation(z).mean)
        assert torch.equal(latents(model, x), z) and torch.equal(reconstruct(model, x), model.reconstruct(x))


@pytest.mark.parametrize("inner", [vae, kl_map])
def test_training_moves_one_number_and_nothing_of_the_vae(inner: Any) -> None:
    model = GQVAE(inner(), size=8, lr=0.05)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    (optimizer,) = model.configure_optimizers()
    x = images(32).round()
    first = float(model.loss((x, None))["loss"].detach())
    for _ in range(30):
        model.training_step((x, None), 0).backward()
        optimizer.step()
        optimizer.zero_grad()
    after = model.state_dict()
    assert [k for k, v in before.items() if not torch.equal(v, after[k])] == ["widening"]
    assert float(model.loss((x, None))["loss"].detach()) < first
    assert not model.autoencoder.training and model.train().autoencoder.training is False


def test_bound_is_below_the_probability_summed_over_all_codes() -> None:
    model = GQVAE(vae("bernoulli"), size=3).double().eval()
    codes = torch.tensor(list(itertools.product(range(3), repeat=4))).reshape(81, 1, 1, 4)
    x = images(3).double().round()
    with torch.no_grad():
        log_p = torch.stack([model.log_likelihood(one, codes) for one in x.split(1)]).logsumexp(1) - math.log(81)
        assert (model.log_prob(x) <= log_p + 1e-9).all()
    prior = CodePrior(model, PixelCNN([1, 1, 4], 3, width=8, depth=1, first_kernel=3)).double().eval()
    assert prior.log_prob(x).shape == (3,) and prior.sample(2, seed=0).shape == (2, *SHAPE)


def test_first_stage_is_declared_and_others_are_refused() -> None:
    entry = load_registry().resolve("gq_vae")
    arguments, _, held = fitted(entry, "autoencoder", vae(), "mine")
    assert arguments["autoencoder"]["init_args"]["latent_dim"] == 4 and arguments["size"] == 64 and not held
    with pytest.raises(ConfigError, match="no Gaussian posterior"):
        fitted(entry, "autoencoder", PixelCNN([1, 4, 4], 2, width=4, depth=1), "mine")
    cvae = CVAE(MLP([18, 8]), MLP([6, 16]), SHAPE, 4, num_classes=2, likelihood="bernoulli")
    for wrong, said in (
        (lambda: GQVAE(cvae), "not conditional"),
        (lambda: GQVAE(vae("gaussian", levels=256)), "got a VAE with gaussian"),
        (lambda: GQVAE(vae(), group=3), "do not divide into groups of 3"),
        (lambda: GQVAE(MLP([4, 4])), "got a MLP"),
    ):
        with pytest.raises(ConfigError, match=said):
            wrong()
