"""Two players and the one training step that all adversarial models share.

A model says what each player loses (`AdversarialModel.critic_loss`, `AdversarialModel.generator_loss`); whose turn it
is, is decided here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.model import Batch, ImplicitModel, Player

__all__ = ["AdversarialModel"]


class AdversarialModel(ImplicitModel):
    """A generator against a critic: each batch updates the critic, each ``n_critic``-th also the generator.

    The critic is the first player, so that ``trainer.global_step`` counts its updates: one step is one batch. Inside,
    images are in [-1, 1].

    Args:
        generator: (B, latent_dim) -> (B, *shape), before the tanh that this class applies.
        critic: (B, *shape) in [-1, 1] -> (B, 1), with no batch normalisation.
        latent_dim: size of z.
        shape: of an example.
        n_critic: critic updates per generator update.
        lr: peak learning rate of both players.
        betas: Adam's decay rates of both players.

    Raises:
        ConfigError: ``n_critic`` below 1.
    """

    family = "gan"

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        latent_dim: int,
        shape: list[int],
        n_critic: int = 1,
        lr: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.9),
    ) -> None:
        super().__init__()
        if n_critic < 1:
            raise ConfigError(f"n_critic must be at least 1, got {n_critic}")
        self.automatic_optimization = False
        self.generator, self.critic = generator, critic
        self.latent_dim, self.shape, self.levels = latent_dim, tuple(shape), None
        self.n_critic, self.lr, self.betas = n_critic, lr, (float(betas[0]), float(betas[1]))
        self.period = n_critic
        self.steps_to_move = n_critic + 1

    def players(self) -> dict[str, Player]:
        return {
            "critic": Player(self.critic.parameters(), self.lr, self.betas),
            "generator": Player(self.generator.parameters(), self.lr, self.betas),
        }

    # -- what each player loses ---------------------------------------------------------------------------------------

    def critic_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the critic's named terms on one batch, ``loss`` among them; the generator gets no gradient."""
        raise NotImplementedError

    def generator_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the generator's named terms, ``loss`` among them; only the size of the batch is used."""
        raise NotImplementedError

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of both players; ``loss`` is the critic's."""
        critic, generator = self.critic_loss(batch), self.generator_loss(batch)
        return {**_named("critic", critic), **_named("generator", generator), "loss": critic["loss"]}

    # -- the training step --------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the critic on this batch and, after every ``n_critic``-th of its updates, the generator."""
        with self.turn("critic") as update:
            terms = self.critic_loss(batch)
            stepped = update(terms["loss"])
        self.terms.update(_named("critic", terms))
        if not stepped or self.steps_done % self.n_critic:
            return
        with self.turn("generator") as update:
            stepped = False
            while not stepped:  # fresh noise for each of the `accumulate` shares
                terms = self.generator_loss(batch)
                stepped = update(terms["loss"])
        self.terms.update(_named("generator", terms))

    # -- sampling -----------------------------------------------------------------------------------------------------

    def generate(self, z: Tensor) -> Tensor:
        """Return the images of latents: (B, latent_dim) -> (B, *shape) in [-1, 1]."""
        return torch.tanh(self.generator(z)).reshape(-1, *self.shape)

    def fakes(self, n: int) -> Tensor:
        """Return ``n`` images of fresh training noise, (n, *shape) in [-1, 1]."""
        return self.generate(self.randn(n, self.latent_dim))

    def decode(self, z: Tensor) -> Tensor:
        """Return the images of latents: (B, latent_dim) -> (B, *shape) in [0, 1]."""
        return (self.generate(z) + 1) / 2

    def draw(self, n: int, generator: torch.Generator, labels: Tensor | None, *, temperature: float = 1.0) -> Tensor:
        """Draw from the generator; ``temperature`` scales the standard deviation of z."""
        z = torch.randn(n, self.latent_dim, generator=generator, device=self.device, dtype=self.dtype)
        return self.decode(temperature * z)


def _named(player: str, terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Detach a player's terms and call its loss by its name."""
    return {f"{player}_loss" if name == "loss" else name: value.detach() for name, value in terms.items()}
