"""A Ray cluster of this machine whose replicas and proxy are killed; prints what clients saw, as JSON.

    unshare -rn sh -c 'ip link set lo up && exec python tests/ray_cluster.py'

In a network of its own, for Ray listens on all addresses.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import random
import signal
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

REQUESTS, KILLS, CLIENTS, PORT, MODEL = 400, 3, 8, 8000, "vae-mnist"


def ask(seed: int, n: int, timeout: float = 15.0) -> tuple[int, bytes]:
    body = json.dumps({"n": n, "seed": seed, "format": "npz"}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/v1/models/{MODEL}/sample", body, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""
    except OSError:
        return 0, b""


def insist(seed: int, n: int, until: float) -> tuple[list[int], bytes]:
    """Ask until there is an answer; return all statuses and the answer."""
    seen = []
    while time.monotonic() < until:
        status, body = ask(seed, n)
        seen.append(status)
        if status == 200:
            return seen, body
        time.sleep(0.2)
    return seen, b""


def processes(title: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if words.startswith(f"ray::{title}".encode()):
            found.append(int(path.parent.name))
    return found


def killing(done: list[int], waits: list[float]) -> None:
    """Kill a replica after each quarter of the requests, and note how long the next takes to be there."""
    for k in range(KILLS):
        while len(done) < REQUESTS * (k + 1) // (KILLS + 1):
            time.sleep(0.05)
        before = processes("ServeReplica")
        os.kill(random.choice(before), signal.SIGKILL)
        start = time.monotonic()
        while len(processes("ServeReplica")) >= len(before) and time.monotonic() < start + 10:
            time.sleep(0.05)
        while len(processes("ServeReplica")) < len(before) and time.monotonic() < start + 120:
            time.sleep(0.1)
        waits.append(round(time.monotonic() - start, 1))


def outage() -> float:
    """Kill the proxy; return the seconds until a request is answered again."""
    start = time.monotonic()
    for pid in processes("ProxyActor"):
        os.kill(pid, signal.SIGKILL)
    while ask(0, 1, 5.0)[0] != 200:
        if time.monotonic() > start + 180:
            return float("inf")
        time.sleep(0.2)
    return time.monotonic() - start


def main() -> None:
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", OMP_NUM_THREADS="1")
    import io

    import numpy as np
    import ray
    import torch
    from ray import serve

    import zoo
    from zoo.serving.cluster import build

    ray.init(
        address="local", num_cpus=4, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False,
        configure_logging=False, object_store_memory=100 * 2**20,
    )  # fmt: skip
    serve.start(http_options={"host": "127.0.0.1", "port": PORT, "request_timeout_s": 10.5})
    serve.run(build({"models": MODEL, "replicas": "2", "deadline": "10"}), name="zoo", route_prefix="/")
    cases = [(seed, 1 + seed % 16) for seed in range(REQUESTS)]
    done: list[int] = []
    waits: list[float] = []

    def one(case: tuple[int, int]) -> tuple[list[int], bytes]:
        result = insist(*case, time.monotonic() + 60)
        done.append(1)
        return result

    with concurrent.futures.ThreadPoolExecutor(CLIENTS + 1) as pool:
        killer = pool.submit(killing, done, waits)
        answers = list(pool.map(one, cases))
        killer.result()
    torch.set_num_threads(1)
    model, wrong = zoo.load(MODEL), 0
    for (seed, n), (_, body) in zip(cases, answers, strict=True):
        if not body:
            continue
        with np.load(io.BytesIO(body)) as found:
            pixels = (torch.from_numpy(found["samples"]) * 255).round()
        wrong += not torch.equal(pixels, (model.sample(n, seed=seed) * 255).round())
    statuses = [s for seen, _ in answers for s in seen]
    told = {str(s): statuses.count(s) for s in sorted(set(statuses))}
    facts = {
        "requests": REQUESTS, "answered": sum(bool(body) for _, body in answers), "wrong": int(wrong),
        "kills": len(waits), "statuses": told, "seconds_until_replaced": waits,
        "outage_of_the_proxy": round(outage(), 1),
    }  # fmt: skip
    sys.stdout.write(json.dumps(facts) + "\n")
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
