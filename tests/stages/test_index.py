"""The index stage, on local disk and on S3: what a build holds, when it is made, and what it is made of."""

import io
import json
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from pipeline import builds, contact_sheet, indexes, search, storage
from pipeline.archive import Archive
from pipeline.indexes import making
from pipeline.photo import UserError
from pipeline.search import Query
from pipeline.stages import index
from pipeline.stages.index import IndexSettings
from tests import small_archive as small

SETTINGS = IndexSettings(of="tiny")


def rows_of(archive: Archive, card: dict) -> list[dict]:
    data = storage.read(storage.join(builds.folder(archive, card["of"], card["build"]), "photos.parquet"))
    return pq.read_table(io.BytesIO(data)).to_pylist()


def ids_of(archive: Archive, card: dict) -> set[str]:
    return {row["photo_id"] for row in rows_of(archive, card)}


def test_a_build_holds_index_photos_and_card(place: str) -> None:
    archive, _ = small.make(place)
    card, fresh = index.build(archive, SETTINGS)
    assert fresh
    assert builds.current(archive, "tiny") == card
    folder = builds.folder(archive, "tiny", card["build"])
    names = ["card.json", "index.faiss", "photos.parquet", "truth.parquet", "words.sqlite"]
    assert storage.names(folder) == names
    assert json.loads(storage.read(storage.join(folder, "card.json"))) == card
    assert (card["rows"], card["photos"], card["dim"], card["kind"]) == (60, 60, small.DIM, "flat")
    assert card["recall"]["rows"] == {"recall@1": 1.0, "recall@10": 1.0, "recall@100": 1.0, "queries": 60}
    assert card["identity"] == small.IDENTITY
    assert card["captions"] == {"table": "tiny", "identity": {"model": "test-captioner"}}
    assert {len(card["parts"][name]) for name in ("images", "embeddings/tiny", "captions/tiny")} == {3}
    assert card["parts"]["embeddings/tiny"]["1"] == archive.table("embeddings/tiny").receipt(1)["write_id"]
    for name, size in card["bytes"].items():
        assert len(storage.read(storage.join(folder, name))) == size


def test_photos_carry_facts_rights_and_captions(tmp_path: Path) -> None:
    archive, _ = small.make(str(tmp_path / "archive"), parts=2)
    small.change(archive, "flickr:1-3", "title", '"a better title"')
    card, _ = index.build(archive, SETTINGS)
    row = next(row for row in rows_of(archive, card) if row["photo_id"] == "flickr:1-3")
    assert row["row_id"] == (1 << 20) + 3
    assert row["title"] == "a better title"
    assert row["caption"] == "caption of flickr:1-3"
    assert (row["caption_model"], row["caption_logprob"], row["caption_cosine"]) == ("test-captioner", -1.5, 0.25)
    assert row["license_url"] == "https://www.flickr.com/commons/usage/"
    assert (row["width"], row["height"], row["source_url"]) == (120, 80, "https://host/1048579.jpg")
    assert not {"raw", "sizes", "image"} & row.keys()


def test_nothing_changed_builds_nothing(place: str) -> None:
    archive, _ = small.make(place, parts=1)
    card, _ = index.build(archive, SETTINGS)
    assert index.build(archive, SETTINGS) == (card, False)
    assert index.is_fresh(archive, card)
    assert storage.names(builds.folder(archive, "tiny")) == [card["build"], "CURRENT"]

    small.change(archive, "flickr:0-0", "title", '"edited"')
    assert not index.is_fresh(archive, card)
    edited, fresh = index.build(archive, SETTINGS)
    assert fresh
    assert edited["build"] > card["build"]

    small.forget(archive, "flickr:0-1")
    forgotten, fresh = index.build(archive, SETTINGS)
    assert fresh
    assert ids_of(archive, edited) - ids_of(archive, forgotten) == {"flickr:0-1"}

    small.add_pictures(archive, 1, [small.photo("flickr:new")])
    small.add_vectors(archive, 1, [small.random_vectors(1)[0]])
    grown, fresh = index.build(archive, SETTINGS)
    assert fresh
    assert ids_of(archive, grown) - ids_of(archive, forgotten) == {"flickr:new"}
    assert builds.current(archive, "tiny") == grown


