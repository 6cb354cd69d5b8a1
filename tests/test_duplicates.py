"""Duplicates: what is a copy and what is not, groups that hold together, and a report that searches and people read."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageEnhance

from pipeline import builds, duplicates, imaging, phash, schemas, storage
from pipeline.archive import RECEIPT, Archive
from pipeline.cli import main
from pipeline.demo.scenes import PLACES, Scene, Thing, draw
from pipeline.duplicates import Found, bits, report, sheet, tiers
from pipeline.hashing import hash_missing
from pipeline.page import FLICKR_NOTICE
from pipeline.photo import TryLater, UserError
from pipeline.stages import index
from pipeline.stages.hash import TABLE
from pipeline.upkeep import forget
from pipeline.upkeep.verify import verify
from tests import small_archive as small
from tests.test_contact_sheet import ATTACKS, Page

# In each of six places two scenes that differ in the thing alone: pictures that are alike, and two all the same.
PAIRS = (("sailboat", "lighthouse"), ("windmill", "tent"), ("umbrella", "elephant"))


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    return imaging.to_jpeg(image, quality)


def copies(data: bytes) -> Iterator[tuple[str, bytes]]:
    """What becomes of a picture on its way through the world, by name."""
    image = imaging.decode(data, max_pixels=10**8)
    width, height = image.size
    png = BytesIO()
    image.save(png, "PNG")
    yield "png", png.getvalue()
    yield "quality 60", jpeg(image, 60)
    yield "half", jpeg(image.resize((width // 2, height // 2), Image.Resampling.LANCZOS))
    yield "brighter", jpeg(ImageEnhance.Brightness(image).enhance(1.1))
    yield "grey", jpeg(image.convert("L").convert("RGB"))
    yield "cropped", jpeg(image.crop((width * 3 // 200, height * 3 // 200, width * 197 // 200, height * 197 // 200)))


def drawn() -> dict[str, bytes]:
    scenes = [
        Scene(number, (Thing(kind, "red"),), place, "photograph")
        for number, place in enumerate(PLACES)
        for kind in PAIRS[number % len(PAIRS)]
    ]
    return {f"{scene.things[0].kind} {scene.place}": jpeg(draw(scene, 320, 240)) for scene in scenes}


def archive_of(url: str, pictures: Mapping[str, bytes], vectors: Mapping[str, np.ndarray | None]) -> Archive:
    """An indexed archive of these pictures, in parts of forty."""
    archive = Archive.create(url)
    names = list(pictures)
    for part, first in enumerate(range(0, len(names), 40)):
        some = names[first : first + 40]
        add(archive, part, {name: pictures[name] for name in some})
        small.add_vectors(archive, part, [vectors[name] for name in some])
    index.build(archive, index.IndexSettings())
    return archive


def add(archive: Archive, part: int, pictures: Mapping[str, bytes], **facts: Any) -> None:
    """A part of photos and images."""
    photos, images = [], []
    for row_id, (name, data) in zip(schemas.row_ids(part, len(pictures)).to_pylist(), pictures.items(), strict=True):
        key = {"row_id": row_id, "photo_id": f"flickr:{name}"}
        photos.append(small.photo(f"flickr:{name}", **facts) | key)
        size = (320, 240)
        if data != DAMAGED:
            with Image.open(BytesIO(data)) as image:
                size = image.size
        image_facts = {"width": size[0], "height": size[1], "store": "original", "format": "jpeg"}
        sha256 = hashlib.sha256(data).hexdigest()
        picture = {"outcome": "fetched", "image": {"bytes": data, "path": None}, "source_sha256": sha256}
        images.append(key | image_facts | picture | {"fetched_at": small.MOMENT})
    archive.table("photos").write(part, [pa.Table.from_pylist(photos, schemas.PHOTOS)], {}, schemas.PHOTOS)
    receipt = small.made_of(archive, "photos", part)
    archive.table("images").write(part, [pa.Table.from_pylist(images, schemas.IMAGES)], receipt, schemas.IMAGES)


DAMAGED = b"\xff\xd8\xff no picture any more"


def near_to(vector: np.ndarray, cosine: float, seed: int) -> np.ndarray:
    """A unit vector of this cosine with another, float16[DIM]."""
    aside = np.random.default_rng(seed).standard_normal(len(vector))
    aside = small.unit(aside - aside @ vector * vector)
    return small.unit(cosine * vector + np.sqrt(1 - cosine**2) * aside).astype(np.float16)


def with_copies(originals: Mapping[str, bytes]) -> tuple[dict[str, bytes], dict[str, np.ndarray | None]]:
    """The originals, a byte-equal copy and the others of each, named "original/copy"; vectors as a model has them."""
    pictures: dict[str, bytes] = {}
    vectors: dict[str, np.ndarray | None] = {}
    for number, (name, data) in enumerate(originals.items()):
        # An image model finds two things in the same place alike, though not as much as copies.
        centre = near_to(small.unit(np.eye(small.DIM)[number // 2 % small.DIM]), 0.9, seed=number)
        for place, (how, copy) in enumerate([("original", data), ("copied", data), *copies(data)]):
            pictures[f"{name}/{how}"] = copy
            vectors[f"{name}/{how}"] = near_to(small.unit(centre), 0.98, seed=1000 + 10 * number + place)
    return pictures, vectors


def look(archive: Archive, similar: float = 0.95) -> Found:
    hash_missing(archive, lambda stage, receipt: None)
    build = builds.open_build(archive.url)
    found = duplicates.find(build, similar)
    report.keep(build, found)
    return found


def groups(found: Found, tier: str) -> list[set[str]]:
    rows = found.rows.filter(pc.equal(found.rows["tier"], tier)).to_pylist()
    by_group: dict[str, set[str]] = {}
    for row in rows:
        by_group.setdefault(row["group"], set()).add(row["photo_id"].removeprefix("flickr:"))
    return list(by_group.values())


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Archive, Found]:
    archive = archive_of(str(tmp_path_factory.mktemp("duplicates") / "archive"), *with_copies(drawn()))
    return archive, look(archive)


def assert_right(found: Found, originals: Mapping[str, bytes]) -> None:
    """Exact are the byte-equal and no others; near, nearly all that was copied, and nothing different."""
    exact = groups(found, "exact")
    assert sorted(map(sorted, exact)) == sorted([f"{name}/copied", f"{name}/original"] for name in originals)
    near = groups(found, "near")
    assert all(len({name.partition("/")[0] for name in group}) == 1 for group in near)
    together = {name for group in near if any(name.endswith("/original") for name in group) for name in group}
    for how in ("png", "quality 60", "half", "brighter", "grey"):
        assert sum(f"{name}/{how}" in together for name in originals) >= 0.95 * len(originals), how
    assert sum(f"{name}/cropped" in together for name in originals) >= 0.4 * len(originals)


def test_copies_are_found_and_like_pictures_are_not(looked: tuple[Archive, Found]) -> None:
    assert_right(looked[1], drawn())


def test_real_photographs(shared_data: Path, tmp_path: Path) -> None:
    files = sorted((shared_data / "fsa_owi" / "images").iterdir())[:8]
    originals = {path.stem: path.read_bytes() for path in files}
    assert_right(look(archive_of(str(tmp_path / "archive"), *with_copies(originals))), originals)


def test_counts_add_up_and_tiers_hold_those_before(looked: tuple[Archive, Found]) -> None:
    found = looked[1]
    left = found.photos
    whole = {tier: groups(found, tier) for tier in duplicates.TIERS}
    before: list[set[str]] = []
    for tier, groups_of in whole.items():
        counts = found.counts[tier]
        assert counts["groups"] == len(groups_of) and counts["photos"] == sum(map(len, groups_of))
        members = [name for group in groups_of for name in group]
        assert len(members) == len(set(members))
        for group in before:
            assert any(group <= other for other in groups_of) or not any(group & other for other in groups_of)
        inside = [group for group in before if any(group <= other for other in groups_of)]
        left -= sum(len(group) - 1 for group in groups_of) - sum(len(group) - 1 for group in inside)
        assert counts["distinct"] == left
        before = [group for group in before if group not in inside] + groups_of


def test_the_largest_titled_and_first_stands_for_a_group(tmp_path: Path) -> None:
    scene = Scene(3, (Thing("tent", "red"),), PLACES[2], "photograph")
    small_one, large = jpeg(draw(scene, 160, 120)), jpeg(draw(scene, 640, 480))
    archive = Archive.create(str(tmp_path / "archive"))
    add(archive, 0, {"small": small_one, "untitled": large}, title=None)
    add(archive, 1, {"first": large, "second": large})
    vector = small.random_vectors(1)[0]
    for part in range(2):
        small.add_vectors(archive, part, [vector, None])
    index.build(archive, index.IndexSettings())
    found = look(archive)
    [exact] = groups(found, "exact")
    assert exact == {"untitled", "first", "second"}
    rows = {(row["tier"], row["photo_id"].removeprefix("flickr:")): row for row in found.rows.to_pylist()}
    assert {row["group"] for row in rows.values()} == {"flickr:first"}
    assert [row["photo_id"] for row in rows.values() if row["representative"]] == ["flickr:first"] * 2
    assert rows["near", "small"]["distance"] <= tiers.NEAR_BITS
    assert rows["near", "small"]["cosine"] == pytest.approx(1, abs=1e-3)
    assert rows["exact", "second"]["cosine"] is None  # it has no vector
    assert rows["exact", "second"]["distance"] == 0


def test_like_hashes_of_unlike_pictures_are_no_copies(tmp_path: Path) -> None:
    picture = draw(Scene(3, (Thing("tent", "red"),), PLACES[2], "photograph"), 320, 240)
    pictures = {"one": jpeg(picture), "other": jpeg(picture, 50), "bare": jpeg(picture, 70)}
    one, other = np.eye(2, small.DIM, dtype=np.float16)
    vectors = {"one": one, "other": other, "bare": None}
    found = look(archive_of(str(tmp_path / "archive"), pictures, vectors))
    assert groups(found, "near") == [{"one", "bare"}]  # whose hash alone speaks: it has no vector


def test_what_has_no_hash(tmp_path: Path) -> None:
    vectors = dict(zip(("white", "black", "damaged"), small.random_vectors(3), strict=True))
    black = jpeg(Image.new("RGB", (90, 60), (3, 3, 3)))
    pictures = {"white": small.jpeg((255, 255, 255)), "black": black, "damaged": DAMAGED}
    archive = archive_of(str(tmp_path / "archive"), pictures, vectors)
    found = look(archive)
    assert found.problems == {"featureless": 2, "undecodable": 1} and found.hashed == 0
    assert found.rows.num_rows == 0
    assert archive.table(TABLE).read(0)["problem"].to_pylist() == ["featureless", "featureless", "undecodable"]
    assert archive.table(TABLE).receipt(0)["outcomes"] == {"featureless": 2, "undecodable": 1}


def test_similar_groups_are_no_chains(tmp_path: Path) -> None:
    """Each is near the next, the ends are not near each other: the group is what is near its representative."""
    angles = np.radians([0, 15, 30, 45])
    chain = np.zeros((4, small.DIM), np.float16)
    chain[:, 0], chain[:, 1] = np.cos(angles), np.sin(angles)
    archive = Archive.create(str(tmp_path / "archive"))
    small.add_pictures(archive, 0, [small.photo(f"flickr:{name}") for name in "abcd"])
    small.add_vectors(archive, 0, list(chain))
    index.build(archive, index.IndexSettings())
    found = look(archive, similar=0.96)
    assert groups(found, "similar") == [{"a", "b"}, {"c", "d"}]
    assert found.counts["similar"] == {"groups": 2, "photos": 4, "distinct": 2}
    assert groups(look(archive, similar=1), "similar") == []


def test_a_crowd_of_similar_pictures_is_one_group(tmp_path: Path) -> None:
    """More of them than the index is asked for at first."""
    rows = 3 * tiers.NEIGHBOURS
    archive = Archive.create(str(tmp_path / "archive"))
    small.add_pictures(archive, 0, [small.photo(f"flickr:{row}") for row in range(rows)])
    centre = small.unit(np.ones(small.DIM))
    small.add_vectors(archive, 0, [near_to(centre, 0.995, seed) for seed in range(rows)])
    index.build(archive, index.IndexSettings())
    assert list(map(len, groups(look(archive), "similar"))) == [rows]


# --- bits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crowd", [0, 300], ids=["spread", "crowded"])
def test_bands_find_what_comparing_all_with_all_finds(crowd: int) -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, 1500, np.uint64)
    for place in range(200):  # planted: up to eight bits away from another
        flipped = random.choice(64, random.integers(0, 9), replace=False).astype(np.uint64)
        hashes[1000 + place] = hashes[place] ^ np.bitwise_or.reduce(np.uint64(1) << flipped, initial=np.uint64(0))
    hashes[1200 : 1200 + crowd] = hashes[0] ^ (np.uint64(1) << random.integers(0, 64, crowd).astype(np.uint64))
    near = bits.distances(hashes, hashes) <= 6
    label = np.arange(len(hashes))
    while not np.array_equal(grown := np.where(near, label[None], len(label)).min(axis=1), label):
        label = grown
    assert np.array_equal(bits.components(hashes, 6), label)
    assert len(np.unique(label)) < 1500


def test_a_hash_that_a_crowd_shares_takes_no_time() -> None:
    """A hundred thousand white pages are five billion pairs."""
    hashes = np.zeros(100_000, np.uint64)
    everyone = np.arange(len(hashes))
    same = np.ones((len(hashes), 2), np.float32) / np.sqrt(np.float32(2))
    of = tiers.near(everyone, hashes, np.ones(len(hashes), bool), lambda places: (same[places], everyone[places] >= 0))
    assert (of == 0).all()


def test_who_follows_whom() -> None:
    """0 and 1 lead; 3 is nearer to 1 than to 0; 2 is near 3 alone, which leads nobody."""
    close_ones = {0: {3: 0.5}, 1: {3: 0.75}, 2: {3: 0.9}, 3: {0: 0.5, 1: 0.75, 2: 0.9}}

    def close(asked: np.ndarray, leader: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for one in asked.tolist():
            yield np.array(list(close_ones[one]), np.int64), np.array(list(close_ones[one].values()), np.float32)

    assert tiers.led(4, close, batch=2).tolist() == [0, 1, 2, 2]
    del close_ones[2][3], close_ones[3][2]
    assert tiers.led(4, close, batch=4).tolist() == [0, 1, 2, 1]


# --- the table of hashes, and what else an archive does with it -------------------------------------------------------


def test_hashing_goes_on_where_it_stopped(looked: tuple[Archive, Found], tmp_path: Path) -> None:
    archive, _ = looked
    table = archive.table(TABLE)
    written = [table.receipt(part)["write_id"] for part in table.parts()]
    assert TABLE in archive.tables() and table.identity() == phash.IDENTITY
    told: list[int] = []
    hash_missing(archive, lambda stage, said: told.append(said["part"]))
    assert told == []
    storage.delete(table.part_url(1))
    hash_missing(archive, lambda stage, said: told.append(said["part"]))
    assert told == [1]
    assert [table.receipt(part)["write_id"] == written[part] for part in table.parts()] == [True, False, True]


def test_a_damaged_part_of_images_is_said(tmp_path: Path) -> None:
    archive, _ = small.make(str(tmp_path / "archive"), parts=2)
    Path(archive.table("images").part_url(0)).write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(TryLater, match="part 0 was given up"):
        hash_missing(archive, lambda stage, said: None)
    assert archive.table(TABLE).parts() == [1]


def concerning_hashes(archive: Archive) -> list[dict[str, Any]]:
    """Notes and problems that verify has with the table."""
    said = verify(archive)
    return [found for found in (*said["notes"], *said["problems"]) if found["table"] == TABLE]


def test_verify_reads_hashes(tmp_path: Path) -> None:
    archive, _ = small.make(str(tmp_path / "archive"), parts=2, rows=4)
    hash_missing(archive, lambda stage, said: None)
    table = archive.table(TABLE)
    table.rewrite(1, lambda rows: rows.set_column(3, "problem", pa.nulls(4, pa.string())), table.receipt(1))
    Path(table.part_url(0)).unlink()
    Path(table.url, "table.json").write_text("{")
    note, identity, problem = concerning_hashes(archive)
    assert problem["problem"].startswith("4 rows: neither hash nor problem")
    assert problem["remedy"] == "delete hashes/perceptual/part-000001.parquet, then `tintype duplicates CONF`"
    assert note["note"] == "1 part still to be made: `tintype duplicates CONF`"
    assert identity["problem"].startswith("its table.json is missing, damaged")
    assert identity["remedy"] == "delete the folder hashes/perceptual, then `tintype duplicates CONF`"


def test_a_forgotten_photo_is_in_no_group(tmp_path: Path) -> None:
    name, data = next(iter(drawn().items()))
    pictures, vectors = with_copies({name: data})
    archive = archive_of(str(tmp_path / "archive"), pictures, vectors)
    assert f"{name}/half" in groups(look(archive), "near")[0]
    forget.forget(archive, [f"flickr:{name}/half"], "asked")
    assert f"{name}/half" not in groups(look(archive), "near")[0]  # at once, of the same build
    forget.finish(archive)
    place = list(pictures).index(f"{name}/half")
    row = archive.table(TABLE).read(0).to_pylist()[place]
    assert (row["hash"], row["problem"]) == (None, "forgotten")
    assert concerning_hashes(archive) == []
    found = look(archive)
    assert f"{name}/half" not in groups(found, "near")[0] and found.photos == len(pictures) - 1


# --- what searches and people read ------------------------------------------------------------------------------------


def test_searches_collapse_exact_and_near_copies(looked: tuple[Archive, Found]) -> None:
    archive, found = looked
    build = builds.open_build(archive.url)
    report.keep(build, found)
    of, note = report.groups(build)
    assert note is None
    near = next(iter(groups(found, "near")))
    row_ids = build.row_ids([f"flickr:{name}" for name in near])
    assert len({of[row_id] for row_id in row_ids.values()}) == 1
    assert set(of.values()) <= set(of)
    alone = max(of) + 1
    copied = list(row_ids.values())
    assert report.collapse(of, [copied[1], alone, *copied[2:], copied[0]]) == {copied[1]: len(near) - 1, alone: 0}


def test_a_collapsed_search_shows_copies_once(
    looked: tuple[Archive, Found], capsys: pytest.CaptureFixture[str]
) -> None:
    archive, found = looked
    report.keep(builds.open_build(archive.url), found)
    near = next(iter(groups(found, "near")))
    named = f"flickr:{min(near)}"

    def hits(*more: str) -> list[dict[str, Any]]:
        assert main(["search", archive.url, "--image", named, "-k", "5", "--json", *more]) == 0
        return json.loads(capsys.readouterr().out)["hits"]

    plain, collapsed = hits(), hits("--collapse")
    assert {hit["photo_id"].removeprefix("flickr:") for hit in plain[:3]} < near
    assert "copies" not in plain[0]
    assert len(collapsed) == 5
    copied, of = collapsed[0], report.groups(builds.open_build(archive.url))[0]
    assert (copied["photo_id"], copied["copies"]) == (plain[0]["photo_id"], len(near) - 2)
    leaders = [of.get(hit["row_id"], hit["row_id"]) for hit in collapsed]
    assert len(set(leaders)) == 5
    assert main(["search", archive.url, "--image", named, "--collapse"]) == 0
    assert f"and {len(near) - 2} copies" in capsys.readouterr().out


def test_groups_of_another_build_come_with_a_note(tmp_path: Path) -> None:
    archive, _ = small.make(str(tmp_path / "archive"), parts=1)
    index.build(archive, index.IndexSettings())
    build = builds.open_build(archive.url)
    with pytest.raises(UserError, match=r"`tintype duplicates .* does"):
        report.groups(build)
    look(archive)
    assert report.groups(build)[1] is None
    small.change(archive, "flickr:0-0", "title", '"another"')
    index.build(archive, index.IndexSettings())
    assert "older index" in str(report.groups(builds.open_build(archive.url))[1])
    Path(report.url(archive, "tiny")).write_bytes(b"nothing")
    with pytest.raises(UserError, match="damaged"):
        report.groups(build)


def test_the_command(looked: tuple[Archive, Found], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive, found = looked
    out, html = tmp_path / "groups.parquet", tmp_path / "groups.html"
    assert main(["duplicates", archive.url, "--json", "--out", str(out), "--html", str(html)]) == 0
    shown = capsys.readouterr()
    said = json.loads(shown.out)
    assert said["tiers"] == found.counts and str(out) in shown.err and str(html) in shown.err
    kept = pq.read_table(said["report"])
    assert kept.schema.remove_metadata() == schemas.DUPLICATES
    assert kept.replace_schema_metadata(None).equals(found.rows)
    assert json.loads(kept.schema.metadata[RECEIPT]) == said
    wide = pq.read_table(out)
    assert wide.column_names == [*schemas.DUPLICATES.names, *report.FACTS]
    first = wide.to_pylist()[0]
    assert first["title"] == f"title of {first['photo_id']}" and first["license_name"]
    assert main(["duplicates", archive.url, "--similar", "1"]) == 0
    shown = capsys.readouterr()
    assert "exact" in shown.out and "12 groups of 24 photos" in shown.out
    assert main(["duplicates", archive.url, "--similar", "7"]) == 2
    assert main(["duplicates", str(tmp_path / "nowhere")]) == 2
    Archive.create(str(tmp_path / "empty"))
    capsys.readouterr()
    assert main(["duplicates", str(tmp_path / "empty")]) == 2
    assert "has no index yet; `tintype index CONF` builds it" in capsys.readouterr().err


def test_the_page_shows_groups_and_asks_nobody(looked: tuple[Archive, Found], monkeypatch: pytest.MonkeyPatch) -> None:
    archive, found = looked
    monkeypatch.setattr(sheet, "GROUPS", 2)
    monkeypatch.setattr(sheet, "PHOTOS", 3)
    page = Page(sheet.render(builds.open_build(archive.url), found))
    # Two groups of two exact copies; of the near ones, and of the similar ones if any, three of each.
    similar = min(2, found.counts["similar"]["groups"])
    pictures = page.all("img")
    assert len(pictures) == 4 + 6 + 3 * similar
    assert all((picture["src"] or "").startswith("data:image/jpeg;base64,") for picture in pictures)
    assert "And 10 more, in the Parquet file." in page.text and "best of these" in page.text
    assert "320 × 240" in page.text and "cosine 0." in page.text and "No known copyright restrictions" in page.text
    assert FLICKR_NOTICE in page.text
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.elements}


def test_what_sources_write_is_text(tmp_path: Path) -> None:
    data = jpeg(draw(Scene(3, (Thing("tent", "red"),), PLACES[2], "photograph"), 160, 120))
    archive = Archive.create(str(tmp_path / "archive"))
    add(archive, 0, {"a": data, "<b>": data}, **ATTACKS, page_url="javascript:alert(4)")
    small.add_vectors(archive, 0, list(small.random_vectors(2)))
    index.build(archive, index.IndexSettings())
    found = look(archive)
    page = Page(sheet.render(builds.open_build(archive.url), found))
    assert len(page.all("img")) == 2
    assert not {"script", "svg", "b", "i"} & {tag for tag, _ in page.elements}
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert not any((link["href"] or "").startswith("javascript") for link in page.all("a"))
