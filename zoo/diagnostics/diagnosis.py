"""All diagnostics that fit a model, as numbers and pictures, and the folder they are written to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.abilities import diagnosed_examples
from zoo.checking import count_of, integers_of
from zoo.diagnostics.catalogue import DIAGNOSTICS, Finding, Subject, training_of
from zoo.diagnostics.figures import page, png
from zoo.diagnostics.moving import animation
from zoo.errors import ConfigError, DataError, close_matches
from zoo.files import write_together
from zoo.model import GenerativeModel

if TYPE_CHECKING:
    from zoo.data.base import TensorData

__all__ = ["FILE", "OVERVIEW", "Diagnosis", "examine"]

FILE, OVERVIEW = "diagnostics.json", "diagnostics.png"


@dataclass(frozen=True)
class Diagnosis:
    """All findings on one model.

    Attributes:
        about: name and class of the model, sha256 of its weights where known, data, number of examples.
        findings: by the name of the diagnostic.
    """

    about: dict[str, Any]
    findings: dict[str, Finding] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Return the content of diagnostics.json."""
        return {**self.about, "diagnostics": {name: f.summary for name, f in self.findings.items()}}

    def overview(self) -> np.ndarray:
        """Return all pictures on one page, uint8 (height, width, 3)."""
        return page([(f.title or DIAGNOSTICS[name].title, f.picture) for name, f in self.findings.items()])

    def write(self, folder: str | Path, *, animate: bool = False) -> Path:
        """Write diagnostics.json, a PNG file for each finding, and all on one page, diagnostics.png.

        Args:
            folder: is made, or written over.
            animate: write a GIF file too for each finding that moves.

        Raises:
            ConfigError: the folder cannot be written, or nothing moves of what should.
        """
        folder = Path(folder)
        files = {f"{name}.png": png(f.picture) for name, f in self.findings.items()}
        if animate:
            moving = {f"{name}.gif": animation(f.frames) for name, f in self.findings.items() if len(f.frames) > 1}
            if not moving:
                raise ConfigError(
                    f"nothing moves of {', '.join(self.findings)}; what does: denoising, trajectories, unmasking, "
                    f"walk, and the samples of a run folder that has some of several steps"
                )
            files |= moving
        files[OVERVIEW] = png(self.overview())
        files[FILE] = (json.dumps(self.summary(), indent=1, allow_nan=False) + "\n").encode()
        try:
            write_together({folder / name: content for name, content in files.items()})
        except OSError as error:
            raise ConfigError(f"the diagnostics cannot be written to {folder}: {error.strerror or error}") from error
        return folder


def examine(
    model: GenerativeModel,
    data: TensorData,
    *,
    only: Sequence[str] | None = None,
    examples: int = 10_000,
    pair: tuple[int, int] | None = None,
    without: Sequence[int] = (),
    having: Sequence[int] = (),
    name: str | None = None,
    animate: bool = False,
) -> Diagnosis:
    """Look at a model in every way that its abilities allow.

    Args:
        model: on any device; it is put into eval mode meanwhile.
        data: a data module; its test split is looked at.
        only: names of `DIAGNOSTICS`; all that apply if left out.
        examples: how many test examples, the first ones, at least 2; fewer where the model asks for it.
        pair: indices of the two test examples between which to interpolate.
        without, having: label sets of attribute arithmetic; the two classes closest to each other if left out.
        name: to be recorded.
        animate: of a run, show the samples of its steps too, as ``training``.

    Raises:
        ConfigError: an unknown diagnostic, one that does not apply, none that applies, or numbers out of range.
        DataError: the data do not fit the model.
    """
    trained = training_of(model.source.path) if animate and model.source.kind == "run" else None
    own = {} if trained is None or (only is not None and "training" not in only) else {"training": trained}
    chosen = _chosen(model, [key for key in only if key not in own] if only is not None else None, bool(own))
    model.accepts(data.shape, data.levels)
    model.accepts_condition(data.split("test")[1])
    examples = count_of(examples, "examples")
    examples = min(examples, diagnosed_examples(model) or examples)
    stored, labels = (part[:examples] for part in data.split("test"))
    if examples < 2 or len(stored) < 2:
        raise DataError(f"diagnostics need at least 2 test examples, got {min(examples, len(stored))}")
    if pair is not None:
        pair = tuple(integers_of(pair, "pair").flatten().tolist())
        if len(pair) != 2 or not all(0 <= i < len(stored) for i in pair):
            raise ConfigError(f"pair must be two examples, both between 0 and {len(stored) - 1}, got {pair}")
    if bool(without) != bool(having):
        raise ConfigError("attribute arithmetic needs both sets of labels, or neither")
    groups = [tuple(integers_of(list(g), name).tolist()) for g, name in ((without, "without"), (having, "having")) if g]
    subject = Subject(model, data.to_float(stored, model.dtype), labels, pair, *groups)
    training = model.training
    model.eval()
    try:
        findings = own | {key: DIAGNOSTICS[key].look(subject) for key in chosen}
    finally:
        model.train(training)
    about = {
        "model": {
            "name": name or model.source.name,
            "class": type(model).__name__,
            "weights_sha256": model.source.sha256,
        },
        "data": {"name": data.name, "split": "test", "examples": len(stored)},
    }
    return Diagnosis(about, findings)


def _chosen(model: Any, only: Sequence[str] | None, enough: bool = False) -> list[str]:
    """Return the diagnostics to make; none only where there is ``enough`` without."""
    for key in only or ():
        if key not in DIAGNOSTICS:
            raise ConfigError(
                f"unknown diagnostic {key!r}.{close_matches(key, DIAGNOSTICS)} There are: {', '.join(DIAGNOSTICS)}"
            )
    fitting = [key for key, diagnostic in DIAGNOSTICS.items() if diagnostic.applies(model)]
    if not fitting and not enough:
        raise ConfigError(
            f"there is no diagnostic for {type(model).__name__}: it neither encodes and decodes examples nor "
            f"makes images of latents, and has no posterior or codes, no energy and no features"
        )
    wrong = [key for key in only or () if key not in fitting]
    if wrong:
        raise ConfigError(f"{wrong[0]} does not apply to {type(model).__name__}; what does: {', '.join(fitting)}")
    return [key for key in fitting if only is None or key in only]
