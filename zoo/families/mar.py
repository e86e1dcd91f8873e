"""Masked autoregression without codes: continuous tokens in random order, each drawn by a small diffusion model.

    z_i = Transformer(tokens that are known, class)_i,
    L = mean over masked tokens of E_{t, eps} |eps - eps(x_t | t, z_i)|^2  +  the bound of a learned variance

The gradient goes through z. A sampler goes through a random order in T steps; each token that is new in a step is drawn
by the reverse chain of its own diffusion, given its z.

References:
    T. Li, Y. Tian, H. Li, M. Deng, K. He, Autoregressive Image Generation without Vector Quantization, 2024,
    arXiv:2406.11838.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError, check_choice
from zoo.families.ddpm import DDPM
from zoo.families.denoising import Denoise
from zoo.families.guided import Guided
from zoo.maths.noise import rand, randn
from zoo.maths.samplers import ancestral
from zoo.maths.unmasking import left_masked, lowest
from zoo.model import Batch, ScoreModel
from zoo.nets.attention import AttentionBlock
from zoo.nets.token_mlp import TokenMLP
from zoo.sampling import interruption_point, seeded

__all__ = ["MAR", "TokenDiffusion"]

ORDERS = ("random", "raster")
_LEAST, _SPREAD = 0.7, 0.25  # of the share of masked tokens: a normal around 1, cut to [0.7, 1]


class TokenDiffusion(DDPM):
    """Diffusion of one token, (C,), given a vector z in the place of a label; the variance is learned.

    Args:
        network: such as a `zoo.nets.token_mlp.TokenMLP`, with 2 C outputs.
        shape: (C,).
        table: steps of the chain.
    """

    def __init__(self, network: nn.Module, shape: Sequence[int], table: int = 1000) -> None:
        super().__init__(network, shape, table=table, variance="learned", predict="eps", levels=None)

    def dropped(self, labels: Tensor) -> Tensor:
        """Return z as it is."""
        return labels

    def losses(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the squared error of each token, a dimension, and its term of the bound: (B, C), (B, d) -> (B,)."""
        x_0, x_t, log_snr, z = self.noisy((x, z))
        out, C = self.output(x_t, log_snr, z), x.shape[1]
        value = self.data_of(out[:, :C].detach(), x_t, log_snr[:, None])
        i = 1 + torch.searchsorted(-self.log_snrs, -log_snr.double() - 1e-4)  # steps are counted from 1
        bound = self.bound_terms(x_0, value, out[:, C:], i) / C * self.table
        return self.errors(out, x_0, x_t, log_snr).mean(1), bound.to(x.dtype)

    def reversed(
        self, z: Tensor, null: Tensor | None, scale: float, steps: int, temperature: float, noise: Any
    ) -> Tensor:
        """Draw tokens given z, (B, d) -> (B, C), by ``steps`` steps of the chain.

        Args:
            z: of the tokens.
            null: z without the class, for guidance; None without it.
            scale: w of (1 - w) null + w z.
            steps: levels of noise.
            temperature: factor of the noise of each step, not of the first.
            noise: gives standard normal numbers (B, C).
        """
        denoise = Denoise(self, z, 1.0, False, None)
        if null is not None:
            denoise.field = lambda x, t: torch.lerp(self.output(x, t, null), self.output(x, t, z), scale)
        log_snrs = self.schedule.grid(steps, "time", self.first_time())
        return ancestral(denoise, noise(), log_snrs, self.reverse(denoise), lambda: temperature * noise())


