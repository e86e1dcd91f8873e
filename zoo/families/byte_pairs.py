"""Byte-pair encoding as a model of texts: tokens that are drawn one by one, each with a probability of its own.

    log p(x) >= sum_k log p(c_k),   c the tokens of x;   p(c) = softmax(logits)_c

The merges are learnt from the training texts before the first step, by counting; what is trained are the probabilities.
By itself the weakest model of text there is, it is a tokenizer for stronger ones.

References:
    R. Sennrich, B. Haddow, A. Birch, Neural Machine Translation of Rare Words with Subword Units, 2015,
    arXiv:1508.07909. The bound is that of one way to cut the text up, where others spell it too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from zoo.checking import check_within
from zoo.errors import ConfigError
from zoo.maths.decoding import inverse_cdf
from zoo.maths.noise import rand
from zoo.maths.spans import written
from zoo.model import Batch, LikelihoodModel
from zoo.nets.byte_pairs import encoder_of, learned_merges, strings_of
from zoo.sampling import Labels

__all__ = ["BytePairs"]

_TEXTS = 20_000  # of the training texts, so many are looked at for merges where no data module knows them all


@runtime_checkable
class HasWindows(Protocol):
    """Data whose training texts are windows, one for each place where one may begin."""

    def split(self, name: str) -> Any: ...

    def to_float(self, x: Any, dtype: Any) -> Tensor: ...


class BytePairs(LikelihoodModel):
    """Tokens by byte-pair encoding, each drawn by itself.

    Args:
        shape: (T,).
        levels: L, characters.
        vocabulary: tokens, characters included; at least L.
        alphabet: the L characters.
        lr: peak learning rate, of the logarithms of probabilities.
        betas: Adam's decay rates.

    Raises:
        ConfigError: numbers that do not fit together, or no alphabet.
    """

    family = "autoregressive"
    quantizes = True

    def __init__(
        self,
        shape: Sequence[int] = (256,),
        levels: int = 80,
        vocabulary: int = 512,
        alphabet: str | None = None,
        lr: float = 0.05,
        betas: Sequence[float] = (0.9, 0.99),
    ) -> None:
        super().__init__()
        if alphabet is None or not len(alphabet) == len(set(alphabet)) == levels:
            raise ConfigError(f"byte pairs are of texts: give an alphabet of {levels} characters, each once")
        if len(shape) != 1 or vocabulary < levels:
            raise ConfigError(
                f"a vocabulary holds the {levels} characters, and the shape is (T,): got {vocabulary} and {list(shape)}"
            )
        self.shape, self.levels, self.alphabet, self.vocabulary = tuple(shape), levels, alphabet, vocabulary
        self.lr, self.betas = lr, tuple(betas)
        self.logits = nn.Parameter(torch.zeros(vocabulary))
        self.register_buffer("merges", torch.full((vocabulary - levels, 2), -1))  # -1: not learnt, or not found
        self._known: tuple[Any, Tensor, Tensor] | None = None

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that go with other data, and at least as many merges as before; see `zoo.fitting`."""
        levels, old = len(arguments["alphabet"] or ""), len(before.get("alphabet") or "")
        size = arguments.get("vocabulary", 512)
        return {**arguments, "vocabulary": max(size, size - old + levels)}

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return nothing: there are no networks; see `zoo.fitting`."""
        return {}

    def fits(self, shape: Sequence[int]) -> bool:
        """Tell whether examples may have this shape: texts of any length."""
        return len(shape) == 1 and shape[0] > 0

    # -- merges -------------------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Learn the merges from the training texts, unless a checkpoint or earlier weights brought them."""
        if self.vocabulary > self.levels and bool((self.merges < 0).all()):
            self.learn_merges(self.text(self._training_texts()))

    def _training_texts(self) -> Tensor:
        data = self.trainer.datamodule
        if isinstance(data, HasWindows):
            return data.to_float(data.split("train")[0][:: self.shape[0]], self.dtype)
        return self.first_examples(_TEXTS)

    @torch.no_grad()
    def learn_merges(self, texts: Sequence[str]) -> None:
        """Learn as many merges as the vocabulary has room for, or as the texts have. Raises `ConfigError`."""
        found = learned_merges(texts, self.alphabet or "", self.vocabulary)
        self._known = None
        self.merges.fill_(-1)
        if found:
            self.merges[: len(found)] = torch.tensor(found, device=self.merges.device)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._known = None
        super()._load_from_state_dict(*args, **kwargs)

    def _state(self) -> tuple[Any, Tensor, Tensor]:
        """Return the function from strings to tokens, none where they are characters, and the spelling, made once."""
        if self._known is None:
            pairs = [(a, b) for a, b in self.merges.cpu().tolist() if a >= 0]
            strings = strings_of(self.alphabet or "", pairs)
            place = {c: i for i, c in enumerate(self.alphabet or "")}
            rows = torch.zeros(self.vocabulary, max(map(len, strings)), dtype=torch.int64)
            lengths = torch.ones(self.vocabulary, dtype=torch.int64)  # what was not learnt stands for the character 0
            for i, string in enumerate(strings):
                rows[i, : len(string)] = torch.tensor([place[c] for c in string])
                lengths[i] = len(string)
            encode = encoder_of(self.alphabet or "", pairs) if pairs else None
            self._known = encode, rows, lengths
        return self._known

    # -- tokens -------------------------------------------------------------------------------------------------------

    def quantize(self, x: Tensor) -> Tensor:
        """Return the levels of examples: (B, T) in [0, 1] -> int64 (B, T)."""
        values = (x * (self.levels - 1)).round().long()
        check_within(values, self.levels, f"{type(self).__name__} takes values in [0, 1]")
        return values

    def text(self, x: Tensor) -> list[str]:
        """Return the texts that examples stand for: (B, T) -> B strings."""
        return ["".join((self.alphabet or "")[i] for i in row) for row in self.quantize(x).cpu().tolist()]

    @torch.no_grad()
    def tokenised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens of texts, int64 (B, T) from the left, -1 behind the last, and 0 for each: they are exact.

        Raises:
            ConfigError: the library ``tokenizers`` is not installed.
        """
        values, encode = self.quantize(x), self._state()[0]
        if encode is None:
            return values, x.new_zeros(len(x))
        found = torch.full(values.shape, -1)
        for row, tokens in zip(found, encode(self.text(x)), strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        return found.to(x.device), x.new_zeros(len(x))

    def spelling(self) -> tuple[Tensor, Tensor]:
        """Return what each token stands for, int64 (V, J) from the left, and its length, int64 (V,)."""
        _, strings, lengths = self._state()
        return strings.to(self.device), lengths.to(self.device)

    # -- the model of tokens ------------------------------------------------------------------------------------------

    def _nats(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return -log p of the tokens of each text, and how many they are, (B,) each."""
        tokens, _ = self.tokenised(x)
        counts = torch.zeros(len(x), self.vocabulary + 1, device=x.device, dtype=self.logits.dtype)
        counts.scatter_add_(1, tokens + 1, torch.ones_like(tokens, dtype=counts.dtype))  # the first is of no token
        counts = counts[:, 1:]
        return -(counts @ self.logits.log_softmax(0)[:, None])[:, 0], counts.sum(1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return -log p(x) in nats an example, and how many tokens a text has."""
        nats, count = self._nats(batch[0])
        return {"loss": nats.mean(), "tokens": count.mean()}

    @torch.no_grad()
    def log_prob(
        self, x: Tensor, *, labels: Labels = None, k: int = 1, seed: int | torch.Generator | None = None
    ) -> Tensor:
        """Return the bound on log p(x) in nats: (B, T) in data range -> (B,). ``k`` and ``seed`` have no effect."""
        self.given_labels(len(x), labels)
        return -self._nats(x)[0]

    def likelihood(self, k: int = 1) -> str:
        return "elbo"

    def draw(self, n: int, generator: torch.Generator, labels: Tensor | None) -> Tensor:
        """Draw tokens one by one, and write them out."""
        T = self.shape[0]
        u = rand((n, T), generator, self.device, self.dtype)
        values, _ = written(inverse_cdf(self.logits.expand(n, T, -1), u), *self.spelling(), T)
        return values.to(self.dtype) / (self.levels - 1)
