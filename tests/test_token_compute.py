"""Compute of a training step of priors over tokens and of multi-scale autoencoders, written down layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from test_discrete import decoder_layers, encoder_layers, search


def _blocks(tokens: int, width: int, hidden: int, depth: int, modulated: int = 0) -> int:
    """Maps of each token, attention over all pairs, and six numbers a channel told ``modulated`` times."""
    each = tokens * (4 * width**2 + 2 * width * hidden) + 2 * tokens**2 * width + modulated * 6 * width**2
    return depth * each


def maskgit(args: Mapping[str, Any]) -> float:
    """Blocks see the class as one more token; codes' vectors are looked up; convolutions are of 3x3 and 1x1."""
    N, d = math.prod(args["shape"]), args["width"]
    near = args["convolutions"] * N * 10 * d**2
    return 6.0 * (near + _blocks(1 + N, d, args["hidden"] or 4 * d, args["depth"]) + N * d * args["levels"])


def _scales(channels: int, cells: int, d: int, hidden: int, depth: int, out: int) -> tuple[int, int]:
    """All multiply-adds of a `ScaleTransformer`, and those of its first layer, which needs no gradient of its input."""
    word = (cells - 1) * channels * d
    return word + _blocks(cells, d, hidden, depth, 1) + 2 * d**2 + cells * d * out, word


def var(args: Mapping[str, Any]) -> float:
    G, _, L = args["shape"]
    d = args["width"]
    total, first = _scales(args["channels"], L, d, args["hidden"] or 4 * d, args["depth"], G * args["levels"])
    return 2.0 * (3 * total - first)


def mar(args: Mapping[str, Any]) -> float:
    """Encoder and decoder over the class's tokens and all others, and the head on each token so many times."""
    (C, *sides), d, w = args["shape"], args["width"], args["head_width"]
    N, depth = math.prod(sides), args["head_depth"]
    S = args["buffer"] + N
    trunk = N * C * d + _blocks(S, d, 4 * d, args["encoder_depth"] + args["decoder_depth"]) + S * d * d
    head = C * w + d * w + 2 * w * w + depth * 5 * w * w + 2 * w * w + w * 2 * C
    first = N * C * d + args["draws"] * N * (C * w + w * w)
    return 2.0 * (3 * (trunk + args["draws"] * N * head) - first)


def flowar(args: Mapping[str, Any]) -> float:
    """The Transformer over scales, and the velocities, told a time and a vector cell by cell."""
    C, d, L = args["shape"][0], args["width"], sum(s * s for s in args["scales"])
    total, first = _scales(C, L, d, 4 * d, args["depth"], d)
    flow = 2 * L * C * d + 2 * L * d * d + _blocks(L, d, 4 * d, args["flow_depth"], L) + 2 * L * d * d
    return 2.0 * (3 * (total + flow) - first - L * C * d - L * d * d)


def multi_scale_vq(args: Mapping[str, Any]) -> float:
    """The autoencoder, the search of all cells, and the convolutions of what is enlarged, which learn."""
    inside = args["quantiser"]["init_args"]
    q, side = inside["quantiser"], inside["scales"][-1]
    E = encoder_layers(args["encoder"], math.prod(args["shape"][1:]))
    D = decoder_layers(args["decoder"], side * side)
    cells = sum(s * s for s in inside["scales"])
    return 2.0 * (3 * sum(E + D) - E[0] + search(q, cells) + 3 * enlarging(args["quantiser"]))


def enlarging(spec: Mapping[str, Any]) -> int:
    """The 3x3 convolutions after enlarging the vectors of each scale."""
    args = spec["init_args"]
    dim, side = args["quantiser"]["init_args"].get("dim", 0), args["scales"][-1]
    return len(args["scales"]) * 9 * dim**2 * side**2 if args["convolutions"] else 0


STEP_FLOPS = {
    "MaskGIT": maskgit, "VAR": var, "Infinity": var, "MAR": mar, "FlowAR": flowar, "MultiScaleVQ": multi_scale_vq
}  # fmt: skip
