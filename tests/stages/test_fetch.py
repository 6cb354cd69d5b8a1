"""Fetching against a real host and real files: every photo ends as fetched, gone or failed, with the true reason."""

import asyncio
import contextlib
import hashlib
import io
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from pipeline import schemas
from pipeline.archive import Archive
from pipeline.checker import Checker
from pipeline.gate import Gate
from pipeline.photo import Size, UserError
from pipeline.pulse import Beat
from pipeline.sources.flickr import FlickrSource
from pipeline.stages import fetch
from pipeline.stages.download import Tally
from pipeline.stages.fetch import Fetched, ImageSettings, choose_size, fetch_part, fetch_rows, file_name, retryable
from tests.stages.conftest import Answer, ImageHost, picture

SOURCE = FlickrSource(user="library_of_congress")
JPEG = picture()
Fetch = Callable[..., list[dict[str, Any]]]
SETTINGS = ImageSettings(backoff=0.001, timeout=5.0, rate=None, connections=4, min_side=200)


class Asked:
    """What the source says of sizes when asked again, and who was asked about."""

    def __init__(self, answers: dict[str, list[Size] | None] | None = None) -> None:
        self.answers = answers or {}
        self.about: list[tuple[str, str]] = []

    def __call__(self, source: str, photo_id: str) -> list[Size] | None:
        self.about.append((source, photo_id))
        return self.answers[photo_id]


def photos(*urls: str | None, part: int = 0, **facts: Any) -> pa.Table:
    """A photos part with one listed size each, or none."""
    rows = [
        {
            "row_id": row_id,
            "photo_id": f"flickr:{row_id}",
            "source": SOURCE.name,
            "media": "photo",
            "sizes": [{"url": url, "width": 400, "height": 300}] if url else [],
            "attempt": 1,
            **facts,
        }
        for row_id, url in zip(schemas.row_ids(part, len(urls)).to_pylist(), urls, strict=True)
    ]
    return pa.Table.from_pylist(rows, schemas.PHOTOS)


@pytest.fixture(scope="module")
def checker() -> Iterator[Checker]:
    with Checker() as checker:
        yield checker


@pytest.fixture
def fetched(checker: Checker) -> Fetch:
    """Call this with a photos part for its images rows."""

    def fetched(
        table: pa.Table, sizes: fetch.Sizes | None = None, settings: ImageSettings = SETTINGS, **more: Any
    ) -> list[dict[str, Any]]:
        more = {"gate": Gate(None), "receipt": {}} | more
        sources = {SOURCE.name: SOURCE}
        batches = list(fetch_rows(table, settings, sources, sizes=sizes or Asked(), checker=checker, **more))
        assert all(batch.schema.equals(schemas.IMAGES, check_metadata=True) for batch in batches)
        rows = pa.Table.from_batches(batches, schemas.IMAGES).to_pylist()
        assert [row["row_id"] for row in rows] == table["row_id"].to_pylist()
        assert [row["photo_id"] for row in rows] == table["photo_id"].to_pylist()
        return rows

    return fetched


def outcome(row: dict[str, Any]) -> tuple[str, str | None]:
    if row["outcome"] != "fetched":
        assert row["image"] is row["format"] is row["source_sha256"] is None
        assert row["detail"] and len(row["detail"].splitlines()) == 1
    return row["outcome"], row["reason"]


# --- which size


@pytest.mark.parametrize(
    ("sizes", "chosen"),
    [
        ([], None),
        ([(500, 333), (640, 427), (1024, 683)], (640, 427)),  # 3:2 needs 640 for 336 pixels
        ([(1024, 683), (640, 427), (500, 333)], (640, 427)),
        ([(500, 336), (640, 430)], (500, 336)),
        ([(240, 160), (500, 333)], (500, 333)),  # none large enough: the largest
        ([(5000, 100), (900, 330), (300, 300)], (5000, 100)),  # by area
        ([(None, None)], (None, None)),
        ([(500, 333), (None, None)], (None, None)),  # may be large enough, where the other is not
        ([(None, None), (640, 427)], (640, 427)),
        ([(0, 0), (500, 336)], (500, 336)),
    ],
)
def test_the_smallest_size_that_serves_is_chosen(
    sizes: list[tuple[int | None, int | None]], chosen: tuple[int | None, int | None] | None
) -> None:
    got = choose_size([Size(f"http://x/{w}.jpg", w, h) for w, h in sizes], 336)
    assert (got and (got.width, got.height)) == chosen


