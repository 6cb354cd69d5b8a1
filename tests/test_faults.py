"""Each row of the table of faults that Flickr and its image host show, against a server that shows them.

Faults are the server's alone; nothing of ours is patched but how long we have patience.
"""

import json
import random
import subprocess
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.archive import Archive
from pipeline.config import Settings
from pipeline.demo.answers import Offer
from pipeline.demo.faults import (
    EMPTY,
    HALF,
    JSON_PAGE,
    MISSING,
    REDIRECTED,
    RESET,
    SHORT,
    STALE,
    WEB_PAGE,
    Fault,
    failure,
    listed,
    status,
)
from pipeline.demo.server import KEY, SECRET, Served, serve
from pipeline.demo.stream import ALIAS, DemoPhoto, demo_stream
from pipeline.photo import TryLater, UserError
from pipeline.sources.flickr import FlickrSource, client
from tests import photostream

STREAM = demo_stream(80)
LIST = "people.getPublicPhotos 1"
PLAIN = [photo for photo in STREAM.photos if not photo.trouble]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLICKR_API_KEY", KEY)
    monkeypatch.setenv("FLICKR_API_SECRET", SECRET)


def render(photo: DemoPhoto, offer: Offer) -> bytes:
    file = BytesIO()
    Image.new("RGB", (offer.width, offer.height), photo.number % 0xFFFFFF).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def served() -> Iterator[Served]:
    with serve(STREAM, render=render) as served:
        yield served


def ids(served: Served, **settings: Any) -> list[str]:
    """What a listing of the stream brings."""
    source = FlickrSource(ALIAS, api_url=served.api_url, api_rate=1000, **settings)
    return [photo.photo_id for page in source.photos(frozenset()) for photo in page]


# ---- the API: what passes

PASSING = {
    "429": status(429),
    "429 with Retry-After": status(429, "1"),
    **{f"{code}": status(code) for code in (500, 502, 503, 504)},
    "reset": RESET,
    "stale keep-alive": STALE,
    **{f"code {code}": failure(code) for code in (0, 10, 105, 201)},
    "a code as text": failure("105"),
    "a web page": WEB_PAGE,
    "nothing": EMPTY,
    "half of the JSON": HALF,
    "cut short": SHORT,
    "no stat": Fault(edit=lambda answer: answer.pop("stat")),
    "no photos": Fault(edit=lambda answer: answer.pop("photos")),
    "no list": Fault(edit=lambda answer: answer["photos"].pop("photo")),
    "no pages": Fault(edit=lambda answer: answer["photos"].pop("pages")),
}


def test_what_passes_at_the_api_is_asked_again() -> None:
    """Never an empty stream: what was asked for comes in the end, after so many calls as there were faults."""

    def listed_through(fault: Fault) -> tuple[list[str], int]:
        with serve(STREAM, plan=listed({LIST: (fault, 1)})) as served:
            return ids(served), served.attempts[LIST]

    with ThreadPoolExecutor(len(PASSING)) as pool:  # each waits for a second
        found = dict(zip(PASSING, pool.map(listed_through, PASSING.values()), strict=True))
    whole = [f"flickr:{photo.number}" for photo in STREAM.photos]
    assert {name: calls for name, (_, calls) in found.items()} == {
        name: 1 if name == "stale keep-alive" else 2 for name in PASSING
    }
    assert all(seen == whole for seen, _ in found.values())


def test_what_does_not_pass_at_the_api_fails_the_call(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TRIES", 2)
    for fault in (status(429, "0"), status(503, "0"), failure(105)):
        served.plan = listed({LIST: (fault, None)})
        with pytest.raises(TryLater, match="run again later"):
            ids(served)


def test_an_answer_that_drips_has_an_end(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "BODY_S", 0.2)
    served.plan = listed({LIST: (Fault(drip=0.05), 1)})
    assert len(ids(served)) == len(STREAM.photos) and served.attempts[LIST] == 2


def test_a_silent_api_has_an_end(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TIMEOUT", (1.0, 0.2))
    served.plan = listed({LIST: (Fault(silence=1.0), 1)})
    assert len(ids(served)) == len(STREAM.photos) and served.attempts[LIST] == 2


# ---- the API: what does not


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        *((failure(code), "FLICKR_API_KEY") for code in (95, 96, 97, 98, 99, 100)),
        (status(401), "FLICKR_API_KEY"),
        (status(403), "FLICKR_API_KEY"),
        (failure(1, "User not found"), ALIAS),
        (failure(5, "User deleted"), ALIAS),
    ],
)
def test_what_will_not_pass_stops_at_once_in_one_line(served: Served, fault: Fault, told: str) -> None:
    served.plan = listed({LIST: (fault, None)})
    with pytest.raises(UserError, match=told) as refusal:
        ids(served)
    assert served.attempts[LIST] == 1 and refusal.value.exit_status == 2 and "\n" not in str(refusal.value)


