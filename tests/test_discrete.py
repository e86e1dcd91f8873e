"""Laws of the autoencoders with discrete codes, of their quantisers, and of the priors over their codes."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from closed_forms import causal_half, net, step_flops
from torch import Tensor, nn

import zoo
from zoo.errors import ConfigError
from zoo.families.code_prior import CodePrior
from zoo.families.pixelcnn import PixelCNN
from zoo.families.vq_vae import VQVAE
from zoo.families.vq_vae2 import VQVAE2
from zoo.families.vqgan import VQGAN, adaptive_weight
from zoo.hub import load_pretrained, save_pretrained
from zoo.maths.quantisers import FiniteScalars, perplexity, straight_through
from zoo.model import GenerativeModel
from zoo.nets.conv import DownsamplingNet
from zoo.nets.mlp import MLP
from zoo.nets.quantisers import FSQ, VectorQuantiser
from zoo.nets.resnet import ResidualDecoder, ResidualEncoder
from zoo.spec import build

# -- closed forms of the compute of one training step on one example ---------------------------------------------------


def _block(width: int, pixels: int) -> int:
    return pixels * 10 * width * width


def encoder_layers(spec: Mapping[str, Any], pixels: int) -> list[int]:
    args = spec["init_args"]
    layers = []
    for a, b in pairwise([args["channels"], *args["widths"]]):
        pixels //= 4
        layers.append(16 * pixels * a * b)
    last = args["widths"][-1]
    return [*layers, args["blocks"] * _block(last, pixels), pixels * last * args["out"]]


def decoder_layers(spec: Mapping[str, Any], pixels: int) -> list[int]:
    args = spec["init_args"]
    widths = args["widths"]
    layers = [9 * pixels * args["features"] * widths[0] + args["blocks"] * _block(widths[0], pixels)]
    for a, b in pairwise(widths):
        layers.append(16 * pixels * a * b)
        pixels *= 4
        layers.append(_block(b, pixels) if args["refine"] else 0)
    return [*layers, 16 * pixels * widths[-1] * args["channels"]]


def search(spec: Mapping[str, Any], pixels: int) -> int:
    """Distances to all codes at each depth; scalars have none, bits the odds of all codes of a group, and back.

    Of a Gumbel quantiser the mean of all codes and its two gradients; of a soft one the same, and the likeness to codes
    that are held fixed, and its one gradient.
    """
    args = spec["init_args"]
    if "features" in args:
        return pixels * 3 * args["size"] * args["features"]
    if "entropy_temperature" in args:
        return pixels * 5 * args["size"] * args["dim"]
    if "bits" in args:
        return pixels * 2 * args["bits"] * 2 ** args["joint"]
    return pixels * args["size"] * args["dim"] * args.get("depth", 1) if "size" in args else 0


def vq_vae(args: Mapping[str, Any]) -> float:
    E, D = (
        encoder_layers(args["encoder"], math.prod(args["shape"][1:])),
        decoder_layers(args["decoder"], math.prod(args["grid"])),
    )
    return 2.0 * (3 * sum(E + D) - E[0] + search(args["quantiser"], math.prod(args["grid"])))


def vq_vae2(args: Mapping[str, Any]) -> float:
    top, r2 = math.prod(args["grid"]), args["ratio"] ** 2
    E = encoder_layers(args["bottom"], math.prod(args["shape"][1:])) + encoder_layers(args["top"], top * r2)
    D = decoder_layers(args["upsample"], top) + decoder_layers(args["decoder"], top * r2)
    merge = top * r2 * 2 * args["features"] * args["quantiser_bottom"]["init_args"]["dim"]
    searched = search(args["quantiser_top"], top) + search(args["quantiser_bottom"], top * r2)
    return 2.0 * (3 * (sum(E + D) + merge) - E[0] + searched)


def vqgan(args: Mapping[str, Any]) -> float:
    """A VQ-VAE; the judge forward and twice back to the picture, two gradients of the last layer; then the judge."""
    D, last = net(args["discriminator"]), decoder_layers(args["decoder"], math.prod(args["grid"]))[-1]
    return vq_vae(args) + 2.0 * (sum(D) + 2 * sum(D) + 2 * last + 2 * (3 * sum(D) - D[0]))


def code_prior(args: Mapping[str, Any]) -> float:
    """The encoder and its search forward, and the prior's training step."""
    inner = args["autoencoder"]["init_args"]
    if "quantiser_top" in inner:
        codes = _coded_twice(inner)
    elif len(inner["shape"]) == 4:
        one = inner["encoder"]["init_args"]
        codes = causal_half(one, one["channels"] * 8 ** one.get("levels", 2), one["out"], inner["grid"])[0]
    else:
        codes = sum(encoder_layers(inner["encoder"], math.prod(inner["shape"][1:]))) + _coded(inner)
    return 2.0 * codes + step_flops()[args["prior"]["class_path"].rpartition(".")[2]](args["prior"]["init_args"])


def _coded_twice(inner: Mapping[str, Any]) -> int:
    """Both encoders, what enlarges the coarse codes and joins them to the fine map, and both searches."""
    top, r2 = math.prod(inner["grid"]), inner["ratio"] ** 2
    layers = encoder_layers(inner["bottom"], math.prod(inner["shape"][1:])) + encoder_layers(inner["top"], top * r2)
    layers += decoder_layers(inner["upsample"], top)
    merge = top * r2 * 2 * inner["features"] * inner["quantiser_bottom"]["init_args"]["dim"]
    return sum(layers) + merge + search(inner["quantiser_top"], top) + search(inner["quantiser_bottom"], top * r2)


