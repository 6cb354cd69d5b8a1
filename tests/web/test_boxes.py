"""Objects on the page: asked for, told, and boxes that lie where their pictures show them, in a real browser too."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from pipeline import boxes, builds, contact_sheet, imaging, report, schemas, search
from pipeline.archive import Archive
from pipeline.report.sheet import render
from pipeline.search import Query
from pipeline.stages import index
from pipeline.stages.index import IndexSettings
from tests import small_archive as small
from tests.test_contact_sheet import Page
from tests.test_search import Embedder
from tests.web.conftest import Served, serving
from tests.web.test_pages import Page as Shown

CHROMIUM = "/usr/bin/chromium"
SIZES = [(1200, 800), (500, 1100), (1500, 300), (100, 80)]  # wide, high, very wide, smaller than any thumbnail
BOX = (0.25, 0.125, 0.75, 0.5)  # of the bicycle: left, top, right, bottom
HOSTILE = "<b>x & \"y'"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """Photos of these sizes, each with a bicycle and something of a hostile name in it; the last one shows nothing."""
    archive = Archive.create(str(tmp_path_factory.mktemp("boxes") / "archive"))
    sizes = [*SIZES, (120, 80)]
    pictures = (imaging.to_jpeg(Image.new("RGB", size, (90, 110, 130))) for size in sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small, "jpeg", lambda *_: next(pictures))
        small.add_pictures(archive, 0, [small.photo(f"flickr:{row}") for row in range(len(sizes))])
    images = archive.table("images")
    rows = [row | {"width": w, "height": h} for row, (w, h) in zip(images.read(0).to_pylist(), sizes, strict=True)]
    Path(images.part_url(0)).unlink()
    images.write(0, [pa.Table.from_pylist(rows, schemas.IMAGES)], small.made_of(archive, "photos", 0), schemas.IMAGES)
    small.add_vectors(archive, 0, list(small.random_vectors(len(sizes))))
    table = archive.table("objects/tiny")
    table.claim({"model": "owl", "queries": ["bicycle", HOSTILE, "cat"], "template": "{}", "threshold": 0.2, "top": 5})
    seen = [
        {"label": "bicycle", "score": 0.75, **dict(zip(("x0", "y0", "x1", "y1"), BOX, strict=True))},
        {"label": HOSTILE, "score": 0.5, "x0": 0.625, "y0": 0.0, "x1": 1.0, "y1": 0.25},
    ]
    keys = archive.table("photos").read(0, ["row_id", "photo_id"]).to_pylist()
    told = [key | {"objects": seen if key["photo_id"] != "flickr:4" else [], "model": "owl"} for key in keys]
    receipt = small.made_of(archive, "images", 0)
    table.write(0, [pa.Table.from_pylist(told, schemas.OBJECTS)], receipt, schemas.OBJECTS)
    index.build(archive, IndexSettings())
    return archive


@pytest.fixture(scope="module")
def site(archive: Archive) -> Iterator[Served]:
    with serving(archive.url) as served:
        yield served


def sheet(archive: Archive) -> str:
    build = builds.open_build(archive.url)
    answers = search.search_many(build, [Query(image="flickr:4", k=9, where="has('bicycle')")], Embedder)
    return contact_sheet.render([build], answers)


def wall(archive: Archive) -> str:
    """The report, on which all photos stand."""
    build = builds.open_build(archive.url)
    return render(archive, build, report.figures(archive, build, [], wall=9))


def test_a_drawing_is_as_large_as_the_thumbnail() -> None:
    seen = [{"label": HOSTILE, "score": 0.5, "x0": 0.5, "y0": 0.25, "x1": 1.0, "y1": 0.75}]
    page = Page(boxes.drawn(seen, 1000, 400, 500))
    [svg], [rect] = page.all("svg"), page.all("rect")
    assert (svg["width"], svg["height"], svg["viewbox"]) == ("500", "200", "0 0 500 200")
    assert [rect[name] for name in ("x", "y", "width", "height")] == ["250.0", "50.0", "250.0", "100.0"]
    assert page.text == f"{HOSTILE} 0.50" and page.all("b") == []
    assert boxes.drawn([], 1000, 400, 500) == boxes.drawn(None, 1000, 400, 500) == ""
    for width, height in SIZES:
        [svg] = Page(boxes.drawn(seen, width, height, 480)).all("svg")
        with Image.open(
            BytesIO(imaging.thumbnail(imaging.to_jpeg(Image.new("RGB", (width, height))), 480))
        ) as small_one:
            assert (svg["width"], svg["height"]) == tuple(map(str, small_one.size))


def test_has_keeps_the_photos_with_an_object(site: Served) -> None:
    assert set(site.ids(image="flickr:4", has="bicycle")) == {f"flickr:{row}" for row in range(4)}
    assert site.ids(image="flickr:4", has="cat") == []
    wide = set(site.ids(image="flickr:4", has=HOSTILE, where="width > height"))
    assert wide == {"flickr:0", "flickr:2", "flickr:3"}
    assert site.ids(image="flickr:4", where="has('bicycle', 0.8)") == []
    answer = site.get("/api/search", image="flickr:4", has="dog")
    assert answer.status_code == 400
    assert answer.json()["error"] == f"has=dog: what was looked for is bicycle, {HOSTILE}, cat"
    [told] = site.get("/api/archive").json()["indexes"]
    assert told["objects"] == [{"object": n, "photos": p} for n, p in (("bicycle", 4), (HOSTILE, 4), ("cat", 0))]


def test_the_page_tells_of_objects(site: Served) -> None:
    page = Shown(site.get("/", image="flickr:4", has="bicycle"))
    assert len(page.all("svg", **{"class": "boxes"})) == 4 and page.all("b") == []
    assert "bicycle (0.75), <b>x & \"y' (0.50), found by a machine" in page.text
    assert [field["value"] for field in page.all("input") if field.get("id") == "has"] == ["bicycle"]
    wrong = Shown(site.get("/", image="flickr:4", has="dog"))
    [field] = [field for field in wrong.all("input") if field.get("id") == "has"]
    assert field["aria-invalid"] == "true"
    photo = Shown(site.get("/photo/flickr:1"))
    assert "/?q=bicycle&has=bicycle" in [link["href"] for link in photo.all("a")]
    assert "found by a machine (" in photo.text


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if not Path(CHROMIUM).exists():
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


# For each drawing: the edges of its bicycle as shares of the <img> that it lies over.
PLACES = """drawings => drawings.map(drawing => {
  const picture = drawing.parentElement.querySelector("img").getBoundingClientRect();
  const box = [...drawing.querySelectorAll("g")].find(g => g.textContent.startsWith("bicycle")).querySelector("rect");
  const at = box.getBoundingClientRect();
  return [(at.left - picture.left) / picture.width, (at.top - picture.top) / picture.height,
          (at.right - picture.left) / picture.width, (at.bottom - picture.top) / picture.height,
          picture.width, picture.height];
})"""


def check(page: Any, number: int) -> None:
    """Every drawing on a page, so many of them, lies over its picture."""
    page.wait_for_function("[...document.images].every(image => image.complete)")
    places = page.eval_on_selector_all(".boxes", PLACES)
    assert len(places) == number
    for *found, width, height in places:
        assert min(width, height) > 20
        off = [abs(f - b) * side for f, b, side in zip(found, BOX, (width, height) * 2, strict=True)]
        assert max(off) < 2, (found, width, height)  # pixels of the screen, the line's own among them


@pytest.mark.parametrize("wide", [1300, 380])
def test_boxes_lie_where_the_browser_shows_the_picture(
    site: Served, archive: Archive, browser: Any, wide: int, tmp_path: Path
) -> None:
    page = browser.new_page(viewport={"width": wide, "height": 700})
    page.goto(f"{site.url}/?image=flickr:4&has=bicycle")
    check(page, 4)
    for row in range(4):
        page.goto(f"{site.url}/photo/flickr:{row}")
        check(page, 1 + 3)  # its own, and those of the photos that are like it
        picture, figure = (page.locator(f".photo {what}").first.bounding_box() for what in ("img", "figure"))
        assert figure["height"] < picture["height"] + 80  # the drawing adds nothing to the padding
    for number, html in enumerate((sheet(archive), wall(archive))):
        file = tmp_path / f"{number}.html"
        file.write_text(html)
        page.goto(file.as_uri())
        check(page, 4)
    page.close()


def test_boxes_can_be_taken_away(site: Served, browser: Any) -> None:
    page = browser.new_page()
    page.goto(f"{site.url}/?image=flickr:4&has=bicycle")
    assert page.locator(".boxes").first.is_visible()
    page.get_by_label("Boxes around objects").uncheck()
    assert not page.locator(".boxes").first.is_visible()
    page.close()
