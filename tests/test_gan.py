"""Laws of the games, penalties and tools that adversarial models share, and of the step that plays them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import closed_forms
import pytest
import torch
from test_wgan_gp import Recorder, batches, fit, state
from torch import Tensor, nn

from zoo.api import second_stage
from zoo.callbacks.ema import EMA
from zoo.errors import ConfigError
from zoo.families.adversarial import AdversarialModel
from zoo.families.dcgan import DCGAN
from zoo.families.gan import GAN
from zoo.families.gat import GAT
from zoo.families.r3gan import R3GAN
from zoo.families.sn_gan import SNGAN
from zoo.families.vae import VAE
from zoo.families.wgan import WGAN
from zoo.families.wgan_gp import WGANGP
from zoo.maths.objectives import OBJECTIVES, objective
from zoo.maths.penalties import zero_centred_penalty
from zoo.nets.conditioning import ClassInput, MinibatchDeviation, ProjectionCritic
from zoo.nets.dcgan import DCGANCritic, DCGANGenerator
from zoo.nets.mlp import MLP
from zoo.nets.residual_gan import ResidualCritic
from zoo.nets.spectral import normalise_layers
from zoo.registry import load_registry
from zoo.spec import build

SHAPE = [1, 4, 4]
quiet = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")

# -- closed form of the compute of a training step, per example, averaged over the period ------------------------------


def _doubling(args: Mapping[str, Any]) -> list[int]:
    return closed_forms.NETS["UpsamplingNet"]({**args, "refine": False})


def _halving(args: Mapping[str, Any]) -> list[int]:
    return closed_forms.NETS["DownsamplingNet"]({"hidden": 0, "out": 1, **args})


def _residual_doubling(args: Mapping[str, Any]) -> list[int]:
    """A linear layer, a 3x3 convolution, blocks of 3x3 and 1x1, 4x4 transposed convolutions."""
    linear, *doublings = _doubling(args)
    width, pixels = args["widths"][0], math.prod(s >> len(args["widths"]) for s in args["shape"][1:])
    assert not args["refine"], "blocks after doublings are not written down here"
    block = [pixels * width**2 * 9, pixels * width**2]
    return [linear, pixels * width**2 * 9, *block * args["blocks"], *doublings]


def _residual_halving(args: Mapping[str, Any]) -> list[int]:
    """4x4 convolutions of stride 2, blocks, a 1x1 convolution, linear layers."""
    width, pixels = args["widths"][-1], math.prod(s >> len(args["widths"]) for s in args["shape"][1:])
    halvings = _halving({**args, "hidden": 0, "out": 0})[:-1]
    block = [pixels * width**2 * 9, pixels * width**2]
    sizes = [pixels * (args["features"] + bool(args["group"])), *filter(None, [args["hidden"]]), args["out"]]
    linear = [a * b for a, b in pairwise(sizes)]
    return [*halvings, *block * args["blocks"], pixels * width * args["features"], *linear]


def _blocks(args: Mapping[str, Any], tokens: int, modulated: bool) -> list[int]:
    """Of a Transformer: modulation, queries with keys and values, both products of attention, and the network."""
    d = args["width"]
    block = [6 * d * d] * modulated + [tokens * 3 * d * d, 2 * tokens**2 * d, tokens * d * d, tokens * 8 * d * d]
    return block * args["depth"]


def _transformer_generator(args: Mapping[str, Any]) -> list[int]:
    d, T = args["width"], args["tokens"]
    return [args["latent_dim"] * d, d * d, *_blocks(args, T, True), T * d * args["channels"]]


def _transformer_critic(args: Mapping[str, Any]) -> list[int]:
    d, T = args["width"], args["tokens"]
    return [T * d * args["channels"], *_blocks(args, T + 1, False), d * args["out"]]


NETS = {
    **closed_forms.NETS, "DCGANGenerator": _doubling, "DCGANCritic": _halving, "DeviationCritic": _halving,
    "ResidualGenerator": _residual_doubling, "ResidualCritic": _residual_halving,
    "TransformerGenerator": _transformer_generator, "TransformerCritic": _transformer_critic,
}  # fmt: skip


def layers(spec: Mapping[str, Any]) -> list[int]:
    return NETS[spec["class_path"].rpartition(".")[2]](spec["init_args"])


def critic_layers(args: Mapping[str, Any]) -> list[int]:
    return layers(args["critic"]) + ([args["features"]] if args["num_classes"] else [])


def game(
    G: list[int], D: list[int], args: Mapping[str, Any], *, penalised: int = 0, paired: bool = False
) -> float:  # fmt: skip
    """The critic on data and samples, and the generator through the critic; a pairing game scores data once more.

    A penalised batch costs a pass back to the pixels, whose own gradient goes to the weights of every layer and on to
    the layer above, and the pass back of the scores then goes down to the pixels as well.
    """
    scores = 2 * (3 * sum(D) - D[0])
    penalties = penalised * (2 * sum(D) + sum(D[:-1]) + D[0]) / args.get("lazy", 1)
    generator = 3 * sum(G) - G[0] + 2 * sum(D) + paired * sum(D)
    return 2.0 * (sum(G) + scores + penalties + generator / args["n_critic"])


def gan_flops(args: Mapping[str, Any]) -> float:
    return game(layers(args["generator"]), critic_layers(args), args, penalised=int(args["r1"] > 0))


def plain_flops(args: Mapping[str, Any]) -> float:
    return game(layers(args["generator"]), critic_layers(args), args)


def r3gan_flops(args: Mapping[str, Any]) -> float:
    return game(layers(args["generator"]), critic_layers(args), args, penalised=2, paired=True)


def gat_flops(args: Mapping[str, Any]) -> float:
    """Data and samples are scored twice, as they are and moved; the frozen encoder runs for either player."""
    G, D, E = layers(args["generator"]), critic_layers(args), layers(args["autoencoder"]["init_args"]["encoder"])
    scores = 4 * (3 * sum(D) - D[0])
    generator = 3 * sum(G) - G[0] + 3 * sum(D) + sum(E)
    return 2.0 * (sum(E) + sum(G) + scores + generator / args["n_critic"])


STEP_FLOPS: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "GAT": gat_flops, "GAN": gan_flops, "DCGAN": gan_flops, "SNGAN": plain_flops,
    "WGAN": plain_flops, "R3GAN": r3gan_flops,
}  # fmt: skip


# -- tiny models -------------------------------------------------------------------------------------------------------


def networks(z: int = 3, out: int = 1) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return MLP([z, 8, 16]), MLP([16, 8, out], "leaky_relu")


def tiny(cls: type[AdversarialModel], **options: Any) -> AdversarialModel:
    conditional = "num_classes" in options
    generator, critic = networks(3 + 2 * conditional, 5 if conditional else 1)
    options |= {"class_dim": 2, "features": 5} if conditional else {}
    return cls(generator, critic, 3, SHAPE, **{"lr": 1e-2, **options}).double()


CLASSES = {"GAN": GAN, "WGAN": WGAN, "WGANGP": WGANGP, "SNGAN": SNGAN, "R3GAN": R3GAN}


@contextmanager
def recorded(model: AdversarialModel, losses: dict[str, list[float]]) -> Iterator[None]:
    """Let `training_step` run without an optimizer and note what each player is asked to descend."""

    @contextmanager
    def turn(player: str) -> Iterator[Callable[[Tensor], bool]]:
        def update(loss: Tensor) -> bool:
            losses.setdefault(player, []).append(float(loss.detach()))
            model.steps_done += player == "critic"
            return True

        yield update

    model.turn = turn  # type: ignore[method-assign]
    yield
    del model.turn


# -- objectives --------------------------------------------------------------------------------------------------------


def test_relativistic_pairing_is_antisymmetric_and_blind_to_a_constant() -> None:
    r, f = torch.randn(2, 50, dtype=torch.float64) * 4
    D, G = OBJECTIVES["relativistic"].critic, OBJECTIVES["relativistic"].generator
    assert torch.allclose(D(r, f), G(f, r), atol=1e-14)
    assert torch.allclose((D(r, f) - G(r, f)).mean(), (f - r).mean(), atol=1e-12)
    for loss in (D, G):
        assert torch.allclose(loss(r + 3.7, f + 3.7), loss(r, f), atol=1e-13)


def test_non_saturating_loss_is_of_logits() -> None:
    r, f = torch.randn(2, 20, dtype=torch.float64)
    game = objective("non_saturating")
    assert torch.allclose(game.critic(r, f), -torch.log(r.sigmoid()) - torch.log(1 - f.sigmoid()), atol=1e-12)
    assert torch.allclose(game.generator(r, f), -torch.log(f.sigmoid()), atol=1e-12)
    far = torch.tensor([-1e4], dtype=torch.float32, requires_grad=True)  # log(sigmoid) would be -inf, its gradient nan
    (gradient,) = torch.autograd.grad(game.generator(far, far).sum(), far)
    assert game.generator(far, far).item() == 1e4 and gradient.item() == -1


def test_the_other_objectives_are_their_formulas() -> None:
    r, f = torch.tensor([0.3, 2.0, -1.5]), torch.tensor([0.4, -3.0, 0.2])
    assert torch.allclose(OBJECTIVES["hinge"].critic(r, f), torch.tensor([0.7 + 1.4, 0.0, 2.5 + 1.2]))
    assert torch.equal(OBJECTIVES["hinge"].generator(r, f), -f)
    assert torch.allclose(OBJECTIVES["least_squares"].critic(r, f), ((r - 1) ** 2 + f**2) / 2)
    assert torch.allclose(OBJECTIVES["least_squares"].generator(r, f), (f - 1) ** 2 / 2)
    assert torch.equal(OBJECTIVES["wasserstein"].critic(r, f), f - r)
    for name, game in OBJECTIVES.items():
        moved = [torch.allclose(loss(r + 1, f + 1), loss(r, f)) for loss in (game.critic, game.generator)]
        scores = torch.stack([r, f])
        constant = [game.critic(*(scores + c)).mean() for c in (0.0, 1.0)]
        assert game.shift_free == torch.allclose(*constant), (name, moved)
        assert game.paired == (not torch.equal(game.generator(r, f), game.generator(r + 1, f)))
    with pytest.raises(ConfigError, match="Did you mean 'hinge'"):
        objective("hing")


# -- penalties ---------------------------------------------------------------------------------------------------------


class Quadratic(nn.Module):
    """D(x) = x' A x / 2 with symmetric A, whose gradient is A x."""

    def __init__(self) -> None:
        super().__init__()
        A = torch.randn(16, 16, dtype=torch.float64)
        self.A = nn.Parameter(A + A.T)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return ((x @ self.A) * x).sum(1, keepdim=True) / 2


