"""Laws of a learnt similarity: who follows which gradient, and from where."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from closed_forms import net
from test_gan import layers as of_network
from torch import Tensor, nn

from zoo.abilities import HasPosterior, has_likelihood
from zoo.errors import ConfigError
from zoo.families.vae_gan import VAEGAN
from zoo.nets.feature_critic import FeatureCritic
from zoo.nets.mlp import MLP
from zoo.registry import load_registry

pytestmark = pytest.mark.usefixtures("double_precision")

# -- closed form of the compute of a training step ---------------------------------------------------------------------


def _vae_gan(args: Mapping[str, Any]) -> float:
    """Encoder: through all three. Decoder: two pictures, through the discriminator. Discriminator: three pictures.

    What the discriminator makes of data is computed for each; features that are compared end below its head.
    """
    enc, dec = of_network(args["encoder"]), net(args["decoder"])
    inner = args["discriminator"]["init_args"]
    judge = net({"class_path": "DownsamplingNet", "init_args": {"hidden": 64, "out": 1, **inner}})
    below = judge[: inner["layer"]]
    first = 3 * sum(enc) - enc[0] + 2 * sum(dec) + 2 * sum(judge) + sum(below)
    second = 2 * (3 * sum(dec) - dec[0]) + sum(judge) + 2 * 2 * sum(judge)
    return 2.0 * (first + second + 3 * (3 * sum(judge) - judge[0]))


STEP_FLOPS: dict[str, Callable[[Mapping[str, Any]], float]] = {"VAEGAN": _vae_gan}


# -- tiny models -------------------------------------------------------------------------------------------------------


class Judge(nn.Module):
    """Smooth, so that gradients are gradients everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.below, self.above = MLP([6, 5], "tanh"), MLP([5, 4, 1], "tanh")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.below(x.flatten(1)).tanh()
        return self.above(features), features


def tiny(**options: Any) -> VAEGAN:
    torch.manual_seed(0)
    model = VAEGAN(MLP([6, 7, 4], "tanh"), MLP([2, 7, 6], "tanh"), Judge(), [1, 2, 3], 2, **{"gamma": 0.3, **options})
    for p in model.parameters():
        nn.init.normal_(p, std=0.7)
    model.set_noise([torch.Generator().manual_seed(5)])
    return model


def noise(n: int) -> tuple[Tensor, Tensor]:
    """Return the noise of the posterior and that of the prior in one step."""
    source = torch.Generator().manual_seed(5)
    return torch.randn(n, 2, generator=source), torch.randn(n, 2, generator=source)


def by_hand(model: VAEGAN, x: Tensor) -> dict[str, Tensor]:
    """Return L_prior, L_like and L_GAN, with probabilities and densities as they stand in the paper."""
    eps, z_p = noise(len(x))
    mean, log_var = model.encoder(x.flatten(1)).chunk(2, 1)
    z = mean + eps * (log_var / 2).exp()
    q = torch.distributions.Normal(mean, (log_var / 2).exp())
    prior = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    shown, drawn = (model.decoder(v).sigmoid() for v in (z, z_p))
    (real, f_real), (fake, f_fake), (free, _) = (model.discriminator(v) for v in (x, shown, drawn))
    like = -torch.distributions.Normal(f_fake, 1.0).log_prob(f_real).sum(1).mean()
    game = (real.sigmoid().log() + (1 - fake.sigmoid()).log() + (1 - free.sigmoid()).log()).mean()
    return {"prior": prior, "like": like, "game": game}


def gradient(loss: Tensor, network: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [*network.parameters()], retain_graph=True, allow_unused=True))


def plain_steps(model: VAEGAN, rate: float, seen: dict[str, list[Tensor]]) -> None:
    """Let each turn take a step down its gradient, and note it."""

    @contextmanager
    def turn(player: str) -> Iterator[Callable[[Tensor], bool]]:
        own = [*getattr(model, player).parameters()]
        for p in model.parameters():
            p.requires_grad_(any(p is q for q in own))

        def update(loss: Tensor) -> bool:
            seen[player] = list(torch.autograd.grad(loss, own))
            with torch.no_grad():
                for p, g in zip(own, seen[player], strict=True):
                    p.sub_(rate * g)
            return True

        yield update
        for p in model.parameters():
            p.requires_grad_()

    model.turn = turn  # type: ignore[method-assign]


