"""The gpu block of an entry: what it may say, and when a run takes it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from closed_forms import step_flops
from torch import nn

import zoo._cli.fit as command
from zoo.errors import ConfigError, RegistryError, ZooError
from zoo.recipes import GPU, merged, wanted, words
from zoo.registry import Entry, load_registry
from zoo.training.compiling import begin_step, compiled
from zoo.training.settings import TrainingSettings

BLOCK = {"batch_size": 512, "lr": 2e-3, "precision": "bf16-mixed", "max_steps": 600, "compile": True,
         "channels_last": True}  # fmt: skip


def test_a_block_changes_what_it_says_and_nothing_else() -> None:
    entry = load_registry()["vae-mnist"]
    parts = {k: getattr(entry, k) for k in ("model", "data", "trainer", "training")}
    found = merged(parts, BLOCK)
    assert found["data"]["init_args"]["batch_size"] == 512 and found["model"]["init_args"]["lr"] == 2e-3
    assert found["trainer"] == {**entry.trainer, "precision": "bf16-mixed", "max_steps": 600}
    assert found["training"] == {**entry.training, "compile": True, "channels_last": True}
    for part, value in parts.items():
        back = {k: v for k, v in found[part].items() if k not in GPU}
        back |= {k: v for k, v in value.items() if k in GPU}
        if "init_args" in back:
            back["init_args"] = {**back["init_args"], **{k: v for k, v in value["init_args"].items() if k in GPU}}
        assert back == value
    assert entry == load_registry()["vae-mnist"]  # which nobody changed


def test_a_block_is_taken_on_a_gpu_always_or_never() -> None:
    assert [wanted("auto", BLOCK, gpu) for gpu in (True, False)] == [True, False]
    assert [wanted("gpu", BLOCK, gpu) for gpu in (True, False)] == [True, True]
    assert [wanted("cpu", BLOCK, gpu) for gpu in (True, False)] == [False, False]
    assert not wanted("auto", {}, True)
    with pytest.raises(ConfigError, match="has no gpu block"):
        wanted("gpu", {}, True)
    with pytest.raises(ConfigError, match="--recipe takes auto, gpu, cpu"):
        wanted("fast", BLOCK, True)


@pytest.mark.parametrize(
    ("block", "said"),
    [("{batch: 8}", "unknown key 'batch'"), ("{batch_size: many}", "must be int"), ("{lr: 1}", "must be float"),
     ("{compile: 1}", "must be bool"), ("{max_steps: true}", "must be int"), ("[1]", "must be a mapping")],
)  # fmt: skip
def test_a_wrong_block_is_refused(block: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"models:\n  mine-mnist: {{extends: vae-mnist, gpu: {block}}}\n", encoding="utf-8")
    with pytest.raises(RegistryError, match=said):
        load_registry(file)


def test_the_command_takes_the_block_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "models:\n  mine-mnist: {extends: vae-mnist, gpu: {batch_size: 512, lr: 0.002}}\n"
        "  other-mnist: {extends: mine-mnist}\n",
        encoding="utf-8",
    )
    entry, other = (load_registry(file)[name] for name in ("mine-mnist", "other-mnist"))
    assert other.gpu == {}  # a variant is another recipe
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        found, said = command._for_place(entry, [], "auto", same=True)
        assert (found.data["init_args"]["batch_size"] == 512) is there
        assert said == ("the recipe of mine-mnist for a GPU: batch_size 512, lr 0.002; --recipe cpu takes the one "
                        "without" if there else "")  # fmt: skip
        for stays in (["--trainer.accelerator", "cpu"], ["--trainer.accelerator=cpu"]):
            assert command._for_place(entry, stays, "auto", same=True) == (entry, "")
        assert command._for_place(entry, [], "cpu", same=True) == (entry, "")
        assert command._for_place(entry, [], "auto", same=False) == (entry, "")
        assert command._for_place(other, [], "auto", same=True) == (other, "")
    with pytest.raises(ZooError, match="--recipe gpu is of an entry on its own data"):
        command._for_place(entry, [], "gpu", same=False)


def test_every_block_that_ships_fits_its_entry() -> None:
    for entry in load_registry().values():
        if entry.gpu:
            merged({k: getattr(entry, k) for k in ("model", "data", "trainer", "training")}, entry.gpu)
            assert words(entry.gpu) and not set(entry.gpu) - set(GPU)


FOR_GPU = [e for e in load_registry().values() if e.untrained == "a recipe for a GPU" or e.tag == "gpu"]
SMALL_IN_HALF = (
    "pixelcnn-mnist.gpu", "gated_pixelcnn-mnist.gpu", "gated_pixelcnn-binary_mnist.gpu", "vae-binary_mnist.gpu",
    "ddpm_cond-cifar10", "edm-cifar10", "r3gan-cifar10", "flow_matching_cond-cifar10", "latent_diffusion-cifar10",
)  # fmt: skip
"""Recipes whose weights are to be bundled once they are trained."""


def _pflop(entry: Entry) -> float:
    """Return the training compute of a recipe on a GPU in 1e15 operations, with that of the stage that it builds on."""
    parts = merged({k: getattr(entry, k) for k in ("model", "data", "trainer", "training")}, entry.gpu)
    cls = entry.model["class_path"].rpartition(".")[2]
    examples = parts["data"]["init_args"]["batch_size"] * parts["trainer"]["max_steps"]
    own = examples * step_flops()[cls](entry.build_model().spec["init_args"])
    first = [e for e in FOR_GPU if e.model == entry.model["init_args"].get("autoencoder")]
    return own / 1e15 + sum(_pflop(e) for e in first)


@pytest.mark.parametrize("entry", FOR_GPU, ids=lambda e: e.name)
def test_a_recipe_for_a_gpu_is_within_the_compute_of_its_track(entry: Entry) -> None:
    assert entry.pretrained or entry.untrained == "a recipe for a GPU"
    assert 0.05 < _pflop(entry) <= 100  # beyond the home track, and minutes of one card
    if "autoencoder" in entry.model["init_args"]:
        assert any(e.model == entry.model["init_args"]["autoencoder"] for e in FOR_GPU)


@pytest.mark.parametrize("name", SMALL_IN_HALF)
def test_weights_of_the_gpu_track_will_be_small(name: str) -> None:
    model = load_registry()[name].build_model()
    assert sum(2 * value.numel() for value in model.state_dict().values()) < 20e6


def test_captured_graphs_are_asked_for_by_the_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []
    begun: list[bool] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: seen.append(options))
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: begun.append(True))
    for mode in ("default", "reduce-overhead"):
        compiled(nn.Linear(1, 1), mode)
        begin_step(mode)
    assert seen == [{}, {"mode": "reduce-overhead"}] and begun == [True]
    with pytest.raises(ConfigError, match=r"needs --training\.compile true"):
        TrainingSettings(compile_mode="reduce-overhead")


@pytest.mark.slow
def test_the_benchmark_of_a_gpu_runs_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(__file__).resolve().parents[1] / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))
    spec = importlib.util.spec_from_file_location("gpu_benchmark", folder / "gpu.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_benchmark", module)
    spec.loader.exec_module(module)
    text = module.main(["--smoke", "--out", str(tmp_path / "gpu.md")])
    assert text == (tmp_path / "gpu.md").read_text(encoding="utf-8") and "not recorded" not in text
    assert all(f"| {name} |" in text for name in ("vae", "wgan_gp", "wavenet-tones", "U-Net 128-256-256"))
