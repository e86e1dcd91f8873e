"""The lean AdamW: torch's own numbers, whatever happens to its state in between."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from zoo.families.transformer import Transformer
from zoo.optimizer import LeanAdamW

OPTIONS = {"lr": 1e-2, "betas": (0.8, 0.99), "weight_decay": 0.1}


def _pair(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module, LeanAdamW, torch.optim.AdamW]:
    torch.manual_seed(0)
    lean = nn.Sequential(nn.Linear(30, 50), nn.ReLU(), nn.Linear(50, 3)).to(dtype)
    plain = copy.deepcopy(lean)
    first, rest = (lambda net: list(net[0].parameters())), (lambda net: list(net[2].parameters()))
    groups = [[{"params": first(net)}, {"params": rest(net), "lr": 3e-3, "weight_decay": 0.0}] for net in (lean, plain)]
    return lean, plain, LeanAdamW(groups[0], **OPTIONS), torch.optim.AdamW(groups[1], fused=True, **OPTIONS)


def _steps(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range, skip: tuple[int, ...] = ()) -> None:
    """Train on fixed noise; in the steps of ``skip`` the last bias gets no gradient."""
    for i in steps:
        x = torch.randn(8, 30, generator=torch.Generator().manual_seed(i), dtype=net[0].weight.dtype)
        optimizer.zero_grad()
        net(x).pow(2).sum().backward()
        if i in skip:
            net[2].bias.grad = None
        for group in optimizer.param_groups:
            group["lr"] *= 0.99
        optimizer.step()


def _assert_same(a: nn.Module, b: nn.Module, one: torch.optim.Optimizer, other: torch.optim.Optimizer) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q)
    states = one.state_dict()["state"], other.state_dict()["state"]
    assert states[0].keys() == states[1].keys()
    for key, state in states[0].items():
        assert state.keys() == states[1][key].keys()
        assert all(torch.equal(value, states[1][key][name]) for name, value in state.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lean_steps_are_those_of_torch(dtype: torch.dtype) -> None:
    lean, plain, one, other = _pair(dtype)
    for net, optimizer in ((lean, one), (plain, other)):
        _steps(net, optimizer, range(20))
    assert one._kept is not None  # the fast way was the one taken
    _assert_same(lean, plain, one, other)


def test_a_parameter_without_a_gradient_is_left_alone() -> None:
    lean, plain, one, other = _pair()
    for net, optimizer in ((lean, one), (plain, other)):
        _steps(net, optimizer, range(20), skip=(0, 7, 8, 15))
    counts = {int(state["step"]) for state in one.state.values()}
    assert counts == {16, 20}
    _assert_same(lean, plain, one, other)


def test_saved_state_goes_on_in_either_optimizer() -> None:
    lean, plain, one, other = _pair()
    for net, optimizer in ((lean, one), (plain, other)):
        _steps(net, optimizer, range(5))
    _steps(lean, one, range(5, 6))
    _steps(plain, other, range(5, 6))
    saved = copy.deepcopy(one.state_dict()), copy.deepcopy(other.state_dict())
    one.load_state_dict(saved[1])  # each goes on from what the other saved
    other.load_state_dict(saved[0])
    for net, optimizer in ((lean, one), (plain, other)):
        _steps(net, optimizer, range(6, 12))
    _assert_same(lean, plain, one, other)


def test_closure_makes_the_gradients_and_its_value_is_returned() -> None:
    lean, plain, one, other = _pair()
    x = torch.randn(4, 30)
    for _ in range(3):
        found = []
        for net, optimizer in ((lean, one), (plain, other)):

            def closure(net: nn.Module = net, optimizer: torch.optim.Optimizer = optimizer) -> torch.Tensor:
                optimizer.zero_grad()
                loss = net(x).pow(2).sum()
                loss.backward()
                return loss

            found.append(optimizer.step(closure))
        assert torch.equal(*found)
    _assert_same(lean, plain, one, other)


def test_a_group_that_joins_later_and_a_scaled_gradient_are_taken_in() -> None:
    lean, plain, one, other = _pair()
    extra = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))]
    for net, optimizer, more in ((lean, one, extra[0]), (plain, other, extra[1])):
        _steps(net, optimizer, range(3))
        optimizer.add_param_group({"params": [more]})
        for i in range(3, 6):
            more.grad = torch.full((3,), float(i))
            net(torch.ones(2, 30)).sum().backward()
            optimizer.grad_scale = torch.tensor(4.0) if i == 4 else None
            optimizer.found_inf = torch.tensor(0.0) if i == 4 else None
            optimizer.step()
    assert torch.equal(*extra)
    _assert_same(lean, plain, one, other)


def test_a_familys_weight_decay_and_betas_reach_its_optimizer() -> None:
    model = Transformer([1, 2, 2], 4, width=8, depth=1, heads=2, weight_decay=0.3, betas=(0.8, 0.9))
    (optimizer,) = model.configure_optimizers()
    (group,) = optimizer.param_groups
    assert group["weight_decay"] == 0.3 and group["betas"] == (0.8, 0.9)
