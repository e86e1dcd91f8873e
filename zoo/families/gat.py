"""Generative adversarial transformers: both players are Transformers, on the latents of a frozen VAE.

    z_x ~ q(z | x),   L_D = E softplus(D(G(z)) - D(z_x)) + gamma / 2 (R(z_x) + R(G(z))),
    L_G = E softplus(D(z_x) - D(G(z))),   R(v) = E |D(v + sigma e) - D(v)|^2 / sigma^2,  e ~ N(0, I)

R estimates |grad D|^2 from two scores, as attention has no fast second derivative. One pass of the generator and one of
the decoder make a sample. The multi-level guidance of the paper, which is for deep generators, is left out.

References:
    S. Hyun, J. Lee, J.-P. Heo, Scalable GANs with Transformers, 2025, arXiv:2509.24935.
    Y. Huang and others, The GAN is dead; long live the GAN!, 2025, arXiv:2501.05441: the game.
    S. Lin and others, Diffusion Adversarial Post-Training for One-Step Video Generation, 2025, arXiv:2501.08316: R.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.abilities import HasPosterior
from zoo.checking import trusted
from zoo.errors import ConfigError
from zoo.families.adversarial import AdversarialModel
from zoo.model import Batch, TrainedPart

__all__ = ["GAT"]


def _fitted(arguments: Mapping[str, Any], autoencoder: Any) -> dict[str, Any]:
    """Return the arguments of a game on the latents of this very autoencoder, cut into as many tokens as before."""
    changed = {**arguments, "autoencoder": autoencoder.spec}
    for player in ("generator", "critic"):
        init_args = dict(arguments[player].get("init_args") or {})
        if "tokens" not in init_args:  # networks of another kind say the size of what they make by themselves
            continue
        if autoencoder.latent_dim % init_args["tokens"]:
            raise ConfigError(
                f"the {autoencoder.latent_dim} latents of the autoencoder do not divide into {init_args['tokens']} "
                f"tokens; set --model.generator.init_args.tokens and --model.critic.init_args.tokens"
            )
        init_args["channels"] = autoencoder.latent_dim // init_args["tokens"]
        changed[player] = {**arguments[player], "init_args": init_args}
    return changed


class GAT(AdversarialModel):
    """Relativistic GAN of latents.

    Args:
        autoencoder: a `zoo.families.vae.VAE`, never trained here.
        generator: (B, latent_dim [+ class_dim]) -> (B, autoencoder.latent_dim).
        critic: (B, autoencoder.latent_dim) -> (B, 1), or (B, features) with classes.
        latent_dim: size of z.
        gamma: weight of both penalties.
        sigma: of the noise whose effect on the scores is penalised.
        n_critic: critic updates per generator update.
        lr: peak learning rate of both players.
        betas: Adam's decay rates of both players.
        num_classes, class_dim, features: classes, as in `AdversarialModel`.

    Raises:
        ConfigError: an autoencoder without a Gaussian posterior, sigma that is not positive, or what
            `AdversarialModel` refuses.
    """

    trained_parts: ClassVar[Mapping[str, TrainedPart]] = {
        "autoencoder": TrainedPart(
            what="a game on the latents of a trained VAE", example="vae-mnist", requires=HasPosterior,
            needs="Gaussian posterior", fitted=_fitted,
        )
    }  # fmt: skip
    passes = 2  # of the generator and the decoder

    def __init__(
        self,
        autoencoder: nn.Module,
        generator: nn.Module,
        critic: nn.Module,
        latent_dim: int,
        gamma: float = 1.0,
        sigma: float = 0.1,
        n_critic: int = 1,
        lr: float = 2e-4,
        betas: tuple[float, float] = (0.0, 0.99),
        num_classes: int = 0,
        class_dim: int = 16,
        features: int = 0,
    ) -> None:
        if not isinstance(autoencoder, HasPosterior):
            raise ConfigError(f"{type(autoencoder).__name__} has no Gaussian posterior; GAT builds on a VAE")
        if sigma <= 0:
            raise ConfigError(f"sigma must be positive, got {sigma}")
        super().__init__(
            generator, critic, latent_dim, list(autoencoder.shape), "relativistic", n_critic, r1=gamma, r2=gamma, lr=lr,
            betas=betas, num_classes=num_classes, class_dim=class_dim, features=features, bounded=False,
        )  # fmt: skip
        self.autoencoder = autoencoder.requires_grad_(False).eval()
        self.levels, self.sigma = autoencoder.levels, sigma
        self.apart = True  # data and samples are moved by noise of their own

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        latents, (latent, scores) = (arguments["autoencoder"]["init_args"]["latent_dim"],), cls._input_widths(arguments)
        return {"generator": ((latent,), latents), "critic": (latents, (scores,))}

    def train(self, mode: bool = True) -> GAT:
        """Set the players' mode; the autoencoder stays in eval mode."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    def accepts(self, shape: Sequence[int], levels: int | None) -> None:
        self.autoencoder.accepts(shape, levels)

    def compilable(self) -> list[nn.Module]:
        return [self.generator, self.critic]

    # -- the game, on latents -----------------------------------------------------------------------------------------

    def given(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return a draw from the posterior of each example, and its label if the model is told it."""
        x, labels = batch
        with torch.no_grad(), trusted():
            mean, log_var = self.autoencoder.posterior(x)
        z = mean + (log_var / 2).exp() * self.randn(*mean.shape)
        return z, (labels if self.num_classes else None)

    def generate(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the autoencoder's latents of z: (B, latent_dim) -> (B, autoencoder.latent_dim)."""
        return self.generator(z) if labels is None else self.generator(z, labels)

    def _scored(self, x: Tensor, y: Tensor | None, differentiate: bool) -> tuple[Tensor, Tensor | None]:
        """Return scores, and the estimate of the squared norm of their gradients."""
        d = self.score(x, y)
        if not differentiate:
            return d, None
        moved = self.score(x + self.sigma * self.randn(*x.shape), y)
        return d, ((moved - d) / self.sigma).square()

    # -- sampling -----------------------------------------------------------------------------------------------------

    def to_data(self, x: Tensor) -> Tensor:
        """Return the images of the autoencoder's latents, (B, autoencoder.latent_dim) -> (B, *shape) in data range."""
        return self.autoencoder.decode(x)
