"""The loggers of other packages, where they are installed: W&B offline, MLflow in files, TensorBoard.

Each gets the terms, the configuration, the sample grids, the cost, and what an evaluation measures.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from zoo._cli import main
from zoo.training.loggers import logged_before

PICTURES = (torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
OPTIONS: dict[str, Any] = {
    "enable_progress_bar": False, "limit_val_batches": 1, "batch_size": 8, "limit_train_batches": 3,
    "training": {"log_every": 1, "sample_every": 2, "threads": 1},
}  # fmt: skip

QUIET = ("--trainer.enable_progress_bar", "false")

pytestmark = pytest.mark.filterwarnings("ignore")  # of other packages


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fitted(kind: str, run: str = "run", **more: Any) -> zoo.Training:
    return zoo.fit("vae", PICTURES, max_steps=3, run=run, logger=kind, **{**OPTIONS, **more})


def evaluated(done: zoo.Training) -> None:
    done.evaluate(limit=4, samples=4, extractor="none", progress=False)


def gone_on(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go on by the command, in the same experiment."""
    words = ["fit", "--resume", "./run", "--trainer.max_steps", "5", "--model.lr", "0.002", "--logger", kind]
    assert main(words) == 0


def test_wandb(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: Any) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    done = fitted("wandb")
    assert wandb.run is None  # a further run in this process is another one
    evaluated(done)
    other = fitted("wandb", run="other")
    first, second = (logged_before(t.folder)["wandb"] for t in (done, other))
    assert first and second and first != second
    gone_on("wandb", monkeypatch)
    assert logged_before(Path("run"))["wandb"] == first
    rows, files = _wandb_rows(Path("run")), [p.name for p in Path("run").rglob("samples_*.png")]
    assert [r["trainer/global_step"] for r in rows if "train/loss" in r] == [1, 2, 3, 4, 5]
    assert {r["trainer/global_step"] for r in rows if "samples/filenames" in r} >= {2, 3, 5} and len(files) >= 3
    assert any("cost/training_tflop" in r for r in rows) and any("evaluation/bits_per_dim" in r for r in rows)
    assert any("validation/loss" in r for r in rows)
    assert len([r for r in _wandb_rows(Path("other")) if "train/loss" in r]) == 3
    assert not [r for r in caplog.records if "took no" in r.message or "could not be drawn" in r.message]


def _wandb_rows(run: Path) -> list[dict[str, Any]]:
    """Return the rows of the files that an offline run leaves."""
    from wandb.proto import wandb_internal_pb2

    rows = []
    for file in sorted(run.rglob("*.wandb"), key=lambda p: p.stat().st_mtime):
        for data in _wandb_records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
    return rows


def _wandb_records(content: bytes) -> Iterator[bytes]:
    """Yield the records of such a file: a head of 7 bytes, then a log as LevelDB writes it, in blocks of 32 KiB."""
    at, whole = 7, b""
    while at + 7 <= len(content):
        if (left := 2**15 - at % 2**15) < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])  # after its checksum
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # all of it, or the last part
            yield whole
            whole = b""


def test_mlflow(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("alembic")
    done = fitted("mlflow")
    evaluated(done)
    gone_on("mlflow", monkeypatch)
    (noted,) = (n for n in zoo.Training("run").facts["loggers"] if n["logger"] == "mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{Path('run/mlflow.db').absolute()}")
    found = client.get_run(noted["experiment"])
    assert [m.step for m in client.get_metric_history(noted["experiment"], "train/loss")] == [1, 2, 3, 4, 5]
    assert {"cost/training_tflop", "evaluation/bits_per_dim", "validation/loss"} <= set(found.data.metrics)
    assert found.data.params["trainer/max_steps"] == "3" and found.data.tags["trainer/max_steps"] == "5"
    assert found.info.status == "FINISHED"
    pictures = [a.path for a in client.list_artifacts(noted["experiment"], "samples")]
    assert pictures == [f"samples/step-{step:08d}.png" for step in (2, 3, 4, 5)]
    assert not [r for r in caplog.records if "took no" in r.message or "could not be drawn" in r.message]


def test_tensorboard(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = zoo.fit("vae", PICTURES, max_steps=3, run="run", **OPTIONS)  # where it is installed, it is one of them
    evaluated(done)
    assert main(["fit", "--resume", "./run", "--trainer.max_steps", "5", "--model.lr", "0.002"]) == 0
    seen = EventAccumulator("run/tensorboard", size_guidance={"images": 0, "scalars": 0})
    seen.Reload()
    assert [e.step for e in seen.Scalars("train/loss")] == [1, 2, 3, 4, 5]
    assert {e.step for e in seen.Images("samples")} >= {2, 3, 5}
    assert {"cost/training_tflop", "evaluation/bits_per_dim", "validation/loss"} <= set(seen.Tags()["scalars"])
    assert not [r for r in caplog.records if "took no" in r.message or "could not be drawn" in r.message]
    assert main(["fit", "vae", "--run", "without", "--trainer.logger", "false", "--trainer.max_steps", "1",
                 "--data.limit", "64", "--data.batch_size", "8", *QUIET]) == 0  # fmt: skip
    assert not Path("without/tensorboard").exists()
