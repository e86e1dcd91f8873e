"""Tables as text, markdown and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from zoo.leaderboard.columns import likelihood
from zoo.leaderboard.table import COLUMNS, TRACKS, Column, Row, Table

__all__ = ["FLOOR", "to_csv", "to_json", "to_markdown", "to_text"]

FLOOR = "training images (floor)"
_LEFT = ("model", "family", "Pareto")


def to_text(tables: Sequence[Table]) -> str:
    """Return the tables with aligned columns, for a terminal."""
    return "\n\n".join(_text(t) for t in tables)


def to_markdown(tables: Sequence[Table]) -> str:
    """Return the tables in markdown, a heading for each data set."""
    return "\n\n".join(_markdown(t) for t in tables)


def to_json(tables: Sequence[Table], left_out: Sequence[str] = ()) -> str:
    """Return the tables as JSON: rows with rank, values, protocol and differences, and what was left out."""
    content = {
        "tables": [
            {
                "dataset": t.dataset, "track": t.track, "sort": t.sort, "quality": t.quality,
                "protocol": t.protocol, "floor": t.floor,
                "rows": [_row_content(r) for r in t.rows],
            }
            for t in tables
        ],
        "left_out": list(left_out),
    }  # fmt: skip
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)


def to_csv(tables: Sequence[Table]) -> str:
    """Return all rows of all tables as one CSV file: identity, every column as a plain number, and the protocol.

    An empty cell is no number. ``unit`` and ``kind`` are of the likelihood, ``differs`` says why a row has no rank, and
    ``sampler`` is JSON. A row named ``training images (floor)`` closes each table that has a floor.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [*_CSV_HEAD, *COLUMN_KEYS, *_CSV_TAIL], lineterminator="\n")
    writer.writeheader()
    for table in tables:
        writer.writerows(_csv_row(table, row) for row in table.rows)
        if table.floor:
            writer.writerow({"dataset": table.dataset, "track": table.track, "name": FLOOR, **table.floor})
    return stream.getvalue()


_CSV_HEAD = ("dataset", "split", "track", "rank", "name", "family")
_CSV_TAIL = (
    *("unit", "kind", "extractor", "samples", "sampler", "seeds", "conditional", "ema", "quick", "pareto", "differs"),
    *("weights_sha256", "command"),
)
COLUMN_KEYS = tuple(key for key in COLUMNS if key not in _CSV_HEAD)


def _csv_row(table: Table, row: Row) -> dict[str, Any]:
    result, protocol = row.result, row.result.protocol
    found = likelihood(result)
    return {
        "dataset": table.dataset, "split": result.data.split, "track": table.track, "rank": row.rank,
        "name": result.identity.name, "family": result.identity.family,
        **{key: COLUMNS[key].value(result) for key in COLUMN_KEYS},
        "unit": found[0] if found else None, "kind": protocol.likelihood, "extractor": protocol.extractor,
        "samples": protocol.samples, "sampler": json.dumps(protocol.sampler, sort_keys=True),
        "seeds": " ".join(map(str, protocol.seeds)), "conditional": protocol.conditional, "ema": protocol.ema,
        "quick": protocol.quick, "pareto": " ".join(row.pareto), "differs": "; ".join(row.differs.values()),
        "weights_sha256": result.identity.weights_sha256, "command": result.command,
    }  # fmt: skip


def _row_content(row: Row) -> dict[str, Any]:
    result = row.result.to_dict()
    kept = {k: result[k] for k in ("identity", "data", "protocol", "metrics", "cost", "flags", "command")}
    kept["identity"] = {k: v for k, v in kept["identity"].items() if k != "spec"}
    return {"rank": row.rank, **row.values, "differs": row.differs, "pareto": list(row.pareto), "result": kept}


def _columns(table: Table) -> list[Column]:
    return [c for c in table.columns if c.narrow or c.key == table.sort]


def _cells(table: Table) -> tuple[list[str], list[list[str]]]:
    columns = _columns(table)
    head = ["#", *(c.heading for c in columns), "Pareto"]
    body = [
        [str(row.rank or "-"), *(row.shown[c.key] for c in columns), " + ".join(row.pareto) or "-"]
        for row in table.rows
    ]
    if table.floor:
        floor = {"name": FLOOR} | {c.key: c.show.format(table.floor[c.key]) for c in columns if c.key in table.floor}
        body.append(["", *(floor.get(c.key, "") for c in columns), ""])
    return head, body


def _text(table: Table) -> str:
    head, body = _cells(table)
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    left = {i for i, heading in enumerate(head) if heading in _LEFT}
    lines = [_line(line, widths, left) for line in [head, ["-" * w for w in widths], *body]]
    return "\n".join([_title(table), "", *lines, *_footnotes(table)])


def _line(cells: Sequence[str], widths: Sequence[int], left: set[int]) -> str:
    aligned = [c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
    return "  ".join(aligned).rstrip()


def _markdown(table: Table) -> str:
    head, body = _cells(table)
    rule = ["---" if h in _LEFT else "---:" for h in head]
    lines = [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in [head, rule, *body]]
    notes = [line for note in _footnotes(table) for line in ("", note)]
    return "\n".join([f"### {_title(table)}", "", *lines, *notes])


def _title(table: Table) -> str:
    shared = table.protocol["samples"]
    details = f", {shared['samples']:,} samples through {shared['extractor']}" if shared else ""
    return f"{table.dataset} ({table.rows[0].result.data.split} split{details}), {TRACKS[table.track]}"


def _footnotes(table: Table) -> list[str]:
    notes = [f"{mark} another protocol, not ranked with the rest: {text}" for mark, text in table.notes.items()]
    notes += [f"{mark} {text}" for mark, text in table.how.items()]
    if any(any(m.per_seed for m in row.result.metrics.values()) for row in table.rows):
        notes.append("±: standard error over seeds of sampling")
    if any(row.pareto for row in table.rows):
        notes.append(
            f"Pareto: no row has both a better {COLUMNS[table.quality].heading} and more samples/s (speed), or less "
            f"training compute (compute)"
        )
    if any("memorised" in row.result.flags for row in table.rows):
        notes.append("memorised: more samples than expected are too near to training images")
    if any("small_split" in row.result.flags for row in table.rows):
        notes.append("small_split: the split has under 1,000 examples, so that small differences mean nothing")
    return notes
