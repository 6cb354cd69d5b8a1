"""Exports, read back by the programs that they are for."""

import os
from pathlib import Path
from typing import Any

import datasets
import duckdb
import faiss
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

from pipeline import builds, export
from pipeline.archive import Archive
from pipeline.photo import UserError
from pipeline.stages import index
from pipeline.stages.index import IndexSettings
from tests import small_archive

COMMONS = "https://www.flickr.com/commons/usage/"
# Four photos a part: free, free, all rights reserved, of unknown licence.
LICENCES = [
    ("7", "No known copyright restrictions", COMMONS),
    ("4", "CC BY 2.0", "https://creativecommons.org/licenses/by/2.0/"),
    ("0", "All Rights Reserved", None),
    (None, "In Copyright", "http://rightsstatements.org/vocab/InC/1.0/"),
]
FREE = {f"flickr:{part}-{row}" for part in range(3) for row in range(2)}


def rights(row: int) -> dict[str, Any]:
    return dict(zip(("license_id", "license_name", "license_url"), LICENCES[row], strict=True))


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    archive = Archive.create(str(tmp_path / "archive"))
    for part in range(3):
        photos = [small_archive.photo(f"flickr:{part}-{row}", **rights(row)) for row in range(4)]
        small_archive.add_pictures(archive, part, photos)
        small_archive.add_vectors(archive, part, list(small_archive.random_vectors(4, seed=part)))
        small_archive.add_captions(archive, part)
        small_archive.add_labels(archive, part)
        small_archive.add_objects(archive, part)
    index.build(archive, IndexSettings())
    return archive


def exported(archive: Archive, kind: str, out: Path, **how: Any) -> dict[str, Any]:
    return export.export(builds.open_build(archive.url), kind, str(out), **how)


def ids(folder: Path) -> set[str]:
    return {i for path in folder.glob("*.parquet") for i in pq.read_table(path)["photo_id"].to_pylist()}


