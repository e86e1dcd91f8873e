"""Files are written whole or not at all, by every command, on full disks and at impossible places too."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zoo._cli import main
from zoo.files import write_whole

LONG = "x" * 300


def test_a_file_is_written_whole_and_in_place_of_another(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    assert write_whole(path, "one") == path and path.read_text() == "one"
    assert write_whole(path, b"two").read_bytes() == b"two" and os.listdir(path.parent) == ["b.txt"]


def _full(folder: str) -> tuple[str, list[str], str]:
    """Write more than the system lets this process write; return the error, what is in the folder, and the old file."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        write_whole(Path(folder) / "a.bin", b"x" * 5000)
    except OSError as error:
        return str(error.filename), sorted(os.listdir(folder)), (Path(folder) / "a.bin").read_text()
    return "written", [], ""


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, run_forked: Callable[..., Any]) -> None:
    (tmp_path / "a.bin").write_text("old")
    assert run_forked(_full, str(tmp_path)) == (str(tmp_path / "a.bin"), ["a.bin"], "old")


@pytest.mark.parametrize("place", ["file/x.npz", f"{LONG}.npz", f"{LONG}/x.npz", "folder.npz"])
@pytest.mark.parametrize("command", ["sample", "diagnose", "export"])
def test_impossible_places_end_in_one_sentence(
    command: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("kept")
    Path("folder.npz").mkdir()
    folder = str(Path(place).parent / "d") if "/" in place else LONG
    more = {
        "sample": ["-n", "1", "--seed", "0", "--out", place, "--force"],
        "diagnose": ["--only", "posterior", "--examples", "20", "--out", folder],
        "export": ["--format", "safetensors", "--out", folder]
    }[command]  # fmt: skip
    assert main([command, "vae-mnist", *more]) == 2
    said = capsys.readouterr().err
    assert said.count("zoo: error:") == 1 and "Traceback" not in said
    assert sorted(os.listdir()) == ["file", "folder.npz"] and Path("file").read_text() == "kept"


def _sample_on_a_full_disk(folder: str) -> tuple[int, list[str]]:
    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    code = main(["sample", "vae-mnist", "-n", "64", "--seed", "0", "--out", "x.png"])
    return code, os.listdir()


def test_samples_on_a_full_disk_end_in_one_sentence(tmp_path: Path, run_forked: Callable[..., Any]) -> None:
    assert run_forked(_sample_on_a_full_disk, str(tmp_path)) == (2, [])
