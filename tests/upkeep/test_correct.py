"""A person's caption stands over the machine's wherever captions are shown."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline import builds, cli, contact_sheet, search, terminal
from pipeline.archive import Archive
from pipeline.export import export
from pipeline.stages import index
from pipeline.upkeep import forget
from tests import small_archive as small


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    archive, _ = small.make(str(tmp_path / "archive"), parts=1)
    index.build(archive, index.IndexSettings())
    return archive


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["correct", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def first_hit(archive: Archive) -> search.Answer:
    """What is nearest to photo 0-1, though that is a neighbour only by chance: there are but a few."""
    build = builds.open_build(archive.url)

    def load() -> search.Embedder:
        raise AssertionError("a photo of the archive needs no model")

    return search.search(build, search.Query(image="flickr:0-1", k=20), load)


def caption_of(archive: Archive, photo_id: str) -> tuple[str | None, str | None, str | None]:
    [hit] = [hit for hit in first_hit(archive).hits if hit.photo_id == photo_id]
    return hit.caption, hit.caption_model, hit.caption_by


def test_a_correction_wins_at_once_and_in_every_build_after(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert caption_of(archive, "flickr:0-3") == ("caption of flickr:0-3", "test-captioner", None)
    code, said, _ = command(capsys, archive.url, "flickr:0-3", "--caption", "Anna, 1910", "--by", "R. Curator")
    assert code == 0 and "Anna, 1910" in said
    expected = ("Anna, 1910", None, "R. Curator")
    assert caption_of(archive, "flickr:0-3") == expected
    index.build(archive, index.IndexSettings())
    assert caption_of(archive, "flickr:0-3") == expected
    build = builds.open_build(archive.url)
    assert build.matching("caption = 'Anna, 1910'").tolist() == [3]

    # A machine that captions everything anew does not undo it.
    small.add_captions(archive, 0, name="newer")
    index.build(archive, index.IndexSettings(captions="newer"))
    assert caption_of(archive, "flickr:0-3") == expected

    answer = first_hit(archive)
    page = contact_sheet.render([builds.open_build(archive.url)], [answer])
    assert "Caption written by R. Curator" in page and '<p class="caption person"' in page
    shown = tmp_path / "shown.txt"
    from rich.console import Console

    with shown.open("w") as file:
        Console(file=file, width=200).print(terminal.hits(answer))
    assert "Anna, 1910  caption by R. Curator" in shown.read_text()
    out = str(tmp_path / "wide")
    export(builds.open_build(archive.url), "wide", out, where=None, restricted=True)
    rows = {row["photo_id"]: row for row in pq.read_table(f"{out}/data/part-000000.parquet").to_pylist()}
    assert (rows["flickr:0-3"]["caption"], rows["flickr:0-3"]["caption_by"]) == ("Anna, 1910", "R. Curator")


def test_a_hidden_caption_is_none(archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(capsys, archive.url, "flickr:0-3", "--hide-caption", "--by", "me")[0] == 0
    assert caption_of(archive, "flickr:0-3") == (None, None, "me")
    index.build(archive, index.IndexSettings())
    assert caption_of(archive, "flickr:0-3") == (None, None, "me")
    assert command(capsys, archive.url, "flickr:0-3", "--caption", "shown again", "--by", "me")[0] == 0
    assert caption_of(archive, "flickr:0-3") == ("shown again", None, "me")


def test_the_log_says_who_and_when(archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    command(capsys, archive.url, "flickr:0-3", "--caption", "“Anna” – 1910", "--by", "me")
    [row] = archive.table("changes").read(0).to_pylist()
    assert (row["row_id"], row["field"], json.loads(row["value"]), row["by"]) == (3, "caption", "“Anna” – 1910", "me")
    assert row["observed_at"] is not None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["flickr:none", "--caption", "a"], "holds no photo flickr:none"),
        (["flickr:0-3"], "either --caption TEXT or --hide-caption"),
        (["flickr:0-3", "--caption", "a", "--hide-caption"], "either --caption TEXT or --hide-caption"),
        (["flickr:0-3", "--caption", " "], "--hide-caption"),
        (["flickr:0-3", "--caption", "a", "--by", "source"], "--by"),
        (["a boat", "--caption", "a"], "names no photo"),
    ],
)
def test_mistakes_are_one_line(
    archive: Archive, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    code, said, error = command(capsys, archive.url, *arguments)
    assert code == 2 and not said and told in error and error.count("\n") == 1
    assert archive.changes() == {}


def test_what_is_forgotten_is_not_corrected(archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    forget.forget(archive, ["flickr:0-3"], "asked")
    code, _, error = command(capsys, archive.url, "flickr:0-3", "--caption", "a")
    assert code == 2 and "is forgotten" in error
