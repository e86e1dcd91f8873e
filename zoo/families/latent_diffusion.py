"""Latent diffusion: a diffusion model of what a trained autoencoder makes of the data.

    z = scale * mean of q(z | x),   samples: z by diffusion, then the mean of p(x | z / scale)

The autoencoder is a variational one whose latents are a small map, with a weak prior; it is frozen while the diffusion
model learns, and the scale brings its latents to unit variance.

References:
    R. Rombach and others, High-Resolution Image Synthesis with Latent Diffusion Models, 2021, arXiv:2112.10752.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.vae import VAE
from zoo.model import Batch, Player, ScoreModel

__all__ = ["AutoencoderKL", "LatentDiffusion"]

_SCALED_BY = 1000
"""Training examples whose latents give the scale."""


class AutoencoderKL(VAE):
    """A variational autoencoder whose latents are a map.

    Args:
        encoder: (B, *shape) -> (B, 2 C, h, w), means, then log-variances.
        decoder: (B, C, h, w) -> what the likelihood takes.
        shape: of an example.
        grid: (C, h, w), the shape of the latents.
        likelihood: as that of `VAE`.
        levels: as those of `VAE`.
        scale: as that of `VAE`.
        beta: weight of the KL term.
        lr: peak learning rate.
        betas: Adam's decay rates.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        shape: list[int],
        grid: list[int],
        likelihood: str = "discretized_logistic",
        levels: int | None = None,
        scale: str = "shared",
        beta: float = 1.0,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__(
            encoder, decoder, shape, math.prod(grid), likelihood=likelihood, levels=levels, scale=scale, beta=beta,
            lr=lr, betas=betas,
        )  # fmt: skip
        self.grid = tuple(grid)

    def _decoder_input(self, z: Tensor, labels: Tensor | None) -> Tensor:
        return z.unflatten(1, self.grid)  # (B, C, h, w)

    def latents(self, x: Tensor) -> Tensor:
        """Return the means of q(z | x) as maps: (B, *shape) in data range -> (B, C, h, w)."""
        return self.encode(x)[0].unflatten(1, self.grid)

    def images(self, z: Tensor) -> Tensor:
        """Return the mean of p(x | z): (B, C, h, w) -> (B, *shape) in data range."""
        return self.decode(z.flatten(1))


class LatentDiffusion(ScoreModel):
    """A frozen autoencoder, and a diffusion model of its latents.

    Args:
        autoencoder: an `AutoencoderKL`; never trained here.
        prior: a diffusion model of continuous data (``levels`` null) of the shape of the latents; its learning rate,
            labels and sampler are those that count.

    Raises:
        ConfigError: a prior that does not fit the latents.
    """

    family = "diffusion"

    def __init__(self, autoencoder: nn.Module, prior: nn.Module) -> None:
        super().__init__()
        if tuple(prior.shape) != tuple(autoencoder.grid) or prior.levels is not None:
            raise ConfigError(
                f"the autoencoder's latents are continuous and have shape {tuple(autoencoder.grid)}, the prior is "
                f"built for shape {tuple(prior.shape)} and levels {prior.levels}; set these to the latents' and to null"
            )
        self.autoencoder, self.prior = autoencoder.requires_grad_(False), prior
        self.shape, self.levels, self.num_classes = autoencoder.shape, autoencoder.levels, prior.num_classes
        self.steps_to_move = prior.steps_to_move
        self.still = {f"prior.{name}": why for name, why in prior.still.items()}
        self.register_buffer("scale", torch.ones(()))

    def players(self) -> dict[str, Player]:
        return self.prior.players()

    def compilable(self) -> list[nn.Module]:
        return self.prior.compilable()

    def set_noise(self, streams: Sequence[torch.Generator]) -> None:
        super().set_noise(streams)
        self.prior.set_noise(streams)

    @torch.no_grad()
    def setup(self, stage: str) -> None:
        """Measure the scale on the first training examples, the same for every process."""
        if stage == "fit":
            data = self.trainer.datamodule
            x = data.to_float(data.split("train")[0][:_SCALED_BY], self.dtype).to(self.device)
            self.scale.copy_(1 / self.autoencoder.latents(x).std())

    # -- data, latents, and back --------------------------------------------------------------------------------------

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of the latents of one example, as ``decode`` takes them."""
        return tuple(self.prior.shape)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Return the scaled latents of examples: (B, *shape) in data range -> (B, C, h, w)."""
        return self.scale * self.autoencoder.latents(x)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Return the mean of p(x | z): (B, C, h, w) -> (B, *shape) in data range."""
        return self.autoencoder.images(z / self.scale)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of the prior on the latents of the batch."""
        x, labels = batch
        return self.prior.loss((self.encode(x), labels))

    # -- sampling -----------------------------------------------------------------------------------------------------

    def draw(
        self,
        n: int,
        generator: torch.Generator,
        labels: Tensor | None,
        *,
        sampler: str | None = None,
        steps: int | None = None,
        eta: float = 0.0,
        guidance_scale: float | None = None,
        spacing: str | None = None,
        solver: str = "rk4",
    ) -> Tensor:
        """Draw latents and decode them; the options are those of the prior (`zoo.families.diffusion.Diffusion`)."""
        z = self.prior.draw(
            n, generator, labels, sampler=sampler, steps=steps, eta=eta, guidance_scale=guidance_scale,
            spacing=spacing, solver=solver,
        )  # fmt: skip
        return self.decode(z)

    def denoising(self, n: int, frames: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Return what the decoder makes of the states and of what is seen in them, (frames, n, *shape) each."""
        found = self.prior.denoising(n, frames, seed)
        states, seen = (self.decode(z.flatten(0, 1)).unflatten(0, z.shape[:2]) for z in found)
        return states, seen

    def controls(self) -> dict[str, Callable[[Tensor, int], Tensor]]:
        """Return what evaluation measures beside samples: reconstructions."""
        return {"reconstructions": lambda x, seed: self.decode(self.encode(x))}

    def sampler(self, options: Mapping[str, Any]) -> dict[str, Any]:
        own = self.prior.sampler(options)
        return {name: own[name] for name in self.sampling_options()}

    def calls(self, options: Mapping[str, Any]) -> float:
        """Return evaluations of the prior's network with these options, and one of the decoder."""
        return self.prior.calls(options) + 1

    @property
    def calls_per_sample(self) -> int:
        return self.prior.calls_per_sample + 1
