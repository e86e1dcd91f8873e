"""Laws of decoders that keep latents apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.autograd.functional import jacobian

from zoo.errors import ConfigError
from zoo.families.vae import VAE
from zoo.nets.brenier import BrenierDecoder, BrenierMap
from zoo.nets.mlp import MLP

pytestmark = pytest.mark.usefixtures("double_precision")


def lively(net: torch.nn.Module) -> torch.nn.Module:
    """Give all weights any size and sign."""
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(std=2)
    return net


def test_a_map_is_the_gradient_of_a_strongly_convex_function():
    net = lively(BrenierMap(4, 7, 0.3))
    for x in torch.randn(20, 4):
        J = jacobian(lambda v: net(v[None])[0], x)
        assert torch.allclose(J, J.T, atol=1e-10)
        assert torch.linalg.eigvalsh(J)[0] >= 0.3 - 1e-9


@pytest.mark.parametrize("depth", [1, 3])
def test_no_direction_is_shrunk_below_the_constant(depth: int):
    net = lively(BrenierDecoder(3, 8, 5, 6, depth, constant=0.2))
    least = min(torch.linalg.svdvals(jacobian(lambda v: net(v[None])[0], z))[-1].item() for z in 3 * torch.randn(20, 3))
    assert least >= 0.2 - 1e-9
    z, y = 5 * torch.randn(2, 500, 3)
    assert ((net(z) - net(y)).norm(dim=1) >= 0.2 * (z - y).norm(dim=1)).all()
    flat = lively(MLP([3, 5, 8], "tanh"))  # the look-alike, any network, takes some latents for one
    assert torch.linalg.svdvals(jacobian(lambda v: flat(v[None])[0], 500 * torch.ones(3)))[-1] < 0.2


def test_with_no_convex_part_it_is_an_isometry_times_the_constant():
    net = BrenierDecoder(3, 6, constant=0.5)
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    z = torch.randn(10, 3)
    assert torch.allclose(net(z).norm(dim=1), 0.5 * z.norm(dim=1))


def test_a_constant_keeps_the_true_posterior_away_from_the_prior():
    """The score of p(x | z) in z, whose mean square is the relative Fisher information, is at least L |x - f| / s^2."""
    model = VAE(MLP([8, 6]), lively(BrenierDecoder(3, 8, 5, 6, 1, 0.4)), [8], 3, likelihood="gaussian", scale="shared")
    z = torch.randn(1, 3, requires_grad=True)
    p = model.observation(z)
    x = p.mean.detach() + model.decoder.frame @ torch.randn(3)
    J = jacobian(lambda v: model.decoder(v[None])[0], z[0].detach())
    residual = (x - p.mean.detach())[0]
    (score,) = torch.autograd.grad(p.log_prob(x).sum(), z)
    s2 = (2 * p.log_scale.detach()).exp().reshape(())
    assert torch.allclose(score[0], J.T @ residual / s2)
    inside = J @ torch.linalg.lstsq(J, residual[:, None]).solution[:, 0]  # what of it the latents can say
    assert score.norm() >= 0.4 * inside.norm() / s2 - 1e-9


@pytest.mark.parametrize("wrong", [{"features": 2}, {"constant": 0.0}, {"depth": 0}, {"hidden": 0}])
def test_what_cannot_keep_latents_apart_is_refused(wrong: dict[str, Any]):
    with pytest.raises(ConfigError, match="keeps 3 latents apart"):
        BrenierDecoder(**{"latent_dim": 3, "features": 8, **wrong})
