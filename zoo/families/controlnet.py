"""ControlNet: a trained diffusion model, frozen, that is taught to follow the edges of a picture.

    min E |eps - eps_theta(x_t, t, y, c)|^2,   c = edges of x_0,   only the copy of the way down and its zeros learning

Without a control it is the model that it was taught from, bit for bit.

References:
    L. Zhang, A. Rao, M. Agrawala, Adding Conditional Control to Text-to-Image Diffusion Models, 2023, arXiv:2302.05543,
    equation 5.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.ddpm import DDPM
from zoo.families.diffusion import Diffusion
from zoo.maths.conversions import input_scale
from zoo.maths.edges import edges
from zoo.model import Batch, Player, TrainedPart

__all__ = ["ControlNet"]


def _fitted(arguments: Mapping[str, Any], base: Any) -> dict[str, Any]:
    """Return the arguments of a `ControlNet` of this very model."""
    theirs, own = base.spec["init_args"], arguments["network"]
    control = (own.get("init_args") or {}).get("control", 1)
    network = {**own, "init_args": {**theirs["network"]["init_args"], "control": control}}
    same = ("shape", "levels", "num_classes", "predict", "sigma_data", "schedule", "variance", "table")
    return {**arguments, **{k: theirs[k] for k in same if k in theirs}, "network": network, "base": base.spec}


class ControlNet(DDPM):
    """A frozen diffusion model of images that follows edges.

    Args:
        network: (B, C + 1, H, W), image and edges, or (B, C, H, W), lambda (B,), labels (B,) or None -> (B, C, H, W): a
            `zoo.nets.control.ControlledUNet`.
        shape: of an image, (C, H, W).
        base: the trained model, from whose network the training starts; None once it is over.

    The other arguments are those of `zoo.families.ddpm.DDPM`.

    Raises:
        ConfigError: no images, a base of other examples or with another prediction, a learned variance, or a weak copy,
            which would need a control of its own.
    """

    training_parts: ClassVar[tuple[str, ...]] = ("base",)
    trained_parts: ClassVar[Mapping[str, TrainedPart]] = {
        "base": TrainedPart(
            what="taught to follow edges from a trained diffusion model", example="ddpm_cond-mnist", requires=DDPM,
            needs="denoiser", fitted=_fitted,
        )
    }  # fmt: skip
    controlled: Tensor | None = None
    """Edges that the network is told, (n, 1, H, W), in a copy of the model that is made for them."""

    def __init__(self, network: nn.Module, shape: Sequence[int], base: nn.Module | None = None, **kwargs: Any) -> None:
        super().__init__(network, shape, **kwargs)
        if len(self.shape) != 3 or self.variance == "learned" or self.weak is not None:
            raise ConfigError(
                f"ControlNet needs images (C, H, W), a variance that is not learned and no weak copy, got "
                f"{self.shape}, {self.variance} and {'one' if self.weak is not None else 'none'}"
            )
        facts = ("shape", "num_classes", "predict")
        if base is not None and any(getattr(base, fact) != getattr(self, fact) for fact in facts):
            raise ConfigError(
                f"the base has {', '.join(f'{f} {getattr(base, f)}' for f in facts)}, the model "
                f"{', '.join(f'{f} {getattr(self, f)}' for f in facts)}; make them equal"
            )
        self.base = base.requires_grad_(False) if base is not None else None

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        channels, *rest = shape = tuple(arguments["shape"])
        return {"network": ((channels + 1, *rest), shape, {"num_classes": arguments.get("num_classes") or 0})}

    def players(self) -> dict[str, Player]:
        learning = [p for p in self.network.parameters() if p.requires_grad]
        return {"model": Player(learning, self.lr, self.betas)}

    def adopt(self) -> None:
        """Start from the base's network. Raises `ConfigError` where it differs."""
        if self.base is None:
            return
        try:
            self.network.start_from(self.base.network)
        except (RuntimeError, KeyError) as error:
            raise ConfigError(
                "the network differs from the base's; give the same architecture, and a control"
            ) from error

    @property
    def never_updated(self) -> Mapping[str, str]:  # type: ignore[override]
        """All of it where the base has a last layer of zeros, as before any training; names -> the reason."""
        if any(bool(p.any()) for p in self.network.out.parameters()):
            return {}
        learning = [name for name, p in self.network.named_parameters() if p.requires_grad]
        return {
            f"network.{name}": "the base is untrained: its output is zero whatever comes before" for name in learning
        }

    # -- the control --------------------------------------------------------------------------------------------------

    def control(self, x: Tensor) -> Tensor:
        """Return what is followed of images, their edges: (B, *shape) in data range -> (B, 1, H, W), 0 or 1."""
        return edges(x)

    def with_edges(self, control: Tensor) -> ControlNet:
        """Return the model with these edges, (n, 1, H, W): the same weights, told them in every evaluation."""
        model = object.__new__(type(self))
        model.__dict__.update({**self.__dict__, "controlled": 2 * control - 1})
        return model

    def output(
        self, x: Tensor, log_snr: Tensor, labels: Tensor | None = None, network: nn.Module | None = None
    ) -> Tensor:
        """Return what a network gives for noisy images, and the edges where there are any; as `Diffusion.output`."""
        if self.controlled is None:
            return super().output(x, log_snr, labels, network)
        alpha, sigma = self.schedule.coefficients(log_snr.view(-1, 1, 1, 1))
        h = x * input_scale(self.predict, alpha, sigma, self.sigma_data)
        h = torch.cat([h, self.controlled.to(h)], 1).to(self.dtype)  # (B, C + 1, H, W)
        return self.network(h, log_snr.to(self.dtype), labels).to(x.dtype)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``mse``, per dimension, told the edges of each image, which is ``loss``.

        Raises:
            ConfigError: there is no base any more.
        """
        if self.base is None:
            raise ConfigError("the training is over and its base is gone: train with --base, a run or a name")
        return super(ControlNet, self.with_edges(edges(batch[0]))).loss(batch)

    # -- sampling -----------------------------------------------------------------------------------------------------

    def draw(
        self,
        n: int,
        generator: torch.Generator,
        labels: Tensor | None,
        *,
        control: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Draw ``n`` images in data range; the other options are those of `Diffusion.draw`.

        Args:
            n: how many.
            generator: of all noise.
            labels: int64 (n,) for a conditional model, else none.
            control: pictures whose edges are followed, *shape or (n, *shape) in data range, or maps of edges, bool
                (1, H, W) or (n, 1, H, W); none leaves the images free.

        Raises:
            ConfigError: a control of another shape or range.
        """
        model = self if control is None else self.with_edges(self._edges(n, control))
        return super(ControlNet, model).draw(n, generator, labels, **options)

    def _edges(self, n: int, control: Tensor) -> Tensor:
        control = torch.as_tensor(control, device=self.device)
        own = (1, *self.shape[1:]) if control.dtype == torch.bool else self.shape
        if control.shape not in (own, (1, *own), (n, *own)):
            raise ConfigError(
                f"control must be pictures of shape {self.shape} or ({n}, ...), or bool maps of edges of shape "
                f"{(1, *self.shape[1:])}, got {tuple(control.shape)}"
            )
        control = control.expand(n, *own)
        if control.dtype == torch.bool:
            return control.to(self.dtype)
        if not control.is_floating_point() or not bool(((control >= 0) & (control <= 1)).all()):
            raise ConfigError("control must hold pictures in [0, 1], or be a bool map of edges")
        return edges(control.to(self.dtype))

    def option_parameters(self) -> dict[str, inspect.Parameter]:
        of_diffusion = list(inspect.signature(Diffusion.draw).parameters.items())[4:]
        return {**super().option_parameters(), **dict(of_diffusion)}

    def controls(self) -> dict[str, Callable[[Tensor, int], Tensor]]:
        """Return what evaluation measures beside free samples: those told the edges of test images, and no class."""
        alone = {"guidance_scale": 0.0} if self.num_classes else {}
        return {"controlled": lambda x, seed: self.sample(len(x), seed=seed, control=x, **alone)}
