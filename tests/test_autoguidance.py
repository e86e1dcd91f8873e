"""Laws of guidance by a network's own early self, for every model that offers it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.ddpm import DDPM
from zoo.families.flow_matching import FlowMatching
from zoo.families.latent_diffusion import AutoencoderKL, LatentDiffusion
from zoo.families.score_sde import ScoreSDE
from zoo.maths.guidance import guide
from zoo.nets.timed_mlp import TimedMLP
from zoo.nets.weak_copy import WeakCopy

BATCHES = 6


def _network() -> TimedMLP:
    torch.manual_seed(0)
    return TimedMLP(features=2, width=8, depth=1)


def _model(kind: type, **args: Any) -> Any:
    torch.manual_seed(0)
    return kind(_network(), shape=[2], levels=None, lr=1e-2, **args)


KINDS = [DDPM, ScoreSDE, FlowMatching]


def _step(model: Any) -> None:
    x = torch.randn(8, 2), torch.zeros(8, dtype=torch.int64)
    model.loss(x)["loss"].backward()
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p -= 0.1 * p.grad
                p.grad = None


def _weights(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.mark.parametrize("kind", KINDS)
def test_the_early_self_is_the_mean_of_the_second_half_of_its_batches(kind: type) -> None:
    model = _model(kind, weak_batches=BATCHES)
    seen = []
    for _ in range(BATCHES + 3):
        seen.append(_weights(model.network))
        _step(model)
    expected = torch.stack(seen[BATCHES // 2 : BATCHES]).mean(0)
    torch.testing.assert_close(_weights(model.weak), expected)
    assert not torch.equal(_weights(model.network), expected)
    assert not any(p.requires_grad for p in model.weak.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_on_from_a_state_and_is_left_alone_by_validation(kind: type) -> None:
    model, again = (_model(kind, weak_batches=BATCHES) for _ in range(2))
    for _ in range(4):
        _step(model)
    again.load_state_dict(model.state_dict())
    again.eval()
    again.loss((torch.randn(8, 2), torch.zeros(8, dtype=torch.int64)))
    again.train()
    for m in (model, again):
        torch.manual_seed(1)
        for _ in range(3):
            _step(m)
    assert int(again.weak.seen) == BATCHES
    assert torch.equal(_weights(model.weak), _weights(again.weak))


@pytest.mark.parametrize("kind", KINDS)
def test_scales_one_and_zero_are_one_network_to_the_bit(kind: type) -> None:
    model = _model(kind, weak_batches=2, guidance_scale=2.0).eval()
    with torch.no_grad():
        for network in (model.network, model.weak):
            for p in network.parameters():
                p.copy_(torch.randn(p.shape))
    plain = _model(kind)
    plain.eval().network.load_state_dict(model.network.state_dict())
    assert torch.equal(model.sample(4, seed=0, guidance_scale=1.0), plain.sample(4, seed=0))
    plain.network.load_state_dict(model.weak.network.state_dict())
    assert torch.equal(model.sample(4, seed=0, guidance_scale=0.0), plain.sample(4, seed=0))
    assert torch.equal(model.sample(4, seed=0), model.sample(4, seed=0, guidance_scale=2.0))
    assert model.calls({}) == 2 * model.calls({"guidance_scale": 1.0})


def test_away_from_the_weak_function_with_the_same_label() -> None:
    def strong(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        return x * t + y

    def weak(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        return x - t + 10 * y

    x, t, y = torch.randn(3, dtype=torch.float64), torch.tensor(0.3), torch.tensor([1, 2, 3])
    found = guide(strong, 2.5, y, 9, weak)(x, t)
    torch.testing.assert_close(found, 2.5 * (x * t + y) - 1.5 * (x - t + 10 * y))


def test_the_prior_of_latents_keeps_one_too() -> None:
    autoencoder = AutoencoderKL(
        nn.Sequential(nn.Flatten(), nn.Linear(4, 4)), nn.Flatten(), [1, 2, 2], [2, 1, 1], scale="shared"
    )
    autoencoder.latents = lambda x: x.flatten(1)[:, :2, None, None]  # a linear map stands for the encoder
    prior = _Prior(nn.Conv2d(2, 2, 1), shape=[2, 1, 1], levels=None, weak_batches=BATCHES, guidance_scale=2.0)
    model = LatentDiffusion(autoencoder, prior)
    for _ in range(BATCHES + 2):
        model.loss((torch.rand(4, 1, 2, 2), torch.zeros(4, dtype=torch.int64)))
    assert int(model.prior.weak.seen) == BATCHES


class _Prior(DDPM):
    def output(self, x: Tensor, log_snr: Tensor, labels: Tensor | None, network: nn.Module | None = None) -> Tensor:
        return (self.network if network is None else network)(x)


def test_too_few_batches_and_guidance_without_any() -> None:
    with pytest.raises(ConfigError, match="at least 2 batches"):
        WeakCopy(_network(), 1)
    for kind in (DDPM, ScoreSDE):
        with pytest.raises(ConfigError, match="weak_batches"):
            _model(kind, guidance_scale=2.0)
    with pytest.raises(ConfigError, match="weak version"):
        _model(FlowMatching).sample(1, guidance_scale=2.0)
