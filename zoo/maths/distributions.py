"""Distributions of one number given a network's outputs: what a decoder says about each pixel.

Each is built from tensors of one shape (or shapes that broadcast) and works element by element; callers sum over the
dimensions of an example. ``mean`` and ``sample`` return values in the range of the data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.maths.estimators import laplace
from zoo.maths.noise import rand, randn

__all__ = ["Bernoulli", "Categorical", "DiscretizedLogistic", "Gaussian", "Laplace", "gaussian_kl", "truncated_normal"]


class Bernoulli:
    """A binary value: P(1) = sigmoid(logits).

    Args:
        logits: log-odds of a one.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log P(x), in nats, of values 0 or 1."""
        x, logits = torch.broadcast_tensors(x, self.logits)
        return -F.binary_cross_entropy_with_logits(logits, x, reduction="none")

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(self.logits)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        u = rand(self.logits.shape, generator, self.logits.device, self.logits.dtype)
        return (u < self.mean).to(self.logits.dtype)


class Categorical:
    """A grey level k / (levels - 1) with a probability of its own: P(k) = softmax(logits)_k.

    Args:
        logits: (..., levels).
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log P(x), in nats, of values k / (levels - 1)."""
        k = (x * (self.logits.shape[-1] - 1)).round().long()
        return self.logits.log_softmax(-1).gather(-1, k[..., None])[..., 0]

    @property
    def mean(self) -> Tensor:
        return self.logits.softmax(-1) @ self._values()

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        u = rand(self.logits.shape[:-1], generator, self.logits.device, self.logits.dtype)
        below = (self.logits.softmax(-1).cumsum(-1) <= u[..., None]).sum(-1)
        return self._values()[below.clamp(max=self.logits.shape[-1] - 1)]

    def _values(self) -> Tensor:
        return torch.linspace(0, 1, self.logits.shape[-1], device=self.logits.device, dtype=self.logits.dtype)


class DiscretizedLogistic:
    """A grey level: a logistic variable on the axis of x, rounded to the nearest of ``levels`` values in [0, 1].

    With sigma the logistic function, h = 1 / (levels - 1) the distance between levels, m and s location and scale:

        P(x) = sigma((x + h/2 - m) / s) - sigma((x - h/2 - m) / s),

    where the lowest level takes all the mass below it and the highest all the mass above (open edge bins), so that the
    levels sum to 1.

    Args:
        location: m, on the axis of x.
        log_scale: log s.
        levels: number of grey levels, at least 2.

    References:
        D. P. Kingma and others, Improving Variational Inference with Inverse Autoregressive Flow, 2016,
        arXiv:1606.04934; T. Salimans and others, PixelCNN++, 2017, arXiv:1701.05517.
    """

    def __init__(self, location: Tensor, log_scale: Tensor, levels: int = 256) -> None:
        self.location, self.log_scale, self.levels = location, log_scale, levels

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log P(x), in nats, of values k / (levels - 1)."""
        h = 1 / (self.levels - 1)
        centred, rate = x - self.location, torch.exp(-self.log_scale)
        upper, lower = rate * (centred + h / 2), rate * (centred - h / 2)
        # sigma(b) - sigma(a) = sigma(b) sigma(-a) (1 - exp(a - b)), which neither cancels nor overflows;
        # an open edge leaves out the factors of its missing border.
        lowest, highest = x < h / 2, x > 1 - h / 2
        below_upper = F.logsigmoid(upper).masked_fill(highest, 0.0)
        above_lower = F.logsigmoid(-lower).masked_fill(lowest, 0.0)
        width = torch.where(lowest | highest, 0.0, torch.log(-torch.expm1(-rate * h)))
        return below_upper + above_lower + width

    @property
    def mean(self) -> Tensor:
        """Expectation of the logistic variable clipped to [0, 1], within half a level of that of the rounded one."""
        s = self.log_scale.exp()
        return (s * (F.softplus(self.location / s) - F.softplus((self.location - 1) / s))).clamp(0, 1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        shape = torch.broadcast_shapes(self.location.shape, self.log_scale.shape)
        u = rand(shape, generator, self.location.device, self.location.dtype)
        u = u.clamp(1e-6, 1 - 1e-6)
        x = self.location + self.log_scale.exp() * (u.log() - torch.log1p(-u))
        return (x.clamp(0, 1) * (self.levels - 1)).round() / (self.levels - 1)


class Gaussian:
    """A continuous value with mean m and standard deviation s.

    Args:
        location: m.
        log_scale: log s.
    """

    def __init__(self, location: Tensor, log_scale: Tensor) -> None:
        self.location, self.log_scale = location, log_scale

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density at x, in nats."""
        z = (x - self.location) * torch.exp(-self.log_scale)
        return -0.5 * (z * z + math.log(2 * math.pi)) - self.log_scale

    @property
    def mean(self) -> Tensor:
        return self.location

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        shape = torch.broadcast_shapes(self.location.shape, self.log_scale.shape)
        noise = randn(shape, generator, self.location.device, self.location.dtype)
        return self.location + self.log_scale.exp() * noise


class Laplace:
    """A continuous value with density exp(-|x - m| / b) / (2 b): the m that fits best is the median.

    Args:
        location: m.
        log_scale: log b.
    """

    def __init__(self, location: Tensor, log_scale: Tensor) -> None:
        self.location, self.log_scale = location, log_scale

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density at x, in nats."""
        return -(x - self.location).abs() * torch.exp(-self.log_scale) - math.log(2) - self.log_scale

    @property
    def mean(self) -> Tensor:
        return self.location

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        shape = torch.broadcast_shapes(self.location.shape, self.log_scale.shape)
        u = rand(shape, generator, self.location.device, self.location.dtype) - 0.5
        return laplace(self.location, self.log_scale.exp(), u.clamp(min=-0.5 + torch.finfo(u.dtype).eps))


def gaussian_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """Return KL(N(mean, exp(log_var)) || N(0, 1)) element by element, in nats.

    References:
        D. P. Kingma, M. Welling, Auto-Encoding Variational Bayes, 2013, arXiv:1312.6114, appendix B.
    """
    return 0.5 * (mean * mean + log_var.exp() - 1 - log_var)


def truncated_normal(
    shape: Sequence[int],
    threshold: float,
    generator: torch.Generator | None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return standard normal numbers given that they lie within ``threshold`` of zero, by one uniform number each."""
    u = 2 * rand(shape, generator, device, dtype) - 1
    mass = math.erf(threshold / math.sqrt(2))  # P(|z| < threshold)
    return (math.sqrt(2) * torch.erfinv(mass * u)).clamp(-threshold, threshold)
