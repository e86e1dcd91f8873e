"""Laws of posteriors that are flows and of learnt priors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from closed_forms import net
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from zoo.abilities import Encodes, HasPosterior
from zoo.errors import ConfigError
from zoo.export.parts import parts
from zoo.families.flexible_vae import FlexibleVAE
from zoo.families.gq_vae import GQVAE
from zoo.nets.autoregressive_flow import AutoregressiveFlow
from zoo.nets.mlp import MLP


def _flexible(args: Mapping[str, Any]) -> float:
    """The VAE's, the masked layers in full, and the encoder once for each pseudo-input, at a batch of two."""
    enc, dec = net(args["encoder"]), net(args["decoder"])
    total = 3 * (sum(enc) + sum(dec)) - enc[0]
    for flow in (args["posterior_flow"], args["prior_flow"]):
        if flow is not None:
            d, w, c = (flow["init_args"][k] for k in ("features", "hidden", "context"))
            total += 3 * flow["init_args"]["steps"] * (d * w + c * w + w * w + w * 2 * d)
    return 2.0 * (total + args["pseudo_inputs"] / 2 * 3 * sum(enc))


STEP_FLOPS: dict[str, Callable[[Mapping[str, Any]], float]] = {"FlexibleVAE": _flexible}


pytestmark = pytest.mark.usefixtures("double_precision")


def sized(size: int, latent: int, **options: Any) -> FlexibleVAE:
    context = options["posterior_flow"].context if "posterior_flow" in options else 0
    encoder, decoder = MLP([size, 2 * latent + context]), MLP([latent, size])
    return FlexibleVAE(encoder, decoder, [size], latent, likelihood="gaussian", scale="shared", **options)


def spread(model: FlexibleVAE) -> torch.Tensor:
    return model.observation(torch.zeros(1, model.latent_dim)).log_scale.exp().reshape(())


# -- the flow ----------------------------------------------------------------------------------------------------------


def shuffled(flow: AutoregressiveFlow) -> AutoregressiveFlow:
    """Give all weights a size at which every path shows."""
    for p in flow.parameters():
        torch.nn.init.normal_(p, std=0.4)
    return flow


@pytest.mark.parametrize("context", [0, 3])
def test_log_determinant_is_that_of_the_jacobian_and_the_inverse_leads_back(context: int):
    flow = shuffled(AutoregressiveFlow(5, 11, 3, context))
    x, h = torch.randn(4, 5), torch.randn(4, context) if context else None
    y, log_det = flow(x, h)
    for i in range(4):
        told = None if h is None else h[i]
        jacobian = torch.autograd.functional.jacobian(lambda v, told=told: flow(v, told)[0], x[i])
        assert torch.linalg.slogdet(jacobian)[1] == pytest.approx(log_det[i].item(), abs=1e-9)
    assert torch.allclose(flow.inverse(y, h), x, atol=1e-9)


def test_a_step_sees_earlier_features_only_and_the_next_one_later_ones():
    flow = shuffled(AutoregressiveFlow(4, 12, 2))
    first, second = (
        torch.autograd.functional.jacobian(lambda v, step=step: step(v, None)[0], torch.randn(4)) for step in flow.steps
    )
    assert (first.triu(1) == 0).all() and (first.tril(-1)[tuple(torch.tril_indices(4, 4, -1))] != 0).all()
    assert (second.tril(-1) == 0).all() and (second.triu(1)[tuple(torch.triu_indices(4, 4, 1))] != 0).all()


def test_layers_without_a_mask_have_another_determinant():
    flow = shuffled(AutoregressiveFlow(4, 12, 1))
    flow.steps[0].first.mask.fill_(1)
    x = torch.randn(4)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow(v)[0], x)
    assert abs(torch.linalg.slogdet(jacobian)[1] - flow(x)[1]) > 1e-3


def test_one_feature_is_moved_by_the_context_alone():
    flow = shuffled(AutoregressiveFlow(1, 4, 2, context=2))
    x, h = torch.randn(6, 1), torch.randn(1, 2).expand(6, 2)
    y, log_det = flow(x, h)
    assert torch.allclose(log_det, log_det[0].expand(6)) and torch.allclose(flow.inverse(y, h), x)


# -- a posterior that is a flow ----------------------------------------------------------------------------------------


