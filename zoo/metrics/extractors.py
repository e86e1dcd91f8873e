"""Feature extractors: what maps images to vectors in which distributions are compared.

Every number that rests on an extractor records its name and the sha256 of its weights: numbers of two extractors do not
compare. Four kinds: the digit classifier that ships with the zoo; EfficientNet-Lite0 for colour images, by the extra
``features``; the Inception network of torch-fidelity, whose weights are found on this machine or downloaded; and any
module of the user's own.

References:
    C. Szegedy and others, Rethinking the Inception Architecture for Computer Vision, 2015, arXiv:1512.00567.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from zoo.errors import ResultError
from zoo.metrics.classifier import SHA256, DigitClassifier, digit_classifier
from zoo.metrics.efficientnet_lite import SHA256 as LITE0_SHA256
from zoo.metrics.efficientnet_lite import EfficientNetLite0, efficientnet_lite0, prepared
from zoo.metrics.inception import inception_network, inception_weights

__all__ = ["Digits", "Extractor", "Given", "Inception", "Lite0", "as_extractor", "inception_weights"]


@runtime_checkable
class Extractor(Protocol):
    """Images (N, C, H, W) in [0, 1] -> ``features`` (N, D) and perhaps ``logits`` (N, K), float32 on the CPU.

    Attributes:
        name: recorded in the protocol.
        sha256: of the weights, 64 hexadecimal digits.
        dimensions: D, or None where it is not known before the first image.
        batch: images at a time.
    """

    name: str
    sha256: str
    dimensions: int | None
    batch: int

    def check(self, shape: Sequence[int]) -> None:
        """Raise `ResultError` for images of a shape (C, H, W) that do not fit."""
        ...

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Extract one batch."""
        ...


class Digits:
    """The classifier of grey 28x28 digits that ships with the zoo: 64 features, 10 logits."""

    name, sha256, dimensions, batch = DigitClassifier.name, SHA256, DigitClassifier.features_dim, 500

    def check(self, shape: Sequence[int]) -> None:
        if tuple(shape) != (1, 28, 28):
            raise ResultError(f"the digit classifier takes images of shape (N, 1, 28, 28), got (N, {_text(shape)})")

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        features, logits = digit_classifier()(images.float().cpu())
        return {"features": features, "logits": logits}


class Lite0:
    """EfficientNet-Lite0 of ImageNet: 1,280 features of colour images of any size, resized to 128 x 128.

    Its Fréchet distance is called ``frechet_lite0``: it is not the FID of papers, and compares with its own floor only.

    Raises:
        ResultError: the extra ``features`` is not installed.
        CorruptWeightsError: the file is not the recorded one.
    """

    name, sha256, dimensions, batch = EfficientNetLite0.name, LITE0_SHA256, EfficientNetLite0.features_dim, 50
    frechet = "frechet_lite0"

    def __init__(self) -> None:
        self.network = efficientnet_lite0()

    def check(self, shape: Sequence[int]) -> None:
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise ResultError(f"lite0 takes grey or RGB images, (N, 1 or 3, H, W), got (N, {_text(shape)})")

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        return {"features": self.network(prepared(images))}


class Inception:
    """The Inception v3 of FID's authors, as torch-fidelity carries it: 2,048 features, 1,008 logits.

    Images are rounded to 8 bits and resized to 299x299 as TensorFlow 1 did; grey ones are repeated in three channels.

    Raises:
        ResultError: its weights are not on this machine, and there is no network to fetch them.
        CorruptWeightsError: the file does not have the recorded sha256; it is not opened then.
    """

    name, dimensions, batch = "inception-v3-compat", 2048, 50

    def __init__(self) -> None:
        self.network, self.sha256 = inception_network()

    def check(self, shape: Sequence[int]) -> None:
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise ResultError(f"Inception takes grey or RGB images, (N, 1 or 3, H, W), got (N, {_text(shape)})")

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        x = (images.float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
        features, logits = self.network(x.expand(-1, 3, -1, -1))
        return {"features": features.float(), "logits": logits.float()}


class Given:
    """A module of the user's own, which returns features (N, D), or features and logits.

    Args:
        module: images (N, C, H, W) in [0, 1] -> features, a pair of features and logits, or a mapping of both.
        name: to be recorded; the name of its class if left out.
        sha256: of its weights; computed from its state if left out.
        batch: images at a time.
    """

    dimensions: int | None = None

    def __init__(
        self, module: nn.Module, *, name: str | None = None, sha256: str | None = None, batch: int = 250
    ) -> None:
        self.module, self.batch = module.eval(), batch
        self.name = name or type(module).__name__
        self.sha256 = sha256 or _state_digest(module)

    def check(self, shape: Sequence[int]) -> None:
        return None

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        device = next((p.device for p in self.module.parameters()), torch.device("cpu"))
        found: Any = self.module(images.float().to(device))
        if isinstance(found, Tensor):
            found = {"features": found}
        elif isinstance(found, (tuple, list)):
            found = dict(zip(("features", "logits"), found, strict=False))
        features = found["features"]
        if features.ndim != 2 or len(features) != len(images):
            raise ResultError(
                f"extractor {self.name} must return features of shape (N, D), got {tuple(features.shape)} for "
                f"{len(images)} images"
            )
        return {name: value.float().cpu() for name, value in found.items()}


def as_extractor(what: Any) -> Extractor:
    """Return the extractor that is meant: ``digits``, ``lite0``, ``inception``, an `Extractor`, or a module.

    Raises:
        ResultError: an unknown name, an object that is none of these, or weights that are not on this machine.
    """
    if what == "digits":
        return Digits()
    if what == "lite0":
        return Lite0()
    if what == "inception":
        return _shared_inception(str(inception_weights()))
    if isinstance(what, nn.Module):
        return Given(what)
    if isinstance(what, Extractor):
        return what
    raise ResultError(
        f"no extractor {what!r}: give 'digits', 'lite0', 'inception', 'random', 'pca', or a torch module of yours"
    )


@functools.lru_cache(maxsize=1)
def _shared_inception(path: str) -> Inception:
    return Inception()


def _state_digest(module: nn.Module) -> str:
    """Return a digest of names, types and values of the state; two modules without state differ by their class."""
    digest = hashlib.sha256(f"{type(module).__module__}.{type(module).__qualname__}".encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()


def _text(shape: Sequence[int]) -> str:
    return ", ".join(str(n) for n in shape)
