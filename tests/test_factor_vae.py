"""Laws of independent latents: the total correlation, the gap that measures it, and the data of known factors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from closed_forms import net
from torch import Tensor, nn

from zoo.data.sprites import FACTORS, Sprites, _sprites
from zoo.errors import ConfigError, ResultError
from zoo.evaluation.factors import factor_metrics, separates
from zoo.families.factor_vae import FactorVAE, shuffled_dimensions
from zoo.families.vae import VAE
from zoo.metrics.disentanglement import mutual_information, mutual_information_gap
from zoo.nets.mlp import MLP


def _factor_vae(args: Mapping[str, Any]) -> float:
    """The autoencoder on half of a batch, the encoder forwards on the rest; the discriminator on all, through half."""
    enc, dec, judge = (net(args[k]) for k in ("encoder", "decoder", "discriminator"))
    own = 3 * (sum(enc) + sum(dec)) - enc[0]
    return 2.0 * (own / 2 + sum(enc) / 2 + 2 * sum(judge) / 2 + 3 * sum(judge) - judge[0])


STEP_FLOPS: dict[str, Callable[[Mapping[str, Any]], float]] = {"FactorVAE": _factor_vae}


pytestmark = pytest.mark.usefixtures("double_precision")


class Quadratic(nn.Module):
    """A logit that is quadratic in z, as the density ratio of Gaussians is."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(6, 1)

    def forward(self, z: Tensor) -> Tensor:
        a, b = z.unbind(1)
        return self.map(torch.stack([a, b, a * a, b * b, a * b, torch.ones_like(a)], 1))


def factor_vae(discriminator: nn.Module | None = None, **options: Any) -> FactorVAE:
    judge = discriminator or MLP([2, 5, 1], "tanh")
    return FactorVAE(MLP([4, 4]), MLP([2, 4]), judge, [1, 2, 2], 2, **options)


# -- total correlation -------------------------------------------------------------------------------------------------


