"""Gradients inside a graph: torch.export does not follow autograd, so what it would do is written out as operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from zoo.checking import trusted

__all__ = ["gradient_of"]


class _Gradient(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            return torch.autograd.grad(self.function(x, *rest).sum(), x)[0]


def gradient_of(function: Callable[..., Tensor], examples: Sequence[Tensor]) -> nn.Module:
    """Return (x, ...) -> the gradient in x of the sum of the function's values, as a graph of any batch.

    Args:
        function: a module of rows, (B, ...) -> (B,), that has no parameter with a gradient.
        examples: inputs of three rows or so, which the function is followed on.
    """
    with trusted():  # values are not looked at, so the graph does not depend on them
        return make_fx(
            _Gradient(function),
            tracing_mode="symbolic",
            decomposition_table=_written_out(),
            _allow_non_fake_inputs=True,
        )(*examples)


def _written_out() -> dict[Any, Callable[..., Any]]:
    """Return how derivatives that runtimes do not know are said by operators that they do."""
    aten = torch.ops.aten
    return {
        **torch._decomp.core_aten_decompositions(),
        aten.convolution_backward.default: _convolution_backward,
        aten.avg_pool2d_backward.default: _average_backward,
    }


def _transposed(
    gradient: Tensor, size: Any, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor:
    """Return the transposed convolution whose result is of a size (H, W), whatever rows the strides left out."""
    out, kernel = gradient.shape[2:], weight.shape[2:]
    left = [
        n - ((o - 1) * s - 2 * p + d * (k - 1) + 1)
        for n, o, s, p, d, k in zip(size, out, stride, padding, dilation, kernel, strict=True)
    ]
    return torch.ops.aten.convolution(gradient, weight, None, stride, padding, dilation, True, left, groups)


def _convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, bias_sizes: Any, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int, mask: Any,
) -> tuple[Tensor, None, None]:  # fmt: skip
    """Return the gradient in x alone, (B, C, ...): weights have none here."""
    if transposed:
        made = torch.ops.aten.convolution(gradient, weight, None, stride, padding, dilation, False, [0, 0], groups)
        return made, None, None
    return _transposed(gradient, x.shape[2:], weight, stride, padding, dilation, groups), None, None


def _average_backward(
    gradient: Tensor, x: Tensor, kernel: Any, stride: Any, padding: Any, ceil: bool, count_padding: bool, divisor: Any
) -> Any:
    """Return the gradient in x (B, C, H, W) of means over windows: each gives its own share to all that is within."""
    if divisor is not None or any(padding):
        return NotImplemented
    stride, size = list(stride) or list(kernel), x.shape[2:]
    across = [[min(i * s + k, n) - i * s for i in range(o)] for o, n, s, k in zip(
        gradient.shape[2:], size, stride, kernel, strict=True)]  # fmt: skip
    count = torch.outer(*(gradient.new_tensor(n) for n in across))  # the last windows of a rounded-up size are smaller
    weight = x.new_ones(x.shape[1], 1, *kernel)  # (C, 1, k, k)
    wide = [(o - 1) * s + k for o, s, k in zip(gradient.shape[2:], stride, kernel, strict=True)]
    target = [max(n, w) for n, w in zip(size, wide, strict=True)]
    spread = _transposed(gradient / count, target, weight, stride, padding, [1, 1], x.shape[1])
    return spread[:, :, : size[0], : size[1]]