# --- pictures that come


def test_the_original_is_kept_as_it_was_served(host: ImageHost, fetched: Fetch) -> None:
    url = host.url("/2179931434_s.jpg", Answer(JPEG, chunked=True))
    [row] = fetched(photos(url))
    assert row["image"] == {"bytes": JPEG, "path": "flickr_0.jpg"}
    assert row["fetched_at"] is not None
    del row["image"], row["fetched_at"]
    assert row == {
        "row_id": 0,
        "photo_id": "flickr:0",
        "outcome": "fetched",
        "reason": None,
        "detail": None,
        "format": "jpeg",
        "width": 400,
        "height": 300,
        "small": False,
        "store": "original",
        "source_url": url,
        "source_size": len(JPEG),
        "source_width": 400,
        "source_height": 300,
        "source_sha256": hashlib.sha256(JPEG).hexdigest(),
    }


def test_a_derivative_takes_the_place_of_the_original(tmp_path: Path, fetched: Fetch) -> None:
    master = picture("TIFF", (3000, 1500))
    (tmp_path / "master.tif").write_bytes(master)
    [row] = fetched(photos(str(tmp_path / "master.tif")), settings=ImageSettings(store="derivative"))
    assert (row["store"], row["format"], row["width"], row["height"]) == ("derivative", "jpeg", 1024, 512)
    assert Image.open(io.BytesIO(row["image"]["bytes"])).size == (1024, 512)
    assert row["image"]["path"] == "flickr_0.jpg"
    assert (row["source_size"], row["source_width"], row["source_height"]) == (len(master), 3000, 1500)
    assert row["source_sha256"] == hashlib.sha256(master).hexdigest()


def test_the_magic_bytes_are_trusted_not_the_name_or_the_content_type(host: ImageHost, fetched: Fetch) -> None:
    url = host.url("/a.jpg", Answer(picture("PNG"), headers={"Content-Type": "text/html"}))
    [row] = fetched(photos(url))
    assert (row["format"], row["image"]["path"]) == ("png", "flickr_0.png")


@pytest.mark.parametrize("min_side", [300, 301])
def test_a_picture_below_min_side_is_marked_small(host: ImageHost, min_side: int, fetched: Fetch) -> None:
    [row] = fetched(photos(host.url("/a.jpg", Answer(JPEG))), settings=ImageSettings(min_side=min_side))
    assert row["small"] is (min_side > 300)


@pytest.mark.parametrize(
    ("photo_id", "kind", "name"),
    [
        ("flickr:2179931434", "jpeg", "flickr_2179931434.jpg"),
        ("file:box3/img_0042.tif", "tiff", "file_box3_img_0042.tif"),
        ("file:box3/img_0042.TIF", "jpeg", "file_box3_img_0042.TIF.jpg"),
        ("file:Straße am Fluß\n.png", "png", "file_Straße_am_Fluß_.png"),
    ],
)
def test_file_names_are_safe_and_end_as_the_true_format(photo_id: str, kind: str, name: str) -> None:
    assert file_name(photo_id, kind) == name


def test_files_and_urls_go_side_by_side(host: ImageHost, tmp_path: Path, fetched: Fetch) -> None:
    (tmp_path / "a b.png").write_bytes(picture("PNG"))
    rows = fetched(photos(str(tmp_path / "a b.png"), host.url("/a.jpg", Answer(JPEG)), f"file://{tmp_path}/a b.png"))
    assert [row["format"] for row in rows] == ["png", "jpeg", "png"]


# --- pictures that do not


@pytest.mark.parametrize("status", [404, 410])
def test_gone_if_the_source_has_it_no_more(host: ImageHost, status: int, fetched: Fetch) -> None:
    asked = Asked({"flickr:0": None})
    [row] = fetched(photos(host.url("/a.jpg", Answer(status=status))), asked)
    assert outcome(row) == ("gone", None)
    assert asked.about == [(SOURCE.name, "flickr:0")]
    assert len(host.requests) == 1


