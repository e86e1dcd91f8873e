"""Measure what cached sampling of a gated PixelCNN costs, against naive sampling and against the compiled inner step.

    python benchmarks/gated_pixelcnn_sampling.py                                # 40 channels, untrained
    python benchmarks/gated_pixelcnn_sampling.py --model gated_pixelcnn-mnist   # a registered model

See pixelcnn_sampling.py for what is measured and how. The compiled step needs numba (the extra ``compiled``); without
it that column is left out.
"""

from __future__ import annotations

import importlib.util

import torch
from pixelcnn_sampling import main

from zoo.families.gated_pixelcnn import GatedPixelCNN


def gated() -> GatedPixelCNN:
    """284,296 weights: 40 channels, a 7x7 first layer and seven of 3x3, a table of 10 channels for the grey levels."""
    torch.manual_seed(0)
    return GatedPixelCNN(shape=(1, 28, 28), levels=256, width=40, depth=7, first_kernel=7, kernel=3, embedding=10)


if __name__ == "__main__":
    title = "gated, 40 channels, 7x7 and seven 3x3, a table of 10 channels:"
    main(gated, title, __doc__, importlib.util.find_spec("numba") is not None)
