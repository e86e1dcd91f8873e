"""Second views of pictures: what they see, that they are the same everywhere, and where rankings differ."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_evaluate import FEW, IMAGE, FewDigits, Noise
from test_leaderboard import make

import zoo
from zoo.errors import ConfigError, ResultError
from zoo.evaluation.comparison import choose
from zoo.evaluation.views import fitted_view, second_views
from zoo.leaderboard import bundled_folder, model_table, tables, to_text
from zoo.leaderboard.page import _text
from zoo.metrics.distribution import frechet
from zoo.metrics.views import PixelPCA, RandomConvolutions
from zoo.registry import load_registry
from zoo.results import Metric

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def benchmark(name: str) -> Any:
    """Return a benchmark as a module."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(400, 1, 9, 8, generator=torch.Generator().manual_seed(0)) ** 2


@pytest.mark.parametrize("kind", [RandomConvolutions, PixelPCA])
def test_a_view_is_the_same_whenever_it_is_fitted_and_its_features_have_variance_one(
    kind: Any, images: torch.Tensor
) -> None:
    view, again = (kind((1, 9, 8), kind.fit(images)) for _ in range(2))
    features = view(images)["features"]
    assert features.shape == (400, view.dimensions)
    assert view.sha256 == again.sha256 and torch.equal(features, again(images)["features"])
    assert view.sha256 != kind((1, 9, 8), kind.fit(images[:200])).sha256
    assert float(features.double().var(0).sum()) == pytest.approx(1, rel=1e-3)
    with pytest.raises(ResultError, match="was fitted to images of shape"):
        view.check((1, 8, 9))


def test_pca_measures_squared_distances_of_pixels(images: torch.Tensor) -> None:
    """The basis is orthonormal, and a shift within it costs its squared length over the variance."""
    fitted = PixelPCA.fit(images)
    basis, scale = fitted["basis"].double(), float(fitted["scale"])
    assert torch.allclose(basis.T @ basis, torch.eye(64, dtype=torch.float64), atol=1e-4)
    view = PixelPCA((1, 9, 8), fitted)
    shift = 0.3 * basis[:, 0].float().view(1, 1, 9, 8)
    moved = frechet(view(images + shift)["features"], view(images)["features"])[0]
    assert moved == pytest.approx((0.3 / scale) ** 2, rel=1e-3)


def test_random_convolutions_see_strokes_that_the_mean_hides(images: torch.Tensor) -> None:
    """Pictures with their pixels shuffled have the same mean and variance, and other strokes."""
    smooth = torch.nn.functional.avg_pool2d(images.repeat(1, 1, 2, 2), 3, 1, 1)
    view = RandomConvolutions((1, 18, 16), RandomConvolutions.fit(smooth))
    order = torch.randperm(18 * 16, generator=torch.Generator().manual_seed(1))
    shuffled = smooth.flatten(1)[:, order].view_as(smooth)
    near = frechet(view(smooth[:300])["features"], view(smooth[100:])["features"])[0]
    assert frechet(view(shuffled)["features"], view(smooth)["features"])[0] > 10 * abs(near)


def test_views_are_of_images_only_and_can_be_extractors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    data = FewDigits()
    assert [v.frechet for v in second_views(data)] == ["frechet_random", "frechet_pca"]
    assert choose("pca", data).sha256 == fitted_view("pca", data).sha256
    toys = load_registry().resolve("interpolant").build_data()
    assert second_views(toys) == []
    with pytest.raises(ResultError, match="'random' is of images"):
        fitted_view("random", toys)


def test_an_evaluation_has_a_second_view_and_plain_samples_and_unseen_images_as_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    class Sharpened(Noise):
        """Uniform noise, or, at temperature 0, black."""

        def draw(self, n: int, generator: Any, labels: Any, *, temperature: float = 0.5) -> torch.Tensor:
            return torch.rand(n, *self.shape, generator=generator) * temperature

    found = zoo.evaluate(Sharpened(IMAGE), FewDigits(), plain=True, **FEW)
    assert found.protocol.sampler == {"temperature": 0.5}
    assert found.protocol.estimators["plain"] == {"temperature": 1.0}
    assert set(found.protocol.estimators["views"]) == {"pixel-pca", "random-convolutions"}
    assert found.metrics["frechet_random"].value > 2 * found.floor["frechet_random"].value
    assert found.metrics["frechet_pca"].value > 2 * found.floor["frechet_pca"].value
    hot = zoo.evaluate(Sharpened(IMAGE), FewDigits(), options={"temperature": 1.0}, plain=True, **FEW)
    assert found.metrics["fid_plain"] == hot.metrics["fid"] != found.metrics["fid"]
    assert "fid_plain" not in hot.metrics and "plain" not in hot.protocol.estimators
    assert 0 <= found.floor["copied_share"].value < 0.2 and found.floor["nearest_ratio"].value == pytest.approx(
        1, abs=0.2
    )