def _coded(inner: Mapping[str, Any]) -> int:
    """The search alone; of several scales their enlarging too, once for the codes and once for what a prior sees."""
    args = inner["quantiser"]["init_args"]
    if "scales" not in args:
        return search(inner["quantiser"], math.prod(inner["grid"]))
    cells, q = sum(s * s for s in args["scales"]), args["quantiser"]
    maps = len(args["scales"]) * 9 * q["init_args"].get("dim", 0) ** 2 * args["scales"][-1] ** 2
    return 0 if "bits" in q["init_args"] else search(q, cells) + 2 * maps


STEP_FLOPS = {
    "VQVAE": vq_vae, "DVAE": vq_vae, "SoftVQ": vq_vae, "VQVAE2": vq_vae2, "VQGAN": vqgan, "CodePrior": code_prior
}  # fmt: skip

# -- tiny models -------------------------------------------------------------------------------------------------------

SHAPE, GRID = [1, 8, 8], [2, 2]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def quantiser(kind: str, **options: Any) -> nn.Module:
    return FSQ([4, 3, 4, 3]) if kind == "fsq" else VectorQuantiser(8, 4, update=kind, **options)


def tiny(kind: str = "ema", channels: int = 2, **options: Any) -> VQVAE:
    encoder, decoder = ResidualEncoder(1, [4, 4], 4, 1), ResidualDecoder(4, [4, 4], channels, 1, refine=True)
    return VQVAE(encoder, decoder, quantiser(kind), SHAPE, GRID, **options)


def two_levels(**options: Any) -> VQVAE2:
    return VQVAE2(
        ResidualEncoder(1, [4], 4, 1), ResidualEncoder(4, [4], 4, 1), ResidualDecoder(4, [4], 4, 1),
        ResidualDecoder(8, [4], 2, 1), VectorQuantiser(8, 4), VectorQuantiser(8, 4), 4, SHAPE, GRID, **options,
    )  # fmt: skip


def gan(**options: Any) -> VQGAN:
    encoder, decoder = ResidualEncoder(1, [4, 4], 4, 1), ResidualDecoder(4, [4, 4], 1, 1)
    return VQGAN(encoder, decoder, quantiser("ema"), DownsamplingNet([4, 4], SHAPE), SHAPE, GRID, **options)


def prior_over(model: GenerativeModel) -> PixelCNN:
    return PixelCNN(model.grid, model.codebook_size, width=4 * model.grid[0], depth=1, first_kernel=3)


def images(n: int = 6) -> Tensor:
    return torch.randint(0, 256, (n, *SHAPE)) / 255


ALL = {
    "ema": lambda: tiny(),
    "loss": lambda: tiny("loss"),
    "fsq": lambda: tiny("fsq"),
    "two levels": two_levels,
    "gan": gan,
    "mlp": lambda: VQVAE(MLP([64, 8, 6]), MLP([6, 8, 64]), VectorQuantiser(5, 2), SHAPE, [1, 3], "bernoulli"),
    "product": lambda: VQVAE(MLP([64, 8, 12]), MLP([12, 8, 128]), VectorQuantiser(5, 4, groups=2), SHAPE, [1, 3]),
}
each = pytest.mark.parametrize("make", ALL.values(), ids=ALL)

# -- vector quantisation -----------------------------------------------------------------------------------------------


