"""Every model can be pickled, saved by torch.save, deep-copied and sent to a process, whatever was done before."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
import warm
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from zoo.maths.objectives import OBJECTIVES, Objective
from zoo.model import GenerativeModel
from zoo.registry import load_registry

ONE_A_CLASS = warm.one_of_each()
DEAR_TO_DRAW = ("pixelcnn_pp", "gated_pixelcnn", "transformer", "wavenet", "vq_vae_prior", "rectified_flow")


def saved(model: GenerativeModel) -> GenerativeModel:
    """Return what torch.save and torch.load make of a model."""
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def pickled(model: GenerativeModel) -> GenerativeModel:
    return pickle.loads(pickle.dumps(model))


COPIES: list[Callable[[Any], Any]] = [pickled, saved, copy.deepcopy]


def assert_same(model: GenerativeModel, other: GenerativeModel) -> None:
    assert type(other) is type(model) or parametrize.is_parametrized(model)
    assert other.spec == model.spec and other.source == model.source and other.training == model.training
    mine, theirs = model.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert all(a is not b for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in other.parameters()]


def used(name: str) -> GenerativeModel:
    """Return a model of the registry that has computed a loss and, where that is quick, a sample."""
    model = load_registry().resolve(name).build_model()
    model.set_noise([torch.Generator().manual_seed(0)])
    terms = model.loss((torch.rand(2, *model.shape).round(), torch.zeros(2, *model.context, dtype=torch.long)))
    model.terms = {key: value.detach() for key, value in terms.items()}
    if model.generates and name.partition("-")[0] not in DEAR_TO_DRAW:
        options = {"steps": 2} if "steps" in model.sampling_options() else {}
        model.sample(1, seed=0, **options)
    return model


@pytest.mark.parametrize("name", ONE_A_CLASS)
def test_every_class_is_copied_after_use(name: str) -> None:
    model = used(name)
    for made in COPIES:
        assert_same(model, made(model))


@pytest.mark.parametrize("wrap", [parametrizations.spectral_norm, parametrizations.weight_norm])
def test_parametrised_models_are_copied_and_go_on_alike(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = tiny.gan(folder="unused").model.train()
    for layer in list(model.modules()):
        if isinstance(layer, nn.Linear):
            wrap(layer)
    x = torch.randn(3, 2)
    model.score(x)
    for made in COPIES:
        other = made(made(model))
        assert_same(model, other)
        assert parametrize.is_parametrized(next(m for m in other.modules() if hasattr(m, "parametrizations")))
        assert torch.equal(model.sample(3, seed=0), other.sample(3, seed=0))
        before = copy.deepcopy(model)
        for each in (before, other):
            torch.nn.init.ones_(next(each.critic.parameters()))
        assert torch.equal(before.score(x), other.score(x))  # what is computed follows the copy's own tensors
    with pytest.raises(RuntimeError, match="state_dict"):  # PyTorch's own refusal stays where the model is not asked
        pickle.dumps(wrap(nn.Linear(2, 2)))


def test_spectral_normalisation_of_the_registry_is_copied() -> None:
    model = load_registry().resolve("sn_gan").build_model().eval()
    for made in COPIES:
        other = made(model)
        assert_same(model, other)
        x = torch.rand(2, *model.shape)
        assert torch.equal(model.score(x), other.score(x))


def test_models_are_copied_after_training(tmp_path: Any) -> None:
    for make in (tiny.vae, tiny.gan):
        run = make("--trainer.max_steps", "2", folder=str(tmp_path / make.__name__))
        run.start()
        for made in COPIES:
            assert_same(run.model, made(run.model))


def test_objectives_stay_what_they_are() -> None:
    for known in OBJECTIVES.values():
        assert pickle.loads(pickle.dumps(known)) is known and copy.deepcopy(known) is known
    own = Objective(max, min, paired=True)
    assert pickle.loads(pickle.dumps(own)) == own


def _drawn(model: GenerativeModel) -> Any:
    torch.set_num_threads(1)
    return model.sample(2, seed=0).numpy()


@pytest.mark.slow
def test_models_are_sent_to_a_process_that_starts_anew() -> None:
    torch.set_num_threads(1)
    models = [load_registry().resolve(n).build_model() for n in ("sn_gan", "vae", "realnvp", "pixelcnn", "fsq")]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for model, there in zip(models, pool.map(_drawn, models), strict=True):
            assert (model.sample(2, seed=0).numpy() == there).all()
