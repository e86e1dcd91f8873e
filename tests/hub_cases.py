"""A tiny registered model, and a folder of it, for the tests of folders and of the Hub."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import zoo
import zoo.hub.fetch  # forked children find it imported
import zoo.hub.loading
from zoo.hub import save_pretrained
from zoo.hub.layout import sha256, sums_text
from zoo.model import GenerativeModel

NAME = "tiny_vae-mnist"
REPO = "me/tiny"
PNG = bytes.fromhex("89504e470d0a1a0a") + b"the rest of a picture"
RESULTS = {
    "metrics": {"fid": {"value": 12.5, "standard_error": 0.25}, "bits_per_dim": 1.5},
    "data": {"name": "mnist", "split": "test"},
    "protocol": {"seed": 0, "samples": 10_000},
    "cost": {"parameters": 13_000},
}


def registry(path: Path, **weights: Any) -> Path:
    """Write an overlay with the tiny model, pinned to ``weights``."""
    entry = {
        "family": "vae",
        "summary": "a VAE that is small",
        "paper": {
            "title": "Auto-Encoding Variational Bayes",
            "authors": "D. P. Kingma",
            "year": 2013,
            "arxiv": "1312.6114",
        },
        "model": {
            "class_path": "zoo.families.vae.VAE",
            "init_args": {
                "encoder": mlp([784, 8, 4]),
                "decoder": mlp([2, 8, 784]),
                "shape": [1, 28, 28],
                "latent_dim": 2,
                "likelihood": "bernoulli",
            },
        },
        "data": {"class_path": "zoo.data.mnist.BinaryMNIST", "init_args": {"batch_size": 4}},
    }
    content = {"models": {NAME: {**entry, **({"weights": weights} if weights else {})}}}
    path.write_text(yaml.safe_dump(content))
    return path


def mlp(features: list[int]) -> dict[str, Any]:
    return {"class_path": "zoo.nets.mlp.MLP", "init_args": {"features": features}}


def tiny(seed: int = 0) -> GenerativeModel:
    """Return the tiny model with weights that depend on ``seed`` only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return zoo.create(NAME).eval()


def tiny_folder(path: Path, seed: int = 0) -> Path:
    """Save the tiny model with all its files."""
    return save_pretrained(tiny(seed), path, results=RESULTS, samples=PNG)


def write_run(folder: Path, model: GenerativeModel, command: str) -> Path:
    """Write a run folder with one checkpoint of the model, as a training leaves it."""
    checkpoint = folder / "checkpoints" / "step-00000001.ckpt"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"zoo": {"spec": model.spec, "name": NAME}, "state_dict": model.state_dict()}, checkpoint)
    checkpoint.with_name(checkpoint.name + ".sha256").write_text(sha256(checkpoint.read_bytes()))
    (folder / "run.json").write_text(json.dumps({"command": command}))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file of a folder."""
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def pins(folder: Path) -> dict[str, Any]:
    """Return what a registry records about a folder."""
    data = contents(folder)
    return {
        "sha256": sha256(data["model.safetensors"]),
        "size": len(data["model.safetensors"]),
        "config_sha256": sha256(data["config.json"]),
    }


def resummed(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return files whose every record agrees with what they are now."""
    config = json.loads(files["config.json"])
    config["weights"]["sha256"] = sha256(files["model.safetensors"])
    files = {**files, "config.json": json.dumps(config).encode()}
    return {**files, "SHA256SUMS": sums_text(files).encode()}


def equal(a: GenerativeModel, b: GenerativeModel) -> bool:
    """Tell whether two models have the same state and draw the same samples."""
    A, B = a.state_dict(), b.state_dict()
    same = A.keys() == B.keys() and all(torch.equal(A[k], B[k]) and A[k].dtype == B[k].dtype for k in A)
    return same and torch.equal(a.sample(3, seed=1), b.sample(3, seed=1))


def load_in_child(name: str, environment: dict[str, str]) -> tuple[str, list[float]]:
    """Load a model in a forked child; return the sha256 of its state, and a sample."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    model = zoo.load(name)
    state = b"".join(v.numpy().tobytes() for _, v in sorted(model.state_dict().items()))
    return sha256(state), model.sample(1, seed=3).flatten().tolist()


def message(kind: type[Exception], action: Any) -> str:
    """Return the message of the error that ``action`` ends in; it holds no token, nor do its causes."""
    with pytest.raises(kind) as caught:
        action()
    assert type(caught.value) is kind
    chain, error = [], caught.value
    while error is not None:
        chain.append(f"{error} {error!r}")
        error = error.__cause__ or error.__context__
    assert not any(secret in text for text in chain for secret in ("_secret", "hf_wrong"))
    return str(caught.value)
