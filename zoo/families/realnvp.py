"""RealNVP: affine couplings whose masks alternate, checkerboard then channels, on several scales.

A checkerboard of an image is a division of the channels of the squeezed image, so the couplings of either mask work on
the squeezed image: the same parts move each other, and the networks see no zeros in the place of what they must not
see.

References:
    L. Dinh, J. Sohl-Dickstein, S. Bengio, Density estimation using Real NVP, 2016, arXiv:1605.08803. In the place of
    its batch normalisation between couplings there is actnorm (D. P. Kingma, P. Dhariwal, 2018, arXiv:1807.03039), so
    that examples of a batch do not see each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo.errors import ConfigError
from zoo.families.normalising_flow import NormalisingFlow
from zoo.fitting import halvings
from zoo.maths.transforms import squeezed_checkerboard
from zoo.nets.bijections import ActNorm, Bijection, Chain, Flatten, Permutation, Squeeze
from zoo.nets.coupling import Coupling, CouplingNet, FactorOut

__all__ = ["RealNVP"]


class RealNVP(NormalisingFlow):
    """Normalising flow of scales: checkerboard couplings, squeeze, channel couplings, then half of the channels leave.

    The last scale has checkerboard couplings alone.

    Args:
        shape: (C, H, W); or (D,), where halves of the numbers take turns on a single scale.
        couplings: with each mask, on each scale.
        folds: for each scale, the factor by which its networks squeeze further before their wide layers.
        width: hidden channels of the coupling networks.
        kernel: of their first and last convolutions.
        context: width of the part of them that sees the whole image, 0 for none.
        coupling: ``affine``, ``additive`` or ``spline``.

    The other arguments are those of `zoo.families.normalising_flow.NormalisingFlow`.

    Raises:
        ConfigError: unknown or contradictory options, or sides that cannot be halved so often.
    """

    sized: ClassVar[Mapping[str, str]] = {"width": "width", "context": "width", "couplings": "depth"}

    def __init__(
        self,
        shape: list[int],
        couplings: int = 3,
        folds: list[int] = (1,),
        width: int = 64,
        kernel: int = 3,
        context: int = 0,
        coupling: str = "affine",
        alpha: float | None = 0.05,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape, alpha=alpha, prior="normal", width=width, **kwargs)
        if couplings < 1 or not folds:
            raise ConfigError(f"RealNVP needs couplings and at least one scale, got {couplings} and folds {folds}")
        self.coupling, self._net = coupling, partial(CouplingNet, width=width, kernel=kernel, context=context)
        self.image = tuple(shape) if len(shape) == 3 else (shape[0], 1, 1)
        if len(shape) == 1:
            self.map: Bijection = Chain([*self._couplings(self.image, couplings, 1), Flatten(self.image)])
            return
        factor = 2 ** len(folds)
        if any(s % factor for s in self.image[1:]):
            raise ConfigError(
                f"{len(folds)} scales halve the sides of {self.image[1:]} {len(folds)} times, which they do not allow; "
                f"give fewer folds"
            )
        self.map = self._scale(self.image, couplings, list(folds))

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that go with another shape: a scale for each halving; see `zoo.fitting`."""
        sides = list(arguments["shape"])[1:]
        if sides == list(before["shape"])[1:] or not sides:
            return dict(arguments)
        return {**arguments, "folds": [2] * (halvings(sides) - 1) + [1]}

    def _couplings(self, image: tuple[int, int, int], n: int, fold: int) -> list[Bijection]:
        C, H, W = image
        net = partial(self._net, size=(H, W), fold=fold)
        parts: list[Bijection] = []
        for i in range(n):
            parts += [ActNorm(C), Coupling(C, net, self.coupling, swap=i % 2 == 1)]
        return [*parts, ActNorm(C)]

    def _scale(self, image: tuple[int, int, int], n: int, folds: list[int]) -> Bijection:
        C, H, W = 4 * image[0], image[1] // 2, image[2] // 2
        squares = (~squeezed_checkerboard(image[0])).long().argsort(stable=True)
        parts = [Squeeze(2), Permutation(squares), *self._couplings((C, H, W), n + (len(folds) == 1), folds[0])]
        if len(folds) == 1:
            return Chain([*parts, Flatten((C, H, W))])
        rows = (torch.arange(C) // 2 % 2).argsort(stable=True)  # upper rows of each square, then lower ones
        parts += [Permutation(squares.argsort()[rows]), *self._couplings((C, H, W), n, folds[0])]
        rest = self._scale((C - C // 2, H, W), n, folds[1:])
        return Chain([*parts, FactorOut((C, H, W), rest)])

    def flow(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.map(x.reshape(-1, *self.image))  # (B, C, H, W) -> (B, D)

    def flow_inverse(self, z: Tensor) -> Tensor:
        return self.map.inverse(z).reshape(-1, *self.shape)
