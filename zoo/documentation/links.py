"""Whether each link of a built site leads to a file of it, and to a place in that file."""

from __future__ import annotations

import os
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["dead_links"]

_LEADING = {"a": "href", "link": "href", "img": "src", "script": "src", "iframe": "src", "source": "src"}
_ASKS = {"link", "img", "script", "iframe", "source"}
"""Elements whose address a browser fetches by itself: on a site that works from disk none may lead to the network."""


class _Page(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.path = path
        self.leading: set[tuple[str, str]] = set()
        self.places: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value for name, value in attrs if value is not None}
        self.places |= {known[name] for name in ("id", "name") if name in known}
        address = known.get(_LEADING.get(tag, ""))
        if address is not None:
            self.leading.add((tag, address))


def dead_links(site: Path) -> list[str]:
    """Return a sentence for each link of the pages of a folder that leads nowhere, or that asks the network.

    Args:
        site: a folder of HTML files.

    Returns:
        what is wrong, in order of the pages: a file that is missing, a place that its page lacks, an address outside of
        the folder, or a picture, a style or a script of another host.
    """
    pages: dict[Path, _Page] = {}
    found = []
    for path in sorted(site.rglob("*.html")):
        page = pages.setdefault(path, _Page(path))
        for tag, address in sorted(page.leading):
            reason = _wrong(site, page, tag, address, pages)
            if reason:
                found.append(f"{path.relative_to(site)} has a link to {address[:200]}, {reason}")
    return found


def _wrong(site: Path, page: _Page, tag: str, address: str, pages: dict[Path, _Page]) -> str:
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return "which asks the network" if tag in _ASKS and parts.scheme != "data" else ""
    target = Path(os.path.normpath(page.path.parent / unquote(parts.path))) if parts.path else page.path
    if not target.is_relative_to(site):
        return "which leaves the site"
    if not target.is_file():
        return "which is not there"
    if parts.fragment and target.suffix == ".html":
        other = pages.get(target) or pages.setdefault(target, _Page(target))
        if unquote(parts.fragment) not in other.places:
            return "a place that the page does not have"
    return ""
