"""What a model folder holds, and the checks that need no torch: sums, sizes, the header of the weights, the format.

Every check works on bytes that are already in memory, so that what was hashed is what is parsed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zoo.errors import (
    CorruptWeightsError,
    ModelFolderError,
    NotAZooModelError,
    UnsafeWeightsError,
)
from zoo.files import leads_out, open_regular
from zoo.names import CONFIG, WEIGHTS, is_model_folder

__all__ = [
    "CARD",
    "CONFIG",
    "DIAGNOSTICS",
    "EVAL",
    "FILES",
    "FORMAT",
    "LIMITS",
    "MIGRATIONS",
    "SAMPLES",
    "SEARCH",
    "SOUND",
    "SUMS",
    "TEXTS",
    "WEIGHTS",
    "Pins",
    "check_header",
    "check_sums",
    "is_model_folder",
    "is_pickle_name",
    "parse_config",
    "parse_sums",
    "read_file",
    "read_folder",
    "sha256",
    "shown",
    "sums_text",
    "verify",
]

CARD = "README.md"
SAMPLES, EVAL, SUMS = "samples.png", "eval.json", "SHA256SUMS"
TEXTS, SOUND = "samples.txt", "samples.wav"
DIAGNOSTICS = "diagnostics.png"
SEARCH = "search.json"

FILES = (CONFIG, SUMS, EVAL, SEARCH, CARD, SAMPLES, TEXTS, SOUND, DIAGNOSTICS, WEIGHTS)
"""All files of a model, in the order of downloading: a folder with weights has everything before them."""

LIMITS = {
    CONFIG: 1 << 20,
    SUMS: 1 << 16,
    EVAL: 4 << 20,
    SEARCH: 4 << 20,
    CARD: 4 << 20,
    SAMPLES: 32 << 20,
    TEXTS: 4 << 20,
    SOUND: 32 << 20,
    DIAGNOSTICS: 32 << 20,
    WEIGHTS: 8 << 30,
}
"""Largest size of each file, in bytes."""

FORMAT = 1
"""Format of config.json that is written."""

MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Format -> the step that takes a configuration of it to the next one; older formats load through all of them."""

MAX_HEADER, MAX_TENSORS, MAX_DIMENSIONS = 1 << 20, 10_000, 64

