"""Make the embedded set `tiles`: choose the classes, find near-duplicates, and divide them by a fixed seed.

    python benchmarks/embed_tiles.py tiles32.npz zoo/data/assets/tiles/tiles32.npz

The input holds ``rgba`` uint8 (N, 32, 32, 4) and ``name`` (N,), paths whose first folder is a class. Two tiles are
near-duplicates where, on white, their Euclidean distance is under half of how far the fainter of them is from a white
tile: recoloured potions, gloves with and without a buckle. Whole groups of near-duplicates go to one split.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from zoo.data.tiles import CLASSES, NEAR, composited, nearness

SEED, HELD = 0, 0.1


def groups(x: torch.Tensor) -> np.ndarray:
    """Return the number of the group of near-duplicates of each tile, uint8 (N, 3, H, W) -> (N,)."""
    near = nearness(x) < NEAR
    group = np.arange(len(x))
    for i, j in near.nonzero().tolist():
        if group[i] != group[j]:
            group[group == max(group[i], group[j])] = min(group[i], group[j])
    return group


def divided(labels: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return the split of each tile, 0 training, 1 validation, 2 test: of each class a tenth, in whole groups."""
    split = np.zeros(len(labels), np.uint8)
    rng = np.random.default_rng(SEED)
    owner = {g: labels[group == g][0] for g in np.unique(group)}  # a group is counted for the class of its first tile
    for label in range(len(CLASSES)):
        order = rng.permutation([g for g, mine in owner.items() if mine == label])
        total = (labels == label).sum()
        for number in (2, 1):
            held = 0
            for g in order:
                members = group == g
                if split[members].any() or held + members.sum() > round(HELD * total):
                    continue
                split[members] = number
                held += members.sum()
    return split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    args = parser.parse_args()
    with np.load(args.source) as content:
        rgba, name = content["rgba"], content["name"]
    order = np.argsort(name)
    order = order[np.isin([n.split("/")[0] for n in name[order]], CLASSES)]
    rgba, name = rgba[order], name[order]
    labels = np.array([CLASSES.index(n.split("/")[0]) for n in name])
    split = divided(labels, groups(composited(rgba)))
    np.savez_compressed(args.target, rgba=rgba, name=name, split=split)
    for number, title in enumerate(("train", "validation", "test")):
        counts = np.bincount(labels[split == number], minlength=len(CLASSES))
        print(f"{title}: {int(counts.sum())}, " + ", ".join(f"{c} {n}" for c, n in zip(CLASSES, counts, strict=True)))


if __name__ == "__main__":
    main()
