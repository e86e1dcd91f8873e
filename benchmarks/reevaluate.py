"""Evaluate bundled models again as the code is now, and write their results and cards anew.

    python benchmarks/reevaluate.py [NAME ...]
    OMP_NUM_THREADS=1 python benchmarks/reevaluate.py --times
    python benchmarks/reevaluate.py --likelihoods NAME ...
    python benchmarks/reevaluate.py --cards [NAME ...]
    python benchmarks/reevaluate.py --plain [NAME ...]
    python benchmarks/reevaluate.py --seeds 3 NAME ...
    python benchmarks/reevaluate.py --trials NAME ...       # after zoo tune NAME --grid ...

Without names: those whose eval.json is of an older schema or lacks a constant of today's estimators. What is known of
their training, and what a person wrote on a card, stays. With ``--times`` only samples a second and the latency are
measured again, of all bundled models one after the other: speeds compare only where nothing else runs meanwhile. With
``--likelihoods`` only those are measured again, where the estimator of a bound has changed. With ``--cards`` nothing is
measured: cards are written anew from what is there. With ``--plain`` distances of samples that are simply drawn are
added, where a row's samples are guided, chosen or sharpened. With ``--seeds`` means over so many seeds of sampling,
with their standard errors, take the place of the numbers of one. With ``--trials`` what `zoo tune` left in results/NAME
goes into the bundle and onto its card.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from bundle import renew

import zoo
from zoo import searches
from zoo.evaluation.provenance import cost_of
from zoo.leaderboard import bundled_folder
from zoo.metrics.distribution import ESTIMATORS
from zoo.metrics.neighbours import NEIGHBOURS
from zoo.plain_sampling import plain_options
from zoo.registry import load_registry, pretrained_folder
from zoo.results import FILE, SCHEMA, read, write

FEW = 250  # samples drawn where only likelihoods are asked for


def outdated(folder: Path) -> bool:
    """Tell whether a bundled result lacks something that an evaluation records today."""
    if json.loads((folder / FILE).read_text(encoding="utf-8"))["schema"] < SCHEMA:
        return True
    protocol = read(folder).protocol
    return protocol.samples is not None and not {*ESTIMATORS, *NEIGHBOURS} <= set(protocol.estimators)


def card_of(name: str, *, look: bool = True) -> None:
    """Write the card of a bundled model anew from its eval.json; with ``look`` its diagnostics too."""
    folder = pretrained_folder(name)
    renew(load_registry()[name], folder, "", read(folder).cost.training.get("command"), look=look)


def take_trials(name: str, folder: Path) -> None:
    """Put the trials of these weights on validation data, which `zoo tune` left in results/NAME, into the bundle."""
    found = searches.read(Path("results") / name)
    own = read(folder).identity.weights_sha256
    trials = tuple(t for t in found.trials if t.split == "validation" and t.weights_sha256 == own)
    if not trials:
        raise SystemExit(f"results/{name} has no trial of the bundled weights of {name} on validation data")
    searches.write(replace(found, trials=trials), folder)
    print(f"{name}: {len(trials)} trials")


def over_seeds(name: str, folder: Path, seeds: int) -> None:
    """Put means over seeds of sampling, with their standard errors, in the place of the numbers of one seed."""
    before = read(folder)
    p = before.protocol
    if p.samples is None:
        print(f"{name}: its samples are not compared")
        return
    after = zoo.evaluate(name, samples=p.samples, seed=p.seeds[0], seeds=seeds, batch_size=p.batch_size, limit=1)
    found = {n: m for n, m in after.metrics.items() if not n.startswith(("bits_per", "nats"))}
    constants = {**p.estimators, **after.protocol.estimators}
    protocol = replace(p, seeds=after.protocol.seeds, estimators=constants)
    floor = {**before.floor, **after.floor}
    command = before.command.replace(f"--seed {p.seeds[0]}", f"--seed {p.seeds[0]} --seeds {seeds}", 1)
    command = before.command if len(p.seeds) > 1 else command
    write(replace(before, metrics={**before.metrics, **found}, protocol=protocol, floor=floor, command=command), folder)
    for metric in ("fid", "frechet_lite0", "kid"):
        if metric in found:
            m = found[metric]
            print(f"{name} {metric}: {before.metrics[metric].value:.6g} -> {m.value:.6g} ± {m.standard_error:.2g}")


def add_plain(name: str, folder: Path) -> None:
    """Add the distances of plain samples to a result, as many and of the same seeds as its own."""
    before = read(folder)
    p = before.protocol
    simple = plain_options(p.sampler)
    if not simple or p.samples is None:
        print(f"{name}: its samples are plain")
        return
    # measured as a model whose options are the plain ones; one test example is enough for likelihoods
    after = zoo.evaluate(
        name, options=simple, samples=p.samples, seed=p.seeds[0], seeds=len(p.seeds), batch_size=p.batch_size, limit=1
    )
    found = {f"{n}_plain": m for n, m in after.metrics.items() if n in ("fid", "kid") or n == "frechet_lite0"}
    protocol = replace(p, estimators={**p.estimators, "plain": simple})
    write(replace(before, metrics={**before.metrics, **found}, protocol=protocol), folder)
    for metric, value in found.items():
        print(f"{name} {metric}: {value.value:.6g}, beside {before.metrics[metric.removesuffix('_plain')].value:.6g}")


def times(name: str, folder: Path) -> None:
    """Measure how fast a model samples, on three seconds' worth of batches, and write that into its eval.json."""
    result, model = read(folder), zoo.load(name)
    size, options = result.protocol.batch_size, result.protocol.sampler
    model.sample(1, seed=0, **options)
    begin, drawn = time.perf_counter(), 0
    while time.perf_counter() - begin < 3:
        model.sample(size, seed=drawn, **options)
        drawn += size
    rate = drawn / (time.perf_counter() - begin)
    begin = time.perf_counter()
    model.sample(1, seed=1, **options)
    latency = time.perf_counter() - begin
    measured = cost_of(model, {"samples_per_second": rate, "latency_seconds": latency}, {})
    cost = replace(
        result.cost, samples_per_second=rate, latency_seconds=latency, hardware=measured.hardware,
        network_calls_per_sample=measured.network_calls_per_sample,
    )  # fmt: skip
    write(replace(result, cost=cost), folder)
    print(f"{name}: {result.cost.samples_per_second:.4g} -> {rate:.4g} samples/s, latency {latency:.3g} s")


