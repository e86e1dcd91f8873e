"""The commands and lines of Python that README.md, CONTRIBUTING.md and docs/ show, and how a test runs each of them.

A command is run as it stands, with options that shorten it; files and runs that it names are there. What cannot run in
a test is in `NOT_HERE`, by its beginning and with the reason, and its options are checked all the same.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

NOT_HERE = {
    "zoo serve": "answers until it is stopped; tests/test_serve*.py start it",
    "zoo pull me/": "asks the Hub; tests/test_hub*.py pull from a server of their own",
    "zoo verify me/": "asks the Hub; tests/test_hub*.py",
    "zoo list --hub": "asks the Hub; tests/test_hub*.py",
    "zoo list '*mnist*' --hub": "asks the Hub; tests/test_hub*.py",
    "zoo evaluate vae-mnist wgan_gp-mnist me/mine@v1": "asks the Hub; tests/test_evaluate.py evaluates several at once",
    "zoo evaluate vae-mnist --option temperature=0.8 --extractor inception": "weights of Inception are not shipped",
    "zoo evaluate vae-mnist --seeds 3 --devices 2": "two processes; tests/test_evaluate.py",
    "zoo evaluate runs/ebm-mnist/DATE --other fashion_mnist": "files that are not shipped; tests/test_evaluate.py",
    "zoo evaluate runs/mine --samples 1500": "draws for minutes; tests/test_evaluate.py measures pictures in colour",
    "zoo fit vae --trainer.logger my_package.": "a package of the reader's own; tests/test_trainer_options.py",
    "zoo fit vae --logger wandb": "a library that asks a server; tests/test_trainer_options.py",
    "zoo fit --model pixelcnn --training.compile": "compiles for minutes; tests/test_recipes.py",
    "zoo fit --model ddpm_cond --trainer.precision": "compiles for minutes; tests/test_recipes.py",
    "zoo tune sn_gan-mnist --range": "a dozen trials; tests/test_tuning.py",
    "zoo tune vae-mnist --grid model.lr": "trains three times; tests/test_tuning.py",
    "zoo reproduce": "trains a whole recipe; tests/test_reproduce.py",
    "zoo fit --model wgan_gp --trainer.devices 2": "two processes; tests/test_ddp.py",
    "zoo fit --model vae --trainer.devices 2": "two processes; tests/test_ddp.py and tests/test_fsdp.py",
    "zoo fit --model vae --trainer.accelerator cpu --trainer.devices 2": "two processes; tests/test_ddp.py",
    "zoo fit --model vae --model.latent_dim 16": "two processes; tests/test_ddp.py, the option in tests/test_cli.py",
}
"""Beginnings of commands that no test here runs, and why."""

_FILE = re.compile(r"# (\w+\.(?:py|yaml))")
_PROGRAM = re.compile(r"zoo +(?:-v +)?[a-z]\w+")
_TWO = re.compile(r" {2,}(?=zoo )")
_PYTHON = re.compile(r"(?:[a-z_]\w* = (?:zoo|torch)\.|model\.|zoo\.)\S")


@dataclass(frozen=True)
class Shown:
    """One command, or one block of Python, of a document.

    Attributes:
        document: where it stands.
        line: number of its first line.
        text: as it is shown, without its comment.
        comment: what the document says of it.
        output: lines that it is shown to print; ``...`` stands for anything.
    """

    document: str
    line: int
    text: str
    comment: str = ""
    output: tuple[str, ...] = ()

    @property
    def not_here(self) -> str | None:
        """Why no test here runs it; None where one does."""
        return next((why for start, why in NOT_HERE.items() if self.text.startswith(start)), None)


def _blocks(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Yield first line, language and lines of the blocks of code, fenced or indented by four."""
    fence, language, block, first = "", "", [], 0
    for number, line in enumerate([*path.read_text(encoding="utf-8").splitlines(), ""], 1):
        if line.startswith("```"):
            if fence:
                yield first, language, block
                fence, block = "", []
            else:
                fence, language, first = "```", line[3:].strip(), number + 1
        elif fence:
            block.append(line)
        elif line.startswith("    ") and line.strip():
            first = first if block else number
            block.append(line[4:])
        elif block:
            yield first, "", block
            block = []


