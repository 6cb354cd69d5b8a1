"""Pictures that somebody has already: in the rows of Parquet and CSV files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import builds, export, schemas
from pipeline.archive import Archive
from pipeline.gate import Gate
from pipeline.photo import Photo, UserError
from pipeline.sources import Listing
from pipeline.sources.parquet import ParquetSource, read_row
from pipeline.stages import index
from pipeline.stages.fetch import ImageSettings, fetch_part
from pipeline.stages.index import IndexSettings
from pipeline.stages.list import list_source
from tests import small_archive

PICTURES = [small_archive.jpeg((n, 2 * n, 90)) for n in range(7)]


def listed(source: ParquetSource, known: set[str] | None = None) -> tuple[list[Photo], Listing]:
    found: list[Photo] = []
    pages = source.photos(known or set())
    while True:
        try:
            found += next(pages)
        except StopIteration as stop:
            return found, stop.value


def fetched(source: ParquetSource, archive: Archive) -> list[dict[str, Any]]:
    """The rows of images after a source was listed and fetched."""
    sources = {source.name: source}
    for receipt in list(list_source(archive, source, 4)):
        fetch_part(
            archive, receipt["part"], ImageSettings(rate=None), sources, gate=Gate(None), sizes=lambda *photo: []
        )
    images = archive.table("images")
    return [row for part in images.parts() for row in images.read(part).to_pylist()]


def img2dataset(folder: Path) -> None:
    """What img2dataset 1.47.0 writes with output_format parquet: a failed row has its URL, and no picture."""
    rows = [
        {
            "url": f"https://host.invalid/{n}.jpg",
            "caption": f"caption {n}",
            "key": f"{n:09}",
            "status": "success",
            "error_message": None,
            "width": 120,
            "height": 80,
            "original_width": 120,
            "original_height": 80,
            "exif": "{}",
            "sha256": None,
            "jpg": picture,
        }
        for n, picture in enumerate(PICTURES)
    ]
    rows[2] |= {"jpg": None, "status": "failed_to_download", "error_message": "HTTP Error 404: Not Found"}
    for file, some in (("00000.parquet", rows[:4]), ("00001.parquet", rows[4:])):
        pq.write_table(pa.Table.from_pylist(some), folder / file, row_group_size=2)
    (folder / "00000_stats.json").write_text("{}")


def test_a_folder_that_img2dataset_wrote(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    img2dataset(tmp_path / "in")
    source = ParquetSource(str(tmp_path / "in"))
    source.check()
    photos, listing = listed(source)
    assert listing == Listing(complete=True, total=7, seen=7)
    assert [photo.photo_id for photo in photos] == [f"row:{n:09}" for n in range(7)]
    assert photos[3].human_captions == ("caption 3",)
    assert json.loads(photos[3].raw or "")["url"] == "https://host.invalid/3.jpg"
    assert photos[2].sizes[0].url == "https://host.invalid/2.jpg"  # to be tried again
    for n in (0, 1, 3, 4, 5, 6):
        assert read_row(photos[n].sizes[0].url) == PICTURES[n]


def test_pictures_go_into_an_archive_without_any_download(tmp_path: Path) -> None:
    table = pa.table({"image": PICTURES, "title": [f"title {n}" for n in range(7)]})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=3)
    archive = Archive.create(str(tmp_path / "archive"))
    rows = fetched(ParquetSource(str(tmp_path / "in.parquet")), archive)
    assert [row["image"]["bytes"] for row in rows] == PICTURES
    assert [row["photo_id"] for row in rows] == [f"row:in.parquet#{n}" for n in range(7)]
    assert {row["outcome"] for row in rows} == {"fetched"}
    assert list(list_source(archive, ParquetSource(str(tmp_path / "in.parquet")), 4)) == []  # nothing is new


def test_an_export_goes_into_another_archive_as_it_was(tmp_path: Path) -> None:
    archive, _ = small_archive.make(str(tmp_path / "archive"), parts=2, rows=3)
    index.build(archive, IndexSettings())
    export.export(builds.open_build(archive.url), "huggingface", str(tmp_path / "out"))
    copy = Archive.create(str(tmp_path / "copy"))
    rows = fetched(ParquetSource(str(tmp_path / "out" / "data")), copy)
    kept = {
        row["photo_id"]: row["image"]["bytes"] for p in (0, 1) for row in archive.table("images").read(p).to_pylist()
    }
    assert {row["photo_id"]: row["image"]["bytes"] for row in rows} == kept
    for part in copy.table("photos").parts():
        for photo in copy.table("photos").read(part).to_pylist():
            assert photo["title"] == f"title of {photo['photo_id']}" and photo["owner"] == "Somebody"
            assert photo["license_url"] == "https://www.flickr.com/commons/usage/"
            assert photo["human_captions"] == []  # what a machine wrote stays a machine's
            assert photo["page_url"].startswith("https://www.flickr.com/photos/")


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_list_of_urls(tmp_path: Path, ending: str) -> None:
    between = {"csv": ",", "tsv": "\t"}[ending]
    lines = [["id", "url", "licence"], ["007", "https://host/7.jpg", "CC BY 4.0"], ["8", "https://host/8.jpg", ""]]
    lines.append(["9", "", ""])
    path = tmp_path / f"list.{ending}"
    path.write_text("\n".join(between.join(line) for line in lines) + "\n")
    photos, listing = listed(ParquetSource(str(path), license="CC0"))
    assert [(photo.photo_id, photo.sizes[0].url) for photo in photos] == [
        ("row:007", "https://host/7.jpg"),
        ("row:8", "https://host/8.jpg"),
    ]
    assert [photo.rights.license_name for photo in photos] == ["CC BY 4.0", "CC0"]
    assert listing.note == "passed over 1 rows without a picture or URL"


def test_columns_of_other_names_and_the_limit(tmp_path: Path) -> None:
    pq.write_table(pa.table({"scan": PICTURES, "signature": list("abcdefg")}), tmp_path / "in.parquet")
    source = ParquetSource(str(tmp_path / "in.parquet"), image="scan", id="signature", limit=3, prefix="box/")
    photos, listing = listed(source, {"row:box/a"})
    assert [photo.photo_id for photo in photos] == ["row:box/b", "row:box/c"]
    assert listing.seen == 3 and listing.note == "stopped at the limit of 3"


def test_a_name_that_comes_twice_is_one_photo(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, 1, 2], "jpg": PICTURES[:3]}), tmp_path / "in.parquet")
    photos, _ = listed(ParquetSource(str(tmp_path / "in.parquet")))
    assert [photo.photo_id for photo in photos] == ["row:1", "row:2"]


def spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("settings", "spoiled", "said"),
    [
        ({"path": "none.parquet"}, None, "there is no file"),
        ({"path": "."}, None, None),
        ({"path": "empty"}, None, "there are no .parquet"),
        ({"path": "in.parquet", "image": "scan"}, None, "has no column 'scan'; it has words, jpg"),
        ({"path": "words.csv"}, None, "which column holds pictures or URLs"),
        ({"path": "in.parquet"}, spoil, "cannot be read"),
    ],
)
def test_mistakes_are_said_in_one_line(
    tmp_path: Path, settings: dict[str, str], spoiled: Callable[[Path], None] | None, said: str | None
) -> None:
    pq.write_table(pa.table({"words": ["a"], "jpg": PICTURES[:1]}), tmp_path / "in.parquet")
    (tmp_path / "empty").mkdir()
    if said and said.startswith("which"):
        (tmp_path / "words.csv").write_text("words\nsome\n")
    if spoiled:
        spoiled(tmp_path / "in.parquet")
    source = ParquetSource(**settings | {"path": str(tmp_path / settings["path"])})
    if said is None:
        source.check()
        return
    with pytest.raises(UserError, match=said) as raised:
        source.check()
    assert "\n" not in str(raised.value)


def test_a_file_that_is_gone_or_spoiled_later_costs_its_own_pictures_alone(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, some in (("a", PICTURES[:2]), ("b", PICTURES[2:4])):
        pq.write_table(pa.table({"jpg": some}), tmp_path / "in" / f"{name}.parquet")
    source = ParquetSource(str(tmp_path / "in"))
    archive = Archive.create(str(tmp_path / "archive"))
    [receipt] = list_source(archive, source, 100)
    (tmp_path / "in" / "a.parquet").unlink()
    spoil(tmp_path / "in" / "b.parquet")
    fetch_part(
        archive,
        receipt["part"],
        ImageSettings(rate=None),
        {source.name: source},
        gate=Gate(None),
        sizes=lambda *photo: [],
    )
    rows = archive.table("images").read(0, ["outcome", "reason"]).to_pylist()
    assert rows[:2] == [{"outcome": "gone", "reason": None}] * 2
    assert rows[2:] == [{"outcome": "failed", "reason": "unreadable"}] * 2
    assert archive.table("images").read(0).schema.equals(schemas.IMAGES)


def test_a_picture_is_gone_that_no_row_names_any_more(tmp_path: Path) -> None:
    urls = tmp_path / "urls.csv"
    urls.write_text("id,url\n" + "".join(f"{n},https://host.invalid/{n}.jpg\n" for n in range(5)) + "5,\n")
    source = ParquetSource(str(urls), limit=2)
    assert [source.is_gone(f"row:{n}") for n in range(7)] == [False] * 5 + [True] * 2
    urls.write_text("id,url\n3,https://host.invalid/3.jpg\n")
    again = ParquetSource(str(urls), limit=2)
    assert [again.is_gone(f"row:{n}") for n in range(7)] == [True] * 3 + [False] + [True] * 3
    assert not again.forgets("0")
    urls.unlink()
    with pytest.raises(UserError, match="no file"):
        ParquetSource(str(urls)).is_gone("row:3")
