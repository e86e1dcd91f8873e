"""Samples that are points, by their transport and by their neighbours; and the table of samplers on a Gaussian."""

from __future__ import annotations

import importlib.util
import math
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.data.base import Split, TensorData
from zoo.data.toys import EightGaussians
from zoo.metrics.clouds import cloud_estimates
from zoo.model import Batch, ImplicitModel

MEAN, SPREAD = torch.tensor([0.5, -1.0]), torch.tensor([1.0, 0.5])
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def normal(n: int, seed: int) -> Tensor:
    return MEAN + SPREAD * torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))


class Normal(TensorData):
    """Points of a normal law."""

    name, shape, levels = "normal", (2,), None

    def read(self, split: str) -> Split:
        return normal(800, {"train": 1, "validation": 2, "test": 3}[split]), torch.zeros(800, dtype=torch.int64)


class Sampler(ImplicitModel):
    """That law, or one of another width; no likelihood and no energy."""

    family, shape, levels = "transport", (2,), None

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        self.width = nn.Parameter(torch.tensor(width))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self.width.square()}

    def draw(self, n: int, generator: torch.Generator, labels: Tensor | None) -> Tensor:
        return MEAN + self.width * SPREAD * torch.randn(n, 2, generator=generator)


def test_points_are_measured_without_features_or_likelihood(tmp_path: Path) -> None:
    found = {w: zoo.evaluate(Sampler(w), Normal(), samples=200, progress=False) for w in (1.0, 0.4)}
    right, narrow = found[1.0].metrics["sinkhorn"], found[0.4].metrics["sinkhorn"]
    floor = found[1.0].floor["sinkhorn"].value
    assert set(found[1.0].metrics) == {"sinkhorn", "density", "coverage"} and right.value == pytest.approx(
        floor, abs=0.06
    )
    assert narrow.value > 3 * max(abs(right.value), 0.02)
    assert found[0.4].metrics["coverage"].value < 0.8 < found[1.0].metrics["coverage"].value
    assert found[1.0].protocol.estimators == {
        "sinkhorn": {"samples": 200, "points": 200, "clouds": 1, "eps_share": 0.05},
        "density": {"samples": 200, "points": 200, "neighbours": 5},
    }


def test_clouds_that_are_moved_are_as_far_as_their_way() -> None:
    a, b = normal(400, 1), normal(400, 2)  # one pair of clouds of 250
    near, _, _ = cloud_estimates(a, b)["sinkhorn"]
    far, _, _ = cloud_estimates(a + 3, b)["sinkhorn"]
    assert abs(near) < 0.08 and far == pytest.approx(18, rel=0.08)  # |(3, 3)|^2
    assert cloud_estimates(a, a)["sinkhorn"][0] == pytest.approx(0, abs=1e-4)


def test_a_ring_is_no_eight_gaussians() -> None:
    data, generator = EightGaussians(), torch.Generator().manual_seed(4)
    train, test = (data.split(split)[0] for split in ("train", "test"))
    angle = 2 * math.pi * torch.rand(1000, generator=generator)
    distance = data.radius + data.scale * torch.randn(1000, generator=generator)
    ring = distance[:, None] * torch.stack([angle.cos(), angle.sin()], 1)  # (1000, 2)
    right, wrong = cloud_estimates(train, test), cloud_estimates(ring, test)
    assert right["density"][0] == pytest.approx(1, abs=0.06) and right["coverage"][0] > 0.95
    assert wrong["density"][0] < 0.4 and wrong["coverage"][0] < 0.75
    assert wrong["sinkhorn"][0] < 1.5 * right["sinkhorn"][0]  # clouds this small cannot tell them by their transport


@pytest.fixture(scope="module")
def table() -> ModuleType:
    path = BENCHMARKS / "gaussian_samplers.py"
    spec: Any = importlib.util.spec_from_file_location("gaussian_samplers", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_cell_of_the_table_of_samplers_has_left_the_gaussian(table: ModuleType) -> None:
    text = (BENCHMARKS / "results" / "gaussian_samplers.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if re.match(r"\| (\w+) \| .* [-+]\d", line)]
    assert len(lines) == len(table.SCHEDULES) * len(table.SAMPLERS)
    for line in lines:
        name, sampler, *cells = [part.strip() for part in line.strip("|").split("|")]
        assert name in table.SCHEDULES and sampler in table.SAMPLERS and len(cells) == len(table.STEPS)
        values = [tuple(map(float, c.split())) for c in cells]
        assert all(abs(mean) < 3 and spread < 5 for mean, spread in values), line  # few steps may miss, none may leave
        mean, spread = values[-1]
        coarse = 0.2 if "ddim" in sampler or "euler" in sampler else 0.1  # those of order 1
        assert abs(mean) < coarse and abs(spread - 1) < coarse, line
    for name in ("sigmoid", "edm"):  # and what is written is what comes out
        for sampler in ("ddim", "heun", "euler_maruyama", "consistency"):
            assert table.cell(*table.run(table.SCHEDULES[name], sampler, 8)) in next(
                line for line in lines if line.startswith(f"| {name} | {sampler} |")
            )
