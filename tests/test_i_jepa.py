"""I-JEPA: what is seen and what is asked for never meet, nothing hidden is looked at, and a collapse is found."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import ConfigError, DataError
from zoo.families.i_jepa import IJEPA
from zoo.maths.block_masks import block_sides, blocks, largest_block, multi_block, slots
from zoo.metrics.probes import feature_std
from zoo.nets.embeddings import grid_positions, lattice_positions
from zoo.nets.patch_transformer import patches, patches_of
from zoo.representations import Representation, to_table

GRID, SCALE, ASPECT = (7, 7), (0.15, 0.2), (0.75, 1.5)


def trunk_flops(tokens: int, width: int, depth: int) -> float:
    """Multiply-adds of blocks: four maps of a token, and the products of queries, keys and values."""
    return depth * (12 * tokens * width**2 + 2 * tokens**2 * width)


def jepa_flops(args: Mapping[str, Any]) -> float:
    """A pass of all patches, one of the context and back, and one of the predictor, for each target, and back."""
    C, H, W = args["shape"]
    p, d, w = args["patch"], args["width"], args["predictor_width"]
    N, grid = H * W // p**2, (H // p, W // p)
    K, G, P = round(0.5 * N), 4, largest_block(grid, SCALE, ASPECT)
    first, whole, part = C * p**2 * d, trunk_flops(N, d, args["depth"]), trunk_flops(K, d, args["depth"])
    predicted = K * d * w + G * (trunk_flops(K + P, w, args["predictor_depth"]) + P * w * d)
    return 2.0 * (N * first + whole + 2 * K * first + 3 * part + 3 * predicted)


STEP_FLOPS: dict[str, Callable[[Mapping[str, Any]], float]] = {"IJEPA": jepa_flops}


def small(**options: Any) -> IJEPA:
    torch.manual_seed(0)
    sizes = {"width": 16, "depth": 1, "heads": 2, "predictor_width": 8, "predictor_depth": 1, "least": 2}
    return IJEPA([1, 8, 8], 2, **{"levels": None, **sizes, **options})


def gratings(n: int, generator: torch.Generator) -> Tensor:
    """Waves of any direction, period and phase, (n, 1, 8, 8): each patch tells something of the others."""
    f, theta, phase = (torch.rand(3, n, 1, 1, generator=generator)).unbind()
    i = torch.arange(8.0)
    along = torch.cos(math.pi * theta) * i[:, None] + torch.sin(math.pi * theta) * i
    return (0.5 + 0.5 * torch.cos(2 * math.pi * ((0.1 + 0.15 * f) * along + phase)))[:, None]


# -- masks -------------------------------------------------------------------------------------------------------------


def test_context_and_targets_are_disjoint_and_of_their_sizes() -> None:
    u = torch.rand(3000, 4 * 4 + 4 + 49, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = multi_block(u, GRID, 24, SCALE, ASPECT, least=6)
    assert mask.context.shape == mask.seen.shape == (3000, 24) and mask.targets.shape[:2] == (3000, 4)
    context = torch.zeros(3000, 49, dtype=torch.int64).scatter_add_(1, mask.context, mask.seen.long())
    targets = torch.zeros(3000, 4, 49, dtype=torch.int64).scatter_add_(2, mask.targets, mask.asked.long())
    assert context.max() == 1 and targets.max() == 1, "no place is in a list twice"
    assert not (context.bool() & targets.any(1)).any()
    rows, columns = block_sides(u[:, :16].unflatten(1, (4, 4)), GRID, SCALE, ASPECT)
    assert torch.equal(targets.sum(2), rows * columns)
    assert context.sum(1).min() >= 6 and context.sum(1).max() == 24
    maps = targets.unflatten(2, GRID)
    assert torch.equal(maps.amax(3).sum(2), rows) and torch.equal(maps.amax(2).sum(2), columns), "each is a rectangle"
    shares, ratios = rows * columns / 49, rows / columns
    assert shares.min() > 0.11 and shares.max() < 0.25 and 0.15 < shares.double().mean() < 0.2
    assert ratios.min() >= 0.5 and ratios.max() <= 2
    assert (maps.sum((0, 1)) > 0).all(), "a block may lie anywhere"


def test_a_context_that_would_be_too_small_is_made_large_enough() -> None:
    u = torch.rand(500, 4 * 4 + 4 + 16, generator=torch.Generator().manual_seed(1))
    plain, held = (multi_block(u, (4, 4), 16, (0.3, 0.4), ASPECT, least=n) for n in (1, 7))
    assert plain.seen.sum(1).min() < 7 <= held.seen.sum(1).min()
    for row in range(500):
        seen = set(held.context[row][held.seen[row]].tolist())
        assert not seen & set(held.targets[row][held.asked[row]].tolist())


def test_blocks_reach_every_corner_and_stay_inside() -> None:
    corners = torch.tensor([[0.5, 0.5, a, b] for a in (0.0, 0.999) for b in (0.0, 0.999)], dtype=torch.float64)
    maps = blocks(corners, (5, 6), (0.2, 0.2), (1.0, 1.0))
    assert all(m.sum() == 4 for m in maps)
    assert maps[0][:2, :2].all() and maps[1][:2, -2:].all() and maps[2][-2:, :2].all() and maps[3][-2:, -2:].all()
    assert blocks(corners, (2, 2), (1.0, 1.0), (1.5, 1.5)).all()
    assert largest_block((7, 7), (0.15, 0.2), (0.75, 1.5)) == 12


def test_slots_take_all_there_is_or_as_many_as_fit() -> None:
    allowed = torch.tensor([[0, 1, 1, 0, 1], [1, 0, 0, 0, 0]], dtype=torch.bool)
    index, filled = slots(allowed, 3)
    assert index.tolist() == [[1, 2, 4], [0, 0, 0]] and filled.tolist() == [[True] * 3, [True, False, False]]
    order = torch.tensor([[0.9, 0.1, 0.5, 0.9, 0.7], [0.0] * 5])
    index, filled = slots(allowed, 2, order)
    assert index.tolist() == [[4, 2], [0, 0]] and filled.tolist() == [[True, True], [True, False]]


# -- networks ----------------------------------------------------------------------------------------------------------


def test_patches_and_places_lie_as_the_pixels_do() -> None:
    x = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6).float()
    cut = patches(x, (2, 3))
    assert torch.equal(cut, F.unfold(x, (2, 3), stride=(2, 3)).transpose(1, 2))
    video = torch.rand(2, 1, 4, 4, 4)
    tubes = patches(video, (2, 2, 2))
    assert torch.equal(tubes[:, 1], video[:, :, :2, :2, 2:4].flatten(1)) and tubes.shape == (2, 8, 8)
    assert torch.equal(tubes[:, 4], video[:, :, 2:, :2, :2].flatten(1)), "time is the slowest coordinate"
    assert torch.equal(lattice_positions((3, 4), 8), grid_positions(3, 4, 8))
    places = lattice_positions((2, 3, 4), 12)
    assert places.shape == (24, 12) and len(places.unique(dim=0)) == 24
    assert torch.equal(places[:12, 4:], places[12:, 4:]) and not torch.equal(places[:12, :4], places[12:, :4])
    for wrong in (
        lambda: patches_of((7, 8), 2),
        lambda: patches_of((8, 8), (2, 2, 2)),
        lambda: lattice_positions((2, 2, 2), 8),
    ):
        with pytest.raises(ConfigError):
            wrong()


def test_what_is_hidden_is_not_looked_at_and_targets_see_everything() -> None:
    model = small().double()
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    context, hidden = torch.tensor([0, 1, 5, 6]).expand(3, -1), torch.tensor([10, 11, 14, 15])
    other = x.clone()
    other[:, :, 4:, 4:] = torch.rand(3, 1, 4, 4, dtype=torch.float64)  # the patches 10, 11, 14 and 15
    seen = torch.ones(3, 4, dtype=torch.bool)
    assert torch.equal(model.encoder(x, context, seen), model.encoder(other, context, seen))
    assert not torch.allclose(model.encoder(x)[:, context[0]], model.encoder(other)[:, context[0]]), (
        "encoded whole, cut after"
    )
    moved = x.clone()
    moved[:, :, :2, :2] = 0  # a patch of the context
    assert not torch.allclose(model.targets(x)[:, hidden], model.targets(moved)[:, hidden])
    cut_before = model.target(x, hidden.expand(3, -1)), model.target(moved, hidden.expand(3, -1))
    assert torch.equal(*cut_before), "a target that was cut before it was encoded knows nothing of the image"


def test_empty_slots_change_nothing() -> None:
    model = small().double()
    x, z = torch.rand(2, 1, 8, 8, dtype=torch.float64), None
    for width in (3, 6):
        context = torch.tensor([[2, 7, 9, 2, 2, 2]])[:, :width].expand(2, -1)
        seen = torch.tensor([[True] * 3 + [False] * 3])[:, :width].expand(2, -1)
        targets = torch.tensor([[[4, 5, 4]]])[..., : 2 + width // 6].expand(2, -1, -1)
        asked = torch.tensor([[[True, True, False]]])[..., : 2 + width // 6].expand(2, -1, -1)
        out = model.predictor(model.encoder(x, context, seen), context, seen, targets, asked)[:, :, :2]
        assert z is None or torch.allclose(z, out, atol=1e-12)
        z = out


def test_targets_are_predicted_apart_and_wherever_they_stand_in_the_list() -> None:
    model = small().double()
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    context, targets = torch.tensor([0, 1, 2, 3]), torch.tensor([8, 9, 12, 13])
    order = torch.tensor([2, 0, 3, 1])
    out = model.predict(x, context, targets)
    assert torch.allclose(model.predict(x, context, targets[order]), out[:, order], atol=1e-12)
    assert torch.allclose(model.predict(x, context.flip(0), targets), out, atol=1e-12)
    seen, asked = torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 2, 2, dtype=torch.bool)
    z = model.encoder(x, context.expand(2, -1), seen)
    groups = targets.reshape(1, 2, 2).expand(2, -1, -1)
    apart = model.predictor(z, context.expand(2, -1), seen, groups, asked)
    assert torch.allclose(apart[:, 0], model.predict(x, context, targets[:2]), atol=1e-12)
    assert not torch.allclose(apart.flatten(1, 2), out), "together they would see one another"


def test_predictions_that_are_right_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = small(), torch.rand(5, 1, 8, 8)
    wanted = model.targets(x)
    assert torch.allclose(wanted.mean(2), torch.zeros(5, 16), atol=1e-6)
    assert torch.allclose(wanted.var(2, correction=0), torch.ones(5, 16), atol=1e-2)

    def knows(z: Tensor, context: Tensor, seen: Tensor, targets: Tensor, asked: Tensor) -> Tensor:
        found = wanted.gather(1, targets.flatten(1)[..., None].expand(-1, -1, 16)).unflatten(1, targets.shape[1:])
        return torch.where(asked[..., None], found, torch.full_like(found, 1e3))  # empty slots do not count

    model.set_noise([torch.Generator().manual_seed(0)])
    assert model.loss((x, None))["loss"] > 0.1
    monkeypatch.setattr(model.predictor, "forward", knows)
    assert model.loss((x, None))["loss"] == 0


# -- the target encoder ------------------------------------------------------------------------------------------------


def test_no_gradient_reaches_the_target_encoder_which_follows_the_other() -> None:
    model = small(momentum=0.9).double()
    start = copy.deepcopy(model.target)
    with torch.no_grad():
        for p in model.encoder.parameters():
            p.add_(torch.randn_like(p))
    for step in range(5):
        model.steps_done = step
        model.training_step((torch.rand(4, 1, 8, 8, dtype=torch.float64), None), step).backward()
    assert all(p.grad is None for p in model.target.parameters())
    assert all(p.grad is not None for p in model.encoder.parameters())
    for slow, fast, first in zip(
        model.target.parameters(), model.encoder.parameters(), start.parameters(), strict=True
    ):
        assert torch.allclose(slow, 0.9**5 * first + (1 - 0.9**5) * fast, atol=1e-12)


def test_micro_batches_of_one_step_let_it_follow_once() -> None:
    model = small(momentum=0.5)
    with torch.no_grad():
        for p in model.encoder.parameters():
            p.add_(1.0)
    before = model.target.first.weight.clone()
    for _ in range(3):
        model.training_step((torch.rand(2, 1, 8, 8), None), 0)
    assert torch.allclose(model.target.first.weight, before + 0.5)


def test_momentum_rises_to_one() -> None:
    model = small(momentum=0.996, momentum_steps=100)
    assert [model.momentum_at(t) for t in (0, 50, 100, 200)] == pytest.approx([0.996, 0.998, 1.0, 1.0])
    assert small(momentum=0.9).momentum_at(10**6) == 0.9


def test_what_cannot_be_is_refused() -> None:
    for options, said in (
        ({"momentum": 1.0}, "momentum"), ({"distance": "l3"}, "distance"), ({"least": 12}, "patches at least"),
        ({"target_scale": (0.3, 0.2)}, "target_scale"), ({"context_share": 0.0}, "context_share"),
        ({"heads": 3}, "heads"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            small(**options)
    with pytest.raises(ConfigError, match="images"):
        IJEPA([64])
    model, x = small(), torch.rand(2, 1, 8, 8)
    for context, said in (
        (torch.tensor([16]), "0 to 15"), (torch.tensor([-1, 3]), "after the first"), (torch.rand(3), "integers"),
        (torch.zeros(3, 2, dtype=torch.int64), "3 examples"), ("places", "integers"), (None, "integers"),
        ([True, False], "integers"), ([10**400], "integers"), ([2**64 - 1], "integers"), ([[1], [2, 3]], "integers"),
        ([], "integers"), ([2**40], "0 to 15"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=said):
            model.predict(x, context, torch.tensor([1]))
    assert torch.equal(model.predict(x, [0, 3], [1]), model.predict(x, torch.tensor([0, 3]), torch.tensor([1])))
    with pytest.raises(ConfigError, match="pool"):
        model.features(x, pool="max")


# -- collapse ----------------------------------------------------------------------------------------------------------


class Unguarded(IJEPA):
    """The look-alike: targets are the encoder's own outputs, as they are, and the gradient goes into them too."""

    def loss(self, batch: Any) -> dict[str, Tensor]:
        wanted = self.encoder(batch[0])
        terms = [self.distance_of(batch[0], wanted, mask) for mask in self.masks(len(batch[0]))]
        return {"loss": torch.stack(terms).mean()}


