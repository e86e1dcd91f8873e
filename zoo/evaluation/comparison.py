"""Samples against one split: features, their distances, and how near samples come to training images.

What depends on data and extractor alone is cached: features of the split's images, the floor (training images in the
place of samples), and how far these unseen images are from the training images.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.errors import ResultError
from zoo.evaluation.captions import Describes, classes_asked, prompt_exact
from zoo.evaluation.views import VIEWS, fitted_view
from zoo.metrics import fidelity as compare
from zoo.metrics.clips import DigitClips, frame_consistency
from zoo.metrics.distribution import ESTIMATORS, Estimate, accuracy, class_shares, frechet, packed, unpacked
from zoo.metrics.efficientnet_lite import lite0_weights
from zoo.metrics.extractors import Digits, Extractor, as_extractor, inception_weights
from zoo.metrics.neighbours import NEIGHBOURS, copying, nearest_distances

if TYPE_CHECKING:
    from zoo.data.base import TensorData

__all__ = ["DIGITS", "Reference", "choose"]

DIGITS = ("mnist", "binary_mnist", "binary_mnist_threshold", "mnist_captions", "mnist_words")
"""Data sets that the digit classifier is a sensible extractor for."""

CLIPS = ("moving_digits",)
"""The same of clips, frame by frame."""

_FLOOR_SEED = 0


def choose(asked: Any, data: TensorData) -> Extractor | None:
    """Return the extractor that was asked for, or that fits the data; None if there is none, or for ``none``.

    Raises:
        ResultError: the one that was asked for cannot be had, or does not take such images.
    """
    if asked == "none":
        return None
    if isinstance(asked, str) and asked in VIEWS:
        return fitted_view(asked, data)
    if asked is None:
        if data.name in DIGITS:
            return Digits()
        if data.name in CLIPS:
            return DigitClips()
        if len(data.shape) != 3 or data.shape[0] != 3:
            return None
        if inception_weights().is_file():
            asked = "inception"
        elif lite0_weights() is not None:
            asked = "lite0"
        else:
            return None
    extractor = as_extractor(asked)
    extractor.check(data.shape)
    return extractor


@dataclass(frozen=True)
class Reference:
    """Real images as an extractor sees them.

    Attributes:
        bar: show progress.
        most: look for nearest neighbours among only the first so many training images.
        split: whose images are the reference.
    """

    data: TensorData
    extractor: Extractor
    bar: bool = False
    most: int | None = None
    split: str = "test"

    def protocol(self, samples: int) -> dict[str, Any]:
        """Return what the numbers depend on."""
        reference = len(self.data.split(self.split)[0])
        few = reference < ESTIMATORS["kid_subset_size"]
        of_kid = {"kid_pairs": "all"} if few else {k: ESTIMATORS[k] for k in ("kid_subsets", "kid_subset_size")}
        of_kid |= {} if few else {"kid_subset_size": min(of_kid["kid_subset_size"], samples)}
        others = {k: v for k, v in ESTIMATORS.items() if k not in ("kid_subsets", "kid_subset_size")}
        return {
            "samples": samples, "reference": reference, "training_reference": len(self._train[: self.most]),
            "quantised": self.data.levels, "extractor": self.extractor.name, "extractor_sha256": self.extractor.sha256,
            "estimators": {**of_kid, **others, **NEIGHBOURS},
        }  # fmt: skip

    def check(self, samples: int) -> None:
        """Raise `ResultError` for fewer samples than features."""
        dimensions = self.extractor.dimensions
        if dimensions is not None and samples < dimensions:
            raise ResultError(
                f"{samples} samples are too few for features of {dimensions} dimensions; "
                f"take at least {dimensions}, and 10,000 for numbers that compare"
            )

    def compare(self, x: Tensor, asked: Tensor | None) -> dict[str, Estimate]:
        """Return the metrics of samples (N, *shape); conditional ones were drawn for ``asked``, classes or texts."""
        drawn = self._extract(x, "sample features")
        found = self._fidelity(drawn)
        found |= self._copying(drawn["features"])
        found |= self._of_digits(drawn)
        classes = classes_asked(self.data, asked)
        if isinstance(self.extractor, Digits) and classes is not None:
            found["accuracy"] = accuracy(drawn["logits"], classes)
            if asked.ndim == 2 and isinstance(self.data, Describes):
                found["prompt_exact"] = prompt_exact(self.data, x, drawn["logits"].argmax(1), asked)
        return found

    def _of_digits(self, drawn: dict[str, Tensor]) -> dict[str, Estimate]:
        """Return what the digit classifier says of the classes of pictures, and of the frames of clips."""
        if not isinstance(self.extractor, Digits):
            return {}
        moving = {"frame_consistency": frame_consistency(drawn["frames"])} if "frames" in drawn else {}
        return class_shares(drawn["logits"]) | moving

    @property
    def frechet_name(self) -> str:
        """What the Fréchet distance between these features is called: ``fid``, if the extractor says nothing else."""
        return getattr(self.extractor, "frechet", "fid")

    def distance(self, x: Tensor) -> tuple[str, Estimate]:
        """Return the Fréchet distance of pictures (N, *shape) alone, and its name; KID of few real images."""
        drawn, real = self._extract(x, "control features")["features"], self._real()["features"]
        if len(real) < real.shape[1]:
            return "kid", compare.kid(drawn, real)
        return self.frechet_name, frechet(drawn, real)

    def distances(self, x: Tensor) -> dict[str, Estimate]:
        """Return the Fréchet distance and KID of pictures (N, *shape), where real images are enough for them."""
        drawn, real = self._extract(x, "sample features")["features"], self._real()["features"]
        found = {self.frechet_name: frechet(drawn, real)} if len(real) >= real.shape[1] else {}
        return found | {"kid": compare.kid(drawn, real)}

    def floor_distance(self, n: int) -> dict[str, Estimate]:
        """Return the Fréchet distance of n training images, the same as in `floor`; none if there are fewer."""
        x = self._some_training(n)
        if x is None:
            return {}

        def compute() -> dict[str, Tensor]:
            name, estimate = self.distance(self.data.to_float(x))
            return {name: packed(estimate)}

        found = self._cached("floor-distance", (self.data.fingerprint(x), n), compute)
        return {name: unpacked(m) for name, m in found.items()}

    def _some_training(self, n: int) -> Tensor | None:
        """Return n training images, drawn with a fixed seed; None if there are fewer than n."""
        images = self._train
        if len(images) < n:
            return None
        generator = torch.Generator().manual_seed(_FLOOR_SEED)
        index = torch.randperm(len(images), generator=generator)[:n]
        some = images[index] if isinstance(images, Tensor) else images.chosen(index.tolist())  # still to be decoded
        return self.data.transform(some, generator)

    def _fidelity(self, drawn: dict[str, Tensor]) -> dict[str, Estimate]:
        return compare.fidelity(drawn, self._real(), progress=self.bar, frechet_name=self.frechet_name)

    def floor(self, n: int) -> dict[str, Estimate]:
        """Return the metrics of n training images, drawn with a fixed seed; none if there are fewer than n.

        How near unseen images come to training images is measured on validation images, where the reference are test
        images.
        """
        x = self._some_training(n)
        if x is None:
            return {}
        few = len(self.data.split(self.split)[0]) < ESTIMATORS["kid_subset_size"]
        key = (self.data.fingerprint(x), n, *(["all pairs", self.frechet_name] if few else []))

        def compute() -> dict[str, Tensor]:
            drawn = self._extract(self.data.to_float(x), "floor features")
            found = self._fidelity(drawn) | self._of_digits(drawn)
            return {name: packed(m) for name, m in found.items()}

        found = {**self._cached("floor", key, compute), **self._unseen_copying()}
        return {name: unpacked(m) for name, m in found.items()}

    def _unseen_copying(self) -> dict[str, Tensor]:
        """Return what the test of copies says of validation images, which no training has seen either."""
        images = self.data.split("validation")[0] if self.split == "test" else ()
        if len(images) == 0:
            return {}

        def compute() -> dict[str, Tensor]:
            features = self._extract(self.data.to_float(images), "validation features")["features"]
            return {name: packed(m) for name, m in self._copying(features).items()}

        return self._cached("copying", (self.data.digest("validation"), len(images), self.most), compute)

    # -- what is cached -----------------------------------------------------------------------------------------------

    def _real(self) -> dict[str, Tensor]:
        images = self.data.split(self.split)[0]
        return self._cached("features", (), lambda: self._extract(self.data.to_float(images), f"{self.split} features"))

    @functools.cached_property
    def _train(self) -> Tensor:
        return self.data.read("train")[0]  # not `split`, which a limit may have cut

    @functools.cached_property
    def _training(self) -> tuple[Tensor, Tensor]:
        """Features of the training images, and how far the split's images are from the nearest of them."""
        images = self._train[: self.most]
        x = self.data.transform(images, torch.Generator().manual_seed(_FLOOR_SEED))
        key = (self.data.fingerprint(x),)

        def compute() -> dict[str, Tensor]:
            return {"features": self._extract(self.data.to_float(x), "training features")["features"]}

        features = self._cached("training", key, compute)["features"]
        unseen = self._cached(
            "nearest", key,
            lambda: {"distances": nearest_distances(self._real()["features"], features, progress=self.bar)},
        )  # fmt: skip
        return features, unseen["distances"]

    def _copying(self, features: Tensor) -> dict[str, Estimate]:
        training, unseen = self._training
        return copying(nearest_distances(features, training, progress=self.bar), unseen)

    def _extract(self, images: Tensor, what: str) -> dict[str, Tensor]:
        return compare.extract(self.extractor, images, progress=self.bar, what=what)

    def _cached(self, what: str, key: tuple[object, ...], make: Any) -> dict[str, Tensor]:
        data = self.data
        of_data = (data.name, data.digest(self.split), len(data.split(self.split)[0]))
        return compare.cached(what, (self.extractor.sha256, *of_data, *key), make)
