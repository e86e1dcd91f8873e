"""What tokenizers keep of an image for how many bits: distortion and FID of reconstructions over rate, in one plot.

    python benchmarks/rate_distortion.py                                   # all bundled tokenizers
    python benchmarks/rate_distortion.py vq_vae-mnist rq_vae=runs/rq_vae   # names, and runs under a name
    python benchmarks/rate_distortion.py --strips strips.png --codes usage.json ...

Of a pair of an autoencoder and a prior the autoencoder is measured. Two rates are told, in bits an image: the capacity,
codes x log2 K, and the entropy of the codes, each position by itself over the test images (what a code without a model
of how they go together costs, an upper bound of what a prior can reach). Distortion is the mean squared error of the
test images in [0, 1]; FID that of all reconstructions against the test images themselves, by the digit classifier, as
`zoo evaluate` has it in ``fid_reconstructions``. Tokenizers whose codes go from coarse to fine are measured at each
stage. A tokenizer with continuous tokens is measured by its codes, and by its tokens as a line without a rate.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import zoo
from zoo.abilities import MapsCodes, Tokenises, autoencoder_of, in_batches, prior_of, reconstruct, refining
from zoo.diagnostics import codebook_usage, refinement
from zoo.diagnostics.figures import png, sheet_of
from zoo.evaluation.comparison import Reference, choose
from zoo.registry import load_registry
from zoo.results import SPLITS
from zoo.runs import load_run
from zoo.spec import class_of


def tokenizers(sources: dict[str, str]) -> dict[str, Any]:
    """Return the tokenizers of names and runs, taken out of the pairs with a prior that hold them."""
    found = {}
    for name, source in sources.items():
        model = load_run(source) if Path(source).is_dir() else zoo.load(source)
        found[name] = model if prior_of(model) is None else autoencoder_of(model)
        if not isinstance(found[name], Tokenises):
            raise SystemExit(f"{name} is a {type(model).__name__}, which has no discrete codes to measure")
    return found


def entropy_bits(codes: Tensor, K: int) -> float:
    """Return the sum over positions of the entropies of codes, each by itself, int64 (N, *grid), in bits."""
    counts = torch.stack([torch.bincount(c, minlength=K) for c in codes.flatten(1).T]).double()
    p = counts / len(codes)
    return float(-torch.special.xlogy(p, p).sum()) / math.log(2)


def rows(name: str, model: Any, x: Tensor, reference: Reference) -> list[dict[str, Any]]:
    """Return a row for each stage of a tokenizer, and one for its continuous tokens where it has them."""
    codes = in_batches(model, model.codes, x)
    K, found = model.codebook_size, []

    def row(shown: Tensor, kept: Tensor | None, what: str) -> None:
        error = float((shown.double() - x.double()).square().mean())
        bits = None if kept is None else kept.shape[1] * math.log2(K)
        found.append(
            {
                "tokenizer": name, "what": what, "bits": bits,
                "entropy": None if kept is None else entropy_bits(kept, K), "mse": error,
                "psnr": -10 * math.log10(error), "fid": reference.distance(shown)[1][0],
            }
        )  # fmt: skip

    if refining(model) is None:
        row(in_batches(model, model.decode, codes), codes.flatten(1), "codes")
    else:
        of, images = model.code_stages(), refinement(model, x).images
        for k in range(images.shape[1]):
            row(images[:, k], codes[:, of <= k], f"stage {k + 1} of {images.shape[1]}")
    if isinstance(model, MapsCodes):
        row(reconstruct(model, x), None, "tokens")
    return found


def table(found: list[dict[str, Any]], examples: int, floor: float, split: str = "test") -> str:
    """Return the table as Markdown, the fewest bits first, and below what it was measured on."""
    lines = [
        "| tokenizer | | bits | entropy, bits | MSE | PSNR, dB | FID of reconstructions |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for r in sorted(found, key=lambda r: (r["bits"] is None, r["bits"] or 0, r["tokenizer"])):
        rate = "- | -" if r["bits"] is None else f"{r['bits']:.0f} | {r['entropy']:.1f}"
        lines.append(f"| {r['tokenizer']} | {r['what']} | {rate} | {r['mse']:.5f} | {r['psnr']:.2f} | {r['fid']:.2f} |")
    lines += [
        "",
        f"{examples:,} {split} images, distances against all of them; floor of as many training images: "
        f"FID {floor:.2f}.",
    ]
    return "\n".join(lines) + "\n"


def plot(found: list[dict[str, Any]], path: Path) -> None:
    """Draw distortion and FID over bits an image; lines join the stages of a tokenizer."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    names = sorted({r["tokenizer"] for r in found})
    for i, (key, title) in enumerate((("mse", "mean squared error"), ("fid", "FID of reconstructions"))):
        axes = figure.add_subplot(1, 2, i + 1)
        for n, name in enumerate(names):
            mine = [r for r in found if r["tokenizer"] == name]
            coded = sorted((r for r in mine if r["bits"]), key=lambda r: r["bits"])
            style = {"color": f"C{n % 10}", "marker": "osD^v<>P*X"[n % 10]}
            axes.plot([r["bits"] for r in coded], [r[key] for r in coded], label=name, **style)
            entropies = [r["entropy"] for r in coded]
            axes.plot(entropies, [r[key] for r in coded], linestyle="", markerfacecolor="white", **style)
            for r in mine:
                if r["bits"] is None:
                    axes.axhline(r[key], color=style["color"], linestyle=":", linewidth=1)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("bits an image (open: entropy, position by position)")
        axes.set_ylabel(title)
        axes.grid(alpha=0.3, which="both")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside right upper")
    figure.savefig(path, dpi=110)


