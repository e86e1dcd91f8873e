"""Results as bodies of answers."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from torch import Tensor

from zoo.images import animation_bytes, clips_png, sheet
from zoo.media import medium, page, wav_bytes, waveform

__all__ = ["MEDIA_TYPES", "encoded", "whole_numbers"]

MEDIA_TYPES = {
    "json": "application/json",
    "png": "image/png",
    "gif": "image/gif",
    "apng": "image/apng",
    "npz": "application/octet-stream",
    "wav": "audio/wav",
    "text": "text/plain; charset=utf-8",
}


def whole_numbers(model: Any, x: Tensor) -> np.ndarray:
    """Return samples as the integers that they stand for: 8-bit pixels of pictures, levels of what else has levels."""
    levels = 256 if medium(model) in ("image", "video") else model.levels
    return (x.float().clamp(0, 1) * (levels - 1)).round().to("cpu").numpy().astype(np.uint8 if levels <= 256 else int)


def encoded(model: Any, name: str, x: Tensor, seed: int, form: str, scale: int = 1) -> bytes:
    """Return samples (n, *shape) in data range as a body in one of `zoo.serving.request_types.FORMATS`."""
    if medium(model) == "video" and form == "png":
        return clips_png(x, scale=scale)
    if form in ("gif", "apng"):
        return animation_bytes(x, apng=form == "apng", scale=scale)
    if form == "png":
        from PIL import Image

        stream = io.BytesIO()
        Image.fromarray(sheet(x, scale=scale)).save(stream, format="PNG", compress_level=1)
        return stream.getvalue()
    if form == "npz":
        stream = io.BytesIO()
        np.savez_compressed(stream, samples=x.cpu().numpy(), seed=np.int64(seed))
        return stream.getvalue()
    if form == "wav":
        return wav_bytes(waveform(model, x), model.rate)
    if form == "text":
        return page(model.text(x)).encode()
    return json.dumps(
        {"model": name, "seed": seed, "n": len(x), "shape": list(x.shape[1:]), **_values(model, x)}
    ).encode()


def _values(model: Any, x: Tensor) -> dict[str, Any]:
    kind = medium(model)
    if kind == "text":
        return {"texts": model.text(x)}
    if kind == "points" and model.levels is None:
        return {"values": x.tolist()}
    return {"pixels" if kind in ("image", "video") else "codes": whole_numbers(model, x).tolist()}