# -- tables -----------------------------------------------------------------------------------------------------------

GUIDED = {"sampler": {"guidance_scale": 3.0, "steps": 9}}
CHOSEN = {"sampler": {"candidates": 8}}


def test_tables_say_beside_the_number_how_samples_were_drawn() -> None:
    guided = make("ddpm-mnist", family="diffusion", fid=3.0, bits_per_dim=1.9, likelihood="vlb", **GUIDED)
    chosen = make("sn_gan-mnist", fid=2.0, kid=0.1, fid_plain=4.0, **CHOSEN)
    plain = make("vae-mnist", family="vae", fid=11.0, sampler={"temperature": 1.0})
    table = tables([guided, chosen, plain])[0]
    shown = {row.result.identity.name: row.shown for row in table.rows}
    marks = {text: mark for mark, text in table.how.items()}
    critic, self_ = (marks[t] for t in marks if "samples" in t and "likelihood" not in t)
    if "critic" not in table.how[critic]:
        critic, self_ = self_, critic
    assert shown["sn_gan-mnist"]["fid"] == f"2.00 {critic}" and shown["sn_gan-mnist"]["fid_plain"] == "4.00"
    assert shown["sn_gan-mnist"]["kid"] == f"0.1000 {critic}"
    assert shown["ddpm-mnist"]["fid"] == f"3.00 {self_}" and shown["vae-mnist"]["fid"] == "11.00"
    (of_plain,) = (mark for mark, text in table.how.items() if text.startswith("likelihood of the plain model"))
    assert shown["ddpm-mnist"]["likelihood"] == f"≤ 1.900 bits/dim vlb {of_plain}"
    text = to_text([table])
    assert f"{critic} samples chosen by the critic among 8 candidates" in text and "FID, plain" in text
    assert [row.rank for row in table.rows] == [1, 2, 3]
    listed = model_table(load_registry(), [guided, chosen, plain])
    assert "2.00 (0.11), best of 8" in listed and "3.00 (0.11), guided 3" in listed and "(vlb, plain)" in listed
    page = {row.result.identity.name: {c.key: _text(c, row) for c in table.columns} for row in table.rows}
    assert page["sn_gan-mnist"]["fid"] == "2.00 (best of 8)" and page["sn_gan-mnist"]["fid_plain"] == "4.00"
    assert page["ddpm-mnist"]["likelihood"] == "≤ 1.900 (plain)" and page["vae-mnist"]["fid"] == "11.00"


def test_standard_errors_over_seeds_stand_beside_the_number() -> None:
    several = make("a-mnist", fid=3.0, seeds=[0, 1, 2])
    several = replace(several, metrics={"fid": Metric(3.0, 0.06, None, [2.9, 3.0, 3.1])})
    table = tables([several, make("b-mnist", fid=4.0)])[0]
    assert [row.shown["fid"] for row in table.rows] == ["3.00 ± 0.06", "4.00"]
    assert [row.rank for row in table.rows] == [1, 2] and "±: standard error over seeds" in to_text([table])


def test_views_compare_under_their_own_protocol_only() -> None:
    facts = {"fid": 1.0, "frechet_pca": 0.1}
    rows = [make(f"{c}-mnist", estimators={"views": {"pixel-pca": d}}, **facts) for c, d in ("aa", "ba", "cz")]
    rows.append(make("d-mnist", fid=2.0))
    table = tables(rows, sort="frechet_pca")[0]
    assert [r.rank for r in table.rows] == [1, 2, None, None]
    assert tables(rows)[0].rows[-1].rank == 4  # the missing view is no other protocol of FID


# -- benchmarks -------------------------------------------------------------------------------------------------------