def fitted(model: FactorVAE, z: Tensor, mixed: Tensor) -> float:
    """Return the estimate of the best discriminator of its class, found by second-order steps on a convex loss."""
    optimizer = torch.optim.LBFGS(model.discriminator.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model.discriminator_loss(z, mixed)
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(model.total_correlation(z).detach())


def test_the_best_discriminator_tells_the_total_correlation_of_gaussians():
    rho = 0.8
    z = torch.randn(40_000, 2) @ torch.linalg.cholesky(torch.tensor([[1.0, rho], [rho, 1.0]])).T
    mixed = shuffled_dimensions(z, torch.rand(z.shape))
    truth = -0.5 * math.log(1 - rho**2)  # in nats
    assert fitted(factor_vae(Quadratic()), z, mixed) == pytest.approx(truth, rel=0.03)
    rows = z[torch.rand(len(z)).argsort()]  # the look-alike: whole latents shuffled, which stay as correlated
    assert abs(fitted(factor_vae(Quadratic()), z, rows)) < 0.01


def test_shuffled_dimensions_keep_each_distribution_and_lose_what_binds_them():
    z = torch.randn(5000, 1).expand(-1, 3) + 0.1 * torch.randn(5000, 3)
    mixed = shuffled_dimensions(z, torch.rand(z.shape))
    assert torch.equal(mixed.sort(0).values, z.sort(0).values)
    assert torch.corrcoef(z.T)[0, 1] > 0.95 and torch.corrcoef(mixed.T).fill_diagonal_(0).abs().max() < 0.06


def test_each_player_gets_the_gradient_of_its_own_loss():
    model = factor_vae()
    x = (torch.rand(6, 1, 2, 2) > 0.5).double()
    terms, z, mixed = model.autoencoder_loss(x)
    assert len(z) == len(mixed) == 3 and not mixed.requires_grad
    model.discriminator_loss(z, mixed).backward()
    assert all(p.grad is None for p in [*model.encoder.parameters(), *model.decoder.parameters()])
    assert all(p.grad.abs().max() > 0 for p in model.discriminator.parameters())
    (through,) = torch.autograd.grad(terms["tc"], z, retain_graph=True)
    assert through.abs().max() > 0
    players = model.players()
    assert {id(p) for player in players.values() for p in player.parameters} == {id(p) for p in model.parameters()}


def test_without_the_penalty_it_is_the_vae_on_half_of_the_batch():
    model = factor_vae(gamma=0.0)
    plain = VAE(model.encoder, model.decoder, [1, 2, 2], 2)
    x = (torch.rand(8, 1, 2, 2) > 0.5).double()
    values = []
    for one, part in ((model, x), (plain, x[::2])):
        one.set_noise([torch.Generator().manual_seed(1)])
        values.append(one.loss((part, torch.zeros(len(part)).long())))
    assert torch.equal(values[0]["loss"], values[1]["loss"]) and torch.equal(values[0]["elbo"], values[1]["elbo"])
    assert torch.isfinite(model.loss((x[:1], torch.zeros(1).long()))["loss"])  # a last batch of one


def test_one_latent_cannot_correlate():
    with pytest.raises(ConfigError, match="at least 2 latents"):
        FactorVAE(MLP([4, 2]), MLP([1, 4]), MLP([1, 1]), [1, 2, 2], 1)


# -- the gap -----------------------------------------------------------------------------------------------------------


def test_the_gap_is_one_for_factors_themselves_and_none_for_mixtures_of_them():
    factors = torch.cartesian_prod(torch.arange(4), torch.arange(5), torch.arange(3))
    alone = factors.double()[:, [2, 0, 1]] * torch.tensor([3.0, -1.0, 0.1])  # any order, sign and unit
    assert mutual_information_gap(alone, factors) == pytest.approx(1)
    noise = torch.cat([alone, torch.zeros(60, 1)], 1)  # a latent that is not used costs nothing
    assert mutual_information_gap(noise, factors) == pytest.approx(1)
    assert mutual_information_gap(torch.cat([alone, alone], 1), factors) == pytest.approx(0)  # nor stands out
    turned = alone @ torch.linalg.qr(torch.randn(3, 3)).Q
    assert mutual_information_gap(turned, factors) < 0.5
    assert mutual_information(alone, factors).max(0).values == pytest.approx(torch.tensor([4.0, 5.0, 3.0]).log())


def test_information_is_that_of_the_counts():
    factors = torch.tensor([[0], [0], [1], [1]])
    half = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    p = torch.tensor([[0.5, 0.25], [0.0, 0.25]])  # latent 0 by factor
    by_hand = sum(
        float(p[i, j] * torch.log(p[i, j] / p[i].sum() / p[:, j].sum())) for i in (0, 1) for j in (0, 1) if p[i, j]
    )
    assert mutual_information(half, factors).flatten() == pytest.approx(torch.tensor([by_hand, 0.0]))


def test_what_has_no_gap_is_refused():
    factors = torch.arange(6)[:, None]
    for latents, of, said in (
        (torch.rand(6, 1), factors, "between two latents"),
        (torch.rand(6, 2), torch.zeros(6, 1).long(), "no factor of these examples varies"),
        (torch.rand(5, 2), factors, "5 latents and the factors of 6 examples"),
    ):
        with pytest.raises(ResultError, match=said):
            mutual_information_gap(latents, of)


# -- the data ----------------------------------------------------------------------------------------------------------


def test_sprites_are_all_combinations_once_and_no_two_are_equal():
    data = Sprites()
    parts = [(data.split(s), data.factors(s)) for s in ("train", "validation", "test")]
    assert [len(x) for (x, _), _ in parts] == [6000, 200, 1000]
    x = torch.cat([part[0][0] for part in parts])
    factors = torch.cat([part[1] for part in parts])
    assert len(torch.unique(factors, dim=0)) == len(x) == 7200 == math.prod(FACTORS.values())
    assert len(torch.unique(x.flatten(1), dim=0)) == 7200 and x.unique().tolist() == [0, 1]
    assert all(torch.equal(y, f[:, 0]) for (_, y), f in parts)
    assert not _sprites()[:, [0, -1]].any() and not _sprites()[:, :, [0, -1]].any()  # none is cut off
    mass = x[factors[:, 0] == 0].flatten(1).sum(1).double()  # squares of one scale cover as much wherever they are
    for scale in range(4):
        own = mass[factors[factors[:, 0] == 0][:, 1] == scale]
        assert own.std() / own.mean() < 0.1
    assert len(Sprites(limit=7).factors("train")) == 7


def test_places_move_a_sprite_by_whole_pixels():
    data = Sprites()
    (x, _), factors = data.split("train"), data.factors("train")
    of = {tuple(f.tolist()): i for i, f in enumerate(factors)}
    moved = 0
    for f, i in list(of.items())[:400]:
        right = of.get((*f[:4], f[4] + 1))
        if right is not None:
            assert torch.equal(x[i].roll(1, 2), x[right])
            moved += 1
    assert moved > 200


class Knowing(nn.Module):
    """Reads row and column off a sprite: its centre of mass."""

    def forward(self, x: Tensor) -> Tensor:
        place = torch.arange(28.0)
        total = x.sum((1, 2, 3))
        rows, columns = (x.sum((1, 3)) @ place) / total, (x.sum((1, 2)) @ place) / total
        return torch.stack([rows, columns, torch.zeros_like(rows), torch.zeros_like(rows)], 1)


def test_an_evaluation_measures_the_gap_where_factors_and_posterior_are_known():
    data = Sprites()
    model = VAE(Knowing(), MLP([2, 784]), [1, 28, 28], 2)
    assert separates(model, data) and not separates(model, object())
    found = factor_metrics(model, data, "test", 1000)["mig"].value
    by_hand = mutual_information_gap(model.posterior(data.to_float(data.split("test")[0]))[0], data.factors("test"))
    assert found == pytest.approx(by_hand) and 0.25 < found < 0.45  # two factors of five
