"""Which registry files are in force beside the one that ships: the user's own, and those of installed packages.

The user's own are, later ones winning: ``$XDG_CONFIG_HOME/zoo/registry.yaml``, the files that ``ZOO_REGISTRY`` names,
and files given by ``--registry``. An installed package brings one by an entry point of the group
``generative_zoo.registries``, whose value says where it is, package and file:

    [project.entry-points."generative_zoo.registries"]
    mine = "my_models:registry.yaml"

The package is not imported to find it. It must belong to the distribution that names it, and nothing else may be
imported on behalf of its registry.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ConfigError

if TYPE_CHECKING:
    from importlib.metadata import Distribution

__all__ = [
    "GROUP", "Difference", "Overlay", "asking", "in_force", "of_packages", "of_user", "record", "settle", "unlike",
]  # fmt: skip

GROUP = "generative_zoo.registries"
_VARIABLE = "ZOO_REGISTRY"
_VALUE = re.compile(r"(?P<package>[A-Za-z_]\w*)(?P<below>(?:\.\w+)*):(?P<file>[\w-]+\.ya?ml)", re.ASCII)
_MOST = 16
"""Files of which a run is asked whether they are in force."""


@dataclass(frozen=True)
class Overlay:
    """A registry file, and whose it is.

    Attributes:
        path: where it is.
        package: the one package of which it may name classes; empty for the user's own, which say it by ``allow``.
        distribution: name of the installed distribution, empty for the user's own.
        version: of the distribution.
    """

    path: str
    package: str = ""
    distribution: str = ""
    version: str = ""

    @property
    def stamp(self) -> int:
        """Time of the last change, 0 where there is no file."""
        try:
            return os.stat(self.path).st_mtime_ns
        except OSError:
            return 0


def of_user(*further: str | Path) -> list[Overlay]:
    """Return the user's own overlays, and these files, each once, in the order in which they win."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "zoo" / "registry.yaml"
    paths: list[str | Path] = [config] if config.is_file() else []
    named = os.environ.get(_VARIABLE, "")
    several = [named] if os.path.isfile(named) else named.split(os.pathsep)
    paths += [p for p in [*several, *further] if p]
    return [Overlay(str(p)) for p in {os.path.abspath(p): p for p in paths}.values()]


@contextmanager
def in_force(*overlays: str | Path) -> Iterator[None]:
    """Let all that reads the registry inside read these overlays too, in child processes as well."""
    before = os.environ.get(_VARIABLE)
    if overlays:
        os.environ[_VARIABLE] = os.pathsep.join([*filter(None, [before]), *(os.path.abspath(p) for p in overlays)])
    try:
        yield
    finally:
        if overlays and before is None:
            del os.environ[_VARIABLE]
        elif overlays:
            os.environ[_VARIABLE] = before


def of_packages() -> list[Overlay]:
    """Return the registries that installed packages bring; one that breaks the rules is told, and passed over."""
    return list(_of_packages(tuple(sys.path)))


@functools.lru_cache(maxsize=8)
def _of_packages(path: tuple[str, ...]) -> tuple[Overlay, ...]:
    if not any(map(_names_group, path)):
        return ()
    import importlib.metadata

    found: dict[tuple[str, str], Overlay] = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        distribution = point.dist
        if distribution is None:
            continue
        name = str(distribution.metadata["Name"])
        overlay = _located(point.value, distribution, name)
        if isinstance(overlay, str):
            warnings.warn(f"the registry that the installed package {name} brings is left out: {overlay}", stacklevel=3)
        else:
            found.setdefault((name, point.value), overlay)
    return tuple(found.values())


def _names_group(folder: str) -> bool:
    """Tell whether some distribution in a folder has our entry points: asking all of them takes ten times as long."""
    try:
        with os.scandir(folder or ".") as entries:
            inside = [e.path for e in entries if e.name.endswith((".dist-info", ".egg-info"))]
    except OSError:  # a zip archive, or nothing
        return folder.endswith((".zip", ".egg", ".whl")) and os.path.isfile(folder)
    for place in inside:
        try:
            with open(os.path.join(place, "entry_points.txt"), "rb") as stream:
                if GROUP.encode() in stream.read():
                    return True
        except OSError:
            continue
    return False


def _located(value: str, distribution: Distribution, name: str) -> Overlay | str:
    """Return the overlay that an entry point names, or what is wrong with it."""
    match = _VALUE.fullmatch(value)
    if match is None:
        return f"{value[:100]!r} is not of the form package:file.yaml"
    package = match["package"]
    home = _home(package, distribution)
    if home is None:
        return f"the package {package!r} is not its own"
    file = home.joinpath(*match["below"].split(".")[1:], match["file"])
    if not file.is_file():
        return f"there is no file {match['file']} in {package}{match['below']}"
    return Overlay(str(file), package, name, str(distribution.version))


