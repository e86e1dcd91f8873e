"""Laws of the style-based generator, of adaptive augmentation, and of what tells a user how a GAN fares."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import warm
from test_gan import critic_layers, game, quiet
from test_wgan_gp import fit
from torch import Tensor

import zoo
from zoo.diagnostics import class_grid, examine, mixing_grid, slerp, truncation_rows, walk
from zoo.errors import ConfigError
from zoo.families.sn_gan import SNGAN
from zoo.families.stylegan import StyleGAN
from zoo.maths.augmentation import Augmentation
from zoo.nets.conv import DownsamplingNet, UpsamplingNet
from zoo.nets.style import DeviationCritic, ModulatedConv, StyleMapping, StyleSynthesis
from zoo.runs import last_checkpoint, read_checkpoint
from zoo.spec import build
from zoo.training.gan_monitor import symptoms

SHAPE = [1, 8, 8]

# -- closed form of the compute of a training step ---------------------------------------------------------------------


def style_layers(args: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Multiply-adds of the mapping, and of the synthesis: per layer the style, the convolution and its norm."""
    m, s = args["mapping"]["init_args"], args["synthesis"]["init_args"]
    mapping = [m["latent_dim"] * m["style_dim"]] + [m["style_dim"] ** 2] * (m["depth"] - 1)
    widths, (channels, height, _), d, base = s["widths"], s["shape"], s["style_dim"], s["base"]
    layers = []
    for i, out in enumerate(widths):
        side, block = base * 2**i, height // (base * 2 ** (len(widths) - 1)) if i == len(widths) - 1 else 1
        before = widths[max(i - 1, 0)]
        convs = [(before, out, (side // 2) ** 2 * 16), (out, out, side**2 * 9)] if i else [(before, out, side**2 * 9)]
        for a, b, taps in convs:
            layers += [d * a, a * b * taps, a * b]
        layers += [d * out, out * channels * block**2 * side**2]
    return mapping, layers


def stylegan_flops(args: Mapping[str, Any]) -> float:
    """As every game, but two latents are mapped where styles are mixed, and one more a step for the mean of w."""
    mapping, synthesis = style_layers(args)
    both = 1 + (args["mixing"] > 0)
    G = [both * v for v in mapping] + synthesis
    return game(G, critic_layers(args), args, penalised=1) + 2.0 * sum(mapping)


STEP_FLOPS: dict[str, Callable[[Mapping[str, Any]], float]] = {"StyleGAN": stylegan_flops}


def tiny(**options: Any) -> StyleGAN:
    torch.manual_seed(0)
    conditional = "num_classes" in options
    options |= {"class_dim": 2, "features": 6} if conditional else {}
    mapping = StyleMapping(4 + 2 * conditional, 6, 2)
    critic = DeviationCritic([4], SHAPE, 8, out=6 if conditional else 1)
    model = StyleGAN(mapping, StyleSynthesis([6, 4], SHAPE, 6, base=2), critic, 4, 6, SHAPE, **options).double()
    for layer in model.generator.synthesis.layers:  # as after some training
        torch.nn.init.constant_(layer.strength, 0.3)
    model.w_mean.normal_()
    return model


# -- modulated convolutions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("up", [False, True])
def test_demodulated_activations_have_unit_variance_at_initialisation(up: bool) -> None:
    """Within 5 %, over 40 initialisations and 40 styles, away from the border; without demodulation far from it."""
    torch.manual_seed(0)
    values: dict[bool, list[Tensor]] = {True: [], False: []}
    for _ in range(40):
        x, w = torch.randn(40, 8, 8, 8), 3 * torch.randn(40, 5)
        for demodulate in values:
            y = ModulatedConv(8, 6, 5, up=up, demodulate=demodulate)(x, w)
            values[demodulate].append(y[..., 2:-2, 2:-2])
    on, off = (torch.cat(values[k]) for k in (True, False))
    assert on.var().item() == pytest.approx(1, abs=0.05)
    assert off.var().item() > 3


def test_modulation_equals_scaled_weights() -> None:
    torch.manual_seed(0)
    for up in (False, True):
        conv = ModulatedConv(3, 5, 4, up=up).double()
        x, w = torch.randn(2, 3, 6, 6).double(), torch.randn(2, 4).double()
        rows = []
        for i in range(2):
            s = conv.affine(w[i])
            weight = conv.weight * (s[:, None, None, None] if up else s[None, :, None, None])
            squares = weight.square().sum((0, 2, 3) if up else (1, 2, 3)) * (conv.taps / conv.kernel**2)
            weight = weight / (squares + 1e-8).sqrt().view((1, -1, 1, 1) if up else (-1, 1, 1, 1))
            f = torch.nn.functional
            one = x[i : i + 1]
            rows.append(
                f.conv_transpose2d(one, weight, stride=2, padding=1) if up else f.conv2d(one, weight, padding=1)
            )
        assert torch.allclose(conv(x, w), torch.cat(rows), atol=1e-12)


# -- styles ------------------------------------------------------------------------------------------------------------


def test_mixing_uses_both_latents() -> None:
    model = tiny()
    w1, w2 = torch.randn(2, 3, 6).double()
    assert torch.equal(model.mixed(w1, w2, model.depth), w1[:, None].expand(-1, model.depth, -1))
    assert torch.equal(model.mixed(w1, w2, 0), w2[:, None].expand(-1, model.depth, -1))
    mixed = model.mixed(w1, w2, torch.tensor([1, 2, 4]))
    for i, cut in enumerate((1, 2, 4)):
        assert torch.equal(mixed[i, :cut], w1[i].expand(cut, -1))
        assert torch.equal(mixed[i, cut:], w2[i].expand(model.depth - cut, -1))
    noise = model.fixed_noise()
    w1.requires_grad_(), w2.requires_grad_()
    for gradient in torch.autograd.grad(model.synthesise(model.mixed(w1, w2, 2), noise).square().sum(), (w1, w2)):
        assert (gradient.abs().sum(1) > 0).all()
    both = [model.sample(3, seed=4, mix_from=k, noise="fixed") for k in (None, model.depth, 2, 0)]
    assert torch.equal(both[0], both[1]) and not torch.equal(both[0], both[2]) and not torch.equal(both[2], both[3])


def test_training_mixes_the_declared_share() -> None:
    model = tiny(mixing=0.25)
    cuts: list[Tensor] = []
    whole = model.mixed
    model.mixed = lambda a, b, layer: cuts.append(layer) or whole(a, b, layer)  # type: ignore[method-assign]
    model.set_noise([torch.Generator().manual_seed(0)])
    model.fakes(4000)
    (layer,) = cuts
    assert (layer < model.depth).double().mean() == pytest.approx(0.25, abs=0.03)
    assert set(layer.tolist()) == set(range(1, model.depth + 1))


def test_truncation_zero_is_one_image_and_one_changes_nothing() -> None:
    model = tiny()
    none = model.sample(5, seed=1, truncation=0.0, noise="fixed")
    mean = (model.synthesise(model.w_mean.expand(1, model.depth, -1), model.fixed_noise()) + 1) / 2
    assert torch.allclose(none, mean.expand_as(none), atol=1e-14)
    assert torch.equal(none, model.sample(5, seed=1, truncation=0.0, noise="fixed"))
    assert torch.equal(model.sample(5, seed=1, truncation=1.0), model.sample(5, seed=1))
    z = torch.randn(5, 2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)[:, 0]
    assert torch.allclose(model.sample(5, seed=1, noise="fixed"), model.decode(z), atol=1e-14)
    assert model.sample(5, seed=1, truncation=0.0)[:1].ne(model.sample(5, seed=2, truncation=0.0)[:1]).any()  # noise
    assert "w_mean" in model.state_dict() and build(model.spec).depth == model.depth
    for wrong, word in (({"noise": "none"}, "random"), ({"mix_from": 99}, "layer")):
        with pytest.raises(ConfigError, match=word):
            model.sample(1, **wrong)


@quiet
def test_running_mean_of_styles_follows_the_mapping() -> None:
    model = tiny(lr=1e-9)
    model.shape = (1, 8, 8)
    data = [(torch.rand(4, *SHAPE, dtype=torch.float64), torch.zeros(4, dtype=torch.long)) for _ in range(60)]
    model.w_mean.fill_(100.0)
    fit(model, data, 60)
    expected = model.styles(torch.randn(20_000, 4, dtype=torch.float64)).mean(0)
    assert torch.allclose(model.w_mean, expected, atol=0.5)


# -- adaptive augmentation ---------------------------------------------------------------------------------------------


def test_augmentation_is_the_identity_at_zero_and_differentiable_above() -> None:
    torch.manual_seed(0)
    augmentation = Augmentation(0.6, 100).double()
    x, u = torch.rand(6, 1, 8, 8).double() * 2 - 1, torch.rand(6, Augmentation.draws).double()
    assert torch.equal(augmentation(x, u), x)
    augmentation.p.fill_(1.0)
    x.requires_grad_()
    y = augmentation(x, u)
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(x, y, strict=True))
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert torch.isfinite(gradient).all() and (gradient.flatten(1).abs().sum(1) > 0).all()
    augmentation.p.fill_(0.3)
    u = torch.rand(2000, Augmentation.draws).double()
    y = augmentation(x.detach()[:1].expand(2000, -1, -1, -1), u)
    untouched = (y == x.detach()[:1]).flatten(1).all(1).double().mean()
    assert untouched == pytest.approx(0.7**3, abs=0.03)


def test_probability_follows_the_sign_of_scores_of_data() -> None:
    augmentation = Augmentation(0.6, 100)
    for sign, expected in ((1.0, 0.1), (0.7, 0.2), (0.5, 0.1), (-1.0, 0.0), (0.0, 0.0)):
        augmentation.adapt(torch.tensor(sign), 10)
        assert augmentation.p.item() == pytest.approx(expected, abs=1e-6)
    for _ in range(20):
        augmentation.adapt(torch.tensor(1.0), 10)
    assert augmentation.p.item() == 1.0


@quiet
def test_probability_moves_with_training_and_is_kept() -> None:
    torch.manual_seed(0)
    model = SNGAN(
        UpsamplingNet(3, [4, 4], [1, 8, 8]),
        DownsamplingNet([4], [1, 8, 8]),
        3,
        [1, 8, 8],
        augment=0.5,
        augment_images=40,
    )
    data = [(torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.long)) for _ in range(3)]
    model.critic.layers[-1].bias.data.fill_(10.0)  # sure of everything
    _, recorder = fit(model, data, 3)
    assert model.augmentation.p.item() == pytest.approx(0.3)
    assert [t["augmentation"].item() for t in recorder.terms] == pytest.approx([0.1, 0.2, 0.3])
    again = build(model.spec)
    again.load_state_dict(model.state_dict())
    assert again.augmentation.p.item() == pytest.approx(0.3)


@pytest.mark.slow
def test_probability_survives_a_resumed_run(tmp_path: Path) -> None:
    options = ("--model.augment", "0.1", "--model.augment_images", "40", "--training.checkpoint_every", "2")
    whole, cut = str(tmp_path / "whole"), str(tmp_path / "cut")
    options += ("--training.schedule", "constant")
    warm.train("wgan_gp-mnist", whole, 4, 4, *options)
    warm.train("wgan_gp-mnist", cut, 2, 4, *options)
    warm.train("wgan_gp-mnist", cut, 4, 4, *options, resume=True)
    p = [read_checkpoint(last_checkpoint(f))["state_dict"]["augmentation.p"].item() for f in (whole, cut)]
    assert p[0] == p[1] and warm.difference(whole, cut) == 0.0


# -- telling the user --------------------------------------------------------------------------------------------------

HEALTHY = {
    "variety": 0.9,
    "critic_loss": 1.0,
    "generator_gradient": 0.5,
    **{f"digit_share_{k}": 0.1 for k in range(10)},
}


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"variety": 0.1}, "collapsed"),
        ({"digit_share_4": 0.0, "digit_share_9": 0.02}, "digits 4, 9 under 3 %"),
        ({"critic_loss": math.nan}, "critic_loss is not a finite number"),
        ({"generator_gradient": 1e-9}, "tells data from samples too well"),
    ],
)
def test_each_symptom_is_one_sentence(changed: dict[str, float], word: str) -> None:
    assert symptoms(HEALTHY, digits=True) == []
    early = symptoms({**HEALTHY, **changed}, digits=True, young=True)
    assert bool(early) == ("finite" in word)  # what has hardly begun may still look like anything
    (sentence,) = symptoms({**HEALTHY, **changed}, digits=True)
    assert word in sentence and "\n" not in sentence


