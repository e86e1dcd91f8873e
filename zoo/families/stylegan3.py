"""StyleGAN3: a style-based GAN whose generator draws continuous signals, so that details move with what they belong to.

    g(t[z_0]; w) = t[g(z_0; w)]   for any move t, by parts of a pixel too

z_0 are waves, w styles. What holds it is in the generator, `zoo.nets.alias_free`; the game is that of StyleGAN, without
noise, mixed styles or a bound of the output, as each would tie details to the grid of pixels. How far the equation
holds is EQ-T, the ratio of peak to error in decibels (`zoo.metrics.equivariance`).

References:
    T. Karras and others, Alias-Free Generative Adversarial Networks, 2021, arXiv:2106.12423, section 2 and appendix E.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.adversarial import over_processes
from zoo.families.stylegan import StyleGAN
from zoo.model import Batch

__all__ = ["StyleGAN3"]

_MAGNITUDE_DECAY = 0.999  # of the running mean squares of features


class StyleGAN3(StyleGAN):
    """GAN with an alias-free generator.

    Args:
        mapping: (B, latent_dim [+ class_dim]) -> (B, style_dim).
        synthesis: styles (B, depth, style_dim) and a move (2,) -> (B, *shape), whose running means it lets `follow`,
            such as `zoo.nets.alias_free.AliasFreeSynthesis`.
        critic: (B, *shape) around [-1, 1] -> (B, 1), or (B, features) with classes.
        latent_dim: size of z.
        style_dim: size of w.
        shape: of an example, (C, H, W).
        r1: gamma of R1, the squared gradient on data.
        lazy: batches from one penalty to the next.
        lr: peak learning rate of both players.
        betas: Adam's decay rates of both players.

    The other arguments are those of `zoo.families.adversarial.AdversarialModel`, less those of another game.

    Raises:
        ConfigError: what `AdversarialModel` refuses.
    """

    def __init__(
        self,
        mapping: nn.Module,
        synthesis: nn.Module,
        critic: nn.Module,
        latent_dim: int,
        style_dim: int,
        shape: list[int],
        r1: float = 1.0,
        lazy: int = 8,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.0, 0.99),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            mapping, synthesis, critic, latent_dim, style_dim, shape, mixing=0.0, r1=r1, lazy=lazy, lr=lr, betas=betas,
            **kwargs,
        )  # fmt: skip

    def synthesise(self, w: Tensor, noise: Any = (), shift: Tensor | None = None) -> Tensor:
        """Return images of styles: (B, depth, style_dim) -> (B, *shape), around [-1, 1].

        Args:
            w: styles.
            noise: none, as there is none here.
            shift: (2,), by how much pictures are moved to the right and down, in their longer sides.
        """
        return self.generator.synthesis(w, noise, shift)

    def to_data(self, x: Tensor) -> Tensor:
        """Return what the generator gives as examples, (B, *shape) in [0, 1]; what lies beyond is cut."""
        return super().to_data(x).clamp(0, 1)

    def shift(self, right: float, down: float) -> Tensor | None:
        """Return a move in pixels as `synthesise` takes it. Raises `ConfigError` where it is not finite."""
        if not (math.isfinite(right) and math.isfinite(down)):
            raise ConfigError(f"right and down are moves in pixels, which must be finite, got {right} and {down}")
        if not right and not down:
            return None
        return torch.tensor([right, down], device=self.device, dtype=self.dtype) / max(self.shape[1:])

    def translated(self, z: Tensor, right: float, down: float, labels: Tensor | None = None) -> Tensor:
        """Return the images of latents, moved before they are drawn: (B, latent_dim) -> (B, *shape) around [-1, 1].

        Args:
            z: latents.
            right, down: in pixels, and parts of them.
            labels: int64 (B,), of conditional models.

        Raises:
            ConfigError: moves that are not finite, or labels that are missing.
        """
        w = self.styles(z, self.given_labels(len(z), labels))
        return self.synthesise(w[:, None].expand(-1, self.depth, -1), shift=self.shift(right, down))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Train as `StyleGAN`, and let the mean squares that features are scaled by follow those of this step."""
        super().training_step(batch, batch_idx)
        self.generator.synthesis.follow(self.decay(_MAGNITUDE_DECAY), lambda squares: over_processes(squares)[0])

    def option_words(self) -> dict[str, tuple[str, ...]]:
        return {}

    def draw(  # type: ignore[override]  # there is no noise to fix
        self,
        n: int,
        generator: torch.Generator,
        labels: Tensor | None,
        *,
        truncation: float = 1.0,
        mix_from: int | None = None,
        right: float = 0.0,
        down: float = 0.0,
    ) -> Tensor:
        """Draw from the generator.

        Args:
            truncation: psi, how far w is from the mean: 1 as trained, towards 0 more typical and less varied.
            mix_from: layer, from 0 to `depth`, from which on the styles are those of a second latent.
            right: by how many pixels pictures are moved to the right before they are drawn, parts of pixels too.
            down: the same downwards.

        Raises:
            ConfigError: a layer out of range, or a move that is not finite.
        """
        styles = self.drawn_styles(n, generator, labels, truncation, mix_from)
        return self.to_data(self.synthesise(styles, shift=self.shift(right, down)))
