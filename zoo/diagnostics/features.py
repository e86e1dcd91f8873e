"""A look at features: what lies near what, and what is told of patches that are hidden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.abilities import PredictsPatches, in_batches
from zoo.metrics.probes import standardised

__all__ = ["Hidden", "Neighbours", "hidden_patches", "nearest_examples"]

_GREY = 0.5


@dataclass(frozen=True)
class Neighbours:
    """Examples, and those nearest to them by their features.

    Attributes:
        examples: (Q, 1 + k, *shape), the query first, the nearest after it.
        labels: int64 (Q, 1 + k).
        same_class: of the neighbours of all examples, the share that is of the same class.
        same_class_pixels: the same of neighbours by pixels.
    """

    examples: Tensor
    labels: Tensor
    same_class: float
    same_class_pixels: float


def nearest_examples(model: Any, x: Tensor, labels: Tensor, queries: int = 8, k: int = 7) -> Neighbours:
    """Return the k examples whose features are nearest by cosine, standardised, of a few examples of different classes.

    Args:
        model: with `zoo.abilities.HasFeatures`, in eval mode.
        x: (N, *shape) in data range.
        labels: int64 (N,).
        queries: how many are shown.
        k: neighbours of each, at most N - 1.
    """
    k = min(k, len(x) - 1)
    found = {}
    for name, z in (("features", in_batches(model, model.features, x).flatten(1)), ("pixels", x.flatten(1))):
        z = F.normalize(standardised(z.float())[0], dim=1)
        near = torch.cat([(rows @ z.T).topk(k + 1, dim=1).indices for rows in z.split(500)])  # itself among them
        own = near == torch.arange(len(x))[:, None]
        own[:, -1] |= ~own.any(1)
        found[name] = near[~own].view(len(x), k)
    same = {name: float((labels[near] == labels[:, None]).double().mean()) for name, near in found.items()}
    first = _in_turn(labels, queries)
    shown = torch.cat([first[:, None], found["features"][first]], 1)
    return Neighbours(x[shown], labels[shown], same["features"], same["pixels"])


def _in_turn(labels: Tensor, count: int) -> Tensor:
    """Return indices of ``count`` examples at most, of one class after the other."""
    places = [(labels == y).nonzero()[:, 0] for y in labels.unique()]
    order = [p[i] for i in range(count) for p in places if i < len(p)]
    return torch.stack(order[:count])


@dataclass(frozen=True)
class Hidden:
    """What a model that predicts features tells of hidden patches.

    Attributes:
        rows: (4, n, C, H, W) in data range: the images; what is seen, the rest grey; what is asked for, the rest grey;
            and at each of these places the patch, of any other image, whose feature is nearest to the predicted one.
        explained: the share of the variance of features over images, at their place, that the predictions tell.
    """

    rows: Tensor
    explained: float


@torch.no_grad()
def hidden_patches(model: PredictsPatches, x: Tensor, count: int = 10, bank: int = 200, seed: int = 0) -> Hidden:
    """Hide patches of a few images as in training, and find patches that look like what is told of them.

    Args:
        model: in eval mode, of images.
        x: (N, C, H, W) in data range, at least 2.
        count: images shown, the first ones.
        bank: images, the last ones, among whose patches the nearest is looked for.
        seed: of what is hidden.
    """
    H, W = x.shape[2:]
    grid = tuple(model.token_grid or ())
    side = (H // grid[0], W // grid[1])
    count = min(count, len(x) // 2)
    shown, others = x[:count].to(model.device), x[max(count, len(x) - bank) :]
    before = model._streams
    model.set_noise([torch.Generator().manual_seed(seed)])
    try:
        mask = model.masks(count)[0]
    finally:
        model.set_noise(before)
    context = torch.where(mask.seen, mask.context, -1)
    asked = torch.where(mask.asked, mask.targets, -1)  # (n, G, P)
    predicted = torch.stack([model.predict(shown, context, places) for places in asked.unbind(1)], 1)  # (n, G, P, D)
    features = in_batches(model, model.targets, others)  # (M, N, D)
    own = model.targets(shown).cpu()
    cut = F.unfold(x.float(), side, stride=side).transpose(1, 2)  # (., N, C p p)
    cut_shown, cut_others = cut[:count], cut[len(x) - len(others) :]
    predicted, asked, context = predicted.cpu().float(), asked.cpu(), context.cpu()
    nearest = torch.cdist(predicted.flatten(0, 2), features.float().flatten(0, 1)).argmin(1).view(asked.shape)
    empty = torch.full_like(cut_shown, _GREY)
    rows, wrong, spread = [cut_shown, empty.clone(), empty.clone(), empty.clone()], 0.0, 0.0
    centre = features.float().mean(0)  # (N, D)
    for i in range(count):
        rows[1][i, context[i][context[i] >= 0]] = cut_shown[i, context[i][context[i] >= 0]]
        for g in range(asked.shape[1]):
            there = asked[i, g] >= 0
            places = asked[i, g][there]
            rows[2][i, places] = cut_shown[i, places]
            rows[3][i, places] = cut_others.flatten(0, 1)[nearest[i, g][there]]
            wrong += float((predicted[i, g][there] - own[i, places]).square().sum())
            spread += float((own[i, places] - centre[places]).square().sum())
    pictures = [F.fold(row.transpose(1, 2), (H, W), side, stride=side) for row in rows]
    return Hidden(torch.stack(pictures), 1 - wrong / max(spread, 1e-30))
