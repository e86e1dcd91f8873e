"""Conditional variational autoencoder: encoder and decoder are told the class.

    log p(x | y) >= E_q(z|x,y) [log p(x | z, y)] - KL(q(z | x, y) || p(z)),   p(z) = N(0, I)

The prior does not depend on y, which the paper names as a relaxation of p(z | y): what the class says about an example
goes through the decoder, and z is left with the rest, such as the style of a digit.

References:
    K. Sohn, X. Yan, H. Lee, Learning Structured Output Representation using Deep Conditional Generative Models, 2015,
    NeurIPS 28.
    D. P. Kingma and others, Semi-supervised Learning with Deep Generative Models, 2014, arXiv:1406.5298.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError
from zoo.families.vae import VAE
from zoo.fitting import wants_convolutions

__all__ = ["CVAE"]


class CVAE(VAE):
    """Variational autoencoder of x given its class y.

    Args:
        encoder: without ``planes``, (B, D + num_classes) -> (B, 2 latent_dim) from the D numbers of an example and its
            class, one-hot; with them, from images (B, C + num_classes, H, W).
        decoder: (B, latent_dim + num_classes) -> (B, ...), as that of `VAE`.
        shape: of an example.
        latent_dim: size of z.
        num_classes: number of labels, at least 1.
        planes: append the class to the encoder's input as constant planes, for convolutional encoders of images.
        likelihood: of a dimension of x, as that of `VAE`.

    The other arguments are those of `VAE`.

    Raises:
        ConfigError: no classes, planes beside what is no image, or what `VAE` refuses.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        shape: list[int],
        latent_dim: int,
        num_classes: int,
        planes: bool = False,
        likelihood: str = "bernoulli",
        **kwargs: Any,
    ) -> None:
        super().__init__(encoder, decoder, shape, latent_dim, likelihood, **kwargs)
        if num_classes < 1:
            raise ConfigError(f"a conditional model needs at least 1 class, got {num_classes}; use VAE for none")
        if planes and len(shape) != 3:
            raise ConfigError(f"planes of a class go beside those of an image, but examples have shape {tuple(shape)}")
        self.num_classes, self.planes = num_classes, planes

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        if list(arguments["shape"]) == list(before["shape"]):
            return dict(arguments)
        return {**arguments, "planes": arguments.get("planes", False) or wants_convolutions(arguments["shape"])}

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        (shape, codes), (latent, out) = super().network_shapes(arguments).values()
        classes = arguments["num_classes"]
        inputs = (shape[0] + classes, *shape[1:]) if arguments.get("planes") else (math.prod(shape) + classes,)
        return {"encoder": (inputs, codes), "decoder": ((latent[0] + classes,), out)}

    def _encoder_input(self, x: Tensor, labels: Tensor | None) -> Tensor:
        y = self._one_hot(x, labels)
        if not self.planes:
            return torch.cat([x.flatten(1), y], 1)  # (B, D + K)
        return torch.cat([x, y[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)  # (B, C + K, H, W)

    def _decoder_input(self, z: Tensor, labels: Tensor | None) -> Tensor:
        return torch.cat([z, self._one_hot(z, labels)], 1)  # (B, latent_dim + K)

    def _one_hot(self, rows: Tensor, labels: Tensor | None) -> Tensor:
        if labels is None:
            self.given_labels(len(rows), None)  # raises
        try:
            return F.one_hot(labels, self.num_classes).to(self.dtype)
        except RuntimeError as error:
            raise DataError(
                f"labels must lie between 0 and {self.num_classes - 1}; set the model's num_classes"
            ) from error
