"""The page of the leaderboard and that of the server, shown to a browser with hostile results, cards and models.

Nothing of theirs runs, nothing is asked of the network, and the content security policy has nothing to report, though
it would: a script that is put into the page is reported and does not run.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from test_leaderboard import make
from test_page import LACKS, PATIENCE, browser, browser_needed  # noqa: F401  # a fixture

from zoo.errors import ResultError
from zoo.leaderboard import find, tables, write_site
from zoo.registry import load_registry
from zoo.results import Result, read

RUN = "document.title = 'owned'; window.owned = 1"
SCRIPTS = [
    f"<script>{RUN}</script>", f'<img src=x onerror="{RUN}">', f'<svg onload="{RUN}">',
    f"</script><script>{RUN}</script>",
    f'"><iframe srcdoc="<script>parent.{RUN}</script>">', f"javascript:{RUN}", f"`${{{RUN}}}`", f"'-({RUN})-'",
    f"<!--<script>{RUN}</script>-->", "]]><x>", f"{{{{constructor.constructor('{RUN}')()}}}}", "&lt;script&gt;",
    "%3Cscript%3E",
]  # fmt: skip
NAMES = [
    *SCRIPTS,
    "__proto__",
    "constructor",
    "toString",
    "..",
    "con",
    "x" * 2000,
    "😀" * 50,
    "שלום",
    "a|b",
    "--all",
    "0",
]
"""Texts that can stand in a result, and are shown as they are."""

CARDS = [
    *SCRIPTS, f"[a](javascript:{RUN})", f"[a](data:text/html,<script>{RUN}</script>)", f"![a](x){{onerror={RUN}}}",
    f"<https://a.example/\" onmouseover=\"{RUN}>", f"[a](https://a.example/\"onclick=\"{RUN})",
    "![a](https://evil.example/x.png)",
    f"```\n</code></pre><script>{RUN}</script>\n```",
    f"| <script>{RUN}</script> | b |\n|---|---|\n| `</code>` | ** |",
    "# <style>*{display:none}</style>\n<link rel=stylesheet href=//evil.example>", "[" * 3000, "**" * 3000, "|" * 3000,
    "\u202egnp.exe\u2066", "---\nx: !!python/object/apply:os.system ['true']\n---\n",
    "<meta http-equiv=refresh content=0>",
    f"<form action=//evil.example><input autofocus onfocus=\"{RUN}\">", "\x00\x1b[2J", "<base href=//evil.example>",
]  # fmt: skip
SHEETS = [
    b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + b"\xff" * 13,
    b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + struct.pack(">II", 233, 233) + b'");} * {background: url("//evil.example',
    b"GIF89a<script>", b"",
]  # fmt: skip

REFUSED: list[tuple[str, Any]] = [
    *[("metrics.fid.value", v) for v in ("1e999", "-1e999", "NaN", "Infinity", "9" * 400, '"3"', "true", "[1]")],
    *[("cost.parameters", v) for v in ("1e999", "9" * 400, "1.5", '"x"')], ("protocol.samples", "1e999"),
    *[(p, json.dumps(v)) for p in ("identity.name", "identity.family", "data.name", "command")
      for v in ("\u202egnp.exe", "a\u2066b", "\x1b[2Ja", "a\nb", "a\0", "x" * 5000)],
    *[(p, '""') for p in ("identity.name", "identity.family", "data.name")],
    ("identity.name", '"\\ud800"'), ("protocol.sampler", '{"\\udfff": 1}'), ("flags", '["\\u202e"]'),
    ("protocol.sampler", '{"a":' * 800 + "1" + "}" * 800), ("versions", '{"a": "\\u001b]0;x\\u0007"}'),
    ("identity.weights_sha256", '"../../x"'), ("data.digest", f'"{"0" * 64}\\n"'), ("schema", "1e999"),
    ("schema", "99"), ("metrics", '{"fid\\n": {"value": 1}}'),
    ("protocol.seeds", "[1e999]"), ("metrics", '{"<script>": {"value": 1}}'), ("cost.training", '{"x": 1e999}'),
]  # fmt: skip
"""Places in eval.json and the JSON that stands there, each of which makes it no result."""


def text_with(place: str, value: str) -> str:
    """Return an eval.json with other JSON in one place."""
    content = make("honest-mnist", fid=3.0).to_dict()
    node, *path = content, *place.split(".")
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = "HERE"
    return json.dumps(content).replace('"HERE"', value)


def test_results_that_are_none_are_refused_in_one_sentence(tmp_path: Path) -> None:
    path, taken = tmp_path / "eval.json", []
    path.write_text(text_with("metrics.fid.value", "3.5"))
    assert read(path).metrics["fid"].value == 3.5
    for place, value in REFUSED:
        path.write_text(text_with(place, value))
        try:
            read(path)
        except ResultError as error:
            text = " ".join(str(error).split())
            assert text.isprintable() and len(text) < 2500, ascii(text)
        else:
            taken.append((place, value[:60]))
    print(f"{len(REFUSED)} results that are none, {len(taken)} taken")
    assert not taken


def folder_of_hostile_results(folder: Path) -> int:
    """Write results that can be read, with hostile names, cards and sheets, and some that cannot; return how many."""
    texts = [*NAMES, *(f"card {i}" for i in range(len(CARDS)))]
    for i, name in enumerate(texts):
        hostile = SCRIPTS[i % len(SCRIPTS)]
        content = make(
            name, family=NAMES[i % len(NAMES)] if i % 3 == 0 else "vae", dataset=hostile if i % 7 == 0 else "mnist",
            fid=0.5 + i, bits_per_dim=1e300 if i % 5 == 0 else 1.0,
        ).to_dict()  # fmt: skip
        content["command"] = hostile
        content["protocol"]["sampler"] = {hostile: hostile, "__proto__": {"polluted": True}, "nested": [[hostile]]}
        content["cost"]["hardware"] = hostile
        content["flags"], content["versions"] = [hostile, "memorised"], {hostile: hostile, "__proto__": "1"}
        place = folder / f"r{i}"
        place.mkdir()
        (place / "eval.json").write_text(json.dumps(content))
        (place / "README.md").write_bytes(CARDS[i % len(CARDS)].encode())
        (place / "samples.png").write_bytes(SHEETS[i % len(SHEETS)])
    for i, (where, value) in enumerate(REFUSED[::6]):
        (folder / f"z{i}").mkdir()
        (folder / f"z{i}" / "eval.json").write_text(text_with(where, value))
    return len(texts)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The page of hostile results, and their names."""
    folder = tmp_path_factory.mktemp("hostile")
    count = folder_of_hostile_results(folder)
    found, left_out = find([folder])
    assert len(found) == count and len(left_out) == len(REFUSED[::6])
    assert all(line.isprintable() for line in left_out)
    arranged = tables([result for result, _ in found])
    page = write_site(folder / "site", arranged, {id(r): p for r, p in found}, load_registry(), left_out)
    return page, [result.identity.name for result, _ in found]


