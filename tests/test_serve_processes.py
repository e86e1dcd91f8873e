"""Servers as processes, with the proxy before them: kills, overload, drain, the page in a browser."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

import serving
from draining import LOST_NOTHING, drained, runs
from serving import Paced, Proxy, Server, ask, burst, children, kill_often, pixels, question, running, truth_of
from test_serve import tiny_models

import zoo
from zoo.serving.app import build
from zoo.serving.service import Service
from zoo.serving.settings import Settings

NAME, DEADLINE, STAMP = "vae-mnist", 30.0, 10.0  # the proxy stamps 10 s
PATH = f"/v1/models/{NAME}/sample"
PATIENCE = 180_000  # ms, for machines that are busy with something else
proxied = pytest.mark.skipif(serving.haproxy() is None, reason="HAProxy is not installed")


@pytest.fixture(scope="module")
def truth() -> dict[tuple[int, int], np.ndarray]:
    return truth_of(NAME)


@pytest.mark.parametrize("proxied", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_workers_under_kills_overload_and_drain(proxied: bool, truth: Any) -> None:
    """One server for all of it: starting it is what takes long; kills and overload go through the proxy."""
    with running(NAME, options=["--deadline", str(DEADLINE)]) as (server, _):
        assert "libtorch" not in Path(f"/proc/{server.process.pid}/maps").read_text()  # the supervisor
        assert len(server.worker_pids()) == 2
        _answers(server, truth)
        if proxied and serving.haproxy() is not None:
            proxy = Proxy(server.port)
            try:
                _limits(proxy)
                _overload(proxy)
                _kills(server, proxy, truth)
            finally:
                proxy.stop()
        _drain(server, truth)


def _answers(server: Server, truth: Any) -> None:
    n, seed = next(case for case in truth if case[0] == 16)
    status, headers, body = asyncio.run(ask(server.port, "POST", PATH, question(n, seed)))
    assert status == 200 and np.array_equal(pixels(body, n), truth[n, seed])
    assert headers["x-seed"] == str(seed)
    for raw, code in ((b"x" * 5_000_000, 413), (b"[" * 60_000, 400)):
        assert asyncio.run(ask(server.port, "POST", PATH, raw))[0] == code
    huge = f"X-Huge: {'x' * 50_000}\r\n"
    assert asyncio.run(ask(server.port, "GET", "/healthz", headers=huge))[0] == 431
    assert asyncio.run(ask(server.port, "GET", "/healthz"))[0] == 200


def _limits(proxy: Proxy) -> None:
    assert asyncio.run(ask(proxy.port, "POST", PATH, b" " * 70_000))[0] == 413
    assert asyncio.run(ask(proxy.stats, "GET", "/metrics"))[0] == 200
    early = "X-Zoo-Deadline: 1000\r\n"  # a client cannot set the proxy's own stamp
    assert asyncio.run(ask(proxy.port, "POST", PATH, question(1, 0), headers=early))[0] == 200


def _overload(proxy: Proxy) -> None:
    tally = asyncio.run(burst(proxy.port, NAME, 200))
    assert set(tally.status) <= {200, 503} and tally.status[200] > 0, str(tally)
    assert asyncio.run(ask(proxy.port, "POST", PATH, question(1, 0)))[0] == 200  # back to normal


def _kills(server: Server, proxy: Proxy, truth: Any) -> None:
    """One worker, then both at the same moment, under even load: every request has its answer, with its pixels."""

    async def scene() -> Any:
        paced = Paced(proxy.port, NAME, truth, rate=8)
        task = asyncio.create_task(paced.run())
        rng = random.Random(0)
        await kill_often(server, 1, rng)
        await asyncio.sleep(1)
        first = dict(paced.tally.status)
        await kill_often(server, 1, rng, both=True)
        paced.ending.set()
        return first, await task

    first, tally = asyncio.run(scene())
    assert set(first) == {200}, first
    early = [s for status, times in tally.by_status.items() if status != 200 for s in times if s < STAMP - 0.5]
    assert set(tally.status) <= {200, 503, 504} and not early and not tally.wrong, str(tally)  # late is not lost


def _drain(server: Server, truth: Any) -> None:
    """SIGTERM under load: what a worker had read is answered, and no process is left."""
    pids = [server.process.pid, *children(server.process.pid)]
    tally = drained(server, truth, NAME, rate=30, first=15)
    lost = set(tally.reasons) - LOST_NOTHING
    assert not lost and not tally.wrong and set(tally.status) <= {0, 200}, str(tally)
    assert server.process.returncode == 0
    deadline = time.monotonic() + 30
    while any(map(runs, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(runs, pids))


@pytest.mark.slow
def test_two_hundred_drains_lose_nothing_whose_head_was_read() -> None:
    """SIGTERM to the supervisor, and every other time to its workers too, under load; in a process of its own."""
    command = [sys.executable, str(serving.ROOT / "benchmarks" / "serving.py"), "drain", "--times", "200", "--forked"]
    done = subprocess.run(command, cwd=serving.ROOT, capture_output=True, text=True, timeout=12_000)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert "drains 200," in done.stdout and "lost 0, wrong 0, left 0; exit codes [0]" in done.stdout, done.stdout


# -- the page ---------------------------------------------------------------------------------------------------------

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextlib.contextmanager
def pages() -> Iterator[int]:
    """Serve untrained models, or those that ZOO_PAGE names, from a thread of this process; yields the port."""
    names = tuple(os.environ.get("ZOO_PAGE", "").split())
    models = {name: zoo.load(name) for name in names} or tiny_models()
    service = Service(models, Settings(models=names or (NAME,), deadline=120.0))
    with serving.listening(build(service), access_log=False) as port:
        yield port


def faults_of(tab: object) -> list[str]:
    """Return rule and place of each fault that axe finds."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(tab).response["violations"]
    return [f"{fault['id']}: {fault['help']} at {[node['target'] for node in fault['nodes']][:4]}" for fault in found]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this system (apt-get install chromium)")
