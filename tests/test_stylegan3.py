"""Laws of the alias-free generator: filters, bands, moves by whole pixels and by parts of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_gan import critic_layers, game, quiet
from test_wgan_gp import fit
from torch import Tensor, nn

from zoo.diagnostics import DIAGNOSTICS, Subject, mixing_grid, truncation_rows
from zoo.errors import ConfigError
from zoo.export.parts import parts
from zoo.families.stylegan import StyleGAN
from zoo.families.stylegan3 import StyleGAN3
from zoo.maths.filters import attenuation, kaiser_beta, low_pass, moved, resampling
from zoo.metrics.equivariance import translation_equivariance
from zoo.nets.alias_free import AliasFreeSynthesis, FilteredActivation, FourierFeatures, Passband, bands
from zoo.nets.style import DeviationCritic, StyleMapping, StyleSynthesis
from zoo.registry import load_registry

pytestmark = pytest.mark.usefixtures("double_precision")


# -- closed form of the compute of a training step ---------------------------------------------------------------------


def _synthesis(args: Mapping[str, Any], style: int) -> list[float]:
    """Waves, then of each layer style, convolution and its norm, and four products with matrices of filters.

    The waves have no gradient of their own; the filters' matrices, which do not learn, cost a third less than layers.
    """
    (channels, side, _), n, margin = args["shape"], args["layers"], args["margin"]
    found = bands(n, float(side))
    widths = [max(1, min(round(args["base"] / 2 / b.cutoff), args["widest"])) for b in found]
    sizes = [math.ceil(b.rate) + 2 * margin for b in found[:-1]] + [side]
    layers: list[float] = [4 * style, 2 / 3 * widths[0] ** 2 * sizes[0] ** 2]
    for i in range(n):
        j = max(i - 1, 0)
        fine = FilteredActivation.fine_samples(sizes[j], sizes[i], found[j], found[i])
        a, b, before, after = widths[j], widths[i], sizes[j], sizes[i]
        filters = (before + fine) * before * fine + (fine + after) * fine * after
        layers += [style * a, 9 * a * b * before**2, a * b, 2 / 3 * b * filters]
    return [*layers, style * widths[-1], widths[-1] * channels * side**2]


def stylegan3_flops(args: Mapping[str, Any]) -> float:
    m, s = args["mapping"]["init_args"], args["synthesis"]["init_args"]
    mapping = [m["latent_dim"] * m["style_dim"]] + [m["style_dim"] ** 2] * (m["depth"] - 1)
    G = [*mapping, *_synthesis(s, m["style_dim"])]
    forward = sum(G) + sum(v / 2 for v in G if isinstance(v, float))  # what does not learn, in full
    return game(G, critic_layers(args), args, penalised=1) + 2.0 * (sum(mapping) + forward - sum(G))


STEP_FLOPS: dict[str, Callable[[Mapping[str, Any]], float]] = {"StyleGAN3": stylegan3_flops}


# -- filters -----------------------------------------------------------------------------------------------------------


def response(taps: Tensor, rate: float, frequency: Tensor) -> Tensor:
    """Return the amplitude that a symmetric filter leaves of waves: sum_k h_k cos(2 pi f x_k)."""
    x = (torch.arange(len(taps)) - (len(taps) - 1) / 2) / rate
    return (taps * torch.cos(2 * math.pi * frequency[:, None] * x)).sum(1)


@pytest.mark.parametrize(("n", "cutoff", "half_width", "rate"), [(48, 8.0, 4.0, 64.0), (96, 14.0, 3.0, 112.0)])
def test_filters_pass_and_stop_what_the_closed_form_says(n: int, cutoff: float, half_width: float, rate: float) -> None:
    """Ripples within 10^(-A/20) on both sides of the band, half of the amplitude at the cut-off, all of a constant."""
    x = (torch.arange(n) - (n - 1) / 2) / rate
    h = low_pass(x, n, cutoff, half_width, rate)
    assert h.sum().item() == pytest.approx(1, abs=1e-12) and torch.allclose(h, h.flip(0))
    decibels = attenuation(n, half_width, rate)
    ripple = 2.5 * 10 ** (-decibels / 20)  # Kaiser's formula is a fit
    passed = response(h, rate, torch.linspace(0, cutoff - half_width, 400))
    stopped = response(h, rate, torch.linspace(cutoff + half_width, rate / 2, 400))
    assert (passed - 1).abs().max() < ripple and stopped.abs().max() < ripple < 5e-3
    assert response(h, rate, torch.tensor([cutoff])).item() == pytest.approx(0.5, abs=0.01)
    cut = torch.sinc(2 * cutoff * x)  # the look-alike: a sinc that is cut off
    assert response(cut / cut.sum(), rate, torch.linspace(cutoff + half_width, rate / 2, 400)).abs().max() > 5 * ripple


def test_windows_follow_kaisers_rule() -> None:
    assert [kaiser_beta(a) for a in (20.0, 21.0, 60.0)] == pytest.approx([0, 0, 0.1102 * 51.3])
    assert kaiser_beta(50) == pytest.approx(kaiser_beta(50.0001), abs=0.02)  # where the two formulas meet
    n = 40
    window = low_pass(torch.linspace(-0.5, 0.5, n + 1), n, 1e-9, 5.0, float(n))
    wanted = torch.kaiser_window(n + 1, periodic=False, beta=kaiser_beta(attenuation(n, 5.0, n)))
    assert torch.allclose(window / window.max(), wanted, atol=1e-9)


@pytest.mark.parametrize(("rates", "sizes"), [((14, 28), (20, 40)), ((28, 14), (40, 20)), ((14, 56), (20, 80))])
def test_resampled_waves_are_the_waves_at_the_other_rate(rates: tuple[int, int], sizes: tuple[int, int]) -> None:
    taps = 24 * max(rates) // min(rates)
    M = resampling(sizes, rates, taps, 5.0, 2.0)
    before, after = ((torch.arange(n) + 0.5 - n / 2) / s for n, s in zip(sizes, rates, strict=True))
    wave = [torch.sin(2 * math.pi * 2.5 * x + 0.7) for x in (before, after)]
    middle = slice(sizes[1] // 2 - 4, sizes[1] // 2 + 4)
    assert torch.allclose((M @ wave[0])[middle], wave[1][middle], atol=3e-3)
    assert M.shape == (sizes[1], sizes[0]) and torch.allclose(M, M.flip(0, 1))


def test_images_are_moved_exactly_by_whole_pixels_and_closely_by_parts() -> None:
    x = torch.rand(2, 3, 12, 10)
    y, known = moved(x, 2.0, -1.0)
    assert torch.equal(y[..., :-1, 2:], x[..., 1:, :-2]) and known.sum() == 11 * 8
    at = torch.arange(40.0)

    def waves(right: float, down: float) -> Tensor:
        return torch.cos(0.8 * (at - right)) * torch.sin(0.6 * (at[:, None] - down) + 1)

    y, known = moved(waves(0, 0)[None, None], 1.3, -0.6)
    assert ((y[0, 0] - waves(1.3, -0.6)) * known).abs().max() < 0.02
    assert known[:34, 4:38].sum() > 1000 and not known[:, :4].any() and not known[-3:].any()


# -- bands -------------------------------------------------------------------------------------------------------------


def test_bands_grow_geometrically_and_lie_below_half_of_their_rates() -> None:
    """Of the paper's fourteen layers at 1024 pixels, with the rates of its figure 4."""
    found = bands(14, 1024.0)
    assert [b.rate for b in found] == [16, 16, 32, 32, 64, 128, 128, 256, 256, 512, 1024, 1024, 1024, 1024]
    assert all(b.cutoff < b.rate / 2 or b.cutoff == 512 for b in found) and found[0].cutoff == 2
    ratios = [b.cutoff / a.cutoff for a, b in pairwise(found[:13])]
    assert ratios == pytest.approx([256 ** (1 / 12)] * 12)
    assert found[12] == found[13] == Passband(512.0, pytest.approx(512 * (2**0.3 - 1)), 1024.0)  # type: ignore[arg-type]
    for band in found[:-2]:  # no filter's transition reaches what would fold back below the cut-off
        assert band.cutoff + band.half_width <= band.rate - band.cutoff + 1e-9


