"""Files that tell of the pictures beside and below them: captions.jsonl, metadata.csv, Flickr8k's two layouts."""

import csv
import io
import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline import storage
from pipeline.sources.facts import Facts

# The nearer the front, the more it is believed where two tell of the same picture.
NAMES = ("captions.jsonl", "captions.csv", "metadata.jsonl", "metadata.csv", "captions.txt", "Flickr8k.token.txt")
FLICKR8K_TEXT = "Flickr8k_text"  # the folder that Flickr8k.token.txt comes in, beside the pictures' folder

# A file that tells of "a.jpg" may lie beside one of these that holds it.
PICTURE_FOLDERS = ("images", "pictures", "photos", "flicker8k_dataset", "flickr8k_dataset")

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
    """One such file. `facts` and `unmatched` go by the paths that it uses: relative to the folder it lies in."""

    name: str
    facts: dict[str, Facts] = field(default_factory=dict)
    unmatched: set[str] = field(default_factory=set)
    bad_lines: int = 0

    def find(self, path: str) -> Facts | None:
        """What it tells of the picture at `path`, relative to the folder the file lies in."""
        path = unicodedata.normalize("NFC", path)
        folder, _, name = path.rpartition("/")
        for key in (path, name) if folder.lower() in PICTURE_FOLDERS else (path,):
            if key in self.facts:
                self.unmatched.discard(key)
                return self.facts[key]
        return None

    def complaint(self) -> str | None:
        """What is wrong with it, in a few words, once all pictures below it have been looked up."""
        wrong = []
        if self.unmatched:
            wrong.append(f"names {len(self.unmatched)} files that are not there, such as {min(self.unmatched)}")
        if self.bad_lines:
            wrong.append(f"has {self.bad_lines} lines that cannot be read")
        return f"{self.name} {' and '.join(wrong)}" if wrong else None


def read(folder: str, name: str) -> Sidecar:
    """The sidecar `name` (one of NAMES, or within FLICKR8K_TEXT) of the folder at a URL or path."""
    sidecar = Sidecar(name)
    text = storage.read(storage.join(folder, name)).decode("utf-8-sig", "replace")
    rows = {"jsonl": _json_lines, "csv": _table, "txt": _table}[name.rpartition(".")[2]]
    for row in _tokens(text) if name.endswith("token.txt") else rows(text):
        file, facts = _facts(row) if row else (None, Facts())
        if file is None:
            sidecar.bad_lines += 1
            continue
        before = sidecar.facts.get(file, Facts())
        sidecar.facts[file] = replace(before.or_else(facts), captions=before.captions + facts.captions)
    sidecar.unmatched = set(sidecar.facts)
    return sidecar


def _json_lines(text: str) -> Iterator[dict[str, Any] | None]:
    """The objects of JSON Lines; None for a line that holds none."""
    for line in text.splitlines():
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            yield row if isinstance(row, dict) else None


def _table(text: str) -> Iterator[dict[str, Any] | None]:
    """The rows of a CSV file with a header."""
    csv.field_size_limit(2**30)
    reader = csv.DictReader(io.StringIO(text.replace("\0", ""), newline=""))
    for row in reader:
        more = row.pop(None, None)  # type: ignore[call-overload]  # where csv puts what has no column
        if more:  # Flickr8k's captions hold commas and no quotes
            last = reader.fieldnames[-1] if reader.fieldnames else ""
            row[last] = ",".join([row[last], *more])
        yield row


def _tokens(text: str) -> Iterator[dict[str, Any] | None]:
    """The lines of Flickr8k.token.txt: "name.jpg#0<tab>caption"."""
    for line in text.splitlines():
        name, tab, caption = line.partition("\t")
        yield {"file": name.rpartition("#")[0], "caption": caption} if tab and "#" in name else None


def _facts(row: dict[str, Any]) -> tuple[str | None, Facts]:
    """(the file that a row tells of, what it tells); no file where it names none."""
    file = _text(_told(row)["file"])
    if file is None:
        return None, Facts()
    return unicodedata.normalize("NFC", file.replace("\\", "/").removeprefix("./")), facts_of(row)


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
        raw=json.dumps(row, ensure_ascii=False, default=str),
    )


def _told(row: dict[str, Any]) -> dict[str, Any]:
    lower = {str(key).strip().lower(): value for key, value in row.items()}
    return {ours: next((lower[key] for key in keys if lower.get(key)), None) for ours, keys in KEYS.items()}


def _text(value: Any) -> str | None:
    """A value that should be text, as text; lists of creators and the like in one line."""
    if isinstance(value, list):
        value = "; ".join(_texts(value))
    return None if value is None or isinstance(value, dict) else str(value).strip() or None


def _texts(value: Any) -> tuple[str, ...]:
    """A value that should be a list of texts; one text makes a list of one."""
    values = value if isinstance(value, list) else [value]
    return tuple(text for text in map(_text, values) if text)
