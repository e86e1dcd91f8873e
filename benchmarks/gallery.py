"""One strip of what bundled models draw for each family, in grey and in colour, seed 0, not chosen: docs/gallery.png.

    python benchmarks/gallery.py

Pictures are those of the bundled ``samples.png``; points in the plane are drawn anew, as they have no such sheet.
In each family the model with the best distance of its data set is shown.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import zoo
from zoo import results
from zoo.bundled import pretrained_folder
from zoo.documentation.families import family_strip
from zoo.documentation.models import FAMILIES
from zoo.registry import Entry, load_registry

ACROSS, SCALE, MOST = 20, 2, 400_000
OUT = Path(__file__).resolve().parent.parent / "docs" / "gallery.png"
MEASURES = {
    "mnist": ("fid", 0, "FID {:.2f}"), "tiles": ("kid", 0, "KID {:.3f} (lite0)"),
    "eight_gaussians": ("density", 1, "density {:.3f}, 1 is right"),
}  # fmt: skip
"""What models are chosen by, its best value, and how it is shown."""


def best(family: str, dataset: str) -> tuple[Entry, str] | None:
    """Return the bundled model of a family that is best on a data set, and its title; None without one."""
    metric, right, show = MEASURES[dataset]
    found = []
    for entry in load_registry().find(pretrained=True, family=family, dataset=dataset):
        if (pretrained_folder(entry.name) / results.FILE).is_file():
            metrics = results.read(pretrained_folder(entry.name)).metrics
            if metric in metrics:
                found.append((metrics[metric].value, entry))
    if not found:
        return None
    value, entry = min(found, key=lambda pair: abs(pair[0] - right))
    return entry, f"{entry.name}: {show.format(value)}"


def points(entry: Entry, width: int) -> Image.Image:
    """Return samples in the plane of a model and of its data, as a strip of panels with more and more points."""
    model, counts = zoo.load(entry.name), (50, 200, 1_000, 4_000)
    x = model.sample(counts[-1], seed=0).cpu().numpy()
    real = entry.build_data().to_float(entry.build_data().split("test")[0]).numpy()
    reach = 1.25 * float(abs(real).max())
    figure = Figure(figsize=(width / 100, width / 100 / 5), dpi=100, layout="constrained")
    for axes, shown in zip(figure.subplots(1, 5), [*(x[:n] for n in counts), real], strict=True):
        axes.scatter(*shown.T, s=0.6, color="#335c9c" if shown is not real else "#808080")
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect=1)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return Image.open(stream).convert("RGB")


def strips() -> list[tuple[str, Image.Image]]:
    """Return title and strip of each family, grey before colour."""
    found = []
    width = ACROSS * (28 + 1) * SCALE + SCALE
    for family, title in FAMILIES.items():
        own = [b for dataset in ("mnist", "tiles") if (b := best(family, dataset)) is not None]
        pictures = [(about, strip) for e, about in own if (strip := family_strip(e, ACROSS, SCALE)) is not None]
        if not pictures and (plane := best(family, "eight_gaussians")) is not None:
            pictures = [(plane[1], points(plane[0], width))]
        for i, (about, strip) in enumerate(pictures):
            height = strip.height * width // strip.width
            strip = strip.resize((width, height), Image.Resampling.NEAREST)
            found.append((f"{title}    {about}" if not i else about, strip))
    return found


def main() -> None:
    shown = strips()
    figure = Figure(figsize=(10, sum(s.height / s.width * 10 + 0.24 for _, s in shown)), layout="constrained")
    heights = [s.height for _, s in shown]
    for axes, (title, strip) in zip(
        np.atleast_1d(figure.subplots(len(shown), 1, height_ratios=heights)), shown, strict=True
    ):
        axes.imshow(np.asarray(strip), interpolation="nearest")
        axes.set_title(title, fontsize=9, loc="left")
        axes.axis("off")
    figure.savefig(OUT, dpi=100)
    for colours in (256, 128, 64, 32):
        Image.open(OUT).convert("RGB").quantize(colours, Image.Quantize.MAXCOVERAGE).save(OUT, optimize=True)
        if OUT.stat().st_size <= MOST:
            break
    print(OUT, OUT.stat().st_size)


if __name__ == "__main__":
    main()
