"""The page that re-ranks another service's results: both orders, safely, and only where there is a key."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from pipeline.models import openclip
from pipeline.rerank import pictures
from pipeline.web import reranker
from pipeline.web.service import Service
from tests.unsplash_server import KEY, REFUSED, SPENT, Reply, Unsplash, serve
from tests.web.conftest import SCRIPT, Served, picture, served_by
from tests.web.test_hostile import asked
from tests.web.test_pages import Page

NUMBER = 14


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNSPLASH_ACCESS_KEY", KEY)


@pytest.fixture(scope="module")
def service() -> Iterator[Unsplash]:
    with serve() as running:
        yield running


@pytest.fixture(scope="module")
def served(site: Served, service: Unsplash) -> Iterator[Served]:
    """A server of the same archive that re-ranks, its model loaded."""
    with served_by(Service(site.service.archive.url, unsplash=service.url)) as served:
        assert served.drop(picture(1)).status_code == 200 and served.search(q="a boat")
        yield served


@pytest.fixture
def unsplash(service: Unsplash) -> Unsplash:
    """As it is at first."""
    for held in (service.rows, service.faults, service.calls, service.looks, service.headers, service.pictures):
        held.clear()  # type: ignore[attr-defined]
    for number in range(NUMBER):
        service.add(f"n{number}", picture(number), description=f"number {number}", size=(120, 80))
    return service


@pytest.fixture
def both(served: Served, unsplash: Unsplash) -> Served:
    """That server, which remembers no search."""
    assert served.service.reranker
    served.service.reranker._pools.clear()
    return served


def test_both_orders(both: Served, unsplash: Unsplash, loaded: openclip.Model) -> None:
    said = both.get("/api/rerank", q="a boat", text="a red boat").json()
    assert said["query"] == {"service": "unsplash", "query": "a boat", "text": "a red boat", "n": 30}
    pixels = np.stack([loaded.preprocess(Image.open(BytesIO(picture(n)))) for n in range(NUMBER)])
    cosines = loaded.embed_images(pixels) @ loaded.embed_texts(["a red boat"])[0]
    told = {one["service_rank"] - 1: one["cosine"] for one in said["results"]}
    np.testing.assert_allclose([told[n] for n in range(NUMBER)], cosines, atol=0.01)  # bf16 or fp32
    assert said["not_seen"] == [] and said["total"] == NUMBER
    assert said["results"][0]["picture"].startswith(f"{unsplash.url}/pictures/")

    # The same words by another text take no call of the few that there are.
    calls, looks = len(unsplash.calls), len(unsplash.looks)
    answer = both.get("/rerank", q="a boat")
    assert answer.status_code == 200 and (len(unsplash.calls), len(unsplash.looks)) == (calls, looks)
    page = Page(answer)
    theirs, ours = answer.text.index('id="theirs"'), answer.text.index('id="ours"')
    assert 0 < theirs < ours
    names = [found["alt"] for found in page.all("img")]
    assert names[: reranker.SHOWN] == [f"number {n}" for n in range(reranker.SHOWN)]
    again = both.get("/api/rerank", q="a boat").json()["results"]
    assert names[reranker.SHOWN :] == [one["title"] for one in again[: reranker.SHOWN]]
    assert "Photo by Jeff Sheldon on" in " ".join(page.text.split())
    links = [found["href"] or "" for found in page.all("a")]
    assert sum(link.startswith("https://unsplash.com/@ugmonk?utm_source=") for link in links) == 2 * reranker.SHOWN
    assert KEY not in answer.text


def test_what_others_wrote_is_text(both: Served, unsplash: Unsplash) -> None:
    links = {"html": "javascript:alert(3)"}
    unsplash.rows[2] |= {"description": SCRIPT, "user": {"name": SCRIPT, "links": links}, "links": links}
    page = Page(both.get("/rerank", q=SCRIPT, text=SCRIPT))
    assert [found["src"] for found in page.all("script")] == ["/static/page.js"]
    assert not any(name.startswith("on") or name == "style" for _, found in page.elements for name in found)
    sources = [found["src"] or "" for found in page.all("img")]
    assert len(sources) == 2 * reranker.SHOWN and all(
        source.startswith("data:image/jpeg;base64,") for source in sources
    )
    hrefs = [found["href"] or "" for tag in ("a", "link") for found in page.all(tag)]
    assert all(href.startswith(("/", "#", "https://unsplash.com/")) for href in hrefs)
    assert SCRIPT in page.text


def test_the_way_there(both: Served, site: Served) -> None:
    links = [found["href"] for found in Page(both.get("/", q="a boat & more")).all("a")]
    assert "/rerank" in links and "/rerank?q=a+boat+%26+more" in links
    form = Page(both.get("/rerank"))
    assert [found["name"] for found in form.all("input")] == ["q", "text"] and form.all("img") == []
    links = [found["href"] or "" for found in Page(site.get("/", q="a boat")).all("a")]
    assert not any("rerank" in link for link in links)


def test_without_a_key_it_is_not_there(site: Served) -> None:
    answer = site.get("/api/rerank", q="a boat")
    assert answer.status_code == 404 and "UNSPLASH_ACCESS_KEY" in answer.json()["error"]
    answer = site.get("/rerank", q="a boat")
    assert answer.status_code == 404 and "re-ranks nothing" in Page(answer).text


@pytest.mark.parametrize("place", ["cross-site", "same-site"])
def test_pages_of_others_use_up_no_calls(both: Served, unsplash: Unsplash, place: str) -> None:
    link = {"Sec_Fetch_Site": place, "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    for path in ("/rerank?q=a", "/api/rerank?q=a"):
        assert asked(both, path=path, **link)[0] == 403
    assert unsplash.calls == []


def test_wrong_questions(both: Served, unsplash: Unsplash) -> None:
    for wrong in (
        {},
        {"q": " "},
        {"q": "a" * 1001},
        {"q": "a", "text": "a" * 1001},
        {"q": "a\0"},
        {"q": "a", "of": "b"},
    ):
        answer = both.get("/api/rerank", **wrong)
        assert answer.status_code == 400 and "\n" not in answer.json()["error"]
    for wrong in ({"q": "a", "text": "\1"}, {"q": "a", "of": "tiny,tiny,b"}):
        assert both.get("/rerank", **wrong).status_code == 400
    assert unsplash.calls == []
    assert both.get("/api/rerank", q="a", of="tiny").status_code == 200


def test_troubles_of_the_service(
    both: Served, unsplash: Unsplash, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for fault, said in ((Reply(SPENT, 403), "come back after"), (Reply(REFUSED, 401), "check UNSPLASH_ACCESS_KEY")):
        unsplash.faults = [fault] * 2
        answer = both.get("/api/rerank", q="a")
        assert answer.status_code == 502 and said in answer.json()["error"]
        answer = both.get("/rerank", q="a")
        assert answer.status_code == 502 and said in Page(answer).text and KEY not in answer.text
    monkeypatch.setattr(pictures, "ALL_S", 0.5)
    unsplash.pictures.clear()
    unsplash.pictures |= {"n1": picture(1), "n2": 5.0}
    said = both.get("/api/rerank", q="b").json()
    assert [one["service_rank"] for one in said["results"]] == [2] and len(said["not_seen"]) == NUMBER - 1
    assert "By Unsplash 3, not seen: number 2 (unreachable" in Page(both.get("/rerank", q="b")).text
    unsplash.rows.clear()
    assert "finds nothing" in Page(both.get("/rerank", q="c")).text
    assert KEY not in capsys.readouterr().err


def test_more_than_may_ask(both: Served, unsplash: Unsplash, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "ALL_S", 1.0)
    unsplash.pictures["n3"] = 5.0
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda n: both.get("/api/rerank", q=f"boat {n}"), range(6)))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 503} and statuses.count(200) >= reranker.AT_ONCE
    assert answers[statuses.index(503)].headers["Retry-After"] == "1"
    assert len(unsplash.calls) == statuses.count(200)


def test_what_is_remembered_is_bounded(both: Served, unsplash: Unsplash, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reranker, "REMEMBERED", 2)
    for q in ("a", "b", "a", "c", "b", "a"):
        assert both.get("/api/rerank", q=q).status_code == 200
    assert [given["query"] for _, given in unsplash.calls] == ["a", "b", "c", "a"]
    monkeypatch.setattr(reranker, "REMEMBER_S", 0.0)
    both.get("/api/rerank", q="a")
    assert len(unsplash.calls) == 5


def test_a_search_goes_on_at_unsplash_in_a_browser(both: Served, unsplash: Unsplash) -> None:
    from tests.web import test_browser  # skipped where there is none

    with test_browser.chromium() as browser, test_browser.visit(browser, both.url) as page:
        page.goto("/?q=a+boat")
        page.click("text=The same on Unsplash")
        page.wait_for_selector(".orders")
        assert test_browser.asked(page) == {"q": "a boat"}
        assert test_browser.all_loaded(page, ".orders img")
        assert page.locator(".orders > section").count() == 2
        before = page.eval_on_selector_all("#ours ~ ol h4", "all => all.map(one => one.innerText)")

        page.fill("#text", "something that is blue")
        page.keyboard.press("Enter")
        test_browser.until_asked(page, text="something that is blue")
        assert page.input_value("#q") == "a boat"
        after = page.eval_on_selector_all("#ours ~ ol h4", "all => all.map(one => one.innerText)")
        assert len(before) == len(after) == reranker.SHOWN and before != after

        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
