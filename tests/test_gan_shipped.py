"""What the bundled adversarial models reach, read from the results that ship with them."""

from __future__ import annotations

import pytest

from zoo import results
from zoo.registry import load_registry, pretrained_folder

SHIPPED = [name for name, entry in load_registry().items() if entry.family == "gan" and entry.weights]
DIGITS = [name for name in SHIPPED if load_registry()[name].dataset == "mnist"]
TRACK = 50.0  # TFLOP


def value(name: str, metric: str) -> float:
    return results.read(pretrained_folder(name)).metrics[metric].value


@pytest.mark.parametrize("name", SHIPPED)
def test_bundle_is_small_and_within_the_track(name: str) -> None:
    assert results.read(pretrained_folder(name)).cost.training_tflop <= TRACK
    assert sum(p.stat().st_size for p in pretrained_folder(name).iterdir()) <= 4_000_000


@pytest.mark.parametrize("name", [n for n in DIGITS if n not in ("gan-mnist", "wgan-mnist")])
def test_no_digit_is_lost(name: str) -> None:
    assert min(value(name, f"digit_share_{k}") for k in range(10)) >= 0.03


def test_the_best_of_the_family_is_far_ahead_of_the_original() -> None:
    best = min(value(name, "fid") for name in DIGITS)
    assert best <= value("wgan_gp-mnist", "fid")
    assert best <= value("gan-mnist", "fid") / 2


@pytest.mark.parametrize("name", [n for n in DIGITS if n not in ("gan-mnist", "wgan-mnist", "wgan_gp-mnist")])
def test_most_samples_are_clearly_a_digit(name: str) -> None:
    assert value(name, "confident_share") >= 0.85


def test_conditional_model_draws_the_digit_that_is_asked_for() -> None:
    assert value("sn_gan_cond-mnist", "accuracy") >= 0.95
