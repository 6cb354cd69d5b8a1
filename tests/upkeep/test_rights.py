"""Whose the live photos are: counted by licence, a line of credit for each, safe in spreadsheets and browsers."""

import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from pipeline.archive import Archive
from pipeline.cli import main
from pipeline.page import FLICKR_NOTICE, STYLE
from pipeline.photo import UserError
from pipeline.upkeep import rights
from tests import small_archive as small
from tests.test_contact_sheet import ATTACKS, Page

LATER = datetime(2026, 3, 4, tzinfo=UTC)
BY = {"license_id": "11", "license_name": "CC BY 4.0", "license_url": "https://creativecommons.org/licenses/by/4.0/"}
RESERVED = {"license_id": "0", "license_name": "All Rights Reserved", "license_url": None}
UNKNOWN: dict[str, Any] = {"license_id": None, "license_name": None, "license_url": None}
NOBODY: dict[str, Any] = {"title": None, "owner": None, "page_url": None}
COMMONS = "No known copyright restrictions (https://www.flickr.com/commons/usage/)"


def made(folder: Path, *photos: dict[str, Any]) -> Archive:
    archive = Archive.create(str(folder / "archive"))
    small.add_pictures(archive, 0, list(photos))
    return archive


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Six live photos under four licences, one gone, one forgotten."""
    archive = made(
        tmp_path,
        *(small.photo(f"flickr:{i}") for i in range(4)),
        small.photo("flickr:4", **BY, rights_observed_at=LATER),
        small.photo("flickr:5", title="  two\n lines ", **RESERVED),
        small.photo("file:6.jpg", **UNKNOWN, **NOBODY),
        small.photo("flickr:7"),
    )
    small.change(archive, "flickr:1", "license_id", '"11"')
    for name, value in BY.items():
        small.change(archive, "flickr:1", name, json.dumps(value))
    small.change(archive, "flickr:2", "visible", "false")
    small.forget(archive, "flickr:7")
    return archive


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_live_photos_are_counted_by_licence(archive: Archive) -> None:
    said = rights.summary(archive, rights.by_licence(archive))
    first = last = "2026-01-02T00:00:00+00:00"
    later = "2026-03-04T00:00:00+00:00"
    assert {key: said[key] for key in ("photos", "restricted", "first_observed", "last_observed", "notice")} == {
        "photos": 6, "restricted": 2, "first_observed": first, "last_observed": later, "notice": FLICKR_NOTICE,
    }  # fmt: skip
    told = [(rights["id"], rights["name"], rights["photos"], rights["restricted"]) for rights in said["licenses"]]
    assert told == [
        ("11", "CC BY 4.0", 2, False),  # as it is now
        ("7", "No known copyright restrictions", 2, False),
        ("0", "All Rights Reserved", 1, True),
        (None, None, 1, True),
    ]
    assert (said["licenses"][0]["first_observed"], said["licenses"][0]["last_observed"]) == (first, later)
    assert (said["licenses"][1]["first_observed"], said["licenses"][1]["last_observed"]) == (first, last)


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({}, f"“title of flickr:1” by Somebody, {COMMONS}, https://www.flickr.com/photos/somebody/1"),
        ({"title": " "}, f"Untitled by Somebody, {COMMONS}, https://www.flickr.com/photos/somebody/1"),
        ({"owner": ""}, f"“title of flickr:1”, {COMMONS}, https://www.flickr.com/photos/somebody/1"),
        ({"title": "two\nlines", "page_url": None}, f"“two lines” by Somebody, {COMMONS}, https://host/0.jpg"),
        (UNKNOWN | NOBODY, "[restricted] Untitled, licence unknown, https://host/0.jpg"),
        (NOBODY | UNKNOWN | {"license_id": "99"}, "[restricted] Untitled, licence unknown (id 99), https://host/0.jpg"),
        (NOBODY | RESERVED, "[restricted] Untitled, All Rights Reserved, https://host/0.jpg"),
        (NOBODY | BY | {"license_name": None}, f"Untitled, {BY['license_url']}, https://host/0.jpg"),
    ],
)
def test_a_line_of_credit_says_what_is_known(tmp_path: Path, facts: dict[str, Any], line: str) -> None:
    archive = made(tmp_path, small.photo("flickr:1", **facts))
    assert list(rights.credits(rights.by_licence(archive))) == [line]


def test_the_csv_has_a_row_a_photo(archive: Archive, tmp_path: Path) -> None:
    path = tmp_path / "rights.csv"
    rights.write_csv(str(path), rights.by_licence(archive))
    rows = {row["photo_id"]: row for row in read_csv(path)}
    assert set(rows) == {"flickr:0", "flickr:1", "flickr:3", "flickr:4", "flickr:5", "file:6.jpg"}
    assert rows["flickr:0"] == {
        "photo_id": "flickr:0",
        "title": "title of flickr:0",
        "owner": "Somebody",
        "date_taken": "1910-06-03",
        "license_id": "7",
        "license_name": "No known copyright restrictions",
        "license_url": "https://www.flickr.com/commons/usage/",
        "rights_observed_at": "2026-01-02T00:00:00+00:00",
        "page_url": "https://www.flickr.com/photos/somebody/0",
        "source_url": "https://host/0.jpg",
        "restricted": "no",
        "credit": f"“title of flickr:0” by Somebody, {COMMONS}, https://www.flickr.com/photos/somebody/0",
    }
    assert (rows["flickr:5"]["title"], rows["flickr:5"]["restricted"]) == ("two lines", "yes")
    assert (rows["file:6.jpg"]["title"], rows["file:6.jpg"]["restricted"]) == ("", "yes")
    others = duckdb.sql(f"SELECT photo_id, license_name FROM read_csv('{path}') ORDER BY photo_id").fetchall()
    assert others[-1] == ("flickr:5", "All Rights Reserved") and len(others) == 6


FORMULAS = ("=HYPERLINK(1)", "+1", "-1+1", "@SUM(A1)", "  =1+1", "＝1+1", "\t=1")


def test_no_title_is_a_formula(tmp_path: Path) -> None:
    archive = made(tmp_path, *(small.photo(f"flickr:{i}", title=title) for i, title in enumerate(FORMULAS)))
    path = tmp_path / "rights.csv"
    rights.write_csv(str(path), rights.by_licence(archive))
    rows = read_csv(path)
    assert [row["title"] for row in rows] == [f"'{title.strip()}" for title in FORMULAS]
    assert [rights.cell(text) for text in ("\r=1", "\n+1", "a = b", "-", None)] == ["'\r=1", "'\n+1", "a = b", "'-", ""]
    with path.open(encoding="utf-8-sig", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not any(cell.lstrip().startswith(("=", "+", "-", "@", "＝")) for cell in cells)


def test_local_paths_do_not_leave(tmp_path: Path) -> None:
    archive = Archive.create(str(tmp_path / "archive"))
    small.add_pictures(archive, 0, [small.photo("file:1.jpg", **NOBODY)])
    [held] = rights.by_licence(archive)
    place = held.photos.schema.get_field_index("source_url")
    paths = held.photos.set_column(place, "source_url", [["/home/ada/1.jpg"]])
    local = rights.Rights(held.id, held.name, held.url, paths)
    assert list(rights.credits([local])) == [f"Untitled, {COMMONS}"]


def test_the_page(archive: Archive, tmp_path: Path) -> None:
    path = tmp_path / "rights.html"
    rights.write_html(str(path), archive, rights.by_licence(archive))
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert 'lang="en"' in text and '<meta charset="utf-8">' in text
    assert "6 photos, rights observed 2026-01-02 to 2026-03-04" in page.text
    assert len(page.all("li")) == 6
    assert "“title of flickr:0” by Somebody, No known copyright restrictions" in page.text
    assert "Untitled, licence unknown restricted" in page.text
    assert page.text.count(" restricted") == 2 * 3 + 1  # in the counts, above the photos, and at each; in the footer
    inside = [link["href"] for link in page.all("a") if (link["href"] or "").startswith("#")]
    assert inside == [f"#{section['id']}" for section in page.all("section")] == ["#l1", "#l2", "#l3", "#l4"]
    outside = {link["href"] for link in page.all("a")} - set(inside)
    assert {BY["license_url"], "https://www.flickr.com/photos/somebody/0", "https://host/6.jpg"} <= outside
    assert FLICKR_NOTICE in page.text
    assert not {"script", "link", "img"} & {tag for tag, _ in page.elements}
    assert "url(" not in STYLE + rights.STYLE


def test_what_sources_write_is_text(tmp_path: Path) -> None:
    facts = ATTACKS | {"license_id": "<b>", "page_url": "javascript:alert(4)"}
    archive = made(tmp_path, small.photo("flickr:1", **facts, license_url='https://x.org/"onmouseover="alert(5)'))
    path = tmp_path / "rights.html"
    rights.write_html(str(path), archive, rights.by_licence(archive))
    page = Page(path.read_text(encoding="utf-8"))
    assert not {"script", "svg", "b", "i", "img"} & {tag for tag, _ in page.elements}
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    for text in (ATTACKS["title"], ATTACKS["owner"], ATTACKS["license_name"]):
        assert text in page.text
    assert not any((link["href"] or "").startswith("javascript") for link in page.all("a"))


def test_no_word_of_flickr_where_nothing_came_from_it(tmp_path: Path) -> None:
    archive = made(tmp_path, small.photo("file:1.jpg", **UNKNOWN, **NOBODY, rights_observed_at=None))
    found = rights.by_licence(archive)
    said = rights.summary(archive, found)
    assert (said["notice"], said["last_observed"]) == (None, None)
    rights.write_html(str(tmp_path / "rights.html"), archive, found)
    assert "observed nobody knows when" in (tmp_path / "rights.html").read_text(encoding="utf-8")
    assert FLICKR_NOTICE not in (tmp_path / "rights.html").read_text(encoding="utf-8")


def test_the_command(archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rights", archive.url]) == 0
    shown = capsys.readouterr().out
    assert "6 live photos, 2 restricted" in shown
    assert "“title of flickr:1” by Somebody, CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/)" in shown
    assert f"and 1 more: tintype rights {archive.url} --csv FILE --html FILE writes them all" in shown
    assert FLICKR_NOTICE in shown
    files = [tmp_path / "rights.csv", tmp_path / "rights.html"]
    assert main(["rights", archive.url, "--csv", str(files[0]), "--html", str(files[1]), "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == rights.summary(archive, rights.by_licence(archive))
    assert all(str(path) in shown.err and path.stat().st_size for path in files)


def test_where_nothing_can_be_said_or_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = Archive.create(str(tmp_path / "empty"))
    with pytest.raises(UserError, match="holds no pictures yet"):
        rights.by_licence(empty)
    archive = made(tmp_path, small.photo("flickr:1"))
    for option in ("--csv", "--html"):
        assert main(["rights", archive.url, option, str(tmp_path / "nowhere" / "file")]) == 2
        assert "nowhere/file: there is no folder" in capsys.readouterr().err
