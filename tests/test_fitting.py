"""Models that take the shape of the data: networks of an entry follow the data and the user's options."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import warm

from zoo.errors import ConfigError
from zoo.families.vae import VAE
from zoo.fitting import can_follow, fitted_model, fitted_to_data, halvings
from zoo.hub import load
from zoo.nets.conv import DownsamplingNet, UpsamplingNet
from zoo.nets.mlp import MLP
from zoo.registry import load_registry
from zoo.spec import build
from zoo.training.fit import Run

FITTED = ("vae-mnist", "vae-binary_mnist", "beta_vae-mnist", "cvae-mnist")


@pytest.mark.parametrize("name", FITTED)
def test_on_its_own_data_an_entry_stays_as_it_is_written(name: str) -> None:
    spec = load_registry()[name].model
    assert fitted_model(spec, spec["init_args"], [1, 28, 28], 10) == spec


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 64, 64), (1, 20, 28), (1, 16, 16), (1, 64, 48), (3, 16, 24)])
def test_networks_follow_the_shape_of_the_data(name: str, shape: tuple[int, ...]) -> None:
    spec = load_registry()[name].model
    model = build(fitted_model(spec, spec["init_args"], shape, 3)).eval()
    large = shape[1] * shape[2] > 28 * 28
    assert isinstance(model.encoder, DownsamplingNet if large else MLP)
    assert isinstance(model.decoder, UpsamplingNet if large else MLP)
    assert model.num_classes == (3 if name == "cvae-mnist" else 0)
    x = torch.rand(2, *shape).round()
    labels = torch.tensor([0, 2])
    model.set_noise([torch.Generator().manual_seed(0)])
    assert model.loss((x, labels))["loss"].isfinite()
    given = {"labels": labels} if model.num_classes else {}
    assert model.sample(2, seed=0, **given).shape == (2, *shape)
    assert model.log_prob(x, seed=0, **given).isfinite().all()


@pytest.mark.parametrize("changes", [{"latent_dim": 16}, {"scale": "shared"}, {"posterior_scale": 0.1}])
def test_networks_follow_the_arguments_that_are_chosen(changes: dict) -> None:
    spec = load_registry()["vae-mnist"].model
    chosen = {**spec["init_args"], **changes}
    model = build(fitted_model(spec, chosen, [1, 28, 28], 10, named=set(changes)))
    assert isinstance(model, VAE) and isinstance(model.encoder, MLP)
    assert model.sample(2, seed=0).shape == (2, 1, 28, 28)
    assert model.log_prob(torch.rand(2, 1, 28, 28), seed=0).isfinite().all()


def test_networks_that_the_user_gives_are_left_alone() -> None:
    spec = load_registry()["vae-mnist"].model
    fitted = fitted_model(spec, spec["init_args"], [3, 32, 32], 0, named={"encoder"})
    assert fitted["init_args"]["encoder"] == spec["init_args"]["encoder"]
    assert fitted["init_args"]["decoder"] != spec["init_args"]["decoder"]


def test_sizes_that_cannot_be_halved_are_refused_with_sizes_that_can() -> None:
    assert [halvings(sides) for sides in ([16, 16], [32, 32], [64, 48], [128, 128])] == [2, 3, 4, 5]
    with pytest.raises(ConfigError, match=r"images of 50 x 50 .* set --data.size to 48 or 56"):
        halvings([50, 50])
    assert halvings([48, 48]) == halvings([56, 56]) == 3
    assert [halvings(sides) for sides in ([18, 18], [36, 36], [32, 20])] == [1, 2, 2]  # a grid of 9, 9, and 8 x 5


def folder_of(path: Path, size: int) -> Path:
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for label in ("frog", "toad"):
        (path / label).mkdir(parents=True)
        for i in range(30):
            pixels = torch.randint(256, (size, size, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(path / label / f"{i}.png")
    return path


@pytest.mark.parametrize("name", [pytest.param("vae-mnist", marks=pytest.mark.slow), "cvae-mnist"])
def test_own_pictures_in_colour_are_fitted_saved_and_loaded(name: str, tmp_path: Path) -> None:
    entry = load_registry()[name]
    folder = folder_of(tmp_path / "pics", 40)
    data = {"class_path": "zoo.data.folder.ImageFolder", "init_args": {"folder": str(folder), "size": 32}}
    recipe = {"name": name, "model": entry.model, "data": data, "trainer": {}, "training": {}}
    args = [*warm.SMALL, "--data.batch_size", "8", "--model.latent_dim", "16", "--trainer.max_steps", "2"]
    model = load(str(Run(recipe, args, folder=tmp_path / "run").start()))
    assert model.shape == (3, 32, 32) and model.latent_dim == 16 and model.num_classes == (2 if "cvae" in name else 0)
    labels = {"labels": "frog"} if "cvae" in name else {}
    assert model.sample(2, seed=0, **labels).shape == (2, 3, 32, 32)


class Points:
    """What is asked of data, of points in the plane."""

    shape, num_classes, levels = (2,), 0, None


def test_no_model_meets_data_of_other_dimensions_with_a_fault() -> None:
    """What cannot follow them says so; what need not, or can, is another network or another error of its own."""
    refused = set()
    for name, entry in load_registry().items():
        try:
            if can_follow(entry.model["class_path"]):
                fitted_to_data(entry.model, entry.model.get("init_args") or {}, Points())
        except ConfigError as error:
            refused.add(name)
            assert "Error" not in str(error)
    assert {"wgan_gp-mnist", "ddpm-mnist", "var-mnist", "i_jepa-mnist", "transfusion-mnist_captions"} <= refused
    assert not {"vae-mnist", "ebm-eight_gaussians", "realnvp-mnist"} & refused
