"""Push, pull and load through the real client against a Hub on loopback: what works."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_cases import (
    NAME,
    PNG,
    REPO,
    RESULTS,
    contents,
    equal,
    message,
    pins,
    registry,
    tiny,
    tiny_folder,
    write_run,
)  # fmt: skip
from hub_server import HubServer
from huggingface_hub import ModelCard, hf_hub_download, scan_cache_dir

import zoo
from zoo import errors
from zoo.hub import card, load, pull, push, resolve, save_pretrained, verify, waits
from zoo.hub.layout import sha256
from zoo.model import LikelihoodModel

pytest_plugins = ["hub_fixtures"]
# The client hands files to its HTTP library in a form that the latter deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


class Own(LikelihoodModel):
    """A class that no registry has."""

    shape, levels, lr = (2,), None, 0.1

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.nn.Parameter(torch.zeros(2))

    def loss(self, batch: Any) -> dict[str, torch.Tensor]:
        return {"loss": ((batch[0] - self.mean) ** 2).sum(1).mean()}

    def draw(self, n: int, generator: torch.Generator, labels: Any, **options: Any) -> torch.Tensor:
        return self.mean + torch.randn(n, 2, generator=generator)


COMMIT = "POST /api/models/.*/commit/"
WEIGHTS = f"GET /{REPO}/resolve/.*model.safetensors"
CONTENT = "GET /lfs/"


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


def test_what_was_trained_from_python_is_pushed_by_its_handle(
    hub: HubServer, token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quiet: dict[str, Any] = {"max_steps": 1, "limit_val_batches": 0, "enable_progress_bar": False,
                             "training": {"sample_every": 0, "threads": 1}}  # fmt: skip
    done = zoo.fit(NAME, data={"limit": 64}, **quiet)
    assert done.push(REPO, dry_run=True).commit is None and hub.count() == 0
    first = done.push(REPO, tag="v1", private=True)
    files = hub.repos[REPO].commits[first.commit]
    assert {"model.safetensors", "config.json", "README.md", "samples.png", "SHA256SUMS"} <= set(files)
    assert "eval.json" not in files and hub.repos[REPO].tags == {"v1": first.commit}
    assert equal(load(f"{REPO}@v1"), done.model) and "zoo.fit(" in card(REPO)
    done.evaluate(limit=8, samples=16, extractor="none", progress=False)
    second = done.push(REPO)
    files = hub.repos[REPO].commits[second.commit]
    assert second.commit != first.commit and "nats" in json.loads(files["eval.json"].data)["metrics"]
    assert done.push(REPO).commit == second.commit == zoo.Training(done.folder).push(REPO).commit
    with pytest.raises(errors.ZooError, match="namespace/name"):
        done.push("tiny")
    own = zoo.fit(Own(), torch.rand(40, 2), batch_size=8, **quiet)
    asked = hub.count()
    with pytest.raises(errors.ConfigError, match="Own") as told:
        own.push("me/own")
    assert "registry" in str(told.value) and hub.count() == asked


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
    suffixes = ("pth", "bin", "ckpt", "pt", "pkl", "pickle", "joblib", "npy", "dill", "py")
    extra = {f"{folder}model.{suffix}": b"\x80\x04." for suffix in suffixes for folder in ("", "a/")}
    hub.add(REPO, {**contents(saved), **extra}, private=True)
    folder = pull(REPO)
    assert sorted(contents(folder)) == sorted(contents(saved)) and equal(load(REPO), tiny())
    push(tiny(1), REPO)
    push(saved, "me/other")
    hub.add("me/pickled", extra)
    with pytest.raises(errors.UnsafeWeightsError):
        load("me/pickled")
    assert hub.count("/lfs/") and not hub.count(rf"\.({'|'.join(suffixes)})\b")
    origins = {(path.startswith("/lfs/"), with_token) for _, path, with_token in hub.log}
    assert origins == {(True, False), (False, True)}  # a token for the Hub, none for the origin of large files


def test_names_in_a_repository_never_become_paths(hub: HubServer, saved: Path, tmp_path: Path) -> None:
    """Nothing but the files of a model is asked for, so this holds under clients without a guard of their own too."""
    evil = (
        "../../../evil",
        "a/../../../../evil",
        "/tmp/evil",
        "..\\..\\evil",
        "C:evil",
        "config.json/../../evil",
        "~/evil",
    )
    hub.add(REPO, {**contents(saved), **dict.fromkeys(evil, b"evil")})
    before = {p for p in tmp_path.rglob("*") if "cache" not in p.parts}
    assert sorted(contents(pull(REPO))) == sorted(contents(saved)) and equal(load(REPO), tiny())
    assert not [path for _, path, _ in hub.log if "evil" in path]
    cached = tmp_path / "cache"
    assert not list(tmp_path.rglob("*evil*")) and not Path("/tmp/evil").exists()
    assert {p for p in tmp_path.rglob("*") if "cache" not in p.parts} == before
    assert all(p.resolve().is_relative_to(cached.resolve()) for p in cached.rglob("*"))


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
    for bad, kind in ((tmp_path / "nothing", errors.ModelFolderError), ("no_such_name", errors.UnknownModelError)):
        with pytest.raises(kind):
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
    (mine / "README.md").write_text(text + "\n## Thanks\n\nTo my dog.\n")
    for _ in range(2):  # what both say stands once, what only one says stands beside it
        push(mine, REPO)
        assert card(REPO).endswith("## Thanks\n\nTo my cat.\nTo my dog.\n") and card(REPO).count("## Thanks") == 1


def test_block_that_was_edited_on_the_hub_stops_a_push(hub: HubServer, token: str, saved: Path) -> None:
    push(saved, REPO)
    text = (saved / "README.md").read_text()
    hub.add(REPO, {**contents(saved), "README.md": text.replace("| fid | 12.5", "| fid | 1.5").encode()})
    told = message(errors.CardError, lambda: push(tiny(1), REPO))
    assert "nothing was pushed" in told and REPO in told and "edited by hand" in told
    assert len(hub.repos[REPO].commits) == 3 and hub.count(COMMIT) == 1


def test_files_are_shown_before_anything_is_sent_and_a_bar_while_they_are(
    hub: HubServer, token: str, saved: Path, capsys: Any
) -> None:
    seen: list[tuple[dict[str, int], int]] = []
    push(saved, REPO, progress=True, show=lambda files: seen.append((dict(files), hub.count())))
    assert seen == [({n: len(d) for n, d in contents(saved).items()}, 0)]
    assert REPO in (bar := capsys.readouterr().err) and "100%" in bar
    push(tiny(2), "me/quiet")
    assert capsys.readouterr().err == ""


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


def test_revisions_and_namespaces_of_registered_names(
    hub: HubServer, stored: str, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = hub.add(REPO, contents(tiny_folder(tmp_path / "newer", seed=1)))
    hub.repos[REPO].tags["v2"] = newer
    registry(tmp_path / "registry.yaml", **pins(saved), repo=REPO, revision=stored)
    assert equal(load(NAME), tiny()) and equal(load(f"{NAME}@{stored}"), tiny())
    for name in (f"{NAME}@v2", f"{NAME}@{newer}", f"hf://{REPO}@v2", f"{REPO}@v2", f"hf://{REPO}"):
        assert equal(load(name), tiny(1)) and resolve(name).commit == newer  # no pins: another revision was asked for
    assert equal(load(NAME, revision="v2"), tiny(1)) and resolve(NAME).commit == stored
    hub.add("fork/tiny", contents(tiny_folder(tmp_path / "fork", seed=2)))
    monkeypatch.setenv("ZOO_HUB_NAMESPACE", "fork")
    assert resolve(NAME).repo == "fork/tiny" and equal(load(f"{NAME}@main"), tiny(2))
    with pytest.raises(errors.CorruptWeightsError, match="pinned"):  # the name alone stands for the pinned bytes
        load(NAME)
    assert load(f"hf://{REPO}@v2").source.repo == REPO  # a repository that is written out stays that repository
    monkeypatch.setenv("ZOO_HUB_NAMESPACE", "fork/../me")
    with pytest.raises(errors.InvalidNameError):
        load(NAME)
    registry(tmp_path / "registry.yaml", bundled=True, **pins(saved))
    monkeypatch.setenv("ZOO_HUB_NAMESPACE", "fork")
    assert resolve(NAME).kind == "bundled" and resolve(f"{NAME}@v1").repo == f"fork/{NAME}"


def test_branch_below_the_name_of_an_older_one(hub: HubServer, stored: str) -> None:
    hub.repos[REPO].branches["a"] = stored
    assert equal(load(f"{REPO}@a"), tiny())
    hub.repos[REPO].branches = {"main": stored, "a/b": stored}
    assert equal(load(f"{REPO}@a/b"), tiny())


def test_run_folders_load_and_push(hub: HubServer, token: str, tmp_path: Path, capsys: Any) -> None:
    from zoo._cli.main import main

    command = "zoo fit --model tiny --config /home/ann/secret/c.yaml --data.root=~/pictures --logger file:///srv/ann/l"
    run = write_run(tmp_path / "run", tiny(4), command)
    (run / "eval.json").write_text(json.dumps(RESULTS))
    assert equal(load(run), tiny(4)) and load(run).source.kind == "run"
    assert main(["push", str(run), "--repo", REPO, "--tag", "v1"]) == 0 and "samples.png" in capsys.readouterr().out
    assert hub.count(COMMIT) == 1 and len(hub.repos[REPO].commits) == 2  # the repository's own first one, and this one
    folder = pull(f"{REPO}@v1")
    assert equal(load(REPO), tiny(4)) and json.loads((folder / "eval.json").read_text()) == RESULTS
    assert sorted(contents(folder)) == sorted(["config.json", "model.safetensors", "README.md", "samples.png",
                                               "eval.json", "SHA256SUMS"])  # fmt: skip
    results = {r.metric_type: r.metric_value for r in ModelCard(card(REPO)).data.eval_results}
    assert results == {"fid": 12.5, "bits_per_dim": 1.5} and f'zoo.load("{REPO}")' in card(REPO)
    assert "zoo fit --model tiny --config c.yaml --data.root=pictures --logger l\n" in card(REPO)
    assert not any(b"ann" in data for data in contents(folder).values())
    identity = {"name": f"{Path.home()}/runs/x", "weights_sha256": sha256((folder / "model.safetensors").read_bytes())}
    (run / "eval.json").write_text(json.dumps({**RESULTS, "identity": identity, "command": f"zoo evaluate {run}"}))
    push(run, REPO)
    facts = json.loads((pull(REPO) / "eval.json").read_text())
    assert facts["command"] == "zoo evaluate run" and facts["identity"]["name"] == "x"
    write_run(run, tiny(5), command)
    with pytest.raises(errors.ResultError, match="results of other weights"):
        push(run, REPO)


# -- several at once, and the command line ----------------------------------------------------------------------------


def test_threads_that_load_the_same_model_at_once(hub: HubServer, stored: str, tmp_path: Path) -> None:
    models: list[Any] = []
    threads = [threading.Thread(target=lambda: models.append(load(REPO))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(models) == 6 and all(equal(m, tiny()) for m in models)
    assert len(list((tmp_path / "cache").rglob("blobs/*"))) == 6 and not list((tmp_path / "cache").rglob("*incomplete"))


def test_command_line(
    hub: HubServer, token: str, saved: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    from zoo._cli.main import main

    assert main(["push", str(saved), "--repo", REPO, "--dry_run"]) == 0
    shown, _, end = capsys.readouterr().out.partition("nothing was sent")
    assert all(f"{len(data):>12,}  {name}\n" in shown for name, data in contents(saved).items())
    assert end and REPO not in hub.repos and hub.count() == 0
    hub.fault("status", "validate-yaml", 400)
    assert main(["push", str(saved), "--repo", "me/bar"]) == 2
    assert capsys.readouterr().out == shown.replace(REPO, "me/bar")
    with monkeypatch.context() as patch:
        patch.setattr(sys.stderr, "isatty", lambda: True)
        assert main(["push", str(saved), "--repo", "me/bar"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(shown.replace(REPO, "me/bar")) and "me/bar: 100%" in said.err
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
