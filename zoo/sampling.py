"""Several requests for samples computed side by side, each with the noise that it would have drawn alone.

A family's ``draw`` asks for noise of ``n`` rows from one generator. `NoiseStreams` stands between: every such call is
answered by one generator a request, side by side, and the rows that fill up the batch repeat others. So a family is
written for one request, and what one request gets does not depend on who else asked.

The arithmetic of a row can still depend on how many rows there are, in the last bit: matrix products of few rows and
the ends of vectors are computed by other instructions. Rows are therefore computed in multiples of a number, the
family's *granule*, from which on they are the same bits wherever they stand.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from zoo.checking import seed_of
from zoo.devices import repeatable
from zoo.errors import ConfigError
from zoo.maths.noise import sent

__all__ = [
    "BatchSize",
    "Draw",
    "Interruptible",
    "Labels",
    "NoiseStreams",
    "Samples",
    "Seeds",
    "grouped",
    "interruptible_loop",
    "interruption_point",
    "seeded",
    "together",
]

Labels = Sequence[int] | Sequence[str] | Tensor | int | str | None
"""The class or the text of each example, or one for all."""

Seeds = int | torch.Generator | Sequence[int | torch.Generator] | None
"""One seed for all examples, or one for each."""

_here = threading.local()
_DRAWN = (torch.rand, torch.randn, torch.randint)


@dataclass(frozen=True)
class Draw:
    """One request: what `zoo.model.GenerativeModel.sample` takes.

    Attributes:
        n: how many examples.
        seed: an integer or a generator; drawn if left out.
        labels: of a conditional model, one or ``n``.
        options: of the family's sampler.
    """

    n: int
    seed: int | torch.Generator | None = None
    labels: Labels = None
    options: Mapping[str, Any] = field(default_factory=dict)


class Samples(Protocol):
    """What is asked of a model here; `zoo.model.GenerativeModel` says what each of it is."""

    context: tuple[int, ...]
    training: bool

    @property
    def device(self) -> torch.device: ...

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]: ...

    def draw(self, n: int, generator: torch.Generator, labels: Tensor | None, **options: Any) -> Tensor: ...

    def granule(self, options: Mapping[str, Any]) -> int: ...

    def _labels(self, n: int, labels: Labels) -> Tensor | None: ...

    def eval(self) -> Any: ...

    def train(self, mode: bool = True) -> Any: ...


def seeded(seed: int | torch.Generator | None) -> torch.Generator:
    """Return a generator: the given one, on any device, or one on the CPU with the given seed, or freshly seeded.

    Noise is drawn where the generator is, see `zoo.maths.noise`: equal seeds give equal noise on every device.

    Raises:
        ConfigError: what is no seed.
    """
    if isinstance(seed, torch.Generator):
        return seed
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed_of(seed))
    return generator


def grouped(model: Samples, draws: Sequence[Draw], check: Callable[[], None] | None = None) -> list[Tensor]:
    """Answer requests in their order, those with equal options `together`, where the model has a granule for these."""
    groups: dict[Any, list[int]] = {}
    for i, draw in enumerate(draws):
        given = draw.labels is not None or not model.context  # a text that is left out is left to `draw`
        key = (given, *sorted(draw.options.items())) if model.granule(draw.options) else i
        groups.setdefault(key, []).append(i)
    found: dict[int, Tensor] = {}
    for members in groups.values():
        with Interruptible(check):
            found.update(zip(members, together(model, [draws[i] for i in members], check), strict=True))
    return [found[i] for i in range(len(draws))]


def together(model: Samples, draws: Sequence[Draw], check: Callable[[], None] | None = None) -> list[Tensor]:
    """Answer requests with equal options in one batch, a multiple of the model's granule, in eval mode."""
    counts, generators, labels = list[int](), list[torch.Generator](), list[Tensor | None]()
    for draw in draws:
        counts.append(draw.n)
        generators.append(seeded(draw.seed))
        labels.append(model._labels(draw.n, draw.labels))
    options = dict(draws[0].options)
    n, size = sum(counts), model.granule(options) or 1
    total = -(-n // size) * size
    training = model.training
    model.eval()
    try:
        if len(draws) == 1 and total == n:
            with repeatable(model.device):
                return [_finite(model, model.draw(n, generators[0], labels[0], **options), options)]
        y = None if labels[0] is None else torch.cat([label for label in labels if label is not None])
        y = None if y is None else y[torch.arange(total, device=y.device) % n]
        token = torch.Generator()
        with repeatable(model.device), NoiseStreams(counts, generators, total, token, check):
            x = model.draw(BatchSize(total), token, y, **options)
        return list(torch.split(_finite(model, x, options)[:n], counts))
    finally:
        model.train(training)


def _finite(model: Samples, x: Tensor, options: Mapping[str, Any]) -> Tensor:
    """Return samples in single precision or better, without the graph that a sampler may have left.

    Raises:
        ConfigError: they are not finite, for the weights are not, or numbers grew beyond half precision, or beyond any
            by the options of the sampler.
    """
    x = x.detach()
    if not x.is_floating_point():
        return x
    if not x.is_meta and not bool(x.isfinite().all()):
        broken = [name for name, p in model.named_parameters() if not bool(p.isfinite().all())]
        if broken:
            raise ConfigError(
                f"the weights of this {type(model).__name__} hold NaN or infinity, first in {broken[0]}: its training "
                f"diverged; take an earlier checkpoint"
            )
        if x.dtype in (torch.float16, torch.bfloat16):
            given, better = ("float16", "bfloat16") if x.dtype == torch.float16 else ("bfloat16", "float32")
            raise ConfigError(
                f"samples of this {type(model).__name__} are not finite in {given}, which some of its numbers do not "
                f"fit; take dtype=torch.{better}"
            )
        if asked := [f"{name}={value!r}" for name, value in options.items() if isinstance(value, (int, float))]:
            raise ConfigError(
                f"samples of this {type(model).__name__} are not finite with {', '.join(asked)}; take values nearer to "
                f"the model's own"
            )
    return x.to(torch.promote_types(x.dtype, torch.float32))


class BatchSize(int):
    """A number of rows, by which `NoiseStreams` finds the batch among the sizes of a tensor of noise."""


class Interruptible(TorchFunctionMode):
    """Ask, before every operation of torch, whether to go on: ``check`` raises what ends the work."""

    def __init__(self, check: Callable[[], None] | None = None) -> None:
        super().__init__()
        self.check = check

    def __enter__(self) -> Any:
        self._before = getattr(_here, "mode", None)
        _here.mode = self
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        _here.mode = self._before
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if self.check is not None:
            self.check()
        return func(*args, **(kwargs or {}))


class NoiseStreams(Interruptible):
    """Answer for noise from ``token`` with noise from several generators, side by side.

    Args:
        counts: rows of each request.
        generators: of each request.
        total: rows of the batch; those beyond the requests' repeat their noise.
        token: what the family is given as its generator; its numbers are never drawn.
        check: see `Interruptible`.

    A size that is a `BatchSize` says which dimension is the batch; without one it is the first.

    Raises:
        ConfigError: noise drawn by another function than ``torch.rand``, ``randn`` or ``randint``, or of other sizes:
            such a family has no granule.
    """

    def __init__(
        self,
        counts: Sequence[int],
        generators: Sequence[torch.Generator],
        total: int,
        token: torch.Generator,
        check: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(check)
        self.counts, self.generators, self.total, self.token = list(counts), list(generators), total, token

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if self.check is not None:
            self.check()
        if kwargs is None:
            return func(*args)
        if kwargs.get("generator") is not self.token:
            return func(*args, **kwargs)
        if func not in _DRAWN:
            raise ConfigError(f"noise drawn by {getattr(func, '__name__', func)} cannot be told apart by request")
        return self._noise(func, list(args), dict(kwargs))

    def _noise(self, func: Callable[..., Tensor], args: list[Any], kwargs: dict[str, Any]) -> Tensor:
        if "size" in kwargs:
            sizes = list(kwargs.pop("size"))
        elif args and isinstance(args[-1], Sequence):
            sizes = list(args.pop())
        else:
            sizes, args = args, []
        kinds = list(map(type, sizes))
        dim = kinds.index(BatchSize) if BatchSize in kinds else 0
        if kinds.count(BatchSize) > 1 or not sizes or sizes[dim] != self.total:
            raise ConfigError(f"noise of sizes {tuple(map(int, sizes))} is not that of {self.total} rows")
        parts, device = [], torch.device(kwargs.get("device") or "cpu")
        for count, generator in zip(self.counts, self.generators, strict=True):
            sizes[dim] = count
            own = {**kwargs, "generator": generator, "device": generator.device}
            part = func(*args, tuple(sizes), **own)
            parts.append(part if part.device == device else sent(part, device))
        x = torch.cat(parts, dim)
        missing = self.total - x.shape[dim]
        if missing:
            x = x.index_select(dim, torch.arange(self.total, device=x.device) % x.shape[dim])
        return x.contiguous()


def interruption_point() -> None:
    """Ask whether to go on, between the rows, tokens or steps of a loop that runs while `interruptible_loop`."""
    mode = getattr(_here, "paused", None)
    if mode is not None and mode.check is not None:
        mode.check()


@contextmanager
def interruptible_loop() -> Iterator[None]:
    """Take the mode out of the way of a loop of small operations without noise; `interruption_point` asks instead."""
    mode = getattr(_here, "mode", None)
    if mode is None:
        yield
        return
    mode.__exit__(None, None, None)
    _here.paused = mode
    try:
        yield
    finally:
        _here.paused = None
        mode.__enter__()