def test_gone_if_the_source_offers_the_same_address_or_none(host: ImageHost, fetched: Fetch) -> None:
    url = host.url("/a.jpg", Answer(status=404))
    asked = Asked({"flickr:0": [Size(url, 400, 300)], "flickr:1": []})
    assert [outcome(row) for row in fetched(photos(url, url), asked)] == [("gone", None)] * 2
    assert len(asked.about) == len(host.requests) == 2


def test_a_new_address_is_tried_once(host: ImageHost, fetched: Fetch) -> None:
    old, new = host.url("/old.jpg", Answer(status=404)), host.url("/new.jpg", Answer(JPEG))
    dead = host.url("/dead.jpg", Answer(status=410))
    asked = Asked({"flickr:0": [Size(new, 400, 300)], "flickr:1": [Size(dead, 400, 300)]})
    rows = fetched(photos(old, old), asked)
    assert [outcome(row) for row in rows] == [("fetched", None), ("gone", None)]
    assert rows[0]["source_url"] == new
    assert len(asked.about) == 2


def test_a_placeholder_means_gone(host: ImageHost, fetched: Fetch) -> None:
    placeholder = host.url("/images/photo_unavailable.png", Answer(picture("PNG")))
    url = host.url("/a.jpg", Answer(status=302, headers={"Location": placeholder}))
    [row] = fetched(photos(url), Asked({"flickr:0": [Size(url, 400, 300)]}))
    assert outcome(row) == ("gone", None)


def test_without_a_listed_size_the_source_is_asked(host: ImageHost, fetched: Fetch) -> None:
    asked = Asked({"flickr:0": [Size(host.url("/a.jpg", Answer(JPEG)))], "flickr:1": [], "flickr:2": None})
    rows = fetched(photos(None, None, None), asked)
    assert [outcome(row) for row in rows] == [("fetched", None), ("failed", "no_size"), ("gone", None)]
    assert len(asked.about) == 3


def test_a_video_is_its_still_or_a_failure(host: ImageHost, fetched: Fetch) -> None:
    still = host.url("/still.jpg", Answer(JPEG))
    film = host.url("/film.mp4", Answer(b"\0\0\0\x18ftypmp42" + b"\0" * 500))
    rows = fetched(photos(still, film, None, media="video"), Asked({"flickr:2": []}))
    assert [outcome(row) for row in rows] == [("fetched", None), ("failed", "video"), ("failed", "video")]


@pytest.mark.parametrize(
    "body", [b"<!DOCTYPE html><html><body>Sorry</body></html>", b'{"stat": "fail", "code": 1, "message": "not found"}']
)
def test_a_page_in_place_of_a_picture(host: ImageHost, body: bytes, fetched: Fetch) -> None:
    [row] = fetched(photos(host.url("/a.jpg", Answer(body, headers={"Content-Type": "image/jpeg"}))))
    assert outcome(row) == ("failed", "not_an_image")
    assert len(host.requests) == 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Answer(status=403), "refused"),
        (Answer(status=500), "server_error"),
        (Answer(reset=True), "unreachable"),
        (Answer(JPEG, cut=2000), "truncated"),
        (Answer(b""), "truncated"),
    ],
)
def test_failures_of_the_host_have_their_reasons(host: ImageHost, fault: Answer, reason: str, fetched: Fetch) -> None:
    asked = Asked()
    [row] = fetched(photos(host.url("/a.jpg", fault)), asked)
    assert outcome(row) == ("failed", reason)
    assert asked.about == []


def test_a_picture_cut_off_before_it_was_framed_is_downloaded_once_more(host: ImageHost, fetched: Fetch) -> None:
    cut = Answer(JPEG[:-900])
    rows = fetched(photos(host.url("/a.jpg", cut, Answer(JPEG)), host.url("/b.jpg", cut)))
    assert [outcome(row) for row in rows] == [("fetched", None), ("failed", "truncated")]
    assert host.counts() == {"/a.jpg": 2, "/b.jpg": 2}


def test_too_many_pixels(host: ImageHost, fetched: Fetch) -> None:
    settings = ImageSettings(max_pixels=400 * 300 - 1)
    [row] = fetched(photos(host.url("/a.jpg", Answer(JPEG))), settings=settings)
    assert outcome(row) == ("failed", "too_large")


