"""Names filtered and sorted, what is known of one, transforms of its data, features only, methods, results as CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import zoo
from zoo._cli import main
from zoo.abilities import HasFeatures
from zoo.catalogue import natural
from zoo.data.mnist import read_mnist
from zoo.data.model_input import ModelInput
from zoo.errors import ConfigError, DataError, UnknownModelError
from zoo.families.pixelcnn import PixelCNN
from zoo.families.vae import VAE
from zoo.feature_extractor import FeatureExtractor
from zoo.hub import save_pretrained
from zoo.leaderboard import COLUMNS, bundled_folder, collect, pins_of, tables, to_csv
from zoo.registry import load_registry

ROOT = Path(__file__).resolve().parents[1]


# -- names ------------------------------------------------------------------------------------------------------------


def test_names_are_filtered_by_exclusion() -> None:
    names = zoo.list("*mnist*", pretrained=True, exclude_filters=["*_cond*", "vae-*"])
    assert names and not any("_cond" in n or n.startswith("vae-") for n in names)
    assert zoo.list("vae*", exclude_filters="*") == []
    assert zoo.list("vae-*", exclude_filters="*-tiles") == [n for n in zoo.list("vae-*") if not n.endswith("-tiles")]
    with pytest.raises(ConfigError, match="exclude_filters must be a string such as"):
        zoo.list(exclude_filters=[3])


@pytest.mark.parametrize("sort", ["fid", "kid", "precision", "parameters", "tflop", "samples_per_second", "likelihood"])
def test_names_are_sorted_by_what_was_measured_the_best_first(sort: str) -> None:
    names = zoo.list(sort=sort)
    assert sorted(names) == sorted(zoo.list())
    key = {"tflop": "training_tflop"}.get(sort, sort)
    results = {r.identity.name: r for r in collect([bundled_folder()], pins_of(load_registry()))[0]}
    values = [COLUMNS[key].value(results[n]) if n in results else None for n in names]
    known = [v for v in values if v is not None]
    assert len(known) > 10 and known == sorted(known, reverse=COLUMNS[key].best == "high")
    assert all(v is None for v in values[len(known) :])  # what was not measured comes last


def test_names_are_sorted_by_facts_of_their_entries() -> None:
    registry = load_registry()
    assert zoo.list() == list(registry) and zoo.list("vq*", sort="name") == sorted(zoo.list("vq*"), key=natural)
    years = [registry[n].paper.get("year") for n in zoo.list(sort="year")]
    assert years == sorted(y for y in years if y) + [None] * years.count(None)
    with pytest.raises(ConfigError, match=r"no 'fidd' to sort by. Did you mean 'fid'\?"):
        zoo.list(sort="fidd")


def test_natural_order_takes_numbers_as_numbers() -> None:
    assert sorted(["a10", "a9", "a", "b1"], key=natural) == ["a", "a9", "a10", "b1"]


def test_the_command_lists_as_the_function_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "*-mnist", "--pretrained", "--exclude", "*cond*", "--exclude", "vae*", "--sort", "fid"]) == 0
    shown = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert shown == zoo.list("*-mnist", pretrained=True, exclude_filters=["*cond*", "vae*"], sort="fid")
    assert main(["list", "--sort", "nothing"]) == 2 and "nothing" in capsys.readouterr().err


def test_info_says_what_is_known_without_loading() -> None:
    known = zoo.info("vae")
    result = next(r for r in collect([bundled_folder()])[0] if r.identity.name == "vae-mnist")
    assert (known.name, known.dataset, known.shape, known.pretrained) == ("vae-mnist", "mnist", (1, 28, 28), True)
    assert known.metrics["fid"] == result.metrics["fid"].value and known.parameters == result.cost.parameters
    assert known.protocol["extractor"] == "digit-classifier" and known.protocol["split"] == "test"
    assert known.sha256 == result.identity.weights_sha256 and known.bytes > 1e6 and known.installed
    assert known.citation.startswith("@misc{kingma2013") and known.recipe["trainer"]["max_steps"] > 0
    assert str(known).startswith("vae-mnist (vae, 760,416 parameters; weights: installed): ") and "fid 11.56" in str(
        known
    )
    empty = zoo.info("ffjord")
    assert not empty.pretrained and empty.metrics == {} and empty.shape is None and "weights: none" in str(empty)
    assert zoo.info("ddpm_cond-tiles").class_names
    with pytest.raises(UnknownModelError):
        zoo.info("veea")


# -- transforms -------------------------------------------------------------------------------------------------------


def test_transforms_make_examples_of_pictures_paths_and_arrays(tmp_path: Path) -> None:
    digits, _ = read_mnist("t10k")
    transform = zoo.transforms("vae-mnist")
    Image.fromarray(digits[0, 0].numpy()).save(tmp_path / "digit.png")
    x = transform(tmp_path / "digit.png")
    assert torch.equal(x, digits[0].float() / 255) and torch.equal(transform(str(tmp_path / "digit.png")), x)
    assert torch.equal(transform(digits[0]), x) and torch.equal(transform(digits[0, 0].numpy()), x)
    assert torch.equal(transform([digits[0], tmp_path / "digit.png"]), torch.stack([x, x]))
    assert torch.equal(transform(digits[:3]), digits[:3].float() / 255) and torch.equal(transform(x), x)
    assert (
        np.array_equal(np.asarray(transform.inverse(x)), digits[0, 0].numpy()) and len(transform.inverse(x[None])) == 1
    )
    wide = Image.new("RGBA", (200, 100), (255, 0, 0, 0))
    assert transform(wide).shape == (1, 28, 28) and transform(wide).min() == 1  # transparent is white
    assert zoo.transforms("vae-mnist", background="black")(wide).max() == 0
    binary = zoo.transforms("vae-binary_mnist")(digits[:2])
    assert torch.equal(binary, (digits[:2] > 127).float())
    colour = zoo.transforms("dcgan-tiles")(wide.convert("RGB"))
    assert colour.shape == (3, 32, 32) and torch.equal(colour[:, 0, 0], torch.tensor([1.0, 0, 0]))


def test_transforms_of_objects_texts_and_what_has_none(tmp_path: Path) -> None:
    folder = save_pretrained(zoo.create("pixelcnn-mnist"), tmp_path / "mine")
    assert zoo.transforms(folder).shape == zoo.transforms(zoo.create("pixelcnn-mnist")).shape == (1, 28, 28)
    texts = zoo.transforms("transformer-shakespeare")
    line = "Now is the winter of our discontent\n" * 20
    assert texts.inverse(texts(line)) == line[: len(texts.inverse(texts(line)))] and texts(line).dtype == torch.int64
    for wrong, said in ((line[:3], "has 256 characters"), ("\u00df" * 300, "is not among"), (3, "takes a text")):
        with pytest.raises(DataError, match=said):
            texts(wrong)
    with pytest.raises(ConfigError, match="which no picture or text becomes"):
        zoo.transforms("ffjord-eight_gaussians")
    with pytest.raises(ConfigError, match="unknown resize 'fit'"):
        zoo.transforms("vae-mnist", resize="fit")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (torch.zeros(3, 5, 5), "arrays are not resized"), (torch.full((1, 28, 28), 2.0), "values in .0, 1.; this"),
        (torch.full((1, 28, 28), torch.nan), "values in .0, 1."), ([], "nothing in the list"), (7, "got a int"),
        ("nowhere.png", "cannot be read: No such file"), (__file__, "is no picture"),
    ],
)  # fmt: skip
def test_transforms_refuse_what_is_no_example(wrong: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        ModelInput("mnist", (1, 28, 28))(wrong)


# -- features, methods ------------------------------------------------------------------------------------------------


class _OwnFeatures(HasFeatures, zoo.GenerativeModel):
    shape, generates, feature_dim = (1, 4, 4), False, 5

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 5)

    def features(self, x: torch.Tensor, *, pool: str | None = "mean") -> torch.Tensor:
        return self.layer(x.flatten(1))


def test_features_only_is_the_encoder_of_the_model() -> None:
    x = read_mnist("t10k")[0][:3].float() / 255
    vae, features = zoo.load("vae-mnist"), zoo.load("vae-mnist", features_only=True)
    assert isinstance(features, FeatureExtractor) and features.kind == "posterior_mean"
    assert torch.equal(features(x), vae.posterior(x)[0]) and features(x).shape[1:] == features.feature_shape
    features(x).sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in features.parameters())
    told = zoo.load("cvae-mnist", features_only=True)
    assert not torch.equal(told(x, torch.tensor([1, 1, 1])), told(x, torch.tensor([2, 2, 2])))
    codes = zoo.load("vq_vae-mnist", features_only=True)
    assert codes.kind == "codes" and torch.equal(codes(x), codes.model.embed(codes.model.codes(x)))
    latents = zoo.create("autoencoder_kl-mnist", features_only=True)
    assert latents.kind == "latents" and latents(x).shape == (3, *latents.feature_shape)
    own = FeatureExtractor(_OwnFeatures())
    assert own.kind == "features" and own.feature_shape == (5,) and "feature_shape=(5,)" in repr(own)
    with pytest.raises(ConfigError, match="PixelCNN has no features of examples"):
        zoo.create("pixelcnn", features_only=True)


def test_methods_do_what_the_functions_do(tmp_path: Path) -> None:
    model = PixelCNN.from_pretrained("pixelcnn-mnist")
    assert type(model) is PixelCNN and torch.equal(
        model.sample(2, seed=3), zoo.load("pixelcnn-mnist").sample(2, seed=3)
    )
    with pytest.raises(
        ConfigError, match=r"pixelcnn-mnist is a PixelCNN, not a VAE; load it by PixelCNN.from_pretrained"
    ):
        VAE.from_pretrained("pixelcnn-mnist")
    folder = model.save_pretrained(tmp_path / "mine")
    again = zoo.GenerativeModel.from_pretrained(folder, dtype=torch.float64)
    assert again.dtype == torch.float64 and again.source.kind == "folder"
    pushed, same = model.push_to_hub("me/mine", dry_run=True), zoo.push(model, "me/mine", dry_run=True)
    assert pushed == same and pushed.commit is None and "model.safetensors" in pushed.files


# -- results as CSV ---------------------------------------------------------------------------------------------------


def test_results_lie_in_the_repository_as_csv_and_are_those_of_the_weights(capsys: pytest.CaptureFixture[str]) -> None:
    results, left_out = collect([bundled_folder()], pins_of(load_registry()))
    text = to_csv(tables(results))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert left_out == [] and {r["name"] for r in rows if r["family"]} == {r.identity.name for r in results}
    one = next(r for r in rows if r["name"] == "vae-mnist")
    vae = next(r for r in results if r.identity.name == "vae-mnist")
    assert float(one["fid"]) == vae.metrics["fid"].value and one["unit"] == "bits/dim" and one["kind"] == "iwae-100"
    assert one["weights_sha256"] == vae.identity.weights_sha256 and one["command"] == vae.command
    assert any(r["name"].endswith("(floor)") and float(r["fid"]) < 1 for r in rows if r["dataset"] == "mnist")
    assert main(["leaderboard", "--csv", "--dataset", "mnist"]) == 0
    listed = [r["name"] for r in csv.DictReader(io.StringIO(capsys.readouterr().out))]
    assert listed == [r["name"] for r in rows if r["dataset"] == "mnist"]
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("the tests were copied out of their checkout")
    kept = (ROOT / "benchmarks" / "results" / "leaderboard.csv").read_text(encoding="utf-8")
    assert kept == text, "renew it: python -m zoo.leaderboard benchmarks/results/leaderboard.csv"
