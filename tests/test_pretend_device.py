"""Every registered model trains, samples and scores on a device that refuses tensors of the CPU, with none there."""

from __future__ import annotations

from contextlib import nullcontext
from types import MethodType, SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
import warm
from pretend_device import DEVICE, DeviceMistakeError, Pretend, pretend_device, send, waits

from zoo.abilities import has_likelihood
from zoo.checking import check_within
from zoo.data.base import TensorData
from zoo.errors import DataError
from zoo.maths.constants import constants
from zoo.model import GenerativeModel
from zoo.registry import load_registry
from zoo.spec import build
from zoo.training.compute import _turn

SMALL = 4


def test_the_pretended_device_refuses_what_a_gpu_refuses() -> None:
    x = Pretend(torch.ones(3))
    with pretend_device() as device:
        assert isinstance(torch.zeros(3, device=device) + x, Pretend) and isinstance(x * torch.tensor(2.0), Pretend)
        assert not isinstance(torch.zeros(3), Pretend) and not isinstance(x.cpu(), Pretend)
        for wrong in (
            lambda: x + torch.ones(3),
            lambda: torch.cat([x, torch.ones(1)]),
            lambda: torch.addcmul(torch.ones(()), x, x),
            lambda: torch.nn.functional.linear(x[None], torch.ones(2, 3)),
        ):
            with pytest.raises(DeviceMistakeError, match="a tensor of the CPU"):
                wrong()


WAITS = {
    "zoo.families.byte_pairs.BytePairs": "byte_pairs.py",  # strings are cut up by a library, on the CPU
    "zoo.families.energy_matching.EnergyMatching": "assignment.py",  # pairs are assigned by scipy, on the CPU
    "zoo.families.interpolant.Interpolant": "transport.py",  # as many iterations of Sinkhorn as its plan needs
    "zoo.families.rectified_flow.RectifiedFlow": "noise.py",  # a pair's noise is of its own seed, alike on all devices
}
"""What a step may wait for, by class: the place in the package."""


@pytest.mark.parametrize("name", warm.long(load_registry(), (*warm.LARGE, *warm.relatives(load_registry()))))
def test_steps_and_their_gradients_stay_on_the_device_and_wait_for_nothing(name: str) -> None:
    """The first step may look at the device: at a count that was loaded, or whether something is to be initialised."""
    entry = load_registry()[name]
    model = entry.build_model().train()
    x = torch.rand(SMALL, *model.shape, generator=torch.Generator().manual_seed(0))
    if model.levels is not None:
        x = (x * (model.levels - 1)).round() / (model.levels - 1)
    labels = warm.conditions(model, SMALL)
    send(model)
    model.turn = MethodType(_turn, model)  # type: ignore[method-assign]
    with pretend_device() as device:
        batch, steps = (x.to(device), labels.to(device)), 2 if model.period > 5 else max(2, model.period)
        for i in range(steps):
            model.steps_done = i
            with waits() as found:
                loss = model.training_step(batch, i)
                if model.automatic_optimization:
                    loss.backward()
            assert all(isinstance(value, Pretend) for value in model.terms.values()), model.terms
            assert i == 0 or not [f for f in found if WAITS.get(entry.model["class_path"], "nowhere") not in f], found


def test_a_step_that_waits_is_found() -> None:
    x = Pretend(torch.ones(3))
    with pretend_device() as device:
        for waiting in (
            lambda: float(x.sum()), lambda: bool((x > 0).all()), lambda: x[x > 0], lambda: x.cpu(),
            lambda: torch.tensor([1.0, 2.0], device=device), lambda: x.nonzero(), lambda: x[torch.tensor([0, 1])],
        ):  # fmt: skip
            with waits() as found:
                waiting()
            assert found
        with waits() as found:
            (x + 1).masked_fill(x > 0, 2.0).sum()
            torch.zeros(3, device=device)
            constants([1.0, 2.0], x)
        assert not found


def test_numbers_beyond_their_range_are_refused_without_waiting() -> None:
    with pretend_device(), waits() as found:
        check_within(Pretend(torch.tensor([0, 1])), 2, "labels are 0 or 1")
        with pytest.raises(RuntimeError, match="labels are 0 or 1"):
            check_within(Pretend(torch.tensor([0, 2])), 2, "labels are 0 or 1")
    assert not found
    with pytest.raises(DataError, match="labels are 0 or 1, got 2"):
        check_within(torch.tensor([0, 2]), 2, "labels are 0 or 1", lambda: ", got 2")


