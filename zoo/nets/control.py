"""A frozen U-Net that is told a control, a map beside the image, by a trainable copy of its way down.

    bottom + Z(bottom'),   kept_i + Z_i(kept'_i),   the copy starting from stem'(x) + Z_0(hint(c))

The Z are 1x1 convolutions whose weights start at zero, so that the copy changes nothing before it has learnt.

References:
    L. Zhang, A. Rao, M. Agrawala, Adding Conditional Control to Text-to-Image Diffusion Models, 2023, arXiv:2302.05543,
    equation 2 and section 3.2.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.fitting import made_of
from zoo.nets.unet import UNet
from zoo.spec import Recorded

__all__ = ["ControlledUNet"]


def _zero(width: int) -> nn.Conv2d:
    conv = nn.Conv2d(width, width, 1)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


class ControlledUNet(Recorded, nn.Module):
    """(B, C + K, H, W), image and control, time (B,), labels (B,) or None -> (B, out_channels, H, W).

    Without the K channels of the control it is the frozen network itself.

    Args:
        network: of images of C channels; frozen here.
        control: K.

    Raises:
        ConfigError: a network that is no `UNet`, or no channel of control.
    """

    steps_to_move = 4  # each zero hides what is before it from the first gradients

    def __init__(self, network: nn.Module, control: int = 1) -> None:
        super().__init__()
        if not isinstance(network, UNet) or control < 1:
            raise ConfigError(
                f"ControlledUNet needs a UNet and at least one channel of control, got a {type(network).__name__} and "
                f"{control}"
            )
        self.control, self.channels = control, network.stem.in_channels // network.patch**2
        self.branch = copy.deepcopy(network)
        for part in ("grow", "merge", "up", "norm", "out"):  # it goes down only
            delattr(self.branch, part)
        self.base = network.requires_grad_(False)
        width = network.stem.out_channels
        self.hint = nn.Sequential(
            nn.Conv2d(control * network.patch**2, width, 3, padding=1), nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), _zero(width),
        )  # fmt: skip
        self.zeros = nn.ModuleList(_zero(shrink.in_channels) for shrink in network.shrink)
        self.zero = _zero(network.shrink[-1].out_channels if len(network.shrink) else width)

    def start_from(self, network: nn.Module) -> None:
        """Take the weights of a trained network, for what is frozen and for the copy."""
        self.base.load_state_dict(network.state_dict())
        own = self.branch.state_dict()
        self.branch.load_state_dict({name: network.state_dict()[name] for name in own})

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of such a network between images of these shapes; the network inside follows them."""
        image = (inputs[0] - arguments.get("control", 1), *inputs[1:])
        network = UNet.resized(arguments["network"]["init_args"], image, outputs)
        return made_of(cls, {**arguments, "network": network})

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        base, branch = self.base, self.branch
        if x.shape[1] == self.channels:
            return base(x, time, labels)
        image, control = (F.pixel_unshuffle(part, base.patch) for part in x.split([self.channels, self.control], 1))
        e = base.embedding(time, labels)
        h, kept = base.descend(base.stem(image), e)
        g, given = branch.descend(branch.stem(image) + self.hint(control), branch.embedding(time, labels))
        kept = [k + zero(g_k) for k, zero, g_k in zip(kept, self.zeros, given, strict=True)]
        return base.ascend(h + self.zero(g), kept, e)
