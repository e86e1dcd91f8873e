"""Laws of networks that grow: fades from one stage to the next, equalised rates, and what growing costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import warm
from test_gan import quiet
from test_wgan_gp import fit
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.progan import ProGAN
from zoo.maths.objectives import objective
from zoo.nets.growing import EqualisedConv, EqualisedLinear, GrowingCritic, GrowingGenerator, doubled, halved
from zoo.nets.mlp import MLP
from zoo.optimizer import LeanAdamW
from zoo.registry import load_registry
from zoo.runs import last_checkpoint, read_checkpoint
from zoo.spec import build
from zoo.training.compute import flops_per_step
from zoo.training.fit import Run

pytestmark = pytest.mark.usefixtures("double_precision")

# -- closed form of the compute of a training step ---------------------------------------------------------------------


def _stages(args: Mapping[str, Any]) -> list[int]:
    """Return the pixels of each stage's images."""
    n = len(args["widths"])
    return [math.prod(s >> (n - 1 - k) for s in args["shape"][1:]) for k in range(n)]


def _generator(args: Mapping[str, Any]) -> list[int]:
    widths, areas = args["widths"], _stages(args)
    layers = [args["latent_dim"] * widths[0] * areas[0], 9 * widths[0] ** 2 * areas[0]]
    for (a, b), area in zip(pairwise(widths), areas[1:], strict=True):
        layers += [9 * a * b * area, 9 * b * b * area]
    return [*layers, widths[-1] * args["shape"][0] * areas[-1]]


def _critic(args: Mapping[str, Any]) -> list[int]:
    widths, areas = args["widths"], _stages(args)
    layers = [widths[-1] * args["shape"][0] * areas[-1]]
    for (b, a), area in reversed([*zip(pairwise(widths), areas[1:], strict=True)]):
        layers += [9 * a * a * area, 9 * a * b * area]
    flat = widths[0] * areas[0]
    return [*layers, 9 * (widths[0] + bool(args["group"])) * flat, flat * widths[0], widths[0] * args["out"]]


def _progan(args: Mapping[str, Any]) -> float:
    """A step of the whole networks: that of a Wasserstein GAN with a gradient penalty, see `closed_forms.wgan_gp`."""
    G, D = _generator(args["generator"]["init_args"]), _critic(args["critic"]["init_args"])
    scores = sum(G) + 2 * (3 * sum(D) - D[0])
    penalty = 2 * sum(D) + (sum(D) + sum(D[:-1])) + 2 * sum(D[:-1])
    return 2.0 * (scores + penalty + (3 * sum(G) - G[0] + 2 * sum(D)) / args["n_critic"])


STEP_FLOPS: dict[str, Callable[[Mapping[str, Any]], float]] = {"ProGAN": _progan}


# -- tiny models -------------------------------------------------------------------------------------------------------


def generator() -> GrowingGenerator:
    torch.manual_seed(0)
    return GrowingGenerator(3, [6, 5, 4], [2, 8, 12])


def critic() -> GrowingCritic:
    torch.manual_seed(1)
    return GrowingCritic([6, 5, 4], [2, 8, 12], group=2)


def progan(**options: Any) -> ProGAN:
    return ProGAN(generator(), critic(), 3, [2, 8, 12], **{"hold": 3, "fade": 4, **options})


def faded(net: Any, stage: int, alpha: float) -> Any:
    """Return a network with its stage faded in so far, the ends of the fade too."""
    net.grow(stage)
    net.growth.fill_(stage - 1 + alpha)
    net._fading = True
    return net


# -- fades -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [1, 2])
def test_a_fade_begins_with_the_stage_before_and_ends_with_the_new_one_alone(stage: int) -> None:
    """Bit for bit, in both networks."""
    z, x = torch.randn(4, 3), torch.rand(4, 2, 8, 12)
    x = halved(x, 2 - stage)
    for net, given, small in ((generator(), z, z), (critic(), x, halved(x))):
        net.grow(stage - 1)
        before = net(small)
        net.grow(stage)
        after = net(given)
        start, end, middle = (faded(net, stage, a)(given) for a in (0.0, 1.0, 0.5))
        if isinstance(net, GrowingGenerator):
            before = doubled(before)
            assert torch.allclose(middle, (before + after) / 2, atol=1e-14)
        assert torch.equal(start, before) and torch.equal(end, after) and not torch.allclose(before, after)