def test_files_that_are_not_there_or_cannot_be_read(tmp_path: Path, fetched: Fetch) -> None:
    missing = str(tmp_path / "moved.jpg")
    rows = fetched(photos(missing, str(tmp_path)), Asked({"flickr:0": None}))
    assert [outcome(row) for row in rows] == [("gone", None), ("failed", "unreadable")]


def test_a_forgotten_photo_is_never_requested(host: ImageHost, fetched: Fetch) -> None:
    url = host.url("/a.jpg", Answer(JPEG))
    rows = fetched(photos(url, url), forgotten={"flickr:0"})
    assert [outcome(row) for row in rows] == [("gone", None), ("fetched", None)]
    assert len(host.requests) == 1


def test_a_source_that_gives_up_ends_the_part(host: ImageHost, fetched: Fetch) -> None:
    def refuse(source: str, photo_id: str) -> list[Size] | None:
        raise UserError("Flickr refuses the key")

    with pytest.raises(UserError, match="refuses the key"):
        fetched(photos(*[host.url(f"/{n}.jpg", Answer(status=404)) for n in range(50)]), refuse)


# --- the flow


def test_rows_keep_their_order_though_the_first_comes_last(host: ImageHost, fetched: Fetch) -> None:
    everyone_else = threading.Event()
    urls = [host.url("/slow.jpg", Answer(JPEG, until=everyone_else))]
    urls += [host.url(f"/{n}.jpg", Answer(JPEG)) for n in range(20)]
    last = host.url("/last.jpg", Answer(status=404))
    asked = Asked()

    def release(source: str, photo_id: str) -> None:
        asked.about.append((source, photo_id))
        everyone_else.set()

    rows = fetched(photos(*urls, last), release)
    assert [row["outcome"] for row in rows] == ["fetched"] * 21 + ["gone"]


def batch_sizes(urls: Iterable[str], checker: Checker) -> list[int]:
    table = photos(*urls)
    batches = fetch_rows(table, SETTINGS, {}, gate=Gate(None), sizes=Asked(), checker=checker, receipt={})
    return [batch.num_rows for batch in batches]


def test_batches_hold_fifty_rows_or_sixteen_megabytes(tmp_path: Path, checker: Checker) -> None:
    (tmp_path / "small.jpg").write_bytes(JPEG)
    (tmp_path / "large.bmp").write_bytes(large := picture("BMP", (1600, 1300)))
    assert 16 << 20 > 2 * len(large) > (16 << 20) - len(large)
    assert batch_sizes([str(tmp_path / "small.jpg")] * 120, checker) == [50, 50, 20]
    assert batch_sizes([str(tmp_path / "large.bmp")] * 5, checker) == [2, 2, 1]


def test_an_empty_part_is_an_empty_part(fetched: Fetch) -> None:
    receipt: dict[str, Any] = {}
    assert fetched(photos(), receipt=receipt) == []
    assert receipt["outcomes"] == {}


@pytest.mark.parametrize(("size", "most"), [(16 << 20, 1 + 4 + 4), (100, 256)])
def test_downloads_run_ahead_of_a_slow_one_only_as_far_as_memory_allows(size: int, most: int) -> None:
    body = bytes(size)
    started: list[int] = []

    async def slow_first(photo: dict[str, Any]) -> Fetched:
        started.append(photo["row_id"])
        if photo["row_id"] == 0:
            await asyncio.sleep(0.5)  # without a bound all others would be done by then
            assert len(started) <= most
        return Fetched({"row_id": photo["row_id"], "outcome": "fetched", "image": {"bytes": body}}, Tally(), 1)

    async def drawn() -> list[int]:
        done = fetch.in_order(slow_first, ({"row_id": n} for n in range(1000)), 4)
        return [one.row["row_id"] async for one in done]

    assert asyncio.run(drawn()) == list(range(1000))


