"""Restoration without training: exact for Gaussians, whatever the model sees them by, and close on digits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from zoo.errors import ConfigError, DataError
from zoo.families.ddpm import DDPM
from zoo.families.ebm import EBM
from zoo.families.flow_matching import FlowMatching
from zoo.families.score_sde import ScoreSDE
from zoo.maths.conversions import SIGMA_DATA, input_scale
from zoo.maths.measurements import Measurement, blur, denoised, downsample, inpaint
from zoo.maths.schedules import VE, Cosine
from zoo.restoration import measured, operator_of, restored

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


@pytest.mark.parametrize(
    ("name", "measure"),
    [
        ("ddpm", "downsample"),
        ("flow", "inpaint"),
        ("energy", "downsample"),
        *(pytest.param(n, "downsample", marks=pytest.mark.slow) for n in ("ve", "flow")),
        *(pytest.param(n, m, marks=pytest.mark.slow) for n in ("ddpm", "ve", "energy") for m in ("inpaint", "blur")),
    ],
)
def test_draws_are_the_posterior_of_a_gaussian(name: str, measure: str) -> None:
    operator, _ = OPERATORS[measure]
    A = operator(torch.eye(4).view(4, 1, 2, 2)).flatten(1).T  # (numbers, 4)
    noise, n = 0.3, 3_000
    y = torch.tensor([0.7, 0.1, -0.4, 0.3])[: len(A)].view(1, *operator(torch.zeros(1, *SHAPE)).shape[1:])
    y = y * (A.abs().sum(1).view(y.shape) > 0)
    steps = 1_000 if name == "energy" else 120
    x = restored(_models()[name], operator, y, n, noise=noise, seed=0, steps=steps).flatten(1)
    gain = COVARIANCE @ A.T @ torch.linalg.inv(A @ COVARIANCE @ A.T + noise**2 * torch.eye(len(A)))
    mean = MEAN + gain @ (y.flatten() - A @ MEAN)
    covariance = COVARIANCE - gain @ A @ COVARIANCE
    deviations = covariance.diag().sqrt()
    assert ((x.mean(0) - mean).abs() < 0.1 * deviations + 0.02).all(), (x.mean(0), mean)
    torch.testing.assert_close(torch.cov(x.T), covariance, rtol=0.12, atol=0.03)


def test_the_correction_is_exact_after_as_many_iterations_as_numbers() -> None:
    x, (operator, A) = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0)), OPERATORS["inpaint"]
    alpha, sigma = torch.tensor(0.8), torch.tensor(0.6)
    y, s = operator(torch.ones(1, *SHAPE)), 0.2
    found = denoised(lambda x: _data_given(x, alpha, sigma), x, sigma**2 / alpha, Measurement(operator, y, s), 2)
    assert A is not None and not found.requires_grad
    V = sigma**2 * torch.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * torch.eye(4)) @ COVARIANCE
    gain = V @ A.T @ torch.linalg.inv(A @ V @ A.T + s**2 * torch.eye(4))
    x_0 = _data_given(x, alpha, sigma).flatten(1)
    torch.testing.assert_close(found.flatten(1), x_0 + (y.flatten() - x_0 @ A.T) @ gain.T, rtol=1e-4, atol=1e-5)


def test_a_correction_by_the_plain_gradient_is_not_the_posterior() -> None:
    """Diffusion posterior sampling takes V for the identity; the mean that it gives is another."""
    operator, _ = OPERATORS["downsample"]
    x, y = torch.zeros(1, *SHAPE), torch.full((1, 1, 1, 1), 2.0)
    alpha, sigma, seen = torch.tensor(0.8), torch.tensor(0.6), Measurement(operator, y, 0.2)
    true = denoised(lambda x: _data_given(x, alpha, sigma), x, sigma**2 / alpha, seen)
    x_0 = _data_given(x, alpha, sigma)
    plain = x_0 + seen.adjoint((y - operator(x_0)) / (0.2**2 + 0.25), x)
    assert (plain - true).abs().max() > 0.1


def test_operators_and_their_adjoints() -> None:
    x = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(8, 12, generator=torch.Generator().manual_seed(1)) < 0.5
    for operator in (inpaint(mask), downsample(4), blur(1.5), blur(6.0)):
        y = operator(x)
        u = torch.rand(y.shape, generator=torch.Generator().manual_seed(2))
        seen = Measurement(operator, y, 0.1)
        torch.testing.assert_close((y * u).sum(), (x * seen.adjoint(u, x)).sum())
        assert seen.misfit(x).abs().max() < 1e-8
        torch.testing.assert_close(seen.mapped(2.0, -1.0, x.shape[1:]).y, operator(2 * x - 1))
    torch.testing.assert_close(blur(1.5)(torch.ones(1, 1, 5, 9)), torch.ones(1, 1, 5, 9))
    assert downsample(4)(x).shape == (2, 3, 2, 3)
    torch.testing.assert_close(downsample(4)(x)[0, 0, 0, 0], x[0, 0, :4, :4].mean())


@pytest.mark.parametrize("kind", ["inpaint", "downsample", "blur"])
def test_digits_meet_what_was_measured(kind: str) -> None:
    model = zoo.load("flow_matching-mnist")
    x, mask = model.sample(2, seed=3), torch.arange(28)[:, None].expand(28, 28) < 14
    operator = operator_of(kind, model.shape, mask=mask)
    y = measured(operator, x, 0.05)
    found, other = (zoo.restore(model, y, kind, n=2, mask=mask, noise=0.05, steps=20, seed=s) for s in (0, 1))
    assert found.shape == x.shape and found.min() >= 0 and found.max() <= 1
    assert (operator(found) - y).square().mean().sqrt() < 0.08
    assert not torch.equal(found, other)


def test_what_cannot_be_restored_is_told_in_one_sentence() -> None:
    model = zoo.load("vae-mnist")
    y = torch.zeros(1, 7, 7)
    with pytest.raises(ConfigError, match="VAE has no score, velocity or energy of its examples"):
        zoo.restore(model, y, "downsample")
    for name in ("latent_diffusion-mnist", "consistency-mnist"):
        with pytest.raises(ConfigError, match="has no score, velocity or energy of its examples"):
            zoo.restore(name, y, "downsample", n=1)
    flow = _models()["flow"]
    for more, sentence in (
        ({"measure": "sharpen"}, "unknown measure 'sharpen'"),
        ({"measure": "downsample", "factor": 3}, "factor must be an integer above 1 that divides 2 and 2"),
        ({"measure": "blur", "width": 0.0}, "width must lie between 0"),
        ({"measure": "inpaint"}, "inpaint takes a mask of 2 x 2"),
        ({"measure": "downsample", "factor": 2, "noise": 0.0}, "noise must be a positive number"),
        ({"measure": "downsample", "factor": 2, "steps": 1}, "steps must be at least 2"),
        ({"measure": "downsample", "factor": 2, "n": 0}, "n must be"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            zoo.restore(flow, torch.zeros(1, 1, 1), **more)
    with pytest.raises(DataError, match=r"what was measured must have shape \(1, 1, 1\)"):
        zoo.restore(flow, torch.zeros(1, 2, 2), "downsample", factor=2)
    for wrong in ("x", None, [[1], [2, 3]], torch.zeros(1, 1, 1) > 0):
        with pytest.raises(DataError, match="what was measured"):
            zoo.restore(flow, wrong, "downsample", factor=2)
    images = zoo.load("flow_matching-mnist")
    for wrong in (torch.full((1, 7, 7), 200.0), torch.full((1, 7, 7), -0.9)):
        with pytest.raises(DataError, match=r"what was measured must lie in \[0, 1\]"):
            zoo.restore(images, wrong, "downsample")
    for more in ({"noise": "x"}, {"noise": math.nan}, {"guidance_scale": "x"}, {"measure": "blur", "width": "x"}):
        with pytest.raises(ConfigError, match="must be a finite number"):
            zoo.restore(flow, torch.zeros(1, 1, 1), **{"measure": "downsample", "factor": 2, **more})
    with pytest.raises(DataError, match="mask"):
        zoo.restore(flow, torch.zeros(1, 2, 2), "inpaint", mask="x")
    with pytest.raises(DataError, match="not finite"):
        zoo.restore(flow, torch.full((1, 1, 1), math.nan), "downsample", factor=2)


def test_the_command_restores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from zoo._cli import main
    from zoo.images import read_png

    model = zoo.load("flow_matching-mnist")
    x = model.sample(1, seed=3)
    small, whole, out = tmp_path / "small.png", tmp_path / "whole.png", tmp_path / "out.png"
    _saved(F.avg_pool2d(x, 4), small)
    _saved(x, whole)
    short = ["-n", "2", "--steps", "10", "--seed", "0", "--force", "--out", str(out)]
    assert main(["sample", "flow_matching-mnist", "--measure", "downsample", str(small), *short]) == 0
    assert (F.avg_pool2d(read_png(out, model.shape), 4) - F.avg_pool2d(x, 4)).abs().mean() < 0.06
    assert main(["sample", "flow_matching-mnist", "--measure", "inpaint", str(whole), "--rows", "20", *short]) == 0
    assert main(["sample", "flow_matching-mnist", "--measure", "blur", str(whole), "--width", "1", *short]) == 0
    for wrong, sentence in (
        (["--measure", "downsample", str(whole)], "28 x 28; a smaller picture of 28 x 28 has sides"),
        (["--measure", "sharpen", str(whole)], "unknown measure 'sharpen'"),
        (["--measure", "blur", str(whole), "--rows", "3"], "--rows is of --measure inpaint"),
        (["--measure", "blur", str(whole), "--option", "solver=rk4"], "solver is not an option of restoration"),
        (["--measure", "blur", str(tmp_path / "no.png")], "there is no file"),
        (["--noise", "0.1"], "give it by --measure"),
    ):
        assert main(["sample", "flow_matching-mnist", *wrong, *short]) == 2
        assert sentence in capsys.readouterr().err


def _saved(x: Tensor, path: Path) -> None:
    from PIL import Image

    Image.fromarray((x[0, 0] * 255).round().byte().numpy()).save(path)