@pytest.mark.parametrize("name", ["r1", "r2"])
def test_zero_centred_penalties_have_the_closed_form_of_a_quadratic_critic(name: str) -> None:
    torch.manual_seed(1)
    critic, gamma = Quadratic(), 0.7
    model = AdversarialModel(networks()[0], critic, 3, SHAPE, **{name: gamma}).double()
    batch = batches(1, size=6)[0]
    model.set_noise([torch.Generator().manual_seed(5)])
    terms = model.critic_loss(batch)
    model.set_noise([torch.Generator().manual_seed(5)])
    x = batch[0] * 2 - 1 if name == "r1" else model.fakes(6).detach()
    expected = gamma / 2 * (x.flatten(1) @ (critic.A + critic.A.T) / 2).square().sum(1).mean()
    assert torch.allclose(terms[name], expected, atol=1e-12)
    assert torch.allclose(zero_centred_penalty(critic, x).mean() * gamma, expected, atol=1e-12)
    model.set_noise([torch.Generator().manual_seed(5)])
    game = model.critic_loss(batch, regularise=0.0)["loss"]
    assert torch.allclose(terms["loss"], game + expected, atol=1e-12)
    (gradient,) = torch.autograd.grad(terms[name], critic.A)
    assert torch.allclose(gradient, torch.autograd.grad(expected, critic.A)[0], atol=1e-12)


