"""Options, paths and disks that make a training or a writing command impossible: one sentence, and nothing is left.

Each case runs in a forked child; a file system of a few KiB is mounted where that is allowed, elsewhere the system's
limit of a file's size stands for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zoo._cli import main
from zoo.files import append_whole, write_together

VAE = ["fit", "vae", "--data.limit", "300", "--trainer.max_steps", "2", "--trainer.enable_progress_bar", "false"]
CALLBACK = "{{class_path: lightning.pytorch.callbacks.{}, init_args: {{{}}}}}"
OPTIONS = [
    "trainer.devices=99", "trainer.val_check_interval=1000000", "trainer.gradient_clip_val=-1",  # the sample
    "trainer.devices=0", "trainer.devices=-7", "trainer.devices=nonsense", "trainer.devices=[0,99]",
    "trainer.devices=1.5", "trainer.accelerator=nonsense", "trainer.accelerator=tpu", "trainer.accelerator=mps",
    "trainer.precision=nonsense", "trainer.precision=8", "trainer.precision=transformer-engine",
    "trainer.strategy=nonsense", "trainer.strategy=fsdp", "trainer.strategy=deepspeed", "trainer.strategy=ddp_spawn",
    "trainer.strategy=ddp_find_unused_parameters_false_spawn",
    "trainer.strategy={class_path: lightning.pytorch.strategies.DDPStrategy, init_args: {start_method: spawn}}",
    "trainer.strategy=xla", "trainer.gradient_clip_val=nan", "trainer.gradient_clip_val=x",
    "trainer.gradient_clip_algorithm=nonsense", "trainer.accumulate_grad_batches=0",
    "trainer.accumulate_grad_batches=-1", "trainer.accumulate_grad_batches=1.5", "trainer.max_steps=-5",
    "trainer.max_steps=0", "trainer.max_epochs=-5", "trainer.min_steps=-1", "trainer.max_time=nonsense",
    "trainer.limit_train_batches=-1", "trainer.limit_train_batches=1.5", "trainer.limit_train_batches=0",
    "trainer.limit_val_batches=-1", "trainer.val_check_interval=-1", "trainer.val_check_interval=0",
    "trainer.val_check_interval=2.5", "trainer.check_val_every_n_epoch=0", "trainer.check_val_every_n_epoch=-1",
    "trainer.num_sanity_val_steps=-5", "trainer.log_every_n_steps=0", "trainer.overfit_batches=-1",
    "trainer.num_nodes=0", "trainer.num_nodes=99", "trainer.profiler=nonsense", "trainer.profiler=xla",
    "trainer.deterministic=maybe", "trainer.reload_dataloaders_every_n_epochs=-1",
    "trainer.default_root_dir=/dev/null/x", "trainer.fast_dev_run=-1", "trainer.callbacks=nonsense",
    "trainer.logger=nonsense", "trainer.plugins=nonsense", "trainer.barebones=true", "trainer.model_registry=x",
    "trainer.enable_checkpointing=false", "trainer.enable_checkpointing=7",
    f"trainer.callbacks={CALLBACK.format('StochasticWeightAveraging', 'swa_lrs: -1.0')}",
    "trainer.logger={class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: /dev/null/x}}",
    "training.threads=0", "training.threads=100000", "training.timeout=nan", "training.timeout=1e300",
    "training.ema=2", "training.log_every=0", "training.budget=nanTFLOP", "training.budget=1e999TFLOP",
    "training.warmup=-1", "training.compile=maybe", "training.schedule=x", "training.checkpoint_every=-1",
    "data.batch_size=0", "data.batch_size=999999999999", "data.limit=0", "data.limit=-1", "data.num_workers=-1",
    "model.lr=-1", "model.lr=1e400", "model.lr=nan", "model.betas=[2,3]", "model.latent_dim=0", "model.latent_dim=-3",
]  # fmt: skip
LONG = "x" * 300
PLACES = ["file/x/y", LONG, f"{'x' * 200}/{'y' * 300}", "/dev/null/a", "/proc/x"]


def _ended(folder: str, argv: list[str], prepare: Callable[[], None] | None = None) -> tuple[int, str, list[str]]:
    """Run a command in a folder; return its code, what it said, and the files that are there then."""
    os.chdir(folder)
    said = Path(folder).parent / f"said-{os.getpid()}"
    if prepare is not None:
        prepare()
    with said.open("w") as stream, contextlib.redirect_stderr(stream), contextlib.redirect_stdout(stream):
        code = main(argv)
    return code, said.read_text(), sorted(str(p) for p in Path().rglob("*"))


def _all_ended(folder: str, cases: list[list[str]]) -> list[Any]:
    """Run several commands, each in a child that ends with it."""
    found = []
    for argv in cases:
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            try:
                os.write(write, json.dumps(_ended(folder, argv)).encode())
            except BaseException as error:
                os.write(write, json.dumps((99, repr(error), [])).encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as stream:
            found.append(json.loads(stream.read() or '[98, "killed", []]'))
        os.waitpid(child, 0)
    return found


def _refused(found: list[Any], cases: list[Any], left: list[str]) -> None:
    bad = {
        str(case): answer
        for case, answer in zip(cases, found, strict=True)
        if answer[0] != 2 or answer[1].count("zoo: error:") != 1 or "Traceback" in answer[1] or answer[2] != left
    }
    print(f"{len(cases)} cases, {len(bad)} did not end in one sentence with nothing left")
    assert not bad


@pytest.mark.parametrize("options", [OPTIONS[:2], pytest.param(OPTIONS, marks=pytest.mark.slow)], ids=["some", "all"])
def test_options_that_no_training_can_have(options: list[str], tmp_path: Path, run_forked: Callable[..., Any]) -> None:
    cases = [[*VAE, *f"--{option}".split("=", 1)] for option in options]
    _refused(run_forked(_all_ended, str(tmp_path), cases, timeout=1800), options, [])


@pytest.mark.parametrize("places", [PLACES[:1], pytest.param(PLACES, marks=pytest.mark.slow)], ids=["one", "all"])
def test_places_where_no_run_can_be(places: list[str], tmp_path: Path, run_forked: Callable[..., Any]) -> None:
    (tmp_path / "file").write_text("kept")
    cases = [[*VAE, "--run", place] for place in places]
    _refused(run_forked(_all_ended, str(tmp_path), cases, timeout=600), places, ["file"])
    assert (tmp_path / "file").read_text() == "kept"


def _mounted(folder: Path) -> bool:
    """Mount a file system of 64 KiB, where this user may and one is there."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, timeout=20).returncode == 0
    except OSError:
        return False


