"""Two streams of shifted convolutions that run down to coarser scales and up again, with short-cuts: PixelCNN++.

Convolutions are shifted rather than masked: the *down* stream u sees the rows above a pixel, the *down-right* stream
l also sees what is left of it, through kernels that reach up and to the left only. Both are halved and doubled in
between; every layer on the way up sees, by a short-cut, the layer that mirrors it on the way down.

References:
    T. Salimans, A. Karpathy, X. Chen, D. P. Kingma, PixelCNN++: Improving the PixelCNN with Discretized Logistic
    Mixture Likelihood and Other Modifications, 2017, arXiv:1701.05517, section 2 and figure 2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.nets.gated import shift_down
from zoo.nets.masked import pointwise

__all__ = ["ShiftedConv2d", "StreamBlock", "Streams", "concat_elu"]


def concat_elu(x: Tensor, dim: int = 1) -> Tensor:
    """Return ELU of x and of -x, side by side: twice the channels."""
    return F.elu(torch.cat([x, -x], dim), inplace=True)


class ShiftedConv2d(nn.Conv2d):
    """rows x columns convolution that sees its own row and the ones above: (B, in, H, W) -> (B, out, H / s, W / s).

    Args:
        features_in: input channels.
        features_out: output channels.
        rows: rows of the kernel, its own one last.
        columns: columns of the kernel; odd and centred, or with ``right`` its own one last.
        right: whether nothing right of the pixel is seen.
        stride: s; pixel (i, j) of the output stands at (s i, s j) of the input.
    """

    def __init__(
        self, features_in: int, features_out: int, rows: int, columns: int, *, right: bool, stride: int = 1
    ) -> None:
        super().__init__(features_in, features_out, (rows, columns), stride)
        self.left, self.right = (columns - 1, 0) if right else (columns // 2, columns // 2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (self.left, self.right, self.kernel_size[0] - 1, 0)))


class StreamBlock(nn.Module):
    """Gated residual block of one stream, with f = `concat_elu`:

        x + a sigmoid(b),    (a, b) = conv2(f(conv1(f(x)) + nin(f(aside)))).

    Args:
        width: channels of the stream.
        aside: channels of what else the block sees at the same pixel, 0 for nothing.
        right: kernels 2 x 2 up and to the left, instead of 2 x 3 up and to both sides.
        dropout: probability of dropping a feature between the convolutions, in training.
    """

    def __init__(self, width: int, aside: int = 0, *, right: bool, dropout: float = 0.0) -> None:
        super().__init__()
        columns = 2 if right else 3
        self.conv1 = ShiftedConv2d(2 * width, width, 2, columns, right=right)
        self.nin = nn.Conv2d(2 * aside, width, 1, bias=False) if aside else None
        self.conv2 = ShiftedConv2d(2 * width, 2 * width, 2, columns, right=right)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, aside: Tensor | None = None) -> Tensor:
        h = self.conv1(concat_elu(x))
        if self.nin is not None and aside is not None:
            h = h + pointwise(concat_elu(aside), self.nin.weight)
        a, b = self.conv2(self.dropout(concat_elu(h))).chunk(2, 1)
        return torch.addcmul(x, a, torch.sigmoid(b))


class Streams(nn.Module):
    """Features of what comes before each pixel: (B, in, H, W) -> (B, width, H, W).

    On the way down each scale has ``depth`` blocks; on the way up the coarsest has ``depth`` and the others one more,
    so that every layer of the way down but the last is read by one of the way up.

    Args:
        features_in: channels of the image's features.
        width: channels of both streams.
        depth: blocks a scale.
        scales: number of scales; each is half the one before.
        size: (H, W), of which 2 ** (scales - 1) must be a divisor.
        position: whether each pixel has a bias of its own at the start of both streams.
        dropout: probability of dropping a feature inside the blocks, in training.

    Raises:
        ConfigError: an image that cannot be halved so often, or no block at all.
    """

    def __init__(
        self,
        features_in: int,
        width: int,
        depth: int,
        scales: int,
        size: tuple[int, int],
        *,
        position: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if depth < 1 or scales < 1:
            raise ConfigError(f"the streams need at least one block and one scale, got {depth} and {scales}")
        if any(side % 2 ** (scales - 1) for side in size):
            raise ConfigError(
                f"{scales} scales halve the image {scales - 1} times, so sides of {tuple(size)} must be multiples of "
                f"{2 ** (scales - 1)}; change the number of scales"
            )
        w = width
        self.first_u = ShiftedConv2d(features_in, w, 2, 3, right=False)
        self.first_above = ShiftedConv2d(features_in, w, 1, 3, right=False)
        self.first_left = ShiftedConv2d(features_in, w, 2, 1, right=True)
        self.position = nn.Parameter(torch.zeros(2, w, *size)) if position else None

        def blocks(numbers: list[int], aside: int, right: bool) -> nn.ModuleList:
            made = [[StreamBlock(w, aside, right=right, dropout=dropout) for _ in range(n)] for n in numbers]
            return nn.ModuleList(nn.ModuleList(some) for some in made)

        down, up = [depth] * scales, [depth + 1] * (scales - 1) + [depth]
        self.down_u, self.down_l = blocks(down, 0, False), blocks(down, w, True)
        self.up_u, self.up_l = blocks(up, w, False), blocks(up, 2 * w, True)
        between = range(scales - 1)
        self.halve_u = nn.ModuleList(ShiftedConv2d(w, w, 2, 3, right=False, stride=2) for _ in between)
        self.halve_l = nn.ModuleList(ShiftedConv2d(w, w, 2, 2, right=True, stride=2) for _ in between)
        # Pixel (i, j) reaches rows 2i, 2i + 1 and columns 2j - 1 to 2j + 1, or without looking back 2j and 2j + 1.
        self.double_u = nn.ModuleList(
            nn.ConvTranspose2d(w, w, (2, 3), 2, padding=(0, 1), output_padding=(0, 1)) for _ in between
        )
        self.double_l = nn.ModuleList(nn.ConvTranspose2d(w, w, 2, 2) for _ in between)

    def forward(self, x: Tensor) -> Tensor:
        u = shift_down(self.first_u(x))
        l = shift_down(self.first_above(x)) + F.pad(self.first_left(x), (1, -1))  # one row down; one column right
        if self.position is not None:
            u, l = u + self.position[0], l + self.position[1]
        us, ls = [u], [l]
        for s, (blocks_u, blocks_l) in enumerate(zip(self.down_u, self.down_l, strict=True)):
            if s:
                us.append(self.halve_u[s - 1](us[-1]))
                ls.append(self.halve_l[s - 1](ls[-1]))
            for block_u, block_l in zip(blocks_u, blocks_l, strict=True):
                us.append(block_u(us[-1]))
                ls.append(block_l(ls[-1], us[-1]))
        u, l = us.pop(), ls.pop()
        for s in reversed(range(len(self.up_u))):
            for block_u, block_l in zip(self.up_u[s], self.up_l[s], strict=True):
                u = block_u(u, us.pop())
                l = block_l(l, torch.cat([u, ls.pop()], 1))
            if s:
                u, l = self.double_u[s - 1](u), self.double_l[s - 1](l)
        return l