@pytest.mark.parametrize("options", [{"r1": 0.5}, {"r1": 0.5, "r2": 0.5}, {"penalty": 10.0}])
def test_lazy_penalty_times_its_interval_equals_the_eager_one_in_expectation(options: dict[str, float]) -> None:
    """Over one interval of batches that are all the same, with the same noise, the sums are equal."""
    sums, counts = [], []
    torch.manual_seed(0)
    batch = batches(1)[0]
    for lazy in (1, 4):
        model = AdversarialModel(*networks(), 3, SHAPE, lazy=lazy, **options).double()
        losses: dict[str, list[float]] = {}
        with recorded(model, losses):
            for i in range(8):
                model.set_noise([torch.Generator().manual_seed(3)])
                model.training_step(batch, i)
                counts.append("r1" in model.terms or "penalty" in model.terms)
        sums.append(sum(losses["critic"]))
    assert sums[0] == pytest.approx(sums[1], rel=1e-12)
    assert counts == [True] * 8 + [True, False, False, False] * 2


def test_lazy_critic_takes_shorter_steps_with_longer_memory() -> None:
    eager, lazy = (tiny(R3GAN, lazy=k, betas=(0.5, 0.9)).players()["critic"] for k in (1, 4))
    assert lazy.lr == pytest.approx(0.8 * eager.lr) and lazy.betas == pytest.approx((0.5**0.8, 0.9**0.8))
    assert tiny(R3GAN, lazy=4).players()["generator"].lr == 1e-2


