"""What a model is given is checked here, once for all families: examples, latents, labels, counts and seeds.

The public methods that take examples or latents, by the names of `EXAMPLES` and `LATENTS`, are wrapped where a class
defines or inherits them. What a user passes becomes what the family expects, or one sentence:

- tensors and numpy arrays of any floating type, on any device, become the model's type on the model's device;
- integers are levels 0..L-1 and become k / (L - 1), so that an 8-bit image means what it shows;
- other shapes, NaN, infinity, and values outside the data range are refused, and so is a batch of none.

What a model passes to its own methods, or to a model inside it, is trusted: `trusted` marks it, and ``loss`` and
``sample`` run within it; a step of training calls the bare loss, ``_trusting_loss``, and marks it itself. Nothing is
checked while a graph is traced.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from zoo.classes import same_text
from zoo.errors import ConfigError, DataError, close_matches

__all__ = [
    "TRUST",
    "Checked",
    "check_within",
    "count_of",
    "examples_of",
    "from_levels",
    "given_of",
    "integers_of",
    "known_of",
    "labels_of",
    "latents_of",
    "option_of",
    "seed_of",
    "tensor_of",
    "trusted",
]

EXAMPLES = (
    "class_log_probs", "classify", "codes", "control", "encode", "latents", "log_prob", "marginal_log_prob",
    "posterior", "reconstruct", "text", "vlb",
)  # fmt: skip
"""Methods whose first argument is examples, (B, *shape) in data range; a mixin adds its own by `takes_examples`."""

LATENTS = ("decode", "log_prior", "styles")
"""Methods whose first argument is latents, as ``decode`` takes them."""

DRAWING = ("chains", "denoising", "joint", "one_step_error", "straightness", "trajectory")
"""Methods whose first argument is how many examples to draw."""

COUNTS = ("frames", "k")
OPEN_COUNTS = ("scales", "steps", "strata")
"""Arguments of all these methods that are counts: such as must be given, and such as may be None."""

MOST = 2**36
"""Numbers in one call's samples; more is a slip of the pen."""

_INTEGERS = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64}
_SHOWN = 80


class _Trust(threading.local):
    """Whether what is passed is taken as it is, on each thread."""

    given = False


TRUST = _Trust()


@contextmanager
def trusted() -> Iterator[None]:
    """Take what is passed inside, on this thread, as it is."""
    before, TRUST.given = TRUST.given, True
    try:
        yield
    finally:
        TRUST.given = before


class Checked:
    """Base whose sub-classes have their public methods checked, inherited ones of a mixin included.

    Attributes:
        takes_examples: further methods whose first argument is examples; of a mixin, without those of its bases.
        takes_anything: those among them that are defined outside of the data range too, such as an energy.
    """

    takes_examples: ClassVar[tuple[str, ...]] = ()
    takes_anything: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        examples = {name: _EXAMPLES for base in cls.__mro__ for name in base.__dict__.get("takes_examples", ())}
        for base in cls.__mro__:
            for name, method in list(base.__dict__.items()):
                check = examples.get(name) or _CHECKS.get(name)
                if check is not None and inspect.isfunction(method) and not hasattr(method, "checked"):
                    setattr(base, name, check(method))
                    if name == "loss":
                        base._trusting_loss = method  # type: ignore[attr-defined]


