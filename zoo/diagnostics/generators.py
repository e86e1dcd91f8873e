"""What a generator does with its latents: lines between them, classes, truncation, mixed styles, and moves.

References:
    T. White, Sampling Generative Networks, 2016, arXiv:1609.04468: spherical interpolation.
    T. Karras, S. Laine, T. Aila, A Style-Based Generator Architecture for Generative Adversarial Networks, 2018,
    arXiv:1812.04948: truncation, style mixing.
    T. Karras and others, Alias-Free Generative Adversarial Networks, 2021, arXiv:2106.12423: moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.abilities import DecodesNoise, HasStyles, Translates, takes_option
from zoo.errors import ConfigError
from zoo.metrics.equivariance import translation_equivariance

__all__ = ["Translation", "class_grid", "mixing_grid", "slerp", "translation_rows", "truncation_rows", "walk"]


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Return points on the great circle between vectors, a (N, D) and b (N, D) at t (T,) -> (N, T, D).

    Where both are parallel the points lie on the straight line. Between normal vectors the points stay about as long as
    normal vectors are, which those of the straight line do not.
    """
    cosine = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1)).clamp_min(1e-12)
    angle = cosine.clamp(-1, 1).acos()[:, None, None]  # (N, 1, 1)
    s = t[None, :, None].to(a)
    straight = torch.lerp(a[:, None], b[:, None], s)
    arc = (((1 - s) * angle).sin() * a[:, None] + (s * angle).sin() * b[:, None]) / angle.sin().clamp_min(1e-12)
    return torch.where(angle.sin().abs() < 1e-6, straight, arc)


def _latents(model: Any, n: int, seed: int) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(n, model.latent_dim, generator=source).to(model.device, model.dtype)


@torch.no_grad()
def _images(model: Any, z: Tensor, labels: Tensor | None) -> Tensor:
    return (model.decode(z) if labels is None else model.decode(z, labels.to(model.device))).cpu()


def walk(model: DecodesNoise, rows: int = 4, steps: int = 11, seed: int = 0) -> Tensor:
    """Decode great circles between random latents, (rows, steps, *shape); a conditional model keeps a row's class."""
    if steps < 2:
        raise ConfigError(f"a walk has two ends, so at least 2 steps, got {steps}")
    a, b = _latents(model, 2 * rows, seed).chunk(2)
    z = slerp(a, b, torch.linspace(0, 1, steps)).flatten(0, 1)  # (rows * steps, latent_dim)
    labels = None
    if model.num_classes:
        labels = (torch.arange(rows) % model.num_classes).repeat_interleave(steps)
    return _images(model, z, labels).unflatten(0, (rows, steps))


def class_grid(model: DecodesNoise, rows: int = 6, seed: int = 0) -> Tensor:
    """Decode each of a few latents under every class, (rows, num_classes, *shape)."""
    if not model.num_classes:
        raise ConfigError(f"{type(model).__name__} is not conditional, so there is no grid of its classes")
    z, classes = _latents(model, rows, seed), model.num_classes
    images = _images(model, z.repeat_interleave(classes, 0), torch.arange(classes).repeat(rows))
    return images.unflatten(0, (rows, classes))


def truncation_rows(
    model: Any, shares: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0), columns: int = 12, seed: int = 0
) -> Tensor:
    """Draw the same latents at several truncations, with fixed noise, (len(shares), columns, *shape)."""
    fixed = {"noise": "fixed"} if takes_option(model, "noise") else {}
    return torch.stack([model.sample(columns, seed=seed, truncation=s, **fixed).cpu() for s in shares])


@torch.no_grad()
def mixing_grid(model: HasStyles, rows: int = 6, columns: int = 10, layer: int | None = None, seed: int = 0) -> Tensor:
    """Give coarse styles of one latent and fine ones of another, (rows + 1, columns + 1, *shape).

    The first row holds the images whose fine styles their column takes, the first column those whose coarse styles
    their row takes; the corner is the image of the mean style.

    Args:
        model: with styles.
        rows, columns: how many latents of either kind.
        layer: from which on the styles are the column's; half of all layers if left out.
        seed: of the latents.
    """
    layer = max(1, model.depth // 2) if layer is None else layer
    z = _latents(model, rows + columns, seed)
    labels = torch.zeros(len(z), dtype=torch.long, device=model.device) if model.num_classes else None
    w = model.styles(z, labels)  # (rows + columns, style_dim)
    w = torch.cat([model.truncated(w[:1], 0.0), w])
    coarse, fine = w[: rows + 1], torch.cat([w[:1], w[rows + 1 :]])
    first = coarse.repeat_interleave(columns + 1, 0)
    second = fine.repeat(rows + 1, 1)
    place = torch.arange(len(first), device=w.device)
    whole_row, whole_column = place % (columns + 1) == 0, place < columns + 1
    cut = torch.where(whole_row, model.depth, torch.where(whole_column, 0, layer))
    images = model.to_data(model.synthesise(model.mixed(first, second, cut), model.fixed_noise()))
    return images.cpu().unflatten(0, (rows + 1, columns + 1))


@dataclass(frozen=True)
class Translation:
    """Pictures that were moved before they were drawn.

    Attributes:
        images: (moves, columns, *shape).
        decibels: EQ-T, see `zoo.metrics.equivariance`.
        decibels_whole: the same of moves by whole pixels.
    """

    images: Tensor
    decibels: float
    decibels_whole: float


@torch.no_grad()
def translation_rows(
    model: Translates, shifts: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 2.0), columns: int = 12, seed: int = 0
) -> Translation:
    """Draw the same latents moved to the right by so many pixels, and measure how far pictures move as a whole.

    A conditional model draws its first class.

    Args:
        model: that can move pictures before it draws them.
        shifts: in pixels.
        columns: how many latents are shown; 64 are measured.
        seed: of the latents.
    """
    z = _latents(model, max(64, columns), seed)

    def draw(z: Tensor, right: float, down: float) -> Tensor:
        labels = torch.zeros(len(z), dtype=torch.long, device=z.device) if model.num_classes else None
        return model.translated(z, right, down, labels)

    images = torch.stack([model.to_data(draw(z[:columns], s, 0.0)).cpu() for s in shifts])
    measured = z[:64]
    return Translation(
        images, translation_equivariance(draw, measured), translation_equivariance(draw, measured, whole=True)
    )
