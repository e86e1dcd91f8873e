"""What all normalising flows share: an invertible map of the data to noise, and the likelihood that follows from it.

    log p(y) = log p_Z(f(y)) + log |det df / dy|

Grey levels are dequantised (`zoo.maths.dequantisation`), so that the density bounds the probability of the image, and
may go through a logit, whose Jacobian counts.

References:
    D. J. Rezende, S. Mohamed, Variational Inference with Normalizing Flows, 2015, arXiv:1505.05770.
    G. Papamakarios and others, Normalizing Flows for Probabilistic Modeling and Inference, 2019, arXiv:1912.02762.
    L. Dinh, J. Sohl-Dickstein, S. Bengio, Density estimation using Real NVP, 2016, arXiv:1605.08803: the logit.
    J. Ho and others, Flow++, 2019, arXiv:1902.00275: variational dequantisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError, close_matches
from zoo.maths.dequantisation import dequantise, from_continuous, logit_normal
from zoo.maths.noise import rand, randn
from zoo.maths.transforms import from_logit, to_logit
from zoo.model import Batch, LikelihoodModel, seeded
from zoo.nets.coupling import CouplingNet

__all__ = ["NormalisingFlow"]

PRIORS = ("normal", "logistic")
DEQUANTISATIONS = ("uniform", "variational")

Draw = Callable[..., Tensor]


class NormalisingFlow(LikelihoodModel):
    """Base of the normalising flows; a family defines `flow` and `flow_inverse`.

    Args:
        shape: of an example.
        levels: grey levels of the data, None for continuous data.
        alpha: of the logit that grey levels go through, None for no logit.
        dequantisation: ``uniform``, or ``variational``: a network says for each pixel which logit-normal distribution
            its place within the interval of its level has.
        prior: of the noise, ``normal`` or ``logistic``.
        rate: samples a second where examples are recordings, mu-law codes; None where they are not.
        lr: peak learning rate.
        betas: Adam's decay rates.
        width: hidden channels of the network of variational dequantisation.

    Raises:
        ConfigError: unknown or contradictory options.
    """

    family = "flow"
    invertible = True  # what `zoo diagnose` shows

    def __init__(
        self,
        shape: Sequence[int],
        levels: int | None = 256,
        alpha: float | None = None,
        dequantisation: str = "uniform",
        prior: str = "normal",
        rate: int | None = None,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        width: int = 32,
    ) -> None:
        super().__init__()
        for name, value, known in (("prior", prior, PRIORS), ("dequantisation", dequantisation, DEQUANTISATIONS)):
            if value not in known:
                raise ConfigError(f"unknown {name} {value!r}.{close_matches(value, known)} There are: {known}")
        if alpha is not None and not 0 < alpha < 0.5:
            raise ConfigError(f"alpha of the logit must lie between 0 and 0.5, or be null for no logit; got {alpha}")
        if levels is None and (alpha is not None or dequantisation != "uniform"):
            raise ConfigError("continuous data (levels null) are neither dequantised nor brought through a logit")
        self.shape, self.levels, self.alpha, self.prior, self.rate = tuple(shape), levels, alpha, prior, rate
        self.lr, self.betas = lr, (float(betas[0]), float(betas[1]))
        self.dequantiser: nn.Module | None = None
        if dequantisation == "variational":
            if len(self.shape) != 3:
                raise ConfigError(f"variational dequantisation is one of images, examples have shape {self.shape}")
            fold = max(f for f in (4, 2, 1) if all(s % f == 0 for s in self.shape[1:]))
            self.dequantiser = CouplingNet(self.shape[0], 2 * self.shape[0], self.shape[1:], width, fold=fold)

    # -- what follows from the data -----------------------------------------------------------------------------------

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return what networks that are arguments map to what: most families make their own; see `zoo.fitting`."""
        return {}

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that go with other data; see `zoo.fitting`."""
        return dict(arguments)

    # -- what a family defines ----------------------------------------------------------------------------------------

    def flow(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the noise z of continuous examples and log |det dz / dx|: (B, *shape) -> (B, D) and (B,) or ()."""
        raise NotImplementedError

    def flow_inverse(self, z: Tensor) -> Tensor:
        """Return the continuous examples of noise: (B, D) -> (B, *shape)."""
        raise NotImplementedError

    # -- data, noise, and back ----------------------------------------------------------------------------------------

    def to_noise(self, x: Tensor) -> Tensor:
        """Return the noise of continuous examples alone: (B, *shape) -> (B, D)."""
        return self.flow(x)[0]

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of the latents of one example, as ``decode`` takes them."""
        return (math.prod(self.shape),)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Return the noise of examples: (B, *shape) in data range -> (B, D); grey levels are taken mid-interval."""
        if self.levels is not None:
            x = self._to_real(dequantise(x, 0.5, self.levels))[0]
        return self.to_noise(x)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Return the examples of noise: (B, D) -> (B, *shape), grey levels as values in [0, 1] that are not rounded."""
        return self.data_range(self.flow_inverse(z))

    def data_range(self, x: Tensor, *, whole: bool = False) -> Tensor:
        """Return continuous examples in data range, grey levels in [0, 1]; whole ones if asked for."""
        if self.levels is None:
            return x
        return from_continuous(from_logit(x, self.alpha) if self.alpha is not None else x, self.levels, whole=whole)

    def _to_real(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Bring y in [0, 1] through the logit, if there is one; with log |det|, (B,) or ()."""
        if self.alpha is None:
            return y, y.new_zeros(())
        x, each = to_logit(y, self.alpha)
        return x, each.flatten(1).sum(1)

    # -- the likelihood -----------------------------------------------------------------------------------------------

    def density(self, x: Tensor, randn: Draw | None = None) -> Tensor:
        """Return log p(x) of continuous examples, (B, *shape) -> (B,), in nats.

        Args:
            x: continuous examples, after the logit where there is one.
            randn: standard normal noise of a shape, for families that estimate.
        """
        z, log_det = self.flow(x)
        return self._log_prior(z) + log_det

    def _log_prior(self, z: Tensor) -> Tensor:
        each = -0.5 * (z * z + math.log(2 * math.pi)) if self.prior == "normal" else -z - 2 * F.softplus(-z)
        return each.flatten(1).sum(1)

    def _continuous(self, x: Tensor, rand: Draw, randn: Draw) -> tuple[Tensor, Tensor]:
        """Return continuous examples, and what is to be added to their log-density: nothing, where x is continuous.

        Of grey levels it is the log-determinant of the logit, less log q(u) and D log L: (B,).
        """
        if self.levels is None:
            return x, x.new_zeros(())
        log_q = x.new_zeros(())
        if self.dequantiser is None:
            u = rand(*x.shape)
        else:
            mean, raw = self.dequantiser(2 * x - 1).chunk(2, dim=1)
            u, each = logit_normal(randn(*x.shape), mean, raw)
            log_q = each.flatten(1).sum(1)
        y, log_det = self._to_real(dequantise(x, u, self.levels))
        return y, log_det - log_q - math.prod(self.shape) * math.log(self.levels)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, the negative log-likelihood, or its bound where grey levels are dequantised."""
        x, offset = self._continuous(batch[0], self.rand, self.randn)
        return {"loss": -(self.density(x, self.randn) + offset).mean()}

    @torch.no_grad()
    def log_prob(
        self,
        x: Tensor,
        *,
        labels: Sequence[int] | Tensor | int | None = None,
        k: int = 1,
        seed: int | torch.Generator | None = None,
    ) -> Tensor:
        """Return log p(x) of continuous examples, exactly, or a bound on log P(x) of grey levels: -> (B,), nats.

        The bound draws k places within the intervals, and takes the log of the mean of what each says of P. Where the
        density is only estimated (`estimated`), it takes the mean of the logs: the log of a mean of noisy estimates
        exceeds the truth.

        Raises:
            ConfigError: k below 1, or labels.
        """
        if k < 1:
            raise ConfigError(f"k must be at least 1, got {k}")
        self._labels(len(x), labels)
        where = seeded(seed), x.device, x.dtype

        def uniform(*shape: int) -> Tensor:
            return rand(shape, *where)

        def normal(*shape: int) -> Tensor:
            return randn(shape, *where)

        draws = []
        for _ in range(k if self.levels is not None else 1):
            y, offset = self._continuous(x, uniform, normal)
            draws.append(self.density(y, normal) + offset)
        log_p = torch.stack(draws)  # (k, B)
        return log_p.mean(0) if self.estimated else log_p.logsumexp(0) - math.log(len(draws))

    @property
    def estimated(self) -> bool:
        """Whether `density` is an unbiased estimate of log p(x) with a noise of its own, and not log p(x) itself."""
        return False

    def likelihood(self, k: int = 1) -> str:
        if self.levels is None:
            return "exact"
        kind = "dequant" if self.dequantiser is None else "variational_dequant"
        return f"exact+{kind}" if k == 1 or self.estimated else f"iwae-{k}+{kind}"

    # -- sampling -----------------------------------------------------------------------------------------------------

    def draw(self, n: int, generator: torch.Generator, labels: Tensor | None, *, temperature: float = 1.0) -> Tensor:
        """Draw noise and decode it; grey levels are whole ones.

        Args:
            temperature: factor of the noise's scale.
        """
        if not 0 <= temperature < math.inf:
            raise ConfigError(f"temperature must be finite and not negative, got {temperature}")
        noise = (n, math.prod(self.shape)), generator, self.device, self.dtype
        z = randn(*noise) if self.prior == "normal" else rand(*noise).clamp(min=1e-7).logit(eps=1e-7)
        return self.data_range(self.flow_inverse(temperature * z), whole=True)
