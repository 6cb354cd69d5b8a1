"""Words beside vectors: text-only and hybrid searches, several embeddings fused, and what cannot be joined."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import builds, search, terminal
from pipeline.archive import Archive
from pipeline.builds import Build
from pipeline.cli import main
from pipeline.photo import UserError
from pipeline.search import Answer, Query, fusing
from pipeline.search.hits import hits_json
from pipeline.stages import index
from pipeline.stages.index import IndexSettings
from tests import small_archive as small
from tests.test_contact_sheet import Page, contact_sheet
from tests.test_search import Embedder, no_model, shown

NAME = "flickr:0-7"  # the photo whose title names a person


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """200 photos with two embeddings, of which the second lacks the last part."""
    archive = Archive.create(str(tmp_path_factory.mktemp("hybrid") / "archive"))
    for part in range(2):
        photos = [small.photo(f"flickr:{part}-{row}", title=f"A street, no. {part}{row:02}") for row in range(100)]
        if part == 0:
            photos[7]["title"] = "Portrait of Wilhelmina Quackenbush"
        small.add_pictures(archive, part, photos)
        small.add_vectors(archive, part, list(small.random_vectors(100, seed=part)))
        small.add_captions(archive, part)
    small.add_vectors(archive, 0, list(small.random_vectors(100, seed=9)), "second")
    for of in ("tiny", "second"):
        index.build(archive, IndexSettings(of=of))
    return archive


@pytest.fixture(scope="module")
def build(archive: Archive) -> Build:
    return builds.open_build(archive.url, "tiny")


@pytest.fixture(scope="module")
def second(archive: Archive) -> Build:
    return builds.open_build(archive.url, "second")


def ids(answer: Answer) -> list[str]:
    return [hit.photo_id for hit in answer.hits]


def ask(build: Build, query: Query, load: Callable[[], search.Embedder] = Embedder) -> Answer:
    return search.search(build, query, load)


def test_a_name_that_no_picture_shows_is_found_by_words_and_hybrid(build: Build) -> None:
    name = "a photo of wilhelmina quackenbush"
    assert NAME not in ids(ask(build, Query(name)))
    assert ids(ask(build, Query(name, mode="words"), no_model))[0] == NAME
    assert NAME in ids(ask(build, Query(name, mode="hybrid")))


def test_hybrid_is_the_fusion_of_both_rankings(build: Build) -> None:
    text = "no 100 101 102 103 104 quackenbush"
    seen = ids(ask(build, Query(text, k=100)))
    said = ids(ask(build, Query(text, k=100, mode="words"), no_model))
    assert 2 <= len(said) <= 100 and set(said) - set(seen)
    scores: dict[str, float] = {}
    for ranking in (seen, said):
        for rank, photo_id in enumerate(ranking, 1):
            scores[photo_id] = scores.get(photo_id, 0) + 1 / (60 + rank)
    answer = ask(build, Query(text, mode="hybrid", k=10))
    assert [hit.score for hit in answer.hits] == pytest.approx(sorted(scores.values(), reverse=True)[:10])
    for hit in answer.hits:
        assert hit.score == pytest.approx(scores[hit.photo_id])
        for name, ranking in {"tiny": seen, "words": said}.items():
            assert hit.ranks.get(name) == (ranking.index(hit.photo_id) + 1 if hit.photo_id in ranking else None)


def test_fusing_counts_from_one_and_keeps_the_order_of_equals() -> None:
    assert fusing.fused({"a": ["x", "y"], "b": ["z", "x"]}) == [
        ("x", 1 / 61 + 1 / 62, {"a": 1, "b": 2}),
        ("z", 1 / 61, {"b": 1}),
        ("y", 1 / 62, {"a": 2}),
    ]


def test_arithmetic_counts_among_vectors_alone(build: Build) -> None:
    answer = ask(build, Query("quackenbush", plus="street", minus=NAME, mode="hybrid", k=200))
    assert NAME not in ids(answer)  # named by the query, and so no hit of it, for its words neither
    assert {name for hit in answer.hits for name in hit.ranks} == {"tiny"}
    plain = ask(build, Query("quackenbush", plus="street", minus=NAME, k=100))
    assert ids(answer)[:100] == ids(plain)


def test_filters_hold_for_words(build: Build) -> None:
    for mode in ("words", "hybrid"):
        query = Query("street", where="photo_id LIKE 'flickr:1-%'", k=300, mode=mode)  # type: ignore[arg-type]
        assert {photo_id[:9] for photo_id in ids(ask(build, query))} == {"flickr:1-"}
        assert len(ids(ask(build, query))) == 100


def test_forgotten_photos_are_not_found_by_words(tmp_path: Path) -> None:
    archive, _ = small.make(str(tmp_path / "archive"), parts=1)
    index.build(archive, IndexSettings())
    build = builds.open_build(archive.url)
    query = Query("title of flickr 0-4", mode="words", k=50)
    before = ids(ask(build, query, no_model))
    assert "flickr:0-4" in before
    small.forget(archive, "flickr:0-4")
    assert ids(ask(build, query, no_model)) == [photo_id for photo_id in before if photo_id != "flickr:0-4"]


def test_a_photo_without_a_vector_is_found_by_its_words(tmp_path: Path) -> None:
    archive = Archive.create(str(tmp_path / "archive"))
    small.add_pictures(archive, 0, [small.photo("flickr:1"), small.photo("flickr:2", title="a lighthouse")])
    small.add_vectors(archive, 0, [small.random_vectors(1)[0], None])
    index.build(archive, IndexSettings())
    build = builds.open_build(archive.url)
    assert ids(ask(build, Query("lighthouse", mode="words"), no_model)) == ["flickr:2"]
    assert sorted(ids(ask(build, Query("lighthouse", mode="hybrid")))) == ["flickr:1", "flickr:2"]


def test_several_embeddings_are_fused_photo_by_photo(build: Build, second: Build) -> None:
    query = Query("a boat", k=12)
    [answer] = search.answers([build, second], [query], lambda _: Embedder())
    first, other = (ids(ask(one, Query("a boat", k=120))) for one in (build, second))
    expected = fusing.fused({"tiny": first, "second": other})[:12]
    assert [(hit.photo_id, hit.ranks) for hit in answer.hits] == [(photo_id, ranks) for photo_id, _, ranks in expected]
    [same] = search.answers([build], [query], lambda _: Embedder())
    assert same == ask(build, query)
    with pytest.raises(UserError, match=r"the index of second does not hold flickr:1-3"):
        list(search.answers([build, second], [Query(image="flickr:1-3")], lambda _: no_model()))
    [named] = search.answers([second, build], [Query(image=NAME, mode="vector", k=300)], lambda _: no_model())
    assert len(named.hits) == 199 and NAME not in ids(named)


def test_a_photo_with_another_row_in_each_build_is_one_hit(tmp_path: Path) -> None:
    archive = Archive.create(str(tmp_path / "archive"))
    vectors = list(small.random_vectors(3))
    for name in ("new", "old"):
        small.add_pictures(archive, 0, [small.photo(f"flickr:{row}") for row in range(3)]) if name == "new" else None
        small.add_vectors(archive, 0, vectors, name)
    index.build(archive, IndexSettings(of="old"))
    small.add_pictures(archive, 1, [small.photo("flickr:1", title="a better scan", attempt=2)])
    small.add_vectors(archive, 1, vectors[1:2], "new")
    index.build(archive, IndexSettings(of="new"))
    both = [builds.open_build(archive.url, of) for of in ("old", "new")]
    for order, title in ((both, "title of flickr:1"), (both[::-1], "a better scan")):
        [answer] = search.answers(order, [Query("a boat")], lambda _: Embedder())
        assert sorted(ids(answer)) == ["flickr:0", "flickr:1", "flickr:2"]
        [hit] = [hit for hit in answer.hits if hit.photo_id == "flickr:1"]
        assert (hit.title, len(hit.ranks)) == (title, 2)


def test_what_cannot_be_joined_is_said(build: Build) -> None:
    for query, said in [
        (Query(image=NAME, mode="hybrid"), "a picture has none"),
        (Query(image=NAME, mode="words"), "a picture has none"),
        (Query("a boat", plus="blue", mode="words"), "--text-only leaves out"),
        (Query("", mode="words"), "either words or a picture"),
    ]:
        with pytest.raises(UserError, match=said):
            ask(build, query, no_model)


def test_words_that_nothing_holds(build: Build) -> None:
    assert ids(ask(build, Query("⛵ xyzzy", mode="words"), no_model)) == []
    assert ids(ask(build, Query("⛵", mode="hybrid"))) == ids(ask(build, Query("⛵")))


def test_a_damaged_file_of_words_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive, _ = small.make(str(tmp_path / "archive"), parts=1)
    index.build(archive, IndexSettings())
    path = builds.open_build(archive.url).folders[0] / "words.sqlite"
    path.write_bytes(bytes(path.stat().st_size))
    assert main(["search", archive.url, "a boat", "--text-only"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "is damaged; delete that folder and run `tintype index CONF`" in line


def test_every_score_is_named(build: Build) -> None:
    def printed(answer: Answer) -> str:
        return shown(terminal.hits(answer))

    for query, name in [
        (Query("street"), "cosine with the query"),
        (Query("street", mode="words"), "BM25"),
        (Query("street quackenbush", mode="hybrid"), "reciprocal rank fusion"),
    ]:
        answer = ask(build, query)
        assert f"by {name}" in printed(answer)
        page = Page(contact_sheet.render([build], [answer]))
        assert {span["title"] for span in page.all("span") if span.get("title")} == {name}
        told = json.loads(json.dumps(hits_json([build], answer)))
        assert told["query"]["mode"] == query.mode
        assert all(("ranks" in hit) == (query.mode == "hybrid") for hit in told["hits"])
    assert "words 1" in printed(answer)
    assert "1 / (60 + rank)" in page.text


def test_the_command_line(archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*arguments: str) -> Any:
        assert main(["search", archive.url, *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    assert told("quackenbush", "--text-only", "--of", "tiny")["hits"][0]["photo_id"] == NAME
    both = told("--image", NAME, "--of", "second", "--of", "tiny", "-k", "3")
    assert [one["of"] for one in both["indexes"]] == ["second", "tiny"] and both["index"] == both["indexes"][0]
    assert all(hit["ranks"].keys() <= {"second", "tiny"} for hit in both["hits"])
    for wrong, said in [
        (["a", "--hybrid", "--text-only"], "either --hybrid"),
        (["--image", NAME, "--hybrid"], "a picture has none"),
        (["a", "--text-only", "-k", "0"], "at least one hit"),
    ]:
        assert main(["search", archive.url, "--of", "tiny", *wrong]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert said in line


def test_text_only_loads_no_model(archive: Archive) -> None:
    code = (
        "import sys; from pipeline.cli import main;"
        f"assert main(['search', {archive.url!r}, 'quackenbush', '--text-only', '--of', 'tiny']) == 0;"
        "assert not {'torch', 'open_clip'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)


def test_more_hits_than_there_are_and_filters_that_keep_nothing(
    archive: Archive, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", archive.url, "--of", "tiny", "--image", NAME, "-k", "100000", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["hits"]) == 199
    for asked in (["street", "--text-only"], ["--image", NAME]):
        assert main(["search", archive.url, "--of", "tiny", *asked, "--where", "title = 'x'", "--json"]) == 0
        captured = capsys.readouterr()
        assert json.loads(captured.out)["hits"] == []
        assert captured.err == "tintype: --where \"title = 'x'\" keeps none of 200 photos\n"
