"""The report: its figures are those of the tables, and its page asks nobody for anything and trusts no title."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline import builds, indexes, report, schemas, storage
from pipeline.archive import Archive
from pipeline.cli import main
from pipeline.duplicates import report as duplicates
from pipeline.indexes import recall
from pipeline.page import FLICKR_NOTICE
from pipeline.photo import REASONS, UserError
from pipeline.report import curves, drawn, spent
from pipeline.report.glance import HELP
from pipeline.report.sheet import render
from pipeline.stages import index, measure
from pipeline.stages.index import IndexSettings
from tests import small_archive as small
from tests.test_contact_sheet import ATTACKS, Page

ROWS = 30
CC = {"license_id": "4", "license_name": "CC BY 2.0", "license_url": "https://creativecommons.org/licenses/by/2.0/"}
UNKNOWN = {"license_id": None, "license_name": None, "license_url": None}
SECONDS = {"reading": 1.0, "decoding": 6.0, "waiting": 2.0, "embedding": 3.0, "captioning": 5.0}


def photos(part: int) -> list[dict[str, Any]]:
    """Rows of every fifth year, some of them circa, some undated; under three licences."""
    found = []
    for row in range(ROWS):
        facts: dict[str, Any] = {"date_taken": f"{1900 + 5 * (row % 4)}-06", "date_granularity": "month"}
        if row % 7 == 0:
            facts = {"date_taken": "1905", "date_granularity": "circa"}
        if row % 11 == 10:
            facts = {"date_taken": None, "date_granularity": None}
        facts |= CC if row % 3 == 0 else UNKNOWN if row % 10 == 4 else {}
        found.append(small.photo(f"flickr:{part}-{row}", **facts))
    return found


def caption(archive: Archive, part: int) -> None:
    """Captions of one to four words, each surer than the one before; none where there is no picture."""
    table = archive.table("captions/tiny")
    table.claim({"model": "test-captioner"})
    rows = []
    for row, image in enumerate(archive.table("images").read(part, ["row_id", "photo_id", "outcome"]).to_pylist()):
        there = image.pop("outcome") == "fetched"
        words = " ".join(["boat", "harbour", "the", "sea"][: 1 + row % 4])
        said = {"caption": words, "logprob": -3 + 0.05 * row, "cosine": 0.2, "model": "test-captioner"}
        rows.append(image | (said if there else {"problem": "no_picture"}))
    receipt = small.made_of(archive, "images", part) | {"seconds": SECONDS | {"writing": 0.25}}
    assert table.write(part, [pa.Table.from_pylist(rows, schemas.CAPTIONS)], receipt, schemas.CAPTIONS)


OUTCOMES = {"flickr:0-1": "gone", "flickr:1-2": "failed"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """60 photos, of which one is gone and one failed; nobody writes there but caches."""
    archive = Archive.create(str(tmp_path_factory.mktemp("report") / "archive"))
    for part in range(2):
        small.add_pictures(archive, part, photos(part), OUTCOMES)
        vectors: list[Any] = list(small.random_vectors(ROWS, seed=part))
        vectors[1 if part == 0 else 2] = None  # not fetched
        small.add_vectors(archive, part, vectors)
        caption(archive, part)
    index.build(archive, IndexSettings())
    return archive


def copied(archive: Archive, folder: Path) -> Archive:
    return Archive(shutil.copytree(archive.url, str(folder / "archive")))


@pytest.fixture(scope="module")
def said(archive: Archive) -> dict[str, Any]:
    build, why_not = report.chosen(archive, None)
    return report.figures(archive, build, why_not, wall=7)


@pytest.fixture(scope="module")
def html(archive: Archive, said: dict[str, Any]) -> str:
    return render(archive, builds.open_build(archive.url), said)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def live() -> list[dict[str, Any]]:
    return [photo for part in range(2) for photo in photos(part) if photo["photo_id"] not in OUTCOMES]


# --- figures ----------------------------------------------------------------------------------------------------------


def test_photos_by_year_and_licence(said: dict[str, Any]) -> None:
    dated = [photo for photo in live() if photo["date_taken"]]
    years = Counter(photo["date_taken"][:4] for photo in dated)
    circa = Counter(photo["date_taken"] for photo in dated if photo["date_granularity"] == "circa")
    facts = said["facts"]
    assert facts["years"] == {year: {"photos": years[year], "circa": circa[year]} for year in sorted(years)}
    assert facts["undated"] == len(live()) - len(dated)
    assert (facts["counted"], facts["photos"], facts["sources"]) == ("indexed", 58, {"flickr:somebody": 58})
    licences = Counter(photo["license_url"] for photo in live())
    assert {licence["url"]: licence["photos"] for licence in facts["licenses"]} == licences
    assert [licence["restricted"] for licence in facts["licenses"]] == [False, False, True]
    assert said["photos"] == {"live": 58, "gone": 1, "failed": 1, "forgotten": 0}


def test_captions(said: dict[str, Any]) -> None:
    known = {f"flickr:{part}-{row}": row for part in range(2) for row in range(ROWS)}
    rows = [known[photo["photo_id"]] for photo in live()]
    found = said["captions"]
    assert (found["machine"], found["people"], found["none"]) == (58, 0, 0)
    assert found["lengths"] == {str(n + 1): count for n, count in sorted(Counter(row % 4 for row in rows).items())}
    boats, harbours, seas = (sum(row % 4 >= n for row in rows) for n in (0, 1, 3))
    assert found["words"] == {"boat": boats, "harbour": harbours, "sea": seas}
    values = np.array([-3 + 0.05 * row for row in rows])
    logprob = found["logprob"]
    assert logprob["least"] == pytest.approx(values.min(), abs=1e-3)
    assert logprob["median"] == pytest.approx(np.median(values), abs=1e-3)
    assert sum(one["captions"] for one in logprob["bins"]) == 58
    assert [one["photo_id"] for one in logprob["lowest"][:3]] == ["flickr:0-0", "flickr:1-0", "flickr:1-1"]
    assert len(found["cosine"]["bins"]) == 1


def test_sizes_are_those_on_disk(archive: Archive, said: dict[str, Any]) -> None:
    for name, table in said["tables"].items():
        assert table["bytes"] == sum(path.stat().st_size for path in (Path(archive.url) / name).iterdir())
    assert said["bytes"]["index"] == sum(p.stat().st_size for p in Path(archive.url, "index").rglob("*") if p.is_file())


def test_the_same_photos_are_drawn_again(archive: Archive, said: dict[str, Any]) -> None:
    build = builds.open_build(archive.url)
    assert len(said["wall"]) == 7
    assert said["wall"] == report.figures(archive, build, wall=7)["wall"]
    assert said["wall"] == report.photos.sample(archive, None, 7)


def test_what_people_and_takedowns_say_since_holds_at_once(archive: Archive, tmp_path: Path) -> None:
    archive = copied(archive, tmp_path)
    build = builds.open_build(archive.url)
    first, second = (
        build.facts([row], ["photo_id"])[row]["photo_id"] for row in report.photos.sample(archive, build, 2)
    )
    small.forget(archive, first)
    small.change(archive, second, "caption", '"a person’s words"', by="Anna")
    said = report.figures(archive, build)
    shown = report.photos.shown(archive, build, said["wall"])
    assert first not in {hit.photo_id for hit, _ in shown.values()}
    assert said["facts"]["photos"] == 57
    assert (said["captions"]["machine"], said["captions"]["people"]) == (56, 1)
    [hit] = [hit for hit, _ in shown.values() if hit.photo_id == second]
    assert (hit.caption, hit.caption_by) == ("a person’s words", "Anna")


def documented() -> str:
    document = (Path(__file__).parents[1] / "docs" / "tables.md").read_text(encoding="utf-8")
    return document[document.index("| key of the report |") :]


def test_every_key_is_documented(said: dict[str, Any]) -> None:
    lines = documented().split("\n\n")[0].splitlines()
    assert {key for line in lines for key in re.findall(r"`(\w+)`", line.split("|")[1])} == said.keys()
    [index] = said["indexes"].values()
    captions = said["captions"]
    groups = [said["facts"], said["so_far"], index, index["measured"], captions, captions["logprob"]]
    assert {key for group in groups for key in group if f"`{key}`" not in documented()} == set()


# --- runs -------------------------------------------------------------------------------------------------------------

RECORD = {
    "run": "20261122T013518Z-a4b8",
    "command": "run",
    "steps": ["list", "fetch", "annotate", "index"],
    "started_at": "2026-11-22T01:35:18+00:00",
    "ended_at": "2026-11-22T01:35:58+00:00",
    "seconds": 40.0,
    "ended": "done",
    "runner": "local",
    "rows": {"photos": 200, "images": 100, "embeddings/tiny": 60, "captions/tiny": 80, "changes": 9000},
    "bytes": 4_000_000,
    "phases": {
        "images": {"waiting": 3.0, "downloading": 9.0},
        "embeddings/tiny": SECONDS | {"writing": 0.5},
        "captions/tiny": SECONDS | {"writing": 0.25},
    },
    "index": {"build": "x", "seconds": {"add": 2.0}},
    "failed_parts": [{"stage": "fetch", "part": 3, "error": "killed its worker"}],
}


def test_what_a_run_cost(tmp_path: Path) -> None:
    archive = Archive.create(str(tmp_path))
    for name, record in (("a", {"run": "a"}), ("b", RECORD)):
        storage.replace(f"{archive.url}/reports/runs/{name}.json", json.dumps(record).encode())
    last, first = spent.last(archive)
    assert last["photos_per_s"] == {"list": 5.0, "fetch": 2.5, "annotate": 2.0}
    assert last["phases"]["annotate"] == SECONDS | {"writing": 0.75}  # made together: counted once
    assert last["phases"]["index"] == {"add": 2.0}
    assert last["device_busy"] == 0.8
    assert last["bytes_per_s"] == 100_000
    assert (first["run"], first["photos_per_s"], first["device_busy"]) == ("a", {}, None)
    assert {key for key in last if f"`{key}`" not in documented()} == set()


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    archive = Archive.create(str(tmp_path))
    for data in (b"{", b"[1]", b"null"):
        storage.replace(f"{archive.url}/reports/runs/a.json", data)
        with pytest.raises(UserError, match=r"runs/a\.json is damaged; delete it"):
            spent.last(archive)


def test_without_records_the_receipts_tell(archive: Archive, said: dict[str, Any]) -> None:
    assert said["runs"] == []
    assert said["so_far"]["phases"] == {
        "annotate": {key: 2 * value for key, value in SECONDS.items()} | {"writing": 0.5}
    }
    assert said["so_far"]["device_busy"] == 0.8
    assert said["so_far"]["rows"] == {"list": 60, "fetch": 60, "annotate": 60}
    assert said["so_far"]["photos_per_device_s"] == 3.0  # 60 in twice 2 + 3 + 5 seconds


def test_a_pass_that_came_later_is_counted_with_its_photos(
    archive: Archive, said: dict[str, Any], tmp_path: Path
) -> None:
    archive = copied(archive, tmp_path)
    table = archive.table("labels/tiny")
    table.claim({"model": "test-labeller"})
    for part in range(2):
        keys = archive.table("images").read(part, ["row_id", "photo_id"]).to_pylist()
        rows = [key | {"problem": "no_picture"} for key in keys]
        spent_s = {"decoding": 9.0, "waiting": 1.0, "embedding": 4.0}
        receipt = small.made_of(archive, "images", part) | {"seconds": spent_s}
        assert table.write(part, [pa.Table.from_pylist(rows, schemas.LABELS)], receipt, schemas.LABELS)
    far = spent.so_far(archive)
    assert far["rows"]["annotate"] == 60
    assert far["photos_per_device_s"] == 4.0  # twice 60 in twice 10 + 5 seconds


# --- the index --------------------------------------------------------------------------------------------------------


def lists(folder: Path) -> Archive:
    archive, _ = small.make(str(folder), parts=4, rows=100)
    index.build(archive, IndexSettings(kind="ivf_flat"))
    return archive


def test_a_curve_is_what_numpy_finds(tmp_path: Path) -> None:
    archive = lists(tmp_path)
    build = builds.open_build(archive.url)
    found = curves.said(archive, build)["measured"]
    vectors = np.concatenate([rows.unit for rows in measure.vectors(archive.table("embeddings/tiny"), ids(archive))])
    known = recall.some(recall.read(build.folders[0] / builds.TRUTH), measure.TRIED)
    cosines = known.queries @ vectors.T
    cosines[np.arange(len(cosines)), np.searchsorted(ids(archive), known.own)] = -2
    best = ids(archive)[np.argsort(-cosines, axis=1)[:, :10]]
    for step in found["curve"]:
        indexes.set_effort(build.segments[0].index, step["effort"])
        _, rows = build.nearest(known.queries, 11)
        right = [
            len(set(row[row != own][:10].tolist()) & set(true.tolist())) / 10
            for row, own, true in zip(rows, known.own, best, strict=True)
        ]
        assert step["recall"]["rows"] == pytest.approx(np.mean(right), abs=1e-3)
    assert len(found["curve"]) > 2
    assert found["curve"][-1]["recall"]["rows"] == 1.0
    assert found["depths"].keys() == {"1", "10", "100"}
    assert "Recall at 10 by nprobe" in drawn.recall_by_effort(curves.said(archive, build))


def ids(archive: Archive) -> np.ndarray:
    parts = archive.table("images").parts()
    return np.concatenate([archive.table("images").read(part, ["row_id"])["row_id"].to_numpy() for part in parts])


def test_a_build_that_grew_is_measured_by_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small.small_numbers(monkeypatch)
    archive = lists(tmp_path)
    small.add_pictures(archive, 4, [small.photo(f"flickr:4-{row}") for row in range(20)])
    small.add_vectors(archive, 4, list(small.random_vectors(20, seed=4)))
    small.add_captions(archive, 4)
    card, _ = index.build(archive, IndexSettings(kind="ivf_flat"), update=True)
    assert card["base"]
    build, why_not = report.chosen(archive, None)
    said = report.figures(archive, build, why_not)
    assert said["indexes"]["tiny"]["measured"]["curve"][-1]["recall"]["rows"] == 1.0
    assert card["base"] in Page(render(archive, build, said)).text


# --- the page ---------------------------------------------------------------------------------------------------------


def test_it_shows_what_there_is(page: Page) -> None:
    shown = ["live58", "gone1", "failed1", "CC BY 2.0", "device busy80%", "Worth a look", FLICKR_NOTICE]
    shown += ["Caption written by a machine (test-captioner)", "Nobody has looked for duplicates in tiny yet"]
    assert [text for text in shown if text not in page.text] == []
    assert len(page.all("img")) >= 7


def references(page: Page) -> list[str]:
    """Whatever an element or a style may make a browser ask for, or lead to."""
    found = []
    for _, attributes in page.elements:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
                found.append(value or "")
            found += re.findall(r"url\(([^)]*)\)", value or "")
    return found


def test_it_asks_nobody_for_anything(html: str, page: Page) -> None:
    sources = [reference for reference in references(page) if not reference.startswith("#")]
    leads = {link["href"] for link in page.all("a")}
    assert all(re.fullmatch(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", one) for one in sources if one not in leads)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.elements}
    assert not re.search(r"@import|url\((?!#)", html)
    assert "default-src 'none'" in html


def test_charts_say_in_words_what_they_show(page: Page) -> None:
    charts = page.all("svg")
    assert len(charts) >= 5
    assert all(chart["role"] == "img" and len(chart["aria-label"] or "") > 20 for chart in charts)
    assert any("from 1900 to 1915" in str(chart["aria-label"]) for chart in charts)


def test_what_sources_and_models_write_is_text(tmp_path: Path) -> None:
    archive = Archive.create(str(tmp_path / "<b>archive"))
    attack = "<script>alert(1)</script>"
    links = {"page_url": "javascript:alert(4)", "license_url": 'https://x.org/"onmouseover="alert(5)', "source": attack}
    small.add_pictures(archive, 0, [small.photo("flickr:<b>'", **ATTACKS, **links), small.photo("flickr:2")])
    small.add_vectors(archive, 0, list(small.random_vectors(2)))
    table = archive.table("captions/tiny")
    table.claim({"model": attack})
    rows = archive.table("photos").read(0, ["row_id", "photo_id"]).to_pylist()
    rows = [row | {"caption": attack, "model": attack, "logprob": -1.0 * row["row_id"]} for row in rows]
    receipt = small.made_of(archive, "images", 0)
    assert table.write(0, [pa.Table.from_pylist(rows, schemas.CAPTIONS)], receipt, schemas.CAPTIONS)
    index.build(archive, IndexSettings())
    build, why_not = report.chosen(archive, None)
    page = Page(render(archive, build, report.figures(archive, build, why_not)))
    assert not {"script", "b"} & {tag for tag, _ in page.elements}
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert all(str(link["href"]).startswith(("http", "#")) for link in page.all("a"))
    assert attack in page.text


def test_years_that_are_few_or_far_apart() -> None:
    def facts(*years: int) -> dict[str, Any]:
        return {"years": {f"{year:04}": {"photos": 1, "circa": 0} for year in years}}

    assert "from 1910 to 1910" in drawn.years(facts(1910))
    assert "photos in 20 years" in drawn.years(facts(33, 1910))


# --- archives that are not whole --------------------------------------------------------------------------------------


def page_of(archive: Archive) -> tuple[dict[str, Any], Page]:
    build, why_not = report.chosen(archive, None)
    said = report.figures(archive, build, why_not)
    return said, Page(render(archive, build, said))


def test_an_empty_archive(tmp_path: Path) -> None:
    said, page = page_of(Archive.create(str(tmp_path)))
    assert said["missing"] == ["no photo is listed yet: `tintype run CONF` begins"]
    assert "no photo is listed yet" in page.text


def test_only_listed(tmp_path: Path) -> None:
    archive = Archive.create(str(tmp_path))
    rows = [photo | {"row_id": row} for row, photo in enumerate(photos(0))]
    rows[3]["attempt"] = 2  # the same photo, asked for again
    small.forget(archive, "flickr:0-5")
    assert archive.table("photos").write(0, [pa.Table.from_pylist(rows, schemas.PHOTOS)], {}, schemas.PHOTOS)
    said, page = page_of(archive)
    assert (said["facts"]["counted"], said["facts"]["photos"]) == ("listed", ROWS - 2)
    assert said["missing"][0] == "1 part of pictures to fetch: `tintype fetch CONF`"
    assert (said["wall"], said["captions"], said["indexes"]) == ([], None, {})
    assert page.all("svg") and not page.all("img")


def test_fetched_but_not_annotated(tmp_path: Path) -> None:
    archive = Archive.create(str(tmp_path))
    small.add_pictures(archive, 0, photos(0), OUTCOMES)
    said, page = page_of(archive)
    assert said["missing"] == [
        "no picture is embedded yet, so nothing can be searched: `tintype annotate CONF`",
        "no index yet: `tintype index CONF` builds one; captions are counted from it, too",
    ]
    assert len(page.all("img")) == ROWS - 1


def test_an_index_that_cannot_be_read_is_named(archive: Archive, tmp_path: Path) -> None:
    archive = copied(archive, tmp_path)
    card = builds.current(archive, "tiny")
    assert card
    (tmp_path / "archive" / "index" / "tiny" / card["build"] / "photos.parquet").write_bytes(b"")
    said, page = page_of(archive)
    assert said["facts"]["counted"] == "listed"
    assert said["indexes"] == {"tiny": None}
    assert "is damaged; delete that folder and run `tintype index CONF`" in said["missing"][0]
    assert "is damaged; delete that folder" in page.text
    with pytest.raises(UserError, match="is damaged"):
        report.chosen(archive, "tiny")


def test_an_index_of_another_release_beside_a_good_one_is_named(archive: Archive, tmp_path: Path) -> None:
    archive = copied(archive, tmp_path)
    card = builds.current(archive, "tiny")
    assert card
    shutil.copytree(tmp_path / "archive" / "index" / "tiny", tmp_path / "archive" / "index" / "zold")
    old = tmp_path / "archive" / "index" / "zold" / card["build"] / "card.json"
    old.write_text(json.dumps(card | {"format": 2, "of": "zold"}))
    said, page = page_of(archive)
    assert said["indexes"]["tiny"] and said["indexes"]["zold"] is None
    assert said["missing"][0].startswith("the index of zold was built by another release")
    assert len(said["missing"]) == len(set(said["missing"]))
    assert "Not read: zold, see above" in page.text and "zold was built by another release" in page.text


def test_duplicates_that_were_found_are_counted(archive: Archive, tmp_path: Path) -> None:
    archive = copied(archive, tmp_path)
    assert main(["duplicates", archive.url, "--json"]) == 0
    said, page = page_of(archive)
    kept = duplicates.kept(archive, "tiny")
    assert kept and said["duplicates"]["tiny"] == {
        "build": kept["build"], "photos": 58, "tiers": kept["tiers"], "thresholds": kept["thresholds"], "fresh": True
    }  # fmt: skip
    assert "exact copies" in page.text


# --- the command ------------------------------------------------------------------------------------------------------


def test_json_alone_writes_no_file(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", archive.url, "--json", "--photos", "3"]) == 0
    assert len(json.loads(capsys.readouterr().out)["wall"]) == 3
    assert list(tmp_path.iterdir()) == []


def test_the_page_is_written_where_it_is_wanted(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", archive.url, "--photos", "2"]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "wrote the report report.html" in said.err
    assert len(Page((tmp_path / "report.html").read_text(encoding="utf-8")).all("img")) == 2 + 6


def test_every_reason_has_what_may_help() -> None:
    assert HELP.keys() == REASONS.keys()
