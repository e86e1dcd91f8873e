"""Variational autoencoder.

    log p(x) >= E_q(z|x) [log p(x | z)] - KL(q(z | x) || p(z)),   p(z) = N(0, I),  q(z | x) = N(mu(x), diag sigma(x)^2)

With ``beta`` the KL term weighs beta in the objective (beta-VAE); every reported bound uses beta = 1.

References:
    D. P. Kingma, M. Welling, Auto-Encoding Variational Bayes, 2013, arXiv:1312.6114.
    I. Higgins and others, beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework, 2017.
    Y. Burda, R. Grosse, R. Salakhutdinov, Importance Weighted Autoencoders, 2015, arXiv:1509.00519.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError, close_matches
from zoo.maths.distributions import Bernoulli, DiscretizedLogistic, Gaussian, gaussian_kl
from zoo.model import Batch, LikelihoodModel, Player, seeded

__all__ = ["VAE"]

LIKELIHOODS = {"bernoulli": 2, "discretized_logistic": 256, "gaussian": None}
"""Likelihoods of a pixel -> levels of the data that they are meant for (None: continuous)."""

SCALES = ("predicted", "pixel", "shared")

CHUNK = 2**20
"""Numbers in one layer of decoder outputs while importance samples are evaluated: large products, in cache."""


class VAE(LikelihoodModel):
    """Variational autoencoder with a Gaussian posterior and a standard normal prior.

    Args:
        encoder: (B, *shape) -> (B, 2 latent_dim), means and log-variances of q(z | x).
        decoder: (B, latent_dim) -> (B, ...), one value a dimension of x (logits or locations), twice as many with
            predicted scales: locations, then scales.
        shape: of an example.
        latent_dim: size of z.
        likelihood: of a dimension of x: ``bernoulli`` (data 0 or 1), ``discretized_logistic`` (8-bit data) or
            ``gaussian`` (continuous data; grey levels are dequantised uniformly).
        levels: grey levels of the data; left out, 2, 256 and continuous for the three likelihoods.
        scale: of the logistic or Gaussian: ``predicted`` by the decoder, or learned for each ``pixel``, or one
            ``shared``.
        min_log_scale: the log of a scale, in units of x, stays above this.
        beta: weight of the KL term in the objective.
        lr: peak learning rate.
        betas: Adam's decay rates.

    Raises:
        ConfigError: unknown likelihood or scale, or levels that do not fit the likelihood.
    """

    family = "vae"

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        shape: list[int],
        latent_dim: int,
        likelihood: str = "bernoulli",
        levels: int | None = None,
        scale: str = "predicted",
        min_log_scale: float = -5.0,
        beta: float = 1.0,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__()
        _check(likelihood, levels, scale)
        self.encoder, self.decoder = encoder, decoder
        self.shape, self.latent_dim = tuple(shape), latent_dim
        self.observed = likelihood
        self.levels = LIKELIHOODS[likelihood] if levels is None else levels
        self.scale, self.min_log_scale = scale, min_log_scale
        self.beta, self.lr, self.betas = beta, lr, (float(betas[0]), float(betas[1]))
        if likelihood != "bernoulli" and scale != "predicted":
            sizes = self.shape if scale == "pixel" else (1,) * len(self.shape)
            self.raw_scale = nn.Parameter(torch.full(sizes, -1.0))

    def players(self) -> dict[str, Player]:
        return {"model": Player(self.parameters(), self.lr, self.betas)}

    def accepts(self, shape: Sequence[int], levels: int | None) -> None:
        found = f"the data have {levels or 'continuous'} levels"
        if self.observed == "bernoulli" and levels != 2:
            raise DataError(
                f"a Bernoulli likelihood is one of pixels that are 0 or 1, {found}: choose binary data such as "
                f"binary_mnist, or set the model's likelihood to discretized_logistic"
            )
        if self.observed == "gaussian" and self.levels is None and levels is not None:
            raise DataError(
                f"a Gaussian density is no likelihood of grey levels, {found}: set the model's levels to {levels}, so "
                f"that they are dequantised, or its likelihood to discretized_logistic"
            )
        super().accepts(shape, levels)

    # -- the two networks ---------------------------------------------------------------------------------------------

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of q(z | x): (B, *shape) in data range -> two of (B, latent_dim)."""
        mean, log_var = self.encoder(x).flatten(1).chunk(2, dim=1)
        return mean, log_var

    def decode(self, z: Tensor) -> Tensor:
        """Return the mean of p(x | z): (B, latent_dim) -> (B, *shape) in data range."""
        return self._to_data(self.observation(z).mean)

    def observation(self, z: Tensor) -> Bernoulli | DiscretizedLogistic | Gaussian:
        """Return p(x | z), element by element: (B, latent_dim) -> a distribution over (B, *shape)."""
        out = self.decoder(z)
        if self.observed == "bernoulli":
            return Bernoulli(out.reshape(-1, *self.shape))
        if self.scale == "predicted":
            location, raw = out.reshape(-1, 2, *self.shape).unbind(1)  # (B, *shape) each
        else:
            location, raw = out.reshape(-1, *self.shape), self.raw_scale
        log_scale = self.min_log_scale + F.softplus(raw - self.min_log_scale)
        if self.observed == "gaussian":
            return Gaussian(location, log_scale)
        return DiscretizedLogistic(location, log_scale, self.levels)

    # -- the objective ------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` = reconstruction + beta KL, both terms, and ``elbo``, which has beta = 1."""
        x, _ = batch
        mean, log_var = self.encode(x)
        z = mean + torch.exp(0.5 * log_var) * self.randn(*mean.shape)
        target = self._dequantized(x, self.rand(*x.shape)) if self.dequantizes else x
        reconstruction = -self._log_likelihood(target, z).mean()
        kl = gaussian_kl(mean, log_var).sum(1).mean()
        return {
            "loss": reconstruction + self.beta * kl,
            "reconstruction": reconstruction,
            "kl": kl,
            "elbo": -(reconstruction + kl),
        }

    # -- the likelihood -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def log_prob(
        self,
        x: Tensor,
        *,
        labels: Sequence[int] | Tensor | int | None = None,
        k: int = 1,
        seed: int | torch.Generator | None = None,
    ) -> Tensor:
        """Return a lower bound on log p(x), in nats: (B, *shape) in data range -> (B,).

        k = 1 is the ELBO with the analytic KL and one draw of z; k > 1 is log (1/k) sum_i p(x, z_i) / q(z_i | x) over
        draws of q (IWAE-k). Dequantisation noise is drawn anew with each z, inside the logarithm. Memory does not grow
        with k.

        Raises:
            ConfigError: k below 1.
        """
        if k < 1:
            raise ConfigError(f"k must be at least 1, got {k}")
        self.given_labels(len(x), labels)
        generator = seeded(seed, x.device)
        rows = max(1, CHUNK // math.prod(self.shape))
        return torch.cat([self._bound(part, k, rows, generator) for part in x.split(rows)])

    def _bound(self, x: Tensor, k: int, rows: int, generator: torch.Generator) -> Tensor:
        """Bound log p of at most ``rows`` examples, decoding about ``rows`` latents at a time."""
        options = {"generator": generator, "device": x.device, "dtype": x.dtype}
        mean, log_var = self.encode(x)
        std = torch.exp(0.5 * log_var)
        weights = []
        for draws in torch.arange(k).split(max(1, rows // len(x))):
            shape = (len(draws), len(x))
            eps = torch.randn(*shape, self.latent_dim, **options)  # (K, B, latent_dim)
            z = mean + std * eps
            target = x.expand(*shape, *self.shape)  # (K, B, *shape)
            if self.dequantizes:
                target = self._dequantized(target, torch.rand(target.shape, **options))
            log_p = self._log_likelihood(target.flatten(0, 1), z.flatten(0, 1)).unflatten(0, shape)
            ratio = -0.5 * (z * z - eps * eps - log_var).sum(2)  # log p(z) - log q(z | x)
            weights.append(log_p if k == 1 else log_p + ratio)
        if k == 1:
            return weights[0][0] - gaussian_kl(mean, log_var).sum(1)
        return torch.cat(weights).logsumexp(0) - math.log(k)

    def likelihood(self, k: int = 1) -> str:
        return ("elbo" if k == 1 else f"iwae-{k}") + ("+dequant" if self.dequantizes else "")

    def _log_likelihood(self, target: Tensor, z: Tensor) -> Tensor:
        """Return log p(x | z) of the discrete example where the data are discrete, (B,)."""
        log_p = self.observation(z).log_prob(target).flatten(1).sum(1)
        return log_p - math.prod(self.shape) * math.log(self.levels) if self.dequantizes else log_p

    @property
    def dequantizes(self) -> bool:
        """Whether a density bounds the probability of grey levels: log P(k) >= E_u log p((k + u) / L) - D log L."""
        return self.observed == "gaussian" and self.levels is not None

    def _dequantized(self, x: Tensor, u: Tensor) -> Tensor:
        return (x * (self.levels - 1) + u) / self.levels

    # -- sampling -----------------------------------------------------------------------------------------------------

    def draw(
        self,
        n: int,
        generator: torch.Generator,
        labels: Tensor | None,
        *,
        temperature: float = 1.0,
        observe: str = "mean",
    ) -> Tensor:
        """Draw z from the prior and return the mean of p(x | z).

        Args:
            temperature: factor of the prior's standard deviation.
            observe: ``mean``, or ``sample`` for a draw from p(x | z), pixel by pixel.
        """
        if observe not in ("mean", "sample"):
            raise ConfigError(f"observe must be 'mean' or 'sample', got {observe!r}")
        z = torch.randn(n, self.latent_dim, generator=generator, device=self.device, dtype=self.dtype)
        p = self.observation(temperature * z)
        if observe == "mean":
            return self._to_data(p.mean)
        x = p.sample(generator)
        return self._to_data(x, floor=True)

    def _to_data(self, x: Tensor, *, floor: bool = False) -> Tensor:
        """Bring values of the observation into data range: bins of width 1 / L to levels k / (L - 1)."""
        if not self.dequantizes:
            return x
        k = (x * self.levels).floor() if floor else x * self.levels - 0.5
        return (k / (self.levels - 1)).clamp(0, 1)


def _check(likelihood: str, levels: int | None, scale: str) -> None:
    if likelihood not in LIKELIHOODS:
        near = close_matches(likelihood, LIKELIHOODS)
        raise ConfigError(f"unknown likelihood {likelihood!r}.{near} There are: {', '.join(LIKELIHOODS)}")
    if scale not in SCALES:
        raise ConfigError(f"unknown scale {scale!r}.{close_matches(scale, SCALES)} There are: {', '.join(SCALES)}")
    if levels is not None and (levels < 2 or (likelihood == "bernoulli" and levels != 2)):
        raise ConfigError(f"a {likelihood} likelihood does not describe data with {levels} levels")
