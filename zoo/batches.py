"""What any DataLoader gives, as the batch that a model takes: examples in data range, and their labels.

Understood are a tensor, a tuple or list of a tensor and labels (or of one tensor alone), and a mapping with the keys of
`EXAMPLES` and `LABELS`. The data modules of the zoo give ``(x, labels)`` already, and pass through here at no price.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.checking import examples_of
from zoo.errors import DataError

__all__ = ["EXAMPLES", "LABELS", "batch_of", "parts_of"]

EXAMPLES = ("x", "image", "images", "img", "pixel_values", "input", "inputs", "data", "input_ids")
LABELS = ("labels", "label", "y", "target", "targets", "fine_label", "class")
_FORMS = "a tensor, a pair (examples, labels), or a mapping with keys such as image and label"


def parts_of(batch: Any) -> tuple[Tensor, Tensor | None]:
    """Return the examples of a batch and their labels, None where it has none. Raises `DataError`."""
    if isinstance(batch, (Tensor, np.ndarray)):
        return torch.as_tensor(batch), None
    if isinstance(batch, Mapping):
        found = [next((batch[key] for key in keys if key in batch), None) for keys in (EXAMPLES, LABELS)]
        if found[0] is None:
            raise DataError(f"a batch has the keys {', '.join(map(str, batch))}, of which none is known; give {_FORMS}")
    elif isinstance(batch, (tuple, list)) and 1 <= len(batch) <= 2:
        found = [*batch, None][:2]
    else:
        size = f" of {len(batch)} parts" if isinstance(batch, (tuple, list)) else ""
        raise DataError(f"a batch is a {type(batch).__name__}{size}; give {_FORMS}")
    if not isinstance(found[0], (Tensor, np.ndarray)):
        raise DataError(f"the examples of a batch are a {type(found[0]).__name__}, not a tensor; give {_FORMS}")
    return torch.as_tensor(found[0]), None if found[1] is None else torch.as_tensor(found[1])


def batch_of(model: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """Return a batch as the model's ``loss`` takes it: (B, *shape) in data range, and labels, zeros where none matter.

    Raises:
        DataError: a form, shape or range that the model does not take, or no labels where it needs them.
    """
    what = f"{type(model).__name__}, from its data,"
    given, labels = parts_of(batch)
    x = examples_of(model, given, what)
    if labels is None:
        if model.num_classes or model.context:
            raise DataError(f"{what} needs labels, and the batches have none; give pairs (examples, labels)")
        return x, torch.zeros(len(x), dtype=torch.int64, device=x.device)
    labels = labels.to(x.device)
    if labels.is_floating_point() or labels.ndim < 1 or len(labels) != len(x):
        if model.num_classes or model.context:
            raise DataError(
                f"{what} takes an integer label for each of {len(x)} examples, got {labels.dtype} of shape "
                f"{tuple(labels.shape)}"
            )
        return x, torch.zeros(len(x), dtype=torch.int64, device=x.device)
    labels = labels.long()
    model.accepts_condition(labels)
    if model.num_classes and not 0 <= int(labels.min()) <= int(labels.max()) < model.num_classes:
        raise DataError(
            f"{what} is told one of {model.num_classes} classes, the labels are {int(labels.min())} to "
            f"{int(labels.max())}; set its num_classes"
        )
    return x, labels
