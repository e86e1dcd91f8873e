"""Laws of tokenizers that draw, average or leave out codes: dVAE, SoftVQ, MGVQ; and the look-alike that breaks each."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.abilities import DrawsCodes, HasMapLatents, MapsCodes, Refines, Tokenises, map_grid_of
from zoo.diagnostics import DIAGNOSTICS, Subject, codebook_usage, plot_usage, refinement
from zoo.errors import ConfigError
from zoo.families.code_prior import CodePrior
from zoo.families.dvae import DVAE
from zoo.families.flow_matching import FlowMatching
from zoo.families.latent_diffusion import LatentDiffusion
from zoo.families.pixelcnn import PixelCNN
from zoo.families.softvq import SoftVQ
from zoo.families.vq_vae import VQVAE
from zoo.families.vq_vae2 import VQVAE2
from zoo.nets.binary_quantisers import LFQ
from zoo.nets.gumbel_quantiser import GumbelQuantiser, gumbel
from zoo.nets.mlp import MLP
from zoo.nets.quantisers import VectorQuantiser
from zoo.nets.residual_quantiser import ResidualQuantiser
from zoo.nets.resnet import ResidualDecoder, ResidualEncoder
from zoo.nets.soft_quantiser import SoftQuantiser
from zoo.nets.unet import UNet

SHAPE = [1, 8, 8]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def latents(channels: int, n: int = 6, **options: Any) -> Tensor:
    return torch.randn(n, channels, 2, 3, dtype=torch.float64, **options)


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64)


def pixels(n: int = 4) -> Tensor:
    return (torch.rand(n, *SHAPE) > 0.5).double()


def dvae(K: int = 3, positions: int = 2, **options: Any) -> DVAE:
    q = GumbelQuantiser(K, 4, options.pop("temperature", 1.0))
    nets = MLP([64, 6, K * positions]), MLP([4 * positions, 6, 64])
    return DVAE(*nets, q, SHAPE, [1, positions], "bernoulli", **options).double()


# -- dVAE --------------------------------------------------------------------------------------------------------------


def test_kl_is_log_k_minus_the_entropy_and_no_density_of_the_relaxation() -> None:
    q, z = GumbelQuantiser(5, 4).double(), 2 * latents(5)
    p = torch.softmax(z, 1)
    H = -(p * p.log()).sum((1, 2, 3))
    for training in (True, False):
        kl = q.train(training)(z, noise).losses["kl"]
        assert torch.allclose(kl, (6 * math.log(5) - H).mean(), rtol=0, atol=1e-12)
    uniform = torch.distributions.Categorical(logits=torch.zeros(6, 2, 3, 5, dtype=torch.float64))
    both = torch.distributions.Categorical(logits=z.movedim(1, 3)), uniform
    assert torch.allclose(kl, torch.distributions.kl_divergence(*both).sum((1, 2)).mean())
    relaxed = (torch.distributions.RelaxedOneHotCategorical(z.new_tensor(1.0), logits=d.logits) for d in both)
    concrete, prior = relaxed
    y = concrete.rsample((2_000,))
    of_density = (concrete.log_prob(y) - prior.log_prob(y)).sum((2, 3)).mean()
    assert abs(of_density - kl) > 0.2 * kl  # the look-alike is another number


def test_relaxed_draw_sums_to_one_and_tends_to_one_hot() -> None:
    q, z = GumbelQuantiser(5, 5, 1.0).double().train(), latents(5)
    q.codebook.data = torch.eye(5).double()  # so that the decoder sees the weights themselves
    u = noise(*z.shape)
    farthest = []
    for q.temperature in (2.0, 1.0, 1 / 16, 1e-3):
        with torch.no_grad():
            made = q(z, lambda *shape: u)
        assert torch.allclose(made.z.sum(1), torch.ones(6, 2, 3).double()) and made.z.min() >= 0
        farthest.append(float(1 - made.z.max(1).values.mean()))
    assert all(a > b for a, b in itertools.pairwise(farthest)) and farthest[0] > 0.4 and farthest[-1] < 0.01
    hard = F.one_hot((z + gumbel(u)).argmax(1), 5).movedim(3, 1)
    assert torch.allclose(made.z, hard.double(), atol=0.05) and torch.equal(made.codes[:, 0], hard.argmax(1))
    q.temperature = 1.0
    relaxed = q(z, lambda *shape: u).z  # one that is rounded, with a gradient straight through, is no relaxation
    assert not torch.allclose(relaxed, hard.double(), atol=0.2)


def test_gradient_of_training_is_that_of_the_relaxed_draw() -> None:
    q = GumbelQuantiser(4, 3, 0.7).double().train()
    z, u, w = latents(4).requires_grad_(), noise(6, 4, 2, 3), latents(3)
    (slope,) = torch.autograd.grad((q(z, lambda *shape: u).z * w).sum(), z)
    direction, h = latents(4), 1e-6

    def value(v: Tensor) -> Tensor:
        return (q(v, lambda *shape: u).z * w).sum()

    with torch.no_grad():
        measured = (value(z + h * direction) - value(z - h * direction)) / (2 * h)
    assert torch.allclose((slope * direction).sum(), measured, rtol=1e-6)
    hard = F.one_hot(q(z, lambda *shape: u).codes[:, 0], 4).double()
    y = torch.softmax(z, 1).movedim(1, 3)
    through = ((hard + y - y.detach()) @ q.codebook).movedim(3, 1)
    (other,) = torch.autograd.grad((through * w).sum(), z)
    assert not torch.allclose(slope, other, rtol=0.1)


def test_hard_draws_have_the_probabilities_of_the_softmax() -> None:
    q = GumbelQuantiser(4, 2).double().eval()
    z = torch.tensor([0.3, -1.0, 1.2, 0.0], dtype=torch.float64)[None, :, None, None].expand(20_000, 4, 1, 1)
    made = q(z, noise)
    p, counts = torch.softmax(z[0, :, 0, 0], 0), torch.bincount(made.codes.flatten(), minlength=4)
    assert ((counts - 20_000 * p).square() / (20_000 * p)).sum() < 16.3  # chi-square, 3 degrees: chance 0.001
    assert torch.allclose(made.z, q.embed(made.codes)) and q.codes(z).unique().tolist() == [2]
    doubled = torch.bincount((z + 2 * gumbel(noise(*z.shape))).argmax(1).flatten(), minlength=4)
    assert ((doubled - 20_000 * p).square() / (20_000 * p)).sum() > 100  # noise of another size draws from another q


def test_without_kl_and_cold_it_is_a_hard_autoencoder() -> None:
    model, x = dvae(temperature=1e-5, beta=0.0).train(), pixels()
    u = noise(4, 3, 1, 2)
    model.rand = lambda *shape: u  # type: ignore[method-assign]
    codes = (model.latent(x) + gumbel(u)).argmax(1, keepdim=True)
    terms = model.loss((x, None))
    assert torch.allclose(terms["loss"], -model.log_likelihood(x, codes).mean(), atol=1e-6)
    assert "elbo" not in terms and terms["kl"] > 0


def test_schedules_are_functions_of_the_step() -> None:
    model = dvae(temperature=1 / 16, beta=6.6, beta_steps=10, temperature_steps=20)
    found = []
    for model.steps_done in range(31):
        found.append((model.temperature, model.weights()["kl"]))
    assert found[0] == (1.0, 0.0) and found[10][1] == pytest.approx(6.6) and found[30] == (1 / 16, 6.6)
    assert found[10][0] == pytest.approx((1 + 1 / 16) / 2) and found[5][1] == pytest.approx(3.3)
    for falling in ([t for t, _ in found], [-b for _, b in found]):
        assert all(a >= b for a, b in itertools.pairwise(falling))


@pytest.fixture
def exact() -> tuple[DVAE, Tensor, Tensor]:
    """A dVAE with 9 grids of codes, images, and log p(x, c) of each image and grid, (4, 9)."""
    model, x = dvae().eval(), pixels()
    codes = torch.tensor(list(itertools.product(range(3), repeat=2))).reshape(9, 1, 1, 2)
    with torch.no_grad():
        log_joint = torch.stack([model.log_likelihood(one, codes) for one in x.split(1)]) - math.log(9)
    return model, x, log_joint


def test_importance_weighted_bound_is_one_of_hard_codes(exact: tuple[DVAE, Tensor, Tensor]) -> None:
    model, x, log_joint = exact
    log_p = log_joint.logsumexp(1)
    bounds = []
    for k in (1, 5, 500):
        runs = torch.stack([model.log_prob(x, k=k, seed=s) for s in range(200 if k < 500 else 8)])
        assert (runs.mean(0) <= log_p + 4 * runs.std(0) / len(runs) ** 0.5 + 1e-9).all()
        bounds.append(runs.mean())
    assert bounds[0] < bounds[1] + 1e-3 and bounds[1] < bounds[2] + 1e-3
    assert bounds[2] == pytest.approx(float(log_p.mean()), abs=0.02)
    assert model.likelihood() == "elbo" and model.likelihood(5) == "iwae-5" and isinstance(model, DrawsCodes)
    assert torch.equal(model.log_prob(x, k=3, seed=1), model.log_prob(x, k=3, seed=1))
    with torch.no_grad():
        elbo = torch.stack([model.loss((x, None))["elbo"] for _ in range(400)])
        log_q = model.quantiser.log_q(model.latent(x))[:, :, 0]  # (4, 3, 2)
        q = (log_q[:, :, None, 0] + log_q[:, None, :, 1]).flatten(1).exp()  # (4, 9), in the order of the codes
        summed = (q * (log_joint - q.log())).sum(1).mean()
    for found, error in ((elbo.mean(), elbo.std() / 20), (bounds[0], elbo.std() / 200**0.5)):
        assert abs(found - summed) < 4 * error


def test_bound_with_a_prior_weighs_the_draws_too(exact: tuple[DVAE, Tensor, Tensor]) -> None:
    inner, x, _ = exact
    model = CodePrior(inner, PixelCNN([1, 1, 2], 3, width=8, depth=1, first_kernel=3)).double().eval()
    codes = torch.tensor(list(itertools.product(range(3), repeat=2))).reshape(9, 1, 1, 2)
    with torch.no_grad():
        prior = model.prior.log_prob(model.image(codes))
        log_p = torch.stack([(inner.log_likelihood(one, codes) + prior).logsumexp(0) for one in x.split(1)])
    assert prior.exp().sum() == pytest.approx(1)
    found = model.log_prob(x, k=500, seed=0)
    assert torch.allclose(found, log_p, atol=0.1) and model.likelihood(500) == "iwae-500"
    single = torch.stack([model.log_prob(x, seed=s) for s in range(100)])
    assert (single.mean(0) <= log_p + 4 * single.std(0) / 10).all() and model.likelihood() == "elbo"


def test_noise_comes_from_the_streams_of_the_ranks() -> None:
    one, x = dvae().train(), pixels()
    nested = VQVAE(
        MLP([64, 6, 8]), MLP([8, 6, 64]), VectorQuantiser(4, 4, 4, nested=[0, 0.3, 0.5, 0.7]), SHAPE, [1, 2],
        "bernoulli",
    ).double()  # fmt: skip
    for model in (one, nested.train()):
        for streams in (1, 2):
            found = []
            for _ in range(2):
                model.set_noise([torch.Generator().manual_seed(s) for s in range(streams)])
                found.append(model.quantise(x)[0])
            assert torch.equal(*found)
        model.set_noise([torch.Generator().manual_seed(1)])
        assert torch.equal(model.quantise(x[2:])[0], found[0][2:])  # what the second rank computes of its share


# -- SoftVQ ------------------------------------------------------------------------------------------------------------


def test_soft_tokens_are_differentiable_all_the_way() -> None:
    q = SoftQuantiser(6, 4, 2, temperature=0.3).double()
    z, w, direction, h = latents(4).requires_grad_(), latents(4), latents(4), 1e-6

    def slopes(value: Any) -> tuple[Tensor, Tensor]:
        """The gradient along a direction, as autograd has it and by finite differences."""
        (slope,) = torch.autograd.grad(value(z), z)
        with torch.no_grad():
            measured = (value(z + h * direction) - value(z - h * direction)) / (2 * h)
        return (slope * direction).sum(), measured

    for mode in (True, False):  # in evaluation too
        q.train(mode)
        for value in (lambda v: (q(v).z * w).sum(), lambda v: q(v).losses["entropy"]):
            told, measured = slopes(value)
            assert torch.allclose(told, measured, rtol=1e-5) and measured.abs() > 1e-6
    hard = VectorQuantiser(6, 4, 2, normalised=True).double()
    told, measured = slopes(lambda v: (hard(v).z * w).sum())  # rounding with a gradient of its own making
    assert not torch.allclose(told, measured, rtol=0.1)


def test_soft_tokens_lie_in_the_hull_of_the_codes_and_tend_to_the_nearest() -> None:
    q, z = SoftQuantiser(5, 3).double().eval(), latents(3)
    e = F.normalize(q.codebook[0], dim=1)  # (5, 3)
    v = F.normalize(z, dim=1).movedim(1, 3).flatten(0, 2)
    w = torch.softmax(v @ e.T / 0.07, 1)
    assert torch.allclose(q(z).z.movedim(1, 3).flatten(0, 2), w @ e)  # weights that sum to one: the convex hull
    assert torch.allclose(q.average(z), q(z).z) and torch.equal(q(z).codes, q.codes(z))
    q.temperature = 1e-6
    assert torch.allclose(q(z).z, q.embed(q.codes(z)), atol=1e-9)
    nearest = torch.cdist(v, e).argmin(1)
    assert torch.equal(q.codes(z).flatten(), nearest)
    assert torch.allclose(q(3 * z).z, q(z).z) and (q(z).z.norm(dim=1) <= 1 + 1e-9).all()


def test_soft_codebook_learns_through_the_average_alone() -> None:
    q, w = SoftQuantiser(5, 3, temperature=0.5, diversity=1.0).double(), latents(3)
    z = latents(3, requires_grad=True)
    made = q(z)
    assert set(made.losses) == {"entropy"}
    assert torch.autograd.grad(made.losses["entropy"], q.codebook, allow_unused=True)[0] is None
    (slope,) = torch.autograd.grad((made.z * w).sum(), q.codebook)
    a = torch.softmax(q.likeness(z) / 0.5, 4).detach()
    (expected,) = torch.autograd.grad(
        (torch.einsum("bghwk,gkd->bgdhw", a, q.book()).flatten(1, 2) * w).sum(), q.codebook
    )
    assert torch.allclose(slope, expected)
    p = torch.softmax(q.likeness(z) / 0.01, 4).flatten(0, 3).detach()
    H, H_mean = -torch.xlogy(p, p).sum(1).mean(), -torch.xlogy(p.mean(0), p.mean(0)).sum()
    assert torch.allclose(made.losses["entropy"], 6 * (H - H_mean))


@pytest.mark.parametrize("make", [lambda: SoftQuantiser(64, 4), lambda: LFQ(6, joint=6)])
def test_entropies_of_codes_that_nobody_is_near_have_finite_gradients(make: Any) -> None:
    q, z = make(), (50 * torch.ones(3, make().dim, 2, 2)).requires_grad_()  # certain, so most means are exactly zero
    (slope,) = torch.autograd.grad(q(z).losses["entropy"], z)
    assert slope.isfinite().all()


def soft() -> SoftVQ:
    return SoftVQ(MLP([64, 6, 8]), MLP([8, 6, 64]), SoftQuantiser(5, 4), SHAPE, [1, 2], likelihood="bernoulli")


def test_soft_tokenizer_is_one_for_priors_of_both_kinds() -> None:
    model, x = soft().eval(), pixels().float()
    assert isinstance(model, MapsCodes) and isinstance(model, Tokenises) and isinstance(model, HasMapLatents)
    assert map_grid_of(model) == (4, 1, 2) and model.grid == (1, 1, 2)
    z, _ = model.quantise(x)
    with torch.no_grad():
        assert torch.equal(model.latents(x), z) and torch.equal(model.reconstruct(x), model.images(z))
        assert not torch.allclose(model.reconstruct(x), model.decode(model.codes(x)))
    assert "elbo" not in model.loss((x, None))
    continuous = LatentDiffusion(
        soft(), FlowMatching(UNet(4, widths=[4], embedding=8), [4, 1, 2], levels=None, steps=2)
    )
    assert continuous.encode(x).shape == (4, 4, 1, 2) and continuous.sample(2, seed=0).shape == (2, *SHAPE)
    discrete = CodePrior(soft(), PixelCNN([1, 1, 2], 5, width=8, depth=1, first_kernel=3)).eval()
    assert torch.equal(discrete.reconstruct(x), discrete.decode(discrete.codes(x)))
    assert discrete.sample(2, seed=0).shape == (2, *SHAPE) and discrete.log_prob(x).shape == (4,)


# -- nested groups -----------------------------------------------------------------------------------------------------


def test_nested_groups_without_chances_are_product_quantisation() -> None:
    nested, plain = (VectorQuantiser(5, 8, 4, nested=p).double().train() for p in ([0.0] * 4, None))
    nested.load_state_dict(plain.state_dict())
    z = latents(8)
    a, b = nested(z, noise), plain(z, noise)
    assert (
        torch.equal(a.z, b.z)
        and torch.equal(a.codes, b.codes)
        and torch.equal(*(m.losses["commitment"] for m in (a, b)))
    )
    assert nested.ordered and not plain.ordered


def test_groups_that_are_left_out_are_the_last_ones() -> None:
    p = [0.0, 0.2, 0.3, 0.4]
    q = VectorQuantiser(5, 8, 4, nested=p).double().train()
    z = latents(8, n=4_000)
    made, whole = q(z, noise), q.eval()(z, noise)
    there = (made.z.unflatten(1, (4, 2)) != 0).any(2)  # (B, G, h, w)
    assert torch.equal(there, there[..., :1, :1].expand_as(there))  # alike in all positions of an example
    there = there[:, :, 0, 0]
    assert bool((there[:, :-1] >= there[:, 1:]).all())  # no group without those before it
    assert torch.allclose(1 - there.double().mean(0), torch.tensor(p).double(), atol=0.03) and there[:, 0].all()
    kept = there.repeat_interleave(2, 1)[:, :, None, None]
    assert torch.equal(made.z, whole.z * kept) and torch.equal(made.codes, whole.codes)
    apart = torch.rand(4_000, 4) >= torch.tensor(p)  # a draw for each group by itself: other sets
    assert not bool((apart[:, :-1] >= apart[:, 1:]).all())
    assert not bool((q(z, noise).z == 0).any())  # in evaluation all of them stay


def test_first_groups_decode_alone_and_more_of_them_say_more() -> None:
    q = VectorQuantiser(4, 4, 2, nested=[0.0, 0.5])
    model = VQVAE(MLP([64, 16, 8]), MLP([8, 16, 64]), q, SHAPE, [1, 2], "bernoulli", lr=1e-2)
    base = (torch.rand(12, *SHAPE) > 0.5).float()
    (optimizer,) = model.configure_optimizers()
    for _ in range(150):
        x = base[torch.randint(12, (48,))]
        model.training_step((x, None), 0).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    codes = model.codes(base)
    with torch.no_grad():
        errors = [float((model.partial(codes, g) - base).square().mean()) for g in (1, 2)]
        assert errors[1] < errors[0] < float((base - base.mean(0)).square().mean())
        assert torch.equal(model.partial(codes, 2), model.decode(codes))
    embedded = q.embed(codes[:, :1])
    assert embedded.shape == (12, 4, 1, 2) and not embedded[:, 2:].any() and embedded[:, :2].any()


def test_vectors_of_length_one_are_looked_up_by_direction() -> None:
    q, z = VectorQuantiser(6, 4, 2, normalised=True).double(), latents(4)
    assert torch.equal(q.codes(z), q.codes(5 * z))
    assert torch.allclose(q.embed(q.codes(z)).unflatten(1, (2, 2)).norm(dim=2), torch.ones(6, 2, 2, 3).double())
    assert not torch.equal(VectorQuantiser(6, 4, 2).double().codes(z), VectorQuantiser(6, 4, 2).double().codes(5 * z))
    plain = VectorQuantiser(6, 4, 2).double()
    plain.load_state_dict(q.state_dict())
    assert not torch.equal(plain.codes(z), plain.codes(0.05 * z))  # by distance, the length matters
    z.requires_grad_()
    (slope,) = torch.autograd.grad((q(z).z * latents(4)).sum(), z)
    assert (slope * z).unflatten(1, (2, 2)).sum(2).abs().max() < 1e-9  # none along z


# -- stages ------------------------------------------------------------------------------------------------------------


def test_stages_say_which_codes_are_coarse() -> None:
    def made(q: Any) -> VQVAE:
        return VQVAE(MLP([64, 6, q.dim * 2]), MLP([q.dim * 2, 6, 64]), q, SHAPE, [1, 2], "bernoulli").eval()

    residual, product = made(ResidualQuantiser(4, 3, 3)), made(VectorQuantiser(4, 4, 2))
    assert residual.code_stages()[:, 0, 0].tolist() == [0, 1, 2] and not product.code_stages().any()
    x = pixels().float()
    codes = residual.codes(x)
    with torch.no_grad():
        shown = [residual.partial(codes, k) for k in (1, 2, 3)]
        assert torch.equal(shown[-1], residual.decode(codes)) and not torch.equal(shown[0], shown[1])
        changed = codes.clone()
        changed[:, 1:] = (changed[:, 1:] + 1) % 4
        assert torch.equal(residual.partial(changed, 1), shown[0])
        assert torch.equal(product.partial(product.codes(x), 1), product.decode(product.codes(x)))
    two = VQVAE2(
        ResidualEncoder(1, [4], 4, 1), ResidualEncoder(4, [4], 4, 1), ResidualDecoder(4, [4], 4, 1),
        ResidualDecoder(8, [4], 2, 1), VectorQuantiser(8, 4), VectorQuantiser(8, 4), 4, SHAPE, [2, 2],
    ).eval()  # fmt: skip
    assert two.code_stages()[:, 0, 0].tolist() == [0, 1, 1, 1, 1]
    codes = two.codes(x)
    changed = codes.clone()
    changed[:, 1:] = (changed[:, 1:] + 1) % 8
    with torch.no_grad():
        assert torch.equal(two.partial(codes, 1), two.partial(changed, 1)) and two.partial(codes, 1).shape == x.shape
        assert torch.equal(two.partial(codes, 2), two.decode(codes))
    assert all(isinstance(m, Refines) for m in (residual, product, two))


def test_diagnosis_shows_usage_and_images_of_each_stage() -> None:
    q = ResidualQuantiser(4, 3, 3)
    inner = VQVAE(MLP([64, 6, 6]), MLP([6, 6, 64]), q, SHAPE, [1, 2], "bernoulli").eval()
    model = CodePrior(inner, PixelCNN(inner.grid, 4, width=9, depth=1, first_kernel=3)).eval()
    x = pixels(10).float()
    codes = inner.codes(x)  # (10, 3, 1, 2)
    for one in (inner, model):
        usage, found = codebook_usage(one, x), refinement(one, x)
        assert usage.stages.tolist() == [torch.bincount(codes[:, s].flatten(), minlength=4).tolist() for s in range(3)]
        said = usage.summary()["stages"]
        assert said["codes_per_example"] == [2, 2, 2] and len(said["perplexity"]) == 3
        assert found.bits.tolist() == [4.0, 8.0, 12.0] and found.images.shape == (10, 3, *SHAPE)
        with torch.no_grad():
            assert torch.equal(found.images[:, 1], inner.partial(codes, 2))
        assert torch.allclose(found.errors[2], (inner.reconstruct(x).double() - x).square().mean())
        assert DIAGNOSTICS["refinement"].applies(one)
        picture = DIAGNOSTICS["refinement"].look(Subject(one, x, torch.zeros(10))).picture
        assert picture.ndim == 3 and plot_usage(usage).ndim == 3
    plain = VQVAE(MLP([64, 6, 8]), MLP([8, 6, 64]), VectorQuantiser(4, 4, 2), SHAPE, [1, 2], "bernoulli").eval()
    assert not DIAGNOSTICS["refinement"].applies(plain) and codebook_usage(plain, x).stages is None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: GumbelQuantiser(0, 4), "at least 1"),
        (lambda: GumbelQuantiser(4, 4, 0.0), "temperature positive"),
        (lambda: SoftQuantiser(4, 4, 3), "do not divide into 3 groups"),
        (lambda: SoftQuantiser(4, 4, temperature=0.0), "must be positive"),
        (lambda: VectorQuantiser(4, 4, 2, nested=[0.2, 0.3]), "0 for the first"),
        (lambda: VectorQuantiser(4, 4, 2, nested=[0.0]), "each of the 2 groups"),
        (lambda: VectorQuantiser(4, 6, 3, nested=[0.0, 0.4, 0.3]), "none less"),
        (lambda: VectorQuantiser(4, 4, 2, nested=[0.0, 0.5]).train()(torch.zeros(1, 4, 1, 1)), "training noise"),
        (lambda: DVAE(MLP([64, 8]), MLP([8, 64]), VectorQuantiser(4, 4), SHAPE, [1, 2]), "GumbelQuantiser"),
        (lambda: dvae(beta=-1.0), "not negative"),
        (lambda: SoftVQ(MLP([64, 8]), MLP([8, 64]), VectorQuantiser(4, 4), SHAPE, [1, 2]), "SoftQuantiser"),
    ],
)
def test_numbers_that_make_no_tokenizer_are_refused(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()
