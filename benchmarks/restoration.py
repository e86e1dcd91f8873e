"""Restoration of test digits by trained models, against what is seen alone: a table and one picture.

    python benchmarks/restoration.py                      # results/restoration.md, ../docs/restoration.png

32 test digits are measured with noise of 0.02: the upper half, means of squares of 4 x 4 pixels, a blur of 2 pixels. Of
each, two are drawn. RMSE is that of one draw and of the mean of both; the misfit is the root mean square of A x - y,
which is the noise where a draw meets what was measured; accuracy is how often the zoo's classifier of digits sees the
digit that it was. What is seen alone is the measurement itself: the unseen half black, squares, the blurred picture.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

import zoo
from zoo.images import save_png
from zoo.metrics.extractors import Digits
from zoo.registry import load_registry
from zoo.restoration import measured, operator_of
from zoo.results import SPLITS
from zoo.spec import build

DIGITS, DRAWS, NOISE, SHOWN = 32, 2, 0.02, 8
HOW = {
    "inpaint": {"mask": torch.arange(28)[:, None].expand(28, 28) < 14},
    "downsample": {"factor": 4},
    "blur": {"width": 2.0},
}
MODELS = ("ddpm-mnist", "score_sde-mnist", "flow_matching-mnist")


def alone(kind: str, y: Tensor) -> Tensor:
    """Return what is seen as a picture of full size."""
    return F.interpolate(y, scale_factor=4) if kind == "downsample" else y


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "restoration.md")
    parser.add_argument("--picture", type=Path, default=Path(__file__).parent.parent / "docs" / "restoration.png")
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="test",
        help="whose digits (default test); others need --results and --picture of their own",
    )
    args = parser.parse_args()
    if args.split != "test" and parser.get_default("results") == args.results:
        parser.error("the table that ships is of test digits; give --results and --picture")
    data = build(load_registry().data_spec("mnist"))
    x, labels = (part[:DIGITS] for part in data.split(args.split))
    x, classifier = x.float() / 255, Digits()
    rows = ["| measurement | model | RMSE | RMSE of the mean | misfit | accuracy |", "|---|---|---:|---:|---:|---:|"]
    shown = [x[:SHOWN]]

    def tell(kind: str, name: str, draws: Tensor, misfit: str) -> None:  # (k, B, 1, 28, 28)
        error = (draws - x).square().mean().sqrt()
        mean = (draws.mean(0) - x).square().mean().sqrt()
        right = (classifier(draws.flatten(0, 1))["logits"].argmax(1) == labels.repeat(len(draws))).float().mean()
        rows.append(f"| {kind} | {name} | {error:.3f} | {mean:.3f} | {misfit} | {right:.3f} |")
        print(rows[-1], flush=True)

    for kind, how in HOW.items():
        operator = operator_of(kind, (1, 28, 28), **how)
        y = measured(operator, x, NOISE)
        tell(kind, "what is seen alone", alone(kind, y)[None].clamp(0, 1), "")
        shown.append(alone(kind, y)[:SHOWN])
        for name in MODELS:
            model = zoo.load(name)
            draws = torch.stack(
                [zoo.restore(model, y, kind, n=DIGITS, noise=NOISE, seed=seed, **how) for seed in range(DRAWS)]
            )
            tell(
                kind,
                name,
                draws,
                f"{(operator(draws.flatten(0, 1)) - y.repeat(DRAWS, 1, 1, 1)).square().mean().sqrt():.4f}",
            )
            if name == "ddpm-mnist":
                shown.append(draws[0][:SHOWN])
    save_png(torch.cat(shown), args.picture, columns=SHOWN, scale=2)
    head = f"{DIGITS} {args.split} digits, {DRAWS} draws each, noise {NOISE}, 50 steps: "
    head += "`python benchmarks/restoration.py`\n\n"
    args.results.write_text(head + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
