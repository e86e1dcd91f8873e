"""Look into the clips of a model of tones: where their spectral peaks lie, and what a sample costs in bits.

    python benchmarks/tones.py                     # the bundled wavenet-tones
    python benchmarks/tones.py --run runs/...      # a run folder

The peak of a clip is the largest point of the spectrum of the whole clip under a Hann window, refined by a parabola
through its logarithm. It counts where it lies within 2 % of a training tone. For comparison: the test clips themselves,
clips of independent codes with the training histogram, and the share of 220..659 Hz, on a scale of pitch, that counts.
Bits are those of the test split; the histogram and the table of pairs are counted on the training split, plus one each.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import Tensor

import zoo
from zoo.data.audio import TONES, Tones
from zoo.maths.mulaw import mulaw_decode
from zoo.runs import load_run

NEAR = 0.02


def peaks(x: Tensor, rate: int) -> Tensor:
    """Return the frequency in Hz of the spectral peak of each clip (n, T) in [-1, 1]."""
    size = 8 * x.shape[1]
    x = x.double() - x.double().mean(1, keepdim=True)
    spectrum = torch.fft.rfft(x * torch.hann_window(x.shape[1], dtype=torch.float64), size).abs().clamp_min(1e-12).log()
    i = spectrum[:, 1:-1].argmax(1) + 1
    left, top, right = (spectrum.gather(1, (i + d)[:, None])[:, 0] for d in (-1, 0, 1))
    shift = 0.5 * (left - right) / (left - 2 * top + right).clamp_max(-1e-12)
    return (i + shift) * rate / size


def near(frequency: Tensor) -> Tensor:
    """Tell which frequencies lie within 2 % of a training tone."""
    tones = torch.tensor(TONES, dtype=torch.float64)
    return ((frequency[:, None] / tones - 1).abs() <= NEAR).any(1)


def coverage() -> float:
    """Return the share of the tones' range, on a logarithmic scale, that lies within 2 % of one of them."""
    f = torch.logspace(math.log10(TONES[0]), math.log10(TONES[-1]), 100_001, dtype=torch.float64)
    return near(f).double().mean().item()


def tables(train: Tensor, test: Tensor, levels: int) -> tuple[float, float]:
    """Return bits a sample of the test codes under the training histogram, and under its table of pairs."""
    single = torch.bincount(train.flatten(), minlength=levels).double() + 1
    pairs = torch.bincount((train[:, :-1] * levels + train[:, 1:]).flatten(), minlength=levels**2).double() + 1
    pairs = pairs.view(levels, levels)
    one = -(single / single.sum()).log2()[test].mean()
    two = -(pairs / pairs.sum(1, keepdim=True)).log2()[test[:, :-1], test[:, 1:]].mean()
    return one.item(), two.item()


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="wavenet-tones")
    parser.add_argument("--run", help="a run folder in the place of a model")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = load_run(args.run) if args.run else zoo.load(args.model)
    data = Tones(length=model.length, rate=model.rate)
    test, labels = data.split("test")
    x = model.sample(args.clips, seed=args.seed)
    found = peaks(mulaw_decode(x, model.levels), model.rate)
    good = near(found)
    print(f"{args.model}: {args.clips} clips of {model.length} samples at {model.rate} Hz, seed {args.seed}")
    print(f"spectral peak within 2 % of a training tone: {int(good.sum())} of {args.clips}, goal >= 80 %: "
          f"{'held' if good.double().mean() >= 0.8 else 'MISSED'}")  # fmt: skip
    counts = {f: int(((found / f - 1).abs() <= NEAR).sum()) for f in TONES}
    print("  " + ", ".join(f"{f:g} Hz {n}" for f, n in counts.items()))
    print("  elsewhere: " + (", ".join(f"{f:.0f}" for f in found[~good].tolist()) or "none"))
    own = near(peaks(mulaw_decode(data.to_float(test), model.levels), model.rate)).double().mean().item()
    train = data.split("train")[0].long()
    generator = torch.Generator().manual_seed(1)
    codes = train.flatten()[torch.randint(train.numel(), (1000, model.length), generator=generator)]
    noise = near(peaks(mulaw_decode(codes / (model.levels - 1), model.levels), model.rate)).double().mean().item()
    print(f"  the test clips themselves {100 * own:.1f} %, independent codes {100 * noise:.1f} %, "
          f"share of the tones' range {100 * coverage():.1f} %")  # fmt: skip
    given = {"labels": labels} if model.num_classes else {}
    nll = -torch.cat(
        [
            model.log_prob(data.to_float(part), **{k: v[i * 50 : i * 50 + 50] for k, v in given.items()})
            for i, part in enumerate(test.split(50))
        ]
    ).double() / (model.length * math.log(2))
    one, two = tables(train, test.long(), model.levels)
    print(f"bits a sample, {len(test)} test clips: model {nll.mean():.3f} +- {nll.std() / len(nll) ** 0.5:.3f}, "
          f"training histogram {one:.3f}, table of pairs {two:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
