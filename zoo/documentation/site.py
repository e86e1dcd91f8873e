"""From the sources to the site: pages are gathered in one folder, Sphinx makes HTML of them, links are checked."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zoo import __version__
from zoo.documentation.accessible import repair
from zoo.documentation.commands import command_pages
from zoo.documentation.families import family_picture, with_models
from zoo.documentation.interface import interface_pages
from zoo.documentation.links import dead_links
from zoo.documentation.models import FAMILIES, leaderboard_page, model_page, models_page, small_sheet
from zoo.documentation.notebooks import notebook_page
from zoo.documentation.sources import Sources, find_sources
from zoo.errors import ConfigError
from zoo.leaderboard import bundled_folder
from zoo.registry import Entry, load_registry
from zoo.results import Result

__all__ = ["build_site", "site_folder", "stale"]

NEEDED = ("sphinx", "furo", "myst_parser", "sphinx_design", "sphinx_copybutton")
"""Packages of the extra ``docs``."""

_STAMP = ".built-from"
_SHOWN = 5


def site_folder() -> Path:
    """Return where the site is by default: ``$XDG_CACHE_HOME/zoo/docs``, or that in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zoo" / "docs"


def stale(folder: Path) -> bool:
    """Tell whether there is no site in a folder, or one of other sources than these."""
    stamp = folder / _STAMP
    return not stamp.is_file() or stamp.read_text(encoding="utf-8") != _digest()


def _digest() -> str:
    """Return what the site is made of in short: version, and names, sizes and times of the files."""
    root = find_sources()
    package = Path(__file__).resolve().parent.parent
    files = [p for top in (root / "docs", root / "notebooks") for p in top.rglob("*") if p.is_file()]
    files += [p for p in (*package.rglob("*.py"), *package.glob("pretrained/*/eval.json")) if p.is_file()]
    facts = [f"{p} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in sorted(files)]
    return hashlib.sha256("\n".join([__version__, *facts]).encode()).hexdigest()


def build_site(folder: Path, *, strict: bool = False) -> Path:
    """Build the site into a folder, whole or not at all, and return its first page.

    Args:
        folder: made, or filled anew if it holds a site; one that holds anything else is left alone.
        strict: refuse a site with a warning of Sphinx or a link that leads nowhere.

    Raises:
        ConfigError: the extra ``docs`` is missing, the folder holds something else, or ``strict`` found something.
    """
    absent = [name for name in NEEDED if find_spec(name) is None]
    if absent:
        raise ConfigError(
            f"the documentation is built by Sphinx, and {absent[0]} is not installed; "
            f"install it by: pip install 'generative-zoo[docs]'"
        )
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / _STAMP).is_file())):
        raise ConfigError(f"{folder} holds something that is no built documentation; give another folder, or empty it")
    with tempfile.TemporaryDirectory(prefix="zoo-docs-") as work:
        pages, made = Path(work, "pages"), Path(work, "site")
        missing = write_pages(pages)
        warnings = missing + _run_sphinx(pages, made, Path(work))
        repair(made)
        warnings += dead_links(made)
        if strict and warnings:
            shown = "; ".join(warnings[:_SHOWN])
            raise ConfigError(f"the documentation has {len(warnings)} warnings: {shown}")
        (made / _STAMP).write_text(_digest(), encoding="utf-8")
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.move(made, folder)
    return folder / "index.html"


def write_pages(folder: Path) -> list[str]:
    """Write the pages of the site, as Sphinx reads them, below a folder; return what is wrong with their links."""
    registry, results = load_registry(), _results()
    texts, pictures = _generated(registry, results)
    sources = Sources(find_sources(), {*texts, *pictures})

    def read(path: Path, target: Path) -> str:
        if path.suffix == ".ipynb":
            return notebook_page(path, target)
        return with_models(path.read_text(encoding="utf-8"), registry)

    sources.write(folder, read)
    for name, content in {**texts, **pictures}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return sources.missing


def _results() -> dict[str, Result]:
    """Return name -> result of the bundled weights, on the test split of their own data."""
    from zoo.leaderboard import collect

    known, _ = collect([bundled_folder()] if bundled_folder().is_dir() else [])
    return {r.identity.name: r for r in known if r.data.split == "test" and not r.protocol.quick}