def _checking(function: Callable[..., Any], check: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(function)
    first = list(signature.parameters)[1]

    @functools.wraps(function)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or TRUST.given:
            return function(self, *args, **kwargs)
        bound = signature.bind(self, *args, **kwargs)
        given = bound.arguments
        what = f"{type(self).__name__}.{function.__name__}"
        n = check(self, given, first, what)
        if given.get("labels") is not None:
            given["labels"] = self._labels(n, given["labels"])
        for name in COUNTS + OPEN_COUNTS:
            if name in given and not (name in OPEN_COUNTS and given[name] is None):
                given[name] = count_of(given[name], name, what)
        with trusted():
            return function(*bound.args, **bound.kwargs)

    method.checked = True  # type: ignore[attr-defined]
    return method


def _trusting(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def loss(self: Any, batch: Any) -> Any:
        if torch.compiler.is_compiling() or TRUST.given:
            return function(self, batch)
        with trusted():
            return function(self, batch)

    loss.checked = True  # type: ignore[attr-defined]
    return loss


def _with_examples(model: Any, given: dict[str, Any], first: str, what: str) -> int:
    given[first] = examples_of(model, given[first], what, anywhere=what.rpartition(".")[2] in model.takes_anything)
    return len(given[first])


def _with_latents(model: Any, given: dict[str, Any], first: str, what: str) -> int:
    given[first] = latents_of(model, given[first], what)
    return len(given[first])


def _with_count(model: Any, given: dict[str, Any], first: str, what: str) -> int:
    if first in given:
        given[first] = count_of(given[first], "n", what, each=math.prod(model.shape))
    return given.get(first, 0)


_EXAMPLES = functools.partial(_checking, check=_with_examples)
_CHECKS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(EXAMPLES, _EXAMPLES),
    **dict.fromkeys(LATENTS, functools.partial(_checking, check=_with_latents)),
    **dict.fromkeys(DRAWING, functools.partial(_checking, check=_with_count)),
    "loss": _trusting,
}

# -- examples and latents ---------------------------------------------------------------------------------------------


def examples_of(model: Any, x: Any, what: str, *, anywhere: bool = False) -> Tensor:
    """Return examples as the model takes them: (B, *shape) in data range, of its type, on its device.

    Args:
        model: a `zoo.model.GenerativeModel`.
        x: tensor or numpy array: floating values in data range, or integers 0..levels-1.
        what: the method that asks, for messages.
        anywhere: whether values outside of the data range mean something too.

    Raises:
        DataError: another type, shape or range, NaN, infinity, or a batch of none.
    """
    x = tensor_of(x, what, "examples")
    _check_shape(model, x, what)
    if not x.is_floating_point():
        x = from_levels(model, x, what)
    elif _readable(x):
        _check_values(model, x, what, anywhere or model.levels is None)
    dtype = x.dtype if model.quantizes else model.dtype  # nearest levels survive in any precision
    return x.to(model.device, dtype)


def latents_of(model: Any, z: Any, what: str) -> Tensor:
    """Return latents, or codes, as the model takes them, of its type and on its device.

    Raises:
        DataError: another type or shape, codes that there are none of, NaN, infinity, or a batch of none.
    """
    z = tensor_of(z, what, "latents")
    codes, shape = model.latent_values, model.latent_shape
    if z.ndim < 1 or len(z) < 1 or (shape is not None and not model.fits_latent(z.shape[1:])):
        form = ", ".join(["B", *map(str, shape or ["..."])])
        raise DataError(f"{what} takes {'codes' if codes else 'latents'} of shape ({form}), got {tuple(z.shape)}")
    if codes:
        if z.is_floating_point() or z.dtype == torch.bool:
            raise DataError(f"{what} takes codes, integers between 0 and {codes - 1}, got {z.dtype}")
        z = z.to(model.device, torch.int64)
        if _readable(z) and not 0 <= int(z.min()) <= int(z.max()) < codes:
            raise DataError(
                f"{what} takes codes between 0 and {codes - 1}, got {int(z.min())} to {int(z.max())}; the model's "
                f"codebook holds no others"
            )
        return z
    if not z.is_floating_point():
        if shape is None:
            return z.to(model.device)  # a family that says nothing of its latents may have codes
        raise DataError(f"{what} takes latents, floating numbers, got {z.dtype}; encode examples to have some")
    if _readable(z) and not bool(z.isfinite().all()):
        raise DataError(f"{what} takes finite latents, got NaN or infinity")
    return z.to(model.device, model.dtype)


def integers_of(given: Any, what: str) -> Tensor:
    """Return integers, such as places or tokens, int64 of any shape: of a tensor, a numpy array or nested lists.

    Raises:
        DataError: anything else, booleans and what has no room in 64 bits among it.
    """
    if isinstance(given, (list, tuple, range)):
        try:
            given = np.array(given)
        except (ValueError, OverflowError):  # rows of several lengths
            given = np.array(None)
    tensor = tensor_of(given, what, "integers")
    found = tensor.to(torch.int64) if tensor.dtype in _INTEGERS else None
    if found is None or (tensor.dtype == torch.uint64 and bool((found < 0).any())):
        raise DataError(f"{what} must be integers of 64 bits, got {tensor.dtype}")
    return found


def given_of(model: Any, given: Any) -> Any:
    """Return partly known examples, NaN where unknown, with integers as the levels that they stand for.

    Their shape, which may be that of one example or of a beginning, is the family's to check.

    Raises:
        DataError: no tensor or numpy array, or values outside of the data range.
    """
    if given is None:
        return None
    what = f"given of {type(model).__name__}"
    given = tensor_of(given, what, "examples")
    if not given.is_floating_point():
        return from_levels(model, given, what)
    if given.numel() and _readable(given):
        _check_values(model, given.nan_to_num(0.0, posinf=math.inf, neginf=-math.inf), what, model.levels is None)
    return given


def known_of(known: Any) -> Any:
    """Return which of the given values are kept: None, a number of rows or values, or a mask.

    Raises:
        ConfigError: anything else.
    """
    if known is None:
        return None
    if isinstance(known, np.ndarray) and known.dtype.kind in "biuf":
        known = torch.from_numpy(np.array(known, order="C"))
    if isinstance(known, Tensor) and known.ndim:
        return known.bool()
    try:
        if isinstance(known, (bool, np.bool_)):
            raise TypeError
        return operator.index(known)
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(f"known is a number of rows or values, or a mask, got {_kind(known)}") from None


def from_levels(model: Any, x: Tensor, what: str) -> Tensor:
    """Return integers, levels 0..L-1 or booleans for two levels, as values in [0, 1]. Raises `DataError`."""
    levels = model.levels
    if levels is None:
        raise DataError(f"{what} takes continuous values, got {x.dtype}; pass floating numbers")
    if x.dtype == torch.bool and levels != 2:
        raise DataError(f"{what} takes {levels} levels, got booleans, which are the levels of binary data")
    low, high = _extremes(x.to(torch.int64))
    if low < 0 or high >= levels:
        raise DataError(
            f"{what} takes integers as levels between 0 and {levels - 1}, got {low:g} to {high:g}; "
            + ("threshold grey levels to 0 and 1 first" if levels == 2 else "bring them to the model's levels")
        )
    dtype = torch.promote_types(model.dtype, torch.float32)
    return x.to(dtype).div_(levels - 1)


def tensor_of(x: Any, what: str, noun: str) -> Tensor:
    """Return a tensor, or a numpy array as one: dense, of real numbers. Raises `DataError`."""
    if isinstance(x, (np.ndarray, np.generic)):
        try:
            x = torch.from_numpy(np.array(x, x.dtype.newbyteorder("="), order="C"))  # a copy: this one may be read-only
        except (TypeError, ValueError):
            raise DataError(f"{what} takes {noun} as numbers, got a numpy array of type {x.dtype}") from None
    if not isinstance(x, Tensor):
        raise DataError(f"{what} takes {noun} as a tensor or a numpy array, got {_kind(x)}")
    if x.is_complex() or x.layout is not torch.strided or x.is_quantized:
        raise DataError(f"{what} takes {noun} as a dense tensor of real numbers, got {x.dtype}, {x.layout}")
    return x


def _check_shape(model: Any, x: Tensor, what: str) -> None:
    shape, own = tuple(x.shape), tuple(model.shape)
    if len(shape) == len(own) + 1 and model.fits(shape[1:]):
        if shape[0] < 1:
            raise DataError(f"{what} was given a batch of none, of shape {shape}; pass at least one example")
        return
    hint = ""
    if shape == own:
        hint = "; one example makes a batch of one by x[None]"
    elif len(own) == 3 and own[0] == 1 and shape[-2:] == own[1:] and len(shape) in (2, 3):
        hint = "; the channel is missing, which x[:, None] adds"
    elif len(own) == 3 and len(shape) == 4 and shape[1:] == (*own[1:], own[0]):
        hint = "; the channel comes first, as by x.permute(0, 3, 1, 2)"
    raise DataError(f"{what} takes examples of shape ({', '.join(['B', *map(str, own)])}), got {shape}{hint}")


def _check_values(model: Any, x: Tensor, what: str, anywhere: bool) -> None:
    low, high = _extremes(x.detach())
    if not math.isfinite(low) or not math.isfinite(high):
        raise DataError(f"{what} was given NaN or infinity; examples are finite numbers")
    slack = max(1e-4, torch.finfo(x.dtype).eps)
    if anywhere or (low >= -slack and high <= 1 + slack):
        return
    hint = "bring them into that range"
    if low >= 0 and 1 < high <= 255:
        hint = "divide grey levels by 255, or pass them as uint8"
    elif low < 0 and -1 - slack <= low and high <= 1 + slack:
        hint = "values from -1 to 1 come back by (x + 1) / 2"
    raise DataError(f"{what} takes values in [0, 1], got {low:g} to {high:g}; {hint}")


def _extremes(x: Tensor) -> tuple[float, float]:
    """Return least and greatest value, NaN where there is one, by one trip to the device."""
    if not x.numel():
        return 0, 0
    low, high = torch.stack(torch.aminmax(x)).tolist()
    return low, high


def _readable(x: Tensor) -> bool:
    """Tell whether values can be looked at: not those of a tensor without data, nor inside a vectorised map."""
    fake = x.is_meta or type(x).__name__ == "FakeTensor"
    return not fake and not torch._C._functorch.is_batchedtensor(x)


def check_within(values: Tensor, count: int, message: str, more: Callable[[], str] = str) -> None:
    """Hold integers against 0, ..., count - 1.

    On the CPU what does not fit raises. On a GPU nothing waits for the answer: there an assertion with the message ends
    the work of the device.

    Args:
        values: integers.
        count: how many there may be.
        message: what to say.
        more: what to add to it, looked at only where it is said at once.

    Raises:
        DataError: others, where the values can be looked at without waiting for them.
    """
    if not values.numel():
        return
    if values.device.type in ("cuda", "meta"):
        torch._assert_async(((values >= 0) & (values < count)).all(), message)
    elif values.min() < 0 or values.max() >= count:
        raise DataError(message + more())


# -- labels, counts and seeds -----------------------------------------------------------------------------------------


def labels_of(model: Any, n: int, labels: Any) -> Tensor:
    """Return the classes of n examples of a conditional model, int64 (n,) on its device.

    Args:
        model: with ``num_classes``, and perhaps ``class_names``, in their order.
        n: how many.
        labels: one class for all, or ``n``: integers, or names of classes where the model knows them; a sequence, a
            numpy array or a tensor.

    Raises:
        ConfigError: anything else, or a class that the model does not have.
    """
    most = model.num_classes - 1
    wanted = f"labels of {type(model).__name__} are integers between 0 and {most}, one for all or {n} of them"
    names = list(model.class_names)
    if isinstance(labels, str) or not isinstance(labels, (Sequence, Tensor, np.ndarray)):
        labels = _class(labels, names, wanted)
    elif isinstance(labels, Sequence):
        labels = [_class(label, names, wanted) for label in labels]
    elif isinstance(labels, np.ndarray):
        if labels.dtype.kind in "UO":
            labels = [_class(label, names, wanted) for label in labels.ravel()]
        elif labels.dtype.kind not in "iu":
            raise ConfigError(f"{wanted}; got numbers of type {labels.dtype}")
        else:
            labels = labels.astype(np.int64)
    tensor = torch.as_tensor(labels, device=model.device)
    tensor = tensor.expand(n) if tensor.ndim == 0 else tensor
    if tensor.shape != (n,) or tensor.dtype not in _INTEGERS:
        raise ConfigError(f"{wanted}; got shape {tuple(tensor.shape)} of type {tensor.dtype}")
    tensor = tensor.long()
    if n and _readable(tensor):
        low, high = _extremes(tensor)
        if low < 0 or high > most:
            raise ConfigError(f"labels must be between 0 and {most}, got {low if low < 0 else high}")
    return tensor


def _class(label: Any, names: Sequence[str], wanted: str) -> int:
    if isinstance(label, str):
        if same_text(label) in names:
            return names.index(same_text(label))
        known = f", or one of {', '.join(names[:20])}.{close_matches(label, names)}" if names else ""
        raise ConfigError(f"{wanted}{known}; got {_kind(label)}")
    try:
        if isinstance(label, (bool, np.bool_)):
            raise TypeError
        number = operator.index(label)
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(f"{wanted}; got {_kind(label)}") from None
    return min(max(number, -1), 2**62)  # what has no room in 64 bits is out of range all the same


def count_of(n: Any, name: str, what: str = "", *, each: int = 1) -> int:
    """Return a number of things, each of so many numbers: a positive integer that some memory could hold.

    Raises:
        ConfigError: anything else.
    """
    try:
        if isinstance(n, (bool, np.bool_)):
            raise TypeError
        number = operator.index(n)
    except (TypeError, ValueError, RuntimeError):
        number = 0
    if number < 1:
        raise ConfigError(f"{what + ': ' if what else ''}{name} must be a positive integer, got {_kind(n)}")
    if number > MOST // max(1, each):
        raise ConfigError(
            f"{what + ': ' if what else ''}{name} must be a positive integer that memory can hold, at most "
            f"{MOST // max(1, each)}; got {_kind(n)}"
        )
    return number


def seed_of(seed: Any) -> int:
    """Return a seed as torch takes it: an integer from -2**63 to 2**64 - 1, of Python or numpy.

    Raises:
        ConfigError: anything else.
    """
    try:
        if isinstance(seed, (bool, np.bool_)):
            raise TypeError
        number = operator.index(seed)
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(f"a seed is an integer, or a torch.Generator; got {_kind(seed)}") from None
    if not -(2**63) <= number < 2**64:
        raise ConfigError(f"a seed must have room in 64 bits, so lie between 0 and 2**64 - 1; got {_kind(seed)}")
    return number


_LARGEST_OPTION = 2**24
_POSITIVE = ("beams", "candidates", "length", "steps", "top_k")
"""Sampling options of which there is one at least, in every family."""

_WANTED = {
    "bool": "True or False", "int": f"an integer of at most {_LARGEST_OPTION:,}", "float": "a finite number",
    "str": "a text", "None": "None",
}  # fmt: skip


def option_of(name: str, value: Any, annotation: Any, what: str) -> Any:
    """Return a sampling option as its annotation wants it: a truth, an integer, a finite number, a text or None.

    Annotations that name anything else are left to the family, and so are words and most ranges.

    Raises:
        ConfigError: a value of another type, NaN or infinity, an integer that nothing could have so much of, or none of
            what there must be one of.
    """
    kinds = {part.strip() for part in str(getattr(annotation, "__name__", annotation)).split("|")}
    if not kinds <= _WANTED.keys() or (value is None and "None" in kinds):
        return value
    if isinstance(value, (np.generic, np.ndarray, Tensor)) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool):
        fine = "bool" in kinds
    elif isinstance(value, int):
        fine = bool(kinds & {"float", "int"}) and abs(value) <= _LARGEST_OPTION
    elif isinstance(value, float):
        fine = "float" in kinds and math.isfinite(value)
    else:
        fine = isinstance(value, str) and "str" in kinds
    if fine and name in _POSITIVE and value < 1:
        raise ConfigError(f"{name} must be a positive integer, got {value}")
    if fine:
        return value
    wanted = [words for kind, words in _WANTED.items() if kind in kinds]
    raise ConfigError(f"{name} of {what} must be {' or '.join(wanted)}, got {_kind(value)}")


def _kind(value: Any) -> str:
    """Return a value as a message shows it: cut, and with its type where that says more."""
    try:
        text = repr(value)
    except Exception:  # an int beyond the limit of digits, or a class of the user's
        text = f"a value of type {type(value).__name__}"
    text = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    plain = value is None or isinstance(value, (bool, int, float, str, list, tuple, set, Mapping))
    return text if plain else f"{type(value).__name__} {text}" if type(value).__name__ not in text else text
