"""The web page of the leaderboard: one HTML file with all data, styles and pictures inside, and a card for a Space.

It asks the network for nothing: its content security policy allows its own script, by hash, and inlined pictures only.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ResultError
from zoo.files import leads_out, write_together
from zoo.leaderboard.collect import bundled_folder
from zoo.leaderboard.columns import COLUMNS, DISTANCES, Column, likelihood, mark_of
from zoo.leaderboard.markdown import to_html
from zoo.leaderboard.table import TRACKS, Row, Table
from zoo.plain_sampling import of_plain_model, short_departures
from zoo.representations import shipped, to_table
from zoo.results import Result

if TYPE_CHECKING:
    from zoo.registry import Entry

__all__ = ["site", "write_site"]

_SHEET, _CARD = "samples.png", "README.md"
_SOUND, _TEXTS = "samples.wav", "samples.txt"
_LARGEST, _CHARACTERS = 4 << 20, 20_000
_SPACE = """---
title: Generative models, compared
emoji: 🔢
colorFrom: green
colorTo: gray
sdk: static
app_file: index.html
pinned: false
license: apache-2.0
---

The leaderboard of generative-zoo: every number with the protocol that made it. `index.html` is self-contained and was
made by `zoo leaderboard --html DIR`; make it again rather than edit it.
"""


def write_site(
    folder: str | Path,
    tables: Sequence[Table],
    folders: Mapping[int, Path],
    registry: Mapping[str, Entry],
    left_out: Sequence[str] = (),
) -> Path:
    """Write the files of `site` into a folder, all at once or none; return the path of the page.

    Raises:
        ResultError: the folder cannot be written.
    """
    folder = Path(folder)
    try:
        texts = site(tables, folders, registry, left_out)
        write_together({folder / name: text for name, text in texts.items()})
    except OSError as error:
        raise ResultError(f"the page cannot be written to {folder}: {error.strerror or error}") from error
    return folder / "index.html"


def site(
    tables: Sequence[Table],
    folders: Mapping[int, Path],
    registry: Mapping[str, Entry],
    left_out: Sequence[str] = (),
) -> dict[str, str]:
    """Return file name -> text: ``index.html``, and the ``README.md`` that makes the folder a static Space.

    Args:
        tables: from `zoo.leaderboard.tables`.
        folders: ``id`` of a result -> the folder of its eval.json, where its card and its sheet of samples are.
        registry: names and entries, for summaries and papers.
        left_out: sentences about results that are not ranked.
    """
    content = {
        "columns": {key: _column(column) for key, column in COLUMNS.items()},
        "tables": [_table(table, folders, registry) for table in tables],
        "tracks": TRACKS,
        "leftOut": list(left_out),
    }
    data = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character, escape in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"), ("\u2028", "\\u2028")):
        data = data.replace(character, escape)
    script, style, page = (_asset(name) for name in ("page.js", "page.css", "page.html"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    features = to_html(to_table(shipped()))
    for mark, text in (
        ("{{digest}}", digest),
        ("{{style}}", style),
        ("{{data}}", data),
        ("{{script}}", script),
        ("{{features}}", features),
    ):
        head, _, tail = page.partition(mark)
        page = head + text + tail
    return {"index.html": page, "README.md": _SPACE}


def _asset(name: str) -> str:
    return resources.files("zoo.leaderboard").joinpath("assets", name).read_text(encoding="utf-8")


def _column(column: Column) -> dict[str, Any]:
    return {
        "heading": column.heading, "best": column.best, "part": column.part, "narrow": column.narrow,
        "note": column.note, "number": column.show != "{}",
    }  # fmt: skip


def _table(table: Table, folders: Mapping[int, Path], registry: Mapping[str, Entry]) -> dict[str, Any]:
    shared = table.protocol["samples"]
    return {
        "key": f"{table.dataset}/{table.track}", "dataset": table.dataset, "track": table.track,
        "split": table.rows[0].result.data.split, "sort": table.sort, "quality": table.quality,
        "columns": [c.key for c in table.columns if c.key != "family"],
        "samples": shared.get("samples"), "extractor": shared.get("extractor"),
        "floor": {k: COLUMNS[k].show.format(v) for k, v in table.floor.items()},
        "rows": [_row(row, table, folders.get(id(row.result)), registry) for row in table.rows],
    }  # fmt: skip


def _row(row: Row, table: Table, folder: Path | None, registry: Mapping[str, Entry]) -> dict[str, Any]:
    result = row.result.to_dict()
    identity = {k: v for k, v in result["identity"].items() if k != "spec"}
    name = row.result.identity.name
    entry = registry.get(name)
    folder = _with_pictures(folder, row.result)
    sheet = _sheet(folder, row.result)
    key = hashlib.sha256(json.dumps([table.dataset, table.track, name, result["protocol"]]).encode()).hexdigest()[:6]
    return {
        "id": f"{''.join(c if c.isalnum() or c in '-_.' else '-' for c in name)}-{key}", "name": name,
        "family": row.result.identity.family, "summary": entry.summary if entry is not None else "",
        "paper": dict(entry.paper) if entry is not None else {},
        "rank": row.rank, "pareto": list(row.pareto), "differs": row.differs, "values": row.values,
        "texts": {c.key: _text(c, row) for c in table.columns}, "quick": row.result.protocol.quick,
        "kind": row.result.protocol.likelihood, "unit": (likelihood(row.result) or ("",))[0],
        "card": _card(folder, sheet), "sheet": sheet, "sound": _sound(folder), "lines": _lines(folder),
        "result": {**result, "identity": identity},
    }  # fmt: skip


def _text(column: Column, row: Row) -> str | None:
    value = row.values[column.key]
    if value is None:
        return None
    text = (mark_of(row.result) if column.part == "likelihood" else "") + column.show.format(value)
    protocol = asdict(row.result.protocol)
    if column.key in DISTANCES and column.part == "samples" and (how := short_departures(protocol)):
        return f"{text} ({how})"
    return f"{text} (plain)" if column.part == "likelihood" and of_plain_model(protocol) else text


def _with_pictures(folder: Path | None, result: Result) -> Path | None:
    """Return the folder with card and samples: that of the result, or the bundled one of the same weights."""
    if folder is not None and (folder / _SHEET).is_file():
        return folder
    bundled = bundled_folder() / result.identity.name
    own = result.identity.weights_sha256
    if "/" not in result.identity.name and os.path.isfile(bundled / "config.json"):
        recorded = json.loads((bundled / "config.json").read_text(encoding="utf-8")).get("weights") or {}
        if recorded.get("sha256") == own:
            return bundled
    return folder


def _sheet(folder: Path | None, result: Result) -> dict[str, Any] | None:
    """Return the sheet of samples as an address, with its layout where that follows from its size; None without."""
    raw = _bytes(folder, _SHEET)
    if raw is None or raw[:8] != b"\x89PNG\r\n\x1a\n" or raw[12:16] != b"IHDR":
        return None
    width, height = (int.from_bytes(raw[at : at + 4], "big") for at in (16, 20))
    source = "data:image/png;base64," + base64.b64encode(raw).decode()
    shape = list(result.data.shape)
    if len(shape) == 4 and b"acTL" in raw[:256]:  # an animated PNG, whose cells are clips that play
        shape = [shape[0], *shape[2:]]
    return {"source": source, "width": width, "height": height, **_layout(width, height, shape)}


def _layout(width: int, height: int, shape: Sequence[int]) -> dict[str, int]:
    """Return columns, rows and scale of a sheet of images (C, H, W), or of the frames of videos (C, T, H, W), which
    are a row each, one pixel apart; empty if none fits."""
    if len(shape) not in (3, 4):
        return {}
    tall, wide = shape[-2:]
    for scale in range(1, 17):
        columns, right = divmod(width / scale - 1, wide + 1)
        rows, below = divmod(height / scale - 1, tall + 1)
        if right == below == 0 and columns >= 1 and rows >= 1 and (len(shape) == 3 or columns == shape[1]):
            layout = {"columns": int(columns), "rows": int(rows), "scale": scale, "tile": wide, "tall": tall}
            return layout if len(shape) == 3 else {**layout, "frames": shape[1]}
    return {}


def _sound(folder: Path | None) -> str | None:
    """Return the recording of samples as an address, None where there is none."""
    raw = _bytes(folder, _SOUND)
    if raw is None or raw[:4] != b"RIFF" or raw[8:12] != b"WAVE":
        return None
    return "data:audio/wav;base64," + base64.b64encode(raw).decode()


def _lines(folder: Path | None) -> str | None:
    """Return the texts that were drawn, None where there are none."""
    raw = _bytes(folder, _TEXTS)
    return None if raw is None else raw.decode("utf-8", "replace")[:_CHARACTERS]


def _card(folder: Path | None, sheet: Mapping[str, Any] | None) -> str | None:
    raw = _bytes(folder, _CARD)
    images = {_SHEET: "#sheet"} if sheet is not None else {}  # the page puts the sheet in, which it holds once
    return to_html(raw.decode("utf-8", "replace"), images) if raw is not None else None


def _bytes(folder: Path | None, name: str) -> bytes | None:
    path = folder / name if folder is not None else None
    if path is None or not path.is_file() or path.stat().st_size > _LARGEST or leads_out(path):
        return None
    return path.read_bytes()
