"""Links, pipes and devices in folders, homes that are not there, clocks that go back: nothing hangs, nothing leaks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_cases import contents, tiny_folder
from PIL import Image

from zoo import errors
from zoo.hub import card, load_pretrained
from zoo.hub.layout import FILES
from zoo.images import read_png
from zoo.names import parse_name

pytest_plugins = ["hub_fixtures"]
SECRET = "a-secret-of-this-machine"
SPECIAL = ["fifo", "/dev/zero", "/dev/null", "loop", "dangling", "outside", "folder"]


def put(path: Path, kind: str) -> None:
    """Put something at a path that is no file of its own."""
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "outside":
        outside = path.parent.parent / f"outside-{path.name}"
        outside.write_text(SECRET)
        path.symlink_to(outside)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(kind)


def within(seconds: float, ask: Callable[[], Any]) -> Any:
    """Return what a call returns or raises; fail where it takes longer."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(ask())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, f"nothing within {seconds} s"
    return found[0]


@pytest.mark.parametrize("kind", SPECIAL)
def test_special_files_of_a_model_folder(kind: str, hub_environment: None, tmp_path: Path) -> None:
    told = 0
    for name in FILES:
        folder = tiny_folder(tmp_path / f"of-{name}")
        put(folder / name, kind)
        found = within(60, lambda f=folder: load_pretrained(f))
        shown = within(60, lambda f=folder: card(f))
        for answer in (found, shown):
            assert SECRET not in str(answer)
            if isinstance(answer, BaseException):
                assert isinstance(answer, errors.ZooError) and len(str(answer)) < 1000, repr(answer)
                told += 1
    assert told >= 2  # configuration and weights at least


