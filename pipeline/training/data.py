"""What a training learns from: pictures and their texts, from an archive's tables or from data as the field has it.

A photo without a text, or without a usable picture, is no row; how many there are, and why, is told. Rows are ordered
by photo id, so that all machines see the same ones.
"""

import contextlib
import hashlib
import itertools
import logging
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import config, console, facts, imaging, schemas, storage, words
from pipeline.archive import Archive, Table, rows_in
from pipeline.evaluation import labelled
from pipeline.evaluation import texts as written
from pipeline.evaluation.recall import Shown
from pipeline.photo import UserError
from pipeline.sources.folder import FolderSource, Walk
from pipeline.stages import contents
from pipeline.training.decoded import Block, Decoder, Fit, Held, squares
from pipeline.training.examples import Examples, Joined
from pipeline.training.scenes import Scenes
from pipeline.training.settings import AnyData, ArchiveData, CaptionedData, LabelledData, ScenesData

FEWEST = 4  # photos: with fewer there is nothing to tell apart, and nothing to validate with
FILES = 256  # in a block
MOST_PIXELS = 100_000_000  # of files that nobody has checked
COLUMNS = ("row_id", "photo_id", "title", "description", "tags", "machine_tags", "human_captions", "caption")

log = logging.getLogger(__name__)

Texts = tuple[tuple[str, ...], ...]  # of a photo: of each kind, those that there are; never empty


@dataclass
class Photos:
    """Rows that have a text and a picture. `squares` uint8[pictures, side, side, 3] holds them at `places`, int64[n].

    `notes`: what was left out and what was odd, a line each.
    """

    ids: Sequence[str]
    texts: Sequence[Texts]
    captions: Sequence[str | None]
    squares: np.ndarray
    places: np.ndarray
    notes: Sequence[str] = ()
    together: int = 1
    side: int = field(init=False)

    def __post_init__(self) -> None:
        self.side = self.squares.shape[1]

    def claims(self, row: int) -> Collection[str]:
        return set(itertools.chain(*self.texts[row]))

    def draw(self, row: int, dice: random.Random) -> str:
        """A kind of text by chance, then one of that kind: thirty tags are not to drown one title."""
        return dice.choice(dice.choice(self.texts[row]))

    def caption(self, row: int) -> str | None:
        return self.captions[row]

    def pixels(self, rows: Sequence[int]) -> np.ndarray:
        return self.squares[self.places[list(rows)]]


@dataclass
class Found:
    """Photos that have a text, before a picture is decoded.

    `place`: which data these are, whatever is in them now; `mark`: what is. Both name the file of squares. `left_out`:
    photos without a text, by why.
    """

    name: str
    place: Sequence[str]
    mark: str
    ids: list[str]
    texts: list[Texts]
    captions: list[str | None]
    blocks: list[Block]
    max_pixels: int = MOST_PIXELS
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


def open_data(settings: AnyData, fit: Fit, side: int, cache_identity: str, shown: Shown) -> Examples:
    """The data that settings name, their pictures decoded into this machine's cache unless they are there.

    Args:
        fit: a picture as the model's own preprocessing fits it, uint8[side, side, 3]; called from several threads
        side: of these squares
        cache_identity: says what `fit` does: another one means other squares
        shown: progress.counted, and where it is to be said

    Raises UserError where there are no texts, no usable pictures, or hardly any.
    """
    match settings:
        case ScenesData():
            return Scenes(settings, side, shown)
        case ArchiveData():
            found = _archive(settings)
        case LabelledData():
            found = _labelled(settings)
        case CaptionedData():
            found = _captioned(settings)
    folder = storage.cache("pixels", _digest([*found.place, cache_identity, str(side)]), found.mark)
    pixels, unusable = squares(folder, found.blocks, Decoder(fit, side, found.max_pixels), shown)
    left_out = found.left_out + Counter(unusable.values())
    told = ", ".join(f"{why} {number:,}" for why, number in left_out.most_common())
    order = sorted(set(range(len(found.ids))) - unusable.keys(), key=found.ids.__getitem__)
    if len(order) < FEWEST:
        raise UserError(
            f"{found.name} gives {len(order)} photos to learn from, and {FEWEST} are the fewest"
            + (f" (left out: {told})" if told else "")
        )
    notes = [
        *found.notes,
        *([f"left out {left_out.total():,} of {left_out.total() + len(order):,} photos: {told}"] if told else []),
    ]
    for note in notes:
        log.warning("%s: %s", found.name, note)
    return Photos(
        [found.ids[place] for place in order],
        [found.texts[place] for place in order],
        [found.captions[place] for place in order],
        pixels,
        np.array(order, np.int64),
        notes,
    )


