"""What compiled sampling loops are made of, and how they are compiled: by numba, at the first call.

In single precision tanh is a ratio of polynomials, from Lambert's continued fraction
x / (1 + x^2 / (3 + x^2 / (5 + ...))) cut after 14 terms, within 4e-7 of it, and exp a series; both vectorise.

References:
    J. H. Lambert, Memoire sur quelques proprietes remarquables des quantites transcendentes, 1768.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch

from zoo.errors import ConfigError

__all__ = ["Kernels", "kernels", "tanh_ratio"]

_LIMIT = 9.0  # tanh is 1 beyond, in single precision


def tanh_ratio(terms: int = 14) -> tuple[list[float], list[float]]:
    """Return coefficients of p and q in y = x^2, lowest first, with tanh x = x p(y) / q(y)."""
    den, num = [2.0 * terms - 1], [1.0]
    for m in range(terms - 1, 0, -1):  # D <- (2 m - 1) + y / D
        product = [0.0, *num]
        size = max(len(den), len(product))
        padded = [a + [0.0] * (size - len(a)) for a in ([(2 * m - 1) * c for c in den], product)]
        den, num = [a + b for a, b in zip(*padded, strict=True)], den
    return [c / den[0] for c in num], [c / den[0] for c in den]


@dataclass(frozen=True)
class Kernels:
    """Compiled parts for one precision.

    Attributes:
        real: numpy's type of the numbers.
        compile: decorator that compiles a function as these were.
        tanh: of a number.
        add_product: (y (m,), x (n,), weight (n, m)): y += x @ weight.
        choose: (logits (L,), u, temperature, greedy, scratch (L,)) -> index, as `zoo.maths.decoding.Decoding` draws it.
    """

    real: Any
    compile: Any
    tanh: Any
    add_product: Any
    choose: Any


def kernels(dtype: torch.dtype, device: torch.device) -> Kernels:
    """Return the compiled parts for tensors like these.

    Raises:
        ConfigError: numba is not installed, or the tensors are not on the CPU in single or double precision.
    """
    if device.type != "cpu" or dtype not in (torch.float32, torch.float64):
        raise ConfigError("compiled sampling is for the CPU, in single or double precision; leave compiled out")
    return _kernels(dtype == torch.float64)


@functools.lru_cache(maxsize=2)
def _kernels(double: bool) -> Kernels:
    try:
        import numba
    except ImportError as error:
        raise ConfigError(
            "compiled sampling needs numba; install generative-zoo[compiled], or leave compiled out"
        ) from error
    import numpy as np

    real = np.float64 if double else np.float32
    compile_: Any = functools.partial(numba.njit, fastmath={"nsz", "arcp", "contract", "reassoc"}, error_model="numpy")
    p, q = ([real(c) for c in coefficients] for coefficients in tanh_ratio())
    p0, p1, p2, p3, p4, p5, p6 = p
    q0, q1, q2, q3, q4, q5, q6, q7 = q
    limit = real(_LIMIT)
    c2, c3, c4, c5, c6, c7 = (real(1 / math.factorial(i)) for i in range(2, 8))

    if double:

        @compile_(inline="always")
        def tanh(x):
            return math.tanh(x)

        @compile_
        def exp(x):
            for j in range(len(x)):
                x[j] = math.exp(x[j])

    else:

        @compile_(inline="always")
        def tanh(x):
            x = min(max(x, -limit), limit)
            y = x * x
            above = ((((((p6 * y + p5) * y + p4) * y + p3) * y + p2) * y + p1) * y + p0) * x
            return above / (((((((q7 * y + q6) * y + q5) * y + q4) * y + q3) * y + q2) * y + q1) * y + q0)

        @compile_
        def exp(x):
            """Replace numbers <= 0 by their exponentials: 2^k, written as bits, times a series of |r| <= log(2) / 2."""
            power = np.empty(len(x), np.int32)
            for j in range(len(x)):
                t = max(x[j], real(-87)) * real(1 / math.log(2))
                whole = np.floor(t + real(0.5))
                r = (t - whole) * real(math.log(2))
                power[j] = np.int32(whole) * np.int32(1 << 23) + np.int32(127 << 23)
                x[j] = ((((((c7 * r + c6) * r + c5) * r + c4) * r + c3) * r + c2) * r + real(1)) * r + real(1)
            scale = power.view(np.float32)
            for j in range(len(x)):
                x[j] *= scale[j]

    @compile_
    def add_product(y, x, weight):
        """y += x @ weight, four rows of the weight at a time."""
        n, m = weight.shape
        for i in range(0, n - 3, 4):
            a, b, c, d = x[i], x[i + 1], x[i + 2], x[i + 3]
            for j in range(m):
                y[j] += a * weight[i, j] + b * weight[i + 1, j] + c * weight[i + 2, j] + d * weight[i + 3, j]
        for i in range(n - n % 4, n):
            for j in range(m):
                y[j] += x[i] * weight[i, j]

    @compile_
    def choose(logits, u, temperature, greedy, weights):
        best = 0
        for j in range(len(logits)):
            if logits[j] > logits[best]:
                best = j
        if greedy:
            return best
        top, total = logits[best], 0.0
        for j in range(len(logits)):
            weights[j] = (logits[j] - top) / real(temperature)
        exp(weights)
        for j in range(len(logits)):
            total += weights[j]
        below = 0.0
        for j in range(len(logits)):  # a distribution function that is rounded as torch rounds it
            below += real(weights[j] / real(total))
            weights[j] = below
        u = real(u * weights[len(logits) - 1])
        for j in range(len(logits)):
            if weights[j] > u:
                return j
        return best

    return Kernels(real, compile_, tanh, add_product, choose)
