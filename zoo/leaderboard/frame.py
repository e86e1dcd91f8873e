"""The tables as a frame of pandas: ``zoo.leaderboard()``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import ResultError
from zoo.leaderboard.collect import default_folders, find, pins_of
from zoo.leaderboard.columns import COLUMNS
from zoo.leaderboard.table import TRACKS, tables
from zoo.registry import load_registry

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["leaderboard"]


def leaderboard(
    dataset: str | None = None,
    *,
    family: str | None = None,
    track: str | None = None,
    sort: str | None = None,
    folders: Iterable[str | Path] = (),
) -> DataFrame:
    """Return all known results, a row for each, as ``zoo leaderboard`` shows them.

    Args:
        dataset: only this one, such as ``mnist``.
        family: only this one, such as ``gan``.
        track: only this one, ``home`` or ``open``.
        sort: the column by which rows are in order; by default the first distance that a table has.
        folders: look here too; always in bundled weights, ``./results`` and ``./runs``.

    Returns:
        a DataFrame. ``dataset``, ``split``, ``track`` and ``rank`` come first; then the columns of the tables by their
        keys (``fid``, ``likelihood`` in ``unit``, ``training_tflop``, ``samples_per_second``, ...), missing where
        nothing was measured; last ``pareto`` and ``differs``, in what a row that has no rank is not comparable. Which
        way is better is ``frame.attrs["best"]``, and what was left out ``frame.attrs["left_out"]``.

    Raises:
        ResultError: pandas is not installed, or a folder does not exist.
        ConfigError: an unknown column, track, data set or family.
    """
    try:
        import pandas
    except ImportError as error:
        raise ResultError(
            "zoo.leaderboard() is a frame of pandas, which is not installed; `zoo leaderboard --json` has the same"
        ) from error
    from zoo.leaderboard.columns import likelihood

    known = [folder for folder in default_folders() if folder.is_dir()]
    found, left_out = find([*known, *map(Path, folders)], pins_of(load_registry()))
    results = [result for result, _ in found]
    arranged = tables(results, dataset=dataset, family=family, sort=sort, only=track) if results else []
    rows = [
        {"dataset": table.dataset, "split": row.result.data.split, "track": table.track, "rank": row.rank,
         **{key: row.values.get(key) for key in COLUMNS}, "unit": (likelihood(row.result) or (None,))[0],
         "pareto": ", ".join(row.pareto), "differs": "; ".join(f"{k}: {v}" for k, v in row.differs.items())}
        for table in arranged for row in table.rows
    ]  # fmt: skip
    head = ("dataset", "split", "track", "rank", *COLUMNS, "unit", "pareto", "differs")
    frame = pandas.DataFrame(rows, columns=list(head))
    frame["rank"] = frame["rank"].astype("Int64")
    frame.attrs = {"best": {key: c.best for key, c in COLUMNS.items()}, "left_out": left_out, "tracks": dict(TRACKS)}
    return frame.dropna(axis=1, how="all") if len(frame) else frame