def written_at(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_hugging_face_datasets_open_it_and_see_pictures(archive: Archive, tmp_path: Path) -> None:
    said = exported(archive, "huggingface", tmp_path / "out")
    assert said["photos"] == 6 and said["left_out"] == {"rights reserved or unknown": 6}
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert set(rows["photo_id"]) == FREE
    first = rows[0]
    assert first["image"].size == (120, 80)
    assert first["caption"] == f"caption of {first['photo_id']}"
    assert first["labels"][0] == {"label": "boat", "probability": 0.75} and first["labels_model"] == "test-labeller"
    assert first["objects"][0]["label"] == "bicycle" and first["objects_model"] == "test-detector"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "It looked for: bicycle, horse-drawn carriage" in card
    assert "3 classes by the texts “a {}”" in card and "The classes: boat, tent, hill" in card
    stored = archive.table("images").read_rows([first["row_id"]], ["row_id", "image"])["image"][0].as_py()["bytes"]
    plain = rows.cast_column("image", datasets.Image(decode=False))[0]["image"]["bytes"]
    assert plain == stored
    assert np.linalg.norm(first["embedding"]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("kind", ["wide", "huggingface"])
def test_other_programs_read_it_too(archive: Archive, tmp_path: Path, kind: str) -> None:
    exported(archive, kind, tmp_path / "out")
    files = str(tmp_path / "out" / "data" / "*.parquet")
    found = duckdb.execute(f"SELECT photo_id, license_name, len(embedding) FROM '{files}' ORDER BY row_id").fetchall()
    assert found[0] == ("flickr:0-0", "No known copyright restrictions", small_archive.DIM)
    assert {row[0] for row in found} == set(pl.read_parquet(files)["photo_id"]) == FREE
    columns = pq.read_schema(tmp_path / "out" / "data" / "part-000000.parquet").names
    assert ("image" in columns) == (kind == "huggingface")
    assert set(pd.read_parquet(tmp_path / "out" / "data")["photo_id"]) == FREE


def test_clip_retrieval_finds_vectors_metadata_and_index_in_one_order(archive: Archive, tmp_path: Path) -> None:
    exported(archive, "clip-retrieval", tmp_path)
    vectors = np.concatenate([np.load(path) for path in sorted((tmp_path / "img_emb").iterdir())])
    metadata = pd.concat([pd.read_parquet(path) for path in sorted((tmp_path / "metadata").iterdir())])
    found = faiss.read_index(str(tmp_path / "image.index"))
    assert found.ntotal == len(vectors) == len(metadata) == 6
    assert set(metadata["photo_id"]) == FREE
    _, places = found.search(vectors.astype(np.float32), 1)
    assert places[:, 0].tolist() == list(range(6))
    for place, row_id in enumerate(metadata["row_id"]):
        stored = archive.table("embeddings/tiny").read_rows([row_id], ["row_id", "embedding"])["embedding"][0].as_py()
        assert np.array_equal(vectors[place], np.array(stored, np.float16))


def test_a_photo_without_a_vector_is_in_no_clip_retrieval_export(tmp_path: Path) -> None:
    archive = Archive.create(str(tmp_path / "archive"))
    small_archive.add_pictures(archive, 0, [small_archive.photo("flickr:1"), small_archive.photo("flickr:2")])
    small_archive.add_vectors(archive, 0, [None, small_archive.random_vectors(1)[0]])
    small_archive.add_pictures(archive, 1, [small_archive.photo("flickr:3")])
    small_archive.add_vectors(archive, 1, [None])
    index.build(archive, IndexSettings())
    exported(archive, "clip-retrieval", tmp_path / "out")
    assert ids(tmp_path / "out" / "metadata") == {"flickr:2"}
    exported(archive, "wide", tmp_path / "wide")
    assert ids(tmp_path / "wide" / "data") == {"flickr:1", "flickr:2", "flickr:3"}


@pytest.mark.parametrize("kind", export.KINDS)
def test_what_did_not_change_is_not_written_again(archive: Archive, tmp_path: Path, kind: str) -> None:
    data = tmp_path / {"clip-retrieval": "metadata"}.get(kind, "data")
    exported(archive, kind, tmp_path)
    before = written_at(data)
    assert exported(archive, kind, tmp_path)["parts"] == {"written": 0, "kept": 3}
    small_archive.add_pictures(archive, 3, [small_archive.photo("flickr:new", **rights(0))])
    small_archive.add_vectors(archive, 3, list(small_archive.random_vectors(1, seed=9)))
    index.build(archive, IndexSettings())
    assert exported(archive, kind, tmp_path)["parts"] == {"written": 1, "kept": 3}
    assert written_at(data).items() > before.items()


@pytest.mark.parametrize("kind", export.KINDS)
def test_a_forgotten_photo_is_gone_from_the_next_export_and_named(archive: Archive, tmp_path: Path, kind: str) -> None:
    data = tmp_path / {"clip-retrieval": "metadata"}.get(kind, "data")
    exported(archive, kind, tmp_path)
    small_archive.forget(archive, "flickr:1-0")
    said = exported(archive, kind, tmp_path)  # of the same build, which still holds it
    assert said["removed"] == 1 and said["parts"] == {"written": 1, "kept": 2}
    assert ids(data) == FREE - {"flickr:1-0"}
    [removed] = pq.read_table(tmp_path / "removed.parquet").to_pylist()
    assert (removed["photo_id"], removed["reason"]) == ("flickr:1-0", "forgotten")
    assert not any(b"flickr:1-0" in path.read_bytes() for path in data.iterdir())
    if kind == "clip-retrieval":
        assert faiss.read_index(str(tmp_path / "image.index")).ntotal == 5


def test_a_part_that_loses_all_its_photos_is_gone(archive: Archive, tmp_path: Path) -> None:
    exported(archive, "clip-retrieval", tmp_path)
    said = exported(archive, "clip-retrieval", tmp_path, where="photo_id NOT LIKE 'flickr:1-%'")
    assert said["removed"] == 2
    assert ids(tmp_path / "metadata") == {i for i in FREE if not i.startswith("flickr:1-")}
    assert [path.name for path in sorted((tmp_path / "img_emb").iterdir())] == [
        "img_emb_000000.npy",
        "img_emb_000002.npy",
    ]
    assert exported(archive, "clip-retrieval", tmp_path)["parts"] == {"written": 1, "kept": 2}
    assert pq.read_table(tmp_path / "removed.parquet").num_rows == 0  # they are back


def test_only_whoever_asks_gets_what_is_restricted(archive: Archive, tmp_path: Path) -> None:
    said = exported(archive, "wide", tmp_path, where="row_id % 4 > 0", restricted=True)
    assert said["left_out"] == {"not asked for": 3}
    assert {i[-1] for i in ids(tmp_path / "data")} == {"1", "2", "3"}
    with pytest.raises(UserError, match="cannot use --where"):
        exported(archive, "wide", tmp_path, where="nonsense(")


def test_the_card_tells_of_rights_models_and_what_is_missing(archive: Archive, tmp_path: Path) -> None:
    exported(archive, "huggingface", tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert f"| No known copyright restrictions | {COMMONS} | 3 |" in card
    assert "All Rights Reserved" not in card
    assert "Left out: 6 rights reserved or unknown." in card
    assert "written by a machine: test-captioner" in card and "test-model" in card
    assert "| `embedding` |" in card
    assert os.linesep + "configs: " in card


def test_an_export_of_an_object_store(archive: Archive, place: str, tmp_path: Path) -> None:
    out = place.replace("archive", "out")
    build = builds.open_build(archive.url)
    export.export(build, "huggingface", out)
    small_archive.forget(archive, "flickr:0-0")
    assert export.export(build, "huggingface", out)["parts"] == {"written": 1, "kept": 2}
    assert export.export(build, "clip-retrieval", out)["photos"] == 5