def commands(path: Path) -> list[Shown]:
    """Return the commands of the zoo that a document shows."""
    found = []
    for first, language, lines in _blocks(path):
        if language not in ("", "bash", "console"):
            continue
        at = 0
        while at < len(lines):
            start, text = at, lines[at]
            while text.endswith("\\") and at + 1 < len(lines):
                at += 1
                text = text[:-1] + " " + lines[at].strip()
            at += 1
            output = []
            if language == "console":
                while at < len(lines) and not lines[at].startswith("$ "):
                    output.append(lines[at])
                    at += 1
            for part in _TWO.split(text.removeprefix("$ ")):
                command, _, comment = part.partition(" #")
                for one in command.split(" && "):
                    if _PROGRAM.match(one.strip()):
                        place = first + start
                        found.append(Shown(path.name, place, " ".join(one.split()), comment.strip(), tuple(output)))
    return found


def python(path: Path) -> list[Shown]:
    """Return the Python that a document shows: its indented lines, one block each, and its fenced blocks whole."""
    found = []
    for first, language, lines in _blocks(path):
        code = [line for line in lines if _PYTHON.match(line)]
        if language == "" and code:
            found.append(Shown(path.name, first, "\n".join(code)))
        elif language == "python" and path.name != "README.md":  # which tests/test_readme.py runs
            found.append(Shown(path.name, first, "\n".join(lines)))
    return found


def files(path: Path) -> dict[str, str]:
    """Return name -> content of the files that a document shows: fenced blocks that begin with ``# name``."""
    found = {}
    for _, language, lines in _blocks(path):
        name = _FILE.fullmatch(lines[0]) if language in ("python", "yaml") and lines else None
        if name:
            found[name[1]] = "\n".join(lines) + "\n"
    return found


_RUNS = {"<date-time>": "friday", "<date>": "friday", "/DATE": "/friday", "./runs/...": "runs/cond", "NAME": "vae"}
_SHORT = {
    "fit": [
        *("--trainer.max_steps", "2", "--trainer.enable_progress_bar", "false", "--trainer.limit_val_batches", "1"),
        *("--training.threads", "1", "--data.batch_size", "4", "--training.checkpoint_every", "1000"),
    ],
    "sample": ["-n", "2", "--force"],
    "evaluate": ["--quick", "--samples", "64", "--limit", "8"],
    "diagnose": ["--examples", "200"],
    "features": ["--quick", "--limit", "50"],
    "push": ["--dry_run"],
    "tune": ["--samples", "64", "--seeds", "1"],
}
_IN_STEPS = ("ddpm", "flow_matching", "latent_diffusion")


def missing(shown: Shown) -> bool:
    """Tell whether a command names a logger of a package that is not installed."""
    words = shlex.split(shown.text)
    loggers = [name for i, word in enumerate(words) if word == "--logger" for name in words[i + 1].split(",")]
    return any(importlib.util.find_spec(name) is None for name in loggers if name != "csv")


def shortened(text: str) -> list[str]:
    """Return the words of a command after ``zoo``, with names in the place of placeholders, and cheap."""
    for placeholder, name in _RUNS.items():
        text = text.replace(placeholder, name)
    model = "vae" if "hugging_face" not in text else "vae --data.size 28 --data.channels 1"
    words = shlex.split(text.replace("MODEL", model))[1:]
    more = list(_SHORT.get(words[0], []))
    if words[0] == "fit" and not {"--resume", "--config", "--help"} & set(words) and "gaussians" not in text:
        more += ["--data.limit", "64"]
    if words[0] == "sample" and any(name in words[1] for name in _IN_STEPS) and "--measure" not in words:
        more += ["--steps", "4"]
    if words[0] == "fit" and "--resume" in words:
        more[1] = "4"  # goes on
    if "--help" in words:
        more = []
    return [*words, *more]
