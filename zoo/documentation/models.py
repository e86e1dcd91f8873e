"""A page for each registered model, from registry and card; the page of all of them; and that of the leaderboard."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from zoo.catalogue import bibtex
from zoo.documentation.markup import card_of, cell, details, fence, grid, orphan, table
from zoo.leaderboard import bundled_folder, home_table, model_table, tables
from zoo.leaderboard.columns import COLUMNS
from zoo.leaderboard.readme import address
from zoo.registry import Entry
from zoo.results import Result

__all__ = ["FAMILIES", "family_grid", "leaderboard_page", "linked", "model_page", "models_page", "small_sheet"]

FAMILIES = {
    "vae": "Variational autoencoders and tokenizers",
    "autoregressive": "Autoregressive models",
    "gan": "Generative adversarial networks",
    "flow": "Normalising flows and flow matching",
    "diffusion": "Diffusion and score models",
    "energy": "Energy-based models",
    "transport": "Transport and gradient flows",
    "world": "Videos and world models",
    "representation": "Representations",
    "multimodal": "Texts and images together",
}
"""Family of the registry -> what the site calls it, in the order in which they are shown."""

_FROM_CARD = ("Choices", "Search", "Limits", "Licence")
"""Sections of a model card that its page repeats."""


def model_page(entry: Entry, result: Result | None, options: Iterable[Any], parts: Mapping[str, Any]) -> str:
    """Return the page of one model.

    Args:
        entry: of the registry.
        result: of its bundled weights; None without.
        options: of the model (`zoo._cli.arguments.Option`), each with name, value and meaning.
        parts: option -> trained part that the model's class takes.
    """
    folder = bundled_folder() / entry.name
    sheet = [f"![samples of {entry.name}, seed 0, not chosen]({entry.name}-samples.png)", ""]
    family = f"[{FAMILIES.get(entry.family, entry.family)}](../families/{entry.family}.md)"
    lines = [*orphan(), f"# {entry.name}", "", f"[Models](index.md) / {family}", ""]
    lines += [_sentence(entry.summary), "", *_facts(entry, result, parts), ""]
    lines += sheet if (folder / "samples.png").is_file() else []
    if (folder / "samples.txt").is_file():
        drawn = (folder / "samples.txt").read_text(encoding="utf-8").rstrip()
        lines += ["What it writes, seed 0, not chosen:", "", *fence("text", drawn), ""]
    lines += ["## Use it", "", *_use(entry, result, parts), ""]
    lines += _numbers(entry, result)
    lines += ["## Recipe", "", *_recipe(entry, result, parts), ""]
    lines += ["## Options of the model", "", "Each can be given to `zoo fit` as it is written, and to `zoo.create` "
              "by what follows `--model.`; values are those of this entry.", "", *_options(options), ""]  # fmt: skip
    if result is not None:
        lines += _from_card(card_of(folder / "README.md"))
    if (folder / "diagnostics.png").is_file():
        made = f"Made by `zoo diagnose {entry.name}`; see [looking into a model](../diagnostics.md)."
        lines += ["## A look inside", "", f"![what it draws]({entry.name}-diagnostics.png)", "", made, ""]
    if entry.paper:
        lines += ["## Cite", "", *fence("bibtex", bibtex(entry.paper)), ""]
    return "\n".join(lines)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def _facts(entry: Entry, result: Result | None, parts: Mapping[str, Any]) -> list[str]:
    paper = entry.paper
    where = address(paper)
    title = f"{paper['title']}, {paper['authors']}, {paper['year']}" if paper else ""
    weights = "bundled, loaded with no network" if entry.weights.get("bundled") else "on the Hub"
    rows = [
        ("paper", f"[{cell(title)}]({where})" if where else cell(title) or "-"),
        ("data", f"`{entry.dataset}`, see [data](../data.md)"),
        ("weights", weights if entry.pretrained else f"none yet: {cell(entry.untrained) or 'the recipe trains it'}"),
        ("class", f"{{py:class}}`{entry.model['class_path']}`"),
    ]
    if result is not None and result.cost.parameters:
        rows.append(("parameters", f"{result.cost.parameters:,}"))
    rows += [("needs", f"`--{name}`: {part.what}, such as `{part.example}`") for name, part in _needed(entry, parts)]
    return table(("what", "which"), rows)


def _needed(entry: Entry, parts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    given = entry.model.get("init_args") or {}
    return [(name, part) for name, part in parts.items() if given.get(name) is not None]


def _use(entry: Entry, result: Result | None, parts: Mapping[str, Any]) -> list[str]:
    if not entry.pretrained:
        code = f'import zoo\n\nmodel = zoo.create("{entry.name}")   # untrained'
        return fence("python", code)
    draws = result is None or result.cost.samples_per_second is not None
    code = [f'import zoo\n\nmodel = zoo.load("{entry.name}")', *["x = model.sample(16, seed=0)"] * draws]
    shell = f"zoo sample {entry.name} -n 16 --seed 0" if draws else f"zoo show {entry.name}"
    return [*fence("python", "\n".join(code)), "", *fence("bash", shell)]


def _numbers(entry: Entry, result: Result | None) -> list[str]:
    if result is None:
        return []
    (arranged,) = tables([result])
    (row,) = arranged.rows
    shown = [c for c in arranged.columns if c.key not in ("name", "family")]
    floor = {k: COLUMNS[k].show.format(v) for k, v in arranged.floor.items()}
    body = [(c.heading, row.shown[c.key], floor.get(c.key, ""), c.note) for c in shown if row.values[c.key] is not None]
    protocol = {k: v for k, v in asdict(result.protocol).items() if v not in (None, {}, [])}
    whole = yaml.safe_dump({"data": asdict(result.data), "protocol": protocol}, sort_keys=False, allow_unicode=True)
    head = ("what", "value", "floor", "meaning")
    return [
        "## Numbers", "",
        f"On the {result.data.split} split of `{result.data.name}`, {result.data.examples:,} examples; the floor is "
        "what as many real training examples score. Again: ", "", *fence("bash", f"zoo evaluate {entry.name}"), "",
        *table(head, body), "", *details("The protocol of these numbers", fence("yaml", whole.rstrip())), "",
    ]  # fmt: skip


def _recipe(entry: Entry, result: Result | None, parts: Mapping[str, Any]) -> list[str]:
    needed = "".join(f" --{name} {part.example}" for name, part in _needed(entry, parts))
    content = {k: dict(getattr(entry, k)) for k in ("model", "data", "trainer", "training", "gpu") if getattr(entry, k)}
    recipe = yaml.safe_dump(content, sort_keys=False, allow_unicode=True).rstrip()
    lines = [*fence("bash", f"zoo fit --model {entry.name}{needed}"), ""]
    cost = result.cost if result is not None else None
    if cost is not None and cost.training_tflop is not None:
        seconds = (cost.training or {}).get("seconds")
        hardware = (cost.training or {}).get("hardware")
        took = f", {float(seconds) / 60:.0f} minutes on {hardware}" if seconds and hardware else ""
        lines += [f"It took {cost.training_tflop:.1f} TFLOP{took}.", ""]
    if entry.expected:
        bands = ", ".join(f"`{name}` in {low} to {high}" for name, (low, high) in entry.expected.items())
        lines += [f"A retrained model should reach {bands}: `zoo reproduce {entry.name}` trains it and says.", ""]
    return [*lines, *details("The whole entry of the registry", fence("yaml", recipe))]


def _options(options: Iterable[Any]) -> list[str]:
    rows = [(f"`{o.name}`", f"`{cell(_value(o.value))}`", cell(o.meaning)) for o in options]
    return table(("option", "value", "meaning"), rows)


def _value(value: Any) -> str:
    text = value.rpartition(".")[2] if isinstance(value, str) and value.startswith("zoo.") else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _from_card(card: Mapping[str, str]) -> list[str]:
    lines: list[str] = []
    for name in _FROM_CARD:
        if card.get(name):
            lines += [f"## {name}", "", _sentence(card[name]), ""]
    return lines


def linked(markdown: str, names: Iterable[str], folder: str) -> str:
    """Return generated tables with a link to the page of each model in its first or second cell."""
    known = set(names)

    def link(found: re.Match[str]) -> str:
        name = found[3]
        return f"{found[1]}[{found[2]}{name}{found[2]}]({folder}{name}.md)" if name in known else found[0]

    return re.sub(r"(?m)^(\| (?:(?:\d+|-) \| )?)(`?)([a-z0-9][\w.-]*)\2(?= )", link, markdown)


def family_grid(entries: Iterable[Entry], folder: str) -> list[str]:
    """Return a grid of cards of models, those with samples by their picture; ``folder`` leads to the models' pages."""
    with_samples, others = [], []
    for entry in entries:
        has = (bundled_folder() / entry.name / "samples.png").is_file()
        (with_samples if has else others).append(entry)
    cards = [(e.name, f"{folder}{e.name}", f"{folder}{e.name}-small.png", e.summary) for e in with_samples]
    lines = grid(cards) if cards else []
    if others:
        listed = ", ".join(f"[`{e.name}`]({folder}{e.name}.md)" for e in others)
        lines += ["", f"{'Without pictures here' if cards else 'Recipes'}: {listed}."]
    return lines


