"""Files that tell of the pictures beside and below them: captions.jsonl, metadata.csv, Flickr8k's layouts, COCO's."""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from pipeline import storage
from pipeline.sources import coco
from pipeline.sources.facts import Facts, storable

# The nearer the front, the more it is believed where two tell of the same picture.
TOKENS = ("Flickr8k.token.txt", "results_20130124.token")  # Flickr8k's and Flickr30k's
NAMES = ("captions.jsonl", "captions.csv", "metadata.jsonl", "metadata.csv", "captions.txt", *TOKENS)
COCO = re.compile(r"captions(_\w+)?\.json")  # "captions_val2014.json"
FOLDERS = ("Flickr8k_text", "Flickr_TextData", "annotations")  # that TOKENS and COCO come in, beside the pictures'

# A file that tells of "a.jpg" may lie beside one of these that holds it, or within another of them.
PICTURE_FOLDERS = (
    *("images", "pictures", "photos", "flicker8k_dataset", "flickr8k_dataset", "flickr30k-images", "flickr30k_images"),
    *("train2014", "val2014", "test2014", "test2015", "train2017", "val2017", "test2017"),
)

# What columns of captions.txt are called in copies of Flickr30k; elsewhere a "comment" need not tell what is seen.
FLICKR30K = {"image_name": "image", "comment": "caption"}

# Our name for a fact: what people call it, the first that is there counts.
KEYS = {
    "file": ("file", "file_name", "filename", "image", "path"),
    "title": ("title",),
    "description": ("description",),
    "captions": ("captions", "human_captions", "caption", "text"),
    "creator": ("creator", "author", "photographer", "artist", "owner"),
    "date": ("date", "date_taken", "date_created"),
    "licence": ("licence", "license", "license_url", "rights"),
    "page_url": ("page_url", "source_url", "url"),
    "tags": ("tags", "keywords"),
}


@dataclass
class Sidecar:
    """One such file. `facts`, `unmatched` and `beside` go by the paths that it uses: relative to the folder it lies in.

    `beside`: those that are files right there, which what it tells is of, and not of their namesakes further below.
    """

    name: str
    facts: dict[str, Facts] = field(default_factory=dict)
    unmatched: set[str] = field(default_factory=set)
    beside: set[str] = field(default_factory=set)
    bad_lines: int = 0
    unreadable: bool = False  # as a whole

    def find(self, path: str) -> Facts | None:
        """What it tells of the picture at `path`, relative to the folder the file lies in."""
        path = unicodedata.normalize("NFC", path)
        folder, _, name = path.rpartition("/")
        by_name = name not in self.beside and set(folder.lower().split("/")).issubset(PICTURE_FOLDERS)
        for key in (path, name) if by_name else (path,):
            if key in self.facts:
                self.unmatched.discard(key)
                return self.facts[key]
        return None

    def complaint(self) -> str | None:
        """What is wrong with it, in a few words, once all pictures below it have been looked up."""
        wrong = ["holds no captions as COCO has them"] if self.unreadable else []
        if self.unmatched:
            wrong.append(f"names {len(self.unmatched)} files that are not there, such as {min(self.unmatched)}")
        if self.bad_lines:
            wrong.append(f"has {self.bad_lines} {'entries' if is_coco(self.name) else 'lines'} that cannot be read")
        return f"{self.name} {' and '.join(wrong)}" if wrong else None


def is_sidecar(name: str) -> bool:
    """Whether a file of this name tells of pictures."""
    return name in NAMES or is_coco(name)


def is_coco(name: str) -> bool:
    return COCO.fullmatch(name.rpartition("/")[2]) is not None


def from_beside(name: str) -> bool:
    """Whether a file of this name, in one of FOLDERS, tells of pictures beside that folder, not in it."""
    return name in TOKENS or is_coco(name)


def read(folder: str, name: str, entries: Collection[str] = ()) -> Sidecar:
    """The sidecar `name` (as `is_sidecar` knows it, or such a one within one of FOLDERS) of the folder at a URL.

    `entries`: names of what else is in that folder.
    """
    sidecar = Sidecar(name)
    data = storage.read(storage.join(folder, name))
    # What Windows calls Unicode.
    text = data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig", "replace")
    try:
        for told in coco.read(text) if is_coco(name) else map(_facts, _rows(name, text)):
            if told is None:
                sidecar.bad_lines += 1
                continue
            file, facts = _path(told[0]), told[1]
            before = sidecar.facts.get(file, Facts())
            sidecar.facts[file] = replace(before.or_else(facts), captions=before.captions + facts.captions)
    except (ValueError, RecursionError):  # a whole JSON file that is none, or another
        sidecar.unreadable = True
    sidecar.unmatched = set(sidecar.facts)
    sidecar.beside = sidecar.unmatched.intersection(map(_path, entries))
    return sidecar


def _rows(name: str, text: str) -> Iterator[dict[str, Any] | None]:
    """The rows of a sidecar's text; None for a line that holds none."""
    if name.rpartition("/")[2] in TOKENS:
        return _tokens(text)
    return {"jsonl": _json_lines, "csv": _table, "txt": _captions_txt}[name.rpartition(".")[2]](text)


