"""The web page of the leaderboard, in a headless Chromium of the system where there is one."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_leaderboard import make

from zoo.images import clips_png
from zoo.leaderboard import bundled_folder, find, pins_of, site, tables, write_site
from zoo.leaderboard.markdown import to_html
from zoo.registry import load_registry
from zoo.results import Cost, write

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
LACKS = (
    "playwright is not installed (the extra `page`)"
    if importlib.util.find_spec("playwright") is None
    else "no Chromium on this system (apt-get install chromium)"
    if CHROMIUM is None
    else None
)
browser_needed = pytest.mark.skipif(LACKS is not None, reason=LACKS or "")
PATIENCE = 180_000  # ms, for machines that are busy with something else
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
EVIL = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
CARD = (
    f"# gan-mnist\n\nA card with **weight** and {EVIL} [a link](javascript:alert(1)) [paper](https://arxiv.org/abs/1)\n"
)


def folder_of_results(folder: Path) -> Path:
    """Write five results: two with a sheet, one of another protocol, one conditional, one of open compute."""
    sheets = sorted(bundled_folder().glob("*/samples.png"))
    speed = {"hardware": "one machine", "latency_seconds": 0.01, "network_calls_per_sample": 1}
    results = {
        "gan-mnist": make("gan-mnist", fid=3.5, kid=0.2, precision=0.8,
                          cost=Cost(5_000, training_tflop=30.0, samples_per_second=900.0, **speed)),
        "pixels-mnist": make("pixels-mnist", family="autoregressive", fid=9.25, precision=0.5, bits_per_dim=0.9,
                             cost=Cost(9_000, training_tflop=48.0, samples_per_second=20.0, **speed)),
        "vae-like-mnist": make("vae-like-mnist", family="vae", fid=12.0, bits_per_dim=1.5, likelihood="iwae-100", k=100,
                               cost=Cost(700, training_tflop=5.0, samples_per_second=9_000.0, **speed)),
        "hasty-mnist": make("hasty-mnist", family="vae", fid=1.0, samples=1_000, quick=True,
                            cost=Cost(700, training_tflop=5.0)),
        "labelled-mnist": make("labelled-mnist", family="vae", bits_per_dim=0.5, conditional=True,
                               cost=Cost(700, training_tflop=5.0)),
        "long-mnist": make("long-mnist", fid=0.5, cost=Cost(5_000, training_tflop=500.0)),
    }  # fmt: skip
    for name, result in results.items():
        write(replace(result, command=f"zoo evaluate {name} --samples 10000"), folder / name)
    for name, sheet in zip(results, sheets[:2], strict=False):
        shutil.copy(sheet, folder / name / "samples.png")
    (folder / "gan-mnist" / "README.md").write_text(CARD + "\n![samples](samples.png)\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = folder_of_results(tmp_path_factory.mktemp("results"))
    found, left_out = find([folder])
    assert left_out == []
    folders = {id(result): path for result, path in found}
    arranged = tables([result for result, _ in found])
    return write_site(folder / "site", arranged, folders, load_registry(), ["result x is broken; evaluate it again"])


# -- what needs no browser --------------------------------------------------------------------------------------------


def test_page_is_one_file_that_may_ask_nobody(made: Path) -> None:
    text = made.read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(scripts[-1].encode()).digest()).decode()
    assert len(scripts) == 1 and f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'") and "img-src data:" in policy
    shell = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not re.findall(r"<(?:link|script|img|iframe)[^>]*(?:src|href)=\"(?!data:)", shell)
    assert "{{" not in text and "owned'</script>" not in text
    assert sorted(p.name for p in made.parent.iterdir()) == ["README.md", "index.html"]


def test_page_carries_ranks_marks_and_protocols(made: Path) -> None:
    text = made.read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])
    home = next(t for t in data["tables"] if t["track"] == "home")
    rows = {row["name"]: row for row in home["rows"]}
    assert [rows[n]["rank"] for n in ("gan-mnist", "pixels-mnist", "hasty-mnist")] == [1, 2, None]
    assert rows["hasty-mnist"]["differs"] == {"samples": "samples 1,000, not 10,000"}
    assert rows["labelled-mnist"]["differs"] == {"likelihood": "conditional True, not False"}
    assert rows["gan-mnist"]["pareto"] == ["speed", "compute"] and rows["pixels-mnist"]["pareto"] == []
    assert rows["gan-mnist"]["result"]["protocol"]["samples"] == 10_000
    assert rows["gan-mnist"]["sheet"]["columns"] == rows["gan-mnist"]["sheet"]["rows"] == 8
    assert data["leftOut"] == ["result x is broken; evaluate it again"]


def test_folder_is_a_static_space(made: Path) -> None:
    front = yaml.safe_load((made.parent / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert front["sdk"] == "static" and front["app_file"] == made.name


def test_cards_are_rendered_without_their_power() -> None:
    page = to_html(
        f"---\na: 1\n---\n<!-- x -->\n{CARD}\n| a | b |\n|---|--:|\n| 1 | `<b>` |\n\n- x\n- y\n\n```\n<i>\n```\n"
    )
    assert (
        '<a href="https://arxiv.org/abs/1" rel="noopener noreferrer">paper</a>' in page
        and "javascript" not in re.sub(r">[^<]*<", "><", page)
    )
    assert "<script" not in page and "<img" not in page and "&lt;script&gt;" in page
    assert (
        "<h3>gan-mnist</h3>" in page and "<strong>weight</strong>" in page and "<td><code>&lt;b&gt;</code></td>" in page
    )
    assert "<ul><li>x</li><li>y</li></ul>" in page and "<code>&lt;i&gt;</code>" in page


def test_page_of_what_ships_is_small_and_complete() -> None:
    registry = load_registry()
    found, left_out = find([bundled_folder()], pins_of(registry))
    assert left_out == []
    text = site(tables([r for r, _ in found]), {id(r): p for r, p in found}, registry)["index.html"]
    assert len(text) < 6_000_000
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    rows = [row for table in data["tables"] for row in table["rows"]]
    assert next(row for row in rows if row["name"] == "wavenet-tones")["sound"].startswith("data:audio/wav;base64,")
    assert len(next(row for row in rows if row["name"] == "transformer-shakespeare")["lines"]) > 500
    assert {row["name"] for row in rows} == {r.identity.name for r, _ in found}
    digits = [row for row in rows if row["result"]["data"]["shape"] == [1, 28, 28]]
    assert all(row["card"] and (row["sheet"] or "fid" not in row["result"]["metrics"]) for row in digits)


# -- in the browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"], timeout=PATIENCE
        )
        yield opened
        opened.close()


def opened(browser: Any, made: Path, **options: Any) -> tuple[Any, list[str]]:
    """Open the page; every console message, error or request but that of the file itself goes into the list."""
    context = browser.new_context(**{"viewport": {"width": 1320, "height": 900}, "reduced_motion": "reduce", **options})
    context.set_default_timeout(PATIENCE)
    page, faults = context.new_page(), []
    page.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: faults.append(str(error)))
    own = made.as_uri()
    page.on("request", lambda r: None if r.url == own or r.url.startswith("data:") else faults.append(r.url))
    page.goto(own)
    return page, faults


@pytest.fixture(scope="module")
def desk(browser: Any, made: Path) -> tuple[Any, list[str]]:
    return opened(browser, made)


@pytest.fixture
def page(desk: tuple[Any, list[str]]) -> Iterator[Any]:
    """Return the page on a desk, as it is when it has just been opened; a fault meanwhile fails the test."""
    page, faults = desk
    page.fill("#query", "")
    for box in page.locator("#families input:not(:checked)").all():
        box.check(force=True)
    page.uncheck("#all")
    for box in page.locator("#tags input:checked").all():
        box.uncheck(force=True)
    page.locator("#sets label", has_text="open track").click()
    page.locator("#sets label", has_text="home track").click()
    yield page
    page.keyboard.press("Escape")
    assert page.title() == "Generative models, compared"
    assert faults == []


def names(page: Any) -> list[str]:
    return page.locator("#table tbody .name").all_inner_texts()


def ranks(page: Any) -> list[str]:
    return page.locator("#table tbody tr[data-id] .rank").all_inner_texts()


@browser_needed
def test_sorting_by_any_column(page: Any) -> None:
    assert names(page)[:3] == ["gan-mnist", "pixels-mnist", "vae-like-mnist"]
    assert ranks(page) == ["1", "2", "3", "–", "–"]
    assert page.locator("th[aria-sort]").inner_text().startswith("FID")
    page.get_by_role("button", name="samples/s", exact=True).click()
    assert page.locator("th[aria-sort='descending']").inner_text().startswith("samples/s")
    assert names(page)[:3] == ["vae-like-mnist", "gan-mnist", "pixels-mnist"]
    page.keyboard.press("Enter")  # the same heading still has the focus
    assert page.locator("th[aria-sort='ascending']").inner_text().startswith("samples/s")
    assert names(page)[:3] == ["pixels-mnist", "gan-mnist", "vae-like-mnist"]
    assert "worst first" in page.locator("#status").inner_text()
    page.select_option("#sorter", "likelihood")
    assert names(page)[:2] == ["pixels-mnist", "vae-like-mnist"] and ranks(page)[:3] == ["1", "2", "–"]
    assert "conditional True" in page.locator("#notes").inner_text()


@browser_needed
def test_filtering(page: Any) -> None:
    page.locator("#families label", has_text="vae").click()
    assert names(page) == ["gan-mnist", "pixels-mnist"]
    page.fill("#query", "pix")
    assert names(page) == ["pixels-mnist"]
    assert page.locator("#status").inner_text().startswith("1 of 5 models")
    page.fill("#query", "")
    page.locator("#sets label", has_text="open track").click()
    assert names(page) == ["long-mnist"]
    page.check("#all")
    assert "parameters" in page.locator("#table thead").inner_text()


@browser_needed
def test_card_opens_and_gives_the_focus_back(page: Any) -> None:
    name = page.get_by_role("button", name="gan-mnist", exact=True)
    name.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    assert dialog.get_by_role("heading", name="gan-mnist").is_visible()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("[role=tab][aria-selected=true]").inner_text() == "Card"
    assert "A card with weight" in dialog.inner_text() and "<script>" in dialog.inner_text()
    assert dialog.locator("img").get_attribute("src").startswith("data:image/png")
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert page.evaluate("document.activeElement.textContent") == "gan-mnist"


@browser_needed
def test_protocol_is_one_click_away(page: Any) -> None:
    row = page.locator("tr", has=page.get_by_role("button", name="hasty-mnist", exact=True))
    row.get_by_role("button", name=re.compile(r"1\.00.*FID")).click()
    text = page.get_by_role("dialog").inner_text()
    assert "Protocol of this number" in text and "zoo evaluate hasty-mnist --samples 10000" in text
    assert re.search(r"samples\s+1,000", text) and "not ranked: samples 1,000, not 10,000" in text
    assert "e" * 64 in text  # the extractor's sha256


@browser_needed
def test_two_models_side_by_side(page: Any) -> None:
    page.locator("#left").select_option(label="gan-mnist")
    page.locator("#right").select_option(label="pixels-mnist")
    assert page.locator("#pair .sheet img").count() == 2
    better = page.locator("#pair tr", has_text="FID").locator("td.better")
    assert better.inner_text().startswith("3.50")
    slider = page.get_by_role("slider")
    slider.focus()
    for _ in range(9):
        page.keyboard.press("ArrowRight")
    labels = [zoom.get_attribute("aria-label") for zoom in page.locator("#pair .zoom [role=img]").all()]
    assert labels == ["Sample 10 of gan-mnist", "Sample 10 of pixels-mnist"]
    spots = page.locator("#pair .spot").evaluate_all("all => all.map(s => [s.style.left, s.style.top])")
    assert spots == [["12.5%", "12.5%"]] * 2
    page.get_by_role("button", name="Swap left and right").click()
    assert page.locator("#pair figcaption").all_inner_texts() == ["pixels-mnist", "gan-mnist"]
    page.locator("#right").select_option(label="long-mnist")
    assert "different training budgets" in page.locator("#pair .remark").inner_text()


@browser_needed
def test_address_holds_what_is_seen(browser: Any, made: Path, page: Any) -> None:
    page.fill("#query", "mnist")
    page.locator("#families label", has_text="autoregressive").click()
    page.locator("#tags label", has_text="conditional").click()
    page.select_option("#sorter", "parameters")
    page.get_by_role("button", name="parameters", exact=True).click()  # the other way round
    page.check("#all")
    page.locator("#right").select_option(label="hasty-mnist (quick)")
    assert names(page) == ["labelled-mnist"]
    address = page.evaluate("location.hash")
    assert "sort=parameters" in address and "tags=conditional" in address and "without=autoregressive" in address
    page.locator("#tags label", has_text="conditional").click()
    other, faults = opened(browser, made)
    other.evaluate("hash => { location.hash = hash; }", address)
    other.locator("#table tbody .name").first.wait_for()
    other.wait_for_function("document.querySelectorAll('#table tbody .name').length === 1")
    assert names(other) == ["labelled-mnist"]
    assert other.locator("th[aria-sort='descending']").inner_text().startswith("parameters")
    assert other.input_value("#query") == "mnist" and other.is_checked("#all")
    assert other.locator("#pair figcaption").all_inner_texts()[1] == "hasty-mnist"
    card = page.get_by_role("link", name="Card of gan-mnist").get_attribute("href")
    other.evaluate("hash => { location.hash = hash; }", card)
    other.get_by_role("tab", name="Card", selected=True).wait_for()
    assert faults == []
    other.context.close()


@browser_needed
def test_what_is_seen_is_had_as_csv_and_json(page: Any, tmp_path: Path) -> None:
    page.fill("#query", "mnist")
    files = {}
    for button, ending in (("Download CSV", "csv"), ("Download JSON", "json")):
        with page.expect_download() as waiting:
            page.get_by_role("button", name=button).click()
        assert waiting.value.suggested_filename == f"mnist-home.{ending}"
        waiting.value.save_as(tmp_path / ending)
        files[ending] = (tmp_path / ending).read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(files["csv"])))
    assert [r["name"] for r in rows] == names(page) == [r["name"] for r in json.loads(files["json"])["rows"]]
    assert rows[0]["fid"] == "3.5" and rows[0]["rank"] == "1" and rows[0]["tags"] == "◆ speed ◆ compute"
    assert json.loads(files["json"])["rows"][0]["result"]["protocol"]["samples"] == 10_000


@browser_needed
def test_sound_texts_and_videos_are_rows(browser: Any, tmp_path: Path) -> None:
    own: dict[str, Any] = {"cost": Cost(700, training_tflop=5.0), "likelihood": "exact"}
    video = make("clips-moving_mnist", family="diffusion", dataset="moving_mnist", fid=2.0, cost=own["cost"])
    found = {
        "tones": make("waves-tones", family="autoregressive", dataset="tones", bits_per_sample=2.0, **own),
        "plays": make("words-plays", family="autoregressive", dataset="plays", bits_per_character=2.0, **own),
        "moving": replace(video, data=replace(video.data, shape=[1, 5, 28, 28])),
    }  # fmt: skip
    for name, result in found.items():
        write(result, tmp_path / name)
    (tmp_path / "tones" / "samples.wav").write_bytes((bundled_folder() / "wavenet-tones" / "samples.wav").read_bytes())
    (tmp_path / "plays" / "samples.txt").write_text("Enter <b>Romeo</b>\n", encoding="utf-8")
    clips = torch.rand(3, 1, 5, 28, 28, generator=torch.Generator().manual_seed(0))
    (tmp_path / "moving" / "samples.png").write_bytes(clips_png(clips))
    pairs = find([tmp_path])[0]
    arranged = tables([result for result, _ in pairs])
    made = write_site(tmp_path / "site", arranged, {id(r): p for r, p in pairs}, load_registry())
    page, faults = opened(browser, made)
    names_of = {"Tones": ("waves-tones", "audio"), "Plays": ("words-plays", "text")}
    for label, (name, tag) in {**names_of, "Moving mnist": ("clips-moving_mnist", "video")}.items():
        page.locator("#sets label", has_text=label).click()
        row = page.locator("#table tbody tr", has=page.get_by_role("button", name=name, exact=True))
        assert row.locator(".tag", has_text=tag).count() == 1 and row.locator(".tile").count() == 2 * (tag == "video")
        row.get_by_role("button", name=name, exact=True).click()
        dialog = page.get_by_role("dialog")
        if tag == "audio":
            page.wait_for_function("document.querySelector('dialog audio').duration > 0.5")
        elif tag == "text":
            assert dialog.locator("pre").inner_text() == "Enter <b>Romeo</b>\n"
        else:
            assert "Each row is a video" in dialog.inner_text()
        assert faults_of(page, "#model") == []
        page.keyboard.press("Escape")
    assert faults == []
    page.context.close()


@browser_needed
def test_all_default_columns_are_seen_at_1280_pixels(browser: Any, tmp_path: Path) -> None:
    registry = load_registry()
    found, _ = find([bundled_folder()], pins_of(registry))
    made = write_site(tmp_path, tables([r for r, _ in found]), {id(r): p for r, p in found}, registry)
    page, faults = opened(browser, made, viewport={"width": 1280, "height": 900})
    for label in page.locator("#sets label").all():
        label.click()
        widths = page.evaluate("[scroller.scrollWidth, scroller.clientWidth]")
        assert widths[0] <= widths[1], label.inner_text()
    if folder := os.environ.get("ZOO_SCREENSHOT"):  # to be looked at
        page.locator("#sets label").first.click()
        page.screenshot(path=Path(folder) / "leaderboard-1280.png", full_page=True)
        page.get_by_role("button", name="Switch between light and dark").click()
        page.set_viewport_size({"width": 390, "height": 844})
        page.screenshot(
            path=Path(folder) / "leaderboard-390-dark.png", clip={"x": 0, "y": 0, "width": 390, "height": 2400}
        )
    assert faults == []
    page.context.close()


@browser_needed
def test_plots_show_points_and_fronts(page: Any) -> None:
    speed, compute = page.locator(".plot").all()
    assert speed.locator("a").count() == 3 and compute.locator("a").count() == 3
    label = speed.get_by_role("link", name=re.compile("^gan-mnist: FID 3.50.*on the Pareto front"))
    label.focus()
    page.keyboard.press("Enter")
    assert page.get_by_role("dialog").get_by_role("heading", name="gan-mnist").is_visible()
    assert speed.locator("polyline").count() == 1


@browser_needed
@pytest.mark.slow
@pytest.mark.parametrize("options", [{"color_scheme": "dark"}, PHONE], ids=["dark", "phone"])
def test_elsewhere_than_on_a_desk(browser: Any, made: Path, options: dict[str, Any]) -> None:
    page, faults = opened(browser, made, **options)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.get_by_role("row").count() >= 6  # cards to the eye of a phone, a table to a screen reader
    assert faults_of(page) == []
    page.check("#all")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("button", name="gan-mnist", exact=True).click()
    assert page.get_by_role("dialog").bounding_box()["width"] <= options.get("viewport", {}).get("width", 1320)
    assert faults == []
    page.context.close()


@browser_needed
def test_no_accessibility_fault(page: Any) -> None:
    assert faults_of(page) == []
    page.get_by_role("button", name="gan-mnist", exact=True).click()
    page.get_by_role("tab", name="Card").click()
    assert faults_of(page, "#model") == []
    page.get_by_role("tab", name="Numbers and protocol").click()
    assert faults_of(page, "#model") == []


def faults_of(page: Any, within: str | None = None) -> list[str]:
    """Return rule and place of each fault that axe finds, of any weight."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page, context=within).response
    assert len(found["passes"]) > 5
    return [
        f"{fault['id']}: {fault['help']} at {[node['target'] for node in fault['nodes']][:4]}"
        for fault in found["violations"]
    ]
