"""What models of codes share that are not drawn value by value: codes as images in [0, 1], what is known of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo.checking import check_within, from_levels
from zoo.errors import ConfigError
from zoo.families.guided import Guided
from zoo.maths.completion import known_values
from zoo.model import GenerativeModel

__all__ = ["TokenModel"]


class TokenModel(Guided, GenerativeModel):
    """Base of the models of N codes with K values each, which they have in one row: int64 (B, N).

    Args:
        shape: of the codes of an example, (G, h, w); N is their number.
        levels: K, at least 2.
        num_classes: classes that the model is told, 0 for none.
        label_dropout: chance with which training hides the class, for guidance.
        guidance_scale: w, default of the sampler, see `zoo.maths.guidance`; 1 is the model itself.
        lr: peak learning rate.
        betas: Adam's decay rates.
        weight_decay: decoupled weight decay.

    Attributes:
        completes: whether ``draw`` takes ``given`` codes at any place and draws the others in view of all of them.

    Raises:
        ConfigError: numbers that do not fit together.
    """

    family = "autoregressive"
    quantizes = True
    completes: ClassVar[bool] = False

    def __init__(
        self,
        shape: Sequence[int],
        levels: int,
        num_classes: int = 0,
        label_dropout: float = 0.0,
        guidance_scale: float = 1.0,
        lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.95),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.set_guidance(self, num_classes, label_dropout, guidance_scale, 0)
        if len(shape) != 3 or min(shape) < 1 or levels < 2:
            raise ConfigError(
                f"codes have a shape (G, h, w) of positive numbers, and at least 2 levels; got {tuple(shape)} and "
                f"{levels}"
            )
        self.shape, self.levels, self.length = tuple(shape), levels, math.prod(shape)
        self.lr, self.betas, self.weight_decay = lr, (float(betas[0]), float(betas[1])), weight_decay

    @classmethod
    def fitted_to_codes(cls, arguments: Mapping[str, Any], autoencoder: Any) -> dict[str, Any]:
        """Return arguments that fit the codes of an autoencoder; see `zoo.families.code_prior`."""
        return {**arguments, "shape": list(autoencoder.grid), "levels": autoencoder.codebook_size}

    def quantize(self, x: Tensor) -> Tensor:
        """Return the levels of codes in data range: [0, 1] -> int64 0..K-1, the nearest ones. Raises `DataError`."""
        x = x if x.is_floating_point() else from_levels(self, x, f"{type(self).__name__}.quantize")
        c = (x * (self.levels - 1)).round().long()
        check_within(
            c, self.levels, f"{type(self).__name__} takes values in [0, 1]",
            lambda: f", got some from {float(x.min()):g} to {float(x.max()):g}",
        )  # fmt: skip
        return c

    def values(self, x: Tensor) -> Tensor:
        """Return the codes of images in one row: (B, *shape) in [0, 1] -> int64 (B, N)."""
        return self.quantize(x).flatten(1)

    def data(self, codes: Tensor) -> Tensor:
        """Undo `values`."""
        return codes.unflatten(1, self.shape).to(self.dtype) / (self.levels - 1)

    def first(self, n: int, given: Tensor | None, known: Tensor | int | None) -> Tensor:
        """Return what is known of n examples before the first step, int64 (n, N), ``levels`` where nothing is."""
        found = known_values(self.shape, n, given, known, self.device)
        c = torch.full((n, self.length), self.levels, device=self.device)
        if found is None:
            return c
        return torch.where(found[1].flatten(1), self.values(found[0].to(self.dtype)), c)

    def granule(self, options: Mapping[str, Any]) -> int:
        """Return 16; completing runs alone."""
        return 0 if options.get("given") is not None else 16
