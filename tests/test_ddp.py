"""Two processes give the parameters of one: same batches, same noise, gradients averaged."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import warm
from conftest import collect

from zoo.registry import load_registry

DOUBLE = ("--trainer.precision", "64-true")
STEPS, BATCH = 6, 4
BATCHWISE = {
    "zoo.families.dcgan.DCGAN": (
        *("--model.generator.init_args.batch_norm", "false"), *("--model.critic.init_args.batch_norm", "false"),
    ),
    "zoo.families.biggan.BigGAN": ("--model.generator.init_args.batch_norm", "false"),
}  # fmt: skip
"""Batch normalisation is switched off here: each process normalises by the statistics of its own share of a batch."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _two(name: str, folder: Path, run_forked, *more: str) -> None:
    port = _free_port()
    started = [
        run_forked(warm.train_rank, name, str(folder), STEPS, BATCH, rank, 2, port, *DOUBLE, *more, start=True)
        for rank in (0, 1)
    ]
    for process, queue in started:
        collect(process, queue, timeout=180)


@pytest.mark.parametrize("name", warm.one_a_class(warm.DEAR_TOGETHER))
def test_two_processes_equal_one(name: str, tmp_path: Path, run_forked) -> None:
    """In float64, one process that draws both ranks' noise on the joined batch reaches the same weights and EMA."""
    entry = load_registry()[name]
    more = ("--data.limit", "32")
    if "Binary" in entry.data["class_path"]:  # dynamic binarisation draws a batch's pixels for each rank
        more += ("--data", "zoo.data.mnist.ThresholdMNIST")
    more += BATCHWISE.get(entry.model["class_path"], ())
    _two(name, tmp_path / "two", run_forked, *more)
    run_forked(warm.train_both, name, str(tmp_path / "one"), STEPS, 2 * BATCH, *DOUBLE, *more)
    assert warm.difference(tmp_path / "one", tmp_path / "two") < 1e-8  # sums in another order, through spectra


def test_ranks_draw_different_noise(tmp_path: Path, run_forked) -> None:
    """The law above would fail if both ranks drew the first rank's noise."""
    _two("vae-mnist", tmp_path / "two", run_forked, "--data.limit", "32")
    run_forked(warm.train, "vae-mnist", str(tmp_path / "one"), STEPS, 2 * BATCH, *DOUBLE, "--data.limit", "32")
    assert warm.difference(tmp_path / "one", tmp_path / "two") > 1e-6
