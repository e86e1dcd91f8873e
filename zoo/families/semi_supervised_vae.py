"""Semi-supervised variational autoencoder (M2): a class that is sometimes seen and otherwise a latent of its own.

    p(x, y, z) = p(y) p(z) p(x | y, z),   q(y, z | x) = q(y | x) q(z | x, y),   p(y) = 1/K

    -L(x, y) = E_q(z|x,y) [log p(x | y, z)] - KL(q(z | x, y) || p(z)) + log p(y)      <= log p(x, y)
    -U(x) = sum_y q(y | x) (-L(x, y)) + H(q(y | x))                                   <= log p(x)

    J / N = N_l / N mean_l L(x, y) + N_u / N mean_u U(x) + alpha mean_l (-log q(y | x))

over N_l labelled and N_u unlabelled examples; the paper's alpha is 0.1 N of J, 0.1 here. The means are over those of
each kind in a batch, so that a batch may have more labelled ones than the data do. Unlabelled is the label -1. L is
computed for every class of every example, so that a step costs the same whatever the labels.

References:
    D. P. Kingma, D. J. Rezende, S. Mohamed, M. Welling, Semi-supervised Learning with Deep Generative Models, 2014,
    arXiv:1406.5298, equations 5 to 9.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.adversarial import over_processes
from zoo.families.cvae import CVAE
from zoo.maths.dequantisation import dequantise
from zoo.maths.distributions import gaussian_kl
from zoo.model import Batch

__all__ = ["SemiSupervisedVAE"]


class SemiSupervisedVAE(CVAE):
    """Variational autoencoder of x and its class, which tells classes that it is not told.

    ``log_prob`` is that of x given its class; `marginal_log_prob` that of x alone.

    Args:
        encoder: as that of `zoo.families.cvae.CVAE`.
        decoder: as that of `CVAE`.
        classifier: (B, *shape) -> (B, num_classes), logits of q(y | x).
        shape: of an example.
        latent_dim: size of z.
        num_classes: K, at least 2.
        labelled_share: N_l / N, the share of labelled examples in the data.
        alpha: weight of the classifier's loss on labelled examples.
        planes: as those of `CVAE`.
        likelihood: of a dimension of x, as that of `zoo.families.vae.VAE`.
        lr: peak learning rate.
        betas: Adam's decay rates.

    The other arguments are those of `zoo.families.vae.VAE`, without free bits and schedules of the KL term.

    Raises:
        ConfigError: numbers out of range, or what `CVAE` refuses.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        classifier: nn.Module,
        shape: list[int],
        latent_dim: int,
        num_classes: int,
        labelled_share: float = 0.5,
        alpha: float = 0.1,
        planes: bool = False,
        likelihood: str = "bernoulli",
        levels: int | None = None,
        scale: str = "predicted",
        min_log_scale: float = -5.0,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__(
            encoder, decoder, shape, latent_dim, num_classes, planes, likelihood, levels=levels, scale=scale,
            min_log_scale=min_log_scale, lr=lr, betas=betas,
        )  # fmt: skip
        if num_classes < 2 or not 0 <= labelled_share <= 1 or not 0 <= alpha < math.inf:
            raise ConfigError(
                f"num_classes must be at least 2, labelled_share lie in [0, 1] and alpha not be negative, got "
                f"{num_classes}, {labelled_share} and {alpha}"
            )
        self.classifier, self.labelled_share, self.alpha = classifier, labelled_share, alpha

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        classifier = (tuple(arguments["shape"]), (arguments["num_classes"],))
        return {**super().network_shapes(arguments), "classifier": classifier}

    def classify(self, x: Tensor) -> Tensor:
        """Return q(y | x), (B, *shape) in data range -> (B, num_classes)."""
        return self.class_log_probs(x).exp()

    def class_log_probs(self, x: Tensor) -> Tensor:
        """Return log q(y | x), (B, *shape) in data range -> (B, num_classes)."""
        return self.classifier(x).reshape(len(x), -1).log_softmax(1)

    # -- the objective ------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` = J / N, ``labelled`` and ``unlabelled``, the means of L and U, and ``classification``.

        ``accuracy`` is the classifier's share of hits among labelled examples. Means over none are 0, and where there
        is one kind of examples alone it has all the weight.
        """
        x, labels = batch
        L, log_q = self.joint_losses(x), self.class_log_probs(x)
        known = labels >= 0
        y = labels.clamp(min=0)[:, None]
        of_class, surprise = L.gather(1, y)[:, 0], -log_q.gather(1, y)[:, 0]
        free = (log_q.exp() * (L + log_q)).sum(1)
        some, others = self._count(known), self._count(~known)
        share = torch.where((some > 0) & (others > 0), self.labelled_share, (some > 0).to(L.dtype))
        terms = {"labelled": _mean(of_class, known, some), "unlabelled": _mean(free, ~known, others)}
        terms["classification"] = _mean(surprise, known, some)
        loss = share * terms["labelled"] + (1 - share) * terms["unlabelled"] + self.alpha * terms["classification"]
        hits = (log_q.argmax(1) == labels).to(L.dtype)
        return {"loss": loss, **terms, "accuracy": _mean(hits, known, some)}

    def _count(self, among: Tensor) -> Tensor:
        """Return how many are marked, the mean over processes that train together, so that examples weigh alike."""
        count = among.sum().to(self.dtype)
        return over_processes(count)[0] if self.training else count

    def joint_losses(self, x: Tensor) -> Tensor:
        """Return L(x, y) of every class by one draw of z each: (B, *shape) -> (B, num_classes), in nats."""
        B, K = len(x), self.num_classes
        labels = torch.arange(K, device=x.device).repeat(B)  # (B * K,), the classes of an example side by side
        every = x.repeat_interleave(K, 0)
        mean, log_var = self.encode(every, labels)
        z = mean + torch.exp(0.5 * log_var) * self.randn(B, K, self.latent_dim).flatten(0, 1)
        target = every
        if self.dequantizes:
            target = dequantise(every, self.rand(*x.shape).repeat_interleave(K, 0), self.levels)
        elbo = self._log_likelihood(target, z, labels) - gaussian_kl(mean, log_var).sum(1)
        return (math.log(K) - elbo).unflatten(0, (B, K))

    # -- the likelihood -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def marginal_log_prob(self, x: Tensor, *, k: int = 1, seed: int | torch.Generator | None = None) -> Tensor:
        """Return a lower bound on log p(x), in nats, the class summed out: (B, *shape) in data range -> (B,).

        The bound of log p(x | y) is that of `log_prob`, with ``k`` draws of z.
        """
        bounds = [self.log_prob(x, labels=[y] * len(x), k=k, seed=seed) for y in range(self.num_classes)]
        return torch.stack(bounds, 1).logsumexp(1) - math.log(self.num_classes)


def _mean(values: Tensor, among: Tensor, count: Tensor) -> Tensor:
    """Return the mean of those values that are marked, so many, 0 where none is."""
    return torch.where(among, values, 0.0).sum() / torch.where(count > 0, count, 1.0)