def test_waves_are_moved_by_phases_alone() -> None:
    torch.manual_seed(0)
    band = Passband(3.0, 2.0, 16.0)
    waves = FourierFeatures(20, 5, (16, 16), band)
    assert (waves.frequencies.norm(dim=1) <= 3).all()
    w = torch.randn(2, 5)
    assert torch.allclose(waves(w)[0], waves(w)[1])  # at the start styles neither move nor turn
    nn.init.normal_(waves.affine.weight)
    here, right = waves(w), waves(w, torch.tensor([3 / 16, -2 / 16]))
    assert torch.allclose(right[..., :-2, 3:], here[..., 2:, :-3], atol=1e-12)
    assert not torch.allclose(here[0], here[1])
    with torch.no_grad():  # a quarter of a turn, with no move
        waves.affine.weight.zero_()
        start = waves(w)
        waves.affine.bias.copy_(torch.tensor([0.0, 2.0, 0.0, 0.0]))
    turned = waves(w)
    assert torch.allclose(turned, start.rot90(1, (2, 3)), atol=1e-12) or torch.allclose(
        turned, start.rot90(-1, (2, 3)), atol=1e-12
    )


# -- the non-linearity -------------------------------------------------------------------------------------------------


class Pointwise(FilteredActivation):
    """The look-alike: the same filters, and a non-linearity at the rate of the input."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(x, 0.2)
        x = self.up_y @ x @ self.up_x.T
        return self.down_y @ x @ self.down_x.T


def test_what_the_output_does_not_see_is_not_computed() -> None:
    """The samples at the fine rate beyond the reach of the second filter change nothing."""
    source = target = bands(4, 24.0)[0]
    few = FilteredActivation.fine_samples(30, 14, source, target)
    assert few < 2 * 30 == FilteredActivation.fine_samples(30, 30, source, target)
    x = torch.randn(2, 3, 30, 30)
    small, large = (FilteredActivation((30, 30), (n, n), source, target)(x) for n in (14, 30))
    assert torch.allclose(small, large[..., 8:-8, 8:-8], atol=1e-12)
    gain = FilteredActivation((30, 30), (2, 2), source, target)(torch.ones(1, 1, 30, 30))
    assert torch.allclose(gain, torch.full((1, 1, 2, 2), math.sqrt(2)))


def test_a_filtered_activation_moves_with_its_input_by_parts_of_a_pixel() -> None:
    """Errors at half a pixel, of a wave near the limit: those of a pointwise activation are many times as large."""
    band, n = Passband(8.0, 8.0, 32.0), 64
    at = (torch.arange(n) + 0.5 - n / 2) / 32
    errors = {}
    for cls in (FilteredActivation, Pointwise):
        act = cls((n, n), (n, n), band, band)

        def drawn(shift: float, act: nn.Module = act) -> Tensor:
            wave = torch.sin(2 * math.pi * 7.1 * (at - shift / 32)) + 0.3
            return act(wave.expand(1, 1, n, n))[0, 0, n // 2]

        wanted, known = moved(drawn(0.0).expand(1, 1, 1, n), 0.5, 0.0, zeros=12)
        errors[cls] = ((drawn(0.5) - wanted[0, 0, 0]) * known[0])[14:-14].square().mean().sqrt().item()
    assert errors[FilteredActivation] < 0.01 and errors[Pointwise] > 5 * errors[FilteredActivation]


def synthesis(margin: int = 10, layers: int = 4) -> AliasFreeSynthesis:
    """Return a generator whose waves fill the band of the first signal."""
    torch.manual_seed(0)
    net = AliasFreeSynthesis([1, 24, 24], 6, layers, 120, 8, margin).eval()
    net.input.frequencies *= 2.4
    for layer in net.layers:  # as after some training
        nn.init.normal_(layer.bias, std=0.5)
    return net


def drawn_by(net: AliasFreeSynthesis) -> Callable[[Tensor, float, float], Tensor]:
    def draw(w: Tensor, right: float, down: float) -> Tensor:
        return net(w[:, None].expand(-1, net.depth, -1), shift=torch.tensor([right, down]) / 24)

    return draw


def moved_constant(net: StyleSynthesis) -> Callable[[Tensor, float, float], Tensor]:
    """Return how StyleGAN draws where its constant is moved, by the phases of its waves, and no noise is added."""
    constant, side = net.constant.detach().clone(), net.constant.shape[-1]

    def draw(w: Tensor, right: float, down: float) -> Tensor:
        fy, fx = torch.fft.fftfreq(side), torch.fft.rfftfreq(side)
        waves = torch.exp(-2j * math.pi * side / 24 * (fy[:, None] * down + fx * right))
        with torch.no_grad():
            net.constant.copy_(torch.fft.irfft2(torch.fft.rfft2(constant) * waves, s=(side, side)))
            noise = [torch.zeros(1, 1, *s) for s in net.noise_shapes]
            return net(w[:, None].expand(-1, net.depth, -1), noise) / 4

    return draw


def test_pictures_move_with_the_waves_and_those_of_look_alikes_do_not() -> None:
    """EQ-T in decibels: filtered, with a pointwise activation, without a margin, and of StyleGAN."""
    w = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    whole = translation_equivariance(drawn_by(synthesis()), w)
    pointwise = synthesis()
    for layer in pointwise.layers:
        layer.activation.__class__ = Pointwise
    torch.manual_seed(0)
    plain = StyleSynthesis([8, 8], [1, 24, 24], 6, base=6)
    others = [drawn_by(pointwise), drawn_by(synthesis(margin=0)), moved_constant(plain)]
    found = [translation_equivariance(draw, w) for draw in others]
    assert whole > 80 and found[0] < whole - 20 and found[1] < 45 and found[2] < 30


def test_moves_by_whole_samples_of_the_coarsest_map_are_exact() -> None:
    """Two pixels, where the coarsest rate is half of the image's, and no border is near."""
    net = synthesis(margin=40, layers=3)
    rates = {band.rate for band in bands(3, 24.0)}
    assert rates == {12.0, 24.0}
    draw, w = drawn_by(net), torch.randn(2, 6)
    with torch.no_grad():
        image, right = draw(w, 0.0, 0.0), draw(w, 2.0, -4.0)
    assert image.std() > 0.01 and torch.allclose(right[..., :-4, 2:], image[..., 4:, :-2], atol=1e-12)


