"""What Flickr really answered, over the years and in both formats, through the real parser and the real client."""

import http.server
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.gate import Gate
from pipeline.photo import Photo, UserError
from pipeline.sources.flickr.client import TRIES, Client, Refused
from pipeline.sources.flickr.parse import (
    Page,
    is_public,
    parse_photo,
    read_info,
    read_page,
    read_renditions,
    read_sizes,
    read_user_id,
)
from pipeline.sources.licences import FLICKR_LICENCES
from tests.sources.flickr_xml import as_json

NOW = datetime(2026, 1, 2, tzinfo=UTC)
LISTS = (
    *("people.getPhotos", "people.getPublicPhotos", "photosets.getPhotos", "galleries.getPhotos"),
    *("groups.pools.getPhotos", "photos.search", "photos.getRecent", "photos.recentlyUpdated", "favorites.getList"),
)
USERS = ("people.getInfo", "people.findByUsername", "urls.lookupUser")
SINGLE = Page([], 1, 1, 1, None, None)

Answers = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def answers(shared_data: Path) -> Answers:
    """File name → the answer, as JSON."""
    found = {}
    for file in sorted((shared_data / "flickr_recorded").iterdir()):
        if file.suffix == ".json":
            found[file.name] = json.loads(file.read_text())
        elif file.suffix == ".xml":
            found[file.name] = as_json(file.read_text())
    return found


def succeeded(answers: Answers, *methods: str) -> Answers:
    return {
        name: answer
        for name, answer in answers.items()
        if re.match(rf"({'|'.join(map(re.escape, methods))})(__|\.json|\.xml)", name) and answer["stat"] == "ok"
    }


def photos_of(page: Page) -> list[Photo]:
    return [parse_photo(row, page, source="flickr:x", observed_at=NOW) for row in page.rows]


def single(answer: dict[str, Any], sizes: dict[str, Any] | None = None) -> Photo:
    row = read_info(answer) | (read_renditions(sizes) if sizes else {})
    return parse_photo(row, SINGLE, source="flickr:x", observed_at=NOW)


def test_every_list(answers: Answers) -> None:
    lists = succeeded(answers, *LISTS)
    assert len(lists) == 20
    assert {name.rpartition(".")[2] for name in lists} == {"json", "xml"}
    count = 0
    for name, answer in lists.items():
        page = read_page(answer)
        photos = photos_of(page)
        count += len(photos)
        assert len(photos) == len(page.rows) > 0, name
        assert page.total is not None or "openverse" in name  # which was trimmed
        for photo in photos:
            assert re.fullmatch(r"flickr:\d+", photo.photo_id), name
            assert photo.owner_id and photo.page_url and photo.page_url.startswith("https://www.flickr.com/photos/"), (
                name
            )
            assert all(size.width and size.height and size.url.startswith("http") for size in photo.sizes), name
            assert photo.rights.license_id is None or photo.rights.license_id in FLICKR_LICENCES, name
            assert json.loads(photo.raw or "") in page.rows
    assert count == 870


def test_what_the_lists_were_asked_for_is_there(answers: Answers) -> None:
    photos = [photo for answer in succeeded(answers, *LISTS).values() for photo in photos_of(read_page(answer))]
    told = {"title": 835, "uploaded_at": 440, "date_taken": 419, "owner": 656, "description": 66, "latitude": 42}
    assert {name: sum(getattr(photo, name) is not None for photo in photos) for name in told} == told
    assert sum(len(photo.sizes) > 3 for photo in photos) == 322
    assert sum(bool(photo.tags) for photo in photos) == 124


