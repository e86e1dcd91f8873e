"""Masked generative transformer: codes that are drawn many at a time, in any order, by a network that sees both ways.

    L = - mean over masked positions of log p(c_i | c at the others),  a share cos(pi r / 2) masked, r ~ U(0, 1)

A sampler starts with all positions masked. In each of T steps it draws all that are masked, each by itself, keeps the
more confident ones, confidence being log p(drawn) + tau (1 - t/T) Gumbel noise, and masks the rest again. That is no
exact sampler of anything: it prefers what it is sure of. With ``order`` random and as many steps as positions it is
one, of the model in that order. With ``order`` halton the positions of each step are fixed and far apart, and the
sampler draws, whatever its T, exactly from

    p_T(c) = prod_t prod_{i new in step t} p(c_i | codes of the earlier steps)

which sums to one: `MaskGIT.log_prob` of a model with that order is its logarithm, from T evaluations.

The loss is no likelihood. For the other orders what is one is the bound over random orders sigma,

    log p(c) >= E_sigma sum_k log p(c_sigma(k) | c_sigma(<k))  =  E_m (N / |m|) sum_{i in m} log p(c_i | c outside m)

with |m| uniform in 1..N: `MaskGIT.log_prob` estimates its right side, and ``schedule`` uniform trains it.

References:
    H. Chang, H. Zhang, L. Jiang, C. Liu, W. T. Freeman, MaskGIT: Masked Generative Image Transformer, 2022,
    arXiv:2202.04200.
    V. Besnier and others, Halton Scheduler for Masked Generative Image Transformer, 2025, arXiv:2503.17076.
    T. Xiao and others, Early Convolutions Help Transformers See Better, 2021, arXiv:2106.14881.
    E. Hoogeboom and others, Autoregressive Diffusion Models, 2021, arXiv:2110.02037, equations 2 to 4.
    H. Chang and others, Muse, 2023, arXiv:2301.00704 (guidance of logits).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError, check_choice
from zoo.families.token_model import TokenModel
from zoo.maths.constants import constants
from zoo.maths.decoding import Decoding
from zoo.maths.guidance import Field, calls_per_step, guide
from zoo.maths.noise import rand
from zoo.maths.unmasking import ORDERS, gumbel, halton_order, left_masked, lowest, masked_counts, masked_sets
from zoo.model import Batch, HasLikelihood
from zoo.nets.attention import AttentionBlock
from zoo.nets.resnet import ResidualBlock
from zoo.sampling import Labels, interruption_point, seeded

__all__ = ["MaskGIT"]

SCHEDULES = ("cosine", "uniform")
_NOT_ASKED = -100
_FEW = 16  # rows that are evaluated anyway, see `TokenModel.granule`


class MaskGIT(HasLikelihood, TokenModel):
    """Bidirectional pre-norm Transformer over N codes, one more symbol for what is masked, and a token for the class.

    Args:
        shape: of the codes of an example, (G, h, w); N is their number.
        levels: K, values of a code.
        width: d, of the stream.
        depth: blocks.
        heads: attention heads.
        hidden: width inside the two-layer networks, 4 d if left out.
        steps: T, default of the sampler.
        choice_temperature: tau, default of the sampler.
        order: ``confidence``, ``random`` or ``halton``, default of the sampler.
        schedule: ``cosine``, or ``uniform``: a uniform number of masked codes, k, and the sum over them times N / k,
            which makes the loss the bound, in nats an example. With ``cosine`` it is in nats a masked code.
        smoothing: of the labels of the cosine schedule's loss; 0.1 if left out.
        convolutions: residual blocks of a 3x3 and a 1x1 convolution over the grid of codes, ahead of the Transformer's
            blocks: what is near is then near from the first step of training on, and few blocks see all of the rest.
        matched: share of the cosine schedule's examples whose masked sets are the T that a sampler of order halton
            meets in ``steps`` steps, each as often, in the place of random ones.
        betas: Adam's decay rates.

    The other arguments are those of `TokenModel`.

    Raises:
        ConfigError: numbers that do not fit together.
    """

    sized: ClassVar[Mapping[str, str]] = {"width": "width", "heads": "width", "hidden": "width", "depth": "depth"}

    completes = True

    def __init__(
        self,
        shape: Sequence[int] = (1, 7, 7),
        levels: int = 4,
        width: int = 96,
        depth: int = 3,
        heads: int = 4,
        hidden: int | None = None,
        steps: int = 8,
        choice_temperature: float = 4.5,
        order: str = "confidence",
        schedule: str = "cosine",
        smoothing: float | None = None,
        convolutions: int = 0,
        matched: float = 0.0,
        betas: Sequence[float] = (0.9, 0.96),
        **kwargs: Any,
    ) -> None:
        super().__init__(shape, levels, betas=betas, **kwargs)
        check_choice("order", order, ORDERS)
        check_choice("schedule", schedule, SCHEDULES)
        if schedule == "uniform" and smoothing:
            raise ConfigError("smoothed labels have no likelihood; leave smoothing out, or choose the cosine schedule")
        if width % heads or choice_temperature < 0 or not 0 <= (smoothing or 0) < 1:
            raise ConfigError(
                f"the width {width} must be a multiple of the {heads} heads, choice_temperature not negative and "
                f"smoothing in [0, 1), got {choice_temperature} and {smoothing}"
            )
        if min(depth, convolutions) < 0 or not depth + convolutions:
            raise ConfigError(f"a network needs blocks; got depth {depth} and {convolutions} convolutions")
        if not 0 <= matched <= 1 or (matched and schedule == "uniform"):
            raise ConfigError(
                f"matched is a share in [0, 1] of the cosine schedule's examples, got {matched} with the schedule "
                f"{schedule}"
            )
        self.steps, self.choice_temperature, self.order, self.schedule = steps, choice_temperature, order, schedule
        self.matched = matched
        self.smoothing = (0.1 if smoothing is None else smoothing) if schedule == "cosine" else 0.0
        self.embedding = nn.Embedding(levels + 1, width)  # the last one is the mask
        self.condition = nn.Embedding(self.num_classes + 1, width)  # the last one is no class
        self.position = nn.Parameter(0.02 * torch.randn(self.length + 1, width))
        self.blocks = nn.ModuleList(AttentionBlock(width, heads, hidden or 4 * width, depth) for _ in range(depth))
        self.near = nn.ModuleList(ResidualBlock(width) for _ in range(convolutions))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, levels)
        for layer in (self.embedding, self.condition, self.out):
            nn.init.normal_(layer.weight, std=0.02)
        for block in self.near:
            nn.init.normal_(block.layers[-1].weight, std=0.5 / math.sqrt(2 * width * convolutions))
        nn.init.zeros_(self.out.bias)

    def forward(self, codes: Tensor, labels: Tensor | None = None, places: Tensor | None = None) -> Tensor:
        """Return logits of codes given those not masked: int64 (B, N), ``levels`` for masked -> (B, N, K).

        Args:
            codes: of all positions.
            labels: int64 (B,), or None.
            places: int64 (m,): return the logits of these positions alone, (B, m, K), for less work.
        """
        condition = codes.new_full((len(codes),), self.num_classes) if labels is None else labels
        condition = self.condition(condition)[:, None]  # (B, 1, d)
        x = torch.cat([condition, self.embedding(codes)], 1) + self.position  # (B, 1 + N, d)
        if len(self.near):
            x = torch.cat([x[:, :1], self._convolved(x[:, 1:] + condition)], 1)
        for i, block in enumerate(self.blocks, 1):
            x = block(x, causal=False, places=1 + places if places is not None and i == len(self.blocks) else None)
        some = places is not None and not len(self.blocks)
        x = x[:, 1 + places] if some else x[:, 1:] if places is None else x
        return self.out(self.norm(x))

    def _convolved(self, x: Tensor) -> Tensor:
        """Pass the stream of the codes through the convolutions: (B, N, d) -> (B, N, d).

        Each group has a map of its own, to which the mean over the groups is added.
        """
        G, h, w = self.shape
        x = x.unflatten(1, (G, h, w)).permute(0, 1, 4, 2, 3).flatten(0, 1)  # (B G, d, h, w), channels last
        for block in self.near:
            if G > 1:
                x = (x.unflatten(0, (-1, G)) + x.unflatten(0, (-1, G)).mean(1, keepdim=True)).flatten(0, 1)
            x = block(x)
        return x.permute(0, 2, 3, 1).unflatten(0, (-1, G)).flatten(1, 3)

    @functools.cached_property
    def route(self) -> Tensor:
        """Positions in the order halton, int64 (N,): group by group, within one as `halton_order` says."""
        G, h, w = self.shape
        return (torch.tensor(halton_order(h, w)) + h * w * torch.arange(G)[:, None]).flatten()

    @property
    def rank(self) -> Tensor:
        """Place of each position in `route`, int64 (N,)."""
        kept = self.__dict__.get("_rank")  # so that a device is given it once
        if kept is None or kept.device != self.device:
            kept = torch.empty_like(self.route).scatter(0, self.route, torch.arange(self.length)).to(self.device)
            self.__dict__["_rank"] = kept
        return kept

    def stages(self, steps: int) -> list[tuple[Tensor, Tensor]]:
        """Return of each step in the order halton which positions are masked before it, and which are new in it."""
        counts, route = masked_counts(self.length, steps), self.route.to(self.device)
        spans = [(self.length - a, self.length - b) for a, b in itertools.pairwise(counts)]
        return [(route[first:], route[first:last]) for first, last in spans]

    # -- the objective ------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of the schedule; of the uniform one also in bits a code."""
        c, labels = self.values(batch[0]), self.dropped(batch[1])
        B, N = c.shape
        if self.schedule == "uniform":
            bound = self.bound(c, labels, self.even(B), self.rand(B, N)).mean()
            return {"loss": -bound, "bits_per_code": -bound / (N * math.log(2))}
        hidden = masked_sets(torch.cos(math.pi / 2 * self.rand(B)), self.rand(B, N))
        if self.matched:
            hidden = self._matched(hidden)
        z = self(c.masked_fill(hidden, self.levels), labels)
        target = c.masked_fill(~hidden, _NOT_ASKED).flatten()  # z[hidden] has a size that a GPU must be asked for
        return {
            "loss": F.cross_entropy(z.flatten(0, 1), target, ignore_index=_NOT_ASKED, label_smoothing=self.smoothing)
        }

    def _matched(self, hidden: Tensor) -> Tensor:
        """Replace a share of the masked sets, bool (B, N), by those of the order halton."""
        counts = constants(masked_counts(self.length, self.steps)[:-1], self.rank)  # before each step
        chosen, u = self.rand(len(hidden)) < self.matched, self.even(len(hidden))
        left = counts[(u * len(counts)).long().clamp(max=len(counts) - 1)]
        return torch.where(chosen[:, None], self.rank >= self.length - left[:, None], hidden)

    def bound(self, c: Tensor, labels: Tensor | None, share: Tensor, u: Tensor) -> Tensor:
        """Return one draw of the bound on log p(c), in nats, (B,).

        Args:
            c: codes, int64 (B, N).
            labels: int64 (B,), or None.
            share: uniform in [0, 1), (B,): k = 1 + floor(N share) codes are masked.
            u: uniform numbers (B, N), whose order chooses them.
        """
        N = c.shape[1]
        k = 1 + (share * N).floor().long().clamp(max=N - 1)
        hidden = lowest(u, k[:, None])
        return N / k * self.masked_log_prob(c, hidden, labels)

    def masked_log_prob(self, c: Tensor, hidden: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the sum over hidden codes of log p(c_i | the others): int64 and bool (B, N) -> (B,), in nats."""
        log_p = self(c.masked_fill(hidden, self.levels), labels).log_softmax(-1)  # (B, N, K)
        return (log_p.gather(-1, c[..., None])[..., 0] * hidden).sum(1)

    @torch.no_grad()
    def log_prob(
        self, x: Tensor, *, labels: Labels = None, k: int = 1, seed: int | torch.Generator | None = None
    ) -> Tensor:
        """Return log p_T of a model with the order halton; else an estimate of the bound over random orders, unbiased.

        Args:
            x: codes as images, (B, *shape) in [0, 1] -> (B,), in nats.
            labels: classes, of a conditional model.
            k: draws of the bound that are averaged; their numbers of masked codes are spread evenly.
            seed: of the draws.
        """
        c, y = self.values(x), self.given_labels(len(x), labels)
        if self.order == "halton":
            return self.staged_log_prob(c, y)
        generator = seeded(seed)
        offset, total = rand((len(c),), generator, c.device, self.dtype), 0.0
        for j in range(k):
            u = rand(tuple(c.shape), generator, c.device, self.dtype)
            total = total + self.bound(c, y, (offset + j / k) % 1, u)
        return total / k

    def staged_log_prob(self, c: Tensor, labels: Tensor | None = None, steps: int | None = None) -> Tensor:
        """Return log p_T, of the sampler of order halton without guidance: codes int64 (B, N) -> (B,), in nats."""
        total = torch.zeros(len(c), device=c.device, dtype=self.dtype)
        for hidden, new in self.stages(self.steps if steps is None else steps):
            log_p = self(c.index_fill(1, hidden, self.levels), labels, new).log_softmax(-1)  # (B, m, K)
            total = total + log_p.gather(-1, c[:, new, None])[..., 0].sum(1)
        return total

    def likelihood(self, k: int = 1) -> str:
        """Say ``exact`` of the order halton with the default number of steps, ``elbo`` of the others."""
        return "exact" if self.order == "halton" else "elbo"

    # -- sampling -----------------------------------------------------------------------------------------------------

    def option_words(self) -> dict[str, tuple[str, ...]]:
        return {"order": tuple(ORDERS)}

    def draw(
        self,
        n: int,
        generator: torch.Generator,
        labels: Tensor | None,
        *,
        steps: int | None = None,
        temperature: float = 1.0,
        choice_temperature: float | None = None,
        guidance_scale: float | None = None,
        order: str | None = None,
        given: Tensor | None = None,
        known: Tensor | int | None = None,
    ) -> Tensor:
        """Draw codes, in [0, 1], (n, *shape).

        Args:
            steps: T; those beyond the number of codes find nothing to do.
            temperature: of every softmax.
            choice_temperature: tau, of the noise in the confidence; 0 for none.
            guidance_scale: w of a conditional model.
            order: ``confidence``; ``random``: which codes are kept does not depend on what was drawn; ``halton``: on
                nothing, and those of a step lie far apart.
            given: partly known codes in [0, 1], NaN where one is unknown; the known ones stay as they are.
            known: which of ``given`` are kept, see `zoo.maths.completion.known_values`.
        """
        T, tau, order = self._chosen(steps, choice_temperature, order)
        w = self.guidance_scale if guidance_scale is None else guidance_scale
        choose, c = Decoding(temperature), self.first(n, given, known)
        if order == "halton" and given is None:
            return self.data(self._in_stages(c, generator, labels, T, w, choose))
        z = guide(lambda c, t, y: self(c, y), w, labels, self.num_classes)
        return self.data(self._unmasked(c, generator, z, T, tau, order, choose)[-1][0])

    def _unmasked(
        self, c: Tensor, generator: torch.Generator, z: Field, T: int, tau: float, order: str, choose: Decoding
    ) -> list[tuple[Tensor, Tensor]]:
        """Return after each step all codes as they were drawn, int64 (n, N), and which are kept, bool (n, N)."""
        first = left = (c == self.levels).sum(1, keepdim=True)
        fixed, seen = -self.rank.to(self.dtype).expand(len(c), -1), []
        for t in range(1, T + 1):
            interruption_point()
            logits, u = z(c, left), [rand(tuple(c.shape), generator, c.device, self.dtype) for _ in range(2)]
            unknown = c == self.levels
            drawn = torch.where(unknown, choose(logits, u[0]), c)
            left = left_masked(first, left, t, T)
            if order == "confidence":
                sure = choose.restrict(logits).log_softmax(-1).gather(-1, drawn[..., None])[..., 0]
                sure = sure + tau * (1 - t / T) * gumbel(u[1]) if tau and t < T else sure
            else:
                sure = u[1] if order == "random" else fixed
            masked = lowest(sure.masked_fill(~unknown, math.inf), left, u[1])
            c = drawn.masked_fill(masked, self.levels)
            seen.append((drawn, ~masked))
        return seen

    @torch.no_grad()
    def unmasking(self, n: int, seed: int = 0, labels: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        """Return what the default sampler has after each step: codes as images, and those kept, (n, *shape) each."""
        T, tau, order = self._chosen(None, None, None)
        z = guide(lambda c, t, y: self(c, y), self.guidance_scale, labels, self.num_classes)
        seen = self._unmasked(self.first(n, None, None), seeded(seed), z, T, tau, order, Decoding())
        return [(self.data(drawn), kept.unflatten(1, self.shape)) for drawn, kept in seen]

    def _in_stages(
        self, c: Tensor, generator: torch.Generator, labels: Tensor | None, T: int, w: float, choose: Decoding
    ) -> Tensor:
        """Draw all codes in the order halton, evaluating what is new in each step, and equal rows once."""
        n, known = len(c), c.new_empty(0)
        for _, new in self.stages(T):
            interruption_point()
            rows, of = self._distinct(c, known, labels)
            y = None if labels is None else (labels if of is None else rows[1])
            z = guide(lambda c, t, y, new=new: self(c, y, new), w, y, self.num_classes)
            logits = z(c if of is None else rows[0], known)
            logits = logits if of is None else logits[of]
            u = rand((n, len(new)), generator, c.device, self.dtype)
            c[:, new] = choose(logits, u)
            known = torch.cat([known, new])
        return c

    def _distinct(self, c: Tensor, known: Tensor, labels: Tensor | None) -> tuple[tuple[Tensor, Tensor], Tensor | None]:
        """Return the rows of codes and classes that there can be, and which of them each is; none if more than 16.

        Only the codes at ``known`` places are not masked. No more are computed than a batch has anyway, and always the
        same ones, so that the bits of a row do not depend on the others.
        """
        K, m, classes = self.levels, len(known), 1 if labels is None else self.num_classes
        if m > 4 or K**m * classes > _FEW:
            return (c, c), None
        power = K ** torch.arange(m, device=c.device)
        code = torch.arange(K**m, device=c.device)
        table = c.new_full((K**m, self.length), self.levels)
        table[:, known] = code[:, None] // power % K
        of = (c[:, known] * power).sum(1)
        y = torch.arange(classes, device=c.device)
        of = of if labels is None else labels * K**m + of
        return (table.repeat(classes, 1), y.repeat_interleave(K**m)), of

    def _chosen(self, steps: int | None, tau: float | None, order: str | None) -> tuple[int, float, str]:
        """Return the options in force. Raises `ConfigError`."""
        T, order = self.steps if steps is None else steps, self.order if order is None else order
        check_choice("order", order, ORDERS)
        if isinstance(T, bool) or not isinstance(T, int) or T < 1:
            raise ConfigError(f"steps must be a positive integer, got {T!r}")
        if order != "confidence" and tau is not None:
            raise ConfigError(f"choice_temperature belongs to the order confidence; leave it out for the order {order}")
        tau = self.choice_temperature if tau is None else tau
        if not 0 <= tau < math.inf:
            raise ConfigError(f"choice_temperature must be a number that is not negative, got {tau!r}")
        return T, tau, order

    def calls(self, options: Mapping[str, Any]) -> float:
        chosen = self.sampler(options)
        return float(chosen["steps"] * (calls_per_step(chosen["guidance_scale"]) if self.num_classes else 1))

    @property
    def calls_per_sample(self) -> int:
        """Evaluations of the network: one a step, two under guidance."""
        return int(self.calls({}))