# A process of its own: what it held at most, and what its children did, in MB, is counted from its start.
FETCH = """
import sys
from pathlib import Path
from pipeline.archive import Archive
from pipeline.gate import Gate
from pipeline.stages.fetch import ImageSettings, Parts

class Shared(Gate):
    def sizes(self, source, photo_id):
        raise AssertionError

    def hear(self, beat):
        pass

do = Parts(Archive.open(sys.argv[1]), ImageSettings(rate=None), {}, Shared(None))
[receipt] = do(0)
assert receipt["outcomes"] == {"fetched": receipt["rows"]}, receipt["outcomes"]
own = Path("/proc/self/task")
processes = ["self", *" ".join(path.read_text() for path in own.glob("*/children")).split()]
status = [Path(f"/proc/{process}/status").read_text() for process in processes]
print(sum(int(text.partition("VmHWM:")[2].split()[0]) for text in status) / 1000)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux tells what a process held")
def test_a_worker_holds_no_more_of_a_part_than_is_under_way(host: ImageHost, archive: Archive) -> None:
    large = picture("JPEG", (2400, 1800), noise=True)
    assert len(large) > 2_000_000
    urls = [host.url(f"/{n}.jpg", Answer(large, chunked=True)) for n in range(200)]
    archive.table("photos").write(0, [photos(*urls)], {}, schemas.PHOTOS)
    done = subprocess.run([sys.executable, "-c", FETCH, archive.url], stdout=subprocess.PIPE, text=True, check=True)
    assert float(done.stdout) < 450, "the part alone has 480 MB"


def test_leaving_early_ends_the_downloads(host: ImageHost, checker: Checker) -> None:
    gate = Gate(None)
    table = photos(*[host.url("/a.jpg", Answer(JPEG))] * 500)
    batches = fetch_rows(table, SETTINGS, {}, gate=gate, sizes=Asked(), checker=checker, receipt={})
    next(batches)
    gate.pause(600.0)
    batches.close()  # type: ignore[attr-defined]
    assert len(host.requests) < 500


def test_the_receipt_says_what_it_came_to(host: ImageHost, fetched: Fetch) -> None:
    receipt: dict[str, Any] = {"kept": True}
    fine, shaky = host.url("/a.jpg", Answer(JPEG)), host.url("/b.jpg", Answer(status=500), Answer(JPEG))
    fetched(
        photos(fine, shaky, host.url("/c.jpg", Answer(status=403)), None), Asked({"flickr:3": None}), receipt=receipt
    )
    seconds = receipt.pop("seconds")
    assert receipt == {
        "kept": True,
        "outcomes": {"fetched": 2, "failed": 1, "gone": 1},
        "reasons": {"refused": 1},
        "exceptions": [["flickr:2", 1, "failed", "refused"], ["flickr:3", 1, "gone", None]],
        "requests": 4,
        "bytes": 2 * len(JPEG),
    }
    assert set(seconds) == {"waiting", "downloading", "resting", "decoding"}
    assert seconds["decoding"] > 0


@pytest.mark.parametrize(
    "wrong", [{"rate": 0}, {"connections": 0}, {"attempts": -1}, {"min_side": 0}, {"max_pixels": 0}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ImageSettings(**wrong)


# --- parts of an archive


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive.create(str(tmp_path / "archive"))


def test_a_part_is_fetched_and_committed(host: ImageHost, archive: Archive) -> None:
    archive.table("photos").write(3, [photos(host.url("/a.jpg", Answer(JPEG)), None, part=3)], {}, schemas.PHOTOS)
    shared = Shared({f"flickr:{(3 << 20) + 1}": None})
    with contextlib.closing(fetch.load(archive, SETTINGS, {SOURCE.name: SOURCE}, shared)) as do:
        [receipt] = do(3)
    images = archive.table("images").read(3)
    assert images["row_id"].to_pylist() == archive.table("photos").read(3)["row_id"].to_pylist()
    assert images["outcome"].to_pylist() == ["fetched", "gone"]
    assert receipt == archive.table("images").receipt(3)
    assert receipt["outcomes"] == {"fetched": 1, "gone": 1}
    assert receipt["source_write_id"] == archive.table("photos").receipt(3)["write_id"]


class Shared(Gate):
    """What a run's workers share, here without a run."""

    def __init__(self, answers: dict[str, list[Size] | None] | None = None) -> None:
        super().__init__(None)
        self.asked = Asked(answers)

    def sizes(self, source: str, photo_id: str) -> list[Size] | None:
        return self.asked(source, photo_id)

    def hear(self, beat: Beat) -> None:
        pass


def test_each_photo_that_ended_is_told(host: ImageHost, archive: Archive) -> None:
    rows = photos(*(host.url(f"/{name}.jpg", Answer(JPEG)) for name in "abc"))
    archive.table("photos").write(0, [rows], {}, schemas.PHOTOS)
    told: list[int] = []
    fetch_part(archive, 0, SETTINGS, {}, gate=Gate(None), sizes=Asked(), moved=told.append)
    assert told == [1, 2, 3]


