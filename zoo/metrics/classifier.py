"""The feature extractor for grey 28x28 digits: a small classifier with frozen weights that ship with the zoo.

It was trained by ``benchmarks/train_digit_classifier.py`` on the 55,000 training digits of `zoo.data.mnist` only; its
epoch was chosen on the validation digits. Every number that rests on it records the sha256 of its weights.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import math
from importlib import resources

import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import Tensor, nn

from zoo.errors import CorruptWeightsError
from zoo.spec import Recorded

__all__ = ["SHA256", "DigitClassifier", "DigitFeatures", "digit_classifier"]

SHA256 = "57529e23304db0415892dc9cfc98f563d60e0e9a186592da39113805c8e1f9b6"
"""Digest of the weights that ship; part of every protocol."""


class DigitClassifier(nn.Module):
    """Convolutional classifier of digits with 64 penultimate units.

    Weights start as torch's defaults do; nothing here is particular to digits but the sizes.
    """

    name = "digit-classifier"
    features_dim = 64
    classes = 10

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            *_block(1, 32, kernel=5, stride=2),  # (B, 32, 14, 14)
            *_block(32, 32),
            *_block(32, 64, stride=2),  # (B, 64, 7, 7)
            *_block(64, 64),
            *_block(64, 96, stride=2),  # (B, 96, 4, 4)
        )
        self.penultimate = nn.Sequential(nn.Linear(96 * 16, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU())
        self.head = nn.Linear(64, 10)

    def features(self, x: Tensor) -> Tensor:
        """Return penultimate units, (B, 1, 28, 28) in [0, 1] -> (B, 64), not negative."""
        return self.penultimate(self.trunk(2 * x - 1).flatten(1))  # (B, 96, 4, 4) -> (B, 1536) -> (B, 64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, 64) and logits (B, 10) of images (B, 1, 28, 28) in [0, 1]."""
        h = self.features(x)
        return h, self.head(h)


def _block(width_in: int, width: int, *, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(width_in, width, kernel, stride=stride, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(width), nn.ReLU()]


@functools.lru_cache(maxsize=1)
def digit_classifier() -> DigitClassifier:
    """Return the frozen classifier, in eval mode, on the CPU, without gradients.

    Raises:
        CorruptWeightsError: the shipped file does not have the recorded sha256; it is not opened then.
    """
    raw = resources.files("zoo.metrics").joinpath("assets", "digit_classifier.safetensors").read_bytes()
    if (found := hashlib.sha256(raw).hexdigest()) != SHA256:
        raise CorruptWeightsError(
            f"the digit classifier's weights are damaged (sha256 {found[:12]}..., recorded {SHA256[:12]}...); "
            f"reinstall generative-zoo"
        )
    with torch.device("cpu"):
        model = DigitClassifier()
    model.load_state_dict(load(raw))
    return model.eval().requires_grad_(False)


class DigitFeatures(Recorded, nn.Module):
    """What the frozen classifier sees in images at three sizes: (B, C, H, W) in [0, 1] -> features of three layers.

    Images of other sides or in colour are made grey and 28 x 28 first. Features of a layer are divided by the root of
    its number of positions, so that a sum of squares is one over channels, whatever the size.

    Raises:
        CorruptWeightsError: the shipped weights are damaged.
    """

    def __init__(self) -> None:
        super().__init__()
        trunk = copy.deepcopy(digit_classifier().trunk)
        ends = (6, 12, len(trunk))  # after each halving and the block that follows it
        self.stages = nn.ModuleList(trunk[a:b] for a, b in zip((0, *ends), ends, strict=False))
        self.eval()

    def forward(self, x: Tensor) -> list[Tensor]:
        if x.shape[1:] != (1, 28, 28):
            x = F.interpolate(x.mean(1, keepdim=True), (28, 28), mode="bilinear", align_corners=False)
        h, found = 2 * x - 1, []
        for stage in self.stages:
            h = stage(h)
            found.append(h / math.sqrt(math.prod(h.shape[2:])))
        return found
