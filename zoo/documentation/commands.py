"""The reference of the command line, from the parsers of its commands."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from zoo.documentation.markup import cell, fence, orphan, table

__all__ = ["command_pages"]

_EXAMPLE = "vae-mnist"
"""The entry whose options stand on the page of a command that trains."""


def command_pages() -> dict[str, str]:
    """Return path on the site -> text of the page: one for each command, and one that lists them."""
    from zoo._cli.main import COMMANDS, OWN_HELP, PASS_ON, _parser

    pages = {}
    for name, about in COMMANDS.items():
        parser = _parser(name)
        lines = [
            *orphan(),
            f"# zoo {name}",
            "",
            "[Command line](../commands.md)",
            "",
            f"{about[0].upper()}{about[1:]}.",
        ]
        lines += ["", *fence("text", _usage(parser)), ""]
        lines += _arguments(parser)
        if name in OWN_HELP:
            lines += _of_training()
        elif name in PASS_ON:
            lines += ["", "Options of the model, of its data and of the training are those of [zoo fit](fit.md)."]
        pages[f"reference/commands/{name}.md"] = "\n".join(lines) + "\n"
    rows = [(f"[`zoo {name}`](commands/{name}.md)", cell(about)) for name, about in COMMANDS.items()]
    about = (
        "`zoo COMMAND --help` says the same in a terminal. `zoo -v COMMAND` tells more of what is done; exit codes are "
        "0, 2 for what you can mend, 1 for what came out otherwise, and 130 after Ctrl-C."
    )
    head = ["# Command line", "", about, "", *table(("command", "what it does"), rows), ""]
    return {"reference/commands.md": "\n".join(head) + "\n", **pages}


def _usage(parser: argparse.ArgumentParser) -> str:
    return " ".join(parser.format_usage().removeprefix("usage: ").split())


def _arguments(parser: argparse.ArgumentParser) -> list[str]:
    """Return the table of what a command takes, positional arguments first."""
    actions = sorted(parser._actions, key=lambda action: bool(action.option_strings))
    rows = [(_written(a), cell((a.help or "").replace("%%", "%"))) for a in actions if a.help != argparse.SUPPRESS]
    return table(("argument", "meaning"), rows)


def _written(action: argparse.Action) -> str:
    name = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if not action.option_strings:
        return f"`{cell(name)}`"
    takes = (
        "" if action.nargs == 0 else f" {'{' + ','.join(map(str, action.choices)) + '}' if action.choices else name}"
    )
    return ", ".join(f"`{cell(option + takes)}`" for option in action.option_strings)


def _of_training() -> list[str]:
    from zoo._cli.arguments import options_of
    from zoo.registry import load_registry

    lines = ["", "What follows depends on the model; the values are those of "
             f"[{_EXAMPLE}](../../models/{_EXAMPLE}.md). Each model has its own options on its page."]  # fmt: skip
    for group, options in options_of(load_registry()[_EXAMPLE]).items():
        lines += ["", f"## {group.capitalize()}", "", *table(("option", "value", "meaning"), _rows(options))]
    return lines


def _rows(options: Iterable[Any]) -> list[tuple[str, str, str]]:
    return [(f"`{o.name}`", f"`{cell(str(o.value))}`", cell(o.meaning)) for o in options]
