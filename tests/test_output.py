"""What a training and the commands say and draw: where the run goes, curves that can be read, results as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import yaml

from zoo._cli import main
from zoo._cli.main import COMMANDS, _parser
from zoo.callbacks.curves import MOST, panels, plot_losses
from zoo.callbacks.pictures import Pictures, first_picture

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    entry = {"family": "vae", **{k: tiny.VAE[k] for k in ("model", "data", "trainer")}}
    Path("tiny.yaml").write_text(yaml.safe_dump({"models": {"tiny-points": entry}}))
    monkeypatch.setenv("ZOO_REGISTRY", str(tmp_path / "tiny.yaml"))


def says(capture: Capture, *argv: str) -> Any:
    capture.readouterr()
    assert main(argv) == 0, capture.readouterr().err
    return json.loads(capture.readouterr().out)


def test_a_run_says_at_its_start_where_it_goes_and_what_it_writes_when(capsys: Capture) -> None:
    every = ("--training.sample_every", "300", "--training.checkpoint_every", "7")
    assert main(["fit", "tiny", "--run", "run", *tiny.QUIET, *every]) == 0
    first, second = capsys.readouterr().err.splitlines()[:2]
    assert first == "zoo: the run goes into run: 10 steps of 8 examples"
    assert "pictures at step 100, then every 300, checkpoints every 7; all of them at the end" in second
    assert main(["fit", "tiny", "--run", "other", *tiny.QUIET]) == 0
    assert "pictures at the end, checkpoints" in capsys.readouterr().err


def test_results_are_json_where_that_is_asked_for(capsys: Capture) -> None:
    cost = says(capsys, "fit", "tiny", "--dry_run", "--json")
    assert cost["steps"] == 10 and cost["training_tflop"] > 0 and not Path("runs").exists()
    assert main(["fit", "tiny", "--dry_run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tiny-points: 10 steps" and any("TFLOP" in line for line in lines[1:])
    run = says(capsys, "fit", "tiny", "--run", "run", "--json", *tiny.QUIET)
    assert run["run"] == "run" and run["status"] == "finished" and run["step"] == 10
    assert says(capsys, "sample", "./run", "-n", "3", "--seed", "5", "--out", "x.npz", "--json") == {
        "model": "./run", "n": 3, "seed": 5, "files": ["x.npz"],
    }  # fmt: skip
    found = says(capsys, "verify", "./run", "--json")
    assert list(found["sha256"]) == ["checkpoints/step-00000010.ckpt"]
    assert "validation/loss" in says(capsys, "validate", "./run", "--json", "--trainer.limit_val_batches", "1")
    assert Path(next(iter(says(capsys, "export", "./run", "--format", "safetensors", "--json")["files"]))).is_file()
    sent = says(capsys, "push", "./run", "--repo", "me/tiny", "--dry_run", "--json")
    assert sent["commit"] is None and "model.safetensors" in sent["files"]
    assert says(capsys, "cache", "list", "--json")["models"] == []
    assert says(capsys, "show", "./run", "--json")["name"] == "tiny-points"
    assert says(capsys, "pull", "vae-mnist", "--json")["files"]["model.safetensors"] > 0


def test_every_command_with_a_result_has_the_option() -> None:
    for name in set(COMMANDS) - {"serve"}:  # which answers requests, and prints none
        assert "--json" in _parser(name)._option_string_actions, name


def test_show_has_a_line_for_each_argument(capsys: Capture) -> None:
    assert main(["show", "wgan_gp"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line in ("          generator: UpsamplingNet", "            latent_dim: 64", "          n_critic: 5",
                 "          max_steps: 45000", "          batch_size: 32"):  # fmt: skip
        assert line in lines
    assert max(map(len, lines)) <= 120
    assert any(line.startswith("          digit_share_0 to 9: 0.") for line in lines)


def test_pictures_come_early(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [first_picture(every) for every in (1000, 50, 0)] == [100, 50, 0]

    drawn: list[int] = []
    monkeypatch.setattr(Pictures, "draw", lambda self, trainer, module: drawn.append(trainer.global_step))
    for every, expected in ((1000, [100, 1000, 2000]), (900, [100, 900, 1800]), (0, [])):
        drawn.clear()
        for step in range(1, 2001):
            trainer = SimpleNamespace(is_global_zero=True, global_step=step)
            Pictures("x", every=every).on_train_batch_end(trainer, None)  # type: ignore[arg-type]
        assert drawn == expected


GAN_TERMS = [
    "critic_gradient", "critic_loss", "gap", "generator_gradient", "generator_loss", "penalty", "sign", "variety",
    *(f"digit_share_{k}" for k in range(10)), "digits_covered",
]  # fmt: skip


def test_panels_are_losses_then_groups_then_single_terms() -> None:
    found = panels({term: {} for term in GAN_TERMS})
    assert [title for title, _ in found][:4] == ["critic_loss", "generator_loss", "gradient", "digit_share"]
    assert dict(found)["digit_share"] == [f"digit_share_{k}" for k in range(10)]
    assert dict(found)["gradient"] == ["critic_gradient", "generator_gradient"]
    assert sorted(t for _, members in found for t in members) == sorted(GAN_TERMS)  # each once
    assert [t for t, _ in panels({"kl": {}, "loss": {}, "reconstruction": {}})] == ["loss", "kl", "reconstruction"]


def test_at_most_six_panels_are_in_a_file_and_colours_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    drawn: dict[str, Any] = {}
    plot = Axes.plot

    def record(self: Axes, *args: Any, **style: Any) -> Any:
        drawn[style["label"]] = style["color"]
        return plot(self, *args, **style)

    monkeypatch.setattr(Axes, "plot", record)
    header = ["step", *(f"train/{t}" for t in GAN_TERMS), "validation/loss", "lr"]
    rows = [[str(step), *(str(0.1 * k + step) for k in range(len(GAN_TERMS) + 2))] for step in (1, 2, 3)]
    (tmp_path / "m.csv").write_text("\n".join(",".join(row) for row in [header, *rows]))
    plot_losses(tmp_path / "m.csv", tmp_path / "loss.png")
    assert (tmp_path / "loss.png").is_file() and (tmp_path / "loss-more.png").is_file()
    assert drawn["critic"] == "C0" and drawn["generator"] == "C1" and drawn["train"] == "C0"
    assert [drawn[str(k)] for k in range(10)] == [f"C{k}" for k in range(10)]
    assert "validation" not in drawn  # the loss of a model of two players is that of the first, again
    (tmp_path / "m.csv").write_text("step,train/loss,validation/loss,train/digit_share_9\n1,2,3,4\n")
    drawn.clear()
    plot_losses(tmp_path / "m.csv", tmp_path / "loss.png")
    assert drawn == {"train": "C0", "validation": "C1"} and not (tmp_path / "loss-more.png").exists()
    assert MOST == 6
