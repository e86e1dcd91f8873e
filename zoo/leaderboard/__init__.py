"""Results -> tables. Works on data alone: importing it imports no torch.

The package can be called: ``zoo.leaderboard()`` is `zoo.leaderboard.frame.leaderboard`, a frame of pandas. A function
of that name would hide the package, or be hidden by it, depending on which was imported first.
"""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from zoo.leaderboard.collect import bundled_folder, collect, default_folders, find, pins_of
from zoo.leaderboard.columns import COLUMNS
from zoo.leaderboard.frame import leaderboard
from zoo.leaderboard.page import site, write_site
from zoo.leaderboard.published import published_table
from zoo.leaderboard.readme import best_table, home_table, model_table, rewrite
from zoo.leaderboard.render import to_csv, to_json, to_markdown, to_text
from zoo.leaderboard.table import TRACKS, Table, tables

__all__ = [
    "COLUMNS",
    "TRACKS",
    "Table",
    "best_table",
    "bundled_folder",
    "collect",
    "default_folders",
    "find",
    "home_table",
    "leaderboard",
    "model_table",
    "pins_of",
    "published_table",
    "rewrite",
    "site",
    "tables",
    "to_csv",
    "to_json",
    "to_markdown",
    "to_text",
    "write_site",
]


class _Callable(ModuleType):
    __call__ = staticmethod(leaderboard)
    __signature__ = inspect.signature(leaderboard)


if not TYPE_CHECKING:
    sys.modules[__name__].__class__ = _Callable
