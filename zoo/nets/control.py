"""A frozen U-Net that is told a control, a map beside the image, by a trainable copy of its way down.

    bottom + Z(bottom'),   kept_i + Z_i(kept'_i),   the copy starting from stem'(x) + Z_0(hint(c))

The Z are 1x1 convolutions whose weights start at zero, so that the copy changes nothing before it has learnt.

References:
    L. Zhang, A. Rao, M. Agrawala, Adding Conditional Control to Text-to-Image Diffusion Models, 2023, arXiv:2302.05543,
    equation 2 and section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.nets.embeddings import PERIODS
from zoo.nets.unet import UNet

__all__ = ["ControlledUNet"]


def _zero(width: int) -> nn.Conv2d:
    conv = nn.Conv2d(width, width, 1)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


class ControlledUNet(UNet):
    """(B, C + K, H, W), image and control, time (B,), labels (B,) or None -> (B, out_channels, H, W).

    Without the K channels of the control it is the U-Net of its own weights, which are frozen.

    Args:
        channels: C, of the image.
        control: K, channels of the control, at least 1.

    The other arguments are those of `zoo.nets.unet.UNet`.

    Raises:
        ConfigError: no channel of control, or what `UNet` refuses.
    """

    steps_to_move = 4  # each zero hides what is before it from the first gradients

    def __init__(
        self,
        channels: int,
        widths: list[int],
        blocks: int = 1,
        embedding: int = 64,
        out_channels: int | None = None,
        num_classes: int = 0,
        attention: Sequence[int] = (),
        heads: int = 4,
        patch: int = 1,
        periods: Sequence[float] = PERIODS,
        control: int = 1,
    ) -> None:
        own = (channels, widths, blocks, embedding, out_channels, num_classes, attention, heads, patch, periods)
        super().__init__(*own)
        if control < 1:
            raise ConfigError(f"ControlledUNet needs at least one channel of control, got {control}")
        self.requires_grad_(False)
        self.control, self.channels, width = control, channels, widths[0]
        self.branch = UNet(*own)
        for part in ("grow", "merge", "up", "norm", "out"):  # it goes down only
            delattr(self.branch, part)
        self.hint = nn.Sequential(
            nn.Conv2d(control * patch**2, width, 3, padding=1), nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), _zero(width),
        )  # fmt: skip
        self.zeros = nn.ModuleList(_zero(width) for width in widths[:-1])
        self.zero = _zero(widths[-1])
        self.start_from(self)

    def start_from(self, network: nn.Module) -> None:
        """Take the weights of a trained U-Net, for what is frozen and for the copy."""
        given = network.state_dict()
        mine = [n for n in self.state_dict() if n.partition(".")[0] not in ("branch", "hint", "zeros", "zero")]
        self.load_state_dict({**self.state_dict(), **{name: given[name] for name in mine}})
        self.branch.load_state_dict({name: given[name] for name in self.branch.state_dict()})

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of such a network between images of these shapes, as that of a U-Net without control."""
        return super().resized(arguments, (inputs[0] - arguments.get("control", 1), *inputs[1:]), outputs)

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        if x.shape[1] == self.channels:
            return super().forward(x, time, labels)
        branch = self.branch
        image, control = (F.pixel_unshuffle(part, self.patch) for part in x.split([self.channels, self.control], 1))
        e = self.embedding(time, labels)
        h, kept = self.descend(self.stem(image), e)
        g, given = branch.descend(branch.stem(image) + self.hint(control), branch.embedding(time, labels))
        kept = [k + zero(g_k) for k, zero, g_k in zip(kept, self.zeros, given, strict=True)]
        return self.ascend(h + self.zero(g), kept, e)
