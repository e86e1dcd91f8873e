"""PixelCNN: an image as a product of one softmax a pixel, computed by masked convolutions.

    log p(x) = sum_i log p(x_i given x_1, ..., x_{i-1}),  i in raster order, colours R, G, B within a pixel.

References:
    A. van den Oord, N. Kalchbrenner, K. Kavukcuoglu, Pixel Recurrent Neural Networks, 2016, arXiv:1601.06759.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError
from zoo.maths.decoding import Decoding
from zoo.model import Batch, LikelihoodModel
from zoo.nets.masked import MaskedConv2d, MaskedResidual
from zoo.nets.raster import FullPasses, decode

__all__ = ["PixelCNN", "PixelCNNState"]


class PixelCNN(LikelihoodModel):
    """Masked convolutions: mask A once, residual blocks under mask B, a head of 1 x 1 convolutions, a softmax a value.

    With ``first_kernel=7, kernel=3, width=64, depth=7, head=64`` and neither bottleneck nor embedding it is the plain
    network 7x7 A, seven 3x3 B, 64 -> 64 -> 256.

    Args:
        shape: (C, H, W) of an image.
        levels: values of a pixel's colour, at least 2; 2 is the binary model.
        width: channels of the residual stream, a multiple of C.
        depth: number of residual blocks.
        first_kernel: odd kernel of the first convolution, under mask A.
        kernel: odd kernel of the residual blocks.
        hidden: channels inside each block between 1 x 1 convolutions, as in the paper; none for a single convolution.
        head: channels of the head, ``width`` if left out.
        embedding: channels of a learnt table that the first convolution sees in the place of each grey level; none for
            the grey level itself, in [0, 1].
        position: whether the first convolution has a bias for every pixel rather than one for all.
        lr: peak learning rate.
        betas: Adam's decay rates.

    Raises:
        ConfigError: numbers that do not fit together.
    """

    family = "autoregressive"

    def __init__(
        self,
        shape: Sequence[int] = (1, 28, 28),
        levels: int = 256,
        width: int = 64,
        depth: int = 7,
        first_kernel: int = 7,
        kernel: int = 3,
        hidden: int | None = None,
        head: int | None = None,
        embedding: int | None = None,
        position: bool = False,
        lr: float = 2.0e-3,
        betas: Sequence[float] = (0.9, 0.999),
    ) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape) < 1:
            raise ConfigError(f"shape must be three positive numbers (C, H, W), got {tuple(shape)}")
        if levels < 2:
            raise ConfigError(f"levels must be at least 2, got {levels}")
        self.shape, self.levels, self.lr, self.betas = tuple(shape), levels, lr, tuple(betas)
        C, H, W = self.shape
        e, head = embedding or 1, head or width
        self.embedding = nn.Parameter(torch.randn(levels, embedding)) if embedding else None
        self.position = nn.Parameter(torch.zeros(width, H, W)) if position else None
        self.first = MaskedConv2d(e * C, width, first_kernel, mask="A", colours=C)
        self.blocks = nn.ModuleList(MaskedResidual(width, kernel, hidden, colours=C) for _ in range(depth))
        self.head = MaskedConv2d(width, head, 1, colours=C)
        self.out = MaskedConv2d(head, levels * C, 1, colours=C)

    # -- likelihood ---------------------------------------------------------------------------------------------------

    def quantize(self, x: Tensor) -> Tensor:
        """Return the levels of an image in data range: [0, 1] -> int64 0..levels-1, the nearest ones.

        Raises:
            DataError: values outside [0, 1].
        """
        k = (x * (self.levels - 1)).round().long()
        if k.numel() and (k.min() < 0 or k.max() >= self.levels):
            raise DataError(
                f"PixelCNN takes images in [0, 1], got values from {float(x.min()):g} to {float(x.max()):g}"
            )
        return k

    def features(self, k: Tensor) -> Tensor:
        """Return what the first convolution sees of levels: int64 (...) -> (..., e)."""
        if self.embedding is not None:
            return F.embedding(k, self.embedding)
        return (k.to(self.out.bias.dtype) / (self.levels - 1))[..., None]

    def forward(self, k: Tensor) -> Tensor:
        """Return all logits at once: levels int64 (B, C, H, W) -> (B, C, H, W, levels)."""
        return self.logits(self.features(k.permute(0, 2, 3, 1)).flatten(3))  # of (B, H, W, C * e)

    def logits(self, features: Tensor) -> Tensor:
        """Return all logits of features, those of a colour side by side: (B, H, W, C * e) -> (B, C, H, W, levels)."""
        x = self.first(features.permute(0, 3, 1, 2))
        if self.position is not None:
            x = x + self.position
        x = x.contiguous(memory_format=torch.channels_last)  # 1.5 times as fast on CPUs
        for block in self.blocks:
            x = block(x)
        x = self.out(F.relu(self.head(F.relu(x))))
        return x.permute(0, 2, 3, 1).unflatten(3, (self.shape[0], self.levels)).permute(0, 3, 1, 2, 4)

    def log_prob(
        self,
        x: Tensor,
        *,
        labels: Sequence[int] | Tensor | int | None = None,
        k: int = 1,
        seed: int | torch.Generator | None = None,
    ) -> Tensor:
        """Return log p(x) in nats, exactly: (B, C, H, W) in [0, 1] -> (B,). ``k`` and ``seed`` have no effect."""
        self.given_labels(len(x), labels)
        return self._log_prob(self.quantize(x))

    def _log_prob(self, k: Tensor) -> Tensor:
        logits = self(k)  # (B, C, H, W, L)
        return -F.cross_entropy(logits.flatten(0, 3), k.flatten(), reduction="none").view(k.shape).sum((1, 2, 3))

    def likelihood(self, k: int = 1) -> str:
        return "exact"

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean of -log p(x) over the batch, in nats, and the same in bits per dimension."""
        nll = -self.log_prob(batch[0]).mean()
        return {"loss": nll, "bits_per_dim": nll / (math.prod(self.shape) * math.log(2))}

    # -- sampling -----------------------------------------------------------------------------------------------------

    def draw(
        self,
        n: int,
        generator: torch.Generator,
        labels: Tensor | None,
        *,
        temperature: float = 1.0,
        greedy: bool = False,
        given: Tensor | None = None,
        known: Tensor | int | None = None,
        cached: bool = True,
    ) -> Tensor:
        """Draw ``n`` images in [0, 1], pixel by pixel.

        Args:
            n: number of images.
            generator: of one uniform number a value, drawn before the first pixel.
            labels: none, the model is not conditional.
            temperature: of every softmax.
            greedy: take the most probable level everywhere.
            given: partly known images in [0, 1] to complete, (C, H, W) or (n, C, H, W).
            known: which pixels of ``given`` are kept: a number of rows from the top, or a mask that broadcasts to
                (C, H, W).
            cached: compute every activation once; otherwise one forward pass a value, for the same integers.

        Raises:
            ConfigError: a temperature that is not positive, or ``given`` and ``known`` that do not fit.
        """
        C, H, W = self.shape
        choose = Decoding(temperature, greedy)
        fixed = self._given(n, given, known)
        noise = torch.rand(H, W, C, n, generator=generator, device=self.device, dtype=self.out.bias.dtype)
        state = self.start(n) if cached else FullPasses(self, n, self.shape, self.device)
        with torch.inference_mode():  # a tenth less work for each of the many small operations
            k = decode(state, choose, noise, *fixed)
        return k.to(noise.dtype).div_(self.levels - 1)

    def start(self, n: int) -> PixelCNNState:
        """Return the state of cached evaluation of ``n`` images, before their first row."""
        return PixelCNNState(self, n)

    @property
    def calls_per_sample(self) -> int:
        """Evaluations of the network: one a value of the image, although the cached ones cost one pass in all."""
        return math.prod(self.shape)

    def _given(self, n: int, given: Tensor | None, known: Tensor | int | None) -> tuple[Tensor | None, Tensor | None]:
        if given is None and known is None:
            return None, None
        if given is None or known is None:
            raise ConfigError("completing images takes both: given, the images, and known, the rows or pixels to keep")
        if given.shape not in (self.shape, (n, *self.shape)):
            raise ConfigError(f"given must have shape {self.shape} or {(n, *self.shape)}, got {tuple(given.shape)}")
        mask = torch.zeros(self.shape, dtype=torch.bool, device=self.device)
        if isinstance(known, int):
            if not 0 <= known <= self.shape[1]:
                raise ConfigError(f"known must be between 0 and {self.shape[1]} rows, got {known}")
            mask[:, :known] = True
        else:
            try:
                mask |= known.to(mask)
            except RuntimeError as error:
                raise ConfigError(f"known of shape {tuple(known.shape)} does not broadcast to {self.shape}") from error
        return self.quantize(given.to(self.device)).expand(n, *self.shape), mask


