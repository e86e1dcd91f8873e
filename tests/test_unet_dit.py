"""Laws of the networks that are told a time and a class."""

from __future__ import annotations

import math

import pytest
import torch
from closed_forms import told
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from zoo.errors import ConfigError
from zoo.nets.dit import DiT
from zoo.nets.embeddings import Embedding, grid_positions, sinusoids
from zoo.nets.timed_mlp import TimedMLP
from zoo.nets.unet import UNet

IMAGES = {
    "unet": lambda **more: UNet(1, [8, 12], embedding=8, **more),
    "unet folded": lambda **more: UNet(1, [8, 8, 12], embedding=8, patch=2, attention=[1, 2], heads=2, **more),
    "dit": lambda **more: DiT(1, 12, 4, 16, 2, 4, **more),
}
ALL = {**IMAGES, "mlp": lambda **more: TimedMLP(3, 8, 2, **more)}
B, K = 5, 3


def _example(name: str) -> Tensor:
    return torch.randn(B, 3, generator=_seed(1)) if name == "mlp" else torch.randn(B, 1, 12, 12, generator=_seed(1))


def _seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def _stirred(net: nn.Module) -> nn.Module:
    """Return the network in float64 with no weight left at zero."""
    generator = _seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    return net.double()


@pytest.mark.parametrize("name", ALL)
def test_network_is_told_time_and_label(name: str) -> None:
    net, x = _stirred(ALL[name](num_classes=K)), _example(name).double()
    t, y = torch.linspace(-3, 9, B, dtype=torch.float64), torch.tensor([0, 1, 2, 1, 0])
    out = net(x, t, y)
    assert out.shape == x.shape
    each = torch.cat([net(x[i : i + 1], t[i : i + 1], y[i : i + 1]) for i in range(B)])
    assert torch.allclose(out, each, atol=1e-10)  # examples do not see each other
    assert (net(x, t + 0.1, y) - out).abs().flatten(1).amax(1).min() > 1e-4
    assert (net(x, t, (y + 1) % K) - out).abs().flatten(1).amax(1).min() > 1e-3
    assert torch.equal(net(x, t), net(x, t, torch.full((B,), K)))  # no labels are the null label
    assert (net(x, t) - out).abs().flatten(1).amax(1).min() > 1e-3
    with pytest.raises(ConfigError, match="takes no labels"):
        ALL[name]()(x.float(), t.float(), y)


@pytest.mark.parametrize("name", ALL)
def test_every_output_depends_on_every_input(name: str) -> None:
    net, x = _stirred(ALL[name]()), _example(name).double()[:1].requires_grad_()
    out = net(x, torch.zeros(1, dtype=torch.float64)).flatten()
    (gradient,) = torch.autograd.grad(out[0], x)
    reached = gradient.flatten().ne(0).double().mean()
    assert reached == 1 if name in ("dit", "mlp", "unet folded") else reached > 0.5


@pytest.mark.parametrize("name", IMAGES)
def test_image_networks_start_at_zero(name: str) -> None:
    out = IMAGES[name](out_channels=2)(_example(name), torch.rand(B))
    assert out.shape == (B, 2, 12, 12) and not out.any()


def test_dit_blocks_start_as_the_identity() -> None:
    net = DiT(1, 12, 4, 16, 3, 4)
    h, e = torch.randn(B, 9, 16), torch.randn(B, 16)
    assert all(torch.equal(block(h, e), h) for block in net.blocks)
    assert not net.out.weight.any() and not net.modulation.weight.any()


def test_dit_knows_where_its_patches_are() -> None:
    net, x = _stirred(DiT(1, 12, 4, 16, 1, 4)), torch.randn(1, 1, 12, 12, dtype=torch.float64)
    t = torch.zeros(1, dtype=torch.float64)
    moved = net(x.roll(4, -1), t).roll(-4, -1)
    assert (moved - net(x, t)).abs().max() > 1e-3


@pytest.mark.parametrize("side", [10, 12, 14, 22])
def test_unet_takes_odd_sides(side: int) -> None:
    net = _stirred(UNet(1, [4, 4, 8], embedding=8, patch=2))
    assert net(torch.randn(1, 1, side, side, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)).shape[2] == side


def test_sinusoids_are_waves_of_the_stated_periods() -> None:
    t = torch.tensor([0.0, 0.3, -2.0, 40.0], dtype=torch.float64)
    e = sinusoids(t, 6, (0.5, 50.0))
    for k, period in enumerate((0.5, 5.0, 50.0)):
        assert torch.allclose(e[:, k], (2 * math.pi * t / period).cos())
        assert torch.allclose(e[:, 3 + k], (2 * math.pi * t / period).sin())
    places = grid_positions(3, 4, 8)
    assert places.shape == (12, 8) and torch.cdist(places, places).add(torch.eye(12)).min() > 0.1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Embedding(7), "even number"),
        (lambda: Embedding(8, periods=[3.0, 1.0]), "growing"),
        (lambda: UNet(1, []), "at least one width"),
        (lambda: UNet(1, [6], attention=[0]), "divide into 4 heads"),
        (lambda: UNet(1, [8], attention=[1]), "stages 0 to 0"),
        (lambda: UNet(1, [8], patch=3)(torch.zeros(1, 1, 8, 8), torch.zeros(1)), "patches of 3"),
        (lambda: DiT(1, 10, 4, 16, 1, 4), "multiple of the patch"),
        (lambda: DiT(1, 8, 4, 16, 1, 4)(torch.zeros(1, 1, 12, 12), torch.zeros(1)), "sides of 8"),
        (lambda: TimedMLP(2, depth=0), "at least 1 block"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


@pytest.mark.parametrize("name", ALL)
def test_compute_has_its_closed_form(name: str) -> None:
    net, x = ALL[name](), _example(name)
    with FlopCounterMode(display=False) as counter, nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        net(x, torch.zeros(B))
    assert counter.get_total_flops() == 2 * B * told(net.spec, 12)[0]
