"""Hostile names, configurations, weights, cards and registries: an error each, nothing run, nothing touched."""

from __future__ import annotations

import copy
import importlib
import json
import os
import pickle
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import safetensors.torch
import torch
import yaml
from hub_cases import NAME, contents, registry, tiny_folder
from hub_server import HubServer
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import zoo
from zoo import errors
from zoo.hub import load, load_pretrained, pull, push, verify
from zoo.hub.card_blocks import join_cards, metadata
from zoo.hub.folder import load_files, public_names
from zoo.model import Source
from zoo.names import check_repo_id, check_revision
from zoo.registry import load_registry

pytest_plugins = ["hub_fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

CLASSES = [
    "os.system", "subprocess.Popen", "builtins.eval", "builtins.exec", "canary.Bird", "canary", "antigravity",
    "turtle.Pen",
    "this.s", "idlelib.run.main", "torch.load", "torch.hub.load", "torch.nn.Linear", "torch.jit.load", "pickle.loads",
    "zoo.hub.loading.load", "zoo._cli.main.main", "zoo.runs.load_run", "zoo.families.vae.os.system", "zoo.nets..MLP",
    "zoo.families.vae.__builtins__", "zoo.families.vae.VAE.__init__", "zoo.nets.mlp.MLP\n", "ZOO.nets.mlp.MLP",
    "zoo.nets.mlp.\u041cLP", "zoo.n\u0435ts.mlp.MLP", " zoo.nets.mlp.MLP", "zoo/nets/mlp/MLP", "../canary.Bird",
    "__main__.X",
    "", ".", "..", "MLP\x00", "\u202eMLP", "VAE ", "vae", "\uff36AE", "x" * 100_000, "a." * 5000 + "B",
]  # fmt: skip
NAMES = [
    "../x", "a/../../x", "a/..", "../../etc/passwd", "a/b/../c", "a\\..\\b", "C:\\x", "a/b\x00c", "a/b\n",
    "a/%2e%2e", "%2e%2e/a",
    "a/b?x=1", "a/b#x", "a@b/c", "//a/b", "hf:///a/b", "hf://a", "file:///etc/passwd", "http://x/y", "a/b c",
    "a/\u202eb",
    "\u0430/b/c", "\u0430/b", "a/\u2025", "a/\uff0e\uff0e", "\u2024\u2024/a", "a\u2044b/c", "a\u2215b/c",
    "a/b\u200b", "a/\U0001f600",
    "a/--", "a/b--c", "--a/b", "-a/b", ".a/.b/c", "a/.b", "a/b.", "a/b.git", "a/" + "b" * 100, "a" * 100 + "/b",
    "a/b:c",
    "a/b|c", "a/b;c", "a/$(id)", "a/`id`", "a/*", "a/b'", 'a/"b', "a/{b}", "a/<b>", "a//b", "/a//b\x00", "a/b/",
    "models--a--b/c",
]  # fmt: skip
REVISIONS = [
    "..", "../x", "a/../b", "/etc/passwd", "a//b", "a/.b", ".a", "-a", "a.lock", "a@{1}", "a b", "a\n", "a\x00",
    "a?b", "a#b",
    "%2e%2e", "refs/../../x", "\u2025", "\uff0e\uff0e", "a\u202e", "x" * 200, "a\\b", "a:b", "a~1", "a^", "*",
    "$(id)", "",
]  # fmt: skip
TAGS = [
    "!!python/object/apply:canary.sing []", "!!python/object/new:canary.Bird []", "!!python/name:canary.Bird",
    "!!python/module:canary", "!!python/object:canary.Bird {}", "!!python/object/apply:os.system ['true']", "!canary x",
    "!!python/object/apply:builtins.eval ['1']", "!!python/tuple [1]", "!!python/complex 1j", "!!python/bytes x",
    "&a [*a", "[" * 3000, "{a: " * 3000, "*missing", "%YAML 9.9", "\t\x00", "!!timestamp x", "!!int x", "!!binary é",
]  # fmt: skip


class Bomb:
    """Its pickle imports the canary module and has it sing."""

    def __reduce__(self) -> Any:
        return exec, ("import canary; canary.sing()",)


def header(tensors: Any, data: bytes = b"", size: int | None = None) -> bytes:
    text = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def entry(dtype: Any, shape: Any, offsets: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def weights() -> list[bytes]:
    """Return bytes that pretend to be safetensors."""
    pickles = [pickle.dumps(Bomb(), protocol=p) for p in range(6)]
    sizes = [
        header(b"{}", size=n) for n in (0, 1, 3, 1 << 20, (1 << 20) + 1, 1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
    ]
    shapes: list[tuple[Any, Any, Any]] = [
        ("F32", [1 << 39, 1 << 39], [0, 4]), ("F32", [-1], [0, 4]), ("F32", [1], [0, 1 << 50]), ("F32", [1], [4, 0]),
        ("F32", [1.0], [0, 4]), ("F32", ["1"], [0, 4]), ("F32", [True], [0, 4]), ("F32", [1], [0]), ("F32", None, None),
        ("F32", [1], [0, 4, 8]), ("O", [1], [0, 8]), ("", [1], [0, 4]), ("F4", [1], [0, 4]), (7, [1], [0, 4]),
        ("F32", [0] * 1000, [0, 0]), ("F32", [1] * 100_000, [0, 4]), (None, [1], [0, 4]), ("f32", [1], [0, 4]),
        ("F32", [(1 << 40) - 1] * 60_000, [0, 4]), ({"a": 1}, [1], [0, 4]), (["F32"], [1], [0, 4]),
    ]  # fmt: skip
    texts = [
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"null",
        b"[]",
        b"1",
        b'"x"',
        b"\xff" * 50,
        b'{"a": NaN}',
        b"{" + b" " * 2000,
    ]
    return [
        *pickles, *(p + b"\0" * 99 for p in pickles), b"", b"\0" * 8, b"\0" * 100, b"PK\x03\x04" + b"\0" * 50,
        *sizes, *(header({"a": entry(*s)}, b"\0" * 4) for s in shapes), *(header(t) for t in texts),
        header({f"{i}": entry("U8", [0], [0, 0]) for i in range(10_001)}),
        header({"../../x": entry("F32", [1], [0, 4])}, b"\0" * 4),
    ]  # fmt: skip


LISTED = [
    "../../evil.txt", "../" * 30 + "etc/canary", "/etc/canary", "//etc/canary", "..\\..\\evil.txt", "C:\\evil.txt",
    "\\\\host\\x", "a/../../../evil.txt", "./config.json", "config.json/", "config.json/../evil.txt", "CONFIG.JSON",
    "config.json ", "config.json\x00.bin", "config.json\n", "model.safetensors/../x", "model.safetensors.bin",
    "weights.pth", "a/b.ckpt", "x.pt", "x.pkl", "x.bin", "c\u043enfig.json", "\uff0e\uff0e/evil.txt",
    "\u2025/evil.txt", "\u202egpj.evil", "%2e%2e/evil.txt", "..%2fevil.txt", "~/evil.txt", "$HOME/evil.txt",
    "`id`.txt", "-rf", "con", "nul", ".git/hooks/post-checkout", ".gitattributes", "__init__.py", "modeling.py",
    "zoo/__init__.py", "x" * 5000, "a/" * 500 + "b", "", ".", "..", "\x1b[2J.md",
]  # fmt: skip
"""Names of files that a repository may list."""

HASHES = [
    "../../../canary.txt", "/etc/passwd", "", "x", "0" * 39, "0" * 41, "0" * 63, "G" * 40, "0" * 40 + "/",
    "\uff10" * 40, "0" * 40 + "\n", "..", None, 7, [], {}, "a/b", "..\\x",
]  # fmt: skip
"""Hashes and commits that it may give, which become file names."""


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that is changed by the import of a module named canary; nothing new may be imported, either."""
    monkeypatch.setenv("ZOO_REGISTRY", str(registry(tmp_path / "registry.yaml")))
    song = tmp_path / "canary.txt"
    song.write_text("silent")
    body = f"    __import__('pathlib').Path({str(song)!r}).write_text('sang')"
    code = f"def sing():\n{body}\nclass Bird:\n    pass\nsing()\n"
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "canary.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    load_pretrained(tiny_folder(tmp_path / "warm"))
    for path in public_names().values():  # the allow-list, and nothing beyond it
        importlib.import_module(path.rpartition(".")[0])
    before, fine = set(sys.modules), ("encodings.", "huggingface_hub.", "stringprep", "torch.", "zoo.hub.")
    yield song
    assert not {m for m in sys.modules if m not in before and not m.startswith(fine)}
    assert song.read_text() == "silent"


def refused(payloads: list[Any], action: Callable[[Any], Any]) -> None:
    """Hold every payload to a `ZooError` of one short line that shows a terminal nothing to obey."""
    assert payloads
    for payload in payloads:
        try:
            action(payload)
        except errors.ZooError as error:
            text = " ".join(str(error).split())  # as the command line prints it
            assert text.isprintable() and 0 < len(text) < 2500, f"{payload!r:.200}: {text!r:.300}"
            counted.append(payload)
        else:
            pytest.fail(f"{payload!r:.200} was taken")


counted: list[Any] = []
"""All payloads that were refused so far."""


def test_canary_sings_where_it_is_imported(canary: Path) -> None:
    pickle.loads(pickle.dumps(Bomb()))  # the payload is a real one
    assert canary.read_text() == "sang" and "canary" in sys.modules
    canary.write_text("silent")
    del sys.modules["canary"]


def test_hostile_configurations(canary: Path, tmp_path: Path) -> None:
    files = contents(tmp_path / "warm")
    config = json.loads(files["config.json"])

    def read(text: bytes) -> None:
        load_files({**files, "config.json": text}, "here", Source("folder"), verify=False)

    def changed(change: Callable[[dict[str, Any]], Any]) -> bytes:
        own = copy.deepcopy(config)
        change(own)
        return json.dumps(own).encode()

    payloads = [changed(lambda c, n=n: c.update(model=n)) for n in CLASSES]
    payloads += [changed(lambda c, n=n: c["args"].update(encoder={"class_path": n, "init_args": {}})) for n in CLASSES]
    payloads += [changed(lambda c, n=n: c["args"].update(encoder={"name": n, "args": {}})) for n in CLASSES]
    payloads += [changed(lambda c, n=n: c["weights"].update(file=n)) for n in NAMES]
    data = [n for n, path in public_names().items() if path.startswith("zoo.data.")]
    assert "ImageFolder" in data  # it would read files: no part of a model
    payloads += [changed(lambda c, n=n: c["args"].update(encoder={"name": n, "args": {}})) for n in data]
    payloads += [changed(lambda c, n=n: c.update(model=n, args={})) for n in data]
    payloads += [b"../../../etc/passwd", b'{"zoo_format": 1, "zoo_format": 1e999}', b"\xef\xbb\xbf{}"]
    payloads += [b"[" * 200_000, b'{"a":' * 100_000, b" " * (2 << 20), b"\xff", b"null", b"9" * 5000, b"", b"\x00"]
    refused(payloads, read)


LONG = "9" * 500_000
"""A foreign text that no message may repeat."""


def test_foreign_text_is_cut_in_every_message(canary: Path, tmp_path: Path) -> None:
    files = contents(tmp_path / "warm")
    config = json.loads(files["config.json"])
    path = tmp_path / "long.yaml"

    def loaded(change: Callable[[dict[str, Any]], Any]) -> None:
        own = copy.deepcopy(config)
        change(own)
        text = json.dumps(own).encode()
        load_files({**files, "config.json": text}, "here", Source("folder"), verify=False)

    def read(change: Callable[[dict[str, Any]], Any]) -> None:
        own = yaml.safe_load((tmp_path / "registry.yaml").read_text())
        change(own)
        path.write_text(json.dumps(own))
        load_registry(str(path))

    digits: Any = [LONG, [LONG], {LONG: LONG}, int("9" * 4000), -int("9" * 4000), float("-inf"), True, None]
    refused([lambda c, v=v: c.update(zoo_format=v) for v in digits], loaded)
    refused([lambda c, v=v: c.update(model=v) for v in digits], loaded)
    refused([lambda c, v=v: c["args"].update(latent_dim=v) for v in digits], loaded)
    refused([lambda c: c["args"].update({LONG: 1}), lambda c: c["args"].update(likelihood=LONG)], loaded)
    refused([lambda c: c["args"]["encoder"].update(name=LONG), lambda c: c.update(args={LONG: 1})], loaded)
    changes: list[Callable[[dict[str, Any]], Any]] = [
        lambda r: r.update({LONG: 1}), lambda r: r.update(format=LONG), lambda r: r["models"].update({LONG: {}}),
        lambda r: r["models"][NAME].update({LONG: 1}), lambda r: r["models"][NAME].update(extends=LONG),
        lambda r: r.update(aliases={LONG: LONG}), lambda r: r.update(data={LONG: LONG}),
        lambda r: r["models"][NAME]["model"].update(class_path=LONG),
    ]  # fmt: skip
    refused(changes, read)
    refused([LONG], load)
    error = errors.ZooError("what was asked: " + LONG + "; what to do")
    assert len(str(error)) <= errors.MOST and str(error).startswith("what was") and str(error).endswith("what to do")


def test_devices_are_no_registries(canary: Path, tmp_path: Path) -> None:
    refused(["/dev/zero", "/dev/null", "/dev/urandom", str(tmp_path)], load_registry)
    large = tmp_path / "large.yaml"
    large.write_text("# " + "x" * 2_000_001)
    refused([str(large)], load_registry)
    pipe = tmp_path / "pipe"  # as a shell gives for <(command)
    os.mkfifo(pipe)
    text = (tmp_path / "registry.yaml").read_text().encode()
    writer = threading.Thread(target=lambda: pipe.write_bytes(text))
    writer.start()
    assert NAME in load_registry(str(pipe))
    writer.join()


def test_weights_of_other_types_are_brought_to_the_networks(canary: Path, tmp_path: Path) -> None:
    files = contents(tmp_path / "warm")
    state = safetensors.torch.load(files["model.safetensors"])

    def loaded(change: Callable[[str, torch.Tensor], torch.Tensor]) -> Any:
        data = safetensors.torch.save({n: change(n, v).contiguous() for n, v in state.items()})
        return load_files({**files, "model.safetensors": data}, "here", Source("folder"), verify=False)

    first = next(n for n, v in state.items() if v.is_floating_point())
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.float32):
        whole = loaded(lambda n, v, d=dtype: v.to(d) if v.is_floating_point() else v)
        assert whole.dtype == dtype  # all of one other type: the model is of it, and its samples at least single
        assert whole.sample(2, seed=0).dtype == torch.promote_types(dtype, torch.float32)
        assert {p.dtype for p in whole.parameters()} == {dtype}
        mixed = loaded(lambda n, v, d=dtype: v.to(d) if n == first else v)
        assert mixed.dtype == torch.float32 == mixed.sample(2, seed=0).dtype
        assert {p.dtype for p in mixed.parameters()} == {torch.float32}
    for dtype in (torch.int32, torch.uint8, torch.bool):
        refused([dtype], lambda d: loaded(lambda n, v: v.to(d) if n == first else v))


def test_hostile_weights(canary: Path, tmp_path: Path) -> None:
    files = contents(tmp_path / "warm")
    refused(
        weights(), lambda data: load_files({**files, "model.safetensors": data}, "x", Source("folder"), verify=False)
    )


def test_hostile_names_revisions_and_records(canary: Path, tmp_path: Path) -> None:
    refused(NAMES, check_repo_id)
    refused([n for n in NAMES if n[0] not in "./~"], load)
    refused(NAMES, lambda name: push(tmp_path / "warm", name, dry_run=True))
    refused(REVISIONS, check_revision)
    refused(REVISIONS, lambda revision: load("me/tiny", revision=revision))
    sums = tmp_path / "warm" / "SHA256SUMS"
    good = sums.read_text()

    def with_line(name: str) -> None:
        sums.write_text(f"{good}{'0' * 64}  {name}/x\n", encoding="utf-8")
        verify(tmp_path / "warm")

    refused(NAMES, with_line)


@pytest.fixture
def short(canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the registry that ships be an empty one, which is read faster some thousand times."""
    empty = tmp_path / "empty.yaml"
    empty.write_text("models: {}\n")
    monkeypatch.setattr("zoo.registry.packaged_registry", lambda: empty)


def test_hostile_yaml(short: None, tmp_path: Path) -> None:
    path = tmp_path / "hostile.yaml"

    def as_registry(text: str) -> None:
        path.write_text(text, encoding="utf-8")
        load_registry(str(path))

    deep = ["[" * 200_000, "[" * 200_000 + "]" * 200_000, "- " * 120_000, "{a: " * 60_000, "? " * 90_000]
    refused([f"models: {tag}\n" for tag in TAGS] + deep, as_registry)
    whole = yaml.safe_load((tmp_path / "registry.yaml").read_text())["models"][NAME]
    named = [{"models": {"x-y": {**whole, "model": {"class_path": n, "init_args": {}}}}} for n in CLASSES]
    refused([json.dumps(n) for n in named], as_registry)  # JSON is YAML, and written faster
    dangerous = [tag for tag in TAGS if "python" in tag or tag.startswith(("!canary", "&", "*", "["))]
    laughs = "a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(40))
    merges = "a0: &a0 {x: 1}\n" + "".join(
        f"a{i + 1}: &a{i + 1} {{<<: [{', '.join([f'*a{i}'] * 9)}]}}\n" for i in range(40)
    )
    cards = [f"---\nx: {tag}\n---\n" for tag in dangerous]
    cards += [f"---\n{bomb}datasets: *a40\n---\n" for bomb in (laughs, merges)]
    cards += [f"---\n{text}\n---\n" for text in deep]
    cards += ["---\na: &a [*a]\n---\n", "---\n" + "x: 1\n" * 100_000 + "---\n", "---\n- x\n---\n", "---\nx\n---\n"]
    refused(cards, metadata)
    malformed = ["model-index: {1: a, b: c}", "datasets: 7", "tags: 7", "tags: {a: b}", "license: [[[x]]]"]
    honest = (tmp_path / "warm" / "README.md").read_text()
    for text in malformed:  # a card on the Hub that is only odd does not stop a push
        assert "zoo:begin" in join_cards(f"---\n{text}\n---\nhello\n", honest)
    refused(cards[-4:], lambda text: join_cards(text, honest))


def test_hostile_listings(
    canary: Path, hub: HubServer, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, secret = contents(saved), tmp_path / "evil.txt"
    for i, name in enumerate(LISTED):  # beside a good model they are ignored
        hub.add(f"me/r{i}", {**files, name: b"evil"})
    hub.add("me/all", {**files, **dict.fromkeys(LISTED, b"evil")})
    for repo in ["me/all", *(f"me/r{i}" for i in range(0, len(LISTED), 9))]:
        assert contents(pull(repo)) == files
    for i, name in enumerate(LISTED):  # in its place they are no model
        hub.add(f"me/r{i}", {name: b"evil"})
    refused([f"me/r{i}" for i in range(len(LISTED))], pull)
    resolved = {
        unquote(path).partition("/resolve/")[2].partition("/")[2] for _, path, _ in hub.log if "/resolve/" in path
    }
    assert resolved == set(files) and not secret.exists()
    cached = {p.relative_to(tmp_path / "cache").parts[0] for p in (tmp_path / "cache").rglob("*")}
    assert all(part.startswith("models--me--") for part in cached)

    def answered(change: Callable[[dict[str, Any]], Any]) -> None:
        answer = hub_info(hub, "me/all")
        change(answer)
        hub.fault("answer", "GET /api/models/me/all/revision", answer, times=3)
        try:
            pull("me/all", cache_dir=tmp_path / "other")
        finally:
            hub.faults.clear()

    def with_hash(value: Any) -> Callable[[dict[str, Any]], Any]:
        return lambda answer: [s.update(blobId=value, lfs=None) for s in answer["siblings"]]

    sizes = [-1, 1 << 60, None, "9", 1.5, True, [], {}]
    changes = [lambda a, v=v: a.update(sha=v) for v in HASHES]
    changes += [with_hash(v) for v in HASHES]
    changes += [lambda a, v=v: [s.update(lfs={"sha256": v, "size": 3}) for s in a["siblings"]] for v in HASHES[:9]]
    changes += [lambda a, v=v: [s.update(size=v) for s in a["siblings"]] for v in sizes]
    changes += [
        lambda a, v=v: a.update(siblings=v) for v in (None, 7, "x", [None], [7], [{}], {"a": 1}, [{"rfilename": 7}])
    ]
    refused(changes, answered)
    assert not list((tmp_path / "other").rglob("model.safetensors"))


def hub_info(hub: HubServer, repo_id: str) -> dict[str, Any]:
    """Return what the Hub says of a repository and its files."""
    commit = hub.repos[repo_id].branches["main"]
    found = [{"rfilename": n, **b.facts()} for n, b in hub.repos[repo_id].commits[commit].items()]
    return {"id": repo_id, "sha": commit, "siblings": found}


def test_branch_that_is_named_like_a_commit(canary: Path, hub: HubServer, saved: Path, tmp_path: Path) -> None:
    good = hub.add("me/tiny", contents(saved))
    evil = hub.add("me/tiny", contents(tiny_folder(tmp_path / "evil", seed=1)), branch=good)
    assert hub.repos["me/tiny"].branches[good] == evil
    with pytest.raises(errors.CorruptWeightsError, match=f"{good} was asked for, but the answer is commit {evil}"):
        load(f"me/tiny@{good}")
    del hub.repos["me/tiny"].branches[good]
    assert load(f"me/tiny@{good}").source.commit == good


def test_names_that_the_hub_lists_are_names(canary: Path, hub: HubServer, saved: Path) -> None:
    found = [{"id": f"me/{name}"} for name in [*LISTED, *NAMES]] + [{"id": "you/tiny"}, {"id": "me/tiny"}, {"id": None}]
    hub.fault("answer", "GET /api/models", found)
    listed = zoo.hub.list("me")
    assert "me/tiny" in listed and all(check_repo_id(name).startswith("me/") for name in listed)
    assert len(listed) < 25


def test_links_out_of_a_folder_are_not_pushed(canary: Path, tmp_path: Path) -> None:
    def linked(name: str) -> None:
        folder = tiny_folder(tmp_path / f"linked-{name}")
        (folder / name).unlink()
        (folder / name).symlink_to(canary)
        push(folder, "me/tiny", dry_run=True)

    refused(sorted(contents(tmp_path / "warm")), linked)


def test_special_files_in_a_folder(canary: Path, tmp_path: Path) -> None:
    def special(payload: tuple[str, str]) -> None:
        name, target = payload
        folder = tiny_folder(tmp_path / f"special-{name}-{target.replace('/', '-')}")
        (folder / name).unlink()
        os.mkfifo(folder / name) if target == "fifo" else (folder / name).symlink_to(target)
        load_pretrained(folder)

    targets = ("fifo", "/dev/zero", "/proc/self/environ", "/proc/self/mem", "/etc/passwd", "..", ".", "config.json")
    refused([(n, t) for n in ("model.safetensors", "config.json") for t in targets if n != t], special)


def test_payloads_are_many() -> None:
    distinct = {repr(p) for p in [*CLASSES, *NAMES, *REVISIONS, *TAGS, *LISTED, *HASHES, *weights()]}
    print(f"{len(distinct)} distinct payloads; {len(counted)} refusals of them, in all places where they can stand")
    assert len(distinct) >= 200


# -- mutations --------------------------------------------------------------------------------------------------------

BREAKERS = [
    b"[", b"}", b'"', b"null", b"-1", b"1e999", b"\xff", b"\x00", b": ", b"!!x ", b"&a ", b"*a", b"\\u0000", b"{" * 99,
    b"true", b'"name"', b'"args"', b"class_path", b"9" * 30, b"\xe2\x80\xae",
]  # fmt: skip
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([*CLASSES[:40], "VAE", "MLP"]),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
EDITS = st.binary(min_size=4, max_size=16)  # four bytes an edit: one draw is cheap, a list of tuples is not
CHECKED = settings(
    derandomize=True, database=None, deadline=None, phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


def edited(data: bytes, edits: bytes) -> bytes:
    """Return ``data`` with a few bytes flipped, cut, doubled, or joined by what breaks parsers."""
    out = bytearray(data)
    for kind, high, low, value in zip(*[iter(edits)] * 4, strict=False):
        at = (256 * high + low) % (len(out) + 1)
        if kind % 4 == 0 and out:
            out[at % len(out)] ^= value or 1
        elif kind % 4 == 1:
            del out[at : at + value % 20 + 1]
        elif kind % 4 == 2:
            out[at:at] = out[at : at + value % 20 + 1]
        else:
            out[at:at] = BREAKERS[value % len(BREAKERS)]
    return bytes(out)


def grafted(tree: Any, place: int, graft: Any) -> Any:
    """Return a copy of JSON data in which one place, found by number, holds something else."""
    tree, places = copy.deepcopy(tree), []

    def collect(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            collect(node[key])

    collect(tree)
    node, key = places[place % len(places)]
    node[key] = graft
    return tree


class Mutations:
    """Reads mutated files: a model or registry, or one clean error; counts both."""

    def __init__(self, folder: Path, overlay: Path, scratch: Path) -> None:
        self.files, self.scratch = contents(folder), scratch
        size = 8 + struct.unpack("<Q", self.files["model.safetensors"][:8])[0]
        self.head, self.tail = self.files["model.safetensors"][:size], self.files["model.safetensors"][size:]
        self.config, self.overlay = json.loads(self.files["config.json"]), overlay.read_bytes()
        self.header, self.tree = json.loads(self.head[8:]), yaml.safe_load(self.overlay)
        self.taken = self.refused = 0

    def read(self, action: Callable[[], Any]) -> None:
        try:
            action()
            self.taken += 1
        except errors.ZooError as error:
            assert str(error)
            self.refused += 1

    def load(self, **changed: bytes) -> None:
        files = {**self.files, **{name.replace("_", "."): data for name, data in changed.items()}}
        self.read(lambda: load_files(files, "here", Source("folder"), verify=False))

    def registry(self, data: bytes) -> None:
        self.scratch.write_bytes(data)
        self.read(lambda: load_registry(str(self.scratch)))

    def run(self, number: int) -> None:
        """Try ``number`` mutations: bytes and structure of the weights' header, of config.json and of a registry."""
        tests = [
            (6, given(EDITS)(lambda edits: self.load(model_safetensors=edited(self.head, edits) + self.tail))),
            (6, given(EDITS)(lambda edits: self.load(config_json=edited(self.files["config.json"], edits)))),
            (5, given(EDITS)(lambda edits: self.registry(edited(self.overlay, edits)))),
            (1, given(st.integers(0, 999), TREES)(self.structure_of_header)),
            (1, given(st.integers(0, 999), TREES)(self.structure_of_config)),
            (1, given(st.integers(0, 999), TREES)(self.structure_of_registry)),
        ]
        for share, test in tests:
            settings(CHECKED, max_examples=number * share // 20)(test)()
        assert self.refused + self.taken >= 0.99 * number and self.refused > self.taken > 0

    def structure_of_header(self, place: int, graft: Any) -> None:
        text = json.dumps(grafted(self.header, place, graft)).encode()
        self.load(model_safetensors=struct.pack("<Q", len(text)) + text + self.tail)

    def structure_of_config(self, place: int, graft: Any) -> None:
        self.load(config_json=json.dumps(grafted(self.config, place, graft)).encode())

    def structure_of_registry(self, place: int, graft: Any) -> None:
        self.registry(json.dumps(grafted(self.tree, place, graft)).encode())


@pytest.fixture
def mutations(short: None, tmp_path: Path) -> Mutations:
    return Mutations(tmp_path / "warm", tmp_path / "registry.yaml", tmp_path / "mutated.yaml")


def test_mutations_end_in_a_model_or_a_clean_error(mutations: Mutations) -> None:
    mutations.run(300)


@pytest.mark.slow
def test_ten_thousand_mutations_within_a_minute(mutations: Mutations) -> None:
    started = time.process_time()  # what it takes where nothing else runs
    mutations.run(10_100)
    spent = time.process_time() - started
    total = mutations.refused + mutations.taken
    print(f"{total:,} mutations in {spent:.1f} s: {mutations.taken:,} gave a model or a registry, the rest one error")
    assert total >= 10_000 and spent < 60
