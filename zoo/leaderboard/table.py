"""Results -> one table for each data set and track, sorted, with marks.

A row whose protocol is not that of the others is marked and not ranked with them. Rows on a Pareto front are named: no
other row both is of better quality and draws faster, or was cheaper to train.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from zoo.errors import ConfigError, close_matches
from zoo.leaderboard.columns import ALIASES, COLUMNS, DISTANCES, Column, Value, likelihood, mark_of
from zoo.plain_sampling import departures, of_plain_model
from zoo.results import Result

__all__ = ["COLUMNS", "HOME_TFLOP", "TRACKS", "Column", "Row", "Table", "likelihood", "tables", "track"]

HOME_TFLOP = 50.0
TRACKS = {
    "home": f"home track: at most {HOME_TFLOP:.0f} TFLOP of training",
    "open": "open track: more training compute, or an unknown amount",
}
"""Track -> what it means. Rows of two tracks never share a table."""


@dataclass(frozen=True)
class Row:
    """One result in a table.

    Attributes:
        pareto: ``speed`` and ``compute``, where no other row that compares has both a better quality and more samples
            a second, or less training compute.
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
    pareto: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """All rows of one data set and track.

    Attributes:
        dataset: its name.
        track: a key of `TRACKS`.
        sort: key of the column that gives the order.
        columns: those in which some row has a value.
        rows: ranked ones first.
        quality: key of the column that the Pareto fronts take for quality.
        floor: real training images in the place of samples, by column.
        protocol: what the ranked rows have in common, by part.
        notes: mark -> sentence.
        how: mark -> how samples were drawn that were not simply drawn.
    """

    dataset: str
    track: str
    sort: str
    quality: str
    columns: tuple[Column, ...]
    rows: list[Row]
    floor: dict[str, Value]
    protocol: dict[str, dict[str, Any]]
    notes: dict[str, str]
    how: dict[str, str] = field(default_factory=dict)


def track(result: Result) -> str:
    """Return the track of a result: ``home`` where its training compute is known and within the limit."""
    spent = result.cost.training_tflop
    return "home" if spent is not None and spent <= HOME_TFLOP else "open"


def tables(
    results: Iterable[Result],
    *,
    dataset: str | None = None,
    family: str | None = None,
    sort: str | None = None,
    only: str | None = None,
) -> list[Table]:
    """Arrange results, one table for each data set and track.

    Args:
        results: from `zoo.leaderboard.collect`.
        dataset: only this one.
        family: only this one.
        sort: key of a column; by default FID, another Fréchet distance or KID where some row has it, else the
            likelihood.
        only: only this track.

    Raises:
        ConfigError: an unknown column, data set, family or track.
    """
    results = list(results)
    _check("data set", dataset, {r.data.name for r in results})
    _check("family", family, {r.identity.family for r in results})
    _check("track", only, set(TRACKS))
    sort = ALIASES.get(sort, sort) if sort is not None else None
    _check("column", sort, {*COLUMNS, *ALIASES})
    groups: dict[tuple[str, str], list[Result]] = {}
    for r in results:
        if dataset in (None, r.data.name) and family in (None, r.identity.family) and only in (None, track(r)):
            groups.setdefault((r.data.name, track(r)), []).append(r)
    return [_table(*key, groups[key], sort) for key in sorted(groups)]


def _check(what: str, asked: str | None, known: set[str]) -> None:
    if asked is not None and asked not in known:
        listed = ", ".join(sorted(known)) or "none"
        raise ConfigError(f"no {what} {asked!r} in these results.{close_matches(asked, known)} There are: {listed}")