def test_straight_through_hands_the_gradient_of_z_q_to_z_e():
    q = quantiser("loss").double().eval()
    z_e = torch.randn(2, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    decode = torch.nn.Conv2d(4, 3, 1).double()
    decode(q(z_e).z).square().sum().backward()
    z_q = q.embed(q.codes(z_e)).detach().requires_grad_()
    decode(z_q).square().sum().backward()
    assert torch.allclose(z_e.grad, z_q.grad, atol=1e-14) and z_e.grad.abs().min() > 0
    assert torch.allclose(q(z_e).z, z_q, atol=1e-14) and q.codebook.grad is None
    a = torch.randn(3, requires_grad=True)
    straight_through(a, a.round()).sum().backward()
    assert torch.equal(a.grad, torch.ones(3))


def test_codebook_loss_reaches_only_the_codebook_and_commitment_only_the_encoder():
    q = quantiser("loss", groups=2).double()
    z_e = torch.randn(3, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    made = q(z_e)
    e = q.embed(made.codes).detach()  # the raw vectors
    assert torch.allclose(made.losses["codebook"], (z_e - e).square().sum() / 3)
    assert torch.allclose(made.losses["commitment"], made.losses["codebook"])
    made.losses["codebook"].backward()
    assert z_e.grad is None
    expected = torch.zeros_like(q.codebook)
    for b, g, i, j in itertools.product(range(3), range(2), range(2), range(2)):
        half = slice(2 * g, 2 * g + 2)
        expected[g, made.codes[b, g, i, j]] += 2 * (e - z_e)[b, half, i, j].detach() / 3
    assert torch.allclose(q.codebook.grad, expected, atol=1e-14) and expected.abs().sum() > 0
    q.codebook.grad = None
    q(z_e).losses["commitment"].backward()
    assert q.codebook.grad is None and torch.allclose(z_e.grad, 2 * (z_e.detach() - e) / 3)


def test_codes_are_the_nearest_vectors_group_by_group():
    q = VectorQuantiser(7, 6, groups=3).double()
    z = torch.randn(4, 6, 3, 2, dtype=torch.float64)
    codes = q.codes(z)
    assert codes.shape == (4, 3, 3, 2) and torch.equal(codes, q(z).codes)
    for g in range(3):
        v = z[:, 2 * g : 2 * g + 2].permute(0, 2, 3, 1)  # (B, h, w, 2)
        assert torch.equal(codes[:, g], torch.cdist(v.reshape(-1, 2), q.codebook[g]).argmin(1).reshape(4, 3, 2))
    assert torch.allclose(q.embed(codes), q(z).z) and torch.equal(q.codes(q.embed(codes)), codes)


def test_ema_codebook_is_the_average_computed_by_hand():
    q = VectorQuantiser(3, 2, decay=0.8, revive=0.0).double()
    start = q.codebook[0].clone()
    N, m = [0.0] * 3, [torch.zeros(2, dtype=torch.float64) for _ in range(3)]
    for _ in range(5):
        z = torch.randn(4, 2, 1, 2, dtype=torch.float64)
        made = q(z)
        vectors, codes = z.permute(0, 2, 3, 1).reshape(-1, 2), made.codes.flatten()
        q.learn(made, torch.rand)
        for k in range(3):
            N[k] = 0.8 * N[k] + 0.2 * float((codes == k).sum())
            m[k] = 0.8 * m[k] + 0.2 * vectors[codes == k].sum(0)
            expected = m[k] / N[k] if N[k] else start[k]
            assert torch.allclose(q.codebook[0, k], expected, atol=1e-12)
    assert sum(bool(n) for n in N) >= 2
    before = q.codebook.clone()
    q(z)  # looking does not teach
    assert torch.equal(q.codebook, before) and not any(p.requires_grad for p in q.parameters())


@pytest.mark.parametrize("update", ["ema", "loss"])
def test_dead_codes_are_drawn_anew_among_the_vectors(update: str):
    q = VectorQuantiser(4, 4, groups=2, update=update, decay=0.5, revive=0.1)
    z = torch.randn(8, 4, 2, 2)
    q.learn(q(z), torch.rand)  # the first batch: no code has been used, so all are drawn
    vectors = q.vectors(z)
    for g in range(2):
        assert (q.codebook[g, :, None] == vectors[g]).all(2).any(1).all()  # (K, N, d)
        assert len(q.codebook[g].unique(dim=0)) == 4
    with torch.no_grad():
        q.codebook[0, 3] = 1e3  # far from everything
        if update == "ema":
            q.mass[0, 3] = 1e3 * q.share[0, 3]
    shares = []
    for _ in range(6):
        q.learn(q(z), torch.rand)
        shares.append(float(q.share[0, 3]))
    assert shares[0] == 0.125 and min(shares) >= 0.1 / 4 and 0.25 in shares[1:]
    assert (torch.cdist(q.codebook[0, 3:].detach(), vectors[0]).min() < 3).all()
    never = VectorQuantiser(4, 4, update=update, revive=0.0)
    with torch.no_grad():
        never.codebook[0, 3] = 1e3
    for _ in range(6):
        never.learn(never(z), torch.rand)
    assert (never.codebook[0, 3] == 1e3).all()


@pytest.mark.parametrize("update", ["ema", "loss"])
def test_where_more_codes_are_dead_than_there_are_vectors_each_vector_is_taken_once(update: str):
    q = VectorQuantiser(8, 4, update=update, revive=0.1)
    before, z = q.codebook.clone(), torch.randn(3, 4, 1, 1)
    seen = q(z)
    q.learn(seen, lambda *shape: torch.linspace(0, 1, math.prod(shape)).reshape(shape))
    taken, vectors = q.codebook[0], q.vectors(z)[0]  # (8, 4), (3, 4)
    assert torch.equal(taken[:3], vectors.flip(0))  # the largest number first
    unused = [k for k in range(3, 8) if k not in seen.codes]
    assert unused and torch.equal(taken[unused], before[0, unused])  # those that were used follow their vectors


def test_soft_assignment_in_training_and_the_nearest_in_evaluation():
    q = VectorQuantiser(5, 4, groups=2, update="loss", temperature=0.7, revive=0.0).double()
    z = torch.randn(2, 4, 1, 3, dtype=torch.float64, requires_grad=True)
    made = q(z)
    for g in range(2):
        v = z[:, 2 * g : 2 * g + 2].permute(0, 2, 3, 1).reshape(-1, 2)
        p = torch.softmax(-torch.cdist(v, q.codebook[g]).square() / 0.7, 1)
        soft = (p @ q.codebook[g]).reshape(2, 1, 3, 2).permute(0, 3, 1, 2)
        assert torch.allclose(made.z[:, 2 * g : 2 * g + 2], soft, atol=1e-12)
    q.learn(made, torch.rand)
    made.z.sum().backward()
    assert z.grad.abs().min() > 0 and q.codebook.grad.abs().min() > 0  # no straight-through gradient of one
    q.temperature = 1e-9
    assert torch.allclose(q(z).z, q.embed(q.codes(z)), atol=1e-9)
    q.temperature = 0.7
    assert torch.allclose(q.eval()(z).z, q.embed(q.codes(z)), atol=1e-12)
    averaged = VectorQuantiser(3, 2, temperature=0.5, decay=0.5, revive=0.0).double()
    z = torch.randn(4, 2, 1, 1, dtype=torch.float64)
    p = torch.softmax(-torch.cdist(z.flatten(1), averaged.codebook[0]).square() / 0.5, 1)
    averaged.learn(averaged(z), torch.rand)
    assert torch.allclose(averaged.codebook[0], p.mT @ z.flatten(1) / p.sum(0)[:, None], atol=1e-12)


def test_perplexity_counts_the_codes_in_use():
    assert perplexity(torch.arange(8).repeat(3), 8) == pytest.approx(8)
    assert perplexity(torch.zeros(5, dtype=torch.long), 8) == pytest.approx(1)
    p = torch.tensor([0.5, 0.25, 0.25])
    assert perplexity(torch.tensor([3, 3, 1, 0]), 5) == pytest.approx(float(torch.exp(-(p * p.log()).sum())))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"groups": 3}, "do not divide into 3 groups"),
        ({"update": "emma"}, "Did you mean 'ema'"),
        ({"decay": 1.0}, "decay"),
        ({"revive": 1.0}, "revive"),
        ({"temperature": 0.0}, "temperature must be positive"),
    ],
)
def test_wrong_options_of_a_codebook_are_refused(options: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        VectorQuantiser(8, 4, **options)


# -- finite scalars ----------------------------------------------------------------------------------------------------


def test_all_64_000_codes_go_there_and_back():
    grid = FiniteScalars([8, 8, 8, 5, 5, 5])
    index = torch.arange(64_000)
    points = grid.point(index)
    assert grid.size == 64_000 and points.shape == (64_000, 6) and points.abs().max() == 1
    assert torch.equal(grid.index(points), index) and len(points.unique(dim=0)) == 64_000
    layer = FSQ([8, 8, 8, 5, 5, 5])
    codes = index.reshape(10, 1, 80, 80)
    assert torch.equal(layer.grid.index(layer.embed(codes).movedim(1, -1))[:, None], codes)


@pytest.mark.parametrize("L", [2, 3, 4, 5, 7, 8, 16, 255])
def test_every_level_is_reached_and_no_other(L: int):
    grid = FiniteScalars([L])
    z = torch.atanh(torch.linspace(-1 + 1e-9, 1 - 1e-9, 40_001, dtype=torch.float64))[:, None] * 1.5
    index = grid.index(grid.quantise(torch.cat([z, z.new_tensor([[-1e6], [0.0], [1e6]])])))
    assert torch.equal(index.unique(), torch.arange(L)) and bool((index[:-3].diff() >= 0).all())
    assert index[-2] == L // 2 and grid.bound(z.new_zeros(1, 1)).abs() < 1e-12  # zero is a level, and stays
    spread = grid.bound(torch.tensor([[-1e6], [1e6]], dtype=torch.float64)).flatten()
    half_step = 0.5 if L % 2 == 0 else 0.0
    assert torch.allclose(spread, torch.tensor([-1.0, 1.0]).double() * (L - 1) / 2 - half_step, atol=2e-3)


def test_finite_scalars_have_the_gradient_of_their_bound_and_no_loss():
    layer = FSQ([8, 5, 2])
    z = torch.randn(2, 3, 1, 2, dtype=torch.float64, requires_grad=True)
    made = layer(z)
    assert made.losses == {} and not list(layer.parameters()) and layer.state_dict() == {}
    (gradient,) = torch.autograd.grad(made.z.sum(), z)
    bounded = layer.grid.bound(z.movedim(1, -1)) / torch.tensor([4, 2, 1])
    assert torch.allclose(gradient, torch.autograd.grad(bounded.sum(), z)[0]) and gradient.abs().min() > 0
    assert torch.equal(made.codes, layer.codes(z)) and torch.equal(layer.embed(made.codes), made.z.float())
    with pytest.raises(ConfigError, match="at least 2 levels"):
        FSQ([4, 1])


# -- models ------------------------------------------------------------------------------------------------------------


@each
def test_codes_pictures_and_every_parameter_moves(make: Any):
    model = build(make().spec)
    x = images()
    if model.levels == 2:
        x = x.round()
    codes = model.codes(x)
    assert codes.shape == (6, *model.grid) and codes.dtype == torch.int64
    assert codes.min() >= 0 and codes.max() < model.codebook_size
    assert torch.equal(codes, model.encode(x)) and model.decode(codes).shape == x.shape
    assert torch.equal(model.reconstruct(x), model.decode(codes))
    for observe in ("mean", "sample"):
        drawn = model.sample(4, seed=0, observe=observe)
        assert drawn.shape == (4, *SHAPE) and drawn.min() >= 0 and drawn.max() <= 1
    levels = drawn * (model.levels - 1)
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    with pytest.raises(ConfigError, match="observe"):
        model.sample(1, observe="mode")
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizers = model.configure_optimizers()
    if isinstance(getattr(model, "quantiser", None), FSQ):  # else all codes are the grid's zero at first
        model.encoder.layers[-1].weight.data.mul_(20)
    for _ in range(model.steps_to_move):
        _step(model, optimizers, x)
    assert [n for n, p in model.named_parameters() if torch.equal(p, before[n])] == []


def _step(model: GenerativeModel, optimizers: list[torch.optim.Optimizer], x: Tensor) -> None:
    """One training step without a trainer."""
    if model.automatic_optimization:
        model.training_step((x, None), 0).backward()
    else:
        terms, _, x_hat = model.autoencoder_loss(x)
        model.discriminator.requires_grad_(False)
        terms["loss"].backward()
        model.discriminator.requires_grad_(True)
        model.discriminator_loss(x, x_hat).backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


@each
def test_evaluation_teaches_nothing_and_training_teaches_the_quantisers(make: Any):
    model = make()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = images().round()
    model.eval()
    model.loss((x, None))
    model.log_prob(x)
    model.validation_step((x, None), 0)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert {"loss", "reconstruction", "elbo"} <= set(model.terms)
    perplexities = [v for k, v in model.terms.items() if k.startswith("perplexity")]
    assert perplexities and all(1 <= v <= model.codebook_size for v in perplexities)
    if model.automatic_optimization:
        model.train()
        model.training_step((x, None), 0)
        shares = [k for k in before if k.endswith("share")]
        assert all(not torch.equal(model.state_dict()[k], before[k]) for k in shares)


@each
def test_bound_is_below_the_probability_summed_over_all_codes(make: Any):
    model = make().double().eval()
    if model.codebook_size ** math.prod(model.grid) > 5_000:  # too many to sum over: fewer positions
        model = _one_position(model)
    x = images(3).double().round()
    codes = torch.cartesian_prod(*[torch.arange(model.codebook_size)] * math.prod(model.grid))
    codes = codes.reshape(-1, *model.grid)
    with torch.no_grad():
        log_p = torch.stack([model.log_likelihood(x[i : i + 1], codes) for i in range(3)])  # broadcasts over codes
        exact = log_p.logsumexp(1) - math.log(len(codes))
        bound = model.log_prob(x)
        own = model.log_likelihood(x, model.codes(x)) - math.log(len(codes))
    assert (bound <= exact + 1e-9).all() and torch.allclose(bound, own) and model.likelihood() == "elbo"
    objective = model.loss((x, None))
    assert torch.allclose(objective["elbo"], bound.mean())


def _one_position(model: VQVAE | VQVAE2) -> VQVAE | VQVAE2:
    if isinstance(model, VQVAE2):
        nets = ResidualEncoder(1, [4, 4], 4, 1), ResidualEncoder(4, [4], 4, 1), ResidualDecoder(4, [4], 4, 1)
        codebooks = VectorQuantiser(3, 4), VectorQuantiser(3, 4)
        model = VQVAE2(*nets, ResidualDecoder(8, [4, 4], 2, 1), *codebooks, 4, SHAPE, [1, 1])
    else:
        D = model.quantiser.dim
        model = VQVAE(MLP([64, 6, D]), MLP([D, 6, 128]), model.quantiser, SHAPE, [1, 1])
    return model.double().eval()


@pytest.mark.parametrize("reconstruction", ["mse", "l1"])
def test_errors_train_locations_and_the_likelihood_fits_the_scale(reconstruction: str):
    model = tiny("fsq", channels=1, scale="shared", reconstruction=reconstruction).double()
    x = images().double()
    terms = model.loss((x, None))
    location = model.observation(model.quantise(x)[0]).location
    error = (x - location).square() if reconstruction == "mse" else (x - location).abs()
    assert torch.allclose(terms["reconstruction"], error.sum() / len(x))
    decoder = list(model.decoder.parameters())
    expected = torch.autograd.grad(error.sum() / len(x), decoder)
    found = torch.autograd.grad(terms["loss"], [*decoder, model.raw_scale])
    assert all(torch.allclose(a, b) for a, b in zip(expected, found, strict=False))
    scale = torch.autograd.grad(-model.loss((x, None))["elbo"], model.raw_scale)[0]
    assert torch.allclose(found[-1], scale) and scale.abs() > 0
    with pytest.raises(ConfigError, match="needs a discretized_logistic"):
        tiny(reconstruction=reconstruction)


def test_options_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match="Did you mean 'bernoulli'"):
        tiny(likelihood="bernouli")
    with pytest.raises(ConfigError, match="two positive numbers"):
        VQVAE(nn.Identity(), nn.Identity(), FSQ([3]), SHAPE, [2])
    with pytest.raises(ConfigError, match="encoder gives 16 numbers"):
        VQVAE(ResidualEncoder(1, [4, 4], 4), nn.Identity(), FSQ([3, 3]), SHAPE, [2, 2]).codes(images())
    with pytest.raises(ConfigError, match=r"codebooks of one size, .* got 8 codes at the top and 7"):
        VQVAE2(*[nn.Identity()] * 4, VectorQuantiser(8, 4), VectorQuantiser(7, 4), 4, SHAPE, GRID)
    with pytest.raises(ConfigError, match="'l1' or 'mse'"):
        gan(reconstruction="likelihood")
    with pytest.raises(ConfigError, match="at least one"):
        ResidualDecoder(4, [], 1)
    with pytest.raises(ConfigError, match="at least one"):
        ResidualEncoder(4, [], 1)


