"""One picture of what bundled image models draw, seed 0, not chosen: docs/gallery.png.

python benchmarks/gallery.py
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

import zoo
from zoo import results
from zoo.images import sheet
from zoo.registry import load_registry, pretrained_folder

COLUMNS, ROWS, ACROSS = 8, 4, 4
OUT = Path(__file__).resolve().parent.parent / "docs" / "gallery.png"


def main() -> None:
    names = [e.name for e in load_registry().find(pretrained=True) if e.dataset == "mnist"]
    metrics = {name: results.read(pretrained_folder(name)).metrics for name in names}
    fid = {name: own["fid"].value for name, own in metrics.items() if "fid" in own}  # what represents draws nothing
    chosen = sorted(fid, key=fid.__getitem__)
    down = -(-len(chosen) // ACROSS)
    figure = Figure(figsize=(11, 1.62 * down), layout="constrained")
    for axes, name in zip(
        figure.subplots(down, ACROSS).flat, [*chosen, *[""] * (down * ACROSS - len(chosen))], strict=True
    ):
        axes.axis("off")
        if name:
            axes.imshow(sheet(zoo.load(name).sample(COLUMNS * ROWS, seed=0), columns=COLUMNS, scale=1), cmap="gray")
            axes.set_title(f"{name.removesuffix('-mnist')}, FID {fid[name]:.2f}", fontsize=8)
    figure.savefig(OUT, dpi=80)
    Image.open(OUT).convert("L").quantize(32).save(OUT, optimize=True)
    print(OUT, OUT.stat().st_size)


if __name__ == "__main__":
    main()
