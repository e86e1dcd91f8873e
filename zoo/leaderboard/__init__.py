"""Results -> tables. Works on data alone: importing it imports no torch."""

from zoo.leaderboard.collect import bundled_folder, collect, default_folders, find, pins_of
from zoo.leaderboard.columns import COLUMNS
from zoo.leaderboard.page import site, write_site
from zoo.leaderboard.published import published_table
from zoo.leaderboard.readme import home_table, model_table, rewrite
from zoo.leaderboard.render import to_csv, to_json, to_markdown, to_text
from zoo.leaderboard.table import TRACKS, Table, tables

__all__ = [
    "COLUMNS",
    "TRACKS",
    "Table",
    "bundled_folder",
    "collect",
    "default_folders",
    "find",
    "home_table",
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
