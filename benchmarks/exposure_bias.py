"""Compare what a model of text sees while it trains: true characters, its own draws as well, short pieces first.

    python benchmarks/exposure_bias.py                        # 0.5 TFLOP an arm: benchmarks/results/exposure_bias.md
    python benchmarks/exposure_bias.py --tflop 50 --width 128 --depth 4

A small Transformer over the characters of `shakespeare` is trained by each way at equal compute, which the first pass
of scheduled sampling is part of; seed, data and the order of batches are the same. Bits a character are those of the
test text, each character given the true ones before it. Exposure bias is what these do not show: after the first 32
characters of each test window the model goes on by itself, and a judge says how likely what it wrote is, from the first
quarter to the last. The judge is an interpolated 6-gram that was counted on the validation text, which no model was
trained on, and its bits of the true continuations stand beside: drift is what is added between the quarters.

    p(c | h) = (n(h c) + a p(c | h')) / (n(h) + a),   h' being h without its first character, a = 4
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.data.text import Shakespeare
from zoo.families.transformer import Transformer
from zoo.training.compute import flops_per_step

RESULTS = Path(__file__).resolve().parent / "results" / "exposure_bias.md"
PROMPT, QUARTERS = 32, 4


class NGram:
    """An interpolated model of characters.

    Args:
        text: integers below ``levels`` that it is counted on.
        levels: how many characters there are.
        order: characters that it looks at, the one that it predicts among them.
        a: how much the shorter history counts.
    """

    def __init__(self, text: Sequence[int], levels: int, order: int = 6, a: float = 4.0) -> None:
        self.levels, self.order, self.a = levels, order, a
        self.joint: Counter[tuple[int, ...]] = Counter()
        self.before: Counter[tuple[int, ...]] = Counter()
        text = tuple(text)
        for n in range(1, order + 1):
            for i in range(len(text) - n + 1):
                self.joint[text[i : i + n]] += 1
                self.before[text[i : i + n - 1]] += 1

    def probability(self, history: Sequence[int], c: int) -> float:
        """Return p(c | history), of which only the last ``order - 1`` characters count."""
        p, h = 1 / self.levels, tuple(history)[-(self.order - 1) :] if self.order > 1 else ()
        for n in range(len(h) + 1):  # from no history to the longest
            end = h[len(h) - n :]
            p = (self.joint[(*end, c)] + self.a * p) / (self.before[end] + self.a)
        return p

    def bits(self, rows: Tensor, first: int) -> Tensor:
        """Return the bits of each character from ``first`` on: int64 (N, T) -> (N, T - first)."""
        found = [
            [-math.log2(self.probability(row[max(0, t - self.order + 1) : t], row[t])) for t in range(first, len(row))]
            for row in rows.tolist()
        ]
        return torch.tensor(found, dtype=torch.float64)


def arms(steps: int, length: int) -> dict[str, dict[str, Any]]:
    """Return the ways to train, as options of the model; ``steps`` are those of teacher forcing.

    Scheduled sampling has three quarters of them, as a pass beside three costs a third more.
    """
    few = 0.75 * steps
    half = {"scheduled": "linear", "scheduled_k": max(1.0, 2 * few)}
    short = {"curriculum": length // 8, "curriculum_every": max(1, steps // 8)}
    shorter = {"curriculum": length // 8, "curriculum_every": max(1, int(few) // 8)}
    return {
        "teacher forcing": {},
        "scheduled, linear to 1/2": half,
        "scheduled, linear to 0": {"scheduled": "linear", "scheduled_k": max(1.0, few)},
        "scheduled, inverse sigmoid": {"scheduled": "inverse_sigmoid", "scheduled_k": max(1.0, few / 8)},
        "short pieces first": short,
        "short pieces first, scheduled to 1/2": {**shorter, **half},
    }


def build(args: argparse.Namespace, data: Shakespeare, **options: Any) -> Transformer:
    torch.manual_seed(0)
    size = {"width": args.width, "depth": args.depth, "heads": max(1, args.width // 32)}
    return Transformer([args.length], data.levels, tied=True, alphabet=data.alphabet, lr=args.lr, **size, **options)


def train(model: Transformer, data: Shakespeare, budget: float) -> int:
    """Train for so many operations, by Adam with a warm-up and half a cosine, and return the steps."""
    stream = iter(data.train_dataloader())
    x, labels = next(stream)
    flops, _ = flops_per_step(model, (data.to_float(x), labels))
    steps = max(1, int(budget / flops))
    optimizer = torch.optim.Adam(model.parameters(), model.lr, betas=(0.9, 0.99))
    warm = max(1, steps // 20)
    model.train().set_noise([torch.Generator().manual_seed(1)])
    for i in range(steps):
        model.steps_done = i
        for group in optimizer.param_groups:
            group["lr"] = model.lr * min((i + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * i / steps))
        optimizer.zero_grad()
        model.loss((data.to_float(x), labels))["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        x, labels = next(stream)
    model.eval()
    return steps


@torch.no_grad()
def measure(model: Transformer, data: Shakespeare, judge: NGram, windows: Tensor) -> tuple[float, list[float]]:
    """Return bits a test character, and the judge's bits of continuations of the windows, quarter by quarter."""
    test = data.to_float(data.split("test")[0])
    nats = torch.cat([model.log_prob(part) for part in test.split(100)]).double().mean()
    given = windows[:, :PROMPT].float() / (data.levels - 1)
    drawn = model.sample(len(windows), seed=0, given=given, length=windows.shape[1])
    bits = judge.bits(model.quantize(drawn), PROMPT)
    return float(-nats) / (test.shape[1] * math.log(2)), quarters(bits)


