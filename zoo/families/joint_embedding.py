"""Joint-embedding predictive architectures: what the features of hidden parts would be, told from the parts in sight.

    L = E d( g(f(x_context), places),  sg LN(fbar(x))_targets ),     fbar <- m fbar + (1 - m) f

The encoder f sees the patches of the context alone, the target encoder fbar all of the example; its outputs are
normalised without weights before those of the targets are taken, and get no gradient. The narrow predictor g is told
which places are asked for. No pixel is predicted and no second example compared: that the features do not all become
one is left to fbar, which follows f slowly, m rising to 1, and to the normalisation.

A family says by `masks` what is seen and what is asked for.

References:
    M. Assran and others, Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture, 2023,
    arXiv:2301.08243, section 3. There weight decay rises too; here it is constant.
    A. Bardes and others, Revisiting Feature Prediction for Learning Visual Representations from Video, 2024,
    arXiv:2404.08471.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.abilities import HasFeatures
from zoo.checking import integers_of
from zoo.errors import ConfigError, DataError, check_choice
from zoo.maths.annealing import linear
from zoo.maths.block_masks import Mask
from zoo.model import Batch, GenerativeModel, Player
from zoo.nets.patch_transformer import PatchEncoder, PatchPredictor

__all__ = ["JointEmbedding"]

_DISTANCES = {"smooth_l1": F.smooth_l1_loss, "l1": F.l1_loss, "l2": F.mse_loss}


class JointEmbedding(HasFeatures, GenerativeModel):
    """Base of the architectures that predict features; it draws nothing.

    Args:
        shape: of an example, (C, H, W) or (C, T, H, W).
        patch: side of a patch, or sides in the order of the shape.
        width: of both encoders, which is the size of a feature; a multiple of ``heads`` and of twice the number of
            sides of the grid.
        depth: blocks of an encoder.
        heads: of attention, everywhere.
        predictor_width: of the predictor, a multiple as ``width`` is.
        predictor_depth: blocks of the predictor.
        levels: of the data, None for continuous ones.
        momentum: m at the start; 0 to take the encoder itself.
        momentum_steps: training steps in which m rises to 1; 0 for a constant one.
        distance: d, the mean over features of ``smooth_l1``, ``l1`` or ``l2``.
        normalise: whether targets are normalised.
        lr: peak learning rate.
        betas: Adam's decay rates.
        weight_decay: of the encoder and the predictor.

    Raises:
        ConfigError: numbers out of range, or sides that do not divide.
    """

    family = "representation"
    generates = False
    takes_examples = ("predict", "targets")
    sized: ClassVar[Mapping[str, str]] = {
        "width": "width", "heads": "width", "depth": "depth", "predictor_width": "width", "predictor_depth": "depth"
    }  # fmt: skip

    def __init__(
        self,
        shape: Sequence[int],
        patch: int | Sequence[int],
        width: int = 96,
        depth: int = 4,
        heads: int = 4,
        predictor_width: int = 48,
        predictor_depth: int = 2,
        levels: int | None = 256,
        momentum: float = 0.996,
        momentum_steps: int = 0,
        distance: str = "smooth_l1",
        normalise: bool = True,
        lr: float = 1.0e-3,
        betas: Sequence[float] = (0.9, 0.999),
        weight_decay: float = 0.05,
    ) -> None:
        super().__init__()
        check_choice("distance", distance, _DISTANCES)
        if not 0 <= momentum < 1:
            raise ConfigError(f"momentum must lie in [0, 1), got {momentum}")
        self.shape, self.levels, self.lr, self.betas = tuple(shape), levels, lr, tuple(betas)
        self.momentum, self.momentum_steps = momentum, momentum_steps
        self.distance, self.normalise, self.weight_decay = distance, normalise, weight_decay
        self.encoder = PatchEncoder(shape, patch, width, depth, heads)
        self.feature_dim, self.token_grid = width, self.encoder.grid
        self.tokens = math.prod(self.token_grid)
        self.target = copy.deepcopy(self.encoder).requires_grad_(False)
        self.predictor = PatchPredictor(self.token_grid, width, predictor_width, predictor_depth, heads)
        self._followed: int | None = None

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that go with other data; see `zoo.fitting`."""
        return dict(arguments)

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return nothing: the networks are the model's own; see `zoo.fitting`."""
        return {}

    def players(self) -> dict[str, Player]:
        moved = [*self.encoder.parameters(), *self.predictor.parameters()]
        return {"model": Player(moved, self.lr, self.betas, self.weight_decay)}

    # -- features -----------------------------------------------------------------------------------------------------

    def features(self, x: Tensor, *, pool: str | None = "mean") -> Tensor:
        """Return fbar(x), the mean over patches, (B, *shape) -> (B, D); of each patch, (B, N, D), without ``pool``.

        Raises:
            ConfigError: another kind of pool.
        """
        if pool not in ("mean", None):
            raise ConfigError(f"pool must be 'mean' or None, got {pool!r}")
        tokens = self.target(x)
        return tokens if pool is None else tokens.mean(1)

    @torch.no_grad()
    def targets(self, x: Tensor) -> Tensor:
        """Return what is to be predicted of every patch, LN(fbar(x)), without a gradient: (B, *shape) -> (B, N, D)."""
        return self._normalised(self.target(x))

    def _normalised(self, tokens: Tensor) -> Tensor:
        return F.layer_norm(tokens, (self.feature_dim,)) if self.normalise else tokens

    @torch.no_grad()
    def predict(self, x: Tensor, context: Tensor, targets: Tensor) -> Tensor:
        """Return the features of some patches as they are told from others alone: (B, *shape) -> (B, P, D).

        They are comparable with `targets`, not with `features`.

        Args:
            x: examples.
            context: places of the patches in sight, int64 (K,) or (B, K), 0 to N - 1 in the order of the grid; -1 for
                an empty slot, but not in the first.
            targets: places of the patches that are asked for, int64 (P,) or (B, P), or -1; what is returned of an
                empty slot means nothing.

        Raises:
            DataError: places that are none.
        """
        context, seen = self._places(context, len(x), "context")
        targets, asked = self._places(targets, len(x), "targets")
        z = self.encoder(x, context, seen)
        return self.predictor(z, context, seen, targets[:, None], asked[:, None])[:, 0]

    def _places(self, given: Tensor, n: int, what: str) -> tuple[Tensor, Tensor]:
        """Return places, int64 (n, K), and which of the slots are filled, bool (n, K)."""
        places = integers_of(given, what).to(self.device)
        if places.ndim not in (1, 2) or places.shape[-1] < 1:
            raise DataError(f"{what} must be integers (K,) or ({n}, K), got shape {tuple(places.shape)}")
        if places.ndim == 2 and len(places) != n:
            raise DataError(f"{what} are places of {len(places)} examples, but there are {n}; give as many")
        if bool((places < -1).any() | (places >= self.tokens).any() | (places[..., 0] < 0).any()):
            raise DataError(
                f"{what} must be places from 0 to {self.tokens - 1}, of a grid {self.token_grid}, or -1 after the first"
            )
        places = places.expand(n, -1)
        return torch.where(places < 0, places[:, :1], places), places >= 0

    # -- training -----------------------------------------------------------------------------------------------------

    def masks(self, n: int) -> list[Mask]:
        """Draw what is seen and what is asked for of n examples by `rand`; one or several times of the same ones."""
        raise NotImplementedError

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean distance between prediction and target per feature, and the spread of the pooled features.

        Examples and groups of targets count alike, whatever their number of places. ``feature_std``, the standard
        deviation of fbar's features over the batch, is 0 after a collapse.
        """
        x = batch[0]
        with torch.no_grad():
            tokens = self.target(x)
            wanted, spread = self._normalised(tokens), tokens.mean(1).std(0, correction=0).mean()
        distance = torch.stack([self.distance_of(x, wanted, mask) for mask in self.masks(len(x))]).mean()
        return {"loss": distance, "distance": distance.detach(), "feature_std": spread}

    def distance_of(self, x: Tensor, wanted: Tensor, mask: Mask) -> Tensor:
        """Return the mean of d over the targets of a mask, ``wanted`` being `targets` of x: a number."""
        z = self.encoder(x, mask.context, mask.seen)
        expected = self.predictor(z, mask.context, mask.seen, mask.targets, mask.asked)  # (B, G, P, D)
        index = mask.targets.flatten(1)[..., None].expand(-1, -1, self.feature_dim)
        actual = wanted.gather(1, index).unflatten(1, mask.targets.shape[1:])
        d = _DISTANCES[self.distance](expected, actual, reduction="none").mean(3)  # (B, G, P)
        asked = mask.asked.to(d.dtype)
        return ((d * asked).sum(2) / asked.sum(2)).mean()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Let the target encoder catch up with the last step, once a step, then do this one."""
        if self._followed != self.steps_done:
            self.follow()
            self._followed = self.steps_done
        return super().training_step(batch, batch_idx)

    def momentum_at(self, step: int) -> float:
        """Return m after so many steps: from ``momentum`` to 1 along a line."""
        share = linear(step, self.momentum_steps) if self.momentum_steps else 0.0
        return self.momentum + (1 - self.momentum) * share

    @torch.no_grad()
    def follow(self) -> None:
        """Move the target encoder: fbar <- m fbar + (1 - m) f."""
        torch._foreach_lerp_(
            [p.data for p in self.target.parameters()], [p.data for p in self.encoder.parameters()],
            1 - self.momentum_at(self.steps_done),
        )  # fmt: skip
