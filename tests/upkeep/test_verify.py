"""verify finds real damage, and what it says mends it."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline import builds, schemas, storage
from pipeline.archive import Archive
from pipeline.cli import main
from pipeline.stages import index
from pipeline.upkeep.verify import verify
from tests import photostream
from tests import small_archive as small
from tests.upkeep.conftest import rewrite, with_row

EMBEDDINGS, CAPTIONS = "embeddings/tiny", "captions/tiny"
ALIGNED = ("photos", "images", EMBEDDINGS, CAPTIONS)
FORGET = "`tintype forget ARCHIVE`"


def problems(archive: Archive) -> list[tuple[str, int | None, str, str]]:
    """(table, part, problem, remedy) of each."""
    return [(found["table"], found["part"], found["problem"], found["remedy"]) for found in verify(archive)["problems"]]


def the_problem(archive: Archive, table: str, part: int | None) -> tuple[str, str]:
    """(problem, remedy) of the only one there is, which is of this table and part."""
    [(where, number, problem, remedy)] = problems(archive)
    assert (where, number) == (table, part)
    return problem, remedy


def path_of(archive: Archive, name: str, part: int) -> Path:
    return Path(archive.table(name).part_url(part))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def carry_out(remedy: str, archive: Archive, conf: str) -> None:
    """Do what a remedy says: delete what it names, then run its commands."""
    wanted = remedy.partition("; or ")[0]
    named = re.findall(r"[\w/]+/part-\d{6}\.parquet", wanted) + re.findall(r"delete the folder (\S+),", wanted)
    assert named or "delete" not in wanted
    for name in named:
        path = Path(archive.url) / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    commands = re.findall(r"`tintype (\w+) CONF`", wanted)
    assert commands
    for command in commands:
        assert main([command, conf]) == 0


def test_nothing_is_wrong_with_what_a_run_made(archive: Archive) -> None:
    before = contents(Path(archive.url))
    said = verify(archive)
    assert said["problems"] == said["notes"] == []
    assert (said["archive"], said["parts"], said["rows"]) == (archive.url, 16, 4 * photostream.PHOTOS)
    assert said["pictures"] == archive.live().num_rows
    assert contents(Path(archive.url)) == before


REMEDIES = {  # of part 1
    "photos": "restore photos/part-000001.parquet from a backup: row ids count on it, so it cannot be made anew",
    "images": "delete images/part-000001.parquet, embeddings/tiny/part-000001.parquet, "
    "captions/tiny/part-000001.parquet, then `tintype fetch CONF` and `tintype annotate CONF`; or restore it from a "
    "backup, if its source may show less than it did",
    EMBEDDINGS: "delete embeddings/tiny/part-000001.parquet, then `tintype annotate CONF`",
    CAPTIONS: "delete captions/tiny/part-000001.parquet, then `tintype annotate CONF`",
}  # fmt: skip


@pytest.mark.parametrize("name", ALIGNED)
def test_a_byte_that_changed(archive: Archive, name: str) -> None:
    path = path_of(archive, name, 1)
    data = bytearray(path.read_bytes())
    column = pq.read_metadata(path).row_group(0).column(1)
    start = column.dictionary_page_offset or column.data_page_offset
    data[start + column.total_compressed_size - 1] ^= 1
    path.write_bytes(data)
    problem, remedy = the_problem(archive, name, 1)
    assert problem.startswith("damaged: ") and "CRC" in problem
    assert remedy == REMEDIES[name]


@pytest.mark.parametrize("name", ALIGNED)
def test_a_part_cut_short(archive: Archive, name: str) -> None:
    path = path_of(archive, name, 1)
    path.write_bytes(path.read_bytes()[:-100])
    problem, remedy = the_problem(archive, name, 1)
    assert problem.startswith("damaged: ")
    assert remedy == REMEDIES[name]


def test_what_cannot_be_reached_is_not_to_be_deleted(archive: Archive) -> None:
    path = path_of(archive, CAPTIONS, 1)
    path.unlink()
    path.symlink_to("/where/nothing/is/mounted")
    problem, remedy = the_problem(archive, CAPTIONS, 1)
    assert problem.startswith("cannot be read: ") and problem.endswith("No such file or directory")
    assert remedy.startswith("see to permissions, disk and network, then verify again; if it is lost, delete ")


@pytest.mark.parametrize("name", ALIGNED)
def test_parts_that_changed_places(archive: Archive, name: str) -> None:
    one, two = path_of(archive, name, 1), path_of(archive, name, 2)
    first = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(first)
    for part, (table, number, problem, remedy) in zip((1, 2), problems(archive), strict=True):
        assert (table, number, problem) == (name, part, f"is part {3 - part} of {name}, by its receipt")
        assert remedy == f"rename it to {name}/part-00000{3 - part}.parquet, whose place it holds"


def test_rows_that_are_missing(archive: Archive) -> None:
    rewrite(archive, EMBEDDINGS, 1, lambda rows: rows.slice(0, 18))
    rewrite(archive, CAPTIONS, 2, lambda rows: rows.slice(0, 19), rows=19)
    found = [(table, part, problem) for table, part, problem, _ in problems(archive)]
    assert found == [
        (EMBEDDINGS, 1, "18 rows, its receipt says 20"),
        (EMBEDDINGS, 1, "18 rows, but 20 photos were asked for"),
        (CAPTIONS, 2, "19 rows, but 20 photos were asked for"),
    ]


def test_rows_of_others(archive: Archive) -> None:
    rewrite(archive, CAPTIONS, 0, lambda rows: rows.set_column(0, schemas.KEY[0], schemas.row_ids(3, rows.num_rows)))
    rewrite(archive, EMBEDDINGS, 0, lambda rows: with_row(rows, 4, photo_id="flickr:other"))
    assert {found[:3] for found in problems(archive)} == {
        (CAPTIONS, 0, "its row ids are not those of this part"),
        (EMBEDDINGS, 0, "its photo ids are not those of photos"),
    }


def test_columns_that_are_missing_or_of_another_type(archive: Archive) -> None:
    rewrite(archive, CAPTIONS, 0, lambda rows: rows.drop_columns(["logprob"]))
    rewrite(archive, "images", 1, lambda rows: rows.set_column(7, "width", rows["width"].cast(pa.int64())))
    told = "missing, or not of the type in docs/tables.md"
    found = {found[:3] for found in problems(archive)}
    assert found == {(CAPTIONS, 0, f"column logprob {told}"), ("images", 1, f"column width {told}")}


def test_a_part_without_a_receipt(archive: Archive) -> None:
    path = path_of(archive, CAPTIONS, 0)
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    problem, remedy = the_problem(archive, CAPTIONS, 0)
    assert problem == "no receipt in its footer, or not a whole one"
    assert remedy == "delete captions/tiny/part-000000.parquet, then `tintype annotate CONF`"


def test_a_part_made_of_another_writing(archive: Archive, conf: str) -> None:
    rewrite(archive, CAPTIONS, 2, source_write_id="another")
    problem, remedy = the_problem(archive, CAPTIONS, 2)
    assert problem == "it was made of another writing of images part 2 than is there"
    carry_out(remedy, archive, conf)
    assert verify(archive)["problems"] == []
    assert [note["note"] for note in verify(archive)["notes"]] == [
        "older than its tables: `tintype index CONF` renews it"
    ]
    assert main(["index", conf]) == 0
    assert verify(archive)["notes"] == []


def test_images_made_of_another_writing_of_photos(archive: Archive) -> None:
    rewrite(archive, "images", 2, source_write_id="another")
    problem, _ = the_problem(archive, "images", 2)
    assert problem == "it was made of another writing of photos part 2 than is there"


def test_damaged_images_are_fetched_anew(archive: Archive, conf: str) -> None:
    path = path_of(archive, "images", 1)
    path.write_bytes(path.read_bytes()[:2000])
    _, remedy = the_problem(archive, "images", 1)
    carry_out(remedy, archive, conf)
    assert main(["index", conf]) == 0
    said = verify(archive)
    assert said["problems"] == said["notes"] == []
    assert (said["parts"], said["rows"]) == (16, 4 * photostream.PHOTOS)


def test_missing_parts_of_photos(archive: Archive) -> None:
    for name in ALIGNED:
        path_of(archive, name, 1).unlink()
    path_of(archive, "photos", 3).unlink()
    found = problems(archive)
    assert [found[:3] for found in found if found[0] == "photos"] == [
        ("photos", 1, "missing"),
        ("photos", 3, "missing, while other tables have it"),
    ]
    assert found[0][3] == REMEDIES["photos"]
    # The index holds rows of them.
    assert [found[2] for found in found if found[0] == "index/tiny"] == [
        "holds rows of part 1, which the archive does not have"
    ]


def test_a_derived_part_without_its_images(archive: Archive) -> None:
    path_of(archive, "images", 1).unlink()
    found = problems(archive)
    assert {found[:3] for found in found} == {
        (name, 1, "there is no part 1 of images, of which it was made") for name in (EMBEDDINGS, CAPTIONS)
    }


# --- pictures ---------------------------------------------------------------------------------------------------------


def with_picture(archive: Archive, row: int, change: Any, **values: Any) -> None:
    """Change the bytes of a picture of part 0, and what its row says."""
    told = archive.table("images").read(0).to_pylist()[row]
    assert told["outcome"] == "fetched"
    data = change(told["image"]["bytes"])
    image = {"bytes": data, "path": told["image"]["path"]}
    values = {key: value(data) if callable(value) else value for key, value in values.items()}
    rewrite(archive, "images", 0, lambda rows: with_row(rows, row, image=image, **values))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_picture_cut_short(archive: Archive) -> None:
    photo_id = archive.table("images").read(0, ["photo_id"])["photo_id"][2].as_py()
    with_picture(archive, 2, lambda data: data[: len(data) // 2])
    hashed = f"1 row: the picture does not have the SHA-256 recorded for it ({photo_id})"
    assert the_problem(archive, "images", 0)[0] == hashed
    with_picture(archive, 2, lambda data: data, source_sha256=sha256)  # cut by whoever recorded it
    problem, remedy = the_problem(archive, "images", 0)
    assert problem == f"1 row: the picture does not decode (truncated) ({photo_id})"
    assert remedy.startswith("delete images/part-000000.parquet, ")


def test_a_picture_of_another_size(archive: Archive) -> None:
    with_picture(archive, 2, lambda data: data, width=1)
    assert "not of the format and size recorded" in the_problem(archive, "images", 0)[0]


def test_a_derivative_has_no_hash_of_its_own(archive: Archive) -> None:
    with_picture(archive, 2, lambda data: data, store="derivative", source_sha256="of the master")
    assert problems(archive) == []


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"outcome": "lost"}, "1 row: outcome 'lost'"),
        ({"outcome": "failed", "reason": "whim"}, "1 row: failed, with reason 'whim'"),
        ({"reason": "corrupt"}, "1 row: fetched, with reason 'corrupt'"),
        ({"outcome": "gone"}, "1 row: gone, with a picture"),
        ({"image": None}, "1 row: fetched, without a picture"),
        ({"width": None}, "1 row: no width or height"),
    ],
)
def test_rows_of_images_that_make_no_sense(archive: Archive, values: dict[str, Any], problem: str) -> None:
    rewrite(archive, "images", 0, lambda rows: with_row(rows, 2, **values))
    assert the_problem(archive, "images", 0)[0].startswith(f"{problem} (")


# --- vectors and captions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda vector: vector * 1.01, "a vector that is not of unit length"),
        (lambda vector: vector * np.nan, "a vector that is not finite"),
        (lambda vector: np.where(vector == vector.max(), np.inf, vector), "a vector that is not finite"),
        (lambda vector: None, "neither embedding nor problem, or both"),
    ],
)
def test_vectors_that_are_none(archive: Archive, change: Any, problem: str) -> None:
    def changed(rows: pa.Table) -> pa.Table:
        vector = change(np.asarray(rows["embedding"][2].values).astype(np.float32))
        return with_row(rows, 2, embedding=None if vector is None else vector.astype(np.float16))

    photo_id = archive.table(EMBEDDINGS).read(1, ["photo_id"])["photo_id"][2].as_py()
    rewrite(archive, EMBEDDINGS, 1, changed)
    found = [found for found in problems(archive) if found[0] == EMBEDDINGS]
    assert found == [(EMBEDDINGS, 1, f"1 row: {problem} ({photo_id})", REMEDIES[EMBEDDINGS])]


def test_captions_that_are_none_or_anothers(archive: Archive) -> None:
    rewrite(archive, CAPTIONS, 1, lambda rows: with_row(rows, 2, problem="undecodable"))
    rewrite(archive, CAPTIONS, 2, lambda rows: rows.set_column(5, "model", pa.array(["another"] * rows.num_rows)))
    (one, two) = problems(archive)
    assert one[2].startswith("1 row: neither caption nor problem, or both (flickr:")
    captioned = archive.table(CAPTIONS).read(2)["caption"].drop_null()
    assert two[2].startswith(f"{len(captioned)} rows: a caption by another model than its table.json names (flickr:")
    assert two[2].endswith(", …)")


def test_mixed_precisions_are_worth_knowing(archive: Archive) -> None:
    rewrite(archive, CAPTIONS, 1, versions={"torch": "1.0"}, device="cuda")
    said = verify(archive)
    assert said["problems"] == []
    [note] = said["notes"]
    assert note["table"] == CAPTIONS
    assert note["note"].startswith("parts differ in device cpu (3 parts), cuda (1 part); torch 1.0 (1 part), ")


def test_a_table_json_that_changed(archive: Archive) -> None:
    """What no longer fits all parts is more likely wrong itself; what nothing tells apart makes the index stale."""
    path = Path(archive.url) / EMBEDDINGS / "table.json"
    made = json.loads(path.read_text())
    path.write_text(json.dumps(made | {"weights_license": "other"}))
    said = verify(archive)
    assert said["problems"] == []
    assert said["notes"] == [{"table": "index/tiny", "note": "older than its tables: `tintype index CONF` renews it"}]
    path.write_text(json.dumps(made | {"dim": made["dim"] + 1}))
    found = problems(archive)
    assert [found[:2] for found in found] == [(EMBEDDINGS, part) for part in range(4)]
    assert {found[2] for found in found} == {"no column of vectors with the dim that its table.json says"}
    assert all(found[3].startswith(f"restore {EMBEDDINGS}/table.json from a backup, if all ") for found in found)


def test_a_precision_that_was_fixed(archive: Archive) -> None:
    rewrite(archive, CAPTIONS, 1, precision="bf16")
    problem, remedy = the_problem(archive, CAPTIONS, 1)
    assert problem == "made in bf16, its table.json says fp32"
    assert remedy == REMEDIES[CAPTIONS]


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_tables_that_do_not_say_what_made_them(archive: Archive, text: str | None) -> None:
    path = Path(archive.url) / EMBEDDINGS / "table.json"
    path.unlink() if text is None else path.write_text(text)
    problem, remedy = the_problem(archive, EMBEDDINGS, None)
    assert ("has no table.json" if text is None else "its table.json is damaged") in problem
    assert remedy == (
        "restore embeddings/tiny/table.json from a backup; or delete the folder embeddings/tiny, then "
        "`tintype annotate CONF`"
    )


# --- weights ----------------------------------------------------------------------------------------------------------


def test_weights_that_are_missing_or_damaged(archive: Archive, conf: str) -> None:
    [folder] = (Path(archive.url) / "models").iterdir()
    where = f"models/{folder.name}"
    shutil.rmtree(folder)
    problem, remedy = the_problem(archive, where, None)
    assert problem == "missing; embeddings/tiny, captions/tiny were made with them"
    assert remedy == "`tintype models CONF`"
    carry_out(remedy, archive, conf)
    assert problems(archive) == []

    weights = folder / "open_clip_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    problem, remedy = the_problem(archive, where, None)
    assert problem.startswith("the SHA-256 of open_clip_model.safetensors is ")
    assert remedy == f"delete the folder {where}, then `tintype models CONF`"
    (folder / "open_clip_config.json").unlink()
    assert the_problem(archive, where, None)[0].startswith("open_clip_config.json is missing; ")
    (folder / "about.json").unlink()
    problem, remedy = the_problem(archive, where, None)
    assert problem.startswith("about.json is missing; ")
    carry_out(remedy, archive, conf)
    assert problems(archive) == []


# --- indexes ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def build(archive: Archive) -> Path:
    """The folder of the build in use."""
    card = builds.current(archive, "tiny")
    assert card
    return Path(builds.folder(archive, "tiny", card["build"]))


def index_problem(archive: Archive, build: Path) -> str:
    problem, remedy = the_problem(archive, "index/tiny", None)
    assert remedy == f"delete the folder index/tiny/{build.name}, then `tintype index CONF`"
    return problem


def test_an_index_cut_short_is_built_anew(archive: Archive, build: Path, conf: str) -> None:
    path = build / "index.faiss"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    problem, remedy = the_problem(archive, "index/tiny", None)
    assert problem == f"index.faiss of the build in use is {size - 1:,} bytes long, its card says {size:,}"
    carry_out(remedy, archive, conf)
    assert verify(archive)["problems"] == verify(archive)["notes"] == []


def test_an_index_whose_files_are_not_what_they_were(archive: Archive, build: Path) -> None:
    path = build / "index.faiss"
    whole = path.read_bytes()
    vectors = faiss.read_index(str(path))
    [place] = [i for i in range(len(whole)) if whole[i : i + 8] == vectors.index.reconstruct(0).tobytes()[:8]][:1]
    data = bytearray(whole)
    data[place + 3] ^= 0x40  # the exponent of a number of the first vector
    path.write_bytes(data)
    assert index_problem(archive, build) == "the vector of row 0 in index.faiss is not that of its table"
    path.write_bytes(b"\0" * 100 + whole[100:])
    assert "is not a readable index" in index_problem(archive, build)
    path.write_bytes(whole)

    photos = build / "photos.parquet"
    before = photos.read_bytes()
    data = bytearray(before)
    column = pq.read_metadata(photos).row_group(0).column(1)
    data[(column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 1] ^= 1
    photos.write_bytes(data)
    assert index_problem(archive, build).startswith("photos.parquet damaged: ")
    photos.unlink()
    assert index_problem(archive, build) == "photos.parquet of the build in use is missing"


def test_an_index_of_other_photos(archive: Archive, build: Path) -> None:
    """Row ids that mean something else than when it was built: a photos part put back from another archive."""
    rows = archive.table("photos").read(1)
    ids = pc.binary_join_element_wise(rows["photo_id"], "x", "")
    for name in ALIGNED:
        rewrite(archive, name, 1, lambda rows: rows.set_column(1, schemas.KEY[1], ids))
    assert index_problem(archive, build) == "its row ids in part 1 are of other photos in the archive"


def test_a_build_that_is_not_there(archive: Archive, build: Path, conf: str) -> None:
    (build.parent / "CURRENT").write_text(build.name[:-1])
    problem, remedy = the_problem(archive, "index/tiny", None)
    assert problem == "CURRENT names a build that is not there, or not whole"
    carry_out(remedy, archive, conf)
    assert problems(archive) == []


def test_a_damaged_card(archive: Archive, build: Path) -> None:
    for text in ("{", "{}"):
        (build / "card.json").write_text(text)
        assert index_problem(archive, build) == "the card of the build in use is damaged"


def test_what_is_not_up_to_date_is_a_note(archive: Archive) -> None:
    path_of(archive, EMBEDDINGS, 3).unlink()
    small.add_pictures(archive, 4, [small.photo("flickr:new")])
    path_of(archive, "images", 4).unlink()
    small.change(archive, "flickr:new", "title", '"changed"')
    said = verify(archive)
    assert said["problems"] == []
    assert said["notes"] == [
        {"table": "images", "note": "1 part still to be made: `tintype fetch CONF`"},
        {"table": EMBEDDINGS, "note": "1 part still to be made: `tintype annotate CONF`"},
        {"table": "index/tiny", "note": "older than its tables: `tintype index CONF` renews it"},
    ]
    (Path(archive.url) / "index" / "tiny" / "CURRENT").unlink()
    assert verify(archive)["notes"][-1] == {"table": "index/tiny", "note": "no build in use: `tintype index CONF`"}


# --- changes, and what is forgotten -----------------------------------------------------------------------------------


def test_a_change_of_nothing(archive: Archive) -> None:
    small.change(archive, "flickr:1", "colour", '"red"')
    problem, remedy = the_problem(archive, "changes", 0)
    assert problem == "1 row: a change of nothing that changes can be of (flickr:1)"
    assert remedy.startswith("restore changes/part-000000.parquet from a backup; without one delete it: ")


def blank(archive: Archive, photo_id: str) -> None:
    """What forgetting a photo leaves of it: its ids, and that it is forgotten."""
    left = {
        "photos": {},
        "images": {"outcome": "gone", "detail": "forgotten"},
        EMBEDDINGS: {"problem": "forgotten"},
        CAPTIONS: {"problem": "forgotten"},
    }
    for name, values in left.items():
        for part in archive.table(name).parts():
            rows = archive.table(name).read(part)
            for row, held in enumerate(rows["photo_id"].to_pylist()):
                if held == photo_id:
                    nothing = dict.fromkeys(rows.column_names[2:])
                    rewrite(archive, name, part, lambda rows, row=row, new=nothing | values: with_row(rows, row, **new))  # type: ignore[misc]


def test_a_forgotten_photo_that_is_still_held(archive: Archive, build: Path) -> None:
    photo_id = archive.live()["photo_id"][0].as_py()
    small.change(archive, photo_id, "title", '"a title"')
    small.forget(archive, photo_id)
    held = f"1 row: forgotten, and still held ({photo_id})"
    assert problems(archive) == [
        *((name, 0, held, FORGET) for name in ("changes", *ALIGNED)),
        ("index/tiny", None, f"build {build.name} holds 1 photo that is forgotten", FORGET),
    ]
    blank(archive, photo_id)
    path_of(archive, "changes", 0).unlink()
    assert the_problem(archive, "index/tiny", None) == (f"build {build.name} holds 1 photo that is forgotten", FORGET)
    shutil.rmtree(build.parent)
    assert problems(archive) == []


def test_builds_not_in_use_hold_no_forgotten_photo_either(archive: Archive, build: Path, conf: str) -> None:
    photo_id = archive.live()["photo_id"][0].as_py()
    small.forget(archive, photo_id)
    blank(archive, photo_id)
    index.build(archive, index.IndexSettings())
    assert the_problem(archive, "index/tiny", None)[0] == f"build {build.name} holds 1 photo that is forgotten"
    (build / "photos.parquet").write_bytes(b"PAR1")
    said = verify(archive)
    assert said["problems"] == []
    assert said["notes"][0]["note"].startswith(f"build {build.name} is not in use and not whole (")


def test_a_photo_forgotten_before_it_was_fetched(tmp_path: Path) -> None:
    """fetch and annotate write rows of their own for it, which hold nothing."""
    archive = Archive.create(str(tmp_path))
    small.add_pictures(archive, 0, [small.photo("flickr:1"), small.photo("flickr:2")])
    moment = small.MOMENT
    row = {"outcome": "gone", "detail": "forgotten", "fetched_at": moment, "image": None, "source_sha256": None}
    nothing = dict.fromkeys(schemas.IMAGES.names[2:])
    rewrite(archive, "images", 0, lambda rows: with_row(rows, 0, **nothing | row))
    rewrite(archive, "photos", 0, lambda rows: with_row(rows, 0, **dict.fromkeys(rows.column_names[2:])))
    small.forget(archive, "flickr:1")
    assert problems(archive) == []


# --- the command, and stores ------------------------------------------------------------------------------------------


def test_the_command(archive: Archive, conf: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", conf]) == 0
    shown = capsys.readouterr()
    assert "no problem found" in shown.out
    rewrite(archive, CAPTIONS, 2, source_write_id="another")
    assert main(["verify", archive.url]) == 1
    shown = capsys.readouterr().out
    assert "captions/tiny part 2: it was made of another writing of images part 2" in shown
    assert "to mend it: delete captions/tiny/part-000002.parquet, then `tintype annotate CONF`" in shown
    assert "1 problem" in shown
    assert main(["verify", archive.url, "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said == verify(archive)


def test_an_archive_in_a_store(bucket: str, undisturbed: Path) -> None:
    fs, path = storage.filesystem(bucket)
    fs.put(str(undisturbed), path, recursive=True)
    archive = Archive.open(bucket)
    said = verify(archive)
    assert said["problems"] == said["notes"] == []
    assert (said["parts"], said["rows"]) == (16, 4 * photostream.PHOTOS)
    url = archive.table("images").part_url(1)
    storage.replace(url, storage.read(url)[:-100])
    assert the_problem(archive, "images", 1)[0].startswith("damaged: ")
