"""How far a generator's pictures move as a whole, where what they are drawn from is moved.

    EQ-T = 10 log10( I^2 / E (g(t[z_0]; w) - t[g(z_0; w)])^2 )   decibels

I = 2 is the range of images in [-1, 1]. Moves t are uniform within an eighth of the image's sides, t[image] is made by
Lanczos' kernel, and the mean is over pixels that it knows.

References:
    T. Karras and others, Alias-Free Generative Adversarial Networks, 2021, arXiv:2106.12423, appendix E.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from zoo.maths.filters import moved

__all__ = ["translation_equivariance"]

_RANGE = 2.0
_FURTHEST = 1 / 8  # of a side
_SEVERAL = 16  # latents that are moved alike


@torch.no_grad()
def translation_equivariance(
    draw: Callable[[Tensor, float, float], Tensor], z: Tensor, *, whole: bool = False, seed: int = 0
) -> float:
    """Return EQ-T in decibels, infinity where nothing differs.

    Args:
        draw: latents (B, n), moves to the right and down in pixels -> images (B, C, H, W) in [-1, 1].
        z: latents, (N, n).
        whole: whether moves are rounded to whole pixels.
        seed: of the moves.
    """
    source = torch.Generator().manual_seed(seed)
    error, count = 0.0, 0
    for part in z.split(_SEVERAL):
        image = draw(part, 0.0, 0.0)
        sides = torch.tensor([image.shape[3], image.shape[2]], dtype=torch.float64)
        shift = (2 * torch.rand(2, generator=source, dtype=torch.float64) - 1) * _FURTHEST * sides
        right, down = (shift.round() if whole else shift).tolist()
        wanted, known = moved(image, right, down)
        differing = (draw(part, right, down) - wanted).double().square() * known
        error += float(differing.sum())
        count += int(known.sum()) * len(part) * wanted.shape[1]
    return math.inf if error == 0 else 10 * math.log10(_RANGE**2 * count / error)
