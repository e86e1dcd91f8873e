"""Laws of tokenizers: codes of residuals, and bits, with the look-alike that breaks each of them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.code_prior import CodePrior
from zoo.families.pixelcnn import PixelCNN
from zoo.families.vq_vae import VQVAE
from zoo.nets.binary_quantisers import BSQ, LFQ, bit_entropy, mean_entropy
from zoo.nets.mlp import MLP
from zoo.nets.quantisers import Quantised, VectorQuantiser
from zoo.nets.residual_quantiser import ResidualQuantiser


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def latents(channels: int, n: int = 6, **options: Any) -> Tensor:
    return torch.randn(n, channels, 2, 3, dtype=torch.float64, **options)


def all_codes(L: int) -> Tensor:
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=L)), dtype=torch.float64)  # (2^L, L)


def entropy(p: Tensor) -> Tensor:
    return -torch.xlogy(p, p).sum(-1)


# -- bits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [LFQ, BSQ])
@pytest.mark.parametrize("L", [1, 3, 8])
def test_factorised_entropies_equal_those_of_all_codes(kind: type[LFQ], L: int) -> None:
    q = kind(L, joint=L, certainty=0.7, diversity=0.3, sharpness=1.3)
    z = latents(L)
    u = q.bounded(z).movedim(1, 3).flatten(0, 2)  # (N, L)
    codes = all_codes(L) * q.side
    p = torch.softmax(-1.3 * torch.cdist(u, codes).square(), 1)  # (N, 2^L)
    a = q.log_odds(q.bounded(z))
    assert torch.allclose(bit_entropy(a), entropy(p), rtol=0, atol=1e-12)
    assert torch.allclose(mean_entropy(a, L), entropy(p.mean(0)), rtol=0, atol=1e-12)
    expected = 6 * (0.7 * entropy(p).mean() - 0.3 * entropy(p.mean(0)))  # six positions; spread lowers the loss
    assert torch.allclose(q(z).losses["entropy"], expected, rtol=0, atol=1e-12)


def test_entropy_of_the_mean_is_no_sum_over_bits() -> None:
    a = 8 * torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)  # two bits that agree: one bit in all
    exact, bound = mean_entropy(a, 2), mean_entropy(a, 1)
    assert exact == pytest.approx(math.log(2), abs=0.01) and bound == pytest.approx(2 * math.log(2))
    a = torch.randn(50, 5, dtype=torch.float64)
    H = [float(mean_entropy(a, joint)) for joint in (5, 3, 1)]
    assert H[0] < H[1] < H[2]


@pytest.mark.parametrize("kind", [LFQ, BSQ])
def test_bits_are_those_of_the_nearest_code_and_come_back(kind: type[LFQ]) -> None:
    q, z = kind(5), latents(5)
    u = q.bounded(z).movedim(1, 3).flatten(0, 2)
    codes = all_codes(5) * q.side
    nearest = codes[torch.cdist(u, codes).argmin(1)]
    bits = q.codes(z)
    assert bits.shape == z.shape and bits.dtype == torch.int64 and q.size == 2 and q.groups == 5
    assert torch.allclose(q.embed(bits).double().movedim(1, 3).flatten(0, 2), nearest, atol=1e-6)
    assert torch.equal(q.codes(q.embed(bits)), bits)
    made = q(z)
    assert torch.equal(made.codes, bits) and torch.allclose(made.z, q.embed(bits).double(), atol=1e-6)


def test_error_on_the_sphere_is_bounded_and_that_of_lfq_is_not() -> None:
    L = 6
    bound = math.sqrt(2 - 2 / math.sqrt(L))
    z = torch.randn(5000, L, 1, 1, dtype=torch.float64) * 4

    def error(q: LFQ, z: Tensor) -> Tensor:
        return (q.bounded(z) - q.embed(q.codes(z)).double()).norm(dim=1)

    e = error(BSQ(L), z)
    assert e.max() <= bound + 1e-6 and e.mean() == pytest.approx(0.565, abs=0.01)
    axis = torch.eye(L, dtype=torch.float64)[:1, :, None, None]
    assert error(BSQ(L), axis).item() == pytest.approx(bound, abs=1e-6)  # no bound is smaller
    assert error(LFQ(L), z).max() > bound


def test_lengths_of_vectors_do_not_matter_on_the_sphere() -> None:
    z = latents(4)
    for name in ("commitment", "entropy"):
        one, three = (BSQ(4)(s * z).losses[name] for s in (1, 3))
        assert torch.allclose(one, three, atol=1e-9)
        one, three = (LFQ(4)(s * z).losses[name] for s in (1, 3))
        assert not torch.allclose(one, three, rtol=0.05)


def test_gradients_go_straight_through_the_sign_and_through_the_sphere() -> None:
    z, w = latents(4).requires_grad_(), latents(4)
    (through,) = torch.autograd.grad((BSQ(4, certainty=0, diversity=0)(z).z * w).sum(), z)
    (sphere,) = torch.autograd.grad((F.normalize(z, dim=1) * w).sum(), z)
    assert torch.allclose(through, sphere)
    assert (through * z).sum(1).abs().max() < 1e-9  # none along z
    (through,) = torch.autograd.grad((LFQ(4)(z).z * w).sum(), z)
    assert torch.equal(through, w)


def test_descent_on_the_entropies_makes_bits_certain_and_even() -> None:
    z = (torch.rand(64, 3, 1, 1, dtype=torch.float64) * 0.2 + 0.1).requires_grad_()  # all bits set, none certain
    q = LFQ(3, certainty=1, diversity=1)
    for _ in range(300):
        (g,) = torch.autograd.grad(q(z).losses["entropy"], z)
        z = (z - 3 * g).detach().requires_grad_()
    a = q.log_odds(z)
    assert bit_entropy(a).mean() < 0.2 and mean_entropy(a, 3) > 0.9 * 3 * math.log(2)


# -- codes of residuals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("update", ["ema", "loss"])
def test_one_code_a_position_is_vector_quantisation(update: str) -> None:
    deep, flat = ResidualQuantiser(8, 4, 1, update).double(), VectorQuantiser(8, 4, 1, update).double()
    deep.quantiser.load_state_dict(flat.state_dict())
    z = latents(4)
    for _ in range(2):
        a, b = deep(z), flat(z)
        assert torch.equal(a.z, b.z) and torch.equal(a.codes, b.codes) and a.losses.keys() == b.losses.keys()
        assert all(torch.equal(a.losses[k], b.losses[k]) for k in a.losses)
        for q, made in ((deep, a), (flat, b)):
            g = torch.Generator().manual_seed(0)
            q.learn(made, lambda *shape, g=g: torch.rand(shape, generator=g))
        assert all(torch.equal(v, flat.state_dict()[k]) for k, v in deep.quantiser.state_dict().items())


def test_residuals_never_grow_where_zero_is_a_code() -> None:
    q, z = ResidualQuantiser(16, 4, 6).double(), latents(4)

    def lengths() -> list[Tensor]:
        codes = q.codes(z)
        return [z.norm(dim=1), *((z - q.embed(codes[:, :d])).norm(dim=1) for d in range(1, 7))]

    q.quantiser.codebook.mul_(3)
    assert any((b > a + 1e-9).any() for a, b in itertools.pairwise(lengths()))  # without zero they may
    q.quantiser.codebook[0, 0] = 0
    found = lengths()
    assert all((b <= a + 1e-9).all() for a, b in itertools.pairwise(found)) and found[-1].mean() < found[0].mean()


def test_each_code_is_nearest_to_what_is_left_and_the_losses_are_of_partial_sums() -> None:
    q, z = ResidualQuantiser(8, 4, 3, "loss").double(), latents(4).requires_grad_()
    made, e = q(z), q.quantiser.codebook[0]
    r, partial, commitment, codebook = z.detach(), torch.zeros_like(z), 0.0, 0.0
    for d in range(3):
        nearest = (r[:, None] - e[None, :, :, None, None]).square().sum(2).argmin(1)  # (B, h, w)
        assert torch.equal(made.codes[:, d], nearest)
        vector = e[nearest].movedim(3, 1)
        partial = partial + vector.detach()
        commitment = commitment + (z - partial).square().sum() / len(z)
        codebook = codebook + (r - vector).square().sum() / len(z)
        r = r - vector.detach()
    assert torch.allclose(made.z, partial) and torch.allclose(q.embed(made.codes), partial)
    assert torch.allclose(made.losses["commitment"], commitment)
    assert torch.allclose(made.losses["codebook"], codebook)
    last = (z - partial).square().sum() / len(z)  # of the whole sum alone: another loss
    assert not torch.allclose(made.losses["commitment"], last)
    for name, expected in (("commitment", commitment), ("codebook", codebook)):
        of = z if name == "commitment" else q.quantiser.codebook
        assert torch.allclose(
            *(torch.autograd.grad(t, of, retain_graph=True)[0] for t in (made.losses[name], expected))
        )
        other = q.quantiser.codebook if name == "commitment" else z
        assert torch.autograd.grad(made.losses[name], other, retain_graph=True, allow_unused=True)[0] is None


def test_more_codes_a_position_describe_more_and_share_one_codebook() -> None:
    q, z = ResidualQuantiser(8, 2, 4).double().train(), torch.randn(256, 2, 2, 2, dtype=torch.float64)
    for _ in range(60):
        q.learn(q(z), lambda *shape: torch.rand(shape))
    codes = q.codes(z)
    errors = [float((z - q.embed(codes[:, :d])).square().mean()) for d in range(1, 5)]
    assert all(b < a for a, b in itertools.pairwise(errors)) and errors[-1] < 0.5 * errors[0]
    assert q.quantiser.codebook.shape == (1, 8, 2) and codes.shape == (256, 4, 2, 2)
    assert sorted(q.state_dict()) == ["quantiser.codebook", "quantiser.mass", "quantiser.share"]


# -- in an autoencoder, and under a prior ------------------------------------------------------------------------------


def autoencoder(q: nn.Module) -> VQVAE:
    return VQVAE(MLP([64, 6, q.dim * 2]), MLP([q.dim * 2, 6, 64]), q, [1, 8, 8], [1, 2], "bernoulli")


@pytest.mark.parametrize("make", [lambda: ResidualQuantiser(2, 3, 2), lambda: LFQ(2, joint=2), lambda: BSQ(2, joint=1)])
def test_any_prior_over_the_codes_is_a_distribution(make: Any) -> None:
    inner = autoencoder(make())
    prior = PixelCNN([2, 1, 2], 2, width=8, depth=1, first_kernel=3)
    model = CodePrior(inner, prior).double().eval()
    codes = torch.tensor(list(itertools.product((0, 1), repeat=4))).reshape(16, 2, 1, 2)
    x = (torch.rand(4, 1, 8, 8) > 0.5).double()
    with torch.no_grad():
        log_p = model.prior.log_prob(model.image(codes))
        assert log_p.exp().sum() == pytest.approx(1)
        for one in x.split(1):
            assert model.log_prob(one) <= (log_p + inner.log_likelihood(one, codes)).logsumexp(0) + 1e-9
        z, _ = inner.quantise(x)
        assert torch.allclose(inner.embed(inner.codes(x)), z, atol=1e-6)


def test_entropies_count_in_the_loss_as_they_are() -> None:
    x = (torch.rand(4, 1, 8, 8) > 0.5).float()
    model = autoencoder(LFQ(3, joint=3))
    terms = model.loss((x, None))
    made: Quantised = model.quantiser(model.latent(x))
    assert torch.allclose(terms["entropy"], made.losses["entropy"])
    assert torch.allclose(terms["loss"], terms["reconstruction"] + 0.25 * terms["commitment"] + terms["entropy"])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LFQ(0), "bits must be at least 1"),
        (lambda: BSQ(4, joint=13), "joint between 1 and 12"),
        (lambda: LFQ(4, certainty=-1.0), "must not be negative"),
        (lambda: BSQ(4, sharpness=0.0), "sharpness must be positive"),
        (lambda: ResidualQuantiser(4, 4, 0), "depth must be at least 1"),
    ],
)
def test_numbers_that_make_no_quantiser_are_refused(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()
