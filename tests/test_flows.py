"""Normalising flows: inverses, log-determinants, densities that integrate to one, and what starts from the data."""

from __future__ import annotations

import copy
import itertools
import math
import socket
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
from conftest import collect
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.glow import Glow
from zoo.families.nice import NICE
from zoo.families.normalising_flow import NormalisingFlow
from zoo.families.realnvp import RealNVP
from zoo.maths.dequantisation import dequantise, from_continuous, logit_normal
from zoo.maths.splines import rational_quadratic, rational_quadratic_inverse
from zoo.maths.transforms import checkerboard, from_logit, from_lu, squeeze, squeezed_checkerboard, to_logit, unsqueeze
from zoo.nets.bijections import ActNorm, Bijection, Chain, Flatten, InvertibleConv, Permutation, Scaling, Squeeze
from zoo.nets.coupling import KINDS, Coupling, CouplingNet, FactorOut

# -- compute -----------------------------------------------------------------------------------------------------------


def _coupling_net(n_in: int, n_out: int, size: tuple[int, int], args: Mapping[str, Any], fold: int = 1) -> list[float]:
    """Multiply-adds of the three convolutions."""
    pixels, w = math.prod(size) / fold**2, args["width"]
    k = args["kernel"] if pixels > 1 else 1
    assert not args["context"]
    return [fold**2 * n_in * w * k * k * pixels, w * w * pixels, fold**2 * n_out * w * k * k * pixels]


def _dequantiser(args: Mapping[str, Any]) -> float:
    """Its input is data, which needs no gradient."""
    if args["dequantisation"] == "uniform":
        return 0
    C, *size = args["shape"]
    layers = _coupling_net(C, 2 * C, size, {"width": args["width"], "kernel": 3, "context": 0}, fold=4)
    return 3 * sum(layers) - layers[0]


