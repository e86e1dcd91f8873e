"""Print constraints that pin every dependency of pyproject.toml to the oldest version that it allows.

    python deploy/oldest.py --pin > constraints.txt && pip install -c constraints.txt ".[test]"

With ``--free`` there are none, so that one command of a matrix serves both.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

FLOOR = re.compile(r'"([A-Za-z0-9._-]+)(?:\[[a-z,]+\])?>=([0-9.]+)[^"]*"')


def floors(pyproject: str) -> dict[str, str]:
    """Return name -> oldest version of the dependencies that everybody installs."""
    block = re.search(r"^dependencies = \[$(.*?)^\]$", pyproject, re.MULTILINE | re.DOTALL)
    if block is None:
        raise ValueError("pyproject.toml has no list of dependencies")
    return dict(FLOOR.findall(block[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--pin", action="store_true", help="the oldest versions")
    which.add_argument("--free", action="store_true", help="no constraints")
    args = parser.parse_args()
    text = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    lines = [f"{name}=={version}.*" for name, version in floors(text).items()] if args.pin else []
    sys.stdout.write("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
