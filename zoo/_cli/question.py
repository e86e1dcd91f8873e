"""Who can be asked: the user at a terminal, once for all processes of a run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

__all__ = ["question"]

_RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK")


def question() -> Callable[[str], bool] | None:
    """Return what puts a question of yes or no to the user; None where no terminal is at both ends.

    Only the first of several processes asks: the others go on, and end with it.
    """
    if next((os.environ[name] for name in _RANKS if name in os.environ), "0") != "0":
        return lambda text: True
    if not (_terminal(sys.stdin) and _terminal(sys.stderr)):
        return None
    return _ask


def _terminal(stream: object) -> bool:
    try:
        return bool(stream.isatty())  # type: ignore[attr-defined]
    except (AttributeError, ValueError):  # none, or closed
        return False


def _ask(text: str) -> bool:
    print(f"zoo: {text} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
