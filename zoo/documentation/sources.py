"""The pages that people write: where they are, where they go on the site, and their links, which move with them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from zoo.errors import ConfigError

__all__ = ["Sources", "find_sources"]

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|#|//", re.IGNORECASE)
_PROJECT = {name: f"project/{name.lower()}" for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")}
_PACKAGE = Path(__file__).resolve().parent.parent
_PICTURES = (".png", ".gif", ".svg")


def find_sources() -> Path:
    """Return the folder with ``docs`` and ``notebooks``: that of the installed package, or the checkout.

    Raises:
        ConfigError: this installation has neither.
    """
    for root in (_PACKAGE / "documentation" / "sources", _PACKAGE.parent):
        if (root / "docs" / "index.md").is_file():
            return root
    raise ConfigError("the pages of the documentation are missing from this installation; reinstall generative-zoo")


class Sources:
    """The written pages of a folder, and where each goes.

    Attributes:
        root: the folder with ``docs``, ``notebooks``, and the pages about the project.
        places: file -> its path on the site.
        missing: sentences about links that lead nowhere.

    Args:
        root: as `find_sources` finds it.
        generated: paths on the site of pages and pictures that are made and not written.
    """

    def __init__(self, root: Path, generated: Iterable[str] = ()) -> None:
        self.root, self.generated = root, set(generated)
        docs = root / "docs"
        files = [p for p in sorted(docs.rglob("*")) if p.suffix in (".md", *_PICTURES)]
        self.places = {p: p.relative_to(docs).as_posix() for p in files}
        self.places |= {root / name: place for name, place in _PROJECT.items() if (root / name).is_file()}
        for notebook in sorted((root / "notebooks").glob("*.ipynb")):
            self.places[notebook] = f"notebooks/{notebook.stem}.md"
        self.missing: list[str] = []
        self.folder: Path | None = None

    def write(self, folder: Path, read: Callable[[Path, Path], str]) -> None:
        """Write all pages and pictures below ``folder``, and the files that pages link to.

        Args:
            folder: where Sphinx will look.
            read: (file, where it goes) -> the text of a page.
        """
        self.folder = folder
        done: set[Path] = set()
        while waiting := [p for p in self.places if p not in done]:  # a page may bring further files
            for path in waiting:
                done.add(path)
                target = folder / self.places[path]
                target.parent.mkdir(parents=True, exist_ok=True)
                if target.suffix == ".md":
                    text = self.relinked(read(path, target), path)
                    target.write_text(self._front(path) + text, encoding="utf-8")
                else:
                    target.write_bytes(path.read_bytes())

    def _front(self, path: Path) -> str:
        """Return what makes a page of results, which no table of contents names, one without a warning."""
        return "---\norphan: true\n---\n\n" if self.places[path].startswith("files/") else ""

    def relinked(self, text: str, source: Path) -> str:
        """Return a page with its links as they are on the site; blocks of code are left alone."""
        return "".join(
            line if code else _LINK.sub(lambda m: self._link(m, source), line) for line, code in _lines(text)
        )

    def _link(self, found: re.Match[str], source: Path) -> str:
        mark, label, target = found.groups()
        if "](" in label:
            label = _LINK.sub(lambda m: self._link(m, source), label)
        if _ELSEWHERE.match(target):
            return f"{mark}[{label}]({target})"
        name, hash_sign, fragment = target.partition("#")
        here = os.path.dirname(self.places[source])
        place = self._place(source, name, here)
        if place is None:
            return label
        return f"{mark}[{label}]({os.path.relpath(place, here or '.')}{hash_sign}{fragment})"

    def _place(self, source: Path, name: str, here: str) -> str | None:
        made = os.path.normpath(os.path.join(here, name))
        if made in self.generated or (self.folder is not None and (self.folder / made).is_file()):
            return made
        place = os.path.relpath(source.parent / name, self.root)
        path = self.root / place
        if place.startswith("zoo" + os.sep) and not path.exists():
            path = _PACKAGE.parent / place  # installed, the package does not stand beside its pages
        if path not in self.places:
            inside = not place.startswith(os.pardir)
            if path.is_dir() and inside:
                return None
            if not path.is_file() or not inside:
                self.missing.append(f"{source.relative_to(self.root)} links to {name}, which is not there")
                return None
            self.places[path] = f"files/{Path(place).as_posix()}"
        return self.places[path]


def _lines(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the lines of a page, and whether each is code."""
    fence, before = "", ""
    for line in text.splitlines(keepends=True):
        mark = re.match(r"(`{3,}|~{3,}|:{3,})", line)
        opening = mark is not None and not line.startswith(":")
        if fence:
            yield line, True
            fence = "" if line.strip() == fence else fence
        elif opening and mark is not None and "{" not in line:
            fence = mark[1]
            yield line, True
        else:
            yield line, line.startswith("    ") and not before.lstrip().startswith(("-", "*", "1"))
        before = line if line.strip() else before
