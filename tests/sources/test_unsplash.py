"""Unsplash as a source, against a server that answers in its shapes: pages, credits, downloads told of, refusals."""

import json
import logging
import pickle
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.archive import Archive
from pipeline.config import parse
from pipeline.gate import Gate
from pipeline.photo import TryLater, UserError
from pipeline.sources.unsplash import PER_PAGE, UnsplashSource
from pipeline.sources.unsplash.client import LOOK_AGAIN, Client
from pipeline.sources.unsplash.parse import credited, parse_photo, read_page, sizes
from pipeline.upkeep import rights
from tests import photostream
from tests.clock import Clock
from tests.unsplash_server import KEY, REFUSED, SPENT, Reply, Unsplash, jpeg, row, serve

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNSPLASH_ACCESS_KEY", KEY)


@pytest.fixture
def server() -> Iterator[Unsplash]:
    with serve() as server:
        yield server


def source(server: Unsplash, **how: Any) -> UnsplashSource:
    return UnsplashSource("a red sailboat", api_url=server.url, api_rate=1000.0, **how)


def listed(of: UnsplashSource, known: Any = ()) -> tuple[list[str], Any]:
    """The ids of a listing, and what came of it."""
    ids, pages = [], of.photos(known)
    while True:
        try:
            ids += [photo.photo_id for photo in next(pages)]
        except StopIteration as stop:
            return ids, stop.value


# --- a photo ----------------------------------------------------------------------------------------------------------


def parsed(**facts: Any) -> Any:
    return parse_photo(row("a1", "https://host", **facts), source="unsplash:x", app_name="mine", observed_at=NOW)


def test_a_photo_has_its_rights_its_photographer_and_the_way_home() -> None:
    photo = parsed()
    assert photo.photo_id == "unsplash:a1" and photo.title == "a picture called a1" and photo.description is None
    assert photo.rights.license_name == "Unsplash License"
    assert photo.rights.license_url == "https://unsplash.com/license" and photo.rights.observed_at == NOW
    assert photo.owner == "Jeff Sheldon" and photo.owner_id == "Ul0QVz12Goo"
    assert photo.page_url == "https://unsplash.com/photos/a-picture-a1?utm_source=mine&utm_medium=referral"
    assert photo.tags == ("boat", "sea")
    assert photo.uploaded_at == datetime(2014, 11, 18, 19, 35, 36, tzinfo=UTC)
    assert json.loads(photo.raw) == row("a1", "https://host")


def test_what_the_photographer_wrote_comes_first() -> None:
    photo = parsed(description="Evening,\nat the lake ")
    assert (photo.title, photo.description) == ("Evening, at the lake", "a picture called a1")


def test_what_subscribers_alone_may_use_is_restricted() -> None:
    assert parsed(premium=True).rights.license_url is None
    assert parsed(plus=False).rights.license_url == "https://unsplash.com/license"


@pytest.mark.parametrize(
    "facts",
    [
        {"user": None, "tags": None, "urls": None, "links": None},
        {
            "user": {"name": 3},
            "tags": [None, {"title": 5}],
            "urls": {"small": "ftp://x"},
            "links": {"html": "http://["},
        },
        {"width": "3", "height": -1, "description": "\ud800", "created_at": "long ago", "updated_at": 7},
    ],
)
def test_what_cannot_be_read_costs_no_photo(facts: dict[str, Any]) -> None:
    photo = parsed(**facts)
    assert photo.photo_id == "unsplash:a1" and "utm_source=mine" in photo.page_url
    (photo.title or "").encode()
    sizes(row("a1", "https://host", **facts))


def test_what_a_terminal_would_obey_is_no_text() -> None:
    photo = parsed(description="a \x1b]0;b\x07 \x9b31mc", alt_description="\x1b\x00")
    assert (photo.title, photo.description) == ("a ]0;b 31mc", None)


def test_sizes_have_the_shape_of_the_original() -> None:
    found = sizes(row("a1", "https://host", size=(3000, 2000)))
    assert [(s.width, s.height) for s in found] == [(200, 133), (400, 267), (1080, 720), (3000, 2000)]
    assert [(s.width, s.height) for s in sizes(row("a1", "https://host", size=(300, 600)))][-1] == (300, 600)
    assert "ixid=" in found[0].url  # Unsplash counts looks by it


def test_links_carry_credit_once() -> None:
    once = credited("https://unsplash.com/@a?x=1#y", "my app")
    assert once == "https://unsplash.com/@a?x=1&utm_source=my+app&utm_medium=referral#y" == credited(once, "my app")


def test_a_page_without_results_is_none() -> None:
    for wrong in ([], {}, {"results": None, "total_pages": 1}, {"results": []}, "x"):
        with pytest.raises(ValueError, match="no "):
            read_page(wrong)


# --- listing ----------------------------------------------------------------------------------------------------------


