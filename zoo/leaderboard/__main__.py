"""``python -m zoo.leaderboard README.md``: bring the model table of a file up to date with registry and results."""

from __future__ import annotations

import sys

from zoo.errors import ZooError
from zoo.leaderboard import bundled_folder, collect, model_table, rewrite
from zoo.registry import load_registry


def main(paths: list[str]) -> int:
    """Rewrite the table in each file; return the exit code."""
    try:
        bundled = bundled_folder()
        results, left_out = collect([bundled] if bundled.is_dir() else [])
        table = model_table(load_registry(), results)
        for path in paths or ["README.md"]:
            changed = rewrite(path, table)
            sys.stdout.write(f"{path}: {'rewritten' if changed else 'up to date'}\n")
    except ZooError as error:
        sys.stderr.write(f"zoo: error: {error}\n")
        return 2
    for sentence in left_out:
        sys.stderr.write(f"left out: {sentence}\n")
    return 1 if left_out else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
