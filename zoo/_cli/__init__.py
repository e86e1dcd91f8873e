"""The command line: a light front that parses, then calls one public function of the zoo.

Each command is a module ``zoo._cli.<command>`` with ``add_arguments(parser)`` and ``run(args) -> int``; it imports
nothing heavy at the top. `fit`, `validate` and `test` hand their options on to LightningCLI.
"""

from zoo._cli.main import console, main

__all__ = ["console", "main"]
