"""What a client may ask of a model: strict request types, made from the signature of the model's sampler."""

from __future__ import annotations

import base64
import binascii
import io
import secrets
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, create_model
from torch import Tensor

from zoo.media import medium
from zoo.sampling import Draw
from zoo.serving.problems import Problem

__all__ = ["FORMATS", "IMAGES", "draw_of", "images_of", "option_fields", "sample_type", "score_type", "scores"]

FORMATS = {
    "image": ("json", "png", "npz"),
    "text": ("json", "text", "npz"),
    "audio": ("json", "wav", "npz"),
    "points": ("json", "npz"),
}
IMAGES = 16
_MANY = 1_000_000
_SEED = 2**63 - 1
_NOT_OFFERED = {"cached", "compiled"}  # they change how, not what
Finite = Annotated[float, Field(ge=-_MANY, le=_MANY, allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=-_MANY, le=_MANY)]
Picture = Annotated[str, Field(max_length=60_000, description="PNG file in base64")]
_TYPES: dict[str, Any] = {
    "float": Finite, "int": Whole, "bool": bool, "str": Annotated[str, Field(max_length=10_000)],
}  # fmt: skip


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


def option_fields(model: Any) -> dict[str, tuple[Any, Any]]:
    """Return the sampling options that a client may set: name -> (type, default), from ``draw``'s annotations."""
    fields = {}
    for name, parameter in model.option_parameters().items():
        if name in _NOT_OFFERED:
            continue
        kinds = [part.strip() for part in str(parameter.annotation).split("|")]
        given = Picture if medium(model) == "image" else None
        found = [_TYPES.get(kind, given if kind == "Tensor" and name == "given" else None) for kind in kinds]
        offered = [kind for kind in found if kind is not None]
        if name == "given":
            offered = [Picture] if given else []
        if not offered:
            continue
        kind: Any = offered[0]
        for other in offered[1:]:
            kind = kind | other
        fields[name] = (kind | None if parameter.default is None else kind, parameter.default)
    return fields


def _labels(model: Any, most: int) -> dict[str, Any]:
    if not model.num_classes:
        return {}
    label = Annotated[int, Field(ge=0, le=model.num_classes - 1)]
    several = Annotated[list[label], Field(min_length=1, max_length=most)]
    return {"labels": (label | several | None, Field(None, description="the class of each example, or one for all"))}


def sample_type(name: str, model: Any, most: int) -> type[BaseModel]:
    """Return the type of a request for samples."""
    kinds = FORMATS[medium(model)]
    stem = "".join(part.title() for part in name.replace(".", "-").replace("_", "-").split("-"))
    options = create_model(f"{stem}Options", __base__=_Strict, **option_fields(model))
    fields: dict[str, Any] = {
        "n": (Annotated[int, Field(ge=1, le=most)], 1),
        "seed": (Annotated[int, Field(ge=0, le=_SEED)] | None, Field(None, description="drawn and returned if absent")),
        **_labels(model, most),
        "format": (Literal[kinds], kinds[0]),
        "options": (options, Field(default_factory=options)),
    }
    if medium(model) == "image":
        fields["scale"] = (
            Annotated[int, Field(ge=1, le=4)], Field(1, description="of the PNG: pixels of the sheet a pixel")
        )  # fmt: skip
    return create_model(f"{stem}Sample", __base__=_Strict, **fields)


def scores(model: Any) -> bool:
    """Tell whether the model gives log-likelihoods of images."""
    return medium(model) == "image" and hasattr(model, "log_prob") and getattr(model, "has_likelihood", True)


def score_type(name: str, model: Any) -> type[BaseModel]:
    """Return the type of a request for log-likelihoods of images."""
    C, H, W = model.shape
    stem = "".join(part.title() for part in name.replace(".", "-").replace("_", "-").split("-"))
    level = Annotated[int, Field(ge=0, le=255)]
    row = Annotated[list[level], Field(min_length=W, max_length=W)]
    plane = Annotated[list[row], Field(min_length=H, max_length=H)]
    image = Annotated[list[plane], Field(min_length=C, max_length=C)]
    several: dict[str, Any] = {"min_length": 1, "max_length": IMAGES}
    fields: dict[str, Any] = {
        "pixels": (Annotated[list[image], Field(**several)] | None, Field(None, description="uint8, (B, C, H, W)")),
        "images": (Annotated[list[Picture], Field(**several)] | None, Field(None, description="PNG files in base64")),
        **_labels(model, IMAGES),
        "k": (Annotated[int, Field(ge=1, le=1000)], Field(1, description="importance samples, where it is a bound")),
        "seed": (Annotated[int, Field(ge=0, le=_SEED)] | None, None),
    }
    return create_model(f"{stem}LogProb", __base__=_Strict, **fields)


def draw_of(question: Any, model: Any) -> Draw:
    """Return what to draw; the seed is settled here, once. Raises `Problem`."""
    options = question.options.model_dump(exclude_unset=True)
    if options.get("given") is not None:
        options["given"] = _picture(options["given"], model)
    labels = getattr(question, "labels", None)
    if isinstance(labels, list) and len(labels) != question.n:
        raise Problem(422, "invalid", "labels must be one class, or as many as n")
    seed = question.seed if question.seed is not None else secrets.randbelow(2**53)
    return Draw(question.n, seed, labels, options)


def images_of(question: Any, model: Any) -> tuple[Tensor, Any]:
    """Return the posted images, (B, C, H, W) in [0, 1], and their labels. Raises `Problem`."""
    if (question.pixels is None) == (question.images is None):
        raise Problem(422, "invalid", "send either pixels or images")
    if question.pixels is not None:
        x = torch.tensor(question.pixels, dtype=torch.float32) / 255
    else:
        x = torch.stack([_picture(image, model) for image in question.images])
    if model.levels == 2 and bool(((x != 0) & (x != 1)).any()):
        raise Problem(422, "invalid", "this model is one of binary images: pixels must be 0 or 255")
    labels = getattr(question, "labels", None)
    if model.num_classes and labels is None:
        raise Problem(422, "invalid", "the model is conditional: send labels, one for all or one for each image")
    if isinstance(labels, list) and len(labels) != len(x):
        raise Problem(422, "invalid", "labels must be one class, or as many as there are images")
    return x, labels


def _picture(text: str, model: Any) -> Tensor:
    """Return the image of a PNG in base64, (C, H, W) in [0, 1]. Raises `Problem`."""
    from PIL import Image, UnidentifiedImageError

    C, H, W = model.shape
    try:
        stream = io.BytesIO(base64.b64decode(text, validate=True))
        with Image.open(stream, formats=("PNG",)) as picture:
            if picture.size != (W, H):
                raise Problem(422, "invalid", f"images must have {W} x {H} pixels")
            pixels = np.array(picture.convert("L" if C == 1 else "RGB"))
    except (binascii.Error, UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise Problem(422, "invalid", "an image is no PNG file in base64") from None
    return torch.from_numpy(pixels).view(H, W, C).permute(2, 0, 1).float() / 255
