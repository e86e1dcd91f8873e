"""``zoo serve NAME...``: models behind HTTP, and gRPC if asked for."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="NAME", help="models with weights, run folders, or Hub addresses")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (default 127.0.0.1, this machine only)")
    parser.add_argument("--port", type=int, default=8000, help="0 lets the system choose (default 8000)")
    parser.add_argument(
        "--workers",
        type=int,
        help="processes with all models and one compute thread each (default 2, on cuda 1)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU where there is one)")
    parser.add_argument("--deadline", type=float, default=10.0, metavar="S", help="of a request (default 10 s)")
    parser.add_argument("--queue", type=int, default=64, help="requests that wait in a worker, at most (default 64)")
    parser.add_argument("--max-rows", type=int, default=64, help="examples computed side by side (default 64)")
    parser.add_argument("--max-images", type=int, default=64, help="examples of one request, at most (default 64)")
    parser.add_argument(
        "--api-key-file", default=None, metavar="FILE", help="the key that clients must send (or set ZOO_API_KEY)"
    )
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="HOST", help="a name that the Host header may have"
    )
    parser.add_argument("--grpc-port", type=int, default=None, help="also speak gRPC there (extra grpc)")


def run(args: argparse.Namespace) -> int:
    from zoo.serving.server import serve
    from zoo.serving.settings import Settings

    several = 1 if (args.device or "").startswith("cuda") else 2
    workers = args.workers if args.workers is not None else several
    return serve(
        Settings(
            models=tuple(args.models), host=args.host, port=args.port, workers=workers, deadline=args.deadline,
            queue=args.queue, max_images=args.max_images, hosts=tuple(args.allow_host), key_file=args.api_key_file,
            grpc_port=args.grpc_port, device=args.device, max_rows=args.max_rows,
        )
    )  # fmt: skip
