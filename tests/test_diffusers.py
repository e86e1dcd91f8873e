"""Pipeline folders of diffusers and back: the same weights, and through the same levels the same samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import zoo
from zoo._cli import main
from zoo.errors import ConfigError, CorruptWeightsError, ModelFolderError, UnsafeWeightsError, WeightsMismatchError
from zoo.maths import samplers

diffusers = pytest.importorskip("diffusers", reason="the extra diffusers is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of diffusers and its dependencies

from zoo.export import from_diffusers, to_diffusers  # noqa: E402

UNET = {
    "class_path": "zoo.nets.unet.UNet",
    "init_args": {"channels": 1, "widths": [8, 16], "embedding": 16, "num_classes": 3},
}
DIT = {
    "class_path": "zoo.nets.dit.DiT",
    "init_args": {"channels": 1, "size": 8, "patch": 2, "width": 16, "depth": 1, "heads": 2},
}


def tiny(network: Any = UNET, **arguments: Any) -> Any:
    """Return a model of 8 x 8 images and 20 steps with random weights, its output layers too."""
    from zoo.spec import build

    torch.manual_seed(0)
    classes = {"num_classes": 3} if "num_classes" in network["init_args"] else {}
    spec = {"class_path": "zoo.families.ddpm.DDPM", "init_args": {"network": network, "shape": [1, 8, 8], "table": 20,
                                                                 **classes, **arguments}}  # fmt: skip
    model = build(spec).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def noise(n: int, seed: int) -> Tensor:
    return torch.randn((n, 1, 8, 8), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("network", "predict"), [(UNET, "v"), (UNET, "eps"), (DIT, "x0")], ids=["unet-v", "unet-eps", "dit-x0"]
)
def test_samples_there_are_those_here(tmp_path: Path, network: Any, predict: str) -> None:
    model = tiny(network, predict=predict)
    folder = to_diffusers(model, tmp_path / "pipeline")
    pipe = diffusers.DDIMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    labels = {"labels": 2} if model.num_classes else {}
    pipe.unet.condition(**labels)
    there = pipe(3, generator=torch.Generator().manual_seed(5), num_inference_steps=20, output_type="np").images
    here = model.sample(3, seed=5, sampler="ddim", steps=20, spacing="time", **labels)  # all 20 levels, as there
    assert np.abs(there.transpose(0, 3, 1, 2) - here.numpy()).max() < 2e-3  # betas are kept in single precision
    assert here.std() > 0.05
    levels = model.log_snrs[[15, 10, 5, 0]]  # every fifth, as the scheduler takes them

    def leading(denoise: Any, x: Tensor, log_snrs: Tensor, schedule: Any, noise: Any) -> Tensor:
        return samplers.ddim(denoise, x, levels, schedule)

    there = pipe(3, generator=torch.Generator().manual_seed(5), num_inference_steps=4, output_type="np").images
    here = model.sample(3, seed=5, sampler=leading, steps=4, **labels)
    assert np.abs(there.transpose(0, 3, 1, 2) - here.numpy()).max() < 2e-3


def test_the_way_back_is_bit_for_bit(tmp_path: Path) -> None:
    model = tiny(guidance_scale=2.0)
    folder = to_diffusers(model, tmp_path / "pipeline")
    again = from_diffusers(folder)
    assert again.spec == model.spec and again.source.sha256 is not None
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True))
    assert torch.equal(again.sample(2, seed=1, steps=3), model.sample(2, seed=1, steps=3))
    pipe = diffusers.DDIMPipeline.from_pretrained(folder)
    pipe.save_pretrained(tmp_path / "saved there")  # by the other library, and it is still ours
    assert torch.equal(
        from_diffusers(tmp_path / "saved there").sample(2, seed=1, steps=3), again.sample(2, seed=1, steps=3)
    )


def test_other_schedulers_and_guidance_work(tmp_path: Path) -> None:
    model = tiny()
    pipe = diffusers.DDPMPipeline.from_pretrained(to_diffusers(model, tmp_path / "p"))
    pipe.set_progress_bar_config(disable=True)
    images = {}
    for scale in (1.0, 3.0):
        pipe.unet.condition([0, 1], scale)
        images[scale] = pipe(
            2, generator=torch.Generator().manual_seed(0), num_inference_steps=20, output_type="np"
        ).images
    assert images[1.0].shape == (2, 8, 8, 1) and np.abs(images[1.0] - images[3.0]).max() > 1e-3
    x, t = noise(2, 1), 7
    plain = pipe.unet.condition()(x, t).sample
    told = pipe.unet(x, t, class_labels=torch.tensor([0, 1])).sample
    assert plain.shape == x.shape and plain.abs().max() <= 1 and not torch.equal(plain, told)
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    assert np.isfinite(pipe(2, num_inference_steps=5, output_type="np").images).all()


def test_what_is_no_such_model_or_folder_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="does not go through the noise of a table of steps"):
        to_diffusers(zoo.create("pixelcnn"), tmp_path / "x")
    assert main(["export", "gan-mnist", "--format", "diffusers", "--out", str(tmp_path)]) == 2
    assert "table of steps" in capsys.readouterr().err and list(tmp_path.iterdir()) == []
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(ModelFolderError, match="not empty"):
        to_diffusers(tiny(), tmp_path / "full")
    with pytest.raises(ModelFolderError, match=r"holds no unet/config\.json of a pipeline"):
        from_diffusers(tmp_path / "full")


def test_a_folder_from_a_stranger_is_held_to_what_it_may_be(tmp_path: Path) -> None:
    folder = to_diffusers(tiny(), tmp_path / "p")
    weights, config = folder / "unet" / "diffusion_pytorch_model.safetensors", folder / "unet" / "config.json"
    good, said = weights.read_bytes(), json.loads(config.read_text())
    said["zoo_config"]["model"] = "os.system"
    config.write_text(json.dumps(said))
    with pytest.raises(ConfigError):
        from_diffusers(folder)
    with pytest.raises(ConfigError):
        diffusers.DDIMPipeline.from_pretrained(folder)
    said["zoo_config"]["model"] = "DDPM"
    config.write_text(json.dumps(said))
    weights.write_bytes(b"\x80\x02" + good)
    with pytest.raises(UnsafeWeightsError):
        from_diffusers(folder)
    weights.write_bytes(good[:-8])
    with pytest.raises(CorruptWeightsError):
        from_diffusers(folder)
    weights.write_bytes(good[:-4] + b"\0\0\0\0")
    with pytest.raises(WeightsMismatchError, match="verify=False"):
        from_diffusers(folder)
    assert from_diffusers(folder, verify=False).shape == (1, 8, 8)
