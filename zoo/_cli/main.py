"""Dispatch: find the command, parse its arguments, run it, and turn errors into one line and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from zoo import __version__
from zoo._cli.imports import refused_import
from zoo._cli.question import question
from zoo._cli.speech import speaking
from zoo.errors import NotAGenerativeModelError, RenamedWarning, ZooError, close_matches
from zoo.overlays import asking, in_force

COMMANDS = {
    "list": "list the models of the registry",
    "show": "show one model: paper, recipe, results, citation",
    "fit": "train a model",
    "validate": "losses of a trained model on the validation split",
    "test": "losses of a trained model on the test split",
    "sample": "draw samples from a trained model into a PNG or NPZ file",
    "evaluate": "measure a trained model and write eval.json",
    "features": "what a probe and neighbours read off the features of trained models",
    "tune": "choose options on validation data: of the sampler, or of short trainings",
    "diagnose": "look into the latents of a trained model: pictures and one JSON file",
    "reproduce": "train a registered model again and compare it with the recorded band",
    "leaderboard": "compare all known results",
    "serve": "answer requests for samples over HTTP",
    "export": "write a model for other runtimes: ONNX, torch.export, safetensors",
    "pull": "download pretrained weights",
    "push": "publish a model on the Hub",
    "cache": "list, check and remove models in the Hub's cache on this machine",
    "docs": "open the documentation in the browser, or build it",
    "verify": "check the files of a model against their recorded sha256",
}
OWN_HELP = {"fit", "validate", "test"}
"""Commands whose help depends on the model that is named."""

PASS_ON = OWN_HELP | {"reproduce", "tune"}
"""Commands whose unknown options belong to LightningCLI, or to the class of the model that is named."""


_PATHS = {
    getattr(errno, name)
    for name in (
        *("EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "EFBIG", "ENAMETOOLONG", "ENOTDIR", "EISDIR", "ELOOP"),
        *("EEXIST", "EINVAL", "EILSEQ", "ENXIO", "ENOENT", "EIO"),
    )
    if hasattr(errno, name)
}
"""What is wrong with a path, or the disk that it is on: the user's to mend."""

_ROOM = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO") if hasattr(errno, name)}
"""What is wrong with what is written to, where no path says which: the output itself, most often."""


class _Parser(argparse.ArgumentParser):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, allow_abbrev=False)

    def error(self, message: str) -> Any:
        raise ZooError(message)


def _help() -> str:
    lines = [f"  {name:<12} {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: zoo [-v] COMMAND [options]     zoo COMMAND --help     zoo --version",
            "",
            "A zoo of generative models: train, load, sample, evaluate, compare and publish.",
            "",
            "commands:",
            *lines,
            "",
            "examples:",
            "  zoo fit --model wgan_gp",
            "  zoo sample pixelcnn-mnist -n 64 --seed 0 --out samples.png",
            "  zoo leaderboard --dataset mnist --sort fid",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, an error's (2 where the user can mend it), 130 after Ctrl-C."""
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):  # a path need not be text that the terminal knows
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    verbose = argv[:1] in (["-v"], ["--verbose"])
    argv = argv[verbose:]
    try:
        with speaking(verbose):
            code = _main(argv)
            if sys.stdout is not None:
                sys.stdout.flush()  # what cannot be written is told here, not by the interpreter's end
            return code
    except ZooError as error:
        example = error.example if isinstance(error, NotAGenerativeModelError) else ""  # which keeps its lines
        _say(f"zoo: error: {' '.join(str(error).removesuffix(example).split())}")
        if example:
            _say(example)
        return error.exit_code
    except ImportError as error:
        message = refused_import(error)
        if message is None:
            raise
        _say(f"zoo: error: {message}")
        return 2
    except KeyboardInterrupt:
        _say("zoo: interrupted")
        return 130
    except BrokenPipeError:
        _drop(sys.stdout)
        return 1
    except OSError as error:
        if error.filename is None and error.errno in _ROOM:
            _drop(sys.stdout)
            _say(f"zoo: error: the output cannot be written: {error.strerror}; make room, or send it elsewhere")
            return 2
        if error.filename is None or error.errno not in _PATHS:
            raise
        _say(f"zoo: error: {error.filename}: {error.strerror}; give another path, or make room")
        return 2


def _say(text: str) -> None:
    """Print to standard error, or nowhere where that is full or gone: the exit code tells it too."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        _drop(sys.stderr)


def _drop(stream: Any) -> None:
    """Let what a stream still holds, which nobody can take, go nowhere."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def console() -> int:
    """Run the command of this process; a Ctrl-C when it has stopped already does not change its exit code."""
    try:
        code = main()
    except KeyboardInterrupt:
        code = 130
    if code in (130, 143):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


def _main(argv: list[str]) -> int:
    if "_ARGCOMPLETE" in os.environ:  # the shell asks
        from zoo._cli import completion

        completion.complete(COMMANDS, _parser)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"zoo {__version__}")
        return 0
    name, rest = argv[0], argv[1:]
    if name not in COMMANDS:
        raise ZooError(f"unknown command {name!r}.{close_matches(name, COMMANDS)} Run `zoo --help` for the list.")
    _tell_warnings()
    _check_here()
    command, parser = importlib.import_module(f"zoo._cli.{name}"), _parser(name)
    if name in PASS_ON:
        args, args.rest = parser.parse_known_args(rest)
    else:
        args, unknown = parser.parse_known_args(rest)
        if unknown:
            options = [o for action in parser._actions for o in action.option_strings]
            raise ZooError(f"zoo {name}: unknown option {unknown[0]!r}.{close_matches(unknown[0], options)}")
    with in_force(*args.registry), asking(args.registry, question()):
        return int(command.run(args) or 0)


def _check_here() -> None:
    """Raise `ZooError` where the current folder is gone: libraries that are loaded from it end the process."""
    try:
        os.getcwd()
    except OSError as error:
        why = error.strerror
        raise ZooError(f"the current folder cannot be entered ({why}); change to one that is there") from None


def _parser(name: str) -> argparse.ArgumentParser:
    """Return the parser of a command."""
    about = COMMANDS[name][0].upper() + COMMANDS[name][1:] + "."
    parser = _Parser(prog=f"zoo {name}", description=about, add_help=name not in OWN_HELP)
    importlib.import_module(f"zoo._cli.{name}").add_arguments(parser)
    if "--registry" not in parser._option_string_actions:
        parser.add_argument("--registry", action="append", default=[], metavar="FILE", help="a further registry file")
    return parser


def _tell_warnings() -> None:
    """Let warnings be one line each, once; those on names of before too, which Python keeps from the command line."""
    shown: set[str] = set()

    def tell(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        text = " ".join(str(message).split())
        if text not in shown:
            shown.add(text)
            print(f"zoo: warning: {text}", file=sys.stderr)

    warnings.showwarning = tell
    warnings.filterwarnings("default", category=RenamedWarning)
