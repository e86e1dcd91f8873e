"""A trained model as a module that turns examples into features, for a probe, a search or a further training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo.abilities import Embeds, HasFeatures, HasMapLatents, HasPosterior, autoencoder_of
from zoo.errors import ConfigError
from zoo.model import GenerativeModel

__all__ = ["FeatureExtractor"]


class FeatureExtractor(nn.Module):
    """Features of examples, by what the model has: its own features, a map of latents, a posterior, or embedded codes.

    Gradients reach the weights of the model, which a probe leaves alone by ``torch.no_grad()``.

    Args:
        model: with one of the abilities `zoo.abilities.HasFeatures`, `HasMapLatents`, `HasPosterior` and `Embeds`, or
            one over the codes or latents of an autoencoder that has.

    Attributes:
        kind: ``features``, ``latents``, ``posterior_mean`` or ``codes``, the vectors that stand for codes.
        feature_shape: of one example's: (D,), or (C, h, w) of a map.

    Raises:
        ConfigError: the model has none of these.
    """

    def __init__(self, model: GenerativeModel) -> None:
        super().__init__()
        kinds = {"features": HasFeatures, "latents": HasMapLatents, "posterior_mean": HasPosterior, "codes": Embeds}
        given, inside = model, autoencoder_of(model)
        model = model if inside is None else inside
        found = [kind for kind, ability in kinds.items() if isinstance(model, ability)]
        if not found:
            raise ConfigError(
                f"{type(given).__name__} has no features of examples: features_only is for models with an encoder, as "
                f"vae-mnist has one, or with features of their own"
            )
        self.model, self.kind = model, found[0]
        with torch.no_grad():
            empty = torch.zeros(1, *model.shape, device=model.device, dtype=next(model.parameters()).dtype)
            labels = torch.zeros(1, dtype=torch.int64, device=model.device) if model.num_classes else None
            self.feature_shape = tuple(self(empty, labels).shape[1:])

    def forward(self, x: Tensor, labels: Any = None) -> Tensor:
        """Return the features of examples, (B, *shape) in data range -> (B, *feature_shape).

        Args:
            x: examples.
            labels: int64 (B,), where the encoder is told the class; others take none.
        """
        model: Any = self.model
        if self.kind == "features":
            features: Tensor = model.features(x)
        elif self.kind == "latents":
            features = model.latents(x)
        elif self.kind == "posterior_mean":
            features = (model.posterior(x) if labels is None else model.posterior(x, labels))[0]
        else:
            features = model.embed(model.codes(x))
        return features

    def extra_repr(self) -> str:
        """Return what is shown beside the name of the class."""
        return f"kind={self.kind}, feature_shape={self.feature_shape}"
