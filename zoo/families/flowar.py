"""FlowAR: a map of latents at growing scales, each drawn by flow matching given what a Transformer says of all smaller.

    Y_S = X,  Y_{k-1} = Y_k averaged over areas;   H_k = Transformer(class, enlarged Y_1, ..., enlarged Y_{k-1})_k
    F_t = t Y_k + (1 - t) eps,   L = sum_k E_{t, eps} |v(F_t, H_k, t) - (Y_k - eps)|^2

The scales are plain averages, no residuals: the last one alone is what is decoded. The network of velocities is told
H_k and t cell by cell: scale, shift and gate of its blocks are maps.

References:
    S. Ren, Q. Yu, J. He, X. Shen, A. Yuille, L.-C. Chen, FlowAR: Scale-wise Autoregressive Image Generation Meets Flow
    Matching, 2024, arXiv:2412.15205. In the authors' code smaller maps are enlarged to the size of the last one and
    averaged down to the next scale, here to the next scale at once; and there the guidance scale grows over the scales,
    from 1, here it is the same at all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError, check_choice
from zoo.families.guided import Guided
from zoo.maths.guidance import guide
from zoo.maths.noise import randn
from zoo.maths.solvers import SOLVERS, integrate, time_grid
from zoo.model import Batch, FlowModel
from zoo.nets.dit import DiTBlock
from zoo.nets.embeddings import Embedding
from zoo.nets.scale_transformer import ScaleTransformer, scale_of
from zoo.sampling import interruption_point
from zoo.signature import default_of

__all__ = ["FlowAR", "ScaleVelocity"]


class ScaleVelocity(nn.Module):
    """v(F, H, t) of the cells of one or several scales; those of a scale see one another only.

    Args:
        channels: C, of a cell.
        scales: sides of the maps.
        width: d, of the stream and of H.
        depth: blocks.
        heads: of attention.
        time_scale: of the time that the network is told.
    """

    def __init__(
        self, channels: int, scales: Sequence[int], width: int, depth: int, heads: int, time_scale: float = 20.0
    ) -> None:
        super().__init__()
        self.time_scale, cells = time_scale, scale_of(scales)
        self.stem, self.time = nn.Linear(channels, width), Embedding(width)
        self.position = nn.Parameter(0.02 * torch.randn(len(cells), width))
        self.blocks = nn.ModuleList(DiTBlock(width, heads, 4 * width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation, self.out = nn.Linear(width, 2 * width), nn.Linear(width, channels)
        for layer in (self.modulation, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.register_buffer("mask", cells[:, None] == cells, persistent=False)

    def forward(self, x: Tensor, h: Tensor, t: Tensor, first: int = 0) -> Tensor:
        """Return velocities, (B, l, C).

        Args:
            x: cells (B, l, C), from cell number ``first`` on.
            h: what the Transformer says of them, (B, l, d).
            t: times in [0, 1], (B, l).
            first: number of the first cell.
        """
        here = slice(first, first + x.shape[1])
        e = self.time(t.flatten() * self.time_scale).unflatten(0, t.shape) + h  # (B, l, d)
        s = self.stem(x) + self.position[here]
        for block in self.blocks:
            s = block(s, e, self.mask[here, here])
        a, b = self.modulation(F.silu(e)).chunk(2, 2)
        return self.out(torch.addcmul(b, self.norm(s), 1 + a))


class FlowAR(Guided, FlowModel):
    """Block-causal Transformer over averages of latents, and a `ScaleVelocity`.

    Sides that the last scale exceeds are filled up with zeros, which are cut off again: 7 x 7 latents have scales 1, 2,
    4, 8.

    Args:
        shape: of the latents, (C, h, w).
        scales: sides, each twice the one before or another multiple; the last is at least h and w.
        width: d, of both networks.
        depth: blocks of the Transformer.
        flow_depth: blocks of the network of velocities.
        heads: attention heads.
        num_classes: classes that the model is told, 0 for none.
        label_dropout: chance with which training hides the class, for guidance.
        guidance_scale: w, default of the sampler.
        steps: of the solver, at each scale; default of the sampler.
        solver: of `zoo.maths.solvers.SOLVERS`; default of the sampler.
        levels: None: latents are continuous.
        lr: peak learning rate.
        betas: Adam's decay rates.
        weight_decay: decoupled weight decay.

    Raises:
        ConfigError: numbers that do not fit together.
    """

    sized: ClassVar[Mapping[str, str]] = {"width": "width", "heads": "width", "depth": "depth", "flow_depth": "depth"}

    family = "autoregressive"
    steps_to_move = 5

    def __init__(
        self,
        shape: Sequence[int] = (4, 7, 7),
        scales: Sequence[int] = (1, 2, 4, 8),
        width: int = 96,
        depth: int = 2,
        flow_depth: int = 2,
        heads: int = 4,
        num_classes: int = 0,
        label_dropout: float = 0.1,
        guidance_scale: float = 1.0,
        steps: int = 25,
        solver: str = "euler",
        levels: int | None = None,
        lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.95),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.set_guidance(self, num_classes, label_dropout, guidance_scale, 0)
        check_choice("solver", solver, SOLVERS)
        if levels is not None:
            raise ConfigError(f"FlowAR models continuous latents, so levels must be null, got {levels}")
        nested = bool(scales) and min(scales) > 0 and all(b > a and b % a == 0 for a, b in pairwise(scales))
        if len(shape) != 3 or not nested or scales[-1] < max(shape[1:]):
            raise ConfigError(
                f"scales must be growing multiples of one another, the last at least the sides of the latents, got "
                f"{list(scales)} for {list(shape)}"
            )
        self.shape, self.levels, self.scales = tuple(shape), None, tuple(scales)
        self.steps, self.solver = steps, solver
        self.lr, self.betas, self.weight_decay = lr, (float(betas[0]), float(betas[1])), weight_decay
        self.network = ScaleTransformer(shape[0], scales, width, depth, heads, None, num_classes, width)
        self.flow = ScaleVelocity(shape[0], scales, width, flow_depth, heads)
        self.register_buffer("cells", scale_of(scales), persistent=False)

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return nothing: both networks are this model's own; see `zoo.fitting`."""
        return {}

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments for latents of another shape: scales go on doubling until the last holds them."""
        usual = default_of(cls, "scales")
        scales, side = list(arguments.get("scales", usual)), max(arguments["shape"][1:])
        if scales == list(before.get("scales", usual)):
            while scales[-1] < side:
                scales.append(2 * scales[-1])
            while len(scales) > 1 and scales[-2] >= side:
                scales.pop()
        return {**arguments, "scales": scales}

    def compilable(self) -> list[nn.Module]:
        return [self.network, self.flow]

    # -- scales -------------------------------------------------------------------------------------------------------

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """Return Y_1, ..., Y_S of latents: (B, C, h, w) -> (B, C, s_k, s_k) each."""
        side = self.scales[-1]
        whole = F.pad(x, (0, side - x.shape[3], 0, side - x.shape[2]))
        return [F.adaptive_avg_pool2d(whole, s) for s in self.scales[:-1]] + [whole]

    def inputs(self, maps: Sequence[Tensor]) -> Tensor:
        """Return what the Transformer sees of Y_1, Y_2, ...: each enlarged to the scale after it, (B, cells, C)."""
        parts = [
            F.interpolate(y, (s, s), mode="bicubic", align_corners=False)
            for y, s in zip(maps, self.scales[1:], strict=False)
        ]
        return cells_of(parts) if parts else maps[0].new_empty(len(maps[0]), 0, self.shape[0])

    # -- the objective ------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``mse`` of the velocities over the cells of all scales, a dimension, which is ``loss``."""
        maps, labels = self.pyramid(batch[0]), self.dropped(batch[1])
        y = cells_of(maps).to(self.dtype)  # (B, L, C)
        h = self.network(self.inputs(maps[:-1]) if len(maps) > 1 else y[:, :0], labels)
        t = self.rand(len(y), len(maps))[:, self.cells]  # (B, L), one time a scale
        eps = self.randn(*y.shape)
        mse = (self.flow(torch.lerp(eps, y, t[..., None]), h, t) - (y - eps)).square().mean()
        return {"loss": mse, "mse": mse}

    # -- sampling -----------------------------------------------------------------------------------------------------

    def option_words(self) -> dict[str, tuple[str, ...]]:
        return {"solver": tuple(SOLVERS)}

    def draw(
        self,
        n: int,
        generator: torch.Generator,
        labels: Tensor | None,
        *,
        steps: int | None = None,
        solver: str | None = None,
        guidance_scale: float | None = None,
        cached: bool = True,
    ) -> Tensor:
        """Draw latents, (n, C, h, w), scale by scale.

        Args:
            steps: of the solver, at each scale.
            solver: of `zoo.maths.solvers.SOLVERS`.
            guidance_scale: w of a conditional model, of the velocities.
            cached: compute the Transformer once a scale; otherwise of all scales so far, for the same latents.
        """
        w = self.guidance_scale if guidance_scale is None else guidance_scale
        guide(self.network, w, labels, self.num_classes)  # refuses what cannot be guided
        said = [labels] if w == 1 else [labels, None]
        times = time_grid(self.steps if steps is None else steps)
        pasts = [self.network.nothing() if cached else None for _ in said]
        maps: list[Tensor] = []
        for k, s in enumerate(self.scales):
            begin, none = self.network.ends[k] - s * s, torch.empty(n, 0, self.shape[0], device=self.device)
            inputs = self.inputs(maps) if maps else none.to(self.dtype)
            seen = inputs[:, begin - self.network.ends[0] :] if cached and k else inputs
            H = [
                self.network(seen, y, first=k if cached else 0, past=past)[:, -s * s :]
                for y, past in zip(said, pasts, strict=True)
            ]

            def velocity(x: Tensor, t: Tensor, H: list[Tensor] = H, begin: int = begin) -> Tensor:
                interruption_point()
                time = t.expand(x.shape[:2])
                v = [self.flow(x, h, time, begin) for h in H]
                return v[0] if len(v) == 1 else torch.lerp(v[1], v[0], w)

            eps = randn((n, s * s, self.shape[0]), generator, self.device, self.dtype)
            y = integrate(velocity, eps, times, self.solver if solver is None else solver)
            maps.append(y.transpose(1, 2).unflatten(2, (s, s)))
        return maps[-1][:, :, : self.shape[1], : self.shape[2]]

    def granule(self, options: Mapping[str, Any]) -> int:
        return 16

    def calls(self, options: Mapping[str, Any]) -> float:
        chosen = self.sampler(options)
        each = SOLVERS[chosen["solver"]].calls * chosen["steps"] + 1
        return float(len(self.scales) * each * (2 if chosen["guidance_scale"] != 1 else 1))

    @property
    def calls_per_sample(self) -> int:
        """Evaluations: one of the Transformer a scale, and those of the velocity that the solver asks for."""
        return int(self.calls({}))


def cells_of(maps: Sequence[Tensor]) -> Tensor:
    """Return the cells of maps in a row: (B, C, s_k, s_k) each -> (B, L, C)."""
    return torch.cat([y.flatten(2) for y in maps], 2).transpose(1, 2)
