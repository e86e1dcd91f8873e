"""Measure cached sampling of sequences: against naive sampling, and against what the machine could do at best.

    python benchmarks/sequence_sampling.py                 # everything, about four minutes
    python benchmarks/sequence_sampling.py --only wavenet  # or d128, d512, compiled

One thread, untrained weights (the work does not depend on them). The naive arm makes one forward pass a value, over all
values so far (for WaveNet over the last 3,070, its receptive field, when so many stand); it is timed on evenly spaced
values and scaled up to all of them, so its time is an estimate. Both arms choose the next value with the same code.

Times are CPU times of the thread, so that they hold on a machine that others use, too; the arms take turns, and of
each value the least time of all rounds is taken.

The floor of an arm is the larger of two times: its multiply-adds at the speed of a large product of matrices, and the
bytes that a value must read (weights once a batch, keys and values or rings once a sequence) at the speed of reading
the same number of bytes over and over. Both speeds are measured in the same run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from timing import header
from torch import Tensor

from zoo.families.sequence import SequenceModel
from zoo.families.transformer import Transformer
from zoo.families.wavenet import WaveNet
from zoo.maths.decoding import Decoding
from zoo.nets.decoding_states import FullPasses

CHOOSE = Decoding()


def seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def product_speed(rounds: int = 5) -> float:
    """Return multiply-adds a second of a product of matrices 1024 x 1024."""
    a = torch.randn(1024, 1024)
    a @ a
    return 1024**3 / min(seconds(lambda: a @ a) for _ in range(rounds))


def read_speed(size: int) -> float:
    """Return bytes a second of reading ``size`` bytes, again and again."""
    x = torch.ones(max(1, size // 4))
    repeats = max(3, int(2e8 / size))
    x.sum()
    return size / min(seconds(lambda: x.sum()) for _ in range(repeats))


def cached(model: SequenceModel, n: int, T: int) -> Tensor:
    """Return the seconds that each of T values took."""
    noise = torch.rand(T, n, generator=torch.Generator().manual_seed(0))
    state, times = model.start(n), []
    for u in noise.unbind():
        start = time.process_time()
        state.put(CHOOSE(state.logits(), u))
        times.append(time.process_time() - start)
    return torch.tensor(times, dtype=torch.float64)


def naive_step(model: SequenceModel, k: Tensor, t: int, u: Tensor) -> Callable[[], object]:
    """Return the drawing of the value at t by a full pass, after the values k (T, n)."""
    state = FullPasses(model.predict, k.shape[1], None, k.device)
    state.put(k[:t].T)
    return lambda: CHOOSE(state.logits(), u)


def naive(model: SequenceModel, k: Tensor, passes: int) -> Tensor:
    """Return the seconds of values drawn naively, at evenly spaced places."""
    T, n = k.shape
    places = [(2 * i + 1) * T // (2 * passes) for i in range(passes)]
    times = [seconds(naive_step(model, k, t, torch.rand(n))) for t in places]
    return torch.tensor(times, dtype=torch.float64)


def agreement(model: SequenceModel, n: int, T: int, first: int) -> tuple[float, int, int]:
    """Draw T values both ways after ``first`` drawn ones; return the largest difference of logits, values that differ,
    and values compared."""
    noise = torch.rand(first + T, n, generator=torch.Generator().manual_seed(1))
    fast, slow = model.start(n), FullPasses(model.predict, n, None, noise.device)
    worst, different = 0.0, 0
    for t in range(first + T):
        a = fast.logits()
        if t >= first:
            b = slow.logits()
            worst = max(worst, (a - b).abs().max().item())
            different += int((CHOOSE(a, noise[t]) != CHOOSE(b, noise[t])).sum())
        value = CHOOSE(a, noise[t])
        fast.put(value)
        slow.put(value)
    return worst, different, T * n


def wavenet_cost(model: WaveNet, n: int) -> tuple[float, float]:
    """Return multiply-adds and bytes of one value of n sequences."""
    layers = model.layers
    weights = sum(p.numel() for name, p in model.named_parameters() if "embedding" not in name)
    products = layers.taps.numel() + layers.residual.numel() + sum(
        m.weight.numel() for m in (model.skip, model.hidden, model.out)
    )  # fmt: skip
    ring = 2 * len(layers.dilations) * layers.residual.shape[1]  # one past input read, one written, a layer
    return n * products, 4 * (weights + n * ring)


def transformer_cost(model: Transformer, n: int) -> tuple[float, float]:
    """Return multiply-adds and bytes of one value of n sequences, on average over all positions."""
    d, T = model.norm.normalized_shape[0], model.length
    products = sum(p.numel() for block in model.blocks for p in block.parameters() if p.ndim == 2) + d * model.levels
    context = len(model.blocks) * 2 * d * T / 2  # keys and values of the positions so far
    return n * (products + context), 4 * (products + n * context)


def measure(
    name: str,
    model: SequenceModel,
    n: int,
    cost: tuple[float, float],
    rounds: int,
    passes: int,
    goal: float,
    length: int,
) -> None:
    k = torch.randint(model.levels, (model.length, n), generator=torch.Generator().manual_seed(2))
    cached(model, n, 8)
    fast, slow = [], []
    for _ in range(rounds):
        fast.append(cached(model, n, length))
        slow.append(naive(model, k, passes))
    own, full = (torch.stack(arm).amin(0).mean().item() for arm in (fast, slow))
    speed, rate = product_speed(), read_speed(int(cost[1]))
    arithmetic, bandwidth = cost[0] / speed, cost[1] / rate
    floor = max(arithmetic, bandwidth)
    row = (
        name, f"{n}", f"{1e6 * own:.0f}", f"{n / own:.0f}", f"{1e3 * full:.1f}", f"{full / own:.0f}x",
        f">= {goal:.0f}x {'held' if full / own >= goal else 'MISSED'}",
        f"{1e6 * floor:.0f} {'arithmetic' if arithmetic > bandwidth else 'bandwidth'}", f"{own / floor:.1f}x",
    )  # fmt: skip
    print("".join(f"{cell:>{w}}" for cell, w in zip(row, WIDTHS, strict=True)), flush=True)


COLUMNS = ("model", "batch", "cached us", "values/s", "naive ms", "ratio", "goal", "floor us", "cached/floor")
WIDTHS = (24, 6, 11, 10, 10, 8, 16, 18, 14)


def check(name: str, model: SequenceModel, n: int, T: int, first: int) -> None:
    worst, different, compared = agreement(model, n, T, first)
    good = worst <= 1e-5 and different == 0
    print(
        f"{name}, batch {n}: logits differ by {worst:.1e} at most, {different} of {compared} drawn values differ "
        f"(values {first}..{first + T - 1}): {'held' if good else 'MISSED'}",
        flush=True,
    )


def wavenet() -> WaveNet:
    torch.manual_seed(0)
    model = WaveNet(shape=(16000,), levels=256, width=32, skip=64, stacks=3, depth=10).eval()
    torch.nn.init.normal_(model.out.weight, std=0.2)  # zeros would draw the same values whatever came before
    return model


def transformer(width: int, depth: int, heads: int, T: int) -> Transformer:
    torch.manual_seed(0)
    return Transformer(shape=(T,), levels=256, width=width, depth=depth, heads=heads).eval()


def measure_compiled(rounds: int, length: int = 16000) -> None:
    """Compare the compiled loop with the torch cache at batch 1: speed, and the same samples."""
    model = wavenet()
    torch_k = model.sample(1, seed=0, length=4000)
    k = model.sample(1, seed=0, length=4000, compiled=True)
    slow, fast = [], []
    for _ in range(rounds):
        slow.append(cached(model, 1, 1000))
        fast.append(seconds(lambda: model.sample(1, seed=1, length=length, compiled=True)) / length)
    own, eager = min(fast), torch.stack(slow).amin(0).mean().item()
    cost = wavenet_cost(model, 1)
    floor = max(cost[0] / product_speed(), cost[1] / read_speed(int(cost[1])))
    print(
        f"compiled loop, batch 1: {1 / own:,.0f} samples a second ({1e6 * own:.1f} us each), torch cache "
        f"{1 / eager:,.0f}: {eager / own:.1f}x, {own / floor:.1f}x the floor of {1e6 * floor:.1f} us; "
        f"goal >= 16,000 a second or >= 10x: "
        f"{'held' if 1 / own >= 16_000 or eager / own >= 10 else 'MISSED'}"
    )
    state = model.start(1)
    state.put(model.quantize(torch_k[:, :3999]))
    _, last = model.generate(torch.zeros(4000, 1), model.quantize(torch_k), torch.ones(1, 4000, dtype=torch.bool))
    print(
        f"compiled loop: {int((k != torch_k).sum())} of 4000 samples differ, logits after 3,999 by "
        f"{(last - state.logits()).abs().max():.1e}"
    )


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("wavenet", "d128", "d512", "compiled"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--passes", type=int, default=8, help="passes timed a round for naive sampling, at least 8")
    args = parser.parse_args()
    torch.set_num_threads(1)
    passes = max(args.passes, 8)
    print(header(1))
    print(f"CPU times, least of {args.rounds} rounds; naive: {passes} evenly spaced passes timed, scaled to all values")
    print("".join(f"{c:>{w}}" for c, w in zip(COLUMNS, WIDTHS, strict=True)), flush=True)
    common = (args.rounds, passes)
    if args.only in (None, "wavenet"):
        model = wavenet()
        for n, goal in ((1, 90), (16, 800)):
            measure("WaveNet 3x10, RF 3,070", model, n, wavenet_cost(model, n), *common, goal, LENGTH)
    if args.only in (None, "d128"):
        small = transformer(128, 4, 4, 784)
        for n, goal in ((1, 12), (16, 50)):
            measure("Transformer d128 L4 T784", small, n, transformer_cost(small, n), *common, goal, 784)
    if args.only in (None, "d512"):
        large = transformer(512, 6, 8, 1024)
        measure("Transformer d512 L6 T1024", large, 1, transformer_cost(large, 1), *common, 25, 1024)
    if args.only in (None, "wavenet"):
        check("WaveNet", model, 1, 24, 3100)
        check("WaveNet", model, 16, 6, 40)
    if args.only in (None, "d128"):
        check("Transformer d128", small, 1, 200, 0)
        check("Transformer d128", small, 16, 4, 700)
    if args.only in (None, "d512"):
        check("Transformer d512", large, 1, 8, 1000)
    if args.only in (None, "compiled"):
        measure_compiled(args.rounds)


LENGTH = 2000
"""Samples that WaveNet draws a round, at a cost that does not depend on where; naive passes lie within 16,000."""

if __name__ == "__main__":
    main()
