"""Results arranged in tables: order, marks, what is left out, and the README's block."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import zoo
from zoo._cli import leaderboard as command
from zoo.errors import ConfigError, CorruptWeightsError, ResultError
from zoo.hub import build_card, merge_card
from zoo.hub.card_blocks import metadata
from zoo.leaderboard import (
    best_table,
    bundled_folder,
    collect,
    find,
    home_table,
    model_table,
    rewrite,
    tables,
    to_json,
    to_markdown,
    to_text,
)
from zoo.leaderboard.__main__ import main
from zoo.leaderboard.readme import block
from zoo.registry import load_registry
from zoo.results import SCHEMA, Cost, Data, Identity, Metric, Protocol, Result, read, write

BEGIN, END = "<!-- models:begin -->", "<!-- models:end -->"
README = Path(__file__).parent.parent / "README.md"


def make(name: str, *, family: str = "gan", dataset: str = "mnist", cost: Any = None, **given: Any) -> Result:
    """Return a result; protocol fields by name, anything else is a metric."""
    fields = {k: given.pop(k) for k in list(given) if k in Protocol.__dataclass_fields__}
    if "fid" in given:
        estimators = {"kid_subsets": 100}
        fields = {"samples": 10_000, "reference": 10_000, "estimators": estimators} | fields
        fields = {"extractor": "e", "extractor_sha256": "e" * 64} | fields
    if "bits_per_dim" in given or "nats" in given:
        fields = {"likelihood": "exact", "k": 1, "likelihood_examples": 10_000} | fields
    return Result(
        identity=Identity(name, family, hashlib.sha256(name.encode()).hexdigest(), {}),
        data=Data(dataset, "test", hashlib.sha256(dataset.encode()).hexdigest(), 10_000, [1, 28, 28], 256),
        protocol=Protocol(**{"seeds": [0], "batch_size": 250, **fields}),
        metrics={k: Metric(v) for k, v in given.items()},
        floor={"fid": Metric(0.11), "kid": Metric(0.001)} if "fid" in given else {},
        cost=cost or Cost(parameters=1_000, training_tflop=49.75),
    )


@pytest.fixture
def results() -> list[Result]:
    return [
        make("a-mnist", fid=3.0, kid=0.2, cost=Cost(parameters=5_000, training_tflop=49.8, samples_per_second=10.0)),
        make("b-mnist", fid=1.0, cost=Cost(parameters=9_000, training_tflop=49.5, samples_per_second=30.0)),
        make("c-mnist", family="vae", fid=2.0, bits_per_dim=1.5, likelihood="iwae-500", k=500),
        make("d-mnist", family="autoregressive", fid=0.5, bits_per_dim=1.2, samples=1_000, quick=True),
        make("e-mnist", family="vae", bits_per_dim=1.1, likelihood="elbo"),
        make("e-binary_mnist", family="vae", dataset="binary_mnist", nats=90.0, likelihood="elbo"),
    ]


def names(results: list[Result], **options: Any) -> list[tuple[str, int | None]]:
    table = tables(results, dataset="mnist", **options)[0]
    return [(row.result.identity.name[0], row.rank) for row in table.rows]


# -- order and marks --------------------------------------------------------------------------------------------------


def test_rows_of_another_protocol_are_marked_and_not_ranked(results: list[Result]) -> None:
    assert names(results) == [("b", 1), ("c", 2), ("a", 3), ("e", None), ("d", None)]
    table = tables(results, dataset="mnist")[0]
    marked = {row.result.identity.name: row.differs for row in table.rows if row.differs}
    assert marked == {"d-mnist": {"samples": "samples 1,000, not 10,000"}}
    text = to_text([table])
    assert "0.50 [1]" in text and "d-mnist (quick)" in text
    assert "[1] another protocol, not ranked with the rest: samples 1,000, not 10,000" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"extractor_sha256": "f" * 64}, "extractor sha256 ffffffffffff, not eeeeeeeeeeee"),
        ({"samples": 5_000}, "samples 5,000, not 10,000"),
        ({"reference": 5_000}, "reference 5,000"),
        ({"estimators": {"kid_subsets": 1}}, "other estimators"),
        ({"conditional": True}, "conditional True, not False"),
    ],
)
def test_every_part_of_the_protocol_counts(change: dict[str, Any], words: str) -> None:
    table = tables([make("a-mnist", fid=2.0), make("b-mnist", fid=3.0), make("x-mnist", fid=1.0, **change)])[0]
    assert [(r.result.identity.name[0], r.rank) for r in table.rows] == [("a", 1), ("b", 2), ("x", None)]
    assert words in table.rows[-1].differs["samples"]


def test_another_split_or_other_data_are_marked() -> None:
    results = [make("a-mnist", fid=2.0), make("b-mnist", fid=3.0), make("x-mnist", fid=1.0, bits_per_dim=1.0)]
    for change in ({"split": "validation"}, {"digest": "0" * 64}):
        other = replace(results[2], data=replace(results[2].data, **change))
        table = tables([*results[:2], other, make("y-mnist", bits_per_dim=2.0), make("z-mnist", bits_per_dim=3.0)])[0]
        assert {r.result.identity.name[0] for r in table.rows if r.differs} == {"x"}
        row = next(r for r in table.rows if r.differs)
        assert set(row.differs) == {"samples", "likelihood"}


def test_validation_rows_never_rank_with_test_rows() -> None:
    """However many there are: one row on test data is enough to be what the others are held against."""
    results = [make(f"{c}-mnist", fid=fid) for c, fid in (("a", 1.0), ("b", 2.0), ("t", 3.0))]
    of_choices = [replace(r, data=replace(r.data, split="validation")) for r in results[:2]]
    table = tables([*of_choices, results[2]])[0]
    assert [(r.result.identity.name[0], r.rank) for r in table.rows] == [("t", 1), ("a", None), ("b", None)]
    text = to_text([table])
    assert "mnist (test split" in text and "split validation, not test" in text
    alone = tables(of_choices)[0]
    assert [r.rank for r in alone.rows] == [1, 2] and "mnist (validation split" in to_text([alone])
    registry = load_registry()
    known = make("vae-mnist", fid=1.25)
    assert "1.25" in model_table(registry, [known]) and "1.25" in home_table(registry, [known])
    chosen = replace(known, data=replace(known.data, split="validation"))
    assert "1.25" not in model_table(registry, [chosen]) + home_table(registry, [chosen])


def test_likelihoods_show_unit_kind_and_bound(results: list[Result]) -> None:
    table = tables(results, dataset="mnist", sort="bits_per_dim")[0]
    shown = {row.result.identity.name: row.shown["likelihood"] for row in table.rows}
    assert shown["c-mnist"] == "≤ 1.500 bits/dim iwae-500"
    assert shown["e-mnist"] == "≤ 1.100 bits/dim elbo"
    assert shown["d-mnist"] == "1.200 bits/dim exact"
    assert shown["a-mnist"] == "-"
    assert [r.rank for r in table.rows] == [1, 2, 3, None, None]
    assert "nats" in tables(results, dataset="binary_mnist")[0].rows[0].shown["likelihood"]


def test_columns_sort_in_their_better_direction(results: list[Result]) -> None:
    assert names(results, sort="samples_per_second")[:2] == [("b", 1), ("a", 2)]
    assert names(results, sort="parameters")[-1] == ("b", 5)
    assert names(results, sort="name")[0] == ("a", 1)
    assert names(results, sort="tflop")[0] == ("b", 1)


def test_one_table_for_each_data_set(results: list[Result]) -> None:
    assert [(t.dataset, t.sort) for t in tables(results)] == [("binary_mnist", "likelihood"), ("mnist", "fid")]
    assert [len(t.rows) for t in tables(results, family="vae")] == [1, 2]


def test_unknown_names_are_refused(results: list[Result]) -> None:
    with pytest.raises(ConfigError, match=r"no column 'fidd'.* Did you mean 'fid'"):
        tables(results, sort="fidd")
    with pytest.raises(ConfigError, match=r"no data set 'mnis'.* Did you mean 'mnist'"):
        tables(results, dataset="mnis")
    with pytest.raises(ConfigError, match=r"There are: autoregressive, gan, vae"):
        tables(results, family="flow")


def test_floor_row_is_shown_unless_its_protocol_differs(results: list[Result]) -> None:
    results[3] = replace(results[3], floor={"fid": Metric(9.0)})
    table = tables(results, dataset="mnist")[0]
    assert table.floor == {"fid": 0.11, "kid": 0.001}
    for text in (to_text([table]), to_markdown([table])):
        assert "training images (floor)" in text and "0.11" in text and "9.00" not in text


# -- tracks and fronts ------------------------------------------------------------------------------------------------


def test_tracks_are_apart(results: list[Result]) -> None:
    long, unknown = (
        make(f"{n}-mnist", fid=0.1, cost=Cost(1_000, training_tflop=t)) for n, t in (("l", 51.0), ("u", None))
    )
    found = tables([*results, long, unknown], dataset="mnist")
    assert [(t.track, len(t.rows)) for t in found] == [("home", 5), ("open", 2)]
    assert found[0].rows[0].result.identity.name == "b-mnist"  # not ranked behind what cost more
    assert len(tables([*results, long], only="open")) == 1
    assert "at most 50 TFLOP" in to_text(found[:1]) and "open track" in to_text(found[1:])
    with pytest.raises(ConfigError, match=r"no track 'hom'.* Did you mean 'home'"):
        tables(results, only="hom")


def test_pareto_fronts_name_what_nobody_beats_twice() -> None:
    def at(name: str, fid: float, speed: float, tflop: float, hardware: str = "a", **more: Any) -> Result:
        cost = Cost(1_000, training_tflop=tflop, samples_per_second=speed, hardware=hardware)
        return make(name, fid=fid, cost=cost, **more)

    rows = [at("best", 1, 10, 40), at("fast", 3, 1_000, 45), at("cheap", 4, 5, 1), at("beaten", 3.5, 900, 46)]
    rows += [at("elsewhere", 5, 9_999, 47, "b"), at("quick", 0.1, 9_999, 1, samples=1_000, quick=True)]
    (table,) = tables(rows)
    fronts = {row.result.identity.name: set(row.pareto) for row in table.rows if row.pareto}
    assert fronts == {"best": {"speed", "compute"}, "fast": {"speed"}, "cheap": {"compute"}}
    assert "speed + compute" in to_markdown([table]) and "Pareto: no row has both a better FID" in to_text([table])
    (table,) = tables(rows, sort="samples_per_second")
    assert [(r.result.identity.name, r.rank) for r in table.rows][-1] == ("elsewhere", None)
    assert "hardware b, not a" in to_text([table])
    assert tables(rows[:1])[0].rows[0].pareto == ()


def test_a_missing_metric_is_no_other_protocol() -> None:
    """Constants of estimators are compared where both have them: an older result lacks those of newer metrics."""
    old = make("old-mnist", fid=2.0)
    new = make("new-mnist", fid=1.0, density=0.9, estimators={"kid_subsets": 100, "density_neighbours": 5})
    assert [row.rank for row in tables([old, new])[0].rows] == [1, 2]


def test_memorised_rows_say_so() -> None:
    (table,) = tables([replace(make("a-mnist", fid=2.0), flags=["memorised"])])
    assert "a-mnist (memorised)" in to_text([table]) and "too near to training images" in to_text([table])


# -- forms ------------------------------------------------------------------------------------------------------------


def test_markdown_is_rectangular(results: list[Result]) -> None:
    lines = [line for line in to_markdown(tables(results, dataset="mnist")).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + 5 + 1


def test_json_holds_values_protocol_and_what_was_left_out(results: list[Result]) -> None:
    content = json.loads(to_json(tables(results), ["a sentence"]))
    assert content["left_out"] == ["a sentence"]
    mnist = content["tables"][1]
    assert [row["rank"] for row in mnist["rows"]] == [1, 2, 3, None, None]
    assert mnist["rows"][0]["fid"] == 1.0
    assert mnist["rows"][-1]["differs"] == {"samples": "samples 1,000, not 10,000"}
    assert mnist["rows"][0]["result"]["protocol"]["samples"] == 10_000


# -- collecting -------------------------------------------------------------------------------------------------------


def test_untrustworthy_files_are_left_out_and_named(results: list[Result], tmp_path: Path) -> None:
    write(results[0], tmp_path / "good")
    write(results[0], tmp_path / "copy" / "deeper")
    changed = write(results[1], tmp_path / "changed")
    (changed.parent / "SHA256SUMS").write_text(f"{'0' * 64}  eval.json\n")
    other = write(results[2], tmp_path / "other")
    sums = f"{hashlib.sha256(other.read_bytes()).hexdigest()}  eval.json\n{'1' * 64}  model.safetensors\n"
    (other.parent / "SHA256SUMS").write_text(sums)
    newer = write(results[3], tmp_path / "newer")
    newer.write_text(newer.read_text().replace(f'"schema": {SCHEMA}', '"schema": 99'))
    nan = write(results[4], tmp_path / "nan")
    nan.write_text(nan.read_text().replace("1.1", "NaN"))
    swapped = write(make("swapped-mnist", fid=1.0), tmp_path / "swapped")
    (swapped.parent / "model.safetensors").write_bytes(b"weights that were not evaluated")
    stale = write(make("stale-mnist", fid=1.0), tmp_path / "stale")
    found, left_out = collect([tmp_path], {"stale-mnist": "2" * 64})
    assert found == [results[0]]
    assert len(left_out) == 6
    faults = [(changed, "SHA256SUMS"), (other, "other weights"), (newer, "newer"), (nan, "nan")]
    for path, words in [*faults, (swapped, "weights than those beside it"), (stale, "registry pins for stale-mnist")]:
        assert any(str(path) in sentence and words in sentence for sentence in left_out), words


def test_other_weights_beside_a_result_give_it_another_name(tmp_path: Path) -> None:
    weights = tmp_path / "mine" / "model.safetensors"
    result = make("a-mnist", fid=1.0)
    identity = replace(result.identity, weights_sha256=hashlib.sha256(b"own weights").hexdigest())
    write(replace(result, identity=identity), weights.parent)
    weights.write_bytes(b"own weights")
    (found,), left_out = collect([tmp_path], {"a-mnist": "0" * 64})
    assert left_out == [] and found.identity.name == str(weights.parent)


def test_hub_repositories_are_rows(results: list[Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zoo

    write(results[0], tmp_path / "snapshot")

    def pull(name: str) -> Path:
        if name == "me/broken":
            raise CorruptWeightsError("me/broken: model.safetensors is damaged")
        return tmp_path / "snapshot"

    monkeypatch.setattr(zoo, "pull", pull, raising=False)
    folders, names, failed = command._given(["me/mine@v1", "me/broken", str(tmp_path)])
    assert folders == [tmp_path / "snapshot", tmp_path] and failed == ["me/broken: model.safetensors is damaged"]
    found, left_out = find(folders[:1], {"a-mnist": "0" * 64}, names)
    assert [r.identity.name for r, _ in found] == ["me/mine@v1"] and left_out == []


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="missing does not exist"):
        collect([tmp_path / "missing"])


def test_command_shows_local_results(
    results: list[Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(replace(results[0], identity=replace(results[0].identity, name="from-results")), "results/a")
    write(replace(results[1], identity=replace(results[1].identity, name="from-run")), "runs/b/2026")
    write(replace(results[2], identity=replace(results[2].identity, name="from-folder")), "elsewhere")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command.run(parser.parse_args(["elsewhere", "--dataset", "mnist", "--sort", "fid"])) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("from-results", "from-run", "from-folder"))
    assert command.run(parser.parse_args(["--json"])) == 0
    assert "from-folder" not in (text := capsys.readouterr().out) and json.loads(text)["tables"]


def test_leaderboard_imports_no_torch() -> None:
    code = (
        "import zoo.leaderboard.__main__, zoo._cli.leaderboard, sys; assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# -- the README -------------------------------------------------------------------------------------------------------


def test_model_table_has_a_row_for_each_name() -> None:
    registry = load_registry()
    result = make("vae-mnist", family="vae", fid=4.0, bits_per_dim=1.25, likelihood="iwae-500", cost=Cost(7_000, 49.5))
    quick = make("wgan_gp-mnist", fid=1.0, quick=True)
    lines = model_table(registry, [result, quick]).splitlines()
    assert len(lines) == 2 + len(registry)
    rows = {line.split("`")[1]: [cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]}
    assert rows["vae-mnist"][4:8] == ["≤ 1.250 bits/dim (iwae-500)", "4.00 (0.11)", "7,000", "49.5"]
    assert rows["vae-mnist"][2].endswith("(https://arxiv.org/abs/1312.6114)")
    assert rows["wgan_gp-mnist"][4:8] == ["-"] * 4


def test_rewriting_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"# Title\n\n{BEGIN}\n{END}\n\nThe end.\n")
    assert rewrite(path, {"models": "| a |"})
    assert path.read_text() == f"# Title\n\n{BEGIN}\n| a |\n{END}\n\nThe end.\n"
    assert not rewrite(path, {"models": "| a |"})
    path.write_text("# Title\n")
    with pytest.raises(ResultError, match="models:begin"):
        rewrite(path, {"models": "| a |"})


def test_main_rewrites_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"{BEGIN}\nold\n{END}\n")
    main([str(path)])
    assert "`vae-mnist`" in path.read_text() and "old" not in path.read_text()
    assert main([str(tmp_path / "no.md")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_tables_of_readme_and_home_track_are_not_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("ZOO_REGISTRY", raising=False)
    bundled = bundled_folder()
    results, left_out = collect([bundled] if bundled.is_dir() else [])
    assert left_out == []
    stale = "run: python -m zoo.leaderboard README.md docs/home_track.md docs/published.md"
    assert block(README.read_text(encoding="utf-8"), "best") == best_table(load_registry(), results), stale
    home = (README.parent / "docs" / "home_track.md").read_text(encoding="utf-8")
    assert block(home, "home") == home_table(load_registry(), results), stale


def test_the_best_rows_are_the_first_ranked_ones_of_digits_and_colour() -> None:
    results, _ = collect([bundled_folder()])
    lines = [
        [c.strip() for c in line.split("|")[1:-1]] for line in best_table(load_registry(), results).splitlines()[2:]
    ]
    assert [(line[0], line[1]) for line in lines] == [(d, str(i)) for d in ("mnist", "tiles") for i in (1, 2, 3)]
    home = home_table(load_registry(), results)
    for _, rank, name, family, distance, *_ in lines:
        assert re.search(rf"\| {rank} \| {name.strip('`')}(?: \(\w+\))? \| {family} \|", home), name
        assert distance.split(" (")[0].split()[-1] in home and "(" in distance
    few = best_table(load_registry(), results, rows=1)
    assert len(few.splitlines()) == 4


def test_the_leaderboard_is_a_frame_of_pandas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    frame = zoo.leaderboard("mnist")
    assert isinstance(frame, pandas.DataFrame) and set(frame["dataset"]) == {"mnist"}
    for _, row in frame.iterrows():
        result = read(bundled_folder() / row["name"])
        assert row["training_tflop"] == result.cost.training_tflop
        assert row["fid"] == result.metrics["fid"].value if "fid" in result.metrics else pandas.isna(row["fid"])
    ranked = frame[frame["rank"].notna() & frame["fid"].notna()]
    assert list(ranked["rank"]) == list(range(1, len(ranked) + 1)) and ranked["fid"].is_monotonic_increasing
    unranked = frame[frame["rank"].isna() & frame["fid"].notna()]
    assert (unranked["differs"].str.len() > 0).all() and frame.attrs["best"]["fid"] == "low"
    assert set(zoo.leaderboard(family="gan")["family"]) == {"gan"} and len(zoo.leaderboard()) > len(frame)
    with pytest.raises(ResultError, match="does not exist"):
        zoo.leaderboard(folders=["none"])
    import zoo.leaderboard as package

    assert package.tables is tables and zoo.leaderboard is package  # the package and the function are one object
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ResultError, match="pandas, which is not installed"):
        zoo.leaderboard()


def test_home_track_holds_what_its_rules_say(results: list[Result]) -> None:
    registry = load_registry()
    home = [make("vae-mnist", family="vae", fid=4.0), make("wgan_gp-mnist", fid=2.0), make("x-mnist", fid=1.0)]
    home.append(make("vae-binary_mnist", family="vae", dataset="binary_mnist", nats=88.0, likelihood="elbo"))
    long = make("pixelcnn-mnist", fid=0.5, cost=Cost(1_000, training_tflop=50.1))
    table = home_table(registry, [*home, long, make("wgan_gp-mnist", fid=0.1, quick=True), *results])
    lines = [line for line in table.splitlines() if line.startswith(("| 1 |", "| 2 |"))]
    assert [line.split("|")[2].strip() for line in lines] == ["wgan_gp-mnist", "vae-mnist", "vae-binary_mnist"]
    assert "pixelcnn" not in table and "x-mnist" not in table and "quick" not in table
    assert home_table(registry, []) == "No results yet."


# -- cards ------------------------------------------------------------------------------------------------------------

BUNDLED = sorted(path.parent for path in bundled_folder().glob("*/eval.json"))


@pytest.mark.parametrize("folder", BUNDLED, ids=[folder.name for folder in BUNDLED])
def test_bundled_cards_carry_their_results_as_plain_numbers(folder: Path) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    (result,) = metadata(text)["model-index"][0]["results"]
    found = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert found == {name: metric.value for name, metric in read(folder).metrics.items()}
    assert all(type(value) is float for value in found.values())
    assert result["dataset"]["name"] == read(folder).data.name and "!!python" not in text


def test_cards_are_made_again_from_results_and_keep_what_a_person_wrote() -> None:
    folder = bundled_folder() / "vae-mnist"
    result, config = (json.loads((folder / name).read_text(encoding="utf-8")) for name in ("eval.json", "config.json"))
    model = {"name": config["model"], "args": config["args"]}
    old = build_card("vae-mnist", results=result, model=model)
    begin = old.index("<!-- zoo:begin")
    mine = f"{old[:begin]}Words before.\n\n{old[begin:]}\n\n## Mine\n\nWords after.\n"
    result["metrics"]["fid"]["value"] = 1.25
    again = merge_card(mine, build_card("vae-mnist", results=result, model=model))
    assert "Words before." in again and again.endswith("## Mine\n\nWords after.\n")
    values = {m["type"]: m["value"] for m in metadata(again)["model-index"][0]["results"][0]["metrics"]}
    assert values["fid"] == 1.25 and "| fid | 1.25 |" in again
