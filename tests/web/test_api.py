"""The API of a real server on loopback: answers, pictures, facts; forgotten photos; newer builds."""

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from pipeline import builds, search
from pipeline.models import openclip
from pipeline.search import Query
from pipeline.stages import index
from pipeline.stages.index import IndexSettings
from tests import small_archive as small
from tests.web.conftest import RESERVED, ROWS, SCRIPT, Served, add_part, make, picture, serving


def test_answers_are_those_of_the_command(site: Served, loaded: openclip.Model) -> None:
    build = builds.open_build(site.service.archive.url)
    asked = {"plus": "blue", "minus": "flickr:3", "scale": 2.5, "k": 5}
    query = Query(text="a red boat", where="row_id > 4", **asked)
    expected = search.hits_json([build], search.search(build, query, lambda: loaded))
    told = site.search(q="a red boat", where="row_id > 4", **asked)
    assert [hit["photo_id"] for hit in told["hits"]] == [hit["photo_id"] for hit in expected["hits"]]
    np.testing.assert_allclose(*([h["score"] for h in t["hits"]] for t in (told, expected)), atol=0.01)  # bf16 or fp32
    assert told["hits"][0].keys() - expected["hits"][0].keys() == {"thumbnail", "credit"}
    assert told["query"] == expected["query"] and told["index"] == expected["index"] | {"archive": "archive"}
    assert told["among"] == ROWS - 5 and told["milliseconds"] > 0


def test_words_and_both(site: Served) -> None:
    assert site.ids(q='"title of flickr 12"', mode="words") == ["flickr:12"]
    both = site.search(q="12", mode="hybrid")["hits"]
    assert {"words", "tiny"} == set().union(*(hit["ranks"] for hit in both))


def test_filters(site: Served) -> None:
    def kept(**filters: str) -> set[int]:
        return {int(photo_id.partition(":")[2]) for photo_id in site.ids(q="a", k=100, **filters)}

    assert kept(after="1910", before="1912-06") == {10, 11, 12}
    assert kept(tag="odd") == set(range(1, ROWS, 2))
    assert kept(license="none") == set(range(0, ROWS, 3))
    assert kept(license=RESERVED) == {10}
    assert kept(tag="odd", license="none", where="date_taken < '1910' -- no more") == {3, 9}
    assert kept(tag="odd", where="false OR row_id = 2") == set()
    assert kept(tag=SCRIPT, where="row_id = 1") == {1}
    refused = site.get("/api/search", q="a", tag="odd", where="true) OR (true")
    assert refused.status_code == 400 and "cannot use where" in refused.json()["error"]


def test_a_dropped_picture(site: Served) -> None:
    dropped = site.drop(picture(5)).json()
    assert site.ids(image=dropped["image"])[0] == "flickr:5"
    with Image.open(BytesIO(site.get(dropped["thumbnail"]).content)) as shown:
        assert shown.size == (120, 80)
    # Its name is all that a search needs: another server, which never saw the picture, answers alike.
    with serving(site.service.archive.url) as other:
        assert other.ids(image=dropped["image"]) == site.ids(image=dropped["image"])
        assert other.get(dropped["thumbnail"]).status_code == 404
    for name in (dropped["image"][:-9], "picture.", "picture.????", "picture.AAAAAAAA", "/etc/passwd", site.url):
        refused = site.get("/api/search", image=name)
        assert refused.status_code == 400 and "\n" not in refused.json()["error"]


def test_thumbnails(site: Served) -> None:
    answer = site.get("/thumbnails/3.jpg", size=240)
    with Image.open(BytesIO(answer.content)) as shown:
        assert shown.format == "JPEG" and shown.size == (120, 80)
    again = requests.get(answer.url, headers={"If-None-Match": answer.headers["ETag"]}, timeout=60)
    assert again.status_code == 304 and not again.content
    assert site.get("/thumbnails/999.jpg").status_code == 404
    assert site.get("/thumbnails/3.jpg", size=100).status_code == 400
    assert site.get("/thumbnails/x.jpg").status_code == 422


def test_facts_of_a_photo_and_of_the_archive(site: Served) -> None:
    told = site.get("/api/photos/flickr:7").json()
    assert told["title"] == told["owner"] == SCRIPT and told["caption_by"] is None and told["caption_model"]
    assert told["credit"].startswith(f"“{SCRIPT}” by {SCRIPT}, No known copyright restrictions")
    assert site.get("/api/photos/flickr:999").status_code == 404
    about = site.get("/api/archive").json()
    assert about["archive"] == "archive"
    [one] = about["indexes"]
    assert one["of"] == "tiny" and one["photos"] == ROWS and one["years"] == ["1900", "1929"]
    licences = {(licence["url"], licence["name"]): licence["photos"] for licence in one["licenses"]}
    assert licences[None, None] == 10 and licences[None, RESERVED] == 1
    assert {"tag": SCRIPT, "photos": ROWS} in one["tags"]


def test_the_description_holds_every_route(site: Served) -> None:
    told = site.get("/api/openapi.json").json()
    assert {"/api/search", "/api/pictures", "/api/photos/{photo_id}", "/api/archive"} <= told["paths"].keys()
    assert [p["name"] for p in told["paths"]["/api/search"]["get"]["parameters"]][:2] == ["q", "image"]
    for path in ("/docs", "/redoc"):  # they load scripts from elsewhere
        assert site.get(path).status_code == 404