def _table(dataset: str, of_track: str, results: Sequence[Result], sort: str | None) -> Table:
    columns = tuple(c for c in COLUMNS.values() if any(c.value(r) is not None for r in results))
    has = {name for r in results for name in r.metrics}
    usual = next(
        (n for n in ("fid", "frechet_lite0", "frechet_clips", "kid", "probe_accuracy") if n in has), "likelihood"
    )
    usual = "likelihood" if usual == "probe_accuracy" and any(likelihood(r) for r in results) else usual
    by = COLUMNS[sort or usual]
    quality = by.key if by.part in ("samples", "likelihood", "features") else usual
    common = {part: _common(part, results) for part in _PARTS}
    differs = [{part: _difference(_protocol(part, r), common[part]) for part in common} for r in results]
    for result, difference in zip(results, differs, strict=True):
        if mark_of(result) == "~ ":
            learnt = (result.protocol.likelihood or "").startswith("nce")
            difference["likelihood"] = (
                "an estimate whose normaliser is learnt, which may err to either side" if learnt
                else "an estimate of log Z that errs to the better side"
            )  # fmt: skip
    differs = [{part: text for part, text in d.items() if text} for d in differs]
    notes = _notes(differs)
    how = _how(results)
    fronts = {axis: _front(COLUMNS[quality], COLUMNS[key], results, differs) for axis, key in _AXES.items()}
    order = sorted(range(len(results)), key=lambda i: _place(by, results[i], differs[i]))
    rows, rank = [], 0
    for i in order:
        values = {c.key: c.value(results[i]) for c in columns}
        compares = by.part not in differs[i] and by.value(results[i]) is not None
        rank += compares
        shown = {c.key: _shown(c, results[i], differs[i], notes, how) for c in columns}
        pareto = tuple(axis for axis, front in fronts.items() if i in front)
        rows.append(Row(rank if compares else None, results[i], values, shown, differs[i], pareto))
    floors = [r.floor for r, d in zip(results, differs, strict=True) if r.floor and "samples" not in d]
    floor = {c.key: floors[0][c.key].value for c in columns if floors and c.key in floors[0]}
    notes = {mark: text for text, mark in notes.items()}
    how = {mark: text for text, mark in how.items()}
    return Table(dataset, of_track, by.key, quality, columns, rows, floor, common, notes, how)


_OWN = ("features", "energies", "prediction", "captions", "factors", "classes")
"""Parts whose protocol is an entry of the estimators."""

_PARTS = ("samples", "plain", "views", "likelihood", *_OWN, "speed")
"""What the numbers of a row depend on, each with a protocol of its own."""

_AXES = {"speed": "samples_per_second", "compute": "training_tflop"}


def _front(quality: Column, cost: Column, results: Sequence[Result], differs: Sequence[dict[str, str]]) -> set[int]:
    """Return which results nobody beats in quality and cost at once, among those that compare in both."""
    points: dict[int, tuple[float, float]] = {}
    for i, result in enumerate(results):
        a, b = quality.value(result), cost.value(result)
        compares = not {quality.part, cost.part} & set(differs[i])
        if compares and isinstance(a, (int, float)) and isinstance(b, (int, float)):
            points[i] = (a if quality.best == "low" else -a, b if cost.best == "low" else -b)
    if len(points) < 2:
        return set()  # alone in front of nobody
    return {i for i, p in points.items() if not any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points.values())}


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
    if part == "speed":
        return {"hardware": result.cost.hardware} if result.cost.samples_per_second is not None else {}
    data = {"split": d.split, "data_digest": d.digest}
    if part in ("plain", "views"):
        own = p.estimators.get(part)
        found = {**data, **{n: asdict(p)[n] for n in ("samples", "reference", "conditional")}} if own else {}
        return found | (dict(own) if own and part == "views" else {})
    if part in _OWN:
        own = p.estimators.get(part)
        return {**data, **own, "conditional": p.conditional} if own else {}
    if part == "samples" and p.samples is not None:
        names = ("samples", "reference", "extractor", "extractor_sha256", "quantised", "estimators", "conditional")
    elif part == "likelihood" and p.likelihood is not None:
        names = ("likelihood_examples", "likelihood_counting", "conditional")
    else:
        return {}
    found = data | {n: asdict(p)[n] for n in names}
    if part == "samples":  # the constants of other numbers are no part of it
        found["estimators"] = {k: v for k, v in p.estimators.items() if k not in (*_OWN, "views", "plain")}
    return found


