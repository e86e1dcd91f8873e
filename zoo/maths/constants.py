"""Numbers that are written out, on the device of a tensor, without making the processor wait for that device.

``torch.tensor(values, device=...)`` copies from the processor's memory, and the copy is waited for. Filling does not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["constants"]


def constants(values: Sequence[float], like: Tensor) -> Tensor:
    """Return ``values``, (n,), of the type and on the device of ``like``."""
    if like.device.type == "cpu" or not values:
        return like.new_tensor(values)
    return torch.stack([like.new_full((), value) for value in values])