def test_twenty_at_once(site: Served) -> None:
    texts = [f"picture number {n}" for n in range(20)]
    alone = [site.ids(q=text, k=3) for text in texts]
    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(lambda text: site.ids(q=text, k=3), texts)) == alone


def test_one_wrong_query_spoils_no_other(site: Served) -> None:
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(site.get, "/api/search", q=f"{n}", plus="flickr:1", of="tiny") for n in range(4)]
        wrong = [pool.submit(site.get, "/api/search", image="flickr:999") for _ in range(4)]
    assert [one.result().status_code for one in asked] == [200] * 4
    assert [one.result().status_code for one in wrong] == [400] * 4


@pytest.fixture
def changing(tmp_path: Path, model: Path, loaded: openclip.Model) -> Iterator[Served]:
    archive = make(str(tmp_path / "archive"), model, loaded)
    with serving(archive.url, reload_s=0, news_s=0) as served:
        yield served


def test_what_changes_while_it_is_served(changing: Served, loaded: openclip.Model) -> None:
    archive = changing.service.archive
    assert changing.get("/thumbnails/4.jpg").status_code == 200
    small.forget(archive, "flickr:4")
    small.change(archive, "flickr:5", "visible", "false")
    small.change(archive, "flickr:6", "caption", '"a word of a person"', by="Ada")
    ids = changing.ids(q="a", k=100)
    assert len(ids) == ROWS - 2 and not {"flickr:4", "flickr:5"} & set(ids)
    for path in ("/thumbnails/4.jpg", "/thumbnails/5.jpg", "/api/photos/flickr:4"):
        assert changing.get(path).status_code == 404
    assert changing.get("/api/search", image="flickr:4").status_code == 400
    told = changing.get("/api/photos/flickr:6").json()
    assert told["caption"] == "a word of a person" and told["caption_by"] == "Ada"

    old = changing.search(q="a")["index"]["build"]
    add_part(archive, 1, loaded, ROWS)
    index.build(archive, IndexSettings(of="tiny"))
    until = time.monotonic() + 30
    while (told := changing.search(q="a", k=100))["index"]["build"] == old:
        assert time.monotonic() < until
    assert len(told["hits"]) == 2 * ROWS - 2
    assert changing.get(f"/thumbnails/{1 << 20}.jpg").status_code == 200


def test_builds_that_come_and_go_between_two_looks(
    tmp_path: Path, model: Path, loaded: openclip.Model, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = make(str(tmp_path / "secret/archive"), model, loaded)
    with serving(archive.url, reload_s=1000, filter_s=20) as served, ThreadPoolExecutor(2) as pool:
        old = served.search(q="a", where="row_id >= 0")["index"]["build"]
        add_part(archive, 1, loaded, ROWS)
        index.build(archive, IndexSettings(of="tiny"))
        slow = "len(list_sort(range(4000000))) > 0"
        asked = [pool.submit(served.get, path, q="a", where=slow, k=100) for path in ("/api/search", "/")]
        while served.service._filters._idle.qsize() == 2:
            time.sleep(0.01)
        served.service.reload()
        told, shown = (one.result() for one in asked)
        # It answers of the build that it began with, and the newer one is in use.
        assert told.json()["index"]["build"] == old and len(told.json()["hits"]) == ROWS
        assert shown.status_code == 200
        new = served.search(q="a")["index"]["build"]
        assert new != old

        add_part(archive, 2, loaded, 2 * ROWS)
        index.build(archive, IndexSettings(of="tiny"))
        for build in (old, new):
            shutil.rmtree(tmp_path / "secret/archive/index/tiny" / build, ignore_errors=True)
        told = served.search(q="a", where="row_id >= 0 AND true", k=100)
        assert told["index"]["build"] not in (old, new) and len(told["hits"]) == 3 * ROWS
        assert capsys.readouterr().err == ""

        shutil.rmtree(tmp_path / "secret/archive/index/tiny" / told["index"]["build"])
        for path, given in {
            "/api/search": {"q": "a", "where": "row_id > 1"},
            "/results": {"q": "a"},
            "/": {},
            "/photo/flickr:3": {},
            "/api/photos/flickr:3": {},
        }.items():
            answer = served.get(path, **given)
            assert answer.status_code == 503 and "secret" not in answer.text and "delete" not in answer.text
        assert "is damaged" in capsys.readouterr().err


def test_without_weights(
    tmp_path: Path, model: Path, loaded: openclip.Model, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = make(str(tmp_path / "secret/archive"), model, loaded)
    shutil.rmtree(tmp_path / "secret/archive/models")
    with serving(archive.url) as served:
        served.service.warm()
        assert served.ids(q='"title of flickr 12"', mode="words") == ["flickr:12"]
        for _ in range(2):
            answer = served.get("/api/search", q="a boat")
            assert answer.status_code == 503 and "secret" not in answer.text
        assert served.drop(picture(1)).status_code == 503
        assert len(served.ids(image="flickr:3")) == 24
    [line] = capsys.readouterr().err.splitlines()
    assert "does not hold the weights" in line


def test_a_photo_that_is_not_here_is_no_word(site: Served) -> None:
    for name in ("plus", "minus"):
        answer = site.get("/api/search", q="a", **{name: "flickr:999"})
        assert answer.status_code == 400 and answer.json()["error"].startswith(f"{name}: flickr:999 is no photo")
    assert site.ids(q="a", plus="note: a boat")
