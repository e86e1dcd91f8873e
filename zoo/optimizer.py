"""What moves the parameters: torch's fused AdamW, without most of the Python around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["LeanAdamW"]


class LeanAdamW(torch.optim.AdamW):
    """`torch.optim.AdamW` with the fused kernel: the same numbers, bit for bit, and the same state.

    On a small model torch spends more time on preparing the step (looking up each parameter's state, sorting tensors by
    device and type, counting the steps of each parameter by itself) than in the kernel. Here the lists are kept from
    one step to the next, and the counters of a group lie in one tensor, of which each parameter's state holds its
    element. Whatever is out of the ordinary, such as a parameter without a gradient, another device than the CPU or
    gradients that are scaled, is left to torch's own step.

    Args:
        parameters: what is moved, or groups of it.
        options: of `torch.optim.AdamW`.

    References:
        I. Loshchilov, F. Hutter, Decoupled Weight Decay Regularization, 2017, arXiv:1711.05101; D. P. Kingma, J. Ba,
        Adam: A Method for Stochastic Optimization, 2014, arXiv:1412.6980.
    """

    _kept: list[_Kept] | None = None

    def __init__(self, parameters: Any, **options: Any) -> None:
        super().__init__(parameters, fused=True, **options)
        self._step_supports_amp_scaling = False  # who scales unscales before the step, so that clipping fits between

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move the parameters; the closure, if there is one, makes the gradients, and what it returns is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            gradients = self._gradients()
            if gradients is None:
                self._kept = None
                super().step()
                return loss
            for group, kept, grads in zip(self.param_groups, self._kept, gradients, strict=True):
                kept.counters.add_(1)
                torch._fused_adamw_(
                    group["params"], grads, kept.means, kept.squares, [], kept.counts,
                    lr=group["lr"], beta1=group["betas"][0], beta2=group["betas"][1],
                    weight_decay=group["weight_decay"], eps=group["eps"], amsgrad=False, maximize=False,
                )  # fmt: skip
        return loss

    def _gradients(self) -> list[list[Tensor]] | None:
        """Return the gradients of each group, or None where torch's own step is the one to take."""
        if not hasattr(torch, "_fused_adamw_"):  # a private name of torch's
            return None
        if getattr(self, "grad_scale", None) is not None or getattr(self, "found_inf", None) is not None:
            return None
        gradients = [[p.grad for p in group["params"]] for group in self.param_groups]
        if any(g is None for grads in gradients for g in grads):
            return None
        if self._kept is None:
            kept = [_keep(group, self.state) for group in self.param_groups]
            if None in kept:
                return None
            self._kept = kept
        return gradients

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        if not set_to_none:
            super().zero_grad(set_to_none=False)
            return
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._kept = None
        super().load_state_dict(state_dict)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self._kept = None
        super().add_param_group(param_group)


class _Kept:
    """Lists of a group's state, in the order of its parameters."""

    def __init__(self, states: list[dict[str, Tensor]]) -> None:
        self.means = [state["exp_avg"] for state in states]
        self.squares = [state["exp_avg_sq"] for state in states]
        self.counters = torch.stack([state["step"] for state in states])
        self.counts = list(self.counters.unbind())
        for state, count in zip(states, self.counts, strict=True):
            state["step"] = count


def _keep(group: dict[str, Any], state: dict[Tensor, dict[str, Tensor]]) -> _Kept | None:
    """Keep the state of a group, if it is an ordinary one that has a state already."""
    params = group["params"]
    ordinary = not (group["amsgrad"] or group["maximize"] or isinstance(group["lr"], Tensor))
    ordinary = ordinary and all(
        p.device.type == "cpu" and p.dtype == params[0].dtype and p.is_floating_point() and not p.grad.is_sparse
        for p in params
    )
    if not ordinary or not all(state.get(p) for p in params):
        return None
    return _Kept([state[p] for p in params])