def test_the_measure_is_the_ratio_of_peak_to_error() -> None:
    z = torch.randn(40, 3)
    at = torch.arange(32.0)

    def draw(z: Tensor, right: float, down: float) -> Tensor:
        wave = torch.cos(0.2 * (at - right)) * torch.cos(0.2 * (at[:, None] - down))
        return z[:, :1, None, None] * 0 + wave

    assert 55 < translation_equivariance(draw, z) < 65  # what Lanczos' kernel leaves
    assert translation_equivariance(draw, z, whole=True) > 250

    def off(z: Tensor, right: float, down: float) -> Tensor:
        return draw(z, right, down) + (0.1 if right or down else 0.0)

    assert translation_equivariance(off, z, whole=True) == pytest.approx(10 * math.log10(4 / 0.01), abs=1e-6)
    assert translation_equivariance(lambda z, r, d: torch.zeros(len(z), 1, 8, 8), z) == math.inf


# -- the model ---------------------------------------------------------------------------------------------------------


def tiny(**options: Any) -> StyleGAN3:
    torch.manual_seed(0)
    conditional = "num_classes" in options
    options |= {"class_dim": 2, "features": 6} if conditional else {}
    net = AliasFreeSynthesis([1, 8, 8], 6, 3, 16, 4, 2)
    critic = DeviationCritic([4], [1, 8, 8], 8, out=6 if conditional else 1)
    return StyleGAN3(StyleMapping(4 + 2 * conditional, 6, 2), net, critic, 4, 6, [1, 8, 8], **options)


