"""What the public methods are given: a right value or one sentence, the same for all families."""

from __future__ import annotations

import inspect
import math
import re
import sys
from typing import Any

import numpy as np
import pytest
import torch
import warm
from lightning.pytorch import LightningModule
from torch import Tensor, nn

import zoo
from zoo.checking import DRAWING, EXAMPLES, LATENTS, MOST, TRUST, examples_of, given_of, latents_of, seed_of
from zoo.data.toys import EightGaussians
from zoo.errors import ConfigError, DataError
from zoo.families.ebm import EBM
from zoo.families.gated_pixelcnn import GatedPixelCNN
from zoo.families.pixelcnn import PixelCNN
from zoo.families.transformer import Transformer
from zoo.families.vae import VAE
from zoo.model import GenerativeModel, LikelihoodModel
from zoo.nets.mlp import MLP
from zoo.registry import load_registry

ONE_A_CLASS = warm.one_of_each()


BESIDE = {"frames": 2, "context": [0], "targets": [0]}
"""What such methods must be given beside."""


@pytest.fixture(scope="module", params=ONE_A_CLASS)
def model(request: pytest.FixtureRequest) -> GenerativeModel:
    """One model of each class, not trained: what is refused is refused before anything is computed."""
    return load_registry().resolve(request.param).build_model().eval()


def levels_of(model: GenerativeModel, n: int = 2) -> Tensor:
    """Return examples as levels, int64; of continuous data as floating numbers."""
    generator = torch.Generator().manual_seed(0)
    if model.levels is None:
        return torch.randn(n, *model.shape, generator=generator)
    return torch.randint(model.levels, (n, *model.shape), generator=generator)


def in_range(model: GenerativeModel, n: int = 2) -> Tensor:
    k = levels_of(model, n)
    return k if model.levels is None else k.float() / (model.levels - 1)


def wrong_examples(model: GenerativeModel) -> dict[str, Any]:
    x = in_range(model)
    wrong: dict[str, Any] = {
        "NaN": x * math.nan,
        "one NaN": torch.cat([x.flatten()[:-1], torch.tensor([math.nan])]).view(x.shape),
        "infinity": x + math.inf,
        "one example without a batch": x[0] if len(model.shape) > 1 else torch.zeros(()),
        "batch of none": x[:0],
        "no tensor": "an image",
        "a list": x.tolist(),
        "None": None,
        "complex": x.to(torch.complex64),
        "sparse": x.to_sparse(),
        "texts": np.array(["a", "b"]),
        "objects": np.array([None, None]),
        "ten dimensions": x.view(2, *[1] * (9 - len(model.shape)), *model.shape),
    }
    if model.levels is None:
        return wrong | {"integers for continuous data": x.long(), "booleans": x > 0}
    wrong |= {
        "0..255": x * 255 + 2,
        "-1..1": x * 2 - 1,
        "far above": x + 1e30,
        "integers beyond the levels": levels_of(model) + model.levels,
        "integers below the levels": -1 - levels_of(model),
    }
    if model.levels != 2:
        wrong["booleans for grey levels"] = x > 0.5
    if len(model.shape) == 3:
        C, H, W = model.shape
        wrong |= {
            "no channel": x[:, 0],
            "another size": torch.zeros(2, C, H + 4, W + 4),
            "more channels": torch.zeros(2, C + 2, H, W),
            "channels last": x.permute(0, 2, 3, 1) if C != W else x[:, :, 1:],
        }
    return wrong


def test_every_public_method_of_every_class_refuses_wrong_examples_in_a_sentence(model: GenerativeModel) -> None:
    own = {name for base in type(model).__mro__ for name in base.__dict__.get("takes_examples", ())}
    for name in sorted({*EXAMPLES, *own}):
        method = getattr(model, name, None)
        if method is None or (name == "log_prob" and not isinstance(model, LikelihoodModel)):
            continue
        assert method.checked, f"{type(model).__name__}.{name} takes examples unchecked"
        told = {"labels": [0, 0]} if model.num_classes else {}
        given = {k: v for k, v in {**told, **BESIDE}.items() if k in inspect.signature(method).parameters}
        for what, x in wrong_examples(model).items():
            if name in model.takes_anything and what in ("0..255", "-1..1", "far above"):
                continue
            with pytest.raises(DataError) as refused:
                method(x, **given)
            text = str(refused.value)
            assert "\n" not in text and len(text) < 400 and type(model).__name__ in text, f"{name}: {what}: {text}"


