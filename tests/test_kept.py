"""What was saved before still loads, and equal seeds still give equal bits: bundled weights, runs, model folders.

``fixtures/before`` holds run folders of tiny models and the model folders made of them, in the form in which they were
written before classes moved; ``fixtures/samples.npz`` what these and all bundled models drew and scored. Record what is
missing there, and nothing else, by ``python tests/test_kept.py [NAME ...]``.

Floating-point sums depend on the processor's instructions. On the processor that recorded, bits are compared;
elsewhere numbers, and of models that draw value by value, where a last bit can turn a value and all after it, scores
only.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from zoo.registry import load_registry
from zoo.runs import load_run

FIXTURES = Path(__file__).parent / "fixtures"
SAMPLES = FIXTURES / "samples.npz"
BEFORE = sorted(p.name for p in (FIXTURES / "before").iterdir())
FOLDERS = [f"{where}/{name}" for name in BEFORE for where in ("run", "model")]
BUNDLED = [f"{e.name}@{e.weights['sha256'][:8]}" for e in load_registry().values() if e.pretrained]  # of these weights
KEYS = [*BUNDLED, *FOLDERS]
VALUE_BY_VALUE = ("pixelcnn", "transformer", "wavenet", "vq_vae", "fsq", "code_prior")


def processor() -> str:
    """Return what decides which kernels torch takes here."""
    lines = (
        Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else [platform.processor()]
    )
    names = ("vendor_id", "cpu family", "model\t", "model name", "flags", "cache size")
    facts = sorted({line for line in lines if line.startswith(names)})
    facts += [torch.__version__, torch.backends.cpu.get_cpu_capability()]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def load(key: str) -> Any:
    """Return a bundled model by name, or what is in a folder of before, as ``run/NAME`` or ``model/NAME``."""
    where, _, name = key.rpartition("/")
    if not where:
        return zoo.load(name.partition("@")[0])
    folder = FIXTURES / "before" / name / where
    return load_run(folder) if where == "run" else zoo.load(folder)


@torch.no_grad()
def answers(model: Any) -> dict[str, np.ndarray]:
    """Return two samples with seed 0, and the score of two examples where the model has one."""
    steps = model.sampler({}).get("steps")
    options = {"steps": 4} if isinstance(steps, int) and steps > 4 else {}
    found = {"samples": model.sample(2, seed=0, **options)}
    if getattr(model, "has_likelihood", False) and model.shape != (2,):
        levels = model.levels or 256
        x = torch.randint(levels, (2, *model.shape), generator=torch.Generator().manual_seed(0)) / (levels - 1)
        solver = getattr(model, "likelihood_solver", None)
        if solver is None:  # an ODE takes seconds
            labels = {"labels": [0, 1]} if model.num_classes else {}
            found["log_prob"] = model.log_prob(x, seed=0, **labels)
    return {name: value.numpy() for name, value in found.items()}


def record(*names: str) -> None:
    """Add what the fixture does not hold yet, of these models or of all, with the processor where it is another."""
    torch.set_num_threads(1)
    known = dict(np.load(SAMPLES)) if SAMPLES.is_file() else {"processor": np.array(processor())}
    here = {"processor": np.array(processor())} if str(known["processor"]) != processor() else {}
    for key in KEYS:
        if f"{key}:samples" not in known and (not names or key.partition("@")[0] in names):
            known |= {f"{key}:{name}": value for name, value in {**answers(load(key)), **here}.items()}
    np.savez_compressed(SAMPLES, **known)


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(SAMPLES) as file:
        return dict(file)


@pytest.mark.parametrize("key", KEYS)
def test_equal_seeds_give_what_they_gave_before(key: str, recorded: dict[str, np.ndarray]) -> None:
    if f"{key}:samples" not in recorded:
        pytest.skip("these weights are newer than the fixture")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        now = answers(load(key))
    finally:
        torch.set_num_threads(threads)
    before = {name: recorded[f"{key}:{name}"] for name in now}
    if str(recorded.get(f"{key}:processor", recorded["processor"])) == processor():
        for name, value in now.items():
            assert value.dtype == before[name].dtype and np.array_equal(value, before[name]), f"{key}: other {name}"
        return
    assert now["samples"].shape == before["samples"].shape and np.isfinite(now["samples"]).all()
    if not any(word in key for word in VALUE_BY_VALUE):
        assert np.abs(now["samples"] - before["samples"]).mean() < 1e-2
    if "log_prob" in now:
        np.testing.assert_allclose(now["log_prob"], before["log_prob"], rtol=1e-3)


def test_the_fixture_is_of_use(recorded: dict[str, np.ndarray]) -> None:
    assert sum(f"{key}:samples" in recorded for key in BUNDLED) >= len(BUNDLED) // 2
    assert all(f"{key}:samples" in recorded for key in FOLDERS)


@pytest.mark.parametrize("name", BEFORE)
def test_a_run_of_before_and_the_folder_made_of_it_hold_the_same_weights(name: str) -> None:
    run, folder = load(f"run/{name}").released().state_dict(), load(f"model/{name}").state_dict()
    assert run.keys() == folder.keys()
    assert all(torch.equal(value, folder[key]) for key, value in run.items())


if __name__ == "__main__":
    record(*sys.argv[1:])
