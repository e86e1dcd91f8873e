"""Activations by name, so that a network's constructor takes plain data."""

from __future__ import annotations

from torch import nn

from zoo.errors import ConfigError, close_matches

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
        near = close_matches(name, ACTIVATIONS)
        raise ConfigError(f"unknown activation {name!r}.{near} There are: {', '.join(ACTIVATIONS)}")
    return nn.LeakyReLU(0.2) if name == "leaky_relu" else ACTIVATIONS[name]()
