"""Decoder-only Transformer over the characters of a text, or the pixels of an image.

    x_0 = start, then the embeddings of the values; logits_t = W LN(block_N(... block_1(x_{0..t})))

The value at t is predicted from a start vector and the values before t. Under a prefix mask the first P values are read
in both directions once all of them are known; they are themselves predicted causally, so that log p(x) is that of the
whole sequence. Blocks that keep a state of fixed size in place of all keys (`zoo.nets.linear_attention`,
`zoo.nets.selective_scan`) draw each value at the same cost and have no end.

References:
    A. Vaswani and others, Attention Is All You Need, 2017, arXiv:1706.03762.
    A. Katharopoulos and others, Transformers are RNNs, 2020, arXiv:2006.16236.
    A. Gu, T. Dao, Mamba: Linear-Time Sequence Modeling with Selective State Spaces, 2023, arXiv:2312.00752.
    M. Chen and others, Generative Pretraining from Pixels, 2020 (image-GPT).
    J. Su and others, RoFormer: Enhanced Transformer with Rotary Position Embedding, 2021, arXiv:2104.09864.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.sequence import SequenceModel
from zoo.nets.attention import AttentionBlock, attention_mask, rotary_tables
from zoo.nets.linear_attention import LinearAttentionBlock
from zoo.nets.selective_scan import SelectiveBlock

__all__ = ["Transformer", "TransformerState"]

_BLOCKS = {"softmax": AttentionBlock, "linear": LinearAttentionBlock, "selective": SelectiveBlock}


class Transformer(SequenceModel):
    """Pre-norm Transformer with a softmax over the next value.

    Texts longer than T values are drawn in windows: when T values stand, the last half of them is read anew from
    position 0. A sliding window with rotary positions has no such end. A class adds a learnt vector at every position.

    Args:
        shape: (T,) of a sequence, (C, H, W) of an image, read pixel by pixel, or (C, T, H, W) of a video, read frame
            by frame.
        levels: L, values of a pixel or characters.
        width: d, of the stream.
        depth: blocks.
        heads: attention heads.
        hidden: width inside the two-layer networks, 4 d if left out.
        mask: ``causal``; ``sliding``: a position sees itself and window - 1 before it; ``prefix``: see above.
        window: of the sliding mask.
        prefix: P, of the prefix mask.
        positions: ``learned`` or ``rotary``.
        mixer: how a position reads those before it: ``softmax`` attention, or, under the causal mask, ``linear``
            attention or ``selective``, a state space, which has no heads and needs no positions.
        tied: whether the embedding serves as the last layer's weights, too.
        dropout: share of what a block adds to the stream that is dropped in training.
        weight_decay: decoupled weight decay.

    The other arguments are those of `zoo.families.sequence.SequenceModel`.

    Raises:
        ConfigError: numbers that do not fit together.
    """

    dimensions: ClassVar[tuple[int, ...]] = (1, 3, 4)
    sized: ClassVar[Mapping[str, str]] = {"width": "width", "heads": "width", "hidden": "width", "depth": "depth"}

    def __init__(
        self,
        shape: Sequence[int] = (256,),
        levels: int = 256,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        hidden: int | None = None,
        mask: str = "causal",
        window: int | None = None,
        prefix: int | None = None,
        positions: str = "rotary",
        mixer: str = "softmax",
        tied: bool = False,
        dropout: float = 0.0,
        weight_decay: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape, levels, **kwargs)
        _check(mask, window, prefix, positions, self.length, width, heads, dropout)
        if mixer not in _BLOCKS or (mixer != "softmax" and mask != "causal"):
            raise ConfigError(
                f"mixer must be one of {', '.join(_BLOCKS)}, and all but softmax are causal; got {mixer!r} with the "
                f"mask {mask!r}"
            )
        self.endless = mixer != "softmax" and positions == "rotary"
        self.mask, self.window, self.prefix, self.dropout = mask, window, prefix, dropout
        self.weight_decay, self.features = weight_decay, width // heads
        self.embedding = nn.Embedding(levels + 1, width)  # the last one is the start
        self.position = nn.Parameter(0.02 * torch.randn(self.length, width)) if positions == "learned" else None
        self.condition = nn.Embedding(self.num_classes, width) if self.num_classes else None
        self.blocks = nn.ModuleList(_BLOCKS[mixer](width, heads, hidden or 4 * width, depth) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.out = None if tied else nn.Linear(width, levels, bias=False)
        for module in (self.embedding, self.condition, self.out):
            if module is not None:
                nn.init.normal_(module.weight, std=0.02)

    # -- all positions at once ----------------------------------------------------------------------------------------

    def forward(self, values: Tensor, labels: Tensor | None = None) -> Tensor:
        tokens = self.tokens(values[:, :-1])
        T, P = tokens.shape[1], self.prefix
        if P is None or T <= P:
            return self.head(self._stream(tokens, labels, attention_mask(T, window=self.window)))
        first = self._stream(tokens[:, :P], labels, None)
        rest = self._stream(tokens, labels, attention_mask(T, prefix=P + 1))[:, P:]  # the start and the P values
        return self.head(torch.cat([first, rest], 1))

    def tokens(self, values: Tensor) -> Tensor:
        """Put the start before values: int64 (B, m) -> (B, m + 1)."""
        return F.pad(values, (1, 0), value=self.levels)

    def _stream(self, tokens: Tensor, labels: Tensor | None, mask: Tensor | None) -> Tensor:
        x, tables = self.embed(tokens, 0, labels)
        mask = None if mask is None else mask.to(x.device)
        drop = self._drop if self.training and self.dropout else None
        for block in self.blocks:
            x = block(x, mask, tables, drop)
        return x

    def _drop(self, y: Tensor) -> Tensor:
        return y * (self.rand(*y.shape) >= self.dropout) / (1 - self.dropout)

    def embed(self, tokens: Tensor, first: int, labels: Tensor | None) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Return the stream (B, m, d) of tokens (B, m) at positions from ``first`` on, and rotary tables if used."""
        m = tokens.shape[1]
        x = self.embedding(tokens)
        if self.condition is not None and labels is not None:
            x = x + self.condition(labels)[:, None]
        if self.position is not None:
            return x + self.position[first : first + m], None
        return x, rotary_tables(first, m, self.features, x)

    def token(self, values: Tensor, i: int, labels: Tensor | None) -> Tensor:
        """Return the stream (B, d) of the tokens (B,) at position i."""
        x = self.embedding(values)
        if self.condition is not None and labels is not None:
            x = x + self.condition(labels)
        return x if self.position is None else x + self.position[i]

    def head(self, x: Tensor) -> Tensor:
        """Return the logits of the stream: (..., d) -> (..., L)."""
        weight = self.embedding.weight[: self.levels] if self.out is None else self.out.weight
        return F.linear(self.norm(x), weight)

    # -- one position at a time ---------------------------------------------------------------------------------------

    def reach(self, t: int) -> int:
        if t < self.length or self.endless or (self.mask == "sliding" and self.position is None):
            return 0
        half = max(1, self.length // 2)
        return ((t - self.length) // half + 1) * half

    def start(self, n: int, labels: Tensor | None = None) -> TransformerState:
        return TransformerState(self, n, labels)


class TransformerState:
    """A Transformer, evaluated value by value, with the keys and values of every block kept.

    What was put is evaluated when logits are asked for: a whole beginning in one pass, else one position at a time.
    """

    def __init__(self, model: Transformer, n: int, labels: Tensor | None) -> None:
        self.model, self.labels = model, labels
        self.k = torch.empty(n, 0, dtype=torch.int64, device=model.device)  # all values of the current window
        self.t = self.origin = 0  # values in all, and the first one of the window
        self.both_ways = False
        self.maps = [block.maps(n) for block in model.blocks]
        self.tables = None
        if model.position is None:
            self.tables = rotary_tables(0, model.length + 1, model.features, model.norm.weight)
        self._clear()

    def _clear(self) -> None:
        """Forget all keys and values."""
        model, like = self.model, self.model.norm.weight
        size = model.window or model.length
        self.caches = [block.cache(len(self.k), size, like) for block in model.blocks]
        self.done = 0  # tokens evaluated, the start among them

    def logits(self) -> Tensor:
        model = self.model
        origin = model.reach(self.t)
        if origin != self.origin:
            self.k, self.origin, self.both_ways = self.k[:, origin - self.origin :], origin, False
            self._clear()
        count = self.k.shape[1]
        if model.prefix is not None and count >= model.prefix and not self.both_ways:
            self.both_ways = True
            self._clear()
        if self.done == 0:
            self._begin()
        for i in range(self.done, count + 1):
            self._step(i)
        return self.z

    def _begin(self) -> None:
        """Evaluate all tokens so far at once."""
        model = self.model
        tokens = model.tokens(self.k)
        T = tokens.shape[1]
        prefix = model.prefix + 1 if model.prefix is not None and self.both_ways else None
        mask = attention_mask(T, window=model.window, prefix=prefix)
        mask = None if mask is None else mask.to(tokens.device)
        x, tables = model.embed(tokens, 0, self.labels)
        for block, cache in zip(model.blocks, self.caches, strict=True):
            x = block(x, mask, tables, keep=cache.fill)
        self.z, self.done = model.head(x[:, -1]), T

    def _step(self, i: int) -> None:
        """Evaluate the token at position i, that of the value before it."""
        model, tables = self.model, None
        x = model.token(self.k[:, i - 1], i, self.labels)
        if self.tables is not None and i < len(self.tables[0]):
            tables = self.tables[0][i], self.tables[1][i]
        elif self.tables is not None:
            tables = rotary_tables(i, 1, model.features, x)
        for block, maps, cache in zip(model.blocks, self.maps, self.caches, strict=True):
            x = block.step(x, maps, cache, tables)
        self.z, self.done = model.head(x), i + 1

    def put(self, values: Tensor) -> None:
        values = values.reshape(len(values), -1)
        self.k = torch.cat([self.k, values], 1)
        self.t += values.shape[1]

    def select(self, rows: Tensor) -> None:
        if (len(rows) == 1) != (len(self.k) == 1):
            self.maps = [block.maps(len(rows)) for block in self.model.blocks]
        self.k = self.k[rows]
        self.labels = None if self.labels is None else self.labels[rows]
        for cache in self.caches:
            cache.select(rows)


def _check(
    mask: str, window: int | None, prefix: int | None, positions: str, T: int, width: int, heads: int, dropout: float
) -> None:
    if mask not in ("causal", "sliding", "prefix"):
        raise ConfigError(f"mask must be causal, sliding or prefix, got {mask!r}")
    for name, value, kind in (("window", window, "sliding"), ("prefix", prefix, "prefix")):
        if (value is not None) != (mask == kind):
            raise ConfigError(f"{name} belongs to the {kind} mask: mask is {mask!r} and {name} is {value!r}")
        if value is not None and not 1 <= value <= T:
            raise ConfigError(f"{name} must be between 1 and the {T} values of an example, got {value}")
    if heads < 1 or width % heads:
        raise ConfigError(f"a width of {width} does not divide among {heads} heads")
    if positions not in ("learned", "rotary"):
        raise ConfigError(f"positions must be learned or rotary, got {positions!r}")
    if positions == "rotary" and width // heads % 2:
        raise ConfigError(f"rotary positions turn pairs of features, but a head has {width // heads}")
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout must lie in [0, 1), got {dropout}")
