"""A model as a folder: weights, configuration, card and results, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import struct
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from zoo import searches
from zoo.errors import ConfigError, ModelFolderError, ResultError
from zoo.hub import cards
from zoo.hub.card_blocks import merge_card
from zoo.hub.folder import model_names, public_names, tied
from zoo.hub.layout import (
    CARD,
    CONFIG,
    DIAGNOSTICS,
    EVAL,
    FILES,
    FORMAT,
    SAMPLES,
    SEARCH,
    SOUND,
    SUMS,
    TEXTS,
    WEIGHTS,
    check_header,
    read_file,
    sha256,
    sums_text,
)
from zoo.hub.paths import without_folders
from zoo.model import GenerativeModel
from zoo.registry import load_registry
from zoo.spec import from_public, is_spec, to_public

__all__ = ["class_names", "public_form", "save_pretrained", "weights_file"]

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_PNG = b"\x89PNG\r\n\x1a\n"


def save_pretrained(
    model: GenerativeModel,
    folder: str | Path,
    *,
    card: str | None = None,
    results: Mapping[str, Any] | None = None,
    search: Mapping[str, Any] | None = None,
    samples: bytes | str | Path | Mapping[str, bytes] | None = None,
    data: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write ``model`` as a folder that `load_pretrained` reads and `push` uploads; whole or not at all.

    Args:
        model: what to save, without parts that only its training needs; its weights are stored in their own types.
        folder: where; it must not exist, unless ``overwrite``.
        card: text of README.md; one is made from the facts if left out. What a person wrote around the generated block
            of a card that is overwritten is kept.
        results: the content of eval.json.
        search: the content of search.json, which the card shows as a table.
        samples: a PNG file, or its bytes; or several files: ``samples.png``, ``samples.txt``, ``samples.wav``, and
            ``diagnostics.png``, for the card to show.
        data: spec of the data the model was trained on, of whose paths the last part is kept; the registry's if left
            out.
        overwrite: replace a model folder, never another kind of folder.

    Raises:
        ModelFolderError: the folder exists, or cannot be written.
        ConfigError: an argument of the model is not plain data, or of a class that the registry does not mention.
        CardError: the generated block of the card there was edited by hand, or a result is no finite number.
        ResultError: ``results`` is not JSON, or ``search`` breaks its schema.
    """
    folder, model = Path(folder).expanduser(), model.released()
    _check_target(folder, overwrite)
    files = {WEIGHTS: weights_file(model)}
    files[CONFIG] = _config(model, files[WEIGHTS], data)
    if results is not None:
        cards.metric_values(results)  # names the metric that is no number
        files[EVAL] = _json(results, ResultError, "the results")
    if search is not None:
        searches.parse(search)
        files[SEARCH] = _json(search, ResultError, "the search")
    if samples is not None:
        files |= _samples(samples)
    load = f"./{folder.name}"
    text = card or cards.card_of(
        model.source.name, public_form(model) | class_names(model), results, files, load=load, search=search
    )
    if (folder / CARD).is_file():
        text = merge_card(read_file(folder / CARD).decode("utf-8"), text)
    files[CARD] = text.encode("utf-8")
    files[SUMS] = sums_text(files).encode("ascii")
    _write(folder, files)
    return folder


