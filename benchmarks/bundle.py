"""Turn a finished run into bundled weights: zoo/pretrained/NAME, its pins in registry.yaml, its results and its card.

    python benchmarks/bundle.py RUN NAME --search "what was tried before, and what it cost"

A model of several stages is trained by several commands: --command "zoo fit ... && zoo fit ...".
Where RUN is the bundled folder itself, only its card and its diagnostics are renewed, from the results in it.

The weights are the averaged ones, in the model as the registry describes it. The pins are written first, so that the
evaluation loads the bundle by name as a user would; the card is made last, from the results.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import zoo
from zoo import searches
from zoo.diagnostics import DIAGNOSTICS, OVERVIEW
from zoo.errors import RunError
from zoo.hub import build_card, card, merge_card, save_pretrained, verify
from zoo.hub.layout import CARD, EVAL, SAMPLES, SEARCH, SOUND, SUMS, TEXTS, read_folder, sums_text
from zoo.hub.staging import drawn_files, gives_of
from zoo.leaderboard.table import HOME_TFLOP
from zoo.model import GenerativeModel
from zoo.registry import Entry, load_registry, packaged_registry, pretrained_folder
from zoo.runs import load_run, run_metadata

LIMIT, GPU_LIMIT = 13_000_000, 20_000_000
"""Bytes of a bundled folder, which a map from noise of every pixel needs, and of one of the GPU track."""


def pin(name: str, folder: Path) -> None:
    """Write sha256 and size of a bundled folder into the registry, in place of older pins."""
    path = packaged_registry()
    weights, config = ((folder / f).read_bytes() for f in ("model.safetensors", "config.json"))
    line = (
        f"    weights: {{bundled: true, sha256: {hashlib.sha256(weights).hexdigest()}, size: {len(weights)}, "
        f"config_sha256: {hashlib.sha256(config).hexdigest()}}}\n"
    )
    text = path.read_text(encoding="utf-8")
    start = re.search(rf"^  {re.escape(name)}:\n", text, re.MULTILINE)
    if start is None:
        raise RunError(f"{path} has no entry {name!r}")
    rest = text[start.end() :]
    end = re.search(r"^  \S", rest, re.MULTILINE)
    block, after = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
    block = re.sub(r"^    (weights|untrained): .*\n", "", block, flags=re.MULTILINE).rstrip("\n") + "\n" + line
    path.write_text(text[: start.end()] + block + ("\n" if after else "") + after, encoding="utf-8")


@functools.lru_cache(maxsize=1)
def diagnostics(name: str) -> tuple[dict[str, bytes], str]:
    """Return the page of diagnostics as a file, and the card's section on it; nothing for models that have none."""
    model = zoo.load(name)
    if not any(d.applies(model) for d in DIAGNOSTICS.values()):
        return {}, ""
    with tempfile.TemporaryDirectory() as out:
        summary = zoo.diagnose(name, out=out).summary()["diagnostics"]
        page = (Path(out) / OVERVIEW).read_bytes()
    lines = []
    if "posterior" in summary:
        p = summary["posterior"]
        active = f"{p['active_units']} of {p['latent_dim']} latent units are active (Var_x E[z | x] > {p['threshold']})"
        lines.append(f"- {active}; the KL is {p['kl_nats']:.1f} nats on the test images.")
    if "codebook" in summary:
        p = summary["codebook"]
        size = f"{p['used_codes']:,} of {p['codebooks'] * p['codebook_size']:,} codes"
        lines.append(f"- {size} occur on the test images; the perplexity is {p['perplexity']:.1f}.")
    if "reconstructions" in summary:
        kept = 100 * summary["reconstructions"]["explained_variance"]
        lines.append(f"- Reconstructions keep {kept:.1f} % of the variance of the pixels.")
    return {OVERVIEW: page}, "\n".join(
        [*lines, "", f"![diagnostics]({OVERVIEW})", "", f"Made by `zoo diagnose {name}`."]
    )


