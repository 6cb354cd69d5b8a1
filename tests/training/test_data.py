"""Data for training: each kind and layout from real files, pixels as OpenCLIP's, and a kill in the middle."""

import hashlib
import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import fsspec
import numpy as np
import pydantic
import pytest
from PIL import Image

from pipeline import imaging
from pipeline.archive import Archive
from pipeline.evaluation import labelled
from pipeline.models import openclip
from pipeline.photo import UserError
from pipeline.training.data import open_data
from pipeline.training.examples import Examples, is_validation
from pipeline.training.settings import AnyData, ArchiveData, CaptionedData, LabelledData
from pipeline.upkeep import correct, forget
from tests import small_archive as small
from tests.evaluation.test_zero_shot import written
from tests.training import decoding

SIDE = 8


def shown(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    return items


def fit(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((SIDE, SIDE)))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder, an empty one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tintype" / "pixels"


def opened(settings: AnyData, how: Callable[[Image.Image], np.ndarray] = fit) -> Examples:
    return open_data(settings, how, SIDE, "squashed", shown)


def told(data: Examples) -> dict[str, set[str]]:
    """Photo id → what is true of it."""
    return {photo_id: set(data.claims(row)) for row, photo_id in enumerate(data.ids)}


def refused(settings: AnyData) -> str:
    with pytest.raises(UserError) as raised:
        opened(settings)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# --- validation -------------------------------------------------------------------------------------------------------


def test_validation_is_a_share_that_stays() -> None:
    ids = [f"flickr:{number}" for number in range(20_000)]
    for share in (0.02, 0.1, 0.5):
        chosen = {photo_id for photo_id in ids if is_validation(photo_id, share)}
        assert abs(len(chosen) / len(ids) - share) < 4 * (share * (1 - share) / len(ids)) ** 0.5
        # It is the beginning of the order that `evaluate --limit` takes photos in.
        in_order = sorted(ids, key=lambda photo_id: hashlib.sha256(photo_id.encode()).digest())
        assert chosen == set(in_order[: len(chosen)])
    assert {i for i in ids if is_validation(i, 0.02)} < {i for i in ids if is_validation(i, 0.1)}
    # Of the releases to come as well.
    assert [number for number in range(40) if is_validation(f"flickr:{number}", 0.1)] == KEPT
    assert not any(is_validation(photo_id, 0.0) for photo_id in ids)
    assert all(is_validation(photo_id, 1.0) for photo_id in ids)


KEPT = [14, 17, 18, 29]


# --- an archive -------------------------------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Twelve photos in two parts: a description in HTML, tags, people's captions, a file name for a title."""
    archive = Archive.create(str(tmp_path / "archive"))
    ids = [f"flickr:{number}" for number in (9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 10, 11)]
    photos = [small.photo(photo_id) for photo_id in ids]
    photos[0] |= {
        "description": "<b>A mill</b> &amp; its  pond",
        "tags": ["mill", "Mill", "dc:id=1", "pond"],
        "machine_tags": ["dc:id=1"],
    }
    photos[1] |= {"title": "IMG_0042.JPG", "tags": []}
    photos[2] |= {"human_captions": ["A boat .", "a boat at  sea", ""], "title": "Boats"}
    photos[3] |= {"title": "boats"}
    small.add_pictures(archive, 0, photos[:8])
    small.add_pictures(archive, 1, photos[8:], {"flickr:1": "failed"})
    for part in (0, 1):
        small.add_captions(archive, part)
    return archive


def test_an_archive_tells_what_its_tables_and_changes_say(archive: Archive) -> None:
    small.change(archive, "flickr:5", "title", '"What it is called now"')
    small.change(archive, "flickr:4", "visible", "false")
    forget.forget(archive, ["flickr:3"], "asked")
    correct.correct(archive, "flickr:2", "a person's caption", "Ann")
    correct.correct(archive, "flickr:0", None, "Ann")
    every = ArchiveData(
        archive.url, texts=("human_captions", "captions", "title", "description", "tags"), captions="tiny"
    )
    data = opened(every)
    assert list(data.ids) == sorted(data.ids) == [f"flickr:{n}" for n in (0, 10, 11, 2, 5, 6, 7, 8, 9)]
    found = told(data)
    assert found["flickr:9"] == {
        "title of flickr:9", "A mill & its pond", "mill", "pond", "caption of flickr:9",
    }  # fmt: skip
    assert found["flickr:8"] == {"caption of flickr:8"}
    assert found["flickr:7"] == {"A boat .", "a boat at sea", "caption of flickr:7", "Boats", "a tag"}
    assert "Boats" in found["flickr:6"]  # equal, but for case
    assert found["flickr:5"] == {"What it is called now", "caption of flickr:5", "a tag"}
    assert found["flickr:2"] == {"a person's caption", "title of flickr:2", "a tag"}
    assert found["flickr:0"] == {"title of flickr:0", "a tag"}
    captions = {photo_id: data.caption(row) for row, photo_id in enumerate(data.ids)}
    assert captions["flickr:7"] == "A boat ." and captions["flickr:2"] == "a person's caption"
    assert captions["flickr:0"] == "title of flickr:0"

    dice = random.Random(0)
    drawn = [data.draw(list(data.ids).index("flickr:9"), dice) for _ in range(400)]
    assert set(drawn) == found["flickr:9"]
    assert 60 < drawn.count("mill") + drawn.count("pond") < 140  # one kind of four

    without = opened(replace(every, captions=None, texts=("captions", "tags"), where="photo_id <> 'flickr:9'"))
    assert told(without)["flickr:2"] == {"a person's caption", "a tag"} and "flickr:8" not in without.ids
    assert without.caption(list(without.ids).index("flickr:5")) is None


def test_pictures_are_those_of_the_photos_and_as_openclip_takes_them(archive: Archive, model: Path) -> None:
    net = openclip.load(f"local-dir:{model}", None, precision="fp32")
    data = open_data(ArchiveData(archive.url), net.preprocess, net.side, "as the model", shown)
    assert data.side == net.side and data.together == 1
    images = archive.table("images")
    held = {
        row["photo_id"]: row["image"]["bytes"]
        for part in images.parts()
        for row in images.read(part, ["photo_id", "image"]).to_pylist()
        if row["image"]
    }
    rows = [3, 0, len(data.ids) - 1]
    expected = [net.preprocess(imaging.decode(held[data.ids[row]], max_pixels=10**6, side=net.side)) for row in rows]
    assert np.array_equal(data.pixels(rows), np.stack(expected))
    assert data.pixels(rows).dtype == np.uint8 and len({square.tobytes() for square in data.pixels(rows)}) == 3


def test_pictures_are_decoded_once_until_the_archive_changes(archive: Archive, cache: Path) -> None:
    decodings = itertools.count()

    def counted(image: Image.Image) -> np.ndarray:
        next(decodings)
        return fit(image)

    settings = ArchiveData(archive.url)
    first = opened(settings, counted)
    again = opened(replace(settings, texts=("title", "tags")), counted)
    assert next(decodings) == len(first.ids) == 10 < len(again.ids) + 1  # one photo has no text
    [kept] = cache.iterdir()
    forget.forget(archive, [again.ids[0]], "asked")
    opened(settings, counted)
    assert next(decodings) == 1 + 10 + 9
    [squares] = kept.glob("*/pixels.npy")  # nothing is left of the forgotten one
    assert len(np.load(squares)) == 9


def test_nothing_to_learn_from_is_one_line(archive: Archive, tmp_path: Path) -> None:
    said = ArchiveData(archive.url)
    nobody_told = replace(said, texts=("human_captions",), where="photo_id = 'flickr:0'")
    assert "has any of the texts human_captions" in refused(nobody_told)
    assert "keeps no photo" in refused(replace(said, where="false"))
    assert "cannot use --where 'nonsense'" in refused(replace(said, where="nonsense"))
    assert "no captions table 'tin': it has tiny" in refused(replace(said, captions="tin"))
    assert "gives 1 photos to learn from, and 4 are the fewest" in refused(replace(said, where="photo_id = 'flickr:0'"))
    assert "there is no archive" in refused(ArchiveData(str(tmp_path / "none")))
    Archive.create(str(tmp_path / "empty"))
    assert "holds no pictures yet" in refused(ArchiveData(str(tmp_path / "empty")))


def test_settings_are_told_apart_by_their_kind() -> None:
    adapter = pydantic.TypeAdapter[Any](AnyData)
    given = {"kind": "archive", "archive": "conf/loc.yaml", "texts": ["tags", "title"]}
    assert adapter.validate_python(given) == ArchiveData("conf/loc.yaml", texts=("tags", "title"))
    assert adapter.validate_python({"kind": "labelled", "path": "cifar10:/data"}) == LabelledData("cifar10:/data")
    for wrong in (given | {"texts": []}, given | {"texts": ["caption"]}, given | {"path": "."}, {"path": "."}):
        with pytest.raises(pydantic.ValidationError):
            adapter.validate_python(wrong)
    for where in (given, {"kind": "labelled", "path": "."}, {"kind": "captioned", "path": "."}, {"kind": "scenes"}):
        with pytest.raises(UserError, match="must hold"):
            adapter.validate_python(where | {"templates": ["a photo"]})


# --- labelled ---------------------------------------------------------------------------------------------------------


def colours(folder: Path, names: Iterable[str], each: int = 3) -> None:
    for place, name in enumerate(names):
        for number in range(each):
            path = folder / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (12, 10), (60 * place, 60 * number, 9)).save(path)


