"""What a model can do is asked in one room; and models of kinds that the package has not walk through all of it."""

from __future__ import annotations

import ast
import base64
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import new_kinds
import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo import abilities, results
from zoo._cli import main
from zoo.abilities import HasEnergy, HasFeatures
from zoo.context import decode_texts, encode_texts
from zoo.errors import ConfigError, DataError, ResultError
from zoo.export import export, parts
from zoo.hub.saving import save_pretrained
from zoo.images import animation_bytes, captioned_sheet, clips_png, sheet
from zoo.media import feature_picture, save_samples
from zoo.metrics.energies import auroc, energy_gap
from zoo.metrics.probes import PROBE, effective_rank, few_labels, knn_accuracy, probe_accuracy, standardised
from zoo.model import GenerativeModel
from zoo.runs import load_run
from zoo.sampling import Draw

ROOT = Path(zoo.__file__).parent
KINDS = list(new_kinds.KINDS)
MODELS = ("model", "built", "prior", "autoencoder", "teacher", "pl_module")
"""What models are called where they are asked."""
QUIET = [
    "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--training.threads", "1",
    "--training.sample_every", "0",
]  # fmt: skip
FOREIGN = {
    "os",
    "torch",
    "hashlib",
    "yaml",
    "_here",
    "hook",
    "e",
    "info",
    "record",
    "logger",
    "callback",
    "owner",
    "value",
    "stream",
    "sys",
    "error",
    "failure",
    "func",
    "args",
    "feature",
    "strategy",
    "picture",
    "data_class",
}
"""Objects of other libraries, which may be asked by name; `zoo.checking` is the base class asking itself."""
OWN = {"self", "question", "network", "quantiser"}
"""What asks itself, a request, and networks, whose number of steps a model takes over."""


# -- one room ---------------------------------------------------------------------------------------------------------


