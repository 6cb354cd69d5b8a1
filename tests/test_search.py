"""Searching one build: exact, with arithmetic, filters that reach nothing else, forgotten photos, the JSON contract."""

import http.server
import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from rich.console import Console, RenderableType

from pipeline import builds, search, storage
from pipeline.archive import Archive
from pipeline.builds import Build
from pipeline.photo import UserError
from pipeline.search import Query
from pipeline.stages import index
from pipeline.stages.index import IndexSettings
from tests import small_archive as small


class Embedder:
    """Words and pictures into the space of the small archive, by rules simple enough to work out in a test.

    A text is the unit vector seeded by its letters; a picture is its mean colour in the first three dimensions.
    """

    side = 16

    def identity(self) -> dict[str, Any]:
        return small.IDENTITY | {"weights_license": "MIT"}

    def preprocess(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image.resize((16, 16)), np.float32).transpose(2, 0, 1)

    def embed_images(self, batch: np.ndarray) -> np.ndarray:
        colours = batch.mean(axis=(2, 3))
        return small.unit(np.pad(colours, ((0, 0), (0, small.DIM - 3))))

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        return small.unit([np.random.default_rng(list(text.encode())).standard_normal(small.DIM) for text in texts])


def shown(printed: RenderableType) -> str:
    console = Console(width=240, record=True, file=io.StringIO())
    console.print(printed)
    return console.export_text()


def no_model() -> Embedder:
    raise AssertionError("this search needs no model")


def words(text: str) -> np.ndarray:
    return Embedder().embed_texts([text])[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Archive, dict[str, np.ndarray]]:
    archive, vectors = small.make(str(tmp_path_factory.mktemp("search") / "archive"))
    index.build(archive, IndexSettings(of="tiny"))
    return archive, vectors


@pytest.fixture(scope="module")
def build(made: tuple[Archive, dict[str, np.ndarray]]) -> Build:
    return builds.open_build(made[0].url)


