"""``zoo export NAME --format FORMAT``: a model as a file that other runtimes read."""

from __future__ import annotations

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("which", metavar="NAME|RUN", help="a model with weights, a run folder, or namespace/name")
    parser.add_argument(
        "--format",
        default="onnx",
        metavar="FORMAT",
        help="onnx, pt2 (torch.export), safetensors or diffusers (default onnx)",
    )
    parser.add_argument("--out", default=".", metavar="DIR", help="folder to write to (default the current one)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    from zoo.export import export

    written = export(args.which, args.format, args.out)
    if args.json:
        print(json.dumps({"model": args.which, "files": {str(p): p.stat().st_size for p in written}}, indent=2))
        return 0
    for path in written:
        print(f"{path}: {path.stat().st_size:,} bytes")
    return 0
