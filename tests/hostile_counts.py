"""Count what hostile inputs end in, part by part: a sentence, the right value, or anything else.

    python tests/hostile_counts.py                        # a sample of each part, as a table
    python tests/hostile_counts.py --all                  # all inputs
    python tests/hostile_counts.py --part requests
    PYTHONPATH=/an/older/checkout python tests/hostile_counts.py --all     # before and after

Each part runs in a child of its own, to which the system gives 2 GiB beyond its libraries, and limited processor time.
What an older checkout lacks, and the tests import, is stood in for; a part whose inputs cannot be made of it is said.
The counts are kept in benchmarks/results/hostile_counts.md.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import json
import os
import re
import resource
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

__all__ = ["ENDS", "PARTS", "count", "table"]

ENDS = ("sentence", "value", "taken", "traceback")
"""How an input can end; the last two must not happen. ``taken``: a value where only a refusal is right."""

MEMORY = 2 << 30


class Input(NamedTuple):
    """What is tried, and whether a refusal is the only right end of it."""

    what: str
    ask: Callable[[], Any]
    refuse: bool = True


GIVEN = (
    "class_log_probs", "classify", "codes", "control", "encode", "latents", "log_prob", "marginal_log_prob",
    "posterior", "reconstruct", "text", "vlb",
)  # fmt: skip
"""Methods that are given examples, where a model has them: `zoo.checking.EXAMPLES`, which older checkouts have not."""


class _Absent(BaseException):
    """What an older zoo has not was asked for; no input of it is counted."""


class _StandIn(Exception):
    def __init__(self, *args: Any, **options: Any) -> None:
        raise _Absent(type(self).__name__)


class _Late(BaseException):
    """The time of a part is over; what was counted until then stays."""


def _late(*unused: Any) -> None:
    raise _Late


def _tests(name: str) -> Any:
    """Import a module of the tests, with stand-ins for what an older zoo has not."""
    while True:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("zoo."):
                raise
            sys.modules[str(error.name)] = ModuleType(str(error.name))
        except ImportError as error:
            missing = re.search(r"cannot import name '(\w+)'", str(error))
            if missing is None or not (error.name or "").startswith("zoo"):
                raise
            setattr(sys.modules[str(error.name)], missing[1], type(missing[1], (_StandIn,), {}))


def _with_newer_facts() -> None:
    """Give models of an older zoo the facts that the tests ask them for: all of them draw, and are told no texts."""
    from zoo.model import GenerativeModel

    for name, fact in {"generates": True, "context": ()}.items():
        if not hasattr(GenerativeModel, name):
            setattr(GenerativeModel, name, fact)


def _models(share: int) -> Iterator[Any]:
    ONE_A_CLASS = _tests("test_checking").ONE_A_CLASS

    from zoo.registry import load_registry

    for name in ONE_A_CLASS[::share]:
        yield load_registry().resolve(name).build_model().eval()


def examples(scratch: Path, share: int) -> Iterator[Input]:
    from zoo.model import LikelihoodModel

    wrong_examples = _tests("test_checking").wrong_examples

    for model in _models(share):
        for name in GIVEN:
            method = getattr(model, name, None)
            if method is None or (name == "log_prob" and not isinstance(model, LikelihoodModel)):
                continue
            told = model.num_classes and "labels" in inspect.signature(method).parameters
            given = {"labels": [0, 0]} if told else {}
            for what, x in wrong_examples(model).items():
                yield Input(f"{type(model).__name__}.{name}: {what}", lambda m=method, x=x, g=given: m(x, **g))


def labels_and_seeds(scratch: Path, share: int) -> Iterator[Input]:
    seeds = (2**64, -(2**63) - 1, 10**400, float("nan"), 3.7, 3.0, True, "7", [1, 2], b"1")
    labels = ("7", ["1", "2"], [None, 1], {0, 1}, [0], [0.0, 1.0], [-1, 0], 2**70, [[0], [0]], True, object())
    for model in _models(share):
        name = type(model).__name__
        for seed in seeds:
            yield Input(f"{name}: seed {seed!r:.30}", lambda m=model, s=seed: m.sample(1, seed=s))
        for n in (0, -1, 2.0, "3", None, True, 10**400):
            yield Input(f"{name}: n {n!r:.30}", lambda m=model, n=n: m.sample(n))
        for given in labels:
            yield Input(f"{name}: labels {given!r:.30}", lambda m=model, g=given: m.sample(2, labels=g))


def copies(scratch: Path, share: int) -> Iterator[Input]:
    tests = _tests("test_copying")
    COPIES, assert_same, used = tests.COPIES, tests.assert_same, tests.used
    for model in (used(name) for name in _names(share)):
        for copied in COPIES:
            yield Input(type(model).__name__, lambda m=model, c=copied: assert_same(m, c(m)), refuse=False)


def _names(share: int) -> list[str]:
    return _tests("test_copying").ONE_A_CLASS[::share]


def checkpoints(scratch: Path, share: int) -> Iterator[Input]:
    import shutil

    import tiny

    import zoo

    tests = _tests("test_damaged_runs")
    CHECKPOINTS, rewrite = tests.CHECKPOINTS, tests.rewrite

    run = tiny.vae("--trainer.max_steps", "2", folder=scratch / "run").start()
    for what, damage in list(CHECKPOINTS.items())[::share]:
        edited = Path(shutil.copytree(run, scratch / what.replace(" ", "-")))
        rewrite(edited, damage)
        yield Input(what, lambda p=edited: zoo.load(str(p)))


def numbers(scratch: Path, share: int) -> Iterator[Input]:
    tests = _tests("test_hostile_numbers")
    NEVER, ONE_A_CLASS, changed, places = tests.NEVER, tests.ONE_A_CLASS, tests.changed, tests.places
    published = tests.published
    from zoo.hub.folder import _construct

    step = 1 if share == 1 else 2 * share
    for name in ONE_A_CLASS[::step]:
        config, header = published(name)
        for path in list(places(config["args"]))[::step]:
            for value in NEVER:
                one = changed(config, path, value)
                yield Input(f"{name} {path} {value!r:.20}", lambda c=one, h=header: _construct(c, h, "here"))


def folders(scratch: Path, share: int) -> Iterator[Input]:
    hub_cases, tests = _tests("hub_cases"), _tests("test_hostile")
    contents, registry, tiny_folder = hub_cases.contents, hub_cases.registry, hub_cases.tiny_folder
    CLASSES, NAMES, REVISIONS, weights = tests.CLASSES, tests.NAMES, tests.REVISIONS, tests.weights
    from zoo.hub.folder import load_files
    from zoo.model import Source
    from zoo.names import check_repo_id, check_revision

    os.environ["ZOO_REGISTRY"] = str(registry(scratch / "registry.yaml"))
    files = contents(tiny_folder(scratch / "good"))

    def load(**other: bytes) -> Any:
        changed = {name.replace("_", ".", 1): data for name, data in other.items()}
        return load_files({**files, **changed}, "here", Source("folder"), verify=False)

    for name in CLASSES[::share]:
        text = json.dumps({**json.loads(files["config.json"]), "model": name}).encode()
        yield Input(f"class {name!r:.40}", lambda t=text: load(config_json=t))
    for data in weights()[::share]:
        yield Input(f"weights {data[:30]!r}", lambda d=data: load(model_safetensors=d))
    for check, words in ((check_repo_id, NAMES), (check_revision, REVISIONS)):
        for word in words[::share]:
            yield Input(f"{check.__name__} {word!r:.40}", lambda c=check, w=word: c(w))


def results(scratch: Path, share: int) -> Iterator[Input]:
    from zoo.results import read

    tests = _tests("test_hostile_pages")
    REFUSED, text_with = tests.REFUSED, tests.text_with

    for i, (place, value) in enumerate(REFUSED[::share]):
        path = scratch / f"{i}.json"
        path.write_text(text_with(place, value))
        yield Input(f"{place} {value[:30]}", lambda p=path: read(p))


def requests(scratch: Path, share: int) -> Iterator[Input]:
    hostile_requests = _tests("hostile_requests")
    CASES, WIRE, Connection, fault = (getattr(hostile_requests, n) for n in ("CASES", "WIRE", "Connection", "fault"))
    listening, tiny_models = _tests("serving").listening, _tests("test_serve").tiny_models
    import zoo.serving.protocol as protocol
    from zoo.errors import ZooError
    from zoo.serving.app import build
    from zoo.serving.service import Service
    from zoo.serving.settings import Settings

    if not hasattr(protocol, "HTTPProtocol"):  # an older zoo's name for it
        protocol.HTTPProtocol = protocol.Protocol
    service = Service(tiny_models(), Settings(models=("vae-mnist",), deadline=60.0, queue=400))

    def ask(port: int, message: bytes, right: Iterable[int], head_only: bool) -> None:
        with contextlib.closing(Connection(port, 10.0)) as connection:
            answer = connection.ask(message, head_only)
        wrong = fault(answer, right, head_only)
        if wrong is not None:
            raise AssertionError(wrong)
        if answer.status != 200:
            raise ZooError("refused as it should be")

    with listening(build(service)) as port:
        sent = [(c.message({}), c.right, c.method == "HEAD") for c in CASES]
        for message, right, head_only in [*sent, *((m, r, False) for m, r in WIRE.values())][::share]:
            arguments = (port, message, right, head_only)
            yield Input(repr(message[:60]), lambda a=arguments: ask(*a), refuse=False)
    service.close()


PARTS: dict[str, Callable[[Path, int], Iterator[Input]]] = {
    part.__name__.replace("_", " "): part
    for part in (examples, labels_and_seeds, copies, checkpoints, numbers, folders, results, requests)
}


def _end(one: Input) -> tuple[str, str]:
    """Return how an input ended, and what was wrong with that."""
    from zoo.errors import ZooError

    try:
        one.ask()
    except ZooError as error:
        text = " ".join(str(error).split())
        fine = text.isprintable() and 0 < len(text) < 2500
        return ("sentence", "") if fine else ("traceback", f"a message that is none: {text[:100]!a}")
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {str(error)[:200]}"
    return ("taken", "") if one.refuse else ("value", "")


def count(part: str, share: int, seconds: int = 1200) -> dict[str, Any]:
    """Try every ``share``-th input of a part within the limits of this process, which may not be raised again.

    Returns:
        ``ends``: how many ended how, and ``faults``: the first twenty of those that should not have.
    """
    import torch

    torch.set_num_threads(1)
    _with_newer_facts()
    _tests("warm")  # what is imported late is imported now

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + MEMORY,) * 2)
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (most, most + 60))
    signal.signal(signal.SIGXCPU, _late)
    ends, faults = Counter(dict.fromkeys(ENDS, 0)), []
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for one in PARTS[part](Path(scratch), share):
                try:
                    end, wrong = _end(one)
                except _Absent:
                    continue
                ends[end] += 1
                if end in ("taken", "traceback") and len(faults) < 20:
                    faults.append(f"{one.what}: {wrong or end}")
        except _Late:
            faults.append(f"not all was tried: stopped after {seconds} s of processor time")
    return {"ends": dict(ends), "faults": faults}


def _in_a_child(part: str, share: int, seconds: int) -> dict[str, Any]:
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.close(read)
        try:
            found = count(part, share, seconds)
        except BaseException as error:
            found = {"ends": dict.fromkeys(ENDS, 0), "faults": [f"{type(error).__name__}: {str(error)[:300]}"]}
        with os.fdopen(write, "w") as stream:
            json.dump(found, stream)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        text = stream.read()
    _, status = os.waitpid(child, 0)
    return json.loads(text) if text else {"ends": dict.fromkeys(ENDS, 0), "faults": [f"killed: status {status}"]}


def table(found: dict[str, dict[str, Any]]) -> str:
    """Return the counts as a table in Markdown."""
    lines = [f"| part | inputs | {' | '.join(ENDS)} |", "|---|" + "---:|" * (1 + len(ENDS))]
    for part, one in found.items():
        ends = [one["ends"][end] for end in ENDS]
        lines.append(f"| {part} | {sum(ends):,} | {' | '.join(f'{n:,}' for n in ends)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=list(PARTS), help="only this one; may come several times")
    parser.add_argument("--all", action="store_true", help="all inputs, not every eighth")
    parser.add_argument("--seconds", type=int, default=1200, help="processor time of a part (default 1200)")
    args = parser.parse_args()
    found = {part: _in_a_child(part, 1 if args.all else 8, args.seconds) for part in args.part or PARTS}
    for part, one in found.items():
        for fault in one["faults"]:
            print(f"{part}: {fault}", file=sys.stderr)
    print(table(found))
    return 1 if any(one["faults"] for one in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
