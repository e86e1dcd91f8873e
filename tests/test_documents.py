"""What README.md, CONTRIBUTING.md and docs/ show can be typed: every command has the options that it is shown with, and
runs, shortened by options; what it is shown to print, it prints."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path
from typing import Any

import documents
import pytest
import torch
from documents import DOCUMENTS, NOT_HERE, Shown, commands, missing, python, shortened

import zoo
from zoo._cli.main import OWN_HELP, _parser, main
from zoo.data.mnist import read_mnist
from zoo.registry import load_registry
from zoo.trained_parts import declared

Capture = pytest.CaptureFixture[str]
ALL = [c for path in DOCUMENTS for c in commands(path)]
CHEAP = ("zoo list", "zoo show", "zoo leaderboard --dataset", "zoo sample vae", "zoo sample sn_gan_cond-mnist",
         "zoo sample stylegan-mnist", "zoo sample realnvp-mnist", "zoo fit --model ebm-eight_gaussians")  # fmt: skip
"""Beginnings of the commands that the default suite runs; the long tests run all."""


def test_documents_have_commands_and_what_cannot_run_is_among_them() -> None:
    assert len(ALL) > 80 and {c.document for c in ALL} >= {"README.md", "training.md", "gans.md", "samplers.md"}
    for start in NOT_HERE:
        assert any(c.text.startswith(start) for c in ALL), f"no document shows {start!r} any more"
    assert sum(c.not_here is not None for c in ALL) < len(ALL) / 4
    assert [c.text for c in commands(documents.ROOT / "README.md") if "pixelcnn-mnist" in c.text][:2] == [
        "zoo show pixelcnn-mnist", "zoo sample pixelcnn-mnist -n 64 --seed 0 --out digits.png",
    ]  # fmt: skip


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_every_command_has_the_options_it_is_shown_with(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    _files(path, monkeypatch)
    known = {*load_registry(), *load_registry().aliases}
    for shown in commands(path):
        words = shortened(shown.text)
        name, rest = words[0], words[1:]
        told = f"{shown.document}:{shown.line}: {shown.text}"
        if name in OWN_HELP and not {"--resume", "--config", "--help"} & set(rest):
            if any(w.startswith("hugging") or w == "image_folder" for w in rest):
                continue  # whose files the long test has
            model = rest[rest.index("--model") + 1] if "--model" in rest else rest[0]
            overlays = [rest[i + 1] for i, option in enumerate(rest) if option == "--registry"]
            entry = load_registry(*overlays).resolve(model)
            if any(f"--{part}" in rest for part in declared(entry.model["class_path"], tuple(entry.allow))):
                continue  # whose parts the long test trains
            if shown.not_here or missing(shown):
                continue
            with pytest.raises(SystemExit) as ended:
                main([*words, "--print_config"])
            assert ended.value.code == 0, told
            capsys.readouterr()
            continue
        args, unknown = _parser(name).parse_known_args(rest)
        assert name == "fit" or not unknown, told
        for which in [getattr(args, "which", None), getattr(args, "model", None)]:
            for one in [which] if isinstance(which, str) else which or []:
                assert one in known or "/" in one, told


def _files(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the files that a document shows into the working folder, modules among them."""
    monkeypatch.syspath_prepend(Path.cwd())
    for name, content in documents.files(path).items():
        Path(name).write_text(content, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the documents name."""
    from PIL import Image

    from zoo.images import png_bytes
    from zoo.media import wav_bytes

    monkeypatch.chdir(tmp_path)
    digits = read_mnist("t10k")[0][:3]
    for name in ("digit.png", "photo.png", "blurred.png"):
        Image.fromarray(digits[0, 0].numpy()).save(name)
    Image.fromarray(digits[0, 0].numpy()).resize((7, 7)).save("small.png")
    Path("speech.wav").write_bytes(wav_bytes(0.1 * torch.sin(torch.arange(5_000) / 8), 16_000))
    mask = torch.zeros(1, 28, 28)
    mask[:, :14] = 1
    Path("mask.png").write_bytes(png_bytes(mask[None], columns=1))
    for i, kind in enumerate(("cat", "dog", "frog")):
        Path("pics", kind).mkdir(parents=True)
        for k in range(24):
            Image.fromarray(digits[(i + k) % 3, 0].numpy()).resize((64, 64)).convert("RGB").save(f"pics/{kind}/{k}.png")
    return tmp_path


def run(shown: Shown, capsys: Capture, needs: bool = True) -> None:
    """Run one command, hold it to its exit code, to what it is shown to print, and to what it says that it writes."""
    if needs:
        prepare(shown.text)
    words = shortened(shown.text)
    capsys.readouterr()
    try:
        code = main(words)
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr()
    assert code == 0, f"{shown.document}:{shown.line}: {shown.text}: {said.err[-500:]}"
    for line in filter(str.strip, shown.output):
        pattern = ".*".join(re.escape(re.sub(r"\d[\d,.]*", "0", part)) for part in line.strip().split("..."))
        printed = re.sub(r"\d[\d,.]*", "0", said.out + said.err)
        assert re.search(pattern, printed), f"{shown.document}:{shown.line}: {line!r} is not in {printed!r}"
    for file in re.findall(r"writes ((?:results|diagnostics|runs)/[\w./-]+)", shown.comment):
        assert Path(file).exists(), f"{shown.document}:{shown.line} says that it writes {file}"


NAMED = {
    "cond": "sn_gan_cond-mnist", "first": "flow_matching_small-mnist", "codes": "vq_vae-mnist",
    "soft": "softvq-mnist",
}  # fmt: skip
"""What runs of the documents are of, where it is not a VAE."""


def prepare(text: str) -> None:
    """Train for a step what a command names as a run that is there."""
    for folder in re.findall(
        r"(?:\./)?(runs/[\w.<>-]+(?:/[\w.<>-]+)?)(?=[\s\"/]|$)", text.replace("./runs/...", "runs/cond")
    ):
        if f"--run {folder}" in text or f'run="{folder}"' in text:
            continue
        for placeholder in ("<date-time>", "<date>", "DATE"):
            folder = folder.replace(placeholder, "friday")
        folder = folder.removesuffix("/config.yaml")
        if Path(folder).exists():
            continue
        made = folder.split("/")[1]
        model = made if made in load_registry() else NAMED.get(made, "vae-mnist")
        data = {"cond": "--data image_folder --data.folder pics --data.size 28 --data.channels 1"}.get(made, "")
        assert main(shortened(f"zoo fit --model {model} {data} --run {folder}")) == 0


def is_cheap(shown: Shown) -> bool:
    own = "image_folder" in shown.text  # results of runs that come before it
    return (shown.text.startswith(CHEAP) and not own) or bool(shown.output)


@pytest.mark.parametrize("path", [p for p in DOCUMENTS if any(map(is_cheap, commands(p)))], ids=lambda p: p.name)
def test_cheap_commands_of_a_document_run(path: Path, place: Path, capsys: Capture) -> None:
    for shown in commands(path):
        if is_cheap(shown) and shown.not_here is None:
            run(shown, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in DOCUMENTS if commands(p)], ids=lambda p: p.name)
def test_all_commands_of_a_document_run_in_their_order(
    path: Path, place: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    _files(path, monkeypatch)
    failed = []
    for shown in commands(path):
        if shown.not_here is not None or missing(shown):
            continue
        if "cats.parquet" in shown.text:
            _cats()
        try:
            run(shown, capsys)
        except AssertionError as error:
            failed.append(str(error).splitlines()[0])
    assert not failed, "\n".join(failed)


def _cats() -> None:
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    features = datasets.Features({"image": datasets.Image(), "breed": datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": [Image.new("L", (28, 28), k) for k in range(64)], "breed": [k % 2 for k in range(64)]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet("cats.parquet")


@pytest.mark.slow
def test_lines_of_python_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in DOCUMENTS:
        _files(path, monkeypatch)
    found = [p for path in DOCUMENTS for p in python(path)]
    assert {p.document for p in found} >= {"energies.md", "data.md"}
    x = read_mnist("t10k")[0][:1].float() / 255
    for shown in found:
        prepare(shown.text)
        text = re.sub(r"max_steps=(\d+)000\b", r"max_steps=\1", shown.text.replace("/DATE", "/friday"))
        scope: dict[str, Any] = {"zoo": zoo, "torch": torch, "x": torch.randn(4, 2) if "gaussians" in text else x}
        if "labels=" in text:
            prepare("runs/cond ")
            scope["model"] = zoo.load("./runs/cond")
        with contextlib.chdir(place) if hasattr(contextlib, "chdir") else contextlib.nullcontext():
            exec(compile(text, f"{shown.document}:{shown.line}", "exec"), scope)