WRITING = {
    "sample": ["sample", "vae-mnist", "-n", "64", "--seed", "0", "--out", "disk/x.npz"],
    "export": ["export", "vae-mnist", "--format", "safetensors", "--out", "disk/deep/folder"],
    "leaderboard": ["leaderboard", "--html", "disk/site"],
    "diagnose": ["diagnose", "vae-mnist", "--only", "posterior", "--examples", "20", "--out", "disk/d"],
    "evaluate": ["evaluate", "vae-mnist", "--samples", "50", "--limit", "20", "-k", "1", "--out", "disk/e"],
    "fit": [*VAE, "--run", "disk/run"],
    "push": ["push", "vae-mnist", "--repo", "me/vae", "--dry_run"],
    "reproduce": ["reproduce", "vae-mnist", "--run", "disk/run"],
}
KEPT = {"evaluate": "disk/e/.evaluation-", "fit": "disk/run", "reproduce": "disk/run"}
"""What is kept to go on from, on purpose."""


def _on_a_full_disk(folder: str, command: str, mounted: bool) -> tuple[int, str, list[str]]:
    def fill() -> None:
        if mounted:  # room for the names of files, and for one page
            free = os.statvfs("disk")
            Path("disk/full").write_bytes(b"x" * (free.f_bavail * free.f_frsize - 4096))
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
        os.environ["TMPDIR"] = str(Path("disk").resolve())

    code, said, left = _ended(folder, WRITING[command], fill)
    return code, said, [p for p in left if p not in ("disk", "disk/full")]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits are those of Linux")
@pytest.mark.parametrize(
    "command",
    [pytest.param(c, marks=[] if c in ("sample", "export", "leaderboard") else pytest.mark.slow) for c in WRITING],
)
def test_full_disks_end_every_writing_command_in_one_sentence(
    command: str, tmp_path: Path, run_forked: Callable[..., Any]
) -> None:
    disk = tmp_path / "disk"
    mounted = _mounted(disk)
    try:
        code, said, left = run_forked(_on_a_full_disk, str(tmp_path), command, mounted, timeout=600)
    finally:
        if mounted:
            subprocess.run(["umount", str(disk)], check=True, timeout=20)
    if command == "push":  # it sends from memory, where the temporary folder has no room it says so
        assert code in (0, 2) and not left
    else:
        assert code == 2, said
    assert "Traceback" not in said and said.count("zoo: error:") == (code == 2)
    kept = KEPT.get(command)
    assert [p for p in left if kept is None or not (p.startswith(kept) or kept.startswith(p))] == [], left
    assert not [p for p in left if p.endswith(".tmp")]


def _appended(path: str) -> tuple[str, str]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        append_whole(path, "y" * 5000)
    except OSError as error:
        return str(error.filename), Path(path).read_text()
    return "", ""


def test_a_row_is_appended_whole_or_not_at_all(tmp_path: Path, run_forked: Callable[..., Any]) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step\n1\n")
    assert run_forked(_appended, str(path)) == (str(path), "step\n1\n")
    append_whole(path, "2\n")
    assert path.read_text() == "step\n1\n2\n"


def test_files_that_belong_together_are_written_together(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a").write_text("old")
    with pytest.raises(OSError, match="directory") as caught:
        write_together({tmp_path / "a": "new", tmp_path / "deep" / "c": b"new", tmp_path / "b": "new"})
    assert caught.value.filename == str(tmp_path / "b")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"] and (tmp_path / "a").read_text() == "old"


def test_a_path_that_is_no_text_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", "import sys; from zoo._cli import main; sys.exit(main(['show', 'a\\udcffb']))"]
    done = subprocess.run(command, capture_output=True, timeout=120)
    assert done.returncode == 2 and rb"\udcff" in done.stderr and b"Traceback" not in done.stderr