def quarters(bits: Tensor) -> list[float]:
    return [float(part.mean()) for part in bits.chunk(QUARTERS, 1)]


def row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(cell if isinstance(cell, str) else f"{cell:.3f}" for cell in cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tflop", type=float, default=0.5)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = Shakespeare(length=args.length, batch_size=args.batch)
    judge = NGram(data.split("validation")[0].flatten().tolist(), data.levels)
    test = data.split("test")[0].long().flatten()
    span = PROMPT + QUARTERS * 56
    windows = test[: len(test) // span * span].view(-1, span)
    windows = windows[torch.linspace(0, len(windows) - 1, args.windows).long()]
    x, labels = next(iter(data.train_dataloader()))
    plain, _ = flops_per_step(build(args, data), (data.to_float(x), labels))
    lines = [
        "# Exposure bias: what a model of text sees while it trains",
        "",
        f"Transformers of {args.depth} layers of width {args.width} on `shakespeare`, pieces of {args.length} "
        f"characters, batches of {args.batch}, {args.tflop:g} TFLOP each, one seed. Bits a character: of the test "
        f"text given the true characters before; of {args.windows} continuations by the model itself, as a 6-gram "
        f"counted on the validation text judges them, from the first quarter to the last; drift is last less first.",
        "",
        row(["trained by", "steps", "test", "quarter 1", "quarter 2", "quarter 3", "quarter 4", "drift"]),
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    true = quarters(judge.bits(windows, PROMPT))
    lines.append(row(["the true text", "-", "-", *true, true[-1] - true[0]]))
    for name, options in arms(int(args.tflop * 1e12 / plain), args.length).items():
        model = build(args, data, **options)
        steps = train(model, data, args.tflop * 1e12)
        bits, judged = measure(model, data, judge, windows)
        lines.append(row([name, str(steps), bits, *judged, judged[-1] - judged[0]]))
        print(lines[-1], flush=True)
        write(args, parser, lines)


def write(args: argparse.Namespace, parser: argparse.ArgumentParser, lines: Sequence[str]) -> None:
    """Write the table as far as it goes, and the command that makes it."""
    given = "".join(
        f" --{name} {getattr(args, name)}"
        for name in ("tflop", "width", "depth", "length", "batch", "lr", "windows")
        if getattr(args, name) != parser.get_default(name)
    )
    made = ["", f"Made by `python benchmarks/exposure_bias.py{given}`."]
    args.out.write_text("\n".join([*lines, *made]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
