"""The page in a real browser, Debian's Chromium (`apt-get install chromium`) driven by Playwright.

Skipped where either is missing.

Every visit also asserts that nothing went wrong unseen: no error and no warning on the console, no uncaught exception,
and no request to anywhere but the server.
"""

import base64
import csv
import io
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow.parquet as pq
import pytest

from pipeline import page as pages
from pipeline.archive import Archive
from pipeline.stages import index
from pipeline.stages.index import IndexSettings
from tests import small_archive as small
from tests.conftest import _wait_for

CHROMIUM = "/usr/bin/chromium"
playwright = pytest.importorskip("playwright.sync_api")
if not Path(CHROMIUM).exists():
    pytest.skip("chromium is not installed", allow_module_level=True)

HOSTILE = '<script>document.title="run"</script><img src=x onerror="document.title=1">'
WAIT_MS = 30_000  # for a busy machine


@pytest.fixture(scope="module")
def archive(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """A copy in which the first photo is called by its enemies, and the second described by a person."""
    folder = tmp_path_factory.mktemp("browser") / "archive"
    shutil.copytree(undisturbed, folder)
    archive = Archive.open(str(folder))
    first, second = archive.live()["photo_id"].to_pylist()[:2]
    for field, value in {"title": HOSTILE, "description": f"Before.{HOSTILE}", "tags": [HOSTILE]}.items():
        small.change(archive, first, field, json.dumps(value), days=1000)  # later than the run
    small.change(archive, second, "caption", '"What Ada saw"', by="Ada")
    index.build(archive, IndexSettings(of="tiny", captions="tiny"))
    return archive


@pytest.fixture(scope="module")
def site(archive: Archive) -> Iterator[str]:
    """The address of `tintype serve`, without the slash at its end."""
    command = [sys.executable, "-m", "pipeline.cli", "serve", archive.url, "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr
    try:
        said = next(line for line in server.stderr if " at http" in line)
        address = said.partition(" at ")[2].split("/ ")[0]
        _wait_for(f"{address}/healthz")
        _wait_for(f"{address}/api/search?q=warm")  # for its model
        yield address
    finally:
        server.terminate()
        server.wait(20)
        server.stderr.close()


@contextmanager
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        # Its sandbox wants an unprivileged user, which containers often lack.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@contextmanager
def visit(browser: Any, site: str, *expected: str, **how: Any) -> Iterator[Any]:
    """A page in a context of its own; `expected`: what the console says of answers that are errors on purpose."""
    context = browser.new_context(base_url=site, **{"viewport": {"width": 1280, "height": 900}} | how)
    context.set_default_timeout(WAIT_MS)
    said: list[str] = []
    asked: list[str] = []
    context.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    context.on("weberror", lambda error: said.append(str(error.error)))
    context.on("request", lambda request: asked.append(request.url))
    yield context.new_page()
    context.close()
    assert [text for text in said if not any(part in text for part in expected)] == []
    assert {"{0.scheme}://{0.netloc}".format(urlsplit(url)) for url in asked if not url.startswith("data:")} <= {site}


def shown(page: Any) -> list[str]:
    """The photos on the page, in their order."""
    return page.eval_on_selector_all(".found .hit", "hits => hits.map(hit => hit.dataset.photo)")


def asked(page: Any) -> dict[str, str]:
    """What the address asks for."""
    return {name: value for name, [value] in parse_qs(urlsplit(page.url).query).items()}


def until_asked(page: Any, **said: str) -> None:
    page.wait_for_url(lambda url: said.items() <= {n: v[0] for n, v in parse_qs(urlsplit(url).query).items()}.items())


def all_loaded(page: Any, selector: str) -> bool:
    """Whether there are pictures, and every one of them is there."""
    page.wait_for_function("s => [...document.querySelectorAll(s)].every(image => image.complete)", arg=selector)
    widths = page.eval_on_selector_all(selector, "images => images.map(image => image.naturalWidth)")
    return bool(widths) and all(widths)


def a_picture(site: str, page: Any) -> bytes:
    return page.request.get(f"{site}/thumbnails/3.jpg").body()


# --- searching --------------------------------------------------------------------------------------------------------


def test_words_find_pictures_with_their_rights(browser: Any, site: str) -> None:
    with visit(browser, site) as page:
        page.goto("/")
        assert all_loaded(page, ".wall img")
        assert "photos of archive" in page.inner_text("h2 >> nth=0")
        page.get_by_label("Words to search for").fill("a red sailboat")
        page.keyboard.press("Enter")
        until_asked(page, q="a red sailboat")
        assert asked(page) == {"q": "a red sailboat"}  # nothing that was left as it is
        assert page.inner_text("#asked") == "“a red sailboat”"
        assert len(shown(page)) == 24
        assert all_loaded(page, ".hit img")
        page.wait_for_function("() => document.getElementById('status').textContent")
        assert page.inner_text("#status") == "24 photos for “a red sailboat”"
        first = page.locator(".hit").first
        assert "Described by a machine (local-dir:" in first.inner_text()
        assert page.eval_on_selector(".caption:not(.person)", "it => getComputedStyle(it).fontStyle") == "italic"
        home = first.get_by_role("link", name="on flickr.com").get_attribute("href")
        assert home.startswith("https://www.flickr.com/photos/")
        assert page.locator(".hit a[rel~=license]").first.get_attribute("href").startswith("http")
        assert pages.FLICKR_NOTICE in page.inner_text("footer")
        scores = [float(text) for text in page.locator(".place span[title] ").evaluate_all(SCORES)]
        assert scores == sorted(scores, reverse=True)


SCORES = "all => all.map(it => it.lastChild.textContent)"


def test_the_slider_changes_the_hits_and_the_address(browser: Any, site: str) -> None:
    with visit(browser, site) as page:
        page.goto("/?q=a+red+sailboat")
        before = shown(page)
        page.get_by_text("More of this, less of that").click()
        page.get_by_label("+ more of").fill("a blue tent")
        page.get_by_label("− less of").fill(before[0])
        slider = page.get_by_label("λ, how much of it")
        slider.fill("4.5")
        until_asked(page, scale="4.5", minus=before[0])
        assert page.inner_text("#lambda") == "4.5"
        assert "+ 4.5 × (“a blue tent” −" in page.inner_text("#asked")
        assert all_loaded(page, "#asked img")
        after = shown(page)
        assert after != before
        assert before[0] not in after
        slider.press("ArrowLeft")
        until_asked(page, scale="4.4")
        page.reload()
        assert slider.input_value() == "4.4"
        assert page.get_by_label("+ more of").input_value() == "a blue tent"


def test_the_last_place_of_the_slider_is_what_is_shown(browser: Any, site: str) -> None:
    with visit(browser, site) as page:
        page.goto("/?q=a+red+sailboat&plus=a+tent")
        begun: list[str] = []
        overlapping: list[str] = []
        open_now: set[Any] = set()

        def begin(request: Any) -> None:
            if "/results" in request.url:
                overlapping.extend(one.url for one in open_now)
                open_now.add(request)
                begun.append(request.url)

        page.on("request", begin)
        page.on("requestfinished", lambda request: open_now.discard(request))
        page.evaluate(
            """() => { const slider = document.getElementById("scale");
            for (let step = 0; step <= 50; step++) {
              slider.value = step / 10; slider.dispatchEvent(new Event("input", {bubbles: true})); } }"""
        )
        until_asked(page, scale="5")
        assert "+ 5 ×" in page.inner_text("#asked")
        assert overlapping == []
        assert 1 <= len(begun) < 10  # for 51 places
        kept = shown(page)
        page.goto("/?q=a+red+sailboat&plus=a+tent&scale=5")
        assert shown(page) == kept


@contextmanager
def arriving(page: Any) -> Iterator[None]:
    yield
    page.wait_for_url(lambda url: "image=picture." in url)
    assert page.inner_text("#asked").strip() == "like"
    assert all_loaded(page, "#asked img")
    assert len(shown(page)) == 24


HAND = """([data, kind, type, name]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const given = new DataTransfer();
  given.items.add(new File([bytes], name, {type}));
  const options = {bubbles: true, cancelable: true, dataTransfer: given, clipboardData: given};
  document.body.dispatchEvent(kind === "paste" ? new ClipboardEvent(kind, options) : new DragEvent(kind, options));
}"""


def hand(page: Any, kind: str, data: bytes, type: str = "image/jpeg", name: str = "mine.jpg") -> None:
    """Drag, drop or paste a file."""
    page.evaluate(HAND, [base64.b64encode(data).decode(), kind, type, name])


def test_a_picture_is_dropped_pasted_or_chosen(browser: Any, site: str) -> None:
    with visit(browser, site) as page:
        page.goto("/?q=a+tent&license=none")
        data = a_picture(site, page)
        hand(page, "dragover", data)
        assert page.is_visible("#target")
        page.goto("/")
        with arriving(page):
            hand(page, "drop", data)
        found = shown(page)
        page.goto("/")
        with arriving(page):
            hand(page, "paste", data)
        assert shown(page) == found
        page.goto("/?q=a+tent&after=1800")
        with arriving(page):
            page.get_by_label("Search by a picture of yours").set_input_files(
                {"name": "mine.jpg", "mimeType": "image/jpeg", "buffer": data}
            )
        assert asked(page).keys() == {"image", "after"}  # the filters stay
        page.get_by_label("Words to search for").fill("a windmill")
        page.keyboard.press("Enter")
        until_asked(page, q="a windmill")
        assert asked(page).keys() == {"q", "after"}


def test_what_is_no_picture_is_said_to_be_none(browser: Any, site: str) -> None:
    with visit(browser, site, "status of 415") as page:
        page.goto("/")
        hand(page, "drop", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml", "bad.svg")
        page.wait_for_selector("#trouble:visible")
        assert "no usable picture" in page.inner_text("#trouble")
        page.wait_for_function("() => document.getElementById('status').textContent.includes('no usable picture')")
        assert urlsplit(page.url).path == "/"


def test_filters(browser: Any, site: str, archive: Archive) -> None:
    facts = {row["photo_id"]: row for row in archive.live().to_pylist()}
    with visit(browser, site) as page:
        page.goto("/?q=a+tent&k=100")
        page.get_by_text("Filters", exact=True).click()
        page.get_by_label("Taken from").fill("1900")
        page.get_by_label("to", exact=True).fill("1930-06")
        page.keyboard.press("Enter")
        until_asked(page, after="1900", before="1930-06")
        assert shown(page)
        assert all("1900" <= facts[photo]["date_taken"][:7] <= "1930-06" for photo in shown(page))
        assert f"{len(shown(page))} of {len(shown(page))} photos that the filters keep" in page.inner_text(".count")

        page.goto("/?q=a+tent&k=100")
        page.get_by_text("Filters", exact=True).click()
        licence = page.get_by_label("Licence").locator("option").nth(1)
        page.get_by_label("Licence").select_option(licence.get_attribute("value"))  # at once
        until_asked(page, license=licence.get_attribute("value"))
        assert {facts[photo]["license_url"] for photo in shown(page)} == {licence.get_attribute("value")}
        assert f"({len(shown(page))})" in licence.inner_text()

        page.get_by_label("Licence").select_option("")
        page.get_by_label("Tag", exact=True).fill("poster")
        page.keyboard.press("Enter")
        until_asked(page, tag="poster")
        assert sorted(shown(page)) == sorted(photo for photo, row in facts.items() if "poster" in row["tags"])

        page.get_by_label("Where").fill("width > hei")
        page.keyboard.press("Enter")
        page.wait_for_selector("#where[aria-invalid=true]")
        assert '"hei" not found' in page.inner_text("#wrong")
        assert page.get_by_label("Where").input_value() == "width > hei"
        page.get_by_label("Where").fill("width > height")
        page.keyboard.press("Enter")
        until_asked(page, where="width > height", tag="poster")
        assert all("poster" in facts[photo]["tags"] for photo in shown(page))

        page.goto("/?q=a+tent&after=2090")
        assert "The filters keep none of " in page.inner_text(".none")
        page.get_by_role("link", name="Search without filters").click()
        until_asked(page, q="a tent")
        assert len(shown(page)) == 24
        page.goto("/?q=a+tent&after=soon")
        assert "write a date as 1910" in page.inner_text("#wrong")


def test_words_and_pictures_joined(browser: Any, site: str) -> None:
    with visit(browser, site) as page:
        page.goto("/?q=tent")
        page.get_by_label("both (hybrid)").check()
        until_asked(page, mode="hybrid")
        assert "pictures 1" in page.inner_text(".hits")
        assert "words 1" in page.inner_text(".hits")
        page.get_by_label("words of titles").check()
        until_asked(page, mode="words")
        assert all("tent" in hit.lower() for hit in page.locator(".hit").all_inner_texts())
        page.goto("/?q=zyzzyva&mode=words")
        assert "No title, description, tag or caption holds these words" in page.inner_text(".none")


def test_more_like_a_hit_and_arithmetic_with_it(browser: Any, site: str) -> None:
    with visit(browser, site) as page:
        page.goto("/?q=a+tent&after=1850")
        first = shown(page)[0]
        page.get_by_role("link", name="More like this").first.click()
        until_asked(page, image=first, after="1850")
        assert first not in shown(page)
        second = shown(page)[0]
        page.get_by_role("link", name="Add to minus").first.click()
        until_asked(page, image=first, minus=second)
        assert page.locator("#asked img").count() == 2
        assert all_loaded(page, "#asked img, .with img, .chip img")
        page.get_by_role("link", name="Leave the picture out").click()
        assert "in words or by a picture" in page.inner_text("#wrong")


def test_hits_are_taken_along(browser: Any, site: str, tmp_path: Path) -> None:
    with visit(browser, site) as page:
        page.goto("/?q=a+tent&mode=hybrid&k=100")
        photos, files = shown(page), {}
        for kind in ("JSON", "CSV", "Parquet"):
            with page.expect_download() as started:
                page.get_by_role("link", name=kind, exact=True).click()
            assert started.value.suggested_filename == f"hits.{kind.lower()}"
            files[kind] = tmp_path / kind
            started.value.save_as(files[kind])
    hits = json.loads(files["JSON"].read_text(encoding="utf-8"))["hits"]
    rows = list(csv.DictReader(io.StringIO(files["CSV"].read_text(encoding="utf-8-sig"), newline="")))
    table = pq.read_table(files["Parquet"])
    assert [hit["photo_id"] for hit in hits] == photos
    assert [row["photo_id"] for row in rows] == table["photo_id"].to_pylist() == photos
    assert list(rows[0]) == table.column_names
    assert json.loads(rows[0]["ranks"]) == dict(table["ranks"][0].as_py())
    assert {row["text"] for row in rows} == {"a tent"}


def test_a_permalink_shows_the_same_and_the_way_back_works(browser: Any, site: str) -> None:
    with visit(browser, site) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.goto("/?q=a+tent")
        first = shown(page)
        page.get_by_label("Words to search for").fill("a balloon")
        page.get_by_role("button", name="Search", exact=True).click()
        until_asked(page, q="a balloon")
        page.get_by_text("More of this, less of that").click()
        page.get_by_label("+ more of").fill("snow")
        page.get_by_label("λ, how much of it").fill("2")
        until_asked(page, scale="2")
        page.get_by_role("button", name="Copy the link").click()
        page.wait_for_selector("text=Link copied")
        link, photos = page.evaluate("navigator.clipboard.readText()"), shown(page)
        assert link == page.url
        page.go_back()  # the slider made no steps of its own
        until_asked(page, q="a tent")
        assert shown(page) == first
        assert page.get_by_label("Words to search for").input_value() == "a tent"
        page.go_forward()
        until_asked(page, q="a balloon", scale="2")
        assert shown(page) == photos
    with visit(browser, site) as page:
        page.goto(link)
        assert shown(page) == photos


# --- ways of using it -------------------------------------------------------------------------------------------------


def test_keys_alone_lead_from_a_search_to_a_photo(browser: Any, site: str) -> None:
    focused = "document.activeElement.closest('.hit')?.dataset.photo"
    with visit(browser, site) as page:
        page.goto("/?q=a+tent")
        page.keyboard.press("?")
        assert page.is_visible("#keys")
        page.keyboard.press("Escape")
        assert not page.is_visible("#keys")
        page.keyboard.press("/")
        page.keyboard.press("Control+a")
        page.keyboard.type("a windmill")
        page.keyboard.press("Enter")
        until_asked(page, q="a windmill")
        photos = shown(page)
        for key in ("j", "j", "ArrowRight", "k"):
            page.keyboard.press(key)
        assert page.evaluate(focused) == photos[1]
        assert page.eval_on_selector(".hit:focus-within .mat", "it => getComputedStyle(it).outlineStyle") == "solid"
        page.keyboard.press("ArrowDown")
        assert page.evaluate(focused) == photos[1 + page.evaluate("row()")]
        page.keyboard.press("ArrowUp")
        page.keyboard.press("Enter")
        page.wait_for_url("**/photo/**")
        assert page.locator("article.photo").get_attribute("data-photo") == photos[1]
        page.keyboard.press("m")
        until_asked(page, image=photos[1])
        reached = set()
        for _ in range(12):  # no trap
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.outerHTML"))
        assert len(reached) == 12


def test_the_page_of_a_photo(browser: Any, site: str, archive: Archive) -> None:
    row = archive.live().to_pylist()[5]
    with visit(browser, site, "status of 404") as page:
        page.goto(f"/photo/{row['photo_id']}")
        assert page.inner_text("#title") == row["title"]
        assert all_loaded(page, "img")
        told = page.inner_text("article.photo")
        assert row["license_name"] in told
        assert f"“{row['title']}” by {row['owner']}" in told
        assert row["page_url"] in told
        assert "<" not in told
        assert page.locator(".alike .hit").count() == 8
        tag = page.locator("article.photo dd ul a").first
        said = tag.inner_text()
        tag.click()
        until_asked(page, tag=said)
        assert row["photo_id"] in shown(page)
        page.goto("/photo/flickr:0")
        assert "there is no such photo" in page.inner_text("main")


def test_a_persons_caption_is_named(browser: Any, site: str, archive: Archive) -> None:
    with visit(browser, site) as page:
        page.goto(f"/photo/{archive.live()['photo_id'][1]}")
        assert page.inner_text("article.photo .caption") == "What Ada saw"
        assert page.inner_text("article.photo .machine") == "Caption by Ada"
        assert page.eval_on_selector(".caption", "it => getComputedStyle(it).fontStyle") == "normal"
        assert page.get_by_alt_text("What Ada saw (described by Ada)").count() == 1


def test_what_sources_wrote_is_text(browser: Any, site: str, archive: Archive) -> None:
    hostile = archive.live()["photo_id"][0].as_py()
    with visit(browser, site) as page:
        page.goto(f"/?q=a+tent&k=100&tag={HOSTILE}")
        assert shown(page) == [hostile]
        assert page.inner_text(".hit h3") == HOSTILE
        page.get_by_role("link", name=HOSTILE).first.click()
        page.wait_for_url("**/photo/**")
        assert page.inner_text("#title") == HOSTILE
        assert page.inner_text(".told").startswith("Before.")
        assert page.title() == f"{HOSTILE} · archive · Tintype"
        page.goto("/", wait_until="load")
        page.get_by_label("Words to search for").fill(HOSTILE)
        page.keyboard.press("Enter")
        until_asked(page, q=HOSTILE)
        assert page.inner_text("#asked") == f"“{HOSTILE}”"
        page.get_by_text("Filters", exact=True).click()
        page.get_by_label("Photos shown").select_option("12")  # by the script as well
        until_asked(page, k="12")
        assert page.inner_text("#asked") == f"“{HOSTILE}”"
        assert page.locator("main script, main [onerror]").count() == 0


def test_dark_and_light(browser: Any, site: str) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    for scheme, colour in {"light": "rgb(250, 248, 243)", "dark": "rgb(23, 21, 18)"}.items():
        with visit(browser, site, color_scheme=scheme) as page:
            page.goto("/?q=a+tent")
            assert page.evaluate(paper) == colour
            assert page.eval_on_selector("#after", "it => getComputedStyle(it).backgroundColor") in (
                colour,
                "rgba(0, 0, 0, 0)",
            )


def test_without_scripts(browser: Any, site: str, archive: Archive) -> None:
    with visit(browser, site, java_script_enabled=False) as page:
        page.goto("/")
        page.get_by_label("Words to search for").fill("a tent")
        page.get_by_role("button", name="Search", exact=True).click()
        until_asked(page, q="a tent")
        assert asked(page) == {"q": "a tent"}
        assert page.locator(".hit").count() == 24
        page.get_by_role("link", name="Add to plus").nth(2).click()
        until_asked(page, q="a tent")
        assert asked(page).keys() == {"q", "plus"}
        page.get_by_label("λ, how much of it").fill("3")
        page.get_by_role("button", name="Search", exact=True).click()
        until_asked(page, scale="3")
        assert page.is_hidden("#copy")
        page.goto("/?q=a+tent&after=1800")
        page.get_by_label("Search by a picture of yours").set_input_files(
            {"name": "mine.jpg", "mimeType": "image/jpeg", "buffer": a_picture(site, page)}
        )
        page.get_by_role("button", name="Search by picture").click()
        page.wait_for_url(lambda url: "image=picture." in url)
        assert asked(page).keys() == {"image", "after"}
        assert page.locator(".hit").count() == 24


def test_on_a_phone_nothing_is_wider_than_the_screen(browser: Any, site: str, archive: Archive) -> None:
    photo = archive.live()["photo_id"][4]
    addresses = ("/", "/?q=a+tent&plus=blue&tag=poster&mode=hybrid", f"/?image={photo}", f"/photo/{photo}")
    with visit(browser, site, viewport={"width": 390, "height": 844}) as page:
        for address in addresses:
            page.goto(address)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390


# --- what assistive technology is told --------------------------------------------------------------------------------

NAMED = {"image", "link", "button", "searchbox", "textbox", "slider", "combobox", "radio", "checkbox", "search"}


def accessible(page: Any) -> list[dict[str, Any]]:
    """Chromium's accessibility tree as a list: role, name and level of whatever is not left out of it."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    return [
        {
            "role": node["role"]["value"],
            "name": node.get("name", {}).get("value", ""),
            "level": next((p["value"]["value"] for p in node.get("properties", ()) if p["name"] == "level"), None),
        }
        for node in nodes
        if not node["ignored"]
    ]


@pytest.mark.parametrize("address", ["/", "/?q=a+tent&plus=blue&after=1850", "/photo"])
def test_everything_has_a_name(browser: Any, site: str, archive: Archive, address: str) -> None:
    if address == "/photo":
        address = f"/photo/{archive.live()['photo_id'][4]}"
    with visit(browser, site) as page:
        page.goto(address)
        nodes = accessible(page)
        assert [node for node in nodes if node["role"] in NAMED and not node["name"].strip()] == []
        roles = [node["role"] for node in nodes]
        assert {"banner", "search", "main", "contentinfo", "status", "image", "searchbox"} <= set(roles)
        assert roles.count("main") == 1
        levels = [node["level"] for node in nodes if node["role"] == "heading"]
        assert levels[0] == 1
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
        assert page.get_attribute("html", "lang") == "en"
