"""The contract of every generative model, and the conventions of the zoo.

Conventions, stated once:

- Images are float32 tensors of shape (B, C, H, W) in [0, 1]; 8-bit data are k / 255 with integer k, binary data 0 or 1.
  A model that wants another range converts inside; `GenerativeModel.sample` always returns the data range.
- Videos are (B, C, T, H, W) in [0, 1], T frames of images.
- A batch is a pair ``(x, labels)``, labels being int64 of shape (B,), or of (B, T) where a model's ``context`` is (T,):
  texts of its alphabet, padded with -1.
- Losses and log-likelihoods are in nats per example: summed over the dimensions of an example, averaged over the batch.
  The exception are regressions (of a velocity, of a noise): mean squared errors per dimension, logged as ``mse``.
- Likelihoods are of the *discrete* image; bits/dim = -log_prob / (D ln 2), D = C * H * W.
- One step is one batch, for every family: ``trainer.global_step`` counts batches, whatever the number of optimizers.
- Training noise is drawn with `GenerativeModel.randn` and `rand`, never with ``torch.randn``: the engine seeds it with
  a function of (seed, step, rank), so that a run resumes exactly and several devices draw what one would.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast, runtime_checkable

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from zoo.batches import batch_of
from zoo.checking import TRUST, Checked, count_of, given_of, known_of, labels_of, option_of, trusted
from zoo.context import PAD, encode_texts
from zoo.copying import Copied
from zoo.errors import ConfigError, DataError, check_choice, close_matches
from zoo.maths.noise import sent
from zoo.maths.solvers import Solver
from zoo.maths.watching import Callback, Step, watching
from zoo.optimizer import LeanAdamW
from zoo.publishing import Publishing
from zoo.sampling import Draw, Labels, Seeds, grouped, seeded, together
from zoo.spec import Recorded
from zoo.trained_parts import TrainedPart

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "Batch",
    "Draw",
    "FlowModel",
    "GenerativeModel",
    "HasLikelihood",
    "ImplicitModel",
    "LikelihoodModel",
    "Player",
    "ScoreModel",
    "Source",
    "TrainedPart",
    "name_of",
    "seeded",
]

Batch = tuple[Tensor, Tensor]


@runtime_checkable
class HasExamples(Protocol):
    """Data that are read by number, as those of the zoo are."""

    def first(self, n: int) -> Any: ...

    def to_float(self, x: Any, dtype: Any) -> Tensor: ...


@dataclass(frozen=True)
class Player:
    """Parameters that one optimizer moves.

    Args:
        parameters: what the optimizer moves.
        lr: peak learning rate; the engine multiplies it by its schedule.
        betas: Adam's exponential decay rates.
        weight_decay: decoupled weight decay (AdamW), 0 for plain Adam.
    """

    parameters: Iterable[nn.Parameter]
    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Source:
    """Where a loaded model came from: kind is ``bundled``, ``folder``, ``run``, ``cache``, ``hub`` or ``new``."""

    kind: str
    path: str | None = None
    repo: str | None = None
    commit: str | None = None
    sha256: str | None = None
    name: str | None = None


_CALLED = {
    "encode": "x", "decode": "z", "reconstruct": "x", "log_prob": "x", "features": "x", "energy": "x", "score": "x",
    "velocity": "x, t",
}  # fmt: skip
"""Methods that ``model(x)`` may have meant, and what they take."""


def name_of(what: Any) -> str:
    """Return a word for a sampler or solver of one's own."""
    return str(getattr(what, "__name__", None) or type(what).__name__)


def _not_counted() -> None:
    """Stand in for Lightning's step counters."""


