"""The diagnostics: each says which models it applies to, and turns a `Subject` into a `Finding`.

A family with abilities of its own brings further ones: one more entry in `DIAGNOSTICS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.abilities import (
    DecodesNoise,
    Denoises,
    Encodes,
    HasCodes,
    HasEnergy,
    HasFeatures,
    HasPosterior,
    HasStraightness,
    HasStyles,
    Inverts,
    PredictsPatches,
    RunsChains,
    Translates,
    Travels,
    Unmasks,
    WritesCaptions,
    draws_images,
    in_batches,
    prior_of,
    reconstruct,
    refining,
    takes_class,
    takes_labels,
    takes_option,
    writes_sound,
)
from zoo.diagnostics.chains import chains, landscape, plot_chains, plot_landscape
from zoo.diagnostics.clips import (
    continuations,
    drawn_strips,
    plot_continuations,
    reconstructed_strips,
    written_captions,
)
from zoo.diagnostics.codes import codebook_usage, plot_usage, refinement
from zoo.diagnostics.energies import energies, plot_energies
from zoo.diagnostics.features import hidden_patches, nearest_examples
from zoo.diagnostics.figures import sheet_of
from zoo.diagnostics.generators import class_grid, mixing_grid, translation_rows, truncation_rows, walk
from zoo.diagnostics.latents import (
    analogies,
    attribute_arithmetic,
    closest_classes,
    interpolation,
    latent_scatter,
    plot_scatter,
    scatter_of,
)
from zoo.diagnostics.moving import frames_in_plane, frames_of, sheets_of_training, training_strip
from zoo.diagnostics.posterior import plot_collapse, posterior_collapse
from zoo.diagnostics.trajectories import inversion, plot_inversion, plot_trajectories, travel
from zoo.media import feature_picture, medium, spectrogram, waveform
from zoo.metrics.probes import effective_rank, feature_std

__all__ = ["DIAGNOSTICS", "Diagnostic", "Finding", "Subject", "training_of"]


@dataclass(frozen=True)
class Subject:
    """What is diagnosed, and on what.

    Attributes:
        model: in eval mode.
        x: examples of the test split in data range, (N, *shape).
        labels: (N,), or texts (N, T).
        pair: indices of the two ends of interpolations; chosen where it is none.
        without, having: label sets of attribute arithmetic; chosen where they are empty.
    """

    model: Any
    x: Tensor
    labels: Tensor
    pair: tuple[int, int] | None = None
    without: Sequence[int] = ()
    having: Sequence[int] = ()

    @property
    def classes(self) -> Tensor:
        """The class of each example, (N,): its label, or the place of its text among all of them in order."""
        return self.labels if self.labels.ndim == 1 else self.labels.unique(dim=0, return_inverse=True)[1]


@dataclass(frozen=True)
class Finding:
    """What one diagnostic found.

    Attributes:
        summary: plain data.
        picture: uint8 (height, width, 3).
        frames: the same in motion, where it moves: uint8 (height, width, 3) each.
        title: for the reader, where it is not that of its diagnostic.
    """

    summary: dict[str, Any]
    picture: np.ndarray
    frames: tuple[np.ndarray, ...] = ()
    title: str = ""


@dataclass(frozen=True)
class Diagnostic:
    """One way to look at a model.

    Attributes:
        title: for the reader.
        applies: whether a model can be looked at in this way.
        look: the look.
    """

    title: str
    applies: Callable[[Any], bool]
    look: Callable[[Subject], Finding]


def _posterior(subject: Subject) -> Finding:
    report = posterior_collapse(subject.model, subject.x, subject.labels)
    return Finding(report.summary(), plot_collapse(report))


def _codebook(subject: Subject) -> Finding:
    report = codebook_usage(subject.model, subject.x)
    return Finding(report.summary(), plot_usage(report))


def _refinement(subject: Subject) -> Finding:
    """A row for each of a few examples: the example, then what the first stages make of it, one more at a time."""
    found, rows = refinement(subject.model, subject.x[:500]), 8
    strips = torch.cat([subject.x[: len(found.images), None], found.images], 1)[:rows]
    return Finding(found.summary(), sheet_of(strips.flatten(0, 1), columns=strips.shape[1], width=80 * strips.shape[1]))


def _scatter(subject: Subject) -> Finding:
    report = latent_scatter(subject.model, subject.x, subject.labels)
    shown = slice(None, 5_000)  # more would hide each other
    return Finding(
        report.summary(),
        plot_scatter(dataclasses.replace(report, points=report.points[shown], labels=subject.classes[shown])),
    )


def _interpolation(subject: Subject) -> Finding:
    i, j = subject.pair or _pair(subject)
    steps, ends, labels = 11, subject.x[[i, j]], subject.labels[[i, j]]
    strip = interpolation(subject.model, ends, steps, labels)
    change = (strip[1:] - strip[:-1]).flatten(1).double().norm(dim=1)
    summary = {"examples": [i, j], "labels": labels.tolist(), "steps": steps, "distance_between_steps": change.tolist()}
    return Finding(summary, sheet_of(torch.cat([ends[:1], strip, ends[1:]]), columns=steps + 2))


def _pair(subject: Subject) -> tuple[int, int]:
    """Choose the first example and the next of another class, or of the same one where the model is told the class."""
    same = subject.classes[1:] == subject.classes[0]
    wanted = same if takes_class(subject.model) else ~same
    return 0, 1 + (int(wanted.nonzero()[0]) if bool(wanted.any()) else 0)


def _arithmetic(subject: Subject) -> Finding:
    without, having = list(subject.without), list(subject.having)
    if not without:
        first, second = closest_classes(subject.model, subject.x, subject.classes)
        without, having = [first], [second]
    found = attribute_arithmetic(subject.model, subject.x, subject.classes, without, having)
    summary = {
        "without": without, "having": having, "shares": found.shares.tolist(),
        "length_of_vector": float(found.vector.double().norm()),
    }  # fmt: skip
    return Finding(summary, sheet_of(found.images.flatten(0, 1), columns=len(found.shares), width=500))


def _reconstructions(subject: Subject) -> Finding:
    again = reconstruct(subject.model, subject.x, subject.labels)
    error = float((again.double() - subject.x.double()).square().mean())
    spread = float((subject.x.double() - subject.x.double().mean(0)).square().mean())
    summary = {
        "mean_squared_error": error, "explained_variance": 1 - error / spread if spread else None,
        "examples": len(again),
    }  # fmt: skip
    columns = min(12, len(again))
    return Finding(summary, sheet_of(torch.cat([subject.x[:columns], again[:columns]]), columns=columns))


def _analogies(subject: Subject) -> Finding:
    classes, rows = subject.model.num_classes, 6
    x, labels = subject.x[:rows], subject.labels[:rows]
    images = analogies(subject.model, x, labels, classes)
    summary = {"examples": list(range(len(x))), "labels": labels.tolist(), "classes": classes}
    return Finding(summary, sheet_of(torch.cat([x[:, None], images], 1).flatten(0, 1), columns=classes + 1, width=600))


def _walk(subject: Subject) -> Finding:
    strips = walk(subject.model)
    change = (strips[:, 1:] - strips[:, :-1]).flatten(2).double().norm(dim=2)  # (rows, steps - 1)
    summary = {"rows": len(strips), "steps": strips.shape[1], "distance_between_steps": change.mean(0).tolist()}
    return Finding(summary, sheet_of(strips.flatten(0, 1), columns=strips.shape[1]), frames_of(strips.transpose(0, 1)))


def _class_grid(subject: Subject) -> Finding:
    grid = class_grid(subject.model)
    summary = {"rows": len(grid), "classes": grid.shape[1]}
    return Finding(summary, sheet_of(grid.flatten(0, 1), columns=grid.shape[1]))


def _truncation(subject: Subject) -> Finding:
    shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    rows = truncation_rows(subject.model, shares)
    summary = {"shares": list(shares), "variety": rows.double().std(1).flatten(1).mean(1).tolist()}
    return Finding(summary, sheet_of(rows.flatten(0, 1), columns=rows.shape[1]))


def _mixing(subject: Subject) -> Finding:
    grid = mixing_grid(subject.model)
    summary = {"layers": subject.model.depth, "mixed_from": max(1, subject.model.depth // 2)}
    return Finding(summary, sheet_of(grid.flatten(0, 1), columns=grid.shape[1]))


def _translation(subject: Subject) -> Finding:
    shifts = (0.0, 0.25, 0.5, 0.75, 1.0, 2.0)
    found = translation_rows(subject.model, shifts)
    summary = {"right": list(shifts), "eq_t": found.decibels, "eq_t_whole_pixels": found.decibels_whole}
    moving = frames_of(found.images)
    return Finding(summary, sheet_of(found.images.flatten(0, 1), columns=found.images.shape[1]), moving)


def _denoising(subject: Subject) -> Finding:
    """One row of states, and below it what is seen in them, for each of a few samples."""
    frames, n = 10, 3
    states, seen = (t.cpu() for t in subject.model.denoising(n, frames))  # (frames, n, *shape) each
    rows = torch.stack([states, seen]).permute(2, 0, 1, 3, 4, 5)  # (n, 2, frames, C, H, W)
    last = seen[-1:].double()
    summary = {
        "samples": n, "frames": frames,
        "distance_to_sample": (seen.double() - last).flatten(2).norm(dim=2).mean(1).tolist(),
    }  # fmt: skip
    return Finding(summary, sheet_of(rows.flatten(0, 2), columns=frames), frames_of(states, seen))


def _unmasking(subject: Subject) -> Finding:
    """Two rows for each of a few samples: what is kept after each step of the sampler, and all that it has drawn."""
    n, most = 3, 10
    y = subject.labels[:n] if takes_labels(subject.model, subject.model.unmasking) else None
    kept, drawn = (t.cpu() for t in subject.model.unmasking(n, labels=y))  # (steps, n, *shape) each
    shown = torch.linspace(0, len(kept) - 1, min(most, len(kept))).round().long()
    rows = torch.stack([kept, drawn])[:, shown].permute(2, 0, 1, 3, 4, 5)  # (n, 2, frames, C, H, W)
    last = drawn[-1:].double()
    summary = {
        "samples": n, "steps": len(kept), "shown": (1 + shown).tolist(),
        "distance_to_sample": (drawn.double() - last).flatten(2).norm(dim=2).mean(1).tolist(),
    }  # fmt: skip
    moving = frames_of(kept, drawn)
    return Finding(summary, sheet_of(rows.flatten(0, 2).clamp(0, 1), columns=len(shown)), moving)


def _trajectories(subject: Subject) -> Finding:
    images, frames = len(subject.model.shape) == 3, 9
    states, times = travel(subject.model, 8 if images else 1_000, frames)
    change = (states[1:] - states[:-1]).flatten(2).double().norm(dim=2).mean(1)  # (frames - 1,)
    summary = {"curves": states.shape[1], "times": times.tolist(), "distance_between_frames": change.tolist()}
    if isinstance(subject.model, HasStraightness):
        summary["straightness_per_dimension"] = subject.model.straightness(128, seed=0)
    moving = frames_of(states) if images else frames_in_plane(states, times) if states.shape[2:] == (2,) else ()
    return Finding(summary, plot_trajectories(states, times), moving)


def _inversion(subject: Subject) -> Finding:
    found = inversion(subject.model, subject.x[:64], subject.labels[:64])
    return Finding(found.summary(), plot_inversion(found))


def _energies(subject: Subject) -> Finding:
    found = energies(subject.model, subject.x, subject.labels)
    return Finding(found.summary(), plot_energies(found))


def _landscape(subject: Subject) -> Finding:
    found = landscape(subject.model, subject.x)
    return Finding(found.summary(), plot_landscape(found))


def _chains(subject: Subject) -> Finding:
    found = chains(subject.model, subject.x, subject.labels)
    return Finding(found.summary(), plot_chains(found))


def _features(subject: Subject) -> Finding:
    z = in_batches(subject.model, subject.model.features, subject.x)
    report, shown = scatter_of(z.double(), subject.classes), slice(None, 5_000)
    summary = {**report.summary(), "feature_dim": z.shape[1], "effective_rank": effective_rank(z)[0],
             "feature_std": feature_std(z)[0]}  # fmt: skip
    return Finding(
        summary,
        plot_scatter(dataclasses.replace(report, points=report.points[shown], labels=subject.classes[shown])),
    )


def _feature_map(subject: Subject) -> Finding:
    rows = feature_picture(subject.model, subject.x[:12])
    return Finding({"examples": rows.shape[1]}, sheet_of(rows.flatten(0, 1), columns=rows.shape[1]))


def _spectrograms(subject: Subject) -> Finding:
    """Test recordings above samples: decibels below the loudest point over time and frequency."""
    model, n = subject.model, min(2, len(subject.x))
    real, drawn = waveform(model, subject.x[:n]), waveform(model, model.sample(n, seed=0))
    above, below = spectrogram(real, model.rate), spectrogram(drawn, model.rate)
    summary = {
        "recordings": n, "rate": model.rate, "seconds": len(drawn) / model.rate,
        "loudness_of_data": float(real.square().mean().sqrt()),
        "loudness_of_samples": float(drawn.square().mean().sqrt()),
    }  # fmt: skip
    return Finding(summary, np.concatenate([above, below]))


def training_of(run: str | None) -> Finding | None:
    """Return the samples of a run folder over its training; None where fewer than two sheets are left of it."""
    sheets = sheets_of_training(run) if run is not None else {}
    if len(sheets) < 2:
        return None
    picture, frames = training_strip(sheets)
    return Finding({"steps": list(sheets)}, picture, frames, "The first samples of each step of the training")


def _clips(subject: Subject) -> Finding:
    return Finding(*drawn_strips(subject.model))


def _continuations(subject: Subject) -> Finding:
    found = continuations(subject.model, subject.x, subject.labels)
    return Finding(found.summary(), plot_continuations(found))


def _clip_reconstructions(subject: Subject) -> Finding:
    return Finding(*reconstructed_strips(subject.model, subject.x[:500], subject.labels[:500]))


def _captions(subject: Subject) -> Finding:
    return Finding(*written_captions(subject.model, subject.x[:1000], subject.labels[:1000]))


def _is_video(model: Any) -> bool:
    return len(model.shape) == 4 and medium(model) == "video"


def _neighbours(subject: Subject) -> Finding:
    report = nearest_examples(subject.model, subject.x, subject.classes)
    summary = {"same_class": report.same_class, "same_class_pixels": report.same_class_pixels,
               "classes": report.labels.tolist()}  # fmt: skip
    return Finding(summary, sheet_of(report.examples.flatten(0, 1), columns=report.examples.shape[1]))


def _masks(subject: Subject) -> Finding:
    report = hidden_patches(subject.model, subject.x)
    return Finding(
        {"explained": report.explained}, sheet_of(report.rows.flatten(0, 1), columns=report.rows.shape[1])
    )  # fmt: skip


def _decodes(model: Any) -> bool:
    return isinstance(model, Encodes) and len(model.shape) == 3


def _generates(model: Any) -> bool:
    return isinstance(model, DecodesNoise) and not isinstance(model, Encodes) and draws_images(model)


def _sounds(model: Any) -> bool:
    return model.generates and writes_sound(model)


DIAGNOSTICS: dict[str, Diagnostic] = {
    "clips": Diagnostic("Clips that were drawn, one a row", lambda m: m.generates and _is_video(m), _clips),
    "continuations": Diagnostic(
        "Test clips, and below what is drawn after the first half of their frames",
        lambda m: m.generates and _is_video(m) and m.shape[1] > 1 and takes_option(m, "given"),
        _continuations,
    ),
    "clip_reconstructions": Diagnostic(
        "Test clips, and below what the codes keep of them",
        lambda m: _is_video(m) and isinstance(m, HasCodes) and isinstance(m, Encodes),
        _clip_reconstructions,
    ),
    "captions": Diagnostic(
        "Test images, and the captions that are written of them", lambda m: isinstance(m, WritesCaptions), _captions
    ),
    "trajectories": Diagnostic("From noise to data", lambda m: isinstance(m, Travels), _trajectories),
    "denoising": Diagnostic(
        "From noise to samples: the states, and below what is seen in them",
        lambda m: isinstance(m, Denoises) and len(m.shape) == 3,
        _denoising,
    ),
    "unmasking": Diagnostic(
        "Samples after each step: what is kept, and below all that is drawn",
        lambda m: isinstance(m, Unmasks) and prior_of(m) is not None and draws_images(m),
        _unmasking,
    ),
    "spectrograms": Diagnostic("Test recordings, and below them samples", _sounds, _spectrograms),
    "energies": Diagnostic(
        "Energies of test examples, of noise, and of samples", lambda m: isinstance(m, HasEnergy), _energies
    ),
    "landscape": Diagnostic(
        "Energies over the plane, and the probability that follows",
        lambda m: isinstance(m, HasEnergy) and tuple(m.shape) == (2,),
        _landscape,
    ),
    "chains": Diagnostic(
        "Energies and states of chains, step by step",
        lambda m: isinstance(m, HasEnergy) and isinstance(m, RunsChains),
        _chains,
    ),
    "features": Diagnostic("Features of test examples", lambda m: isinstance(m, HasFeatures), _features),
    "feature_map": Diagnostic(
        "Test images, and three principal components of their features as colours",
        lambda m: isinstance(m, HasFeatures) and medium(m) == "image",
        _feature_map,
    ),
    "neighbours": Diagnostic(
        "Test images, and those nearest to each by their features",
        lambda m: isinstance(m, HasFeatures) and medium(m) == "image",
        _neighbours,
    ),
    "masks": Diagnostic(
        "Test images; what is seen; what is asked for; and the patches that look like what is told of these places",
        lambda m: isinstance(m, PredictsPatches) and medium(m) == "image" and len(m.token_grid or ()) == 2,
        _masks,
    ),
    "posterior": Diagnostic("Posterior collapse", lambda m: isinstance(m, HasPosterior), _posterior),
    "codebook": Diagnostic("Use of the codebook", lambda m: isinstance(m, HasCodes), _codebook),
    "refinement": Diagnostic(
        "Test images, and what the codes of the first stages make of them, one stage more at a time",
        lambda m: refining(m) is not None and len(m.shape) == 3,
        _refinement,
    ),
    "reconstructions": Diagnostic("Test images, and what the latents keep of them", _decodes, _reconstructions),
    "inversion": Diagnostic(
        "Test images, their latents, decoded again, and the enlarged difference",
        lambda m: isinstance(m, Inverts) and m.invertible and len(m.shape) == 3,
        _inversion,
    ),
    "interpolation": Diagnostic("Two test images, and the line between their latents", _decodes, _interpolation),
    "arithmetic": Diagnostic(
        "Latents moved along the difference of two classes' means",
        lambda m: _decodes(m) and not takes_class(m),
        _arithmetic,
    ),
    "analogies": Diagnostic(
        "A test image, and its latent under every class",
        lambda m: _decodes(m) and takes_class(m) and m.num_classes > 0,
        _analogies,
    ),
    "walk": Diagnostic("Random latents, and the great circle between each two", _generates, _walk),
    "classes": Diagnostic(
        "Each row one latent, under every class", lambda m: _generates(m) and m.num_classes > 0, _class_grid
    ),
    "truncation": Diagnostic(
        "The same latents, from truncation 0 to none",
        lambda m: _generates(m) and takes_option(m, "truncation"),
        _truncation,
    ),
    "mixing": Diagnostic(
        "Coarse styles of the row, fine styles of the column",
        lambda m: _generates(m) and isinstance(m, HasStyles),
        _mixing,
    ),
    "translation": Diagnostic(
        "The same latents, pictures moved to the right by parts of a pixel before they are drawn",
        lambda m: _generates(m) and isinstance(m, Translates),
        _translation,
    ),
    "scatter": Diagnostic("Latents of test images", lambda m: isinstance(m, Encodes), _scatter),
}
"""Name -> diagnostic, in the order in which they are shown."""
