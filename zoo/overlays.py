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
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["GROUP", "Overlay", "in_force", "of_packages", "of_user", "record", "unlike"]

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


def _located(value: str, distribution: importlib.metadata.Distribution, name: str) -> Overlay | str:
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


def _home(package: str, distribution: importlib.metadata.Distribution) -> Path | None:
    """Return the folder of a package, without importing it, if it is one of the distribution's own."""
    if package in sys.stdlib_module_names or package == "zoo":
        return None
    if any(file.parts[:1] == (package,) for file in distribution.files or ()):
        return Path(str(distribution.locate_file(package)))
    source = _editable(distribution)  # installed in place: the files are where the source is
    spec = importlib.util.find_spec(package) if source is not None else None
    for folder in (spec.submodule_search_locations if spec is not None else None) or ():
        if source in Path(folder).resolve().parents:
            return Path(folder)
    return None


def _editable(distribution: importlib.metadata.Distribution) -> Path | None:
    """Return the folder that a distribution is installed from in place, None for an ordinary installation."""
    try:
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        if not origin["dir_info"]["editable"] or not origin["url"].startswith("file://"):
            return None
        return Path(urllib.request.url2pathname(urllib.parse.urlsplit(origin["url"]).path)).resolve()
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def record(overlays: Sequence[Overlay]) -> list[dict[str, str]]:
    """Return what a run keeps of the registry files that it was made with: which, and the sha256 of each."""
    kept = []
    for overlay in overlays:
        whose = {"distribution": overlay.distribution, "version": overlay.version} if overlay.distribution else {}
        kept.append({"path": os.path.abspath(overlay.path), "sha256": _sha256(overlay), **whose})
    return kept


def _sha256(overlay: Overlay) -> str:
    if not os.path.isfile(overlay.path):  # a pipe is read once
        return ""
    return hashlib.sha256(Path(overlay.path).read_bytes()).hexdigest()


def unlike(recorded: Any, overlays: Sequence[Overlay]) -> list[str]:
    """Return a clause for each registry file of a record that is not in force now as it was then.

    Only files that are in force are looked at: what a record names is never opened, nor brought into force.

    Args:
        recorded: what a run says, of which nothing is believed but words.
        overlays: those that are in force.
    """
    now = {os.path.abspath(o.path): o for o in overlays}
    brought = {o.distribution: o for o in overlays if o.distribution}
    known = {_sha256(o) for o in overlays}
    said = []
    for item in recorded[:_MOST] if isinstance(recorded, list) else []:
        if not isinstance(item, Mapping) or not all(isinstance(v, str) for v in item.values()) or "path" not in item:
            continue
        if item.get("sha256") in known:
            continue
        what, distribution = ascii(item["path"][:300]), item.get("distribution", "")
        if distribution:
            here = brought.get(distribution)
            of = f"the registry of the package {distribution[:100]!a} {item.get('version', '')[:50]!a}"
            said.append(of + (f", which is {here.version} now" if here else ", which is not installed now"))
        elif item["path"] in now:
            said.append(f"the registry file {what}, which has changed since; what it says now holds")
        else:
            said.append(f"the registry file {what}, which is not in force now; if you trust it, add --registry {what}")
    return said
