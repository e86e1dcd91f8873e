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

from zoo.abilities import HasEnergy, HasFeatures, has_likelihood, is_conditional, prior_of
from zoo.docstrings import arguments_of
from zoo.media import medium
from zoo.sampling import Draw
from zoo.serving.problems import Problem

__all__ = [
    "FORMATS",
    "IMAGES",
    "controls",
    "draw_of",
    "examples_type",
    "gives_energies",
    "gives_features",
    "images_of",
    "option_fields",
    "sample_type",
    "scores",
]

FORMATS = {
    "image": ("json", "png", "npz"),
    "text": ("json", "text", "npz"),
    "audio": ("json", "wav", "npz"),
    "video": ("json", "gif", "apng", "png", "npz"),
    "points": ("json", "npz"),
}
IMAGES = 16
_MANY = 1_000_000
_SEED = 2**63 - 1
_NOT_OFFERED = {"cached", "compiled"}  # they change how, not what
_PICTURES = ("given", "control")  # options that are pictures
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
        found = [_TYPES.get(kind, given if kind == "Tensor" and name in _PICTURES else None) for kind in kinds]
        offered = [kind for kind in found if kind is not None]
        if name in _PICTURES:
            offered = [Picture] if given else []
        if not offered:
            continue
        kind: Any = offered[0]
        for other in offered[1:]:
            kind = kind | other
        fields[name] = (kind | None if parameter.default is None else kind, parameter.default)
    return fields


def controls(model: Any) -> dict[str, dict[str, Any]]:
    """Return what a person sets the options of `option_fields` by: name -> kind, value that holds, words and meaning.

    Kinds are ``number``, ``integer``, ``boolean``, ``word``, ``text`` and ``picture``; ``default`` is null where the
    model decides, ``value`` what holds then.
    """
    said: dict[str, str] = {}
    prior = prior_of(model)  # whose options are passed on
    for cls in (*type(model).__mro__, *(type(prior).__mro__ if prior is not None else ())):
        own = cls.__dict__.get("draw")
        said = {**arguments_of(own.__doc__ or "" if own is not None else ""), **said}
    words, held = model.option_words(), model.sampler({})
    found = {}
    for name, (_, default) in option_fields(model).items():
        kind = _kind(model, name)
        value = held.get(name) if isinstance(held.get(name), (bool, int, float, str)) else None
        found[name] = {"kind": kind, "default": default, "value": value, "about": said.get(name, "")}
        if kind == "word":
            found[name]["words"] = list(words[name])
    return found


def _kind(model: Any, name: str) -> str:
    if name in model.option_words():
        return "word"
    kinds = {part.strip() for part in str(model.option_parameters()[name].annotation).split("|")}
    if name in _PICTURES:
        return "picture"
    for kind, annotation in (("boolean", "bool"), ("number", "float"), ("integer", "int")):
        if annotation in kinds:
            return kind
    return "text"


def _labels(model: Any, most: int) -> dict[str, Any]:
    """Return the field of what the model is told: classes, or texts of its alphabet."""
    if not is_conditional(model):
        return {}
    if model.context:
        label: Any = Annotated[str, Field(max_length=model.context[0])]
    else:
        label = Annotated[int, Field(ge=0, le=model.num_classes - 1)]
    several = Annotated[list[label], Field(min_length=1, max_length=most)]
    what = f"the {'text' if model.context else 'class'} of each example, or one for all"
    return {"labels": (label | several | None, Field(None, description=what))}


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
    if medium(model) in ("image", "video"):
        fields["scale"] = (
            Annotated[int, Field(ge=1, le=4)], Field(1, description="of a sheet: its pixels a pixel")
        )  # fmt: skip
    return create_model(f"{stem}Sample", __base__=_Strict, **fields)


def scores(model: Any) -> bool:
    """Tell whether the model gives log-likelihoods of images or videos."""
    return medium(model) in ("image", "video") and has_likelihood(model)


