"""The Hub's cache on this machine: read-only ones, killed downloads, and `zoo cache`."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hub_cases import REPO, contents, equal, tiny, tiny_folder
from hub_server import HubServer

from zoo import errors
from zoo._cli.main import main
from zoo.hub import load
from zoo.hub.cache import begun, is_held
from zoo.hub.keeping import cached_models, prune, remove, verify_cached
from zoo.hub.layout import sha256

pytest_plugins = ["hub_fixtures"]


def blobs(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "models--me--tiny" / "blobs"


def test_complete_cache_that_cannot_be_written_is_used_online(
    hub: HubServer, stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(REPO).source.kind == "hub"
    hub.repos[REPO].tags["v1"] = stored
    asked = hub.count("/lfs/")

    def refuse(*unused: Any, **options: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("mkdir", "replace", "symlink", "unlink"):
        monkeypatch.setattr(os, name, refuse)
    for revision in ("main", "v1"):  # of the tag nothing is known yet, and nothing can be noted
        model = load(f"{REPO}@{revision}")
        assert model.source.kind == "cache" and model.source.commit == stored and equal(model, tiny())
    assert hub.count("/lfs/") == asked


def test_download_of_a_killed_process_is_gone_on_with(hub: HubServer, saved: Path, tmp_path: Path) -> None:
    files = contents(saved)
    hub.add(REPO, files)
    data = files["model.safetensors"]
    digest = sha256(data)
    blobs(tmp_path).mkdir(parents=True)
    half, less, held = (blobs(tmp_path) / f"{digest}.zoo-{i}.incomplete" for i in range(3))
    half.write_bytes(data[: len(data) // 2])
    less.write_bytes(data[:10])
    held.write_bytes(data[: len(data) - 1])
    foreign = blobs(tmp_path) / f"{digest}.0123abcd.incomplete"
    foreign.write_bytes(data[:-1])
    with begun(blobs(tmp_path) / "other") as (part, _):  # the longest is another process's
        part.rename(held)
        held_stream = held.open("r+b")
        held_stream.write(data[:-1])
        held_stream.close()
        hub.ranges.clear()
        assert equal(load(REPO), tiny())
        assert f"bytes={len(data) // 2}-" in hub.ranges
        assert held.exists() and foreign.exists() and not half.exists() and not less.exists()
    held.unlink()
    assert {p.name for p in blobs(tmp_path).glob("*incomplete")} == {foreign.name}


@pytest.mark.parametrize("left", ["wrong", "whole", "too much", "nothing"])
def test_what_a_killed_process_left_is_held_to_its_hash(hub: HubServer, saved: Path, tmp_path: Path, left: str) -> None:
    files = contents(saved)
    hub.add(REPO, files)
    data = files["model.safetensors"]
    blobs(tmp_path).mkdir(parents=True)
    part = blobs(tmp_path) / f"{sha256(data)}.zoo-1.incomplete"
    part.write_bytes({"wrong": b"x" * 100, "whole": data, "too much": data + b"x", "nothing": b""}[left])
    asked = hub.count("/lfs/")
    assert equal(load(REPO), tiny()) and not part.exists()
    assert (hub.count("/lfs/") == asked) == (left == "whole")


def test_models_in_the_cache_are_listed_checked_and_removed(
    hub: HubServer, stored: str, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache"]) == 0 and "0 models" in capsys.readouterr().out and prune().size == 0
    load(REPO)
    hub.add("me/other", contents(tiny_folder(tmp_path / "other", seed=1)))
    load("me/other")
    second = hub.add(REPO, contents(tiny_folder(tmp_path / "second", seed=2)))
    load(REPO)
    alien = tmp_path / "cache" / "models--you--bert" / "snapshots" / ("a" * 40)
    alien.mkdir(parents=True)
    (alien / "config.json").write_text('{"model_type": "bert"}')
    kept = cached_models()
    assert [(k.repo, k.refs) for k in kept if k.commit != stored] == [("me/other", ("main",)), (REPO, ("main",))]
    assert {k.commit for k in kept if k.repo == REPO} == {stored, second}
    assert all(k.size == sum(p.stat().st_size for p in k.folder.iterdir()) for k in kept)
    assert main(["cache", "list"]) == 0
    told = capsys.readouterr().out
    assert f"{REPO}@{stored[:12]}  (detached)" in told and "3 models" in told and "bert" not in told
    assert main(["cache", "verify"]) == 0 and "all good" in capsys.readouterr().out

    weights = next(k.folder for k in kept if k.commit == second) / "model.safetensors"
    path = weights.resolve()
    good = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert [k.commit for k, error in verify_cached() if error] == [second]
    assert main(["cache", "verify"]) == 2 and f"damaged  {REPO}@{second[:12]}" in capsys.readouterr().out

    old, new = blobs(tmp_path) / "x.0123abcd.incomplete", blobs(tmp_path) / "y.0123abcd.incomplete"
    killed = blobs(tmp_path) / "z.zoo-1.incomplete"
    for part in (old, new, killed):
        part.write_bytes(b"1234")
    os.utime(old, (time.time() - 10**6,) * 2)
    assert main(["cache", "prune"]) == 0 and "removed 1 commits and 2 unfinished" in capsys.readouterr().out
    assert {k.commit for k in cached_models() if k.repo == REPO} == {second} and new.exists()

    assert main(["cache", "rm", f"{REPO}@main"]) == 0 and "1 commit" in capsys.readouterr().out
    assert [k.repo for k in cached_models()] == ["me/other"] and alien.is_dir()
    for wrong in ("me/othr", "me/other@v7", "you/bert", "../x"):
        with pytest.raises(errors.UnknownModelError, match="holds no"):
            remove(wrong)
    assert main(["cache", "rm", "me/othr"]) == 2 and "Did you mean 'me/other'" in capsys.readouterr().err
    assert main(["cache", "rm"]) == 2 and main(["cache", "list", "x"]) == 2 and main(["cache", "burn"]) == 2
    assert equal(load(REPO), tiny(2))  # what was removed is downloaded again


def test_downloads_at_once_never_take_a_file_from_each_other(tmp_path: Path) -> None:
    """Each goes on with what nobody holds, or begins its own; one that is in use is neither taken nor removed."""
    failed: list[str] = []

    def download(blob: Path) -> None:
        try:
            if not blob.is_file():
                with begun(blob) as (part, stream):
                    stream.seek(0)
                    stream.write(b"x" * 1000)
                    stream.flush()
                    os.replace(part, blob)
        except OSError as error:
            failed.append(repr(error))

    for k in range(100):
        blob = tmp_path / str(k) / "blob"
        blob.parent.mkdir()
        threads = [threading.Thread(target=download, args=(blob,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert blob.read_bytes() == b"x" * 1000 and [p.name for p in blob.parent.iterdir()] == ["blob"]
    assert not failed


def test_an_unfinished_download_is_removed_before_it_is_let_go_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else another takes it in between, and loses it while it writes."""
    held: list[bool] = []
    unlink = Path.unlink

    def watched(path: Path, missing_ok: bool = False) -> None:
        if path.is_file():
            held.append(is_held(path))
        unlink(path, missing_ok=missing_ok)

    (tmp_path / "blob.zoo-short.incomplete").write_bytes(b"x")
    (tmp_path / "blob.zoo-long.incomplete").write_bytes(b"xx")
    monkeypatch.setattr(Path, "unlink", watched)
    with pytest.raises(OSError, match="gone"), begun(tmp_path / "blob") as (part, _):
        assert part.name == "blob.zoo-long.incomplete" and held == [True]
        raise OSError("gone")
    assert held == [True, True] and not list(tmp_path.iterdir())