PARTS = {"drawn_codes", "joint_losses", "latent", "log_likelihood", "quantise"}
"""Parts of objectives, which are given what a checked method was given."""


def test_every_method_that_says_it_takes_examples_is_checked(model: GenerativeModel) -> None:
    for name in dir(type(model)):
        method = inspect.getattr_static(type(model), name)
        if name.startswith("_") or not inspect.isfunction(method) or hasattr(LightningModule, name):
            continue
        taken, told = list(inspect.signature(method).parameters)[1:2], " ".join((method.__doc__ or "").split())
        if taken == ["x"] and re.search(r"\(B, \*shape\) in data range(,| \u2192| ->)", told) and name not in PARTS:
            assert getattr(method, "checked", False), f"{method.__qualname__} takes examples unchecked"


def test_every_decode_refuses_wrong_latents_in_a_sentence(model: GenerativeModel) -> None:
    for name in LATENTS:
        method = getattr(model, name, None)
        if method is None:
            continue
        codes, shape = model.latent_values, model.latent_shape
        assert shape is not None, f"{type(model).__name__} does not say what its decode takes"
        z = torch.zeros(2, *shape, dtype=torch.int64 if codes else torch.float32)
        wrong = [z[:0], z[:, 1:], z[..., None], z[0], "z", None, z.tolist(), z.to(torch.complex64)]
        wrong += [z + codes, z - 1, z.float(), z.bool()] if codes else [z * math.nan, z + math.inf, z.long()]
        for given in wrong:
            with pytest.raises(DataError):
                method(given)
        as_given = latents_of(model, z.numpy() if codes else z.double().numpy(), "decode")
        assert torch.equal(as_given, z) and as_given.dtype == z.dtype


def test_every_type_that_means_the_same_examples_gives_the_same(model: GenerativeModel) -> None:
    x = in_range(model)
    same: list[Any] = [x, x.double(), x.numpy(), x.double().numpy(), np.asfortranarray(x.numpy())]
    frozen = x.numpy().copy()
    frozen.flags.writeable = False
    same.append(frozen)
    if model.levels is not None:
        k = levels_of(model)
        same += [k, k.int(), k.numpy(), k.numpy().astype(">i4")] if model.levels <= 2**31 else []
        same += [k.to(torch.uint8), k.numpy().astype(np.uint8)] if model.levels <= 256 else []
        same += [k.bool(), k.bool().numpy()] if model.levels == 2 else []
    for given in same:
        found = examples_of(model, given, "method")
        assert torch.equal(found.float(), x) and (found.dtype == torch.float32 or model.quantizes)
    assert examples_of(model, x, "method") is x  # nothing is copied, so gradients and bits stay


def test_seeds_and_counts_of_every_class(model: GenerativeModel) -> None:
    if not model.generates:
        pytest.skip("draws nothing")
    for seed in (2**64, -(2**63) - 1, 10**400, math.nan, 3.7, 3.0, True, np.True_, "7", [1, 2], np.float64(1), b"1"):
        with pytest.raises(ConfigError, match="seed"):
            model.sample(1, seed=seed)
    for n in (0, -1, 2.0, "3", None, True, math.nan, 10**400, MOST + 1, [2], np.float32(2)):
        with pytest.raises(ConfigError, match="n must be a positive integer"):
            model.sample(n)
    for name in DRAWING:
        method = getattr(model, name, None)
        if method is not None:
            given = {k: v for k, v in BESIDE.items() if k in inspect.signature(method).parameters}
            for n in (0, -1, 2.5, True, MOST + 1):
                with pytest.raises(ConfigError, match="n must be a positive integer"):
                    method(n, **given)


WRONG_OPTIONS: dict[str, tuple[Any, ...]] = {
    "bool": (1, "yes", None, 0.0, [True]), "int": ("7", 2.0, True, [1], 10**400, -(2**70), math.nan, np.float64(1)),
    "float": ("1", True, [1.0], math.nan, math.inf, 10**400, 1j, np.float64("nan")),
    "str": (7, b"x", ["mean"], object()),
}  # fmt: skip


