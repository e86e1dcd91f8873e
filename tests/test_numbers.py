"""Numbers are not typed by hand: what README and docs say comes from an eval.json or a file of results."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from zoo.leaderboard import bundled_folder, collect, published_table
from zoo.leaderboard.published import published
from zoo.leaderboard.readme import block
from zoo.registry import load_registry
from zoo.results import read
from zoo.searches import SEARCH
from zoo.searches import read as read_search

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NUMBER = r"[-−]?(?:\d+(?:,\d{3})+|\d+)?(?:\.\d+)|[-−]?\d+(?:,\d{3})*"
METRIC = r"FID|KID|KL|RMSE|PSNR|MSE|IS|AUROC|Fréchet\w*|precision|recall|accuracy|perplexity|misfit|correlation"
UNIT = r"bits/dim|bits/character|bits/sample|nats|dB|samples/s|samples a second|TFLOP a step"
BESIDE = re.compile(rf"(?:{METRIC})(?: of| is| was| from| at|:|,| about)* ({NUMBER})(?![\w.])|({NUMBER}) (?:{UNIT})\b")
MEASURED = re.compile(rf"{METRIC}|{UNIT}|-log p|floor|entropy|straight|seconds|\bms\b", re.IGNORECASE)
GENERATED = re.compile(r"<!-- (\w+):begin -->.*?<!-- \1:end -->", re.DOTALL)
CODE = re.compile(r"^(?:    .*\n?)+|```.*?```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
BUNDLED = sorted(path.parent for path in bundled_folder().glob("*/eval.json"))


def numbers_in(content: object) -> set[float]:
    """Return all numbers of JSON, booleans left out."""
    if isinstance(content, bool) or content is None or isinstance(content, str):
        return set()
    if isinstance(content, (int, float)):
        return {float(content)}
    values = content.values() if isinstance(content, dict) else content
    return set().union(*(numbers_in(value) for value in values))  # type: ignore[attr-defined]


def value(text: str) -> float:
    return float(text.replace(",", "").replace("−", "-"))


def recorded() -> set[float]:
    """Return every number of bundled results, of the bands of the registry and of files of results."""
    found = set().union(*(numbers_in(json.loads((folder / "eval.json").read_text())) for folder in BUNDLED))
    for entry in load_registry().values():
        found |= numbers_in(dict(entry.expected))
    for path in (ROOT / "benchmarks" / "results").iterdir():
        if path.suffix == ".json":
            found |= numbers_in(json.loads(path.read_text(encoding="utf-8")))
        elif path.suffix in (".md", ".txt"):
            found |= {value(text) for text in re.findall(NUMBER, path.read_text(encoding="utf-8")) if text}
    return found


def is_recorded(text: str, known: set[float]) -> bool:
    """Tell whether a number, or a percentage, is a recorded one at the precision that it is written with."""
    digits = len(text.partition(".")[2])
    return any(abs(round(k * s, digits) - value(text)) < 10 ** -(digits + 3) for k in known for s in (1, 100))


def told(text: str) -> list[str]:
    """Return the measured numbers of a page: beside metrics and units, and in columns of tables that are of these."""
    text = GENERATED.sub("", text)
    cells = []
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = [[c.strip() for c in line.strip().strip("|").split("|")] for line in table.strip().split("\n")]
        columns = [i for i, head in enumerate(rows[0]) if MEASURED.search(head)]
        cells += [r[i] for r in rows[2:] for i in columns if i < len(r)]
        text = text.replace(table, "")
    beside = [g for found in BESIDE.findall(CODE.sub("", text)) for g in found if g]
    return beside + [n for cell in cells for n in re.findall(rf"(?<![\w.]){NUMBER}(?![\w])", CODE.sub("", cell)) if n]


def test_measured_numbers_are_seen_and_a_wrong_one_is_found() -> None:
    page = "FID of 2.31 and 1.517 bits/dim; `FID 9.99`\n\n"
    page += "| model | FID | year |\n|---|---|---|\n| x | 3.25 ± 0.1 | 2020 |\n"
    assert told(page) == ["2.31", "1.517", "3.25", "0.1"]
    known = {2.3109, 1.51749, 3.2, 0.1}
    assert [n for n in told(page) if not is_recorded(n, known)] == ["3.25"]
    assert is_recorded("92.7", {0.92713}) and not is_recorded("92.8", {0.92713})
    assert told("<!-- home:begin -->\nFID 7.77\n<!-- home:end -->\n") == []


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_no_number_of_a_page_differs_from_what_was_measured(path: Path) -> None:
    known = recorded()
    wrong = [n for n in told(path.read_text(encoding="utf-8")) if not is_recorded(n, known)]
    assert not wrong, f"{path.name} says {wrong}, which no eval.json and no file in benchmarks/results has"


def test_published_numbers_stand_beside_ours_and_are_not_stale() -> None:
    results, _ = collect([bundled_folder()])
    text = (ROOT / "docs" / "published.md").read_text(encoding="utf-8")
    table = published_table(load_registry(), results)
    assert block(text, "published") == table, "run: python -m zoo.leaderboard docs/published.md"
    known = published()
    names = {entry.model_name for entry in load_registry().values()}
    assert set(known) <= names
    weighed = {load_registry()[folder.name].model_name for folder in BUNDLED}
    assert weighed - set(known) == set(), "a model with weights has no line about published numbers"
    for name, lines in known.items():
        assert lines.differs, name
        assert all(f.beside is None or f.beside in load_registry() for f in lines.figures), name
        assert all(f.protocol and f.source for f in lines.figures), name
    assert "4.67 bits/dim (recalled)" in table  # what nobody has looked up again says so


@pytest.mark.parametrize("folder", BUNDLED, ids=lambda p: p.name)
def test_each_card_says_where_its_sampling_options_were_chosen(folder: Path) -> None:
    """By trials on validation data that are recorded beside it, or not: no card is silent, and none claims."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    result = read(folder)
    if not result.protocol.sampler:
        return
    section = card.partition("\n## Choices\n")[2].partition("\n## ")[0]
    assert section, "write it: python benchmarks/reevaluate.py --cards"
    if not (folder / SEARCH).is_file():
        assert "They were not searched on validation data." in section and "Chosen on" not in section
        return
    search = read_search(folder)
    assert all(trial.split == "validation" for trial in search.trials)
    chosen = search.chosen(result.protocol.sampler, result.identity.weights_sha256)
    said = re.search(r"Chosen on validation data: (.*?)\.(?: |\n)", section)
    assert set(re.findall(r"`(\w+)`", said[1]) if said else ()) == set(chosen)
    assert f"| {search.trials[0].metric} |" in section


def test_each_card_says_of_its_own_data_where_they_are_from() -> None:
    """And a set that nobody has looked up is not taken for digits."""
    place = ROOT / "benchmarks" / "bundle.py"
    if not place.is_file():
        pytest.skip("the tests were copied out of their checkout")
    spec = importlib.util.spec_from_file_location("bundle", place)
    bundle = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bundle)
    for folder in BUNDLED:
        said = re.findall(r"^- Training data: (.*)$", (folder / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
        assert said == [bundle.DATA[load_registry()[folder.name].dataset]], folder.name
    assert bundle.DATA["eight_gaussians"] == bundle.DATA["tones"] != bundle.DATA["mnist"] != bundle.DATA["tiles"]
    assert "hugging_face" not in bundle.DATA
