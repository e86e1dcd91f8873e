"""V-JEPA: tubes through all frames, time that matters, and a probe of motion that finds what there is to find."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from test_i_jepa import trunk_flops
from torch import Tensor

from zoo.data.moving_digits import MovingDigits
from zoo.errors import ConfigError
from zoo.evaluation.motion import motion_estimates
from zoo.families.v_jepa import VJEPA, tubes

GRID, ASPECT = (4, 4, 4), (0.75, 1.5)


def v_jepa_flops(args: Mapping[str, Any]) -> float:
    """A pass of all patches; for each of two masks one of the context and back, and one of the predictor and back."""
    _, *size = args["shape"]
    t, h, w = (s // p for s, p in zip(size, args["patch"], strict=True))
    d, e, N = args["width"], args["predictor_width"], t * h * w
    K, P = t * round(0.5 * h * w), t * (h * w - 2)
    first, whole, part = (math.prod(args["patch"]) * d, *(trunk_flops(n, d, args["depth"]) for n in (N, K)))
    predicted = K * d * e + trunk_flops(K + P, e, args["predictor_depth"]) + P * e * d
    return 2.0 * (N * first + whole + 2 * (2 * K * first + 3 * part + 3 * predicted))


STEP_FLOPS: dict[str, Callable[[Mapping[str, Any]], float]] = {"VJEPA": v_jepa_flops}


def small(**options: Any) -> VJEPA:
    torch.manual_seed(0)
    sizes = {"width": 24, "depth": 1, "heads": 2, "predictor_width": 12, "predictor_depth": 1}
    return VJEPA([1, 4, 16, 16], [2, 4, 4], **{"levels": None, **sizes, **options}).eval()


def maps_of(places: Tensor, there: Tensor) -> Tensor:
    """Return how often each token is in a list, int64 (B, t, h, w)."""
    found = torch.zeros(len(places), math.prod(GRID), dtype=torch.int64)
    return found.scatter_add_(1, places.flatten(1), there.flatten(1).long()).unflatten(1, GRID)


@pytest.mark.parametrize(("count", "scale"), [(8, 0.15), (2, 0.7)])
def test_masks_are_tubes_and_part_the_tokens(count: int, scale: float) -> None:
    u = torch.rand(2000, 4 * count + 16, generator=torch.Generator().manual_seed(0))
    mask = tubes(u, GRID, scale, ASPECT, count=15, least=2)
    context, targets = maps_of(mask.context, mask.seen), maps_of(mask.targets, mask.asked)
    assert torch.equal(context + targets, torch.ones_like(context)), "each token is in one of both, once"
    for found in (context, targets):
        assert torch.equal(found, found[:, :1].expand_as(found)), "the same places in every frame"
    seen = context[:, 0].flatten(1).sum(1)
    assert seen.min() >= 2 and 0.1 < float(seen.double().mean()) / 16 < 0.45
    assert (targets[:, 0].sum(0) > 0).all() and mask.targets.shape == (2000, 1, 4 * 14)


def test_a_mask_for_each_frame_is_found() -> None:
    """The look-alike: blocks that are drawn anew for every frame leave what they hide in sight a frame later."""
    noise = [torch.rand(50, 4 * 8 + 16, generator=torch.Generator().manual_seed(t)) for t in range(4)]
    each = [tubes(u, (1, 4, 4), 0.15, ASPECT, 15, 2) for u in noise]
    hidden = torch.stack([torch.zeros(50, 16).scatter(1, m.targets[:, 0], m.asked[:, 0].float()) for m in each], 1)
    assert not torch.equal(hidden, hidden[:, :1].expand_as(hidden))


def test_a_context_has_so_many_places_at_most() -> None:
    u = torch.rand(500, 4 * 8 + 16, generator=torch.Generator().manual_seed(0))
    mask = tubes(u, GRID, 0.15, ASPECT, count=4, least=2)
    assert mask.context.shape == (500, 16) and maps_of(mask.context, mask.seen)[:, 0].flatten(1).sum(1).max() == 4
    assert (maps_of(mask.context, mask.seen) * maps_of(mask.targets, mask.asked)).sum() == 0


def test_both_masks_are_asked_of_one_pass() -> None:
    model = small()
    model.set_noise([torch.Generator().manual_seed(0)])
    masks = model.masks(3)
    assert len(masks) == 2
    shares = [float(mask.asked.double().mean()) for mask in masks]
    assert all(0.4 < share <= 1 for share in shares)
    passes: list[int] = []
    encode = model.target.forward
    model.target.forward = lambda *given: (passes.append(1), encode(*given))[1]
    model.loss((torch.rand(3, 1, 4, 16, 16), torch.zeros(3, dtype=torch.long)))
    assert len(passes) == 1


def test_time_matters() -> None:
    model, x = small().double(), torch.rand(2, 1, 4, 16, 16, dtype=torch.float64)
    z = model.features(x)
    assert not torch.allclose(z, model.features(x.flip(2)), atol=1e-6)
    assert not torch.allclose(z, model.features(x[:, :, [2, 0, 3, 1]]), atol=1e-6)


def test_a_still_clip_is_an_image_up_to_the_positions_of_time() -> None:
    model = small().double()
    still = torch.rand(2, 1, 1, 16, 16, dtype=torch.float64).expand(-1, -1, 4, -1, -1)
    tokens = model.features(still, pool=None).unflatten(1, (2, 4, 4))
    assert not torch.allclose(tokens[:, 0], tokens[:, 1], atol=1e-6)
    model.target.positions = model.target.positions.unflatten(0, (2, 16))[:1].expand(2, -1, -1).flatten(0, 1)
    tokens = model.features(still, pool=None).unflatten(1, (2, 4, 4))
    assert torch.allclose(tokens[:, 0], tokens[:, 1], atol=1e-12)
    moving = model.features(torch.rand(2, 1, 4, 16, 16, dtype=torch.float64), pool=None).unflatten(1, (2, 4, 4))
    assert not torch.allclose(moving[:, 0], moving[:, 1], atol=1e-3)


def test_what_cannot_be_is_refused() -> None:
    for options, match in (
        ({"block_scales": [0.15, 1.0]}, "does not fit"), ({"block_counts": [8]}, "blocks of each mask"),
        ({"context_share": 0.0}, "does not fit"), ({"least": 9}, "does not fit"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=match):
            small(**options)
    with pytest.raises(ConfigError, match="of clips"):
        VJEPA([1, 16, 16])


class Digits(MovingDigits):
    """Few of them."""

    def read(self, split: str) -> tuple[Tensor, Tensor]:
        x, labels = super().read(split)
        return x[:1000], labels[:1000]


class Still:
    device = torch.device("cpu")
    dtype = torch.float32
    num_classes, context = 0, ()


def step(x: Tensor) -> Tensor:
    """Return by how much the centre of mass moves from the first frame to the second, and where it is: (B, 4)."""
    mass, place = x[:, 0, :2].sum((2, 3)), torch.arange(32.0)
    at = torch.stack([x[:, 0, :2].sum(3) @ place / mass, x[:, 0, :2].sum(2) @ place / mass], 2)  # (B, 2, 2)
    return torch.cat([(at[:, 1] - at[:, 0]).round().sign(), at[:, 0] / 32], 1)


@pytest.mark.slow
def test_the_probe_of_motion_finds_what_two_frames_show_and_no_frame_alone() -> None:
    data = Digits(frames=4)
    found = {name: value for name, (value, _, _) in motion_estimates(Still(), data, step, None).items()}
    assert found["motion_accuracy"] > 0.95
    assert found["motion_accuracy_frames"] < 0.4 and found["motion_accuracy_shuffled"] < 0.8
    assert set(found) == {f"motion_accuracy{end}" for end in ("", "_frames", "_shuffled", "_pixels")}
    no_time = motion_estimates(Still(), data, lambda x: step(x[:, :, :1].expand_as(x)), step)
    assert no_time["motion_accuracy"][0] < 0.4 < no_time["motion_accuracy_untrained"][0]
