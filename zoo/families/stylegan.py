"""Style-based GAN: a latent is mapped to styles, which modulate each layer of the synthesis; noise adds the details.

    w = f(z),   x = g(w_1, ..., w_L, noise),   truncation: w <- w_mean + psi (w - w_mean)

The game is the original one with non-saturating loss and R1, which is computed lazily.

References:
    T. Karras, S. Laine, T. Aila, A Style-Based Generator Architecture for Generative Adversarial Networks, 2018,
    arXiv:1812.04948.
    T. Karras and others, Analyzing and Improving the Image Quality of StyleGAN, 2019, arXiv:1912.04958.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.adversarial import AdversarialModel, over_processes
from zoo.maths.noise import randn
from zoo.model import Batch
from zoo.nets.conditioning import ClassInput

__all__ = ["StyleGAN"]

_MEAN_DECAY = 0.995  # of the running mean of w


class _StyleNetwork(nn.Module):
    """Mapping and synthesis, the parameters of one player."""

    def __init__(self, mapping: nn.Module, synthesis: nn.Module) -> None:
        super().__init__()
        self.mapping, self.synthesis = mapping, synthesis


class StyleGAN(AdversarialModel):
    """GAN with a style-based generator.

    Args:
        mapping: (B, latent_dim [+ class_dim]) -> (B, style_dim).
        synthesis: styles (B, depth, style_dim) and a tensor of noise for each of its ``noise_shapes`` -> (B, *shape),
            such as `zoo.nets.style.StyleSynthesis`.
        critic: (B, *shape) in [-1, 1] -> (B, 1), or (B, features) with classes.
        style_dim: size of w.
        mixing: share of training samples whose styles come from two latents, the second from a random layer on.

    The other arguments are those of `AdversarialModel`, less those of another game.

    Raises:
        ConfigError: a share out of range, or what `AdversarialModel` refuses.
    """

    w_mean: Tensor

    def __init__(
        self,
        mapping: nn.Module,
        synthesis: nn.Module,
        critic: nn.Module,
        latent_dim: int,
        style_dim: int,
        shape: list[int],
        mixing: float = 0.9,
        r1: float = 1.0,
        lazy: int = 8,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.0, 0.99),
        **kwargs: Any,
    ) -> None:
        if not 0 <= mixing <= 1:
            raise ConfigError(f"mixing is a share of the samples, between 0 and 1, got {mixing}")
        super().__init__(
            _StyleNetwork(mapping, synthesis), critic, latent_dim, shape, "non_saturating", r1=r1, lazy=lazy, lr=lr,
            betas=betas, penalty=0.0, r2=0.0, clip=0.0, critic_lr=None, bounded=True, candidates=1, sharpness=1.0,
            **kwargs,
        )  # fmt: skip
        self.mixing = mixing
        self.register_buffer("w_mean", torch.zeros(style_dim))

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        shape, style, (latent, scores) = tuple(arguments["shape"]), arguments["style_dim"], cls._input_widths(arguments)
        return {"mapping": ((latent,), (style,)), "synthesis": ((style,), shape), "critic": (shape, (scores,))}

    def conditioned(self, generator: nn.Module, num_classes: int, class_dim: int) -> nn.Module:
        """Return the generator whose mapping is given the class."""
        generator.mapping = ClassInput(generator.mapping, num_classes, class_dim)
        return generator

    # -- styles -------------------------------------------------------------------------------------------------------

    @property
    def depth(self) -> int:
        """Number of styles of an image."""
        return self.generator.synthesis.depth

    def styles(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return w of latents, (B, latent_dim) -> (B, style_dim)."""
        return self.generator.mapping(z) if labels is None else self.generator.mapping(z, labels)

    def mixed(self, first: Tensor, second: Tensor, layer: Tensor | int) -> Tensor:
        """Return styles of the first w below a layer, and of the second from it on.

        Args:
            first, second: (B, style_dim).
            layer: from 0, all second, to `depth`, all first; one for all, or (B,).

        Returns:
            (B, depth, style_dim)
        """
        place = torch.arange(self.depth, device=first.device)  # (L,)
        cut = torch.as_tensor(layer, device=first.device).expand(len(first))
        return torch.where((place < cut[:, None])[:, :, None], first[:, None], second[:, None])

    def truncated(self, w: Tensor, psi: float) -> Tensor:
        """Return w moved towards the running mean: psi = 1 changes nothing, 0 gives the mean."""
        return w if psi == 1 else torch.lerp(self.w_mean.to(w).expand_as(w), w, psi)

    def synthesise(self, w: Tensor, noise: Sequence[Tensor]) -> Tensor:
        """Return images of styles, (B, depth, style_dim) -> (B, *shape) in [-1, 1]."""
        return torch.tanh(self.generator.synthesis(w, noise))

    def fixed_noise(self) -> list[Tensor]:
        """Return one noise for all images, always the same, (1, 1, h, w) a layer."""
        source = torch.Generator().manual_seed(0)
        shapes = self.generator.synthesis.noise_shapes
        return [torch.randn(1, 1, *s, generator=source).to(self.device, self.dtype) for s in shapes]

    # -- training -----------------------------------------------------------------------------------------------------

    def generate(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the images of latents, with the fixed noise: (B, latent_dim) -> (B, *shape) in [-1, 1]."""
        w = self.styles(z, labels)
        return self.synthesise(w[:, None].expand(-1, self.depth, -1), self.fixed_noise())

    def fakes(self, n: int, labels: Tensor | None = None) -> Tensor:
        """Return ``n`` images of fresh noise, some with mixed styles, (n, *shape) in [-1, 1]."""
        noise = [self.randn(n, 1, *s) for s in self.generator.synthesis.noise_shapes]
        if not self.mixing:
            w = self.styles(self.randn(n, self.latent_dim), labels)
            return self.synthesise(w[:, None].expand(-1, self.depth, -1), noise)
        z, u = self.randn(n, 2, self.latent_dim), self.rand(n, 2)
        both = None if labels is None else labels.repeat(2)
        first, second = self.styles(z.transpose(0, 1).flatten(0, 1), both).chunk(2)  # (n, style_dim) each
        layer = 1 + (u[:, 1] * (self.depth - 1)).long()  # 1 .. depth - 1
        layer = torch.where(u[:, 0] < self.mixing, layer, self.depth)
        return self.synthesise(self.mixed(first, second, layer), noise)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Train as every adversarial model, and follow the mean of w."""
        super().training_step(batch, batch_idx)
        with torch.no_grad():
            labels = batch[1] if self.num_classes else None
            w = self.styles(self.randn(len(batch[0]), self.latent_dim), labels).mean(0)
            self.w_mean.lerp_(over_processes(w.to(self.w_mean.dtype))[0], 1 - self.decay(_MEAN_DECAY))

    def decay(self, most: float) -> float:
        """Return the decay of a running mean at this step, less at the start, so that a young one forgets it."""
        return min(most, (1 + self.steps_done) / (10 + self.steps_done))

    # -- sampling -----------------------------------------------------------------------------------------------------

    def option_words(self) -> dict[str, tuple[str, ...]]:
        return {"noise": ("random", "fixed")}

    def draw(
        self,
        n: int,
        generator: torch.Generator,
        labels: Tensor | None,
        *,
        truncation: float = 1.0,
        mix_from: int | None = None,
        noise: str = "random",
    ) -> Tensor:
        """Draw from the generator.

        Args:
            truncation: psi, how far w is from the mean: 1 as trained, towards 0 more typical and less varied.
            mix_from: layer, from 0 to `depth`, from which on the styles are those of a second latent.
            noise: ``random``, or ``fixed`` for one noise for all samples.
        """
        if noise not in ("random", "fixed"):
            raise ConfigError(f"noise must be 'random' or 'fixed', got {noise!r}")
        styles = self.drawn_styles(n, generator, labels, truncation, mix_from)
        drawn = self.fixed_noise()
        if noise == "random":
            where = generator, self.device, self.dtype
            drawn = [randn((n, 1, *s), *where) for s in self.generator.synthesis.noise_shapes]
        return self.to_data(self.synthesise(styles, drawn))

    def drawn_styles(
        self, n: int, generator: torch.Generator, labels: Tensor | None, truncation: float, mix_from: int | None
    ) -> Tensor:
        """Return the styles of ``n`` latents, truncated and mixed, (n, depth, style_dim). Raises `ConfigError`."""
        if mix_from is not None and not 0 <= mix_from <= self.depth:
            raise ConfigError(f"mix_from must be a layer between 0 and {self.depth}, got {mix_from}")
        z = randn((n, 2, self.latent_dim), generator, self.device, self.dtype)
        w = self.truncated(self.styles(z[:, 0], labels), truncation)
        if mix_from is None:
            return w[:, None].expand(-1, self.depth, -1)
        return self.mixed(w, self.truncated(self.styles(z[:, 1], labels), truncation), mix_from)
