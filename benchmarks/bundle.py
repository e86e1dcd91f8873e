"""Turn a finished run into bundled weights: zoo/pretrained/NAME, its pins in registry.yaml, its results and its card.

    python benchmarks/bundle.py RUN NAME --search "what was tried before, and what it cost"

The weights are the averaged ones. The pins are written first, so that the evaluation loads the bundle by name as a user
would; the card is made last, from the results.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import re
import tempfile
from pathlib import Path

import zoo
from zoo.errors import RunError
from zoo.hub import build_card, card, save_pretrained
from zoo.images import png_bytes
from zoo.registry import load_registry, packaged_registry, pretrained_folder
from zoo.runs import load_run, run_facts

LIMIT = 4_000_000  # bytes of a bundled folder


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
    block = re.sub(r"^    weights: .*\n", "", block, flags=re.MULTILINE).rstrip("\n") + "\n" + line
    path.write_text(text[: start.end()] + block + ("\n" if after else "") + after, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--search", default="", help="the search runs, for the card")
    parser.add_argument("--samples", type=int, default=10_000)
    args = parser.parse_args()

    entry, facts = load_registry().resolve(args.name), run_facts(args.run)
    if facts["status"] != "finished":
        raise SystemExit(f"{args.run} is {facts['status']}, not finished")
    model = load_run(args.run)
    model.source = dataclasses.replace(model.source, name=entry.name)
    folder, samples = pretrained_folder(entry.name), png_bytes(model.sample(64, seed=0), scale=2)
    save_pretrained(model, folder, samples=samples, overwrite=folder.exists())
    pin(entry.name, folder)

    spent = facts["cost"]
    training = {"steps": facts["step"], **{k: spent[k] for k in ("examples", "seconds", "hardware")}}
    training["command"] = f"zoo fit --model {entry.name}"
    cost = {"training_tflop": spent["training_tflop"], "training": training}
    with tempfile.TemporaryDirectory() as out:
        zoo.evaluate(entry.name, samples=args.samples, cost=cost, ema=facts["ema"] is not None, out=out)
        results = json.loads((Path(out) / "eval.json").read_text(encoding="utf-8"))
    extra = {"Search": args.search} if args.search else {}
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = build_card(
        entry.name,
        summary=entry.summary,
        paper=entry.paper,
        model={"name": config["model"], "args": config["args"]},
        results=results,
        samples=True,
        data_licence=DATA,
        extra=extra,
    )
    save_pretrained(model, folder, card=text, results=results, samples=samples, overwrite=True)
    size = sum(p.stat().st_size for p in folder.iterdir())
    print(f"{folder}: {size:,} bytes")
    if size > LIMIT:
        raise SystemExit(f"{folder} is larger than {LIMIT:,} bytes")
    print(card(entry.name)[:400])


DATA = "MNIST, by Y. LeCun, C. Cortes and C. Burges: CC BY-SA 3.0"

if __name__ == "__main__":
    main()
