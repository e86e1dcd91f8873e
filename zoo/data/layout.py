"""What the folders of a data set mean: splits, classes, or a folder around both; and how files are divided into splits.

Recognised are ``train/cat/1.png`` with ``val``, ``valid``, ``validation`` and ``test`` beside ``train`` (and what else
`SPLIT_NAMES` lists, in any case), ``cat/train/1.png``, ``cat/1.png``, pictures without folders, and all of these inside
folders that hold nothing else. What could be read in two ways is refused, and an option says which is meant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from zoo.classes import same_text
from zoo.data.base import derive_seed
from zoo.data.sources import Parts
from zoo.errors import ConfigError, DataError

__all__ = ["LAYOUTS", "SPLITS", "SPLIT_NAMES", "Layout", "arrange", "divide", "share"]

SPLITS = ("train", "validation", "test")

SPLIT_NAMES = {
    "train": "train", "training": "train", "trn": "train", "train_set": "train", "trainset": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "validate": "validation",
    "dev": "validation", "development": "validation", "val_set": "validation", "valset": "validation",
    "test": "test", "testing": "test", "tst": "test", "test_set": "test", "testset": "test",
}  # fmt: skip
"""Names of folders, in lower case, that are splits."""

LAYOUTS = ("auto", "splits", "classes", "flat")

Example = tuple[Parts, str | None]
"""A file and the name of its class, None where it has none."""


@dataclass
class Layout:
    """Files by split: those of a split's own folder, or under ``train`` all that are still to be divided.

    Attributes:
        classes: names of the classes, in the order of their labels.
        loose: files beside class folders, which have no class; they are in no split.
        unknown: files of classes that training does not have; they are in no split.
    """

    examples: dict[str, list[Example]]
    classes: tuple[str, ...] = ()
    loose: list[Parts] = field(default_factory=list)
    unknown: list[Parts] = field(default_factory=list)


def arrange(files: Sequence[Parts], where: str, layout: str = "auto", *, classes: bool = True) -> Layout:
    """Return which file belongs to which split and class.

    Args:
        files: sorted.
        where: they are, for messages.
        layout: ``auto``; ``splits`` or ``classes``, what the outermost folders are; ``flat``, which means nothing by
            folders.
        classes: whether folders below the splits are classes.

    Raises:
        ConfigError: no such layout.
        DataError: folders that mean nothing together, or could mean two things.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if layout == "flat":
        return Layout({"train": [(parts, None) for parts in files]})
    inner = _unwrapped(files)
    split_of = {} if layout == "classes" else _outer_splits(inner, where, forced=layout == "splits")
    if split_of:
        own: dict[str, list[tuple[Parts, Parts]]] = {}
        for parts, rest in zip(files, inner, strict=True):
            if len(rest) > 1 and rest[0] in split_of:
                own.setdefault(split_of[rest[0]], []).append((parts, rest[1:]))
    elif layout == "auto" and _splits_within_classes(inner, where):
        own = {}
        for parts, rest in zip(files, inner, strict=True):
            own.setdefault(_split(rest[1]) or "", []).append((parts, (rest[0], *rest[2:])))
    else:
        own = {"train": list(zip(files, inner, strict=True))}
    if not classes:
        return Layout({split: [(parts, None) for parts, _ in members] for split, members in own.items()})
    return _classified(own, where)


def _split(name: str) -> str | None:
    return SPLIT_NAMES.get(name.casefold().replace("-", "_").replace(" ", "_"))


def _unwrapped(files: Sequence[Parts]) -> list[Parts]:
    """Return the files without the folders around everything, which hold one folder and nothing else."""
    inner = list(files)
    while (
        inner
        and all(len(parts) > 2 for parts in inner)
        and len({parts[0] for parts in inner}) == 1
        and _split(inner[0][0]) is None
    ):
        inner = [parts[1:] for parts in inner]
    return inner


