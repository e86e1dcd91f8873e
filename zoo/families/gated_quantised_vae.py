"""A tokenizer of texts whose tokens have lengths that are learnt: an autoencoder with a gate at each character.

    z_t = encoder(x)_t,   c_t its nearest code,   g_t in (0, 1): a token ends at t
    head(e_{c_t}) = the last J characters, and how many of them the token has
    L = sum_{t,l} w_{t,l} [ a - log p(l | c_t) - sum_{j < l} log p(x_{t-j} | c_t) ] + commitment

w_{t,l} is the chance that a token of length l ends at t, see `zoo.maths.spans`, and a the price of a token: few tokens
are dear in characters that are told wrong, many in price. So L is the mean over all ways in which the gates cut the
text up. A token's text depends on its code alone, so that codes are words of a fixed vocabulary, and with hard gates,
cut where g > 1/2,

    log p(x) >= sum_tokens [ log p(c) + log p(length | c) + sum_j log p(x_j | c) ],

which is -L for such gates and a = -log p(c).

References:
    T. Datta, K. Huang, S. Kakade, D. Brandfonbrener, GQ-VAE: A gated quantized VAE for learning variable length tokens,
    2025, arXiv:2512.21913. There a token's characters are weighted by soft masks, which are these chances where tokens
    have no longest length, and its length is told by binary cross-entropies; the gates read the encoder's vectors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.checking import check_within
from zoo.errors import ConfigError
from zoo.maths.annealing import linear
from zoo.maths.noise import rand
from zoo.maths.quantisers import straight_through
from zoo.maths.spans import before, hard_gates, left_packed, span_chances, span_masks, written
from zoo.model import Batch, LikelihoodModel
from zoo.nets.quantisers import Quantised, VectorQuantiser
from zoo.nets.sequence_encoder import SequenceBlocks, SequenceEncoder
from zoo.sampling import Labels

__all__ = ["GatedQuantisedVAE"]


class GatedQuantisedVAE(LikelihoodModel):
    """GQ-VAE: characters to tokens of at most ``longest`` characters out of a learnt vocabulary, and back.

    Without a prior over its tokens, `zoo.families.token_prior.TokenPrior`, it draws them uniformly.

    Args:
        shape: (T,).
        levels: L, characters.
        vocabulary: K, codes.
        dim: size of a code's vector.
        width: of the Transformers.
        depth: blocks of the encoder; the gates have one more.
        heads: of attention.
        longest: J, characters of a token at most.
        hidden: width of the head, the network from a code to its characters.
        price: a, nats a token.
        cost_steps: training steps in which what a token costs, its price and the nats of its length, rises from 0 for
            the gates, which else close before the codes tell anything; the head learns lengths meanwhile.
        commitment: weight of the squared distance of z from its code, where a token ends.
        alphabet: the L characters; none for values that are no text.
        lr: peak learning rate.
        betas: Adam's decay rates.

    Raises:
        ConfigError: numbers out of range.
    """

    family = "vae"
    quantizes = True
    sized: ClassVar[Mapping[str, str]] = {"width": "width", "heads": "width", "hidden": "width", "depth": "depth"}

    def __init__(
        self,
        shape: Sequence[int] = (256,),
        levels: int = 80,
        vocabulary: int = 512,
        dim: int = 64,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        longest: int = 8,
        hidden: int = 128,
        price: float = 3.0,
        cost_steps: int = 0,
        commitment: float = 0.25,
        alphabet: str | None = None,
        lr: float = 1.0e-3,
        betas: Sequence[float] = (0.9, 0.99),
    ) -> None:
        super().__init__()
        if len(shape) != 1 or min(*shape, longest, vocabulary) < 1 or levels < 2:
            raise ConfigError(
                f"a {type(self).__name__} is of texts, (T,), with at least 2 characters, 1 token and 1 character a "
                f"token, got {list(shape)}, {levels}, {vocabulary} and {longest}"
            )
        if alphabet is not None and not len(alphabet) == len(set(alphabet)) == levels:
            raise ConfigError(f"an alphabet has one character a level, each once: {levels}, got {len(alphabet)}")
        self.shape, self.levels, self.alphabet = tuple(shape), levels, alphabet
        self.vocabulary, self.longest = vocabulary, longest
        self.price, self.cost_steps, self.commitment = price, cost_steps, commitment
        self.lr, self.betas = lr, tuple(betas)
        self.encoder = SequenceEncoder(levels, width, depth, heads)
        self.to_code = nn.Linear(width, dim)
        self.quantiser = VectorQuantiser(vocabulary, dim)
        self.gater = SequenceBlocks(width, 1, heads)
        self.gate = nn.Sequential(nn.Conv1d(width, width, 3, padding=1), nn.GELU(), nn.Conv1d(width, 1, 3, padding=1))
        nn.init.constant_(self.gate[2].bias, -0.7)  # a third of the gates is open at the start
        self.head = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, longest * (levels + 1)))

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that go with other data, which are theirs alone; see `zoo.fitting`."""
        return dict(arguments)

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return nothing: the networks are the model's own; see `zoo.fitting`."""
        return {}

    def fits(self, shape: Sequence[int]) -> bool:
        """Tell whether examples may have this shape: texts of any length."""
        return len(shape) == 1 and shape[0] > 0

    # -- values, gates and codes --------------------------------------------------------------------------------------

    def quantize(self, x: Tensor) -> Tensor:
        """Return the levels of examples: (B, T) in [0, 1] -> int64 (B, T)."""
        values = (x * (self.levels - 1)).round().long()
        check_within(values, self.levels, f"{type(self).__name__} takes values in [0, 1]")
        return values

    def text(self, x: Tensor) -> list[str]:
        """Return the texts that examples stand for: (B, T) -> B strings. Raises `ConfigError` without an alphabet."""
        if self.alphabet is None:
            raise ConfigError(f"this {type(self).__name__} has no alphabet, so its examples are no text")
        return ["".join(self.alphabet[i] for i in row) for row in self.quantize(x).cpu().tolist()]

    def encoded(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors before quantisation, and gates: int64 (B, T) -> (B, T, dim), (B, T) in (0, 1)."""
        h = self.encoder(values)
        return self.to_code(h), self.gate(self.gater(h).transpose(1, 2))[:, 0].sigmoid()

    def _nearest(self, z: Tensor) -> Tensor:
        return self.quantiser.codes(z.mT[:, :, None])[:, 0, 0]  # (B, T)

    def _vectors(self, codes: Tensor) -> Tensor:
        return F.embedding(codes, self.quantiser.book()[0])

    def said_of(self, e: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a code's vector says: (..., dim) -> log-probabilities of the last J characters, (..., J, L), the
        last one first, and of the lengths 1 to J, (..., J)."""
        out = self.head(e).unflatten(-1, (self.longest, -1))
        return out[..., :-1].log_softmax(-1), out[..., -1].log_softmax(-1)

    # -- the objective ------------------------------------------------------------------------------------------------

    def objective(self, x: Tensor) -> tuple[dict[str, Tensor], Quantised]:
        """Return the terms of the loss, nats an example, and what the quantiser learns from."""
        values = self.quantize(x)
        z, g = self.encoded(values)
        with torch.no_grad():
            codes = self._nearest(z)
        e = self._vectors(codes)
        characters, lengths = self.said_of(straight_through(z, e))
        w = span_chances(g, self.longest)  # (B, T, J)
        wrong = -characters.gather(3, before(values, self.longest)[..., None])[..., 0].cumsum(2)  # of l characters
        ends = w.sum(2)  # (B, T)
        terms = {
            "reconstruction": (w * wrong).sum((1, 2)).mean(),
            "length": -(torch.lerp(w.detach(), w, self._cost_share()) * lengths).sum((1, 2)).mean(),
            "tokens": ends.sum(1).mean(),
            "commitment": (ends.detach()[..., None] * (z - e.detach()).square()).sum((1, 2)).mean(),
        }
        loss = terms["reconstruction"] + terms["length"] + self._cost_share() * self.price * terms["tokens"]
        loss = loss + self.commitment * terms["commitment"]
        ended = ends.detach()[..., None] * F.one_hot(codes, self.vocabulary).to(g.dtype)  # (B, T, K)
        learned = z.detach().flatten(0, 1)[None], ended.flatten(0, 1)[None]
        return {"loss": loss, **terms}, Quantised(z, codes[:, None, None], learned=learned)

    def _cost_share(self) -> float:
        return linear(self.steps_done, self.cost_steps) if self.cost_steps else 1.0

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of the objective; ``tokens`` is how many a text has."""
        return self.objective(batch[0])[0]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        terms, made = self.objective(batch[0])
        self.quantiser.learn(made, self.rand)
        self.terms = {k: v.detach() for k, v in terms.items()}
        return terms["loss"]

    # -- tokens -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def tokens(self, x: Tensor) -> Tensor:
        """Return the code of each token at its last character, -1 elsewhere: (B, T) -> int64 (B, T)."""
        z, g = self.encoded(self.quantize(x))
        return torch.where(hard_gates(g, self.longest), self._nearest(z), -1)

    @torch.no_grad()
    def tokenised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens of texts, and how well these tell them.

        Returns:
            int64 (B, T), from the left, -1 behind the last; and log p(x, lengths | tokens), (B,), in nats.
        """
        values, codes = self.quantize(x), self.tokens(x)
        ends = (codes >= 0).to(self.dtype)
        characters, lengths = self.said_of(self._vectors(codes.clamp(min=0)))
        m = span_masks(ends, self.longest)
        log_p = (m * characters.gather(3, before(values, self.longest)[..., None])[..., 0]).sum(2)
        log_p = log_p + lengths.gather(2, m.sum(2, keepdim=True).long() - 1)[..., 0]
        return left_packed(codes), (ends * log_p).sum(1)

    @torch.no_grad()
    def spelling(self) -> tuple[Tensor, Tensor]:
        """Return what each token most probably stands for: int64 (K, J) from the left, and its length, int64 (K,)."""
        characters, lengths = self.said_of(self.quantiser.book()[0])
        backwards, n = characters.argmax(2), lengths.argmax(1) + 1  # (K, J), (K,)
        place = n[:, None] - 1 - torch.arange(self.longest, device=n.device)
        return backwards.gather(1, place.clamp(min=0)), n

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the text that its tokens spell, cut to its length: (B, T) -> (B, T), both in data range."""
        values, _ = written(self.tokenised(x)[0], *self.spelling(), x.shape[1])
        return values.to(self.dtype) / (self.levels - 1)

    # -- the likelihood, and sampling ---------------------------------------------------------------------------------

    @torch.no_grad()
    def log_prob(
        self, x: Tensor, *, labels: Labels = None, k: int = 1, seed: int | torch.Generator | None = None
    ) -> Tensor:
        """Return the bound on log p(x) for tokens that are all alike, log p(c) = -log K, in nats: (B, T) -> (B,)."""
        self.given_labels(len(x), labels)
        tokens, log_p = self.tokenised(x)
        return log_p - (tokens >= 0).sum(1) * math.log(self.vocabulary)

    def likelihood(self, k: int = 1) -> str:
        return "elbo"

    def draw(self, n: int, generator: torch.Generator, labels: Tensor | None) -> Tensor:
        """Draw tokens uniformly, and write out what they most probably stand for."""
        T = self.shape[0]
        tokens = (rand((n, T), generator, self.device, self.dtype) * self.vocabulary).long()
        values, _ = written(tokens, *self.spelling(), T)
        return values.to(self.dtype) / (self.levels - 1)
