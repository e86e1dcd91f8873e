"""Glow: actnorm, an invertible 1x1 convolution and an affine coupling in each step, in a multi-scale flow.

References:
    D. P. Kingma, P. Dhariwal, Glow: Generative Flow with Invertible 1x1 Convolutions, 2018, arXiv:1807.03039.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from zoo.errors import ConfigError
from zoo.families.normalising_flow import NormalisingFlow
from zoo.fitting import grows, halvings
from zoo.nets.bijections import ActNorm, Bijection, Chain, Flatten, InvertibleConv, Squeeze
from zoo.nets.coupling import Coupling, CouplingNet, FactorOut
from zoo.signature import default_of

__all__ = ["Glow"]

_LARGE_WIDTH, _LARGE_LR = 128, 1e-3
"""Least width of the coupling networks of larger pictures than the entry's, and most that they learn with."""


class Glow(NormalisingFlow):
    """Normalising flow of levels: squeeze, then steps, then half of the channels leave with a learned Gaussian prior.

    Args:
        shape: (C, H, W), or (D,), which is taken as an image of one pixel.
        steps: steps of flow on each level.
        squeezes: factor of the squeeze before each level, 1 for none.
        width: hidden channels of the coupling networks.
        kernel: of their first and last convolutions.
        context: width of the part of them that sees the whole image, 0 for none.
        coupling: ``affine``, ``additive`` or ``spline``.

    The other arguments are those of `zoo.families.normalising_flow.NormalisingFlow`.

    Raises:
        ConfigError: unknown or contradictory options, or sides that cannot be squeezed so.
    """

    sized: ClassVar[Mapping[str, str]] = {"width": "width", "context": "width"}

    def __init__(
        self,
        shape: list[int],
        steps: list[int],
        squeezes: list[int],
        width: int = 64,
        kernel: int = 3,
        context: int = 0,
        coupling: str = "affine",
        alpha: float | None = 0.05,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape, alpha=alpha, prior="normal", width=width, **kwargs)
        if not steps or len(steps) != len(squeezes):
            raise ConfigError(f"each level needs its steps and its squeeze, got {list(steps)} and {list(squeezes)}")
        C, H, W = self.image = tuple(shape) if len(shape) == 3 else (shape[0], 1, 1)
        sizes: list[tuple[int, int, int]] = []  # of the image on each level
        for factor in squeezes:
            if H % factor or W % factor:
                raise ConfigError(f"sides of {(H, W)} cannot be squeezed by {factor}; the squeezes are {squeezes}")
            C, H, W = C * factor**2, H // factor, W // factor
            sizes.append((C, H, W))
            C -= C // 2
        inner: Bijection | None = None
        for size, factor, K in reversed(list(zip(sizes, squeezes, steps, strict=True))):
            C, net = size[0], partial(CouplingNet, size=size[1:], width=width, kernel=kernel, context=context)
            level: list[Bijection] = [Squeeze(factor)] if factor > 1 else []
            for _ in range(K):
                level += [ActNorm(C), InvertibleConv(C), Coupling(C, net, coupling)]
            level += [ActNorm(C), Flatten(size)] if inner is None else [FactorOut(size, inner, net)]
            inner = Chain(level)
        self.map = inner

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that go with another shape: a level for each halving, as in the paper."""
        sides = list(arguments["shape"])[1:]
        if sides == list(before["shape"])[1:] or not sides:
            return dict(arguments)
        n = halvings(sides)
        fitted = {**arguments, "steps": [max(arguments["steps"])] * n, "squeezes": [2] * n}
        if grows(arguments, before):
            fitted["width"] = max(arguments.get("width", 0), _LARGE_WIDTH)
            fitted["lr"] = min(arguments.get("lr", default_of(cls, "lr")), _LARGE_LR)
        return fitted

    def flow(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.map(x.reshape(-1, *self.image))  # (B, C, H, W) -> (B, D)

    def flow_inverse(self, z: Tensor) -> Tensor:
        return self.map.inverse(z).reshape(-1, *self.shape)