# -- two levels --------------------------------------------------------------------------------------------------------


def test_bottom_codes_and_picture_are_conditioned_on_the_top_codes():
    model = two_levels().eval()
    x = images()
    codes = model.codes(x)
    assert codes.shape == (6, 5, 2, 2)
    z, made = model.quantise(x)
    assert torch.allclose(model.embed(codes), z, atol=1e-6)
    assert torch.equal(codes[:, :1], made["_top"].codes)
    assert torch.equal(codes[0, 1:, 0, 1], made["_bottom"].codes[0, 0, 0:2, 2:4].flatten())  # the square it covers
    other = codes.clone()
    other[:, 0] = (other[:, 0] + 1) % 8
    assert (model.decode(other) != model.decode(codes)).flatten(1).any(1).all()
    with torch.no_grad():
        model.quantiser_top.codebook.add_(torch.randn(1, 8, 4))
        moved = model.quantise(x)[1]["_bottom"]
    assert not torch.equal(moved.z, made["_bottom"].z)


def test_prior_over_two_levels_draws_top_before_bottom_in_each_cell():
    model = two_levels()
    prior = PixelCNN(model.grid, 8, width=80, depth=1, first_kernel=3).double()
    k = torch.randint(8, (1, *model.grid))

    def logits(colour: int, new: int) -> Tensor:
        changed = k.clone()
        changed[0, colour, 1, 0] = new
        with torch.no_grad():
            return prior(changed)[0, :, 1, 0]

    top = logits(0, 0) != logits(0, 7)
    assert not top[0].any() and top[1:].any(1).all()
    bottom = logits(2, 0) != logits(2, 7)
    assert not bottom[:3].any() and bottom[3:].any(1).all()