class GenerativeModel(Publishing, Checked, Copied, Recorded, LightningModule):  # type: ignore[misc]
    """Base of all families: an objective, a sampler, and the facts that tests and the engine need.

    Attributes:
        generates: whether the model draws examples; one that only represents them has `zoo.abilities.HasFeatures`, and
            its `sample` refuses.
        shape: shape of one example, (C, H, W) for images, (C, T, H, W) for videos.
        levels: grey levels of the data the model is meant for (256, 2), or None for continuous data.
        num_classes: number of labels the model is conditioned on, 0 if unconditional.
        context: shape of one example's condition where that is a text, (T,) characters of the ``alphabet``; () for a
            class or for none.
        alphabet: characters of the texts that the model is told, or that its examples stand for; None without texts.
        watchable: whether a callback is told of the steps of `sample`.
        chosen_options: what `set_sampler` chose.
        class_names: what the labels 0, 1, ... are called, from the data the model was trained on; () where that is not
            known. ``labels`` may then be names too.
        period: batches after which the pattern of updates repeats (``n_critic`` for a critic), for counting compute.
        first_steps: steps at the start that cost more, as they make what later ones use again (a teacher's targets).
        counted_from: the step from which on a step costs what is counted for each; earlier ones cost no more.
        first_phases: lengths, in steps, of phases at the start whose steps cost other than later ones, as of networks
            that grow; () where all steps cost alike.
        steps_to_move: training steps after which every trainable tensor has moved.
        never_updated: names of trainable tensors that never move, with the reason.
        trained_parts: what it builds on that is trained before it, by the argument that takes it, which is also an
            attribute and an option of ``zoo fit``.
        training_parts: names of parts that only training needs, such as a frozen teacher, a network that follows, or a
            buffer of earlier samples: they are in checkpoints, not in what is published; None where they are absent.
        rate_factors: parameter -> factor of its learning rate where that is not 1, 0 for what is frozen; set by the
            engine.
        quantizes: whether examples of any floating type are brought to their levels, so that none is converted before.
        source: where the weights came from.
        driven: whether the zoo's engine drives the training, which gives batches as they are wanted and logs the terms;
            under a plain Trainer the model does both.
        accumulate, gradient_clip: accumulation and clipping by global norm of manually optimised families, set by the
            engine.
    """

    family: ClassVar[str] = ""
    generates: ClassVar[bool] = True
    never_updated: Mapping[str, str] = {}
    trained_parts: ClassVar[Mapping[str, TrainedPart]] = {}
    training_parts: ClassVar[tuple[str, ...]] = ()
    quantizes: ClassVar[bool] = False
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0

    shape: tuple[int, ...]
    levels: int | None = None
    num_classes: int = 0
    context: tuple[int, ...] = ()
    alphabet: str | None = None
    class_names: tuple[str, ...] = ()
    lr: float
    watchable: bool = False
    chosen_options: Mapping[str, Any] = MappingProxyType({})
    period: int = 1
    first_steps: int = 0
    counted_from: int = 0
    first_phases: tuple[int, ...] = ()
    steps_to_move: int = 2

    def __init__(self) -> None:
        super().__init__()
        self.terms: dict[str, Tensor] = {}
        self.source = Source("new")
        self.accumulate = 1
        self.gradient_clip: float | None = None
        self.rate_factors: dict[str, float] = {}
        self._pending: dict[str, int] = {}
        self._steps_done = 0
        self._streams: Sequence[torch.Generator] = ()
        self.driven = False

    # -- the objective ------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return named terms, nats per example, ``loss`` among them; the same function trains and validates."""
        raise NotImplementedError

    def players(self) -> dict[str, Player]:
        """Name what each optimizer moves; one player unless a family says otherwise."""
        betas = (float(self.betas[0]), float(self.betas[1]))
        return {"model": Player(self.parameters(), self.lr, betas, self.weight_decay)}

    def accepts(self, shape: Sequence[int], levels: int | None) -> None:
        """Raise `DataError` when data of this shape and number of levels do not fit the model."""
        if tuple(shape) != tuple(self.shape):
            raise DataError(
                f"{type(self).__name__} is built for examples of shape {tuple(self.shape)}, the data have "
                f"{tuple(shape)}; set the model's shape or choose other data"
            )
        if self.levels is not None and levels != self.levels:
            raise DataError(
                f"{type(self).__name__} models data with {self.levels} levels, the data have "
                f"{levels or 'continuous values'}; choose other data or set the model's likelihood or levels"
            )

    def accepts_condition(self, labels: Tensor) -> None:
        """Raise `DataError` when the second element of a batch, (B,) or (B, T), is not what the model is told."""
        if (self.num_classes or self.context) and tuple(labels.shape[1:]) != tuple(self.context):
            wanted, given = (
                f"a text of {s[0]} characters" if s else "a class" for s in (self.context, labels.shape[1:])
            )
            raise DataError(
                f"{type(self).__name__} is told {wanted} for each example, the data give {given}; choose other data"
            )

    def fits(self, shape: Sequence[int]) -> bool:
        """Tell whether the methods that take examples, such as ``encode``, take ones of this shape."""
        return tuple(shape) == tuple(self.shape)

    @property
    def latent_shape(self) -> tuple[int, ...] | None:
        """Shape of the latents or codes of one example, as ``decode`` takes them; None where nothing is known of it."""
        return None

    def fits_latent(self, shape: Sequence[int]) -> bool:
        """Tell whether ``decode`` takes latents of this shape."""
        return self.latent_shape is None or tuple(shape) == tuple(self.latent_shape)

    @property
    def latent_values(self) -> int | None:
        """How many values a code has, 0, 1, ...; None where latents are real numbers, or there are none."""
        return None

    def past_phases(self) -> None:
        """Let all further steps be as those past `first_phases`, whatever their number, to be measured."""

    def compilable(self) -> list[nn.Module]:
        """Return the modules whose forward pass training may compile: itself where it has one, else its networks.

        A family that differentiates through a gradient must leave that network out: compiled code cannot.
        """
        return [self] if type(self).forward is not GenerativeModel.forward else list(self.children())

    def adopt(self) -> None:
        """Take over what trained parts give, once their weights are in place: a student that starts as its teacher."""

    def released(self) -> GenerativeModel:
        """Return the model as it is published: itself, or a copy without the parts that only training needs."""
        if not self._only_for_training():
            return self
        arguments = self.__dict__["_arguments"]
        left_out = [name for name in self.training_parts if name in arguments]
        kept = copy.deepcopy({name: value for name, value in arguments.items() if name not in left_out})
        bare = type(self)(**kept, **dict.fromkeys(left_out))
        bare.shed()
        state = self.state_dict()
        bare.load_state_dict({name: state[name] for name in bare.state_dict()})
        bare.to(self.device, self.dtype).train(self.training)
        bare.source = self.source
        bare.class_names = self.class_names
        return bare

    def shed(self) -> None:
        """Let go of the parts that only training needs, those of models inside too."""
        for _, owner, name in self._only_for_training():
            setattr(owner, name, None)
            arguments = owner.__dict__.get("_arguments", {})
            if name in arguments:
                arguments[name] = None

    def state_of_training(self) -> dict[str, Tensor]:
        """Return what of the state only training needs, by its name in the state."""
        parts = [f"{prefix}{name}" for prefix, _, name in self._only_for_training()]
        state = self.state_dict(keep_vars=True)
        return {k: v for k, v in state.items() if any(k == p or k.startswith(f"{p}.") for p in parts)}

    def _only_for_training(self) -> list[tuple[str, GenerativeModel, str]]:
        """Return (prefix in the state, model, name) of each training part that is there, here and in models inside."""
        return [
            (f"{prefix}." if prefix else "", module, name)
            for prefix, module in self.named_modules()
            if isinstance(module, GenerativeModel)
            for name in module.training_parts
            if getattr(module, name, None) is not None
        ]

    # -- sampling -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        seed: Seeds = None,
        labels: Labels = None,
        callback: Callback | None = None,
        **options: Any,
    ) -> Tensor:
        """Draw ``n`` examples in data range, of shape (n, *shape).

        Args:
            n: how many, at least 1.
            seed: an integer or a generator, on any device; equal seeds and equal ``n`` give equal samples on one
                device. Or a list of n of them, one an example: each is then what it would be alone, by ``sample(1)``.
            labels: the class of each example, or one for all, for conditional models; drawn evenly if left out. The
                text of each, or one for all, where the model has a ``context``; left to ``draw`` if left out.
            callback: called after each step of the sampler with a `zoo.maths.watching.Step`; what it returns, unless
                None, takes the state's place. For models that go from noise to data in steps (``watchable``).
            options: what the family's ``draw`` takes (temperature, steps, ...).

        Raises:
            ConfigError: unknown option, wrong ``n``, seed or labels, a model that does not generate, or a callback
                where there are no steps.
        """
        if callback is not None and not self.watchable:
            raise ConfigError(
                f"{type(self).__name__} does not go from noise to data in steps that a callback could see; leave it out"
            )
        if isinstance(seed, (list, tuple)):
            return torch.cat(self._one_by_one(n, seed, labels, callback, options))
        draw = self._checked_draw(Draw(n, cast("int | torch.Generator | None", seed), labels, options))
        with trusted(), watching(callback, draw.n, self.state_examples):
            return together(self, [draw])[0]

    def _one_by_one(
        self, n: int, seeds: Sequence[Any], labels: Labels, callback: Callback | None, options: Mapping[str, Any]
    ) -> list[Tensor]:
        """Return examples with a seed each, (1, *shape) each."""
        n = count_of(n, "n", each=math.prod(self.shape))
        if len(seeds) != n:
            raise ConfigError(f"seed must be one, or {n}, one an example, got {len(seeds)}")
        classes = self._labels(n, labels)
        draws = [Draw(1, one, None if classes is None else classes[i : i + 1], options) for i, one in enumerate(seeds)]
        if callback is None:
            return self.sample_many(draws)
        return [self.sample(1, seed=d.seed, labels=d.labels, callback=callback, **options) for d in draws]

    def intermediates(
        self, n: int, *, every: int = 1, seed: Seeds = None, labels: Labels = None, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """Return what a sampler has on its way, and the samples that it ends in: (F, n, *shape) and (n, *shape).

        Args:
            n: how many examples.
            every: keep the state after every so many steps; the last is always kept.
            seed, labels, options: of `sample`, whose samples these are.

        Raises:
            ConfigError: as `sample`, or a model that has no steps.
        """
        every = count_of(every, "every")
        states: list[Tensor] = []

        def keep(step: Step) -> None:
            if step.index % every == every - 1 or step.index == step.total - 1:
                states.append(step.images)

        if isinstance(seed, (list, tuple)):
            raise ConfigError("intermediates take one seed; ask for the examples one by one")
        x = self.sample(n, seed=seed, labels=labels, callback=keep, **options)
        return torch.stack(states), x

    def set_sampler(self, sampler: Any = None, **options: Any) -> Self:
        """Choose how this model samples from now on: ``model.set_sampler("ddim", steps=20)``; returns the model.

        Weights and configuration stay as they are, and what `sample` is given still counts more.

        Args:
            sampler: a name, or an object: of a diffusion model a `zoo.maths.samplers.Sampler`, of a flow, whose option
                is ``solver``, a `zoo.maths.solvers.Solver`; None for the model's own.
            options: other options of `sample`; without any, and without a sampler, all are the model's own again.

        Raises:
            ConfigError: an option or a sampler that the model does not have.
        """
        known = self.option_parameters()
        if sampler is not None:
            names = [name for name in ("sampler", "solver") if name in known]
            if not names:
                raise ConfigError(f"{type(self).__name__} has one way of sampling, and no sampler to choose")
            options = {names[0]: sampler, **options}
        for name, value in options.items():
            if name not in known:
                raise ConfigError(
                    f"{type(self).__name__} has no sampling option {name!r}.{close_matches(name, known)} "
                    f"It takes: {', '.join(known) or 'none'}"
                )
            if isinstance(value, str) and name in (words := self.option_words()):
                check_choice(name, value, words[name])
        self.chosen_options = dict(options)
        return self

    def state_examples(self, x: Tensor) -> Tensor:
        """Return a state of the sampler in data range: (n, ...) -> (n, *shape)."""
        return x

    @torch.no_grad()
    def sample_many(self, draws: Sequence[Draw], *, check: Callable[[], None] | None = None) -> list[Tensor]:
        """Answer several requests at once: each gets what `sample` would give it alone, (n, *shape).

        Requests with the same options are computed side by side where the model has a `granule` for these options,
        the others one after the other.

        Args:
            draws: the requests.
            check: called between the operations; what it raises ends the work.

        Raises:
            ConfigError: what `sample` raises.
        """
        draws = [self._checked_draw(draw) for draw in draws]
        with trusted():
            return grouped(self, draws, check)

    def granule(self, options: Mapping[str, Any]) -> int:
        """Return the number whose multiples are computed at once with these sampling options, so that the bits of a row
        do not depend on its neighbours; 0 where every request is computed alone, as it stands.

        A family that states one draws its noise by torch.rand, randn or randint from ``draw``'s generator, with ``n``
        as the size of the batch or with the batch first.
        """
        return 0

    def calls(self, options: Mapping[str, Any]) -> float:
        """Evaluations of the network for one batch with these sampling options; `calls_per_sample` is the default's."""
        steps, usual = options.get("steps"), self.sampler({}).get("steps")
        scale = steps / usual if isinstance(steps, int) and isinstance(usual, int) and usual else 1.0
        return self.calls_per_sample * scale

    def _checked_draw(self, draw: Draw) -> Draw:
        """Return a request as the sampler takes it. Raises `ConfigError`, and `DataError` for examples to complete."""
        if not self.generates:
            raise ConfigError(
                f"{type(self).__name__} represents examples and draws none, so it has no samples; ask for "
                f"features(x) instead"
            )
        known = self.option_parameters()
        for name in draw.options:
            if name not in known:
                raise ConfigError(
                    f"{type(self).__name__} has no sampling option {name!r}.{close_matches(name, known)} "
                    f"It takes: {', '.join(known) or 'none'}"
                )
        options = {
            name: option_of(name, value, known[name].annotation, type(self).__name__)
            for name, value in {**self.chosen_options, **draw.options}.items()
        }
        if "given" in options:
            options["given"] = given_of(self, options["given"])
        if "known" in options:
            options["known"] = known_of(options["known"])
        return replace(draw, n=count_of(draw.n, "n", each=math.prod(self.shape)), options=options)

    def draw(self, n: int, generator: torch.Generator, labels: Tensor | None, **options: Any) -> Tensor:
        """Family's sampler, called by `sample` with gradients off and the model in eval mode.

        One that follows the gradient of an energy in x takes it under ``torch.enable_grad()``, by
        ``torch.autograd.grad(energy.sum(), x)``, which leaves the parameters' gradients alone.
        """
        raise NotImplementedError

    def option_parameters(self) -> dict[str, inspect.Parameter]:
        """Return what `sample` takes beyond n, seed and labels: name -> the parameter of ``draw``."""
        taken = dict(list(inspect.signature(type(self).draw).parameters.items())[4:])
        if taken and (last := [*taken.values()][-1]).kind is last.VAR_KEYWORD:
            del taken[last.name]
        return taken

    def option_words(self) -> dict[str, tuple[str, ...]]:
        """Return the options of `sample` that are one of a few words -> these words."""
        return {}

    def sampling_options(self) -> dict[str, Any]:
        """Return names and defaults of what `sample` takes beyond n, seed and labels."""
        return {name: p.default for name, p in self.option_parameters().items()}

    def _labels(self, n: int, labels: Sequence[int] | Sequence[str] | Tensor | int | str | None) -> Tensor | None:
        if self.context:
            return self._texts(n, labels)
        if self.num_classes == 0:
            if labels is not None:
                raise ConfigError(f"{type(self).__name__} is not conditional, so it takes no labels")
            return None
        if labels is None:
            labels = [i % self.num_classes for i in range(n)]
        return labels_of(self, n, labels)

    def _texts(self, n: int, texts: Any) -> Tensor | None:
        """Return texts, or such as are integers already, as int64 (n, T); None where none are given."""
        if texts is None:
            return None
        texts = [texts] if isinstance(texts, str) else texts
        if isinstance(texts, (list, tuple)) and all(isinstance(text, str) for text in texts):
            texts = encode_texts(texts, self.alphabet or "", *self.context)
        if not isinstance(texts, Tensor) or texts.dtype != torch.int64 or texts.shape[-1:] != self.context:
            raise ConfigError(f"{type(self).__name__} is told texts: labels must be a string, or {n} strings")
        texts = texts[None] if texts.ndim == 1 else texts
        if texts.ndim != 2 or len(texts) not in (1, n):
            raise ConfigError(f"labels must be one text, or {n} texts, got {len(texts)}")
        if texts.numel() and (texts.min() < PAD or texts.max() >= len(self.alphabet or "")):
            raise ConfigError(f"labels hold characters outside the alphabet of {len(self.alphabet or '')}")
        found: Tensor = texts.to(self.device).expand(n, -1)
        return found

    def sampler(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return all sampling options as they take effect: those given, and the defaults.

        Where the default of an option is none, the model's attribute of that name is what counts, or ``default_`` and
        that name where it is another thing's.
        """
        whole = {**self.sampling_options(), **self.chosen_options, **options}
        own = {name: getattr(self, f"default_{name}", getattr(self, name, None)) for name in whole}
        held = {name: own[name] if value is None else value for name, value in whole.items()}
        return {n: name_of(v) if callable(v) or isinstance(v, Solver) else v for n, v in held.items()}

    @property
    def calls_per_sample(self) -> int:
        """Evaluations of the network that one call of `sample` with default options makes for a batch."""
        return 1

    # -- training noise -----------------------------------------------------------------------------------------------

    def set_noise(self, streams: Sequence[torch.Generator]) -> None:
        """Give the generators of the training noise: one a rank whose share of the batch this process computes.

        Noise is drawn where they are, all on one device, and moved to the model.
        """
        self._streams = tuple(streams)

    def randn(self, *shape: int) -> Tensor:
        """Standard normal training noise of ``shape``; the first dimension is the batch."""
        return self._noise(torch.randn, shape)

    def rand(self, *shape: int) -> Tensor:
        """Training noise, uniform in [0, 1), of ``shape``; the first dimension is the batch."""
        return self._noise(torch.rand, shape)

    def _noise(self, draw: Any, shape: Sequence[int]) -> Tensor:
        streams = self._streams or (None,)
        options = {"device": self.device if streams[0] is None else streams[0].device, "dtype": self.dtype}
        if len(streams) == 1:
            return sent(draw(shape, generator=streams[0], **options), self.device)
        share, rest = divmod(shape[0], len(streams))
        if rest:
            raise ConfigError(f"a batch of {shape[0]} does not divide among {len(streams)} ranks")
        return torch.cat([sent(draw((share, *shape[1:]), generator=g, **options), self.device) for g in streams])

    @property
    def steps_done(self) -> int:
        """Completed steps: ``trainer.global_step`` while training, else what was last set."""
        return self._steps_done if self._trainer is None else self._trainer.global_step

    @steps_done.setter
    def steps_done(self, value: int) -> None:
        self._steps_done = value

    # -- Lightning ----------------------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse ``model(x)``, and say what to call: what a generative model makes of x has several names.

        Families whose network is one function of x, such as the autoregressive ones, define it: their logits.

        Raises:
            ConfigError: always.
        """
        known = ["loss((x, labels))", *(["sample(n)"] if self.generates else [])]
        has = [name for name in _CALLED if callable(getattr(type(self), name, None))]
        raise ConfigError(
            f"{type(self).__name__}(x) has no meaning of its own; call one of its methods: "
            f"{', '.join([*known, *(f'{name}({argument})' for name, argument in _CALLED.items() if name in has)])}"
        )

    def _apply_batch_transfer_handler(self, batch: Any, device: Any = None, dataloader_idx: int = 0) -> Batch:
        """Take what any loader gives under a plain Trainer: pairs, tensors, mappings; levels or values in [0, 1].

        Here, as the public hooks of a data module take the place of those of a model.
        """
        batch = super()._apply_batch_transfer_handler(batch, device, dataloader_idx)
        return batch if self.driven else batch_of(self, batch)

    def first_examples(self, n: int) -> Tensor:
        """Return the first training examples of what the Trainer was given, at most n, (n, *shape) in data range."""
        data = cast("Any", self.trainer).datamodule
        if isinstance(data, HasExamples):
            return data.to_float(data.first(n)[0], self.dtype)
        loader = self.trainer.fit_loop._data_source.dataloader() if data is None else data.train_dataloader()
        found: list[Tensor] = []
        for batch in loader:
            found.append(batch_of(self, batch)[0])
            if sum(map(len, found)) >= n:
                break
        return torch.cat(found)[:n]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the checkpoints of a plain Trainer say what the model is built of, as those of the engine do."""
        if not self.driven:
            with suppress(ConfigError):  # of a constructor that was given what cannot be written
                facts = {"name": self.source.name, "spec": self.spec, "step": self.steps_done}
                checkpoint["zoo"] = {**facts, "class_names": list(self.class_names)}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._log_terms("train", batch)

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._log_terms("validation", batch)

    def on_test_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._log_terms("test", batch)

    def _log_terms(self, split: str, batch: Any) -> None:
        """Log the terms as ``train/loss`` ..., means over a split as ``validation/loss`` ..., where no engine does."""
        if self.driven:
            return
        terms = {f"{split}/{name}": value.float() for name, value in self.terms.items()}
        shown = terms.pop(f"{split}/loss", None)
        options: dict[str, Any] = {"batch_size": len(batch[0]), "sync_dist": split != "train"}
        if shown is not None:
            self.log(f"{split}/loss", shown, prog_bar=True, **options)
        self.log_dict(terms, **options)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        before, TRUST.given = TRUST.given, True
        try:
            terms: dict[str, Tensor] = cast("Any", self)._trusting_loss(batch)
        finally:
            TRUST.given = before
        self.terms = {k: v.detach() for k, v in terms.items()}
        return terms["loss"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.terms = {k: v.detach() for k, v in self.loss(batch).items()}

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    @contextmanager
    def turn(self, player: str) -> Iterator[Callable[[Tensor], bool]]:
        """Give one player of a manually optimised family its turn; only its parameters require gradients inside.

        Yields a function that takes the player's loss, accumulates its gradient and, every `accumulate`-th call, steps
        (clipped by `on_before_optimizer_step`); it returns whether it stepped. Only the first player's steps count as
        ``trainer.global_step``, so that one step stays one batch.
        """
        names = list(self.players())
        optimizers = self.optimizers()
        optimizer = optimizers[names.index(player)] if isinstance(optimizers, list) else optimizers

        def update(loss: Tensor) -> bool:
            self.manual_backward(loss / self.accumulate)
            self._pending[player] = (self._pending.get(player, 0) + 1) % self.accumulate
            if self._pending[player]:
                return False
            if player != names[0]:
                optimizer._on_before_step = optimizer._on_after_step = _not_counted
            optimizer.step()
            optimizer.zero_grad()
            return True

        self.toggle_optimizer(optimizer)
        try:
            yield update
        finally:
            self.untoggle_optimizer(optimizer)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradient of the player whose turn it is: here it is unscaled, whatever the precision."""
        if self.gradient_clip is not None:
            self.clip_gradients(optimizer, self.gradient_clip, "norm")

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip as Lightning does; where parameters are divided (``fsdp``), by the norm over all processes."""
        of_all = getattr(self.trainer.strategy.model, "clip_grad_norm_", None)
        if of_all is not None and gradient_clip_val is not None and gradient_clip_algorithm in (None, "norm"):
            of_all(float(gradient_clip_val))
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [
            LeanAdamW(self.moved(p), lr=p.lr, betas=tuple(p.betas), weight_decay=p.weight_decay)
            for p in self.players().values()
        ]

    def moved(self, player: Player) -> list[Any]:
        """Return what the optimizer of a player is given: its parameters, or groups of them by `rate_factors`.

        What is frozen is in none of them; the group that moves at the full rate is the first.
        """
        parameters = list(player.parameters)
        if not self.rate_factors:
            return parameters
        names = {id(p): name for name, p in self.named_parameters()}
        groups: dict[float, list[nn.Parameter]] = {}
        for p in parameters:
            groups.setdefault(self.rate_factors.get(names[id(p)], 1.0), []).append(p)
        return [
            {"params": groups[factor], "lr": player.lr * factor, "rate_factor": factor}
            for factor in sorted(groups, key=lambda factor: (factor != 1.0, factor))
            if factor > 0
        ]


class HasLikelihood:
    """Mixin of a `GenerativeModel` that has a log-likelihood, exact or bounded, whatever it is trained by.

    Attributes:
        likelihood_examples: over how many test examples, the first ones, an evaluation takes the mean; None for all.
            Where each example costs many evaluations of a network, fewer do, and the standard error is reported.
        likelihood_solver: of an ODE: solver, steps, and how the trace is taken; for the protocol of results.
    """

    likelihood_examples: int | None = None
    likelihood_solver: str | None = None
    if TYPE_CHECKING:
        context: tuple[int, ...]
        num_classes: int

        def _labels(self, n: int, labels: Labels) -> Tensor | None: ...

    def log_prob(
        self,
        x: Tensor,
        *,
        labels: Sequence[int | str] | Tensor | int | str | None = None,
        k: int = 1,
        seed: int | torch.Generator | None = None,
    ) -> Tensor:
        """Return log p(x), or its lower bound, in nats: (B, *shape) in data range -> (B,).

        A conditional model gives log p(x | y), which is not to be compared with log p(x).

        Args:
            x: examples.
            labels: y, the class of each example, or one for all; conditional models need them, others take none
                (see `given_labels`).
            k: importance samples, where the family has them; exact models ignore it.
            seed: for bounds that draw noise.

        Raises:
            ConfigError: labels are missing, or given to a model that is not conditional.
        """
        raise NotImplementedError

    def given_labels(self, n: int, labels: Sequence[int] | Tensor | int | None) -> Tensor | None:
        """Return the labels of n examples, int64 (n,) on the model's device; None for an unconditional model.

        Raises:
            ConfigError: a conditional model was given none, or what `sample` would refuse.
        """
        if self.context and labels is None:
            raise ConfigError(
                f"{type(self).__name__} is told texts, and what it says of an example depends on them: pass labels, "
                f"one text or {n}"
            )
        if self.num_classes and labels is None:
            raise ConfigError(
                f"{type(self).__name__} is conditional, and what it says of an example depends on the label: pass "
                f"labels={n} integers between 0 and {self.num_classes - 1}"
            )
        return self._labels(n, labels)

    @property
    def has_likelihood(self) -> bool:
        """Whether this model, as it was built, has what its class promises; `log_prob` raises where it does not."""
        return True

    def likelihood(self, k: int = 1) -> str:
        """Say what `log_prob` is: ``exact``, ``elbo``, ``iwae-K``, ``vlb``, ``ode``, with ``+dequant`` where it is.

        ``ais-K`` and ``nce`` are of energies whose normaliser is estimated: no bounds, and not ranked.
        """
        raise NotImplementedError


class LikelihoodModel(HasLikelihood, GenerativeModel):  # type: ignore[misc]
    """A model that is trained by its log-likelihood, exact or bounded."""


class FlowModel(GenerativeModel):
    """A model that moves noise to data along a velocity; its loss is a mean squared error per dimension, ``mse``."""


class ScoreModel(GenerativeModel):
    """A model that sees through noise; its loss is a mean squared error per dimension, ``mse``, or built on one."""


class ImplicitModel(GenerativeModel):
    """A model that samples and has no likelihood."""