def test_every_photo(answers: Answers) -> None:
    infos = succeeded(answers, "photos.getInfo")
    assert len(infos) == 25
    for name, answer in infos.items():
        photo = single(answer)
        number = name.split("__")[1].split("_")[0].split(".")[0]
        assert photo.photo_id == f"flickr:{number}"
        assert photo.owner and photo.owner_id and "@N" in photo.owner_id
        assert photo.page_url and photo.page_url.endswith(f"/{number}/")
        assert photo.rights.license_id in FLICKR_LICENCES
        assert photo.uploaded_at and photo.updated_at
        assert photo.media == ("video" if number == "52052991809" else "photo")
        said = answer["photo"]
        assert photo.title == (said["title"]["_content"] or None)
        assert photo.description == (said["description"]["_content"] or None)
        assert list(photo.tags) == [tag["_content"] for tag in said["tags"]["tag"] if tag.get("_content")]
        assert (photo.latitude is None) == ("location" not in said)
        assert is_public(read_info(answer))
        assert json.loads(photo.raw or "")["info"] == said


def test_a_photo_of_which_we_know_what_flickr_shows(answers: Answers) -> None:
    photo = single(answers["photos.getInfo__52994452213.xml"], answers["photos.getSizes__52994452213.xml"])
    assert (photo.title, photo.description) == ("Doho Lodge, Ethiopia", "Afar, Doho Lodge")
    assert photo.tags == ("afar", "doholodge", "ethiopia", "awash", "nature", "awashnationalpark", "hotspring")
    assert (photo.owner, photo.owner_id) == ("Ninara31", "150102727@N06")
    assert photo.page_url == "https://www.flickr.com/photos/150102727@N06/52994452213/"
    assert (photo.date_taken, photo.date_granularity) == ("2021-05-16 12:16:36", "second")
    assert photo.uploaded_at == datetime(2023, 6, 22, 21, 37, 29, tzinfo=UTC)
    assert (photo.latitude, photo.longitude) == (9.135158, 40.083811)
    assert photo.rights.license_url == "https://creativecommons.org/licenses/by/2.0/"
    assert [size.width for size in photo.sizes][-1] == max(size.width or 0 for size in photo.sizes)
    assert {size.url.rpartition("_")[2] for size in photo.sizes} >= {"t.jpg", "m.jpg", "6k.jpg", "o.jpg"}


def test_machine_tags_are_told_from_tags(answers: Answers) -> None:
    photo = single(answers["photos.getInfo__21609597615.xml"])
    assert "geo:locality=ngaruawahia" in photo.machine_tags
    assert set(photo.machine_tags) < set(photo.tags)


def test_every_list_of_sizes(answers: Answers) -> None:
    found = succeeded(answers, "photos.getSizes")
    assert len(found) == 19
    for name, answer in found.items():
        sizes = read_sizes(answer)
        assert len(sizes) > 5, name
        assert all(size.width and size.height and "staticflickr.com" in size.url for size in sizes), name
        assert not any(size.url.endswith(("_s.jpg", "_q.jpg")) for size in sizes), name
        # Reading them as a row of a list would tell them comes to the same.
        row = {"id": "1", **read_renditions(answer)}
        assert list(parse_photo(row, SINGLE, source="flickr:x", observed_at=NOW).sizes) == sizes, name


def test_sizes_of_a_photo_as_they_were_in_2013(answers: Answers) -> None:
    sizes = read_sizes(answers["photos.getSizes__10115956703.json"])
    assert [size.width for size in sizes] == [100, 240, 320, 500, 640, 800, 1024, 1600, 2048, 2560]


def test_every_user(answers: Answers) -> None:
    found = succeeded(answers, *USERS)
    assert len(found) == 20
    for name, answer in found.items():
        assert re.fullmatch(r"\d+@N\d\d", read_user_id(answer)), name


def test_every_answer_is_tested_here_or_of_no_use_to_us(answers: Answers) -> None:
    used = succeeded(answers, *LISTS, *USERS, "photos.getInfo", "photos.getSizes")
    failed = {name for name, answer in answers.items() if answer["stat"] == "fail"}
    others = {name.split("__")[0] for name in answers.keys() - used.keys() - failed}
    assert {re.sub(r"\.(xml|json)$", "", name) for name in others} == {
        *("commons.getInstitutions", "galleries.getListForPhoto", "groups.getInfo", "photos.getAllContexts"),
        *("photos.getExif", "photos.licenses.getLicenseHistory", "photos.people.getList", "photosets.getInfo"),
        *("photosets.getList", "reflection.getMethods"),
    }