# -- the adversarial one -----------------------------------------------------------------------------------------------


def test_adversarial_weight_is_the_ratio_of_gradient_norms():
    w = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    a, b = 3 * w.square().sum(), w.sum()
    assert adaptive_weight(a, b, w).item() == pytest.approx(6 * w.detach().norm().item() / (math.sqrt(6) + 1e-6))
    assert adaptive_weight(a, 0 * b, w) == 1e4 and not adaptive_weight(a, b, w).requires_grad
    model = gan(adversarial_weight=0.8).double()
    x = images().double()
    terms, _, x_hat = model.autoencoder_loss(x)
    last = model.decoder.layers[-1].weight
    rec, adv = (torch.autograd.grad(terms[n], last, retain_graph=True)[0] for n in ("reconstruction", "adversarial"))
    assert model.last_layer() is last
    assert terms["adversarial_weight"].item() == pytest.approx(float(0.8 * rec.norm() / (adv.norm() + 1e-6)))
    (whole,) = torch.autograd.grad(terms["loss"], last)  # the other terms do not reach the last layer
    assert torch.allclose(whole, rec + terms["adversarial_weight"] * adv)
    assert torch.allclose(terms["adversarial"], -model.discriminator(x_hat).mean())
    with torch.no_grad():
        validated = model.eval().loss((x, None))
    assert torch.allclose(validated["adversarial_weight"], terms["adversarial_weight"])


