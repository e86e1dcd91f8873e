"""Markdown of model cards -> HTML that can do nothing: all text is escaped, links lead to the web, images are given.

Only what cards use: headings, paragraphs, lists, tables, fenced code, inline code, bold, links, images.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

__all__ = ["to_html"]

_FRONT = re.compile(r"\A---[ \t]*\n.*?\n---[ \t]*(?:\n|\Z)", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_INLINE = re.compile(
    r"`(?P<code>[^`\n]+)`|!\[(?P<alt>[^\]\n]*)\]\((?P<image>[^()\s]+)\)|\[(?P<text>[^\]\n]+)\]\((?P<link>[^()\s]+)\)"
    r"|<(?P<auto>https?://[^<>\s]+)>|\*\*(?P<bold>[^*\n]+)\*\*"
)
_LARGEST = 200_000


def to_html(text: str, images: Mapping[str, str] | None = None, *, top: int = 3) -> str:
    """Return HTML of a card.

    Args:
        text: markdown, perhaps with YAML metadata, which are left out, as are comments.
        images: file name -> address of the image; images that are not named here are left out.
        top: level of the highest heading.
    """
    body = _COMMENT.sub("", _FRONT.sub("", text[:_LARGEST].replace("\r\n", "\n")))
    parts: list[str] = []
    lines = body.split("\n")
    i = 0
    while i < len(lines):
        taken, part = _block(lines, i, images or {}, top)
        parts.append(part)
        i += taken
    return "\n".join(part for part in parts if part)


def _block(lines: list[str], i: int, images: Mapping[str, str], top: int) -> tuple[int, str]:
    """Return how many lines the block at line i takes, and its HTML."""
    line = lines[i]
    if not line.strip():
        return 1, ""
    if line.startswith("```"):
        end = next((j for j in range(i + 1, len(lines)) if lines[j].startswith("```")), len(lines))
        return end - i + 1, f'<pre tabindex="0"><code>{html.escape(chr(10).join(lines[i + 1 : end]))}</code></pre>'
    heading = re.match(r"(#{1,6}) +(.*)", line)
    if heading:
        level = min(6, len(heading[1]) + top - 1)
        return 1, f"<h{level}>{_inline(heading[2], images)}</h{level}>"
    for start, render in ((r"\s*\|", _table), (r"\s*[-*] ", _list)):
        if re.match(start, line):
            end = next((j for j in range(i, len(lines)) if not re.match(start, lines[j])), len(lines))
            return end - i, render(lines[i:end], images)
    ends = r"```|#{1,6} |\s*\||\s*[-*] "
    end = next((j for j in range(i + 1, len(lines)) if not lines[j].strip() or re.match(ends, lines[j])), len(lines))
    return end - i, f"<p>{_inline(' '.join(lines[i:end]), images)}</p>"


def _list(lines: list[str], images: Mapping[str, str]) -> str:
    items = (re.sub(r"^\s*[-*] ", "", line) for line in lines)
    return "<ul>" + "".join(f"<li>{_inline(item, images)}</li>" for item in items) + "</ul>"


def _table(lines: list[str], images: Mapping[str, str]) -> str:
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
    head, *body = [row for row in rows if not all(re.fullmatch(r":?-+:?", cell) for cell in row)] or [[]]
    th = "".join(f'<th scope="col">{_inline(cell, images)}</th>' for cell in head)
    tr = "".join("<tr>" + "".join(f"<td>{_inline(cell, images)}</td>" for cell in row) + "</tr>" for row in body)
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{th}</tr></thead><tbody>{tr}</tbody></table></div>'


def _inline(text: str, images: Mapping[str, str]) -> str:
    parts, position = [], 0
    for match in _INLINE.finditer(text):
        parts += [html.escape(text[position : match.start()]), _span(match, images)]
        position = match.end()
    return "".join([*parts, html.escape(text[position:])])


def _span(match: re.Match[str], images: Mapping[str, str]) -> str:
    found = match.groupdict()
    if found["code"] is not None:
        return f"<code>{html.escape(found['code'])}</code>"
    if found["bold"] is not None:
        return f"<strong>{html.escape(found['bold'])}</strong>"
    if found["image"] is not None:
        source = images.get(found["image"])
        return f'<img src="{html.escape(source)}" alt="{html.escape(found["alt"])}">' if source else ""
    link = found["auto"] or found["link"]
    text = html.escape(found["text"] or link)
    if not re.match(r"https?://", link):
        return text
    return f'<a href="{html.escape(link)}" rel="noopener noreferrer">{text}</a>'
