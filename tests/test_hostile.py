"""Hostile names, configurations, weights, cards and registries: an error each, nothing run, nothing touched."""

from __future__ import annotations

import copy
import json
import pickle
import random
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub_cases import NAME, contents, registry, tiny_folder

import zoo
from zoo import errors
from zoo.hub import load, load_pretrained, push, verify
from zoo.hub.cards import metadata
from zoo.hub.folder import load_files
from zoo.hub.layout import sums_text
from zoo.hub.names import check_repo_id, check_revision
from zoo.model import Source
from zoo.registry import load_registry

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
    load_pretrained(tiny_folder(tmp_path / "warm"))  # what an honest model imports
    before = set(sys.modules)
    yield song
    new = {m for m in sys.modules if m not in before and not m.startswith(("zoo.", "torch.", "encodings."))}
    assert not new & {"canary", "antigravity", "turtle", "this", "idlelib", "idlelib.run"} and not new
    assert song.read_text() == "silent"


def refused(payloads: list[Any], action: Callable[[Any], Any]) -> None:
    """Hold every payload to a `ZooError` of one message."""
    assert payloads
    for payload in payloads:
        try:
            action(payload)
        except errors.ZooError as error:
            assert str(error)
        else:
            pytest.fail(f"{payload!r:.200} was taken")


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
    payloads += [b"[" * 200_000, b'{"a":' * 100_000, b" " * (2 << 20), b"\xff", b"null", b"9" * 5000, b"", b"\x00"]
    refused(payloads, read)


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


def test_hostile_yaml(canary: Path, tmp_path: Path) -> None:
    path = tmp_path / "hostile.yaml"

    def as_registry(text: str) -> None:
        path.write_text(text, encoding="utf-8")
        load_registry(str(path))

    refused([f"models: {tag}\n" for tag in TAGS], as_registry)
    whole = yaml.safe_load((tmp_path / "registry.yaml").read_text())["models"][NAME]
    named = [{"models": {"x-y": {**whole, "model": {"class_path": n, "init_args": {}}}}} for n in CLASSES]
    refused([yaml.safe_dump(n) for n in named], as_registry)
    dangerous = [tag for tag in TAGS if "python" in tag or tag.startswith(("!canary", "&", "*", "["))]
    refused([f"---\nx: {tag}\n---\n" for tag in dangerous], metadata)


def test_links_out_of_a_folder_are_not_pushed(canary: Path, tmp_path: Path) -> None:
    def linked(name: str) -> None:
        folder = tiny_folder(tmp_path / f"linked-{name}")
        (folder / name).unlink()
        (folder / name).symlink_to(canary)
        push(folder, "me/tiny", dry_run=True)

    refused(sorted(contents(tmp_path / "warm")), linked)


def mutated(data: bytes, random: random.Random) -> bytes:
    """Return ``data`` with a few bytes flipped, cut, doubled, or replaced by what breaks parsers."""
    out = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(out) + 1)
        kind = random.randrange(4)
        if kind == 0 and out:
            out[at % len(out)] = random.randrange(256)
        elif kind == 1:
            del out[at : at + random.randint(1, 20)]
        elif kind == 2:
            out[at:at] = out[at : at + random.randint(1, 20)]
        else:
            out[at:at] = random.choice([b"[", b"}", b'"', b"null", b"-1", b"1e999", b"\xff", b"\x00", b": ", b"!!x "])
    return bytes(out)


def mutate(tmp_path: Path, number: int) -> None:
    """Read ``number`` mutations in all of weights, configuration and registry: a model, or a `ZooError`."""
    files, source = contents(tmp_path / "warm"), Source("folder")
    small = (tmp_path / "registry.yaml").read_bytes()
    path, rng = tmp_path / "mutated.yaml", random.Random(0)
    size = 8 + struct.unpack("<Q", files["model.safetensors"][:8])[0]
    head, tail = files["model.safetensors"][:size], files["model.safetensors"][size:]
    refusals = 0
    for i in range(number):
        try:
            if i % 3 == 0:
                changed = {**files, "model.safetensors": mutated(head, rng) + tail}
                load_files(changed, "x", source, verify=False)
            elif i % 3 == 1:
                changed = {**files, "config.json": mutated(files["config.json"], rng)}
                changed["SHA256SUMS"] = sums_text(changed).encode()
                load_files(changed, "x", source, verify=False)
            else:
                path.write_bytes(mutated(small, rng))
                load_registry(str(path))
        except errors.ZooError:
            refusals += 1
    assert number / 2 < refusals < number


def test_mutations_end_in_a_model_or_a_clean_error(canary: Path, tmp_path: Path) -> None:
    mutate(tmp_path, 300)


@pytest.mark.slow
def test_ten_thousand_mutations(canary: Path, tmp_path: Path) -> None:
    mutate(tmp_path, 10_000)
    assert zoo.list()
