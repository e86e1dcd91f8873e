"""``zoo test``: as `zoo validate`, over the test split."""

from __future__ import annotations

import argparse

from zoo._cli import validate

add_arguments = validate.add_arguments


def run(args: argparse.Namespace) -> int:
    return validate.run(args, "test")
