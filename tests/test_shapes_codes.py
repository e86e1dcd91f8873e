"""Autoencoders with discrete codes, and priors over them, on pictures of any shape."""

from __future__ import annotations

from pathlib import Path

import pytest
import shapes
import torch

from zoo.errors import ConfigError
from zoo.families.discrete import DiscreteAutoencoder
from zoo.fitting import fitted_model
from zoo.registry import load_registry
from zoo.spec import build
from zoo.training.fit import Run

CODES = shapes.entries(DiscreteAutoencoder)
GRIDS = [n for n in CODES if len(load_registry()[n].model["init_args"].get("grid", ())) == 2]  # of images
SQUARE = ["infinity_tokenizer-mnist", "var_tokenizer-mnist"]
PRIOR = "vq_vae_prior-mnist"
USUAL = {"fsq-mnist": (3, 32, 32), "vqgan-mnist": (1, 20, 28), PRIOR: (1, 16, 16)}
"""What the default suite fits; the long tests fit every model to every shape."""


def spec_of(name: str, shape: tuple[int, ...], **options: object) -> dict:
    spec = load_registry()[name].model
    return fitted_model(spec, {**spec["init_args"], **options}, shape, 0, levels=256, named=set(options))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param(name, shape, marks=[] if USUAL.get(name) == shape else [pytest.mark.slow])
        for name in [*GRIDS, *SQUARE, PRIOR]
        for shape in shapes.SHAPES
        if name not in SQUARE or shape[1] == shape[2]
    ],
)
def test_own_pictures_are_fitted_drawn_scored_saved_and_loaded(
    name: str, shape: tuple[int, int, int], tmp_path: Path
) -> None:
    folder, on = shapes.folder_of(tmp_path / "pics"), None
    if name == PRIOR:
        shapes.fit("vq_vae", folder, shape, tmp_path / "first")
        on = {"autoencoder": tmp_path / "first"}
    shapes.uses(shapes.fit(name, folder, shape, tmp_path / "run", on=on), shape, tmp_path / "saved")


@pytest.mark.parametrize("name", [*CODES, PRIOR])
def test_on_its_own_data_an_entry_stays_as_it_is_written(name: str) -> None:
    assert shapes.stays_as_written(name)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize(
    ("sides", "grid"), [((32, 32), (8, 8)), ((64, 64), (16, 16)), ((128, 64), (16, 8)), ((20, 28), (5, 7))]
)
def test_grids_of_codes_end_at_16x16(name: str, sides: tuple[int, int], grid: tuple[int, int]) -> None:
    """Of two levels of codes the fine ones do."""
    model = build(spec_of(name, (3, *sides)))
    h, w = (max(4, s // 2) for s in grid) if name == "vq_vae2-mnist" and max(sides) > 32 else grid
    assert tuple(model.grid[1:]) == (h, w)
    codes = model.codes(torch.rand(1, 3, *sides))
    assert codes.shape == (1, *model.grid) and model.decode(codes).shape == (1, 3, *sides)


@pytest.mark.parametrize("name", GRIDS)
def test_codebooks_grow_with_colours_and_sides_and_not_otherwise(name: str) -> None:
    def quantisers(shape: tuple[int, int, int]) -> list[dict]:
        return [v for k, v in spec_of(name, shape)["init_args"].items() if k.startswith("quantiser")]

    own = [v for k, v in load_registry()[name].model["init_args"].items() if k.startswith("quantiser")]
    assert quantisers((1, 16, 16)) == own
    for grown in (quantisers((3, 16, 16)), quantisers((1, 64, 64))):
        assert all((q := build(spec)).size ** (q.groups if q.size == 2 else 1) >= 512 for spec in grown)


def test_a_chosen_quantiser_is_kept_and_the_networks_follow_it(tmp_path: Path) -> None:
    options = ["--trainer.max_steps", "1", "--model.quantiser.init_args.dim", "24"]
    folder = shapes.folder_of(tmp_path / "pics")
    spec = Run(shapes.recipe("vq_vae", folder, (3, 32, 32)), options).model.spec["init_args"]
    assert spec["quantiser"]["init_args"]["dim"] == spec["encoder"]["init_args"]["out"] == 24
    assert spec["decoder"]["init_args"]["features"] == 24 and spec["quantiser"]["init_args"]["size"] == 4


def test_a_prior_follows_the_tokenizer_that_follows_the_data() -> None:
    prior = build(spec_of(PRIOR, (3, 64, 48)))
    assert prior.prior.shape == prior.autoencoder.grid == (1, 16, 12) and prior.prior.levels == 512


def test_a_part_that_is_given_is_not_fitted_to_other_data(tmp_path: Path) -> None:
    """Its weights have the shape that they have; which data they take is said in one sentence."""
    folder = shapes.folder_of(tmp_path / "pics")
    part = shapes.fit("vq_vae", folder, (1, 16, 16), tmp_path / "first")
    entry = shapes.recipe(PRIOR, folder, (3, 32, 32))
    entry["model"] = {**entry["model"], "init_args": {**entry["model"]["init_args"], **_built_on(part)}}
    with pytest.raises(Exception, match=r"built for examples of shape \(1, 16, 16\), the data have \(3, 32, 32\)"):
        Run(entry, ["--trainer.max_steps", "1"], parts={"autoencoder": part})


def _built_on(part: DiscreteAutoencoder) -> dict:
    from zoo.families.code_prior import CodePrior

    fitted = CodePrior.trained_parts["autoencoder"].fitted
    assert fitted is not None
    return dict(fitted(load_registry()[PRIOR].model["init_args"], part))


@pytest.mark.parametrize("name", SQUARE)
def test_scales_end_at_16_and_are_those_of_squares(name: str) -> None:
    scales = spec_of(name, (3, 64, 64))["init_args"]["quantiser"]["init_args"]["scales"]
    assert scales[0] == 1 and scales[-1] == 16 and scales == sorted(set(scales))
    with pytest.raises(ConfigError, match=r"images of 20 x 28 are none; set --data.size to 20 or 28$"):
        spec_of(name, (1, 20, 28))


@pytest.mark.parametrize("name", ["titok_tuned-mnist", "gq_vae-mnist"])
def test_stages_follow_the_parts_that_follow_the_data(name: str) -> None:
    model = build(spec_of(name, (3, 32, 24)))
    x = torch.rand(2, 3, 32, 24)
    assert model.shape == (3, 32, 24) and model.decode(model.codes(x)).shape == x.shape


@pytest.mark.parametrize("name", [*GRIDS, PRIOR])
def test_sizes_that_cannot_be_halved_are_refused_with_sizes_that_can(name: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be halved 2 times, .* set --data.size to 16 or 20$"):
        spec_of(name, (1, 18, 18))