def test_only_live_rows_with_a_vector_are_indexed(tmp_path: Path) -> None:
    archive = Archive.create(str(tmp_path / "archive"))
    photos = [small.photo(f"flickr:{name}") for name in ("kept", "failed", "replaced", "gone", "no_vector")]
    small.add_pictures(archive, 0, photos, {"flickr:failed": "failed"})
    vectors = small.random_vectors(5)
    small.add_vectors(archive, 0, [*vectors[:4], None])
    small.add_pictures(archive, 1, [small.photo("flickr:replaced")])
    small.add_vectors(archive, 1, [vectors[4]])
    small.add_pictures(archive, 2, [small.photo("flickr:not_yet")])
    small.change(archive, "flickr:gone", "visible", "false")
    card, _ = index.build(archive, SETTINGS)
    assert ids_of(archive, card) == {"flickr:kept", "flickr:replaced", "flickr:no_vector"}
    assert (card["photos"], card["rows"], card["problems"], card["not_annotated"]) == (3, 2, {"non_finite": 1}, 1)
    assert card["captions"] is None
    assert {row["caption"] for row in rows_of(archive, card)} == {None}
    built = indexes.open_index(storage.local_path(builds.folder(archive, "tiny", card["build"])), "flat")
    _, found = indexes.search(built, small.unit(vectors[:1]), 10)
    assert set(found[0]) - {-1} == {0, 1 << 20}
    assert indexes.vector(built, 1 << 20) == pytest.approx(small.unit(vectors[4]))


def test_captions_may_lag_behind(tmp_path: Path) -> None:
    archive, _ = small.make(str(tmp_path / "archive"), parts=1)
    small.add_pictures(archive, 1, [small.photo("flickr:new")])
    small.add_vectors(archive, 1, [small.random_vectors(1)[0]])
    card, _ = index.build(archive, SETTINGS)
    captions = {row["photo_id"]: row["caption"] for row in rows_of(archive, card)}
    assert captions["flickr:new"] is None
    assert captions["flickr:0-3"] == "caption of flickr:0-3"
    small.add_captions(archive, 1)
    card, fresh = index.build(archive, SETTINGS)
    assert fresh
    assert {row["photo_id"]: row["caption"] for row in rows_of(archive, card)}["flickr:new"] == "caption of flickr:new"


def test_objects_are_told_and_asked(tmp_path: Path) -> None:
    archive, _ = small.make(str(tmp_path / "archive"), parts=2)
    before, _ = index.build(archive, SETTINGS)
    assert before["objects"] is None and {row["objects"] for row in rows_of(archive, before)} == {None}
    with pytest.raises(UserError, match=r"this index has no objects, no bicycle \(columns: "):
        builds.open_build(archive.url).matching("has('bicycle')")
    small.add_objects(archive, 0)
    card, fresh = index.build(archive, SETTINGS)
    assert fresh and card["objects"] == {"table": "tiny", "identity": archive.table("objects/tiny").identity()}
    build = builds.open_build(archive.url)
    kept = {
        "has('bicycle')": 10,
        "NOT has('bicycle')": 10,
        "has('bicycle', 0.75) AND width > height": 10,
        "has('bicycle', 0.76)": 0,
        "has('bicycle') AND NOT has('horse-drawn carriage')": 5,
        "has('<b>')": 0,
        "list_contains([x.label FOR x IN objects], 'bicycle')": 10,
        "len(objects) > 1": 5,
        "len([x FOR x IN objects IF x.label = 'bicycle']) >= 2": 0,
        "list_bool_or([x.label = 'bicycle' AND x.x1 <= 0.5 FOR x IN objects])": 10,
        "objects IS NULL": 20,
    }
    assert {where: len(build.matching(where)) for where in kept} == kept
    for wrong in ("has('dog')", "has('it''s')"):
        with pytest.raises(UserError, match="of this index are bicycle, horse-drawn carriage, <b>, none is"):
            build.matching(wrong)


