"""Checkpoints are whole or absent, whatever happens while they are written; and a stopped run says where it stands."""

from __future__ import annotations

import csv
import errno
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import killing
import pytest
import tiny
import torch
from lightning.pytorch import Callback

from zoo._cli.main import main
from zoo.errors import CheckpointError, RunError
from zoo.runs import last_checkpoint, load_run, read_checkpoint, sidecar
from zoo.training import checkpoint_io
from zoo.training.checkpoint_io import AtomicCheckpointIO, sweep, write_atomic
from zoo.training.csv_log import CSVLog
from zoo.training.fit import Run

MEMORY = Path("/dev/shm")


def _checkpoint(folder: Path, step: int, value: float = 0.0) -> Path:
    path = folder / "checkpoints" / f"step-{step:08d}.ckpt"
    AtomicCheckpointIO().save_checkpoint({"zoo": {"step": step}, "x": torch.full((1000,), value)}, path)
    return path


@pytest.fixture(params=["disk", "memory"])
def devices(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A folder for checkpoints and one for temporary files, on two devices where this system has two."""
    if not os.access(MEMORY, os.W_OK):
        if request.param == "memory":
            pytest.skip("this system has no /dev/shm")
        yield str(tmp_path), str(tmp_path)
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as memory:
        yield (str(tmp_path), memory) if request.param == "disk" else (memory, str(tmp_path))


# -- kills -------------------------------------------------------------------------------------------------------------


def _no_harm(counts: dict[str, int], kills: int) -> None:
    assert counts["killed"] == kills
    assert counts["unreadable"] == counts["outlived"] == counts["lost"] == 0, counts


def test_killed_writers_leave_no_harm(devices: tuple[str, str], run_forked: Callable[..., Any]) -> None:
    _no_harm(run_forked(killing.kill_writers, *devices, 5, 0), 5)


@pytest.mark.slow
def test_a_hundred_killed_writers_leave_no_harm(devices: tuple[str, str], run_forked: Callable[..., Any]) -> None:
    counts = run_forked(killing.kill_writers, *devices, 100, 1, timeout=600)
    _no_harm(counts, 100)
    assert counts["written"] > 0 and counts["stale"] > 0, "no kill hit a writer in the middle, so nothing was shown"


def test_sweep_removes_what_killed_writers_leave(tmp_path: Path) -> None:
    good = _checkpoint(tmp_path, 1)
    folder = good.parent
    (folder / ".step-00000002.ckpt.123.tmp").write_bytes(b"half")
    (folder / "step-00000002.ckpt.sha256").write_text("of a checkpoint that never came")
    assert sweep(folder) == 2
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000001.ckpt", "step-00000001.ckpt.sha256"]


# -- full disks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", ["checkpoint", "sidecar"])
def test_full_disk_is_said_and_the_last_checkpoint_stays(
    victim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = _checkpoint(tmp_path, 1, 1.0)

    def full(*args: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if victim == "checkpoint":
        monkeypatch.setattr(checkpoint_io._HashingWriter, "write", full)
    else:
        monkeypatch.setattr(checkpoint_io, "write_atomic", full)
    with pytest.raises(CheckpointError, match=r"step-00000002.ckpt could not be written: the disk is full.*--resume"):
        _checkpoint(tmp_path, 2)
    assert last_checkpoint(tmp_path) == good and len(list(good.parent.iterdir())) == 2


def test_run_on_a_full_disk_ends_with_its_last_checkpoint(tmp_path: Path) -> None:
    """A real file system of one megabyte, where this user may mount one; what fills it comes after step 3."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this user may not mount a small file system")

    class Fill(Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 3:
                with pytest.raises(OSError), (small / "filler").open("wb", buffering=0) as stream:
                    while True:
                        stream.write(bytes(1024))

    try:
        run = tiny.vae("--training.checkpoint_every", "2", "--trainer.max_steps", "6", folder=small / "run")
        run.arguments["callbacks"] = [Fill()]
        with pytest.raises(CheckpointError, match="the disk is full"):
            run.start()
        assert last_checkpoint(small / "run").name == "step-00000002.ckpt"
        assert not list((small / "run").rglob("*.tmp"))
        (small / "filler").unlink()
        tiny.vae("--trainer.max_steps", "6", folder=small / "run", resume=True).start()
        assert last_checkpoint(small / "run").name == "step-00000006.ckpt"
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_small_files_are_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    write_atomic(path, b"first")

    def broken(*args: Any) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="broken"):
        write_atomic(path, b"second")
    assert path.read_bytes() == b"first" and [p.name for p in tmp_path.iterdir()] == ["run.json"]


