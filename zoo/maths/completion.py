"""Completing examples: which of their values are known, said in whatever way is handy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import ConfigError

__all__ = ["covered", "known_values"]


def known_values(
    shape: Sequence[int], n: int, given: Tensor | None, known: Tensor | int | None, device: torch.device
) -> tuple[Tensor, Tensor] | None:
    """Return what is given of n examples, (n, *shape), 0 where it is not, and where it is, bool of that shape.

    Args:
        shape: of an example, (C, H, W), (C, T, H, W) or (T,); of a sequence any number m of values may be given.
        n: number of examples.
        given: partly known examples, *shape or (n, *shape), NaN where a value is unknown.
        known: what of ``given`` is kept, beside NaN: a number of rows of an image from the top, or of frames of a
            video or values of a sequence from the beginning; or a mask that broadcasts to the shape of ``given``. A
            sequence needs none.
        device: of what is returned.

    Returns:
        None where nothing is given.

    Raises:
        ConfigError: one without the other, or shapes and numbers that do not fit.
    """
    if given is None and known is None:
        return None
    both = (
        "completing takes both given and known: the examples, and which of their rows, pixels or values to keep; or "
        "NaN in given where a value is to be drawn"
    )
    if given is None:
        raise ConfigError(both)
    given, image = torch.as_tensor(given, device=device), len(shape) > 1
    own = tuple(shape) if image else given.shape[-1:]
    if given.shape not in (own, (1, *own), (n, *own)) or given.ndim == 0:
        expected = (own, (n, *own)) if image else ("(m,)", f"({n}, m)")
        raise ConfigError(f"given must have shape {expected[0]} or {expected[1]}, got {tuple(given.shape)}")
    given = given.expand(n, *own)
    mask = ~given.isnan()
    if isinstance(known, int):
        rows, unit = (own[1], "rows" if len(own) == 3 else "frames") if image else (own[0], "values")
        if not 0 <= known <= rows:
            raise ConfigError(f"known must be between 0 and {rows} {unit}, got {known}")
        mask = mask & (torch.arange(rows, device=device) < known).view(-1, *[1] * max(0, len(own) - 2))
    elif known is not None:
        try:
            mask = mask & torch.as_tensor(known, device=device).bool().expand(mask.shape)
        except RuntimeError as error:
            raise ConfigError(f"known of shape {tuple(known.shape)} does not broadcast to {tuple(own)}") from error
    elif image and bool(mask.all()):
        raise ConfigError(both)
    return given.nan_to_num(0.0), mask


def covered(mask: Tensor, size: Sequence[int]) -> Tensor:
    """Return which cells of a grid (h, w) hold known pixels only: bool (B, C, H, W) -> bool (B, 1, h, w)."""
    unknown = (~mask).any(1, keepdim=True).float()
    return F.adaptive_max_pool2d(unknown, tuple(size)) == 0
