"""Model cards as text: a generated block, with the results as metadata, around which a person may write.

The card begins with YAML metadata, then a block between two markers. The first marker carries the sha256 of what was
generated, so that a block which a person edited is noticed and never overwritten.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from difflib import SequenceMatcher
from typing import Any

import yaml

from zoo.errors import CardError
from zoo.hub.layout import sha256, shown
from zoo.registry import plain_yaml

__all__ = ["assemble", "join_cards", "merge_card", "metadata"]

_BEGIN, _END = "<!-- zoo:begin sha256={} -->", "<!-- zoo:end -->"
_BLOCK = re.compile(r"<!-- zoo:begin sha256=([0-9a-f]{64}) -->\n(.*?)\n?<!-- zoo:end -->", re.DOTALL)
_FRONT = re.compile(r"\A---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
_GENERATED = ("library_name", "license", "datasets", "model-index")
_MAX_METADATA = 1 << 18
_MANY = 4_000_000  # pairs of lines that are compared


def merge_card(existing: str, fresh: str) -> str:
    """Return ``fresh`` with what a person wrote in ``existing``: text around the block, further metadata and tags.

    Raises:
        CardError: the generated part of ``existing`` was edited by hand, or is malformed.
    """
    existing = _normal(existing)
    old_front, body = metadata(existing), existing[len(_FRONT.match(existing)[0]) if _FRONT.match(existing) else 0 :]
    before, block, after = _split(body)
    if block is not None and block[0] != _digest(old_front, block[1]):
        raise CardError(
            "the generated block of README.md, or its results, was edited by hand, so it is not overwritten: move the "
            "edits outside the two zoo markers, or delete the file to have it written anew"
        )
    front = metadata(fresh)
    kept = {k: v for k, v in old_front.items() if k not in _GENERATED and k != "tags"}
    tags = [t for t in _tags(old_front) if t not in front["tags"]]
    text = _split(_normal(fresh)[len(_FRONT.match(_normal(fresh))[0]) :])[1][1]
    return assemble({**front, "tags": [*front["tags"], *tags], **kept}, before, text, after if block else "\n" + body)


def join_cards(remote: str, local: str) -> str:
    """Return the card to publish: the block of ``local``, and what a person wrote around it in either of the two.

    Lines that both have stand once; where they differ, those of the Hub come first. A card that has no generated block
    is wholly a person's, and is returned as it is.

    Raises:
        CardError: the generated part of one of the two was edited by hand, or is malformed.
    """
    own, text = metadata(local), _normal(local)
    front = _FRONT.match(text)
    before, block, after = _split(text[len(front[0]) if front else 0 :])
    if block is None:
        return local
    merge_card(local, local)  # raises where the block is not the one that was generated
    merged = _normal(merge_card(remote, local))
    kept_before, _, kept_after = _split(merged[len(_FRONT.match(merged)[0]) :])
    theirs = metadata(merged)
    lists = {
        k: [*theirs[k], *(x for x in v if x not in theirs[k])]
        for k, v in own.items()
        if k not in _GENERATED and isinstance(v, list) and isinstance(theirs.get(k), list)
    }
    tags = {"tags": theirs["tags"]}
    before, after = _together(kept_before, before), _together(kept_after, after)
    return assemble({**theirs, **own, **lists, **tags}, before, block[1], after)


def _together(remote: str, local: str) -> str:
    """Return the lines of both texts in their order, each once where they agree; equal ones come out unchanged."""
    a, b = ([line.rstrip() for line in text.strip("\n").split("\n")] for text in (remote, local))
    if not local.strip() or _within(b, a):
        return remote
    if not remote.strip() or _within(a, b):
        return local
    if len(a) * len(b) > _MANY:
        lines = [*a, "", *b]
    else:
        lines = []
        for tag, i, j, k, n in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
            lines += a[i:j] if tag != "insert" else []
            lines += b[k:n] if tag in ("insert", "replace") else []
    lead, trail = ("\n" if remote.startswith("\n") else ""), ("\n" if remote.endswith("\n") else "")
    return lead + "\n".join(lines) + (trail or "\n")


def _within(short: list[str], long: list[str]) -> bool:
    """Tell whether all lines of ``short`` are in ``long``, in their order."""
    rest = iter(long)
    return all(line in rest for line in short)


def _tags(front: Mapping[str, Any]) -> list[str]:
    tags = front.get("tags") or []
    return [t for t in tags if isinstance(t, str)] if isinstance(tags, list) else [str(tags)]


def metadata(text: str) -> dict[str, Any]:
    """Return the YAML metadata of a card, safely loaded; empty when it has none. Raises `CardError`."""
    match = _FRONT.match(_normal(text))
    if match is None:
        return {}
    if len(match[1]) > _MAX_METADATA:
        raise CardError(f"the metadata of README.md have more than {_MAX_METADATA} characters")
    try:
        found = plain_yaml(match[1], aliases=False)
    except (yaml.YAMLError, AttributeError, ValueError, TypeError, KeyError, RecursionError) as error:
        reason = shown(" ".join(str(error).split()), 300)
        raise CardError(f"the metadata of README.md are not plain YAML: {reason}") from error
    if found is not None and not isinstance(found, dict):
        raise CardError("the metadata of README.md are no mapping")
    return found or {}


def _normal(text: str) -> str:
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def _digest(front: Mapping[str, Any], block: str) -> str:
    facts = {k: front[k] for k in _GENERATED if k in front}
    lines = "\n".join(line.rstrip() for line in block.strip("\n").split("\n"))
    try:
        return sha256((json.dumps(facts, sort_keys=True, default=str) + "\n" + lines).encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise CardError("the metadata of README.md are malformed: keys that are no text, or lone surrogates") from error


def _split(body: str) -> tuple[str, tuple[str, str] | None, str]:
    """Return the text before the block, (recorded sha256, block) and the text after it."""
    found = list(_BLOCK.finditer(body))
    if len(found) != body.count("<!-- zoo:begin") or len(found) != body.count(_END) or len(found) > 1:
        raise CardError(
            "README.md has a zoo marker too many, changed, or without its partner, so it is not overwritten: restore "
            "the two markers, or delete the file to have it written anew"
        )
    if not found:
        return "", None, body
    match = found[0]
    return body[: match.start()], (match[1], match[2]), body[match.end() :]


def assemble(front: Mapping[str, Any], before: str, block: str, after: str) -> str:
    """Return the text of a card: metadata, and a block with its marks between two texts. Raises `CardError`."""
    text = yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True, width=1000)
    if _digest(plain_yaml(text), block) != _digest(front, block):
        raise CardError("the metadata of the card cannot be written as plain YAML")
    if _END in block or "<!-- zoo:begin" in block:
        raise CardError("the content of the card holds a zoo marker of its own")
    head = f"---\n{text}---\n" + (before if before.strip() else "\n")
    return f"{head}{_BEGIN.format(_digest(front, block))}\n{block}\n{_END}{after}"
