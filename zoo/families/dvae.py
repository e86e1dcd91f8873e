"""Discrete VAE: an encoder that gives probabilities of codes, trained by the Gumbel-softmax relaxation.

    L = -E log p(x | sum_k y_k e_k) + beta KL(q(c | x) || uniform),   y = softmax((logits + Gumbel noise) / tau)

beta rises from 0 and tau falls from 1, each along half a cosine. The relaxation is for training alone: `codes` are the
most probable ones, and the likelihood is that of hard codes that are drawn from q:

    log p(x) >= E log 1/k sum_i p(x | c_i) p(c_i) / q(c_i | x),   c_i ~ q(c | x)    (IWAE)

References:
    A. Ramesh and others, Zero-Shot Text-to-Image Generation, 2021, arXiv:2102.12092: the dVAE of DALL-E, with beta 6.6
    after 5,000 steps and tau 1/16 after 150,000 (appendix A.2), and a logit-Laplace likelihood, here the logistic.
    E. Jang, S. Gu, B. Poole, Categorical Reparameterization with Gumbel-Softmax, 2016, arXiv:1611.01144.
    Y. Burda, R. Grosse, R. Salakhutdinov, Importance Weighted Autoencoders, 2015, arXiv:1509.00519.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.vq_vae import VQVAE
from zoo.maths.annealing import cosine
from zoo.maths.noise import rand
from zoo.model import seeded
from zoo.nets.gumbel_quantiser import GumbelQuantiser, gumbel
from zoo.nets.quantisers import Quantised
from zoo.sampling import Labels

__all__ = ["DVAE"]


class DVAE(VQVAE):
    """Autoencoder whose codes are drawn.

    Args:
        encoder: (B, *shape) -> (B, K, h, w), logits of the codes.
        decoder: (B, D, h, w) -> (B, ...), as for `zoo.families.vq_vae.VQVAE`.
        quantiser: a `GumbelQuantiser`; its temperature is the last one.
        shape: of an example.
        grid: (h, w), positions of the codes.
        likelihood: ``bernoulli`` (data 0 or 1) or ``discretized_logistic`` (8-bit data).
        beta: last weight of the KL term.
        beta_steps: steps in which it rises from 0; 0 for a constant.
        temperature_steps: steps in which the temperature falls from 1; 0 for a constant.

    The other arguments are those of `zoo.families.discrete.DiscreteAutoencoder`; there is no commitment loss.

    Raises:
        ConfigError: another quantiser, or numbers out of range.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        quantiser: nn.Module,
        shape: list[int],
        grid: list[int],
        likelihood: str = "discretized_logistic",
        beta: float = 1.0,
        beta_steps: int = 0,
        temperature_steps: int = 0,
        **kwargs: Any,
    ) -> None:
        if not isinstance(quantiser, GumbelQuantiser):
            raise ConfigError(
                f"a dVAE draws its codes by a GumbelQuantiser, got a {type(quantiser).__name__}; a VQVAE takes that one"
            )
        if not 0 <= beta < math.inf or min(beta_steps, temperature_steps) < 0:
            raise ConfigError(
                f"beta must be finite and not negative, and no number of steps negative, got {beta}, {beta_steps} and "
                f"{temperature_steps}"
            )
        super().__init__(encoder, decoder, quantiser, shape, grid, likelihood, **kwargs)
        self.beta, self.beta_steps = beta, beta_steps
        self.last_temperature, self.temperature_steps = quantiser.temperature, temperature_steps

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Return what the networks map to what; the decoder sees the codes' vectors, not logits: see `zoo.fitting`."""
        shapes = super().network_shapes(arguments)
        if shapes:
            features = arguments["quantiser"]["init_args"]["features"]
            shapes["decoder"] = ((features, *arguments["grid"]), shapes["decoder"][1])
        return shapes

    # -- the objective ------------------------------------------------------------------------------------------------

    @property
    def temperature(self) -> float:
        """The temperature of the relaxation after `steps_done` steps."""
        done = cosine(self.steps_done, self.temperature_steps) if self.temperature_steps else 1.0
        return 1.0 + done * (self.last_temperature - 1.0)

    def weights(self) -> dict[str, float]:
        risen = cosine(self.steps_done, self.beta_steps) if self.beta_steps else 1.0
        return {**super().weights(), "kl": self.beta * risen}

    def quantise(self, x: Tensor) -> tuple[Tensor, dict[str, Quantised]]:
        self.quantiser.temperature = self.temperature
        return super().quantise(x)

    def code_nats(self, made: dict[str, Quantised]) -> Tensor | None:
        """Return the KL term; None in training, whose relaxed draws are no codes."""
        return None if self.training else made[""].losses["kl"]

    # -- the likelihood -----------------------------------------------------------------------------------------------

    def drawn_codes(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw codes from q(c | x), (B, *shape) in data range -> int64 (B, *grid), and return log q of them, (B,)."""
        return self._drawn(self.quantiser.log_q(self.latent(x)), generator)

    def _drawn(self, log_q: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        u = rand(log_q.shape, generator, log_q.device, log_q.dtype)
        codes = (log_q + gumbel(u)).argmax(1, keepdim=True)  # (B, 1, h, w)
        return codes, log_q.gather(1, codes).flatten(1).sum(1)

    @torch.no_grad()
    def log_prob(
        self, x: Tensor, *, labels: Labels = None, k: int = 1, seed: int | torch.Generator | None = None
    ) -> Tensor:
        """Return a lower bound on log p(x) under uniform codes, in nats: (B, *shape) in data range -> (B,).

        k = 1 is the ELBO with the exact KL and one draw of the codes; k > 1 is log (1/k) sum_i p(x, c_i) / q(c_i | x)
        over hard codes drawn from q (IWAE-k). Memory does not grow with k.

        Raises:
            ConfigError: k below 1.
        """
        self.given_labels(len(x), labels)
        if k < 1:
            raise ConfigError(f"k must be at least 1, got {k}")
        generator, log_q = seeded(seed), self.quantiser.log_q(self.latent(x))  # (B, K, h, w)
        weights = []
        for _ in range(k):
            codes, log_q_c = self._drawn(log_q, generator)
            weights.append(self.log_likelihood(x, codes) - (log_q_c if k > 1 else 0.0))
        log_K = math.prod(self.grid) * math.log(self.codebook_size)
        if k == 1:
            return weights[0] - log_K - (log_q.exp() * log_q).flatten(1).sum(1)
        return torch.stack(weights).logsumexp(0) - math.log(k) - log_K

    def likelihood(self, k: int = 1) -> str:
        return "elbo" if k == 1 else f"iwae-{k}"