def test_discriminator_is_a_hinge_and_teaches_the_autoencoder_nothing():
    model = gan().double()
    x = images().double()
    _, _, x_hat = model.autoencoder_loss(x)
    loss = model.discriminator_loss(x, x_hat)
    real, fake = model.discriminator(x), model.discriminator(x_hat)
    assert torch.allclose(loss, (1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean())
    loss.backward()
    own = {id(p) for p in model.discriminator.parameters()}
    assert all((p.grad is not None) == (id(p) in own) for p in model.parameters())


def test_adversarial_game_waits_for_its_start():
    model = gan(start=3).double()
    x = images().double()
    model.steps_done = 2
    terms, _, _ = model.autoencoder_loss(x)
    without = terms["loss"] - terms["reconstruction"] - 0.25 * terms["commitment"]
    model.steps_done = 3
    later, _, _ = model.autoencoder_loss(x)
    assert torch.allclose(later["loss"] - terms["loss"], later["adversarial_weight"] * later["adversarial"])
    assert without > 0 and model.steps_to_move == 5  # what is left fits the scale


def test_perceptual_term_takes_any_network_and_leaves_it_alone():
    phi = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU())
    model, plain = gan(perceptual=phi, perceptual_weight=0.3).double(), gan().double()
    assert plain.state_dict().keys() == model.state_dict().keys()  # no part of the weights
    x = images().double()
    terms, _, x_hat = model.autoencoder_loss(x)
    expected = (phi(x) - phi(x_hat)).square().sum() / len(x)
    assert torch.allclose(terms["perceptual"], expected) and "perceptual" not in plain.loss((x, None))
    terms["loss"].backward()
    assert all(p.grad is None for p in phi.parameters())

    class Both(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return phi(x), 2 * x

    both = gan(perceptual=Both()).double()
    assert torch.allclose(both.perceptual_distance(x, x_hat), expected + 4 * (x - x_hat).square().sum() / len(x))


def test_shipped_digit_classifier_serves_as_perceptual_network():
    from zoo.metrics.classifier import digit_classifier

    shape = [1, 28, 28]
    nets = ResidualEncoder(1, [4, 4], 4, 1), ResidualDecoder(4, [4, 4], 1, 1)
    judge = DownsamplingNet([4, 4], shape)
    model = VQGAN(*nets, quantiser("ema"), judge, shape, [7, 7], perceptual=digit_classifier().trunk)
    x = torch.rand(2, *shape)
    terms, _, _ = model.autoencoder_loss(x)
    assert terms["perceptual"] > 0 and model.perceptual_distance(x, x) == 0
    (gradient,) = torch.autograd.grad(terms["perceptual"], model.last_layer())
    assert gradient.abs().max() > 0


# -- priors over codes -------------------------------------------------------------------------------------------------


@each
def test_prior_is_fitted_to_frozen_codes(make: Any):
    model = CodePrior(make(), prior_over(make())).double()
    x = images().double().round()
    model.train()
    assert not model.autoencoder.training and model.prior.training
    before = {k: v.clone() for k, v in model.autoencoder.state_dict().items()}
    (optimizer,) = model.configure_optimizers()
    for _ in range(model.steps_to_move):
        _step(model, [optimizer], x)
    assert all(torch.equal(v, before[k]) for k, v in model.autoencoder.state_dict().items())
    assert not any(p.requires_grad for p in model.autoencoder.parameters())
    codes = model.codes(x)
    prior = model.prior.log_prob(model.image(codes))
    assert torch.allclose(model.loss((x, None))["loss"], -prior.mean())
    assert torch.allclose(model.log_prob(x), model.autoencoder.log_likelihood(x, codes) + prior)
    again = (model.image(codes) * (model.codebook_size - 1)).round().long()
    assert torch.equal(again, codes) and model.likelihood() == "elbo"
    drawn = model.draw_codes(5, torch.Generator().manual_seed(0))
    assert drawn.shape == (5, *model.grid) and drawn.min() >= 0 and drawn.max() < model.codebook_size
    assert torch.allclose(model.sample(5, seed=0), model.decode(drawn), atol=1e-12)
    uniform = model.sample(5, seed=3, codes="uniform")
    assert torch.equal(uniform, model.autoencoder.sample(5, seed=3))
    with pytest.raises(ConfigError, match="'prior' or 'uniform'"):
        model.sample(1, codes="normal")


def test_probabilities_of_all_codes_sum_to_one_and_the_bound_holds():
    autoencoder = VQVAE(MLP([64, 6, 4]), MLP([4, 6, 64]), VectorQuantiser(3, 2), SHAPE, [1, 2], "bernoulli")
    model = CodePrior(autoencoder, PixelCNN([1, 1, 2], 3, width=4, depth=1, first_kernel=3)).double().eval()
    codes = torch.cartesian_prod(torch.arange(3), torch.arange(3)).reshape(9, 1, 1, 2)
    with torch.no_grad():
        log_p = model.prior.log_prob(model.image(codes))
        assert log_p.exp().sum() == pytest.approx(1)
        for x in images(4).double().round().split(1):
            exact = (log_p + autoencoder.log_likelihood(x, codes)).logsumexp(0)
            assert model.log_prob(x) <= exact + 1e-9


def test_prior_learns_what_uniform_codes_do_not_know():
    torch.manual_seed(1)
    autoencoder = tiny()
    x = torch.cat([torch.zeros(8, *SHAPE), torch.ones(8, *SHAPE)])
    autoencoder.training_step((x, None), 0)  # draws the codes among the pictures' vectors
    model = CodePrior(autoencoder, PixelCNN(autoencoder.grid, 8, width=16, depth=1, first_kernel=3, lr=2e-2))
    assert len(model.codes(x).flatten(1).unique(dim=0)) == 2
    (optimizer,) = model.configure_optimizers()
    for _ in range(60):
        _step(model, [optimizer], x)
    assert model.loss((x, None))["loss"] < 1.2 * math.log(2)  # one bit, of which two pictures; uniform: 4 log 8
    seen = {tuple(c) for c in model.codes(x).flatten(1).tolist()}
    drawn = model.draw_codes(50, torch.Generator().manual_seed(0)).flatten(1).tolist()
    assert sum(tuple(c) in seen for c in drawn) > 35


def test_prior_that_does_not_fit_the_codes_is_refused():
    with pytest.raises(ConfigError, match=r"shape \(1, 2, 2\) and 8 values, .* \(1, 2, 2\) and 7 levels"):
        CodePrior(tiny(), PixelCNN([1, 2, 2], 7, width=4))
    with pytest.raises(ConfigError, match=r"shape \(1, 3, 2\)"):
        CodePrior(tiny(), PixelCNN([1, 3, 2], 8, width=4))


# -- from the command line ---------------------------------------------------------------------------------------------


def test_autoencoder_then_prior_saved_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    import json

    from zoo._cli.main import main
    from zoo.runs import load_run, run_metadata

    monkeypatch.chdir(tmp_path)
    few = [
        *("--data.batch_size", "4", "--data.limit", "16", "--trainer.enable_progress_bar", "false"),
        *("--training.sample_every", "0", "--trainer.limit_val_batches", "0", "--training.threads", "1"),
    ]
    assert main(["fit", "--model", "vq_vae_prior", "--run", "p", *few]) == 2
    assert "name it with --autoencoder" in capsys.readouterr().err
    assert main(["fit", "--model", "fsq", "--run", "a", "--trainer.max_steps", "3", *few]) == 0
    fit = ["fit", "--model", "vq_vae_prior", "--autoencoder", "./a", "--run", "p"]
    assert main([*fit, "--trainer.max_steps", "2", *few]) == 0
    autoencoder, pair = load_run("a"), load_run("p")
    state = pair.autoencoder.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in autoencoder.state_dict().items())
    assert pair.prior.levels == autoencoder.codebook_size and isinstance(pair.autoencoder.quantiser, FSQ)
    assert main(["fit", "--resume", "p", "--trainer.max_steps", "4"]) == 0
    first, second = run_metadata("a")["cost"], run_metadata("p")["cost"]
    assert run_metadata("p")["step"] == 4 and list(second["stages"]) == ["fsq-mnist", "vq_vae_prior-mnist"]
    assert second["stages"]["fsq-mnist"] == first["training_tflop"]
    assert second["training_tflop"] == pytest.approx(sum(second["stages"].values()))
    pair = load_run("p")
    save_pretrained(pair, "folder")
    again = load_pretrained("folder")
    assert torch.equal(again.sample(2, seed=0), pair.sample(2, seed=0))
    assert json.loads(Path("folder/config.json").read_text())["args"]["autoencoder"]["name"] == "VQVAE"
    capsys.readouterr()
    for arguments, said in (
        (["--model", "vae", "--autoencoder", "./a"], "vae-mnist takes no --autoencoder: it builds on no trained model"),
        (["--model", "vq_vae_prior", "--autoencoder", "vae-mnist"], "a VAE, which has no discrete codes"),
        (["--resume", "p", "--autoencoder", "./a"], "leave --autoencoder out"),
    ):
        assert main(["fit", *arguments]) == 2 and said in capsys.readouterr().err


