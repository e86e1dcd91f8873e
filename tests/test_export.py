"""Exports: what the files compute is what the model computes, and samplers need no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from test_serve import tiny_models

import zoo
from zoo.errors import ConfigError
from zoo.export import export, parts
from zoo.export.gradients import gradient_of
from zoo.export.writing import ExportError, _compare
from zoo.families.denoising import Denoise
from zoo.maths.decoding import inverse_cdf
from zoo.registry import load_registry

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
BUNDLED = [entry.name for entry in load_registry().find(pretrained=True)]


def test_a_step_draws_what_the_model_draws() -> None:
    """Steps from place to place with the sampler's own noise give the sampler's own values."""
    for kind in ("pixels", "text", "sound"):
        model = tiny_models()[kind]
        part = parts(model)[""]
        T, n = int(np.prod(model.shape)), 3
        g = torch.Generator().manual_seed(0)
        shape = (4, 4, 1, n) if kind == "pixels" else (T, n)
        u = torch.rand(shape, generator=g).reshape(T, n)
        values = torch.zeros(n, T, dtype=torch.int64)
        with torch.no_grad():
            for t in range(T):
                values, _ = part.module(values, torch.tensor(t), u[t], torch.tensor(1.0))
        x = model.sample(n, seed=0)
        assert torch.equal(values, (x.flatten(1) * (model.levels - 1)).round().long())


def test_the_draw_of_a_step_is_the_inverse_distribution_function() -> None:
    logits, u = torch.randn(50, 9, dtype=torch.float64), torch.rand(50, dtype=torch.float64)
    p = logits.softmax(-1).cumsum(-1)
    assert torch.equal((p <= u[:, None] * p[:, -1:]).sum(-1), inverse_cdf(logits, u))


def test_parametrisations_are_gone() -> None:
    vae = tiny_models()["images"]
    for module in vae.decoder.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.utils.parametrizations.weight_norm(module)
    z = torch.randn(3, 2)
    part = parts(vae)[""]
    assert not _parametrised(part.module)
    assert torch.allclose(part.module(z), vae.decode(z)) and _parametrised(vae.decoder)


def _parametrised(module: torch.nn.Module) -> bool:
    return any(hasattr(m, "parametrizations") for m in module.modules())


def test_safetensors_hold_the_weights(tmp_path: Path) -> None:
    name = next(n for n in BUNDLED if n.startswith("transformer"))  # with tied weights
    (path,) = export(name, "safetensors", tmp_path)
    model = zoo.load(name)
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["spec"]) == model.spec
        for key, tensor in model.state_dict().items():
            assert torch.equal(file.get_tensor(key), tensor)


def small(kind: str) -> Any:
    """Return an untrained model: one of the server's, or of the families that have other parts."""
    if kind in ("gan", "diffusion", "flow"):
        name = {"gan": "wgan_gp-mnist", "diffusion": "ddpm-mnist", "flow": "flow_matching-mnist"}[kind]
        torch.manual_seed(0)
        return load_registry()[name].build_model().eval()
    return tiny_models()[kind]


@pytest.mark.parametrize(
    "kind", ["digits", "gan", *(pytest.param(k, marks=pytest.mark.slow) for k in ("pixels", "diffusion", "flow"))]
)
def test_torch_export(kind: str, tmp_path: Path) -> None:
    model = small(kind)
    (path,) = export(model, "pt2", tmp_path)
    assert path.stat().st_size > 0


def test_a_generator_of_latents_is_exported_with_what_decodes_them() -> None:
    torch.manual_seed(0)
    model = load_registry()["gat-mnist"].build_model().eval()
    part = parts(model)[""]
    (z,) = part.examples(3)
    x = part.module(z)
    assert x.shape == (3, *model.shape)
    torch.testing.assert_close(x, model.decode(z))


def test_what_differs_is_refused() -> None:
    part = parts(tiny_models()["images"])[""]
    with pytest.raises(ExportError, match="differs"):
        _compare(part, "it", lambda inputs: [part.module(*inputs) + 1e-3])
    with pytest.raises(ExportError, match="shape"):
        _compare(part, "it", lambda inputs: [part.module(*inputs)[:, :, :2]])
    with pytest.raises(ConfigError, match="unknown format"):
        export(tiny_models()["images"], "onx")


def _onnx_needed() -> None:
    for module in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(module, reason="the extra onnx is not installed")


def _example(script: str, *words: str, folder: Path) -> str:
    """Run an example where torch cannot be imported."""
    (folder / "torch.py").write_text("raise ImportError('no torch here')\n")
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *words], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["digits", "text"])
def test_onnx_and_its_example(kind: str, tmp_path: Path) -> None:
    _onnx_needed()
    model = tiny_models()[kind]
    (path,) = export(model, "onnx", tmp_path)
    script = "onnx_autoregressive.py" if kind == "text" else "onnx_decoder.py"
    told = _example(script, path.name, "5", "0", folder=tmp_path)
    samples = np.load(tmp_path / "samples.npy")
    assert samples.shape == ((5, 12) if kind == "text" else (5, 1, 4, 4)) and "samples.npy" in told
    assert len(np.unique(samples)) > 1


def test_examples_are_short() -> None:
    for path in EXAMPLES.glob("onnx_*.py"):
        lines = path.read_text().splitlines()
        assert len(lines) <= 40 and not any("torch" in line for line in lines if "import" in line), path.name


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "pt2"])
@pytest.mark.parametrize("name", BUNDLED)
def test_every_bundled_model(name: str, form: str, tmp_path: Path) -> None:
    """The export compares what the file computes with the model before it writes."""
    _onnx_needed()
    written = export(name, form, tmp_path)
    assert written and all(path.stat().st_size > 0 for path in written)
    if form == "onnx":
        _sample_outside(written, tmp_path)