def test_what_the_new_stage_weighs_grows_without_a_jump() -> None:
    model, z = progan(fade=1000), torch.randn(2, 3)
    images = []
    for step in range(3, 1004, 10):
        model.grow(step)
        images.append(model.to_data(model.generate(z)))
    jumps = torch.stack([(a - b).abs().max() for a, b in pairwise(images)])
    assert jumps.max() < 0.05 < (images[0] - images[-1]).abs().max()
    model.grow(1002)
    last = model.to_data(model.generate(z))
    model.grow(1003)
    assert torch.allclose(model.to_data(model.generate(z)), last, atol=0.01)  # over the end of the fade as well


def test_growth_holds_fades_and_ends() -> None:
    model = progan()
    wanted = [0, 0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1.25, 1.5, 1.75, 2, 2, 2]
    assert [model.growth(t) for t in range(17)] == wanted
    model.grow(5)
    assert (model.critic.stage, model.critic.fading, model.critic.alpha.item()) == (1, True, 0.5)
    model.grow(7)
    assert (model.critic.stage, model.critic.fading) == (1, False)
    assert model.first_phases == (3, 4, 3, 4) and model.steps_to_move == 13


def test_data_are_shown_as_the_stage_could_draw_them() -> None:
    model, x = progan(), torch.rand(3, 2, 8, 12)
    labels, y = torch.zeros(3, dtype=torch.long), 2 * x - 1
    assert torch.allclose(model.given((x, labels))[0], halved(y, 2)) and model.given((x, labels))[1] is None
    model.grow(12)  # half of the last stage
    shown = model.given((x, labels))[0]
    assert torch.allclose(shown, (doubled(halved(y)) + y) / 2) and shown.shape == y.shape
    assert torch.allclose(halved(shown), halved(y))  # a fade leaves what the stage before has seen
    model.grow(14)
    assert torch.equal(model.given((x, labels))[0], y)
    model.grow(0)
    assert torch.allclose(model.score(y), model.score(halved(y, 2)))  # larger images are halved
    assert model.sample(2, seed=0).shape == (2, 2, 8, 12)


def test_growth_is_saved_with_the_weights() -> None:
    model = progan().eval()
    model.grow(12)
    again = build(model.spec).eval()
    again.load_state_dict(model.state_dict())
    assert (again.generator.stage, again.generator.fading) == (2, True)
    assert torch.equal(again.sample(2, seed=0), model.sample(2, seed=0))


def test_a_run_that_is_cut_within_a_fade_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    options = ("--model.hold", "2", "--model.fade", "4", "--training.warmup", "0", "--training.checkpoint_every", "4")
    whole, cut = str(tmp_path / "whole"), str(tmp_path / "cut")
    warm.train("progan-mnist", whole, 11, 4, *options)
    for steps, more in ((4, False), (10, True), (11, True)):  # within the first fade, and within the second
        warm.train("progan-mnist", cut, steps, 4, *options, resume=more)
    assert warm.difference(whole, cut) == 0.0
    state = read_checkpoint(last_checkpoint(whole))["state_dict"]
    assert state["generator.growth"].item() == 1.5 == state["critic.growth"].item()


@quiet
def test_stages_that_are_not_there_yet_neither_learn_nor_cost() -> None:
    model = progan(lr=1e-3)
    data = [(torch.rand(4, 2, 8, 12), torch.zeros(4, dtype=torch.long)) for _ in range(11)]
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    fit(model, data, 4)  # the last of these is the first of a fade
    still_there = {n for n, p in model.named_parameters() if torch.equal(p, start[n])}
    assert "generator.blocks.1.0.weight" in still_there and "critic.images.2.weight" in still_there
    assert "generator.blocks.0.0.weight" not in still_there and "critic.images.0.weight" not in still_there


# -- the equalised rate ------------------------------------------------------------------------------------------------


