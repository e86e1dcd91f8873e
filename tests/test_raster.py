"""Laws of every model of images pixel by pixel, and of what is particular to the gated ones and to PixelCNN++."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import warm
from torch import Tensor

import zoo
from zoo.data.mnist import read_mnist
from zoo.errors import ConfigError, DataError
from zoo.families.gated_pixelcnn import GatedPixelCNN
from zoo.families.pixelcnn import PixelCNN
from zoo.families.pixelcnn_pp import PixelCNNpp
from zoo.families.pixelsnail import PixelSNAIL
from zoo.families.raster import RasterModel
from zoo.families.row_lstm import RowLSTM
from zoo.images import read_png, save_png
from zoo.maths.distributions import DiscretizedLogistic
from zoo.maths.mixture import LogisticMixture, level_logits
from zoo.nets.gated import gate
from zoo.nets.streams import Streams
from zoo.registry import load_registry

MEMBERS: dict[str, tuple[type[RasterModel], dict[str, Any]]] = {
    "plain": (PixelCNN, {"shape": (1, 5, 6), "levels": 4, "width": 6, "depth": 1}),
    "gated": (GatedPixelCNN, {"shape": (1, 5, 6), "levels": 4, "width": 6, "depth": 2}),
    "gated square skip": (
        GatedPixelCNN,
        {"shape": (1, 6, 7), "levels": 3, "width": 4, "depth": 2, "kernel": 5, "square": True, "skip": 6, "head": 5},
    ),
    "gated conditional": (
        GatedPixelCNN,
        {
            "shape": (1, 5, 5), "levels": 3, "width": 4, "depth": 1, "first_kernel": 3, "num_classes": 3,
            "embedding": 2, "position": True, "skip": 4,
        },
    ),
    "gated colours": (
        GatedPixelCNN,
        {"shape": (3, 4, 4), "levels": 3, "width": 12, "depth": 1, "num_classes": 2, "position": True},
    ),
    "gated first layer only": (GatedPixelCNN, {"shape": (1, 4, 4), "levels": 2, "width": 4, "depth": 0, "skip": 3}),
    "pp": (PixelCNNpp, {"shape": (1, 8, 4), "levels": 4, "width": 4, "mixtures": 2}),
    "pp one scale": (
        PixelCNNpp,
        {"shape": (1, 5, 3), "levels": 3, "width": 4, "scales": 1, "depth": 2, "mixtures": 3, "position": True},
    ),
    "pp colours": (
        PixelCNNpp,
        {
            "shape": (3, 4, 6), "levels": 5, "width": 4, "scales": 2, "depth": 2, "mixtures": 3, "embedding": 2,
            "position": True, "dropout": 0.3,
        },
    ),
    "attention": (
        PixelSNAIL, {"shape": (1, 5, 6), "levels": 4, "width": 6, "depth": 2, "residuals": 1, "heads": 2, "key": 3},
    ),
    "attention colours": (PixelSNAIL, {"shape": (3, 4, 4), "levels": 3, "width": 6, "depth": 1, "embedding": 2}),
    "rows": (RowLSTM, {"shape": (1, 5, 6), "levels": 4, "width": 4, "depth": 2}),
    "rows colours": (RowLSTM, {"shape": (3, 4, 4), "levels": 3, "width": 6, "depth": 1, "kernel": 5, "embedding": 2}),
}  # fmt: skip
each_member = pytest.mark.parametrize("name", MEMBERS)


def lively(cls: type[RasterModel], arguments: Mapping[str, Any], seed: int = 0) -> RasterModel:
    """A float64 model whose weights are large enough for every law to bite."""
    torch.manual_seed(seed)
    model = cls(**arguments).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_() if "position" in name or "condition" in name else parameter.mul_(2)
    return model


def member(name: str) -> RasterModel:
    return lively(*MEMBERS[name])


def labels_of(model: RasterModel, n: int) -> Tensor | None:
    return torch.arange(n) % model.num_classes if model.num_classes else None


def reach(model: RasterModel, inputs: int = 6) -> Tensor:
    """Largest |d output i / d input j| over several inputs, pixels (or values, where the network tells them apart)."""
    C, H, W = model.shape
    e = 1 if model.embedding is None else model.embedding.shape[1]
    if isinstance(model, PixelCNNpp):  # the network sees whole pixels
        D, mix = H * W, torch.randn(LogisticMixture.size(C, 1), dtype=torch.float64)

        def outputs(features: Tensor) -> Tensor:
            m = model.mixture(features)
            parts = [m.log_weights[..., :1], m.mu[..., 0], m.log_scales[..., 0]]
            parts += [] if m.coefficients is None else [m.coefficients[..., 0]]
            return (torch.cat(parts, -1) * mix).sum(-1).flatten(1)

    else:
        D, mix = C * H * W, torch.randn(model.levels, dtype=torch.float64)

        def outputs(features: Tensor) -> Tensor:
            labels = {"labels": labels_of(model, len(features))} if model.num_classes else {}
            return (model.logits(features, **labels) @ mix).permute(0, 2, 3, 1).flatten(1)

    found = torch.zeros(D, D, dtype=torch.float64)
    for _ in range(inputs):  # a ReLU hides what it cuts off, for some inputs
        x = torch.randn(1, H, W, C * e, dtype=torch.float64).repeat(D, 1, 1, 1).requires_grad_()
        (jacobian,) = torch.autograd.grad(outputs(x).diagonal().sum(), x)  # row i from the i-th copy
        found = torch.maximum(found, jacobian.reshape(D, D, -1).abs().amax(2))
    return found


@each_member
def test_outputs_depend_on_earlier_pixels_only(name: str) -> None:
    found = reach(member(name))
    assert found.triu().max() == 0
    assert found.tril(-1).max() > 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"first_kernel": 3, "depth": 1},
        {"first_kernel": 3, "depth": 2, "skip": 6},
        {"first_kernel": 5, "depth": 1, "kernel": 3, "square": True},
        {"first_kernel": 3, "depth": 1, "kernel": 5, "num_classes": 2},
    ],
)
def test_gated_models_have_no_blind_spot(arguments: dict[str, Any]) -> None:
    """Non-zero for every earlier pixel inside the receptive field, and zero outside it."""
    shape = (1, 6, 10)
    model = lively(GatedPixelCNN, {"shape": shape, "levels": 3, "width": 8, **arguments})
    found = reach(model, inputs=8).view(6, 10, 6, 10)
    kernels = [arguments["first_kernel"]] + [arguments.get("kernel", 3)] * arguments["depth"]
    rows = kernels if arguments.get("square") else [k // 2 + 1 for k in kernels]
    up = 1 + sum(r - 1 for r in rows)  # the shift, then what each kernel reaches beyond its own row
    side = sum(k // 2 for k in kernels)
    for r, c, i, j in itertools.product(range(6), range(10), range(6), range(10)):
        earlier = i < r or (i == r and j < c)
        inside = abs(j - c) <= side and r - i <= up
        assert (found[r, c, i, j] > 0) == (earlier and inside), (r, c, i, j)


def test_plain_stack_has_the_blind_spot_that_the_gated_one_lacks() -> None:
    shape = {"shape": (1, 5, 9), "levels": 3, "width": 8, "depth": 2, "first_kernel": 3}
    blind = [
        (reach(lively(cls, shape), inputs=8)[4 * 9 + 4].view(5, 9) == 0).nonzero() for cls in (PixelCNN, GatedPixelCNN)
    ]
    assert any(r == 3 and c == 7 for r, c in blind[0].tolist())  # one row up, three to the right
    assert not any(r == 3 and c == 7 for r, c in blind[1].tolist())


@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (GatedPixelCNN, {"shape": (1, 3, 3), "levels": 2, "width": 4, "depth": 1, "first_kernel": 3}),
        (GatedPixelCNN, {"shape": (1, 2, 2), "levels": 4, "width": 4, "depth": 2, "skip": 4, "embedding": 2}),
        (GatedPixelCNN, {"shape": (2, 2, 2), "levels": 2, "width": 4, "depth": 1, "num_classes": 2, "position": True}),
        (PixelCNNpp, {"shape": (1, 2, 2), "levels": 4, "width": 4, "scales": 2, "mixtures": 2}),
        (PixelCNNpp, {"shape": (1, 4, 2), "levels": 2, "width": 4, "scales": 2, "mixtures": 2, "position": True}),
        (PixelCNNpp, {"shape": (3, 1, 2), "levels": 3, "width": 4, "scales": 1, "mixtures": 3}),
        (PixelSNAIL, {"shape": (1, 3, 3), "levels": 2, "width": 4, "depth": 2, "residuals": 1, "heads": 2, "key": 2}),
        (PixelSNAIL, {"shape": (2, 2, 2), "levels": 2, "width": 4, "depth": 1, "first_kernel": 3}),
        (RowLSTM, {"shape": (1, 3, 3), "levels": 2, "width": 2, "depth": 2, "first_kernel": 3}),
        (RowLSTM, {"shape": (2, 2, 2), "levels": 2, "width": 4, "depth": 1}),
    ],
)
@torch.no_grad()
def test_probabilities_of_all_images_sum_to_one(cls: type[RasterModel], arguments: dict[str, Any]) -> None:
    model = lively(cls, arguments)
    k = torch.tensor(list(itertools.product(range(model.levels), repeat=math.prod(model.shape)))).view(-1, *model.shape)
    for label in range(max(model.num_classes, 1)):
        p = model.log_prob(k.double() / (model.levels - 1), labels=label if model.num_classes else None).exp()
        assert p.std() > 0
        assert abs(p.sum().item() - 1) < 1e-9


@each_member
@torch.no_grad()
def test_cached_logits_equal_the_full_pass(name: str) -> None:
    model = member(name)
    C, H, W = model.shape
    k, labels = torch.randint(model.levels, (3, C, H, W)), labels_of(model, 3)
    state, full = model.start(3, labels), model(k, labels)
    for r, c, colour in itertools.product(range(H), range(W), range(C)):
        torch.testing.assert_close(state.logits(), full[:, colour, r, c], rtol=1e-10, atol=1e-10)
        state.put(k[:, colour, r, c])


@each_member
@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.7}, {"greedy": True}, {"top_k": 2}, {"top_p": 0.8, "temperature": 1.5}], ids=str
)
def test_cached_sampler_equals_the_naive_one(name: str, options: dict[str, Any]) -> None:
    model = member(name)
    x = model.sample(3, seed=3, **options)
    assert torch.equal(x, model.sample(3, seed=3, cached=False, **options))
    assert torch.equal(model.quantize(x).double() / (model.levels - 1), x)


@each_member
@torch.no_grad()
def test_log_prob_sums_the_log_softmax(name: str) -> None:
    model = member(name)
    k, labels = torch.randint(model.levels, (4, *model.shape)), labels_of(model, 4)
    x = k.double() / (model.levels - 1)
    log_p = model(k, labels).log_softmax(-1).gather(-1, k[..., None]).sum((1, 2, 3, 4))
    torch.testing.assert_close(model.log_prob(x, labels=labels), log_p, rtol=1e-9, atol=1e-9)
    terms = model.loss((x, torch.zeros(4, dtype=torch.long) if labels is None else labels))
    torch.testing.assert_close(terms["loss"], -log_p.mean(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(terms["bits_per_dim"], -log_p.mean() / math.prod(model.shape) / math.log(2))


@each_member
@pytest.mark.parametrize("cached", [True, False])
def test_completion_keeps_the_given_pixels(name: str, cached: bool) -> None:
    model = member(name)
    H = model.shape[1]
    options = {"cached": cached, "labels": labels_of(model, 2)}
    free, given = model.sample(2, seed=7, **options), model.sample(2, seed=8, **options)
    half = model.sample(2, seed=7, given=given, known=H // 2, **options)
    assert torch.equal(half[:, :, : H // 2], given[:, :, : H // 2])
    holes = given.clone()
    holes[:, :, H // 2 :] = math.nan  # the same, said by NaN
    assert torch.equal(model.sample(2, seed=7, given=holes, **options), half)
    scattered = free.clone()
    scattered[0, :, ::2] = scattered[1, :, :, 1::2] = math.nan  # other pixels in each image; their noise is their own
    assert torch.equal(model.sample(2, seed=7, given=scattered, **options), free)
    with pytest.raises(ConfigError, match="both given and known"):
        model.sample(2, given=given, **options)


@pytest.mark.parametrize("name", ["gated", "gated conditional", "pp"])
def test_sampler_draws_from_the_likelihood(name: str) -> None:
    cls, arguments = MEMBERS[name]
    model = lively(
        cls,
        {
            **arguments,
            "shape": (1, 1, 3) if cls is GatedPixelCNN else (1, 3, 1),
            "levels": 2,
            **({} if cls is GatedPixelCNN else {"scales": 1}),
        },
    )
    n, labels = 20_000, (2 if model.num_classes else None)
    k = model.quantize(model.sample(n, seed=0, labels=labels)).flatten(1) @ torch.tensor([4, 2, 1])
    every = torch.tensor(list(itertools.product(range(2), repeat=3))).view(8, *model.shape)
    with torch.no_grad():
        p = model.log_prob(every.double(), labels=labels).exp()
    assert ((torch.bincount(k, minlength=8) / n - p).abs() <= 5 * (p * (1 - p) / n).sqrt()).all()


def test_batches_of_any_size_are_those_of_one_network() -> None:
    model = member("gated conditional")
    for n in (1, 2, 17, 256):
        x = model.sample(n, seed=1, labels=1)
        assert x.shape == (n, *model.shape) and 0 < x.mean() < 1
    with torch.no_grad():
        state = model.start(256, torch.zeros(256, dtype=torch.long))
        torch.testing.assert_close(*state.logits()[[0, 255]], rtol=1e-12, atol=1e-12)


def test_classes_change_likelihoods_and_samples() -> None:
    model = member("gated conditional")
    x = model.sample(2, seed=0, labels=[0, 1])
    p = [model.log_prob(x, labels=label) for label in range(3)]
    assert all((p[i] - p[j]).abs().min() > 1e-3 for i, j in ((0, 1), (0, 2), (1, 2)))
    torch.testing.assert_close(model.log_prob(x, labels=[0, 1]), torch.stack([p[0][0], p[1][1]]))
    with pytest.raises(ConfigError, match="conditional"):
        model.log_prob(x)
    with pytest.raises(ConfigError, match="takes no labels"):
        member("gated").sample(1, labels=0)


@pytest.mark.parametrize("name", ["gated conditional", "gated colours"])
@torch.no_grad()
def test_guidance_moves_logits_away_from_the_average_class(name: str) -> None:
    model = member(name)
    options: dict[str, Any] = {"seed": 0, "labels": [0, 1, 1]}
    guided = model.sample(3, guidance_scale=3.0, **options)
    assert torch.equal(guided, model.sample(3, guidance_scale=3.0, cached=False, **options))
    assert not torch.equal(guided, model.sample(3, **options))
    with pytest.warns(DeprecationWarning, match="now called guidance_scale"):
        assert torch.equal(guided, model.sample(3, guidance=2.0, **options))
    greedy = model.quantize(model.sample(3, guidance_scale=3.0, greedy=True, **options))
    ours, mean = (model(greedy, torch.tensor(y)).log_softmax(-1) for y in ([0, 1, 1], [model.num_classes] * 3))
    assert torch.equal((3 * ours - 2 * mean).argmax(-1), greedy)
    with torch.no_grad():
        for layer in (model.first, *model.layers):
            layer.condition.copy_(layer.condition.mean(0, keepdim=True))  # all classes alike: nothing to move from
    assert torch.equal(model.sample(3, guidance_scale=3.0, **options), model.sample(3, **options))
    with pytest.raises(ConfigError, match="guidance is for conditional models"):
        member("gated").sample(1, guidance_scale=2.0)


@pytest.mark.parametrize(
    "name",
    warm.long(
        (
            n
            for n in load_registry()
            if any(kind in n for kind in ("pixelcnn", "pixelsnail", "row_lstm"))
            and not n.startswith("pixelcnn-")
            and n not in warm.LARGE
        ),
        warm.SLOW_SAMPLERS,
    ),
)
@pytest.mark.parametrize("n", [2, pytest.param(16, marks=pytest.mark.slow)])
def test_registered_models_agree_in_single_precision(name: str, n: int) -> None:
    """Probabilities within 1e-5 at every pixel, and in the last row the same integers by naive sampling."""
    entry = load_registry().resolve(name)
    torch.manual_seed(0)
    model = zoo.load(name) if entry.pretrained else entry.build_model().eval()
    labels = labels_of(model, n)
    k = model.quantize(model.sample(n, seed=0, labels=labels))
    with torch.no_grad():
        state, full, worst = model.start(n, labels), model(k, labels), 0.0
        _, H, W = model.shape
        for r, c in itertools.product(range(H), range(W)):
            ours, theirs = state.logits().log_softmax(-1), full[:, 0, r, c].log_softmax(-1)
            worst = max(worst, (ours.exp() - theirs.exp()).abs().max().item())
            state.put(k[:, 0, r, c])
    # A logistic of scale s, down to e^-7, multiplies the rounding of its location by 1 / s.
    assert worst < (1e-4 if isinstance(model, PixelCNNpp) else 1e-5)
    if n > 2:
        assert torch.equal(k, model.quantize(model.sample(n, seed=0, labels=labels, cached=False)))
        return
    start = H - 1  # the last row by naive sampling, given the rest
    given = {"given": k.float() / (model.levels - 1), "known": start, "seed": 0, "labels": labels}
    assert torch.equal(model.sample(n, **given), model.sample(n, cached=False, **given))


@pytest.mark.parametrize("name", [n for n in MEMBERS if n.startswith("gated") and n != "gated colours"])
@pytest.mark.slow
def test_compiled_sampler_equals_the_cached_one(name: str) -> None:
    pytest.importorskip("numba")
    model = member(name)
    options: dict[str, Any] = {"seed": 3, "labels": labels_of(model, 3)}
    x = model.sample(3, **options)
    assert torch.equal(model.sample(3, compiled=True, **options), x)
    for more in ({"temperature": 0.5}, {"greedy": True}, {"given": x.roll(1, 0), "known": 2}):
        assert torch.equal(model.sample(3, compiled=True, **options, **more), model.sample(3, **options, **more))


@pytest.mark.slow
def test_compiled_digits_equal_cached_ones_in_single_precision() -> None:
    pytest.importorskip("numba")
    torch.manual_seed(0)
    entry = load_registry().resolve("gated_pixelcnn-mnist")
    model = zoo.load(entry.name) if entry.pretrained else entry.build_model().eval()
    for seed in range(4):
        assert torch.equal(model.sample(2, seed=seed, compiled=True), model.sample(2, seed=seed))


def test_compiled_sampling_says_what_it_lacks() -> None:
    for name, options, message in (
        ("pp", {}, "no compiled sampling"),
        ("gated colours", {}, "images of one colour"),
        ("gated", {"top_k": 2}, "no top_k or top_p"),
    ):
        with pytest.raises(ConfigError, match=message):
            member(name).sample(1, compiled=True, **options)


# -- completion from pictures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("shape", [(1, 5, 7), (3, 8, 8)])
def test_sheets_are_read_back(tmp_path: Path, shape: tuple[int, ...], scale: int) -> None:
    x = torch.randint(256, (5, *shape), generator=torch.Generator().manual_seed(0)).float() / 255
    save_png(x, tmp_path / "sheet.png", scale=scale)  # 3 x 2 cells, the last one empty
    assert torch.equal(read_png(tmp_path / "sheet.png", shape), x)
    save_png(x[:1], tmp_path / "one.png", pad=0)
    assert torch.equal(read_png(tmp_path / "one.png", shape), x[:1])
    with pytest.raises(DataError, match="neither one image of 9 x 9 nor a sheet"):
        read_png(tmp_path / "sheet.png", (1, 9, 9))
    (tmp_path / "no.png").write_text("no picture")
    for name, message in (("no.png", "not a picture"), ("none.png", "there is no file")):
        with pytest.raises(DataError, match=message):
            read_png(tmp_path / name, shape)


def test_command_completes_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from zoo._cli import main

    digit = (read_mnist("t10k")[0][0] / 255)[None]  # (1, 1, 28, 28)
    given, out = tmp_path / "given.png", tmp_path / "out.npz"
    save_png(digit, given, pad=0)
    sample = ["sample", "pixelcnn-mnist", "--seed", "0"]
    assert main([*sample, "--given", str(given), "--rows", "20", "-n", "2", "--out", str(out)]) == 0
    x = torch.from_numpy(np.load(out)["samples"])
    assert x.shape == (2, 1, 28, 28)
    assert torch.equal((x * 255).round()[:, :, :20], (digit * 255).round()[:, :, :20].expand(2, -1, -1, -1))
    assert not torch.equal(x[0, :, 20:], digit[0, :, 20:])
    for arguments, message in (
        (["--rows", "3"], "--given FILE.png"),
        (["--given", str(given), "--rows", "29"], "between 0 and 28"),
        (["--given", str(tmp_path / "none.png")], "there is no file"),
    ):
        assert main([*sample, *arguments, "--out", str(tmp_path / "x.png")]) == 2
        assert message in capsys.readouterr().err


# -- gated layers ------------------------------------------------------------------------------------------------------


def test_gate_is_tanh_times_sigmoid() -> None:
    torch.manual_seed(0)
    x = 3 * torch.randn(2, 12, 3, 4, dtype=torch.float64, requires_grad=True)
    a, b = x.chunk(2, 1)
    torch.testing.assert_close(gate(x), torch.tanh(a) * torch.sigmoid(b), rtol=1e-12, atol=1e-12)
    a, b = x[:, [0, 1, 4, 5, 8, 9]], x[:, [2, 3, 6, 7, 10, 11]]  # each colour's block has its own halves
    torch.testing.assert_close(gate(x, 3), torch.tanh(a) * torch.sigmoid(b), rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(gate, x) and torch.autograd.gradcheck(lambda y: gate(y, 3), x)


# -- mixtures of discretised logistics --------------------------------------------------------------------------------


def test_mixture_sums_to_one_over_all_levels() -> None:
    torch.manual_seed(0)
    M, L = 5, 256
    parameters = 3 * torch.randn(40, LogisticMixture.size(1, M), dtype=torch.float64)
    mixture = LogisticMixture(parameters[:, None], 1, L)
    x = torch.arange(L, dtype=torch.float64)[None, :, None] / (L - 1)
    p = mixture.log_prob(x).exp()  # (40, 256)
    torch.testing.assert_close(p.sum(1), torch.ones(40, dtype=torch.float64), rtol=0, atol=1e-12)
    by_level = mixture.logits(x[:, :1], 0)[:, 0]
    torch.testing.assert_close(by_level.exp(), p, rtol=1e-9, atol=1e-30)


def test_colours_of_a_pixel_follow_each_other_and_sum_to_one() -> None:
    torch.manual_seed(0)
    C, M, L = 3, 4, 6
    mixture = LogisticMixture(torch.randn(7, 1, LogisticMixture.size(C, M), dtype=torch.float64), C, L)
    x = torch.tensor(list(itertools.product(range(L), repeat=C)), dtype=torch.float64)[None] / (L - 1)
    x = x.expand(7, -1, -1)
    log_p = mixture.log_prob(x)  # (7, 216)
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(7, dtype=torch.float64))
    k = (x[0] * (L - 1)).round().long()
    chain = sum(
        mixture.logits(x, c).log_softmax(-1).expand(7, len(k), L).gather(-1, k[:, c].expand(7, -1)[..., None])[..., 0]
        for c in range(C)
    )
    torch.testing.assert_close(chain, log_p)
    # Within a component the location of the third colour moves with the first two, as the paper writes it.
    m = (mixture.mu[..., 2, :] + mixture.coefficients[..., 1, :] * (2 * x[..., 0, None] - 1)
         + mixture.coefficients[..., 2, :] * (2 * x[..., 1, None] - 1))  # fmt: skip
    torch.testing.assert_close(mixture.location(x, 2), (m + 1) / 2)


def test_one_component_is_the_discretised_logistic() -> None:
    m, log_s = torch.tensor([-0.3, 0.4, 1.2]).double(), torch.tensor([-6.0, -2.0, 0.5]).double()
    ours = level_logits(torch.zeros(3, 1).double(), m[:, None], log_s[:, None], 256)
    x = torch.arange(256).double() / 255
    torch.testing.assert_close(ours, DiscretizedLogistic(m[:, None], log_s[:, None]).log_prob(x).clamp_min(-708.39),
                               rtol=1e-6, atol=1e-9)  # fmt: skip


def test_short_cuts_reach_from_each_layer_down_to_its_mirror_up() -> None:
    torch.manual_seed(0)
    streams = Streams(1, 4, 2, 3, (8, 8)).double()
    assert [len(b) for b in streams.down_l] == [2, 2, 2] and [len(b) for b in streams.up_l] == [3, 3, 2]
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    before = streams(x)
    for conv in (*streams.double_u, *streams.double_l):  # nothing of the coarser scales is left
        torch.nn.init.zeros_(conv.weight), torch.nn.init.zeros_(conv.bias)
    assert not torch.equal(streams(x), before)
    assert streams(x).std() > 0  # the short-cuts of the finest scale still carry the image
    for blocks in streams.up_l:
        for block in blocks:
            torch.nn.init.zeros_(block.nin.weight)
    assert streams(x).std() < before.std()


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (PixelCNNpp, {"shape": (1, 6, 8)}, "multiples of 4"),
        (PixelCNNpp, {"mixtures": 0}, "mixtures must be at least 1"),
        (PixelCNNpp, {"depth": 0}, "at least one block"),
        (GatedPixelCNN, {"kernel": 4}, "odd"),
        (GatedPixelCNN, {"num_classes": -1}, "num_classes must not be negative"),
        (GatedPixelCNN, {"shape": (3, 8, 8), "width": 16}, "multiples of 3"),
    ],
)
def test_wrong_arguments_end_in_one_sentence(cls: type[RasterModel], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cls(**arguments)


# -- closed forms of the compute of a training step --------------------------------------------------------------------


def gated_pixelcnn(args: Mapping[str, Any]) -> float:
    """Layer by layer: vertical kernel, link, horizontal taps, residual and skip maps; the image takes no gradient."""
    C, H, W = args["shape"]
    assert C == 1, "the live taps of several colours are not written down here"
    w, k, K, skip, depth = args["width"], args["kernel"], args["first_kernel"], args["skip"], args["depth"]
    e = args["embedding"] or 1
    rows, first_rows = (k, K) if args["square"] else (k // 2 + 1, K // 2 + 1)
    reading = e * 2 * w * (first_rows * K + K // 2)  # of the image
    maps = (depth + 1) * (4 * w * w + w * w + w * skip) - (w * w if skip else 0)
    layers = depth * 2 * w * w * (rows * k + k // 2 + 1)
    end, head = skip or w, args["head"] or skip or w
    total = reading + maps + layers + end * head + head * args["levels"]
    return 2.0 * H * W * (3 * total - (0 if args["embedding"] else reading))


def pixelcnn_pp(args: Mapping[str, Any]) -> float:
    """Blocks of both streams at every scale, what halves and doubles between them, and the 1 x 1 maps."""
    C, H, W = args["shape"]
    w, d, S = args["width"], args["depth"], args["scales"]
    features = (args["embedding"] or 1) * C + 1
    first = H * W * features * w * (6 + 3 + 2)
    total = first + H * W * w * LogisticMixture.size(C, args["mixtures"])
    for s in range(S):
        pixels = H * W >> 2 * s
        up = d if s == S - 1 else d + 1
        convolutions = 2 * w * w + 2 * w * 2 * w  # channels of both convolutions of a block, a tap
        total += pixels * (d + up) * convolutions * (6 + 4)
        total += pixels * (d * 2 * w * w + up * (2 * w * w + 4 * w * w))  # aside: l sees u; u its short-cut, l both
        if s:
            total += pixels * w * w * (6 + 4) * 2  # halved here, doubled from here
    return 2.0 * (3 * total - (0 if args["embedding"] else first))


STEP_FLOPS = {"GatedPixelCNN": gated_pixelcnn, "PixelCNNpp": pixelcnn_pp}


@pytest.mark.parametrize(
    "name", ["gated", "gated square skip", "gated conditional", "pp", "pp one scale", "pp colours"]
)
def test_counted_compute_equals_the_closed_form(name: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    cls, arguments = MEMBERS[name]
    if cls is PixelCNNpp:
        arguments = {**arguments, "shape": (arguments["shape"][0], 16, 16)}
    model = cls(**arguments)
    with FlopCounterMode(display=False) as counter:
        model.loss((torch.rand(2, *model.shape), torch.zeros(2, dtype=torch.long)))["loss"].backward()
    assert counter.get_total_flops() == pytest.approx(2 * STEP_FLOPS[cls.__name__](model.spec["init_args"]), rel=0.02)
