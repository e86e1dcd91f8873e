"""Activations by name, so that a network's constructor takes plain data."""

from __future__ import annotations

from torch import nn

from zoo.errors import check_choice

__all__ = ["ACTIVATIONS", "activation"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def activation(name: str) -> nn.Module:
    """Return a new activation layer; ``leaky_relu`` has slope 0.2. Raises `ConfigError` on an unknown name."""
    if name not in ACTIVATIONS:
        check_choice("activation", name, ACTIVATIONS)
    return nn.LeakyReLU(0.2) if name == "leaky_relu" else ACTIVATIONS[name]()
