"""A plan reckons from what this archive has measured, and says what it does not know."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline import config, schemas, terminal
from pipeline.archive import Archive
from pipeline.plan import plan
from pipeline.stages import index
from tests import small_archive


def settings(archive: Path | str, **more: Any) -> config.Settings:
    given = {
        "archive": str(archive),
        "sources": [{"kind": "flickr", "user": "somebody"}],
        "embeddings": {"tiny": {"model": "ViT-B-32"}},
        "captions": {"tiny": {"model": "coca_ViT-B-32"}},
    }
    return config.parse(given | more)


def measured(url: str, parts: int = 2, rows: int = 10, *, together: bool = True) -> Archive:
    """An archive that says: 50,000 bytes, 0.2 s of a connection and 0.3 s of a device a photo."""
    archive = Archive.create(url)
    seconds = {"images": {"downloading": 0.15 * rows, "decoding": 0.05 * rows}}
    seconds["embeddings/tiny"] = {"embedding": 0.1 * rows, "captioning": 0.2 * rows if together else 0.0}
    seconds["captions/tiny"] = {"embedding": 0.1 * rows if together else 0.0, "captioning": 0.2 * rows}
    tables = {"photos": schemas.PHOTOS, "images": schemas.IMAGES, "captions/tiny": schemas.CAPTIONS}
    tables["embeddings/tiny"] = schemas.embeddings(small_archive.DIM)
    archive.table("embeddings/tiny").claim(small_archive.IDENTITY)
    for name, schema in tables.items():
        for part in range(parts):
            ids = schemas.row_ids(part, rows).to_pylist()
            table = pa.Table.from_pylist([{"row_id": i, "photo_id": f"flickr:{i}"} for i in ids], schema)
            receipt = {"seconds": seconds.get(name, {}), "outcomes": {}, "exceptions": [], "bytes": 50_000 * rows}
            assert archive.table(name).write(part, [table], receipt, schema)
    return archive


@pytest.mark.parametrize("together", [True, False])
def test_rates_are_those_of_the_receipts(tmp_path: Path, together: bool) -> None:
    archive = measured(str(tmp_path), together=together)
    said = plan(settings(tmp_path), archive, photos=10_020, devices=4, price=2.0)
    assert said["photos"] == {"total": 10_020, "to_list": 10_000, "to_fetch": 10_000, "to_annotate": 10_000}
    assert said["parts"] == 11
    assert said["api_calls"] == 22
    assert said["bytes"] == 10_000 * 50_000
    assert said["device_seconds"] == pytest.approx(3000)
    assert said["seconds"] == pytest.approx({"list": 22, "fetch": 1000, "annotate": 750, "index": None})
    assert said["wall_seconds"] == pytest.approx(1000) and said["bottleneck"] == "fetch"
    assert said["cost"] == pytest.approx(3000 / 3600 * 2)
    assert said["measured"] == ["bytes", "annotate"]


def test_without_a_limit_of_requests_the_connections_are_what_counts(tmp_path: Path) -> None:
    archive = measured(str(tmp_path))
    given = settings(tmp_path, images={"rate": None, "connections": 10})
    said = plan(given, archive, photos=1020, workers=2)
    assert said["seconds"]["fetch"] == pytest.approx(1000 * 0.2 / 10 / 2)
    assert said["bottleneck"] == "annotate"


def test_what_is_done_needs_no_time(tmp_path: Path) -> None:
    said = plan(settings(tmp_path), measured(str(tmp_path)))
    assert said["wall_seconds"] == 0 and said["bottleneck"] is None
    assert said["photos"]["to_annotate"] == 0 and said["bytes"] == 0


def test_what_was_never_measured_is_said_to_be_unknown(tmp_path: Path) -> None:
    said = plan(settings(tmp_path / "none"), None, photos=45_000)
    assert said["device_seconds"] is said["wall_seconds"] is said["cost"] is None
    assert said["seconds"]["fetch"] == pytest.approx(4500)
    assert said["measured"] == []


def test_an_index_that_grew_takes_as_long_as_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_archive.small_numbers(monkeypatch)
    archive, _ = small_archive.make(str(tmp_path / "archive"), parts=1)
    base, _ = index.build(archive, index.IndexSettings())
    small_archive.change(archive, "flickr:0-0", "title", '"edited"')
    grown, _ = index.build(archive, index.IndexSettings(), update=True)
    assert grown["base"] == base["build"]
    seconds = plan(settings(archive.url), archive, photos=2000)["seconds"]["index"]
    assert seconds == pytest.approx(100 * sum(base["seconds"].values()))


def test_the_command(tmp_path: Path) -> None:
    measured(str(tmp_path / "archive"))
    conf = tmp_path / "conf.yaml"
    conf.write_text(
        f"archive: {tmp_path}/archive\nsources: [{{kind: flickr, user: somebody}}]\n"
        "embeddings: {tiny: {model: ViT-B-32}}\n"
    )

    def asked(*more: str) -> str:
        command = [Path(sys.executable).with_name("tintype"), "plan", conf, "--photos", "45000", *more]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    text = asked("--price", "3")
    assert "in all   3 h 45 min" in text and "as long as annotate takes" in text and "cost" in text
    assert json.loads(asked("--json"))["photos"]["total"] == 45_000


@pytest.mark.parametrize(
    ("seconds", "said"), [(45, "45 s"), (720, "12 min"), (12_000, "3 h 20 min"), (187_200, "2 days 4 h")]
)
def test_durations(seconds: float, said: str) -> None:
    assert terminal.duration(seconds) == said


@pytest.mark.parametrize(
    ("number", "said"), [(12, "12 bytes"), (3.4e8, "340 MB"), (5.1e9, "5.1 GB"), (2e15, "2,000 TB")]
)
def test_sizes(number: float, said: str) -> None:
    assert terminal.size(number) == said