@pytest.mark.parametrize("code", [111, 112])
def test_a_call_that_flickr_does_not_know_is_a_bug(served: Served, code: int) -> None:
    served.plan = listed({LIST: (failure(code), None)})
    with pytest.raises(AssertionError):
        ids(served)


# ---- the API: pages and rows that are odd


def paged(answer: dict[str, Any], page: int, *, of: int = 4) -> None:
    """Make an answer that holds all photos one of `of` pages."""
    body = answer["photos"]
    size = -(-len(body["photo"]) // of)
    body |= {"page": page, "pages": of, "photo": body["photo"][(page - 1) * size : page * size]}


def odd_pages(name: str, asked: int, answer: dict[str, Any]) -> None:
    """The `asked` page of four, as odd as `name` says."""
    answer["photos"]["photo"] = [dict(row) for row in EVERYTHING]
    shown = min(asked, 4)
    if name == "repeated" and asked > 2:
        shown = 2
    paged(answer, shown)
    if name in ("repeated", "past the end"):
        answer["photos"]["page"] = asked
    if name == "past the end":
        answer["photos"]["pages"] = 6
    if name == "total changing":
        answer["photos"]["total"] = 80 + asked
    if name == "duplicates" and asked > 1:
        answer["photos"]["photo"].insert(0, dict(EVERYTHING[0]))


EVERYTHING: list[dict[str, Any]] = []


@pytest.mark.parametrize(
    ("name", "seen", "complete", "told"),
    [
        ("repeated", 40, False, "page 3 of 4 brought nothing new"),
        ("another number", 80, True, None),
        ("past the end", 80, False, "page 5 of 6 brought nothing new"),
        ("total changing", 80, True, "80 photos where Flickr counts 84"),
        ("duplicates", 80, True, None),
    ],
)
def test_odd_pages_end_the_listing_and_are_told(
    served: Served, name: str, seen: int, complete: bool, told: str | None
) -> None:
    rows: list[dict[str, Any]] = []
    served.plan = listed({LIST: (Fault(edit=lambda answer: rows.extend(answer["photos"]["photo"])), 1)})
    ids(served)
    EVERYTHING[:] = rows
    edits = {
        f"people.getPublicPhotos {page}": (Fault(edit=lambda a, page=page: odd_pages(name, page, a)), None)
        for page in range(1, 9)
    }
    served.plan = listed(edits)
    pages = FlickrSource(ALIAS, api_url=served.api_url, api_rate=1000).photos(frozenset())
    found: list[str] = []
    while True:
        try:
            found += [photo.photo_id for photo in next(pages)]
        except StopIteration as stop:
            listing = stop.value
            break
    assert len(found) == len(set(found)) == seen
    assert (listing.complete, listing.seen) == (complete, seen)
    assert told is None or told in (listing.note or "")


def test_a_bad_row_never_costs_a_page(served: Served) -> None:
    """Fields that are null, missing or of another type; a row that is no photo at all."""

    def spoil(answer: dict[str, Any]) -> None:
        rows = answer["photos"]["photo"]
        for row, value in zip(rows, (None, 0, "", [], {}, "none", True), strict=False):
            row.update({key: value for key in row if key != "id"})
        for row, gone in zip(rows[10:], list(rows[10]), strict=False):
            if gone != "id":
                row.pop(gone, None)
        rows[40:40] = [None, "a photo", {}, {"id": None}]
        answer["photos"]["total"] = str(answer["photos"]["total"])

    served.plan = listed({LIST: (Fault(edit=spoil), None)})
    assert ids(served) == [f"flickr:{photo.number}" for photo in STREAM.photos]


# ---- the image host


def encoded(mode: str, kind: str, size: tuple[int, int] = (400, 300), **how: Any) -> bytes:
    file = BytesIO()
    Image.new(mode, size, how.pop("colour", 0)).save(file, kind, **how)
    return file.getvalue()


def sixteen_bit() -> bytes:
    image = Image.new("I;16", (400, 300))
    image.paste(40_000, (0, 0, 400, 300))
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def huge() -> bytes:
    """The header of a PNG of ten thousand megapixels."""
    data = bytearray(encoded("L", "PNG"))
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def served_as(body: bytes, content_type: str = "image/jpeg") -> Fault:
    return Fault(body=body, content_type=content_type)


FETCHED = ("fetched", None)
# Fault, at how many attempts (None: all), how the photo ends, and how often its picture is asked for.
IMAGES: dict[str, tuple[Fault, int | None, tuple[str, str | None], int]] = {
    "429": (status(429, "0"), 6, FETCHED, 7),  # more often than a fault may come
    "503 that says for how long": (status(503, "0"), 6, FETCHED, 7),
    **{f"{code}": (status(code), 1, FETCHED, 2) for code in (500, 502, 503, 504)},
    "500 for ever": (status(500), None, ("failed", "server_error"), 2),
    "reset": (RESET, 1, FETCHED, 2),
    "reset for ever": (RESET, None, ("failed", "unreachable"), 2),
    "stale keep-alive": (STALE, None, FETCHED, 1),
    "silence": (Fault(silence=2.5), 1, FETCHED, 2),
    "silence for ever": (Fault(silence=2.5), None, ("failed", "unreachable"), 2),
    "drip": (Fault(drip=0.05), None, ("failed", "unreachable"), 1),
    "404": (MISSING, None, ("gone", None), 1),
    "410": (replace(MISSING, status=410), None, ("gone", None), 1),
    "403": (status(403), None, ("failed", "refused"), 1),
    "placeholder": (REDIRECTED, None, ("gone", None), 1),
    "a web page": (WEB_PAGE, None, ("failed", "not_an_image"), 1),
    "JSON": (JSON_PAGE, None, ("failed", "not_an_image"), 1),
    "nothing": (EMPTY, 1, FETCHED, 2),
    "nothing for ever": (EMPTY, None, ("failed", "truncated"), 2),
    "cut short": (SHORT, 1, FETCHED, 2),
    "cut short for ever": (SHORT, None, ("failed", "truncated"), 2),
    "half": (HALF, 1, FETCHED, 2),
    "half for ever": (HALF, None, ("failed", "truncated"), 2),
    "another content type": (Fault(content_type="text/plain"), None, FETCHED, 1),
    "PNG as JPEG": (served_as(encoded("RGB", "PNG")), None, FETCHED, 1),
    "GIF": (served_as(encoded("P", "GIF"), "image/gif"), None, FETCHED, 1),
    "CMYK": (served_as(encoded("CMYK", "JPEG")), None, FETCHED, 1),
    "16 bits": (served_as(sixteen_bit(), "image/png"), None, FETCHED, 1),
    "alpha": (served_as(encoded("RGBA", "PNG"), "image/png"), None, FETCHED, 1),
    "WebP": (served_as(encoded("RGB", "WEBP"), "image/webp"), None, FETCHED, 1),
    "too many pixels": (served_as(huge()), None, ("failed", "too_large"), 1),
    "noise": (served_as(b"\xff\xd8\xff\xe0" + bytes(range(256)) * 40), None, ("failed", "corrupt"), 1),
}


def configured(archive: Path, api_url: str, model: Path, **changed: Any) -> Settings:
    images = {"min_side": 60, "rate": None, "backoff": 0.01, "attempts": 2, "timeout": 1.0, "deadline": 4.0}
    return photostream.settings(str(archive), api_url, model, "local", images=images | changed)


def rows(archive: str) -> dict[str, dict[str, Any]]:
    images = Archive.open(archive).table("images")
    columns = ["photo_id", "outcome", "reason", "detail", "format", "source_url"]
    return {row["photo_id"]: row for part in images.parts() for row in images.read(part, columns).to_pylist()}


def test_faults_of_the_image_host(served: Served, tmp_path: Path, model: Path) -> None:
    targets = dict(zip(IMAGES, PLAIN, strict=False))
    served.plan = listed({str(targets[name].number): IMAGES[name][:2] for name in IMAGES})
    settings = configured(tmp_path / "archive", served.api_url, model)
    photostream.carry_out(settings, ["list", "fetch"])
    found = rows(settings.archive)
    ended = {name: (found[f"flickr:{targets[name].number}"]["outcome"],
                    found[f"flickr:{targets[name].number}"]["reason"]) for name in IMAGES}  # fmt: skip
    assert ended == {name: end for name, (_, _, end, _) in IMAGES.items()}
    asked = {name: served.attempts[str(targets[name].number)] for name in IMAGES}
    assert asked == {name: requests for name, (_, _, _, requests) in IMAGES.items()}
    assert found[f"flickr:{targets['PNG as JPEG'].number}"]["format"] == "png"
    assert all(row["detail"] for row in found.values() if row["outcome"] != "fetched")
    # Photos that are gone were asked for once more by way of photos.getSizes.
    gone = [str(targets[name].number) for name in ("404", "410", "placeholder")]
    assert all(served.attempts[f"photos.getSizes {number}"] == 1 for number in gone)
    others = [photo for photo in PLAIN if photo not in targets.values()]
    assert others and all(found[f"flickr:{photo.number}"]["outcome"] == "fetched" for photo in others)


def test_a_busy_image_host_pauses_the_api_too(served: Served, tmp_path: Path, model: Path) -> None:
    """One house: while a 429's Retry-After lasts, nothing at all is asked."""
    number = str(PLAIN[-1].number)
    served.plan = listed({number: (status(429, "1"), 1)})
    photostream.carry_out(configured(tmp_path / "archive", served.api_url, model, connections=1), ["list", "fetch"])
    moments = [request.at for request in served.log]
    [at] = [i for i, request in enumerate(served.log) if request.target == number][:1]
    assert moments[at + 1] - moments[at] >= 1.0


# ---- the archive


def test_two_runs_at_once_end_with_each_photo_once(served: Served, tmp_path: Path, model: Path) -> None:
    settings = configured(tmp_path / "archive", served.api_url, model)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            photostream.carry_out(settings, ["list", "fetch"])
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    archive = Archive.open(settings.archive)
    for name in ("photos", "images"):
        table = archive.table(name)
        held = Counter(i for part in table.parts() for i in table.read(part, ["photo_id"])["photo_id"].to_pylist())
        assert held == Counter(f"flickr:{photo.number}" for photo in STREAM.photos)


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(
    served: Served, small_disk: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served.plan = listed({str(photo.number): (served_as(noisy(photo.number)), None) for photo in PLAIN})
    settings = configured(small_disk / "archive", served.api_url, model)
    photostream.carry_out(settings, ["list"])
    with pytest.raises(TryLater, match=r"no space left for fetch of part \d+; free some and run again"):
        photostream.carry_out(settings, ["fetch"])
    assert "Traceback" not in capsys.readouterr().err
    archive = Archive.open(settings.archive)
    assert archive.table("images").pending(archive.table("photos"))
    for part in archive.table("images").parts():
        assert archive.table("images").read(part).num_rows == 20  # whole, or not there
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    photostream.carry_out(settings, ["fetch"])
    assert len(rows(settings.archive)) == len(STREAM.photos)


def noisy(seed: int) -> bytes:
    """A picture of some 30 kB."""
    file = BytesIO()
    Image.frombytes("RGB", (100, 100), random.Random(seed).randbytes(30_000)).save(file, "PNG")
    return file.getvalue()


def test_a_licence_and_a_photo_made_private(served: Served, tmp_path: Path, model: Path) -> None:
    """Tests of refresh say more."""
    settings = configured(tmp_path / "archive", served.api_url, model)
    photostream.carry_out(settings, ["list", "fetch"])
    changed, private = [photo for photo in PLAIN if photo.license == "7"][:2]
    photos = tuple(replace(p, license="9") if p == changed else p for p in STREAM.photos if p != private)
    served.stream = replace(STREAM, photos=photos)
    photostream.carry_out(settings, ["list"], refresh=True)
    table = Archive.open(settings.archive).table("changes")
    said = {row["photo_id"]: json.loads(row["value"]) for p in table.parts() for row in table.read(p).to_pylist()}
    assert said[f"flickr:{changed.number}"]["id"] == "9" and said[f"flickr:{private.number}"] is False