@pytest.mark.parametrize("kind", ["mnist", "eight_gaussians", "binary_mnist"])
def test_data_that_fit_are_copied_once_and_read_there_in_the_order_of_the_cpu(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = build(load_registry().data_spec(kind))
    data.batch_size, data.seed = 16, 3
    there = SimpleNamespace(
        strategy=SimpleNamespace(root_device=DEVICE), global_rank=0, world_size=1, overfit_batches=0,
        lightning_module=SimpleNamespace(dtype=torch.float32),
    )  # fmt: skip
    before = [[b for _, b in zip(range(3), loader, strict=False)] for loader in _loaders(data)]
    monkeypatch.setattr("zoo.data.base.room", lambda device: 2**40 if device == DEVICE else 0)
    data.trainer = there  # type: ignore[assignment]
    with pretend_device():
        for i, (loader, expected) in enumerate(zip(_loaders(data), before, strict=True)):
            resident = kind != "binary_mnist" or i > 0  # what is drawn on the CPU goes from there
            stream = iter(loader)
            for j, (x, labels) in enumerate(expected):
                with waits() as found:
                    seen = next(stream)
                on_device = data.transfer_batch_to_device(seen, DEVICE, 0)
                assert not (found and resident and j), "the order of an epoch is moved once"
                assert isinstance(seen[0], Pretend) is resident and isinstance(on_device[0], Pretend)
                assert torch.equal(getattr(seen[0], "held", seen[0]), x) and torch.equal(on_device[1].held, labels)
        again = [data._read("train")[0], data._read("train")[0]]
    assert again[0] is again[1] and not isinstance(data.split("train")[0], Pretend)
    data.on_gpu = False
    assert data._read("train")[0] is data.split("train")[0]


def _loaders(data: TensorData) -> list[Any]:
    return [data.train_dataloader(), data.val_dataloader()]


def test_training_noise_of_a_generator_of_the_cpu_is_alike_on_every_device() -> None:
    model = tiny.vae().model
    noise = []
    for _ in range(2):
        model.set_noise([torch.Generator().manual_seed(rank) for rank in range(2)])
        with pretend_device():
            noise.append((model.randn(4, 2), model.rand(4, 2)))
        send(model)
    for here, there in zip(*noise, strict=True):
        assert isinstance(there, Pretend) and torch.equal(here, there.held)


@pytest.mark.parametrize(
    "name", warm.long(load_registry(), (*warm.LARGE, *warm.relatives(load_registry()), "cosmos_prior"))
)
def test_samples_and_scores_stay_on_the_device_and_are_those_of_the_cpu(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise of a seed is drawn on the CPU, so that it is the same everywhere; this device computes as the CPU does."""
    torch.manual_seed(0)
    entry = load_registry()[name]
    by_pixels = entry.family == "autoregressive" and len(entry.model["init_args"].get("shape", ())) == 3
    model = entry.build_model(**({"shape": [1, 4, 4]} if by_pixels else {})).eval()
    if not model.generates:
        pytest.skip("draws no samples")
    steps = {"steps": 2} if isinstance(model.sampler({}).get("steps"), int) else {}
    short = {"length": 8} if len(model.shape) == 1 and "length" in model.sampling_options() else {}
    before = _answers(model, {**steps, **short})
    send(model)
    monkeypatch.setattr(
        torch, "inference_mode", lambda mode=True: torch.no_grad() if mode else nullcontext()
    )  # which has no tensors of a class of their own
    with pretend_device():
        after = _answers(model, {**steps, **short})
    for what, value in after.items():
        assert isinstance(value, Pretend), f"{what} is on {value.device}"
        torch.testing.assert_close(value.held, before[what], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def _answers(model: GenerativeModel, options: dict[str, Any]) -> dict[str, torch.Tensor]:
    found = {"samples": model.sample(2, seed=0, **options)}
    if has_likelihood(model) and model.likelihood() in ("exact", "elbo"):  # others take hundreds of calls
        labels = {"labels": 1} if model.num_classes else {}
        found["log_prob"] = model.log_prob(found["samples"].clamp(0, 1), seed=0, **labels)
    return found


def test_latents_are_scaled_before_the_model_is_placed() -> None:
    """Lightning calls ``setup`` when the module says that it is on the device, and its weights are not there yet."""
    entry = load_registry()["latent_diffusion-mnist"]
    model, data = entry.build_model(), entry.build_data(limit=400)
    model._device = DEVICE
    model._trainer = SimpleNamespace(datamodule=data)  # type: ignore[assignment]
    with pretend_device():
        model.setup("fit")
    assert model.scale > 0 and model.scale != 1
