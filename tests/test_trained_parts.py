"""Parts that are trained before a model, and parts that only its training needs: declared by the class alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from prototypes.energetic import Energy
from torch import Tensor, nn

import zoo
from zoo.abilities import Denoises, Travels
from zoo.errors import ConfigError
from zoo.families.ddpm import DDPM
from zoo.families.flow_matching import FlowMatching
from zoo.families.gan import GAN
from zoo.families.latent_diffusion import AutoencoderKL, LatentDiffusion
from zoo.model import Draw, ImplicitModel, TrainedPart
from zoo.nets.mlp import MLP
from zoo.nets.unet import UNet
from zoo.registry import Entry, load_registry
from zoo.trained_parts import declared, declared_by, fitted

SHAPE, GRID = [1, 4, 4], [2, 2, 2]


def autoencoder() -> AutoencoderKL:
    return AutoencoderKL(MLP([16, 16]), MLP([8, 16]), SHAPE, GRID, "bernoulli")


def net() -> UNet:
    return UNet(2, widths=[4, 8], embedding=8)


PRIORS = {
    "diffusion": lambda: DDPM(net(), GRID, levels=None, table=20, steps=3),
    "flow": lambda: FlowMatching(net(), GRID, levels=None, steps=2),
    "energy": lambda: Energy(MLP([8, 8, 1], activation="silu"), GRID, buffer=8),
}


@pytest.mark.parametrize("kind", PRIORS)
def test_any_model_of_continuous_data_is_a_prior_of_latents(kind: str) -> None:
    torch.manual_seed(0)
    prior = PRIORS[kind]()
    model = LatentDiffusion(autoencoder(), prior)
    passed = {name for name in prior.sampling_options() if name not in ("given", "known")}  # those are of examples
    assert set(model.sampling_options()) == passed and model.sampler({}) == {n: prior.sampler({})[n] for n in passed}
    assert model.family == prior.family and model.calls_per_sample == prior.calls_per_sample + 1
    assert model.calls({"steps": 9}) == prior.calls({"steps": 9}) + 1 > model.calls({})
    before = {name: value.clone() for name, value in model.state_dict().items() if name.startswith("autoencoder.")}
    (optimizer,) = model.configure_optimizers()
    model.set_noise([torch.Generator().manual_seed(0)])
    x = torch.rand(4, *SHAPE).round()
    for step in range(model.steps_to_move):
        model.train().training_step((x, torch.zeros(4, dtype=torch.int64)), step).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert set(model.terms) == set(prior.terms)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    drawn = model.sample(3, seed=0, steps=2)
    z = prior.eval().draw(3, torch.Generator().manual_seed(0), None, steps=2)
    torch.testing.assert_close(drawn, model.decode(z))
    assert isinstance(model, Denoises) == (kind == "diffusion") and isinstance(model, Travels) == (kind == "flow")
    if kind == "flow":
        states, times = copy.deepcopy(model).trajectory(2, seed=0, frames=3)
        assert states.shape == (3, 2, *SHAPE) and len(times) == 3
    bare = model.released()
    assert not any("replay" in name for name in bare.state_dict()) and (bare is model) == (kind != "energy")
    assert torch.equal(bare.sample(3, seed=0), model.sample(3, seed=0))


def test_prior_whose_players_take_turns_is_refused() -> None:
    gan = GAN(MLP([2, 8]), MLP([8, 1]), 2, GRID)
    gan.levels = None
    with pytest.raises(ConfigError, match=r"the prior is a GAN, whose players take turns.*zoo\.families\.gat\.GAT"):
        LatentDiffusion(autoencoder(), gan)


# -- gradients inside a sampler ----------------------------------------------------------------------------------------


class Grouped(Energy):
    """Computes requests side by side."""

    def granule(self, options: Mapping[str, Any]) -> int:
        return 4


class Leaking(Energy):
    """Forgets to let go of the graph."""

    def chain(self, x: Tensor, noise: list[Tensor]) -> Tensor:
        with torch.enable_grad():
            return x * self.network.layers[0].weight.sum()


def test_a_chain_draws_the_same_alone_and_beside_others() -> None:
    torch.manual_seed(0)
    model = Grouped(MLP([4, 8, 1], activation="silu"), [4], steps=5).double()
    asked = [Draw(3, 1), Draw(2, 2), Draw(4, 3)]
    calls: list[int] = []
    together = model.sample_many(asked, check=lambda: calls.append(1))
    for draw, x in zip(asked, together, strict=True):
        assert torch.equal(x, model.sample(draw.n, seed=draw.seed)) and not x.requires_grad
    assert len(calls) > 5 and all(p.grad is None and p.requires_grad for p in model.parameters())
    model.train()
    with torch.enable_grad():  # as the pictures' callback does, in the middle of training
        assert not model.sample(2, seed=0).requires_grad and model.training


@pytest.mark.parametrize("n", [2, 4])
def test_no_sample_holds_on_to_a_graph(n: int) -> None:
    for cls in (Leaking, type("LeakingTogether", (Leaking,), {"granule": lambda self, options: 4})):
        model = cls(MLP([4, 8, 1]), [4])
        x = model.sample(n, seed=0)
        assert x.grad_fn is None and not x.requires_grad


# -- what only training needs ------------------------------------------------------------------------------------------


def test_parts_of_training_inside_other_models_are_shed() -> None:
    model = LatentDiffusion(autoencoder(), PRIORS["energy"]())
    assert list(model.state_of_training()) == ["prior.replay"]
    bare = model.released()
    assert bare.prior.replay is None and model.prior.replay is not None and bare.released() is bare
    assert bare.spec == model.spec and not bare.state_of_training()


def test_more_than_fits_is_not_made_for_a_loaded_model(monkeypatch: pytest.MonkeyPatch) -> None:
    import prototypes.energetic as module

    from zoo.hub import folder

    monkeypatch.setattr(folder, "_MOST_FOR_TRAINING", 1_000)
    spec = Energy(MLP([4, 8, 1]), [4], buffer=64).spec
    with pytest.raises(zoo.ZooError, match="that only training needs"):
        folder._published(spec, (module.__name__,))
    small = folder._published(Energy(MLP([4, 8, 1]), [4], buffer=8).spec, (module.__name__,))
    assert small.replay is None


# -- declarations ------------------------------------------------------------------------------------------------------


def test_every_declaration_holds_for_its_own_example() -> None:
    """The example can be the part, and the entry that is fitted to it builds."""
    registry = load_registry()
    found = set()
    for entry in registry.values():
        for part, declaration in declared(entry.model["class_path"]).items():
            key = entry.model["class_path"], part
            if key in found or (entry.model.get("init_args") or {}).get(part) is None:
                continue
            found.add(key)
            example = registry.resolve(declaration.example).build_model()
            arguments, taken, held = fitted(entry, part, example, declaration.example)
            assert declaration.can_be(taken) and not held and arguments[part] == taken.spec
    assert {part for _, part in found} == {"autoencoder", "base", "teacher", "start", "tokenizer"} and len(found) >= 6


def test_options_of_the_command_line_are_no_names_of_parts() -> None:
    class Clashing(ImplicitModel):
        trained_parts = {"run": TrainedPart("nothing", "vae-mnist", nn.Module, "legs")}

    import prototypes.energetic as module

    module.Clashing = Clashing  # type: ignore[attr-defined]
    try:
        with pytest.raises(ConfigError, match="calls a trained part 'run', but --run is another option"):
            declared("prototypes.energetic.Clashing", ("prototypes",))
    finally:
        del module.Clashing  # type: ignore[attr-defined]


def test_names_of_the_models_that_take_a_part() -> None:
    taught = [
        "parallel_wavenet-tones", "reflow-mnist", "rectified_flow-mnist", "consistency-mnist",
        "adversarial_distillation-mnist",
        "progressive_distillation-mnist",
    ]  # fmt: skip
    assert declared_by(load_registry(), "teacher") == taught
    assert declared_by(load_registry(), "elephant") == []
    entry = Entry("vae-mnist", "vae", model=load_registry()["vae-mnist"].model)
    with pytest.raises(ConfigError, match="vae-mnist takes no --teacher: its class takes no trained part"):
        fitted(entry, "teacher", zoo.load("vae-mnist"), "vae-mnist")


def test_parts_that_were_trained_on_different_data_ask_for_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo import api

    registry = load_registry()
    models = {name: registry[name].build_model() for name in ("vae-mnist", "gan-mnist")}
    data = {"vae-mnist": {"class_path": "zoo.data.mnist.MNIST", "init_args": {"batch_size": 9, "limit": 50}}}
    data["gan-mnist"] = {**data["vae-mnist"], "init_args": {"batch_size": 4, "limit": 50}}
    costs = {"vae-mnist": {"training_tflop": 2.0}, "gan-mnist": {}}
    monkeypatch.setattr(api, "_load", lambda which, device: (models[which], data[which], {"cost": costs[which]}))
    places = {name: dict(registry[which].model) for name, which in (("left", "vae-mnist"), ("right", "gan-mnist"))}
    blend = {"class_path": "prototypes.blended.Blended", "init_args": places}
    entry = Entry("blend-mnist", "blend", model=blend, data=registry["vae-mnist"].data, allow=("prototypes",))
    named = {"left": "vae-mnist", "right": "gan-mnist"}
    fitted_entry, parts, stages = api.with_parts(entry, named)
    assert stages == {"vae-mnist": 2.0, "gan-mnist": None} and set(parts) == {"left", "right"}
    own = registry["vae-mnist"].data["init_args"]["batch_size"]
    assert fitted_entry.data["init_args"] == {"batch_size": own, "limit": 50}
    data["gan-mnist"] = {"class_path": "zoo.data.mnist.BinaryMNIST", "init_args": {}}
    with pytest.raises(ConfigError, match=r"vae-mnist and gan-mnist were trained on different data; .* --data NAME"):
        api.with_parts(entry, named)
    assert api.with_parts(entry, named, keep_data=True)[0].data == entry.data
