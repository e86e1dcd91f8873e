"""Results -> tables. Works on data alone: importing it imports no torch."""

from zoo.leaderboard.collect import bundled_folder, collect, default_folders
from zoo.leaderboard.readme import model_table, rewrite
from zoo.leaderboard.render import to_json, to_markdown, to_text
from zoo.leaderboard.table import COLUMNS, Table, tables

__all__ = [
    "COLUMNS",
    "Table",
    "bundled_folder",
    "collect",
    "default_folders",
    "model_table",
    "rewrite",
    "tables",
    "to_json",
    "to_markdown",
    "to_text",
]
