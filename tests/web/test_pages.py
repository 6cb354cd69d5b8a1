"""The page as its server sends it: text stays text, links lead where they may, and troubles are told on a page."""

import csv
import io
import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from pipeline import builds, cli, search
from pipeline.models import openclip
from pipeline.photo import Hit
from pipeline.search import Answer, Query
from pipeline.stages import index
from pipeline.stages.index import IndexSettings
from pipeline.web import pages
from tests import small_archive as small
from tests.web.conftest import SCRIPT, Served, make, picture, serving


class Page(HTMLParser):
    """What a browser would find in an answer: elements with their attributes, and text."""

    def __init__(self, answer: requests.Response) -> None:
        super().__init__()
        assert answer.headers["content-type"].startswith("text/html")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(answer.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.elements if name == tag and attributes.items() <= found.items()]

    @property
    def photos(self) -> list[str | None]:
        return [found["data-photo"] for found in self.all("li") if "data-photo" in found]


@pytest.mark.parametrize(
    "path", ["/", "/?q=a+boat&k=100", "/photo/flickr:7", f"/?q={SCRIPT}&tag={SCRIPT}&after={SCRIPT}"]
)
def test_what_others_wrote_is_text_and_leads_nowhere_it_may_not(site: Served, path: str) -> None:
    answer = site.get(path)
    page = Page(answer)
    assert [found["src"] for found in page.all("script")] == ["/static/page.js"]
    assert not any(name.startswith("on") or name == "style" for _, found in page.elements for name in found)
    links = [found["href"] or "" for tag in ("a", "link") for found in page.all(tag)]
    assert all(link.startswith(("/", "#", "https://www.flickr.com/")) for link in links)
    assert all((found["src"] or "").startswith("/thumbnails/") for found in page.all("img"))
    if path != "/":
        assert SCRIPT in page.text
    assert "unsafe" not in answer.headers["content-security-policy"]


def test_the_address_says_what_was_asked_and_no_more(site: Served) -> None:
    given = {"q": " a boat ", "plus": "", "scale": "1", "mode": "vector", "k": "24", "where": "", "utm": "x"}
    answer = site.get("/", **given)
    assert answer.url == f"{site.url}/?q=a+boat"
    assert len(Page(answer).photos) == 24
    assert site.get("/", q="a boat", image="flickr:3").url == f"{site.url}/?q=a+boat"  # words typed beside a picture
    assert site.get("/", q=" ").url == f"{site.url}/"


def test_hits_are_those_of_the_api(site: Served) -> None:
    asked = {"image": "flickr:3", "plus": "red", "scale": 2.5, "tag": "odd", "k": 12}
    assert Page(site.get("/", **asked)).photos == site.ids(**asked) == Page(site.get("/results", **asked)).photos


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"q": "a", "after": "soon"}, "after"),
        ({"q": "a", "where": "nothing > 3"}, "where"),
        ({"q": "a", "where": "count(list_sort(range(1 << 33))) > 3"}, "where"),
        ({"q": "a", "plus": "b", "mode": "words"}, "plus"),
        ({"tag": "odd"}, "q"),
    ],
)
def test_an_error_stands_beside_its_field(site: Served, asked: dict[str, str], field: str) -> None:
    answer = site.get("/", **asked)
    page = Page(answer)
    [wrong] = page.all("input", **{"aria-invalid": "true"})
    assert (wrong["name"], wrong["aria-describedby"]) == (field, "wrong")
    assert page.all("p", id="wrong")
    assert {found["name"]: found["value"] for found in page.all("input", type="text")}.items() >= {
        name: value for name, value in asked.items() if name not in ("q", "mode")
    }.items()
    told = site.get("/results", **asked)
    assert told.headers["content-type"].startswith("text/plain")
    assert told.text and "\n" not in told.text


def test_troubles_have_a_page_and_their_status(site: Served) -> None:
    for answer, status, said in [
        (site.get("/photo/flickr:none"), 404, "there is no such photo"),
        (site.get("/download.exe", q="a"), 422, "kind"),
        (requests.post(site.url, files={"file": ("x.jpg", b"<svg/>")}), 415, "no usable picture"),
        (requests.post(site.url), 422, "file"),
    ]:
        assert answer.status_code == status
        assert said in Page(answer).text


def test_a_picture_from_the_form_keeps_the_filters(site: Served) -> None:
    answer = requests.post(f"{site.url}/?tag=odd", files={"file": ("x.jpg", picture(5))}, timeout=60)
    assert answer.history[0].status_code == 303
    page = Page(answer)
    assert page.photos[0] == "flickr:5"
    assert all(int(str(photo).partition(":")[2]) % 2 for photo in page.photos)
    assert len([found for found in page.all("img") if (found["src"] or "").startswith("/pictures/")]) == 2
    assert page.all("input", name="image", type="hidden")


def test_no_cell_is_a_formula(site: Served) -> None:
    answer = site.get("/download.csv", q="=1+1", mode="hybrid", plus="@now")
    assert answer.content.startswith(b"\xef\xbb\xbf")
    rows = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"), newline="")))
    assert len(rows) == 24
    assert (rows[0]["text"], rows[0]["plus"]) == ("'=1+1", "'@now")
    assert json.loads(rows[0]["ranks"]).keys() <= {"tiny", "words"}


def test_labels_in_csv_are_json() -> None:
    labels = [{"label": 'a "tent"', "probability": 0.5}]
    facts: dict[str, Any] = dict.fromkeys(search.FACTS) | {"photo_id": "x:3", "labels": labels}
    answer = Answer(Query("a tent"), (Hit(1, 0.5, row_id=3, **facts),), ())
    [row] = csv.DictReader(io.StringIO(pages.as_csv(answer).removeprefix("\ufeff"), newline=""))
    assert json.loads(row["labels"]) == labels
    assert row["caption"] == ""


def test_what_is_wrong_marks_no_field_that_is_right(site: Served) -> None:
    shown = Page(site.get("/", q="a", k="0"))
    assert "k=0: a whole number from 1 to 100" in shown.text
    assert not any("aria-invalid" in given for given in shown.all("input"))
    [tag] = Page(site.get("/", q="a", plus="flickr:999")).all("input", name="plus")
    assert "aria-invalid" in tag


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory, model: Path, loaded: openclip.Model) -> Iterator[Served]:
    """An archive with two embeddings, of whose photos some are copies."""
    archive = make(str(tmp_path_factory.mktemp("several") / "archive"), model, loaded)
    rows = builds.open_build(archive.url).photos(["row_id"])["row_id"].to_numpy()
    vectors, _ = builds.open_build(archive.url).vectors(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small, "IDENTITY", loaded.identity())
        small.add_vectors(archive, 0, list(vectors[::-1].astype(np.float16)), name="other")
    index.build(archive, IndexSettings(of="other"))
    assert cli.main(["duplicates", archive.url, "--of", "other", "--json"]) == 0
    with serving(archive.url) as served:
        yield served


def test_several_embeddings_and_copies(several: Served) -> None:
    page: Any = Page(several.get("/", q="a boat", of="tiny,other"))
    offered = [found for found in page.all("select") if found["name"] == "of"]
    assert len(offered) == 1
    assert "tiny 1" in page.text
    assert "other 1" in page.text
    assert page.photos == several.ids(q="a boat", of="tiny,other")
    collapsed = Page(several.get("/", q="a boat", of="other", collapse="true"))
    [box] = collapsed.all("input", name="collapse")
    assert "checked" in box
    assert collapsed.photos == several.ids(q="a boat", of="other", collapse="true")
