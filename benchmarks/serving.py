"""What the server holds: load, overload, kills of workers, drains. Everything stays on this machine's loopback.

python benchmarks/serving.py load vae-mnist            # one core for server and client together
python benchmarks/serving.py overload                  # bursts of 200 and 1,000, with the proxy and without
python benchmarks/serving.py kills --kills 30          # SIGKILL at random moments, with the proxy profile
python benchmarks/serving.py both                      # both workers at the same moment
python benchmarks/serving.py bare                      # kills without the proxy: what is lost
python benchmarks/serving.py drain --times 20          # SIGTERM under load
python benchmarks/serving.py drain --times 200 --forked  # the same, of servers that are forked instead of started anew
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from draining import LOST_NOTHING, counted, runs
from serving import (
    Client,
    Paced,
    Tally,
    ask,
    burst,
    children,
    kill_often,
    question,
    resident,
    running,
    truth_of,
)

NAME = "vae-mnist"


def cpu_seconds(pids: list[int]) -> float:
    """Return the CPU time that processes have used."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def bare_rate(name: str, n: int) -> float:
    """Return requests a second of CPU time of the bare model, drawn 64 rows at a time, without encoding."""
    import torch

    import zoo

    torch.set_num_threads(1)
    model = zoo.load(name)
    model.sample(64, seed=0)
    rounds, start = 0, time.process_time()
    while time.process_time() - start < 1.5 or rounds < 2:
        model.sample(64, seed=rounds)
        rounds += 1
    return rounds * 64 / n / (time.process_time() - start)


async def loaded(port: int, name: str, connections: int, n: int, seconds: float) -> Tally:
    """Ask over so many connections, each as fast as answers come."""
    tally, end = Tally(), time.monotonic() + seconds

    async def one(lane: int) -> None:
        client, seed = Client(port), lane
        while time.monotonic() < end:
            start = time.monotonic()
            status, _, body = await client.ask("POST", f"/v1/models/{name}/sample", question(n, seed))
            tally.add(status, time.monotonic() - start, body)
            seed += connections
        client.close()

    await asyncio.gather(*(one(lane) for lane in range(connections)))
    return tally


def load(args: argparse.Namespace) -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"{args.name}: one core for server and client, {args.n} images a request as one PNG sheet, 1 worker")
    rate = bare_rate(args.name, args.n)
    print(f"bare model, 64 rows at a time, nothing encoded: {rate:.0f} requests a second of CPU time")
    options = ["--queue", "100", "--deadline", "60"]
    with running(args.name, workers=1, options=options) as (server, port):
        asyncio.run(loaded(port, args.name, 4, args.n, 1.0))
        pids = [server.process.pid, *children(server.process.pid), os.getpid()]
        for connections in args.connections:
            start, before = time.monotonic(), cpu_seconds(pids)
            tally = asyncio.run(loaded(port, args.name, connections, args.n, args.seconds))
            took, busy, done = time.monotonic() - start, cpu_seconds(pids) - before, tally.status[200]
            print(
                f"{connections} connections, {took:.0f} s: {done / took:.0f} requests a second, {done / busy:.0f} "
                f"a second of CPU time (server and client had {100 * busy / took:.0f} % of the core); {tally}",
                flush=True,
            )


def overload(args: argparse.Namespace) -> None:
    for proxy in (True, False):
        with running(NAME, proxy=proxy) as (server, port):
            asyncio.run(burst(port, NAME, 20))
            pids = [server.process.pid, *children(server.process.pid)]
            for count in (200, 1000):
                before = resident(pids)
                tally = asyncio.run(burst(port, NAME, count))
                done = time.monotonic()
                refused = max(tally.by_status.get(503, [0.0]))
                while asyncio.run(_seconds(port)) > 0.5 and time.monotonic() - done < 30:
                    time.sleep(0.1)
                grown = (resident(pids) - before) / 2**20
                way = "with" if proxy else "without"
                print(
                    f"{way} the proxy, {count} at once: {tally}; slowest refusal {refused:.2f} s; "
                    f"memory {grown:+.0f} MiB; normal again after {time.monotonic() - done:.1f} s",
                    flush=True,
                )


async def _seconds(port: int) -> float:
    start = time.monotonic()
    status, _, _ = await ask(port, "POST", f"/v1/models/{NAME}/sample", question(16, 0))
    return time.monotonic() - start if status == 200 else 99.0


def kills(args: argparse.Namespace) -> None:
    proxy, both = args.command != "bare", args.command == "both"
    truth = truth_of(NAME)
    with running(NAME, proxy=proxy) as (server, port):

        async def scene() -> Any:
            paced = Paced(port, NAME, truth, rate=args.rate)
            task = asyncio.create_task(paced.run())
            took = await kill_often(server, args.kills, random.Random(args.seed), both=both, most=args.most)
            paced.ending.set()
            return took, await task

        took, tally = asyncio.run(scene())
    what = (
        f"{len(took)} x SIGKILL of {'both workers' if both else 'a worker'}, {'with' if proxy else 'without'} the proxy"
    )
    print(f"{what}: ready again after {min(took):.1f} to {max(took):.1f} s; {args.rate:g} requests a second: {tally}")
    over = sum(s > 10.5 for s in tally.seconds)
    print(f"open longer than the deadline of 10 s and 0.5 s: {over}")


def drain(args: argparse.Namespace) -> None:
    truth, total, left = truth_of(NAME), Tally(), 0
    if args.forked:
        found = counted(args.times, truth, NAME)
        print(", ".join(f"{key} {value}" for key, value in found.items() if key not in ("how", "codes")), end="")
        print(f"; exit codes {found['codes']} {[how for how in found['how'] if how != '{}'] or ''}")
        return
    for _ in range(args.times):
        with running(NAME) as (server, port):
            pids = [server.process.pid, *children(server.process.pid)]
            tally = asyncio.run(_drained(server, port, truth))
            time.sleep(1)  # helpers of multiprocessing see that their parent is gone, and end
            left += sum(map(runs, pids))
        total.status += tally.status
        total.reasons += tally.reasons
        total.seconds += tally.seconds
        total.wrong += tally.wrong
    lost = {r: c for r, c in total.reasons.items() if r not in LOST_NOTHING}
    print(f"{args.times} x SIGTERM under load: {total}")
    print(f"lost of those whose head a worker had read: {sum(lost.values())} {lost or ''}; processes left: {left}")


async def _drained(server: Any, port: int, truth: Any) -> Tally:
    paced = Paced(port, NAME, truth, rate=40, careful=True)
    task = asyncio.create_task(paced.run())
    await asyncio.sleep(random.uniform(0.3, 0.8))
    server.process.send_signal(signal.SIGTERM)
    await asyncio.to_thread(server.process.wait, 60)
    paced.ending.set()
    return await task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["load", "overload", "kills", "both", "bare", "drain"])
    parser.add_argument("name", nargs="?", default=NAME)
    parser.add_argument("-n", type=int, default=16)
    parser.add_argument("--connections", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=float, default=600.0, help="seconds after which no more kills are made")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--forked", action="store_true", help="drain: fork servers from this process")
    args = parser.parse_args()
    import torch

    print(f"$ python benchmarks/serving.py {' '.join(sys.argv[1:])}")
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    {"load": load, "overload": overload, "drain": drain}.get(args.command, kills)(args)


if __name__ == "__main__":
    main()
