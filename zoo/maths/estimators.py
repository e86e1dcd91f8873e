"""Gradients of E f(x) in the parameters of p(x): through the draw where there is a path, by the score where not.

    path        x = g(u, theta):  d E f / d theta = E f'(x) dg / d theta
    REINFORCE   d E f / d theta = E (f(x) - b) d log p(x) / d theta,   b free of x

A draw by `gaussian`, `laplace` or `gamma` carries the path's gradient; `concrete` that of a relaxed categorical, which
is another, continuous variable. `reinforce` returns what has the gradient of the second line.

References:
    D. P. Kingma, M. Welling, Auto-Encoding Variational Bayes, 2013, arXiv:1312.6114, section 2.4.
    G. Marsaglia, W. W. Tsang, A Simple Method for Generating Gamma Variables, 2000.
    M. Figurnov, S. Mohamed, A. Mnih, Implicit Reparameterization Gradients, 2018, arXiv:1805.08498.
    C. J. Maddison, A. Mnih, Y. W. Teh, The Concrete Distribution, 2016, arXiv:1611.00712.
    E. Jang, S. Gu, B. Poole, Categorical Reparameterization with Gumbel-Softmax, 2016, arXiv:1611.01144.
    R. J. Williams, Simple statistical gradient-following algorithms for connectionist reinforcement learning, 1992.
    W. Kool, H. van Hoof, M. Welling, Buy 4 REINFORCE Samples, Get a Baseline for Free!, 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.errors import ConfigError, check_choice

__all__ = ["BASELINES", "Spread", "concrete", "gamma", "gaussian", "laplace", "reinforce", "variance_report"]

BASELINES = ("none", "leave_one_out")


def gaussian(mean: Tensor, std: Tensor, n: Tensor) -> Tensor:
    """Return mean + std n for standard normal n. Of the shape of n."""
    return mean + std * n


def laplace(mean: Tensor, scale: Tensor, u: Tensor) -> Tensor:
    """Return mu - b sgn(u) log(1 - 2 |u|) for u uniform in (-1/2, 1/2). Of the shape of u."""
    return mean - scale * u.sign() * torch.log1p(-2 * u.abs())


def gamma(alpha: Tensor, rate: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return draws of Gamma(alpha, rate) by Marsaglia and Tsang's rejection, with the implicit gradient in alpha.

        d = alpha - 1/3,  x = d (1 + n / sqrt(9 d))^3, accepted if log u < n^2 / 2 + d - v d + d log v

    The accepted n depends on alpha, so the path through it alone is biased: the gradient is -(dF / d alpha) / p, with F
    the distribution function, instead. Below alpha = 1, which the method does not reach, it raises `ConfigError`.
    """
    if bool((alpha < 1).any()):
        raise ConfigError(f"Marsaglia and Tsang's draws need alpha of at least 1, got {float(alpha.min())}")
    a, r = torch.broadcast_tensors(alpha, rate)
    with torch.no_grad():
        d = a - 1 / 3
        y, open_ = torch.zeros_like(d), torch.ones_like(d, dtype=torch.bool)
        while bool(open_.any()):
            n = torch.randn(d.shape, generator=generator, dtype=d.dtype, device=d.device)
            u = torch.rand(d.shape, generator=generator, dtype=d.dtype, device=d.device)
            v = (1 + n / (9 * d).sqrt()) ** 3
            taken = open_ & (v > 0) & (u.log() < n**2 / 2 + d - d * v + d * v.clamp(min=1e-30).log())
            y, open_ = torch.where(taken, d * v, y), open_ & ~taken
    return _GammaPath.apply(a, y) / r


class _GammaPath(torch.autograd.Function):
    """y with the gradient dy / d alpha of a quantile held fixed."""

    @staticmethod
    def forward(ctx, alpha: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(alpha, y)
        return y.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        alpha, y = ctx.saved_tensors
        return grad * torch._standard_gamma_grad(alpha, y), None


def concrete(logits: Tensor, temperature: float, u: Tensor, hard: bool = False) -> Tensor:
    """Return softmax((logits + Gumbel) / temperature), (..., K); ``hard``: its argmax, with the gradient of the former.

    Raises:
        ConfigError: a temperature that is not positive.
    """
    if temperature <= 0:
        raise ConfigError(f"the temperature of a concrete variable must be positive, got {temperature}")
    tiny = torch.finfo(u.dtype).tiny
    gumbel = -torch.log(-torch.log(u.clamp(min=tiny, max=1 - torch.finfo(u.dtype).eps)))
    soft = torch.softmax((logits + gumbel) / temperature, -1)
    if not hard:
        return soft
    one = torch.nn.functional.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
    return one + soft - soft.detach()


def reinforce(value: Tensor, log_prob: Tensor, baseline: str = "none") -> Tensor:
    """Return a scalar whose gradient estimates that of E f, from f (S,) and log p (S,) of S draws.

    Args:
        value: f(x_s), (S,); where it has a gradient of its own in the parameters, that is counted too.
        log_prob: log p(x_s), (S,), at draws without a path.
        baseline: ``none``, or ``leave_one_out``, the mean of the other draws' f, which leaves the mean as it is.

    Raises:
        ConfigError: an unknown baseline, or too few draws for it.
    """
    check_choice("baseline", baseline, BASELINES)
    f = value.detach()
    if baseline == "leave_one_out":
        if len(f) < 2:
            raise ConfigError("a baseline of the other draws needs at least two of them")
        f = f - (f.sum() - f) / (len(f) - 1)
    return (f * log_prob).mean() + (value - value.detach()).mean()


@dataclass(frozen=True)
class Spread:
    """Mean, variance, and the mean's standard error of estimates of one gradient."""

    mean: float
    variance: float
    error: float


def variance_report(
    estimators: Mapping[str, Callable[[], Tensor]], parameter: Tensor, repeats: int = 1000
) -> dict[str, Spread]:
    """Return what each estimator's gradient in one number, ``parameter``, is over so many repeats.

    Args:
        estimators: name -> a function that draws afresh and gives a scalar to be differentiated.
        parameter: requires gradients, ().
        repeats: at least 2.
    """
    found = {}
    for name, estimate in estimators.items():
        g = torch.stack([torch.autograd.grad(estimate(), parameter)[0] for _ in range(repeats)]).double()
        found[name] = Spread(float(g.mean()), float(g.var()), float(g.std() / repeats**0.5))
    return found