class PixelCNNState:
    """A PixelCNN, evaluated pixel by pixel: a `zoo.nets.raster.RasterState` whose every activation is computed once.

    With several colours the stack is evaluated once a colour; a colour's block of channels is final when the colours
    before it are known, so the last evaluation leaves every cache complete.
    """

    def __init__(self, model: PixelCNN, n: int) -> None:
        C, _, W = model.shape
        self.model, self.levels, self.r = model, model.levels, -1
        self.first, self.blocks = model.first.start(n, W), [b.start(n, W) for b in model.blocks]
        self.head, self.out = model.head.start(n, 1), model.out.start(n, 1)
        self.x = model.first.bias.new_empty(n, len(model.first.bias))
        self.z = model.out.bias.new_empty(n, len(model.out.bias))
        self.z_of = self.z.split(self.levels, 1)
        self.inputs = [v.chunk(C, 1) for v in self.first.inputs]
        self.table = model.features(torch.arange(model.levels, device=self.x.device)).detach()  # (levels, e)

    def row(self) -> None:
        self.r += 1
        self.first.row()
        if self.model.position is not None:
            self.first.above += self.model.position[:, self.r].T  # (W, width)
        for block in self.blocks:
            block.row()

    def logits(self, column: int, colour: int) -> Tensor:
        self.first.pixel(column, self.x)
        for block in self.blocks:
            block.pixel(column, self.x)
        torch.clamp_min(self.x, 0, out=self.head.inputs[0])
        self.head.pixel(0, self.out.inputs[0])
        self.out.inputs[0].clamp_min_(0)
        self.out.pixel(0, self.z)
        return self.z_of[colour]

    def put(self, column: int, colour: int, values: Tensor) -> None:
        self.inputs[column][colour].copy_(self.table[values])
