"""PixelCNN++: a discretised logistic mixture for whole pixels, on two streams with short-cuts across three scales.

References:
    T. Salimans, A. Karpathy, X. Chen, D. P. Kingma, PixelCNN++: Improving the PixelCNN with Discretized Logistic
    Mixture Likelihood and Other Modifications, 2017, arXiv:1701.05517.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.raster import RasterModel
from zoo.maths.mixture import LogisticMixture
from zoo.nets.decoding_states import RasterState
from zoo.nets.masked import pointwise
from zoo.nets.stream_states import StreamsState
from zoo.nets.streams import Streams
from zoo.signature import default_of

__all__ = ["PixelCNNpp", "PixelCNNppState"]


class PixelCNNpp(RasterModel):
    """Two streams down to coarser scales and up again, and for each pixel a mixture of discretised logistics.

    The network sees whole pixels; colours of one pixel depend on each other through the mixture alone, whose locations
    move linearly with the colours before. The weights are not normalised, as they are in the paper. Levels are seen in
    [-1, 1] where they have no embedding, and beside them a channel of ones, by which padding differs from the image.

    Args:
        shape: (C, H, W) of an image; C is 1 or 3 for pictures, but any number works.
        levels: values of a pixel's colour, at least 2.
        width: channels of both streams.
        depth: blocks a scale; the paper has 5.
        scales: number of scales, 3 in the paper; H and W must be multiples of 2 ** (scales - 1).
        mixtures: M, components of the mixture.
        dropout: probability of dropping a feature inside the blocks, in training.
        position: whether each pixel has a bias of its own at the start of both streams.

    The other arguments are those of `zoo.families.raster.RasterModel`.

    Raises:
        ConfigError: numbers that do not fit together.
    """

    sized: ClassVar[Mapping[str, str]] = {"width": "width", "depth": "depth"}

    def __init__(
        self,
        shape: Sequence[int] = (1, 28, 28),
        levels: int = 256,
        width: int = 32,
        depth: int = 1,
        scales: int = 3,
        mixtures: int = 10,
        dropout: float = 0.0,
        position: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape, levels, num_classes=0, **kwargs)
        if mixtures < 1:
            raise ConfigError(f"mixtures must be at least 1, got {mixtures}")
        C, H, W = self.shape
        self.streams = Streams(
            self.per_colour * C + 1, width, depth, scales, (H, W), position=position, dropout=dropout
        )
        self.out = nn.Conv2d(width, LogisticMixture.size(C, mixtures), 1)

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that go with other data: as many scales as the sides allow; see `zoo.fitting`."""
        scales, sides = arguments.get("scales", default_of(cls, "scales")), arguments["shape"][1:]
        while scales > 1 and any(side % 2 ** (scales - 1) for side in sides):
            scales -= 1
        return {**super().fitted_to(arguments, before), "scales": scales}

    def features(self, values: Tensor) -> Tensor:
        """Return what the network sees of levels, without the ones: int64 (...) -> (..., e)."""
        if self.embedding is not None:
            return super().features(values)
        return (values.to(self.dtype) * (2 / (self.levels - 1)) - 1)[..., None]

    def mixture(self, features: Tensor) -> LogisticMixture:
        """Return the distributions of all pixels given features of the image, (B, H, W, C * e)."""
        x = F.pad(features, (0, 1), value=1.0).permute(0, 3, 1, 2)
        parameters = pointwise(F.elu(self.streams(x)), self.out.weight, self.out.bias)
        return LogisticMixture(parameters.permute(0, 2, 3, 1), self.shape[0], self.levels)

    def _mixture(self, values: Tensor) -> tuple[LogisticMixture, Tensor]:
        values = values.permute(0, 2, 3, 1)  # (B, H, W, C)
        return self.mixture(self.features(values).flatten(3)), values.to(self.dtype) / (self.levels - 1)

    def forward(self, values: Tensor, labels: Tensor | None = None) -> Tensor:
        mixture, x = self._mixture(values)
        return torch.stack([mixture.logits(x, c) for c in range(self.shape[0])], 1)  # (B, C, H, W, L)

    def _log_prob(self, values: Tensor, labels: Tensor | None) -> Tensor:
        mixture, x = self._mixture(values)
        return mixture.log_prob(x).sum((1, 2))

    def granule(self, options: Mapping[str, Any]) -> int:
        """Return twice the usual: the mixtures' scales are vectors of ten numbers a row, whose ends need care."""
        return 2 * super().granule(options)

    def start(self, n: int, labels: Tensor | None = None) -> PixelCNNppState:
        return PixelCNNppState(self, n)


class PixelCNNppState(RasterState):
    """A PixelCNN++, evaluated pixel by pixel, every activation once.

    The streams are evaluated once a pixel; what its colours add to each other is the mixture's alone.
    """

    def __init__(self, model: PixelCNNpp, n: int) -> None:
        C, _, W = model.shape
        self.levels, self.streams = model.levels, StreamsState(model.streams, n, W)
        self.weight, self.bias = model.out.weight.detach().flatten(1).T.contiguous(), model.out.bias.detach()
        self.z = self.bias.new_empty(n, len(self.bias))
        self.x = self.bias.new_zeros(n, C)
        self.values = torch.arange(model.levels, device=self.z.device, dtype=self.z.dtype) / (model.levels - 1)
        super().__init__(model.shape, model.table(), [v[:, :-1].chunk(C, 1) for v in self.streams.inputs])

    def row(self) -> None:
        super().row()
        self.streams.row()
        if self.r == 0:  # from now on the pixels have their channel of ones; the row above the first one has none
            for v in self.streams.inputs:
                v[:, -1] = 1

    def evaluate(self, column: int, colour: int) -> Tensor:
        if colour == 0:
            torch.addmm(self.bias, F.elu(self.streams.pixel(column)), self.weight, out=self.z)
            self.mixture = LogisticMixture(self.z, self.colours, self.levels)
        return self.mixture.logits(self.x, colour)

    def see(self, column: int, colour: int, values: Tensor) -> None:
        super().see(column, colour, values)
        self.x[:, colour] = self.values[values]