def at_the_true_posterior() -> tuple[FlexibleVAE, MultivariateNormal]:
    """A linear model whose posterior has correlated latents, and a flow that is made to be that posterior."""
    model = sized(3, 2, posterior_flow=AutoregressiveFlow(2, 1, 1))
    (enc,), (dec,), (step,) = model.encoder.layers, model.decoder.layers, model.posterior_flow.steps
    with torch.no_grad():
        W, b, s2 = dec.weight, dec.bias, spread(model) ** 2
        W.copy_(torch.tensor([[1.0, 0.8], [0.3, 0.9], [-0.5, 0.4]]))
        covariance = torch.linalg.inv(torch.eye(2) + W.T @ W / s2)
        gain, L = covariance @ W.T / s2, torch.linalg.cholesky(covariance)
        share = L[1, 0] / L[0, 0]
        for layer in (step.first, step.second, step.last):
            layer.weight.zero_()
            layer.bias.zero_()  # gates of a half
        step.first.weight[0, 0], step.first.bias[0], step.second.weight[0, 0] = 1, 50, 1  # where ELU is the identity
        step.last.weight[3, 0], step.last.bias[3] = share, -50 * share  # m_2
        means = torch.stack([2 * gain[0], 2 * gain[1] - 2 * share * gain[0]])
        enc.weight.copy_(torch.cat([means, torch.zeros(2, 3)]))
        enc.bias.copy_(torch.cat([-means @ b, 2 * (2 * L.diagonal()).log()]))
    return model, MultivariateNormal(b.detach(), W.detach() @ W.detach().T + s2.detach() * torch.eye(3))


def test_bounds_are_tight_where_the_flow_is_the_true_posterior_of_correlated_latents():
    model, truth = at_the_true_posterior()
    x = torch.randn(5, 3)
    for k in (1, 2, 30):  # every weight p(x, z) / q(z | x) is p(x), so one draw is enough
        assert torch.allclose(model.log_prob(x, k=k, seed=0), truth.log_prob(x), atol=1e-9)
    code, eps = model.code(x), torch.randn(5, 2)
    z, log_det = model.drawn_latents(code, eps)
    kept = model.log_ratio(code, z, eps, log_det)
    forgotten = model.log_ratio(code, z, eps, None)  # the look-alike: log q of z_0 taken for that of z
    assert (kept - forgotten).abs().min() > 0.5


def test_a_gaussian_posterior_stays_below_what_the_flow_reaches():
    model, truth = at_the_true_posterior()
    plain = sized(3, 2)
    with torch.no_grad():  # mean field: the best diagonal Gaussian has the precision's diagonal
        W, s2 = model.decoder.layers[0].weight, spread(model) ** 2
        plain.decoder.layers[0].weight.copy_(W)
        plain.decoder.layers[0].bias.copy_(model.decoder.layers[0].bias)
        precision = torch.eye(2) + W.T @ W / s2
        gain = torch.linalg.inv(precision) @ W.T / s2
        plain.encoder.layers[0].weight.copy_(torch.cat([gain, torch.zeros(2, 3)]))
        plain.encoder.layers[0].bias.copy_(
            torch.cat([-gain @ model.decoder.layers[0].bias, -precision.diagonal().log()])
        )
        x = torch.randn(1, 3)
        gap = truth.log_prob(x) - plain.log_prob(x.expand(20_000, 3), seed=1).mean()
        closed = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))  # KL(q || p(z | x))
    assert gap.item() == pytest.approx(closed.item(), abs=0.03) and closed > 0.1


# -- learnt priors -----------------------------------------------------------------------------------------------------


def test_vampprior_is_the_mixture_of_the_posteriors_of_its_pseudo_inputs():
    model = sized(3, 2, pseudo_inputs=4)
    mean, log_var = (v.detach() for v in model.components())
    assert torch.equal(mean, model.code(model.pseudo_inputs)[0].detach())
    normals = Independent(Normal(mean, (0.5 * log_var).exp()), 1)
    mixture = MixtureSameFamily(Categorical(torch.ones(4)), normals)
    z = torch.randn(6, 5, 2)
    assert torch.allclose(model.log_prior(z.flatten(0, -2)), mixture.log_prob(z).flatten(), atol=1e-12)
    with torch.no_grad():
        drawn = model.prior_latents(100_000, torch.Generator().manual_seed(0), 1.0)
    error = drawn.std(0) / math.sqrt(len(drawn))
    assert ((drawn.mean(0) - mixture.mean).abs() < 4 * error).all()
    assert torch.allclose(drawn.var(0), mixture.variance, rtol=0.03)


def exact(model: FlexibleVAE, x: torch.Tensor) -> torch.Tensor:
    """Return log p(x) of a model with one latent, by quadrature."""
    z = torch.linspace(-12, 12, 4001)[:, None]
    with torch.no_grad():
        joint = model.observation(z).log_prob(x).sum(-1) + model.log_prior(z)
    return joint.logsumexp(0) + math.log(24 / 4000)


