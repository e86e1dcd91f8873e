"""Gated residual layers of dilated causal convolutions, and their evaluation one sample at a time.

Layer l, with dilation d and kernel k, adds to the stream and yields z for the skip connections:

    a, b = conv_d(x)_t = W_0 x_{t-(k-1)d} + ... + W_{k-1} x_t + bias,   z = tanh(a) sigmoid(b),   x <- x + R z + r

All weights of a kind lie in one tensor, a layer a slice, so that one product serves the past taps of all layers: what
they need is known before the new sample is.

References:
    A. van den Oord and others, WaveNet: A Generative Model for Raw Audio, 2016, arXiv:1609.03499.
    T. Le Paine and others, Fast Wavenet Generation Algorithm, 2016, arXiv:1611.09482 (ring buffers).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError

__all__ = ["DilatedStack", "DilatedState", "receptive_field"]


def receptive_field(dilations: Sequence[int], kernel: int) -> int:
    """Return how many samples an output depends on: (k - 1) (d_1 + ... + d_N) + 1."""
    return (kernel - 1) * sum(dilations) + 1


class DilatedStack(nn.Module):
    """Gated residual layers: (B, T, C) -> the z of all layers side by side, (B, T, N C).

    Args:
        width: C, channels of the stream and of every z.
        dilations: of the N layers.
        kernel: k, at least 2.

    Raises:
        ConfigError: no layer, a dilation below 1, or a kernel below 2.
    """

    def __init__(self, width: int, dilations: Sequence[int], kernel: int = 2) -> None:
        super().__init__()
        if not dilations or min(dilations) < 1 or kernel < 2:
            raise ConfigError(f"dilated layers need dilations >= 1 and a kernel >= 2, got {dilations} and {kernel}")
        N, C = len(dilations), width
        self.dilations, self.kernel = tuple(dilations), kernel
        self.taps = nn.Parameter(torch.empty(N, kernel * C, 2 * C))  # the oldest first, the present one last
        self.bias = nn.Parameter(torch.zeros(N, 2 * C))
        self.residual = nn.Parameter(torch.empty(N - 1, C, C))  # the last layer's stream goes nowhere
        self.residual_bias = nn.Parameter(torch.zeros(N - 1, C))
        nn.init.normal_(self.taps, std=1 / math.sqrt(kernel * C))
        nn.init.normal_(self.residual, std=1 / math.sqrt(C))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Evaluate all samples. ``condition`` (B, N, 2 C) is added before the gates."""
        found = []
        for i, d in enumerate(self.dilations):
            reach = (self.kernel - 1) * d
            padded = F.pad(x, (0, 0, reach, 0))  # silence before the beginning
            T = x.shape[1]
            taps = torch.cat([padded[:, j * d : j * d + T] for j in range(self.kernel - 1)] + [x], 2)  # (B, T, k C)
            y = torch.addmm(self.bias[i], taps.flatten(0, 1), self.taps[i]).view(*x.shape[:2], -1)  # (B, T, 2 C)
            if condition is not None:
                y = y + condition[:, i, None]
            a, b = y.chunk(2, 2)
            z = a.tanh() * b.sigmoid()
            found.append(z)
            if i < len(self.residual):
                step = torch.addmm(self.residual_bias[i], z.flatten(0, 1), self.residual[i])
                x = x + step.view(x.shape)
        return torch.cat(found, 2)

    def start(self, n: int, condition: Tensor | None = None) -> DilatedState:
        """Return the state of evaluation of ``n`` streams, before their first sample."""
        return DilatedState(self, n, condition)


class DilatedState:
    """Dilated layers, evaluated sample by sample; the inputs of every layer are kept in a ring as long as its reach.

    sigmoid(b) = (1 + tanh(b / 2)) / 2 lets one tanh serve both gates; the halves are moved into the weights, so that a
    layer is four operations: product, tanh, gate, product into the stream.

    Attributes:
        x: where to write the next input of the first layer, (n, C).
        z: the z of all layers side by side, (n, N C).
    """

    def __init__(self, stack: DilatedStack, n: int, condition: Tensor | None) -> None:
        N, C, k = len(stack.dilations), stack.residual_bias.shape[1], stack.kernel
        like = stack.taps.detach()
        scale = torch.cat([like.new_ones(C), like.new_full((C,), 0.5)])  # b / 2
        taps = like * scale
        self.k, self.n, self.N, self.C = k, n, N, C
        self.past = taps[:, : (k - 1) * C].contiguous()  # (N, (k-1) C, 2 C)
        self.present = list(taps[:, (k - 1) * C :].contiguous().unbind())
        self.residual = [0.5 * r for r in stack.residual.detach()]  # z here is twice that of the layer
        # The stream is kept without the biases r of the layers below; what these add to a layer is a constant.
        shift = F.pad(stack.residual_bias.detach().cumsum(0), (0, 0, 1, 0))  # (N, C)
        constant = stack.bias.detach() * scale + torch.einsum("nc,nkcd->nd", shift, taps.unflatten(1, (k, C)))
        self.bias = constant[:, None].expand(N, n, 2 * C).contiguous()
        if condition is not None:
            self.bias += (condition.detach() * scale).transpose(0, 1)
        self.reach = torch.tensor([(k - 1) * d for d in stack.dilations], device=like.device)
        self.offset = self.reach.cumsum(0) - self.reach
        self.lag = torch.tensor([[j * d for j in range(k - 1)] for d in stack.dilations], device=like.device)  # of taps
        self.ring = -shift.repeat_interleave(self.reach, 0)[:, None].expand(-1, n, -1).contiguous()  # silence
        self.inputs = like.new_empty(N, n, C)
        self.sums = like.new_empty(N, n, 2 * C)
        self.t = 0
        self._views()

    def _views(self) -> None:
        N, n, C = self.N, self.n, self.C
        self.stream = list(self.inputs.unbind())
        self.x = self.stream[0]
        self.gates = list(self.sums.unbind())
        self.a, self.b = ([g[:, part] for g in self.gates] for part in (slice(C), slice(C, None)))
        self.z = self.inputs.new_empty(n, N * C)
        self.parts = [self.z[:, i * C : (i + 1) * C] for i in range(N)]

    def step(self) -> None:
        """Evaluate one sample, whose input is in ``x``; its z are then in ``z``, twice as large as the layers'."""
        N, n, C, k = self.N, self.n, self.C, self.k
        now = self.offset + self.t % self.reach  # where the oldest input of each layer lies, and the newest will
        if k == 2:
            taken = self.ring.index_select(0, now)  # (N, n, C)
        else:
            index = self.offset[:, None] + (self.t + self.lag) % self.reach[:, None]  # (N, k-1)
            taken = self.ring[index].transpose(1, 2).reshape(N, n, (k - 1) * C)
        torch.baddbmm(self.bias, taken, self.past, out=self.sums)
        last = N - 1
        for i in range(N):
            gate = self.gates[i]
            torch.addmm(gate, self.stream[i], self.present[i], out=gate)
            torch.tanh(gate, out=gate)
            torch.addcmul(self.a[i], self.a[i], self.b[i], out=self.parts[i])
            if i < last:
                torch.addmm(self.stream[i], self.parts[i], self.residual[i], out=self.stream[i + 1])
        self.ring.index_copy_(0, now, self.inputs)
        self.t += 1

    def select(self, rows: Tensor) -> None:
        """Go on with these rows."""
        self.n = len(rows)
        self.ring, self.bias = self.ring[:, rows], self.bias[:, rows]
        self.inputs, self.sums = self.inputs[:, rows], self.sums[:, rows]
        self._views()