def open_all(data: Sequence[AnyData], fit: Fit, side: int, cache_identity: str, shown: Shown) -> Joined:
    """All of some data as one; see `open_data`."""
    opened = [(open_data(asked, fit, side, cache_identity, shown), asked.templates) for asked in data]
    return Joined(opened, [asked.known for asked in data])


def _digest(told: Iterable[str]) -> str:
    """A short name of texts, in their order."""
    digest = hashlib.sha256()
    for text in told:
        digest.update(f"{len(text)} {text}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:24]


def _as_one() -> Callable[[str], str]:
    """Gives of texts that differ in case and space alone the first that came, as `evaluate` takes them for one."""
    spelled: dict[str, str] = {}
    return lambda text: spelled.setdefault(written.folded(text), " ".join(text.split()))


# --- an archive -------------------------------------------------------------------------------------------------------


def _archive(settings: ArchiveData) -> Found:
    """Live photos, as their tables and changes say today. Their pictures are those that `annotate` embeds."""
    archive = Archive.open(console.archive_url(settings.archive))
    images, spelled = archive.table("images"), _as_one()
    found = Found(archive.url, ("archive", storage.absolute(archive.url), settings.where or ""), "", [], [], [], [])
    found.max_pixels = imaging.PILLOW_CEILING  # fetch has judged them
    row_ids = []
    for row in _rows(archive, settings):
        texts = {kind: [spelled(text) for text in _said(row, kind) if text.strip()] for kind in settings.texts}
        if not any(texts.values()):
            found.left_out["no text"] += 1
            continue
        row_ids.append(row["row_id"])
        found.ids.append(row["photo_id"])
        found.texts.append(tuple(tuple(dict.fromkeys(some)) for some in texts.values() if some))
        found.captions.append(next((some[0] for kind, some in texts.items() if some and kind != "tags"), None))
    if not row_ids:
        raise UserError(f"no photo of {archive.url} that is looked at has any of the texts {', '.join(settings.texts)}")
    held = np.array(row_ids, np.int64)
    parts = np.unique(held >> schemas.ROW_BITS).tolist()
    # Row ids alone would not tell an archive from another that was made in its place.
    found.mark = _digest([*map(str, row_ids), *(images.receipt(part)["write_id"] for part in parts)])
    first = 0
    for part in parts:
        here = rows_in(held, part)
        found.blocks.append(Block(range(first, first + len(here)), partial(_stored, images, part, here)))
        first += len(here)
    return found


def _rows(archive: Archive, settings: ArchiveData) -> Iterator[dict[str, Any]]:
    """Rows of photos by row id, as an index build made now would have them: COLUMNS, with people's captions in the
    place of machines', of those that `where` keeps. Raises UserError."""
    if settings.captions is not None and not archive.table(f"captions/{settings.captions}").parts():
        there = [name.partition("/")[2] for name in archive.tables() if name.startswith("captions/")]
        told = f"it has {', '.join(there)}" if there else "it has none"
        raise UserError(f"{archive.url} has no captions table {settings.captions!r}: {told}")
    live = contents.everything(archive, archive.table("images").parts())
    said = {"captions": settings.captions} if settings.captions else {}
    with tempfile.TemporaryDirectory(prefix="tintype-") as folder:
        contents.write_photos(archive, live, said, Path(folder) / "photos.parquet")
        with contextlib.closing(facts.database([Path(folder)], np.empty(0, np.int64))) as database:
            kept = None if settings.where is None else set(facts.matching(database, [settings.where]).tolist())
            if kept is not None and not kept:
                raise UserError(f"where: {settings.where!r} keeps no photo of {archive.url}")
            cursor = database.execute(f"SELECT {', '.join(COLUMNS)} FROM photos ORDER BY row_id")
            while rows := cursor.fetchmany(contents.GROUP_ROWS):
                yield from (dict(zip(COLUMNS, row, strict=True)) for row in rows if kept is None or row[0] in kept)


def _said(row: Mapping[str, Any], kind: str) -> Sequence[str]:
    """The texts of a kind that a photo has."""
    match kind:
        case "title":
            return [] if written.says_nothing(row["title"], row["photo_id"]) else [row["title"]]
        case "description":
            return [words.plain(row["description"] or "")]
        case "captions":
            return [row["caption"] or ""]
        case "tags":
            machine = row["machine_tags"] or ()  # Flickr's are among the tags as well
            return [tag for tag in row["tags"] or () if tag not in machine]
        case _:
            return row["human_captions"] or []


def _stored(images: Table, part: int, row_ids: np.ndarray) -> Iterator[Held]:
    """The bytes of rows of a part, int64[n], ascending; a row group at a time is in memory."""
    wanted = set(row_ids.tolist())
    for batch in images.batches(part, ["row_id", "image"]):
        for row_id, image in zip(batch["row_id"].to_pylist(), batch["image"], strict=True):
            if row_id in wanted:
                held = image.as_py()
                yield held and held["bytes"]


# --- files ------------------------------------------------------------------------------------------------------------


def _labelled(settings: LabelledData) -> Found:
    """Pictures and the names of their classes. No captions: a captioner that wrote names would unlearn sentences."""
    names = config.read_lines(settings.classes) if settings.classes else ()
    found = labelled.read(settings.path, names, part="train")
    root = Path(settings.path).expanduser()
    ids, held, marks = [], list[Held](), []
    for number, picture in enumerate(found.pictures):
        if isinstance(picture, Path):
            ids.append(f"file:{picture.relative_to(root).as_posix()}")
            held.append(picture.read_bytes)
            marks.append(f"{ids[-1]} {_stamp(picture)}")
        else:
            ids.append(f"{settings.path.partition(':')[0]}:train/{number:05d}")
            held.append(picture)
            marks.append(hashlib.sha256(picture.tobytes()).hexdigest())
    texts: list[Texts] = [((found.names[number],),) for number in found.truth]
    nothing: list[str | None] = [None] * len(ids)
    place = ("labelled", storage.absolute(settings.path))
    return Found(settings.path, place, _digest(marks), ids, texts, nothing, _in_blocks(held))


def _captioned(settings: CaptionedData) -> Found:
    """Pictures of a folder with the captions that files beside them tell, as the folder source reads them."""
    source, spelled = FolderSource(settings.path), _as_one()
    source.check()
    walk = Walk(source.root)
    found = Found(settings.path, ("captioned", source.root), "", [], [], [], [])
    held, paths = list[Held](), []
    for path, told in walk.pictures():
        texts = tuple(dict.fromkeys(spelled(text) for text in told.captions if text.strip()))
        if not texts:
            found.left_out["no text"] += 1
            continue
        paths.append(path)
        found.ids.append(f"file:{path}")
        found.texts.append((texts,))
        found.captions.append(texts[0])
        held.append(partial(storage.read, storage.join(source.root, path)))
    found.notes += walk.notes()
    if not paths:
        raise UserError(f"no file beside the pictures in {settings.path} has captions of them; see docs/evaluation.md")
    found.mark = _digest(f"{path} {stamp}" for path, stamp in zip(paths, _stamps(source.root, paths), strict=True))
    found.blocks = _in_blocks(held)
    return found


def _in_blocks(held: Sequence[Held]) -> list[Block]:
    """Pictures in the order of their places, in blocks."""
    starts = range(0, len(held), FILES)
    return [
        Block(range(start, min(start + FILES, len(held))), partial(iter, held[start : start + FILES]))
        for start in starts
    ]


def _stamps(root: str, paths: Sequence[str]) -> Iterator[str]:
    """What tells each file from one put in its place."""
    if storage.is_local(root):
        yield from (_stamp(Path(root, path)) for path in paths)
        return
    fs, there = storage.filesystem(root)
    found = fs.find(there, detail=True)
    for path in paths:
        entry = found.get(f"{there.rstrip('/')}/{path}", {})
        yield f"{entry.get('size')} {entry.get('ETag') or entry.get('etag') or entry.get('mtime')}"


def _stamp(path: Path) -> str:
    try:
        told = path.stat()
    except OSError:  # a link to nowhere: the decoder says so
        return "unreadable"
    return f"{told.st_size} {told.st_mtime_ns}"