def test_sampling_options_of_every_class(model: GenerativeModel) -> None:
    for name, parameter in model.option_parameters().items() if model.generates else ():
        kinds = {kind.strip() for kind in str(parameter.annotation).split("|")}
        for kind in kinds & WRONG_OPTIONS.keys() if kinds <= {*WRONG_OPTIONS, "None"} else ():
            for value in WRONG_OPTIONS[kind] if kinds <= {kind, "None"} else ():
                if value is not None or "None" not in kinds:
                    with pytest.raises(ConfigError, match=f"{name} of {type(model).__name__} must be"):
                        model.sample(1, seed=0, **{name: value})
        if name in ("beams", "candidates", "length", "steps", "top_k"):
            for value in (0, -1):
                with pytest.raises(ConfigError, match=f"{name} must be a positive integer, got {value}"):
                    model.sample(1, seed=0, **{name: value})


def test_options_that_mean_the_same_are_the_same() -> None:
    model = PixelCNN(shape=[1, 3, 3], levels=2, width=4, depth=1)
    x = model.sample(2, seed=0, temperature=2, top_k=1)
    assert torch.equal(model.sample(2, seed=0, temperature=np.float32(2), top_k=np.int64(1)), x)
    assert torch.equal(model.sample(2, seed=0, temperature=torch.tensor(2.0), greedy=np.True_), x)
    model.set_sampler(temperature="hot")
    with pytest.raises(ConfigError, match="temperature of PixelCNN must be a finite number"):
        model.sample(1)
    wild = VAE(MLP([2, 8, 4]), MLP([2, 8, 4]), [2], 2, likelihood="gaussian")
    with pytest.raises(ConfigError, match="not finite with temperature"):
        wild.sample(4, seed=0, temperature=3e38)


def test_labels_of_every_conditional_class(model: GenerativeModel) -> None:
    if not model.generates:
        pytest.skip("draws nothing")
    if not model.num_classes:
        with pytest.raises(ConfigError, match="told texts" if model.context else "not conditional"):
            model.sample(2, labels=[0, 0])
        return
    wrong: list[Any] = ["7", ["1", "2"], [None, 1], {0, 1}, {0: 1}, [0], [0, 0, 0], [0.0, 1.0], 0.0, [[0], [0]], True]
    wrong += [[True, False], [0, model.num_classes], [-1, 0], model.num_classes, 2**70, -(2**70), [10**400, 0], b"1"]
    wrong += [np.array([0.0, 1.0]), np.array([[0], [1]]), np.array(["1", "2"]), np.array([True, False]), math.nan]
    wrong += [
        torch.tensor([0.0, 1.0]),
        torch.tensor([True, False]),
        np.array([2**64 - 1, 0], dtype=np.uint64),
        object(),
    ]
    for labels in wrong:
        with pytest.raises(ConfigError, match="labels"):
            model.sample(2, labels=labels)
    right = [
        [1, 1],
        (1, 1),
        1,
        np.int64(1),
        np.array(1),
        np.array([1, 1], dtype=np.uint8),
        torch.tensor(1),
        range(1, 2),
    ]
    right += [torch.tensor([1, 1], dtype=torch.uint8), [np.int32(1), torch.tensor(1)], np.array([1, 1], dtype=">i8")]
    for labels in right:
        n = 1 if isinstance(labels, range) else 2
        found = model._labels(n, labels)
        assert found.dtype == torch.int64 and found.tolist() == [1] * n


def test_classes_may_be_called_by_their_names() -> None:
    model = GatedPixelCNN(shape=[1, 4, 4], levels=2, num_classes=2, width=4, depth=1)
    with pytest.raises(ConfigError, match="got 'cat'"):
        model._labels(2, "cat")
    model.class_names = ("cat", "dog")
    assert model._labels(3, "dog").tolist() == [1, 1, 1]
    assert model._labels(2, ["dog", "cat"]).tolist() == model._labels(2, np.array(["dog", "cat"])).tolist() == [1, 0]
    with pytest.raises(ConfigError, match="Did you mean 'dog'"):
        model._labels(2, ["dogs", "cat"])


