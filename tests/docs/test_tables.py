"""docs/tables.md keeps its word: its examples run on a real archive, and it describes every column there is."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline import builds, duplicates, schemas, search
from pipeline.archive import Archive
from pipeline.duplicates import report
from pipeline.hashing import hash_missing
from pipeline.photo import REASONS
from pipeline.search import Query
from pipeline.search.hits import HITS
from pipeline.stages import contents, index
from pipeline.stages.index import IndexSettings
from pipeline.status import status
from pipeline.upkeep import rights
from pipeline.upkeep.verify import verify
from tests import small_archive as small

DOCUMENT = (Path(__file__).parents[2] / "docs" / "tables.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(python|json)\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
SCHEMAS = {
    "photos": schemas.PHOTOS,
    "images": schemas.IMAGES,
    "embeddings/&lt;name&gt;": schemas.embeddings(small.DIM),
    "captions/&lt;name&gt;": schemas.CAPTIONS,
    "labels/&lt;name&gt;": schemas.LABELS,
    "objects/&lt;name&gt;": schemas.OBJECTS,
    "hashes/perceptual": schemas.HASHES,
    "changes": schemas.CHANGES,
    "forgotten": schemas.FORGOTTEN,
    "Index builds": contents.SAID,
    "Duplicates": schemas.DUPLICATES,
}


def section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", DOCUMENT, re.DOTALL | re.MULTILINE)
    assert found, title
    return found[1]


def rows(title: str, head: str) -> list[list[str]]:
    """The cells of the table in a section whose first column has this head."""
    table = re.search(rf"^\| {head} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", section(title), re.MULTILINE)
    assert table, (title, head)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[1].splitlines()]


def told(field: pa.Field) -> str:
    """A type as the document puts it."""

    def words(kind: pa.DataType) -> str:
        if pa.types.is_timestamp(kind):
            return "timestamp"
        if pa.types.is_fixed_size_list(kind):
            assert kind.value_type == pa.float16()
            return "float16[dim]"
        if pa.types.is_list(kind):
            return f"list of {words(kind.value_type)}"
        if pa.types.is_struct(kind):
            return f"struct({', '.join(f'{inner.name} {words(inner.type)}' for inner in kind)})"
        return str(kind)

    return words(field.type) + ("" if field.nullable else ", not null")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with archives/demo in it: a picture fetched at the second asking, one gone, two without a vector."""
    folder = tmp_path_factory.mktemp("docs")
    archive = Archive.create(str(folder / "archives" / "demo"))
    for part in range(2):
        photos = [small.photo(f"flickr:{part}-{row}") for row in range(10)]
        if part == 1:
            photos[3] = small.photo("flickr:0-3", title="asked for again", attempt=2)
        outcomes = {"flickr:0-3": "fetched" if part else "failed", "flickr:0-4": "gone"}
        small.add_pictures(archive, part, photos, outcomes)
        vectors: list[Any] = list(small.random_vectors(10, seed=part))
        vectors[5] = None
        small.add_vectors(archive, part, vectors, "demo")
        small.add_captions(archive, part, "demo")
    index.build(archive, IndexSettings())
    hash_missing(archive, lambda stage, said: None)
    build = builds.open_build(archive.url)
    report.keep(build, duplicates.find(build, similar=0.95))
    return folder


