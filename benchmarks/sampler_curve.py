"""What samplers make of models that are drawn in steps, over the number of network calls: FID, one table and one plot.

Beside diffusion models stand those that fill in what is masked or go from coarse to fine, MaskGIT, MAR and FlowAR; what
they call an order or a solver is in the column of samplers.

    python benchmarks/sampler_curve.py                    # all bundled models
    python benchmarks/sampler_curve.py maskgit-mnist=runs/maskgit-mnist mar-mnist=runs/mar-mnist ddpm-mnist
    python benchmarks/sampler_curve.py ddpm-mnist edm=runs/edm-mnist/...   # a run under a name
    python benchmarks/sampler_curve.py --table            # from the samples that are there, drawing none
    python benchmarks/sampler_curve.py --split validation # against validation images, to choose by

FID is that of 2,000 samples, by the digit classifier, against all images of the split: it is higher than that of 10,000
by the bias of the estimate, which the floor shows (2,000 training images in the place of samples), and does not compare
with the tables of 10,000. Guidance 1 is the plain model, other scales are the model's own and cost two calls a step.
All samplers of a model start from the same noise. Samples are kept in ``--work`` chunk by chunk, so that an interrupted
run goes on, and everything in table and plot is made from them. The chain of 1,000 steps is drawn 500 times only: it
stands beside other samplers at 500.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import zoo
from zoo.evaluation.chunks import sample_chunks
from zoo.evaluation.comparison import Reference, choose
from zoo.registry import load_registry
from zoo.results import SPLITS
from zoo.runs import load_run

SAMPLES, FEW, CHUNK, SEED = 2_000, 500, 250, 0
PLAIN = 1.0
CURVES: dict[str, list[tuple[str, int, int, float | None]]] = {
    "ddpm": [
        *(("ddim", n, SAMPLES, PLAIN) for n in (5, 10, 20, 50)),
        *(("dpm_solver", n, SAMPLES, PLAIN) for n in (5, 10, 20)),
        *(("heun", n, SAMPLES, PLAIN) for n in (5, 10)),
        ("ode", 5, SAMPLES, PLAIN), ("ancestral", 50, SAMPLES, PLAIN),
        ("dpm_solver", 10, SAMPLES, None), ("ddim", 25, SAMPLES, None), ("ancestral", 40, SAMPLES, None),
        ("ancestral", 1000, FEW, PLAIN),
    ],
    "score_sde": [
        ("ddim", 10, SAMPLES, PLAIN), ("dpm_solver", 10, SAMPLES, PLAIN), ("euler_maruyama", 50, SAMPLES, PLAIN),
        ("predictor_corrector", 25, SAMPLES, PLAIN), ("dpm_solver", 10, SAMPLES, None), ("ddim", 25, SAMPLES, None),
    ],
    "edm": [
        ("ddim", 2, SAMPLES, PLAIN), ("ddim", 10, SAMPLES, None), ("heun", 5, SAMPLES, None),
        ("dpm_solver", 10, SAMPLES, None),
    ],
    "consistency": [("consistency", n, SAMPLES, None) for n in (1, 2, 4)],
    "latent_diffusion": [
        *(("ddim", n, SAMPLES, PLAIN) for n in (10, 50)), *(("dpm_solver", n, SAMPLES, PLAIN) for n in (10, 20)),
        ("dpm_solver", 10, SAMPLES, None),
    ],
    "dit": [*(("ddim", n, SAMPLES, None) for n in (10, 25)), ("dpm_solver", 10, SAMPLES, None)],
    "maskgit": [
        *(("halton", n, SAMPLES, None) for n in (1, 2, 4, 8, 16, 49)),
        *((order, n, SAMPLES, None) for order in ("confidence", "random") for n in (8, 16)),
    ],
    "maskgit_cond": [*(("halton", n, SAMPLES, PLAIN) for n in (4, 8, 16)), ("halton", 8, SAMPLES, 2.0)],
    "mar": [("random", n, SAMPLES, None) for n in (4, 8, 16, 49)],
    "flowar": [("euler", n, SAMPLES, None) for n in (2, 5, 10, 25)],
    "ddpm_cond": [("ddim", 25, SAMPLES, None), ("dpm_solver", 10, SAMPLES, None)],
}  # fmt: skip
"""Model -> sampler, steps, samples, and the scale of guidance, None for the model's own."""

CALLED = {"maskgit": "order", "maskgit_cond": "order", "mar": "order", "flowar": "solver"}
"""What a model calls that option which is ``sampler`` elsewhere."""


def drawn(
    model: Any, name: str, options: dict[str, Any], n: int, work: Path, draw: bool
) -> tuple[Tensor, float] | None:
    """Return samples as levels, uint8, and the seconds of one; None where they are not there and not to be drawn."""
    parts, seconds = [], 0.0
    for chunk in sample_chunks(SEED, n, CHUNK):
        path = work / f"{name}-{'-'.join(map(str, options.values()))}-{chunk.start}.safetensors"
        if not path.is_file():
            if not draw:
                return None
            begin = time.process_time()
            x = model.sample(chunk.stop - chunk.start, seed=chunk.seed, **options)
            used = torch.tensor([time.process_time() - begin], dtype=torch.float64)
            work.mkdir(parents=True, exist_ok=True)
            save_file({"x": (x * 255).round().to(torch.uint8), "seconds": used}, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)
        content = load_file(path)
        parts.append(content["x"])
        seconds += float(content["seconds"])
    return torch.cat(parts), seconds / n


