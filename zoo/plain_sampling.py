"""Which sampling options change the distribution that a model has learnt, and how a table says so beside a number.

A sample is plain where it is one draw of the model as it was trained: no critic has chosen it among several, nothing
has guided it, its noise is as wide as in training. Numbers of other samples are as good as any, of another thing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["PLAIN", "departures", "of_plain_model", "plain_options", "short_departures"]

PLAIN: dict[str, Any] = {
    "candidates": 1, "guidance_scale": 1.0, "temperature": 1.0, "truncation": 1.0, "greedy": False, "top_k": None,
    "top_p": None, "beams": None, "threshold": None,
}  # fmt: skip
"""Option -> the value with which it changes nothing."""


def plain_options(sampler: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that make a sampler plain: those that are not, with their plain values."""
    return {name: PLAIN[name] for name, value in sampler.items() if name in PLAIN and value not in (None, PLAIN[name])}


def departures(protocol: Mapping[str, Any]) -> list[str]:
    """Say in what the samples of a protocol, as plain data, are not plain; empty where they are."""
    sampler = protocol.get("sampler")
    if not isinstance(sampler, Mapping):
        return []
    conditional = bool(protocol.get("conditional"))
    return [_words(name, sampler[name], conditional) for name in plain_options(sampler)]


def short_departures(protocol: Mapping[str, Any]) -> str:
    """Say the same in a few characters, for the cell of a table."""
    sampler = protocol.get("sampler")
    sampler = sampler if isinstance(sampler, Mapping) else {}
    return ", ".join(_SHORT.get(n, n).format(_number(sampler[n])) for n in plain_options(sampler))


def of_plain_model(protocol: Mapping[str, Any]) -> bool:
    """Tell whether a likelihood is of a model whose samples, beside it, were drawn in another way."""
    return protocol.get("likelihood") is not None and bool(departures(protocol))


_SHORT = {"candidates": "best of {}", "guidance_scale": "guided {}", "temperature": "temperature {}"}
_SHORT |= {"truncation": "truncated {}", "greedy": "greedy", "top_k": "top-k {}", "top_p": "top-p {}"}
_SHORT |= {"beams": "beams {}", "threshold": "latents within {}"}


def _words(name: str, value: Any, conditional: bool) -> str:
    number = _number(value)
    if name == "candidates":
        return f"samples chosen by the critic among {number} candidates"
    if name == "guidance_scale":
        away = "towards the class" if conditional else "away from its own early self"
        return f"samples guided {away}, scale {number}"
    texts = {
        "temperature": "samples at temperature {}", "truncation": "samples truncated by {}",
        "greedy": "the likeliest value each time", "top_k": "among the {} likeliest values only",
        "top_p": "among the likeliest values of mass {} only", "beams": "samples searched with {} beams",
        "threshold": "of latents within {} only",
    }  # fmt: skip
    return texts[name].format(number)


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)
