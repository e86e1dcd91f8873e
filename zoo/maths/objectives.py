"""What the two players of an adversarial game lose, as functions of the critic's scores alone.

Each objective maps scores of data ``real`` and of samples ``fake``, of one shape, to one loss a score. All are written
on logits or unbounded scores; there is no logarithm of a sigmoid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from zoo.errors import check_choice

__all__ = ["OBJECTIVES", "Objective", "objective"]


@dataclass(frozen=True)
class Objective:
    """An adversarial game.

    Attributes:
        critic: (real, fake) -> what the critic loses.
        generator: (real, fake) -> what the generator loses.
        paired: whether the generator's loss depends on the scores of data.
        shift_free: whether a constant added to all scores changes neither loss.
    """

    critic: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    paired: bool = False
    shift_free: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Let an objective be pickled by its name: functions without one cannot."""
        for name, known in OBJECTIVES.items():
            if known is self:
                return objective, (name,)
        return Objective, (self.critic, self.generator, self.paired, self.shift_free)


_DRIFT = 1e-3

OBJECTIVES: dict[str, Objective] = {
    # I. Goodfellow and others, 2014, arXiv:1406.2661, section 3: -log D(x) - log(1 - D(G(z))), and -log D(G(z)), with
    # D the sigmoid of the score.
    "non_saturating": Objective(lambda r, f: F.softplus(-r) + F.softplus(f), lambda r, f: F.softplus(-f)),
    # X. Mao and others, Least Squares Generative Adversarial Networks, 2016, arXiv:1611.04076, equation 9.
    "least_squares": Objective(
        lambda r, f: ((r - 1).square() + f.square()) / 2, lambda r, f: (f - 1).square() / 2
    ),
    # M. Arjovsky and others, Wasserstein GAN, 2017, arXiv:1701.07875.
    "wasserstein": Objective(lambda r, f: f - r, lambda r, f: -f, shift_free=True),
    # T. Karras and others, 2017, arXiv:1710.10196, appendix A.1: scores of data do not drift far from zero.
    "wasserstein_drift": Objective(lambda r, f: f - r + _DRIFT * r.square(), lambda r, f: -f),
    # J. H. Lim, J. C. Ye, Geometric GAN, 2017, arXiv:1705.02894.
    "hinge": Objective(lambda r, f: F.relu(1 - r) + F.relu(1 + f), lambda r, f: -f),
    # A. Jolicoeur-Martineau, 2018, arXiv:1807.00734; Y. Huang and others, 2025, arXiv:2501.05441, equation 2.
    "relativistic": Objective(
        lambda r, f: F.softplus(f - r), lambda r, f: F.softplus(r - f), paired=True, shift_free=True
    ),
}  # fmt: skip
"""By name; ``wasserstein`` and ``wasserstein_drift`` need a critic that is held Lipschitz."""


def objective(name: str) -> Objective:
    """Return the objective of this name. Raises `ConfigError` on an unknown one."""
    check_choice("adversarial objective", name, OBJECTIVES)
    return OBJECTIVES[name]
