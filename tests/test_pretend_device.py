"""Every registered model trains on a device that refuses tensors of the CPU, without there being one."""

from __future__ import annotations

import pytest
import torch
from pretend_device import DeviceMistakeError, Pretend, pretend_device, send

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


@pytest.mark.parametrize("name", list(load_registry()))
def test_a_loss_and_its_gradient_stay_on_the_device(name: str) -> None:
    model = load_registry()[name].build_model()
    x = torch.rand(SMALL, *model.shape, generator=torch.Generator().manual_seed(0))
    if model.levels is not None:
        x = (x * (model.levels - 1)).round() / (model.levels - 1)
    labels = torch.arange(SMALL) % max(2, model.num_classes)
    send(model)
    with pretend_device() as device:
        terms = model.loss((x.to(device), labels.to(device)))
        terms["loss"].backward()
    assert all(isinstance(value, Pretend) for value in terms.values()), {k: v.device for k, v in terms.items()}
