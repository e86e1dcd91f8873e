"""Shared by all tests: no network, one compute thread, an own cache, and children forked from a warm server."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
    os.environ.pop(proxy, None)

import pytest  # noqa: E402
import torch  # noqa: E402
import warm  # noqa: E402, F401


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's registry, cache and results out of the tests."""
    home = tmp_path_factory.getbasetemp() / "home"
    home.mkdir(exist_ok=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.delenv("ZOO_REGISTRY", raising=False)
    monkeypatch.delenv("ZOO_RUN_FOLDER", raising=False)


@pytest.fixture
def double_precision() -> Iterator[None]:
    """Let tensors and networks be float64, and what is drawn the same in each test."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def forks() -> Any:
    """Context whose processes fork from a server that has imported everything once and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    folder = os.path.dirname(__file__)
    os.environ["PYTHONPATH"] = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
    context.set_forkserver_preload(["warm", "hub_cases"])
    return context


@pytest.fixture
def run_forked(forks: Any) -> Callable[..., Any]:
    """Run a function in a forked child and return what it returns; ``start=True`` returns the process and queue."""

    def run(function: Callable[..., Any], *args: Any, timeout: float = 120, start: bool = False) -> Any:
        queue = forks.Queue()
        process = forks.Process(target=_child, args=(queue, function, args), daemon=True)
        process.start()
        if start:
            return process, queue
        return collect(process, queue, timeout)

    return run


def _child(queue: Any, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        queue.put((True, function(*args)))
    except BaseException:
        queue.put((False, traceback.format_exc()))


def collect(process: Any, queue: Any, timeout: float = 120) -> Any:
    """Return what a child put, or fail with its traceback."""
    try:
        good, value = queue.get(timeout=timeout)
    except Exception:
        process.kill()
        pytest.fail(f"the child ended with code {process.exitcode} and said nothing within {timeout} s")
    process.join(10)
    if not good:
        pytest.fail(value)
    return value
