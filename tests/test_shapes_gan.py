"""Adversarial models on pictures of any shape: both players follow the data, with classes and without."""

from __future__ import annotations

from pathlib import Path

import pytest
import shapes
import torch
from torch import nn

from zoo.errors import ConfigError
from zoo.families.adversarial import AdversarialModel
from zoo.families.stylegan import StyleGAN
from zoo.fitting import fitted_model
from zoo.registry import load_registry
from zoo.spec import build
from zoo.training.fit import Run

GANS = shapes.entries(AdversarialModel)
CONDITIONAL = [n for n in GANS if load_registry()[n].model["init_args"].get("num_classes")]
USUAL = {"r3gan-mnist": (3, 32, 32), "wgan_gp-mnist": (1, 20, 28), "gat-mnist": (1, 16, 16)}
"""What the default suite fits; the long tests fit every model to every shape."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes.folder_of(tmp_path_factory.mktemp("pictures") / "pics")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param(name, shape, marks=[] if USUAL.get(name) == shape else [pytest.mark.slow])
        for name in GANS
        for shape in shapes.SHAPES
    ],
)
def test_own_pictures_are_fitted_drawn_scored_saved_and_loaded(
    name: str, shape: tuple[int, int, int], pictures: Path, tmp_path: Path
) -> None:
    on = None
    if name == "gat-mnist":
        shapes.fit("vae_small", pictures, shape, tmp_path / "first")
        on = {"autoencoder": tmp_path / "first"}
    model = shapes.fit(name, pictures, shape, tmp_path / "run", on=on)
    assert model.num_classes == (3 if name in CONDITIONAL else 0)
    shapes.uses(model, shape, tmp_path / "saved")


def players(name: str, shape: tuple[int, ...], classes: int = 0, **options: object) -> AdversarialModel:
    spec = load_registry()[name].model
    chosen = {**spec["init_args"], **options}
    return build(fitted_model(spec, chosen, shape, classes, levels=256, named=set(options)))


@pytest.mark.parametrize("name", GANS)
def test_on_its_own_data_an_entry_stays_as_it_is_written(name: str) -> None:
    assert shapes.stays_as_written(name)


@pytest.mark.parametrize("name", [n for n in GANS if n not in ("gat-mnist", "stylegan3-mnist")])
def test_networks_of_larger_pictures_are_convolutions_that_grow_from_4x4(name: str) -> None:
    """No layer of either player mixes the pixels of a 64 x 64 picture; channels double to 512 towards 4 x 4.

    ProGAN's critic has one more there, the spread of the batch; StyleGAN3 has one width at all resolutions.
    """
    model = players(name, (3, 64, 64))
    for player in (model.generator, model.critic):
        layers = [*player.modules()]
        linear = [m for m in layers if isinstance(m, nn.Linear)]
        assert all(max(m.in_features, m.out_features) <= 513 * 4 * 4 for m in linear)
        widest = [p.shape[:2] for p in player.parameters() if p.ndim == 4]
        assert max(max(w) for w in widest) in (512, 513) and len(widest) >= 4
    assert sum(p.numel() for p in model.parameters()) < 24e6


@pytest.mark.parametrize("name", CONDITIONAL)
def test_conditional_models_are_told_the_classes_of_the_data_or_none(name: str) -> None:
    told, untold = players(name, (1, 16, 16), 3), players(name, (1, 16, 16), 0)
    assert told.num_classes == 3 and untold.num_classes == 0
    assert told.sample(2, seed=0, labels=2).shape == untold.sample(2, seed=0).shape == (2, 1, 16, 16)
    with pytest.raises(ConfigError, match="label"):
        told.sample(2, seed=0, labels=3)


@pytest.mark.parametrize("name", ["gan-mnist", "wgan_gp-mnist", "stylegan-mnist", "gat-mnist"])
def test_classes_can_be_asked_of_models_that_have_none(name: str) -> None:
    model = players(name, (1, 28, 28), 10, num_classes=10)
    assert model.sample(2, seed=0, labels=torch.tensor([0, 9])).shape == (2, 1, 28, 28)


@pytest.mark.parametrize("shape", [(3, 48, 64), (1, 32, 20), (3, 28, 56)])
def test_styles_modulate_pictures_that_are_not_square(shape: tuple[int, int, int]) -> None:
    model = players("stylegan-mnist", shape)
    assert isinstance(model, StyleGAN) and model.sample(2, seed=0).shape == (2, *shape)


def test_chosen_parts_of_a_network_are_kept_while_the_rest_follows(pictures: Path) -> None:
    options = ["--trainer.max_steps", "1", "--model.generator.init_args.blocks", "2", "--model.latent_dim", "24"]
    run = Run(shapes.recipe("r3gan", pictures, (3, 32, 32)), options)
    generator = run.model.spec["init_args"]["generator"]["init_args"]
    assert generator["blocks"] == 2 and generator["latent_dim"] == 24 + 16 and generator["shape"] == [3, 32, 32]


@pytest.mark.parametrize("name", ["dcgan-mnist", "stylegan-mnist", "r3gan-mnist"])
def test_sizes_that_cannot_be_halved_are_refused_with_sizes_that_can(name: str, pictures: Path) -> None:
    said = "images of 50 x 50 cannot be halved 3 times, .*; set --data.size to 48 or 56$"
    with pytest.raises(ConfigError, match=said):
        Run(shapes.recipe(name, pictures, (3, 50, 50)), ["--trainer.max_steps", "1"])
