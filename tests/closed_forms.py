"""Compute of a training step written down layer by layer, apart from the code that counts it.

A family's own test file may add to these: a module dict ``STEP_FLOPS`` from class names to functions of the constructor
arguments, found by `step_flops`.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

# -- closed forms: multiply-adds of one forward pass on one example, layer by layer ------------------------------------


def _mlp(args: Mapping[str, Any]) -> list[int]:
    return [a * b for a, b in pairwise(args["features"])]


def _upsampling(args: Mapping[str, Any]) -> list[int]:
    """A linear layer, then 4x4 transposed convolutions: every input pixel meets 16 taps."""
    channels, *size = args["shape"]
    widths = args["widths"]
    pixels = math.prod(s >> len(widths) for s in size)
    layers = [args["latent_dim"] * widths[0] * pixels]
    for i, (a, b) in enumerate(pairwise([*widths, channels])):
        layers.append(pixels * a * b * 16)
        pixels *= 4
        if args["refine"] and i < len(widths) - 1:
            layers.append(pixels * b * b * 9)
    return layers


def _downsampling(args: Mapping[str, Any]) -> list[int]:
    """4x4 convolutions of stride 2: every output pixel meets 16 taps; then the linear layers."""
    channels, *size = args["shape"]
    widths, layers = args["widths"], []
    for i, (a, b) in enumerate(pairwise([channels, *widths])):
        layers.append(math.prod(s >> (i + 1) for s in size) * a * b * 16)
    flat = widths[-1] * math.prod(s >> len(widths) for s in size)
    return layers + [a * b for a, b in pairwise([flat, *([args["hidden"]] if args["hidden"] else []), args["out"]])]


def _brenier(args: Mapping[str, Any]) -> list[float]:
    """Every map is its matrix and the transpose of it; the isometry between has no gradient of its own."""
    d, D = args["latent_dim"], args["features"]
    return [2 * d * args["latent_hidden"] * args["depth"], 2 / 3 * d * D, 2 * D * args["hidden"] * args["depth"]]


NETS = {"BrenierDecoder": _brenier, "MLP": _mlp, "UpsamplingNet": _upsampling, "DownsamplingNet": _downsampling}


def net(spec: Mapping[str, Any]) -> list[float]:
    return NETS[spec["class_path"].rpartition(".")[2]](spec["init_args"])


# -- networks that are told a time: multiply-adds of a forward pass, and those of layers whose input has no gradient ---


def unet(args: Mapping[str, Any], size: int) -> tuple[int, int]:
    """3x3 convolutions, the modulation of each block, attention over all places, the vector of the time."""
    widths, E, patch = args["widths"], args["embedding"], args["patch"]
    folded, out = args["channels"] * patch**2, (args["out_channels"] or args["channels"]) * patch**2
    sides = [size // patch]
    for _ in widths[1:]:
        sides.append(-(-sides[-1] // 2))
    stem = 9 * folded * widths[0] * sides[0] ** 2
    total = 2 * E * E + stem + 9 * widths[0] * out * sides[0] ** 2
    for level, (w, s) in enumerate(zip(widths, sides, strict=True)):
        stage = args["blocks"] * (2 * 9 * w * w * s * s + E * 2 * w)
        stage += (4 * w * w * s**2 + 2 * s**4 * w) if level in args["attention"] else 0
        total += stage * (1 if level == len(widths) - 1 else 2)  # the bottom is passed once
    for i, (a, b) in enumerate(pairwise(widths)):
        total += (9 + 1) * a * b * sides[i + 1] ** 2 + 2 * a * a * sides[i] ** 2
    return total, stem + E * E


def dit(args: Mapping[str, Any], size: int) -> tuple[int, int]:
    """The four linear maps and two products of attention of each block, and its modulation."""
    w, T, patch = args["width"], (size // args["patch"]) ** 2, args["patch"]
    folded, out = args["channels"] * patch**2, (args["out_channels"] or args["channels"]) * patch**2
    block = 4 * w * w * T + 2 * T * T * w + 2 * w * (args["hidden"] or 4 * w) * T + 6 * w * w
    stem = folded * w * T
    return 2 * w * w + stem + args["depth"] * block + 2 * w * w + w * out * T, stem + w * w


def timed_mlp(args: Mapping[str, Any], size: int) -> tuple[int, int]:
    """The stream's and the time's maps of each block."""
    w, out = args["width"], args["out_features"] or args["features"]
    return (2 + 3 * args["depth"]) * w * w + (args["features"] + out) * w, args["features"] * w + w * w


def timed_conv_time(args: Mapping[str, Any]) -> int:
    """The maps of the time: its own, one of each block, that of the end."""
    widths, E = args["widths"], args["embedding"]
    return 2 * E * E + sum(args["blocks"] * E * w for w in widths) + E * widths[-1]


def timed_conv(args: Mapping[str, Any], size: int) -> tuple[int, int]:
    """The stem, two convolutions of each block, the maps between stages and those of the time."""
    widths, E, blocks, stride = args["widths"], args["embedding"], args["blocks"], args["stride"]
    sides = [(size - stride) // stride + 1]
    for _ in widths[1:]:
        sides.append(-(-sides[-1] // 2))
    stem = (stride + 2) ** 2 * args["channels"] * widths[0] * sides[0] ** 2
    maps = sum(blocks * 2 * 9 * w * w * s * s for w, s in zip(widths, sides, strict=True))
    between = sum(a * b * s * s for (a, b), s in zip(pairwise(widths), sides[1:], strict=True))
    return stem + timed_conv_time(args) + maps + between, stem + E * E


def diffwave(args: Mapping[str, Any], size: int) -> tuple[int, int]:
    """Three taps to both gates and the map of each layer, the maps of the time; the last stream goes nowhere."""
    C, N, E = args["width"], args["layers"], args["embedding"]
    layers = N * (8 * C * C * size + E * C) - C * C * size
    return 2 * E * E + 2 * C * size + layers + C * C * size, C * size + E * E


TOLD = {"DiffWave": diffwave, "UNet": unet, "DiT": dit, "TimedMLP": timed_mlp, "TimedConv": timed_conv}


def told(spec: Mapping[str, Any], size: int = 28) -> tuple[int, int]:
    """Return both for a network's spec on images of side ``size``."""
    return TOLD[spec["class_path"].rpartition(".")[2]](spec["init_args"], size)


