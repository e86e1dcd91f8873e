"""Samples of a generator, chosen among candidates by its critic.

A critic that judges well says how much likelier an example is as data than as a sample. So sampling can draw several
candidates and keep one of them, each with a chance in proportion to exp D: importance resampling, which approaches the
data's distribution as far as the critic is right.

References:
    S. Azadi and others, Discriminator Rejection Sampling, 2018, arXiv:1810.06758: critics as ratios of densities.
    D. B. Rubin, The Calculation of Posterior Distributions by Data Augmentation: Comment, 1987: the resampling.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo.errors import ConfigError

__all__ = ["ChosenByCritic"]

_ROWS = 512  # candidates that are drawn and judged at once


class ChosenByCritic:
    """Mixin of a model with ``decode``, ``generate`` and ``score`` (see `AdversarialModel`): its way of sampling."""

    passes: ClassVar[int] = 1
    """Networks between a latent and an example."""

    def choose_among(self, candidates: int, sharpness: float) -> None:
        """Set the defaults of sampling. Raises `ConfigError`."""
        _check(candidates, sharpness)
        self.candidates, self.sharpness = candidates, sharpness

    def draw(
        self,
        n: int,
        generator: torch.Generator,
        labels: Tensor | None,
        *,
        temperature: float = 1.0,
        candidates: int | None = None,
        sharpness: float | None = None,
    ) -> Tensor:
        """Draw from the generator.

        Args:
            temperature: factor of the standard deviation of z.
            candidates: how many are drawn for one that is kept, by the critic's choice; the model's own if left out.
            sharpness: beta of the chance in proportion to exp(beta D) with which one is kept; 1 is importance
                resampling, more prefers what the critic likes best. The model's own if left out.

        Raises:
            ConfigError: no candidates, or a sharpness that is negative or not finite.
        """
        k = self.candidates if candidates is None else candidates
        beta = self.sharpness if sharpness is None else sharpness
        _check(k, beta)
        options = {"generator": generator, "device": self.device, "dtype": self.dtype}
        if k == 1:
            return self.decode(temperature * torch.randn(n, self.latent_dim, **options), labels)
        z = temperature * torch.randn(n, k, self.latent_dim, **options)
        d = torch.cat([self._judged(part, y) for part, y in self._parts(z, labels)])  # (n, k)
        best = torch.multinomial(torch.softmax(beta * d, 1), 1, generator=generator).squeeze(1)
        return self.decode(z[torch.arange(n, device=self.device), best], labels)

    def _parts(self, z: Tensor, labels: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Cut (n, k, latent_dim) and labels (n,) into what is judged at once."""
        rows = max(1, _ROWS // z.shape[1])
        for i in range(0, len(z), rows):
            yield z[i : i + rows], None if labels is None else labels[i : i + rows]

    def _judged(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Return the critic's scores of what latents make: (m, k, latent_dim), (m,) -> (m, k)."""
        y = None if labels is None else labels.repeat_interleave(z.shape[1])
        y = self.given_labels(z.shape[0] * z.shape[1], y)
        return self.score(self.generate(z.flatten(0, 1), y), y).view(z.shape[:2])

    def calls(self, options: Mapping[str, Any]) -> float:
        """Return the evaluations of the generator, and of the critic where it chooses, for one sample."""
        k = options.get("candidates") or self.candidates
        return float(self.passes + (2 * k if k > 1 else 0))

    @property
    def calls_per_sample(self) -> int:
        """Evaluations with the model's own options."""
        return int(self.calls({}))


def _check(candidates: int, sharpness: float) -> None:
    if candidates < 1 or not 0 <= sharpness < math.inf:
        raise ConfigError(
            f"candidates must be at least 1 and sharpness not negative and finite, got {candidates} and {sharpness}"
        )