def models_page(registry: Mapping[str, Entry], results: Iterable[Result]) -> str:
    """Return the page of all models: a grid for each family, then the table."""
    ready = sum(e.pretrained for e in registry.values())
    about = f"{len(registry)} names, {ready} of them with weights; samples are of seed 0, not chosen."
    lines = ["# Models", "", f"{about} `zoo list` shows the same in a terminal.", ""]
    for family, title in FAMILIES.items():
        own = [e for e in registry.values() if e.family == family]
        lines += [f"## {title}", "", f"[What they are](../families/{family}.md).", "", *family_grid(own, ""), ""]
    whole = linked(model_table(registry, results), registry, "")
    lines += [
        "## All in one table",
        "",
        "FID has its floor in brackets: what as many training images score.",
        "",
        whole,
    ]
    return "\n".join([*lines, ""])


def leaderboard_page(registry: Mapping[str, Entry], results: Iterable[Result]) -> str:
    """Return the page of the leaderboard: the tables of the home track, and the way to the page that can be sorted."""
    home = linked(home_table(registry, results), registry, "models/").replace("\n### ", "\n## ")
    home = re.sub(r"\A### ", "## ", home)
    return f"""# Leaderboard

Equal compute, one protocol, every family in one table. Rules are in [the home track](home_track.md), what columns
mean in [evaluation](evaluation.md), what papers report beside it in [published numbers](published.md).

<p><a class="zoo-button" href="leaderboard/index.html">Open the page that can be sorted and filtered</a></p>

It has samples, cards, trade-offs and the protocol of each number in one file; `zoo leaderboard --html DIR` writes it
with your own results beside these. In Python the tables are `zoo.leaderboard()`, a frame of pandas.

{home}
"""


def small_sheet(path: Path) -> bytes:
    """Return the upper left of a sheet of samples as a small PNG file, for a card."""
    from PIL import Image

    stream = io.BytesIO()
    with Image.open(path) as sheet:
        side = min(sheet.width, sheet.height // 2 if sheet.height > 120 else sheet.height)
        part = sheet.convert("RGB").crop((0, 0, min(sheet.width, 2 * side), side))
        part.thumbnail((320, 320))
        part.quantize(64).save(stream, format="PNG", optimize=True)
    return stream.getvalue()
