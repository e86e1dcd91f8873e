"""Models of images pixel by pixel on pictures of any shape: levels, colours and scales follow the data."""

from __future__ import annotations

from pathlib import Path

import pytest
import shapes
import torch

from zoo.families.autoregressive import AutoregressiveModel
from zoo.families.pixelcnn_pp import PixelCNNpp
from zoo.families.raster import RasterModel
from zoo.fitting import fitted_model
from zoo.registry import load_registry
from zoo.spec import build

RASTER = shapes.entries(RasterModel)
USUAL = {"pixelcnn-mnist": (1, 20, 28), "gated_pixelcnn_cond-mnist": (1, 16, 16)}
"""What the default suite fits; the long tests fit every model to every shape."""


def fitted(name: str, shape: tuple[int, ...], classes: int = 0, levels: int = 256) -> AutoregressiveModel:
    spec = load_registry()[name].model
    return build(fitted_model(spec, spec["init_args"], shape, classes, levels=levels))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param(name, shape, marks=[] if USUAL.get(name) == shape else [pytest.mark.slow])
        for name in RASTER
        for shape in shapes.SHAPES
    ],
)
def test_own_pictures_are_fitted_drawn_scored_saved_and_loaded(
    name: str, shape: tuple[int, int, int], tmp_path: Path
) -> None:
    folder = shapes.folder_of(tmp_path / "pics")
    model = shapes.fit(name, folder, shape, tmp_path / "run")
    assert model.levels == 256 and model.num_classes == (3 if "cond" in name else 0)
    shapes.uses(model, shape, tmp_path / "saved", n=1)


@pytest.mark.parametrize("name", RASTER)
def test_on_its_own_data_an_entry_stays_as_it_is_written(name: str) -> None:
    assert shapes.stays_as_written(name)


@pytest.mark.parametrize("name", RASTER)
@pytest.mark.parametrize(("shape", "levels"), [((1, 12, 8), 2), ((3, 9, 6), 256), ((3, 6, 10), 2), ((1, 7, 5), 16)])
def test_levels_and_colours_are_those_of_the_data(name: str, shape: tuple[int, int, int], levels: int) -> None:
    model = fitted(name, shape, levels=levels)
    values = torch.randint(levels, (2, *shape), generator=torch.Generator().manual_seed(0))
    logits = model(values)
    assert logits.shape == (2, *shape, levels)
    torch.testing.assert_close(logits.softmax(-1).sum(-1), torch.ones(2, *shape))
    drawn = model.eval().sample(1, seed=0) * (levels - 1)
    torch.testing.assert_close(drawn, drawn.round())


def test_each_colour_keeps_as_many_channels_as_a_grey_level_had() -> None:
    grey, colour = fitted("gated_pixelcnn-mnist", (1, 16, 16)), fitted("gated_pixelcnn-mnist", (3, 16, 16))
    assert colour.spec["init_args"]["width"] == 3 * grey.spec["init_args"]["width"] == 96


@pytest.mark.parametrize(("sides", "scales"), [((20, 28), 3), ((18, 30), 2), ((17, 16), 1), ((64, 64), 3)])
def test_scales_are_as_many_as_the_sides_allow(sides: tuple[int, int], scales: int) -> None:
    model = fitted("pixelcnn_pp-mnist", (1, *sides))
    assert isinstance(model, PixelCNNpp) and model.spec["init_args"]["scales"] == scales
