"""Features of every family: what they are, how they are measured and kept, and what a look at them shows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo._cli.main import main
from zoo.data.mnist import MNIST
from zoo.diagnostics import examine
from zoo.diagnostics.features import hidden_patches, nearest_examples
from zoo.errors import ConfigError, ResultError
from zoo.evaluation.encoders import encoder_of, last_input
from zoo.families.i_jepa import IJEPA
from zoo.families.joint_embedding import JointEmbedding
from zoo.leaderboard import site
from zoo.leaderboard.readme import block
from zoo.model import GenerativeModel
from zoo.registry import load_registry
from zoo.representations import Representation, merged, read, shipped, to_table, write


class Few(MNIST):
    """The first digits of each split, at a quarter of their size."""

    name, shape = "few_digits", (1, 14, 14)

    def read(self, split: str) -> Any:
        x, labels = super().read(split)
        return x[:300, :, ::2, ::2].clone(), labels[:300].clone()


def jepa(**options: Any) -> IJEPA:
    torch.manual_seed(0)
    sizes = {"width": 16, "depth": 1, "heads": 2, "predictor_width": 8, "predictor_depth": 1}
    return IJEPA([1, 14, 14], 2, **{**sizes, **options}).eval()


def row(**changes: Any) -> Representation:
    metrics = {"probe_accuracy": 0.9, "knn_accuracy": 0.8, "effective_rank": 3.0, "feature_std": 0.5}
    metrics |= {f"{k}_{c}": v / 2 for k, v in metrics.items() for c in ("pixels", "untrained")}
    plain = Representation(
        "a", "vae", "latents", 4, "mnist", "test", "0", "1", metrics, {}, {}, False, "zoo features a"
    )
    return replace(plain, **changes)


# -- what they are -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "dimensions"),
    [
        ("vae-mnist", "posterior mean", 32), ("vq_vae-mnist", "vectors of codes", 16 * 49),
        ("nice-mnist", "latents", 784),
        ("wgan_gp-mnist", "last layer of the critic", None), ("ebm-mnist", "last layer of the energy", None),
        ("ddpm-mnist", "middle of the denoiser", None), ("dit-mnist", "middle of the denoiser", None),
        ("i_jepa-mnist", "features", 96), ("cvae-mnist", None, None), ("pixelcnn-mnist", None, None),
    ],
)  # fmt: skip
def test_each_kind_of_model_has_its_features(name: str, kind: str | None, dimensions: int | None) -> None:
    model = load_registry()[name].build_model().eval()
    found, x = encoder_of(model), torch.rand(3, *model.shape).mul(255).round() / 255
    if kind is None:
        assert found is None
        return
    assert found is not None and found.kind == kind
    with torch.no_grad():
        z = found.encode(x)
    assert z.ndim == 2 and len(z) == 3 and (dimensions is None or z.shape[1] == dimensions) and z.isfinite().all()
    with torch.no_grad():
        assert torch.allclose(found.encode(x[1:2]), z[1:2], atol=1e-4), "of each example by itself"
    if kind.startswith("posterior"):
        assert torch.equal(z, model.posterior(x)[0])


def test_the_last_layer_is_read_and_left_as_it_was() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(5 * 16, 1))
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(last_input(net, x), net[:4](x))
    assert not any(m._forward_pre_hooks for m in net.modules())
    assert last_input(net[:3], x).shape == (2, 3)  # means over places


# -- how they are measured and kept ------------------------------------------------------------------------------------


def test_a_row_has_both_controls_and_is_the_same_again(tmp_path: Path) -> None:
    model, data = jepa(), Few()
    found = zoo.evaluate_features(model, data, limit=100, out=tmp_path / "rows.json")
    for name in ("probe_accuracy", "probe_accuracy_1pct", "knn_accuracy", "effective_rank", "feature_std"):
        assert {name, f"{name}_pixels", f"{name}_untrained"} <= set(found.metrics)
    assert found.kind == "features" and found.dimensions == 16 and found.protocol["training_examples"] == 300
    assert found.metrics["feature_std"] > 0 and not found.collapsed
    assert read(tmp_path / "rows.json") == [found]
    again = zoo.evaluate_features(model, data, limit=100)
    assert again.metrics == found.metrics
    with pytest.raises(ConfigError, match="no features"):
        zoo.evaluate_features(load_registry()["pixelcnn-mnist"].build_model(), "mnist")


def test_a_file_keeps_the_rows_of_others_and_refuses_what_is_none(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    write(path, [row(), row(name="b")])
    write(path, [row(dimensions=5)])
    assert [(r.name, r.dimensions) for r in read(path)] == [("a", 5), ("b", 4)]
    assert merged([row()], [row(quick=True)]) == [row(), row(quick=True)]
    content = json.loads(path.read_text())
    for change in (
        {"schema": 2}, {"rows": None}, {"rows": [{**content["rows"][0], "metrics": {"probe_accuracy": None}}]},
        {"rows": [{**content["rows"][0], "extra": 1}]}, {"rows": [{**content["rows"][0], "dimensions": "4"}]},
    ):  # fmt: skip
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(ResultError):
            read(path)
        before = path.read_text()
        with pytest.raises(ResultError):
            write(path, [row()])
        assert path.read_text() == before, "nothing is lost"


def test_the_table_has_the_pixels_first_and_the_best_probe_above() -> None:
    worse = row(name="b", metrics={**row().metrics, "probe_accuracy": 0.5})
    lines = to_table([worse, row(), row(name="c", data="tiles")]).splitlines()
    assert (
        lines[0] == "mnist, test split:"
        and "| - | the pixels themselves | - | 45.0% | - | 40.0% | 1.5 | 0.250 | - |" in lines
    )
    assert [line.split("`")[1] for line in lines if "`" in line] == ["a", "b", "c"]
    assert to_table([]) == "No features measured yet."
    for r in shipped():
        assert r.name in load_registry()
        assert not r.collapsed and (r.family != "representation" or r.metrics["effective_rank"] > 8), r.name


def test_the_docs_have_the_table_of_the_file() -> None:
    page = (Path(__file__).parent.parent / "docs" / "representations.md").read_text(encoding="utf-8")
    stale = "run: python -m zoo.leaderboard docs/representations.md"
    assert block(page, "representations") == to_table(shipped()), stale


def test_the_page_has_a_section_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.leaderboard.page.shipped", lambda: [row(name="<b>x")])
    page = site([], {}, {})["index.html"]
    assert 'id="features"' in page and "the pixels themselves" in page and "90.0%" in page
    assert "<b>x" not in page and "{{" not in page


def test_the_command_says_what_it_found_and_what_cannot_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked: list[Any] = []

    def measured(which: str, data: Any = None, **options: Any) -> Representation:
        asked.append((which, data, options["quick"]))
        if which.startswith("pixelcnn"):
            raise ConfigError("it has no features")
        return row(name=which, quick=True)

    monkeypatch.setattr(zoo, "evaluate_features", measured, raising=False)
    out = tmp_path / "rows.json"
    assert main(["features", "vae-mnist", "nice-mnist", "--quick", "--out", str(out)]) == 0
    assert asked == [("vae-mnist", None, True), ("nice-mnist", None, True)] and len(read(out)) == 2
    assert "`nice-mnist`" in capsys.readouterr().out
    assert main(["features", "pixelcnn-mnist"]) == 2 and "no features" in capsys.readouterr().err
    assert main(["features", "pixelcnn-*", "vae-mnist", "--json"]) == 0
    said = capsys.readouterr()
    assert "left out: pixelcnn-mnist" in said.err and len(json.loads(said.out)) == 1
    assert main(["features", "nothing-*"]) == 2 and "no registered model" in capsys.readouterr().err
    out.write_text("{}")
    assert main(["features", "vae-mnist", "--out", str(out)]) == 2 and out.read_text() == "{}"


# -- a look at them ----------------------------------------------------------------------------------------------------


class Mean(JointEmbedding):
    """Features that are the means of patches, so that what is nearest is known."""

    def features(self, x: Tensor, *, pool: str | None = "mean") -> Tensor:
        angle = 4 * x.flatten(1).mean(1)
        return torch.stack([angle.cos(), angle.sin()], 1)


def test_neighbours_are_the_nearest_others() -> None:
    model = Mean([1, 8, 8], 2, width=16, heads=2, depth=1, predictor_width=8, predictor_depth=1)
    levels = torch.tensor([0.1, 0.5, 0.9]).repeat(4)
    x = levels[:, None, None, None] + 0.02 * torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = nearest_examples(model, x, torch.arange(12) % 3, queries=3, k=3)
    assert found.same_class == 1 and found.examples.shape == (3, 4, 1, 8, 8)
    assert torch.equal(found.labels, torch.arange(3)[:, None].expand(3, 4))
    assert all(not torch.equal(found.examples[i, 0], found.examples[i, j]) for i in range(3) for j in (1, 2, 3))
    many = nearest_examples(model, torch.zeros(5, 1, 8, 8), torch.zeros(5, dtype=torch.int64), queries=2, k=2)
    assert many.examples.shape == (2, 3, 1, 8, 8), "equal features: itself is not among its neighbours"


def test_what_is_hidden_is_grey_and_what_is_told_right_explains_all(monkeypatch: pytest.MonkeyPatch) -> None:
    model = jepa()
    x = torch.rand(30, 1, 14, 14, generator=torch.Generator().manual_seed(0))
    found = hidden_patches(model, x, count=4)
    images, seen, asked, told = found.rows
    assert torch.equal(images, x[:4]) and found.rows.shape == (4, 4, 1, 14, 14)
    assert not ((seen != 0.5) & (asked != 0.5)).any(), "what is asked for is not in sight"
    assert torch.equal((asked != 0.5), (told != 0.5)) and (asked != 0.5).any() and (seen != 0.5).any()
    assert torch.equal(images[seen != 0.5], x[:4][seen != 0.5])
    assert found.explained < 0.5
    assert torch.equal(hidden_patches(model, x, count=4).rows, found.rows)

    def knows(x: Tensor, context: Tensor, targets: Tensor) -> Tensor:
        every = model.targets(x)
        return every.gather(1, targets.clamp(min=0)[..., None].expand(-1, -1, every.shape[2]))

    monkeypatch.setattr(model, "predict", knows)
    assert hidden_patches(model, x, count=4).explained == pytest.approx(1)


def test_a_diagnosis_of_features_has_all_three_looks() -> None:
    found = examine(jepa(), Few(), only=["feature_map", "neighbours", "masks"], examples=60)
    assert set(found.findings) == {"feature_map", "neighbours", "masks"}
    assert all(isinstance(f.picture, np.ndarray) for f in found.findings.values())
    assert -50 < found.findings["masks"].summary["explained"] <= 1
    assert isinstance(jepa(), GenerativeModel)
