"""A variational autoencoder of texts whose decoder is fed twice: the true characters, and some of them hidden.

    L = (R_A + R_B) / 2 + sum_j w_j KL_j,   R = -E_q log p(x | z), character by character, from those before
    path A: the decoder reads the true characters;  path B: a share of what it reads is one unknown character
    w_j = beta_t Bernoulli(1 - p) while beta_t rises, beta afterwards

A decoder that sees all earlier characters has little need of z, and the posterior falls onto the prior; path B makes it
need z. Near the end path B stops, and the loss is then -ELBO exactly, for beta 1.

References:
    T. Song, Z. Huang, X. Liu, J. Sun, Preventing Posterior Collapse with DVAE for Text Modeling, 2025, Entropy 27(4),
    423. The two paths count half each here, so that the loss keeps its size when one stops.
    S. R. Bowman and others, Generating Sentences from a Continuous Space, 2015, arXiv:1511.06349: hidden words, and a
    weight of the KL that rises.
    Y. Burda, R. Grosse, R. Salakhutdinov, Importance Weighted Autoencoders, 2015, arXiv:1509.00519.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.autoregressive import scores
from zoo.families.transformer import Transformer
from zoo.maths.annealing import linear
from zoo.maths.distributions import gaussian_kl
from zoo.maths.noise import randn
from zoo.model import Batch, LikelihoodModel
from zoo.nets.sequence_encoder import SequenceEncoder
from zoo.sampling import Labels, seeded

__all__ = ["DualPathVAE"]


class _Decoder(Transformer):
    """A `Transformer` that is told a latent in the place of a class, and reads a character that stands for any."""

    def __init__(self, latent_dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        width = self.embedding.embedding_dim
        self.condition = nn.Linear(latent_dim, width)
        self.embedding = nn.Embedding(self.levels + 2, width)  # the characters, the start, the unknown one
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.unknown = self.levels + 1


class DualPathVAE(LikelihoodModel):
    """VAE of texts with one Gaussian latent, a Transformer that reads, and one that writes along two paths.

    Args:
        shape: (T,).
        levels: L, characters.
        latent_dim: of z.
        width: of both Transformers.
        encoder_depth: blocks of the encoder.
        depth: blocks of the decoder.
        heads: of attention.
        hidden_share: of the characters that path B reads, how many are unknown.
        stop: training steps after which path B is left out.
        beta: weight of the KL in the end.
        kl_steps: training steps in which the weight rises from 0 to beta.
        kl_dropout: p, chance that a latent dimension of an example costs nothing while the weight rises.
        alphabet: the L characters; none for values that are no text.
        lr: peak learning rate.
        betas: Adam's decay rates.

    Raises:
        ConfigError: numbers out of range.
    """

    family = "vae"
    quantizes = True
    sized: ClassVar[Mapping[str, str]] = {
        "width": "width", "heads": "width", "encoder_depth": "depth", "depth": "depth"
    }  # fmt: skip

    def __init__(
        self,
        shape: Sequence[int] = (256,),
        levels: int = 80,
        latent_dim: int = 32,
        width: int = 128,
        encoder_depth: int = 2,
        depth: int = 3,
        heads: int = 4,
        hidden_share: float = 0.3,
        stop: int = 0,
        beta: float = 1.0,
        kl_steps: int = 0,
        kl_dropout: float = 0.0,
        alphabet: str | None = None,
        lr: float = 1.0e-3,
        betas: Sequence[float] = (0.9, 0.99),
    ) -> None:
        super().__init__()
        for name, value in (("hidden_share", hidden_share), ("kl_dropout", kl_dropout)):
            if not 0 <= value < 1:
                raise ConfigError(f"{name} must lie in [0, 1), got {value}")
        if not 0 <= beta < math.inf:
            raise ConfigError(f"beta must be finite and not negative, got {beta}")
        self.encoder = SequenceEncoder(levels, width, encoder_depth, heads)
        self.moments = nn.Linear(width, 2 * latent_dim)
        self.decoder = _Decoder(
            latent_dim, shape=shape, levels=levels, width=width, depth=depth, heads=heads, tied=True, alphabet=alphabet
        )
        self.shape, self.levels, self.latent_dim, self.alphabet = tuple(shape), levels, latent_dim, alphabet
        self.hidden_share, self.stop = hidden_share, stop
        self.beta, self.kl_steps, self.kl_dropout = beta, kl_steps, kl_dropout
        self.lr, self.betas = lr, tuple(betas)

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that go with other data, which are theirs alone; see `zoo.fitting`."""
        return dict(arguments)

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return nothing: the networks are the model's own; see `zoo.fitting`."""
        return {}

    def fits(self, shape: Sequence[int]) -> bool:
        """Tell whether examples may have this shape: texts of any length."""
        return len(shape) == 1 and shape[0] > 0

    # -- texts and latents --------------------------------------------------------------------------------------------

    def text(self, x: Tensor) -> list[str]:
        """Return the texts that examples stand for: (B, T) -> B strings. Raises `ConfigError` without an alphabet."""
        return self.decoder.text(x)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of the latent of one example, as ``decode`` takes it."""
        return (self.latent_dim,)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of q(z | x): (B, T) in data range -> two of (B, latent_dim)."""
        return self._posterior(self.decoder.quantize(x))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return `posterior`."""
        return self.posterior(x)

    def _posterior(self, values: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = self.moments(self.encoder(values).mean(1)).chunk(2, 1)
        return mean, log_var

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Return the text that takes the most probable character each time: (B, latent_dim) -> (B, T)."""
        return self.decoder.draw(len(z), seeded(0), z, greedy=True)

    # -- the objective ------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss, the two terms of the bound, ``elbo``, and what path B costs while it is there."""
        values = self.decoder.quantize(batch[0])
        mean, log_var = self._posterior(values)
        z = mean + torch.exp(0.5 * log_var) * self.randn(*mean.shape)
        reconstruction = -scores(self.decoder(values, z), values).mean()
        kl_j = gaussian_kl(mean, log_var)  # (B, latent_dim)
        kl = kl_j.sum(1).mean()
        terms = {"reconstruction": reconstruction, "kl": kl, "elbo": -(reconstruction + kl)}
        both = reconstruction
        if self.steps_done < self.stop:
            terms["hidden_reconstruction"] = self.hidden_reconstruction(values, z)
            both = (reconstruction + terms["hidden_reconstruction"]) / 2
        return {"loss": both + (self.kl_weights(*kl_j.shape) * kl_j).sum(1).mean(), **terms}

    def hidden_reconstruction(self, values: Tensor, z: Tensor) -> Tensor:
        """Return -log p(x | z) along path B, the mean over the batch: int64 (B, T), (B, latent_dim) -> a number."""
        hidden = self.rand(*values.shape) < self.hidden_share
        return -scores(self.decoder(values.masked_fill(hidden, self.decoder.unknown), z), values).mean()

    def kl_weights(self, n: int, dimensions: int) -> Tensor:
        """Return the weights of the KL of each latent dimension of n examples, (n, dimensions) or (1, 1)."""
        if self.steps_done >= self.kl_steps:
            return torch.full((1, 1), self.beta, device=self.device, dtype=self.dtype)
        kept = self.rand(n, dimensions) >= self.kl_dropout
        return self.beta * linear(self.steps_done, self.kl_steps) * kept.to(self.dtype)

    # -- the likelihood -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def log_prob(
        self, x: Tensor, *, labels: Labels = None, k: int = 1, seed: int | torch.Generator | None = None
    ) -> Tensor:
        """Return a lower bound on log p(x) in nats: (B, T) in data range -> (B,).

        k = 1 is the ELBO with the analytic KL and one draw; k > 1 is log (1/k) sum_i p(x, z_i) / q(z_i | x) (IWAE-k).

        Raises:
            ConfigError: k below 1, or labels.
        """
        if k < 1:
            raise ConfigError(f"k must be at least 1, got {k}")
        self.given_labels(len(x), labels)
        values, generator = self.decoder.quantize(x), seeded(seed)
        mean, log_var = self._posterior(values)
        weights = []
        for _ in range(k):
            eps = randn(mean.shape, generator, x.device, mean.dtype)
            z = mean + torch.exp(0.5 * log_var) * eps
            log_p = scores(self.decoder(values, z), values)
            if k == 1:
                return log_p - gaussian_kl(mean, log_var).sum(1)
            weights.append(log_p - 0.5 * (z * z - eps * eps - log_var).sum(1))
        return torch.stack(weights).logsumexp(0) - math.log(k)

    def likelihood(self, k: int = 1) -> str:
        return "elbo" if k == 1 else f"iwae-{k}"

    # -- sampling -----------------------------------------------------------------------------------------------------

    def draw(
        self,
        n: int,
        generator: torch.Generator,
        labels: Tensor | None,
        *,
        temperature: float = 1.0,
        greedy: bool = False,
        top_k: int | None = None,
        top_p: float | None = None,
        prompt: str | None = None,
        length: int | None = None,
        cached: bool = True,
    ) -> Tensor:
        """Draw z from the prior, then the text character by character, in data range.

        Args:
            temperature: of every softmax.
            greedy: take the most probable character everywhere: one text for each z.
            top_k: draw among the k most probable characters.
            top_p: draw among the most probable characters whose probabilities sum to at least p.
            prompt: text that every example begins with.
            length: characters to draw in place of T.
            cached: compute every activation once; otherwise one pass a character, for the same integers.
        """
        z = randn((n, self.latent_dim), generator, self.device, self.dtype)
        return self.decoder.draw(
            n, generator, z, temperature=temperature, greedy=greedy, top_k=top_k, top_p=top_p, prompt=prompt,
            length=length, cached=cached,
        )  # fmt: skip

    @property
    def calls_per_sample(self) -> int:
        """Evaluations of the decoder: one a character."""
        return self.decoder.calls_per_sample

    def calls(self, options: Mapping[str, Any]) -> float:
        return self.decoder.calls(options)