def test_the_part_of_another_writer_stands(host: ImageHost, archive: Archive) -> None:
    archive.table("photos").write(0, [photos(host.url("/a.jpg", Answer(JPEG)))], {}, schemas.PHOTOS)

    def fetch_it() -> dict[str, Any]:
        return fetch_part(archive, 0, SETTINGS, {}, gate=Gate(None), sizes=Asked())

    assert fetch_it()["write_id"] == fetch_it()["write_id"]


def test_the_forgotten_of_an_archive_are_not_requested(host: ImageHost, archive: Archive) -> None:
    archive.table("photos").write(0, [photos(host.url("/a.jpg", Answer(JPEG)))], {}, schemas.PHOTOS)
    forget = pa.Table.from_pylist([{"row_id": 0, "photo_id": "flickr:0"}], schemas.FORGOTTEN)
    archive.table("forgotten").write(0, [forget], {}, schemas.FORGOTTEN)
    assert fetch_part(archive, 0, SETTINGS, {}, gate=Gate(None), sizes=Asked())["outcomes"] == {"gone": 1}
    assert host.requests == []


# --- asking again


def table(names: str, *rows: tuple[Any, ...]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(names.split(), row, strict=True)) for row in rows])


def test_only_last_failures_that_may_pass_are_retryable() -> None:
    asked = table(
        "row_id photo_id",
        (0, "fetched"),
        (1, "gone"),
        (2, "refused"),
        (3, "server_error"),
        (4, "unreachable then fetched"),
        (5, "truncated, asked again already"),
        (6, "fetched then unreadable"),
        (7, "unreachable, since forgotten"),
        (14, "unreachable then fetched"),
        (15, "truncated, asked again already"),
        (16, "fetched then unreadable"),
    )
    had = table(
        "row_id outcome reason",
        (0, "fetched", None),
        (1, "gone", None),
        (2, "failed", "refused"),
        (3, "failed", "server_error"),
        (4, "failed", "unreachable"),
        (5, "failed", "truncated"),
        (6, "fetched", None),
        (7, "failed", "unreachable"),
        (14, "fetched", None),
        (16, "failed", "unreadable"),
    )
    assert retryable(asked, had, {"unreachable, since forgotten"}) == [3, 16]
    assert retryable(asked, had) == [3, 7, 16]


def test_again_appends_what_may_succeed_and_fetching_it_settles_it(
    host: ImageHost, archive: Archive, checker: Checker
) -> None:
    urls = [host.url(f"/{n}.jpg", Answer(JPEG)) for n in range(7)]
    for n in (1, 3, 5):
        host.url(f"/{n}.jpg", *[Answer(status=500)] * 4, Answer(JPEG))
    host.url("/6.jpg", Answer(status=403))
    listed = photos(*urls, title="a title", raw='{"id": "7"}')
    archive.table("photos").write(0, [listed], {}, schemas.PHOTOS)
    do = fetch.Parts(archive, SETTINGS, {}, Shared(), checker)
    assert fetch.again(archive) == 0
    assert do(0)[0]["reasons"] == {"server_error": 3, "refused": 1}

    assert fetch.again(archive, part_size=2) == 3
    assert fetch.again(archive) == 0
    asked = pa.concat_tables([archive.table("photos").read(part) for part in (1, 2)])
    assert asked["row_id"].to_pylist() == [1 << 20, (1 << 20) + 1, 2 << 20]
    assert asked["photo_id"].to_pylist() == ["flickr:1", "flickr:3", "flickr:5"]
    assert asked["attempt"].to_pylist() == [2, 2, 2]
    same = ["photo_id", "source", "title", "sizes", "raw", "media"]
    assert asked.select(same).equals(listed.take([1, 3, 5]).select(same))

    before = len(host.requests)
    assert [do(part)[0]["outcomes"] for part in archive.table("images").pending(archive.table("photos"))] == [
        {"fetched": 2},
        {"fetched": 1},
    ]
    assert len(host.requests) == before + 3
    assert fetch.again(archive) == 0
    assert archive.live()["photo_id"].to_pylist() == [f"flickr:{n}" for n in (0, 2, 4, 1, 3, 5)]