class Scaled(nn.Linear):
    """The look-alike: weights that are scaled once, when they are drawn."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out)
        nn.init.normal_(self.weight, std=math.sqrt(2 / n_in))


def test_weights_have_hes_deviation_and_move_at_one_rate_whatever_their_size() -> None:
    """In one step of Adam, as a share of what they are at the start; those scaled once move further the wider they
    are."""
    torch.manual_seed(0)
    moved: dict[str, list[float]] = {"equalised": [], "scaled": []}
    for n in (8, 32, 512):
        for name, layer in (("equalised", EqualisedLinear(n, 400)), ("scaled", Scaled(n, 400))):
            scale = getattr(layer, "scale", 1.0)
            effective = (layer.weight * scale).detach().clone()
            assert effective.std().item() == pytest.approx(math.sqrt(2 / n), rel=0.05)
            optimizer = LeanAdamW(layer.parameters(), lr=0.01, weight_decay=0.0)
            layer(torch.randn(64, n)).square().sum().backward()
            optimizer.step()
            step = (layer.weight * scale - effective).abs().mean() / effective.std()
            moved[name].append(step.item())
    assert moved["equalised"] == pytest.approx([0.01] * 3, rel=0.05)
    assert moved["scaled"] == pytest.approx([0.01 * math.sqrt(n / 2) for n in (8, 32, 512)], rel=0.05)


def test_equalised_layers_keep_the_size_of_what_passes() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 40, 9, 9)
    y = F.leaky_relu(EqualisedConv(40, 50)(x), 0.2)[..., 1:-1, 1:-1]
    assert y.square().mean().item() == pytest.approx(1.04, abs=0.08)  # half of the squares, and a 25th of the others
    conv = EqualisedConv(3, 2, 1, gain=1.0)
    assert torch.allclose(conv(x[:, :3]), F.conv2d(x[:, :3], conv.weight / math.sqrt(3)))


def test_features_of_a_pixel_and_latents_have_a_mean_square_of_one() -> None:
    net, seen = generator(), []
    net.grow(2)
    for conv in net.images:
        conv.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    z = torch.randn(5, 3)
    net(z)
    (features,) = seen
    assert torch.allclose(features.square().mean(1), torch.ones(5, 8, 12), atol=1e-4)
    assert torch.allclose(net(z), net(7 * z))


def test_scores_of_data_that_drift_cost_something() -> None:
    r, f = torch.tensor([3.0, -2.0]), torch.tensor([1.0, 5.0])
    game = objective("wasserstein_drift")
    assert torch.allclose(game.critic(r, f), f - r + 0.001 * r**2) and torch.equal(game.generator(r, f), -f)
    assert not game.shift_free  # so that the critic's last bias learns


# -- what growing costs ------------------------------------------------------------------------------------------------


def test_compute_is_that_of_each_phase() -> None:
    """The sum over all steps, counted one by one, and a budget that is kept."""
    torch.set_default_dtype(torch.float32)
    model = progan()
    batch = torch.rand(4, 2, 8, 12), torch.zeros(4, dtype=torch.long)
    flops, extra = flops_per_step(model, batch)
    assert flops == pytest.approx(4 * _progan({**model.spec["init_args"], "n_critic": 1}), rel=0.02)
    assert model.first_steps == 14 and extra < 0
    total = flops * 20 + extra * 14
    first = [flops_per_step_at(model, batch, t) for t in (1, 5, 8, 12, 15)]
    assert total == pytest.approx(3 * first[0] + 4 * first[1] + 3 * first[2] + 4 * first[3] + 6 * first[4])
    assert first[0] < first[2] < first[4] < first[3]
    assert model.generator.stage == 0  # nothing has moved


def flops_per_step_at(model: ProGAN, batch: tuple[Tensor, Tensor], step: int) -> float:
    """Return the operations of one step, of a model that stays where it is."""
    other = build(model.spec)
    growth = model.growth(step)
    other.growth = lambda step: growth
    other.first_phases, other.first_steps = (), 0
    return flops_per_step(other, batch)[0]


def test_a_budget_counts_the_cheap_steps_at_the_start() -> None:
    torch.set_default_dtype(torch.float32)
    entry = warm.entry("progan-mnist")
    many = Run(entry, [*warm.SMALL, "--training.budget", "10TFLOP", "--trainer.max_steps", "-1"])
    assert many.spent(many.total) <= 10e12 < many.spent(many.total + 1) and many.total > 400
    whole = Run(entry, [*warm.SMALL])
    assert whole.total == 4000 and 45e12 < whole.spent(4000) <= 50e12 < 4000 * whole.flops


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_what_does_not_grow_is_refused() -> None:
    for players, word in (
        ((MLP([3, 192]), critic()), "GrowingGenerator"),
        ((generator(), GrowingCritic([6, 5], [2, 8, 12])), "as many"),
    ):
        with pytest.raises(ConfigError, match=word):
            ProGAN(*players, 3, [2, 8, 12])
    for options, word in (({"hold": -1}, "hold"), ({"fade": 0}, "fade")):
        with pytest.raises(ConfigError, match=word):
            progan(**options)
    with pytest.raises(ConfigError, match="halved 2 times"):
        GrowingGenerator(3, [6, 5, 4], [1, 10, 10])
    assert load_registry()["progan-mnist"].build_model().stages == 3
