"""Folders of real pictures, and of files that break decoders, from the tree to the tables."""

import json
from pathlib import Path

from pipeline.archive import Archive
from pipeline.photo import REASONS
from pipeline.status import status
from tests import photostream


def archived(folder: Path, archive: Path, model: Path) -> Archive:
    settings = photostream.settings(str(archive), "", model, "local", sources=[{"kind": "folder", "path": str(folder)}])
    photostream.carry_out(settings)
    return Archive.open(str(archive))


def test_a_folder_of_photographs(shared_data: Path, tmp_path: Path, model: Path) -> None:
    """The Farm Security Administration's: fifty photographs with titles, dates and makers from captions.jsonl."""
    archive = archived(shared_data / "fsa_owi", tmp_path / "archive", model)
    live = archive.live().to_pylist()
    assert len(live) == 50
    assert all(photo["title"] and photo["owner"] and photo["date_taken"] and photo["license_url"] for photo in live)
    assert all(photo["store"] == "derivative" and photo["format"] == "jpeg" for photo in live)
    assert status(archive)["tables"]["captions/tiny"]["outcomes"] == {"annotated": 50}


def test_files_that_break_decoders(shared_data: Path, tmp_path: Path, model: Path) -> None:
    """Every one ends as fetched, or failed with a reason, as its manifest says Pillow finds it; none is lost."""
    folder = shared_data / "nasty"
    archive = archived(folder, tmp_path / "archive", model)
    images = archive.table("images")
    rows = [
        row
        for part in images.parts()
        for row in images.read(part, ["photo_id", "outcome", "reason", "detail"]).to_pylist()
    ]
    ended = {row["photo_id"].removeprefix("file:"): row for row in rows}
    pictures = {path.name for path in folder.iterdir()} - {"manifest.jsonl"}
    assert set(ended) == pictures
    for row in rows:
        assert row["outcome"] == "fetched" if row["reason"] is None else row["reason"] in REASONS and row["detail"]
    for line in (folder / "manifest.jsonl").read_text().splitlines():
        told = json.loads(line)
        row = ended[told["file"]]
        if told["decodes"]:
            assert row["outcome"] == "fetched" or row["reason"] in ("too_large", "corrupt", "decoder_crashed"), row
        else:
            assert row["outcome"] == "failed", row
