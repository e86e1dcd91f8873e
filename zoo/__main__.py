"""``python -m zoo`` is the console script ``zoo``."""

import sys

from zoo._cli import console

sys.exit(console())
