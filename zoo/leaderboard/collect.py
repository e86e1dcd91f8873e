"""Find evaluation results in folders; what cannot be trusted is left out and named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import ResultError
from zoo.files import open_regular
from zoo.results import FILE, FILES, Result, read

if TYPE_CHECKING:
    from zoo.registry import Entry

__all__ = ["bundled_folder", "collect", "default_folders", "find", "pins_of"]

_SUMS = "SHA256SUMS"
_SUMS_BYTES = 1 << 20
_WEIGHTS = "model.safetensors"


def bundled_folder() -> Path:
    """Return the folder of the weights that ship, whether or not it exists."""
    return Path(__file__).resolve().parent.parent / "pretrained"


def default_folders() -> list[Path]:
    """Return where results are by default: bundled, and ``results`` and ``runs`` of the working folder."""
    return [bundled_folder(), Path("results"), Path("runs")]


def pins_of(registry: Mapping[str, Entry]) -> dict[str, str]:
    """Return name -> sha256 of the weights that a registry pins."""
    return {e.name: str(e.weights["sha256"]) for e in registry.values() if e.weights.get("sha256")}


def collect(
    folders: Iterable[str | Path] | None = None, pins: Mapping[str, str] | None = None
) -> tuple[list[Result], list[str]]:
    """Read every result below the folders, as `find`; return the results and what was left out."""
    found, left_out = find(folders, pins)
    return [result for result, _ in found], left_out


def find(
    folders: Iterable[str | Path] | None = None,
    pins: Mapping[str, str] | None = None,
    names: Mapping[str | Path, str] | None = None,
) -> tuple[list[tuple[Result, Path]], list[str]]:
    """Read every ``eval.json``, and ``eval-validation.json``, below the folders, by default those of `default_folders`.

    Args:
        folders: folders or files.
        pins: name -> sha256 of the weights that go by this name, as a registry records them. A result of other
            weights that lie beside it goes by the name of its folder instead.
        names: folder -> name of the results in it.

    Returns:
        the results, equal ones once, each with the folder of its file; and a sentence for each file that was left out:
        one that breaks the schema or is of a newer one, differs from its folder's SHA256SUMS, or speaks of other
        weights than lie beside it, are recorded there, or are pinned for its name.

    Raises:
        ResultError: a folder that was named does not exist.
    """
    names = {Path(folder): name for folder, name in (names or {}).items()}
    paths = [Path(f) for f in folders] if folders is not None else [f for f in default_folders() if f.is_dir()]
    found: dict[str, tuple[Result, Path]] = {}
    left_out: list[str] = []
    for folder in paths:
        if not folder.exists():
            raise ResultError(f"folder {folder} does not exist; give one that holds {FILE} files, or leave it out")
        files = [folder] if folder.is_file() else sorted(path for name in FILES.values() for path in folder.rglob(name))
        for path in files:
            try:
                result = _named(_trusted(path), path.parent, pins or {}, names.get(folder))
            except ResultError as error:
                left_out.append(str(error))
            else:
                found.setdefault(_key(result), (result, path.parent))
    return list(found.values()), left_out


def _trusted(path: Path) -> Result:
    sums = _read_sums(path.parent / _SUMS)
    if path.name in sums and sums[path.name] != _sha256(path):
        raise ResultError(f"result {path} is not the file that {_SUMS} beside it records; evaluate the model again")
    result = read(path)
    own, weights = result.identity.weights_sha256, path.parent / _WEIGHTS
    if sums.get(_WEIGHTS, own) != own or (weights.is_file() and _sha256(weights) != own):
        raise ResultError(f"result {path} is of other weights than those beside it; evaluate the model again")
    return result


def _named(result: Result, folder: Path, pins: Mapping[str, str], name: str | None) -> Result:
    """Return the result under the name that its weights go by. Raises `ResultError` where they go by none."""
    own, recorded = result.identity.weights_sha256, result.identity.name
    if name is None and pins.get(recorded, own) != own:
        if not (folder / _WEIGHTS).is_file():
            raise ResultError(
                f"result {folder / FILE} is of other weights than those that the registry pins for {recorded}; "
                f"evaluate the model again"
            )
        name = str(folder)
    return result if name is None else replace(result, identity=replace(result.identity, name=name))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def _read_sums(path: Path) -> dict[str, str]:
    try:
        with open_regular(path) as stream:
            lines = stream.read(_SUMS_BYTES).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    pairs = [line.split(maxsplit=1) for line in lines if len(line.split(maxsplit=1)) == 2]
    return {name.lstrip("*"): digest for digest, name in pairs}


def _key(result: Result) -> str:
    parts = (result.identity.name, result.identity.weights_sha256, result.data.digest, asdict(result.protocol))
    return json.dumps(parts, sort_keys=True)
