"""What all models share that predict value by value: an exact likelihood, and one sampler for all of them.

    log p(x) = sum_i log p(x_i given x_1, ..., x_{i-1})

Values out of L levels are stored as k / (L - 1). Those of an image are in raster order, the colours of a pixel side by
side; `zoo.families.raster` is for networks that see an image as such, `zoo.families.sequence` for those that see a
sequence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.checking import check_within, examples_of, from_levels
from zoo.errors import ConfigError
from zoo.maths.completion import known_values
from zoo.maths.decoding import Decoding, ValueState, decode
from zoo.maths.noise import rand
from zoo.model import Batch, LikelihoodModel
from zoo.nets.decoding_states import FullPasses
from zoo.sampling import Labels, interruptible_loop, interruption_point

__all__ = ["AutoregressiveModel", "scores"]

_FORMS = {1: "(T,)", 3: "(C, H, W)", 4: "(C, T, H, W)"}


def scores(logits: Tensor, values: Tensor) -> Tensor:
    """Return the log-probabilities of examples, summed over their values: (B, ..., L), int64 (B, ...) -> (B,)."""
    log_p = -F.cross_entropy(logits.flatten(0, -2), values.flatten(), reduction="none")
    return log_p.view(values.shape).flatten(1).sum(1)


class AutoregressiveModel(LikelihoodModel):
    """Base of the models that predict each value of an example from the earlier ones.

    A family gives `forward`, all logits at once, and `start`, a state that computes every activation once.

    Args:
        shape: (T,) of a sequence, or (C, H, W) of an image.
        levels: L, the number of values, at least 2.
        num_classes: labels that the model is conditioned on, 0 if it is not.
        lr: peak learning rate.
        betas: Adam's decay rates.

    Attributes:
        dimensions: what the family's shapes may have.
        bits: name of the loss in bits a value.

    Raises:
        ConfigError: numbers that do not fit together.
    """

    family = "autoregressive"
    quantizes = True
    dimensions: ClassVar[tuple[int, ...]] = (1, 3)
    bits: ClassVar[str] = "bits_per_value"

    def __init__(self, shape: Sequence[int], levels: int, num_classes: int, lr: float, betas: Sequence[float]) -> None:
        super().__init__()
        if len(shape) not in self.dimensions or min(shape) < 1:
            forms = " or ".join(_FORMS[d] for d in self.dimensions)
            raise ConfigError(f"shape must be {forms}, all positive, got {tuple(shape)}")
        if levels < 2:
            raise ConfigError(f"levels must be at least 2, got {levels}")
        if num_classes < 0:
            raise ConfigError(f"num_classes must not be negative, got {num_classes}")
        self.shape, self.levels, self.num_classes = tuple(shape), levels, num_classes
        self.lr, self.betas = lr, tuple(betas)
        self.length = math.prod(self.shape)

    @classmethod
    def fitted_to_codes(cls, arguments: Mapping[str, Any], autoencoder: Any) -> dict[str, Any]:
        """Return arguments that fit the codes of an autoencoder; see `zoo.families.code_prior`."""
        return {**arguments, "shape": list(autoencoder.grid), "levels": autoencoder.codebook_size}

    def __call__(self, x: Tensor, labels: Any = None) -> Tensor:
        """Return all logits, each from the values before its own: (B, C, H, W, L) of images, else (B, N, L).

        Args:
            x: examples (B, *shape) in data range, whose levels are taken; or levels, int64, as `forward` takes them.
            labels: of `log_prob`, for conditional models.

        Raises:
            DataError: examples of another shape or range.
            ConfigError: labels are missing, or given to a model that is not conditional.
        """
        if not isinstance(x, Tensor):  # a strategy of several processes calls the training step by it
            return super().__call__(x, labels)  # type: ignore[no-any-return]
        if x.dtype not in (torch.int64, torch.int32):
            x = self.arranged(self.quantize(examples_of(self, x, f"{type(self).__name__}(x)")))
            labels = self.given_labels(len(x), labels)
        elif len(self.shape) > 1 and x.shape[1:] == self.shape:
            x = self.arranged(x)
        logits: Tensor = super().__call__(x, labels)
        return logits

    # -- what a family gives ------------------------------------------------------------------------------------------

    def forward(self, values: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return all logits at once, each from the values before its own: `arranged` (B, ...) -> (B, ..., L)."""
        raise NotImplementedError

    def start(self, n: int, labels: Tensor | None = None) -> ValueState:
        """Return the state of cached evaluation of ``n`` examples, before their first value."""
        raise NotImplementedError

    def arranged(self, values: Tensor) -> Tensor:
        """Return the values of examples, int64 (B, *shape), as `forward` takes them."""
        raise NotImplementedError

    def predict(self, values: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the logits of the next value by one full pass: the values so far, int64 (B, t) -> (B, L)."""
        raise NotImplementedError

    def decode_compiled(
        self, noise: Tensor, given: Tensor | None, known: Tensor | None, labels: Tensor | None, choose: Decoding
    ) -> Tensor:
        """Do what `zoo.maths.decoding.decode` does with the cached state, in a compiled loop.

        Raises:
            ConfigError: the family has none, or numba is not installed.
        """
        raise ConfigError(f"{type(self).__name__} has no compiled sampling; leave compiled out")

    # -- values -------------------------------------------------------------------------------------------------------

    def quantize(self, x: Tensor) -> Tensor:
        """Return the levels of examples in data range: [0, 1] -> int64 0..L-1, the nearest ones.

        Raises:
            DataError: values outside [0, 1].
        """
        x = x if x.is_floating_point() else from_levels(self, x, f"{type(self).__name__}.quantize")
        values = (x * (self.levels - 1)).round().long()
        check_within(
            values, self.levels, f"{type(self).__name__} takes values in [0, 1]",
            lambda: f", got some from {float(x.min()):g} to {float(x.max()):g}",
        )  # fmt: skip
        return values

    def to_sequence(self, x: Tensor) -> Tensor:
        """Arrange examples (B, *shape) as sequences (B, N): images pixel by pixel, the colours of one side by side, and
        videos frame by frame."""
        return x if len(self.shape) == 1 else x.movedim(1, -1).flatten(1)

    def from_sequence(self, x: Tensor) -> Tensor:
        """Turn sequences (B, N) back into examples (B, *shape)."""
        if len(self.shape) == 1:
            return x
        C, *sides = self.shape
        return x.unflatten(1, (*sides, C)).movedim(-1, 1)  # (B, C, H, W)

    # -- likelihood ---------------------------------------------------------------------------------------------------

    def log_prob(
        self, x: Tensor, *, labels: Labels = None, k: int = 1, seed: int | torch.Generator | None = None
    ) -> Tensor:
        """Return log p(x) in nats, exactly: (B, *shape) in [0, 1] -> (B,). ``k`` and ``seed`` have no effect.

        A conditional model gives log p(x | y), y being the labels.
        """
        return self._log_prob(self.arranged(self.quantize(x)), self.given_labels(len(x), labels))

    def _log_prob(self, values: Tensor, labels: Tensor | None) -> Tensor:
        return scores(self(values, labels), values)

    def likelihood(self, k: int = 1) -> str:
        return "exact"

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean of -log p(x) over the batch, in nats, and the same in bits a value."""
        values = self.arranged(self.quantize(batch[0]))
        labels = self.given_labels(len(values), batch[1]) if self.num_classes else None
        nll = -self.training_log_prob(values, labels).mean()
        return {"loss": nll, self.bits: nll / (self.length * math.log(2))}

    def training_log_prob(self, values: Tensor, labels: Tensor | None) -> Tensor:
        """Return what `loss` raises, log p(x) unless a family says otherwise."""
        return self._log_prob(values, labels)

    # -- sampling -----------------------------------------------------------------------------------------------------

    def _draw(
        self,
        n: int,
        generator: torch.Generator,
        labels: Tensor | None,
        choose: Decoding,
        fixed: tuple[Tensor | None, Tensor | None],
        T: int,
        compiled: bool,
        state: Callable[[], ValueState],
    ) -> Tensor:
        """Draw ``n`` examples in data range, value by value, from a state or in a compiled loop."""
        noise = rand((T, n), generator, self.device, self.dtype)

        def chosen(logits: Tensor, u: Tensor) -> Tensor:
            interruption_point()
            return choose(logits, u)

        with interruptible_loop(), torch.inference_mode():  # a tenth less work for each of the many small operations
            if compiled:
                values = self.decode_compiled(noise, *fixed, labels, choose)
            else:
                values = decode(state(), chosen, noise, *fixed)
        return self._data(values)

    def _data(self, values: Tensor) -> Tensor:
        return self.from_sequence(values).to(self.dtype).div_(self.levels - 1)

    def _state(self, n: int, labels: Tensor | None, cached: bool) -> ValueState:
        return self.start(n, labels) if cached else FullPasses(self.predict, n, labels, self.device)

    def _fixed(
        self, n: int, T: int, given: Tensor | None, known: Tensor | int | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the values that are given, int64 (n, T), and where they count, bool (n, T)."""
        found = known_values(self.shape, n, given, known, self.device)
        if found is None:
            return None, None
        values, mask = self.to_sequence(self.quantize(found[0])), self.to_sequence(found[1])  # (n, m)
        missing = T - values.shape[1]
        if missing < 0:
            raise ConfigError(f"{T - missing} values are given, but only {T} are to be drawn; ask for more with length")
        return F.pad(values, (0, missing)), F.pad(mask, (0, missing))

    @staticmethod
    def _check_compiled(choose: Decoding, cached: bool) -> None:
        if not cached or choose.top_k is not None or choose.top_p is not None:
            raise ConfigError("compiled sampling is cached and has no top_k or top_p; leave compiled out for these")

    def granule(self, options: Mapping[str, Any]) -> int:
        """Return 16; completing, searching and the uncached passes run alone."""
        alone = options.get("given") is not None or options.get("beams") or options.get("compiled")
        return 0 if alone or not options.get("cached", True) else 16

    @property
    def calls_per_sample(self) -> int:
        """Evaluations of the network: one a value, although the cached ones cost about one pass in all."""
        return self.length
