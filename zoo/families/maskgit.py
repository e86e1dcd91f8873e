"""Masked generative transformer: codes that are drawn many at a time, in any order, by a network that sees both ways.

    L = - mean over masked positions of log p(c_i | c at the others),  a share cos(pi r / 2) masked, r ~ U(0, 1)

A sampler starts with all positions masked. In each of T steps it draws all that are masked, each by itself, keeps the
more confident ones, confidence being log p(drawn) + tau (1 - t/T) Gumbel noise, and masks the rest again. That is no
exact sampler of anything: it prefers what it is sure of. With ``order`` random and as many steps as positions it is
one, of the model in that order.

The loss is no likelihood. What is one is the bound over random orders sigma,

    log p(c) >= E_sigma sum_k log p(c_sigma(k) | c_sigma(<k))  =  E_m (N / |m|) sum_{i in m} log p(c_i | c outside m)

with |m| uniform in 1..N: `MaskGIT.log_prob` estimates its right side, and ``schedule`` uniform trains it.

References:
    H. Chang, H. Zhang, L. Jiang, C. Liu, W. T. Freeman, MaskGIT: Masked Generative Image Transformer, 2022,
    arXiv:2202.04200.
    E. Hoogeboom and others, Autoregressive Diffusion Models, 2021, arXiv:2110.02037, equations 2 to 4.
    H. Chang and others, Muse, 2023, arXiv:2301.00704 (guidance of logits).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError, check_choice
from zoo.families.token_model import TokenModel
from zoo.maths.decoding import Decoding
from zoo.maths.guidance import calls_per_step, guide
from zoo.maths.noise import rand
from zoo.maths.unmasking import ORDERS, gumbel, left_masked, lowest, masked_sets
from zoo.model import Batch, HasLikelihood
from zoo.nets.attention import AttentionBlock
from zoo.sampling import Labels, interruption_point, seeded

__all__ = ["MaskGIT"]

SCHEDULES = ("cosine", "uniform")
_NOT_ASKED = -100


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
        order: ``confidence`` or ``random``, default of the sampler.
        schedule: ``cosine``, or ``uniform``: a uniform number of masked codes, k, and the sum over them times N / k,
            which makes the loss the bound, in nats an example. With ``cosine`` it is in nats a masked code.
        smoothing: of the labels of the cosine schedule's loss; 0.1 if left out.
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
        self.steps, self.choice_temperature, self.order, self.schedule = steps, choice_temperature, order, schedule
        self.smoothing = (0.1 if smoothing is None else smoothing) if schedule == "cosine" else 0.0
        self.embedding = nn.Embedding(levels + 1, width)  # the last one is the mask
        self.condition = nn.Embedding(self.num_classes + 1, width)  # the last one is no class
        self.position = nn.Parameter(0.02 * torch.randn(self.length + 1, width))
        self.blocks = nn.ModuleList(AttentionBlock(width, heads, hidden or 4 * width, depth) for _ in range(depth))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, levels)
        for layer in (self.embedding, self.condition, self.out):
            nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(self.out.bias)

    def forward(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return logits of all codes given those not masked: int64 (B, N), ``levels`` for masked -> (B, N, K)."""
        told = codes.new_full((len(codes),), self.num_classes) if labels is None else labels
        x = torch.cat([self.condition(told)[:, None], self.embedding(codes)], 1) + self.position  # (B, 1 + N, d)
        for block in self.blocks:
            x = block(x, causal=False)
        return self.out(self.norm(x[:, 1:]))

    # -- the objective ------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of the schedule; of the uniform one also in bits a code."""
        c, labels = self.values(batch[0]), self.dropped(batch[1])
        B, N = c.shape
        if self.schedule == "uniform":
            bound = self.bound(c, labels, self.even(B), self.rand(B, N)).mean()
            return {"loss": -bound, "bits_per_code": -bound / (N * math.log(2))}
        hidden = masked_sets(torch.cos(math.pi / 2 * self.rand(B)), self.rand(B, N))
        z = self(c.masked_fill(hidden, self.levels), labels)
        told = c.masked_fill(
            ~hidden, _NOT_ASKED
        ).flatten()  # z[hidden] would have a size that a device must be asked for
        return {"loss": F.cross_entropy(z.flatten(0, 1), told, ignore_index=_NOT_ASKED, label_smoothing=self.smoothing)}

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
        """Return an unbiased estimate of the bound over random orders, in nats: (B, *shape) in [0, 1] -> (B,).

        Args:
            x: codes as images.
            labels: classes, of a conditional model.
            k: draws that are averaged; their numbers of masked codes are spread evenly.
            seed: of the draws.
        """
        c, y, generator = self.values(x), self.given_labels(len(x), labels), seeded(seed)
        offset, total = rand((len(c),), generator, c.device, self.dtype), 0.0
        for j in range(k):
            u = rand(tuple(c.shape), generator, c.device, self.dtype)
            total = total + self.bound(c, y, (offset + j / k) % 1, u)
        return total / k

    def likelihood(self, k: int = 1) -> str:
        return "elbo"

    # -- sampling -----------------------------------------------------------------------------------------------------

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
            order: ``confidence``, or ``random``: which codes are kept does not depend on what was drawn.
            given: partly known codes in [0, 1], NaN where one is unknown; the known ones stay as they are.
            known: which of ``given`` are kept, see `zoo.maths.completion.known_values`.
        """
        T, tau, order = self._chosen(steps, choice_temperature, order)
        w = self.guidance_scale if guidance_scale is None else guidance_scale
        z = guide(lambda c, t, y: self(c, y), w, labels, self.num_classes)
        choose = Decoding(temperature)
        c = self.first(n, given, known)
        first = left = (c == self.levels).sum(1, keepdim=True)
        for t in range(1, T + 1):
            interruption_point()
            logits, u = z(c, left), [rand((n, self.length), generator, c.device, self.dtype) for _ in range(2)]
            unknown = c == self.levels
            drawn = torch.where(unknown, choose(logits, u[0]), c)
            left = left_masked(first, left, t, T)
            if order == "random":
                sure = u[1]
            else:
                sure = choose.restrict(logits).log_softmax(-1).gather(-1, drawn[..., None])[..., 0]
                sure = sure + tau * (1 - t / T) * gumbel(u[1]) if tau and t < T else sure
            c = drawn.masked_fill(lowest(sure.masked_fill(~unknown, math.inf), left, u[1]), self.levels)
        return self.data(c)

    def _chosen(self, steps: int | None, tau: float | None, order: str | None) -> tuple[int, float, str]:
        """Return the options in force. Raises `ConfigError`."""
        T, order = self.steps if steps is None else steps, self.order if order is None else order
        check_choice("order", order, ORDERS)
        if isinstance(T, bool) or not isinstance(T, int) or T < 1:
            raise ConfigError(f"steps must be a positive integer, got {T!r}")
        if order == "random" and tau is not None:
            raise ConfigError("choice_temperature belongs to the order confidence; leave it out for a random order")
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
