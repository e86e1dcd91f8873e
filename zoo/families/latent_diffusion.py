"""Latent diffusion: a diffusion model, or another of continuous data, of what a trained autoencoder makes of the data.

    z = scale * mean of q(z | x),   samples: z by the prior, then the mean of p(x | z / scale)

The autoencoder is a variational one whose latents are a small map, with a weak prior; it is frozen while the prior
learns, and the scale brings its latents to unit variance.

References:
    R. Rombach and others, High-Resolution Image Synthesis with Latent Diffusion Models, 2021, arXiv:2112.10752.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.abilities import Denoises, HasMapLatents, Travels, map_grid_of
from zoo.errors import ConfigError
from zoo.families.second_stage import SecondStage
from zoo.families.vae import VAE
from zoo.fitting import beyond_digits, fitted_model, halvings
from zoo.model import Batch, ScoreModel, TrainedPart

__all__ = ["AutoencoderKL", "LatentDiffusion"]

LARGEST_GRID = 16
"""Longest side of the map of latents of a larger image."""

LARGE_LR = 5e-4
"""Highest learning rate of autoencoders of larger images, whose networks have no normalisation."""

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

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that go with other data: a grid of 16x16 at most, halved as often as before at least."""
        shape, (channels, height, _) = arguments["shape"], before["grid"]
        if list(shape) == list(before["shape"]) or len(shape) != 3:
            return dict(arguments)
        n = halvings(shape[1:], LARGEST_GRID, least=round(math.log2(before["shape"][1] / height)))
        fitted = {**arguments, "grid": [channels, *(side >> n for side in shape[1:])]}
        return {**fitted, "lr": min(arguments.get("lr", LARGE_LR), LARGE_LR)} if beyond_digits(shape) else fitted

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Return what the encoder and the decoder map to what; see `zoo.fitting`."""
        channels, *grid = arguments["grid"]
        flat = super().network_shapes({**arguments, "latent_dim": channels})
        return {
            "encoder": (flat["encoder"][0], (2 * channels, *grid)),
            "decoder": ((channels, *grid), flat["decoder"][1]),
        }

    def _decoder_input(self, z: Tensor, labels: Tensor | None) -> Tensor:
        return z.unflatten(1, self.grid)  # (B, C, h, w)

    def latents(self, x: Tensor) -> Tensor:
        """Return the means of q(z | x) as maps: (B, *shape) in data range -> (B, C, h, w)."""
        return self.encode(x)[0].unflatten(1, self.grid)

    def images(self, z: Tensor) -> Tensor:
        """Return the mean of p(x | z): (B, C, h, w) -> (B, *shape) in data range."""
        return self.decode(z.flatten(1))


def _fitted(arguments: Mapping[str, Any], autoencoder: Any) -> dict[str, Any]:
    """Return the arguments of a `LatentDiffusion` of the latents of this very autoencoder."""
    grid = list(map_grid_of(autoencoder))
    prior = arguments["prior"]
    given = prior.get("init_args") or {}
    fitted = fitted_model(prior, given, grid, given.get("num_classes") or 0)
    fitted["init_args"] = {**fitted["init_args"], "shape": grid}
    return {**arguments, "autoencoder": autoencoder.spec, "prior": fitted}


class LatentDiffusion(SecondStage, ScoreModel):
    """A frozen autoencoder, and a model of its latents, a diffusion model as a rule.

    Its loss, sampler and options are the prior's: whatever models continuous data can be one, such as a flow or an
    energy. What of the way from noise to data the prior can show (``denoising``, ``trajectory``), this shows decoded.

    Args:
        autoencoder: an `AutoencoderKL`, or another that `zoo.abilities.HasMapLatents`; never trained here.
        prior: a model of continuous data (``levels`` null) of the shape of the latents; its learning rate,
            labels and sampler are those that count.

    Raises:
        ConfigError: a prior that does not fit the latents.
    """

    family = "diffusion"
    trained_parts: ClassVar[Mapping[str, TrainedPart]] = {
        "autoencoder": TrainedPart(
            what="a prior over the latents of a trained autoencoder", example="autoencoder_kl-mnist",
            requires=HasMapLatents, needs="map of latents", fitted=_fitted,
        )
    }  # fmt: skip

    def __init__(self, autoencoder: nn.Module, prior: nn.Module) -> None:
        grid = map_grid_of(autoencoder)
        if tuple(prior.shape) != grid or prior.levels is not None:
            raise ConfigError(
                f"the autoencoder's latents are continuous and have shape {grid}, the prior is "
                f"built for shape {tuple(prior.shape)} and levels {prior.levels}; set these to the latents' and to null"
            )
        super().__init__(autoencoder, prior)
        self.register_buffer("scale", torch.ones(()))
        self.family = prior.family or self.family  # type: ignore[misc]
        if isinstance(prior, Denoises):
            self.denoising = self._denoising
        if isinstance(prior, Travels):
            self.trajectory = self._trajectory

    @torch.no_grad()
    def setup(self, stage: str) -> None:
        """Measure the scale on the first training examples, the same for every process; the model is not placed yet."""
        if stage == "fit":
            x = self.first_examples(_SCALED_BY).to(self.scale.device)
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
        return self.autoencoder.images((z / self.scale).to(self.dtype))

    def stage(self, batch: Batch) -> Batch:
        x, labels = batch
        return self.encode(x), labels

    # -- sampling -----------------------------------------------------------------------------------------------------

    def draw(self, n: int, generator: torch.Generator, labels: Tensor | None, **options: Any) -> Tensor:
        """Draw latents and decode them; the options are those of the prior."""
        return self.decode(self.prior.draw(n, generator, labels, **options))

    @property
    def watchable(self) -> bool:  # type: ignore[override]
        """Whether a callback is told of the prior's steps."""
        return bool(self.prior.watchable)

    def state_examples(self, x: Tensor) -> Tensor:
        return self.decode(self.prior.state_examples(x))

    def examples_of(self, z: Tensor) -> Tensor:
        return self.decode(z)

    def _denoising(self, n: int, frames: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Return what the decoder makes of the states and of what is seen in them, (frames, n, *shape) each."""
        states, seen = (self._decoded(z) for z in self.prior.denoising(n, frames, seed))
        return states, seen

    def _trajectory(self, n: int, *, seed: Any = None, labels: Any = None, frames: int = 9) -> tuple[Tensor, Tensor]:
        """Return what the decoder makes of the states on the curves, (frames, n, *shape), and their times."""
        states, times = self.prior.trajectory(n, seed=seed, labels=labels, frames=frames)
        return self._decoded(states), times

    def _decoded(self, z: Tensor) -> Tensor:
        return self.decode(z.flatten(0, 1)).unflatten(0, z.shape[:2])

    def controls(self) -> dict[str, Callable[[Tensor, int], Tensor]]:
        """Return what evaluation measures beside samples: reconstructions."""
        return {"reconstructions": lambda x, seed: self.decode(self.encode(x))}
