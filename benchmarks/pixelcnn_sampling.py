"""Measure what cached sampling pixel by pixel costs: in forward passes over the batch, and against naive sampling.

    python benchmarks/pixelcnn_sampling.py                         # 7x7 A, seven 3x3 B of 64 channels, untrained
    python benchmarks/pixelcnn_sampling.py --model pixelcnn-mnist  # a registered model, with its weights if any
    python benchmarks/gated_pixelcnn_sampling.py                   # a gated PixelCNN, with its compiled step

One thread. The arms take turns within each of the rounds, and medians are printed. Naive sampling makes one forward
pass a pixel; it is timed on evenly spaced pixels and scaled up to all of them, so its time is an estimate. The floor is
the larger of two: the arithmetic of every live tap once, at the rate of a large product of matrices, and the weights
that every pixel needs, once a pixel for the whole batch, at the rate at which cached memory is read; both rates are
measured in the same run.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from zoo.errors import ConfigError
from zoo.families.pixelcnn import PixelCNN
from zoo.families.raster import RasterModel
from zoo.maths.decoding import Decoding
from zoo.nets.decoding_states import FullPasses

ROW = ("above", "vertical", "link")  # weights that a row needs once, in the names of parameters
NEVER = ("embedding", "position", "condition")  # tables


def plain() -> PixelCNN:
    """The configuration that counts 282,496 weights with the masked ones, 166,208 without."""
    torch.manual_seed(0)
    return PixelCNN(shape=(1, 28, 28), levels=256, width=64, depth=7, first_kernel=7, kernel=3, head=64)


def named(name: str) -> RasterModel:
    """Return a registered model, with its weights where there are any."""
    import zoo
    from zoo.registry import load_registry

    model = zoo.load(name) if load_registry().resolve(name).pretrained else zoo.create(name)
    if not isinstance(model, RasterModel):
        raise ConfigError(f"{name} is a {type(model).__name__}; this benchmark measures models pixel by pixel")
    return model


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def labels_of(model: RasterModel, n: int) -> torch.Tensor | None:
    return torch.arange(n) % model.num_classes if model.num_classes else None


def naive_seconds(model: RasterModel, n: int, passes: int) -> float:
    """Time naive sampling of evenly spaced pixels, and scale it up to all pixels."""
    C, H, W = model.shape
    k, choose, u = torch.zeros(n, C * H * W, dtype=torch.int64), Decoding(), torch.rand(n)
    total = 0.0
    for i in range(passes):
        state = FullPasses(model.predict, n, labels_of(model, n), model.device)
        state.put(k[:, : i * H * W // passes * C])
        total += seconds(lambda state=state: state.put(choose(state.logits(), u)))
    return total / passes * C * H * W


@torch.inference_mode()
def measure(model: RasterModel, n: int, rounds: int, passes: int, compiled: bool) -> dict[str, float]:
    """Return median seconds of each arm for ``n`` images."""
    k, labels = torch.randint(model.levels, (n, *model.shape)), labels_of(model, n)
    arms: dict[str, Callable[[], float]] = {
        "cached": lambda: seconds(lambda: model.sample(n, seed=0)),
        "forward": lambda: seconds(lambda: model(k, labels)),
        "naive": lambda: naive_seconds(model, n, passes),
    }
    if compiled:
        arms["compiled"] = lambda: seconds(lambda: model.sample(n, seed=0, compiled=True))
    for name, arm in arms.items():  # the first calls allocate and compile
        if name != "naive":
            arm()
    found = [{name: arm() for name, arm in arms.items()} for _ in range(rounds)]
    return {name: statistics.median(row[name] for row in found) for name in arms}


@torch.inference_mode()
def agreement(model: RasterModel, n: int, rows: int) -> tuple[float, int, int]:
    """Return the largest difference of logits, and how many of how many values the naive sampler draws differently.

    Every logit is compared with one forward pass over a cached sample; the values of its last rows are drawn anew by
    naive sampling with the same noise.
    """
    H, W = model.shape[1:]
    labels, x = labels_of(model, n), model.sample(n, seed=1)
    k = model.quantize(x)
    state, full, worst = model.start(n, labels), model(k, labels), 0.0
    for r, c in itertools.product(range(H), range(W)):
        worst = max(worst, (state.logits() - full[:, 0, r, c]).abs().max().item())
        state.put(k[:, 0, r, c])
    again = model.quantize(model.sample(n, seed=1, given=x, known=H - rows, cached=False))
    return worst, int((again != k).sum()), n * rows * W


def rates() -> tuple[float, float]:
    """Return GFLOP/s of a product of two 1024 x 1024 matrices, and GB/s of reading 1 MB from the cache, at best."""
    a, b, x = torch.randn(1024, 1024), torch.randn(1024, 1024), torch.randn(512, 512)
    v = torch.randn(512)
    product = min(seconds(lambda: a @ b) for _ in range(20))
    read = min(seconds(lambda: [torch.mv(x, v) for _ in range(20)]) / 20 for _ in range(20))
    return 2 * 1024**3 / product / 1e9, x.numel() * 4 / read / 1e9


@torch.inference_mode()
def work(model: RasterModel) -> tuple[float, float]:
    """Return operations an image, and bytes of weights that each pixel needs."""
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *model.shape, dtype=torch.long), labels_of(model, 1))
    read = sum(p.numel() for name, p in model.named_parameters() if not any(w in name for w in (*ROW, *NEVER)))
    return float(counter.get_total_flops()), 4.0 * read


def table(model: RasterModel, batches: list[int], rounds: int, passes: int, compiled: bool) -> None:
    """Print one line for each number of images."""
    flops, read = work(model)
    gemm, cache = rates()
    pixels = model.shape[1] * model.shape[2]
    print(
        f"floor: {flops / 1e9:.3f} GFLOP an image at {gemm:.0f} GFLOP/s; {read / 1e6:.2f} MB of weights for each of "
        f"{pixels} pixels at {cache:.0f} GB/s"
    )
    names = ["images", "cached s", "ms/image", "forward s", "cached/forward", "naive s (est.)", "naive/cached"]
    names += ["floor ms/image", "bound by", "cached/floor"]
    names += ["compiled s", "cached/compiled", "compiled/floor"] if compiled else []
    print("".join(f"{name:>16}" for name in names))
    for n in batches:
        t = measure(model, n, rounds, passes, compiled)
        cached, floors = t["cached"], {"arithmetic": n * flops / gemm / 1e9, "bandwidth": pixels * read / cache / 1e9}
        bound = max(floors, key=lambda name: floors[name])
        row = [f"{n}", f"{cached:.3f}", f"{cached / n * 1e3:.1f}", f"{t['forward']:.4f}"]
        row += [f"{cached / t['forward']:.2f}", f"{t['naive']:.1f}", f"{t['naive'] / cached:.0f}x"]
        row += [f"{floors[bound] / n * 1e3:.2f}", bound, f"{cached / floors[bound]:.1f}x"]
        if compiled:
            fast = t["compiled"]
            row += [f"{fast:.4f}", f"{cached / fast:.1f}x", f"{fast / floors[bound]:.1f}x"]
        print("".join(f"{cell:>16}" for cell in row), flush=True)


def main(
    build: Callable[[], RasterModel] = plain,
    title: str = "plain 7x7 A, seven 3x3 B, 64 channels: 282,496 weights with the masked ones,",
    about: str | None = __doc__,
    compiled: bool = False,
) -> None:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="registered name; an untrained network of the usual size if left out")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--passes", type=int, default=8, help="forward passes timed for naive sampling, at least 8")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = (named(args.model) if args.model else build()).eval()
    passes = max(args.passes, 8)
    print(args.model or title, f"{sum(p.numel() for p in model.parameters()):,} weights")
    print(f"1 thread, medians of {args.rounds}; naive: {passes} evenly spaced passes timed, scaled to all pixels")
    worst, differ, drawn = agreement(model, 4, 2)
    print(f"cached against naive: logits differ by at most {worst:.1e}; {differ} of {drawn} drawn values differ")
    if compiled:
        one, other = (torch.cat([model.sample(1, seed=s, compiled=c) for s in range(8)]) for c in (False, True))
        print(f"compiled against cached: {int((one != other).sum())} of {one.numel()} drawn values differ")
    table(model, args.batches, args.rounds, passes, compiled)


if __name__ == "__main__":
    main()