def test_hostile_results_make_tables_and_a_page(hostile: tuple[Path, list[str]]) -> None:
    text = hostile[0].read_text(encoding="utf-8")
    assert text.count("<script") == 2 and text.count("</script") == 2  # the data and the page's own
    assert "NaN" not in text.partition('id="data">')[2].partition("</script>")[0].replace("is NaN", "")


def watched(browser: Any, own: str) -> tuple[Any, list[str]]:  # noqa: F811
    """Return a tab and a list of what must not happen in it: messages, errors, dialogs, requests, violations."""
    context = browser.new_context(viewport={"width": 1320, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
    tab, faults = context.new_page(), []
    context.expose_function("reported", lambda text: faults.append(f"policy: {text}"))
    context.add_init_script(
        "document.addEventListener('securitypolicyviolation', e => reported(e.violatedDirective + ' ' + e.blockedURI))"
    )
    tab.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: faults.append(f"error: {error}"))
    tab.on("dialog", lambda dialog: (faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    fine = (own, "data:", f"blob:{own}")
    tab.on("request", lambda r: None if r.url.startswith(fine) else faults.append(f"request: {r.url}"))
    tab.goto(own)
    return tab, faults


def reports(tab: Any, faults: list[str]) -> bool:
    """Put a script into the page, and tell whether the policy reported it and kept it from running."""
    tab.evaluate(
        "() => { const s = document.createElement('div'); document.body.append(s);"
        " try { s.setAttribute('onclick', 'window.ran = 1'); } catch {} s.click(); }"
    )
    tab.wait_for_timeout(200)
    return tab.evaluate("window.ran === undefined") and any(
        f.startswith(("policy: script-src", "policy: require-trusted")) for f in faults
    )


@browser_needed
@pytest.mark.parametrize("every", [80, pytest.param(1, marks=pytest.mark.slow)])
def test_leaderboard_with_hostile_results(every: int, browser: Any, hostile: tuple[Path, list[str]]) -> None:  # noqa: F811
    page, names = hostile
    tab, faults = watched(browser, page.as_uri())
    sets = tab.locator("#sets label")
    shown = set()
    for i in range(sets.count()):
        sets.nth(i).click()
        shown |= set(tab.locator("#table tbody .name").all_inner_texts())
    assert {n for n in names if n.isascii()} - shown <= {n for n in names if n not in shown and "  " in n}
    sets.nth(0).click()
    tab.check("#all")
    rows = tab.locator("#table tbody .name")
    for i in range(0, rows.count(), every):  # each opens its card, with its numbers and protocol
        rows.nth(i).click()
        for part in tab.get_by_role("tab").all():
            part.click()
        tab.keyboard.press("Escape")
    for script in SCRIPTS[:4]:
        tab.fill("#query", script)
    assert tab.title() == "Generative models, compared" and tab.evaluate("window.owned === undefined")
    assert tab.evaluate("({}).polluted === undefined")
    assert faults == []
    assert reports(tab, faults)
    tab.context.close()


@pytest.mark.slow
@browser_needed
def test_server_with_hostile_models(browser: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    from serving import listening

    from zoo.families.transformer import Transformer
    from zoo.serving.app import build
    from zoo.serving.service import Service
    from zoo.serving.settings import Settings

    letters = "<script>alert('1')/&\"`${}=onerror img\u202e\u2066\x1b"
    letters = "".join(dict.fromkeys(letters))
    model = Transformer([60], len(letters), width=8, depth=1, heads=2, alphabet=letters).eval()
    models = {"text": model, "__proto__": model, "x.y-z_": model}
    service = Service(models, Settings(models=("vae-mnist",), deadline=120.0))
    monkeypatch.setattr(service, "card", lambda name: "\n".join(CARDS))
    with listening(build(service)) as port:
        own = f"http://127.0.0.1:{port}/"
        tab, faults = watched(browser, own)
        tab.locator("#status", has_text="ms").wait_for()  # the first is drawn at once
        for i in range(len(models)):
            tab.select_option("#model", index=i)
            for prompt in ("<script>alert('1')</script>", "<img onerror=alert()>"):
                tab.fill("#prompt", prompt)
                tab.click("#draw")
                tab.locator("#result pre", has_text=prompt).wait_for()
                assert tab.locator("#result *").count() == 1
                assert tab.locator("#curl *, #python *").count() == 0
                tab.fill("#prompt", "x" * 50 + prompt)  # 'x' is none of its letters
                tab.click("#draw")
                tab.locator("#status.bad").wait_for()
        kinds = tab.evaluate(
            "Promise.all(['v1/models/text/card', 'v1/models'].map(p => fetch(p).then(r => ['content-type',"
            " 'x-content-type-options', 'content-security-policy'].map(h => r.headers.get(h)))))"
        )
        assert [k[0] for k in kinds] == ["text/markdown; charset=utf-8", "application/json"]
        assert all(k[1] == "nosniff" and k[2].startswith("default-src 'none'") for k in kinds)
        assert [f for f in faults if "422" not in f] == []  # the console says of refusals that they are
        assert reports(tab, faults)
        tab.context.close()
    service.close()


def test_hostile_results_are_many() -> None:
    print(f"{len(REFUSED)} places of a result, {len(NAMES)} names, {len(CARDS)} cards, {len(SHEETS)} sheets")
    assert len(REFUSED) + len(NAMES) + len(CARDS) + len(SHEETS) >= 100 and isinstance(make("a"), Result)