class MAR(Guided, ScoreModel):
    """Masked autoencoder over N = h w continuous tokens, and a `TokenDiffusion`.

    The encoder sees a buffer, copies of the class, and the known tokens; the decoder sees these and a learnt vector at
    the places of the others, and gives z.

    Args:
        shape: of the latents, (C, h, w).
        width: d, of the streams.
        encoder_depth: blocks of the encoder.
        decoder_depth: blocks of the decoder.
        heads: attention heads.
        buffer: copies of the class; 64 in the paper.
        head_width: of the diffusion's network.
        head_depth: blocks of it.
        draws: times and noises for each z in a training step.
        table: steps of the chain.
        num_classes: classes that the model is told, 0 for none.
        label_dropout: chance with which training hides the class, for guidance.
        guidance_scale: w, default of the sampler; it grows with the share of known tokens from 1 to w.
        steps: T, default of the sampler.
        diffusion_steps: levels of noise of each token, default of the sampler.
        levels: None: latents are continuous.
        lr: peak learning rate.
        betas: Adam's decay rates.
        weight_decay: decoupled weight decay.

    Raises:
        ConfigError: numbers that do not fit together.
    """

    sized: ClassVar[Mapping[str, str]] = {
        "width": "width",
        "heads": "width",
        "head_width": "width",
        "encoder_depth": "depth",
        "decoder_depth": "depth",
        "head_depth": "depth",
    }

    family = "autoregressive"

    def __init__(
        self,
        shape: Sequence[int] = (4, 7, 7),
        width: int = 96,
        encoder_depth: int = 2,
        decoder_depth: int = 2,
        heads: int = 4,
        buffer: int = 8,
        head_width: int = 96,
        head_depth: int = 2,
        draws: int = 4,
        table: int = 1000,
        num_classes: int = 0,
        label_dropout: float = 0.1,
        guidance_scale: float = 1.0,
        steps: int = 16,
        diffusion_steps: int = 25,
        levels: int | None = None,
        lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.95),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.set_guidance(self, num_classes, label_dropout, guidance_scale, 0)
        if levels is not None:
            raise ConfigError(f"MAR models continuous tokens, so levels must be null, got {levels}")
        if len(shape) != 3 or width % heads or min(buffer, draws) < 1:
            raise ConfigError(
                f"MAR needs a shape (C, h, w), a width that is a multiple of the heads, and at least one buffer token "
                f"and one draw; got {tuple(shape)}, {width} and {heads}, {buffer}, {draws}"
            )
        self.shape, self.levels, self.length = tuple(shape), None, shape[1] * shape[2]
        self.buffer, self.draws, self.steps, self.diffusion_steps = buffer, draws, steps, diffusion_steps
        self.lr, self.betas, self.weight_decay = lr, (float(betas[0]), float(betas[1])), weight_decay
        self.condition = nn.Embedding(num_classes + 1, width)
        self.enter, self.enter_norm = nn.Linear(shape[0], width), nn.LayerNorm(width)
        self.masked = nn.Parameter(0.02 * torch.randn(width))
        size = buffer + self.length
        self.encoder_position = nn.Parameter(0.02 * torch.randn(size, width))
        self.decoder_position = nn.Parameter(0.02 * torch.randn(size, width))
        self.token_position = nn.Parameter(0.02 * torch.randn(self.length, width))
        depth = encoder_depth + decoder_depth
        blocks = [AttentionBlock(width, heads, 4 * width, depth) for _ in range(depth)]
        self.encoder, self.decoder = nn.ModuleList(blocks[:encoder_depth]), nn.ModuleList(blocks[encoder_depth:])
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.bridge = nn.Linear(width, width)
        nn.init.normal_(self.condition.weight, std=0.02)
        network = TokenMLP(shape[0], width, head_width, head_depth, 2 * shape[0])
        self.head = TokenDiffusion(network, shape[:1], table)
        self.steps_to_move = network.steps_to_move

    def compilable(self) -> list[nn.Module]:
        return [self.head.network]

    def set_noise(self, streams: Sequence[torch.Generator]) -> None:
        super().set_noise(streams)
        self.head.set_noise(streams)

    # -- tokens and what is said of them ------------------------------------------------------------------------------

    def tokens(self, x: Tensor) -> Tensor:
        """Return latents as tokens: (B, C, h, w) -> (B, N, C)."""
        return x.flatten(2).transpose(1, 2)

    def forward(self, x: Tensor, hidden: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return z of every place: tokens (B, N, C), bool (B, N), labels int64 (B,) or None -> (B, N, d).

        Hidden tokens are keys that nobody sees, which is the same as leaving them out.
        """
        labels = hidden.new_full((len(x),), self.num_classes, dtype=torch.int64) if labels is None else labels
        prefix = self.condition(labels)[:, None].expand(-1, self.buffer, -1)
        seen = torch.cat([hidden.new_ones(len(x), self.buffer), ~hidden], 1)  # (B, buffer + N)
        h = self.enter_norm(torch.cat([prefix, self.enter(x)], 1) + self.encoder_position)
        for block in self.encoder:
            h = block(h, seen[:, None, None])
        h = self.bridge(self.encoder_norm(h))
        h = torch.where(seen[..., None], h, self.masked) + self.decoder_position
        for block in self.decoder:
            h = block(h, causal=False)
        return self.decoder_norm(h)[:, self.buffer :] + self.token_position

    def hidden(self, u: Tensor, order: Tensor) -> Tensor:
        """Return which tokens training hides: uniform (B,) and (B, N) -> bool (B, N).

        Their share is a normal number of mean 1 and deviation 0.25, cut to [0.7, 1].
        """
        least = torch.special.ndtr(torch.tensor((_LEAST - 1) / _SPREAD, dtype=torch.float64)).item()
        share = 1 + _SPREAD * torch.special.ndtri(least + u.double() * (0.5 - least))
        count = (share.clamp(_LEAST, 1) * self.length).ceil().long()
        return lowest(order, count[:, None])

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``mse`` of the noise over hidden tokens, a dimension, ``vlb``, and ``loss``: mse + vlb / 1000."""
        x, labels = self.tokens(batch[0]), self.dropped(batch[1])
        B, N = x.shape[:2]
        hidden = self.hidden(self.rand(B), self.rand(B, N))
        z = self(x, hidden, labels)
        several = [t[:, None].expand(-1, self.draws, -1, -1).flatten(0, 2) for t in (x, z)]  # (B draws N, ...)
        weight = hidden[:, None].expand(-1, self.draws, -1).flatten().to(x.dtype)
        mse, bound = ((value * weight).sum() / weight.sum() for value in self.head.losses(*several))
        return {"loss": mse + 1e-3 * bound, "mse": mse, "vlb": bound}

    # -- sampling -----------------------------------------------------------------------------------------------------

    def draw(
        self,
        n: int,
        generator: torch.Generator,
        labels: Tensor | None,
        *,
        steps: int | None = None,
        diffusion_steps: int | None = None,
        temperature: float = 1.0,
        guidance_scale: float | None = None,
        order: str = "random",
    ) -> Tensor:
        """Draw latents, (n, C, h, w).

        Args:
            steps: T; no more than there are tokens count.
            diffusion_steps: levels of noise of each token.
            temperature: factor of the noise of the reverse steps.
            guidance_scale: w of a conditional model.
            order: of the tokens: ``random``, or ``raster``.
        """
        check_choice("order", order, ORDERS)
        T = self.steps if steps is None else steps
        w = self.guidance_scale if guidance_scale is None else guidance_scale
        self._check(T, temperature, w)
        return self._map(self._unmasked(n, generator, labels, T, diffusion_steps, temperature, w, order)[-1][0])

    def _map(self, x: Tensor) -> Tensor:
        """Undo `tokens`."""
        return x.transpose(1, 2).unflatten(2, self.shape[1:])

    def _unmasked(
        self, n: int, generator: torch.Generator, labels: Tensor | None, T: int, diffusion_steps: int | None,
        temperature: float, w: float, order: str,
    ) -> list[tuple[Tensor, Tensor]]:  # fmt: skip
        """Return after each step the tokens, (n, N, C), 0 where none is known yet, and which are known, bool (n, N)."""
        N, C = self.length, self.shape[0]
        u = rand((n, N), generator, self.device, self.dtype)
        if order == "raster":
            u = torch.arange(N, device=self.device).flip(0).to(self.dtype).expand(n, -1)
        last = u.argsort(1)  # the first of these are hidden longest
        x, found = torch.zeros(n, N, C, device=self.device, dtype=self.dtype), []
        before = torch.full((1,), N)
        for t in range(1, min(T, N) + 1):
            left = left_masked(torch.full((1,), N), before, t, min(T, N))
            hidden, new = lowest(u, before.to(u.device)), last[:, int(left) : int(before)]  # (n, N), (n, m)
            x = self._filled(
                x, hidden, new, labels, 1 + (w - 1) * (N - int(left)) / N, diffusion_steps, temperature, generator
            )
            before = left
            found.append((x, ~lowest(u, left.to(u.device))))
        return found

    @torch.no_grad()
    def unmasking(self, n: int, seed: int = 0, labels: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        """Return what the default sampler has after each step: latents, 0 where not known, and which places are."""
        found = self._unmasked(n, seeded(seed), labels, self.steps, None, 1.0, self.guidance_scale, "random")
        return [(self._map(x), known.unflatten(1, (1, *self.shape[1:]))) for x, known in found]

    def _filled(
        self, x: Tensor, hidden: Tensor, new: Tensor, labels: Tensor | None, w: float, steps: int | None,
        temperature: float, generator: torch.Generator,
    ) -> Tensor:  # fmt: skip
        """Return the tokens with those at ``new`` places (n, m) drawn given the ones that are not hidden."""
        n, m = new.shape
        places = new[..., None]

        def noise() -> Tensor:
            interruption_point()
            return randn((n, m, self.shape[0]), generator, self.device, self.dtype).flatten(0, 1)

        said = [labels] if w == 1 else [labels, None]
        z = [
            self(x, hidden, y).gather(1, places.expand(-1, -1, self.condition.embedding_dim)).flatten(0, 1)
            for y in said
        ]
        steps = self.diffusion_steps if steps is None else steps
        drawn = self.head.reversed(z[0], z[1] if w != 1 else None, w, steps, temperature, noise).unflatten(0, (n, m))
        return x.scatter(1, places.expand(-1, -1, self.shape[0]), drawn)

    def _check(self, steps: int, temperature: float, w: float) -> None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ConfigError(f"steps must be a positive integer, got {steps!r}")
        if not 0 <= temperature < math.inf or not math.isfinite(w):
            raise ConfigError(
                f"temperature must not be negative, and guidance_scale be finite, got {temperature!r} and {w!r}"
            )
        if w != 1 and not self.num_classes:
            raise ConfigError(
                f"guidance needs a model that is told classes; leave guidance_scale at 1 instead of {w:g}"
            )

    def granule(self, options: Mapping[str, Any]) -> int:
        return 16

    def calls(self, options: Mapping[str, Any]) -> float:
        chosen = self.sampler(options)
        each = 2 if chosen["guidance_scale"] != 1 else 1
        return float(min(chosen["steps"], self.length) * each * (1 + chosen["diffusion_steps"]))

    @property
    def calls_per_sample(self) -> int:
        """Evaluations: in each step one of the Transformer, and one of the small network a level of noise."""
        return int(self.calls({}))
