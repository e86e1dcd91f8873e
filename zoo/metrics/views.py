"""Views of images that no labels have shaped, random convolutions and principal components: no extractor judges alone.

A classifier's features tell what it was trained to tell. These two know nothing of classes: one looks at textures and
strokes through random filters, the other at the largest directions in which training images vary. A model that one view
likes and another does not is worth a look.

References:
    A. Saxe and others, On Random Weights and Unsupervised Feature Learning, 2011.
    M. Naeem and others, Reliable Fidelity and Diversity Metrics for Generative Models (random embeddings), 2020,
    arXiv:2002.09797.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.errors import ResultError

__all__ = ["PixelPCA", "RandomConvolutions"]

_SEED = 0
_WIDTHS = (16, 32)
_POOLED = 2
_COMPONENTS = 64


class _View:
    """What both views share: fitted tensors, whose digest is the identity, and features of total variance 1."""

    name = ""
    frechet = ""
    batch = 500

    def __init__(self, shape: Sequence[int], fitted: Mapping[str, Tensor]) -> None:
        self.shape, self.fitted = tuple(shape), dict(fitted)
        digest = hashlib.sha256(f"{self.name} {self.shape}".encode())
        for name, value in sorted(self.fitted.items()):
            digest.update(name.encode() + value.contiguous().numpy().tobytes())
        self.sha256 = digest.hexdigest()

    def check(self, shape: Sequence[int]) -> None:
        """Raise `ResultError` for images of another shape than those that it was fitted to."""
        if tuple(shape) != self.shape:
            raise ResultError(f"{self.name} was fitted to images of shape {self.shape}, got {tuple(shape)}")

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``features`` (N, D) of images (N, C, H, W) in [0, 1]."""
        return {"features": self._raw(images.float().cpu()) / self.fitted["scale"]}

    def _raw(self, images: Tensor) -> Tensor:
        raise NotImplementedError


class RandomConvolutions(_View):
    """Two layers of random 3 x 3 filters with ReLU, their mean in quarters of the image: 128 features.

    Fréchet distances in it are in units of the total variance of training images' features.

    Args:
        shape: (C, H, W) of the images, at least 8 x 8.
        fitted: filters and scale, as `fit` returns them.
    """

    name, frechet, dimensions = "random-convolutions", "frechet_random", _WIDTHS[1] * _POOLED**2

    @classmethod
    def fit(cls, images: Tensor) -> dict[str, Tensor]:
        """Return the filters of a fixed seed, and the scale that training images (N, C, H, W) give."""
        generator = torch.Generator().manual_seed(_SEED)
        widths = (images.shape[1], *_WIDTHS)
        fitted = {
            f"filters_{i}": torch.randn(b, a, 3, 3, generator=generator) * (2 / (9 * a)) ** 0.5
            for i, (a, b) in enumerate(itertools.pairwise(widths))
        }
        view = cls(tuple(images.shape[1:]), {**fitted, "scale": torch.ones(())})
        features = torch.cat([view(part)["features"] for part in images.split(cls.batch)])
        return {**fitted, "scale": _spread(features)}

    def _raw(self, images: Tensor) -> Tensor:
        x = images - 0.5
        for i in range(len(_WIDTHS)):
            x = F.avg_pool2d(F.conv2d(x, self.fitted[f"filters_{i}"], padding=1).relu(), 2)
        return F.adaptive_avg_pool2d(x, _POOLED).flatten(1)  # (N, D)


class PixelPCA(_View):
    """The first 64 principal components of training images' pixels.

    Fréchet distances in it are squared distances of pixels, in units of the total variance that the components keep.

    Args:
        shape: (C, H, W) of the images.
        fitted: mean (P,), basis (P, D) and scale, as `fit` returns them.
    """

    name, frechet = "pixel-pca", "frechet_pca"

    def __init__(self, shape: Sequence[int], fitted: Mapping[str, Tensor]) -> None:
        super().__init__(shape, fitted)
        self.dimensions = fitted["basis"].shape[1]

    @classmethod
    def fit(cls, images: Tensor) -> dict[str, Tensor]:
        """Return mean, basis and scale of training images (N, C, H, W), from pixels' or images' products, the fewer."""
        x = images.flatten(1).double()  # (N, P)
        mean = x.mean(0)
        x = x - mean
        N, P = x.shape
        kept = min(_COMPONENTS, P, N - 1)
        if P <= N:
            values, vectors = torch.linalg.eigh(x.T @ x)  # ascending
            basis = vectors[:, -kept:]
        else:
            values, vectors = torch.linalg.eigh(x @ x.T)
            basis = x.T @ vectors[:, -kept:]
            basis = basis / basis.norm(dim=0).clamp(min=1e-12)
        basis = basis.flip(1)  # (P, D), the largest first
        basis = basis * basis.gather(0, basis.abs().argmax(0, keepdim=True)).sign()  # the sign is arbitrary
        scale = (values[-kept:].sum() / (N - 1)).clamp(min=1e-12).sqrt()
        return {"mean": mean.float(), "basis": basis.float().contiguous(), "scale": scale.float()}

    def _raw(self, images: Tensor) -> Tensor:
        return (images.flatten(1) - self.fitted["mean"]) @ self.fitted["basis"]


def _spread(features: Tensor) -> Tensor:
    """Return the square root of the total variance of features (N, D)."""
    return features.double().var(0).sum().clamp(min=1e-12).sqrt().float()