def gives_energies(model: Any) -> bool:
    """Tell whether the model gives energies of images or videos."""
    return medium(model) in ("image", "video") and isinstance(model, HasEnergy)


def gives_features(model: Any) -> bool:
    """Tell whether the model gives features of images or videos."""
    return medium(model) in ("image", "video") and isinstance(model, HasFeatures)


def examples_type(name: str, model: Any, what: str) -> type[BaseModel]:
    """Return the type of a request about images or videos.

    Args:
        name: under which the model is served.
        model: of images or videos.
        what: ``log_prob``, ``energy`` or ``features``: only the first draws noise, only the last is told nothing.
    """
    stem = "".join(part.title() for part in name.replace(".", "-").replace("_", "-").split("-"))
    example: Any = Annotated[int, Field(ge=0, le=255)]
    for size in reversed(model.shape):
        example = Annotated[list[example], Field(min_length=size, max_length=size)]
    several: dict[str, Any] = {"min_length": 1, "max_length": IMAGES}
    shape = "uint8, (B, C, H, W)" if len(model.shape) == 3 else "uint8, (B, C, T, H, W)"
    fields: dict[str, Any] = {
        "pixels": (Annotated[list[example], Field(**several)] | None, Field(None, description=shape)),
    }
    if len(model.shape) == 3:
        fields["images"] = (
            Annotated[list[Picture], Field(**several)] | None, Field(None, description="PNG files in base64")
        )  # fmt: skip
    fields |= {} if what == "features" else _labels(model, IMAGES)
    if what == "log_prob":
        fields["k"] = (
            Annotated[int, Field(ge=1, le=1000)], Field(1, description="importance samples, where it is a bound")
        )  # fmt: skip
        fields["seed"] = (Annotated[int, Field(ge=0, le=_SEED)] | None, None)
    return create_model(f"{stem}{what.title().replace('_', '')}", __base__=_Strict, **fields)


def draw_of(question: Any, model: Any) -> Draw:
    """Return what to draw; the seed is settled here, once. Raises `Problem`."""
    options = question.options.model_dump(exclude_unset=True)
    for name in _PICTURES:
        if options.get(name) is not None:
            options[name] = _picture(options[name], model)
    labels = getattr(question, "labels", None)
    if isinstance(labels, list) and len(labels) != question.n:
        raise Problem(422, "invalid", f"labels must be one {_condition(model)}, or as many as n")
    _check_texts(model, labels)
    seed = question.seed if question.seed is not None else secrets.randbelow(2**53)
    return Draw(question.n, seed, labels, options)


def _condition(model: Any) -> str:
    return "text" if model.context else "class"


def _check_texts(model: Any, labels: Any) -> None:
    """Raise `Problem` for texts with characters that the model does not know; they are not repeated to the client."""
    texts = [labels] if isinstance(labels, str) else labels
    if model.context and texts is not None and set("".join(texts)) - set(model.alphabet):
        raise Problem(422, "invalid", "a text holds a character that is not in the model's alphabet")


def images_of(question: Any, model: Any) -> tuple[Tensor, Any]:
    """Return the posted images or videos, (B, *shape) in [0, 1], and their labels. Raises `Problem`."""
    images = getattr(question, "images", None)
    if (question.pixels is None) == (images is None):
        raise Problem(422, "invalid", "send either pixels or images")
    if question.pixels is not None:
        x = torch.tensor(question.pixels, dtype=torch.float32) / 255
    else:
        x = torch.stack([_picture(image, model) for image in images])
    if model.levels == 2 and bool(((x != 0) & (x != 1)).any()):
        raise Problem(422, "invalid", "this model is one of binary images: pixels must be 0 or 255")
    labels = getattr(question, "labels", None)
    if is_conditional(model) and "labels" in type(question).model_fields and labels is None:
        raise Problem(422, "invalid", "the model is conditional: send labels, one for all or one for each image")
    if isinstance(labels, list) and len(labels) != len(x):
        raise Problem(422, "invalid", f"labels must be one {_condition(model)}, or as many as there are images")
    _check_texts(model, labels)
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
