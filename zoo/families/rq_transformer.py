"""RQ-Transformer: of D codes at each position, one Transformer goes over positions, another over the codes of each.

    u_t = p_t + sum_d e(c_{t-1, d}),                 h_t = spatial(u_1, ..., u_t)
    v_{t, 1} = q_1 + h_t,   v_{t, d} = q_d + sum_{d' < d} e(c_{t, d'}),   logits_{t, d} = W LN(depth(v_{t, 1..d}))

e is a table, p and q learnt positions, u_1 the class or a start. A position is seen from later ones as the sum of its
codes' vectors, which is what a residual quantiser makes of them. Over N positions the attention costs N^2 + N D^2
products, where a Transformer over all codes in a row has N^2 D^2.

References:
    D. Lee, C. Kim, S. Kim, M. Cho, W.-S. Han, Autoregressive Image Generation using Residual Quantization, 2022,
    arXiv:2203.01941, section 3.2. In the authors' code e may be the codebook's vectors and a linear map; soft labels
    and codes drawn for training, their section 3.3, are left out here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.sequence import SequenceModel
from zoo.nets.attention import AttentionBlock, KeyValueCache

__all__ = ["RQTransformer", "RQTransformerState"]


class RQTransformer(SequenceModel):
    """Exact likelihood of codes (D, h, w), in raster order, those of a position one after the other.

    Args:
        shape: (D, h, w).
        levels: K, values of a code.
        width: d, of both streams.
        spatial_blocks: of the Transformer over positions.
        depth_blocks: of that over the codes of a position.
        heads: attention heads.
        hidden: width inside the two-layer networks, 4 d if left out.
        weight_decay: decoupled weight decay.

    The other arguments are those of `zoo.families.sequence.SequenceModel`.

    Raises:
        ConfigError: numbers that do not fit together.
    """

    dimensions = (3,)
    sized: ClassVar[Mapping[str, str]] = {
        "width": "width", "heads": "width", "hidden": "width", "spatial_blocks": "depth", "depth_blocks": "depth"
    }  # fmt: skip

    def __init__(
        self,
        shape: Sequence[int] = (2, 7, 7),
        levels: int = 4,
        width: int = 96,
        spatial_blocks: int = 3,
        depth_blocks: int = 1,
        heads: int = 4,
        hidden: int | None = None,
        weight_decay: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape, levels, **kwargs)
        if heads < 1 or width % heads or min(spatial_blocks, depth_blocks) < 1:
            raise ConfigError(
                f"a width must divide among the heads, and both Transformers need a block; got width {width}, {heads} "
                f"heads, {spatial_blocks} and {depth_blocks} blocks"
            )
        self.weight_decay, self.features = weight_decay, width // heads
        self.stack, self.positions = self.shape[0], self.length // self.shape[0]  # D and N
        self.embedding = nn.Embedding(levels, width)
        self.condition = nn.Embedding(max(self.num_classes, 1), width)
        self.position = nn.Parameter(0.02 * torch.randn(self.positions, width))
        self.depth_position = nn.Parameter(0.02 * torch.randn(self.stack, width))
        each = {"width": width, "heads": heads, "hidden": hidden or 4 * width}
        self.spatial = nn.ModuleList(AttentionBlock(**each, depth=spatial_blocks) for _ in range(spatial_blocks))
        self.depth = nn.ModuleList(AttentionBlock(**each, depth=depth_blocks) for _ in range(depth_blocks))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, levels)
        for layer in (self.embedding, self.condition, self.out):
            nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(self.out.bias)

    # -- all codes at once --------------------------------------------------------------------------------------------

    def forward(self, values: Tensor, labels: Tensor | None = None) -> Tensor:
        e = self.embedding(values.unflatten(1, (self.positions, self.stack)))  # (B, N, D, d)
        h = self.spatial_context(e.sum(2), labels)[:, :, None]  # (B, N, 1, d)
        v = torch.cat([h, e.cumsum(2)[:, :, :-1]], 2) + self.depth_position  # (B, N, D, d)
        v = v.flatten(0, 1)  # (B N, D, d)
        for block in self.depth:
            v = block(v)
        return self.head(v).unflatten(0, (-1, self.positions)).flatten(1, 2)  # (B, N D, K)

    def spatial_context(self, e: Tensor, labels: Tensor | None) -> Tensor:
        """Return h of every position given those before it: sums of the codes' vectors (B, N, d) -> (B, N, d)."""
        u = torch.cat([self.begin(len(e), labels)[:, None], e[:, :-1]], 1) + self.position
        for block in self.spatial:
            u = block(u)
        return u

    def begin(self, n: int, labels: Tensor | None) -> Tensor:
        """Return what stands before the first position: the class, or the start, (n, d)."""
        return self.condition.weight[:1].expand(n, -1) if labels is None else self.condition(labels)

    def head(self, v: Tensor) -> Tensor:
        """Return logits: (..., d) -> (..., K)."""
        return self.out(self.norm(v))

    def predict(self, values: Tensor, labels: Tensor | None = None) -> Tensor:
        t = values.shape[1]
        return self(F.pad(values, (0, self.length - t)), labels)[:, t]  # what stands from t on is not looked at

    def start(self, n: int, labels: Tensor | None = None) -> RQTransformerState:
        return RQTransformerState(self, n, labels)