# -- damage and malice -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["flip", "truncate", "no sidecar"])
def test_damaged_checkpoint_is_passed_over(damage: str, tmp_path: Path) -> None:
    good, bad = _checkpoint(tmp_path, 1, 1.0), _checkpoint(tmp_path, 2, 2.0)
    content = bytearray(bad.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        bad.write_bytes(content)
    elif damage == "truncate":
        bad.write_bytes(content[:-100])
    else:
        sidecar(bad).unlink()
    if damage != "no sidecar":
        with pytest.raises(CheckpointError, match="damaged"):
            read_checkpoint(bad)
    with pytest.warns(UserWarning, match=f"{bad.name} of .* is damaged.*{good.name} is taken instead"):
        assert last_checkpoint(tmp_path) == good
    assert read_checkpoint(good)["x"][0] == 1
    good.unlink()
    with pytest.raises(RunError, match="no intact checkpoint"):
        last_checkpoint(tmp_path)


def test_run_goes_on_before_a_damaged_checkpoint(tmp_path: Path) -> None:
    options = ("--training.checkpoint_every", "2", "--trainer.max_steps", "4")
    whole = load_run(tiny.vae(*options, folder=tmp_path / "whole").start()).state_dict()
    folder = tiny.vae(*options, folder=tmp_path / "cut").start()
    bad = last_checkpoint(folder)
    bad.write_bytes(bad.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="is taken instead"), pytest.warns(UserWarning, match="was put aside as"):
        tiny.vae(*options, folder=folder, resume=True).start()
    assert last_checkpoint(folder) == bad and read_checkpoint(bad)["zoo"]["step"] == 4
    again = load_run(folder).state_dict()
    assert all(torch.equal(again[k], v) for k, v in whole.items())
    assert (bad.parent / (bad.name + ".damaged")).is_file()


@pytest.mark.parametrize("url", ["https://example.org/a.ckpt", "s3://bucket/a.ckpt", "file:///a.ckpt"])
def test_urls_are_refused(url: str) -> None:
    with pytest.raises(CheckpointError, match="is a URL"):
        AtomicCheckpointIO().load_checkpoint(url)


class _Payload:
    """What a malicious checkpoint holds: a call that unpickling would make."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("weights_only", [None, False, True])
def test_payloads_are_refused(weights_only: bool | None, tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "step-00000001.ckpt"
    AtomicCheckpointIO().save_checkpoint({"zoo": _Payload(tmp_path / "harm")}, path)
    with pytest.raises(CheckpointError, match="cannot be read as plain tensors"):
        AtomicCheckpointIO().load_checkpoint(path, weights_only=weights_only)
    assert not (tmp_path / "harm").exists()


# -- stopping and going on, as the user sees it ------------------------------------------------------------------------


@pytest.fixture
def tiny_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry file whose entry ``tiny-points`` trains in no time."""
    import yaml

    path = tmp_path / "registry.yaml"
    paper = {"title": "t", "authors": "a", "year": 2020, "url": "https://example.org"}
    entry = {**{k: v for k, v in tiny.VAE.items() if k != "name"}, "family": "vae", "summary": "s", "paper": paper}
    path.write_text(yaml.safe_dump({"format": 1, "models": {"tiny-eight_gaussians": entry}}))
    monkeypatch.setenv("ZOO_REGISTRY", str(path))
    return path


def _fit(*args: str) -> int:
    return main(["fit", "--model", "tiny-eight_gaussians", *tiny.QUIET, *args])


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_signals_save_first_and_say_where(
    name: str, code: int, tiny_registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    class Send(Callback):
        def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 3:
                os.kill(os.getpid(), getattr(signal, name))

    build = Run.trainer
    monkeypatch.setattr(Run, "trainer", lambda self, callbacks, loggers: build(self, [*callbacks, Send()], loggers))
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    folder = tmp_path / "run"
    assert _fit("--run", str(folder)) == code
    said = capsys.readouterr().out
    assert f"{name} after step 4" in said and f"the checkpoint is in {folder}/checkpoints" in said
    assert f"zoo fit --resume {folder}" in said
    assert last_checkpoint(folder).name == "step-00000004.ckpt"
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == before
    monkeypatch.setattr(Run, "trainer", build)
    assert main(["fit", "--resume", str(folder)]) == 0
    assert last_checkpoint(folder).name == "step-00000010.ckpt"


def test_folders_that_do_not_fit_are_refused(tiny_registry: Path, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "run"
    assert _fit("--run", str(folder), "--trainer.max_steps", "2") == 0
    said = capsys.readouterr().out
    assert str(folder) in said and (folder / "run.json").is_file()
    for args, expected in [
        (["--run", str(folder)], "exists already"),
        (["--resume", str(tmp_path / "nothing")], "is not a run folder"),
        (["--resume", str(folder), "--run", str(folder)], "leave --run out"),
        (["--resume", str(folder)], "is finished: 2 of 2 steps"),
        (["--resume", str(folder), "--trainer.max_steps", "1"], "is finished: 2 steps, of 1 asked for"),
        (["--resume", str(folder / "checkpoints" / "step-00000002.ckpt")], f"is in the run {folder}, which goes on"),
        (["--resume", str(folder), "--config", str(folder / "config.yaml")], "leave --config out"),
        (["--resume", ""], "--resume takes the name of a folder"),
    ]:
        assert main(["fit", *(["--model", "tiny-eight_gaussians"] if "--resume" not in args else []), *args]) == 2
        error = capsys.readouterr().err
        assert expected in error and error.count("\n") == 1, error
    assert main(["fit", "--resume", str(folder), "--trainer.max_steps", "3"]) == 0
    assert last_checkpoint(folder).name == "step-00000003.ckpt"


# -- metrics.csv -------------------------------------------------------------------------------------------------------


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_resumed_log_drops_later_rows_and_goes_on(tmp_path: Path) -> None:
    log = CSVLog(tmp_path)
    for step in (2, 4, 6):
        log.log_metrics({"train/loss": step / 3, "epoch": 0}, step)
    log.save()
    again = CSVLog(tmp_path, resume_step=4)
    again.log_metrics({"train/loss": -1.0, "validation/loss": 0.5}, 5)
    again.save()
    assert _rows(tmp_path / "metrics.csv") == [
        {"step": "2", "train/loss": "0.6666667", "validation/loss": ""},
        {"step": "4", "train/loss": "1.333333", "validation/loss": ""},
        {"step": "5", "train/loss": "-1", "validation/loss": "0.5"},
    ]


def test_interrupted_run_has_the_rows_of_an_uninterrupted_one(tmp_path: Path) -> None:
    """What stands at a checkpoint is on the disk with it, so that a kill right after loses no row."""
    options = ("--training.checkpoint_every", "4", "--training.log_every", "2", "--trainer.max_steps", "8")
    whole = tiny.vae(*options, folder=tmp_path / "whole").start()

    class Kill(Callback):
        def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 4:
                shutil.copytree(tmp_path / "live", tmp_path / "cut")  # what a SIGKILL would leave

    live = tiny.vae(*options, folder=tmp_path / "live")
    live.arguments["callbacks"] = [Kill()]
    live.start()
    tiny.vae(*options, folder=tmp_path / "cut", resume=True).start()
    drop = ("examples_per_second",)
    a, b = (
        [{k: v for k, v in r.items() if k not in drop} for r in _rows(f / "metrics.csv")]
        for f in (whole, tmp_path / "cut")
    )
    assert a == b and [r["step"] for r in a] == ["2", "4", "6", "8"]
