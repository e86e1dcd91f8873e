"""What papers report beside what the zoo measures: figures with their settings, and why ours are others.

Nothing here is ranked: data set, extractor, number of samples and likelihood are almost never the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from zoo.errors import ResultError
from zoo.leaderboard.readme import measured
from zoo.registry import plain_yaml
from zoo.results import Result

if TYPE_CHECKING:
    from zoo.registry import Entry

__all__ = ["Figure", "Published", "published", "published_table"]

FILE = "published.yaml"


@dataclass(frozen=True)
class Figure:
    """A number that somebody published.

    Attributes:
        figure: as it was written, with its unit.
        data: the data set.
        protocol: likelihood or extractor, number of samples, split, whatever the number depends on.
        source: paper, or repository and file.
        beside: the entry whose number stands beside it; by default those of the model.
        recalled: taken from memory of the source, and not looked up again.
    """

    figure: str
    data: str
    protocol: str
    source: str
    beside: str | None = None
    recalled: bool = False


@dataclass(frozen=True)
class Published:
    """What is known of one model.

    Attributes:
        figures: published ones; none where no paper has one that says anything of such data.
        differs: why ours is another number.
    """

    figures: tuple[Figure, ...]
    differs: str


def published() -> dict[str, Published]:
    """Return model, without its data set -> what is published of it. Raises `ResultError` for a malformed file."""
    content = plain_yaml(resources.files("zoo.leaderboard").joinpath(FILE).read_text(encoding="utf-8"))
    found = {}
    for name, items in content.items():
        reasons = [item["differs"] for item in items if set(item) == {"differs"}]
        if len(reasons) != 1:
            raise ResultError(f"{FILE}: {name} must say once in what ours differs")
        try:
            found[name] = Published(tuple(Figure(**item) for item in items if "differs" not in item), reasons[0])
        except TypeError as error:
            raise ResultError(f"{FILE}: {name}: {error}") from error
    return found


def published_table(registry: Mapping[str, Entry], results: Iterable[Result]) -> str:
    """Return the markdown of all models: published figures, ours, and why they differ.

    Args:
        registry: names and entries.
        results: those of bundled weights, of which ours are taken.
    """
    ours: dict[str, dict[str, str]] = {}
    for result in results:
        entry = registry.get(result.identity.name)
        if entry is not None and entry.dataset == result.data.name and result.data.split == "test":
            ours.setdefault(entry.model_name, {})[entry.name] = measured(result)
    lines = ["| model | published | on | protocol | source | ours | why they differ |", "|" + "---|" * 7]
    for name, known in published().items():
        mine = ours.get(name, {})
        for i, figure in enumerate(known.figures or (None,)):
            lines.append(_line(name, figure, mine, known.differs if i == 0 else "as above"))
    return "\n".join(lines)


def _line(name: str, figure: Figure | None, ours: Mapping[str, str], differs: str) -> str:
    own = ours
    if figure is not None and figure.beside is not None:
        own = {figure.beside: ours[figure.beside]} if figure.beside in ours else {}
    figures = "; ".join(f"`{entry}`: {text}" for entry, text in own.items()) or "no weights"
    cells: list[Any] = [f"`{name}`", "-", "-", "-", "-", figures, differs]
    if figure is not None:
        figures = figure.figure + (" (recalled)" if figure.recalled else "")
        cells[1:5] = [figures, figure.data, figure.protocol, figure.source]
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"
