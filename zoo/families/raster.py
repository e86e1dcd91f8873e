"""What all models of images pixel by pixel share whose network sees the image as such.

References:
    J. Ho, T. Salimans, Classifier-Free Diffusion Guidance, 2022, arXiv:2207.12598.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError, RenamedWarning
from zoo.families.autoregressive import AutoregressiveModel
from zoo.maths.decoding import Decoding, ValueState
from zoo.nets.decoding_states import GuidedState
from zoo.signature import default_of

__all__ = ["RasterModel"]


class RasterModel(AutoregressiveModel):
    """Base of the families whose network sees an image as such: levels int64 (B, C, H, W) -> (B, C, H, W, L).

    A family gives `logits`, or `forward` in its place, and `start`.

    Args:
        shape: (C, H, W) of an image.
        levels: L, values of a pixel's colour, at least 2; 2 is the binary model.
        num_classes: labels that the model is conditioned on, 0 if it is not.
        embedding: channels of a learnt table that the network sees in the place of each level; none for the level
            itself, in [0, 1].
        lr: peak learning rate.
        betas: Adam's decay rates.

    Raises:
        ConfigError: numbers that do not fit together.
    """

    dimensions = (3,)
    bits = "bits_per_dim"

    def __init__(
        self,
        shape: Sequence[int] = (1, 28, 28),
        levels: int = 256,
        num_classes: int = 0,
        embedding: int | None = None,
        lr: float = 2.0e-3,
        betas: Sequence[float] = (0.9, 0.999),
    ) -> None:
        super().__init__(shape, levels, num_classes, lr, betas)
        self.embedding = nn.Parameter(torch.randn(levels, embedding)) if embedding else None
        self.per_colour = embedding or 1  # e, features of a colour

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return nothing: the network is the model's own; see `zoo.fitting`."""
        return {}

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that go with other data: as many channels a colour as before; see `zoo.fitting`.

        The learning rate goes with one over the width.
        """
        old, new = before["shape"][0], arguments["shape"][0]
        if old == new:
            return dict(arguments)
        channels = {k: arguments[k] for k in ("width", "hidden", "head", "skip") if arguments.get(k)}
        lr = arguments.get("lr", default_of(cls, "lr")) * min(1, old / new)
        return {**arguments, **{k: -(-v // old) * new for k, v in channels.items()}, "lr": lr}

    @classmethod
    def fitted_to_codes(cls, arguments: Mapping[str, Any], autoencoder: Any) -> dict[str, Any]:
        """Return arguments that fit the codes of an autoencoder: channels divide among the codebooks."""
        fitted, G = super().fitted_to_codes(arguments, autoencoder), autoencoder.grid[0]
        channels = {k: fitted[k] for k in ("width", "hidden", "head") if fitted.get(k)}
        return {**fitted, **{k: -(-v // G) * G for k, v in channels.items()}}

    def features(self, values: Tensor) -> Tensor:
        """Return what the network sees of levels: int64 (...) -> (..., e)."""
        if self.embedding is not None:
            return F.embedding(values, self.embedding)
        return (values.to(self.dtype) / (self.levels - 1))[..., None]

    def table(self) -> Tensor:
        """Return the features of every level, (L, e), without a gradient."""
        return self.features(torch.arange(self.levels, device=self.device)).detach()

    def forward(self, values: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.logits(self.features(values.permute(0, 2, 3, 1)).flatten(3), labels)  # of (B, H, W, C * e)

    def logits(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return all logits of features, those of a colour side by side: (B, H, W, C * e) -> (B, C, H, W, L)."""
        raise NotImplementedError

    def by_colour(self, x: Tensor) -> Tensor:
        """Return the logits that are channels of a map, (B, C * L, H, W), as (B, C, H, W, L)."""
        return x.permute(0, 2, 3, 1).unflatten(3, (self.shape[0], self.levels)).permute(0, 3, 1, 2, 4)

    def arranged(self, values: Tensor) -> Tensor:
        return values

    def predict(self, values: Tensor, labels: Tensor | None = None) -> Tensor:
        t, (C, _, W) = values.shape[1], self.shape
        image = self.from_sequence(F.pad(values, (0, self.length - t))).contiguous()
        return self(image, labels)[:, t % C, t // C // W, t // C % W]

    def draw(
        self,
        n: int,
        generator: torch.Generator,
        labels: Tensor | None,
        *,
        temperature: float = 1.0,
        greedy: bool = False,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance_scale: float = 1.0,
        given: Tensor | None = None,
        known: Tensor | int | None = None,
        cached: bool = True,
        compiled: bool = False,
        guidance: float | None = None,
    ) -> Tensor:
        """Draw ``n`` images in [0, 1], pixel by pixel.

        Args:
            n: number of images.
            generator: of one uniform number a value, drawn before the first pixel.
            labels: int64 (n,) for a conditional model, else none.
            temperature: of every softmax.
            greedy: take the most probable level everywhere.
            top_k: draw among the k most probable levels only.
            top_p: draw among the most probable levels that together have at least this probability.
            guidance_scale: w of classifier-free guidance, for conditional models: logits l become w l + (1 - w) l', l'
                being those of the average class; it doubles the work, and 1 draws from the model's distribution.
            given: partly known images in [0, 1] to complete, (C, H, W) or (n, C, H, W), NaN where a pixel is unknown.
            known: which pixels of ``given`` are kept, instead of NaN: a number of rows from the top, or a mask that
                broadcasts to the shape of ``given``.
            cached: compute every activation once; otherwise one forward pass a value, for the same integers.
            compiled: run the loop over a row's pixels as one compiled function, where the family has one: several times
                as fast for few images; it needs numba, the extra ``compiled``.
            guidance: deprecated, ``guidance_scale`` - 1.

        Raises:
            ConfigError: a number out of range, or ``given`` and ``known`` that do not fit.
        """
        choose = Decoding(temperature, greedy, top_k, top_p)
        fixed = self._fixed(n, self.length, given, known)
        if compiled:
            self._check_compiled(choose, cached)
        if guidance is not None:
            warnings.warn("guidance is now called guidance_scale, 1 more than it", RenamedWarning, stacklevel=2)
            guidance_scale = 1 + guidance
        if guidance_scale != 1 and (compiled or not self.num_classes or labels is None):
            raise ConfigError("guidance is for conditional models, and not for compiled sampling; leave it out")

        def state() -> ValueState:
            if guidance_scale == 1:
                return self._state(n, labels, cached)
            average = torch.full_like(labels, self.num_classes)  # the average class
            return GuidedState(self._state(2 * n, torch.cat([labels, average]), cached), guidance_scale - 1)

        return self._draw(n, generator, labels, choose, fixed, self.length, compiled, state)

    def calls(self, options: Mapping[str, Any]) -> float:
        guided = options.get("guidance_scale", 1) != 1 or options.get("guidance")
        return self.calls_per_sample * (2.0 if guided else 1.0)