def test_table_of_views_names_where_they_disagree() -> None:
    module = benchmark("second_views")
    names = "abcdef"

    def row(i: int, name: str) -> dict[str, Any]:
        numbers = {"fid": (float(i), 0.1), "frechet_random": (float(i), None), "frechet_pca": (6.0 - i, 0.0)}
        numbers |= {"nearest_ratio": (1.0, None), "copied_share": (0.01, None)}
        metrics = {n: {"value": v, "standard_error": e} for n, (v, e) in numbers.items()}
        facts = {"name": name, "data": "mnist", "split": "test", "samples": 2000, "seeds": 3, "conditional": False}
        return {**facts, "metrics": metrics, "floor": {"fid": 0.5, "copied_share": 0.01}}

    rows = [row(i, name) for i, name in enumerate(names)]
    text = module.page(rows)
    assert "| a | 0.00 ± 0.10 (1) | 0.0000 (1) | 6.0000 ± 0.0000 (6) | 1.00 | 0.0100 |" in text
    assert "Random convolutions against the classifier: rank correlation 1.00; no row is so much" in text
    assert (
        "PCA of pixels against the classifier: rank correlation -1.00; 3 or more places apart: a 1 there, 6 here"
        in text
    )
    assert "| real images (floor) | 0.5 |  |  |  | 0.0100 |" in text
    assert math.isnan(module.agreement({"a": 1}, {"a": 1}))


def test_shipped_table_of_views_is_made_of_its_numbers() -> None:
    kept = BENCHMARKS / "results" / "second_views.json"
    if not kept.is_file():
        pytest.skip("no views were measured yet: python benchmarks/second_views.py")
    rows = json.loads(kept.read_text(encoding="utf-8"))
    assert (BENCHMARKS / "results" / "second_views.md").read_text(encoding="utf-8") == benchmark("second_views").page(
        rows
    )
    pins = {e.name: e.weights.get("sha256") for e in load_registry().values()}
    assert all(pins[row["name"]] == row["weights_sha256"] for row in rows)
    assert {row["name"] for row in rows} <= {p.parent.name for p in bundled_folder().glob("*/eval.json")}


@pytest.mark.slow
def test_ladder_trains_each_rung_once_and_draws_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rungs of a model of points in the plane, whose likelihood is what is drawn over compute."""
    from tiny import QUIET

    module = benchmark("scaling")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    words = ["--models", "interpolant", "--budgets", "1e-3", "2e-3", "--samples", "20", "--results", "r.json"]
    words += ["--page", "scaling.md", *QUIET]
    module.main(words)
    rows = json.loads(Path("r.json").read_text())
    assert [r["budget"] for r in rows] == [1e-3, 2e-3]
    assert all(0 < r["tflop"] <= r["budget"] for r in rows) and rows[0]["tflop"] < rows[1]["tflop"]
    assert all(math.isfinite(r["likelihood"]) and r["unit"] == "nats" for r in rows)
    text = Path("scaling.md").read_text()
    line = next(x for x in text.splitlines() if x.startswith("| `interpolant-eight_gaussians`"))
    assert all(f"{r['likelihood']:.3f} nats" in line for r in rows)
    assert Path("scaling.png").read_bytes().startswith(b"\x89PNG")
    before = {p: p.stat().st_mtime_ns for p in Path("runs").rglob("run.json")}
    assert len(before) == 2
    module.main(words)
    assert {p: p.stat().st_mtime_ns for p in Path("runs").rglob("run.json")} == before
    assert json.loads(Path("r.json").read_text()) == rows
    with pytest.raises(ConfigError, match="budgets are positive numbers"):
        module.main(["--budgets", "-1"])


def test_spread_over_seeds_of_training_is_a_deviation_over_runs_of_one_recipe() -> None:
    module = benchmark("training_seeds")
    facts = {"name": "vae-mnist", "budget": None, "split": "test", "samples": 100}
    rows = [{**facts, "seed": i, "fid": fid, "likelihood": 1.5} for i, fid in enumerate((10.0, 11.0, 12.0))]
    text = module.table([*rows, {**facts, "name": "gan-mnist", "seed": 0, "fid": 7.0}])
    assert "| vae-mnist | the recipe | test | 0, 1, 2 | 11 ± 1 | 1.5 ± 0 |" in text
    assert "| gan-mnist | the recipe | test | 0 | 7 | - |" in text


def test_shipped_page_of_the_ladder_is_made_of_its_numbers() -> None:
    kept, page = BENCHMARKS / "results" / "scaling.json", BENCHMARKS.parent / "docs" / "scaling.md"
    assert kept.is_file() == page.is_file()
    if not kept.is_file():
        pytest.skip("no rung was trained yet: python benchmarks/scaling.py --budgets 1 5")
    rows = json.loads(kept.read_text(encoding="utf-8"))
    assert benchmark("scaling").table(rows) in page.read_text(encoding="utf-8")