def test_pages_that_shift_bring_each_photo_once(server: Unsplash) -> None:
    for number in range(PER_PAGE + 5):
        server.add(f"n{number}")
    server.rows.insert(PER_PAGE, server.rows[3])  # a newer photo moved it to the next page
    server.rows.insert(2, {"id": "drawn", "asset_type": "illustration"})
    server.rows.insert(4, None)
    ids, listing = listed(source(server))
    assert ids == [f"unsplash:n{number}" for number in range(PER_PAGE + 5)]
    assert listing.complete and not listing.limited and listing.seen == len(ids)
    assert "35 photos where Unsplash counts 38" in listing.note and "2 entries that are no photos" in listing.note
    assert [given["page"] for _, given in server.calls] == ["1", "2"]
    assert {path for path, _ in server.calls} == {"/search/photos"}  # no download was told of


def test_what_is_asked_for_is_asked(server: Unsplash) -> None:
    server.add("a1")
    of = source(server, order_by="latest", orientation="landscape", color="blue", content_filter="high")
    assert listed(of)[0] == ["unsplash:a1"]
    [(_, given)] = server.calls
    asked = {"query": "a red sailboat", "order_by": "latest", "orientation": "landscape", "color": "blue"}
    assert given == asked | {"content_filter": "high", "page": "1", "per_page": "30"}
    query = "query=a+red+sailboat&order_by=latest&orientation=landscape&color=blue&content_filter=high"
    assert of.name == f"unsplash:search?{query}"
    assert server.headers[0]["Accept-Version"] == "v1"


def test_a_limit_and_fewer_than_it(server: Unsplash) -> None:
    for number in range(8):
        server.add(f"n{number}")
    ids, listing = listed(source(server, limit=5), known={"unsplash:n1"})
    assert ids == ["unsplash:n0", "unsplash:n2", "unsplash:n3", "unsplash:n4"]
    assert listing.limited and listing.complete and listing.note == "stopped at the limit of 5"
    ids, listing = listed(source(server, limit=50))
    assert len(ids) == 8 and not listing.limited and listing.complete and listing.note is None
    server.rows, server.total = [], 0
    assert listed(source(server)) == ([], listing.__class__(True, 0, 0))
    server.total = 100  # more than it shows
    assert "0 photos where Unsplash counts 100" in listed(source(server))[1].note
    assert len(server.calls) == 4


def test_offers_tell_of_no_download(server: Unsplash) -> None:
    for number in range(8):
        server.add(f"n{number}")
    found = source(server, limit=3).offers()
    assert [offer.photo.photo_id for offer in found.offers] == ["unsplash:n0", "unsplash:n1", "unsplash:n2"]
    assert found.total == 8 and found.offers[0].sizes[0].url == server.rows[0]["urls"]["thumb"]
    assert found.offers[0].owner_url == "https://unsplash.com/@ugmonk?utm_source=tintype&utm_medium=referral"
    [(path, given)] = server.calls
    assert path == "/search/photos" and given["per_page"] == "3"


