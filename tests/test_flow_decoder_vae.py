"""Laws of a decoder that is a flow: densities that are densities, and bounds of a likelihood that is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from closed_forms import vae
from torch import Tensor, nn

from zoo.abilities import has_likelihood
from zoo.errors import ConfigError
from zoo.families.flow_decoder_vae import FlowDecoderVAE, FlowObservation
from zoo.families.vae import VAE
from zoo.maths.distributions import Gaussian
from zoo.nets.conditional_couplings import ConditionalCouplings
from zoo.nets.mlp import MLP

pytestmark = pytest.mark.usefixtures("double_precision")


def _flow_decoder(args: Mapping[str, Any]) -> float:
    """The VAE's, and every coupling in full, as what it gets depends on both networks."""
    flow = args["flow"]["init_args"]
    D, h = flow["features"], flow["hidden"]
    a = [D // 2 if i % 2 else D - D // 2 for i in range(flow["couplings"])]
    layers = sum((n + flow["context"]) * h + h * 2 * (D - n) for n in a)
    return vae(args) + 2.0 * 3 * layers


STEP_FLOPS: dict[str, Callable[[Mapping[str, Any]], float]] = {"FlowDecoderVAE": _flow_decoder}


def couplings(features: int, context: int, std: float = 0.25) -> ConditionalCouplings:
    torch.manual_seed(0)
    flow = ConditionalCouplings(features, context, hidden=6, couplings=3)
    for p in flow.parameters():
        nn.init.normal_(p, std=std)
    return flow


def tiny(features: int = 2, latent: int = 1, **options: Any) -> FlowDecoderVAE:
    """Return a model with one latent, whose likelihood a sum over a grid of it gives."""
    torch.manual_seed(0)
    encoder, decoder = MLP([features, 8, 2 * latent], "tanh"), MLP([latent, 8, 2 * features], "tanh")
    for p in [*encoder.parameters(), *decoder.parameters()]:
        nn.init.normal_(p, std=0.5)
    return FlowDecoderVAE(encoder, decoder, couplings(features, latent), [features], latent, **options)


def grid(n: int, far: float) -> tuple[Tensor, float]:
    """Return the middles of the cells of a square, (n * n, 2), and the area of one."""
    side = (torch.arange(n) + 0.5) / n * 2 * far - far
    return torch.cartesian_prod(side, side), (2 * far / n) ** 2


# -- couplings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [2, 5, 6])
def test_couplings_are_inverted_and_their_determinant_is_that_of_the_jacobian(features: int) -> None:
    flow, x, h = couplings(features, 3), torch.randn(4, features), torch.randn(4, 3)
    y, log_det = flow(x, h)
    assert torch.allclose(flow.inverse(y, h), x, atol=1e-10) and not torch.allclose(y, x, atol=0.1)
    for i in range(4):
        jacobian = torch.autograd.functional.jacobian(lambda v, i=i: flow(v[None], h[i : i + 1])[0][0], x[i])
        assert torch.linalg.slogdet(jacobian)[1].item() == pytest.approx(log_det[i].item(), abs=1e-10)
    assert not torch.allclose(flow(x, h + 1)[0], y, atol=1e-3)


def test_every_number_moves_and_sees_the_others() -> None:
    flow, h = couplings(6, 2), torch.randn(1, 2)
    J = torch.autograd.functional.jacobian(lambda v: flow(v[None], h)[0][0], torch.randn(6))
    assert (J.abs() > 1e-6).all()


# -- the decoder -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_density_given_a_latent_integrates_to_one() -> None:
    """Over a grid of the plane; without the determinant it does not."""
    model, (points, area) = tiny(), grid(500, 12.0)
    p = model.observation(torch.tensor([[0.7]]).expand(len(points), -1))
    log_p = p.log_prob(points)[:, 0]
    assert (log_p.exp().sum() * area).item() == pytest.approx(1, abs=1e-3)
    u = (points - p.base.location) * torch.exp(-p.base.log_scale)
    without = log_p - model.flow(u, p.z)[1]
    assert abs((without.exp().sum() * area).item() - 1) > 0.1


@torch.no_grad()
def test_draws_have_the_density() -> None:
    model, (points, area) = tiny(), grid(400, 12.0)
    z = torch.tensor([[0.7]])
    drawn = model.observation(z.expand(100_000, -1)).sample(torch.Generator().manual_seed(0))
    weight = model.observation(z.expand(len(points), -1)).log_prob(points).exp() * area
    for f in (lambda x: x, lambda x: x * x, lambda x: x * x.flip(1), lambda x: (x > 0.3).double()):
        wanted, found = (f(points) * weight).sum(0), f(drawn)
        assert torch.allclose(found.mean(0), wanted, atol=5 * float(found.std(0).max()) / 300)


def test_a_flow_that_does_nothing_yet_leaves_the_gaussian_vae() -> None:
    torch.manual_seed(0)
    parts = MLP([4, 6, 4]), MLP([2, 6, 8])
    model = FlowDecoderVAE(*parts, ConditionalCouplings(4, 2), [4], 2)
    plain, x = VAE(*parts, [4], 2, "gaussian"), torch.randn(5, 4)
    for one in (model, plain):
        one.set_noise([torch.Generator().manual_seed(1)])
    ours, theirs = model.loss((x, torch.zeros(5))), plain.loss((x, torch.zeros(5)))
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[k], theirs[k], atol=1e-12) for k in ours)
    z = torch.randn(3, 2)
    assert torch.allclose(model.decode(z), plain.decode(z))


