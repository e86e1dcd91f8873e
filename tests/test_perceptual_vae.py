"""Laws of a perceptual term: what it changes, and the bound, which it does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from closed_forms import vae
from torch import Tensor, nn

from zoo.data.mnist import MNIST
from zoo.errors import ConfigError
from zoo.families.perceptual_vae import PerceptualVAE
from zoo.families.vae import VAE
from zoo.hub import load_pretrained, save_pretrained
from zoo.maths.divergences import feature_distance
from zoo.metrics.classifier import DigitFeatures, digit_classifier
from zoo.nets.mlp import MLP
from zoo.registry import load_registry

SHAPE = [1, 3, 4]


def _perceptual(args: Mapping[str, Any]) -> float:
    """The VAE's, and the frozen convolutions on data, on means, and back to the means."""
    trunk = 25 * 32 * 14**2 + 9 * 32 * 32 * 14**2 + 9 * (32 + 64) * 64 * 7**2 + 9 * 64 * 96 * 4**2
    return vae(args) + 2.0 * 3 * trunk


STEP_FLOPS: dict[str, Callable[[Mapping[str, Any]], float]] = {"PerceptualVAE": _perceptual}


class Eyes(nn.Module):
    """Two layers of features, and statistics that a network in training would move."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.first, self.norm = nn.Linear(12, 5), nn.BatchNorm1d(5)
        self.second = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> list[Tensor]:
        h = self.norm(self.first(x.flatten(1))).tanh()
        return [h, self.second(h)]


def model(cls: type[VAE] = PerceptualVAE, **options: Any) -> VAE:
    torch.manual_seed(0)
    parts = MLP([12, 8, 4]), MLP([2, 8, 24])
    return cls(*parts, SHAPE, 2, "discretized_logistic", lr=1e-2, **options)


def data(n: int = 6) -> list[tuple[Tensor, Tensor]]:
    source = torch.Generator().manual_seed(3)
    levels = torch.randint(256, (n, 8, *SHAPE), generator=source) / 255
    return [(x, torch.zeros(8, dtype=torch.long)) for x in levels]


def fit(one: VAE, batches: list[tuple[Tensor, Tensor]]) -> None:
    """Train for a step a batch."""
    (optimizer,) = one.train().configure_optimizers()
    one.set_noise([torch.Generator().manual_seed(1)])
    for i, batch in enumerate(batches):
        one.training_step(batch, i).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("options", [{"perceptual": Eyes(), "perceptual_weight": 0.0}, {}])
def test_without_weight_or_network_it_is_the_vae_to_the_bit(options: dict[str, Any]) -> None:
    plain, other = model(VAE), model(**options)
    for one in (plain, other):
        fit(one, data())
    state = other.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())
    assert torch.equal(plain.sample(3, seed=0), other.sample(3, seed=0))
    x = data()[0][0]
    assert torch.equal(plain.log_prob(x, k=3, seed=0), other.log_prob(x, k=3, seed=0))


def test_the_bound_is_the_same_whatever_the_weight_and_the_loss_is_not() -> None:
    (x, y), terms = data()[0], {}
    for weight in (0.0, 1.0, 50.0):
        one = model(perceptual=Eyes(), perceptual_weight=weight)
        one.set_noise([torch.Generator().manual_seed(1)])
        terms[weight] = one.loss((x, y))
        assert torch.equal(one.log_prob(x, k=5, seed=2), model(VAE).log_prob(x, k=5, seed=2))
    assert len({t["elbo"].item() for t in terms.values()}) == 1
    assert "perceptual" not in terms[0.0] and terms[1.0]["perceptual"] > 0
    for weight in (1.0, 50.0):
        more = terms[weight]["loss"] - terms[0.0]["loss"]
        assert more.item() == pytest.approx(weight * terms[weight]["perceptual"].item(), rel=1e-4)


def test_the_term_is_a_distance_of_features_that_reaches_both_networks() -> None:
    one, (x, y) = model(perceptual=Eyes()), data()[0]
    terms = one.loss((x, y))
    gradients = torch.autograd.grad(terms["perceptual"], [*one.encoder.parameters(), *one.decoder.parameters()])
    assert all(g.abs().sum() > 0 for g in gradients[:-1])
    eyes, x_hat = Eyes().eval(), torch.rand(8, *SHAPE)
    wanted = sum((a - b).square().sum() / 8 for a, b in zip(eyes(x), eyes(x_hat), strict=True))
    assert torch.allclose(feature_distance(eyes, x, x_hat), wanted) and feature_distance(eyes, x, x) == 0
    assert torch.allclose(feature_distance(lambda v: v, x, x_hat), (x - x_hat).square().sum() / 8)


def test_the_network_stays_as_it_is_and_is_not_published(tmp_path: Path) -> None:
    one, before = model(perceptual=Eyes(), perceptual_weight=2.0), Eyes().state_dict()
    fit(one, data())
    assert all(torch.equal(value, before[name]) for name, value in one.perceptual.state_dict().items())
    moved = {id(p) for p in one.players()["model"].parameters}
    assert not moved & {id(p) for p in one.perceptual.parameters()}
    one.eval()
    again = load_pretrained(save_pretrained(one.released(), tmp_path / "model"))
    assert again.perceptual is None and not [k for k in again.state_dict() if "perceptual" in k]
    assert torch.equal(again.sample(2, seed=0), one.sample(2, seed=0))


def test_digits_that_are_blurred_look_further_away_than_digits_that_are_moved() -> None:
    """By features of the shipped classifier; pixel by pixel it is the other way round."""
    digits = MNIST()
    x = digits.to_float(digits.split("test")[0][:100])
    blurred = F.avg_pool2d(F.pad(x, (2, 2, 2, 2)), 5, 1)
    right = x.roll(1, 3)
    assert (blurred - x).square().sum() < 1.2 * (right - x).square().sum()
    eyes = DigitFeatures()
    assert feature_distance(eyes, x, blurred) > 1.3 * feature_distance(eyes, x, right)


def test_features_are_the_classifiers_at_three_sizes() -> None:
    eyes, x = DigitFeatures(), torch.rand(2, 1, 28, 28)
    found = eyes(x)
    assert [f.shape[1:] for f in found] == [(32, 14, 14), (64, 7, 7), (96, 4, 4)]
    assert torch.allclose(4 * found[-1], digit_classifier().trunk(2 * x - 1), atol=1e-5)
    assert [f.shape for f in eyes(torch.rand(2, 3, 32, 40))] == [f.shape for f in found]
    assert not [p for p in eyes.parameters() if p.requires_grad] and not eyes.training


def test_weights_out_of_range_are_refused() -> None:
    for weight in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="perceptual_weight"):
            model(perceptual_weight=weight)
    assert load_registry()["perceptual_vae-mnist"].build_model().training_parts == ("perceptual",)