def test_samples_are_moved_before_they_are_drawn_and_cut_to_the_range_of_data() -> None:
    model = tiny().eval()
    assert model.depth == 5 and model.fixed_noise() == [] and isinstance(model, StyleGAN)
    z = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(5))[:, 0]
    here, there = model.sample(3, seed=5), model.sample(3, seed=5, right=1.5, down=-0.25)
    assert torch.allclose(here, model.decode(z)) and not torch.allclose(here, there, atol=1e-3)
    assert torch.allclose(there, model.to_data(model.translated(z, 1.5, -0.25)))
    wide = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0])
    assert model.to_data(wide).tolist() == [0, 0, 0.5, 1, 1]
    assert "noise" not in model.sampling_options() and "mixing" not in model.spec["init_args"]
    for wrong, word in (({"right": math.nan}, "finite"), ({"mix_from": 6}, "layer"), ({"noise": "fixed"}, "noise")):
        with pytest.raises(ConfigError, match=word):
            model.sample(1, **wrong)


def test_what_shows_styles_takes_them_without_noise() -> None:
    model = tiny(num_classes=3).eval()
    assert truncation_rows(model, (0.0, 1.0), columns=2).shape == (2, 2, 1, 8, 8)
    grid = mixing_grid(model, rows=1, columns=2)
    assert grid.shape == (2, 3, 1, 8, 8) and grid.min() >= 0 and grid.max() <= 1
    (part,) = parts(model).values()
    assert set(part.inputs) == {"z", "labels"}


