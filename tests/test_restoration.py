"""Restoration without training: exact for Gaussians, whatever the model sees them by, and close on digits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoo.families.ddpm import DDPM
from zoo.families.ebm import EBM
from zoo.families.flow_matching import FlowMatching
from zoo.families.score_sde import ScoreSDE
from zoo.maths.conversions import SIGMA_DATA, input_scale
from zoo.maths.measurements import blur, downsample, inpaint
from zoo.maths.schedules import VE, Cosine
from zoo.restoration import restored

SHAPE = (1, 2, 2)
MEAN = torch.tensor([0.5, -0.2, 0.1, 0.8])
ROOT = torch.tensor([[0.9, 0.0, 0.0, 0.0], [0.5, 0.6, 0.0, 0.0], [-0.3, 0.4, 0.5, 0.0], [0.2, 0.1, -0.4, 0.7]])
COVARIANCE = ROOT @ ROOT.T
OPERATORS = {
    "inpaint": (inpaint(torch.tensor([[1, 0], [0, 1]])), torch.diag(torch.tensor([1.0, 0.0, 0.0, 1.0]))),
    "downsample": (downsample(2), torch.full((1, 4), 0.25)),
    "blur": (blur(0.8), None),
}


def _data_given(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """E[x_0 | alpha x_0 + sigma n = x] of N(MEAN, COVARIANCE), (B, 1, 2, 2)."""
    alpha, sigma = (v.reshape(-1, 1, 1).to(x.dtype) for v in (alpha, sigma))
    C, m = COVARIANCE.to(x.dtype), MEAN.to(x.dtype)
    gain = alpha * torch.linalg.solve(alpha**2 * C + sigma**2 * torch.eye(4, dtype=x.dtype), C)  # (B, 4, 4), symmetric
    flat = x.flatten(1)[:, None]
    return (m + (flat - alpha * m) @ gain).reshape(x.shape)


class Denoiser(nn.Module):
    """x_0 itself, of a schedule; the state comes scaled to unit variance where variance explodes."""

    def __init__(self, schedule: Any) -> None:
        super().__init__()
        self.schedule, self.unused = schedule, nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, log_snr: Tensor, labels: Tensor | None = None) -> Tensor:
        alpha, sigma = self.schedule.coefficients(log_snr)
        scale = input_scale("x0", alpha, sigma, SIGMA_DATA)
        return _data_given(x / scale.reshape(-1, 1, 1, 1), alpha, sigma)


class Velocity(nn.Module):
    """x_1 - x_0 on the straight path, 1 - t of noise and t of data."""

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        t = t / 10
        beside = t.reshape(-1, 1, 1, 1).to(x.dtype)
        return (_data_given(x, t, 1 - t) - x) / (1 - beside)


class Quadratic(nn.Module):
    """What is beside the model's own Gaussian of deviation 2 in the energy of N(MEAN, COVARIANCE)."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        z = x.flatten(1) - MEAN
        own = x.flatten(1).square().sum(1) / (2 * 2.0**2)
        return (0.5 * (z * torch.linalg.solve(COVARIANCE, z.T).T).sum(1) - own)[:, None]


def _models() -> dict[str, Any]:
    return {
        "ddpm": DDPM(Denoiser(Cosine()), list(SHAPE), Cosine(), predict="x0", levels=None),
        "ve": ScoreSDE(Denoiser(VE()), list(SHAPE), VE(), predict="x0", levels=None),
        "flow": FlowMatching(Velocity(), list(SHAPE), levels=None),
        "energy": EBM(Quadratic(), list(SHAPE), levels=None, step_size=0.5, spread=2.0, buffer=4),
    }


@pytest.mark.parametrize("measure", OPERATORS)
@pytest.mark.parametrize("name", ["ddpm", "ve", "flow", "energy"])
def test_draws_are_the_posterior_of_a_gaussian(name: str, measure: str) -> None:
    operator, _ = OPERATORS[measure]
    A = operator(torch.eye(4).view(4, 1, 2, 2)).flatten(1).T  # (numbers, 4)
    noise, n = 0.3, 4_000
    y = torch.tensor([0.7, 0.1, -0.4, 0.3])[: len(A)].view(1, *operator(torch.zeros(1, *SHAPE)).shape[1:])
    y = y * (A.abs().sum(1).view(y.shape) > 0)
    steps = 1_500 if name == "energy" else 200
    x = restored(_models()[name], operator, y, n, noise=noise, seed=0, steps=steps).flatten(1)
    gain = COVARIANCE @ A.T @ torch.linalg.inv(A @ COVARIANCE @ A.T + noise**2 * torch.eye(len(A)))
    mean = MEAN + gain @ (y.flatten() - A @ MEAN)
    covariance = COVARIANCE - gain @ A @ COVARIANCE
    deviations = covariance.diag().sqrt()
    assert ((x.mean(0) - mean).abs() < 0.1 * deviations + 0.02).all(), (x.mean(0), mean)
    torch.testing.assert_close(torch.cov(x.T), covariance, rtol=0.12, atol=0.03)
