"""``zoo diagnose NAME|RUN``: look into the latents of a trained model, and write pictures and diagnostics.json."""

from __future__ import annotations

import argparse
import json
from typing import Any

from zoo._cli.evaluate import target
from zoo.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("which", metavar="NAME|RUN", help="a name, an address on the Hub, or a run folder")
    parser.add_argument("--data", metavar="NAME", help="data set (default: what the model was trained on)")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="where the files go (default: diagnostics in the run folder, else diagnostics/NAME)",
    )
    parser.add_argument("--only", metavar="NAMES", help="such as posterior,interpolation (default: all that apply)")
    parser.add_argument("--examples", type=int, default=10_000, help="test examples to look at (default 10000)")
    parser.add_argument("--pair", metavar="I,J", help="the two test examples between which to interpolate")
    parser.add_argument("--without", metavar="LABELS", help="attribute arithmetic moves examples with these labels ...")
    parser.add_argument(
        "--having", metavar="LABELS", help="... towards those with these (default: the closest classes)"
    )
    parser.add_argument(
        "--animate",
        action="store_true",
        help="write what moves as GIF files too: denoising, unmasking, flows, walks, and the samples of a run's steps",
    )
    parser.add_argument("--device", help="cpu, cuda, ... (default cpu)")
    parser.add_argument("--json", action="store_true", help="print the content of diagnostics.json")


def run(args: argparse.Namespace) -> int:
    out = target(args.which, "diagnostics", "diagnostics", out=args.out)
    pair = _integers("--pair", args.pair)
    if args.pair is not None and len(pair) != 2:
        raise ConfigError(f"--pair takes two indices, such as 0,7, got {args.pair!r}")
    sets = {name: _integers(f"--{name}", getattr(args, name)) for name in ("without", "having")}

    import zoo

    found = zoo.diagnose(
        args.which, args.data, only=args.only.split(",") if args.only is not None else None, examples=args.examples,
        pair=tuple(pair) if pair else None, device=args.device, out=out, animate=args.animate, **sets,
    )  # fmt: skip
    summary = found.summary()
    if args.json:
        print(json.dumps(summary, indent=1))
        return 0
    print(f"{args.which} on {summary['data']['examples']:,} test examples of {summary['data']['name']}")
    for name, values in summary["diagnostics"].items():
        print(f"  {name:<16} {_short(values)}")
    moving = [f"{name}.gif" for name, f in found.findings.items() if args.animate and len(f.frames) > 1]
    names = [*(f"{name}.png" for name in found.findings), *moving]
    print(f"written to {out}: diagnostics.png, diagnostics.json, {', '.join(names)}")
    return 0


def _integers(option: str, text: str | None) -> list[int]:
    try:
        return [int(part) for part in text.split(",")] if text is not None else []
    except ValueError as error:
        raise ConfigError(f"{option} takes integers separated by commas, got {text!r}") from error


def _short(values: dict[str, Any]) -> str:
    """Return the facts that are one number or a few, in one line."""
    words = []
    for name, value in values.items():
        if isinstance(value, float):
            words.append(f"{name.replace('_', ' ')} {value:.4g}")
        elif not isinstance(value, list) or len(value) <= 2:
            words.append(f"{name.replace('_', ' ')} {value}")
    return ", ".join(words)