def _outer_splits(files: Sequence[Parts], where: str, *, forced: bool) -> dict[str, str]:
    """Return the split that each outermost folder is; nothing where they are classes."""
    outer = sorted({parts[0] for parts in files if len(parts) > 1})
    found = {name: split for name in outer if (split := _split(name)) is not None}
    if not found:
        if forced:
            raise DataError(f"{where} has no folder that is a split: it needs train, and may have validation and test")
        return {}
    others = [name for name in outer if name not in found]
    loose = sum(len(parts) == 1 for parts in files)
    if (others or loose) and not forced:
        beside = (
            f"the folder {others[0]!r}"
            if others
            else f"{loose} files such as {next(p[0] for p in files if len(p) == 1)!r}"
        )
        raise DataError(
            f"{where} has {beside} beside {next(iter(found))!r}, so that it is not clear whether its folders are "
            "splits or classes; say which with --data.layout splits (leaves out the rest) or --data.layout classes"
        )
    for split in SPLITS:
        names = [name for name, own in found.items() if own == split]
        if len(names) > 1:
            raise DataError(f"{where} has two folders for the {split} split, {names[0]!r} and {names[1]!r}; leave one")
    if "train" not in found.values():
        raise DataError(
            f"{where} has a folder {next(iter(found))!r} and none for training; add one called train, or say "
            "--data.layout classes if its folders are classes"
        )
    return found


def _splits_within_classes(files: Sequence[Parts], where: str) -> bool:
    """Tell whether each class has splits inside, as in ``cat/train/1.png``."""
    inside = {_split(parts[1]) for parts in files if len(parts) > 2}
    if "train" not in inside:
        return False
    if inside <= set(SPLITS) and all(len(parts) > 2 for parts in files):
        return True
    raise DataError(
        f"{where} has folders for splits inside some of its folders and other files beside them; move the splits "
        "outermost, as in train/cat/1.png, or say --data.layout classes to take what is in a class as one"
    )


def _classified(own: Mapping[str, Sequence[tuple[Parts, Parts]]], where: str) -> Layout:
    """Give files their classes: those of training, in the order of their names, for all splits."""
    raw = sorted({rest[0] for _, rest in own.get("train", ()) if len(rest) > 1})
    classes = tuple(same_text(name) for name in raw)
    folded: dict[str, str] = {}
    for name in raw:
        other = folded.setdefault(same_text(name).casefold(), name)
        if other != name:
            raise DataError(
                f"{where} has the class folders {other!r} and {name!r}, which are one name; merge or rename"
            )
    layout = Layout({split: [] for split in own}, classes)
    for split, members in own.items():
        for parts, rest in members:
            name = same_text(rest[0]) if len(rest) > 1 else None
            if name is None and (classes or any(len(r) > 1 for _, r in members)):
                layout.loose.append(parts)
            elif name is not None and name not in classes:
                layout.unknown.append(parts)
            else:
                layout.examples[split].append((parts, name))
    return layout


def share(value: float, total: int, option: str) -> int:
    """Return how many of ``total`` files a split takes: a share below 1, or from 1 on a number of files; at least one.

    Raises:
        ConfigError: neither.
    """
    if not (math.isfinite(value) and value > 0) or (value >= 1 and value != int(value)):
        raise ConfigError(f"{option} must be a share between 0 and 1, or a whole number of files, got {value:g}")
    return max(1, math.floor(value * total + 1e-9)) if value < 1 else int(value)


def divide(examples: Sequence[Example], where: str, held: Mapping[str, float]) -> dict[str, list[Example]]:
    """Divide examples by a fixed seed into the splits of ``held``, each with its share, and training.

    Raises:
        DataError: nothing is left for training.
    """
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(derive_seed(0))).tolist()
    found: dict[str, list[Example]] = {}
    first = 0
    for split in ("test", "validation"):
        if split in held:
            count = share(held[split], len(examples), f"--data.{split}")
            found[split] = [examples[i] for i in sorted(order[first : first + count])]
            first += count
    if first >= len(examples):
        raise DataError(
            f"{where} holds {len(examples)} files for training, of which {' and '.join(sorted(held))} take {first}; "
            "add more, or set --data.validation and --data.test lower"
        )
    found["train"] = [examples[i] for i in sorted(order[first:])]
    return found
