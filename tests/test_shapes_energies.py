"""Energies and transport on pictures of any shape: networks, scales and steps follow the data."""

from __future__ import annotations

from pathlib import Path

import pytest
import shapes
import torch
from torch import nn

from zoo.families.diffflow import DiffFlow
from zoo.families.ebm import EBM
from zoo.families.energy_matching import EnergyMatching
from zoo.families.mmd_flow import MMDFlow
from zoo.families.mmd_generator import MMDGenerator
from zoo.families.noise_contrastive import NoiseContrastive
from zoo.families.uotm import UOTM
from zoo.fitting import fitted_model
from zoo.model import GenerativeModel
from zoo.nets.image_map import ImageMap
from zoo.registry import load_registry
from zoo.spec import build

ENERGIES = shapes.entries(EBM, EnergyMatching, UOTM, MMDGenerator, NoiseContrastive, MMDFlow, DiffFlow)
USUAL = {"ebm_cond-mnist": (1, 16, 16), "uotm-mnist": (3, 32, 32)}
"""What the default suite fits; the long tests fit every model to every shape."""

CHEAP = {
    "ebm": ["--model.buffer", "20", "--model.chain_steps", "2"],
    "energy_matching_cd": ["--model.chain_steps", "2"],
    "diffflow": ["--model.steps", "3"],
}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param(name, shape, marks=[] if USUAL.get(name) == shape else [pytest.mark.slow])
        for name in ENERGIES
        for shape in shapes.SHAPES
    ],
)
def test_own_pictures_are_fitted_drawn_scored_saved_and_loaded(
    name: str, shape: tuple[int, int, int], tmp_path: Path
) -> None:
    folder, on, short = shapes.folder_of(tmp_path / "pics"), None, name.partition("-")[0]
    if short == "energy_matching_cd":
        shapes.fit("energy_matching-mnist", folder, shape, tmp_path / "first")
        on = {"start": tmp_path / "first"}
    model = shapes.fit(name, folder, shape, tmp_path / "run", *CHEAP.get(short.removesuffix("_cond"), []), on=on)
    assert model.num_classes == (3 if name == "ebm_cond-mnist" else 0) and model.levels == 256
    shapes.uses(
        model, shape, tmp_path / "saved", **({"steps": 2} if short.startswith(("ebm", "nce", "diffflow")) else {})
    )


def fitted(name: str, shape: tuple[int, ...], classes: int = 0) -> GenerativeModel:
    spec = load_registry()[name].model
    return build(fitted_model(spec, spec["init_args"], shape, classes, levels=256))


@pytest.mark.parametrize("name", ENERGIES)
def test_on_its_own_data_an_entry_stays_as_it_is_written(name: str) -> None:
    assert shapes.stays_as_written(name)


def test_the_classes_of_a_joint_energy_are_those_of_the_data_or_none() -> None:
    told, untold = fitted("ebm_cond-mnist", (1, 16, 16), 3), fitted("ebm_cond-mnist", (1, 16, 16), 0)
    x = torch.rand(2, 1, 16, 16)
    assert told.network(x).shape == (2, 3) and untold.network(x).shape == (2, 1) and untold.num_classes == 0


@pytest.mark.parametrize("name", ["nce-eight_gaussians", "diffflow-eight_gaussians", "s_jko_mmd-eight_gaussians"])
def test_entries_of_points_take_pictures(name: str) -> None:
    model = fitted(name, (3, 16, 16)).train()
    model.set_noise([torch.Generator().manual_seed(0)])
    if isinstance(model, DiffFlow):
        model.steps = 2
    x = (torch.rand(4, 3, 16, 16) * 255).round() / 255
    assert bool(torch.isfinite(model.loss((x, torch.zeros(4, dtype=torch.long)))["loss"])) and model.levels == 256
    drawn = model.eval().sample(2, seed=0, **({} if isinstance(model, MMDFlow) else {"steps": 2}))
    assert drawn.shape == (2, 3, 16, 16) and 0 <= float(drawn.min()) <= float(drawn.max()) <= 1
    if isinstance(model, NoiseContrastive):
        assert model.log_prob(x[:1], seed=0).item() == pytest.approx(-768 * 5.545, rel=0.05)  # that of noise


def test_steps_and_scales_that_count_squared_distances_follow_the_number_of_pixels() -> None:
    ratio = 3 * 32 * 32 / 784
    assert fitted("s_jko-mnist", (3, 32, 32)).spec["init_args"]["h"] == pytest.approx(78.4 * ratio)
    assert fitted("energy_matching-mnist", (3, 32, 32)).scale == pytest.approx(100 * ratio)


def test_the_map_of_larger_pictures_is_convolutional_and_told_noise() -> None:
    model = fitted("uotm-mnist", (3, 64, 64))
    net = model.generator
    assert isinstance(net, ImageMap) and sum(p.numel() for p in net.parameters()) < 12e6
    assert all(m.in_features <= 100 for m in net.modules() if isinstance(m, nn.Linear))
    x, z = torch.randn(2, 3, 64, 64), torch.randn(2, 100)
    y = model.mapped(x, z)
    assert (
        y.shape == x.shape and not torch.equal(y, model.mapped(x, z + 1)) and not torch.equal(y, model.mapped(x + 1, z))
    )


def test_the_buffer_of_large_pictures_fits_in_memory() -> None:
    spec = load_registry()["ebm-mnist"].model
    whole = fitted_model(spec, spec["init_args"], (3, 256, 256), 0, levels=256)["init_args"]
    assert whole["buffer"] * 3 * 256 * 256 <= 2**27
