"""Compute of a training step written down layer by layer, apart from the code that counts it.

A family's own test file may add to these: a module dict ``STEP_FLOPS`` from class names to functions of the constructor
arguments, found by `step_flops`.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
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


NETS = {"MLP": _mlp, "UpsamplingNet": _upsampling, "DownsamplingNet": _downsampling}


def net(spec: Mapping[str, Any]) -> list[int]:
    return NETS[spec["class_path"].rpartition(".")[2]](spec["init_args"])


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
    """Live taps only: the rows above the pixel, and the pixels left of it (with the pixel itself under mask B)."""
    C, H, W = args["shape"]
    assert C == 1, "the live taps of several colours are not written down here"
    k, K, width = args["kernel"], args["first_kernel"], args["width"]
    embedding, hidden, head = args["embedding"], args["hidden"], args["head"] or width
    first = (embedding or 1) * width * ((K // 2) * K + K // 2)
    h = hidden or width
    block = h * h * ((k // 2) * k + k // 2 + 1) + (2 * width * h if hidden else 0)
    total = first + args["depth"] * block + width * head + head * args["levels"]
    return 2.0 * H * W * (3 * total - (0 if embedding else first))


STEP_FLOPS: dict[str, Callable[[Mapping[str, Any]], float]] = {"VAE": vae, "WGANGP": wgan_gp, "PixelCNN": pixelcnn}


def step_flops() -> dict[str, Callable[[Mapping[str, Any]], float]]:
    """Return operations of one training step on one example, averaged over the period, by class name."""
    found = dict(STEP_FLOPS)
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if "\nSTEP_FLOPS" in path.read_text(encoding="utf-8"):
            found |= importlib.import_module(path.stem).STEP_FLOPS
    return found
