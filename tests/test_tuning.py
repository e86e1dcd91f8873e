"""Searching options on validation data: what is tried, recorded, gone on with, and what the card says of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hub_cases import mlp
from tiny import QUIET

import zoo.api
import zoo.hub
import zoo.training.compute
from zoo import searches
from zoo._cli.main import main
from zoo._cli.tune import between, values
from zoo.data.mnist import MNIST
from zoo.errors import ConfigError, ResultError
from zoo.hub import build_card
from zoo.metrics.distribution import ESTIMATORS
from zoo.model import ImplicitModel
from zoo.plain_sampling import departures, of_plain_model, plain_options
from zoo.searches import Search, Trial, parse, search_table
from zoo.tuning import Range, tune

QUICK: dict[str, Any] = {"samples": 100, "batch_size": 50, "progress": False}


class FewDigits(MNIST):
    """The first digits of each split; the test split is not to be looked at."""

    def read(self, split: str) -> Any:
        assert split != "test", "a search looked at test examples"
        x, labels = super().read(split)
        return x[:150].clone(), labels[:150].clone()


class Faded(ImplicitModel):
    """The first training digits, faded by an option: 1 is right, everything else is further from the data."""

    family = "test"
    shape, levels = (1, 28, 28), 256

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.drawn: list[float] = []

    def draw(self, n: int, generator: torch.Generator, labels: Any, *, fade: float = 0.5, shift: int = 0) -> Any:
        self.drawn.append(fade)
        x = MNIST().read("train")[0][:150].float() / 255
        rows = torch.randint(len(x), (n,), generator=generator)
        return (x[rows] * fade).roll(shift, -1)


@pytest.fixture
def faded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Faded:
    """A model that has a name for `zoo.load`, evaluated on few digits."""
    model = Faded()
    monkeypatch.setattr(zoo.hub, "load", lambda which, device=None: model)
    measured = zoo.api.evaluate

    def evaluate(which: Any, **options: Any) -> Any:
        return measured(model, FewDigits(), **{k: v for k, v in options.items() if k not in ("work", "device")})

    monkeypatch.setattr(zoo.api, "evaluate", evaluate)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("zoo.evaluation.measuring.second_views", lambda data: [])  # these are not searched by
    monkeypatch.setitem(ESTIMATORS, "kid_subsets", 2)
    monkeypatch.chdir(tmp_path)
    return model


def test_sampling_options_are_tried_on_validation_data_recorded_and_resumed(faded: Faded, tmp_path: Path) -> None:
    found = tune("vae-mnist", {"fade": [0.2, 1.0], "shift": [0, 9]}, seeds=2, **QUICK)
    assert found.best.options == {"fade": 1.0, "shift": 0} and found.left == 0
    assert [t.value for t in found.trials] == sorted(t.value for t in found.trials)
    kept = searches.read(Path("results/vae-mnist"))
    assert kept == found.search and len(kept.trials) == 4
    for trial in kept.trials:
        assert (trial.split, trial.data, trial.metric, trial.seeds, trial.samples) == (
            "validation", "mnist", "fid", [0, 1], 100,
        )  # fmt: skip
        assert trial.digest == FewDigits().digest("validation")
        assert len(trial.per_seed) == 2 and trial.standard_error > 0
        assert trial.cost["sampling_tflop"] >= 0 and trial.cost["seconds"] > 0
        assert trial.defaults == {"fade": 0.5, "shift": 0} and trial.weights_sha256
        assert "kid" in trial.metrics and not any(n.startswith("nats") for n in trial.metrics)
    faded.drawn.clear()
    again = tune("vae-mnist", {"fade": [0.2, 1.0], "shift": [0, 9]}, seeds=2, **QUICK)
    assert again.trials == found.trials and faded.drawn == []
    more = tune("vae-mnist", {"fade": [0.2]}, seeds=2, **QUICK)  # other options: another group of the same file
    assert len(more.search.trials) == 5 and [len(g) for g in more.search.groups()] == [4, 1]
    with torch.no_grad():
        faded.weight.add_(1)  # other weights: nothing of before counts
    assert len(tune("vae-mnist", {"fade": [0.2]}, seeds=2, **QUICK).search.trials) == 6


def test_a_search_that_was_killed_goes_on(faded: Faded, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = zoo.api.evaluate
    left = [2]

    def dying(*args: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return measured(*args, **options)

    monkeypatch.setattr(zoo.api, "evaluate", dying)
    with pytest.raises(KeyboardInterrupt):
        tune("vae-mnist", {"fade": [0.2, 0.6, 1.0]}, seeds=1, **QUICK)
    before = searches.read("results/vae-mnist").trials
    assert [t.options["fade"] for t in before] == [0.2, 0.6]
    left[0] = 1
    found = tune("vae-mnist", {"fade": [0.2, 0.6, 1.0]}, seeds=1, **QUICK)
    assert found.search.trials[:2] == before and len(found.search.trials) == 3 and found.best.options == {"fade": 1.0}


def test_budget_ends_a_search(faded: Faded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(zoo.training.compute, "flops_per_sample", lambda model, options: 1e9)
    options = {"seeds": 1, **QUICK}  # 1e9 x 100 samples: a tenth of a TFLOP each
    found = tune("vae-mnist", {"fade": [0.2, 0.6, 1.0]}, budget="0.25TFLOP", **options)
    assert len(found.trials) == 2 and found.left == 1
    with pytest.raises(ConfigError, match="the budget is less than one trial costs"):
        tune("vae-mnist", {"shift": [1, 2]}, budget="1GFLOP", **options)
    words = ["vae-mnist", "--grid", "fade=0.2,0.6,1.0", "--seeds", "1", "--samples", "100", "--batch_size", "50"]
    assert main(["tune", *words, "--budget", "0.25TFLOP"]) == 0
    printed = capsys.readouterr().out
    assert "2 trials on the validation split of mnist; best: fade=0.6" in printed and "1 were not tried" in printed
    assert main(["tune", *words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [t["options"]["fade"] for t in told["trials"]] == [1.0, 0.6, 0.2] and told["left"] == 0


def test_optuna_proposes_within_ranges_and_goes_on(faded: Faded) -> None:
    pytest.importorskip("optuna")
    grid = {"fade": Range(0.1, 1.0), "shift": [0, 9]}
    found = tune("vae-mnist", grid, trials=4, seeds=1, **QUICK)
    assert len(found.trials) == 4 and all(0.1 <= t.options["fade"] <= 1 for t in found.trials)
    faded.drawn.clear()
    again = tune("vae-mnist", grid, trials=5, seeds=1, **QUICK)  # the same proposals, and one more
    assert again.search.trials[:4] == found.search.trials and len(set(faded.drawn)) <= 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--grid", "fading=1,2"], "vae-mnist has no sampling option 'fading'. Did you mean 'fade'"),
        (["--grid", "fade=1,1"], "fade must be given different values"),
        (["--grid", "fade"], "--grid takes option=a,b,c, got 'fade'"),
        (["--grid", "fade=1,2", "--grid", "fade=3"], "fade is given twice"),
        ([], "there is nothing to search"),
        (["--grid", "fade=1,2", "--split", "test"], "options are chosen on validation data"),
        (["--grid", "fade=1,2", "--metric", "bits_per_dim"], "bits_per_dim does not depend on how samples are drawn"),
        (["--grid", "fade=1,2", "--metric", "fidd", "--samples", "100"], "no 'fidd' to choose by. Did you mean 'fid'"),
        (["--grid", "model.lr=1,2"], "trainings cost compute"),
        (["--grid", "optimizer.lr=1,2", "--budget", "1TFLOP"], "optimizer.lr is no option of a training"),
        (["--grid", "fade=1,2", "--budget", "much"], "a compute budget is a positive number and a unit"),
        (["--range", "fade=1:2"], "say how many trials Optuna may make, by --trials N"),
        (["--range", "fade=2:1", "--trials", "2"], "the range of fade must rise"),
        (["--range", "fade=1"], "--range takes option=low:high"),
        (["--grid", "fade=1,2", "--trails", "2"], "unknown option '--trails'. Did you mean '--trials'"),
        (["--grid", "fade=1,2", "--trials", "0"], "trials must be a positive integer"),
    ],
)
def test_mistakes_are_one_sentence(
    faded: Faded, capsys: pytest.CaptureFixture, arguments: list[str], words: str
) -> None:
    assert main(["tune", "vae-mnist", "--samples", "100", "--seeds", "1", *arguments]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "zoo: error" in x]
    assert words in line


def test_values_and_ranges_are_read() -> None:
    assert values("steps=10,20") == ("steps", [10, 20])
    assert values("sampler=ddim,heun") == ("sampler", ["ddim", "heun"])
    assert values("model.widths=[8,16],[16]") == ("model.widths", [[8, 16], [16]])
    assert between("a=1:4") == ("a", Range(1, 4)) and between("a=1:4")[1].whole
    assert between("a=1e-4:1e-2:log") == ("a", Range(1e-4, 1e-2, log=True))


def test_short_trainings_are_tried_by_their_likelihood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two learning rates of a VAE of a few thousand numbers, of which one does nothing."""
    arguments = {"encoder": mlp([784, 8, 4]), "decoder": mlp([2, 8, 784]), "shape": [1, 28, 28], "latent_dim": 2,
                 "likelihood": "bernoulli", "lr": 1e-3}  # fmt: skip
    entry = {
        "family": "vae", "model": {"class_path": "zoo.families.vae.VAE", "init_args": arguments},
        "data": {"class_path": "zoo.data.mnist.ThresholdMNIST", "init_args": {"batch_size": 16}},
    }  # fmt: skip
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(yaml.safe_dump({"models": {"small-mnist": entry}}))
    monkeypatch.chdir(tmp_path)
    options = {"metric": "nats", "budget": "0.12GFLOP", "registry": [overlay], "arguments": QUIET, "limit": 50}
    found = tune("small-mnist", {"model.lr": [1e-7, 3e-2]}, seeds=1, progress=False, **options)
    assert found.best.options == {"model.lr": 3e-2} and found.trials[1].value - found.best.value > 10
    for trial in found.trials:
        assert trial.budget == "6e-05TFLOP" and 0 < trial.cost["training_tflop"] <= 6e-5
        assert trial.samples is None and (found.file.parent / trial.run / "run.json").is_file()
    runs = {p: p.stat().st_mtime_ns for p in found.file.parent.glob("trials/*/run.json")}
    again = tune("small-mnist", {"model.lr": [1e-7, 3e-2]}, seeds=1, progress=False, **options)
    assert again.trials == found.trials and {p: p.stat().st_mtime_ns for p in runs} == runs


