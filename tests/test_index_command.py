"""`tintype index`, and searches of what it made, as users meet them: whatever is damaged is said in one line."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import builds
from pipeline.archive import Archive
from pipeline.cli import main
from pipeline.stages import index
from pipeline.stages.index import IndexSettings
from tests import small_archive as small

FILES = ("index.faiss", "photos.parquet", "card.json")
KINDS = {"flat": FILES, "ivf_flat": FILES, "ivf_pq": (*FILES, "vectors.npy", "row_ids.npy")}
ROWS = 140


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By kind, the folder of an archive with a build that grew; nobody writes there."""
    folders = {}
    top = tmp_path_factory.mktemp("made")
    small.make(str(top / "first"), parts=2, rows=ROWS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "GROWS", 1)
        for kind in KINDS:
            folders[kind] = top / kind
            shutil.copytree(top / "first", folders[kind], copy_function=os.link)
            archive = Archive.open(str(folders[kind]))
            index.build(archive, IndexSettings(kind=kind))
            small.add_pictures(archive, 2, [small.photo("flickr:new")])
            small.add_vectors(archive, 2, list(small.random_vectors(1, seed=9)))
            small.change(archive, "flickr:0-9", "visible", "false")
            assert index.build(archive, IndexSettings(kind=kind), update=True)[0]["base"]
    return folders


