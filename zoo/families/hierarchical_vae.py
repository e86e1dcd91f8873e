"""Hierarchical variational autoencoder: groups of latents from the top down, with residual posteriors.

    p(x, z) = p(x | z) prod_l p(z_l | z_<l),            p(z_l | z_<l) = N(mu_l, sigma_l^2)
    q(z | x) = prod_l q(z_l | z_<l, x),   q(z_l | z_<l, x) = N(mu_l + d mu_l, (sigma_l d sigma_l)^2)

The encoder goes from the bottom up and draws nothing; generation and inference share the way down, on which each group
knows those above it. The divergence of a group, given those above, depends on the difference alone:

    KL_l = 1/2 sum (d mu_l^2 / sigma_l^2 + d sigma_l^2 - log d sigma_l^2 - 1)

References:
    A. Vahdat, J. Kautz, NVAE: A Deep Hierarchical Variational Autoencoder, 2020, arXiv:2007.03898, equations 1 to 4.
    C. K. Sonderby and others, Ladder Variational Autoencoders, 2016, arXiv:1602.02282: inference from the top down.
    D. P. Kingma and others, Improving Variational Inference with Inverse Autoregressive Flow, 2016, arXiv:1606.04934:
    free bits of groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.vae import CHUNK, VAE
from zoo.maths.annealing import annealed
from zoo.maths.dequantisation import dequantise
from zoo.maths.noise import rand, randn
from zoo.maths.observation import Observation, first_raw_scale, observation
from zoo.model import Batch

__all__ = ["HierarchicalVAE", "residual_kl"]

Choose = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(group, state, mean and log-scale of the prior) -> the latents of the group."""


def residual_kl(shift: Tensor, log_scale: Tensor, log_factor: Tensor) -> Tensor:
    """Return KL(N(mu + shift, (sigma f)^2) || N(mu, sigma^2)) element by element, in nats, of log sigma and log f."""
    return 0.5 * (shift.square() * torch.exp(-2 * log_scale) + torch.expm1(2 * log_factor)) - log_factor