def _common(part: str, results: Sequence[Result]) -> dict[str, Any]:
    """Return the protocol of most results on test data; of equally common ones, that with most samples or examples."""
    texts = [json.dumps(p, sort_keys=True) for r in results if (p := _protocol(part, r))]
    if not texts:
        return {}
    count = Counter(texts)

    def weight(text: str) -> tuple[bool, bool, int, int, str]:
        p = json.loads(text)
        return (
            p.get("split", "test") == "test",
            not p.get("conditional"),
            count[text],
            p.get("samples") or p.get("likelihood_examples") or 0,
            text,
        )

    return json.loads(max(count, key=weight))


def _difference(own: dict[str, Any], common: dict[str, Any]) -> str:
    """Say in what a protocol is not the common one; empty if it is, or if there is none."""
    parts = []
    for name, value in own.items():
        if not _equal(value, common[name]):
            words = name.replace("_", " ")
            length = 80 if name == "hardware" else 12
            short = [f"{v:,}" if type(v) is int else f"{str(v)[:length]}" for v in (value, common[name])]
            parts.append(f"{words} {short[0]}, not {short[1]}" if not isinstance(value, dict) else f"other {words}")
    return "; ".join(parts)


def _equal(own: Any, common: Any) -> bool:
    """Compare two values; of two mappings only what both have: a constant is missing where its metric is."""
    if isinstance(own, dict) and isinstance(common, dict):
        return all(own[k] == common[k] for k in own.keys() & common.keys())
    return own == common


def _notes(differs: Iterable[dict[str, str]]) -> dict[str, str]:
    texts = dict.fromkeys(text for d in differs for text in d.values())
    return {text: f"[{i}]" for i, text in enumerate(texts, 1)}


def _how(results: Iterable[Result]) -> dict[str, str]:
    """Return sentence -> mark, of samples that were not simply drawn and of the likelihoods beside them."""
    texts = dict.fromkeys(text for r in results for part in ("samples", "likelihood") if (text := how_of(r, part)))
    return {text: f"[{chr(ord('a') + i % 26)}{i // 26 or ''}]" for i, text in enumerate(texts)}


def how_of(result: Result, part: str) -> str:
    """Say how the samples of a result were drawn, or that its likelihood is of another thing; empty where both agree.

    Args:
        result: of an evaluation.
        part: ``samples`` or ``likelihood``.
    """
    protocol = asdict(result.protocol)
    if part == "likelihood":
        return LIKELIHOOD_OF_PLAIN if of_plain_model(protocol) and likelihood(result) is not None else ""
    return "; ".join(departures(protocol)) if protocol["samples"] is not None and part == "samples" else ""


LIKELIHOOD_OF_PLAIN = "likelihood of the plain model, whose samples beside it were drawn in another way"


def _shown(column: Column, result: Result, differs: dict[str, str], notes: dict[str, str], how: dict[str, str]) -> str:
    value = column.value(result)
    if value is None:
        return "-"
    text = column.show.format(value)
    if column.key in DISTANCES and result.metrics[column.key].per_seed and result.metrics[column.key].standard_error:
        text += " ± " + column.show.format(result.metrics[column.key].standard_error)
    if column.key == "name":
        text += " (quick)" if result.protocol.quick else ""
        text += "".join(f" ({flag})" for flag in result.flags)
    if column.part == "likelihood":
        text = f"{mark_of(result)}{text} {likelihood(result)[0]} {result.protocol.likelihood or ''}"  # type: ignore[index]
    manner = how_of(result, column.part) if column.key == "likelihood" or column.key in DISTANCES else ""
    text += f" {how[manner]}" if manner else ""
    return f"{text} {notes[differs[column.part]]}" if column.part in differs else text
