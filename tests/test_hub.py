"""Push, pull and load through the real client against a Hub on loopback: what works, and each error."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_cases import NAME, PNG, RESULTS, contents, equal, pins, registry, tiny, tiny_folder
from hub_server import HubServer
from huggingface_hub import ModelCard, constants, hf_hub_download, scan_cache_dir

import zoo
from zoo import errors
from zoo.hub import card, load, pull, push, resolve, save_pretrained, verify, waits
from zoo.hub.layout import sha256

REPO = "me/tiny"
WEIGHTS = f"GET /{REPO}/resolve/.*model.safetensors"
CONTENT = "GET /lfs/"

# The client hands files to its HTTP library in a form that the latter deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_REGISTRY", str(registry(tmp_path / "registry.yaml")))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "ZOO_HUB_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"timeout": 10.0, "tries": 3, "pause": 0.01, "limit": 20.0}.items():
        monkeypatch.setattr(waits, name, value)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def token(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The token of user ``me``, who is logged in."""
    found = hub.user("me")
    monkeypatch.setenv("HF_TOKEN", found)
    return found


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the tiny model, written once."""
    base = tmp_path_factory.mktemp("saved")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_REGISTRY", str(registry(base / "registry.yaml")))
        return tiny_folder(base / "model")


@pytest.fixture
def model(saved: Path) -> Any:
    return tiny()


@pytest.fixture
def stored(hub: HubServer, saved: Path) -> str:
    """The commit of a model that is on the Hub, public."""
    return hub.add(REPO, contents(saved))


def cached_files(tmp_path: Path) -> list[str]:
    cache = tmp_path / "cache"
    return sorted(p.name for p in cache.rglob("*") if p.is_file() and p.name != "CACHEDIR.TAG")


# -- what works -------------------------------------------------------------------------------------------------------


def test_push_and_load_round_trip(hub: HubServer, token: str, model: Any, saved: Path, tmp_path: Path) -> None:
    result = push(saved, REPO, tag="v1")
    assert re.fullmatch("[0-9a-f]{40}", result.commit) and result.url == f"{hub.url}/{REPO}/tree/{result.commit}"
    assert hub.count(f"POST /api/models/{REPO}/commit/") == 1
    head = hub.repos[REPO].commits[result.commit]
    assert {n: b.data for n, b in head.items() if n != ".gitattributes"} == contents(saved)
    assert head["model.safetensors"].large and hub.repos[REPO].tags == {"v1": result.commit}
    for name in (REPO, f"hf://{REPO}", f"{REPO}@v1", f"{REPO}@{result.commit}"):
        loaded = load(name)
        assert equal(loaded, model) and loaded.source.repo == REPO and loaded.source.commit == result.commit
    assert loaded.source.kind == "cache" and loaded.source.sha256 == sha256(head["model.safetensors"].data)
    assert ModelCard(card(REPO)).data.eval_results[0].metric_value == 12.5


def test_pushing_again_makes_no_commit_and_other_weights_make_one(hub: HubServer, token: str, saved: Path) -> None:
    first = push(saved, REPO)
    assert push(saved, REPO).commit == first.commit
    second = push(tiny(1), REPO, revision="main")
    assert (
        second.commit != first.commit and equal(load(REPO), tiny(1)) and equal(load(f"{REPO}@{first.commit}"), tiny())
    )
    files = hub.repos[REPO].commits[second.commit]
    assert "eval.json" not in files and files["samples.png"].data.startswith(
        PNG[:8]
    )  # results of older weights are gone
    other = push(saved, REPO, revision="next")
    assert hub.repos[REPO].branches == {"main": second.commit, "next": other.commit}


def test_pull_brings_every_file_and_checks_them(hub: HubServer, stored: str, saved: Path, tmp_path: Path) -> None:
    folder = pull(REPO)
    assert contents(folder) == contents(saved) and verify(folder)["README.md"]
    assert push(folder, "me/copy", dry_run=True).files == {n: len(d) for n, d in contents(saved).items()}
    assert pull(REPO, stored) == folder and pull(REPO, cache_dir=tmp_path / "other") != folder


def test_cache_is_that_of_the_client(hub: HubServer, stored: str) -> None:
    folder = pull(REPO)
    before = hub.count()
    path = hf_hub_download(REPO, "model.safetensors", revision=stored, cache_dir=os.environ["HF_HUB_CACHE"])
    assert Path(path) == folder / "model.safetensors" and hub.count() == before
    (repo,) = scan_cache_dir(os.environ["HF_HUB_CACHE"]).repos
    assert repo.repo_id == REPO and {r.commit_hash for r in repo.revisions} == {stored}
    assert hf_hub_download(REPO, "config.json", cache_dir=os.environ["HF_HUB_CACHE"]) == str(folder / "config.json")


def test_pinned_and_cached_makes_no_request(hub: HubServer, stored: str, tmp_path: Path, saved: Path) -> None:
    registry(tmp_path / "registry.yaml", **pins(saved), repo=REPO, revision=stored)
    assert resolve(NAME).kind == "hub" and hub.count() == 0
    first = load(NAME)
    asked = hub.count()
    second = load(NAME)
    assert hub.count() == asked > 0 and equal(first, second)
    assert (first.source.kind, second.source.kind) == ("hub", "cache") and second.source.name == NAME
    load(f"{REPO}@{stored}")
    assert hub.count() == asked and resolve(NAME).kind == "cache"


def test_unpinned_models_are_asked_for_and_named_once(hub: HubServer, stored: str, caplog: Any) -> None:
    zoo.hub.loading._warned.clear()
    for _ in range(2):
        load(REPO)
    assert len([r for r in caplog.records if "is not pinned" in r.message and stored in r.message]) == 1
    assert hub.count(f"/api/models/{REPO}/revision/main") == 2 and hub.count(WEIGHTS) == 1


def test_only_the_files_of_a_model_are_asked_for_and_no_token_leaves_the_hub(
    hub: HubServer, token: str, saved: Path
) -> None:
    extra = {"pytorch_model.bin": b"\x80\x04", "x.ckpt": b"\x80", "run.py": b"raise SystemExit", "a/b.pkl": b"."}
    hub.add(REPO, {**contents(saved), **extra}, private=True)
    assert sorted(contents(pull(REPO))) == sorted(contents(saved))
    assert not hub.count(r"\.(bin|ckpt|pt|pkl|py)\b")
    assert {with_token for _, path, with_token in hub.log if path.startswith("/lfs/")} == {False}
    assert all(with_token for _, path, with_token in hub.log if not path.startswith("/lfs/"))
    push(saved, "me/other")
    assert {with_token for _, path, with_token in hub.log if path.startswith("/lfs/")} == {False}


def test_bundled_weights_come_first_and_another_namespace_is_held_to_the_pins(
    hub: HubServer, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "pretrained"
    bundle.mkdir()
    os.rename(tiny_folder(tmp_path / "m"), bundle / NAME)
    monkeypatch.setattr("zoo.hub.loading.pretrained_folder", lambda name: bundle / name)
    registry(tmp_path / "registry.yaml", bundled=True, **pins(saved), repo=REPO, revision="0" * 40)
    assert load(NAME).source.kind == "bundled" == resolve(NAME).kind and pull(NAME) == bundle / NAME
    registry(tmp_path / "registry.yaml", **pins(saved), repo=REPO, revision="0" * 40)
    monkeypatch.setenv("ZOO_HUB_NAMESPACE", "fork")
    hub.add("fork/tiny", contents(saved))
    assert load(NAME).source.repo == "fork/tiny"
    hub.add("fork/tiny", contents(tiny_folder(tmp_path / "evil", seed=1)))
    assert equal(load(NAME), tiny()) and hub.count("/revision/main") == 1  # the pinned bytes are cached
    with pytest.raises(errors.CorruptWeightsError, match="pinned"):
        pull(NAME, cache_dir=tmp_path / "fresh")
    assert not list((tmp_path / "fresh").rglob("model.safetensors"))


def test_damaged_bundle_is_an_error(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_folder(tmp_path / NAME, seed=1)
    monkeypatch.setattr("zoo.hub.loading.pretrained_folder", lambda name: folder)
    registry(tmp_path / "registry.yaml", bundled=True, **pins(saved))
    for action in (load, pull):
        with pytest.raises(errors.CorruptWeightsError, match="pinned"):
            action(NAME)


def test_dry_run_and_order_of_checks_make_no_request(hub: HubServer, saved: Path, tmp_path: Path) -> None:
    result = push(saved, REPO, dry_run=True)
    assert result.commit is None and result.files == {n: len(d) for n, d in contents(saved).items()}
    broken = tiny_folder(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"\x80\x04")
    pickled = tiny_folder(tmp_path / "pickled")
    (pickled / "last.ckpt").write_bytes(b"")
    for folder, kind in ((broken, errors.CorruptWeightsError), (pickled, errors.UnsafeWeightsError)):
        with pytest.raises(kind):
            push(folder, REPO, token="hf_x")
    for bad in (tmp_path / "nothing", "no_such_name"):
        with pytest.raises(errors.ModelFolderError):
            push(bad, REPO, token="hf_x")
    linked = tiny_folder(tmp_path / "linked")
    (linked / "README.md").unlink()
    (linked / "README.md").symlink_to("/etc/hostname")
    with pytest.raises(errors.ModelFolderError, match="link out of the folder"):
        push(linked, REPO, token="hf_x")
    assert hub.count() == 0


def test_hand_written_card_is_pushed_with_fresh_sums(hub: HubServer, token: str, tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "m")
    with (folder / "README.md").open("a") as stream:
        stream.write("\nWritten by hand.\n")
    push(folder, REPO)
    pulled = pull(REPO)
    assert verify(pulled) and "Written by hand." in card(REPO)
    (folder / "README.md").write_text("---\nmodel-index: [{results: [{metrics: [{type: fid, value: .nan}]}]}]\n---\n")
    with pytest.raises(errors.CardError, match="fid"):
        push(folder, REPO)


def test_text_that_is_only_on_the_hub_is_kept(hub: HubServer, token: str, saved: Path, tmp_path: Path) -> None:
    push(saved, REPO)
    text = (saved / "README.md").read_text()
    written = text.replace("tags:\n", "tags:\n- digits\n", 1) + "\n## Thanks\n\nTo my cat.\n"
    hub.add(REPO, {**contents(saved), "README.md": written.encode()})
    commits = len(hub.repos[REPO].commits)
    for _ in range(2):  # the second push changes nothing
        push(tiny(1), REPO)
        assert len(hub.repos[REPO].commits) == commits + 1
    folder = pull(REPO)
    assert card(REPO).endswith("## Thanks\n\nTo my cat.\n") and "- digits\n" in card(REPO)
    assert verify(folder).keys() == contents(folder).keys() and equal(load(REPO), tiny(1))
    sums = (folder / "SHA256SUMS").read_text()
    assert f"{sha256((folder / 'README.md').read_bytes())}  README.md" in sums
    mine = tiny_folder(tmp_path / "mine")
    (mine / "README.md").write_text(text + "\nTo my dog.\n")
    push(mine, REPO)
    assert card(REPO).endswith("To my dog.\n")  # what the folder says by hand stands


def test_block_that_was_edited_on_the_hub_stops_a_push(hub: HubServer, token: str, saved: Path) -> None:
    push(saved, REPO)
    text = (saved / "README.md").read_text()
    hub.add(REPO, {**contents(saved), "README.md": text.replace("| fid | 12.5", "| fid | 1.5").encode()})
    told = message(errors.CardError, lambda: push(tiny(1), REPO))
    assert "nothing was pushed" in told and REPO in told and "edited by hand" in told
    assert len(hub.repos[REPO].commits) == 3 and hub.count(COMMIT) == 1


def test_slow_upload_shows_a_bar(
    hub: HubServer, token: str, saved: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(saved, "me/quick", progress=True)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("zoo.hub.upload.BAR_DELAY", 1e-9)
    push(tiny(1), "me/slow", progress=True)
    assert "me/slow" in capsys.readouterr().err
    push(tiny(2), "me/quiet")
    assert "me/quiet" not in capsys.readouterr().err


def test_namespace_is_listed(hub: HubServer, saved: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo._cli.main import main

    hub.add("me/tiny", contents(saved))
    hub.add("me/hidden", contents(saved), private=True)
    hub.add("me/other", {"README.md": b"---\ntags: [else]\n---\n"})
    hub.add("you/tiny", contents(saved))
    assert zoo.hub.list("me") == ["me/tiny"]
    monkeypatch.setenv("HF_TOKEN", hub.user("me"))
    assert zoo.hub.list("me") == ["me/hidden", "me/tiny"]
    assert main(["list", "t*", "--hub", "me"]) == 0 and capsys.readouterr().out == "me/tiny\n"
    assert main(["list", "--hub", "me", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["me/hidden", "me/tiny"]
    assert main(["list", "--hub", "me/../x"]) == 2 and main(["list", "--hub", "me", "--family", "vae"]) == 2
    hub.fault("status", "GET /api/models", 503, times=None)
    monkeypatch.setattr(waits, "limit", 0.2)  # here the client tries again by itself
    message(errors.HubUnavailableError, lambda: zoo.hub.list("me"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message(errors.OfflineError, lambda: zoo.hub.list("me"))


def test_verify_command(hub: HubServer, stored: str, saved: Path, tmp_path: Path, capsys: Any) -> None:
    from zoo._cli.main import main

    for which in (str(saved), REPO, f"{REPO}@{stored}"):
        assert main(["verify", which]) == 0
        told = capsys.readouterr().out
        assert all(f"{sha256(data)}  {name}\n" in told for name, data in contents(saved).items())
    broken = tiny_folder(tmp_path / "broken")
    (broken / "eval.json").write_text("{}")
    assert main(["verify", str(broken)]) == 2 and "eval.json is damaged" in capsys.readouterr().err


# -- names ------------------------------------------------------------------------------------------------------------

BAD_NAMES = [
    "a//b", "a/b/c", "a/--b", "a/b--c", "a/..", "a/b.git", "a/" + "x" * 97, "hf://name", "a b/c", "hf://../a",
    "a/b@", "a/b@../../x", "a/b@-x", "a/b@x..y", "a\x00/b", "ａ/b", "a/b@main\n", "Name With Blanks", "a\\b", "",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_malformed_names_are_refused_without_a_request(hub: HubServer, name: str) -> None:
    with pytest.raises(errors.InvalidNameError):
        load(name)
    assert hub.count() == 0


def test_names_of_every_kind(hub: HubServer, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(saved.parent)
    for path in ("./model", saved, str(saved)):
        assert load(path).source.kind == "folder"
    for word in ("model", "tiny_vea-mnist"):  # a stray folder cannot take a model's place
        with pytest.raises(errors.UnknownModelError, match=r"zoo list"):
            load(word)
    with pytest.raises(errors.UnknownModelError, match=r"\./model"):
        load("model")
    with pytest.raises(errors.UnknownModelError, match=rf"zoo fit --model {NAME}"):
        load(NAME)
    with pytest.raises(errors.InvalidNameError, match="contradict"):
        load(f"{REPO}@v1", revision="v2")
    with pytest.raises(errors.InvalidNameError, match="no revisions"):
        load("./model", revision="v2")
    with pytest.raises(errors.ModelFolderError, match="nowhere"):
        load("./nowhere")
    assert hub.count() == 0


def test_run_folders_load_and_push(hub: HubServer, token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "eval.json").write_text(json.dumps(RESULTS))
    (run / "run.json").write_text(json.dumps({"command": "zoo fit --model tiny --lr 1"}))
    monkeypatch.setattr("zoo.runs.load_run", lambda path: tiny(4))
    assert equal(load(run), tiny(4))
    push(run, REPO)
    assert equal(load(REPO), tiny(4)) and json.loads((pull(REPO) / "eval.json").read_text()) == RESULTS
    assert f'zoo.load("{REPO}")' in card(REPO) and "zoo fit --model tiny --lr 1\n" in card(REPO)


# -- who may ----------------------------------------------------------------------------------------------------------


def message(kind: type[Exception], action: Any, secret: str = "hf_") -> str:
    """Return the message of the error that ``action`` ends in; it holds no token, nor do its causes."""
    with pytest.raises(kind) as caught:
        action()
    assert type(caught.value) is kind
    chain, error = [], caught.value
    while error is not None:
        chain.append(f"{error} {error!r}")
        error = error.__cause__ or error.__context__
    assert not any(secret in text for text in chain)
    return str(caught.value)


def test_wrong_token(hub: HubServer, stored: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = message(errors.AuthError, lambda: load(REPO, token="hf_wrong"))
    assert "rejected" in text and "argument" in text and REPO in text
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "from HF_TOKEN" in message(errors.AuthError, lambda: load(REPO))
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "token").write_text("hf_wrong")
    assert "from the login file" in message(errors.AuthError, lambda: load(REPO))
    assert "token from the argument" in message(errors.AuthError, lambda: load(REPO, token="hf_wrong\nX: y"))
    (tmp_path / "token").unlink()
    load(REPO)


def test_missing_and_private_repositories(hub: HubServer, saved: Path) -> None:
    text = message(errors.RepoNotAccessibleError, lambda: load("me/nothing"))
    assert "missing or private" in text and "hf auth login" in text and hub.url in text
    mine, other = hub.user("me"), hub.user("you")
    assert "not visible" in message(errors.RepoNotAccessibleError, lambda: load("me/nothing", token=mine))
    hub.add("me/secret", contents(saved), private=True)
    for who in (None, other):
        message(errors.RepoNotAccessibleError, lambda who=who: load("me/secret", token=who))
    assert load("me/secret", token=mine).source.repo == "me/secret"


def test_gated_repository(hub: HubServer, saved: Path) -> None:
    hub.add(REPO, contents(saved), gated=True)
    for who in (None, hub.user("you")):
        text = message(errors.AccessNotGrantedError, lambda who=who: load(REPO, token=who))
        assert f"{hub.url}/{REPO}" in text


def test_missing_revision_names_the_tags(hub: HubServer, stored: str) -> None:
    hub.repos[REPO].tags.update({"v1": stored, "v1.1": stored})
    text = message(errors.RevisionNotFoundError, lambda: load(f"{REPO}@v2"))
    assert "'v2'" in text and "v1, v1.1" in text and "main" in text
    message(errors.RevisionNotFoundError, lambda: load(f"{REPO}@{'a' * 40}"))


def test_forbidden_push_creates_nothing(hub: HubServer, saved: Path) -> None:
    for repo, who in ((REPO, hub.user("me", "read")), ("org/tiny", hub.user("me"))):
        text = message(errors.PushForbiddenError, lambda repo=repo, who=who: push(saved, repo, token=who))
        assert "'me'" in text and repr(repo.partition("/")[0]) in text and "write" in text
    hub.add("org/tiny", contents(saved))
    message(errors.PushForbiddenError, lambda: push(tiny(1), "org/tiny", token=hub.user("me")))
    assert list(hub.repos) == ["org/tiny"] and len(hub.repos["org/tiny"].commits) == 1
    assert "needs a token" in message(errors.AuthError, lambda: push(saved, REPO))
    assert "rejected" in message(errors.AuthError, lambda: push(saved, REPO, token="hf_wrong"))


def test_public_repository_is_not_pushed_to_as_private(hub: HubServer, token: str, saved: Path) -> None:
    push(saved, "me/secret", private=True)
    assert hub.repos["me/secret"].private
    push(saved, REPO)
    assert "public" in message(errors.PushError, lambda: push(tiny(1), REPO, private=True))
    assert len(hub.repos[REPO].commits) == 2


# -- what is there ----------------------------------------------------------------------------------------------------


def test_repositories_that_hold_something_else(hub: HubServer, saved: Path, tmp_path: Path) -> None:
    files = contents(saved)
    hub.add("me/pickled", {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04"})
    text = message(errors.UnsafeWeightsError, lambda: load("me/pickled"))
    assert "pytorch_model.bin" in text and "safetensors only" in text
    hub.add("me/empty", {"README.md": b"hello"})
    assert "config.json" in message(errors.NotAZooModelError, lambda: load("me/empty"))
    hub.add("me/other", {"config.json": b'{"architectures": []}', "model.safetensors": files["model.safetensors"]})
    assert "zoo_format" in message(errors.NotAZooModelError, lambda: load("me/other"))
    newer = files["config.json"].replace(b'"zoo_format": 1', b'"zoo_format": 7')
    hub.add("me/newer", {**files, "config.json": newer})
    text = message(errors.NotAZooModelError, lambda: load("me/newer"))
    assert "format 7" in text and "upgrade" in text
    hub.add("me/large", {**files, "config.json": b" " * (2 << 20)})
    assert str(2 << 20) in message(errors.NotAZooModelError, lambda: load("me/large"))
    assert hub.count("resolve/.*(bin|safetensors)") == 0 and "model.safetensors" not in cached_files(tmp_path)


def test_repository_whose_own_records_disagree(hub: HubServer, saved: Path, tmp_path: Path) -> None:
    files = contents(saved)
    swapped = contents(tiny_folder(tmp_path / "m", seed=1))["model.safetensors"]
    hub.add(REPO, {**files, "model.safetensors": swapped})
    text = message(errors.CorruptWeightsError, lambda: load(REPO))
    assert sha256(swapped) in text and sha256(files["model.safetensors"]) in text
    assert hub.count(WEIGHTS) == 2 and sha256(swapped) not in cached_files(tmp_path)
    hub.add(REPO, files)
    assert equal(load(REPO), tiny())


# -- the way there ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [CONTENT, "config.json"])
def test_wrong_bytes_of_the_right_length(hub: HubServer, stored: str, tmp_path: Path, where: str) -> None:
    hub.fault("corrupt", where)
    assert equal(load(REPO), tiny()) and hub.count(where) == 2  # one more download mends it
    hub.fault("corrupt", where, times=None)
    text = message(errors.CorruptWeightsError, lambda: pull(REPO, cache_dir=tmp_path / "fresh"))
    assert "twice" in text and hub.count(where) == 4
    assert not [p for p in (tmp_path / "fresh").rglob("*") if "incomplete" in p.name or p.name == "model.safetensors"]
    hub.faults.clear()
    assert verify(pull(REPO, cache_dir=tmp_path / "fresh"))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_tampered_cache_is_mended_online_and_refused_offline(
    hub: HubServer, stored: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = pull(REPO, stored)
    blob = (folder / name).resolve()
    bad = blob.read_bytes()[:-2] + b"?}"
    blob.write_bytes(bad)
    assert equal(load(f"{REPO}@{stored}"), tiny()) and blob.read_bytes() != bad
    blob.write_bytes(bad)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    text = message(errors.CorruptWeightsError, lambda: load(f"{REPO}@{stored}"))
    assert "removed from the cache" in text and not blob.exists()
    message(errors.OfflineError, lambda: load(f"{REPO}@{stored}"))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert equal(load(f"{REPO}@{stored}"), tiny())


@pytest.mark.parametrize("kind, value", [("cut", 9), ("html", None)])
def test_cut_file_or_login_page(hub: HubServer, stored: str, saved: Path, kind: str, value: Any) -> None:
    hub.fault(kind, CONTENT, value, times=None)
    text = message(errors.DownloadError, lambda: load(REPO))
    size = (saved / "model.safetensors").stat().st_size
    assert str(size) in text and "login page" in text and (str(size - 9) in text or kind == "html")
    hub.faults.clear()
    assert equal(load(REPO), tiny())


@pytest.mark.parametrize("kind", ["drop", "reset"])
def test_broken_connection_goes_on_where_it_broke(hub: HubServer, stored: str, kind: str) -> None:
    hub.fault(kind, CONTENT, 20_000)
    assert equal(load(REPO), tiny()) and hub.count(CONTENT) == 2
    if kind == "drop":  # after a reset, what had arrived may be lost
        assert hub.ranges == [None, "bytes=20000-"]


@pytest.mark.parametrize("kind", ["drop", "reset"])
def test_connection_that_breaks_for_ever(hub: HubServer, stored: str, tmp_path: Path, kind: str) -> None:
    hub.fault(kind, CONTENT, 100, times=None)
    text = message(errors.DownloadError, lambda: load(REPO))
    assert "3 tries" in text and "model.safetensors" in text
    assert not [name for name in cached_files(tmp_path) if "incomplete" in name]
    hub.faults.clear()
    assert equal(load(REPO), tiny())


@pytest.mark.parametrize("where", ["GET /api/models", WEIGHTS, CONTENT])
@pytest.mark.parametrize("status", [503, 429])
def test_a_hub_that_is_unwell(hub: HubServer, stored: str, where: str, status: int) -> None:
    hub.fault("status", where, status, times=2)
    assert equal(load(REPO), tiny())  # the third try
    hub.fault("status", "GET", status, times=None)
    text = message(errors.HubUnavailableError, lambda: load("me/elsewhere"))
    assert str(status) in text and "3 tries" in text


def test_unwell_or_gone_but_cached(hub: HubServer, stored: str, caplog: Any) -> None:
    load(REPO)
    hub.fault("status", "GET", 500, times=None)
    assert load(REPO).source.kind == "cache" and "using the cached commit" in caplog.text
    hub.__exit__()
    assert load(REPO).source.kind == "cache"
    assert "cannot be reached" in message(errors.HubUnavailableError, lambda: load("me/other"))


@pytest.mark.parametrize("where", ["GET /api/models", WEIGHTS, CONTENT])
def test_a_hub_that_never_answers(hub: HubServer, stored: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.fault("hang", where, 60, times=None)
    monkeypatch.setattr(waits, "timeout", 0.3)
    started = time.monotonic()
    text = message(errors.HubUnavailableError, lambda: load(REPO))
    assert "does not answer" in text and time.monotonic() - started < 30
    monkeypatch.setattr(waits, "timeout", 10.0)
    hub.faults.clear()
    assert equal(load(REPO), tiny())


def test_something_that_is_no_hub(hub: HubServer, stored: str) -> None:
    hub.fault("html", "GET /api/models", times=None)
    assert "HF_ENDPOINT" in message(errors.HubUnavailableError, lambda: load(REPO))
    for bad in ("http://127.0.0.1:9", "nonsense", "ftp://x", "http://[::1"):
        message(errors.HubUnavailableError, lambda bad=bad: load("me/x", endpoint=bad))


def test_offline(hub: HubServer, stored: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for options in ({"local_files_only": True}, {}):
        if not options:
            monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        text = message(errors.OfflineError, lambda options=options: load(f"{REPO}@v1", **options))
        assert "'v1'" in text and str(tmp_path / "cache") in text and f"zoo pull {REPO}@v1" in text
    assert "push" in message(errors.OfflineError, lambda: push(tiny(), REPO, token="x_y"))
    assert hub.count() == 0
    monkeypatch.delenv("HF_HUB_OFFLINE")
    load(REPO)
    asked = hub.count()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in (REPO, f"{REPO}@{stored}"):
        assert equal(load(name), tiny())
    assert load(REPO, local_files_only=True).source.kind == "cache" and hub.count() == asked
    (pull(REPO) / "model.safetensors").unlink()
    text = message(errors.OfflineError, lambda: load(REPO))
    assert "in part, without model.safetensors" in text and hub.count() == asked


def test_cache_that_cannot_be_written(hub: HubServer, stored: str, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    text = message(errors.CacheError, lambda: load(REPO))
    assert str(tmp_path / "cache") in text and "bytes are needed" in text


# -- pushing, interrupted ---------------------------------------------------------------------------------------------

COMMIT = "POST /api/models/.*/commit/"


def test_remote_that_moves_during_a_push(hub: HubServer, token: str, saved: Path) -> None:
    first = push(saved, REPO).commit
    hub.fault("call", COMMIT, lambda: hub.add(REPO, {**contents(saved), "README.md": b"by somebody else"}))
    text = message(errors.PushConflictError, lambda: push(tiny(1), REPO))
    now = hub.repos[REPO].branches["main"]
    assert first in text and now in text and len(hub.repos[REPO].commits) == 3 and hub.count(COMMIT) == 2
    assert push(tiny(1), REPO).commit != now and equal(load(REPO), tiny(1))


def test_lost_answer_of_a_commit_makes_no_second_one(hub: HubServer, token: str, saved: Path) -> None:
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
    hub.fault("hang", "preupload", 60, times=None)
    monkeypatch.setattr(waits, "timeout", 0.3)
    monkeypatch.setattr(waits, "limit", 1.0)
    started = time.monotonic()
    message(errors.HubUnavailableError, lambda: push(saved, REPO))
    assert time.monotonic() - started < 30 and len(hub.repos[REPO].commits) == 1
    monkeypatch.setattr(waits, "timeout", 10.0)
    monkeypatch.setattr(waits, "limit", 20.0)
    hub.faults.clear()
    push(saved, REPO)


def test_push_that_arrives_damaged_is_noticed(hub: HubServer, token: str, saved: Path) -> None:
    def damage() -> None:
        hub.stored[sha256((saved / "model.safetensors").read_bytes())] = b"something else"

    hub.fault("call", COMMIT, damage)
    assert "model.safetensors" in message(errors.PushError, lambda: push(saved, REPO))


def test_tag_that_exists(hub: HubServer, token: str, saved: Path) -> None:
    push(saved, REPO, tag="v1")
    push(saved, REPO, tag="v1")
    assert "'v1'" in message(errors.PushError, lambda: push(tiny(1), REPO, tag="v1"))
    with pytest.raises(errors.InvalidNameError):
        push(saved, REPO, tag="../v1")


def test_card_that_the_hub_refuses(hub: HubServer, token: str, saved: Path) -> None:
    hub.fault("status", "validate-yaml", 400)
    assert "README.md" in message(errors.CardError, lambda: push(saved, REPO))
    assert len(hub.repos[REPO].commits) == 1


# -- several at once, and the command line ----------------------------------------------------------------------------


def test_threads_that_load_the_same_model_at_once(hub: HubServer, stored: str, tmp_path: Path) -> None:
    models: list[Any] = []
    threads = [threading.Thread(target=lambda: models.append(load(REPO))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(models) == 6 and all(equal(m, tiny()) for m in models)
    assert len(list((tmp_path / "cache").rglob("blobs/*"))) == 6 and not list((tmp_path / "cache").rglob("*incomplete"))


def test_command_line(
    hub: HubServer, token: str, saved: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    from zoo._cli.main import main

    caplog.set_level(logging.INFO)
    assert main(["push", str(saved), "--repo", REPO, "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "model.safetensors" in said and "nothing was sent" in said and REPO not in hub.repos
    assert main(["push", str(saved), "--repo", REPO, "--private", "--tag", "v1"]) == 0
    said = capsys.readouterr().out
    assert hub.repos[REPO].tags["v1"] in said and hub.repos[REPO].private and "sha256" not in said
    assert main(["pull", f"{REPO}@v1"]) == 0
    assert str(Path(os.environ["HF_HUB_CACHE"])) in capsys.readouterr().out
    assert main(["pull", REPO, "--revision", "v9"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "'v9'" in told
    assert main(["pull", REPO, "--token", token]) == 2  # tokens stay off the command line
    assert token not in caplog.text and token not in told


def test_saved_by_hand_and_pushed_as_object(hub: HubServer, token: str, tmp_path: Path) -> None:
    folder = save_pretrained(tiny(5), tmp_path / "m")
    assert push(folder, "me/a").commit and push(tiny(5), "me/b", dry_run=True).files.keys() > {"samples.png"}
