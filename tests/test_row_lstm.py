"""What is particular to the Row LSTM: the triangle of pixels that it sees."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from test_raster import lively, reach

from zoo.errors import ConfigError
from zoo.families.row_lstm import RowLSTM
from zoo.nets.masked import MaskedConv2d


def _row_lstm(args: Mapping[str, Any]) -> float:
    """Live taps, the state of each row from the one above, and the head; the first row's state has no gradient."""
    C, H, W = args["shape"]
    h, k, K = args["width"], args["kernel"], args["first_kernel"]
    head = args["head"] or 2 * h
    first = (args["embedding"] or 1) * C * 2 * h * ((K // 2) * K + K // 2 + (C > 1))
    past = h * 4 * h * k
    total = first + args["depth"] * (2 * h * 4 * h * (k // 2 + 1) + past + h * 2 * h) + 2 * h * head
    total += head * args["levels"] * C
    none = (0 if args["embedding"] else H * W * first) + args["depth"] * W * past
    return 2.0 * (3 * H * W * total - none)


STEP_FLOPS: dict[str, Callable[[Mapping[str, Any]], float]] = {"RowLSTM": _row_lstm}
SMALL = {"shape": (1, 6, 10), "levels": 3, "width": 4, "depth": 1, "first_kernel": 3}


def test_a_pixel_sees_a_triangle_of_all_rows_above_it() -> None:
    """With kernels of three: two pixels to the left, in the row s above from s + 2 to the left to s to the right."""
    found = reach(lively(RowLSTM, SMALL), inputs=8).view(6, 10, 6, 10)
    for r, c, i, j in itertools.product(range(6), range(10), range(6), range(10)):
        s = r - i
        inside = c - 2 <= j < c if s == 0 else s > 0 and c - s - 2 <= j <= c + s
        assert (found[r, c, i, j] > 0) == inside, (r, c, i, j)


def test_a_first_layer_that_sees_its_own_pixel_leaks() -> None:
    model = lively(RowLSTM, SMALL)
    model.first = MaskedConv2d(1, 8, 3, mask="B").double()
    assert reach(model).diagonal().max() > 0


def test_rows_are_the_recurrence_of_the_paper() -> None:
    model = lively(RowLSTM, {**SMALL, "depth": 1})
    layer = model.layers[0]
    x = torch.randn(2, 8, 6, 10, dtype=torch.float64)
    gates = layer.seen(x)
    h = c = torch.zeros(2, 4, 10, dtype=torch.float64)
    for r in range(6):
        padded = torch.nn.functional.pad(h, (1, 1))
        state = torch.stack([padded[:, :, j : j + 10] for j in range(3)], -1)  # (B, h, W, 3)
        whole = gates[:, :, r] + torch.einsum("bhwk,ghk->bgw", state, layer.past.weight)
        o, f, i, g = whole.chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
    last = x[:, :, 5] + layer.out(h[:, :, None])[:, :, 0]
    torch.testing.assert_close(layer(x)[:, :, 5], last, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("wrong", [{"depth": 0}, {"kernel": 4}, {"shape": (3, 4, 4)}])
def test_numbers_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="depth must be at least 1"):
        RowLSTM(**{**SMALL, **wrong})
