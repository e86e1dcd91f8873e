"""A notebook as a page: its cells, and what they left below them when it was last run."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from zoo.errors import ConfigError

__all__ = ["notebook_page"]


def notebook_page(path: Path, target: Path) -> str:
    """Return a notebook in markdown, and write its pictures beside ``target``, the page.

    Raises:
        ConfigError: it is no notebook of format 4.
    """
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not a notebook of format 4") from error
    parts = []
    for number, cell in enumerate(cells):
        source = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif source:
            parts.append(_fence("python", source))
            for place, output in enumerate(cell.get("outputs", ())):
                parts += _shown(output, target, f"{target.stem}-{number}-{place}.png")
    where = f"This page is `notebooks/{path.name}`; open it in Jupyter to run it yourself."
    head, _, rest = "\n\n".join(filter(None, parts)).partition("\n")
    return f"{head}\n\n{where}\n{rest}\n"


def _shown(output: dict[str, Any], target: Path, picture: str) -> list[str]:
    """Return one output of a cell: its picture, or its text."""
    data = output.get("data", {})
    if "image/png" in data:
        target.with_name(picture).write_bytes(base64.b64decode("".join(data["image/png"])))
        return [f"![what the cell shows]({picture})"]
    text = "".join(output.get("text") or data.get("text/plain") or "").rstrip()
    return [_fence("text", text)] if text else []


def _fence(language: str, text: str) -> str:
    mark = "```" if "```" not in text else "````"
    return f"{mark}{language}\n{text}\n{mark}"