def test_prior_is_made_to_fit_any_autoencoder():
    from zoo.api import second_stage
    from zoo.registry import load_registry

    entry = load_registry()["vq_vae_prior-mnist"]
    model = load_registry()["vq_vae2-mnist"].build_model()

    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, Path(folder) / "two")
        fitted, taken, earlier = second_stage(entry, Path(folder) / "two")
        pair = fitted.build_model()
        assert isinstance(taken, VQVAE2) and pair.prior.shape == (5, 7, 7) and list(earlier.values()) == [None]
        save_pretrained(pair, Path(folder) / "pair")
        again, inner, _ = second_stage(entry, Path(folder) / "pair")
    assert again.model == fitted.model and isinstance(inner, VQVAE2)
    assert fitted.model["init_args"]["prior"]["init_args"]["width"] == 65


# -- evaluation --------------------------------------------------------------------------------------------------------


def test_evaluation_reports_reconstructions_and_uniform_codes(monkeypatch: pytest.MonkeyPatch):
    from zoo.data.mnist import MNIST
    from zoo.evaluation import controls
    from zoo.evaluation.comparison import Reference

    data = MNIST()
    given: list[Tensor] = []
    monkeypatch.setattr(Reference, "distance", lambda self, x: ("fid", (float(given.append(x) or len(x)), None, None)))
    nets = ResidualEncoder(1, [4, 4], 4, 1), ResidualDecoder(4, [4, 4], 2, 1)
    autoencoder = VQVAE(*nets, VectorQuantiser(8, 4), [1, 28, 28], [7, 7]).eval()
    model = CodePrior(autoencoder, PixelCNN([1, 7, 7], 8, width=4, depth=1)).eval()
    assert isinstance(model, controls.HasControls) and isinstance(autoencoder, controls.HasControls)
    stored = data.to_float(data.split("test")[0])

    def examples(start: int, stop: int) -> tuple[Tensor, None]:
        return stored[start:stop], None

    found = controls.control_metrics(model, Reference(data, None), examples, 70, 3, 40)
    assert {k: m.value for k, m in found.items()} == {"fid_reconstructions": 70, "fid_uniform_codes": 70}
    with torch.no_grad():
        assert torch.allclose(given[0], model.reconstruct(stored[:70]), atol=0.5 / 255 + 1e-6)
    levels = torch.cat(given) * 255
    assert torch.allclose(levels, levels.round(), atol=1e-3)
    assert "fid_uniform_codes" not in controls.control_metrics(autoencoder, Reference(data, None), examples, 2, 3, 2)


@pytest.mark.parametrize("name", [n for n in ("vq_vae-mnist", "fsq-mnist") if n in zoo.list(pretrained=True)])
def test_shipped_pairs_are_worth_their_priors(name: str):
    from zoo import results
    from zoo.registry import pretrained_folder

    model, result = zoo.load(name), results.read(pretrained_folder(name))
    assert isinstance(model, CodePrior) and result.protocol.likelihood == "elbo"
    fid, uniform, own = (result.metrics[f"fid{x}"].value for x in ("", "_uniform_codes", "_reconstructions"))
    assert own < fid <= min(uniform / 2, 3 * own)
    stages = result.cost.training["stages"]
    assert len(stages) == 2 and result.cost.training_tflop == pytest.approx(sum(stages.values()))
    assert result.cost.training_tflop <= 50
    assert sum(p.stat().st_size for p in pretrained_folder(name).iterdir()) <= 4_000_000
    x = model.sample(8, seed=0)
    assert x.shape == (8, 1, 28, 28) and model.reconstruct(x).shape == x.shape and (model.log_prob(x) < 0).all()