def test_nothing_else_asks_a_model_by_the_name_of_a_method_or_a_class() -> None:
    for path in (p for p in ROOT.rglob("*.py") if p.name not in ("abilities.py", "checking.py", "copying.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not asks_by_name(node), f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"


def asks_by_name(node: ast.AST) -> bool:
    """Tell whether a piece of a program asks an object that may be a model for the name of a method or of its class."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "getattr"):
        fixed = (
            len(node.args) > 1 and isinstance(node.args[1], ast.Constant) and not node.args[1].value.startswith("__")
        )
        asks = fixed and (node.func.id == "hasattr" or len(node.args) == 3)
        return asks and ast.unparse(node.args[0]).partition(".")[0] not in FOREIGN | OWN
    if isinstance(node, ast.Compare):
        texts = [ast.unparse(side) for side in (node.left, *node.comparators)]
        return any(re.fullmatch(rf"type\((\w+\.)*({'|'.join(MODELS)})\)(\.__name__)?", text) for text in texts)
    return False


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("hasattr(model, 'decode')", True), ("getattr(model.prior, 'levels', None)", True),
        ("type(model).__name__ == 'VAE'", True), ("type(built) is VAE", True), ("hasattr(os, 'fork')", False),
        ("getattr(model, name)", False), ("isinstance(model, Encodes)", False), ("type(model.prior) == VAE", True),
        ("type(model).forward is not y", False),
    ],
)  # fmt: skip
def test_asking_by_name_is_seen(text: str, asks: bool) -> None:
    assert any(asks_by_name(node) for node in ast.walk(ast.parse(text))) == asks


def test_every_ability_says_what_it_is() -> None:
    for name in abilities.__all__:
        assert getattr(abilities, name).__doc__, name
    told = {name for name in abilities.__all__ if isinstance(getattr(abilities, name), type)}
    assert {"HasEnergy", "HasFeatures", "HasLikelihood", "HasControls", "Encodes", "DrawsValues"} <= told


# -- the walk ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_kinds.overlay(tmp_path_factory.mktemp("registry"))


@pytest.fixture(autouse=True)
def _in_force(overlay: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_REGISTRY", str(overlay))


@pytest.fixture(scope="module")
def runs(overlay: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The run folder of each model, trained by the command."""
    folder, found = tmp_path_factory.mktemp("runs"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_REGISTRY", str(overlay))
        for kind in KINDS:
            found[kind] = folder / kind
            assert main(["fit", "--model", new_kinds.name_of(kind), "--run", str(found[kind]), *QUIET]) == 0
    return found


@pytest.fixture(scope="module")
def models(overlay: Path, runs: dict[str, Path]) -> dict[str, GenerativeModel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_REGISTRY", str(overlay))
        return {kind: load_run(run) for kind, run in runs.items()}


def picture(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(path.read_bytes()))


def data(kind: str) -> Any:
    return new_kinds.KINDS[kind]["data"]()


def test_training_leaves_the_pictures_of_each_kind(runs: dict[str, Path]) -> None:
    fitting = {
        "springs": {"samples.png"}, "patches": {"features.png"}, "painter": {"samples.png"},
        "flipbook": {"samples.gif", "samples.png"},
    }  # fmt: skip
    for kind, names in fitting.items():
        found = {p.name for p in runs[kind].glob("*.*") if p.suffix in (".png", ".gif")}
        assert found == {*names, "loss.png"}
        assert any((runs[kind] / "samples").glob("step-00000060.*"))
    plain = picture(runs["springs"] / "samples.png")
    captioned = picture(runs["painter"] / "samples.png")
    assert captioned.width > plain.width and captioned.mode == "RGB"
    colours = picture(runs["patches"] / "features.png")
    assert colours.mode == "RGB" and colours.size == (2 * (16 * 9 + 1), 2 * (2 * 9 + 1))  # two rows of sixteen


def test_the_contract_holds_for_kinds_that_the_registry_has_not(models: dict[str, GenerativeModel]) -> None:
    from test_contract import keeps_its_word

    for model in models.values():
        keeps_its_word(model)


def test_a_run_goes_on(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("springs", "patches"):
        assert main(["fit", "--resume", str(runs[kind]), "--trainer.max_steps", "64"]) == 0
        assert ("features.png" if kind == "patches" else "samples.png") in capsys.readouterr().out


def test_samples_from_the_command(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def sample(kind: str, out: str, *words: str) -> int:
        return main(["sample", str(runs[kind]), "--out", str(tmp_path / out), "--seed", "0", *words])

    assert sample("springs", "a.png", "-n", "4", "--steps", "3") == 0
    assert sample("painter", "b.png", "-n", "3", "--prompt", "upper row") == 0
    assert sample("painter", "joint.npz", "-n", "3") == 0  # without a text it draws one too
    assert sample("flipbook", "c.gif", "-n", "3") == 0 and (tmp_path / "c.png").is_file()
    assert sample("flipbook", "d.apng", "-n", "3") == 0
    moving = [picture(tmp_path / name) for name in ("c.gif", "d.apng")]
    assert all(m.n_frames >= 2 and m.size == (2 * 19, 2 * 19) for m in moving)
    capsys.readouterr()
    for kind, out, words, told in (
        ("patches", "e.png", (), "represents examples and draws none"),
        ("painter", "e.png", ("--prompt", "Upper"), "'U', which is not among the model's characters"),
        ("painter", "e.png", ("--prompt", "a" * 99), "at most 12"),
        ("painter", "e.png", ("--labels", "3"), "is told texts"),
        ("painter", "e.png", ("--labels", "3", "--prompt", "upper row"), "not classes"),
        ("springs", "e.gif", (), "go to .png or .npz, not to 'e.gif'"),
        ("flipbook", "e.wav", (), "go to .gif, .apng, .png or .npz"),
        ("springs", "e.png", ("--prompt", "upper row"), "no sampling option 'prompt'"),
    ):
        assert sample(kind, out, *words) == 2
        said = capsys.readouterr().err
        assert told in said and said.count("\n") == 1 and not list(tmp_path.glob("*e.*"))


def test_texts_are_conditions(models: dict[str, GenerativeModel]) -> None:
    painter, (x, texts) = models["painter"], data("painter").split("test")
    x = x.float()
    one = painter.sample(3, seed=0, labels="upper row")
    assert torch.equal(one, painter.sample(3, seed=0, labels=["upper row"] * 3))
    assert torch.equal(one, painter.sample(3, seed=0, labels=encode_texts(["upper row"] * 3, new_kinds.LETTERS, 12)))
    assert not torch.equal(one, painter.sample(3, seed=0, labels="left column"))
    assert torch.allclose(one[:, 0, 1:3].mean(), torch.tensor(1.0), atol=0.2) and one[:, 0, 5:].mean() < 0.2
    words = decode_texts(texts, new_kinds.LETTERS)
    assert set(words) == set(new_kinds.WORDS)
    right, wrong = painter.log_prob(x, labels=texts), painter.log_prob(x, labels=texts.flip(0))
    assert torch.equal(right, painter.log_prob(x, labels=words)) and right.mean() > wrong.mean() + 10
    draws = [Draw(2, 1, "upper row"), Draw(2, 1, None), Draw(1, 2, ["lower row"])]
    for draw, found in zip(draws, painter.sample_many(draws), strict=True):
        assert torch.equal(found, painter.sample(draw.n, seed=draw.seed, labels=draw.labels))
    for labels in (["upper row"] * 2, [1, 2, 3], 7, torch.zeros(3, 5, dtype=torch.int64), torch.full((12,), 99)):
        with pytest.raises(ConfigError, match=r"text|characters"):
            painter.sample(3, labels=labels)
    with pytest.raises(ConfigError, match="is told texts"):
        painter.log_prob(x)
    with pytest.raises(DataError, match="a text of 12 characters for each example, the data give a class"):
        painter.accepts_condition(torch.zeros(4, dtype=torch.int64))


def test_what_represents_draws_nothing(models: dict[str, GenerativeModel]) -> None:
    patches = models["patches"]
    x = torch.rand(5, 1, 8, 8)
    assert patches.features(x).shape == (5, patches.feature_dim)
    tokens = patches.features(x, pool=None)
    assert tokens.shape == (5, 16, patches.feature_dim) and torch.allclose(tokens.mean(1), patches.features(x))
    for ask in (lambda: patches.sample(3), lambda: patches.sample_many([Draw(1)])):
        with pytest.raises(ConfigError, match=r"draws none, so it has no samples; ask for features\(x\)"):
            ask()
    assert isinstance(patches, HasFeatures) and not isinstance(models["springs"], HasFeatures)


def test_evaluation_follows_abilities(
    runs: dict[str, Path], models: dict[str, GenerativeModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROBE, "iterations", 40)
    monkeypatch.setitem(PROBE, "few_seeds", 2)
    found = {}
    for kind in KINDS:
        own = {"extractor": None if kind == "patches" else "none", "progress": False}
        found[kind] = zoo.evaluate(models[kind], data(kind), samples=80, limit=100, out=tmp_path / kind, **own)
    m = {kind: {name: metric.value for name, metric in r.metrics.items()} for kind, r in found.items()}
    assert set(m["springs"]) == {"energy_gap", "auroc_noise"} and m["springs"]["auroc_noise"] > 0.95
    features = {"probe_accuracy", "probe_accuracy_1pct", "knn_accuracy", "effective_rank", "feature_std"}
    assert set(m["patches"]) == {n + c for n in features for c in ("", "_pixels", "_untrained")}
    assert m["patches"]["probe_accuracy_pixels"] > 0.95  # bars are told apart by their pixels
    assert 0.2 < m["patches"]["probe_accuracy"] <= 1 and 1 <= m["patches"]["effective_rank"] <= 12
    assert set(m["painter"]) == {"nats"} and m["painter"]["nats"] < 64 * math.log(2) / 2
    assert found["painter"].protocol.conditional and not found["flipbook"].protocol.conditional
    assert set(m["flipbook"]) == {"nats"}
    cost = found["patches"].cost
    assert cost.samples_per_second is cost.latency_seconds is cost.network_calls_per_sample is None
    constants = found["patches"].protocol.estimators["features"]
    assert constants["training_examples"] == 400 and constants["test_examples"] == 100
    again = zoo.evaluate(models["patches"], data("patches"), limit=100, progress=False)
    assert again.metrics == found["patches"].metrics and again.protocol == found["patches"].protocol
    with pytest.raises(ConfigError, match="no sampling options"):
        zoo.evaluate(models["patches"], data("patches"), options={"steps": 3})
    with pytest.raises(ConfigError, match="no extractor"):
        zoo.evaluate(models["patches"], data("patches"), extractor="digits")
    _tables(tmp_path)


def _tables(folder: Path) -> None:
    """The tables of the results: features and energies have columns, each ranked by its own protocol."""
    from zoo.leaderboard import collect, tables
    from zoo.leaderboard.page import site

    rows, left_out = collect([folder])
    assert len(rows) == 4 and not left_out
    (table,) = tables(rows, dataset="bars")
    shown = {row.result.identity.family: row for row in table.rows}
    assert table.sort == "probe_accuracy" and shown["representation"].rank == 1 and shown["energy"].rank is None
    assert {"probe_accuracy", "probe_accuracy_untrained", "energy_gap", "auroc_noise"} <= {c.key for c in table.columns}
    assert shown["energy"].shown["probe_accuracy"] == "-"
    assert "probe_accuracy" in site(tables(rows), {}, {})["index.html"]


def test_energies_of_several_seeds(models: dict[str, GenerativeModel]) -> None:
    one = zoo.evaluate(models["springs"], data("springs"), samples=60, seeds=2, extractor="none", progress=False)
    assert len(one.metrics["energy_gap"].per_seed) == 2 and one.metrics["energy_gap"].standard_error > 0


class _Inverted(new_kinds.Bars):
    name = "inverted_bars"

    def read(self, split: str) -> Any:
        x, labels = super().read(split)
        return 255 - x, labels


def test_other_data_are_told_by_their_energy_or_refused(models: dict[str, GenerativeModel]) -> None:
    asked: dict[str, Any] = {"samples": 60, "extractor": "none", "progress": False}
    found = zoo.evaluate(models["springs"], data("springs"), other=_Inverted(), **asked)
    model, x = models["springs"], data("springs").split("test")[0].float() / 255
    with torch.no_grad():
        area = auroc(model.energy(x), model.energy(1 - x))[0]
    assert found.metrics["auroc_other"].value == pytest.approx(area, abs=1e-6)
    noted = found.protocol.estimators["energies"]
    assert noted["other"] == "inverted_bars" and noted["other_digest"] == _Inverted().digest("test")
    assert "--other" not in found.command  # a module of one's own has no name to type
    for wrong, words in (("mnist", "shape"), (data("springs"), "itself")):
        with pytest.raises(ConfigError, match=words):
            zoo.evaluate(models["springs"], data("springs"), other=wrong, **asked)
    with pytest.raises(ConfigError, match="no energy"):
        zoo.evaluate(models["flipbook"], data("flipbook"), other=data("flipbook"), extractor="none", progress=False)


def test_estimates_of_log_z_are_not_ranked(runs: dict[str, Path], tmp_path: Path) -> None:
    from dataclasses import replace

    from zoo.leaderboard import tables

    sure = zoo.evaluate(load_run(runs["flipbook"]), data("flipbook"), extractor="none", progress=False)
    lucky = replace(
        sure,
        identity=replace(sure.identity, name="lucky"),
        metrics={"nats": results.Metric(0.5)},
        protocol=replace(sure.protocol, likelihood="ais-100"),
    )
    learnt = replace(
        lucky, identity=replace(sure.identity, name="learnt"), protocol=replace(sure.protocol, likelihood="nce")
    )
    (table,) = tables([sure, lucky, learnt])
    rows = {row.result.identity.name: row for row in table.rows}
    assert rows["learnt"].rank is None and rows["learnt"].shown["likelihood"].startswith("~ 0.500 nats nce [2]")
    said = " ".join(table.notes.values())
    assert "normaliser is learnt" in said and "better side" in said
    assert rows["lucky"].rank is None and rows["lucky"].shown["likelihood"].startswith("~ 0.500 nats ais-100 [1]")
    assert rows[sure.identity.name].rank == 1 and "≤" not in rows["lucky"].shown["likelihood"]


def test_diagnoses_or_a_true_refusal(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitting = {"springs": {"energies"}, "patches": {"features", "feature_map", "neighbours"}, "flipbook": {"clips"}}
    for kind in KINDS:
        code = main(["diagnose", str(runs[kind]), "--out", str(tmp_path / kind), "--examples", "60"])
        said = capsys.readouterr()
        assert code == (0 if kind in fitting else 2)
        if kind not in fitting:
            assert "there is no diagnostic for" in said.err and said.err.count("\n") == 1
            continue
        content = json.loads((tmp_path / kind / "diagnostics.json").read_text())
        assert set(content["diagnostics"]) == fitting[kind]
    energies = json.loads((tmp_path / "springs" / "diagnostics.json").read_text())["diagnostics"]["energies"]
    assert energies["noise_energy"] > energies["test_energy"] and energies["examples"] == 60


def test_exports_or_a_true_refusal(models: dict[str, GenerativeModel], tmp_path: Path) -> None:
    x = torch.rand(3, 1, 8, 8)
    found, encoder = parts(models["springs"]), parts(models["patches"])[""]
    energy, score = found["energy"], found["score"]
    assert (energy.kind, score.kind, encoder.kind) == ("energy", "score", "encoder")
    assert torch.equal(energy.module(x), models["springs"].energy(x))
    torch.testing.assert_close(score.module(x), models["springs"].score(x))
    assert torch.equal(encoder.module(x), models["patches"].features(x))
    for kind in ("springs", "patches"):
        path, *more = export(models[kind], "pt2", tmp_path / kind)  # compares before it writes
        assert [".score." in str(p) for p in more] == ([True] if kind == "springs" else [])
        program = torch.export.load(path).module()
        expected = models[kind].energy(x) if kind == "springs" else models[kind].features(x)
        assert torch.allclose(program(x), expected, atol=1e-5)
    for kind in ("painter", "flipbook"):
        with pytest.raises(ConfigError, match="nothing to export"):
            export(models[kind], "pt2", tmp_path)


def test_saved_and_loaded(models: dict[str, GenerativeModel], tmp_path: Path) -> None:
    x = torch.rand(3, 1, 8, 8)
    for kind in KINDS:
        again = zoo.load(str(save_pretrained(models[kind], tmp_path / kind)))
        if kind == "springs":
            assert torch.equal(again.energy(x), models[kind].energy(x))
        elif kind == "patches":
            assert torch.equal(again.features(x), models[kind].features(x))
        if again.generates:
            assert torch.equal(again.sample(2, seed=0), models[kind].sample(2, seed=0))


def test_published_cards_say_what_a_model_gives(runs: dict[str, Path]) -> None:
    from zoo.hub.staging import _of_model

    cards = {k: _of_model(load_run(runs[k]), f"me/{k}")["README.md"].decode() for k in KINDS}
    assert "model.features(x)" in cards["patches"] and "model.sample" not in cards["patches"]
    assert "its features are of examples" in cards["patches"] and 'labels="..."' in cards["painter"]
    assert "model.sample(16, seed=0)" in cards["springs"] and "![samples](samples.png)" in cards["flipbook"]


def test_names_are_listed_and_shown(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "*bars*"]) == 0
    listed = capsys.readouterr().out
    assert all(new_kinds.name_of(kind) in listed for kind in KINDS)
    assert main(["show", new_kinds.name_of("patches")]) == 0


def test_the_server_asks_abilities(models: dict[str, GenerativeModel]) -> None:
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    pytest.importorskip("httpx")
    from test_serve import calls

    from zoo.serving.app import build
    from zoo.serving.service import Service
    from zoo.serving.settings import Settings

    service = Service(models, Settings(models=("vae-mnist",), deadline=60.0, hosts=("testserver",)))
    try:
        _served(build(service), models, calls)
    finally:
        service.close()


def _served(app: Any, models: dict[str, GenerativeModel], calls: Any) -> None:
    x = (torch.rand(2, 1, 8, 8) * 255).round().to(torch.uint8)
    pixels, model = {"pixels": x.tolist()}, "/v1/models/{}/{}".format
    stream = io.BytesIO()
    Image.fromarray(x[0, 0].numpy()).save(stream, format="PNG")
    picture = {"images": [base64.b64encode(stream.getvalue()).decode()]}
    answers = calls(
        app,
        ("GET", "/v1/models", None),
        ("POST", model("springs", "energy"), pixels),
        ("POST", model("springs", "energy"), picture),
        ("POST", model("patches", "features"), pixels),
        ("POST", model("painter", "sample"), {"n": 2, "seed": 5, "labels": "upper row"}),
        ("POST", model("painter", "log_prob"), {"pixels": (x > 99).mul(255).tolist(), "labels": "upper row"}),
        ("POST", model("flipbook", "sample"), {"n": 3, "seed": 5, "format": "gif"}),
        ("POST", model("flipbook", "sample"), {"n": 3, "seed": 5, "format": "png"}),
        ("POST", model("flipbook", "sample"), {"n": 3, "seed": 5}),
        ("POST", model("flipbook", "log_prob"), {"pixels": [torch.zeros(1, 4, 8, 8).long().tolist()]}),
    )
    assert [a.status_code for a in answers] == [200] * 10, [a.text[:200] for a in answers]
    listed = {m["name"]: m for m in answers[0].json()["models"]}
    assert listed["springs"]["energy"] and listed["springs"]["likelihood"] is None
    assert listed["patches"] | {"generates": False, "formats": [], "features": 12} == listed["patches"]
    assert listed["painter"]["text"] == 12 and listed["flipbook"]["medium"] == "video"
    energies = models["springs"].energy(x / 255)
    assert torch.allclose(torch.tensor(answers[1].json()["energy"]), energies, atol=1e-5)
    assert torch.allclose(torch.tensor(answers[2].json()["energy"]), energies[:1], atol=1e-5)
    assert torch.allclose(torch.tensor(answers[3].json()["features"]), models["patches"].features(x / 255), atol=1e-5)
    drawn = models["painter"].sample(2, seed=5, labels="upper row")
    assert torch.equal(torch.tensor(answers[4].json()["pixels"]), (drawn * 255).long())
    clips = models["flipbook"].sample(3, seed=5)
    assert answers[6].headers["content-type"] == "image/gif" and answers[6].content[:4] == b"GIF8"
    assert answers[7].content == clips_png(clips)
    assert torch.equal(torch.tensor(answers[8].json()["pixels"]), (clips * 255).long())
    refused = calls(
        app,
        ("POST", model("patches", "sample"), {"n": 1}),
        ("POST", model("springs", "features"), pixels),
        ("POST", model("springs", "log_prob"), pixels),
        ("POST", model("painter", "energy"), pixels),
        ("POST", model("painter", "sample"), {"n": 1, "labels": "Upper"}),
        ("POST", model("painter", "sample"), {"n": 1, "labels": 3}),
        ("POST", model("painter", "sample"), {"n": 3, "labels": ["upper row", "lower row"]}),
        ("POST", model("springs", "energy"), {"pixels": [[[1]]]}),
        ("POST", model("springs", "energy"), {**pixels, "seed": 3}),
    )
    assert [a.status_code for a in refused] == [404] * 4 + [422] * 5
    assert all("Upper" not in a.text for a in refused)


# -- laws -------------------------------------------------------------------------------------------------------------


class _Spring(HasEnergy, GenerativeModel):
    def __init__(self, k: float) -> None:
        super().__init__()
        self.k, self.shape, self.temperature = torch.nn.Parameter(torch.tensor(k)), (3,), 0.5

    def energy(self, x: torch.Tensor, *, labels: Any = None) -> torch.Tensor:
        return self.k * x.square().sum(1) / 2


def test_score_is_the_slope_of_the_log_density_in_every_mode() -> None:
    model, x = _Spring(3.0), torch.randn(5, 3)
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            score = model.score(x)
        assert torch.allclose(score, -3.0 * x / 0.5) and not score.requires_grad
    assert model.k.grad is None


def test_auroc_is_the_share_of_pairs() -> None:
    g = torch.Generator().manual_seed(0)
    inside, outside = (torch.randint(6, (n,), generator=g).double() for n in (40, 30))
    pairs = (outside[:, None] > inside).double() + (outside[:, None] == inside).double() / 2
    area, error, _ = auroc(inside, outside)
    assert area == pytest.approx(float(pairs.mean()), abs=1e-12) and 0 < error < 0.1
    assert auroc(torch.arange(3.0), torch.arange(3.0) + 9)[0] == 1
    gap, error, _ = energy_gap(torch.tensor([0.0, 2.0]), torch.tensor([-1.0, -1.0]))
    assert gap == pytest.approx(2 / math.sqrt(2))


def test_rank_and_probes_of_known_features() -> None:
    assert effective_rank(torch.cat([torch.eye(7), -torch.eye(7)]))[0] == pytest.approx(7)
    assert effective_rank(torch.cat([torch.eye(7), -torch.eye(7)]) + 100)[0] == pytest.approx(7)
    assert effective_rank(torch.ones(9, 5))[0] == pytest.approx(1)
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    far = torch.randn(300, 6, generator=g) + 20 * torch.eye(3, 6)[labels]
    nothing = torch.randn(300, 6, generator=g)
    for x, good in ((far, True), (nothing, False)):
        split = list(zip(standardised(*x.split(100)), labels.split(100), strict=True))
        probe, knn = probe_accuracy(*split, 3)[0][0], knn_accuracy(split[0], split[2], 3)[0]
        assert (probe == knn == 1) if good else max(probe, knn) < 0.55
    few = few_labels(labels, 0.1, seed=1)
    assert labels[few].bincount().tolist() == [10, 10, 10] and len(few.unique()) == 30
    (flat,) = standardised(torch.ones(4, 2))
    assert torch.equal(flat, torch.zeros(4, 2))


def test_collapse_is_seen(models: dict[str, GenerativeModel]) -> None:
    from zoo.evaluation.representation import FeatureProtocol

    measured = FeatureProtocol(models["patches"], data("patches"), False, 50)
    collapsed = measured.of_features([torch.ones(len(x), 4) for x, _ in measured.splits])
    assert collapsed["effective_rank"][0] == pytest.approx(1) and collapsed["feature_std"][0] == 0
    assert collapsed["probe_accuracy"][0] < 0.5
    with pytest.raises(ResultError, match="NaN"):
        measured.of_features([torch.full((len(x), 4), torch.nan) for x, _ in measured.splits])


def test_texts_go_there_and_back() -> None:
    texts = ["", "abc", "a b c"]
    found = encode_texts(texts, new_kinds.LETTERS, 6)
    assert found.shape == (3, 6) and found[0].tolist() == [-1] * 6 and found[1].tolist() == [0, 1, 2, -1, -1, -1]
    assert decode_texts(found, new_kinds.LETTERS) == texts
    for text, words in (("Q", "not among"), ("abcdefg", "at most 6")):
        with pytest.raises(ConfigError, match=words):
            encode_texts([text], new_kinds.LETTERS, 6)


def test_moving_sheets_hold_the_frames() -> None:
    clips = torch.rand(3, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    moving = Image.open(io.BytesIO(animation_bytes(clips, apng=True)))
    assert moving.n_frames == 4 and moving.info["duration"] == 125
    for t in range(4):
        moving.seek(t)
        assert np.array_equal(np.asarray(moving.convert("RGB")), sheet(clips[:, :, t]))
    grey = Image.open(io.BytesIO(animation_bytes(clips[:, :1])))  # of one channel a GIF is exact too
    for t in range(4):
        grey.seek(t)
        assert np.array_equal(np.asarray(grey.convert("L")), sheet(clips[:, :1, t]))
    rows = np.asarray(Image.open(io.BytesIO(clips_png(clips))))
    assert np.array_equal(rows, sheet(torch.stack([clips[i, :, t] for i in range(3) for t in range(4)]), columns=4))


def test_captions_stand_below_their_images() -> None:
    images = torch.ones(3, 1, 8, 8)
    plain, told = (
        captioned_sheet(images, ["", "b" * 99, ""], scale=2),
        captioned_sheet(images, ["a", "b" * 99, "ü\n漢"], scale=2),
    )
    assert plain.shape == told.shape and plain.shape[2] == 3
    changed = np.argwhere((plain != told).any(2))
    assert len(changed) and changed[:, 0].min() >= 4 + 16  # below the first row of images
    short, long = (captioned_sheet(images, [text] * 3) for text in ("a", "a bold three slanted right"))
    assert short.shape[1] < long.shape[1] < told.shape[1], "a cell is as wide as its caption, within bounds"


def test_files_of_samples_by_kind(models: dict[str, GenerativeModel], tmp_path: Path) -> None:
    clips = models["flipbook"].sample(2, seed=0)
    assert [p.suffix for p in save_samples(models["flipbook"], clips, tmp_path / "a.gif")] == [".gif", ".png"]
    assert [p.suffix for p in save_samples(models["flipbook"], clips, tmp_path / "b.png")] == [".png"]
    x = models["springs"].sample(2, seed=0)
    (path,) = save_samples(models["springs"], x, tmp_path / "c.png", captions=["one", "two"])
    assert picture(path).mode == "RGB"


def test_feature_colours_are_principal_components(models: dict[str, GenerativeModel]) -> None:
    picture = feature_picture(models["patches"], torch.rand(4, 1, 8, 8))
    assert picture.shape == (2, 4, 3, 8, 8) and picture.min() >= 0 and picture.max() <= 1
    blocks = picture[1].unfold(2, 2, 2).unfold(3, 2, 2)
    assert torch.equal(blocks.amax((-1, -2)), blocks.amin((-1, -2)))  # one colour a patch
