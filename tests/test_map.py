"""The map leads to what is there, and to every room."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import zoo

ROOT = Path(zoo.__file__).parent
MAP = (Path(__file__).parent.parent / "docs" / "map.md").read_text(encoding="utf-8")
PLACES = re.findall(r"`((?:families|maths|nets)/\w+\.py)`((?:,? `[\w.]+`)+)", MAP)


def test_every_place_on_the_map_is_there() -> None:
    assert len(PLACES) > 40
    for file, names in PLACES:
        module = importlib.import_module("zoo." + file.removesuffix(".py").replace("/", "."))
        for name in re.findall(r"`([\w.]+)`", names):
            found = module
            for part in name.split("."):
                assert hasattr(found, part), f"{file} has no {name}"
                found = getattr(found, part)


def test_every_room_is_on_the_map() -> None:
    rooms = {p.name + "/" for p in ROOT.iterdir() if p.is_dir() and (p / "__init__.py").is_file()}
    assert not [room for room in rooms if room not in MAP]
