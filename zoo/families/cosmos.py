"""Cosmos tokenizer: one autoencoder of images and videos, whose codes know nothing of what is still to come.

    wavelets -> causal encoder -> finite scalar quantisation -> causal decoder -> inverse wavelets -> p(x | codes)

A video of 1 + 4 n frames has codes (1, 1 + n, h, w), and those of its first frames are the first codes: an image is a
video of one frame. What the paper trains by absolute errors, perceptual losses and an adversary is trained by the
likelihood here, as all autoencoders of the zoo are, so that a bound on log p(x) follows.

References:
    N. Agarwal and others, Cosmos World Foundation Model Platform for Physical AI, 2025, arXiv:2501.03575, section 4.1.
    F. Mentzer, D. Minnen, E. Agustsson, M. Tschannen, Finite Scalar Quantization: VQ-VAE Made Simple, 2023,
    arXiv:2309.15505.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.vq_vae import VQVAE
from zoo.maths.completion import covered
from zoo.maths.observation import Observation, observation

__all__ = ["Cosmos"]


class Cosmos(VQVAE):
    """Autoencoder of videos with discrete codes, causal in time.

    `codes`, `encode`, `reconstruct` and `log_prob` take any number 1 + n g of frames, (B, C, 1 + n g, H, W), an image
    being one of 1; `decode` takes the codes of any.

    Args:
        encoder: such as `zoo.nets.causal_video.CausalEncoder`: (B, C, 1 + n g, H, W) -> (B, D, 1 + n, h, w).
        decoder: such as `zoo.nets.causal_video.CausalDecoder`: (B, D, 1 + n, h, w) -> (B, 2 C, 1 + n g, H, W).
        quantiser: between the two, of D channels.
        shape: of a clip, (C, 1 + n g, H, W).
        grid: (1 + n, h, w), positions of its codes.
        scale: of the logistic, ``predicted`` or ``shared``.

    The other arguments are those of `zoo.families.vq_vae.VQVAE`.

    Raises:
        ConfigError: unknown or contradictory options, or frames that the grid does not divide.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        quantiser: nn.Module,
        shape: list[int],
        grid: list[int],
        scale: str = "predicted",
        **kwargs: Any,
    ) -> None:
        if len(shape) != 4 or len(grid) != 3 or (shape[1] > 1 and (grid[0] < 2 or (shape[1] - 1) % (grid[0] - 1))):
            raise ConfigError(
                f"Cosmos needs clips (C, 1 + n g, H, W) and a grid (1 + n, h, w), got {tuple(shape)} and {tuple(grid)}"
            )
        if scale == "pixel":
            raise ConfigError("clips of any length have no scale for each pixel; scale is predicted or shared")
        super().__init__(encoder, decoder, quantiser, shape, grid, scale=scale, **kwargs)
        self.group = (shape[1] - 1) // (grid[0] - 1) if shape[1] > 1 else 1
        steps = (getattr(network, "steps_to_move", 2) for network in (encoder, decoder))
        self.steps_to_move = max(self.steps_to_move, *steps)

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that go with other clips: their grid follows; see `zoo.fitting`.

        Raises:
            ConfigError: clips that do not divide as the entry's do.
        """
        shape, old, grid = arguments["shape"], before["shape"], before["grid"]
        if list(shape) == list(old) or arguments["grid"] != grid:
            return dict(arguments)
        group, cell = (old[1] - 1) // max(1, grid[0] - 1), [s // g for s, g in zip(old[2:], grid[1:], strict=True)]
        if len(shape) != 4 or (shape[1] - 1) % group or any(s % c for s, c in zip(shape[2:], cell, strict=True)):
            raise ConfigError(
                f"Cosmos takes clips (C, 1 + n * {group}, H, W) whose sides are multiples of {cell[0]}, the examples "
                f"have shape {tuple(shape)}; choose such data, as by --data.frames"
            )
        sides = [s // c for s, c in zip(shape[2:], cell, strict=True)]
        return {**arguments, "grid": [1 + (shape[1] - 1) // group, *sides]}

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return nothing: the networks take clips of any size; see `zoo.fitting`."""
        return {}

    def fits(self, shape: Sequence[int]) -> bool:
        """Tell whether examples may have this shape: any number of groups of frames after the first frame."""
        return (shape[0], *shape[2:]) == (self.shape[0], *self.shape[2:]) and (shape[1] - 1) % self.group == 0

    def fits_latent(self, shape: Sequence[int]) -> bool:
        """Tell whether codes may have this shape: those of any number of frames."""
        return len(shape) == 4 and (shape[0], *shape[2:]) == (self.grid[0], *self.grid[2:]) and shape[1] > 0

    def latent(self, x: Tensor) -> Tensor:
        """Return z_e: (B, C, 1 + n g, H, W) in data range -> (B, D, 1 + n, h, w). Raises `ConfigError`."""
        z, size = self.encoder(x), self.latent_size
        if (z.shape[1], *z.shape[3:]) != (size[0], *size[2:]):
            raise ConfigError(
                f"the encoder gives latents of {tuple(z.shape[1:])}, the quantiser and its grid take {size}; change "
                f"the encoder or the grid"
            )
        return z

    def observation(self, z: Tensor) -> Observation:
        """Return p(x | z), number by number: (B, D, 1 + n, h, w) -> a distribution over (B, C, 1 + n g, H, W)."""
        shape = (self.shape[0], 1 + (z.shape[2] - 1) * self.group, *self.shape[2:])
        return observation(self.observed, self.output(z), shape, self.levels, self.raw_scale, self.min_log_scale)

    def known_codes(self, mask: Tensor) -> Tensor:
        """Return which codes stand for pixels that are all known: bool (B, C, T, H, W) -> bool (B, *grid).

        The decoder is causal, so a code needs the pixels of its own frames only.
        """
        frames = torch.cat([mask[:, :, :1].expand(-1, -1, self.group, -1, -1), mask[:, :, 1:]], 2)
        groups = frames.unflatten(2, (-1, self.group)).all(3)  # (B, C, 1 + n, H, W)
        found = [covered(groups[:, :, t], self.grid[2:]) for t in range(groups.shape[2])]  # (B, 1, h, w) each
        return torch.stack(found, 2).expand(-1, self.grid[0], -1, -1, -1)

    def code_nats(self, made: Mapping[str, Any]) -> float:
        """Return what the codes of an example cost in the ``elbo``, in nats, whatever its number of frames."""
        return made[""].codes[0].numel() * math.log(self.codebook_size)
