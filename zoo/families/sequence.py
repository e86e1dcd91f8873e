"""What autoregressive models of sequences share: text, audio, and images as a sequence of pixels.

    log p(x) = sum_t log p(x_t given x_1, ..., x_{t-1})

A sequence of T values out of L levels is stored as k / (L - 1), like the grey levels of an image. An image becomes a
sequence in raster order, the colours of a pixel side by side.

References:
    S. Bengio and others, Scheduled Sampling for Sequence Prediction with Recurrent Neural Networks, 2015,
    arXiv:1506.03099.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.checking import from_levels
from zoo.errors import ConfigError, DataError
from zoo.maths.decoding import Decoding, beam_search, inverse_cdf
from zoo.maths.scheduled import mix, teacher_probability
from zoo.model import Batch, LikelihoodModel
from zoo.sampling import pulse, resting

__all__ = ["FullPasses", "SequenceModel", "SequenceState"]


class SequenceState(Protocol):
    """Where a model stands within the sequences that are being drawn, one a row."""

    def logits(self) -> Tensor:
        """Return the logits (n, levels) of the next value; a buffer that the next call may reuse."""

    def put(self, values: Tensor) -> None:
        """Tell the next values: int64 (n,), or (n, m) for several at once."""

    def select(self, rows: Tensor) -> None:
        """Go on with these rows, int64 (n',), which may repeat or leave out some."""


class SequenceModel(LikelihoodModel):
    """Base of the models that predict each value of a sequence from the earlier ones.

    A subclass gives `forward`, all logits at once, and `start`, a state that computes every activation once.

    Args:
        shape: (T,) of a sequence, or (C, H, W) of an image.
        levels: L, the number of values, at least 2.
        num_classes: classes that the model is conditioned on, 0 for none.
        alphabet: of a model of text: the L characters that the values stand for.
        rate: of a model of audio: samples a second, the values being mu-law codes.
        lr: peak learning rate.
        betas: Adam's decay rates.
        scheduled: schedule of scheduled sampling, see `zoo.maths.scheduled`; none for teacher forcing.
        scheduled_k: constant of that schedule.

    Raises:
        ConfigError: numbers that do not fit together.
    """

    family = "autoregressive"
    quantizes = True

    def __init__(
        self,
        shape: Sequence[int],
        levels: int,
        num_classes: int = 0,
        alphabet: str | None = None,
        rate: int | None = None,
        lr: float = 1.0e-3,
        betas: Sequence[float] = (0.9, 0.99),
        scheduled: str | None = None,
        scheduled_k: float = 1000.0,
    ) -> None:
        super().__init__()
        if len(shape) not in (1, 3) or min(shape) < 1:
            raise ConfigError(f"shape must be (T,) or (C, H, W), all positive, got {tuple(shape)}")
        if levels < 2:
            raise ConfigError(f"levels must be at least 2, got {levels}")
        if alphabet is not None and not len(alphabet) == len(set(alphabet)) == levels:
            raise ConfigError(
                f"an alphabet has one character a level, each once: {levels} levels, {len(set(alphabet))} distinct "
                f"characters of {len(alphabet)}"
            )
        teacher_probability(scheduled, scheduled_k, 0)  # refuses what is no schedule
        self.shape, self.levels, self.num_classes = tuple(shape), levels, num_classes
        self.alphabet, self.rate = alphabet, rate
        self.lr, self.betas = lr, tuple(betas)
        self.scheduled, self.scheduled_k = scheduled, scheduled_k
        self.length = math.prod(self.shape)

    # -- what a subclass gives ----------------------------------------------------------------------------------------

    def forward(self, k: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return all logits: values int64 (B, T) -> (B, T, L), those at t from the values before t only."""
        raise NotImplementedError

    def start(self, n: int, labels: Tensor | None = None) -> SequenceState:
        """Return the state of cached evaluation of ``n`` sequences, before their first value."""
        raise NotImplementedError

    def reach(self, t: int) -> int:
        """Return the first value that the one at position t is predicted from; what is earlier is not looked at."""
        return 0

    def fits(self, shape: Sequence[int]) -> bool:
        """Tell whether examples may have this shape: sequences of any length, images of the model's size."""
        return len(shape) == 1 and shape[0] > 0 if len(self.shape) == 1 else super().fits(shape)

    # -- values -------------------------------------------------------------------------------------------------------

    def quantize(self, x: Tensor) -> Tensor:
        """Return the levels of examples in data range: [0, 1] -> int64 0..L-1, the nearest ones.

        Raises:
            DataError: values outside [0, 1].
        """
        x = x if x.is_floating_point() else from_levels(self, x, f"{type(self).__name__}.quantize")
        k = (x * (self.levels - 1)).round().long()
        if k.numel() and (k.min() < 0 or k.max() >= self.levels):
            raise DataError(
                f"{type(self).__name__} takes values in [0, 1], got {float(x.min()):g} to {float(x.max()):g}"
            )
        return k

    def to_sequence(self, x: Tensor) -> Tensor:
        """Arrange examples (B, *shape) as sequences (B, T): images pixel by pixel, the colours of one side by side."""
        return x if len(self.shape) == 1 else x.permute(0, 2, 3, 1).flatten(1)

    def from_sequence(self, x: Tensor) -> Tensor:
        """Turn sequences (B, T) back into examples (B, *shape)."""
        if len(self.shape) == 1:
            return x
        C, H, W = self.shape
        return x.unflatten(1, (H, W, C)).permute(0, 3, 1, 2)  # (B, C, H, W)

    def text(self, x: Tensor) -> list[str]:
        """Return the texts that examples in data range stand for: (B, T) -> B strings. Raises `ConfigError`."""
        if self.alphabet is None:
            raise ConfigError(f"this {type(self).__name__} has no alphabet, so its samples are no text")
        return ["".join(self.alphabet[i] for i in row) for row in self.quantize(x).tolist()]

    def encode_text(self, text: str) -> Tensor:
        """Return the values of a text, int64 (len(text),). Raises `ConfigError` for unknown characters."""
        if self.alphabet is None:
            raise ConfigError(f"this {type(self).__name__} has no alphabet, so it takes no prompt")
        unknown = sorted(set(text) - set(self.alphabet))
        if unknown:
            raise ConfigError(f"the prompt holds {unknown[0]!r}, which is not among the model's characters")
        index = {c: i for i, c in enumerate(self.alphabet)}
        return torch.tensor([index[c] for c in text], dtype=torch.int64, device=self.device)

    # -- likelihood ---------------------------------------------------------------------------------------------------

    def log_prob(
        self,
        x: Tensor,
        *,
        labels: Sequence[int] | Tensor | int | None = None,
        k: int = 1,
        seed: int | torch.Generator | None = None,
    ) -> Tensor:
        """Return log p(x) in nats, exactly: (B, *shape) in [0, 1] -> (B,). ``k`` and ``seed`` have no effect."""
        values = self.to_sequence(self.quantize(x))
        return self._log_prob(values, self.given_labels(len(x), labels))

    def _log_prob(self, k: Tensor, labels: Tensor | None, shown: Tensor | None = None) -> Tensor:
        logits = self(k if shown is None else shown, labels)  # (B, T, L)
        return -F.cross_entropy(logits.flatten(0, 1), k.flatten(), reduction="none").view(k.shape).sum(1)

    def likelihood(self, k: int = 1) -> str:
        return "exact"

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean of -log p(x) over the batch in nats, and the same in bits per value.

        With a schedule, training shows values of the model's own in the place of some true ones: a first pass predicts
        all of them, and each is replaced by a draw from its prediction with probability 1 - eps_i. Validation does not.
        """
        k = self.to_sequence(self.quantize(batch[0]))
        labels = self.given_labels(len(k), batch[1]) if self.num_classes else None
        shown = self._shown(k, labels) if self.training and self.scheduled else None
        nll = -self._log_prob(k, labels, shown).mean()
        return {"loss": nll, "bits_per_value": nll / (self.length * math.log(2))}

    @torch.no_grad()
    def _shown(self, k: Tensor, labels: Tensor | None) -> Tensor:
        eps = teacher_probability(self.scheduled, self.scheduled_k, self.steps_done)
        drawn = inverse_cdf(self(k, labels), self.rand(*k.shape))
        return mix(k, drawn, self.rand(*k.shape), eps)

    # -- sampling -----------------------------------------------------------------------------------------------------

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
        beams: int | None = None,
        prompt: str | None = None,
        given: Tensor | None = None,
        known: Tensor | int | None = None,
        length: int | None = None,
        cached: bool = True,
    ) -> Tensor:
        """Draw ``n`` examples in data range, value by value.

        Args:
            n: number of examples.
            generator: of one uniform number a value, drawn before the first value.
            labels: int64 (n,) for a conditional model.
            temperature: of every softmax.
            greedy: take the most probable value everywhere.
            top_k: draw among the k most probable values.
            top_p: draw among the most probable values whose probabilities sum to at least p.
            beams: search for the n most probable sequences with a beam this wide, without noise.
            prompt: text that every example begins with, for models with an alphabet.
            given: partly known examples in [0, 1]: (m,) or (n, m) beginnings of sequences; (C, H, W) or (n, C, H, W).
            known: which values of ``given`` are kept: a number of rows of an image, or of values of a sequence, from
                the beginning; or a mask that broadcasts to the example's shape. All of a sequence if left out.
            length: values of a sequence to draw, ``given`` ones included, in place of T.
            cached: compute every activation once; otherwise one forward pass a value, for the same integers.

        Raises:
            ConfigError: options that are out of range or do not fit together.
        """
        choose = Decoding(temperature, greedy, top_k, top_p)
        T = self._length(length)
        fixed, values = self._known(n, T, prompt, given, known)
        with torch.inference_mode():
            if beams is not None:
                k = self._beam(n, T, beams, fixed, values, labels, cached)
            else:
                noise = torch.rand(T, n, generator=generator, device=self.device, dtype=self.dtype)
                with resting():
                    k = self._decode(self._state(n, labels, cached), choose, noise, fixed, values)
        return self.from_sequence(k).to(self.dtype).div_(self.levels - 1)

    def _state(self, n: int, labels: Tensor | None, cached: bool) -> SequenceState:
        return self.start(n, labels) if cached else FullPasses(self, n, labels)

    @staticmethod
    def _decode(
        state: SequenceState, choose: Decoding, noise: Tensor, fixed: list[bool], values: Tensor | None
    ) -> Tensor:
        """Draw every value that is not fixed; a fixed beginning is put at once. Returns int64 (n, T)."""
        T, n = noise.shape
        k = torch.empty(T, n, dtype=torch.int64, device=noise.device)
        first = fixed.index(False) if False in fixed else T
        if first:
            k[:first] = values[:, :first].T
            state.put(values[:, :first])
        for t, (u, row) in enumerate(zip(noise.unbind(), k.unbind(), strict=True)):
            if t < first:
                continue
            pulse()
            row.copy_(values[:, t] if fixed[t] else choose(state.logits(), u))
            state.put(row)
        return k.T

    def _beam(
        self, n: int, T: int, width: int, fixed: list[bool], values: Tensor | None, labels: Tensor | None, cached: bool
    ) -> Tensor:
        first = fixed.index(False) if False in fixed else T
        if n > width:
            raise ConfigError(f"a beam of {width} holds no {n} sequences; ask for at most that many")
        if any(fixed[first:]):
            raise ConfigError("beam search completes a beginning; it takes no mask with later known values")
        if first == T:
            return values
        if labels is not None and bool((labels != labels[0]).any()):
            raise ConfigError("beam search is for one label at a time")
        if values is not None and bool((values[:, :first] != values[:1, :first]).any()):
            raise ConfigError("beam search completes one beginning at a time")
        state = self._state(1, None if labels is None else labels[:1], cached)
        head = torch.empty(1, 0, dtype=torch.int64, device=self.device)
        if first:
            head = values[:1, :first]
            state.put(head)
        found, _ = beam_search(state, T - first, width)
        if len(found) < n:
            raise ConfigError(f"there are only {len(found)} sequences of {T - first} values, asked for {n}")
        return torch.cat([head.expand(n, -1), found[:n]], 1)

    def _length(self, length: int | None) -> int:
        if length is None:
            return self.length
        if len(self.shape) == 3:
            raise ConfigError("length is for sequences; an image has the model's size")
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise ConfigError(f"length must be a positive integer, got {length!r}")
        return length

    def _known(
        self, n: int, T: int, prompt: str | None, given: Tensor | None, known: Tensor | int | None
    ) -> tuple[list[bool], Tensor | None]:
        """Return which of T values are fixed, and values int64 (n, T) that hold them."""
        if prompt is not None:
            if given is not None or known is not None:
                raise ConfigError("a prompt is what is given; pass either prompt, or given and known")
            start = self.encode_text(prompt)
        elif given is None:
            if known is not None:
                raise ConfigError("completing takes both: given, the examples, and known, what to keep of them")
            return [False] * T, None
        else:
            start = self._given(n, given, known)
        start = start.expand(n, -1)  # (n, m)
        m = start.shape[1]
        if m > T:
            raise ConfigError(f"{m} values are given, but only {T} are to be drawn; ask for more with length")
        fixed = self._mask(m, known) + [False] * (T - m)
        return fixed, F.pad(start, (0, T - m))

    def _given(self, n: int, given: Tensor, known: Tensor | int | None) -> Tensor:
        given = torch.as_tensor(given, device=self.device)
        batch = given.ndim == len(self.shape) + 1
        own = given.shape[1:] if batch else given.shape
        wrong = own != self.shape if len(self.shape) == 3 else len(own) != 1
        if wrong or (batch and given.shape[0] not in (1, n)):
            expected = self.shape if len(self.shape) == 3 else ("m",)
            raise ConfigError(f"given must have shape {expected} or {(n, *expected)}, got {tuple(given.shape)}")
        if len(self.shape) == 3 and known is None:
            raise ConfigError("completing images takes both: given, the images, and known, the rows or pixels to keep")
        return self.to_sequence(self.quantize(given if batch else given[None]))

    def _mask(self, m: int, known: Tensor | int | None) -> list[bool]:
        """Return which of m given values are kept."""
        if known is None:
            return [True] * m
        if isinstance(known, int):
            rows, each = (m, 1) if len(self.shape) == 1 else (self.shape[1], self.shape[0] * self.shape[2])
            if not 0 <= known <= rows:
                raise ConfigError(f"known must be between 0 and {rows}, got {known}")
            return [i < known * each for i in range(m)]
        shape = (m,) if len(self.shape) == 1 else self.shape
        try:
            mask = torch.as_tensor(known).cpu().bool().expand(shape)
        except RuntimeError as error:
            raise ConfigError(f"known of shape {tuple(known.shape)} does not broadcast to {shape}") from error
        return self.to_sequence(mask[None])[0].tolist()

    def granule(self, options: Mapping[str, Any]) -> int:
        """Return 16; completing, searching and the uncached passes run alone."""
        alone = options.get("beams") or options.get("compiled") or not options.get("cached", True)
        return 0 if alone or options.get("given") is not None else 16

    def calls(self, options: Mapping[str, Any]) -> float:
        return float((options.get("length") or self.length) * (options.get("beams") or 1))

    @property
    def calls_per_sample(self) -> int:
        """Evaluations of the network: one a value, although the cached ones cost about one pass in all."""
        return self.length


class FullPasses:
    """The naive state: every value costs one forward pass over all that it is predicted from."""

    def __init__(self, model: SequenceModel, n: int, labels: Tensor | None) -> None:
        self.model, self.labels = model, labels
        self.k = torch.empty(n, 0, dtype=torch.int64, device=model.device)

    def logits(self) -> Tensor:
        seen = self.k[:, self.model.reach(self.k.shape[1]) :]
        return self.model(F.pad(seen, (0, 1)), self.labels)[:, -1]  # what stands in the last place is not looked at

    def put(self, values: Tensor) -> None:
        self.k = torch.cat([self.k, values.reshape(len(values), -1)], 1)

    def select(self, rows: Tensor) -> None:
        self.k = self.k[rows]
        self.labels = None if self.labels is None else self.labels[rows]
