"""A learned prior over the codes of a trained autoencoder, and with it a generative model of the data.

    log p(x) >= log p(x | c(x)) + log p(c(x)),   samples: c ~ p(c), then the mean of p(x | c)

The autoencoder is frozen; the prior is any likelihood model of images whose pixels are codes, such as a PixelCNN.

References:
    A. van den Oord, O. Vinyals, K. Kavukcuoglu, Neural Discrete Representation Learning, 2017, arXiv:1711.00937,
    section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.model import Batch, LikelihoodModel, Player

__all__ = ["CodePrior"]


class CodePrior(LikelihoodModel):
    """A frozen autoencoder with discrete codes, and a prior that is fitted to them.

    Args:
        autoencoder: a `zoo.families.discrete.DiscreteAutoencoder`; never trained here.
        prior: a likelihood model of images whose shape is the autoencoder's ``grid`` and whose levels are its
            ``codebook_size``; its learning rate is the one that counts.

    Raises:
        ConfigError: a prior that does not fit the codes.
    """

    family = "vae"

    def __init__(self, autoencoder: nn.Module, prior: nn.Module) -> None:
        super().__init__()
        if tuple(prior.shape) != autoencoder.grid or prior.levels != autoencoder.codebook_size:
            raise ConfigError(
                f"the autoencoder's codes have shape {autoencoder.grid} and {autoencoder.codebook_size} values, the "
                f"prior is built for shape {tuple(prior.shape)} and {prior.levels} levels; set these to the codes'"
            )
        self.autoencoder, self.prior = autoencoder.requires_grad_(False).eval(), prior
        self.shape, self.levels, self.num_classes = autoencoder.shape, autoencoder.levels, prior.num_classes
        self.grid, self.codebook_size = autoencoder.grid, autoencoder.codebook_size
        self.steps_to_move = prior.steps_to_move
        self.still = {f"prior.{name}": why for name, why in prior.still.items()}

    def train(self, mode: bool = True) -> CodePrior:
        """Set the prior's mode; the autoencoder stays in eval mode."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    def players(self) -> dict[str, Player]:
        return self.prior.players()

    def compilable(self) -> list[nn.Module]:
        return self.prior.compilable()

    # -- data, codes, and back ----------------------------------------------------------------------------------------

    def codes(self, x: Tensor) -> Tensor:
        """Return the codes of examples: (B, *shape) in data range -> int64 (B, *grid), 0..codebook_size-1."""
        return self.autoencoder.codes(x)

    def encode(self, x: Tensor) -> Tensor:
        """Return `codes`."""
        return self.codes(x)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the mean of p(x | codes): int64 (B, *grid) -> (B, *shape) in data range."""
        return self.autoencoder.decode(codes)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the mean of p(x | codes(x)): (B, *shape) -> (B, *shape), both in data range."""
        return self.autoencoder.reconstruct(x)

    def image(self, codes: Tensor) -> Tensor:
        """Return codes as the prior's images, in [0, 1]; float32 at least, which keeps millions of levels apart."""
        dtype = torch.promote_types(self.dtype, torch.float32)
        return codes.to(dtype) / (self.codebook_size - 1)

    # -- likelihood ---------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean of -log p(codes) over the batch, in nats, and the same in bits per code."""
        x, labels = batch
        with torch.no_grad():
            codes = self.codes(x)
        nll = self.prior.loss((self.image(codes), labels))["loss"]
        return {"loss": nll, "bits_per_code": nll / (math.prod(self.grid) * math.log(2))}

    @torch.no_grad()
    def log_prob(
        self,
        x: Tensor,
        *,
        labels: Sequence[int] | Tensor | int | None = None,
        k: int = 1,
        seed: int | torch.Generator | None = None,
    ) -> Tensor:
        """Return log p(x | codes(x)) + log p(codes(x)), in nats: (B, *shape) in data range -> (B,).

        ``k`` and ``seed`` are for the prior, where its likelihood is a bound that takes them.
        """
        given: dict[str, Any] = {"labels": self.given_labels(len(x), labels)} if self.num_classes else {}
        codes = self.codes(x)
        return self.autoencoder.log_likelihood(x, codes) + self.prior.log_prob(
            self.image(codes), k=k, seed=seed, **given
        )

    def likelihood(self, k: int = 1) -> str:
        return "elbo"

    # -- sampling -----------------------------------------------------------------------------------------------------

    def draw(
        self,
        n: int,
        generator: torch.Generator,
        labels: Tensor | None,
        *,
        temperature: float = 1.0,
        codes: str = "prior",
        observe: str = "mean",
    ) -> Tensor:
        """Draw codes from the prior and decode them.

        Args:
            temperature: of the prior.
            codes: ``prior``, or ``uniform`` for codes that are drawn each by itself, which shows what the prior does.
            observe: ``mean`` of p(x | codes), or ``sample`` for a draw from it, pixel by pixel.
        """
        if codes not in ("prior", "uniform"):
            raise ConfigError(f"codes must be 'prior' or 'uniform', got {codes!r}")
        if codes == "uniform":
            drawn = self.autoencoder.uniform_codes(n, generator)
        else:
            drawn = self.draw_codes(n, generator, labels, temperature)
        return self.autoencoder.picture(drawn, generator, observe)

    def draw_codes(
        self, n: int, generator: torch.Generator, labels: Tensor | None = None, temperature: float = 1.0
    ) -> Tensor:
        """Draw codes from the prior, int64 (n, *grid)."""
        x = self.prior.draw(n, generator, labels, temperature=temperature)
        return (x.to(torch.promote_types(x.dtype, torch.float32)) * (self.codebook_size - 1)).round().long()

    def controls(self) -> dict[str, Callable[[Tensor, int], Tensor]]:
        """Return what evaluation measures beside samples: reconstructions, and samples without the prior."""
        uniform = {"uniform_codes": lambda x, seed: self.sample(len(x), seed=seed, codes="uniform")}
        return {**self.autoencoder.controls(), **uniform}

    def granule(self, options: Mapping[str, Any]) -> int:
        """Return that of the prior, with which the decoder goes along."""
        return self.prior.granule({})

    @property
    def calls_per_sample(self) -> int:
        """Evaluations of the prior, and one of the decoder."""
        return self.prior.calls_per_sample + 1