def _sample_outside(written: list[Path], folder: Path) -> Any:
    import onnx

    for path in written:
        metadata = {p.key: json.loads(p.value) for p in onnx.load(path).metadata_props}
        if metadata["kind"] in ("encoder", "energy", "score"):
            continue  # nothing is drawn by it
        script = {"decoder": "onnx_decoder.py", "step": "onnx_autoregressive.py"}.get(
            metadata["kind"], "onnx_denoiser.py"
        )
        words = [path.name, "2", "0", *(["5"] if metadata["kind"] == "step" else [])]
        assert "samples.npy" in _example(script, *words, folder=folder)


def test_noise_of_every_layer_is_an_input() -> None:
    torch.manual_seed(0)
    model = load_registry()["stylegan-mnist"].build_model().eval()
    for p in model.generator.synthesis.parameters():
        p.data.add_(0.05 * torch.randn(p.shape))  # noise starts with strength 0
    part, shapes = parts(model)[""], model.generator.synthesis.noise_shapes
    z, noise = part.examples(3)
    layers = [n.reshape(3, 1, *s) for n, s in zip(noise.split([a * b for a, b in shapes], 1), shapes, strict=True)]
    w = model.styles(z)[:, None].expand(-1, model.depth, -1)
    x = part.module(z, noise)
    torch.testing.assert_close(x, (model.synthesise(w, layers) + 1) / 2)
    assert not torch.allclose(x, part.module(z, noise.roll(1, 0)))


@pytest.mark.parametrize(
    "name",
    ["ddpm_cond-mnist", "ddpm-mnist", "flow_matching_cond-mnist", "flow_matching-mnist", "latent_diffusion-mnist"],
)
def test_denoisers_and_velocities_are_the_guided_ones(name: str) -> None:
    torch.manual_seed(0)
    model = load_registry()[name].build_model().eval().requires_grad_(False)
    if name.startswith("latent"):
        model.scale.fill_(0.7)
        z = torch.randn(3, *model.autoencoder.grid)
        torch.testing.assert_close(parts(model)["decoder"].module(z), model.decode(z))
        part, model = parts(model)["prior"], model.prior
    else:
        part = parts(model)[""]
    for p in model.parameters():
        p.add_(0.05 * torch.randn(p.shape))  # the output layer starts at zero
    part = parts(model)[""]
    x, w = torch.randn(3, *model.shape), 2.5
    labels = torch.tensor([0, 4, 9]) if model.num_classes else None
    told = (*([] if labels is None else [labels]), torch.tensor(w))
    if part.kind == "velocity":
        t = torch.tensor([0.1, 0.5, 0.8])
        torch.testing.assert_close(part.module(x, t, *told), model.field(labels, w)(x, t))
        return
    level, later = torch.full((3,), -1.0), torch.full((3,), 0.5)
    x_0 = Denoise(model, labels, w, model.levels is not None, None)(x, torch.tensor(-1.0))
    (a, s), (b, r) = (model.schedule.coefficients(v[0]) for v in (level, later))
    found = part.module(x, level, later, *told)
    torch.testing.assert_close(found[0], b * x_0 + r * (x - a * x_0) / s)
    torch.testing.assert_close(found[1], model.uncentre(x_0))


@pytest.mark.parametrize(
    "name",
    ["nce-eight_gaussians"]
    + [
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("ebm-mnist", "ebm_cond-mnist", "ebm_drl-mnist", "ebm_drl-eight_gaussians", "energy_matching-mnist")
    ],
)
def test_energies_and_scores(name: str, tmp_path: Path) -> None:
    """Both are compared with the model's own at other batches before they are written; the score is the slope."""
    _onnx_needed()
    torch.manual_seed(0)
    model = load_registry()[name].build_model().eval().requires_grad_(False)
    found = parts(model)
    assert {"energy", "score"} <= set(found)
    given = found["score"].examples(5)
    labels = {"labels": given[1]} if len(given) > 1 else {}
    slope, seen = model.score(given[0], **labels), found["score"].module(*given)
    torch.testing.assert_close(seen, slope, rtol=0, atol=1e-5 * float(slope.abs().amax()))
    assert not torch.allclose(seen, -seen, atol=1e-3)
    written = {form: export(model, form, tmp_path) for form in ("onnx", "pt2")}
    assert all(any(".score." in path.name for path in paths) for paths in written.values())


@pytest.mark.parametrize("size", [pytest.param((6, 6), marks=pytest.mark.slow), (7, 5)])
@pytest.mark.parametrize("layer", ["strided", "grouped", "transposed", "mean", "rounded up"])
def test_derivatives_written_out_are_autograds(layer: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    first = {
        "strided": torch.nn.Conv2d(2, 4, 3, 2, 1), "grouped": torch.nn.Conv2d(2, 4, 2, 2, groups=2, dilation=2),
        "transposed": torch.nn.ConvTranspose2d(2, 4, 4, 2, 1), "mean": torch.nn.AvgPool2d(2),
        "rounded up": torch.nn.AvgPool2d(3, 2, ceil_mode=True),
    }[layer].double().requires_grad_(False)  # fmt: skip
    function = lambda x: first(x).sin().flatten(1).square().sum(1)  # noqa: E731
    graph = gradient_of(function, (torch.randn(3, 2, *size, dtype=torch.float64),))
    x = torch.randn(5, 2, *size, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(function(x).sum(), x)
    torch.testing.assert_close(graph(x.detach()), slope)
    assert not any("_backward" in str(node.target) for node in graph.graph.nodes)
