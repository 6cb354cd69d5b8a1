"""The contact sheet: one file that asks for nothing, safe whatever titles hold, its machine-made text marked."""

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pipeline import builds, contact_sheet, search
from pipeline.archive import Archive
from pipeline.builds import Build
from pipeline.page import FLICKR_NOTICE, STYLE
from pipeline.search import Query
from pipeline.stages import index
from pipeline.stages.index import IndexSettings
from tests import small_archive as small
from tests.test_search import Embedder

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """What a browser would find: elements, their attributes, text. Asserts that each was closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def sheet(build: Build, *queries: Query) -> Page:
    return Page(contact_sheet.render([build], search.search_many(build, queries, Embedder)))


def built(tmp_path: Path, photos: Sequence[dict[str, Any]], captions: bool = True) -> Build:
    archive = Archive.create(str(tmp_path / "archive"))
    small.add_pictures(archive, 0, list(photos))
    small.add_vectors(archive, 0, list(small.random_vectors(len(photos))))
    if captions:
        small.add_captions(archive, 0)
    index.build(archive, IndexSettings(of="tiny"))
    return builds.open_build(archive.url)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    return built(tmp_path, [small.photo(f"flickr:{i}") for i in range(8)])


def test_a_hit_shows_picture_caption_rights_and_the_way_home(build: Build) -> None:
    page = sheet(build, Query("a boat", k=1))
    (hit,) = search.search(build, Query("a boat", k=1), Embedder).hits
    assert f"title of {hit.photo_id}" in page.text
    assert f"caption of {hit.photo_id}" in page.text
    assert "Caption written by a machine (test-captioner)" in page.text
    assert "3 June 1910" in page.text
    assert "Somebody" in page.text
    assert f"{hit.score:.3f}" in page.text
    assert {link["href"] for link in page.all("a")} == {hit.page_url, hit.license_url}
    (picture,) = page.all("img")
    assert picture["alt"] == f"caption of {hit.photo_id} (described by a machine)"
    assert FLICKR_NOTICE in page.text


def test_it_asks_nobody_for_anything(build: Build) -> None:
    page = sheet(build, Query("a boat"), Query(image="flickr:0", plus="blue"))
    sources = [attributes["src"] for _, attributes in page.elements if "src" in attributes]
    assert len(sources) == 6 + 6 + 1
    assert all(re.fullmatch(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", source or "") for source in sources)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert not re.search(r"url\(|@import", STYLE + contact_sheet.STYLE)
    assert "default-src 'none'" in str(page.all("meta"))


ATTACKS = {
    "title": '<script>alert(1)</script><img src=x onerror="alert(2)">',
    "owner": "\"><svg onload='alert(3)'>",
    "license_name": "</a></p></li><b>",
    "date_taken": "<i>1910",
}


def test_what_sources_and_users_write_is_text(tmp_path: Path) -> None:
    links = {"page_url": "javascript:alert(4)", "license_url": 'https://x.org/"onmouseover="alert(5)'}
    build = built(tmp_path, [small.photo("flickr:<b>'", **ATTACKS, **links), small.photo("flickr:2")])
    attack = "<script>alert(6)</script>\" onload='x'"
    page = sheet(build, Query(attack, plus=attack, where="photo_id <> '</code><script>'"), Query(image="flickr:<b>'"))
    assert not {"script", "svg", "b", "i"} & {tag for tag, _ in page.elements}
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    for text in (*ATTACKS.values(), attack, "</code><script>"):
        assert text in page.text
    hrefs = [link["href"] or "" for link in page.all("a")]
    assert 'https://x.org/"onmouseover="alert(5)' in hrefs
    assert not any(href.startswith("javascript") for href in hrefs)


def test_several_queries_have_a_list_of_contents(build: Build) -> None:
    page = sheet(build, Query("a boat"), Query("a train", plus="blue", minus="red"), Query("x", where="false"))
    inside = {link["href"] for link in page.all("a") if (link["href"] or "").startswith("#")}
    assert inside == {"#q1", "#q2", "#q3"} == {f"#{heading['id']}" for heading in page.all("h2")}
    assert page.text.count("“a train” + (“blue” − “red”)") == 2
    assert "No photo answers this query." in page.text
    assert "among photos where false" in page.text
    assert len(page.all("h1")) == 1


def test_query_pictures_are_shown(build: Build, tmp_path: Path) -> None:
    path = tmp_path / "mine.jpg"
    path.write_bytes(small.jpeg((10, 200, 30)))
    page = sheet(build, Query(image=str(path), minus="flickr:3", k=1))
    assert [picture["alt"] for picture in page.all("img")][:2] == [f"the picture {path}", "the picture flickr:3"]


def test_no_rights_no_captions_no_flickr(tmp_path: Path) -> None:
    facts = {"license_id": None, "license_name": None, "license_url": None, "owner": None, "page_url": None}
    photo = small.photo("file:a.jpg", title=None, date_taken=None, **facts)
    page = sheet(built(tmp_path, [photo], captions=False), Query("a boat"))
    assert "No licence stated: ask before you use it" in page.text
    assert page.all("img")[0]["alt"] == "file:a.jpg"
    assert page.all("a") == []
    assert "machine" not in page.text
    assert FLICKR_NOTICE not in page.text


@pytest.mark.parametrize(
    ("date", "granularity", "shown"),
    [
        ("1910-06-03 14:00:00", "second", "3 June 1910"),
        ("1910-06", "month", "June 1910"),
        ("1910", "year", "1910"),
        ("1910", "circa", "about 1910"),
    ],
)
def test_dates_say_no_more_than_is_known(tmp_path: Path, date: str, granularity: str, shown: str) -> None:
    build = built(tmp_path, [small.photo("flickr:1", date_taken=date, date_granularity=granularity)])
    assert f"{shown} · Somebody" in sheet(build, Query("a boat")).text


def test_only_the_pictures_shown_are_made_into_thumbnails(build: Build) -> None:
    answer = search.search(build, Query(image="flickr:5", k=2), Embedder)
    assert contact_sheet._thumbnails(build, [answer]).keys() == {5, *(hit.row_id for hit in answer.hits)}
