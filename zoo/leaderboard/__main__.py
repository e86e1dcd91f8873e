"""``python -m zoo.leaderboard README.md docs/home_track.md docs/published.md``: bring generated tables up to date."""

from __future__ import annotations

import sys

from zoo.errors import ZooError
from zoo.leaderboard import (
    best_table,
    bundled_folder,
    collect,
    home_table,
    model_table,
    pins_of,
    published_table,
    rewrite,
)
from zoo.registry import load_registry


def main(paths: list[str]) -> int:
    """Rewrite the blocks of each file; return the exit code."""
    try:
        bundled = bundled_folder()
        registry = load_registry()
        results, left_out = collect([bundled] if bundled.is_dir() else [], pins_of(registry))
        content = {"models": model_table(registry, results), "home": home_table(registry, results)}
        content["best"] = best_table(registry, results)
        content["published"] = published_table(registry, results)
        for path in paths or ["README.md"]:
            changed = rewrite(path, content)
            sys.stdout.write(f"{path}: {'rewritten' if changed else 'up to date'}\n")
    except ZooError as error:
        sys.stderr.write(f"zoo: error: {error}\n")
        return 2
    for sentence in left_out:
        sys.stderr.write(f"left out: {sentence}\n")
    return 1 if left_out else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