def test_labels_are_told_asked_and_may_lag_behind(tmp_path: Path) -> None:
    archive, _ = small.make(str(tmp_path / "archive"), parts=2)
    before, _ = index.build(archive, SETTINGS)
    assert before["labels"] is None and {row["labels"] for row in rows_of(archive, before)} == {None}
    small.add_labels(archive, 0)
    card, fresh = index.build(archive, SETTINGS, update=True)
    assert fresh and card["labels"]["table"] == "tiny" and card["labels"]["identity"]["classes"] == small.CLASSES
    told = {row["photo_id"]: (row["labels"], row["labels_model"]) for row in rows_of(archive, card)}
    tent, hill = {"label": "tent", "probability": 0.75}, {"label": "hill", "probability": 0.125}
    assert told["flickr:0-1"] == ([tent, hill], "test-labeller") and told["flickr:1-1"] == (None, None)

    build = builds.open_build(archive.url)
    for where, number in {
        "labels[1].label = 'tent'": 7,
        "labels[1].label = 'tent' AND labels[1].probability > 0.8": 0,
        "list_contains([x.label FOR x IN labels], 'hill')": 13,
        "labels IS NULL": 20,
    }.items():
        assert len(build.matching(where)) == number, where
    answer = search.search(build, Query(image="flickr:1-1", k=1, where="labels[1].label = 'tent'"), load=pytest.fail)
    [hit] = search.hits_json([build], answer)["hits"]
    assert hit["labels"] == [tent, hill]
    page = contact_sheet.render([build], [answer])
    assert "tent (75%), labelled by a machine" in page and "Labels were given by a machine" in page

    small.add_labels(archive, 1)
    assert not index.is_fresh(archive, card)
    small.add_labels(archive, 0, "other")
    with pytest.raises(UserError, match=r"other, tiny: choose with --set index\.labels"):
        index.build(archive, SETTINGS)
    card, _ = index.build(archive, IndexSettings(of="tiny", labels="tiny"))
    assert all(row["labels"] for row in rows_of(archive, card)) and index.is_fresh(archive, card)


def test_a_build_cut_short_is_never_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, _ = small.make(str(tmp_path / "archive"), parts=1)
    card, _ = index.build(archive, SETTINGS)
    small.forget(archive, "flickr:0-1")

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(making, "write", die)
        index.build(archive, SETTINGS)
    assert builds.current(archive, "tiny") == card
    again, fresh = index.build(archive, SETTINGS)
    assert fresh
    assert builds.current(archive, "tiny") == again


def test_what_cannot_be_indexed_is_said_in_one_line(tmp_path: Path) -> None:
    archive = Archive.create(str(tmp_path / "archive"))
    small.add_pictures(archive, 0, [small.photo("flickr:1")])
    with pytest.raises(UserError, match="no embeddings 'tiny' yet; `tintype annotate"):
        index.build(archive, SETTINGS)
    with pytest.raises(UserError, match="no embeddings yet; `tintype annotate"):
        index.build(archive, IndexSettings())
    small.add_vectors(archive, 0, [None])
    with pytest.raises(UserError, match="none of the 1 live photos has a vector"):
        index.build(archive, SETTINGS)
    assert builds.current(archive, "tiny") is None
    small.add_captions(archive, 0, "one")
    small.add_captions(archive, 0, "two")
    with pytest.raises(UserError, match=r"one, two: choose with --set index\.captions"):
        index.build(archive, SETTINGS)
    with pytest.raises(UserError, match="no captions 'three'"):
        index.build(archive, IndexSettings(of="tiny", captions="three"))


def test_a_single_photo_has_no_recall_to_measure(tmp_path: Path) -> None:
    archive, _ = small.make(str(tmp_path / "archive"), parts=1, rows=1)
    card, _ = index.build(archive, IndexSettings())
    assert (card["recall"]["rows"], card["recall"]["texts"], card["recall"]["passed"]) == (None, None, True)


def test_duckdb_reads_the_photos_of_a_build(tmp_path: Path) -> None:
    archive, _ = small.make(str(tmp_path / "archive"))
    card, _ = index.build(archive, SETTINGS)
    path = f"{builds.folder(archive, 'tiny', card['build'])}/photos.parquet"
    assert duckdb.sql(f"SELECT count(DISTINCT row_id) FROM '{path}' WHERE caption LIKE '%:2-%'").fetchall() == [(20,)]
