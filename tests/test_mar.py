"""Laws of the priors of continuous maps: MAR and FlowAR, and the look-alikes that break them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.flowar import FlowAR, cells_of
from zoo.families.latent_diffusion import LatentDiffusion
from zoo.families.mar import MAR, TokenDiffusion
from zoo.nets.dit import DiTBlock


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _loud(model: Any) -> Any:
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model.double().eval()


def mar(**options: Any) -> MAR:
    small = {"shape": [2, 2, 3], "width": 8, "heads": 2, "buffer": 2, "head_width": 8, "head_depth": 1, "table": 50}
    return _loud(MAR(**{**small, **options}))


def flowar(**options: Any) -> FlowAR:
    small = {"shape": [2, 4, 4], "scales": [1, 2, 4], "width": 8, "heads": 2, "depth": 1, "flow_depth": 1}
    return _loud(FlowAR(**{**small, **options}))


# -- MAR ---------------------------------------------------------------------------------------------------------------


def test_hidden_tokens_are_not_seen_which_is_the_same_as_leaving_them_out() -> None:
    model, x = mar(), torch.randn(3, 6, 2, dtype=torch.float64)
    hidden = torch.tensor([[True, False, True, True, False, True]]).expand(3, -1)
    z = model(x, hidden)
    other = torch.where(hidden[..., None], torch.randn_like(x), x)
    assert torch.allclose(z, model(other, hidden), atol=1e-12)
    moved = x.clone()
    moved[:, 1] += 1
    assert not torch.allclose(z, model(moved, hidden))
    # naively: the encoder is given the buffer and the known tokens, and nothing else
    places = torch.cat([torch.arange(2), 2 + torch.tensor([1, 4])])
    told = model.condition(torch.zeros(3, dtype=torch.int64))[:, None].expand(-1, 2, -1)
    h = torch.cat([told, model.enter(x[:, [1, 4]])], 1) + model.encoder_position[places]
    h = model.enter_norm(h)
    for block in model.encoder:
        h = block(h, causal=False)
    h = model.bridge(model.encoder_norm(h))
    whole = model.masked.expand(3, 8, -1).clone()
    whole[:, places] = h
    whole = whole + model.decoder_position
    for block in model.decoder:
        whole = block(whole, causal=False)
    assert torch.allclose(z, model.decoder_norm(whole)[:, 2:] + model.token_position, atol=1e-10)


def test_shares_of_hidden_tokens_are_a_normal_around_one_cut_at_seven_tenths() -> None:
    model = mar(shape=[1, 20, 50])
    hidden = model.hidden(torch.rand(2000, dtype=torch.float64), torch.rand(2000, 1000))
    share = hidden.double().mean(1)
    assert 0.7 <= share.min() < 0.702 and share.max() <= 1
    normal = 1 - 0.25 * torch.randn(400_000, dtype=torch.float64).abs()
    kept = normal[normal >= 0.7]
    assert share.mean() == pytest.approx(float(kept.mean()), abs=0.005)
    assert share.std() == pytest.approx(float(kept.std()), abs=0.005)
    assert not torch.equal(hidden[0], hidden[1])


def test_loss_is_the_mean_over_hidden_tokens_and_draws_and_reaches_z() -> None:
    model, seen = mar(draws=3), []
    x = torch.randn(5, 2, 2, 3, dtype=torch.float64)

    def deterministic(tokens: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        seen.append((tokens, z))
        return (tokens - z[:, :2]).square().mean(1), torch.zeros(len(z), dtype=z.dtype)

    model.head.losses = deterministic
    torch.manual_seed(1)
    terms = model.loss((x, None))
    torch.manual_seed(1)
    hidden = model.hidden(model.rand(5), model.rand(5, 6))
    z = model(model.tokens(x), hidden)
    each = (model.tokens(x) - z[..., :2]).square().mean(2)
    assert torch.allclose(terms["loss"], each[hidden].mean()) and hidden.sum() < 30
    assert not torch.allclose(terms["loss"], each[hidden].sum() / 30)  # a mean over all tokens is another loss
    assert len(seen[0][0]) == 5 * 3 * 6
    terms["loss"].backward()
    assert model.condition.weight.grad.abs().sum() > 0 and model.encoder[0].qkv.weight.grad.abs().sum() > 0


def test_every_token_has_noise_and_time_of_its_own() -> None:
    model, told = mar(draws=2), []
    forward = model.head.network.forward
    model.head.network.forward = lambda x, t, z: (told.append((x, t, z)), forward(x, t, z))[1]
    model.loss((torch.randn(4, 2, 2, 3, dtype=torch.float64), None))
    x, t, z = told[0]
    assert len(t) == 48 and t.unique().numel() > 25  # one time for the whole map would be latent diffusion
    z = z.unflatten(0, (4, 2, 6))
    assert torch.equal(z[:, 0], z[:, 1]) and not torch.equal(*x.unflatten(0, (4, 2, 6)).unbind(1))


class _Perfect(nn.Module):
    """The best guess of the noise in tokens drawn from N(m, s^2), and the larger variance."""

    def __init__(self, m: float, s: float) -> None:
        super().__init__()
        self.m, self.s = m, s

    def forward(self, x: Tensor, log_snr: Tensor, z: Tensor) -> Tensor:
        alpha, sigma = ((v**0.5)[:, None] for v in (torch.sigmoid(log_snr), torch.sigmoid(-log_snr)))
        x_0 = self.m + self.s**2 * alpha / (alpha**2 * self.s**2 + sigma**2) * (x - alpha * self.m)
        return torch.cat([(x - alpha * x_0) / sigma, torch.ones_like(x)], 1)


def test_a_perfect_network_draws_the_gaussian_token() -> None:
    head, g = TokenDiffusion(nn.Identity(), [2]).double(), torch.Generator().manual_seed(0)
    head.network = _Perfect(0.7, 0.5)

    def draw(temperature: float) -> Tensor:
        return head.reversed(
            torch.zeros(2000, 1), None, 1.0, 1000, temperature,
            lambda: torch.randn(2000, 2, dtype=torch.float64, generator=g),
        )  # fmt: skip

    x = draw(1.0)
    assert x.mean() == pytest.approx(0.7, abs=0.03) and x.std() == pytest.approx(0.5, abs=0.03)
    assert draw(0.7).std() < 0.45


def test_in_raster_order_a_token_depends_on_earlier_ones_only() -> None:
    model, asked = mar(), []
    forward = model.forward
    model.forward = lambda x, hidden, y=None: (asked.append((x.clone(), hidden.clone())), forward(x, hidden, y))[1]
    model.draw(2, torch.Generator().manual_seed(0), None, steps=6, order="raster", diffusion_steps=3)
    for i, (_, hidden) in enumerate(asked):
        assert hidden.tolist() == [[False] * i + [True] * (6 - i)] * 2
    asked.clear()
    x = model.draw(2, torch.Generator().manual_seed(0), None, steps=6, diffusion_steps=3)
    assert any(not torch.equal(hidden[0], hidden[1]) for _, hidden in asked)  # an order for each example
    for (a, before), (b, after) in itertools.pairwise(asked):
        assert (before.sum(1) == after.sum(1) + 1).all() and torch.equal(a[~before], b[~before])
    assert torch.isfinite(x).all() and x.shape == (2, 2, 2, 3)


def test_guidance_grows_with_what_is_known_and_is_of_the_small_network() -> None:
    model, scales = mar(num_classes=3), []
    reversed_ = model.head.reversed
    model.head.reversed = lambda z, null, w, *rest: (
        scales.append((w, null is not None)),
        reversed_(z, null, w, *rest),
    )[1]
    y = torch.tensor([0, 1])
    model.draw(2, torch.Generator().manual_seed(0), y, steps=3, diffusion_steps=2, guidance_scale=4.0)
    known = [6 - 5, 6 - 3, 6]
    assert scales == [(pytest.approx(1 + 3 * k / 6), True) for k in known]
    plain = model.sample(4, seed=0, labels=1, diffusion_steps=2)
    assert torch.equal(plain, model.sample(4, seed=0, labels=1, diffusion_steps=2, guidance_scale=1.0))
    assert not torch.allclose(plain, model.sample(4, seed=0, labels=2, diffusion_steps=2))
    with pytest.raises(ConfigError, match="told classes"):
        mar().sample(1, guidance_scale=2.0)


# -- FlowAR ------------------------------------------------------------------------------------------------------------


def test_scales_are_nested_averages_and_the_last_is_the_map_itself() -> None:
    model, x = flowar(shape=[2, 3, 3]), torch.randn(5, 2, 3, 3, dtype=torch.float64)
    maps = model.pyramid(x)
    assert [tuple(y.shape[2:]) for y in maps] == [(1, 1), (2, 2), (4, 4)]
    assert torch.equal(maps[2][:, :, :3, :3], x) and not maps[2][:, :, 3].any()
    for small, large in itertools.pairwise(maps):
        assert torch.allclose(F.avg_pool2d(large, large.shape[2] // small.shape[2]), small)
    assert model.sample(2, seed=0, steps=2).shape == (2, 2, 3, 3)


def test_a_scale_sees_averages_of_smaller_ones_and_no_other() -> None:
    model = flowar()
    maps = model.pyramid(torch.randn(3, 2, 4, 4, dtype=torch.float64))
    h = model.network(model.inputs(maps[:-1]))
    for k, end in ((0, 1), (1, 5)):
        other = list(maps)
        other[k] = other[k] + 1
        moved = model.network(model.inputs(other[:-1]))
        assert torch.equal(h[:, :end], moved[:, :end]) and not torch.allclose(h[:, end:], moved[:, end:])
    up = F.interpolate(maps[1], (4, 4), mode="bicubic").flatten(2).transpose(1, 2)
    assert torch.allclose(model.inputs(maps[:-1])[:, 4:], up)  # no sum of residuals, as in VAR


def test_velocities_of_a_scale_do_not_see_the_noise_of_another() -> None:
    model = flowar()
    x, h = torch.randn(2, 21, 2, dtype=torch.float64), torch.randn(2, 21, 8, dtype=torch.float64)
    t = torch.rand(2, 21, dtype=torch.float64)
    v = model.flow(x, h, t)
    for begin, end in ((0, 1), (1, 5), (5, 21)):
        assert torch.allclose(v[:, begin:end], model.flow(x[:, begin:end], h[:, begin:end], t[:, begin:end], begin))
    other = h.clone()
    other[:, 7] += 1  # told cell by cell, not by one vector
    moved = model.flow(x, other, t)
    assert not torch.allclose(v[:, 7], moved[:, 7]) and torch.equal(v[:, :5], moved[:, :5])


def test_modulation_by_a_map_of_equal_vectors_is_that_by_the_vector() -> None:
    block = _loud(DiTBlock(8, 2, 16))
    x, e = torch.randn(3, 5, 8, dtype=torch.float64), torch.randn(3, 8, dtype=torch.float64)
    assert torch.allclose(block(x, e), block(x, e[:, None].expand(-1, 5, -1)), atol=1e-12)


def test_one_scale_is_flow_matching_with_a_constant_condition() -> None:
    model = flowar(scales=[4])
    x = torch.randn(6, 2, 4, 4, dtype=torch.float64)
    torch.manual_seed(2)
    loss = model.loss((x, None))["loss"]
    torch.manual_seed(2)
    t, eps, y = model.rand(6, 1), model.randn(6, 16, 2), cells_of([x])
    h = model.network(y[:, :0])
    assert torch.allclose(h, h[:1].expand_as(h))  # the class alone
    v = model.flow(t[..., None] * y + (1 - t[..., None]) * eps, h, t.expand(-1, 16))
    assert torch.allclose(loss, (v - (y - eps)).square().mean())


def test_exact_velocities_of_a_gaussian_scale_give_its_mean_and_deviation() -> None:
    model, m, s = flowar(), 0.6, 0.4

    def exact(x: Tensor, h: Tensor, t: Tensor, first: int = 0) -> Tensor:
        t = t[..., None]
        var = t**2 * s**2 + (1 - t) ** 2
        return m + (t * s**2 - (1 - t)) / var * (x - t * m)

    model.flow.forward = exact
    x = model.draw(500, torch.Generator().manual_seed(0), None, steps=40, solver="heun")
    assert x.mean() == pytest.approx(m, abs=0.02) and x.std() == pytest.approx(s, abs=0.02)


@pytest.mark.parametrize("options", [{}, {"guidance_scale": 2.5}])
def test_cached_latents_are_those_of_whole_passes(options: dict[str, Any]) -> None:
    model = flowar(num_classes=3)
    drawn = [model.sample(4, seed=1, labels=1, steps=3, cached=c, **options) for c in (True, False)]
    assert torch.allclose(*drawn, atol=1e-6) and model.calls({"steps": 3}) == 12
    with pytest.raises(ConfigError, match="guidance needs"):
        flowar().sample(1, guidance_scale=2.0)


# -- over an autoencoder -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [mar, flowar])
def test_priors_of_latents_show_their_options_and_fit_the_latents(make: Any) -> None:
    from zoo.registry import load_registry

    autoencoder = load_registry().resolve("autoencoder_kl-mnist").build_model()
    prior = make(shape=[4, 7, 7], **({"scales": [1, 2, 4, 8]} if make is flowar else {})).float()
    model = LatentDiffusion(autoencoder, prior).eval()
    assert {"steps", "guidance_scale"} <= set(model.sampling_options()) and model.family == "autoregressive"
    few = {"steps": 2, **({"diffusion_steps": 2} if make is mar else {})}
    assert model.sample(2, seed=0, **few).shape == (2, 1, 28, 28)
    assert "mse" in model.loss((torch.rand(4, 1, 28, 28), None))


@pytest.mark.parametrize(("make", "said"), [
    (lambda: MAR(levels=256), "levels must be null"), (lambda: MAR(width=9), "multiple of the heads"),
    (lambda: FlowAR(levels=2), "levels must be null"), (lambda: FlowAR(scales=[2, 3, 8]), "multiples of one another"),
    (lambda: FlowAR(scales=[1, 2, 4]), "at least the sides"), (lambda: mar().sample(1, steps=0), "positive integer"),
    (lambda: mar().sample(1, order="confidence"), "unknown order"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()
