"""A large stream from a server in a bad mood: every photo ends somewhere, with the true reason, once."""

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from pipeline.archive import Archive
from pipeline.config import Settings
from pipeline.demo.answers import Offer
from pipeline.demo.faults import (
    HALF,
    MISSING,
    RESET,
    SHORT,
    WEB_PAGE,
    Fault,
    Plan,
    Share,
    listed,
    met_by,
    seeded,
    status,
)
from pipeline.demo.server import KEY, SECRET, Served, serve
from pipeline.demo.stream import ENDS, DemoPhoto, Stream, demo_stream
from pipeline.photo import REASONS
from tests import photostream
from tests.test_killed import drivers, progress
from tests.test_run import assert_same, contents

PHOTOS, PART = 3_500, 175  # seven pages of them, and of each trouble some
SEED = 11
# What the image host does: to so many of the photos, to a fifth of these for ever.
MOOD = (
    Share("busy", 0.05, status(429, "0"), 0),
    *(Share("ill", 0.0125, status(code), 0.2) for code in (500, 502, 503, 504)),
    Share("reset", 0.02, RESET, 0.2),
    Share("short", 0.01, SHORT, 0.2),
    Share("half", 0.01, HALF, 0.2, most=1),
    Share("page", 0.01, WEB_PAGE, 1),
    Share("missing", 0.01, MISSING, 1),
)
ENDED = {
    "ill": "server_error",
    "reset": "unreachable",
    "short": "truncated",
    "half": "truncated",
    "page": "not_an_image",
}
# What the API does while the stream is listed, page by page.
LISTING = {
    "people.getPublicPhotos 1": (status(429, "0"), 2),
    "people.getPublicPhotos 3": (status(503), 1),
    "people.getPublicPhotos 4": (RESET, 1),
    "people.getPublicPhotos 5": (SHORT, 1),
    "people.getPublicPhotos 7": (WEB_PAGE, 1),
}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLICKR_API_KEY", KEY)
    monkeypatch.setenv("FLICKR_API_SECRET", SECRET)


@lru_cache(1)
def stream() -> Stream:
    return demo_stream(PHOTOS)


def mood() -> Plan:
    images, listing = seeded(SEED, MOOD), listed(LISTING)

    def plan(target: str, attempt: int) -> Fault | None:
        photo = stream().by_number.get(int(target)) if target.isdigit() else None
        return listing(target, attempt) or (images(target, attempt) if photo and not photo.trouble else None)

    return plan


def render(photo: DemoPhoto, offer: Offer) -> bytes:
    """A small picture of its own: to draw thousands of scenes would take minutes."""
    file = BytesIO()
    colour = random.Random(photo.number).randbytes(3)
    Image.new("RGB", (offer.width // 4, offer.height // 4), tuple(colour)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def served() -> Iterator[Served]:
    with serve(stream(), render=render, plan=mood()) as served:
        yield served


def configured(archive: Path, api_url: str, model: Path) -> Settings:
    images = {"min_side": 60, "rate": None, "backoff": 0.01}
    run = {"runner": "local", "part_size": PART}
    return photostream.settings(str(archive), api_url, model, "local", images=images, run=run)


def end(photo: DemoPhoto) -> tuple[str, str | None]:
    """The outcome that a photo must have, and the reason."""
    if photo.trouble:
        return ENDS[photo.trouble]
    met = met_by(SEED, MOOD, str(photo.number))
    if met is None or met[1] is not None:
        return "fetched", None
    return ("gone", None) if met[0].name == "missing" else ("failed", ENDED[met[0].name])


def ends(archive: Archive) -> dict[str, list[tuple[str, str | None]]]:
    """Photo id → outcome and reason of each of its rows."""
    images = archive.table("images")
    rows = pa.concat_tables([images.read(part, ["photo_id", "outcome", "reason"]) for part in images.parts()])
    found: dict[str, list[tuple[str, str | None]]] = {}
    for row in rows.to_pylist():
        found.setdefault(row["photo_id"], []).append((row["outcome"], row["reason"]))
    return found


def test_every_photo_ends_with_the_true_reason(tmp_path: Path, served: Served, model: Path) -> None:
    settings = configured(tmp_path / "archive", served.api_url, model)
    photostream.carry_out(settings, ["list", "fetch"])
    archive = Archive.open(settings.archive)
    expected = {f"flickr:{photo.number}": [end(photo)] for photo in stream().photos}
    assert ends(archive) == expected
    counts = Counter(ended[0] for ended in expected.values())
    assert len(counts) > 7, "the plan is too kind"

    may_pass = {photo_id for photo_id, [(_, reason)] in expected.items() if reason and REASONS[reason]}
    served.plan = None
    served.log.clear()
    photostream.carry_out(settings, ["fetch"], retry_failed=True)
    asked = {f"flickr:{request.target}" for request in served.log if request.path != "/services/rest/"}
    assert asked == may_pass and len(may_pass) > 50
    still = {f"flickr:{photo.number}" for photo in stream().photos if photo.trouble == "truncated"}
    assert {photo_id for photo_id, rows in ends(archive).items() if len(rows) > 1} == may_pass
    assert {photo_id for photo_id in may_pass if ends(archive)[photo_id][-1][0] != "fetched"} == still


def drive(archive: Path, api_url: str, model: Path) -> None:
    os.environ |= {"FLICKR_API_KEY": KEY, "FLICKR_API_SECRET": SECRET}
    photostream.carry_out(configured(archive, api_url, model), ["list", "fetch"])


def begun(*arguments: object) -> Any:
    driver = drivers.Process(target=drive, args=arguments)
    driver.start()
    return driver


def test_killed_again_and_again_the_tables_are_the_same(tmp_path: Path, served: Served, model: Path) -> None:
    """Once in each quarter of the way, told by how much of the archive is there."""
    dice = random.Random(3)
    kills = 0
    whole = 2 * PHOTOS / PART  # files: photos and images
    for quarter in range(4):
        driver = begun(tmp_path / "stormy", served.api_url, model)
        moment = dice.uniform(quarter, quarter + 1) / 4
        while progress(tmp_path / "stormy") < moment * whole and driver.is_alive():
            time.sleep(0.01)
        driver.join(dice.uniform(0, 0.5))
        if driver.is_alive():
            driver.kill()
            kills += 1
        driver.join()
    last = begun(tmp_path / "stormy", served.api_url, model)
    last.join(300)
    assert last.exitcode == 0 and kills > 2
    stormy = Archive.open(str(tmp_path / "stormy"))
    assert ends(stormy) == {f"flickr:{photo.number}": [end(photo)] for photo in stream().photos}
    served.attempts.clear()  # the same mood again, for a run that nobody disturbs
    drive(tmp_path / "calm", served.api_url, model)
    assert_same(contents(stormy), contents(Archive.open(str(tmp_path / "calm"))))