def likelihoods(name: str, folder: Path) -> None:
    """Measure the likelihoods of a model again, beside few samples, and write them into its eval.json."""
    before = read(folder)
    p = before.protocol
    after = zoo.evaluate(name, samples=FEW, seed=p.seeds[0], seeds=len(p.seeds), k=p.k, batch_size=p.batch_size)
    found = {n: m for n, m in after.metrics.items() if n.startswith(("bits_per", "nats"))}
    write(replace(before, metrics={**before.metrics, **found}), folder)
    for metric, value in found.items():
        old = before.metrics[metric].value, before.metrics[metric].standard_error
        print(f"{name} {metric}: {old[0]:.6g} ({old[1]:.2g}) -> {value.value:.6g} ({value.standard_error:.2g})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--work", type=Path, help="where finished pieces are kept, so that it can go on")
    parser.add_argument("--times", action="store_true", help="only measure the speed of sampling again")
    parser.add_argument("--likelihoods", action="store_true", help="only measure the likelihoods of NAME ... again")
    parser.add_argument("--cards", action="store_true", help="only write cards anew")
    parser.add_argument("--plain", action="store_true", help="only add distances of plain samples")
    parser.add_argument("--trials", action="store_true", help="only take the trials in results/NAME onto the card")
    parser.add_argument("--seeds", type=int, help="only measure samples again, over so many seeds")
    args = parser.parse_args()
    bundled = [p.parent.name for p in sorted(bundled_folder().glob(f"*/{FILE}"))]
    if args.cards or args.plain or args.seeds or args.trials:
        for name in args.names or bundled:
            if args.trials:
                take_trials(name, pretrained_folder(name))
            if args.seeds:
                over_seeds(name, pretrained_folder(name), args.seeds)
            if args.plain:
                add_plain(name, pretrained_folder(name))
            card_of(name, look=False)
        return
    if args.likelihoods:
        for name in args.names:
            likelihoods(name, pretrained_folder(name))
            card_of(name)
        return
    if args.times:
        names = args.names or bundled
        for name in names:
            times(name, pretrained_folder(name))
        print("measured; the cards follow", flush=True)
        for name in names:
            card_of(name)
        return
    names = args.names or [p.parent.name for p in sorted(bundled_folder().glob(f"*/{FILE}")) if outdated(p.parent)]
    for name in names:
        folder = pretrained_folder(name)
        before = read(folder)
        p = before.protocol
        with tempfile.TemporaryDirectory() as out:
            after = zoo.evaluate(
                name, samples=p.samples or 10_000, seed=p.seeds[0], seeds=len(p.seeds), k=p.k, batch_size=p.batch_size,
                out=out, work=args.work,
            )  # fmt: skip
            (folder / FILE).write_bytes((Path(out) / FILE).read_bytes())
        card_of(name)
        for metric in before.metrics:
            print(f"{name} {metric}: {before.metrics[metric].value:.6g} -> {after.metrics[metric].value:.6g}")


if __name__ == "__main__":
    main()