def test_seeds_that_are_integers_draw_as_before() -> None:
    model = PixelCNN(shape=[1, 3, 3], levels=2, width=4, depth=1)
    x = model.sample(2, seed=3)
    assert torch.equal(model.sample(np.int64(2), seed=np.uint8(3)), x)
    assert torch.equal(model.sample(torch.tensor(2), seed=torch.tensor(3)), x)
    assert not torch.equal(model.sample(9, seed=2**64 - 1), model.sample(9, seed=3))
    assert seed_of(-1) == -1  # torch takes it, and it always drew something


@pytest.mark.parametrize("levels", [2, 256])
def test_integers_score_as_the_image_that_they_are(levels: int) -> None:
    model = PixelCNN(shape=[1, 3, 3], levels=levels, width=4, depth=1)
    k = torch.randint(levels, (4, 1, 3, 3))
    x = k.float() / (levels - 1)
    truth = model.log_prob(x)
    for given in (k, k.to(torch.uint8), k.numpy(), x.numpy(), x.double(), x.bfloat16() if levels == 2 else x):
        assert torch.equal(model.log_prob(given), truth)
    assert torch.equal(model.quantize(k.to(torch.uint8)), k)


def test_partly_known_images_are_read_by_their_levels_too() -> None:
    model = PixelCNN(shape=[1, 4, 4], levels=256, width=4, depth=1)
    k = torch.randint(256, (1, 4, 4), dtype=torch.uint8)
    x = model.sample(2, seed=0, given=k.float() / 255, known=2)
    assert torch.equal(model.sample(2, seed=0, given=k, known=2), x)
    assert torch.equal(model.sample(2, seed=0, given=k.numpy(), known=np.int64(2)), x)
    mask = np.zeros((1, 4, 4), dtype=bool)
    mask[:, :2] = True
    assert torch.equal(model.sample(2, seed=0, given=k.numpy(), known=mask), x)
    for given in (k.float(), k.float() / 255 * 2 - 1 - 1e-3, "image", k.to(torch.complex64)):
        with pytest.raises(DataError):
            model.sample(2, given=given, known=2)
    for known in (2.0, True, "2", [1]):
        with pytest.raises(ConfigError, match="known"):
            model.sample(2, given=k, known=known)
    hole = torch.full((1, 4, 4), math.nan)
    assert torch.isnan(given_of(model, hole)).all()


WRONG_COUNTS = (0, -1, 1.5, "2", True, [1], 10**400, math.nan)


def test_numbers_of_evaluations_and_diagnoses_are_checked_before_anything_is_drawn() -> None:
    model = VAE(MLP([2, 8, 4]), MLP([2, 8, 4]), [2], 2, likelihood="gaussian")
    data = EightGaussians(batch_size=8, points=100)
    for name in ("samples", "seeds", "k", "batch_size", "limit", "devices"):
        for value in WRONG_COUNTS:
            with pytest.raises(ConfigError, match=f"{name} must be a positive integer"):
                zoo.evaluate(model, data, **{"samples": 2, name: value})
    for seed in ("x", None, 1.5, True, 2**64, -(2**63) - 1, math.nan):
        with pytest.raises(ConfigError, match="seed"):
            zoo.evaluate(model, data, samples=2, seed=seed)
    for more, said in (({"seeds": 10**9}, "at most 10,000"), ({"seed": 2**64 - 1, "seeds": 2}, "64 bits"),
                       ({"options": "x"}, "mapping"), ({"options": [1]}, "mapping")):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            zoo.evaluate(model, data, samples=2, **more)
    for value in WRONG_COUNTS:
        with pytest.raises(ConfigError, match="examples must be a positive integer"):
            zoo.diagnose(model, data, examples=value)
    for wrong in ({"pair": "x"}, {"pair": (1,)}, {"pair": (1, 10**9)}, {"pair": (0.5, 1)}, {"pair": (1, 2, 3)},
                  {"without": "x", "having": [1]}, {"without": [1.5], "having": [1]}, {"without": [1]}):  # fmt: skip
        with pytest.raises((ConfigError, DataError)):
            zoo.diagnose(model, data, examples=20, **wrong)


def test_importance_samples_and_frames_are_counts() -> None:
    model = VAE(MLP([2, 8, 4]), MLP([2, 8, 4]), [2], 2, likelihood="gaussian")
    x = torch.zeros(3, 2)
    for k in (0, -1, 1.5, "2", True, None):
        with pytest.raises(ConfigError, match="k must be a positive integer"):
            model.log_prob(x, k=k)
    assert model.log_prob(x.numpy(), k=np.int64(2), seed=0).shape == (3,)
    with pytest.raises(ConfigError, match="not conditional"):
        model.log_prob(x, labels=[0, 0, 0])


