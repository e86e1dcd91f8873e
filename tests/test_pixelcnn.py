"""Laws of the masked convolutions, of decoding and of PixelCNN."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import zoo
from zoo.errors import ConfigError, DataError
from zoo.families.pixelcnn import PixelCNN
from zoo.maths.decoding import Decoding, inverse_cdf
from zoo.nets.masked import MaskedConv2d, MaskedResidual, colour_mask
from zoo.registry import load_registry

VARIANTS = {
    "plain": {"shape": (1, 5, 6), "levels": 4, "width": 6, "depth": 2},
    "bottleneck": {"shape": (1, 5, 6), "levels": 3, "width": 8, "depth": 2, "kernel": 5, "hidden": 4, "embedding": 3},
    "position": {"shape": (1, 6, 5), "levels": 2, "width": 6, "depth": 1, "first_kernel": 3, "position": True},
    "no blocks": {"shape": (1, 4, 4), "levels": 5, "width": 4, "depth": 0, "embedding": 2},
    "two colours": {"shape": (2, 4, 5), "levels": 3, "width": 8, "depth": 2, "first_kernel": 3},
    "three colours": {
        "shape": (3, 4, 4), "levels": 4, "width": 12, "depth": 2, "hidden": 12, "embedding": 2, "position": True,
    },
}  # fmt: skip
each_variant = pytest.mark.parametrize("arguments", VARIANTS.values(), ids=VARIANTS)


def lively(arguments: dict, seed: int = 0) -> PixelCNN:
    """A float64 model whose weights are large enough for every law to bite."""
    torch.manual_seed(seed)
    model = PixelCNN(**arguments).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
        if model.position is not None:
            model.position.normal_()
    return model


def dense(layer: MaskedConv2d) -> Tensor:
    """The k x k kernel (out, in, k, k) that a masked convolution stands for, zeros included."""
    out, features_in, _, taps = layer.left.shape
    p = layer.kernel // 2
    weight = layer.left.new_zeros(out, features_in, layer.kernel, layer.kernel)
    if layer.above is not None:
        weight[:, :, :p] = layer.above
    weight[:, :, p, :taps] = layer.left_weight()[:, :, 0]
    return weight


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("mask", ["A", "B"])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@torch.no_grad()
def test_live_taps_equal_the_masked_dense_convolution(kernel: int, mask: str, colours: int) -> None:
    if kernel == 1 and mask == "A" and colours == 1:
        with pytest.raises(ConfigError, match="sees nothing"):
            MaskedConv2d(3, 6, kernel, mask=mask, colours=colours)
        return
    torch.manual_seed(0)
    layer = MaskedConv2d(3, 6, kernel, mask=mask, colours=colours).double()
    x = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    expected = F.conv2d(x, dense(layer), layer.bias, padding=kernel // 2)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    own = dense(layer)[:, :, kernel // 2, kernel // 2] != 0
    assert torch.equal(own, colour_mask(6, 3, colours, own=mask == "B"))


def test_colours_see_earlier_ones_only() -> None:
    a, b = colour_mask(6, 3, 3, own=False), colour_mask(6, 3, 3, own=True)
    assert a.long().tolist() == [[0, 0, 0]] * 2 + [[1, 0, 0]] * 2 + [[1, 1, 0]] * 2
    assert b.long().tolist() == [[1, 0, 0]] * 2 + [[1, 1, 0]] * 2 + [[1, 1, 1]] * 2


@each_variant
def test_logits_depend_on_earlier_values_only(arguments: dict) -> None:
    model = lively(arguments)
    C, H, W = model.shape
    D = C * H * W
    e = arguments.get("embedding", 1)
    levels = torch.randn(model.levels, dtype=torch.float64)  # a mixture of levels is 0 only where all of them are
    reach = torch.zeros(D, D, dtype=torch.float64)
    for _ in range(8):  # several inputs, since a ReLU hides what it cuts off
        jacobian = torch.autograd.functional.jacobian(
            lambda f: (model.logits(f) @ levels).permute(0, 2, 3, 1).flatten(), torch.randn(1, H, W, C * e).double()
        )  # (D, 1, H, W, C * e): values in the order in which they are drawn
        reach = torch.maximum(reach, jacobian.reshape(D, D, e).abs().amax(2))
    assert reach.triu().max() == 0
    for i in range(1, D):
        c = i // C % W
        if i % C or c:  # an earlier colour of the pixel, or its left neighbour's last
            assert reach[i, i - 1] > 0
        if i >= C * W:
            assert reach[i, i - C * W] > 0  # the pixel above


@pytest.mark.parametrize(("shape", "levels"), [((1, 2, 3), 2), ((1, 3, 3), 2), ((1, 2, 2), 3), ((2, 2, 2), 2)])
@pytest.mark.parametrize("options", [{}, {"hidden": 4, "embedding": 2, "kernel": 5, "position": True}])
@torch.no_grad()
def test_probabilities_of_all_images_sum_to_one(shape: tuple, levels: int, options: dict) -> None:
    model = lively({"shape": shape, "levels": levels, "width": 8, "depth": 2, **options})
    k = torch.tensor(list(itertools.product(range(levels), repeat=math.prod(shape)))).view(-1, *shape)
    p = model.log_prob(k.double() / (levels - 1)).exp()
    assert p.std() > 0
    assert abs(p.sum().item() - 1) < 1e-5


@each_variant
def test_cached_sampler_equals_the_naive_one(arguments: dict) -> None:
    model = lively(arguments)
    x = model.sample(5, seed=3)
    assert torch.equal(x, model.sample(5, seed=3, cached=False))
    assert torch.equal(model.quantize(x).double() / (model.levels - 1), x)
    assert x.std() > 0
    assert torch.equal(model.sample(1, seed=4, temperature=0.7), model.sample(1, seed=4, temperature=0.7, cached=False))


@each_variant
@torch.no_grad()
def test_cached_logits_equal_the_full_pass(arguments: dict) -> None:
    model = lively(arguments)
    C, H, W = model.shape
    k = torch.randint(model.levels, (3, C, H, W), generator=torch.Generator().manual_seed(1))
    state, full = model.start(3), model(k)
    for r, c, colour in itertools.product(range(H), range(W), range(C)):
        torch.testing.assert_close(state.logits(), full[:, colour, r, c], rtol=1e-11, atol=1e-11)
        state.put(k[:, colour, r, c])


def shipped() -> PixelCNN:
    """The registered model of the digits, with its weights where they are bundled."""
    entry = load_registry().resolve("pixelcnn-mnist")
    if entry.pretrained:
        return zoo.load(entry.name)
    torch.manual_seed(0)
    return entry.build_model().eval()


@pytest.mark.parametrize("n", [2, pytest.param(16, marks=pytest.mark.slow)])
def test_cached_digits_equal_naive_ones(n: int) -> None:
    model = shipped()
    cached, naive = model.sample(n, seed=0), model.sample(n, seed=0, cached=False)
    assert torch.equal(model.quantize(cached), model.quantize(naive))
    assert cached.unique().numel() > 20


def test_seeds_reproduce_and_differ() -> None:
    model = lively(VARIANTS["plain"])
    state = torch.random.get_rng_state()
    assert torch.equal(model.sample(4, seed=5), model.sample(4, seed=5))
    assert torch.equal(model.sample(4, seed=5), model.sample(4, seed=torch.Generator().manual_seed(5)))
    assert not torch.equal(model.sample(4, seed=5), model.sample(4, seed=6))
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("name", ["plain", "three colours"])
def test_temperature_tends_to_greedy(name: str) -> None:
    model = lively(VARIANTS[name])
    greedy = model.sample(3, seed=0, greedy=True)
    assert torch.equal(greedy, model.sample(3, seed=1, temperature=1e-9))
    assert torch.equal(greedy, model.sample(3, seed=1, greedy=True, cached=False))
    k = model.quantize(greedy)
    assert torch.equal(model(k).argmax(-1), k)


@each_variant
@torch.no_grad()
def test_log_prob_sums_the_log_softmax(arguments: dict) -> None:
    model = lively(arguments)
    k = torch.randint(model.levels, (4, *model.shape), generator=torch.Generator().manual_seed(2))
    x = k.double() / (model.levels - 1)
    log_p = model(k).log_softmax(-1).gather(-1, k[..., None]).sum((1, 2, 3, 4))
    torch.testing.assert_close(model.log_prob(x), log_p, rtol=1e-12, atol=1e-12)
    terms = model.loss((x, torch.zeros(4, dtype=torch.int64)))
    torch.testing.assert_close(terms["loss"], -log_p.mean(), rtol=1e-12, atol=1e-12)
    bits = -log_p.mean() / math.prod(model.shape) / math.log(2)
    torch.testing.assert_close(terms["bits_per_dim"], bits, rtol=1e-12, atol=1e-12)
    assert model.likelihood() == "exact"


def test_sampler_draws_from_the_likelihood() -> None:
    model = lively({"shape": (1, 1, 3), "levels": 2, "width": 4, "depth": 1, "first_kernel": 3})
    n = 20_000
    k = model.quantize(model.sample(n, seed=0)).flatten(1) @ torch.tensor([4, 2, 1])
    all_k = torch.tensor(list(itertools.product(range(2), repeat=3))).view(8, 1, 1, 3)
    with torch.no_grad():
        p = model.log_prob(all_k.double()).exp()
    share = torch.bincount(k, minlength=8) / n
    assert ((share - p).abs() <= 5 * (p * (1 - p) / n).sqrt()).all()


@pytest.mark.parametrize("cached", [True, False])
def test_completion_keeps_what_is_known_and_its_noise(cached: bool) -> None:
    model = lively(VARIANTS["three colours"])
    free = model.sample(2, seed=7, cached=cached)
    given = model.sample(2, seed=8)
    half = model.sample(2, seed=7, given=given, known=2, cached=cached)
    assert torch.equal(half[:, :, :2], given[:, :, :2])
    assert not torch.equal(half[:, :, 2:], given[:, :, 2:])
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[1, 2] = True
    assert torch.equal(model.sample(2, seed=7, given=free, known=mask, cached=cached), free)
    one = model.sample(2, seed=7, given=given[0], known=mask, cached=cached)
    assert torch.equal(one[:, :, 1, 2], given[:1, :, 1, 2].expand(2, 3))
    assert torch.equal(one[:, :, 0], free[:, :, 0])


def test_every_level_survives_the_data_range() -> None:
    model = PixelCNN(shape=(1, 16, 16), width=4, depth=0)
    k = torch.arange(256).view(1, 1, 16, 16)
    for x in (k / 255, k * (1 / 255), k.float().div(255), k.double() / 255):
        assert torch.equal(model.quantize(x), k)
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        model.quantize(k.float())


@torch.no_grad()
def test_inverse_cdf_hits_each_value_by_its_probability() -> None:
    logits = torch.tensor([0.3, -float("inf"), 1.2, -2.0, -float("inf")], dtype=torch.float64)
    N = 10_000
    u = (torch.arange(N, dtype=torch.float64) + 0.5) / N
    k = inverse_cdf(logits.expand(N, -1), u)
    share = torch.bincount(k, minlength=5) / N
    torch.testing.assert_close(share.double(), logits.softmax(0), rtol=0, atol=1.01 / N)
    assert (k.diff() >= 0).all()
    edges = torch.tensor([0.0, 1 - 2**-24], dtype=torch.float32)
    for seed in range(20):
        z = torch.randn(64, generator=torch.Generator().manual_seed(seed))
        z[0] = z[-1] = -float("inf")  # neither end can be drawn
        low, high = inverse_cdf(z.expand(2, -1), edges).tolist()
        assert low == 1 and high == 62


def test_temperature_raises_probabilities_to_a_power() -> None:
    logits = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    N, T = 5_000, 0.5
    u = (torch.arange(N, dtype=torch.float64) + 0.5) / N
    share = torch.bincount(Decoding(temperature=T)(logits.expand(N, -1), u)) / N
    p = logits.softmax(0) ** (1 / T)
    torch.testing.assert_close(share.double(), p / p.sum(), rtol=0, atol=1.01 / N)
    assert Decoding(temperature=1e-30)(logits.expand(N, -1), u).eq(2).all()
    assert Decoding(greedy=True)(logits.expand(N, -1), u).eq(2).all()


def test_parameters_are_live_taps_only() -> None:
    """7x7 A, seven 3x3 B of 64 channels, head 64 -> 64 -> 256: 282,496 weights when the masked ones are counted."""
    model = PixelCNN(width=64, depth=7, first_kernel=7, kernel=3, head=64)
    convolutions = [m for m in model.modules() if isinstance(m, MaskedConv2d)]
    assert sum(dense(m).numel() + m.bias.numel() for m in convolutions) == 282_496
    live = 24 * 64 + 7 * 5 * 64**2 + 64 * 64 + 64 * 256 + 9 * 64 + 256
    assert sum(p.numel() for p in model.parameters()) == live


@pytest.mark.parametrize("embedding", [None, 4])
def test_counted_compute_equals_the_closed_form(embedding: int | None) -> None:
    w, h, depth, L, e, B = 8, 4, 3, 16, embedding or 1, 2
    model = PixelCNN((1, 12, 10), L, width=w, depth=depth, kernel=3, hidden=h, head=10, embedding=embedding)
    with FlopCounterMode(display=False) as counter:
        model.loss((torch.rand(B, 1, 12, 10), torch.zeros(B)))["loss"].backward()
    first = 24 * e * w
    rest = depth * (2 * w * h + 5 * h * h) + w * 10 + 10 * L
    passes = first * (3 if embedding else 2) + rest * 3  # levels themselves take no gradient
    assert counter.get_total_flops() == 2 * passes * 120 * B


def test_every_tensor_moves_within_the_declared_steps() -> None:
    model = lively(VARIANTS["three colours"])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    (optimizer,) = model.configure_optimizers()
    x = model.sample(8, seed=0)
    losses = []
    for _ in range(model.steps_to_move):
        loss = model.loss((x, torch.zeros(8)))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (28, 28)}, r"shape must be \(C, H, W\), all positive"),
        ({"levels": 1}, "levels must be at least 2"),
        ({"kernel": 4}, "odd"),
        ({"shape": (3, 8, 8), "width": 16}, "multiples of 3"),
        ({"first_kernel": 1}, "sees nothing"),
    ],
)
def test_wrong_arguments_end_in_one_sentence(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PixelCNN(**arguments)
    with pytest.raises(ConfigError, match="mask must be"):
        MaskedConv2d(1, 1, 3, mask="C")


def test_wrong_sampling_options_end_in_one_sentence() -> None:
    model = lively(VARIANTS["position"])
    x = model.sample(2, seed=0)
    for options, message in (
        ({"temperature": 0.0}, "temperature must be a positive number"),
        ({"temprature": 1.0}, "Did you mean 'temperature'"),
        ({"given": x}, "takes both"),
        ({"given": x[:, :, :3], "known": 1}, "given must have shape"),
        ({"given": x, "known": 7}, "between 0 and 6 rows"),
        ({"given": x, "known": torch.ones(4, 4)}, "does not broadcast"),
    ):
        with pytest.raises(ConfigError, match=message):
            model.sample(2, **options)


def test_block_without_bottleneck_keeps_the_stream() -> None:
    block = MaskedResidual(4, 3).double()
    x = torch.randn(1, 4, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(block(x) - x, block.conv(x.relu()))
