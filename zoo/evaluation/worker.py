"""One further process of an evaluation: ``python -m zoo.evaluation.worker FOLDER RANK WORLD DEVICE [ALLOW...]``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from zoo.errors import ZooError
from zoo.evaluation.chunks import Chunk, Store, Task
from zoo.evaluation.devices import EXAMPLES, JOB, WEIGHTS
from zoo.spec import build

__all__ = ["share"]


def share(folder: str | Path, rank: int, world: int, device: str, allow: Sequence[str] = ()) -> None:
    """Do one share of the job that lies in ``folder``; who starts it says what its spec may name, not the folder."""
    folder = Path(folder)
    job: Mapping[str, Any] = json.loads((folder / JOB).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    model = build(job["spec"], allow)
    model.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    model = model.to(device, getattr(torch, job["dtype"])).eval()
    given = load_file(folder / EXAMPLES)

    def examples(start: int, stop: int) -> tuple[Tensor, Tensor]:
        return given["x"][start:stop], given["labels"][start:stop]

    task = Task(model, examples, job["options"], job["levels"], given.get("conditions"))
    task.work([Chunk(**chunk) for chunk in job["chunks"]], Store(folder), rank=rank, world=world)


def _main(arguments: Sequence[str]) -> int:
    folder, rank, world, device, *allow = arguments
    try:
        share(folder, int(rank), int(world), device, allow)
    except ZooError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