def strips(models: dict[str, Any], x: Tensor, path: Path) -> None:
    """Draw test images, and below what each tokenizer keeps of them, one row each, in the order of the names."""
    shown = [x, *(reconstruct(m, x) for m in models.values())]
    path.write_bytes(png(sheet_of(torch.cat(shown), columns=len(x), width=60 * len(x))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="names, or name=run folder; all bundled tokenizers if left out")
    parser.add_argument("--examples", type=int, default=10_000, help="images of the split, the first ones")
    parser.add_argument("--split", choices=SPLITS, default="test", help="whose images (default test)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--strips", type=Path, help="where a picture of test images and their reconstructions goes")
    parser.add_argument("--codes", type=Path, help="where the use of the codes goes, as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)

    registry = load_registry()
    entries = registry.find(family="vae", dataset="mnist", pretrained=True)
    bundled = [e.name for e in entries if hasattr(class_of(e.model["class_path"]), "codes")]
    models = tokenizers(dict((m.partition("=")[0], m.partition("=")[2] or m) for m in args.models or bundled))
    data = registry.resolve("vae-mnist").build_data()
    extractor = choose(None, data)
    assert extractor is not None
    reference = Reference(data, extractor, split=args.split)
    x = data.to_float(data.split(args.split)[0][: args.examples], torch.float32)
    found = []
    for name, model in models.items():
        found += rows(name, model.eval(), x, reference)
        print({k: v for k, v in found[-1].items() if k != "what"}, flush=True)
    text = table(found, len(x), reference.floor(len(x))["fid"][0], args.split)
    args.out.mkdir(parents=True, exist_ok=True)
    stem = "rate_distortion" if args.split == "test" else f"rate_distortion-{args.split}"
    (args.out / f"{stem}.md").write_text(text, encoding="utf-8")
    plot(found, args.out / f"{stem}.png")
    if args.strips:
        strips(models, x[:16], args.strips)
    if args.codes:
        usage = {name: codebook_usage(model, x).summary() for name, model in models.items()}
        args.codes.write_text(json.dumps(usage, indent=1) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
