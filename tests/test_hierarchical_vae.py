"""Laws of the autoencoder with groups of latents from the top down."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from zoo.errors import ConfigError
from zoo.families.hierarchical_vae import HierarchicalVAE, residual_kl
from zoo.nets.ladder import LadderDecoder, LadderEncoder


def _ladder(args: Mapping[str, Any]) -> float:
    """Each group's three maps and its block, beside a block on the way up; between scales 4x4 convolutions."""
    e, d = args["encoder"]["init_args"], args["decoder"]["init_args"]
    widths, groups, C = d["widths"], d["groups"], d["latent"]
    area = [math.prod(s >> (i + 1) for s in d["size"]) for i in range(len(widths))]
    downs = [16 * a * b * s for (a, b), s in zip(pairwise([e["channels"], *widths]), area, strict=True)]
    total = sum(downs) + sum(16 * a * b * s for (a, b), s in zip(pairwise(widths), area[1:], strict=True))
    for w, n, s in zip(widths, groups, area, strict=True):
        total += n * s * (2 * 10 * w * w + 9 * w * 2 * C + 9 * 2 * w * 2 * C + C * w)
    total += 16 * widths[0] ** 2 * area[0] + 9 * widths[0] * d["channels"] * math.prod(d["size"])
    return 2.0 * (3 * total - downs[0])


STEP_FLOPS: dict[str, Callable[[Mapping[str, Any]], float]] = {"HierarchicalVAE": _ladder}


pytestmark = pytest.mark.usefixtures("double_precision")


