"""What all models of images pixel by pixel share: an exact likelihood, and one sampler for all of them.

log p(x) = sum_i log p(x_i given x_1, ..., x_{i-1}),  i in raster order, colours R, G, B within a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.checking import from_levels
from zoo.errors import ConfigError, DataError
from zoo.maths.decoding import Decoding
from zoo.model import Batch, LikelihoodModel
from zoo.nets.raster import FullPasses, Guided, RasterState, decode
from zoo.sampling import pulse, resting

__all__ = ["RasterModel"]

Labels = Sequence[int] | Tensor | int | None


class RasterModel(LikelihoodModel):
    """Base of the families whose network gives every pixel a distribution over its levels, given the pixels before it.

    A family defines `forward`, all logits at once, and `start`, the state of their evaluation pixel by pixel.

    Args:
        shape: (C, H, W) of an image.
        levels: values of a pixel's colour, at least 2; 2 is the binary model.
        num_classes: labels that the model is conditioned on, 0 if it is not.

    Raises:
        ConfigError: numbers that do not fit together.
    """

    family = "autoregressive"
    quantizes = True

    def __init__(self, shape: Sequence[int], levels: int, num_classes: int = 0) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape) < 1:
            raise ConfigError(f"shape must be three positive numbers (C, H, W), got {tuple(shape)}")
        if levels < 2:
            raise ConfigError(f"levels must be at least 2, got {levels}")
        if num_classes < 0:
            raise ConfigError(f"num_classes must not be negative, got {num_classes}")
        self.shape, self.levels, self.num_classes = tuple(shape), levels, num_classes

    # -- likelihood ---------------------------------------------------------------------------------------------------

    def forward(self, k: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return all logits at once: levels int64 (B, C, H, W) -> (B, C, H, W, levels)."""
        raise NotImplementedError

    def quantize(self, x: Tensor) -> Tensor:
        """Return the levels of an image in data range: [0, 1] -> int64 0..levels-1, the nearest ones.

        Raises:
            DataError: values outside [0, 1].
        """
        x = x if x.is_floating_point() else from_levels(self, x, f"{type(self).__name__}.quantize")
        k = (x * (self.levels - 1)).round().long()
        if k.numel() and (k.min() < 0 or k.max() >= self.levels):
            raise DataError(
                f"{type(self).__name__} takes images in [0, 1], got values from {float(x.min()):g} to "
                f"{float(x.max()):g}"
            )
        return k

    def log_prob(
        self, x: Tensor, *, labels: Labels = None, k: int = 1, seed: int | torch.Generator | None = None
    ) -> Tensor:
        """Return log p(x) in nats, exactly: (B, C, H, W) in [0, 1] -> (B,). ``k`` and ``seed`` have no effect.

        A conditional model gives log p(x | y), y being the labels.
        """
        return self._log_prob(self.quantize(x), self.given_labels(len(x), labels))

    def _log_prob(self, k: Tensor, labels: Tensor | None) -> Tensor:
        logits = self(k, labels)  # (B, C, H, W, L)
        return -F.cross_entropy(logits.flatten(0, 3), k.flatten(), reduction="none").view(k.shape).sum((1, 2, 3))

    def likelihood(self, k: int = 1) -> str:
        return "exact"

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean of -log p(x) over the batch, in nats, and the same in bits per dimension."""
        x, labels = batch
        nll = -self.log_prob(x, labels=labels if self.num_classes else None).mean()
        return {"loss": nll, "bits_per_dim": nll / (math.prod(self.shape) * math.log(2))}

    # -- sampling -----------------------------------------------------------------------------------------------------

    def start(self, n: int, labels: Tensor | None = None) -> RasterState:
        """Return the state of cached evaluation of ``n`` images, before their first row."""
        raise NotImplementedError

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
        guidance: float = 0.0,
        given: Tensor | None = None,
        known: Tensor | int | None = None,
        cached: bool = True,
        compiled: bool = False,
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
            guidance: weight w of classifier-free guidance, for conditional models: logits l become l + w (l - l'), l'
                being those of the average class; it doubles the work, and 0 draws from the model's distribution.
            given: partly known images in [0, 1] to complete, (C, H, W) or (n, C, H, W), NaN where a pixel is unknown.
            known: which pixels of ``given`` are kept, instead of NaN: a number of rows from the top, or a mask that
                broadcasts to the shape of ``given``.
            cached: compute every activation once; otherwise one forward pass a value, for the same integers.
            compiled: run the loop over a row's pixels as one compiled function, where the family has one: several times
                as fast for few images; it needs numba, the extra ``compiled``.

        Raises:
            ConfigError: a number out of range, or ``given`` and ``known`` that do not fit.
        """
        C, H, W = self.shape
        choose = Decoding(temperature, greedy, top_k, top_p)
        fixed = self._given(n, given, known)
        noise = torch.rand(H, W, C, n, generator=generator, device=self.device, dtype=self.dtype)
        if compiled and (not cached or top_k is not None or top_p is not None):
            raise ConfigError("compiled sampling is cached and has no top_k or top_p; leave compiled out for these")
        images = n
        if guidance:
            if compiled or not self.num_classes or labels is None:
                raise ConfigError("guidance is for conditional models, and not for compiled sampling; leave it out")
            images, labels = 2 * n, torch.cat([labels, torch.full_like(labels, self.num_classes)])  # the average class

        def chosen(logits: Tensor, u: Tensor) -> Tensor:
            pulse()
            return choose(logits, u)

        with resting(), torch.inference_mode():  # a tenth less work for each of the many small operations
            if compiled:
                k = self.decode_compiled(labels, noise, *fixed, temperature, greedy)
            else:
                state = FullPasses(lambda k: self(k, labels), images, self.shape, self.device)
                state = self.start(images, labels) if cached else state
                k = decode(Guided(state, guidance) if guidance else state, chosen, noise, *fixed)
        return k.to(noise.dtype).div_(self.levels - 1)

    def granule(self, options: Mapping[str, Any]) -> int:
        """Return 16; completing images and the uncached passes run alone."""
        alone = options.get("given") is not None or options.get("compiled") or not options.get("cached", True)
        return 0 if alone else 16

    def calls(self, options: Mapping[str, Any]) -> float:
        return self.calls_per_sample * (2.0 if options.get("guidance") else 1.0)

    def decode_compiled(
        self,
        labels: Tensor | None,
        noise: Tensor,
        given: Tensor | None,
        known: Tensor | None,
        temperature: float,
        greedy: bool,
    ) -> Tensor:
        """Do what `zoo.nets.raster.decode` does, in a compiled loop.

        Raises:
            ConfigError: the family has none, or numba is not installed.
        """
        raise ConfigError(f"{type(self).__name__} has no compiled sampling; leave compiled out")

    @property
    def calls_per_sample(self) -> int:
        """Evaluations of the network: one a value of the image, although the cached ones cost one pass in all."""
        return math.prod(self.shape)

    def _given(self, n: int, given: Tensor | None, known: Tensor | int | None) -> tuple[Tensor | None, Tensor | None]:
        """Return the levels that are given, int64 (n, C, H, W), and where they count, bool of the same shape."""
        if given is None and known is None:
            return None, None
        if given is None:
            raise ConfigError("completing images takes both: given, the images, and known, the rows or pixels to keep")
        if given.shape not in (self.shape, (n, *self.shape)):
            raise ConfigError(f"given must have shape {self.shape} or {(n, *self.shape)}, got {tuple(given.shape)}")
        given = given.to(self.device).expand(n, *self.shape)
        mask = ~given.isnan()
        if known is None and bool(mask.all()):
            raise ConfigError(
                "completing images takes both given and known, the rows or pixels to keep; or NaN in given where a "
                "pixel is to be drawn"
            )
        if isinstance(known, int):
            if not 0 <= known <= self.shape[1]:
                raise ConfigError(f"known must be between 0 and {self.shape[1]} rows, got {known}")
            mask = mask.clone()
            mask[:, :, known:] = False
        elif known is not None:
            try:
                mask = mask & known.to(mask)
            except RuntimeError as error:
                raise ConfigError(f"known of shape {tuple(known.shape)} does not broadcast to {self.shape}") from error
        return self.quantize(given.nan_to_num(0.0)), mask
