"""Features of a frozen encoder, measured beside two controls: the pixels themselves, and the encoder before training.

On digits the pixels alone give a probe about 92 %: without the controls the number says nothing.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.abilities import in_batches
from zoo.checking import count_of
from zoo.errors import ConfigError, ResultError, ZooError, check_choice
from zoo.evaluation.encoders import Encoder, encoder_of
from zoo.evaluation.motion import MOTION, HasMotion, motion_estimates
from zoo.metrics.distribution import Estimate, packed, unpacked
from zoo.metrics.fidelity import cached
from zoo.metrics.probes import (
    PROBE,
    effective_rank,
    feature_std,
    few_labels,
    knn_accuracy,
    mean_of,
    probe_accuracy,
    standardised,
)
from zoo.representations import Representation
from zoo.results import SPLITS
from zoo.spec import build, class_paths

if TYPE_CHECKING:
    from zoo.data.base import TensorData

__all__ = ["FeatureProtocol", "measure_features"]

_FEW = 5_000  # training examples of a quick evaluation
_FEW_COUNTED = 1_000  # examples that a quick evaluation counts
_SEED = 0
Examples = tuple[Tensor, Tensor]


class FeatureProtocol:
    """The one protocol of features: standardised, frozen, probed on the labels of the data.

    Args:
        model: one that `zoo.evaluation.encoders.encoder_of` finds features of, in eval mode when it is measured.
        data: whose training examples fit the probe, whose validation examples choose its penalty, and whose examples
            of ``split`` are counted.
        quick: take only the first 5,000 training examples, as of clips always.
        limit: take only the first so many examples of the split.
        split: what is counted. Where that is ``validation``, the last tenth of the training examples chooses the
            penalty in its place, and fits nothing.
    """

    def __init__(self, model: Any, data: TensorData, quick: bool, limit: int | None, split: str = "test") -> None:
        self.model, self.data = model, data
        generator = torch.Generator().manual_seed(_SEED)
        few = quick or len(data.shape) == 4  # clips are larger than memory
        images, labels = (part[: _FEW if few else None] for part in data.read("train"))
        counted = tuple(part[:limit] for part in data.split(split))
        fitted, choosing = (data.transform(images, generator), labels), data.split("validation")
        if split == "validation":
            held = max(1, len(labels) // 10)
            fitted, choosing = tuple(x[:-held] for x in fitted), tuple(x[-held:] for x in fitted)
        self.splits: list[Examples] = [fitted, choosing, counted]
        self.classes = int(labels.max()) + 1 if labels.ndim == 1 else 0

    def summary(self) -> dict[str, Any]:
        """Return what the numbers depend on."""
        names = ("training_examples", "validation_examples", "test_examples")
        of_motion = {"motion": MOTION} if self._of_motion else {}
        return {**dict(zip(names, (len(x) for x, _ in self.splits), strict=True)), **PROBE, **of_motion}

    def measure(self) -> dict[str, Estimate]:
        """Return the estimates of `of_features` of the encoder, of the ``_untrained`` one and of the ``_pixels``."""
        found = self.of_features(self._encoded(_encoder(self.model)))
        controls = {"pixels": self._of_pixels()}
        untrained = _untrained(self.model)
        if untrained is not None:
            controls["untrained"] = self.of_features(self._encoded(_encoder(untrained)))
        for name, estimates in controls.items():
            found |= {f"{key}_{name}": value for key, value in estimates.items()}
        if self._of_motion:
            before = None if untrained is None else _encoder(untrained).encode
            found |= motion_estimates(self.model, self.data, _encoder(self.model).encode, before)
        return found

    @property
    def _of_motion(self) -> bool:
        """Whether the examples are clips whose direction is known."""
        return len(self.data.shape) == 4 and isinstance(self.data, HasMotion)

    def _of_pixels(self) -> dict[str, Estimate]:
        """Return the estimates of the values themselves, which depend on the data alone and are cached."""
        digest = hashlib.sha256()
        for part in (part for split in self.splits for part in split):
            digest.update(part.contiguous().numpy().tobytes())
        key = (digest.hexdigest(), json.dumps(PROBE, sort_keys=True))

        def compute() -> dict[str, Tensor]:
            return {name: packed(estimate) for name, estimate in self.of_features(self._encoded(None)).items()}

        return {name: unpacked(numbers) for name, numbers in cached("pixels", key, compute).items()}

    def of_features(self, features: list[Tensor]) -> dict[str, Estimate]:
        """Return the estimates of features of the three splits, (N, D) each.

        ``probe_accuracy``, ``probe_accuracy_1pct`` (with one label in a hundred, the mean of five draws of them),
        ``knn_accuracy`` (20 neighbours by cosine), where the data have classes; ``effective_rank`` and ``feature_std``
        of the test examples.
        """
        if not all(bool(x.isfinite().all()) for x in features):
            raise ResultError("features of some examples are NaN or infinite; look into the model")
        found: dict[str, Estimate] = {}
        if self.classes > 1:
            train, validation, test = ((x, y) for x, (_, y) in zip(standardised(*features), self.splits, strict=True))
            found["probe_accuracy"] = probe_accuracy(train, validation, test, self.classes)[0]
            found["knn_accuracy"] = knn_accuracy(train, test, self.classes)
            runs = []
            for seed in range(PROBE["few_seeds"]):
                index = few_labels(train[1], PROBE["few_share"], seed)
                few = train[0][index], train[1][index]
                runs.append(probe_accuracy(few, validation, test, self.classes)[0])
            found["probe_accuracy_1pct"] = mean_of(runs)
        found["effective_rank"], found["feature_std"] = effective_rank(features[2]), feature_std(features[2])
        return found

    def dimensions(self) -> int:
        """Return D, of the first example counted."""
        x = self.data.to_float(self.splits[2][0][:1], self.model.dtype)
        return int(in_batches(self.model, _encoder(self.model).encode, x).shape[1])

    def _encoded(self, encoder: Encoder | None) -> list[Tensor]:
        """Return the features of all splits, float32 (N, D); the values themselves without an encoder."""
        dtype = self.model.dtype
        parts = []
        for x, _ in self.splits:
            x = self.data.to_float(x, dtype)
            parts.append((x if encoder is None else in_batches(self.model, encoder.encode, x)).flatten(1).float())
        return parts


def measure_features(
    model: Any,
    data: TensorData,
    *,
    name: str | None = None,
    weights_sha256: str | None = None,
    split: str = "test",
    limit: int | None = None,
    quick: bool = False,
    command: str = "",
) -> Representation:
    """Return what a probe and neighbours read off a model's features, off its untrained ones, and off the pixels.

    Args:
        model: of any family that `zoo.evaluation.encoders.encoder_of` knows features of; put into eval mode meanwhile.
        data: with labels, as `FeatureProtocol` takes them.
        name: to be recorded; by default that of the model's source.
        weights_sha256: to be recorded.
        split: ``test`` or ``validation``.
        limit: take only the first so many examples of the split.
        quick: take 5,000 training examples, and 1,000 of the split.
        command: that makes the numbers again, to be recorded.

    Raises:
        ConfigError: a model without features, or a split that nothing is measured on.
        DataError: the data do not fit the model.
        ResultError: features that are not finite.
    """
    check_choice("split", split, SPLITS)
    limit = None if limit is None else count_of(limit, "limit")
    encoder = _encoder(model)
    model.accepts(data.shape, data.levels)
    protocol = FeatureProtocol(model, data, quick, limit or (_FEW_COUNTED if quick else None), split)
    training = model.training
    model.eval()
    try:
        found = {name: (value, error) for name, (value, error, _) in protocol.measure().items()}
        dimensions = protocol.dimensions()
    finally:
        model.train(training)
    return Representation(
        name=name or model.source.name or type(model).__name__, family=model.family, kind=encoder.kind,
        dimensions=dimensions, data=data.name, split=split, digest=data.digest(split),
        weights_sha256=weights_sha256 or model.source.sha256 or "",
        metrics={name: float(value) for name, (value, _) in found.items()},
        errors={name: float(error) for name, (_, error) in found.items() if error is not None},
        protocol=protocol.summary(), quick=quick, command=command,
    )  # fmt: skip


def _encoder(model: Any) -> Encoder:
    found = encoder_of(model)
    if found is None:
        raise ConfigError(
            f"a {type(model).__name__} has no features to measure: neither features of its own nor a posterior, codes, "
            f"latents, a critic or an energy that are told no class"
        )
    return found


def _untrained(model: Any) -> Any | None:
    """Return the model as it was before training, from a fixed seed; None, with a warning, where that cannot be built.

    Its classes are those of an object that is here already, so nothing else is imported.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            made = build(model.spec, class_paths(model.spec))
    except ZooError as error:
        warnings.warn(f"the untrained encoder, a control, is left out: {error}", stacklevel=2)
        return None
    return made.to(model.device, model.dtype).eval()
