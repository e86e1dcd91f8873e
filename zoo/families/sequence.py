"""What autoregressive models of sequences have beside: text, training on draws of their own, and search.

They see text, audio, and images as a sequence of pixels: values int64 (B, T), an image's in raster order.

References:
    S. Bengio and others, Scheduled Sampling for Sequence Prediction with Recurrent Neural Networks, 2015,
    arXiv:1506.03099.
    Y. Bengio, J. Louradour, R. Collobert, J. Weston, Curriculum Learning, 2009, International Conference on Machine
    Learning: what is easy first, here short sequences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import ConfigError
from zoo.families.autoregressive import AutoregressiveModel, scores
from zoo.maths.decoding import BeamState, Decoding, beam_search, inverse_cdf, known_beginning
from zoo.maths.scheduled_sampling import mix, teacher_probability

__all__ = ["SequenceModel", "cut"]


def cut(values: Tensor, pieces: int) -> Tensor:
    """Return the pieces of sequences, those of one side by side: (B, T) -> (B pieces, T / pieces)."""
    return values.reshape(len(values) * pieces, -1)


class SequenceModel(AutoregressiveModel):
    """Base of the models whose network sees a sequence: values int64 (B, T) -> logits (B, T, L).

    A family gives `forward` and `start`, and `reach` where not everything before a value is looked at.

    Args:
        shape: (T,) of a sequence, or (C, H, W) of an image.
        levels: L, the number of values, at least 2.
        num_classes: classes that the model is conditioned on, 0 for none.
        alphabet: of a model of text: the L characters that the values stand for.
        rate: of a model of audio: samples a second, the values being mu-law codes.
        lr: peak learning rate.
        betas: Adam's decay rates.
        scheduled: schedule of scheduled sampling, see `zoo.maths.scheduled_sampling`; none for teacher forcing.
        scheduled_k: constant of that schedule.
        curriculum: of sequences: length of the pieces that the first batches are cut into, which doubles until it is T;
            none for whole examples throughout.
        curriculum_every: batches until it doubles.

    Raises:
        ConfigError: numbers that do not fit together.
    """

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
        curriculum: int | None = None,
        curriculum_every: int = 200,
    ) -> None:
        super().__init__(shape, levels, num_classes, lr, betas)
        if alphabet is not None and not len(alphabet) == len(set(alphabet)) == levels:
            raise ConfigError(
                f"an alphabet has one character a level, each once: {levels} levels, {len(set(alphabet))} distinct "
                f"characters of {len(alphabet)}"
            )
        teacher_probability(scheduled, scheduled_k, 0)  # refuses what is no schedule
        self.alphabet, self.rate = alphabet, rate
        self.scheduled, self.scheduled_k = scheduled, scheduled_k
        self.curriculum, self.curriculum_every = curriculum, curriculum_every
        self.counted_from = self._doublings() * curriculum_every

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that go with other data, which are theirs alone; see `zoo.fitting`."""
        return dict(arguments)

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return nothing: the network is the model's own; see `zoo.fitting`."""
        return {}

    def start(self, n: int, labels: Tensor | None = None) -> BeamState:
        raise NotImplementedError

    def reach(self, t: int) -> int:
        """Return the first value that the one at position t is predicted from; what is earlier is not looked at."""
        return 0

    def arranged(self, values: Tensor) -> Tensor:
        return self.to_sequence(values)

    def fits(self, shape: Sequence[int]) -> bool:
        """Tell whether examples may have this shape: sequences of any length, images of the model's size."""
        return len(shape) == 1 and shape[0] > 0 if len(self.shape) == 1 else super().fits(shape)

    def predict(self, values: Tensor, labels: Tensor | None = None) -> Tensor:
        seen = values[:, self.reach(values.shape[1]) :]
        return self(F.pad(seen, (0, 1)), labels)[:, -1]  # what stands in the last place is not looked at

    # -- text ---------------------------------------------------------------------------------------------------------

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

    # -- training -----------------------------------------------------------------------------------------------------

    def training_log_prob(self, values: Tensor, labels: Tensor | None) -> Tensor:
        """Return log p(x), in training with a schedule as it is after values of the model's own.

        There a first pass predicts all values, and each is replaced by a draw from its prediction with probability
        1 - eps_i. With a curriculum it is the sum over the pieces of an example, each told nothing of the others.
        Validation does neither.
        """
        if not self.training:
            return self._log_prob(values, labels)
        pieces = self.pieces()
        x, y = cut(values, pieces), labels if labels is None else labels.repeat_interleave(pieces)
        log_p = scores(self(self._shown(x, y) if self.scheduled else x, y), x)
        return log_p.view(-1, pieces).sum(1)

    def _doublings(self) -> int:
        """Return how often the length of the pieces doubles. Raises `ConfigError`: pieces that do not fill examples."""
        if self.curriculum is None:
            return 0
        ratio = self.length // max(1, self.curriculum)
        if (
            len(self.shape) != 1
            or self.curriculum_every < 1
            or self.curriculum * ratio != self.length
            or ratio.bit_count() != 1
        ):
            raise ConfigError(
                f"a curriculum begins with pieces of a sequence, doubled once or more until they are {self.length} "
                f"values, every 1 batch or more, got {self.curriculum} and {self.curriculum_every}"
            )
        return ratio.bit_length() - 1

    def pieces(self) -> int:
        """Return into how many pieces the examples of this batch of training are cut."""
        return 1 << max(0, self._doublings() - self.steps_done // self.curriculum_every)

    @torch.no_grad()
    def _shown(self, values: Tensor, labels: Tensor | None) -> Tensor:
        eps = teacher_probability(self.scheduled, self.scheduled_k, self.steps_done)
        drawn = inverse_cdf(self(values, labels), self.rand(*values.shape))
        return mix(values, drawn, self.rand(*values.shape), eps)

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
        compiled: bool = False,
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
            given: partly known examples in [0, 1], NaN where a value is unknown: (m,) or (n, m) beginnings of
                sequences; (C, H, W) or (n, C, H, W).
            known: which values of ``given`` are kept: a number of rows of an image, or of values of a sequence, from
                the beginning; or a mask that broadcasts to the shape of ``given``. All of a sequence if left out.
            length: values of a sequence to draw, ``given`` ones included, in place of T.
            cached: compute every activation once; otherwise one forward pass a value, for the same integers.
            compiled: run the whole loop as one compiled function, where the family has one: tens of times as fast for
                a few sequences; it needs numba, and a model on the CPU.

        Raises:
            ConfigError: options that are out of range or do not fit together.
        """
        choose = Decoding(temperature, greedy, top_k, top_p)
        T = self._length(length)
        if prompt is not None:
            if given is not None or known is not None:
                raise ConfigError("a prompt is what is given; pass either prompt, or given and known")
            given = self.encode_text(prompt).to(self.dtype) / (self.levels - 1)
        fixed = self._fixed(n, T, given, known)
        if compiled:
            self._check_compiled(choose, cached)
        if beams is None:
            return self._draw(
                n, generator, labels, choose, fixed, T, compiled, lambda: self._state(n, labels, cached)
            )  # fmt: skip
        if compiled:
            raise ConfigError("compiled sampling draws and does not search; leave out compiled or beams")
        with torch.inference_mode():
            return self._data(self._beam(n, T, beams, fixed, labels, cached))

    def _beam(
        self,
        n: int,
        T: int,
        width: int,
        fixed: tuple[Tensor | None, Tensor | None],
        labels: Tensor | None,
        cached: bool,
    ) -> Tensor:
        values, known = fixed
        first = 0 if known is None else known_beginning(known)
        if n > width:
            raise ConfigError(f"a beam of {width} holds no {n} sequences; ask for at most that many")
        if known is not None and bool(known[:, first:].any()):
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

    def calls(self, options: Mapping[str, Any]) -> float:
        return float((options.get("length") or self.length) * (options.get("beams") or 1))