def test_sizes_tell_of_the_download(server: Unsplash) -> None:
    server.add("a1")
    of = source(server)
    assert len(of.sizes("unsplash:a1") or ()) == 4
    assert server.calls == [("/photos/a1", {}), ("/photos/a1/download", {"ixid": "M3wx"})]
    assert of.sizes("unsplash:b/../c") is None and of.is_gone("unsplash:b2") and not of.is_gone("unsplash:a1")
    assert server.calls[2][0] == "/photos/b%2F..%2Fc"
    assert not of.forgets(None)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_no_key_and_a_wrong_one(server: Unsplash, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNSPLASH_ACCESS_KEY", "wr0ng-key")
    with pytest.raises(UserError, match=r"refuses the key .*token is invalid.*check UNSPLASH_ACCESS_KEY") as refused:
        source(server).check()
    assert "wr0ng-key" not in str(refused.value) and len(server.calls) == 1
    for nothing in ("", " "):
        monkeypatch.setenv("UNSPLASH_ACCESS_KEY", nothing)
        with pytest.raises(UserError, match="UNSPLASH_ACCESS_KEY is not set"):
            source(server).check()
    monkeypatch.setenv("UNSPLASH_ACCESS_KEY", "a\nb")
    with pytest.raises(UserError, match="no key"):
        source(server).check()
    assert len(server.calls) == 1


def test_a_used_up_limit_says_when_to_come_back(server: Unsplash) -> None:
    server.faults = [Reply(SPENT, 403, {"X-Ratelimit-Limit": "50", "X-Ratelimit-Remaining": "0"})] * 2
    for ask in (source(server).check, source(server).offers):
        with pytest.raises(TryLater, match=r"^the 50 calls an hour .* used up: come back after \d\d:\d\d UTC$"):
            ask()
    assert len(server.calls) == 2


def ask(server: Unsplash, *faults: Reply, patience: float = 0.0, deadline: float = 20.0) -> list[float]:
    """The pauses of a call that meets these faults before it is answered."""
    clock = Clock()
    server.faults = list(faults)
    how: dict[str, Any] = {"gate": Gate(None, clock), "sleep": clock.sleep, "clock": clock}
    client = Client(KEY, api_url=server.url, deadline=deadline, patience=patience, **how)
    assert client.call("/search/photos", read_page, query="x").rows == server.rows
    return clock.slept


def test_a_run_waits_for_the_limit(server: Unsplash) -> None:
    spent = Reply(SPENT, 403)
    assert ask(server, spent, spent, patience=3600) == [LOOK_AGAIN, LOOK_AGAIN]
    assert ask(server, Reply(SPENT, 403, {"Retry-After": "40"}), patience=3600) == [40]
    with pytest.raises(TryLater, match="come back after"):
        ask(server, *[spent] * 20, patience=3600)


@pytest.mark.parametrize(
    "fault", [Reply("down", 503), Reply("", 500), Reply("<html>", 200), Reply("[]", 200), Reply("{}", 429)]
)
def test_what_passes_is_asked_again(server: Unsplash, fault: Reply) -> None:
    slept = ask(server, fault, fault)
    assert len(slept) == 2 and 0.5 <= slept[0] <= 1 <= slept[1] <= 2
    with pytest.raises(TryLater, match=r"no usable answer from Unsplash in [3-6] tries"):
        ask(server, *[fault] * 30)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Reply(json.dumps({"errors": ["forbidden"]}), 403), "refuses the call .*forbidden.*application"),
        (Reply(REFUSED, 401), "check UNSPLASH_ACCESS_KEY"),
        (Reply(json.dumps({"errors": ["query is missing"]}), 400), "query is missing.*check query"),
        (Reply("", 302, {"Location": "https://elsewhere.example/"}), "check api_url"),
        (Reply("no", 404), "nothing at /search/photos"),
    ],
)
def test_what_does_not_pass_is_said_at_once(server: Unsplash, fault: Reply, said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        ask(server, fault)
    assert len(server.calls) == 1 and "\n" not in str(refused.value)


def test_nobody_there() -> None:
    with pytest.raises(TryLater, match="no answer: ConnectionError") as refused:
        client = Client(KEY, api_url="http://127.0.0.1:9", gate=Gate(None), deadline=0.1, patience=0)
        client.call("/search/photos", read_page, query="secret words")
    assert "secret" not in str(refused.value)


def test_the_key_is_told_to_nobody(
    server: Unsplash, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    caplog.set_level(logging.DEBUG)
    server.add("a1")
    of = source(server)
    assert listed(of)[0] == ["unsplash:a1"]  # .netrc did not take the key's place
    assert KEY not in caplog.text and KEY not in repr(of) and KEY.encode() not in pickle.dumps(of)
    server.faults = [Reply(f"who is {KEY}?", 403), Reply("x" * 190 + KEY, 403)]
    with pytest.raises(UserError, match=r"who is …\?"):
        of.check()
    with pytest.raises(UserError, match="xxx…") as refused:
        of.check()
    assert KEY[:4] not in str(refused.value)


# --- a run ------------------------------------------------------------------------------------------------------------


def test_a_run_from_search_to_rights(server: Unsplash, model: Path, tmp_path: Path) -> None:
    for number in range(4):
        server.add(f"n{number}", jpeg(Image.new("RGB", (90, 60), (60 * number, 90, 20))), size=(90, 60))
    given = {"kind": "unsplash", "query": "boat", "api_url": server.url, "api_rate": 1000, "limit": 3}
    url = str(tmp_path / "archive")
    settings = photostream.settings(url, "", model, "local", sources=[given], captions={})
    photostream.carry_out(settings)
    archive = Archive.open(url)
    live = archive.live().to_pylist()
    assert [photo["photo_id"] for photo in live] == ["unsplash:n0", "unsplash:n1", "unsplash:n2"]
    told = [path for path, _ in server.calls if path.endswith("/download")]
    assert sorted(told) == [f"/photos/n{number}/download" for number in range(3)]
    [licence] = rights.by_licence(archive)
    assert not licence.restricted
    page = "https://unsplash.com/photos/a-picture-n0?utm_source=tintype&utm_medium=referral"
    licensed = "Unsplash License (https://unsplash.com/license)"
    assert next(rights.credits([licence])) == f"“a picture called n0” by Jeff Sheldon, {licensed}, {page}"

    # A refresh finds nothing replaced, downloads nothing again, and follows what changed.
    before = len(server.looks)
    server.rows[1]["alt_description"] = "another"
    photostream.carry_out(settings, refresh=True)
    assert len(server.looks) == before and sum(path.endswith("/download") for path, _ in server.calls) == 3
    assert archive.live()["title"].to_pylist()[1] == "another"

    # The key is in no byte of the archive, and was sent to nobody but the API.
    assert not any(KEY.encode() in path.read_bytes() for path in Path(url).rglob("*") if path.is_file())
    sent = [headers for headers in server.headers if "Authorization" not in headers]
    assert len(sent) == len(server.looks)


def test_settings() -> None:
    def refused(**given: Any) -> str:
        with pytest.raises(UserError) as error:
            parse({"archive": "x", "sources": [{"kind": "unsplash"} | given]})
        return str(error.value)

    assert "query" in refused()
    assert "holds no words" in refused(query=" ")
    assert re.search("unknown setting.*did you mean 'orientation'", refused(query="a", orientatio="landscape"))
    assert "portrait" in refused(query="a", orientation="round")
