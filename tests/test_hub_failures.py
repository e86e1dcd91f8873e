"""Each way in which a Hub, a network or a repository can fail: the error, what it says, its end, success afterwards.

The numbers are those of the twenty kinds of failure that are told apart; what has no number comes on top.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import resource
import shutil
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_cases import NAME, REPO, contents, equal, message, pins, registry, resummed, tiny, tiny_folder
from hub_server import HubServer
from huggingface_hub import constants
from safetensors.torch import save

import zoo
from zoo import errors
from zoo.hub import card, load, pull, push, save_pretrained, verify, waits
from zoo.hub.layout import sha256

pytest_plugins = ["hub_fixtures"]
# The client hands files to its HTTP library in a form that the latter deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

INFO = "GET /api/models"
WEIGHTS = f"GET /{REPO}/resolve/.*model.safetensors"
CONTENT = "GET /lfs/"
COMMIT = "POST /api/models/.*/commit/"


def leftovers(cache: Path) -> list[str]:
    """Return the names of files in the cache that are no whole, checked file."""
    return [p.name for p in cache.rglob("*") if "incomplete" in p.name or (p.name.startswith(".") and p.is_file())]


def weights_in(cache: Path) -> list[Path]:
    return list(cache.rglob("model.safetensors"))


# -- names ------------------------------------------------------------------------------------------------------------


def test_01_unknown_name(hub: HubServer, stored: str, saved: Path, tmp_path: Path) -> None:
    text = message(errors.UnknownModelError, lambda: load("vae-mnits"))
    assert "'vae-mnits'" in text and "'vae-mnist'" in text and "zoo.list()" in text
    assert len(set(re.findall(r"'([a-z_]+-[a-z_]+)'", text))) == 4  # the name, and three near ones
    text = message(errors.UnknownModelError, lambda: load(NAME))  # known, but without weights
    assert f"zoo fit --model {NAME}" in text and hub.count() == 0
    registry(tmp_path / "registry.yaml", **pins(saved), repo=REPO, revision=stored)
    assert equal(load(NAME), tiny())


def test_02_folder_that_is_missing_or_holds_no_model(hub: HubServer, saved: Path, tmp_path: Path) -> None:
    text = message(errors.ModelFolderError, lambda: load(tmp_path / "nowhere"))
    assert str(tmp_path / "nowhere") in text and "config.json and model.safetensors" in text
    shutil.copytree(saved, tmp_path / "part")
    (tmp_path / "part" / "config.json").unlink()
    for action in (load, verify, lambda folder: push(folder, REPO, token="x_y")):
        text = message(errors.ModelFolderError, lambda action=action: action(tmp_path / "part"))
        assert str(tmp_path / "part") in text and "expected config.json and model.safetensors" in text
        assert "found README.md" in text
    shutil.copy(saved / "config.json", tmp_path / "part")
    assert equal(load(tmp_path / "part"), tiny()) and hub.count() == 0


BAD_NAMES = [
    "a//b", "a/b/c", "a/--b", "a/b--c", "a/..", "a/b.git", "a/" + "x" * 97, "x" * 60 + "/" + "y" * 37, "hf://name",
    "a b/c", "hf://../a", "a/b@", "a/b@../../x", "a/b@-x", "a/b@x..y", "a\x00/b", "\uff41/b", "a/b@main\n",
    "Name With Blanks", "a\\b", "",
]  # fmt: skip


def test_03_malformed_names_are_refused_without_a_request(hub: HubServer) -> None:
    rules = ["write namespace/name, at most 96 characters", "give a branch, a tag or a commit of 40 hex digits"]
    rules += ["use a registered name (lower case", "a model's name must be text or a Path"]
    for name in BAD_NAMES:
        text = message(errors.InvalidNameError, lambda name=name: load(name))
        assert any(rule in text for rule in rules) and hub.count() == 0, name


# -- who may ----------------------------------------------------------------------------------------------------------


def test_04_missing_and_private_repositories(hub: HubServer, saved: Path) -> None:
    text = message(errors.RepoNotAccessibleError, lambda: load("me/nothing"))
    assert "missing or private" in text and "hf auth login" in text and hub.url in text and "me/nothing" in text
    mine, other = hub.user("me"), hub.user("you")
    assert "not visible" in message(errors.RepoNotAccessibleError, lambda: load("me/nothing", token=mine))
    hub.add("me/secret", contents(saved), private=True)
    for who in (None, other):
        message(errors.RepoNotAccessibleError, lambda who=who: load("me/secret", token=who))
    assert load("me/secret", token=mine).source.repo == "me/secret"


def test_05_wrong_token(hub: HubServer, stored: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = message(errors.AuthError, lambda: load(REPO, token="hf_wrong"))
    assert "rejected" in text and "argument" in text and REPO in text
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "from HF_TOKEN" in message(errors.AuthError, lambda: load(REPO))
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "token").write_text("hf_wrong")
    assert "from the login file" in message(errors.AuthError, lambda: load(REPO))
    assert "token from the argument" in message(errors.AuthError, lambda: load(REPO, token="hf_wrong\nX: y"))
    (tmp_path / "token").unlink()
    assert equal(load(REPO), tiny())


def test_06_gated_repository(hub: HubServer, saved: Path) -> None:
    hub.add(REPO, contents(saved), gated=True)
    for who in (None, hub.user("you")):
        text = message(errors.AccessNotGrantedError, lambda who=who: load(REPO, token=who))
        assert f"ask for access at {hub.url}/{REPO}" in text
    hub.repos[REPO].granted.add("you")
    assert equal(load(REPO, token=hub.user("you")), tiny())


def test_07_missing_revision_names_the_tags(hub: HubServer, stored: str) -> None:
    hub.repos[REPO].tags.update({"v1": stored, "v1.1": stored, "\x1b[2J\u202e": stored})
    text = message(errors.RevisionNotFoundError, lambda: load(f"{REPO}@v2"))
    assert "'v2'" in text and "v1, v1.1" in text and "main" in text and text.isprintable()
    message(errors.RevisionNotFoundError, lambda: load(f"{REPO}@{'a' * 40}"))
    hub.repos[REPO].tags["v2"] = stored
    assert equal(load(f"{REPO}@v2"), tiny())


# -- what is there ----------------------------------------------------------------------------------------------------


def test_08_and_09_repositories_that_hold_something_else(hub: HubServer, saved: Path, tmp_path: Path) -> None:
    files = contents(saved)
    hub.add("me/pickled", {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04", "a/b.ckpt": b"\x80"})
    text = message(errors.UnsafeWeightsError, lambda: load("me/pickled"))
    assert "pytorch_model.bin" in text and "safetensors only" in text and "nothing was downloaded" in text
    assert hub.count("resolve") == 0
    hub.add("me/empty", {"README.md": b"hello"})
    text = message(errors.NotAZooModelError, lambda: load("me/empty"))
    assert "config.json" in text and "model.safetensors" in text
    hub.add("me/other", {"config.json": b'{"architectures": []}', "model.safetensors": files["model.safetensors"]})
    assert "zoo_format" in message(errors.NotAZooModelError, lambda: load("me/other"))
    newer = files["config.json"].replace(b'"zoo_format": 1', b'"zoo_format": 7')
    hub.add("me/newer", {**files, "config.json": newer})
    text = message(errors.NotAZooModelError, lambda: load("me/newer"))
    assert "format 7" in text and "upgrade" in text
    hub.add("me/large", {**files, "config.json": b" " * (2 << 20)})
    assert str(2 << 20) in message(errors.NotAZooModelError, lambda: load("me/large"))
    assert hub.count("resolve/.*safetensors") == 0 and not weights_in(tmp_path / "cache")
    for repo in ("pickled", "empty", "other", "newer", "large"):
        hub.add(f"me/{repo}", files)
        assert equal(load(f"me/{repo}"), tiny())


def test_10_repository_whose_own_records_disagree(hub: HubServer, saved: Path, tmp_path: Path) -> None:
    files = contents(saved)
    swapped = contents(tiny_folder(tmp_path / "m", seed=1))["model.safetensors"]
    hub.add(REPO, {**files, "model.safetensors": swapped})
    text = message(errors.CorruptWeightsError, lambda: load(REPO))
    assert sha256(swapped) in text and sha256(files["model.safetensors"]) in text and "model.safetensors" in text
    assert hub.count(WEIGHTS) == 2 and not list((tmp_path / "cache").rglob(sha256(swapped)))
    hub.add(REPO, files)
    assert equal(load(REPO), tiny())


# -- the way there ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [CONTENT, "config.json"])
def test_10_wrong_bytes_of_the_right_length(hub: HubServer, stored: str, tmp_path: Path, where: str) -> None:
    hub.fault("corrupt", where)
    assert equal(load(REPO), tiny()) and hub.count(where) == 2  # one more download mends it
    hub.fault("corrupt", where, times=None)
    text = message(errors.CorruptWeightsError, lambda: pull(REPO, cache_dir=tmp_path / "fresh"))
    assert "twice" in text and hub.count(where) == 4
    if where == CONTENT:
        right = hub.repos[REPO].commits[stored]["model.safetensors"]
        wrong = right.data[:-1] + bytes([right.data[-1] ^ 0xFF])
        assert right.sha256 in text and sha256(wrong) in text and "model.safetensors" in text
    assert not leftovers(tmp_path / "fresh") and not weights_in(tmp_path / "fresh")
    hub.faults.clear()
    assert verify(pull(REPO, cache_dir=tmp_path / "fresh"))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "README.md", "SHA256SUMS", "samples.png"])
def test_10_tampered_cache_is_mended_online_and_refused_offline(
    hub: HubServer, stored: str, saved: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = pull(REPO, stored)
    blob = (folder / name).resolve()
    good, pinned = blob.read_bytes(), f"{REPO}@{stored}"
    bad = good.replace(good[:1], b"0" if good[:1] != b"0" else b"1", 1) if name == "SHA256SUMS" else good[:-2] + b"?}"
    blob.write_bytes(bad)
    assert contents(pull(pinned)) == contents(saved) and equal(load(pinned), tiny())
    blob.write_bytes(bad)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    text = message(errors.CorruptWeightsError, lambda: pull(pinned))
    assert "removed from the cache" in text and not blob.exists()
    message(errors.OfflineError, lambda: load(pinned))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert contents(pull(pinned)) == contents(saved) and equal(load(pinned), tiny())


@pytest.mark.parametrize("kind, value", [("cut", 9), ("html", None), ("gzip", b"\0" * (4 << 20))])
def test_11_cut_file_login_page_or_packed_bomb(
    hub: HubServer, stored: str, saved: Path, tmp_path: Path, kind: str, value: Any
) -> None:
    hub.fault(kind, CONTENT, value, times=None)
    text = message(errors.DownloadError, lambda: load(REPO))
    size = (saved / "model.safetensors").stat().st_size
    assert str(size) in text and "login page" in text and "model.safetensors" in text
    received = {"cut": str(size - 9), "html": "26 arrived", "gzip": "arrived"}[kind]
    assert received in text and not leftovers(tmp_path / "cache")
    hub.faults.clear()
    assert equal(load(REPO), tiny())


@pytest.mark.parametrize("kind", ["drop", "reset"])
def test_12_broken_connection_goes_on_where_it_broke(hub: HubServer, stored: str, kind: str) -> None:
    hub.fault(kind, CONTENT, 20_000)
    assert equal(load(REPO), tiny()) and hub.count(CONTENT) == 2
    if kind == "drop":  # after a reset, what had arrived may be lost
        assert hub.ranges == [None, "bytes=20000-"]


@pytest.mark.parametrize("kind", ["drop", "reset"])
def test_12_connection_that_breaks_for_ever(hub: HubServer, stored: str, tmp_path: Path, kind: str) -> None:
    hub.fault(kind, CONTENT, 100, times=None)
    text = message(errors.DownloadError, lambda: load(REPO))
    assert "3 tries" in text and "model.safetensors" in text and re.search(r"but \d+ arrived", text)
    assert kind == "reset" or "but 300 arrived" in text
    assert not leftovers(tmp_path / "cache")
    hub.faults.clear()
    assert equal(load(REPO), tiny())


@pytest.mark.parametrize("where", [INFO, WEIGHTS, CONTENT])
@pytest.mark.parametrize("status", [503, 429])
def test_13_a_hub_that_is_unwell(hub: HubServer, stored: str, where: str, status: int) -> None:
    hub.fault("status", where, status, times=2)
    assert equal(load(REPO), tiny())  # the third try
    hub.fault("status", "GET", status, times=None)
    text = message(errors.HubUnavailableError, lambda: load("me/elsewhere"))
    assert str(status) in text and re.search(r"3 tries in \d+ s", text)


def test_13_unwell_or_gone_but_cached(hub: HubServer, stored: str, caplog: pytest.LogCaptureFixture) -> None:
    load(REPO)
    hub.fault("status", "GET", 500, times=None)
    assert load(REPO).source.kind == "cache"
    assert [r for r in caplog.records if r.levelname == "WARNING" and "using the cached commit" in r.message]
    hub.__exit__()
    assert load(REPO).source.kind == "cache"
    assert "cannot be reached" in message(errors.HubUnavailableError, lambda: load("me/other"))


@pytest.mark.parametrize("headers", [{"Retry-After": "3600"}, {"RateLimit": '"api";r=0;t=3600'}])
def test_13_a_pause_that_is_too_long_is_told_and_not_slept(
    hub: HubServer, token: str, saved: Path, headers: dict[str, str]
) -> None:
    for where, action in (("preupload", lambda: push(saved, REPO)), (INFO, lambda: load(REPO))):
        hub.fault("status", where, (429, headers), times=None)
        started = time.monotonic()
        text = message(errors.HubUnavailableError, action)
        assert "429" in text and "3600 s" in text and time.monotonic() - started < 5
        hub.faults.clear()
    push(saved, REPO)


@pytest.mark.parametrize("where", [INFO, WEIGHTS, CONTENT])
def test_14_a_hub_that_never_answers(hub: HubServer, stored: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.fault("hang", where, 60, times=None)
    monkeypatch.setattr(waits, "timeout", 0.3)
    started = time.monotonic()
    text = message(errors.HubUnavailableError, lambda: load(REPO))
    assert "does not answer" in text and time.monotonic() - started < 30
    monkeypatch.setattr(waits, "timeout", 10.0)
    hub.faults.clear()
    assert equal(load(REPO), tiny())


@pytest.mark.parametrize("where", [INFO, "config.json", CONTENT])
def test_14_a_hub_that_answers_by_drops(
    hub: HubServer, stored: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.fault("slow", where, (1, 0.05), times=None)
    monkeypatch.setattr(waits, "timeout", 0.3)
    started = time.monotonic()
    kind = errors.HubUnavailableError if where == INFO else errors.DownloadError
    assert "3 tries" in message(kind, lambda: load(REPO)) and time.monotonic() - started < 10
    hub.faults.clear()
    hub.fault("slow", where, (4000, 0.05), times=None)  # slow, but alive
    assert equal(load(REPO), tiny())


def test_14_one_thread_does_not_answer_for_another(
    hub: HubServer, stored: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("me/slow", contents(saved))
    model = tiny()  # before the threads: its weights are drawn from the random numbers that all threads share
    hub.fault("slow", "GET /me/slow/resolve/.*samples.png", (10, 0.5))
    for name, value in {"timeout": 0.4, "limit": 0.4, "least": 1.0}.items():
        monkeypatch.setattr(waits, name, value)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(load, "me/slow")
        while not hub.count("me/slow/resolve/.*samples.png"):
            time.sleep(0.01)
        while not other.done():
            assert equal(load(REPO), model)
            time.sleep(0.1)
        assert equal(other.result(), model)


DEFAULTS: dict[str, tuple[str, Any, str]] = {
    **{f"{kind} {i}": (kind, value, where) for i, where in enumerate(("revision/main", "config.json", CONTENT))
       for kind, value in (("hang", 60), ("slow", (1, 0.5)), ("status", 503), ("drop", 5))},
    **{f"push {kind} {where}": (kind, value, where)
       for where in ("repos/create", "preupload", "info/lfs", "PUT /lfs/", "/commit/", "paths-info")
       for kind, value in (("hang", 60), ("status", 503))},
    "list hang": ("hang", 60, "GET /api/models"),
    "list status": ("status", 503, "GET /api/models"),
}  # fmt: skip


@pytest.mark.slow
def test_every_failure_ends_within_thirty_seconds_by_default(
    hub_environment: None, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in vars(type(waits)()).items():
        monkeypatch.setattr(waits, name, value)

    def failing(case: str) -> tuple[float, str]:
        kind, value, where = DEFAULTS[case]
        cache = tmp_path / case.replace("/", "-")
        with HubServer() as server:
            who = server.user("me")
            if not case.startswith("push"):
                server.add(REPO, contents(saved))
            action: Callable[[], Any] = lambda: pull(REPO, endpoint=server.url, cache_dir=cache)  # noqa: E731
            if case.startswith("push"):
                action = lambda: push(saved, REPO, endpoint=server.url, token=who)  # noqa: E731
            elif case.startswith("list"):
                action = lambda: zoo.hub.list("me", endpoint=server.url)  # noqa: E731
            server.fault(kind, where, value, times=None)
            try:
                action()
            except (errors.HubUnavailableError, errors.DownloadError) as error:  # counted from the first request
                spent, told = time.monotonic() - server.began, f"{type(error).__name__}: {error}"
            else:
                return 1e9, "no error"
            server.faults.clear()
            action()
            return spent, told

    with ThreadPoolExecutor(len(DEFAULTS)) as pool:
        ends = dict(zip(DEFAULTS, pool.map(failing, DEFAULTS), strict=True))
    for case, (spent, told) in ends.items():
        print(f"{spent:5.1f} s  {case:30} {told[:150]}")
    assert all(spent < 30 for spent, _ in ends.values())


def test_something_that_is_no_hub(hub: HubServer, stored: str) -> None:
    hub.fault("html", INFO, times=1)
    assert "HF_ENDPOINT" in message(errors.HubUnavailableError, lambda: load(REPO))
    for answer in ({}, [], None, 7, "text", {"id": 1, "sha": "../../x", "siblings": []}, {"sha": "a" * 40}):
        hub.fault("answer", INFO, answer)
        message(errors.HubUnavailableError, lambda: load(REPO))
        assert not hub.take("GET /api/models", "answer")
    hub.fault("loop", INFO, times=None)
    message(errors.HubUnavailableError, lambda: load(REPO))
    hub.faults.clear()
    hub.fault("status", CONTENT, 410)
    assert "410" in message(errors.DownloadError, lambda: load(REPO))
    for bad in ("http://127.0.0.1:9", "nonsense", "ftp://x", "http://[::1", "http://me:hidden@127.0.0.1:9"):
        text = message(errors.HubUnavailableError, lambda bad=bad: load("me/x", endpoint=bad))
        assert "hidden" not in text
    assert equal(load(REPO), tiny())


# -- without a network, and on this machine ---------------------------------------------------------------------------


def test_15_offline_and_not_cached(
    hub: HubServer, stored: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.repos[REPO].tags["v1"] = stored
    for options in ({"local_files_only": True}, {}):
        if not options:
            monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        text = message(errors.OfflineError, lambda options=options: load(f"{REPO}@v1", **options))
        assert REPO in text and "'v1'" in text and str(tmp_path / "cache") in text and f"zoo pull {REPO}@v1" in text
    assert "push" in message(errors.OfflineError, lambda: push(tiny(), REPO, token="x_y"))
    assert hub.count() == 0
    monkeypatch.delenv("HF_HUB_OFFLINE")
    load(f"{REPO}@v1")
    asked = hub.count()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in (f"{REPO}@v1", f"{REPO}@{stored}"):
        assert equal(load(name), tiny())
    assert load(f"{REPO}@v1", local_files_only=True).source.kind == "cache" and hub.count() == asked


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_16_offline_and_cached_in_part(hub: HubServer, stored: str, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (pull(REPO) / name).unlink()
    asked = hub.count()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for action in (load, pull, card):
        text = message(errors.OfflineError, lambda action=action: action(REPO))
        assert f"in part, without {name}" in text and hub.count() == asked
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert equal(load(REPO), tiny())


def test_17_weights_that_do_not_fit(hub: HubServer, saved: Path) -> None:
    files, state = contents(saved), {k: v.contiguous() for k, v in tiny().state_dict().items()}
    first, *others = sorted(state)
    strange = {**{f"new.{i}": torch.zeros(1) for i in range(7)}, first: torch.zeros(5, 5)}
    hub.add(REPO, resummed({**files, "model.safetensors": save(strange)}))
    text = message(errors.WeightsMismatchError, lambda: load(REPO))
    assert "new.0, new.1, new.2, new.3, new.4 and 2 more" in text
    assert f"{first} is [5, 5] in the file and {list(state[first].shape)} in the model" in text
    assert f"missing: {', '.join(n for n in state if n != first)}"[:60] in text and len(others) <= 8
    hub.add(REPO, files)
    assert equal(load(REPO), tiny())


def test_18_arguments_that_a_model_does_not_have(hub: HubServer, token: str, saved: Path, tmp_path: Path) -> None:
    files = contents(saved)
    for change, parts in (
        ({"latent_dims": 3}, ("'latent_dims'", "'latent_dim'")),
        ({"latent_dim": "two"}, ("'latent_dim'", "int", "'two'")),
    ):
        config = json.loads(files["config.json"])
        config["args"].update(change)
        hub.add(REPO, resummed({**files, "config.json": json.dumps(config).encode()}))
        text = message(errors.ConfigError, lambda: load(REPO))
        assert all(part in text for part in (*parts, REPO.replace("/", "--"), f"zoo {zoo.__version__}", "format 1"))
    asked = hub.count()
    for value, kind in (
        (lambda x: x, "function"),
        (float("nan"), "'beta'"),
        ({1: 2}, "keys"),
        ({"name": 1, "args": 2}, ""),
    ):
        model = tiny()
        model.__dict__["_arguments"]["beta"] = value
        for action in (
            lambda model=model: save_pretrained(model, tmp_path / "m"),
            lambda model=model: push(model, REPO),
        ):
            text = message(errors.ConfigError, action)
            assert kind in text and (not kind or "'beta'" in text)
    assert hub.count() == asked and not (tmp_path / "m").exists()
    hub.add(REPO, files)
    assert equal(load(REPO), tiny())


@pytest.mark.parametrize("kind", ["limit", "full", "read-only", "no folder"])
def test_cache_that_cannot_be_written(
    hub: HubServer, stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    cache, needed = tmp_path / "cache", sum(map(len, (b.data for b in hub.repos[REPO].commits[stored].values())))
    soft = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch:
        if kind == "limit":  # the weights do not fit, what comes before them does
            resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, soft[1]))
        elif kind == "no folder":
            cache.write_text("a file")
        else:
            number = errno.ENOSPC if kind == "full" else errno.EROFS

            def refuse(*unused: Any, **options: Any) -> None:
                raise OSError(number, os.strerror(number))

            patch.setattr(os, "replace" if kind == "full" else "mkdir", refuse)
        try:
            text = message(errors.CacheError, lambda: load(REPO))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, soft)
    assert str(cache) in text and f"{needed} bytes are needed" in text and "HF_HUB_CACHE" in text
    if kind == "no folder":
        cache.unlink()
    assert not cache.exists() or not leftovers(cache)
    assert equal(load(REPO), tiny())


def test_bundled_file_that_was_tampered_with(
    hub_environment: None, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_folder(tmp_path / NAME)
    monkeypatch.setattr("zoo.hub.loading.pretrained_folder", lambda name: folder)
    registry(tmp_path / "registry.yaml", bundled=True, **pins(saved))
    for name in ("model.safetensors", "config.json"):
        good = (folder / name).read_bytes()
        (folder / name).write_bytes(good[:-2] + b"?}")
        for action in (load, pull):
            text = message(errors.CorruptWeightsError, lambda action=action: action(NAME))
            assert "pinned" in text and name in text and sha256(good) in text
        (folder / name).write_bytes(good)
        assert equal(load(NAME), tiny())


# -- pushing ----------------------------------------------------------------------------------------------------------


def test_19_forbidden_push_creates_nothing(hub: HubServer, saved: Path) -> None:
    for repo, who in ((REPO, hub.user("me", "read")), ("org/tiny", hub.user("me"))):
        text = message(errors.PushForbiddenError, lambda repo=repo, who=who: push(saved, repo, token=who))
        assert "'me'" in text and repr(repo.partition("/")[0]) in text and "scope 'write'" in text
    hub.add("org/tiny", contents(saved))
    message(errors.PushForbiddenError, lambda: push(tiny(1), "org/tiny", token=hub.user("me")))
    assert list(hub.repos) == ["org/tiny"] and len(hub.repos["org/tiny"].commits) == 1
    assert "needs a token" in message(errors.AuthError, lambda: push(saved, REPO))
    assert "rejected" in message(errors.AuthError, lambda: push(saved, REPO, token="hf_wrong"))
    assert push(saved, REPO, token=hub.user("me")).commit in hub.repos[REPO].commits


def test_20_remote_that_moves_during_a_push(hub: HubServer, token: str, saved: Path) -> None:
    first = push(saved, REPO).commit
    hub.fault("call", COMMIT, lambda: hub.add(REPO, {**contents(saved), "README.md": b"by somebody else"}))
    text = message(errors.PushConflictError, lambda: push(tiny(1), REPO))
    now = hub.repos[REPO].branches["main"]
    assert first in text and now in text and len(hub.repos[REPO].commits) == 3 and hub.count(COMMIT) == 2
    assert push(tiny(1), REPO).commit != now and equal(load(REPO), tiny(1))


def test_20_lost_answer_of_a_commit_makes_no_second_one(hub: HubServer, token: str, saved: Path) -> None:
    hub.fault("lost", COMMIT)
    result = push(saved, REPO)
    assert hub.count(COMMIT) == 1 and result.commit == hub.repos[REPO].branches["main"] and equal(load(REPO), tiny())


@pytest.mark.parametrize("where", [COMMIT, "POST /api/repos/create"])
def test_push_to_a_hub_that_is_unwell_for_a_while(hub: HubServer, token: str, saved: Path, where: str) -> None:
    hub.fault("status", where, 503, times=2)
    assert equal(load(f"{REPO}@{push(saved, REPO).commit}"), tiny()) and len(hub.repos[REPO].commits) == 2


def test_push_to_a_hub_that_stays_unwell(
    hub: HubServer, token: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.fault("status", COMMIT, 503, times=None)
    assert "503" in message(errors.HubUnavailableError, lambda: push(saved, REPO))
    hub.faults.clear()
    monkeypatch.setattr(waits, "timeout", 0.3)
    monkeypatch.setattr(waits, "limit", 0.5)
    hub.fault("hang", "preupload", 60, times=None)
    started = time.monotonic()
    message(errors.HubUnavailableError, lambda: push(saved, REPO))
    assert time.monotonic() - started < 30 and len(hub.repos[REPO].commits) == 1
    monkeypatch.setattr(waits, "timeout", 10.0)
    monkeypatch.setattr(waits, "limit", 20.0)
    hub.faults.clear()
    push(saved, REPO)


def test_push_that_arrives_damaged_is_noticed(hub: HubServer, token: str, saved: Path) -> None:
    key = sha256((saved / "model.safetensors").read_bytes())

    def damage() -> None:
        hub.stored[key] = b"something else"

    hub.fault("call", COMMIT, damage)
    assert "model.safetensors" in message(errors.PushError, lambda: push(saved, REPO))
    del hub.stored[key]
    assert push(saved, REPO).commit and equal(load(REPO), tiny())


def test_push_does_not_depend_on_what_else_the_hub_offers(
    hub: HubServer, token: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)  # the double has none of it, and none is asked for
    push(saved, REPO)
    assert not hub.count("xet") and equal(load(REPO), tiny())
    hub.fault("status", "info/lfs/objects/batch", 501, times=None)
    text = message(errors.HubUnavailableError, lambda: push(tiny(1), REPO))
    assert "501" in text and len(hub.repos[REPO].commits) == 2


def test_push_to_a_public_repository_as_private(hub: HubServer, token: str, saved: Path) -> None:
    push(saved, "me/secret", private=True)
    assert hub.repos["me/secret"].private
    push(saved, REPO)
    assert "public" in message(errors.PushError, lambda: push(tiny(1), REPO, private=True))
    assert len(hub.repos[REPO].commits) == 2


def test_tag_that_exists(hub: HubServer, token: str, saved: Path) -> None:
    push(saved, REPO, tag="v1")
    push(saved, REPO, tag="v1")
    assert "'v1'" in message(errors.PushError, lambda: push(tiny(1), REPO, tag="v1"))
    with pytest.raises(errors.InvalidNameError):
        push(saved, REPO, tag="../v1")


def test_numbers_that_are_none_stop_a_push_before_any_request(hub: HubServer, token: str, tmp_path: Path) -> None:
    for bad in (float("nan"), float("inf"), np.float64("nan"), "7"):
        results = {"metrics": {"fid": bad}}
        assert "'fid'" in message(
            errors.CardError, lambda results=results: save_pretrained(tiny(), tmp_path / "m", results=results)
        )
    folder = tiny_folder(tmp_path / "m")
    good = (folder / "README.md").read_text()
    (folder / "README.md").write_text("---\nmodel-index: [{results: [{metrics: [{type: fid, value: .nan}]}]}]\n---\n")
    assert "'fid'" in message(errors.CardError, lambda: push(folder, REPO))
    assert hub.count() == 0
    (folder / "README.md").write_text(good)
    push(folder, REPO)


def test_card_that_the_hub_refuses(hub: HubServer, token: str, saved: Path) -> None:
    hub.fault("status", "validate-yaml", 400)
    assert "README.md" in message(errors.CardError, lambda: push(saved, REPO))
    assert len(hub.repos[REPO].commits) == 1
    push(saved, REPO)


# -- what a message says of where it failed ---------------------------------------------------------------------------


def test_refusal_of_the_store_of_large_files_is_not_blamed_on_the_token(
    hub: HubServer, token: str, stored: str
) -> None:
    store = hub.content_url.removeprefix("http://")
    hub.fault("status", "GET /lfs/", 403, times=None)
    text = message(errors.DownloadError, lambda: load(REPO))
    assert store in text and "no token was sent there" in text and "status 403" in text and "HF_TOKEN" not in text
    hub.faults.clear()
    hub.fault("status", "GET /lfs/", 503, times=None)
    text = message(errors.HubUnavailableError, lambda: load(REPO))
    assert store in text and "503" in text


def test_dead_store_of_large_files_is_named(hub: HubServer, stored: str) -> None:
    with socket.socket() as taken:  # a port at which nobody listens
        taken.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{taken.getsockname()[1]}"
        hub.content_url, alive = f"http://{dead}", hub.content_url
        text = message(errors.HubUnavailableError, lambda: load(REPO))
    assert dead in text and "cannot be reached" in text and "large files" in text
    hub.content_url = alive
    assert equal(load(REPO), tiny())


def test_refusal_without_a_token_says_that_none_was_sent(hub: HubServer, stored: str) -> None:
    hub.fault("status", "GET /api/models", 403, times=None)
    text = message(errors.AccessNotGrantedError, lambda: load(REPO))
    assert "none was sent" in text and "nowhere" not in text


def test_failure_after_the_commit_says_that_it_is_published(hub: HubServer, token: str, saved: Path) -> None:
    commits = hub.repos[REPO].commits if REPO in hub.repos else {}
    hub.fault("status", "POST /api/models/.*/paths-info/", 503, times=None)
    text = message(errors.HubUnavailableError, lambda: push(saved, REPO))
    commits = hub.repos[REPO].commits
    head = hub.repos[REPO].branches["main"]
    assert f"is published as commit {head}" in text and "could not be read back" in text and "503" in text
    hub.faults.clear()
    hub.fault("status", "POST /api/models/.*/tag/", 503, times=None)
    text = message(errors.HubUnavailableError, lambda: push(saved, REPO, tag="v1"))
    assert f"is published as commit {head}" in text and "the tag 'v1' could not be made" in text
    hub.faults.clear()
    assert push(saved, REPO, tag="v1").commit == head and len(commits) == len(hub.repos[REPO].commits)


def test_commit_whose_answer_and_head_are_lost_says_that_it_may_be_made(
    hub: HubServer, token: str, saved: Path
) -> None:
    hub.add(REPO, {"README.md": b"# mine"})

    def die() -> None:
        hub.fault("status", "GET /api/models", 503, times=None)

    hub.fault("call", "POST /api/models/.*/commit/", die)
    hub.fault("lost", "POST /api/models/.*/commit/", times=None)
    text = message(errors.HubUnavailableError, lambda: push(saved, REPO))
    assert "whether it was made is not known" in text and f"{hub.url}/{REPO}" in text


def test_lines_of_the_client_stay_out_of_the_terminal(hub_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo._cli.main import main

    client, own, heard = logging.getLogger("huggingface_hub"), logging.getLogger("zoo"), []
    before = (client.level, own.level)
    listener = logging.Handler()
    listener.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    client.addHandler(listener)

    def speak(*unused: Any) -> list[Any]:
        logging.getLogger("huggingface_hub.utils._http").warning("HTTP Error 503 thrown while requesting")
        return []

    monkeypatch.setattr("zoo.hub.keeping.cached_models", speak)
    monkeypatch.delenv("HF_HUB_VERBOSITY", raising=False)
    try:
        assert main(["cache"]) == 0 and not heard
        assert main(["-v", "cache"]) == 0 and len(heard) == 1
        monkeypatch.setenv("HF_HUB_VERBOSITY", "warning")  # what the user asked for stays
        client.setLevel(logging.WARNING)
        assert main(["cache"]) == 0 and len(heard) == 2
    finally:
        client.removeHandler(listener)
        client.setLevel(before[0])
    assert own.level == before[1] and os.environ["HF_HUB_VERBOSITY"] == "warning"
