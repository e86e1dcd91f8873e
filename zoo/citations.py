"""How a paper is cited."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["address", "bibtex"]


def address(paper: Mapping[str, Any]) -> str:
    """Return where a paper of the registry is, or an empty text."""
    return f"https://arxiv.org/abs/{paper['arxiv']}" if paper.get("arxiv") else str(paper.get("url") or "")


def bibtex(paper: Mapping[str, Any]) -> str:
    """Return a paper of the registry (title, authors, year, arxiv or url) as an entry of BibTeX."""
    first = re.split(r",| and ", paper["authors"])[0].split()[-1].lower()
    word = next((w for w in re.findall(r"[A-Za-z]+", paper["title"]) if len(w) > 3), "paper").lower()
    fields = {"title": paper["title"], "author": paper["authors"].replace(", ", " and "), "year": paper["year"]}
    if "arxiv" in paper:
        fields |= {"eprint": paper["arxiv"], "archivePrefix": "arXiv"}
    elif "url" in paper:
        fields["url"] = paper["url"]
    body = ",\n".join(f"  {k} = {{{v}}}" for k, v in fields.items())
    return f"@misc{{{first}{paper['year']}{word},\n{body}\n}}"