def spread_after(model: IJEPA, steps: int) -> tuple[list[float], list[float]]:
    """Return the spread of features of unseen examples before and after training, and the loss."""
    generator, held = torch.Generator().manual_seed(0), gratings(300, torch.Generator().manual_seed(1))
    model.set_noise([generator])
    optimizer, spread, losses = model.configure_optimizers()[0], [], []
    for step in range(steps + 1):
        if step in (0, steps):
            spread.append(feature_std(model.features(held).detach())[0])
        model.steps_done = step
        loss = model.training_step((gratings(32, generator), None), step)
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return spread, [losses[0], losses[-1]]


def test_a_collapse_that_is_made_is_found_and_there_is_none_otherwise() -> None:
    kept, losses = spread_after(small(momentum=0.99, lr=5e-3), 60)
    assert losses[1] < 0.5 * losses[0] and not row(kept).collapsed
    torch.manual_seed(0)
    sizes = {"width": 16, "depth": 1, "heads": 2, "predictor_width": 8, "predictor_depth": 1, "least": 2}
    unguarded = Unguarded([1, 8, 8], 2, levels=None, momentum=0.0, normalise=False, weight_decay=0.0, lr=5e-3, **sizes)
    lost, losses = spread_after(unguarded, 60)
    assert losses[1] < 0.01 * losses[0], "the loss alone looks best of all"
    assert row(lost).collapsed and "(collapsed)" in to_table([row(lost)])


def row(spread: list[float]) -> Representation:
    """Return what a file of representations says of features of this spread, before and after."""
    metrics = {"feature_std": spread[1], "feature_std_untrained": spread[0], "feature_std_pixels": 0.3}
    return Representation(
        "x", "representation", "features", 16, "gratings", "test", "", "", metrics, {}, {}, False, ""
    )  # fmt: skip
