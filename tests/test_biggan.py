"""Laws of BigGAN: rows at right angles, latents within a threshold, latents dealt out among the blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from test_gan import critic_layers, game

from zoo.errors import ConfigError
from zoo.families.biggan import BigGAN, orthogonality
from zoo.maths.distributions import truncated_normal
from zoo.nets.biggan import BigGANGenerator
from zoo.nets.mlp import MLP
from zoo.plain_sampling import departures


def _generator(args: Mapping[str, Any]) -> tuple[list[int], list[tuple[int, int]]]:
    """Return multiply-adds layer by layer, and (rows, columns) of every weight but the embedding."""
    widths, (C, *size), n = args["widths"], args["shape"], len(args["widths"])
    share, classes = args["latent_dim"] // (n + 1), args["num_classes"]
    c = share + (args["class_dim"] if classes else 0)
    area = math.prod(s >> n for s in size)
    layers, weights = [share * widths[0] * area], [(widths[0] * area, share)]
    for a, b in zip(widths, [*widths[1:], widths[-1]], strict=True):
        layers += [2 * c * a, 2 * c * b, 4 * area * 9 * a * b, 4 * area * 9 * b * b, area * a * b]
        weights += [(a, c), (a, c), (b, c), (b, c), (b, 9 * a), (b, 9 * b), (b, a)]
        area *= 4
    return [*layers, area * 9 * widths[-1] * C], [*weights, (C, 9 * widths[-1])]


def _biggan(args: Mapping[str, Any]) -> float:
    """The game, and at each of the generator's steps the products of all rows, at a batch of two."""
    layers, weights = _generator(args["generator"]["init_args"])
    rows = sum(3 * out * out * n for out, n in weights) / args["n_critic"] / 2
    return game(layers, critic_layers(args), args) + 2.0 * rows * (args["orthogonal"] > 0)


STEP_FLOPS = {"BigGAN": _biggan}


def small(classes: int = 3, **options: Any) -> BigGAN:
    torch.manual_seed(0)
    generator = BigGANGenerator(6, [4, 3], [1, 8, 8], num_classes=classes, class_dim=4, batch_norm=False)
    features = {"num_classes": classes, "features": 5} if classes else {}
    return BigGAN(generator, MLP([64, 8, 5 if classes else 1]), 6, [1, 8, 8], **features, **options).double()


def test_rows_at_right_angles_cost_nothing_whatever_their_length() -> None:
    W = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    rows = W.flatten(1)
    by_hand = ((rows @ rows.T) * (1 - torch.eye(4, dtype=torch.float64))).square().sum()
    assert orthogonality(W) == pytest.approx(by_hand.item(), rel=1e-12) and by_hand > 1
    Q = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q[:4] * torch.tensor([[0.1], [3.0], [1.0], [7.0]])
    assert orthogonality(Q) == pytest.approx(0, abs=1e-12)
    assert (Q @ Q.T - torch.eye(4)).square().sum() > 1  # the look-alike, which asks for unit length too


def test_the_generator_alone_is_kept_orthogonal() -> None:
    model = small(orthogonal=0.3)
    batch = torch.rand(4, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    terms = model.generator_loss(batch)
    weights = [p for n, p in model.generator.named_parameters() if n.endswith("original") and "embedding" not in n]
    assert len(weights) == 2 + 7 * 2
    assert terms["orthogonality"].item() == pytest.approx(sum(orthogonality(w).item() for w in weights))
    model.set_noise([torch.Generator().manual_seed(0)])
    whole = model.generator_loss(batch)["loss"]
    model.orthogonal = 0.0
    model.set_noise([torch.Generator().manual_seed(0)])
    plain = model.generator_loss(batch)
    assert "orthogonality" not in plain
    slack = 0.05 * abs(whole.item())  # the power iteration has gone on by a step
    assert (whole - plain["loss"]).item() == pytest.approx(0.3 * terms["orthogonality"].item(), abs=slack)


def test_layers_of_both_players_have_largest_singular_value_one() -> None:
    model = small()
    batch = torch.rand(4, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        for _ in range(200):
            model.loss(batch)
    model.eval()
    found = 0
    for layer in model.modules():
        if hasattr(layer, "parametrizations"):
            assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=5e-2)
            found += 1
    assert found == 2 + 7 * 2 + 1 + 4  # the embedding, and the critic's two layers, embedding and head


@pytest.mark.parametrize("threshold", [0.3, 1.0, 2.5])
def test_latents_within_a_threshold_are_as_if_others_were_drawn_again(threshold: float) -> None:
    generator = torch.Generator().manual_seed(0)
    z = truncated_normal((200_000,), threshold, generator, dtype=torch.float64)
    again = torch.randn(2_000_000, generator=generator, dtype=torch.float64)
    again = again[again.abs() < threshold][:200_000]
    assert z.abs().max() <= threshold
    density = math.exp(-(threshold**2) / 2) / math.sqrt(2 * math.pi)
    mass = math.erf(threshold / math.sqrt(2))
    assert z.var().item() == pytest.approx(1 - 2 * threshold * density / mass, rel=0.02)
    q = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    assert torch.allclose(torch.quantile(z, q), torch.quantile(again[:200_000], q), atol=0.03 * threshold + 0.01)
    clamped = torch.randn(200_000, generator=generator, dtype=torch.float64).clamp(-threshold, threshold)
    assert clamped.var() > 1.02 * z.var()  # the look-alike


def test_small_thresholds_give_samples_of_little_variety() -> None:
    model = small().eval()
    spread = [model.sample(64, seed=0, labels=1, threshold=t).std(0).mean() for t in (0.05, 0.5, None)]
    assert spread[0] < 0.3 * spread[1] < 0.3 * spread[2]
    assert departures({"sampler": model.sampler({"threshold": 0.5})}) == ["of latents within 0.5 only"]
    assert departures({"sampler": model.sampler({})}) == []
    with pytest.raises(ConfigError, match="threshold must be positive"):
        model.sample(1, threshold=0.0)


def test_each_block_has_its_share_of_the_latent_and_all_have_the_class() -> None:
    generator = small().generator
    z, y = torch.randn(1, 6, dtype=torch.float64, requires_grad=True), torch.tensor([1])
    seen: list[torch.Tensor] = []
    for block in generator.blocks:
        block.register_forward_hook(lambda module, inputs, out: seen.extend((inputs[0], out)))
    out = generator(z, y)
    reach = [torch.autograd.grad(v.square().sum(), z, retain_graph=True)[0][0] != 0 for v in (*seen, out)]
    assert [r.tolist() for r in reach] == [
        [True] * 2 + [False] * 4, [True] * 4 + [False] * 2, [True] * 4 + [False] * 2, [True] * 6, [True] * 6,
    ]  # fmt: skip
    assert (generator(z, y) - generator(z, torch.tensor([2]))).abs().max() > 1e-3


def test_it_works_without_classes_and_says_what_does_not_fit() -> None:
    model = small(0).eval()
    assert model.sample(2, seed=0).shape == (2, 1, 8, 8) and model.num_classes == 0
    with pytest.raises(ConfigError, match="divide among 3 places"):
        BigGANGenerator(7, [4, 3], [1, 8, 8])
    with pytest.raises(ConfigError, match="orthogonal must be finite"):
        small(orthogonal=-1.0)