def _home(package: str, distribution: Distribution) -> Path | None:
    """Return the folder of a package, without importing it, if it is one of the distribution's own."""
    if package in sys.stdlib_module_names or package == "zoo":
        return None
    if any(file.parts[:1] == (package,) for file in distribution.files or ()):
        return Path(str(distribution.locate_file(package)))
    import importlib.util

    source = _editable(distribution)  # installed in place: the files are where the source is
    spec = importlib.util.find_spec(package) if source is not None else None
    for folder in (spec.submodule_search_locations if spec is not None else None) or ():
        if source in Path(folder).resolve().parents:
            return Path(folder)
    return None


def _editable(distribution: Distribution) -> Path | None:
    """Return the folder that a distribution is installed from in place, None for an ordinary installation."""
    import json
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    try:
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        if not origin["dir_info"]["editable"] or not origin["url"].startswith("file://"):
            return None
        return Path(url2pathname(urlsplit(origin["url"]).path)).resolve()
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


@dataclass(frozen=True)
class Difference:
    """A registry file of a run that is not in force now as it was then.

    Attributes:
        clause: what is different, to follow "was made with".
        changed: path of the file, where it is in force and says something else now; empty where it is not in force.
    """

    clause: str
    changed: str = ""


@dataclass
class _Asking:
    """How a command settles a difference: by what was typed, or by asking."""

    accepted: set[str]
    ask: Callable[[str], bool] | None


_asking: _Asking | None = None


@contextmanager
def asking(typed: Sequence[str | Path], ask: Callable[[str], bool] | None) -> Iterator[None]:
    """Let what loads a run inside ask before it takes what a registry file says now for what it said then.

    Args:
        typed: the files that the user named on this command, as they are now: there is nothing to ask.
        ask: puts a question to the user; None where nobody answers.
    """
    global _asking
    before, _asking = _asking, _Asking({os.path.abspath(p) for p in typed}, ask)
    try:
        yield
    finally:
        _asking = before


def settle(run: str | Path, differences: Sequence[Difference]) -> None:
    """Say what is different since a run was made; what has changed in force is gone on with as the user decides.

    Outside of a command, that is from Python, it is said.

    Raises:
        ConfigError: the user did not agree, or nobody could be asked.
    """
    for found in differences:
        sentence = f"{Path(run)} was made with {found.clause}"
        decides = _asking is not None and found.changed and found.changed not in _asking.accepted
        if not decides:
            warnings.warn(f"{sentence}; what it says now holds" if found.changed else sentence, stacklevel=4)
            continue
        if _asking.ask is not None and _asking.ask(f"{sentence}; go on with what it says now?"):
            _asking.accepted.add(found.changed)
            continue
        raise ConfigError(f"{sentence}; to go on with what it says now, add --registry {found.changed}")


def record(overlays: Sequence[Overlay], content: Any = None) -> list[dict[str, str]]:
    """Return what a run keeps of the registry files that it was made with: which, and the sha256 of each.

    Args:
        overlays: the files.
        content: what the run has of them, plain data: a file that says more or less elsewhere is still the same to it.
    """
    taken = {} if content is None else {"entry": _digest(content)}
    kept = []
    for overlay in overlays:
        whose = {"distribution": overlay.distribution, "version": overlay.version} if overlay.distribution else {}
        kept.append({"path": os.path.abspath(overlay.path), "sha256": _sha256(overlay), **taken, **whose})
    return kept


def _digest(content: Any) -> str:
    import hashlib
    import json

    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _sha256(overlay: Overlay) -> str:
    if not os.path.isfile(overlay.path):  # a pipe is read once
        return ""
    import hashlib

    return hashlib.sha256(Path(overlay.path).read_bytes()).hexdigest()


def unlike(recorded: Any, overlays: Sequence[Overlay], content: Any = None) -> list[Difference]:
    """Return what differs for each registry file of a record that is not in force now as it was then.

    Only files that are in force are looked at: what a record names is never opened, nor brought into force.

    Args:
        recorded: what a run says, of which nothing is believed but words.
        overlays: those that are in force.
        content: what the run would have of them now, as `record` takes it.
    """
    now = {os.path.abspath(o.path): o for o in overlays}
    brought = {o.distribution: o for o in overlays if o.distribution}
    known = {_sha256(o) for o in overlays}
    same = None if content is None else _digest(content)
    said = []
    for item in recorded[:_MOST] if isinstance(recorded, list) else []:
        if not isinstance(item, Mapping) or not all(isinstance(v, str) for v in item.values()) or "path" not in item:
            continue
        if item.get("sha256") in known or (item["path"] in now and same is not None and item.get("entry") == same):
            continue
        what, distribution = ascii(item["path"][:300]), item.get("distribution", "")
        if distribution:
            here = brought.get(distribution)
            of = f"the registry of the package {distribution[:100]!a} {item.get('version', '')[:50]!a}"
            said.append(Difference(of + (f", which is {here.version} now" if here else ", which is not installed now")))
        elif item["path"] in now:
            said.append(Difference(f"the registry file {what}, which has changed since", item["path"]))
        else:
            clause = f"the registry file {what}, which is not in force now; if you trust it, add --registry {what}"
            said.append(Difference(clause))
    return said
