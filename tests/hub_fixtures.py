"""Fixtures of the tests that talk to the double of the Hub; whatever a test does, these hold afterwards:

no pickle was asked for, no token reached the origin of large files, and none is in a log.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_cases import REPO, contents, registry, tiny, tiny_folder
from hub_server import HubServer
from huggingface_hub import constants

from zoo.hub import waits

PICKLES = r"\.(pth|bin|ckpt|pt|pkl|pickle|joblib|npy|dill)\b"
ENVIRONMENT = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "ZOO_HUB_NAMESPACE")


@pytest.fixture
def hub_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry, cache and login of the test's own, and short waits."""
    monkeypatch.setenv("ZOO_REGISTRY", str(registry(tmp_path / "registry.yaml")))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    for name, value in {"timeout": 10.0, "tries": 3, "pause": 0.01, "limit": 20.0}.items():
        monkeypatch.setattr(waits, name, value)


@pytest.fixture
def hub(
    hub_environment: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[HubServer]:
    caplog.set_level(logging.DEBUG)
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server
    asked = [f"{method} {path}" for method, path, _ in server.log]
    assert not [line for line in asked if re.search(PICKLES, line)]
    assert not [path for _, path, with_token in server.log if with_token and path.startswith("/lfs/")]
    texts = [record.getMessage() for phase in ("setup", "call") for record in caplog.get_records(phase)]
    assert not [text for text in texts if "_secret" in text or "hf_wrong" in text]


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
def model(hub_environment: None) -> Any:
    return tiny()


@pytest.fixture
def stored(hub: HubServer, saved: Path) -> str:
    """The commit of a model that is on the Hub, public."""
    return hub.add(REPO, contents(saved))
