"""WaveNet: raw audio, or any sequence, by dilated causal convolutions.

    h_t = embedding of x_{t-1};   z = gated layers(h);   logits_t = V relu(U relu(S z_t + s) + u) + v

References:
    A. van den Oord and others, WaveNet: A Generative Model for Raw Audio, 2016, arXiv:1609.03499.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.sequence import SequenceModel
from zoo.maths.decoding import Decoding
from zoo.nets.compiled_dilated import generate
from zoo.nets.dilated import DilatedStack, receptive_field

__all__ = ["WaveNet", "WaveNetState"]


class WaveNet(SequenceModel):
    """Dilated causal convolutions with gated residuals and skips, and a softmax over mu-law codes.

    A class adds a learnt bias in every gate.

    Args:
        shape: (T,) of a training example; any number of values can be drawn.
        levels: L, mu-law codes.
        width: C, channels of the stream and of every gate.
        skip: channels of the skip connections and of the head.
        stacks: how often the dilations 1, 2, 4, ... 2^(depth - 1) are gone through.
        depth: layers a stack.
        kernel: taps of the convolutions, at least 2.

    The other arguments are those of `zoo.families.sequence.SequenceModel`.

    Raises:
        ConfigError: numbers that do not fit together.
    """

    sized: ClassVar[Mapping[str, str]] = {"width": "width", "skip": "width", "stacks": "depth"}

    def __init__(
        self,
        shape: Sequence[int] = (1024,),
        levels: int = 256,
        width: int = 32,
        skip: int = 64,
        stacks: int = 2,
        depth: int = 8,
        kernel: int = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape, levels, **kwargs)
        if stacks < 1 or depth < 1 or width < 1 or skip < 1:
            raise ConfigError("width, skip, stacks and depth of a WaveNet must be at least 1")
        dilations = [2**i for i in range(depth)] * stacks
        self.receptive_field = receptive_field(dilations, kernel)
        self.embedding = nn.Embedding(levels + 1, width)  # the last one is the start
        self.layers = DilatedStack(width, dilations, kernel)
        self.condition = nn.Embedding(self.num_classes, len(dilations) * 2 * width) if self.num_classes else None
        self.skip = nn.Linear(len(dilations) * width, skip)
        self.hidden, self.out = nn.Linear(skip, skip), nn.Linear(skip, levels)
        nn.init.kaiming_normal_(self.hidden.weight)
        nn.init.zeros_(self.out.weight)
        if self.condition is not None:
            nn.init.normal_(self.condition.weight, std=0.1)

    def forward(self, values: Tensor, labels: Tensor | None = None) -> Tensor:
        tokens = F.pad(values[:, :-1], (1, 0), value=self.levels)
        return self.head(self.layers(self.embedding(tokens), self.gate_bias(labels)))

    def gate_bias(self, labels: Tensor | None) -> Tensor | None:
        """Return what classes add before the gates: int64 (B,) -> (B, N, 2 C)."""
        if self.condition is None or labels is None:
            return None
        return self.condition(labels).unflatten(1, (len(self.layers.dilations), -1))

    def head(self, z: Tensor) -> Tensor:
        """Return the logits of all layers' z: (..., N C) -> (..., L)."""
        return self.out(F.relu(self.hidden(F.relu(self.skip(z)))))

    def reach(self, t: int) -> int:
        return max(0, t - self.receptive_field)

    def decode_compiled(
        self, noise: Tensor, given: Tensor | None, known: Tensor | None, labels: Tensor | None, choose: Decoding
    ) -> Tensor:
        T, n = noise.shape
        if given is None or known is None:
            given, known = torch.zeros(n, T, dtype=torch.int64), torch.zeros(n, T, dtype=torch.bool)
        return self.generate(noise, given, known, labels, choose.temperature, choose.greedy)[0]

    def generate(
        self,
        noise: Tensor,
        given: Tensor,
        known: Tensor,
        labels: Tensor | None = None,
        temperature: float = 1.0,
        greedy: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Run the compiled loop; see `zoo.nets.compiled_dilated.generate`."""
        state = WaveNetState(self, noise.shape[1], labels)
        head = (state.skip, state.bias, self.hidden.weight, self.hidden.bias, self.out.weight, self.out.bias)
        return generate(state.layers, state.table, head, self.levels, noise, given, known, temperature, greedy)

    def start(self, n: int, labels: Tensor | None = None) -> WaveNetState:
        return WaveNetState(self, n, labels)


class WaveNetState:
    """A WaveNet, evaluated value by value from rings of past activations."""

    def __init__(self, model: WaveNet, n: int, labels: Tensor | None) -> None:
        self.layers = model.layers.start(n, model.gate_bias(labels))
        self.table = model.embedding.weight.detach()
        self.skip = 0.5 * model.skip.weight.detach().T  # the state's z is twice that of the layers
        self.bias, self.model = model.skip.bias.detach(), model
        self.waiting = torch.full((n, 1), model.levels, device=self.table.device)  # the start

    def logits(self) -> Tensor:
        for values in self.waiting.unbind(1):
            torch.index_select(self.table, 0, values, out=self.layers.x)
            self.layers.step()
        self.waiting = self.waiting[:, :0]
        h = torch.addmm(self.bias, self.layers.z, self.skip).relu_()
        return self.model.out(self.model.hidden(h).relu_())

    def put(self, values: Tensor) -> None:
        self.waiting = torch.cat([self.waiting, values.reshape(len(values), -1)], 1)

    def select(self, rows: Tensor) -> None:
        self.waiting = self.waiting[rows]
        self.layers.select(rows)