def test_validation_sees_the_whole_penalty_without_gradients_being_on() -> None:
    model, batch = tiny(R3GAN, lazy=4), batches(1)[0]
    values = []
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        model.set_noise([torch.Generator().manual_seed(3)])
        with mode():
            terms = model.loss(tuple(t.clone() for t in batch))  # type: ignore[arg-type]
        values.append({k: float(v.detach()) for k, v in terms.items()})
    assert values[0] == values[1] == values[2] and values[0]["r1"] > 0 and values[0]["r2"] > 0


# -- the step ----------------------------------------------------------------------------------------------------------


@quiet
@pytest.mark.parametrize("name", CLASSES)
def test_one_step_is_one_batch(name: str) -> None:
    model = tiny(CLASSES[name], n_critic=2)
    trainer, recorder = fit(model, batches(3), 4)
    assert trainer.global_step == 4
    assert recorder.moved(0) == [True] * 4 and recorder.moved(1) == [False, True] * 2
    gradients = [t["critic_gradient"] for t in recorder.terms if "critic_gradient" in t]
    assert len(gradients) == 1 and gradients[0] > 0 and "generator_gradient" in recorder.terms[1]


def test_constant_of_a_pairing_critic_is_frozen() -> None:
    for cls, frozen in ((R3GAN, 1), (WGAN, 1), (SNGAN, 0), (GAN, 0)):
        model = tiny(cls)
        assert sum(not p.requires_grad for p in model.parameters()) == frozen
    assert not tiny(R3GAN, num_classes=3).critic.head.bias.requires_grad


