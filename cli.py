"""``python cli.py ...`` from a checkout: the same program as the console script ``zoo``."""

import sys

from zoo._cli import console

if __name__ == "__main__":
    sys.exit(console())
