"""Every image model of the registry on pictures of any shape: it follows them, or says which sizes it takes.

The long tests fit each to all shapes, draw, score, save and load; the default suite does so for one model of each kind
that is told a time, and looks at what all of them would be made of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import shapes
import torch
import warm

import zoo
from zoo.errors import ConfigError, DataError
from zoo.families.discrete import DiscreteAutoencoder
from zoo.families.guided import Guided
from zoo.families.latent_diffusion import AutoencoderKL, LatentDiffusion
from zoo.fitting import fitted_model, fitted_to_data
from zoo.maths.ode_likelihood import rows_at_once
from zoo.nets.dit import patch_of
from zoo.registry import Entry, load_registry
from zoo.sizes import SIZES, sized_model
from zoo.spec import build, class_of
from zoo.training.cli import EntryCLI
from zoo.training.fit import Run

Shape = tuple[int, int, int]


def _class_of(entry: Entry) -> type:
    return class_of(entry.model["class_path"])


DIGITS = [e for e in load_registry().values() if not warm.is_large(e)]  # in colour they are the same classes
IMAGES = [
    e.name
    for e in DIGITS
    if len(e.build_data().shape) == 3
    and not issubclass(_class_of(e), DiscreteAutoencoder)
    and "alphabet" not in e.model["init_args"]
]
"""All image models but autoencoders with codes, and those that are told texts, whose shapes have tests of their own."""

TIMED = [n for n in IMAGES if issubclass(class_of(load_registry()[n].model["class_path"]), Guided)]
TIMED += ["interpolant-eight_gaussians"]
LATENT = [
    n for n in IMAGES if issubclass(class_of(load_registry()[n].model["class_path"]), (AutoencoderKL, LatentDiffusion))
]
USUAL: dict[str, Shape] = {
    "dit-mnist": (1, 20, 28),
    "ddpm-mnist": (1, 16, 16),
    "consistency-mnist": (1, 16, 16),
    "flow_matching_cond-mnist": (1, 20, 28),
    "latent_diffusion-mnist": (3, 32, 32),
}
"""What the default suite fits."""

REFUSED: dict[tuple[str, Shape], str] = {
    (name, (1, 20, 28)): r"those of squares, images of 20 x 28 are none; set --data.size to 20 or 28$"
    for name in ("infinity-mnist", "var-mnist", "var_cond-mnist")
}
"""Models that take no pictures of one of the shapes, and the sentence in which they say so."""

BINARY = ("vae-binary_mnist",)
"""Models of pixels that are 0 or 1, which grey and coloured ones are not."""


def spec_of(name: str, shape: tuple[int, ...], classes: int = 3, **options: Any) -> dict[str, Any]:
    """Return the spec of a model for pictures of this shape."""
    spec = load_registry()[name].model
    return fitted_model(spec, {**spec["init_args"], **options}, shape, classes, levels=256, named=set(options))


def network_of(spec: dict[str, Any]) -> dict[str, Any]:
    return spec["init_args"]["network"]["init_args"]


def _shapes_in(spec: dict[str, Any]) -> Iterator[tuple[int, ...]]:
    """Yield the shapes that a model and its parts say, at any depth."""
    arguments = spec["init_args"]
    if "shape" in arguments:
        yield tuple(arguments["shape"])
    for value in arguments.values():
        if isinstance(value, dict) and "init_args" in value:
            yield from _shapes_in(value)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_every_image_model_follows_the_shape_or_says_why_not(name: str, shape: Shape) -> None:
    if (name, shape) in REFUSED:
        with pytest.raises(ConfigError, match=REFUSED[name, shape]):
            spec_of(name, shape)
        return
    spec = spec_of(name, shape)
    shaped = list(_shapes_in(spec))
    assert shape in shaped, f"{name} stays at {shaped}"


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param(name, shape, marks=[] if USUAL.get(name) == shape else [pytest.mark.slow])
        for name in [*IMAGES, "interpolant-eight_gaussians"]
        for shape in shapes.SHAPES
        if (name, shape) not in REFUSED and name not in BINARY
    ],
)
def test_own_pictures_are_fitted_drawn_scored_saved_and_loaded(name: str, shape: Shape, tmp_path: Path) -> None:
    """Parts that are trained before a model stay as they begin here."""
    model = shapes.fit(name, shapes.folder_of(tmp_path / "pics"), shape, tmp_path / "run")
    shapes.uses(model, shape, tmp_path / "saved", n=2)


@pytest.mark.parametrize("name", BINARY)
def test_a_model_of_binary_pixels_says_what_it_takes(name: str, tmp_path: Path) -> None:
    pictures = shapes.folder_of(tmp_path / "pics")
    with pytest.raises(DataError, match="one of pixels that are 0 or 1, the data have 256 levels: choose binary data"):
        shapes.fit(name, pictures, (3, 32, 32), tmp_path / "run")


@pytest.mark.parametrize("name", [*TIMED, *LATENT, "transformer-shakespeare", "wavenet-tones"])
def test_on_its_own_data_an_entry_stays_as_it_is_written(name: str) -> None:
    entry = load_registry()[name]
    assert fitted_to_data(entry.model, entry.model["init_args"], entry.build_data()) == entry.model


# -- networks that are told a time ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ddpm-mnist", "flow_matching-mnist", "edm-mnist", "interpolant-eight_gaussians"])
def test_a_larger_image_gets_the_unet_of_the_papers(name: str) -> None:
    spec = spec_of(name, (3, 64, 64))
    network = network_of(spec)
    assert network["widths"] == [64, 128, 256, 512] and network["attention"] == [2, 3] and network["blocks"] == 2
    assert network["patch"] == 1 and spec["init_args"]["lr"] <= 2e-4
    unet = build(spec["init_args"]["network"])
    assert 15e6 < sum(p.numel() for p in unet.parameters()) < 30e6
    assert len(network_of(spec_of(name, (3, 128, 128)))["widths"]) == 5
    assert network_of(spec_of(name, (3, 256, 192)))["patch"] == 2


@pytest.mark.parametrize("sides", [(16, 16), (20, 28), (27, 25), (8, 12), (4, 4)])
@pytest.mark.parametrize("name", ["ddpm-mnist", "flow_matching_cond-mnist"])
def test_smaller_images_keep_the_stages(name: str, sides: tuple[int, int]) -> None:
    spec, own = spec_of(name, (1, *sides)), load_registry()[name].model["init_args"]
    assert network_of(spec)["widths"] == own["network"]["init_args"]["widths"] and spec["init_args"]["lr"] == own["lr"]
    labels = torch.zeros(1, dtype=torch.long) if spec["init_args"].get("num_classes") else None
    x = torch.rand(1, 1, *sides)
    assert build(spec["init_args"]["network"])(x, torch.zeros(1), labels).shape == x.shape


@pytest.mark.parametrize(
    ("shape", "patch", "width"),
    [((1, 16, 16), 2, 96), ((1, 20, 28), 4, 96), ((3, 32, 32), 2, 384), ((3, 64, 64), 4, 384), ((3, 128, 96), 8, 384)],
)
def test_a_transformer_has_as_many_patches_as_the_papers(shape: Shape, patch: int, width: int) -> None:
    network = network_of(spec_of("dit-mnist", shape))
    assert (network["patch"], network["width"]) == (patch, width)
    assert network["size"] == (shape[1] if shape[1] == shape[2] else list(shape[1:]))


def test_sides_that_cannot_be_cut_into_patches_are_refused_with_sizes_that_can() -> None:
    assert patch_of([29, 29], 256) == 1 and patch_of([100, 100], 256) == 10
    with pytest.raises(ConfigError, match=r"images of 37 x 37 cannot be cut .* set --data.size to 36 or 39$"):
        spec_of("dit-mnist", (3, 37, 37))
    assert patch_of([36, 36], 256) == 3 and patch_of([39, 39], 256) == 3


@pytest.mark.parametrize("name", LATENT)
@pytest.mark.parametrize(("sides", "grid"), [((32, 32), (8, 8)), ((64, 48), (16, 12)), ((128, 128), (16, 16))])
def test_latents_are_a_map_of_at_most_16x16_and_a_prior_follows_it(
    name: str, sides: tuple[int, int], grid: tuple[int, int]
) -> None:
    model = build(spec_of(name, (3, *sides)))
    first = model.autoencoder if isinstance(model, LatentDiffusion) else model
    assert first.grid == (4, *grid) and first.latents(torch.rand(1, 3, *sides)).shape == (1, 4, *grid)
    if first is not model:
        assert model.prior.shape == first.grid and model.latent_shape == first.grid
    with pytest.raises(ConfigError, match=r"cannot be halved 2 times, .* set --data.size to 16 or 20$"):
        spec_of(name, (3, 18, 18))


def test_points_and_images_change_places() -> None:
    with pytest.raises(ConfigError, match=r"UNet is a network of images, .* have shape \(2,\)"):
        spec_of("ddpm-mnist", (2,))
    points = spec_of("interpolant-eight_gaussians", (5,))
    assert network_of(points)["features"] == 5 and network_of(points)["out_features"] == 10


# -- classes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in TIMED if load_registry()[n].model["init_args"].get("num_classes")])
def test_models_told_a_class_are_told_those_of_the_data_or_none(name: str) -> None:
    told, untold = spec_of(name, (1, 16, 16), 7), spec_of(name, (1, 16, 16), 0)
    assert told["init_args"]["num_classes"] == network_of(told)["num_classes"] == 7
    assert network_of(untold)["num_classes"] == 0 and untold["init_args"].get("guidance_scale", 1.0) == 1.0
    model = build(untold).eval()
    assert model.num_classes == 0 and model.sample(1, seed=0).shape == (1, 1, 16, 16)
    at_home = spec_of(name, load_registry()[name].build_data().shape, 4)
    own = load_registry()[name].model["init_args"]["network"]
    changed = {"class_path": own["class_path"], "init_args": {**own["init_args"], "num_classes": 4}}
    assert at_home["init_args"]["network"] == changed


def test_the_number_of_classes_can_be_that_of_the_data(tmp_path: Path) -> None:
    folder, bare = shapes.folder_of(tmp_path / "pics"), shapes.folder_of(tmp_path / "bare", classes=())
    one = ["--trainer.max_steps", "1"]
    for name, option in (("flow_matching", "--model.num_classes"), ("gan", "--model.init_args.num_classes")):
        model = Run(shapes.recipe(name, folder, (1, 16, 16)), [*one, option, "data"]).model
        assert model.num_classes == 3 and model.class_names == shapes.CLASSES
    prior = Run(shapes.recipe("latent_diffusion", folder, (1, 16, 16)), [*one, "--model.num_classes=data"]).model
    assert prior.num_classes == prior.prior.num_classes == 3
    with pytest.warns(UserWarning, match=r"ddpm_cond\S* is told the class of each example, and \S+ has no classes"):
        assert Run(shapes.recipe("ddpm_cond", bare, (1, 16, 16)), one).model.num_classes == 0
    with pytest.raises(ConfigError, match=r"told one of 4 classes, and \S+ has none; leave --model.num_classes out"):
        Run(shapes.recipe("ddpm_cond", bare, (1, 16, 16)), [*one, "--model.num_classes", "4"])
    with pytest.raises(ConfigError, match="the data have no classes, so num_classes cannot be theirs"):
        Run(shapes.recipe("ddpm", bare, (1, 16, 16)), [*one, "--model.num_classes", "data"])
    with pytest.raises(ConfigError, match="a VAE is told no class"):
        Run(shapes.recipe("vae", folder, (1, 16, 16)), [*one, "--model.num_classes", "data"])


# -- teachers and students --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("student", "teacher"), [("reflow", "flow_matching_small"), ("consistency", "edm")])
def test_a_student_is_made_as_its_teacher_is(student: str, teacher: str, tmp_path: Path) -> None:
    folder = shapes.folder_of(tmp_path / "pics")
    shapes.fit(teacher, folder, (3, 12, 16), tmp_path / "teacher", "--model.network.init_args.widths", "[16,24]")
    model = shapes.fit(student, folder, (3, 12, 16), tmp_path / "run", on={"teacher": tmp_path / "teacher"}, steps=1)
    first = zoo.load(tmp_path / "teacher")
    assert model.shape == (3, 12, 16) and model.num_classes == first.num_classes
    assert network_of(model.spec) == network_of(first.spec) and network_of(model.spec)["widths"] == [16, 24]


# -- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", warm.long(load_registry(), warm.LARGE))
def test_every_model_comes_in_three_sizes(name: str) -> None:
    spec = load_registry()[name].model
    if name in ("gq_vae-mnist", "titok_tuned-mnist", "bpe-shakespeare"):  # nothing of their own, or no network
        with pytest.raises(ConfigError, match="and its networks do not say what a size scales"):
            sized_model(spec, "large")
        return
    assert sized_model(spec, "base") == spec or build(sized_model(spec, "base")).spec == build(spec).spec
    small, base, large = (sum(p.numel() for p in build(sized_model(spec, size)).parameters()) for size in SIZES)
    assert small < base < large


def test_a_size_goes_with_the_shape_and_what_is_written_out_counts(tmp_path: Path) -> None:
    folder = shapes.folder_of(tmp_path / "pics")
    recipe, one = shapes.recipe("ddpm", folder, (3, 64, 64)), ["--trainer.max_steps", "1"]
    small = Run(recipe, [*one, "--model.size", "small"]).model.spec
    assert network_of(small)["widths"] == [32, 64, 128, 256] and network_of(small)["blocks"] == 2
    args = [*one, "--model.size=small", "--model.network.init_args.widths", "[16,32]", "--model.steps", "3"]
    mixed = Run(shapes.recipe("ddpm", folder, (1, 16, 16)), [*args, "--model.network.init_args.heads", "2"]).model.spec
    assert network_of(mixed)["widths"] == [16, 32] and network_of(mixed)["embedding"] == 32
    assert mixed["init_args"]["steps"] == 3 and network_of(mixed)["heads"] == 2
    large = Run(shapes.recipe("ddpm", folder, (1, 16, 16)), [*one, "--model.size", "large"]).model.spec
    assert network_of(large)["widths"] == [64, 128] and network_of(large)["blocks"] == 2


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--model.size", "huge"], "unknown size 'huge'"),
        (["--model.size"], "--model.size takes one of small, base, large"),
        (["--model.size", "large", "--config", "x.yaml"], "a configuration has all widths written out"),
        (["--model", "zoo.families.pixelcnn.PixelCNN", "--model.size", "large"], "is for the model of ddpm-mnist"),
    ],
)
def test_sizes_that_cannot_be_are_refused(args: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        EntryCLI(warm.entry("ddpm"), args)


def test_a_class_that_declares_no_size_is_refused() -> None:
    spec = {"class_path": "zoo.nets.activations.Missing", "init_args": {}}
    with pytest.raises(ConfigError):
        sized_model(spec, "large")
    spec = {"class_path": "zoo.maths.schedules.EDM", "init_args": {}}
    with pytest.raises(ConfigError, match="EDM and its networks do not say what a size scales"):
        sized_model(spec, "large")


# -- the same from Python, and what it costs --------------------------------------------------------------------------


def test_python_makes_the_model_that_the_command_trains(tmp_path: Path) -> None:
    recipe = shapes.recipe("ddpm_cond", shapes.folder_of(tmp_path / "pics"), (3, 20, 16))
    run = Run(recipe, ["--trainer.max_steps", "1", "--model.size", "small", "--model.steps", "7"])
    made = zoo.create("ddpm_cond", data=run.data, size="small", steps=7)
    assert made.spec == run.model.spec and made.num_classes == 3 and made.source.name == "ddpm_cond-mnist"
    assert zoo.create("flow_matching", data=run.data, num_classes="data").num_classes == 3
    assert zoo.create("vae", data="binary_mnist", latent_dim=16, likelihood="bernoulli").latent_dim == 16
    assert zoo.create("ddpm").spec == load_registry()["ddpm-mnist"].build_model().spec
    with pytest.raises(ConfigError, match="is that of data; say which"):
        zoo.create("ddpm", num_classes="data")


def test_nothing_is_parsed_twice_that_does_not_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = EntryCLI._parsed
    calls: list[int] = []
    monkeypatch.setattr(EntryCLI, "_parsed", lambda self, *args: calls.append(1) or parsed(self, *args))
    EntryCLI(warm.entry("ddpm"), ["--model.steps", "7"])
    assert len(calls) == 1
    EntryCLI(warm.entry("ddpm"), ["--model.num_classes", "3"])
    assert len(calls) == 3


# -- texts and sound --------------------------------------------------------------------------------------------------


def test_texts_have_their_own_alphabet_and_length(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("abcdefg abba\n" * 60, encoding="utf-8")
    data = {"path": str(tmp_path / "text.txt"), "length": 24}
    recipe = {**warm.entry("transformer"), "data": {"class_path": "zoo.data.text.TextFile", "init_args": data}}
    model = Run(recipe, ["--trainer.max_steps", "1", "--data.batch_size", "2", "--model.size", "small"]).model
    assert model.alphabet == "\n abcdefg" and model.levels == 9 and model.shape == (24,)
    assert len(model.text(model.sample(1, seed=0, prompt="ab"))[0]) == 24
    image = fitted_model(
        recipe["model"], recipe["model"]["init_args"], (1, 8, 8), 0, levels=16, beside={"alphabet": None}
    )
    assert image["init_args"]["alphabet"] is None and build(image).shape == (1, 8, 8)


def test_sound_has_its_own_rate_and_length(tmp_path: Path) -> None:
    entry = warm.entry("wavenet")
    recipe = {**entry, "data": {**entry["data"], "init_args": {"length": 256, "rate": 4000, "batch_size": 2}}}
    model = Run(recipe, ["--trainer.max_steps", "1"]).model
    assert model.rate == 4000 and model.shape == (256,) and model.alphabet is None
    kept = Run(recipe, ["--trainer.max_steps", "1", "--model.rate", "8000"]).model
    assert kept.rate == 8000


@pytest.mark.parametrize(
    "name", warm.long(["ddpm-mnist", "score_sde-mnist", "flow_matching-mnist"], ("ddpm", "flow_matching"))
)
def test_likelihoods_of_larger_pictures_take_few_at_a_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rows_at_once((3, 32, 32), 250) == 250 and rows_at_once((3, 64, 64), 250) == 15
    spec = spec_of(name, (1, 8, 8), 0)
    for size, value in (("SMALL_IMAGE", 64), ("MEDIUM_IMAGE", 63)):
        monkeypatch.setattr(f"zoo.maths.ode_likelihood.{size}", value)
    module = class_of(spec["class_path"]).__mro__[1].__module__ if name.startswith("flow") else spec["class_path"]
    monkeypatch.setattr(f"{module.removesuffix('.DDPM').removesuffix('.ScoreSDE')}._ROWS", 2)
    if name.startswith("flow"):
        monkeypatch.setattr("zoo.families.velocity.MEDIUM_IMAGE", 63)
    model, seen = build(spec).eval(), []
    model.network.register_forward_pre_hook(lambda network, args: seen.append(len(args[0])))
    assert model.log_prob(torch.rand(5, 1, 8, 8), seed=0).shape == (5,) and set(seen) == {1, 2}


def test_a_model_with_a_size_of_its_own_gets_it() -> None:
    spec = EntryCLI(warm.entry("gq_vae-mnist"), ["--model.size", "32"]).config.as_dict()["model"]
    assert spec["init_args"]["size"] == 32
    with pytest.raises(ConfigError, match="do not say what a size scales"):
        EntryCLI(warm.entry("gq_vae-mnist"), ["--model.size=large"])
