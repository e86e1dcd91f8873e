"""Laws of codes at growing scales, with the look-alikes that break them."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import ConfigError
from zoo.families.multi_scale_vq import MultiScaleVQ
from zoo.nets.binary_quantisers import BSQ
from zoo.nets.mlp import MLP
from zoo.nets.multi_scale_quantiser import MultiScaleQuantiser
from zoo.nets.quantisers import VectorQuantiser


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def quantiser(convolutions: int = 4, update: str = "loss", scales: tuple[int, ...] = (1, 2, 4)) -> MultiScaleQuantiser:
    return MultiScaleQuantiser(VectorQuantiser(8, 3, 1, update), scales, convolutions).double()


def latents(n: int = 5, side: int = 4) -> Tensor:
    return torch.randn(n, 3, side, side, dtype=torch.float64)


def _nearest(low: Tensor, e: Tensor) -> Tensor:
    return (low[:, None] - e[None, :, :, None, None]).square().sum(2).argmin(1)


def test_codes_are_the_nearest_to_what_is_left_of_the_whole_map() -> None:
    q, f = quantiser(), latents()
    e, r, parts = q.quantiser.codebook[0], f, q.split(q.codes(f))
    wrong = False
    for k, (c, s) in enumerate(zip(parts, (1, 2, 4), strict=True)):
        nearest = _nearest(F.interpolate(r, (s, s), mode="area"), e)
        assert torch.equal(c[:, 0], nearest)
        reduced = F.interpolate(f, (s, s), mode="area")  # residuals of reduced targets are another pyramid
        wrong |= not torch.equal(c[:, 0], _nearest(reduced, e))
        u = e[nearest].movedim(3, 1)
        u = u if s == 4 else F.interpolate(u, (4, 4), mode="bicubic")
        r = r - (0.5 * u + 0.5 * q.phi[q.chosen[k]](u))
    assert wrong
    assert torch.allclose(f - q.embed(q.codes(f)), r)


def test_what_is_left_at_the_end_is_the_error_of_one_quantisation_where_phi_is_the_identity() -> None:
    q, f = quantiser(convolutions=0), latents()
    codes = q.codes(f)
    before = f - q.sums(codes)[-2]  # the residual before the last scale
    last = q.quantiser.embed(q.split(codes)[-1])
    assert torch.allclose(f - q.embed(codes), before - last)
    changed, g = quantiser(convolutions=4), latents()
    codes = changed.codes(g)
    left = (g - changed.sums(codes)[-2]) - changed.quantiser.embed(changed.split(codes)[-1])
    assert not torch.allclose(g - changed.embed(codes), left)  # with convolutions it is not


def test_one_codebook_serves_all_scales_and_losses_are_means_over_partial_sums() -> None:
    q, f = quantiser(), latents().requires_grad_()
    made = q(f)
    sums = q.sums(made.codes)
    assert q.quantiser.codebook.shape == (1, 8, 3) and made.codes.shape == (5, 1, 1, 21)
    assert torch.allclose(made.z, sums[-1]) and len(sums) == 3
    for name, expected in (
        ("commitment", sum((f - s.detach()).square().sum() for s in sums) / 15),
        ("codebook", sum((s - f.detach()).square().sum() for s in sums) / 15),
    ):
        assert torch.allclose(made.losses[name], expected)
        parts = [f, q.quantiser.codebook, q.phi[0].weight]
        found = torch.autograd.grad(made.losses[name], parts, retain_graph=True, allow_unused=True)
        assert [g is not None for g in found] == ([True, False, False] if name == "commitment" else [False, True, True])
    (through,) = torch.autograd.grad((made.z * f.detach()).sum(), f)
    assert torch.equal(through, f.detach())


def test_codes_split_join_and_sum_up_to_any_scale() -> None:
    q, f = quantiser(), latents()
    codes = q.codes(f)
    assert torch.equal(q.joined(q.split(codes)), codes) and torch.equal(q.codes(f), codes)
    for length, k in ((1, 0), (5, 1), (21, 2)):
        assert torch.equal(q.embed(codes[..., :length]), q.sums(codes)[k])


@pytest.mark.parametrize(("scales", "convolutions", "chosen"), [
    ((1, 2, 4, 7), 4, [0, 1, 2, 3]), ((1, 2, 4), 4, [0, 1, 2]), ((1, 2, 3, 4, 5, 6, 8, 10, 13, 16), 4, None),
    ((1, 2), 1, [0, 0]), ((4,), 4, [0]), ((1, 2), 0, []),
])  # fmt: skip
def test_near_scales_share_a_convolution_and_none_is_idle(scales, convolutions, chosen) -> None:
    q = quantiser(convolutions, scales=scales)
    assert q.chosen == chosen or (chosen is None and len(q.phi) == 4 and len(q.chosen) == 10)
    assert len(q.phi) == len(set(q.chosen)) and q.chosen == sorted(q.chosen)


def test_more_scales_describe_more_after_learning() -> None:
    q, f = quantiser(0, "ema", (1, 2, 4)), torch.randn(64, 3, 4, 4, dtype=torch.float64)
    f = f + 2 * torch.randn(64, 3, 1, 1, dtype=torch.float64)
    for _ in range(60):
        q.learn(q(f), lambda *shape: torch.rand(shape))
    sums = q.sums(q.codes(f))
    errors = [float((f - s).square().mean()) for s in sums]
    assert all(b < a for a, b in itertools.pairwise(errors)) and errors[-1] < 0.5 * float(f.square().mean())
    assert int((q.quantiser.share > 0).sum()) == 8


def test_bits_at_every_scale() -> None:
    q = MultiScaleQuantiser(BSQ(4, joint=2), (1, 2, 3), 0, "bilinear").double()
    f = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    made = q(f)
    assert made.codes.shape == (2, 4, 1, 14) and (q.groups, q.size) == (4, 2) and "codebook" not in made.losses
    low = [low for low, _, _ in q.steps(f)]
    assert torch.equal(q.split(made.codes)[1], (low[1] > 0).long())
    assert torch.allclose(made.losses["entropy"], torch.stack([q.quantiser(r).losses["entropy"] for r in low]).mean())
    assert torch.allclose(q.embed(made.codes).double(), made.z, atol=1e-6)


def test_autoencoder_says_what_each_scale_adds_and_which_codes_are_known() -> None:
    q = MultiScaleQuantiser(VectorQuantiser(4, 2), (1, 2), 4)
    model = MultiScaleVQ(MLP([16, 8]), MLP([8, 16]), q, [1, 4, 4], "bernoulli")
    x = (torch.rand(3, 1, 4, 4) > 0.5).float()
    assert model.grid == (1, 1, 5) and model.codes(x).shape == (3, 1, 1, 5) and model.scales == (1, 2)
    assert torch.equal(model.reconstruct(x), model.decode(model.codes(x)))
    assert torch.equal(model.reconstruct(x, scales=1), model.partial(model.codes(x), 1))
    assert not torch.equal(model.reconstruct(x, scales=1), model.reconstruct(x))
    assert model.code_stages().tolist() == [[[0, 1, 1, 1, 1]]]
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[:, :, :2] = True
    assert model.known_codes(mask).tolist() == [[[[False, True, True, False, False]]]]
    with pytest.raises(ConfigError, match="between 1 and 2"):
        model.reconstruct(x, scales=3)


def test_scales_that_do_not_grow_and_other_quantisers_are_refused() -> None:
    with pytest.raises(ConfigError, match="growing positive numbers"):
        quantiser(scales=(2, 2, 4))
    with pytest.raises(ConfigError, match="bicubic"):
        MultiScaleQuantiser(VectorQuantiser(4, 2), (1, 2), 4, "nearest")
    with pytest.raises(ConfigError, match="must be a MultiScaleQuantiser"):
        MultiScaleVQ(MLP([16, 8]), MLP([8, 16]), VectorQuantiser(4, 2), [1, 4, 4], "bernoulli")