class HierarchicalVAE(VAE):
    """Variational autoencoder with groups of latents, each given those above it.

    A latent of an example is a row, that of all groups one after the other, the top one first.

    Args:
        encoder: (B, *shape) -> features, one tensor for each group, the top one first.
        decoder: the way down, such as `zoo.nets.ladder.LadderDecoder`: ``latent_shapes``, ``start``, ``prior``,
            ``posterior``, ``update`` and ``output``.
        shape: of an example.
        likelihood: of a dimension of x, as that of `VAE`.
        levels: as those of `VAE`.
        scale: as that of `VAE`.
        min_log_scale: as that of `VAE`.
        beta: weight of the KL term in the objective.
        free_bits: lambda, in nats: the objective has sum_l max(lambda, KL_l) over groups, KL_l averaged over the batch.
        kl_schedule: as that of `VAE`.
        kl_steps: as those of `VAE`.
        kl_cycles: as those of `VAE`.
        lr: peak learning rate.
        betas: Adam's decay rates.

    Raises:
        ConfigError: what `VAE` refuses.
    """

    posterior = None  # of the whole, not Gaussian

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        shape: list[int],
        likelihood: str = "bernoulli",
        levels: int | None = None,
        scale: str = "predicted",
        min_log_scale: float = -5.0,
        beta: float = 1.0,
        free_bits: float = 0.0,
        kl_schedule: str = "constant",
        kl_steps: int = 0,
        kl_cycles: int = 4,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        sizes = [math.prod(s) for s in decoder.latent_shapes]
        super().__init__(
            encoder, decoder, shape, sum(sizes), likelihood, levels, scale, min_log_scale, beta, free_bits=free_bits,
            kl_schedule=kl_schedule, kl_steps=kl_steps, kl_cycles=kl_cycles, lr=lr, betas=betas,
        )  # fmt: skip
        self.group_sizes = sizes

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        shape, likelihood = tuple(arguments["shape"]), arguments.get("likelihood", "bernoulli")
        if likelihood == "categorical":
            raise ConfigError("a ladder gives maps of numbers, not of logits; set the likelihood to another one")
        one = likelihood in ("bernoulli", "cross_entropy")
        one = one or first_raw_scale(likelihood, arguments.get("scale", "predicted"), shape) is not None
        return {"encoder": (shape, ()), "decoder": ((), (shape[0] * (1 if one else 2), *shape[1:]))}

    # -- the way down -------------------------------------------------------------------------------------------------

    def descend(self, n: int, choose: Choose) -> tuple[list[Tensor], Tensor]:
        """Return the latents of each group as they are chosen, and the decoder's output."""
        state, z = self.decoder.start(n), []
        for group in range(len(self.group_sizes)):
            mean, log_scale = self.decoder.prior(group, state)
            z.append(choose(group, state, mean, log_scale))
            state = self.decoder.update(group, state, z[-1])
        return z, self.decoder.output(state)

    def infer(
        self, features: Sequence[Tensor], noise: Callable[[int], Tensor]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
        """Draw from q(z | x), one group after the other.

        Args:
            features: beside each group, (B, ...).
            noise: group -> standard normal numbers, (B, *latents of the group).

        Returns:
            The latents; of each group the divergence given those above, and log p(z_l | ..) - log q(z_l | ..) of the
            draw, (B,) each; the decoder's output.
        """
        kl: list[Tensor] = []
        ratios: list[Tensor] = []

        def choose(group: int, state: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
            shift, log_factor = self.decoder.posterior(group, state, features[group])
            eps = noise(group)
            step = shift + torch.exp(log_scale + log_factor) * eps  # z - mu
            kl.append(residual_kl(shift, log_scale, log_factor).flatten(1).sum(1))
            away = (step * torch.exp(-log_scale)).square()
            ratios.append((-0.5 * (away - eps.square()) + log_factor).flatten(1).sum(1))
            return mean + step

        z, out = self.descend(features[0].shape[0], choose)
        return z, kl, ratios, out

    def encode(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the latents at the mean of each group's posterior: (B, *shape) in data range -> (B, latent_dim)."""
        z, *_ = self.infer(self.encoder(x), lambda group: x.new_zeros(()).expand(len(x), *self._shape_of(group)))
        return torch.cat([part.flatten(1) for part in z], 1)

    def observation(self, z: Tensor, labels: Tensor | None = None) -> Observation:
        """Return p(x | z), element by element: (B, latent_dim) -> a distribution over (B, *shape)."""
        parts = z.split(self.group_sizes, 1)
        # no len: a graph of any batch is exported
        _, out = self.descend(z.shape[0], lambda group, *_: parts[group].unflatten(1, self._shape_of(group)))
        return self._observed(out)

    def log_prior(self, z: Tensor) -> Tensor:
        """Return log p(z) in nats: (B, latent_dim) -> (B,)."""
        parts, each = z.split(self.group_sizes, 1), []

        def choose(group: int, state: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
            found = parts[group].unflatten(1, self._shape_of(group))
            away = ((found - mean) * torch.exp(-log_scale)).square()
            each.append(-(0.5 * (away + math.log(2 * math.pi)) + log_scale).flatten(1).sum(1))
            return found

        self.descend(z.shape[0], choose)
        return torch.stack(each).sum(0)

    def _observed(self, out: Tensor) -> Observation:
        return observation(self.observed, out, self.shape, self.levels, self.raw_scale, self.min_log_scale)

    def _shape_of(self, group: int) -> tuple[int, ...]:
        return tuple(self.decoder.latent_shapes[group])

    # -- the objective and the bounds ---------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` = reconstruction + weight * beta * KL, both terms, ``elbo``, and ``kl_0``, ``kl_1`` ... of
        the groups, the top one first; ``elbo`` is the bound, without weights."""
        x, _ = batch
        _, parts, _, out = self.infer(self.encoder(x), lambda group: self.randn(len(x), *self._shape_of(group)))
        target = dequantise(x, self.rand(*x.shape), self.levels) if self.dequantizes else x
        reconstruction = -self._scored(target, out).mean()
        groups = torch.stack([part.mean() for part in parts])
        floored = groups.clamp(min=self.free_bits).sum() if self.free_bits else groups.sum()
        weight = annealed(self.steps_done, self.kl_schedule, self.kl_steps, self.kl_cycles)
        terms = {"loss": reconstruction + self.beta * weight * floored, "reconstruction": reconstruction}
        terms |= {"kl": groups.sum(), **{f"kl_{i}": value for i, value in enumerate(groups)}}
        if self.has_likelihood:
            terms["elbo"] = -(reconstruction + groups.sum())
        if self.kl_schedule != "constant":
            terms["kl_weight"] = reconstruction.new_tensor(weight)
        return terms

    def _scored(self, target: Tensor, out: Tensor) -> Tensor:
        """Return log p(x | z) of the discrete example where the data are discrete, (B,)."""
        log_p = self._observed(out).log_prob(target).flatten(1).sum(1)
        return log_p - math.prod(self.shape) * math.log(self.levels) if self.dequantizes else log_p

    def _bound(self, x: Tensor, labels: Tensor | None, k: int, rows: int, generator: torch.Generator) -> Tensor:
        """Bound log p of at most ``rows`` examples; with k = 1 each group's divergence is exact, given those above."""
        where = generator, x.device, x.dtype
        rows = max(1, min(rows, CHUNK // self.latent_dim))
        features, weights = self.encoder(x), []
        for draws in torch.arange(k).split(max(1, rows // len(x))):
            K, n = len(draws), len(draws) * len(x)
            target = x.expand(K, *x.shape).flatten(0, 1)  # (K * B, *shape)
            beside = [f.expand(K, *f.shape).flatten(0, 1) for f in features]
            _, kl, ratios, out = self.infer(beside, lambda group, n=n: randn((n, *self._shape_of(group)), *where))
            if self.dequantizes:
                target = dequantise(target, rand(target.shape, *where), self.levels)
            log_p = self._scored(target, out)
            weights.append((log_p + sum(ratios) if k > 1 else log_p - sum(kl)).unflatten(0, (K, len(x))))
        return weights[0][0] if k == 1 else torch.cat(weights).logsumexp(0) - math.log(k)

    # -- sampling -----------------------------------------------------------------------------------------------------

    def prior_observation(
        self, n: int, generator: torch.Generator, labels: Tensor | None, temperature: float
    ) -> Observation:
        """Return p(x | z) of latents drawn from the top down, each group given those above it."""

        def choose(group: int, state: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
            eps = randn((n, *self._shape_of(group)), generator, self.device, self.dtype)
            return mean + temperature * torch.exp(log_scale) * eps

        _, out = self.descend(n, choose)
        return self._observed(out)
