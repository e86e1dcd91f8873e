"""What the theme leaves to be said to screen readers: levels of headings, a first one, and which landmark is which.

Parameters of a long signature, a line each, are written as descriptions of no term; they become lines.

What scrolls must be within reach of the keyboard; what does depends on the width of the screen, so that is left to
`assets/site.js`.
"""

from __future__ import annotations

import re
from pathlib import Path

from zoo.errors import ConfigError

__all__ = ["REPAIRS", "repair"]

REPAIRS = {
    '<p class="caption" role="heading">': '<p class="caption" role="heading" aria-level="2">',
    '<aside class="sidebar-drawer">': '<aside class="sidebar-drawer" aria-label="Pages">',
    '<div id="search-results"></div>': '<h1>Search</h1>\n<div id="search-results"></div>',
    '<aside class="toc-drawer': '<aside aria-label="On this page" class="toc-drawer',
}
"""What Sphinx and its theme write -> what stands there afterwards."""

_PARAMETERS = re.compile(r'<dl>\n((?:<dd><em class="sig-param">.*?</dd>\n)+)</dl>', re.DOTALL)


def _as_lines(found: re.Match[str]) -> str:
    lines = found[1].replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")
    return f'<span class="sig-lines">{lines}</span>'


def repair(site: Path) -> None:
    """Mend the pages that Sphinx made, in place.

    Args:
        site: a folder of HTML files.

    Raises:
        ConfigError: none of the pages has one of the pieces, so that the theme writes it otherwise than it did.
    """
    seen: set[str] = set()
    for path in sorted(site.rglob("*.html")):
        text = path.read_text(encoding="utf-8")
        found = [old for old in REPAIRS if old in text]
        for old in found:
            text = text.replace(old, REPAIRS[old])
        text, signatures = _PARAMETERS.subn(_as_lines, text)
        if found or signatures:
            path.write_text(text, encoding="utf-8")
            seen |= {*found}
    missing = [old for old in REPAIRS if old not in seen]
    if missing:
        raise ConfigError(f"the theme of the site no longer writes {missing[0]}; see zoo/documentation/accessible.py")
