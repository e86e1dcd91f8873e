"""One picture of what bundled image models draw, seed 0, not chosen: docs/gallery.png.

    python benchmarks/gallery.py

It shows the upper half of each bundled ``samples.png``, so it draws nothing itself.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from zoo import results
from zoo.registry import load_registry, pretrained_folder

ACROSS = 4
OUT = Path(__file__).resolve().parent.parent / "docs" / "gallery.png"


def best_first(dataset: str, distance: str) -> dict[str, str]:
    """Return name -> title of the bundled models of a data set that draw, by their distance."""
    names = [e.name for e in load_registry().find(pretrained=True, dataset=dataset)]
    metrics = {name: results.read(pretrained_folder(name)).metrics for name in names}
    values = {name: own[distance].value for name, own in metrics.items() if distance in own}
    show = "{}, FID {:.2f}" if distance == "fid" else "{}, KID {:.3f} (lite0)"
    title = {name: show.format(name.removesuffix("-mnist"), value) for name, value in values.items()}
    return {name: title[name] for name in sorted(values, key=values.__getitem__)}


def main() -> None:
    titles = best_first("mnist", "fid") | best_first("tiles", "kid")
    chosen = list(titles)
    down = -(-len(chosen) // ACROSS)
    figure = Figure(figsize=(11, 1.62 * down), layout="constrained")
    for axes, name in zip(
        figure.subplots(down, ACROSS).flat, [*chosen, *[""] * (down * ACROSS - len(chosen))], strict=True
    ):
        axes.axis("off")
        if name:
            with Image.open(pretrained_folder(name) / "samples.png") as samples:
                upper = samples.convert("RGB").crop((0, 0, samples.width, samples.height // 2 + 1))
                axes.imshow(upper.resize((upper.width // 2, upper.height // 2), Image.Resampling.NEAREST))
            axes.set_title(titles[name], fontsize=8)
    figure.savefig(OUT, dpi=80)
    Image.open(OUT).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(OUT, optimize=True)
    print(OUT, OUT.stat().st_size)


if __name__ == "__main__":
    main()