def _nice(args: Mapping[str, Any]) -> float:
    """Forward, backward to weights and inputs, of all layers but the first, whose input is data."""
    D = math.prod(args["shape"])
    layers = [a * b for a, b in itertools.pairwise([D // 2, *args["hidden"], D // 2])]
    return 2.0 * (3 * args["couplings"] * sum(layers) - layers[0])


def _realnvp(args: Mapping[str, Any]) -> float:
    C, H, W = args["shape"]
    total, folds = 0.0, args["folds"]
    for s, fold in enumerate(folds):
        C, H, W = 4 * C, H // 2, W // 2
        n = 2 * args["couplings"] if s < len(folds) - 1 else args["couplings"] + 1
        total += n * sum(_coupling_net(C // 2, C, (H, W), args, fold))
        C -= C // 2
    return 2.0 * (3 * total + _dequantiser(args))


def _glow(args: Mapping[str, Any]) -> float:
    """The product of the triangular matrices, once a batch, is left out."""
    C, H, W = args["shape"]
    total = 0.0
    for level, (K, factor) in enumerate(zip(args["steps"], args["squeezes"], strict=True)):
        C, H, W = C * factor**2, H // factor, W // factor
        each = {"additive": 1, "affine": 2, "spline": 23}[args["coupling"]] * (C // 2)
        net, prior = (sum(_coupling_net(C // 2, n, (H, W), args)) for n in (each, C))
        total += K * (net + C * C * H * W) + (prior if level < len(args["steps"]) - 1 else 0)
        C -= C // 2
    return 2.0 * (3 * total + _dequantiser(args))


STEP_FLOPS = {"NICE": _nice, "RealNVP": _realnvp, "Glow": _glow}


# -- helpers -----------------------------------------------------------------------------------------------------------


def shaken(module: nn.Module, scale: float = 0.2, seed: int = 0) -> nn.Module:
    """Move all parameters away from where they start, many of them at zero, in float64."""
    generator = torch.Generator().manual_seed(seed)
    for p in module.double().parameters():
        p.data += scale * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return module.eval()


def log_det_by_autograd(f: Any, x: Tensor) -> Tensor:
    """Return log |det| of the Jacobian of each example, (B,)."""
    rows = [torch.autograd.functional.jacobian(lambda v: f(v[None]).flatten(), one) for one in x]
    return torch.stack([torch.linalg.slogdet(J.reshape(x[0].numel(), -1))[1] for J in rows])


def randn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- transforms --------------------------------------------------------------------------------------------------------


def test_squeezing_permutes_and_comes_back() -> None:
    x = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    z = squeeze(x, 2)
    assert z.shape == (2, 12, 2, 3) and torch.equal(unsqueeze(z, 2), x)
    assert torch.equal(z[:, 1 * 4 + 1 * 2 + 0], x[:, 1, 1::2, 0::2])  # pixel (1, 0) of each square of channel 1
    assert torch.equal(z.flatten().sort().values, x.flatten().sort().values)
    with pytest.raises(ConfigError, match="cannot be squeezed by 4"):
        squeeze(x, 4)


def test_checkerboard_is_a_division_of_squeezed_channels() -> None:
    mask = checkerboard(6, 4)
    assert mask[0, 0] and not mask[0, 1] and not (mask[1:] & mask[:-1]).any() and not (mask[:, 1:] & mask[:, :-1]).any()
    squeezed = squeeze(mask.expand(1, 3, 6, 4).double(), 2)  # constant in each channel
    assert torch.equal(squeezed.amax((0, 2, 3)) > 0, squeezed_checkerboard(3))
    assert torch.equal(squeezed.amin((0, 2, 3)) > 0, squeezed_checkerboard(3))


@pytest.mark.parametrize("alpha", [1e-6, 0.05])
def test_logit_and_its_jacobian(alpha: float) -> None:
    y = torch.linspace(0, 1, 11, dtype=torch.float64, requires_grad=True)
    x, log_slope = to_logit(y, alpha)
    torch.testing.assert_close(from_logit(x, alpha), y, atol=1e-12, rtol=0)
    (slope,) = torch.autograd.grad(x.sum(), y)
    torch.testing.assert_close(slope.log(), log_slope, atol=1e-9, rtol=0)


def test_spline_is_smooth_monotone_and_invertible() -> None:
    raw = 0.5 * randn(1, 23).expand(4001, 23)
    x = torch.linspace(-5, 5, 4001, dtype=torch.float64, requires_grad=True)
    y, log_slope = rational_quadratic(x, raw, 4.0)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope.log(), log_slope, atol=1e-9, rtol=0)
    assert (y[1:] > y[:-1]).all() and (slope[1:] - slope[:-1]).abs().max() < 0.1  # no jump at knots or at the ends
    torch.testing.assert_close(rational_quadratic_inverse(y, raw, 4.0), x, atol=1e-9, rtol=0)
    outside = x.abs() >= 4
    assert torch.equal(y[outside], x[outside]) and torch.equal(
        rational_quadratic(x, 0 * raw, 4.0)[1].abs() < 1e-12, torch.ones_like(outside)
    )


def test_matrix_from_its_triangular_parts() -> None:
    n = 5
    W = from_lu(torch.eye(n).double()[[3, 1, 0, 4, 2]], randn(n, n), randn(n, n, seed=2), randn(n).sign(), randn(n))
    torch.testing.assert_close(torch.linalg.slogdet(W)[1], randn(n).sum())


# -- layers ------------------------------------------------------------------------------------------------------------

_net = partial(CouplingNet, size=(2, 2), width=6)
LAYERS = {
    "squeeze": lambda: Squeeze(2),
    "flatten": lambda: Flatten((4, 2, 2)),
    "permutation": lambda: Permutation(torch.tensor([2, 0, 3, 1])),
    "scaling": lambda: Scaling([4, 2, 2]),
    "actnorm": lambda: ActNorm(4),
    "convolution": lambda: InvertibleConv(4),
    **{f"{k}-{s}": partial(Coupling, 4, _net, k, s) for k in KINDS for s in (False, True)},
    "folded": lambda: Coupling(4, partial(_net, fold=2, context=3)),
    "factor_out": lambda: FactorOut((4, 2, 2), Chain([ActNorm(2), Flatten((2, 2, 2))])),
    "prior": lambda: FactorOut((4, 2, 2), Flatten((2, 2, 2)), _net),
    "chain": lambda: Chain([ActNorm(4), InvertibleConv(4), Coupling(4, _net), Squeeze(2)]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_comes_back_and_knows_its_log_determinant(name: str) -> None:
    torch.manual_seed(0)
    layer, x = shaken(LAYERS[name]()), randn(3, 4, 2, 2)
    assert isinstance(layer, Bijection)
    z, log_det = layer(x)
    torch.testing.assert_close(layer.inverse(z), x, atol=1e-9, rtol=0)
    truth = log_det_by_autograd(lambda v: layer(v)[0], x)
    torch.testing.assert_close(log_det.expand(3), truth, atol=1e-9, rtol=0)
    assert name in ("squeeze", "flatten", "permutation", "additive-False", "additive-True") or truth.abs().min() > 1e-3
    single = layer.float()
    torch.testing.assert_close(single.inverse(single(x.float())[0]), x.float(), atol=1e-4, rtol=0)


def test_coupling_leaves_one_part_alone() -> None:
    for swap in (False, True):
        layer, x = shaken(Coupling(4, _net, swap=swap)), randn(2, 4, 2, 2)
        same = layer(x)[0] == x
        assert same[:, 2:].all() == swap and same[:, :2].all() != swap


# -- models ------------------------------------------------------------------------------------------------------------

POINTS = {
    "nice": lambda: NICE([2], hidden=[8], levels=None),
    "nice_normal": lambda: NICE([2], hidden=[8], levels=None, prior="normal"),
    "realnvp": lambda: RealNVP([2], couplings=4, width=8, levels=None, alpha=None),
    "realnvp_spline": lambda: RealNVP([2], couplings=2, width=8, levels=None, alpha=None, coupling="spline"),
    "glow": lambda: Glow([2], steps=[3], squeezes=[1], width=8, levels=None, alpha=None),
}
IMAGES = {
    "nice": lambda: NICE([1, 4, 4], hidden=[8]),
    "realnvp": lambda: RealNVP([1, 4, 4], couplings=2, folds=[1, 1], width=6),
    "realnvp_colour": lambda: RealNVP([3, 4, 4], couplings=1, folds=[2], width=6, context=3),
    "realnvp_small_alpha": lambda: RealNVP([1, 4, 4], couplings=2, width=6, alpha=1e-5, dequantisation="variational"),
    "glow": lambda: Glow([1, 4, 4], steps=[2, 2], squeezes=[2, 1], width=6, dequantisation="variational"),
    "glow_spline": lambda: Glow([1, 4, 4], steps=[1, 1], squeezes=[2, 2], width=6, coupling="spline"),
}
MODELS = {**{f"points-{k}": v for k, v in POINTS.items()}, **{f"images-{k}": v for k, v in IMAGES.items()}}


def model(name: str) -> NormalisingFlow:
    torch.manual_seed(0)
    return shaken(MODELS[name]())


@pytest.mark.parametrize("name", MODELS)
def test_model_comes_back_and_knows_its_log_determinant(name: str) -> None:
    flow = model(name)
    x = randn(3, *flow.shape)
    z, log_det = flow.flow(x)
    assert z.shape == (3, math.prod(flow.shape))
    torch.testing.assert_close(flow.flow_inverse(z), x, atol=1e-9, rtol=0)
    torch.testing.assert_close(log_det.expand(3), log_det_by_autograd(lambda v: flow.flow(v)[0], x), atol=1e-9, rtol=0)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        data = (x if flow.levels is None else (torch.sigmoid(x) * 255).round() / 255).to(dtype)
        torch.testing.assert_close(flow.to(dtype).decode(flow.encode(data)), data, atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", POINTS)
def test_density_in_the_plane_integrates_to_one(name: str) -> None:
    flow = model(f"points-{name}")
    reach = 24.0 if flow.prior == "logistic" else 12.0
    line = torch.linspace(-reach, reach, 321, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    mass = flow.log_prob(grid).exp().sum() * (line[1] - line[0]) ** 2
    assert abs(mass.item() - 1) < 1e-2


@pytest.mark.parametrize("name", ["points-nice", "points-glow"])
def test_density_is_that_of_the_samples(name: str) -> None:
    """Probabilities of the four quadrants, by the density and by counting."""
    flow = model(name)
    x, n = flow.sample(20_000, seed=0), 20_000
    reach = 24.0 if flow.prior == "logistic" else 8.0
    line = torch.linspace(-reach, reach, 481, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    p = flow.log_prob(grid).exp() * (line[1] - line[0]) ** 2
    centre = x.median(0).values
    for signs in itertools.product((1, -1), repeat=2):
        here = ((grid - centre) * torch.tensor(signs) > 0).all(1)
        counted = ((x - centre) * torch.tensor(signs) > 0).all(1).double().mean().item()
        assert abs(p[here].sum().item() - counted) < 4 * math.sqrt(0.25 / n) + 5e-3


# -- grey levels -------------------------------------------------------------------------------------------------------


def test_levels_and_intervals() -> None:
    x = torch.arange(256, dtype=torch.float64) / 255
    u = torch.rand(256, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = dequantise(x, u, 256)
    assert y.min() >= 0 and y.max() <= 1
    torch.testing.assert_close(from_continuous(y, 256, whole=True), x, atol=1e-12, rtol=0)
    torch.testing.assert_close(from_continuous(dequantise(x, 0.5, 256), 256), x, atol=1e-12, rtol=0)
    assert from_continuous(torch.tensor([-1.0, 2.0]), 256, whole=True).tolist() == [0, 1]


def test_logit_normal_density() -> None:
    eps = torch.linspace(-3, 3, 7, dtype=torch.float64, requires_grad=True)
    u, log_q = logit_normal(eps, torch.full_like(eps, 0.3), torch.full_like(eps, -0.5))
    (slope,) = torch.autograd.grad(u.sum(), eps)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(eps)
    torch.testing.assert_close(log_q, normal - slope.log(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("dequantisation", ["uniform", "variational"])
@pytest.mark.parametrize("alpha", [None, 1e-5])
def test_probabilities_of_all_images_sum_to_one(dequantisation: str, alpha: float | None) -> None:
    """The mean of p / q over draws is the probability of an image; without a logit some mass lies outside of [0, 1]."""
    torch.manual_seed(0)
    flow = shaken(RealNVP([1, 2, 2], 1, width=4, levels=2, alpha=alpha, dequantisation=dequantisation), 0.05)
    images = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64).view(16, 1, 2, 2)
    n = 6_000
    ratio = flow.log_prob(images.repeat(n, 1, 1, 1), seed=0).exp().view(20, n // 20, 16).mean(1)
    total, error = ratio.sum(1).mean().item(), ratio.sum(1).std().item() / math.sqrt(20)
    truth = 1.0
    if alpha is None:
        y = flow.flow_inverse(randn(50_000, 4))
        truth = ((y > 0) & (y < 1)).flatten(1).all(1).double().mean().item()
        error = math.hypot(error, math.sqrt(truth / 50_000))
    assert error < (0.04 if alpha else 0.08) * truth and total == pytest.approx(truth, abs=4 * error)
    bound = flow.log_prob(images.repeat(200, 1, 1, 1), seed=1).view(200, 16)
    assert (bound.mean(0) < ratio.mean(0).log() + 4 * bound.std(0) / math.sqrt(200)).all()


def test_several_draws_are_averaged_before_the_logarithm() -> None:
    flow, x = model("images-glow"), torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([flow.log_prob(x, seed=generator) for _ in range(3)])
    torch.testing.assert_close(flow.log_prob(x, seed=0, k=3), draws.logsumexp(0) - math.log(3))
    with pytest.raises(ConfigError, match="k must be"):
        flow.log_prob(x, k=0)


def test_loss_is_the_mean_bound_and_the_protocol_names_it() -> None:
    flow = model("images-glow")
    x = (torch.rand(3000, 1, 4, 4, generator=torch.Generator().manual_seed(0)) > 0.5).double()
    loss, bound = flow.loss((x, torch.zeros(3000)))["loss"], flow.log_prob(x, seed=0)
    assert loss.item() == pytest.approx(-bound.mean().item(), abs=6 * bound.std().item() / math.sqrt(3000))
    assert flow.likelihood() == "exact+variational_dequant" and flow.likelihood(5) == "iwae-5+variational_dequant"
    assert model("images-nice").likelihood() == "exact+dequant" and model("points-glow").likelihood() == "exact"


# -- sampling ----------------------------------------------------------------------------------------------------------


def test_temperature_scales_the_noise() -> None:
    for name in ("points-nice", "points-realnvp", "points-glow"):
        flow = model(name)
        cold, warm = flow.sample(4, seed=0, temperature=0.0), flow.sample(4, seed=0)
        assert torch.equal(cold, cold[:1].expand(4, 2)) and not torch.equal(cold, warm)
        torch.testing.assert_close(flow.encode(flow.sample(4, seed=0, temperature=0.5)), 0.5 * flow.encode(warm))
    with pytest.raises(ConfigError, match="temperature"):
        flow.sample(1, temperature=-1.0)


def test_samples_of_images_are_whole_levels() -> None:
    k = model("images-realnvp").sample(50, seed=0) * 255
    assert (k - k.round()).abs().max() < 1e-9 and len(k.round().unique()) > 10


@pytest.mark.slow  # test_matching has the one small model of the default suite
def test_two_dimensional_flow_learns_a_ring_of_gaussians() -> None:
    """Squared sliced 2-Wasserstein distance of 10,000 samples, 200 fixed projections: below a tenth of the start."""
    from zoo.data.toys import EightGaussians
    from zoo.metrics.sliced import sliced_wasserstein

    torch.manual_seed(0)
    flow = Glow([2], steps=[4], squeezes=[1], width=32, levels=None, alpha=None, coupling="spline", lr=1e-2)
    data = EightGaussians().split("train")[0]
    before = sliced_wasserstein(flow.sample(10_000, seed=0), data[:10_000])
    optimiser = torch.optim.Adam(flow.parameters(), lr=flow.lr)
    for i in range(150):
        optimiser.param_groups[0]["lr"] = flow.lr * (1 - i / 150)
        flow.loss((data[torch.randint(len(data), (128,))], None))["loss"].backward()
        nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    after = sliced_wasserstein(flow.sample(10_000, seed=0), data[:10_000])
    print(f"\nsliced W2^2: {before:.4f} -> {after:.4f}, floor {sliced_wasserstein(data[:10_000], data[10_000:]):.4f}")
    assert after < before / 10


# -- actnorm -----------------------------------------------------------------------------------------------------------


def test_actnorm_starts_from_the_first_training_batch_once() -> None:
    layer, x = ActNorm(3).double(), 5 + 2 * randn(6, 3, 4, 4)
    assert torch.equal(layer.eval()(x)[0], x) and not layer.ready  # evaluation starts nothing
    z, _ = layer.train()(x)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(z.var((0, 2, 3), unbiased=False), torch.ones(3).double(), atol=1e-5, rtol=0)
    state = copy.deepcopy(layer.state_dict())
    layer(100 * x)
    assert all(torch.equal(v, state[k]) for k, v in layer.state_dict().items())
    loaded = ActNorm(3).double().train()
    loaded.load_state_dict(state)
    loaded(100 * x)
    assert loaded.ready and all(torch.equal(v, state[k]) for k, v in loaded.state_dict().items())
    loaded.load_state_dict(ActNorm(3).double().state_dict())  # back to a layer that has seen nothing
    loaded(x)
    assert torch.equal(loaded.bias, layer.bias)


def _glow_for_ranks() -> Glow:
    torch.manual_seed(0)
    return Glow([1, 4, 4], steps=[2, 1], squeezes=[2, 1], width=6).double().train()


def moments_of_a_rank(rank: int, port: int) -> dict[str, Tensor]:
    """Return the weights after the first forward pass on this rank's share, of another size on each, of one batch."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    where = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=2)
    flow = _glow_for_ranks()
    x = 3 + randn(10, 1, 4, 4)
    flow.flow(x[:4] if rank == 0 else x[4:])
    dist.barrier()
    dist.destroy_process_group()
    return {k: v.detach().numpy() for k, v in flow.state_dict().items()}


def test_actnorm_starts_from_the_moments_of_all_processes(run_forked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = [run_forked(moments_of_a_rank, rank, port, start=True) for rank in (0, 1)]
    ranks = [{k: torch.from_numpy(v) for k, v in collect(*pair).items()} for pair in started]
    assert all(torch.equal(v, ranks[1][k]) for k, v in ranks[0].items())
    alone = _glow_for_ranks()
    alone.flow(3 + randn(10, 1, 4, 4))
    for k, v in alone.state_dict().items():
        torch.testing.assert_close(ranks[0][k], v, atol=1e-12, rtol=0)
    part = _glow_for_ranks()
    part.flow((3 + randn(10, 1, 4, 4))[:4])
    assert (part.map.parts[1].bias - ranks[0]["map.parts.1.bias"]).abs().max() > 1e-3  # a rank's own would differ


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: NICE([2], prior="cauchy"), "unknown prior"),
        (lambda: NICE([2], couplings=1), "at least 2 couplings"),
        (lambda: RealNVP([1, 28, 28], folds=[1, 1, 1]), "give fewer folds"),
        (lambda: RealNVP([1, 4, 4], couplings=0), "needs couplings"),
        (lambda: RealNVP([1, 4, 4], coupling="afine"), "Did you mean 'affine'"),
        (lambda: RealNVP([1, 4, 4], alpha=0.5), "alpha of the logit"),
        (lambda: RealNVP([2], levels=None), "neither dequantised nor"),
        (lambda: RealNVP([2], dequantisation="variational"), "one of images"),
        (lambda: RealNVP([2], dequantisation="normal"), "unknown dequantisation"),
        (lambda: Glow([1, 4, 4], steps=[1], squeezes=[]), "its steps and its squeeze"),
        (lambda: Glow([1, 4, 4], steps=[1], squeezes=[3]), "cannot be squeezed by 3"),
        (lambda: Glow([1, 4, 4], steps=[1], squeezes=[1]), "squeeze it first"),
    ],
)
def test_wrong_options_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()
    with pytest.raises(ConfigError, match="takes no labels"):
        model("points-glow").log_prob(torch.zeros(1, 2), labels=[0])
