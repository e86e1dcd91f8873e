"""One Transformer over a text and an image: the text is causal, the patches of the image see one another.

    start, a caption, BOI, patches, EOI        or        start, BOI, patches, EOI, a caption

A token sees what stands at its own position or before it. The letters and marks have a position each; all patches of an
image share one, so that they see each other, the text before, and nothing of the text behind. Rotary positions tell the
order of the sequence, and sinusoids of row and column the places of the patches. Patches enter by a linear map, or by
half a small U-Net that is told the time of the noise, and leave by the other half; blocks and norms are shared.

References:
    C. Zhou and others, Transfusion: Predict the Next Token and Diffuse Images with One Multi-Modal Model, 2024,
    arXiv:2408.11039, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.nets.attention import AttentionBlock, KeyValueCache, Tables, rotary_tables
from zoo.nets.embeddings import PERIODS, Embedding, grid_positions
from zoo.nets.unet import _Block, _norm
from zoo.spec import Recorded

__all__ = ["ImageIn", "ImageOut", "Memory", "TransfusionNet"]

_NOWHERE = 1 << 20
"""Position of what stands in no sequence: the rest of a text that is shorter than others."""


class Memory(NamedTuple):
    """Keys and values of what stands before an image, of each block (2, B, H, T + 2, D); and the positions of these,
    (B, T + 2), and of the image, (B,)."""

    past: list[Tensor]
    before: Tensor
    image: Tensor


class ImageIn(nn.Module):
    """Noisy image to tokens, (B, C, H, W) and the vector of the time (B, d) -> (B, N, d), with what the way out needs.

    Args:
        channels: C.
        patch: side of a patch, even where there are convolutions.
        width: d.
        convolutions: channels of half a U-Net, at twice the resolution of the patches; 0 for a linear map.
    """

    def __init__(self, channels: int, patch: int, width: int, convolutions: int) -> None:
        super().__init__()
        self.fold = patch // 2 if convolutions else patch
        folded = channels * self.fold**2
        self.stem: nn.Module = nn.Linear(folded, width)
        if convolutions:
            self.stem = nn.Conv2d(folded, convolutions, 3, padding=1)
            self.block, self.shrink = _Block(convolutions, width), nn.Conv2d(convolutions, width, 2, 2)

    def forward(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor | None]:
        h, skip = F.pixel_unshuffle(x, self.fold), None
        if isinstance(self.stem, nn.Linear):
            tokens = self.stem(h.flatten(2).transpose(1, 2))
        else:
            skip = self.block(self.stem(h), e)
            tokens = self.shrink(skip).flatten(2).transpose(1, 2)
        return tokens + e[:, None], skip


class ImageOut(nn.Module):
    """Tokens to image, (B, N, d) -> (B, C, H, W): the other half of `ImageIn`; it starts as zero."""

    def __init__(self, channels: int, patch: int, width: int, convolutions: int, grid: Sequence[int]) -> None:
        super().__init__()
        self.fold, self.grid = patch // 2 if convolutions else patch, tuple(grid)
        folded = channels * self.fold**2
        if convolutions:
            self.grow, self.merge = nn.Linear(width, convolutions), nn.Conv2d(2 * convolutions, convolutions, 1)
            self.block, self.norm = _Block(convolutions, width), _norm(convolutions)
            self.out: nn.Module = nn.Conv2d(convolutions, folded, 3, padding=1)
        else:
            self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, folded)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, tokens: Tensor, e: Tensor, skip: Tensor | None) -> Tensor:
        if skip is None:
            h = self.out(self.norm(tokens)).transpose(1, 2).unflatten(2, self.grid)
        else:
            h = self.grow(tokens).transpose(1, 2).unflatten(2, self.grid)
            h = self.block(self.merge(torch.cat([F.interpolate(h, skip.shape[2:]), skip], 1)), e)
            h = self.out(F.silu(self.norm(h)))
        return F.pixel_shuffle(h, self.fold)


class TransfusionNet(Recorded, nn.Module):
    """Noisy image (B, C, H, W), time (B,), text int64 (B, T) -> prediction of the image, and logits (B, T + 2, V).

    The symbols are the letters, then END, BOI and EOI, V in all; the embedding has one more, the start. Logits are
    those of the start, of the T letters, and of EOI, each of the symbol that follows it.

    Args:
        shape: of the image, (C, H, W).
        patch: side of a patch, which divides H and W.
        letters: size of the alphabet.
        length: T, letters of the longest text.
        width: d, a multiple of 4 and of ``heads``.
        depth: blocks.
        heads: attention heads.
        hidden: width inside the two-layer networks, 4 d if left out.
        convolutions: channels of the halves of a U-Net around the blocks, 0 for linear maps of patches.
        periods: shortest and longest period of the waves by which the time is told.

    Raises:
        ConfigError: sizes that do not fit together.
    """

    sized: ClassVar[Mapping[str, str]] = {"width": "width", "heads": "width", "hidden": "width", "depth": "depth"}

    steps_to_move = 3
    """Training steps until every tensor has moved: the output of the image first, then what it lets through."""

    def __init__(
        self,
        shape: Sequence[int],
        patch: int,
        letters: int,
        length: int,
        width: int = 96,
        depth: int = 4,
        heads: int = 4,
        hidden: int | None = None,
        convolutions: int = 0,
        periods: Sequence[float] = PERIODS,
    ) -> None:
        super().__init__()
        if len(shape) != 3 or patch < 1 or any(s % patch for s in shape[1:]) or (convolutions and patch % 2):
            raise ConfigError(
                f"TransfusionNet: images (C, H, W) divide into patches, of an even side where there are convolutions; "
                f"got {tuple(shape)} and {patch}"
            )
        if width % heads or width % 4 or width // heads % 2 or letters < 1 or length < 1:
            raise ConfigError(
                f"TransfusionNet: a width of {width} must be a multiple of 4 and of twice the {heads} heads, and texts "
                f"need letters and a length, got {letters} and {length}"
            )
        C, H, W = shape
        self.shape, self.letters, self.length, self.features = tuple(shape), letters, length, width // heads
        self.END, self.BOI, self.EOI, self.START = range(letters, letters + 4)
        self.grid = (H // patch, W // patch)
        self.embedding = nn.Embedding(letters + 4, width)
        self.blocks = nn.ModuleList(AttentionBlock(width, heads, hidden or 4 * width, depth) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, letters + 3, bias=False)
        self.time = Embedding(width, 0, periods)
        self.image_in = ImageIn(C, patch, width, convolutions)
        self.image_out = ImageOut(C, patch, width, convolutions, self.grid)
        self.register_buffer("places", grid_positions(*self.grid, width), persistent=False)  # (N, d)
        for module in (self.embedding, self.out):
            nn.init.normal_(module.weight, std=0.02)

    # -- text alone: a Transformer ------------------------------------------------------------------------------------

    def text_logits(self, symbols: Tensor) -> Tensor:
        """Return the logits of each symbol from those before it, with no image: int64 (B, m) -> (B, m, V)."""
        tokens = F.pad(symbols[:, :-1], (1, 0), value=self.START)
        x, tables = self.embedding(tokens), rotary_tables(0, tokens.shape[1], self.features, self.norm.weight)
        for block in self.blocks:
            x = block(x, None, tables)
        return self.out(self.norm(x))

    # -- text and image -----------------------------------------------------------------------------------------------

    def positions(self, texts: Tensor, image_first: Tensor) -> Tensor:
        """Return the position of start, letters, BOI, image and EOI: texts int64 (B, T), bool (B,) -> (B, T + 4)."""
        there = texts >= 0
        m = there.sum(1, keepdim=True)
        first = image_first[:, None]
        i = 1 + torch.arange(texts.shape[1], device=texts.device)
        letters = torch.where(there, torch.where(first, i + 3, i), _NOWHERE)
        marks = torch.where(first, 0, m) + 1 + torch.arange(3, device=texts.device)  # BOI, image, EOI
        return torch.cat([torch.zeros_like(m), letters, marks], 1)

    def tables(self, positions: Tensor) -> Tables:
        """Return the rotary tables of positions (B, S): two (B, 1, S, D)."""
        cos, sin = rotary_tables(0, self.length + 4, self.features, self.norm.weight)
        index = positions.clamp(max=self.length + 3)
        return cos[index][:, None], sin[index][:, None]

    def with_patches(self, positions: Tensor) -> Tensor:
        """Give each patch the position of its image, the last but one: (B, S) -> (B, S - 1 + N)."""
        N = len(self.places)
        return torch.cat([positions[:, :-2], positions[:, -2:-1].expand(-1, N), positions[:, -1:]], 1)

    def marked(self, texts: Tensor) -> Tensor:
        """Return the vectors of start, letters and BOI: int64 (B, T) -> (B, T + 2, d)."""
        symbols = F.pad(texts.clamp(min=0), (1, 0), value=self.START)
        return self.embedding(F.pad(symbols, (0, 1), value=self.BOI))

    def patches(self, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the tokens of an image, the vector of its time, and what the way out needs."""
        e = self.time(time)
        tokens, skip = self.image_in(x, e)
        return tokens + self.places.to(tokens.dtype), e, skip

    def forward(
        self, x: Tensor, time: Tensor, texts: Tensor, image_first: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        first = torch.zeros(len(x), dtype=torch.bool, device=x.device) if image_first is None else image_first
        T, N = texts.shape[1], len(self.places)
        tokens, e, skip = self.patches(x, time)
        end = self.embedding.weight[self.EOI].expand(len(x), 1, -1)
        h = torch.cat([self.marked(texts), tokens, end], 1)  # (B, T + 3 + N, d)
        where = self.with_patches(self.positions(texts, first))
        mask, tables = seen(where, where), self.tables(where)
        for block in self.blocks:
            h = block(h, mask, tables)
        text = torch.cat([h[:, : T + 1], h[:, -1:]], 1)
        return self.image_out(h[:, T + 2 : T + 2 + N], e, skip), self.out(self.norm(text))

    def remember(self, texts: Tensor) -> Memory:
        """Return what an image after these texts, int64 (B, T), sees of them: computed once for all steps of noise."""
        first = torch.zeros(len(texts), dtype=torch.bool, device=texts.device)
        where = self.positions(texts, first)
        before, image = where[:, :-2], where[:, -2]
        h, past = self.marked(texts), []
        mask, tables = seen(before, before), self.tables(before)
        for block in self.blocks:
            h = block(h, mask, tables, keep=past.append)
        return Memory(past, before, image)

    def denoise(self, x: Tensor, time: Tensor, memory: Memory) -> Tensor:
        """Return what `forward` predicts of an image after the texts of a memory: only its patches are evaluated."""
        h, e, skip = self.patches(x, time)
        where = memory.image[:, None].expand(-1, h.shape[1])
        mask, tables = seen(where, torch.cat([memory.before, where], 1)), self.tables(where)
        for block, past in zip(self.blocks, memory.past, strict=True):
            h = block(h, mask, tables, past=past)
        return self.image_out(h, e, skip)

    # -- one letter at a time -----------------------------------------------------------------------------------------

    def beginning(self, n: int, image: tuple[Tensor, Tensor] | None) -> Writing:
        """Return the state of writing ``n`` texts: from the start, or about images and their times."""
        start = torch.full((n, 1), self.START, device=self.norm.weight.device)
        if image is None:
            return Writing(self, self.embedding(start), torch.zeros_like(start))
        tokens, _, _ = self.patches(*image)
        marks = self.embedding(torch.cat([start, torch.full_like(start, self.BOI)], 1))
        end = self.embedding.weight[self.EOI].expand(n, 1, -1)
        where = torch.tensor([0, 1, *[2] * tokens.shape[1], 3], device=start.device).expand(n, -1)
        return Writing(self, torch.cat([marks, tokens, end], 1), where)


class Writing:
    """A text as it is written, letter by letter, with the keys and values of all before kept.

    Attributes:
        logits: of the next symbol, (n, V).
    """

    def __init__(self, net: TransfusionNet, h: Tensor, where: Tensor) -> None:
        n, T = where.shape
        self.net, self.t = net, int(where[0, -1])
        self.maps = [block.maps(n) for block in net.blocks]
        heads, size = net.blocks[0].heads, T + net.length + 1
        self.caches = [KeyValueCache(n, heads, size, net.features, net.norm.weight) for _ in net.blocks]
        mask, tables = seen(where, where), net.tables(where)
        for block, cache in zip(net.blocks, self.caches, strict=True):
            h = block(h, mask, tables, keep=cache.fill)
        self.logits = net.out(net.norm(h[:, -1]))

    def put(self, symbols: Tensor) -> None:
        """Write one more symbol, int64 (n,)."""
        self.t += 1
        x = self.net.embedding(symbols)
        tables = rotary_tables(self.t, 1, self.net.features, x)
        for block, maps, cache in zip(self.net.blocks, self.maps, self.caches, strict=True):
            x = block.step(x, maps, cache, tables)
        self.logits = self.net.out(self.net.norm(x))


def seen(queries: Tensor, keys: Tensor) -> Tensor:
    """Return which keys each query sees, bool (B, 1, S, S'), by positions (B, S) and (B, S'): those not behind it.

    What stands nowhere is seen by none but such as itself, whose outcome nobody reads.
    """
    q, k = queries[:, None, :, None], keys[:, None, None, :]
    return k <= q
