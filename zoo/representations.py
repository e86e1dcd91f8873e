"""What features are worth, as data: one row for each model, data set and split, in one JSON file, and as a table.

A row says what was measured of the features, of those of the model before training (``_untrained``) and of the pixels
themselves (``_pixels``): without these two, the first says nothing. Importing this module imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from zoo.errors import ResultError
from zoo.files import write_whole
from zoo.results import read_json

__all__ = ["SHIPPED", "Representation", "merged", "read", "shipped", "to_table", "write"]

SHIPPED = "representations.json"
"""The file of the leaderboard's folder that holds the rows of the zoo's own models."""

SCHEMA = 1

_MEASURED = {
    "probe_accuracy": ("probe", "{:.1%}"), "probe_accuracy_1pct": ("1 % of labels", "{:.1%}"),
    "knn_accuracy": ("k-NN", "{:.1%}"), "effective_rank": ("rank", "{:.1f}"), "feature_std": ("spread", "{:.3f}"),
}  # fmt: skip
"""What is measured -> heading and format."""


@dataclass(frozen=True)
class Representation:
    """The features of one model, measured.

    Attributes:
        name: of the registry, of the Hub, or of a run.
        family: of the model.
        kind: what the features are, in words.
        dimensions: D.
        data: name of the data set.
        split: what was counted.
        digest: sha256 of that split.
        weights_sha256: of the weights.
        metrics: name -> value; shares between 0 and 1.
        errors: name -> standard error, of those that have one.
        protocol: examples of each split, penalties, neighbours, seeds.
        quick: whether it was made with less than the protocol of the table.
        command: that makes it again.
    """

    name: str
    family: str
    kind: str
    dimensions: int
    data: str
    split: str
    digest: str
    weights_sha256: str
    metrics: dict[str, float]
    errors: dict[str, float]
    protocol: dict[str, Any]
    quick: bool
    command: str

    @property
    def collapsed(self) -> bool:
        """Whether the features vary less than a fifth as much as before training: all examples have nearly the same."""
        before = self.metrics.get("feature_std_untrained")
        return before is not None and self.metrics["feature_std"] < 0.2 * before

    @property
    def key(self) -> tuple[str, str, str, bool]:
        """What there is one row of in a file."""
        return self.name, self.data, self.split, self.quick


def _row(item: Any, where: str) -> Representation:
    names = {f.name: f.type for f in fields(Representation)}
    if not isinstance(item, dict) or set(item) != set(names):
        raise ResultError(f"{where}: a row has the fields {', '.join(names)}; make it again with zoo features")
    kinds = {"str": str, "int": int, "bool": bool}
    for name, kind in names.items():
        wanted = kinds.get(str(kind), dict)
        if not isinstance(item[name], wanted) or (wanted is int and isinstance(item[name], bool)):
            raise ResultError(f"{where}: {name} must be {wanted.__name__}, got {item[name]!r:.40}")
    for numbers in (item["metrics"], item["errors"]):
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ResultError(f"{where}: {name} must be a finite number, got {value!r:.40}")
    return Representation(**item)


def read(path: str | Path) -> list[Representation]:
    """Return the rows of a file. Raises `ResultError` where it is none."""
    content, _ = read_json(path, SHIPPED, "the file of representations")
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or not isinstance(content.get("rows"), list):
        raise ResultError(f"{path} is no file of representations of schema {SCHEMA}; write one with zoo features --out")
    return [_row(item, str(path)) for item in content["rows"]]


def write(path: str | Path, rows: Iterable[Representation]) -> None:
    """Write rows into a file, whole or not at all; those of other models that it holds stay. Raises `ResultError`."""
    path = Path(path)
    known = read(path) if path.exists() else []
    content = {"schema": SCHEMA, "rows": [asdict(row) for row in merged(known, rows)]}
    try:
        write_whole(path, _text(content))
    except OSError as error:
        raise ResultError(f"{path} cannot be written: {error.strerror or error}") from error


def _text(content: Any) -> str:
    import json

    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def merged(known: Iterable[Representation], new: Iterable[Representation]) -> list[Representation]:
    """Return rows, new ones in the place of known ones of the same key, by data set and name."""
    rows = {row.key: row for row in (*known, *new)}
    return [rows[key] for key in sorted(rows, key=lambda k: (k[1], k[0], *k[2:]))]


def shipped() -> list[Representation]:
    """Return the rows of the zoo's own models; none where none were measured."""
    with resources.as_file(resources.files("zoo.leaderboard").joinpath("assets", SHIPPED)) as path:
        return read(path) if path.is_file() else []


def to_table(rows: Sequence[Representation]) -> str:
    """Return markdown: a table for each data set and protocol, the best probe first, the pixels above all."""
    groups: dict[tuple[str, str, bool], list[Representation]] = {}
    for row in rows:
        groups.setdefault((row.data, row.split, row.quick), []).append(row)
    return "\n\n".join(_one_table(*key, group) for key, group in sorted(groups.items())) or "No features measured yet."


def _one_table(data: str, split: str, quick: bool, rows: Sequence[Representation]) -> str:
    head = ["model", "features", "D", *(heading for heading, _ in _MEASURED.values()), "probe, k-NN before training"]
    lines = [f"{data}, {split} split{' (quick)' if quick else ''}:", ""]
    lines += [f"| {' | '.join(head)} |", f"|{'---|' * 3}{'---:|' * (len(head) - 3)}"]
    first = rows[0]
    pixels = [_cell(first, f"{name}_pixels", name) for name in _MEASURED]
    lines.append(f"| - | the pixels themselves | - | {' | '.join(pixels)} | - |")
    for row in sorted(rows, key=lambda r: -r.metrics.get("probe_accuracy", 0.0)):
        before = [_cell(row, f"{name}_untrained", name) for name in ("probe_accuracy", "knn_accuracy")]
        kind = row.kind + (" (collapsed)" if row.collapsed else "")
        cells = [f"`{row.name}`", kind, str(row.dimensions), *(_cell(row, name, name) for name in _MEASURED)]
        lines.append(f"| {' | '.join([*cells, ', '.join(before)])} |")
    return "\n".join(lines)


def _cell(row: Representation, name: str, kind: str) -> str:
    return _MEASURED[kind][1].format(row.metrics[name]) if name in row.metrics else "-"