DTYPES = {
    "BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
"""Element types that weights may have, with their bits."""

Pins = Mapping[str, str]
"""Recorded sha256 by file name."""

_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle", ".joblib", ".npy", ".dill")
_SUM_LINE = re.compile(r"^([0-9a-f]{64}) [ *]([A-Za-z0-9._-]{1,100})$")


def sha256(data: bytes) -> str:
    """Return the sha256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def shown(text: object, limit: int = 100) -> str:
    """Return foreign text for a message: cut, and without what a terminal would obey or hide."""
    cut = str(text)[:limit]
    return (cut if cut.isprintable() else repr(cut)[1:-1]) + ("..." if len(str(text)) > limit else "")


def repr_of(value: object) -> str:
    """Return the representation of foreign data; a number of thousands of digits has none."""
    try:
        return repr(value)
    except ValueError:
        return "a number of thousands of digits"


def is_pickle_name(name: str) -> bool:
    """Tell whether a file of this name may run code when it is loaded."""
    return name.lower().endswith(_PICKLES)


def read_file(path: Path, limit: int | None = None) -> bytes:
    """Return the bytes of a file of a model, up to its size limit, that of `LIMITS` for its name if left out.

    Raises:
        ModelFolderError: it is too large, cannot be read, or is a link out of its folder, other than those of the Hub's
            cache: a folder that comes from a stranger could show any file of this machine by one.
    """
    try:
        if leads_out(path):
            raise ModelFolderError(
                f"{path} is a link out of its folder, which is not followed; put the file itself there"
            )
        size, limit = path.stat().st_size, limit or LIMITS.get(path.name, 1 << 20)
        with open_regular(path) as stream:
            data = stream.read(min(size, limit) + 1)
        if len(data) > min(size, limit):  # the size of some special files is no limit to what they give
            raise ModelFolderError(f"{path} has {len(data)} bytes or more, but this file may have {limit} at most")
        return data
    except OSError as error:
        raise ModelFolderError(f"{path} cannot be read: {error.strerror or error}") from error


def read_folder(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file of the model in ``folder``.

    Raises:
        ModelFolderError: the folder, its config.json or its weights are missing.
        UnsafeWeightsError: there are only weights in a format that can run code.
    """
    if not folder.is_dir():
        raise ModelFolderError(f"there is no model folder {str(folder)!r}; expected one with {CONFIG} and {WEIGHTS}")
    if not is_model_folder(folder):
        found = sorted(p.name for p in folder.iterdir())
        pickles = [name for name in found if is_pickle_name(name)]
        if pickles and not (folder / WEIGHTS).is_file():
            raise UnsafeWeightsError(
                f"{folder} holds weights only as {pickles[0]!r}, a format that can run code when loaded; the zoo reads "
                f"safetensors only, convert them where you trust them"
            )
        there = ", ".join(map(shown, found[:8])) or "nothing"
        raise ModelFolderError(f"{folder} is no model folder: expected {CONFIG} and {WEIGHTS}, found {there}")
    return {name: read_file(folder / name) for name in FILES if (folder / name).exists()}


def parse_config(data: bytes, where: str) -> dict[str, Any]:
    """Return the published configuration, its form checked. Raises `NotAZooModelError`."""
    if len(data) > LIMITS[CONFIG]:
        raise NotAZooModelError(f"{where}: {CONFIG} has {len(data)} bytes, more than {LIMITS[CONFIG]}")
    try:
        config = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise NotAZooModelError(f"{where}: {CONFIG} is not valid JSON, so this is no model of the zoo") from error
    if not isinstance(config, dict) or "zoo_format" not in config:
        raise NotAZooModelError(f"{where}: {CONFIG} has no 'zoo_format', so this is no model of the zoo")
    version = config["zoo_format"]
    if isinstance(version, bool) or not isinstance(version, int) or version < min([FORMAT, *MIGRATIONS]):
        raise NotAZooModelError(f"{where}: zoo_format {shown(repr_of(version))} is not a format of the zoo")
    if version > FORMAT:
        newer = shown(repr_of(version))
        raise NotAZooModelError(
            f"{where} has format {newer}, newer than this zoo reads ({FORMAT}); upgrade generative-zoo"
        )
    for step in range(version, FORMAT):
        config = _migrated(config, step, where)
    _check_fields(config, where)
    return config


def _migrated(config: dict[str, Any], step: int, where: str) -> dict[str, Any]:
    """Return the configuration one format later. Raises `NotAZooModelError`."""
    try:
        return {**MIGRATIONS[step](config), "zoo_format": step + 1}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise NotAZooModelError(
            f"{where}: {CONFIG} says format {step} but cannot be brought to format {step + 1} ({shown(repr(error))}), "
            f"so this is no model of the zoo"
        ) from error


def _check_fields(config: Mapping[str, Any], where: str) -> None:
    weights = config.get("weights")
    checks = {
        "model": isinstance(config.get("model"), str),
        "args": isinstance(config.get("args"), dict),
        "weights": isinstance(weights, dict) and weights.get("file") == WEIGHTS,
        "weights.sha256": isinstance(weights, dict)
        and re.fullmatch(r"[0-9a-f]{64}", str(weights.get("sha256"))) is not None,
    }
    for key, good in checks.items():
        if not good:
            raise NotAZooModelError(f"{where}: {CONFIG} has no valid {key!r}, so this is no model of the zoo")


def sums_text(files: Mapping[str, bytes]) -> str:
    """Return the text of SHA256SUMS for these files, as ``sha256sum -c`` reads it."""
    return "".join(f"{sha256(data)}  {name}\n" for name, data in sorted(files.items()) if name != SUMS)


def parse_sums(data: bytes, where: str) -> dict[str, str]:
    """Return file name -> sha256. Raises `ModelFolderError`."""
    found = {}
    for line in data.decode("utf-8", "replace").splitlines():
        match = _SUM_LINE.match(line)
        if match is None:
            raise ModelFolderError(f"{where}: {SUMS} has a line that is no sha256 and file name")
        found[match[2]] = match[1]
    return found


def check_sums(
    files: Mapping[str, bytes], where: str, *, expected: Pins | None = None, names: tuple[str, ...] = FILES
) -> dict[str, str]:
    """Compare files with SHA256SUMS, config.json and ``expected``, and return file name -> sha256.

    Raises:
        CorruptWeightsError: a file differs from its record.
    """
    digests = {name: sha256(files[name]) for name in names if name in files}
    _compare(digests, dict(expected or {}), "the pinned one", where, names)
    if SUMS in files:
        _compare(digests, parse_sums(files[SUMS], where), f"the one in {SUMS}", where, names)
    if CONFIG in files:
        weights = parse_config(files[CONFIG], where)["weights"]
        _compare(digests, {WEIGHTS: weights["sha256"]}, f"the one in {CONFIG}", where, names)
    return digests


def _compare(digests: Pins, recorded: Pins, title: str, where: str, names: tuple[str, ...]) -> None:
    for name in (n for n in recorded if n in names):
        if name not in digests:
            raise CorruptWeightsError(f"{where}: {name} is missing, though a sha256 is recorded for it")
        if digests[name] != recorded[name]:
            raise CorruptWeightsError(
                f"{where}: {name} is damaged or was changed: its sha256 is {digests[name]}, {title} is {recorded[name]}"
            )


def check_header(data: bytes, where: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return tensor name -> (element type, shape) of safetensors bytes, within the limits.

    Raises:
        UnsafeWeightsError: a pickle or archive under this name, or a header beyond the limits.
        CorruptWeightsError: a file that is cut or malformed.
    """
    if data[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise UnsafeWeightsError(f"{where}: {WEIGHTS} is a pickle or an archive under another name; it is not opened")
    size = int.from_bytes(data[:8], "little")
    if len(data) < 10 or size > MAX_HEADER:
        raise UnsafeWeightsError(f"{where}: {WEIGHTS} is no safetensors file: its header claims {size} bytes")
    try:
        header = json.loads(data[8 : 8 + size].decode("utf-8"))
        header.pop("__metadata__", None)
        tensors = {str(k): (v["dtype"], tuple(v["shape"]), tuple(v["data_offsets"])) for k, v in header.items()}
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise CorruptWeightsError(f"{where}: {WEIGHTS} is no safetensors file, or cut short: bad header") from error
    if len(tensors) > MAX_TENSORS:
        raise UnsafeWeightsError(f"{where}: {WEIGHTS} has {len(tensors)} tensors, more than {MAX_TENSORS}")
    _check_extent(tensors, len(data) - 8 - size, where)
    return {name: (dtype, shape) for name, (dtype, shape, _) in tensors.items()}


def _check_extent(tensors: Mapping[str, tuple[Any, Any, Any]], size: int, where: str) -> None:
    """Hold the tensors to one row without gaps that fills the file."""
    position = 0
    for name, (dtype, shape, offsets) in tensors.items():
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise UnsafeWeightsError(f"{where}: tensor {name[:100]!r} has the unknown type {str(dtype)[:20]!r}")
        sizes = all(type(n) is int and 0 <= n < 1 << 40 for n in (*shape, *offsets))
        if not sizes or len(offsets) != 2 or len(shape) > MAX_DIMENSIONS:
            raise CorruptWeightsError(f"{where}: {WEIGHTS} is malformed at tensor {name[:100]!r}")
        count = DTYPES[dtype] // 8
        for n in shape:
            count *= n
        if offsets[1] - offsets[0] != count or offsets[1] > size:
            raise CorruptWeightsError(
                f"{where}: {WEIGHTS} is cut short or malformed: {name[:100]!r} ends at byte {offsets[1]} of {size}"
            )
        position += count
    if position != size:
        raise CorruptWeightsError(f"{where}: {WEIGHTS} has {size} bytes of data, its header describes {position}")


def verify(folder: str | Path, expected: Pins | None = None) -> dict[str, str]:
    """Check every file of a model folder against all records, and return file name -> sha256.

    Args:
        folder: a model folder.
        expected: sha256 by file name, over and above those in the folder itself.

    Raises:
        ModelFolderError: no model folder.
        NotAZooModelError: its configuration is of no format of the zoo, or of a newer one.
        CorruptWeightsError: a file differs from its record.
        UnsafeWeightsError: the weights are no safetensors file within the limits.
    """
    folder = Path(folder).expanduser()
    files = read_folder(folder)
    digests = check_sums(files, str(folder), expected=expected)
    check_header(files[WEIGHTS], str(folder))
    return digests
