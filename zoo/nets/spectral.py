"""Spectral normalisation of the layers of a network, by torch's own parametrisation.

    W_SN = W / sigma(W),   sigma(W) ~ u^T W v by one power iteration a forward pass

References:
    T. Miyato, T. Kataoka, M. Koyama, Y. Yoshida, Spectral Normalization for Generative Adversarial Networks, 2018,
    arXiv:1802.05957, algorithm 1.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized

__all__ = ["normalise_layers"]


def normalise_layers(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[nn.Module]:
    """Normalise the layers of some kinds, and return them in their order; those that are normalised stay so.

    A weight that starts at zero, as the last one of a residual block may, has no largest singular value to be divided
    by, and after any step it would have the norm of all others: it starts as a layer of its kind does by default.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, kinds)]
    for layer in layers:
        if is_parametrized(layer, "weight"):  # a network of a released copy has been here before
            continue
        weight: torch.Tensor = layer.weight  # type: ignore[assignment]
        if not weight.is_meta and not bool(weight.detach().any()):
            layer.reset_parameters()  # type: ignore[operator]
        spectral_norm(layer)
    return layers
