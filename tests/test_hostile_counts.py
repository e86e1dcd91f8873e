"""What hostile inputs of every part end in: a sentence or the right value, within limits of the system."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from hostile_counts import ENDS, GIVEN, PARTS, count, table

from zoo.checking import EXAMPLES

CHEAP = ("checkpoints", "folders", "results", "labels and seeds")
"""Parts a sample of which the default suite counts; the tests of the others try a sample of their own."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits are those of Linux")
@pytest.mark.parametrize(
    "part, share",
    [*((p, 16) for p in CHEAP), *(pytest.param(p, 1, marks=pytest.mark.slow) for p in PARTS)],
)
def test_nothing_ends_in_a_traceback(part: str, share: int, run_forked: Callable[..., Any]) -> None:
    if part == "requests":
        pytest.importorskip("fastapi", reason="the extra serve is not installed")
    found = run_forked(count, part, share, timeout=3600)
    print(table({part: found}))
    assert found["faults"] == [] and sum(found["ends"].values()) >= 2 and set(found["ends"]) == set(ENDS)


def test_what_is_asked_of_older_checkouts_is_what_is_checked_now() -> None:
    assert GIVEN == EXAMPLES
