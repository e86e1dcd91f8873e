"""Laws of the conditional variational autoencoder."""

from __future__ import annotations

import math

import pytest
import torch
from closed_forms import vae
from torch import nn
from torch.distributions import MultivariateNormal

from zoo.errors import ConfigError, DataError
from zoo.families.cvae import CVAE
from zoo.families.vae import VAE
from zoo.nets.conv import DownsamplingNet, UpsamplingNet
from zoo.nets.mlp import MLP
from zoo.spec import build

STEP_FLOPS = {"CVAE": vae}  # the widths of the layers count the class


pytestmark = pytest.mark.usefixtures("double_precision")


def linear(size: int = 3, latent: int = 2, classes: int = 4) -> CVAE:
    """A CVAE whose p(x | y) is the normal N(b + U e_y, W W' + s^2 I)."""
    return CVAE(
        MLP([size + classes, 2 * latent]), MLP([latent + classes, size]), [size], latent, classes,
        likelihood="gaussian", scale="shared",
    )  # fmt: skip


def small(**options: object) -> CVAE:
    return CVAE(
        MLP([16 + 3, 12, 8]), MLP([4 + 3, 12, 32]), [1, 4, 4], 4, 3, likelihood="discretized_logistic", **options
    )


def convolutional() -> CVAE:
    return CVAE(
        DownsamplingNet([4, 6], [1 + 3, 8, 8], out=4, hidden=5), UpsamplingNet(2 + 3, [6, 4], [2, 8, 8]), [1, 8, 8],
        2, 3, planes=True, likelihood="discretized_logistic",
    )  # fmt: skip


def test_bounds_of_a_linear_model_lie_below_the_conditional_likelihood():
    model, y = linear(), torch.tensor([0, 1, 2, 3]).repeat(1000)
    x = torch.randn(4, 3).repeat(1000, 1)
    layer = model.decoder.layers[0]
    W, U = layer.weight.detach().split([2, 4], 1)
    s = model.observation(torch.zeros(1, 2), torch.tensor([0])).log_scale.exp().detach().reshape(())
    truth = MultivariateNormal(layer.bias.detach() + U.T[y], W @ W.T + s**2 * torch.eye(3)).log_prob(x)
    elbo, iwae = model.log_prob(x, labels=y, k=1, seed=0), model.log_prob(x, labels=y, k=8, seed=1)
    errors = [v.view(1000, 4).std(0) / math.sqrt(1000) for v in (elbo, iwae)]
    elbo, iwae, truth = (v.view(1000, 4).mean(0) for v in (elbo, iwae, truth))
    assert (elbo <= iwae + 4 * (errors[0] ** 2 + errors[1] ** 2).sqrt()).all()
    assert (iwae <= truth + 4 * errors[1]).all() and (truth - elbo > 4 * errors[0]).all()
    tight = model.log_prob(x[:4], labels=y[:4], k=20_000, seed=2)
    assert ((tight - truth).abs() < 0.06).all()
    wrong = model.log_prob(x[:4], labels=y[:4].flip(0), k=20_000, seed=2)
    assert (wrong - truth).abs().max() > 0.5


@pytest.mark.parametrize("make", [small, convolutional])
def test_encoder_and_decoder_both_see_the_class(make):
    model = make()
    x, z = torch.rand(5, *model.shape), torch.randn(5, model.latent_dim)
    a, b = torch.zeros(5, dtype=torch.long), torch.full((5,), 2)
    assert not torch.allclose(model.encode(x, a)[0], model.encode(x, b)[0])
    assert not torch.allclose(model.decode(z, a), model.decode(z, b))
    assert model.log_prob(x, labels=a, k=3, seed=0).shape == (5,)
    samples = [model.sample(6, seed=0, labels=y) for y in (0, 2)]
    assert not torch.allclose(*samples) and samples[0].shape == (6, *model.shape)
    evenly = model.sample(6, seed=0)
    assert torch.equal(evenly, model.sample(6, seed=0, labels=[0, 1, 2, 0, 1, 2]))


@pytest.mark.parametrize("make", [small, convolutional])
def test_every_parameter_moves_and_the_spec_builds_it_again(make):
    model = build(make().spec).double()
    x, y = torch.rand(6, *model.shape).mul(255).round() / 255, torch.tensor([0, 1, 2, 0, 1, 2])
    before = {n: p.clone() for n, p in model.named_parameters()}
    (optimizer,) = model.configure_optimizers()
    for _ in range(model.steps_to_move):
        optimizer.zero_grad()
        model.loss((x, y))["loss"].backward()
        optimizer.step()
    assert all((p != before[n]).any() for n, p in model.named_parameters())


def test_labels_stay_with_their_examples_across_chunks_and_draws(monkeypatch: pytest.MonkeyPatch):
    model = small()
    for p in model.encoder.parameters():
        nn.init.zeros_(p)  # q is the prior, so that only the decoder's class matters
    x, y = torch.rand(1, 1, 4, 4).expand(600, 1, 4, 4), torch.arange(600) % 3
    whole = model.log_prob(x, labels=y, k=4, seed=3).view(200, 3)
    monkeypatch.setattr("zoo.families.vae.CHUNK", 16 * 13)
    parts = model.log_prob(x, labels=y, k=4, seed=4).view(200, 3)
    error = ((whole.var(0) + parts.var(0)) / 200).sqrt()
    assert ((whole.mean(0) - parts.mean(0)).abs() < 4 * error).all()
    assert (whole.mean(0)[0] - whole.mean(0)[1:]).abs().max() > 8 * error.max()  # the classes do differ


def test_class_that_the_networks_ignore_gives_the_unconditional_model():
    model = small()
    plain = VAE(MLP([16, 12, 8]), MLP([4, 12, 32]), [1, 4, 4], 4, likelihood="discretized_logistic")
    with torch.no_grad():
        for conditional, own, width in ((model.encoder, plain.encoder, 16), (model.decoder, plain.decoder, 4)):
            conditional.layers[0].weight[:, width:] = 0
            own.load_state_dict(conditional.state_dict() | {"layers.0.weight": conditional.layers[0].weight[:, :width]})
    x = torch.rand(5, 1, 4, 4)
    y = torch.tensor([0, 1, 2, 1, 0])
    torch.testing.assert_close(model.log_prob(x, labels=y, k=3, seed=0), plain.log_prob(x, k=3, seed=0))
    torch.testing.assert_close(model.sample(4, seed=1), plain.sample(4, seed=1))


def test_what_makes_no_sense_is_refused():
    x = torch.rand(2, 1, 4, 4)
    with pytest.raises(ConfigError, match=r"CVAE is conditional.* labels=2 integers between 0 and 2"):
        small().log_prob(x)
    with pytest.raises(ConfigError, match="conditional"):
        small().encode(x)
    with pytest.raises(ConfigError, match="between 0 and 2"):
        small().log_prob(x, labels=3)
    with pytest.raises(DataError, match="num_classes"):
        small().loss((x, torch.tensor([1, 3])))
    with pytest.raises(ConfigError, match="at least 1 class"):
        CVAE(MLP([2, 2]), MLP([1, 2]), [2], 1, 0)
    with pytest.raises(ConfigError, match="planes"):
        CVAE(MLP([4, 2]), MLP([3, 2]), [2], 1, 2, planes=True)
    assert small(beta=4.0).likelihood(5) == "iwae-5"
