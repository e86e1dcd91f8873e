"""Gradients of expectations: every estimator's mean is the closed form, and REINFORCE varies more than the path."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from zoo.errors import ConfigError
from zoo.maths.estimators import concrete, gamma, gaussian, laplace, reinforce, variance_report

N = 200_000
G = torch.Generator


def f(x: Tensor) -> Tensor:
    return (x - 0.5).square()


def draws(name: str, theta: Tensor, n: int, g: G) -> Tensor:
    one = torch.ones((), dtype=torch.float64)
    if name == "gaussian":
        return gaussian(theta, theta.square(), torch.randn(n, generator=g, dtype=torch.float64))
    if name == "laplace":
        return laplace(theta, theta.square(), torch.rand(n, generator=g, dtype=torch.float64) - 0.5)
    return gamma(theta.expand(n), 2 * one, g)


CLOSED: dict[str, Callable[[Tensor], Tensor]] = {  # E (x - 1/2)^2 = variance + (mean - 1/2)^2
    "gaussian": lambda t: t**4 + (t - 0.5) ** 2,
    "laplace": lambda t: 2 * t**4 + (t - 0.5) ** 2,
    "gamma": lambda a: a / 4 + (a / 2 - 0.5) ** 2,
}


@pytest.mark.parametrize("name", CLOSED)
def test_path_gradient_is_that_of_the_closed_form(name: str) -> None:
    theta = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    value = f(draws(name, theta, N, G().manual_seed(0)))
    exact = CLOSED[name](theta)
    assert value.mean().item() == pytest.approx(exact.item(), abs=5 * float(value.detach().std()) / math.sqrt(N))
    (own,), (slope,) = torch.autograd.grad(value.mean(), theta), torch.autograd.grad(exact, theta)
    assert own.item() == pytest.approx(slope.item(), rel=0.05)


def log_normal(x: Tensor, mean: Tensor) -> Tensor:
    return -(x - mean).square() / 2 - math.log(2 * math.pi) / 2


def test_reinforce_has_the_same_mean_and_more_variance() -> None:
    theta = torch.tensor(1.2, dtype=torch.float64, requires_grad=True)
    g, S = G().manual_seed(0), 8

    def score(baseline: str) -> Callable[[], Tensor]:
        def estimate() -> Tensor:
            x = (theta + torch.randn(S, generator=g, dtype=torch.float64)).detach()
            return reinforce(f(x) + 10, log_normal(x, theta), baseline)

        return estimate

    def path() -> Tensor:
        return f(gaussian(theta, torch.ones_like(theta), torch.randn(S, generator=g, dtype=torch.float64))).mean()

    made = {"path": path, "none": score("none"), "leave_one_out": score("leave_one_out")}
    report = variance_report(made, theta, 2_000)
    exact = 2 * (1.2 - 0.5)
    for name, spread in report.items():
        assert spread.mean == pytest.approx(exact, abs=4 * spread.error), name
    assert report["none"].variance > 3 * report["leave_one_out"].variance > 3 * report["path"].variance


def test_concrete_draws_its_category_and_tends_to_it() -> None:
    logits = torch.tensor([0.5, -0.5, 1.0], dtype=torch.float64, requires_grad=True)
    u = torch.rand(50_000, 3, generator=G().manual_seed(0), dtype=torch.float64)
    y = concrete(logits, 0.5, u)
    torch.testing.assert_close(y.sum(1), torch.ones(50_000, dtype=torch.float64))
    counts = y.argmax(1).bincount().double() / 50_000
    assert float((counts - logits.detach().softmax(0)).abs().max()) < 0.012  # argmax is exact at any temperature
    hard = concrete(logits, 0.5, u, hard=True)
    assert set(hard.detach().round(decimals=9).unique().tolist()) == {0.0, 1.0}
    value = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    (exact,) = torch.autograd.grad((logits.softmax(0) * value).sum(), logits)
    errors = []
    for t in (1.0, 0.1):
        (own,) = torch.autograd.grad((concrete(logits, t, u) @ value).mean(), logits)
        errors.append(float((own - exact).abs().max()))
    assert errors[1] < 0.03 and errors[1] < errors[0]  # biased, less so when cold


def test_gradient_through_the_accepted_normal_alone_is_biased() -> None:
    """The look-alike: alpha's path through d (1 + n / sqrt(9 d))^3 with the accepted n held fixed."""
    a = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    x = gamma(a.expand(N), torch.ones((), dtype=torch.float64), G().manual_seed(1))
    (right,) = torch.autograd.grad(x.square().mean(), a)  # E x^2 = a + a^2
    d = a - 1 / 3
    n = (((x.detach() / d.detach()) ** (1 / 3) - 1) * (9 * d.detach()).sqrt()).detach()
    (wrong,) = torch.autograd.grad((d * (1 + n / (9 * d).sqrt()) ** 3).square().mean(), a)
    assert right.item() == pytest.approx(3, abs=0.03) and abs(wrong.item() - 3) > 0.07


def test_wrong_questions_are_refused() -> None:
    with pytest.raises(ConfigError, match="alpha"):
        gamma(torch.tensor(0.5), torch.tensor(1.0))
    with pytest.raises(ConfigError, match="temperature"):
        concrete(torch.zeros(2), 0.0, torch.rand(2))
    with pytest.raises(ConfigError, match="two"):
        reinforce(torch.zeros(1), torch.zeros(1), "leave_one_out")