def test_text_of_any_length_is_scored_and_read() -> None:
    model = Transformer(shape=[8], levels=3, alphabet="abc", width=8, depth=1, heads=1).eval()
    k = torch.tensor([[0, 1, 2, 2]])
    assert model.text(k) == model.text(k / 2) == ["abcc"]
    assert torch.equal(model.log_prob(k), model.log_prob(k / 2))
    for wrong in (k[None], k + 1, k.float()):
        with pytest.raises(DataError):
            model.log_prob(wrong)


def test_training_checks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """`loss` of every family calls methods that are checked for users; a checked call there would cost each step."""

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a training step looked at its values")

    monkeypatch.setattr("zoo.checking._check_values", never)
    monkeypatch.setattr("zoo.checking._check_shape", never)
    for name in ("pixelcnn", "vae", "realnvp", "latent_diffusion", "vq_vae_prior", "cvae", "fsq"):
        model = load_registry().resolve(name).build_model()
        labels = torch.zeros(2, dtype=torch.int64)
        assert torch.isfinite(model.loss((in_range(model), labels))["loss"])
    gat = load_registry().resolve("gat").build_model()
    assert torch.isfinite(gat.given((in_range(gat), labels))[0]).all()
    with pytest.raises(AssertionError):
        gat.autoencoder.posterior(in_range(gat))


def test_graphs_and_vectorised_maps_trace_through_the_checks() -> None:
    model, x = _Squares().eval(), torch.rand(4, 1, 3, 3)
    program = torch.export.export(model, (x,))
    assert torch.equal(program.module()(x), x.square())
    assert torch.equal(torch.compile(model.encode, backend="eager", fullgraph=True)(x), x.square())
    assert torch.equal(torch.func.vmap(model.encode)(x[:, None]), x[:, None].square())
    assert torch.equal(torch.func.grad(lambda v: model.encode(v).sum())(x), 2 * x)


class _Squares(GenerativeModel):
    shape, levels = (1, 3, 3), 2

    def encode(self, x: Tensor) -> Tensor:
        return x.square()

    def forward(self, x: Tensor) -> Tensor:
        return self.encode(x)


def test_a_mixin_has_its_own_methods_checked() -> None:
    class Feels:
        takes_examples = ("energy", "features")
        takes_anything = ("energy",)

        def energy(self, x: Tensor) -> Tensor:
            return x.flatten(1).sum(1)

    class Model(Feels, GenerativeModel):
        shape, levels = (1, 2, 2), 256

        def features(self, x: Tensor) -> Tensor:
            return x.flatten(1)

    model = Model()
    assert model.energy(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)).item() == 4
    assert model.energy(torch.full((1, 1, 2, 2), -3.0)).item() == -12
    with pytest.raises(DataError, match=r"Model.features takes values in \[0, 1\], got -3 to -3"):
        model.features(torch.full((1, 1, 2, 2), -3.0))
    with pytest.raises(DataError, match="NaN"):
        model.energy(torch.full((1, 1, 2, 2), math.nan))


def test_a_failing_call_leaves_the_checks_on() -> None:
    model = _Squares()
    for _ in range(2):
        with pytest.raises(DataError):
            model.encode(torch.full((1, 1, 3, 3), 7.0))


def test_a_step_of_training_calls_the_bare_loss_and_trusts_what_it_is_given() -> None:
    class Watched(EBM):
        def loss(self, batch: Any) -> dict[str, Tensor]:
            frame = sys._getframe(1)
            seen.append((frame.f_code.co_name, TRUST.given))
            if len(seen) == 3:
                raise ValueError("within")
            return {"loss": self.network(batch[0]).sum()}

    seen: list[tuple[str, bool]] = []
    model, batch = Watched(nn.Linear(2, 1), [2], None, buffer=2), (torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))
    model.training_step(batch, 0)
    assert seen == [("training_step", True)] and not TRUST.given
    model.loss(batch)  # a user's own call is trusted within, by way of the check
    assert seen[1] == ("loss", True) and not TRUST.given
    with pytest.raises(ValueError, match="within"):
        model.training_step(batch, 1)
    assert not TRUST.given