# -- the record, and what cards say -----------------------------------------------------------------------------------


def trial(fade: float, value: float, **facts: Any) -> Trial:
    given = {"metric": "fid", "split": "validation", "data": "mnist", "digest": "d" * 64, "seeds": [0, 1]}
    return Trial(options={"fade": fade}, value=value, **{**given, "samples": 2000, "weights_sha256": "a" * 64, **facts})


def test_what_was_chosen_needs_more_than_one_trial_on_validation_data() -> None:
    search = Search("x", (trial(1.0, 3.0), trial(2.0, 2.0, standard_error=0.1)))
    assert set(search.chosen({"fade": 2.0})) == {"fade"}
    assert search.chosen({"fade": 1.0}) == {}  # not the best one
    assert search.chosen({"fade": 2.0}, "b" * 64) == {}  # of other weights
    assert Search("x", (trial(2.0, 2.0),)).chosen({"fade": 2.0}) == {}
    on_test = Search("x", tuple(dataclasses.replace(t, split="test") for t in search.trials))
    assert on_test.chosen({"fade": 2.0}) == {}
    higher = Search("x", tuple(dataclasses.replace(t, metric="recall") for t in search.trials))
    assert set(higher.chosen({"fade": 1.0})) == {"fade"}
    table = search_table(search, {"fade": 2.0})
    assert table.splitlines()[-2:] == ["| 2.0 | 2 ± 0.1 | 0 | in use |", "| 1.0 | 3 | 0 |  |"]
    assert "fid on the validation split of mnist (2,000 samples for each of seeds 0, 1)" in table


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"value": "2"}, "trial 1: value must be of type float"),
        ({"seeds": [0, "1"]}, "trial 1: seeds must be finite numbers"),
        ({"value": float("nan")}, "value must be finite numbers"),
        ({"samples": True}, "samples must be of type int"),
        ({"more": 1}, "has an unknown key 'more'"),
    ],
)
def test_broken_searches_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    content = Search("x", (trial(1.0, 3.0),)).to_dict()
    assert parse(json.loads(json.dumps(content))) == Search("x", (trial(1.0, 3.0),))
    content["trials"][0] |= change
    with pytest.raises(ResultError, match=words.replace("(", r"\(")):
        parse(content)
    (tmp_path / "search.json").write_text("{")
    with pytest.raises(ResultError, match="is not valid JSON"):
        searches.read(tmp_path)
    with pytest.raises(ResultError, match="has schema 2, this zoo knows 1"):
        parse({**content, "schema": 2})