# -- algorithm 1 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_each_network_follows_its_own_terms_from_where_all_of_them_were(rate: float) -> None:
    """Algorithm 1: steps of half a unit by the first two networks change nothing that the others follow."""
    model, x = tiny(), torch.rand(5, 1, 2, 3)
    terms = by_hand(model, x)
    own = {
        "encoder": terms["prior"] + terms["like"],
        "decoder": 0.3 * terms["like"] + terms["game"],
        "discriminator": -terms["game"],
    }
    wanted = {name: gradient(loss, getattr(model, name)) for name, loss in own.items()}
    whole = terms["prior"] + terms["like"] + terms["game"]
    mixed = {name: gradient(whole, getattr(model, name)) for name in own}  # the look-alike: one loss for all
    seen: dict[str, list[Tensor]] = {}
    plain_steps(model, rate, seen)
    model.training_step((x, torch.zeros(5)), 0)
    for name in own:
        assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(seen[name], wanted[name], strict=True)), name
        assert any((a - b).abs().max() > 1e-3 for a, b in zip(seen[name], mixed[name], strict=True)), name


def test_the_game_does_not_reach_the_encoder_nor_the_similarity_the_discriminator() -> None:
    model, x = tiny(), torch.rand(5, 1, 2, 3)
    terms, z = model.encoder_loss(x)
    loss, fakes = model.decoder_loss(x, z)
    assert gradient(loss, model.encoder) == [None] * 4
    judged = model.discriminator_loss(x, fakes)
    assert gradient(judged, model.encoder) == [None] * 4 == gradient(judged, model.decoder)
    for p in model.discriminator.parameters():  # as in the turns of the others
        p.requires_grad_(False)
    assert gradient(terms["loss"], model.encoder)[0].abs().sum() > 0


def test_terms_are_those_of_the_equations() -> None:
    model, x = tiny(), torch.rand(5, 1, 2, 3)
    wanted, found = by_hand(model, x), model.loss((x, torch.zeros(5)))
    constant = 5 * 0.5 * math.log(2 * math.pi)  # of five features
    assert found["kl"].item() == pytest.approx(wanted["prior"].item())
    assert found["similarity"].item() + constant == pytest.approx(wanted["like"].item())
    assert found["discriminator_loss"].item() == pytest.approx(-wanted["game"].item())
    assert found["loss"].item() == pytest.approx(found["kl"].item() + found["similarity"].item())


def test_both_games_pull_one_way_and_one_of_them_hard_where_the_discriminator_is_sure() -> None:
    model, x = tiny(gamma=0.0), torch.rand(5, 1, 2, 3)
    slopes = {}
    for game in ("minimax", "non_saturating"):
        model.game = game
        for score in (-6.0, 0.0):
            s = torch.full((10, 1), score, requires_grad=True)
            model.discriminator.forward = lambda images, s=s: (s, torch.zeros(len(images), 1))  # type: ignore[method-assign]
            loss, _ = model.decoder_loss(x, torch.zeros(5, 2))
            slopes[game, score] = 10 * torch.autograd.grad(loss, s)[0][0].item() / 2
    assert slopes["minimax", 0.0] == pytest.approx(-0.5) == slopes["non_saturating", 0.0]
    assert slopes["minimax", -6.0] == pytest.approx(-1 / (1 + math.exp(6)))
    assert slopes["non_saturating", -6.0] == pytest.approx(-1 / (1 + math.exp(-6)))


# -- what it can do ----------------------------------------------------------------------------------------------------


def test_it_encodes_and_draws_and_says_that_it_has_no_likelihood() -> None:
    model, x = tiny().eval(), torch.rand(3, 1, 2, 3)
    assert isinstance(model, HasPosterior) and not has_likelihood(model)
    mean, log_var = model.encode(x)
    assert mean.shape == log_var.shape == (3, 2)
    assert torch.equal(model.decode(mean), model.images(mean)) and model.decode(mean).shape == x.shape
    assert "elbo" not in model.loss((x, torch.zeros(3)))
    with pytest.raises(ConfigError, match="no likelihood of the image"):
        model.log_prob(x)


def test_features_are_those_of_the_layer() -> None:
    judge, x = FeatureCritic([3, 4], [1, 8, 8], 1, hidden=5), torch.rand(2, 1, 8, 8)
    score, features = judge(x)
    conv = judge.below[0][0]
    assert score.shape == (2, 1) and torch.allclose(features, F.leaky_relu(conv(x), 0.2))
    assert judge.head[1].in_features == 4 * 2 * 2 and FeatureCritic([3, 4], [1, 8, 8], 2)(x)[1].shape == (2, 4, 2, 2)


def test_what_does_not_fit_is_refused() -> None:
    for options, word in (({"gamma": -1.0}, "gamma"), ({"game": "hinge"}, "game")):
        with pytest.raises(ConfigError, match=word):
            tiny(**options)
    for layer in (0, 3):
        with pytest.raises(ConfigError, match="layer must be one of the 2"):
            FeatureCritic([3, 4], [1, 8, 8], layer)
    assert load_registry()["vae_gan-mnist"].build_model().players().keys() == {"encoder", "decoder", "discriminator"}