@pytest.fixture
def archive(made: dict[str, Path], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    monkeypatch.setattr(index, "GROWS", 1)
    shutil.copytree(made[kind], tmp_path / "archive")
    return Archive.open(str(tmp_path / "archive"))


@pytest.fixture
def kind() -> str:
    return "flat"


@pytest.fixture
def conf(archive: Archive, kind: str, tmp_path: Path) -> Path:
    path = tmp_path / "conf.yaml"
    (tmp_path / "pictures").mkdir()
    settings = {
        "archive": archive.url,
        "sources": [{"kind": "folder", "path": str(tmp_path / "pictures")}],
        "embeddings": {"tiny": {"model": "local-dir:/nowhere"}},
        "run": {"runner": "local"},
        "index": {"kind": kind},
    }
    path.write_text(yaml.safe_dump(settings))
    return path


def folder_of(archive: Archive, base: bool = False) -> Path:
    """The folder of the build in use, or of what it grew from."""
    card = builds.current(archive, "tiny")
    assert card is not None
    return Path(builds.folder(archive, "tiny", card["base" if base else "build"]))


Run = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Run:
    def refused(*arguments: object) -> str:
        """The one line that a command which exits with 2 leaves on standard error."""
        assert main([str(argument) for argument in arguments]) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        [line] = [line for line in shown.err.splitlines() if line]
        assert line.startswith("tintype: ")
        return line

    return refused


@pytest.fixture
def done(capsys: pytest.CaptureFixture[str]) -> Run:
    def done(*arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return done


def hits(said: str) -> list[str]:
    return [hit["photo_id"] for hit in json.loads(said)["hits"]]


# --- what is damaged --------------------------------------------------------------------------------------------------

DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda whole: None,
    "empty": lambda whole: b"",
    "cut short": lambda whole: whole[: len(whole) * 2 // 3],
    "zeros": lambda whole: bytes(len(whole)),
    "another file": lambda whole: b"{}",
}


def harm(path: Path, how: str) -> bytes:
    """Damage a file; what it was."""
    whole = path.read_bytes()
    damaged = DAMAGES[how](whole)
    path.unlink()
    if damaged is not None:
        path.write_bytes(damaged)
    return whole


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_one_line(archive: Archive, kind: str, refused: Run, done: Run) -> None:
    asked = ("search", archive.url, "--image", "flickr:0-1", "--json", "-k", 4)
    before = done(*asked)
    assert len(hits(before)) == 4
    for base in (False, True):
        for name in (*KINDS[kind], *([] if base else ["masked.npy"])):
            path = folder_of(archive, base) / name
            for how in DAMAGES:
                whole = harm(path, how)
                line = refused(*asked)
                gone = "is not there" in line or "no index" in line
                assert ("damaged" in line or (gone and name == "card.json")) and "`tintype index CONF`" in line
                path.unlink(missing_ok=True)
                path.write_bytes(whole)
    (folder_of(archive, base=True) / builds.TRUTH).unlink()  # no search reads it
    assert done(*asked) == before


@pytest.mark.parametrize("kind", ["flat", "ivf_pq"])
def test_photos_damaged_within_are_one_line(archive: Archive, refused: Run, done: Run) -> None:
    path = folder_of(archive, base=True) / "photos.parquet"
    whole = path.read_bytes()
    path.unlink()
    middle = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    path.write_bytes(whole[:4] + os.urandom(middle - 4) + whole[middle:])
    assert refused("search", archive.url, "--image", "flickr:0-1")


def test_a_pointer_that_names_nothing(archive: Archive, conf: Path, refused: Run, done: Run) -> None:
    pointer = Path(archive.url, "index", "tiny", "CURRENT")
    whole = pointer.read_bytes()
    for wrong in (b"", b"20200101T000000000000-abcd", b"..", b"CURRENT", b"\xff\x00", b"x" * 5000, whole + b"\n"):
        pointer.unlink()
        pointer.write_bytes(wrong)
        assert "no index" in refused("search", archive.url, "--image", "flickr:0-1")
    done("index", conf)
    assert hits(done("search", archive.url, "--image", "flickr:0-1", "--json"))


def test_an_index_of_another_release_or_model(archive: Archive, conf: Path, refused: Run, done: Run) -> None:
    path = folder_of(archive) / "card.json"
    card = json.loads(path.read_text())

    def with_card(**changed: Any) -> None:
        path.unlink()
        path.write_text(json.dumps(card | changed))

    for wrong in (builds.FORMAT + 1, builds.FORMAT - 1, None):
        with_card(format=wrong)
        assert "built by another release; `tintype index CONF`" in refused("search", archive.url, "--image", "x")
    with_card(identity=card["identity"] | {"checkpoint_sha256": "cd" * 32})
    assert "weights" in refused("search", archive.url, "a boat")
    with_card(format=builds.FORMAT - 1)
    done("index", conf, "--update")
    assert hits(done("search", archive.url, "--image", "flickr:0-1", "--json"))


def test_a_damaged_card_stops_neither_the_next_build_nor_forgetting(
    archive: Archive, conf: Path, refused: Run, done: Run
) -> None:
    current, base = folder_of(archive), folder_of(archive, base=True)
    harm(current / "card.json", "cut short")
    for command in (("index", conf), ("index", conf, "--update"), ("status", archive.url), ("plan", conf)):
        assert f"the card in {current} is damaged; delete that folder" in refused(*command)
    shutil.rmtree(current)
    done("index", conf)
    harm(base / "card.json", "zeros")  # of a build that is not in use any more
    small.change(archive, "flickr:0-3", "title", '"edited"')
    done("index", conf)
    assert main(["forget", archive.url, "flickr:0-3", "--reason", "asked"]) == 0


@pytest.mark.parametrize("kind", ["ivf_flat"])
@pytest.mark.parametrize("name", ["index.faiss", "photos.parquet", "truth.parquet", "card.json"])
def test_a_damaged_base_is_one_line_until_it_is_deleted(
    archive: Archive, conf: Path, name: str, refused: Run, done: Run
) -> None:
    base = folder_of(archive, base=True)
    small.change(archive, "flickr:0-3", "title", '"edited"')
    for how in ("cut short", "zeros", "missing"):
        if (name, how) == ("card.json", "missing"):
            continue
        whole = harm(base / name, how)
        assert f"{base} is damaged; delete that folder" in refused("index", conf, "--update")
        (base / name).unlink(missing_ok=True)
        (base / name).write_bytes(whole)
    shutil.rmtree(base)
    done("index", conf, "--update")
    assert len(hits(done("search", archive.url, "--image", "flickr:0-1", "--json", "-k", 5))) == 5


# --- what is asked ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_more_than_there_is_and_nothing_at_all(archive: Archive, done: Run) -> None:
    asked = ("search", archive.url, "--image", "flickr:0-1", "--json")
    everything = hits(done(*asked, "-k", 1000))
    assert len(everything) == len(set(everything)) <= 2 * ROWS - 1
    assert hits(done(*asked, "-k", 5, "--where", "false")) == []
    assert hits(done(*asked, "-k", 5, "--where", "photo_id = 'flickr:0-9'")) == []  # it is gone
    assert hits(done(*asked, "-k", 5, "--where", "photo_id = 'flickr:new'")) == ["flickr:new"]
    assert len(hits(done(*asked, "-k", 1000, "--where", "photo_id LIKE 'flickr:0-%'"))) == ROWS - 2


def test_explain_and_update(archive: Archive, conf: Path, refused: Run, done: Run) -> None:
    said = done("index", conf, "--explain")
    assert "tiny: 281 vectors of 16 dimensions" in said and "flat: as configured" in said
    assert all(kind in said for kind in ("ivf_flat", "ivf_pq"))
    said = done("index", conf, "--explain", "--set", "index.kind=auto", "--set", "index.memory=600M")
    assert "fewer than 10,000 rows" in said
    before = folder_of(archive)
    done("index", conf, "--update")
    assert folder_of(archive) == before  # nothing changed
    small.change(archive, "flickr:0-3", "title", '"edited"')
    done("index", conf, "--update")
    assert folder_of(archive) != before
    card = json.loads((folder_of(archive) / "card.json").read_text())
    assert card["why"].startswith("grown from")
    done("index", conf)
    assert json.loads((folder_of(archive) / "card.json").read_text())["base"] is None


def test_settings_that_cannot_be(archive: Archive, conf: Path, refused: Run, done: Run) -> None:
    before = folder_of(archive)
    for option in ((), ("--explain",), ("--update",)):
        line = refused("index", conf, "--set", "index.kind=nonsense", *option)
        assert "index.kind: FAISS has no index 'nonsense' for 16 dimensions; give auto" in line
    too_many = "280 vectors are not enough to train IVF100000,Flat; choose another index.kind"
    assert too_many in refused("index", conf, "--set", "index.kind=IVF100000,Flat")
    assert "memory" in refused("index", conf, "--set", "index.memory=much")
    assert "memory" in refused("index", conf, "--set", "index.memory=0")
    for unusable in ("NSG32,Flat", "IDMap,Flat", "IVF4,PQ8x4fsr,Refine(Flat)"):
        assert "index.kind" in refused("index", conf, "--set", f"index.kind={unusable}")
    assert folder_of(archive) == before
    for usable in ("HNSW16", "SQ8", "IVF4,SQ8", "PCA8,Flat", "IVF4,Flat", "PQ4x4fs"):
        done("index", conf, "--set", f"index.kind={usable}")
        assert hits(done("search", archive.url, "--image", "flickr:0-1", "--json"))
