"""Paths from noise to data: random curves whose two ends are a noise x_0 and an example x_1.

    x_t = a(t) x_0 + b(t) x_1 + g(t) z,   t = 0 noise, t = 1 data,   z a further noise where g is not zero

    linear              a = 1 - t                 b = t                       g = 0
    trigonometric       a = cos(pi t / 2)         b = sin(pi t / 2)           g = 0
    variance_preserving a = sqrt(1 - t^2)         b = t                       g = 0
    linear_noisy        as linear                                             g = sin^2(pi t)
    trigonometric_noisy as trigonometric                                      g = sin^2(pi t)
    encoding_decoding   a = cos^2(pi t) [t < 1/2] b = cos^2(pi t) [t > 1/2]   g = sin^2(pi t)
    bridge              as linear                                             g = sqrt(t (1 - t))

A path whose noise x_0 is standard normal has, at time t, the velocity v(x, t) = E[a' x_0 + b' x_1 + g' z | x_t = x] and
the score s(x, t) = grad log p_t(x); without g the one follows from the other by

    E[x_0 | x_t = x] = (b v - b' x) / (a' b - a b'),   s = -E[x_0 | x_t = x] / a.

References:
    Y. Lipman and others, Flow Matching for Generative Modeling, 2022, arXiv:2210.02747 (linear).
    M. S. Albergo, N. M. Boffi, E. Vanden-Eijnden, Stochastic Interpolants: A Unifying Framework for Flows and
    Diffusions, 2023, arXiv:2303.08797, section 4 and table 8 (the others).
    A. Tong and others, Simulation-free Schroedinger Bridges via Score and Flow Matching, 2023, arXiv:2307.03672,
    equation 8 (bridge: Brownian, from one end to the other).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.errors import ConfigError, close_matches

__all__ = ["PATHS", "NoisePath", "arc", "path", "straightness"]

Coefficient = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Times, of any shape -> the coefficient and its derivative, of the same shape."""


