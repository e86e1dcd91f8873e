"""Laws of the network of DiffWave, and of diffusion models of recordings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from zoo.data.recordings import read_wav
from zoo.errors import ConfigError
from zoo.families.ddpm import DDPM
from zoo.maths.mulaw import mulaw_decode
from zoo.media import save_samples
from zoo.nets.diffwave import DiffWave

T = 40


def net(**options: Any) -> DiffWave:
    torch.manual_seed(0)
    network = DiffWave(**{"width": 4, "layers": 3, "embedding": 8, **options}).double()
    torch.nn.init.normal_(network.out.weight)
    return network.requires_grad_(False)


def reach(network: DiffWave, length: int = T) -> Tensor:
    """Return which outputs each input moves, bool (outputs, inputs)."""
    x = torch.randn(length, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = torch.zeros(1, dtype=torch.float64)
    J = torch.autograd.functional.jacobian(lambda x: network(x[None], t)[0], x)
    return J.abs() > 0


@pytest.mark.parametrize(("layers", "cycle", "radius"), [(1, 10, 1), (3, 10, 7), (4, 2, 6)])
def test_each_output_sees_both_ways_as_far_as_the_dilations_reach(layers: int, cycle: int, radius: int) -> None:
    i = torch.arange(T)
    within = (i[:, None] - i).abs() <= radius
    found = reach(net(layers=layers, cycle=cycle))
    assert not bool((found & ~within).any())
    before, after = (bool(found.diagonal(offset).any()) for offset in (-radius, radius))
    assert before and after  # the causal look-alike sees nothing after


def test_the_network_is_its_equations() -> None:
    network = net(layers=2, num_classes=3)
    x, t, y = torch.randn(2, T, dtype=torch.float64), torch.tensor([0.3, -2.0]).double(), torch.tensor([2, 0])
    e = torch.nn.functional.silu(network.embedding(t, y))
    h, total = (x[:, None] * network.stem.weight[:, 0] + network.stem.bias[:, None]).relu(), 0.0
    for d, layer in zip((1, 2), network.layers, strict=True):
        padded = torch.nn.functional.pad(h + layer.told(e)[..., None], (d, d))
        taps = [
            torch.einsum("oc,bct->bot", layer.taps.weight[:, :, k], padded[:, :, k * d : k * d + T]) for k in range(3)
        ]
        a, b = (sum(taps) + layer.taps.bias[:, None]).chunk(2, 1)
        z = torch.einsum("oc,bct->bot", layer.mixed.weight[:, :, 0], a.tanh() * b.sigmoid()) + layer.mixed.bias[:, None]
        if not layer.last:
            h, z = (h + z[:, :4]) / math.sqrt(2), z[:, 4:]
        total = total + z
    out = network.out(network.head(total / math.sqrt(2)).relu())[:, 0]
    torch.testing.assert_close(network(x, t, y), out)
    assert not torch.allclose(network(x, t + 1, y), out) and not torch.allclose(network(x, t, y.flip(0)), out)


def test_it_starts_at_zero_and_takes_any_length() -> None:
    network = DiffWave(width=4, layers=3, embedding=8)
    for length in (1, 17, 300):
        assert network(torch.randn(2, length), torch.zeros(2)).shape == (2, length)
    assert not network(torch.randn(2, 9), torch.zeros(2)).any()
    spec = DiffWave.resized({"width": 4}, (300,), (300,))
    assert spec == {"class_path": "zoo.nets.diffwave.DiffWave", "init_args": {"width": 4}}
    for inputs, outputs in (((1, 8, 8), (1, 8, 8)), ((8,), (16,))):
        with pytest.raises(ConfigError, match="a network of recordings"):
            DiffWave.resized({}, inputs, outputs)
    for wrong in ({"width": 0}, {"layers": 0}, {"cycle": 0}):
        with pytest.raises(ConfigError, match="at least 1"):
            DiffWave(**wrong)


def test_diffusion_of_recordings_draws_scores_and_completes_them(tmp_path: Path) -> None:
    model = DDPM(net(), [T], rate=8000, table=20, steps=4).double().eval()
    x = model.sample(2, seed=0)
    assert x.shape == (2, T) and float(x.min()) >= 0 and float(x.max()) <= 1
    assert model.log_prob(x, seed=0).shape == (2,) and model.likelihood() == "vlb"
    sound, _ = save_samples(model, x, tmp_path / "x.wav")
    with sound.open("rb") as file:
        wave, rate = read_wav(file, "x")
    assert rate == 8000
    torch.testing.assert_close(wave[:T], mulaw_decode(x[0]).float(), rtol=0, atol=1e-4)
    given = x.clone()
    given[:, 10:] = math.nan
    completed = model.sample(2, seed=1, given=given)
    torch.testing.assert_close(completed[:, :10], x[:, :10], rtol=0, atol=1e-6)
