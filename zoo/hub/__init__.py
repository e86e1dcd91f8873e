"""Folder <-> Hub: weights by name, kept whole, checked before they are opened, and never a pickle.

`save_pretrained` and `load_pretrained` work on local folders and know nothing of a network; `push`, `pull` and `load`
are a thin layer over them. Importing this package imports neither torch nor a network client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "PushResult": "zoo.hub.upload",
    "Waits": "zoo.hub.timeouts",
    "build_card": "zoo.hub.cards",
    "card": "zoo.hub.loading",
    "list": "zoo.hub.listing",
    "load": "zoo.hub.loading",
    "load_checkpoint": "zoo.hub.loading",
    "load_pretrained": "zoo.hub.folder",
    "merge_card": "zoo.hub.card_blocks",
    "pull": "zoo.hub.loading",
    "push": "zoo.hub.upload",
    "resolve": "zoo.hub.loading",
    "save_pretrained": "zoo.hub.saving",
    "verify": "zoo.hub.layout",
    "waits": "zoo.hub.timeouts",
}

__all__ = [
    "PushResult",
    "Waits",
    "build_card",
    "card",
    "list",
    "load",
    "load_checkpoint",
    "load_pretrained",
    "merge_card",
    "pull",
    "push",
    "resolve",
    "save_pretrained",
    "verify",
    "waits",
]

if TYPE_CHECKING:
    from zoo.hub.card_blocks import merge_card
    from zoo.hub.cards import build_card
    from zoo.hub.folder import load_pretrained
    from zoo.hub.layout import verify
    from zoo.hub.listing import list
    from zoo.hub.loading import card, load, load_checkpoint, pull, resolve
    from zoo.hub.saving import save_pretrained
    from zoo.hub.timeouts import Waits, waits
    from zoo.hub.upload import PushResult, push


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'zoo.hub' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> Any:
    return sorted(__all__)