def card_text(entry: Entry, folder: Path, results: dict[str, Any], search: str, command: str | None, page: str) -> str:
    """Return the card of a bundled folder."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    drawn = ""
    if (folder / TEXTS).is_file():
        drawn = f"```text\n{(folder / TEXTS).read_text(encoding='utf-8')}```"
    elif (folder / SOUND).is_file():
        drawn = f"The picture above is the spectrogram of [{SOUND}]({SOUND})."
    trials = searches.read(folder / SEARCH).to_dict() if (folder / SEARCH).is_file() else None
    parts = {"Samples": drawn, "Diagnostics": page, "Search": search}
    return build_card(
        entry.name, summary=entry.summary, paper=entry.paper, results=results, search=trials,
        samples=(folder / SAMPLES).is_file(),
        data_licence=DATA[entry.dataset], model={"name": config["model"], "args": config["args"]},
        command=command, gives=gives_of(zoo.load(entry.name)),
        extra={title: text for title, text in parts.items() if text},
    )  # fmt: skip


def as_registered(entry: Entry, model: GenerativeModel) -> GenerativeModel:
    """Return the model as the registry describes it, with these weights: its sampling may be chosen after training.

    Models of another class than their entry's, such as one with the prior that is trained after it, stay as they are.
    """
    described = entry.build_model()
    if type(described) is not type(model):
        return model
    described.load_state_dict(model.state_dict())
    return described.eval()


def renew(entry: Entry, folder: Path, search: str, command: str | None, *, look: bool = True) -> None:
    """Write the card and the diagnostics of a bundled folder anew; weights, configuration and results stay.

    Without ``look`` the diagnostics stay too, and the card says of them what it said.
    """
    files = read_folder(folder)
    old = files[CARD].decode("utf-8")
    kept = re.search(r"\n## Search\n\n(.*?)\n(?:<!-- zoo:end|## )", old, re.DOTALL)
    said = re.search(r"\n## Diagnostics\n\n(.*?)\n(?:<!-- zoo:end|## )", old, re.DOTALL)
    pictures, page = diagnostics(entry.name) if look else ({}, said[1].rstrip() if said else "")
    text = card_text(entry, folder, json.loads(files[EVAL]), search or (kept[1] if kept else ""), command, page)
    files |= {**pictures, CARD: merge_card(old, text).encode("utf-8")}
    del files[SUMS]
    files[SUMS] = sums_text(files).encode("ascii")
    for name in (*pictures, CARD, SUMS):
        (folder / name).write_bytes(files[name])
    verify(folder)
    print(f"{folder}: {', '.join([*pictures, CARD])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--search", default="", help="the search runs, for the card")
    parser.add_argument("--trials", type=Path, help="a search.json of `zoo tune` (default: the one in RUN)")
    parser.add_argument("--command", help="what trains it again, if it is not `zoo fit --model NAME`")
    parser.add_argument("--half", action="store_true", help="keep the weights as float16, for the GPU track")
    parser.add_argument("--samples", type=int, help="to draw (default: the registry's, else 10,000)")
    args = parser.parse_args()

    entry = load_registry().resolve(args.name)
    if entry.dataset not in DATA:
        raise SystemExit(f"DATA of {__file__} does not say source and licence of {entry.dataset!r}")
    if args.run.resolve() == pretrained_folder(entry.name).resolve():
        renew(entry, args.run, args.search, args.command)
        return
    summary = run_metadata(args.run)
    if summary["status"] != "finished":
        raise SystemExit(f"{args.run} is {summary['status']}, not finished")
    model = as_registered(entry, load_run(args.run))
    model = model.half() if args.half else model
    model.source = dataclasses.replace(model.source, name=entry.name)
    folder, samples = pretrained_folder(entry.name), drawn_files(model)
    found = args.trials or (args.run / SEARCH if (args.run / SEARCH).is_file() else None)
    trials = searches.read(found).to_dict() if found is not None else None
    save_pretrained(model, folder, samples=samples, search=trials, overwrite=folder.exists())
    pin(entry.name, folder)

    spent = summary["cost"]
    training = {"steps": summary["step"], **{k: spent[k] for k in ("examples", "seconds", "hardware")}}
    training["command"] = args.command or f"zoo fit --model {entry.name}"
    training |= {"stages": spent["stages"]} if "stages" in spent else {}
    cost = {"training_tflop": spent["training_tflop"], "training": training}
    with tempfile.TemporaryDirectory() as out:
        zoo.evaluate(entry.name, samples=args.samples, cost=cost, ema=summary["ema"] is not None, out=out)
        results = json.loads((Path(out) / "eval.json").read_text(encoding="utf-8"))
    files = {**samples, **diagnostics(entry.name)[0]}
    text = card_text(entry, folder, results, args.search, args.command, diagnostics(entry.name)[1])
    save_pretrained(model, folder, card=text, results=results, search=trials, samples=files, overwrite=True)
    size = sum(p.stat().st_size for p in folder.iterdir())
    print(f"{folder}: {size:,} bytes")
    limit = LIMIT if spent["training_tflop"] <= HOME_TFLOP else GPU_LIMIT
    if size > limit:
        raise SystemExit(f"{folder} is larger than {limit:,} bytes")
    print(card(entry.name)[:400])


MNIST = "MNIST, by Y. LeCun, C. Cortes and C. Burges: CC BY-SA 3.0"
TILES = "tiles of Dungeon Crawl Stone Soup, release of November 2015: public domain (CC0)"
DRAWN = "synthetic, drawn by this package"
DATA = {
    **dict.fromkeys(("mnist", "binary_mnist", "mnist_captions", "mnist_words", "moving_digits"), MNIST),
    **dict.fromkeys(("tiles", "tiles_captions"), TILES),
    "shakespeare": "eight plays by W. Shakespeare, texts of Project Gutenberg editions: public domain",
    "speech": "chapter 1 of Sense and Sensibility, read for LibriVox: public domain",
    **dict.fromkeys(("tones", "eight_gaussians", "moons", "sprites"), DRAWN),
}
"""Data set -> source and licence of the training data; weights of other data are not bundled before it is here."""

if __name__ == "__main__":
    main()