@pytest.fixture(scope="module")
def vectors(made: tuple[Archive, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {photo_id: small.unit(vector) for photo_id, vector in made[1].items()}


def nearest(vector: np.ndarray, vectors: dict[str, np.ndarray], k: int, without: tuple[str, ...] = ()) -> list[str]:
    scores = {photo_id: float(vector @ other) for photo_id, other in vectors.items() if photo_id not in without}
    return sorted(scores, key=lambda photo_id: -scores[photo_id])[:k]


def found(build: Build, query: Query, load: Callable[[], search.Embedder] = Embedder) -> list[str]:
    return [hit.photo_id for hit in search.search(build, query, load).hits]


def test_words_find_the_nearest_photos(build: Build, vectors: dict[str, np.ndarray]) -> None:
    answer = search.search(build, Query("gone fishing", k=8), Embedder)
    assert [hit.photo_id for hit in answer.hits] == nearest(words("gone fishing"), vectors, 8)
    assert [hit.rank for hit in answer.hits] == list(range(1, 9))
    first = answer.hits[0]
    assert first.score == pytest.approx(float(words("gone fishing") @ vectors[first.photo_id]), abs=1e-5)
    assert first.title == f"title of {first.photo_id}"
    assert (first.caption, first.caption_model) == (f"caption of {first.photo_id}", "test-captioner")
    assert first.license_name == "No known copyright restrictions"


def test_a_photo_of_the_archive_is_never_its_own_hit_and_needs_no_model(
    build: Build, vectors: dict[str, np.ndarray]
) -> None:
    answer = search.search(build, Query(image="flickr:1-7"), no_model)
    assert [hit.photo_id for hit in answer.hits] == nearest(vectors["flickr:1-7"], vectors, 6, ("flickr:1-7",))
    assert answer.pictures == (search.Picture("flickr:1-7", row_id=(1 << 20) + 7),)
    everything = found(build, Query(image="flickr:1-7", k=1000), no_model)
    assert len(everything) == 59
    assert "flickr:1-7" not in everything


@pytest.mark.parametrize(("plus", "minus"), [("blue", "red"), ("blue", None), (None, "red"), ("flickr:0-2", "red")])
def test_arithmetic(build: Build, vectors: dict[str, np.ndarray], plus: str | None, minus: str | None) -> None:
    def term(name: str | None) -> Any:
        return 0 if name is None else vectors[name] if name in vectors else words(name)

    expected = small.unit(vectors["flickr:2-0"] + 1.5 * (term(plus) - term(minus)))
    query = Query(image="flickr:2-0", plus=plus, minus=minus, scale=1.5)
    named = tuple(name for name in ("flickr:2-0", plus) if name in vectors)
    answer = search.search(build, query, Embedder)
    assert [hit.photo_id for hit in answer.hits] == nearest(expected, vectors, 6, named)
    assert answer.hits[0].score == pytest.approx(float(expected @ vectors[answer.hits[0].photo_id]), abs=1e-5)


def test_arithmetic_upon_words(build: Build, vectors: dict[str, np.ndarray]) -> None:
    expected = small.unit(words("a boat") + words("blue") - words("red"))
    assert found(build, Query("a boat", plus="blue", minus="red")) == nearest(expected, vectors, 6)
    with pytest.raises(UserError, match="cancel each other out"):
        search.search(build, Query("a boat", minus="a boat"), Embedder)


def test_a_picture_from_a_file(build: Build, vectors: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "green.jpg"
    path.write_bytes(small.jpeg((0, 255, 0)))
    expected = Embedder().embed_images(np.full((1, 3, 1, 1), 0) + np.array([0, 255, 1])[None, :, None, None])[0]
    answer = search.search(build, Query(image=str(path)), Embedder)
    assert [hit.photo_id for hit in answer.hits] == nearest(expected, vectors, 6)
    assert answer.pictures[0].data == path.read_bytes()
    with pytest.raises(UserError, match=r"no photo of the archive, and no file"):
        search.search(build, Query(image=str(tmp_path / "missing.jpg")), Embedder)
    path.write_text("<html>")
    with pytest.raises(UserError, match=r"green.jpg is not a usable picture \(not_an_image"):
        search.search(build, Query(image=str(path)), Embedder)


@pytest.fixture
def web() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/red.jpg" else 404)
            self.end_headers()
            self.wfile.write(small.jpeg((255, 0, 0)))

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_picture_from_the_web(
    build: Build, vectors: dict[str, np.ndarray], web: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Embedder().embed_images(np.array([254, 0, 0])[None, :, None, None])[0]
    assert found(build, Query(image=f"{web}/red.jpg")) == nearest(expected, vectors, 6)
    with pytest.raises(UserError, match=r"cannot get the picture .*404"):
        search.search(build, Query(image=f"{web}/gone.jpg"), Embedder)
    monkeypatch.setattr(search.vectors, "MAX_PICTURE_BYTES", 100)
    with pytest.raises(UserError, match="larger than"):
        search.search(build, Query(image=f"{web}/red.jpg"), Embedder)
    with pytest.raises(UserError, match="cannot get the picture"):
        search.search(build, Query(image="http://127.0.0.1:1/x.jpg"), Embedder)


@pytest.mark.parametrize(
    ("where", "keep"),
    [
        ("photo_id LIKE 'flickr:1-%'", lambda photo_id: photo_id.startswith("flickr:1-")),
        ("title = 'title of flickr:0-4' -- and a comment", lambda photo_id: photo_id == "flickr:0-4"),
        ("list_contains(tags, 'a tag') AND date_taken < '1911'", lambda photo_id: True),
        ("row_id IN (SELECT row_id FROM photos WHERE photo_id LIKE '%-3')", lambda photo_id: photo_id.endswith("-3")),
        ("license_id = '4'", lambda photo_id: False),
    ],
)
def test_where_filters_first(
    build: Build, vectors: dict[str, np.ndarray], where: str, keep: Callable[[str], bool]
) -> None:
    kept = {photo_id: vector for photo_id, vector in vectors.items() if keep(photo_id)}
    assert found(build, Query("a boat", where=where, k=9)) == nearest(words("a boat"), kept, 9)


SECRET = pa.table({"row_id": [0]})


@pytest.mark.parametrize(
    "where",
    [
        "nonsense = 1",
        "",
        "title = 'open",
        "true) --",
        "true) UNION ALL SELECT 5 --",
        "true; DROP VIEW photos",
        "true); COPY (SELECT 1) TO '{tmp}/out.csv' --",
        "true; ATTACH '{tmp}/other.db' AS other",
        "true; SET enable_external_access = true",
        "EXISTS (FROM read_csv('{tmp}/secret.csv'))",
        "EXISTS (FROM read_text('{tmp}/secret.csv'))",
        "EXISTS (FROM glob('{tmp}/*'))",
        "EXISTS (FROM '{tmp}/secret.csv')",
        "EXISTS (FROM read_parquet('http://127.0.0.1:1/x.parquet'))",
        "EXISTS (FROM sniff_csv('{tmp}/secret.csv'))",
        "EXISTS (FROM SECRET)",  # a variable of this module
        "getenv('HOME') = ''",
        "EXISTS (PRAGMA database_list)",
        "EXISTS (FROM query('COPY photos TO ''{tmp}/out.csv'''))",
        "true ORDER BY 1",
        "true, true",
        "*",
    ],
)
def test_a_bad_where_is_one_line_and_reaches_nothing(build: Build, tmp_path: Path, where: str) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with pytest.raises(UserError, match="cannot use --where") as caught:
        search.search(build, Query("a boat", where=where.replace("{tmp}", str(tmp_path))), Embedder)
    assert "\n" not in str(caught.value)
    assert "photo_id" in str(caught.value)  # the columns, to hand
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]
    assert found(build, Query("a boat"))


def test_the_database_is_locked(build: Build) -> None:
    with pytest.raises(duckdb.Error, match="locked"):
        build.database.cursor().execute("SET enable_external_access = true")


def test_what_makes_no_sense_is_said(build: Build) -> None:
    for query in (Query(), Query(""), Query("  "), Query("a boat", image="flickr:0-0"), Query(plus="blue")):
        with pytest.raises(UserError, match="either words or a picture"):
            search.search(build, query, Embedder)
    with pytest.raises(UserError, match="at least one hit"):
        search.search(build, Query("a boat", k=0), Embedder)


def test_many_queries_load_the_model_once(build: Build) -> None:
    loads = []

    def load() -> Embedder:
        loads.append(1)
        return Embedder()

    queries = [Query("a boat"), Query(image="flickr:0-0"), Query("a train", plus="blue")]
    answers = search.search_many(build, queries, load)
    assert len(loads) == 1
    assert [answer.query for answer in answers] == queries
    assert [[hit.photo_id for hit in answer.hits] for answer in answers] == [found(build, query) for query in queries]


def test_another_model_is_refused(build: Build) -> None:
    class Other(Embedder):
        def identity(self) -> dict[str, Any]:
            return small.IDENTITY | {"checkpoint_sha256": "cd" * 32}

    with pytest.raises(UserError, match="differ in checkpoint_sha256"):
        search.search(build, Query("a boat"), Other)


def test_forgotten_photos_are_in_no_answer_from_that_moment(tmp_path: Path) -> None:
    archive, _ = small.make(str(tmp_path / "archive"), parts=1)
    index.build(archive, IndexSettings(of="tiny"))
    build = builds.open_build(archive.url)
    first, second, *_ = found(build, Query("a boat"))
    small.forget(archive, first)
    assert first not in found(build, Query("a boat", k=100))
    assert found(build, Query("a boat", where="true"))[0] == second
    with pytest.raises(UserError, match="no photo of the archive"):
        search.search(build, Query(image=first), Embedder)


def test_a_photo_without_a_vector_cannot_be_searched_by(tmp_path: Path) -> None:
    archive = Archive.create(str(tmp_path / "archive"))
    small.add_pictures(archive, 0, [small.photo("flickr:1"), small.photo("flickr:2")])
    small.add_vectors(archive, 0, [small.random_vectors(1)[0], None])
    index.build(archive, IndexSettings(of="tiny"))
    build = builds.open_build(archive.url)
    with pytest.raises(UserError, match="flickr:2 has no vector"):
        search.search(build, Query(image="flickr:2"), no_model)
    assert found(build, Query("a boat")) == ["flickr:1"]
    assert found(build, Query(image="flickr:1"), no_model) == []


def test_open_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no archive"):
        builds.open_build(str(tmp_path / "nothing"))
    archive, _ = small.make(str(tmp_path / "archive"), parts=1)
    with pytest.raises(UserError, match="no index yet; `tintype index CONF`"):
        builds.open_build(archive.url)
    card, _ = index.build(archive, IndexSettings(of="tiny"))
    with pytest.raises(UserError, match="no index of other yet"):
        builds.open_build(archive.url, "other")
    small.add_vectors(archive, 0, list(small.random_vectors(20)), "second")
    index.build(archive, IndexSettings(of="second"))
    with pytest.raises(UserError, match="indexes of second, tiny"):
        builds.open_build(archive.url)
    assert builds.open_build(archive.url, "second").card["of"] == "second"
    path = storage.local_path(builds.folder(archive, "tiny", card["build"])) / "index.faiss"
    whole = path.read_bytes()
    for damage in (whole[:-1], whole[1:] + b"x", None):
        path.unlink()
        if damage is not None:
            path.write_bytes(damage)
        with pytest.raises(UserError, match="is damaged"):
            builds.open_build(archive.url, "tiny").nearest(np.zeros((1, small.DIM), np.float32), 1)


def test_readers_keep_their_build_while_current_moves_on(tmp_path: Path) -> None:
    archive, _ = small.make(str(tmp_path / "archive"), parts=1)
    index.build(archive, IndexSettings(of="tiny"))
    old = builds.open_build(archive.url)
    before = found(old, Query("a boat", k=30))
    small.add_pictures(archive, 1, [small.photo("flickr:new")])
    small.add_vectors(archive, 1, [words("a boat").astype(np.float16)])
    index.build(archive, IndexSettings(of="tiny"))
    assert found(old, Query("a boat", k=30)) == before
    assert found(builds.open_build(archive.url), Query("a boat"))[0] == "flickr:new"


def test_a_remote_build_is_read_from_the_cache(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    archive, made = small.make(place, parts=1)
    index.build(archive, IndexSettings(of="tiny"))
    vectors = {photo_id: small.unit(vector) for photo_id, vector in made.items()}
    for _ in range(2):
        build = builds.open_build(place)
        assert found(build, Query("a boat", where="photo_id <> 'x'")) == nearest(words("a boat"), vectors, 6)
    copies = sorted(path.name for path in (tmp_path / "cache").rglob("[!.]*") if path.is_file())  # but for locks
    assert copies == ([] if storage.is_local(place) else ["index.faiss", "photos.parquet", "words.sqlite"])


def test_a_path_with_a_quote(tmp_path: Path) -> None:
    archive, _ = small.make(str(tmp_path / "it's an archive"), parts=1)
    index.build(archive, IndexSettings(of="tiny"))
    assert len(found(builds.open_build(archive.url), Query("a boat", where="true"))) == 6


def test_json_is_the_documented_contract(build: Build) -> None:
    answer = search.search(build, Query("a boat", k=2, where="true"), Embedder)
    told = json.loads(json.dumps(search.hits_json([build], answer)))
    assert told.keys() == {"query", "index", "hits"}
    assert told["query"] == {"text": "a boat", "where": "true", "scale": 1.0, "k": 2, "mode": "vector"}
    assert told["index"]["build"] == build.card["build"]
    first = told["hits"][0]
    assert list(first) == [
        *("rank", "score", "photo_id", "row_id", "title", "caption", "caption_by", "labels", "objects", "date_taken"),
        *("license", "owner", "page_url", "width", "height"),
    ]
    assert first["license"] == {
        "id": "7",
        "name": "No known copyright restrictions",
        "url": "https://www.flickr.com/commons/usage/",
    }
    assert [hit["rank"] for hit in told["hits"]] == [1, 2]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (Query("a boat"), "“a boat”"),
        (Query("a boat", plus="blue", minus="red", scale=1.5), "“a boat” + 1.5 × (“blue” − “red”)"),
        (Query(image="flickr:0-1", minus="red"), "flickr:0-1 − “red”"),
        (Query("a boat", plus="flickr:0-1", scale=0.5), "“a boat” + 0.5 × flickr:0-1"),
    ],
)
def test_in_words(build: Build, query: Query, said: str) -> None:
    assert search.in_words(search.search(build, query, Embedder)) == said


def test_no_file_of_the_build_is_written_by_a_search(made: tuple[Archive, Any], build: Build) -> None:
    folder = storage.local_path(builds.folder(made[0], "tiny", build.card["build"]))
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    found(build, Query("a boat", where="true"))
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
