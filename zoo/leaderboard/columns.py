"""The columns of a table: where each value comes from, which way is better, and which protocol it depends on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zoo.results import Metric, Result

__all__ = ["ALIASES", "COLUMNS", "DISTANCES", "Column", "Value", "likelihood", "mark_of"]

Value = float | int | str | None


@dataclass(frozen=True)
class Column:
    """One column: its key, its heading, where its value comes from and how it is shown.

    Attributes:
        best: ``low`` or ``high``, the direction in which rows are sorted.
        part: which protocol its numbers depend on: ``samples``, ``plain``, ``views``, ``likelihood``, ``features``,
            ``energies``, ``prediction``, ``captions``, ``factors``, ``classes``,
            ``speed`` or none.
        narrow: shown where width is short.
        note: what it is, in a sentence.
    """

    key: str
    heading: str
    value: Callable[[Result], Value]
    show: str = "{}"
    best: str = "low"
    part: str = ""
    narrow: bool = True
    note: str = ""


def _measured(key: str, heading: str, show: str, best: str, part: str, narrow: bool = True, *, note: str) -> Column:
    """Return the column of the metric of this name."""

    def value(result: Result) -> Value:
        return result.metrics[key].value if key in result.metrics else None

    return Column(key, heading, value, show, best, part, narrow, note)


def _size(name: str) -> Callable[[Result], Value]:
    return lambda result: abs(result.metrics[name].value) if name in result.metrics else None


_UNITS = {"bits_per_dim": "bits/dim", "bits_per_character": "bits/character", "bits_per_sample": "bits/sample"}


def likelihood(result: Result) -> tuple[str, Metric] | None:
    """Return the unit (``bits/dim``, ``bits/character``, ``nats`` ...) and value of a result's likelihood, if any."""
    for name, metric in result.metrics.items():
        if name in _UNITS:
            return _UNITS[name], metric
    return ("nats", result.metrics["nats"]) if "nats" in result.metrics else None


def mark_of(result: Result) -> str:
    """Return what stands before a likelihood: nothing where it is exact, ≤ for a bound, ~ for an estimate of log Z."""
    kind = result.protocol.likelihood or ""
    return "" if kind in ("exact", "ode") else "~ " if kind.startswith(("ais", "nce")) else "≤ "


def _likelihood_value(result: Result) -> Value:
    found = likelihood(result)
    return found[1].value if found else None


