"""Results -> one table for each data set, sorted, with a mark on each row whose protocol is not that of the others."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from zoo.errors import ConfigError, close_matches
from zoo.results import Metric, Result

__all__ = ["COLUMNS", "Column", "Row", "Table", "likelihood", "tables"]

Value = float | int | str | None


@dataclass(frozen=True)
class Column:
    """One column: its key, its heading, where its value comes from and how it is shown.

    Attributes:
        best: ``low`` or ``high``, the direction in which rows are sorted.
        part: which protocol its numbers depend on: ``samples``, ``likelihood`` or none.
    """

    key: str
    heading: str
    value: Callable[[Result], Value]
    show: str = "{}"
    best: str = "low"
    part: str = ""


def _metric(name: str) -> Callable[[Result], Value]:
    return lambda result: result.metrics[name].value if name in result.metrics else None


def likelihood(result: Result) -> tuple[str, Metric] | None:
    """Return the unit (``bits/dim`` or ``nats``) and the value of a result's likelihood, if it has one."""
    for name, unit in (("bits_per_dim", "bits/dim"), ("nats", "nats")):
        if name in result.metrics:
            return unit, result.metrics[name]
    return None


def _likelihood_value(result: Result) -> Value:
    found = likelihood(result)
    return found[1].value if found else None


