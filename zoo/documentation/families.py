"""Pages of families: the picture of what their models draw, and the models themselves, which the page does not list."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from zoo.documentation.models import family_grid
from zoo.leaderboard import bundled_folder
from zoo.registry import Entry

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["family_picture", "family_strip", "with_models"]

_MODELS = re.compile(r"<!-- models: (\w+) -->")
_SHAPES = {"mnist": (1, 28, 28), "binary_mnist": (1, 28, 28), "tiles": (3, 32, 32)}
"""Data set -> shape of the images of a sheet."""

_ACROSS = 20


def with_models(text: str, registry: Mapping[str, Entry]) -> str:
    """Return a page with the models of a family in the place of ``<!-- models: FAMILY -->``."""

    def listed(found: re.Match[str]) -> str:
        own = [e for e in registry.values() if e.family == found[1]]
        return "\n".join(family_grid(own, "../models/"))

    return _MODELS.sub(listed, text)


def family_strip(entry: Entry, across: int = _ACROSS, scale: int = 1) -> Image | None:
    """Return the first pictures that a model drew, seed 0 and not chosen, in one row; None where it drew none.

    Args:
        entry: of the registry; the pictures are those of its bundled ``samples.png``.
        across: how many.
        scale: pixels of the strip for each of the model's.
    """
    import numpy as np
    from PIL import Image

    from zoo.images import read_png, sheet

    path = bundled_folder() / entry.name / "samples.png"
    if entry.dataset not in _SHAPES or not path.is_file():
        return None
    images = read_png(path, _SHAPES[entry.dataset])[:across]
    row = sheet(images, columns=across, scale=scale)
    return Image.fromarray(row if row.ndim == 3 else np.repeat(row[..., None], 3, 2))


def family_picture(entries: Sequence[Entry], rows: int = 6) -> bytes | None:
    """Return a strip for each of a family's models that draw pictures, colour last, as a PNG; None if none does."""
    from PIL import Image

    grey = [strip for e in entries if e.dataset != "tiles" and (strip := family_strip(e)) is not None]
    colour = [strip for e in entries if e.dataset == "tiles" and (strip := family_strip(e)) is not None]
    strips = [*grey[: max(2, rows - len(colour))], *colour]
    if not strips:
        return None
    width = max(s.width for s in strips)
    strips = [s.resize((width, s.height * width // s.width), Image.Resampling.NEAREST) for s in strips]
    whole = Image.new("RGB", (width, sum(s.height for s in strips)))
    top = 0
    for strip in strips:
        whole.paste(strip, (0, top))
        top += strip.height
    stream = io.BytesIO()
    whole.quantize(256).save(stream, format="PNG", optimize=True)
    return stream.getvalue()