def test_card_says_what_was_chosen_on_validation_data() -> None:
    protocol = {"sampler": {"fade": 2.0, "steps": 9}, "samples": 10, "conditional": False}
    results = {"metrics": {"fid": 2.5}, "protocol": protocol}
    assert "They were not searched on validation data." in build_card("x", results=results)
    search = Search("x", (trial(1.0, 3.0), trial(2.0, 2.0))).to_dict()
    text = build_card("x", results=results, search=search)
    assert "Chosen on validation data: `fade`. The others were not searched on validation data." in text
    assert "| 2.0 | 2 | 0 | in use |" in text
    other = {"metrics": {"fid": 2.5}, "protocol": {**protocol, "sampler": {"fade": 1.0}}}
    assert "They were not chosen by these trials" in build_card("x", results=other, search=search)


def test_samples_that_are_not_simply_drawn_say_so_beside_the_number() -> None:
    chosen = {"sampler": {"temperature": 1.0, "candidates": 8, "sharpness": 4.0}, "samples": 10}
    assert plain_options(chosen["sampler"]) == {"candidates": 1}
    assert departures(chosen) == ["samples chosen by the critic among 8 candidates"] and not of_plain_model(chosen)
    card = build_card("x", results={"metrics": {"fid": 2.29, "fid_plain": 4.0}, "protocol": chosen})
    assert "| fid | 2.29 (samples chosen by the critic among 8 candidates) |" in card and "| fid_plain | 4 |" in card
    guided = {"sampler": {"guidance_scale": 3.0}, "likelihood": "vlb", "conditional": False, "samples": 10}
    assert departures(guided) == ["samples guided away from its own early self, scale 3"] and of_plain_model(guided)
    card = build_card("x", results={"metrics": {"bits_per_dim": 1.9, "fid": 3.0}, "protocol": guided})
    assert "| bits_per_dim | 1.9 (of the plain model) |" in card
    assert departures({**guided, "conditional": True}) == ["samples guided towards the class, scale 3"]
    plain = {"sampler": {"guidance_scale": 1.0, "top_k": None, "greedy": False, "sampler": "ddim"}}
    assert departures(plain) == [] and departures({}) == []