_COLUMNS = (
    Column("name", "model", lambda r: r.identity.name),
    Column("family", "family", lambda r: r.identity.family),
    Column("likelihood", "-log p", _likelihood_value, "{:.3f}", "low", "likelihood"),
    Column("fid", "FID", _metric("fid"), "{:.2f}", "low", "samples"),
    Column("kid", "KID", _metric("kid"), "{:.4f}", "low", "samples"),
    Column("inception_score", "IS", _metric("inception_score"), "{:.2f}", "high", "samples"),
    Column("precision", "precision", _metric("precision"), "{:.3f}", "high", "samples"),
    Column("recall", "recall", _metric("recall"), "{:.3f}", "high", "samples"),
    Column("confident_share", "confident", _metric("confident_share"), "{:.3f}", "high", "samples"),
    Column("parameters", "parameters", lambda r: r.cost.parameters, "{:,}"),
    Column("training_tflop", "TFLOP", lambda r: r.cost.training_tflop, "{:.1f}"),
    Column("samples_per_second", "samples/s", lambda r: r.cost.samples_per_second, "{:,.1f}", "high"),
    Column("network_calls_per_sample", "calls", lambda r: r.cost.network_calls_per_sample, "{:,}"),
)
COLUMNS = {c.key: c for c in _COLUMNS}
_ALIASES = {
    "bits_per_dim": "likelihood", "nats": "likelihood", "is": "inception_score", "model": "name",
    "tflop": "training_tflop", "calls": "network_calls_per_sample",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One result in a table.

    Attributes:
        rank: place among the rows that compare in the sorted column; None for those that do not, or lack the value.
        values: by column.
        shown: the same as text.
        differs: part of the protocol -> in what it is not that of the table.
    """

    rank: int | None
    result: Result
    values: dict[str, Value]
    shown: dict[str, str]
    differs: dict[str, str]


@dataclass(frozen=True)
class Table:
    """All rows of one data set.

    Attributes:
        dataset: its name.
        sort: key of the column that gives the order.
        columns: those in which some row has a value.
        rows: ranked ones first.
        floor: real training images in the place of samples, by column.
        protocol: what the ranked rows have in common, by part.
        notes: mark -> sentence.
    """

    dataset: str
    sort: str
    columns: tuple[Column, ...]
    rows: list[Row]
    floor: dict[str, Value]
    protocol: dict[str, dict[str, Any]]
    notes: dict[str, str]


def tables(
    results: Iterable[Result], *, dataset: str | None = None, family: str | None = None, sort: str | None = None
) -> list[Table]:
    """Arrange results, one table for each data set.

    Args:
        results: from `zoo.leaderboard.collect`.
        dataset: only this one.
        family: only this one.
        sort: key of a column; by default FID where some row has it, else the likelihood.

    Raises:
        ConfigError: an unknown column, data set or family.
    """
    results = list(results)
    _check("data set", dataset, {r.data.name for r in results})
    _check("family", family, {r.identity.family for r in results})
    sort = _ALIASES.get(sort, sort) if sort is not None else None
    _check("column", sort, {*COLUMNS, *_ALIASES})
    chosen = [r for r in results if dataset in (None, r.data.name) and family in (None, r.identity.family)]
    names = sorted({r.data.name for r in chosen})
    return [_table(name, [r for r in chosen if r.data.name == name], sort) for name in names]


def _check(what: str, asked: str | None, known: set[str]) -> None:
    if asked is not None and asked not in known:
        listed = ", ".join(sorted(known)) or "none"
        raise ConfigError(f"no {what} {asked!r} in these results.{close_matches(asked, known)} There are: {listed}")


def _table(dataset: str, results: Sequence[Result], sort: str | None) -> Table:
    columns = tuple(c for c in _COLUMNS if any(c.value(r) is not None for r in results))
    sort = sort or ("fid" if any("fid" in r.metrics for r in results) else "likelihood")
    by = COLUMNS[sort]
    common = {part: _common(part, results) for part in ("samples", "likelihood")}
    differs = [{part: _difference(_protocol(part, r), common[part]) for part in common} for r in results]
    differs = [{part: text for part, text in d.items() if text} for d in differs]
    notes = _notes(differs)
    order = sorted(range(len(results)), key=lambda i: _place(by, results[i], differs[i]))
    rows, rank = [], 0
    for i in order:
        values = {c.key: c.value(results[i]) for c in columns}
        compares = by.part not in differs[i] and by.value(results[i]) is not None
        rank += compares
        shown = {c.key: _shown(c, results[i], differs[i], notes) for c in columns}
        rows.append(Row(rank if compares else None, results[i], values, shown, differs[i]))
    floors = [r.floor for r, d in zip(results, differs, strict=True) if r.floor and "samples" not in d]
    floor = {c.key: floors[0][c.key].value for c in columns if floors and c.key in floors[0]}
    return Table(dataset, sort, columns, rows, floor, common, {mark: text for text, mark in notes.items()})


def _place(by: Column, result: Result, differs: dict[str, str]) -> tuple[Any, ...]:
    value = by.value(result)
    missing = value is None
    if missing or isinstance(value, str):
        return (by.part in differs, missing, value or "", result.identity.name)
    return (by.part in differs, missing, value if by.best == "low" else -value, result.identity.name)


# -- protocols --------------------------------------------------------------------------------------------------------


def _protocol(part: str, result: Result) -> dict[str, Any]:
    """Return what rows must share for their numbers to compare; empty if the result has none of these numbers."""
    p, d = result.protocol, result.data
    if part == "samples" and p.samples is not None:
        names = ("samples", "reference", "extractor", "extractor_sha256", "quantised", "estimators", "conditional")
    elif part == "likelihood" and p.likelihood is not None:
        names = ("likelihood_examples", "conditional")
    else:
        return {}
    return {"split": d.split, "data_digest": d.digest} | {n: asdict(p)[n] for n in names}


def _common(part: str, results: Sequence[Result]) -> dict[str, Any]:
    """Return the protocol of most results; of equally common ones, that with most samples or examples."""
    texts = [json.dumps(p, sort_keys=True) for r in results if (p := _protocol(part, r))]
    if not texts:
        return {}
    count = Counter(texts)

    def weight(text: str) -> tuple[bool, int, int, str]:
        p = json.loads(text)
        return (not p.get("conditional"), count[text], p.get("samples") or p.get("likelihood_examples") or 0, text)

    return json.loads(max(count, key=weight))


def _difference(own: dict[str, Any], common: dict[str, Any]) -> str:
    """Say in what a protocol is not the common one; empty if it is, or if there is none."""
    parts = []
    for name, value in own.items():
        if value != common[name]:
            words = name.replace("_", " ")
            short = [f"{v:,}" if type(v) is int else f"{str(v)[:12]}" for v in (value, common[name])]
            parts.append(f"{words} {short[0]}, not {short[1]}" if not isinstance(value, dict) else f"other {words}")
    return "; ".join(parts)


def _notes(differs: Iterable[dict[str, str]]) -> dict[str, str]:
    texts = dict.fromkeys(text for d in differs for text in d.values())
    return {text: f"[{i}]" for i, text in enumerate(texts, 1)}


def _shown(column: Column, result: Result, differs: dict[str, str], notes: dict[str, str]) -> str:
    value = column.value(result)
    if value is None:
        return "-"
    text = column.show.format(value)
    if column.key == "name" and result.protocol.quick:
        text += " (quick)"
    if column.part == "likelihood":
        kind = result.protocol.likelihood or ""
        text = f"{'' if kind in ('exact', 'ode') else '≤ '}{text} {likelihood(result)[0]} {kind}"  # type: ignore[index]
    return f"{text} {notes[differs[column.part]]}" if column.part in differs else text