def test_numbers_that_belong_together_cost_what_they_cost_together() -> None:
    """Of a pair with correlation 0.95 the flow finds the entropy, which no product of two densities reaches."""
    torch.manual_seed(0)
    rho, n = 0.95, 4000
    e = torch.randn(n, 2)
    x = torch.stack([e[:, 0], rho * e[:, 0] + math.sqrt(1 - rho**2) * e[:, 1]], 1)
    flow, z = ConditionalCouplings(2, 1, hidden=8, couplings=2), torch.zeros(n, 1)
    base = Gaussian(torch.zeros(n, 2), torch.zeros(n, 2))
    optimizer = torch.optim.LBFGS(flow.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -FlowObservation(base, flow, z).log_prob(x).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    apart = 1 + math.log(2 * math.pi)  # entropy of two standard normals
    assert closure().item() == pytest.approx(apart + 0.5 * math.log(1 - rho**2), abs=0.03)


# -- the bound ---------------------------------------------------------------------------------------------------------


def exact(model: FlowDecoderVAE, x: Tensor, n: int = 3001) -> Tensor:
    """Return log p(x) by a sum over a grid of the latent, (N, 2) -> (N,)."""
    z = torch.linspace(-8, 8, n)
    prior = -0.5 * (z * z + math.log(2 * math.pi)) + math.log(16 / (n - 1))
    rows = [model.observation(z[:, None]).log_prob(row.expand(n, -1))[:, 0] for row in x]
    return (torch.stack(rows) + prior).logsumexp(1)


@torch.no_grad()
def test_bounds_rise_with_the_draws_up_to_the_likelihood() -> None:
    """Means over draws, within four standard errors."""
    model, x = tiny(), torch.tensor([[0.4, -0.3], [1.5, 0.8], [-1.0, 0.2]])
    log_p, means, slack = exact(model, x), [], []
    for k, repeats in ((1, 400), (2, 400), (10, 200), (3000, 5)):
        draws = torch.stack([model.log_prob(x, k=k, seed=s) for s in range(repeats)])
        means.append(draws.mean(0))
        slack.append(4 * draws.std(0) / math.sqrt(repeats))
    for i in (0, 1):
        assert (means[i] <= means[i + 1] + slack[i] + slack[i + 1]).all()
    assert (means[0] < log_p - 0.1).all() and (means[2] <= log_p + slack[2]).all()
    assert torch.allclose(means[3], log_p, atol=0.05)
    assert has_likelihood(model) and model.likelihood(10) == "iwae-10"


@torch.no_grad()
@pytest.mark.parametrize("alpha", [None, 0.1])
def test_of_grey_levels_the_bound_is_of_their_probability(alpha: float | None) -> None:
    """Of images of two pixels with three levels: the density integrated over the square that stands for each."""
    model = tiny(levels=3, min_log_scale=-1.0, alpha=alpha).eval()
    k = torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0))
    side = (torch.arange(12) + 0.5) / 12 / 3
    within = torch.cartesian_prod(side, side)
    P = torch.stack([exact(model, level / 3 + within, 401).exp().mean() / 9 for level in k])
    bounds = torch.stack([model.log_prob(k / 2, seed=s) for s in range(400)])
    assert (bounds.mean(0) <= P.log() + 4 * bounds.std(0) / 20).all() and (bounds.mean(0) < P.log() - 0.05).all()
    assert torch.allclose(model.log_prob(k / 2, k=4000, seed=0), P.log(), atol=0.1)
    assert model.likelihood(1) == "elbo+dequant"
    drawn = model.sample(50, seed=0, observe="sample")
    assert torch.equal((drawn * 2).round() / 2, drawn) and not torch.equal(drawn, model.sample(50, seed=0))


@torch.no_grad()
def test_a_logit_moves_the_density_and_no_mass() -> None:
    """What lies on all grey levels is what the density before the logit has on the square that goes there."""
    model, (levels, cell) = tiny(levels=3, min_log_scale=-1.0, alpha=0.1), grid(40, 0.5)
    on_levels = exact(model, levels + 0.5, 401).exp().sum() * cell
    points, area = grid(40, math.log(9))  # logit of 0.9
    model.alpha = None
    assert on_levels.item() == pytest.approx((exact(model, points, 401).exp().sum() * area).item(), rel=5e-3)
    assert 0.2 < on_levels < 1


def test_what_does_not_fit_is_refused() -> None:
    parts = MLP([4, 4]), MLP([2, 8])
    for flow in (ConditionalCouplings(3, 2), ConditionalCouplings(4, 3), MLP([4, 4])):
        with pytest.raises(ConfigError, match="4 features and a context of 2"):
            FlowDecoderVAE(*parts, flow, [4], 2)
    for options in ({"alpha": 0.1}, {"alpha": 0.5, "levels": 4}):
        with pytest.raises(ConfigError, match="alpha, of the logit"):
            tiny(**options)
    for wrong in ((1, 2), (4, 0)):
        with pytest.raises(ConfigError, match="at least 2 features"):
            ConditionalCouplings(*wrong)
