"""What of a model is exported: a function of tensors, with its noise and its state among the inputs.

- *decoder*: latents or codes to examples in data range (VAEs, GANs, normalising flows, autoencoders with codes).
- *step*: one value of an autoregressive model: the values so far, the place, a uniform number and a temperature to the
  values with one more. The state is the values themselves, so every step is one pass of the whole network.
- *denoiser*: noisy data at one signal-to-noise ratio to what they are at the next, by DDIM, and the predicted data.
- *velocity*: of a flow in continuous time; the solver stays outside, adaptive or not.
- *encoder*: examples to features, of models that represent.
- *energy*: examples to energies, nats up to a constant; *score*: to the gradient of the log-density.

Nothing inside draws random numbers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from zoo.abilities import (
    DecodesNoise,
    DrawsValues,
    Encodes,
    HasCodes,
    HasEnergy,
    HasFeatures,
    HasGenerator,
    HasLatentPrior,
    HasStyles,
    HasVelocity,
    PredictsData,
    Settles,
    TokenisesText,
    WritesText,
    autoencoder_of,
    end_of_time,
    is_conditional,
    prior_of,
    takes_labels,
    weak_of,
    writes_sound,
    writes_text,
)
from zoo.context import PAD
from zoo.errors import ConfigError
from zoo.export.gradients import gradient_of

__all__ = ["Part", "parts"]


@dataclass(frozen=True)
class Part:
    """One function to export.

    Attributes:
        kind: decoder, step, denoiser, velocity, encoder, energy or score.
        module: the function.
        inputs: name -> (shape without the batch, type); a shape of None is one number for the whole batch.
        outputs: names.
        example: (name, batch) -> a tensor for an input, for tracing and checking.
        metadata: plain numbers and texts that a sampler outside needs.
    """

    kind: str
    module: nn.Module
    inputs: Mapping[str, tuple[tuple[int, ...] | None, torch.dtype]]
    outputs: tuple[str, ...]
    example: Callable[[str, int], Tensor]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def examples(self, batch: int) -> tuple[Tensor, ...]:
        """Return inputs of so many rows, the same on every call."""
        return tuple(self.example(name, batch) for name in self.inputs)


class _Decoder(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        if isinstance(self.model, HasGenerator):  # without the checks of labels, which a graph cannot hold
            return self.model.to_data(self.model.generate(z, labels))
        return self.model.decode(z) if labels is None else self.model.decode(z, labels)


class _Styled(nn.Module):
    """A style-based generator, not truncated: z (B, latent_dim), the noise of all layers side by side (B, N) -> x."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.shapes = model, [tuple(s) for s in model.generator.synthesis.noise_shapes]

    def forward(self, z: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        drawn = noise.split([math.prod(s) for s in self.shapes], 1)
        w = self.model.styles(z, labels)[:, None].expand(-1, self.model.depth, -1)
        layers = [part.reshape(-1, 1, *s) for part, s in zip(drawn, self.shapes, strict=True)]
        return self.model.to_data(self.model.synthesise(w, layers))


class _Step(nn.Module):
    """Values int64 (B, T), place (), u (B,), temperature () -> values with the one at that place drawn."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, values: Tensor, place: Tensor, u: Tensor, temperature: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        k = self.model.arranged(self.model.from_sequence(values))
        logits = self.model(k, labels)  # (B, C, H, W, L), or (B, T, L)
        if logits.ndim == 5:
            logits = logits.permute(0, 2, 3, 1, 4).flatten(1, 3)  # (B, T, L)
        at = logits.index_select(1, place.reshape(1)).squeeze(1)  # (B, L)
        p = ((at - at.amax(-1, keepdim=True)) / temperature).softmax(-1)
        cdf = p.cumsum(-1)
        drawn = (cdf <= u[:, None] * cdf[:, -1:]).sum(-1)  # the smallest k with F(k) > u
        here = torch.arange(values.shape[1], device=values.device) == place
        return torch.where(here[None], drawn[:, None], values), p


class _Denoiser(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        x: Tensor,
        log_snr: Tensor,
        next_log_snr: Tensor,
        first: Tensor | None = None,
        second: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        column = (-1,) + (1,) * (x.ndim - 1)
        out = _guided(self.model, self.model.output, x, log_snr, first, second)[:, : x.shape[1]]
        x_0 = self.model.data_of(out, x, log_snr.reshape(column))
        x_0 = x_0 if self.model.levels is None else x_0.clamp(-1, 1)
        alpha, sigma = self.model.schedule.coefficients(log_snr.reshape(column))
        later_alpha, later_sigma = self.model.schedule.coefficients(next_log_snr.reshape(column))
        return later_alpha * x_0 + later_sigma * (x - alpha * x_0) / sigma, self.model.uncentre(x_0)


class _Encoder(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.features(x)


class _Energy(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.model.energy(x) if labels is None else self.model.energy(x, labels=labels)


class _Score(nn.Module):
    """-grad E(x) / T, the gradient written out as a graph."""

    def __init__(self, model: nn.Module, examples: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.temperature = float(model.temperature)
        self.slope = gradient_of(_Energy(model), examples)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return -(self.slope(x) if labels is None else self.slope(x, labels)) / self.temperature


class _Velocity(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, t: Tensor, first: Tensor | None = None, second: Tensor | None = None) -> Tensor:
        return _guided(self.model, self.model.velocity, x, t, first, second)


def _guided(
    model: Any, function: Callable[..., Tensor], x: Tensor, t: Tensor, first: Tensor | None, second: Tensor | None
) -> Tensor:
    """Return (1 - w) worse + w f; the inputs of `_guidance_inputs` are labels, where there are classes, then w."""
    labels, w = (first, second) if is_conditional(model) else (None, first)
    if w is None:
        return function(x, t)
    weak = weak_of(model)
    nothing = torch.full_like(labels, PAD if model.context else model.num_classes) if labels is not None else None
    worse = function(x, t, nothing) if weak is None else function(x, t, labels, weak)
    return (1 - w) * worse + w * function(x, t, labels)


def parts(model: Any) -> dict[str, Part]:
    """Return what of a model is exported, by the ending of the file's name; '' where it is one part.

    The model is copied, in eval mode, without parametrisations. Raises `ConfigError` where there is nothing to export.
    """
    model = plain(model)
    found = _sampling(model) if model.generates else {}
    if isinstance(model, HasFeatures):
        found["encoder"] = _of_examples("encoder", _Encoder(model), {"features": model.feature_dim})
    if isinstance(model, HasEnergy):
        energy = _of_examples("energy", _Energy(model), {"temperature": float(model.temperature)})
        found |= {"energy": energy, "score": _score(model, energy)}
    if not found:
        raise ConfigError(
            f"{type(model).__name__} has neither decoder, generator nor step, energy nor features, so there is nothing "
            f"to export"
        )
    return found if len(found) > 1 else {"": next(iter(found.values()))}


def _sampling(model: Any) -> dict[str, Part]:
    """Return what a sampler outside calls, as `parts`; of two stages both."""
    autoencoder, prior = autoencoder_of(model), prior_of(model)
    if prior is not None and isinstance(autoencoder, TokenisesText):  # what a token stands for is no computation
        return _sampling(prior)
    if prior is not None:
        decoder = _decoder(autoencoder if isinstance(model, HasCodes) else model)
        return {"decoder": decoder} | {name or "prior": part for name, part in _sampling(prior).items()}
    if isinstance(model, HasVelocity):
        return {"": _velocity(model)}
    if isinstance(model, PredictsData):
        return {"": _denoiser(model)}
    if isinstance(model, DrawsValues):
        return {"": _step(model)}
    at_once = isinstance(model, (Encodes, DecodesNoise)) and not isinstance(
        model, WritesText
    )  # texts are written value by value
    return {"": _decoder(model)} if at_once else {}


def plain(model: Any) -> Any:
    """Return a copy in eval mode on the CPU, what is computed from weights alone replaced by what it is."""
    model = copy.deepcopy(model).to("cpu").eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, Settles):
            module.settle()
        if parametrize.is_parametrized(module):
            _without(module)
    return model


def _without(module: nn.Module) -> None:
    """Put the tensors that parametrisations make in their place, on this object alone: its class is shared."""
    made = {name: getattr(module, name).detach().clone() for name in module.parametrizations}
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    for name, tensor in made.items():
        module.register_parameter(name, nn.Parameter(tensor, requires_grad=False))


def _random(shape: tuple[int, ...], batch: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed))


def _labels(model: Any) -> dict[str, Any]:
    """Return the input that holds what the model is told: classes (B,), or texts (B, T)."""
    return {"labels": (tuple(model.context), torch.int64)} if is_conditional(model) else {}


def _conditions(model: Any, batch: int) -> Tensor:
    """Return conditions that differ, int64 (batch,) or (batch, T)."""
    if not model.context:
        return torch.arange(batch) % model.num_classes
    return torch.arange(batch * model.context[0]).view(batch, -1) % len(model.alphabet)


def _of_examples(kind: str, module: Any, metadata: dict[str, Any]) -> Part:
    """Return a part that takes examples in data range, and labels where its method does."""
    model = module.model

    def example(name: str, batch: int) -> Tensor:
        return _conditions(model, batch) if name == "labels" else _random(tuple(model.shape), batch).sigmoid()

    condition = _labels(model) if kind == "energy" and takes_labels(model, model.energy) else {}
    inputs = {"x": (tuple(model.shape), torch.float32), **condition}
    output = "features" if kind == "encoder" else "energy"
    metadata = {**metadata, "shape": list(model.shape), "classes": model.num_classes}
    return Part(kind, module, inputs, (output,), example, metadata)


def _score(model: Any, energy: Part) -> Part:
    """Return the part whose inputs are those of the energy's."""
    return replace(energy, kind="score", module=_Score(model, energy.examples(3)), outputs=("score",))


def _guidance_inputs(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a guided model is told beside x and its time, as inputs, and the facts on it."""
    metadata: dict[str, Any] = {"classes": model.num_classes}
    if not is_conditional(model) and weak_of(model) is None:
        return {}, metadata
    return {**_labels(model), "guidance_scale": (None, torch.float32)}, {
        **metadata,
        "guidance_scale": model.guidance_scale,
    }


def _decoder(model: Any) -> Part:
    if isinstance(model, HasCodes):
        shape, kind = tuple(model.grid), torch.int64
        metadata = {"codes": model.codebook_size}
    elif isinstance(model, DecodesNoise):
        own = isinstance(model, HasLatentPrior)
        latent = {"latent": "of the model's own prior" if own else "standard normal"}
        shape, kind, metadata = (model.latent_dim,), torch.float32, latent
    else:  # a flow: noise of the form that encoding gives
        with torch.no_grad():
            z = model.encode(torch.full((1, *model.shape), 0.5))
        shape, kind, metadata = tuple(z.shape[1:]), torch.float32, {"latent": "standard normal"}

    def example(name: str, batch: int) -> Tensor:
        if name == "labels":
            return _conditions(model, batch)
        z = _random(shape, batch)
        return (z.abs() * 1000).long() % model.codebook_size if kind is torch.int64 else z

    condition = _labels(model) if takes_labels(model, model.decode) else {}
    inputs = {"z" if kind is torch.float32 else "codes": (shape, kind), **condition}
    metadata = {**metadata, "classes": model.num_classes if condition else 0}
    if not isinstance(model, HasStyles) or not model.fixed_noise():
        return Part("decoder", _Decoder(model), inputs, ("x",), example, metadata)
    styled = _Styled(model)
    size = sum(math.prod(s) for s in styled.shapes)

    def styled_example(name: str, batch: int) -> Tensor:
        return _random((size,), batch, seed=1) if name == "noise" else example(name, batch)

    inputs = {"z": inputs["z"], "noise": ((size,), torch.float32), **condition}
    return Part("decoder", styled, inputs, ("x",), styled_example, metadata)


def _step(model: Any) -> Part:
    T, L = math.prod(model.shape), model.levels

    def example(name: str, batch: int) -> Tensor:
        if name == "values":
            return (_random((T,), batch).abs() * 1000).long() % L
        if name == "place":
            return torch.tensor(T // 2)
        if name == "u":
            return (torch.arange(batch) + 0.5) / batch
        if name == "temperature":
            return torch.tensor(1.0)
        return _conditions(model, batch)

    inputs = {
        "values": ((T,), torch.int64), "place": (None, torch.int64), "u": ((), torch.float32),
        "temperature": (None, torch.float32), **_labels(model),
    }  # fmt: skip
    metadata = {"shape": list(model.shape), "levels": L, "classes": model.num_classes}
    metadata |= {"alphabet": model.alphabet} if writes_text(model) else {}
    metadata |= {"rate": model.rate} if writes_sound(model) else {}
    return Part("step", _Step(model), inputs, ("next_values", "p"), example, metadata)


def _denoiser(model: Any) -> Part:
    grid = model._grid("ddim", model.steps, None)[0]  # rising
    start = float(model.schedule.coefficients(grid[0])[1])

    def example(name: str, batch: int) -> Tensor:
        if name == "x":
            return _random(tuple(model.shape), batch)
        if name == "labels":
            return _conditions(model, batch)
        if name == "guidance_scale":
            return torch.tensor(1.5)
        return torch.linspace(-2, 2, batch) + (1.0 if name == "next_log_snr" else 0.0)

    level: tuple[tuple[int, ...], torch.dtype] = ((), torch.float32)
    condition, metadata = _guidance_inputs(model)
    inputs = {"x": (tuple(model.shape), torch.float32), "log_snr": level, "next_log_snr": level, **condition}
    metadata |= {"shape": list(model.shape), "log_snr": grid.tolist(), "start": start}
    return Part("denoiser", _Denoiser(model), inputs, ("next_x", "data"), example, metadata)


def _velocity(model: Any) -> Part:
    def example(name: str, batch: int) -> Tensor:
        if name == "x":
            return _random(tuple(model.shape), batch)
        if name == "labels":
            return _conditions(model, batch)
        if name == "guidance_scale":
            return torch.tensor(1.5)
        return torch.linspace(0.05, 0.9, batch)

    condition, metadata = _guidance_inputs(model)
    inputs = {"x": (tuple(model.shape), torch.float32), "t": ((), torch.float32), **condition}
    metadata |= {"shape": list(model.shape), "end": end_of_time(model), "levels": model.levels,
              "steps": model.steps}  # fmt: skip
    return Part("velocity", _Velocity(model), inputs, ("v",), example, metadata)
