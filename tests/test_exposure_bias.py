"""The judge of continuations, and what the benchmark of exposure bias wrote."""

from __future__ import annotations

import importlib.util
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> Any:
    spec: Any = importlib.util.spec_from_file_location("exposure_bias", BENCHMARKS / "exposure_bias.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text(n: int = 400) -> list[int]:
    return torch.randint(3, (n,), generator=torch.Generator().manual_seed(0)).tolist()


@pytest.mark.parametrize("order", [1, 2, 4])
def test_probabilities_of_a_judge_sum_to_one_after_any_history(benchmark: Any, order: int) -> None:
    judge = benchmark.NGram(text(), 4, order)  # one of the characters is never seen
    for length in range(4):
        for h in itertools.product(range(4), repeat=length):
            assert sum(judge.probability(h, c) for c in range(4)) == pytest.approx(1)
            assert judge.probability(h, 3) > 0


def test_a_judge_counts_what_it_says(benchmark: Any) -> None:
    seen = [0, 1, 0, 1, 0, 2]
    judge = benchmark.NGram(seen, 3, order=2, a=4.0)
    single = [(seen.count(c) + 4 / 3) / (6 + 4) for c in range(3)]
    assert judge.probability((), 1) == pytest.approx(single[1])
    assert judge.probability((2, 0), 1) == pytest.approx((2 + 4 * single[1]) / (3 + 4))
    rows = torch.tensor([[2, 0, 1], [0, 1, 1]])
    bits = judge.bits(rows, 1)
    assert bits.shape == (2, 2) and float(bits[0, 1]) == pytest.approx(-math.log2(judge.probability((0,), 1)))


def test_a_judge_prefers_the_text_it_was_counted_on_to_another(benchmark: Any) -> None:
    chain = [0]
    noise = torch.rand(4_000, generator=torch.Generator().manual_seed(1)).tolist()
    for u in noise:
        chain.append((chain[-1] + 1) % 3 if u < 0.9 else chain[-1])
    judge = benchmark.NGram(chain[:3_000], 3, order=3)
    held, other = torch.tensor([chain[3_000:3_500]]), torch.tensor([text(500)])
    entropy = -0.9 * math.log2(0.9) - 0.1 * math.log2(0.1)
    assert float(judge.bits(held, 3).mean()) == pytest.approx(entropy, abs=0.1)
    assert float(judge.bits(other, 3).mean()) > 1.5


def test_arms_end_where_they_say(benchmark: Any) -> None:
    arms = benchmark.arms(400, 128)
    assert arms["teacher forcing"] == {}
    from zoo.maths.scheduled_sampling import teacher_probability as eps

    ends = {n: eps(o["scheduled"], o["scheduled_k"], 300) for n, o in arms.items() if "scheduled" in o}
    assert ends["scheduled, linear to 1/2"] == pytest.approx(0.5) and ends["scheduled, linear to 0"] == 0
    assert ends["scheduled, inverse sigmoid"] < 0.05 and arms["short pieces first"]["curriculum"] == 16


def test_the_table_has_every_arm_and_only_numbers(benchmark: Any) -> None:
    lines = (BENCHMARKS / "results" / "exposure_bias.md").read_text(encoding="utf-8").splitlines()
    rows = {
        line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[1:] for line in lines if line.startswith("|")
    }
    assert set(benchmark.arms(100, 128)) <= set(rows)
    for name in benchmark.arms(100, 128):
        steps, test, *quarters, drift = rows[name]
        assert int(steps) > 100 and 1 < float(test) < 7 and all(math.isfinite(float(q)) for q in quarters)
        assert float(drift) == pytest.approx(float(quarters[-1]) - float(quarters[0]), abs=0.002)
