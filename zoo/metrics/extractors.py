"""Feature extractors: what maps images to vectors in which distributions are compared.

Every number that rests on an extractor records its name and the sha256 of its weights: numbers of two extractors do not
compare. Three kinds: the digit classifier that ships with the zoo, the Inception network of torch-fidelity where its
weights lie on this machine, and any module of the user's own.

References:
    C. Szegedy and others, Rethinking the Inception Architecture for Computer Vision, 2015, arXiv:1512.00567.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from zoo.errors import CorruptWeightsError, ResultError
from zoo.metrics.classifier import SHA256, DigitClassifier, digit_classifier

__all__ = ["Digits", "Extractor", "Given", "Inception", "as_extractor", "inception_weights"]

_INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
_INCEPTION_SHA256 = "6726825d"  # the first digits, which the file's own name carries


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


class Inception:
    """The Inception v3 of FID's authors, as torch-fidelity carries it: 2,048 features, 1,008 logits.

    Images are rounded to 8 bits and resized to 299x299 as TensorFlow 1 did; grey ones are repeated in three channels.

    Raises:
        ResultError: its weights are not on this machine.
        CorruptWeightsError: the file is not the one that its name promises.
    """

    name, dimensions, batch = "inception-v3-compat", 2048, 50

    def __init__(self) -> None:
        path = inception_weights()
        if not path.is_file():
            raise ResultError(
                f"the Inception weights are not on this machine: put torch-fidelity's {_INCEPTION} into {path.parent}, "
                f"or name another extractor"
            )
        self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        if not self.sha256.startswith(_INCEPTION_SHA256):
            raise CorruptWeightsError(
                f"{path} is damaged: its sha256 begins with {self.sha256[:8]}, its name says {_INCEPTION_SHA256}; "
                f"fetch the file again"
            )
        self.network = _inception(path)

    def check(self, shape: Sequence[int]) -> None:
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise ResultError(f"Inception takes grey or RGB images, (N, 1 or 3, H, W), got (N, {_text(shape)})")

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        x = (images.float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
        features, logits = self.network(x.expand(-1, 3, -1, -1))
        return {"features": features.float(), "logits": logits.float()}


def inception_weights() -> Path:
    """Return where torch-fidelity's Inception weights are looked for, whether or not they are there."""
    return Path(torch.hub.get_dir()) / "checkpoints" / _INCEPTION


def _inception(path: Path) -> nn.Module:
    """Build torch-fidelity's network from a file that is read as plain tensors; it would unpickle the file itself."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    state = torch.load(path, map_location="cpu", weights_only=True)
    original = module.load_state_dict_from_url
    module.load_state_dict_from_url = lambda *args, **options: state
    try:
        return module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], verbose=False)
    finally:
        module.load_state_dict_from_url = original


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
    """Return the extractor that is meant: ``digits``, ``inception``, an `Extractor`, or a torch module.

    Raises:
        ResultError: an unknown name, an object that is none of these, or weights that are not on this machine.
    """
    if what == "digits":
        return Digits()
    if what == "inception":
        return _shared_inception(str(inception_weights()))
    if isinstance(what, nn.Module):
        return Given(what)
    if isinstance(what, Extractor):
        return what
    raise ResultError(f"no extractor {what!r}: give 'digits', 'inception', or a torch module that returns features")


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