@pytest.mark.parametrize("kind", ["vampprior", "flow"])
def test_bounds_are_ordered_under_a_learnt_prior(kind: str):
    options: dict[str, Any] = {"pseudo_inputs": 3}
    if kind == "flow":
        options = {"prior_flow": shuffled(AutoregressiveFlow(1, 4, 2))}
    model = sized(2, 1, **options)
    with torch.no_grad():
        grid = torch.linspace(-40, 40, 20_001)[:, None]
        assert model.log_prior(grid).exp().sum().item() * 80 / 20_000 == pytest.approx(1, abs=1e-3)
        x = torch.randn(1, 2).expand(4000, 2)
        elbo, iwae, truth = model.log_prob(x, seed=0), model.log_prob(x, k=8, seed=1), exact(model, x[0])
        errors = [v.std() / math.sqrt(len(v)) for v in (elbo, iwae)]
        assert elbo.mean() < iwae.mean() + 4 * errors[0] and iwae.mean() - elbo.mean() > 4 * errors[0]
        assert iwae.mean() <= truth + 4 * errors[1]
        assert abs(model.log_prob(x[:50], k=2000, seed=2).mean() - truth) < 0.02
        # the look-alike, which has the divergence from N(0, I) beside samples of the learnt prior, is no bound of it
        code, eps = model.code(x), torch.randn(len(x), 1)
        z, _ = model.drawn_latents(code, eps)
        other = super(FlexibleVAE, model).log_ratio(code, z, eps, None)
        assert (other - model.log_ratio(code, z, eps, None)).abs().mean() > 0.05


def test_a_prior_of_flow_has_the_density_of_its_samples():
    model = sized(3, 2, prior_flow=shuffled(AutoregressiveFlow(2, 8, 2)))
    with torch.no_grad():
        z = model.prior_latents(500, torch.Generator().manual_seed(3), 1.0)
        noise = torch.randn(500, 2, generator=torch.Generator().manual_seed(3))
        u, log_det = model.prior_flow(z)
        assert torch.allclose(u, noise, atol=1e-8)
        gaussian = Normal(0.0, 1.0).log_prob(noise).sum(1)
        assert torch.allclose(model.log_prior(z), gaussian + log_det, atol=1e-7)


def test_pseudo_inputs_learn_and_images_stay_in_range():
    model = FlexibleVAE(MLP([16, 4]), MLP([2, 16]), [1, 4, 4], 2, pseudo_inputs=5)
    model.loss(((torch.rand(8, 1, 4, 4) > 0.5).double(), torch.zeros(8).long()))["loss"].backward()
    assert model.pseudo_inputs.grad.flatten(1).abs().sum(1).min() > 0
    with torch.no_grad():
        model.pseudo_inputs.fill_(7.0)
        assert torch.equal(model.components()[0], model.code(torch.ones(5, 1, 4, 4))[0])


def test_such_a_model_offers_latents_and_no_gaussian_posterior():
    model = sized(3, 2, posterior_flow=AutoregressiveFlow(2, 4, 1))
    assert isinstance(model, Encodes) and not isinstance(model, HasPosterior)
    assert model.encode(torch.rand(4, 3)).shape == (4, 2)
    assert parts(model)[""].metadata["latent"] == "of the model's own prior"  # which nobody should draw as N(0, I)
    binary = FlexibleVAE(MLP([16, 4]), MLP([2, 16]), [1, 4, 4], 2, pseudo_inputs=5)
    with pytest.raises(ConfigError, match="Gaussian quantisation"):
        GQVAE(binary)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"pseudo_inputs": 3, "prior_flow": AutoregressiveFlow(2)}, "mixture of Gaussian posteriors"),
     ({"pseudo_inputs": 3, "posterior_flow": AutoregressiveFlow(2)}, "mixture of Gaussian posteriors"),
     ({"pseudo_inputs": -1}, "must not be negative"), ({"free_bits": 0.1}, "free_bits"),
     ({"prior_flow": AutoregressiveFlow(3)}, "of 2 features"), ({"posterior_flow": MLP([2, 2])}, "posterior_flow must"),
     ({"prior_flow": AutoregressiveFlow(2, context=1)}, "told nothing")],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(options: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        FlexibleVAE(MLP([3, 4]), MLP([2, 6]), [3], 2, likelihood="gaussian", **options)


def test_numbers_of_a_flow_are_checked():
    with pytest.raises(ConfigError, match="at least 1"):
        AutoregressiveFlow(0)
