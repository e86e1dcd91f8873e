"""VAE whose decoder is a flow told the latent, so that pixels which belong together are drawn together.

    x = m(z) + s(z) f^{-1}(e; z),   e ~ N(0, I)
    log p(x | z) = log N(e; 0, I) + log |det df / du| - sum log s(z),   u = (x - m(z)) / s(z),   e = f(u; z)

Grey levels may go through a logit before, x = logit(alpha + (1 - 2 alpha) y), whose Jacobian counts: levels near black
and white, where most pixels of digits are, lie on intervals as wide as the others' there.

A decoder that says each pixel by itself draws noise on a blur; this one's noise is shaped by f. At the start f is the
identity, and the model the VAE with a Gaussian likelihood. log p(x | z) is exact, so the bounds are bounds: of the
density, or, where grey levels are dequantised, of their probability.

References:
    J. Su, G. Wu, f-VAEs: Improve VAEs with Conditional Flows, 2018, arXiv:1809.05861.
    L. Dinh, J. Sohl-Dickstein, S. Bengio, Density estimation using Real NVP, 2016, arXiv:1605.08803.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.vae import VAE
from zoo.maths.distributions import Gaussian
from zoo.maths.noise import randn
from zoo.maths.observation import Observation
from zoo.maths.transforms import from_logit, to_logit
from zoo.nets.conditional_couplings import ConditionalCouplings

__all__ = ["FlowDecoderVAE", "FlowObservation"]


class FlowObservation:
    """p(x | z) of whole examples: a Gaussian's locations and scales, and a flow of what is left to noise.

    Args:
        base: of the locations and scales, (B, *shape).
        flow: couplings of (B, D) numbers.
        z: their context, (B, context).
        alpha: of the logit that examples in [0, 1] go through, None for none.
    """

    def __init__(self, base: Gaussian, flow: ConditionalCouplings, z: Tensor, alpha: float | None = None) -> None:
        self.base, self.flow, self.z, self.alpha = base, flow, z, alpha

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density of examples in nats, (B, *shape) -> (B, 1)."""
        log_slope = x.new_zeros(len(x))
        if self.alpha is not None:
            x, each = to_logit(x, self.alpha)
            log_slope = each.flatten(1).sum(1)
        log_scale = self.base.log_scale.expand_as(x)
        u = (x - self.base.location) * torch.exp(-log_scale)
        e, log_det = self.flow(u.flatten(1), self.z)
        log_p = Gaussian(torch.zeros_like(e), torch.zeros_like(e)).log_prob(e).sum(1)
        return (log_p + log_det - log_scale.flatten(1).sum(1) + log_slope)[:, None]

    @property
    def mean(self) -> Tensor:
        """What noise of zero gives, (B, *shape): the middle of p(x | z), its mean where the flow is the identity."""
        return self.of_noise(torch.zeros_like(self.base.location.flatten(1)))

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Return a draw, (B, *shape)."""
        location = self.base.location
        return self.of_noise(randn((len(location), self.flow.features), generator, location.device, location.dtype))

    def of_noise(self, e: Tensor) -> Tensor:
        """Return the examples of noise, (B, D) -> (B, *shape)."""
        u = self.flow.inverse(e, self.z).view_as(self.base.location)
        x = self.base.location + self.base.log_scale.exp() * u
        return x if self.alpha is None else from_logit(x, self.alpha)


class FlowDecoderVAE(VAE):
    """Variational autoencoder with a conditional flow as decoder.

    Args:
        encoder: as that of `VAE`.
        decoder: (B, latent_dim) -> (B, ...), locations, and scales where they are predicted, as that of a `VAE` with a
            Gaussian likelihood.
        flow: f, couplings of as many features as an example has numbers, told z.
        shape: of an example.
        latent_dim: size of z.
        levels: grey levels of the data, which are dequantised; None for continuous data.
        alpha: of the logit that grey levels go through, between 0 and 0.5; None for no logit.

    The other arguments are those of `VAE`, whose likelihood is ``gaussian``.

    Raises:
        ConfigError: a flow of another size, an alpha out of range, or what `VAE` refuses.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        flow: nn.Module,
        shape: list[int],
        latent_dim: int,
        levels: int | None = None,
        alpha: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(encoder, decoder, shape, latent_dim, "gaussian", levels=levels, **kwargs)
        size = torch.Size(shape).numel()
        if not (isinstance(flow, ConditionalCouplings) and (flow.features, flow.context) == (size, latent_dim)):
            raise ConfigError(
                f"flow must be ConditionalCouplings of {size} features and a context of {latent_dim}, as z has"
            )
        if alpha is not None and (levels is None or not 0 < alpha < 0.5):
            raise ConfigError(
                f"alpha, of the logit that grey levels go through, must lie between 0 and 0.5, and be left out for "
                f"continuous data (levels null); got {alpha} with levels {levels}"
            )
        self.flow, self.alpha = flow, alpha

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        shapes = super().network_shapes({**arguments, "likelihood": "gaussian"})
        return {**shapes, "flow": ((arguments["latent_dim"],), tuple(arguments["shape"]))}

    def observation(self, z: Tensor, labels: Tensor | None = None) -> Observation:
        """Return p(x | z) of whole examples: (B, latent_dim) -> a distribution over (B, *shape)."""
        base = super().observation(z, labels)
        return FlowObservation(base, self.flow, z, self.alpha)  # type: ignore[return-value, arg-type]
