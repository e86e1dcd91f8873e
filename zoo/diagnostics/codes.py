"""How much of a codebook is used, and what the codes of each stage add to an image.

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

from zoo.abilities import HasCodes, in_batches, refining
from zoo.diagnostics.figures import picture_of

__all__ = ["Refinement", "Usage", "codebook_usage", "plot_usage", "refinement"]


@dataclass(frozen=True)
class Usage:
    """How often each code occurs.

    Attributes:
        counts: int64 (G, codebook_size), of each of G codebooks.
        examples: from how many examples.
        stages: int64 (S, codebook_size), of each of S stages where the codes go from coarse to fine; else none.
    """

    counts: Tensor
    examples: int
    stages: Tensor | None = None

    @property
    def used(self) -> int:
        """Number of codes that occur at all, over all codebooks."""
        return int((self.counts > 0).sum())

    @property
    def entropy(self) -> Tensor:
        """Entropy of the codes of each codebook, in nats, at most log codebook_size, (G,)."""
        return _entropy(self.counts)

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
            "perplexities": self.entropy.exp().tolist(),
            "entropy_bits": float(self.entropy.mean()) / math.log(2),
            "codes_per_example": int(self.counts.sum()) / self.examples,
            "examples": self.examples,
            **({} if self.stages is None else {"stages": self._stages(self.stages)}),
        }

    def _stages(self, counts: Tensor) -> dict[str, list[float]]:
        return {
            "used_codes": (counts > 0).sum(1).tolist(),
            "perplexity": _entropy(counts).exp().tolist(),
            "codes_per_example": (counts.sum(1) // self.examples).tolist(),
        }


def _entropy(counts: Tensor) -> Tensor:
    p = counts.double() / counts.sum(1, keepdim=True)
    return -torch.special.xlogy(p, p).sum(1)


def codebook_usage(model: HasCodes, x: Tensor) -> Usage:
    """Count the codes of examples (N, *shape) in data range."""
    codes = in_batches(model, model.codes, x)
    groups = codes.transpose(0, 1).flatten(1)  # (G, N * positions)
    counts = torch.stack([torch.bincount(c, minlength=model.codebook_size) for c in groups])
    refines, stages = refining(model), None
    if refines is not None:
        of = refines.code_stages()
        parts = [codes[:, of == s].flatten() for s in range(int(of.max()) + 1)]
        stages = torch.stack([torch.bincount(c, minlength=model.codebook_size) for c in parts])
    return Usage(counts, len(x), stages)


def plot_usage(report: Usage) -> np.ndarray:
    """Plot the share of each code, the most frequent first, one line a stage or codebook, uint8 (height, width, 3)."""
    from matplotlib.figure import Figure

    groups, size = report.counts.shape
    counts = report.counts if report.stages is None else report.stages
    shares = (counts.double() / counts.sum(1, keepdim=True)).sort(1, descending=True).values.numpy()
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    axes = figure.add_subplot()
    for s, (share, H) in enumerate(zip(shares, _entropy(counts), strict=True)):
        label = None if report.stages is None else f"stage {s + 1}, perplexity {float(H.exp()):.1f}"
        axes.step(np.arange(size), share, where="mid", linewidth=1.5 if len(shares) == 1 else 0.8, label=label)
    if report.stages is not None:
        axes.legend(fontsize=7)
    axes.axhline(1 / size, color="#d62728", linewidth=1)
    axes.set_xlabel("code, sorted by use (red: even use)", fontsize=8)
    axes.set_ylabel("share")
    axes.set_title(f"{report.used} of {groups * size} codes used, perplexity {report.perplexity:.1f}", fontsize=9)
    axes.tick_params(labelsize=8)
    return picture_of(figure)


@dataclass(frozen=True)
class Refinement:
    """Images of the first codes, the coarse ones, and of ever more of them.

    Attributes:
        images: means of p(x | codes of the first k stages), (N, S, *shape) in data range, k = 1 to S.
        errors: mean squared error of each k, (S,).
        bits: of the codes of the first k stages of an example, were all of them equally likely, (S,).
    """

    images: Tensor
    errors: Tensor
    bits: Tensor

    def summary(self) -> dict[str, Any]:
        """Return the numbers as plain data."""
        return {
            "stages": len(self.bits), "bits": self.bits.tolist(), "mean_squared_error": self.errors.tolist(),
            "examples": len(self.images),
        }  # fmt: skip


def refinement(model: Any, x: Tensor) -> Refinement:
    """Decode the first stages of the codes of examples (N, *shape) in data range.

    Args:
        model: one of whose codes there are several stages, or that has such an autoencoder, see
            `zoo.abilities.refining`.
        x: examples.
    """
    refines = refining(model)
    assert refines is not None
    of = refines.code_stages()
    stages = range(1, int(of.max()) + 2)

    def shown(x: Tensor) -> Tensor:
        codes = refines.codes(x)
        return torch.stack([refines.partial(codes, k) for k in stages], 1)  # (B, S, *shape)

    images = in_batches(model, shown, x)
    errors = (images.double() - x.double()[:, None]).square().transpose(0, 1).flatten(1).mean(1)
    bits = torch.stack([(of < k).sum() for k in stages]).double() * math.log2(refines.codebook_size)
    return Refinement(images, errors, bits)