@dataclass(frozen=True)
class NoisePath:
    """Three coefficients of time.

    Attributes:
        a, b, g: of the noise, of the example, of the further noise; g is None where there is none.
        margin: distance from t = 1 that keeps all derivatives below 1 / sqrt(margin) or so; 0 where they are bounded.
        time: from noise level q = a / b to t, of a path without g.
    """

    a: Coefficient
    b: Coefficient
    g: Coefficient | None = None
    margin: float = 0.0
    time: Callable[[Tensor], Tensor] | None = None

    def expected_data(self, x: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """Return E[x_1 | x_t = x] from the velocity v(x, t) of a path without g."""
        t = _beside(t, x)
        (a, da), (b, db) = self.a(t), self.b(t)
        return (a * v - da * x) / (a * db - da * b)

    def state(self, x_0: Tensor, x_1: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        """Return x_t: (B, ...) each, with times (B,) or () -> (B, ...)."""
        return self._mix(x_0, x_1, t, z, 0)

    def velocity(self, x_0: Tensor, x_1: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        """Return dx_t/dt, arguments as for `state`."""
        return self._mix(x_0, x_1, t, z, 1)

    def _mix(self, x_0: Tensor, x_1: Tensor, t: Tensor, z: Tensor | None, which: int) -> Tensor:
        t = _beside(t, x_0)
        mixed = self.a(t)[which] * x_0 + self.b(t)[which] * x_1
        if self.g is None:
            return mixed
        if z is None:
            raise ConfigError("this path has a third part: it needs the noise z")
        return mixed + self.g(t)[which] * z

    def scales(self, t: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return c_in, c_skip, c_out of a path without g, so that v = c_skip x + c_out F(c_in x, t) asks little of F.

        For data N(0, sigma^2), c_skip x is the best linear guess of the velocity, and c_in x and what is left to F have
        variance 1.

        References:
            T. Karras and others, Elucidating the Design Space of Diffusion-Based Generative Models, 2022,
            arXiv:2206.00364, section 5 (the idea, there for a denoiser).
        """
        (a, da), (b, db) = self.a(t), self.b(t)
        var = a * a + (b * sigma) ** 2
        return var.rsqrt(), (da * a + db * b * sigma**2) / var, sigma * (a * db - da * b).abs() * var.rsqrt()

    def expected_noise(self, x: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """Return E[x_0 | x_t = x] from the velocity v(x, t) of a path without g; from it follows the score, -that/a."""
        t = _beside(t, x)
        (a, da), (b, db) = self.a(t), self.b(t)
        return (b * v - db * x) / (da * b - a * db)


def _beside(t: Tensor, x: Tensor) -> Tensor:
    """Return times in a shape that multiplies x: (B,) -> (B, 1, ...), () as it is."""
    return t.reshape(-1, *[1] * (x.ndim - 1)) if t.ndim else t


def _fall(t: Tensor) -> tuple[Tensor, Tensor]:
    return 1 - t, -torch.ones_like(t)


def _rise(t: Tensor) -> tuple[Tensor, Tensor]:
    return t, torch.ones_like(t)


def _cosine(t: Tensor) -> tuple[Tensor, Tensor]:
    w = math.pi / 2
    return (w * t).cos(), -w * (w * t).sin()


def _sine(t: Tensor) -> tuple[Tensor, Tensor]:
    w = math.pi / 2
    return (w * t).sin(), w * (w * t).cos()


def _root(t: Tensor) -> tuple[Tensor, Tensor]:
    a = (1 - t * t).clamp(min=0).sqrt()
    return a, -t / a


def _bump(t: Tensor) -> tuple[Tensor, Tensor]:
    return (math.pi * t).sin().square(), math.pi * (2 * math.pi * t).sin()


_MARGIN = 1e-4
"""Distance from both ends within which the slope of a Brownian bridge's deviation rises no more."""


def _bridge(t: Tensor) -> tuple[Tensor, Tensor]:
    inner = t.clamp(_MARGIN, 1 - _MARGIN)
    # a square root whose own slope is finite at the ends, where it is not used
    g = torch.where((t > 0) & (t < 1), (t * (1 - t)).clamp(min=1e-30).sqrt(), torch.zeros_like(t))
    return g, 0.5 * (1 - 2 * inner) / (inner * (1 - inner)).sqrt()


def _first_half(t: Tensor) -> tuple[Tensor, Tensor]:
    c, dc = (math.pi * t).cos().square(), -math.pi * (2 * math.pi * t).sin()
    zero = torch.zeros_like(t)
    return torch.where(t < 0.5, c, zero), torch.where(t < 0.5, dc, zero)


def _second_half(t: Tensor) -> tuple[Tensor, Tensor]:
    c, dc = _first_half(1 - t)
    return c, -dc


def _linear_time(q: Tensor) -> Tensor:
    return 1 / (1 + q)


def _angle_time(q: Tensor) -> Tensor:
    return 1 - 2 / math.pi * torch.atan(q)


def _root_time(q: Tensor) -> Tensor:
    return torch.rsqrt(1 + q * q)


PATHS: dict[str, NoisePath] = {
    "linear": NoisePath(_fall, _rise, time=_linear_time),
    "trigonometric": NoisePath(_cosine, _sine, time=_angle_time),
    "variance_preserving": NoisePath(_root, _rise, margin=1e-4, time=_root_time),
    "linear_noisy": NoisePath(_fall, _rise, _bump),
    "trigonometric_noisy": NoisePath(_cosine, _sine, _bump),
    "encoding_decoding": NoisePath(_first_half, _second_half, _bump),
    "bridge": NoisePath(_fall, _rise, _bridge, margin=_MARGIN),
}
"""Paths by name."""


def path(name: str) -> NoisePath:
    """Return a path by its name. Raises `ConfigError` on an unknown one."""
    if name not in PATHS:
        raise ConfigError(f"unknown path {name!r}.{close_matches(name, PATHS)} There are: {', '.join(PATHS)}")
    return PATHS[name]


def straightness(velocities: Tensor, states: Tensor) -> Tensor:
    """Return S(Z) = int_0^1 E |(z_1 - z_0) - v(z_t, t)|^2 dt along the curves of an ODE: 0 where all are straight.

    Args:
        velocities: at evenly spaced times, (T, B, ...).
        states: at the same times, of which the first and the last are the ends; (T, B, ...). The integral is taken by
            the trapezoidal rule.

    References:
        X. Liu, C. Gong, Q. Liu, Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow,
        2022, arXiv:2209.03003, equation 6.
    """
    bend = (states[-1] - states[0] - velocities).flatten(2).square().sum(2).mean(1)  # (T,)
    return torch.trapezoid(bend, dx=1 / (len(bend) - 1))


def arc(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Return the point between two noises on the arc, where noise of full length lies, not on the chord.

    Args:
        a, b: (B, ...) each.
        share: of the way from a to b, what broadcasts to them.
    """
    cosine = (a.flatten(1) * b.flatten(1)).sum(1) / (a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1))
    angle = cosine.clamp(-1, 1).acos().clamp(min=1e-4).view(-1, *[1] * (a.ndim - 1))
    return (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)