_ALL = (
    Column("name", "model", lambda r: r.identity.name, note="Name of the registry, of a Hub repository or of a run."),
    Column("family", "family", lambda r: r.identity.family, note="Family of generative models."),
    Column(
        "likelihood", "-log p", _likelihood_value, "{:.3f}", "low", "likelihood",
        note="Negative log-likelihood of a test example; ≤ marks a bound, which the true value does not exceed, ~ an "
        "estimate, which is not ranked.",
    ),
    _measured(
        "fid", "FID", "{:.2f}", "low", "samples",
        note="Fréchet distance between features of samples and of test images.",
    ),
    _measured(
        "frechet_lite0", "Fréchet, lite0", "{:.2f}", "low", "samples",
        note="Fréchet distance between features of EfficientNet-Lite0: not the FID of papers, and compared with its "
        "floor only.",
    ),
    _measured(
        "fid_plain", "FID, plain", "{:.2f}", "low", "plain",
        note="The same of samples that are simply drawn: unguided, not chosen by a critic, at temperature 1.",
    ),
    _measured(
        "frechet_random", "Fréchet, random", "{:.4f}", "low", "views", False,
        note="Fréchet distance between features of random convolutions, which no training has shaped.",
    ),
    _measured(
        "frechet_pca", "Fréchet, PCA", "{:.4f}", "low", "views", False,
        note="Fréchet distance between the first principal components of pixels.",
    ),
    _measured(
        "frechet_clips", "Fréchet, clips", "{:.2f}", "low", "samples",
        note="Fréchet distance between the digit classifier's features of clips, mean and deviation over their frames; "
        "it is not the FVD of papers.",
    ),
    _measured(
        "frame_consistency", "consistency", "{:.3f}", "high", "samples", False,
        note="Share of neighbouring frames of a clip that the classifier takes for the same digit.",
    ),
    _measured(
        "prediction_error", "prediction", "{:.4f}", "low", "prediction",
        note="Mean squared error a pixel of the later half of test clips, drawn given the first half.",
    ),
    _measured(
        "prediction_error_copy", "copying", "{:.4f}", "low", "prediction", False,
        note="The same of the last given frame, copied: what a prediction has to beat.",
    ),
    _measured(
        "prompt_exact", "as asked", "{:.3f}", "high", "samples", False,
        note="Share of samples of which the data would say the very words that they were drawn for.",
    ),
    _measured(
        "mig", "MIG", "{:.3f}", "high", "factors",
        note="Mutual information gap: how far each factor that made the data has one latent of its own, from 0 to 1.",
    ),
    _measured(
        "class_accuracy", "classes told", "{:.3f}", "high", "classes", False,
        note="Share of test examples that the model itself puts into their class.",
    ),
    _measured(
        "caption_exact", "captions", "{:.3f}", "high", "captions",
        note="Share of test images that the model gives their own caption, letter by letter.",
    ),
    _measured(
        "caption_nats", "-log p(text | image)", "{:.2f}", "low", "captions", False,
        note="Negative log-likelihood of a test caption given its image, exact, in nats.",
    ),
    _measured(
        "text_nats", "-log p(text)", "{:.2f}", "low", "captions", False,
        note="Negative log-likelihood of a test caption, exact, in nats.",
    ),
    _measured(
        "kid", "KID", "{:.4f}", "low", "samples",
        note="Kernel distance (unbiased squared MMD) between the same features; may fall below 0.",
    ),
    _measured(
        "inception_score", "IS", "{:.2f}", "high", "samples", False,
        note="Inception score of the samples under the extractor's own classes.",
    ),
    _measured(
        "precision", "precision", "{:.3f}", "high", "samples",
        note="Share of samples that lie within the real images' neighbourhoods.",
    ),
    _measured(
        "recall", "recall", "{:.3f}", "high", "samples",
        note="Share of real images that lie within the samples' neighbourhoods.",
    ),
    _measured(
        "density", "density", "{:.3f}", "high", "samples", False,
        note="Mean number of real neighbourhoods a sample lies in, over their size; about 1 is ideal.",
    ),
    _measured(
        "coverage", "coverage", "{:.3f}", "high", "samples", False,
        note="Share of real neighbourhoods that hold a sample.",
    ),
    _measured(
        "sinkhorn", "Sinkhorn", "{:.4f}", "low", "samples", False,
        note="Debiased entropic transport cost between samples and test examples, where these are points.",
    ),
    _measured(
        "frechet_audio", "Frechet, audio", "{:.2f}", "low", "samples", False,
        note="Frechet distance in dB squared between mel bands of samples and of test recordings, and how both move.",
    ),
    _measured(
        "spectrum_distance", "spectrum", "{:.2f}", "low", "samples", False,
        note="Log-spectral distance in dB between the mean spectra of samples and of test recordings.",
    ),
    _measured(
        "vocoded_distance", "vocoded", "{:.2f}", "low", "samples", False,
        note="Log-spectral distance in dB of test recordings from what is made of their spectrograms.",
    ),
    _measured(
        "accuracy", "accuracy", "{:.3f}", "high", "samples", False,
        note="Share of conditional samples that the classifier puts into the class that was asked for.",
    ),
    _measured(
        "confident_share", "confident", "{:.3f}", "high", "samples", False,
        note="Share of samples that the classifier puts into some class with more than 90 %.",
    ),
    _measured(
        "copied_share", "copied", "{:.3f}", "low", "samples", False,
        note="Share of samples as near to a training image as the nearest 1 % of unseen images; 0.01 is expected.",
    ),
    _measured(
        "probe_accuracy", "probe", "{:.3f}", "high", "features",
        note="Accuracy of a linear probe on frozen features, to be compared with its two controls.",
    ),
    _measured(
        "probe_accuracy_pixels", "probe, pixels", "{:.3f}", "high", "features", False,
        note="The same probe on the values of the examples themselves: a control.",
    ),
    _measured(
        "probe_accuracy_untrained", "probe, untrained", "{:.3f}", "high",
        "features", False, note="The same probe on the features of the encoder before training: a control.",
    ),
    _measured(
        "probe_accuracy_1pct", "probe 1 %", "{:.3f}", "high", "features", False,
        note="Accuracy of a linear probe that sees one label in a hundred, the mean of five draws of them.",
    ),
    _measured(
        "knn_accuracy", "kNN", "{:.3f}", "high", "features", False,
        note="Accuracy of the majority of the 20 training examples whose features are nearest by cosine.",
    ),
    _measured(
        "motion_accuracy", "motion", "{:.3f}", "high", "features",
        note="Accuracy of a linear probe of the direction in which a clip's digit sets out, one of eight.",
    ),
    _measured(
        "effective_rank", "rank", "{:.1f}", "high", "features", False,
        note="Exponential of the entropy of the features' singular values; 1 after collapse.",
    ),
    Column(
        "energy_gap", "energy gap", _size("energy_gap"), "{:.2f}", "low", "energies", False,
        note="Distance of the mean energies of test examples and samples, in standard deviations; 0 where they agree.",
    ),
    _measured(
        "auroc_noise", "AUROC noise", "{:.3f}", "high", "energies", False,
        note="Share of pairs in which uniform noise has a higher energy than a test example.",
    ),
    _measured(
        "auroc_other", "AUROC other", "{:.3f}", "high", "energies", False,
        note="Share of pairs in which an example of other data, which the protocol names, has a higher energy than a "
        "test example.",
    ),
    Column("parameters", "parameters", lambda r: r.cost.parameters, "{:,}", note="Trainable numbers."),
    Column(
        "training_tflop", "TFLOP", lambda r: r.cost.training_tflop, "{:.1f}",
        note="Training compute of all stages and players, in 1e12 operations.",
    ),
    Column(
        "samples_per_second", "samples/s", lambda r: r.cost.samples_per_second, "{:,.1f}", "high", "speed",
        note="Samples drawn in a second, in large batches, on the hardware that the protocol names.",
    ),
    Column(
        "latency_seconds", "latency s", lambda r: r.cost.latency_seconds, "{:.3g}", "low", "speed", False,
        note="Seconds for one sample, alone.",
    ),
    Column(
        "network_calls_per_sample", "calls", lambda r: r.cost.network_calls_per_sample, "{:,}", narrow=False,
        note="Evaluations of the network that a batch of samples takes.",
    ),
)  # fmt: skip
COLUMNS = {c.key: c for c in _ALL}
DISTANCES = ("fid", "frechet_lite0", "frechet_clips", "kid", "fid_plain")
"""Columns whose numbers say how their samples were drawn, and how far other seeds move them."""
ALIASES = {
    "bits_per_dim": "likelihood", "nats": "likelihood", "is": "inception_score", "model": "name",
    "tflop": "training_tflop", "calls": "network_calls_per_sample",
}  # fmt: skip