@quiet
def test_clipped_weights_stay_within_the_bound_after_each_step() -> None:
    model = tiny(WGAN, clip=0.02, n_critic=2)

    class Largest(Recorder):
        largest: list[float] = []

        def on_train_batch_end(self, trainer: Any, module: Any, *_: object) -> None:
            self.largest.append(float(state(module.critic).abs().max()))

    recorder = Largest()
    trainer = _trainer(5, recorder)
    trainer.fit(model, _loader(batches(5)), _loader(batches(1)))
    assert len(recorder.largest) == 5 and all(v == pytest.approx(0.02) for v in recorder.largest)
    assert float(state(model.generator).abs().max()) > 0.02
    assert all(type(o) is torch.optim.RMSprop and o.defaults["momentum"] == 0 for o in model.configure_optimizers())


@quiet
def test_average_of_the_generator_is_the_one_computed_by_hand() -> None:
    model, ema = tiny(GAN, n_critic=2), EMA(0.9)
    recorder = Recorder()
    _trainer(6, ema, recorder).fit(model, _loader(batches(6)), _loader(batches(1)))
    mean = recorder.states[0][1]
    for t, (_, generator) in enumerate(recorder.states[1:]):
        decay = min(0.9, (1 + t) / (10 + t))
        mean = decay * mean + (1 - decay) * generator
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    kept = [m.flatten() for n, m in zip(names, ema._mean, strict=True) if n.startswith("generator")]
    assert torch.allclose(torch.cat(kept), mean, atol=1e-12)


def _trainer(steps: int, *callbacks: Any) -> Any:
    import lightning.pytorch as pl

    return pl.Trainer(
        accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=list(callbacks), num_sanity_val_steps=0,
        limit_val_batches=0,
    )  # fmt: skip


def _loader(data: list[Any]) -> Any:
    from torch.utils.data import DataLoader

    return DataLoader(data, batch_size=None)


# -- spectral normalisation --------------------------------------------------------------------------------------------


def test_a_layer_that_starts_at_zero_has_a_norm_to_be_divided_by() -> None:
    torch.manual_seed(0)
    critic = ResidualCritic([4], [1, 8, 8], 4)
    zeros = [n for n, p in critic.named_parameters() if n.endswith("weight") and not p.any()]
    untouched = critic.inner.state_dict()[next(n for n in critic.inner.state_dict() if n.endswith("weight"))].clone()
    model, x = SNGAN(MLP([3, 64]), critic, 3, [1, 8, 8]), torch.rand(2, 1, 8, 8)
    assert zeros and torch.isfinite(model.loss((x, torch.zeros(2, dtype=torch.int64)))["loss"])
    assert all(bool(m.weight.any()) and bool(m.weight.isfinite().all()) for m in normalise_layers(critic, (nn.Conv2d,)))
    first = next(m for m in critic.inner.modules() if isinstance(m, nn.Conv2d))
    assert torch.equal(first.parametrizations.weight.original, untouched)  # what has a norm starts as it did


@pytest.mark.parametrize("conditional", [False, True])
def test_each_layer_of_the_critic_has_largest_singular_value_one(conditional: bool) -> None:
    torch.manual_seed(0)
    options = {"num_classes": 3, "features": 4, "class_dim": 2} if conditional else {}
    critic = DCGANCritic([4, 6], [1, 8, 8], out=4 if conditional else 1, batch_norm=False)
    model = SNGAN(MLP([5 if conditional else 3, 64]), critic, 3, [1, 8, 8], **options)
    x, y = torch.rand(2, 1, 8, 8), torch.tensor([0, 2])
    for _ in range(60):  # the power iteration warms up
        model.score(x, y if conditional else None)
    model.eval()
    found = {
        n: torch.linalg.matrix_norm(m.weight.flatten(1), 2).item()
        for n, m in model.critic.named_modules()
        if hasattr(m, "parametrizations")
    }
    assert len(found) == 3 + 2 * conditional
    assert all(value == pytest.approx(1, abs=5e-2) for value in found.values()), found
    assert not any(hasattr(m, "parametrizations") for m in model.generator.modules())


# -- classes, batches, augmentation ------------------------------------------------------------------------------------


