"""The README's example runs as it stands, offline."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: Any) -> None:
        raise AssertionError(f"the example asked the network: {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def _example() -> str:
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return block


def test_example_runs_offline(
    no_network: None, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(compile(_example(), "README.md", "exec"), scope)
    out = capsys.readouterr().out
    assert "pixelcnn-mnist" in out and "iwae-500" in out
    assert scope["x"].shape == (16, 1, 28, 28) and scope["x"].min() >= 0 and scope["x"].max() <= 1
    assert (scope["model"].log_prob(scope["x"]) < 0).all() and scope["result"].protocol.quick


def test_example_is_short() -> None:
    lines = [line for line in _example().splitlines() if line.strip()]
    assert len(lines) <= 15
