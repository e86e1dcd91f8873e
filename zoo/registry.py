"""Names -> entries -> objects. Reading the registry imports no torch.

A name is ``<model>-<dataset>``, and may have a tag after a dot that says which of several recipes of this model and
data is meant, and which weights: ``.home`` is within the compute of the home track, ``.gpu`` is longer. Where there are
both, the name without a tag is an alias of the better weights, and trains the recipe of the home track.

The registry that ships is extended by overlays, later ones winning: those of installed packages, and the user's own
(see `zoo.overlays`). Only they can allow classes beyond those of the zoo, never what is loaded by them.
"""

from __future__ import annotations

import builtins
import copy
import fnmatch
import functools
import re
import stat
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, overload

import yaml

from zoo.bundled import pretrained_folder
from zoo.errors import (
    ConfigError,
    DataError,
    NotAGenerativeModelError,
    RegistryError,
    RenamedWarning,
    UnknownModelError,
    close_matches,
)
from zoo.overlays import Overlay, in_force, of_packages, of_user, record
from zoo.recipes import check_block
from zoo.spec import FOLLOWING, Recorded, allowed, build, class_paths, is_spec

if TYPE_CHECKING:
    from zoo.data.base import TensorData
    from zoo.feature_extractor import FeatureExtractor
    from zoo.model import GenerativeModel

__all__ = [
    "Entry",
    "Registry",
    "create",
    "in_force",
    "load_registry",
    "packaged_registry",
    "plain_yaml",
    "pretrained_folder",
]

NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,63}$")
_TAG, _HOME = re.compile(r"\.[a-z][a-z0-9_]*$"), ".home"
_TOP = {"format", "aliases", "deprecated", "data", "models", "allow"}
_ENTRY = {
    *("extends", "family", "summary", "paper", "model", "data", "trainer", "training"),
    *("evaluation", "expected", "weights", "untrained", "gpu"),
}
_CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
_MAX_BYTES, _MAX_DEPTH = 2_000_000, 100
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_KINDS = {"family": str, "summary": str, "extends": str, "untrained": str}  # all other fields of an entry are mappings


@dataclass(frozen=True)
class Entry:
    """One name of the registry: what it is, how it is trained, and where its weights are.

    Attributes:
        name: ``<model>-<dataset>``, perhaps with a tag.
        family: vae, gan, autoregressive, ...
        summary: one line for the table.
        paper: title, authors, year, arxiv.
        model: spec of the model.
        data: spec of the data module.
        trainer: arguments of Lightning's Trainer, ``max_steps`` among them.
        training: settings of the engine (ema, warmup, ...).
        evaluation: settings of the evaluation (k, ...).
        gpu: what the recipe changes on a GPU, see `zoo.recipes`.
        expected: metric -> [low, high], the band that a retrained model should fall into.
        weights: pins of the weights: bundled, repo, revision, sha256, size.
        untrained: why there are no weights, where there are none.
        allow: prefixes of class paths that the user's own overlays allow, all of them together.
        overlays: the registry files beside the one that ships that the entry comes from, or that allow its classes.
    """

    name: str
    family: str
    summary: str = ""
    paper: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    gpu: Mapping[str, Any] = field(default_factory=dict)
    expected: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] = field(default_factory=dict)
    untrained: str = ""
    allow: tuple[str, ...] = ()
    overlays: tuple[Overlay, ...] = ()

    @property
    def model_name(self) -> str:
        """The part before the first hyphen."""
        return self.name.partition("-")[0]

    @property
    def dataset(self) -> str:
        """The part after the first hyphen, without a tag."""
        return self.untagged.partition("-")[2]

    @property
    def untagged(self) -> str:
        """The name without a tag."""
        return _TAG.sub("", self.name)

    @property
    def tag(self) -> str:
        """The word after the dot, such as ``gpu``; empty for most."""
        return self.name[len(self.untagged) + 1 :]

    @property
    def pretrained(self) -> bool:
        """Whether weights can be had by this name."""
        return bool(self.weights)

    def kept(self) -> dict[str, Any]:
        """Return what a run and what is done with it later have of the entry, as plain data."""
        named = class_paths([self.model, self.data])
        needed = [a for a in self.allow if any(path == a or path.startswith(f"{a}.") for path in named)]
        return {"model": self.model, "data": self.data, "evaluation": self.evaluation, "allow": needed}

    def for_training(self) -> dict[str, Any]:
        """Return what a training needs (see `zoo.training.fit.Run`), as plain data."""
        whole = asdict(self)
        plain = {k: whole[k] for k in ("name", "model", "data", "trainer", "training")}
        registered = load_registry().get(self.name) if self.overlays else None
        return {**plain, "registry": record(self.overlays, None if registered is None else registered.kept())}

    def build_model(self, **overrides: Any) -> GenerativeModel:
        """Construct the model, with some constructor arguments replaced. Raises `ConfigError`."""
        model = build(_with(self.model, overrides), self.allow)
        if not isinstance(model, Recorded):  # which all models are
            raise NotAGenerativeModelError(f"{self.model['class_path']}, which {self.name} names,")
        return cast("GenerativeModel", model)

    def build_data(self, **overrides: Any) -> TensorData:
        """Construct the data module, with some constructor arguments replaced. Raises `ConfigError`."""
        return cast("TensorData", build(_with(self.data, overrides), self.allow))