def test_projection_is_the_product_with_the_class_and_the_generator_is_told_it() -> None:
    model = tiny(SNGAN, num_classes=4)
    critic = ProjectionCritic(nn.Linear(6, 5).double(), 4, 5).double()
    x, y = torch.randn(7, 6).double(), torch.arange(7) % 4
    phi = nn.functional.leaky_relu(critic.net(x), 0.2)
    expected = (
        phi @ critic.head.weight[0]
        + critic.head.bias
        + torch.stack([critic.embedding.weight[k] @ p for k, p in zip(y, phi, strict=True)])
    )
    assert torch.allclose(critic(x, y)[:, 0], expected)
    told = ClassInput(nn.Identity(), 4, 2).double()
    assert torch.equal(told(x, y), torch.cat([x, told.embedding.weight[y]], 1))
    z = torch.randn(2, 3).double()
    assert not torch.equal(model.decode(z, torch.tensor([0, 1])), model.decode(z, torch.tensor([1, 1])))
    assert torch.equal(model.sample(4, seed=0), model.sample(4, seed=0, labels=[0, 1, 2, 3]))
    terms = model.loss((torch.rand(4, *SHAPE).double(), torch.tensor([0, 1, 2, 3])))
    assert torch.isfinite(terms["loss"])
    with pytest.raises(ConfigError, match="give labels"):
        model.decode(z)
    with pytest.raises(ConfigError, match="features"):
        SNGAN(*networks(), 3, SHAPE, num_classes=4)


def test_deviation_is_that_of_neighbours() -> None:
    x = torch.randn(6, 2, 3, 3, dtype=torch.float64)
    y = MinibatchDeviation(2)(x)
    assert torch.equal(y[:, :2], x) and y.shape == (6, 3, 3, 3)
    for i in range(0, 6, 2):
        expected = x[i : i + 2].std(0, correction=0).mean()
        assert torch.allclose(y[i : i + 2, 2], expected.expand(2, 3, 3), atol=1e-4)
    assert torch.equal(MinibatchDeviation(4)(x)[:, :2], x)  # 6 does not divide into fours: groups of 3
    halves = torch.cat([MinibatchDeviation(3)(part) for part in x.chunk(2)])
    assert torch.equal(MinibatchDeviation(4)(x), halves)


def test_batch_norm_judges_data_and_samples_apart() -> None:
    torch.manual_seed(0)
    shape = [1, 8, 8]
    model = DCGAN(DCGANGenerator(3, [4, 4], shape), DCGANCritic([4, 4], shape), 3, shape)
    assert model.apart and not tiny(GAN).apart
    x = torch.rand(4, *shape)
    terms = model.critic_loss((x, torch.zeros(4)))
    model.critic.eval()
    assert torch.isfinite(terms["loss"])
    model.critic.train()
    calls: list[int] = []
    model.critic.register_forward_hook(lambda m, inputs, out: calls.append(len(inputs[0])))
    model.critic_loss((x, torch.zeros(4)))
    assert calls == [4, 4]
    weights = torch.cat([p.flatten() for n, p in model.named_parameters() if "layers" in n and p.ndim > 1])
    assert weights.detach().std() == pytest.approx(0.02, rel=0.1)


def test_models_are_rebuilt_from_plain_data_with_their_options() -> None:
    for cls in CLASSES.values():
        model = tiny(cls, num_classes=3, augment=0.6)
        again = build(model.spec).double()
        again.load_state_dict(model.state_dict())
        assert torch.equal(again.sample(3, seed=1), model.sample(3, seed=1))
        assert "augmentation.p" in model.state_dict()


