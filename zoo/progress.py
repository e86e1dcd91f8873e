"""A bar over the network's evaluations while samples are drawn."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn
from tqdm.auto import tqdm

from zoo.model import GenerativeModel

__all__ = ["drawing_bar"]


@contextmanager
def drawing_bar(
    model: GenerativeModel, options: Mapping[str, Any], *, what: str = "drawing", shown: bool = True
) -> Iterator[None]:
    """Show a bar on stderr for what is drawn inside, once it takes longer than two seconds.

    Its end is what the model says that sampling calls. A sampler that goes value by value past its network's
    ``forward`` has no bar.

    Args:
        model: that draws.
        options: of its sampler.
        what: is drawn.
        shown: whether to show anything.
    """
    networks = list(_networks(model)) if shown else []
    total = int(model.calls(options)) if shown else None
    with tqdm(total=total, desc=what, unit="call", delay=2, leave=False, disable=not shown, file=sys.stderr) as bar:
        hooks = [n.register_forward_pre_hook(lambda *_: bar.update() and None) for n in networks]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _networks(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the networks of a model and of the models inside it; compiled ones are left alone."""
    for child in model.children():
        if isinstance(child, GenerativeModel):
            yield from _networks(child)
        elif child._compiled_call_impl is None and any(True for _ in child.parameters()):
            yield child
