"""``zoo sample NAME``: draw samples into a picture or an array file."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from zoo.errors import ConfigError, ZooError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "which", metavar="NAME|RUN", help="a model with weights, a run folder, or namespace/name@revision"
    )
    parser.add_argument("-n", type=int, default=64, help="how many (default 64)")
    parser.add_argument(
        "--seed", type=int, default=None, help="equal seeds give equal samples (default: drawn, and printed)"
    )
    parser.add_argument(
        "--out", default=None, metavar="FILE", help="x.png for a sheet, x.npz for the numbers (default NAME.png)"
    )
    parser.add_argument("--labels", default=None, help="classes for conditional models, such as 7 or 0,1,2,3")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="K=V",
        help="a sampling option of the model, such as temperature=0.9",
    )
    parser.add_argument("--device", default=None, help="cpu, cuda, ...")
    parser.add_argument("--force", action="store_true", help="overwrite an existing file")


def run(args: argparse.Namespace) -> int:
    out = Path(args.out or f"{Path(args.which).name.partition('@')[0]}.png")
    if out.suffix not in (".png", ".npz"):
        raise ConfigError(f"--out must end in .png or .npz, got {str(out)!r}")
    if out.exists() and not args.force:
        raise ZooError(f"{out} exists already; give another --out, or --force to overwrite it")
    seed = args.seed if args.seed is not None else int.from_bytes(os.urandom(4), "little")
    labels = _integers(args.labels) if args.labels is not None else None
    options = dict(_option(text) for text in args.option)
    from zoo.hub import load
    from zoo.runs import is_run

    model = load(Path(args.which) if is_run(args.which) else args.which, device=args.device)
    samples = model.sample(args.n, seed=seed, labels=labels, **options)
    if out.suffix == ".png":
        if samples.ndim != 4:
            raise ConfigError(
                f"samples of shape {tuple(samples.shape[1:])} are not images; write them with --out x.npz"
            )
        from zoo.images import save_png

        save_png(samples, out, scale=2)
    else:
        import numpy as np

        temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp.npz")
        np.savez_compressed(temporary, samples=samples.cpu().numpy(), seed=seed)
        os.replace(temporary, out)
    print(f"{out}: {args.n} samples of {args.which}, seed {seed}")
    return 0


def _integers(text: str) -> Any:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--labels takes integers separated by commas, got {text!r}") from error
    return numbers[0] if len(numbers) == 1 else numbers


def _option(text: str) -> tuple[str, Any]:
    import json

    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--option takes name=value, got {text!r}")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value