@pytest.fixture(scope="module")
def ran(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the examples left behind, run one after the other, offline, where archives/demo is."""
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        cache = tmp_path_factory.mktemp("datasets")
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
            patch.setenv(name, "1")
        for name in ("HF_HOME", "HF_DATASETS_CACHE"):
            patch.setenv(name, str(cache))
        archive = Archive.open("archives/demo")
        names["before"] = archive.live()
        for kind, code in BLOCKS:
            if kind == "python":
                if "changes/" in code:
                    change(archive)
                exec(compile(code, "docs/tables.md", "exec"), names)
        yield names  # the views read archives/demo where they are asked


def change(archive: Archive) -> None:
    """Edits by the source and by a person, a photo gone, one gone and back, one forgotten."""
    small.change(archive, "flickr:0-0", "title", '"corrected \\"by\\" the source"')
    small.change(archive, "flickr:0-1", "license", '{"id": "4", "name": "CC BY 2.0", "url": null}')
    small.change(archive, "flickr:0-2", "title", '"before the row was observed"', days=-1)
    small.change(archive, "flickr:0-2", "visible", "false")
    small.change(archive, "flickr:0-6", "visible", "false")
    small.change(archive, "flickr:0-6", "visible", "true")
    small.change(archive, "flickr:0-7", "latitude", "52.5")
    person = {"row_id": 0, "photo_id": "flickr:0-0", "field": "title", "value": '"a person\'s title"', "by": "Ada"}
    person["observed_at"] = small.MOMENT.replace(year=2020)
    table = pa.Table.from_pylist([person], schemas.CHANGES)
    archive.table("changes").append(lambda part: table, {}, schemas.CHANGES)
    small.forget(archive, "flickr:1-1")


def in_order(view: pa.Table) -> list[dict[str, Any]]:
    return sorted(view.to_pylist(), key=lambda row: row["row_id"])


def queried(names: dict[str, Any], view: str) -> list[dict[str, Any]]:
    found = names["database"].sql(f"SET TimeZone = 'UTC'; SELECT * FROM {view}").to_arrow_table()
    return in_order(found)


def test_the_sql_of_the_live_view_says_what_the_archive_says(ran: dict[str, Any], folder: Path) -> None:
    assert queried(ran, "fetched") == in_order(ran["before"])
    live = in_order(Archive.open(str(folder / "archives" / "demo")).live())
    assert queried(ran, "live") == live
    titles = {row["photo_id"]: row["title"] for row in live}
    assert titles["flickr:0-0"] == "a person's title"
    assert titles["flickr:0-3"] == "asked for again"
    assert "flickr:0-6" in titles
    assert not {"flickr:0-2", "flickr:0-4", "flickr:1-1"} & set(titles)


def test_every_reader_reads_every_table(ran: dict[str, Any]) -> None:
    assert len(ran["captions"]) == 20  # pandas, from DuckDB
    assert ran["alike"][0][2] == pytest.approx(max(cosine for *_, cosine in ran["alike"]))
    assert np.allclose(np.linalg.norm(ran["matrix"], axis=1), 1, atol=1e-3)
    assert ran["titled"].shape == (18, 3)
    assert ran["first_bytes"][:2] == b"\xff\xd8"
    assert ran["captioned"].shape == (20, 5)
    assert ran["embedded"]["embedding"].null_count() == 2
    assert ran["sizes"]["outcome"].to_list().count("fetched") == 18
    assert ran["fetched"].num_rows == 18
    assert ran["fetched"][0]["image"].size == (120, 80)
    assert [ran[name].num_rows for name in ("facts", "words", "numbers")] == [20, 20, 20]
    assert ran["receipt"]["table"] == "images"
    assert ran["row_ids"][0][0] == ran["first"]
    assert ran["copies"] and all(row[0] == "exact" for row in ran["copies"])


@pytest.mark.parametrize("title", SCHEMAS)
def test_every_column_is_described(title: str) -> None:
    described = [(name.strip("`"), kind) for name, kind, meaning in rows(title, "column") if meaning]
    assert described == [(field.name, told(field)) for field in SCHEMAS[title]]


def test_every_reason_is_described() -> None:
    described = {name.strip("`"): may_pass for name, _, may_pass in rows("images", "reason")}
    assert described == {reason: "yes" if may_pass else "no" for reason, may_pass in REASONS.items()}


def test_every_key_of_a_card_is_described(folder: Path) -> None:
    card = builds.current(Archive.open(str(folder / "archives" / "demo")), "demo")
    assert card
    keys = [re.findall(r"`(\w+)`", names) for names, _ in rows("Index builds", "key of the card")]
    assert {key for names in keys for key in names} == card.keys()


def test_the_json_of_status_is_as_documented(folder: Path) -> None:
    said = status(Archive.open(str(folder / "archives" / "demo")))
    example = next(json.loads(code) for kind, code in BLOCKS if kind == "json" and '"tables"' in code)
    assert said.keys() == example.keys()
    assert said["photos"].keys() == example["photos"].keys()
    for group in ("tables", "listings", "indexes"):
        for one in said[group].values():
            assert one.keys() <= next(reversed(example[group].values())).keys(), group
    assert {"photos", "images"} <= said["tables"].keys()


def test_the_json_of_verify_is_as_documented(folder: Path) -> None:
    archive = Archive.open(str(folder / "archives" / "demo"))
    small.change(archive, "flickr:0-0", "colour", "null")
    said = json.loads(json.dumps(verify(archive)))
    example = next(json.loads(code) for kind, code in BLOCKS if kind == "json" and '"problems"' in code)
    assert list(said) == list(example)
    for group in ("problems", "notes"):
        assert list(said[group][0]) == list(example[group][0])


def test_the_json_of_rights_is_as_documented(folder: Path) -> None:
    archive = Archive.open(str(folder / "archives" / "demo"))
    said = json.loads(json.dumps(rights.summary(archive, rights.by_licence(archive))))
    example = next(json.loads(code) for kind, code in BLOCKS if kind == "json" and '"licenses"' in code)
    assert list(said) == list(example)
    assert list(said["licenses"][0]) == list(example["licenses"][0])
    assert all(f"`{name}`" in DOCUMENT for name in rights.COLUMNS)


def test_the_json_of_duplicates_is_as_documented(folder: Path) -> None:
    build = builds.open_build(str(folder / "archives" / "demo"))
    said = json.loads(json.dumps(report.said(build, duplicates.find(build, similar=0.95))))
    example = next(json.loads(code) for kind, code in BLOCKS if kind == "json" and '"distinct"' in code)
    assert list(said) == list(example)
    assert said["thresholds"].keys() == example["thresholds"].keys()
    assert said["tiers"].keys() == example["tiers"].keys() == set(duplicates.TIERS)
    assert said["tiers"]["near"].keys() == example["tiers"]["near"].keys()
    assert all(f"`{name}`" in section("Duplicates") for name in report.FACTS)


def test_the_json_of_search_is_as_documented(folder: Path) -> None:
    build = builds.open_build(str(folder / "archives" / "demo"))
    answer = search.search(build, Query(image="flickr:1-0", k=1), load=lambda: pytest.fail("no model is needed"))
    said = json.loads(json.dumps(search.hits_json([build], answer)))
    example = next(json.loads(code) for kind, code in BLOCKS if kind == "json" and '"hits"' in code)
    assert said.keys() == example.keys()
    assert said["index"].keys() == example["index"].keys()
    assert list(said["query"]) == ["image", *list(example["query"])[1:]]
    [hit], [documented] = said["hits"], example["hits"]
    assert list(hit) == list(documented)
    assert hit["license"].keys() == documented["license"].keys()


def test_every_column_of_the_hits_is_described() -> None:
    described = [
        re.findall(r"`(\w+)`", names) for names, _, meaning in rows("JSON on standard output", "column") if meaning
    ]
    assert [name for names in described for name in names] == HITS.names