# ---- the same said with other types


def retyped(value: Any, to: type) -> Any:
    """The same answer with every number a string, or every string of a number a number."""
    if isinstance(value, dict):
        return {key: retyped(item, to) for key, item in value.items()}
    if isinstance(value, list):
        return [retyped(item, to) for item in value]
    if to is str:
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    # A text that is no number as JSON writes it would not come back the same.
    return int(value) if isinstance(value, str) and re.fullmatch(r"0|[1-9]\d{0,17}", value) else value


def without_raw(photos: list[Photo]) -> list[Photo]:
    return [replace(photo, raw=None) for photo in photos]


@pytest.mark.parametrize("to", [str, int])
def test_answers_of_all_years_tell_the_same_photos(answers: Answers, to: type) -> None:
    changed = 0
    for name, answer in succeeded(answers, *LISTS).items():
        other = retyped(answer, to)
        changed += other != answer
        assert replace(read_page(other), rows=[]) == replace(read_page(answer), rows=[]), name
        assert without_raw(photos_of(read_page(other))) == without_raw(photos_of(read_page(answer))), name
    for name, answer in succeeded(answers, "photos.getInfo").items():
        other = retyped(answer, to)
        changed += other != answer
        assert without_raw([single(other)]) == without_raw([single(answer)]), name
    for name, answer in succeeded(answers, "photos.getSizes").items():
        assert read_sizes(retyped(answer, to)) == read_sizes(answer), name
    for name, answer in succeeded(answers, *USERS).items():
        assert read_user_id(retyped(answer, to)) == read_user_id(answer), name
    assert changed > 5


def test_a_photo_is_the_same_from_a_list_and_by_itself(answers: Answers) -> None:
    """Of two photos that were recorded both ways, in the same year: all that did not change meanwhile."""
    album = read_page(answers["photosets.getPhotos__32834977@N03.xml"])
    [listed] = [photo for photo in photos_of(album) if photo.photo_id == "flickr:5536044022"]
    alone = single(answers["photos.getInfo__5536044022.xml"])
    for name in ("title", "date_taken", "date_granularity", "uploaded_at", "owner", "owner_id", "page_url", "rights"):
        assert getattr(alone, name) == getattr(listed, name), name


# ---- refusals, through flickrapi


@pytest.fixture
def says() -> Iterator[tuple[str, list[bytes], list[str]]]:
    """URL of a server, what it answers (the last item, whatever it is asked), and what it was asked."""
    bodies: list[bytes] = []
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(bodies[-1])))
            self.end_headers()
            self.wfile.write(bodies[-1])

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/services/rest/", bodies, asked
        server.shutdown()
        thread.join()


def test_every_refusal(answers: Answers, says: tuple[str, list[bytes], list[str]]) -> None:
    url, bodies, asked = says
    failed = {name: answer for name, answer in answers.items() if answer["stat"] == "fail"}
    assert len(failed) == 26
    codes = set()
    for name, answer in failed.items():
        codes.add(answer["code"])
        bodies.append(json.dumps(answer).encode())
        asked.clear()
        client = Client("k" * 32, "s" * 16, api_url=url, gate=Gate(1000), contact=None, sleep=lambda seconds: None)
        with pytest.raises(UserError) as raised:
            client.call(re.split(r"__|\.(?:json|xml)$", name)[0], read_page)
        line = str(raised.value)
        assert "\n" not in line and answer["message"].strip() in line, name
        if answer["code"] == 201:
            assert len(asked) == TRIES and "run again later" in line
        else:
            assert len(asked) == 1
            assert isinstance(raised.value, Refused) and raised.value.code == answer["code"]
            assert ("check FLICKR_API_KEY" in line) == (answer["code"] == 100)
    assert codes == {1, 2, 100, 201}
