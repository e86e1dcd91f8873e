"""Diffusion models in the hands of a user: the command line, and what a diagnosis shows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_diagnostics import Pixels
from test_diffusion import MODELS, images, stirred

from zoo._cli.main import main
from zoo.diagnostics import examine
from zoo.hub import save_pretrained


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny conditional model, saved."""
    return save_pretrained(stirred(MODELS["ddpm"](num_classes=3)), tmp_path_factory.mktemp("model") / "ddpm")


def _sample(folder: Path, out: Path, *more: str) -> torch.Tensor:
    assert main(["sample", str(folder), "--seed", "0", "-n", "2", "--out", str(out), "--force", *more]) == 0
    return torch.from_numpy(np.load(out)["samples"])


def test_flags_are_the_options_of_the_model(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.npz"
    flags = ("--steps", "4", "--sampler", "ddim", "--eta", "0.5", "--guidance_scale", "2", "--labels", "1")
    options = ("--option", "steps=4", "--option", "sampler=ddim", "--option", "eta=0.5", "--option", "guidance_scale=2")
    drawn = _sample(folder, out, *flags)
    assert torch.equal(drawn, _sample(folder, out, *options, "--labels", "1"))
    assert not torch.equal(drawn, _sample(folder, out, *flags, "--steps", "5"))
    capsys.readouterr()
    assert main(["sample", str(folder), "--out", str(tmp_path / "y.npz"), "--sampler", "euler_maruyama"]) == 2
    said = capsys.readouterr().err
    assert "does not work with DDPM" in said and len(said.splitlines()) == 1


def test_image_is_completed_where_the_mask_is_black(folder: Path, tmp_path: Path) -> None:
    x = images(1)[0]
    mask = torch.zeros(4, 4, dtype=torch.uint8)
    mask[1:3, :2] = 255
    Image.fromarray((x[0] * 255).round().byte().numpy()).save(tmp_path / "x.png")
    Image.fromarray(mask.numpy()).save(tmp_path / "mask.png")
    given = ("--given", str(tmp_path / "x.png"))
    drawn = _sample(folder, tmp_path / "out.npz", *given, "--mask", str(tmp_path / "mask.png"), "--steps", "3")
    kept = mask.bool()
    assert (drawn[:, 0, kept] - x[0, kept]).abs().max() < 0.003 < (drawn[:, 0, ~kept] - x[0, ~kept]).abs().max()
    half = _sample(folder, tmp_path / "out.npz", *given, "--steps", "3")
    assert (half[:, :, :2] - x[:, :2]).abs().max() < 0.003
    for wrong in (["--mask", "m.png"], [*given, "--rows", "1", "--mask", str(tmp_path / "mask.png")]):
        assert main(["sample", str(folder), "--out", str(tmp_path / "z.npz"), *wrong]) == 2


def test_diagnosis_shows_the_strip_and_what_the_noise_keeps(tmp_path: Path) -> None:
    found = examine(stirred(MODELS["ddpm"]()), Pixels(), only=["denoising", "interpolation", "reconstructions"])
    summary = found.summary()["diagnostics"]
    distances = summary["denoising"]["distance_to_sample"]
    assert len(distances) == 10 and distances[-1] == 0 < distances[0]
    found.write(tmp_path)
    assert (tmp_path / "denoising.png").is_file()
    assert "denoising" in json.loads((tmp_path / "diagnostics.json").read_text())["diagnostics"]
    model = stirred(MODELS["ddpm"]())
    model.diagnosed_examples = 10
    assert examine(model, Pixels(), only=["reconstructions"]).about["data"]["examples"] == 10
