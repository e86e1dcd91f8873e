"""What is particular to PixelSNAIL: its attention sees every earlier pixel, and none later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_raster import lively, reach

from zoo.errors import ConfigError
from zoo.families.pixelcnn import PixelCNN
from zoo.families.pixelsnail import PixelSNAIL, _Attention
from zoo.nets.gated import gate


def _snail(args: Mapping[str, Any]) -> float:
    """Live taps of the masked convolutions, the maps of each pixel, and two products over all pairs of pixels."""
    C, H, W = args["shape"]
    N, w, k, K = H * W, args["width"], args["kernel"], args["first_kernel"]
    e, keys = (args["embedding"] or 1) * C, args["heads"] * args["key"]
    first = e * w * ((K // 2) * K + K // 2 + (C > 1))
    block = args["residuals"] * (w * w * ((k // 2) * k + k // 2 + 1) + 2 * w * w)
    block += (w // C + 2) * keys + (e + w + 2) * (keys + w) + 4 * w * w
    total = N * (first + args["depth"] * block + w * args["levels"] * C)
    total += args["depth"] * (N - 1) ** 2 * (keys + w)
    return 2.0 * (3 * total - (0 if args["embedding"] else N * first))


STEP_FLOPS: dict[str, Callable[[Mapping[str, Any]], float]] = {"PixelSNAIL": _snail}
SMALL = {"shape": (1, 6, 8), "levels": 3, "width": 4, "depth": 1, "first_kernel": 3}


def test_every_earlier_pixel_is_seen_where_convolutions_alone_are_blind() -> None:
    found = reach(lively(PixelSNAIL, {**SMALL, "residuals": 1}), inputs=8)
    earlier = torch.ones_like(found).tril(-1)
    assert ((found > 0).double() == earlier).all()
    alone = reach(lively(PixelCNN, SMALL), inputs=8)
    assert (alone[earlier > 0] == 0).any()


class Unshifted(_Attention):
    """The look-alike: a pixel is among those that answer it, as in the attention of a Transformer."""

    def forward(self, x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        B, _, H, W = u.shape
        rows = [v.permute(0, 2, 3, 1).flatten(1, 2) for v in (x, u)]
        place = self.place.to(u).flatten(0, 1).expand(B, -1, -1)
        q = self.queries(rows[1], place).transpose(1, 2)
        k, v = (part.transpose(1, 2) for part in self.keys_and_values(*rows, place))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        a = a.transpose(1, 2).reshape(B, H, W, -1).permute(0, 3, 1, 2)
        return u + gate(self.out(F.elu(self.own(F.elu(u)) + self.listened(a))), self.colours)


def test_a_pixel_that_answers_itself_is_seen_by_its_own_output() -> None:
    model = lively(PixelSNAIL, SMALL)
    assert reach(model).diagonal().max() == 0
    model.blocks[0][-1].__class__ = Unshifted
    assert reach(model).diagonal().min() > 0


def test_the_first_pixel_gets_no_answer() -> None:
    model = lively(PixelSNAIL, SMALL)
    k = torch.randint(3, (2, 1, 6, 8))
    logits = model(k)[:, 0, 0, 0]
    assert torch.equal(logits[0], logits[1])


@pytest.mark.parametrize("wrong", [{"heads": 3}, {"depth": 0}, {"key": 0}, {"residuals": -1}])
def test_numbers_that_do_not_fit_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="must be at least 1"):
        PixelSNAIL(**{**SMALL, **wrong})