def test_page_by_keyboard() -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="the extra page is not installed")
    with pages() as port, sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=PATIENCE)
        tab = browser.new_page()
        tab.set_default_timeout(PATIENCE)
        problems: list[str] = []
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.goto(f"http://127.0.0.1:{port}/")
        tab.locator("#result img").wait_for()  # something is drawn at once
        assert re.search(r"seed 0, in [\d.]+ m?s, [\d.]+ m?s each", tab.inner_text("#status"))
        for place in ("a", "#model", "#n", "#seed"):
            tab.keyboard.press("Tab")
            assert tab.locator(place).first.evaluate("e => e === document.activeElement"), place
        tab.keyboard.press("Control+A")
        tab.keyboard.type("7")
        tab.keyboard.press("Enter")
        tab.locator("#status", has_text="seed 7,").wait_for()
        assert '"seed":7' in tab.inner_text("#curl") and '"seed": 7' in tab.inner_text("#python")
        code = tab.inner_text("#python")
        for scheme in ("light", "dark"):
            tab.emulate_media(color_scheme=scheme)
            assert faults_of(tab) == []
            if os.environ.get("ZOO_SCREENSHOT"):
                tab.screenshot(path=f"{os.environ['ZOO_SCREENSHOT']}/serve-1280-{scheme}.png", full_page=True)
        every = tab.evaluate("models.map(m => [m.name, Object.keys(m.controls), m.medium])")
        for index, (name, options, medium) in enumerate(every):  # by its arrow keys, in a browser that shows the list
            tab.select_option("#model", index=index)
            tab.locator("#status", has_text=f"of {name}, seed").wait_for()
            shown = {node.get_attribute("data-option") for node in tab.locator("[data-option]").all()}
            assert shown == set(options) - {"prompt"}
            assert tab.locator("#prompt").is_visible() == (medium == "text" and "prompt" in options)
            assert all(tab.locator(f"label[for=option-{option}]").count() == 1 for option in shown)
        tab.set_viewport_size({"width": 390, "height": 844})
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth") and faults_of(tab) == []
        if os.environ.get("ZOO_SCREENSHOT"):
            tab.screenshot(path=f"{os.environ['ZOO_SCREENSHOT']}/serve-390.png", full_page=True)
        browser.close()
    assert not problems
    assert "/sample" in code and compile(code, "request", "exec")


def test_what_cannot_start_says_why() -> None:
    for words, told in ((["vae-mnist", "--host", "0.0.0.0"], "API key"), (["nope"], "unknown model")):
        environment = {k: v for k, v in os.environ.items() if k != "ZOO_API_KEY"}
        done = subprocess.run(
            [sys.executable, "-m", "zoo", "serve", *words], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr


def test_units_are_well_formed() -> None:
    unit = serving.ROOT / "deploy" / "zoo-serve.service"
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=120)
    told = [line for line in done.stderr.splitlines() if unit.name in line and "not executable" not in line]
    assert not told, told


@pytest.mark.slow
@proxied
def test_thirty_kills_lose_nothing(truth: Any) -> None:
    with running(NAME, proxy=True) as (server, port):

        async def scene() -> Any:
            paced = Paced(port, NAME, truth, rate=20)
            task = asyncio.create_task(paced.run())
            took = await kill_often(server, 30, random.Random(0))
            paced.ending.set()
            return took, await task

        took, tally = asyncio.run(scene())
    print(f"{len(took)} kills; ready again after {min(took):.1f} to {max(took):.1f} s; {tally}")
    assert set(tally.status) == {200} and not tally.wrong, str(tally)
    assert max(tally.seconds) <= 10.5
