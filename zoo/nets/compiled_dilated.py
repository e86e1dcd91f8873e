"""The sampling loop of dilated gated layers as one compiled function: audio faster than it plays, on one core.

The same arithmetic as `zoo.nets.dilated.DilatedState` and `zoo.maths.decoding.Decoding`, without an operator call
between any two numbers; numba compiles it at the first call. In single precision tanh is a ratio of polynomials, from
Lambert's continued fraction x / (1 + x^2 / (3 + x^2 / (5 + ...))) cut after 14 terms, which vectorises and is within
4e-7 of it.

References:
    J. H. Lambert, Memoire sur quelques proprietes remarquables des quantites transcendentes, 1768.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ConfigError
from zoo.nets.dilated import DilatedState

__all__ = ["generate", "tanh_ratio"]

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


def generate(
    state: DilatedState,
    table: Tensor,
    head: Sequence[Tensor],
    first: int,
    noise: Tensor,
    given: Tensor,
    fixed: Sequence[bool],
    temperature: float,
    greedy: bool,
) -> tuple[Tensor, Tensor]:
    """Draw whole sequences.

    Args:
        state: before its first sample, for n sequences; it is not changed.
        table: embeddings of the values and of the start, (L + 1, C).
        head: the skip map (N C, S) for the state's z and its bias; then a weight (S, S) and bias, and a weight (L, S)
            and bias, as linear layers have them, each after a ReLU.
        first: the start's row in the table.
        noise: uniform numbers in [0, 1), (T, n).
        given: values int64 (n, T), used where ``fixed``.
        fixed: T flags.
        temperature: of every softmax.
        greedy: take the most probable value everywhere.

    Returns:
        values int64 (n, T), and the logits of the last one, (n, L).

    Raises:
        ConfigError: numba is not installed, or the model is not on the CPU in single or double precision.
    """
    if table.device.type != "cpu" or table.dtype not in (torch.float32, torch.float64):
        raise ConfigError("compiled sampling is for the CPU, in single or double precision; leave compiled out")
    run = _compiled(table.dtype == torch.float64)
    skip, skip_bias, hidden, hidden_bias, out, out_bias = (t.detach().contiguous().numpy() for t in head)
    weights = (
        table.detach().contiguous().numpy(), state.past.numpy(), torch.stack(state.present).numpy(),
        torch.stack(state.residual).numpy() if state.residual else torch.zeros(0, state.C, state.C).numpy(),
        skip, skip_bias, hidden.T.copy(), hidden_bias, out.T.copy(), out_bias,
    )  # fmt: skip
    n = noise.shape[1]
    k = given.contiguous().clone().numpy()
    last = torch.empty(n, out.shape[0], dtype=table.dtype)
    flags = torch.tensor(list(fixed), dtype=torch.bool).numpy()
    rings = (state.reach.numpy(), state.offset.numpy(), state.lag.numpy())
    for i in range(n):
        ring, bias = state.ring[:, i].contiguous().clone().numpy(), state.bias[:, i].contiguous().numpy()
        u = noise[:, i].contiguous().numpy()
        run(weights, bias, ring, rings, first, u, k[i], flags, temperature, greedy, last[i].numpy())
    return torch.from_numpy(k), last


@functools.lru_cache(maxsize=2)
def _compiled(double: bool) -> Callable[..., None]:
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

    if double:

        @compile_(inline="always")
        def tanh(x):
            return math.tanh(x)

    else:

        @compile_(inline="always")
        def tanh(x):
            x = min(max(x, -limit), limit)
            y = x * x
            above = ((((((p6 * y + p5) * y + p4) * y + p3) * y + p2) * y + p1) * y + p0) * x
            return above / (((((((q7 * y + q6) * y + q5) * y + q4) * y + q3) * y + q2) * y + q1) * y + q0)

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
            weights[j] = math.exp((logits[j] - top) / real(temperature))
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

    @compile_
    def run(weights, bias, ring, rings, first, noise, k, fixed, temperature, greedy, logits):
        table, past, present, residual, skip, skip_bias, hidden, hidden_bias, out, out_bias = weights
        reach, offset, lag = rings
        N, C, S = len(reach), table.shape[1], len(skip_bias)
        x, y, h, g = np.empty(C, real), np.empty(2 * C, real), np.empty(S, real), np.empty(S, real)
        z, cdf = np.empty(N * C, real), np.empty(len(logits), real)
        value = first
        for t in range(len(k)):
            x[:] = table[value]
            for i in range(N):
                y[:] = bias[i]
                for j in range(lag.shape[1]):
                    row = ring[offset[i] + (t + lag[i, j]) % reach[i]]
                    add_product(y, row, past[i, j * C : (j + 1) * C])
                ring[offset[i] + t % reach[i]] = x
                add_product(y, x, present[i])
                for j in range(2 * C):
                    y[j] = tanh(y[j])
                part = z[i * C : (i + 1) * C]
                for j in range(C):
                    part[j] = y[j] + y[j] * y[C + j]
                if i < N - 1:
                    add_product(x, part, residual[i])
            if fixed[t] and t < len(k) - 1:
                value = k[t]
                continue
            h[:] = skip_bias
            add_product(h, z, skip)
            for j in range(S):
                h[j] = max(h[j], real(0))
            g[:] = hidden_bias
            add_product(g, h, hidden)
            for j in range(S):
                g[j] = max(g[j], real(0))
            logits[:] = out_bias
            add_product(logits, g, out)
            if not fixed[t]:
                k[t] = choose(logits, noise[t], temperature, greedy, cdf)
            value = k[t]

    return run
