"""Variational autoencoder whose posterior or prior is more than a diagonal Gaussian.

    log p(x) >= E_q(z|x) [log p(x | z) + log p(z) - log q(z | x)]

With an inverse autoregressive flow f, q(z | x) is what f makes of the encoder's Gaussian, being told a context h(x):

    z = f(z_0; h),  z_0 ~ N(mu(x), sigma(x)^2),   log q(z | x) = log N(z_0; mu, sigma^2) - log |det df / dz_0|

The prior is N(0, I), or the mixture of the posteriors of K pseudo-inputs that are learnt (VampPrior), or what a flow g
of latents to noise says of them:

    p(z) = 1/K sum_k q(z | u_k),   or   log p(z) = log N(g(z); 0, I) + log |det dg / dz|

None of these divergences has a closed form: they are estimated by the draw of z that the reconstruction uses.

References:
    D. P. Kingma and others, Improving Variational Inference with Inverse Autoregressive Flow, 2016, arXiv:1606.04934,
    algorithm 1.
    J. M. Tomczak, M. Welling, VAE with a VampPrior, 2017, arXiv:1705.07120, equation 9.
    X. Chen and others, Variational Lossy Autoencoder, 2016, arXiv:1611.02731, section 3.2: a flow as prior.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.vae import VAE
from zoo.maths.noise import rand, randn
from zoo.nets.autoregressive_flow import AutoregressiveFlow

__all__ = ["FlexibleVAE"]


class FlexibleVAE(VAE):
    """Variational autoencoder with a flow as posterior, or a learnt prior.

    Its ``encode`` gives a latent: the mean of the posterior's Gaussian, mapped by the flow where there is one.

    Args:
        encoder: as that of `VAE`; with a ``posterior_flow`` its context h follows the means and log-variances.
        decoder: as that of `VAE`.
        shape: of an example.
        latent_dim: size of z.
        likelihood: of a dimension of x, as that of `VAE`.
        posterior_flow: from z_0 to z, and ``context`` numbers that it is told; none for a Gaussian posterior.
        prior_flow: from z to noise, without a context; none for another prior.
        pseudo_inputs: K, the components of a VampPrior; 0 for another prior.

    The other arguments are those of `VAE`.

    Raises:
        ConfigError: flows of another size, two priors, a VampPrior of posteriors that are flows, free bits, which need
            a divergence for each dimension, or what `VAE` refuses.
    """

    has_exact_divergence = False
    posterior = None  # not Gaussian, or the divergence from N(0, I) says nothing of it

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        shape: list[int],
        latent_dim: int,
        likelihood: str = "bernoulli",
        posterior_flow: nn.Module | None = None,
        prior_flow: nn.Module | None = None,
        pseudo_inputs: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(encoder, decoder, shape, latent_dim, likelihood, **kwargs)
        _check(latent_dim, posterior_flow, prior_flow, pseudo_inputs)
        if self.free_bits:
            raise ConfigError("free_bits are of a divergence for each latent dimension, which is not known here")
        self.posterior_flow, self.prior_flow = posterior_flow, prior_flow
        self.context_size = posterior_flow.context if posterior_flow is not None else 0
        self.pseudo_inputs = nn.Parameter(torch.rand(pseudo_inputs, *self.shape)) if pseudo_inputs else None

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        (inputs, (codes,)), decoder = super().network_shapes(arguments).values()
        flow = (arguments.get("posterior_flow") or {}).get("init_args") or {}
        return {"encoder": (inputs, (codes + flow.get("context", 0),)), "decoder": decoder}

    # -- the posterior ------------------------------------------------------------------------------------------------

    def code(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return mean and log-variance of z_0, (B, latent_dim) each, and h, (B, context)."""
        out = self.encoder(x).flatten(1)
        d = self.latent_dim * (1 if self.posterior_scale is not None else 2)
        if out.shape[1] != d + self.context_size:
            raise ConfigError(
                f"the encoder must give {d + self.context_size} numbers an example, it gives {out.shape[1]}"
            )
        out, h = out.split([d, self.context_size], 1)
        if self.posterior_scale is not None:
            return out, torch.full_like(out, 2 * math.log(self.posterior_scale)), h
        return (*out.chunk(2, 1), h)

    def encode(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the latent of the posterior's base mean: (B, *shape) in data range -> (B, latent_dim)."""
        code = self.code(x)
        return self.drawn_latents(code, torch.zeros_like(code[0]))[0]

    def drawn_latents(self, code: tuple[Tensor, ...], eps: Tensor) -> tuple[Tensor, Tensor | None]:
        z, _ = super().drawn_latents(code[:2], eps)
        if self.posterior_flow is None:
            return z, None
        return self.posterior_flow(z, code[2].expand(*eps.shape[:-1], -1))

    def divergence(
        self, code: tuple[Tensor, ...], z: Tensor, eps: Tensor, log_det: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        kl = -self.log_ratio(code, z, eps, log_det).mean()
        return kl, kl

    def log_ratio(self, code: tuple[Tensor, ...], z: Tensor, eps: Tensor, log_det: Tensor | None) -> Tensor:
        log_q = -0.5 * (eps * eps + code[1] + math.log(2 * math.pi)).sum(-1)
        return self.log_prior(z) - (log_q if log_det is None else log_q - log_det)

    # -- the prior ----------------------------------------------------------------------------------------------------

    def components(self) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of q(z | u_k) for each pseudo-input, (K, latent_dim) each."""
        u = self.pseudo_inputs
        mean, log_var, _ = self.code(u if self.levels is None else u.clamp(0, 1))
        return mean, log_var

    def log_prior(self, z: Tensor) -> Tensor:
        """Return log p(z) in nats: (..., latent_dim) -> (...)."""
        if self.pseudo_inputs is not None:
            mean, log_var = self.components()
            away = (z[..., None, :] - mean).square() * torch.exp(-log_var)  # (..., K, latent_dim)
            log_p = -0.5 * (away + log_var + math.log(2 * math.pi)).sum(-1)
            return log_p.logsumexp(-1) - math.log(len(mean))
        log_det: Tensor | float = 0.0
        if self.prior_flow is not None:
            z, log_det = self.prior_flow(z)
        return -0.5 * (z * z + math.log(2 * math.pi)).sum(-1) + log_det

    def prior_latents(self, n: int, generator: torch.Generator, temperature: float) -> Tensor:
        """Draw n latents from the prior, (n, latent_dim); the temperature is that of its Gaussians."""
        where = generator, self.device, self.dtype
        noise = temperature * randn((n, self.latent_dim), *where)
        if self.pseudo_inputs is not None:
            mean, log_var = self.components()
            chosen = (rand((n,), *where) * len(mean)).long().clamp(max=len(mean) - 1)
            return mean[chosen] + torch.exp(0.5 * log_var[chosen]) * noise
        return noise if self.prior_flow is None else self.prior_flow.inverse(noise)


def _check(latent_dim: int, posterior_flow: nn.Module | None, prior_flow: nn.Module | None, pseudo_inputs: int) -> None:
    for name, flow in (("posterior_flow", posterior_flow), ("prior_flow", prior_flow)):
        if flow is not None and not (isinstance(flow, AutoregressiveFlow) and flow.features == latent_dim):
            raise ConfigError(f"{name} must be an AutoregressiveFlow of {latent_dim} features, as z has")
    if prior_flow is not None and prior_flow.context:
        raise ConfigError(f"a prior is told nothing: set the context of prior_flow to 0, it is {prior_flow.context}")
    if pseudo_inputs < 0:
        raise ConfigError(f"pseudo_inputs must not be negative, got {pseudo_inputs}")
    if pseudo_inputs and (prior_flow is not None or posterior_flow is not None):
        raise ConfigError(
            "a VampPrior is a mixture of Gaussian posteriors: leave posterior_flow and prior_flow out, or pseudo_inputs"
        )