def _lines(text: str) -> Iterator[str]:
    """Lines that hold something. str.splitlines would break them at U+2028 and others, which captions may hold."""
    return (line.rstrip("\n") for line in io.StringIO(text, newline=None) if line.strip())


def _json_lines(text: str) -> Iterator[dict[str, Any] | None]:
    """The objects of JSON Lines; None for a line that holds none."""
    for line in _lines(text):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        yield row if isinstance(row, dict) else None


def _table(text: str) -> Iterator[dict[str, Any] | None]:
    """The rows of a CSV file with a header."""
    csv.field_size_limit(2**30)
    reader = csv.DictReader(io.StringIO(text.replace("\0", ""), newline=""))
    for row in reader:
        more = row.pop(None, None)  # type: ignore[call-overload]  # where csv puts what has no column
        if more:  # commas in the last column that nobody quoted
            last = reader.fieldnames[-1] if reader.fieldnames else ""
            row[last] = ",".join([row[last], *more])
        yield row


def _captions_txt(text: str) -> Iterator[dict[str, Any] | None]:
    """The lines of captions.txt: "name.jpg,caption" below a header, or without one.

    Some copies quote captions with commas and quotes as CSV does, others quote nothing: what is no CSV as it stands is
    taken as it stands, so that a lone quote does not swallow the lines after it.
    """
    lines = list(_lines(text.replace("\0", "")))
    mark, names, headed = _columns(lines[0] if lines else "")
    for line in lines[headed:]:
        cells = _cells(line, mark)
        if len(cells) != len(names):
            cells = line.split(mark, len(names) - 1)
        yield dict(zip(names, cells, strict=True)) if len(cells) == len(names) else None


def _columns(first: str) -> tuple[str, list[str], bool]:
    """Of captions.txt by its first line: what stands between cells, their names, and whether that line is a header."""
    mark = "," if "," in first.partition("|")[0] else "|" if "|" in first else ","
    cells = [cell.strip() for cell in _cells(first, mark) or first.split(mark)]
    if not PurePosixPath(cells[0]).suffix:
        return mark, [FLICKR30K.get(cell.lower(), cell) for cell in cells], True
    numbered = len(cells) > 2 and cells[1].isdigit()
    return mark, ["image", "number", "caption"] if numbered else ["image", "caption"], False


def _cells(line: str, mark: str) -> list[str]:
    """A line of CSV; none where it is not."""
    try:
        [cells] = csv.reader([line], delimiter=mark, skipinitialspace=True, strict=True)
    except (csv.Error, ValueError):
        return []
    return cells


def _tokens(text: str) -> Iterator[dict[str, Any] | None]:
    """The lines of Flickr8k.token.txt: "name.jpg#0<tab>caption"."""
    for line in _lines(text):
        name, tab, caption = line.partition("\t")
        yield {"file": name.rpartition("#")[0], "caption": caption} if tab and "#" in name else None


def _path(file: str) -> str:
    """A picture's path as it is compared: accents composed, slashes forward."""
    return unicodedata.normalize("NFC", storable(file).replace("\\", "/").removeprefix("./"))


def _facts(row: dict[str, Any] | None) -> tuple[str, Facts] | None:
    """(the file that a row tells of, what it tells); None where it names none."""
    try:
        file = _text(_told(row)["file"]) if row else None
        return None if file is None or row is None else (file, facts_of(row))
    except RecursionError:  # lists in lists in lists
        return None


def facts_of(row: dict[str, Any]) -> Facts:
    """What a row tells of its picture, by whichever of the names in KEYS."""
    told = _told(row)
    tags, page_url = told["tags"], _text(told["page_url"])
    if isinstance(tags, str):
        tags = tags.split(";" if ";" in tags else ",")
    return Facts(
        title=_text(told["title"]),
        description=_text(told["description"]),
        captions=_texts(told["captions"]),
        creator=_text(told["creator"]),
        date=_text(told["date"]),
        licence=_text(told["licence"]),
        page_url=page_url if page_url and page_url.startswith(("http://", "https://")) else None,
        tags=_texts(tags),
        raw=storable(json.dumps(row, ensure_ascii=False, default=str)),
    )


def _told(row: dict[str, Any]) -> dict[str, Any]:
    lower = {str(key).strip().lower(): value for key, value in row.items()}
    return {ours: next((lower[key] for key in keys if lower.get(key)), None) for ours, keys in KEYS.items()}


def _text(value: Any) -> str | None:
    """A value that should be text, as text; lists of creators and the like in one line."""
    if isinstance(value, list):
        value = "; ".join(_texts(value))
    return None if value is None or isinstance(value, dict) else storable(str(value)).strip() or None


def _texts(value: Any) -> tuple[str, ...]:
    """A value that should be a list of texts; one text makes a list of one."""
    values = value if isinstance(value, list) else [value]
    return tuple(text for text in map(_text, values) if text)
