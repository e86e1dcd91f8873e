"""A learned prior over the tokens of a trained tokenizer of texts, and with it a generative model of texts.

    log p(x) >= log p(x | c) + sum_k log p(c_k | c_1, ..., c_{k-1}),   c the tokens of x

The tokenizer is frozen: byte-pair encoding, whose tokens tell x exactly, or one that was trained and tells it nearly.
A text has as many tokens as it takes, and no token marks its end: it ends when its characters are there. So bits a
character are comparable with those of a model that reads characters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.abilities import TokenisesText
from zoo.checking import trusted
from zoo.errors import ConfigError
from zoo.families.second_stage import SecondStage
from zoo.families.sequence import SequenceModel
from zoo.maths.spans import written
from zoo.model import Batch, GenerativeModel, LikelihoodModel, TrainedPart
from zoo.sampling import Labels

__all__ = ["TokenPrior"]


def _fitted(arguments: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    """Return the arguments of a `TokenPrior` over the tokens of this very tokenizer."""
    prior = arguments["prior"]
    fitted = {**(prior.get("init_args") or {}), "levels": tokenizer.vocabulary}
    return {**arguments, "tokenizer": tokenizer.spec, "prior": {**prior, "init_args": fitted}}


class TokenPrior(SecondStage, LikelihoodModel):
    """A frozen tokenizer of texts, and a model of sequences that is fitted to its tokens.

    Args:
        tokenizer: a model that `zoo.abilities.TokenisesText`; never trained here.
        prior: a `zoo.families.sequence.SequenceModel`, such as a Transformer with rotary positions: of shape (S,), the
            tokens of a text that it learns from, and with the tokenizer's vocabulary as its levels; its learning rate
            is the one that counts, and its sampler's options are options here. The likelihood is that of all tokens.

    Raises:
        ConfigError: a prior that does not fit the tokens.
    """

    family = "autoregressive"
    quantizes = True
    trained_parts: ClassVar[Mapping[str, TrainedPart]] = {
        "tokenizer": TrainedPart(
            what="a prior over the tokens of a trained tokenizer of texts", example="bpe-shakespeare",
            requires=TokenisesText, needs="tokens of texts", fitted=_fitted,
        )
    }  # fmt: skip

    def __init__(self, tokenizer: nn.Module, prior: nn.Module) -> None:
        if not isinstance(tokenizer, TokenisesText):
            raise ConfigError(f"a {type(tokenizer).__name__} is no tokenizer of texts; one is bpe-shakespeare")
        if not isinstance(prior, SequenceModel) or len(prior.shape) != 1:
            raise ConfigError(f"a {type(prior).__name__} is no model of sequences, (S,), as Transformer is one")
        if prior.levels != tokenizer.vocabulary:
            raise ConfigError(
                f"the prior has {prior.levels} levels, but the tokenizer {tokenizer.vocabulary} tokens; set the one to "
                f"the other"
            )
        super().__init__(tokenizer, prior)
        self.alphabet = tokenizer.alphabet

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, which stands in the place of an autoencoder."""
        return self.autoencoder

    def fits(self, shape: Sequence[int]) -> bool:
        """Tell whether examples may have this shape, as the tokenizer does."""
        return self.tokenizer.fits(shape)

    def text(self, x: Tensor) -> list[str]:
        """Return the texts that examples stand for: (B, T) -> B strings."""
        return self.tokenizer.text(x)

    def tokens(self, x: Tensor) -> Tensor:
        """Return the tokens of examples, int64 (B, n), n the most of any, -1 behind the last."""
        found, _ = self.tokenizer.tokenised(x)
        return found[:, : max(1, int((found >= 0).sum(1).max()))]

    # -- training -----------------------------------------------------------------------------------------------------

    def _scores(self, tokens: Tensor) -> Tensor:
        """Return the log-probabilities of tokens, 0 where there is none: int64 (B, n) -> (B, n)."""
        values = tokens.clamp(min=0)
        log_p = -F.cross_entropy(self.prior(values).flatten(0, 1), values.flatten(), reduction="none")
        return log_p.view(values.shape).masked_fill(tokens < 0, 0.0)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return -log p of the first S tokens of a text, in nats, and in bits a token."""
        S = self.prior.shape[0]
        with torch.no_grad(), trusted():
            found, _ = self.tokenizer.tokenised(batch[0])
        tokens = F.pad(found[:, :S], (0, max(0, S - found.shape[1])), value=-1)
        nats = -self._scores(tokens).sum(1).mean()
        count = (tokens >= 0).sum(1).to(nats.dtype).mean()
        return {"loss": nats, "bits_per_token": nats.detach() / (count * math.log(2)), "tokens": count}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return GenerativeModel.training_step(self, batch, batch_idx)

    # -- likelihood ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def log_prob(
        self, x: Tensor, *, labels: Labels = None, k: int = 1, seed: int | torch.Generator | None = None
    ) -> Tensor:
        """Return log p(x | tokens) + log p(tokens), all of them, in nats: (B, T) in data range -> (B,).

        ``k`` and ``seed`` have no effect: the tokens are a function of x.
        """
        self.given_labels(len(x), labels)
        tokens, log_p = self.tokenizer.tokenised(x)
        tokens = tokens[:, : max(1, int((tokens >= 0).sum(1).max()))]
        if self.prior.reach(tokens.shape[1] - 1) and getattr(self.prior, "position", None) is not None:
            raise ConfigError(
                f"a text of {tokens.shape[1]} tokens is longer than the {self.prior.shape[0]} that the prior has "
                f"positions for; take one with rotary positions, or a larger shape"
            )
        return log_p + self._scores(tokens).sum(1)

    def likelihood(self, k: int = 1) -> str:
        return "elbo"

    # -- sampling -----------------------------------------------------------------------------------------------------

    def draw(
        self,
        n: int,
        generator: torch.Generator,
        labels: Tensor | None,
        *,
        prompt: str | None = None,
        length: int | None = None,
        **options: Any,
    ) -> Tensor:
        """Draw tokens until a text is as long as it should be, and write them out, in data range.

        Args:
            prompt: text that every example begins with; its tokens are those that it has by itself.
            length: characters to draw in place of T.
            options: of the prior's sampler.
        """
        T = length or self.shape[0]
        tokens, total = self._prompt(prompt, n), torch.zeros(n, dtype=torch.int64)
        step = min(self.prior.shape[0], T)
        values = torch.zeros(n, T, dtype=torch.int64, device=self.device)
        while int(total.min()) < T:
            given = None if tokens is None else tokens.to(torch.float32) / max(1, self.prior.levels - 1)
            known = 0 if tokens is None else tokens.shape[1]
            x = self.prior.draw(n, generator, labels, length=known + step, given=given, **options)
            tokens = self.prior.quantize(x)
            values, total = written(tokens, *self.tokenizer.spelling(), T)
        return values.to(self.dtype) / (self.levels - 1)

    def _prompt(self, prompt: str | None, n: int) -> Tensor | None:
        if not prompt:
            return None
        place = {c: i for i, c in enumerate(self.alphabet or "")}
        unknown = sorted(set(prompt) - set(place))
        if unknown:
            raise ConfigError(f"the prompt holds {unknown[0]!r}, which is not among the model's characters")
        values = torch.tensor([[place[c] for c in prompt]], device=self.device)
        found, _ = self.tokenizer.tokenised(values.to(self.dtype) / (self.levels - 1))
        return found[:, found[0] >= 0].expand(n, -1)
