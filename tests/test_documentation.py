"""The site: what is generated says what registry, cards, parsers and code say, and links lead somewhere."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_numbers import is_recorded, recorded, told
from test_page import CHROMIUM, LACKS, PATIENCE, faults_of

import zoo
from zoo._cli.main import COMMANDS, _parser, main
from zoo.catalogue import bibtex
from zoo.documentation import accessible, interface, site
from zoo.documentation.code_lines import code_lines, place_of
from zoo.documentation.commands import command_pages
from zoo.documentation.docstrings import as_markup
from zoo.documentation.families import family_picture, with_models
from zoo.documentation.interface import CONTRACT, ROOMS, interface_pages, modules_of
from zoo.documentation.links import dead_links
from zoo.documentation.models import FAMILIES, leaderboard_page, model_page, models_page
from zoo.documentation.notebooks import notebook_page
from zoo.documentation.sources import Sources, find_sources
from zoo.errors import ConfigError
from zoo.leaderboard import bundled_folder
from zoo.registry import load_registry

ROOT = find_sources()
FAMILY_PAGES = sorted(p for p in (ROOT / "docs" / "families").glob("*.md") if p.stem != "index")
RESULTS = site._results()
KNOWN = recorded()
Capture = pytest.CaptureFixture[str]


# -- families ---------------------------------------------------------------------------------------------------------


def test_every_family_has_a_page_and_each_page_an_equation_a_law_and_a_line_of_code() -> None:
    families = {entry.family for entry in load_registry().values()}
    assert families == set(FAMILIES) == {page.stem for page in FAMILY_PAGES}
    for page in FAMILY_PAGES:
        text = page.read_text(encoding="utf-8")
        assert text.count("\n$$\n") >= 2 and code_lines(text) and f"<!-- models: {page.stem} -->" in text, page.name
        if family_picture([e for e in load_registry().values() if e.family == page.stem]) is not None:
            assert f"]({page.stem}.png)" in text, page.name


@pytest.mark.parametrize("page", FAMILY_PAGES, ids=lambda p: p.stem)
def test_lines_that_are_equations_stand_in_the_code_and_laws_are_tests(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for where, lines in code_lines(text):
        assert place_of(where, lines) is not None, (where, lines)
    files = {
        name: (Path(__file__).parent / name).read_text(encoding="utf-8")
        for name in re.findall(r"`tests/(\w+\.py)`", text)
    }
    laws = re.findall(r"`(test_\w+)`", text)
    assert files and laws
    for law in laws:
        assert any(f"def {law}(" in code for code in files.values()), law


def test_a_line_that_is_not_in_the_code_is_noticed() -> None:
    where = "zoo.maths.quantisers:straight_through"
    number = place_of(where, ["return z + (z_q - z).detach()"])
    assert number is not None
    source = Path(importlib.import_module("zoo.maths.quantisers").__file__ or "").read_text(encoding="utf-8")
    assert source.splitlines()[number - 1].strip() == "return z + (z_q - z).detach()"
    assert place_of(where, ["return z + (z_q + z).detach()"]) is None
    assert place_of("zoo.maths.quantisers", ["return z + (z_q - z).detach()"]) == number


def test_models_of_a_family_are_listed_on_its_page() -> None:
    page = with_models("before\n<!-- models: gan -->\nafter", load_registry())
    for entry in load_registry().values():
        assert (f"../models/{entry.name}" in page) == (entry.family == "gan"), entry.name


# -- models -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(RESULTS))
def test_numbers_of_a_model_page_are_those_of_its_result(name: str) -> None:
    entry, result = load_registry()[name], RESULTS[name]
    page = model_page(entry, result, [], {})
    values = [f"{v.value:.{d}f}" for k, d in (("fid", 2), ("kid", 4)) if (v := result.metrics.get(k)) is not None]
    assert all(value in page for value in values), values
    assert not [n for n in told(page.split("::::")[0]) if not is_recorded(n, KNOWN)]
    assert f'zoo.load("{name}")' in page and f"zoo fit --model {name}" in page and bibtex(entry.paper) in page
    assert (f"{name}-samples.png" in page) == (bundled_folder() / name / "samples.png").is_file()
    assert ("## Licence" in page and "## Choices" in page) or not result.protocol.sampler


def test_page_of_a_model_without_weights_says_how_to_train_it() -> None:
    entry = load_registry()["edm-mnist"]
    options = [type("Option", (), {"name": "--model.lr", "value": 0.1, "meaning": "a | b"})()]
    page = model_page(entry, None, options, {})
    assert "none yet" in page and 'zoo.create("edm-mnist")' in page and "## Numbers" not in page
    assert "| `--model.lr` | `0.1` | a \\| b |" in page


def test_pages_of_all_models_lead_to_each_of_them() -> None:
    registry, results = load_registry(), RESULTS
    page = models_page(registry, results.values())
    assert all(f"[`{name}`]({name}.md)" in page for name in registry)
    board = leaderboard_page(registry, results.values())
    assert "[stylegan-mnist](models/stylegan-mnist.md)" in board and 'href="leaderboard/index.html"' in board


# -- commands and Python ----------------------------------------------------------------------------------------------


def test_every_command_and_every_option_of_it_has_a_place_in_the_reference() -> None:
    pages = command_pages()
    for name in COMMANDS:
        page = pages[f"reference/commands/{name}.md"]
        assert f"commands/{name}" in pages["reference/commands.md"]
        for option in _parser(name)._option_string_actions:
            assert f"`{option}" in page, (name, option)
    assert "`--model.latent_dim`" in pages["reference/commands/fit.md"]


def test_every_public_name_and_module_has_a_place_in_the_reference() -> None:
    pages = interface_pages()
    for name in zoo.__all__:
        if name != "__version__":
            assert f".{name}" in pages["reference/python.rst"]
    for page, modules in {"contract": CONTRACT, **{room: modules_of(room) for room in ROOMS}}.items():
        assert modules
        for module in modules:
            assert importlib.util.find_spec(module) is not None
            assert f"automodule:: {module}\n" in pages[f"reference/{page}.rst"]
    families = {e.model["class_path"].rpartition(".")[0] for e in load_registry().values()}
    assert {m for m in families if m.startswith("zoo.families.")} <= set(modules_of("families"))


def test_a_module_whose_package_is_not_there_has_no_place(tmp_path: Path) -> None:
    module = tmp_path / "one.py"
    for text, has in (("import json", True), ("from none_such.at_all import x", False), ("import none_such", False)):
        module.write_text(f'{text}\n__all__ = ["x"]\n')
        assert interface._documented(module) == has
    module.write_text("import json\n")
    assert not interface._documented(module)


def test_signs_of_formulas_in_docstrings_are_no_markup() -> None:
    said = [
        "Return |x|, x_ and `zoo.load`, with ``a*b``.",
        "",
        "    L = |v|^2 * x_",
        "",
        "Args:",
        "    x: of |y| *rows.",
    ]
    assert as_markup(said) == [
        r"Return \|x\|, x\_ and `zoo.load`, with ``a*b``.", "", "::", "", "    L = |v|^2 * x_", "", "Args:",
        r"    x: of \|y\| \*rows.",
    ]  # fmt: skip


# -- pages that people write, and their links -------------------------------------------------------------------------


def _places_of_generated_pages() -> set[str]:
    names = [f"models/{name}.md" for name in (*load_registry(), "index")]
    pictures = [f"families/{family}.png" for family in FAMILIES]
    return {*names, *pictures, "leaderboard.md", *command_pages(), *interface_pages()}


def test_links_of_written_pages_lead_somewhere(tmp_path: Path) -> None:
    sources = Sources(ROOT, _places_of_generated_pages())
    sources.write(tmp_path, lambda path, target: path.read_text(encoding="utf-8") if path.suffix == ".md" else "# x\n")
    assert sources.missing == []
    for page in tmp_path.rglob("*.md"):
        for target in re.findall(
            r"(?m)^(?! {4}).*?\]\(((?!https?:|#|mailto:)[^)\s]+)\)", page.read_text(encoding="utf-8")
        ):
            place = (page.parent / target.partition("#")[0]).resolve().relative_to(tmp_path.resolve()).as_posix()
            assert (tmp_path / place).is_file() or place in sources.generated, f"{page.name}: {target}"


def test_links_move_with_their_page_and_code_is_left_alone(tmp_path: Path) -> None:
    for name in ("docs/index.md", "docs/a/b.md", "SECURITY.md", "examples/run.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    sources = Sources(tmp_path, {"models/index.md"})
    text = (
        "[s](../../SECURITY.md#top) [m](../models/index.md) [r](../../examples/run.py) [w](https://x.org/a)\n\n"
        "    [code](../../SECURITY.md)\n\n```\n[code](../../SECURITY.md)\n```\n[gone](none.md)"
    )
    moved = sources.relinked(text, tmp_path / "docs/a/b.md")
    assert "[s](../project/security.md#top) [m](../models/index.md) [r](../files/examples/run.py)" in moved
    assert moved.count("[code](../../SECURITY.md)") == 2 and moved.endswith("gone") and "https://x.org/a" in moved
    assert sources.missing == ["docs/a/b.md links to none.md, which is not there"]


def test_dead_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<a href="b.html#here">1</a><a href="b.html#gone">2</a><a href="c.html">3</a><a href="../x.html">4</a>'
        '<img src="https://x.org/p.png"><script src="data:text/javascript,1"></script><a href="https://x.org">5</a>'
        '<a href="#own" id="own">6</a>'
    )
    (tmp_path / "b.html").write_text('<p id="here">')
    found = dead_links(tmp_path)
    assert len(found) == 4 and all(line.startswith("a.html has a link to ") for line in found)
    for address, reason in (
        ("b.html#gone", "does not have"),
        ("c.html", "not there"),
        ("../x.html", "leaves"),
        ("https://x.org/p.png", "asks the network"),
    ):
        assert any(address in line and reason in line for line in found), address


def test_a_notebook_becomes_a_page_with_its_pictures(tmp_path: Path) -> None:
    outputs = [{"data": {"text/plain": ["2"]}}, {"data": {"image/png": "aGVsbG8=", "text/plain": "p"}}]
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "\n", "Words."]},
        {"cell_type": "code", "source": ["1 + 1"], "outputs": [*outputs, {"text": ["said\n"]}]},
    ]
    book = tmp_path / "one.ipynb"
    book.write_text(json.dumps({"cells": cells}))
    page = notebook_page(book, tmp_path / "out.md")
    assert page.startswith("# Title\n\nThis page is `notebooks/one.ipynb`") and "```python\n1 + 1\n```" in page
    assert "```text\n2\n```" in page and "```text\nsaid\n```" in page and "](out-1-1.png)" in page
    assert (tmp_path / "out-1-1.png").read_bytes() == b"hello"
    book.write_text("[]")
    with pytest.raises(ConfigError, match="not a notebook"):
        notebook_page(book, tmp_path / "out.md")


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_gallery_is_a_small_picture_that_index_and_readme_show() -> None:
    from PIL import Image

    picture = ROOT / "docs" / "gallery.png"
    assert picture.stat().st_size <= 400_000
    with Image.open(picture) as opened:
        assert opened.width >= 900 and opened.height >= 12 * 50  # a strip and a title for each family with pictures
    assert "](gallery.png)" in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")


def test_the_command_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(site, "find_spec", lambda name: None)
    assert main(["docs", "--build", "--out", str(tmp_path / "site")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'generative-zoo[docs]'" in line and not (tmp_path / "site").exists()


def test_the_command_opens_what_is_built_and_builds_what_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    import webbrowser

    built: list[tuple[Path, bool]] = []
    opened: list[str] = []

    def build(folder: Path, *, strict: bool = False) -> Path:
        built.append((folder, strict))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / site._STAMP).write_text(site._digest())
        return folder / "index.html"

    monkeypatch.setattr("zoo.documentation.build_site", build)
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["docs"]) == 0 and main(["docs"]) == 0
    page = tmp_path / "zoo" / "docs" / "index.html"
    assert built == [(page.parent, False)] and opened == [page.as_uri()] * 2
    assert main(["docs", "--build", "--strict", "--json"]) == 0
    assert built[1:] == [(page.parent, True)] and len(opened) == 2
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"opened {page}" and json.loads(said[-1]) == {"page": str(page), "built": True, "opened": False}
    assert main(["docs", "--strict"]) == 2 and "--build" in capsys.readouterr().err
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    assert main(["docs"]) == 0 and "no browser" in capsys.readouterr().out


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "find_spec", lambda name: object())
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="no built documentation"):
        site.build_site(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_what_the_theme_leaves_unsaid_is_said_and_a_theme_that_writes_otherwise_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "a" / "b.html"
    page.parent.mkdir()
    signature = '<dl>\n<dd><em class="sig-param">a</em>,</dd>\n<dd><em class="sig-param">b</em></dd>\n</dl>'
    page.write_text(f"<main>{''.join(accessible.REPAIRS)}</main>{signature}")
    (tmp_path / "plain.html").write_text("<p>as it is</p>")
    accessible.repair(tmp_path)
    main, _, lines = page.read_text().partition("</main>")
    assert main == f"<main>{''.join(accessible.REPAIRS.values())}"
    assert lines.count('<span class="sig-line">') == 2 and "<dl>" not in lines and "<dd>" not in lines
    assert (tmp_path / "plain.html").read_text() == "<p>as it is</p>"
    with pytest.raises(ConfigError, match="the theme of the site no longer writes"):
        accessible.repair(tmp_path)


@pytest.mark.slow
def test_the_whole_site_is_built_without_a_warning_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    pytest.importorskip("furo")
    command = [sys.executable, "-m", "zoo", "docs", "--build", "--strict", "--out", str(tmp_path / "site")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    page: Any = (tmp_path / "site" / "models" / "dcgan-mnist.html").read_text(encoding="utf-8")
    assert "dcgan-mnist-samples.png" in page and "@misc" in page
    formula = (tmp_path / "site" / "families" / "vae.html").read_text(encoding="utf-8")
    assert "<math" in formula and "terms" in formula
    assert (tmp_path / "site" / "leaderboard" / "index.html").is_file() and (
        tmp_path / "site" / "searchindex.js"
    ).is_file()
    assert {p.stem for p in (tmp_path / "site" / "models").glob("*.html")} == {*load_registry(), "index"}
    if LACKS is None:
        assert _faults_of_pages(tmp_path / "site") == []


KINDS = (
    "index", "families/vae", "models/dcgan-mnist", "models/index", "leaderboard", "home_track",
    "reference/commands/fit", "reference/contract", "notebooks/leaderboard", "project/changelog", "search", "genindex",
)  # fmt: skip
"""A page of each kind."""


def _faults_of_pages(folder: Path) -> list[str]:
    """Return what axe finds on pages of the site, light on a desk and dark on a phone, and what is wider than those."""
    from playwright.sync_api import sync_playwright

    found = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for scheme, width in (("light", 1280), ("dark", 390)):
            view = {"width": width, "height": 900}
            context = browser.new_context(viewport=view, color_scheme=scheme, reduced_motion="reduce")
            context.set_default_timeout(PATIENCE)
            page = context.new_page()
            for name in KINDS:
                page.goto((folder / f"{name}.html").as_uri())
                found += [f"{name}, {scheme}: {fault}" for fault in faults_of(page)]
                if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                    found.append(f"{name} is wider than {width} pixels")
        browser.close()
    return found
