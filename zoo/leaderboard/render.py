"""Tables as text, markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from zoo.leaderboard.table import Row, Table

__all__ = ["FLOOR", "to_json", "to_markdown", "to_text"]

FLOOR = "training images (floor)"


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
                "dataset": t.dataset, "sort": t.sort, "protocol": t.protocol, "floor": t.floor,
                "rows": [_row_content(r) for r in t.rows],
            }
            for t in tables
        ],
        "left_out": list(left_out),
    }  # fmt: skip
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)


def _row_content(row: Row) -> dict[str, Any]:
    result = row.result.to_dict()
    kept = {k: result[k] for k in ("identity", "data", "protocol", "metrics", "cost", "command")}
    kept["identity"] = {k: v for k, v in kept["identity"].items() if k != "spec"}
    return {"rank": row.rank, **row.values, "differs": row.differs, "result": kept}


def _cells(table: Table) -> tuple[list[str], list[list[str]]]:
    head = ["#", *(c.heading for c in table.columns)]
    body = [[str(row.rank or "-"), *(row.shown[c.key] for c in table.columns)] for row in table.rows]
    if table.floor:
        floor = {"name": FLOOR} | {
            c.key: c.show.format(table.floor[c.key]) for c in table.columns if c.key in table.floor
        }
        body.append(["", *(floor.get(c.key, "") for c in table.columns)])
    return head, body


def _text(table: Table) -> str:
    head, body = _cells(table)
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    left = {i + 1 for i, c in enumerate(table.columns) if c.key in ("name", "family")}
    lines = [_line(line, widths, left) for line in [head, ["-" * w for w in widths], *body]]
    return "\n".join([_title(table), "", *lines, *_footnotes(table)])


def _line(cells: Sequence[str], widths: Sequence[int], left: set[int]) -> str:
    aligned = [c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
    return "  ".join(aligned).rstrip()


def _markdown(table: Table) -> str:
    head, body = _cells(table)
    left = {"model", "family"}
    rule = ["---" if h in left else "---:" for h in head]
    lines = [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in [head, rule, *body]]
    notes = [line for note in _footnotes(table) for line in ("", note)]
    return "\n".join([f"### {_title(table)}", "", *lines, *notes])


def _title(table: Table) -> str:
    shared = table.protocol["samples"]
    details = f", {shared['samples']:,} samples through {shared['extractor']}" if shared else ""
    return f"{table.dataset} ({table.rows[0].result.data.split} split{details})"


def _footnotes(table: Table) -> list[str]:
    return [f"{mark} another protocol, not ranked with the rest: {text}" for mark, text in table.notes.items()]