def test_a_failing_run_says_so_and_logs_the_shares_of_the_digits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An untrained generator draws no digits; two looks give one warning, and none in the first steps of a training."""
    with caplog.at_level(logging.WARNING, logger="zoo.training"):
        warm.train("wgan_gp-mnist", str(tmp_path / "short"), 2, 4, "--training.sample_every", "2")
    assert not [r for r in caplog.records if r.name == "zoo.training"]
    monkeypatch.setattr("zoo.training.gan_monitor._EARLY", 0)
    with caplog.at_level(logging.WARNING, logger="zoo.training"):
        warm.train("wgan_gp-mnist", str(tmp_path / "run"), 4, 4, "--training.sample_every", "2")
    said = [r.getMessage() for r in caplog.records if r.name == "zoo.training"]
    assert len(said) == 1 and said[0].startswith("step 2: digits ") and "misses modes" in said[0]
    header, *rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    looks = [dict(zip(header.split(","), row.split(","), strict=True)) for row in rows]
    looks = [look for look in looks if look.get("watch/variety")]
    assert [look["step"] for look in looks] == ["2", "4"]
    assert sum(float(looks[0][f"watch/digit_share_{k}"]) for k in range(10)) == pytest.approx(1)


# -- pictures of the latents -------------------------------------------------------------------------------------------


def test_great_circles_keep_their_ends_and_their_length() -> None:
    a, b = torch.randn(2, 5, 64, dtype=torch.float64)
    t = torch.linspace(0, 1, 9)
    arc = slerp(a, b, t)
    assert torch.allclose(arc[:, 0], a) and torch.allclose(arc[:, -1], b) and arc.shape == (5, 9, 64)
    unit = slerp(a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True), t)
    assert torch.allclose(unit.norm(dim=2), torch.ones(5, 9, dtype=torch.float64))
    assert torch.allclose(slerp(a, 2 * a, t)[:, 4], 1.5 * a)


def test_diagnostics_of_generators_follow_their_abilities() -> None:
    conditional = tiny(num_classes=3)
    strips = walk(conditional, rows=2, steps=3)
    source = torch.Generator().manual_seed(0)
    z = torch.randn(4, 4, generator=source).double()
    assert torch.allclose(strips[:, 0], conditional.decode(z[:2], torch.tensor([0, 1])))
    assert class_grid(conditional, rows=2).shape == (2, 3, *SHAPE)
    rows = truncation_rows(conditional, (0.0, 1.0), columns=3)
    assert torch.equal(rows[1], conditional.sample(3, seed=0, noise="fixed"))
    model = tiny()
    grid = mixing_grid(model, rows=2, columns=3, layer=2)
    z = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).double()
    assert torch.allclose(grid[1:, 0].detach(), model.decode(z[:2])) and torch.allclose(
        grid[0, 1:], model.decode(z[2:])
    )
    w = model.styles(z)
    expected = (model.synthesise(model.mixed(w[:1], w[2:3], 2), model.fixed_noise()) + 1) / 2
    assert torch.allclose(grid[1, 1], expected[0])
    with pytest.raises(ConfigError, match="not conditional"):
        class_grid(model)


def test_zoo_diagnose_shows_what_a_generator_does() -> None:
    found = examine(zoo.create("wgan_gp-mnist"), zoo.registry.load_registry()["wgan_gp-mnist"].build_data(), examples=2)
    assert (
        set(found.findings) == {"walk"} and len(found.summary()["diagnostics"]["walk"]["distance_between_steps"]) == 10
    )
