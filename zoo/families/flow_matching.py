"""Flow matching: a velocity that is learnt by regression on the velocities of random paths from noise to data.

    loss = E |v(x_t, t, y) - dx_t/dt|^2 / D,   x_t = a(t) x_0 + b(t) x_1,   x_0 ~ N(0, I), x_1 ~ data

whose minimiser v = E[dx_t/dt | x_t] carries N(0, I) at t = 0 to the data at t = 1. Noise and examples are paired at
random, or within each batch (each rank's own, and within each class where labels are used) such that the total squared
distance is least, which straightens the curves.

References:
    Y. Lipman, R. T. Q. Chen, H. Ben-Hamu, M. Nickel, M. Le, Flow Matching for Generative Modeling, 2022,
    arXiv:2210.02747.
    A. Tong and others, Improving and generalizing flow-based generative models with minibatch optimal transport, 2023,
    arXiv:2302.00482.
    P. Esser and others, Scaling Rectified Flow Transformers for High-Resolution Image Synthesis, 2024,
    arXiv:2403.03206 (times from a logit-normal distribution).
    J. Ho, T. Salimans, Classifier-Free Diffusion Guidance, 2022, arXiv:2207.12598.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError, close_matches
from zoo.families.velocity import OdeLikelihood, VelocityModel
from zoo.maths.assignment import optimal_pairing
from zoo.maths.paths import path as path_of
from zoo.maths.transport import entropic_pairing
from zoo.model import Batch

__all__ = ["PAIRINGS", "TIMES", "FlowMatching"]

PAIRINGS = ("independent", "optimal", "sinkhorn")
TIMES = ("uniform", "logit_normal")


class FlowMatching(OdeLikelihood, VelocityModel):
    """Flow matching on images or points.

    Args:
        network: v(x (B, *shape), time (B,), labels (B,) or None) -> (B, *shape); see
            `zoo.families.velocity.VelocityModel`.
        shape: of an example.
        levels: grey levels of the data, None for continuous values.
        path: a name of `zoo.maths.paths.PATHS` without a third part.
        pairing: ``independent``; ``optimal`` within the batch; or ``sinkhorn``, partners drawn from an entropic plan,
            which may repeat, see `zoo.maths.transport.entropic_pairing`.
        times: distribution of training times, ``uniform`` or ``logit_normal``.
        likelihood_steps: RK4 steps of `log_prob`.
        likelihood_examples: over how many test examples an evaluation takes the mean of `log_prob`.

    The other arguments are those of `zoo.families.velocity.VelocityModel`.

    Raises:
        ConfigError: an unknown path, pairing, distribution or solver.
    """

    def __init__(
        self,
        network: nn.Module,
        shape: list[int],
        levels: int | None = 256,
        path: str = "linear",
        pairing: str = "independent",
        times: str = "uniform",
        likelihood_steps: int = 20,
        likelihood_examples: int = 1_000,
        **kwargs: Any,
    ) -> None:
        super().__init__(network, shape, levels, **kwargs)
        for value, known, what in ((pairing, PAIRINGS, "pairing"), (times, TIMES, "distribution of times")):
            if value not in known:
                near = close_matches(value, known)
                raise ConfigError(f"unknown {what} {value!r}.{near} There are: {', '.join(known)}")
        self.path = path_of(path)
        if self.path.g is not None:
            raise ConfigError(f"the path {path!r} has a third part, which flow matching does not; use interpolant")
        self.pairing, self.times = pairing, times
        self.end = 1 - self.path.margin
        self.set_likelihood(likelihood_steps, likelihood_examples)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean squared error of the velocity, per dimension."""
        x, labels = batch
        self.keep_early()
        x_1 = self.training_examples(x)
        x_0 = self.paired(self.randn(*x.shape), x_1, labels)
        t = self.training_times(len(x))
        x_t, dx_t = self.path.state(x_0, x_1, t), self.path.velocity(x_0, x_1, t)
        mse = F.mse_loss(self.velocity(x_t, t, self.dropped(labels)), dx_t)
        return {"loss": mse, "mse": mse}

    def training_times(self, n: int) -> Tensor:
        """Draw n times, (n,)."""
        t = self.even(n)
        if self.times == "logit_normal":
            tiny = torch.finfo(t.dtype).eps
            single = torch.promote_types(t.dtype, torch.float32)
            t = torch.special.ndtri(t.clamp(tiny, 1 - tiny).to(single)).sigmoid().to(t.dtype)
        return t * self.end

    def paired(self, x_0: Tensor, x_1: Tensor, labels: Tensor) -> Tensor:
        """Return the noise in the order in which it goes with the examples, each rank's share by itself."""
        if self.pairing == "independent":
            return x_0
        groups = self.pairing_groups(labels)
        if self.pairing == "sinkhorn":
            return x_0[entropic_pairing(x_1, x_0, self.rand(len(x_1)), groups=groups)]
        return x_0[optimal_pairing(x_1, x_0, groups)]
