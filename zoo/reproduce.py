"""Train a registered model from its recipe, evaluate it, and compare it with the band that the registry expects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import RegistryError, ResultError, RunError
from zoo.names import is_run, parse_name
from zoo.registry import Entry, in_force, load_registry
from zoo.results import Metric, Result
from zoo.trained_parts import check_named

__all__ = ["Band", "Reproduction", "compare", "reproduce", "trained"]


@dataclass(frozen=True)
class Band:
    """One expectation: what a retrained model's metric should lie between, and what it was."""

    metric: str
    low: float
    high: float
    value: float

    @property
    def inside(self) -> bool:
        """Whether the value is in the band, ends included."""
        return self.low <= self.value <= self.high


@dataclass(frozen=True)
class Reproduction:
    """What came of training a recipe again.

    Attributes:
        folder: of the run, with its eval.json.
        result: of the evaluation.
        bands: one for each metric that the registry expects something of.
    """

    folder: Path
    result: Result
    bands: tuple[Band, ...]

    @property
    def inside(self) -> bool:
        """Whether every metric is in its band."""
        return all(band.inside for band in self.bands)


def reproduce(
    name: str,
    *,
    run: str | Path | None = None,
    registry: Sequence[str | Path] = (),
    arguments: Sequence[str] = (),
    parts: Mapping[str, str | Path] | None = None,
    progress: bool = True,
    **evaluation: Any,
) -> Reproduction:
    """Train ``name`` from the registry's recipe, evaluate it as the tables do, and hold it to the expected band.

    Args:
        name: of the registry.
        run: the run folder; one that exists is continued, or only evaluated where its training is finished. A new one
            under ``runs`` if left out.
        registry: further registry files.
        arguments: of the training, as after ``zoo fit``; anything that changes the recipe makes it another one.
        parts: trained models that this one builds on, by the names of `zoo.model.GenerativeModel.trained_parts`.
        progress: show bars.
        evaluation: what `zoo.evaluate` takes (samples, seeds, k, devices, split ...). The bands are of the test split:
            on validation examples they tell whether a training has come out, and leave the test examples unseen.

    Raises:
        RegistryError: the registry expects nothing of this name.
        ConfigError: the model builds on a trained one, and none is named.
        RunError: the folder is of another model.
        ResultError: the evaluation lacks a metric that a band is of.
        Stopped: after a signal, with the checkpoint written; its ``folder`` is the ``run`` to go on with.
    """
    known = load_registry(*registry)
    if parse_name(name, registry=known).entry is None:
        raise RegistryError(f"{name} is no recipe of the registry; a run in a folder is gone on with by --run {name}")
    entry = known.recipe(name)
    if not entry.expected:
        raise RegistryError(f"the registry expects no result of {entry.name}; add `expected: {{metric: [low, high]}}`")
    folder = trained(entry, Path(run) if run is not None else None, arguments, parts or {})
    from zoo.api import evaluate

    options = {"k": entry.evaluation.get("k"), **evaluation}
    with in_force(*registry):  # what the run names, they allow
        result = evaluate(folder, entry.build_data(), out=folder, progress=progress, **options)
    return Reproduction(folder, result, compare(result.metrics, entry.expected, entry.name))


def compare(metrics: Mapping[str, Metric], expected: Mapping[str, Sequence[float]], name: str) -> tuple[Band, ...]:
    """Return the bands of ``expected``, metric -> [low, high], with the values found. Raises `ResultError`."""
    missing = [metric for metric in expected if metric not in metrics]
    if missing:
        raise ResultError(
            f"the registry expects {missing[0]} of {name}, the evaluation has only {', '.join(metrics)}; evaluate it "
            f"as the tables do"
        )
    return tuple(Band(m, float(low), float(high), metrics[m].value) for m, (low, high) in expected.items())


def trained(entry: Entry, folder: Path | None, arguments: Sequence[str], parts: Mapping[str, str | Path]) -> Path:
    """Train, or go on, or find that there is nothing left to train; return the run folder.

    Raises:
        RunError: the folder is of another model, or no run.
        Stopped: after a signal, with the checkpoint written.
    """
    from zoo.runs import run_metadata
    from zoo.training.fit import Run, Stopped

    resume = folder is not None and is_run(folder)
    if resume:
        metadata = run_metadata(folder)
        if metadata.get("name") != entry.name:
            raise RunError(f"{folder} is a run of {metadata.get('name')}, not of {entry.name}; give another folder")
        if metadata.get("status") == "finished":
            return folder
    elif folder is not None and folder.exists():
        raise RunError(f"the folder {folder} exists already and is no run; give another one")
    stages: dict[str, Any] = {}
    if not resume:
        check_named(entry, parts)
    if parts and not resume:
        from zoo.api import with_parts

        entry, models, earlier = with_parts(entry, parts, keep_data=True)
        stages = {"parts": models, "earlier": earlier}
    training = Run(entry.for_training(), arguments, allow=entry.allow, folder=folder, resume=resume, **stages)
    try:
        return training.start()
    except Stopped as stop:
        stop.folder = training.folder  # type: ignore[attr-defined]
        raise
