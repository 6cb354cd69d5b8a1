"""A build that grew holds exactly what a full build holds; one that was cut short goes on; readers keep theirs."""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import builds, storage
from pipeline.archive import Archive
from pipeline.builds import Build
from pipeline.indexes import making
from pipeline.stages import fill, index
from pipeline.stages.index import IndexSettings
from tests import small_archive as small

SETTINGS = IndexSettings(of="tiny")
KINDS = ("flat", "ivf_flat", "ivf_pq", "HNSW32")
ROWS = 130  # of a part: enough for two lists each


@pytest.fixture(autouse=True)
def small_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    small.small_numbers(monkeypatch)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an archive of three parts, 390 photos, without an index; nobody writes there."""
    archive, _ = small.make(str(tmp_path_factory.mktemp("begun") / "archive"), parts=3, rows=ROWS)
    return Path(archive.url)


@pytest.fixture
def archive(begun: Path, tmp_path: Path) -> Archive:
    shutil.copytree(begun, tmp_path / "archive", copy_function=os.link)
    return Archive.open(str(tmp_path / "archive"))


def update(archive: Archive, settings: IndexSettings = SETTINGS) -> dict[str, Any]:
    card, built = index.build(archive, settings, update=True)
    assert built
    return card


def add_part(archive: Archive, part: int, photo_ids: list[str], captions: bool = True) -> None:
    small.add_pictures(archive, part, [small.photo(photo_id) for photo_id in photo_ids])
    small.add_vectors(archive, part, list(small.random_vectors(len(photo_ids), seed=1000 + part)))
    if captions:
        small.add_captions(archive, part)


def assert_same_as_full(archive: Archive, settings: IndexSettings = SETTINGS, exact: bool = True) -> None:
    """The current build answers and holds what one does that is made from nothing of the same tables."""
    grown = builds.open_build(archive.url)
    copy = f"{archive.url}-full"
    unlike = shutil.ignore_patterns("index", "making")
    shutil.copytree(archive.url, copy, ignore=unlike, copy_function=os.link)  # files of an archive never change
    index.build(Archive.open(copy), settings)
    full = builds.open_build(copy)
    assert not full.card["base"]
    assert grown.photos().equals(full.photos())
    for key in ("photos", "rows", "not_annotated", "problems", "captions", "parts"):
        assert grown.card[key] == full.card[key], key
    queries = small.unit(small.random_vectors(8, seed=77))
    ids = full.photos(["row_id"])["row_id"].to_numpy()
    every = [build.nearest(queries, 10, among=ids) for build in (grown, full)]  # exact, whatever the kind
    assert np.array_equal(every[0][1], every[1][1])
    assert every[0][0] == pytest.approx(every[1][0], abs=1e-6)
    if exact:
        assert np.array_equal(grown.nearest(queries, 10)[1], every[1][1])
    shutil.rmtree(copy)


def test_what_is_new_is_added_and_what_is_gone_is_masked(tmp_path: Path) -> None:
    archive, _ = small.make(str(tmp_path / "archive"), parts=3, rows=10)
    base = update(archive)
    assert (base["base"], base["drift"]) == (None, None)

    def grown() -> dict[str, Any]:
        card = update(archive)
        assert card["base"] == base["build"]
        assert_same_as_full(archive)
        return card

    add_part(archive, 3, ["flickr:new-1", "flickr:new-2"])
    card = grown()
    assert (card["photos"], card["rows"], card["here"]["rows"]) == (32, 32, 2)

    small.change(archive, "flickr:1-5", "visible", "false")
    small.change(archive, "flickr:new-1", "visible", "false")
    assert grown()["rows"] == 30

    add_part(archive, 4, ["flickr:0-7", "flickr:new-2"])  # fetched again
    card = grown()
    build = builds.open_build(archive.url)
    assert build.row_ids(["flickr:0-7", "flickr:new-2"]) == {"flickr:0-7": 4 << 20, "flickr:new-2": (4 << 20) + 1}

    small.change(archive, "flickr:2-2", "title", '"edited"')
    small.change(archive, "flickr:2-3", "caption", '"a person\'s"', by="somebody")
    grown()
    build = builds.open_build(archive.url)
    assert build.facts([(2 << 20) + 2], ["title"]) == {(2 << 20) + 2: {"title": "edited"}}
    assert build.facts([(2 << 20) + 3], ["caption_by"]) == {(2 << 20) + 3: {"caption_by": "somebody"}}

    small.change(archive, "flickr:1-5", "visible", "true", days=2)  # back
    small.change(archive, "flickr:new-1", "visible", "true", days=2)
    assert grown()["rows"] == 32

    small.add_pictures(archive, 5, [small.photo("flickr:1-9"), small.photo("flickr:later")])  # not annotated yet
    card = grown()
    assert (card["not_annotated"], card["rows"]) == (2, 31)
    small.add_vectors(archive, 5, [*small.random_vectors(1), None])
    card = grown()
    assert (card["not_annotated"], card["photos"], card["rows"], card["problems"]) == (0, 33, 32, {"non_finite": 1})
    small.add_captions(archive, 5)
    grown()

    small.forget(archive, "flickr:later")  # the base does not hold it
    assert grown()["photos"] == 32
    assert index.build(archive, SETTINGS, update=True) == (builds.current(archive, "tiny"), False)
    card, built = index.build(archive, SETTINGS)
    assert built and not card["base"]


def test_captions_that_came_after_the_base(tmp_path: Path) -> None:
    archive = Archive.create(str(tmp_path / "archive"))
    for part in range(3):
        add_part(archive, part, [f"flickr:{part}-{row}" for row in range(5)], captions=part == 0)
    base = update(archive)
    small.add_pictures(archive, 3, [small.photo("flickr:1-1")])  # the row of part 1 is an old one from here on
    small.add_vectors(archive, 3, list(small.random_vectors(1, seed=9)))
    update(archive)
    small.add_captions(archive, 1)
    card = update(archive)
    assert card["base"] == base["build"]
    assert_same_as_full(archive)
    assert builds.open_build(archive.url).row_ids(["flickr:1-1"]) == {"flickr:1-1": 3 << 20}


def test_labels_that_came_after_the_base(tmp_path: Path) -> None:
    archive = Archive.create(str(tmp_path / "archive"))
    for part in range(3):
        add_part(archive, part, [f"flickr:{part}-{row}" for row in range(5)])
    small.add_labels(archive, 0)
    base = update(archive)
    small.add_labels(archive, 1)
    assert update(archive)["base"] == base["build"]
    assert_same_as_full(archive)
    assert len(builds.open_build(archive.url).matching("labels IS NULL")) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_grows(archive: Archive, kind: str) -> None:
    settings = IndexSettings(of="tiny", kind=kind)
    base = update(archive, settings)
    assert base["recall"]["passed"] and base["recall"]["rows"]["recall@10"] >= settings.min_recall
    add_part(archive, 3, [f"flickr:new-{row}" for row in range(20)] + ["flickr:0-0"])
    small.change(archive, "flickr:1-5", "visible", "false")
    small.change(archive, "flickr:1-6", "title", '"edited"')
    card = update(archive, settings)
    assert (card["base"], card["kind"]) == (base["build"], kind)
    assert card["here"]["rows"] == 22
    assert card["drift"]["added"] == pytest.approx(22 / 390, abs=1e-4)
    assert card["drift"]["masked"] == pytest.approx(3 / 390, abs=1e-4)
    assert card["recall"]["passed"]
    assert_same_as_full(archive, settings, exact=kind == "flat")
    build = builds.open_build(archive.url)
    vector = build.vector((1 << 20) + 6)
    assert build.nearest(vector[None], 1)[1].tolist() == [[(1 << 20) + 6]]


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_in_the_order_asked_for(archive: Archive, kind: str) -> None:
    settings = IndexSettings(of="tiny", kind=kind)
    index.build(archive, settings)
    small.add_pictures(archive, 3, [small.photo("flickr:new"), small.photo("flickr:bare")])
    small.add_vectors(archive, 3, [small.random_vectors(1, seed=9)[0], None])
    update(archive, settings)
    build = builds.open_build(archive.url)
    row_ids = np.array([(3 << 20) + 1, (2 << 20) + 4, 7, 3 << 20, (2 << 20) + 1])
    vectors, has = build.vectors(row_ids)
    assert has.tolist() == [False, True, True, True, True]
    stored = [small.random_vectors(ROWS, seed=2)[[4, 1]], small.random_vectors(ROWS, seed=0)[[7]]]
    assert vectors[[1, 4, 2]] == pytest.approx(small.unit(np.concatenate(stored)), abs=1e-6)
    assert vectors[3] == pytest.approx(small.unit(small.random_vectors(1, seed=9)[0]), abs=1e-6)
    assert not vectors[0].any()
    with pytest.raises(KeyError):
        build.vector((3 << 20) + 1)
    assert build.vectors(row_ids[:0])[0].shape == (0, small.DIM)


def test_a_base_that_only_lost_photos(archive: Archive) -> None:
    for kind in ("flat", "ivf_pq"):
        settings = IndexSettings(of="tiny", kind=kind)
        index.build(archive, settings)
        small.change(archive, f"flickr:1-{len(kind)}", "visible", "false")
        card = update(archive, settings)
        assert (card["here"]["rows"], card["here"]["photos"]) == (0, 0)
        assert_same_as_full(archive, settings, exact=kind == "flat")


def test_many_updates_end_where_one_build_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    archive, _ = small.make(str(tmp_path / "archive"), parts=2, rows=12)
    update(archive)
    photos = [f"flickr:{part}-{row}" for part in range(2) for row in range(12)]
    unannotated: list[int] = []

    def new_part(part: int) -> None:
        ids = [*rng.choice(photos, 2, replace=False).tolist(), f"flickr:new-{part}"]
        outcome = {ids[0]: str(rng.choice(["fetched", "failed"]))}
        small.add_pictures(archive, part, [small.photo(photo_id) for photo_id in ids], outcome)
        photos.append(ids[2])
        unannotated.append(part)

    def annotate() -> None:
        part = unannotated.pop(int(rng.integers(len(unannotated))))
        made = list(small.random_vectors(3, seed=500 + part))
        small.add_vectors(archive, part, [made[0], None if rng.random() < 0.3 else made[1], made[2]])
        if rng.random() < 0.5:
            small.add_captions(archive, part)

    part = itertools.count(2)
    for day in range(1, 13):
        for _ in range(2):
            one, other = rng.choice(photos, 2, replace=False).tolist()
            todo: list[Callable[[], None]] = [
                lambda: new_part(next(part)),
                lambda: annotate() if unannotated else None,
                partial(small.change, archive, one, "visible", str(bool(rng.random() < 0.4)).lower(), days=day),
                partial(small.change, archive, other, "title", f'"of day {day}"', days=day),
                partial(small.change, archive, other, "caption", f'"of day {day}"', by="somebody", days=day),
            ]
            todo[int(rng.choice(len(todo), p=[0.3, 0.3, 0.2, 0.1, 0.1]))]()
        if day == 6:
            new = [photo_id for photo_id in photos if "new" in photo_id]
            small.forget(archive, new[0])
            photos.remove(new[0])
        index.build(archive, SETTINGS, update=True)
        assert_same_as_full(archive)
    assert (builds.current(archive, "tiny") or {})["base"]


# --- when it is made anew ---------------------------------------------------------------------------------------------


def test_a_forgotten_photo_of_the_base_is_in_no_byte(archive: Archive) -> None:
    small.change(archive, "flickr:1-1", "title", '"Rosebud"')
    update(archive)
    add_part(archive, 3, ["flickr:new"])
    update(archive)
    held = builds.open_build(archive.url)
    secret = held.vector((1 << 20) + 1)
    small.forget(archive, "flickr:1-1")
    card = update(archive, IndexSettings(of="tiny", keep=1))
    assert card["base"] is None
    assert_same_as_full(archive, IndexSettings(of="tiny", keep=1))
    kept = [path for top in ("index", "making") for path in Path(archive.url, top).rglob("*") if path.is_file()]
    assert {path.parent.name for path in kept} == {card["build"], "tiny"}
    for path in kept:
        data = path.read_bytes()
        assert secret.tobytes() not in data and b"Rosebud" not in data, path


def test_a_forgotten_photo_is_in_no_block_of_a_build_given_up(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = IndexSettings(of="tiny", kind="ivf_pq", keep=1)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(making, "merge", die)
        index.build(archive, settings)
    secret = archive.table("embeddings/tiny").read(1)["embedding"][1].values.to_numpy().tobytes()
    [given_up] = Path(archive.url, "making").iterdir()
    assert any(secret in path.read_bytes() for path in given_up.iterdir())
    small.forget(archive, "flickr:1-1")
    index.build(archive, settings)
    assert given_up.exists()  # for all we know somebody is at it
    (given_up / "begun").write_text((datetime.now(UTC) - 2 * fill.LEFT).isoformat())
    fill.sweep(archive)
    kept = [path for top in ("index", "making") for path in Path(archive.url, top).rglob("*") if path.is_file()]
    assert kept and not any(secret in path.read_bytes() for path in kept)
    assert storage.names(f"{archive.url}/making") == []


def test_other_settings_or_parts_make_it_anew(archive: Archive) -> None:
    base = update(archive)
    add_part(archive, 3, ["flickr:new"])
    assert update(archive)["base"] == base["build"]
    other = IndexSettings(of="tiny", memory=10**9)
    assert update(archive, other)["base"] is None
    small.add_captions(archive, 0, "another")
    assert update(archive, IndexSettings(of="tiny", captions="another", memory=10**9))["base"] is None
    storage.delete(archive.table("embeddings/tiny").part_url(0))  # and made anew
    small.add_vectors(archive, 0, list(small.random_vectors(ROWS, seed=5)))
    storage.delete(f"{archive.url}/reports/rollup-embeddings-tiny.json")
    settings = IndexSettings(of="tiny", captions="another", memory=10**9)
    assert update(archive, settings)["base"] is None
    assert_same_as_full(archive, settings)


def test_small_builds_are_made_anew(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "GROWS", 391)
    update(archive)
    add_part(archive, 3, ["flickr:new"])
    assert update(archive)["base"] is None
    small.change(archive, "flickr:new", "title", '"edited"')
    assert update(archive)["base"]


def test_it_says_when_a_rebuild_is_due(archive: Archive) -> None:
    update(archive)
    add_part(archive, 3, [f"flickr:new-{row}" for row in range(78)])
    assert update(archive)["drift"] == {
        "added": 0.2, "masked": 0.0, "recall_lost": {"rows": 0.0}, "rebuild_due": False, "why": None
    }  # fmt: skip
    add_part(archive, 4, ["flickr:one-more"])
    drift = update(archive)["drift"]
    assert drift["rebuild_due"] and drift["why"] == "20% of the rows added since training"
    for row in range(79):
        small.change(archive, f"flickr:0-{row}", "visible", "false")
    assert "20% of the rows masked since training" in update(archive)["drift"]["why"]


def test_recall_that_fell_makes_a_rebuild_due(archive: Archive) -> None:
    base = {"rows": 100, "recall": {"rows": {"recall@10": 0.99}, "texts": {"recall@10": 0.98}}}
    now = {"rows": {"recall@10": 0.96}, "texts": None}
    drift = index._drift(base, 1, 0, now)
    assert drift["rebuild_due"] and drift["why"] == "recall@10 for rows fell by 0.03"


# --- cut short --------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


def die(*_: object) -> None:
    raise Killed


def dying_after(calls: int, write: Callable[..., Any] = making.write) -> Callable[..., Any]:
    """A write that works so many times."""
    left = itertools.count(calls, -1)

    def writing(*arguments: Any) -> None:
        write(*arguments) if next(left) > 0 else die()

    return writing


def one_by_one(function: Callable[[Any], Any], items: Any) -> Iterator[Any]:
    return map(function, items)


@pytest.mark.parametrize(("moment", "blocks"), [("train", 0), ("block 2", 1), ("merge", 3), ("card", 3)])
@pytest.mark.parametrize("kind", ["ivf_flat", "ivf_pq"])
def test_killed_at_any_moment_it_goes_on(
    archive: Archive, moment: str, blocks: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = update(archive)
    before = builds.open_build(archive.url)
    settings = IndexSettings(of="tiny", kind=kind)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        if moment == "card":
            replace = storage.replace
            patch.setattr(storage, "replace", lambda url, data: die() if "CURRENT" in url else replace(url, data))
        elif moment == "merge":
            patch.setattr(making, "merge", die)
        else:
            patch.setattr(making, "write", dying_after({"train": 0, "block 1": 1, "block 2": 2}[moment]))
        index.build(archive, settings, each=one_by_one)
    assert builds.current(archive, "tiny") == old
    assert builds.open_build(archive.url).nearest(before.vector(5)[None], 1)[1].tolist() == [[5]]
    [making_folder] = Path(archive.url, "making").iterdir()
    there = {path.name: path.stat().st_mtime_ns for path in making_folder.iterdir()}
    assert sum(name.endswith(".faiss") and name != "trained.faiss" for name in there) == blocks
    trainings = []
    train = making.train
    monkeypatch.setattr(making, "train", lambda *given: trainings.append(given) or train(*given))
    card, built = index.build(archive, settings, each=one_by_one)
    assert built and len(trainings) == (moment == "train")
    assert_same_as_full(archive, settings, exact=False)
    assert builds.current(archive, "tiny") == card
    left = {path.name for path in Path(archive.url).rglob("*")}
    assert not Path(archive.url, "making").exists() or storage.names(f"{archive.url}/making") == []
    assert not any(name.startswith((".scratch", "tintype-", "block-")) for name in left)


def index_bytes(archive: Archive, card: dict[str, Any]) -> dict[str, bytes]:
    folder = Path(builds.folder(archive, "tiny", card["build"]))
    return {name: (folder / name).read_bytes() for name in small.INDEX_FILES if (folder / name).exists()}


@pytest.mark.parametrize("kind", ["ivf_flat", "ivf_pq"])
def test_the_number_of_workers_makes_no_difference(begun: Path, tmp_path: Path, kind: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    made = []
    for workers in (1, 2, 4):
        shutil.copytree(begun, tmp_path / str(workers))
        archive = Archive.open(str(tmp_path / str(workers)))
        with ThreadPoolExecutor(workers) as pool:
            card, _ = index.build(archive, IndexSettings(of="tiny", kind=kind), each=pool.map)
        made.append(index_bytes(archive, card))
    assert made[0].keys() >= {"index.faiss"}
    assert made[0] == made[1] == made[2]


def test_workers_on_ray_make_the_same(begun: Path, tmp_path: Path, ray_here: None) -> None:
    from pipeline import cluster

    made = []
    for name, each in {"here": fill.in_threads, "ray": cluster.each}.items():
        shutil.copytree(begun, tmp_path / name)
        archive = Archive.open(str(tmp_path / name))
        card, _ = index.build(archive, IndexSettings(of="tiny", kind="ivf_pq"), each=each)
        made.append(index_bytes(archive, card))
    assert made[0] == made[1]


# --- builds that are kept ---------------------------------------------------------------------------------------------


def test_kept_builds_have_their_base(archive: Archive) -> None:
    settings = IndexSettings(of="tiny", keep=2)
    names = [update(archive, settings)["build"]]
    readers: list[Build] = [builds.open_build(archive.url)]
    vector = readers[0].vector(5)
    before = readers[0].nearest(vector[None], 5)[1].tolist()
    for part in range(3, 7):
        add_part(archive, part, [f"flickr:new-{part}"])
        names.append(update(archive, settings)["build"])
        readers.append(builds.open_build(archive.url))
        assert readers[-1].segments  # what a reader has opened it keeps
    assert builds.all_of(archive, "tiny") == [names[0], *names[-2:]]
    assert readers[0].nearest(vector[None], 5)[1].tolist() == before
    for number, reader in enumerate(readers):
        assert len(reader.nearest(vector[None], 1000)[1][0]) == 1000
        assert np.count_nonzero(reader.nearest(vector[None], 1000)[1] >= 0) == 390 + number
    full, _ = index.build(archive, settings)
    assert builds.all_of(archive, "tiny") == [names[0], names[-1], full["build"]]
    add_part(archive, 7, ["flickr:last"])
    last = update(archive, settings)
    assert last["base"] == full["build"]
    assert builds.all_of(archive, "tiny") == [full["build"], last["build"]]