class RQTransformerState:
    """An RQ-Transformer, evaluated code by code: keys and values of all positions, and of the codes of this one."""

    def __init__(self, model: RQTransformer, n: int, labels: Tensor | None) -> None:
        self.model, self.labels = model, labels
        self.k = torch.empty(n, 0, dtype=torch.int64, device=model.device)
        self.positions, self.seen = 0, 0  # evaluated: positions, and codes of the last one
        self._maps(n)
        self.spatial = self._caches(model.spatial, model.positions)
        self.depth = self._caches(model.depth, model.stack)

    def _maps(self, n: int) -> None:
        self.spatial_maps = [block.maps(n) for block in self.model.spatial]
        self.depth_maps = [block.maps(n) for block in self.model.depth]

    def _caches(self, blocks: nn.ModuleList, size: int) -> list[KeyValueCache]:
        model, like = self.model, self.model.norm.weight
        return [KeyValueCache(len(self.k), block.heads, size, model.features, like) for block in blocks]

    def logits(self) -> Tensor:
        """Return the logits of the next code, (n, K)."""
        model, D = self.model, self.model.stack
        here, before = divmod(self.k.shape[1], D)
        for t in range(self.positions, here + 1):
            last = self.k[:, (t - 1) * D : t * D]
            u = model.embedding(last).sum(1) if t else model.begin(len(self.k), self.labels)
            u = u + model.position[t]
            for block, maps, cache in zip(model.spatial, self.spatial_maps, self.spatial, strict=True):
                u = block.step(u, maps, cache, None)
            self.h, self.seen, self.depth = u, 0, self._caches(model.depth, D)
        self.positions = here + 1
        for d in range(self.seen, before + 1):
            v = model.embedding(self.k[:, here * D : here * D + d]).sum(1) if d else self.h
            v = v + model.depth_position[d]
            for block, maps, cache in zip(model.depth, self.depth_maps, self.depth, strict=True):
                v = block.step(v, maps, cache, None)
            self.z = model.head(v)
        self.seen = before + 1
        return self.z

    def put(self, values: Tensor) -> None:
        self.k = torch.cat([self.k, values.reshape(len(values), -1)], 1)

    def select(self, rows: Tensor) -> None:
        if (len(rows) == 1) != (len(self.k) == 1):
            self._maps(len(rows))
        self.k = self.k[rows]
        self.labels = None if self.labels is None else self.labels[rows]
        self.h = self.h[rows]
        for cache in (*self.spatial, *self.depth):
            cache.select(rows)
