"""The demo's server: its answers as Flickr's were recorded, its pictures as Flickr's image host sends them."""

import http.client
import io
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flickrapi
import pytest
import requests
from PIL import Image, UnidentifiedImageError

from pipeline.demo.answers import METHODS, answer, offers
from pipeline.demo.server import KEY, SECRET, Served, serve
from pipeline.demo.stream import ALIAS, NSID, OWNER, DemoPhoto, demo_stream

STREAM = demo_stream(80)
HOST = "http://127.0.0.1:8765"
EXTRAS = (
    "description,license,date_upload,date_taken,owner_name,original_format,last_update,geo,tags,machine_tags,o_dims,views,"
    "media,path_alias,url_sq,url_t,url_s,url_q,url_m,url_n,url_z,url_c,url_l,url_h,url_k,url_o"
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drawn")


@pytest.fixture(scope="module")
def served(cache: Path) -> Iterator[Served]:
    with serve(STREAM, cache) as served:
        yield served


def ask(method: str, **parameters: str) -> dict[str, Any]:
    return answer(STREAM, {"method": f"flickr.{method}", "format": "json", **parameters}, HOST)


def get(served: Served, **parameters: str) -> requests.Response:
    """As clients without OAuth call."""
    given = {"api_key": KEY, "format": "json", "nojsoncallback": "1", "method": "flickr.people.getInfo"}
    return requests.get(served.api_url, {**given, "user_id": NSID, **parameters}, timeout=10)


def photo_with(trouble: str | None) -> DemoPhoto:
    return next(photo for photo in STREAM.photos if photo.trouble == trouble and max(photo.width, photo.height) > 640)


# ---- answers


PHOTO_ID = str(next(photo.number for photo in STREAM.photos if photo.original_offered and photo.trouble is None))
ALBUM_ID = str(STREAM.album.number)
GALLERY_ID = str(STREAM.gallery.number)
POOL = {"group_id": STREAM.group.nsid}
RECORDED = [
    ("people.findByUsername__@janko-m", "people.findByUsername", {"username": OWNER}),
    ("people.getInfo__78733179@N04", "people.getInfo", {"user_id": NSID}),
    ("people.getPublicPhotos__78733179@N04", "people.getPublicPhotos", {"user_id": NSID}),
    ("people.getPhotos__78733179@N04__v2", "people.getPublicPhotos", {"user_id": NSID, "extras": EXTRAS}),
    ("photos.search__openverse_2020_trimmed", "people.getPublicPhotos", {"user_id": NSID, "extras": EXTRAS}),
    ("photos.search__78733179@N04", "photos.search", {"user_id": NSID}),
    ("photos.search__elephants_sdk2016", "photos.search", {"text": "drawn"}),
    ("photos.search__openverse_2020_trimmed", "photos.search", {"text": "drawn", "extras": EXTRAS}),
    ("galleries.getPhotos__72157626831167487_sdk2016", "galleries.getPhotos", {"gallery_id": GALLERY_ID}),
    ("groups.pools.getPhotos__33051635@N00_sdk2016", "groups.pools.getPhotos", POOL),
    ("photosets.getInfo__72157636216289703", "photosets.getInfo", {"photoset_id": ALBUM_ID}),
    ("photosets.getList__78733179@N04", "photosets.getList", {"user_id": NSID}),
    ("photosets.getPhotos__72157636216289703", "photosets.getPhotos", {"photoset_id": ALBUM_ID, "user_id": NSID}),
    ("photos.getSizes__10115956703", "photos.getSizes", {"photo_id": PHOTO_ID}),
    ("photos.getInfo__8130464513", "photos.getInfo", {"photo_id": PHOTO_ID}),
    ("test.null", "photos.getInfo", {"photo_id": "1"}),
]

# Keys that recorded answers hold of some photos or people, or held once, and the demo's have no use for.
NOT_SAID = {
    "iconserver", "iconfarm", "place_id", "woeid", "geo_is_family", "geo_is_friend", "geo_is_contact", "geo_is_public",
    "realname", "location", "timezone", "views", "coverphoto_server", "coverphoto_farm", "geoperms", "permissions",
    "originalsecret", "originalformat", "note", "safe",
    "max_allowed_results", "max_allowed_pages",
}  # fmt: skip
# Keys whose values Flickr gives now as numbers, now as strings, or null.
LOOSE = re.compile("total|width|height|accuracy|latitude|longitude|granularity|path_?alias|count|photos|context")


def kinds(value: Any, path: str = "") -> dict[str, set[str]]:
    """Path of keys → JSON types of the values found there."""
    found = {path: {"null" if value is None else type(value).__name__}}
    if isinstance(value, dict):
        inner = [kinds(item, f"{path}/{key}") for key, item in value.items()]
    else:
        inner = [kinds(item, f"{path}/*") for item in value] if isinstance(value, list) else []
    for part in inner:
        for where, what in part.items():
            found.setdefault(where, set()).update(what)
    return found


@pytest.mark.parametrize(("name", "method", "parameters"), RECORDED, ids=[name for name, _, _ in RECORDED])
def test_answers_have_the_keys_and_types_of_recorded_ones(
    shared_data: Path, name: str, method: str, parameters: dict[str, str]
) -> None:
    recorded = kinds(json.loads((shared_data / "flickr_recorded" / f"{name}.json").read_text()))
    ours = kinds(ask(method, **parameters))
    said = [path for path in recorded if not NOT_SAID & set(path.split("/"))]
    assert [path for path in said if path not in ours] == []
    for path in said:
        loose = {"str", "int", "float", "null"} if LOOSE.search(path.rsplit("/", 1)[-1]) else set()
        assert ours[path] <= recorded[path] | (loose if recorded[path] & loose else set()), path


def test_every_photo_of_the_stream_is_listed_once_over_the_pages() -> None:
    pages = [
        ask("people.getPublicPhotos", user_id=NSID, per_page="33", page=page)["photos"] for page in ("1", "2", "3", "4")
    ]
    assert [len(page["photo"]) for page in pages] == [33, 33, 14, 0]
    assert {(page["pages"], page["total"], page["perpage"]) for page in pages} == {(3, 80, 33)}
    listed = [row["id"] for page in pages for row in page["photo"]]
    assert listed == [str(photo.number) for photo in STREAM.photos]


def test_only_extras_asked_for_are_given() -> None:
    row = ask("people.getPublicPhotos", user_id=NSID, extras="license,url_m", per_page="1")["photos"]["photo"][0]
    assert "license" in row
    assert "description" not in row
    assert [key for key in row if key.startswith("url_")] == ["url_m"]


def searched(**parameters: str) -> list[DemoPhoto]:
    rows = ask("photos.search", per_page="500", **parameters)["photos"]["photo"]
    by_number = {str(photo.number): photo for photo in STREAM.photos}
    return [by_number[row["id"]] for row in rows]


def test_a_search_finds_what_it_asks_for_and_nothing_else() -> None:
    middle = STREAM.photos[40].uploaded
    cases: list[tuple[dict[str, str], Callable[[DemoPhoto], bool]]] = [
        ({"user_id": NSID}, lambda photo: True),
        ({"text": "Steam TRAIN"}, lambda photo: {"steam", "train"} <= set(re.findall(r"\w+", told(photo)))),
        ({"tags": "poster,sepiaprint"}, lambda photo: bool({"poster", "sepiaprint"} & set(photo.tags))),
        ({"tags": "poster,atsea", "tag_mode": "all"}, lambda photo: {"poster", "atsea"} <= set(photo.tags)),
        ({"license": "4,9"}, lambda photo: photo.license in ("4", "9")),
        ({"is_commons": "1"}, lambda photo: photo.license == "7"),
        ({"text": "drawn", "media": "videos"}, lambda photo: photo.is_video),
        ({"group_id": STREAM.group.nsid}, lambda photo: photo.number in STREAM.group.photos),
        ({"min_upload_date": str(middle)}, lambda photo: photo.uploaded >= middle),
        ({"max_upload_date": str(middle)}, lambda photo: photo.uploaded <= middle),
        ({"min_taken_date": "1900-01-01 00:00:00"}, lambda photo: photo.taken >= "1900"),
        ({"max_taken_date": "1899-12-31 23:59:59"}, lambda photo: photo.taken < "1900"),
    ]
    for parameters, meets in cases:
        wanted = [photo for photo in STREAM.photos if meets(photo)]
        assert wanted, parameters
        assert searched(**parameters) == wanted
        assert searched(**parameters, sort="date-posted-asc") == wanted[::-1]


def told(photo: DemoPhoto) -> str:
    return f"{photo.title} {photo.description} {' '.join(photo.tags)}".lower()


def test_a_search_shows_4000_photos_and_then_the_last_of_them_again() -> None:
    stream = demo_stream(4100)

    def page(number: int) -> dict[str, Any]:
        asked = {"method": "flickr.photos.search", "user_id": NSID, "per_page": "500", "page": str(number)}
        return answer(stream, asked, HOST)["photos"]

    pages = [page(number) for number in range(1, 10)]
    assert {(found["total"], found["pages"], found["perpage"]) for found in pages} == {(4100, 9, 500)}
    assert [found["page"] for found in pages] == list(range(1, 10))
    assert len({row["id"] for found in pages for row in found["photo"]}) == 4000
    assert pages[8]["photo"] == pages[7]["photo"]
    assert page(99)["photo"] == pages[7]["photo"]


@pytest.mark.parametrize(
    ("method", "parameters", "code"),
    [
        ("people.getPublicPhotos", {"user_id": "1@N01"}, 1),
        ("people.getInfo", {}, 1),
        ("people.findByUsername", {"username": "x"}, 1),
        ("urls.lookupUser", {"url": "https://www.flickr.com/photos/nobody/"}, 1),
        ("photosets.getPhotos", {"photoset_id": "1"}, 1),
        ("photosets.getPhotos", {"photoset_id": ALBUM_ID, "user_id": "1@N01"}, 1),
        ("galleries.getPhotos", {"gallery_id": "1"}, 1),
        ("groups.pools.getPhotos", {"group_id": "1@N01"}, 1),
        ("urls.lookupGroup", {"url": "https://www.flickr.com/groups/nobody/"}, 1),
        ("photos.search", {"sort": "date-posted-asc", "per_page": "500"}, 3),
        ("photos.search", {"user_id": "1@N01"}, 2),
        ("photos.search", {"text": "x", "group_id": "1@N01"}, 4),
        ("photos.getSizes", {"photo_id": "1"}, 1),
        ("photos.getSizes", {"photo_id": str(photo_with("gone_404").number)}, 1),
        ("photos.getInfo", {"photo_id": str(photo_with("gone_410").number)}, 1),
        ("photos.paint", {}, 112),
    ],
)
def test_what_is_not_there_fails_with_flickrs_code(method: str, parameters: dict[str, str], code: int) -> None:
    found = ask(method, **parameters)
    assert (found["stat"], found["code"]) == ("fail", code)
    assert isinstance(found["message"], str)


# ---- the API over HTTP


def test_the_real_client_is_understood(served: Served) -> None:
    api = flickrapi.FlickrAPI(KEY, SECRET, format="parsed-json", store_token=False)
    api.REST_URL = served.api_url
    found = api.urls.lookupUser(url=f"https://www.flickr.com/photos/{ALIAS}/")
    assert found == {"user": {"id": NSID, "username": {"_content": OWNER}}, "stat": "ok"}
    assert served.log[-1].verb == "POST"
    assert served.log[-1].key == KEY


def test_a_bare_key_and_get_are_understood(served: Served) -> None:
    response = get(served)
    assert response.headers["Content-Type"] == "application/json"
    assert response.json()["person"]["photos"]["count"] == {"_content": 80}


@pytest.mark.parametrize("key", ["", "wrong"])
def test_a_missing_or_wrong_key_is_code_100_with_http_200(served: Served, key: str) -> None:
    response = get(served, api_key=key)
    assert response.status_code == 200
    assert (response.json()["stat"], response.json()["code"]) == ("fail", 100)


def test_jsonp_is_the_default_as_at_flickr(served: Served) -> None:
    assert get(served, nojsoncallback="0").text.startswith('jsonFlickrApi({"person"')


def test_formats_other_than_json_are_refused(served: Served) -> None:
    assert get(served, format="rest").json()["code"] == 111


def test_every_method_answers_over_http(served: Served) -> None:
    given = {"username": OWNER, "photoset_id": ALBUM_ID, "photo_id": PHOTO_ID, "gallery_id": GALLERY_ID}
    for method in METHODS:
        url = STREAM.group.alias if method.endswith("Group") else ALIAS
        found = get(served, method=method, url=url, group_id=STREAM.group.nsid, **given).json()
        assert found["stat"] == "ok", method


# ---- pictures


def picture(served: Served, photo: DemoPhoto, letter: str, listed: bool = False) -> requests.Response:
    path = next(offer.path for offer in offers(photo, listed=listed) if offer.letter == letter)
    return requests.get(served.url + path, timeout=30)


@pytest.mark.parametrize("letter", ["sq", "q", "t", "s", "n", "w", "m"])
def test_pictures_have_the_sizes_they_are_listed_with(served: Served, letter: str) -> None:
    photo = photo_with(None)
    response = picture(served, photo, letter)
    offer = next(offer for offer in offers(photo, listed=True) if offer.letter == letter)
    with Image.open(io.BytesIO(response.content)) as image:
        image.load()
        assert (image.format, image.mode) == ("JPEG", "RGB")
        assert image.size == (offer.width, offer.height)


def test_pictures_come_in_chunks_without_a_length(served: Served) -> None:
    response = picture(served, photo_with(None), "m")
    assert response.headers["Transfer-Encoding"] == "chunked"
    assert "Content-Length" not in response.headers
    assert response.headers["Content-Type"] == "image/jpeg"


def test_connections_are_kept_alive(served: Served) -> None:
    connection = http.client.HTTPConnection(served.url.removeprefix("http://"), timeout=10)
    connection.connect()
    socket = connection.sock
    for offer in offers(photo_with(None), listed=True)[:3]:
        connection.request("GET", offer.path)
        assert connection.getresponse().read()
        assert connection.sock is socket
    connection.close()


def test_no_size_is_above_the_original() -> None:
    for photo in STREAM.photos:
        longer = max(photo.width, photo.height)
        for offer in offers(photo, listed=True):
            assert max(offer.width, offer.height) <= longer
            if offer.letter not in ("sq", "q"):
                assert offer.width / offer.height == pytest.approx(photo.width / photo.height, rel=0.03)


def test_large_sizes_have_secrets_of_their_own() -> None:
    photo = next(photo for photo in STREAM.photos if photo.original_offered and max(photo.width, photo.height) >= 1600)
    secrets = {offer.letter: re.findall("_([0-9a-f]{10})", offer.path)[0] for offer in offers(photo, listed=True)}
    assert secrets["t"] == secrets["l"] == photo.secret
    assert secrets["o"] == photo.original_secret
    assert len({secrets["l"], secrets["h"], secrets["o"]}) == 3


def test_a_picture_uploaded_twice_is_the_same_bytes(served: Served) -> None:
    scenes = Counter(photo.scene for photo in STREAM.photos)
    scene = next(scene for scene, uploads in scenes.items() if uploads == 2)
    first, second = (photo for photo in STREAM.photos if photo.scene == scene)
    assert picture(served, first, "s").content == picture(served, second, "s").content


def test_what_was_drawn_is_kept(served: Served, cache: Path) -> None:
    photo = photo_with(None)
    offer = next(offer for offer in offers(photo, listed=True) if offer.letter == "n")
    kept = cache / f"{photo.scene.seed}_{offer.width}x{offer.height}.jpg"
    drawn = picture(served, photo, "n").content
    assert kept.read_bytes() == drawn
    kept.write_bytes(b"as kept")
    assert picture(served, photo, "n").content == b"as kept"
    kept.unlink()
    assert picture(served, photo, "n").content == drawn
    assert not [file for file in cache.iterdir() if file.suffix != ".jpg"]


@pytest.mark.parametrize(("trouble", "status"), [("gone_404", 404), ("gone_410", 410)])
def test_gone_pictures_are_gone(served: Served, trouble: str, status: int) -> None:
    response = picture(served, photo_with(trouble), "m", listed=True)
    assert response.status_code == status
    assert response.headers["Content-Type"].startswith("text/html")


def test_a_new_secret_leaves_nothing_under_the_old_one(served: Served) -> None:
    photo = photo_with("new_secret")
    for letter in ("s", "m"):
        assert picture(served, photo, letter, listed=True).status_code == 404
        assert picture(served, photo, letter, listed=False).status_code == 200


def test_troubled_pictures_are_what_they_are_said_to_be(served: Served) -> None:
    page = picture(served, photo_with("html"), "m")
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    for trouble in ("truncated", "corrupt"):
        response = picture(served, photo_with(trouble), "m")
        assert response.status_code == 200
        assert response.content.startswith(b"\xff\xd8\xff")
        with pytest.raises((OSError, UnidentifiedImageError)), Image.open(io.BytesIO(response.content)) as image:
            image.load()


def test_a_video_may_have_a_still(served: Served) -> None:
    assert picture(served, photo_with("video_with_still"), "m").status_code == 200
    assert offers(next(p for p in STREAM.photos if p.trouble == "video_without_still"), listed=True) == []


@pytest.mark.parametrize("path", ["/", "/65535/1_abc.jpg", "/65535/53000000000_0000000000.jpg", "/services/rest"])
def test_other_paths_are_not_found(served: Served, path: str) -> None:
    assert requests.get(served.url + path, timeout=10).status_code == 404


def test_it_runs_as_a_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.demo.server", "--port", "0", "--cache", str(tmp_path / "drawn")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            (api_url,) = re.findall(r"http://\S+", server.stdout.readline())
            assert "FLICKR_API_KEY" in server.stdout.readline()
            parameters = {"api_key": KEY, "format": "json", "nojsoncallback": "1", "method": "flickr.people.getInfo"}
            found = requests.get(api_url, {**parameters, "user_id": NSID}, timeout=10).json()
            assert found["person"]["photos"]["count"] == {"_content": 720}
        finally:
            server.terminate()