def rows(models: dict[str, str], work: Path, draw: bool, reference: Reference) -> list[dict[str, Any]]:
    """Return one row a model, sampler and number of steps."""
    found = []
    for name, source in models.items():
        model = load_run(source) if Path(source).is_dir() else zoo.load(source)
        for sampler, steps, n, scale in CURVES[name.partition("-")[0]]:
            called = CALLED.get(name.partition("-")[0], "sampler")
            options = {called: sampler, "steps": steps, **({"guidance_scale": scale} if scale else {})}
            answer = drawn(model, name, options, n, work, draw)
            if answer is None:
                continue
            x, each = answer
            guided = float(scale or getattr(model, "guidance_scale", None) or model.prior.guidance_scale)
            row = {"model": name, "sampler": sampler, "guidance": guided, "calls": round(model.calls(options))}
            row |= {"samples": n, "fid": reference.distance(x.float() / 255)[1][0], "milliseconds": 1000 * each}
            found.append(row)
            print({**row, "fid": round(row["fid"], 3)}, flush=True)
            if name.startswith("ddpm-") and n == SAMPLES and row["calls"] in (20, 50) and guided == 1:
                few = reference.distance(x[:FEW].float() / 255)[1][0]
                found.append({**row, "samples": FEW, "fid": few})
    return found


def table(found: list[dict[str, Any]], floors: dict[int, float]) -> str:
    """Return the table as Markdown."""
    lines = ["| model | sampler | guidance | calls | samples | FID | CPU ms a sample |"]
    lines += ["|---|---|---:|---:|---:|---:|---:|"]
    for r in sorted(found, key=lambda r: (-r["samples"], r["model"], r["sampler"], r["guidance"], r["calls"])):
        numbers = f"{r['calls']} | {r['samples']:,} | {r['fid']:.2f} | {r['milliseconds']:.1f}"
        lines.append(f"| {r['model']} | {r['sampler']} | {r['guidance']:g} | {numbers} |")
    lines += [f"| training images (floor) | | | | {n:,} | {value:.2f} | |" for n, value in floors.items()]
    return "\n".join(lines) + "\n"


def plot(found: list[dict[str, Any]], floor: float, path: Path) -> None:
    """Draw FID over calls, both on logarithmic scales, for the rows of 2,000 samples."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 5), layout="constrained")
    axes = figure.add_subplot()

    def curve(r: dict[str, Any]) -> tuple[str, str, bool]:
        return r["model"], r["sampler"], r["guidance"] != 1

    models, samplers = (sorted({r[key] for r in found}) for key in ("model", "sampler"))
    for model, sampler, guided in sorted({curve(r) for r in found}):
        mine = [r for r in found if curve(r) == (model, sampler, guided) and r["samples"] == SAMPLES]
        mine.sort(key=lambda r: r["calls"])
        if mine:
            style = {"color": f"C{models.index(model)}", "marker": "osD^vP*X<>hpd8"[samplers.index(sampler)]}
            style |= {} if guided else {"markerfacecolor": "white"}
            label = f"{model}, {sampler}{', guided' if guided else ''}"
            axes.plot([r["calls"] for r in mine], [r["fid"] for r in mine], label=label, **style)
    axes.axhline(floor, color="grey", linestyle="--", label="2,000 training images")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("network calls a sample")
    axes.set_ylabel("FID of 2,000 samples, digit classifier")
    figure.legend(fontsize=7, loc="outside right upper")
    axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="names, or name=run folder; all bundled diffusion models if left out")
    parser.add_argument("--work", type=Path, default=Path("runs/sampler_curve"), help="where samples are kept")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--table", action="store_true", help="draw nothing")
    parser.add_argument("--split", choices=SPLITS, default="test", help="against whose images (default test)")
    args = parser.parse_args()
    torch.set_num_threads(1)

    registry = load_registry()
    bundled = [e.name for e in registry.find(pretrained=True) if e.model_name in CURVES and e.dataset == "mnist"]
    models = dict((m.partition("=")[0], m.partition("=")[2] or m) for m in args.models or bundled)
    data = registry.resolve("vae-mnist").build_data()
    extractor = choose(None, data)
    assert extractor is not None
    reference = Reference(data, extractor, split=args.split)
    stem = "sampler_curve" if args.split == "test" else f"sampler_curve-{args.split}"
    found = rows(models, args.work, not args.table, reference)
    floors = {n: reference.floor(n)["fid"][0] for n in (SAMPLES, FEW)}
    (args.out / f"{stem}.md").write_text(table(found, floors), encoding="utf-8")
    plot(found, floors[SAMPLES], args.out / f"{stem}.png")
    print(table(found, floors))


if __name__ == "__main__":
    main()
