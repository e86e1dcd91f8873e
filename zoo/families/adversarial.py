"""Two players and the one training step that all adversarial models share.

A family says which game is played (an objective of `zoo.maths.objectives`), what holds the critic smooth (penalties,
clipped weights, spectral normalisation) and with which networks; whose turn it is, what is judged, and what follows a
step, is decided here.

    critic:     mean L_D(D(x), D(G(z))) + penalties, at each batch
    generator:  mean L_G(D(x), D(G(z))), at each n_critic-th batch

Lazy penalties are added at each ``lazy``-th batch, times ``lazy``, which leaves their expectation.

References:
    T. Karras and others, Analyzing and Improving the Image Quality of StyleGAN, 2019, arXiv:1912.04958, appendix B:
    lazy regularisation.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.chosen_by_critic import ChosenByCritic
from zoo.fitting import grows
from zoo.maths.augmentation import Augmentation
from zoo.maths.objectives import objective as objective_named
from zoo.maths.penalties import gradient_penalty, squared_gradient
from zoo.model import Batch, ImplicitModel, Player
from zoo.nets.conditioning import ClassInput, ProjectionCritic
from zoo.signature import default_of

__all__ = ["AdversarialModel"]

_FEATURES = 128  # that a critic gives the projection of a model which becomes conditional
_LR = 2e-4  # most that the players of larger pictures than the entry's learn with, as in most of the papers
_WATCHED = 10  # steps from one look at the gradients' norms to the next: each costs a pass over the gradients


class AdversarialModel(ChosenByCritic, ImplicitModel):
    """A generator against a critic: each batch updates the critic, each ``n_critic``-th also the generator.

    The critic is the first player, so that ``trainer.global_step`` counts its updates: one step is one batch. Inside,
    images are in [-1, 1].

    Args:
        generator: (B, latent_dim) -> (B, *shape), before the tanh that this class applies; with classes, from
            (B, latent_dim + class_dim).
        critic: (B, *shape) in [-1, 1] -> (B, 1); with classes -> (B, features).
        latent_dim: size of z.
        shape: of an example.
        objective: a name of `zoo.maths.objectives.OBJECTIVES`.
        n_critic: critic updates per generator update.
        penalty: lambda, the weight of the gradient penalty on interpolates, 0 for none.
        r1: gamma of R1, the squared gradient on data, 0 for none.
        r2: gamma of R2, the squared gradient on samples, 0 for none.
        lazy: batches from one penalty to the next.
        clip: bound of the absolute value of the critic's weights, 0 for none.
        lr: peak learning rate of both players.
        critic_lr: peak learning rate of the critic, where it differs.
        betas: Adam's decay rates of both players.
        num_classes: number of labels that both players are told, 0 for none.
        class_dim: size of the generator's embedding of the class.
        features: numbers that the critic gives a conditional model's projection.
        augment: target of adaptive augmentation, the mean sign of the critic's scores of data, such as 0.6; 0 for no
            augmentation.
        augment_images: images in which the probability of augmentation can rise from 0 to 1.
        bounded: whether examples are in [0, 1], as images are, and samples go through a tanh; points are not.
        candidates: default of sampling: how many are drawn for one that is kept.
        sharpness: default of sampling: beta of the chance in proportion to exp(beta D) with which one is kept.

    Raises:
        ConfigError: numbers out of range.
    """

    family = "gan"

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        latent_dim: int,
        shape: list[int],
        objective: str = "non_saturating",
        n_critic: int = 1,
        penalty: float = 0.0,
        r1: float = 0.0,
        r2: float = 0.0,
        lazy: int = 1,
        clip: float = 0.0,
        lr: float = 2e-4,
        critic_lr: float | None = None,
        betas: tuple[float, float] = (0.5, 0.9),
        num_classes: int = 0,
        class_dim: int = 16,
        features: int = 0,
        augment: float = 0.0,
        augment_images: int = 100_000,
        bounded: bool = True,
        candidates: int = 1,
        sharpness: float = 1.0,
    ) -> None:
        super().__init__()
        self.choose_among(candidates, sharpness)
        _check(n_critic, lazy, num_classes, features, augment, penalty, r1, r2, clip)
        self.automatic_optimization = False
        if num_classes:
            generator = self.conditioned(generator, num_classes, class_dim)
            critic = ProjectionCritic(critic, num_classes, features)
        self.generator, self.critic = generator, critic
        self.latent_dim, self.shape, self.levels = latent_dim, tuple(shape), None
        self.num_classes, self.bounded = num_classes, bounded
        self.objective, self.n_critic = objective_named(objective), n_critic
        self.penalty, self.r1, self.r2, self.lazy, self.weight_clip = penalty, r1, r2, lazy, clip
        self.lr, self.critic_lr = lr, lr if critic_lr is None else critic_lr
        self.betas = (float(betas[0]), float(betas[1]))
        self.augmentation = Augmentation(augment, augment_images) if augment else None
        self.period = math.lcm(n_critic, lazy if penalty or r1 or r2 else 1)
        self.steps_to_move = n_critic + 1
        # batch statistics of data and samples are not mixed
        self.apart = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in critic.modules())
        self._playing = ""
        if self.objective.shift_free:
            _freeze_constant(critic)

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that go with other data: larger networks learn more slowly; see `zoo.fitting`."""
        fitted = dict(arguments)
        if arguments.get("num_classes") and not arguments.get("features"):
            fitted["features"] = _FEATURES
        if "shape" in arguments and grows(arguments, before):
            rates = {k: arguments.get(k, default_of(cls, k)) for k in ("lr", "critic_lr")}
            fitted |= {k: min(rate, _LR) for k, rate in rates.items() if rate is not None}
        return fitted

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Return what the generator and the critic map to what; see `zoo.fitting`."""
        shape, (latent, scores) = tuple(arguments["shape"]), cls._input_widths(arguments)
        return {"generator": ((latent,), shape), "critic": (shape, (scores,))}

    @classmethod
    def _input_widths(cls, arguments: Mapping[str, Any]) -> tuple[int, int]:
        """Return how many numbers the generator takes, and how many the critic gives."""
        if not arguments.get("num_classes"):
            return arguments["latent_dim"], 1
        class_dim = arguments.get("class_dim", default_of(cls, "class_dim"))
        return arguments["latent_dim"] + class_dim, arguments.get("features") or _FEATURES

    def conditioned(self, generator: nn.Module, num_classes: int, class_dim: int) -> nn.Module:
        """Return a generator that is given the class too."""
        return ClassInput(generator, num_classes, class_dim)

    def players(self) -> dict[str, Player]:
        """Return the critic and the generator; the critic's Adam makes up for lazy penalties, as in appendix B."""
        k = self.lazy / (self.lazy + 1) if self.lazy > 1 and (self.penalty or self.r1 or self.r2) else 1.0
        betas = (self.betas[0] ** k, self.betas[1] ** k)
        return {
            "critic": Player(self.critic.parameters(), self.critic_lr * k, betas),
            "generator": Player(self.generator.parameters(), self.lr, self.betas),
        }

    def compilable(self) -> list[nn.Module]:
        """Return what is not differentiated twice."""
        return [self.generator] if self.penalty or self.r1 or self.r2 else [self.generator, self.critic]

    # -- data and samples ---------------------------------------------------------------------------------------------

    def given(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return examples in the critic's range, and their labels if the model is told them."""
        x, labels = batch
        return (x * 2 - 1 if self.bounded else x), (labels if self.num_classes else None)

    def generate(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the images of latents: (B, latent_dim) -> (B, *shape) in the critic's range."""
        x = (self.generator(z) if labels is None else self.generator(z, labels)).reshape(-1, *self.shape)
        return torch.tanh(x) if self.bounded else x

    def fakes(self, n: int, labels: Tensor | None = None) -> Tensor:
        """Return ``n`` images of fresh training noise, (n, *shape) in the critic's range."""
        return self.generate(self.randn(n, self.latent_dim), labels)

    def score(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the critic's scores, (B, *shape) in its range -> (B,)."""
        return (self.critic(x) if labels is None else self.critic(x, labels)).reshape(len(x), -1).squeeze(1)

    def seen(self, x: Tensor) -> Tensor:
        """Return what the critic sees of images: themselves, or augmented ones."""
        return x if self.augmentation is None else self.augmentation(x, self.rand(len(x), Augmentation.draws))

    # -- what each player loses ---------------------------------------------------------------------------------------

    def critic_loss(self, batch: Batch, regularise: float = 1.0) -> dict[str, Tensor]:
        """Return the critic's named terms on one batch, ``loss`` among them; the generator gets no gradient.

        Args:
            batch: of data.
            regularise: factor of the penalties in the loss; at 0 they are not computed.
        """
        x, y = self.given(batch)
        with torch.no_grad():
            fake = self.fakes(len(x), y)
        x, fake = self.seen(x), self.seen(fake)
        r1, r2 = self.r1 * regularise, self.r2 * regularise
        (d_real, real_norm), (d_fake, fake_norm) = self._judge(x, fake, y, r1 > 0, r2 > 0)
        gap = d_real.mean() - d_fake.mean()
        terms = {"loss": self.objective.critic(d_real, d_fake).mean(), "gap": gap, "sign": d_real.sign().mean()}
        if self.penalty and regularise:
            mixed = gradient_penalty(lambda v: self.score(v, y), x, fake, self.rand(len(x)))
            terms["penalty"] = self.penalty * mixed.mean()
            terms["loss"] = terms["loss"] + regularise * terms["penalty"]
        for name, gamma, norm in (("r1", r1, real_norm), ("r2", r2, fake_norm)):
            if norm is not None:
                terms["loss"] = terms["loss"] + gamma / 2 * norm.mean()
                terms[name] = gamma / (2 * regularise) * norm.mean()
        return terms

    def _judge(
        self, x: Tensor, fake: Tensor, y: Tensor | None, on_real: bool, on_fake: bool
    ) -> tuple[tuple[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]:
        """Return scores of data and of samples, each with the squared norms of its gradients where asked."""
        if self.apart or on_real != on_fake:
            return self._scored(x, y, on_real), self._scored(fake, y, on_fake)
        both = None if y is None else torch.cat([y, y])
        d, norm = self._scored(torch.cat([x, fake]), both, on_real)
        (d_real, d_fake), norms = d.chunk(2), (None, None) if norm is None else norm.chunk(2)
        return (d_real, norms[0]), (d_fake, norms[1])

    def _scored(self, x: Tensor, y: Tensor | None, differentiate: bool) -> tuple[Tensor, Tensor | None]:
        if not differentiate:
            return self.score(x, y), None
        x = x.detach().requires_grad_()
        x = x.view_as(x)  # torch's FLOP counter cannot follow a leaf through a second derivative
        d = self.score(x, y)
        return d, squared_gradient(d, x)

    def generator_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the generator's named terms, ``loss`` among them; most games use only the batch's size."""
        x, y = self.given(batch)
        d_fake = self.score(self.seen(self.fakes(len(x), y)), y)
        d_real = d_fake
        if self.objective.paired:
            with torch.no_grad():
                d_real = self.score(self.seen(x), y)
        return {"loss": self.objective.generator(d_real, d_fake).mean()}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of both players, penalties in full; ``loss`` is the critic's."""
        with torch.inference_mode(False), torch.enable_grad():  # penalties are gradients, in validation too
            x, labels = (t.clone() for t in batch)
            critic, generator = self.critic_loss((x, labels)), self.generator_loss((x, labels))
        return {**_named("critic", critic), **_named("generator", generator), "loss": critic["loss"]}

    # -- the training step --------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the critic on this batch and, after every ``n_critic``-th of its updates, the generator."""
        self.terms = {}
        with self._turn("critic") as update:
            terms = self.critic_loss(batch, float(self.lazy if self.steps_done % self.lazy == 0 else 0))
            stepped = update(terms["loss"])
        self.terms.update(_named("critic", terms))
        self.after_critic(terms, len(batch[0]), stepped)
        if not stepped or self.steps_done % self.n_critic:
            return
        with self._turn("generator") as update:
            stepped = False
            while not stepped:  # fresh noise for each of the `accumulate` shares
                terms = self.generator_loss(batch)
                stepped = update(terms["loss"])
        self.terms.update(_named("generator", terms))

    @torch.no_grad()
    def after_critic(self, terms: dict[str, Tensor], images: int, stepped: bool) -> None:
        """Clip the critic's weights after its step, and adapt the augmentation to what it thought of a batch."""
        if self.weight_clip and stepped:
            torch._foreach_clamp_min_(list(self.critic.parameters()), -self.weight_clip)
            torch._foreach_clamp_max_(list(self.critic.parameters()), self.weight_clip)
        if self.augmentation is not None:
            sign, world = over_processes(terms["sign"])
            self.augmentation.adapt(sign, images * world)
            self.terms["augmentation"] = self.augmentation.p.clone()

    @contextlib.contextmanager
    def _turn(self, player: str) -> Iterator[Callable[[Tensor], bool]]:
        self._playing = player
        with self.turn(player) as update:
            yield update

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradient that a player is about to follow, and note its norm."""
        super().on_before_optimizer_step(optimizer)
        done, every = self.steps_done, _WATCHED
        if self._playing == "generator":
            done, every = self.steps_done // self.n_critic - 1, max(1, _WATCHED // self.n_critic)
        if done % every == 0:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            self.terms[f"{self._playing}_gradient"] = torch.stack(torch._foreach_norm(gradients)).norm()

    # -- sampling -----------------------------------------------------------------------------------------------------

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of the latents of one example, as ``decode`` takes them."""
        return (self.latent_dim,)

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the examples of latents: (B, latent_dim) -> (B, *shape), images in [0, 1]."""
        return self.to_data(self.generate(z, self.given_labels(len(z), labels)))

    def to_data(self, x: Tensor) -> Tensor:
        """Return what the generator gives as examples in data range, (B, ...) -> (B, *shape)."""
        return (x + 1) / 2 if self.bounded else x

    def given_labels(self, n: int, labels: Tensor | None) -> Tensor | None:
        """Return the labels, checked: a conditional model needs them. Raises `ConfigError`."""
        if self.num_classes and labels is None:
            raise ConfigError(f"{type(self).__name__} is conditional: a latent alone is no image, give labels too")
        return self._labels(n, labels)


def over_processes(value: Tensor) -> tuple[Tensor, int]:
    """Return the mean of a tensor over all processes that train together, and their number."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return value, 1
    mean = value.detach().clone()
    dist.all_reduce(mean)
    return mean / dist.get_world_size(), dist.get_world_size()


def _named(player: str, terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Detach a player's terms and call its loss by its name."""
    return {f"{player}_loss" if name == "loss" else name: value.detach() for name, value in terms.items()}


def _freeze_constant(critic: nn.Module) -> None:
    """Freeze the last bias of a critic, if it has one, where a constant changes neither player's loss.

    Its gradient is zero but for rounding, which Adam would follow with full steps.
    """
    last = [*critic.parameters()][-1]
    if last.ndim == 1:
        last.requires_grad_(False)


def _check(n_critic: int, lazy: int, num_classes: int, features: int, augment: float, *weights: float) -> None:
    if n_critic < 1 or lazy < 1:
        raise ConfigError(f"n_critic and lazy must be at least 1, got {n_critic} and {lazy}")
    if min(weights) < 0:
        raise ConfigError(f"weights of penalties and the bound of weights must not be negative, got {min(weights)}")
    if num_classes and features < 1:
        raise ConfigError("a conditional critic gives several features; set features to their number")
    if not 0 <= augment < 1:
        raise ConfigError(f"augment, the mean sign of scores of data, must lie between 0 and 1, got {augment}")