def test_game_on_latents_fits_the_autoencoder_that_is_named() -> None:
    entry, autoencoder, cost = second_stage(load_registry()["gat-mnist"], "vae-mnist")
    model = entry.build_model()
    assert model.autoencoder.spec == autoencoder.spec and list(cost) == ["vae-mnist"]
    assert not any(p.requires_grad for p in model.autoencoder.parameters()) and not model.train().autoencoder.training
    assert model.generate(torch.randn(2, model.latent_dim)).shape == (2, autoencoder.latent_dim)
    x = torch.rand(3, 1, 28, 28)
    model.set_noise([torch.Generator().manual_seed(0)])
    mean, log_var = model.autoencoder.posterior(x)
    drawn = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(model.given((x, torch.zeros(3)))[0], mean + (log_var / 2).exp() * drawn)
    with pytest.raises(ConfigError, match="no Gaussian posterior"):
        second_stage(load_registry()["gat-mnist"], "vq_vae-mnist")


def test_penalty_from_two_scores_estimates_the_squared_gradient() -> None:
    """Of a linear critic, whose gradient is its weight; the mean over draws, within 4 standard errors."""
    torch.manual_seed(0)
    autoencoder = VAE(MLP([16, 12]), MLP([6, 16]), SHAPE, 6)
    critic = MLP([6, 1])
    model = GAT(autoencoder, MLP([3, 6]), critic, 3, sigma=0.3).double()
    _, estimate = model._scored(torch.zeros(20_000, 6, dtype=torch.float64), None, True)
    expected = critic.layers[0].weight.square().sum()
    assert abs(estimate.mean() - expected) < 4 * estimate.std() / 20_000**0.5
    assert model._scored(torch.zeros(2, 6, dtype=torch.float64), None, False)[1] is None


@pytest.mark.parametrize(
    ("wrong", "word"), [({"lazy": 0}, "lazy"), ({"r1": -1.0}, "negative"), ({"augment": 1.5}, "augment")]
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        AdversarialModel(*networks(), 3, SHAPE, **wrong)


# -- candidates --------------------------------------------------------------------------------------------------------


class _Ratio(nn.Module):
    """log p / q of two standard normals, p around 1 and q around 0."""

    def forward(self, x: Tensor) -> Tensor:
        return x - 0.5


def _shifted(**options: Any) -> GAN:
    return GAN(nn.Identity(), _Ratio(), 1, [1], bounded=False, **options).eval()


def test_candidates_chosen_by_the_true_ratio_come_from_the_data() -> None:
    model = _shifted()
    drawn = {k: model.sample(20_000, seed=0, candidates=k).double() for k in (1, 64)}
    assert abs(float(drawn[1].mean())) < 0.03
    assert abs(float(drawn[64].mean()) - 1) < 0.06 and abs(float(drawn[64].var()) - 1) < 0.06


def test_sharpness_zero_chooses_blindly_and_more_of_it_goes_further() -> None:
    model = _shifted(candidates=16)
    means = [float(model.sample(4_000, seed=0, sharpness=beta).mean()) for beta in (0.0, 1.0, 4.0)]
    assert abs(means[0]) < 0.06 and means[0] < means[1] < means[2]
    assert torch.equal(model.sample(8, seed=0), model.sample(8, seed=0, candidates=16, sharpness=1.0))
    assert torch.equal(model.sample(8, seed=0, candidates=1), _shifted().sample(8, seed=0))


class _ToldNoise(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z[:, 1:] * 10  # what the embedding of the class says


def test_candidates_of_a_conditional_model_are_judged_with_their_label() -> None:
    model = GAN(_ToldNoise(), MLP([1, 4]), 1, [1], num_classes=5, class_dim=1, features=4, bounded=False).eval()
    labels = [0, 1, 2, 3, 4]
    told = model.generator.embedding.weight.detach().flatten() * 10
    for k in (1, 200):
        torch.testing.assert_close(model.sample(5, seed=0, labels=labels, candidates=k).flatten(), told)


def test_candidates_cost_calls_and_are_checked() -> None:
    assert _shifted().calls({}) == 1 and _shifted(candidates=8).calls_per_sample == 17
    with pytest.raises(ConfigError, match="candidates"):
        _shifted(candidates=0)
    with pytest.raises(ConfigError, match="sharpness"):
        _shifted().sample(1, candidates=2, sharpness=-1.0)
