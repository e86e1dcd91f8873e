"""Variational autoencoder.

    log p(x) >= E_q(z|x) [log p(x | z)] - KL(q(z | x) || p(z)),   p(z) = N(0, I),  q(z | x) = N(mu(x), diag sigma(x)^2)

With ``beta`` the KL term weighs beta in the objective (beta-VAE), times a schedule's weight where there is one, and
free bits put a floor under the KL of each latent dimension there; every reported bound is the one above.

References:
    D. P. Kingma, M. Welling, Auto-Encoding Variational Bayes, 2013, arXiv:1312.6114.
    I. Higgins and others, beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework, 2017.
    Y. Burda, R. Grosse, R. Salakhutdinov, Importance Weighted Autoencoders, 2015, arXiv:1509.00519.
    D. P. Kingma and others, Improving Variational Inference with Inverse Autoregressive Flow, 2016, arXiv:1606.04934:
    free bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError
from zoo.maths.annealing import annealed, check_schedule
from zoo.maths.dequantisation import dequantise, from_continuous
from zoo.maths.distributions import gaussian_kl
from zoo.maths.noise import rand, randn
from zoo.maths.observation import LIKELIHOODS, Observation, check_observation, drawn, first_raw_scale, observation
from zoo.model import Batch, LikelihoodModel, seeded
from zoo.sampling import Labels

__all__ = ["VAE"]

CHUNK = 2**20
"""Numbers in one layer of decoder outputs while importance samples are evaluated: large products, in cache."""


class VAE(LikelihoodModel):
    """Variational autoencoder with a Gaussian posterior and a standard normal prior.

    Args:
        encoder: (B, *shape) -> (B, 2 latent_dim), means and log-variances of q(z | x); only the means, (B, latent_dim),
            with a ``posterior_scale``.
        decoder: (B, latent_dim) -> (B, ...), one value a dimension of x (logits or locations), twice as many with
            predicted scales: locations, then scales; ``levels`` logits a dimension for ``categorical``.
        shape: of an example.
        latent_dim: size of z.
        likelihood: of a dimension of x: ``bernoulli`` (data 0 or 1), ``discretized_logistic`` or ``categorical``
            (8-bit data), or ``gaussian`` or ``laplace``, an absolute error with a scale (continuous data; grey levels
            are dequantised uniformly). ``cross_entropy`` is none: the Bernoulli's formula as a mere reconstruction loss
            of grey levels; such a model has no likelihood.
        levels: grey levels of the data; left out, those that the likelihood is meant for.
        scale: of the logistic, Gaussian or Laplacian: ``predicted`` by the decoder, or learned for each ``pixel``, or
            one ``shared``.
        min_log_scale: the log of a scale, in units of x, stays above this.
        beta: weight of the KL term in the objective.
        posterior_scale: standard deviation of q(z | x), where it is a constant and only the mean is learned.
        free_bits: lambda, in nats: the objective has sum_j max(lambda, KL_j) in the place of the KL, KL_j being that of
            latent dimension j, averaged over the batch (of each device).
        kl_schedule: of the weight of the KL term: ``constant``, ``linear``, ``sigmoid`` or ``cyclical``, as in
            `zoo.maths.annealing`.
        kl_steps: steps that the schedule takes to reach ``beta`` for good.
        kl_cycles: number of cycles of the cyclical schedule.
        lr: peak learning rate.
        betas: Adam's decay rates.

    Raises:
        ConfigError: unknown likelihood, scale or schedule, levels that do not fit the likelihood, or a number out of
            its range.
    """

    family = "vae"
    has_exact_divergence = True  # the KL term is known in closed form, not by a draw of z

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
        posterior_scale: float | None = None,
        free_bits: float = 0.0,
        kl_schedule: str = "constant",
        kl_steps: int = 0,
        kl_cycles: int = 4,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__()
        check_observation(likelihood, levels, scale)
        _check_kl(beta, posterior_scale, free_bits)
        check_schedule(kl_schedule, kl_steps, kl_cycles)
        self.encoder, self.decoder = encoder, decoder
        self.shape, self.latent_dim = tuple(shape), latent_dim
        self.observed = likelihood
        self.levels = LIKELIHOODS[likelihood] if levels is None else levels
        # whether a density bounds the probability of grey levels: log P(k) >= E_u log p((k + u) / L) - D log L
        self.dequantizes = likelihood in ("gaussian", "laplace") and self.levels is not None
        self.scale, self.min_log_scale = scale, min_log_scale
        self.beta, self.lr, self.betas = beta, lr, (float(betas[0]), float(betas[1]))
        self.posterior_scale, self.free_bits = posterior_scale, free_bits
        self.kl_schedule, self.kl_steps, self.kl_cycles = kl_schedule, kl_steps, kl_cycles
        raw_scale = first_raw_scale(likelihood, scale, shape)
        self.raw_scale = None if raw_scale is None else nn.Parameter(raw_scale)

    def accepts(self, shape: Sequence[int], levels: int | None) -> None:
        if tuple(shape) != tuple(self.shape):
            super().accepts(shape, levels)  # which says so
        found = f"the data have {levels or 'continuous'} levels"
        if self.observed == "bernoulli" and levels != 2:
            raise DataError(
                f"a Bernoulli likelihood is one of pixels that are 0 or 1, {found}: choose binary data such as "
                f"binary_mnist, or set the model's likelihood to discretized_logistic, or to cross_entropy, which is "
                f"the same formula as a mere reconstruction loss"
            )
        if self.observed == "cross_entropy" and levels is None:
            raise DataError(f"cross_entropy is a reconstruction loss of grey levels in [0, 1], {found}: set gaussian")
        if self.observed in ("gaussian", "laplace") and self.levels is None and levels is not None:
            raise DataError(
                f"a {self.observed.capitalize()} density is no likelihood of grey levels, {found}: set the model's "
                f"levels to {levels}, so that they are dequantised, or its likelihood to discretized_logistic"
            )
        super().accepts(shape, levels)

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that go with another ``shape``; see `zoo.fitting`."""
        return dict(arguments)

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Return what the encoder and the decoder map to what; see `zoo.fitting`."""
        channels, *rest = shape = tuple(arguments["shape"])
        latent, likelihood = arguments["latent_dim"], arguments.get("likelihood", "bernoulli")
        numbers = 1 if first_raw_scale(likelihood, arguments.get("scale", "predicted"), shape) is not None else 2
        if likelihood in ("bernoulli", "cross_entropy"):
            numbers = 1
        codes = latent * (1 if arguments.get("posterior_scale") is not None else 2)
        out = (numbers * channels, *rest)
        if likelihood == "categorical":  # logits side by side: no image
            out = (math.prod(shape) * (arguments.get("levels") or LIKELIHOODS[likelihood]),)
        return {"encoder": (shape, (codes,)), "decoder": ((latent,), out)}

    # -- the two networks ---------------------------------------------------------------------------------------------

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of the latents of one example, as ``decode`` takes them."""
        return (self.latent_dim,)

    def encode(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of q(z | x): (B, *shape) in data range -> two of (B, latent_dim)."""
        out = self.encoder(self._encoder_input(x, labels)).flatten(1)
        width = self.latent_dim * (1 if self.posterior_scale is not None else 2)
        if out.shape[1] != width:
            raise ConfigError(f"the encoder must give {width} numbers an example, it gives {out.shape[1]}")
        if self.posterior_scale is not None:
            return out, torch.full_like(out, 2 * math.log(self.posterior_scale))
        mean, log_var = out.chunk(2, dim=1)
        return mean, log_var

    def posterior(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return `encode`, by the name under which diagnostics look for a Gaussian posterior."""
        return self.encode(x, labels)

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the mean of p(x | z): (B, latent_dim) -> (B, *shape) in data range."""
        return self._data(self.observation(z, labels).mean)

    def observation(self, z: Tensor, labels: Tensor | None = None) -> Observation:
        """Return p(x | z), element by element: (B, latent_dim) -> a distribution over (B, *shape)."""
        out = self.decoder(self._decoder_input(z, labels))
        return observation(self.observed, out, self.shape, self.levels, self.raw_scale, self.min_log_scale)

    def _encoder_input(self, x: Tensor, labels: Tensor | None) -> Tensor:
        return x

    def _decoder_input(self, z: Tensor, labels: Tensor | None) -> Tensor:
        return z

    # -- the objective ------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` = reconstruction + weight * beta * KL, both terms, and ``elbo``, in which weight = beta = 1.

        The weight is the schedule's after `steps_done` steps, logged as ``kl_weight`` where it is no constant. There is
        no ``elbo`` where the reconstruction is no likelihood.
        """
        x, labels = batch
        return self.terms_of(x, labels if self.num_classes else None)[0]

    def terms_of(self, x: Tensor, labels: Tensor | None) -> tuple[dict[str, Tensor], Tensor]:
        """Return the terms of examples, and the latents that were drawn of them."""
        code = self.code(x, labels)
        eps = self.randn(len(x), self.latent_dim)
        z, log_det = self.drawn_latents(code, eps)
        target = dequantise(x, self.rand(*x.shape), self.levels) if self.dequantizes else x
        p = self.observation(z, labels)
        reconstruction = -self._log_prob_of(p, target).mean()
        kl, floored = self.divergence(code, z, eps, log_det)
        weight = annealed(self.steps_done, self.kl_schedule, self.kl_steps, self.kl_cycles)
        terms = {"loss": reconstruction + self.beta * weight * floored, "reconstruction": reconstruction, "kl": kl}
        if self.has_likelihood:
            terms["elbo"] = -(reconstruction + kl)
        if self.kl_schedule != "constant":
            terms["kl_weight"] = kl.new_tensor(weight)
        return self.judged(terms, x, p), z

    def judged(self, terms: dict[str, Tensor], x: Tensor, p: Observation) -> dict[str, Tensor]:
        """Return the terms of examples, with what else a family asks of p(x | z) in ``loss``; nothing here."""
        return terms

    def code(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return what q(z | x) is made of: its mean and log-variance, (B, latent_dim) each."""
        return self.encode(x, labels)

    def drawn_latents(self, code: tuple[Tensor, ...], eps: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return z for standard normal noise, (..., B, latent_dim), and log |det| of what maps the Gaussian to it, if
        anything does."""
        mean, log_var = code
        return mean + torch.exp(0.5 * log_var) * eps, None

    def divergence(
        self, code: tuple[Tensor, ...], z: Tensor, eps: Tensor, log_det: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the batch's mean of the KL term, in nats, and the same above the floor of ``free_bits``."""
        kl_j = gaussian_kl(*code)  # (B, latent_dim)
        kl = kl_j.sum(1).mean()
        return kl, kl_j.mean(0).clamp(min=self.free_bits).sum() if self.free_bits else kl

    def log_ratio(self, code: tuple[Tensor, ...], z: Tensor, eps: Tensor, log_det: Tensor | None) -> Tensor:
        """Return log p(z) - log q(z | x), z drawn with ``eps``: (..., B, latent_dim) -> (..., B)."""
        return -0.5 * (z * z - eps * eps - code[1]).sum(-1)

    # -- the likelihood -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def log_prob(
        self, x: Tensor, *, labels: Labels = None, k: int = 1, seed: int | torch.Generator | None = None
    ) -> Tensor:
        """Return a lower bound on log p(x), or log p(x | y), in nats: (B, *shape) in data range -> (B,).

        k = 1 is the ELBO with the analytic KL and one draw of z; k > 1 is log (1/k) sum_i p(x, z_i) / q(z_i | x) over
        draws of q (IWAE-k). Dequantisation noise is drawn anew with each z, inside the logarithm. Memory does not grow
        with k.

        Raises:
            ConfigError: k below 1, labels that are missing or too many, or a model without a likelihood.
        """
        self._check_likelihood()
        if k < 1:
            raise ConfigError(f"k must be at least 1, got {k}")
        y = self.given_labels(len(x), labels)
        generator = seeded(seed)
        rows = max(1, CHUNK // math.prod(self.shape))
        parts = x.split(rows)
        given = y.split(rows) if y is not None else [None] * len(parts)
        return torch.cat([self._bound(*part, k, rows, generator) for part in zip(parts, given, strict=True)])

    def _bound(self, x: Tensor, labels: Tensor | None, k: int, rows: int, generator: torch.Generator) -> Tensor:
        """Bound log p of at most ``rows`` examples, decoding about ``rows`` latents at a time."""
        where = generator, x.device, x.dtype
        code = self.code(x, labels)
        weights = []
        for draws in torch.arange(k).split(max(1, rows // len(x))):
            shape = (len(draws), len(x))
            eps = randn((*shape, self.latent_dim), *where)  # (K, B, latent_dim)
            z, log_det = self.drawn_latents(code, eps)
            target = x.expand(*shape, *self.shape)  # (K, B, *shape)
            if self.dequantizes:
                target = dequantise(target, rand(target.shape, *where), self.levels)
            y = labels.expand(shape).flatten() if labels is not None else None  # (K * B,)
            log_p = self._log_likelihood(target.flatten(0, 1), z.flatten(0, 1), y).unflatten(0, shape)
            exact = k == 1 and self.has_exact_divergence
            weights.append(log_p if exact else log_p + self.log_ratio(code, z, eps, log_det))
        if k == 1 and self.has_exact_divergence:
            return weights[0][0] - gaussian_kl(*code).sum(1)
        return torch.cat(weights).logsumexp(0) - math.log(k)

    def likelihood(self, k: int = 1) -> str:
        self._check_likelihood()
        return ("elbo" if k == 1 else f"iwae-{k}") + ("+dequant" if self.dequantizes else "")

    @property
    def has_likelihood(self) -> bool:
        return self.observed != "cross_entropy"

    def _check_likelihood(self) -> None:
        if not self.has_likelihood:
            raise ConfigError(
                f"this {type(self).__name__} has no likelihood: cross_entropy is a mere reconstruction loss; build it "
                f"with the likelihood discretized_logistic to have one"
            )

    def _log_likelihood(self, target: Tensor, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return log p(x | z) of the discrete example where the data are discrete, (B,)."""
        return self._log_prob_of(self.observation(z, labels), target)

    def _log_prob_of(self, p: Observation, target: Tensor) -> Tensor:
        log_p = p.log_prob(target).flatten(1).sum(1)
        return log_p - math.prod(self.shape) * math.log(self.levels) if self.dequantizes else log_p

    # -- sampling -----------------------------------------------------------------------------------------------------

    def option_words(self) -> dict[str, tuple[str, ...]]:
        return {"observe": ("mean", "sample")}

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
        x = drawn(self.prior_observation(n, generator, labels, temperature), observe, generator)
        return self._data(x, whole=observe == "sample")

    def prior_observation(
        self, n: int, generator: torch.Generator, labels: Tensor | None, temperature: float
    ) -> Observation:
        """Return p(x | z) of n latents drawn from the prior."""
        return self.observation(self.prior_latents(n, generator, temperature), labels)

    def prior_latents(self, n: int, generator: torch.Generator, temperature: float) -> Tensor:
        """Draw n latents from the prior, (n, latent_dim)."""
        return temperature * randn((n, self.latent_dim), generator, self.device, self.dtype)

    def granule(self, options: Mapping[str, Any]) -> int:
        """Return 16: products of fewer rows are computed by other instructions, with other last bits."""
        return 16

    def _data(self, x: Tensor, *, whole: bool = False) -> Tensor:
        """Bring values of the observation into data range."""
        return from_continuous(x, self.levels, whole=whole) if self.dequantizes else x


def _check_kl(beta: float, posterior_scale: float | None, free_bits: float) -> None:
    if not 0 <= beta < math.inf or not 0 <= free_bits < math.inf:
        raise ConfigError(f"beta and free_bits must be finite and not negative, got {beta} and {free_bits}")
    if posterior_scale is not None and not 0 < posterior_scale < math.inf:
        raise ConfigError(
            f"posterior_scale must be positive and finite, or left out to be learned, got {posterior_scale}"
        )