def _check_target(folder: Path, overwrite: bool) -> None:
    if not folder.exists() and not folder.is_symlink():
        return
    if not overwrite:
        raise ModelFolderError(f"{folder} exists; choose another folder, or pass overwrite=True to replace the model")
    if not folder.is_dir() or folder.is_symlink():
        raise ModelFolderError(f"{folder} is no folder, so it is not overwritten")
    foreign = sorted(p.name for p in folder.iterdir() if p.name not in FILES or not p.is_file())
    if foreign:
        raise ModelFolderError(f"{folder} holds more than a model ({', '.join(foreign[:5])}), so it is not overwritten")


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write into a sibling, then move it into place; what was there before goes last."""
    mark = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
    fresh, old = folder.with_name(f".{folder.name}.new-{mark}"), folder.with_name(f".{folder.name}.old-{mark}")
    try:
        fresh.mkdir(parents=True)
        for name, content in files.items():
            (fresh / name).write_bytes(content)
        if folder.exists():
            os.rename(folder, old)
        os.rename(fresh, folder)
    except OSError as error:
        if old.exists() and not folder.exists():
            os.rename(old, folder)
        raise ModelFolderError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


def weights_file(model: GenerativeModel) -> bytes:
    """Return the state as safetensors: each tied tensor once, the header in one canonical order.

    Raises `ConfigError` where a tensor cannot be kept.
    """
    model = model.released()
    state = model.state_dict(keep_vars=True)
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ConfigError(f"{type(model).__name__} cannot be saved: its state {name!r} is no tensor")
    tensors = {names[0]: state[names[0]].detach().cpu().contiguous().clone() for names in tied(model)}
    raw = safetensors.torch.save(tensors, {"format": "pt", "zoo_format": str(FORMAT)})
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.dumps(json.loads(raw[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # data start at a multiple of 8
    return struct.pack("<Q", len(header)) + header + raw[8 + size :]


def _config(model: GenerativeModel, weights: bytes, data: Mapping[str, Any] | None) -> bytes:
    header = check_header(weights, "the model")
    types = sorted({dtype for dtype, _ in header.values() if dtype in _DTYPES})
    public = public_form(model)
    content = {
        "zoo_format": FORMAT,
        "model": public["name"],
        "args": public["args"],
        **class_names(model),
        "data": _public_data(model, data),
        "weights": {
            "file": WEIGHTS,
            "sha256": sha256(weights),
            "size": len(weights),
            "dtype": _DTYPES[types[0]] if len(types) == 1 else "mixed",
            "tensors": len(header),
        },
    }
    return _json(content, ConfigError, f"the configuration of {type(model).__name__}")


def _json(content: Any, error: type[Exception], what: str) -> bytes:
    try:
        return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as cause:
        raise error(f"{what} cannot be written as JSON: {cause}") from cause


def public_form(model: GenerativeModel) -> dict[str, Any]:
    """Return ``{"name": class, "args": {...}}``, which names no import path. Raises `ConfigError`."""
    public = to_public(model.spec, model_names())
    for name, value in public["args"].items():
        _json(value, ConfigError, f"argument {name!r} of {type(model).__name__}")
    if from_public(public, model_names()) != model.spec:
        raise ConfigError(
            f"{type(model).__name__} cannot be published: its arguments would not be read back as they are"
        )
    return dict(public)


def class_names(model: GenerativeModel) -> dict[str, list[str]]:
    """Return ``{"class_names": [...]}``, or nothing where the classes have no names."""
    return {"class_names": list(model.class_names)} if model.class_names else {}


def _public_data(model: GenerativeModel, data: Mapping[str, Any] | None) -> Any:
    registry = load_registry()
    if data is None and model.source.name in registry:
        data = registry[str(model.source.name)].data
    if data is None or not is_spec(data):
        return without_folders(data)
    spec = {"class_path": data["class_path"], "init_args": data.get("init_args") or {}}
    return without_folders(to_public(spec, public_names()))


def _samples(samples: bytes | str | Path | Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of samples by name. Raises `ModelFolderError`."""
    if not isinstance(samples, Mapping):
        return {SAMPLES: _png(samples)}
    for name, content in samples.items():
        good = {SAMPLES: content.startswith(_PNG), SOUND: content.startswith(b"RIFF"), TEXTS: b"\0" not in content}
        good[DIAGNOSTICS] = good[SAMPLES]
        if not good.get(name, False):
            raise ModelFolderError(
                f"{name} is no file of samples: a PNG as {SAMPLES} or {DIAGNOSTICS}, a WAV as {SOUND}, or {TEXTS}"
            )
    return dict(samples)


def _png(samples: bytes | str | Path) -> bytes:
    content = samples if isinstance(samples, bytes) else read_file(Path(samples).resolve())
    if not content.startswith(_PNG):
        raise ModelFolderError("the samples must be a PNG file")
    return content
