"""annotate: parts at once give what they give one by one, in full batches; one part's trouble is that part's alone."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import pulse, schemas
from pipeline.archive import Archive
from pipeline.models import openclip
from pipeline.models.coca import Captioner
from pipeline.models.openclip import Model
from pipeline.stages import feed
from pipeline.stages.annotate import Annotator
from pipeline.stages.outputs import NO_PICTURE, NOT_FINITE, UNDECODABLE, Output

BATCH = 8
WHITE = "white"  # a picture that can be told from the others by its pixels
EMBEDDINGS, CAPTIONS = "embeddings/tiny", "captions/tiny"


def jpeg(seed: int) -> bytes:
    """A picture of coarse noise; white where the seed is negative."""
    noise = np.random.default_rng(abs(seed)).integers(0, 256, (4, 4, 3), np.uint8)
    image = Image.fromarray(noise if seed >= 0 else np.full_like(noise, 255)).resize((40, 32))
    file = BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


def add_images(archive: Archive, part: int, kinds: list[str]) -> None:
    """Write a part of images: a row is a "picture", WHITE, "gone", or a file that is "broken"."""
    rows = []
    for row_id, kind in zip(schemas.row_ids(part, len(kinds)).to_pylist(), kinds, strict=True):
        data = {WHITE: jpeg(-1), "broken": b"\xff\xd8\xff no picture"}.get(kind) or jpeg(row_id)
        image = {"bytes": None if kind == "gone" else data, "path": None}
        rows.append({"row_id": row_id, "photo_id": f"test:{row_id}", "image": image})
        rows[-1]["outcome"] = "gone" if kind == "gone" else "fetched"
    assert archive.table("images").write(part, [pa.Table.from_pylist(rows, schemas.IMAGES)], {}, schemas.IMAGES)


@pytest.fixture(scope="module")
def loaded(model: Path) -> Model:
    return openclip.load(f"local-dir:{model}", None, device="cpu", precision="fp32")


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive.create(str(tmp_path / "archive"))


@pytest.fixture
def sizes() -> list[int]:
    """Of the batches that the model has seen."""
    return []


@pytest.fixture
def annotator(
    archive: Archive, loaded: Model, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Annotator]:
    monkeypatch.setattr(loaded, "batch", BATCH)
    encode = loaded.encode

    def counted(pixels: Any) -> Any:
        sizes.append(len(pixels))
        return encode(pixels)

    monkeypatch.setattr(loaded, "encode", counted)
    outputs = [Output(EMBEDDINGS, loaded), Output(CAPTIONS, loaded, Captioner(loaded, "greedy"))]
    annotator = Annotator(archive, outputs)
    yield annotator
    annotator.close()
    assert not {thread.name for thread in threading.enumerate()} & {"assemble", "compute", "decode_0"}


def at_once(annotator: Annotator, parts: list[int]) -> list[Future[Any]]:
    """What comes of parts of which each is announced before the first is read."""
    with ThreadPoolExecutor(len(parts)) as pool:
        with annotator.feed.turn:
            futures = [pool.submit(annotator, part) for part in parts]
            with annotator.feed.changed:
                assert annotator.feed.changed.wait_for(lambda: len(annotator.feed.parts) == len(parts), 10)
        return futures


def rows(archive: Archive, table: str, part: int) -> list[dict[str, Any]]:
    return archive.table(table).read(part).to_pylist()


def test_an_annotator_tells_how_far_its_parts_are(
    archive: Archive, annotator: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse, "EVERY_S", 0.0)
    add_images(archive, 0, ["picture", "gone", "picture"] * 7)
    heard: list[pulse.Beat] = []
    annotator.hear = heard.append
    annotator(0)
    told = [(beat.stage, beat.part, beat.rows) for beat in heard]
    assert told == sorted(told) and told[-1] == ("annotate", 0, 21)
    assert heard[-1].busy_s and heard[-1].busy_s > 0


def test_batches_are_full_across_parts(archive: Archive, annotator: Annotator, sizes: list[int]) -> None:
    for part in range(2):
        add_images(archive, part, ["picture"] * 10)
    futures = at_once(annotator, [0, 1])
    assert sizes == [8, 8, 4]
    for part, future in enumerate(futures):
        for receipt in future.result():
            assert (receipt["part"], receipt["rows"], receipt["outcomes"]) == (part, 10, {"annotated": 10})
            assert (receipt["device"], receipt["precision"], receipt["batch"]) == ("cpu", "fp32", BATCH)
            phases = {"reading", "decoding", "waiting", "embedding", "captioning", "writing"}
            assert receipt["seconds"].keys() == phases and min(receipt["seconds"].values()) >= 0
    assert annotator(0) == []


def test_parts_at_once_give_what_each_gives_alone(
    archive: Archive, annotator: Annotator, tmp_path: Path, sizes: list[int]
) -> None:
    """Row for row, gone and undecodable ones included."""
    alone = Archive.create(str(tmp_path / "alone"))
    parts = [
        ["picture", "gone", "broken", *["picture"] * 60],
        ["gone", *["picture"] * 30, "broken"],
        ["gone", "broken"],
    ]
    for part, kinds in enumerate(parts):
        add_images(archive, part, kinds)
        add_images(alone, part, kinds)
    futures = at_once(annotator, [0, 1, 2])
    assert sizes == [8] * 11 + [3]
    assert futures[0].result()[0]["outcomes"] == {"annotated": 61, "no_picture": 1, "undecodable": 1}
    one_by_one = Annotator(alone, annotator.outputs)
    for part, kinds in enumerate(parts):
        one_by_one(part)
        for ours, theirs in zip(rows(archive, EMBEDDINGS, part), rows(alone, EMBEDDINGS, part), strict=True):
            if ours["embedding"]:
                assert np.allclose(ours.pop("embedding"), theirs.pop("embedding"), atol=1e-3)
            assert ours == theirs
        problems = {"gone": NO_PICTURE, "broken": UNDECODABLE}
        captions = rows(archive, CAPTIONS, part)
        assert [row["problem"] for row in captions] == [problems.get(kind) for kind in kinds]
        assert [row["photo_id"] for row in captions] == [row["photo_id"] for row in rows(archive, "images", part)]
        for ours, theirs in zip(captions, rows(alone, CAPTIONS, part), strict=True):
            for score in ("logprob", "cosine"):
                assert ours.pop(score) == pytest.approx(theirs.pop(score), abs=1e-4)
            assert ours == theirs
    one_by_one.close()


def test_a_part_that_lacks_one_table(archive: Archive, annotator: Annotator, sizes: list[int]) -> None:
    """Its pictures are in no batch with those that are wanted for more; what was there stays."""
    for part in range(2):
        add_images(archive, part, ["picture"] * 10)
    annotator(0)
    kept = rows(archive, EMBEDDINGS, 0)
    before = rows(archive, CAPTIONS, 0)
    (Path(archive.url) / CAPTIONS / "part-000000.parquet").unlink()
    sizes.clear()
    again, new = (future.result() for future in at_once(annotator, [0, 1]))
    assert sizes == [8, 2, 8, 2]
    assert [receipt["table"] for receipt in again] == [CAPTIONS] and len(new) == 2
    assert rows(archive, EMBEDDINGS, 0) == kept
    assert [row["caption"] for row in rows(archive, CAPTIONS, 0)] == [row["caption"] for row in before]


def test_a_part_for_a_model_of_smaller_batches(archive: Archive, loaded: Model, model: Path) -> None:
    """It is taken in though more of the pictures before it wait to be a batch than may wait of its own."""
    small = openclip.load(f"local-dir:{model}", None, device="cpu", precision="fp32")
    small.batch = 1
    for part in range(2):
        add_images(archive, part, ["picture"] * 40)
    first, second = Output(EMBEDDINGS, loaded), Output("embeddings/small", small)
    for output, done in ((first, 1), (second, 0)):
        annotator = Annotator(archive, [output])
        annotator(done)
        annotator.close()
    annotator = Annotator(archive, [first, second])
    for future in at_once(annotator, [0, 1]):
        assert future.result()[0]["outcomes"] == {"annotated": 40}
    annotator.close()


Encode = Callable[[Any], Any]


def with_white(monkeypatch: pytest.MonkeyPatch, model: Model, change: Callable[[np.ndarray, Any], Any]) -> None:
    """Let `change(which are white, what encode gave)` have a say in batches that hold white pictures."""
    encode: Encode = model.encode

    def changed(pixels: Any) -> Any:
        white = np.asarray(pixels).min(axis=(1, 2, 3)) > 250
        return change(white, encode(pixels)) if white.any() else encode(pixels)

    monkeypatch.setattr(model, "encode", changed)


def test_a_batch_that_fails_fails_its_parts_alone(
    archive: Archive, annotator: Annotator, loaded: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def device_fault(white: np.ndarray, encoded: Any) -> Any:
        raise ArithmeticError("device fault")

    for part in range(4):
        add_images(archive, part, [WHITE if part == 2 else "picture"] * BATCH)
    with monkeypatch.context() as patch:
        with_white(patch, loaded, device_fault)
        futures = at_once(annotator, [0, 1, 2, 3])
    with pytest.raises(ArithmeticError, match="device fault") as caught:
        futures[2].result()
    assert "device_fault" in [entry.name for entry in caught.traceback]
    assert archive.table(CAPTIONS).parts() == [0, 1, 3]
    annotator(2)
    assert archive.table(EMBEDDINGS).parts() == [0, 1, 2, 3]


def test_a_captioner_that_fails_fails_the_parts_it_holds(
    archive: Archive, annotator: Annotator, loaded: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def malformed(white: np.ndarray, encoded: Any) -> Any:
        return encoded[0], encoded[1][..., :3]

    for part in range(2):
        add_images(archive, part, ["picture"] * BATCH)
    add_images(archive, 2, [WHITE] * BATCH)
    annotator(0)
    with monkeypatch.context() as patch:
        with_white(patch, loaded, malformed)
        with pytest.raises((RuntimeError, ValueError)):
            annotator(2)
    annotator(1)
    assert archive.table(EMBEDDINGS).parts() == archive.table(CAPTIONS).parts() == [0, 1]


def test_a_part_that_cannot_be_read_is_not_waited_for(archive: Archive, annotator: Annotator) -> None:
    for part in range(3):
        add_images(archive, part, ["picture"] * 60)
    path = Path(archive.table("images").part_url(1))
    data = bytearray(path.read_bytes())
    second = pq.read_metadata(path).row_group(1)
    for column in range(second.num_columns):
        start = second.column(column).dictionary_page_offset or second.column(column).data_page_offset
        data[start : start + 20] = b"\xff" * 20
    path.write_bytes(data)
    futures = at_once(annotator, [0, 1, 2])
    with pytest.raises((OSError, pa.ArrowException)):
        futures[1].result()
    for part in (0, 2):
        assert all(receipt["outcomes"] == {"annotated": 60} for receipt in futures[part].result())
    assert archive.table(EMBEDDINGS).parts() == archive.table(CAPTIONS).parts() == [0, 2]


def test_a_vector_that_is_not_finite_is_a_problem_of_its_row(
    archive: Archive, annotator: Annotator, loaded: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(white: np.ndarray, encoded: Any) -> Any:
        vectors = encoded[0].copy()
        vectors[white] = np.nan
        return vectors, encoded[1]

    with_white(monkeypatch, loaded, poisoned)
    add_images(archive, 0, ["picture", WHITE, "picture"])
    add_images(archive, 1, [WHITE])
    for part, problems in enumerate([[None, NOT_FINITE, None], [NOT_FINITE]]):
        annotator(part)
        for table, column in ((EMBEDDINGS, "embedding"), (CAPTIONS, "caption")):
            made = rows(archive, table, part)
            assert [row["problem"] for row in made] == problems
            assert [row[column] is None for row in made] == [problem is not None for problem in problems]


def test_what_is_decoded_ahead_is_bounded(
    archive: Archive, annotator: Annotator, loaded: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the device is held up, about four batches are taken in, and no more."""
    add_images(archive, 0, ["picture"] * 300)
    started, go_on = threading.Event(), threading.Event()
    encode: Encode = loaded.encode

    def held_up(pixels: Any) -> Any:
        started.set()
        assert go_on.wait(10)
        return encode(pixels)

    monkeypatch.setattr(loaded, "encode", held_up)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(annotator, 0)
        assert started.wait(10)
        [part] = annotator.feed.parts
        deadline = time.monotonic() + 10
        while (annotator.feed.has_room(part) or not annotator.feed.staged) and time.monotonic() < deadline:
            time.sleep(0.01)
        taken_in = 300 - part.coming
        go_on.set()
        assert feed.AHEAD * BATCH < taken_in <= (feed.AHEAD + 1) * BATCH + 50
        assert future.result()[0]["outcomes"] == {"annotated": 300}


def test_closing_ends_what_is_under_way(
    archive: Archive, annotator: Annotator, loaded: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_images(archive, 0, ["picture"] * 300)
    started = threading.Event()
    encode: Encode = loaded.encode

    def told(pixels: Any) -> Any:
        started.set()
        return encode(pixels)

    monkeypatch.setattr(loaded, "encode", told)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(annotator, 0)
        assert started.wait(10)
        annotator.close()
        with pytest.raises(RuntimeError, match="stopped before the part was done"):
            future.result()
    assert archive.table(EMBEDDINGS).parts() == []
    with pytest.raises(RuntimeError, match="closed"):
        annotator(0)