@quiet
def test_inputs_of_layers_are_scaled_by_the_running_mean_of_their_squares() -> None:
    model = tiny(lr=1e-9)
    data = [(torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.long)) for _ in range(60)]
    layers = [*model.generator.synthesis.layers, model.generator.synthesis.image]
    fit(model, data, 60)
    seen: list[float] = []
    for layer in layers:
        layer.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].square().mean().item()))
    with torch.no_grad():
        model.fakes(4000)
    assert [float(layer.magnitude) for layer in layers] == pytest.approx(seen, rel=0.25)
    assert all(f"{n}.magnitude" in model.generator.synthesis.state_dict() for n in ("layers.0", "image"))
    model.eval()
    before = [float(layer.magnitude) for layer in layers]
    model.loss(data[0])
    assert [float(layer.magnitude) for layer in layers] == before


def test_what_cannot_be_drawn_is_refused() -> None:
    for options, word in (
        ({"shape": [1, 4, 4]}, "more than 4 pixels"),
        ({"shape": [1, 8, 8], "layers": 2}, "3 layers"),
        ({"shape": [1, 8, 8], "margin": -1}, "margin"),
    ):
        with pytest.raises(ConfigError, match=word):
            AliasFreeSynthesis(style_dim=4, **options)  # type: ignore[arg-type]


def test_zoo_diagnose_measures_how_pictures_move() -> None:
    model = tiny().eval()
    diagnostic = DIAGNOSTICS["translation"]
    assert diagnostic.applies(model) and not diagnostic.applies(load_registry()["gan-mnist"].build_model())
    found = diagnostic.look(Subject(model, torch.zeros(2, 1, 8, 8), torch.zeros(2)))
    z = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    assert found.summary["eq_t"] == pytest.approx(translation_equivariance(model.translated, z))
    assert found.summary["eq_t_whole_pixels"] > 20 and len(found.frames) == 6 and found.picture.ndim == 3