def regression(args: Mapping[str, Any]) -> float:
    """One evaluation of the network ``network``, and its gradient with respect to the weights."""
    total, first = told(args["network"], args["shape"][-1])
    return 2.0 * (3 * total - first)


def causal_half(args: Mapping[str, Any], n_in: int, n_out: int, grid: Sequence[int]) -> tuple[int, int]:
    """Return multiply-adds of one half of the tokenizer, and those of its first layer."""
    t, places, w = grid[0], math.prod(grid), args["width"]
    first = 9 * n_in * w * places
    attention = 4 * w * w * places + 2 * t * places * w
    return first + args["blocks"] * (9 + 3) * w * w * places + attention + w * n_out * places, first


# -- closed forms: operations of one training step on one example, averaged over the period ----------------------------


def vae(args: Mapping[str, Any]) -> float:
    """Forward, backward to the weights, backward to the inputs of all layers but the first."""
    layers = net(args["encoder"]) + net(args["decoder"])
    return 2.0 * (3 * sum(layers) - layers[0])


def wgan_gp(args: Mapping[str, Any]) -> float:
    """The critic on real, generated and mixed images, and every ``n_critic``-th step the generator.

    The penalty is a forward pass and a pass back to the pixels; its gradient goes up through that pass (to the weights
    of every layer, and on to the layer above), and then, because the activations pass on a gradient of zero, once more
    down through the forward pass below the last layer, to the weights and to the pixels.
    """
    G, D = net(args["generator"]), net(args["critic"])
    scores = sum(G) + 2 * (3 * sum(D) - D[0])
    penalty = 2 * sum(D) + (sum(D) + sum(D[:-1])) + 2 * sum(D[:-1])
    generator = 3 * sum(G) - G[0] + 2 * sum(D)
    return 2.0 * (scores + penalty + generator / args["n_critic"])


def pixelcnn(args: Mapping[str, Any]) -> float:
    """Live taps only: the rows above the pixel, and the pixels left of it (with the pixel itself under mask B).

    Several colours are channels side by side; what one hides from another within a pixel is computed all the same.
    """
    C, H, W = args["shape"]
    k, K, width = args["kernel"], args["first_kernel"], args["width"]
    embedding, hidden, head = args["embedding"], args["hidden"], args["head"] or width
    first = (embedding or 1) * C * width * ((K // 2) * K + K // 2 + (C > 1))
    h = hidden or width
    block = h * h * ((k // 2) * k + k // 2 + 1) + (2 * width * h if hidden else 0)
    total = first + args["depth"] * block + width * head + head * args["levels"] * C
    return 2.0 * H * W * (3 * total - (0 if embedding else first))


STEP_FLOPS: dict[str, Callable[[Mapping[str, Any]], float]] = {"VAE": vae, "WGANGP": wgan_gp, "PixelCNN": pixelcnn}


def step_flops() -> dict[str, Callable[[Mapping[str, Any]], float]]:
    """Return operations of one training step on one example, averaged over the period, by class name."""
    found = dict(STEP_FLOPS)
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if "\nSTEP_FLOPS" in path.read_text(encoding="utf-8"):
            found |= importlib.import_module(path.stem).STEP_FLOPS
    return found