def _generated(registry: Mapping[str, Entry], results: Mapping[str, Result]) -> tuple[dict[str, str], dict[str, bytes]]:
    """Return path on the site -> text of each page that is made, and path -> content of each picture."""
    from zoo._cli.arguments import options_of
    from zoo.trained_parts import declared

    texts = {"models/index.md": models_page(registry, results.values()),
             "leaderboard.md": leaderboard_page(registry, results.values())}  # fmt: skip
    pictures: dict[str, bytes] = {}
    for name, entry in registry.items():
        parts = declared(entry.model["class_path"], tuple(entry.allow))
        texts[f"models/{name}.md"] = model_page(entry, results.get(name), options_of(entry)["model"], parts)
        for kind in ("samples", "diagnostics"):
            path = bundled_folder() / name / f"{kind}.png"
            if path.is_file():
                pictures[f"models/{name}-{kind}.png"] = path.read_bytes()
                if kind == "samples":
                    pictures[f"models/{name}-small.png"] = small_sheet(path)
    for family in FAMILIES:
        picture = family_picture([e for e in registry.values() if e.family == family])
        if picture is not None:
            pictures[f"families/{family}.png"] = picture
    return {**texts, **command_pages(), **interface_pages()}, pictures


def _run_sphinx(pages: Path, made: Path, work: Path) -> list[str]:
    """Run Sphinx, and return its warnings, a sentence each."""
    from sphinx.application import Sphinx

    extra = work / "extra"
    _write_leaderboard(extra / "leaderboard")
    warned = io.StringIO()
    app = Sphinx(
        str(pages), None, str(made), str(work / "doctrees"), "html", confoverrides=settings(extra), status=None,
        warning=warned, freshenv=True,
    )  # fmt: skip
    app.build()
    for leftover in (".buildinfo", "objects.inv"):
        (made / leftover).unlink(missing_ok=True)
    text = re.sub(r"\x1b\[[0-9;]*m", "", warned.getvalue()).replace(f"{pages}{os.sep}", "")
    return [line for line in text.splitlines() if re.search(r"\b(WARNING|ERROR|CRITICAL)\b", line)]


def _write_leaderboard(folder: Path) -> None:
    """Write the page of the leaderboard that can be sorted."""
    from zoo.leaderboard import find, pins_of, tables, write_site

    registry = load_registry()
    found, left_out = find([bundled_folder()], pins_of(registry))
    arranged = tables([result for result, _ in found])
    write_site(folder, arranged, {id(result): path for result, path in found}, registry, left_out)
    (folder / "README.md").unlink()


def settings(extra: Path) -> dict[str, Any]:
    """Return the settings of Sphinx; ``extra`` holds files that go to the site as they are."""
    return {
        "project": "generative-zoo", "author": "the authors of generative-zoo", "version": __version__,
        "release": __version__, "root_doc": "index", "language": "en",
        "extensions": [
            "myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_design", "sphinx_copybutton",
            "zoo.documentation.extension",
        ],
        "source_suffix": {".md": "markdown", ".rst": "restructuredtext"},
        "myst_enable_extensions": ["colon_fence", "dollarmath", "deflist"], "myst_heading_anchors": 4,
        "myst_dmath_double_inline": True,
        "default_role": "py:obj", "highlight_language": "text", "python_use_unqualified_type_names": True,
        "autodoc_typehints": "signature", "autodoc_typehints_format": "short", "autodoc_member_order": "bysource",
        "autodoc_inherit_docstrings": False, "napoleon_use_ivar": True, "napoleon_numpy_docstring": False,
        "add_module_names": False, "maximum_signature_line_length": 100, "toc_object_entries": False,
        "html_theme": "furo", "html_title": f"generative-zoo {__version__}", "html_math_renderer": "mathml",
        "html_show_copyright": False,
        "html_static_path": [str(Path(__file__).resolve().parent / "assets")], "html_css_files": ["site.css"],
        "html_js_files": ["site.js"],
        "html_extra_path": [str(extra)], "html_copy_source": False, "html_show_sourcelink": False,
        "html_show_sphinx": False, "html_show_search_summary": False, "html_last_updated_fmt": None,
        "html_use_index": True, "html_domain_indices": False,
        "copybutton_prompt_text": "$ ",
    }  # fmt: skip