def _with(spec: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {"class_path": spec["class_path"], "init_args": {**copy.deepcopy(spec.get("init_args") or {}), **overrides}}


class Registry(Mapping[str, Entry]):
    """All entries by name; `resolve` also knows aliases, deprecated names and close matches.

    Attributes:
        aliases: short name -> name, and name without a tag -> the one of its best weights.
        deprecated: name of before -> name.
        data: name of a data set -> spec.
        allow: prefixes of class paths that the user's own overlays allow beyond those of the zoo.
    """

    def __init__(
        self,
        entries: Mapping[str, Entry],
        aliases: Mapping[str, str] | None = None,
        deprecated: Mapping[str, str] | None = None,
        data: Mapping[str, Mapping[str, Any]] | None = None,
        allow: Sequence[str] = (),
    ) -> None:
        self._entries, self.aliases, self.deprecated = dict(entries), dict(aliases or {}), dict(deprecated or {})
        self.data, self.allow = dict(data or {}), tuple(allow)

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def resolve(self, name: str) -> Entry:
        """Return the entry of a name, a bare model name or a deprecated name. Raises `UnknownModelError`.

        Without a tag it is the entry of the best weights; ``.home`` is that of the home track, also where there is no
        other.
        """
        if name in self.deprecated:
            warnings.warn(
                f"{name!r} is now called {self.deprecated[name]!r}; it still loads by the name of before",
                RenamedWarning,
                stacklevel=2,
            )
            name = self.deprecated[name]
        name = self._full(name)
        if name not in self._entries:
            several = [e.name for e in self._entries.values() if name in (e.model_name, e.untagged)]
            if several:
                raise UnknownModelError(f"{name!r} may be any of {', '.join(several)}; give one of these names")
            near = close_matches(name, [*self._entries, *self.aliases])
            raise UnknownModelError(
                f"unknown model {name!r}.{near} Run `zoo list` (zoo.list() in Python) to see all {len(self)} names."
            )
        return self._entries[name]

    def recipe(self, name: str) -> Entry:
        """Return the entry that is trained by a name: as `resolve`, but without a tag that of the home track."""
        entry = self.resolve(name)
        if _TAG.search(name) or (name != entry.untagged and self.aliases.get(name) == entry.name):
            return entry
        return self._entries.get(f"{entry.untagged}{_HOME}", entry)

    def _full(self, name: str) -> str:
        """Return the name that aliases lead to; a tag may stand behind an alias too."""
        tag = _TAG.search(name)
        if tag is not None and name not in (*self._entries, *self.aliases):
            stem = name[: tag.start()]
            stem = self.aliases.get(stem, stem) if stem not in self._entries else stem
            known = stem if tag[0] == _HOME and f"{stem}{_HOME}" not in self._entries else f"{stem}{tag[0]}"
            return known if known in self._entries else name
        for _ in range(3):  # a model's name, a name without a tag, one with
            name = self.aliases.get(name, name)
        return name

    def data_spec(self, name: str) -> dict[str, Any]:
        """Return the spec of a data module by its name, such as ``binary_mnist``. Raises `DataError`."""
        if name not in self.data:
            raise DataError(f"unknown data set {name!r}.{close_matches(name, self.data)} Known: {', '.join(self.data)}")
        return _with(self.data[name], {})

    def find(
        self,
        pattern: str = "*",
        *,
        family: str | None = None,
        dataset: str | None = None,
        pretrained: bool | None = None,
    ) -> builtins.list[Entry]:
        """Return the entries that match a wildcard pattern and the given facts, in order of the registry.

        A pattern need not think of tags: it may match the name without.
        """
        return [
            e
            for e in self._entries.values()
            if any(fnmatch.fnmatchcase(n, pattern) for n in (e.name, e.untagged))
            and family in (None, e.family)
            and dataset in (None, e.dataset)
            and pretrained in (None, e.pretrained)
        ]

    def classes(self) -> dict[str, str]:
        """Short names of all classes that entries mention, or become on other data -> class paths.

        It is what a published config may name.
        """
        used = [[dict(e.model), dict(e.data)] for e in self._entries.values()]
        paths = sorted({*class_paths([used, [*self.data.values()]]), *FOLLOWING})
        return {p.rpartition(".")[2]: p for p in paths}


def packaged_registry() -> Path:
    """Return the path of the registry that ships: inside the package, or beside it in a checkout.

    Raises `RegistryError` where it is missing.
    """
    here = Path(__file__).resolve().parent
    for path in (here / "registry.yaml", here.parent / "registry.yaml"):
        if path.is_file():
            return path
    raise RegistryError("registry.yaml is missing from this installation; reinstall generative-zoo")


def load_registry(*overlays: str | Path) -> Registry:
    """Read the shipped registry and every overlay (see `zoo.overlays`). Raises `RegistryError`."""
    files = [Overlay(str(packaged_registry())), *of_packages(), *of_user(*overlays)]
    try:
        return _load(tuple((file, file.stamp) for file in files))
    except RecursionError as error:
        raise RegistryError(f"registry {files[-1].path}: nested too deeply, or in itself") from error


@functools.lru_cache(maxsize=8)
def _load(stamp: tuple[tuple[Overlay, int], ...]) -> Registry:
    """Read the registries, the one that ships first; one of an installed package that is wrong is left out."""
    kept: builtins.list[Overlay] = []
    for overlay, _ in stamp:
        try:
            if overlay.package:
                _merged((*kept, overlay))
        except RegistryError as error:
            warnings.warn(
                f"the registry that the installed package {overlay.distribution} brings is left out: {error}",
                stacklevel=3,
            )
        else:
            kept.append(overlay)
    return _merged(tuple(kept))


def _merged(overlays: Sequence[Overlay]) -> Registry:
    raw: dict[str, dict[str, Any]] = {}
    tables: dict[str, dict[str, Any]] = {"aliases": {}, "deprecated": {}, "data": {}}
    allow: dict[str, Overlay] = {}
    origin: dict[str, dict[Overlay, None]] = {}
    for position, overlay in enumerate(overlays):
        content = _read(Path(overlay.path))
        for prefix in _allowed_by(overlay, content, ships=position == 0):
            allow[prefix] = overlay
        if overlay.package:
            _check_adds(overlay, content, {"models": raw, **tables})
        for section, table in tables.items():
            table.update(content.get(section) or {})
        for name, entry in (content.get("models") or {}).items():
            _check_entry(overlay.path, name, entry)
            raw[name] = _merge(raw[name], entry) if name in raw else entry
            if position:
                origin.setdefault(name, {})[overlay] = None
    shipped = overlays[0]
    entries, brought = {}, {}
    for name in raw:
        files = _origins(name, raw, origin)
        last = next(reversed(origin.get(name, {shipped: None})))
        entries[name] = _entry(name, _extended(name, raw), allow, last.path, files)
        if last.package:
            brought[name] = entries[name]
    aliases, deprecated = tables["aliases"], tables["deprecated"]
    for short, target in {**aliases, **deprecated}.items():
        if aliases.get(target, target) not in entries:
            raise RegistryError(f"registry: {short[:100]!r} points to {target[:100]!r}, which does not exist")
    own = _bare_names({n: e for n, e in entries.items() if n not in brought}, {*aliases, *deprecated})
    before = {e.model_name for n, e in entries.items() if n not in brought}
    theirs = _bare_names(brought, {*aliases, *deprecated, *before})
    return Registry(entries, {**theirs, **own, **aliases}, deprecated, tables["data"], tuple(allow))


def _allowed_by(overlay: Overlay, content: Mapping[str, Any], *, ships: bool) -> builtins.list[str]:
    """Return the prefixes of class paths that a registry may allow: the one that ships none, a package's its own."""
    said = [*(content.get("allow") or ())]
    if ships and said:
        raise RegistryError("the registry that ships may not widen the allow-list")
    beyond = [p for p in said if p.partition(".")[0] != overlay.package] if overlay.package else []
    if beyond:
        raise RegistryError(
            f"registry {overlay.path} allows {beyond[0][:100]!r}; the registry of an installed package can allow "
            f"classes of its own package {overlay.package!r} only"
        )
    return said or ([overlay.package] if overlay.package else [])


def _check_adds(overlay: Overlay, content: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a package's registry that changes what is there: an installed package brings names, and takes none."""
    names = {*known["models"], *known["aliases"], *known["deprecated"]}
    for section in ("models", "aliases", "deprecated", "data"):
        there = known["data"] if section == "data" else names
        taken = [n for n in content.get(section) or {} if n in there or _TAG.sub("", str(n)) in there]
        if taken:
            raise RegistryError(
                f"registry {overlay.path}: {str(taken[0])[:100]!r} is a name already, which only a file of the user's "
                f"own can change"
            )


def _origins(
    name: str, raw: Mapping[str, Mapping[str, Any]], origin: Mapping[str, Mapping[Overlay, None]]
) -> dict[Overlay, None]:
    """Return the overlays that an entry, and those that it extends, come from; `_extended` refuses circles."""
    found: dict[Overlay, None] = {}
    seen: set[str] = set()
    current: str | None = name
    while current is not None and current in raw and current not in seen:
        seen.add(current)
        found.update(origin.get(current, {}))
        current = raw[current].get("extends")
    return found


def _bare_names(entries: Mapping[str, Entry], taken: set[str]) -> dict[str, str]:
    """Return model name -> name for those models that have a single entry, where the word means nothing else yet."""
    found: dict[str, builtins.list[Entry]] = {}
    for entry in entries.values():
        found.setdefault(entry.model_name, []).append(entry)
    names = {}
    for short, several in found.items():
        stems = {entry.untagged for entry in several}
        if short in taken or short in entries or len(stems) > 1:
            continue
        (stem,) = stems
        if stem in entries or stem in taken or len(several) == 1:
            names[short] = stem if stem in entries or stem in taken else several[0].name
    return names


def _read(path: Path) -> dict[str, Any]:
    try:
        text = _bytes(path).decode("utf-8")
        content = yaml.load(text, Loader=_LOADER) if path == packaged_registry() else plain_yaml(text)
    except OSError as error:
        raise RegistryError(f"registry {path} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise RegistryError(f"registry {path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise RegistryError(f"registry {path}: expected a mapping with the key 'models'")
    for key in content:
        if key not in _TOP:
            raise RegistryError(f"registry {path}: unknown key {str(key)[:100]!r}.{close_matches(str(key), _TOP)}")
    _check_sections(path, content)
    if content.get("format", 1) != 1:
        raise RegistryError(
            f"registry {path}: format {str(content['format'])[:100]!r} is newer than this zoo; upgrade the zoo"
        )
    return content


def _bytes(path: Path) -> bytes:
    """Return what is in a file, or comes through a pipe; a device, such as one that never ends, is neither."""
    if stat.S_ISCHR(path.stat().st_mode):
        raise RegistryError(f"registry {path}: a device, not a file; name a YAML file")
    with path.open("rb") as stream:
        data = stream.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise RegistryError(f"registry {path}: larger than {_MAX_BYTES} bytes")
    return data


def plain_yaml(text: str, *, aliases: bool = True) -> Any:
    """Return what YAML text says, safely loaded; deep nesting, which the C loader does not survive, is refused before.

    Args:
        text: the document.
        aliases: whether it may have aliases, a few bytes of which can stand for billions of nodes.

    Raises:
        yaml.YAMLError: no YAML, nested more than 100 levels deep, or with an alias that may not be there.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise yaml.YAMLError(f"nested more than {_MAX_DEPTH} levels deep")
        if not aliases and isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(f"an alias stands in line {event.start_mark.line + 1}")
    return yaml.load(text, Loader=_LOADER)


def _check_sections(path: Path, content: Mapping[str, Any]) -> None:
    for section in ("aliases", "deprecated", "data", "models"):
        if not isinstance(content.get(section) or {}, dict):
            raise RegistryError(f"registry {path}: {section!r} must be a mapping")
    for section in ("aliases", "deprecated"):
        if not all(isinstance(word, str) for pair in (content.get(section) or {}).items() for word in pair):
            raise RegistryError(f"registry {path}: {section!r} must map names to names")
    for name, spec in (content.get("data") or {}).items():
        if not (isinstance(name, str) and is_spec(spec) and isinstance(spec.get("init_args") or {}, dict)):
            raise RegistryError(
                f"registry {path}: the data set {str(name)[:100]!r} must have a class_path, and init_args at most"
            )
    allow = content.get("allow") or []
    if not isinstance(allow, builtins.list) or not all(isinstance(prefix, str) for prefix in allow):
        raise RegistryError(f"registry {path}: 'allow' must be a list of class paths")


def _check_entry(path: str, name: Any, entry: Any) -> None:
    if not isinstance(name, str) or not NAME.match(name):
        raise RegistryError(f"registry {path}: the name {str(name)[:100]!r} must match {NAME.pattern}")
    if not isinstance(entry, dict):
        raise RegistryError(f"registry {path}: entry {name!r} must be a mapping")
    for key in entry:
        if key not in _ENTRY:
            raise RegistryError(
                f"registry {path}: entry {name!r} has an unknown key {str(key)[:100]!r}."
                f"{close_matches(str(key), _ENTRY)}"
            )
        kind = _KINDS.get(key, dict)
        if not isinstance(entry[key], kind):
            what = "text" if kind is str else "a mapping"
            raise RegistryError(f"registry {path}: {key!r} of entry {name!r} must be {what}")
    check_block(f"registry {path}: entry {name!r}", entry.get("gpu", {}))


def _extended(name: str, raw: Mapping[str, dict[str, Any]], seen: tuple[str, ...] = ()) -> dict[str, Any]:
    entry = raw[name]
    parent = entry.get("extends")
    if parent is None:
        return entry
    if parent not in raw or parent in (*seen, name):
        raise RegistryError(
            f"registry: entry {name!r} extends {str(parent)[:100]!r}, which does not exist or extends it in turn"
        )
    own = {"weights", "untrained", "expected", "gpu"} | ({"paper"} & set(entry))
    inherited = {k: v for k, v in _extended(parent, raw, (*seen, name)).items() if k not in own}
    merged: dict[str, Any] = _merge(inherited, {k: v for k, v in entry.items() if k != "extends"})
    return merged


def _merge(base: Any, top: Any) -> Any:
    """Merge mappings key by key; a spec of another class replaces the whole spec."""
    if not (isinstance(base, dict) and isinstance(top, dict)):
        return copy.deepcopy(top)
    if "class_path" in top and top["class_path"] != base.get("class_path"):
        return copy.deepcopy(top)
    return {
        k: _merge(base[k], top[k]) if k in base and k in top else copy.deepcopy(top.get(k, base.get(k)))
        for k in {**base, **top}
    }


def _entry(
    name: str, content: Mapping[str, Any], allow: Mapping[str, Overlay], origin: str, files: Mapping[Overlay, None]
) -> Entry:
    for part in ("family", "model", "data"):
        if part not in content:
            raise RegistryError(f"registry: entry {name!r} lacks {part!r}")
    for part in ("model", "data"):
        if not is_spec(content[part]) or not isinstance(content[part].get("init_args") or {}, dict):
            raise RegistryError(f"registry: {part!r} of entry {name!r} must have a class_path, and init_args at most")
    try:
        paths = sorted(class_paths([content["model"], content["data"]]))
    except ConfigError as error:
        raise RegistryError(f"registry: entry {name!r}: {error}") from error
    for path in paths:
        if not allowed(path, tuple(allow)):
            raise RegistryError(
                f"registry: entry {name!r} names {path[:200]!r}, which is not on the allow-list"
                f"{_to_allow(path, origin)}"
            )
    granting = {o: None for prefix, o in allow.items() if any(allowed(p, (prefix,)) > allowed(p) for p in paths)}
    return Entry(name=name, allow=tuple(allow), overlays=tuple({**files, **granting}), **content)


def _to_allow(path: str, origin: str) -> str:
    """Return what to write into the user's own file, so that a class of theirs, and nothing beside it, is allowed."""
    if origin == str(packaged_registry()) or not _CLASS_PATH.fullmatch(path) or len(path) > 200:
        return ""
    listed = Path(origin).is_file() and _read(Path(origin)).get("allow")
    what = f"{path} to the list 'allow' of" if listed else f"the line `allow: [{path}]` to"
    return f"; if you trust it, add {what} {origin}"


@overload
def create(
    name: str,
    *,
    data: TensorData | str | None = None,
    size: str | None = None,
    features_only: Literal[False] = False,
    **arguments: Any,
) -> GenerativeModel: ...


@overload
def create(
    name: str,
    *,
    data: TensorData | str | None = None,
    size: str | None = None,
    features_only: Literal[True],
    **arguments: Any,
) -> FeatureExtractor: ...


def create(
    name: str,
    *,
    data: TensorData | str | None = None,
    size: str | None = None,
    features_only: bool = False,
    **arguments: Any,
) -> GenerativeModel | FeatureExtractor:
    """Construct a registered model, untrained: ``zoo.create("wgan_gp", lr=2e-4)``.

    With ``data`` it is what ``zoo fit --model NAME --data DATA`` trains: its shape, its classes and its networks follow
    from them, as in ``zoo.create("ddpm", data=ImageFolder("pics", size=64), size="large")``.

    Args:
        name: a name of the registry.
        data: a data module, or the name of a data set.
        size: of the networks, of `zoo.sizes.SIZES`.
        features_only: return a module x, (B, *shape) -> features, (B, *feature_shape), instead of the model; for models
            with features, latents or a posterior (see `zoo.feature_extractor`).
        arguments: constructor arguments that replace those of the entry; ``num_classes="data"`` is the number of
            classes of the data.

    Raises:
        UnknownModelError: no such name.
        DataError: no such data set.
        ConfigError: no such argument, a wrong type, networks that cannot have the shape of the data, or no features.
    """
    if features_only:
        from zoo.feature_extractor import FeatureExtractor

        return FeatureExtractor(create(name, data=data, size=size, **arguments))
    registry = load_registry()
    entry = registry.recipe(name)
    if data is not None or size is not None or arguments.get("num_classes") == "data":
        module = build(registry.data_spec(data), registry.allow) if isinstance(data, str) else data
        entry = replace(entry, model=_following(entry, module, size, arguments))
    elif arguments:
        entry = replace(entry, model=_with_own_networks(entry, arguments))
    model = entry.build_model(**{k: v for k, v in arguments.items() if k != "num_classes" or v != "data"})
    model.source = replace(model.source, name=entry.name)
    return model


def _with_own_networks(entry: Entry, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec of an entry's model whose networks map what the arguments say, such as another ``latent_dim``."""
    from zoo.fitting import FitsData, fitted_model
    from zoo.spec import class_of

    spec = _with(entry.model, {})
    before = spec["init_args"]
    cls = class_of(spec["class_path"], entry.allow)
    if "shape" not in before or not issubclass(cls, FitsData):
        return spec
    after = {**before, **arguments}
    if any(isinstance(before.get(name), int) and type(value) is not int for name, value in arguments.items()):
        return spec
    shapes: Any = cls.network_shapes
    try:
        networks = shapes(before)
        changed = networks != shapes(after)
    except (ArithmeticError, KeyError, LookupError, TypeError, ValueError):
        return spec  # which the constructor refuses in its own words
    if not changed or networks.keys() & arguments.keys():
        return spec
    return fitted_model(
        spec, after, after["shape"], after.get("num_classes") or 0, named=set(arguments), allow=entry.allow
    )


def _following(entry: Entry, data: TensorData | None, size: str | None, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec of an entry's model as it follows from data, a size, and what is chosen."""
    from zoo.fitting import conditioned, fitted_to_data
    from zoo.sizes import sized_model

    theirs = arguments.get("num_classes") == "data"
    chosen = {k: v for k, v in arguments.items() if k != "num_classes" or not theirs}
    spec = _with(entry.model, {})
    if data is not None:
        options = {**spec["init_args"], **chosen}
        spec = fitted_to_data(spec, options, data, named=set(chosen), allow=entry.allow)
    if theirs and data is None:
        raise ConfigError(f"num_classes='data' is that of data; say which: zoo.create({entry.name!r}, data=...)")
    spec = conditioned(spec, data.num_classes, entry.allow) if theirs and data is not None else spec
    return sized_model(spec, size, entry.allow) if size is not None else spec
