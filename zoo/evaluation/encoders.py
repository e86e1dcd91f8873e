"""What a model makes of an example that a probe can read: the one place that says which features each kind has.

A model with `zoo.abilities.HasFeatures` says so itself. Of the others it is the mean of a posterior, the vectors of
codes, the latent of an invertible map, what the middle of a denoiser makes of the example as it is, or what the last
layer of a critic or of an energy reads. A denoiser is told no class, as guidance taught it; another model that is told
one for each example has none here: its features would know the answer. Nor has one whose latents cost many evaluations
of a network each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.abilities import (
    Embeds,
    Encodes,
    HasEnergy,
    HasFeatures,
    HasMapLatents,
    HasPosterior,
    ScoresByCritic,
    SeesThroughNoise,
    autoencoder_of,
    diagnosed_examples,
    is_conditional,
    latents,
    network_of,
)

__all__ = ["Encoder", "encoder_of", "last_input", "middle_output"]

_LOG_SNR = 4.0
"""How a denoiser is told that it sees an example: with nearly no noise, of which none is added."""


@dataclass(frozen=True)
class Encoder:
    """Examples to features.

    Attributes:
        kind: what the features are, in words.
        encode: (B, *shape) in data range -> (B, D).
    """

    kind: str
    encode: Callable[[Tensor], Tensor]


def encoder_of(model: Any) -> Encoder | None:
    """Return the features that a model has, or None."""
    if isinstance(model, HasFeatures):
        return Encoder("features", model.features)
    if isinstance(model, SeesThroughNoise) and _middle(network_of(model)) is not None:
        return Encoder("middle of the denoiser", lambda x: _denoised(model, x))
    if is_conditional(model):
        return None
    if isinstance(model, HasPosterior):
        return Encoder("posterior mean", lambda x: model.posterior(x)[0].flatten(1))
    if isinstance(model, (Embeds, HasMapLatents)) or isinstance(autoencoder_of(model), Embeds):
        return Encoder("vectors of codes" if not isinstance(model, HasMapLatents) else "map of latents", _flat(model))
    if isinstance(model, ScoresByCritic):
        return Encoder("last layer of the critic", lambda x: last_input(model.critic, model.given((x, None))[0]))
    if isinstance(model, HasEnergy):
        return Encoder("last layer of the energy", lambda x: last_input(model, x, model.energy))
    cheap = isinstance(model, Encodes) and diagnosed_examples(model) is None
    return Encoder("latents", _flat(model)) if cheap else None


def _flat(model: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: latents(model, x).flatten(1).to(x.device)


def _middle(network: Any) -> nn.Module | None:
    """Return the bottom of a U-Net, the middle one of blocks, or None."""
    blocks = getattr(network, "blocks", None)
    if isinstance(blocks, nn.ModuleList) and len(blocks):
        return blocks[(len(blocks) - 1) // 2]
    bottom = getattr(network, "bottom", None)
    return bottom if isinstance(bottom, nn.Module) else None


def _denoised(model: Any, x: Tensor) -> Tensor:
    view = model.noisy_view(None)
    log_snr = torch.tensor(min(max(_LOG_SNR, view.ends[0]), view.ends[1]), device=x.device, dtype=x.dtype)
    seen = view.into(x) * torch.sigmoid(log_snr).sqrt()
    middle = _middle(network_of(model))
    assert middle is not None
    return middle_output(middle, lambda: view.denoise(seen, log_snr))


@torch.no_grad()
def middle_output(module: nn.Module, call: Callable[[], Any]) -> Tensor:
    """Return what a module gives while something runs, the mean over places: (B, C, h, w) or (B, T, D) -> (B, D)."""
    seen: list[Tensor] = []
    hook = module.register_forward_hook(lambda _, inputs, output: seen.append(output))
    try:
        call()
    finally:
        hook.remove()
    return seen[0].flatten(2).mean(2) if seen[0].ndim == 4 else seen[0].mean(1)


@torch.no_grad()
def last_input(network: nn.Module, x: Tensor, call: Callable[[Tensor], Any] | None = None) -> Tensor:
    """Return what the last linear layer or convolution of a network reads, means over places: (B, *shape) -> (B, D).

    Args:
        network: whose layers are looked at.
        x: examples as ``call`` takes them.
        call: what runs the network; the network itself if left out.
    """
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen[:] = [inputs[0]]

    layers = [m for m in network.modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d))]
    hooks = [layer.register_forward_pre_hook(keep) for layer in layers]
    try:
        (call or network)(x)
    finally:
        for hook in hooks:
            hook.remove()
    return seen[0].flatten(2).mean(2) if seen[0].ndim > 2 else seen[0]
