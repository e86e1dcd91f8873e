"""How much of a codebook is used.

References:
    A. van den Oord, O. Vinyals, K. Kavukcuoglu, Neural Discrete Representation Learning, 2017, arXiv:1711.00937.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.abilities import HasCodes, in_batches
from zoo.diagnostics.figures import picture_of

__all__ = ["Usage", "codebook_usage", "plot_usage"]


@dataclass(frozen=True)
class Usage:
    """How often each code occurs.

    Attributes:
        counts: int64 (G, codebook_size), of each of G codebooks.
        examples: from how many examples.
    """

    counts: Tensor
    examples: int

    @property
    def used(self) -> int:
        """Number of codes that occur at all, over all codebooks."""
        return int((self.counts > 0).sum())

    @property
    def entropy(self) -> Tensor:
        """Entropy of the codes of each codebook, in nats, at most log codebook_size, (G,)."""
        p = self.counts.double() / self.counts.sum(1, keepdim=True)
        return -torch.special.xlogy(p, p).sum(1)

    @property
    def perplexity(self) -> float:
        """exp(entropy), the mean over codebooks: how many codes there would be, were all used evenly."""
        return float(self.entropy.exp().mean())

    def summary(self) -> dict[str, Any]:
        """Return the numbers as plain data."""
        groups, size = self.counts.shape
        return {
            "used_codes": self.used,
            "codebooks": groups,
            "codebook_size": size,
            "perplexity": self.perplexity,
            "entropy_bits": float(self.entropy.mean()) / math.log(2),
            "codes_per_example": int(self.counts.sum()) / self.examples,
            "examples": self.examples,
        }


def codebook_usage(model: HasCodes, x: Tensor) -> Usage:
    """Count the codes of examples (N, *shape) in data range."""
    codes = in_batches(model, model.codes, x)
    groups = codes.transpose(0, 1).flatten(1)  # (G, N * positions)
    return Usage(torch.stack([torch.bincount(c, minlength=model.codebook_size) for c in groups]), len(x))


def plot_usage(report: Usage) -> np.ndarray:
    """Plot the share of each code, the most frequent first, one line a codebook, uint8 (height, width, 3)."""
    from matplotlib.figure import Figure

    groups, size = report.counts.shape
    shares = (report.counts.double() / report.counts.sum(1, keepdim=True)).sort(1, descending=True).values.numpy()
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    axes = figure.add_subplot()
    for share in shares:
        axes.step(np.arange(size), share, where="mid", linewidth=1.5 if groups == 1 else 0.8)
    axes.axhline(1 / size, color="#d62728", linewidth=1)
    axes.set_xlabel("code, sorted by use (red: even use)", fontsize=8)
    axes.set_ylabel("share")
    axes.set_title(f"{report.used} of {groups * size} codes used, perplexity {report.perplexity:.1f}", fontsize=9)
    axes.tick_params(labelsize=8)
    return picture_of(figure)
