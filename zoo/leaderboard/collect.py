"""Find evaluation results in folders; what cannot be trusted is left out and named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from zoo.errors import ResultError
from zoo.results import FILE, Result, read

__all__ = ["bundled_folder", "collect", "default_folders"]

_SUMS = "SHA256SUMS"
_WEIGHTS = "model.safetensors"


def bundled_folder() -> Path:
    """Return the folder of the weights that ship, whether or not it exists."""
    return Path(__file__).resolve().parent.parent / "pretrained"


def default_folders() -> list[Path]:
    """Return where results are by default: bundled, and ``results`` and ``runs`` of the working folder."""
    return [bundled_folder(), Path("results"), Path("runs")]


def collect(folders: Iterable[str | Path] | None = None) -> tuple[list[Result], list[str]]:
    """Read every ``eval.json`` below the folders, by default those of `default_folders`.

    Returns:
        the results, equal ones once; and a sentence for each file that was left out: one that breaks the schema,
        differs from its folder's SHA256SUMS, or speaks of other weights than lie beside it.

    Raises:
        ResultError: a folder that was named does not exist.
    """
    paths = [Path(f) for f in folders] if folders is not None else [f for f in default_folders() if f.is_dir()]
    found: dict[str, Result] = {}
    left_out: list[str] = []
    for folder in paths:
        if not folder.exists():
            raise ResultError(f"folder {folder} does not exist; give one that holds {FILE} files, or leave it out")
        files = [folder] if folder.is_file() else sorted(folder.rglob(FILE))
        for path in files:
            try:
                result = _trusted(path)
            except ResultError as error:
                left_out.append(str(error))
            else:
                found.setdefault(_key(result), result)
    return list(found.values()), left_out


def _trusted(path: Path) -> Result:
    sums = _read_sums(path.parent / _SUMS)
    if path.name in sums and sums[path.name] != hashlib.sha256(path.read_bytes()).hexdigest():
        raise ResultError(f"result {path} is not the file that {_SUMS} beside it records; evaluate the model again")
    result = read(path)
    weights = sums.get(_WEIGHTS, result.identity.weights_sha256)
    if weights != result.identity.weights_sha256:
        raise ResultError(f"result {path} is of other weights than those beside it; evaluate the model again")
    return result


def _read_sums(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    pairs = [line.split(maxsplit=1) for line in lines if len(line.split(maxsplit=1)) == 2]
    return {name.lstrip("*"): digest for digest, name in pairs}


def _key(result: Result) -> str:
    parts = (result.identity.name, result.identity.weights_sha256, result.data.digest, asdict(result.protocol))
    return json.dumps(parts, sort_keys=True)
