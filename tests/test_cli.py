"""What users type: answers, errors in one sentence, exit codes, and nothing lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import warm

from zoo import __version__
from zoo._cli.main import COMMANDS, main
from zoo.registry import load_registry

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fails(capture: Capture, *argv: str) -> str:
    """Run a command that must end with exit code 2 and one line; return that line."""
    before = set(Path.cwd().rglob("*"))
    capture.readouterr()
    assert main(argv) == 2
    lines = [x for x in capture.readouterr().err.splitlines() if not x.startswith("zoo: warning")]
    assert len(lines) == 1 and lines[0].startswith("zoo: error: "), lines
    assert "Traceback" not in lines[0] and len(lines[0]) < 600
    assert set(Path.cwd().rglob("*")) == before, "a failing command left files"
    return lines[0]


def test_help_version_and_list(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in COMMANDS)
    assert main(["--version"]) == 0 and capsys.readouterr().out.strip() == f"zoo {__version__}"
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in load_registry())
    assert main(["list", "--json", "--family", "gan"]) == 0
    assert {r["family"] for r in json.loads(capsys.readouterr().out)} == {"gan"}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(command: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0 and f"zoo {command}" in capsys.readouterr().out


def test_show_names_paper_recipe_and_citation(capsys: Capture) -> None:
    assert main(["show", "vae"]) == 0
    out = capsys.readouterr().out
    assert "1312.6114" in out and "@misc{kingma2013" in out and "zoo fit --model vae-mnist" in out
    assert main(["show", "vae", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "vae-mnist"


def test_unknown_names_and_options_answer_with_close_matches(capsys: Capture) -> None:
    assert "unknown command 'fitt'. Did you mean 'fit'" in fails(capsys, "fitt")
    assert "unknown model 'wgan_gpp'. Did you mean 'wgan_gp'" in fails(capsys, "fit", "--model", "wgan_gpp")
    assert "unknown model 'pixelcn'" in fails(capsys, "sample", "pixelcn")
    assert "unknown option '--famly'. Did you mean '--family'" in fails(capsys, "list", "--famly", "gan")
    assert "give --model" in fails(capsys, "fit")
    assert "unknown data set 'mnits'. Did you mean 'mnist'" in fails(capsys, "fit", "--model", "vae", "--data", "mnits")


def test_wrong_options_of_a_model_are_one_sentence(capsys: Capture) -> None:
    gan = ("fit", "--model", "wgan_gp")
    assert "--model.n_critics. Did you mean '--model.n_critic'" in fails(capsys, *gan, "--model.n_critics", "3")
    assert "--model.generator.latent_dimm. Did you" in fails(capsys, *gan, "--model.generator.latent_dimm", "3")
    assert "--model.lr takes a value of type float, got 'abc'" in fails(capsys, *gan, "--model.lr", "abc")
    assert "--trainer.max_epochz. Did you mean '--trainer.max_epochs'" in fails(
        capsys, *gan, "--trainer.max_epochz", "3"
    )
    assert "--data.batch_size takes a value of type int, got 'x'" in fails(capsys, *gan, "--data.batch_size", "x")
    assert "one of 'constant', 'cosine'" in fails(capsys, *gan, "--training.schedule", "linear")
    said = fails(capsys, "fit", "--model", "vae", "--trainer.strategy", "dpp", "--trainer.max_steps", "1")
    assert "dpp" in said
    said = fails(capsys, "fit", "--model", "vae", "--training.ema", "1.5")
    assert "ema" in said and "1.5" in said


def test_data_that_do_not_fit_or_are_missing(capsys: Capture, tmp_path: Path) -> None:
    said = fails(capsys, "fit", "--model", "vae-binary_mnist", "--data", "mnist")
    assert "levels" in said and "256" in said
    said = fails(capsys, "fit", "--model", "vae", "--data", "image_folder", "--data.folder", str(tmp_path / "nowhere"),
                 "--data.size", "28", "--data.channels", "1")  # fmt: skip
    assert str(tmp_path / "nowhere") in said and "does not exist" in said


def test_run_folders_are_never_overwritten(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert "exists already" in fails(capsys, "fit", "--model", "vae", "--run", "mine")
    assert "not a run folder" in fails(capsys, "fit", "--resume", "mine")
    (tmp_path / "x.png").write_bytes(b"keep me")
    assert "exists already" in fails(capsys, "sample", "vae", "--out", "x.png")
    assert (tmp_path / "x.png").read_bytes() == b"keep me"
    assert "must end in .png, .gif, .apng, .wav, .txt or .npz" in fails(capsys, "sample", "vae", "--out", "x.jpg")


def test_overlays_add_and_change_entries(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("models:\n  tiny-mnist: {extends: vae-mnist, summary: mine, model: {init_args: {beta: 0.5}}}\n")
    assert main(["show", "tiny-mnist", "--registry", str(overlay)]) == 0
    assert "beta: 0.5" in capsys.readouterr().out
    monkeypatch.setenv("ZOO_REGISTRY", str(overlay))
    assert main(["list", "tiny*"]) == 0 and "mine" in capsys.readouterr().out
    overlay.write_text("modells: {}\n")
    assert "unknown key 'modells'. Did you mean 'models'" in fails(capsys, "list")
    overlay.write_text(
        "models: {x: {family: a, model: {class_path: os.system}, data: {class_path: zoo.data.mnist.MNIST}}}"
    )
    assert "not on the allow-list" in fails(capsys, "list")
    overlay.write_text("models: [")
    assert "not valid YAML" in fails(capsys, "list")


def test_class_paths_outside_the_allow_list_are_not_imported(capsys: Capture, tmp_path: Path, monkeypatch) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "evil.py").write_text(f"open({str(canary)!r}, 'w').close()\nclass Evil: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    for option in ("--model.encoder", "--data", "--trainer.logger"):
        argv = ["fit", "--model", "vae", option, "evil.Evil", "--trainer.max_steps", "1"]
        assert main(argv) == 2, option
        assert "Traceback" not in capsys.readouterr().err
    assert not canary.exists() and "evil" not in sys.modules


def test_print_config_and_running_a_saved_configuration(capsys: Capture, tmp_path: Path) -> None:
    arguments = ["--model.beta", "2", "--model.latent_dim", "32", *warm.SMALL, "--trainer.max_steps", "2"]
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--model", "vae", *arguments, "--print_config"])
    printed = capsys.readouterr().out
    assert ended.value.code == 0 and "class_path: zoo.families.vae.VAE" in printed and "beta: 2.0" in printed
    assert main(["fit", "--model", "vae", *arguments, "--run", "first"]) == 0
    assert main(["fit", "--config", "first/config.yaml", "--run", "second"]) == 0
    assert "the run is in second" in capsys.readouterr().out
    assert warm.difference("first", "second") == 0.0
    for name in ("config.yaml", "run.json", "metrics.csv", "loss.png", "samples.png", "checkpoints"):
        assert (tmp_path / "first" / name).exists(), name
    facts = json.loads((tmp_path / "first" / "run.json").read_text())
    assert facts["status"] == "finished" and facts["step"] == 2 and facts["cost"]["training_tflop"] > 0


def test_a_run_is_sampled_validated_and_started_from(capsys: Capture, tmp_path: Path) -> None:
    assert main(["fit", "--model", "vae", *warm.SMALL, "--trainer.max_steps", "2", "--run", "run"]) == 0
    assert main(["sample", "./run", "-n", "4", "--seed", "1", "--out", "a.npz"]) == 0
    assert main(["sample", "./run", "-n", "4", "--seed", "1", "--out", "b.npz"]) == 0
    assert main(["sample", "./run", "-n", "4", "--out", "a.png", "--option", "temperature=0.5"]) == 0
    import numpy as np

    a, b = np.load("a.npz")["samples"], np.load("b.npz")["samples"]
    assert a.shape == (4, 1, 28, 28) and (a == b).all() and a.min() >= 0 and a.max() <= 1
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "no sampling option 'temperatur'" in fails(
        capsys, "sample", "./run", "--out", "c.png", "--option", "temperatur=1"
    )
    limits = ("--trainer.limit_val_batches", "2", "--trainer.limit_test_batches", "2")
    assert main(["validate", "./run", "--json", *limits]) == 0
    terms = json.loads(capsys.readouterr().out.partition("{")[2].join(["{", ""]))
    assert {"validation/loss", "validation/kl"} <= set(terms)
    assert main(["test", "./run", *limits]) == 0 and "test/loss" in capsys.readouterr().out
    tune = ("--init_from", "./run", "--trainer.max_steps", "1")
    assert main(["fit", "--model", "vae", *warm.SMALL, *tune, "--run", "tuned", "--model.lr", "0"]) == 0
    assert warm.tuned_from("run", "tuned")
    assert "do not fit" in fails(capsys, "fit", "--model", "vae-binary_mnist", *tune)


def test_dry_run_prints_the_cost_and_trains_nothing(capsys: Capture, tmp_path: Path) -> None:
    assert main(["fit", "--model", "vae", "--budget", "1TFLOP", "--dry_run", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert 0.9 < said["training_tflop"] <= 1.0 and said["parameters"] > 0 and said["estimated_minutes"] > 0
    assert list(tmp_path.iterdir()) == []
    assert "50TFLOP" in fails(capsys, "fit", "--model", "vae", "--budget", "many")


def test_fit_takes_the_name_as_its_first_word(capsys: Capture) -> None:
    printed = []
    for words in (["--model", "vae"], ["vae"]):
        with pytest.raises(SystemExit) as ended:
            main(["fit", *words, "--model.latent_dim", "3", "--print_config"])
        assert ended.value.code == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and "latent_dim: 3" in printed[1]
    assert "two models are named, 'gan' and --model vae" in fails(capsys, "fit", "gan", "--model", "vae")
    assert "unknown model 'vea'" in fails(capsys, "fit", "vea", "--budget", "1TFLOP")


def test_help_and_list_are_quick() -> None:
    """Least of five: under 0.3 s of processor time, and no torch, with more than a hundred entries."""
    assert len(load_registry()) > 100
    heavy = "{'torch', 'lightning', 'jsonargparse', 'numpy'}"
    code = f"import sys, zoo._cli as c; c.main(sys.argv[1:]); assert not {heavy} & set(sys.modules)"
    for argv in (["--help"], ["list"]):
        spent = []
        for _ in range(5):
            before = os.times()
            subprocess.run([sys.executable, "-c", code, *argv], check=True, stdout=subprocess.DEVNULL)
            after = os.times()
            spent.append(after.children_user + after.children_system - before.children_user - before.children_system)
        assert min(spent) < 0.3, spent


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_output_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    zoo = [sys.executable, "-m", "zoo"]
    with open("/dev/full", "w") as full:
        told = subprocess.run([*zoo, "list", "--json"], stdout=full, stderr=subprocess.PIPE, text=True)
        silent = subprocess.run([*zoo, "show", "nonsense"], stdout=subprocess.PIPE, stderr=full)
    assert told.returncode == 2 and told.stderr.count("\n") == 1 and "cannot be written: No space" in told.stderr
    assert silent.returncode == 2 and silent.stdout == b""
    short = subprocess.run(f"'{sys.executable}' -m zoo show vae-mnist > /dev/full", shell=True, stderr=subprocess.PIPE)
    assert short.returncode == 2 and short.stderr.count(b"\n") == 1  # what fits the buffer is found out at the end
    (tmp_path / "gone").mkdir()
    command = f"cd '{tmp_path}/gone'; rmdir ../gone; '{sys.executable}' -m zoo sample vae-mnist --out x.npz"
    gone = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True)
    assert gone.returncode == 2 and gone.stderr.startswith("zoo: error: the current folder cannot be entered")
    assert gone.stderr.count("\n") == 1


def test_importing_zoo_is_light() -> None:
    code = "import zoo, sys; assert not {'torch', 'yaml', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_package_that_refuses_its_neighbours_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """transformers refuses some versions of huggingface-hub; Lightning imports it, through torchmetrics."""
    refusal = "huggingface-hub>=1.3.0,<2.0 is required for a normal functioning of this module, but found 2.4.0.\nTry:"

    def imported(name: str, *rest: object) -> object:
        inner = {"__name__": "transformers.utils.versions", "refusal": refusal}
        exec("def check():\n    raise ImportError(refusal)", inner)
        outer = {"__name__": "torchmetrics.functional", "check": inner["check"]}
        exec("check()", outer)
        raise AssertionError("unreachable")

    program = sys.modules["zoo._cli.main"].importlib
    monkeypatch.setattr(program, "import_module", imported)
    assert main(["list"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "the installed transformers, which torchmetrics imports, cannot be" in told
    assert "huggingface-hub>=1.3.0,<2.0 is required" in told and "pip install -U transformers" in told
    own: dict[str, Any] = {"__name__": "zoo.api"}
    exec("def lost(name):\n    raise ImportError('own')", own)
    monkeypatch.setattr(program, "import_module", own["lost"])
    with pytest.raises(ImportError, match="own"):  # a fault of the zoo's own stays one
        main(["list"])
