"""The sampling loop of dilated gated layers as one compiled function: audio faster than it plays, on one core.

The same arithmetic as `zoo.nets.dilated.DilatedState` and `zoo.maths.decoding.Decoding`, without an operator call
between any two numbers; `zoo.nets.compiled` says how it is compiled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from zoo.nets.compiled import Kernels, kernels
from zoo.nets.dilated import DilatedState

__all__ = ["generate"]


def generate(
    state: DilatedState,
    table: Tensor,
    head: Sequence[Tensor],
    first: int,
    noise: Tensor,
    given: Tensor,
    known: Tensor,
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
        given: int64 (n, T), the values that are known.
        known: bool (n, T), which ones are taken from ``given``.
        temperature: of every softmax.
        greedy: take the most probable value everywhere.

    Returns:
        values int64 (n, T), and the logits of the last one, (n, L).

    Raises:
        ConfigError: numba is not installed, or the model is not on the CPU in single or double precision.
    """
    run = _compiled(kernels(table.dtype, table.device))
    skip, skip_bias, hidden, hidden_bias, out, out_bias = (t.detach().contiguous().numpy() for t in head)
    weights = (
        table.detach().contiguous().numpy(), state.past.numpy(), torch.stack(state.present).numpy(),
        torch.stack(state.residual).numpy() if state.residual else torch.zeros(0, state.C, state.C).numpy(),
        skip, skip_bias, hidden.T.copy(), hidden_bias, out.T.copy(), out_bias,
    )  # fmt: skip
    n = noise.shape[1]
    k = given.contiguous().clone().numpy()
    last = torch.empty(n, out.shape[0], dtype=table.dtype)
    flags = known.contiguous().numpy()
    rings = (state.reach.numpy(), state.offset.numpy(), state.lag.numpy())
    for i in range(n):
        ring, bias = state.ring[:, i].contiguous().clone().numpy(), state.bias[:, i].contiguous().numpy()
        u = noise[:, i].contiguous().numpy()
        run(weights, bias, ring, rings, first, u, k[i], flags[i], temperature, greedy, last[i].numpy())
    return torch.from_numpy(k), last


@functools.lru_cache(maxsize=2)
def _compiled(parts: Kernels) -> Callable[..., None]:
    import numpy as np

    real, tanh, add_product, choose = parts.real, parts.tanh, parts.add_product, parts.choose

    @parts.compile
    def run(weights, bias, ring, rings, first, noise, k, known, temperature, greedy, logits):
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
            if known[t] and t < len(k) - 1:
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
            if not known[t]:
                k[t] = choose(logits, noise[t], temperature, greedy, cdf)
            value = k[t]

    return run
