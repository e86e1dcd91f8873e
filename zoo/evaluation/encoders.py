"""What a model makes of an example that a probe can read: the one place that says which features each kind has.

A model with `zoo.abilities.HasFeatures` says so itself. Of the others it is the mean of a posterior, the vectors of
codes, the latent of an invertible map, or what the last layer of a critic or of an energy reads. A model that is told
a class for each example has none here: its features would know the answer.
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
    HasCritic,
    HasEnergy,
    HasFeatures,
    HasMapLatents,
    HasPosterior,
    autoencoder_of,
    is_conditional,
    latents,
)

__all__ = ["Encoder", "encoder_of", "last_input"]


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
    if is_conditional(model):
        return None
    if isinstance(model, HasPosterior):
        return Encoder("posterior mean", lambda x: model.posterior(x)[0].flatten(1))
    if isinstance(model, (Embeds, HasMapLatents)) or isinstance(autoencoder_of(model), Embeds):
        return Encoder("vectors of codes" if not isinstance(model, HasMapLatents) else "map of latents", _flat(model))
    if isinstance(model, HasCritic) and hasattr(model, "critic"):
        return Encoder("last layer of the critic", lambda x: last_input(model.critic, model.given((x, None))[0]))
    if isinstance(model, HasEnergy):
        return Encoder("last layer of the energy", lambda x: last_input(model, x, model.energy))
    return Encoder("latents", _flat(model)) if isinstance(model, Encodes) else None


def _flat(model: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: latents(model, x).flatten(1).to(x.device)


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
