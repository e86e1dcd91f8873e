"""Normalising flows on pictures of any shape: scales, squeezes and couplings follow the data and stay invertible."""

from __future__ import annotations

from pathlib import Path

import pytest
import shapes
import torch

from zoo.errors import ConfigError
from zoo.families.normalising_flow import NormalisingFlow
from zoo.fitting import fitted_model
from zoo.nets.timed_mlp import TimedMLP
from zoo.nets.unet import UNet
from zoo.registry import load_registry
from zoo.spec import build

FLOWS = shapes.entries(NormalisingFlow)
OF_IMAGES = [n for n in FLOWS if len(load_registry()[n].model["init_args"]["shape"]) == 3]
USUAL = {"nice-mnist": (1, 16, 16), "realnvp-mnist": (1, 20, 28), "glow-mnist": (1, 16, 16)}
"""What the default suite fits; the long tests fit every model to every shape."""


def fitted(name: str, shape: tuple[int, ...], levels: int | None = 256) -> NormalisingFlow:
    spec = load_registry()[name].model
    torch.manual_seed(0)
    return build(fitted_model(spec, spec["init_args"], shape, 0, levels=levels)).eval()


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param(name, shape, marks=[] if USUAL.get(name) == shape else [pytest.mark.slow])
        for name in FLOWS
        for shape in shapes.SHAPES
    ],
)
def test_own_pictures_are_fitted_drawn_scored_saved_and_loaded(
    name: str, shape: tuple[int, int, int], tmp_path: Path
) -> None:
    options = ["--model.steps", "2", "--model.solver", "euler"] if name.startswith("ffjord") else []
    model = shapes.fit(name, shapes.folder_of(tmp_path / "pics"), shape, tmp_path / "run", *options)
    assert model.levels == 256
    shapes.uses(model, shape, tmp_path / "saved")


@pytest.mark.parametrize("name", FLOWS)
def test_on_its_own_data_an_entry_stays_as_it_is_written(name: str) -> None:
    assert shapes.stays_as_written(name)


@pytest.mark.parametrize("name", OF_IMAGES)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 20, 28), (1, 18, 22), (3, 24, 16)])
def test_what_follows_the_shape_stays_invertible(name: str, shape: tuple[int, int, int]) -> None:
    model = fitted(name, shape)
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():  # no coupling stays the identity that it starts as
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        z, log_det = model.flow(x)
        assert z.flatten(1).shape == (2, x[0].numel()) and log_det.isfinite().all()
        torch.testing.assert_close(model.flow_inverse(z), x, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "argument", "found"), [("realnvp-mnist", "folds", [2, 2, 2, 1]), ("glow-mnist", "squeezes", [2, 2, 2, 2])]
)
def test_larger_pictures_get_more_scales(name: str, argument: str, found: list[int]) -> None:
    assert fitted(name, (3, 64, 64)).spec["init_args"][argument] == found


def test_levels_are_those_of_the_data() -> None:
    assert fitted("realnvp-mnist", (1, 28, 28), levels=2).levels == 2
    assert fitted("realnvp-mnist", (1, 28, 28), levels=2).log_prob(torch.ones(1, 1, 28, 28), seed=0) < 0


def test_a_flow_of_points_becomes_one_of_images() -> None:
    own, image = fitted("ffjord-eight_gaussians", (2,), None), fitted("ffjord-eight_gaussians", (1, 9, 12))
    assert isinstance(own.network, TimedMLP) and own.levels is None
    assert isinstance(image.network, UNet) and image.levels == 256


@pytest.mark.parametrize("name", ["realnvp-mnist", "glow-mnist"])
def test_sizes_that_cannot_be_halved_are_refused_with_sizes_that_can(name: str) -> None:
    with pytest.raises(ConfigError, match=r"50 x 50 cannot be halved 3 times, .* set --data.size to 48 or 56$"):
        fitted(name, (3, 50, 50))
