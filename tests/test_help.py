"""What a user is told before typing: options, their values and meanings; completion in the shell; names of before."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

from zoo._cli import main
from zoo._cli.arguments import meanings, options_of
from zoo._cli.completion import model_options
from zoo.errors import ConfigError
from zoo.registry import create, in_force, load_registry
from zoo.training.cli import EntryCLI
from zoo.training.trainer_options import REFUSED

Capture = pytest.CaptureFixture[str]
MERGED = "models:\n  other-mnist: {extends: vae-mnist, model: {class_path: zoo.families.cvae.CVAE}}\n"


def told(capture: Capture, *argv: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 0
    return capture.readouterr().out


def test_help_on_a_model_has_its_values_and_the_meanings_of_its_docstrings(capsys: Capture) -> None:
    said = " ".join(told(capsys, "fit", "wgan_gp", "--help").split())
    assert "--model.penalty 10.0 lambda, the weight of the gradient penalty" in said
    assert "--model.lr 0.001 peak learning rate of both players" in said  # of the class above
    assert "--model.generator.widths [64, 32] channels before each doubling" in said
    assert "--data.batch_size 32 examples a batch and device" in said
    assert "--training.ema 0.999 decay a step" in said and "--trainer.max_steps 45000 Stop training" in said
    said = " ".join(told(capsys, "fit", "--model", "vq_vae_prior", "--data", "binary_mnist", "--help").split())
    assert "--autoencoder NAME|RUN" in said and "--data zoo.data.mnist.BinaryMNIST" in said


def test_every_option_of_every_model_has_a_meaning_and_is_completed() -> None:
    for name, entry in load_registry().items():
        options = options_of(entry)
        assert not [o.name for group in options.values() for o in group if not o.meaning], name
        for group, spec in (("model", entry.model), ("data", entry.data)):
            listed = [o.name for o in options[group]][1:]
            size = {"--model.size"}  # of all networks together, no argument of the class
            assert {*model_options(f"--{group}", spec)} | size == {*listed} | size, name


def test_help_lists_what_the_parser_takes() -> None:
    """Each option of the parser stands in the help, and what the help shows can be typed."""
    entry = load_registry()["wgan_gp-mnist"]
    plain = {k: getattr(entry, k) for k in ("name", "model", "data", "trainer", "training")}
    shown = {o.name for group in options_of(entry).values() for o in group}
    cli = EntryCLI(plain, ["--model.generator.widths", "[32, 16]", "--model.penalty", "3", "--data.seed", "5"])
    taken = {o for a in cli.parser._actions for o in a.option_strings if o.startswith(("--training.", "--trainer."))}
    refused = {f"--trainer.{name}" for name in REFUSED}
    assert {o for o in taken if not o.endswith((".help", "+"))} - refused <= shown and not refused & shown
    assert cli.config["model"]["init_args"]["generator"]["init_args"]["widths"] == [32, 16]
    assert cli.config["data"]["init_args"]["seed"] == 5


def test_meanings_are_read_from_docstrings() -> None:
    class Base:
        """A base.

        Args:
            width: of the base,
                in two lines.
            a, b: both.
        """

    class Top(Base):
        """One above.

        Args:
            width: of the top. Default: ``3``.

        Raises:
            ValueError: never.
        """

    assert meanings(Top) == {"width": "of the top", "a": "both", "b": "both"}
    assert meanings(Base)["width"] == "of the base, in two lines"


def completed(line: str, folder: Path) -> tuple[list[str], float]:
    """Return what the program offers when the shell asks, and the processor time that it took."""
    read, write = os.pipe()
    # argcomplete writes to descriptor 8, as the shell's function arranges it
    code = f"import os; os.dup2({write}, 8); os.dup2(2, 9); from zoo._cli import console; console()"
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "COMP_LINE": line, "COMP_POINT": str(len(line)),
             "COMP_TYPE": "9", "_ARGCOMPLETE_SUPPRESS_SPACE": "1"}  # fmt: skip
    before = os.times()
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=folder, env={**os.environ, **asked}, pass_fds=[write], timeout=60
    )
    after = os.times()
    os.close(write)
    with os.fdopen(read) as stream:
        return stream.read().split("\n"), after.children_user - before.children_user


def test_the_shell_completes_commands_names_and_options(tmp_path: Path) -> None:
    pytest.importorskip("argcomplete")
    (tmp_path / "mine.yaml").write_text("models:\n  mine-mnist: {extends: vae-mnist}\n")
    (tmp_path / "runs" / "first").mkdir(parents=True)
    for line, offered, left in (
        ("zoo sa", {"sample"}, {"show"}),
        ("zoo sample wgan", {"wgan_gp-mnist", "wgan_gp", "wgan-mnist"}, {"vae-mnist"}),
        ("zoo fit --registry mine.yaml mi", {"mine-mnist", "mine"}, {"vae-mnist"}),
        ("zoo fit wgan_gp --model.generator.w", {"--model.generator.widths"}, {"--model.penalty"}),
        ("zoo fit --model vae --training.s", {"--training.seed", "--training.schedule"}, set()),
        ("zoo evaluate runs/", {"runs/first"}, set()),
    ):
        found, seconds = completed(line, tmp_path)
        assert offered <= set(found) and not left & set(found), (line, found)
        assert seconds < 1.0, line  # nothing heavy is imported


def test_a_name_of_before_is_told_once_on_the_command_line(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text("deprecated: {old: vae-mnist}\n")
    monkeypatch.chdir(tmp_path)
    assert main(["show", "old", "--registry", "mine.yaml"]) == 0
    assert main(["fit", "--model", "old", "--registry", "mine.yaml", "--dry_run", "--trainer.max_steps", "1"]) == 0
    told = capsys.readouterr().err.splitlines()
    sentence = "zoo: warning: 'old' is now called 'vae-mnist'; it still loads by the name of before"
    assert [line for line in told if line.startswith("zoo: warning")] == [sentence] * 2


def test_an_entry_of_another_class_than_the_one_it_extends_says_what_it_needs(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text(MERGED)
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "other", "--registry", "mine.yaml", "--dry_run"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "CVAE needs --model.encoder, --model.decoder" in said and "takes over none of the arguments" in said
    with in_force(tmp_path / "mine.yaml"), pytest.raises(ConfigError, match="needs the argument 'encoder', and 'deco"):
        create("other")


@pytest.mark.parametrize("option", ["--seed", "--seed_everything"])
def test_one_seed_is_that_of_weights_noise_and_order(
    option: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_forked: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    said = told(capsys, "fit", "vae", option, "7", "--print_config")
    assert said.count("seed: 7") == 2 and "seed: 0" not in said
    assert main(["fit", "vae", option, "7", "--data.seed", "3", "--dry_run"]) == 2
    assert "--seed 7 sets --data.seed too" in capsys.readouterr().err
    assert main(["fit", "vae", option, "true", "--dry_run"]) == 2
    assert "takes a whole number from 0, got 'true'" in capsys.readouterr().err
    (tmp_path / "c.yaml").write_text("name: vae-mnist\nseed_everything: 9\n")
    assert told(capsys, "fit", "--config", "c.yaml", "--print_config").count("seed: 9") == 2
    assert main(["fit", "vae", option, "7", "--seed", "8", "--dry_run"]) == 2
    assert "it is given twice, as 7 and as 8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("--lr", "--model.lr"), ("--batch_size", "--data.batch_size"), ("--latent-dim", "--model.latent_dim"),
        ("--max_epochs", "--trainer.max_epochs"), ("--ema", "--training.ema"), ("--ckpt_path", "--resume"),
        ("--trainer.gpus", "--trainer.devices"), ("--epochs", "--trainer.max_epochs"),
    ],
)  # fmt: skip
def test_an_option_by_another_name_is_told_its_own(word: str, meant: str) -> None:
    with pytest.raises(ConfigError) as told:
        tiny.vae(word, "3")
    assert str(told.value) == f"unknown option {word}. Did you mean {meant!r}?"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("EarlyStoping",),
            "Callback or null, got 'EarlyStoping'. Did you mean 'EarlyStopping'?",
        ),
        (("EarlyStopping",), "EarlyStopping needs --trainer.callbacks.monitor; give it"),
        (("Timer", "--trainer.callbacks.duratoin", "1"), "unknown option --trainer.callbacks.duratoin."),
    ],
)
def test_a_callback_is_told_by_its_own_name(words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ConfigError) as told:
        tiny.vae("--trainer.callbacks+", *words)
    assert str(told.value).endswith(sentence)
