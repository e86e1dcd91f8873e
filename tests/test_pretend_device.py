"""Every registered model trains, samples and scores on a device that refuses tensors of the CPU, with none there."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import warm
from pretend_device import DEVICE, DeviceMistakeError, Pretend, pretend_device, send

from zoo.abilities import has_likelihood
from zoo.model import GenerativeModel
from zoo.registry import load_registry

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


@pytest.mark.parametrize("name", warm.long(load_registry(), warm.LARGE))
def test_a_loss_and_its_gradient_stay_on_the_device(name: str) -> None:
    model = load_registry()[name].build_model()
    x = torch.rand(SMALL, *model.shape, generator=torch.Generator().manual_seed(0))
    if model.levels is not None:
        x = (x * (model.levels - 1)).round() / (model.levels - 1)
    labels = torch.arange(SMALL) % max(2, model.num_classes)
    send(model)
    with pretend_device() as device:
        terms = model.loss((x.to(device), labels.to(device)))
        if terms["loss"].requires_grad:  # two players give what each loses, without a gradient
            terms["loss"].backward()
    assert all(isinstance(value, Pretend) for value in terms.values()), {k: v.device for k, v in terms.items()}


@pytest.mark.parametrize("name", warm.long(load_registry(), warm.LARGE))
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
