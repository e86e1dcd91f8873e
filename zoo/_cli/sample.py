"""``zoo sample NAME``: draw samples into a picture, a video, a text, a recording or an array file."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo._cli.evaluate import option
from zoo.errors import ConfigError, ZooError, check_choice, close_matches
from zoo.names import parse_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "which", metavar="NAME|RUN", help="a model with weights, a run folder, or namespace/name@revision"
    )
    parser.add_argument(
        "-n", type=int, default=None, help="how many (default 64 images, 1 text, 4 recordings or clips)"
    )
    parser.add_argument(
        "--seed", type=int, default=None, help="equal seeds give equal samples (default: drawn, and printed)"
    )
    parser.add_argument(
        "--out",
        default=None,
        metavar="FILE",
        help="x.png for a sheet of images, x.gif or x.apng for clips and their sheet, x.wav for recordings and their "
        "spectrogram, x.txt for text, x.npz for the numbers (default NAME.png, .gif or .wav; text is printed)",
    )
    parser.add_argument(
        "--prompt", default=None, metavar="TEXT", help="text that every sample begins with, or of what it is"
    )
    parser.add_argument(
        "--given",
        default=None,
        metavar="FILE",
        help="an image, or a sheet of them, to complete from the top rows; x.gif or x.apng of clips to continue; x.wav "
        "whose spectrogram a vocoder turns into a recording",
    )
    parser.add_argument(
        "--frames", type=int, default=None, help="first frames of --given clips that are kept (default half of them)"
    )
    parser.add_argument("--rows", type=int, default=None, help="rows of --given that are kept (default half of them)")
    parser.add_argument(
        "--mask",
        default=None,
        metavar="FILE.png",
        help="instead of --rows: white where --given is kept, black elsewhere",
    )
    parser.add_argument(
        "--control",
        default=None,
        metavar="FILE.png",
        help="a picture, or a sheet of them, whose edges samples follow, of models that take a control",
    )
    parser.add_argument(
        "--measure",
        nargs=2,
        default=None,
        metavar=("KIND", "FILE.png"),
        help="draw what a picture is a measurement of: inpaint (seen where --mask is white, or in the top --rows), "
        "downsample (a smaller picture) or blur (of --width)",
    )
    parser.add_argument("--width", type=float, default=None, help="standard deviation of blur in pixels (default 1.5)")
    parser.add_argument(
        "--noise", type=float, default=None, help="standard deviation of the measurement's noise (default 0.02)"
    )
    parser.add_argument(
        "--labels", default=None, help="classes for conditional models, such as 7, 0,1,2,3 or frog,ship"
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="K=V",
        help="a sampling option of the model, such as temperature=0.9",
    )
    for name, kind, what in _OPTIONS:
        parser.add_argument(f"--{name}", type=kind, default=None, help=f"{what}; the same as --option {name}=...")
    parser.add_argument("--device", default=None, help="cpu, cuda, ...")
    parser.add_argument("--json", action="store_true", help="print JSON: the files, or the texts, and the seed")
    parser.add_argument("--force", action="store_true", help="overwrite an existing file")


_OPTIONS = (
    ("steps", int, "steps of a model that samples in steps"),
    ("sampler", str, "sampler of a diffusion model, such as ddim or dpm_solver"),
    ("eta", float, "of ddim: 0 draws no noise, 1 as much as ancestral sampling"),
    ("guidance_scale", float, "classifier-free guidance: 1 for none"),
)


def run(args: argparse.Namespace) -> int:
    if args.out is not None:
        _check_out(Path(args.out), args.force)
    seed = args.seed if args.seed is not None else int.from_bytes(os.urandom(4), "little")
    options = dict(option(text) for text in args.option)
    options |= {name: getattr(args, name) for name, *_ in _OPTIONS if getattr(args, name) is not None}
    from zoo.hub import load
    from zoo.media import check_ending, default_file, medium, page, save_samples
    from zoo.progress import drawing_bar

    parsed = parse_name(args.which)
    model = load(args.which, device=args.device)
    if not model.generates:
        raise ConfigError(
            f"{args.which} represents examples and draws none, so there is nothing to sample; in Python, "
            f"zoo.load({args.which!r}).features(x) gives its features"
        )
    labels = _labels(args.labels, model.class_names) if args.labels is not None else None
    captions = None
    if args.prompt is not None and model.context:
        if labels is not None:
            raise ConfigError(f"{args.which} is told texts, not classes: give --prompt, and leave --labels out")
        labels, captions = args.prompt, [args.prompt]
    elif args.prompt is not None:
        options["prompt"] = args.prompt
    name = args.out or default_file(model, parsed.short)
    if name is not None:
        check_ending(model, name)
        _check_out(Path(name), args.force)
    n = args.n if args.n is not None else {"text": 1, "audio": 4, "video": 4}.get(medium(model), 64)
    if args.given is not None:
        n, completed = _given(args, model)
        options |= completed
    elif args.frames is not None:
        raise ConfigError("--frames says how many of a clip are kept: give the clip by --given FILE.gif")
    elif args.measure is None and (args.rows is not None or args.mask is not None):
        raise ConfigError("--rows and --mask say what of an image is kept: give the image by --given FILE.png")
    if args.control is not None:
        n, followed = _control(args, model)
        options |= followed
    if args.measure is not None:
        n = args.n if args.n is not None else 16
        samples = _restored(args, model, n, seed, labels, options)
    elif args.width is not None or args.noise is not None:
        raise ConfigError("--width and --noise are those of a measurement: give it by --measure KIND FILE.png")
    else:
        with drawing_bar(model, options):
            samples = model.sample(n, seed=seed, labels=labels, **options)
    facts = {"model": args.which, "n": n, "seed": seed}
    if name is None and args.json:
        print(json.dumps({**facts, "texts": model.text(samples)}, indent=2, ensure_ascii=False))
        return 0
    if name is None:
        print(page(model.text(samples)), end="")
        print(f"{n} samples of {args.which}, seed {seed}", file=sys.stderr)
        return 0
    written = save_samples(model, samples, name, captions=captions and captions * n, seed=seed)
    if args.json:
        print(json.dumps({**facts, "files": [str(path) for path in written]}, indent=2))
        return 0
    print(f"{' and '.join(map(str, written))}: {n} samples of {args.which}, seed {seed}")
    return 0


def _given(args: argparse.Namespace, model: Any) -> tuple[int, dict[str, Any]]:
    """Return how many images to complete, and the sampling options that say from what."""
    from zoo._cli.recorded import recorded
    from zoo.abilities import takes_option
    from zoo.images import read_png

    if takes_option(model, "recording"):
        return recorded(args, model)
    if len(model.shape) == 4 and takes_option(model, "given"):
        return _continued(args, model)
    if args.frames is not None:
        raise ConfigError(f"{args.which} draws no clips; --frames is of clips, and --rows of images")
    if len(model.shape) != 3 or not takes_option(model, "given"):
        raise ConfigError(
            f"{args.which} does not complete images; --given is for models that draw pixel by pixel or denoise"
        )
    given = read_png(args.given, model.shape)
    rows: Any = model.shape[1] // 2 if args.rows is None else args.rows
    if args.mask is not None:
        if args.rows is not None:
            raise ConfigError("--rows and --mask both say what is kept; leave one out")
        rows = read_png(args.mask, model.shape)[0] > 0.5
    n, completed = _of_pictures(args, args.given, "given", given, 16)
    return n, {**completed, "known": rows}


def _control(args: argparse.Namespace, model: Any) -> tuple[int, dict[str, Any]]:
    """Return how many images to draw, and the sampling option that says what they follow."""
    from zoo.abilities import takes_option
    from zoo.images import read_png

    if not takes_option(model, "control"):
        raise ConfigError(f"{args.which} follows no control; --control is for models such as controlnet")
    if args.given is not None or args.measure is not None:
        raise ConfigError("--control, --given and --measure each say what images are made from; give one of them")
    return _of_pictures(args, args.control, "control", read_png(args.control, model.shape), 16)


def _of_pictures(
    args: argparse.Namespace, file: str, option: str, pictures: Any, usual: int
) -> tuple[int, dict[str, Any]]:
    """Return how many images go with the pictures of a file, and these as an option: one for all, or one for each."""
    if len(pictures) == 1:
        return args.n if args.n is not None else usual, {option: pictures[0]}
    n = args.n if args.n is not None else len(pictures)
    if n > len(pictures):
        raise ConfigError(f"{file} holds {len(pictures)} images, so -n must be at most that, got {n}")
    return n, {option: pictures[:n]}


def _continued(args: argparse.Namespace, model: Any) -> tuple[int, dict[str, Any]]:
    """Return how many clips to continue, and the sampling options that say from what."""
    from zoo.images import read_clips

    T = model.shape[1]
    if args.rows is not None or args.mask is not None:
        raise ConfigError("--rows and --mask are of images; --frames says how many frames of a clip are kept")
    frames = (T + 1) // 2 if args.frames is None else args.frames
    if not 1 <= frames < T:
        raise ConfigError(f"--frames must lie between 1 and {T - 1}, of clips of {T} frames, got {frames}")
    given = read_clips(args.given, model.shape, frames)
    n = args.n if args.n is not None else 4 if len(given) == 1 else len(given)
    if 1 < len(given) < n:
        raise ConfigError(f"{args.given} holds {len(given)} clips, so -n must be at most that, got {n}")
    return n, {"given": given[0] if len(given) == 1 else given[:n], "known": frames}


def _restored(args: argparse.Namespace, model: Any, n: int, seed: int, labels: Any, options: Mapping[str, Any]) -> Any:
    """Return what could have been measured so."""
    import torch

    from zoo.api import restore
    from zoo.images import picture_size, read_png
    from zoo.maths.measurements import MEASUREMENTS
    from zoo.progress import drawing_bar

    (kind, file), shape = args.measure, tuple(model.shape)
    check_choice("measure", kind, MEASUREMENTS)
    if args.given is not None:
        raise ConfigError("--given and --measure both say what is known of an image; leave one out")
    if len(shape) != 3:
        raise ConfigError(f"{args.which} draws no images; --measure is of images")
    foreign = [name for name in options if name not in ("steps", "guidance_scale")]
    if foreign:
        raise ConfigError(f"{foreign[0]} is not an option of restoration; it takes steps and guidance_scale")
    for name, of in (("rows", "inpaint"), ("mask", "inpaint"), ("width", "blur")):
        if getattr(args, name) is not None and kind != of:
            raise ConfigError(f"--{name} is of --measure {of}, not of {kind}; leave it out")
    how: dict[str, Any] = {} if args.width is None else {"width": args.width}
    if kind == "inpaint":
        if args.rows is not None and args.mask is not None:
            raise ConfigError("--rows and --mask both say what is seen; leave one out")
        how["mask"] = torch.arange(shape[1])[:, None].expand(shape[1:]) < (args.rows or shape[1] // 2)
        if args.mask is not None:
            how["mask"] = read_png(args.mask, shape)[0, 0] > 0.5
    size = shape
    if kind == "downsample":
        height, width = picture_size(file)
        how["factor"] = shape[1] // max(1, height)
        if (height * how["factor"], width * how["factor"]) != shape[1:] or how["factor"] < 2:
            raise ConfigError(
                f"{file} is {height} x {width}; a smaller picture of {shape[1]} x {shape[2]} has sides that are the "
                f"same part of both, such as {_smaller(shape)}"
            )
        size = (shape[0], height, width)
    y = read_png(file, size)
    if kind == "inpaint":
        y = y * how["mask"]
    if args.noise is not None:
        how["noise"] = args.noise
    with drawing_bar(model, options, what="restoring"):
        return restore(model, y, kind, n=n, seed=seed, labels=labels, **options, **how)


def _smaller(shape: Sequence[int]) -> str:
    """Name a size that a picture of this shape can be the finer version of."""
    factor = next((f for f in (2, 3, 5, 7) if shape[1] % f == 0 and shape[2] % f == 0), 0)
    return f"{shape[1] // factor} x {shape[2] // factor}" if factor else "none here"


def _check_out(out: Path, force: bool) -> None:
    endings = (".png", ".gif", ".apng", ".wav", ".txt", ".npz")
    if out.suffix not in endings:
        raise ConfigError(f"--out must end in {', '.join(endings[:-1])} or {endings[-1]}, got {str(out)!r}")
    if out.exists() and not force:
        raise ZooError(f"{out} exists already; give another --out, or --force to overwrite it")


def _labels(text: str, names: Sequence[str]) -> Any:
    """Return the labels of a text: a name of a class where it is one, else a number."""
    labels: list[int | str] = []
    for part in [text] if text in names else text.split(","):
        part = part.strip()
        try:
            labels.append(part if part in names else int(part))
        except ValueError as error:
            if names:
                raise ConfigError(
                    f"--labels: there is no class {part!r}.{close_matches(part, names)} Known are: "
                    f"{', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"
                ) from error
            raise ConfigError(f"--labels takes integers separated by commas, got {text!r}") from error
    return labels[0] if len(labels) == 1 else labels
