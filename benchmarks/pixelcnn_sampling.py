"""Measure what cached sampling of a PixelCNN costs: in forward passes over the same batch, and against naive sampling.

    python benchmarks/pixelcnn_sampling.py                          # 7x7 A, seven 3x3 B of 64 channels, untrained
    python benchmarks/pixelcnn_sampling.py --model pixelcnn-mnist   # a registered model, with its weights if it has any

One thread. The arms take turns within each of the rounds, and medians are printed. Naive sampling makes one forward
pass a pixel; it is timed on evenly spaced pixels and scaled up to all of them, so its time is an estimate.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from zoo.families.pixelcnn import PixelCNN
from zoo.maths.decoding import Decoding
from zoo.nets.raster import FullPasses


def plain() -> PixelCNN:
    """The configuration that counts 282,496 weights with the masked ones, 166,208 without."""
    torch.manual_seed(0)
    return PixelCNN(shape=(1, 28, 28), levels=256, width=64, depth=7, first_kernel=7, kernel=3, head=64)


def named(name: str) -> PixelCNN:
    """Return a registered model, with its weights where there are any."""
    import zoo
    from zoo.errors import ConfigError
    from zoo.registry import load_registry

    model = zoo.load(name) if load_registry().resolve(name).pretrained else zoo.create(name)
    if not isinstance(model, PixelCNN):
        raise ConfigError(f"{name} is a {type(model).__name__}; this benchmark measures PixelCNN")
    return model


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def naive_seconds(model: PixelCNN, n: int, passes: int) -> float:
    """Time naive sampling of evenly spaced pixels, and scale it up to all pixels."""
    C, H, W = model.shape
    state, choose = FullPasses(model, n, model.shape, model.device), Decoding()
    u, total = torch.rand(n), 0.0
    for i in range(passes):
        pixel = i * H * W // passes
        state.r = pixel // W

        def one(column: int = pixel % W) -> None:
            state.put(column, 0, choose(state.logits(column, 0), u))

        total += seconds(one)
    return total / passes * C * H * W


@torch.inference_mode()
def measure(model: PixelCNN, n: int, rounds: int, passes: int) -> tuple[float, float, float]:
    """Return median seconds of cached sampling, of one forward pass over ``n`` images, and of naive sampling."""
    k = torch.randint(model.levels, (n, *model.shape))
    model(k), model.sample(n, seed=0)  # the first calls allocate
    cached, forward, naive = [], [], []
    for _ in range(rounds):
        cached.append(seconds(lambda: model.sample(n, seed=0)))
        forward.append(seconds(lambda: model(k)))
        naive.append(naive_seconds(model, n, passes))
    return statistics.median(cached), statistics.median(forward), statistics.median(naive)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="registered name; the plain 282,496-weight network if left out")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--passes", type=int, default=8, help="forward passes timed for naive sampling, at least 8")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = (named(args.model) if args.model else plain()).eval()
    passes = max(args.passes, 8)
    print(
        args.model or "plain 7x7 A, seven 3x3 B, 64 channels", f"{sum(p.numel() for p in model.parameters()):,} weights"
    )
    print(f"1 thread, medians of {args.rounds}; naive: {passes} evenly spaced passes timed, scaled to all pixels")
    columns = ("images", "cached s", "ms/image", "forward s", "cached/forward", "naive s (est.)", "naive/cached")
    print("".join(f"{column:>16}" for column in columns))
    for n in args.batches:
        cached, forward, naive = measure(model, n, args.rounds, passes)
        row = (f"{n}", f"{cached:.3f}", f"{cached / n * 1e3:.1f}", f"{forward:.4f}", f"{cached / forward:.2f}")
        row += (f"{naive:.1f}", f"{naive / cached:.0f}x")
        print("".join(f"{cell:>16}" for cell in row), flush=True)


if __name__ == "__main__":
    main()
