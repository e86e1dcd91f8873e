"""Hostile whole numbers in a published configuration, at every place of every class: refused, cheaply, in a sentence.

The limits of memory and time are the operating system's.
"""

from __future__ import annotations

import copy
import json
import math
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import warm

from zoo.errors import ConfigError, ZooError
from zoo.hub.folder import _construct
from zoo.registry import load_registry
from zoo.spec import to_public

ONE_A_CLASS = warm.one_of_each()
NEVER = (-1, -(2**63), 10**18, 10**400, 1.0, math.nan, True, "1", [1], {})
"""What no whole number of a model may be."""

LARGE = (10**9, 2**31, 2**20 + 1)
TRAINED = ("augment_images", "kl_steps", "pair_batches", "pair_seed", "weak_batches")
"""Counts of what training has done: nothing of that size is ever made, so they may be large."""

REPEATED = ("levels", "likelihood_examples", "likelihood_steps", "rate", "shape", "steps", "table", "teacher_steps")
"""Counts of what sampling does or data have, up to millions."""

_TYPES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64", torch.int32: "I32", torch.bool: "BOOL"}


def published(name: str) -> tuple[dict[str, Any], dict[str, tuple[str, tuple[int, ...]]]]:
    """Return the configuration of a registered model as it would be published, and the header of its weights."""
    model = load_registry().resolve(name).build_model()
    header = {n: (_TYPES[v.dtype], tuple(v.shape)) for n, v in model.state_dict().items()}
    public = to_public(model.spec, load_registry().classes())
    return {"model": public["name"], "args": public["args"]}, header


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every whole number, nested ones included."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        if type(value) is int:
            yield (*path, key)
        yield from places(value, (*path, key))


def changed(config: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    config = copy.deepcopy(config)
    node = config["args"]
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return config


def attack(names: list[str], share: int = 1) -> dict[str, int]:
    """Try every ``share``-th place with all values, and count; what is not refused as it must be is an error."""
    seen: set[Any] = set()
    tried = built = 0
    for name in names:
        config, header = published(name)
        for i, path in enumerate(places(config["args"])):
            own = tuple(key for key in path if key not in ("args", "name"))
            last = [key for key in own if isinstance(key, str)][-1]
            if (config["model"], own) in seen or i % share:
                continue
            seen.add((config["model"], own))
            large = [n for n in LARGE if last not in TRAINED and (n > 1 << 24 or last not in REPEATED)]
            for value in (*NEVER, *large):
                tried += 1
                try:
                    _construct(changed(config, path, value), header, "here")
                except ZooError as error:
                    assert len(str(error)) < 2500 and "\n" not in str(error)
                else:
                    raise AssertionError(f"{config['model']}: {own} may be {str(value)[:30]}")
            for value in (0, 1, 2, 65536) if i % (4 * share) == 0 else ():  # a model, or one sentence
                tried += 1
                try:
                    _construct(changed(config, path, value), header, "here")
                    built += 1
                except ZooError as error:
                    assert len(str(error)) < 2500
    return {"tried": tried, "built": built}


def within(memory: int, seconds: int, names: list[str], share: int = 1) -> dict[str, int]:
    """Return what `attack` counts, in a process that the system ends where it takes more memory or time."""
    torch.set_num_threads(1)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = pages * os.sysconf("SC_PAGE_SIZE") + memory
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    most = math.ceil(used.ru_utime + used.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (most, most))
    return attack(names, share)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits are those of Linux")
def test_hostile_numbers_of_some_classes(run_forked: Any) -> None:
    quick = [n for n in ONE_A_CLASS if n.partition("-")[0] in ("vae", "beta_vae", "wgan_gp", "wavenet")]
    counts = run_forked(within, 2 << 30, 30, quick, 6)
    assert counts["tried"] > 50


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits are those of Linux")
def test_two_thousand_hostile_numbers_of_all_classes(run_forked: Any) -> None:
    done = {"tried": 0, "built": 0}
    for name in ONE_A_CLASS:
        counts = run_forked(within, 2 << 30, 30, [name])
        done = {key: done[key] + counts[key] for key in done}
    print(f"{done['tried']:,} hostile numbers, {done['built']} of which describe a model that fits the weights")
    assert done["tried"] >= 2000


def test_shapes_and_messages() -> None:
    config, header = published("vae")
    for shape in ([10**9, 28, 28], [1, -1, 28], [1, 1.0, 28], [1, 28, 0], [2**13, 2**13, 2], [[1], 28, 28], 7, "28"):
        with pytest.raises(ConfigError) as refused:
            _construct(changed(config, ("shape",), shape), header, "here")
        assert "shape" in str(refused.value) and len(str(refused.value)) < 400
    with pytest.raises(ConfigError, match="'latent_dim' must be at least 1, got -1"):
        _construct(changed(config, ("latent_dim",), -1), header, "here")
    with pytest.raises(ConfigError, match=r"'latent_dim' is more than 2\*\*64"):
        _construct(json.loads(json.dumps(changed(config, ("latent_dim",), 10**400))), header, "here")
    with pytest.raises(ConfigError, match="'latent_dim' must be at least 1, got 0"):
        load_registry().resolve("vae").build_model(latent_dim=0)  # the same where a user writes it
