"""``python -m zoo.leaderboard README.md docs/home_track.md docs/published.md benchmarks/results/leaderboard.csv``.

Brings generated tables up to date; a file that ends in .csv becomes all results of the bundled weights.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from zoo.errors import ZooError
from zoo.files import write_whole
from zoo.leaderboard import (
    best_table,
    bundled_folder,
    collect,
    home_table,
    model_table,
    pins_of,
    published_table,
    rewrite,
    tables,
    to_csv,
)
from zoo.registry import load_registry
from zoo.representations import shipped, to_table
from zoo.results import Result


def _csv(path: str, results: Sequence[Result]) -> bool:
    """Write the results as CSV; return whether the file has changed."""
    file, text = Path(path), to_csv(tables(results))
    changed = not file.is_file() or file.read_text(encoding="utf-8") != text
    if changed:
        write_whole(file, text.encode("utf-8"))
    return changed


def main(paths: list[str]) -> int:
    """Rewrite the blocks of each file; return the exit code."""
    try:
        bundled = bundled_folder()
        registry = load_registry()
        results, left_out = collect([bundled] if bundled.is_dir() else [], pins_of(registry))
        content = {"models": model_table(registry, results), "home": home_table(registry, results)}
        content["best"] = best_table(registry, results)
        content["published"] = published_table(registry, results)
        content["representations"] = to_table(shipped())
        for path in paths or ["README.md"]:
            changed = _csv(path, results) if path.endswith(".csv") else rewrite(path, content)
            sys.stdout.write(f"{path}: {'rewritten' if changed else 'up to date'}\n")
    except ZooError as error:
        sys.stderr.write(f"zoo: error: {error}\n")
        return 2
    for sentence in left_out:
        sys.stderr.write(f"left out: {sentence}\n")
    return 1 if left_out else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
