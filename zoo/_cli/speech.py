"""Who may write to stderr: the zoo's own lines, and with ``-v`` those of the Hub's client too."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["speaking"]

_CLIENT, _LEVEL = "huggingface_hub", "HF_HUB_VERBOSITY"


@contextmanager
def speaking(verbose: bool) -> Iterator[None]:
    """Keep the client to its errors, as the zoo says itself what happened; ``verbose`` lets both tell all.

    A level that the user set by HF_HUB_VERBOSITY stays.
    """
    client, own = logging.getLogger(_CLIENT), logging.getLogger("zoo")
    levels, given = (client.level, own.level), os.environ.get(_LEVEL)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("zoo: %(message)s"))
    if verbose:
        own.addHandler(handler)
        own.setLevel(logging.INFO)
    level = "info" if verbose else "error"
    if given is None:
        os.environ[_LEVEL] = level  # for a client that is imported later
        client.setLevel(level.upper())
    try:
        yield
    finally:
        own.removeHandler(handler)
        client.setLevel(levels[0])
        own.setLevel(levels[1])
        if given is None:
            os.environ.pop(_LEVEL, None)