def test_files_of_the_hubs_cache_may_be_links(hub_environment: None, saved: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--me--x" / "snapshots" / ("a" * 40), tmp_path / "models--me--x" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for i, (name, data) in enumerate(contents(saved).items()):
        (blobs / str(i)).write_bytes(data)
        (snapshot / name).symlink_to(f"../../blobs/{i}")
    assert load_pretrained(snapshot).shape == load_pretrained(saved).shape
    (tmp_path / "linked").symlink_to(saved)  # a folder may be a link itself
    assert load_pretrained(tmp_path / "linked").shape == load_pretrained(saved).shape


def test_special_files_among_pictures(tmp_path: Path) -> None:
    from zoo.data.folder import ImageFolder

    for kind in ("fifo", "linked fifo", "/dev/zero", "loop", "dangling"):
        pictures = tmp_path / kind.replace("/", "-") / "pictures"
        pictures.mkdir(parents=True)
        for i in range(12):
            Image.fromarray(np.full((8, 8), i, np.uint8)).save(pictures / f"{i}.png")
        if kind == "linked fifo":
            os.mkfifo(pictures.parent / "pipe")
            (pictures / "x.png").symlink_to(pictures.parent / "pipe")
        else:
            put(pictures / "x.png", kind)

        def read(folder: Path = pictures) -> int:
            data = ImageFolder(str(folder), 8, channels=1, batch_size=2)
            return sum(len(data.split(s)[0]) for s in ("train", "validation", "test"))

        found = within(60, read)
        if kind == "fifo":  # no file, so none of the pictures
            assert found == 12
        else:
            assert isinstance(found, errors.DataError) and "x.png" in str(found), (kind, found)


@pytest.mark.parametrize("kind", SPECIAL)
def test_special_files_in_the_place_of_others(kind: str, tmp_path: Path) -> None:
    from zoo._cli.fit import _read_config
    from zoo.data.hugging_face import cell_bytes
    from zoo.data.model_input import ModelInput
    from zoo.data.text import TextFile
    from zoo.results import read
    from zoo.runs import run_metadata

    (tmp_path / "run").mkdir()
    for name, ask in {
        "eval.json": lambda: read(tmp_path / "run"),
        "run.json": lambda: run_metadata(tmp_path / "run"),
        "x.png": lambda: read_png(tmp_path / "run" / "x.png", (1, 8, 8)),
        "y.png": lambda: ModelInput("x", (1, 8, 8))(tmp_path / "run" / "y.png"),
        "cell": lambda: cell_bytes({"path": str(tmp_path / "run" / "cell")}),
        "x.txt": lambda: TextFile(str(tmp_path / "run" / "x.txt"), 8).text(),
        "x.yaml": lambda: _read_config(str(tmp_path / "run" / "x.yaml")),
    }.items():
        if (name, kind) == ("x.yaml", "fifo"):  # as a shell gives for <(command), and waited for
            continue
        put(tmp_path / "run" / name, kind)
        found = within(60, ask)
        if kind == "outside" and name in ("cell", "x.txt"):  # files of the user's own, who may link them
            assert SECRET in str(found)
        else:
            refused = (errors.ZooError, OSError) if name == "cell" else errors.ZooError
            assert isinstance(found, refused) and SECRET not in str(found), (name, found)


HOMES = """
import os, sys
os.environ.pop("XDG_CACHE_HOME", None); os.environ.pop("XDG_CONFIG_HOME", None)
from zoo._cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("home", [None, "", "/nowhere/at/all", "/dev/null", "/proc"])
def test_a_home_that_is_missing_or_cannot_be_written(home: str | None, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "HF_HOME", "ZOO_DATA")}
    environment |= {} if home is None else {"HOME": home}
    for argv in (["list", "*mnist*"], ["cache"], ["show", "vae-mnist"]):
        done = subprocess.run(
            [sys.executable, "-c", HOMES, *argv], env=environment, cwd=tmp_path, capture_output=True, text=True,
            timeout=240,
        )  # fmt: skip
        assert done.returncode == 0 and "Traceback" not in done.stderr, (argv, done.stderr)
    assert os.listdir(tmp_path) == []


def _sampled_without_a_home(folder: str) -> int:
    from zoo._cli import main

    os.chdir(folder)
    for name in ("HF_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        os.environ.pop(name, None)
    os.environ["HOME"] = "/proc/no-home"
    return main(["sample", "vae-mnist", "-n", "4", "--seed", "0", "--out", "x.png"])


def test_bundled_models_need_no_home(tmp_path: Path, run_forked: Callable[..., Any]) -> None:
    assert run_forked(_sampled_without_a_home, str(tmp_path)) == 0 and os.listdir(tmp_path) == ["x.png"]


def _evaluated(folder: str, at: float) -> dict[str, Any]:
    import zoo

    time.sleep(max(0.0, at - time.time()))
    result = zoo.evaluate("vae-mnist", samples=200, limit=40, k=1, extractor="none", seed=0, out=folder)
    return {name: metric.value for name, metric in result.metrics.items()}


def test_two_evaluations_into_one_folder_at_a_time(tmp_path: Path, run_forked: Callable[..., Any]) -> None:
    from conftest import collect

    at = time.time() + 1.0
    started = [run_forked(_evaluated, str(tmp_path / "one"), at, start=True) for _ in range(2)]
    first, second = (collect(process, queue, 300) for process, queue in started)
    stored = json.loads((tmp_path / "one" / "eval.json").read_text())["metrics"]
    assert first.keys() == second.keys() == stored.keys()
    assert all(first[n] == second[n] == stored[n]["value"] for n in first if "second" not in n)
    assert os.listdir(tmp_path / "one") == ["eval.json"]


def _trained_back_in_time(folder: str) -> tuple[int, float]:
    import tiny

    clock, real = [10_000.0], time.time
    time.time = lambda: clock.append(clock[-1] - 1000.0) or clock[-1]  # each look is earlier than the one before
    try:
        run = tiny.vae("--trainer.max_steps", "4", folder=folder)
        run.start()
    finally:
        time.time = real
    facts = json.loads((Path(folder) / "run.json").read_text())
    return facts["step"], facts["cost"]["seconds"]


def test_a_clock_that_goes_back_changes_nothing(tmp_path: Path, run_forked: Callable[..., Any]) -> None:
    step, seconds = run_forked(_trained_back_in_time, str(tmp_path / "run"), timeout=240)
    assert step == 4 and 0 <= seconds < 200
    assert parse_name(str(tmp_path / "run")).is_run


def test_runs_of_one_second_get_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.training.devices import new_folder

    monkeypatch.chdir(tmp_path)
    made = set()
    for _ in range(4):
        monkeypatch.delenv("ZOO_RUN_FOLDER", raising=False)
        folder = new_folder("x")
        folder.mkdir(parents=True)
        made.add(folder)
    assert len(made) == 4
