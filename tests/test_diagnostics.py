"""Diagnostics against models whose latents are known, and the folder that they are written to."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import zoo
from zoo._cli import diagnose as command
from zoo._cli.main import main
from zoo.data.base import Split, TensorData
from zoo.diagnostics import (
    DIAGNOSTICS,
    Diagnosis,
    Subject,
    Usage,
    analogies,
    attribute_arithmetic,
    closest_classes,
    codebook_usage,
    decode,
    examine,
    interpolation,
    latent_scatter,
    posterior_collapse,
    reconstruct,
)
from zoo.diagnostics.catalogue import training_of
from zoo.diagnostics.moving import frames_in_plane, frames_of, sheets_of_training
from zoo.errors import ConfigError, DataError, ZooError
from zoo.families.cvae import CVAE
from zoo.families.vae import VAE
from zoo.images import save_png
from zoo.model import GenerativeModel, ImplicitModel
from zoo.nets.mlp import MLP


class Pixels(TensorData):
    """Forty images of 4 x 4 grey levels in four classes, brighter from class to class."""

    name, shape, num_classes = "pixels", (1, 4, 4), 4

    def read(self, split: str) -> Split:
        labels = torch.arange(40) % 4
        noise = torch.randint(0, 60, (40, 1, 4, 4), generator=torch.Generator().manual_seed(0))
        return (noise + 60 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels


class Identity(ImplicitModel):
    """Latents are the numbers of an example, in another order."""

    def __init__(self, shape: list[int], num_classes: int = 0) -> None:
        super().__init__()
        self.shape, self.num_classes, self.levels = tuple(shape), num_classes, None
        self.order = torch.randperm(math.prod(shape), generator=torch.Generator().manual_seed(0))

    def encode(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, self.order]

    def decode(self, z: Tensor) -> Tensor:
        return z[:, self.order.argsort()].view(-1, *self.shape)


class Told(Identity):
    """As `Identity`, but the class is taken off the example and added to what is decoded."""

    def encode(self, x: Tensor, labels: Tensor) -> Tensor:
        return super().encode(x) - labels[:, None]

    def decode(self, z: Tensor, labels: Tensor) -> Tensor:
        return super().decode(z + labels[:, None])


class Coded(ImplicitModel):
    """Two codebooks of 4: a code is the quarter of the grey scale that a pixel is in, or 3; the first is its vector."""

    codebook_size = 4

    def __init__(self, shape: list[int]) -> None:
        super().__init__()
        self.shape, self.levels = tuple(shape), 256

    def codes(self, x: Tensor) -> Tensor:
        k = (4 * x).long().clamp(max=3)
        return torch.cat([k, torch.full_like(k, 3)], 1)  # (B, 2, H, W)

    def encode(self, x: Tensor) -> Tensor:
        return self.codes(x)

    def decode(self, codes: Tensor) -> Tensor:
        return self.observation(self.embed(codes)).mean

    def embed(self, codes: Tensor) -> Tensor:
        return codes[:, :1].float()

    def observation(self, z: Tensor) -> Any:
        class P:
            mean = z / 3

        return P


def vae(**options: Any) -> VAE:
    return VAE(MLP([16, 12, 6]), MLP([3, 12, 32]), [1, 4, 4], 3, likelihood="discretized_logistic", **options)


def cvae() -> CVAE:
    return CVAE(MLP([20, 12, 6]), MLP([7, 12, 32]), [1, 4, 4], 3, 4, likelihood="discretized_logistic")


# -- collapse ----------------------------------------------------------------------------------------------------------


def test_collapse_report_equals_the_closed_forms_and_burdas_threshold():
    """Means 3 x_0, 0.099 x_1 (variance 0.0098), 0.101 x_2 (0.0102) and 7; variances 1/4, 1, 1, 1."""
    model = VAE(MLP([3, 8]), MLP([4, 3]), [3], 4, likelihood="gaussian", scale="shared").double()
    x = torch.randn(1300, 3, dtype=torch.float64)
    x = (x - x.mean(0)) / x.std(0)
    with torch.no_grad():
        layer = model.encoder.layers[0]
        layer.weight.zero_()
        layer.weight[[0, 1, 2], [0, 1, 2]] = torch.tensor([3.0, 0.099, 0.101], dtype=torch.float64)
        layer.bias.copy_(torch.tensor([0, 0, 0, 7, -math.log(4), 0, 0, 0], dtype=torch.float64))
    report = posterior_collapse(model, x)
    square = x.square().mean(0)
    kl = torch.stack([(9 * square[0] + 0.25 - 1 + math.log(4)) / 2, 0.099**2 * square[1] / 2, 0.101**2 * square[2] / 2])
    torch.testing.assert_close(report.kl, torch.cat([kl, kl.new_tensor([24.5])]))
    torch.testing.assert_close(report.variance, torch.tensor([9, 0.099**2, 0.101**2, 0], dtype=torch.float64))
    assert report.active.tolist() == [True, False, True, False] and report.active_units == 2
    assert report.summary()["kl_nats"] == pytest.approx(float(report.kl.sum()))


def test_collapsed_posterior_has_no_active_unit_and_a_conditional_one_is_told_the_class():
    model = vae()
    x, y = Pixels().to_float(Pixels().read("test")[0]), Pixels().read("test")[1]
    for p in model.encoder.parameters():
        torch.nn.init.zeros_(p)
    report = posterior_collapse(model, x)
    assert report.active_units == 0 and float(report.kl.sum()) == 0
    conditional = cvae()
    expected = conditional.posterior(x, y)[0].detach().double()
    assert torch.allclose(posterior_collapse(conditional, x, y).variance, expected.var(0))


# -- codes -------------------------------------------------------------------------------------------------------------


def test_usage_counts_codes_of_each_codebook():
    x = torch.tensor([[0.0, 0.1, 0.3, 0.9], [0.05, 0.3, 1.0, 0.2]]).view(2, 1, 2, 2)  # codes 0 0 1 3, 0 1 3 0
    report = codebook_usage(Coded([1, 2, 2]), x)
    assert report.counts.tolist() == [[4, 2, 0, 2], [0, 0, 0, 8]]
    assert report.used == 4
    entropy = 0.5 * math.log(2) + 2 * 0.25 * math.log(4)
    assert report.entropy.tolist() == pytest.approx([entropy, 0])
    assert report.perplexity == pytest.approx((math.exp(entropy) + 1) / 2)
    summary = report.summary()
    assert summary["codes_per_example"] == 8 and summary["entropy_bits"] == pytest.approx(entropy / 2 / math.log(2))
    assert Usage(torch.full((1, 64), 7), 7).perplexity == pytest.approx(64)


# -- latents -----------------------------------------------------------------------------------------------------------


def test_scatter_is_the_plane_of_most_variance():
    torch.manual_seed(0)
    scales = torch.tensor([0.1, 5.0, 0.1, 2.0, 0.1, 0.1])
    x = torch.randn(3000, 6).double() * scales
    report = latent_scatter(Identity([6]), x)
    centred = x - x.mean(0)
    for axis, column in ((0, 1), (1, 3)):
        correlation = torch.corrcoef(torch.stack([report.points[:, axis], centred[:, column]]))[0, 1]
        assert abs(correlation) > 0.999
        share = float(centred[:, column].square().sum() / centred.square().sum())
        assert report.explained[axis] == pytest.approx(share, abs=1e-3)
    assert report.class_share is None
    plane = x[:, [1, 3]]
    torch.testing.assert_close(
        latent_scatter(Identity([2]).double(), plane).points, Identity([2]).double().encode(plane)
    )
    assert sum(latent_scatter(Identity([2]), plane).explained) == pytest.approx(1)
    assert latent_scatter(Identity([1]), plane[:, :1]).explained == (pytest.approx(1), 0)


def test_scatter_of_many_dimensions_is_the_same_plane():
    torch.manual_seed(0)
    x = torch.randn(400, 6).double() * torch.tensor([0.1, 5.0, 0.1, 2.0, 0.1, 0.1])
    wide = torch.cat([x, torch.zeros(400, 600)], 1)
    few, many = latent_scatter(Identity([6]), x), latent_scatter(Identity([606]), wide)
    torch.testing.assert_close(few.points.abs(), many.points.abs())
    state = torch.get_rng_state()
    assert torch.equal(latent_scatter(Identity([606]), wide).points, many.points)
    assert torch.equal(torch.get_rng_state(), state)


def test_share_of_variance_between_classes():
    labels = torch.arange(100) % 2
    x = torch.zeros(100, 3)
    x[:, 0] = labels * 2.0  # variance 1 between
    x[:, 1] = torch.arange(100).div(2, rounding_mode="floor") % 2 * 2.0  # variance 1 within
    assert latent_scatter(Identity([3]), x, labels).class_share == pytest.approx(0.5)


def test_interpolation_is_a_line_between_the_latents_of_its_ends():
    ends = torch.rand(2, 1, 3, 3)
    strip = interpolation(Identity([1, 3, 3]), ends, 5)
    for i in range(5):
        torch.testing.assert_close(strip[i], torch.lerp(ends[0], ends[1], torch.tensor(i / 4)))
    model = vae()
    images = torch.rand(2, 1, 4, 4)
    strip = interpolation(model, images, 3)
    torch.testing.assert_close(strip[[0, 2]], reconstruct(model, images))
    told = interpolation(Told([1, 3, 3], 4), ends, 5, torch.tensor([1, 3]))  # latents of class 1 and 3
    a, b = ends[0] - 1, ends[1] - 3
    expected = [torch.lerp(a, b, torch.tensor(i / 4)) + y for i, y in enumerate([1, 1, 1, 3, 3])]
    torch.testing.assert_close(told, torch.stack(expected))
    with pytest.raises(ConfigError, match="at least 2 steps"):
        interpolation(model, images, 1)


def test_arithmetic_adds_the_difference_of_the_means():
    x, labels = torch.rand(30, 1, 3, 3), torch.arange(30) % 5
    found = attribute_arithmetic(Identity([1, 3, 3]), x, labels, [0, 1], [3], count=4, shares=(0, 1, 2))
    low, high = x[(labels == 0) | (labels == 1)], x[labels == 3]
    vector = high.mean(0) - low.mean(0)
    assert found.images.shape == (4, 3, 1, 3, 3)
    for i in range(4):
        for j, t in enumerate((0, 1, 2)):
            torch.testing.assert_close(found.images[i, j], low[i] + t * vector)
    with pytest.raises(ConfigError, match="overlap"):
        attribute_arithmetic(Identity([1, 3, 3]), x, labels, [0, 1], [1])
    with pytest.raises(ConfigError, match=r"no examples with the labels \[9\]"):
        attribute_arithmetic(Identity([1, 3, 3]), x, labels, [0], [9])


def test_closest_classes_have_the_closest_means():
    labels = torch.tensor([2, 2, 5, 5, 7, 7])
    x = torch.tensor([[0.0], [0.2], [5.0], [5.2], [4.0], [4.2]])
    assert closest_classes(Identity([1]), x, labels) == (5, 7)
    with pytest.raises(ConfigError, match="two labels"):
        closest_classes(Identity([1]), x, torch.zeros(6, dtype=torch.long))


def test_analogies_decode_one_latent_under_every_class():
    x, labels = torch.rand(3, 1, 2, 2), torch.tensor([2, 0, 1])
    images = analogies(Told([1, 2, 2], 3), x, labels, 3)
    for i in range(3):
        for k in range(3):
            torch.testing.assert_close(images[i, k], x[i] - labels[i] + k)


def test_latents_of_codes_are_their_vectors():
    x = torch.tensor([[0.0, 0.3, 0.6, 0.9]]).view(1, 1, 2, 2)
    model = Coded([1, 2, 2])
    again = reconstruct(model, x)
    torch.testing.assert_close(again, torch.tensor([0, 1, 2, 3.0]).view(1, 1, 2, 2) / 3)
    torch.testing.assert_close(again, model.decode(model.encode(x)))
    torch.testing.assert_close(decode(model, torch.full((1, 1, 2, 2), 1.5)), torch.full((1, 1, 2, 2), 0.5))


# -- everything that fits ----------------------------------------------------------------------------------------------

ALWAYS = {"reconstructions", "interpolation", "scatter"}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (vae(), ALWAYS | {"posterior", "arithmetic"}),
        (cvae(), ALWAYS | {"posterior", "analogies"}),
        (Coded([1, 4, 4]), ALWAYS | {"codebook", "arithmetic"}),
        (Identity([1, 4, 4]), ALWAYS | {"arithmetic"}),
        (Identity([1, 4, 4], 4), ALWAYS | {"arithmetic"}),  # conditional elsewhere, such as in a prior over latents
    ],
    ids=["vae", "cvae", "codes", "identity", "untold"],
)
def test_abilities_decide_what_is_looked_at(model: GenerativeModel, expected: set[str], tmp_path: Path) -> None:
    model.train()
    found = examine(model, Pixels(), name="it")
    assert set(found.findings) == expected and model.training
    assert [n for n in DIAGNOSTICS if n in expected] == list(found.findings)
    folder = found.write(tmp_path / "a" / "b")
    names = {f"{n}.png" for n in expected} | {"diagnostics.png", "diagnostics.json"}
    assert {p.name for p in folder.iterdir()} == names
    summary = json.loads((folder / "diagnostics.json").read_text())
    assert summary == json.loads(json.dumps(found.summary()))
    assert summary["model"]["name"] == "it" and summary["data"] == {"name": "pixels", "split": "test", "examples": 40}
    for name, finding in found.findings.items():
        assert finding.picture.dtype == np.uint8 and finding.picture.shape[2] == 3
        picture = Image.open(io.BytesIO((folder / f"{name}.png").read_bytes()))
        assert picture.size == finding.picture.shape[1::-1] and finding.picture.std() > 0
    assert found.write(folder) == folder  # again, over the old files


def test_facts_are_the_numbers_of_the_functions() -> None:
    model, data = Identity([1, 4, 4]), Pixels()
    summary = examine(model, data).summary()["diagnostics"]
    assert (
        summary["reconstructions"]["mean_squared_error"] == 0 and summary["reconstructions"]["explained_variance"] == 1
    )
    assert summary["interpolation"]["examples"] == [0, 1] and len(set(summary["interpolation"]["labels"])) == 2
    steps = summary["interpolation"]["distance_between_steps"]
    assert steps == pytest.approx([steps[0]] * 10, rel=1e-4)
    without, having = summary["arithmetic"]["without"], summary["arithmetic"]["having"]
    assert abs(without[0] - having[0]) == 1  # neighbours in brightness
    assert summary["scatter"]["variance_between_classes"] > 0.5
    told = examine(Told([1, 4, 4], 4), data, only=["interpolation"]).summary()["diagnostics"]["interpolation"]
    assert told["examples"] == [0, 4] and len(set(told["labels"])) == 1
    found = examine(model, data, only=["arithmetic"], without=[0], having=[2, 3], examples=20)
    assert found.summary()["diagnostics"]["arithmetic"]["having"] == [2, 3] and found.about["data"]["examples"] == 20
    found = examine(model, data, only=["interpolation"], pair=(3, 5))
    assert found.summary()["diagnostics"]["interpolation"]["examples"] == [3, 5]


class Mute(ImplicitModel):
    def __init__(self, shape: list[int]) -> None:
        super().__init__()
        self.shape, self.levels = tuple(shape), 256


@pytest.mark.parametrize(
    ("model", "options", "error", "words"),
    [
        (Mute([1, 4, 4]), {}, ConfigError, "no diagnostic for Mute"),
        (vae(), {"only": ["posteriour"]}, ConfigError, "Did you mean 'posterior'"),
        (vae(), {"only": ["codebook"]}, ConfigError, "codebook does not apply to VAE"),
        (vae(), {"examples": 1}, DataError, "at least 2"),
        (vae(), {"pair": (0, 40)}, ConfigError, "between 0 and 39"),
        (vae(), {"without": [1]}, ConfigError, "both sets"),
        (Identity([1, 5, 5]), {}, DataError, "shape"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(
    model: GenerativeModel, options: dict[str, Any], error: type[ZooError], words: str
) -> None:
    with pytest.raises(error, match=words):
        examine(model, Pixels(), **options)


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written to"):
        Diagnosis({}, examine(Identity([1, 4, 4]), Pixels(), only=["scatter"]).findings).write(tmp_path / "file" / "x")


# -- names -------------------------------------------------------------------------------------------------------------


def test_bundled_model_by_name(tmp_path: Path) -> None:
    found = zoo.diagnose("vae-binary_mnist", examples=300, only=["posterior", "reconstructions"], out=tmp_path)
    summary = json.loads((tmp_path / "diagnostics.json").read_text())
    assert summary["model"]["weights_sha256"] == zoo.load("vae-binary_mnist").source.sha256
    assert summary["data"]["name"] == "binary_mnist" and summary["diagnostics"]["posterior"]["active_units"] > 5
    assert 15 < found.findings["posterior"].summary["kl_nats"] < 40
    assert found.findings["reconstructions"].summary["explained_variance"] > 0.5


def test_command_writes_the_files_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        main(["diagnose", "vae-mnist", "--examples", "50", "--only", "posterior,interpolation", "--pair", "3,7"]) == 0
    )
    said = capsys.readouterr().out
    assert "active units" in said and "written to diagnostics/vae-mnist" in said
    assert json.loads((tmp_path / "diagnostics/vae-mnist/diagnostics.json").read_text())["diagnostics"][
        "interpolation"
    ]["examples"] == [3, 7]
    assert main(["diagnose", "gated_pixelcnn-mnist"]) == 2
    assert "no diagnostic for GatedPixelCNN" in capsys.readouterr().err


def test_command_never_writes_into_the_package_and_reads_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a" / "checkpoints").mkdir(parents=True)
    where = functools.partial(command.target, base="diagnostics", inside="diagnostics")
    assert where("vae-mnist") == Path("diagnostics/vae-mnist")
    assert where("me/vae@v1") == Path("diagnostics/me/vae")
    assert where("runs/a") == Path("runs/a/diagnostics")
    assert where("runs/a", out="x") == Path("x")
    with pytest.raises(ConfigError, match="inside the installed package"):
        where("vae-mnist", out=str(Path(zoo.__file__).parent / "pretrained" / "vae-mnist"))
    with pytest.raises(ConfigError, match="--pair takes integers"):
        command._integers("--pair", "a,b")


# -- what moves -------------------------------------------------------------------------------------------------------


def moving(path: Path) -> int:
    with Image.open(path) as picture:
        assert picture.format == "GIF"
        return picture.n_frames


def test_generators_and_denoisers_move(tmp_path: Path) -> None:
    found = zoo.diagnose("gan-mnist", only=["walk"], examples=4, out=tmp_path, animate=True)
    assert moving(tmp_path / "walk.gif") == len(found.findings["walk"].frames) == 11
    zoo.diagnose("ddpm-mnist", only=["denoising"], examples=4, out=tmp_path, animate=True)
    assert moving(tmp_path / "denoising.gif") == 10
    assert (tmp_path / "denoising.png").is_file() and (tmp_path / "walk.png").is_file()


def test_points_and_pictures_of_a_flow_move_on_one_scale() -> None:
    states, times = torch.stack([torch.randn(50, 2), 9 * torch.ones(50, 2)]), torch.tensor([0.0, 1.0])
    first, last = frames_in_plane(states, times)
    assert first.shape == last.shape and first.dtype == np.uint8 and (first != last).any()
    frames = frames_of(torch.rand(5, 3, 1, 4, 4), torch.rand(5, 3, 1, 4, 4))
    assert len(frames) == 5 and len({f.shape for f in frames}) == 1


def test_what_does_not_move_is_refused(tmp_path: Path) -> None:
    found = examine(Identity([1, 4, 4]), Pixels(), only=["scatter"])
    with pytest.raises(ConfigError, match="nothing moves of scatter"):
        found.write(tmp_path / "none", animate=True)
    assert not (tmp_path / "none").exists()


def test_samples_of_a_run_are_a_strip_over_its_training(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    assert training_of(str(tmp_path)) is None
    for step in range(0, 4_000, 100):
        save_png(torch.full((16, 1, 4, 4), step / 4_000), tmp_path / "samples" / f"step-{step:08d}.png", scale=8)
    sheets = sheets_of_training(tmp_path)
    assert len(sheets) == 12 and list(sheets) == sorted(sheets) and {0, 3_900} <= set(sheets)
    found = training_of(str(tmp_path))
    assert found is not None and found.summary == {"steps": list(sheets)} and len(found.frames) == 12
    rows = found.picture.shape[0] // 12
    shades = [int(found.picture[i * rows + 14, 64 + 14].mean()) for i in range(12)]  # within the first image
    assert shades == sorted(shades) and shades[0] < shades[-1]


def test_a_run_shows_its_training_only_where_what_moves_is_asked_for(tmp_path: Path) -> None:
    model = Mute([1, 4, 4])
    (tmp_path / "samples").mkdir()
    for step in (1, 2):
        save_png(torch.rand(16, 1, 4, 4), tmp_path / "samples" / f"step-{step:08d}.png", scale=8)
    model.source = dataclasses.replace(model.source, kind="run", path=str(tmp_path))
    with pytest.raises(ConfigError, match="no diagnostic for Mute"):
        examine(model, Pixels())
    found = examine(model, Pixels(), animate=True)
    assert list(found.findings) == ["training"] and found.overview().shape[2] == 3
    assert moving(found.write(tmp_path / "out", animate=True) / "training.gif") == 2


def test_recordings_have_spectrograms(tmp_path: Path) -> None:
    model = zoo.create("wavenet", shape=[64])
    assert DIAGNOSTICS["spectrograms"].applies(model) and not DIAGNOSTICS["spectrograms"].applies(vae())
    x = torch.rand(2, 64)
    found = DIAGNOSTICS["spectrograms"].look(Subject(model.eval(), x, torch.zeros(2)))
    assert found.picture.dtype == np.uint8 and found.picture.ndim == 3
    assert found.summary["rate"] == model.rate and found.summary["loudness_of_data"] > 0