def test_a_folder_by_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    colours(tmp_path / "set", ["steam_train", "boat"])
    (tmp_path / "set" / "boat" / "notes.txt").write_text("nothing to see")
    (tmp_path / "set" / "boat" / "half.png").write_bytes((tmp_path / "set" / "boat" / "0.png").read_bytes()[:-30])
    data = opened(LabelledData(str(tmp_path / "set")))
    assert told(data) == {
        **{f"file:boat/{number}.png": {"boat"} for number in range(3)},
        **{f"file:steam_train/{number}.png": {"steam train"} for number in range(3)},
    }
    assert list(data.ids) == sorted(data.ids) and data.caption(0) is None
    assert data.pixels([1, 4])[:, 0, 0].tolist() == [[60, 60, 9], [0, 60, 9]]
    [line] = caplog.messages
    assert line.endswith("left out 2 of 8 photos: truncated 1, not_an_image 1")

    (tmp_path / "names.txt").write_text("boat\ta small boat\nsteam_train\tan engine\n")
    named = opened(LabelledData(str(tmp_path / "set"), classes=str(tmp_path / "names.txt")))
    assert set.union(*told(named).values()) == {"a small boat", "an engine"}


@pytest.mark.parametrize("kind", ["cifar10", "cifar100"])
def test_cifar_gives_its_training_pictures(tmp_path: Path, kind: str) -> None:
    folder, test, meta, labels, names = labelled.CIFAR[kind]
    dice = np.random.default_rng(0)
    truth, pixels = [], []
    for file in (test, *labelled.TRAIN[kind]):
        data = dice.integers(0, 256, (6, 3 * 32 * 32), np.uint8)
        shows = dice.integers(0, 3, 6).tolist()
        written(tmp_path / folder / file, {b"data": data, labels.encode(): shows})
        if file != test:
            truth += shows
            pixels += list(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    written(tmp_path / folder / meta, {names.encode(): [b"cat", b"dog", b"tall_ship"]})
    data = open_data(LabelledData(f"{kind}:{tmp_path}"), np.asarray, 32, "as it is", shown)
    assert len(data.ids) == len(truth) and data.ids[3] == f"{kind}:train/00003"
    assert [data.draw(row, random.Random(0)) for row in range(len(truth))] == [
        ("cat", "dog", "tall ship")[number] for number in truth
    ]
    assert np.array_equal(data.pixels(range(len(truth))), np.stack(pixels))


# --- captioned --------------------------------------------------------------------------------------------------------

CAPTIONS = {f"1000{number}_ab.jpg": [f"view {number} , far", f'the "{number}" .', "A boat ."] for number in range(6)}


def csv(folder: Path) -> str:
    lines = [f"{name},{text}" for name, some in CAPTIONS.items() for text in some]
    (folder / "captions.txt").write_text("\n".join(["image,caption", *lines]))
    return "Images"


def token(folder: Path) -> str:
    (folder / "Flickr8k_text").mkdir()
    lines = [f"{name}#{number}\t{text}" for name, some in CAPTIONS.items() for number, text in enumerate(some)]
    (folder / "Flickr8k_text" / "Flickr8k.token.txt").write_text("\n".join(lines))
    return "Flicker8k_Dataset"


def coco(folder: Path) -> str:
    images = [{"id": number, "file_name": name} for number, name in enumerate(CAPTIONS)]
    told = [{"image_id": place, "caption": text} for place, some in enumerate(CAPTIONS.values()) for text in some]
    (folder / "annotations").mkdir()
    (folder / "annotations" / "captions_val2014.json").write_text(json.dumps({"images": images, "annotations": told}))
    return "val2014"


@pytest.mark.parametrize("layout", [csv, token, coco])
def test_captions_beside_pictures(
    tmp_path: Path, layout: Callable[[Path], str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    pictures = folder / layout(folder)
    pictures.mkdir()
    for number, name in enumerate([*CAPTIONS, "untold.jpg"]):
        (pictures / name).write_bytes(small.jpeg((40 * number, 0, 0)))
    data = opened(CaptionedData(str(folder)))
    assert told(data) == {f"file:{pictures.name}/{name}": set(some) for name, some in CAPTIONS.items()}
    assert data.caption(2) == "view 2 , far"
    reds = data.pixels(range(len(data.ids)))[:, 0, 0, 0].tolist()
    assert reds == pytest.approx([40 * number for number in range(6)], abs=3)
    assert "left out 1 of 7 photos: no text 1" in caplog.text

    (pictures / "10002_ab.jpg").write_bytes(small.jpeg((0, 0, 250), (90, 70)))  # another, under the same name
    assert opened(CaptionedData(str(folder))).pixels([2])[0, 0, 0, 2] > 200


def test_captions_and_pictures_at_a_url() -> None:
    files = fsspec.filesystem("memory")
    lines = [f"{name},{some[0]}" for name, some in CAPTIONS.items()]
    files.pipe({f"/set/Images/{name}": small.jpeg((200, 0, 0)) for name in CAPTIONS})
    files.pipe("/set/captions.txt", "\n".join(["image,caption", *lines]).encode())
    data = opened(CaptionedData("memory://set"))
    assert told(data) == {f"file:Images/{name}": {some[0]} for name, some in CAPTIONS.items()}
    files.pipe("/set/Images/10002_ab.jpg", small.jpeg((0, 0, 250), (90, 70)))  # another, under the same name
    assert opened(CaptionedData("memory://set")).pixels([1, 2])[:, 0, 0, 2].tolist() == pytest.approx([0, 250], abs=3)


def test_pictures_that_nobody_captioned_are_refused_in_one_line(tmp_path: Path) -> None:
    colours(tmp_path, ["boat"])
    assert "has captions of them" in refused(CaptionedData(str(tmp_path)))
    assert "there is no folder" in refused(CaptionedData(str(tmp_path / "none")))


# --- the squares ------------------------------------------------------------------------------------------------------


def test_what_was_decoded_before_a_kill_is_not_decoded_again(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "squares"
    for die_at in (3, 30):
        command = [sys.executable, "-m", "tests.training.decoding", str(folder), str(die_at)]
        assert subprocess.run(command, cwd=Path(__file__).parents[2], check=False).returncode == -signal.SIGKILL
    with (folder / "blocks.jsonl").open("a") as notes:
        notes.write('\n{"block": 5, "unus')  # as a kill in the middle of a line leaves it
    found, unusable, again = decoding.squares(folder)
    assert again == list(range(28, 40)) and unusable == {11: "not_an_image"}
    assert found[:, 0, 0, 0].tolist() == [0 if number == 11 else 5 * number for number in range(40)]
    found, unusable, again = decoding.squares(folder)
    assert again == [] and unusable == {11: "not_an_image"} and found[39, 0, 0, 0] == 195


def test_of_several_who_want_the_same_pictures_one_decodes_them(tmp_path: Path) -> None:
    made: list[Any] = []
    folder = tmp_path / "data" / "squares"
    threads = [threading.Thread(target=lambda: made.append(decoding.squares(folder))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(again) for *_, again in made) == [0, 0, 40]
    assert all(np.array_equal(found, made[0][0]) for found, *_ in made)


def test_a_folder_swept_by_others_while_it_waits_is_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "squares"
    folder.parent.mkdir()
    made: list[Any] = []
    with filelock.FileLock(folder.parent / ".lock"):
        waiting = threading.Thread(target=lambda: made.append(decoding.squares(folder)))
        waiting.start()
        time.sleep(0.3)
        shutil.rmtree(folder, ignore_errors=True)  # as who decodes another state of the same data does
    waiting.join()
    assert [len(again) for *_, again in made] == [40]