class Linear(nn.Module):
    """z_1 ~ N(0, 1), z_2 ~ N(a z_1, s^2), x ~ N(W z + b, sigma^2), with its true posterior, or one blind to z_1."""

    latent_shapes = ((1,), (1,))
    a, s = 1.3, 0.4

    def __init__(self, sigma: float = 0.6, *, blind: bool = False) -> None:
        super().__init__()
        self.W, self.b = torch.tensor([[1.0, 0.4], [-0.3, 0.9], [0.5, 0.5]]), torch.tensor([0.1, -0.2, 0.3])
        self.blind = blind
        first, second = self.W.unbind(1)
        self.v = first + self.a * second  # x is N(b + v z_1, C)
        C = sigma**2 * torch.eye(3) + self.s**2 * torch.outer(second, second)
        precision = 1 + self.v @ torch.linalg.solve(C, self.v)
        self.top = torch.linalg.solve(C, self.v) / precision, -0.5 * precision.log()
        precision = 1 / self.s**2 + second @ second / sigma**2
        self.low = second / sigma**2 / precision, -0.5 * (precision * self.s**2).log()
        self.covariance = sigma**2 * torch.eye(3) + self.W @ self.joint() @ self.W.T

    def joint(self) -> Tensor:
        return torch.tensor([[1.0, self.a], [self.a, self.a**2 + self.s**2]])

    def start(self, n: int) -> Tensor:
        return torch.zeros(n, 0)

    def prior(self, group: int, state: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.zeros(len(state), 1) if group == 0 else self.a * state
        return mean, torch.full_like(mean, 0.0 if group == 0 else math.log(self.s))

    def posterior(self, group: int, state: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        rest = features - self.b
        gain, log_factor = self.top if group == 0 else self.low
        if group == 1 and self.blind:  # from the bottom up: z_1 as x says it to be, not as it was drawn
            z = (rest @ self.top[0])[:, None]
            mean = self.a * z + ((rest - z * self.v) @ gain)[:, None]
            return mean - self.a * state, log_factor.expand(len(state), 1)
        rest = rest if group == 0 else rest - state * self.v
        return (rest @ gain)[:, None], log_factor.expand(len(state), 1)

    def update(self, group: int, state: Tensor, z: Tensor) -> Tensor:
        return torch.cat([state, z], 1)

    def output(self, state: Tensor) -> Tensor:
        return state @ self.W.T + self.b


class Twice(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [x, x]


def linear(**options: Any) -> tuple[HierarchicalVAE, MultivariateNormal]:
    model = HierarchicalVAE(Twice(), Linear(**options), [3], likelihood="gaussian", scale="shared")
    with torch.no_grad():  # so that the scale is the one of which the posterior is the true one
        model.raw_scale.fill_(torch.log(torch.expm1(torch.tensor(math.log(0.6) + 5.0))) - 5.0)
    assert model.observation(torch.zeros(1, 2)).log_scale.exp().item() == pytest.approx(0.6, abs=1e-9)
    return model, MultivariateNormal(model.decoder.b, model.decoder.covariance)


def test_residual_divergence_is_that_of_two_gaussians():
    shift, log_scale, log_factor, mean = torch.randn(4, 50)
    q, p = Normal(mean + shift, (log_scale + log_factor).exp()), Normal(mean, log_scale.exp())
    assert torch.allclose(residual_kl(shift, log_scale, log_factor), kl_divergence(q, p), rtol=1e-10, atol=1e-12)


def test_bounds_are_tight_where_each_group_knows_those_above_it():
    model, truth = linear()
    x = truth.sample((6,))
    for k in (2, 30):  # every weight p(x, z) / q(z | x) is p(x)
        assert torch.allclose(model.log_prob(x, k=k, seed=0), truth.log_prob(x), atol=1e-9)
    elbo = torch.stack([model.log_prob(x, seed=s) for s in range(600)])
    assert ((elbo.mean(0) - truth.log_prob(x)).abs() < 4 * elbo.std(0) / math.sqrt(600)).all()


def test_inference_from_the_bottom_up_leaves_a_gap_and_its_bounds_are_ordered():
    model, truth = linear(blind=True)
    x = truth.sample((1,)).expand(4000, 3)
    elbo, iwae, exact = model.log_prob(x, seed=0), model.log_prob(x, k=8, seed=1), truth.log_prob(x[:1])
    errors = [v.std() / math.sqrt(len(v)) for v in (elbo, iwae)]
    assert exact - iwae.mean() > -4 * errors[1] and iwae.mean() - elbo.mean() > 4 * errors[0]
    assert exact - elbo.mean() > 0.1  # which the posterior from the top down closes
    assert abs(model.log_prob(x[:20], k=5000, seed=2).mean() - exact) < 0.02


def test_the_prior_of_all_groups_is_the_product_of_each_given_those_above():
    model, _ = linear()
    z = torch.randn(7, 2)
    joint = MultivariateNormal(torch.zeros(2), model.decoder.joint())
    assert torch.allclose(model.log_prior(z), joint.log_prob(z), atol=1e-10)


def test_samples_have_the_covariance_of_the_model():
    model, truth = linear()
    x = model.sample(200_000, seed=0, observe="sample")
    assert torch.allclose(x.T.cov(), truth.covariance_matrix, atol=0.03)
    assert model.sample(3, seed=0, temperature=0.0).allclose(model.decoder.b.expand(3, 3))


# -- the network of images ---------------------------------------------------------------------------------------------


def digits(**options: Any) -> HierarchicalVAE:
    widths, groups = [4, 6], [2, 3]
    return HierarchicalVAE(
        LadderEncoder(1, widths, groups), LadderDecoder([8, 12], widths, groups, 2, 1), [1, 8, 12], **options
    )


def test_each_group_depends_on_those_above_it_and_on_none_below():
    model = digits()
    shapes = [tuple(s) for s in model.decoder.latent_shapes]
    assert shapes == [(2, 2, 3)] * 3 + [(2, 4, 6)] * 2 and model.latent_dim == 3 * 12 + 2 * 48
    z = [torch.randn(1, *s, requires_grad=True) for s in shapes]
    means: list[Tensor] = []

    def choose(group: int, state: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        means.append(mean)
        return z[group]

    _, out = model.descend(1, choose)
    for group, mean in enumerate(means[1:], 1):
        found = torch.autograd.grad(mean.square().sum(), z, retain_graph=True, allow_unused=True)
        assert [g is not None and bool(g.abs().max() > 0) for g in found] == [i < group for i in range(5)]
    assert all(g.abs().max() > 0 for g in torch.autograd.grad(out.square().sum(), z))


def test_terms_add_up_and_latents_lead_back():
    model = digits(beta=2.0, free_bits=3.0)
    x = (torch.rand(4, 1, 8, 12) > 0.5).double()
    model.set_noise([torch.Generator().manual_seed(0)])
    terms = model.loss((x, torch.zeros(4).long()))
    groups = torch.stack([terms[f"kl_{i}"] for i in range(5)])
    torch.testing.assert_close(groups.sum(), terms["kl"])
    torch.testing.assert_close(terms["loss"], terms["reconstruction"] + 2 * groups.clamp(min=3).sum())
    torch.testing.assert_close(terms["elbo"], -terms["reconstruction"] - terms["kl"])
    z = model.encode(x)
    _, _, _, out = model.infer(model.encoder(x), lambda g: torch.zeros(4, *model.decoder.latent_shapes[g]))
    torch.testing.assert_close(model.decode(z), torch.sigmoid(out))
    model.set_noise([torch.Generator().manual_seed(0)])
    with torch.no_grad():  # the bound is the loss's, as beta and the floor are not in it
        draws = torch.stack([model.log_prob(x, seed=s).mean() for s in range(200)])
    assert abs(draws.mean() - terms["elbo"]) < 6 * draws.std()


@pytest.mark.parametrize(
    ("make", "said"),
    [(lambda: LadderEncoder(1, [4], [1, 1]), "as many numbers of groups"),
     (lambda: LadderDecoder([9, 8], [4], [1], 1, 1), "cannot be halved 1 times"),
     (lambda: LadderEncoder.resized({"widths": [4, 4], "groups": [1, 1]}, (1, 10, 12), ()), "to a multiple of 4"),
     (lambda: HierarchicalVAE.network_shapes({"shape": [1, 8, 8], "likelihood": "categorical"}), "another one")],
)  # fmt: skip
def test_what_cannot_be_a_ladder_is_refused(make: Callable[[], Any], said: str):
    with pytest.raises(ConfigError, match=said):
        make()
