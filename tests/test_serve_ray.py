"""The service on Ray Serve: arguments, and a cluster in a network of its own whose replicas and proxy die."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from zoo.errors import ConfigError

HERE = Path(__file__).resolve().parent
RAY = importlib.util.find_spec("ray") is not None
IN_A_NETWORK = 'ip link set lo up && exec "$0" "$@"'


def _why_not() -> str | None:
    if not RAY:
        return "the extra ray is not installed"
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return "unshare and ip are needed for a network of its own: Ray listens on all addresses"
    tried = subprocess.run(["unshare", "-rn", "sh", "-c", IN_A_NETWORK, "true"], capture_output=True, timeout=30)
    return None if tried.returncode == 0 else "this system gives no private network (unshare -rn)"


@pytest.mark.skipif(RAY, reason="Ray is installed")
def test_without_ray_one_sentence_says_what_to_install() -> None:
    with pytest.raises(ConfigError, match=r"generative-zoo\[serve,ray\]"):
        importlib.import_module("zoo.serving.cluster")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own
def test_arguments_are_checked() -> None:
    if not RAY:
        pytest.skip("the extra ray is not installed")
    from zoo.serving.cluster import build

    with pytest.raises(ConfigError, match="at least one model"):
        build({})
    with pytest.raises(ConfigError, match="Did you mean 'replicas'"):
        build({"models": "vae-mnist", "replica": "2"})
    with pytest.raises(ConfigError, match="must be a number"):
        build({"models": "vae-mnist", "replicas": "two"})
    with pytest.raises(ConfigError, match="at least 1"):
        build({"models": "vae-mnist", "replicas": "0"})


@pytest.mark.slow
def test_replicas_are_killed_and_clients_that_ask_again_lose_nothing() -> None:
    reason = _why_not()
    if reason is not None:
        pytest.skip(reason)
    command = ["unshare", "-rn", "sh", "-c", IN_A_NETWORK, sys.executable, str(HERE / "ray_cluster.py")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert found.returncode == 0, found.stderr[-2000:]
    facts = json.loads(next(line for line in found.stdout.splitlines() if line.startswith("{")))  # Ray talks too
    print(facts)
    assert facts["answered"] == facts["requests"] == 400 and facts["wrong"] == 0 and facts["kills"] == 3
    assert facts["outage_of_the_proxy"] < 60
